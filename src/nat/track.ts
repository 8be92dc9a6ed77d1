/**
 * What a packet does to the state of its session: TCP's machine, its MSS and its ALG; UDP and the others, of which only
 * their direction is known. States are in conntrack/states.ts.
 */

import {
	ALG_INSPECTED,
	ANSWERED,
	MOVED,
	R_ACK_OUT,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
	RECORD_SHIFT,
	STATE_MASK,
	STATE_SHIFT,
} from "../conntrack/record.ts";
import {
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
import { DCCP, hasPorts, ICMP, SCTP, SLOT_IP, secondOf, swap16, TCP, UDP, UDPLITE } from "../packet/layout.ts";
import { clampMss, MSS_HEADERS, mayAnnounceMore } from "../packet/mss.ts";
import { SYN, TCP_ACK_W, TCP_FLAGS, TCP_FLAGS_MASK, TCP_SEQUENCE_W } from "../packet/tcp.ts";
import type { Context } from "./context.ts";
import { type FtpReader, GROWTH, isFtpControl, leaveUnread, type MakeFtpReader, noteAlg } from "./ftp-control.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { REASON } from "./reason.ts";
import { isRenamed, renamePeer } from "./renamed-peer.ts";
import { mtuOut } from "./session-way.ts";

const DNS_PORT = swap16(53);
/** Queries that a resolver asks at once from one port. */
const DNS_QUERIES = 2;
/** First chunk of an SCTP packet that ends an association: ABORT, SHUTDOWN COMPLETE (RFC 9260 section 3.2). */
const SCTP_ABORT = 6;
const SCTP_SHUTDOWN_COMPLETE = 14;
/**
 * First chunk of the answer to one that opens an association; its initiate tag is at the 16th byte, and what answers it
 * has that as its verification tag.
 */
const SCTP_INIT_ACK = 2;
/** DCCP-Response and DCCP-Reset (RFC 4340 section 5.1). */
const DCCP_RESPONSE = 1;
const DCCP_RESET = 7;

/** Seconds after which it is tried again to have what reads FTP. */
const FTP_RETRY = 10;

/** State of a session that the inside opens. */
export function firstOutbound(protocol: number): number {
	if (protocol === TCP || protocol === SCTP || protocol === DCCP) return TCP_SYN_OUT;
	return protocol === UDP || protocol === UDPLITE ? UDP_NEW : protocol === ICMP ? ICMP_QUERY : OTHER;
}

/** State of one that a stranger opens. */
export function firstInbound(protocol: number): number {
	return protocol === TCP || protocol === SCTP || protocol === DCCP ? TCP_SYN_IN : STRANGER;
}

/** Tracks sessions. */
export class Track {
	readonly #c: Context;
	readonly #makeFtp: MakeFtpReader;
	#ftp: FtpReader | null = null;
	/** What the reader is to take over by, null if it begins anew. */
	#boot: Int32Array | null = null;
	/** Second from which on it may be tried again to have the reader. */
	#retryAt = 0;

	constructor(c: Context, makeFtp: MakeFtpReader) {
		this.#c = c;
		this.#makeFtp = makeFtp;
	}

	/** As {@link FtpReader.takeOver}, when there is one. */
	takeOver(boot: Int32Array): void {
		this.#boot = boot;
	}

	/** Who reads FTP, null while nobody can. */
	#reader(): FtpReader | null {
		const { now } = this.#c;
		if (this.#ftp !== null || now < this.#retryAt) return this.#ftp;
		this.#retryAt = now + FTP_RETRY;
		this.#ftp = this.#makeFtp();
		if (this.#boot !== null) this.#ftp?.takeOver(this.#boot);
		return this.#ftp;
	}

	/** A SYN opens session `i`: it is marked if it is to be read. */
	openedFtp(i: number, fromInternal: boolean): void {
		if (!isFtpControl(this.#c, i, fromInternal)) return;
		const reader = this.#reader();
		if (reader !== null) return reader.opened(i);
		noteAlg(this.#c, "ftp-not-read");
		this.#c.table.T[(i << RECORD_SHIFT) + R_META] &= ~(ALG_INSPECTED | MOVED);
	}

	/**
	 * A segment of a session that a predecessor has read and nobody can now: it goes as it is, if both sides have the
	 * same numbers. If not, it is to come again: false.
	 */
	#passUnread(i: number, s: number, port: number): boolean {
		const c = this.#c;
		if ((c.table.T[(i << RECORD_SHIFT) + R_META] & MOVED) !== 0) {
			c.dropLog.add(REASON["alg-gap"], s, port, c.now);
			return false;
		}
		noteAlg(c, "ftp-not-read");
		leaveUnread(c, i);
		return true;
	}

	/** Notes an outbound packet of session `i`; returns its length, which an ALG may change, 0 if it was dealt with. */
	outbound(p: PacketDescriptor, i: number): number {
		const { protocol } = p;
		if (protocol === TCP) {
			if (p.frames > 1 && (this.#c.table.T[(i << RECORD_SHIFT) + R_META] & ALG_INSPECTED) !== 0)
				return p.drop(REASON["alg-fragment"], p.frames);
			return this.tcpOutbound(i, p.slot, p.header, p.length);
		}
		if (protocol === UDP || protocol === UDPLITE) this.udpOutbound(i);
		else if (protocol !== ICMP && hasPorts(protocol)) this.#associate(p, i, TCP_SYN_IN);
		else this.#saidInternal(i, protocol);
		return p.length;
	}

	/** Notes an inbound one; false if it was dropped. */
	inbound(p: PacketDescriptor, i: number): boolean {
		const { protocol } = p;
		if (protocol === TCP) return this.tcpInbound(i, p.slot, p.header, p.length, p.port);
		if (protocol === UDP || protocol === UDPLITE) this.udpInbound(i);
		else if (protocol !== ICMP && hasPorts(protocol)) this.#associate(p, i, TCP_SYN_OUT);
		else {
			const { table } = this.#c;
			const meta = table.T[(i << RECORD_SHIFT) + R_META];
			if ((meta & ANSWERED) === 0 && ((meta >> STATE_SHIFT) & STATE_MASK) !== STRANGER) table.answer(i);
		}
		return true;
	}

	/**
	 * An outbound TCP segment that is not plain data of an established session. Returns its length, which an ALG may
	 * change; 0 if it was dealt with.
	 */
	tcpOutbound(i: number, s: number, header: number, length: number): number {
		const c = this.#c;
		const { table, views } = c;
		const w = (s + SLOT_IP + header) >> 2;
		const flags = views.B[(w << 2) + TCP_FLAGS] & TCP_FLAGS_MASK;
		const seq = views.P[w + TCP_SEQUENCE_W];
		const ack = views.P[w + TCP_ACK_W];
		const inspected = (table.T[(i << RECORD_SHIFT) + R_META] & ALG_INSPECTED) !== 0;
		const renamed = inspected && isRenamed(table, i);
		if (flags & SYN) this.#clampMss(i, s, w, length - header, 0);
		else if (inspected && !renamed) {
			const reader = this.#reader();
			if (reader !== null) length = reader.outbound(i, s, header, length);
			else if (!this.#passUnread(i, s, 0)) return 0;
			if (length === 0) return 0;
		}
		tcpOut(table, i, flags, seq, ack, c.now16);
		if (renamed) renamePeer(c, i, s, w << 1, true);
		else if (flags & SYN && table.state(i) === TCP_SYN_OUT) this.openedFtp(i, true);
		return length;
	}

	/** An inbound one; false if it was dropped. `port` is where it came by, for the drop log. */
	tcpInbound(i: number, s: number, header: number, length: number, port: number): boolean {
		const c = this.#c;
		const { table, views } = c;
		const w = (s + SLOT_IP + header) >> 2;
		const flags = views.B[(w << 2) + TCP_FLAGS] & TCP_FLAGS_MASK;
		if (!tcpIn(table, i, flags, views.P[w + TCP_SEQUENCE_W], views.P[w + TCP_ACK_W], c.now16)) {
			c.dropLog.add(REASON["tcp-bad-reset"], s, port, c.now);
			return false;
		}
		const inspected = (table.T[(i << RECORD_SHIFT) + R_META] & ALG_INSPECTED) !== 0;
		const renamed = inspected && isRenamed(table, i);
		if (renamed) renamePeer(c, i, s, w << 1, false);
		else if (flags & SYN && table.state(i) === TCP_SYN_IN) this.openedFtp(i, false);
		const tended = !renamed && (table.T[(i << RECORD_SHIFT) + R_META] & ALG_INSPECTED) !== 0;
		if (flags & SYN) this.#clampMss(i, s, w, length - header, tended ? GROWTH : 0);
		if (!tended) return true;
		const reader = this.#reader();
		return reader === null ? this.#passUnread(i, s, -1) : reader.inbound(i, s, header, length);
	}

	/**
	 * Has the SYN in slot `s`, whose TCP header is at word `w` and has `room` bytes with data, announce no more than
	 * what is left of session `i`'s way out when its segments have grown by `growth`.
	 */
	#clampMss(i: number, s: number, w: number, room: number, growth: number): void {
		const { views, hops } = this.#c;
		if (!mayAnnounceMore(views.B, w << 2, hops.least - MSS_HEADERS - growth)) return;
		clampMss(views, s, w << 1, room, mtuOut(this.#c, i) - MSS_HEADERS - growth);
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
		const e = i << RECORD_SHIFT;
		const state = (T[e + R_META] >> STATE_SHIFT) & STATE_MASK;
		if (state !== UDP_NEW && state !== UDP_DNS) return;
		const queries = state === UDP_NEW && secondOf(T[e + R_OUT]) === DNS_PORT ? T[e + R_PACKETS_OUT] : 0;
		const replies = T[e + R_PACKETS_IN] + 1;
		// Only a query and its reply are over with it, or a resolver's two at once (A and AAAA) and theirs.
		if (queries === replies && replies <= DNS_QUERIES) table.setState(i, UDP_DNS, now16);
		else if (replies < queries && queries <= DNS_QUERIES) return;
		else table.setStateKeepingTime(i, UDP_OPEN, now16);
	}

	/**
	 * Notes an outbound packet of an ICMP query's session or of one without ports. What a stranger has opened is
	 * answered by it.
	 */
	#saidInternal(i: number, protocol: number): void {
		const { table, now16 } = this.#c;
		const state = (table.T[(i << RECORD_SHIFT) + R_META] >> STATE_SHIFT) & STATE_MASK;
		if (state !== STRANGER) return table.setState(i, state, now16);
		table.T[(i << RECORD_SHIFT) + R_META] |= ANSWERED;
		table.setState(i, protocol === ICMP ? ICMP_QUERY : OTHER, now16);
	}

	/**
	 * The state of a session of SCTP or DCCP: `opening` is the state that a packet of this direction answers. What a
	 * stranger has opened is established when he answers in turn: his address may be forged, and then the inside's
	 * answer does not reach him.
	 */
	#associate(p: PacketDescriptor, i: number, opening: number): void {
		const { table, now16, views } = this.#c;
		const { T } = table;
		const { B, P } = views;
		const at = p.l4 * 2;
		const sctp = p.protocol === SCTP;
		const kind = sctp ? B[at + 12] : (B[at + 8] >> 1) & 15;
		const tag = (i << RECORD_SHIFT) + R_ACK_OUT;
		let state = table.state(i);
		if (sctp ? kind === SCTP_ABORT || kind === SCTP_SHUTDOWN_COMPLETE : kind === DCCP_RESET) state = TCP_CLOSING;
		else if (state === TCP_SYN_IN && opening === TCP_SYN_IN && kind === (sctp ? SCTP_INIT_ACK : DCCP_RESPONSE)) {
			state = TCP_OPENED_IN;
			T[tag] = P[(at >> 2) + 4];
		} else if (state === opening || (state === TCP_OPENED_IN && opening === TCP_SYN_OUT && (!sctp || P[(at >> 2) + 1] === T[tag])))
			state = TCP_ESTABLISHED;
		table.setState(i, state, now16);
	}
}
