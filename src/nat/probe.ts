/**
 * Packets made for the decision code to look at: for `why` and `selftest`. Headers are right, payloads are a few zero
 * bytes.
 */

import { sumOf } from "../packet/checksum.ts";
import { ECHO, ECHO_REPLY, ICMP_ID_H, ICMP_SUM_H } from "../packet/icmp.ts";
import {
	DF_BYTE,
	IP_DESTINATION_W,
	IP_FLAGS,
	IP_HEADER,
	IP_HEADER_H,
	IP_LENGTH,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE_W,
	IP_SUM_H,
	IP_TTL,
	PLAIN_PORTS_W,
	PLAIN_TCP_FLAGS,
	PLAIN_TCP_OFFSET,
} from "../packet/ipv4.ts";
import { hasPorts, ICMP, IP_WORD, pair, SLOT_IP, swap16, TCP, UDP, type Views } from "../packet/layout.ts";
import { TCP_HEADER } from "../packet/tcp.ts";
import { UDP_HEADER, UDP_LENGTH_H } from "../packet/udp.ts";

/**
 * A packet by what the decisions look at. Addresses and ports raw; an ICMP query has its identifier in the internal
 * end's port.
 */
export interface Probe {
	protocol: number;
	source: number;
	sourcePort: number;
	destination: number;
	destinationPort: number;
}

const PAYLOAD = 4;

/**
 * Writes a packet into slot `s`: TCP with these flags, ICMP as echo or, if `reply`, its reply. Returns its length.
 */
export function putProbe(views: Views, s: number, probe: Probe, flags: number, reply: boolean, ttl = 64): number {
	const { P, H, B } = views;
	const w = (s >> 2) + IP_WORD;
	const ip = s + SLOT_IP;
	const header = probe.protocol === TCP ? TCP_HEADER : UDP_HEADER;
	const length = IP_HEADER + header + PAYLOAD;
	B.fill(0, s, ip + length);
	B[ip] = IP_PLAIN_BYTE;
	B[ip + (IP_LENGTH + 1)] = length;
	B[ip + IP_FLAGS] = DF_BYTE;
	B[ip + IP_TTL] = ttl;
	B[ip + IP_PROTOCOL] = probe.protocol;
	P[w + IP_SOURCE_W] = probe.source;
	P[w + IP_DESTINATION_W] = probe.destination;
	H[(w << 1) + IP_SUM_H] = sumOf(H, B, ip, IP_HEADER) ^ 0xffff;
	const l4 = (w << 1) + IP_HEADER_H;
	if (probe.protocol === TCP) {
		P[w + PLAIN_PORTS_W] = pair(probe.sourcePort, probe.destinationPort);
		B[ip + PLAIN_TCP_OFFSET] = (TCP_HEADER >> 2) << 4;
		B[ip + PLAIN_TCP_FLAGS] = flags;
	} else if (probe.protocol === UDP) {
		P[w + PLAIN_PORTS_W] = pair(probe.sourcePort, probe.destinationPort);
		H[l4 + UDP_LENGTH_H] = swap16(header + PAYLOAD);
	} else if (hasPorts(probe.protocol)) {
		P[w + PLAIN_PORTS_W] = pair(probe.sourcePort, probe.destinationPort);
	} else if (probe.protocol === ICMP) {
		B[ip + IP_HEADER] = reply ? ECHO_REPLY : ECHO;
		H[l4 + ICMP_ID_H] = reply ? probe.destinationPort : probe.sourcePort || probe.destinationPort;
		H[l4 + ICMP_SUM_H] = sumOf(H, B, ip + IP_HEADER, length - IP_HEADER) ^ 0xffff;
	}
	return length;
}
