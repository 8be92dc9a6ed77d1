/**
 * What `masqd check` prints of a plan in force: ASCII in at most 76 columns, so that it can be read on a serial
 * console.
 */

import { formatAddress, formatAddressRange, formatSubnet, type Subnet } from "../packet/address.ts";
import { formatPorts, type LanPlan, type Plan, type PoolPlan, type RedirectPlan } from "./plan.ts";
import { SECTIONS, type Timeouts } from "./schema.ts";

const COLUMNS = 76;
const LABEL = 17;

/**
 * The plan in words, defaults included.
 *
 * @param tableBytes - size of the whole connection tracking table for `plan.sessions`.
 * @returns lines of at most 76 columns, each ended by a line feed.
 */
export function describePlan(plan: Plan, tableBytes: number): string {
	const perSession = (tableBytes / plan.sessions).toFixed(1);
	const lines = [
		...entry("enabled:", plan.enabled ? "yes" : "no, nothing is translated until option 'enabled' is 1"),
		...entry("WAN port:", describeAttachment(plan.wan)),
		...plan.lan.flatMap((lan) => entry("LAN port:", describeLan(lan))),
		`conntrack table: ${plan.sessions} sessions, ${tableBytes} bytes (${perSession} bytes a session)`,
		...entry("ports:", `${plan.ports.map(formatPorts).join(", ")} (${countPorts(plan)} a protocol and address)`),
		...entry("filtering:", plan.filtering),
		...entry("limits:", describeLimits(plan)),
		...entry("offload:", plan.offload),
		...entry("ALGs:", [plan.algFtp && "ftp", plan.algTftp && "tftp"].filter(Boolean).join(", ") || "none"),
		...block(
			"static NAT:",
			plan.statics.map(({ internal, external }) => `${formatAddress(internal).padEnd(15)} <-> ${formatAddress(external)}`),
		),
		...block("pools:", plan.pools.map(describePool)),
		...block("port forwards:", plan.redirects.map(describeRedirect)),
		...block(
			"hosts:",
			plan.hosts.map((host) => {
				const most = host.maxSessions === null ? "" : `, at most ${host.maxSessions} sessions`;
				const rate = host.maxRate === null ? "" : `, ${host.maxRate} new a second`;
				return `${formatAddress(host.ip).padEnd(15)} ${host.filtering ?? plan.filtering}${most}${rate}`;
			}),
		),
		...block(
			"not translated:",
			plan.exempts.map(({ dest }) => `to ${formatSubnet(dest)}`),
		),
		"timeouts:",
		...Object.entries(SECTIONS.timeouts.options).map(([name, option]) => {
			const seconds = String(plan.timeouts[name as keyof Timeouts]);
			return `  ${name.padEnd(15)} ${seconds.padStart(6)} ${option.unit}   ${option.help}`;
		}),
	];
	return `${lines.join("\n")}\n`;
}

function describeAttachment(port: { device: string; interface: string }): string {
	if (port.interface === "") return `device ${port.device}`;
	return port.device === "" ? `interface ${port.interface} (has no device now)` : `device ${port.device} (interface ${port.interface})`;
}

function describeLan(lan: LanPlan): string {
	const subnets = lan.subnets.length === 0 ? "the interface's own subnets" : joinSubnets(lan.subnets);
	const asked = lan.pcp ? "; PCP and NAT-PMP answered" : "";
	return `${describeAttachment(lan)}, driver ${lan.driver}, ${subnets}${asked}`;
}

function joinSubnets(subnets: readonly Subnet[]): string {
	return subnets.map(formatSubnet).join(", ");
}

function describeLimits(plan: Plan): string {
	const most = plan.maxSessions === 0 ? "a fair share of the sessions" : `${plan.maxSessions} sessions`;
	const rate = plan.maxRate === 0 ? "" : `, ${plan.maxRate} new a second`;
	const syn = plan.unsolicitedSyn === "reject" ? "rejected after 6 s" : "dropped";
	const internal = plan.blockPrivate ? "; private destinations blocked" : "";
	const turned = plan.hairpin === "same-lan" ? "" : `; hairpin ${plan.hairpin}`;
	return `a host ${most}${rate}, else ${plan.refusal}; unsolicited SYN ${syn}; ${plan.icmpRate} ICMP errors a second and source${internal}${turned}`;
}

function countPorts(plan: Plan): number {
	return plan.ports.reduce((sum, { first, last }) => sum + last - first + 1, 0);
}

function describePool(pool: PoolPlan): string {
	const hosts = pool.internal.length === 0 ? "every host" : joinSubnets(pool.internal);
	const rest = pool.overload ? "the last address is shared" : "no address is shared";
	return `${hosts} -> ${pool.external.map(formatAddressRange).join(", ")}; ${rest}`;
}

function describeRedirect(redirect: RedirectPlan): string {
	const { first, last } = redirect.externalPorts;
	const internal = formatPorts({ first: redirect.internalFirst, last: redirect.internalFirst + last - first });
	const source = redirect.source === null ? "" : ` from ${formatSubnet(redirect.source)}`;
	const name = redirect.name === "" ? "" : ` (${redirect.name.replace(/[^\x20-\x7e]/g, "?")})`;
	return `${redirect.protocols.join(",")} ${formatPorts({ first, last })} -> ${formatAddress(redirect.internal)}:${internal}${source}${name}`;
}

/** A label with its text, wrapped beside it. */
function entry(label: string, text: string): string[] {
	return wrap(text, COLUMNS - LABEL).map((line, index) => (index === 0 ? label : "").padEnd(LABEL) + line);
}

/** A label and an indented line an item; "none" without items. */
function block(label: string, items: readonly string[]): string[] {
	if (items.length === 0) return entry(label, "none");
	const lines = [label];
	for (const item of items) {
		for (const [index, line] of wrap(item, COLUMNS - 6).entries()) lines.push((index === 0 ? "  " : "      ") + line);
	}
	return lines;
}

/** Breaks text at spaces; words that do not fit at all are cut. Runs of spaces stay where no break is. */
function wrap(text: string, width: number): string[] {
	const lines: string[] = [];
	let rest = text;
	while (rest.length > width) {
		const space = rest.lastIndexOf(" ", width);
		const end = space > 0 ? space : width;
		lines.push(rest.slice(0, end).trimEnd());
		rest = rest.slice(end).trimStart();
	}
	lines.push(rest);
	return lines;
}
