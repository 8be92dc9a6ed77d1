/**
 * Flows of the router itself from the address that masqd shares with it. The kernel knows them, and is asked: seldom,
 * because each question takes some microseconds.
 */
import { TCP, UDP } from "../packet/layout.ts";
import type { Context } from "./context.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";

/**
 * Refused packets a second of which the kernel is asked whether they were for itself; beyond that they count as
 * nobody's.
 */
const ASKED_A_SECOND = 256;
/** Seconds after an answer to such a flow for which new mappings keep clear of them. */
const SHARED_SECONDS = 7440;

/** Asks about the router's own flows. */
export class RouterFlows {
	readonly #c: Context;
	/** Questions asked in second {@link #askedAt}. */
	#asked = 0;
	#askedAt = 0;
	/** Second until which the router is known to have flows from ports of ours. */
	until = 0;

	constructor(c: Context) {
		this.#c = c;
	}

	/** True if a packet to our own address is the answer in such a flow. */
	isAnswer(p: PacketDescriptor): boolean {
		const c = this.#c;
		if (!c.kernelShare.hasFlow(p.protocol, p.peer, p.peerPort, p.externalPort)) return false;
		this.until = c.now + SHARED_SECONDS;
		return true;
	}

	/** The same of a packet that nothing lets in, as far as the kernel may be asked now. */
	claims(p: PacketDescriptor): boolean {
		const { now } = this.#c;
		if (p.external !== 0 || p.hairpin || (p.protocol !== TCP && p.protocol !== UDP)) return false;
		if (now !== this.#askedAt) {
			this.#askedAt = now;
			this.#asked = 0;
		}
		if (this.#asked === ASKED_A_SECOND) return false;
		this.#asked++;
		return this.isAnswer(p);
	}

	/** True if the router has a flow from this port of its own address (raw) to the peer of a packet. */
	has(p: PacketDescriptor, port: number): boolean {
		const c = this.#c;
		return c.now < this.until && c.kernelShare.hasFlow(p.protocol, p.peer, p.peerPort, port);
	}
}
