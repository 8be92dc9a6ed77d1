/**
 * Super-packets (GSO) cut into the segments that they stand for: for devices that do not take them, and for what the
 * virtio header cannot say.
 *
 * Theory of operation. A super-packet is one header and the payload of many segments; its virtio header says how long a
 * segment's payload is and where the checksum begins (csum_start), which is the transport header that repeats. Every
 * segment gets a copy of all headers, with lengths, identification, sequence number and flags of its own; its checksum
 * stays partial (the pseudo-header's sum, as before) until somebody completes it. Of a packet in a tunnel (VXLAN,
 * GENEVE, GRE, IPIP, 6in4) the virtio header tells of the inner transport header only, and what sends it takes it for
 * the outer one: such packets have to be cut here. The outer checksum then follows from the headers alone, because the
 * inner packet's sum is known from its pseudo-header (Linux: "local checksum offload").
 */

import { fold, halfDelta, sumOf } from "./checksum.ts";
import { IP_DESTINATION_W, IP_HEADER, IP_ID_H, IP_LENGTH_H, IP_PROTOCOL, IP_SOURCE_W, IP_SUM_H } from "./ipv4.ts";
import {
	GRE,
	IN6,
	IP_WORD,
	IPIP,
	LITTLE,
	SLOT_IP,
	swap16,
	TCP,
	UDP,
	type Views,
	VNET_CSUM_OFFSET,
	VNET_CSUM_START,
	VNET_GSO_SIZE,
	VNET_GSO_TYPE,
	VNET_HDR_LEN,
	VNET_PARTIAL,
} from "./layout.ts";
import { CWR, FIN, PSH, TCP_FLAGS, TCP_HEADER, TCP_OFFSET, TCP_SEQUENCE, TCP_SEQUENCE_H, TCP_SUM_H } from "./tcp.ts";
import { UDP_HEADER, UDP_LENGTH_H, UDP_SUM, UDP_SUM_H } from "./udp.ts";

/** Virtio's gso_type of UDP datagrams sent at once (VIRTIO_NET_HDR_GSO_UDP_L4). */
export const GSO_UDP = 5;
const GSO_TCP4 = 1;
const GSO_TCP6 = 4;
const GSO_ECN = 0x80;
const GRE_SUM = 0x80;

/**
 * Bytes of the packet in slot `s` in front of the transport header that its virtio header tells of; `link` are those of
 * the link header that it counts.
 */
export function transportAt(H: Uint16Array, s: number, link: number): number {
	return H[(s >> 1) + VNET_CSUM_START] - link;
}

/** Bytes of all headers of a super-packet's segments. */
function segmentHeaders({ H, B }: Views, s: number, link: number): number {
	const at = transportAt(H, s, link);
	return at + ((B[s + VNET_GSO_TYPE] & ~GSO_ECN) === GSO_UDP ? UDP_HEADER : (B[s + SLOT_IP + at + TCP_OFFSET] >> 4) * 4);
}

/** True if the packet in slot `s` is a super-packet, or lacks a checksum, behind headers of a tunnel. */
export function isTunnelled({ P, H, B }: Views, s: number, link: number): boolean {
	return (P[s >> 2] & VNET_PARTIAL) !== 0 && transportAt(H, s, link) !== (B[s + SLOT_IP] & 15) * 4;
}

/** Cuts one super-packet after the other. */
export class Segments {
	readonly #v: Views;
	#s = 0;
	#length = 0;
	#size = 0;
	#outer = 0;
	#inner = 0;
	#at = 0;
	/** Bytes in front of a segment's payload. */
	headers = 0;

	constructor(views: Views) {
		this.#v = views;
	}

	/**
	 * Takes the super-packet of `length` bytes in slot `s`; `link` are the bytes of the link header that its virtio
	 * header counts. Returns how many segments it has, 0 if it cannot be cut.
	 */
	begin(s: number, length: number, link: number): number {
		const { P, H, B } = this.#v;
		const ip = s + SLOT_IP;
		const type = B[s + VNET_GSO_TYPE] & ~GSO_ECN;
		const at = transportAt(H, s, link);
		const size = H[(s >> 1) + VNET_GSO_SIZE];
		const outer = (B[ip] & 15) * 4;
		const protocol = type === GSO_UDP ? UDP : TCP;
		if ((P[s >> 2] & VNET_PARTIAL) === 0 || (type !== GSO_UDP && type !== GSO_TCP4 && type !== GSO_TCP6)) return 0;
		if (size === 0 || at < outer || at % 2 !== 0 || at + (protocol === UDP ? UDP_HEADER : TCP_HEADER) > length) return 0;
		const headers = segmentHeaders(this.#v, s, link);
		const inner = at === outer ? 0 : this.#findInner(ip, outer, at, length, protocol);
		if (inner < 0 || (inner === 0 && B[ip + IP_PROTOCOL] !== protocol) || headers < at + 8 || headers >= length) return 0;
		this.#s = s;
		this.#length = length;
		this.#size = size;
		this.#outer = outer;
		this.#inner = inner;
		this.#at = at;
		this.headers = headers;
		return Math.ceil((length - headers) / size);
	}

	/**
	 * Where the IP header in front of the inner transport header begins, known by its lengths; -1 if there is none, or
	 * behind a tunnel of another kind.
	 */
	#findInner(ip: number, outer: number, at: number, length: number, protocol: number): number {
		const { H, B } = this.#v;
		const tunnel = B[ip + IP_PROTOCOL];
		const least = outer + (tunnel === UDP ? UDP_HEADER : tunnel === GRE ? 4 : 0);
		for (let bytes = IP_HEADER; bytes <= 60 && at - bytes >= least; bytes += 4) {
			const v4 = at - bytes;
			const word = (ip + v4) >> 1;
			if (B[ip + v4] === (0x40 | (bytes >> 2)) && B[ip + v4 + IP_PROTOCOL] === protocol && swap16(H[word + IP_LENGTH_H]) === length - v4) {
				return tunnel === UDP || tunnel === GRE || (tunnel === IPIP && v4 === outer) ? v4 : -1;
			}
		}
		const v6 = at - 40;
		if (v6 < least || B[ip + v6] >> 4 !== 6 || B[ip + v6 + 6] !== protocol || swap16(H[(ip + v6 + 4) >> 1]) !== length - at) return -1;
		return tunnel === UDP || tunnel === GRE || (tunnel === IN6 && v6 === outer) ? v6 : -1;
	}

	/** Bytes of the largest segment. */
	get largest(): number {
		return this.headers + Math.min(this.#size, this.#length - this.headers);
	}

	/**
	 * How many segments from number `k` on differ from the one before them in number and payload alone
	 * ({@link repeat}): of TCP outside of tunnels, all but the first two and the last.
	 */
	alike(k: number): number {
		return this.#inner === 0 && this.#v.B[this.#s + 1] !== GSO_UDP && k > 1
			? Math.ceil((this.#length - this.headers) / this.#size) - 1 - k
			: 0;
	}

	/**
	 * Writes `n` segments from number `k` on, that are {@link alike}, into the slots from `d` on that are `stride`
	 * bytes apart. `before` is the slot of segment `k` - 1, whose checksum is complete, as theirs are; `sum` as
	 * {@link sumOf}. Returns the bytes of each.
	 */
	repeat(k: number, n: number, before: number, d: number, stride: number, sum: (from: number, length: number) => number): number {
		const { H, B } = this.#v;
		const at = this.#at;
		const size = this.#size;
		const bytes = SLOT_IP + this.headers;
		const length = this.headers + size;
		const h = (this.#s + SLOT_IP) >> 1;
		const t = h + (at >> 1);
		const first = swap16(H[h + IP_ID_H]);
		const header = (H[h + IP_SUM_H] ^ 0xffff) + halfDelta(H[h + IP_LENGTH_H], swap16(length)) + (H[h + IP_ID_H] ^ 0xffff);
		const partial = fold(H[t + TCP_SUM_H] + halfDelta(swap16(this.#length - at), swap16(length - at)));
		const sequence = (swap16(H[t + TCP_SEQUENCE_H]) << 16) | swap16(H[t + (TCP_SEQUENCE_H + 1)]);
		let from = this.#s + bytes + k * size;
		let v = 0;
		let w = 0;
		// Written out, as the hot files are: this is all that a segment costs.
		for (const end = k + n; k < end; k++) {
			B.copyWithin(d, before, before + bytes);
			B.copyWithin(d + bytes, from, from + size);
			w = (d + SLOT_IP) >> 1;
			v = (first + k) & 0xffff;
			if (LITTLE) v = (v >> 8) | ((v & 255) << 8);
			H[w + IP_ID_H] = v;
			v += header;
			v = (v & 0xffff) + (v >> 16);
			H[w + IP_SUM_H] = ~(v + (v >> 16));
			w = d + SLOT_IP + at;
			v = (sequence + k * size) | 0;
			B[w + TCP_SEQUENCE] = v >> 24;
			B[w + (TCP_SEQUENCE + 1)] = v >> 16;
			B[w + (TCP_SEQUENCE + 2)] = v >> 8;
			B[w + (TCP_SEQUENCE + 3)] = v;
			v = (w >> 1) + TCP_SUM_H;
			H[v] = partial;
			H[v] = ~sum(w, length - at);
			before = d;
			d += stride;
			from += size;
		}
		return length;
	}

	/**
	 * Writes segment number `k` into slot `d`, link header and all, with a partial checksum; returns the bytes of its
	 * packet.
	 */
	write(k: number, d: number): number {
		const { H, B } = this.#v;
		const s = this.#s;
		const at = this.#at;
		const { headers } = this;
		const from = k * this.#size;
		const rest = this.#length - headers - from;
		const last = rest <= this.#size;
		const length = headers + (last ? rest : this.#size);
		B.copyWithin(d, s, s + SLOT_IP + headers);
		B.copyWithin(d + SLOT_IP + headers, s + SLOT_IP + headers + from, s + SLOT_IP + from + length);
		B[d] = 1;
		B[d + VNET_GSO_TYPE] = 0;
		H[(d >> 1) + VNET_HDR_LEN] = 0;
		H[(d >> 1) + VNET_GSO_SIZE] = 0;
		this.#ipv4(d + SLOT_IP, length, k);
		const inner = d + SLOT_IP + this.#inner;
		if (this.#inner > 0) {
			if (B[inner] >> 4 === 4) this.#ipv4(inner, length - this.#inner, k);
			else H[(inner + 4) >> 1] = swap16(length - this.#inner - 40);
		}
		const t = (d + SLOT_IP + at) >> 1;
		const longer = halfDelta(swap16(this.#length - at), swap16(length - at));
		if (B[s + VNET_GSO_TYPE] === GSO_UDP) {
			H[t + UDP_LENGTH_H] = swap16(length - at);
			H[t + UDP_SUM_H] = fold(H[t + UDP_SUM_H] + longer);
		} else {
			const sequence = swap16(H[t + TCP_SEQUENCE_H]) * 65536 + swap16(H[t + (TCP_SEQUENCE_H + 1)]) + from;
			H[t + TCP_SEQUENCE_H] = swap16((sequence / 65536) & 0xffff);
			H[t + (TCP_SEQUENCE_H + 1)] = swap16(sequence & 0xffff);
			H[t + TCP_SUM_H] = fold(H[t + TCP_SUM_H] + longer);
			B[t * 2 + TCP_FLAGS] &= (last ? 0xff : ~(FIN | PSH)) & (k === 0 ? 0xff : ~CWR);
		}
		if (this.#inner > 0) this.#tunnel(d, length);
		return length;
	}

	/** Length and identification of the IPv4 header at `ip` of segment `k`. */
	#ipv4(ip: number, length: number, k: number): void {
		const { H } = this.#v;
		const h = ip >> 1;
		const total = swap16(length);
		const id = swap16(swap16(H[h + IP_ID_H]) + k);
		H[h + IP_SUM_H] = fold((H[h + IP_SUM_H] ^ 0xffff) + halfDelta(H[h + IP_LENGTH_H], total) + halfDelta(H[h + IP_ID_H], id)) ^ 0xffff;
		H[h + IP_LENGTH_H] = total;
		H[h + IP_ID_H] = id;
	}

	/** What the tunnel's own header says of length and checksum. */
	#tunnel(d: number, length: number): void {
		const { P, H, B } = this.#v;
		const o = (d + SLOT_IP + this.#outer) >> 1;
		const protocol = B[d + SLOT_IP + IP_PROTOCOL];
		const w = (d >> 2) + IP_WORD;
		if (protocol === GRE && (B[o * 2] & GRE_SUM) !== 0) {
			H[o + 2] = 0;
			H[o + 2] = fold(this.#sumOfInner(d)) ^ 0xffff;
		}
		if (protocol !== UDP) return;
		H[o + UDP_LENGTH_H] = swap16(length - this.#outer);
		if (H[o + UDP_SUM_H] === 0) return;
		H[o + UDP_SUM_H] = 0;
		const pseudo =
			(P[w + IP_SOURCE_W] & 0xffff) +
			(P[w + IP_SOURCE_W] >>> 16) +
			(P[w + IP_DESTINATION_W] & 0xffff) +
			(P[w + IP_DESTINATION_W] >>> 16) +
			swap16(UDP) +
			H[o + UDP_LENGTH_H];
		H[o + UDP_SUM_H] = fold(fold(pseudo) + this.#sumOfInner(d)) ^ 0xffff || 0xffff;
	}

	/** Sum of everything behind the outer IP header, as it is once the inner checksum is complete. */
	#sumOfInner(d: number): number {
		const { H, B } = this.#v;
		const ip = d + SLOT_IP;
		const field = (ip + this.#at + H[(d >> 1) + VNET_CSUM_OFFSET]) >> 1;
		return sumOf(H, B, ip + this.#outer, this.#at - this.#outer) + (H[field] ^ 0xffff);
	}
}

/**
 * Completes the checksum of the packet in slot `s`, if it is partial, and empties its virtio header; `link` are the
 * bytes of the link header that that counts, `sum` as {@link sumOf}.
 */
export function completeSum(
	{ P, H, B }: Views,
	s: number,
	length: number,
	link: number,
	sum: (from: number, length: number) => number,
): void {
	if ((P[s >> 2] & VNET_PARTIAL) !== 0) {
		const at = transportAt(H, s, link);
		const offset = H[(s >> 1) + VNET_CSUM_OFFSET];
		const field = (s + SLOT_IP + at + offset) >> 1;
		const done = sum(s + SLOT_IP + at, length - at) ^ 0xffff;
		H[field] = done === 0 && offset === UDP_SUM ? 0xffff : done;
	}
	B.fill(0, s, s + 10);
}
