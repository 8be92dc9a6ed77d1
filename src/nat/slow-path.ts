/**
 * The slow path, everything that the fast path does not take: header faults, options, ICMP queries, packets that open a session, TCP segments that change a
 * state, packets that are too big. The fast loops (fast-path.ts) hand frames over and this code drops, answers or queues them.
 */

import {
	ANSWERED,
	BYTES_CARRY,
	EXTERNAL_SHIFT,
	HOP_SHIFT,
	HOST_FRESH,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	R_ACK_OUT,
	R_BYTES_OUT,
	R_DELTA,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
	R_PEER,
	TENDED,
} from "../conntrack/record.ts";
import {
	FREE,
	ICMP_QUERY,
	OTHER,
	STRANGER,
	TCP_CLOSING,
	TCP_ESTABLISHED,
	TCP_OPENED_IN,
	TCP_SYN_IN,
	TCP_SYN_OUT,
	UDP_DNS,
	UDP_NEW,
	UDP_OPEN,
} from "../conntrack/states.ts";
import { tcpIn, tcpOut } from "../conntrack/tcp.ts";
import { adjust, adjustUdp, fold, halfDelta, sumOf } from "../packet/checksum.ts";
import { changeSctpPort, putSctpSum, sctpSum } from "../packet/crc32c.ts";
import {
	ACK,
	DCCP,
	ETHER_GROUP,
	FIN,
	firstOf,
	hasPorts,
	ICMP,
	IP_DF,
	IP_FRAGMENT,
	IP_MORE,
	IP_OFFSET,
	IP_WORD,
	LITTLE,
	pair,
	RST,
	SCTP,
	SLOT_ETHER,
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
import { HEADER_SIZE, HOST_HEADERS, headerTag } from "../packet/link-header.ts";
import { completeSum, GSO_UDP, isTunnelled, Segments } from "../packet/segments.ts";
import type { Admission } from "./admission.ts";
import { FtpAlg, GROWTH } from "./alg.ts";
import { type Context, HAIRPIN, type LanLink, type Link, lanOf, NO_ROUTE, type Queue } from "./context.ts";
import { FragmentPool } from "./fragment-pool.ts";
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
import { Identifications } from "./identification.ts";
import { clampMss } from "./mss.ts";
import { LEFT_TO_KERNEL, Opening, refused, transportFault } from "./outbound.ts";
import { REASON, type ReasonName } from "./reason.ts";
import { isRenamed, renamePeer } from "./renamed-peer.ts";
import { replyReset } from "./tcp-reset.ts";
import { UnsolicitedSyns } from "./unsolicited-syn.ts";

const ECHO_REPLY = 0;
const ECHO = 8;
const TIMESTAMP = 13;
const TIMESTAMP_REPLY = 14;
const DNS_PORT = swap16(53);
/** Queries that a resolver asks at once from one port. */
const DNS_QUERIES = 2;
/** First chunk of an SCTP packet that ends an association: ABORT, SHUTDOWN COMPLETE (RFC 9260 section 3.2). */
const SCTP_ABORT = 6;
const SCTP_SHUTDOWN_COMPLETE = 14;
/** First chunk of the answer to one that opens an association; its initiate tag is at the 16th byte, and what answers it has that as its verification tag. */
const SCTP_INIT_ACK = 2;
/** DCCP-Response and DCCP-Reset (RFC 4340 section 5.1). */
const DCCP_RESPONSE = 1;
const DCCP_RESET = 7;
/** Identifications that a super-packet may use up. */
const IDS_OF_SUPER_PACKET = 64;
const TTL_MAX = 255;
/** IPv4 option bit: repeated in every fragment (RFC 791 section 3.1). */
const OPTION_COPIED = 0x80;
/** Segments of a super-packet that are cut further before they are sent, so that the blocks which they take stay few. */
const SEGMENTS_AT_ONCE = 8;

/** The slow path. `s` is a slot's byte offset, `length` bytes of IPv4, `port` a LAN port number. */
export class SlowPath {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #opening: Opening;
	/** Slot of the frame in hand and where it came from, for the drop log. */
	#slot = 0;
	#port = -1;
	readonly #errors: IcmpSender;
	readonly #ftp: FtpAlg;
	readonly #unsolicited: UnsolicitedSyns;
	readonly fragments: FragmentPool;
	readonly #ids: Identifications;
	readonly #segments: Segments;
	/** Session of the fragmented datagram that is being turned around, and the identification of its fragments. */
	#hairpinSession = 0;
	#hairpinId = -1;
	/** Transport bytes of that datagram. */
	#hairpinRoom = 0;

	/** `ftpMemory` is a file's if FTP control connections are to outlive the process; {@link takeOver} goes on with what it holds. */
	constructor(c: Context, admission: Admission, errors: IcmpSender, ftpMemory?: ArrayBuffer) {
		this.#c = c;
		this.#admission = admission;
		this.#errors = errors;
		this.#ftp = new FtpAlg(c, ftpMemory);
		this.#opening = new Opening(c, admission);
		this.fragments = new FragmentPool(c);
		this.#ids = new Identifications(c.ipId);
		this.#segments = new Segments(c.views);
		this.#unsolicited = new UnsolicitedSyns(c, this.fragments, errors);
	}

	/** As {@link FtpAlg.takeOver}. */
	takeOver(boot: Int32Array): void {
		this.#ftp.takeOver(boot);
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

	#drop(reason: number, pieces = 1): 0 {
		this.#c.dropLog.add(reason, this.#slot, this.#port, this.#c.now, pieces);
		return 0;
	}

	// ---- where packets come from --------------------------------------------------------------------------------------

	/**
	 * True if the packet in slot `s` from LAN port `port` may be of session `i`: its host is there, or has moved there. Else the packet is dropped: another LAN's
	 * host has forged it.
	 */
	comesFrom(i: number, s: number, port: number): boolean {
		if (this.#isAt(i, s, port)) return true;
		this.#slot = s;
		this.#port = port;
		this.#drop(REASON["spoofed-source"]);
		return false;
	}

	#isAt(i: number, s: number, port: number): boolean {
		const c = this.#c;
		const host = c.table.T16[(i << 5) + R_HOST];
		const place = (c.hosts.W[host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
		return place === c.lan[port].home || this.#opening.moves(host, place, port, s);
	}

	/** A packet from the WAN with the addresses and ports of a session between two inside hosts. */
	notFromOutside(s: number): void {
		this.#slot = s;
		this.#port = -1;
		this.#drop(REASON["martian-source"]);
	}

	// ---- called for packets of the common form ----------------------------------------------------------------------

	/** First packet of an outbound TCP or UDP session: its record, or 0 if the packet was dealt with. */
	openOutbound(s: number, length: number, port: number): number {
		this.#slot = s;
		this.#port = port;
		const { P, B } = this.#c.views;
		const w = (s >> 2) + IP_WORD;
		if (this.#admission.full(P[w + 3])) return this.#refuse(s, length, port, REASON["table-full"]);
		return this.#openOutbound(s, length, port, B[s + SLOT_IP + 9], P[w + 3], P[w + 4], (w << 1) + 10, length - 20);
	}

	#openOutbound(
		s: number,
		length: number,
		port: number,
		protocol: number,
		inside: number,
		peer: number,
		l4: number,
		room: number,
		pieces = 1,
	): number {
		const { H } = this.#c.views;
		const fault = transportFault(H, protocol, l4, room);
		if (fault >= 0) return this.#drop(fault, pieces);
		const flags = protocol === TCP ? swap16(H[l4 + 6]) & 0x3f : 0;
		const ported = hasPorts(protocol);
		const i = this.#opening.outbound(protocol, inside, ported ? H[l4] : 0, peer, ported ? H[l4 + 1] : 0, flags, port, s);
		if (i !== LEFT_TO_KERNEL) return i > 0 ? i : this.#refuse(s, length, port, refused(i), pieces);
		this.#c.left += pieces;
		return 0;
	}

	/** Counts a refusal and tells the inside host where an error helps it (RFC 6888 REQ-11, RFC 1812 section 4.3.3.1). */
	#refuse(s: number, length: number, port: number, reason: number, pieces = 1): 0 {
		this.#drop(reason, pieces);
		switch (reason) {
			case REASON["table-full"]:
			case REASON["host-limit"]:
			case REASON["host-share"]:
			case REASON["host-rate"]:
			case REASON["ports-exhausted"]:
			case REASON["pool-exhausted"]:
				this.#errors.send(s, length, port, this.#c.policy.refusal);
				break;
			case REASON["protocol-busy"]:
			case REASON["private-destination"]:
				this.#errors.send(s, length, port, PROHIBITED);
				break;
			case REASON["tcp-no-session"]:
				if (!this.#c.adopt) replyReset(this.#c, s, port, (s + SLOT_IP + (this.#c.views.B[s + SLOT_IP] & 15) * 4) >> 1);
				break;
			case REASON["no-route"]:
			case REASON["address-conflict"]:
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
		return this.#openInbound(s, length, B[s + SLOT_IP + 9], P[w + 3], P[w + 4], (w << 1) + 10, length - 20, 1, false);
	}

	/** `pieces` are the frames that the packet consists of; `hairpin` says that an inside host sent it to one of our addresses. */
	#openInbound(
		s: number,
		length: number,
		protocol: number,
		peer: number,
		outside: number,
		l4: number,
		room: number,
		pieces: number,
		hairpin: boolean,
	): number {
		const c = this.#c;
		const { H } = c.views;
		const fault = transportFault(H, protocol, l4, room);
		if (fault >= 0) return this.#drop(fault, pieces);
		const flags = protocol === TCP ? swap16(H[l4 + 6]) & 0x3f : 0;
		const ported = hasPorts(protocol);
		const external = c.externals.find(outside);
		if (external < 0) return this.#drop(REASON["not-ours"], pieces);
		const i = this.#opening.inbound(protocol, peer, ported ? H[l4] : 0, external, ported ? H[l4 + 1] : 0, flags, this.#sender(s, hairpin));
		if (i > 0) return i;
		if (i === LEFT_TO_KERNEL && !hairpin) c.left += pieces;
		else {
			const reason = i === LEFT_TO_KERNEL ? REASON["no-mapping"] : refused(i);
			const unwanted = reason === REASON["no-mapping"] || reason === REASON.filtered;
			if (unwanted && protocol === TCP && !hairpin && (flags & (SYN | ACK | RST | FIN)) === SYN) this.#unsolicited.add(s, length);
			this.#drop(reason, pieces);
		}
		return 0;
	}

	/** LAN port of the inside host that has sent the hairpinned packet in slot `s`; -1 for one from outside. */
	#sender(s: number, hairpin: boolean): number {
		return hairpin ? this.#c.lan.indexOf(this.#lanOf(this.sessionOf(s))) : -1;
	}

	/** An outbound TCP segment that is not plain data of an established session. Returns its length, which an ALG may change; 0 if it was dealt with. */
	tcpOutbound(i: number, s: number, length: number): number {
		return this.#tcpOutbound(i, s, 20, length);
	}

	#tcpOutbound(i: number, s: number, header: number, length: number): number {
		const c = this.#c;
		const w = (s + SLOT_IP + header) >> 2;
		const flags = swap16(c.views.H[(w << 1) + 6]) & 0x3f;
		const seq = c.views.P[w + 1];
		const ack = c.views.P[w + 2];
		const renamed = isRenamed(c.table, i);
		if (flags & SYN) clampMss(c.views, s, w << 1, length - header, this.#mss(i));
		else if (!renamed && c.table.T[(i << 4) + R_META] & TENDED) {
			length = this.#ftp.outbound(i, s, header, length);
			if (length === 0) return 0;
		}
		tcpOut(c.table, i, flags, seq, ack, c.now16);
		if (renamed) renamePeer(c, i, s, w << 1, true);
		else if (flags & SYN && c.table.state(i) === TCP_SYN_OUT) this.#ftp.opened(i, true);
		return length;
	}

	/** An inbound one; false if it was dropped. */
	tcpInbound(i: number, s: number, length: number): boolean {
		this.#slot = s;
		this.#port = -1;
		return this.#tcpInbound(i, s, 20, length);
	}

	#tcpInbound(i: number, s: number, header: number, length: number): boolean {
		const c = this.#c;
		const w = (s + SLOT_IP + header) >> 2;
		const flags = swap16(c.views.H[(w << 1) + 6]) & 0x3f;
		if (!tcpIn(c.table, i, flags, c.views.P[w + 1], c.views.P[w + 2], c.now16)) {
			this.#drop(REASON["tcp-bad-reset"]);
			return false;
		}
		const renamed = isRenamed(c.table, i);
		if (renamed) renamePeer(c, i, s, w << 1, false);
		else if (flags & SYN && c.table.state(i) === TCP_SYN_IN) this.#ftp.opened(i, false);
		const tended = !renamed && (c.table.T[(i << 4) + R_META] & TENDED) !== 0;
		if (flags & SYN) clampMss(c.views, s, w << 1, length - header, this.#mss(i) - (tended ? GROWTH : 0));
		return !tended || this.#ftp.inbound(i, s, header, length);
	}

	#mss(i: number): number {
		return this.#mtuOut(i) - 40;
	}

	/** Largest packet that a session's way out of the WAN takes. */
	#mtuOut(i: number): number {
		const { table, hops, wan } = this.#c;
		const e = i << 4;
		return table.T[e + R_META] >>> HOP_SHIFT === HAIRPIN ? wan.mtu : hops.mtuTo(table.T[e + R_PEER]);
	}

	/** An outbound UDP packet of a session whose query had been answered, or that the outside has opened. */
	udpOutbound(i: number): void {
		const { table, now16 } = this.#c;
		const state = table.state(i);
		// What talks on after a reply, on whichever port, is no resolver's.
		if (state === UDP_DNS || state === STRANGER) table.setState(i, UDP_OPEN, now16);
		else table.touch(i, now16);
	}

	/** An inbound UDP packet, not counted yet, of a session that was not answered, or whose query was. */
	udpInbound(i: number): void {
		const { table, now16 } = this.#c;
		const { T } = table;
		const e = i << 4;
		const state = table.state(i);
		if (state !== UDP_NEW && state !== UDP_DNS) return;
		const queries = state === UDP_NEW && secondOf(T[e + R_OUT]) === DNS_PORT ? T[e + R_PACKETS_OUT] : 0;
		const replies = T[e + R_PACKETS_IN] + 1;
		// Only a query and its reply are over with it, or a resolver's two at once (A and AAAA) and theirs.
		if (queries === replies && replies <= DNS_QUERIES) table.setState(i, UDP_DNS, now16);
		else if (replies < queries && queries <= DNS_QUERIES) return;
		else table.setStateKeepingTime(i, UDP_OPEN, now16);
	}

	/** Notes an outbound packet of an ICMP query's session or of one without ports. What a stranger has opened is answered by it. */
	#saidInside(i: number, protocol: number): void {
		const { table, now16 } = this.#c;
		if (table.state(i) !== STRANGER) return table.touch(i, now16);
		table.T[(i << 4) + R_META] |= ANSWERED;
		table.setState(i, protocol === ICMP ? ICMP_QUERY : OTHER, now16);
	}

	/**
	 * An outbound datagram that may be fragmented on its way needs an identification that no other host behind our address uses (RFC 6864 section 5.3.1).
	 * A packet with DF keeps its own: nobody reads it.
	 */
	identify(s: number): void {
		const { P, H } = this.#c.views;
		const w = s + SLOT_IP;
		const id = this.#nextId(P[(w >> 2) + 4], (P[s >> 2] & VNET_GSO) === 0 ? 1 : IDS_OF_SUPER_PACKET);
		const at = (w >> 1) + 2;
		H[(w >> 1) + 5] = adjust(H[(w >> 1) + 5], halfDelta(H[at], id));
		H[at] = id;
	}

	/** Takes `count` identifications of datagrams to a destination; returns the first, as loaded. */
	#nextId(destination: number, count: number): number {
		return swap16(this.#ids.take(destination, count, this.#c.ipIds, this.#c.now16));
	}

	/**
	 * A UDP packet of the common form that holds a packet of a tunnel whose checksum is partial: its own, in halfword `field`, is not. `delta` is the
	 * session's, by direction. The port has to look at it: what it is, the virtio header can not say.
	 */
	tunnelled(queue: Queue, field: number, delta: number): void {
		const { H } = this.#c.views;
		if (H[field] !== 0) H[field] = adjustUdp(H[field], delta >>> 16);
		queue.mixed = true;
	}

	/**
	 * A packet of the common form that is larger than the MTU of its way out may be: `least` is the smallest of any. Returns 0 if it may go all the same (it, or
	 * its segments, fit), 1 if it was dealt with: sent in fragments, or with DF answered with the MTU (RFC 1191, RFC 4787 REQ-13). `port` is where it came from,
	 * -1 for the WAN; `i` its session.
	 */
	tooBig(s: number, length: number, least: number, port: number, i: number): number {
		this.#slot = s;
		this.#port = port;
		const c = this.#c;
		const mtu = port >= 0 ? this.#mtuOut(i) : least;
		if (length <= mtu) return 0;
		if (this.#segmentsFit(s, mtu, port < 0 ? c.wan : c.lan[port])) return 0;
		if (this.#mustNotSplit(s, length, mtu, port)) return 1;
		this.fragments.recycle();
		const protocol = c.views.B[s + SLOT_IP + 9];
		if (port >= 0) this.#emitOut(s, length, 20, protocol, i, port, length - 20, true);
		else this.#emitIn(s, length, 20, protocol, i, length - 20, this.#hops(i, false), true);
		return 1;
	}

	/** True if a packet is a super-packet whose segments fit the MTU. */
	#segmentsFit(s: number, mtu: number, from: Link): boolean {
		const { P, H, B } = this.#c.views;
		if ((P[s >> 2] & VNET_GSO) === 0) return false;
		// As segmentHeaders() has it: this is asked of every super-packet.
		const at = H[(s >> 1) + VNET_CSUM_START] - (from.ethernet ? 14 : 0);
		return H[(s >> 1) + VNET_GSO_SIZE] + at + (B[s + 1] === GSO_UDP ? 8 : (B[s + SLOT_IP + at + 12] >> 4) * 4) <= mtu;
	}

	/** True if a packet beyond the MTU must not be cut; its sender has been told then. */
	#mustNotSplit(s: number, length: number, mtu: number, port: number): boolean {
		const { P } = this.#c.views;
		if ((P[(s >> 2) + IP_WORD + 1] & IP_DF) === 0) return false;
		this.#drop(REASON["too-big"]);
		this.#errors.send(s, length, port, FRAGMENTATION_NEEDED, mtu);
		return true;
	}

	/** Hops that are counted here on the way to a session's inside host; a hairpinned packet has been counted already, and the kernel counts after us. */
	#hops(i: number, hairpin: boolean): number {
		return (this.#lanOf(i).kernelForwards ? 0 : 1) - (hairpin ? 1 : 0);
	}

	#lanOf(i: number): LanLink {
		const c = this.#c;
		const host = c.table.T16[(i << 5) + R_HOST];
		return c.lan[(c.hosts.W[host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff];
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
		const { P, B } = c.views;
		const ip = s + SLOT_IP;
		if (B[ip + 8] < (lan.kernelForwards ? 1 : 2)) {
			this.#drop(REASON["ttl-expired"]);
			this.#errors.send(s, length, port, TIME_EXCEEDED);
			return;
		}
		const word = P[(ip >> 2) + 1];
		const header = (B[ip] & 15) * 4;
		if ((word & IP_FRAGMENT) === 0) {
			if ((word & IP_DF) === 0) this.identify(s);
			this.fragments.recycle();
			this.#outward(s, length, port, length - header, 1);
			return;
		}
		const pieces = this.fragments.add(s, length, lan.home);
		if (pieces > 0) this.#outward(this.fragments.slots[0], this.#lengthOf(this.fragments.slots[0]), port, this.fragments.total, pieces);
	}

	#lengthOf(s: number): number {
		return swap16(this.#c.views.H[((s + SLOT_IP) >> 1) + 1]);
	}

	/**
	 * A packet from the LAN with a good header; `room` are the bytes behind the header of all its `pieces`, of which `s` is the first and the others are
	 * in the fragment pool's list.
	 */
	#outward(s: number, length: number, port: number, room: number, pieces: number): void {
		this.#slot = s;
		const c = this.#c;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const header = (B[ip] & 15) * 4;
		const l4 = (ip + header) >> 1;
		const protocol = B[ip + 9];
		const inside = P[w + 3];
		const peer = P[w + 4];
		let i: number;
		if (protocol === ICMP) {
			if (room < 8) return void this.#drop(REASON["bad-transport"], pieces);
			const type = B[ip + header];
			if (isError(type))
				return pieces > 1 ? void this.#drop(REASON["icmp-bad-quote"], pieces) : this.#errorOutbound(s, length, header, port);
			const asks = type === ECHO || type === TIMESTAMP;
			if (!asks && type !== ECHO_REPLY && type !== TIMESTAMP_REPLY) return void this.#drop(REASON["icmp-unsupported"], pieces);
			i = c.table.findOut(ICMP, inside, peer, pair(H[l4 + 2], 0));
			if (i === 0) {
				// A reply to what the router itself asked of an inside host under its outside address.
				if (!asks && peer === c.externals.A[0]) c.left += pieces;
				else if (!asks) this.#drop(REASON["no-mapping"], pieces);
				if (!asks) return;
				i = this.#opening.outbound(ICMP, inside, H[l4 + 2], peer, 0, 0, port, s);
				if (i <= 0) return void this.#refuse(s, length, port, refused(i), pieces);
			} else if (!this.#isAt(i, s, port)) return void this.#drop(REASON["spoofed-source"], pieces);
			this.#saidInside(i, protocol);
		} else {
			const fault = transportFault(H, protocol, l4, room);
			if (fault >= 0) return void this.#drop(fault, pieces);
			i = c.table.findOut(protocol, inside, peer, hasPorts(protocol) ? P[(ip + header) >> 2] : 0);
			if (i === 0) i = this.#openOutbound(s, length, port, protocol, inside, peer, l4, room, pieces);
			else if (!this.#isAt(i, s, port)) return void this.#drop(REASON["spoofed-source"], pieces);
			if (i === 0) return;
			if (protocol === TCP) {
				if (pieces > 1 && (c.table.T[(i << 4) + R_META] & TENDED) !== 0) return void this.#drop(REASON["alg-fragment"], pieces);
				length = this.#tcpOutbound(i, s, header, length);
				if (length === 0) return;
			} else if (protocol === UDP || protocol === UDPLITE) this.udpOutbound(i);
			else if (hasPorts(protocol)) this.#associate(i, l4, protocol, TCP_SYN_IN);
			else this.#saidInside(i, protocol);
		}
		const mtu = this.#mtuOut(i);
		const split = length > mtu && !this.#segmentsFit(s, mtu, c.lan[port]);
		if (split && this.#mustNotSplit(s, length, mtu, port)) return;
		if (pieces === 1) return this.#emitOut(s, length, header, protocol, i, port, room, split);
		const id = this.#nextId(peer, 1);
		const { slots } = this.fragments;
		this.#hairpinId = -1;
		this.#hairpinRoom = room;
		for (let n = 0; n < pieces; n++) {
			// The first piece may have been refused by the other side of a hairpin, and its session with it.
			if (c.table.state(i) === FREE) return void this.#drop(REASON["no-mapping"], pieces - n);
			const at = (slots[n] + SLOT_IP) >> 1;
			const bytes = this.#lengthOf(slots[n]);
			H[at + 5] = adjust(H[at + 5], halfDelta(H[at + 2], id));
			H[at + 2] = id;
			this.#emitOut(slots[n], bytes, (B[slots[n] + SLOT_IP] & 15) * 4, protocol, i, port, room, bytes > mtu);
		}
	}

	/**
	 * Any frame from LAN port `port` while the WAN port has no address that can be used (`fault` is the reason then, else -1) or some destination no route: also
	 * packets of known sessions are refused, and their sessions are not touched, so that they go on when it is back.
	 */
	outboundImpaired(s: number, received: number, port: number, fault: number): void {
		this.#slot = s;
		this.#port = port;
		const c = this.#c;
		if (received < 20) return this.outbound(s, received, port);
		const w = (s >> 2) + IP_WORD;
		const unroutable = c.hops.find(c.views.P[w + 4]) === NO_ROUTE;
		const reason = fault >= 0 && this.#opening.masquerades(c.views.P[w + 3]) ? fault : unroutable ? REASON["no-route"] : -1;
		if (reason < 0) return this.outbound(s, received, port);
		const length = this.#header(s, received, c.lan[port]);
		if (length === 0) return;
		// What the host has acknowledged counts: should the address be another one in the end, it is there that its reset must be.
		const { P, H, B } = c.views;
		if (B[s + SLOT_IP] === 0x45 && B[s + SLOT_IP + 9] === TCP && length >= 40 && (swap16(H[(w << 1) + 16]) & ACK) !== 0) {
			const i = c.table.findOut(TCP, P[w + 3], P[w + 4], P[w + 5]);
			if (i !== 0 && this.#isAt(i, s, port)) c.table.T[(i << 4) + R_ACK_OUT] = P[w + 7];
		}
		this.#refuse(s, length, port, reason);
	}

	/** Any frame from the WAN port. */
	inbound(s: number, received: number): void {
		this.#slot = s;
		this.#port = -1;
		const c = this.#c;
		const length = this.#header(s, received, c.wan);
		if (length === 0) return;
		const { P, B } = c.views;
		const ip = s + SLOT_IP;
		const external = c.externals.find(P[(ip >> 2) + 4]);
		if (external < 0) return void this.#drop(REASON["not-ours"]);
		if (this.#opening.isMartian(P[(ip >> 2) + 3])) return void this.#drop(REASON["martian-source"]);
		if ((P[(ip >> 2) + 1] & IP_FRAGMENT) === 0) {
			this.fragments.recycle();
			this.#inward(s, length, external, length - (B[ip] & 15) * 4, 1, false);
			return;
		}
		const pieces = this.fragments.add(s, length, -1);
		if (pieces === 0) return;
		const first = this.fragments.slots[0];
		this.#inward(first, this.#lengthOf(first), external, this.fragments.total, pieces, false);
	}

	/**
	 * A packet to external address number `external`; `room` and `pieces` as in {@link #outward}. `hairpin`: it is from an inside host, translated already.
	 * False if it did not go on.
	 */
	#inward(s: number, length: number, external: number, room: number, pieces: number, hairpin: boolean): boolean {
		this.#slot = s;
		const c = this.#c;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const peer = P[w + 3];
		const outside = P[w + 4];
		const header = (B[ip] & 15) * 4;
		const l4 = (ip + header) >> 1;
		const protocol = B[ip + 9];
		let i: number;
		let fresh = false;
		if (protocol === ICMP) {
			if (room < 8) return this.#drop(REASON["bad-transport"], pieces) !== 0;
			const type = B[ip + header];
			if (isError(type)) {
				if (pieces > 1) return this.#drop(REASON["icmp-bad-quote"], pieces) !== 0;
				return this.#errorInbound(s, length, header, external, hairpin);
			}
			const asks = type === ECHO || type === TIMESTAMP;
			if (!asks && type !== ECHO_REPLY && type !== TIMESTAMP_REPLY) return this.#leave(external, pieces, "icmp-unsupported");
			// A query to a shared address is for the router, even if one from inside to that peer has the same identifier.
			if (asks && c.externals.list[external].shared) return this.#leave(external, pieces);
			i = c.table.findIn(ICMP, peer, outside, external, pair(0, H[l4 + 2]));
			if (i === 0 && asks) {
				fresh = true;
				i = this.#opening.inbound(ICMP, peer, 0, external, H[l4 + 2], 0, this.#sender(s, hairpin));
				if (i < 0) return this.#drop(refused(i), pieces) !== 0;
			}
			if (i === 0) return this.#leave(external, pieces);
		} else {
			const fault = transportFault(H, protocol, l4, room);
			if (fault >= 0) return this.#drop(fault, pieces) !== 0;
			const ported = hasPorts(protocol);
			i = c.table.findIn(protocol, peer, outside, external, ported ? P[(ip + header) >> 2] : 0);
			if (i === 0 && protocol !== TCP && protocol !== UDP && external === 0 && !hairpin && !this.#opening.knows(protocol, H[l4 + 1]))
				return this.#leave(external, pieces);
			fresh = i === 0;
			if (i === 0) i = this.#openInbound(s, length, protocol, peer, outside, l4, room, pieces, hairpin);
			if (i === 0) return false;
		}
		// Judged only now, because what is for the router itself may arrive with its last hop (RFC 1812 section 5.3.1).
		if (B[ip + 8] < 2 && !hairpin) {
			if (fresh) this.#admission.end(i, "refused");
			this.#drop(REASON["ttl-expired"], pieces);
			this.#errors.send(s, length, -1, TIME_EXCEEDED);
			return false;
		}
		if (protocol === TCP && !this.#tcpInbound(i, s, header, length)) return false;
		if (protocol === UDP || protocol === UDPLITE) this.udpInbound(i);
		else if (protocol !== TCP && hasPorts(protocol)) this.#associate(i, l4, protocol, TCP_SYN_OUT);
		else if (protocol !== TCP && c.table.state(i) !== STRANGER) c.table.answer(i);
		const hops = this.#hops(i, hairpin);
		const lan = this.#lanOf(i);
		const most = lan.mtu;
		const split = length > most && !this.#segmentsFit(s, most, c.wan);
		if (split && this.#mustNotSplit(s, length, most, -1)) return false;
		if (pieces === 1) this.#emitIn(s, length, header, protocol, i, room, hops, split);
		else {
			const { slots } = this.fragments;
			for (let n = 0; n < pieces; n++) {
				const bytes = this.#lengthOf(slots[n]);
				this.#emitIn(slots[n], bytes, (B[slots[n] + SLOT_IP] & 15) * 4, protocol, i, room, hops, bytes > most);
			}
		}
		if (hairpin && (P[w + 1] & IP_MORE) !== 0) {
			this.#hairpinSession = i;
			this.#hairpinId = H[(ip >> 1) + 2];
		}
		return true;
	}

	/**
	 * The state of a session of SCTP or DCCP: `opening` is the state that a packet of this direction answers. What a stranger has opened is established when he
	 * answers in turn: his address may be forged, and then the inside's answer does not reach him.
	 */
	#associate(i: number, l4: number, protocol: number, opening: number): void {
		const { table, now16, views } = this.#c;
		const { T } = table;
		const { B, P } = views;
		const at = l4 * 2;
		const sctp = protocol === SCTP;
		const kind = sctp ? B[at + 12] : (B[at + 8] >> 1) & 15;
		const tag = (i << 4) + R_ACK_OUT;
		let state = table.state(i);
		if (sctp ? kind === SCTP_ABORT || kind === SCTP_SHUTDOWN_COMPLETE : kind === DCCP_RESET) state = TCP_CLOSING;
		else if (state === TCP_SYN_IN && opening === TCP_SYN_IN && kind === (sctp ? SCTP_INIT_ACK : DCCP_RESPONSE)) {
			state = TCP_OPENED_IN;
			T[tag] = P[(at >> 2) + 4];
		} else if (state === opening || (state === TCP_OPENED_IN && opening === TCP_SYN_OUT && (!sctp || P[(at >> 2) + 1] === T[tag])))
			state = TCP_ESTABLISHED;
		table.setState(i, state, now16);
	}

	/** Translates and queues one frame of session `i` for the WAN; `room` are the transport bytes of the whole packet, `split` cuts it to the MTU. */
	#emitOut(s: number, length: number, header: number, protocol: number, i: number, port: number, room: number, split: boolean): void {
		const c = this.#c;
		const { P } = c.views;
		const t = c.table.T;
		const meta = t[(i << 4) + R_META];
		const lan = c.lan[port];
		this.#rewrite(s, header, protocol, t[(i << 4) + R_DELTA], lan.kernelForwards ? 0 : 1, lan, c.wan);
		P[(s >> 2) + IP_WORD + 3] = c.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff];
		this.#setPort(s, header, protocol, room, 0, secondOf(t[(i << 4) + R_IN]));
		this.#count(i, length, 0);
		const hop = meta >>> HOP_SHIFT;
		if (split && hop !== HAIRPIN) this.#split(s, length, c.wan, this.#mtuOut(i), (f, bytes) => this.#toWan(f, bytes, hop));
		else this.#toWan(s, length, hop);
	}

	/** As {@link #emitOut} towards the inside host; `hops` are counted off. */
	#emitIn(s: number, length: number, header: number, protocol: number, i: number, room: number, hops: number, split: boolean): void {
		const c = this.#c;
		const t = c.table.T;
		const host = c.table.T16[(i << 5) + R_HOST];
		const lan = this.#lanOf(i);
		this.#rewrite(s, header, protocol, ~t[(i << 4) + R_DELTA], hops, c.wan, lan);
		c.views.P[(s >> 2) + IP_WORD + 4] = t[i << 4];
		this.#setPort(s, header, protocol, room, protocol === ICMP ? 0 : 1, firstOf(t[(i << 4) + R_OUT]));
		this.#count(i, length, 1);
		if (split) this.#split(s, length, lan, lan.mtu, (f, bytes) => this.#toLan(f, bytes, host, lan));
		else this.#toLan(s, length, host, lan);
	}

	/** Writes the source (`which` 0) or destination port, or a query's identifier, of a packet or first fragment. */
	#setPort(s: number, header: number, protocol: number, room: number, which: number, port: number): void {
		const { P, H, B } = this.#c.views;
		if ((P[(s >> 2) + IP_WORD + 1] & IP_OFFSET) !== 0) return;
		const l4 = s + SLOT_IP + header;
		if (protocol === ICMP) H[(l4 >> 1) + 2] = port;
		else if (protocol === SCTP) changeSctpPort(B, l4, room, which * 2, LITTLE ? port & 0xff : port >> 8, LITTLE ? port >> 8 : port & 0xff);
		else if (hasPorts(protocol)) H[(l4 >> 1) + which] = port;
	}

	/**
	 * Cuts the packet in slot `s`, which is translated, into fragments no larger than `mtu` for the port `to` and gives each to `send`, in order (RFC 791
	 * section 3.2, RFC 1812 section 4.2.2.7). Every fragment has the whole header; options that are not to be repeated become no-operations.
	 */
	#split(s: number, length: number, to: Link, mtu: number, send: (s: number, length: number) => void): void {
		const c = this.#c;
		const { P, H, B } = c.views;
		if ((P[s >> 2] & VNET_GSO) !== 0) return this.#splitSegments(s, length, to, mtu, send);
		const ip = s + SLOT_IP;
		const header = (B[ip] & 15) * 4;
		const step = (mtu - header) & ~7;
		completeSum(c.views, s, length, linkBytes(to), c.sum);
		const word = P[(ip >> 2) + 1];
		const base = ((B[ip + 6] & 0x1f) << 8) | B[ip + 7];
		const slots = [s];
		for (let at = step; at < length - header; at += step) {
			const bytes = Math.min(step, length - header - at);
			const f = this.fragments.borrow(header + bytes);
			if (f < 0) return void this.#drop(REASON["fragment-overload"]);
			B.copyWithin(f, s, ip + header);
			B.copyWithin(f + SLOT_IP + header, ip + header + at, ip + header + at + bytes);
			forgetOptions(B, f + SLOT_IP, header);
			slots.push(f);
		}
		for (const [n, f] of slots.entries()) {
			const bytes = Math.min(step, length - header - n * step);
			const more = n < slots.length - 1 || (word & IP_MORE) !== 0;
			const h = (f + SLOT_IP) >> 1;
			const offset = base + (n * step) / 8;
			H[h + 1] = swap16(header + bytes);
			H[h + 3] = swap16((more ? 0x2000 : 0) | offset);
			H[h + 5] = 0;
			H[h + 5] = sumOf(H, B, h * 2, header) ^ 0xffff;
			send(f, header + bytes);
		}
	}

	/** A super-packet whose segments are too large themselves: they are fragmented one by one, as they would be had they come so. */
	#splitSegments(s: number, length: number, to: Link, mtu: number, send: (s: number, length: number) => void): void {
		const c = this.#c;
		const segments = this.#segments;
		const count = segments.begin(s, length, linkBytes(to));
		if (count === 0) return void this.#drop(REASON["too-big"]);
		for (let k = 0; k < count; k++) {
			if (k > 0 && k % SEGMENTS_AT_ONCE === 0) {
				c.flush();
				this.fragments.recycle();
			}
			const f = this.fragments.borrow(segments.largest);
			if (f < 0) return void this.#drop(REASON["fragment-overload"], count - k);
			this.#split(f, segments.write(k, f), to, mtu, send);
		}
	}

	/** A translated packet that has no link header yet: its next hop is not known, or is one of our own addresses. */
	hold(hop: number, s: number, length: number): void {
		const c = this.#c;
		if (hop !== HAIRPIN) return c.hops.hold(hop, s, length);
		this.#slot = s;
		this.#port = 0;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const header = (B[ip] & 15) * 4;
		const external = c.externals.find(P[w + 4]);
		if (external < 0) return void this.#drop(REASON["not-ours"]);
		if ((P[w + 1] & IP_OFFSET) !== 0) {
			const i = this.#hairpinSession;
			if (this.#hairpinId !== H[(ip >> 1) + 2]) return void this.#drop(REASON["no-mapping"]);
			return this.#emitIn(s, length, header, B[ip + 9], i, 0, this.#hops(i, true), false);
		}
		const room = (P[w + 1] & IP_MORE) === 0 ? length - header : this.#hairpinRoom;
		if (this.#inward(s, length, external, room, 1, true)) return;
		// What is dropped leaves no state (RFC 7857 section 6): the session that was opened for it goes again.
		const i = this.sessionOf(s);
		if (i !== 0 && c.table.T[(i << 4) + R_PACKETS_OUT] <= 1 && c.table.T[(i << 4) + R_PACKETS_IN] === 0) this.#admission.end(i, "refused");
	}

	/** Session of a translated packet on its way out in slot `s`; 0 of a later fragment, an error, or if it has ended. */
	sessionOf(s: number): number {
		const c = this.#c;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		if ((P[w + 1] & IP_OFFSET) !== 0) return 0;
		const protocol = B[ip + 9];
		const l4 = (ip + (B[ip] & 15) * 4) >> 1;
		const ports = hasPorts(protocol) ? pair(H[l4 + 1], H[l4]) : protocol === ICMP ? pair(0, H[l4 + 2]) : 0;
		return c.table.findIn(protocol, P[w + 4], P[w + 3], c.externals.find(P[w + 3]), ports);
	}

	/**
	 * A translated packet in slot `s` that can not go on for want of a route or a neighbour: its sender inside is told (RFC 1812 section 4.3.3.1), with the packet
	 * as it had sent it. `kind` is type * 256 + code.
	 */
	undeliverable(s: number, length: number, kind = HOST_UNREACHABLE): void {
		const c = this.#c;
		const { P, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const header = (B[ip] & 15) * 4;
		const protocol = B[ip + 9];
		const i = this.sessionOf(s);
		if (i === 0) return;
		const t = c.table.T;
		const host = c.table.T16[(i << 5) + R_HOST];
		const lan = this.#lanOf(i);
		this.#rewrite(s, header, protocol, ~t[(i << 4) + R_DELTA], 0, c.wan, lan);
		P[w + 3] = t[i << 4];
		this.#setPort(s, header, protocol, length - header, 0, firstOf(t[(i << 4) + R_OUT]));
		if (isRenamed(c.table, i)) this.#setPort(s, header, protocol, length - header, 1, secondOf(t[(i << 4) + R_OUT]));
		B.set(new Uint8Array(c.headers.buffer, (HOST_HEADERS + host) * HEADER_SIZE, 6), s + SLOT_ETHER + 6);
		this.#errors.send(s, length, c.lan.indexOf(lan), kind);
	}

	/** The same of a packet for an inside host that does not answer: who sent it is told, outside or, of a hairpinned one, inside. */
	undeliverableInside(s: number, length: number): void {
		const c = this.#c;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		if ((P[w + 1] & IP_OFFSET) !== 0) return;
		const header = (B[ip] & 15) * 4;
		const l4 = (ip + header) >> 1;
		const protocol = B[ip + 9];
		const ports = hasPorts(protocol) ? pair(H[l4 + 1], H[l4]) : protocol === ICMP ? pair(H[l4 + 2], 0) : 0;
		const i = c.table.findOut(protocol, P[w + 4], P[w + 3], ports);
		if (i === 0) return;
		const t = c.table.T;
		this.#rewrite(s, header, protocol, t[(i << 4) + R_DELTA], 0, this.#lanOf(i), c.wan);
		P[w + 4] = c.externals.A[(t[(i << 4) + R_META] >> EXTERNAL_SHIFT) & 0xff];
		this.#setPort(s, header, protocol, length - header, protocol === ICMP ? 0 : 1, secondOf(t[(i << 4) + R_IN]));
		if (c.externals.find(P[w + 3]) >= 0) this.undeliverable(s, length);
		else this.#errors.send(s, length, -1, HOST_UNREACHABLE);
	}

	/** What the WAN port's own address gets and we do not want is the kernel's; at the other external addresses there is only us. */
	#leave(external: number, pieces: number, reason: ReasonName = "no-mapping"): boolean {
		if (external === 0) this.#c.left += pieces;
		else this.#drop(REASON[reason], pieces);
		return false;
	}

	/**
	 * Header checks of RFC 1812 section 5.2.2, each with its own reason. Returns the packet's total length, 0 if it was dropped.
	 */
	#header(s: number, received: number, link: Link): number {
		const { H, B } = this.#c.views;
		const ip = s + SLOT_IP;
		if (received < 20) return this.#drop(REASON["short-packet"]);
		if (B[ip] >> 4 !== 4) return this.#drop(REASON["bad-version"]);
		const header = (B[ip] & 15) * 4;
		if (header < 20 || header > received) return this.#drop(REASON["bad-header-length"]);
		if (sumOf(H, B, ip, header) !== 0xffff) return this.#drop(REASON["bad-header-checksum"]);
		if (link.ethernet && (H[(s >> 1) + 5] & ETHER_GROUP) !== 0) return this.#drop(REASON["link-broadcast"]);
		const length = swap16(H[(ip >> 1) + 1]);
		if (length < header || length > received) return this.#drop(REASON["bad-total-length"]);
		for (let at = ip + 20; at < ip + header && B[at] !== 0; ) {
			if (B[at] === 1) at++;
			else if (B[at] === 131 || B[at] === 137) return this.#drop(REASON["source-route"]);
			else if (at + 1 >= ip + header || B[at + 1] < 2) return this.#drop(REASON["bad-header-length"]);
			else at += B[at + 1];
		}
		return length;
	}

	/**
	 * Checksums, hop count and virtio offsets of a packet with any header length; addresses and ports are the caller's. `delta` is the session's, by direction;
	 * `hops` are counted off (-1: one is given back, if there is room for it). Of a later fragment only the IP header changes.
	 */
	#rewrite(s: number, header: number, protocol: number, delta: number, hops: number, from: Link, to: Link): void {
		const { P, H, B } = this.#c.views;
		const ip = s + SLOT_IP;
		const h = ip >> 1;
		const l4 = (ip + header) >> 1;
		const both = delta >>> 16;
		const addresses = delta & 0xffff;
		if (hops < 0 && B[ip + 8] === TTL_MAX) hops = 0;
		const counted = hops === 0 ? 0 : hops > 0 ? TTL_ONE_SUM : TTL_ONE_SUM ^ 0xffff;
		H[h + 5] = adjust(H[h + 5], fold(addresses + counted));
		P[(ip >> 2) + 2] -= hops * TTL_ONE;
		if ((P[(ip >> 2) + 1] & IP_OFFSET) === 0) {
			const partial = (P[s >> 2] & VNET_PARTIAL) !== 0;
			if (protocol === SCTP) {
				// Its CRC does not cover addresses, and no virtio flag says that it is one: complete it if the sender's device was to.
				if (partial) {
					putSctpSum(B, l4 * 2, sctpSum(B, l4 * 2, swap16(H[h + 1]) - header));
					B.fill(0, s, s + 10);
				}
			} else if (partial && !isTunnelled(this.#c.views, s, linkBytes(from))) {
				// The pseudo-header is summed already.
				const field = protocol === TCP ? l4 + 8 : l4 + 3;
				if (hasPorts(protocol)) H[field] = fold(H[field] + addresses);
			} else if (protocol === TCP) H[l4 + 8] = adjust(H[l4 + 8], both);
			else if (protocol === UDP && H[l4 + 3] !== 0) H[l4 + 3] = adjustUdp(H[l4 + 3], both);
			else if (protocol === ICMP) H[l4 + 1] = adjust(H[l4 + 1], fold(both + (addresses ^ 0xffff)));
			else if (protocol === UDPLITE || protocol === DCCP) H[l4 + 3] = adjustUdp(H[l4 + 3], both);
		}
		this.#cross(s, from, to);
	}

	/** Virtio offsets count from the link header, if there is one: moves them between ports of different kinds. */
	#cross(s: number, from: Link, to: Link): void {
		const { P, H } = this.#c.views;
		const by = linkBytes(to) - linkBytes(from);
		if (by === 0 || P[s >> 2] === 0) return;
		if (P[s >> 2] & VNET_PARTIAL) H[(s >> 1) + VNET_CSUM_START] += by;
		if (H[(s >> 1) + VNET_HDR_LEN] !== 0) H[(s >> 1) + VNET_HDR_LEN] += by;
	}

	#count(i: number, length: number, inbound: number): void {
		const { table } = this.#c;
		const e = (i << 4) + inbound;
		table.T[e + R_PACKETS_OUT]++;
		let b = table.T[e + R_BYTES_OUT] + length;
		if (b >= BYTES_CARRY) {
			b -= BYTES_CARRY;
			table.carried(i, inbound);
		}
		table.T[e + R_BYTES_OUT] = b;
	}

	#toWan(s: number, length: number, hop: number): void {
		const c = this.#c;
		const tag = c.hops.tags[hop];
		if (tag === 0) this.hold(hop, s, length);
		else if (c.wan.queue.push(s, length, tag)) c.forwardedOut++;
		else this.#drop(REASON["queue-full"]);
	}

	#toLan(s: number, length: number, host: number, lan: Link): void {
		const c = this.#c;
		if ((c.hosts.W[host * 4 + HOST_PLACE] & HOST_FRESH) === 0) c.hops.holdInside(host, s, length);
		else if (lan.queue.push(s, length, headerTag(HOST_HEADERS + host))) c.forwardedIn++;
		else this.#drop(REASON["queue-full"]);
	}

	// ---- ICMP errors -----------------------------------------------------------------------------------------------------

	/** An error from inside about a packet that came in through a session (RFC 5508 REQ-5). */
	#errorOutbound(s: number, length: number, header: number, port: number): void {
		const c = this.#c;
		const at = s + SLOT_IP + header;
		const lan = c.lan[port];
		const { P, H } = c.views;
		const w = (s >> 2) + IP_WORD;
		if (!this.#mayReport(P[w + 3], lan)) return void this.#drop(REASON["spoofed-source"]);
		const found = translateError(c, at, length - header, true, 0, (i) => {
			if (!this.#isAt(i, s, port)) return REASON["spoofed-source"];
			return P[w + 4] === c.table.T[(i << 4) + R_PEER] ? -1 : REASON["icmp-untied"];
		});
		if (found < 0) {
			const reason = refused(found);
			// An error about the router's own packet, sent under its outside address, is the kernel's.
			if (reason === REASON["icmp-no-session"] && P[w + 4] === c.externals.A[0]) c.left++;
			else this.#drop(reason);
			return;
		}
		const meta = c.table.T[(found << 4) + R_META];
		const address = c.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff];
		const delta = fold(halfDelta(P[w + 3] & 0xffff, address & 0xffff) + halfDelta(P[w + 3] >>> 16, address >>> 16));
		H[(w << 1) + 5] = adjust(H[(w << 1) + 5], lan.kernelForwards ? delta : fold(delta + TTL_ONE_SUM));
		if (!lan.kernelForwards) P[w + 2] -= TTL_ONE;
		P[w + 3] = address;
		this.#cross(s, lan, c.wan);
		const external = c.externals.find(P[w + 4]);
		if (external >= 0) return void this.#errorInbound(s, length, header, external, true);
		const hop = c.hops.find(P[w + 4]);
		if (hop < 0) return void this.#drop(REASON["no-route"]);
		this.#toWan(s, length, hop);
	}

	/** True if an error with this source can come by a LAN port: of its hosts, or, where the kernel forwards, of the router itself. */
	#mayReport(source: number, lan: LanLink): boolean {
		const c = this.#c;
		if (lanOf(c.lan, source, lan.home) === lan.home) return true;
		return lan.kernelForwards && (c.externals.find(source) >= 0 || c.lan.some((l) => l.address === source));
	}

	/**
	 * An error from outside about a packet that went out through a session (RFC 5508 REQ-4, RFC 4787 REQ-12: it changes no state), or from inside about a
	 * hairpinned packet (RFC 5508 REQ-7). False if it was dropped.
	 */
	#errorInbound(s: number, length: number, header: number, external: number, hairpin: boolean): boolean {
		const c = this.#c;
		const at = s + SLOT_IP + header;
		// What inside hosts send each other over an external address nobody outside has seen.
		const hidden = (i: number) => !hairpin && c.table.T[(i << 4) + R_META] >>> HOP_SHIFT === HAIRPIN;
		const found = translateError(c, at, length - header, false, external, (i) => (hidden(i) ? REASON["icmp-no-session"] : -1));
		if (found < 0) {
			const reason = refused(found);
			// An error about the router's own packet is the kernel's.
			if (reason === REASON["icmp-no-session"] && external === 0 && !hairpin) c.left++;
			else this.#drop(reason);
			return false;
		}
		const { P, H, B } = c.views;
		const w = (s >> 2) + IP_WORD;
		if (B[s + SLOT_IP + 8] < 2 && !hairpin) return this.#drop(REASON["ttl-expired"]) !== 0;
		const inside = c.table.T[found << 4];
		const host = c.table.T16[(found << 5) + R_HOST];
		const lan = this.#lanOf(found);
		const back = this.#hops(found, hairpin);
		const hops = back < 0 && B[s + SLOT_IP + 8] === TTL_MAX ? 0 : back;
		const counted = hops === 0 ? 0 : hops > 0 ? TTL_ONE_SUM : TTL_ONE_SUM ^ 0xffff;
		const delta = fold(halfDelta(P[w + 4] & 0xffff, inside & 0xffff) + halfDelta(P[w + 4] >>> 16, inside >>> 16));
		H[(w << 1) + 5] = adjust(H[(w << 1) + 5], fold(delta + counted));
		P[w + 2] -= hops * TTL_ONE;
		P[w + 4] = inside;
		this.#cross(s, c.wan, lan);
		this.#toLan(s, length, host, lan);
		return true;
	}
}

/** Bytes of a port's link header, which its virtio headers count. */
function linkBytes(link: Link): number {
	return link.ethernet ? 14 : 0;
}

/** Replaces the options of a header that stand only in the first fragment by no-operations. */
function forgetOptions(B: Uint8Array, ip: number, header: number): void {
	for (let at = ip + 20; at < ip + header && B[at] !== 0; ) {
		if (B[at] === 1) {
			at++;
			continue;
		}
		const size = B[at + 1];
		if ((B[at] & OPTION_COPIED) === 0) B.fill(1, at, at + size);
		at += size;
	}
}
