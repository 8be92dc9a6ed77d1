/**
 * Identifications of datagrams that may be fragmented, which all hosts behind one address share (RFC 6864 section
 * 5.3.1): no two of a destination's datagrams have one at the same time.
 *
 * Theory of operation. One counter for all destinations would tell each how much goes to the others (an idle scan), so
 * there is one for each of the numbers that a secret hash makes of destinations. It goes on by what is needed, and by
 * some more, at random, in each further second in which it is used: a destination that shares it with another does not
 * learn how much that one got. At that rate a counter comes round no sooner than the lifetime of datagrams, two
 * minutes, unless 200 a second are sent.
 */

const BITS = 9;
/** At most so many are left out in a second. */
const LEAP = 63;

/** The counters. */
export class Identifications {
	readonly #next = new Uint16Array(1 << BITS);
	/** Seconds, modulo 2^16, in which each was used last. */
	readonly #second = new Uint16Array(1 << BITS);
	readonly #key: number;
	#random: number;

	/** @param seed any 32-bit integer that nobody knows */
	constructor(seed: number) {
		this.#random = seed | 1;
		this.#key = this.#draw() | 1;
		for (let n = 0; n < this.#next.length; n++) this.#next[n] = this.#draw() >>> 8;
	}

	/** Xorshift: enough for what is only to be no constant. */
	#draw(): number {
		let x = this.#random;
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		this.#random = x;
		return x;
	}

	/**
	 * Takes `count` identifications for a destination (raw), all within `mask`; returns the first, in host order.
	 * `now16` is in seconds.
	 */
	take(destination: number, count: number, mask: number, now16: number): number {
		const at = Math.imul(destination ^ (destination >>> 16), this.#key) >>> (32 - BITS);
		let id = this.#next[at];
		if (this.#second[at] !== now16) {
			this.#second[at] = now16;
			id += this.#draw() & LEAP;
		}
		this.#next[at] = id + count;
		return id & mask;
	}
}
