/**
 * One frame of any shape is rewritten and queued: any header length, later fragments, protocols with and without ports,
 * partial checksums and super-packets. The common shape is rewritten by fast-path.ts.
 */

import {
	BYTES_CARRY,
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOP_SHIFT,
	HOST_FRESH,
	HOST_PLACE,
	HOST_WORDS,
	R_BYTES_OUT,
	R_DELTA,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PACKETS_OUT,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { adjust, adjustUdp, fold } from "../packet/checksum.ts";
import { changeSctpPort, putSctpSum, sctpSum } from "../packet/crc32c.ts";
import { linkBytes } from "../packet/ethernet.ts";
import { HOST_HEADERS, headerTag } from "../packet/header-tag.ts";
import { ICMP_ID_H, ICMP_SUM_H } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_FLAGS_W, IP_LENGTH_H, IP_PROTOCOL, IP_SOURCE_W, IP_SUM_H, IP_TTL, IP_TTL_W } from "../packet/ipv4.ts";
import {
	DCCP,
	firstOf,
	hasPorts,
	ICMP,
	IP_OFFSET,
	IP_WORD,
	LITTLE,
	SCTP,
	SLOT_IP,
	secondOf,
	swap16,
	TCP,
	TTL_ONE,
	TTL_ONE_SUM,
	UDP,
	UDPLITE,
	VNET_CSUM_START,
	VNET_HDR_LEN,
	VNET_PARTIAL,
} from "../packet/layout.ts";
import { isTunnelled } from "../packet/segments.ts";
import { TCP_SUM_H } from "../packet/tcp.ts";
import { UDP_SUM_H } from "../packet/udp.ts";
import { type Context, HAIRPIN, type Link, type Queue } from "./context.ts";
import type { Fragmentation } from "./fragmentation.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { REASON } from "./reason.ts";
import { hopsIn, lanOfSession, mtuOut } from "./session-way.ts";

const TTL_MAX = 255;

/**
 * Counts off `hops` of an IPv4 header whose sum changes by `delta` besides; -1 gives one back, if there is room for it.
 */
export function changeHeader({ views: { P, H, B } }: Context, s: number, delta: number, hops: number): void {
	const ip = s + SLOT_IP;
	if (hops < 0 && B[ip + IP_TTL] === TTL_MAX) hops = 0;
	const counted = hops === 0 ? 0 : hops > 0 ? TTL_ONE_SUM : TTL_ONE_SUM ^ 0xffff;
	H[(ip >> 1) + IP_SUM_H] = adjust(H[(ip >> 1) + IP_SUM_H], fold(delta + counted));
	P[(ip >> 2) + IP_TTL_W] -= hops * TTL_ONE;
}

/** Virtio offsets count from the link header, if there is one: moves them between ports of different kinds. */
export function crossLinks({ views: { P, H } }: Context, s: number, from: Link, to: Link): void {
	if (to.ethernet === from.ethernet || P[s >> 2] === 0) return;
	const by = linkBytes(to.ethernet) - linkBytes(from.ethernet);
	if (P[s >> 2] & VNET_PARTIAL) H[(s >> 1) + VNET_CSUM_START] += by;
	if (H[(s >> 1) + VNET_HDR_LEN] !== 0) H[(s >> 1) + VNET_HDR_LEN] += by;
}

/**
 * Checksums, hop count and virtio offsets of a frame; addresses and ports are the caller's. `delta` is the session's,
 * by direction; `hops` as {@link changeHeader}. Of a later fragment only the IP header changes.
 */
export function rewrite(c: Context, s: number, delta: number, hops: number, from: Link, to: Link): void {
	const { P, H, B } = c.views;
	const ip = s + SLOT_IP;
	const header = (B[ip] & 15) * 4;
	const protocol = B[ip + IP_PROTOCOL];
	const l4 = (ip + header) >> 1;
	const both = delta >>> 16;
	const addresses = delta & 0xffff;
	if (hops < 0) changeHeader(c, s, addresses, hops);
	else {
		// Spelt out, as for most: calls are what costs.
		let sum = (H[(ip >> 1) + IP_SUM_H] ^ 0xffff) + addresses + hops * TTL_ONE_SUM;
		sum = (sum & 0xffff) + (sum >>> 16);
		H[(ip >> 1) + IP_SUM_H] = ((sum & 0xffff) + (sum >>> 16)) ^ 0xffff;
		P[(ip >> 2) + IP_TTL_W] -= hops * TTL_ONE;
	}
	if ((P[(ip >> 2) + IP_FLAGS_W] & IP_OFFSET) === 0) {
		const partial = (P[s >> 2] & VNET_PARTIAL) !== 0;
		if (protocol === SCTP) {
			// Its CRC does not cover addresses, and no virtio flag says that it is one: complete it if the sender's
			// device was to.
			if (partial) {
				putSctpSum(B, l4 * 2, sctpSum(B, l4 * 2, swap16(H[(ip >> 1) + IP_LENGTH_H]) - header));
				B.fill(0, s, s + 10);
			}
		} else if (partial && !isTunnelled(c.views, s, linkBytes(from.ethernet))) {
			// The pseudo-header is summed already.
			const field = protocol === TCP ? l4 + TCP_SUM_H : l4 + UDP_SUM_H;
			if (hasPorts(protocol)) H[field] = fold(H[field] + addresses);
		} else if (protocol === TCP) H[l4 + TCP_SUM_H] = adjust(H[l4 + TCP_SUM_H], both);
		else if (protocol === UDP && H[l4 + UDP_SUM_H] !== 0) H[l4 + UDP_SUM_H] = adjustUdp(H[l4 + UDP_SUM_H], both);
		else if (protocol === ICMP) {
			let sum = (H[l4 + ICMP_SUM_H] ^ 0xffff) + both + (addresses ^ 0xffff);
			sum = (sum & 0xffff) + (sum >>> 16);
			H[l4 + ICMP_SUM_H] = ((sum & 0xffff) + (sum >>> 16)) ^ 0xffff;
		} else if (protocol === UDPLITE || protocol === DCCP) H[l4 + UDP_SUM_H] = adjustUdp(H[l4 + UDP_SUM_H], both);
	}
	if (from.ethernet !== to.ethernet) crossLinks(c, s, from, to);
}

/**
 * Writes the source (`which` 0) or destination port, or a query's identifier, of a packet or first fragment; `room` are
 * the transport bytes of the whole packet.
 */
export function setPort(c: Context, s: number, room: number, which: number, port: number): void {
	const { P, H, B } = c.views;
	const ip = s + SLOT_IP;
	if ((P[(ip >> 2) + IP_FLAGS_W] & IP_OFFSET) !== 0) return;
	const protocol = B[ip + IP_PROTOCOL];
	const l4 = ip + (B[ip] & 15) * 4;
	if (protocol === ICMP) H[(l4 >> 1) + ICMP_ID_H] = port;
	else if (protocol === SCTP) changeSctpPort(B, l4, room, which * 2, LITTLE ? port & 0xff : port >> 8, LITTLE ? port >> 8 : port & 0xff);
	else if (hasPorts(protocol)) H[(l4 >> 1) + which] = port;
}

/** Translates frames of sessions and queues them. */
export class Translator {
	readonly #c: Context;
	readonly #fragmentation: Fragmentation;
	readonly #turn: (s: number, length: number) => void;

	/** `turn` takes a packet to one of our own addresses, translated and without link header. */
	constructor(c: Context, fragmentation: Fragmentation, turn: (s: number, length: number) => void) {
		this.#c = c;
		this.#fragmentation = fragmentation;
		this.#turn = turn;
	}

	/**
	 * Translates and queues for the WAN one frame of packet `p` of session `i`: that in slot `s`, of `length` bytes.
	 * `split` cuts it to the MTU.
	 */
	outbound(p: PacketDescriptor, i: number, s: number, length: number, split: boolean): void {
		const c = this.#c;
		const t = c.table.T;
		const meta = t[(i << RECORD_SHIFT) + R_META];
		const lan = c.lan[p.port];
		rewrite(c, s, t[(i << RECORD_SHIFT) + R_DELTA], lan.kernelForwards ? 0 : 1, lan, c.wan);
		c.views.P[(s >> 2) + IP_WORD + IP_SOURCE_W] = c.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff];
		if (p.protocol === ICMP && p.slot === s) c.views.H[p.l4 + ICMP_ID_H] = secondOf(t[(i << RECORD_SHIFT) + R_IN]);
		else setPort(c, s, p.room, 0, secondOf(t[(i << RECORD_SHIFT) + R_IN]));
		this.count(i, length, 0);
		const hop = meta >>> HOP_SHIFT;
		if (split && hop !== HAIRPIN) this.#fragmentation.cut(p, s, length, c.wan, mtuOut(c, i), (f, bytes) => this.toWan(p, f, bytes, hop));
		else this.toWan(p, s, length, hop);
	}

	/** As {@link outbound} towards the internal host. */
	inbound(p: PacketDescriptor, i: number, s: number, length: number, split: boolean): void {
		const c = this.#c;
		const t = c.table.T;
		const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
		const lan = lanOfSession(c, i);
		rewrite(c, s, ~t[(i << RECORD_SHIFT) + R_DELTA], hopsIn(lan, p.hairpin), c.wan, lan);
		c.views.P[(s >> 2) + IP_WORD + IP_DESTINATION_W] = t[i << RECORD_SHIFT];
		if (p.protocol === ICMP && p.slot === s) c.views.H[p.l4 + ICMP_ID_H] = firstOf(t[(i << RECORD_SHIFT) + R_OUT]);
		else setPort(c, s, p.room, p.protocol === ICMP ? 0 : 1, firstOf(t[(i << RECORD_SHIFT) + R_OUT]));
		this.count(i, length, 1);
		if (split) this.#fragmentation.cut(p, s, length, lan, lan.mtu, (f, bytes) => this.toLan(p, f, bytes, host, lan));
		else this.toLan(p, s, length, host, lan);
	}

	/** Counts a packet of session `i`. */
	count(i: number, length: number, inbound: number): void {
		const { table } = this.#c;
		const e = (i << RECORD_SHIFT) + inbound;
		table.T[e + R_PACKETS_OUT]++;
		let b = table.T[e + R_BYTES_OUT] + length;
		if (b >= BYTES_CARRY) {
			b -= BYTES_CARRY;
			table.carried(i, inbound);
		}
		table.T[e + R_BYTES_OUT] = b;
	}

	/** Queues a frame of packet `p` for the WAN, or has it wait for its next hop. */
	toWan(p: PacketDescriptor, s: number, length: number, hop: number): void {
		const c = this.#c;
		const tag = c.hops.tags[hop];
		if (tag === 0) this.park(hop, s, length);
		else if (c.wan.queue.push(s, length, tag)) c.forwardedOut++;
		else p.drop(REASON["queue-full"]);
	}

	/** Queues a frame of packet `p` for host number `host` on a LAN port, or has it wait for its neighbour. */
	toLan(p: PacketDescriptor, s: number, length: number, host: number, lan: Link): void {
		const c = this.#c;
		if ((c.hosts.W[host * HOST_WORDS + HOST_PLACE] & HOST_FRESH) === 0) c.hops.parkInternal(host, s, length);
		else if (lan.queue.push(s, length, headerTag(HOST_HEADERS + host))) c.forwardedIn++;
		else p.drop(REASON["queue-full"]);
	}

	/** A translated packet that has no link header yet: its next hop is not known, or is one of our own addresses. */
	park(hop: number, s: number, length: number): void {
		if (hop === HAIRPIN) this.#turn(s, length);
		else this.#c.hops.park(hop, s, length);
	}

	/**
	 * A UDP packet of the common form that holds a packet of a tunnel whose checksum is partial: its own, in halfword
	 * `field`, is not. `delta` is the session's, by direction. The port has to look at it: what it is, the virtio
	 * header cannot say.
	 */
	tunnelled(queue: Queue, field: number, delta: number): void {
		const { H } = this.#c.views;
		if (H[field] !== 0) H[field] = adjustUdp(H[field], delta >>> 16);
		queue.mixed = true;
	}
}
