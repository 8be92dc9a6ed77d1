/**
 * Ethernet header: offsets in bytes. No imports and constants first, so that esbuild inlines them
 * (conntrack/record.ts).
 */

export const ETHER_HEADER = 14;
export const ETHER_DESTINATION = 0;
export const ETHER_SOURCE = 6;
export const ETHER_TYPE = 12;
export const MAC_BYTES = 6;

/** Types, in host order. */
export const ETH_P_IP = 0x0800;
export const ETH_P_ARP = 0x0806;

/** Bytes of a port's link header, which its virtio headers count. */
export function linkBytes(ethernet: boolean): number {
	return ethernet ? ETHER_HEADER : 0;
}
