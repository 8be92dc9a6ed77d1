/**
 * Whether an IPv4 header can be right, as RFC 1812 section 5.2.2 has it. Values in, values out.
 */

import { sumOf } from "../packet/checksum.ts";
import { IP_HEADER, IP_LENGTH_H } from "../packet/ipv4.ts";
import { ETHER_GROUP, SLOT_ETHER, SLOT_IP, swap16, type Views } from "../packet/layout.ts";
import { REASON, refusal } from "./reason.ts";

/** IPv4 options (RFC 791 section 3.1): one byte long; loose and strict source route. */
const NO_OPERATION = 1;
const LOOSE_ROUTE = 131;
const STRICT_ROUTE = 137;

/**
 * Total length of the IPv4 packet in slot `s`, of which `received` bytes came behind an Ethernet header or none; or a
 * refusal.
 */
export function checkHeader({ H, B }: Views, s: number, received: number, ethernet: boolean): number {
	const ip = s + SLOT_IP;
	if (received < IP_HEADER) return refusal(REASON["short-packet"]);
	if (B[ip] >> 4 !== 4) return refusal(REASON["bad-version"]);
	const header = (B[ip] & 15) * 4;
	if (header < IP_HEADER || header > received) return refusal(REASON["bad-header-length"]);
	const h = ip >> 1;
	// Nearly always there are no options. A sum of all ones is a multiple of them.
	const sum =
		header === IP_HEADER
			? (H[h] + H[h + 1] + H[h + 2] + H[h + 3] + H[h + 4] + H[h + 5] + H[h + 6] + H[h + 7] + H[h + 8] + H[h + 9]) % 0xffff
			: sumOf(H, B, ip, header) ^ 0xffff;
	if (sum !== 0) return refusal(REASON["bad-header-checksum"]);
	if (ethernet && (H[(s + SLOT_ETHER) >> 1] & ETHER_GROUP) !== 0) return refusal(REASON["link-broadcast"]);
	const length = swap16(H[h + IP_LENGTH_H]);
	if (length < header || length > received) return refusal(REASON["bad-total-length"]);
	if (header === IP_HEADER) return length;
	for (let at = ip + IP_HEADER; at < ip + header && B[at] !== 0; ) {
		if (B[at] === NO_OPERATION) at++;
		else if (B[at] === LOOSE_ROUTE || B[at] === STRICT_ROUTE) return refusal(REASON["source-route"]);
		else if (at + 1 >= ip + header || B[at + 1] < 2) return refusal(REASON["bad-header-length"]);
		else at += B[at + 1];
	}
	return length;
}
