/**
 * ICMP errors that the router itself sends (RFC 792, RFC 1191, RFC 1812 section 4.3): built in place of the packet that
 * caused them.
 */

import { isBroadcast, isUnicast } from "../packet/address-class.ts";
import { fold, sumOf } from "../packet/checksum.ts";
import { ETHER_SOURCE, ETHER_TYPE } from "../packet/ethernet.ts";
import { ICMP_HEADER, ICMP_MTU, ICMP_SUM_H, isError } from "../packet/icmp.ts";
import {
	INITIAL_TTL,
	IP_DESTINATION_W,
	IP_FLAGS_W,
	IP_HEADER,
	IP_HEADER_H,
	IP_LENGTH,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE_W,
	IP_SUM_H,
	IP_TOS,
	IP_TTL,
} from "../packet/ipv4.ts";
import { addressValue, ICMP, IP_OFFSET, IP_WORD, SLOT_ETHER, SLOT_IP } from "../packet/layout.ts";
import { type Context, lanOf } from "./context.ts";

/** As much of the offending packet as fits an ICMP datagram of 576 bytes (RFC 1812 section 4.3.2.3). */
const QUOTE_MAX = 576 - (IP_HEADER + ICMP_HEADER);
/**
 * Errors that one source may cause at once, in seconds' worth of its rate: twenty traceroute probes in 0.4 s are all
 * answered.
 */
const BURST_SECONDS = 2;
const BUCKETS = 64;

/** Sends errors, at a bounded rate a source. */
export class IcmpSender {
	readonly #c: Context;
	/** Bucket: source, tokens, second of the last refill. */
	readonly #buckets = new Int32Array(BUCKETS * 3);

	constructor(c: Context) {
		this.#c = c;
	}

	/** True if the source's bucket, refilled up to now, is not empty. */
	#hasToken(source: number): boolean {
		const b = this.#buckets;
		const { now, table } = this.#c;
		const rate = this.#c.policy.icmpRate;
		const k = (Math.imul(source, table.key1) >>> 26) * 3;
		if (b[k] !== source) {
			b[k] = source;
			b[k + 1] = rate * BURST_SECONDS;
			b[k + 2] = now;
		} else if (b[k + 2] !== now) {
			b[k + 1] = Math.min(rate * BURST_SECONDS, b[k + 1] + (now - b[k + 2]) * rate);
			b[k + 2] = now;
		}
		return b[k + 1] > 0;
	}

	#takeToken(source: number): void {
		this.#buckets[(Math.imul(source, this.#c.table.key1) >>> 26) * 3 + 1]--;
	}

	/**
	 * Answers the packet in slot `s` (`length` bytes, as received) with an error, back out of the port it came from:
	 * LAN port number `port`, or -1 for the WAN. `rest` is the last halfword of the ICMP header (next-hop MTU, host
	 * order). Sends nothing where RFC 1812 section 4.3.2.7 says so, or over the rate. The packet is gone afterwards.
	 */
	send(s: number, length: number, port: number, kind: number, rest = 0): void {
		const c = this.#c;
		const { P, H, B } = c.views;
		const link = port < 0 ? c.wan : c.lan[port];
		const w = (s >> 2) + IP_WORD;
		const ip = s + SLOT_IP;
		const source = P[w + IP_SOURCE_W];
		if (!this.#hasToken(source)) return;
		const target = P[w + IP_DESTINATION_W];
		if (port >= 0) {
			const { nets, home } = c.lan[port];
			if (lanOf(c.lan, source, home) !== home || isBroadcast(nets, source) || isBroadcast(nets, target)) return;
		}
		if (!isUnicast(addressValue(target))) return;
		if (link.address === 0 || !isUnicast(addressValue(source)) || (P[w + IP_FLAGS_W] & IP_OFFSET) !== 0) return;
		if (B[ip + IP_PROTOCOL] === ICMP && isError(B[ip + (B[ip] & 15) * 4])) return;
		this.#takeToken(source);
		const quote = Math.min(length, QUOTE_MAX);
		const tos = B[ip + IP_TOS];
		B.copyWithin(ip + (IP_HEADER + ICMP_HEADER), ip, ip + quote);
		const total = IP_HEADER + ICMP_HEADER + quote;
		B.fill(0, s, s + 10);
		B.fill(0, ip, ip + (IP_HEADER + ICMP_HEADER));
		B[ip] = IP_PLAIN_BYTE;
		B[ip + IP_TOS] = tos;
		B[ip + IP_LENGTH] = total >> 8;
		B[ip + (IP_LENGTH + 1)] = total & 0xff;
		B[ip + IP_TTL] = INITIAL_TTL;
		B[ip + IP_PROTOCOL] = ICMP;
		P[w + IP_SOURCE_W] = link.address;
		P[w + IP_DESTINATION_W] = source;
		H[(w << 1) + IP_SUM_H] = sumOf(H, B, ip, IP_HEADER) ^ 0xffff;
		B[ip + IP_HEADER] = kind >> 8;
		B[ip + (IP_HEADER + 1)] = kind & 0xff;
		B[ip + (IP_HEADER + ICMP_MTU)] = rest >> 8;
		B[ip + (IP_HEADER + ICMP_MTU + 1)] = rest & 0xff;
		H[(w << 1) + (IP_HEADER_H + ICMP_SUM_H)] = fold(sumOf(H, B, ip + IP_HEADER, total - IP_HEADER)) ^ 0xffff;
		if (link.ethernet) {
			B.copyWithin(s + SLOT_ETHER, s + SLOT_ETHER + ETHER_SOURCE, s + SLOT_ETHER + ETHER_TYPE);
			B.set(link.mac, s + SLOT_ETHER + ETHER_SOURCE);
		}
		if (link.queue.push(s, total, 0)) c.errorsSent++;
	}
}
