/**
 * The parts of the daemon, put together: nothing is opened yet but the state file.
 *
 * The order of the followers matters. The guard comes before anything takes or diverts a packet of the LAN, so that the
 * kernel never tracks or forwards what is masqd's; sockets and TUN devices come before the address, whose change makes
 * frames to send; the offload comes when everything it goes past stands.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import type { HostAccounts } from "../control/accounts.ts";
import { Watch } from "../control/watch.ts";
import { filtersBridges } from "../kernel/device-warnings.ts";
import { GUARD_TABLE, guardPresent, learnedFlows } from "../kernel/guard.ts";
import { GuardKeeper } from "../kernel/guard-keeper.ts";
import { GuardWatch } from "../kernel/guard-watch.ts";
import { OwnPorts } from "../kernel/local-ports.ts";
import { KernelMirror } from "../kernel/mirror.ts";
import { NftView } from "../kernel/nft-view.ts";
import { RouterProtocols } from "../kernel/router-protocols.ts";
import { SavedSysctls } from "../kernel/saved-sysctls.ts";
import { SocketDiag } from "../kernel/socket-diag.ts";
import { TUN_NAME } from "../kernel/tun-routes.ts";
import type { Admission } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import { PCP_MAPPINGS_BYTES, PcpMappings } from "../nat/pcp-mappings.ts";
import { REASON } from "../nat/reason.ts";
import { yieldToRouter } from "../nat/yielding.ts";
import { addressValue, swap16 } from "../packet/layout.ts";
import { ArpResponder } from "../port/arp-responder.ts";
import { TunDriver } from "../port/driver.ts";
import { Announcements } from "../port/pcp-responder.ts";
import { Bans } from "./bans.ts";
import { Barrier } from "./barrier.ts";
import type { Carrier } from "./carrier.ts";
import { Clock } from "./clock.ts";
import { Connections, handOverBundle } from "./connections.ts";
import { Egress, type Meter } from "./egress.ts";
import { FirewallForwards } from "./firewall-forwards.ts";
import { type Follower, StartError } from "./follower.ts";
import { ftpReaderAt } from "./ftp-reader.ts";
import { GuardFollower, guardFactsOf } from "./guard-follower.ts";
import { InForce } from "./in-force.ts";
import { InStep } from "./in-step.ts";
import type { Log } from "./log.ts";
import { Notices } from "./notices.ts";
import { OffloadFollower } from "./offload-follower.ts";
import { planTable, tunQueue } from "./policy.ts";
import type { Ports } from "./ports.ts";
import { Rates } from "./rates.ts";
import { ArpFollower, PcpFollower, pcpServer } from "./responders.ts";
import { RouterPorts } from "./router-ports.ts";
import { SessionHops } from "./session-hops.ts";
import { bootWords, lockState, mapOrMemory, openState, type State } from "./state.ts";
import { aheadOfUtc } from "./time-zone.ts";
import { knownNets, topologyOf } from "./topology.ts";
import { makeTranslation, type Translation } from "./translation.ts";
import { TunDevices } from "./tun-devices.ts";
import { WanAddress } from "./wan-address.ts";

/** Where the daemon keeps its files. */
export interface Paths {
	config: string;
	socket: string;
	state: string;
}

/** All parts. */
export class Parts {
	readonly paths: Paths;
	readonly kernel = new KernelMirror(native);
	readonly meter: Meter | null = native.getenv("MASQD_METER") === "1" ? { packets: 0, jsNs: 0, ioNs: 0, batches: 0 } : null;
	/** What was amiss at the start. */
	readonly warnings: string[] = [];
	readonly clock = new Clock(native.now);
	readonly boot = bootWords();
	readonly log: Log;
	readonly barrier: Barrier;
	readonly lock: native.Fd;
	readonly settings: SavedSysctls;
	/** What a predecessor left, until it is taken over. */
	state: State | null;
	readonly tableBytes: number;
	readonly translation: Translation;
	readonly context: Context;
	readonly admission: Admission;
	readonly ports: Ports;
	readonly watch: Watch;
	readonly rates: Rates;
	readonly requested: PcpMappings;
	readonly accounts: HostAccounts;
	readonly routerProtocols = new RouterProtocols(native, () => this.kernel.links.values());
	/** Ports of the router's own services. */
	readonly ownPorts: OwnPorts;
	readonly inForce: InForce;
	readonly announcements = new Announcements();
	readonly egress: Egress;
	/** Somebody may listen at the control socket. */
	listened = false;

	readonly routerPorts: RouterPorts;
	readonly guard: GuardFollower;
	readonly tuns: TunDevices;
	readonly arp = new ArpFollower((ifindex, ranges, mac) => new ArpResponder(ifindex, ranges, mac));
	readonly wanAddress: WanAddress;
	readonly pcp: PcpFollower;
	readonly offload: OffloadFollower;
	readonly notices: Notices;
	/** The guard's counters, as they were when somebody looked last. */
	readonly guardView = new NftView(native);
	readonly firewallForwards: FirewallForwards;
	/** Null where the kernel's own rules see every packet. */
	readonly bans: Bans | null;
	readonly inStep: InStep;

	/** What carries the packets if not masqd's ports. */
	readonly carrier: Carrier | null;

	/**
	 * Builds tables in memory; touches nothing of the system but the state file. Throws {@link StartError} if another
	 * daemon has it.
	 */
	constructor(plan: Plan, paths: Paths, log: Log, carrier: Carrier | null) {
		const { kernel, warnings } = this;
		const clock = this.clock;
		this.paths = paths;
		this.log = log;
		this.carrier = carrier;
		this.barrier = new Barrier(log, () => clock.milliseconds);
		this.lock = lockState(paths.state);
		const settings = new SavedSysctls(native, `${paths.state}.settings`, `/${TUN_NAME}`);
		this.settings = settings;
		const { layout, bytes } = planTable(plan);
		this.tableBytes = bytes;
		const state = openState(paths.state, layout, this.boot, Math.floor(native.now() / 1000));
		this.state = state;
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
					this.guard.keeper.sets.hasFlow(protocol, addressValue(peer), swap16(peerPort), swap16(port)),
			},
			routerSpeaks: (protocol, peer) => this.routerProtocols.speaks(protocol, peer),
			guarded: (p) => this.guard.covers(p),
			flush: () => this.egress.flush(),
			carrier,
			makeFtp: ftpReaderAt(`${paths.state}.ftp`, log, clock),
		});
		const { context, admission, ports, hops } = translation;
		this.translation = translation;
		this.context = context;
		this.admission = admission;
		this.ports = ports;
		this.firewallForwards = new FirewallForwards(log);
		this.bans = carrier === null ? new Bans(context, admission) : null;
		this.watch = new Watch(context, native.wallClock);
		this.rates = new Rates(context, native.now);
		const requested = new PcpMappings(context, mapOrMemory(`${paths.state}.pcp`, PCP_MAPPINGS_BYTES).memory);
		this.requested = requested;
		const { ACCOUNTS_BYTES, HostAccounts } = native.importBundle("accounts") as typeof import("../control/accounts.ts");
		this.accounts = new HostAccounts(mapOrMemory(`${paths.state}.hosts`, ACCOUNTS_BYTES).memory, context.table, {
			second: () => context.now,
			local: () => Math.floor(native.wallClock() / 1000) + timeZone(),
			present: (address) => context.hosts.find(address) !== 0,
			carriedSoFar: () => sentByDevices(this.inForce.plan),
			carried: () => this.offload.offload,
		});
		this.ownPorts = new OwnPorts({
			take: (protocol, port) => context.externals.reservePort(0, protocol, port),
			release: (protocol, port) => context.externals.releasePort(0, protocol, port),
		});
		this.routerPorts = new RouterPorts(this.ownPorts, new SocketDiag(native), settings, kernel, warnings);
		this.inForce = new InForce(
			plan,
			context,
			() => knownNets(this.inStep.topology, !this.listened),
			(other) => this.routerPorts.begin(other),
		);
		this.inForce.renew(plan, state.image === null ? 0 : state.image.addresses[0], state.image?.addresses ?? new Int32Array(0));

		carrier?.begin(this);
		const flows = learnedFlows(conntrackMax());
		this.guard = new GuardFollower({
			table: carrier?.table ?? GUARD_TABLE,
			keeper: (owner) => {
				const wanted = () => ({ ...guardFactsOf(owner.wanted(), flows), undiverted: this.tuns.undiverted(owner.wanted()) });
				return carrier?.keeper(owner) ?? new GuardKeeper(native, { ...owner, wanted });
			},
			present: () => guardPresent(native),
			watch: () => new GuardWatch(native, carrier?.family),
			opened: () => {
				this.inStep.behind = true;
			},
			log,
			clock,
		});
		this.tuns = new TunDevices({
			kernel,
			ports,
			settings,
			open: (name) => new TunDriver(name, translation.memory.rx, context.views, translation.memory.segmentsAt),
			queue: () => tunQueue(this.inForce.plan),
			guarded: (p) => this.guard.covers(p),
			diverted: () => this.guard.keeper.keep(),
			noticed: (changes) => this.inStep.noticed(changes),
			forget: (nets, before, to) => handOverBundle().forgetUntranslated(native, nets, before, to),
			warnings,
		});
		this.wanAddress = new WanAddress({
			context,
			admission,
			hops,
			requested,
			announcements: this.announcements,
			watch: this.watch,
			log,
			clock,
			listened: () => this.listened,
		});
		const server = pcpServer(native, requested, kernel, clock, {
			spoofed: () => {
				context.drops[REASON["spoofed-source"]]++;
			},
			crowded: () => {
				context.drops[REASON["pcp-crowded"]]++;
			},
		});
		this.pcp = new PcpFollower(server, this.announcements, clock, () => {
			this.inStep.behind = true;
		});
		this.offload = new OffloadFollower({
			context,
			kernel,
			hops,
			log,
			clock,
			mode: () => (carrier === null ? this.inForce.plan.offload : "off"),
		});
		this.notices = new Notices(kernel, log, () => filtersBridges(native));
		this.egress = new Egress(ports, context, this.barrier, this.meter);
		this.inStep = this.#makeInStep();
	}

	#makeInStep(): InStep {
		const { kernel, barrier, log, carrier } = this;
		const { hops } = this.translation;
		const sessionHops = new SessionHops(
			this.context.table,
			(peer) => this.context.hops.find(peer),
			(i) => this.offload.offload?.hopChanged(i),
			(unroutable) => this.wanAddress.routed(unroutable),
		);
		const connections = new Connections(this.context, this.admission, carrier !== null);
		let started = false;
		// Before the kernel is let have it: what masqd, or its offload, would go on to send by the WAN.
		const leaving: Follower = {
			name: "leaving",
			follow: (t) => {
				if (started) {
					connections.leave(t);
					departures.follow();
				}
				started = true;
			},
			close: () => {},
		};
		const departures = new SessionHops(
			this.context.table,
			(peer) => this.context.hops.find(peer),
			(i) => this.offload.offload?.hopChanged(i),
			() => {},
		);
		const followers = [
			leaving,
			this.routerPorts,
			this.guard,
			this.ports,
			this.tuns,
			connections,
			this.arp,
			this.wanAddress,
			// Sessions are rebuilt at the address.
			...(carrier === null ? [] : [carrier]),
			this.pcp,
			sessionHops,
			this.offload,
			this.notices,
		];
		return new InStep(followers, {
			kernel,
			barrier,
			log,
			plan: () => this.inForce.plan,
			topology: (plan, before) => topologyOf(plan, kernel, this.ownPorts, before),
			take: (t) => {
				const { index } = this.ports.wan;
				this.ports.take(t);
				if (this.ports.wan.index !== index) hops.reset();
				hops.routesChanged();
			},
			linksChanged: () => this.yieldProtocols(),
			netsChanged: () => this.inForce.placeHosts(this.ports.lan.map((_, port) => port)),
			suspectTuns: () => this.tuns.suspect(),
			filtersChanged: () => {
				this.offload.renew();
				this.notices.again();
			},
			neighboursChanged: (neighbours) => {
				hops.update(neighbours);
				for (const { ifindex } of neighbours) this.pcp.server.neighbourChanged(ifindex);
				this.offload.neighboursChanged(neighbours);
			},
			milliseconds: () => this.clock.milliseconds,
		});
	}

	/** What the router itself speaks by now in protocols without ports is its own. */
	yieldProtocols(): void {
		this.routerProtocols.changed();
		const ended = yieldToRouter(this.context, this.admission);
		if (ended > 0) this.log.notice(`${ended} sessions ended: the router itself speaks their protocol with their peers now`);
	}
}

/** How many connections the kernel tracks at most, as text; "" if it does not. */
function conntrackMax(): string {
	try {
		return native.readFile("/proc/sys/net/netfilter/nf_conntrack_max");
	} catch {
		return "";
	}
}

/** Packets that the devices of masqd's ports have sent since they were made; NaN if one of them is not there. */
function sentByDevices({ wan, lan }: Plan): number {
	let sent = 0;
	try {
		for (const { device } of [wan, ...lan]) sent += Number(native.readFile(`/sys/class/net/${device}/statistics/tx_packets`));
		return sent;
	} catch {
		return Number.NaN;
	}
}

/** Seconds by which the router's days begin before UTC's; 0 where the zone is kept elsewhere than OpenWrt has it. */
function timeZone(): number {
	try {
		return aheadOfUtc(native.readFile("/etc/TZ"));
	} catch {
		return 0;
	}
}
