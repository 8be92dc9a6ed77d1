/**
 * Ethernet headers ready to be sent: one for each next hop of the WAN and each internal host, copied in front of a
 * frame by the shim (native.d.ts "frames").
 */
import { ETH_P_IP, ETHER_TYPE, MAC_BYTES } from "./ethernet.ts";
import { HEADER_SIZE, HOST_HEADERS } from "./header-tag.ts";

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
		for (let i = 0; i < MAC_BYTES; i++) {
			differs ||= B[h + i] !== from[at + i] || B[h + MAC_BYTES + i] !== source[i];
			B[h + i] = from[at + i];
			B[h + MAC_BYTES + i] = source[i];
		}
		B[h + ETHER_TYPE] = ETH_P_IP >> 8;
		B[h + ETHER_TYPE + 1] = ETH_P_IP & 255;
		if (differs && this.changed !== null) this.changed(n);
	}

	/** True if header `n` has been set and its destination is the three halfwords of `from` at `at`. */
	leadsTo(n: number, from: Uint16Array, at: number): boolean {
		const H = this.#H;
		const h = n * (HEADER_SIZE >> 1);
		return H[h] === from[at] && H[h + 1] === from[at + 1] && H[h + 2] === from[at + 2] && H[h + 6] !== 0;
	}

	/** The neighbour that header `n` leads to cannot be reached any more. */
	lost(n: number): void {
		this.changed?.(n);
	}

	/** Changes the source of headers `first` to `last`. */
	setSource(first: number, last: number, source: Uint8Array): void {
		for (let n = first; n <= last; n++) this.#B.set(source.subarray(0, MAC_BYTES), n * HEADER_SIZE + MAC_BYTES);
	}
}
