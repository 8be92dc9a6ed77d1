/**
 * Next hops of the WAN port and the frames that wait for a neighbour to answer (packet driver: masqd writes the link header itself).
 *
 * Theory of operation. Every gateway or on-link peer in use has a small number, which the session record carries; its MAC stands in the
 * link header table, and its tag in an array that the fast loops read, 0 while it is not known. The kernel resolves and confirms neighbours (KernelView.resolve), its notifications fill
 * both. A device without link header has one hop, number 1, that is always good. Hop 0 is for destinations beyond the 255th next
 * hop: their frames go through {@link NextHopTable.hold} one by one. Inside hosts are found the same way until they send a frame.
 */

import type { Hosts } from "../conntrack/hosts.ts";
import { HOST_ADDRESS, HOST_PLACE, HOST_PORT_SHIFT } from "../conntrack/record.ts";
import { ELSEWHERE, HAIRPIN, inNets, type LanLink, type Link, type NextHops, NO_ROUTE } from "../nat/context.ts";
import { REASON } from "../nat/reason.ts";
import { addressValue, SLOT_ETHER, SLOT_IP, SLOT_SIZE, swap32, type Views } from "../packet/layout.ts";
import { HOST_HEADERS, headerTag, type LinkHeaders } from "../packet/link-header.ts";
import { isUsable, type KernelView, type Neighbour } from "./kernel-view.ts";

/** Numbers of next hops: the last is HAIRPIN. */
const HOPS = HAIRPIN;
/** Frames that may wait, and the longest of them that is kept. */
const WAITING_MAX = 32;
const WAITING_BYTES = 2048;
/** Milliseconds after which a waiting frame is given up: the kernel's three ARP requests take as long. */
const PATIENCE = 3000;
/** Milliseconds between two confirmations of a hop in use. */
const CONFIRM = 30_000;
/** Milliseconds between two requests to the kernel about one neighbour. */
const ASK_AGAIN = 1000;

interface Waiting {
	/** Next hop number, or -1 for an inside host. */
	hop: number;
	/** Neighbour's address, dotted value. */
	neighbour: number;
	host: number;
	/** Address of the inside host, to see that the record is still its. */
	inside: number;
	length: number;
	deadline: number;
}

/** What the table needs of the rest of the daemon. */
export interface NextHopOwner {
	readonly kernel: KernelView;
	readonly views: Views;
	readonly hosts: Hosts;
	readonly headers: LinkHeaders;
	readonly wan: Link;
	readonly lan: LanLink[];
	/** Counts and remembers a frame in a slot that is dropped; `port` is the LAN port it came from, -1 for the WAN. */
	dropped(reason: number, slot: number, port: number): void;
	/** Counts a frame that was held and is now handed to the WAN (true) or a LAN port. */
	forwarded(out: boolean): void;
	/** A translated packet in a slot was given up: there is no route any more (`lost`), or the next hop did not answer. */
	undeliverable(slot: number, length: number, lost: boolean): void;
	/** Device of the WAN port and of a LAN port; 0 while it is not there. */
	wanIndex(): number;
	lanIndex(port: number): number;
	/** Milliseconds now. */
	milliseconds(): number;
	/** A slot of the frame buffer that no batch uses, by number 0..WAITING_MAX-1: a waiting frame is put there to be sent. */
	spareSlot(n: number): number;
}

/** Implements {@link NextHops} over the kernel's neighbour table. */
export class NextHopTable implements NextHops {
	readonly tags = new Int32Array(HOPS + 1);
	readonly #owner: NextHopOwner;
	/** Neighbour's address (dotted value) by hop number; index 0 unused. */
	readonly #addresses: number[] = [0];
	readonly #numbers = new Map<number, number>();
	/** Hop numbers by destination (as loaded), a cache over the routing table. */
	readonly #cache = new Map<number, number>();
	readonly #waiting: Waiting[] = [];
	readonly #store = new Uint8Array(WAITING_MAX * WAITING_BYTES);
	/** When each neighbour was last asked for, in milliseconds. */
	readonly #asked = new Map<number, number>();
	#confirmAt = 0;

	constructor(owner: NextHopOwner) {
		this.#owner = owner;
	}

	find(destination: number): number {
		const known = this.#cache.get(destination);
		if (known !== undefined) return known;
		const found = this.#route(destination);
		if (this.#cache.size >= 4096) this.#cache.clear();
		this.#cache.set(destination, found);
		return found;
	}

	/** As {@link find}, but nothing changes and nobody is asked: 0 stands for a hop that has no number yet. */
	peek(destination: number): number {
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

	/** Address of the next hop (dotted value), or {@link NO_ROUTE} or {@link ELSEWHERE}. */
	#target(destination: number): number {
		const { kernel } = this.#owner;
		const value = addressValue(destination);
		const route = kernel.lookup(value);
		if (route === null || route.ifindex === 0) return NO_ROUTE;
		if (route.ifindex !== this.#owner.wanIndex() || kernel.isLocal(value) || kernel.isBroadcast(value)) return ELSEWHERE;
		return route.gateway || value;
	}

	#number(address: number): number {
		const known = this.#numbers.get(address);
		if (known !== undefined) return known;
		if (this.#addresses.length === HOPS) return 0;
		const n = this.#addresses.length;
		this.#addresses.push(address);
		this.#numbers.set(address, n);
		const neighbour = this.#owner.kernel.neighbour(this.#owner.wanIndex(), address);
		if (neighbour !== undefined) this.#learn(n, neighbour);
		if (this.tags[n] === 0) this.#ask(this.#owner.wanIndex(), address);
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

	#ask(ifindex: number, address: number): void {
		if (ifindex === 0) return;
		const now = this.#owner.milliseconds();
		if (now - (this.#asked.get(address) ?? Number.NEGATIVE_INFINITY) < ASK_AGAIN) return;
		if (this.#asked.size >= HOPS * 4) this.#asked.clear();
		this.#asked.set(address, now);
		try {
			this.#owner.kernel.resolve(ifindex, address);
		} catch {
			// The device is going away; its notification will say so.
		}
	}

	hold(hop: number, slot: number, length: number): void {
		const { views } = this.#owner;
		if (hop === 0 && this.find(views.P[(slot + SLOT_IP + 16) >> 2]) === NO_ROUTE) {
			this.#owner.dropped(REASON["no-route"], slot, 0);
			return this.#owner.undeliverable(slot, length, true);
		}
		const address = hop > 0 ? this.#addresses[hop] : this.#gatewayOf(views.P[(slot + SLOT_IP + 16) >> 2]);
		this.#keep(slot, length, { hop, neighbour: address, host: 0, inside: 0 }, this.#owner.wanIndex(), REASON["no-next-hop"]);
	}

	#gatewayOf(destination: number): number {
		const value = addressValue(destination);
		return this.#owner.kernel.lookup(value)?.gateway || value;
	}

	holdInside(host: number, slot: number, length: number): void {
		const { hosts, lan } = this.#owner;
		const inside = hosts.W[host * 4 + HOST_ADDRESS];
		const address = addressValue(inside);
		const port = (hosts.W[host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
		const ifindex = this.#owner.lanIndex(port);
		const route = this.#owner.kernel.lookup(address);
		const neighbour = route !== null && route.ifindex === ifindex && route.gateway !== 0 ? route.gateway : address;
		const known = this.#owner.kernel.neighbour(ifindex, neighbour);
		if (known !== undefined && isUsable(known)) {
			this.#place(host, port, known);
			this.#send(lan[port], slot, length, headerTag(HOST_HEADERS + host));
			return;
		}
		this.#keep(slot, length, { hop: -1, neighbour, host, inside }, ifindex, REASON["host-unreachable"]);
	}

	#keep(slot: number, length: number, who: Pick<Waiting, "hop" | "neighbour" | "host" | "inside">, ifindex: number, reason: number): void {
		if (this.#waiting.length === WAITING_MAX || length + SLOT_IP > WAITING_BYTES) {
			this.#owner.dropped(reason, slot, who.hop < 0 ? -1 : 0);
			this.#ask(ifindex, who.neighbour);
			return;
		}
		const n = this.#waiting.length;
		this.#store.set(this.#owner.views.B.subarray(slot, slot + SLOT_IP + length), n * WAITING_BYTES);
		this.#waiting.push({ ...who, length, deadline: this.#owner.milliseconds() + PATIENCE });
		this.#ask(ifindex, who.neighbour);
	}

	/** Takes the kernel's news of neighbours: fills hops, moves inside hosts, sends what waited. Frames go to the ports' queues. */
	update(neighbours: Neighbour[]): void {
		const o = this.#owner;
		for (const neighbour of neighbours) {
			if (neighbour.ifindex === o.wanIndex()) {
				const n = this.#numbers.get(neighbour.address);
				if (n !== undefined) this.#learn(n, neighbour);
			}
			if (!isUsable(neighbour)) continue;
			const inside = swap32(neighbour.address);
			const port = this.#homeOf(inside);
			if (port < 0 || neighbour.ifindex !== o.lanIndex(port) || !o.lan[port].ethernet) continue;
			const host = o.hosts.find(inside);
			if (host !== 0) this.#place(host, port, neighbour);
		}
		if (this.#waiting.length > 0) this.flush();
	}

	/**
	 * Number of the LAN port that an address belongs to, -1 for none. Never that of a tap, which shares its device with a tun port: a host behind the TUN device is the
	 * kernel's to deliver to, and what another LAN's machine says it is does not move it there.
	 */
	#homeOf(inside: number): number {
		const { lan } = this.#owner;
		for (let port = 0; port < lan.length; port++) if (lan[port].home === port && inNets(lan[port].nets, inside)) return port;
		return -1;
	}

	/** Sends frames whose neighbour has answered, gives up those that waited too long. */
	flush(): void {
		const o = this.#owner;
		const now = o.milliseconds();
		for (let n = this.#waiting.length - 1; n >= 0; n--) {
			const f = this.#waiting[n];
			const ifindex = f.hop >= 0 ? o.wanIndex() : o.lanIndex((o.hosts.W[f.host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff);
			const known = o.kernel.neighbour(ifindex, f.neighbour);
			const usable = known !== undefined && isUsable(known);
			if (!usable && now < f.deadline) continue;
			const slot = this.#unpack(n);
			if (!usable) {
				o.dropped(f.hop >= 0 ? REASON["no-next-hop"] : REASON["host-unreachable"], slot, f.hop >= 0 ? 0 : -1);
				if (f.hop >= 0) o.undeliverable(slot, f.length, false);
			} else if (f.hop >= 0) {
				// The hop may have no number (0) or another one by now: the header goes into the slot itself.
				o.views.B.set(known.mac as Uint8Array, slot + SLOT_ETHER);
				o.views.B.set(o.wan.mac, slot + SLOT_ETHER + 6);
				o.views.B.set([0x08, 0x00], slot + SLOT_ETHER + 12);
				this.#send(o.wan, slot, f.length, 0);
			} else if (o.hosts.W[f.host * 4 + HOST_ADDRESS] === f.inside) {
				const port = (o.hosts.W[f.host * 4 + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
				this.#place(f.host, port, known);
				this.#send(o.lan[port], slot, f.length, headerTag(HOST_HEADERS + f.host));
			}
			this.#remove(n);
		}
	}

	/** Puts waiting frame number `n` into a slot of the frame buffer. */
	#unpack(n: number): number {
		const o = this.#owner;
		const slot = o.spareSlot(n);
		o.views.B.set(this.#store.subarray(n * WAITING_BYTES, n * WAITING_BYTES + SLOT_IP + this.#waiting[n].length), slot);
		return slot;
	}

	#send(link: Link, slot: number, length: number, tag: number): void {
		if (link.queue.push(slot, length, tag)) this.#owner.forwarded(link === this.#owner.wan);
		else this.#owner.dropped(REASON["queue-full"], slot, link === this.#owner.wan ? 0 : -1);
	}

	/** Frames waiting now. */
	get waiting(): number {
		return this.#waiting.length;
	}

	#remove(n: number): void {
		const last = this.#waiting.pop() as Waiting;
		if (n === this.#waiting.length) return;
		const from = this.#waiting.length * WAITING_BYTES;
		this.#store.copyWithin(n * WAITING_BYTES, from, from + WAITING_BYTES);
		this.#waiting[n] = last;
	}

	#place(host: number, port: number, neighbour: Neighbour): void {
		const { hosts, headers, lan } = this.#owner;
		headers.set(HOST_HEADERS + host, neighbour.mac as Uint8Array, 0, lan[port].mac);
		hosts.place(host, port);
	}

	/** Gives up the frames that wait for a next hop of the WAN: they have an address that is not ours any more. */
	giveUp(): void {
		for (let n = this.#waiting.length - 1; n >= 0; n--) {
			if (this.#waiting[n].hop < 0) continue;
			this.#owner.dropped(REASON["no-external-address"], this.#unpack(n), 0);
			this.#remove(n);
		}
	}

	/** Forgets routes (they changed); hop numbers and MACs stay. With an address or a link the kernel may have lost what it was asked for. */
	routesChanged(): void {
		this.#cache.clear();
		this.#asked.clear();
		for (const [n, waiting] of this.#waiting.entries()) {
			if (waiting.hop < 0) continue;
			// By its destination: the hop that it waits for may have been that of a route which has gone.
			const at = n * WAITING_BYTES + SLOT_IP + 16;
			const value = this.#store.subarray(at, at + 4).reduce((word, byte) => word * 256 + byte, 0);
			waiting.neighbour = this.#owner.kernel.lookup(value)?.gateway || value;
			this.#ask(this.#owner.wanIndex(), waiting.neighbour);
		}
	}

	/** Forgets everything: the WAN device is another one. */
	reset(): void {
		this.#cache.clear();
		this.#numbers.clear();
		this.#addresses.length = 1;
		this.tags.fill(0);
	}

	/** Asks the kernel now and then to confirm the hops, so that a dead gateway or a new MAC is noticed though the kernel sends it nothing. */
	confirm(): void {
		const now = this.#owner.milliseconds();
		if (now < this.#confirmAt || !this.#owner.wan.ethernet) return;
		this.#confirmAt = now + CONFIRM;
		for (let n = 1; n < this.#addresses.length; n++) this.#ask(this.#owner.wanIndex(), this.#addresses[n]);
	}
}

/** Spare slots that {@link NextHopOwner.spareSlot} must provide, in bytes. */
export const SPARE_SLOTS = WAITING_MAX;
export const SPARE_SLOT_SIZE = Math.min(SLOT_SIZE, WAITING_BYTES);
