/**
 * The router's side of PCP and NAT-PMP: on each LAN device requests to one of its addresses at UDP port 5351 are read
 * from, and answered by, a packet socket; the guard keeps the kernel from refusing them.
 *
 * A mapping is made for the source of a request, so the source must be who it says: an address behind this very device,
 * not one of the router's own, and sent by the station that the kernel's neighbour table has for it (RFC 6887 section
 * 18.1.2: the simple threat model asks that no host can speak for another). A request whose sender the kernel does not
 * know yet, or only by hearsay, waits until the kernel has asked.
 */

import { fold, sumOf } from "../packet/checksum.ts";
import { ETH_P_IP, ETHER_HEADER, ETHER_SOURCE, ETHER_TYPE, MAC_BYTES } from "../packet/ethernet.ts";
import { DF_BYTE, INITIAL_TTL, IP_DESTINATION, IP_HEADER, IP_PLAIN_BYTE, IP_SOURCE, IP_SUM_H } from "../packet/ipv4.ts";
import { swap16, UDP } from "../packet/layout.ts";
import { type PortAnswer, type PortRequest, readRequest, writeAnswer } from "../packet/pcp.ts";
import { ANNOUNCE, PCP_MAX, PCP_PORT, SUCCESS } from "../packet/pcp-code.ts";
import { UDP_HEADER, UDP_LENGTH, UDP_SUM_H } from "../packet/udp.ts";
import { pcpFilter } from "./filter.ts";

const IP = ETHER_HEADER;
const L4 = IP + IP_HEADER;
const DATA = L4 + UDP_HEADER;
/** Requests answered per call, so that a storm cannot hold up forwarding. */
const BUDGET = 16;
/**
 * Requests that wait on a device until the kernel knows their senders, those of one station among them, and for how
 * many milliseconds; of more the oldest goes.
 */
const WAITING = 16;
const WAITING_OF_ONE = 4;
const PATIENCE_MS = 3000;
/**
 * Senders that the kernel is asked about in a second, and those of one station among them: each costs a message to the
 * kernel, and an ARP request.
 */
const ASKED = 16;
const ASKED_OF_ONE = 4;
/** Where answers without a request go (RFC 6887 section 14.1). */
const ALL_HOSTS = [224, 0, 0, 1];
const ALL_HOSTS_MAC = [1, 0, 0x5e, 0, 0, 1];
const CLIENT_PORT = 5350;
/**
 * How often such an answer is sent, and milliseconds until the second time; each pause is twice the one before (RFC
 * 6886 section 3.2.1, RFC 6887 section 14.1.3).
 */
const TIMES = 10;
const FIRST_PAUSE_MS = 250;

/** When answers without a request are due. Times are milliseconds of one clock. */
export class Announcements {
	/** Infinity while there is nothing to tell. */
	dueAt = Number.POSITIVE_INFINITY;
	#left = 0;
	#pause = 0;

	/** There is news, which is told at once and again. */
	begin(now: number): void {
		this.dueAt = now;
		this.#left = TIMES;
		this.#pause = FIRST_PAUSE_MS;
	}

	/** It has been told once more. */
	told(now: number): void {
		this.dueAt = --this.#left > 0 ? now + this.#pause : Number.POSITIVE_INFINITY;
		this.#pause *= 2;
	}
}

/** What the server asks of the daemon. */
export interface PcpOwner {
	/** Decides about a request; `source` is in host order, `port` the number of the LAN port that it came by. */
	handle(q: PortRequest, source: number, port: number): PortAnswer;
	/** Seconds since the mappings began. */
	epoch(): number;
	/**
	 * Who leads to a host behind a device, null if the kernel does not know; `sure` if it has been confirmed of late.
	 */
	neighbour(ifindex: number, host: number): { mac: Uint8Array; sure: boolean } | null;
	/** Has the kernel ask who leads to a host; what it learns comes by {@link PcpServer.neighbourChanged}. */
	ask(ifindex: number, host: number): void;
	/** Whether an address is one of the router's own. */
	isOwn(address: number): boolean;
	/** A request was dropped because its sender is not who it says. */
	spoofed(): void;
	/** One was dropped because too many come from senders that the kernel does not know. */
	crowded(): void;
	/** Milliseconds, for how long a request has waited. */
	milliseconds(): number;
}

/** A LAN device on which hosts may ask. */
export interface PcpPlace {
	/** Number of the LAN port. */
	port: number;
	ifindex: number;
	mac: Uint8Array;
	/** The router's addresses on it, host-order addresses. */
	addresses: readonly number[];
}

/** The system calls that a responder makes. */
export type PcpIo = Pick<typeof import("masq:native"), "etherOpen" | "read" | "write" | "close">;

/** A request that waits for its sender to be known. */
interface Waiting {
	frame: Uint8Array;
	station: string;
	/** When it came, in milliseconds. */
	since: number;
}

/** The socket of one LAN device. */
export class PcpResponder {
	/** -1 while the device is down. */
	fd = -1;
	readonly place: PcpPlace;
	readonly #io: PcpIo;
	readonly #owner: PcpOwner;
	readonly #buffer = new ArrayBuffer(DATA + PCP_MAX + 64);
	readonly #B = new Uint8Array(this.#buffer);
	readonly #H = new Uint16Array(this.#buffer);
	#waiting: Waiting[] = [];
	/** Whom the kernel has been asked about in this second. */
	#second = 0;
	#asked: { source: number; station: string }[] = [];

	constructor(io: PcpIo, owner: PcpOwner, place: PcpPlace) {
		this.#io = io;
		this.#owner = owner;
		this.place = place;
	}

	/** Opens the socket if it is not open; a device that is down or has gone is left for later. */
	open(): void {
		if (this.fd >= 0) return;
		try {
			this.fd = this.#io.etherOpen(this.place.ifindex, ETH_P_IP, pcpFilter(this.place.addresses));
		} catch {
			// The kernel tells when it is up, or that it has gone.
		}
	}

	/** Answers what has come. */
	serve(): void {
		for (let n = 0; n < BUDGET && this.fd >= 0; n++) {
			let length: number;
			try {
				length = this.#io.read(this.fd, this.#buffer, 0, DATA + PCP_MAX);
			} catch {
				return;
			}
			if (length <= 0) return;
			this.#judge(length, this.#owner.milliseconds(), false);
		}
	}

	/** The kernel has learned something of a host, or of who leads to some: what waits is judged again. */
	neighbourChanged(): void {
		const now = this.#owner.milliseconds();
		const waiting = this.#waiting;
		this.#waiting = [];
		for (const { frame, since } of waiting) {
			if (now - since > PATIENCE_MS) continue;
			this.#B.set(frame);
			this.#judge(frame.length, since, true);
		}
	}

	/**
	 * The frame of `length` bytes in the buffer, which came at `since` and may have `waited`: answered, kept for later,
	 * or dropped.
	 */
	#judge(length: number, since: number, waited: boolean): void {
		const B = this.#B;
		const owner = this.#owner;
		const { ifindex, port, addresses } = this.place;
		const stated = ((B[L4 + UDP_LENGTH] << 8) | B[L4 + UDP_LENGTH + 1]) - UDP_HEADER;
		if (length < DATA || stated < 2 || DATA + stated > length) return;
		const source = addressAt(B, IP + IP_SOURCE);
		if (!addresses.includes(addressAt(B, IP + IP_DESTINATION))) return;
		const q = readRequest(B, DATA, stated, source);
		if (q === -1) return;
		const known = owner.isOwn(source) ? null : owner.neighbour(ifindex, source);
		const same = known?.mac.every((byte, n) => byte === B[ETHER_SOURCE + n]);
		if (owner.isOwn(source) || (known?.sure && !same)) {
			owner.spoofed();
			return;
		}
		if (!same) {
			this.#wait(source, length, since, waited);
			return;
		}
		const answer = typeof q === "number" ? { result: q, external: 0, port: 0, lifetime: 0 } : owner.handle(q, source, port);
		const bytes = writeAnswer(B, DATA, stated, q, answer, owner.epoch());
		B.copyWithin(0, 6, 12);
		const router = B.slice(IP + IP_DESTINATION, IP + 20);
		B.copyWithin(IP + IP_DESTINATION, IP + IP_SOURCE, IP + IP_DESTINATION);
		B.copyWithin(IP + 22, IP + 20, IP + 22);
		this.#send(bytes, router);
	}

	/** Keeps the frame in the buffer until the kernel has found out who its sender is. */
	#wait(source: number, length: number, since: number, waited: boolean): void {
		const frame = this.#B.slice(0, length);
		const station = frame.subarray(6, 12).join();
		const second = Math.floor(this.#owner.milliseconds() / 1000);
		if (second !== this.#second) this.#asked = [];
		this.#second = second;
		if (!waited && !this.#asked.some((one) => one.source === source)) {
			if (this.#asked.length >= ASKED || ofOne(this.#asked, station) >= ASKED_OF_ONE) return this.#owner.crowded();
			this.#asked.push({ source, station });
			this.#owner.ask(this.place.ifindex, source);
		}
		const crowd = ofOne(this.#waiting, station) >= WAITING_OF_ONE;
		if (crowd || this.#waiting.length >= WAITING) {
			this.#waiting.splice(crowd ? this.#waiting.findIndex((one) => one.station === station) : 0, 1);
			this.#owner.crowded();
		}
		this.#waiting.push({ frame, station, since });
	}

	/**
	 * Tells all hosts that mappings may be lost (RFC 6887 section 14.1.3), and the external address (RFC 6886 section
	 * 3.2.1; a host-order address, 0 while there is none): each protocol's clients know by the epoch whether they have
	 * to ask again.
	 */
	announce(external: number): void {
		const B = this.#B;
		const answer = { result: SUCCESS, external, port: 0, lifetime: 0 };
		for (const address of this.place.addresses) {
			for (const version of external === 0 ? [2] : [2, 0]) {
				B.fill(0, 0, DATA + 24);
				B.set(ALL_HOSTS_MAC);
				B.set(ALL_HOSTS, IP + IP_DESTINATION);
				B.set([CLIENT_PORT >> 8, CLIENT_PORT & 255], IP + 22);
				B[DATA] = version;
				B[DATA + 1] = ANNOUNCE;
				const bytes = writeAnswer(B, DATA, 24, SUCCESS, answer, this.#owner.epoch());
				this.#send(bytes, [address >>> 24, (address >>> 16) & 255, (address >>> 8) & 255, address & 255]);
			}
		}
	}

	#send(bytes: number, router: ArrayLike<number>): void {
		const B = this.#B;
		const H = this.#H;
		const total = IP_HEADER + UDP_HEADER + bytes;
		B.set(this.place.mac.subarray(0, MAC_BYTES), ETHER_SOURCE);
		B.set([ETH_P_IP >> 8, 0], ETHER_TYPE);
		B.set([IP_PLAIN_BYTE, 0, total >> 8, total & 255, 0, 0, DF_BYTE, 0, INITIAL_TTL, UDP, 0, 0], IP);
		B.set(router, IP + IP_SOURCE);
		H[(IP >> 1) + IP_SUM_H] = sumOf(H, B, IP, IP_HEADER) ^ 0xffff;
		B.set([PCP_PORT >> 8, PCP_PORT & 255], L4);
		B.set([(UDP_HEADER + bytes) >> 8, (UDP_HEADER + bytes) & 255, 0, 0], L4 + UDP_LENGTH);
		const pseudo = sumOf(H, B, IP + IP_SOURCE, 8) + swap16(UDP) + swap16(UDP_HEADER + bytes);
		H[(L4 >> 1) + UDP_SUM_H] = fold(sumOf(H, B, L4, UDP_HEADER + bytes) + fold(pseudo)) ^ 0xffff || 0xffff;
		if (this.fd < 0) return;
		try {
			this.#io.write(this.fd, this.#buffer, 0, IP + total);
		} catch {
			// The device is going away; its notification will say so.
		}
	}

	close(): void {
		const { fd } = this;
		this.fd = -1;
		if (fd >= 0) this.#io.close(fd);
	}
}

/** The responders of all LAN devices on which hosts may ask. */
export class PcpServer {
	responders: readonly PcpResponder[] = [];
	readonly #io: PcpIo;
	readonly #owner: PcpOwner;

	constructor(io: PcpIo, owner: PcpOwner) {
		this.#io = io;
		this.#owner = owner;
	}

	/**
	 * Is to answer at these places from now on; the sockets of those that are as before stay, those of devices that
	 * were down are tried again.
	 *
	 * @returns true if there was none before and there is now.
	 */
	follow(places: readonly PcpPlace[]): boolean {
		const before = this.responders;
		const textOf = (p: PcpPlace) => JSON.stringify([p.port, p.ifindex, p.addresses, [...p.mac]]);
		const known = new Map(before.map((responder) => [textOf(responder.place), responder]));
		this.responders = places.map((place) => known.get(textOf(place)) ?? new PcpResponder(this.#io, this.#owner, place));
		for (const responder of before) if (!this.responders.includes(responder)) responder.close();
		for (const responder of this.responders) responder.open();
		return before.length === 0 && places.length > 0;
	}

	/** A neighbour of a device has changed. */
	neighbourChanged(ifindex: number): void {
		for (const responder of this.responders) if (responder.place.ifindex === ifindex) responder.neighbourChanged();
	}

	/** As {@link PcpResponder.announce}, everywhere. */
	announce(external: number): void {
		for (const responder of this.responders) responder.announce(external);
	}

	close(): void {
		for (const responder of this.responders) responder.close();
		this.responders = [];
	}
}

function ofOne(list: readonly { station: string }[], station: string): number {
	return list.reduce((sum, one) => sum + Number(one.station === station), 0);
}

function addressAt(B: Uint8Array, at: number): number {
	return ((B[at] << 24) | (B[at + 1] << 16) | (B[at + 2] << 8) | B[at + 3]) >>> 0;
}
