/**
 * The state of the whole daemon: the data behind `status`.
 */

import * as native from "masq:native";
import { HOST_WORDS } from "../conntrack/record.ts";
import { STATE_NAMES } from "../conntrack/states.ts";
import { NftView } from "../kernel/nft-view.ts";
import type { Context } from "../nat/context.ts";
import { ALG_NOTES } from "../nat/ftp-control.ts";
import { reason } from "../nat/reason.ts";
import { formatAddress } from "../packet/address.ts";
import { protocolName } from "../packet/endpoint.ts";
import { addressValue, ICMP, TCP, UDP } from "../packet/layout.ts";
import { VERSION } from "../version.ts";
import type { DaemonView } from "./daemon-view.ts";
import type { StatusReply } from "./protocol.ts";
import { warnings } from "./warnings.ts";

const TOP_HOSTS = 3;

function residentKb(): number {
	return Number(/^VmRSS:\s+(\d+)/m.exec(native.readFile("/proc/self/status"))?.[1] ?? 0);
}

function topHosts({ hosts, table }: Context): StatusReply["topHosts"] {
	const best: number[] = [];
	for (let host = 1; host <= table.layout.hosts; host++) {
		const n = hosts.sessions(host);
		if (n === 0 || (best.length === TOP_HOSTS && n <= hosts.sessions(best[TOP_HOSTS - 1]))) continue;
		best.push(host);
		best.sort((a, b) => hosts.sessions(b) - hosts.sessions(a));
		best.length = Math.min(best.length, TOP_HOSTS);
	}
	return best.map((host) => ({
		address: formatAddress(addressValue(hosts.W[host * HOST_WORDS])),
		sessions: hosts.sessions(host),
		refused: hosts.refused[host],
	}));
}

/** Everything `status` shows. */
export function* status(daemon: DaemonView): Generator<undefined, StatusReply> {
	const { context } = daemon;
	const { table, externals } = context;
	daemon.carrier?.refresh();
	const nft = new NftView(native, daemon.carrier?.family);
	try {
		yield* nft.read();
	} finally {
		nft.close();
	}
	const said = [...daemon.warnings, ...(yield* warnings(daemon, nft))];
	const byState: Record<string, number> = {};
	for (let s = 1; s < STATE_NAMES.length; s++) {
		if (table.count(s) > 0) byState[STATE_NAMES[s]] = (byState[STATE_NAMES[s]] ?? 0) + table.count(s);
	}
	const top = topHosts(context);
	const offload = daemon.offloadStatus;
	yield;
	return {
		version: VERSION,
		uptime: Math.floor((native.now() - daemon.startedAt) / 1000),
		ports: [{ ...daemon.wan, kind: daemon.carrier === null ? "packet" : "kernel" }, ...daemon.lan.filter((p) => p.kind !== "tap")].map(
			(p, n) => ({
				name: p.name,
				role: n === 0 ? "wan" : "lan",
				driver: p.kind,
				up: p.driver !== null && p.index !== 0,
				address: p.link.address === 0 ? "" : formatAddress(addressValue(p.link.address)),
				mtu: p.link.mtu,
				received: p.received,
				sent: p.sent,
			}),
		),
		sessions: { used: table.used, total: table.layout.sessions, byState },
		tableBytes: daemon.tableBytes,
		hosts: context.hosts.active,
		topHosts: top,
		externalPorts: [TCP, UDP, ICMP].map((p) => {
			const [free, total] = externals.portCount(0, p);
			return { protocol: protocolName(p), free, total };
		}),
		forwarded: { out: context.forwardedOut + offload.packetsOut, in: context.forwardedIn + offload.packetsIn },
		offload,
		rates: daemon.rates.now(),
		leftToKernel: context.leftToKernel,
		icmpErrorsSent: context.errorsSent,
		drops: [...context.drops].flatMap((count, n) => {
			const r = reason(n);
			return count === 0 ? [] : [{ reason: r.name, count, text: r.text, remedy: r.remedy }];
		}),
		alg: ALG_NOTES.flatMap(([note, text, remedy], n) => {
			const count = context.algCounts[n];
			return count === 0 ? [] : [{ note, count, text, remedy }];
		}),
		guard: nft.guard,
		warnings: said,
		internalErrors: daemon.barrier.failures(),
		logLost: daemon.log.lost,
		rssKb: residentKb(),
		meter: daemon.meter,
	};
}
