/**
 * ctnetlink (linux/netfilter/nfnetlink_conntrack.h): the kernel's connection tracking entries, read and deleted. The
 * kernel makes them itself when the first packet of a connection passes, but for those of connections that it is to
 * take over.
 *
 * Addresses are in host order, ports host order.
 */
import { type AttributeReader, LITTLE_ENDIAN, type MessageReader, MessageWriter, NLM_F, type RequestHeader } from "./message.ts";

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
/** nfgenmsg. */
const FAMILY_HEADER = 4;

const CTA = {
	TUPLE_ORIG: 1,
	TUPLE_REPLY: 2,
	STATUS: 3,
	PROTOINFO: 4,
	NAT_SOURCE: 6,
	TIMEOUT: 7,
	MARK: 8,
	COUNTERS_ORIG: 9,
	COUNTERS_REPLY: 10,
	ID: 12,
	ZONE: 18,
	MARK_MASK: 21,
} as const;
const TUPLE = { IP: 1, PROTO: 2, ZONE: 3 } as const;
const IP = { SOURCE: 1, DESTINATION: 2 } as const;
const PROTO = { NUMBER: 1, SOURCE: 2, DESTINATION: 3, ICMP_ID: 4, ICMP_TYPE: 5, ICMP_CODE: 6 } as const;
const COUNTERS = { PACKETS: 1, BYTES: 2 } as const;
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

/** The entry of the message that `reader` stands at, null if it is none of IPv4. */
export function parseEntry(reader: MessageReader): Entry | null {
	if ((reader.type !== CT_NEW && reader.type !== CT_DELETE) || reader.end - reader.at < FAMILY_HEADER) return null;
	if (reader.view.getUint8(reader.at) !== AF_INET) return null;
	let original: Tuple | null = null;
	let reply: Tuple | null = null;
	const entry = { status: 0, timeout: -1, mark: 0, zone: 0, id: 0, tcpState: 0 };
	let sent: Counters | null = null;
	let received: Counters | null = null;
	for (const a = reader.attributes(FAMILY_HEADER); a.next(); ) {
		if (a.type === CTA.TUPLE_ORIG) original = parseTuple(a.nested());
		else if (a.type === CTA.TUPLE_REPLY) reply = parseTuple(a.nested());
		else if (a.type === CTA.STATUS) entry.status = a.network(0);
		else if (a.type === CTA.TIMEOUT) entry.timeout = a.network(-1);
		else if (a.type === CTA.MARK) entry.mark = a.network(0);
		else if (a.type === CTA.ID) entry.id = a.network(0);
		else if (a.type === CTA.ZONE) entry.zone = a.network16(0);
		else if (a.type === CTA.COUNTERS_ORIG) sent = parseCounters(a.nested());
		else if (a.type === CTA.COUNTERS_REPLY) received = parseCounters(a.nested());
		else if (a.type === CTA.PROTOINFO) entry.tcpState = parseTcpState(a.nested());
	}
	if (original === null || reply === null) return null;
	return { destroyed: reader.type === CT_DELETE, original, reply, ...entry, sent, received };
}

function parseTuple(a: AttributeReader): Tuple {
	const tuple: Tuple = { protocol: 0, source: 0, destination: 0, sourcePort: 0, destinationPort: 0 };
	while (a.next()) {
		if (a.type === TUPLE.ZONE) {
			tuple.zone = a.network16(0);
			continue;
		}
		for (const b = a.nested(); b.next(); ) {
			if (a.type === TUPLE.IP) {
				if (b.type === IP.SOURCE) tuple.source = b.network(0);
				else if (b.type === IP.DESTINATION) tuple.destination = b.network(0);
			} else if (a.type !== TUPLE.PROTO) continue;
			else if (b.type === PROTO.NUMBER) tuple.protocol = b.byte(0);
			else if (b.type === PROTO.SOURCE || b.type === PROTO.ICMP_ID) tuple.sourcePort = b.network16(0);
			else if (b.type === PROTO.DESTINATION) tuple.destinationPort = b.network16(0);
			else if (b.type === PROTO.ICMP_TYPE) tuple.destinationPort |= b.byte(0) << 8;
			else if (b.type === PROTO.ICMP_CODE) tuple.destinationPort |= b.byte(0);
		}
	}
	return tuple;
}

function parseCounters(a: AttributeReader): Counters {
	const counters = { packets: 0, bytes: 0 };
	while (a.next()) {
		if (a.type === COUNTERS.PACKETS) counters.packets = a.network64(0);
		else if (a.type === COUNTERS.BYTES) counters.bytes = a.network64(0);
	}
	return counters;
}

function parseTcpState(a: AttributeReader): number {
	let state = 0;
	while (a.next()) {
		if (a.type !== PROTOINFO_TCP) continue;
		for (const b = a.nested(); b.next(); ) if (b.type === TCP_INFO.STATE) state = b.byte(0);
	}
	return state;
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
		.networkAttribute(CTA.MARK, mark.value)
		.networkAttribute(CTA.MARK_MASK, mark.mask)
		.finish();
}

/**
 * Appends a request for (CT_GET) or against (CT_DELETE) the one entry of a tuple, its original one or (`reply`) that of
 * its answers: ENOENT if there is none.
 */
export function writeEntryRequest(out: MessageWriter, header: RequestHeader, tuple: Tuple, reply = false): MessageWriter {
	out.message(header).netfilter(AF_INET);
	return writeTuple(out, reply ? CTA.TUPLE_REPLY : CTA.TUPLE_ORIG, tuple);
}

function writeTuple(
	out: MessageWriter,
	type: number,
	{ protocol, source, destination, sourcePort, destinationPort, zone }: Tuple,
): MessageWriter {
	return out.nest(type, () => {
		if (zone !== undefined) out.network16Attribute(TUPLE.ZONE, zone);
		out.nest(TUPLE.IP, () => out.networkAttribute(IP.SOURCE, source).networkAttribute(IP.DESTINATION, destination));
		out.nest(TUPLE.PROTO, () => {
			out.byteAttribute(PROTO.NUMBER, protocol);
			if (protocol === ICMP)
				out
					.network16Attribute(PROTO.ICMP_ID, sourcePort)
					.byteAttribute(PROTO.ICMP_TYPE, destinationPort >> 8)
					.byteAttribute(PROTO.ICMP_CODE, destinationPort & 0xff);
			else out.network16Attribute(PROTO.SOURCE, sourcePort).network16Attribute(PROTO.DESTINATION, destinationPort);
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
	return writeTuple(out, CTA.TUPLE_REPLY, reply)
		.networkAttribute(CTA.STATUS, IPS.SEEN_REPLY | IPS.ASSURED | IPS.CONFIRMED)
		.networkAttribute(CTA.TIMEOUT, QUIET)
		.nest(CTA.PROTOINFO, () => {
			out.nest(PROTOINFO_TCP, () => {
				out.byteAttribute(TCP_INFO.STATE, ESTABLISHED);
				out.bytesAttribute(TCP_INFO.FLAGS_ORIGINAL, BE_LIBERAL).bytesAttribute(TCP_INFO.FLAGS_REPLY, BE_LIBERAL);
			});
		})
		.nest(CTA.NAT_SOURCE, () => {
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
		LDX_IMM, 0, 0, CTA.MARK,
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
