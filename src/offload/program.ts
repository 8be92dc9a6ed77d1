/**
 * The two BPF programs, generated for one configuration: LAN ingress rewrites source addresses, WAN ingress destination
 * addresses.
 *
 * Theory of operation. A program looks its packet up in the flow cache (slot.ts). If it is a plain TCP, UDP or ICMP
 * echo packet of a cached session, the program does to it what nat/fast-path.ts would: hop count, both checksums,
 * address and port, link header, counters; and redirects it to the device in the slot, through that device's queueing
 * discipline. Everything else is passed on untouched and reaches masqd's sockets as if there were no program:
 * fragments, IP options, a last hop, a wrong header checksum, packets larger than the way out, TCP segments with SYN,
 * or with neither ACK nor RST, frames that are not to us.
 *
 * Which port a packet came in by is part of its key: the number of the device is a constant of the program.
 *
 * FIN and RST are noted in the slot. A RST has to be taken along: where the kernel forwards beside us (tun driver) its
 * connection tracking has seen no segment since the handshake, and a ruleset that drops what is invalid would keep the
 * reset from the other side. One from outside is held against the acknowledgment number of the other direction as
 * conntrack/tcp.ts does; what does not fit is user space's to judge. What follows behind the IPv4 packet in its frame
 * is cut off, as receiving it would do.
 *
 * Passing on is TC_ACT_UNSPEC, which lets other programs and filters of the device have the packet too. Nothing is
 * written to a packet before it is certain that it will be sent.
 *
 * Checksums: the header's is verified and updated in the packet (RFC 1624 equation 3); TCP's and UDP's by the kernel's
 * helper, because only it knows whether the checksum is partial: in two calls, as a partial one takes the address, but
 * not the port. UDP without checksum stays so.
 *
 * No outbound packet leaves with a source that is not in the list of external addresses, whatever the slot says: it is
 * compared once more here.
 *
 * "Deadman": programs attached by file descriptor go when masqd dies. A classic filter stays; it works only while the
 * engine's sign of life is fresh.
 */

import { RESET_WINDOW } from "../conntrack/record.ts";
import { ETH_P_IP, ETHER_HEADER } from "../packet/ethernet.ts";
import { ECHO, ECHO_REPLY, ICMP_ID } from "../packet/icmp.ts";
import {
	DONT_FRAGMENT,
	FRAGMENT,
	IP_DESTINATION,
	IP_FLAGS,
	IP_HEADER,
	IP_ID,
	IP_LENGTH,
	IP_PLAIN_BYTE,
	IP_PROTOCOL,
	IP_SOURCE,
	IP_SUM,
	IP_TTL,
} from "../packet/ipv4.ts";
import { ICMP, TCP, UDP } from "../packet/layout.ts";
import { ACK, FIN, RST, SYN, TCP_ACK, TCP_FLAGS, TCP_OFFSET, TCP_SEQUENCE } from "../packet/tcp.ts";
import { Assembler, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, type Register } from "./asm.ts";
import {
	CACHE_ALIVE,
	CACHE_HEADER,
	CACHE_IDS,
	CACHE_IDS_BITS,
	CACHE_NOW,
	CACHE_USED,
	CHAIN_MAX,
	SEEN_FIN,
	SEEN_RESET,
	SLOT_ACK,
	SLOT_BYTES,
	SLOT_DESTINATION,
	SLOT_DEVICE,
	SLOT_KIND,
	SLOT_LAST,
	SLOT_LINK,
	SLOT_MARK,
	SLOT_MTU,
	SLOT_NEW_ADDRESS,
	SLOT_NEW_PORT,
	SLOT_NEXT,
	SLOT_PACKETS,
	SLOT_PORTS,
	SLOT_SEEN,
	SLOT_SIZE,
	SLOT_SOURCE,
	WAN_PORT,
} from "./slot.ts";

/** What both programs are made of. Addresses are in host order. */
export interface ProgramFacts {
	/** Byte order of the machine. */
	littleEndian: boolean;
	/** Descriptor of the cache's map. */
	map: number;
	/** log2 of the number of chains, number of the last slot, offset of slot 0 in the value. */
	bits: number;
	lastSlot: number;
	slots: number;
	/** Secret keys of the chain hash, the last two odd. */
	keys: readonly [number, number, number];
	/** Number of the port that it sits on (slot.ts). */
	port: number;
	/** Whether frames of the device it sits on, and of those it sends from, have an Ethernet header. */
	fromEthernet: boolean;
	toEthernet: boolean;
	/** The external addresses, the WAN port's own first. */
	externals: readonly { first: number; last: number }[];
	/** Networks of the LAN: packets to them are not looked up. */
	nets: readonly { address: number; mask: number }[];
	/** True if the program must stop by itself when the engine does. */
	deadman: boolean;
}

/** struct __sk_buff */
const CTX_LENGTH = 0;
const CTX_PACKET_TYPE = 4;
const CTX_PROTOCOL = 16;
const CTX_VLAN_PRESENT = 20;
const CTX_DATA = 76;
const CTX_DATA_END = 80;
const CTX_GSO_SIZE = 176;

/** enum bpf_func_id */
const KTIME_GET_NS = 5;
const SKB_STORE_BYTES = 9;
const L4_CSUM_REPLACE = 11;
const REDIRECT = 23;
const SKB_CHANGE_TAIL = 38;
const SKB_PULL_DATA = 39;
const SKB_CHANGE_HEAD = 43;

/**
 * Flags of L4_CSUM_REPLACE: 0 means "not a sum", 0xffff its result 0; the change is in the pseudo-header. The low bits
 * are the field's size, 0 for a difference.
 */
const MARK_MANGLED_0 = 0x20;
const PSEUDO_HEADER = 0x10;

const TC_ACT_UNSPEC = -1;
const TC_ACT_SHOT = 2;

/** A super-packet's segments have consecutive ones: 64 KB in the smallest that are common. */
const IDS_OF_SUPER_PACKET = 64;
/** Offsets behind an IPv4 header without options, in bytes. */
const L4 = IP_HEADER;
const L4_SEQUENCE = L4 + TCP_SEQUENCE;
const L4_ACK = L4 + TCP_ACK;
const L4_OFFSET = L4 + TCP_OFFSET;
const L4_FLAGS = L4 + TCP_FLAGS;
/** Headers that must be at hand: IPv4 with TCP, or with anything shorter. */
const LONG = 40;
const SHORT = 28;

/** Shift that makes "seconds" of 2^30 ns, and how old a sign of life may be in them. */
export const ALIVE_SHIFT = 30;
const ALIVE_MAX = 3;

/** Bytes of stack, below R10. */
const STACK_DIFFERENCE = -8;
const STACK_OLD_PORT = -16;
/** The link header, whose words are aligned there; made when the ports are not needed any more. */
const STACK_LINK = -22;
const STACK_LENGTH = -32;

/** The program for a LAN device. */
export function lanProgram(f: ProgramFacts): ArrayBuffer {
	return generate(f, true);
}

/** The program for the WAN device. */
export function wanProgram(f: ProgramFacts): ArrayBuffer {
	return generate(f, false);
}

function swapped16(v: number): number {
	return ((v & 0xff) << 8) | (v >> 8);
}

function swapped32(v: number): number {
	return (v << 24) | ((v & 0xff00) << 8) | ((v >>> 8) & 0xff00) | (v >>> 24);
}

/** SLOT_KIND of a protocol's packets that come in by a port. */
export function kindOf(protocol: number, port: number): number {
	return protocol | (port << 8);
}

function generate(f: ProgramFacts, outbound: boolean): ArrayBuffer {
	const a = new Assembler(f.littleEndian);
	const base = f.fromEthernet ? ETHER_HEADER : 0;
	// A value in network order as a load gives it.
	const half = (v: number) => (f.littleEndian ? swapped16(v) : v);
	const word = (v: number) => (f.littleEndian ? swapped32(v) : v | 0);
	// What R9 holds, as SLOT_KIND.
	const kind: Kind = { icmp: kindOf(ICMP, f.port), tcp: kindOf(TCP, f.port), udp: kindOf(UDP, f.port) };

	a.alu64("mov", R6, R1);
	a.load(4, R1, R6, CTX_PROTOCOL).jump("ne", R1, half(ETH_P_IP), "pass");
	a.load(4, R1, R6, CTX_PACKET_TYPE).jump("ne", R1, 0, "pass");
	a.load(4, R1, R6, CTX_VLAN_PRESENT).jump("ne", R1, 0, "pass");
	a.load(4, R7, R6, CTX_DATA).load(4, R1, R6, CTX_DATA_END);
	a.alu64("mov", R2, R7)
		.alu64("add", R2, base + LONG)
		.jump("gt", R2, R1, "short");
	a.label("have");
	a.load(4, R2, R7, base + IP_SOURCE).load(4, R3, R7, base + IP_DESTINATION);
	if (!outbound && f.externals.length === 1 && f.externals[0].first === f.externals[0].last)
		a.jump32("ne", R3, word(f.externals[0].first), "pass");
	if (outbound) {
		for (const net of f.nets) a.alu32("mov", R1, R3).alu32("and", R1, word(net.mask)).jump32("eq", R1, word(net.address), "pass");
	}
	a.load(1, R1, R7, base).jump("ne", R1, IP_PLAIN_BYTE, "pass");
	a.load(2, R1, R7, base + IP_FLAGS).jump("set", R1, half(FRAGMENT), "pass");
	a.load(1, R1, R7, base + IP_TTL).jump("lt", R1, 2, "pass");
	a.load(1, R9, R7, base + IP_PROTOCOL);
	if (f.port !== WAN_PORT) a.alu32("or", R9, kindOf(0, f.port));
	a.jump("eq", R9, kind.udp, "ports").jump("eq", R9, kind.tcp, "tcp").jump("ne", R9, kind.icmp, "pass");
	a.load(2, R1, R7, base + L4).jump("ne", R1, half((outbound ? ECHO : ECHO_REPLY) << 8), "pass");
	a.load(2, R4, R7, base + L4 + ICMP_ID).goto("lookup");
	a.label("tcp");
	a.load(4, R1, R6, CTX_DATA_END)
		.alu64("mov", R5, R7)
		.alu64("add", R5, base + LONG)
		.jump("gt", R5, R1, "pass");
	a.load(1, R1, R7, base + L4_FLAGS)
		.alu32("and", R1, SYN | RST | ACK)
		.jump("ne", R1, ACK, "reset");
	a.label("ports").load(4, R4, R7, base + L4);
	lookup(a, f);
	a.label("hit");
	if (f.deadman) deadman(a, f);
	verify(a, base, f.deadman);
	size(a);
	a.load(4, R4, R8, SLOT_NEW_ADDRESS);
	if (outbound) ours(a, f, word);
	exact(a, base);
	count(a, f, base, kind);
	translate(a, f, base, outbound, half, kind);
	send(a, f, base, kind);
	a.label("reset").jump("set", R1, SYN, "pass").jump("set", R1, RST, "ports").goto("pass");
	segments(a, base, kind);
	end(a, base, outbound);
	trim(a, base, outbound, kind);
	pull(a, base);
	a.label("pass").alu64("mov", R0, TC_ACT_UNSPEC).exit();
	if (!f.fromEthernet && f.toEthernet) a.label("lose").alu64("mov", R0, TC_ACT_SHOT).exit();
	return a.assemble();
}

/** SLOT_KIND of each protocol. */
interface Kind {
	icmp: number;
	tcp: number;
	udp: number;
}

/** Finds the slot for source R2, destination R3, ports R4, kind R9: R8 at "hit". The hash is that of FlowCache. */
function lookup(a: Assembler, f: ProgramFacts): void {
	a.label("lookup");
	a.alu32("mov", R0, R4).alu32("xor", R0, f.keys[0]).alu32("mul", R0, f.keys[1]).alu32("xor", R0, R2);
	a.alu32("mov", R1, R0).alu32("rsh", R1, 15).alu32("xor", R0, R1).alu32("xor", R0, R3).alu32("mul", R0, f.keys[2]);
	a.alu32("rsh", R0, 32 - f.bits).alu32("lsh", R0, 2);
	a.mapValue(R8, f.map, CACHE_HEADER).alu64("add", R8, R0).load(4, R0, R8, 0);
	for (let n = 0; n < CHAIN_MAX; n++) {
		const next = `chain ${n + 1}`;
		a.jump("eq", R0, 0, "pass").jump("gt", R0, f.lastSlot, "pass");
		a.alu64("lsh", R0, 6).mapValue(R8, f.map, f.slots).alu64("add", R8, R0);
		a.load(4, R1, R8, SLOT_SOURCE).jump("ne", R1, R2, next);
		a.load(4, R1, R8, SLOT_PORTS).jump("ne", R1, R4, next);
		a.load(4, R1, R8, SLOT_DESTINATION).jump("ne", R1, R3, next);
		a.load(2, R1, R8, SLOT_KIND).jump("eq", R1, R9, "hit");
		a.label(next);
		if (n < CHAIN_MAX - 1) a.load(4, R0, R8, SLOT_NEXT);
	}
	a.goto("pass");
}

function deadman(a: Assembler, f: ProgramFacts): void {
	a.call(KTIME_GET_NS).alu64("rsh", R0, ALIVE_SHIFT);
	a.mapValue(R1, f.map, CACHE_ALIVE).load(4, R1, R1, 0).alu32("sub", R0, R1).jump32("gt", R0, ALIVE_MAX, "pass");
}

/** Passes a packet with a wrong header checksum or no room for its headers. Leaves the length in R5. */
function verify(a: Assembler, base: number, deadman: boolean): void {
	a.load(4, R1, R7, base);
	// The look-up has left both addresses, unless the clock was asked.
	const fields = deadman ? [4, 8, IP_SOURCE, IP_DESTINATION] : [4, 8];
	if (!deadman) a.alu64("add", R1, R2).alu64("add", R1, R3);
	for (const field of fields) a.load(4, R2, R7, base + field).alu64("add", R1, R2);
	// Five words are below 2^35, so twice is enough.
	for (let n = 0; n < 2; n++) a.alu64("mov", R2, R1).alu64("rsh", R2, 16).alu64("and", R1, 0xffff).alu64("add", R1, R2);
	a.jump("ne", R1, 0xffff, "pass");
	a.load(2, R5, R7, base + IP_LENGTH)
		.bigEndian(R5, 16)
		.jump("lt", R5, SHORT, "pass");
}

/** Passes a packet that is too big for its way out. */
function size(a: Assembler): void {
	a.load(4, R0, R6, CTX_GSO_SIZE).load(2, R2, R8, SLOT_MTU).jump("ne", R0, 0, "segments").jump("gt", R5, R2, "pass").label("fits");
}

/** The same of a super-packet with segments of R0 bytes, whose way out takes R2. */
function segments(a: Assembler, base: number, kind: Kind): void {
	a.label("segments").alu64("add", R0, SHORT).jump("ne", R9, kind.tcp, "whole");
	a.load(1, R1, R7, base + L4_OFFSET)
		.alu64("rsh", R1, 4)
		.alu64("lsh", R1, 2)
		.alu64("add", R0, R1)
		.alu64("add", R0, L4 - SHORT);
	a.label("whole").jump("gt", R0, R2, "pass").goto("fits");
}

/** Passes a packet unless R4 is an external address. */
function ours(a: Assembler, f: ProgramFacts, word: (v: number) => number): void {
	// While there is no address no session has one: 0.0.0.0 is nobody's.
	const [own = { first: 0, last: 0 }, ...others] = f.externals;
	if (own.first === own.last) a.jump32("eq", R4, word(own.first), "ours");
	else others.unshift(own);
	if (others.length > 0) a.alu64("mov", R1, R4).bigEndian(R1, 32);
	for (const [n, range] of others.entries()) {
		a.jump32("lt", R1, range.first | 0, `not ${n}`)
			.jump32("le", R1, range.last | 0, "ours")
			.label(`not ${n}`);
	}
	a.goto("pass").label("ours");
}

/** Sends a frame whose length is not that of its packet (R5) to {@link trim}. */
function exact(a: Assembler, base: number): void {
	a.load(4, R1, R6, CTX_LENGTH);
	if (base !== 0) a.alu64("add", R1, -base);
	a.jump("ne", R1, R5, "trim").label("exact");
}

/**
 * Cuts off what follows behind the packet: the padding of a short frame, or worse. Passes a packet that its frame (R1)
 * does not hold, and a super-packet, whose segments would not be one any more. Nothing else can stand in the way by
 * now.
 */
function trim(a: Assembler, base: number, outbound: boolean, kind: Kind): void {
	a.label("trim").jump("gt", R5, R1, "pass").load(4, R1, R6, CTX_GSO_SIZE).jump("ne", R1, 0, "pass");
	a.jump("ne", R9, kind.tcp, "cut").jump("lt", R5, LONG, "pass");
	if (!outbound) {
		a.load(1, R1, R7, base + L4_FLAGS)
			.alu32("and", R1, RST)
			.jump("eq", R1, 0, "cut");
		judge(a, base);
	}
	a.label("cut");
	a.store(8, R10, STACK_LENGTH, R5).alu64("mov", R1, R6).alu64("mov", R2, R5);
	if (base !== 0) a.alu64("add", R2, base);
	a.alu64("mov", R3, 0).call(SKB_CHANGE_TAIL).jump("ne", R0, 0, "pass");
	a.load(4, R7, R6, CTX_DATA).load(4, R1, R6, CTX_DATA_END).load(8, R5, R10, STACK_LENGTH).load(4, R4, R8, SLOT_NEW_ADDRESS);
	a.alu64("mov", R2, R7)
		.alu64("add", R2, base + LONG)
		.jump("le", R2, R1, "exact")
		.jump("eq", R9, kind.tcp, "pass");
	a.alu64("mov", R2, R7)
		.alu64("add", R2, base + SHORT)
		.jump("gt", R2, R1, "pass")
		.goto("exact");
}

/** Passes a RST from outside whose sequence number is not what the inside expects, or of which that is not known. */
function judge(a: Assembler, base: number): void {
	a.load(4, R2, R8, SLOT_ACK - SLOT_SIZE)
		.jump("eq", R2, 0, "pass")
		.bigEndian(R2, 32);
	a.load(4, R1, R7, base + L4_SEQUENCE)
		.bigEndian(R1, 32)
		.alu32("sub", R1, R2)
		.jump32("gt", R1, RESET_WINDOW, "pass");
}

/**
 * Whether this is the last of its direction, what an off-path reset would have to guess, last use, packets, bytes (R5).
 */
function count(a: Assembler, f: ProgramFacts, base: number, kind: Kind): void {
	a.jump("ne", R9, kind.tcp, "seen")
		.load(1, R1, R7, base + L4_FLAGS)
		.jump("set", R1, FIN | RST, "end");
	a.label("heard")
		.load(4, R1, R7, base + L4_ACK)
		.store(4, R8, SLOT_ACK, R1);
	a.label("seen");
	a.mapValue(R1, f.map, CACHE_NOW).load(4, R2, R1, 0).load(4, R3, R8, SLOT_LAST);
	a.jump("eq", R2, R3, "used").store(4, R8, SLOT_LAST, R2).store(4, R1, CACHE_USED, R2).label("used");
	a.load(4, R1, R8, SLOT_PACKETS).alu32("add", R1, 1).store(4, R8, SLOT_PACKETS, R1);
	a.load(8, R1, R8, SLOT_BYTES).alu64("add", R1, R5).store(8, R8, SLOT_BYTES, R1);
}

/**
 * A FIN, or a RST (flags in R1), which is judged first if it comes from outside: the engine learns of it when the
 * session's turn comes.
 */
function end(a: Assembler, base: number, outbound: boolean): void {
	const other = outbound ? SLOT_SIZE : -SLOT_SIZE;
	a.label("end").jump("set", R1, RST, "judge");
	a.load(1, R1, R8, SLOT_SEEN).alu32("or", R1, SEEN_FIN).store(1, R8, SLOT_SEEN, R1).goto("heard");
	a.label("judge");
	if (!outbound) judge(a, base);
	a.load(4, R1, R8, SLOT_PACKETS).alu32("add", R1, 1).store(1, R8, SLOT_MARK, R1);
	a.load(4, R1, R8, other + SLOT_PACKETS).store(1, R8, other + SLOT_MARK, R1);
	a.alu64("mov", R1, 0).store(1, R8, other + SLOT_SEEN, R1);
	a.alu64("mov", R1, SEEN_RESET).store(1, R8, SLOT_SEEN, R1).goto("seen");
}

/**
 * Rewrites headers in the packet; R4 is the new address. Leaves the difference and the old port on the stack for the
 * helper.
 */
function translate(a: Assembler, f: ProgramFacts, base: number, outbound: boolean, half: (v: number) => number, kind: Kind): void {
	const address = base + (outbound ? IP_SOURCE : IP_DESTINATION);
	const port = base + L4 + (outbound ? 0 : 2);
	a.load(4, R1, R7, address).alu32("xor", R1, -1).alu64("add", R1, R4);
	a.alu64("mov", R5, R1).alu64("rsh", R5, 32).alu32("add", R1, R5).store(8, R10, STACK_DIFFERENCE, R1);
	a.load(2, R5, R7, base + IP_SUM).alu32("xor", R5, 0xffff);
	a.alu32("mov", R0, R1).alu32("and", R0, 0xffff).alu32("add", R5, R0).alu32("rsh", R1, 16).alu32("add", R5, R1);
	a.alu32("add", R5, 0xffff - half(0x0100));
	if (outbound) identify(a, f, base, half);
	for (let n = 0; n < 2; n++) a.alu32("mov", R0, R5).alu32("rsh", R0, 16).alu32("and", R5, 0xffff).alu32("add", R5, R0);
	a.alu32("xor", R5, 0xffff).store(2, R7, base + IP_SUM, R5);
	a.load(1, R5, R7, base + IP_TTL)
		.alu32("add", R5, -1)
		.store(1, R7, base + IP_TTL, R5);
	a.store(4, R7, address, R4);
	a.load(2, R4, R8, SLOT_NEW_PORT);
	a.jump("eq", R9, kind.icmp, "identifier");
	a.load(2, R3, R7, port).store(2, R7, port, R4).goto("written");
	a.label("identifier")
		.load(2, R3, R7, base + L4 + ICMP_ID)
		.store(2, R7, base + L4 + 4, R4);
	a.label("written").store(8, R10, STACK_OLD_PORT, R3);
	if (f.fromEthernet && f.toEthernet) link(a, R7, 0);
}

/**
 * Gives a packet without DF an identification that no other host behind our address uses (RFC 6864 section 5.3.1), from
 * the upper half of the numbers; the lower is nat/slow-path.ts's. The change goes into the sum in R5; R1 and R4 are
 * kept.
 */
function identify(a: Assembler, f: ProgramFacts, base: number, half: (v: number) => number): void {
	a.load(2, R0, R7, base + IP_FLAGS).jump("set", R0, half(DONT_FRAGMENT), "identified");
	// A counter for those destinations that the secret hash makes one of (identification.ts).
	a.load(4, R0, R7, base + IP_DESTINATION)
		.alu32("xor", R0, f.keys[0])
		.alu32("mul", R0, f.keys[1])
		.alu32("rsh", R0, 32 - CACHE_IDS_BITS)
		.alu32("lsh", R0, 2);
	a.mapValue(R3, f.map, CACHE_IDS).alu64("add", R3, R0).load(4, R2, R3, 0);
	a.load(4, R0, R6, CTX_GSO_SIZE)
		.jump("eq", R0, 0, "one")
		.alu64("mov", R0, IDS_OF_SUPER_PACKET - 1);
	a.label("one").alu32("add", R0, R2).alu32("add", R0, 1).store(4, R3, 0, R0);
	a.alu32("and", R2, 0x7fff).alu32("or", R2, 0x8000).bigEndian(R2, 16);
	a.load(2, R0, R7, base + IP_ID)
		.alu32("xor", R0, 0xffff)
		.alu32("add", R5, R0)
		.alu32("add", R5, R2)
		.store(2, R7, base + IP_ID, R2);
	a.label("identified");
}

/** Transport checksum, link header for a frame that had none, and off it goes. */
function send(a: Assembler, f: ProgramFacts, base: number, kind: Kind): void {
	a.jump("eq", R9, kind.tcp, "tcp sum").jump("eq", R9, kind.icmp, "icmp sum");
	transportSum(a, base + L4 + 6, MARK_MANGLED_0);
	a.goto("send").label("tcp sum");
	transportSum(a, base + L4 + 16, 0);
	a.goto("send").label("icmp sum");
	a.load(8, R3, R10, STACK_OLD_PORT).load(2, R4, R8, SLOT_NEW_PORT);
	portSum(a, base + L4 + 2, 0);
	a.label("send");
	if (!f.fromEthernet && f.toEthernet) {
		a.alu64("mov", R1, R6).alu64("mov", R2, ETHER_HEADER).alu64("mov", R3, 0).call(SKB_CHANGE_HEAD).jump("ne", R0, 0, "lose");
		link(a, R10, STACK_LINK);
		a.alu64("mov", R1, f.littleEndian ? swapped16(ETH_P_IP) : ETH_P_IP).store(2, R10, STACK_LINK + ETHER_HEADER - 2, R1);
		a.alu64("mov", R1, R6)
			.alu64("mov", R2, 0)
			.alu64("mov", R3, R10)
			.alu64("add", R3, STACK_LINK)
			.alu64("mov", R4, ETHER_HEADER)
			.alu64("mov", R5, 0);
		a.call(SKB_STORE_BYTES).jump("ne", R0, 0, "lose");
	}
	a.load(4, R1, R8, SLOT_DEVICE).alu64("mov", R2, 0).call(REDIRECT).exit();
}

/** Copies the link header's addresses out of the slot. */
function link(a: Assembler, to: Register, offset: number): void {
	for (const [at, size] of [
		[0, 2],
		[2, 4],
		[6, 4],
		[10, 2],
	] as const)
		a.load(size, R1, R8, SLOT_LINK + at).store(size, to, offset + at, R1);
}

function transportSum(a: Assembler, field: number, flags: number): void {
	a.alu64("mov", R1, R6).alu64("mov", R2, field).alu64("mov", R3, 0).load(8, R4, R10, STACK_DIFFERENCE);
	a.alu64("mov", R5, PSEUDO_HEADER | flags).call(L4_CSUM_REPLACE);
	a.load(8, R3, R10, STACK_OLD_PORT).load(2, R4, R8, SLOT_NEW_PORT).jump("eq", R3, R4, "send");
	portSum(a, field, flags);
}

/** Takes the change from R3 to R4 into the checksum at `field`. */
function portSum(a: Assembler, field: number, flags: number): void {
	a.alu64("mov", R1, R6)
		.alu64("mov", R2, field)
		.alu64("mov", R5, flags | 2)
		.call(L4_CSUM_REPLACE);
}

/** A packet too short for a TCP header, or whose headers are not in the linear part. */
function pull(a: Assembler, base: number): void {
	a.label("short")
		.load(4, R2, R6, CTX_LENGTH)
		.jump("lt", R2, base + SHORT, "pass")
		.jump("le", R2, base + LONG, "few");
	a.alu64("mov", R2, base + LONG)
		.label("few")
		.alu64("mov", R1, R6)
		.call(SKB_PULL_DATA);
	a.load(4, R7, R6, CTX_DATA).load(4, R1, R6, CTX_DATA_END);
	a.alu64("mov", R2, R7)
		.alu64("add", R2, base + SHORT)
		.jump("gt", R2, R1, "pass")
		.goto("have");
}
