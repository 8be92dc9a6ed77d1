/**
 * A TCP byte stream from inside in which an ALG replaces lines, seen from the middle: which number a byte has on either
 * side.
 *
 * Theory of operation. Numbers are "original" as the internal host counts, "sent" as the peer gets them. An *edit* is a
 * line that was sent otherwise than it came, with the bytes that were sent. Original and sent numbers differ by what
 * the edits before them have added, so the sequence numbers of segments from inside, and acknowledgment numbers and
 * SACK blocks (RFC 2018) of segments from outside are moved. A repeated segment is rendered from the same edits:
 * whatever part of an edited line it holds, the whole new line is sent; so both sides may cut their segments as they
 * like. An edit is forgotten when its room is needed and the peer has acknowledged it: whoever repeats such bytes sends
 * what the peer discards.
 *
 * All of it stands in memory that may be a file's, so that a stream goes on after its process has ended.
 *
 * A line that may matter but has not come to its end is *held*: its bytes are acknowledged to the internal host (else,
 * by Nagle's algorithm, it might not send the rest) and go out with the segment that completes it. That segment's own
 * bytes are acknowledged by the peer only, and since the edit spans the whole line, their repetition repeats the held
 * bytes too; so nothing here needs a timer or a copy of the window.
 */
import { LINE_MAX } from "./alg-ftp.ts";

const EDITS = 4;
/** A line and what a new address can add to it. */
const EDIT_MAX = LINE_MAX + 32;

/**
 * Words of a stream's memory: {@link EditedStream.next}, bytes held, edits in use, what forgotten ones have added, the
 * peer's acknowledgment.
 */
const S_NEXT = 0;
const S_HELD = 1;
const S_COUNT = 2;
const S_BASE = 3;
const S_ACKNOWLEDGED = 4;
const S_WORDS = 8;
/**
 * Words of an edit: original number of its first byte, original length, size sent, original bytes from its start that
 * we have acknowledged.
 */
const E_START = 0;
const E_LENGTH = 1;
const E_SIZE = 2;
const E_ANSWERED = 3;
const E_BYTES = 16;
const EDIT_WORDS = (E_BYTES + EDIT_MAX) >> 2;
const FIRST_EDIT = S_WORDS + (LINE_MAX >> 2);

/** Bytes of memory that a stream needs. */
export const STREAM_BYTES = (FIRST_EDIT + EDITS * EDIT_WORDS) * 4;

/** The numbers of one direction of a TCP session. All are 32-bit sequence numbers in host order, signed. */
export class EditedStream {
	readonly #W: Int32Array;
	readonly #B: Uint8Array;
	/** The bytes that are held, the first {@link heldLength} of them. */
	readonly held: Uint8Array;

	/** A stream as `memory` has it from byte `at` on; a new one needs {@link reset}. */
	constructor(memory = new ArrayBuffer(STREAM_BYTES), at = 0) {
		this.#W = new Int32Array(memory, at, STREAM_BYTES >> 2);
		this.#B = new Uint8Array(memory, at, STREAM_BYTES);
		this.held = this.#B.subarray(S_WORDS * 4, FIRST_EDIT * 4);
	}

	/** Original number after the last byte that has been looked at. */
	get next(): number {
		return this.#W[S_NEXT];
	}

	set next(value: number) {
		this.#W[S_NEXT] = value;
	}

	/** Bytes just before `next` that are held. */
	get heldLength(): number {
		return this.#W[S_HELD];
	}

	set heldLength(value: number) {
		this.#W[S_HELD] = value;
	}

	/** True if the memory can be a stream's: counts and lengths are within their bounds. */
	get sound(): boolean {
		const W = this.#W;
		if (W[S_HELD] < 0 || W[S_HELD] > LINE_MAX || W[S_COUNT] < 0 || W[S_COUNT] > EDITS) return false;
		for (let n = 0; n < W[S_COUNT]; n++) {
			const e = FIRST_EDIT + n * EDIT_WORDS;
			if (W[e + E_SIZE] < 0 || W[e + E_SIZE] > EDIT_MAX || W[e + E_LENGTH] < 0 || W[e + E_LENGTH] > EDIT_MAX) return false;
		}
		return true;
	}

	/** A new stream whose next byte is `next`. */
	reset(next: number): void {
		this.#W.fill(0, 0, S_WORDS);
		this.#W[S_NEXT] = next;
		this.#W[S_ACKNOWLEDGED] = next;
	}

	/** True once the two sides differ, or have: the stream cannot do without this object any more. */
	get moved(): boolean {
		return this.#W[S_COUNT] > 0 || this.#W[S_BASE] !== 0 || this.heldLength > 0;
	}

	/** Original number of the first held byte; `next` if none is held. */
	get heldFrom(): number {
		return (this.next - this.heldLength) | 0;
	}

	/** Room for one more edit. */
	get hasRoom(): boolean {
		const W = this.#W;
		if (W[S_COUNT] < EDITS) return true;
		return ((W[FIRST_EDIT + E_START] + W[S_BASE] + W[FIRST_EDIT + E_SIZE] - W[S_ACKNOWLEDGED]) | 0) <= 0;
	}

	/**
	 * Records that `length` original bytes from `start`, of which we have acknowledged `answered`, are sent as the
	 * `size` bytes of `from` at `at`. Only with {@link hasRoom}; `size` at most LINE_MAX + 32.
	 */
	add(start: number, length: number, answered: number, from: Uint8Array, at: number, size: number): void {
		const W = this.#W;
		if (W[S_COUNT] === EDITS) {
			W[S_BASE] += W[FIRST_EDIT + E_SIZE] - W[FIRST_EDIT + E_LENGTH];
			W.copyWithin(FIRST_EDIT, FIRST_EDIT + EDIT_WORDS);
			W[S_COUNT]--;
		}
		const e = FIRST_EDIT + W[S_COUNT] * EDIT_WORDS;
		W[e + E_START] = start;
		W[e + E_LENGTH] = length;
		W[e + E_SIZE] = size;
		W[e + E_ANSWERED] = answered;
		for (let n = 0; n < size; n++) this.#B[e * 4 + E_BYTES + n] = from[at + n];
		W[S_COUNT]++;
	}

	/** Sent number of an original one at which nothing is sent (a bare ACK, FIN or RST). */
	toPeer(x: number): number {
		const W = this.#W;
		const from = this.heldFrom;
		if (((x - from) | 0) > 0) x = from;
		let offset = W[S_BASE];
		for (let n = 0; n < W[S_COUNT]; n++) {
			const e = FIRST_EDIT + n * EDIT_WORDS;
			const over = (x - W[e + E_START] - W[e + E_LENGTH]) | 0;
			// Within an edited line, as a keep-alive probe is, it counts from the line's end.
			if (over < 0) return over <= -W[e + E_LENGTH] ? (x + offset) | 0 : (W[e + E_START] + offset + Math.max(0, W[e + E_SIZE] + over)) | 0;
			offset += W[e + E_SIZE] - W[e + E_LENGTH];
		}
		return (x + offset) | 0;
	}

	/**
	 * Original number for the peer's acknowledgment `y`. A line acknowledged in part is so to the extent that we have
	 * done it ourselves.
	 */
	acknowledged(y: number): number {
		const W = this.#W;
		if (((y - W[S_ACKNOWLEDGED]) | 0) > 0) W[S_ACKNOWLEDGED] = y;
		let offset = W[S_BASE];
		for (let n = 0; n < W[S_COUNT]; n++) {
			const e = FIRST_EDIT + n * EDIT_WORDS;
			const at = (y - W[e + E_START] - offset) | 0;
			if (at < 0) return (y - offset) | 0;
			if (at < W[e + E_SIZE]) return (W[e + E_START] + W[e + E_ANSWERED]) | 0;
			offset += W[e + E_SIZE] - W[e + E_LENGTH];
		}
		const x = (y - offset) | 0;
		return ((x - this.heldFrom) | 0) >= 0 && this.heldLength > 0 ? this.next : x;
	}

	/** What we may acknowledge to the internal host: what the peer has, and held bytes that follow it. */
	get answer(): number {
		return this.acknowledged(this.#W[S_ACKNOWLEDGED]);
	}

	/** Original number for an edge of a SACK block; within an edited line the edge that leaves the line out. */
	selected(y: number, right: boolean): number {
		const W = this.#W;
		let offset = W[S_BASE];
		for (let n = 0; n < W[S_COUNT]; n++) {
			const e = FIRST_EDIT + n * EDIT_WORDS;
			const at = (y - W[e + E_START] - offset) | 0;
			if (at <= 0) return (y - offset) | 0;
			if (at < W[e + E_SIZE]) return right ? W[e + E_START] : (W[e + E_START] + W[e + E_LENGTH]) | 0;
			offset += W[e + E_SIZE] - W[e + E_LENGTH];
		}
		return (y - offset) | 0;
	}

	/**
	 * Renders repeated bytes: `length` original bytes from `x` that stand at `at` of a buffer with `end` as the end of
	 * its contents become what was sent for them. `splice` replaces bytes in the buffer. Returns the sent number of the
	 * first byte.
	 */
	render(x: number, length: number, at: number, splice: (at: number, remove: number, bytes: Uint8Array, size: number) => void): number {
		const W = this.#W;
		const count = W[S_COUNT];
		let first = 0;
		let offset = W[S_BASE];
		for (let n = 0; n < count; n++) {
			const e = FIRST_EDIT + n * EDIT_WORDS;
			if (((x - W[e + E_START] - W[e + E_LENGTH]) | 0) < 0) break;
			offset += W[e + E_SIZE] - W[e + E_LENGTH];
			first++;
		}
		const start = W[FIRST_EDIT + first * EDIT_WORDS + E_START];
		const sent = ((first < count && ((x - start) | 0) > 0 ? start : x) + offset) | 0;
		for (let n = count - 1; n >= first; n--) {
			const e = FIRST_EDIT + n * EDIT_WORDS;
			const from = Math.max(0, (W[e + E_START] - x) | 0);
			const to = Math.min(length, (W[e + E_START] + W[e + E_LENGTH] - x) | 0);
			if (from < to) splice(at + from, to - from, this.#B.subarray(e * 4 + E_BYTES), W[e + E_SIZE]);
		}
		return sent;
	}
}
