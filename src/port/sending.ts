/**
 * What a packet port sends: which socket each frame goes by, in which form, and what becomes of those that the kernel
 * refuses.
 *
 * Theory of operation. The kernel's own forwarding gives a packet the priority that its type of service stands for
 * (rt_tos2priority), and pfifo_fast, prio, HTB and filters go by it; a packet socket has one priority for all that it
 * sends. So there is a socket for each of the four, opened when it is first needed, and with that a send buffer: what
 * waits in one class of a qdisc is charged to its socket and leaves the others room. Ordinary traffic goes by the
 * socket that also receives, in one call a batch; only a queue that is marked as mixed is looked at frame by frame.
 *
 * A raw socket puts the network header behind as many bytes as the device's driver reserves for its link header. Where
 * those are not the ones that stand in front of the packet (PPP: none, but 4 are reserved), a super-packet cannot be
 * segmented and is lost without an error, and qdiscs read type of service, addresses and ECN bits from the wrong place.
 * There a datagram socket sends, which the kernel makes the link header for; it takes neither super-packets nor partial
 * checksums, so both are dealt with here. Super-packets of tunnels are cut on every device (packet/segments.ts).
 *
 * A frame that is refused costs that frame. Only what would be refused to every other too ends the batch: a full send
 * buffer, a device that is down or gone.
 */

import * as native from "masq:native";
import type { Queue } from "../nat/context.ts";
import { REASON } from "../nat/reason.ts";
import { ETHER_HEADER } from "../packet/ethernet.ts";
import { LENGTH_MASK } from "../packet/header-tag.ts";
import { IP_TOS_CLASS, IP_TOS_SHIFT, IP_WORD, type Views, VNET_GSO, VNET_PARTIAL } from "../packet/layout.ts";
import { completeSum, isTunnelled, Segments } from "../packet/segments.ts";

const ARPHRD_ETHER = 1;
const ARPHRD_LOOPBACK = 772;
const ARPHRD_TUNNEL = 768;
const ARPHRD_SIT = 776;
const ARPHRD_IPGRE = 778;
const ARPHRD_NONE = 0xfffe;
/**
 * Kinds of devices that take what a raw socket sends, super-packets and all. Ethernet, VLAN, macvlan, TUN and WireGuard
 * are played in a guest with Linux 6.12 (test/guest/wans.py), IPIP, 6in4 and GRE were tried there by hand. PPP (512)
 * does not; of raw-ip modems (519) and others it is not known.
 */
const TAKE_RAW = [ARPHRD_ETHER, ARPHRD_LOOPBACK, ARPHRD_TUNNEL, ARPHRD_SIT, ARPHRD_IPGRE, ARPHRD_NONE];

/**
 * Priorities of the kernel (TC_PRIO_*) by the two bits of the type of service that it goes by; the most urgent is sent
 * first.
 */
const PRIORITIES = [0, 2, 6, 4];
const ORDER = [2, 3, 0, 1];
const BATCH = native.BATCH_MAX;
/** Frame memory for segments that are about to be sent. */
export const SEGMENT_BYTES = 64 * 1024;

/** Tells of a frame that was not sent: why (a number of nat/reason.ts), and its slot. */
export type Refused = (reason: number, slot: number) => void;

/**
 * Where sorted frames go: `count` pairs from number `from` on, all of one class. Returns how many went;
 * native.sendError() says why the next one did not.
 */
export interface Outlet {
	/** Bytes of the link header that virtio headers count. */
	readonly link: number;
	/** It takes neither super-packets nor partial checksums. */
	readonly whole: boolean;
	put(kind: number, pairs: Int32Array, from: number, count: number): number;
}

/** The sockets of a packet port. */
export class PacketOutlet implements Outlet {
	readonly link: number;
	readonly whole: boolean;
	readonly #fd: native.Fd;
	readonly #ifindex: number;
	readonly #ethernet: boolean;
	readonly #form: number;
	readonly #buffers: readonly number[];
	/** Socket by class, 0 until it is opened. */
	readonly #sockets = [0, 0, 0, 0];

	/**
	 * @param fd the socket that receives, -1 if there is none
	 * @param raw the device takes what a raw socket sends ({@link takesRaw})
	 * @param buffers bytes to ask for as send buffer of a socket for ordinary traffic, and for each other class
	 */
	constructor(fd: native.Fd, ifindex: number, ethernet: boolean, raw: boolean, buffers: readonly [number, number]) {
		this.link = ethernet ? ETHER_HEADER : 0;
		this.whole = !raw;
		this.#fd = fd;
		this.#ifindex = ifindex;
		this.#ethernet = ethernet;
		this.#form = (ethernet ? native.SEND_ETHERNET : 0) | (raw ? 0 : native.SEND_DATAGRAM);
		this.#buffers = buffers;
	}

	put(kind: number, pairs: Int32Array, from: number, count: number): number {
		const own = kind === 0 && !this.whole && this.#fd >= 0 ? 0 : this.#socket(kind);
		return own === 0
			? native.packetSend(this.#fd, this.#ethernet, pairs, from, count)
			: native.packetSendTo(own, this.#ifindex, this.#form, pairs, from, count);
	}

	/**
	 * The socket of a class; 0, for the one that receives, if it cannot be had now: the priority is lost, and nothing
	 * else.
	 */
	#socket(kind: number): native.Fd {
		if (this.#sockets[kind] === 0) {
			try {
				this.#sockets[kind] = native.packetSendOpen(this.whole, PRIORITIES[kind], this.#buffers[kind === 0 ? 0 : 1]);
			} catch {
				// No descriptor, or no memory.
			}
		}
		return this.#sockets[kind];
	}

	close(): void {
		for (const fd of this.#sockets) if (fd > 0) native.close(fd);
		this.#sockets.fill(0);
	}
}

/**
 * Whether a device takes what a raw socket sends; `type` is its ARPHRD number. A VLAN reserves 4 bytes more in older
 * kernels if the device below does not insert the tag.
 */
export function takesRaw(io: Pick<typeof native, "readFile" | "getFeature">, type: number, name: string): boolean {
	if (!TAKE_RAW.includes(type)) return false;
	try {
		const below = /^Device: (\S+)/m.exec(io.readFile(`/proc/net/vlan/${name}`))?.[1] ?? "";
		return io.getFeature(below, "tx-vlan-hw-insert") !== false;
	} catch {
		// No VLAN.
		return true;
	}
}

/** Sends a port's queue. */
export class Sending {
	readonly #outlet: Outlet;
	readonly #views: Views;
	readonly #segments: Segments;
	readonly #scratch: number;
	readonly #pairs: Int32Array[] = [];
	readonly #counts = [0, 0, 0, 0];
	#used = 0;
	#refused: Refused = () => {};
	#sent = 0;

	/** `scratch`: byte offset of {@link SEGMENT_BYTES} of frame memory that is free while a queue is sent. */
	constructor(outlet: Outlet, views: Views, scratch: number) {
		this.#outlet = outlet;
		this.#views = views;
		this.#segments = new Segments(views);
		this.#scratch = scratch;
	}

	/**
	 * Sends what is in a queue, which is empty then. Returns how many frames were sent; of the others `refused` is
	 * told.
	 */
	send(queue: Queue, refused: Refused): number {
		const { count, pairs } = queue;
		this.#sent = 0;
		this.#refused = refused;
		if (queue.mixed || this.#outlet.whole) this.#sort(pairs, count);
		else for (let from = 0; from < count; from += BATCH) this.#push(pairs, from, Math.min(count, from + BATCH), 0);
		queue.count = 0;
		queue.mixed = false;
		return this.#sent;
	}

	/** Sends a queue whose frames differ in class, or in what has to be done before. */
	#sort(pairs: Int32Array, count: number): void {
		const { P } = this.#views;
		this.#counts.fill(0);
		this.#used = 0;
		const { whole, link } = this.#outlet;
		for (let n = 0; n < count << 1; n += 2) {
			const s = pairs[n];
			const word = P[s >> 2];
			const kind = (P[(s >> 2) + IP_WORD] & IP_TOS_CLASS) >>> IP_TOS_SHIFT;
			if ((word & VNET_GSO) !== 0 && (whole || isTunnelled(this.#views, s, link))) this.#cut(s, pairs[n + 1], kind);
			else {
				if (whole && (word & VNET_PARTIAL) !== 0) this.#complete(s, pairs[n + 1] & LENGTH_MASK);
				this.#add(kind, s, pairs[n + 1]);
			}
		}
		this.#drain();
	}

	/** Appends a frame to those of its class; makes room first if there is none. */
	#add(kind: number, s: number, word: number): void {
		if (this.#counts[kind] === BATCH) this.#drain();
		const m = this.#counts[kind]++ << 1;
		const pairs = this.#pairsOf(kind);
		pairs[m] = s;
		pairs[m + 1] = word;
	}

	#pairsOf(kind: number): Int32Array {
		this.#pairs[kind] ??= new Int32Array(BATCH * 2);
		return this.#pairs[kind];
	}

	/** The super-packet in slot `s`, whose descriptor's second word is `word`, goes as segments. */
	#cut(s: number, word: number, kind: number): void {
		const segments = this.#segments;
		const count = segments.begin(s, word & LENGTH_MASK, this.#outlet.link);
		if (count === 0) return this.#refused(REASON["send-refused"], s);
		const stride = (native.SLOT_IP + segments.largest + 3) & ~3;
		const tag = word & ~LENGTH_MASK;
		const { whole } = this.#outlet;
		let before = 0;
		for (let k = 0; k < count; ) {
			if (this.#counts[kind] === BATCH || this.#used + stride > SEGMENT_BYTES) this.#drain();
			const d = this.#scratch + this.#used;
			let n = whole ? Math.min(segments.alike(k), BATCH - this.#counts[kind], ((SEGMENT_BYTES - this.#used) / stride) | 0) : 0;
			let length = 0;
			if (n > 0) {
				length = segments.repeat(k, n, before, d, stride, native.frameSum);
			} else {
				n = 1;
				length = segments.write(k, d);
				if (whole) this.#complete(d, length);
			}
			before = d + (n - 1) * stride;
			const pairs = this.#pairsOf(kind);
			let m = this.#counts[kind] << 1;
			for (let at = d; at <= before; at += stride) {
				pairs[m++] = at;
				pairs[m++] = length | tag;
			}
			this.#counts[kind] += n;
			this.#used += n * stride;
			k += n;
		}
	}

	#complete(s: number, length: number): void {
		completeSum(this.#views, s, length, this.#outlet.link, native.frameSum);
	}

	/** Sends what has been sorted so far; the memory of its segments is free then. */
	#drain(): void {
		for (const kind of ORDER) {
			const count = this.#counts[kind];
			this.#counts[kind] = 0;
			if (count > 0) this.#push(this.#pairs[kind], 0, count, kind);
		}
		this.#used = 0;
	}

	/** Sends the pairs from number `at` to before `end`, which are of one class. */
	#push(pairs: Int32Array, at: number, end: number, kind: number): void {
		while (at < end) {
			const sent = this.#outlet.put(kind, pairs, at, end - at);
			this.#sent += sent;
			at += sent;
			if (at < end) at = this.#refuse(pairs, at, end);
		}
	}

	/** Counts what was refused of the pairs from `at` on; returns the number of the next one to try. */
	#refuse(pairs: Int32Array, at: number, end: number): number {
		const [reason, all] = refusal(native.sendError());
		const to = all ? end : at + 1;
		for (let n = at; n < to; n++) this.#refused(reason, pairs[n * 2]);
		return to;
	}
}

/** Reason for a refusal by the name of its errno, and whether every other frame would be refused too. */
function refusal(error: string): [reason: number, all: boolean] {
	switch (error) {
		case "EAGAIN":
			return [REASON["queue-full"], true];
		case "ENOBUFS":
			return [REASON["qdisc-full"], false];
		case "ENETDOWN":
		case "ENODEV":
		case "ENXIO":
		case "EIO":
		case "EBADF":
		case "EBADFD":
			return [REASON["send-refused"], true];
		default:
			return [REASON["send-refused"], false];
	}
}
