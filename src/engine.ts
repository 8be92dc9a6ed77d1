/**
 * The daemon: opens the ports, keeps them in step with the kernel, and breathes: poll, receive a batch, translate it, send it, run due timers, answer
 * the control socket (design.md section 2). Time is read once per turn. Everything that can fail at start fails before the first packet is
 * taken, with one sentence, and what was set up until then is undone.
 */

import * as native from "masq:native";
import type { Plan } from "./config/plan.ts";
import { Hosts } from "./conntrack/hosts.ts";
import type { PortRange } from "./conntrack/ports.ts";
import { EXTERNAL_SHIFT, HOP_SHIFT, HOST_ADF, HOST_EIF, HOST_PLACE, HOST_PORT_SHIFT, R_META, R_PEER } from "./conntrack/record.ts";
import { stateTimeouts } from "./conntrack/states.ts";
import { layoutTable, Table, type TableLayout } from "./conntrack/table.ts";
import type { Capture } from "./control/capture.ts";
import type { Log } from "./control/log.ts";
import { Rates } from "./control/rates.ts";
import { ControlServer } from "./control/server.ts";
import { Watch } from "./control/watch.ts";
import { Admission, EXPIRE_BUDGET } from "./nat/admission.ts";
import { makeAlgCounts } from "./nat/alg.ts";
import {
	BLOCK,
	type Context,
	type Forward,
	HAIRPIN,
	type LanLink,
	type Link,
	makeDrops,
	type Net,
	POLICY_DEFAULTS,
	type Policy,
	Queue,
} from "./nat/context.ts";
import { DropLog } from "./nat/drop-log.ts";
import { Expectations } from "./nat/expectations.ts";
import { Externals, externalsWords } from "./nat/externals.ts";
import { type Fast, makeFast, sourcesAreOurs } from "./nat/fast.ts";
import { HOST_UNREACHABLE, IcmpSender, PROHIBITED } from "./nat/icmp-error.ts";
import { Rare } from "./nat/rare.ts";
import { REASON } from "./nat/reason.ts";
import { Requested } from "./nat/requested.ts";
import { CAP_BPF, CAP_PERFMON, Offload, OffloadError, type OffloadStatus } from "./offload/offload.ts";
import { type AddressRange, formatAddress, formatSubnet, type Subnet, subnetOf } from "./packet/address.ts";
import { IP_WORD, SLOT_SIZE, swap32, TCP, UDP, type Views, viewsOf } from "./packet/layout.ts";
import { HOST_HEADERS, LinkHeaders } from "./packet/link-header.ts";
import { ArpResponder } from "./port/arp-responder.ts";
import { type ClaimedPorts, lanFilter, wanFilter } from "./port/filter.ts";
import { type GuardFacts, installGuard, removeGuard } from "./port/guard.ts";
import { IngressFilters } from "./port/ingress-filter.ts";
import { isUsable, KernelView } from "./port/kernel-view.ts";
import { localPorts, separateEphemeral } from "./port/local-ports.ts";
import { NextHopTable, SPARE_SLOT_SIZE, SPARE_SLOTS } from "./port/neighbours.ts";
import { PcpResponder } from "./port/pcp-responder.ts";
import { Placement } from "./port/placement.ts";
import { BATCH, type Driver, PacketDriver, TunDriver } from "./port/port.ts";
import { TunRoutes } from "./port/tun-routes.ts";

const ARPHRD_ETHER = 1;
const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;
const SIGHUP = 1;
const SIGINT = 2;
const SIGTERM = 15;
const TUN_NAME = "masq0";
const TUN_QUEUE = 2000;
/** Room for a whole batch and the errors it may cause. */
const QUEUE_FRAMES = BATCH * 4;
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
const GRO_LIST = "rx-gro-list";

/** An error that ends the start with one line. */
export class StartError extends Error {}

/** Where the daemon keeps its files. */
export interface Paths {
	config: string;
	socket: string;
	state: string;
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
	subnets: Subnet[];
}

/** Meter of the loop, kept only with MASQD_METER=1: nanoseconds in TypeScript and in the send and receive calls. */
export interface Meter {
	packets: number;
	jsNs: number;
	ioNs: number;
	batches: number;
}

/** Size of the table that a plan gives, without building it. */
export function planTable(plan: Plan): { layout: TableLayout; bytes: number } {
	const poolShared = plan.pools.filter((p) => p.overload).length;
	const layout = layoutTable(plan.sessions, externalsWords(1 + poolShared, plan.ports));
	return { layout, bytes: layout.words * 4 };
}

/** The running daemon. */
export class Engine {
	readonly plan: Plan;
	readonly paths: Paths;
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
	/** The capture that runs, null if none does. */
	capture: Capture | null = null;

	/** The batch functions in use: {@link own}, or a capture's around them. */
	#fast: Fast;
	readonly #own: Fast;
	readonly #rare: Rare;
	readonly #requested: Requested;
	readonly #errors: IcmpSender;
	readonly #hops: NextHopTable;
	readonly #rx = new Int32Array(BATCH * 2);
	readonly #frames: ArrayBuffer;
	readonly #pollSet = new Int32Array(64 * 3);
	readonly #placement = new Placement(native);
	#lock: native.Fd = -1;
	#signals: native.Fd = -1;
	#control: ControlServer | null = null;
	#arp: ArpResponder | null = null;
	/** PCP sockets, and the places (device and address) that they were opened for. */
	#pcp: PcpResponder[] = [];
	#pcpPlaces = "";
	#tunRoutes: TunRoutes | null = null;
	#offload: Offload | null = null;
	/** Why there is no offload. */
	#noOffload = "";
	#guard = false;
	#guardText = "";
	#restoreEphemeral: (() => void) | null = null;
	#ranges: PortRange[];
	#milliseconds = 0;
	#secondAt = 0;
	#busyAt = 0;
	#stopping = false;

	/** Builds tables in memory; touches nothing of the system but the state file. */
	constructor(plan: Plan, paths: Paths, log: Log) {
		this.log = log;
		this.plan = plan;
		this.paths = paths;
		this.#ranges = plan.ports;
		const { layout, bytes } = planTable(plan);
		this.tableBytes = bytes;
		const memory = native.mapFile(paths.state, bytes);
		const keys = new Int32Array(4);
		native.random(keys.buffer, 0, 16);
		this.table = new Table(memory, layout, keys, stateTimeouts(plan.timeouts));
		this.hosts = new Hosts(memory, layout, keys[3]);
		const mapWords = new Int32Array(memory, layout.portMaps * 4, layout.words - layout.portMaps);
		mapWords.fill(0);
		this.externals = new Externals(mapWords, plan.ports);

		const blocks = Math.min(BLOCKS_MAX, Math.max(BLOCKS_MIN, plan.sessions >> 4));
		this.#frames = native.mapFile("", RECEIVE_BYTES + blocks * BLOCK);
		const headers = new LinkHeaders(layout.hosts);
		native.setFrames(this.#frames, SLOT_SIZE, this.#rx, headers.buffer);
		this.wan = makePort(plan.wan.device, emptyLink());
		this.lan = plan.lan.map((l, home) => ({
			...makePort(l.device, emptyLink()),
			link: { ...emptyLink(), nets: [], kernelForwards: l.driver === "tun", home },
			kind: l.driver,
			subnets: l.subnets,
		}));
		// What hosts send to our own address the kernel would not route to the TUN device: a packet socket hears it (hairpinning).
		for (const [home, l] of plan.lan.entries()) {
			if (l.driver !== "tun") continue;
			const link = { ...emptyLink(), nets: [], kernelForwards: false, home };
			this.lan.push({ ...makePort(l.device, emptyLink()), link, kind: "tap", subnets: l.subnets });
		}
		const views: Views = viewsOf(this.#frames);
		const drops = makeDrops();
		const dropLog = new DropLog(drops, views);
		this.#hops = new NextHopTable({
			kernel: this.kernel,
			views,
			hosts: this.hosts,
			headers,
			wan: this.wan.link,
			lan: this.lan.map((p) => p.link),
			dropped: (reason, slot, port) => dropLog.add(reason, slot, port, this.context.now),
			forwarded: (out) => {
				if (out) this.context.forwardedOut++;
				else this.context.forwardedIn++;
			},
			wanIndex: () => this.wan.index,
			lanIndex: (n) => this.lan[n].index,
			milliseconds: () => this.#milliseconds,
			undeliverable: (slot, length) => this.#rare.undeliverable(slot, length),
			spareSlot: (n) => BATCH * SLOT_SIZE + n * SPARE_SLOT_SIZE,
		});
		const random = new Int32Array(64);
		let randomAt = random.length;
		this.context = {
			views,
			table: this.table,
			hosts: this.hosts,
			externals: this.externals,
			expectations: new Expectations(this.table, this.externals),
			hops: this.#hops,
			headers,
			wan: this.wan.link,
			lan: this.lan.map((p) => p.link),
			policy: emptyPolicy(),
			spare: { at: RECEIVE_BYTES, count: blocks },
			requested: [],
			drops,
			dropLog,
			events: null,
			algCounts: makeAlgCounts(),
			left: 0,
			forwardedOut: 0,
			forwardedIn: 0,
			errorsSent: 0,
			ipId: keys[3] & 0x7fff,
			ipIds: 0xffff,
			now: 0,
			now16: 0,
			random: () => {
				if (randomAt === random.length) {
					native.random(random.buffer, 0, random.byteLength);
					randomAt = 0;
				}
				return random[randomAt++];
			},
		};
		this.#readClock();
		this.context.policy = this.#policy();
		this.admission = new Admission(this.context);
		this.#errors = new IcmpSender(this.context);
		this.#rare = new Rare(this.context, this.admission, this.#errors);
		this.#own = makeFast(this.context, this.#rare);
		this.#fast = this.#own;
		this.watch = new Watch(this.context, native.wallClock);
		this.rates = new Rates(this.context, native.now);
		this.#requested = new Requested(this.context);
	}

	/** Policy in as-loaded terms; fills the external addresses. Called once. */
	#policy(): Policy {
		const { plan, externals } = this;
		externals.add(0, true, 0, -1);
		for (const s of plan.statics) externals.add(swap32(s.external), false, swap32(s.internal), -1);
		const everyLan = () => plan.lan.flatMap((l) => l.subnets.map(netOf));
		const pools = plan.pools.map((p, number) => {
			const list: number[] = [];
			for (const range of p.external) for (let a = range.first; a <= range.last; a++) list.push(a);
			const numbers = list.map((a, at) => externals.add(swap32(a), p.overload && at === list.length - 1, 0, number));
			return { nets: p.internal.length ? p.internal.map(netOf) : everyLan(), externals: numbers, overload: p.overload };
		});
		const forwards: Forward[] = plan.redirects.flatMap((r) =>
			r.protocols.map((p) => ({
				protocol: p === "tcp" ? TCP : UDP,
				first: r.externalPorts.first,
				last: r.externalPorts.last,
				inside: swap32(r.internal),
				insideFirst: r.internalFirst,
				source: r.source === null ? null : netOf(r.source),
			})),
		);
		for (const f of forwards) for (let p = f.first; p <= f.last; p++) externals.reservePort(0, f.protocol, p);
		return {
			filtering: filteringFlags(plan.filtering),
			hosts: new Map(
				plan.hosts.map((h) => [
					swap32(h.address),
					{ flags: filteringFlags(h.filtering ?? plan.filtering), maxSessions: h.maxSessions ?? 0, maxRate: h.maxRate ?? 0 },
				]),
			),
			forwards,
			pools,
			ranges: plan.ports,
			algFtp: plan.algs.ftp,
			algTftp: plan.algs.tftp,
			maxSessions: plan.maxSessions,
			maxRate: plan.maxRate,
			refusal: plan.refusal === "prohibited" ? PROHIBITED : HOST_UNREACHABLE,
			blockPrivate: plan.blockPrivate,
			rejectSyn: plan.unsolicitedSyn === "reject",
			icmpRate: plan.icmpRate,
		};
	}

	// ---- for those who look inside (src/control) -----------------------------------------------------------------------------

	/** Next hop number of a destination, found without asking anybody. */
	peek(destination: number): number {
		return this.#hops.peek(destination);
	}

	/** Puts other batch functions in place of the engine's own, between two batches; null puts those back. */
	tap(wrap: ((own: Fast) => Fast) | null): void {
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
			this.stop();
			throw error;
		}
	}

	#start(): void {
		this.#signals = native.signalOpen([SIGHUP, SIGINT, SIGTERM]);
		try {
			this.#lock = native.lockFile(`${this.paths.state}.lock`);
		} catch (error) {
			if ((error as native.NativeError).code === "EAGAIN")
				throw new StartError(`another masqd is running (it holds ${this.paths.state}.lock)`);
			throw error;
		}
		for (const [n, name] of [
			[CAP_NET_ADMIN, "CAP_NET_ADMIN"],
			[CAP_NET_RAW, "CAP_NET_RAW"],
		] as const) {
			if (!native.hasCapability(n)) throw new StartError(`no permission: masqd needs ${name}; start it as root`);
		}
		this.kernel.open();
		this.#needDevice("wan", this.wan);
		for (const p of this.lan) this.#needDevice("lan", p);
		const tuns = this.lan.filter((p) => p.kind === "tun");
		if (tuns.length > 1) throw new StartError("only one lan can have driver 'tun' in this version; give the others driver 'packet'");
		if (tuns.length > 0 && !tunAvailable())
			throw new StartError("no TUN: /dev/net/tun is missing; install kmod-tun or use option driver 'packet'");
		this.#separatePorts();
		this.#takeAddresses();
		this.#warnOfBridgeFilter();
		// Before the routes, so that the kernel never tracks or forwards a packet that is masqd's.
		this.#refreshGuard();
		for (const p of tuns) this.#openTun(p);
		this.#openDrivers();
		if (this.externals.list.length > 1 && this.wan.link.ethernet)
			this.#arp = new ArpResponder(this.wan.index, this.#arpRanges(), this.#wanMac());
		this.#startOffload();
		this.#openPcp();
		this.#control = new ControlServer(this.paths.socket, this);
		const bpf = this.#offload === null ? 0 : 2 ** CAP_BPF + 2 ** CAP_PERFMON;
		native.keepCapabilities(2 ** CAP_NET_ADMIN + 2 ** CAP_NET_RAW + bpf);
	}

	#needDevice(what: string, p: Port): void {
		const link = this.kernel.linkByName(p.name);
		if (link === undefined) throw new StartError(`${what} device '${p.name}' does not exist`);
	}

	/** Keeps the router's own sockets and masqd's port range apart (design.md section 2 "The kernel beside us"). */
	#separatePorts(): void {
		this.#restoreEphemeral = separateEphemeral(native, this.#ranges, this.warnings);
		for (const port of localPorts(native, this.#ranges)) {
			this.externals.reservePort(0, TCP, port);
			this.externals.reservePort(0, UDP, port);
			this.#ranges = this.#ranges.flatMap((r) =>
				port < r.first || port > r.last
					? [r]
					: [
							{ first: r.first, last: port - 1 },
							{ first: port + 1, last: r.last },
						].filter((part) => part.first <= part.last),
			);
		}
		this.context.policy.ranges = this.#ranges;
	}

	/** br_netfilter shows bridged frames to the guard before the bridge's own socket has them: the packet driver would get nothing. */
	#warnOfBridgeFilter(): void {
		const bridged = (p: LanPort) => p.kind === "packet" && [...this.kernel.links.values()].some((link) => link.master === p.index);
		const lan = this.lan.find(bridged);
		if (lan === undefined) return;
		try {
			if (native.readFile("/proc/sys/net/bridge/bridge-nf-call-iptables").trim() === "0") return;
		} catch {
			return;
		}
		this.warnings.push(
			`net.bridge.bridge-nf-call-iptables is 1: nothing would be forwarded from the bridge ${lan.name}; set it to 0, or use option driver 'tun'`,
		);
	}

	#openTun(p: LanPort): void {
		try {
			p.driver = new TunDriver(TUN_NAME, this.#rx);
		} catch (error) {
			const e = error as native.NativeError;
			if (e.code === "ENOENT" || e.code === "ENODEV")
				throw new StartError("no TUN: the kernel has no tun driver; install kmod-tun or use option driver 'packet'");
			if (e.code === "EBUSY") throw new StartError(`the device name ${TUN_NAME} is taken: is another masqd running?`);
			throw new StartError(`can not open TUN: ${e.message}`);
		}
		this.kernel.drain();
		const tun = this.kernel.linkByName(TUN_NAME);
		if (tun === undefined) throw new StartError(`the kernel does not show the device ${TUN_NAME}`);
		this.#tunRoutes = TunRoutes.install(this.kernel, native, {
			lans: [p.name],
			elsewhere: this.#elsewhere(),
			tun: { name: TUN_NAME, ifindex: tun.index, mtu: this.wan.link.mtu || 1500, queueLength: TUN_QUEUE },
		});
		this.warnings.push(...this.#tunRoutes.warnings);
	}

	// ---- offload ---------------------------------------------------------------------------------------------------------

	#startOffload(): void {
		const { offload } = this.plan;
		if (offload === "off") return;
		const filters = new IngressFilters(this.kernel);
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
					attachClassic: (ifindex, program) => filters.attach(ifindex, program),
					detachClassic: (ifindex) => filters.detach(ifindex),
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
		const route = this.kernel.lookup(host);
		const address = route !== null && route.ifindex === ifindex && route.gateway !== 0 ? route.gateway : host;
		const known = this.kernel.neighbour(ifindex, address);
		return known !== undefined && isUsable(known) ? { address, mac: known.mac as Uint8Array } : null;
	}

	/** Tells the offload about the ports as they are. */
	#renewOffload(): void {
		const device = (p: Port) => {
			const link = this.kernel.linkByName(p.name);
			const ethernet = link !== undefined && link.type === ARPHRD_ETHER;
			return { index: p.index, ethernet, mtu: p.link.mtu, mac: ethernet && link.mac !== null ? link.mac : new Uint8Array(6) };
		};
		const owned = this.#ownedExternals();
		this.#offload?.renew({
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
			this.log.say("warning", `offload stopped: ${(error as Error).message}`);
		}
	}

	/** What `status` shows. */
	get offloadStatus(): OffloadStatus {
		const { offload } = this.plan;
		if (this.#offload !== null) return this.#offload.status(offload);
		return { mode: offload, active: false, detail: this.#noOffload, flows: 0, capacity: 0, packetsOut: 0, packetsIn: 0 };
	}

	/** Sessions that go by the kernel, null without. */
	get offload(): Offload | null {
		return this.#offload;
	}

	/** Undoes everything, in reverse, whatever of it was done. Never throws. */
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
		attempt(() => this.#tunRoutes?.remove());
		for (const p of [this.wan, ...this.lan]) attempt(() => this.#closePort(p));
		attempt(() => this.#arp?.close());
		for (const p of this.#pcp) attempt(() => p.close());
		if (this.#guard) attempt(() => removeGuard(native));
		attempt(() => this.#restoreEphemeral?.());
		attempt(() => this.kernel.close());
		attempt(() => native.close(this.#signals));
		attempt(() => native.close(this.#lock));
	}

	#closePort(p: Port): void {
		p.driver?.close();
		p.driver = null;
		if (p.restoreGro && this.kernel.linkByName(p.name) !== undefined) native.setFeature(p.name, GRO_LIST, true);
		p.restoreGro = false;
	}

	// ---- keeping in step with the kernel -----------------------------------------------------------------------------------

	/** Reads indexes, MACs, MTUs and addresses of the ports from the kernel's tables. Returns true if anything differs from before. */
	#takeAddresses(): boolean {
		let changed = false;
		for (const p of [this.wan, ...this.lan]) {
			const link = this.kernel.linkByName(p.name);
			const before = `${p.index} ${p.link.address} ${p.link.mtu} ${p.link.mac}`;
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
			changed ||= before !== `${p.index} ${p.link.address} ${p.link.mtu} ${p.link.mac}`;
		}
		this.#setExternal(this.wan.link.address);
		return changed;
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

	/** The WAN's address changed: what was translated to the old one can not go on. */
	#setExternal(address: number): void {
		if (this.externals.A[0] === address) return;
		if (this.#control !== null) this.#tellAddress(address);
		if (address !== 0) {
			const { T } = this.table;
			for (let i = 1; i <= this.table.layout.sessions; i++) {
				if (this.table.state(i) !== 0 && ((T[(i << 4) + R_META] >> EXTERNAL_SHIFT) & 0xff) === 0) this.admission.end(i, "wan-address");
			}
			this.externals.setAddress(0, address);
		}
	}

	#tellAddress(address: number): void {
		const [before, after] = [this.externals.A[0], address].map((a) => (a === 0 ? "" : formatAddress(swap32(a) >>> 0)));
		this.watch.tell({ event: "wan-address", before, after } as { event: string });
		if (after !== "") this.log.say("notice", `wan ${this.wan.name} has address ${after}${before === "" ? "" : `, no longer ${before}`}`);
		else this.log.say("warning", `wan ${this.wan.name} has lost its address ${before}; sessions wait for it`);
	}

	/** Opens the packet sockets of devices that are there and have none. */
	#openDrivers(): void {
		for (const p of [this.wan, ...this.lan]) {
			if (p.driver !== null || p.index === 0) continue;
			if (!(isLan(p) && p.kind === "tap") && native.getFeature(p.name, GRO_LIST) === true) {
				native.setFeature(p.name, GRO_LIST, false);
				p.restoreGro = true;
			}
			p.driver = new PacketDriver(p.index, p.link.ethernet, this.#filterOf(p), this.#rx);
		}
	}

	#claimed(): ClaimedPorts[] {
		const ranges = this.#ranges.flatMap((r) => [TCP, UDP].map((proto) => ({ proto, first: r.first, last: r.last })));
		return [...ranges, ...this.context.policy.forwards.map((f) => ({ proto: f.protocol, first: f.first, last: f.last }))];
	}

	#elsewhere(): Subnet[] {
		return [...this.kernel.subnetsNotVia(this.wan.index), ...this.plan.exempts.map((e) => e.destination)];
	}

	#ownedExternals(): AddressRange[] {
		return this.externals.list.slice(1).map((x) => ({ first: swap32(x.address) >>> 0, last: swap32(x.address) >>> 0 }));
	}

	#arpRanges(): AddressRange[] {
		return this.#ownedExternals().filter((r) => !this.kernel.ownAddresses().includes(r.first));
	}

	#wanMac(): Uint8Array {
		return this.wan.link.mac;
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
		const elsewhere = p.kind === "tap" ? [EVERYWHERE] : this.#elsewhere();
		return lanFilter({ ethernet, ownAddresses: this.kernel.ownAddresses(), elsewhere, externals, claimed });
	}

	#refreshGuard(): void {
		const facts: GuardFacts = {
			lan: this.lan.flatMap((p) => (p.kind === "tap" ? [] : [{ device: p.name, driver: p.kind }])),
			wanDevice: this.wan.name,
			externals: this.#externalAddresses(),
			ownedExternals: this.#ownedExternals(),
			portRanges: this.#ranges,
			forwards: this.context.policy.forwards.map((f) => ({ proto: f.protocol, first: f.first, last: f.last })),
			elsewhere: this.#elsewhere(),
			inside: this.lan.flatMap((p) => p.link.nets.map(subnetOfNet)),
			ownAddresses: this.kernel.ownAddresses(),
			pcp: this.plan.pcp,
			exemptDestinations: this.plan.exempts.map((e) => e.destination),
		};
		const text = JSON.stringify(facts);
		if (text === this.#guardText) return;
		installGuard(native, facts);
		this.#guard = true;
		this.#guardText = text;
	}

	/** Opens PCP sockets on the LAN devices as they are now. */
	#openPcp(): void {
		if (!this.plan.pcp) return;
		const places = this.lan
			.filter((p) => p.kind !== "tap")
			.flatMap((p) => {
				const link = this.kernel.linkByName(p.name);
				if (link === undefined || link.type !== ARPHRD_ETHER || link.mac === null) return [];
				const { index, mac } = link;
				return this.kernel.addresses(index).map(({ address }) => ({ index, mac, address }));
			});
		const text = JSON.stringify(places.map((p) => [p.index, p.address, [...p.mac]]));
		if (text === this.#pcpPlaces) return;
		for (const p of this.#pcp) p.close();
		const epoch = () => Math.floor((native.now() - this.startedAt) / 1000);
		this.#pcp = places.map(
			(p) => new PcpResponder(p.index, p.address, p.mac, (q, source) => this.#requested.handle(q, swap32(source)), epoch),
		);
		if (this.#pcpPlaces === "") for (const p of this.#pcp) p.announce();
		this.#pcpPlaces = text;
	}

	/** Takes the kernel's news. */
	#kernelNews(): void {
		const changes = this.kernel.drain();
		if (changes.links || changes.addresses || changes.routes) {
			const before = this.wan.index;
			this.#takeAddresses();
			if (this.wan.index !== before) this.#hops.reset();
			this.#hops.routesChanged();
			this.#openDriversQuietly();
			for (const p of [this.wan, ...this.lan]) p.driver?.filter(this.#filterOf(p));
			this.#tunRoutes?.update(this.#elsewhere());
			this.#refreshGuard();
			this.#openPcp();
			this.#renewHops();
			this.#renewOffloadQuietly();
			this.#offload?.routesChanged();
		}
		this.#hops.update(changes.neighbours);
		if (this.#offload !== null) {
			for (const n of changes.neighbours) this.#offload.neighbourChanged(n.ifindex, n.address, isUsable(n) ? n.mac : null);
		}
	}

	#openDriversQuietly(): void {
		try {
			this.#openDrivers();
		} catch (error) {
			this.log.say("warning", `${(error as Error).message}; waiting for the device`);
		}
	}

	/** Routes changed: every session looks up its next hop again. */
	#renewHops(): void {
		const { T } = this.table;
		for (let i = 1; i <= this.table.layout.sessions; i++) {
			if (this.table.state(i) === 0) continue;
			const hop = this.#hops.find(T[(i << 4) + R_PEER]);
			const e = (i << 4) + R_META;
			if (T[e] >>> HOP_SHIFT === HAIRPIN) continue;
			if (T[e] >>> HOP_SHIFT !== Math.max(0, hop)) this.#offload?.hopChanged(i);
			T[e] = (T[e] & ~(0xff << HOP_SHIFT)) | (Math.max(0, hop) << HOP_SHIFT);
		}
	}

	// ---- the loop ------------------------------------------------------------------------------------------------------------

	/** Runs until SIGTERM or SIGINT. */
	run(): void {
		let empty = 0;
		let turns = 0;
		while (!this.#stopping) {
			if (empty > SPIN || ++turns === POLL_TURNS) {
				this.#poll(empty > SPIN ? this.#timeout() : 0, empty <= SPIN);
				turns = 0;
			}
			this.#readClock();
			let moved = this.#breatheWan();
			for (let n = 0; n < this.lan.length; n++) moved += this.#breatheLan(n);
			empty = moved === 0 ? empty + 1 : 0;
			this.#flush();
			if (this.#milliseconds >= this.#placement.dueAt) this.#placement.look(this.#milliseconds, this.#framesReceived());
			if (this.#milliseconds >= this.#secondAt) this.#everySecond();
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

	#everySecond(): void {
		this.#secondAt = (this.context.now + 1) * 1000;
		this.#offload?.everySecond();
		this.admission.expire(EXPIRE_BUDGET);
		this.#rare.everySecond();
		this.#requested.expire();
		if (this.#hops.waiting > 0) this.#hops.flush();
		this.#flush();
		this.#hops.confirm();
		this.rates.tick();
		for (const { reason, text } of this.watch.limits()) this.log.often("warning", reason, text, this.#milliseconds);
		this.log.tick(this.#milliseconds);
		this.#control?.tick(this.#milliseconds);
		if (this.#busyAt !== 0 && this.#milliseconds - this.#busyAt > IDLE_RELEASE_SECONDS * 1000) {
			this.#placement.release();
			// Fragments that wait stay.
			native.releasePages(this.#frames, 0, this.#rare.fragments.waiting > 0 ? RECEIVE_BYTES : this.#frames.byteLength);
			this.#busyAt = 0;
		}
	}

	/** Waits for something to do for at most `timeout` ms; serves everything but the ports. `busy`: there is traffic. */
	#poll(timeout: number, busy: boolean): void {
		const set = this.#pollSet;
		let n = 0;
		const add = (fd: native.Fd, events: number) => {
			set[n * 3] = fd;
			set[n * 3 + 1] = events;
			set[n * 3 + 2] = 0;
			n++;
		};
		add(this.wan.driver?.fd ?? -1, native.POLLIN);
		for (let k = 0; k < this.lan.length; k++) add(this.lan[k].driver?.fd ?? -1, native.POLLIN);
		const fixed = n;
		add(this.#signals, native.POLLIN);
		add(this.kernel.fd, native.POLLIN);
		add(this.#arp?.fd ?? -1, native.POLLIN);
		for (const p of this.#pcp) add(p.fd, native.POLLIN);
		this.#control?.pollEntries(add, native.now());
		native.poll(set, n, timeout);
		this.#readClock();
		if (set[fixed * 3 + 2] !== 0) this.#signalled();
		if (set[fixed * 3 + 5] !== 0) this.#kernelNews();
		if (set[fixed * 3 + 8] !== 0) this.#arp?.serve();
		for (const [k, p] of this.#pcp.entries()) if (set[(fixed + 3 + k) * 3 + 2] !== 0) p.serve();
		this.#control?.serve(set, fixed + 3 + this.#pcp.length, busy);
	}

	#timeout(): number {
		const pending = this.kernel.pendingAt() - native.now();
		// Nothing to expire, nothing waiting: sleep until the hops want confirming.
		const idle =
			this.table.used === 0 && this.#hops.waiting === 0 && this.#busyAt === 0 && !this.#rare.pending && !this.#requested.pending
				? 30_000
				: this.#secondAt - native.now();
		const control = this.#control?.dueIn(native.now()) ?? idle;
		return Math.ceil(Math.max(0, Math.min(idle, pending, control, 30_000)));
	}

	#signalled(): void {
		for (let signal = native.signalRead(this.#signals); signal !== 0; signal = native.signalRead(this.#signals)) {
			if (signal === SIGTERM || signal === SIGINT) this.#stopping = true;
		}
	}

	#breatheLan(n: number): number {
		const p = this.lan[n];
		const meter = this.meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		const count = this.#receive(p);
		if (count === 0) return 0;
		const t1 = meter === null ? 0 : native.nanoseconds();
		this.#fast.outbound(this.#rx, count, n);
		if (meter !== null) this.#measure(meter, count, t0, t1);
		this.#sendWan();
		return count;
	}

	#breatheWan(): number {
		const meter = this.meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		const count = this.#receive(this.wan);
		if (count === 0) return 0;
		const t1 = meter === null ? 0 : native.nanoseconds();
		this.#fast.inbound(this.#rx, count);
		if (meter !== null) this.#measure(meter, count, t0, t1);
		for (const p of this.lan) if (p.link.queue.count > 0) this.#send(p);
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
		const total = queue.count;
		queue.count = 0;
		if (p.driver === null) {
			this.#unsent(p, REASON["send-refused"], 0, total);
			return;
		}
		const meter = this.meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		for (let from = 0; from < total; from += BATCH) {
			const count = Math.min(BATCH, total - from);
			const sent = p.driver.send(queue.pairs, from, count);
			p.sent += sent;
			if (sent < count)
				this.#unsent(p, native.sendErrno() === 0 ? REASON["queue-full"] : REASON["send-refused"], from + sent, count - sent);
		}
		if (meter !== null) meter.ioNs += native.nanoseconds() - t0;
	}

	/** Counts `count` frames of a queue, from number `from` on, that were not sent. Of frames passed over in between the ones remembered are their successors. */
	#unsent(p: Port, reason: number, from: number, count: number): void {
		const came = isLan(p) ? -1 : 0;
		for (let n = from; n < from + count; n++) this.context.dropLog.add(reason, p.link.queue.pairs[n * 2], came, this.context.now);
	}

	/** The line printed when packets can flow. */
	describe(): string {
		const ports = this.lan.filter((p) => p.kind !== "tap");
		const lan = ports.map((p) => `${p.name} (${p.kind}, ${p.link.nets.map((n) => formatNet(n)).join(" ")})`).join(", ");
		const address = this.externals.A[0] === 0 ? "no address yet" : formatAddress(swap32(this.externals.A[0]) >>> 0);
		return `wan ${this.wan.name} ${address}, lan ${lan}, ${this.plan.sessions} sessions in ${this.tableBytes} bytes`;
	}
}

/** As destinations that are the kernel's: a tap takes only what is for our own address. */
const EVERYWHERE: Subnet = { address: 0, mask: 0, prefix: 0 };

function isLan(p: Port): p is LanPort {
	return "kind" in p;
}

function makePort(name: string, link: Link): Port {
	return { name, index: 0, driver: null, link, sent: 0, received: 0, restoreGro: false };
}

function emptyLink(): Link {
	return { ethernet: true, mtu: 1500, address: 0, mac: new Uint8Array(6), queue: new Queue(QUEUE_FRAMES) };
}

function emptyPolicy(): Policy {
	return { ...POLICY_DEFAULTS, hosts: new Map(), forwards: [], pools: [], ranges: [] };
}

function netOf(subnet: Subnet): Net {
	return { address: swap32(subnet.address), mask: swap32(subnet.mask) };
}

function subnetOfNet(net: Net): Subnet {
	const mask = swap32(net.mask) >>> 0;
	return { address: swap32(net.address) >>> 0, mask, prefix: 32 - Math.round(Math.log2(2 ** 32 - mask)) };
}

function formatNet(net: Net): string {
	return formatSubnet(subnetOfNet(net));
}

function filteringFlags(filtering: Plan["filtering"]): number {
	return filtering === "endpoint-independent" ? HOST_EIF : filtering === "address-dependent" ? HOST_ADF : 0;
}

function tunAvailable(): boolean {
	return native.fileSize("/dev/net/tun") >= 0;
}
