/**
 * Packets of internal hosts to one of our own addresses (RFC 4787 REQ-9): translated on their way out they turn around
 * and are inbound ones.
 *
 * Fragments turn one by one, as they come out of the pool: the first tells the session, and the others are known by its
 * identification.
 */

import { R_PACKETS_IN, R_PACKETS_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import { IP_FLAGS_W, IP_ID_H } from "../packet/ipv4.ts";
import { IP_MORE, IP_OFFSET, SLOT_IP } from "../packet/layout.ts";
import type { Admission } from "./admission.ts";
import type { Context } from "./context.ts";
import { PacketDescriptor } from "./packet-descriptor.ts";
import { REASON } from "./reason.ts";
import { sessionOut } from "./session-way.ts";
import type { Translator } from "./translate.ts";

/** Turns packets around. */
export class Hairpin {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #translator: Translator;
	readonly #inward: (p: PacketDescriptor) => number;
	readonly #packet: PacketDescriptor;
	/** Session of the fragmented datagram that is being turned around, and the identification of its fragments. */
	#session = 0;
	#id = -1;
	/** Transport bytes of that datagram. */
	#room = 0;

	/**
	 * `inward` finds or opens the session of an inbound packet and sends it on: returns the session, 0 if it did not go
	 * on.
	 */
	constructor(c: Context, admission: Admission, translator: Translator, inward: (p: PacketDescriptor) => number) {
		this.#c = c;
		this.#admission = admission;
		this.#translator = translator;
		this.#inward = inward;
		this.#packet = new PacketDescriptor(c);
	}

	/** What comes next are the fragments of a datagram with `room` transport bytes. */
	begin(room: number): void {
		this.#id = -1;
		this.#room = room;
	}

	/** Turns the translated packet in slot `s` around. */
	turn(s: number, length: number): void {
		const c = this.#c;
		const { P, H } = c.views;
		const ip = s + SLOT_IP;
		const word = P[(ip >> 2) + IP_FLAGS_W];
		const more = (word & IP_MORE) !== 0;
		const p = this.#packet.turned(s, length);
		if (more) p.room = this.#room;
		if (p.external < 0) return void p.drop(REASON["not-ours"]);
		if ((word & IP_OFFSET) !== 0) {
			if (this.#id !== H[(ip >> 1) + IP_ID_H]) return void p.drop(REASON["no-mapping"]);
			return this.#translator.inbound(p, this.#session, s, length, false);
		}
		const id = H[(ip >> 1) + IP_ID_H];
		const i = this.#inward(p);
		if (i !== 0) {
			if (!more) return;
			this.#session = i;
			this.#id = id;
			return;
		}
		// What is dropped leaves no state (RFC 7857 section 6): the session that was opened for it goes again.
		const own = sessionOut(c, s);
		if (own !== 0 && c.table.T[(own << RECORD_SHIFT) + R_PACKETS_OUT] <= 1 && c.table.T[(own << RECORD_SHIFT) + R_PACKETS_IN] === 0)
			this.#admission.end(own, "refused");
	}
}
