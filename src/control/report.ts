/**
 * What the daemon tells about itself: the data behind `status` and `flows`.
 */

import * as native from "masq:native";
import { EXTERNAL_SHIFT, R_IN, R_META, R_OUT, R_PACKETS_IN, R_PACKETS_OUT, R_PEER } from "../conntrack/record.ts";
import { FREE, RESTING, STATE_NAMES } from "../conntrack/states.ts";
import type { Engine } from "../engine.ts";
import { ALG_NOTES } from "../nat/alg.ts";
import { reason } from "../nat/reason.ts";
import { formatAddress } from "../packet/address.ts";
import { addressValue, firstOf, ICMP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { guardCounters } from "../port/guard.ts";
import { VERSION } from "../version.ts";
import { FLOWS_PAGE, type Flow, type FlowsReply, type StatusReply } from "./protocol.ts";

const PROTOCOLS: Record<number, string> = { [ICMP]: "icmp", [TCP]: "tcp", [UDP]: "udp" };

const NO_COUNTERS = { packetsOut: 0, packetsIn: 0, bytesOut: 0, bytesIn: 0 };

function endpoint(address: number, port: number): string {
	return `${formatAddress(addressValue(address))}:${swap16(port)}`;
}

function flow(engine: Engine, i: number): Flow {
	const { table } = engine;
	const t = table.T;
	const e = i << 4;
	const meta = t[e + R_META];
	const state = table.state(i);
	const [bytesOut, bytesIn] = table.bytes(i);
	const kernel = engine.offload?.counters(i) ?? NO_COUNTERS;
	const bypassed = engine.offload?.age(i) ?? -1;
	const age = Math.min(table.age(i, engine.context.now16), bypassed < 0 ? Number.POSITIVE_INFINITY : bypassed);
	const protocol = meta & 0xff;
	return {
		id: i,
		protocol: PROTOCOLS[protocol] ?? String(protocol),
		internal: endpoint(t[e], firstOf(t[e + R_OUT])),
		external: endpoint(engine.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff], secondOf(t[e + R_IN])),
		peer: endpoint(t[e + R_PEER], secondOf(t[e + R_OUT])),
		state: STATE_NAMES[state],
		left: Math.max(0, table.timeouts[state] - age),
		packetsOut: (t[e + R_PACKETS_OUT] >>> 0) + kernel.packetsOut,
		packetsIn: (t[e + R_PACKETS_IN] >>> 0) + kernel.packetsIn,
		bytesOut: bytesOut + kernel.bytesOut,
		bytesIn: bytesIn + kernel.bytesIn,
	};
}

/** One page of sessions in the order of their records, after record `after`. */
export function flows(engine: Engine, after: number, limit: number): FlowsReply {
	const { table } = engine;
	const list: Flow[] = [];
	const most = Math.max(1, Math.min(limit, FLOWS_PAGE));
	const last = table.layout.sessions;
	let i = Math.max(0, after) + 1;
	for (; i <= last && list.length < most; i++) {
		const state = table.state(i);
		if (state !== FREE && state !== RESTING) list.push(flow(engine, i));
	}
	return { flows: list, next: i > last ? 0 : i - 1, total: table.used };
}

function residentKb(): number {
	return Number(/^VmRSS:\s+(\d+)/m.exec(native.readFile("/proc/self/status"))?.[1] ?? 0);
}

/** Everything `status` shows. */
export function status(engine: Engine): StatusReply {
	const { context, table, externals } = engine;
	const byState: Record<string, number> = {};
	for (let s = 1; s < STATE_NAMES.length; s++) {
		if (table.count(s) > 0) byState[STATE_NAMES[s]] = (byState[STATE_NAMES[s]] ?? 0) + table.count(s);
	}
	let guard: Record<string, number> | null = null;
	try {
		guard = guardCounters(native);
	} catch {
		// Something flushed it: a warning in the reply says so.
	}
	const warnings = [...engine.warnings];
	if (engine.conflict !== "") warnings.push(`${engine.conflict}: nothing is translated`);
	const offload = engine.offloadStatus;
	if (guard === null) warnings.push("the nft table inet masqd is missing; restart masqd");
	return {
		version: VERSION,
		uptime: Math.floor((native.now() - engine.startedAt) / 1000),
		ports: [{ ...engine.wan, kind: "packet" }, ...engine.lan.filter((p) => p.kind !== "tap")].map((p, n) => ({
			name: p.name,
			role: n === 0 ? "wan" : "lan",
			driver: p.kind,
			up: p.driver !== null && p.index !== 0,
			address: p.link.address === 0 ? "" : formatAddress(addressValue(p.link.address)),
			mtu: p.link.mtu,
			received: p.received,
			sent: p.sent,
		})),
		sessions: { used: table.used, total: table.layout.sessions, byState },
		tableBytes: engine.tableBytes,
		hosts: engine.hosts.active,
		externalPorts: [TCP, UDP, ICMP].map((p) => {
			const [free, total] = externals.portCount(0, p);
			return { protocol: PROTOCOLS[p], free, total };
		}),
		forwarded: { out: context.forwardedOut + offload.packetsOut, in: context.forwardedIn + offload.packetsIn },
		offload,
		leftToKernel: context.left,
		icmpErrorsSent: context.errorsSent,
		drops: [...context.drops].flatMap((count, n) => {
			const r = reason(n);
			return count === 0 ? [] : [{ reason: r.name, count, text: r.text, remedy: r.remedy }];
		}),
		alg: ALG_NOTES.flatMap(([note, text, remedy], n) => {
			const count = context.algCounts[n];
			return count === 0 ? [] : [{ note, count, text, remedy }];
		}),
		guard,
		warnings,
		rssKb: residentKb(),
		meter: engine.meter,
	};
}
