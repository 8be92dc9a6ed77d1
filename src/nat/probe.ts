/**
 * Packets made for the decision code to look at: for `why` and `selftest`. Headers are right, payloads are a few zero bytes.
 */

import { sumOf } from "../packet/checksum.ts";
import { hasPorts, ICMP, IP_WORD, pair, SLOT_IP, swap16, TCP, UDP, type Views } from "../packet/layout.ts";

/** A packet by what the decisions look at. Addresses and ports as loaded; an ICMP query has its identifier in the inside end's port. */
export interface Probe {
	protocol: number;
	source: number;
	sourcePort: number;
	destination: number;
	destinationPort: number;
}

const ECHO_REPLY = 0;
const ECHO = 8;
const PAYLOAD = 4;

/**
 * Writes a packet into slot `s`: TCP with these flags, ICMP as echo or, if `reply`, its reply. Returns its length.
 */
export function putProbe(views: Views, s: number, probe: Probe, flags: number, reply: boolean, ttl = 64): number {
	const { P, H, B } = views;
	const w = (s >> 2) + IP_WORD;
	const ip = s + SLOT_IP;
	const header = probe.protocol === TCP ? 20 : 8;
	const length = 20 + header + PAYLOAD;
	B.fill(0, s, ip + length);
	B[ip] = 0x45;
	B[ip + 3] = length;
	B[ip + 6] = 0x40;
	B[ip + 8] = ttl;
	B[ip + 9] = probe.protocol;
	P[w + 3] = probe.source;
	P[w + 4] = probe.destination;
	H[(w << 1) + 5] = sumOf(H, B, ip, 20) ^ 0xffff;
	const l4 = (w << 1) + 10;
	if (probe.protocol === TCP) {
		P[w + 5] = pair(probe.sourcePort, probe.destinationPort);
		B[ip + 32] = 0x50;
		B[ip + 33] = flags;
	} else if (probe.protocol === UDP) {
		P[w + 5] = pair(probe.sourcePort, probe.destinationPort);
		H[l4 + 2] = swap16(header + PAYLOAD);
	} else if (hasPorts(probe.protocol)) {
		P[w + 5] = pair(probe.sourcePort, probe.destinationPort);
	} else if (probe.protocol === ICMP) {
		B[ip + 20] = reply ? ECHO_REPLY : ECHO;
		H[l4 + 2] = reply ? probe.destinationPort : probe.sourcePort || probe.destinationPort;
		H[l4 + 1] = sumOf(H, B, ip + 20, length - 20) ^ 0xffff;
	}
	return length;
}
