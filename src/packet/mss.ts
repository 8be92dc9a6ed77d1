/**
 * TCP maximum segment size clamping (RFC 9293 section 3.7.1): a SYN through a WAN with a small MTU announces what fits
 * it.
 */

import { adjust, halfDelta } from "./checksum.ts";
import { swap16, type Views, VNET_PARTIAL } from "./layout.ts";
import { TCP_FLAGS_H, TCP_HEADER, TCP_SUM_H } from "./tcp.ts";

const MSS = 2;
const MSS_BYTES = 4;
/** Headers of a segment without options: what an MSS leaves of an MTU. */
export const MSS_HEADERS = 40;

/**
 * False if a SYN, whose TCP header begins at byte `tcp`, surely announces no more than `most`. Nearly always the option
 * stands first; what looks like it behind a header without options is none, and then there is nothing to lower either.
 */
export function mayAnnounceMore(B: Uint8Array, tcp: number, most: number): boolean {
	const at = tcp + TCP_HEADER;
	return B[at] !== MSS || B[at + 1] !== MSS_BYTES || B[at + 2] * 256 + B[at + 3] > most;
}

/**
 * Lowers the MSS option of a SYN to `most`. `l4` is the TCP header's first halfword, `room` its bytes with data. The
 * TCP checksum is updated unless it is a partial one, which covers no data yet.
 */
export function clampMss(v: Views, slot: number, l4: number, room: number, most: number): void {
	const { P, H, B } = v;
	const end = Math.min(room, (swap16(H[l4 + TCP_FLAGS_H]) >> 12) * 4) + l4 * 2;
	for (let at = l4 * 2 + TCP_HEADER; at + 1 < end && B[at] !== 0; ) {
		if (B[at] === 1) {
			at++;
			continue;
		}
		const size = B[at + 1];
		if (size < 2 || at + size > end) return;
		if (B[at] === MSS && size === MSS_BYTES) {
			if (B[at + 2] * 256 + B[at + 3] <= most) return;
			// The option may stand at an odd offset: update the sum over the two halfwords that it touches.
			const first = (at + 2) >> 1;
			const second = (at + 3) >> 1;
			const before = [H[first], H[second]];
			B[at + 2] = most >> 8;
			B[at + 3] = most & 0xff;
			if (P[slot >> 2] & VNET_PARTIAL) return;
			H[l4 + TCP_SUM_H] = adjust(H[l4 + TCP_SUM_H], halfDelta(before[0], H[first]));
			if (second !== first) H[l4 + TCP_SUM_H] = adjust(H[l4 + TCP_SUM_H], halfDelta(before[1], H[second]));
			return;
		}
		at += size;
	}
}
