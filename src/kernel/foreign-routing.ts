/**
 * Routing that others have set up on the router and that masqd does not follow, in sentences: a LAN's packets leave by
 * the WAN's address and route whatever policy rules say, and not at all where the default route in force is not the
 * WAN's. Whoever meant them for a VPN has to hear of that.
 */

import { FR_ACT_TO_TBL, type RuleMessage } from "../netlink/route.ts";
import { formatAddress, formatSubnet, type Subnet, subnetOf, subnetsOverlap } from "../packet/address.ts";
import { type InterfaceAddress, MASQD_PROTOCOL, type Route } from "./mirror.ts";

/** What {@link foreignRouting} looks at. */
export interface RoutingFacts {
	wan: { name: string; ifindex: number; addresses: readonly InterfaceAddress[] };
	lan: readonly { name: string; subnets: readonly Subnet[] }[];
	/** Destinations that are the kernel's by configuration. */
	exempts: readonly Subnet[];
	/** The policy rules, and the routes of the main table in force. */
	rules: readonly RuleMessage[];
	routes: readonly Route[];
	/** Name of a device. */
	nameOf(ifindex: number): string;
}

const TABLE_DEFAULT = 253;
const TABLE_LOCAL = 255;
const FR_ACT_NOP = 3;
const ACTIONS: Record<number, string> = { 6: "blackhole", 7: "unreachable", 8: "prohibit" };
/** Rules that are named. */
const NAMED = 3;

/** All of it that holds now; nothing on a router whose LANs have no rules of their own. */
export function foreignRouting(facts: RoutingFacts): string[] {
	const { wan } = facts;
	const found: string[] = [];
	const rules = facts.rules.filter((rule) => concerns(rule, facts));
	if (rules.length > 0) {
		const more = rules.length > NAMED ? ` and ${rules.length - NAMED} more` : "";
		found.push(
			`policy routing is not followed: what the LAN sends leaves by ${wan.name} whatever ip rule says (${rules.slice(0, NAMED).map(ruleWords).join("; ")}${more}); hosts that have to go by a VPN do not: take their LAN out of masqd's configuration, or the rule away`,
		);
	}
	const route = facts.routes.find((r) => r.prefix === 0);
	if (route !== undefined && route.ifindex !== 0 && wan.ifindex !== 0 && route.ifindex !== wan.ifindex)
		found.push(
			`the default route leads through ${facts.nameOf(route.ifindex)} (metric ${route.metric}), not ${wan.name}: what the LAN sends to the Internet is dropped; give the route through ${wan.name} the lowest metric, or take the LAN out of masqd's configuration`,
		);
	const first = wan.addresses[0];
	for (const { address, prefix } of wan.addresses.slice(1)) {
		const subnet = subnetOf(address, prefix);
		if (first === undefined || prefix === 32 || subnetsOverlap(subnet, subnetOf(first.address, first.prefix))) continue;
		if (facts.exempts.some((exempt) => exempt.prefix <= subnet.prefix && subnetsOverlap(exempt, subnet))) continue;
		found.push(
			`${wan.name} has another address, ${formatAddress(address)}: the LAN reaches ${formatSubnet(subnet)} as ${formatAddress(first.address)} all the same, and a modem there may not find the way back; config exempt with option dest '${formatSubnet(subnet)}' leaves that to the kernel's masquerade`,
		);
	}
	return found;
}

/** Whether a rule of somebody else's may be for what a LAN sends, and leads elsewhere than the main table. */
function concerns(rule: RuleMessage, { lan }: RoutingFacts): boolean {
	if (rule.protocol === MASQD_PROTOCOL || rule.action === FR_ACT_NOP) return false;
	// The usual three, and those of VRFs, which name no table.
	if (rule.action === FR_ACT_TO_TBL && (rule.table === 0 || (rule.table >= TABLE_DEFAULT && rule.table <= TABLE_LOCAL))) return false;
	// For sockets only.
	if (rule.oif !== "") return false;
	if (rule.inverted) return true;
	if (rule.iif !== "" && !lan.some((l) => l.name === rule.iif)) return false;
	const from = subnetOf(rule.source, rule.sourcePrefix);
	return rule.sourcePrefix === 0 || lan.some((l) => l.subnets.some((subnet) => subnetsOverlap(from, subnet)));
}

function ruleWords(rule: RuleMessage): string {
	const from = rule.sourcePrefix === 0 ? "" : ` from ${formatSubnet(subnetOf(rule.source, rule.sourcePrefix))}`;
	const iif = rule.iif === "" ? "" : ` iif ${rule.iif}`;
	const to = rule.action === FR_ACT_TO_TBL ? `lookup ${rule.table}` : (ACTIONS[rule.action] ?? "goto");
	return `${rule.priority}:${rule.inverted ? " not" : ""}${from}${iif} ${to}`;
}
