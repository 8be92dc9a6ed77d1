/**
 * Ethernet headers ready to be sent: one for each next hop of the WAN and each inside host, copied in front of a frame by the shim (native.d.ts "frames").
 */

/** Bytes from one header to the next, of which 14 are used. */
export const HEADER_SIZE = 16;
/** Bit above which a send descriptor's second word names its header; the bits below are the packet's length. */
export const HEADER_SHIFT = 17;
export const LENGTH_MASK = 0x1ffff;
/** Numbers 0..255 belong to the WAN's next hops, those from here to inside hosts by their host number. */
export const HOST_HEADERS = 256;
/** What a send descriptor's second word adds for host number 0; every further host adds 1 << HEADER_SHIFT. */
export const HOST_TAG = (HOST_HEADERS + 1) << HEADER_SHIFT;

/** Bytes of a port's link header, which its virtio headers count. */
export function linkBytes(ethernet: boolean): number {
	return ethernet ? 14 : 0;
}

/** What a send descriptor's second word adds to name header `n`. */
export function headerTag(n: number): number {
	return (n + 1) << HEADER_SHIFT;
}

/** The headers in one buffer. */
export class LinkHeaders {
	readonly buffer: ArrayBuffer;
	readonly #B: Uint8Array;
	readonly #H: Uint16Array;
	/** Called with the number of a header that has become another one, or whose neighbour was lost. */
	changed: ((n: number) => void) | null = null;

	/** @param hosts largest host number */
	constructor(hosts: number) {
		this.buffer = new ArrayBuffer((HOST_HEADERS + hosts + 1) * HEADER_SIZE);
		this.#B = new Uint8Array(this.buffer);
		this.#H = new Uint16Array(this.buffer);
	}

	/** Writes header `n`: destination is six bytes of `from` at `at`, source is six bytes. */
	set(n: number, from: Uint8Array, at: number, source: Uint8Array): void {
		const B = this.#B;
		const h = n * HEADER_SIZE;
		let differs = false;
		for (let i = 0; i < 6; i++) {
			differs ||= B[h + i] !== from[at + i] || B[h + 6 + i] !== source[i];
			B[h + i] = from[at + i];
			B[h + 6 + i] = source[i];
		}
		B[h + 12] = 0x08;
		B[h + 13] = 0x00;
		if (differs && this.changed !== null) this.changed(n);
	}

	/** True if header `n` has been set and its destination is the three halfwords of `from` at `at`. */
	leadsTo(n: number, from: Uint16Array, at: number): boolean {
		const H = this.#H;
		const h = n * (HEADER_SIZE >> 1);
		return H[h] === from[at] && H[h + 1] === from[at + 1] && H[h + 2] === from[at + 2] && H[h + 6] !== 0;
	}

	/** The neighbour that header `n` leads to can not be reached any more. */
	lost(n: number): void {
		this.changed?.(n);
	}

	/** Changes the source of headers `first` to `last`. */
	setSource(first: number, last: number, source: Uint8Array): void {
		for (let n = first; n <= last; n++) this.#B.set(source.subarray(0, 6), n * HEADER_SIZE + 6);
	}
}
