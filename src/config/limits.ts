/** LANs: each has up to three descriptors in the daemon's poll set, which is of fixed size. */
export const MAX_LANS = 64;
