/**
 * The kernel driver: the kernel forwards, tracks and translates; it asks about the first packet of a connection, and
 * the answer carries address and port (queue-rules.ts; netlink/queue.ts).
 *
 * Theory of operation. The core that translates packets for the other drivers is asked here too, and nothing else
 * decides: a queued packet is handed to it as a frame, in the slot where the kernel's message has it, and what it has
 * queued for the other side says the verdict. A frame for the WAN: accepted, with its source address and port. One for
 * a LAN: accepted, with its destination. Left to the kernel: accepted as it is. Nothing: dropped, and counted by the
 * core with its reason. What else the core has queued (ICMP errors, resets) is sent as by the other drivers; the packet
 * itself never is, nor are changes to it: the kernel has its own.
 *
 * A packet between two hosts of the LAN over an external address is asked about twice. Before destination NAT the core
 * decides about both sides; behind routing the source is looked up.
 *
 * A netlink message goes into a slot as a frame with a link header does, in one piece from the slot's beginning, so the
 * receiving call is that of packet sockets. Every packet gets its verdict, whatever happens: one without would wait in
 * the kernel forever.
 */

import * as native from "masq:native";
import { EXTERNAL_SHIFT, R_IN, R_META, R_PACKETS_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import type { Context, NextHops } from "../nat/context.ts";
import { MessageReader, NETLINK_NETFILTER, NLMSG_ERROR } from "../netlink/message.ts";
import { encodeBind, HOOK_POSTROUTING, PacketReader, QueuedPacket, Verdicts } from "../netlink/queue.ts";
import { HEADER_SHIFT, headerTag } from "../packet/header-tag.ts";
import { ICMP_ID_H } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_PLAIN_BYTE, IP_PROTOCOL, IP_SOURCE_W } from "../packet/ipv4.ts";
import { ETHERTYPE_IPV4, hasPorts, ICMP, IP_WORD, SLOT_IP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { DESTINATION_PORT_H } from "../packet/udp.ts";
import type { BusyEndpoints } from "./busy-endpoints.ts";
import type { QueueHosts } from "./queue-hosts.ts";
import { IN, OUT, QUEUE_IN, QUEUE_OUT } from "./queue-rules.ts";

/** Bytes in front of the IP packet that a receive of a frame with a link header does not count. */
const FRONT = SLOT_IP;
/** Packets that wait in a queue of the kernel's at most. */
const QUEUE_LENGTH = 4096;
/** Hosts whose refused packets are counted at one time. */
const REFUSED_HOSTS = 1024;
const COPY = 0xffff;
/** Larger than any packet: what is too large for its way the kernel has told the sender. */
const ANY_SIZE = 0x10000;
/** Numbers of next hops. */
const HOPS = 256;

/** Who decides about packets. */
export interface Decisions {
	/**
	 * The session by which a plain TCP or UDP packet in a slot leaves; 0 if it was dealt with otherwise, as by
	 * {@link outbound}; -1 if it is to be handed to that.
	 */
	carried(slot: number, length: number, port: number): number;
	/** Ends a session that cannot be, because the kernel has its external endpoint towards its peer for another. */
	yields(i: number): boolean;
	outbound(rx: Int32Array, count: number, port: number): void;
	inbound(rx: Int32Array, count: number): void;
}

/** Where the kernel has routed to: it has done so before it asks, so there is a way for everything. */
export class KernelHops implements NextHops {
	readonly tags = new Int32Array(HOPS);
	readonly least = ANY_SIZE;
	/** Slot of the frame that was last to go to a host whose link header is not known. */
	delivered = -1;
	/** Slot of the frame that is decided about. */
	asked = -1;
	/** By these goes what masqd says itself. */
	readonly #own: NextHops;

	/** `own` are the next hops of the other drivers. */
	constructor(own: NextHops) {
		this.tags[1] = headerTag(1);
		this.#own = own;
	}

	mtuTo(): number {
		return ANY_SIZE;
	}

	find(): number {
		return 1;
	}

	park(): void {}

	parkInternal(host: number, slot: number, length: number): void {
		if (slot === this.asked) this.delivered = slot;
		else this.#own.parkInternal(host, slot, length);
	}

	heard(host: number, port: number, slot: number): void {
		this.#own.heard(host, port, slot);
	}
}

/** The two queues on one socket. */
export class QueueDriver {
	readonly fd: native.Fd;
	/** Packets of each host (as loaded) that were refused; for the reader to clear. */
	readonly refused = new Map<number, number>();
	readonly #c: Context;
	readonly #rx: Int32Array;
	readonly #hops: KernelHops;
	readonly #hosts: QueueHosts;
	readonly #busy: BusyEndpoints;
	readonly #reader: PacketReader;
	readonly #packet = new QueuedPacket();
	readonly #verdicts = new Verdicts();
	/** The one frame that is decided about. */
	readonly #pair = new Int32Array(2);

	/**
	 * Binds the queues. Throws a native error, or an Error that says who has them. `rx` is the registered descriptor
	 * array.
	 */
	constructor(c: Context, rx: Int32Array, hops: KernelHops, hosts: QueueHosts, busy: BusyEndpoints) {
		this.#c = c;
		this.#rx = rx;
		this.#hops = hops;
		this.#hosts = hosts;
		this.#busy = busy;
		this.#reader = new PacketReader(c.views.B.buffer as ArrayBuffer);
		this.fd = native.netlinkOpen(NETLINK_NETFILTER, []);
		try {
			for (const queue of [QUEUE_OUT, QUEUE_IN])
				for (const request of encodeBind(queue, { copy: COPY, length: QUEUE_LENGTH }, 1)) this.#set(queue, request);
		} catch (error) {
			native.close(this.fd);
			throw error;
		}
	}

	#set(queue: number, request: ArrayBuffer): void {
		const answer = new ArrayBuffer(4096);
		native.netlinkSend(this.fd, request, request.byteLength);
		// The other queue may have packets by now: they are dropped, and their senders try again.
		for (let length = native.netlinkReceive(this.fd, answer); length > 0; length = native.netlinkReceive(this.fd, answer))
			for (const reader = new MessageReader(answer, length); reader.next(); )
				if (reader.type === NLMSG_ERROR && reader.errno() !== 0)
					throw new Error(`packet queue ${queue} of the kernel cannot be had (errno ${reader.errno()}): another program has it`);
	}

	close(): void {
		native.close(this.fd);
	}

	/** Receives up to a batch of packets; {@link decide} is to be called for as many before the next. */
	receive(): number {
		try {
			return native.packetReceive(this.fd, true, 0, native.BATCH_MAX);
		} catch (error) {
			// The kernel has dropped packets that had no room here: a flood. The others wait.
			if ((error as native.NativeError).code !== "ENOBUFS") throw error;
			return native.packetReceive(this.fd, true, 0, native.BATCH_MAX);
		}
	}

	/**
	 * Decides about the `count` packets received last.
	 *
	 * @param wan - index of the WAN's device, raw.
	 * @param lanOf - number of the LAN port by its device's index (raw), -1 for none.
	 * @param before - called with all decided and nothing told yet.
	 */
	decide(decisions: Decisions, count: number, wan: number, lanOf: (ifindex: number) => number, before: () => void): void {
		const rx = this.#rx;
		const packet = this.#packet;
		let problem: unknown = null;
		for (let n = 0; n < count; n++) {
			if (!this.#reader.read(rx[n * 2], rx[n * 2 + 1] + FRONT, packet)) continue;
			try {
				this.#decideOne(decisions, wan, lanOf);
			} catch (error) {
				this.#verdicts.drop(packet.queue, packet.id);
				problem = error;
			}
		}
		before();
		this.#send();
		if (problem !== null) throw problem;
	}

	#send(): void {
		const { length, buffer } = this.#verdicts;
		if (length === 0) return;
		this.#verdicts.length = 0;
		native.netlinkSend(this.fd, buffer, length);
	}

	#decideOne(decisions: Decisions, wan: number, lanOf: (ifindex: number) => number): void {
		const c = this.#c;
		const packet = this.#packet;
		const { payload, inDevice, length } = packet;
		const lan = inDevice === wan ? -1 : lanOf(inDevice);
		if (lan < 0 && inDevice !== wan) return this.#verdicts.accept(packet.queue, packet.id);
		const s = this.#frame(payload);
		const routed = packet.hook === HOOK_POSTROUTING;
		if (routed && packet.outDevice !== wan) return this.#turn(s);
		const { leftToKernel: left } = c;
		const source = c.views.P[(s >> 2) + IP_WORD + IP_SOURCE_W];
		this.#hops.asked = s;
		this.#hops.delivered = -1;
		const i = routed && lan >= 0 && isPlain(c.views.B, payload) ? decisions.carried(s, length, lan) : -1;
		if (i > 0) return this.#leaveOrNot(decisions, i);
		if (i < 0) this.#hand(decisions, s, lan, routed);
		const delivered = this.#hops.delivered === s || this.#take(s, false);
		if (this.#take(s, true)) this.#leave(s);
		else if (delivered) this.#enter(s);
		else if (c.leftToKernel !== left) this.#verdicts.accept(packet.queue, packet.id);
		else {
			this.#verdicts.drop(packet.queue, packet.id);
			if (lan >= 0) this.#refuse(source);
		}
	}

	/** Has the core translate the packet, as one of the other drivers'. */
	#hand(decisions: Decisions, s: number, lan: number, routed: boolean): void {
		// The kernel has not counted this hop yet.
		if (!routed && lan >= 0) this.#countHop(s);
		this.#pair[0] = s;
		this.#pair[1] = this.#packet.length;
		if (lan >= 0) decisions.outbound(this.#pair, 1, lan);
		else decisions.inbound(this.#pair, 1);
	}

	#refuse(source: number): void {
		const before = this.refused.get(source) ?? 0;
		if (before > 0 || this.refused.size < REFUSED_HOSTS) this.refused.set(source, before + 1);
	}

	/**
	 * Makes a frame of the message's payload, in place, with no link address that it has been sent to; returns its
	 * slot.
	 */
	#frame(payload: number): number {
		const { P, H } = this.#c.views;
		const { mac } = this.#packet;
		const w = payload >> 2;
		const h = payload >> 1;
		// What is read and what is written may overlap.
		const first = mac > 0 ? P[mac >> 2] : 0;
		const last = mac > 0 ? H[(mac >> 1) + 2] : 0;
		P[w - 6] = 0;
		P[w - 5] = 0;
		P[w - 4] = 0;
		P[w - 3] = 0;
		P[w - 2] = first;
		H[h - 2] = last;
		H[h - 1] = ETHERTYPE_IPV4;
		return payload - SLOT_IP;
	}

	/** A packet whose time to live ends here comes to its end. */
	#countHop(s: number): void {
		const { B } = this.#c.views;
		const ttl = s + SLOT_IP + 8;
		if (B[ttl] !== 1) return;
		B[ttl] = 0;
		// The checksum counts it too: its upper byte is two bytes on.
		let sum = ((B[ttl + 2] << 8) | B[ttl + 3]) + 0x100;
		if (sum > 0xffff) sum -= 0xffff;
		B[ttl + 2] = sum >> 8;
		B[ttl + 3] = sum & 0xff;
	}

	/** Takes the packet itself out of a queue where the core has put it: the WAN's, or that of any LAN. */
	#take(s: number, outward: boolean): boolean {
		const c = this.#c;
		const links = outward ? [c.wan] : c.lan;
		for (const { queue } of links) {
			const X = queue.pairs;
			for (let m = 0; m < queue.count * 2; m += 2) {
				if (X[m] !== s) continue;
				// An answer made of it has its link header already: it goes out.
				if (X[m + 1] >>> HEADER_SHIFT === 0) continue;
				X.copyWithin(m, m + 2, queue.count * 2);
				queue.count--;
				return true;
			}
		}
		return false;
	}

	/** Port or query identifier (host order) of a translated packet: its source's, or its destination's. */
	#port(s: number, destination: boolean): number {
		const { H, B } = this.#c.views;
		const ip = s + SLOT_IP;
		const l4 = (ip + (B[ip] & 15) * 4) >> 1;
		const protocol = B[ip + IP_PROTOCOL];
		if (protocol === ICMP) return swap16(H[l4 + ICMP_ID_H]);
		return hasPorts(protocol) ? swap16(H[destination ? l4 + DESTINATION_PORT_H : l4]) : 0;
	}

	/** The packet leaves as the core has translated it. */
	#leave(s: number): void {
		const c = this.#c;
		const { queue, id } = this.#packet;
		const external = c.externals.find(c.views.P[(s >> 2) + IP_WORD + IP_SOURCE_W]);
		if (external < 0) return this.#verdicts.drop(queue, id);
		this.#verdicts.acceptWith(queue, id, ((this.#port(s, false) << 16) | OUT | (external + 1)) >>> 0);
	}

	/** It goes to the host that the core has found. */
	#enter(s: number): void {
		const c = this.#c;
		const { queue, id } = this.#packet;
		const address = c.views.P[(s >> 2) + IP_WORD + IP_DESTINATION_W];
		const host = c.hosts.find(address);
		if (host === 0 || !this.#hosts.has(IN | host, address)) return this.#verdicts.drop(queue, id);
		const port = this.#port(s, true);
		this.#verdicts.acceptWith(queue, id, ((port << 16) | IN | host) >>> 0);
		const i = c.table.findMapping(c.views.B[s + SLOT_IP + IP_PROTOCOL], address, swap16(port));
		if (i !== 0) this.#busy.opened(i, 0);
	}

	/** The second question about a packet between two hosts: its source's mapping was made with the first. */
	#turn(s: number): void {
		const c = this.#c;
		const { queue, id } = this.#packet;
		const { P, H, B } = c.views;
		const w = (s >> 2) + IP_WORD;
		const ip = s + SLOT_IP;
		const protocol = B[ip + IP_PROTOCOL];
		const l4 = (ip + (B[ip] & 15) * 4) >> 1;
		const port = protocol === ICMP ? H[l4 + ICMP_ID_H] : hasPorts(protocol) ? H[l4] : 0;
		const i = c.table.findMapping(protocol, P[w + IP_SOURCE_W], port);
		if (i === 0) return this.#verdicts.accept(queue, id);
		this.#leaveBy(i);
	}

	/**
	 * The first packet of a session leaves. Another one is asked about only if the kernel could make no entry of that:
	 * where it has what the peer answers with for another's connection, this one is left to the kernel.
	 */
	#leaveOrNot(decisions: Decisions, i: number): void {
		const isNew = this.#c.table.T[(i << RECORD_SHIFT) + R_PACKETS_OUT] === 1;
		if (isNew) this.#busy.opened(i, this.#packet.inDevice);
		if (isNew || !decisions.yields(i)) return this.#leaveBy(i);
		this.#verdicts.accept(this.#packet.queue, this.#packet.id);
	}

	/** The packet leaves by the external endpoint of a session. */
	#leaveBy(i: number): void {
		const packet = this.#packet;
		const t = this.#c.table.T;
		const external = (t[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff;
		const port = swap16(secondOf(t[(i << RECORD_SHIFT) + R_IN]));
		this.#verdicts.acceptWith(packet.queue, packet.id, (port << 16) | OUT | (external + 1));
	}
}

/** A packet, at offset `ip`, of TCP or UDP with nothing uncommon in its header. */
function isPlain(B: Uint8Array, ip: number): boolean {
	return B[ip] === IP_PLAIN_BYTE && (B[ip + IP_PROTOCOL] === TCP || B[ip + IP_PROTOCOL] === UDP);
}
