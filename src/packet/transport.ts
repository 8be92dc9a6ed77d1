/** Whether a transport header can be right: what every sender keeps to. */

import { DCCP, SCTP, swap16, TCP, UDP, UDPLITE } from "./layout.ts";
import { ACK, FIN, RST, SYN, TCP_FLAGS_H, TCP_HEADER } from "./tcp.ts";
import { DESTINATION_PORT_H, UDP_HEADER, UDP_LENGTH_H } from "./udp.ts";

/**
 * True if the transport header at halfword `l4` cannot be right; `room` are the bytes of the packet from there on,
 * `flags` are TCP's.
 */
export function isBadTransport(H: Uint16Array, protocol: number, l4: number, room: number, flags: number): boolean {
	if (protocol === UDP) {
		const stated = swap16(H[l4 + UDP_LENGTH_H]);
		return room < UDP_HEADER || stated < UDP_HEADER || stated > room;
	}
	if (protocol === TCP) {
		const header = (swap16(H[l4 + TCP_FLAGS_H]) >> 12) * 4;
		if (room < TCP_HEADER || header < TCP_HEADER || header > room || H[l4] === 0 || H[l4 + DESTINATION_PORT_H] === 0) return true;
		// No flags, SYN with FIN, or FIN without ACK: no TCP sends these.
		return (flags & (SYN | RST | ACK | FIN)) === 0 || (flags & (SYN | FIN)) === (SYN | FIN) || (flags & (FIN | ACK | RST)) === FIN;
	}
	return (
		(protocol === UDPLITE || protocol === DCCP || protocol === SCTP) &&
		(room < (protocol === SCTP ? 12 : 8) || H[l4] === 0 || H[l4 + DESTINATION_PORT_H] === 0)
	);
}
