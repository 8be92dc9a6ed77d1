/**
 * ARP (RFC 826) for external addresses that are not an interface's own: static NAT and pool addresses on an Ethernet WAN.
 * The kernel does not know these addresses, so it answers no request for them; masqd does.
 *
 * Frame: Ethernet header (14 bytes), then hardware type, protocol type, address lengths and operation, then sender and target
 * as pairs of MAC and IPv4 address. `arpFilter` in filter.ts is the socket filter that goes with it.
 */

const ETHER_DESTINATION = 0;
const ETHER_SOURCE = 6;
const ETHER_TYPE = 12;
const HARDWARE_TYPE = 14;
const PROTOCOL_TYPE = 16;
const HARDWARE_LENGTH = 18;
const PROTOCOL_LENGTH = 19;
const OPERATION = 20;
const SENDER_MAC = 22;
const SENDER_ADDRESS = 28;
const TARGET_MAC = 32;
const TARGET_ADDRESS = 38;

/** Bytes of an ARP frame without padding. */
export const ARP_FRAME = 42;

const ETHERTYPE_ARP = 0x0806;
const ETHERTYPE_IP = 0x0800;
const ETHERNET = 1;
const REQUEST = 1;
const REPLY = 2;
const MAC = 6;
const GROUP_BIT = 0x01;

/**
 * Turns an ARP request for one of our addresses into the reply, in place; send the first {@link ARP_FRAME} bytes of it.
 *
 * Not answered: what is no well-formed request, a sender with a group MAC address, and an announcement of the address by
 * another station (sender and target the same, RFC 5227 2.3), which asks nothing. A probe (sender 0.0.0.0, RFC 5227 2.1.1)
 * is answered: that is how an address is defended.
 *
 * @param frame - the frame from its Ethernet header on.
 * @param length - bytes received.
 * @param owned - whether an address (dotted value) is ours to answer for.
 * @param mac - the 6 bytes to answer with: the device's own.
 * @returns false, with the frame untouched, if there is nothing to send.
 */
export function arpReply(frame: Uint8Array, length: number, owned: (address: number) => boolean, mac: Uint8Array): boolean {
	if (length < ARP_FRAME || frame.length < ARP_FRAME) return false;
	const view = new DataView(frame.buffer, frame.byteOffset, ARP_FRAME);
	if (view.getUint16(ETHER_TYPE) !== ETHERTYPE_ARP || view.getUint16(OPERATION) !== REQUEST) return false;
	if (view.getUint16(HARDWARE_TYPE) !== ETHERNET || view.getUint16(PROTOCOL_TYPE) !== ETHERTYPE_IP) return false;
	if (view.getUint8(HARDWARE_LENGTH) !== MAC || view.getUint8(PROTOCOL_LENGTH) !== 4) return false;
	if ((view.getUint8(SENDER_MAC) & GROUP_BIT) !== 0) return false;
	const target = view.getUint32(TARGET_ADDRESS);
	const sender = view.getUint32(SENDER_ADDRESS);
	if (target === sender || !owned(target)) return false;
	frame.copyWithin(ETHER_DESTINATION, SENDER_MAC, SENDER_MAC + MAC);
	frame.copyWithin(TARGET_MAC, SENDER_MAC, SENDER_MAC + MAC);
	frame.set(mac, ETHER_SOURCE);
	frame.set(mac, SENDER_MAC);
	view.setUint16(OPERATION, REPLY);
	view.setUint32(SENDER_ADDRESS, target);
	view.setUint32(TARGET_ADDRESS, sender);
	return true;
}

/**
 * An announcement of one of our addresses (RFC 5227 2.3): a broadcast request for itself, which makes stations that knew the
 * address under another MAC learn ours.
 *
 * @param address - dotted value.
 * @param mac - 6 bytes.
 */
export function arpAnnouncement(address: number, mac: Uint8Array): Uint8Array {
	const frame = new Uint8Array(ARP_FRAME);
	const view = new DataView(frame.buffer);
	frame.fill(0xff, ETHER_DESTINATION, ETHER_DESTINATION + MAC);
	frame.set(mac, ETHER_SOURCE);
	view.setUint16(ETHER_TYPE, ETHERTYPE_ARP);
	view.setUint16(HARDWARE_TYPE, ETHERNET);
	view.setUint16(PROTOCOL_TYPE, ETHERTYPE_IP);
	view.setUint8(HARDWARE_LENGTH, MAC);
	view.setUint8(PROTOCOL_LENGTH, 4);
	view.setUint16(OPERATION, REQUEST);
	frame.set(mac, SENDER_MAC);
	view.setUint32(SENDER_ADDRESS, address);
	view.setUint32(TARGET_ADDRESS, address);
	return frame;
}
