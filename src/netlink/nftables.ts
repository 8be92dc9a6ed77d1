/**
 * nftables by netlink (linux/netfilter/nf_tables.h): what nft cannot say, and what would take it a process. Everything
 * but reading is a transaction: messages between {@link writeBatch}'s two, taken as a whole or not at all.
 *
 * A rule is a list of expressions, pairs of a name and attributes, which work on registers: here the sixteen of four
 * bytes, 8 to 23. Register numbers and the like are in network order, what is compared with and put into registers is
 * as the machine loads it.
 */
import { LITTLE_ENDIAN, MessageWriter, NLM_F } from "./message.ts";

const SUBSYSTEM = 10;
const BATCH_BEGIN = 0x10;
const BATCH_END = 0x11;
/** Message types. */
export const NFT = {
	GETTABLE: 0x0a01,
	DELTABLE: 0x0a02,
	NEWRULE: 0x0a06,
	NEWSETELEM: 0x0a0c,
	GETSETELEM: 0x0a0d,
	DELSETELEM: 0x0a0e,
} as const;
/** Address families of tables. */
export const NFPROTO = { INET: 1, IPV4: 2 } as const;

const TABLE_NAME = 1;
const RULE = { TABLE: 1, CHAIN: 2, EXPRESSIONS: 4 } as const;
const LIST_ELEMENT = 1;
const EXPRESSION = { NAME: 1, DATA: 2 } as const;
const DATA_VALUE = 1;
const ELEMENTS = { TABLE: 1, SET: 2, ELEMENTS: 3 } as const;
const ELEMENT = { KEY: 1, DATA: 2, FLAGS: 3 } as const;
const INTERVAL_END = 1;

/** Writes a transaction; `fill` writes its messages, of which the first has number `sequence` + 1. */
export function encodeBatch(sequence: number, fill: (out: MessageWriter) => void, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	const out = new MessageWriter(little);
	out.message({ type: BATCH_BEGIN, flags: NLM_F.REQUEST, sequence }).netfilter(0, SUBSYSTEM);
	fill(out);
	return out.message({ type: BATCH_END, flags: NLM_F.REQUEST, sequence }).netfilter(0, SUBSYSTEM).finish();
}

/** Asks for a table: ENOENT if there is none. */
export function encodeTableRequest(family: number, table: string, sequence: number): ArrayBuffer {
	const header = { type: NFT.GETTABLE, flags: NLM_F.REQUEST, sequence };
	return new MessageWriter().message(header).netfilter(family).nameAttribute(TABLE_NAME, table).finish();
}

/** Deletes a table with all that is in it. */
export function writeDeleteTable(out: MessageWriter, family: number, table: string, sequence: number): void {
	out
		.message({ type: NFT.DELTABLE, flags: NLM_F.REQUEST | NLM_F.ACK, sequence })
		.netfilter(family)
		.nameAttribute(TABLE_NAME, table);
}

/** An expression of a rule: writes itself. */
export type Expression = (out: MessageWriter) => void;

/** Appends a rule to a chain. */
export function writeRule(
	out: MessageWriter,
	family: number,
	table: string,
	chain: string,
	expressions: readonly Expression[],
	sequence: number,
): void {
	out
		.message({ type: NFT.NEWRULE, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE | NLM_F.APPEND, sequence })
		.netfilter(family)
		.nameAttribute(RULE.TABLE, table)
		.nameAttribute(RULE.CHAIN, chain)
		.nest(RULE.EXPRESSIONS, () => {
			for (const expression of expressions) out.nest(LIST_ELEMENT, () => expression(out));
		});
}

function expression(name: string, data: (out: MessageWriter) => void): Expression {
	return (out) => {
		out.nameAttribute(EXPRESSION.NAME, name).nest(EXPRESSION.DATA, () => data(out));
	};
}

/** A value as it stands in a register. */
function value(out: MessageWriter, type: number, number: number): void {
	out.nest(type, () => out.numberAttribute(DATA_VALUE, number));
}

/** Keys of `meta` and `ct`. */
export const META_PRIORITY = 2;
export const CT_KEY = { STATE: 0, STATUS: 2, MARK: 3 } as const;
/** What `cmp` does. */
export const CMP = { EQ: 0, NEQ: 1 } as const;
/** Kinds of `nat`. */
export const NAT = { SNAT: 0, DNAT: 1 } as const;

/** Loads a property of the packet. */
export function meta(key: number, register: number): Expression {
	return expression("meta", (out) => void out.networkAttribute(2, key).networkAttribute(1, register));
}

export function setMeta(key: number, register: number): Expression {
	return expression("meta", (out) => void out.networkAttribute(2, key).networkAttribute(3, register));
}

/** Loads a property of the packet's connection. */
export function ct(key: number, register: number): Expression {
	return expression("ct", (out) => void out.networkAttribute(2, key).networkAttribute(1, register));
}

export function setCt(key: number, register: number): Expression {
	return expression("ct", (out) => void out.networkAttribute(2, key).networkAttribute(4, register));
}

/** `to` = (`from` & `mask`) ^ `xor`. */
export function bitwise(from: number, to: number, mask: number, xor: number): Expression {
	return expression("bitwise", (out) => {
		out.networkAttribute(1, from).networkAttribute(2, to).networkAttribute(3, 4);
		value(out, 4, mask);
		value(out, 5, xor);
	});
}

/** Puts a register's value into network order. */
export function toNetwork(register: number): Expression {
	return expression(
		"byteorder",
		(out) =>
			void out
				.networkAttribute(1, register)
				.networkAttribute(2, register)
				.networkAttribute(3, 1)
				.networkAttribute(4, 4)
				.networkAttribute(5, 4),
	);
}

/** `to` = what a map has for `from`; without an element there the rule does not match. */
export function lookup(map: string, from: number, to: number): Expression {
	return expression("lookup", (out) => void out.nameAttribute(1, map).networkAttribute(2, from).networkAttribute(3, to));
}

/** The rule goes on only if a register compares so with a value. */
export function compare(register: number, operation: number, number: number): Expression {
	return expression("cmp", (out) => {
		out.networkAttribute(1, register).networkAttribute(2, operation);
		value(out, 3, number);
	});
}

export function immediate(register: number, number: number): Expression {
	return expression("immediate", (out) => {
		out.networkAttribute(1, register);
		value(out, 2, number);
	});
}

/** A number that is another one each time, from `offset` on, below `offset` + `modulus`. */
export function count(modulus: number, offset: number, register: number): Expression {
	const INCREMENTAL = 0;
	return expression(
		"numgen",
		(out) =>
			void out.networkAttribute(1, register).networkAttribute(2, modulus).networkAttribute(3, INCREMENTAL).networkAttribute(4, offset),
	);
}

/** `to` = `from` << `bits`. */
export function shiftLeft(from: number, to: number, bits: number): Expression {
	const LEFT = 1;
	return expression("bitwise", (out) => {
		out.networkAttribute(1, from).networkAttribute(2, to).networkAttribute(3, 4).networkAttribute(6, LEFT);
		value(out, 7, bits);
	});
}

/** Writes `length` bytes of a register into the IP header, whose checksum is kept right. */
export function setHeader(offset: number, length: number, register: number): Expression {
	const NETWORK = 1;
	const INTERNET = 1;
	const CHECKSUM = 10;
	return expression(
		"payload",
		(out) =>
			void out
				.networkAttribute(5, register)
				.networkAttribute(2, NETWORK)
				.networkAttribute(3, offset)
				.networkAttribute(4, length)
				.networkAttribute(6, INTERNET)
				.networkAttribute(7, CHECKSUM),
	);
}

export function counter(): Expression {
	return expression("counter", () => {});
}

/** Translates to the IPv4 address and port in registers, and ends the chain. */
export function nat(kind: number, address: number, port: number): Expression {
	return expression(
		"nat",
		(out) => void out.networkAttribute(1, kind).networkAttribute(2, NFPROTO.IPV4).networkAttribute(3, address).networkAttribute(5, port),
	);
}

/** Queues the packet, or lets it pass if nobody listens to that queue. */
export function queue(number: number): Expression {
	const BYPASS = 1;
	return expression("queue", (out) => void out.network16Attribute(1, number).network16Attribute(2, 1).network16Attribute(3, BYPASS));
}

/** The same by xtables' target, for kernels without nft's own expression. */
export function queueTarget(queue: number): Expression {
	return expression("target", (out) => {
		const info = new Uint8Array(new Uint16Array([queue, 1, 1, 0]).buffer);
		out.nameAttribute(1, "NFQUEUE").networkAttribute(2, 3).bytesAttribute(3, info);
	});
}

/**
 * An element of a set (`data` null) or map: bytes as they stand in the registers. `end`: the one behind a range, which
 * is not in it.
 */
export interface Element {
	key: Uint8Array;
	data?: Uint8Array;
	end?: boolean;
}

/** Adds (NFT.NEWSETELEM), deletes or asks for elements; without any it is all of the set. */
export function writeElements(
	out: MessageWriter,
	header: { type: number; flags: number; sequence: number },
	family: number,
	table: string,
	set: string,
	elements: readonly Element[],
): void {
	out.message(header).netfilter(family).nameAttribute(ELEMENTS.TABLE, table).nameAttribute(ELEMENTS.SET, set);
	if (elements.length === 0) return;
	out.nest(ELEMENTS.ELEMENTS, () => {
		for (const { key, data, end } of elements)
			out.nest(LIST_ELEMENT, () => {
				if (end) out.networkAttribute(ELEMENT.FLAGS, INTERVAL_END);
				out.nest(ELEMENT.KEY, () => out.bytesAttribute(DATA_VALUE, key));
				if (data !== undefined) out.nest(ELEMENT.DATA, () => out.bytesAttribute(DATA_VALUE, data));
			});
	});
}
