/**
 * ARP (RFC 826) for IPv4 on Ethernet: offsets in bytes from the first one behind the Ethernet header. Constants alone,
 * so that esbuild inlines them.
 */

export const ARP_HARDWARE = 0;
export const ARP_PROTOCOL = 2;
export const ARP_HARDWARE_LENGTH = 4;
export const ARP_PROTOCOL_LENGTH = 5;
export const ARP_OPERATION = 6;
export const ARP_SENDER_MAC = 8;
export const ARP_SENDER = 14;
export const ARP_TARGET_MAC = 18;
export const ARP_TARGET = 24;
/** Bytes of it, without padding. */
export const ARP_BYTES = 28;

/** Hardware type, and operations. */
export const ARP_ETHERNET = 1;
export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;
