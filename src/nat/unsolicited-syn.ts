/**
 * The six seconds of silence on an unsolicited SYN (RFC 5382 REQ-4): it is kept, and answered with an ICMP error only
 * if the inside has not opened that connection itself meanwhile (simultaneous open). Few are kept; in a flood the
 * others are dropped without an answer.
 */

import { PORT_UNREACHABLE } from "../packet/icmp.ts";
import { IP_DESTINATION_W, IP_SOURCE_W, PLAIN_PORTS_W } from "../packet/ipv4.ts";
import { IP_WORD, SLOT_IP, secondOf, swap16, TCP } from "../packet/layout.ts";
import type { Context } from "./context.ts";
import type { FragmentPool } from "./fragment-pool.ts";
import type { IcmpSender } from "./icmp-error.ts";

const KEPT = 32;
/** Bytes of the packet: the longest SYN without data. */
const BYTES = 120;
const STRIDE = 160;
/** Whole seconds later that are never less than six. */
const PATIENCE = 7;

/** The SYNs that are kept. */
export class UnsolicitedSyns {
	readonly #c: Context;
	readonly #fragments: FragmentPool;
	readonly #errors: IcmpSender;
	readonly #store = new Uint8Array(KEPT * STRIDE);
	/** By entry: bytes of the packet (0: free), peer, ports, second in which it is due. */
	readonly #entries = new Int32Array(KEPT * 4);
	waiting = 0;

	constructor(c: Context, fragments: FragmentPool, errors: IcmpSender) {
		this.#c = c;
		this.#fragments = fragments;
		this.#errors = errors;
	}

	/** Keeps the SYN in slot `s` (`length` bytes, no IP options); a repeated one, or one too many, is not kept. */
	add(s: number, length: number): void {
		const { views, policy, now } = this.#c;
		if (!policy.rejectSyn || this.waiting === KEPT) return;
		const { P, B } = views;
		const w = (s >> 2) + IP_WORD;
		if ((B[s + SLOT_IP] & 15) !== 5) return;
		const E = this.#entries;
		let free = -1;
		for (let k = 0; k < KEPT; k++) {
			if (E[k * 4] === 0) free = k;
			else if (E[k * 4 + 1] === P[w + IP_SOURCE_W] && E[k * 4 + 2] === P[w + PLAIN_PORTS_W]) return;
		}
		const bytes = Math.min(length, BYTES);
		this.#store.set(B.subarray(s, s + SLOT_IP + bytes), free * STRIDE);
		E.set([bytes, P[w + IP_SOURCE_W], P[w + PLAIN_PORTS_W], now + PATIENCE], free * 4);
		this.waiting++;
	}

	/** Answers what is due; once a second. */
	expire(): void {
		if (this.waiting === 0) return;
		const c = this.#c;
		const { P, B } = c.views;
		const E = this.#entries;
		for (let k = 0; k < KEPT; k++) {
			const bytes = E[k * 4];
			if (bytes === 0 || c.now < E[k * 4 + 3]) continue;
			E[k * 4] = 0;
			this.waiting--;
			const s = this.#fragments.borrow(576);
			if (s < 0) continue;
			B.set(this.#store.subarray(k * STRIDE, k * STRIDE + SLOT_IP + bytes), s);
			const w = (s >> 2) + IP_WORD;
			const external = c.externals.find(P[w + IP_DESTINATION_W]);
			// A service that the router has opened meanwhile has answered, or will.
			if (c.kernelShare.hasPort(TCP, swap16(secondOf(P[w + PLAIN_PORTS_W])))) continue;
			if (external >= 0 && c.table.findIn(TCP, P[w + IP_SOURCE_W], P[w + IP_DESTINATION_W], external, P[w + PLAIN_PORTS_W]) === 0)
				this.#errors.send(s, bytes, -1, PORT_UNREACHABLE);
		}
	}
}
