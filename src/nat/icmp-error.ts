/**
 * ICMP errors that the router itself sends (RFC 792, RFC 1191, RFC 1812 section 4.3): built in place of the packet that
 * caused them.
 */
import { isUnicast } from "../packet/address-class.ts";
import { fold, sumOf } from "../packet/checksum.ts";
import { isError } from "../packet/icmp.ts";
import { addressValue, ICMP, IP_OFFSET, IP_WORD, SLOT_ETHER, SLOT_IP } from "../packet/layout.ts";
import { type Context, isBroadcast, lanOf } from "./context.ts";

/** As much of the offending packet as fits an ICMP datagram of 576 bytes (RFC 1812 section 4.3.2.3). */
const QUOTE_MAX = 576 - 28;
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
	 * Answers the packet in slot `s` (`length` bytes, as received) with an error, back out of the port it came from: LAN
	 * port number `port`, or -1 for the WAN. `rest` is the last halfword of the ICMP header (next-hop MTU, host order).
	 * Sends nothing where RFC 1812 section 4.3.2.7 says so, or over the rate. The packet is gone afterwards.
	 */
	send(s: number, length: number, port: number, kind: number, rest = 0): void {
		const c = this.#c;
		const { P, H, B } = c.views;
		const link = port < 0 ? c.wan : c.lan[port];
		const w = (s >> 2) + IP_WORD;
		const ip = s + SLOT_IP;
		const source = P[w + 3];
		if (!this.#hasToken(source)) return;
		const target = P[w + 4];
		if (port >= 0) {
			const { nets, home } = c.lan[port];
			if (lanOf(c.lan, source, home) !== home || isBroadcast(nets, source) || isBroadcast(nets, target)) return;
		}
		if (!isUnicast(addressValue(target))) return;
		if (link.address === 0 || !isUnicast(addressValue(source)) || (P[w + 1] & IP_OFFSET) !== 0) return;
		if (B[ip + 9] === ICMP && isError(B[ip + (B[ip] & 15) * 4])) return;
		this.#takeToken(source);
		const quote = Math.min(length, QUOTE_MAX);
		const tos = B[ip + 1];
		B.copyWithin(ip + 28, ip, ip + quote);
		const total = 28 + quote;
		B.fill(0, s, s + 10);
		B.fill(0, ip, ip + 28);
		B[ip] = 0x45;
		B[ip + 1] = tos;
		B[ip + 2] = total >> 8;
		B[ip + 3] = total & 0xff;
		B[ip + 8] = 64;
		B[ip + 9] = ICMP;
		P[w + 3] = link.address;
		P[w + 4] = source;
		H[(w << 1) + 5] = sumOf(H, B, ip, 20) ^ 0xffff;
		B[ip + 20] = kind >> 8;
		B[ip + 21] = kind & 0xff;
		B[ip + 26] = rest >> 8;
		B[ip + 27] = rest & 0xff;
		H[(w << 1) + 11] = fold(sumOf(H, B, ip + 20, total - 20)) ^ 0xffff;
		if (link.ethernet) {
			B.copyWithin(s + SLOT_ETHER, s + SLOT_ETHER + 6, s + SLOT_ETHER + 12);
			B.set(link.mac, s + SLOT_ETHER + 6);
		}
		if (link.queue.push(s, total, 0)) c.errorsSent++;
	}
}
