/**
 * The way of a session: by which LAN port its host is reached, what fits the way out and how many hops it counts, and
 * whose session a translated frame is.
 */

import {
	HALF_SHIFT,
	HOP_SHIFT,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_WORDS,
	R_HOST,
	R_META,
	R_PEER,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { ICMP_ID_H } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_FLAGS_W, IP_PROTOCOL, IP_SOURCE_W } from "../packet/ipv4.ts";
import { hasPorts, ICMP, IP_OFFSET, pair, SLOT_IP } from "../packet/layout.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import { type Context, HAIRPIN, type LanLink } from "./context.ts";

/** The LAN port of a session's host. */
export function lanOfSession(c: Context, i: number): LanLink {
	const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
	return c.lan[(c.hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff];
}

/** Largest packet that a session's way out of the WAN takes. */
export function mtuOut({ table, hops, wan }: Context, i: number): number {
	const e = i << RECORD_SHIFT;
	return table.T[e + R_META] >>> HOP_SHIFT === HAIRPIN ? wan.mtu : hops.mtuTo(table.T[e + R_PEER]);
}

/**
 * Hops that are counted here on the way to a LAN port's host; a hairpinned packet has been counted already, and the
 * kernel counts after us.
 */
export function hopsIn(lan: LanLink, hairpin: boolean): number {
	return (lan.kernelForwards ? 0 : 1) - (hairpin ? 1 : 0);
}

/** Session of a translated packet on its way out in slot `s`; 0 of a later fragment, an error, or if it has ended. */
export function sessionOut(c: Context, s: number): number {
	const { P, H, B } = c.views;
	const ip = s + SLOT_IP;
	const w = ip >> 2;
	if ((P[w + IP_FLAGS_W] & IP_OFFSET) !== 0) return 0;
	const protocol = B[ip + IP_PROTOCOL];
	const l4 = (ip + (B[ip] & 15) * 4) >> 1;
	const ports = hasPorts(protocol) ? pair(H[l4 + DESTINATION_PORT_H], H[l4]) : protocol === ICMP ? pair(0, H[l4 + ICMP_ID_H]) : 0;
	return c.table.findIn(protocol, P[w + IP_DESTINATION_W], P[w + IP_SOURCE_W], c.externals.find(P[w + IP_SOURCE_W]), ports);
}

/** The same of one on its way to an internal host. */
export function sessionIn(c: Context, s: number): number {
	const { P, H, B } = c.views;
	const ip = s + SLOT_IP;
	const w = ip >> 2;
	if ((P[w + IP_FLAGS_W] & IP_OFFSET) !== 0) return 0;
	const protocol = B[ip + IP_PROTOCOL];
	const l4 = (ip + (B[ip] & 15) * 4) >> 1;
	const ports = hasPorts(protocol) ? pair(H[l4 + DESTINATION_PORT_H], H[l4]) : protocol === ICMP ? pair(H[l4 + ICMP_ID_H], 0) : 0;
	return c.table.findOut(protocol, P[w + IP_DESTINATION_W], P[w + IP_SOURCE_W], ports);
}
