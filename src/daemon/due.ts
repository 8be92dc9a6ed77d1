/**
 * What the loop has due besides packets: steps of a turn, and those of a second in their order.
 */
import * as native from "masq:native";
import { OTHER } from "../conntrack/states.ts";
import { CpuAffinity } from "../kernel/cpu-affinity.ts";
import { OWN_FULL } from "../kernel/guard.ts";
import { EXPIRE_BUDGET } from "../nat/admission.ts";
import { REASON } from "../nat/reason.ts";
import { addressValue } from "../packet/layout.ts";
import { Loop, type LoopParts } from "./loop.ts";
import type { Parts } from "./parts.ts";
import type { Port } from "./ports.ts";
import type { Reloads } from "./reloads.ts";
import type { Step } from "./steps.ts";
import { startAnew } from "./take-over.ts";
import { withPorts } from "./topology.ts";

export const SIGHUP = 1;
export const SIGINT = 2;
export const SIGTERM = 15;
/** Least seconds between two looks at what the router itself speaks besides TCP and UDP, while a host does so too. */
const YIELD_PROTOCOLS_SECONDS = 3;
/** The same, at whether the guard has room. */
const GUARD_LIMITS_SECONDS = 10;

/** What signals ask of the daemon. */
export interface Asked {
	reloads: Reloads;
	/** Another masqd goes on at once. */
	relieve(): void;
}

/** The loop over the parts. */
export function makeLoop(p: Parts, asked: Asked): Loop {
	const { context, barrier, kernel, admission, meter, clock, inStep, guard, offload, routerPorts, announcements, requested, pcp } = p;
	const { slowPath, fast, hops, memory } = p.translation;
	const placement = new CpuAffinity(native);
	const steps: LoopParts["steps"] = {
		placement: () => placement.look(clock.milliseconds, loop.framesReceived()),
		announcements: () => {
			pcp.server.announce(addressValue(context.externals.A[0]));
			announcements.told(clock.milliseconds);
		},
		signals: () => signalled(p, loop, asked),
		"kernel news": () => inStep.news(),
		"guard watch": () => {
			if (guard.news()) offload.renew();
		},
		nft: () => {
			guard.keeper.look();
			if (inStep.behind) inStep.news();
		},
		reload: () => asked.reloads.look(),
		"own ports": () => routerPorts.look(p.inForce.plan, clock.milliseconds, loop.busyAt === 0),
		"own ports step": () => yieldPorts(p),
		bans: () => p.bans?.firewall?.step(),
		expiry: () => {
			requested.expire();
			admission.expire(EXPIRE_BUDGET);
		},
		"lost state": () => startAnew(p.paths.state, p.boot, context, p.inForce, (i) => offload.offload?.ended(i), p.log),
	};
	const stirredAt = () => loop.stirredAt;
	const everySecond: Step[] = [
		["placement", () => placement.rest(clock.milliseconds)],
		["offload timer", () => offload.offload?.everySecond()],
		["slow path timer", () => slowPath.everySecond()],
		["guard timer", () => guard.keeper.wanting && guard.keeper.keep()],
		["own protocols timer", every(YIELD_PROTOCOLS_SECONDS, p, stirredAt, lookForOwnProtocols)],
		["next hops timer", () => hops.waiting > 0 && hops.flush()],
		["next hops confirmation", () => (loop.busyAt !== 0 || offload.offload?.used) && hops.everySecond()],
		// What the queues of the TUN devices had no room for, of which masqd has seen nothing.
		[
			"tun queue",
			() => {
				context.drops[REASON["tun-queue"]] += p.tuns.overruns();
			},
		],
		[
			"firewall's forwards",
			() => {
				const forwards = p.firewallForwards;
				forwards.dirty ||= guard.rulesChanged;
				guard.rulesChanged = false;
				if (guard.setsChanged) p.bans?.firewall?.changed();
				guard.setsChanged = false;
				if (forwards.look(inStep.topology, p.bans)) asked.reloads.ask(() => {});
				routerPorts.published = forwards.published;
			},
		],
		["rates", () => p.rates.tick()],
		["accounts", () => p.accounts.tick()],
		["limits", () => tellLimits(p)],
		["guard limits", every(GUARD_LIMITS_SECONDS, p, stirredAt, tellGuardLimits)],
		["log timer", () => p.log.tick(clock.milliseconds)],
		["control timer", () => loop.control?.tick(clock.milliseconds)],
		["memory timer", () => releaseMemory(p, loop)],
	];
	const loop = new Loop({
		context,
		ports: p.ports,
		egress: p.egress,
		slowPath,
		fast,
		rx: memory.rx,
		clock,
		barrier,
		meter,
		wanAddress: p.wanAddress,
		kernel,
		arp: p.arp,
		guard,
		carrier: p.carrier,
		routerPorts,
		pcp,
		inStep,
		admission,
		hops,
		announcements,
		placement,
		bans: p.bans,
		reloads: asked.reloads,
		pending: () => slowPath.pending,
		dueAt: () =>
			Math.min(
				admission.dueAt,
				requested.dueAt,
				p.accounts.wakeAt,
				offload.offload?.dueAt ?? Number.POSITIVE_INFINITY,
				placement.restAt / 1000,
				p.log.dueAt / 1000,
			),
		portFailed: (port, error) => portFailed(p, port, error),
		steps,
		everySecond,
	});
	return loop;
}

function signalled(p: Parts, loop: Loop, asked: Asked): void {
	const { signals } = loop;
	for (let signal = native.signalRead(signals); signal !== 0; signal = native.signalRead(signals)) {
		if (signal === SIGTERM || signal === SIGINT || signal === native.SIGUSR1) loop.stopping = true;
		if (signal === native.SIGUSR1) asked.relieve();
		if (signal !== SIGHUP) continue;
		p.clock.read(p.context);
		asked.reloads.ask(({ errors }) => {
			for (const line of errors) p.log.error(line);
			if (errors.length > 0) p.log.notice("reload: keeping the current configuration");
		});
	}
}

/** A port reported an error: if its device is gone the socket is closed until it is back, else (link down) it stays. */
function portFailed({ inStep, kernel, ports, log, clock }: Parts, port: Port, error: native.NativeError): void {
	inStep.news();
	if (port.driver !== null && kernel.linkByName(port.name)?.index !== port.index) ports.close1(port);
	if (error.code !== "ENETDOWN") log.rateLimited("warning", `port ${port.name}`, `${port.name}: ${error.message}`, clock.milliseconds);
}

/** Sockets of the router itself come and go: their ports are not masqd's meanwhile. */
function yieldPorts(p: Parts): void {
	const look = p.routerPorts.step(p.inForce.plan);
	if (look === null) return;
	if (look.settled.length > 0) p.log.notice(`the router itself uses port ${look.settled.join(", ")} now`);
	if (look.changed || look.lasting) p.inStep.followPorts((t) => withPorts(t, p.ownPorts), [p.guard, p.ports]);
}

/**
 * An action that is passed over until so many seconds have gone by since the last time, or more while nothing comes.
 */
function every(seconds: number, p: Parts, stirredAt: () => number, action: (p: Parts) => void): () => void {
	let last = Number.NEGATIVE_INFINITY;
	return () => {
		if (p.context.now < last + Math.max(seconds, last - stirredAt() / 1000)) return;
		last = p.context.now;
		action(p);
	};
}

function lookForOwnProtocols(p: Parts): void {
	if (p.context.table.count(OTHER) > 0) p.yieldProtocols();
}

function tellLimits({ watch, log, clock }: Parts): void {
	for (const { reason, text, count } of watch.limits()) log.rateLimited("warning", reason, text, clock.milliseconds, count);
}

/** The kernel's flows that found no room in the guard since the last look. */
function tellGuardLimits({ carrier, guardView, log, clock }: Parts): void {
	if (carrier !== null) return;
	const before = guardView.guard?.own_full ?? 0;
	const more = (guardView.guardCounters()?.own_full ?? 0) - before;
	if (more > 0) log.rateLimited("warning", "own_full", OWN_FULL, clock.milliseconds, more);
}

function releaseMemory(p: Parts, loop: Loop): void {
	const { memory, slowPath } = p.translation;
	let stretched = p.ports.wan.driver?.stretched() ?? false;
	for (const { driver } of p.ports.lan) if (driver?.stretched()) stretched = true;
	if (stretched) memory.releaseStretched();
	if (memory.releaseIdle(loop.busyAt, p.clock.milliseconds, slowPath.fragments.waiting > 0)) loop.busyAt = 0;
}
