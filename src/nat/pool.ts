/**
 * Which external address a host's new mappings have: static NAT, then a dynamic pool (RFC 2663 section 4.1.1), then the
 * WAN port's own.
 */
import { type Context, inNets, type Policy } from "./context.ts";
import type { External } from "./externals.ts";
import { REASON, refusal } from "./reason.ts";

/**
 * Number of the external address for a host (raw) that has no mapping at that endpoint; a refusal if its pool is
 * exhausted.
 */
export function chooseExternal(c: Context, internal: number): number {
	const fixed = c.externals.ofInternal(internal);
	if (fixed >= 0) return fixed;
	if (c.policy.pools.length === 0) return 0;
	const number = poolOf(c.policy, internal);
	if (number < 0) return 0;
	const pool = c.policy.pools[number];
	let free = -1;
	for (const n of pool.externals) {
		const x = c.externals.list[n];
		if (x.holder === internal) return n;
		if (free < 0 && !x.shared && x.holder === 0) free = n;
	}
	// A host keeps to the shared address while it has sessions there (RFC 4787 REQ-2: paired pooling).
	const paired = c.hosts.paired(c.hosts.find(internal));
	if (pool.overload && paired !== 0 && c.externals.list[paired].shared && pool.externals.includes(paired)) return paired;
	if (free >= 0) return free;
	return pool.overload ? pool.externals[pool.externals.length - 1] : refusal(REASON["pool-exhausted"]);
}

/** Number of the pool that a host (raw) has its external address from, -1 if it masquerades. */
export function poolOf({ pools }: Policy, internal: number): number {
	for (let n = 0; n < pools.length; n++) if (inNets(pools[n].nets, internal)) return n;
	return -1;
}

/** Counts one more session of the host that has a pool address alone. */
export function claimPoolAddress(x: External, internal: number): void {
	if (x.shared || x.pool < 0) return;
	x.holder = internal;
	x.sessions++;
}
