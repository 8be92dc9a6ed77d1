/**
 * The daemon: starts the parts in order, runs the loop, stops in reverse, and is what the control socket sees.
 *
 * Everything that can fail at a start fails before the first packet is taken, with one sentence, and what was set up
 * until then is undone.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import { H_CLOCK } from "../conntrack/table-layout.ts";
import type { DaemonView } from "../control/daemon-view.ts";
import type { ReloadReply } from "../control/protocol.ts";
import { ControlServer } from "../control/server.ts";
import { ruleFor, ruleWords } from "../kernel/foreign-routing.ts";
import { type Resolving, resolution } from "../kernel/netifd.ts";
import type { FastPath } from "../nat/fast-path.ts";
import type { OffloadStatus } from "../offload/offload.ts";
import { formatAddress, formatSubnet } from "../packet/address.ts";
import { type Carrier, isCarried } from "./carrier.ts";
import { makeLoop, SIGHUP, SIGINT, SIGTERM } from "./due.ts";
import { StartError } from "./follower.ts";
import { loadPlan } from "./load-plan.ts";
import type { Log } from "./log.ts";
import type { Loop } from "./loop.ts";
import type { OffloadFollower } from "./offload-follower.ts";
import { Parts, type Paths } from "./parts.ts";
import type { Port } from "./ports.ts";
import { reload } from "./reload.ts";
import { Reloads, type Told } from "./reloads.ts";
import type { State } from "./state.ts";
import { takeOver } from "./take-over.ts";
import { ledLans, passesBy } from "./topology.ts";

const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;

/** How the daemon is to start. */
export interface Options {
	/** A WAN device that does not exist is waited for; else it is a {@link StartError}. */
	wait?: boolean;
	/** What carries the packets if not masqd's ports. */
	carrier?: Carrier | null;
}

/** The running daemon. */
export class Daemon implements DaemonView {
	/** Milliseconds at start, for the uptime. */
	readonly startedAt = native.now();
	readonly kernel: Parts["kernel"];
	readonly context: Parts["context"];
	readonly admission: Parts["admission"];
	readonly wan: Port;
	readonly lan: Parts["ports"]["lan"];
	readonly meter: Parts["meter"];
	readonly warnings: string[];
	readonly tableBytes: number;
	readonly log: Log;
	readonly watch: Parts["watch"];
	readonly accounts: Parts["accounts"];
	readonly rates: Parts["rates"];
	readonly barrier: Parts["barrier"];
	/** Ports of the router's own services. */
	readonly ownPorts: Parts["ownPorts"];
	readonly carrier: Parts["carrier"];
	readonly #parts: Parts;
	readonly #loop: Loop;
	readonly #reloads: Reloads;
	readonly #options: Options;
	/**
	 * Another masqd is to go on at once (restart, upgrade): guard and settings stay, so nothing of the kernel's gets in
	 * between.
	 */
	#relieved = false;

	/**
	 * Builds tables in memory; touches nothing of the system but the state file. Throws {@link StartError} if another
	 * daemon has it.
	 */
	constructor(plan: Plan, paths: Paths, log: Log, options: Options = {}) {
		const parts = new Parts(plan, paths, log, options.carrier ?? null);
		this.#parts = parts;
		this.#options = options;
		this.carrier = parts.carrier;
		this.kernel = parts.kernel;
		this.context = parts.context;
		this.admission = parts.admission;
		this.wan = parts.ports.wan;
		this.lan = parts.ports.lan;
		this.meter = parts.meter;
		this.warnings = parts.warnings;
		this.tableBytes = parts.tableBytes;
		this.log = log;
		this.watch = parts.watch;
		this.accounts = parts.accounts;
		this.rates = parts.rates;
		this.barrier = parts.barrier;
		this.ownPorts = parts.ownPorts;
		this.#reloads = new Reloads(
			native,
			() => this.#reload(),
			() => parts.clock.milliseconds,
		);
		this.#loop = makeLoop(parts, {
			reloads: this.#reloads,
			relieve: () => {
				this.#relieved = true;
			},
		});
	}

	// ---- for those who look inside (src/control) --------------------------------------------------------------------

	/** What is in force; another one after a reload. */
	get plan(): Plan {
		return this.#parts.inForce.plan;
	}

	/** Next hop number of a destination, found without asking anybody. */
	lookup(destination: number): number {
		const hop = this.#parts.translation.hops.lookup(destination);
		// The kernel finds the next hop itself.
		return this.carrier !== null && hop >= 0 ? this.context.hops.find(destination) : hop;
	}

	/**
	 * What stands against every outbound packet now: a reason number, -1 for whatever its route says; null if nothing
	 * does.
	 */
	get impaired(): number | null {
		return this.#parts.wanAddress.fault;
	}

	/** The WAN's subnet overlaps a LAN's, in words; "" if not. */
	get conflict(): string {
		return this.#parts.inStep.topology.conflict;
	}

	/** Why packets of a host to a destination (host order) never come to masqd, in words; null if they do. */
	passesBy(protocol: number, destination: number, port: number, host: number): string | null {
		const t = this.#parts.inStep.topology;
		const { kernel } = this;
		const rule = t.own.includes(destination) ? null : ruleFor(kernel.rules, ledLans(t.lan), host, destination, t.lan[0]?.kind !== "packet");
		if (rule === null) return passesBy(t, protocol, destination, port, this.ownPorts.has(protocol, port));
		const way = kernel.listRoutes().find(({ table, prefix }) => table === rule.table && prefix === 0);
		const device = way === undefined ? undefined : kernel.links.get(way.ifindex)?.name;
		return `the kernel's: policy rule ${ruleWords(rule)} sends it${device === undefined ? " elsewhere" : ` to ${device}`}`;
	}

	/** Puts other batch functions in place of the core's own, between two batches; null puts those back. */
	interpose(wrap: ((own: FastPath) => FastPath) | null): void {
		this.#loop.interpose(wrap);
	}

	/** Milliseconds since 1970. */
	wallClock(): number {
		return native.wallClock();
	}

	/** What is amiss with the devices, and what of the router's routing is not followed, in sentences. */
	deviceWarnings(): string[] {
		return [...this.#parts.notices.devices(), ...this.#parts.offload.warnings];
	}

	foreignRouting(): string[] {
		const { notices, firewallForwards, bans } = this.#parts;
		return [...notices.routing(), ...firewallForwards.warnings(), ...(bans?.warnings() ?? [])];
	}

	/** What `status` shows. */
	get offloadStatus(): OffloadStatus {
		return this.#parts.offload.status;
	}

	/** Sessions that go by the kernel, null without. */
	get offload(): OffloadFollower["offload"] {
		return this.#parts.offload.offload;
	}

	/** Reads the configuration again and goes on by it; says what came of it when that is known. */
	reload(told: Told): void {
		this.#parts.clock.read(this.context);
		this.#reloads.ask(told);
	}

	#reload(): Resolving<ReloadReply> {
		const { paths, context, admission, requested, inForce, inStep, ports, guard, offload, log, kernel } = this.#parts;
		return reload({
			path: paths.config,
			load: () => {
				const loaded = loadPlan(paths.config);
				return loaded.plan === null ? loaded : { ...loaded, plan: this.#parts.firewallForwards.into(loaded.plan) };
			},
			resolve: (other, before) => resolution(other, [before.wan, ...before.lan]),
			problemOf: (plan) =>
				isCarried(plan) === (this.carrier !== null) ? tunProblem(plan) : "option driver 'kernel' comes and goes with a restart",
			exists: (device) => kernel.linkByName(device) !== undefined,
			context,
			admission,
			requested,
			inForce,
			inStep,
			ports,
			guard,
			offload,
			log,
		});
	}

	/** The line printed when packets can flow. */
	describe(): string {
		const { lan, address } = this.#parts.inStep.topology;
		const places = lan.filter((p) => p.kind !== "tap");
		const nets = places.map((p) => `${p.name} (${p.kind}, ${p.nets.map((n) => formatSubnet(n)).join(" ")})`).join(", ");
		const own = address === 0 ? "no address yet" : formatAddress(address);
		return `wan ${this.wan.name} ${own}, lan ${nets}, ${this.plan.sessions} sessions in ${this.tableBytes} bytes`;
	}

	// ---- start and stop ---------------------------------------------------------------------------------------------

	/** Opens everything. Throws {@link StartError} with one sentence; nothing is left behind then. */
	start(): void {
		try {
			this.#start();
		} catch (error) {
			// What a predecessor's death has left keeps the LAN from leaving untranslated.
			if (this.#parts.guard.before) this.abandon();
			else this.stop();
			if (this.#parts.guard.before && error instanceof Error) error.message += `; the guard stays, masqd cleanup removes it`;
			throw error;
		}
	}

	/**
	 * Ends as {@link stop} does, but leaves guard and settings: nothing of the LAN leaves until a successor is there.
	 * Never throws.
	 */
	abandon(): void {
		this.#relieved = true;
		this.stop();
	}

	#start(): void {
		this.#loop.signals = native.signalOpen([SIGHUP, SIGINT, native.SIGUSR1, SIGTERM]);
		for (const [n, name] of [
			[CAP_NET_ADMIN, "CAP_NET_ADMIN"],
			[CAP_NET_RAW, "CAP_NET_RAW"],
		] as const) {
			if (!native.hasCapability(n)) throw new StartError(`no permission: masqd needs ${name}; start it as root`);
		}
		this.kernel.open();
		this.#needDevices();
		const problem = tunProblem(this.plan);
		if (problem !== "") throw new StartError(problem);
		this.#parts.routerPorts.separate(this.plan.ports);
		this.#parts.inStep.look();
		this.#takeForwards();
		this.#parts.routerPorts.begin(this.plan);
		this.#parts.inStep.look();
		// Before the sessions, whose ports they may be.
		this.#parts.pcp.anew = !this.#parts.requested.takeOver(this.#parts.boot);
		const successor = this.#takeOver();
		this.#parts.inStep.start();
		// What the guard has stopped while nobody was there to take it counts as nobody's.
		if (successor) this.#parts.guard.keeper.install();
		else this.#parts.guard.keeper.keep();
		this.#loop.control = new ControlServer(this.#parts.paths.socket, this);
		this.#parts.listened = true;
		native.keepCapabilities(2 ** CAP_NET_ADMIN + 2 ** CAP_NET_RAW + this.#parts.offload.capabilities);
	}

	/** What the firewall forwards is to be known before sessions are judged by it. */
	#takeForwards(): void {
		const { firewallForwards, inStep, inForce, routerPorts, state } = this.#parts;
		const taken = firewallForwards.look(inStep.topology, this.#parts.bans);
		routerPorts.published = firewallForwards.published;
		if (!taken) return;
		inForce.plan = firewallForwards.into(this.plan);
		const addresses = state?.image?.addresses ?? new Int32Array(0);
		inForce.renew(inForce.plan, addresses[0] ?? 0, addresses);
	}

	#needDevices(): void {
		const missing = (p: Port) => this.kernel.linkByName(p.name) === undefined;
		const waits = (what: string, p: Port) => this.log.warning(`${what} device '${p.name}' does not exist yet; waiting for it`);
		if (missing(this.wan)) {
			if (!this.#options.wait) throw new StartError(`wan device '${this.wan.name}' does not exist`);
			waits("wan", this.wan);
		}
		// One LAN that is away keeps no other off; nobody who has misspelt the only one is to wait for it.
		const [first] = this.lan;
		if (first !== undefined && this.lan.every(missing)) throw new StartError(`lan device '${first.name}' does not exist`);
		for (const p of this.lan) if (missing(p)) waits("lan", p);
	}

	/** Goes on with the sessions that a predecessor left, or begins with none. Returns whether there was one. */
	#takeOver(): boolean {
		const state = this.#parts.state as State;
		this.#parts.state = null;
		this.#parts.translation.slowPath.takeOver(this.#parts.boot);
		const successor = takeOver(
			state,
			this.#parts.paths.state,
			this.#parts.boot,
			this.context,
			this.admission,
			this.accounts,
			this.#parts.inForce,
			this.log,
		);
		if (state.notPersisted !== "") this.warnings.push(`state file full, sessions will be lost on restart: ${state.notPersisted}`);
		if (state.pending !== "") native.rename(state.pending, this.#parts.paths.state);
		return successor;
	}

	/** Runs until SIGTERM, SIGINT or SIGUSR1. */
	run(): void {
		this.#loop.run();
	}

	/**
	 * Undoes everything, in reverse, whatever of it was done; after SIGUSR1 nothing that a successor would do again.
	 * Never throws.
	 */
	stop(): void {
		const failed = (error: Error) => this.log.error(`stop: ${error.message}`);
		const attempt = (what: () => void) => {
			try {
				what();
			} catch (error) {
				failed(error as Error);
			}
		};
		attempt(() => this.#loop.control?.close());
		attempt(() => this.#reloads.close());
		this.#parts.inStep.close(this.#relieved, failed);
		if (!this.#relieved) attempt(() => this.#parts.settings.restore());
		this.context.table.header[H_CLOCK] = this.context.now;
		// A successor that cannot read the table goes on with what is booked.
		attempt(() => {
			if (this.#parts.state === null) while (!this.accounts.step());
		});
		attempt(() => this.kernel.close());
		attempt(() => native.close(this.#loop.signals));
		attempt(() => native.close(this.#parts.lock));
	}
}

/** Why the tun drivers of a plan cannot be had, "" if they can. */
function tunProblem(plan: Plan): string {
	if (plan.lan.some((l) => l.driver === "tun") && native.fileSize("/dev/net/tun") < 0)
		return "no TUN: /dev/net/tun is missing; install kmod-tun or use option driver 'packet'";
	return "";
}
