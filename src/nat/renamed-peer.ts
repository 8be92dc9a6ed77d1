/**
 * One peer endpoint that reaches one internal endpoint by two forwards at once: towards the inside its second
 * connection needs another port, or the two could not be told apart (the kernel does the same).
 *
 * The two ports words of a record have the peer's port each, as the inside and as the outside knows it. Such a session
 * is ALG_INSPECTED, so that all its segments come to the slow path, which changes that port with its checksum here; the
 * session's stored delta is that of its own endpoint, as ever. TCP only: datagrams have no state that keeps them from
 * the fast path.
 */

import { R_IN, R_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import type { Table } from "../conntrack/table.ts";
import { adjust, halfDelta } from "../packet/checksum.ts";
import { firstOf, pair, secondOf, swap16, TCP, VNET_PARTIAL } from "../packet/layout.ts";
import { TCP_SUM_H } from "../packet/tcp.ts";
import type { Context } from "./context.ts";

/** Ports that are tried; each is free but for a chance of one in some thousands. */
const ATTEMPTS = 8;

/** True if the peer of session `i` has another port inside. */
export function isRenamed({ T }: Table, i: number): boolean {
	return secondOf(T[(i << RECORD_SHIFT) + R_OUT]) !== firstOf(T[(i << RECORD_SHIFT) + R_IN]);
}

/** A port (raw) for a peer that an internal endpoint does not know yet, -1 if none is found. */
export function otherPeerPort(c: Context, internal: number, internalPort: number, peer: number): number {
	for (let n = 0; n < ATTEMPTS; n++) {
		const port = swap16(1024 + ((c.random() >>> 1) % 64512));
		if (c.table.findOut(TCP, internal, peer, pair(internalPort, port)) === 0) return port;
	}
	return -1;
}

/**
 * Gives the peer of session `i` the port that the other side knows, in the segment in slot `s` whose TCP header begins
 * at halfword `l4`.
 */
export function renamePeer(c: Context, i: number, s: number, l4: number, outbound: boolean): void {
	const { P, H } = c.views;
	const { T } = c.table;
	const at = l4 + (outbound ? 1 : 0);
	const port = outbound ? firstOf(T[(i << RECORD_SHIFT) + R_IN]) : secondOf(T[(i << RECORD_SHIFT) + R_OUT]);
	// A partial checksum has the pseudo-header only.
	if ((P[s >> 2] & VNET_PARTIAL) === 0) H[l4 + TCP_SUM_H] = adjust(H[l4 + TCP_SUM_H], halfDelta(H[at], port));
	H[at] = port;
}
