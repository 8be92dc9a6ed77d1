/**
 * ARP (RFC 826) for external addresses that are not an interface's own: static NAT and pool addresses on an Ethernet
 * WAN. The kernel does not know these addresses, so it answers no request for them; masqd does.
 *
 * Frame: Ethernet header (14 bytes), then hardware type, protocol type, address lengths and operation, then sender and
 * target as pairs of MAC and IPv4 address. `arpFilter` in filter.ts is the socket filter that goes with it.
 */
import {
	ARP_BYTES,
	ARP_ETHERNET,
	ARP_HARDWARE,
	ARP_HARDWARE_LENGTH,
	ARP_OPERATION,
	ARP_PROTOCOL,
	ARP_PROTOCOL_LENGTH,
	ARP_REPLY,
	ARP_REQUEST,
	ARP_SENDER,
	ARP_SENDER_MAC,
	ARP_TARGET,
	ARP_TARGET_MAC,
} from "../packet/arp.ts";
import { ETH_P_ARP, ETH_P_IP, ETHER_DESTINATION, ETHER_HEADER, ETHER_SOURCE, ETHER_TYPE, MAC_BYTES } from "../packet/ethernet.ts";

/** Bytes of an ARP frame without padding. */
export const ARP_FRAME = ETHER_HEADER + ARP_BYTES;

const GROUP_BIT = 0x01;

/**
 * Turns an ARP request for one of our addresses into the reply, in place; send the first {@link ARP_FRAME} bytes of it.
 *
 * Not answered: what is no well-formed request, a sender with a group MAC address, and an announcement of the address
 * by another station (sender and target the same, RFC 5227 2.3), which asks nothing. A probe (sender 0.0.0.0, RFC 5227
 * 2.1.1) is answered: that is how an address is defended.
 *
 * @param frame - the frame from its Ethernet header on.
 * @param length - bytes received.
 * @param owned - whether an address (host order) is ours to answer for.
 * @param mac - the 6 bytes to answer with: the device's own.
 * @returns false, with the frame untouched, if there is nothing to send.
 */
export function arpReply(frame: Uint8Array, length: number, owned: (address: number) => boolean, mac: Uint8Array): boolean {
	if (length < ARP_FRAME || frame.length < ARP_FRAME) return false;
	const view = new DataView(frame.buffer, frame.byteOffset, ARP_FRAME);
	if (view.getUint16(ETHER_TYPE) !== ETH_P_ARP || view.getUint16(ETHER_HEADER + ARP_OPERATION) !== ARP_REQUEST) return false;
	if (view.getUint16(ETHER_HEADER + ARP_HARDWARE) !== ARP_ETHERNET || view.getUint16(ETHER_HEADER + ARP_PROTOCOL) !== ETH_P_IP)
		return false;
	if (view.getUint8(ETHER_HEADER + ARP_HARDWARE_LENGTH) !== MAC_BYTES || view.getUint8(ETHER_HEADER + ARP_PROTOCOL_LENGTH) !== 4)
		return false;
	if ((view.getUint8(ETHER_HEADER + ARP_SENDER_MAC) & GROUP_BIT) !== 0) return false;
	const target = view.getUint32(ETHER_HEADER + ARP_TARGET);
	const sender = view.getUint32(ETHER_HEADER + ARP_SENDER);
	if (target === sender || !owned(target)) return false;
	frame.copyWithin(ETHER_DESTINATION, ETHER_HEADER + ARP_SENDER_MAC, ETHER_HEADER + ARP_SENDER_MAC + MAC_BYTES);
	frame.copyWithin(ETHER_HEADER + ARP_TARGET_MAC, ETHER_HEADER + ARP_SENDER_MAC, ETHER_HEADER + ARP_SENDER_MAC + MAC_BYTES);
	frame.set(mac, ETHER_SOURCE);
	frame.set(mac, ETHER_HEADER + ARP_SENDER_MAC);
	view.setUint16(ETHER_HEADER + ARP_OPERATION, ARP_REPLY);
	view.setUint32(ETHER_HEADER + ARP_SENDER, target);
	view.setUint32(ETHER_HEADER + ARP_TARGET, sender);
	return true;
}

/**
 * An announcement of one of our addresses (RFC 5227 2.3): a broadcast request for itself, which makes stations that
 * knew the address under another MAC learn ours.
 *
 * @param address - host-order address.
 * @param mac - 6 bytes.
 */
export function arpAnnouncement(address: number, mac: Uint8Array): Uint8Array {
	const frame = new Uint8Array(ARP_FRAME);
	const view = new DataView(frame.buffer);
	frame.fill(0xff, ETHER_DESTINATION, ETHER_DESTINATION + MAC_BYTES);
	frame.set(mac, ETHER_SOURCE);
	view.setUint16(ETHER_TYPE, ETH_P_ARP);
	view.setUint16(ETHER_HEADER + ARP_HARDWARE, ARP_ETHERNET);
	view.setUint16(ETHER_HEADER + ARP_PROTOCOL, ETH_P_IP);
	view.setUint8(ETHER_HEADER + ARP_HARDWARE_LENGTH, MAC_BYTES);
	view.setUint8(ETHER_HEADER + ARP_PROTOCOL_LENGTH, 4);
	view.setUint16(ETHER_HEADER + ARP_OPERATION, ARP_REQUEST);
	frame.set(mac, ETHER_HEADER + ARP_SENDER_MAC);
	view.setUint32(ETHER_HEADER + ARP_SENDER, address);
	view.setUint32(ETHER_HEADER + ARP_TARGET, address);
	return frame;
}
