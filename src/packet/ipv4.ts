/**
 * IPv4 header (RFC 791): offsets from its first byte, in bytes; in halfwords where a name ends in _H, in words in _W.
 * No imports and constants alone, so that esbuild inlines them (conntrack/record.ts). Masks of raw words are in
 * layout.ts.
 */

/** Length without options. */
export const IP_HEADER = 20;
export const IP_HEADER_H = 10;
export const IP_HEADER_W = 5;
/** First byte of such a header: version 4, five words. */
export const IP_PLAIN_BYTE = 0x45;

export const IP_TOS = 1;
export const IP_LENGTH = 2;
export const IP_LENGTH_H = 1;
export const IP_ID = 4;
export const IP_ID_H = 2;
/** Flags and fragment offset; the word has the identification too. */
export const IP_FLAGS = 6;
export const IP_FLAGS_H = 3;
export const IP_FLAGS_W = 1;
export const IP_TTL = 8;
/** Hop count, protocol and checksum. */
export const IP_TTL_W = 2;
export const IP_PROTOCOL = 9;
export const IP_SUM = 10;
export const IP_SUM_H = 5;
export const IP_SOURCE = 12;
export const IP_SOURCE_W = 3;
export const IP_DESTINATION = 16;
export const IP_DESTINATION_W = 4;

/** The halfword at IP_FLAGS, in host order; FRAGMENT is both that tell a fragment. */
export const DONT_FRAGMENT = 0x4000;
export const MORE_FRAGMENTS = 0x2000;
export const FRAGMENT_OFFSET = 0x1fff;
export const FRAGMENT = 0x3fff;
/** The first byte there: don't fragment; the offset's part of it. */
export const DF_BYTE = 0x40;
export const OFFSET_BYTE = 0x1f;

/** Initial hop count of what masqd sends itself. */
export const INITIAL_TTL = 64;

/**
 * Of a plain packet, one without options: ports (of all protocols that have some), TCP's numbers, flags and checksum,
 * UDP's checksum.
 */
export const PLAIN_PORTS_W = 5;
export const PLAIN_SOURCE_PORT_H = 10;
export const PLAIN_DESTINATION_PORT_H = 11;
export const PLAIN_TCP_SEQUENCE_W = 6;
export const PLAIN_TCP_ACK_W = 7;
export const PLAIN_TCP_FLAGS_W = 8;
export const PLAIN_TCP_FLAGS_H = 16;
export const PLAIN_TCP_OFFSET = 32;
export const PLAIN_TCP_FLAGS = 33;
export const PLAIN_TCP_SUM_H = 18;
export const PLAIN_UDP_SUM_H = 13;
