/**
 * What packet and byte counters have beyond their place in a record. Few sessions ever get there, so a few counters
 * serve all of them; when all are taken, those of further sessions come round. They are part of the table's file.
 */
import { LARGE } from "./table-layout.ts";

/** Record number | which << 16 | 1 << 18; 0: free. Written last, cleared first. */
const L_KEY = 0;
/** Carries that the record does not hold, of PACKETS_CARRY packets or BYTES_CARRY bytes. */
const L_COUNT = 1;
const L_USED = 1 << 18;

/** Which counter of a session: packets, or bytes; 1 more for inbound. */
export const L_PACKETS = 0;
export const L_BYTES = 2;

/** The counters of a table. */
export class LargeCounters {
	readonly #words: Int32Array;
	/** False while none is in use. */
	used = false;

	constructor(buffer: ArrayBuffer, at: number) {
		this.#words = new Int32Array(buffer, at, LARGE * 2);
	}

	/** Forgets all. */
	clear(): void {
		this.#words.fill(0);
		this.used = false;
	}

	/** Adds carries to a counter of session `i`; they are lost if all counters are taken. */
	add(i: number, which: number, carries: number): void {
		const l = this.#words;
		const key = i | (which << 16) | L_USED;
		let free = -1;
		for (let n = 0; n < l.length; n += 2) {
			if (l[n + L_KEY] === key) {
				l[n + L_COUNT] += carries;
				return;
			}
			if (free < 0 && l[n + L_KEY] === 0) free = n;
		}
		if (free < 0) return;
		l[free + L_COUNT] = carries;
		l[free + L_KEY] = key;
		this.used = true;
	}

	/** Carries of a counter of session `i`. */
	of(i: number, which: number): number {
		if (!this.used) return 0;
		const l = this.#words;
		const key = i | (which << 16) | L_USED;
		for (let n = 0; n < l.length; n += 2) if (l[n + L_KEY] === key) return l[n + L_COUNT];
		return 0;
	}

	/** Ends the counters of sessions for which `gone` holds. */
	forget(gone: (i: number) => boolean): void {
		const l = this.#words;
		this.used = false;
		for (let n = 0; n < l.length; n += 2) {
			if (l[n + L_KEY] === 0) continue;
			if (gone(l[n + L_KEY] & 0xffff)) l[n + L_KEY] = 0;
			else this.used = true;
		}
	}

	/**
	 * Goes on with the counters of an image, its own or another's; `place` says which record has the session of one
	 * there, 0 if none has.
	 */
	restore(image: Int32Array, place: (i: number) => number): void {
		const found: number[] = [];
		for (let n = 0; n < image.length; n += 2) {
			const key = image[n + L_KEY];
			const i = key & L_USED && key >>> 19 === 0 && image[n + L_COUNT] > 0 ? place(key & 0xffff) : 0;
			if (i !== 0) found.push((key & ~0xffff) | i, image[n + L_COUNT]);
		}
		this.#words.fill(0);
		this.#words.set(found);
		this.used = found.length > 0;
	}
}
