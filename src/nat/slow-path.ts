/**
 * The slow path, everything that the fast path does not take: header faults, options, fragments, ICMP, packets that
 * open a session, TCP segments that change a state, packets that are too big. Each is described once
 * (packet-descriptor.ts) and then dropped, answered, left to the kernel, or translated and queued.
 *
 *   header-check, fragment-pool -> session, or outbound -> track -> fragmentation -> translate -> the WAN, or hairpin
 *   header-check, fragment-pool -> session, or inbound  -> track -> fragmentation -> translate -> a LAN port
 */

import { HOP_SHIFT, R_ACK_OUT, R_META, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE } from "../conntrack/states.ts";
import { linkBytes } from "../packet/ethernet.ts";
import { ECHO, ECHO_REPLY, HOST_UNREACHABLE, ICMP_HEADER, isError, isQuery, isReply } from "../packet/icmp.ts";
import {
	IP_DESTINATION_W,
	IP_FLAGS_W,
	IP_LENGTH_H,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE_W,
	IP_TTL,
	PLAIN_PORTS_W,
	PLAIN_TCP_ACK_W,
	PLAIN_TCP_FLAGS_H,
} from "../packet/ipv4.ts";
import { ICMP, IP_DF, IP_FRAGMENT, IP_WORD, pair, SLOT_IP, swap16, TCP, UDP } from "../packet/layout.ts";
import { ACK, FIN, RST, SYN } from "../packet/tcp.ts";
import { isBadTransport } from "../packet/transport.ts";
import type { Admission } from "./admission.ts";
import { type Context, HAIRPIN, NO_ROUTE, type Queue } from "./context.ts";
import { FragmentPool } from "./fragment-pool.ts";
import { Fragmentation, segmentsFit } from "./fragmentation.ts";
import type { MakeFtpReader } from "./ftp-control.ts";
import { Hairpin } from "./hairpin.ts";
import { checkHeader } from "./header-check.ts";
import type { IcmpSender } from "./icmp-error.ts";
import { IcmpTransit } from "./icmp-transit.ts";
import { Inbound } from "./inbound.ts";
import { isAt, isMartian } from "./origin.ts";
import { Outbound } from "./outbound.ts";
import { PacketDescriptor } from "./packet-descriptor.ts";
import { chooseExternal } from "./pool.ts";
import { LEFT_TO_KERNEL, REASON, type ReasonName, refused } from "./reason.ts";
import { refuse } from "./refuse.ts";
import { RouterFlows } from "./router-flows.ts";
import { lanOfSession, mtuOut, sessionOut } from "./session-way.ts";
import { Track } from "./track.ts";
import { Translator } from "./translate.ts";
import { undeliverable, undeliverableInternal } from "./undeliverable.ts";
import { UnsolicitedSyns } from "./unsolicited-syn.ts";

/** The slow path. `s` is a slot's byte offset, `length` bytes of IPv4, `port` a LAN port number. */
export class SlowPath {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #errors: IcmpSender;
	readonly fragments: FragmentPool;
	readonly #unsolicited: UnsolicitedSyns;
	/** Opens sessions from inside. */
	readonly opening: Outbound;
	readonly #inbound: Inbound;
	readonly track: Track;
	readonly #fragmentation: Fragmentation;
	readonly #translator: Translator;
	readonly #hairpin: Hairpin;
	readonly #transit: IcmpTransit;
	/** The packet in hand. */
	readonly #packet: PacketDescriptor;

	constructor(c: Context, admission: Admission, errors: IcmpSender, makeFtp: MakeFtpReader) {
		const flows = new RouterFlows(c);
		this.#c = c;
		this.#admission = admission;
		this.#errors = errors;
		this.fragments = new FragmentPool(c);
		this.#unsolicited = new UnsolicitedSyns(c, this.fragments, errors);
		this.track = new Track(c, makeFtp);
		this.#packet = new PacketDescriptor(c);
		this.opening = new Outbound(c, admission, flows, errors, this.track, this.#packet);
		this.#inbound = new Inbound(c, admission, flows);
		this.#fragmentation = new Fragmentation(c, this.fragments, errors);
		this.#translator = new Translator(c, this.#fragmentation, (s, length) => this.#hairpin.turn(s, length));
		this.#hairpin = new Hairpin(c, admission, this.#translator, (p) => this.#inward(p));
		this.#transit = new IcmpTransit(c, this.#translator);
	}

	/** As {@link Track.takeOver}. */
	takeOver(boot: Int32Array): void {
		this.track.takeOver(boot);
	}

	/** True if {@link everySecond} has something to wait for. */
	get pending(): boolean {
		return this.fragments.waiting > 0 || this.#unsolicited.waiting > 0;
	}

	/** What is due by time alone. */
	everySecond(): void {
		this.fragments.recycle();
		this.fragments.expire();
		this.#unsolicited.expire();
	}

	// ---- called for packets of the common form ----------------------------------------------------------------------

	/**
	 * True if the packet in slot `s` from LAN port `port` may be of session `i`: its host is there, or has moved there.
	 * Else the packet is dropped: another LAN's host has forged it.
	 */
	comesFrom(i: number, s: number, port: number): boolean {
		if (isAt(this.#c, i, s, port)) return true;
		this.#c.dropLog.add(REASON["spoofed-source"], s, port, this.#c.now);
		return false;
	}

	/** A packet from the WAN with the addresses and ports of a session between two internal hosts. */
	notFromOutside(s: number): void {
		this.#c.dropLog.add(REASON["martian-source"], s, -1, this.#c.now);
	}

	/**
	 * A plain outbound TCP or UDP packet, which is none of a known session as a rule, from LAN port `port`, that others
	 * carry: the session by which it leaves; 0 if it was dealt with, or goes to one of our own addresses and is queued.
	 */
	carried(s: number, length: number, port: number): number {
		const c = this.#c;
		const p = this.#packet.read(s, length, port);
		if (isBadTransport(c.views.H, p.protocol, p.l4, p.room, p.flags)) return p.drop(REASON["bad-transport"]);
		let i = c.table.findOut(p.protocol, p.internal, p.peer, pair(p.internalPort, p.peerPort));
		if (i === 0) {
			if (this.#admission.full(p.internal)) return this.#refuse(p, REASON["table-full"]);
			i = this.opening.begin(p);
			if (i === 0) return 0;
		} else if (!isAt(c, i, s, port)) return p.drop(REASON["spoofed-source"]);
		else p.length = this.track.outbound(p, i);
		if (p.length === 0) return 0;
		if (c.table.T[(i << RECORD_SHIFT) + R_META] >>> HOP_SHIFT !== HAIRPIN) {
			this.#translator.count(i, length, 0);
			c.forwardedOut++;
			return i;
		}
		this.#translator.outbound(p, i, s, p.length, false);
		return 0;
	}

	#refuse(p: PacketDescriptor, reason: number): 0 {
		return refuse(this.#c, this.#errors, p, reason, p.frames);
	}

	/** First packet of an inbound TCP or UDP session: its record, or 0 if the packet was dealt with. */
	openInbound(s: number, length: number): number {
		const c = this.#c;
		const p = this.#packet.read(s, length, -1);
		if (isBadTransport(c.views.H, p.protocol, p.l4, p.room, p.flags)) return p.drop(REASON["bad-transport"]);
		// Without an address of its own the WAN port's is 0.
		if (p.external < 0) return p.drop(REASON["not-ours"]);
		return this.#openInbound(p);
	}

	#openInbound(p: PacketDescriptor): number {
		const c = this.#c;
		const from = p.hairpin ? c.lan.indexOf(lanOfSession(c, sessionOut(c, p.slot))) : -1;
		const i = this.#inbound.open(p, from);
		if (i > 0) return i;
		if (i === LEFT_TO_KERNEL && !p.hairpin) c.leftToKernel += p.frames;
		else {
			const reason = i === LEFT_TO_KERNEL ? REASON["no-mapping"] : refused(i);
			const unwanted = reason === REASON["no-mapping"] || reason === REASON.filtered;
			if (unwanted && p.protocol === TCP && !p.hairpin && (p.flags & (SYN | ACK | RST | FIN)) === SYN)
				this.#unsolicited.add(p.slot, p.length);
			p.drop(reason, p.frames);
		}
		return 0;
	}

	/** As {@link Fragmentation.identify}. */
	identify(s: number): void {
		this.#fragmentation.identify(s);
	}

	/** As {@link Translator.tunnelled}. */
	tunnelled(queue: Queue, field: number, delta: number): void {
		this.#translator.tunnelled(queue, field, delta);
	}

	/** As {@link Translator.hold}. */
	park(hop: number, s: number, length: number): void {
		this.#translator.park(hop, s, length);
	}

	/**
	 * A packet of the common form that is larger than the MTU of its way out may be: `least` is the smallest of any.
	 * Returns 0 if it may go all the same (it, or its segments, fit), 1 if it was dealt with. `port` is where it came
	 * from, -1 for the WAN; `i` its session.
	 */
	tooBig(s: number, length: number, least: number, port: number, i: number): number {
		const c = this.#c;
		const mtu = port >= 0 ? mtuOut(c, i) : least;
		if (length <= mtu || segmentsFit(c.views, s, mtu, linkBytes((port < 0 ? c.wan : c.lan[port]).ethernet))) return 0;
		const p = this.#packet.read(s, length, port);
		if (this.#fragmentation.refuses(p, mtu)) return 1;
		this.fragments.recycle();
		if (port >= 0) this.#translator.outbound(p, i, s, length, true);
		else this.#translator.inbound(p, i, s, length, true);
		return 1;
	}

	// ---- called for packets of any other form -----------------------------------------------------------------------

	/** Any frame from LAN port `port`; `received` are the bytes behind the link header. */
	outbound(s: number, received: number, port: number): void {
		const c = this.#c;
		const lan = c.lan[port];
		const length = checkHeader(c.views, s, received, lan.ethernet);
		if (length < 0) return this.#faulty(length, s, port);
		const p = this.#packet.read(s, length, port);
		if (c.views.B[s + SLOT_IP + IP_TTL] < (lan.kernelForwards ? 1 : 2)) return void this.#refuse(p, REASON["ttl-expired"]);
		const word = c.views.P[(s >> 2) + IP_WORD + IP_FLAGS_W];
		if ((word & IP_FRAGMENT) === 0) {
			if ((word & IP_DF) === 0) this.#fragmentation.identify(s);
			if (this.fragments.handedOut) this.fragments.recycle();
			return this.#outward(p);
		}
		const frames = this.fragments.add(s, length, lan.home);
		const first = this.fragments.slots[0];
		if (frames > 0) this.#outward(p.read(first, this.#lengthOf(first), port).fragmented(frames, this.fragments.total));
	}

	/** Drops a packet whose header {@link checkHeader} has refused. */
	#faulty(refusal: number, s: number, port: number): void {
		this.#c.dropLog.add(refused(refusal), s, port, this.#c.now);
	}

	#lengthOf(s: number): number {
		return swap16(this.#c.views.H[((s + SLOT_IP) >> 1) + IP_LENGTH_H]);
	}

	/** A packet from the LAN with a good header. */
	#outward(p: PacketDescriptor): void {
		const c = this.#c;
		const { views, table } = c;
		const { slot: s, protocol, frames } = p;
		let asks = true;
		if (protocol === ICMP ? p.room < ICMP_HEADER : isBadTransport(views.H, protocol, p.l4, p.room, p.flags))
			return void p.drop(REASON["bad-transport"], frames);
		if (protocol === ICMP) {
			const type = views.B[p.l4 * 2];
			// Nearly always an echo.
			asks = type === ECHO || isQuery(type);
			if (!asks && isError(type)) return frames > 1 ? void p.drop(REASON["icmp-bad-quote"], frames) : this.#transit.outbound(p);
			if (!asks && !isReply(type)) return void p.drop(REASON["icmp-unsupported"], frames);
		}
		let i = table.findOut(protocol, p.internal, p.peer, pair(p.internalPort, p.peerPort));
		if (i === 0) {
			if (asks) i = this.opening.begin(p);
			// A reply to what the router itself asked of an internal host under its external address.
			else if (p.peer === c.externals.A[0]) c.leftToKernel += frames;
			else p.drop(REASON["no-mapping"], frames);
			if (i === 0) return;
		} else if (!isAt(c, i, s, p.port)) return void p.drop(REASON["spoofed-source"], frames);
		const length = this.track.outbound(p, i);
		if (length === 0) return;
		// What fits every way fits its own.
		const mtu = frames === 1 && length <= c.hops.least ? length : mtuOut(c, i);
		const split = length > mtu && !segmentsFit(views, s, mtu, linkBytes(c.lan[p.port].ethernet));
		p.length = length;
		if (split && this.#fragmentation.refuses(p, mtu)) return;
		if (frames === 1) return this.#translator.outbound(p, i, s, length, split);
		const id = this.#fragmentation.nextId(p.peer);
		const { slots } = this.fragments;
		this.#hairpin.begin(p.room);
		for (let n = 0; n < frames; n++) {
			// The first piece may have been refused by the other side of a hairpin, and its session with it.
			if (table.state(i) === FREE) return void p.drop(REASON["no-mapping"], frames - n);
			const bytes = this.#lengthOf(slots[n]);
			this.#fragmentation.rename(slots[n], id);
			this.#translator.outbound(p, i, slots[n], bytes, bytes > mtu);
		}
	}

	/**
	 * Any frame from LAN port `port` while the WAN port has no address that can be used (`fault` is the reason then,
	 * else -1) or some destination no route: also packets of known sessions are refused, and their sessions are not
	 * touched, so that they go on when it is back.
	 */
	outboundImpaired(s: number, received: number, port: number, fault: number): void {
		const c = this.#c;
		const { P, H, B } = c.views;
		const w = (s >> 2) + IP_WORD;
		if (received < 20) return this.outbound(s, received, port);
		const unroutable = c.hops.find(P[w + IP_DESTINATION_W]) === NO_ROUTE;
		const reason = fault >= 0 && chooseExternal(c, P[w + IP_SOURCE_W]) === 0 ? fault : unroutable ? REASON["no-route"] : -1;
		if (reason < 0) return this.outbound(s, received, port);
		const length = checkHeader(c.views, s, received, c.lan[port].ethernet);
		if (length < 0) return this.#faulty(length, s, port);
		// What the host has acknowledged counts: should the address be another one in the end, it is there that its
		// reset must be.
		if (
			B[s + SLOT_IP] === IP_PLAIN_BYTE &&
			B[s + SLOT_IP + IP_PROTOCOL] === TCP &&
			length >= 40 &&
			(swap16(H[(w << 1) + PLAIN_TCP_FLAGS_H]) & ACK) !== 0
		) {
			const i = c.table.findOut(TCP, P[w + IP_SOURCE_W], P[w + IP_DESTINATION_W], P[w + PLAIN_PORTS_W]);
			if (i !== 0 && isAt(c, i, s, port)) c.table.T[(i << RECORD_SHIFT) + R_ACK_OUT] = P[w + PLAIN_TCP_ACK_W];
		}
		this.#refuse(this.#packet.read(s, length, port), reason);
	}

	/** Any frame from the WAN port. */
	inbound(s: number, received: number): void {
		const c = this.#c;
		const length = checkHeader(c.views, s, received, c.wan.ethernet);
		if (length < 0) return this.#faulty(length, s, -1);
		const p = this.#packet.read(s, length, -1);
		if (p.external < 0) return void p.drop(REASON["not-ours"]);
		if (isMartian(c, p.peer)) return void p.drop(REASON["martian-source"]);
		if ((c.views.P[(s >> 2) + IP_WORD + IP_FLAGS_W] & IP_FRAGMENT) === 0) {
			if (this.fragments.handedOut) this.fragments.recycle();
			this.#inward(p);
			return;
		}
		const frames = this.fragments.add(s, length, -1);
		const first = this.fragments.slots[0];
		if (frames > 0) this.#inward(p.read(first, this.#lengthOf(first), -1).fragmented(frames, this.fragments.total));
	}

	/** A packet to one of our addresses with a good header. Returns its session, 0 if it did not go on. */
	#inward(p: PacketDescriptor): number {
		const c = this.#c;
		const { views, table } = c;
		const { slot: s, protocol, external, frames, hairpin } = p;
		let opens = true;
		if (protocol === ICMP ? p.room < ICMP_HEADER : isBadTransport(views.H, protocol, p.l4, p.room, p.flags))
			return p.drop(REASON["bad-transport"], frames);
		if (protocol === ICMP) {
			const type = views.B[p.l4 * 2];
			opens = type !== ECHO_REPLY && isQuery(type);
			if (!opens && type !== ECHO_REPLY && isError(type))
				return frames > 1 ? p.drop(REASON["icmp-bad-quote"], frames) : this.#transit.inbound(p);
			if (!opens && type !== ECHO_REPLY && !isReply(type)) return this.#leave(p, "icmp-unsupported");
			// A query to a shared address is for the router, even if one from inside to that peer has the same
			// identifier.
			if (opens && c.externals.list[external].shared) return this.#leave(p);
		}
		let i = table.findIn(protocol, p.peer, p.address, external, pair(p.peerPort, p.externalPort));
		const fresh = i === 0;
		if (fresh) {
			// Of protocols without bitmap the kernel may have sessions of its own.
			const known = protocol === TCP || protocol === UDP || protocol === ICMP || external !== 0 || hairpin;
			if (!opens || (!known && !this.#inbound.knows(protocol, p.externalPort))) return this.#leave(p);
			i = this.#openInbound(p);
			if (i === 0) return 0;
		}
		// Judged only now, because what is for the router itself may arrive with its last hop (RFC 1812 section 5.3.1).
		if (views.B[s + SLOT_IP + IP_TTL] < 2 && !hairpin) {
			if (fresh) this.#admission.end(i, "refused");
			return this.#refuse(p, REASON["ttl-expired"]);
		}
		if (!this.track.inbound(p, i)) return 0;
		const lan = lanOfSession(c, i);
		const { length } = p;
		const split = length > lan.mtu && !segmentsFit(views, s, lan.mtu, linkBytes(c.wan.ethernet));
		if (split && this.#fragmentation.refuses(p, lan.mtu)) return 0;
		if (frames === 1) this.#translator.inbound(p, i, s, length, split);
		else {
			const { slots } = this.fragments;
			for (let n = 0; n < frames; n++) {
				const bytes = this.#lengthOf(slots[n]);
				this.#translator.inbound(p, i, slots[n], bytes, bytes > lan.mtu);
			}
		}
		return i;
	}

	/**
	 * What the WAN port's own address gets and we do not want is the kernel's; at the other external addresses there is
	 * only us.
	 */
	#leave(p: PacketDescriptor, reason: ReasonName = "no-mapping"): 0 {
		if (p.external !== 0) return p.drop(REASON[reason], p.frames);
		this.#c.leftToKernel += p.frames;
		return 0;
	}

	// ---- called for packets that wait, or have waited, for a neighbour ----------------------------------------------

	/** As {@link sessionOut}. */
	sessionOf(s: number): number {
		return sessionOut(this.#c, s);
	}

	/** As in undeliverable.ts. */
	undeliverable(s: number, length: number, kind = HOST_UNREACHABLE): void {
		undeliverable(this.#c, this.#errors, s, length, kind);
	}

	/** As in undeliverable.ts. */
	undeliverableInternal(s: number, length: number): void {
		undeliverableInternal(this.#c, this.#errors, s, length);
	}
}
