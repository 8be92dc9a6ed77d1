/**
 * How a send descriptor names the link header of its frame (link-header.ts): the numbers of headers, and where one
 * stands in the descriptor. No imports and constants first, so that esbuild inlines them (conntrack/record.ts).
 */

/** Bytes from one header to the next, of which 14 are used. */
export const HEADER_SIZE = 16;
/** Bit above which a send descriptor's second word names its header; the bits below are the packet's length. */
export const HEADER_SHIFT = 17;
export const LENGTH_MASK = 0x1ffff;
/** Numbers 0..255 belong to the WAN's next hops, those from here to internal hosts by their host number. */
export const HOST_HEADERS = 256;
/** What a send descriptor's second word adds for host number 0; every further host adds 1 << HEADER_SHIFT. */
export const HOST_TAG = (HOST_HEADERS + 1) << HEADER_SHIFT;

/** What a send descriptor's second word adds to name header `n`. */
export function headerTag(n: number): number {
	return (n + 1) << HEADER_SHIFT;
}
