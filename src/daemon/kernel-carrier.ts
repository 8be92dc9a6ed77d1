/**
 * The kernel as the carrier of packets: rules that have it ask, the queues in which it does, and its connections. A
 * bundle of its own (`kernel-carrier.js`).
 *
 * The order of a start matters. With the rules in force and nobody at the queues, packets go on to the kernel's own
 * masquerade; the connections are listened to before the queues are opened, because an entry made before anybody
 * listens never tells of its end.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import type { PortRange } from "../conntrack/ports.ts";
import type { NextHops } from "../nat/context.ts";
import type { FastPath } from "../nat/fast-path.ts";
import type { Revalidator } from "../nat/revalidate.ts";
import { NFPROTO } from "../netlink/nftables.ts";
import { mergeRanges } from "../packet/address.ts";
import { addressValue, swap32, TCP, UDP } from "../packet/layout.ts";
import { BusyEndpoints } from "../port/busy-endpoints.ts";
import { type Decisions, KernelHops, QueueDriver } from "../port/queue-driver.ts";
import { QueueHosts } from "../port/queue-hosts.ts";
import { QueueKeeper } from "../port/queue-keeper.ts";
import { FLOOD_RATE, QUEUE_TABLE, type QueueFacts } from "../port/queue-rules.ts";
import { Tracked } from "../port/tracked.ts";
import type { Carrier, CarrierSurroundings } from "./carrier.ts";
import type { Keeper, KeeperOwner } from "./guard-follower.ts";
import { rebuild } from "./rebuilt-sessions.ts";
import type { Topology } from "./topology.ts";
import { setTracking } from "./tracking-settings.ts";

// For `masqd cleanup`, which reads this bundle too.
export { deleteTable, hasTable } from "../kernel/nft-delete.ts";
export { NFPROTO, QUEUE_TABLE };

/**
 * Seconds after which a loop that does not turn ends: the kernel keeps what it asks about waiting for as long as
 * somebody has the queues open.
 */
const HUNG_SECONDS = 5;
/** Bytes of headers without options, IP's and TCP's. */
const TCP_HEADERS = 40;

/** The queues and the connections. */
export class KernelCarrier implements Carrier {
	readonly name = "packet queues";
	readonly table = QUEUE_TABLE;
	readonly family = NFPROTO.IPV4;
	queueFd = -1;
	endsFd = -1;
	readonly #hosts = new QueueHosts();
	#busy: BusyEndpoints | null = null;
	#plan: Plan | null = null;
	/** Judges sessions that are read back. */
	#keeper: Revalidator | null = null;
	#hops: KernelHops | null = null;
	#with: CarrierSurroundings | null = null;
	#queue: QueueDriver | null = null;
	#tracked: Tracked | null = null;
	/** Indexes of devices are as the kernel's messages have them, raw: that of the WAN. */
	#wan = 0;
	/** Second in which the loop was last known to turn. */
	#aliveAt = 0;
	/** Numbers of the LAN ports by their devices' indexes. */
	readonly #lans = new Map<number, number>();
	readonly #lanOf = (ifindex: number) => this.#lans.get(ifindex) ?? -1;
	readonly #flush = () => this.flush();
	/** The translation that decides: the core's own, or a capture's around it. */
	#fast: FastPath | null = null;
	readonly #decisions: Decisions = {
		carried: (slot, length, port) => {
			const { ports, wanAddress, translation } = this.#with as CarrierSurroundings;
			if (wanAddress.impaired || this.#fast !== translation.fast) return -1;
			ports.lan[port].received++;
			return translation.slowPath.carried(slot, length, port);
		},
		yields: (i) => {
			if (!(this.#tracked as Tracked).isTaken(i)) return false;
			(this.#with as CarrierSurroundings).admission.end(i, "timeout");
			return true;
		},
		outbound: (rx, count, port) => {
			const { ports, wanAddress, translation } = this.#with as CarrierSurroundings;
			ports.lan[port].received += count;
			if (wanAddress.impaired) translation.slowPath.outboundImpaired(rx[0], rx[1], port, wanAddress.fault ?? -1);
			else this.#fast?.outbound(rx, count, port);
		},
		inbound: (rx, count) => {
			(this.#with as CarrierSurroundings).ports.wan.received += count;
			this.#fast?.inbound(rx, count);
		},
	};

	begin(surroundings: CarrierSurroundings): void {
		this.#with = surroundings;
		this.#busy = new BusyEndpoints(surroundings.context, this.#hosts);
	}

	hops(own: NextHops): NextHops {
		this.#hops = new KernelHops(own);
		return this.#hops;
	}

	keeper(owner: KeeperOwner): Keeper {
		return new QueueKeeper(
			native,
			{ ...owner, wanted: () => this.#facts(owner.wanted()) },
			{
				forget: () => {
					this.#hosts.forget();
					this.#busy?.forget();
				},
				close: () => this.#hosts.close(),
			},
		);
	}

	/** What the rules are made of. */
	#facts(t: Topology): QueueFacts {
		const { context, inForce, translation } = this.#with as CarrierSurroundings;
		const ports = (ranges: readonly PortRange[], protocol: number) =>
			mergeRanges([...ranges, ...t.forwards.filter((f) => f.proto === protocol).map(({ first, last }) => ({ first, last }))]);
		return {
			wan: t.wan.name,
			lans: t.lan.map((p) => p.name),
			externals: context.externals.list.map((x, n) => (n === 0 ? t.address : addressValue(x.address))),
			own: t.wan.addresses,
			pcp: t.lan.filter((p) => p.pcp).map((p) => p.name),
			router: t.own,
			inside: t.lan.flatMap((p) => p.nets),
			tcp: ports(t.guarded.tcp, TCP),
			udp: ports(t.guarded.udp, UDP),
			exempts: [...t.exempts, ...t.apart],
			timeouts: inForce.plan.timeouts,
			mss: (t.wan.mtu || 1500) - TCP_HEADERS,
			clamp: t.lan.some((p) => p.device.mtu > translation.hops.least),
		};
	}

	/** Behind the rules: opens the queues the first time. */
	follow(t: Topology): void {
		this.#wan = swap32(t.wan.index) >>> 0;
		this.#lans.clear();
		for (const [n, place] of t.lan.entries()) if (place.device.index !== 0) this.#lans.set(swap32(place.device.index) >>> 0, n);
		const { context, admission, clock, translation, inForce, settings } = this.#with as CarrierSurroundings;
		setTracking(settings, native.readFile, inForce.plan.timeouts, inForce.plan.sessions);
		const busy = this.#busy as BusyEndpoints;
		// Another policy may let fewer in.
		if (inForce.plan !== this.#plan) busy.clear();
		this.#plan = inForce.plan;
		if (this.#queue !== null) return;
		if (this.#tracked === null) {
			this.#tracked = new Tracked({
				table: context.table,
				adopt: (entry, isNew) => {
					const made = rebuild({ context, admission, keeper: this.#keeper as Revalidator }, entry, isNew);
					if (isNew && made === 0) busy.refused(entry);
					else if (isNew) busy.begun(made);
					return made;
				},
				ends: (i) => busy.ended(i),
				forwarded: (inbound, packets) => {
					if (inbound === 0) context.forwardedOut += packets;
					else context.forwardedIn += packets;
				},
				end: (i) => admission.end(i, "timeout"),
				now16: () => context.now16,
				milliseconds: () => clock.milliseconds,
			});
			this.endsFd = this.#tracked.fd;
			context.table.hooks = this.#tracked;
			this.#reconcile();
		}
		this.#queue = new QueueDriver(context, translation.memory.rx, this.#hops as KernelHops, this.#hosts, busy);
		this.queueFd = this.#queue.fd;
	}

	/** Sessions are as the kernel's entries are, and those as the policy in force has it. */
	#reconcile(): void {
		this.#keeper = (this.#with as CarrierSurroundings).inForce.keeper();
		this.#tracked?.reconcile();
	}

	breathe(fast: FastPath): number {
		const queue = this.#queue;
		const tracked = this.#tracked;
		if (queue === null || tracked === null) return 0;
		const { barrier } = this.#with as CarrierSurroundings;
		let count = 0;
		try {
			count = queue.receive();
			// What ended before these packets came has been told by now.
			tracked.drain();
			this.#fast = fast;
			if (count > 0) queue.decide(this.#decisions, count, this.#wan, this.#lanOf, this.#flush);
			if (barrier.ailing) barrier.passed(this.name);
		} catch (error) {
			barrier.failed(this.name, error);
		}
		return count;
	}

	refresh(): void {
		this.#tracked?.syncAll();
	}

	flush(): void {
		const { context } = this.#with as CarrierSurroundings;
		if (this.#tracked?.missed) this.#reconcile();
		this.#tracked?.flush();
		if (context.now === this.#aliveAt || this.queueFd < 0) return;
		this.#aliveAt = context.now;
		native.alarm(HUNG_SECONDS);
		this.#slowFlooders();
	}

	sleeps(milliseconds: number): void {
		if (this.queueFd >= 0) native.alarm(Math.ceil(milliseconds / 1000) + HUNG_SECONDS);
	}

	/**
	 * Whoever was refused hundreds of connections in the last second asks the kernel for less: what others want is
	 * decided about meanwhile.
	 */
	#slowFlooders(): void {
		const { refused } = this.#queue as QueueDriver;
		for (const [host, count] of refused) if (count >= FLOOD_RATE) this.#hosts.floods(host);
		refused.clear();
	}

	close(): void {
		native.alarm(0);
		this.#queue?.close();
		this.#queue = null;
		this.queueFd = -1;
		this.#tracked?.close();
		this.#tracked = null;
		this.endsFd = -1;
	}
}
