/**
 * Layout of the flow cache's memory: one value of an array map, which programs and engine share. Only constants and no
 * imports stand here, so that esbuild inlines them.
 *
 *     header               word 0: now, seconds modulo 2^32, as the engine wrote it when it was last awake; word 1:
 *                          sign of life, see program.ts "deadman"; byte 64: word "now" when a slot was last found that
 *                          had not been used in it, 0 since the engine last looked; from byte 128: counters of
 *                          identifications given to packets without DF, by a hash of the destination
 *     heads, 4 bytes each  number of the first slot of a chain, 0 for none
 *     slots, 64 bytes each slot 0 is not used
 *
 * A slot is one direction of a session: what a packet must have, what becomes of it, and what has been seen. The other
 * direction is in the slot beside it: even numbers are outbound. Offsets in bytes; addresses, ports and the identifier
 * as the packet has them, the rest in the machine's byte order.
 */

export const CACHE_NOW = 0;
export const CACHE_ALIVE = 4;
/** In a line of its own: many read word "now" and few write this. */
export const CACHE_USED = 64;
export const CACHE_IDS = 128;
/** log2 of their number. */
export const CACHE_IDS_BITS = 8;
export const CACHE_HEADER = 128 + (4 << CACHE_IDS_BITS);

/**
 * Key: source, destination, both ports as the header has them, or an ICMP query's identifier as a number; and
 * {@link SLOT_KIND}.
 */
export const SLOT_SOURCE = 0;
export const SLOT_DESTINATION = 4;
export const SLOT_PORTS = 8;
/** TCP: last acknowledgment number seen, raw. */
export const SLOT_ACK = 12;
/** Next slot of the chain, 0 at its end. */
export const SLOT_NEXT = 16;
/** The address to write: source of an outbound packet, destination of an inbound one. */
export const SLOT_NEW_ADDRESS = 20;
/** The port (identifier) to write with it; half a word. */
export const SLOT_NEW_PORT = 24;
/**
 * IP protocol, and above it the number of the port that such packets come in by: {@link WAN_PORT}, LAN devices from 1
 * on. Half a word. So a packet that comes in by another device than its session's finds nothing, and none is ever taken
 * for one of the other direction.
 */
export const SLOT_KIND = 26;
/** Device to send from. */
export const SLOT_DEVICE = 28;
/** Largest packet of that device, at most 65535; half a word. */
export const SLOT_MTU = 32;
/**
 * Both addresses of the link header, 12 bytes; they stand here so that words in them are aligned as they are in a
 * frame. The type is always that of IPv4.
 */
export const SLOT_LINK = 34;
/** TCP: what has passed, {@link SEEN_FIN} and {@link SEEN_RESET}; a byte. */
export const SLOT_SEEN = 46;
/**
 * TCP, after a reset of either direction: low byte of {@link SLOT_PACKETS} with it, so that it can be told whether more
 * has come since.
 */
export const SLOT_MARK = 47;
/** Last use: the header's word "now" at that time; 0: none since it was entered. */
export const SLOT_LAST = 48;
export const SLOT_PACKETS = 52;
/** Bytes of IPv4, a 64-bit number. */
export const SLOT_BYTES = 56;
export const SLOT_SIZE = 64;

export const WAN_PORT = 0;
/** Most LAN devices that have a number. */
export const PORTS_MAX = 255;

export const SEEN_FIN = 1;
/** The latest reset passed in this direction; FINs seen before it do not count any more. */
export const SEEN_RESET = 2;

/** Slots looked at in one chain; longer chains are not made. */
export const CHAIN_MAX = 8;
