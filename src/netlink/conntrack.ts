/**
 * ctnetlink (linux/netfilter/nfnetlink_conntrack.h): the kernel's connection tracking entries, read and deleted. The
 * kernel makes them itself when the first packet of a connection passes, but for those of connections that it is to
 * take over.
 *
 * Addresses are in host order, ports host order.
 */
import { AttributeReader, attributeHead, LITTLE_ENDIAN, type MessageReader, MessageWriter, NLM_F, type RequestHeader } from "./message.ts";

/** Message types; events are NEW and DELETE too. */
export const CT_NEW = 0x0100;
export const CT_GET = 0x0101;
export const CT_DELETE = 0x0102;

/** Multicast groups, as `netlinkOpen` takes them. */
export const CT_GROUP = { NEW: 1, UPDATE: 2, DESTROY: 3 } as const;

/** Bits of an entry's status. */
export const IPS = { EXPECTED: 1, SEEN_REPLY: 2, ASSURED: 4, CONFIRMED: 8, SRC_NAT: 16, DST_NAT: 32, OFFLOAD: 1 << 14 } as const;

const AF_INET = 2;
const ICMP = 1;
/** nfgenmsg; length and type of an attribute. */
const FAMILY_HEADER = 4;
const ATTRIBUTE_HEADER = 4;
const ATTRIBUTE_TYPE = 0x3fff;

/** CTA_*: attributes of an entry; plain numbers, because only those does esbuild inline. */
const TUPLE_ORIG = 1;
const TUPLE_REPLY = 2;
const STATUS = 3;
const PROTOINFO = 4;
const NAT_SOURCE = 6;
const TIMEOUT = 7;
const MARK = 8;
const COUNTERS_ORIG = 9;
const COUNTERS_REPLY = 10;
const ID = 12;
const ZONE = 18;
const MARK_MASK = 21;
/** CTA_TUPLE_*, and what is in them. */
const TUPLE_IP = 1;
const TUPLE_PROTO = 2;
const TUPLE_ZONE = 3;
const IP_SOURCE = 1;
const IP_DESTINATION = 2;
const PROTO_NUMBER = 1;
const PROTO_SOURCE = 2;
const PROTO_DESTINATION = 3;
const PROTO_ICMP_ID = 4;
const PROTO_ICMP_TYPE = 5;
const PROTO_ICMP_CODE = 6;
/** Bytes of a tuple with ports, and the heads of two attributes in it: the protocol's nest, and the source port. */
const PORTED = 48;
const PORTED_PROTO = attributeHead(28, 0x8000 | TUPLE_PROTO);
const PORTED_SOURCE = attributeHead(6, PROTO_SOURCE);
/** CTA_COUNTERS_* */
const COUNTERS_PACKETS = 1;
const COUNTERS_BYTES = 2;
const PACKETS_HEAD = attributeHead(12, COUNTERS_PACKETS);
const PROTOINFO_TCP = 1;
const TCP_INFO = { STATE: 1, FLAGS_ORIGINAL: 4, FLAGS_REPLY: 5 } as const;
const ESTABLISHED = 3;
/** IP_CT_TCP_FLAG_BE_LIBERAL, as value and as mask: windows that it has not seen are not judged. */
const BE_LIBERAL = Uint8Array.of(8, 8);
const NAT = { ADDRESS: 1, PORTS: 3 } as const;
const NAT_PORT = 1;
/**
 * Seconds that an established connection may be quiet (RFC 5382 REQ-5); with its next packet the kernel's own timeout
 * holds.
 */
const QUIET = 7440;

/** One direction of an entry. */
export interface Tuple {
	protocol: number;
	source: number;
	destination: number;
	/** Of ICMP the identifier, and type * 256 + code; of protocols without ports 0. */
	sourcePort: number;
	destinationPort: number;
	/** Where it has a zone of this direction alone. */
	zone?: number;
}

/** Packets and bytes of one direction, exact below 2^53. */
export interface Counters {
	packets: number;
	bytes: number;
}

/** An entry, as a dump or an event has it. */
export interface Entry {
	/** An event says that it has gone. */
	destroyed: boolean;
	original: Tuple;
	reply: Tuple;
	/** IPS bits. */
	status: number;
	/** Seconds until it goes unless a packet comes; -1 if the kernel does not tell: it is offloaded. */
	timeout: number;
	mark: number;
	zone: number;
	/** The kernel's number for it. */
	id: number;
	/** Of TCP the kernel's state, else 0. */
	tcpState: number;
	/** Null where the kernel does not count. */
	sent: Counters | null;
	received: Counters | null;
}

/**
 * The entry of the message that `reader` stands at, null if it is none of IPv4. After a start there are thousands of
 * them: attributes are walked here by their offsets, with no object for each.
 */
export function parseEntry(reader: MessageReader): Entry | null {
	const { view, end, little, type, words } = reader;
	if ((type !== CT_NEW && type !== CT_DELETE) || end - reader.at < FAMILY_HEADER || view.getUint8(reader.at) !== AF_INET) return null;
	const original: Tuple = { protocol: 0, source: 0, destination: 0, sourcePort: 0, destinationPort: 0 };
	const reply: Tuple = { protocol: 0, source: 0, destination: 0, sourcePort: 0, destinationPort: 0 };
	let tuples = 0;
	let status = 0;
	let timeout = -1;
	let mark = 0;
	let zone = 0;
	let id = 0;
	let tcpState = 0;
	let sent: Counters | null = null;
	let received: Counters | null = null;
	for (let at = reader.at + FAMILY_HEADER, next = 0; at + ATTRIBUTE_HEADER <= end; at = next) {
		const head = words === null ? view.getUint32(at, little) : words[at >> 2];
		const size = little ? head & 0xffff : head >>> 16;
		const kind = (little ? head >>> 16 : head) & ATTRIBUTE_TYPE;
		if (size < ATTRIBUTE_HEADER || at + size > end) break;
		next = at + ((size + 3) & ~3);
		const value = at + ATTRIBUTE_HEADER;
		if (size === 8) {
			if (kind === STATUS) status = view.getUint32(value);
			else if (kind === MARK) mark = view.getUint32(value);
			else if (kind === ID) id = view.getUint32(value);
			else if (kind === TIMEOUT) timeout = view.getUint32(value);
		} else if (kind === TUPLE_ORIG) tuples |= readTuple(view, words, value, at + size, little, original);
		else if (kind === TUPLE_REPLY) tuples |= readTuple(view, words, value, at + size, little, reply) << 1;
		else if (kind === COUNTERS_ORIG) sent = readCounters(view, words, value, at + size, little);
		else if (kind === COUNTERS_REPLY) received = readCounters(view, words, value, at + size, little);
		else if (kind === PROTOINFO) tcpState = readTcpState(view, value, at + size, little);
		else if (kind === ZONE && size >= 6) zone = view.getUint16(value);
	}
	if (tuples !== 3) return null;
	return { destroyed: type === CT_DELETE, original, reply, status, timeout, mark, zone, id, tcpState, sent, received };
}

/** Fills a tuple from the attributes in [`from`, `end`): addresses, and what the protocol has; 1. */
function readTuple(view: DataView, words: Uint32Array | null, from: number, end: number, little: boolean, tuple: Tuple): number {
	const w = from >> 2;
	if (words !== null && end - from === PORTED && words[w + 5] === PORTED_PROTO && words[w + 8] === PORTED_SOURCE) {
		// As the kernel writes those of TCP and UDP.
		tuple.source = view.getUint32(from + 8);
		tuple.destination = view.getUint32(from + 16);
		tuple.protocol = view.getUint8(from + 28);
		tuple.sourcePort = view.getUint16(from + 36);
		tuple.destinationPort = view.getUint16(from + 44);
		return 1;
	}
	let nest = 0;
	// Behind the head of a nest comes what is in it, and what is behind it afterwards: one walk sees both.
	for (let at = from, inside = from, next = 0; at + ATTRIBUTE_HEADER <= end; at = next) {
		const head = view.getUint32(at, little);
		const size = little ? head & 0xffff : head >>> 16;
		const kind = (little ? head >>> 16 : head) & ATTRIBUTE_TYPE;
		if (size < ATTRIBUTE_HEADER || at + size > end) break;
		const value = at + ATTRIBUTE_HEADER;
		next = at + ((size + 3) & ~3);
		if (at >= inside) {
			nest = kind;
			inside = next;
			if (kind === TUPLE_IP || kind === TUPLE_PROTO) next = value;
			else if (kind === TUPLE_ZONE && size >= 6) tuple.zone = view.getUint16(value);
		} else if (nest === TUPLE_IP) {
			if (size < 8) continue;
			if (kind === IP_SOURCE) tuple.source = view.getUint32(value);
			else if (kind === IP_DESTINATION) tuple.destination = view.getUint32(value);
		} else if (kind === PROTO_NUMBER && size >= 5) tuple.protocol = view.getUint8(value);
		else if ((kind === PROTO_SOURCE || kind === PROTO_ICMP_ID) && size >= 6) tuple.sourcePort = view.getUint16(value);
		else if (kind === PROTO_DESTINATION && size >= 6) tuple.destinationPort = view.getUint16(value);
		else if (kind === PROTO_ICMP_TYPE && size >= 5) tuple.destinationPort |= view.getUint8(value) << 8;
		else if (kind === PROTO_ICMP_CODE && size >= 5) tuple.destinationPort |= view.getUint8(value);
	}
	return 1;
}

function readCounters(view: DataView, words: Uint32Array | null, from: number, end: number, little: boolean): Counters {
	const w = from >> 2;
	// Nearly always neither is beyond 32 bits.
	if (words !== null && end - from === 24 && words[w] === PACKETS_HEAD && words[w + 1] === 0 && words[w + 4] === 0)
		return { packets: view.getUint32(from + 8), bytes: view.getUint32(from + 20) };
	const counters = { packets: 0, bytes: 0 };
	for (let at = from, next = 0; at + ATTRIBUTE_HEADER + 8 <= end; at = next) {
		const head = view.getUint32(at, little);
		const size = little ? head & 0xffff : head >>> 16;
		const kind = (little ? head >>> 16 : head) & ATTRIBUTE_TYPE;
		if (size < ATTRIBUTE_HEADER + 8) break;
		next = at + ((size + 3) & ~3);
		const value = view.getUint32(at + ATTRIBUTE_HEADER) * 2 ** 32 + view.getUint32(at + ATTRIBUTE_HEADER + 4);
		if (kind === COUNTERS_PACKETS) counters.packets = value;
		else if (kind === COUNTERS_BYTES) counters.bytes = value;
	}
	return counters;
}

function readTcpState(view: DataView, from: number, end: number, little: boolean): number {
	for (const a = new AttributeReader(view, from, end, little); a.next(); ) {
		if (a.type !== PROTOINFO_TCP) continue;
		for (const b = a.nested(); b.next(); ) if (b.type === TCP_INFO.STATE) return b.byte(0);
	}
	return 0;
}

/** A mark, and the bits of it that count. */
export interface Mark {
	value: number;
	mask: number;
}

/** Asks for all IPv4 entries with a mark. */
export function encodeEntryDump(mark: Mark, sequence: number, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	return marked({ type: CT_GET, flags: NLM_F.REQUEST | NLM_F.DUMP, sequence }, mark, little);
}

/** Deletes all IPv4 entries with a mark. */
export function encodeEntryFlush(mark: Mark, sequence: number, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	return marked({ type: CT_DELETE, flags: NLM_F.REQUEST | NLM_F.ACK, sequence }, mark, little);
}

function marked(header: RequestHeader, mark: Mark, little: boolean): ArrayBuffer {
	return new MessageWriter(little)
		.message(header)
		.netfilter(AF_INET)
		.networkAttribute(MARK, mark.value)
		.networkAttribute(MARK_MASK, mark.mask)
		.finish();
}

/**
 * Appends a request for (CT_GET) or against (CT_DELETE) the one entry of a tuple, its original one or (`reply`) that of
 * its answers: ENOENT if there is none.
 */
export function writeEntryRequest(out: MessageWriter, header: RequestHeader, tuple: Tuple, reply = false): MessageWriter {
	out.message(header).netfilter(AF_INET);
	return writeTuple(out, reply ? TUPLE_REPLY : TUPLE_ORIG, tuple);
}

function writeTuple(
	out: MessageWriter,
	type: number,
	{ protocol, source, destination, sourcePort, destinationPort, zone }: Tuple,
): MessageWriter {
	return out.nest(type, () => {
		if (zone !== undefined) out.network16Attribute(TUPLE_ZONE, zone);
		out.nest(TUPLE_IP, () => out.networkAttribute(IP_SOURCE, source).networkAttribute(IP_DESTINATION, destination));
		out.nest(TUPLE_PROTO, () => {
			out.byteAttribute(PROTO_NUMBER, protocol);
			if (protocol === ICMP)
				out
					.network16Attribute(PROTO_ICMP_ID, sourcePort)
					.byteAttribute(PROTO_ICMP_TYPE, destinationPort >> 8)
					.byteAttribute(PROTO_ICMP_CODE, destinationPort & 0xff);
			else out.network16Attribute(PROTO_SOURCE, sourcePort).network16Attribute(PROTO_DESTINATION, destinationPort);
		});
	});
}

/**
 * Appends a request for an entry of a TCP connection that the kernel has not seen begin: established, from `tuple`'s
 * source, whose address and port are `external` and `externalPort` to its peer. EEXIST if there is one.
 */
export function writeTakenOver(out: MessageWriter, tuple: Tuple, external = 0, externalPort = 0): MessageWriter {
	const { protocol, source, destination, sourcePort, destinationPort } = tuple;
	const reply = { protocol, source: destination, destination: source, sourcePort: destinationPort, destinationPort: sourcePort };
	writeEntryRequest(out, { type: CT_NEW, flags: NLM_F.REQUEST | NLM_F.CREATE | NLM_F.EXCL, sequence: 1 }, tuple);
	// Not translated yet: the kernel does that itself, by NAT_SOURCE.
	return writeTuple(out, TUPLE_REPLY, reply)
		.networkAttribute(STATUS, IPS.SEEN_REPLY | IPS.ASSURED | IPS.CONFIRMED)
		.networkAttribute(TIMEOUT, QUIET)
		.nest(PROTOINFO, () => {
			out.nest(PROTOINFO_TCP, () => {
				out.byteAttribute(TCP_INFO.STATE, ESTABLISHED);
				out.bytesAttribute(TCP_INFO.FLAGS_ORIGINAL, BE_LIBERAL).bytesAttribute(TCP_INFO.FLAGS_REPLY, BE_LIBERAL);
			});
		})
		.nest(NAT_SOURCE, () => {
			out.networkAttribute(NAT.ADDRESS, external);
			out.nest(NAT.PORTS, () => out.network16Attribute(NAT_PORT, externalPort));
		});
}

/** Operations of classic BPF. */
const LD_IMM = 0x00;
const LDX_IMM = 0x01;
const LD_ABS_W = 0x20;
const LD_IND_W = 0x40;
const ALU_AND = 0x54;
const JEQ = 0x15;
const TAX = 0x07;
const RET = 0x06;
/** SKF_AD_OFF + SKF_AD_NLATTR: A = offset of the first attribute of type X from offset A on, 0 if there is none. */
const NLATTR = -0x1000 + 12;

/**
 * A classic BPF program, groups of 4 words [code, jt, jf, k], that lets only events of entries with a mark through to a
 * socket, so that foreign connections wake nobody. A message without a mark is not ours either. (What is no event,
 * acknowledgements among it, must have a socket of its own.)
 */
export function markFilter({ value, mask }: Mark): Int32Array {
	// biome-ignore format: one instruction a line
	return Int32Array.of(
		LD_IMM, 0, 0, 16 + FAMILY_HEADER,
		LDX_IMM, 0, 0, MARK,
		LD_ABS_W, 0, 0, NLATTR,
		JEQ, 5, 0, 0,
		TAX, 0, 0, 0,
		LD_IND_W, 0, 0, 4,
		ALU_AND, 0, 0, mask | 0,
		JEQ, 0, 1, value | 0,
		RET, 0, 0, -1,
		RET, 0, 0, 0,
	);
}
