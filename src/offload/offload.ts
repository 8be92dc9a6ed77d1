/**
 * Offload: established sessions are offloaded to BPF programs in the kernel. This is the part that loads and attaches
 * the programs, decides which sessions go into the flow cache, and brings back what the cache has seen.
 *
 * Theory of operation. The session table tells ({@link OffloadHooks}) when a session was used or changed its state. One
 * that is answered and open goes in as soon as the link headers of both its ways are known (TCP's with the SYN+ACK);
 * one that could not is tried again when it is used in another second. It comes out when both sides have closed or one
 * has reset it, when it ends, when its host is found at another port, when a link header that it uses changes or is
 * lost, and with all others when a port changes; then it goes in again a second later without being used: a host that
 * only sends may not get through otherwise, because the kernel's connection tracking, where there is one on the way
 * (tun driver), has not seen what it sent meanwhile.
 *
 * While a session is in the cache its record stands still. Its last use is looked up when the record's own time is up,
 * and before that by a sweep, which moves used sessions on in their timeout's list: so they are never at its head when
 * they are in use. Its counters and acknowledgment numbers, and the state that the segments carried have led to, are
 * brought home by that sweep, when it leaves, or when someone asks: a SYN, which always goes by user space, or a RST
 * that does, the list of sessions, a table that is full.
 *
 * Nobody wakes for the clock alone. The programs copy a word into the slots that they use, the second in which the
 * engine was last awake: what has it was used then or later, but before the engine wrote the next
 * ({@link Offload.tick}). A look at one more word ({@link CACHE_USED}) tells whether any was; only then does the sweep
 * go round, a part a second. So a session that was used ends at most an eighth of its timeout late. One that was not
 * leaves the cache before its time is up: its end is in user space, where no packet finds it any more, whoever is
 * awake.
 *
 * Attaching: tcx links (Linux 6.6), which go with their descriptor however the process ends; before that a clsact
 * queueing discipline with a classic filter, which does not, so those programs watch a sign of life.
 */
import * as native from "masq:native";
import type { Hosts } from "../conntrack/hosts.ts";
import type { OffloadHooks } from "../conntrack/offload-hooks.ts";
import {
	ALG_INSPECTED,
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOP_SHIFT,
	HOST_ADDRESS,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_REACHABLE,
	HOST_WORDS,
	R_ACK_IN,
	R_ACK_OUT,
	R_HOST,
	R_IN,
	R_LAST,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PEER,
	RECORD_SHIFT,
	STATE_MASK,
	STATE_SHIFT,
} from "../conntrack/record.ts";
import { grainOf, ICMP_QUERY, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_IN, TCP_FIN_OUT, TCP_OPENED, UDP_OPEN } from "../conntrack/states.ts";
import type { Table } from "../conntrack/table.ts";
import { afterOffload } from "../conntrack/tcp.ts";
import { HEADER_SIZE, HOST_HEADERS } from "../packet/header-tag.ts";
import { addressValue, firstOf, ICMP, secondOf, swap32, TCP } from "../packet/layout.ts";
import type { LinkHeaders } from "../packet/link-header.ts";
import { LITTLE_ENDIAN } from "./asm.ts";
import { type CacheLayout, type Direction, FlowCache, layoutCache } from "./cache.ts";
import { CAP_BPF, CAP_PERFMON } from "./capabilities.ts";
import { ALIVE_SHIFT, lanProgram, type ProgramFacts, wanProgram } from "./program.ts";
import { CACHE_ALIVE, CACHE_NOW, CACHE_USED, PORTS_MAX, WAN_PORT } from "./slot.ts";

const MAP_ARRAY = 2;
const MAP_MMAPABLE = 0x400;
const SCHED_CLS = 3;
const TCX_INGRESS = 46;
/** Part of the shortest timeout in which there is a look whether any session was used, and a sweep if one was. */
const ROUND_PART = 8;
/** Part of that time which the sweep takes, in no less than so many seconds if there are: the loop waits for it. */
const SWEEP_PART = 5;
const SWEEP_LEAST = 4;
/** Longest time between two looks, and longest sweep, in seconds. */
const LOOK_MAX = 30;
const SWEEP_MAX = 16;
/** Moments of {@link Offload.tick} that are remembered: a power of two above the seconds of a look and a sweep. */
const TICKS = 64;
/** States of sessions in the cache. */
const CARRIED = [UDP_OPEN, ICMP_QUERY, TCP_OPENED, TCP_ESTABLISHED, TCP_FIN_OUT, TCP_FIN_IN];
/** A look at all sessions that moves less than this part of the table is not repeated for so many milliseconds. */
const SYNC_PART = 64;
const SYNC_PAUSE = 250;
/** What bpf(2) says of a device that has gone, before rtnetlink does. */
const GONE: readonly string[] = ["ENOLINK", "ENODEV", "ENXIO"];
/** Sessions that a kernel with small map values can have (before Linux 5.17: 4 MiB in one value). */
const SESSIONS_LEAST = 1024;

/** Capabilities of the process that bpf(2) asks for, besides CAP_NET_ADMIN. */

/** A device as the programs see it; `index` is 0 while it is not there. */
export interface OffloadDevice {
	index: number;
	ethernet: boolean;
	/** Largest IPv4 packet. */
	mtu: number;
	mac: Uint8Array;
}

/** A LAN device. */
export interface OffloadLan extends OffloadDevice {
	/** The kernel delivers to its hosts (tun driver), so their link headers are looked up in its neighbour table. */
	kernelForwards: boolean;
	/** Its networks, host-order addresses. */
	nets: readonly { address: number; mask: number }[];
}

/** What follows from configuration and kernel and may change. */
export interface OffloadFacts {
	wan: OffloadDevice;
	lan: readonly OffloadLan[];
	/** External addresses as host-order addresses, the WAN port's own first. */
	externals: readonly { first: number; last: number }[];
	/**
	 * Filters of others that packets would go past, in words, "" for none; and whether nothing is attached for their
	 * sake.
	 */
	filters: string;
	standsBack: boolean;
}

/** What the offload needs of the rest of the daemon. */
export interface OffloadOwner {
	readonly table: Table;
	readonly hosts: Hosts;
	readonly headers: LinkHeaders;
	/** Link header tags by next hop, 0 while the neighbour is not known; external addresses by number, raw. */
	readonly tags: Int32Array;
	readonly addresses: Int32Array;
	/** Largest packet on the way out to a peer (raw). */
	mtuTo(peer: number): number;
	/** Seconds now and modulo 2^16, and milliseconds. */
	seconds(): number;
	now16(): number;
	milliseconds(): number;
	/**
	 * MAC of the neighbour on device `ifindex` that leads to an internal host (host order), null while it is not known;
	 * and that neighbour's address.
	 */
	neighbour(ifindex: number, host: number): { address: number; mac: Uint8Array } | null;
	/** An internal host (its number) has packets that only the programs see. */
	inUse(host: number): void;
	/** Largest packet that the route to an internal host (host order) takes, 0 if it says nothing of that. */
	routeMtu(destination: number): number;
	/** Puts a program on a device's ingress as a classic filter, in the place of one that is there. Throws an Error. */
	attachClassic(ifindex: number, program: native.Fd): void;
	/** Removes it. Throws an Error. */
	detachClassic(ifindex: number): void;
}

/** How programs are attached. */
export type Attachment = "tcx" | "clsact";

interface Attached {
	ifindex: number;
	/** Link, -1 for a classic filter. */
	link: native.Fd;
}

/** What `status` shows of it. */
export interface OffloadStatus {
	mode: "auto" | "on" | "off";
	active: boolean;
	/** How the programs are attached, or why they are not. */
	detail: string;
	/** Sessions in the cache and the most that fit. */
	flows: number;
	capacity: number;
	/** Packets that went by the cache, since the start. */
	packetsOut: number;
	packetsIn: number;
	/** Filters of others that these packets go past, in words; "" for none. */
	past: string;
}

/** Why there can be no offload, in words for the operator. */
export class OffloadError extends Error {}

/** Running programs and the cache they share. */
export class Offload implements OffloadHooks {
	readonly #owner: OffloadOwner;
	readonly #cache: FlowCache;
	readonly #links: Uint16Array;
	#map: native.Fd;
	#facts: OffloadFacts | null = null;
	#factsText = "";
	#attachment: Attachment;
	#attached = new Map<number, Attached>();
	/** Whether sessions may be entered. */
	#open = false;
	/** Why it was given up while running; the next change of the ports tries again. */
	#failure = "";
	/** Filters of others, in words. */
	#filters = "";
	/** Sessions that have left and may go in again, and whether there are any. */
	readonly #away: Uint8Array;
	#returning = false;
	/**
	 * Neighbour that leads to each host of a LAN that the kernel delivers to (host order), and the host's address it
	 * was looked up for.
	 */
	readonly #via: Float64Array;
	readonly #viaFor: Int32Array;
	/** The last session that the sweep has visited, -1 while none is under way; and the second of its next step. */
	#swept = -1;
	#sweepAt = 0;
	/** Second in which sessions whose time is nearly up are to leave. */
	#retireAt = 0;
	/** The header's word "now"; by its value modulo {@link TICKS} those before it, each with the second of its end. */
	#stamp = 0;
	readonly #stamps = new Uint32Array(TICKS * 2);
	/** Milliseconds at which {@link syncAll} may look again. */
	#syncAt = 0;
	#packetsOut = 0;
	#packetsIn = 0;
	readonly #out: Direction = direction();
	readonly #back: Direction = direction();

	/**
	 * Makes the cache. Nothing is attached before {@link renew}.
	 * @param attachment "clsact" to do without tcx
	 * @throws OffloadError
	 */
	constructor(owner: OffloadOwner, attachment: Attachment | null) {
		this.#owner = owner;
		this.#attachment = attachment ?? "tcx";
		this.#links = new Uint16Array(owner.headers.buffer);
		this.#via = new Float64Array(owner.table.layout.hosts + 1);
		this.#viaFor = new Int32Array(owner.table.layout.hosts + 1);
		this.#away = new Uint8Array(owner.table.layout.sessions + 1);
		if (jitIsOff()) throw new OffloadError("the kernel's BPF compiler is off (net.core.bpf_jit_enable)");
		for (const n of [CAP_BPF, CAP_PERFMON]) {
			if (!native.hasCapability(n)) throw new OffloadError("no permission: it needs CAP_BPF and CAP_PERFMON");
		}
		const { map, layout, memory } = createMap(owner.table.layout.sessions);
		this.#map = map;
		const random = new Int32Array(3);
		native.random(random.buffer, 0, random.byteLength);
		this.#cache = new FlowCache(memory, layout, random);
		this.tick();
	}

	/** Detaches the programs and brings everything home. Never throws. */
	close(): void {
		this.#open = false;
		this.#leaveAll();
		for (const ifindex of [...this.#attached.keys()]) this.#detach(ifindex);
		native.close(this.#map);
		this.#map = -1;
	}

	// ---- programs ---------------------------------------------------------------------------------------------------

	/**
	 * Follows the ports: if anything that the programs are made of has changed, all sessions leave the cache and new
	 * programs take the place of the old.
	 * @throws OffloadError; nothing is attached then
	 */
	renew(facts: OffloadFacts): void {
		this.#filters = facts.filters;
		const text = JSON.stringify({ ...facts, filters: "" }, (_, value) => (value instanceof Uint8Array ? [...value] : value));
		if (text === this.#factsText) return;
		this.#open = false;
		this.#leaveAll();
		this.#viaFor.fill(0);
		this.#facts = facts;
		this.#factsText = text;
		this.#failure = "";
		const wanted = facts.standsBack ? [] : devices(facts);
		for (const ifindex of [...this.#attached.keys()]) if (!wanted.includes(ifindex)) this.#detach(ifindex);
		try {
			for (const ifindex of wanted) this.#attach(ifindex);
		} catch (error) {
			for (const ifindex of [...this.#attached.keys()]) this.#detach(ifindex);
			this.#failure = describe(error as native.NativeError);
			this.#factsText = "";
			throw new OffloadError(this.#failure);
		}
		this.#open = this.#attached.has(facts.wan.index);
	}

	/** Attaches a device's program. A device that has gone is passed over: the news of that is under way. */
	#attach(ifindex: number): void {
		const name = ifindex === this.#facts?.wan.index ? "masqd_wan" : "masqd_lan";
		const program = native.bpfProgramLoad(SCHED_CLS, this.program(ifindex), name, null);
		try {
			this.#put(ifindex, program);
		} catch (error) {
			if (!GONE.includes((error as native.NativeError).code)) throw error;
			if (this.#attached.has(ifindex)) this.#detach(ifindex);
			this.#factsText = "";
		} finally {
			native.close(program);
		}
	}

	/** The program for a device of the ports as they are. */
	program(ifindex: number): ArrayBuffer {
		const facts = this.#facts as OffloadFacts;
		const outbound = ifindex !== facts.wan.index;
		const port = outbound ? lanNumber(facts, ifindex) : WAN_PORT;
		const device = outbound ? facts.lan[port - 1] : facts.wan;
		const made: ProgramFacts = {
			port,
			littleEndian: LITTLE_ENDIAN,
			map: this.#map,
			bits: this.#cache.layout.bits,
			lastSlot: this.#cache.layout.lastSlot,
			slots: this.#cache.layout.slots,
			keys: this.#cache.keys,
			fromEthernet: device.ethernet,
			toEthernet: outbound ? facts.wan.ethernet : facts.lan[0].ethernet,
			externals: facts.externals,
			nets: facts.lan.flatMap((lan) => lan.nets),
			deadman: this.#attachment === "clsact",
		};
		return outbound ? lanProgram(made) : wanProgram(made);
	}

	/**
	 * Attaches a program, or puts it in the place of the one that is there. Falls back to a classic filter at the first
	 * device.
	 */
	#put(ifindex: number, program: native.Fd): void {
		const present = this.#attached.get(ifindex);
		if (this.#attachment === "tcx") {
			if (present !== undefined) {
				try {
					return native.bpfLinkUpdate(present.link, program);
				} catch (error) {
					if ((error as native.NativeError).code !== "ENOLINK") throw error;
					// The device was deleted, and perhaps made again with the same number.
					this.#detach(ifindex);
				}
			}
			try {
				this.#attached.set(ifindex, { ifindex, link: native.bpfLinkCreate(program, ifindex, TCX_INGRESS) });
				return;
			} catch (error) {
				if ((error as native.NativeError).code !== "EINVAL" || this.#attached.size > 0) throw error;
			}
			// A kernel before 6.6. The program is made again: a classic filter needs the sign of life.
			this.#attachment = "clsact";
			return this.#attach(ifindex);
		}
		this.#owner.attachClassic(ifindex, program);
		this.#attached.set(ifindex, { ifindex, link: -1 });
	}

	#detach(ifindex: number): void {
		const { link } = this.#attached.get(ifindex) as Attached;
		this.#attached.delete(ifindex);
		try {
			if (link >= 0) native.close(link);
			else this.#owner.detachClassic(ifindex);
		} catch {
			// The device has gone and taken it along.
		}
	}

	// ---- sessions: what the table tells -----------------------------------------------------------------------------

	changed(i: number): void {
		const { T } = this.#owner.table;
		const wanted = carries(T[(i << RECORD_SHIFT) + R_META], T[(i << RECORD_SHIFT) + R_PACKETS_IN] !== 0);
		if (this.#cache.has(i)) {
			// Something has come in user space since the reset.
			if (wanted && this.#cache.reset(i) !== "none") this.#cache.forgetReset(i);
			if (!wanted || this.#cache.port(i) !== this.#portOf(i)) this.#leave(i);
		} else if (wanted && this.#open) this.#enter(i);
	}

	ended(i: number): void {
		if (this.#cache.has(i)) this.#leave(i);
	}

	age(i: number): number {
		if (!this.#cache.has(i)) return -1;
		const age = this.#owner.table.age(i, this.#owner.now16());
		const last = this.#last(i);
		return last === 0 ? age : Math.min(age, Math.max(0, (this.#owner.seconds() - this.#until(last)) | 0));
	}

	sync(i: number): boolean {
		if (!this.#cache.has(i)) return false;
		const { table } = this.#owner;
		const { T } = table;
		if ((T[(i << RECORD_SHIFT) + R_META] & 0xff) !== TCP) return false;
		const acked = this.#cache.acknowledged(i, 0);
		T[(i << RECORD_SHIFT) + R_ACK_OUT] = later(T[(i << RECORD_SHIFT) + R_ACK_OUT], acked);
		T[(i << RECORD_SHIFT) + R_ACK_IN] = later(T[(i << RECORD_SHIFT) + R_ACK_IN], this.#cache.acknowledged(i, 1));
		// What a reset is held against there.
		if (T[(i << RECORD_SHIFT) + R_ACK_OUT] !== acked) this.#cache.acknowledge(i, 0, T[(i << RECORD_SHIFT) + R_ACK_OUT]);
		const state = table.state(i);
		if (state === TCP_ESTABLISHED && this.#cache.plain(i)) return false;
		const carried = this.#cache.packets(i, 0) !== 0 || this.#cache.packets(i, 1) !== 0;
		const reset = this.#cache.reset(i);
		const next = afterOffload(state, carried, reset, this.#cache.finished(i, 0), this.#cache.finished(i, 1));
		if (reset === "passed") this.#cache.forgetReset(i);
		if (next === state) return false;
		const now16 = this.#owner.now16();
		table.T16[(i << HALF_SHIFT) + R_LAST] = now16 - Math.min(this.age(i), table.age(i, now16));
		table.setStateKeepingTime(i, next, now16);
		return true;
	}

	/** What it has counted is asked of {@link counters}. */
	countSome(): boolean {
		return true;
	}

	syncAll(): void {
		const now = this.#owner.milliseconds();
		if (now < this.#syncAt) return;
		let moved = 0;
		this.#each((i) => {
			if (this.sync(i)) moved++;
		});
		if (moved < this.#cache.layout.sessions / SYNC_PART) this.#syncAt = now + SYNC_PAUSE;
	}

	/** The last second that a slot may have been used in which says so. Long ago the sweep has written it down. */
	#until(stamp: number): number {
		if (stamp === this.#stamp) return this.#owner.seconds();
		const k = (stamp & (TICKS - 1)) << 1;
		return this.#stamps[k] === stamp ? this.#stamps[k + 1] : stamp;
	}

	/** Stamp of the last use that counts: of TCP in either direction, of the others outbound only (RFC 4787 REQ-6). */
	#last(i: number): number {
		const out = this.#cache.last(i, 0);
		if ((this.#owner.table.T[(i << RECORD_SHIFT) + R_META] & 0xff) !== TCP) return out;
		const back = this.#cache.last(i, 1);
		return ((back - out) | 0) > 0 ? back : out;
	}

	/** Puts a session into the cache if everything that its packets need is known. */
	#enter(i: number): void {
		const o = this.#owner;
		const facts = this.#facts as OffloadFacts;
		if (!this.#cache.ready(i, o.milliseconds())) return;
		const { T, T16 } = o.table;
		const e = i << RECORD_SHIFT;
		const meta = T[e + R_META];
		const hop = meta >>> HOP_SHIFT;
		const host = T16[(i << HALF_SHIFT) + R_HOST];
		const place = o.hosts.W[host * HOST_WORDS + HOST_PLACE];
		const lan = facts.lan[(place >>> HOST_PORT_SHIFT) & 0xff];
		const external = o.addresses[(meta >> EXTERNAL_SHIFT) & 0xff];
		const port = this.#portOf(i);
		if (port > PORTS_MAX) return;
		if (external === 0 || hop === 0 || o.tags[hop] === 0 || lan.index === 0 || lan.ethernet !== facts.lan[0].ethernet) return;
		if (lan.kernelForwards ? lan.ethernet && !this.#findHost(host, lan) : (place & HOST_REACHABLE) === 0) return;
		const protocol = meta & 0xff;
		const query = protocol === ICMP;
		const out = this.#out;
		const back = this.#back;
		out.source = back.newAddress = T[e];
		out.destination = back.source = T[e + R_PEER];
		out.newAddress = back.destination = external;
		back.newPort = firstOf(T[e + R_OUT]);
		out.newPort = secondOf(T[e + R_IN]);
		out.ports = query ? back.newPort : T[e + R_OUT];
		back.ports = query ? out.newPort : T[e + R_IN];
		out.port = port;
		back.port = WAN_PORT;
		out.ack = T[e + R_ACK_OUT];
		back.ack = T[e + R_ACK_IN];
		out.device = facts.wan.index;
		out.mtu = o.mtuTo(T[e + R_PEER]);
		out.link = facts.wan.ethernet ? hop : -1;
		back.device = lan.index;
		back.mtu = this.#mtu(lan, back.newAddress);
		back.link = lan.ethernet ? HOST_HEADERS + host : -1;
		if (!this.#cache.enter(i, protocol, out, back, this.#links, 0)) return;
		const life = o.table.timeouts[o.table.state(i)];
		this.#retireAt = Math.min(this.#retireAt, retirement(o.seconds() + life - o.table.age(i, o.now16()), life));
	}

	/** Largest packet to a destination (raw) by a device: what the device takes, or its route. */
	#mtu(device: OffloadDevice, destination: number): number {
		return Math.min(device.mtu, this.#owner.routeMtu(addressValue(destination)) || device.mtu);
	}

	/** Number of the port that a session's outbound packets come in by. */
	#portOf(i: number): number {
		const o = this.#owner;
		const facts = this.#facts as OffloadFacts;
		const place = o.hosts.W[o.table.T16[(i << HALF_SHIFT) + R_HOST] * HOST_WORDS + HOST_PLACE];
		return lanNumber(facts, facts.lan[(place >>> HOST_PORT_SHIFT) & 0xff].index);
	}

	/** Sees to it that a host's link header is there, on a LAN whose neighbours are the kernel's. */
	#findHost(host: number, lan: OffloadLan): boolean {
		const o = this.#owner;
		const internal = o.hosts.W[host * HOST_WORDS + HOST_ADDRESS];
		if (this.#viaFor[host] === internal) return true;
		const found = o.neighbour(lan.index, addressValue(internal));
		if (found === null) return false;
		o.headers.set(HOST_HEADERS + host, found.mac, 0, lan.mac);
		this.#via[host] = found.address;
		this.#viaFor[host] = internal;
		return true;
	}

	/** Takes a session out and brings home what its slots have seen. */
	#leave(i: number): void {
		const { table } = this.#owner;
		// If that finds it closing, it leaves.
		if (this.sync(i) && !this.#cache.has(i)) return;
		const age = this.age(i);
		this.#cache.leave(i, this.#owner.milliseconds());
		const now16 = this.#owner.now16();
		if (age < table.age(i, now16)) {
			table.T16[(i << HALF_SHIFT) + R_LAST] = now16 - age;
			table.setStateKeepingTime(i, table.state(i), now16);
		}
		const { packetsOut, packetsIn, bytesOut, bytesIn } = this.#cache.counters(i);
		this.#packetsOut += packetsOut;
		this.#packetsIn += packetsIn;
		table.add(i, 0, packetsOut, bytesOut);
		table.add(i, 1, packetsIn, bytesIn);
	}

	/** Takes out a session that may go in again as it is. */
	#leaveForNow(i: number): void {
		this.#leave(i);
		this.#away[i] = 1;
		this.#returning = true;
	}

	#leaveAll(): void {
		this.#leaveWhere(() => true);
	}

	#leaveWhere(which: (i: number) => boolean): void {
		if (this.#cache.count === 0) return;
		for (let i = 1; i <= this.#cache.layout.sessions; i++) if (this.#cache.has(i) && which(i)) this.#leaveForNow(i);
	}

	/** Packets and bytes that a session has in the cache, out and in, beyond those of its record. */
	counters(i: number): { packetsOut: number; packetsIn: number; bytesOut: number; bytesIn: number } {
		if (!this.#cache.has(i)) return { packetsOut: 0, packetsIn: 0, bytesOut: 0, bytesIn: 0 };
		return this.#cache.counters(i);
	}

	// ---- what else changes ------------------------------------------------------------------------------------------

	/** A link header was changed or its neighbour lost: who uses it goes by user space until it is used again. */
	linkChanged(n: number): void {
		const { T, T16 } = this.#owner.table;
		if (n < HOST_HEADERS) this.#leaveWhere((i) => T[(i << RECORD_SHIFT) + R_META] >>> HOP_SHIFT === n);
		else this.#leaveWhere((i) => T16[(i << HALF_SHIFT) + R_HOST] === n - HOST_HEADERS);
	}

	/** Another next hop for a session. */
	hopChanged(i: number): void {
		if (this.#cache.has(i)) this.#leaveForNow(i);
	}

	/**
	 * News of a neighbour (host order) on a LAN that the kernel delivers to; `mac` null if it is not usable any more.
	 */
	neighbourChanged(ifindex: number, address: number, mac: Uint8Array | null): void {
		const facts = this.#facts;
		if (facts === null || !facts.lan.some((lan) => lan.kernelForwards && lan.index === ifindex)) return;
		const B = new Uint8Array(this.#owner.headers.buffer);
		for (let host = 1; host < this.#via.length; host++) {
			if (this.#viaFor[host] === 0 || this.#via[host] !== address) continue;
			const at = (HOST_HEADERS + host) * HEADER_SIZE;
			if (mac?.every((byte, n) => B[at + n] === byte)) continue;
			this.#viaFor[host] = 0;
			this.linkChanged(HOST_HEADERS + host);
		}
	}

	/** Routes changed: they may take other sizes, and hosts of the kernel's LANs may be behind another neighbour. */
	routesChanged(): void {
		this.#leaveWhere((i) => this.#sizesDiffer(i));
		if (this.#facts?.lan.some((lan) => lan.kernelForwards)) {
			const { T16 } = this.#owner.table;
			for (let host = 1; host < this.#via.length; host++) {
				if (this.#viaFor[host] === 0) continue;
				const lan = this.#facts.lan[(this.#owner.hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff];
				const found = this.#owner.neighbour(lan.index, addressValue(this.#viaFor[host]));
				if (found !== null && found.address === this.#via[host]) continue;
				this.#viaFor[host] = 0;
				this.#leaveWhere((i) => T16[(i << HALF_SHIFT) + R_HOST] === host);
			}
		}
	}

	/** Whether the routes of a session take other sizes than when it was entered. */
	#sizesDiffer(i: number): boolean {
		const { T } = this.#owner.table;
		const facts = this.#facts as OffloadFacts;
		const lan = facts.lan[this.#cache.port(i) - 1];
		const out = this.#owner.mtuTo(T[(i << RECORD_SHIFT) + R_PEER]);
		return (
			this.#cache.mtu(i, 0) !== Math.min(out, 0xffff) || this.#cache.mtu(i, 1) !== Math.min(this.#mtu(lan, T[i << RECORD_SHIFT]), 0xffff)
		);
	}

	// ---- time -------------------------------------------------------------------------------------------------------

	/** Sets the clock that the programs copy: what they used before this was used before this second. */
	tick(): void {
		const now = this.#owner.seconds();
		if (now !== this.#stamp) {
			this.#stamps.set([this.#stamp, now], (this.#stamp & (TICKS - 1)) << 1);
			this.#stamp = now;
			this.#cache.setHeader(CACHE_NOW, now);
		}
		this.#cache.setHeader(CACHE_ALIVE, Math.floor(native.nanoseconds() / 2 ** ALIVE_SHIFT));
	}

	/** Second in which {@link everySecond} is to be called though nothing else happens; Infinity if it is not. */
	get dueAt(): number {
		if (this.#returning && this.#open) return this.#owner.seconds() + 1;
		if (this.#cache.count === 0) return Number.POSITIVE_INFINITY;
		// Without a sign of life the programs do nothing, so that one is needed only while they are used.
		if (this.#attachment === "clsact" && this.#cache.header(CACHE_USED) !== 0) return this.#owner.seconds() + 1;
		return Math.min(this.#sweepAt, this.#retireAt);
	}

	/** Packets have gone by the cache since the last look. */
	get used(): boolean {
		return this.#swept >= 0 || this.#cache.header(CACHE_USED) !== 0;
	}

	/** Once a second while masqd is awake: the clock, who may go in again, a part of the sweep, who retires. */
	everySecond(): void {
		this.tick();
		if (this.#returning && this.#open) {
			this.#returning = false;
			for (let i = 1; i <= this.#cache.layout.sessions; i++) if (this.#away[i] !== 0) this.#return(i);
		}
		if (this.#cache.count === 0) return;
		const now = this.#owner.seconds();
		if (now >= this.#sweepAt) this.#sweep(now);
		if (now >= this.#retireAt) this.#retire(now);
	}

	/** Shortest timeout of the sessions that there are. */
	#least(): number {
		const { table } = this.#owner;
		let least = 0xffff;
		for (const state of CARRIED) if (table.head(state) !== 0) least = Math.min(least, table.timeouts[state]);
		// What closes in the cache is noticed then.
		if (table.head(TCP_ESTABLISHED) !== 0) least = Math.min(least, table.timeouts[TCP_CLOSING]);
		return least;
	}

	/** Looks whether any session was used, or visits the next of them. */
	#sweep(now: number): void {
		const round = Math.floor(this.#least() / ROUND_PART);
		const seconds = clamp(Math.max(SWEEP_LEAST, round / SWEEP_PART), Math.min(SWEEP_MAX, round - 1));
		if (this.#swept < 0) {
			if (this.#cache.header(CACHE_USED) === 0) {
				this.#sweepAt = now + clamp(round - seconds, LOOK_MAX);
				return;
			}
			this.#cache.setHeader(CACHE_USED, 0);
			this.#swept = 0;
		}
		const { table } = this.#owner;
		const now16 = this.#owner.now16();
		const last = this.#cache.layout.sessions;
		const end = Math.min(last, this.#swept + Math.ceil(last / seconds));
		for (let i = this.#cache.next(this.#swept + 1, end); i !== 0; i = this.#cache.next(i + 1, end)) {
			if (this.sync(i)) continue;
			if (this.age(i) < table.age(i, now16)) {
				table.touch(i, now16);
				this.#owner.inUse(table.T16[(i << HALF_SHIFT) + R_HOST]);
			}
			if (this.#cache.isFull(i)) this.#leaveForNow(i);
		}
		this.#swept = end === last ? -1 : end;
		this.#sweepAt = now + 1;
	}

	/** Has the sessions go by user space whose time is up before the next moment at which some are due. */
	#retire(now: number): void {
		const { table } = this.#owner;
		const now16 = this.#owner.now16();
		this.#retireAt = Number.POSITIVE_INFINITY;
		for (const state of CARRIED) {
			const life = table.timeouts[state];
			for (let i = table.head(state); i !== 0; ) {
				const moment = retirement(now + life - table.age(i, now16), life);
				if (moment > now) {
					this.#retireAt = Math.min(this.#retireAt, moment);
					break;
				}
				const after = table.next(i);
				if (this.#cache.has(i) && !this.sync(i)) {
					if (this.age(i) < table.age(i, now16)) table.touch(i, now16);
					else this.#leave(i);
				}
				i = after;
			}
		}
	}

	/** Enters a session that was away and still goes on; one that has left just now has to wait for another second. */
	#return(i: number): void {
		const { T } = this.#owner.table;
		const wanted = !this.#cache.has(i) && carries(T[(i << RECORD_SHIFT) + R_META], T[(i << RECORD_SHIFT) + R_PACKETS_IN] !== 0);
		if (wanted && !this.#cache.ready(i, this.#owner.milliseconds())) {
			this.#returning = true;
			return;
		}
		this.#away[i] = 0;
		if (wanted) this.#enter(i);
	}

	/** What `status` shows. */
	status(mode: "auto" | "on" | "off"): OffloadStatus {
		let packetsOut = this.#packetsOut;
		let packetsIn = this.#packetsIn;
		this.#each((i) => {
			packetsOut += this.#cache.packets(i, 0);
			packetsIn += this.#cache.packets(i, 1);
		});
		const filters = this.#filters;
		const standsBack = this.#facts?.standsBack ?? false;
		const obstacle = this.#failure || (standsBack ? obstacleOf(filters) : "");
		return {
			mode,
			active: obstacle === "",
			detail: obstacle || this.#attachment,
			flows: this.#cache.count,
			capacity: this.#cache.layout.sessions,
			packetsOut,
			packetsIn,
			past: standsBack ? "" : filters,
		};
	}

	#each(visit: (i: number) => void): void {
		if (this.#cache.count === 0) return;
		const { sessions } = this.#cache.layout;
		for (let i = this.#cache.next(1, sessions); i !== 0; i = this.#cache.next(i + 1, sessions)) visit(i);
	}
}

/**
 * Whether a session with this word R_META may go by the kernel. TCP from the moment when both SYNs have been seen until
 * both FINs have.
 */
function carries(meta: number, answered: boolean): boolean {
	switch ((meta >> STATE_SHIFT) & STATE_MASK) {
		case UDP_OPEN:
			return true;
		case ICMP_QUERY:
			return answered;
		case TCP_OPENED:
		case TCP_ESTABLISHED:
		case TCP_FIN_OUT:
		case TCP_FIN_IN:
			return (meta & 0xff) === TCP && (meta & ALG_INSPECTED) === 0;
		default:
			return false;
	}
}

/** When a session leaves whose last second of `life` is `last`: together with others, and not after it. */
function retirement(last: number, life: number): number {
	const grain = grainOf(life);
	return Math.floor(last / grain) * grain;
}

/** A part of a timeout as whole seconds, `most` at most. */
function clamp(seconds: number, most: number): number {
	return Math.max(1, Math.min(most, Math.floor(seconds)));
}

/** Why nothing is attached for the time being: `filters` of others, in words. */
export function obstacleOf(filters: string): string {
	return `${filters}, which packets would pass by`;
}

/** Devices that are there, by number; one may be several ports (tun driver). */
function devices(facts: OffloadFacts): number[] {
	return [...new Set([facts.wan, ...facts.lan].map((d) => d.index))].filter((index) => index !== 0);
}

/** Number of a LAN device in slots and programs: that of its first port, from 1 on. */
function lanNumber(facts: OffloadFacts, ifindex: number): number {
	for (let n = 0; n < facts.lan.length; n++) if (facts.lan[n].index === ifindex) return n + 1;
	return PORTS_MAX + 1;
}

function direction(): Direction {
	return { source: 0, destination: 0, ports: 0, newAddress: 0, newPort: 0, port: 0, device: 0, mtu: 0, ack: 0, link: -1 };
}

/**
 * The later of two acknowledgment numbers, raw; 0 is none. Segments with IP options may have passed by user space
 * meanwhile.
 */
function later(known: number, seen: number): number {
	if (seen === 0) return known;
	return known === 0 || ((swap32(seen) - swap32(known)) | 0) > 0 ? seen : known;
}

/** The map for as many of the sessions as the kernel lets be in one value. */
function createMap(sessions: number): { map: native.Fd; layout: CacheLayout; memory: ArrayBuffer } {
	for (let n = sessions; ; n >>= 1) {
		const layout = layoutCache(n);
		let map: native.Fd = -1;
		try {
			map = native.bpfMapCreate(MAP_ARRAY, layout.bytes, 1, MAP_MMAPABLE, "masqd_flows");
			return { map, layout, memory: native.bpfMapMemory(map, layout.bytes) };
		} catch (error) {
			const e = error as native.NativeError;
			native.close(map);
			if ((e.code !== "E2BIG" && e.code !== "ENOMEM") || n >> 1 < SESSIONS_LEAST) throw new OffloadError(describe(e));
		}
	}
}

/** The sysctl is there in the first network namespace only. */
function jitIsOff(): boolean {
	try {
		return native.readFile("/proc/sys/net/core/bpf_jit_enable").trim() === "0";
	} catch {
		return false;
	}
}

function describe(error: native.NativeError): string {
	if (error.code === "EPERM" || error.code === "EACCES") return `no permission: ${error.message}`;
	if (error.code === "ENOSYS") return "the kernel has no BPF";
	return error.message;
}
