/**
 * Layout of the flow cache's memory: one value of an array map, which programs and engine share. Only constants and no imports stand here, so that esbuild inlines them.
 *
 *     header, 64 bytes     word 0: now, seconds modulo 2^32, written by the engine; word 1: sign of life, see program.ts "deadman";
 *                          word 2: identifications given to packets without DF
 *     heads, 4 bytes each  number of the first slot of a chain, 0 for none
 *     slots, 64 bytes each slot 0 is not used
 *
 * A slot is one direction of a session: what a packet must have, what becomes of it, and what has been seen. Offsets in bytes; addresses, ports and the identifier as
 * the packet has them, the rest in the machine's byte order.
 */

export const CACHE_NOW = 0;
export const CACHE_ALIVE = 4;
export const CACHE_IDS = 8;
export const CACHE_HEADER = 64;

/** Key: source, destination, then both ports as the header has them, or an ICMP query's identifier as a number. */
export const SLOT_SOURCE = 0;
export const SLOT_DESTINATION = 4;
export const SLOT_PORTS = 8;
/** TCP: last acknowledgment number seen, as loaded. */
export const SLOT_ACK = 12;
/** Next slot of the chain, 0 at its end. */
export const SLOT_NEXT = 16;
/** The address to write: source of an outbound packet, destination of an inbound one. */
export const SLOT_NEW_ADDRESS = 20;
/** The port (identifier) to write with it; half a word. */
export const SLOT_NEW_PORT = 24;
/** IP protocol; a byte. */
export const SLOT_PROTOCOL = 26;
/** TCP: 1 when a FIN has been seen; a byte. */
export const SLOT_FINISHED = 27;
/** Device to send from. */
export const SLOT_DEVICE = 28;
/** Largest packet of that device, at most 65535; half a word. */
export const SLOT_MTU = 32;
/** Link header, 14 bytes; stands here so that words in it are aligned as they are in a frame. */
export const SLOT_LINK = 34;
/** Last use: the header's word "now" at that time. */
export const SLOT_LAST = 48;
export const SLOT_PACKETS = 52;
/** Bytes of IPv4, a 64-bit number. */
export const SLOT_BYTES = 56;
export const SLOT_SIZE = 64;

/** Slots looked at in one chain; longer chains are not made. */
export const CHAIN_MAX = 8;
