/**
 * Layout of the session and host records. Only constants and no imports stand here, because then esbuild inlines them:
 * read as module variables they cost the fast loops a third of their speed (QuickJS looks each one up).
 *
 * Record (32-bit words; halfwords in memory order):
 *
 *   0 internal address          1 peer address
 *   2 ports as an outbound packet has them (inside, peer)    3 ports as an inbound packet has them (peer, external);
 *     the peer's is another one in 2 only with nat/renamed-peer.ts
 *   4 protocol | external address number << 8 | state << 16 | flags << 21 | next hop number << 24
 *   5 delta of the address | delta of address and port << 16 (outbound; inbound is the complement)
 *   6 last use (half), host number (half)                    7 list: previous, next (halves)
 *   8 chains: next by outbound key, next by inbound key (halves)
 *   9 last acknowledgment number from inside                10 the same from the peer        (TCP, raw)
 *  11 packets out 12 packets in (31 bits each) 13 bytes out 14 bytes in (30 bits each) 15 of a live session: bytes out,
 *  in: high part (halves); of one that may make room: previous, next in its host's list of those (halves)
 */

export const RECORD_WORDS = 16;
/** Record number << this: index of its first word, of its first halfword. */
export const RECORD_SHIFT = 4;
export const HALF_SHIFT = 5;
export const R_INTERNAL = 0;
export const R_PEER = 1;
export const R_OUT = 2;
export const R_IN = 3;
export const R_META = 4;
export const R_DELTA = 5;
export const R_ACK_OUT = 9;
export const R_ACK_IN = 10;
export const R_PACKETS_OUT = 11;
export const R_PACKETS_IN = 12;
export const R_BYTES_OUT = 13;
export const R_BYTES_IN = 14;
/** Halfword offsets from the record's first halfword. */
export const R_LAST = 12;
export const R_HOST = 13;
export const R_PREVIOUS = 14;
export const R_NEXT = 15;
export const R_CHAIN_OUT = 16;
export const R_CHAIN_IN = 17;
export const R_HIGH_OUT = 30;
export const R_HIGH_IN = 31;

/** Bit fields of word R_META. */
export const EXTERNAL_SHIFT = 8;
export const STATE_SHIFT = 16;
export const STATE_MASK = 0x1f;
export const HOP_SHIFT = 24;
/** The session goes by a port forward and ends with it. */
export const FORWARDED = 1 << 23;
/** ICMP queries and protocols without ports: the peer has answered. */
export const ANSWERED = 1 << 21;
/**
 * TCP: an ALG (nat/alg.ts), or who changes the peer's port (nat/renamed-peer.ts), looks at every segment; the session
 * is TCP_INSPECTED where others are TCP_ESTABLISHED.
 */
export const ALG_INSPECTED = 1 << 21;
/** TCP: its sequence numbers have been moved, so that without the ALG's memory it cannot go on. */
export const MOVED = 1 << 22;

/**
 * How far beyond the expected sequence number a RST may be: one unscaled window. A later one is provoked again by the
 * next segment.
 */
export const RESET_WINDOW = 65535;

/** Both of the high halves. */
export const R_HIGHS = 15;
/** Links of the list of sessions of one host that may make room; they stand where the high parts are. */
export const R_SPARE_PREVIOUS = 30;
export const R_SPARE_NEXT = 31;

/** Bytes of a byte counter's low word before it carries into the high half. */
export const BYTES_CARRY = 0x40000000;
/** Packets of a packet counter before it carries; what is beyond stands in the table's large counters. */
export const PACKETS_CARRY = 0x80000000;

// ---- host record (hosts.ts) ----
/** Words and halfwords of a host record; host number << HOST_SHIFT is the index of its first word. */
export const HOST_WORDS = 4;
export const HOST_HALVES = 8;
export const HOST_SHIFT = 2;
/** Word offsets of a host record. */
export const HOST_ADDRESS = 0;
export const HOST_PLACE = 1;
/**
 * Sessions opened in a second | that second (8 bits) << 16 | number of the external address of a pool that it keeps to
 * << 24.
 */
export const HOST_OPENED = 2;
/** Halfword offsets of a host record. */
export const HOST_SESSIONS = 6;
export const HOST_NEXT = 7;
/** Shift of the LAN port number in word HOST_PLACE, and its flags above it. */
export const HOST_PORT_SHIFT = 16;
/** Its link header is known (always set on ports without one). */
export const HOST_REACHABLE = 1 << 24;
/**
 * Its link header was looked at lately: set together with HOST_REACHABLE, and taken away now and then so that the next
 * frame looks again.
 */
export const HOST_FRESH = 1 << 27;
/** Its link header is what a frame of its own said; the kernel has not confirmed it. */
export const HOST_HEARD = 1 << 28;
/** Filtering of the host's mappings (RFC 4787 REQ-8); neither bit: address- and port-dependent. */
export const HOST_EIF = 1 << 25;
export const HOST_ADF = 1 << 26;
