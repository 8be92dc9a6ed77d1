/**
 * `why`: what would happen to a packet, decided by the live decision code and told step by step.
 *
 * Theory of operation. The tables are copied, memory and all (a megabyte takes a fraction of a millisecond), and a
 * context over the copies goes through the same code as a real packet, with queues and frame memory of its own and next
 * hops that ask nobody. So nothing is sent and nothing remains: no session, port, quota, counter or ARP request. The
 * steps are what that code asks its tables, in the order in which it asks, heard by listeners put around the copies.
 */

import {
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOST_ADF,
	HOST_EIF,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_REACHABLE,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { STATE_NAMES } from "../conntrack/states.ts";
import { BLOCK, type Context, ELSEWHERE, inNets, lanOf, makeDrops, type NextHops, NO_ROUTE, Queue } from "../nat/context.ts";
import { makeCore } from "../nat/core.ts";
import { DropLog } from "../nat/drop-log.ts";
import { makeAlgCounts, UNREAD } from "../nat/ftp-control.ts";
import { type Probe, putProbe } from "../nat/probe.ts";
import { reason } from "../nat/reason.ts";
import { formatAddress, formatSubnet } from "../packet/address.ts";
import { formatEndpoint, parseEndpoint, parseProtocol, protocolName } from "../packet/endpoint.ts";
import { IP_DESTINATION_W, IP_SOURCE_W } from "../packet/ipv4.ts";
import { addressValue, firstOf, hasPorts, ICMP, IP_WORD, pair, SLOT_IP, secondOf, swap16, swap32, viewsOf } from "../packet/layout.ts";
import { LinkHeaders } from "../packet/link-header.ts";
import { ACK, SYN } from "../packet/tcp.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import type { DecisionsView } from "./daemon-view.ts";
import type { Step, WhyReply } from "./protocol.ts";
import { hostLimit } from "./sessions.ts";

/** Frame memory: one slot with room for an ICMP error, and a few blocks for what is made. */
const SLOT = 4096;
const BLOCKS = 4;

/** A context over copies of everything that the decisions change. */
export function copyContext(c: Context, hops: NextHops): Context {
	const { layout } = c.table;
	c.table.hooks?.syncAll();
	const memory = c.table.T.buffer.slice(0) as ArrayBuffer;
	const views = viewsOf(new ArrayBuffer(SLOT + BLOCKS * BLOCK));
	const drops = makeDrops();
	const table = c.table.copy(memory);
	const externals = c.externals.copy();
	return {
		...c,
		views,
		table,
		hosts: c.hosts.copy(memory),
		externals,
		expectations: c.expectations.copy(table, externals),
		hops,
		headers: new LinkHeaders(layout.hosts),
		wan: { ...c.wan, queue: new Queue(4) },
		lan: c.lan.map((l) => ({ ...l, queue: new Queue(4) })),
		policy: { ...c.policy, forwards: [...c.policy.forwards] },
		requested: [...c.requested],
		algCounts: makeAlgCounts(),
		spare: { at: SLOT, count: BLOCKS },
		drops,
		dropLog: new DropLog(drops, views),
		events: null,
	};
}

/** Calls `see` with the result and the arguments after every call of a method. */
function listen<O, K extends keyof O>(
	object: O,
	name: K,
	see: O[K] extends (...args: infer A) => infer R ? (result: R, ...args: A) => void : never,
): void {
	const own = (object[name] as (...args: unknown[]) => unknown).bind(object);
	(object as Record<K, unknown>)[name] = (...args: unknown[]) => {
		const result = own(...args);
		(see as (...all: unknown[]) => void)(result, ...args);
		return result;
	};
}

/** What a request asks about. Throws Error with a sentence for the operator. */
function parseRequest(
	o: DecisionsView,
	request: { protocol: string; source: string; destination: string; direction?: string },
): Probe & { out: boolean } {
	const protocol = parseProtocol(String(request.protocol));
	if (protocol < 0) throw new Error(`'${request.protocol}' is not a protocol: tcp, udp, icmp or a number`);
	const [source, destination] = [request.source, request.destination].map((text) => {
		const found = parseEndpoint(String(text));
		if (found === null) throw new Error(`'${text}' is not an ADDRESS:PORT`);
		if (hasPorts(protocol) && found.port === 0) throw new Error(`'${text}' needs a port: ADDRESS:PORT`);
		return { address: swap32(found.address), port: swap16(found.port) };
	});
	const { direction } = request;
	if (direction !== undefined && direction !== "in" && direction !== "out") throw new Error(`'${direction}' is not a direction: in or out`);
	const c = o.context;
	const comesIn = c.externals.find(destination.address) >= 0 && !c.lan.some((l) => inNets(l.nets, source.address));
	return {
		protocol,
		source: source.address,
		sourcePort: source.port,
		destination: destination.address,
		destinationPort: destination.port,
		out: direction === undefined ? !comesIn : direction === "out",
	};
}

/** The dry run of a packet. Throws Error with a sentence for the operator. */
export function why(o: DecisionsView, request: { protocol: string; source: string; destination: string; direction?: string }): WhyReply {
	const probe = parseRequest(o, request);
	const { out, protocol } = probe;
	const live = o.context;
	const steps: Step[] = [];
	const say = (what: Step["what"], text: string) => {
		if (steps.at(-1)?.text !== text) steps.push({ what, text });
	};
	let waits = false;
	const hops: NextHops = {
		// Internal hosts and hops that are known have tags; the others would wait.
		tags: live.hops.tags,
		least: live.hops.least,
		mtuTo: (destination) => live.hops.mtuTo(destination),
		find: (destination) => o.lookup(destination),
		park: () => {
			waits = true;
		},
		parkInternal: (host, slot, bytes) => {
			const place = c.hosts.W[host * HOST_WORDS + HOST_PLACE];
			if ((place & HOST_REACHABLE) !== 0) c.lan[(place >>> HOST_PORT_SHIFT) & 0xff].queue.push(slot, bytes, 0);
			else waits = true;
		},
		heard: () => {},
	};
	const c = copyContext(live, hops);
	const lanPort = Math.max(0, lanOf(c.lan, out ? probe.source : probe.destination));
	const { admission, slowPath } = makeCore(c, () => UNREAD);

	const ported = hasPorts(protocol);
	const external = c.externals.find(probe.destination);
	const ports = ported ? pair(probe.sourcePort, probe.destinationPort) : 0;
	const known = out
		? c.table.findOut(protocol, probe.source, probe.destination, protocol === ICMP ? pair(probe.sourcePort, 0) : ports)
		: external < 0
			? 0
			: c.table.findIn(protocol, probe.source, probe.destination, external, protocol === ICMP ? pair(0, probe.destinationPort) : ports);
	// A segment of a connection that is known, else one that begins one; of ICMP a query, or the reply to one.
	const length = putProbe(c.views, 0, probe, known !== 0 ? ACK : SYN, protocol === ICMP && !out && known !== 0);

	const mapping = (i: number) => {
		const e = i << RECORD_SHIFT;
		const t = c.table.T;
		return `${formatEndpoint(t[e], firstOf(t[e + R_OUT]))} as ${formatEndpoint(c.externals.A[(t[e + R_META] >> EXTERNAL_SHIFT) & 0xff], secondOf(t[e + R_IN]))}`;
	};
	const session = (i: number) => {
		if (steps.some((s) => s.what === "session")) return;
		if (i === 0) say("session", "no session yet: this would be its first packet");
		else say("session", `session known, state ${STATE_NAMES[c.table.state(i)]}, idle ${c.table.age(i, c.now16)} s, ${mapping(i)}`);
	};
	let internal: number | null = out ? probe.source : null;
	listen(c.table, "findOut", (i) => out && session(i));
	listen(c.table, "findIn", (i) => !out && session(i));
	listen(c.hops as NextHops, "find", (hop, destination) => {
		if (out) say("source", `${formatAddress(addressValue(probe.source))} is in a subnet of ${o.lan[lanPort].name}`);
		const to = formatAddress(addressValue(destination));
		if (hop === NO_ROUTE) say("route", `there is no route to ${to}`);
		else if (hop === ELSEWHERE) say("route", `the route to ${to} does not lead through ${o.wan.name}: the kernel's business`);
		else say("route", `the route to ${to} leads through ${o.wan.name}`);
	});
	listen(c.table, "findMapping", (i) =>
		say("mapping", i === 0 ? "no mapping of this internal endpoint yet" : `mapping known: ${mapping(i)}`),
	);
	listen(c.table, "findExternal", (i) => {
		if (out || steps.some((s) => s.what === "mapping")) return;
		if (i === 0) {
			say("mapping", "no mapping has this external endpoint");
			return;
		}
		internal = c.table.T[i << RECORD_SHIFT];
		const flags = c.hosts.W[c.table.T16[(i << HALF_SHIFT) + R_HOST] * HOST_WORDS + HOST_PLACE];
		const who =
			flags & HOST_EIF
				? "anyone may answer"
				: flags & HOST_ADF
					? "only addresses that it sent to may answer"
					: "only endpoints that it sent to may answer";
		say("mapping", `mapping known: ${mapping(i)}; ${who}`);
	});
	listen(c.policy.forwards, "find", (forward) => {
		if (forward === undefined) return;
		if (out) say("forward", `a redirect leads to this endpoint: it leaves by the redirect's port ${forward.first}`);
		else {
			internal = forward.internal;
			say("forward", `a redirect leads to ${formatAddress(addressValue(forward.internal))}`);
		}
	});
	listen(c.requested, "find", (forward) => {
		if (forward !== undefined)
			say("forward", `${formatAddress(addressValue(forward.internal))} has asked for this port itself (PCP, NAT-PMP)`);
		else if (!out) say("forward", "no redirect takes this port from this source");
	});
	listen(admission, "admit", (host, address) => {
		const number = host > 0 ? host : c.hosts.find(address);
		const has = number === 0 ? 0 : c.hosts.sessions(number) - (host > 0 ? 1 : 0);
		const { limit, limitedBy } = number === 0 ? { limit: c.table.layout.sessions, limitedBy: "table" } : hostLimit(c, number);
		const table = `${live.table.used} of ${c.table.layout.sessions} sessions in use`;
		say("admission", `host has ${has} sessions of ${limit} (${limitedBy}), ${table}: ${host > 0 ? "one more is allowed" : "no more"}`);
	});
	listen(c.externals, "takePort", (taken, n, _, wanted) => {
		const at = formatAddress(addressValue(c.externals.A[n]));
		if (taken < 0) say("port", `every port of ${at} is in use`);
		else if (taken === wanted) say("port", `port ${wanted} of ${at} is free and is kept`);
		else say("port", `port ${wanted} of ${at} cannot be had; another of the same parity is drawn, such as ${taken}`);
	});
	listen(c.table, "create", (i) => {
		const n = (c.table.T[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff;
		const x = c.externals.list[n];
		internal = c.table.T[i << RECORD_SHIFT];
		const kind =
			n === 0
				? "the WAN's own address"
				: x.internal !== 0
					? "static NAT"
					: x.shared
						? "the pool's shared address"
						: "a pool address of its own";
		say("external", `session ${mapping(i)} (${kind})`);
	});

	const past = out
		? o.passesBy(protocol, addressValue(probe.destination), swap16(probe.destinationPort), addressValue(probe.source))
		: null;
	if (past !== null) say("route", `${formatAddress(addressValue(probe.destination))} is ${past}: the packet never comes to masqd`);
	else if (out && o.impaired !== null) slowPath.outboundImpaired(0, length, lanPort, o.impaired);
	else if (out) slowPath.outbound(0, length, lanPort);
	else slowPath.inbound(0, length);

	const dropped = c.dropLog.last;
	const queues = [c.wan.queue, ...c.lan.map((l) => l.queue)];
	const sent = queues.some((q) => q.count > 0);
	if (waits) say("neighbour", "the next hop's MAC is not known: the packet would wait up to 3 s for ARP");
	const verdict = dropped >= 0 ? "dropped" : waits ? "waits" : sent ? "forwarded" : "kernel";
	const words = dropped >= 0 ? reason(dropped) : null;
	const { P, H } = c.views;
	const l4 = SLOT_IP / 2 + 10;
	const show = (address: number, port: number) => (ported ? formatEndpoint(address, port) : formatAddress(addressValue(address)));
	const translated = verdict === "forwarded" || verdict === "waits";
	return {
		packet: {
			protocol: protocolName(protocol),
			source: show(probe.source, probe.sourcePort),
			destination: show(probe.destination, probe.destinationPort),
			direction: out ? "out" : "in",
		},
		steps,
		verdict,
		as: translated
			? { source: show(P[IP_WORD + IP_SOURCE_W], H[l4]), destination: show(P[IP_WORD + IP_DESTINATION_W], H[l4 + DESTINATION_PORT_H]) }
			: null,
		reason: words?.name ?? null,
		text: words?.text ?? null,
		remedy: words?.remedy ?? null,
		answered: c.errorsSent > live.errorsSent,
		facts: facts(o, probe, internal, lanPort),
	};
}

function facts(o: DecisionsView, probe: Probe, internal: number | null, lanPort: number): WhyReply["facts"] {
	const c = o.context;
	const subnets = (nets: { address: number; mask: number }[]) =>
		nets.map((n) => {
			const mask = addressValue(n.mask);
			return formatSubnet({ address: addressValue(n.address), mask, prefix: Math.clz32(~mask) });
		});
	const host = internal === null ? 0 : c.hosts.find(internal);
	const port = swap16(probe.destinationPort);
	const forward = c.policy.forwards.find((f) => f.protocol === probe.protocol && port >= f.first && port <= f.last);
	const pool = internal === null ? undefined : c.policy.pools.find((p) => inNets(p.nets, internal));
	return {
		lan: { device: o.lan[lanPort].name, subnets: subnets(c.lan[lanPort].nets) },
		sessions: c.table.layout.sessions,
		ports: c.policy.ranges.map((r) => (r.first === r.last ? `${r.first}` : `${r.first}-${r.last}`)),
		maxSessions: (internal === null ? 0 : c.policy.hosts.get(internal)?.maxSessions) || c.policy.maxSessions,
		maxRate: (internal === null ? 0 : c.policy.hosts.get(internal)?.maxRate) || c.policy.maxRate,
		hostSessions: host === 0 ? 0 : c.hosts.sessions(host),
		inside: internal === null ? null : formatAddress(addressValue(internal)),
		redirect:
			forward === undefined
				? null
				: {
						proto: protocolName(forward.protocol),
						src_dport: String(port),
						dest_ip: formatAddress(addressValue(forward.internal)),
						dest_port: String(forward.internalFirst + port - forward.first),
					},
		pool: pool === undefined ? [] : pool.externals.map((n) => formatAddress(addressValue(c.externals.A[n]))),
	};
}
