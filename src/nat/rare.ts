/**
 * Everything that is not the common way of a packet: header faults, options, ICMP queries, packets that open a session, TCP segments that change a
 * state, packets that are too big. The fast loops (fast.ts) hand frames over and this code drops, answers or queues them.
 */

import {
	BYTES_CARRY,
	EXTERNAL_SHIFT,
	HOP_SHIFT,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_REACHABLE,
	R_BYTES_IN,
	R_BYTES_OUT,
	R_DELTA,
	R_HIGH_IN,
	R_HIGH_OUT,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
} from "../conntrack/record.ts";
import { UDP_DNS, UDP_NEW, UDP_OPEN } from "../conntrack/states.ts";
import { tcpIn, tcpOut } from "../conntrack/tcp.ts";
import { adjust, adjustUdp, fold, halfDelta, sumOf } from "../packet/checksum.ts";
import {
	DCCP,
	ETHER_GROUP,
	firstOf,
	ICMP,
	IP_DF,
	IP_FRAGMENT,
	IP_WORD,
	pair,
	SLOT_IP,
	SYN,
	secondOf,
	swap16,
	TCP,
	TTL_ONE,
	TTL_ONE_SUM,
	UDP,
	UDPLITE,
	VNET_CSUM_START,
	VNET_GSO,
	VNET_GSO_SIZE,
	VNET_HDR_LEN,
	VNET_PARTIAL,
} from "../packet/layout.ts";
import { HOST_HEADERS, headerTag } from "../packet/link-header.ts";
import type { Admission } from "./admission.ts";
import type { Context, Link } from "./context.ts";
import {
	FRAGMENTATION_NEEDED,
	HOST_UNREACHABLE,
	type IcmpSender,
	isError,
	NET_UNREACHABLE,
	PROHIBITED,
	TIME_EXCEEDED,
} from "./icmp-error.ts";
import { translateError } from "./icmp-quote.ts";
import { clampMss } from "./mss.ts";
import { LEFT_TO_KERNEL, Opening, refused, transportFault } from "./opening.ts";
import { REASON, type ReasonName } from "./reason.ts";

const ECHO_REPLY = 0;
const ECHO = 8;
const TIMESTAMP = 13;
const TIMESTAMP_REPLY = 14;
const DNS_PORT = swap16(53);

/** The rare ways of a packet. `s` is a slot's byte offset, `length` bytes of IPv4, `port` a LAN port number. */
export class Rare {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #opening: Opening;
	/** Slot of the frame in hand and where it came from, for the drop log. */
	#slot = 0;
	#port = -1;
	readonly #errors: IcmpSender;

	constructor(c: Context, admission: Admission, errors: IcmpSender) {
		this.#c = c;
		this.#admission = admission;
		this.#errors = errors;
		this.#opening = new Opening(c, admission);
	}

	#drop(reason: number): 0 {
		this.#c.dropLog.add(reason, this.#slot, this.#port, this.#c.now);
		return 0;
	}

	// ---- called for packets of the common form ----------------------------------------------------------------------

	/** First packet of an outbound TCP or UDP session: its record, or 0 if the packet was dealt with. */
	openOutbound(s: number, length: number, port: number): number {
		this.#slot = s;
		this.#port = port;
		if (this.#admission.full) return this.#refuse(s, length, port, REASON["table-full"]);
		const { P, B } = this.#c.views;
		const w = (s >> 2) + IP_WORD;
		return this.#openOutbound(s, length, port, B[s + SLOT_IP + 9], P[w + 3], P[w + 4], (w << 1) + 10, length - 20);
	}

	#openOutbound(s: number, length: number, port: number, protocol: number, inside: number, peer: number, l4: number, room: number): number {
		const { H } = this.#c.views;
		const fault = transportFault(H, protocol, l4, room);
		if (fault >= 0) return this.#drop(fault);
		const flags = protocol === TCP ? swap16(H[l4 + 6]) & 0x3f : 0;
		const ported = protocol === TCP || protocol === UDP;
		const i = this.#opening.outbound(protocol, inside, ported ? H[l4] : 0, peer, ported ? H[l4 + 1] : 0, flags, port, s);
		return i > 0 ? i : this.#refuse(s, length, port, refused(i));
	}

	/** Counts a refusal and tells the inside host where an error helps it (RFC 6888 REQ-11, RFC 1812 section 4.3.3.1). */
	#refuse(s: number, length: number, port: number, reason: number): 0 {
		this.#drop(reason);
		switch (reason) {
			case REASON["table-full"]:
			case REASON["host-limit"]:
			case REASON["host-share"]:
			case REASON["ports-exhausted"]:
			case REASON["pool-exhausted"]:
				this.#errors.send(s, length, port, HOST_UNREACHABLE);
				break;
			case REASON["protocol-busy"]:
				this.#errors.send(s, length, port, PROHIBITED);
				break;
			case REASON["no-route"]:
			case REASON["no-external-address"]:
				this.#errors.send(s, length, port, NET_UNREACHABLE);
				break;
		}
		return 0;
	}

	/** First packet of an inbound TCP or UDP session: its record, or 0 if the packet was dealt with. */
	openInbound(s: number, length: number): number {
		this.#slot = s;
		this.#port = -1;
		const { P, B } = this.#c.views;
		const w = (s >> 2) + IP_WORD;
		return this.#openInbound(B[s + SLOT_IP + 9], P[w + 3], P[w + 4], (w << 1) + 10, length - 20);
	}

	#openInbound(protocol: number, peer: number, outside: number, l4: number, room: number): number {
		const c = this.#c;
		const { H } = c.views;
		const fault = transportFault(H, protocol, l4, room);
		if (fault >= 0) return this.#drop(fault);
		const flags = protocol === TCP ? swap16(H[l4 + 6]) & 0x3f : 0;
		const ported = protocol === TCP || protocol === UDP;
		const external = c.externals.find(outside);
		if (external < 0) return this.#drop(REASON["not-ours"]);
		const i = this.#opening.inbound(protocol, peer, ported ? H[l4] : 0, external, ported ? H[l4 + 1] : 0, flags);
		if (i > 0) return i;
		if (i === LEFT_TO_KERNEL) c.left++;
		else this.#drop(refused(i));
		return 0;
	}

	/** An outbound TCP segment that is not plain data of an established session. */
	tcpOutbound(i: number, s: number, length: number): void {
		this.#tcpOutbound(i, s, (s >> 2) + IP_WORD + 5, length - 20);
	}

	#tcpOutbound(i: number, s: number, w: number, room: number): void {
		const c = this.#c;
		const flags = swap16(c.views.H[(w << 1) + 6]) & 0x3f;
		if (flags & SYN) clampMss(c.views, s, w << 1, room, this.#mss());
		tcpOut(c.table, i, flags, c.views.P[w + 1], c.views.P[w + 2], c.now16);
	}

	/** An inbound one; false if it was dropped. */
	tcpInbound(i: number, s: number, length: number): boolean {
		this.#slot = s;
		this.#port = -1;
		return this.#tcpInbound(i, s, (s >> 2) + IP_WORD + 5, length - 20);
	}

	#tcpInbound(i: number, s: number, w: number, room: number): boolean {
		const c = this.#c;
		const flags = swap16(c.views.H[(w << 1) + 6]) & 0x3f;
		if (flags & SYN) clampMss(c.views, s, w << 1, room, this.#mss());
		if (tcpIn(c.table, i, flags, c.views.P[w + 1], c.views.P[w + 2], c.now16)) return true;
		this.#drop(REASON["tcp-bad-reset"]);
		return false;
	}

	#mss(): number {
		return this.#c.wan.mtu - 40;
	}

	/** An outbound UDP packet of a session whose query had been answered. */
	udpOutbound(i: number): void {
		const { table, now16 } = this.#c;
		if (table.state(i) === UDP_DNS) table.setState(i, UDP_NEW, now16);
		else table.touch(i, now16);
	}

	/** An inbound UDP packet of a session that was not answered yet, or whose query was. */
	udpInbound(i: number): void {
		const { table, now16 } = this.#c;
		if (table.state(i) !== UDP_NEW) return;
		if (secondOf(table.T[(i << 4) + R_OUT]) === DNS_PORT) table.setState(i, UDP_DNS, now16);
		else table.setStateKeepingTime(i, UDP_OPEN, now16);
	}

	/**
	 * A packet larger than the MTU of its way out. Returns 0 if it may go all the same (its segments fit), 1 if it was dealt with: DF is answered with the MTU
	 * (RFC 1191, RFC 4787 REQ-13). `port` is where it came from, -1 for the WAN.
	 */
	tooBig(s: number, length: number, mtu: number, port: number, i: number): number {
		this.#slot = s;
		this.#port = port;
		const { P, H, B } = this.#c.views;
		const w = (s >> 2) + IP_WORD;
		if (P[s >> 2] & VNET_GSO) {
			const tcp = (this.#c.table.T[(i << 4) + R_META] & 0xff) === TCP;
			const ip = (B[s + SLOT_IP] & 15) * 4;
			const header = ip + (tcp ? (swap16(H[(w << 1) + (ip >> 1) + 6]) >> 12) * 4 : 8);
			if (H[(s >> 1) + VNET_GSO_SIZE] + header <= mtu) return 0;
		}
		if (P[w + 1] & IP_DF) {
			this.#drop(REASON["too-big"]);
			this.#errors.send(s, length, port, FRAGMENTATION_NEEDED, mtu);
		} else this.#drop(REASON.fragment);
		return 1;
	}

	// ---- called for packets of any other form -------------------------------------------------------------------------

	/** Any frame from LAN port `port`; `received` are the bytes behind the link header. */
	outbound(s: number, received: number, port: number): void {
		this.#slot = s;
		this.#port = port;
		const c = this.#c;
		const lan = c.lan[port];
		const length = this.#header(s, received, lan);
		if (length === 0) return;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = (s >> 2) + IP_WORD;
		if (B[ip + 8] < (lan.kernelForwards ? 1 : 2)) {
			this.#drop(REASON["ttl-expired"]);
			this.#errors.send(s, length, port, TIME_EXCEEDED);
			return;
		}
		const header = (B[ip] & 15) * 4;
		const room = length - header;
		const l4 = (ip + header) >> 1;
		const protocol = B[ip + 9];
		const inside = P[w + 3];
		const peer = P[w + 4];
		let i: number;
		if (protocol === ICMP) {
			if (room < 8) return void this.#drop(REASON["bad-transport"]);
			const type = B[ip + header];
			if (isError(type)) return this.#errorOutbound(s, length, header, port);
			if (type !== ECHO && type !== ECHO_REPLY && type !== TIMESTAMP && type !== TIMESTAMP_REPLY) {
				return void this.#drop(REASON["icmp-unsupported"]);
			}
			i = c.table.findOut(ICMP, inside, peer, pair(H[l4 + 2], 0));
			if (i === 0) {
				if (type !== ECHO && type !== TIMESTAMP) return void this.#drop(REASON["no-mapping"]);
				i = this.#opening.outbound(ICMP, inside, H[l4 + 2], peer, 0, 0, port, s);
				if (i <= 0) return void this.#refuse(s, length, port, refused(i));
			}
			c.table.touch(i, c.now16);
		} else {
			const ported = protocol === TCP || protocol === UDP;
			const fault = transportFault(H, protocol, l4, room);
			if (fault >= 0) return void this.#drop(fault);
			i = c.table.findOut(protocol, inside, peer, ported ? P[(ip + header) >> 2] : 0);
			if (i === 0) i = this.#openOutbound(s, length, port, protocol, inside, peer, l4, room);
			if (i === 0) return;
			if (protocol === TCP) this.#tcpOutbound(i, s, (ip + header) >> 2, room);
			else if (protocol === UDP) this.udpOutbound(i);
			else c.table.touch(i, c.now16);
		}
		if (length > c.wan.mtu && this.tooBig(s, length, c.wan.mtu, port, i) !== 0) return;
		const t = c.table.T;
		const meta = t[(i << 4) + R_META];
		this.#rewrite(s, header, protocol, t[(i << 4) + R_DELTA], lan, lan, c.wan);
		P[w + 3] = c.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff];
		if (protocol === ICMP) H[l4 + 2] = secondOf(t[(i << 4) + R_IN]);
		else if (protocol === TCP || protocol === UDP) H[l4] = secondOf(t[(i << 4) + R_IN]);
		this.#count(i, length, R_PACKETS_OUT, R_BYTES_OUT, R_HIGH_OUT);
		this.#toWan(s, length, meta >>> HOP_SHIFT);
	}

	/** Any frame from the WAN port. */
	inbound(s: number, received: number): void {
		this.#slot = s;
		this.#port = -1;
		const c = this.#c;
		const length = this.#header(s, received, c.wan);
		if (length === 0) return;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = (s >> 2) + IP_WORD;
		const peer = P[w + 3];
		const outside = P[w + 4];
		const external = c.externals.find(outside);
		if (external < 0) return void this.#drop(REASON["not-ours"]);
		const header = (B[ip] & 15) * 4;
		const room = length - header;
		const l4 = (ip + header) >> 1;
		const protocol = B[ip + 9];
		let i: number;
		let fresh = false;
		if (protocol === ICMP) {
			if (room < 8) return void this.#drop(REASON["bad-transport"]);
			const type = B[ip + header];
			if (isError(type)) return this.#errorInbound(s, length, header, external);
			const asks = type === ECHO || type === TIMESTAMP;
			if (!asks && type !== ECHO_REPLY && type !== TIMESTAMP_REPLY) return this.#leave(external, "icmp-unsupported");
			// A query to a shared address is for the router, even if one from inside to that peer has the same identifier.
			if (asks && c.externals.list[external].shared) return this.#leave(external);
			i = c.table.findIn(ICMP, peer, outside, external, pair(0, H[l4 + 2]));
			if (i === 0 && asks) {
				fresh = true;
				i = this.#opening.inbound(ICMP, peer, 0, external, H[l4 + 2], 0);
				if (i < 0) return void this.#drop(refused(i));
			}
			if (i === 0) return this.#leave(external);
		} else {
			const fault = transportFault(H, protocol, l4, room);
			if (fault >= 0) return void this.#drop(fault);
			const ported = protocol === TCP || protocol === UDP;
			i = c.table.findIn(protocol, peer, outside, external, ported ? P[(ip + header) >> 2] : 0);
			if (i === 0 && !ported && external === 0) return this.#leave(external);
			fresh = i === 0;
			if (i === 0) i = this.#openInbound(protocol, peer, outside, l4, room);
			if (i === 0) return;
		}
		// Judged only now, because what is for the router itself may arrive with its last hop (RFC 1812 section 5.3.1).
		if (B[ip + 8] < 2) {
			if (fresh) this.#admission.end(i, "refused");
			this.#drop(REASON["ttl-expired"]);
			this.#errors.send(s, length, -1, TIME_EXCEEDED);
			return;
		}
		if (protocol === TCP && !this.#tcpInbound(i, s, (ip + header) >> 2, room)) return;
		if (protocol === UDP) this.udpInbound(i);
		const host = c.table.T16[(i << 5) + R_HOST];
		const lan = c.lan[(c.hosts.W[host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff];
		if (length > lan.mtu && !lan.kernelForwards && this.tooBig(s, length, lan.mtu, -1, i) !== 0) return;
		const t = c.table.T;
		this.#rewrite(s, header, protocol, ~t[(i << 4) + R_DELTA], lan, c.wan, lan);
		P[w + 4] = t[i << 4];
		if (protocol === ICMP) H[l4 + 2] = firstOf(t[(i << 4) + R_OUT]);
		else if (protocol === TCP || protocol === UDP) H[l4 + 1] = firstOf(t[(i << 4) + R_OUT]);
		this.#count(i, length, R_PACKETS_IN, R_BYTES_IN, R_HIGH_IN);
		this.#toLan(s, length, host, lan);
	}

	/** What the WAN port's own address gets and we do not want is the kernel's; at the other external addresses there is only us. */
	#leave(external: number, reason: ReasonName = "no-mapping"): void {
		if (external === 0) this.#c.left++;
		else this.#drop(REASON[reason]);
	}

	/**
	 * Header checks of RFC 1812 section 5.2.2, each with its own reason. Returns the packet's total length, 0 if it was dropped.
	 */
	#header(s: number, received: number, link: Link): number {
		const { P, H, B } = this.#c.views;
		const ip = s + SLOT_IP;
		if (received < 20) return this.#drop(REASON["short-packet"]);
		if (B[ip] >> 4 !== 4) return this.#drop(REASON["bad-version"]);
		const header = (B[ip] & 15) * 4;
		if (header < 20 || header > received) return this.#drop(REASON["bad-header-length"]);
		if (sumOf(H, B, ip, header) !== 0xffff) return this.#drop(REASON["bad-header-checksum"]);
		if (link.ethernet && (H[(s >> 1) + 5] & ETHER_GROUP) !== 0) return this.#drop(REASON["link-broadcast"]);
		const length = swap16(H[(ip >> 1) + 1]);
		if (length < header || length > received) return this.#drop(REASON["bad-total-length"]);
		if ((P[(ip >> 2) + 1] & IP_FRAGMENT) !== 0) return this.#drop(REASON.fragment);
		for (let at = ip + 20; at < ip + header && B[at] !== 0; ) {
			if (B[at] === 1) at++;
			else if (B[at] === 131 || B[at] === 137) return this.#drop(REASON["source-route"]);
			else if (at + 1 >= ip + header || B[at + 1] < 2) return this.#drop(REASON["bad-header-length"]);
			else at += B[at + 1];
		}
		return length;
	}

	/** Checksums, hop count and virtio offsets of a packet with any header length; addresses and ports are the caller's. `delta` is the session's, by direction. */
	#rewrite(s: number, header: number, protocol: number, delta: number, lan: { kernelForwards: boolean }, from: Link, to: Link): void {
		const { P, H } = this.#c.views;
		const ip = s + SLOT_IP;
		const h = ip >> 1;
		const l4 = (ip + header) >> 1;
		const both = delta >>> 16;
		const addresses = delta & 0xffff;
		H[h + 5] = adjust(H[h + 5], lan.kernelForwards ? addresses : fold(addresses + TTL_ONE_SUM));
		if (!lan.kernelForwards) P[(ip >> 2) + 2] -= TTL_ONE;
		if (P[s >> 2] & VNET_PARTIAL) {
			// Of TCP and UDP the pseudo-header is summed already; of the others nothing is yet.
			const field = protocol === TCP ? l4 + 8 : l4 + 3;
			if (protocol === TCP || protocol === UDP) H[field] = fold(H[field] + addresses);
		} else if (protocol === TCP) H[l4 + 8] = adjust(H[l4 + 8], both);
		else if (protocol === UDP && H[l4 + 3] !== 0) H[l4 + 3] = adjustUdp(H[l4 + 3], both);
		else if (protocol === ICMP) H[l4 + 1] = adjust(H[l4 + 1], fold(both + (addresses ^ 0xffff)));
		else if (protocol === UDPLITE || protocol === DCCP) H[l4 + 3] = adjustUdp(H[l4 + 3], addresses);
		this.#cross(s, from, to);
	}

	/** Virtio offsets count from the link header, if there is one: moves them between ports of different kinds. */
	#cross(s: number, from: Link, to: Link): void {
		const { P, H } = this.#c.views;
		const by = (to.ethernet ? 14 : 0) - (from.ethernet ? 14 : 0);
		if (by === 0 || P[s >> 2] === 0) return;
		if (P[s >> 2] & VNET_PARTIAL) H[(s >> 1) + VNET_CSUM_START] += by;
		if (H[(s >> 1) + VNET_HDR_LEN] !== 0) H[(s >> 1) + VNET_HDR_LEN] += by;
	}

	#count(i: number, length: number, packets: number, bytes: number, high: number): void {
		const { T, T16 } = this.#c.table;
		T[(i << 4) + packets]++;
		let b = T[(i << 4) + bytes] + length;
		if (b >= BYTES_CARRY) {
			b -= BYTES_CARRY;
			T16[(i << 5) + high]++;
		}
		T[(i << 4) + bytes] = b;
	}

	#toWan(s: number, length: number, hop: number): void {
		const c = this.#c;
		const tag = c.hops.tags[hop];
		if (tag === 0) c.hops.hold(hop, s, length);
		else if (c.wan.queue.push(s, length, tag)) c.forwardedOut++;
		else this.#drop(REASON["queue-full"]);
	}

	#toLan(s: number, length: number, host: number, lan: Link): void {
		const c = this.#c;
		if ((c.hosts.W[host * 4 + HOST_PLACE] & HOST_REACHABLE) === 0) c.hops.holdInside(host, s, length);
		else if (lan.queue.push(s, length, headerTag(HOST_HEADERS + host))) c.forwardedIn++;
		else this.#drop(REASON["queue-full"]);
	}

	// ---- ICMP errors -----------------------------------------------------------------------------------------------------

	/** An error from inside about a packet that came in through a session (RFC 5508 REQ-5). */
	#errorOutbound(s: number, length: number, header: number, port: number): void {
		const c = this.#c;
		const at = s + SLOT_IP + header;
		const lan = c.lan[port];
		const found = translateError(c, at, length - header, true, 0);
		if (found < 0) return void this.#drop(refused(found));
		const { P, H } = c.views;
		const w = (s >> 2) + IP_WORD;
		const meta = c.table.T[(found << 4) + R_META];
		const address = c.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff];
		const delta = fold(halfDelta(P[w + 3] & 0xffff, address & 0xffff) + halfDelta(P[w + 3] >>> 16, address >>> 16));
		H[(w << 1) + 5] = adjust(H[(w << 1) + 5], lan.kernelForwards ? delta : fold(delta + TTL_ONE_SUM));
		if (!lan.kernelForwards) P[w + 2] -= TTL_ONE;
		P[w + 3] = address;
		this.#cross(s, lan, c.wan);
		const hop = c.hops.find(P[w + 4]);
		if (hop < 0) return void this.#drop(REASON["no-route"]);
		this.#toWan(s, length, hop);
	}

	/** An error from outside about a packet that went out through a session (RFC 5508 REQ-4, RFC 4787 REQ-12: it changes no state). */
	#errorInbound(s: number, length: number, header: number, external: number): void {
		const c = this.#c;
		const at = s + SLOT_IP + header;
		const found = translateError(c, at, length - header, false, external);
		if (found < 0) {
			const reason = refused(found);
			// An error about the router's own packet is the kernel's.
			if (reason === REASON["icmp-no-session"] && external === 0) c.left++;
			else this.#drop(reason);
			return;
		}
		const { P, H, B } = c.views;
		const w = (s >> 2) + IP_WORD;
		if (B[s + SLOT_IP + 8] < 2) return void this.#drop(REASON["ttl-expired"]);
		const inside = c.table.T[found << 4];
		const host = c.table.T16[(found << 5) + R_HOST];
		const lan = c.lan[(c.hosts.W[host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff];
		const delta = fold(halfDelta(P[w + 4] & 0xffff, inside & 0xffff) + halfDelta(P[w + 4] >>> 16, inside >>> 16));
		H[(w << 1) + 5] = adjust(H[(w << 1) + 5], lan.kernelForwards ? delta : fold(delta + TTL_ONE_SUM));
		if (!lan.kernelForwards) P[w + 2] -= TTL_ONE;
		P[w + 4] = inside;
		this.#cross(s, c.wan, lan);
		this.#toLan(s, length, host, lan);
	}
}
