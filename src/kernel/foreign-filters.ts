/**
 * What others have put on the ports to see, stop or slow down packets, and what packets that go by the offload would go
 * past: filters of traffic control on the way in (SQM's redirection to an IFB), which come after tcx programs, and
 * chains of nftables that are bound to a device, on the way in and out. The kernel spares a packet that was redirected
 * on its way in the chains of its way out. What hangs on the device below a VLAN or bridge, XDP programs and queueing
 * disciplines see every packet as ever.
 */
import type { IngressFilters } from "./ingress-filter.ts";
import { type NftIo, NftView } from "./nft-view.ts";

/** A device's hook and who is there. */
export interface ForeignFilters {
	device: string;
	hook: "ingress" | "egress";
	/** Names, such as "tc redirect to ifb0" or "nft chain netdev ban in". */
	names: string[];
}

/** Everything of others on these devices, in their order. */
export function foreignFilters(
	ports: readonly { name: string; index: number }[],
	traffic: IngressFilters,
	io: NftIo,
	deviceName: (ifindex: number) => string | undefined,
): ForeignFilters[] {
	const chains = new NftView(io).deviceChains();
	const found: ForeignFilters[] = [];
	const add = (device: string, hook: "ingress" | "egress", names: string[]) => {
		if (names.length > 0) found.push({ device, hook, names: [...new Set(names)] });
	};
	for (const { name, index } of ports) {
		if (index === 0) continue;
		const on = (hook: "ingress" | "egress") => chains.filter((c) => c.hook === hook && c.covers(name)).map((c) => `nft chain ${c.name}`);
		const others = traffic
			.othersOn(index)
			.map((f) => `tc ${f.redirect === 0 ? f.filter : `redirect to ${deviceName(f.redirect) ?? "a device"}`}`);
		add(name, "ingress", [...others, ...on("ingress")]);
		add(name, "egress", on("egress"));
	}
	return found;
}

/** In words for the operator, "" for nothing. */
export function foreignWords(found: readonly ForeignFilters[]): string {
	return found.map(({ device, hook, names }) => `${device} has ${hook} filters of others (${names.join(", ")})`).join("; ");
}
