/** What bpf(2) asks for. */
export const CAP_PERFMON = 38;
export const CAP_BPF = 39;
