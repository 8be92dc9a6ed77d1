/** What a peer is barred from, as bits: sessions that the inside opens, that it opens, and such as there are. */
export const BARRED_OUT = 1;
export const BARRED_IN = 2;
export const BARRED_OPEN = 4;
/** Besides: the host that opens one is told. */
export const BARRED_ALOUD = 8;
