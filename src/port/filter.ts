/**
 * Classic BPF socket filters: which frames the kernel hands to the packet sockets at all.
 *
 * Both filters look at the destination only, so that every frame that is the kernel's business alone (the router's own
 * traffic, traffic between connected networks) costs no system call. What they let through the daemon judges again:
 * they may accept too much, never too little. A program that the kernel would not take for its length is made of
 * coarser ranges. Frames too short to tell are accepted so that they are dropped with a counted reason.
 *
 * A program is an `Int32Array` of groups of four words [code, jt, jf, k], as `packetOpen` takes it. Classic BPF jumps
 * forward only, conditional ones by at most 255 instructions; the assembler resolves labels and lengthens jumps that
 * are farther.
 */

import type { AddressRange, Subnet } from "../packet/address.ts";
import { mergeRanges, subnetRange } from "../packet/address.ts";
import { MULTICAST } from "../packet/address-class.ts";
import { ARP_OPERATION, ARP_REQUEST, ARP_TARGET } from "../packet/arp.ts";
import { ETHER_HEADER } from "../packet/ethernet.ts";
import { isError, PARAMETER_PROBLEM } from "../packet/icmp.ts";
import {
	FRAGMENT,
	FRAGMENT_OFFSET,
	IP_DESTINATION,
	IP_FLAGS,
	IP_HEADER,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE,
	IP_TTL,
} from "../packet/ipv4.ts";
import { DCCP, ICMP, SCTP, TCP, UDP, UDPLITE } from "../packet/layout.ts";
import { PCP_PORT } from "../packet/pcp-code.ts";
import { DESTINATION_PORT } from "../packet/udp.ts";

/** Destination ports of one protocol that masqd answers for: its port range or a port forward. */
export interface ClaimedPorts {
	/** IP protocol number: 6 or 17. */
	proto: number;
	first: number;
	last: number;
}

/** What {@link lanFilter} is made of. */
export interface LanFilterFacts {
	/** Frames begin with an Ethernet header (SOCK_RAW); else with the IP header (SOCK_DGRAM). */
	ethernet: boolean;
	/** The router's own addresses: the kernel's, except what `externals` takes out again. */
	ownAddresses: readonly number[];
	/** Destinations that the kernel routes elsewhere than by the WAN. */
	elsewhere: readonly Subnet[];
	/** Sources that are the kernel's. */
	handed?: readonly Subnet[];
	/** External addresses, for hairpinning. */
	externals: readonly number[];
	claimed: readonly ClaimedPorts[];
	/**
	 * Of what goes out only packets with their last hop: the tap beside a tun port, where the kernel forwards the
	 * others.
	 */
	expiringOnly?: boolean;
}

/** What {@link wanFilter} is made of. */
export interface WanFilterFacts {
	/** As in {@link LanFilterFacts}. */
	ethernet: boolean;
	/** External addresses that are the WAN device's own and so shared with the kernel. */
	externals: readonly number[];
	/** External addresses that are masqd's alone: static NAT and pools. */
	owned: readonly AddressRange[];
	claimed: readonly ClaimedPorts[];
}

/** Largest program that the kernel takes (BPF_MAXINSNS). */
const INSTRUCTIONS_MAX = 4096;
const JUMP_MAX = 255;

const LD_W_ABS = 0x20;
const LD_H_ABS = 0x28;
const LD_B_ABS = 0x30;
const LD_H_IND = 0x48;
const LD_B_IND = 0x50;
const LD_LEN = 0x80;
const LDX_MSH = 0xb1;
const JA = 0x05;
const JEQ = 0x15;
const JGT = 0x25;
const JGE = 0x35;
const JSET = 0x45;
const JGE_X = 0x3d;
const SUB_K = 0x14;
const TXA = 0x87;
const TAX = 0x07;
const ADD_X = 0x0c;
const AND_K = 0x54;
const RSH_K = 0x74;
const ST = 0x02;
const LD_M = 0x60;
const RET_K = 0x06;

/** Ancillary data: `skb->pkt_type` (SKF_AD_OFF + SKF_AD_PKTTYPE). */
const PKTTYPE = -0x1000 + 4;
const PACKET_HOST = 0;
const PACKET_OTHERHOST = 3;

const OTHER_PORTED = [DCCP, SCTP, UDPLITE];

type Label = string;

interface Instruction {
	code: number;
	k: number;
	/** Targets of a jump; for JA only `yes`. null is the next instruction. */
	yes: Label | null;
	no: Label | null;
}

/** A classic BPF program in the making. */
export class FilterAssembler {
	readonly #instructions: Instruction[] = [];
	/** Index of the instruction that each label stands before. */
	readonly #labels = new Map<Label, number>();
	#fresh = 0;

	/** A label that no one else has. */
	label(): Label {
		return `.${this.#fresh++}`;
	}

	/** Puts a label before the next instruction. */
	at(label: Label): this {
		this.#labels.set(label, this.#instructions.length);
		return this;
	}

	/** An instruction that is no jump. */
	op(code: number, k = 0): this {
		this.#instructions.push({ code, k, yes: null, no: null });
		return this;
	}

	/** A conditional jump on A; a null target is the next instruction. */
	jump(code: number, k: number, yes: Label | null, no: Label | null): this {
		this.#instructions.push({ code, k, yes, no });
		return this;
	}

	/** An unconditional jump. */
	goto(label: Label): this {
		this.#instructions.push({ code: JA, k: 0, yes: label, no: null });
		return this;
	}

	/**
	 * Jumps to `hit` if A lies in one of the sorted, disjoint ranges, else to `miss`: a binary search in jumps.
	 *
	 * @param floor - what A is known to be at least.
	 */
	inRanges(ranges: readonly AddressRange[], hit: Label, miss: Label, floor = 0): this {
		if (ranges.length === 0) return this.goto(miss);
		if (ranges.length === 1) {
			const { first, last } = ranges[0] as AddressRange;
			if (first === last) return this.jump(JEQ, first, hit, miss);
			if (first > floor) this.jump(JGE, first, null, miss);
			return this.jump(JGT, last, miss, hit);
		}
		const middle = ranges.length >> 1;
		const boundary = (ranges[middle] as AddressRange).first;
		const upper = this.label();
		this.jump(JGE, boundary, upper, null);
		this.inRanges(ranges.slice(0, middle), hit, miss, floor);
		return this.at(upper).inRanges(ranges.slice(middle), hit, miss, boundary);
	}

	/**
	 * The finished program.
	 *
	 * @throws RangeError if it is longer than the kernel takes; Error for a label that was not placed or lies behind.
	 */
	assemble(): Int32Array {
		const instructions = this.#instructions;
		const long = new Set<number>();
		for (;;) {
			const starts = this.#starts(long);
			const grown = long.size;
			for (let i = 0; i < instructions.length; i++) {
				const { code, yes, no } = instructions[i] as Instruction;
				if (code === JA || (yes === null && no === null)) continue;
				const next = (starts[i] as number) + 1;
				if (this.#distance(yes, next, starts) > JUMP_MAX || this.#distance(no, next, starts) > JUMP_MAX) long.add(i);
			}
			if (long.size === grown) return this.#encode(starts, long);
		}
	}

	/** Where each instruction begins; a long conditional jump is three: the test, then a JA for each way. */
	#starts(long: ReadonlySet<number>): number[] {
		const starts: number[] = [];
		let at = 0;
		for (let i = 0; i <= this.#instructions.length; i++) {
			starts.push(at);
			at += long.has(i) ? 3 : 1;
		}
		return starts;
	}

	#distance(label: Label | null, next: number, starts: readonly number[]): number {
		if (label === null) return 0;
		const index = this.#labels.get(label);
		if (index === undefined) throw new Error(`filter: no label ${label}`);
		const distance = (starts[index] as number) - next;
		if (distance < 0) throw new Error(`filter: label ${label} lies behind`);
		return distance;
	}

	#encode(starts: readonly number[], long: ReadonlySet<number>): Int32Array {
		const total = starts[this.#instructions.length] as number;
		if (total > INSTRUCTIONS_MAX) throw new RangeError(`filter: ${total} instructions, the kernel takes ${INSTRUCTIONS_MAX}`);
		const words = new Int32Array(total * 4);
		for (const [i, { code, k, yes, no }] of this.#instructions.entries()) {
			const start = starts[i] as number;
			if (code === JA) {
				words.set([code, 0, 0, this.#distance(yes, start + 1, starts)], start * 4);
			} else if (long.has(i)) {
				words.set([code, 0, 1, k | 0], start * 4);
				words.set([JA, 0, 0, yes === null ? 1 : this.#distance(yes, start + 2, starts)], (start + 1) * 4);
				words.set([JA, 0, 0, this.#distance(no, start + 3, starts)], (start + 2) * 4);
			} else {
				words.set([code, this.#distance(yes, start + 1, starts), this.#distance(no, start + 1, starts), k | 0], start * 4);
			}
		}
		return words;
	}
}

/**
 * The filter of a LAN port's socket. Accepts IPv4 unicast that is for this station, or was sent to a broadcast or
 * multicast MAC address (so that it is counted), unless the kernel is to have it: what goes to the router itself or to
 * `elsewhere`. To an external address it accepts TCP and UDP to a claimed port, all their non-first fragments, the
 * other protocols with ports, and ICMP errors, which is what hairpinning needs (RFC 4787 REQ-9, RFC 5508 REQ-7).
 */
export function lanFilter(facts: LanFilterFacts): Int32Array {
	return fitting((most) => lanFilterOf(facts, most));
}

function lanFilterOf(facts: LanFilterFacts, most: number): Int32Array {
	const f = new FilterAssembler();
	const ip = facts.ethernet ? ETHER_HEADER : 0;
	loadDestination(f, ip);
	f.jump(JGE, MULTICAST, "drop", null);
	select(f, mergeRanges(facts.externals.map(single)), "external");
	f.inRanges(largest(mergeRanges([...facts.ownAddresses.map(single), ...facts.elsewhere.map(subnetRange)]), most), "drop", "out");
	f.at("out");
	const handed = mergeRanges((facts.handed ?? []).map(subnetRange));
	if (handed.length > 0)
		f.op(LD_W_ABS, ip + IP_SOURCE)
			.inRanges(handed, "drop", "ours")
			.at("ours");
	if (facts.expiringOnly) f.op(LD_B_ABS, ip + IP_TTL).jump(JGT, 1, "drop", "accept");
	else f.goto("accept");
	f.at("external");
	f.op(LD_B_ABS, ip + IP_PROTOCOL);
	f.jump(JEQ, ICMP, "icmp", null);
	for (const proto of OTHER_PORTED) f.jump(JEQ, proto, "accept", null);
	matchPorts(f, ip, facts.claimed, most, "drop");
	f.at("icmp");
	f.op(LD_H_ABS, ip + IP_FLAGS).jump(JSET, FRAGMENT_OFFSET, "drop", null);
	loadHeaderLength(f, ip, 1);
	f.op(LD_B_IND, ip);
	for (let type = 0; type <= PARAMETER_PROBLEM; type++) if (isError(type)) f.jump(JEQ, type, "accept", null);
	f.goto("drop");
	return finishChecked(f, ip);
}

/**
 * The filter of the WAN port's socket. Accepts what is for this station and goes to an external address: everything to
 * `owned`; to `externals`, which the kernel shares, TCP and UDP to a claimed port and everything that has no port to
 * tell by (non-first fragments, ICMP, other protocols).
 */
export function wanFilter(facts: WanFilterFacts): Int32Array {
	return fitting((most) => wanFilterOf(facts, most));
}

function wanFilterOf(facts: WanFilterFacts, most: number): Int32Array {
	const f = new FilterAssembler();
	const ip = facts.ethernet ? ETHER_HEADER : 0;
	loadDestination(f, ip);
	select(f, mergeRanges(facts.externals.map(single)), "external");
	f.inRanges(coarse(mergeRanges(facts.owned), most), "accept", "drop");
	f.at("external");
	f.op(LD_B_ABS, ip + IP_PROTOCOL);
	matchPorts(f, ip, facts.claimed, most, "accept");
	return finishChecked(f, ip);
}

/** The filter of an ARP socket (Ethernet header first): requests for an address in one of the ranges (RFC 826). */
export function arpFilter(ranges: readonly AddressRange[]): Int32Array {
	const f = new FilterAssembler();
	f.op(LD_H_ABS, ETHER_HEADER + ARP_OPERATION).jump(JEQ, ARP_REQUEST, null, "drop");
	f.op(LD_W_ABS, ETHER_HEADER + ARP_TARGET).inRanges(mergeRanges(ranges), "accept", "drop");
	return finish(f);
}

/**
 * Addresses that {@link pcpFilter} compares; of a device with more everything to the port is taken, and judged by its
 * reader.
 */
const PCP_ADDRESSES = 64;

/** The filter of a PCP socket (Ethernet header first): plain UDP to port 5351 of one of the router's addresses. */
export function pcpFilter(addresses: readonly number[]): Int32Array {
	const f = new FilterAssembler();
	const ip = ETHER_HEADER;
	const port = f.label();
	f.op(LD_B_ABS, ip).jump(JEQ, IP_PLAIN_BYTE, null, "drop");
	f.op(LD_B_ABS, ip + IP_PROTOCOL).jump(JEQ, UDP, null, "drop");
	f.op(LD_H_ABS, ip + IP_FLAGS).jump(JSET, FRAGMENT, "drop", null);
	f.op(LD_W_ABS, ip + IP_DESTINATION);
	if (addresses.length <= PCP_ADDRESSES) f.inRanges(mergeRanges(addresses.map(single)), port, "drop");
	f.at(port);
	f.op(LD_H_ABS, ip + IP_HEADER + DESTINATION_PORT).jump(JEQ, PCP_PORT, "accept", "drop");
	return finish(f);
}

/** A <- destination address, after dropping what is for another station and accepting what is too short to have one. */
function loadDestination(f: FilterAssembler, ip: number): void {
	f.op(LD_W_ABS, PKTTYPE).jump(JEQ, PACKET_OTHERHOST, "drop", null);
	f.op(LD_LEN).jump(JGE, ip + IP_HEADER, null, "accept");
	f.op(LD_W_ABS, ip + IP_DESTINATION);
}

/** Goes to `hit` if A is in the ranges, else on. */
function select(f: FilterAssembler, ranges: readonly AddressRange[], hit: Label): void {
	if (ranges.length === 0) return;
	const miss = f.label();
	f.inRanges(ranges, hit, miss).at(miss);
}

/** X <- length of the IP header; accepts if that is impossible or fewer than `bytes` follow it. */
function loadHeaderLength(f: FilterAssembler, ip: number, bytes: number): void {
	f.op(LDX_MSH, ip).op(TXA).jump(JGE, IP_HEADER, null, "accept");
	f.op(LD_LEN)
		.op(SUB_K, ip + bytes)
		.jump(JGE_X, 0, null, "accept");
}

/**
 * With the protocol in A: TCP and UDP are accepted if a non-first fragment or to a claimed port, else dropped; the rest
 * goes to `other`.
 */
function matchPorts(f: FilterAssembler, ip: number, claimed: readonly ClaimedPorts[], most: number, other: Label): void {
	for (const proto of [TCP, UDP]) {
		const next = f.label();
		f.jump(JEQ, proto, null, next);
		f.op(LD_H_ABS, ip + IP_FLAGS).jump(JSET, FRAGMENT_OFFSET, "accept", null);
		loadHeaderLength(f, ip, DESTINATION_PORT + 2);
		f.op(LD_H_IND, ip + DESTINATION_PORT);
		f.inRanges(coarse(mergeRanges(claimed.filter((ports) => ports.proto === proto)), most), "accept", "drop");
		f.at(next);
	}
	f.goto(other);
}

/**
 * The finest filter that the kernel takes: of each list of ranges as many as there are, or `most`. What is accepted too
 * much is judged again.
 */
function fitting(build: (most: number) => Int32Array): Int32Array {
	for (const most of [Number.POSITIVE_INFINITY, 256, 64, 16, 4]) {
		try {
			return build(most);
		} catch (error) {
			if (!(error instanceof RangeError)) throw error;
		}
	}
	return build(1);
}

/**
 * Sorted ranges with the smallest gaps closed, so that at most `most` are left: what they have together, and some more.
 */
function coarse(ranges: readonly AddressRange[], most: number): readonly AddressRange[] {
	if (ranges.length <= most) return ranges;
	const gap = (n: number) => (ranges[n] as AddressRange).first - (ranges[n - 1] as AddressRange).last;
	const kept = ranges.map((_, n) => n).slice(1);
	kept.sort((a, b) => gap(b) - gap(a)).splice(most - 1);
	const starts = [0, ...kept.sort((a, b) => a - b)];
	return starts.map((n, k) => ({
		first: (ranges[n] as AddressRange).first,
		last: (ranges[(starts[k + 1] ?? ranges.length) - 1] as AddressRange).last,
	}));
}

/** The `most` largest of sorted ranges, sorted. */
function largest(ranges: readonly AddressRange[], most: number): readonly AddressRange[] {
	if (ranges.length <= most) return ranges;
	const size = (range: AddressRange) => range.last - range.first;
	return [...ranges]
		.sort((a, b) => size(b) - size(a))
		.slice(0, most)
		.sort((a, b) => a.first - b.first);
}

function finish(f: FilterAssembler): Int32Array {
	return f.at("drop").op(RET_K, 0).at("accept").op(RET_K, -1).assemble();
}

/**
 * As {@link finish} for the sockets whose frames are translated: a link-layer broadcast or multicast, and a plain
 * header (five words) with a wrong checksum, is cut off behind the header. The daemon sees by the length that something
 * is wrong, finds out what, and counts it; frames of its fast way need no sum in JavaScript (110 ns).
 */
function finishChecked(f: FilterAssembler, ip: number): Int32Array {
	f.at("drop").op(RET_K, 0).at("accept");
	f.op(LD_LEN).jump(JGE, ip + IP_HEADER, null, "whole");
	f.op(LD_W_ABS, PKTTYPE).jump(JEQ, PACKET_HOST, null, "cut");
	f.op(LD_B_ABS, ip).jump(JEQ, IP_PLAIN_BYTE, null, "whole");
	f.op(LD_H_ABS, ip);
	for (let at = 2; at < IP_HEADER; at += 2)
		f.op(TAX)
			.op(LD_H_ABS, ip + at)
			.op(ADD_X);
	f.op(ST, 0).op(RSH_K, 16).op(TAX).op(LD_M, 0).op(AND_K, 0xffff).op(ADD_X);
	f.jump(JEQ, 0xffff, "whole", null);
	f.at("cut").op(RET_K, ip + IP_HEADER);
	return f.at("whole").op(RET_K, -1).assemble();
}

function single(address: number): AddressRange {
	return { first: address, last: address };
}
