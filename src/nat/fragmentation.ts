/**
 * Packets that are larger than their way out: cut into fragments or refused with the MTU (RFC 791 section 3.2, RFC
 * 1191, RFC 1812 section 4.2.2.7, RFC 4787 REQ-13), and the identifications that fragments need (RFC 6864).
 */

import { sumOf } from "../packet/checksum.ts";
import { linkBytes } from "../packet/ethernet.ts";
import {
	IP_DESTINATION_W,
	IP_FLAGS,
	IP_FLAGS_H,
	IP_FLAGS_W,
	IP_ID_H,
	IP_LENGTH_H,
	IP_SUM_H,
	MORE_FRAGMENTS,
	OFFSET_BYTE,
} from "../packet/ipv4.ts";
import {
	IP_DF,
	IP_MORE,
	IP_WORD,
	SLOT_IP,
	swap16,
	type Views,
	VNET_CSUM_START,
	VNET_GSO,
	VNET_GSO_SIZE,
	VNET_GSO_TYPE,
} from "../packet/layout.ts";
import { completeSum, GSO_UDP, Segments } from "../packet/segments.ts";
import { TCP_OFFSET } from "../packet/tcp.ts";
import { UDP_HEADER } from "../packet/udp.ts";
import type { Context, Link } from "./context.ts";
import type { FragmentPool } from "./fragment-pool.ts";
import type { IcmpSender } from "./icmp-error.ts";
import { Identifications } from "./identification.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { REASON } from "./reason.ts";
import { refuse } from "./refuse.ts";

/** Identifications that a super-packet may use up. */
const IDS_OF_SUPER_PACKET = 64;
/** IPv4 option bit: repeated in every fragment (RFC 791 section 3.1). */
const OPTION_COPIED = 0x80;
const NO_OPERATION = 1;
/**
 * Segments of a super-packet that are cut further before they are sent, so that the blocks which they take stay few.
 */
const SEGMENTS_AT_ONCE = 8;

/**
 * True if a packet is a super-packet whose segments fit the MTU; `link` are the bytes of the link header that its
 * virtio header counts.
 */
export function segmentsFit({ P, H, B }: Views, s: number, mtu: number, link: number): boolean {
	if ((P[s >> 2] & VNET_GSO) === 0) return false;
	// As segmentHeaders() has it: this is asked of every super-packet.
	const at = H[(s >> 1) + VNET_CSUM_START] - link;
	return (
		H[(s >> 1) + VNET_GSO_SIZE] + at + (B[s + VNET_GSO_TYPE] === GSO_UDP ? UDP_HEADER : (B[s + SLOT_IP + at + TCP_OFFSET] >> 4) * 4) <= mtu
	);
}

/** Cuts packets. */
export class Fragmentation {
	readonly #c: Context;
	readonly #pool: FragmentPool;
	readonly #errors: IcmpSender;
	readonly #ids: Identifications;
	readonly #segments: Segments;

	constructor(c: Context, pool: FragmentPool, errors: IcmpSender) {
		this.#c = c;
		this.#pool = pool;
		this.#errors = errors;
		this.#ids = new Identifications(c.ipId);
		this.#segments = new Segments(c.views);
	}

	/**
	 * An outbound datagram that may be fragmented on its way needs an identification that no other host behind our
	 * address uses (RFC 6864 section 5.3.1). A packet with DF keeps its own: nobody reads it.
	 */
	identify(s: number): void {
		const { views, ipIds, now16 } = this.#c;
		const count = (views.P[s >> 2] & VNET_GSO) === 0 ? 1 : IDS_OF_SUPER_PACKET;
		this.rename(s, swap16(this.#ids.take(views.P[(s >> 2) + IP_WORD + IP_DESTINATION_W], count, ipIds, now16)));
	}

	/** Takes an identification for a datagram to a destination, raw both. */
	nextId(destination: number): number {
		return swap16(this.#ids.take(destination, 1, this.#c.ipIds, this.#c.now16));
	}

	/** Gives the packet in slot `s` an identification. */
	rename(s: number, id: number): void {
		const { H } = this.#c.views;
		const h = (s + SLOT_IP) >> 1;
		let sum = (H[h + IP_SUM_H] ^ 0xffff) + (H[h + IP_ID_H] ^ 0xffff) + id;
		sum = (sum & 0xffff) + (sum >>> 16);
		H[h + IP_SUM_H] = ((sum & 0xffff) + (sum >>> 16)) ^ 0xffff;
		H[h + IP_ID_H] = id;
	}

	/** True if a packet beyond the MTU must not be cut; its sender has been told then. */
	refuses(p: PacketDescriptor, mtu: number): boolean {
		if ((this.#c.views.P[(p.slot >> 2) + IP_WORD + IP_FLAGS_W] & IP_DF) === 0) return false;
		refuse(this.#c, this.#errors, p, REASON["too-big"], 1, mtu);
		return true;
	}

	/**
	 * Cuts a frame of packet `p` that is translated, in slot `s`, into fragments no larger than `mtu` for the port `to`
	 * and gives each to `send`, in order. Every fragment has the whole header; options that are not to be repeated
	 * become no-operations.
	 */
	cut(p: PacketDescriptor, s: number, length: number, to: Link, mtu: number, send: (s: number, length: number) => void): void {
		const c = this.#c;
		const { P, H, B } = c.views;
		if ((P[s >> 2] & VNET_GSO) !== 0) return this.#cutSegments(p, s, length, to, mtu, send);
		const ip = s + SLOT_IP;
		const header = (B[ip] & 15) * 4;
		const step = (mtu - header) & ~7;
		completeSum(c.views, s, length, linkBytes(to.ethernet), c.sum);
		const word = P[(ip >> 2) + IP_FLAGS_W];
		const base = ((B[ip + IP_FLAGS] & OFFSET_BYTE) << 8) | B[ip + (IP_FLAGS + 1)];
		const slots = [s];
		for (let at = step; at < length - header; at += step) {
			const bytes = Math.min(step, length - header - at);
			const f = this.#pool.borrow(header + bytes);
			if (f < 0) return void p.drop(REASON["fragment-overload"]);
			B.copyWithin(f, s, ip + header);
			B.copyWithin(f + SLOT_IP + header, ip + header + at, ip + header + at + bytes);
			forgetOptions(B, f + SLOT_IP, header);
			slots.push(f);
		}
		for (const [n, f] of slots.entries()) {
			const bytes = Math.min(step, length - header - n * step);
			const more = n < slots.length - 1 || (word & IP_MORE) !== 0;
			const h = (f + SLOT_IP) >> 1;
			const offset = base + (n * step) / 8;
			H[h + IP_LENGTH_H] = swap16(header + bytes);
			H[h + IP_FLAGS_H] = swap16((more ? MORE_FRAGMENTS : 0) | offset);
			H[h + IP_SUM_H] = 0;
			H[h + IP_SUM_H] = sumOf(H, B, h * 2, header) ^ 0xffff;
			send(f, header + bytes);
		}
	}

	/**
	 * A super-packet whose segments are too large themselves: they are fragmented one by one, as they would be had they
	 * come so.
	 */
	#cutSegments(p: PacketDescriptor, s: number, length: number, to: Link, mtu: number, send: (s: number, length: number) => void): void {
		const c = this.#c;
		const segments = this.#segments;
		const count = segments.begin(s, length, linkBytes(to.ethernet));
		if (count === 0) return void p.drop(REASON["too-big"]);
		for (let k = 0; k < count; k++) {
			if (k > 0 && k % SEGMENTS_AT_ONCE === 0) {
				c.flush();
				this.#pool.recycle();
			}
			const f = this.#pool.borrow(segments.largest);
			if (f < 0) return void p.drop(REASON["fragment-overload"], count - k);
			this.cut(p, f, segments.write(k, f), to, mtu, send);
		}
	}
}

/** Replaces the options of a header that stand only in the first fragment by no-operations. */
function forgetOptions(B: Uint8Array, ip: number, header: number): void {
	for (let at = ip + 20; at < ip + header && B[at] !== 0; ) {
		if (B[at] === NO_OPERATION) {
			at++;
			continue;
		}
		const size = B[at + 1];
		if ((B[at] & OPTION_COPIED) === 0) B.fill(NO_OPERATION, at, at + size);
		at += size;
	}
}
