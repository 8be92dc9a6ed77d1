/**
 * What a host may have of the sessions and ports that all share (RFC 6888 REQ-4).
 *
 * Theory of operation. A host is guaranteed its part of the table, and of the ports of a kind at its external address;
 * beyond that it may borrow while a fifth is free. Its part is one by the number of hosts; but hosts nobody has
 * answered yet count for one together, so that who sends from addresses that are not there takes no part from anybody.
 * Of few ports even a host that is alone cannot hold the last fifth by live sessions: those are never taken back, and
 * the next host wants some.
 */
import type { Context } from "./context.ts";

/** Least number of sessions that every host may have, however full the table is. */
export const HOST_MINIMUM = 16;
/** While at least this share of the table, or of the ports, is free, a host may have more than its part. */
export const BORROW_FREE = 0.2;
/**
 * While less than this share of the table is free, strangers may open no more than half of a host's part: the rest is
 * for what it opens itself.
 */
export const STRANGERS_FREE = 0.3;
/**
 * Sessions of a host that strangers have opened and it has not answered, and finished ones, as a shift of the table's
 * size: further ones of strangers take their place.
 */
export const STRANGERS_SHIFT = 3;

/** Ports from which on a host that is alone may hold all of them: the table is what is full first. */
const WIDE = 16_384;

/** Hosts that share: those that were answered, all others together, and `host` (0: none) if it is one of these. */
export function sharers(c: Context, host: number): number {
	const { answered } = c.table.spare;
	const own = host !== 0 && c.table.spare.live(host) === 0 ? 1 : 0;
	return Math.max(1, answered + own + (c.hosts.active - answered - own > 0 ? 1 : 0));
}

/** Sessions that host number `host` is guaranteed at this moment. */
export function guaranteed(c: Context, host: number): number {
	return Math.max(HOST_MINIMUM, Math.floor(c.table.layout.sessions / sharers(c, host)));
}

/** Ports of a kind that it is guaranteed. */
export function guaranteedPorts(c: Context, host: number): number {
	const { ports } = c.externals;
	const all = ports < WIDE ? Math.floor(ports * (1 - BORROW_FREE)) : ports;
	return Math.max(1, Math.min(all, Math.floor(ports / sharers(c, host))));
}
