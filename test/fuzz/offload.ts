/**
 * The offload held against the slow path, on the real engine and the real kernel (run-offload.sh): seeded frames, most
 * of them mutated, go through the BPF programs by BPF_PROG_TEST_RUN and through the core (nat/fast-path.ts,
 * nat/slow-path.ts), and both have to do the same.
 *
 * Theory of operation. An episode has two cores that are made alike and stay so. The first one never hears of an
 * offload. The second one has the daemon's own (Offload: cache, programs, what goes in and comes home), and gets a
 * frame only if the program of the port that it came by has passed it up. What must hold for each frame: a program that
 * passes it has changed nothing, neither in the frame nor in its counters; one that sends it sends the very bytes that
 * the first core does (but for the identification of what may be fragmented), out of the same device; and the cores do
 * the same with what was passed up. Now and then, and at the end: states, counters, last use and acknowledgment numbers
 * of all sessions are the same, once the cache has told what it has seen.
 *
 * Frames are of sessions that are there, from either side, or open new ones; they come by the right port or by another,
 * also with both sides' words swapped. The kernel's part of the tun driver (it forwards between the LAN and the TUN
 * device) is played here. BPF_PROG_TEST_RUN gives every frame an Ethernet header, no VLAN tag and a full checksum, and
 * does not tell where a packet is redirected: so of the programs that are run the call that redirects is replaced by
 * its argument, and for a WAN without Ethernet headers what is asked of the frame's kind.
 */
import * as native from "masq:native";
import { R_ACK_IN, R_ACK_OUT, R_IN, R_META, R_OUT, R_PACKETS_IN, R_PACKETS_OUT, R_PEER } from "../../src/conntrack/record.ts";
import { BLOCK } from "../../src/nat/context.ts";
import { LITTLE_ENDIAN } from "../../src/offload/asm.ts";
import { Offload } from "../../src/offload/offload.ts";
import { formatAddress, parseAddress } from "../../src/packet/address.ts";
import { addressValue, firstOf, ICMP, SLOT_SIZE, secondOf, swap16, swap32, TCP, UDP } from "../../src/packet/layout.ts";
import { seededRandom } from "../unit/mutation.ts";
import { dotted, loaded, macOf, Rig, type RigOptions, SLOTS, SPARE_BLOCKS, WAN_ADDRESS, WAN_MAC } from "../unit/rig.ts";
import { type Frame, query, readPacket, sealHeader, sum, tcp, udp } from "../unit/rig-frame.ts";

const EPISODE = 2500;
const ETHER = 14;
const SCHED_CLS = 3;
const PASSED = -1;
/** struct __sk_buff: words of the context, and those that may be set. */
const CONTEXT_WORDS = 48;
const GSO_SEGMENTS = 164 / 4;
const GSO_SIZE = 176 / 4;
/** Devices of the namespace: the WAN's, then those of the LANs; not small, so that no number is a verdict. */
const INDEXES = [100, 101, 102];
const WAN = -1;
/** Seconds in which the sweep has come by: its longest time between two looks, and its longest. */
const SWEEP = 30 + 16;
/** Bytes of a packet that may be too big for a device. */
const LARGE = 1200;

const PEERS = ["203.0.113.10", "198.51.100.7", "8.8.8.8"];
const PORTS = [80, 443, 5000, 40000];

const CONFIGURATIONS: (RigOptions & { name: string })[] = [
	{ name: "one address, two LANs", lan: [{}, {}] },
	{
		name: "static and pool",
		lan: [{}, {}],
		statics: [{ internal: "192.168.1.10", external: "203.0.113.100" }],
		pools: [{ nets: ["192.168.2.0/24"], externals: ["203.0.113.16", "203.0.113.17"], overload: true }],
	},
	{ name: "tun and packet, small WAN", lan: [{ tun: true }, {}], wan: { mtu: 1280 } },
	{
		name: "two tuns, forward, one small",
		lan: [{ tun: true }, { tun: true, mtu: 1280 }],
		forwards: [{ protocol: UDP, first: 5000, internal: "192.168.1.20" }],
	},
	{ name: "WAN without headers", lan: [{}, {}], wan: { ethernet: false }, filtering: "eif" },
	{ name: "WAN without headers, tun", lan: [{ tun: true }], wan: { ethernet: false } },
];

/** What a program did with a frame. */
interface Run {
	/** Device that it sent it from, PASSED if it passed it up. */
	to: number;
	bytes: Uint8Array;
}

/** A frame of a port: its packet, what follows it there, and the MAC that it is for. */
interface Arrival {
	port: number;
	frame: Frame;
	padding: number;
	ours: boolean;
	ethertype: number;
}

function macBytes(mac: string): Uint8Array {
	return Uint8Array.from(mac.split(":"), (n) => Number.parseInt(n, 16));
}

function hex(bytes: Uint8Array): string {
	return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/**
 * A program with the call that redirects replaced by "its result is the device", and, `headerless`, with the answers to
 * "IPv4?" and "for us?".
 */
function observable(program: ArrayBuffer, headerless: boolean): ArrayBuffer {
	const view = new DataView(program.slice(0));
	const put = (at: number, opcode: number, to: number, from: number, immediate: number) => {
		view.setUint8(at, opcode);
		view.setUint8(at + 1, LITTLE_ENDIAN ? (from << 4) | to : (to << 4) | from);
		view.setInt16(at + 2, 0, LITTLE_ENDIAN);
		view.setInt32(at + 4, immediate, LITTLE_ENDIAN);
	};
	for (let at = 0; at < view.byteLength; at += 8) {
		const wide = view.getUint8(at) === 0x18;
		if (view.getUint8(at) === 0x85 && view.getInt32(at + 4, LITTLE_ENDIAN) === 23) put(at, 0xbf, 0, 1, 0);
		if (headerless && view.getUint8(at) === 0x61 && view.getInt16(at + 2, LITTLE_ENDIAN) === 16 && at < 64)
			put(at, 0xb7, 1, 0, LITTLE_ENDIAN ? 0x0008 : 0x0800);
		if (headerless && view.getUint8(at) === 0x61 && view.getInt16(at + 2, LITTLE_ENDIAN) === 4 && at < 64) put(at, 0xb7, 1, 0, 0);
		if (wide) at += 8;
	}
	return view.buffer;
}

class Episode {
	readonly name: string;
	/** The core alone, and the one with the offload. */
	readonly #slow: Rig;
	readonly #fast: Rig;
	readonly #offload: Offload;
	readonly #programs = new Map<number, native.Fd>();
	readonly #random: () => number;
	readonly #wanEthernet: boolean;
	/** What came lately, for the report of a failure. */
	readonly #recent: string[] = [];
	/**
	 * The latest acknowledgment number: they never go back, because of segments that took different ways nobody knows
	 * which was first.
	 */
	#ack = 1000;
	#carried = 0;
	#passed = 0;

	constructor(seed: number, number: number) {
		this.#random = seededRandom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b));
		const { name, ...o } = CONFIGURATIONS[number % CONFIGURATIONS.length];
		this.name = name;
		const made = () => new Rig({ ...o, sessions: 256, seed: 7, frames: native.mapFile("", SLOTS * SLOT_SIZE + SPARE_BLOCKS * BLOCK) });
		this.#slow = made();
		this.#fast = made();
		for (const rig of [this.#slow, this.#fast]) {
			rig.strict = rig.margin = rig.accounts = false;
			rig.hops.answersInternal = true;
		}
		this.#wanEthernet = o.wan?.ethernet ?? true;
		const rig = this.#fast;
		const c = rig.context;
		this.#offload = new Offload(
			{
				table: rig.table,
				hosts: rig.hosts,
				headers: c.headers,
				tags: rig.hops.tags,
				addresses: rig.externals.A,
				seconds: () => c.now | 0,
				now16: () => c.now16,
				milliseconds: () => c.now * 1000,
				neighbour: (_, host) => ({ address: host, mac: macBytes(macOf(formatAddress(host))) }),
				routeMtu: () => 0,
				mtuTo: () => c.wan.mtu,
				inUse: () => {},
				attachClassic: () => {},
				detachClassic: () => {},
			},
			null,
		);
		const externals = rig.externals.list.map((_, n) => addressValue(rig.externals.A[n]));
		const mac = (n: number) => c.lan[n].mac;
		this.#offload.renew({
			wan: { index: INDEXES[0], ethernet: this.#wanEthernet, mtu: c.wan.mtu, mac: macBytes(WAN_MAC) },
			lan: c.lan.map((lan, n) => ({
				index: INDEXES[n + 1],
				ethernet: true,
				mtu: lan.mtu,
				mac: mac(n),
				kernelForwards: lan.kernelForwards,
				nets: lan.nets.map((net) => ({ address: addressValue(net.address), mask: addressValue(net.mask) })),
			})),
			externals: externals.map((first) => ({ first, last: first })),
			filters: "",
			standsBack: false,
		});
		rig.table.hooks = this.#offload;
		c.headers.changed = (n) => this.#offload.linkChanged(n);
		c.ipIds = 0x7fff;
		for (let port = WAN; port < c.lan.length; port++) {
			const program = observable(this.#offload.program(INDEXES[port + 1]), port === WAN && !this.#wanEthernet);
			this.#programs.set(port, native.bpfProgramLoad(SCHED_CLS, program, "masqd_test", null));
		}
	}

	close(): void {
		for (const fd of this.#programs.values()) native.close(fd);
		this.#offload.close();
	}

	get summary(): string {
		return `${this.#carried} by the programs, ${this.#passed} passed up`;
	}

	/** What came lately of the hosts that a failure's message names by their external endpoint, or all of the last. */
	recent(message: string): string {
		const external = /203\.0\.113\.\d+:\d+/.exec(message.replace(/.*\n {2}core: {4}\S+ \S+ /s, ""))?.[0];
		const internal = /core: {4}\S+ (\S+)/.exec(message)?.[1];
		const of = message.startsWith("session")
			? this.#recent.filter((line) => line.includes(external ?? "") || line.includes(internal ?? ""))
			: this.#recent;
		return of.slice(-14).join("\n    ");
	}

	get carried(): number {
		return this.#carried;
	}

	#below(n: number): number {
		return Math.floor(this.#random() * n);
	}

	#of<T>(list: readonly T[]): T {
		return list[this.#below(list.length)];
	}

	#once(n: number): boolean {
		return this.#below(n) === 0;
	}

	// ---- frames -----------------------------------------------------------------------------------------------------

	#arrival(): Arrival {
		const records = this.#slow.records();
		const fresh = records.length === 0 || this.#once(records.length < 20 ? 4 : 30);
		const made = fresh ? this.#fresh() : this.#known(this.#of(records));
		const a: Arrival = {
			...made,
			padding: this.#once(8) ? 1 + this.#below(20) : 0,
			ours: !this.#once(60),
			ethertype: this.#once(60) ? this.#of([0x88cc, 0x8100, 0x0806]) : 0x0800,
		};
		if (this.#once(15)) a.port = this.#below(this.#slow.context.lan.length + 1) - 1;
		if (a.frame.ip.length < 60 && a.frame.gsoType === 0 && this.#once(3)) a.padding = 46 - Math.min(46, a.frame.ip.length);
		if (this.#once(3)) this.#mutate(a.frame);
		// Which acknowledgment number a segment without ACK has is nobody's business, and the core takes it in one
		// state and not in others.
		const { ip } = a.frame;
		if (a.frame.gsoType !== 0) a.padding = 0;
		// Without a link header BPF_PROG_TEST_RUN takes these two bytes of the source for a type, and a short packet
		// for a broken one.
		const taken = a.port === WAN && !this.#wanEthernet && [0x0800, 0x86dd].includes(ip[12] * 256 + ip[13]);
		if (taken) return this.#arrival();
		return ip[9] === TCP && ip.length >= 40 && (ip[(ip[0] & 15) * 4 + 13] & 0x17) === 0 ? this.#arrival() : a;
	}

	#fresh(): { port: number; frame: Frame } {
		const port = this.#below(this.#slow.context.lan.length);
		const from = `192.168.${port + 1}.${this.#of([10, 20, 30])}`;
		const peer = this.#of(PEERS);
		const a = `${from}:${this.#of(PORTS)}`;
		const b = `${peer}:${this.#of(PORTS)}`;
		const r = this.#below(10);
		const frame = r < 4 ? udp(a, b) : r < 8 ? tcp(a, b, { flags: "S", seq: this.#ack }) : query(from, peer, this.#of(PORTS));
		return { port, frame };
	}

	/** A frame of a session, from either side. */
	#known(i: number): { port: number; frame: Frame } {
		const { table, hosts, context, externals } = this.#slow;
		const t = table.T;
		const e = i << 4;
		const outbound = this.#once(2);
		const internal = dotted(t[e]);
		const peer = dotted(t[e + R_PEER]);
		const external = dotted(externals.A[(t[e + R_META] >> 8) & 0xff]);
		const internalPort = swap16(firstOf(t[e + R_OUT]));
		const peerPort = swap16(secondOf(t[e + R_OUT]));
		const externalPort = swap16(secondOf(t[e + R_IN]));
		const [from, fromPort, to, toPort] = outbound ? [internal, internalPort, peer, peerPort] : [peer, peerPort, external, externalPort];
		const home = (hosts.W[hosts.find(t[e]) * 4 + 1] >>> 16) & 0xff;
		const swapped = this.#once(25);
		const a = swapped ? `${to}:${toPort}` : `${from}:${fromPort}`;
		const b = swapped ? `${from}:${fromPort}` : `${to}:${toPort}`;
		const port = outbound ? home : WAN;
		const protocol = t[e + R_META] & 0xff;
		const mtu = Math.min(context.wan.mtu, context.lan[home].mtu);
		const o = {
			ttl: this.#once(12) ? this.#of([0, 1, 2, 3, 255]) : 64,
			tos: this.#once(10) ? this.#below(256) : 0,
			df: !this.#once(6),
			payload: this.#once(10) ? mtu - 60 + this.#below(40) : this.#below(40),
			ipOptions: this.#once(25) ? [1, 1, 1, 0] : [],
			more: this.#once(60),
			fragment: this.#once(60) ? this.#below(100) : 0,
		};
		if (protocol === UDP) {
			if (this.#once(30)) return { port, frame: udp(a, b, { ttl: o.ttl, gso: 500 + this.#below(900), payload: 2000 + this.#below(1000) }) };
			return { port, frame: udp(a, b, { ...o, checksum: this.#once(8) ? "zero" : "full" }) };
		}
		if (protocol === ICMP)
			return {
				port,
				frame: query(swapped ? to : from, swapped ? from : to, outbound ? internalPort : externalPort, { ...o, type: outbound ? 8 : 0 }),
			};
		return { port, frame: this.#segment(i, outbound, a, b, o) };
	}

	#segment(i: number, outbound: boolean, a: string, b: string, o: { ttl: number; payload: number }): Frame {
		const { T } = this.#slow.table;
		const e = i << 4;
		const other = swap32(T[e + (outbound ? R_ACK_IN : R_ACK_OUT)]) >>> 0;
		this.#ack += this.#below(3000);
		const ack = this.#ack;
		const near = (other + (this.#once(6) ? this.#of([-1, 65535, 65536, 2 ** 31]) : this.#below(3000))) >>> 0;
		const flags = this.#once(5)
			? this.#of(["S", "SA", "FA", "F", "R", "RA", "R", "RA", "", "P", "SR", "FR", "FPU"])
			: this.#of(["A", "A", "A", "PA", "FA"]);
		const seq = flags.includes("S") ? ack : near;
		if (flags === "A" && this.#once(20))
			return tcp(a, b, { flags, seq, ack, ttl: o.ttl, gso: 500 + this.#below(900), payload: 2000 + this.#below(1000) });
		return tcp(a, b, { ...o, flags, seq, ack, options: this.#once(4) ? [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8] : [] });
	}

	/** One change somewhere in the headers, or of the length; mostly the header's sum is made right again. */
	#mutate(frame: Frame): void {
		const { ip } = frame;
		const header = frame.ip.length >= 20 ? (ip[0] & 15) * 4 : 0;
		switch (this.#below(6)) {
			case 0:
				ip[this.#below(20)] = this.#below(256);
				break;
			case 1:
				ip[this.#below(20)] ^= 1 << this.#below(8);
				break;
			case 2:
				// Ports, flags, offsets, sums: but not TCP's numbers, which are chosen with care.
				for (const at of [header + this.#of([0, 1, 2, 3, 12, 13, 14, 15, 16, 17])]) if (at < ip.length) ip[at] ^= 1 << this.#below(8);
				break;
			case 3:
				// BPF_PROG_TEST_RUN refuses what is too short for an IPv4 header.
				frame.ip = ip.slice(0, 20 + this.#below(Math.min(ip.length - 20, 50)));
				break;
			case 4:
				ip.set([0, this.#below(80)], 2);
				break;
			default:
				ip.copyWithin(12, 16, 20);
		}
		if (frame.ip.length >= 20 && !this.#once(8)) sealHeader(frame.ip);
		frame.partial = null;
		if (frame.ip.length !== ip.length) frame.gsoType = 0;
	}

	// ---- both ways --------------------------------------------------------------------------------------------------

	/** What the program of a port does with a frame. */
	#run(a: Arrival): { run: Run; given: Uint8Array } {
		const headerless = a.port === WAN && !this.#wanEthernet;
		const given = new Uint8Array((headerless ? 0 : ETHER) + a.frame.ip.length + a.padding);
		given.fill(0xa5, given.length - a.padding);
		if (!headerless) {
			// The loopback device's address is all zeros.
			given.set(a.ours ? [0, 0, 0, 0, 0, 0] : [2, 0, 0, 0, 0, 0x77]);
			given.set([2, 9, 9, 9, 9, 9, a.ethertype >> 8, a.ethertype & 255], 6);
		}
		given.set(this.#completed(a.frame), headerless ? 0 : ETHER);
		const out = new ArrayBuffer(given.length + 64);
		const context = new Int32Array(CONTEXT_WORDS);
		if (a.frame.gsoType !== 0) {
			context[GSO_SIZE] = a.frame.gsoSize;
			context[GSO_SEGMENTS] = 2;
		}
		const [to, length] = native.bpfProgramRun(this.#programs.get(a.port) as native.Fd, given.buffer, out, context.buffer);
		return { run: { to, bytes: new Uint8Array(out, 0, length) }, given };
	}

	/** The bytes of a frame with its partial checksum made a full one. */
	#completed(frame: Frame): Uint8Array {
		if (frame.partial === null) return frame.ip;
		const ip = frame.ip.slice();
		const at = frame.partial.start + frame.partial.offset;
		const value = sum(ip, frame.partial.start, ip.length) ^ 0xffff;
		const shown = value === 0 && ip[9] === UDP ? 0xffff : value;
		ip.set([shown >> 8, shown & 255], at);
		return ip;
	}

	/** One core's own way of a frame: device, bytes and what else came of it. */
	#core(rig: Rig, a: Arrival): { to: number; ether: string; bytes: Uint8Array; rest: string } {
		const nothing = { to: PASSED, ether: "", bytes: new Uint8Array(0), rest: "the kernel's" };
		const lan = a.port === WAN ? null : rig.context.lan[a.port];
		if ((a.port !== WAN || this.#wanEthernet) && (!a.ours || a.ethertype !== 0x0800)) return nothing;
		if (a.frame.ip.length < 20) return nothing;
		let frame = { ...a.frame, ip: new Uint8Array(a.frame.ip.length + a.padding).fill(0xa5) };
		frame.ip.set(a.frame.ip);
		if (lan?.kernelForwards) {
			const ip = this.#forwarded(frame, rig);
			if (ip === null) return nothing;
			frame = { ...frame, ip };
		}
		const outcome = a.port === WAN ? rig.in(frame) : rig.out(frame, a.port);
		const sent = [
			...outcome.wan.map((packet) => ({ to: INDEXES[0], packet, port: WAN })),
			...outcome.lan.flatMap((list, n) => list.map((packet) => ({ to: INDEXES[n + 1], packet, port: n }))),
		];
		const rest = `${outcome.drops.join()} ${outcome.left} ${outcome.held.length} ${sent.map((s) => s.packet.line).join()}`;
		if (sent.length !== 1 || outcome.errors > 0) return { ...nothing, rest };
		const [{ to, packet, port }] = sent;
		let bytes = this.#completed({ ...frame, ip: packet.bytes, partial: packet.partial });
		let ether = packet.ether === null ? "" : `${packet.ether.to} ${packet.ether.from}`;
		if (port !== WAN && rig.context.lan[port].kernelForwards) {
			// Out of the TUN device the kernel forwards it once more.
			if (bytes.length > rig.context.lan[port].mtu && packet.gsoType === 0) return { ...nothing, rest };
			bytes = hopped(bytes);
			ether = `${macOf(`${bytes[16]}.${bytes[17]}.${bytes[18]}.${bytes[19]}`)} ${[...rig.context.lan[port].mac].map((b) => b.toString(16).padStart(2, "0")).join(":")}`;
		}
		return { to, ether, bytes, rest };
	}

	/** What the kernel sends to the TUN device of a frame from the LAN, null for nothing. */
	#forwarded(frame: Frame, rig: Rig): Uint8Array<ArrayBuffer> | null {
		const { ip } = frame;
		const header = (ip[0] & 15) * 4;
		const total = ip[2] * 256 + ip[3];
		if (
			ip[0] >> 4 !== 4 ||
			header < 20 ||
			header > ip.length ||
			total < header ||
			total > ip.length ||
			sum(ip, 0, header) !== 0xffff ||
			ip[8] < 2
		)
			return null;
		const source = (ip[12] << 24) | (ip[13] << 16) | (ip[14] << 8) | ip[15];
		const destination = (ip[16] << 24) | (ip[17] << 16) | (ip[18] << 8) | ip[19];
		const c = rig.context;
		const elsewhere = (at: number) =>
			c.lan.some((lan) => lan.nets.some((net) => ((swap32(at) ^ net.address) & net.mask) === 0)) || rig.externals.find(swap32(at)) >= 0;
		const odd = (at: number) => at >>> 28 >= 14 || at >>> 24 === 0 || at >>> 24 === 127;
		if (elsewhere(destination) || odd(destination) || odd(source)) return null;
		if (frame.gsoType === 0 && total > c.wan.mtu) return null;
		return hopped(ip.slice(0, total));
	}

	/** One frame, both ways. Throws what is not the same. */
	step(): void {
		if (this.#once(50)) this.#later();
		const a = this.#arrival();
		// The one segment of an established connection that user space has without a flag that makes it ask the cache:
		// after a reset that the program has carried it revives the session only in another second than its last use,
		// else with the next segment.
		if (a.frame.ip[9] === TCP && a.frame.ip.length > LARGE) this.#later();
		const before = this.#counted();
		const { run, given } = this.#run(a);
		const one = this.#core(this.#slow, a);
		this.#recent.push(
			`${this.#slow.context.now}: ${a.port === WAN ? "wan" : `lan ${a.port}`} ${readPacket(a.frame.ip).line} ${hex(a.frame.ip.subarray(0, 44))} > ${run.to}; ${one.rest}`,
		);
		if (this.#recent.length > 400) this.#recent.shift();
		const fail = (what: string): never => {
			const c = this.#slow;
			throw new Error(
				`${what}\n  in by ${a.port === WAN ? "wan" : `lan ${a.port}`}: ${hex(given)} gso ${a.frame.gsoType && a.frame.gsoSize}\n` +
					`  program: ${run.to} ${hex(run.bytes)}\n  core: ${one.to} ${one.ether} ${hex(one.bytes)}: ${one.rest}\n  ${c.flows().join("\n  ")}`,
			);
		};
		if (run.to === PASSED) {
			this.#passed++;
			if (hex(run.bytes) !== hex(given)) fail("passed up, but changed");
			if (this.#counted() !== before) fail("passed up, but counted");
			const other = this.#core(this.#fast, a);
			if (other.rest !== one.rest || other.to !== one.to) fail(`passed up, and the core does otherwise: ${other.to} ${other.rest}`);
		} else {
			this.#carried++;
			if (this.#counted() !== before + 1) fail("sent, but not counted");
			if (one.to !== run.to) fail("sent, where the core does not");
			this.#same(a, run, one, fail);
		}
		if (this.#once(10)) this.compare();
	}

	#same(a: Arrival, run: Run, one: { ether: string; bytes: Uint8Array }, fail: (what: string) => never): void {
		const withHeader = run.to !== INDEXES[0] || this.#wanEthernet;
		const headerless = a.port === WAN && !this.#wanEthernet;
		const sent = run.bytes.slice(headerless && !withHeader ? 0 : ETHER);
		const mac = (at: number) => [...run.bytes.subarray(at, at + 6)].map((b) => b.toString(16).padStart(2, "0")).join(":");
		if (withHeader && `${mac(0)} ${mac(6)}` !== one.ether) fail("another link header");
		if (withHeader && run.bytes[12] * 256 + run.bytes[13] !== 0x0800) fail("another type");
		const p = readPacket(sent);
		const mayBeCut = (sent[6] & 0x40) === 0 && run.to === INDEXES[0];
		for (const ip of [sent, one.bytes]) if (mayBeCut) sealHeader(ip.fill(0, 4, 6));
		if (sum(sent, 0, 20) !== 0xffff) fail("header checksum");
		if (hex(sent) !== hex(one.bytes)) fail(`other bytes (${p.line})`);
	}

	#counted(): number {
		const { packetsOut, packetsIn } = this.#offload.status("on");
		return packetsOut + packetsIn;
	}

	/** A second or more goes by. */
	#later(): void {
		const now = this.#slow.context.now + 1 + this.#below(2);
		this.#slow.at(now);
		this.#fast.at(now);
		this.#offload.everySecond();
	}

	/** All sessions of both cores. */
	compare(): void {
		const { table: one } = this.#slow;
		const { table: two } = this.#fast;
		for (let i = 1; i <= one.layout.sessions; i++) {
			if (one.state(i) === 0 && two.state(i) === 0) continue;
			this.#offload.sync(i);
			const kernel = this.#offload.counters(i);
			const age = this.#offload.age(i);
			const e = i << 4;
			const now = this.#slow.context.now16;
			const facts = (t: typeof one, more: number[]) => {
				const tcp = (t.T[e + R_META] & 0xff) === TCP;
				const [out, back] = t.bytes(i);
				return [
					`packets ${t.T[e + R_PACKETS_OUT] + more[0]} ${t.T[e + R_PACKETS_IN] + more[1]} bytes ${out + more[2]} ${back + more[3]}`,
					tcp ? `acks ${swap32(t.T[e + R_ACK_OUT]) >>> 0} ${swap32(t.T[e + R_ACK_IN]) >>> 0}` : "",
				].join(" ");
			};
			// A sweep makes a session younger by as much as it takes, and so does the search for its place in the list
			// of its timeout (table.ts).
			const own = one.age(i, now);
			const least = age < 0 ? two.age(i, now) : Math.min(age, two.age(i, now));
			const aged = Math.abs(own - least) <= SWEEP ? own : least;
			const first = `${this.#slow.describe(i)} ${facts(one, [0, 0, 0, 0])} age ${own}`;
			const second = `${this.#fast.describe(i)} ${facts(two, [kernel.packetsOut, kernel.packetsIn, kernel.bytesOut, kernel.bytesIn])} age ${aged}`;
			if (first !== second) throw new Error(`session ${i} is not the same\n  core:    ${first}\n  offload: ${second}`);
		}
	}
}

/** A packet one hop on. */
function hopped(ip: Uint8Array): Uint8Array<ArrayBuffer> {
	const copy = new Uint8Array(ip);
	copy[8]--;
	sealHeader(copy);
	return copy;
}

function devices(): void {
	const lines = INDEXES.map((index, n) => `link add name d${n} index ${index} type bridge`);
	const { status, output } = native.run(["ip", "-batch", "-"], `${lines.join("\n")}\n`, 30_000);
	if (status !== 0) throw new Error(`ip: ${output}`);
}

const [wanted = "10000", from = "1", only = ""] = native.args();
const frames = Number(wanted);
const seed = Number(from);
if (parseAddress(WAN_ADDRESS) === null || loaded(WAN_ADDRESS) === 0) throw new Error("no address");
devices();
let failed = 0;
let passed = 0;
let done = 0;
for (let number = only === "" ? 0 : Number(only); done < frames; number++) {
	const episode = new Episode(seed, number);
	let frame = 0;
	try {
		for (; frame < EPISODE && done + frame < frames; frame++) episode.step();
		episode.compare();
		if (frame === EPISODE && episode.carried < EPISODE / 10) throw new Error("the programs had next to nothing to do");
		passed++;
		native.print(1, `episode ${number} (${episode.name}): ${episode.summary}\n`);
	} catch (error) {
		failed++;
		const { message, stack } = error as Error;
		native.print(
			1,
			`FAILED: seed ${seed}, episode ${number} (${episode.name}), frame ${frame}: ${message}\n    ${episode.recent(message)}\n${stack}\nreplay: test/fuzz/run-offload.sh ${EPISODE} ${seed} ${number}\n`,
		);
	} finally {
		episode.close();
	}
	done += EPISODE;
	if (only !== "") break;
}
native.print(1, `seed ${seed}: ${passed} passed, ${failed} failed\n`);
native.exit(failed === 0 ? 0 : 1);
