/**
 * What the daemon would make of a plan, for commands that do not start one: what is amiss with its devices now, and the
 * offload's programs as text.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import { deviceWarnings, filtersBridges, shaperWarnings } from "../kernel/device-warnings.ts";
import { foreignFilters, foreignWords } from "../kernel/foreign-filters.ts";
import { IngressFilters } from "../kernel/ingress-filter.ts";
import { KernelMirror } from "../kernel/mirror.ts";
import { blindShapers } from "../kernel/shapers.ts";
import { subnetOf } from "../packet/address.ts";
import { FirewallForwards } from "./firewall-forwards.ts";

const ARPHRD_ETHER = 1;

/** What is amiss with the devices of a plan now, in sentences; none if that cannot be found out. */
export function planWarnings(plan: Plan): string[] {
	const kernel = new KernelMirror(native);
	try {
		kernel.open();
		const lans = plan.lan.map(({ device, subnets, driver }) => ({ role: "lan" as const, device, subnets, driver }));
		const wan = { role: "wan" as const, device: plan.wan.device, subnets: [], driver: "" as const };
		return [...deviceWarnings(kernel, [wan, ...lans], filtersBridges(native)), ...shapers(kernel, plan, lans)];
	} catch {
		return [];
	} finally {
		kernel.close();
	}
}

/**
 * A plan with the firewall's forwards that the daemon would take over, and what it would say of the firewall's rules,
 * in sentences; as it is if they cannot be read.
 */
export function withFirewall(plan: Plan): { plan: Plan; warnings: string[] } {
	const kernel = new KernelMirror(native);
	const warnings: string[] = [];
	try {
		kernel.open();
		const link = (name: string) => kernel.linkByName(name)?.index ?? 0;
		const nets = (device: string) => kernel.addresses(link(device)).map(({ address, prefix }) => subnetOf(address, prefix));
		const lan = plan.lan.map(({ device, subnets, driver }) => ({ kind: driver, nets: subnets.length > 0 ? subnets : nets(device) }));
		const forwards = new FirewallForwards({ warning: (text: string) => void warnings.push(text) });
		const wan = { name: plan.wan.device, index: link(plan.wan.device) };
		forwards.look({ wan, lan, own: kernel.ownAddresses() }, null);
		return { plan: forwards.into(plan), warnings };
	} catch {
		return { plan, warnings };
	} finally {
		kernel.close();
	}
}

/** As the daemon says it of the WAN's filters. */
function shapers(kernel: KernelMirror, { wan, offload }: Plan, lans: readonly { driver: string }[]): string[] {
	const link = kernel.linkByName(wan.device);
	if (link === undefined) return [];
	const blind = blindShapers(kernel, link, lans);
	if (offload !== "auto") return blind;
	const found = foreignFilters([link], new IngressFilters(kernel), native, (index) => kernel.links.get(index)?.name);
	return [...shaperWarnings(link.name, link.type, foreignWords(found)), ...blind];
}

/** The offload programs of a plan as text; devices that are there give addresses and kind, others count as Ethernet. */
export function dumpOffload(plan: Plan): string {
	const kernel = new KernelMirror(native);
	kernel.open();
	const device = (name: string) => {
		const link = kernel.linkByName(name);
		return {
			device: name,
			ethernet: link === undefined || link.type === ARPHRD_ETHER,
			own: link === undefined ? [] : kernel.addresses(link.index),
		};
	};
	const wan = device(plan.wan.device);
	const lan = plan.lan.map((l) => ({ ...device(l.device), subnets: l.subnets }));
	kernel.close();
	const single = (address: number) => ({ first: address, last: address });
	const owned = [...plan.statics.map((s) => single(s.external)), ...plan.pools.flatMap((p) => p.external)];
	const { dumpPrograms } = native.importBundle("offload") as typeof import("../offload/main.ts");
	return dumpPrograms({
		sessions: plan.sessions,
		wan,
		lan,
		externals: [single(wan.own[0]?.address ?? 0), ...owned],
		nets: lan.flatMap((l) => (l.subnets.length > 0 ? l.subnets : l.own.map((a) => subnetOf(a.address, a.prefix)))),
		addressless: wan.own.length === 0,
	});
}
