/**
 * What the slow path knows of the packet in hand: made once, filled for each packet, handed to whoever decides about
 * it. Of a fragmented packet it describes the first fragment, and the whole where that is said. A decision adds what
 * the session is made of (conntrack/table.ts).
 *
 * Addresses and ports are raw, and called by their part in a session: of an outbound packet the source is the
 * internal endpoint, of an inbound one the peer. A query's identifier is its port on our side.
 */

import type { NewSession } from "../conntrack/table.ts";
import { ICMP_ID_H } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_HEADER, IP_HEADER_W, IP_PROTOCOL, IP_SOURCE_W, PLAIN_TCP_FLAGS } from "../packet/ipv4.ts";
import { hasPorts, ICMP, SLOT_IP, swap16, TCP, UDP, type Views } from "../packet/layout.ts";
import { TCP_FLAGS_H, TCP_FLAGS_MASK } from "../packet/tcp.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import type { Context } from "./context.ts";

/** A packet on the slow path. */
export class PacketDescriptor implements NewSession {
	readonly #c: Context;
	readonly #v: Views;
	/** Byte offset of its frame's slot. */
	slot = 0;
	/** Bytes of the frame's IPv4 packet, of them header. */
	length = 0;
	header = 0;
	/** LAN port number that it came by, -1: the WAN. */
	port = -1;
	/** An internal host has sent it to one of our own addresses. */
	hairpin = false;
	protocol = 0;
	/** First halfword of the transport header. */
	l4 = 0;
	/**
	 * Transport bytes of the whole packet, and the frames that it consists of: this one, or those in the fragment
	 * pool's list.
	 */
	room = 0;
	frames = 1;
	/** TCP flags, 0 of other protocols. */
	flags = 0;

	internal = 0;
	internalPort = 0;
	peer = 0;
	peerPort = 0;
	peerPortInternal = 0;
	/** External address, its number, and the port. */
	address = 0;
	external = 0;
	externalPort = 0;
	state = 0;
	host = 0;
	hop = 0;
	mapped = 0;

	constructor(c: Context) {
		this.#c = c;
		this.#v = c.views;
	}

	/**
	 * Takes the packet in slot `s`, `length` bytes of IPv4, from LAN port `port`, or with -1 from the WAN: its external
	 * number is -1 then if its destination is not ours. One call, because calls are what costs in QuickJS.
	 */
	read(s: number, length: number, port: number): this {
		const { P, H, B } = this.#v;
		const ip = s + SLOT_IP;
		const w = ip >> 2;
		const header = (B[ip] & 15) * 4;
		const l4 = (ip + header) >> 1;
		const protocol = B[ip + IP_PROTOCOL];
		const ported = protocol !== ICMP && (protocol === UDP || protocol === TCP || hasPorts(protocol));
		const id = protocol === ICMP ? H[l4 + ICMP_ID_H] : 0;
		this.slot = s;
		this.length = length;
		this.header = header;
		this.port = port;
		this.hairpin = false;
		this.protocol = protocol;
		this.l4 = l4;
		this.room = length - header;
		this.frames = 1;
		this.flags = protocol === TCP ? swap16(H[l4 + TCP_FLAGS_H]) & TCP_FLAGS_MASK : 0;
		if (port >= 0) {
			this.internal = P[w + IP_SOURCE_W];
			this.peer = P[w + IP_DESTINATION_W];
			this.internalPort = ported ? H[l4] : id;
			this.peerPort = this.peerPortInternal = ported ? H[l4 + DESTINATION_PORT_H] : 0;
		} else {
			this.peer = P[w + IP_SOURCE_W];
			this.address = P[w + IP_DESTINATION_W];
			this.external = this.#c.externals.find(P[w + IP_DESTINATION_W]);
			this.peerPort = ported ? H[l4] : 0;
			this.externalPort = ported ? H[l4 + DESTINATION_PORT_H] : id;
		}
		return this;
	}

	/** As {@link read} a TCP or UDP packet without IP options from LAN port `port`, of which only this is needed. */
	readPlain(s: number, length: number, port: number): this {
		const { P, H, B } = this.#v;
		const w = (s + SLOT_IP) >> 2;
		const l4 = (w + IP_HEADER_W) << 1;
		const protocol = B[s + (SLOT_IP + IP_PROTOCOL)];
		this.slot = s;
		this.length = length;
		this.header = IP_HEADER;
		this.port = port;
		this.hairpin = false;
		this.protocol = protocol;
		this.l4 = l4;
		this.room = length - IP_HEADER;
		this.frames = 1;
		this.flags = protocol === TCP ? B[s + (SLOT_IP + PLAIN_TCP_FLAGS)] & TCP_FLAGS_MASK : 0;
		this.internal = P[w + IP_SOURCE_W];
		this.peer = P[w + IP_DESTINATION_W];
		this.internalPort = H[l4];
		this.peerPort = this.peerPortInternal = H[l4 + DESTINATION_PORT_H];
		return this;
	}

	/** It is the first of `frames` fragments with `room` transport bytes. */
	fragmented(frames: number, room: number): this {
		this.frames = frames;
		this.room = room;
		return this;
	}

	/** As {@link read} a packet to one of our addresses that an internal host has sent, translated already. */
	turned(s: number, length: number): this {
		this.read(s, length, -1);
		this.port = 0;
		this.hairpin = true;
		return this;
	}

	/** Counts and remembers that `frames` of it are dropped. */
	drop(reason: number, frames = 1): 0 {
		const c = this.#c;
		c.dropLog.add(reason, this.slot, this.port, c.now, frames);
		return 0;
	}
}
