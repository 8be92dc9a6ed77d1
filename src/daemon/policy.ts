/**
 * What a plan means in the terms of the translation code: policy, external addresses, sizes. Values in, values out.
 */
import type { Plan } from "../config/plan.ts";
import { HOST_ADF, HOST_EIF } from "../conntrack/record.ts";
import { layoutTable, type TableLayout } from "../conntrack/table-layout.ts";
import { type Forward, type Net, POLICY_DEFAULTS, type Policy } from "../nat/context.ts";
import { externalsWords, type WantedExternal } from "../nat/externals.ts";
import type { Subnet } from "../packet/address.ts";
import { HOST_UNREACHABLE, PROHIBITED } from "../packet/icmp.ts";
import { swap32, TCP, UDP } from "../packet/layout.ts";

/**
 * Packets that may wait in a TUN device: as many as a burst of new sessions brings, which take masqd longest (30 us
 * each).
 */
const TUN_QUEUE_LEAST = 2000;
const TUN_QUEUE_MOST = 8192;

/** Where redirects have been read that are the firewall's. */
export const NFT = "nft";

/** Size of the table that a plan gives, without building it. */
export function planTable(plan: Plan): { layout: TableLayout; bytes: number } {
	const poolShared = plan.pools.filter((p) => p.overload).length;
	const layout = layoutTable(plan.sessions, externalsWords(1 + poolShared, plan.ports));
	return { layout, bytes: layout.words * 4 };
}

/**
 * Policy of a plan in raw terms; `numbers` are those of its external addresses, in the order of
 * {@link wantedExternals}.
 */
export function policyOf(plan: Plan, numbers: readonly number[]): Policy {
	let at = 1 + plan.statics.length;
	const everyLan = () => plan.lan.flatMap((l) => l.subnets.map(netOf));
	const pools = plan.pools.map((p) => {
		const from = at;
		for (const range of p.external) at += range.last - range.first + 1;
		return { nets: p.internal.length ? p.internal.map(netOf) : everyLan(), externals: numbers.slice(from, at), overload: p.overload };
	});
	return {
		filtering: filteringFlags(plan.filtering),
		hosts: new Map(
			plan.hosts.map((h) => [
				swap32(h.ip),
				{ flags: filteringFlags(h.filtering ?? plan.filtering), maxSessions: h.maxSessions ?? 0, maxRate: h.maxRate ?? 0 },
			]),
		),
		forwards: forwardsOf(plan),
		pools,
		ranges: plan.ports,
		algFtp: plan.algFtp,
		algTftp: plan.algTftp,
		maxSessions: plan.maxSessions,
		maxRate: plan.maxRate,
		refusal: plan.refusal === "prohibited" ? PROHIBITED : HOST_UNREACHABLE,
		hairpin: plan.hairpin,
		blockPrivate: plan.blockPrivate,
		rejectSyn: plan.unsolicitedSyn === "reject",
		icmpRate: plan.icmpRate,
	};
}

/** The port forwards of a plan in raw terms. */
export function forwardsOf(plan: Plan): Forward[] {
	return plan.redirects.flatMap((r) =>
		r.protocols.map((p) => ({
			protocol: p === "tcp" ? TCP : UDP,
			first: r.externalPorts.first,
			last: r.externalPorts.last,
			internal: swap32(r.internal),
			internalFirst: r.internalFirst,
			source: r.source === null ? null : netOf(r.source),
			...(r.where.file === NFT ? { place: r.where.section } : {}),
		})),
	);
}

/** The external addresses that a plan wants, in the order of their numbers; `own` is the WAN port's. */
export function wantedExternals(plan: Plan, own: number): WantedExternal[] {
	const wanted: WantedExternal[] = [{ address: own, shared: true, internal: 0, pool: -1 }];
	for (const s of plan.statics) wanted.push({ address: swap32(s.external), shared: false, internal: swap32(s.internal), pool: -1 });
	for (const [pool, p] of plan.pools.entries()) {
		const list: number[] = [];
		for (const range of p.external) for (let a = range.first; a <= range.last; a++) list.push(a);
		for (const [n, a] of list.entries())
			wanted.push({ address: swap32(a), shared: p.overload && n === list.length - 1, internal: 0, pool });
	}
	return wanted;
}

/** The policy of a context that has none yet. */
export function emptyPolicy(): Policy {
	return { ...POLICY_DEFAULTS, hosts: new Map(), forwards: [], pools: [], ranges: [] };
}

/** A subnet in raw terms. */
export function netOf(subnet: Subnet): Net {
	return { address: swap32(subnet.address), mask: swap32(subnet.mask) };
}

function filteringFlags(filtering: Plan["filtering"]): number {
	return filtering === "endpoint-independent" ? HOST_EIF : filtering === "address-dependent" ? HOST_ADF : 0;
}

/** Places in the queue of a plan's TUN devices. */
export function tunQueue(plan: Plan): number {
	return Math.min(TUN_QUEUE_MOST, Math.max(TUN_QUEUE_LEAST, plan.sessions));
}
