/**
 * Where frames for internal hosts go (packet driver: masqd writes the link header itself).
 *
 * Theory of operation. A host's link header has the host record's number. What it says is what the kernel's neighbour
 * table says of the host, or of the LAN router that leads to it, so it follows a gratuitous ARP, a failover and a
 * static entry as the kernel does. Only a host of which the kernel knows nothing is believed for the moment
 * (HOST_HEARD): its own frame tells its MAC, and the kernel is asked at once. Another MAC under its address changes
 * nothing, unless the kernel has asked in vain: so one forged frame does not turn a host's traffic away. A host that is
 * silent to ARP goes on to be reached as it was heard.
 *
 * To have hosts confirmed that are in use, and only those, HOST_FRESH is taken from all now and then: the next frame
 * for a host comes here, asks the kernel to confirm the neighbour, and goes on its way. Of sessions that go by the
 * offload its sweep tells.
 */

import { HOST_ADDRESS, HOST_FRESH, HOST_HEARD, HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS } from "../conntrack/record.ts";
import { isUsable, type Neighbour } from "../kernel/mirror.ts";
import { lanOf } from "../nat/context.ts";
import { NUD } from "../netlink/route.ts";
import { HOST_HEADERS } from "../packet/header-tag.ts";
import { addressValue, SLOT_ETHER, swap32 } from "../packet/layout.ts";
import type { NeighbourRequests } from "./neighbour-requests.ts";
import type { NextHopOwner } from "./next-hop-owner.ts";

/** Milliseconds after which a host in use is looked at again. */
const FRESH_FOR = 10_000;

/** The internal hosts' link headers. */
export class InternalNeighbours {
	readonly #owner: NextHopOwner;
	readonly #requests: NeighbourRequests;
	#sweepAt = 0;

	constructor(owner: NextHopOwner, requests: NeighbourRequests) {
		this.#owner = owner;
		this.#requests = requests;
	}

	/**
	 * Address (host order) of the neighbour that leads to an internal host: its own, or that of a router of the LAN.
	 */
	leadsTo(host: number): number {
		const o = this.#owner;
		const address = addressValue(o.hosts.W[host * HOST_WORDS + HOST_ADDRESS]);
		const route = o.kernel.lookup(address);
		return route !== null && route.ifindex === o.lanIndex(this.#portOf(host)) && route.gateway !== 0 ? route.gateway : address;
	}

	/**
	 * A host's own frame in `slot` came by LAN port `port`: the kernel is asked whether its MAC is the one that leads
	 * there.
	 */
	heard(host: number, port: number, slot: number): void {
		const o = this.#owner;
		o.hosts.assign(host, port);
		const ifindex = o.lanIndex(port);
		const address = this.leadsTo(host);
		const known = o.kernel.neighbour(ifindex, address);
		if (known !== undefined && isUsable(known)) {
			this.#place(host, port, known);
			this.#requests.confirm(ifindex, address);
			return;
		}
		const before = (o.hosts.W[host * HOST_WORDS + HOST_PLACE] & HOST_HEARD) !== 0;
		if (!before || known?.state === NUD.FAILED) o.headers.set(HOST_HEADERS + host, o.views.B, slot + SLOT_ETHER + 6, o.lan[port].mac);
		o.hosts.place(host, port, true);
		this.#requests.find(ifindex, address);
	}

	/** True if a host's link header leads to it; else the kernel has been asked to find it. */
	find(host: number): boolean {
		const o = this.#owner;
		const port = this.#portOf(host);
		const ifindex = o.lanIndex(port);
		const address = this.leadsTo(host);
		const known = o.kernel.neighbour(ifindex, address);
		if (known !== undefined && isUsable(known)) {
			this.#place(host, port, known);
			this.#requests.confirm(ifindex, address);
			return true;
		}
		this.#requests.find(ifindex, address);
		if ((o.hosts.W[host * HOST_WORDS + HOST_PLACE] & HOST_HEARD) === 0) return false;
		o.hosts.place(host, port, true);
		return true;
	}

	/** Has the neighbour of a host in use confirmed. */
	confirm(host: number): void {
		this.#requests.confirm(this.#owner.lanIndex(this.#portOf(host)), this.leadsTo(host));
	}

	/** Takes the kernel's news of a neighbour. */
	update(neighbour: Neighbour): void {
		const o = this.#owner;
		const internal = swap32(neighbour.address);
		// Where its address says it is: a host behind a TUN device never moves to the tap that shares its device, nor
		// to another LAN whose machines say they are it.
		const port = lanOf(o.lan, internal);
		if (port >= 0 && neighbour.ifindex === o.lanIndex(port) && o.lan[port].ethernet) {
			const host = o.hosts.find(internal);
			if (host !== 0 && this.leadsTo(host) === neighbour.address) this.#follow(host, port, neighbour);
		}
		// A router of the LAN: what is behind it has its MAC.
		if (!o.kernel.isGateway(neighbour.ifindex, neighbour.address)) return;
		for (let host = 1; host << 2 < o.hosts.W.length; host++) {
			if (o.hosts.W[host * HOST_WORDS] === 0) continue;
			const at = this.#portOf(host);
			if (o.lanIndex(at) === neighbour.ifindex && o.lan[at].ethernet && this.leadsTo(host) === neighbour.address)
				this.#follow(host, at, neighbour);
		}
	}

	/** Once a second: who is in use is to be looked at again. */
	everySecond(): void {
		const o = this.#owner;
		const now = o.milliseconds();
		if (now < this.#sweepAt) return;
		this.#sweepAt = now + FRESH_FOR;
		this.#lookAgain();
	}

	/** Routes changed: hosts may be behind another neighbour. */
	routesChanged(): void {
		this.#lookAgain();
	}

	#lookAgain(): void {
		const { hosts, lan } = this.#owner;
		const { W } = hosts;
		for (let w = HOST_PLACE + 4; w < W.length; w += 4) {
			if ((W[w] & HOST_FRESH) !== 0 && lan[(W[w] >>> HOST_PORT_SHIFT) & 0xff]?.ethernet) W[w] &= ~HOST_FRESH;
		}
	}

	#follow(host: number, port: number, neighbour: Neighbour): void {
		const { hosts, headers } = this.#owner;
		if (isUsable(neighbour)) this.#place(host, port, neighbour);
		else if ((hosts.W[host * HOST_WORDS + HOST_PLACE] & HOST_HEARD) === 0) {
			hosts.lose(host);
			headers.lost(HOST_HEADERS + host);
		}
	}

	#place(host: number, port: number, neighbour: Neighbour): void {
		const { hosts, headers, lan } = this.#owner;
		headers.set(HOST_HEADERS + host, neighbour.mac as Uint8Array, 0, lan[port].mac);
		hosts.place(host, port);
	}

	#portOf(host: number): number {
		return (this.#owner.hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
	}
}
