/**
 * Fragments on their way through (RFC 4787 REQ-14): a datagram's pieces are kept until all are there and then go on one
 * by one, in order, as they came.
 *
 * Theory of operation. Only the first fragment has ports, and it may come last; what is to be done with the others
 * follows from it. So nothing is forwarded before the datagram is complete and free of overlaps (RFC 1858, RFC 5722 for
 * IPv6: an overlap is never honest); it is not put together, because each fragment needs nothing but another address.
 * The pool is fixed: {@link DATAGRAMS} datagrams, {@link PER_SOURCE} of one source, in blocks of frame memory that are
 * sent from where they are. When it is full a datagram goes of the side, LAN or WAN, that holds more, and there the
 * oldest of the source that holds most: so a flood takes from itself, from outside nothing from the inside, and no host
 * takes from another that has less. A datagram whose pieces follow each other is complete long before a flood of stray
 * pieces has gone once round. Blocks that were handed out stay untouched until the queues are empty.
 */

import { IP_DESTINATION_W, IP_FLAGS, IP_FLAGS_W, IP_ID, IP_PROTOCOL, IP_SOURCE_W, OFFSET_BYTE } from "../packet/ipv4.ts";
import { IP_MORE, IP_OFFSET, IP_WORD, SCTP, SLOT_IP, TCP } from "../packet/layout.ts";
import { TCP_HEADER, TCP_OFFSET } from "../packet/tcp.ts";
import { UDP_HEADER } from "../packet/udp.ts";
import { BLOCK, type Context } from "./context.ts";
import { REASON } from "./reason.ts";

const DATAGRAMS = 64;
const PER_SOURCE = 16;
/** Seconds that an incomplete datagram is kept, counted from its first piece to come. */
const PATIENCE = 30;
/** Numbers that a secret hash makes of sources, to count what each holds. */
const SOURCES_BITS = 8;
/** Largest payload of an IPv4 packet without options. */
const PAYLOAD_MAX = 65515;

/** Words of a datagram. */
const D_WORDS = 9;
const D_SOURCE = 0;
const D_DESTINATION = 1;
/** Protocol | (LAN port number + 2, 1: the WAN) << 8 | identification << 16; 0: free. */
const D_KEY = 2;
const D_SINCE = 3;
/** First piece + 1 in order of offsets, 0: none. */
const D_FIRST = 4;
const D_RECEIVED = 5;
/** Payload of the whole datagram, 0: not known yet, -1: an overlap was seen, all further pieces are refused. */
const D_TOTAL = 6;
/** Pieces received. */
const D_PIECES = 7;
/** Rank among all datagrams by age. */
const D_ORDER = 8;

/** The pool. */
export class FragmentPool {
	readonly #c: Context;
	readonly #datagrams = new Int32Array(DATAGRAMS * D_WORDS);
	/** By block: 0 free, 1 in use, 2 handed out to be sent. */
	readonly #use: Uint8Array;
	/** By a piece's first block: next piece + 1, payload offset, payload bytes, blocks. */
	readonly #next: Uint16Array;
	readonly #offset: Uint16Array;
	readonly #payload: Uint16Array;
	readonly #blocks: Uint8Array;
	/** By hash of source and side: blocks, and one for each datagram. By side (0: WAN, 1: LAN): the same. */
	readonly #held = new Uint16Array(1 << SOURCES_BITS);
	readonly #sides = new Int32Array(2);
	readonly #key: number;
	/** There are blocks to {@link recycle}. */
	handedOut = false;
	#order = 0;
	/** Slots of the datagram that {@link add} completed, in order, and its payload bytes. */
	readonly slots: Int32Array;
	total = 0;
	/** Datagrams that wait for more pieces. */
	waiting = 0;

	constructor(c: Context) {
		const { count } = c.spare;
		this.#c = c;
		this.#key = Math.imul(c.ipId, 0x9e3779b1) | 1;
		this.#use = new Uint8Array(count);
		this.#next = new Uint16Array(count);
		this.#offset = new Uint16Array(count);
		this.#payload = new Uint16Array(count);
		this.#blocks = new Uint8Array(count);
		this.slots = new Int32Array(count);
	}

	/** Counts pieces that are dropped; `s` is the slot of one of them. */
	#drop(reason: number, fragments: number, s: number, internal: boolean): 0 {
		this.#c.dropLog.add(reason, s, internal ? 0 : -1, this.#c.now, fragments);
		return 0;
	}

	/**
	 * Takes the fragment in slot `s` (`length` bytes of IPv4, header checked) from LAN port `port`, -1: the WAN. All
	 * pieces of a datagram come by one port. Returns how many pieces it has if it is complete now, which are then in
	 * {@link slots}; 0 if it waits or the fragment was dropped.
	 */
	add(s: number, length: number, port: number): number {
		const internal = port >= 0;
		const { P, B } = this.#c.views;
		const w = (s >> 2) + IP_WORD;
		const ip = s + SLOT_IP;
		const header = (B[ip] & 15) * 4;
		const word = P[w + IP_FLAGS_W];
		const offset = (((B[ip + IP_FLAGS] & OFFSET_BYTE) << 8) | B[ip + (IP_FLAGS + 1)]) * 8;
		const payload = length - header;
		const last = (word & IP_MORE) === 0;
		const protocol = B[ip + IP_PROTOCOL];
		this.recycle();
		const least = protocol === TCP ? TCP_HEADER : protocol === SCTP ? 12 : UDP_HEADER;
		if (payload === 0 || (!last && payload % 8 !== 0) || offset + payload > PAYLOAD_MAX || (offset < least && offset > 0))
			return this.#drop(REASON["fragment-invalid"], 1, s, internal);
		if ((word & IP_OFFSET) === 0 && (payload < least || (protocol === TCP && (B[ip + header + TCP_OFFSET] >> 4) * 4 > payload)))
			return this.#drop(REASON["fragment-invalid"], 1, s, internal);
		const key = protocol | ((port + 2) << 8) | ((B[ip + IP_ID] << 24) | (B[ip + (IP_ID + 1)] << 16));
		const d = this.#obtain(P[w + IP_SOURCE_W], P[w + IP_DESTINATION_W], key);
		const D = this.#datagrams;
		if (D[d + D_TOTAL] < 0) return this.#drop(REASON["fragment-overlap"], 1, s, internal);

		// Its place among the pieces: none may reach into another, nor beyond the end.
		let before = 0;
		let after = D[d + D_FIRST];
		while (after !== 0 && this.#offset[after - 1] < offset) {
			before = after;
			after = this.#next[after - 1];
		}
		const end = offset + payload;
		if (after !== 0 && this.#offset[after - 1] === offset && this.#payload[after - 1] === payload)
			return this.#drop(REASON["fragment-overlap"], 1, s, internal);
		const total = D[d + D_TOTAL];
		if (
			(before !== 0 && this.#offset[before - 1] + this.#payload[before - 1] > offset) ||
			(after !== 0 && end > this.#offset[after - 1]) ||
			(total > 0 && (end > total || last)) ||
			(last && after !== 0)
		) {
			this.#drop(REASON["fragment-overlap"], 1 + D[d + D_PIECES], s, internal);
			this.#empty(d, 0);
			D[d + D_TOTAL] = -1;
			return 0;
		}
		const b = this.#room(d, SLOT_IP + length);
		if (b < 0) return this.#drop(REASON["fragment-overload"], 1, s, internal);
		const slot = this.#c.spare.at + b * BLOCK;
		B.copyWithin(slot, s, s + SLOT_IP + length);
		this.#offset[b] = offset;
		this.#payload[b] = payload;
		this.#next[b] = after;
		if (before === 0) D[d + D_FIRST] = b + 1;
		else this.#next[before - 1] = b + 1;
		D[d + D_RECEIVED] += payload;
		D[d + D_PIECES]++;
		this.#hold(d, this.#blocks[b]);
		if (last) D[d + D_TOTAL] = end;
		return D[d + D_RECEIVED] === D[d + D_TOTAL] ? this.#complete(d) : 0;
	}

	#complete(d: number): number {
		let n = 0;
		for (let p = this.#datagrams[d + D_FIRST]; p !== 0; p = this.#next[p - 1]) {
			this.slots[n++] = this.#c.spare.at + (p - 1) * BLOCK;
		}
		this.total = this.#datagrams[d + D_TOTAL];
		this.#empty(d, 2);
		this.#free(d);
		return n;
	}

	/** Blocks of a datagram's pieces become free (0) or handed out (2). */
	#empty(d: number, use: number): void {
		const D = this.#datagrams;
		for (let p = D[d + D_FIRST]; p !== 0; p = this.#next[p - 1]) {
			this.#use.fill(use, p - 1, p - 1 + this.#blocks[p - 1]);
			this.#hold(d, -this.#blocks[p - 1]);
		}
		if (use === 2) this.handedOut = true;
		D.fill(0, d + D_FIRST, d + D_ORDER);
	}

	/** Number of a datagram's source among {@link #held}. */
	#source(d: number): number {
		const side = (this.#datagrams[d + D_KEY] >> 8) & 1;
		return Math.imul(this.#datagrams[d + D_SOURCE] + side, this.#key) >>> (32 - SOURCES_BITS);
	}

	/** Counts what the source and the side of a datagram hold. */
	#hold(d: number, more: number): void {
		this.#held[this.#source(d)] += more;
		this.#sides[(this.#datagrams[d + D_KEY] >> 8) & 1] += more;
	}

	/** The side that holds more, `inside` if none does. */
	#larger(internal: number): number {
		return this.#sides[internal] >= this.#sides[internal ^ 1] ? internal : internal ^ 1;
	}

	/**
	 * The datagram of a side that gives way, see above; with `but` one with pieces, not this one. -1 if there is none.
	 */
	#victim(side: number, but: number): number {
		const D = this.#datagrams;
		let found = -1;
		let most = 0;
		for (let d = 0; d < D.length; d += D_WORDS) {
			if (D[d + D_KEY] === 0 || d === but || (but >= 0 && D[d + D_FIRST] === 0) || ((D[d + D_KEY] >> 8) & 1) !== side) continue;
			const held = this.#held[this.#source(d)];
			if (held > most || (held === most && D[d + D_ORDER] < D[found + D_ORDER])) {
				found = d;
				most = held;
			}
		}
		return found;
	}

	#free(d: number): void {
		this.#hold(d, -1);
		this.#datagrams[d + D_KEY] = 0;
		this.waiting--;
	}

	#give(d: number, reason: number): void {
		const D = this.#datagrams;
		// The entry of a datagram whose pieces were refused has none left.
		if (D[d + D_PIECES] > 0)
			this.#drop(reason, D[d + D_PIECES], this.#c.spare.at + (D[d + D_FIRST] - 1) * BLOCK, (D[d + D_KEY] & 256) !== 0);
		this.#empty(d, 0);
		this.#free(d);
	}

	/** The datagram's entry, a new one if need be: an old one goes then. */
	#obtain(source: number, destination: number, key: number): number {
		const D = this.#datagrams;
		const now = this.#c.now;
		let free = -1;
		let own = -1;
		let owned = 0;
		for (let d = 0; d < D.length; d += D_WORDS) {
			if (D[d + D_KEY] === 0) {
				free = d;
				continue;
			}
			if (D[d + D_SOURCE] === source) {
				if (D[d + D_KEY] === key && D[d + D_DESTINATION] === destination) return d;
				owned++;
				if (own < 0 || D[d + D_ORDER] < D[own + D_ORDER]) own = d;
			}
		}
		let d = free;
		if (owned >= PER_SOURCE) d = own;
		else if (free < 0) d = this.#victim(this.#larger((key >> 8) & 1), -1);
		if (D[d + D_KEY] !== 0) this.#give(d, REASON["fragment-overload"]);
		D[d + D_SOURCE] = source;
		D[d + D_DESTINATION] = destination;
		D[d + D_KEY] = key;
		D[d + D_SINCE] = now;
		D[d + D_ORDER] = ++this.#order;
		this.waiting++;
		this.#hold(d, 1);
		return d;
	}

	/**
	 * Finds and takes blocks for a piece of datagram `d`; others give way. -1 if there is no room even then, or its
	 * source has half of all and more than others.
	 */
	#room(d: number, bytes: number): number {
		for (;;) {
			const b = this.#take(bytes, 1);
			if (b >= 0) return b;
			const side = this.#larger((this.#datagrams[d + D_KEY] >> 8) & 1);
			let other = this.#victim(side, d);
			if (other < 0) other = this.#victim(side ^ 1, d);
			if (other < 0) return -1;
			const own = this.#held[this.#source(d)];
			if (own * 2 > this.#use.length && this.#held[this.#source(other)] < own) return -1;
			this.#give(other, REASON["fragment-overload"]);
		}
	}

	#take(bytes: number, use: number): number {
		const need = Math.ceil(bytes / BLOCK);
		let run = 0;
		for (let b = 0; b < this.#use.length; b++) {
			run = this.#use[b] === 0 ? run + 1 : 0;
			if (run < need) continue;
			const first = b - need + 1;
			this.#use.fill(use, first, b + 1);
			this.#blocks[first] = need;
			return first;
		}
		return -1;
	}

	/** A slot for a packet of `length` bytes that is made here and sent in this turn; -1 if there is none. */
	borrow(length: number): number {
		const b = this.#take(SLOT_IP + length, 2);
		if (b < 0) return -1;
		this.handedOut = true;
		return this.#c.spare.at + b * BLOCK;
	}

	/**
	 * Blocks that were handed out are free again once every queue has been sent. To be called only while none is about
	 * to be queued.
	 */
	recycle(): void {
		if (!this.handedOut) return;
		const { wan, lan } = this.#c;
		if (wan.queue.count > 0) return;
		for (let n = 0; n < lan.length; n++) if (lan[n].queue.count > 0) return;
		for (let b = 0; b < this.#use.length; b++) if (this.#use[b] === 2) this.#use[b] = 0;
		this.handedOut = false;
	}

	/** Fragments that wait for others. */
	get fragments(): number {
		let n = 0;
		for (let d = 0; d < this.#datagrams.length; d += D_WORDS) n += this.#datagrams[d + D_PIECES];
		return n;
	}

	/** Gives up datagrams that stayed incomplete; once a second. */
	expire(): void {
		if (this.waiting === 0) return;
		const D = this.#datagrams;
		for (let d = 0; d < D.length; d += D_WORDS) {
			if (D[d + D_KEY] !== 0 && this.#c.now - D[d + D_SINCE] > PATIENCE) this.#give(d, REASON["fragment-timeout"]);
		}
	}
}
