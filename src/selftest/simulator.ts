/**
 * The decision code over private memory: one LAN, one WAN, no devices, a clock that is set by hand. For `selftest`.
 */

import type { Timeouts } from "../conntrack/states.ts";
import { layoutTable } from "../conntrack/table-layout.ts";
import { type Admission, EXPIRE_BUDGET } from "../nat/admission.ts";
import { BLOCK, type Context, type LanLink, type Link, NO_NET, POLICY_DEFAULTS, type Policy, Queue } from "../nat/context.ts";
import { makeContext, makeCore, makeTables } from "../nat/core.ts";
import { externalsWords } from "../nat/externals.ts";
import type { FastPath } from "../nat/fast-path.ts";
import { UNREAD } from "../nat/ftp-control.ts";
import { type Probe, putProbe } from "../nat/probe.ts";
import { REASONS } from "../nat/reason.ts";
import type { SlowPath } from "../nat/slow-path.ts";
import { formatAddress } from "../packet/address.ts";
import { sumOf } from "../packet/checksum.ts";
import { formatEndpoint, parseEndpoint, parseProtocol } from "../packet/endpoint.ts";
import { headerTag } from "../packet/header-tag.ts";
import { ICMP_ID_H, ICMP_SUM_H } from "../packet/icmp.ts";
import {
	DF_BYTE,
	INITIAL_TTL,
	IP_DESTINATION_W,
	IP_HEADER,
	IP_HEADER_H,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE_W,
	IP_SUM_H,
	PLAIN_TCP_ACK_W,
	PLAIN_TCP_SEQUENCE_W,
} from "../packet/ipv4.ts";
import { addressValue, hasPorts, ICMP, IP_WORD, SLOT_IP, swap16, swap32, viewsOf } from "../packet/layout.ts";
import { LinkHeaders } from "../packet/link-header.ts";

const SESSIONS = 256;
const RANGES = [{ first: 32768, last: 65535 }];
/** Frame memory: one slot and some blocks for what is made. */
const SLOT = 4096;
const BLOCKS = 16;
const HOP = 1;
const MTU = 1500;

/** The defaults of the configuration, in seconds. */
export const SIMULATED_TIMEOUTS: Timeouts = {
	udp: 300,
	dns: 2,
	icmp: 60,
	tcp_opening: 240,
	tcp_established: 7440,
	tcp_closing: 240,
	tcp_reset: 240,
	other: 300,
};

export const EXTERNAL = "203.0.113.1";
const INTERNAL = "192.168.1.1";

/** Raw address of a dotted text. */
function loaded(text: string): number {
	return swap32(parseEndpoint(text)?.address ?? 0);
}

/** A private core. */
export class Simulator {
	readonly context: Context;
	readonly #admission: Admission;
	readonly #slowPath: SlowPath;
	readonly #fast: FastPath;
	readonly #rx = new Int32Array(2);
	#random = 1;

	constructor(policy: Partial<Policy> = {}) {
		const layout = layoutTable(SESSIONS, externalsWords(1, RANGES));
		const memory = new ArrayBuffer(layout.words * 4);
		const tables = makeTables(memory, layout, Int32Array.of(0x1234567, 0x2345671, 0x3456713, 1), SIMULATED_TIMEOUTS, RANGES);
		tables.externals.add(loaded(EXTERNAL), true, 0, -1);
		const views = viewsOf(new ArrayBuffer(SLOT + BLOCKS * BLOCK));
		const tags = new Int32Array(256);
		tags[HOP] = headerTag(HOP);
		const link = (address: string): Link => ({
			ethernet: false,
			mtu: MTU,
			address: loaded(address),
			mac: new Uint8Array(6),
			nets: [],
			queue: new Queue(16),
		});
		const lan: LanLink = {
			...link(INTERNAL),
			nets: [{ address: loaded("192.168.1.0"), mask: swap32(0xffffff00) }],
			kernelForwards: false,
			handed: [],
			home: 0,
			pcp: false,
			sole: NO_NET,
		};
		this.context = makeContext(tables, {
			views,
			hops: { tags, least: MTU, mtuTo: () => MTU, find: () => HOP, park: () => {}, parkInternal: () => {}, heard: () => {} },
			headers: new LinkHeaders(layout.hosts),
			wan: { ...link(EXTERNAL), nets: [{ address: loaded("203.0.113.0"), mask: swap32(0xffffff00) }] },
			lan: [lan],
			spare: { at: SLOT, count: BLOCKS },
			policy: { ...POLICY_DEFAULTS, hosts: new Map(), forwards: [], pools: [], ranges: RANGES, ...policy },
			ipId: 1,
			now: 100_000,
			now16: 100_000 & 0xffff,
			random: () => {
				this.#random = Math.imul(this.#random, 1103515245) + 12345;
				return this.#random >> 4;
			},
			sum: (from, length) => sumOf(views.H, views.B, from, length),
			flush: () => {},
		});
		const { admission, slowPath, fast } = makeCore(this.context, () => UNREAD);
		this.#admission = admission;
		this.#slowPath = slowPath;
		this.#fast = fast;
	}

	/** Lets seconds go by and ends what is due. */
	pass(seconds: number): void {
		this.context.now += seconds;
		this.context.now16 = this.context.now & 0xffff;
		while (this.#admission.expire(EXPIRE_BUDGET) > 0);
		this.#slowPath.everySecond();
	}

	/** Sessions now. */
	get sessions(): number {
		return this.context.table.used;
	}

	/** A packet from inside, by endpoints such as "192.168.1.10:40000"; what became of it, as {@link #result} tells. */
	out(protocol: string, source: string, destination: string, flags = 0, ttl = 64): string {
		return this.#run(this.#probe(protocol, source, destination, flags, false, ttl), true);
	}

	/** A packet from outside. `reply`: of ICMP, an echo reply. */
	in(protocol: string, source: string, destination: string, flags = 0, reply = true): string {
		return this.#run(this.#probe(protocol, source, destination, flags, reply, 64), false);
	}

	/** As {@link in}, a TCP segment with a sequence number. */
	segmentIn(source: string, destination: string, flags: number, seq: number): string {
		const length = this.#probe("tcp", source, destination, flags, false, 64);
		this.context.views.P[IP_WORD + PLAIN_TCP_SEQUENCE_W] = swap32(seq);
		return this.#run(length, false);
	}

	/** A TCP segment from inside with an acknowledgment number. */
	segmentOut(source: string, destination: string, flags: number, ack: number): string {
		const length = this.#probe("tcp", source, destination, flags, false, 64);
		this.context.views.P[IP_WORD + PLAIN_TCP_ACK_W] = swap32(ack);
		return this.#run(length, true);
	}

	/** An ICMP error from outside about a packet between two endpoints as the outside saw it. */
	errorIn(type: number, code: number, protocol: string, source: string, destination: string): string {
		const { views } = this.context;
		const { B, H, P } = views;
		const quote = this.#probe(protocol, source, destination, 0, false, 64);
		B.copyWithin(SLOT_IP + 28, SLOT_IP, SLOT_IP + quote);
		const length = 28 + quote;
		B.fill(0, SLOT_IP, SLOT_IP + 28);
		B.set([IP_PLAIN_BYTE, 0, 0, length, 0, 0, DF_BYTE, 0, INITIAL_TTL, ICMP], SLOT_IP);
		P[IP_WORD + IP_SOURCE_W] = loaded("203.0.113.254");
		P[IP_WORD + IP_DESTINATION_W] = loaded(source);
		B[SLOT_IP + IP_HEADER] = type;
		B[SLOT_IP + IP_HEADER + 1] = code;
		H[SLOT_IP / 2 + IP_SUM_H] = complement(H, SLOT_IP / 2, IP_HEADER_H);
		H[SLOT_IP / 2 + (IP_HEADER_H + ICMP_SUM_H)] = complement(H, SLOT_IP / 2 + IP_HEADER_H, (length - IP_HEADER) / 2);
		return this.#run(length, false);
	}

	#probe(protocol: string, source: string, destination: string, flags: number, reply: boolean, ttl: number): number {
		const endpoint = (text: string) => parseEndpoint(text) ?? { address: 0, port: 0 };
		const from = endpoint(source);
		const to = endpoint(destination);
		const probe: Probe = {
			protocol: parseProtocol(protocol),
			source: swap32(from.address),
			sourcePort: swap16(from.port),
			destination: swap32(to.address),
			destinationPort: swap16(to.port),
		};
		return putProbe(this.context.views, 0, probe, flags, reply, ttl);
	}

	#run(length: number, outbound: boolean): string {
		const c = this.context;
		const before = c.dropLog.sequence;
		this.#rx[0] = 0;
		this.#rx[1] = length;
		if (outbound) this.#fast.outbound(this.#rx, 1, 0);
		else this.#fast.inbound(this.#rx, 1);
		const dropped = c.dropLog.sequence > before ? (REASONS[c.dropLog.last]?.[0] ?? "") : "";
		return this.#result(dropped);
	}

	/**
	 * "wan SOURCE > DESTINATION" or "lan ..." for a packet that left, "REASON" for one that was dropped, "REASON error
	 * TYPE/CODE" if its sender was told, "kernel" for what is the router's own.
	 */
	#result(dropped: string): string {
		const c = this.context;
		const { P, H, B } = c.views;
		let result = dropped || "kernel";
		const at = (array: ArrayLike<number>, n: number) => array[n] ?? 0;
		const queues: [string, Queue][] = [["wan", c.wan.queue], ...c.lan.map(({ queue }): [string, Queue] => ["lan", queue])];
		for (const [name, queue] of queues) {
			if (queue.count === 0) continue;
			const ip = at(queue.pairs, 0) + SLOT_IP;
			queue.count = 0;
			const w = ip >> 2;
			const l4 = (ip + (at(B, ip) & 15) * 4) >> 1;
			const protocol = at(B, ip + IP_PROTOCOL);
			const show = (address: number, port: number) =>
				hasPorts(protocol) ? formatEndpoint(address, at(H, port)) : formatAddress(addressValue(address));
			const id = protocol === 1 ? ` id ${swap16(at(H, l4 + ICMP_ID_H))}` : "";
			if (dropped !== "") result = `${dropped} error ${B[l4 * 2]}/${B[l4 * 2 + 1]}`;
			else result = `${name} ${show(at(P, w + IP_SOURCE_W), l4)} > ${show(at(P, w + IP_DESTINATION_W), l4 + 1)}${id}`;
		}
		return result;
	}
}

/** Checksum of `count` halfwords, raw. */
function complement(H: Uint16Array, from: number, count: number): number {
	let sum = 0;
	for (const half of H.subarray(from, from + count)) sum += half;
	while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
	return sum ^ 0xffff;
}
