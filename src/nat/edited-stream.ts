/**
 * A TCP byte stream from inside in which an ALG replaces lines, seen from the middle: which number a byte has on either side.
 *
 * Theory of operation. Numbers are "original" as the inside host counts, "sent" as the peer gets them. An *edit* is a line that was sent otherwise than it came,
 * with the bytes that were sent. Original and sent numbers differ by what the edits before them have added, so the sequence numbers of segments from inside,
 * and acknowledgment numbers and SACK blocks (RFC 2018) of segments from outside are moved. A repeated segment is rendered from the same edits: whatever part
 * of an edited line it holds, the whole new line is sent; so both sides may cut their segments as they like. An edit is forgotten when its room is needed and
 * the peer has acknowledged it: whoever repeats such bytes sends what the peer discards.
 *
 * A line that may matter but has not come to its end is *held*: its bytes are acknowledged to the inside host (else, by Nagle's algorithm, it might not send
 * the rest) and go out with the segment that completes it. That segment's own bytes are acknowledged by the peer only, and since the edit spans the
 * whole line, their repetition repeats the held bytes too; so nothing here needs a timer or a copy of the window.
 */
import { LINE_MAX } from "./alg-ftp.ts";

const EDITS = 4;
/** A line and what a new address can add to it. */
const EDIT_MAX = LINE_MAX + 32;

interface Edit {
	/** Original number of its first byte, and original length. */
	start: number;
	length: number;
	/** What was sent. */
	readonly bytes: Uint8Array;
	size: number;
	/** Original bytes from its start that we have acknowledged ourselves. */
	answered: number;
}

/** The numbers of one direction of a TCP session. All are 32-bit sequence numbers in host order, signed. */
export class EditedStream {
	/** Original number after the last byte that has been looked at. */
	next = 0;
	/** Bytes just before `next` that are held. */
	heldLength = 0;
	readonly held = new Uint8Array(LINE_MAX);
	readonly #edits: Edit[] = [];
	/** Edits in use, the oldest first. */
	#count = 0;
	/** What forgotten edits have added. */
	#base = 0;
	/** Highest sent number that the peer has acknowledged. */
	#acknowledged = 0;

	/** A new stream whose next byte is `next`. */
	reset(next: number): void {
		this.next = next | 0;
		this.#acknowledged = next | 0;
		this.heldLength = 0;
		this.#count = 0;
		this.#base = 0;
	}

	/** True once the two sides differ, or have: the stream can not do without this object any more. */
	get moved(): boolean {
		return this.#count > 0 || this.#base !== 0 || this.heldLength > 0;
	}

	/** Original number of the first held byte; `next` if none is held. */
	get heldFrom(): number {
		return (this.next - this.heldLength) | 0;
	}

	/** Room for one more edit. */
	get hasRoom(): boolean {
		if (this.#count < EDITS) return true;
		const first = this.#edits[0];
		return ((first.start + this.#base + first.size - this.#acknowledged) | 0) <= 0;
	}

	/**
	 * Records that `length` original bytes from `start`, of which we have acknowledged `answered`, are sent as the `size` bytes of `from` at `at`.
	 * Only with {@link hasRoom}; `size` at most LINE_MAX + 32.
	 */
	add(start: number, length: number, answered: number, from: Uint8Array, at: number, size: number): void {
		if (this.#count === EDITS) {
			const first = this.#edits.shift() as Edit;
			this.#base += first.size - first.length;
			this.#edits.push(first);
			this.#count--;
		}
		if (this.#edits.length === this.#count)
			this.#edits.push({ start: 0, length: 0, bytes: new Uint8Array(EDIT_MAX), size: 0, answered: 0 });
		const e = this.#edits[this.#count++];
		e.start = start | 0;
		e.length = length;
		e.size = size;
		e.answered = answered;
		for (let n = 0; n < size; n++) e.bytes[n] = from[at + n];
	}

	/** Sent number of an original one at which nothing is sent (a bare ACK, FIN or RST). */
	toPeer(x: number): number {
		const from = this.heldFrom;
		if (((x - from) | 0) > 0) x = from;
		let offset = this.#base;
		for (let n = 0; n < this.#count; n++) {
			const e = this.#edits[n];
			const over = (x - e.start - e.length) | 0;
			// Within an edited line, as a keep-alive probe is, it counts from the line's end.
			if (over < 0) return over <= -e.length ? (x + offset) | 0 : (e.start + offset + Math.max(0, e.size + over)) | 0;
			offset += e.size - e.length;
		}
		return (x + offset) | 0;
	}

	/** Original number for the peer's acknowledgment `y`. A line acknowledged in part is so to the extent that we have done it ourselves. */
	acknowledged(y: number): number {
		if (((y - this.#acknowledged) | 0) > 0) this.#acknowledged = y;
		let offset = this.#base;
		for (let n = 0; n < this.#count; n++) {
			const e = this.#edits[n];
			const at = (y - e.start - offset) | 0;
			if (at < 0) return (y - offset) | 0;
			if (at < e.size) return (e.start + e.answered) | 0;
			offset += e.size - e.length;
		}
		const x = (y - offset) | 0;
		return ((x - this.heldFrom) | 0) >= 0 && this.heldLength > 0 ? this.next : x;
	}

	/** What we may acknowledge to the inside host: what the peer has, and held bytes that follow it. */
	get answer(): number {
		return this.acknowledged(this.#acknowledged);
	}

	/** Original number for an edge of a SACK block; within an edited line the edge that leaves the line out. */
	selected(y: number, right: boolean): number {
		let offset = this.#base;
		for (let n = 0; n < this.#count; n++) {
			const e = this.#edits[n];
			const at = (y - e.start - offset) | 0;
			if (at <= 0) return (y - offset) | 0;
			if (at < e.size) return right ? e.start : (e.start + e.length) | 0;
			offset += e.size - e.length;
		}
		return (y - offset) | 0;
	}

	/**
	 * Renders repeated bytes: `length` original bytes from `x` that stand at `at` of a buffer with `end` as the end of its contents become what was sent
	 * for them. `splice` replaces bytes in the buffer. Returns the sent number of the first byte.
	 */
	render(x: number, length: number, at: number, splice: (at: number, remove: number, bytes: Uint8Array, size: number) => void): number {
		let first = 0;
		let offset = this.#base;
		for (let n = 0; n < this.#count; n++) {
			const e = this.#edits[n];
			if (((x - e.start - e.length) | 0) < 0) break;
			offset += e.size - e.length;
			first++;
		}
		const within = first < this.#count && ((x - this.#edits[first].start) | 0) > 0;
		const sent = ((within ? this.#edits[first].start : x) + offset) | 0;
		for (let n = this.#count - 1; n >= first; n--) {
			const e = this.#edits[n];
			const from = Math.max(0, (e.start - x) | 0);
			const to = Math.min(length, (e.start + e.length - x) | 0);
			if (from < to) splice(at + from, to - from, e.bytes, e.size);
		}
		return sent;
	}
}
