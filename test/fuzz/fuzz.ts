/**
 * Seeded mutation fuzzer of the core, on the real engine (run.sh): frames of every kind, whole and damaged, both ways,
 * against tables in every state.
 *
 * Theory of operation. A run is a row of episodes; each has its own random numbers (from the seed and its number), its
 * own configuration and its own tables, so a failing one can be run alone. Frames come from a corpus of valid ones, and
 * from what the core sent lately: answers to it, and ICMP errors that quote it, so that sessions get far. Most are then
 * damaged a little; headers are mostly sealed again, so that damage gets past the first check. All memory that the core
 * works on is mapped by the shim, and the engine is the sanitizer build.
 *
 * Between the batches things happen around the core (world.ts): time, neighbours, routes, addresses, reloads, restarts,
 * requests, onlookers.
 *
 * What must hold after each batch: nothing was thrown; each frame was forwarded, held for a next hop, left to the
 * kernel or dropped for one reason; every frame queued for the WAN has one of our addresses as source, every one for a
 * LAN port goes to an address of that LAN; their IPv4 headers are right; nothing was written behind a packet; no queue
 * holds more than it may. After every event, and every 1000 frames, all invariants of table, hosts and ports are
 * checked: bitmaps are the mappings, rings and lists the indexes, the counts of hosts their sessions.
 */
import * as native from "masq:native";
import { BLOCK, inNets, type LanLink, type Link } from "../../src/nat/context.ts";
import { REASON, REASONS } from "../../src/nat/reason.ts";
import { LENGTH_MASK } from "../../src/packet/header-tag.ts";
import { SLOT_SIZE } from "../../src/packet/layout.ts";
import { seededRandom } from "../unit/mutation.ts";
import { dotted, type Rig, type RigOptions, SLOTS, SPARE_BLOCKS } from "../unit/rig.ts";
import { type Frame, icmp, icmpError, other, query, sum, tcp, udp } from "../unit/rig-frame.ts";
import { World } from "./world.ts";

const EPISODE = 4000;
const VERIFY_EVERY = 1000;
const MARGIN = 64;
const MARK = 0xee;
/** Packets sent lately that are kept to be answered. */
const RECENT = 64;
/** Whole frames that are kept to be sent again, by direction and port: to make one takes many times as long. */
const STOCK = 96;
const MARK_WORD = Math.imul(MARK, 0x01010101);
/** How often a frame is damaged. */
const CHANGES = [0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 5];
const BATCHES = [1, 2, 3, 6];
/** What stands where a packet socket has the link header. */
const LINK = Uint8Array.from({ length: 14 }, (_, i) => i + 10);

const X = "203.0.113.1";
const HOSTS = ["192.168.1.10", "192.168.1.20", "192.168.1.30", "192.168.2.10", "192.168.2.20"];
const PEERS = ["203.0.113.10", "203.0.113.20", "198.51.100.7", "198.51.100.8", "8.8.8.8"];
const EXTERNALS = [X, "203.0.113.100", "203.0.113.16", "203.0.113.17", "203.0.113.77"];
const ODD = ["0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "192.168.1.255", "192.168.1.1", "203.0.113.1"];
const PORTS = [21, 1, 22, 53, 80, 443, 1023, 1024, 5000, 5005, 2222, 40000, 40001, 50000, 65535];
const FLAGS = ["S", "SA", "A", "PA", "FA", "R", "RA", "SF", "", "F", "FPU", "SR"];

const CONFIGURATIONS: RigOptions[] = [
	{ sessions: 256 },
	{ sessions: 1024, lan: [{}, {}], filtering: "eif", ranges: [{ first: 1, last: 65535 }] },
	{ sessions: 256, lan: [{ tun: true }, {}], wan: { mtu: 1280 }, ranges: [{ first: 50000, last: 50063 }] },
	{ sessions: 512, lan: [{ tun: true }], wan: { ethernet: false }, filtering: "adf" },
	// A queue that one batch, with the errors that it causes and the datagrams that it completes, does not fit into.
	{ sessions: 256, lan: [{}, {}], queue: SLOTS >> 1, filtering: "eif" },
	{
		sessions: 512,
		lan: [{ mtu: 1280 }, {}],
		forwards: [
			{ protocol: 6, first: 2222, internal: "192.168.1.20", internalFirst: 22 },
			{ protocol: 17, first: 5000, last: 5009, internal: "192.168.2.10" },
			{ protocol: 17, first: 40001, internal: "192.168.1.30", source: "198.51.100.0/24" },
		],
		statics: [{ internal: "192.168.1.10", external: "203.0.113.100" }],
		hosts: [{ address: "192.168.1.30", maxSessions: 20, filtering: "eif" }],
	},
	{
		sessions: 256,
		lan: [{}, {}],
		filtering: "eif",
		pools: [
			{ nets: ["192.168.1.0/24"], externals: ["203.0.113.16", "203.0.113.17"] },
			{ nets: ["192.168.2.0/24"], externals: ["203.0.113.77"], overload: true },
		],
		timeouts: { udp: 20, tcp_opening: 10, tcp_closing: 5, icmp: 5, other: 10 },
	},
];

/** What the FTP ALG reads, whole and in pieces. */
const LINES = [
	"USER x\r\nPORT 192,168,1,10,200,21\r\n",
	"PORT 192,168,1,",
	"EPRT |1|192.168.2.10|51221|\r\n",
	"220 x\r\n227 x (192,168,1,20,200,22)\r\n229 x (|||2000|)\r\n",
	"AUTH TLS\r\n",
	"\r\n",
].map((line) => Uint8Array.from(line, (letter) => letter.charCodeAt(0)));

/** A broken promise of the core. */
class Failure extends Error {
	constructor(
		message: string,
		readonly frame: number,
	) {
		super(message);
	}
}

const frames = native.mapFile("", SLOTS * SLOT_SIZE + SPARE_BLOCKS * BLOCK);
const B = new Uint8Array(frames);
const drops = new Float64Array(REASONS.length);
const events: Record<string, number> = {};
const totals = { frames: 0, forwarded: 0, errors: 0, left: 0, held: 0 };

function hex(bytes: Uint8Array): string {
	let text = "";
	for (const b of bytes) text += b.toString(16).padStart(2, "0");
	return text;
}

/** One episode: a rig, its random numbers, and what it sent lately. */
class Episode {
	readonly world: World;
	readonly #random: () => number;
	readonly #tunLan: boolean;
	/** The clock hardly goes on, so that the table fills. */
	readonly #slow: boolean;
	/** What left on the WAN and on LAN ports, as bytes of IPv4, cut to 200. */
	readonly #sentOut: Uint8Array[] = [];
	readonly #sentIn: Uint8Array[] = [];
	readonly #stock: Frame[][] = [];
	/** The checksums of the frame that was made last are right. */
	#whole = false;
	/** Frames of the batch that came out of the spare blocks. */
	#made = 0;
	/** Frames that the batch has brought into queues. */
	#queued = 0;
	/** LAN port that the batch at work comes from. */
	#port = 0;
	/** Input of the batch at work: virtio header, group bit, packet. */
	readonly batch: { frame: Frame; direction: number; received: number }[] = [];

	constructor(seed: number, number: number) {
		this.#random = seededRandom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b));
		const o = CONFIGURATIONS[this.#below(CONFIGURATIONS.length)];
		const memory = { frames, memory: (bytes: number) => native.mapFile("", bytes), flush: () => this.#flush() };
		const alike = CONFIGURATIONS.filter(
			(other) => other.lan?.length === o.lan?.length && other.pools === undefined && other.statics === undefined,
		);
		this.world = new World(
			{ ...o, ...memory, seed: this.#below(2 ** 31) + 1 },
			alike.map((other) => ({ ...other, ...memory })),
			{ below: (n) => this.#below(n), of: (list) => this.#of(list) },
		);
		this.#slow = this.#below(3) === 0;
		this.#tunLan = this.rig.context.lan[0].kernelForwards;
		this.rig.at(this.#below(200_000));
		for (const peer of ["198.51.100.8", "203.0.113.20"]) {
			if (this.#below(3) === 0) this.rig.hops.ways.set(peer, (["unknown", "no-route", "elsewhere"] as const)[this.#below(3)]);
		}
	}

	get rig(): Rig {
		return this.world.rig;
	}

	#below(n: number): number {
		return Math.floor(this.#random() * n);
	}

	#of<T>(list: readonly T[]): T {
		return list[this.#below(list.length)];
	}

	// ---- frames -----------------------------------------------------------------------------------------------------

	/** A valid frame from the inside (0) or the outside (1). */
	#fresh(direction: number): Frame {
		const r = this.#below(100);
		const from = direction === 0 ? this.#host() : this.#of(PEERS);
		const to = this.#below(40) === 0 ? this.#of(ODD) : direction === 0 ? this.#of(PEERS) : this.#external();
		const a = `${from}:${this.#portNumber()}`;
		const b = `${to}:${this.#portNumber()}`;
		const o = this.#options();
		if (r < 35) return udp(a, b, { ...o, checksum: this.#of(["full", "full", "partial", "zero"] as const) });
		if (r < 70) {
			const options = this.#of([[], [2, 4, 5, 180], [1, 2, 4, 5, 180], [4, 2, 1, 2, 4, 255, 255, 0]]);
			return tcp(a, b, {
				...o,
				flags: this.#of(FLAGS),
				seq: this.#below(2 ** 32),
				ack: this.#below(2 ** 32),
				options,
				checksum: this.#of(["full", "partial"] as const),
			});
		}
		if (r < 73)
			return tcp(a, b, {
				flags: "A",
				gso: 500 + this.#below(1000),
				payload: 2000 + this.#below(this.#of([4000, 4000, 60_000])),
				ttl: o.ttl,
			});
		if (r < 75) return udp(a, b, { gso: 500 + this.#below(1000), payload: 2000 + this.#below(10_000) });
		if (r < 85) return query(from, to, this.#portNumber(), { ...o, type: this.#of([8, 8, 8, 0, 13, 14]) });
		if (r < 88) return icmp(from, to, this.#below(256), this.#below(256), [1, 2, 3, 4], new Uint8Array(this.#below(60)), o);
		if (r < 93) return other(from, to, this.#of([47, 50, 33, 136, 132, 41, 0, 255]), o);
		if (r < 95) return udp(a, b, { df: false, more: this.#below(2) === 1, fragment: this.#below(3) * 10 });
		if (r < 97) return this.#fragment(a, b);
		return this.#error(
			direction,
			udp(direction === 0 ? `${to}:${this.#portNumber()}` : b, direction === 0 ? `${from}:${this.#portNumber()}` : a).ip,
		);
	}

	/** One of the three pieces of a datagram, of which there are few different ones, so that some become whole. */
	#fragment(a: string, b: string): Frame {
		const n = this.#below(3);
		const id = this.#below(4);
		const whole = udp(a.replace(/:.*/, ":40000"), b.replace(/:.*/, ":40000"), { df: false, id, payload: 152 + 8 * id }).ip;
		const at = 20 + n * 56;
		const ip = new Uint8Array([...whole.subarray(0, 20), ...whole.subarray(at, n === 2 ? whole.length : at + 56)]);
		ip.set([ip.length >> 8, ip.length & 255], 2);
		ip.set([n === 2 ? 0 : 0x20, n * 7, 64, 17, 0, 0], 6);
		const value = sum(ip, 0, 20) ^ 0xffff;
		ip.set([value >> 8, value & 255], 10);
		return { ip, partial: null, gsoType: 0, gsoSize: 0, headers: 0, group: false };
	}

	/** A host of the LAN port at work, now and then another's. */
	#host(): string {
		if (this.#slow && this.#below(2) === 0) return `192.168.${this.#port + 1}.${100 + this.#below(60)}`;
		const own = HOSTS.filter((h) => h.startsWith(`192.168.${this.#port + 1}.`));
		return this.#below(30) === 0 ? this.#of(HOSTS) : this.#of(own);
	}

	/** An external address, now and then one of another configuration. */
	#external(): string {
		const { list } = this.rig.externals;
		return this.#below(20) === 0 ? this.#of(EXTERNALS) : dotted(this.#of(list).address);
	}

	#portNumber(): number {
		return this.#below(this.#slow ? 2 : 4) === 0 ? this.#below(65536) : this.#of(PORTS);
	}

	#options() {
		return {
			ttl: this.#below(20) === 0 ? this.#below(3) : 64,
			tos: this.#below(256),
			df: this.#below(4) > 0,
			ipOptions: this.#below(8) === 0 ? this.#of([[1], [7, 7, 4, 0, 0, 0, 0], [131, 7, 4, 1, 2, 3, 4], [1, 1, 68, 4, 5, 0]]) : [],
			payload: this.#below(8) === 0 ? this.#of(LINES) : this.#below(30) === 0 ? 1200 + this.#below(400) : this.#below(60),
			group: this.#below(200) === 0,
		};
	}

	#error(direction: number, quote: Uint8Array): Frame {
		const from = direction === 0 ? this.#host() : this.#of(PEERS);
		const own = `${quote[12]}.${quote[13]}.${quote[14]}.${quote[15]}`;
		const to = direction === 0 || this.#below(10) > 0 ? own : this.#of(EXTERNALS);
		const length = Math.min(quote.length, this.#of([28, 36, 60, 200, 8]));
		return icmpError(from, to, this.#of([3, 3, 3, 11, 12, 4, 5]), this.#below(5), quote.slice(0, length), {
			mtu: 1300,
			ttl: 64 - this.#below(2) * 63,
		});
	}

	/** The answer to a packet: addresses and ports changed over, a TCP segment or an echo reply that fits. */
	#answer(sent: Uint8Array): Frame {
		const ip = sent.slice();
		ip.copyWithin(12, 16, 20);
		ip.set(sent.subarray(12, 16), 16);
		const at = (ip[0] & 15) * 4;
		ip[8] = 60;
		if (ip[9] === 6 || ip[9] === 17) {
			ip.copyWithin(at, at + 2, at + 4);
			ip.set(sent.subarray(at, at + 2), at + 2);
		}
		if (ip[9] === 6) {
			const flags = sent[at + 13];
			ip.copyWithin(at + 4, at + 8, at + 12);
			ip.set(sent.subarray(at + 4, at + 8), at + 8);
			ip[at + 13] = this.#below(8) === 0 ? this.#below(64) : (flags & 3) === 2 ? (flags & 16 ? 16 : 18) : this.#of([16, 24, 17, 4]);
			if ((flags & 2) !== 0 && (flags & 16) === 0 && ++ip[at + 11] === 0) ip[at + 10]++;
		} else if (ip[9] === 1 && (ip[at] === 8 || ip[at] === 13)) ip[at] = ip[at] === 8 ? 0 : 14;
		ip[2] = ip.length >> 8;
		ip[3] = ip.length & 255;
		return { ip, partial: null, gsoType: 0, gsoSize: 0, headers: 0, group: false };
	}

	#make(direction: number): Frame {
		const recent = direction === 0 ? this.#sentIn : this.#sentOut;
		const r = this.#below(100);
		this.#whole = recent.length === 0 || r >= 40;
		if (!this.#whole) return this.#answer(this.#of(recent));
		if (recent.length > 0 && r < 50) return this.#error(direction, this.#of(recent));
		this.#stock[direction + this.#port * 2] ??= [];
		const stock = this.#stock[direction + this.#port * 2];
		if (stock.length > 8 && r >= 65) {
			const frame = this.#of(stock);
			const again = { ...frame, ip: frame.ip.slice() };
			if (r < 90) this.#vary(again, direction);
			return again;
		}
		const frame = this.#fresh(direction);
		stock[stock.length < STOCK ? stock.length : this.#below(STOCK)] = { ...frame, ip: frame.ip.slice() };
		return frame;
	}

	/** Makes another flow of a whole frame: another port or identifier, and where the table is to fill another host. */
	#vary(frame: Frame, direction: number): void {
		const { ip } = frame;
		const header = (ip[0] & 15) * 4;
		const protocol = ip[9];
		if ((ip[6] & 0x3f) !== 0 || ip[7] !== 0 || ip.length < header + 8) return;
		const field = protocol === 6 ? header + 16 : protocol === 17 ? header + 6 : protocol === 1 ? header + 2 : 0;
		const sealed = field !== 0 && (protocol !== 17 || ip[field] + ip[field + 1] > 0);
		if (direction === 0 && this.#slow) {
			const host = ip[14] * 256 + 100 + this.#below(60);
			// The sum of a partial checksum is not complemented, ICMP's does not cover addresses.
			if (sealed && protocol !== 1) adjust(ip, field, 14, host, frame.partial !== null);
			put16(ip, 14, adjust(ip, 10, 14, host, false));
		}
		const at = protocol === 1 ? header + 4 : header + 2 * this.#below(2);
		if (protocol === 1 && ip[header] !== 8 && ip[header] !== 13) return;
		if (sealed && frame.partial === null) put16(ip, at, adjust(ip, field, at, this.#portNumber(), false));
		else if (field !== 0) put16(ip, at, this.#portNumber());
	}

	/** Damages a frame; seals most of what it damaged. */
	#mutate(frame: Frame): void {
		let { ip } = frame;
		let changes = CHANGES[this.#below(CHANGES.length)];
		if (changes === 0 && this.#whole) return;
		for (; changes > 0 && ip.length > 0; changes--) {
			const at = this.#below(2) === 0 ? this.#below(Math.min(ip.length, 60)) : this.#below(ip.length);
			switch (this.#below(9)) {
				case 0:
					ip[at] ^= 1 << this.#below(8);
					break;
				case 1:
					ip[at] = this.#below(256);
					break;
				case 2:
					ip[at] = this.#of([0, 1, 127, 128, 255]);
					break;
				case 3:
					ip = ip.slice(0, this.#below(ip.length + 1));
					break;
				case 4: {
					const longer = new Uint8Array(ip.length + 1 + this.#below(40));
					longer.set(ip);
					ip = longer;
					break;
				}
				case 5:
					if (ip.length >= 20) ip.set(this.#of([HOSTS, PEERS, EXTERNALS, ODD].flat()).split(".").map(Number), 12 + 4 * this.#below(2));
					break;
				case 6:
					ip[0] = 0x40 | this.#below(16);
					break;
				case 7:
					if (ip.length >= 4) {
						const length = this.#of([0, 19, 20, 27, 28, 39, 40, ip.length - 1, ip.length, ip.length + 1, 65535]);
						ip[2] = length >> 8;
						ip[3] = length & 255;
					}
					break;
				default:
					if (ip.length > at + 1) ip.copyWithin(this.#below(ip.length), at);
			}
		}
		frame.ip = ip;
		const header = (ip[0] & 15) * 4;
		if (ip.length >= 20 && header <= ip.length && this.#below(10) > 0) {
			ip.fill(0, 10, 12);
			const value = sum(ip, 0, Math.max(header, 20)) ^ 0xffff;
			ip[10] = value >> 8;
			ip[11] = value & 255;
		}
		const total = ip[2] * 256 + ip[3];
		if (ip[9] === 1 && header >= 20 && total <= ip.length && total >= header + 4 && this.#below(10) > 0) {
			ip.fill(0, header + 2, header + 4);
			const value = sum(ip, header, total) ^ 0xffff;
			ip[header + 2] = value >> 8;
			ip[header + 3] = value & 255;
		}
	}

	// ---- running ----------------------------------------------------------------------------------------------------

	#put(n: number, frame: Frame, link: Link): number {
		const slot = n * SLOT_SIZE;
		const { ip } = frame;
		const H = this.rig.context.views.H;
		const header = link.ethernet ? 14 : 0;
		B.fill(0, slot, slot + 10);
		if (frame.partial !== null) {
			B[slot] = 1;
			H[(slot >> 1) + 3] = frame.partial.start + header;
			H[(slot >> 1) + 4] = frame.partial.offset;
		}
		if (frame.gsoType !== 0) {
			B[slot + 1] = frame.gsoType;
			H[(slot >> 1) + 1] = frame.headers + header;
			H[(slot >> 1) + 2] = frame.gsoSize;
		}
		B.set(LINK, slot + 10);
		B[slot + 10] = frame.group ? 1 : 2;
		B.set(ip, slot + 24);
		B.fill(MARK, slot + 24 + ip.length, slot + 24 + ip.length + MARGIN);
		// The filter of a packet socket cuts a plain header with a wrong checksum off behind it; the kernel gives TUN
		// none.
		const received = ip[0] === 0x45 && ip.length >= 20 && sum(ip, 0, 20) !== 0xffff ? 20 : ip.length;
		this.rig.rx[n * 2] = slot;
		this.rig.rx[n * 2 + 1] = received;
		return received;
	}

	/** One batch, made and run; the number of its frames. */
	step(): number {
		const { rig } = this;
		const c = rig.context;
		const direction = this.#below(2);
		const port = direction === 0 && c.lan.length > 1 ? this.#below(c.lan.length) : 0;
		this.#port = port;
		const size = this.#below(8);
		const count = size < 4 ? BATCHES[size] : size === 7 ? SLOTS : 1 + this.#below(size === 6 ? SLOTS : 6);
		this.batch.length = 0;
		for (let n = 0; n < count; n++) {
			const frame = this.#make(direction);
			if (frame.ip.length > 200 || this.#below(10) > 0) this.#mutate(frame);
			const received = this.#put(n, frame, direction === 0 ? c.lan[port] : c.wan);
			this.batch.push({ frame, direction, received });
		}
		const waited = rig.slowPath.fragments.fragments;
		const before = {
			forwarded: c.forwardedOut + c.forwardedIn,
			errors: c.errorsSent + c.resetsSent,
			left: c.leftToKernel,
			drops: dropSum(c.drops),
			full: c.drops[REASON["queue-full"]],
		};
		this.#made = 0;
		this.#queued = 0;
		rig.hops.held.length = 0;
		rig.hops.answersInternal = this.#below(2) === 1;
		const { impaired } = this.world;
		if (direction === 1) this.world.fast.inbound(rig.rx, count);
		else if (impaired === null) this.world.fast.outbound(rig.rx, count, port);
		else for (let n = 0; n < count; n++) rig.slowPath.outboundImpaired(rig.rx[n * 2], rig.rx[n * 2 + 1], port, impaired);
		const forwarded = c.forwardedOut + c.forwardedIn - before.forwarded;
		const errors = c.errorsSent + c.resetsSent - before.errors;
		const left = c.leftToKernel - before.left;
		const held = rig.hops.held.length;
		this.#flush();
		const queued = this.#queued;
		if (queued !== forwarded + errors) throw new Failure(`${queued} frames queued, ${forwarded} forwarded and ${errors} errors`, -1);
		const dropped = dropSum(c.drops) - before.drops;
		// A frame that was cut counts as many times as there are pieces of it, those that found no room too.
		const full = c.drops[REASON["queue-full"]] - before.full;
		const waiting = rig.slowPath.fragments.fragments - waited;
		const account = forwarded + dropped + left + held + waiting;
		if (account < count || account > count + this.#made + held + full)
			throw new Failure(`${count} frames in: ${forwarded} forwarded, ${dropped} dropped, ${left} left, ${held} held, ${waiting} wait`, -1);
		totals.forwarded += forwarded;
		totals.errors += errors;
		totals.left += left;
		totals.held += held;
		return count;
	}

	/** Checks and empties the queues, after a batch or when there is no room in the midst of it. */
	#flush(): void {
		const { wan, lan } = this.rig.context;
		this.#queued += this.#check(wan, null);
		for (const one of lan) this.#queued += this.#check(one, one);
	}

	/** Checks and empties a queue; `lan` is null for the WAN. The number of its frames. */
	#check(link: Link, lan: LanLink | null): number {
		const { queue } = link;
		const c = this.rig.context;
		if (queue.count * 2 > queue.pairs.length) throw new Failure(`a queue of ${queue.pairs.length / 2} holds ${queue.count} frames`, -1);
		for (let n = 0; n < queue.count; n++) {
			const slot = queue.pairs[n * 2];
			const length = queue.pairs[n * 2 + 1] & LENGTH_MASK;
			const number = slot / SLOT_SIZE;
			const input = this.batch[number];
			const fail = (what: string): never => {
				throw new Failure(
					`${lan === null ? "WAN" : "LAN"}: ${what}: ${hex(B.subarray(slot + 24, slot + 24 + Math.min(length, 100)))}`,
					number,
				);
			};
			if (slot >= SLOTS * SLOT_SIZE && length <= BLOCK - 24) this.#made++;
			else if (input === undefined) fail("a slot that was not given");
			const ip = slot + 24;
			const header = (B[ip] & 15) * 4;
			if (B[ip] >> 4 !== 4 || header < 20 || header > length) fail("header length");
			if (B[ip + 2] * 256 + B[ip + 3] !== length) fail(`total length, ${length} queued`);
			let s = 0;
			for (let i = ip; i < ip + header; i += 2) s += B[i] * 256 + B[i + 1];
			s = (s & 0xffff) + (s >> 16);
			if ((s & 0xffff) + (s >> 16) !== 0xffff) fail("header checksum");
			const P = c.views.P;
			if (lan === null && c.externals.find(P[(ip >> 2) + 3]) < 0) fail("LEAK, a source that is not ours");
			if (lan !== null && !inNets(lan.nets, P[(ip >> 2) + 4])) fail("not to an inside address");
			if (B[ip + 8] === 0) fail("no hop left");
			// Only what begins with an ICMP header and is whole has its checksum there.
			const type = (B[ip + 6] & 0x3f) === 0 && B[ip + 7] === 0 ? B[ip + header] : -1;
			if (B[ip + 9] === 1 && (type === 3 || type === 11 || type === 12) && B[slot] === 0 && sum(B, ip + header, ip + length) !== 0xffff)
				fail("ICMP checksum");
			if (length === input?.frame.ip.length) {
				const end = ip + length + MARGIN;
				let i = ip + length;
				while ((i & 3) !== 0 && B[i] === MARK) i++;
				while (i + 4 <= end && P[i >> 2] === MARK_WORD) i += 4;
				while (i < end && B[i] === MARK) i++;
				if (i < end) fail(`byte ${i - ip} behind the packet written`);
			}
			const list = lan === null ? this.#sentOut : this.#sentIn;
			if (length < 2000 && (B[ip + 6] & 0x3f) === 0 && B[ip + 7] === 0)
				list[list.length < RECENT ? list.length : this.#below(RECENT)] = B.slice(ip, ip + Math.min(length, 200));
		}
		const { count } = queue;
		queue.count = 0;
		return count;
	}

	/** What happens between two batches; all that it sends is checked too. False if nothing did. */
	happen(): boolean {
		if (this.#below(this.#slow ? 12 : 4) !== 0) return false;
		const { rig } = this;
		this.batch.length = 0;
		this.world.happen();
		if (this.world.rig !== rig) {
			this.#sentOut.length = 0;
			return true;
		}
		this.#flush();
		return true;
	}

	/** What a reader needs to know about the episode. */
	describe(): string {
		return `${this.rig.context.lan.length} LAN ports${this.#tunLan ? " (tun)" : ""}, ${this.rig.table.used} sessions`;
	}
}

function put16(bytes: Uint8Array, at: number, value: number): void {
	bytes[at] = value >> 8;
	bytes[at + 1] = value & 255;
}

/** Makes a checksum at `field` right for `value` at `at` (RFC 1624, the sum itself if `plain`); returns the value. */
function adjust(ip: Uint8Array, field: number, at: number, value: number, plain: boolean): number {
	const flip = plain ? 0 : 0xffff;
	let total = ((ip[field] * 256 + ip[field + 1]) ^ flip) + ((ip[at] * 256 + ip[at + 1]) ^ 0xffff) + value;
	while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
	put16(ip, field, total ^ flip);
	return value;
}

function dropSum(list: Float64Array): number {
	let n = 0;
	for (let i = 0; i < list.length; i++) n += list[i];
	return n;
}

/** Runs one episode of `most` frames; throws what it finds. */
function runEpisode(seed: number, number: number, most: number): void {
	const episode = new Episode(seed, number);
	let done = 0;
	let verified = 0;
	try {
		while (done < most) {
			if (episode.happen()) episode.rig.verify();
			done += episode.step();
			if (done - verified >= VERIFY_EVERY || done >= most) {
				verified = done;
				episode.rig.verify();
			}
		}
	} catch (error) {
		const e = error as Error;
		const at = e instanceof Failure ? e.frame : -1;
		const event = episode.world.event === "" ? "" : `, event ${episode.world.event}`;
		const lines = [
			`FAIL seed ${seed}, episode ${number}, frame ${done + Math.max(at, 0)} of it${event} (${episode.describe()}): ${e.message}`,
		];
		if (!(e instanceof Failure)) lines.push(e.stack ?? "");
		lines.push(`before it: ${episode.world.trail.join(", ")}`);
		episode.batch.forEach(({ frame, direction, received }, n) => {
			if (at >= 0 && n !== at) return;
			const extra = `${frame.partial ? " partial" : ""}${frame.gsoType ? ` gso ${frame.gsoSize}` : ""}${received === frame.ip.length ? "" : ` cut to ${received}`}`;
			lines.push(
				`frame ${n} ${direction === 0 ? "from LAN" : "from WAN"}, ${frame.ip.length} bytes${extra}: ${hex(frame.ip.subarray(0, 300))}`,
			);
		});
		lines.push(`replay: test/fuzz/run.sh ${most} ${seed} ${number}`);
		native.print(1, `${lines.join("\n")}\n`);
		throw error;
	} finally {
		totals.frames += done;
		for (let i = 0; i < drops.length; i++) drops[i] += episode.rig.context.drops[i];
		for (const [name, count] of Object.entries(episode.world.counts)) events[name] = (events[name] ?? 0) + count;
	}
}

function main(words: string[]): number {
	const most = Number(words[0]);
	const seed = Number(words[1]);
	const [, number, onward] = /^(\d+)(\.\.)?$/.exec(words[2] ?? "0..") ?? [];
	const first = Number(number);
	if (!Number.isInteger(most) || !Number.isInteger(seed) || most < 1 || !Number.isInteger(first)) {
		native.print(2, "usage: fuzz FRAMES SEED [EPISODE | FIRST-EPISODE..]\n");
		return 2;
	}
	native.print(1, `fuzz: ${most} frames, seed ${seed}${words[2] === undefined ? "" : `, episode ${words[2]}`}\n`);
	const began = native.nanoseconds();
	let failed = 0;
	try {
		if (onward === undefined) runEpisode(seed, first, most);
		else for (let n = first; n * EPISODE < most; n++) runEpisode(seed, n, Math.min(EPISODE, most - n * EPISODE));
	} catch {
		failed = 1;
	}
	const seconds = (native.nanoseconds() - began) / 1e9;
	native.print(1, `${totals.frames} frames in ${seconds.toFixed(1)} s, ${Math.round(totals.frames / seconds)} a second\n`);
	native.print(
		1,
		`${totals.forwarded} forwarded, ${totals.held} held, ${totals.left} left to the kernel, ${dropSum(drops)} dropped, ${totals.errors} errors sent\n`,
	);
	for (const [n, reason] of REASONS.entries()) if (drops[n] > 0) native.print(1, `  ${reason[0].padEnd(22)} ${drops[n]}\n`);
	const happened = Object.entries(events).map(([name, count]) => `${name} ${count}`);
	native.print(1, `events: ${happened.join(", ")}\n`);
	native.print(1, `${1 - failed} passed, ${failed} failed\n`);
	return failed;
}

native.exit(main(native.args()));
