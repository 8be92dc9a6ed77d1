/**
 * ICMP errors in transit: the packet that they quote is rewritten to what the receiver knows (RFC 5508 section 4, RFC
 * 3022 section 4.3).
 *
 * The quote is the offending packet as the error's sender saw it. From outside it has our external endpoint as source;
 * from inside the internal endpoint as destination. Only that address and port change, with the quoted header checksum,
 * the quoted transport checksum where it is within the quote, and the ICMP checksum over all of it, each incrementally,
 * so that extensions and padding behind the quote (RFC 4884) stay as they are.
 */

import { EXTERNAL_SHIFT, R_IN, R_META, R_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import { adjust, adjustUdp, fold, halfDelta, sumOf, wordDelta } from "../packet/checksum.ts";
import { changeSctpPort } from "../packet/crc32c.ts";
import { ICMP_ID_H, ICMP_SUM_H, REDIRECT, SOURCE_QUENCH } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_FLAGS_W, IP_LENGTH_H, IP_PROTOCOL, IP_SOURCE_W, IP_SUM_H } from "../packet/ipv4.ts";
import { firstOf, hasPorts, ICMP, IP_OFFSET, LITTLE, pair, SCTP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { TCP_SUM_H } from "../packet/tcp.ts";
import { DESTINATION_PORT_H, UDP_SUM_H } from "../packet/udp.ts";
import type { Context } from "./context.ts";
import { REASON, refusal } from "./reason.ts";
import { isRenamed } from "./renamed-peer.ts";

/**
 * Rewrites the quote of the ICMP error that begins at byte `at` of the frame buffer and has `room` bytes. `fromInside`
 * tells the direction; for errors from outside `external` is the external address number they were sent to, which must
 * be the quote's source. `judge` says whether the error may be about a session: -1, or a reason number. Returns the
 * session the quote belongs to, or a refusal, with nothing changed.
 */
export function translateError(
	c: Context,
	at: number,
	room: number,
	fromInternal: boolean,
	external: number,
	judge: (i: number) => number,
): number {
	const { P, H, B } = c.views;
	if (room < 8 + 20 + 8) return refusal(REASON["icmp-bad-quote"]);
	if (sumOf(H, B, at, room) !== 0xffff) return refusal(REASON["icmp-bad-checksum"]);
	if (B[at] === SOURCE_QUENCH || B[at] === REDIRECT) return refusal(REASON["icmp-unsupported"]);
	const quote = at + 8;
	const header = (B[quote] & 15) * 4;
	if (B[quote] >> 4 !== 4 || header < 20 || 8 + header + 8 > room) return refusal(REASON["icmp-bad-quote"]);
	if (sumOf(H, B, quote, header) !== 0xffff) return refusal(REASON["icmp-bad-quote"]);
	const w = quote >> 2;
	if ((P[w + IP_FLAGS_W] & IP_OFFSET) !== 0) return refusal(REASON["icmp-no-session"]);
	const l4 = (quote + header) >> 1;
	const protocol = B[quote + IP_PROTOCOL];
	const ported = hasPorts(protocol);
	const id = protocol === ICMP ? H[l4 + ICMP_ID_H] : 0;
	const { table } = c;
	let i: number;
	if (fromInternal) {
		const ports = ported ? pair(H[l4 + DESTINATION_PORT_H], H[l4]) : protocol === ICMP ? pair(id, 0) : 0;
		i = table.findOut(protocol, P[w + IP_DESTINATION_W], P[w + IP_SOURCE_W], ports);
	} else {
		const ports = ported ? pair(H[l4 + DESTINATION_PORT_H], H[l4]) : protocol === ICMP ? pair(0, id) : 0;
		if (P[w + IP_SOURCE_W] !== c.externals.A[external]) return refusal(REASON["icmp-no-session"]);
		i = table.findIn(protocol, P[w + IP_DESTINATION_W], P[w + IP_SOURCE_W], external, ports);
	}
	if (i === 0) return refusal(REASON["icmp-no-session"]);
	const bad = judge(i);
	if (bad >= 0) return refusal(bad);

	const e = i << RECORD_SHIFT;
	const t = table.T;
	const address = fromInternal ? c.externals.A[(t[e + R_META] >> EXTERNAL_SHIFT) & 0xff] : t[e];
	const port = fromInternal ? secondOf(t[e + R_IN]) : firstOf(t[e + R_OUT]);
	const addressAt = w + (fromInternal ? IP_DESTINATION_W : IP_SOURCE_W);
	const portAt = protocol === ICMP ? l4 + ICMP_ID_H : l4 + (fromInternal ? DESTINATION_PORT_H : 0);
	const addressChange = wordDelta(P[addressAt], address);
	let portChange = ported || protocol === ICMP ? halfDelta(H[portAt], port) : 0;
	if (isRenamed(table, i)) {
		const peerAt = l4 + (fromInternal ? 0 : DESTINATION_PORT_H);
		const peerPort = fromInternal ? firstOf(t[e + R_IN]) : secondOf(t[e + R_OUT]);
		portChange = fold(portChange + halfDelta(H[peerAt], peerPort));
		H[peerAt] = peerPort;
	}
	// The quoted header's checksum change cancels its address change in the ICMP sum, the transport checksum's change
	// is added to it.
	let icmp = portChange;
	H[(quote >> 1) + IP_SUM_H] = adjust(H[(quote >> 1) + IP_SUM_H], addressChange);
	P[addressAt] = address;
	const bytes = swap16(H[(quote >> 1) + IP_LENGTH_H]) - header;
	if (protocol === SCTP && (l4 + 6) * 2 <= at + room && bytes >= 12) {
		const [first, second] = [H[l4 + 4], H[l4 + 5]];
		changeSctpPort(B, l4 * 2, bytes, (portAt - l4) * 2, LITTLE ? port & 0xff : port >> 8, LITTLE ? port >> 8 : port & 0xff);
		icmp = fold(icmp + halfDelta(first, H[l4 + 4]) + halfDelta(second, H[l4 + 5]));
	} else if (ported || protocol === ICMP) H[portAt] = port;
	const sumAt = protocol === TCP ? l4 + TCP_SUM_H : protocol === ICMP ? l4 + ICMP_SUM_H : l4 + UDP_SUM_H;
	const hasSum = (ported || protocol === ICMP) && protocol !== SCTP && sumAt * 2 + 2 <= at + room && !(protocol === UDP && H[sumAt] === 0);
	if (hasSum) {
		const before = H[sumAt];
		const change = protocol === ICMP ? portChange : fold(addressChange + portChange);
		H[sumAt] = protocol === UDP ? adjustUdp(before, change) : adjust(before, change);
		icmp = fold(icmp + halfDelta(before, H[sumAt]));
	}
	H[(at >> 1) + ICMP_SUM_H] = adjust(H[(at >> 1) + ICMP_SUM_H], icmp);
	return i;
}
