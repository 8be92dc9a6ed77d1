/**
 * What happens around the core between two batches: time, neighbours, routes, addresses, reloads, restarts, requests
 * and onlookers.
 *
 * Each event does what the daemon does when the kernel, the operator or a host causes it, and leaves the core in a
 * state that has to stand the next frame. Which events come, and with what, is decided by the episode's random numbers
 * alone.
 */
import { HOP_SHIFT, HOST_PLACE, HOST_PORT_SHIFT, HOST_REACHABLE, HOST_WORDS, R_HOST, R_META, R_PEER } from "../../src/conntrack/record.ts";
import { Capture } from "../../src/control/capture.ts";
import { why } from "../../src/control/dry-run.ts";
import { drops, flows, hosts, mappings } from "../../src/control/sessions.ts";
import { Watch } from "../../src/control/watch.ts";
import { ALG_BYTES } from "../../src/nat/alg.ts";
import { HAIRPIN, NO_ROUTE } from "../../src/nat/context.ts";
import type { FastPath } from "../../src/nat/fast-path.ts";
import { PCP_MAPPINGS_BYTES, PcpMappings } from "../../src/nat/pcp-mappings.ts";
import { REASON } from "../../src/nat/reason.ts";
import { renumber } from "../../src/nat/renumber.ts";
import { sessionReset } from "../../src/nat/tcp-reset.ts";
import { HOST_HEADERS, headerTag } from "../../src/packet/header-tag.ts";
import { SLOT_SIZE, swap32 } from "../../src/packet/layout.ts";
import { ANNOUNCE, MAP, PEER } from "../../src/packet/pcp-code.ts";
import { BOOT, dotted, GATEWAY_HOP, loaded, Rig, type RigOptions, SLOTS } from "../unit/rig.ts";

const MTUS = [1500, 1500, 1500, 1492, 1280, 576];
const ADDRESSES = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];

/** Where an episode's random numbers come from. */
export interface Dice {
	/** A number below `n`. */
	below(n: number): number;
	of<T>(list: readonly T[]): T;
}

/** The core of an episode and everything around it. */
export class World {
	rig: Rig;
	fast: FastPath;
	/**
	 * Why packets from inside take the slow way: a reason number, -1 for whatever their route says; null: they do not.
	 */
	impaired: number | null = null;
	/** The event at work, for a failure's message. */
	event = "";
	/** The last ones, the newest last. */
	readonly trail: string[] = [];
	/** How often each has happened. */
	readonly counts: Record<string, number> = {};
	readonly #dice: Dice;
	readonly #options: RigOptions;
	readonly #others: readonly RigOptions[];
	readonly #ftp = new ArrayBuffer(ALG_BYTES);
	readonly #pcp = new ArrayBuffer(PCP_MAPPINGS_BYTES);
	#requested: PcpMappings;
	#unroutable = false;
	#watch: Watch | null = null;
	#capture: Capture | null = null;
	readonly #events: [string, number, () => void][];

	/** `others` are configurations that a restart may bring, with the same LANs and external addresses. */
	constructor(options: RigOptions, others: readonly RigOptions[], dice: Dice) {
		this.#dice = dice;
		this.#options = options;
		this.#others = others;
		this.rig = new Rig({ ...options, ftp: this.#ftp });
		this.fast = this.rig.fast;
		this.#requested = this.#requestsOf();
		this.#events = [
			["expire", 30, () => this.#expire()],
			["second", 30, () => this.#second()],
			["neighbour", 8, () => this.#neighbour()],
			["host-moves", 8, () => this.#hostMoves()],
			["route", 10, () => this.#route()],
			["link", 6, () => this.#link()],
			["address", 4, () => this.#address()],
			["reload", 4, () => this.#reload()],
			["restart", 2, () => this.#restart()],
			["flush", 4, () => this.#flush()],
			["request", 15, () => this.#request()],
			["why", 2, () => this.#why()],
			["list", 4, () => this.#list()],
			["watch", 2, () => this.#observe()],
			["capture", 2, () => this.#record()],
		];
	}

	/** One event, by chance. */
	happen(): void {
		let r = this.#dice.below(this.#events.reduce((sum, [, weight]) => sum + weight, 0));
		for (const [name, weight, run] of this.#events) {
			r -= weight;
			if (r >= 0) continue;
			this.event = name;
			this.trail.push(name);
			if (this.trail.length > 12) this.trail.shift();
			this.counts[name] = (this.counts[name] ?? 0) + 1;
			run();
			this.event = "";
			return;
		}
	}

	#requestsOf(): PcpMappings {
		const list = new PcpMappings(this.rig.context, this.#pcp);
		list.takeOver(BOOT);
		return list;
	}

	#expire(): void {
		const { rig } = this;
		rig.at(rig.context.now + this.#dice.of([0, 1, 1, 5, 60, 300]));
		rig.admission.expire(this.#dice.of([1, 16, 256]));
		this.#requested.expire();
	}

	#second(): void {
		this.rig.at(this.rig.context.now + 1);
		this.rig.slowPath.everySecond();
	}

	/** The gateway's link address becomes known, or is forgotten. */
	#neighbour(): void {
		const { tags } = this.rig.hops;
		tags[GATEWAY_HOP] = tags[GATEWAY_HOP] === 0 ? headerTag(GATEWAY_HOP) : 0;
	}

	/** A host is not known to the neighbour table any more, or a LAN port has another MAC. */
	#hostMoves(): void {
		const { rig } = this;
		const records = rig.records();
		if (records.length > 0) {
			const { W } = rig.hosts;
			const host = 1 + this.#dice.below(rig.table.layout.hosts);
			if (rig.hosts.sessions(host) > 0 && rig.context.lan[(W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff]?.ethernet)
				W[host * HOST_WORDS + HOST_PLACE] &= ~HOST_REACHABLE;
		}
		const lan = this.#dice.of(rig.context.lan);
		lan.mac = Uint8Array.of(2, 0, 0, 0, 0x10, this.#dice.below(256));
	}

	/** Some destination's route is another one: every session looks its hop up again. */
	#route(): void {
		const { rig } = this;
		const peer = this.#dice.of(["198.51.100.8", "203.0.113.20", "8.8.8.8"]);
		const way = this.#dice.of(["gateway", "gateway", "unknown", "no-route", "elsewhere"] as const);
		rig.hops.ways.set(peer, way);
		const { T } = rig.table;
		this.#unroutable = false;
		for (const i of rig.records()) {
			const e = (i << 4) + R_META;
			if (T[e] >>> HOP_SHIFT === HAIRPIN) continue;
			const hop = rig.hops.find(T[(i << 4) + R_PEER]);
			if (hop === NO_ROUTE) this.#unroutable = true;
			T[e] = (T[e] & ~(0xff << HOP_SHIFT)) | (Math.max(0, hop) << HOP_SHIFT);
		}
		this.#judge();
	}

	#judge(): void {
		const { wan } = this.rig.context;
		this.impaired = wan.address === 0 ? REASON["no-external-address"] : this.#unroutable ? -1 : null;
	}

	#link(): void {
		const c = this.rig.context;
		this.#dice.of([c.wan, ...c.lan]).mtu = this.#dice.of(MTUS);
	}

	/** The WAN loses its address, gets it back, or gets another one. */
	#address(): void {
		const { rig } = this;
		const c = rig.context;
		if (c.wan.address !== 0 && this.#dice.below(3) === 0) {
			c.wan.address = 0;
			this.#judge();
			return;
		}
		const address = loaded(this.#dice.of(ADDRESSES));
		c.wan.address = address;
		this.#judge();
		this.#requested.follow(address);
		if (address === rig.externals.A[0]) return;
		let slot = 0;
		renumber(c, rig.admission, address, (i) => {
			const length = sessionReset(c, i, slot * SLOT_SIZE);
			if (length === 0) return;
			const place = rig.hosts.W[rig.table.T16[(i << 5) + R_HOST] * HOST_WORDS + HOST_PLACE];
			const lan = c.lan[(place >>> HOST_PORT_SHIFT) & 0xff];
			if ((place & HOST_REACHABLE) !== 0) lan.queue.push(slot * SLOT_SIZE, length, headerTag(HOST_HEADERS));
			slot = (slot + 1) % SLOTS;
			if (slot === 0) for (const l of c.lan) l.queue.count = 0;
		});
		// They went out before the next batch; what they are is the unit tests' business.
		for (const l of c.lan) l.queue.count = 0;
	}

	#reload(): void {
		const { rig } = this;
		const filtering = this.#dice.of(["apdf", "adf", "eif"] as const);
		const ranges = this.#dice.of([
			undefined,
			[{ first: 1024, last: 65535 }],
			[{ first: 40000, last: 41999 }],
			[
				{ first: 600, last: 1023 },
				{ first: 50000, last: 50063 },
			],
		]);
		const forwards = this.#dice.of([
			[],
			[{ protocol: 6, first: 2222, internal: "192.168.1.20", internalFirst: 22 }],
			[
				{ protocol: 17, first: 5000, last: 5009, internal: "192.168.1.10" },
				{ protocol: 17, first: 40001, internal: "192.168.1.30", source: "198.51.100.0/24" },
			],
		]);
		const hosts = this.#dice.of([[], [{ address: "192.168.1.30", maxSessions: 5, maxRate: 3, filtering: "eif" as const }]]);
		rig.reload({
			filtering,
			forwards,
			hosts,
			ranges,
			policy: { maxRate: this.#dice.of([0, 0, 2]), maxSessions: this.#dice.of([0, 0, 10]) },
		});
		this.#requested.withdraw();
	}

	/** Another process goes on with what a kill has left, maybe by another configuration, maybe after some time. */
	#restart(): void {
		const { rig } = this;
		const image = rig.image();
		const { context: before } = rig;
		const options = this.#dice.below(3) === 0 ? this.#dice.of([this.#options, ...this.#others]) : this.#options;
		this.rig = new Rig({
			...options,
			seed: 1 + this.#dice.below(2 ** 30),
			ftp: this.#ftp,
			from: { image, second: before.now + this.#dice.of([0, 1, 100]) },
		});
		this.fast = this.rig.fast;
		const c = this.rig.context;
		for (let n = 0; n < c.drops.length; n++) c.drops[n] = before.drops[n];
		c.wan.address = this.rig.externals.A[0];
		this.#requested = this.#requestsOf();
		this.#watch = null;
		this.#capture = null;
		this.#unroutable = false;
		this.#judge();
	}

	#flush(): void {
		const { rig } = this;
		for (const i of rig.records()) if (this.#dice.below(8) === 0) rig.admission.end(i, "flushed");
		for (const i of rig.resting()) if (this.#dice.below(8) === 0) rig.admission.end(i, "flushed");
	}

	/** A host asks for a port of its own, or gives it up. */
	#request(): void {
		const { lan } = this.rig.context;
		const port = this.#dice.below(lan.length);
		const net = this.#dice.of(lan[port].nets);
		const internal = loaded(dotted(net.address).replace(/\d+$/, String(this.#dice.of([10, 20, 30, 0, 255, 1, 2 + this.#dice.below(250)]))));
		this.#requested.handle(
			{
				version: this.#dice.of([0, 2]),
				opcode: this.#dice.of([MAP, MAP, MAP, PEER, ANNOUNCE]),
				protocol: this.#dice.of([6, 17]),
				internalPort: this.#dice.of([0, 22, 5000, 40000, 40001, 1024 + this.#dice.below(64000)]),
				suggested: this.#dice.of([0, 22, 5000, 40000, 50000, 1024 + this.#dice.below(64000)]),
				lifetime: this.#dice.of([0, 1, 600, 100_000]),
				nonce: this.#dice.of(["", "0".repeat(24)]),
				preferFailure: this.#dice.below(4) === 0,
				peer: swap32(loaded("198.51.100.7")) >>> 0,
				peerPort: 9,
			},
			this.#dice.below(8) === 0 ? loaded("192.168.1.10") : internal,
			port,
		);
	}

	/** What control needs of the daemon. */
	#owner() {
		const { rig } = this;
		return {
			context: rig.context,
			wan: { name: "wan0" },
			lan: rig.context.lan.map((_, n) => ({ name: `lan${n}` })),
			offload: null,
			impaired: this.impaired,
			lookup: (destination: number) => rig.hops.find(destination),
			passesBy: () => null,
			interpose: (wrap: ((own: FastPath) => FastPath) | null) => {
				this.fast = wrap === null ? rig.fast : wrap(rig.fast);
			},
			wallClock: () => 0,
		};
	}

	/** An operator asks what would happen to a packet: nothing changes by that. */
	#why(): void {
		const { table, context } = this.rig;
		const before = table.T.slice();
		const drops = context.drops.slice();
		const address = () => this.#dice.of(["192.168.1.10", "192.168.2.20", "203.0.113.1", "198.51.100.7", "203.0.113.100", "10.0.0.1"]);
		const end = () => `${address()}:${this.#dice.of([22, 53, 2222, 5000, 40000])}`;
		try {
			why(this.#owner(), { protocol: this.#dice.of(["tcp", "udp", "icmp"]), source: end(), destination: end() });
		} catch (error) {
			// A question that has no answer is told so in words.
			if (error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError) throw error;
		}
		for (let n = 0; n < before.length; n++) if (before[n] !== table.T[n]) throw new Error(`a question changed word ${n} of the table`);
		for (let n = 0; n < drops.length; n++) if (drops[n] !== context.drops[n]) throw new Error("a question counted a drop");
	}

	/** A client reads a list, to its end or until it goes away. */
	#list(): void {
		const owner = this.#owner();
		const lists: Iterator<unknown>[] = [
			flows(owner, { command: "flows" } as never),
			mappings(owner, { command: "mappings" } as never),
			hosts(owner as never),
			drops(owner as never),
		];
		const list = this.#dice.of(lists);
		for (let n = this.#dice.below(200); n > 0 && list.next().done !== true; n--);
	}

	/** Somebody begins or stops watching, or reads what there is. */
	#observe(): void {
		const { context } = this.rig;
		if (this.#watch === null) {
			this.#watch = new Watch(context, () => 0);
			const stream = this.#watch.subscribe(this.#dice.below(2) === 0);
			for (let n = this.#dice.below(50); n > 0 && stream.pending; n--) stream.take();
			return;
		}
		context.events = null;
		this.#watch = null;
	}

	#record(): void {
		if (this.#capture === null) {
			this.#capture = new Capture(this.#owner() as never);
			this.fast = this.#capture.wrap(this.rig.fast);
			return;
		}
		for (let n = this.#capture.oldest; n < this.#capture.count; n++) this.#capture.row(n);
		this.#capture = null;
		this.fast = this.rig.fast;
	}
}
