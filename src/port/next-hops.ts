/**
 * Next hops of the WAN port (packet driver: masqd writes the link header itself).
 *
 * Theory of operation. A gateway or on-link peer in use has a small number, which the session record carries; its MAC
 * stands in the link header table, and its tag in an array that the fast loops read, 0 while it is not known. The
 * kernel resolves and confirms neighbours (KernelMirror.resolve), its notifications fill both. A device without link
 * header has one hop, number 1, that is always good.
 *
 * Numbers from 1 to {@link GATEWAYS} are gateways' alone, so that another gateway has one at once however many peers
 * there are. A peer on the link gets one when it has answered, and its sessions with their next packet; until then, and
 * while all numbers are taken, they have hop 0: each of their frames is looked up by its destination in
 * {@link NextHopTable.park} and goes at once if the neighbour is known. Numbers that no session and no route has come
 * back when few are left, between two batches.
 */

import { HOP_SHIFT, HOST_ADDRESS, HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS, R_META, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE, QUARANTINED } from "../conntrack/states.ts";
import { isUsable, type Neighbour } from "../kernel/mirror.ts";
import { ELSEWHERE, HAIRPIN, type Link, type NextHops, NO_ROUTE } from "../nat/context.ts";
import { REASON } from "../nat/reason.ts";
import { NUD } from "../netlink/route.ts";
import { HOST_HEADERS, headerTag } from "../packet/header-tag.ts";
import { addressValue, SLOT_ETHER, SLOT_IP, SLOT_SIZE, swap32 } from "../packet/layout.ts";
import { InternalNeighbours } from "./internal-neighbours.ts";
import { NeighbourRequests } from "./neighbour-requests.ts";
import type { NextHopOwner } from "./next-hop-owner.ts";
import { WAITING_BYTES, WAITING_MAX, type Waiting, WaitingFrames } from "./waiting-frames.ts";

/** Numbers of next hops: the last is HAIRPIN, the first so many are gateways'. */
const HOPS = HAIRPIN;
const GATEWAYS = 32;
/**
 * Free numbers below which those that nobody has any more are collected, and milliseconds until the next look if there
 * were few.
 */
const FEW = 16;
const COLLECT_AGAIN = 10_000;
/** Milliseconds in which each hop in use is confirmed once. */
const CONFIRM = 30_000;
/** Destinations whose hop is remembered. */
const CACHED = 4096;

/** Implements {@link NextHops} over the kernel's neighbour table. */
export class NextHopTable implements NextHops {
	readonly tags = new Int32Array(HOPS + 1);
	least = 0;
	readonly #owner: NextHopOwner;
	readonly #requests: NeighbourRequests;
	readonly #internal: InternalNeighbours;
	/** Neighbour's address (host order) by hop number, 0 for a free one, and the reverse. */
	readonly #addresses = new Float64Array(HOPS);
	readonly #numbers = new Map<number, number>();
	#freeGateways: number[] = [];
	#freePeers: number[] = [];
	#collectAt = 0;
	/** Hop numbers by destination (raw), a cache over the routing table. */
	readonly #cache = new Map<number, number>();
	/** MTUs by destination (raw), the same while a route has one of its own. */
	readonly #mtus = new Map<number, number>();
	readonly #waiting = new WaitingFrames();
	/** The hop that was confirmed last, and when. */
	#confirmed = 0;
	#confirmedAt: number;

	constructor(owner: NextHopOwner) {
		this.#owner = owner;
		this.#confirmedAt = owner.milliseconds();
		this.#requests = new NeighbourRequests(owner.kernel, () => owner.milliseconds());
		this.#internal = new InternalNeighbours(owner, this.#requests);
		this.#freeAll();
	}

	#freeAll(): void {
		this.#freeGateways = [];
		this.#freePeers = [];
		for (let n = HOPS - 1; n > 0; n--) (n <= GATEWAYS ? this.#freeGateways : this.#freePeers).push(n);
	}

	find(destination: number): number {
		const known = this.#cache.get(destination);
		if (known !== undefined) return known;
		const found = this.#route(destination);
		if (this.#cache.size >= CACHED) this.#cache.clear();
		this.#cache.set(destination, found);
		return found;
	}

	mtuTo(destination: number): number {
		const { kernel, wan } = this.#owner;
		if (this.least === wan.mtu) return wan.mtu;
		const known = this.#mtus.get(destination);
		if (known !== undefined) return known;
		const found = Math.min(wan.mtu, kernel.lookup(addressValue(destination))?.mtu || wan.mtu);
		if (this.#mtus.size >= CACHED) this.#mtus.clear();
		this.#mtus.set(destination, found);
		return found;
	}

	/** Reads the MTUs of link and routes, which may have changed. */
	#readMtus(): void {
		const { kernel, wan } = this.#owner;
		const ifindex = this.#owner.wanIndex();
		this.#mtus.clear();
		this.least = wan.mtu;
		for (const route of kernel.routes()) if (route.ifindex === ifindex && route.mtu > 0) this.least = Math.min(this.least, route.mtu);
	}

	/** As {@link find}, but nothing changes and nobody is asked: 0 stands for a hop that has no number yet. */
	lookup(destination: number): number {
		const target = this.#target(destination);
		if (target < 0) return target;
		return this.#owner.wan.ethernet ? (this.#numbers.get(target) ?? 0) : 1;
	}

	#route(destination: number): number {
		const target = this.#target(destination);
		if (target < 0) return target;
		if (!this.#owner.wan.ethernet) {
			this.tags[1] = headerTag(1);
			return 1;
		}
		return this.#number(target);
	}

	/** Address of the next hop (host order), or {@link NO_ROUTE} or {@link ELSEWHERE}. */
	#target(destination: number): number {
		const { kernel } = this.#owner;
		const value = addressValue(destination);
		const route = kernel.lookup(value);
		if (route === null || route.ifindex === 0) return NO_ROUTE;
		if (route.ifindex !== this.#owner.wanIndex() || kernel.isLocal(value) || kernel.isBroadcast(value)) return ELSEWHERE;
		return route.gateway || value;
	}

	/** Number of a next hop, which gets one if it may have one; else 0. */
	#number(address: number): number {
		const known = this.#numbers.get(address);
		if (known !== undefined) return known;
		const { kernel } = this.#owner;
		const ifindex = this.#owner.wanIndex();
		const gateway = kernel.isGateway(ifindex, address);
		const neighbour = kernel.neighbour(ifindex, address);
		const usable = neighbour !== undefined && isUsable(neighbour);
		const n = (gateway ? this.#freeGateways.pop() : undefined) ?? (usable ? this.#freePeers.pop() : undefined) ?? 0;
		if (n === 0) return 0;
		this.#addresses[n] = address;
		this.#numbers.set(address, n);
		if (usable) this.#learn(n, neighbour);
		else this.#requests.find(ifindex, address);
		return n;
	}

	#learn(n: number, neighbour: Neighbour): void {
		const { headers, wan } = this.#owner;
		if (isUsable(neighbour)) {
			headers.set(n, neighbour.mac as Uint8Array, 0, wan.mac);
			this.tags[n] = headerTag(n);
		} else {
			this.tags[n] = 0;
			headers.lost(n);
		}
	}

	park(hop: number, slot: number, length: number): void {
		const o = this.#owner;
		if (!o.wan.ethernet) {
			this.tags[1] = headerTag(1);
			return this.#send(o.wan, slot, length, this.tags[1]);
		}
		const ifindex = o.wanIndex();
		const destination = o.views.P[(slot + SLOT_IP + 16) >> 2];
		const address = this.#addresses[hop] || this.#target(destination);
		if (address === NO_ROUTE) {
			o.dropped(REASON["no-route"], slot, 0);
			return o.undeliverable(slot, length, true);
		}
		if (address === ELSEWHERE) return o.dropped(REASON["not-through-wan"], slot, 0);
		const known = o.kernel.neighbour(ifindex, address);
		if (known === undefined || !isUsable(known)) {
			const i = o.sessionOf(slot);
			return this.#keep(
				slot,
				{ wan: true, neighbour: address, host: 0, internal: i === 0 ? 0 : o.table.T[i << RECORD_SHIFT], length },
				ifindex,
			);
		}
		const n = this.#number(address);
		if (n > 0) {
			this.#learn(n, known);
			this.#cache.delete(destination);
			if (n !== hop) this.#setHop(o.sessionOf(slot), n);
		}
		this.#requests.confirm(ifindex, address);
		this.#sendTo(known, slot, length);
	}

	#setHop(i: number, n: number): void {
		if (i === 0) return;
		const { T } = this.#owner.table;
		T[(i << RECORD_SHIFT) + R_META] = (T[(i << RECORD_SHIFT) + R_META] & ~(0xff << HOP_SHIFT)) | (n << HOP_SHIFT);
	}

	/** Sends a frame to a neighbour of the WAN, with the header in its slot: the hop may have no number. */
	#sendTo(neighbour: Neighbour, slot: number, length: number): void {
		const { views, wan } = this.#owner;
		views.B.set(neighbour.mac as Uint8Array, slot + SLOT_ETHER);
		views.B.set(wan.mac, slot + SLOT_ETHER + 6);
		views.B.set([0x08, 0x00], slot + SLOT_ETHER + 12);
		this.#send(wan, slot, length, 0);
	}

	parkInternal(host: number, slot: number, length: number): void {
		const { hosts, lan } = this.#owner;
		const port = (hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
		if (this.#internal.find(host)) return this.#send(lan[port], slot, length, headerTag(HOST_HEADERS + host));
		const internal = hosts.W[host * HOST_WORDS + HOST_ADDRESS];
		this.#keep(slot, { wan: false, neighbour: this.#internal.leadsTo(host), host, internal, length }, this.#owner.lanIndex(port));
	}

	heard(host: number, port: number, slot: number): void {
		this.#internal.heard(host, port, slot);
	}

	#keep(slot: number, frame: Omit<Waiting, "deadline">, ifindex: number): void {
		const o = this.#owner;
		const leaves = frame.length + SLOT_IP > WAITING_BYTES ? -2 : this.#waiting.room(frame.internal);
		if (leaves === -2) {
			if (this.#waiting.awaits(frame.neighbour, frame.wan)) this.#requests.find(ifindex, frame.neighbour);
			return o.dropped(REASON["waiting-full"], slot, frame.wan ? 0 : -1);
		}
		if (leaves >= 0) {
			o.dropped(REASON["waiting-full"], this.#unpack(leaves, WAITING_MAX), this.#waiting.at(leaves).wan ? 0 : -1);
			this.#waiting.remove(leaves);
		}
		this.#waiting.add(frame, o.views.B.subarray(slot, slot + SLOT_IP + frame.length), o.milliseconds());
		this.#requests.find(ifindex, frame.neighbour);
	}

	/**
	 * Takes the kernel's news of neighbours: fills hops, moves internal hosts, sends what waited. Frames go to the
	 * ports' queues.
	 */
	update(neighbours: Neighbour[]): void {
		for (const neighbour of neighbours) {
			if (neighbour.state === NUD.NONE) this.#requests.forgotten(neighbour.ifindex, neighbour.address);
			if (neighbour.ifindex === this.#owner.wanIndex()) {
				const n = this.#numbers.get(neighbour.address);
				if (n !== undefined) this.#learn(n, neighbour);
				else if (isUsable(neighbour)) this.#cache.delete(swap32(neighbour.address));
			}
			this.#internal.update(neighbour);
		}
		if (this.#waiting.count > 0) this.flush();
	}

	/** Sends frames whose neighbour has answered, gives up those that waited too long. */
	flush(): void {
		const o = this.#owner;
		const now = o.milliseconds();
		for (let n = this.#waiting.count - 1; n >= 0; n--) {
			const f = this.#waiting.at(n);
			const port = (o.hosts.W[f.host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
			const ifindex = f.wan ? o.wanIndex() : o.lanIndex(port);
			const known = o.kernel.neighbour(ifindex, f.neighbour);
			const usable = known !== undefined && isUsable(known);
			if (!usable && now < f.deadline) {
				// The kernel may have lost what it was asked for.
				this.#requests.find(ifindex, f.neighbour);
				continue;
			}
			const slot = this.#unpack(n);
			this.#waiting.remove(n);
			if (!usable) {
				o.dropped(f.wan ? REASON["no-next-hop"] : REASON["host-unreachable"], slot, f.wan ? 0 : -1);
				if (f.wan) o.undeliverable(slot, f.length, false);
				else o.undeliverableInternal(slot, f.length);
			} else if (f.wan) this.#sendTo(known, slot, f.length);
			else if (o.hosts.W[f.host * HOST_WORDS + HOST_ADDRESS] !== f.internal || !this.#internal.find(f.host))
				o.dropped(REASON["host-unreachable"], slot, -1);
			else this.#send(o.lan[port], slot, f.length, headerTag(HOST_HEADERS + f.host));
		}
	}

	/**
	 * Puts waiting frame number `n` into a slot of the frame buffer: that of its own number, unless another may be in a
	 * queue there.
	 */
	#unpack(n: number, spare = n): number {
		const o = this.#owner;
		const slot = o.spareSlot(spare);
		o.views.B.set(this.#waiting.bytes(n).subarray(0, SLOT_IP + this.#waiting.at(n).length), slot);
		return slot;
	}

	#send(link: Link, slot: number, length: number, tag: number): void {
		if (link.queue.push(slot, length, tag)) this.#owner.forwarded(link === this.#owner.wan);
		else this.#owner.dropped(REASON["queue-full"], slot, link === this.#owner.wan ? 0 : -1);
	}

	/** Frames waiting now. */
	get waiting(): number {
		return this.#waiting.count;
	}

	/** Gives up the frames that wait for a next hop of the WAN: they have an address that is not ours any more. */
	giveUp(): void {
		for (let n = this.#waiting.count - 1; n >= 0; n--) {
			if (!this.#waiting.at(n).wan) continue;
			this.#owner.dropped(REASON["no-external-address"], this.#unpack(n), 0);
			this.#waiting.remove(n);
		}
	}

	/**
	 * Forgets routes (they changed); hop numbers and MACs stay. With an address or a link the kernel may have lost what
	 * it was asked for.
	 */
	routesChanged(): void {
		this.#cache.clear();
		this.#readMtus();
		this.#requests.forget();
		this.#internal.routesChanged();
		for (let n = 0; n < this.#waiting.count; n++) {
			const waiting = this.#waiting.at(n);
			if (!waiting.wan) continue;
			// By its destination: the hop that it waits for may have been that of a route which has gone.
			const value = this.#waiting
				.bytes(n)
				.subarray(SLOT_IP + 16, SLOT_IP + 20)
				.reduce((word, byte) => word * 256 + byte, 0);
			waiting.neighbour = this.#owner.kernel.lookup(value)?.gateway || value;
			this.#requests.find(this.#owner.wanIndex(), waiting.neighbour);
		}
	}

	/** Forgets everything: the WAN device is another one. */
	reset(): void {
		this.#cache.clear();
		this.#numbers.clear();
		this.#addresses.fill(0);
		this.tags.fill(0);
		this.#freeAll();
	}

	/** An internal host has packets that do not come by here: its neighbour is to be confirmed. */
	inUse(host: number): void {
		this.#internal.confirm(host);
	}

	/** Once a second, between two batches: what is due by time alone. */
	everySecond(): void {
		this.#internal.everySecond();
		if (!this.#owner.wan.ethernet) return;
		this.#confirm();
		if (this.#freePeers.length < FEW || this.#freeGateways.length < FEW) this.#collect();
	}

	/**
	 * Asks the kernel now and then to confirm the hops, so that a dead gateway or a new MAC is noticed though the
	 * kernel sends it nothing.
	 */
	#confirm(): void {
		const o = this.#owner;
		const now = o.milliseconds();
		const due = Math.min(HOPS, Math.floor(((now - this.#confirmedAt) * HOPS) / CONFIRM));
		if (due === 0) return;
		this.#confirmedAt = now;
		for (let k = 0; k < due; k++) {
			this.#confirmed = (this.#confirmed + 1) % HOPS;
			const address = this.#addresses[this.#confirmed];
			if (address !== 0) this.#requests.confirm(o.wanIndex(), address);
		}
	}

	/**
	 * Takes back the numbers that no session has, of peers and of gateways that are none any more. No frame that is
	 * still to be sent may have one of them.
	 */
	#collect(): void {
		const o = this.#owner;
		const now = o.milliseconds();
		if (now < this.#collectAt || o.wan.queue.count > 0) return;
		const { table } = o;
		const used = new Uint8Array(HOPS + 1);
		for (let i = 1; i <= table.layout.sessions; i++) {
			const state = table.state(i);
			if (state !== FREE && state !== QUARANTINED) used[table.T[(i << RECORD_SHIFT) + R_META] >>> HOP_SHIFT] = 1;
		}
		let freed = 0;
		for (let n = 1; n < HOPS; n++) {
			const address = this.#addresses[n];
			if (address === 0 || used[n] === 1 || (n <= GATEWAYS && o.kernel.isGateway(o.wanIndex(), address))) continue;
			this.#numbers.delete(address);
			this.#addresses[n] = 0;
			this.tags[n] = 0;
			(n <= GATEWAYS ? this.#freeGateways : this.#freePeers).push(n);
			freed++;
		}
		if (freed > 0) this.#cache.clear();
		if (freed < FEW) this.#collectAt = now + COLLECT_AGAIN;
	}
}

/** Spare slots that {@link NextHopOwner.spareSlot} must provide, in bytes. */
export const SPARE_SLOTS = WAITING_MAX + 1;
export const SPARE_SLOT_SIZE = Math.min(SLOT_SIZE, WAITING_BYTES);
