/**
 * The configuration that would let a dropped packet pass, as lines for /etc/config/masqd. Reasons that no configuration
 * changes have none.
 */
import type { WhyReply } from "../control/protocol.ts";

const SESSIONS_MAX = 65535;

/** One section: its type and its options; a list's value is a list. */
export interface RemedySection {
	type: string;
	options: Record<string, string | string[]>;
}

/** What to change; null if configuration does not help. */
export function remedySection(w: WhyReply): RemedySection | null {
	const { facts } = w;
	const [source = ""] = w.packet.source.split(":");
	const port = w.packet.destination.split(":")[1];
	switch (w.reason) {
		case "spoofed-source":
			return { type: "lan", options: { device: facts.lan.device, subnet: [...facts.lan.subnets, `${source.replace(/\d+$/, "0")}/24`] } };
		case "table-full":
		case "host-share":
			if (facts.sessions >= SESSIONS_MAX) return null;
			return { type: "masqd", options: { sessions: String(Math.min(SESSIONS_MAX, facts.sessions * 2)) } };
		case "host-limit":
			return { type: "host", options: { ip: facts.inside ?? source, max_sessions: String(Math.max(facts.maxSessions * 2, 64)) } };
		case "host-rate":
			return { type: "host", options: { ip: facts.inside ?? source, max_rate: String(facts.maxRate * 2) } };
		case "hairpin-filtered":
			return { type: "masqd", options: { hairpin: "all" } };
		case "private-destination":
			return { type: "masqd", options: { block_private: "0" } };
		case "ports-exhausted": {
			const more = morePorts(facts.ports);
			return more === null ? null : { type: "masqd", options: { ports: [...facts.ports, more] } };
		}
		case "pool-exhausted":
			return { type: "pool", options: { external: facts.pool, overload: "1" } };
		case "no-mapping":
			if (port === undefined) return null;
			return {
				type: "redirect",
				options: {
					name: `${w.packet.protocol}-${port}`,
					proto: w.packet.protocol,
					src_dport: port,
					dest_ip: insideHost(facts.lan.subnets),
					dest_port: port,
				},
			};
		case "filtered":
			if (facts.redirect !== null) return { type: "redirect", options: { ...facts.redirect, name: `from-${source}`, src_ip: source } };
			return facts.inside === null ? null : { type: "host", options: { ip: facts.inside, filtering: "endpoint-independent" } };
		default:
			return null;
	}
}

/** A host of the first subnet, as an example. */
function insideHost(subnets: string[]): string {
	const [base = ""] = (subnets[0] ?? "192.168.1.0/24").split("/");
	return base.replace(/\d+$/, "10");
}

/**
 * The upper half of the largest stretch of ports from 1024 up that is not in the ranges: the rest stays for the router
 * itself.
 */
function morePorts(ranges: string[]): string | null {
	const taken = ranges
		.map((r) => r.split("-").map(Number))
		.map(([first = 0, last = first]) => ({ first, last }))
		.sort((a, b) => a.first - b.first);
	let best = { first: 0, last: -1 };
	let from = 1024;
	for (const { first, last } of [...taken, { first: 65536, last: 65536 }]) {
		if (first - from > best.last - best.first + 1) best = { first: from, last: first - 1 };
		from = Math.max(from, last + 1);
	}
	const middle = Math.ceil((best.first + best.last) / 2);
	return best.last - middle < 1 ? null : `${middle}-${best.last}`;
}

/** The section as UCI lines. */
export function remedyLines(section: RemedySection): string[] {
	const lines = [section.type === "masqd" ? "config masqd 'main'" : `config ${section.type}`];
	for (const [key, value] of Object.entries(section.options)) {
		if (typeof value === "string") lines.push(`	option ${key} '${value}'`);
		else for (const one of value) lines.push(`	list ${key} '${one}'`);
	}
	return lines;
}
