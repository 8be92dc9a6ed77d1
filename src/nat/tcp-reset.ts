/**
 * TCP resets towards the inside: for connections that can not go on because the external address that they had is not ours any more.
 */

import { R_ACK_IN, R_ACK_OUT, R_OUT, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { fold, sumOf } from "../packet/checksum.ts";
import { ACK, IP_OFFSET, IP_WORD, LITTLE, RST, SLOT_ETHER, SLOT_IP, SYN, swap16, TCP, type Views } from "../packet/layout.ts";
import type { Context } from "./context.ts";

const IP_HEADER = 20;
const RESET_LENGTH = 40;

/** Writes a reset into slot `s`, without link header. Addresses, ports word (source first) and sequence numbers as loaded. Returns its length. */
function writeReset(
	v: Views,
	s: number,
	source: number,
	destination: number,
	ports: number,
	seq: number,
	ack: number,
	flags: number,
): number {
	const { P, H, B } = v;
	const ip = s + SLOT_IP;
	const w = (s >> 2) + IP_WORD;
	B.fill(0, s, s + 10);
	B.fill(0, ip, ip + RESET_LENGTH);
	B[ip] = 0x45;
	B[ip + 3] = RESET_LENGTH;
	B[ip + 6] = 0x40;
	B[ip + 8] = 64;
	B[ip + 9] = TCP;
	P[w + 3] = source;
	P[w + 4] = destination;
	P[w + 5] = ports;
	P[w + 6] = seq;
	P[w + 7] = ack;
	B[ip + 32] = 5 << 4;
	B[ip + 33] = flags;
	H[(ip >> 1) + 5] = sumOf(H, B, ip, IP_HEADER) ^ 0xffff;
	// Pseudo-header: both addresses, protocol, length (RFC 9293 section 3.1).
	const sum = sumOf(H, B, ip + 12, RESET_LENGTH - 12) + swap16(TCP) + swap16(RESET_LENGTH - IP_HEADER);
	H[(ip >> 1) + 18] = fold(sum) ^ 0xffff;
	return RESET_LENGTH;
}

/**
 * Writes into slot `s` the reset that the inside host of session `i` takes as its peer's: at the sequence number that it has acknowledged last. Returns
 * its length, 0 if that number is not known.
 */
export function sessionReset(c: Context, i: number, s: number): number {
	const { T } = c.table;
	const e = i << RECORD_SHIFT;
	if (T[e + R_ACK_OUT] === 0) return 0;
	const out = T[e + R_OUT];
	return writeReset(c.views, s, T[e + R_PEER], T[e], (out << 16) | (out >>> 16), T[e + R_ACK_OUT], T[e + R_ACK_IN], RST | ACK);
}

/**
 * Answers the TCP segment in slot `s`, as received from LAN port `port`, with a reset (RFC 9293 section 3.5.2: its sequence number is the segment's acknowledgment
 * number). Nothing is sent for a segment that has none, and none for a reset. `l4` is its first halfword.
 */
export function replyReset(c: Context, s: number, port: number, l4: number): void {
	const { P, H, B } = c.views;
	const link = c.lan[port];
	const w = (s >> 2) + IP_WORD;
	const flags = swap16(H[l4 + 6]) & 0x3f;
	if ((flags & (SYN | RST | ACK)) !== ACK || (P[w + 1] & IP_OFFSET) !== 0) return;
	const ports = LITTLE ? H[l4 + 1] | (H[l4] << 16) : (H[l4 + 1] << 16) | H[l4];
	const ack = LITTLE ? H[l4 + 4] | (H[l4 + 5] << 16) : (H[l4 + 4] << 16) | H[l4 + 5];
	const length = writeReset(c.views, s, P[w + 4], P[w + 3], ports, ack, 0, RST);
	if (link.ethernet) {
		B.copyWithin(s + SLOT_ETHER, s + SLOT_ETHER + 6, s + SLOT_ETHER + 12);
		B.set(link.mac, s + SLOT_ETHER + 6);
	}
	if (link.queue.push(s, length, 0)) c.resetsSent++;
}
