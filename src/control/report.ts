/**
 * What the daemon tells about itself: the data behind `status` and `flows`.
 */

import * as native from "masq:native";
import { EXTERNAL_SHIFT, R_IN, R_META, R_OUT, R_PACKETS_IN, R_PACKETS_OUT, R_PEER } from "../conntrack/record.ts";
import { FREE, RESTING, STATE_NAMES } from "../conntrack/states.ts";
import type { Engine } from "../engine.ts";
import { reason } from "../nat/reason.ts";
import { formatAddress } from "../packet/address.ts";
import { addressValue, firstOf, ICMP, secondOf, TCP, UDP } from "../packet/layout.ts";
import { guardCounters } from "../port/guard.ts";
import { VERSION } from "../version.ts";
import { formatEndpoint, protocolName } from "./endpoint.ts";
import { FLOWS_PAGE, type Flow, type FlowsReply, type StatusReply } from "./protocol.ts";

function flow(engine: Engine, i: number): Flow {
	const { table } = engine;
	const t = table.T;
	const e = i << 4;
	const meta = t[e + R_META];
	const state = table.state(i);
	const [bytesOut, bytesIn] = table.bytes(i);
	const protocol = meta & 0xff;
	return {
		id: i,
		protocol: protocolName(protocol),
		internal: formatEndpoint(t[e], firstOf(t[e + R_OUT])),
		external: formatEndpoint(engine.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff], secondOf(t[e + R_IN])),
		peer: formatEndpoint(t[e + R_PEER], secondOf(t[e + R_OUT])),
		state: STATE_NAMES[state],
		left: Math.max(0, table.timeouts[state] - table.age(i, engine.context.now16)),
		packetsOut: t[e + R_PACKETS_OUT] >>> 0,
		packetsIn: t[e + R_PACKETS_IN] >>> 0,
		bytesOut,
		bytesIn,
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
	if (guard === null) warnings.push("the nft table inet masqd is missing; restart masqd");
	return {
		version: VERSION,
		uptime: Math.floor((native.now() - engine.startedAt) / 1000),
		ports: [engine.wan, ...engine.lan].map((p, n) => ({
			name: p.name,
			role: n === 0 ? "wan" : "lan",
			driver: n === 0 ? "packet" : engine.lan[n - 1].kind,
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
			return { protocol: protocolName(p), free, total };
		}),
		forwarded: { out: context.forwardedOut, in: context.forwardedIn },
		leftToKernel: context.left,
		icmpErrorsSent: context.errorsSent,
		drops: [...context.drops].flatMap((count, n) => {
			const r = reason(n);
			return count === 0 ? [] : [{ reason: r.name, count, text: r.text, remedy: r.remedy }];
		}),
		guard,
		warnings,
		rssKb: residentKb(),
		meter: engine.meter,
	};
}
