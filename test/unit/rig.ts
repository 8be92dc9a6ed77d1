/**
 * A bench for the core: the Context of src/nat over plain memory, with next hops, clock and random numbers that the
 * test sets. Frames go in through the batch functions as a port would hand them over, and what stands in the queues
 * afterwards is read back as packets.
 *
 * Every run checks what must hold whatever the test is about: each frame is forwarded, held for a next hop, left to the
 * kernel or dropped for one reason; all checksums and lengths that come out are right; no frame leaves the WAN with
 * another source than ours; nothing is written behind a packet (the bytes there are marked). A violation throws.
 */

import type { Hosts } from "../../src/conntrack/hosts.ts";
import type { PortRange } from "../../src/conntrack/ports.ts";
import {
	EXTERNAL_SHIFT,
	HOST_ADF,
	HOST_EIF,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
	R_PEER,
} from "../../src/conntrack/record.ts";
import { type Image, type Restored, readImage, restore } from "../../src/conntrack/restore.ts";
import { FREE, OTHER, QUARANTINED, STATE_NAMES, type Timeouts } from "../../src/conntrack/states.ts";
import type { Table } from "../../src/conntrack/table.ts";
import { layoutTable } from "../../src/conntrack/table-layout.ts";
import { verifyTable } from "../../src/conntrack/verify.ts";
import type { Admission } from "../../src/nat/admission.ts";
import { FtpAlg } from "../../src/nat/alg.ts";
import {
	BLOCK,
	type Context,
	ELSEWHERE,
	findSoleNets,
	type LanLink,
	type Link,
	type Net,
	type NextHops,
	NO_NET,
	NO_ROUTE,
	POLICY_DEFAULTS,
	type Policy,
	Queue,
} from "../../src/nat/context.ts";
import { makeContext, makeCore, makeTables } from "../../src/nat/core.ts";
import { type Externals, externalsWords, portKind } from "../../src/nat/externals.ts";
import type { FastPath } from "../../src/nat/fast-path.ts";
import { ALG_NOTES } from "../../src/nat/ftp-control.ts";
import { REASONS } from "../../src/nat/reason.ts";
import { Revalidator, type Terms, unfit } from "../../src/nat/revalidate.ts";
import type { SlowPath } from "../../src/nat/slow-path.ts";
import { formatAddress, parseAddress, parseSubnet } from "../../src/packet/address.ts";
import { sumOf } from "../../src/packet/checksum.ts";
import { HEADER_SHIFT, HEADER_SIZE, HOST_HEADERS, headerTag, LENGTH_MASK } from "../../src/packet/header-tag.ts";
import { firstOf, SLOT_ETHER, SLOT_SIZE, secondOf, swap16, swap32, viewsOf } from "../../src/packet/layout.ts";
import { LinkHeaders } from "../../src/packet/link-header.ts";
import { type Frame, type Packet, readPacket, sum } from "./rig-frame.ts";

export const SLOTS = 64;
/** Spare blocks behind the slots. */
export const SPARE_BLOCKS = 64;
/** This boot of the machine. */
export const BOOT = Int32Array.from([1, -2, 3, -4]);
export const GATEWAY_HOP = 1;
const UNKNOWN_HOP = 2;
export const GATEWAY_MAC = "02:00:00:00:01:fe";
export const WAN_MAC = "02:00:00:00:00:02";
export const WAN_ADDRESS = "203.0.113.1";
/** Bytes behind a packet that must not be written, and what they hold. */
const MARGIN = 64;
const MARK = 0xee;

export const DEFAULT_TIMEOUTS: Timeouts = {
	udp: 300,
	dns: 2,
	icmp: 60,
	tcp_opening: 240,
	tcp_established: 7440,
	tcp_closing: 240,
	tcp_reset: 240,
	other: 300,
};

export type FilteringName = "eif" | "adf" | "apdf";

export interface LanOptions {
	ethernet?: boolean;
	/** As the tun driver: no link header, the kernel counts the hop. */
	tun?: boolean;
	mtu?: number;
	/** Router's address here; default .1 of 192.168.(1 + port number).0/24. */
	address?: string;
	nets?: string[];
	/** Its hosts may ask for forwards; default true. */
	pcp?: boolean;
}

export interface RigOptions {
	/** Memory of the FTP ALG, as a predecessor left it; default fresh. */
	ftp?: ArrayBuffer;
	/** While it says so, what reads FTP cannot be had. */
	withoutFtp?: () => boolean;
	sessions?: number;
	ranges?: PortRange[];
	wan?: { ethernet?: boolean; mtu?: number; address?: string | null; nets?: string[] };
	lan?: LanOptions[];
	filtering?: FilteringName;
	hosts?: { address: string; filtering?: FilteringName; maxSessions?: number; maxRate?: number }[];
	/** Policy that is not the default. */
	policy?: Partial<Policy>;
	exempts?: string[];
	forwards?: { protocol: number; first: number; last?: number; internal: string; internalFirst?: number; source?: string }[];
	statics?: { internal: string; external: string }[];
	pools?: { nets: string[]; externals: string[]; overload?: boolean }[];
	timeouts?: Partial<Timeouts>;
	seed?: number;
	/** Frames that a port's queue holds; default four times SLOTS. */
	queue?: number;
	/** Frame memory of SLOTS slots and SPARE_BLOCKS blocks; shared by all rigs if not given. */
	frames?: ArrayBuffer;
	/** What a predecessor left, and the second in which it is found. */
	from?: { image: ArrayBuffer; second: number };
	/** Is told of what a predecessor left before it is restored; what it returns is called after that. */
	resume?: (rig: Rig, image: Image) => () => void;
	/** Sends what is queued in the middle of a batch, for a test that empties the queues itself. */
	flush?: () => void;
	/** Makes memory for the table. */
	memory?: (bytes: number) => ArrayBuffer;
}

/** What a run brought about. */
export interface Outcome {
	wan: Packet[];
	/** By LAN port. */
	lan: Packet[][];
	/** Reason names, one for each dropped frame. */
	drops: string[];
	left: number;
	/** Frames held for a next hop, as the WAN or the LAN would get them. */
	held: Packet[];
	/** ICMP errors and TCP resets that the router sent. */
	errors: number;
}

/** Where a destination's route leads. */
export type Way = "gateway" | "unknown" | "no-route" | "elsewhere";

let sharedFrames: ArrayBuffer | null = null;

/** A raw address. */
export function loaded(address: string): number {
	return swap32(parseAddress(address) as number);
}

/** Text of a raw address. */
export function dotted(word: number): string {
	return formatAddress(swap32(word) >>> 0);
}

/** MAC of a host on the LAN in tests: made from its address. */
export function macOf(address: string): string {
	return ["02", "10", ...address.split(".").map((n) => Number(n).toString(16).padStart(2, "0"))].join(":");
}

function macBytes(mac: string): Uint8Array {
	return Uint8Array.from(mac.split(":"), (n) => Number.parseInt(n, 16));
}

function net(text: string): Net {
	const subnet = parseSubnet(text);
	if (subnet === null) throw new Error(`not a subnet: ${text}`);
	return { address: swap32(subnet.address), mask: swap32(subnet.mask) };
}

const FLAGS: Record<FilteringName, number> = { eif: HOST_EIF, adf: HOST_ADF, apdf: 0 };

/** Next hops that a test sets. */
export class FakeHops implements NextHops {
	readonly tags = new Int32Array(256);
	/** Way of every destination that `ways` does not name. */
	default: Way = "gateway";
	readonly ways = new Map<string, Way>();
	/** Set like {@link mtuTo} by {@link route}; a plain field, as the real one, because every batch reads it. */
	least = 0;
	/** MTUs of routes that have their own. */
	readonly #mtus = new Map<string, number>();
	/**
	 * True: an internal host that was not heard yet answers at once, so that its frame goes to the queue within the
	 * call.
	 */
	answersInternal = false;
	readonly held: { slot: number; length: number; host: number }[] = [];
	readonly #rig: () => Rig;

	constructor(rig: () => Rig) {
		this.#rig = rig;
		this.tags[GATEWAY_HOP] = headerTag(GATEWAY_HOP);
	}

	/** The route to a destination has an MTU of its own; without one: reads the link's. */
	route(destination?: string, mtu = 0): void {
		if (destination !== undefined) this.#mtus.set(destination, mtu);
		this.least = Math.min(this.#rig().context.wan.mtu, ...this.#mtus.values());
	}

	mtuTo(destination: number): number {
		const { mtu } = this.#rig().context.wan;
		return Math.min(mtu, this.#mtus.get(dotted(destination)) ?? mtu);
	}

	find(destination: number): number {
		switch (this.ways.size === 0 ? this.default : (this.ways.get(dotted(destination)) ?? this.default)) {
			case "gateway":
				return GATEWAY_HOP;
			case "unknown":
				return UNKNOWN_HOP;
			case "no-route":
				return NO_ROUTE;
			default:
				return ELSEWHERE;
		}
	}

	park(_hop: number, slot: number, length: number): void {
		this.held.push({ slot, length, host: 0 });
	}

	parkInternal(host: number, slot: number, length: number): void {
		if (!this.answersInternal) {
			this.held.push({ slot, length, host });
			return;
		}
		const { hosts, headers, lan } = this.#rig().context;
		const port = (hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
		headers.set(HOST_HEADERS + host, macBytes(macOf(dotted(hosts.W[host * HOST_WORDS]))), 0, lan[port].mac);
		hosts.place(host, port);
		lan[port].queue.push(slot, length, headerTag(HOST_HEADERS + host));
		this.#rig().context.forwardedIn++;
	}

	heard(host: number, port: number, slot: number): void {
		const { hosts, headers, lan, views } = this.#rig().context;
		headers.set(HOST_HEADERS + host, views.B, slot + SLOT_ETHER + 6, lan[port].mac);
		hosts.place(host, port, true);
	}
}

function lanMac(port: number): string {
	return `02:00:00:00:10:0${port + 1}`;
}

function policyOf(o: Pick<RigOptions, "filtering" | "hosts" | "policy" | "forwards">, pools: Policy["pools"], ranges: PortRange[]): Policy {
	return {
		...POLICY_DEFAULTS,
		filtering: FLAGS[o.filtering ?? "apdf"],
		hosts: new Map(
			(o.hosts ?? []).map((h) => [
				loaded(h.address),
				{ flags: FLAGS[h.filtering ?? o.filtering ?? "apdf"], maxSessions: h.maxSessions ?? 0, maxRate: h.maxRate ?? 0 },
			]),
		),
		forwards: (o.forwards ?? []).map((f) => ({
			protocol: f.protocol,
			first: f.first,
			last: f.last ?? f.first,
			internal: loaded(f.internal),
			internalFirst: f.internalFirst ?? f.first,
			source: f.source === undefined ? null : net(f.source),
		})),
		pools,
		ranges,
		...o.policy,
	};
}

/** The core on the bench. */
export class Rig {
	readonly context: Context;
	readonly table: Table;
	readonly hosts: Hosts;
	readonly externals: Externals;
	readonly admission: Admission;
	readonly hops: FakeHops;
	readonly fast: FastPath;
	readonly slowPath: SlowPath;
	/** Received frames: pairs [slot, bytes of IP]. */
	readonly rx = new Int32Array(SLOTS * 2);
	/** Packets may come out with wrong transport checksums (the test sent some in). */
	strict = true;
	/** Bytes behind a packet must stay as they are (an ALG has the whole slot to work in). */
	margin = true;
	/** One frame may become several, or wait for others: the account of frames does not close then. */
	accounts = true;
	/** What a restore made of the image; null: it was damaged. */
	restored: Restored | null = null;
	readonly #memory: ArrayBuffer;
	#exempts: Net[] = [];
	#random: number;
	#reserved = new Set<number>();

	constructor(o: RigOptions = {}) {
		const ranges = o.ranges ?? [{ first: 32768, last: 65535 }];
		const shared = 1 + (o.pools ?? []).filter((p) => p.overload).length;
		const layout = layoutTable(o.sessions ?? 1024, externalsWords(shared, ranges));
		const memory = (o.memory ?? ((bytes: number) => new ArrayBuffer(bytes)))(layout.words * 4);
		this.#memory = memory;
		let image: Image | null = null;
		if (o.from !== undefined) {
			const found = readImage(o.from.image, BOOT, o.from.second);
			if (typeof found === "string") throw new Error(found);
			image = found;
			if (found.sessions === layout.sessions) {
				const bytes = Math.min(memory.byteLength, o.from.image.byteLength);
				new Uint8Array(memory).set(new Uint8Array(o.from.image, 0, bytes));
				image = readImage(memory, BOOT, o.from.second) as Image;
			}
		}
		this.#random = (o.seed ?? 1) | 0;
		const keys = Int32Array.from([this.random(), this.random(), this.random(), this.random()]);
		const tables = makeTables(memory, layout, keys, { ...DEFAULT_TIMEOUTS, ...o.timeouts }, ranges, image !== null);
		this.table = tables.table;
		this.hosts = tables.hosts;
		this.externals = tables.externals;
		if (sharedFrames === null && o.frames === undefined) sharedFrames = new ArrayBuffer(SLOTS * SLOT_SIZE + SPARE_BLOCKS * BLOCK);

		const wanAddress = o.wan?.address === undefined ? WAN_ADDRESS : o.wan.address;
		const own = wanAddress === null ? 0 : loaded(wanAddress);
		this.externals.add(own, true, 0, -1);
		for (const s of o.statics ?? []) this.externals.add(loaded(s.external), false, loaded(s.internal), -1);
		const pools = (o.pools ?? []).map((p, number) => ({
			nets: p.nets.map(net),
			overload: p.overload ?? false,
			externals: p.externals.map((a, at) =>
				this.externals.add(loaded(a), (p.overload ?? false) && at === p.externals.length - 1, 0, number),
			),
		}));
		const policy = policyOf(o, pools, ranges);
		this.#reserve(policy);
		const link = (mac: string, ethernet: boolean, mtu: number, address: number): Link => ({
			ethernet,
			mtu,
			address,
			mac: macBytes(mac),
			nets: [],
			queue: new Queue(o.queue ?? SLOTS * 4),
		});
		const lan = (o.lan ?? [{}]).map((l, n): LanLink => {
			const base = link(lanMac(n), (l.ethernet ?? true) && !l.tun, l.mtu ?? 1500, loaded(l.address ?? `192.168.${n + 1}.1`));
			return {
				...base,
				nets: (l.nets ?? [`192.168.${n + 1}.0/24`]).map(net),
				kernelForwards: l.tun ?? false,
				home: n,
				sole: NO_NET,
				pcp: l.pcp ?? true,
				handed: [],
			};
		});
		findSoleNets(lan);
		this.hops = new FakeHops(() => this);
		const headers = new LinkHeaders(layout.hosts);
		headers.set(GATEWAY_HOP, macBytes(GATEWAY_MAC), 0, macBytes(WAN_MAC));
		const views = viewsOf(o.frames ?? (sharedFrames as ArrayBuffer));
		this.context = makeContext(tables, {
			views,
			hops: this.hops,
			headers,
			wan: {
				...link(WAN_MAC, o.wan?.ethernet ?? true, o.wan?.mtu ?? 1500, own),
				nets: (o.wan?.nets ?? ["203.0.113.0/24"]).map(net),
			},
			lan,
			policy,
			spare: { at: SLOTS * SLOT_SIZE, count: SPARE_BLOCKS },
			ipId: 0x4321,
			random: () => this.random(),
			sum: (from, length) => sumOf(views.H, views.B, from, length),
			flush: o.flush ?? (() => this.#flush()),
		});
		this.hops.route();
		this.at(o.from?.second ?? 100_000);
		const { admission, slowPath, fast } = makeCore(this.context, () => (o.withoutFtp?.() ? null : new FtpAlg(this.context, o.ftp)));
		this.admission = admission;
		this.slowPath = slowPath;
		this.fast = fast;
		if (o.ftp !== undefined) slowPath.takeOver(BOOT);
		this.#exempts = o.exempts?.map(net) ?? [];
		const resumed = image === null ? undefined : o.resume?.(this, image);
		if (image !== null) this.#restore(image);
		resumed?.();
	}

	/** The ports of forwards are nobody's else. */
	#reserve(policy: Policy): void {
		this.#reserved.clear();
		for (const f of policy.forwards)
			for (let p = f.first; p <= f.last; p++)
				if (this.externals.reservePort(0, f.protocol, p)) this.#reserved.add(endpointKey(0, f.protocol, p));
	}

	/**
	 * Goes on by another policy, as the daemon does at a reload: sessions that it has no place for end, the others
	 * claim what they hold. The WAN's address, statics and pools stay.
	 */
	reload(o: Pick<RigOptions, "filtering" | "hosts" | "policy" | "forwards" | "ranges">): void {
		const c = this.context;
		const { table, externals } = this;
		const ranges = o.ranges ?? c.policy.ranges;
		const policy = policyOf(o, c.policy.pools, ranges);
		const wanted = externals.list.map(({ address, shared, internal, pool }) => ({ address, shared, internal, pool }));
		const list = wanted.map((w) => ({ ...w, holder: 0, sessions: 0 }));
		const before = this.keeper({ policy, externals: list });
		for (const i of unfit(c, before)) {
			this.admission.end(i, "reload");
			if (table.state(i) === QUARANTINED && !before.permits(i)) this.admission.end(i, "reload");
		}
		externals.renew(wanted, externals.A.slice(), ranges);
		c.policy = policy;
		this.#reserve(policy);
		for (const f of c.requested) externals.reservePort(0, f.protocol, f.first);
		for (const e of c.expectations.pending) if (e.owner) externals.reservePort(e.external, e.protocol, swap16(e.externalPort));
		for (const i of this.keeper().reclaim()) this.admission.end(i, "reload", false);
		table.addresses.set(externals.A);
		for (let host = 1; host <= table.layout.hosts; host++) {
			if (this.hosts.sessions(host) === 0) continue;
			const { W } = this.hosts;
			const w = host * HOST_WORDS + HOST_PLACE;
			W[w] = (W[w] & ~(HOST_EIF | HOST_ADF)) | (policy.hosts.get(W[host * HOST_WORDS])?.flags ?? policy.filtering);
		}
	}

	#restore(image: Image): void {
		this.table.addresses.set(image.addresses);
		if (image.addresses[0] !== 0) this.externals.setAddress(0, image.addresses[0]);
		const keeper = this.keeper();
		this.restored = restore(
			this.table,
			image,
			this.context.now,
			(i) => keeper.adopt(i),
			(i) => this.admission.end(i, "timeout"),
		);
	}

	/** Who judges sessions by the policy in force, or by terms of which some are others. */
	keeper(terms: Partial<Terms> = {}): Revalidator {
		const nets = this.context.lan.flatMap((l) => l.nets);
		return new Revalidator(this.context, {
			policy: this.context.policy,
			externals: this.externals.list,
			exempts: this.#exempts,
			nets,
			...terms,
		});
	}

	/** The table's file as a process that is killed now leaves it. */
	image(): ArrayBuffer {
		this.publish();
		return this.#memory.slice(0);
	}

	/** Writes the header, as the daemon does at start and every second. */
	publish(): void {
		this.table.publish(BOOT, this.externals.A, this.context.now);
	}

	/** A random 32-bit integer from the seed (xorshift). */
	random(): number {
		let x = this.#random || 0x9e3779b9;
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		this.#random = x | 0;
		return this.#random;
	}

	/** Sets the clock to a second. */
	at(second: number): void {
		this.context.now = second;
		this.context.now16 = second & 0xffff;
	}

	/** Lets seconds go by, ending what is due in each as the engine does. */
	pass(seconds: number): void {
		this.at(this.context.now + seconds);
		this.slowPath.everySecond();
		while (this.admission.expire(256) > 0);
	}

	// ---- frames in --------------------------------------------------------------------------------------------------

	/**
	 * Puts a frame into slot number `n` as a port would, and its pair into `rx`. A link-layer broadcast and a plain
	 * header with a wrong checksum come cut off behind the header, as the filter of a packet socket does it
	 * (src/port/filter.ts).
	 */
	put(n: number, frame: Frame, link: Link, to: string, from: string): void {
		const slot = n * SLOT_SIZE;
		const cut = frame.ip.length >= 20 && ((link.ethernet && frame.group) || (frame.ip[0] === 0x45 && sum(frame.ip, 0, 20) !== 0xffff));
		this.rx[n * 2] = slot;
		this.rx[n * 2 + 1] = cut ? 20 : frame.ip.length;
		const { B, H } = this.context.views;
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
		if (link.ethernet) B.set([...macBytes(frame.group ? "01:00:5e:00:00:01" : to), ...macBytes(from), 8, 0], slot + 10);
		else B.fill(MARK, slot + 10, slot + 24);
		B.set(frame.ip, slot + 24);
		B.fill(MARK, slot + 24 + frame.ip.length, slot + 24 + frame.ip.length + MARGIN);
	}

	/** Frames from LAN port `port`. */
	out(frames: Frame | Frame[], port = 0): Outcome {
		const list = Array.isArray(frames) ? frames : [frames];
		const lan = this.context.lan[port];
		list.forEach((frame, n) => {
			const from = macOf(`${frame.ip[12]}.${frame.ip[13]}.${frame.ip[14]}.${frame.ip[15]}`);
			this.put(n, frame, lan, lanMac(port), from);
		});
		return this.#run(list, () => this.fast.outbound(this.rx, list.length, port));
	}

	/** Frames from the WAN. */
	in(frames: Frame | Frame[]): Outcome {
		const list = Array.isArray(frames) ? frames : [frames];
		list.forEach((frame, n) => {
			this.put(n, frame, this.context.wan, WAN_MAC, GATEWAY_MAC);
		});
		return this.#run(list, () => this.fast.inbound(this.rx, list.length));
	}

	/** What the passing of time has queued. */
	idle(seconds: number): Outcome {
		return this.#run([], () => this.pass(seconds));
	}

	/** One frame out of which exactly one packet comes on the WAN, and nothing else happens. */
	toWan(frame: Frame, port = 0): Packet {
		const outcome = this.out(frame, port);
		if (outcome.wan.length !== 1 || outcome.drops.length > 0) throw new Error(`not forwarded: ${summary(outcome)}`);
		return outcome.wan[0];
	}

	/** One frame from the WAN of which exactly one packet comes to LAN port `port`. */
	toLan(frame: Frame, port = 0): Packet {
		const outcome = this.in(frame);
		if (outcome.lan[port].length !== 1 || outcome.drops.length > 0) throw new Error(`not forwarded: ${summary(outcome)}`);
		return outcome.lan[port][0];
	}

	// ---- frames out -------------------------------------------------------------------------------------------------

	#run(frames: Frame[], run: () => void): Outcome {
		const c = this.context;
		const drops = c.drops.slice();
		const before = { left: c.leftToKernel, forwarded: c.forwardedOut + c.forwardedIn, errors: c.errorsSent + c.resetsSent };
		this.hops.held.length = 0;
		this.#gone = [[], ...c.lan.map(() => [])];
		run();
		const outcome: Outcome = { wan: [], lan: c.lan.map(() => []), drops: [], left: c.leftToKernel - before.left, held: [], errors: 0 };
		c.drops.forEach((n, reason) => {
			for (let k = drops[reason]; k < n; k++) outcome.drops.push(REASONS[reason][0]);
		});
		outcome.errors = c.errorsSent + c.resetsSent - before.errors;
		this.#flush(frames);
		outcome.wan = this.#gone[0];
		outcome.lan = this.#gone.slice(1);
		outcome.held = this.hops.held.map((h) => this.#packet(h.slot, h.length, h.host === 0 ? c.wan : c.lan[0], frames));
		for (const p of outcome.wan) {
			if (this.externals.find(loaded(p.source)) < 0) throw new Error(`LEAK: ${p.line}`);
		}
		const queued = outcome.wan.length + outcome.lan.reduce((n, l) => n + l.length, 0);
		const forwarded = c.forwardedOut + c.forwardedIn - before.forwarded;
		if (queued !== forwarded + outcome.errors) throw new Error(`${queued} frames queued, ${forwarded} forwarded, ${outcome.errors} errors`);
		const account = forwarded + outcome.drops.length + outcome.left + outcome.held.length;
		if (this.accounts && account !== frames.length)
			throw new Error(`${frames.length} frames in, ${account} accounted for: ${summary(outcome)}`);
		return outcome;
	}

	/** What has been sent in this run, by the WAN and each LAN port. */
	#gone: Packet[][] = [];

	#flush(frames: Frame[] = []): void {
		const { wan, lan } = this.context;
		for (const [n, link] of [wan, ...lan].entries()) this.#gone[n].push(...this.#read(link, frames));
	}

	#read(link: Link, frames: Frame[]): Packet[] {
		const list: Packet[] = [];
		for (let n = 0; n < link.queue.count; n++) {
			const slot = link.queue.pairs[n * 2];
			const word = link.queue.pairs[n * 2 + 1];
			const header = (word >>> HEADER_SHIFT) - 1;
			const { buffer } = this.context.headers;
			if (link.ethernet && header >= 0) this.context.views.B.set(new Uint8Array(buffer, header * HEADER_SIZE, 14), slot + 10);
			list.push(this.#packet(slot, word & LENGTH_MASK, link, frames));
		}
		link.queue.count = 0;
		return list;
	}

	#packet(slot: number, length: number, link: Link, frames: Frame[]): Packet {
		const { B, H } = this.context.views;
		const header = link.ethernet ? 14 : 0;
		const bytes = B.slice(slot + 24, slot + 24 + length);
		const partial = B[slot] & 1 ? { start: H[(slot >> 1) + 3] - header, offset: H[(slot >> 1) + 4] } : null;
		const packet = readPacket(bytes, partial);
		packet.gsoType = B[slot + 1];
		packet.gsoSize = H[(slot >> 1) + 2];
		packet.headers = packet.gsoType === 0 ? 0 : H[(slot >> 1) + 1] - header;
		if (link.ethernet) {
			const mac = (at: number) => [...B.subarray(at, at + 6)].map((b) => b.toString(16).padStart(2, "0")).join(":");
			packet.ether = { to: mac(slot + 10), from: mac(slot + 16), type: B[slot + 22] * 256 + B[slot + 23] };
		}
		const frame = frames[slot / SLOT_SIZE];
		if (length === frame?.ip.length && this.margin) {
			for (let k = 0; k < MARGIN; k++) if (B[slot + 24 + length + k] !== MARK) packet.faults.push(`byte ${length + k} behind it written`);
		}
		if (packet.faults.length > 0 && this.strict) throw new Error(`${packet.line}: ${packet.faults.join(", ")}`);
		return packet;
	}

	// ---- state ------------------------------------------------------------------------------------------------------

	/** Record numbers of all sessions. */
	records(): number[] {
		const list: number[] = [];
		for (let i = 1; i <= this.table.layout.sessions; i++)
			if (this.table.state(i) !== FREE && this.table.state(i) !== QUARANTINED) list.push(i);
		return list;
	}

	/** Record numbers of ports at rest. */
	resting(): number[] {
		const list: number[] = [];
		for (let i = this.table.head(QUARANTINED); i !== 0; i = this.table.next(i)) list.push(i);
		return list;
	}

	/** A session in a line: "udp 192.168.1.10:40000 203.0.113.1:40000 203.0.113.10:53 new". */
	describe(i: number): string {
		const t = this.table.T;
		const e = i << 4;
		const protocol = t[e + R_META] & 0xff;
		const name = protocol === 6 ? "tcp" : protocol === 17 ? "udp" : protocol === 1 ? "icmp" : `proto-${protocol}`;
		const at = (address: number, port: number) => `${dotted(address)}:${swap16(port)}`;
		const external = this.externals.A[(t[e + R_META] >> EXTERNAL_SHIFT) & 0xff];
		return [
			name,
			at(t[e], firstOf(t[e + R_OUT])),
			at(external, secondOf(t[e + R_IN])),
			at(t[e + R_PEER], secondOf(t[e + R_OUT])),
			STATE_NAMES[this.table.state(i)],
		].join(" ");
	}

	/** All sessions, sorted lines of {@link describe}. */
	flows(): string[] {
		return this.records()
			.map((i) => this.describe(i))
			.sort();
	}

	/** Name of the state of the only session there is. */
	get state(): string {
		const all = this.records();
		if (all.length !== 1) throw new Error(`${all.length} sessions: ${this.flows().join("; ")}`);
		return STATE_NAMES[this.table.state(all[0])];
	}

	/** What the ALG has noted so far: counts by name, those above 0. */
	get notes(): Record<string, number> {
		return Object.fromEntries(ALG_NOTES.flatMap(([name], n) => (this.context.algCounts[n] > 0 ? [[name, this.context.algCounts[n]]] : [])));
	}

	/** [packets out, in, bytes out, in] of the only session there is. */
	get counters(): [number, number, number, number] {
		const [i] = this.records();
		return [this.table.T[(i << 4) + R_PACKETS_OUT], this.table.T[(i << 4) + R_PACKETS_IN], ...this.table.bytes(i)];
	}

	/**
	 * Checks the table's own invariants, and those between table, hosts and ports: hosts count their sessions, the port
	 * bitmaps lack exactly the ports of live mappings and forwards, and no external endpoint belongs to two internal
	 * endpoints (U-3).
	 */
	verify(): void {
		verifyTable(this.table, (n) => this.externals.A[n]);
		const { table, hosts, externals } = this;
		const t = table.T;
		const { ranges } = this.context.policy;
		const inRange = (port: number) => ranges.some((r) => port >= r.first && port <= r.last);
		const sessions = new Int32Array(hosts.capacity + 1);
		/** By host and kind: the mappings that its sessions have. */
		const mappings = new Int32Array((hosts.capacity + 1) * 3);
		/** By external endpoint: the record that was met with it first. */
		const owners = new Map<number, number>();
		/** By external address and protocol: ports that somebody has by a mapping, and those kept for somebody. */
		const taken = new Map<number, number>();
		const reserved = new Map<number, number>();
		const count = (of: Map<number, number>, key: number) => of.set(key >> 16, (of.get(key >> 16) ?? 0) + 1);
		const promised = new Set(this.#reserved);
		for (const f of this.context.requested) if (inRange(f.first)) promised.add(endpointKey(0, f.protocol, f.first));
		for (const key of promised) count(reserved, key);
		for (const e of this.context.expectations.pending) if (e.owner) count(reserved, endpointKey(e.external, e.protocol, 0));
		let active = 0;
		for (const i of [...this.records(), ...this.resting()]) {
			const e = i << 4;
			const host = table.T16[(i << 5) + R_HOST];
			const state = table.state(i);
			if (state !== QUARANTINED) {
				if (sessions[host]++ === 0) active++;
				if (hosts.W[host * HOST_WORDS] !== t[e]) throw new Error(`host record of another address: ${this.describe(i)}`);
			}
			if (state === OTHER) continue;
			const protocol = t[e + R_META] & 0xff;
			const n = (t[e + R_META] >> EXTERNAL_SHIFT) & 0xff;
			const port = swap16(secondOf(t[e + R_IN]));
			const key = endpointKey(n, protocol, port);
			const owner = owners.get(key);
			if (owner !== undefined) {
				const o = owner << 4;
				if (t[o] === t[e] && firstOf(t[o + R_OUT]) === firstOf(t[e + R_OUT])) continue;
				throw new Error(`port overloading: ${dotted(t[o])}:${swap16(firstOf(t[o + R_OUT]))} and ${this.describe(i)}`);
			}
			owners.set(key, i);
			const kind = portKind(protocol);
			if (state !== QUARANTINED && kind >= 0) mappings[host * 3 + kind]++;
			if (externals.list[n].shared && !promised.has(key) && inRange(port)) count(taken, key);
		}
		for (let host = 1; host <= hosts.capacity; host++) {
			if (sessions[host] > 0 && hosts.sessions(host) !== sessions[host])
				throw new Error(`host ${dotted(hosts.W[host * HOST_WORDS])} counts ${hosts.sessions(host)} of ${sessions[host]} sessions`);
			if (!hosts.counting) continue;
			for (const kind of [0, 1, 2]) {
				const wanted = mappings[host * 3 + kind];
				if (hosts.mappings(host, kind) !== wanted)
					throw new Error(`host ${host} counts ${hosts.mappings(host, kind)} of ${wanted} mappings of kind ${kind}`);
			}
		}
		if (hosts.active !== active) throw new Error(`${hosts.active} hosts are active, ${active} have sessions`);
		for (const [n, x] of externals.list.entries()) {
			if (!x.shared) continue;
			for (const protocol of [6, 17, 1]) {
				const [free, total] = externals.portCount(n, protocol);
				const key = endpointKey(n, protocol, 0) >> 16;
				const used = taken.get(key) ?? 0;
				const kept = reserved.get(key) ?? 0;
				if (free + used + kept !== total)
					throw new Error(`external ${n} protocol ${protocol}: ${free} free, ${used} used, ${kept} reserved of ${total} ports`);
			}
		}
	}
}

/** An external endpoint as a number: that of the address, protocol, port. */
function endpointKey(external: number, protocol: number, port: number): number {
	return (external << 24) | (protocol << 16) | port;
}

/** An outcome in a line, for messages. */
export function summary(o: Outcome): string {
	const parts = [...o.wan.map((p) => `wan: ${p.line}`), ...o.lan.flatMap((l, n) => l.map((p) => `lan ${n}: ${p.line}`))];
	parts.push(...o.drops.map((d) => `drop: ${d}`), ...o.held.map((p) => `held: ${p.line}`));
	if (o.left > 0) parts.push(`left: ${o.left}`);
	return parts.join("; ") || "nothing";
}
