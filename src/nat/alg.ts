/**
 * The FTP application level gateway (RFC 2663 section 2.9, RFC 3022 section 4.5): the one protocol whose payload masqd
 * reads. TFTP's needs no reading and stands with the filtering (outbound.ts).
 *
 * Theory of operation. A session to port 21 outside, or that came in to port 21 of an internal server, is marked
 * ALG_INSPECTED by its SYN: where others are established it is "tended", so that every segment of it takes the slow
 * path and no other session pays. What the internal host sends is read line by line. PORT and EPRT of a client, replies
 * 227 and 229 of a server, are rewritten to the external endpoint, and the session they announce is expected
 * (expectations.ts) from the control connection's peer alone. An internal host can announce itself only, and no port
 * below 1024; everything else is left as it is and counted. Outside hosts' addresses are never rewritten: they mean
 * what they say.
 *
 * Rewritten lines have other lengths: edited-stream.ts keeps both sides' numbers apart. TLS (AUTH, RFC 4217) and what
 * is no FTP is not read, and when nothing had been rewritten before, the session becomes an ordinary one. The memory is
 * a fixed number of connections, taken with their first line; when all are in use a new connection is left alone. The
 * memory may be a file's, and then a successor goes on with what it holds. What a segment changes is kept in a second
 * place while it is worked through, so that one that a kill has cut short, which has not been sent, has changed
 * nothing. A session with MOVED whose numbers are lost all the same cannot go on: its host hears a reset.
 */

import {
	ALG_INSPECTED,
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_WORDS,
	MOVED,
	R_ACK_IN,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PEER,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { TCP_CLOSING, TCP_RESET } from "../conntrack/states.ts";
import { adjust, fold, halfDelta, sumOf, wordDelta } from "../packet/checksum.ts";
import { HOST_HEADERS, headerTag } from "../packet/header-tag.ts";
import {
	DF_BYTE,
	INITIAL_TTL,
	IP_DESTINATION_W,
	IP_FLAGS,
	IP_HEADER,
	IP_HEADER_W,
	IP_LENGTH_H,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE_W,
	IP_SUM_H,
	IP_TTL,
	PLAIN_TCP_FLAGS,
} from "../packet/ipv4.ts";
import {
	addressValue,
	SLOT_IP,
	secondOf,
	swap16,
	swap32,
	TCP,
	VNET_GSO,
	VNET_GSO_SIZE,
	VNET_GSO_TYPE,
	VNET_PARTIAL,
} from "../packet/layout.ts";
import { ACK, FIN, TCP_ACK_W, TCP_FLAGS_H, TCP_SEQUENCE_W, TCP_SUM_H, TCP_SUM_W, TCP_WINDOW_H } from "../packet/tcp.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import { LINE_MAX, mayBeFtp, mayMatter, readCommand, readReply } from "./alg-ftp.ts";
import type { Context } from "./context.ts";
import { EditedStream, STREAM_BYTES } from "./edited-stream.ts";
import { type AlgNote, FIRST_PORT, FTP_CONTROL, type FtpReader, leaveUnread, noteAlg } from "./ftp-control.ts";
import { REASON, type ReasonName } from "./reason.ts";
import { sessionReset } from "./tcp-reset.ts";

/** Most control connections that are read at a time. */
const CONNECTIONS = 64;
/** And of one internal host. */
const PER_HOST = 16;
/** Larger packets are left to be repeated in smaller ones: a line may grow. */
const LENGTH_MAX = 64_000;
/**
 * Times that one segment beyond a gap may come in a row: a sender repeats the first that it misses, so what is before
 * this one is not to come.
 */
const GAPS = 4;
/** Window in our own acknowledgments until the peer's is known. */
const WINDOW = swap16(512);
const LINE_FEED = 10;

/** Words of the memory: header, a connection each with its stream, and one as it was before the segment in hand. */
const MAGIC = 0x46545031;
const H_MAGIC = 0;
const H_BOOT = 1;
/** Number of the connection, plus one, that a segment is being worked through for; 0: none. */
const H_BUSY = 5;
/** Number of connections that have been somebody's, plus one; 0: not said, by a version that touched them all. */
const H_USED = 6;
const HEADER_BYTES = 32;
/** A connection: the record's first words to know it by, flags, and what a segment is compared with. */
const K_INTERNAL = 0;
const K_PEER = 1;
const K_OUT = 2;
const K_IN = 3;
const K_FLAGS = 4;
/** Original number after an AUTH that was sent and not answered. */
const K_ASKED_END = 5;
/** The last segment beyond a gap, and how often it has come. */
const K_GAP = 6;
const K_GAPS = 7;
/** The peer's last window, raw. */
const K_WINDOW = 8;
const CONNECTION_BYTES = 48;
const ENTRY_BYTES = CONNECTION_BYTES + STREAM_BYTES;

/** Flags: the entry is somebody's. */
const TAKEN = 1;
const FROM_CLIENT = 4;
/** Lines are read. */
const READING = 8;
/** The first line has been seen. */
const BEGUN = 16;
/** The next byte is not the first of a line. */
const MID_LINE = 32;
/** AUTH has been sent and not answered: whether the rest is plain is not known. */
const ASKED = 64;

/** Bytes of memory that {@link FtpAlg} needs. */
export const ALG_BYTES = HEADER_BYTES + (CONNECTIONS + 1) * ENTRY_BYTES;

/** A control connection being read. */
class Connection {
	readonly stream: EditedStream;
	/** Its words. */
	readonly W: Int32Array;

	constructor(memory: ArrayBuffer, at: number) {
		this.W = new Int32Array(memory, at, CONNECTION_BYTES >> 2);
		this.stream = new EditedStream(memory, at + CONNECTION_BYTES);
	}

	is(flag: number): boolean {
		return (this.W[K_FLAGS] & flag) !== 0;
	}

	mark(flag: number, on: boolean): void {
		if (on) this.W[K_FLAGS] |= flag;
		else this.W[K_FLAGS] &= ~flag;
	}
}

/** The gateway. */
export class FtpAlg implements FtpReader {
	readonly #c: Context;
	readonly #header: Int32Array;
	readonly #B: Uint8Array;
	readonly #memory: ArrayBuffer;
	/** Those that have been somebody's. */
	readonly #connections: Connection[] = [];
	/** End of the payload being edited, and whether its bytes have changed. */
	#end = 0;
	#changed = false;
	readonly #line = new Uint8Array(LINE_MAX + 32);

	/**
	 * `memory` is a file's if connections are to outlive the process; {@link takeOver} is to be called before anything
	 * else then.
	 */
	constructor(c: Context, memory: ArrayBuffer = new ArrayBuffer(ALG_BYTES)) {
		this.#c = c;
		this.#header = new Int32Array(memory, 0, HEADER_BYTES >> 2);
		this.#B = new Uint8Array(memory, 0, ALG_BYTES);
		this.#memory = memory;
	}

	/** One more connection of the memory. */
	#add(): Connection {
		const k = new Connection(this.#memory, HEADER_BYTES + this.#connections.length * ENTRY_BYTES);
		this.#connections.push(k);
		return k;
	}

	takeOver(boot: Int32Array): void {
		const known = this.#header[H_MAGIC] === MAGIC && boot.every((word, n) => this.#header[H_BOOT + n] === word);
		const busy = this.#header[H_BUSY];
		if (known && busy > 0 && busy <= CONNECTIONS) {
			const before = HEADER_BYTES + CONNECTIONS * ENTRY_BYTES;
			this.#B.copyWithin(HEADER_BYTES + (busy - 1) * ENTRY_BYTES, before, before + ENTRY_BYTES);
		}
		this.#header[H_BUSY] = 0;
		const used = known ? this.#header[H_USED] - 1 : 0;
		const count = used < 0 || used > CONNECTIONS ? CONNECTIONS : used;
		while (this.#connections.length < count) {
			const k = this.#add();
			if (!k.stream.sound) k.W[K_FLAGS] = 0;
		}
		this.#header[H_USED] = count + 1;
		this.#header.set(boot, H_BOOT);
		this.#header[H_MAGIC] = MAGIC;
	}

	/** Until {@link #done} a kill leaves connection `k` as it is now. */
	#begin(k: Connection): void {
		const n = this.#connections.indexOf(k);
		const from = HEADER_BYTES + n * ENTRY_BYTES;
		this.#B.copyWithin(HEADER_BYTES + CONNECTIONS * ENTRY_BYTES, from, from + ENTRY_BYTES);
		this.#header[H_BUSY] = n + 1;
	}

	#done(): void {
		this.#header[H_BUSY] = 0;
	}

	/** Marks the session. */
	opened(i: number): void {
		const { T } = this.#c.table;
		const e = i << RECORD_SHIFT;
		T[e + R_META] = (T[e + R_META] & ~MOVED) | ALG_INSPECTED;
		const known = this.#find(i);
		if (known !== null) known.W[K_FLAGS] = 0;
	}

	/** Record number of a connection's session, 0 if it is gone. */
	#recordOf({ W }: Connection): number {
		const { table } = this.#c;
		if ((W[K_FLAGS] & TAKEN) === 0) return 0;
		const i = table.findOut(TCP, W[K_INTERNAL], W[K_PEER], W[K_OUT]);
		return i !== 0 && table.T[(i << RECORD_SHIFT) + R_IN] === W[K_IN] && (table.T[(i << RECORD_SHIFT) + R_META] & ALG_INSPECTED) !== 0
			? i
			: 0;
	}

	#find(i: number): Connection | null {
		const { T } = this.#c.table;
		const e = i << RECORD_SHIFT;
		for (const k of this.#connections) {
			const { W } = k;
			if (W[K_OUT] === T[e + R_OUT] && W[K_PEER] === T[e + R_PEER] && W[K_INTERNAL] === T[e] && this.#recordOf(k) === i) return k;
		}
		return null;
	}

	/** A connection for session `i` whose first segment with data begins at `seq`; null if all are in use. */
	#take(i: number, seq: number): Connection | null {
		const { table } = this.#c;
		const e = i << RECORD_SHIFT;
		const finished = (k: Connection) => [TCP_CLOSING, TCP_RESET].includes(table.state(this.#recordOf(k)));
		const own = this.#connections.filter((one) => one.W[K_INTERNAL] === table.T[e] && this.#recordOf(one) !== 0);
		const free = own.length < PER_HOST ? this.#free() : undefined;
		const k = free ?? (own.length < PER_HOST ? this.#connections : own).find(finished);
		if (k === undefined) return null;
		this.#begin(k);
		const { W } = k;
		W[K_INTERNAL] = table.T[e];
		W[K_PEER] = table.T[e + R_PEER];
		W[K_OUT] = table.T[e + R_OUT];
		W[K_IN] = table.T[e + R_IN];
		W[K_GAPS] = 0;
		W[K_WINDOW] = WINDOW;
		// The peer has acknowledged the SYN and nothing else yet.
		const expected = swap32(table.T[e + R_ACK_IN]);
		const ahead = (seq - expected) | 0;
		k.stream.reset(expected !== 0 && ahead > -0x10000 && ahead < 0x10000 ? expected : seq);
		W[K_FLAGS] = TAKEN | READING | (secondOf(W[K_OUT]) === FTP_CONTROL ? FROM_CLIENT : 0);
		return k;
	}

	/** One that is nobody's by now. */
	#free(): Connection | undefined {
		const left = this.#connections.find((one) => this.#recordOf(one) === 0);
		if (left !== undefined || this.#connections.length === CONNECTIONS) return left;
		const k = this.#add();
		k.W[K_FLAGS] = 0;
		this.#header[H_USED] = this.#connections.length + 1;
		return k;
	}

	/** Session `i` needs us no more. */
	#release(i: number, k: Connection | null): void {
		leaveUnread(this.#c, i);
		if (k !== null) k.W[K_FLAGS] = 0;
	}

	#note(note: AlgNote): void {
		noteAlg(this.#c, note);
	}

	/**
	 * Counts the segment in slot `s`, which came from LAN port `port` (-1: WAN; of those inside the first stands for
	 * all).
	 */
	#drop(reason: ReasonName, s: number, port = 0): 0 {
		this.#c.dropLog.add(REASON[reason], s, port, this.#c.now);
		return 0;
	}

	// ---- from the inside --------------------------------------------------------------------------------------------

	outbound(i: number, s: number, header: number, length: number): number {
		const k = this.#find(i);
		if (k === null && this.#c.table.T[(i << RECORD_SHIFT) + R_META] & MOVED) return this.#lost(i, s, 0);
		if (k !== null) this.#begin(k);
		const sent = this.#outbound(i, k, s, header, length);
		this.#done();
		if ((k ?? this.#find(i))?.stream.moved) this.#c.table.T[(i << RECORD_SHIFT) + R_META] |= MOVED;
		return sent;
	}

	#outbound(i: number, k: Connection | null, s: number, header: number, length: number): number {
		const c = this.#c;
		const { P, H, B } = c.views;
		const w = (s + SLOT_IP + header) >> 2;
		const offset = (swap16(H[(w << 1) + TCP_FLAGS_H]) >> 12) * 4;
		const payload = length - header - offset;
		if (offset < 20 || payload < 0) return this.#drop("bad-transport", s);
		const fin = (swap16(H[(w << 1) + TCP_FLAGS_H]) & FIN) !== 0;
		const seq = swap32(P[w + TCP_SEQUENCE_W]) | 0;
		if (k === null && payload === 0) return length;
		if (payload === 0 && k !== null && !(fin && k.stream.heldLength > 0)) {
			if (k.stream.moved) this.#renumber(s, w, k.stream.toPeer(seq));
			return length;
		}
		const partial = (P[s >> 2] & VNET_PARTIAL) !== 0;
		if (!partial && this.#sum(s, header, length) !== 0xffff) return this.#drop("tcp-bad-checksum", s);
		k ??= this.#take(i, seq);
		if (k === null) {
			this.#note("ftp-no-room");
			this.#release(i, null);
			return length;
		}

		const { stream } = k;
		const at = s + SLOT_IP + header + offset;
		this.#end = at + payload;
		this.#changed = false;
		const ahead = (seq - stream.next) | 0;
		const repeated = ahead <= 0 && payload + ahead <= 0;
		if (length > LENGTH_MAX || (ahead > 0 && this.#isGap(k, seq)) || (stream.heldLength > 0 && !repeated && !stream.hasRoom))
			return this.#drop("alg-gap", s);
		let sent: number;
		if (repeated && !(fin && stream.heldLength > 0)) {
			const held = Math.max(0, (seq + payload - stream.heldFrom) | 0);
			if (held >= payload) return this.#answer(k, s, header, offset);
			this.#end -= held;
			this.#changed = held > 0;
			sent = stream.render(seq, payload - held, at, this.#splice);
		} else sent = this.#read(k, seq, at, fin);
		k.W[K_GAPS] = 0;
		if (!stream.moved && !k.is(READING | ASKED)) this.#release(i, k);
		if (this.#end === at && payload > 0 && !fin) return this.#answer(k, s, header, offset);
		if (!this.#changed) {
			if (sent !== seq) this.#renumber(s, w, sent);
			return length;
		}

		const size = this.#end - s - SLOT_IP;
		const h = (s + SLOT_IP) >> 1;
		H[h + IP_LENGTH_H] = swap16(size);
		H[h + IP_SUM_H] = adjust(H[h + IP_SUM_H], halfDelta(swap16(length), swap16(size)));
		P[w + TCP_SEQUENCE_W] = swap32(sent);
		const field = (w << 1) + 8;
		if (partial) H[field] = fold(H[field] + halfDelta(swap16(length - header), swap16(size - header)));
		else {
			H[field] = 0;
			H[field] = this.#sum(s, header, size) ^ 0xffff;
		}
		if ((P[s >> 2] & VNET_GSO) !== 0 && this.#end - at <= H[(s >> 1) + VNET_GSO_SIZE]) {
			B[s + VNET_GSO_TYPE] = 0;
			H[(s >> 1) + VNET_GSO_SIZE] = 0;
		}
		return size;
	}

	/**
	 * True if the segment at `seq` must wait for the one before it. Where that never comes (we missed it), the
	 * connection is not read any more.
	 */
	#isGap(k: Connection, seq: number): boolean {
		const { W } = k;
		if (!k.is(READING)) return false;
		W[K_GAPS] = W[K_GAP] === seq ? W[K_GAPS] + 1 : 1;
		W[K_GAP] = seq;
		if (W[K_GAPS] < GAPS || k.stream.heldLength > 0) return true;
		k.mark(READING, false);
		return false;
	}

	/** Changes the sequence number of a segment whose bytes stay. */
	#renumber(s: number, w: number, sent: number): void {
		const { P, H } = this.#c.views;
		const number = swap32(sent);
		if ((P[s >> 2] & VNET_PARTIAL) === 0)
			H[(w << 1) + TCP_SUM_H] = adjust(H[(w << 1) + TCP_SUM_H], wordDelta(P[w + TCP_SEQUENCE_W], number));
		P[w + TCP_SEQUENCE_W] = number;
	}

	/** Sum of pseudo-header and segment: all ones if the checksum is right. */
	#sum(s: number, header: number, length: number): number {
		const { H, B } = this.#c.views;
		const ip = s + SLOT_IP;
		const size = length - header;
		return fold(sumOf(H, B, ip + 12, 8) + swap16(TCP) + swap16(size) + sumOf(H, B, ip + header, size));
	}

	/** Replaces `remove` bytes of the payload at `at` by the first `size` of `bytes`. */
	readonly #splice = (at: number, remove: number, bytes: Uint8Array, size: number): void => {
		const { B } = this.#c.views;
		B.copyWithin(at + size, at + remove, this.#end);
		for (let n = 0; n < size; n++) B[at + n] = bytes[n];
		this.#end += size - remove;
		this.#changed = true;
	};

	/**
	 * A segment with bytes not seen before: original number `seq`, payload at `at`. Returns the number it is sent with.
	 */
	#read(k: Connection, seq: number, at: number, fin: boolean): number {
		const { stream } = k;
		let first = seq;
		let answered = 0;
		if (stream.heldLength > 0) {
			const from = stream.heldFrom;
			const missing = (seq - from) | 0;
			if (missing > 0) {
				this.#splice(at, 0, stream.held, missing);
				first = from;
			}
			answered = stream.heldLength;
			stream.next = from;
			stream.heldLength = 0;
		}
		// Beyond a gap that never closed nothing is known of the bytes between.
		if (((first - stream.next) | 0) > 0) stream.next = first;
		const repeated = (stream.next - first) | 0;
		if (k.is(READING)) this.#lines(k, at + repeated, fin, answered);
		else this.#pass(k, at + repeated, this.#end);
		return stream.render(first, repeated, at, this.#splice);
	}

	/** Takes note of bytes that go as they are. */
	#pass(k: Connection, from: number, to: number): void {
		if (to > from) k.mark(MID_LINE, this.#c.views.B[to - 1] !== LINE_FEED);
		k.stream.next = (k.stream.next + to - from) | 0;
	}

	/**
	 * Reads the lines from byte `at` of the buffer to the end of the payload. The first `answered` bytes have been
	 * acknowledged by us.
	 */
	#lines(k: Connection, at: number, fin: boolean, answered: number): void {
		const { B } = this.#c.views;
		const { stream } = k;
		while (at < this.#end) {
			let stop = at;
			while (stop < this.#end && B[stop] !== LINE_FEED) stop++;
			const complete = stop < this.#end;
			if (complete) stop++;
			const size = stop - at;
			const text = k.is(MID_LINE) ? "" : this.#text(at, Math.min(size, LINE_MAX));
			if (!k.is(BEGUN | MID_LINE)) {
				k.mark(BEGUN, complete);
				k.mark(READING, mayBeFtp(text, k.is(FROM_CLIENT)));
			}
			if (!k.is(MID_LINE) && k.is(READING)) {
				if (!complete && !fin && size < LINE_MAX && mayMatter(text, k.is(FROM_CLIENT))) {
					stream.held.set(B.subarray(at, stop));
					stream.heldLength = size;
					stream.next = (stream.next + size) | 0;
					this.#end = at;
					this.#changed = true;
					return;
				}
				if (complete && size <= LINE_MAX) {
					const line = this.#announced(k, text);
					if (line !== null) this.#splice(at, size, this.#line, this.#encode(line));
					const now = line === null ? size : line.length;
					if (line !== null || answered > 0) stream.add(stream.next, size, answered, B, at, now);
					answered = 0;
					stream.next = (stream.next + size) | 0;
					at += now;
					continue;
				}
			}
			// Passes as it is; what we have acknowledged, and a byte that we have not, is kept for repetition.
			if (answered > 0) {
				const kept = Math.min(size, answered + 1);
				stream.add(stream.next, kept, answered, B, at, kept);
				answered = 0;
			}
			const to = k.is(READING) ? stop : this.#end;
			this.#pass(k, at, to);
			at = to;
		}
	}

	#text(at: number, size: number): string {
		return String.fromCharCode(...this.#c.views.B.subarray(at, at + size));
	}

	#encode(line: string): number {
		for (let n = 0; n < line.length; n++) this.#line[n] = line.charCodeAt(n);
		return line.length;
	}

	/** What is sent for a whole line, null if the line itself. Expects the session that it announces. */
	#announced(k: Connection, line: string): string | null {
		const c = this.#c;
		const { W } = k;
		if (k.is(FROM_CLIENT) ? /^AUTH /i.test(line) : line.startsWith("234")) {
			k.mark(ASKED, k.is(FROM_CLIENT));
			W[K_ASKED_END] = k.stream.next + line.length;
			k.mark(READING, false);
			return null;
		}
		const found = k.is(FROM_CLIENT) ? readCommand(line) : readReply(line);
		if (found === null || !c.policy.algFtp) return null;
		const external = (c.table.T[(this.#recordOf(k) << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff;
		const address = addressValue(c.externals.A[external]);
		// A server that was told its external address, and has forwards of its own.
		if (found.address === address) return null;
		if (found.address !== null && found.address !== addressValue(W[K_INTERNAL])) this.#note("ftp-foreign-address");
		else if (found.port < FIRST_PORT) this.#note("ftp-low-port");
		else {
			const room = k.stream.hasRoom;
			const port = room ? c.expectations.expect(TCP, W[K_PEER], external, W[K_INTERNAL], swap16(found.port), c.now, c.random()) : -1;
			if (port >= 0) {
				const changed = found.line(address, swap16(port));
				if (changed === line) return null;
				this.#note("ftp-rewritten");
				return changed;
			}
			this.#note("ftp-no-room");
		}
		return null;
	}

	/**
	 * Turns a segment that is not sent on into our acknowledgment of it, with the timestamps (RFC 7323) that the peer's
	 * would have.
	 */
	#answer(k: Connection, s: number, header: number, offset: number): 0 {
		const c = this.#c;
		const { P, H, B } = c.views;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const l4 = w + IP_HEADER_W;
		const total = 20 + offset;
		B.copyWithin(ip + 20, ip + header, ip + header + offset);
		B.fill(0, s, s + SLOT_IP);
		const internal = P[w + IP_SOURCE_W];
		B.fill(0, ip, ip + 12);
		B[ip] = IP_PLAIN_BYTE;
		H[(w << 1) + IP_LENGTH_H] = swap16(total);
		B[ip + IP_FLAGS] = DF_BYTE;
		B[ip + IP_TTL] = INITIAL_TTL;
		B[ip + IP_PROTOCOL] = TCP;
		P[w + IP_SOURCE_W] = P[w + IP_DESTINATION_W];
		P[w + IP_DESTINATION_W] = internal;
		H[(w << 1) + IP_SUM_H] = sumOf(H, B, ip, IP_HEADER) ^ 0xffff;
		const port = H[l4 << 1];
		H[l4 << 1] = H[(l4 << 1) + DESTINATION_PORT_H];
		H[(l4 << 1) + DESTINATION_PORT_H] = port;
		P[l4 + TCP_SEQUENCE_W] = P[l4 + TCP_ACK_W];
		P[l4 + TCP_ACK_W] = swap32(k.stream.answer);
		B[ip + PLAIN_TCP_FLAGS] = ACK;
		H[(l4 << 1) + TCP_WINDOW_H] = k.W[K_WINDOW];
		P[l4 + TCP_SUM_W] = 0;
		for (let at = ip + 40; at < ip + total && B[at] !== 0; ) {
			const size = B[at] === 1 ? 1 : B[at + 1];
			if (size === 0 || at + size > ip + total) break;
			if (B[at] === 8 && size === 10) {
				const value = B.slice(at + 2, at + 6);
				B.copyWithin(at + 2, at + 6, at + 10);
				B.set(value, at + 6);
			} else B.fill(1, at, at + size);
			at += size;
		}
		H[(l4 << 1) + TCP_SUM_H] = this.#sum(s, 20, total) ^ 0xffff;
		if (this.#toInternal(this.#recordOf(k), s, total)) c.forwardedIn++;
		return 0;
	}

	/** Queues the frame in slot `s` for the internal host of session `i`. */
	#toInternal(i: number, s: number, length: number): boolean {
		const c = this.#c;
		const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
		const lan = c.lan[(c.hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff];
		if (lan.queue.push(s, length, headerTag(HOST_HEADERS + host))) return true;
		this.#drop("queue-full", s);
		return false;
	}

	/**
	 * A segment, in slot `s` and from port `port`, of a session whose numbers are lost: its host is told by a reset in
	 * place of it.
	 */
	#lost(i: number, s: number, port: number): 0 {
		const c = this.#c;
		this.#drop("tcp-no-session", s, port);
		const length = sessionReset(c, i, s);
		c.table.setState(i, TCP_RESET, c.now16);
		if (length > 0 && this.#toInternal(i, s, length)) c.resetsSent++;
		return 0;
	}

	// ---- from the outside -------------------------------------------------------------------------------------------

	inbound(i: number, s: number, header: number, length: number): boolean {
		const { views, table } = this.#c;
		const { P, H, B } = views;
		const w = (s + SLOT_IP + header) >> 2;
		const l4 = w << 1;
		const word = swap16(H[l4 + TCP_FLAGS_H]);
		const offset = (word >> 12) * 4;
		const k = this.#find(i);
		if (offset < 20 || header + offset > length) {
			this.#drop("bad-transport", s, -1);
			return false;
		}
		if (k === null && (table.T[(i << RECORD_SHIFT) + R_META] & MOVED) !== 0) {
			this.#lost(i, s, -1);
			return false;
		}
		if (k === null || (word & ACK) === 0) return true;
		const { stream } = k;
		k.W[K_WINDOW] = H[l4 + TCP_WINDOW_H];
		const ack = stream.acknowledged(swap32(P[w + TCP_ACK_W]) | 0);
		const at = s + SLOT_IP + header;
		if (k.is(ASKED) && length > header + offset && ((ack - k.W[K_ASKED_END]) | 0) >= 0) this.#askedFor(k, B[at + offset]);
		if (!stream.moved) {
			if (!k.is(READING | ASKED)) this.#release(i, k);
			return true;
		}
		let delta = wordDelta(P[w + TCP_ACK_W], swap32(ack));
		P[w + TCP_ACK_W] = swap32(ack);
		if (offset > 20) {
			const before = sumOf(H, B, at + 20, offset - 20);
			this.#selective(stream, at + 20, at + offset);
			delta = fold(delta + halfDelta(before, sumOf(H, B, at + 20, offset - 20)));
		}
		if ((P[s >> 2] & VNET_PARTIAL) === 0) H[l4 + TCP_SUM_H] = adjust(H[l4 + TCP_SUM_H], delta);
		return true;
	}

	/**
	 * The reply to AUTH begins with `digit`: refused, the client goes on in the clear; else what follows is not for us.
	 */
	#askedFor(k: Connection, digit: number): void {
		if (digit < 0x31 || digit > 0x35) return;
		if (digit === 0x31) return;
		k.mark(ASKED, false);
		k.mark(READING, digit > 0x33);
	}

	/** Moves the edges of SACK blocks in the TCP options of [at, end). */
	#selective(stream: EditedStream, at: number, end: number): void {
		const { B } = this.#c.views;
		while (at < end && B[at] !== 0) {
			const size = B[at] === 1 ? 1 : B[at + 1];
			if (size === 0 || at + size > end) return;
			if (B[at] === 5) {
				for (let edge = at + 2; edge + 4 <= at + size; edge += 4) {
					const y = (B[edge] << 24) | (B[edge + 1] << 16) | (B[edge + 2] << 8) | B[edge + 3];
					const x = stream.selected(y, ((edge - at - 2) & 4) !== 0);
					B[edge] = x >>> 24;
					B[edge + 1] = (x >>> 16) & 0xff;
					B[edge + 2] = (x >>> 8) & 0xff;
					B[edge + 3] = x & 0xff;
				}
			}
			at += size;
		}
	}
}
