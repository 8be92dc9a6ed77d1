/**
 * A frame's slot, and what the CPU sees in it. The headers' own offsets are in ethernet.ts, arp.ts, ipv4.ts, tcp.ts,
 * udp.ts, icmp.ts and pcp.ts: each layout is written once.
 *
 * Theory of operation. A slot holds virtio header, Ethernet header and IPv4 packet at fixed offsets whatever the port
 * (native.d.ts), so the IP header is 4-byte aligned and can be read as words of the host's byte order. What is read so
 * is *raw*: an address, port or checksum is the number that a typed array gives for the bytes of the wire, 192.168.1.1
 * is 0x0101a8c0 on a little-endian host. The number that it means, 0xc0a80101, is its *host-order* value.
 * Ones-complement sums do not care about byte order (RFC 1071 section 2 B), so nothing is swapped on the per-packet
 * way; the few fields that are not 16- or 32-bit units have mirrored masks here.
 */

// Plain numbers come first: only those does esbuild inline (conntrack/record.ts).

/** Slot offsets in bytes; the same numbers as SLOT_* of masq:native. */
export const SLOT_VNET = 0;
export const SLOT_ETHER = 10;
export const SLOT_IP = 24;

/** Byte of the virtio header that has the gso_type. */
export const VNET_GSO_TYPE = 1;
/** Halfword index (from the slot's first halfword) of hdr_len, gso_size and csum_start. */
export const VNET_HDR_LEN = 1;
export const VNET_GSO_SIZE = 2;
export const VNET_CSUM_START = 3;
export const VNET_CSUM_OFFSET = 4;

/** Protocol numbers. */
export const ICMP = 1;
export const IPIP = 4;
export const TCP = 6;
export const UDP = 17;
export const DCCP = 33;
export const IN6 = 41;
export const GRE = 47;
export const ESP = 50;
export const SCTP = 132;
export const UDPLITE = 136;

/** First word of the IP packet in a slot. */
export const IP_WORD = 6;
/** Bytes of a slot: the largest IPv4 packet behind its headers, and room to quote. */
export const SLOT_SIZE = 65664;

/** True on little-endian hosts. */
export const LITTLE = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** Virtio header: flags and gso_type are bytes 0 and 1. */
export const VNET_PARTIAL = LITTLE ? 1 : 0x01000000;
/** Virtio gso_type in word 0 (VIRTIO_NET_HDR_GSO_*); zero means a plain frame. */
export const VNET_GSO = LITTLE ? 0xff00 : 0x00ff0000;

/** Group bit of the destination MAC in the slot's halfword at SLOT_ETHER. */
export const ETHER_GROUP = LITTLE ? 1 : 0x0100;
/** Type field of an IPv4 Ethernet frame in the low half of the MAC-tail word (last two bytes of the source, type). */
export const ETHERTYPE_IPV4 = LITTLE ? 0x0008 : 0x0800;

// ---- IPv4 header (RFC 791), word offsets from the packet's first word -----------------------------------------------
/** Word 0: version, header length, type of service, total length. */
export const IP_VERSION_MASK = LITTLE ? 0xff : -0x01000000;
/** Version 4, five words of header. */
export const IP_PLAIN = LITTLE ? 0x45 : 0x45000000;
/**
 * The two bits of the type of service by which the kernel gives a packet its priority (ip_tos2prio), and where they
 * are.
 */
export const IP_TOS_CLASS = LITTLE ? 0x1800 : 0x180000;
export const IP_TOS_SHIFT = LITTLE ? 11 : 19;
/** Word 1: identification, flags, fragment offset. More-fragments and offset. */
export const IP_FRAGMENT = LITTLE ? -12648448 : 0x3fff;
/** Fragment offset alone. */
export const IP_OFFSET = LITTLE ? -14745600 : 0x1fff;
export const IP_MORE = LITTLE ? 0x00200000 : 0x2000;
/** Do not fragment. */
export const IP_DF = LITTLE ? 0x00400000 : 0x4000;
/** Word 2: time to live, protocol, header checksum. */
export const TTL_SHIFT = LITTLE ? 0 : 24;
export const PROTO_SHIFT = LITTLE ? 8 : 16;
export const IP_SUM_SHIFT = LITTLE ? 16 : 0;
/** Time to live and protocol in word 2. */
export const TTL_PROTO_MASK = LITTLE ? 0xffff : -0x10000;
/** One hop in word 2, and what it adds to the header's sum (RFC 1624 equation 3). */
export const TTL_ONE = LITTLE ? 1 : 0x01000000;
export const TTL_ONE_SUM = LITTLE ? 0xfffe : 0xfeff;

// ---- TCP header (RFC 9293), word 8 of a packet without options: data offset, flags, window --------------------------
export const TCP_FLAG_SHIFT = LITTLE ? 8 : 16;
export const TCP_DOFF_SHIFT = LITTLE ? 4 : 28;

// ---- Ports: word 5 of a packet without options ----------------------------------------------------------------------
/** Where the first and the second halfword in memory order, source and destination port, are in the word. */
export const PORT_FIRST_SHIFT = LITTLE ? 0 : 16;
export const PORT_SECOND_SHIFT = LITTLE ? 16 : 0;

/** 16-bit value between host and raw order (its own inverse). */
export function swap16(v: number): number {
	return LITTLE ? ((v & 0xff) << 8) | ((v >>> 8) & 0xff) : v & 0xffff;
}

/**
 * 32-bit value (host order, unsigned or signed) to the signed word that a frame view reads (its own inverse up to
 * sign).
 */
export function swap32(v: number): number {
	return LITTLE ? (v << 24) | ((v & 0xff00) << 8) | ((v >>> 8) & 0xff00) | (v >>> 24) : v | 0;
}

/** A raw address as a host-order address, unsigned. */
export function addressValue(word: number): number {
	return swap32(word) >>> 0;
}

/** The ports word (word 5 of a plain packet) from its two raw halves in wire order. */
export function pair(first: number, second: number): number {
	return LITTLE ? first | (second << 16) : (first << 16) | second;
}

/** First half (source port of a header) of a ports word, raw. */
export function firstOf(word: number): number {
	return LITTLE ? word & 0xffff : word >>> 16;
}

/** Second half (destination port of a header) of a ports word, raw. */
export function secondOf(word: number): number {
	return LITTLE ? word >>> 16 : word & 0xffff;
}

/** True for protocols whose header begins with a source and a destination port. */
export function hasPorts(protocol: number): boolean {
	return protocol === TCP || protocol === UDP || protocol === SCTP || protocol === UDPLITE || protocol === DCCP;
}

/** Three views over one buffer: words, halfwords and bytes. */
export interface Views {
	readonly P: Int32Array;
	readonly H: Uint16Array;
	readonly B: Uint8Array;
}

/** Views of a frame buffer. */
export function viewsOf(buffer: ArrayBuffer): Views {
	return { P: new Int32Array(buffer), H: new Uint16Array(buffer), B: new Uint8Array(buffer) };
}
