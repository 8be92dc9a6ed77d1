/**
 * Free external ports of one protocol at one external address: a bitmap in three levels.
 *
 * Theory of operation. Even and odd ports live in two planes, so that "next free port of the same parity at or after a
 * random start" (RFC 4787 REQ-3b and REQ-4, RFC 6056 section 3.3.1) is at most three words: the start's own word, the
 * level above, the level above that. A set bit is a free port; a bit of an upper level is set when the word below it is
 * not zero. The search wraps once and fails only when the plane is full.
 */

/** Inclusive range of port numbers in host order. */
export interface PortRange {
	first: number;
	last: number;
}

/** Words that a PortMap for ports `first` to `last` needs. */
export function portMapWords(first: number, last: number): number {
	const bits = planeBits(first, last);
	return 2 * (bits / 32 + levelWords(bits / 32) + 1);
}

function planeBits(first: number, last: number): number {
	return ((last - (first & ~63)) >> 6) * 32 + 32;
}

function levelWords(words: number): number {
	return (words + 31) >> 5;
}

/** The free ports between two bounds. All port numbers are host order. */
export class PortMap {
	readonly #words: Int32Array;
	readonly #base: number;
	readonly #last: number;
	readonly #bits: number;
	readonly #l1: number;
	readonly #l2: number;
	readonly #stride: number;
	/** Ports free now. */
	free = 0;
	/** Ports in the ranges. */
	total = 0;
	/** Few are left: a fifth. */
	low = 0;

	/**
	 * @param words zeroed memory, exactly {@link portMapWords} words
	 * @param ranges ports that may be given, within first..last
	 * @param copied the map that `words` are a copy of: they are taken as they are then
	 */
	constructor(words: Int32Array, first: number, last: number, ranges: PortRange[], copied: PortMap | null = null) {
		this.#words = words;
		this.#base = first & ~63;
		this.#last = last;
		this.#bits = planeBits(first, last);
		const l0 = this.#bits / 32;
		this.#l1 = l0;
		this.#l2 = l0 + levelWords(l0);
		this.#stride = this.#l2 + 1;
		if (levelWords(l0) > 32) throw new RangeError("port range too wide");
		if (copied !== null) {
			this.free = copied.free;
			this.total = copied.total;
			this.low = copied.low;
			return;
		}
		words.fill(0);
		for (const r of ranges) for (let p = Math.max(r.first, first); p <= r.last && p <= last; p++) this.#set(p);
		this.total = this.free;
		this.low = Math.floor(this.total / 5);
	}

	/** Words of memory. */
	get words(): number {
		return this.#words.length;
	}

	/** This map as it is now over a copy of its words. */
	copy(words: Int32Array): PortMap {
		return new PortMap(words, this.#base, this.#last, [], this);
	}

	#set(port: number): void {
		const plane = (port & 1) * this.#stride;
		const bit = (port - this.#base) >> 1;
		const word = plane + (bit >> 5);
		if (this.#words[word] & (1 << (bit & 31))) return;
		this.#words[word] |= 1 << (bit & 31);
		this.#words[plane + this.#l1 + (bit >> 10)] |= 1 << ((bit >> 5) & 31);
		this.#words[plane + this.#l2] |= 1 << ((bit >> 10) & 31);
		this.free++;
	}

	/** Takes `port` if it is in the ranges and free. */
	take(port: number): boolean {
		if (port < this.#base || port > this.#last) return false;
		const plane = (port & 1) * this.#stride;
		const bit = (port - this.#base) >> 1;
		const word = plane + (bit >> 5);
		const mask = 1 << (bit & 31);
		const w = this.#words;
		const v = w[word];
		if ((v & mask) === 0) return false;
		w[word] = v ^ mask;
		if (v === mask) this.#emptied(plane, bit);
		this.free--;
		return true;
	}

	/** The word that has bit `bit` of a plane is zero: the levels above know it. */
	#emptied(plane: number, bit: number): void {
		const up = plane + this.#l1 + (bit >> 10);
		this.#words[up] &= ~(1 << ((bit >> 5) & 31));
		if (this.#words[up] === 0) this.#words[plane + this.#l2] &= ~(1 << ((bit >> 10) & 31));
	}

	/** Gives a taken port back. */
	release(port: number): void {
		this.#set(port);
	}

	/**
	 * Finds and takes a free port: same parity as `like` if any is left (RFC 4787 REQ-4), else any, the first at or
	 * after a start drawn from `random` (any 32-bit integer). Returns -1 when every port is taken.
	 */
	takeAny(like: number, random: number): number {
		const start = ((random & 0x7fffffff) % this.#bits) | 0;
		// Nearly always there is one in the start's own word.
		const plane = (like & 1) * this.#stride;
		const w = this.#words;
		const v = w[plane + (start >> 5)];
		const from = v & (-1 << (start & 31));
		if (from !== 0) {
			const bit = (start & -32) + 31 - Math.clz32(from & -from);
			const mask = 1 << (bit & 31);
			w[plane + (start >> 5)] = v ^ mask;
			if (v === mask) this.#emptied(plane, bit);
			this.free--;
			return this.#base + bit * 2 + (like & 1);
		}
		let port = this.#search(like & 1, start);
		if (port < 0) port = this.#search((like & 1) ^ 1, start);
		if (port >= 0) this.take(port);
		return port;
	}

	#search(parity: number, start: number): number {
		const bit = this.#next(parity * this.#stride, start);
		const found = bit < 0 ? this.#next(parity * this.#stride, 0) : bit;
		return found < 0 ? -1 : this.#base + found * 2 + parity;
	}

	/** First free bit >= start of a plane, -1 if none. */
	#next(plane: number, start: number): number {
		const w = this.#words;
		let i = start >> 5;
		let v = w[plane + i] & (-1 << (start & 31));
		if (v !== 0) return i * 32 + lowest(v);
		let j = i >> 5;
		v = w[plane + this.#l1 + j] & above(i & 31);
		if (v === 0) {
			const top = w[plane + this.#l2] & above(j);
			if (top === 0) return -1;
			j = lowest(top);
			v = w[plane + this.#l1 + j];
		}
		i = j * 32 + lowest(v);
		return i * 32 + lowest(w[plane + i]);
	}
}

function lowest(v: number): number {
	return 31 - Math.clz32(v & -v);
}

/** Mask of the bits strictly above `bit`. */
function above(bit: number): number {
	return bit === 31 ? 0 : -1 << (bit + 1);
}
