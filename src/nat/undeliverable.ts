/**
 * Translated packets that cannot go on for want of a route or a neighbour: whoever has sent them is told (RFC 1812
 * section 4.3.3.1), with the packet as it was sent.
 */

import { EXTERNAL_SHIFT, HALF_SHIFT, R_DELTA, R_HOST, R_IN, R_META, R_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import { HEADER_SIZE, HOST_HEADERS } from "../packet/header-tag.ts";
import { HOST_UNREACHABLE } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_PROTOCOL, IP_SOURCE_W } from "../packet/ipv4.ts";
import { firstOf, ICMP, IP_WORD, SLOT_ETHER, SLOT_IP, secondOf } from "../packet/layout.ts";
import type { Context } from "./context.ts";
import type { IcmpSender } from "./icmp-error.ts";
import { isRenamed } from "./renamed-peer.ts";
import { lanOfSession, sessionIn, sessionOut } from "./session-way.ts";
import { rewrite, setPort } from "./translate.ts";

/** The packet in slot `s` was on its way out: its sender inside is told. `kind` is type * 256 + code. */
export function undeliverable(c: Context, errors: IcmpSender, s: number, length: number, kind: number): void {
	const { P, B } = c.views;
	const i = sessionOut(c, s);
	if (i === 0) return;
	const t = c.table.T;
	const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
	const lan = lanOfSession(c, i);
	const room = length - (B[s + SLOT_IP] & 15) * 4;
	rewrite(c, s, ~t[(i << RECORD_SHIFT) + R_DELTA], 0, c.wan, lan);
	P[(s >> 2) + IP_WORD + IP_SOURCE_W] = t[i << RECORD_SHIFT];
	setPort(c, s, room, 0, firstOf(t[(i << RECORD_SHIFT) + R_OUT]));
	if (isRenamed(c.table, i)) setPort(c, s, room, 1, secondOf(t[(i << RECORD_SHIFT) + R_OUT]));
	B.set(new Uint8Array(c.headers.buffer, (HOST_HEADERS + host) * HEADER_SIZE, 6), s + SLOT_ETHER + 6);
	errors.send(s, length, c.lan.indexOf(lan), kind);
}

/** It was for an internal host that does not answer: who sent it is told, outside or, of a hairpinned one, inside. */
export function undeliverableInternal(c: Context, errors: IcmpSender, s: number, length: number): void {
	const { P, B } = c.views;
	const i = sessionIn(c, s);
	if (i === 0) return;
	const t = c.table.T;
	const w = (s >> 2) + IP_WORD;
	const ip = s + SLOT_IP;
	rewrite(c, s, t[(i << RECORD_SHIFT) + R_DELTA], 0, lanOfSession(c, i), c.wan);
	P[w + IP_DESTINATION_W] = c.externals.A[(t[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff];
	setPort(c, s, length - (B[ip] & 15) * 4, B[ip + IP_PROTOCOL] === ICMP ? 0 : 1, secondOf(t[(i << RECORD_SHIFT) + R_IN]));
	if (c.externals.find(P[w + IP_SOURCE_W]) >= 0) undeliverable(c, errors, s, length, HOST_UNREACHABLE);
	else errors.send(s, length, -1, HOST_UNREACHABLE);
}
