/**
 * IPv4 frames for tests of the core: built from plain values with right checksums, and read back with every checksum
 * computed from zero.
 *
 * Nothing here uses `src/`: sums are taken byte by byte in network order, so that a mistake in the core's arithmetic
 * cannot hide behind itself. A "partial" checksum is what virtio's NEEDS_CSUM means: the field holds the sum of the
 * pseudo-header, not complemented, and whoever sends the frame on the wire completes it; {@link readPacket} does that
 * before it checks.
 */

export const GSO_TCP4 = 1;
export const GSO_UDP_L4 = 5;

/** What a frame carries besides its addresses; everything has a usual value. */
export interface FrameOptions {
	ttl?: number;
	tos?: number;
	id?: number;
	/** Don't fragment; set by default. */
	df?: boolean;
	/** Fragment offset in units of 8 bytes, and more-fragments. */
	fragment?: number;
	more?: boolean;
	/** IPv4 options, padded with zeros to a multiple of four. */
	ipOptions?: number[];
	/** Transport checksum: right, virtio partial, UDP's "none", or a given number. */
	checksum?: "full" | "partial" | "zero" | number;
	/** Bytes of a segment: makes the frame a GSO super-packet, its checksum partial. */
	gso?: number;
	/** Payload, or how many bytes of a pattern. */
	payload?: Uint8Array | number;
	/** Ethernet destination is a group address. */
	group?: boolean;
}

export interface TcpOptions extends FrameOptions {
	/** Letters of FSRPAU. */
	flags?: string;
	seq?: number;
	ack?: number;
	window?: number;
	/** TCP options, padded with zeros to a multiple of four. */
	options?: number[];
}

export interface IcmpOptions extends FrameOptions {
	code?: number;
	/** Identifier and sequence number of a query. */
	id?: number;
	seq?: number;
}

/** A frame as a port delivers it, without its link header. */
export interface Frame {
	ip: Uint8Array;
	/** Where a partial checksum begins (from the IP header) and where its field is (from there). */
	partial: { start: number; offset: number } | null;
	gsoType: number;
	gsoSize: number;
	/** Bytes of IP and transport header, for GSO frames. */
	headers: number;
	group: boolean;
}

/** A packet read back. `faults` is empty when every checksum and length is right. */
export interface Packet {
	/** The packet in a line, such as "udp 192.168.1.10:40000 > 203.0.113.10:53". */
	line: string;
	source: string;
	destination: string;
	protocol: number;
	ttl: number;
	tos: number;
	id: number;
	df: boolean;
	ipOptions: number[];
	sourcePort: number;
	destinationPort: number;
	/** Transport checksum as it is on the wire (a partial one completed). */
	checksum: number;
	/** TCP: flag letters, numbers, options. */
	flags: string;
	seq: number;
	ack: number;
	options: number[];
	mss: number | null;
	/** ICMP: type, code, identifier of a query, last halfword of the header, quoted packet of an error. */
	type: number;
	code: number;
	identifier: number;
	rest: number;
	quote: Packet | null;
	payload: Uint8Array;
	bytes: Uint8Array;
	/** Link header, null on a port without one. */
	ether: { to: string; from: string; type: number } | null;
	partial: { start: number; offset: number } | null;
	gsoType: number;
	gsoSize: number;
	headers: number;
	faults: string[];
}

const FLAGS = "FSRPAU";
const NAMES: Record<number, string> = { 1: "icmp", 6: "tcp", 17: "udp" };

const addresses = new Map<string, number[]>();

/** Four bytes of a dotted address. */
export function addressBytes(address: string): number[] {
	let bytes = addresses.get(address);
	if (bytes === undefined) {
		bytes = address.split(".").map(Number);
		addresses.set(address, bytes);
	}
	return bytes;
}

/** Ones-complement sum of bytes [from, to) in network order, folded. */
export function sum(bytes: Uint8Array, from: number, to: number, start = 0): number {
	let total = start;
	const last = to - 1;
	let i = from;
	for (; i < last; i += 2) total += bytes[i] * 256 + bytes[i + 1];
	if (i === last) total += bytes[i] * 256;
	while (total > 0xffff) total = (total % 0x10000) + Math.floor(total / 0x10000);
	return total;
}

function put16(bytes: Uint8Array, at: number, value: number): void {
	bytes[at] = (value >> 8) & 255;
	bytes[at + 1] = value & 255;
}

function put32(bytes: Uint8Array, at: number, value: number): void {
	put16(bytes, at, value >>> 16);
	put16(bytes, at + 2, value & 0xffff);
}

function get16(bytes: Uint8Array, at: number): number {
	return bytes[at] * 256 + bytes[at + 1];
}

function get32(bytes: Uint8Array, at: number): number {
	return get16(bytes, at) * 65536 + get16(bytes, at + 2);
}

function padded(options: number[] | undefined): number[] {
	const list = [...(options ?? [])];
	while (list.length % 4 !== 0) list.push(0);
	return list;
}

const PATTERN = Uint8Array.from({ length: 65536 }, (_, i) => (i * 37 + 11) & 255);

function payloadOf(o: FrameOptions): Uint8Array {
	return o.payload instanceof Uint8Array ? o.payload : PATTERN.subarray(0, o.payload ?? 12);
}

/** Sum of the pseudo-header of a TCP or UDP packet (RFC 9293 section 3.1). */
export function pseudoSum(ip: Uint8Array): number {
	const header = (ip[0] & 15) * 4;
	return sum(ip, 12, 20, ip[9] + get16(ip, 2) - header);
}

/** An IPv4 header in front of `body`, its checksum right. */
export function ipv4(source: string, destination: string, protocol: number, body: Uint8Array, o: FrameOptions = {}): Uint8Array {
	const options = padded(o.ipOptions);
	const header = 20 + options.length;
	const ip = new Uint8Array(header + body.length);
	ip[0] = 0x40 | (header / 4);
	ip[1] = o.tos ?? 0;
	put16(ip, 2, ip.length);
	put16(ip, 4, o.id ?? 0x1234);
	put16(ip, 6, (o.df === false ? 0 : 0x4000) | (o.more ? 0x2000 : 0) | (o.fragment ?? 0));
	ip[8] = o.ttl ?? 64;
	ip[9] = protocol;
	ip.set(addressBytes(source), 12);
	ip.set(addressBytes(destination), 16);
	ip.set(options, 20);
	ip.set(body, header);
	return sealHeader(ip);
}

/** Makes the header checksum right again, after a test has bent the header. */
export function sealHeader(ip: Uint8Array): Uint8Array {
	const header = Math.min((ip[0] & 15) * 4, ip.length);
	put16(ip, 10, 0);
	put16(ip, 10, sum(ip, 0, header) ^ 0xffff);
	return ip;
}

function endpoint(text: string): [string, number] {
	const [address, port] = text.split(":");
	return [address, Number(port)];
}

function finish(ip: Uint8Array, offset: number, o: FrameOptions, transport: number): Frame {
	const start = (ip[0] & 15) * 4;
	const partial = o.gso !== undefined || o.checksum === "partial";
	const field = start + offset;
	if (partial) put16(ip, field, pseudoSum(ip));
	else if (typeof o.checksum === "number") put16(ip, field, o.checksum);
	else if (o.checksum !== "zero") {
		const value = sum(ip, start, ip.length, pseudoSum(ip)) ^ 0xffff;
		put16(ip, field, value === 0 && ip[9] === 17 ? 0xffff : value);
	}
	const gsoType = o.gso === undefined ? 0 : ip[9] === 6 ? GSO_TCP4 : GSO_UDP_L4;
	return {
		ip,
		partial: partial ? { start, offset } : null,
		gsoType,
		gsoSize: o.gso ?? 0,
		headers: o.gso === undefined ? 0 : start + transport,
		group: o.group ?? false,
	};
}

/** A UDP datagram; endpoints as "192.168.1.10:40000". */
export function udp(from: string, to: string, o: FrameOptions = {}): Frame {
	const [source, sourcePort] = endpoint(from);
	const [destination, destinationPort] = endpoint(to);
	const payload = payloadOf(o);
	const body = new Uint8Array(8 + payload.length);
	put16(body, 0, sourcePort);
	put16(body, 2, destinationPort);
	put16(body, 4, body.length);
	body.set(payload, 8);
	return finish(ipv4(source, destination, 17, body, o), 6, o, 8);
}

/**
 * A TCP segment; an ACK with some data unless `flags` says otherwise (SYN, RST and FIN segments have no data by
 * default).
 */
export function tcp(from: string, to: string, o: TcpOptions = {}): Frame {
	const [source, sourcePort] = endpoint(from);
	const [destination, destinationPort] = endpoint(to);
	const flags = o.flags ?? "A";
	const payload = o.payload === undefined && /[SRF]/.test(flags) ? new Uint8Array(0) : payloadOf(o);
	const options = padded(o.options);
	const header = 20 + options.length;
	const body = new Uint8Array(header + payload.length);
	put16(body, 0, sourcePort);
	put16(body, 2, destinationPort);
	put32(body, 4, o.seq ?? 1000);
	put32(body, 8, o.ack ?? (flags.includes("A") ? 5000 : 0));
	body[12] = (header / 4) << 4;
	for (const letter of flags) body[13] |= 1 << FLAGS.indexOf(letter);
	put16(body, 14, o.window ?? 64240);
	body.set(options, 20);
	body.set(payload, header);
	return finish(ipv4(source, destination, 6, body, o), 16, o, header);
}

/** An ICMP message of any type; `rest` are bytes 4-7, `body` what follows. */
export function icmp(
	source: string,
	destination: string,
	type: number,
	code: number,
	rest: number[],
	body: Uint8Array,
	o: FrameOptions = {},
): Frame {
	const bytes = new Uint8Array(8 + body.length);
	bytes[0] = type;
	bytes[1] = code;
	bytes.set(rest, 4);
	bytes.set(body, 8);
	put16(bytes, 2, typeof o.checksum === "number" ? o.checksum : sum(bytes, 0, bytes.length) ^ 0xffff);
	return plain(ipv4(source, destination, 1, bytes, o), o);
}

/** An ICMP query or reply (echo request by default), with identifier `id`. */
export function query(source: string, destination: string, id: number, o: IcmpOptions & { type?: number } = {}): Frame {
	const seq = o.seq ?? 1;
	const rest = [id >> 8, id & 255, seq >> 8, seq & 255];
	return icmp(source, destination, o.type ?? 8, o.code ?? 0, rest, payloadOf(o), { ...o, id: undefined });
}

/** An ICMP error that quotes (the beginning of) a packet; `mtu` is the last halfword of its header. */
export function icmpError(
	source: string,
	destination: string,
	type: number,
	code: number,
	quote: Uint8Array,
	o: FrameOptions & { mtu?: number } = {},
): Frame {
	const mtu = o.mtu ?? 0;
	return icmp(source, destination, type, code, [0, 0, mtu >> 8, mtu & 255], quote, o);
}

/** A packet of any other protocol. */
export function other(source: string, destination: string, protocol: number, o: FrameOptions = {}): Frame {
	return plain(ipv4(source, destination, protocol, payloadOf(o), o), o);
}

/** Tunnels that {@link tunnel} knows, by the bytes between the outer IP header and the inner one. */
const TUNNELS = {
	vxlan: { protocol: 17, port: 4789, between: [8, 0, 0, 0, 0, 0, 7, 0], ethernet: true },
	"vxlan with checksum": { protocol: 17, port: 4789, between: [8, 0, 0, 0, 0, 0, 7, 0], ethernet: true },
	geneve: { protocol: 17, port: 6081, between: [2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 1, 9, 9, 9, 9], ethernet: true },
	fou: { protocol: 17, port: 5555, between: [], ethernet: false },
	gre: { protocol: 47, port: 0, between: [0, 0, 8, 0], ethernet: false },
	"gre with checksum": { protocol: 47, port: 0, between: [0x80, 0, 8, 0, 0, 0, 0, 0], ethernet: false },
	gretap: { protocol: 47, port: 0, between: [0x20, 0, 0x65, 0x58, 0, 0, 0, 7], ethernet: true },
	ipip: { protocol: 4, port: 0, between: [], ethernet: false },
	"6in4": { protocol: 41, port: 0, between: [], ethernet: false },
} as const;
export type TunnelName = keyof typeof TUNNELS;
export const TUNNEL_NAMES = Object.keys(TUNNELS) as TunnelName[];

/**
 * A packet in a tunnel, as the kernel hands it over: if the inner one is a super-packet or lacks its checksum, the
 * virtio header says so of the whole.
 */
export function tunnel(name: TunnelName, source: string, destination: string, inner: Frame, o: FrameOptions = {}): Frame {
	const { protocol, port, between, ethernet } = TUNNELS[name];
	const link = ethernet ? [2, 0, 0, 0, 7, 2, 2, 0, 0, 0, 7, 1, 8, 0] : [];
	const body = new Uint8Array((protocol === 17 ? 8 : 0) + between.length + link.length + inner.ip.length);
	const at = body.length - inner.ip.length;
	body.set([...between, ...link], protocol === 17 ? 8 : 0);
	body.set(inner.ip, at);
	if (protocol === 17) {
		put16(body, 0, 50_000);
		put16(body, 2, port);
		put16(body, 4, body.length);
	}
	const ip = ipv4(source, destination, protocol, body, o);
	const header = (ip[0] & 15) * 4;
	const moved = header + at;
	const partial = inner.partial === null ? null : { start: moved + inner.partial.start, offset: inner.partial.offset };
	if (name.endsWith("with checksum")) {
		const field = header + (protocol === 17 ? 6 : 4);
		const whole = partial === null ? ip : completed(ip, partial);
		if (inner.gsoType !== 0) put16(ip, field, protocol === 17 ? pseudoSum(ip) : 0);
		else put16(ip, field, sum(whole, header, ip.length, protocol === 17 ? pseudoSum(ip) : 0) ^ 0xffff);
	}
	return {
		...plain(ip, o),
		partial,
		gsoType: inner.gsoType,
		gsoSize: inner.gsoSize,
		headers: inner.headers === 0 ? 0 : moved + inner.headers,
	};
}

/** A TCP super-packet over IPv6, for 6in4. */
export function tcp6(payload: number, gso: number): Frame {
	const v4 = tcp("10.0.0.1:1000", "10.0.0.2:80", { payload, flags: "PA", seq: 0xffffff00 });
	const ip = new Uint8Array(20 + v4.ip.length);
	ip.set([0x60, 0, 0, 0, 0, 0, 6, 64, 0x20, 1], 0);
	put16(ip, 4, v4.ip.length - 20);
	ip[23] = 1;
	ip.set([0x20, 1], 24);
	ip[39] = 2;
	ip.set(v4.ip.subarray(20), 40);
	put16(ip, 56, pseudoSum6(ip));
	return { ip, partial: { start: 40, offset: 16 }, gsoType: 4, gsoSize: gso, headers: 60, group: false };
}

/** Sum of the pseudo-header of a TCP segment over IPv6. */
export function pseudoSum6(ip: Uint8Array): number {
	return sum(ip, 8, 40, 6 + get16(ip, 4));
}

/** A packet whose partial checksum is complete. */
export function completed(ip: Uint8Array, { start, offset }: { start: number; offset: number }): Uint8Array {
	const whole = ip.slice();
	put16(whole, start + offset, sum(ip, start, ip.length) ^ 0xffff);
	return whole;
}

/** Bytes as a frame with nothing special about it. */
export function plain(ip: Uint8Array, o: FrameOptions = {}): Frame {
	return { ip, partial: null, gsoType: 0, gsoSize: 0, headers: 0, group: o.group ?? false };
}

/** The same frame with its bytes bent by `change`; the header checksum is made right again unless `seal` is false. */
export function bent(frame: Frame, change: (ip: Uint8Array) => void, seal = true): Frame {
	const ip = frame.ip.slice();
	change(ip);
	return { ...frame, ip: seal ? sealHeader(ip) : ip };
}

function dotted(ip: Uint8Array, at: number): string {
	return `${ip[at]}.${ip[at + 1]}.${ip[at + 2]}.${ip[at + 3]}`;
}

function mssOf(options: number[]): number | null {
	for (let at = 0; at < options.length && options[at] !== 0; ) {
		if (options[at] === 1) at++;
		else if (options[at] === 2) return options[at + 2] * 256 + options[at + 3];
		else at += Math.max(2, options[at + 1]);
	}
	return null;
}

/**
 * Reads an IPv4 packet and checks its lengths and checksums.
 *
 * @param partial - where a partial checksum is, null for a full one.
 * @param quoted - the packet is a quote: it may be cut short, and its transport checksum is only checked when it is
 * whole.
 */
export function readPacket(bytes: Uint8Array, partial: { start: number; offset: number } | null = null, quoted = false): Packet {
	const faults: string[] = [];
	const header = (bytes[0] & 15) * 4;
	const total = get16(bytes, 2);
	const protocol = bytes[9];
	if (bytes[0] >> 4 !== 4 || header < 20) faults.push("not IPv4");
	if (quoted ? total < bytes.length && total < header : total !== bytes.length)
		faults.push(`total length ${total} of ${bytes.length} bytes`);
	if (sum(bytes, 0, header) !== 0xffff) faults.push("header checksum");
	const whole = bytes.length >= total;
	const ip = whole ? bytes.slice(0, total) : bytes.slice();
	const at = (offset: number) => (header + offset + 1 < ip.length ? get16(ip, header + offset) : 0);
	const packet: Packet = {
		line: "",
		source: dotted(ip, 12),
		destination: dotted(ip, 16),
		protocol,
		ttl: ip[8],
		tos: ip[1],
		id: get16(ip, 4),
		df: (ip[6] & 0x40) !== 0,
		ipOptions: [...ip.subarray(20, header)],
		sourcePort: 0,
		destinationPort: 0,
		checksum: 0,
		flags: "",
		seq: 0,
		ack: 0,
		options: [],
		mss: null,
		type: 0,
		code: 0,
		identifier: 0,
		rest: 0,
		quote: null,
		payload: ip.subarray(header),
		bytes,
		ether: null,
		partial,
		gsoType: 0,
		gsoSize: 0,
		headers: 0,
		faults,
	};
	if (partial !== null) {
		const field = partial.start + partial.offset;
		if (get16(ip, field) !== pseudoSum(ip)) faults.push("partial checksum");
		put16(ip, field, sum(ip, partial.start, ip.length) ^ 0xffff);
		if (protocol === 17 && get16(ip, field) === 0) put16(ip, field, 0xffff);
	}
	const addresses = `${packet.source} > ${packet.destination}`;
	const name = NAMES[protocol] ?? `proto ${protocol}`;
	if (protocol === 6 || protocol === 17) {
		packet.sourcePort = at(0);
		packet.destinationPort = at(2);
		packet.checksum = at(protocol === 6 ? 16 : 6);
		packet.line = `${name} ${packet.source}:${packet.sourcePort} > ${packet.destination}:${packet.destinationPort}`;
		const none = protocol === 17 && packet.checksum === 0;
		if (whole && !none && sum(ip, header, ip.length, pseudoSum(ip)) !== 0xffff) faults.push("transport checksum");
	}
	if (protocol === 6 && ip.length >= header + 20) {
		const size = (ip[header + 12] >> 4) * 4;
		for (let n = 0; n < 6; n++) if (ip[header + 13] & (1 << n)) packet.flags += FLAGS[n];
		packet.seq = get32(ip, header + 4);
		packet.ack = get32(ip, header + 8);
		packet.options = [...ip.subarray(header + 20, header + size)];
		packet.mss = mssOf(packet.options);
		packet.payload = ip.subarray(header + size);
		packet.line += ` ${packet.flags}`;
	} else if (protocol === 17) packet.payload = ip.subarray(header + 8);
	else if (protocol === 1) {
		packet.type = ip[header];
		packet.code = ip[header + 1];
		packet.checksum = at(2);
		packet.identifier = at(4);
		packet.rest = at(6);
		packet.payload = ip.subarray(header + 8);
		if (whole && sum(ip, header, ip.length) !== 0xffff) faults.push("ICMP checksum");
		packet.line = `icmp ${packet.type}/${packet.code} ${addresses}`;
		if ([3, 4, 5, 11, 12].includes(packet.type) && !quoted) {
			packet.quote = readPacket(packet.payload, null, true);
			faults.push(...packet.quote.faults.map((fault) => `quoted ${fault}`));
			packet.line += ` about ${packet.quote.line}`;
		} else packet.line += ` id ${packet.identifier}`;
	} else if (packet.line === "") packet.line = `${name} ${addresses}`;
	return packet;
}
