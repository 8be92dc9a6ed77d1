/**
 * Shapers of the WAN that look behind the NAT. cake asks connection tracking for the host of each packet when it has
 * `nat`, so that each host has a fair part of the line however many connections it opens; what masqd translates itself
 * is not there.
 */
import { encodeDump, RTM } from "../netlink/route.ts";
import { IngressFilters } from "./ingress-filter.ts";
import type { KernelMirror } from "./mirror.ts";

/** A sentence for each, on the WAN or where its way in is redirected to, that does not find the hosts. */
export function blindShapers(
	kernel: KernelMirror,
	wan: { readonly index: number },
	lans: readonly { readonly driver: string }[],
): string[] {
	if (wan.index === 0 || lans.every(({ driver }) => driver === "kernel")) return [];
	const found: number[] = [];
	try {
		kernel.count(
			"list the queueing disciplines",
			(sequence) => encodeDump(RTM.GETQDISC, 0, sequence),
			(message) => {
				if (message.kind === "traffic" && message.fairToHosts) found.push(message.ifindex);
				return false;
			},
		);
	} catch {
		// A kernel without traffic control.
	}
	if (found.length === 0) return [];
	const ways = [wan.index, ...new IngressFilters(kernel).othersOn(wan.index).map(({ redirect }) => redirect)];
	return found
		.filter((index) => ways.includes(index))
		.map(
			(index) =>
				`cake on ${kernel.links.get(index)?.name ?? "the WAN"} has 'nat' and knows no host of masqd's: it is fair to connections only; option driver 'kernel'`,
		);
}
