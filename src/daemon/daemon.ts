/**
 * The daemon: builds the parts, starts them in order, runs the loop, stops in reverse.
 *
 * Everything that can fail at a start fails before the first packet is taken, with one sentence, and what was set up until then is undone.
 *
 * The order of the followers matters. The guard comes before anything takes or diverts a packet of the LAN, so that the kernel never tracks or forwards what
 * is masqd's; sockets and TUN devices come before the address, whose change makes frames to send; the offload comes when everything it goes past stands.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import type { Hosts } from "../conntrack/hosts.ts";
import { OTHER } from "../conntrack/states.ts";
import { H_CLOCK, type Table } from "../conntrack/table.ts";
import type { DaemonView } from "../control/daemon-view.ts";
import type { ReloadReply } from "../control/protocol.ts";
import { ControlServer } from "../control/server.ts";
import { Watch } from "../control/watch.ts";
import { type Admission, EXPIRE_BUDGET } from "../nat/admission.ts";
import { ALG_BYTES } from "../nat/alg.ts";
import type { Context } from "../nat/context.ts";
import type { Externals } from "../nat/externals.ts";
import type { FastPath } from "../nat/fast-path.ts";
import { REASON } from "../nat/reason.ts";
import { REQUESTED_BYTES, Requested } from "../nat/requested.ts";
import { yieldToRouter } from "../nat/yielding.ts";
import type { OffloadStatus } from "../offload/offload.ts";
import { formatAddress, formatSubnet } from "../packet/address.ts";
import { addressValue, swap16 } from "../packet/layout.ts";
import { ArpResponder } from "../port/arp-responder.ts";
import { filtersBridges } from "../port/device-warnings.ts";
import { guardPresent } from "../port/guard.ts";
import { GuardKeeper } from "../port/guard-keeper.ts";
import { GuardWatch } from "../port/guard-watch.ts";
import { forgetKernelFlows } from "../port/kernel-flows.ts";
import { KernelView } from "../port/kernel-view.ts";
import { OwnPorts } from "../port/local-ports.ts";
import { resolveDevices } from "../port/netifd.ts";
import { Announcements } from "../port/pcp-responder.ts";
import { Placement } from "../port/placement.ts";
import { TunDriver } from "../port/port.ts";
import { RouterProtocols } from "../port/router-protocols.ts";
import { Settings } from "../port/settings.ts";
import { SocketDiag } from "../port/socket-diag.ts";
import { TUN_NAME } from "../port/tun-routes.ts";
import { Barrier } from "./barrier.ts";
import { Clock } from "./clock.ts";
import { Egress, type Meter } from "./egress.ts";
import { type Follower, StartError } from "./follower.ts";
import { GuardFollower } from "./guard-follower.ts";
import { InForce } from "./in-force.ts";
import { InStep } from "./in-step.ts";
import { loadPlan } from "./load-plan.ts";
import type { Log } from "./log.ts";
import { Loop, type Step } from "./loop.ts";
import { Notices } from "./notices.ts";
import { OffloadFollower } from "./offload-follower.ts";
import { planTable, tunQueue } from "./policy.ts";
import type { Port, Ports } from "./ports.ts";
import { Rates } from "./rates.ts";
import { type ReloadSurroundings, reload } from "./reload.ts";
import { ArpFollower, PcpFollower, pcpServer } from "./responders.ts";
import { RouterPorts } from "./router-ports.ts";
import { SessionHops } from "./session-hops.ts";
import { bootWords, lockState, mapOrMemory, openState, type State } from "./state.ts";
import { startAnew, takeOver } from "./take-over.ts";
import { passesBy, topologyOf, withPorts } from "./topology.ts";
import { makeTranslation, type Translation } from "./translation.ts";
import { TunDevices } from "./tun-devices.ts";
import { WanAddress } from "./wan-address.ts";

const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;
const SIGHUP = 1;
const SIGINT = 2;
const SIGTERM = 15;
/** Seconds between two looks at what the router itself speaks besides TCP and UDP, while a host does so too. */
const YIELD_PROTOCOLS_SECONDS = 3;

/** Where the daemon keeps its files. */
export interface Paths {
	config: string;
	socket: string;
	state: string;
}

/** How the daemon is to start. */
export interface Options {
	/** A WAN device that does not exist is waited for; else it is a {@link StartError}. */
	wait?: boolean;
}

/** The running daemon. */
export class Daemon implements DaemonView {
	readonly kernel = new KernelView(native);
	readonly table: Table;
	readonly hosts: Hosts;
	readonly externals: Externals;
	readonly context: Context;
	readonly admission: Admission;
	readonly wan: Port;
	readonly lan: Ports["lan"];
	readonly meter: Meter | null = native.getenv("MASQD_METER") === "1" ? { packets: 0, jsNs: 0, ioNs: 0, batches: 0 } : null;
	readonly warnings: string[] = [];
	/** Milliseconds at start, for the uptime. */
	readonly startedAt = native.now();
	readonly tableBytes: number;
	readonly log: Log;
	readonly watch: Watch;
	readonly rates: Rates;
	readonly barrier: Barrier;
	/** Ports of the router's own services. */
	readonly ownPorts: OwnPorts;

	readonly #paths: Paths;
	readonly #options: Options;
	readonly #clock = new Clock(native.now);
	readonly #boot = bootWords();
	readonly #lock: native.Fd;
	readonly #settings: Settings;
	/** What a predecessor left, until it is taken over. */
	#state: State | null;
	readonly #translation: Translation;
	readonly #ports: Ports;
	readonly #requested: Requested;
	readonly #routerProtocols = new RouterProtocols(native, () => this.kernel.links.values());
	readonly #inForce: InForce;
	readonly #routerPorts: RouterPorts;
	readonly #guard: GuardFollower;
	readonly #tuns: TunDevices;
	readonly #arp = new ArpFollower((ifindex, ranges, mac) => new ArpResponder(ifindex, ranges, mac));
	readonly #wanAddress: WanAddress;
	readonly #announcements = new Announcements();
	readonly #pcp: PcpFollower;
	readonly #offload: OffloadFollower;
	readonly #notices: Notices;
	readonly #inStep: InStep;
	readonly #egress: Egress;
	readonly #loop: Loop;
	readonly #placement = new Placement(native);
	readonly #reload: ReloadSurroundings;
	/** Another masqd is to go on at once (restart, upgrade): guard and settings stay, so nothing of the kernel's gets in between. */
	#relieved = false;

	/** Builds tables in memory; touches nothing of the system but the state file. Throws {@link StartError} if another daemon has it. */
	constructor(plan: Plan, paths: Paths, log: Log, options: Options = {}) {
		const { kernel, warnings } = this;
		const clock = this.#clock;
		this.log = log;
		this.barrier = new Barrier(log, () => clock.milliseconds);
		this.#paths = paths;
		this.#options = options;
		this.#lock = lockState(paths.state);
		const settings = new Settings(native, `${paths.state}.settings`, `/${TUN_NAME}`);
		this.#settings = settings;
		const { layout, bytes } = planTable(plan);
		this.tableBytes = bytes;
		const state = openState(paths.state, layout, this.#boot, Math.floor(native.now() / 1000));
		this.#state = state;
		const translation = makeTranslation({
			plan,
			state,
			layout,
			settings,
			kernel,
			clock,
			kernelShare: {
				hasPort: (protocol, port) => this.ownPorts.has(protocol, port),
				hasFlow: (protocol, peer, peerPort, port) =>
					this.#guard.keeper.sets.hasFlow(protocol, addressValue(peer), swap16(peerPort), swap16(port)),
			},
			routerSpeaks: (protocol, peer) => this.#routerProtocols.speaks(protocol, peer),
			guarded: (p) => this.#guard.covers(p),
			flush: () => this.#egress.flush(),
			ftp: mapOrMemory(`${paths.state}.ftp`, ALG_BYTES).memory,
		});
		const { context, admission, ports, hops } = translation;
		this.#translation = translation;
		this.context = context;
		this.table = context.table;
		this.hosts = context.hosts;
		this.externals = context.externals;
		this.admission = admission;
		this.#ports = ports;
		this.wan = ports.wan;
		this.lan = ports.lan;
		this.watch = new Watch(context, native.wallClock);
		this.rates = new Rates(context, native.now);
		const requested = new Requested(context, mapOrMemory(`${paths.state}.pcp`, REQUESTED_BYTES).memory);
		this.#requested = requested;
		this.ownPorts = new OwnPorts({
			take: (protocol, port) => this.externals.reservePort(0, protocol, port),
			release: (protocol, port) => this.externals.releasePort(0, protocol, port),
		});
		this.#routerPorts = new RouterPorts(this.ownPorts, new SocketDiag(native), settings, kernel, warnings);
		this.#inForce = new InForce(plan, context, (other) => this.#routerPorts.begin(other));
		this.#inForce.renew(plan, state.image === null ? 0 : state.image.addresses[0], state.image?.addresses ?? new Int32Array(0));

		this.#guard = new GuardFollower({
			keeper: (owner) => new GuardKeeper(native, owner),
			present: () => guardPresent(native),
			watch: () => new GuardWatch(native),
			opened: () => {
				this.#inStep.behind = true;
			},
			log,
			clock,
		});
		this.#tuns = new TunDevices({
			kernel,
			ports,
			settings,
			open: (name) => new TunDriver(name, translation.memory.rx, context.views, translation.memory.segmentsAt),
			queue: () => tunQueue(this.plan),
			guarded: (p) => this.#guard.covers(p),
			noticed: (changes) => this.#inStep.noticed(changes),
			warnings,
		});
		this.#wanAddress = new WanAddress({
			context,
			admission,
			hops,
			requested,
			announcements: this.#announcements,
			watch: this.watch,
			log,
			clock,
			listened: () => this.#loop.control !== null,
		});
		const server = pcpServer(native, requested, kernel, clock, {
			spoofed: () => {
				context.drops[REASON["spoofed-source"]]++;
			},
			crowded: () => {
				context.drops[REASON["pcp-crowded"]]++;
			},
		});
		this.#pcp = new PcpFollower(server, this.#announcements, clock, () => {
			this.#inStep.behind = true;
		});
		this.#offload = new OffloadFollower({ context, kernel, hops, log, clock, mode: () => this.plan.offload });
		this.#notices = new Notices(kernel, log, () => filtersBridges(native));
		this.#egress = new Egress(ports, context, this.barrier, this.meter);
		this.#inStep = this.#makeInStep();
		this.#loop = this.#makeLoop();
		this.#reload = {
			path: paths.config,
			load: () => loadPlan(paths.config),
			resolve: (other, before) => resolveDevices(native, other, [before.wan, ...before.lan]),
			tunProblem,
			exists: (device) => kernel.linkByName(device) !== undefined,
			context,
			admission,
			requested,
			inForce: this.#inForce,
			inStep: this.#inStep,
			ports,
			guard: this.#guard,
			offload: this.#offload,
			log,
		};
	}

	#makeInStep(): InStep {
		const { kernel, barrier, log } = this;
		const { hops } = this.#translation;
		const sessionHops = new SessionHops(
			this.table,
			(peer) => hops.find(peer),
			(i) => this.#offload.offload?.hopChanged(i),
			(unroutable) => this.#wanAddress.routed(unroutable),
		);
		// What the kernel has tracked of the sessions is not to be found again by what comes after masqd.
		const kernelFlows: Follower = {
			name: "kernel flows",
			follow: () => {},
			close: (relieved) => {
				if (!relieved) forgetKernelFlows(native, this.table.T, this.#live());
			},
		};
		const followers = [
			this.#routerPorts,
			this.#guard,
			kernelFlows,
			this.#ports,
			this.#tuns,
			this.#arp,
			this.#wanAddress,
			this.#pcp,
			sessionHops,
			this.#offload,
			this.#notices,
		];
		return new InStep(followers, {
			kernel,
			barrier,
			log,
			plan: () => this.plan,
			topology: (plan) => topologyOf(plan, kernel, this.ownPorts),
			take: (t) => {
				const { index } = this.wan;
				this.#ports.take(t);
				if (this.wan.index !== index) hops.reset();
				hops.routesChanged();
			},
			linksChanged: () => this.#yieldProtocols(),
			netsChanged: () => this.#inForce.placeHosts(this.lan.map((_, port) => port)),
			suspectTuns: () => this.#tuns.suspect(),
			filtersChanged: () => this.#offload.renew(),
			neighboursChanged: (neighbours) => {
				hops.update(neighbours);
				for (const { ifindex } of neighbours) this.#pcp.server.neighbourChanged(ifindex);
				this.#offload.neighboursChanged(neighbours);
			},
			milliseconds: () => this.#clock.milliseconds,
		});
	}

	#makeLoop(): Loop {
		const { context, barrier, kernel, admission, meter, externals } = this;
		const { slowPath, fast, hops, memory } = this.#translation;
		const clock = this.#clock;
		const placement = this.#placement;
		const everySecond: Step[] = [
			["placement", () => placement.rest(clock.milliseconds)],
			["offload timer", () => this.#offload.offload?.everySecond()],
			["expiry", () => admission.expire(EXPIRE_BUDGET)],
			["slow path timer", () => slowPath.everySecond()],
			["requested ports timer", () => this.#requested.expire()],
			["kernel news", () => this.#inStep.behind && this.#inStep.news()],
			["guard timer", () => this.#guard.keeper.wanting && this.#guard.keeper.keep()],
			["own protocols timer", () => this.#lookForOwnProtocols()],
			["next hops timer", () => hops.waiting > 0 && hops.flush()],
			["next hops confirmation", () => hops.everySecond()],
			["tun queue", () => this.#countOverruns()],
			["rates", () => this.rates.tick()],
			["limits", () => this.#tellLimits()],
			["log timer", () => this.log.tick(clock.milliseconds)],
			["control timer", () => this.#loop.control?.tick(clock.milliseconds)],
			["memory timer", () => this.#releaseMemory()],
		];
		return new Loop({
			context,
			ports: this.#ports,
			egress: this.#egress,
			slowPath,
			fast,
			rx: memory.rx,
			clock,
			barrier,
			meter,
			wanAddress: this.#wanAddress,
			kernel,
			arp: this.#arp,
			guard: this.#guard,
			routerPorts: this.#routerPorts,
			pcp: this.#pcp,
			inStep: this.#inStep,
			admission,
			hops,
			announcements: this.#announcements,
			placement,
			pending: () => slowPath.pending || this.#requested.pending,
			portFailed: (p, error) => this.#portFailed(p, error),
			steps: {
				placement: () => placement.look(clock.milliseconds, this.#loop.framesReceived()),
				announcements: () => {
					this.#pcp.server.announce(addressValue(externals.A[0]));
					this.#announcements.told(clock.milliseconds);
				},
				signals: () => this.#signalled(),
				"kernel news": () => this.#inStep.news(),
				"guard watch": () => {
					if (this.#guard.news()) this.#offload.renew();
				},
				nft: () => {
					this.#guard.keeper.look();
					if (this.#inStep.behind) this.#inStep.news();
				},
				"own ports": () => this.#routerPorts.look(this.plan, clock.milliseconds),
				"own ports step": () => this.#yieldPorts(),
				"lost state": () =>
					startAnew(this.#paths.state, this.#boot, context, this.#inForce, (i) => this.#offload.offload?.ended(i), this.log),
			},
			everySecond,
		});
	}

	// ---- for those who look inside (src/control) -----------------------------------------------------------------------------

	/** What is in force; another one after a reload. */
	get plan(): Plan {
		return this.#inForce.plan;
	}

	/** Next hop number of a destination, found without asking anybody. */
	peek(destination: number): number {
		return this.#translation.hops.peek(destination);
	}

	/** What stands against every outbound packet now: a reason number, -1 for whatever its route says; null if nothing does. */
	get impaired(): number | null {
		return this.#wanAddress.fault;
	}

	/** The WAN's subnet overlaps a LAN's, in words; "" if not. */
	get conflict(): string {
		return this.#inStep.topology.conflict;
	}

	/** Why packets from a LAN to a destination (host order) never come to masqd, in words; null if they do. */
	passesBy(protocol: number, destination: number, port: number): string | null {
		return passesBy(this.#inStep.topology, protocol, destination, port, this.ownPorts.has(protocol, port));
	}

	/** Puts other batch functions in place of the core's own, between two batches; null puts those back. */
	tap(wrap: ((own: FastPath) => FastPath) | null): void {
		this.#loop.tap(wrap);
	}

	/** Milliseconds since 1970. */
	wallClock(): number {
		return native.wallClock();
	}

	/** What is amiss with the devices, and what of the router's routing is not followed, in sentences. */
	deviceWarnings(): string[] {
		return this.#notices.devices();
	}

	foreignRouting(): string[] {
		return this.#notices.routing();
	}

	/** What `status` shows. */
	get offloadStatus(): OffloadStatus {
		return this.#offload.status;
	}

	/** Sessions that go by the kernel, null without. */
	get offload(): OffloadFollower["offload"] {
		return this.#offload.offload;
	}

	/** Reads the configuration again and goes on by it. */
	reload(): ReloadReply {
		this.#clock.read(this.context);
		return reload(this.#reload);
	}

	/** The line printed when packets can flow. */
	describe(): string {
		const { lan, address } = this.#inStep.topology;
		const places = lan.filter((p) => p.kind !== "tap");
		const nets = places.map((p) => `${p.name} (${p.kind}, ${p.nets.map((n) => formatSubnet(n)).join(" ")})`).join(", ");
		const own = address === 0 ? "no address yet" : formatAddress(address);
		return `wan ${this.wan.name} ${own}, lan ${nets}, ${this.plan.sessions} sessions in ${this.tableBytes} bytes`;
	}

	// ---- start and stop ------------------------------------------------------------------------------------------------

	/** Opens everything. Throws {@link StartError} with one sentence; nothing is left behind then. */
	start(): void {
		try {
			this.#start();
		} catch (error) {
			// What a predecessor's death has left keeps the LAN from leaving untranslated.
			if (this.#guard.before) this.abandon();
			else this.stop();
			if (this.#guard.before && error instanceof Error) error.message += `; the guard stays, masqd cleanup removes it`;
			throw error;
		}
	}

	/** Ends as {@link stop} does, but leaves guard and settings: nothing of the LAN leaves until a successor is there. Never throws. */
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
		this.#routerPorts.separate(this.plan.ports);
		this.#routerPorts.begin(this.plan);
		this.#inStep.look();
		// Before the sessions, whose ports they may be.
		this.#pcp.anew = !this.#requested.takeOver(this.#boot);
		const successor = this.#takeOver();
		this.#inStep.start();
		// What the guard has stopped while nobody was there to take it counts as nobody's.
		if (successor) this.#guard.keeper.install();
		else this.#guard.keeper.keep();
		this.#loop.control = new ControlServer(this.#paths.socket, this);
		native.keepCapabilities(2 ** CAP_NET_ADMIN + 2 ** CAP_NET_RAW + this.#offload.capabilities);
	}

	#needDevices(): void {
		const missing = (p: Port) => this.kernel.linkByName(p.name) === undefined;
		const waits = (what: string, p: Port) => this.log.say("warning", `${what} device '${p.name}' does not exist yet; waiting for it`);
		if (missing(this.wan)) {
			if (!this.#options.wait) throw new StartError(`wan device '${this.wan.name}' does not exist`);
			waits("wan", this.wan);
		}
		// One LAN that is away keeps no other off; nobody who has misspelt the only one is to wait for it.
		if (this.lan.every(missing)) throw new StartError(`lan device '${this.lan[0].name}' does not exist`);
		for (const p of this.lan) if (missing(p)) waits("lan", p);
	}

	/** Goes on with the sessions that a predecessor left, or begins with none. Returns whether there was one. */
	#takeOver(): boolean {
		const state = this.#state as State;
		this.#state = null;
		this.#translation.slowPath.takeOver(this.#boot);
		const successor = takeOver(state, this.#paths.state, this.#boot, this.context, this.admission, this.#inForce, this.log);
		if (state.homeless !== "") this.warnings.push(`no room for the state, sessions will not outlive masqd: ${state.homeless}`);
		if (state.pending !== "") native.rename(state.pending, this.#paths.state);
		return successor;
	}

	/** Runs until SIGTERM, SIGINT or SIGUSR1. */
	run(): void {
		this.#loop.run();
	}

	/** Undoes everything, in reverse, whatever of it was done; after SIGUSR1 nothing that a successor would do again. Never throws. */
	stop(): void {
		const failed = (error: Error) => this.log.say("error", `stop: ${error.message}`);
		const attempt = (what: () => void) => {
			try {
				what();
			} catch (error) {
				failed(error as Error);
			}
		};
		attempt(() => this.#loop.control?.close());
		this.#inStep.close(this.#relieved, failed);
		if (!this.#relieved) attempt(() => this.#settings.restore());
		this.table.header[H_CLOCK] = this.context.now;
		attempt(() => this.kernel.close());
		attempt(() => native.close(this.#loop.signals));
		attempt(() => native.close(this.#lock));
	}

	/** Numbers of the sessions that are there. */
	*#live(): Generator<number> {
		for (let i = 1; i <= this.table.layout.sessions; i++) if (this.table.state(i) !== 0) yield i;
	}

	// ---- what the loop has due -----------------------------------------------------------------------------------------

	#signalled(): void {
		const { signals } = this.#loop;
		for (let signal = native.signalRead(signals); signal !== 0; signal = native.signalRead(signals)) {
			if (signal === SIGTERM || signal === SIGINT || signal === native.SIGUSR1) this.#loop.stopping = true;
			if (signal === native.SIGUSR1) this.#relieved = true;
			if (signal !== SIGHUP) continue;
			const { errors } = this.reload();
			for (const line of errors) this.log.say("error", line);
			if (errors.length > 0) this.log.say("notice", "reload: the configuration stays as it was");
		}
	}

	/** A port reported an error: if its device is gone the socket is closed until it is back, else (link down) it stays. */
	#portFailed(p: Port, error: native.NativeError): void {
		this.#inStep.news();
		if (p.driver !== null && this.kernel.linkByName(p.name)?.index !== p.index) this.#ports.close1(p);
		if (error.code !== "ENETDOWN") this.log.often("warning", `port ${p.name}`, `${p.name}: ${error.message}`, this.#clock.milliseconds);
	}

	/** Sockets of the router itself come and go: their ports are not masqd's meanwhile. */
	#yieldPorts(): void {
		const look = this.#routerPorts.step();
		if (look === null) return;
		if (look.settled.length > 0) this.log.say("notice", `the router itself uses port ${look.settled.join(", ")} now`);
		if (look.changed || look.lasting) this.#inStep.followPorts((t) => withPorts(t, this.ownPorts), [this.#guard, this.#ports]);
	}

	/** What the router itself speaks by now in protocols without ports is its own. */
	#yieldProtocols(): void {
		this.#routerProtocols.changed();
		const ended = yieldToRouter(this.context, this.admission);
		if (ended > 0) this.log.say("notice", `${ended} sessions ended: the router itself speaks their protocol with their peers now`);
	}

	#lookForOwnProtocols(): void {
		if (this.table.count(OTHER) > 0 && this.context.now % YIELD_PROTOCOLS_SECONDS === 0) this.#yieldProtocols();
	}

	/** What the queues of the TUN devices had no room for, of which masqd has seen nothing. */
	#countOverruns(): void {
		this.context.drops[REASON["tun-queue"]] += this.#tuns.overruns();
	}

	#tellLimits(): void {
		for (const { reason, text, count } of this.watch.limits()) this.log.often("warning", reason, text, this.#clock.milliseconds, count);
	}

	#releaseMemory(): void {
		const { memory, slowPath } = this.#translation;
		let stretched = this.wan.driver?.stretched() ?? false;
		for (const p of this.lan) if (p.driver?.stretched()) stretched = true;
		if (stretched) memory.releaseStretched();
		if (memory.releaseIdle(this.#loop.busyAt, this.#clock.milliseconds, slowPath.fragments.waiting > 0)) this.#loop.busyAt = 0;
	}
}

/** Why the tun drivers of a plan can not be had, "" if they can. */
function tunProblem(plan: Plan): string {
	if (plan.lan.some((l) => l.driver === "tun") && native.fileSize("/dev/net/tun") < 0)
		return "no TUN: /dev/net/tun is missing; install kmod-tun or use option driver 'packet'";
	return "";
}
