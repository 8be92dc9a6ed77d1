/**
 * The Internet checksum (RFC 1071) over raw halfwords, and its incremental update (RFC 1624). A "sum" is a folded
 * 16-bit ones-complement sum; a "delta" is what replacing old words by new ones adds to a sum. All values are raw, so
 * they fit any host byte order.
 */
import { LITTLE } from "./layout.ts";

/** Folds up to 32 bits of carries into 16. */
export function fold(sum: number): number {
	sum = (sum & 0xffff) + (sum >>> 16);
	return (sum & 0xffff) + (sum >>> 16);
}

/** Sum of `length` bytes from byte offset `from` (even); an odd last byte is padded with zero. */
export function sumOf(H: Uint16Array, B: Uint8Array, from: number, length: number): number {
	let sum = 0;
	const end = (from + length) >> 1;
	for (let i = from >> 1; i < end; i++) sum += H[i];
	if (length & 1) sum += LITTLE ? B[from + length - 1] : B[from + length - 1] << 8;
	return fold(sum);
}

/** Delta of replacing one word (address) by another. */
export function wordDelta(from: number, to: number): number {
	return fold(((from & 0xffff) ^ 0xffff) + ((from >>> 16) ^ 0xffff) + (to & 0xffff) + (to >>> 16));
}

/** Delta of replacing one halfword (port, identifier) by another. */
export function halfDelta(from: number, to: number): number {
	return fold((from ^ 0xffff) + to);
}

/** A checksum field after its data changed by `delta` (RFC 1624 equation 3). */
export function adjust(field: number, delta: number): number {
	return fold((field ^ 0xffff) + delta) ^ 0xffff;
}

/** As {@link adjust} for UDP, where zero means "none" and a computed zero is sent as all ones (RFC 768). */
export function adjustUdp(field: number, delta: number): number {
	return adjust(field, delta) || 0xffff;
}
