/**
 * Routing that others have set up on the router: which hosts and destinations policy rules may lead elsewhere than by
 * the WAN, and what of it masqd cannot follow, in sentences.
 *
 * With the tun driver the kernel decides: its rules come before masqd's. The packet driver cannot ask it about every
 * packet, so a host that a rule may be for is the kernel's altogether, masquerade and all; one that looks at marks, as
 * those of pbr and mwan3, may be for everybody.
 */

import { FR_ACT_TO_TBL, type RuleMessage } from "../netlink/route.ts";
import { formatAddress, formatSubnet, type Subnet, subnetOf, subnetsOverlap } from "../packet/address.ts";
import { type InterfaceAddress, MASQD_PROTOCOL } from "./mirror.ts";

/** A LAN, and who carries what it sends. */
export interface LedLan {
	name: string;
	kind: string;
	subnets: readonly Subnet[];
}

/** What {@link foreignRouting} looks at. */
export interface RoutingFacts {
	wan: { name: string; addresses: readonly InterfaceAddress[] };
	lan: readonly LedLan[];
	/** Destinations that are the kernel's by configuration. */
	exempts: readonly Subnet[];
	/** The policy rules. */
	rules: readonly RuleMessage[];
}

const TABLE_DEFAULT = 253;
const TABLE_MAIN = 254;
const PRIORITY_MAIN = 32766;
const TABLE_LOCAL = 255;
const FR_ACT_NOP = 3;
const ACTIONS: Record<number, string> = { 6: "blackhole", 7: "unreachable", 8: "prohibit" };
/** Rules that are named. */
const NAMED = 3;

/** All of it that holds now; nothing on a router whose LANs have no rules of their own. */
export function foreignRouting(facts: RoutingFacts): string[] {
	const { wan } = facts;
	const found: string[] = [];
	const packet = facts.lan.filter(({ kind }) => kind === "packet");
	const rules = facts.rules.filter((rule) => leads(rule) && packet.some((lan) => ledBy(rule, lan).length > 0));
	if (rules.length > 0) {
		const more = rules.length > NAMED ? ` and ${rules.length - NAMED} more` : "";
		found.push(
			`policy routing (${rules.slice(0, NAMED).map(ruleWords).join("; ")}${more}): the packet driver leaves the hosts concerned to the kernel's routing and masquerade; option driver 'kernel' or 'tun' follows the rules`,
		);
	}
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

/** Whether a rule of somebody else's leads anything that is forwarded, and elsewhere than the main table. */
function leads({ protocol, action, table, oif, users }: RuleMessage): boolean {
	if (protocol === MASQD_PROTOCOL || action === FR_ACT_NOP) return false;
	// For sockets only.
	if (oif !== "" || users) return false;
	// The usual three, and those of VRFs, which name no table.
	return action !== FR_ACT_TO_TBL || (table !== 0 && (table < TABLE_DEFAULT || table > TABLE_LOCAL));
}

/** What of a LAN a rule may be for: none if it is for some destinations alone. */
function ledBy(rule: RuleMessage, { name, subnets }: LedLan): Subnet[] {
	if (rule.inverted) return [...subnets];
	if ((rule.iif !== "" && rule.iif !== name) || toAlone(rule)) return [];
	if (rule.sourcePrefix === 0) return [...subnets];
	const from = subnetOf(rule.source, rule.sourcePrefix);
	return subnets.filter((subnet) => subnetsOverlap(from, subnet)).map((subnet) => (from.prefix > subnet.prefix ? from : subnet));
}

/** Whether a rule is for what goes to some destinations, whatever else it is. */
function toAlone({ inverted, narrow, iif, sourcePrefix, destinationPrefix }: RuleMessage): boolean {
	return !inverted && !narrow && iif === "" && sourcePrefix === 0 && destinationPrefix > 0;
}

/**
 * The hosts that policy rules may lead past masqd. Of a tun-driver LAN they may be led to the WAN, too: by the main
 * table, before masqd's own rule.
 */
export function ledHosts(rules: readonly RuleMessage[], lan: readonly LedLan[]): Subnet[] {
	return lan.flatMap((one) => {
		const main = (rule: RuleMessage) => one.kind === "tun" && rule.priority > 0 && rule.priority < PRIORITY_MAIN && rule.suppressPrefix < 0;
		const found = rules.filter((rule) => leads(rule) || (rule.table === TABLE_MAIN && rule.protocol !== MASQD_PROTOCOL && main(rule)));
		if (one.kind === "tun") return found.length > 0 ? one.subnets : [];
		return one.kind === "packet" ? found.flatMap((rule) => ledBy(rule, one)) : [];
	});
}

/** The destinations that policy rules lead elsewhere, whoever the sender. */
export function ledDestinations(rules: readonly RuleMessage[]): Subnet[] {
	return rules.filter((rule) => leads(rule) && toAlone(rule)).map((rule) => subnetOf(rule.destination, rule.destinationPrefix));
}

/**
 * The rule that leads what a host sends to a destination (host order) past masqd, null if there is none. Where the
 * kernel asks its rules about each packet (`each`), one that looks at more than addresses may be for others.
 */
export function ruleFor(
	rules: readonly RuleMessage[],
	lan: readonly LedLan[],
	host: number,
	destination: number,
	each: boolean,
): RuleMessage | null {
	const at = (subnet: Subnet, address: number) => ((address ^ subnet.address) & subnet.mask) === 0;
	const home = lan.filter(({ subnets }) => subnets.some((subnet) => at(subnet, host)));
	const isFor = (rule: RuleMessage) =>
		leads(rule) &&
		!(each && (rule.narrow || rule.inverted)) &&
		(rule.inverted || at(subnetOf(rule.destination, rule.destinationPrefix), destination)) &&
		(toAlone(rule) || home.some((one) => ledBy(rule, one).some((subnet) => at(subnet, host))));
	return rules.find(isFor) ?? null;
}

/** A rule in words: its priority, and what it says. */
export function ruleWords(rule: RuleMessage): string {
	const from = rule.sourcePrefix === 0 ? "" : ` from ${formatSubnet(subnetOf(rule.source, rule.sourcePrefix))}`;
	const iif = rule.iif === "" ? "" : ` iif ${rule.iif}`;
	const destination = rule.destinationPrefix === 0 ? "" : ` to ${formatSubnet(subnetOf(rule.destination, rule.destinationPrefix))}`;
	const to = rule.action === FR_ACT_TO_TBL ? `lookup ${rule.table}` : (ACTIONS[rule.action] ?? "goto");
	return `${rule.priority}:${rule.inverted ? " not" : ""}${from}${destination}${iif} ${to}`;
}
