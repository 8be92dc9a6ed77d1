/**
 * TCP resets towards the inside: for connections that cannot go on because the external address that they had is not
 * ours any more.
 */

import { R_ACK_IN, R_ACK_OUT, R_OUT, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { fold, sumOf } from "../packet/checksum.ts";
import { ETHER_SOURCE, ETHER_TYPE } from "../packet/ethernet.ts";
import {
	DF_BYTE,
	INITIAL_TTL,
	IP_DESTINATION_W,
	IP_FLAGS,
	IP_FLAGS_W,
	IP_HEADER,
	IP_LENGTH,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE,
	IP_SOURCE_W,
	IP_SUM_H,
	IP_TTL,
	PLAIN_PORTS_W,
	PLAIN_TCP_ACK_W,
	PLAIN_TCP_FLAGS,
	PLAIN_TCP_OFFSET,
	PLAIN_TCP_SEQUENCE_W,
	PLAIN_TCP_SUM_H,
} from "../packet/ipv4.ts";
import { IP_OFFSET, IP_WORD, pair, SLOT_ETHER, SLOT_IP, swap16, TCP, type Views } from "../packet/layout.ts";
import { ACK, RST, SYN, TCP_ACK_H, TCP_FLAGS_H, TCP_FLAGS_MASK, TCP_HEADER } from "../packet/tcp.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import type { Context } from "./context.ts";

const RESET_LENGTH = IP_HEADER + TCP_HEADER;

/**
 * Writes a reset into slot `s`, without link header. Addresses, ports word (source first) and sequence numbers raw.
 * Returns its length.
 */
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
	B[ip] = IP_PLAIN_BYTE;
	B[ip + (IP_LENGTH + 1)] = RESET_LENGTH;
	B[ip + IP_FLAGS] = DF_BYTE;
	B[ip + IP_TTL] = INITIAL_TTL;
	B[ip + IP_PROTOCOL] = TCP;
	P[w + IP_SOURCE_W] = source;
	P[w + IP_DESTINATION_W] = destination;
	P[w + PLAIN_PORTS_W] = ports;
	P[w + PLAIN_TCP_SEQUENCE_W] = seq;
	P[w + PLAIN_TCP_ACK_W] = ack;
	B[ip + PLAIN_TCP_OFFSET] = (TCP_HEADER >> 2) << 4;
	B[ip + PLAIN_TCP_FLAGS] = flags;
	H[(ip >> 1) + IP_SUM_H] = sumOf(H, B, ip, IP_HEADER) ^ 0xffff;
	// Pseudo-header: both addresses, protocol, length (RFC 9293 section 3.1).
	const sum = sumOf(H, B, ip + IP_SOURCE, RESET_LENGTH - IP_SOURCE) + swap16(TCP) + swap16(RESET_LENGTH - IP_HEADER);
	H[(ip >> 1) + PLAIN_TCP_SUM_H] = fold(sum) ^ 0xffff;
	return RESET_LENGTH;
}

/**
 * Writes into slot `s` the reset that the internal host of session `i` takes as its peer's: at the sequence number that
 * it has acknowledged last. Returns its length, 0 if that number is not known.
 */
export function sessionReset(c: Context, i: number, s: number): number {
	const { T } = c.table;
	const e = i << RECORD_SHIFT;
	if (T[e + R_ACK_OUT] === 0) return 0;
	const out = T[e + R_OUT];
	return writeReset(c.views, s, T[e + R_PEER], T[e], (out << 16) | (out >>> 16), T[e + R_ACK_OUT], T[e + R_ACK_IN], RST | ACK);
}

/**
 * Answers the TCP segment in slot `s`, as received from LAN port `port`, with a reset (RFC 9293 section 3.5.2: its
 * sequence number is the segment's acknowledgment number). Nothing is sent for a segment that has none, and none for a
 * reset. `l4` is its first halfword.
 */
export function replyReset(c: Context, s: number, port: number, l4: number): void {
	const { P, H, B } = c.views;
	const link = c.lan[port];
	const w = (s >> 2) + IP_WORD;
	const flags = swap16(H[l4 + TCP_FLAGS_H]) & TCP_FLAGS_MASK;
	if ((flags & (SYN | RST | ACK)) !== ACK || (P[w + IP_FLAGS_W] & IP_OFFSET) !== 0) return;
	const ports = pair(H[l4 + DESTINATION_PORT_H], H[l4]);
	const ack = pair(H[l4 + TCP_ACK_H], H[l4 + TCP_ACK_H + 1]);
	const length = writeReset(c.views, s, P[w + IP_DESTINATION_W], P[w + IP_SOURCE_W], ports, ack, 0, RST);
	if (link.ethernet) {
		B.copyWithin(s + SLOT_ETHER, s + SLOT_ETHER + ETHER_SOURCE, s + SLOT_ETHER + ETHER_TYPE);
		B.set(link.mac, s + SLOT_ETHER + ETHER_SOURCE);
	}
	if (link.queue.push(s, length, 0)) c.resetsSent++;
}
