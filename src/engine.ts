/**
 * The daemon: opens the ports, keeps them in step with the kernel, and breathes: poll, receive a batch, translate it, send it, run due timers, answer
 * the control socket (design.md section 2). Time is read once per turn. Everything that can fail at start fails before the first packet is
 * taken, with one sentence, and what was set up until then is undone.
 */

import * as native from "masq:native";
import type { Plan } from "./config/plan.ts";
import { MAX_LANS } from "./config/schema.ts";
import type { Hosts } from "./conntrack/hosts.ts";
import type { PortRange } from "./conntrack/ports.ts";
import { HOP_SHIFT, HOST_ADF, HOST_EIF, HOST_PLACE, HOST_PORT_SHIFT, HOST_REACHABLE, R_HOST, R_META, R_PEER } from "./conntrack/record.ts";
import { type Image, type Restored, restore } from "./conntrack/restore.ts";
import { OTHER, PORT_REST, RESTING, stateTimeouts } from "./conntrack/states.ts";
import { H_CLOCK, H_MAGIC, type Table } from "./conntrack/table.ts";
import type { DaemonView } from "./control/daemon-view.ts";
import type { ReloadReply } from "./control/protocol.ts";
import { CONTROL_ENTRIES, ControlServer } from "./control/server.ts";
import { Watch } from "./control/watch.ts";
import { Barrier } from "./daemon/barrier.ts";
import { loadPlan } from "./daemon/load-plan.ts";
import type { Log } from "./daemon/log.ts";
import { emptyPolicy, netOf, planTable, policyOf, tunQueue, wantedExternals } from "./daemon/policy.ts";
import { Rates } from "./daemon/rates.ts";
import { bootWords, mapOrMemory, openState, type State } from "./daemon/state.ts";
import { type Admission, EXPIRE_BUDGET } from "./nat/admission.ts";
import { ALG_BYTES } from "./nat/alg.ts";
import {
	BATCH,
	BLOCK,
	type Context,
	findSoleNets,
	HAIRPIN,
	type LanLink,
	type Link,
	lanOf,
	type Net,
	NO_NET,
	NO_ROUTE,
	type Policy,
	Queue,
} from "./nat/context.ts";
import { makeContext, makeCore, makeTables } from "./nat/core.ts";
import { type External, type Externals, numberExternals } from "./nat/externals.ts";
import { type FastPath, sourcesAreOurs } from "./nat/fast-path.ts";
import { HOST_UNREACHABLE, NET_UNREACHABLE } from "./nat/icmp-error.ts";
import { Keeper, unfit } from "./nat/keep.ts";
import { readdress } from "./nat/readdress.ts";
import { REASON } from "./nat/reason.ts";
import { REQUESTED_BYTES, Requested } from "./nat/requested.ts";
import type { SlowPath } from "./nat/slow-path.ts";
import { sessionReset } from "./nat/tcp-reset.ts";
import { yieldToRouter } from "./nat/yielding.ts";
import { dumpPrograms } from "./offload/dump.ts";
import { CAP_BPF, CAP_PERFMON, Offload, OffloadError, type OffloadStatus, obstacleOf } from "./offload/offload.ts";
import { type AddressRange, formatAddress, formatSubnet, type Subnet, subnetOf, subnetsOverlap } from "./packet/address.ts";
import { addressValue, hasPorts, IP_WORD, SLOT_SIZE, swap16, swap32, TCP, UDP, type Views, viewsOf } from "./packet/layout.ts";
import { HOST_HEADERS, headerTag, LinkHeaders } from "./packet/link-header.ts";
import { ArpResponder } from "./port/arp-responder.ts";
import { deviceWarnings, filtersBridges } from "./port/device-warnings.ts";
import { type ClaimedPorts, lanFilter, wanFilter } from "./port/filter.ts";
import { foreignFilters, foreignWords } from "./port/foreign-filters.ts";
import { foreignRouting } from "./port/foreign-routing.ts";
import { GUARD_TABLE, type GuardFacts, guardPresent } from "./port/guard.ts";
import { GuardKeeper } from "./port/guard-keeper.ts";
import { GuardWatch } from "./port/guard-watch.ts";
import { IngressFilters } from "./port/ingress-filter.ts";
import { forgetKernelFlows } from "./port/kernel-flows.ts";
import { type Changes, isConfirmed, isUsable, KernelView, type Neighbour } from "./port/kernel-view.ts";
import { OwnPorts, separateEphemeral } from "./port/local-ports.ts";
import { NextHopTable, SPARE_SLOT_SIZE, SPARE_SLOTS } from "./port/neighbours.ts";
import { resolveDevices } from "./port/netifd.ts";
import { Announcements, PcpServer } from "./port/pcp-responder.ts";
import { Placement } from "./port/placement.ts";
import { BATCH_LARGE, type Driver, PacketDriver, TunDriver } from "./port/port.ts";
import { RouterProtocols } from "./port/router-protocols.ts";
import { type Refused, SEGMENT_BYTES, takesRaw } from "./port/sending.ts";
import { GRO_LIST, Settings } from "./port/settings.ts";
import { SocketDiag, type SocketPlace } from "./port/socket-diag.ts";
import { removeLeftovers, TUN_NAME, TunRoutes } from "./port/tun-routes.ts";

const ARPHRD_ETHER = 1;
const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;
const SIGHUP = 1;
const SIGINT = 2;
const SIGTERM = 15;
/** More destinations of the kernel's own than a socket filter holds are told apart here, and counted as "not-through-wan". */
const FILTER_ROUTES = 500;
/** Milliseconds between two looks at the router's own sockets, at least. */
const YIELD_EVERY = 1000;
/** ... and at what it speaks besides TCP and UDP, while a host does so too. */
const YIELD_PROTOCOLS_SECONDS = 3;
/** Quiet seconds after which the pages of the frame buffer go back to the kernel. */
const IDLE_RELEASE_SECONDS = 2;
/** Turns without a frame before the loop sleeps: a wake-up costs more than looking once more. */
const SPIN = 1;
/** Turns with frames after which signals, kernel news and the control socket are looked at. */
const POLL_TURNS = 32;
/** Frame memory before the spare blocks. */
const RECEIVE_BYTES = BATCH * SLOT_SIZE + SPARE_SLOTS * SPARE_SLOT_SIZE;
/** Blocks of 2 KB for fragments: memory that is touched only when fragments come. */
const BLOCKS_MIN = 64;
const BLOCKS_MAX = 256;
/** Frames that a port's queue has room for besides a batch: all fragments there are, and three more batches of errors and of frames that had waited. */
const QUEUE_FRAMES = BLOCKS_MAX + BATCH * 3;
/** The WAN; of each LAN a TUN device, a packet socket and one for PCP; signals, kernel news, ARP, guard watch, sockets and nft; the control server's. */
const POLL_ENTRIES = 1 + 3 * MAX_LANS + 6 + CONTROL_ENTRIES;
/** Milliseconds to wait for a lock in all, and between two attempts. */
const LOCK_PATIENCE = 500;
const LOCK_STEP = 20;
/** Milliseconds that a reload waits for a guard that knows new devices, which are opened behind it. */
const GUARD_PATIENCE = 250;
/** Why there is no offload although the configuration has it by now: without it the daemon gave up what bpf(2) asks for. */
const OFFLOAD_WAITS = "it was switched on while masqd ran; restart it";

/** An error that ends the start with one line. */
export class StartError extends Error {}

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

/** One network attachment with its driver; `index` is 0 while the device is not there. */
interface Port {
	name: string;
	index: number;
	driver: Driver | null;
	link: Link;
	sent: number;
	received: number;
	/** GRO list setting to restore, undefined if it was not touched. */
	restoreGro: boolean;
}

interface LanPort extends Port {
	link: LanLink;
	/** A tap is the packet socket beside a TUN port. */
	kind: "packet" | "tun" | "tap";
	/** Name of the TUN device, "" for other kinds, and what leads to it. */
	tun: string;
	routes: TunRoutes | null;
	subnets: Subnet[];
}

/** Meter of the loop, kept only with MASQD_METER=1: nanoseconds in TypeScript and in the send and receive calls. */
export interface Meter {
	packets: number;
	jsNs: number;
	ioNs: number;
	batches: number;
}

/** What is amiss with the devices of a plan now, in sentences; none if that can not be found out. */
export function planWarnings(plan: Plan): string[] {
	const kernel = new KernelView(native);
	try {
		kernel.open();
		const lans = plan.lan.map(({ device, subnets, driver }) => ({ role: "lan" as const, device, subnets, driver }));
		const wan = { role: "wan" as const, device: plan.wan.device, subnets: [], driver: "" as const };
		return deviceWarnings(kernel, [wan, ...lans], filtersBridges(native));
	} catch {
		return [];
	} finally {
		kernel.close();
	}
}

/** The offload programs of a plan as text; devices that are there give addresses and kind, others count as Ethernet. */
export function dumpOffload(plan: Plan): string {
	const kernel = new KernelView(native);
	kernel.open();
	const device = (name: string) => {
		const link = kernel.linkByName(name);
		return {
			device: name,
			ethernet: link === undefined || link.type === ARPHRD_ETHER,
			own: link === undefined ? [] : kernel.addresses(link.index),
		};
	};
	const wan = device(plan.wan.device);
	const lan = plan.lan.map((l) => ({ ...device(l.device), subnets: l.subnets }));
	kernel.close();
	const single = (address: number) => ({ first: address, last: address });
	const owned = [...plan.statics.map((s) => single(s.external)), ...plan.pools.flatMap((p) => p.external)];
	return dumpPrograms({
		sessions: plan.sessions,
		wan,
		lan,
		externals: [single(wan.own[0]?.address ?? 0), ...owned],
		nets: lan.flatMap((l) => (l.subnets.length > 0 ? l.subnets : l.own.map((a) => subnetOf(a.address, a.prefix)))),
		addressless: wan.own.length === 0,
	});
}

/** The running daemon. */
export class Engine implements DaemonView {
	/** What is in force; another one after a reload. */
	plan: Plan;
	readonly paths: Paths;
	readonly #options: Options;
	readonly kernel = new KernelView(native);
	readonly table: Table;
	readonly hosts: Hosts;
	readonly externals: Externals;
	readonly context: Context;
	readonly admission: Admission;
	readonly wan: Port;
	readonly lan: LanPort[];
	readonly meter: Meter | null = native.getenv("MASQD_METER") === "1" ? { packets: 0, jsNs: 0, ioNs: 0, batches: 0 } : null;
	readonly warnings: string[] = [];
	/** Milliseconds at start, for the uptime. */
	readonly startedAt = native.now();
	readonly tableBytes: number;
	readonly log: Log;
	readonly watch: Watch;
	readonly rates: Rates;
	readonly barrier: Barrier;

	/** The batch functions in use: {@link own}, or a capture's around them. */
	#fast: FastPath;
	readonly #own: FastPath;
	readonly #slowPath: SlowPath;
	readonly #requested: Requested;
	/** A predecessor's list of requested forwards was not there: hosts are to be told. */
	#requestedAnew = true;
	readonly #routerProtocols = new RouterProtocols(native, () => this.kernel.links.values());
	readonly #settings: Settings;
	readonly #boot = bootWords();
	/** What a predecessor left, until it is taken over. */
	#state: State | null;
	readonly #hops: NextHopTable;
	readonly #rx = new Int32Array(BATCH * 2);
	readonly #frames: ArrayBuffer;
	/** Where in it segments are cut to. */
	readonly #segmentsAt: number;
	/** What counts frames that were not sent, to the WAN and to a LAN. */
	readonly #unsentOut: Refused = (reason, slot) => this.context.dropLog.add(reason, slot, 0, this.context.now);
	readonly #unsentIn: Refused = (reason, slot) => this.context.dropLog.add(reason, slot, -1, this.context.now);
	readonly #pollSet = new Int32Array(POLL_ENTRIES * 3);
	readonly #placement = new Placement(native);
	readonly #lock: native.Fd;
	#signals: native.Fd = -1;
	#control: ControlServer | null = null;
	#arp: ArpResponder | null = null;
	#arpText = "";
	readonly #pcp = new PcpServer(native, {
		handle: (q, source, port) => this.#requested.handle(q, swap32(source), port),
		epoch: () => this.#requested.epoch,
		neighbour: (ifindex, host) => this.#leaderTo(ifindex, host),
		ask: (ifindex, host) => this.#askFor(ifindex, host),
		isOwn: (address) => this.kernel.ownAddresses().includes(address),
		spoofed: () => {
			this.context.drops[REASON["spoofed-source"]]++;
		},
		crowded: () => {
			this.context.drops[REASON["pcp-crowded"]]++;
		},
		milliseconds: () => this.#milliseconds,
	});
	readonly #announcements = new Announcements();
	#offload: Offload | null = null;
	readonly #ingress = new IngressFilters(this.kernel);
	/** Why there is no offload. */
	#noOffload = "";
	/** Filters of others on the ports, in words. */
	#filtered = "";
	/** The WAN has no address that can be used, or some session no route: packets from inside take the slow way (SlowPath.outboundImpaired). */
	#impaired = true;
	/** Some session has no route. */
	#unroutable = false;
	/** What was amiss with the devices when it was last told of. */
	#deviceWarnings: string[] = [];
	/** The WAN's subnet overlaps a LAN's, in words; "" if not. */
	conflict = "";
	readonly #guard = new GuardKeeper(native, {
		wanted: () => this.#guardFacts(),
		inForce: (deleted) => this.#guardInForce(deleted),
		failed: (error) => this.log.often("error", "guard", error.message, this.#milliseconds),
	});
	/** A dead predecessor's guard was there at the start. */
	#guardBefore = false;
	/** Some port waits for a guard that knows its device. */
	#unguarded = false;
	#guardWatch: GuardWatch | null = null;
	#restoreEphemeral: (() => void) | null = null;
	/** The first words of what {@link foreignRouting} last told. */
	#foreignRouting: string[] = [];
	/** Milliseconds at which to look for new sockets of the router's. */
	#yieldAt = 0;
	readonly #sockets = new SocketDiag(native);
	/** Ports of the router's own services. */
	readonly ownPorts = new OwnPorts({
		take: (protocol, port) => this.externals.reservePort(0, protocol, port),
		release: (protocol, port) => this.externals.releasePort(0, protocol, port),
	});
	#milliseconds = 0;
	/** Some of the kernel's news could not be followed: it is tried again every second. */
	#behind = false;
	/** News of neighbours that has not been taken. */
	#neighbourNews: Neighbour[] = [];
	/** Frames of the batch in hand that have not been translated: what an exception costs besides what is queued. */
	#untranslated = 0;
	/** Number of the entry of the poll set after the ports', and of the control server's first. */
	#fixed = 1;
	#controlAt = 1;
	#secondAt = 0;
	#busyAt = 0;
	#stopping = false;
	/** The WAN's address that listeners know. */
	#told = 0;
	/** Another masqd is to go on at once (restart, upgrade): guard and settings stay, so nothing of the kernel's gets in between. */
	#relieved = false;

	/** Builds tables in memory; touches nothing of the system but the state file. Throws {@link StartError} if another daemon has it. */
	constructor(plan: Plan, paths: Paths, log: Log, options: Options = {}) {
		this.log = log;
		this.barrier = new Barrier(log, () => this.#milliseconds);
		this.plan = plan;
		this.paths = paths;
		this.#options = options;
		this.#lock = lockState(paths.state);
		this.#settings = new Settings(native, `${paths.state}.settings`, `/${TUN_NAME}`);
		const { layout, bytes } = planTable(plan);
		this.tableBytes = bytes;
		this.#state = openState(paths.state, layout, this.#boot, Math.floor(native.now() / 1000));
		const { memory, image } = this.#state;
		const keys = new Int32Array(5);
		native.random(keys.buffer, 0, keys.byteLength);
		if (image !== null) keys.set(image.keys);
		const tables = makeTables(memory, layout, keys, plan.timeouts, plan.ports, image !== null);
		this.table = tables.table;
		this.hosts = tables.hosts;
		this.externals = tables.externals;

		const blocks = Math.min(BLOCKS_MAX, Math.max(BLOCKS_MIN, plan.sessions >> 4));
		this.#segmentsAt = RECEIVE_BYTES + blocks * BLOCK;
		this.#frames = native.mapFile("", this.#segmentsAt + SEGMENT_BYTES);
		const headers = new LinkHeaders(layout.hosts);
		native.setFrames(this.#frames, SLOT_SIZE, this.#rx, headers.buffer);
		this.wan = makePort(plan.wan.device, emptyLink());
		this.lan = lansOf(plan, []);
		const lan = this.lan.map((p) => p.link);
		const views: Views = viewsOf(this.#frames);
		this.#hops = new NextHopTable({
			kernel: this.kernel,
			views,
			table: this.table,
			hosts: this.hosts,
			headers,
			wan: this.wan.link,
			lan,
			dropped: (reason, slot, port) => this.context.dropLog.add(reason, slot, port, this.context.now),
			forwarded: (out) => {
				if (out) this.context.forwardedOut++;
				else this.context.forwardedIn++;
			},
			wanIndex: () => this.wan.index,
			lanIndex: (n) => this.lan[n].index,
			milliseconds: () => this.#milliseconds,
			sessionOf: (slot) => this.#slowPath.sessionOf(slot),
			undeliverable: (slot, length, lost) => this.#slowPath.undeliverable(slot, length, lost ? NET_UNREACHABLE : HOST_UNREACHABLE),
			undeliverableInside: (slot, length) => this.#slowPath.undeliverableInside(slot, length),
			spareSlot: (n) => BATCH * SLOT_SIZE + n * SPARE_SLOT_SIZE,
		});
		const random = new Int32Array(64);
		let randomAt = random.length;
		this.context = makeContext(tables, {
			views,
			hops: this.#hops,
			kernelShare: {
				hasPort: (protocol, port) => this.ownPorts.has(protocol, port),
				hasFlow: (protocol, peer, peerPort, port) => this.#guard.sets.hasFlow(protocol, addressValue(peer), swap16(peerPort), swap16(port)),
			},
			headers,
			wan: this.wan.link,
			lan,
			policy: emptyPolicy(),
			spare: { at: RECEIVE_BYTES, count: blocks },
			ipId: keys[4],
			routerSpeaks: (protocol, peer) => this.#routerProtocols.speaks(protocol, peer),
			random: () => {
				if (randomAt === random.length) {
					native.random(random.buffer, 0, random.byteLength);
					randomAt = 0;
				}
				return random[randomAt++];
			},
			sum: native.frameSum,
			flush: () => this.#flush(),
		});
		this.#readClock();
		this.context.policy = this.#policy(plan, image === null ? 0 : image.addresses[0], image?.addresses ?? new Int32Array(0));
		const core = makeCore(this.context, mapOrMemory(`${paths.state}.ftp`, ALG_BYTES).memory);
		this.admission = core.admission;
		this.#slowPath = core.slowPath;
		this.#own = core.fast;
		this.#fast = this.#own;
		this.watch = new Watch(this.context, native.wallClock);
		this.rates = new Rates(this.context, native.now);
		this.#requested = new Requested(this.context, mapOrMemory(`${paths.state}.pcp`, REQUESTED_BYTES).memory);
	}

	/**
	 * Makes a plan's external addresses anew, `own` being the WAN port's, with the numbers that they have in `before`, and returns its policy; the ports
	 * of forwards are reserved.
	 */
	#policy(plan: Plan, own: number, before: Int32Array): Policy {
		const { externals } = this;
		const policy = policyOf(plan, externals.renew(wantedExternals(plan, own), before, plan.ports));
		for (const f of policy.forwards) for (let p = f.first; p <= f.last; p++) externals.reservePort(0, f.protocol, p);
		return policy;
	}

	// ---- for those who look inside (src/control) -----------------------------------------------------------------------------

	/** Next hop number of a destination, found without asking anybody. */
	peek(destination: number): number {
		return this.#hops.peek(destination);
	}

	/** What stands against every outbound packet now: a reason number, -1 for whatever its route says; null if nothing does. */
	get impaired(): number | null {
		if (!this.#impaired) return null;
		return this.wan.link.address !== 0 ? -1 : this.conflict !== "" ? REASON["address-conflict"] : REASON["no-external-address"];
	}

	/** Why packets from a LAN to a destination (dotted value) never come to masqd (the filters leave them to the kernel), in words; null if they do. */
	passesBy(protocol: number, destination: number, port: number): string | null {
		if (this.#externalAddresses().includes(destination)) {
			// Hairpinning: what may be for a mapping.
			if (hasPorts(protocol) && protocol !== TCP && protocol !== UDP) return null;
			const own = this.ownPorts.has(protocol, port);
			if (!own && this.#claimed().some((c) => c.proto === protocol && port >= c.first && port <= c.last)) return null;
			return "an address of the router itself too, and this is none of masqd's";
		}
		if (this.kernel.ownAddresses().includes(destination)) return "an address of the router itself";
		const within = (s: Subnet) => ((destination ^ s.address) & s.mask) === 0;
		if (this.plan.exempts.some((e) => within(e.destination))) return "a destination of config exempt";
		return this.kernel.subnetsNotVia(this.wan.index).some(within) ? `not reached through ${this.wan.name}` : null;
	}

	/** Puts other batch functions in place of the engine's own, between two batches; null puts those back. */
	tap(wrap: ((own: FastPath) => FastPath) | null): void {
		this.#fast = wrap === null ? this.#own : wrap(this.#own);
	}

	/** Milliseconds since 1970. */
	wallClock(): number {
		return native.wallClock();
	}

	// ---- start and stop ------------------------------------------------------------------------------------------------

	/** Opens everything. Throws {@link StartError} with one sentence; nothing is left behind then. */
	start(): void {
		try {
			this.#start();
		} catch (error) {
			// What a predecessor's death has left keeps the LAN from leaving untranslated.
			if (this.#guardBefore) this.abandon();
			else this.stop();
			if (this.#guardBefore && error instanceof Error) error.message += `; the guard stays, masqd cleanup removes it`;
			throw error;
		}
	}

	/** Ends as {@link stop} does, but leaves guard and settings: nothing of the LAN leaves until a successor is there. Never throws. */
	abandon(): void {
		this.#relieved = true;
		this.stop();
	}

	#start(): void {
		this.#signals = native.signalOpen([SIGHUP, SIGINT, native.SIGUSR1, SIGTERM]);
		for (const [n, name] of [
			[CAP_NET_ADMIN, "CAP_NET_ADMIN"],
			[CAP_NET_RAW, "CAP_NET_RAW"],
		] as const) {
			if (!native.hasCapability(n)) throw new StartError(`no permission: masqd needs ${name}; start it as root`);
		}
		this.kernel.open();
		if (this.#options.wait && this.kernel.linkByName(this.wan.name) === undefined)
			this.log.say("warning", `wan device '${this.wan.name}' does not exist yet; waiting for it`);
		else this.#needDevice("wan", this.wan);
		// One LAN that is away keeps no other off; nobody who has misspelt the only one is to wait for it.
		if (!this.lan.some((p) => this.kernel.linkByName(p.name) !== undefined)) for (const p of this.lan) this.#needDevice("lan", p);
		for (const p of this.lan)
			if (this.kernel.linkByName(p.name) === undefined)
				this.log.say("warning", `lan device '${p.name}' does not exist yet; waiting for it`);
		const problem = tunProblem(this.plan);
		if (problem !== "") throw new StartError(problem);
		this.#separatePorts();
		this.#readLinks();
		this.#hops.routesChanged();
		// Before the sessions, whose ports they may be.
		this.#requestedAnew = !this.#requested.takeOver(this.#boot);
		const successor = this.#takeOver();
		this.#tellOfDevices();
		this.#tellRouting();
		// Before the routes, so that the kernel never tracks or forwards a packet that is masqd's.
		this.#guardBefore = guardPresent(native);
		this.#guard.install();
		removeLeftovers(this.kernel);
		this.#openTuns();
		this.#openDrivers();
		// What the guard has stopped while nobody was there to take it counts as nobody's.
		if (successor) this.#guard.install();
		else this.#guard.keep();
		this.#guardWatch = new GuardWatch(native);
		this.#setExternal(this.wan.link.address);
		this.#openArp();
		this.#startOffload();
		this.#openPcp();
		this.#renewHops();
		this.#control = new ControlServer(this.paths.socket, this);
		const bpf = this.#offload === null ? 0 : 2 ** CAP_BPF + 2 ** CAP_PERFMON;
		native.keepCapabilities(2 ** CAP_NET_ADMIN + 2 ** CAP_NET_RAW + bpf);
	}

	#needDevice(what: string, p: Port): void {
		const link = this.kernel.linkByName(p.name);
		if (link === undefined) throw new StartError(`${what} device '${p.name}' does not exist`);
	}

	/** What of the router's routing is not followed, in sentences. */
	foreignRouting(): string[] {
		const { kernel, wan, plan } = this;
		return foreignRouting({
			wan: { name: wan.name, ifindex: wan.index, addresses: kernel.addresses(wan.index) },
			lan: this.lan.map((p) => ({ name: p.name, subnets: p.link.nets.map(subnetOfNet) })),
			exempts: plan.exempts.map((e) => e.destination),
			rules: kernel.rules,
			routes: kernel.routes(),
			nameOf: (ifindex) => kernel.links.get(ifindex)?.name ?? `device ${ifindex}`,
		});
	}

	/** Logs what of that is of a kind that was not there before: rules may come one by one. */
	#tellRouting(): void {
		const kind = (text: string) => text.split(" ", 4).join(" ");
		const now = this.foreignRouting();
		for (const text of now) if (!this.#foreignRouting.includes(kind(text))) this.log.say("warning", text);
		this.#foreignRouting = now.map(kind);
	}

	/** Keeps the router's own sockets and masqd's port range apart (design.md section 2 "The kernel beside us"). */
	#separatePorts(): void {
		this.#restoreEphemeral = separateEphemeral(this.#settings, this.plan.ports, this.warnings);
		this.#keepOwnPorts(this.plan.ports);
	}

	#keepOwnPorts(ranges: PortRange[]): void {
		this.ownPorts.begin(this.#sockets.all(this.#socketPlace(ranges)));
	}

	#socketPlace(ranges: PortRange[]): SocketPlace {
		const ifindex = this.kernel.linkByName(this.wan.name)?.index ?? 0;
		return { ranges, ifindex, addresses: this.kernel.addresses(ifindex).map((a) => a.address) };
	}

	#lookAtSockets(): void {
		this.#yieldAt = this.#milliseconds + Math.max(YIELD_EVERY, this.#sockets.rest);
		this.#sockets.begin(this.#socketPlace(this.plan.ports));
	}

	/** Sockets of the router itself come and go: their ports are not masqd's meanwhile. One step of a look. */
	#yieldPorts(): void {
		const sockets = this.#sockets.step();
		if (sockets === null) return;
		const { changed, settled, left } = this.ownPorts.look(sockets);
		if (changed) this.#guard.keep();
		if (settled.length > 0) this.#say(`the router itself uses port ${settled.map((s) => s.port).join(", ")} now`);
		if (settled.length > 0 || left) this.#renewFilters();
	}

	/** What is amiss with the devices now, in sentences. */
	deviceWarnings(): string[] {
		const lans = this.lan.flatMap((p) =>
			p.kind === "tap" ? [] : [{ role: "lan" as const, device: p.name, subnets: p.subnets, driver: p.kind }],
		);
		return deviceWarnings(this.kernel, [{ role: "wan", device: this.wan.name, subnets: [], driver: "" }, ...lans], filtersBridges(native));
	}

	/** Logs what has come to be amiss with the devices. */
	#tellOfDevices(): void {
		const found = this.deviceWarnings();
		for (const text of found) if (!this.#deviceWarnings.includes(text)) this.log.say("warning", text);
		this.#deviceWarnings = found;
	}

	#openTuns(): void {
		for (const p of this.lan) if (p.kind === "tun" && p.driver === null && this.#isGuarded(p)) this.#openTun(p);
	}

	#openTun(p: LanPort): void {
		try {
			p.driver = new TunDriver(p.tun, this.#rx, this.context.views, this.#segmentsAt);
		} catch (error) {
			const e = error as native.NativeError;
			if (e.code === "ENOENT" || e.code === "ENODEV")
				throw new StartError("no TUN: the kernel has no tun driver; install kmod-tun or use option driver 'packet'");
			if (e.code === "EBUSY") throw new StartError(`the device name ${p.tun} is taken: is another masqd running?`);
			throw new StartError(`can not open TUN: ${e.message}`);
		}
		try {
			p.routes = this.#routeTo(p);
		} catch (error) {
			// Without routes the device is nobody's way, and it is to be made anew.
			this.#closePort(p);
			throw error;
		}
		for (const warning of p.routes.warnings) if (!this.warnings.includes(warning)) this.warnings.push(warning);
	}

	#routeTo(p: LanPort): TunRoutes {
		const changes = this.kernel.drain();
		this.#neighbourNews.push(...changes.neighbours);
		// The device is in it, and whatever else has come meanwhile.
		if (changes.addresses || changes.routes || changes.rules) this.#behind = true;
		const tun = this.kernel.linkByName(p.tun);
		if (tun === undefined) throw new StartError(`the kernel does not show the device ${p.tun}`);
		return TunRoutes.install(this.kernel, this.#settings, {
			lans: [p.name],
			elsewhere: this.#elsewhere(),
			tun: { name: p.tun, ifindex: tun.index, mtu: this.wan.link.mtu || 1500, queueLength: tunQueue(this.plan) },
		});
	}

	// ---- offload ---------------------------------------------------------------------------------------------------------

	#startOffload(): void {
		const { offload } = this.plan;
		if (offload === "off") return;
		try {
			this.#offload = new Offload(
				{
					table: this.table,
					hosts: this.hosts,
					headers: this.context.headers,
					tags: this.#hops.tags,
					addresses: this.externals.A,
					seconds: () => this.context.now | 0,
					now16: () => this.context.now16,
					milliseconds: () => this.#milliseconds,
					neighbour: (ifindex, host) => this.#neighbourOf(ifindex, host),
					inUse: (host) => this.#hops.inUse(host),
					mtuTo: (peer) => this.#hops.mtuTo(peer),
					routeMtu: (destination) => this.kernel.lookup(destination)?.mtu ?? 0,
					attachClassic: (ifindex, program) => this.#ingress.attach(ifindex, program),
					detachClassic: (ifindex) => this.#ingress.detach(ifindex),
				},
				native.getenv("MASQD_OFFLOAD") === "clsact" ? "clsact" : null,
			);
			this.#renewOffload();
		} catch (error) {
			this.#offload?.close();
			this.#offload = null;
			if (!(error instanceof OffloadError)) throw error;
			if (offload === "on") throw new StartError(`option offload 'on': ${error.message}`);
			this.#noOffload = error.message;
			this.log.say("info", `no offload: ${error.message}`);
			return;
		}
		this.table.bypass = this.#offload;
		this.context.ipIds = 0x7fff;
		this.context.headers.changed = (n) => this.#offload?.linkChanged(n);
	}

	/** Who on device `ifindex` leads to a host of the LAN (dotted value), as the kernel knows it. */
	#neighbourOf(ifindex: number, host: number): { address: number; mac: Uint8Array } | null {
		const address = this.#leaderAddress(ifindex, host);
		const known = this.kernel.neighbour(ifindex, address);
		return known !== undefined && isUsable(known) ? { address, mac: known.mac as Uint8Array } : null;
	}

	/** Whom a device's neighbours know as the way to a host (dotted value): the host itself, or the router that it is behind. */
	#leaderAddress(ifindex: number, host: number): number {
		const route = this.kernel.lookup(host);
		return route !== null && route.ifindex === ifindex && route.gateway !== 0 ? route.gateway : host;
	}

	/** Tells the offload about the ports as they are. With `auto` it stands back while others filter what comes in (SQM) or goes out. */
	#renewOffload(): void {
		const device = (p: Port) => {
			const link = this.kernel.linkByName(p.name);
			const ethernet = link !== undefined && link.type === ARPHRD_ETHER;
			return { index: p.index, ethernet, mtu: p.link.mtu, mac: ethernet && link.mac !== null ? link.mac : new Uint8Array(6) };
		};
		const owned = this.#ownedExternals();
		const ports = [this.wan, ...this.lan.filter((p) => p.kind !== "tap")];
		const filters = foreignWords(foreignFilters(ports, this.#ingress, native, (index) => this.kernel.links.get(index)?.name));
		const standsBack = this.plan.offload === "auto" && filters !== "";
		if (filters !== this.#filtered) {
			if (filters === "") this.log.say("info", "offload: there are no more filters of others");
			else this.log.say("info", standsBack ? `no offload: ${obstacleOf(filters)}` : `offload goes past others: ${filters}`);
			this.#filtered = filters;
		}
		this.#offload?.renew({
			filters,
			standsBack,
			wan: device(this.wan),
			lan: this.lan.map((p) => ({
				...device(p),
				kernelForwards: p.kind === "tun",
				nets: p.link.nets.map((net) => ({ address: swap32(net.address) >>> 0, mask: swap32(net.mask) >>> 0 })),
			})),
			externals: [...this.#externalAddresses().map((first) => ({ first, last: first })), ...owned],
		});
	}

	/** The ports changed while running: an offload that can not follow is given up. */
	#renewOffloadQuietly(): void {
		try {
			this.#renewOffload();
		} catch (error) {
			this.log.often("warning", "offload", `offload stopped: ${(error as Error).message}`, this.#milliseconds);
		}
	}

	/** What `status` shows. */
	get offloadStatus(): OffloadStatus {
		const { offload } = this.plan;
		if (this.#offload !== null) return this.#offload.status(offload);
		return { mode: offload, active: false, detail: this.#noOffload, flows: 0, capacity: 0, packetsOut: 0, packetsIn: 0, past: "" };
	}

	/** Sessions that go by the kernel, null without. */
	get offload(): Offload | null {
		return this.#offload;
	}

	/** Undoes everything, in reverse, whatever of it was done; after SIGUSR1 nothing that a successor would do again. Never throws. */
	stop(): void {
		const attempt = (what: () => void) => {
			try {
				what();
			} catch (error) {
				this.log.say("error", `stop: ${(error as Error).message}`);
			}
		};
		attempt(() => this.#control?.close());
		attempt(() => this.#offload?.close());
		for (const p of this.lan) attempt(() => p.routes?.remove());
		for (const p of [this.wan, ...this.lan]) attempt(() => this.#closePort(p));
		attempt(() => this.#arp?.close());
		attempt(() => this.#pcp.close());
		attempt(() => this.#guardWatch?.close());
		attempt(() => this.#sockets.close());
		attempt(() => this.#guard.close());
		if (!this.#relieved) {
			forgetKernelFlows(native, this.table.T, this.#live());
			attempt(() => this.#guard.remove());
			attempt(() => this.#restoreEphemeral?.());
			attempt(() => this.#settings.restore());
		}
		this.table.header[H_CLOCK] = this.context.now;
		attempt(() => this.kernel.close());
		attempt(() => native.close(this.#signals));
		attempt(() => native.close(this.#lock));
	}

	/** Numbers of the sessions that are there. */
	*#live(): Generator<number> {
		for (let i = 1; i <= this.table.layout.sessions; i++) if (this.table.state(i) !== 0) yield i;
	}

	#closePort(p: Port): void {
		p.driver?.close();
		p.driver = null;
		if (!p.restoreGro) return;
		p.restoreGro = false;
		try {
			if (this.kernel.linkByName(p.name) !== undefined) native.setFeature(p.name, GRO_LIST, true);
		} catch {
			// The device has just gone, though the kernel has not said so yet.
		}
		this.#settings.forget(`${GRO_LIST} ${p.name}`);
	}

	// ---- another configuration --------------------------------------------------------------------------------------------

	/**
	 * Reads the configuration again and goes on by it: sessions that it has no place for end, ports that are not the same are opened anew, nothing else is touched.
	 * Returns why not if it can not be used (nothing has changed then), else what is to be known about it.
	 */
	reload(): ReloadReply {
		this.#readClock();
		const { plan, errors, warnings } = loadPlan(this.paths.config);
		const refuse = (lines: string[]): ReloadReply => ({ errors: lines, notes: [] });
		if (plan === null) return refuse(errors);
		const { problem, leftOut } = resolveDevices(native, plan, [this.plan.wan, ...this.plan.lan]);
		if (problem !== null) return refuse([`masqd: ${problem}`]);
		for (const why of leftOut) warnings.push(`warning: ${why}`);
		const problems = this.#unusable(plan);
		if (problems.length > 0) return refuse(problems);
		for (const warning of warnings) this.#say(warning);
		try {
			return { errors: [], notes: [...warnings, ...this.#apply(plan)] };
		} catch (error) {
			this.#behind = true;
			return refuse([`masqd: the configuration is in force but for this: ${(error as Error).message}`]);
		}
	}

	/** What keeps a plan that is right in itself from being used here, in lines. */
	#unusable(plan: Plan): string[] {
		const lines: string[] = [];
		if (!plan.enabled) lines.push(`masqd: ${this.paths.config} says option enabled '0': stop masqd for that`);
		const devices: [string, string, string[]][] = [["wan", plan.wan.device, [this.wan.name]]];
		for (const l of plan.lan) devices.push(["lan", l.device, this.lan.map((p) => p.name)]);
		for (const [what, name, known] of devices) {
			// One that is in use may be away for a moment.
			if (!known.includes(name) && this.kernel.linkByName(name) === undefined) lines.push(`masqd: ${what} device '${name}' does not exist`);
		}
		const problem = tunProblem(plan);
		if (problem !== "") lines.push(`masqd: ${problem}`);
		return lines;
	}

	/** Goes on by a plan; returns what of it has to wait, in sentences. */
	#apply(plan: Plan): string[] {
		const { table, externals, context } = this;
		const before = this.plan;
		this.#flush();
		const places = this.#replacePorts(plan);
		const { index } = this.wan;
		this.#readLinks();
		if (this.wan.index !== index) this.#hops.reset();
		this.#hops.routesChanged();

		// Under the old policy, whose ports they have: the sessions that the new one has no place for.
		const wanted = wantedExternals(plan, externals.A[0]);
		const numbers = numberExternals(wanted, table.addresses);
		const list: External[] = [];
		for (const [k, n] of numbers.entries()) list[n] = { ...wanted[k], holder: 0, sessions: 0 };
		const keeper = this.#keeper(policyOf(plan, numbers), list, plan);
		const ending = unfit(context, keeper);
		for (const i of ending) {
			this.admission.end(i, "reload");
			if (table.state(i) === RESTING && !keeper.fits(i)) this.admission.end(i, "reload");
		}

		this.plan = plan;
		table.timeouts = stateTimeouts(plan.timeouts);
		if (JSON.stringify(plan.ports) !== JSON.stringify(before.ports)) {
			this.barrier.attempt("ephemeral ports", () => this.#restoreEphemeral?.());
			this.#restoreEphemeral = separateEphemeral(this.#settings, plan.ports, this.warnings);
		}
		this.#applyPolicy(plan, externals.A[0], table.addresses);
		const lost = this.#keeper(context.policy, externals.list, plan).reclaim();
		for (const i of lost) this.admission.end(i, "reload", false);
		table.addresses.set(externals.A);
		this.#replaceHosts(places);

		this.#guard.keep();
		this.#guard.settle(GUARD_PATIENCE);
		this.#openTuns();
		this.#openDrivers();
		this.#setExternal(this.wan.link.address);
		this.#inStep();
		this.#openArp();
		this.#requested.withdraw();
		const ended = ending.length + lost.length;
		// What goes on in mid-connection has been ended, and is to hear of it.
		if (ended > 0) context.adopt = false;
		this.#say(`configuration in force${ended > 0 ? `, ${ended} sessions ended` : ""}`);
		const waiting = this.#switchOffload(before.offload);
		if (plan.sessions !== table.layout.sessions)
			waiting.push(
				`option sessions '${plan.sessions}' needs a restart, which keeps the sessions; until then there is room for ${table.layout.sessions}`,
			);
		for (const text of waiting) this.#say(text);
		return waiting;
	}

	/** Follows option offload, which was `before`; returns why that has to wait, in a sentence. */
	#switchOffload(before: Plan["offload"]): string[] {
		const { offload } = this.plan;
		if (offload === "off") {
			// What went by the kernel comes home.
			this.#offload?.close();
			this.#offload = null;
			this.#noOffload = "";
			this.table.bypass = null;
			this.context.ipIds = 0xffff;
			return [];
		}
		if (this.#offload !== null || (offload === before && this.#noOffload !== OFFLOAD_WAITS)) return [];
		if (!native.hasCapability(CAP_BPF)) {
			this.#noOffload = OFFLOAD_WAITS;
			return [`option offload '${offload}' needs a restart, which keeps the sessions`];
		}
		try {
			this.#startOffload();
			return [];
		} catch (error) {
			return [(error as Error).message];
		}
	}

	/** Closes the ports that a plan has not, or has otherwise, and makes those that are new. Returns LAN port numbers as they were, by those that are now. */
	#replacePorts(plan: Plan): number[] {
		if (plan.wan.device !== this.wan.name) {
			this.#closePort(this.wan);
			this.wan.name = plan.wan.device;
			this.wan.index = 0;
		}
		const old = [...this.lan];
		const fresh = lansOf(plan, old);
		for (const p of old) {
			if (fresh.includes(p)) continue;
			p.routes?.remove();
			p.routes = null;
			this.#closePort(p);
		}
		this.lan.splice(0, old.length, ...fresh);
		this.context.lan.splice(0, old.length, ...fresh.map((p) => p.link));
		return fresh.map((p) => old.indexOf(p));
	}

	/** Gives the hosts their policy and their LAN port's number, which were others: `places` as {@link #replacePorts} returns them. */
	#replaceHosts(places: readonly number[]): void {
		const { hosts, context } = this;
		const { W } = hosts;
		const keeper = this.#keeper(context.policy, this.externals.list, this.plan);
		for (let host = 1; host <= this.table.layout.hosts; host++) {
			if (hosts.sessions(host) === 0) continue;
			const w = host * 4 + HOST_PLACE;
			const flags = context.policy.hosts.get(W[host * 4])?.flags ?? context.policy.filtering;
			W[w] = (W[w] & ~(HOST_EIF | HOST_ADF)) | flags;
			if ((this.externals.list[hosts.paired(host)]?.pool ?? -1) < 0) hosts.pair(host, 0);
			const port = places.indexOf((W[w] >>> HOST_PORT_SHIFT) & 0xff);
			const now = lanOf(context.lan, W[host * 4], port);
			// One whose device has lost its addresses is where it was.
			if (port >= 0 && (now < 0 || now === context.lan[port].home)) hosts.assign(host, context.lan[port].home);
			else keeper.placeHost(host);
		}
	}

	// ---- keeping in step with the kernel -----------------------------------------------------------------------------------

	/** Reads indexes, MACs, MTUs and addresses of the ports from the kernel's tables. */
	#readLinks(): void {
		for (const p of [this.wan, ...this.lan]) {
			const link = this.kernel.linkByName(p.name);
			const index = link?.index ?? 0;
			if (index !== p.index && p.driver !== null && !(isLan(p) && p.kind === "tun")) this.#closePort(p);
			p.index = index;
			p.link.mtu = link?.mtu ?? 1500;
			p.link.ethernet = link !== undefined && link.type === ARPHRD_ETHER && !(isLan(p) && p.kind === "tun");
			if (link !== undefined && p.link.ethernet && link.mac !== null) p.link.mac = link.mac;
			const own = this.kernel.addresses(index);
			p.link.address = own.length > 0 ? swap32(own[0].address) : 0;
			if (isLan(p)) {
				const nets = p.subnets.length > 0 ? p.subnets : own.map((a) => subnetOf(a.address, a.prefix));
				p.link.nets = nets.map(netOf);
			}
			this.#renewSource(p);
		}
		findSoleNets(this.context.lan);
		this.#judgeConflict();
	}

	/** The LANs' subnets as a text that is another one when they are. */
	#lanNets(): string {
		return JSON.stringify(this.context.lan.map((lan) => lan.nets));
	}

	/** A WAN whose subnet overlaps a LAN's counts as one without address: whom a packet is for could not be told (RFC 4787 REQ-7). */
	#judgeConflict(): void {
		const before = this.conflict;
		this.conflict = "";
		for (const { address, prefix } of this.kernel.addresses(this.wan.index)) {
			const outside = subnetOf(address, prefix);
			for (const p of this.lan) {
				const net = p.link.nets.find((n) => subnetsOverlap(outside, subnetOfNet(n)));
				if (net === undefined) continue;
				this.conflict = `the WAN's subnet ${formatSubnet(outside)} overlaps ${formatNet(net)} of ${p.name}`;
			}
		}
		if (this.conflict !== "") this.wan.link.address = 0;
		if (this.conflict === before) return;
		if (this.conflict !== "") this.#say(`${this.conflict}: nothing is translated until one of them is another`);
		else this.#say("WAN and LAN subnets are apart again");
	}

	/** Link headers carry the port's own MAC, which may have changed. */
	#renewSource(p: Port): void {
		const { headers } = this.context;
		if (!isLan(p)) headers.setSource(0, HOST_HEADERS - 1, p.link.mac);
		else if (this.lan.length === 1) headers.setSource(HOST_HEADERS, HOST_HEADERS + this.table.layout.hosts, p.link.mac);
		else {
			const number = this.lan.indexOf(p);
			for (let host = 1; host <= this.table.layout.hosts; host++) {
				const place = this.hosts.W[host * 4 + HOST_PLACE];
				if (((place >>> HOST_PORT_SHIFT) & 0xff) === number) headers.setSource(HOST_HEADERS + host, HOST_HEADERS + host, p.link.mac);
			}
		}
	}

	/** Goes on with the sessions that a predecessor left, or begins with none. Returns true if there was one. */
	#takeOver(): boolean {
		const { table, context } = this;
		this.#slowPath.takeOver(this.#boot);
		const state = this.#state as State;
		this.#state = null;
		let { refused } = state;
		if (state.image !== null) {
			table.addresses.set(state.image.addresses);
			const done = this.#restore(state.image);
			if (done === null) {
				refused = "its records are damaged";
				table.clear();
				this.hosts.clear();
				this.#applyPolicy(this.plan, 0, new Int32Array(0));
			} else if (done.kept + done.unfit + done.broken + done.excess > 0) this.#say(restoredWords(done));
		}
		if (refused !== "") {
			this.#say(`${this.paths.state} is not used, ${refused}: starting with no sessions`);
			context.strangersFrom = context.now + PORT_REST;
		}
		if (state.homeless !== "") this.warnings.push(`no room for the state, sessions will not outlive masqd: ${state.homeless}`);
		table.publish(this.#boot, this.externals.A, context.now);
		if (state.pending !== "") native.rename(state.pending, this.paths.state);
		return state.image !== null;
	}

	/** Tells who listens that the WAN's address is another one. */
	#tellAddress(address: number): void {
		if (address === this.#told) return;
		const before = this.#told;
		this.#told = address;
		if (this.#control === null) return;
		const text = (word: number) => (word === 0 ? "" : addressText(word));
		this.watch.tell({ event: "wan-address", before: text(before), after: text(address) } as { event: string });
		if (address === 0) this.log.say("warning", `wan ${this.wan.name} has lost its address ${addressText(before)}; sessions wait for it`);
		else if (before === 0) this.log.say("notice", `wan ${this.wan.name} has address ${addressText(address)}`);
	}

	/** Somebody has cut the state file: its records are gone, and zeros stand for them (`mapFile`). Goes on with no sessions. */
	#startAnew(): void {
		const { table, externals, context } = this;
		if (this.#offload !== null) for (let i = 1; i <= table.layout.sessions; i++) this.#offload.ended(i);
		table.clear();
		this.hosts.clear();
		this.#applyPolicy(this.plan, externals.A[0], externals.A.slice());
		context.strangersFrom = context.now + PORT_REST;
		context.adopt = true;
		table.publish(this.#boot, externals.A, context.now);
		this.log.say("error", `somebody has cut ${this.paths.state} short: its sessions are lost, new ones go on`);
	}

	#restore(image: Image): Restored | null {
		const keeper = this.#keeper(this.context.policy, this.externals.list, this.plan);
		return restore(
			this.table,
			image,
			this.context.now,
			(i) => keeper.adopt(i),
			(i) => this.admission.end(i, "timeout"),
		);
	}

	#keeper(policy: Policy, externals: readonly External[], plan: Plan): Keeper {
		return new Keeper(this.context, {
			policy,
			externals,
			exempts: plan.exempts.map((e) => netOf(e.destination)),
			nets: this.lan.flatMap((p) => p.link.nets),
		});
	}

	/** Puts a plan's policy in force, with new external addresses; the router's own ports are kept out of it. */
	#applyPolicy(plan: Plan, own: number, before: Int32Array): void {
		const { context, externals } = this;
		context.policy = this.#policy(plan, own, before);
		// Ports that are promised to somebody.
		for (const f of context.requested) externals.reservePort(0, f.protocol, f.first);
		for (const e of context.expectations.pending) {
			if (e.owner && e.external < externals.list.length) externals.reservePort(e.external, e.protocol, swap16(e.externalPort));
		}
		this.#keepOwnPorts(plan.ports);
	}

	/** The WAN port's address is `address`, 0 for none: sessions of another one before move to it, TCP is reset towards the LAN. */
	#setExternal(address: number): void {
		const before = this.externals.A[0];
		this.#tellAddress(address);
		this.#judgeImpaired();
		if (address === 0) {
			this.#hops.giveUp();
			return;
		}
		if (this.plan.lan.some((l) => l.pcp) && this.#requested.follow(address)) this.#announcements.begin(this.#milliseconds);
		if (before === address) return;
		if (before === 0) {
			this.externals.setAddress(0, address);
			this.table.addresses[0] = address;
			return;
		}
		this.#flush();
		this.#hops.giveUp();
		let slot = 0;
		const done = readdress(this.context, this.admission, address, (i) => {
			const length = sessionReset(this.context, i, slot * SLOT_SIZE);
			if (length === 0) return;
			this.#toInside(i, slot * SLOT_SIZE, length);
			slot = (slot + 1) % BATCH;
			if (slot === 0) this.#flush();
		});
		this.#flush();
		this.#say(
			`the WAN's address is ${addressText(address)} now, it was ${addressText(before)}: ${done.moved} sessions moved, ${done.ended} ended`,
		);
	}

	/** Queues a frame that was made for the inside host of a session. */
	#toInside(i: number, slot: number, length: number): void {
		const { hosts, context } = this;
		const host = this.table.T16[(i << 5) + R_HOST];
		const place = hosts.W[host * 4 + HOST_PLACE];
		if ((place & HOST_REACHABLE) === 0) this.#hops.holdInside(host, slot, length);
		else if (!this.lan[(place >>> HOST_PORT_SHIFT) & 0xff].link.queue.push(slot, length, headerTag(HOST_HEADERS + host))) {
			context.dropLog.add(REASON["queue-full"], slot, -1, context.now);
			return;
		}
		context.resetsSent++;
	}

	#judgeImpaired(): void {
		this.#impaired = this.wan.link.address === 0 || this.#unroutable;
	}

	/** One line for the log. */
	#say(text: string): void {
		this.log.say("notice", text);
	}

	/** Opens the packet sockets of devices that are there, and up, and have none. */
	#openDrivers(): void {
		let problem: unknown = null;
		for (const p of [this.wan, ...this.lan]) {
			if (p.driver !== null || p.index === 0 || !this.#isGuarded(p)) continue;
			try {
				this.#openDriver(p);
			} catch (error) {
				// Down: the kernel tells when it is up.
				if ((error as native.NativeError).code !== "ENETDOWN") problem ??= error;
			}
		}
		if (problem !== null) throw problem;
	}

	/** Whether the kernel is kept off a port's packets; one where it is not is opened when it is. */
	#isGuarded(p: Port): boolean {
		const guarded = this.#guard.covers(p.name, !isLan(p) ? "" : p.kind === "packet" ? "packet" : "tun");
		this.#unguarded ||= !guarded;
		return guarded;
	}

	#openDriver(p: Port): void {
		const setting = `${GRO_LIST} ${p.name}`;
		const tap = isLan(p) && p.kind === "tap";
		if (!tap && native.getFeature(p.name, GRO_LIST) === true) {
			this.#settings.remember(setting, "on");
			native.setFeature(p.name, GRO_LIST, false);
		}
		p.restoreGro = this.#settings.original(setting) !== undefined;
		const raw = takesRaw(native, this.kernel.linkByName(p.name)?.type ?? -1, p.name);
		const device = { ifindex: p.index, ethernet: p.link.ethernet, raw };
		p.driver = new PacketDriver(device, this.#filterOf(p), this.#rx, this.context.views, this.#segmentsAt);
	}

	#claimed(): ClaimedPorts[] {
		const ranges = [TCP, UDP].flatMap((proto) => this.ownPorts.rangesOf(proto, this.plan.ports, true).map((r) => ({ proto, ...r })));
		return [...ranges, ...this.context.policy.forwards.map((f) => ({ proto: f.protocol, first: f.first, last: f.last }))];
	}

	#elsewhere(most = Number.POSITIVE_INFINITY): Subnet[] {
		const routed = this.kernel.subnetsNotVia(this.wan.index);
		return [...(routed.length <= most ? routed : []), ...this.plan.exempts.map((e) => e.destination)];
	}

	#ownedExternals(): AddressRange[] {
		return this.externals.list
			.slice(1)
			.filter((x) => x.address !== 0)
			.map((x) => ({ first: swap32(x.address) >>> 0, last: swap32(x.address) >>> 0 }));
	}

	/** Answers ARP for the external addresses that no interface has; anew when they, the device or its MAC have changed. */
	#openArp(): void {
		const ranges = this.#arpRanges();
		const wanted = ranges.length > 0 && this.wan.index !== 0 && this.wan.link.ethernet;
		const text = wanted ? JSON.stringify([this.wan.index, [...this.wan.link.mac], ranges]) : "";
		if (text === this.#arpText) return;
		this.#arp?.close();
		this.#arp = null;
		this.#arpText = "";
		if (!wanted) return;
		try {
			this.#arp = new ArpResponder(this.wan.index, ranges, this.wan.link.mac);
			this.#arpText = text;
		} catch (error) {
			// Down: the kernel tells when it is up.
			if ((error as native.NativeError).code !== "ENETDOWN") throw error;
		}
	}

	#arpRanges(): AddressRange[] {
		return this.#ownedExternals().filter((r) => !this.kernel.ownAddresses().includes(r.first));
	}

	#externalAddresses(): number[] {
		const own = this.wan.link.address;
		return own === 0 ? [] : [swap32(own) >>> 0];
	}

	#filterOf(p: Port): Int32Array {
		const claimed = this.#claimed();
		const externals = this.#externalAddresses();
		const { ethernet } = p.link;
		if (!isLan(p)) return wanFilter({ ethernet, externals, owned: this.#ownedExternals(), claimed });
		const expiringOnly = p.kind === "tap";
		return lanFilter({
			ethernet,
			ownAddresses: this.kernel.ownAddresses(),
			elsewhere: this.#elsewhere(FILTER_ROUTES),
			externals,
			claimed,
			expiringOnly,
		});
	}

	#guardFacts(): GuardFacts {
		return {
			lan: this.lan.flatMap((p) =>
				p.kind === "tap" ? [] : [{ device: p.name, driver: p.kind, tun: p.tun, nets: p.link.nets.map(subnetOfNet) }],
			),
			wanDevice: this.wan.name,
			externals: this.#externalAddresses(),
			ownedExternals: this.#ownedExternals(),
			portRanges: this.plan.ports,
			rangesOf: (proto) => this.ownPorts.rangesOf(proto, this.plan.ports),
			forwards: this.context.policy.forwards.map((f) => ({ proto: f.protocol, first: f.first, last: f.last })),
			elsewhere: this.#elsewhere(),
			inside: this.lan.flatMap((p) => p.link.nets.map(subnetOfNet)),
			ownAddresses: this.kernel.ownAddresses(),
			pcp: this.plan.lan.filter((l) => l.pcp).map((l) => l.device),
			exemptDestinations: this.plan.exempts.map((e) => e.destination),
		};
	}

	/** The guard is as it is to be: ports that have waited for it are opened. */
	#guardInForce(deleted: boolean): void {
		if (deleted) this.log.often("warning", "guard", `the nft table ${GUARD_TABLE} was deleted; it is there again`, this.#milliseconds);
		if (!this.#unguarded) return;
		this.#unguarded = false;
		this.#behind = true;
	}

	/** Answers PCP on the LAN devices as they are now. */
	#openPcp(): void {
		const places = this.lan.flatMap((p, port) => {
			const link = p.kind === "tap" || !p.link.pcp ? undefined : this.kernel.linkByName(p.name);
			if (link === undefined || link.type !== ARPHRD_ETHER || link.mac === null) return [];
			const addresses = this.kernel.addresses(link.index).map(({ address }) => address);
			return addresses.length === 0 ? [] : [{ port, ifindex: link.index, mac: link.mac, addresses }];
		});
		const follows = this.#pcp.follow(places);
		const deaf = this.#pcp.responders.some(({ fd, place }) => fd < 0 && this.kernel.links.get(place.ifindex)?.up);
		if (deaf) this.#behind = true;
		if (follows && this.#requestedAnew) this.#announcements.begin(this.#milliseconds);
	}

	/** Who leads to a host on a device, for {@link PcpServer}. */
	#leaderTo(ifindex: number, host: number): { mac: Uint8Array; sure: boolean } | null {
		const known = this.kernel.neighbour(ifindex, this.#leaderAddress(ifindex, host));
		return known !== undefined && isUsable(known) ? { mac: known.mac as Uint8Array, sure: isConfirmed(known) } : null;
	}

	#askFor(ifindex: number, host: number): void {
		try {
			this.kernel.resolve(ifindex, this.#leaderAddress(ifindex, host));
		} catch {
			// The device is going away; the host asks again.
		}
	}

	/** Tells the hosts of all LAN devices of lost mappings or another external address. */
	#announce(): void {
		this.#pcp.announce(addressValue(this.externals.A[0]));
		this.#announcements.told(this.#milliseconds);
	}

	/** Puts back what others have taken from the TUN devices: one that was deleted is made again. */
	#keepTuns(): void {
		try {
			for (const p of this.lan) {
				if (p.routes?.alive) p.routes.renew();
				else if (p.routes !== null) {
					p.routes.remove();
					p.routes = null;
					this.#closePort(p);
				}
			}
			this.#openTuns();
		} catch (error) {
			this.#behind = true;
			this.log.often("warning", "tun", (error as Error).message, this.#milliseconds);
		}
	}

	/** Takes the kernel's news. */
	#kernelNews(): void {
		const again = this.#behind;
		this.#behind = true;
		const changes = this.kernel.drain();
		this.#neighbourNews.push(...changes.neighbours);
		this.#behind = false;
		try {
			this.#follow(again ? { ...changes, links: true, addresses: true, routes: true, rules: true } : changes);
		} catch (error) {
			this.#behind = true;
			throw error;
		}
	}

	#follow(changes: Changes): void {
		if (changes.links || changes.rules) this.#keepTuns();
		if (changes.links) this.#yieldProtocols();
		if (changes.links || changes.addresses || changes.routes) {
			const { index } = this.wan;
			const { mtu } = this.wan.link;
			const nets = this.#lanNets();
			this.#readLinks();
			if (this.#lanNets() !== nets) this.#replaceHosts(this.lan.map((_, port) => port));
			if (this.wan.index !== index) this.#hops.reset();
			this.#hops.routesChanged();
			this.#openQuietly();
			this.#setExternal(this.wan.link.address);
			if (this.wan.link.mtu !== mtu) this.#resizeTuns();
			this.#inStep();
		} else if (changes.filters && this.#offload !== null) this.#renewOffloadQuietly();
		if (changes.links || changes.addresses || changes.routes || changes.rules) this.#tellRouting();
		const neighbours = this.#neighbourNews;
		this.#hops.update(neighbours);
		for (const { ifindex } of neighbours) this.#pcp.neighbourChanged(ifindex);
		if (this.#offload !== null) {
			for (const n of neighbours) this.#offload.neighbourChanged(n.ifindex, n.address, isUsable(n) ? n.mac : null);
		}
		this.#neighbourNews = [];
	}

	/** What the router itself speaks by now in protocols without ports is its own. */
	#yieldProtocols(): void {
		this.#routerProtocols.changed();
		const ended = yieldToRouter(this.context, this.admission);
		if (ended > 0) this.#say(`${ended} sessions ended: the router itself speaks their protocol with their peers now`);
	}

	/** Tells filters, routes and guard what is to be masqd's, and the sessions where to go. */
	#inStep(): void {
		this.#renewFilters();
		for (const p of this.lan) this.#step(`routes of ${p.name}`, () => p.routes?.update(this.#elsewhere()));
		this.#step("guard", () => this.#guard.keep());
		this.#step("pcp sockets", () => this.#openPcp());
		this.#renewHops();
		this.#renewOffloadQuietly();
		this.#offload?.routesChanged();
		this.#step("device warnings", () => this.#tellOfDevices());
	}

	#renewFilters(): void {
		for (const p of [this.wan, ...this.lan]) this.#step(`filter of ${p.name}`, () => p.driver?.filter(this.#filterOf(p)));
	}

	/** Does a part of what the kernel's news asks for; one that fails does not keep the others, and is tried again. */
	#step(name: string, action: () => void): void {
		if (!this.barrier.attempt(name, action)) this.#behind = true;
	}

	/** Somebody has changed nftables. A guard that has gone with that is put back at once. */
	#guardNews(): void {
		const watch = this.#guardWatch;
		if (watch === null) return;
		let gone = true;
		try {
			gone = watch.drain("masqd");
		} finally {
			if (gone) this.#guard.deleted();
		}
		// Chains of others on the ports may have come or gone.
		if (watch.chains && this.#offload !== null) this.#renewOffloadQuietly();
		watch.chains = false;
	}

	/** The TUN devices take what fits the WAN. */
	#resizeTuns(): void {
		if (this.wan.index === 0) return;
		for (const { tun, routes } of this.lan) {
			const link = routes === null ? undefined : this.kernel.linkByName(tun);
			if (link === undefined) continue;
			try {
				this.kernel.setLinkUp(link.index, this.wan.link.mtu, tunQueue(this.plan));
			} catch (error) {
				this.#behind = true;
				this.log.often("warning", "tun mtu", `${tun}: ${(error as Error).message}`, this.#milliseconds);
			}
		}
	}

	#openQuietly(): void {
		try {
			this.#openDrivers();
			this.#step("arp socket", () => this.#openArp());
		} catch (error) {
			this.#behind = true;
			this.log.often("warning", "open", `${(error as Error).message}; waiting for the device`, this.#milliseconds);
		}
	}

	/** Routes changed: every session looks up its next hop again. */
	#renewHops(): void {
		const { T } = this.table;
		this.#unroutable = false;
		for (let i = 1; i <= this.table.layout.sessions; i++) {
			if (this.table.state(i) === 0) continue;
			const e = (i << 4) + R_META;
			if (T[e] >>> HOP_SHIFT === HAIRPIN) continue;
			const hop = this.#hops.find(T[(i << 4) + R_PEER]);
			if (hop === NO_ROUTE) this.#unroutable = true;
			if (T[e] >>> HOP_SHIFT !== Math.max(0, hop)) this.#offload?.hopChanged(i);
			T[e] = (T[e] & ~(0xff << HOP_SHIFT)) | (Math.max(0, hop) << HOP_SHIFT);
		}
		this.#judgeImpaired();
	}

	// ---- the loop ------------------------------------------------------------------------------------------------------------

	/** Runs until SIGTERM, SIGINT or SIGUSR1. */
	run(): void {
		const set = this.#pollSet;
		let empty = 0;
		let turns = 0;
		const { header } = this.table;
		while (!this.#stopping) {
			if (header[H_MAGIC] === 0) this.barrier.attempt("lost state", this.#steps.lostState);
			// Under one stream of super-packets masqd wakes for every few of them, so that what a wake-up costs counts like what a packet does.
			const polled = empty > SPIN || ++turns === POLL_TURNS;
			if (polled) {
				this.#poll(empty > SPIN ? this.#timeout() : 0);
				turns = 0;
			} else this.#readClock();
			let moved = polled && set[2] === 0 ? 0 : this.#breatheWan();
			for (let n = 0; n < this.lan.length; n++) if (!polled || set[n * 3 + 5] !== 0) moved += this.#breatheLan(n);
			empty = moved === 0 ? empty + 1 : 0;
			this.#flushRest();
			if (this.#milliseconds >= this.#placement.dueAt) this.barrier.attempt("placement", this.#steps.placement);
			if (this.#milliseconds >= this.#announcements.dueAt) this.barrier.attempt("announcements", this.#steps.announcements);
			if (this.#milliseconds >= this.#yieldAt && !this.#sockets.busy) this.barrier.attempt("own ports", this.#steps.ownPorts);
			if (this.#milliseconds >= this.#secondAt) this.#everySecond();
			else if (this.admission.overdue) this.admission.expire(EXPIRE_BUDGET);
		}
	}

	#framesReceived(): number {
		let frames = this.wan.received;
		for (const p of this.lan) frames += p.received;
		return frames;
	}

	#readClock(): void {
		this.#milliseconds = native.now();
		const now = Math.floor(this.#milliseconds / 1000);
		this.context.now = now;
		this.context.now16 = now & 0xffff;
	}

	/** What runs behind the barrier besides the batches: steps of a turn, and those of a second in their order. */
	readonly #steps = {
		placement: () => this.#placement.look(this.#milliseconds, this.#framesReceived()),
		announcements: () => this.#announce(),
		signals: () => this.#signalled(),
		kernelNews: () => this.#kernelNews(),
		arp: () => this.#arp?.serve(),
		guard: () => this.#guardNews(),
		nft: () => {
			this.#guard.look();
			if (this.#behind) this.#kernelNews();
		},
		ownPorts: () => this.#lookAtSockets(),
		sockets: () => this.#yieldPorts(),
		pcp: () => {
			const { responders } = this.#pcp;
			for (let k = 0; k < responders.length; k++) if (this.#pollSet[(this.#fixed + 6 + k) * 3 + 2] !== 0) responders[k].serve();
		},
		lostState: () => this.#startAnew(),
		control: () => this.#control?.serve(this.#pollSet, this.#controlAt, this.#framesReceived()),
	};
	readonly #everySecondSteps: readonly (readonly [string, () => void])[] = [
		["placement", () => this.#placement.rest(this.#milliseconds)],
		["offload timer", () => this.#offload?.everySecond()],
		["expiry", () => this.admission.expire(EXPIRE_BUDGET)],
		["slow path timer", () => this.#slowPath.everySecond()],
		["requested ports timer", () => this.#requested.expire()],
		["kernel news", () => this.#behind && this.#kernelNews()],
		["guard timer", () => this.#guard.wanting && this.#guard.keep()],
		["own protocols timer", () => this.#lookForOwnProtocols()],
		["next hops timer", () => this.#hops.waiting > 0 && this.#hops.flush()],
		["next hops confirmation", () => this.#hops.everySecond()],
		["tun queue", () => this.#countOverruns()],
		["rates", () => this.rates.tick()],
		["limits", () => this.#tellLimits()],
		["log timer", () => this.log.tick(this.#milliseconds)],
		["control timer", () => this.#control?.tick(this.#milliseconds)],
		["memory timer", () => this.#releaseMemory()],
	];

	#everySecond(): void {
		this.#secondAt = (this.context.now + 1) * 1000;
		this.table.header[H_CLOCK] = this.context.now;
		for (const [step, action] of this.#everySecondSteps) this.barrier.attempt(step, action);
		this.#flushRest();
	}

	/** What the queues of the TUN devices had no room for, of which masqd has seen nothing. */
	#countOverruns(): void {
		for (const { driver } of this.lan) if (driver instanceof TunDriver) this.context.drops[REASON["tun-queue"]] += driver.overruns();
	}

	#lookForOwnProtocols(): void {
		if (this.table.count(OTHER) > 0 && this.context.now % YIELD_PROTOCOLS_SECONDS === 0) this.#yieldProtocols();
	}

	#tellLimits(): void {
		for (const { reason, text, count } of this.watch.limits()) this.log.often("warning", reason, text, this.#milliseconds, count);
	}

	#releaseMemory(): void {
		// One batch of 64 super-packets would else keep 4 MB for as long as there is traffic.
		let stretched = this.wan.driver?.stretched() ?? false;
		for (const p of this.lan) if (p.driver?.stretched()) stretched = true;
		if (stretched) native.releasePages(this.#frames, BATCH_LARGE * SLOT_SIZE, (BATCH - BATCH_LARGE) * SLOT_SIZE);
		if (this.#busyAt !== 0 && this.#milliseconds - this.#busyAt > IDLE_RELEASE_SECONDS * 1000) {
			// Fragments that wait stay.
			native.releasePages(this.#frames, 0, this.#slowPath.fragments.waiting > 0 ? RECEIVE_BYTES : this.#frames.byteLength);
			this.#busyAt = 0;
		}
	}

	/** Waits for something to do for at most `timeout` ms; serves everything but the ports, which are the first entries of the poll set: the WAN's, then those of the LANs. */
	#poll(timeout: number): void {
		const set = this.#pollSet;
		watch(set, 0, this.wan.driver === null ? -1 : this.wan.driver.fd);
		let fixed = 1;
		for (let k = 0; k < this.lan.length; k++) {
			const { driver } = this.lan[k];
			watch(set, fixed++, driver === null ? -1 : driver.fd);
		}
		watch(set, fixed, this.#signals);
		watch(set, fixed + 1, this.kernel.fd);
		watch(set, fixed + 2, this.#arp === null ? -1 : this.#arp.fd);
		watch(set, fixed + 3, this.#guardWatch === null ? -1 : this.#guardWatch.fd);
		watch(set, fixed + 4, this.#sockets.fd);
		watch(set, fixed + 5, this.#guard.fd);
		let n = fixed + 6;
		const { responders } = this.#pcp;
		for (let k = 0; k < responders.length; k++) watch(set, n++, responders[k].fd);
		this.#fixed = fixed;
		this.#controlAt = n;
		if (this.#control !== null) n = this.#control.pollEntries(set, n, this.#milliseconds);
		const { barrier } = this;
		const steps = this.#steps;
		try {
			native.poll(set, n, timeout);
			if (barrier.ailing) barrier.passed("poll");
		} catch (error) {
			// Whatever is there is found by looking.
			for (let k = 0; k < n; k++) set[k * 3 + 2] = native.POLLIN;
			this.#readClock();
			barrier.failed("poll", error);
		}
		this.#readClock();
		if (set[fixed * 3 + 2] !== 0) barrier.attempt("signals", steps.signals);
		if (set[fixed * 3 + 5] !== 0 || this.#milliseconds >= this.kernel.pendingAt()) barrier.attempt("kernel news", steps.kernelNews);
		if (set[fixed * 3 + 8] !== 0) barrier.attempt("arp", steps.arp);
		if (set[fixed * 3 + 11] !== 0) barrier.attempt("guard watch", steps.guard);
		if (set[fixed * 3 + 17] !== 0 || this.#milliseconds >= this.#guard.dueAt) barrier.attempt("guard", steps.nft);
		// Files have no descriptor to wait for.
		if (this.#sockets.busy && (this.#sockets.fd < 0 || set[fixed * 3 + 14] !== 0)) barrier.attempt("own ports", steps.sockets);
		if (responders.length > 0) barrier.attempt("pcp", steps.pcp);
		if (this.#control !== null) barrier.attempt("control", steps.control);
	}

	/** Milliseconds that the loop may sleep. */
	#timeout(): number {
		if (this.admission.overdue) return 0;
		// Serving the control socket takes time.
		this.#readClock();
		const now = this.#milliseconds;
		if (this.#sockets.busy && this.#sockets.fd < 0) return 0;
		// Nothing to expire, nothing waiting: sleep until the hops want confirming.
		const idle =
			this.table.used === 0 &&
			this.#hops.waiting === 0 &&
			this.#busyAt === 0 &&
			!this.#guard.wanting &&
			!this.#slowPath.pending &&
			!this.#behind &&
			!this.#requested.pending
				? 30_000
				: this.#secondAt - now;
		const control = this.#control === null ? idle : this.#control.dueIn(now);
		return Math.ceil(
			Math.max(
				0,
				Math.min(
					idle,
					this.kernel.pendingAt() - now,
					control,
					this.#announcements.dueAt - now,
					this.#guard.dueAt - now,
					this.#sockets.busy ? idle : this.#yieldAt - now,
				),
			),
		);
	}

	#signalled(): void {
		for (let signal = native.signalRead(this.#signals); signal !== 0; signal = native.signalRead(this.#signals)) {
			if (signal === SIGTERM || signal === SIGINT || signal === native.SIGUSR1) this.#stopping = true;
			if (signal === native.SIGUSR1) this.#relieved = true;
			if (signal === SIGHUP) {
				const { errors } = this.reload();
				for (const line of errors) this.log.say("error", line);
				if (errors.length > 0) this.#say("reload: the configuration stays as it was");
			}
		}
	}

	#breatheLan(n: number): number {
		const p = this.lan[n];
		const meter = this.meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		let count = 0;
		try {
			count = this.#receive(p);
			if (count === 0) return 0;
			this.#untranslated = count;
			const t1 = meter === null ? 0 : native.nanoseconds();
			if (this.#impaired) this.#outboundImpaired(count, n);
			else this.#fast.outbound(this.#rx, count, n);
			this.#untranslated = 0;
			if (meter !== null) this.#measure(meter, count, t0, t1);
			// Everything, before the slots are received into again: errors and hairpinned packets go back to a LAN.
			this.#flush();
			if (this.barrier.ailing) this.barrier.passed(p.name);
		} catch (error) {
			this.#lose(n);
			this.barrier.failed(p.name, error);
		}
		return count;
	}

	/** A batch has thrown, which came from LAN port `came` or the WAN (-1): its frames, and what is queued anywhere, are lost. */
	#lose(came: number): void {
		const { dropLog, now } = this.context;
		const reason = REASON["internal-error"];
		const ofBatch = this.#untranslated;
		this.#untranslated = 0;
		for (let n = 0; n < ofBatch; n++) dropLog.add(reason, this.#rx[n * 2], came, now);
		for (const p of [this.wan, ...this.lan]) {
			const { queue } = p.link;
			for (let n = 0; n < queue.count; n++) {
				const slot = queue.pairs[n * 2];
				// Those of the batch have been counted.
				if (ofBatch === 0 || slot >= BATCH * SLOT_SIZE) dropLog.add(reason, slot, isLan(p) ? -1 : 0, now);
			}
			queue.count = 0;
		}
	}

	#outboundImpaired(count: number, port: number): void {
		const rx = this.#rx;
		const fault = this.impaired ?? -1;
		for (let n = 0; n < count; n++) this.#slowPath.outboundImpaired(rx[n * 2], rx[n * 2 + 1], port, fault);
	}

	#breatheWan(): number {
		const meter = this.meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		let count = 0;
		try {
			count = this.#receive(this.wan);
			if (count === 0) return 0;
			this.#untranslated = count;
			const t1 = meter === null ? 0 : native.nanoseconds();
			this.#fast.inbound(this.#rx, count);
			this.#untranslated = 0;
			if (meter !== null) this.#measure(meter, count, t0, t1);
			this.#flush();
			if (this.barrier.ailing) this.barrier.passed(this.wan.name);
		} catch (error) {
			this.#lose(-1);
			this.barrier.failed(this.wan.name, error);
		}
		return count;
	}

	#measure(meter: Meter, count: number, t0: number, t1: number): void {
		meter.jsNs += native.nanoseconds() - t1;
		meter.ioNs += t1 - t0;
		meter.packets += count;
		meter.batches++;
	}

	#receive(p: Port): number {
		if (p.driver === null) return 0;
		let count = 0;
		try {
			count = p.driver.receive();
		} catch (error) {
			this.#portFailed(p, error as native.NativeError);
			return 0;
		}
		if (count > 0) {
			p.received += count;
			this.#busyAt = this.#milliseconds;
		}
		return count;
	}

	/** A port reported an error: if its device is gone the socket is closed until it is back, else (link down) it stays. */
	#portFailed(p: Port, error: native.NativeError): void {
		this.#kernelNews();
		if (p.driver !== null && this.kernel.linkByName(p.name)?.index !== p.index) this.#closePort(p);
		if (error.code !== "ENETDOWN") this.log.often("warning", `port ${p.name}`, `${p.name}: ${error.message}`, this.#milliseconds);
	}

	/** Sends what is queued anywhere: errors that a batch caused on the other side, frames that had waited. */
	#flush(): void {
		if (this.wan.link.queue.count > 0) this.#sendWan();
		for (let n = 0; n < this.lan.length; n++) if (this.lan[n].link.queue.count > 0) this.#send(this.lan[n]);
	}

	/** Sends what is queued besides a batch: what the kernel's news or a second's work has released. */
	#flushRest(): void {
		try {
			this.#flush();
			if (this.barrier.ailing) this.barrier.passed("send");
		} catch (error) {
			this.#lose(-1);
			this.barrier.failed("send", error);
		}
	}

	/** The WAN's last gate: no frame leaves whose source is not one of our addresses. */
	#sendWan(): void {
		if (!sourcesAreOurs(this.context)) this.#dropLeaks();
		this.#send(this.wan);
	}

	#dropLeaks(): void {
		const { queue } = this.wan.link;
		const X = queue.pairs;
		let kept = 0;
		for (let n = 0; n < queue.count << 1; n += 2) {
			if (this.externals.find(this.context.views.P[(X[n] >> 2) + IP_WORD + 3]) < 0) {
				this.context.dropLog.add(REASON.leak, X[n], -1, this.context.now);
				continue;
			}
			X[kept] = X[n];
			X[kept + 1] = X[n + 1];
			kept += 2;
		}
		queue.count = kept >> 1;
	}

	#send(p: Port): void {
		const { queue } = p.link;
		const unsent = isLan(p) ? this.#unsentIn : this.#unsentOut;
		if (p.driver === null) {
			for (let n = 0; n < queue.count; n++) unsent(REASON["send-refused"], queue.pairs[n * 2]);
			queue.count = 0;
			return;
		}
		const meter = this.meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		p.sent += p.driver.send(queue, unsent);
		if (meter !== null) meter.ioNs += native.nanoseconds() - t0;
	}

	/** The line printed when packets can flow. */
	describe(): string {
		const ports = this.lan.filter((p) => p.kind !== "tap");
		const lan = ports.map((p) => `${p.name} (${p.kind}, ${p.link.nets.map((n) => formatNet(n)).join(" ")})`).join(", ");
		const address = this.externals.A[0] === 0 ? "no address yet" : formatAddress(swap32(this.externals.A[0]) >>> 0);
		return `wan ${this.wan.name} ${address}, lan ${lan}, ${this.plan.sessions} sessions in ${this.tableBytes} bytes`;
	}
}

/** Entry `n` of a poll set: a descriptor that something may be read from, -1 for none. */
function watch(set: Int32Array, n: number, fd: native.Fd): void {
	set[n * 3] = fd;
	set[n * 3 + 1] = native.POLLIN;
}

/** Takes the lock of a state file. A program that a killed predecessor had just started may hold it for a moment longer. */
function lockState(path: string): native.Fd {
	for (let waited = 0; ; waited += LOCK_STEP) {
		try {
			return native.lockFile(`${path}.lock`);
		} catch (error) {
			if ((error as native.NativeError).code !== "EAGAIN") throw error;
			if (waited >= LOCK_PATIENCE) throw new StartError(`another masqd is running (it holds ${path}.lock)`);
		}
		native.poll(new Int32Array(0), 0, LOCK_STEP);
	}
}

/** What became of a predecessor's sessions, in a line. */
function restoredWords(r: Restored): string {
	const parts = [`${r.kept} sessions go on`];
	if (r.unfit > 0) parts.push(`${r.unfit} do not fit the configuration any more`);
	if (r.excess > 0) parts.push(`${r.excess} have no room`);
	if (r.broken > 0) parts.push(`${r.broken} were being written when masqd died`);
	return parts.join(", ");
}

function addressText(word: number): string {
	return formatAddress(swap32(word) >>> 0);
}

function isLan(p: Port): p is LanPort {
	return "kind" in p;
}

function makePort(name: string, link: Link): Port {
	return { name, index: 0, driver: null, link, sent: 0, received: 0, restoreGro: false };
}

/** The LAN ports of a plan; those of `old` that it has too stay the same objects. */
function lansOf(plan: Plan, old: readonly LanPort[]): LanPort[] {
	let tuns = 0;
	const port = (l: Plan["lan"][number], kind: LanPort["kind"], home: number): LanPort => {
		const tun = kind === "tun" ? `${TUN_NAME}${tuns++}` : "";
		const same = old.find((p) => p.name === l.device && p.kind === kind && p.tun === tun);
		const link = same?.link ?? { ...emptyLink(), nets: [], kernelForwards: kind === "tun", home, sole: NO_NET, pcp: l.pcp };
		link.home = home;
		link.pcp = l.pcp;
		return Object.assign(same ?? { ...makePort(l.device, link), link, kind, tun, routes: null, subnets: [] }, { subnets: l.subnets });
	};
	const ports = plan.lan.map((l, home) => port(l, l.driver, home));
	// What hosts send to our own address the kernel would not route to the TUN device (hairpinning), and what has its last hop it would not forward
	// (and answer by its own rates, whoever the source): a packet socket hears both.
	for (const [home, l] of plan.lan.entries()) if (l.driver === "tun") ports.push(port(l, "tap", home));
	return ports;
}

function emptyLink(): Link {
	return { ethernet: true, mtu: 1500, address: 0, mac: new Uint8Array(6), queue: new Queue(QUEUE_FRAMES) };
}

function subnetOfNet(net: Net): Subnet {
	const mask = swap32(net.mask) >>> 0;
	return { address: swap32(net.address) >>> 0, mask, prefix: 32 - Math.round(Math.log2(2 ** 32 - mask)) };
}

function formatNet(net: Net): string {
	return formatSubnet(subnetOfNet(net));
}

/** Why the tun drivers of a plan can not be had, "" if they can. */
function tunProblem(plan: Plan): string {
	if (plan.lan.some((l) => l.driver === "tun") && native.fileSize("/dev/net/tun") < 0)
		return "no TUN: /dev/net/tun is missing; install kmod-tun or use option driver 'packet'";
	return "";
}
