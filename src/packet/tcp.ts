/**
 * TCP header (RFC 9293): offsets as in ipv4.ts, from the header's first byte. Constants alone, so that esbuild inlines
 * them.
 */

/** Length without options. */
export const TCP_HEADER = 20;
export const TCP_SEQUENCE = 4;
export const TCP_SEQUENCE_W = 1;
export const TCP_SEQUENCE_H = 2;
export const TCP_ACK = 8;
export const TCP_ACK_W = 2;
export const TCP_ACK_H = 4;
/** Data offset: its first four bits, in words. */
export const TCP_OFFSET = 12;
/** Data offset and flags; the flags are the low six bits in host order. */
export const TCP_FLAGS_H = 6;
export const TCP_FLAGS = 13;
export const TCP_FLAGS_MASK = 0x3f;
export const TCP_WINDOW_H = 7;
export const TCP_SUM_H = 8;
/** Checksum and urgent pointer. */
export const TCP_SUM_W = 4;

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;
export const CWR = 128;
