/**
 * What was dropped lately and why: counters by reason, and the last packets of each reason with their endpoints. Each
 * reason has a ring of its own, so that a port scan does not wash out the one packet that somebody asks about. Fixed
 * memory; a packet like the one before it only counts.
 */

import { ICMP_ID_H } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_FLAGS_W, IP_LENGTH, IP_PROTOCOL, IP_SOURCE_W } from "../packet/ipv4.ts";
import { firstOf, hasPorts, ICMP, IP_OFFSET, pair, SLOT_IP, secondOf, type Views } from "../packet/layout.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import { REASON, REASONS } from "./reason.ts";

/** Packets remembered of each reason. */
const ENTRIES = 16;
const WORDS = 8;
/** Words of an entry. */
const SEQUENCE = 0;
const SECOND = 1;
const HEAD = 2;
const SOURCE = 3;
const DESTINATION = 4;
const PORTS = 5;
const LENGTH = 6;
const COUNT = 7;

/**
 * Reasons up to this one say that the header is wrong: what stands where ports would be means nothing. A broadcast is
 * cut short behind its header.
 */
const LAST_HEADER_FAULT = REASON["bad-header-checksum"];
const BROADCAST = REASON["link-broadcast"];
const SHORT = REASON["short-packet"];

/** One remembered drop; addresses and ports raw. */
export interface Dropped {
	/** Order among all drops. */
	sequence: number;
	reason: number;
	/** Second of the last packet like this. */
	second: number;
	protocol: number;
	/** LAN port number it came from, -1 for the WAN. */
	port: number;
	source: number;
	destination: number;
	/**
	 * Ports as in the header; an ICMP packet has its type and code there and its identifier. 0 if it has none or they
	 * cannot be told.
	 */
	first: number;
	other: number;
	length: number;
	/** Packets like this, one after the other. */
	count: number;
}

/** Counters and rings. */
export class DropLog {
	/** Number of {@link add} calls ever, and the reason of the last. */
	sequence = 0;
	last = -1;
	readonly #counts: Float64Array;
	readonly #views: Views;
	readonly #ring: Int32Array;
	readonly #newest = new Uint8Array(REASONS.length);

	/** `counts` are the counters by reason, `views` those of the frames that are dropped. */
	constructor(counts: Float64Array, views: Views) {
		this.#counts = counts;
		this.#views = views;
		this.#ring = new Int32Array(REASONS.length * ENTRIES * WORDS);
	}

	/**
	 * Counts and remembers the packet in slot `s`, which came from LAN port `port` (-1: WAN) in second `now` and
	 * consists of `pieces` frames.
	 */
	add(reason: number, s: number, port: number, now: number, frames = 1): void {
		const { P, H, B } = this.#views;
		const ring = this.#ring;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const protocol = reason === SHORT ? 0 : B[ip + IP_PROTOCOL];
		const source = reason === SHORT ? 0 : P[w + IP_SOURCE_W];
		const destination = reason === SHORT ? 0 : P[w + IP_DESTINATION_W];
		const l4 = (ip + (B[ip] & 15) * 4) >> 1;
		let ports = 0;
		if (reason > LAST_HEADER_FAULT && reason !== BROADCAST && (P[w + IP_FLAGS_W] & IP_OFFSET) === 0) {
			if (hasPorts(protocol)) ports = pair(H[l4], H[l4 + DESTINATION_PORT_H]);
			else if (protocol === ICMP) ports = pair(H[l4], H[l4 + ICMP_ID_H]);
		}
		const head = protocol | ((port + 1) << 8);
		this.#counts[reason] += frames;
		this.sequence++;
		this.last = reason;
		let e = (reason * ENTRIES + this.#newest[reason]) * WORDS;
		const same =
			ring[e + COUNT] > 0 &&
			ring[e + SOURCE] === source &&
			ring[e + DESTINATION] === destination &&
			ring[e + PORTS] === ports &&
			ring[e + HEAD] === head;
		if (same) ring[e + COUNT]++;
		else {
			this.#newest[reason] = (this.#newest[reason] + 1) % ENTRIES;
			e = (reason * ENTRIES + this.#newest[reason]) * WORDS;
			ring[e + HEAD] = head;
			ring[e + SOURCE] = source;
			ring[e + DESTINATION] = destination;
			ring[e + PORTS] = ports;
			ring[e + COUNT] = 1;
		}
		ring[e + SEQUENCE] = this.sequence;
		ring[e + SECOND] = now;
		ring[e + LENGTH] = reason === SHORT ? 0 : B[ip + IP_LENGTH] * 256 + B[ip + (IP_LENGTH + 1)];
	}

	/** The remembered drops, newest first. */
	list(): Dropped[] {
		const ring = this.#ring;
		const found: Dropped[] = [];
		for (let e = 0; e < ring.length; e += WORDS) {
			if (ring[e + COUNT] === 0) continue;
			const ports = ring[e + PORTS];
			found.push({
				sequence: ring[e + SEQUENCE],
				reason: Math.floor(e / (ENTRIES * WORDS)),
				second: ring[e + SECOND],
				protocol: ring[e + HEAD] & 0xff,
				port: (ring[e + HEAD] >> 8) - 1,
				source: ring[e + SOURCE],
				destination: ring[e + DESTINATION],
				first: firstOf(ports),
				other: secondOf(ports),
				length: ring[e + LENGTH],
				count: ring[e + COUNT],
			});
		}
		return found.sort((a, b) => (b.sequence - a.sequence) | 0);
	}
}
