/**
 * The router's side of PCP and NAT-PMP on a LAN device: requests to its own address at UDP port 5351 are read from, and answered by, a packet socket; the guard
 * keeps the kernel from refusing them.
 */
import * as native from "masq:native";
import { fold, sumOf } from "../packet/checksum.ts";
import { swap16, UDP } from "../packet/layout.ts";
import { ANNOUNCE, PCP_MAX, PCP_PORT, type PortAnswer, type PortRequest, readRequest, SUCCESS, writeAnswer } from "../packet/pcp.ts";
import { pcpFilter } from "./filter.ts";

const ETH_P_IP = 0x0800;
const IP = 14;
const DATA = IP + 28;
/** Requests answered per call, so that a storm can not hold up forwarding. */
const BUDGET = 16;
/** Where answers without a request go (RFC 6887 section 14.1). */
const ALL_HOSTS = [224, 0, 0, 1];
const ALL_HOSTS_MAC = [1, 0, 0x5e, 0, 0, 1];
const CLIENT_PORT = 5350;
/** How often such an answer is sent, and milliseconds until the second time; each pause is twice the one before (RFC 6886 section 3.2.1, RFC 6887 section 14.1.3). */
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

/** One socket for a LAN device. */
export class PcpResponder {
	readonly fd: native.Fd;
	readonly #handle: (q: PortRequest, source: number) => PortAnswer;
	readonly #epoch: () => number;
	readonly #buffer = new ArrayBuffer(DATA + PCP_MAX + 64);
	readonly #B = new Uint8Array(this.#buffer);
	readonly #H = new Uint16Array(this.#buffer);
	readonly #mac: Uint8Array;
	readonly #address: Uint8Array;

	/**
	 * @param address the router's address on the device, a dotted value
	 * @param mac the device's
	 * @param handle decides; takes the source address as a dotted value
	 * @param epoch seconds since the mappings began
	 */
	constructor(
		ifindex: number,
		address: number,
		mac: Uint8Array,
		handle: (q: PortRequest, source: number) => PortAnswer,
		epoch: () => number,
	) {
		this.#mac = mac.slice(0, 6);
		this.#address = Uint8Array.of(address >>> 24, (address >>> 16) & 255, (address >>> 8) & 255, address & 255);
		this.#handle = handle;
		this.#epoch = epoch;
		this.fd = native.etherOpen(ifindex, ETH_P_IP, pcpFilter(address));
	}

	/** Answers what has come. */
	serve(): void {
		const B = this.#B;
		for (let n = 0; n < BUDGET; n++) {
			let length: number;
			try {
				length = native.read(this.fd, this.#buffer, 0, DATA + PCP_MAX);
			} catch {
				return;
			}
			if (length <= 0) return;
			const stated = ((B[IP + 24] << 8) | B[IP + 25]) - 8;
			if (length < DATA || stated < 2 || DATA + stated > length) continue;
			const source = ((B[IP + 12] << 24) | (B[IP + 13] << 16) | (B[IP + 14] << 8) | B[IP + 15]) >>> 0;
			const q = readRequest(B, DATA, stated, source);
			if (q === -1) continue;
			const answer = typeof q === "number" ? { result: q, external: 0, port: 0, lifetime: 0 } : this.#handle(q, source);
			const bytes = writeAnswer(B, DATA, stated, q, answer, this.#epoch());
			B.copyWithin(0, 6, 12);
			B.copyWithin(IP + 16, IP + 12, IP + 16);
			B.copyWithin(IP + 22, IP + 20, IP + 22);
			this.#send(bytes);
		}
	}

	/**
	 * Tells all hosts that mappings may be lost (RFC 6887 section 14.1.3), and the external address (RFC 6886 section 3.2.1; a dotted value, 0 while there is
	 * none): each protocol's clients know by the epoch whether they have to ask again.
	 */
	announce(external: number): void {
		const B = this.#B;
		const answer = { result: SUCCESS, external, port: 0, lifetime: 0 };
		for (const version of external === 0 ? [2] : [2, 0]) {
			B.fill(0, 0, DATA + 24);
			B.set(ALL_HOSTS_MAC);
			B.set(ALL_HOSTS, IP + 16);
			B.set([CLIENT_PORT >> 8, CLIENT_PORT & 255], IP + 22);
			B[DATA] = version;
			B[DATA + 1] = ANNOUNCE;
			this.#send(writeAnswer(B, DATA, 24, SUCCESS, answer, this.#epoch()));
		}
	}

	#send(bytes: number): void {
		const B = this.#B;
		const H = this.#H;
		const total = 28 + bytes;
		B.set(this.#mac, 6);
		B.set([8, 0], 12);
		B.set([0x45, 0, total >> 8, total & 255, 0, 0, 0x40, 0, 64, UDP, 0, 0], IP);
		B.set(this.#address, IP + 12);
		H[(IP >> 1) + 5] = sumOf(H, B, IP, 20) ^ 0xffff;
		B.set([PCP_PORT >> 8, PCP_PORT & 255], IP + 20);
		B.set([(8 + bytes) >> 8, (8 + bytes) & 255, 0, 0], IP + 24);
		const pseudo = sumOf(H, B, IP + 12, 8) + swap16(UDP) + swap16(8 + bytes);
		H[(IP >> 1) + 13] = fold(sumOf(H, B, IP + 20, 8 + bytes) + fold(pseudo)) ^ 0xffff || 0xffff;
		try {
			native.write(this.fd, this.#buffer, 0, IP + total);
		} catch {
			// The device is going away; its notification will say so.
		}
	}

	close(): void {
		native.close(this.fd);
	}
}
