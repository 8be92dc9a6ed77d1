/**
 * ICMP errors on their way through (RFC 5508 REQ-4, REQ-5 and REQ-7): whose session they are about, and the header that
 * carries them. What they quote is rewritten by icmp-quote.ts.
 */

import { EXTERNAL_SHIFT, HALF_SHIFT, HOP_SHIFT, R_HOST, R_META, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { wordDelta } from "../packet/checksum.ts";
import { IP_DESTINATION_W, IP_SOURCE_W, IP_TTL } from "../packet/ipv4.ts";
import { IP_WORD, SLOT_IP } from "../packet/layout.ts";
import { type Context, HAIRPIN } from "./context.ts";
import { translateError } from "./icmp-quote.ts";
import { isAt, reportFault } from "./origin.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { REASON, refused } from "./reason.ts";
import { hopsIn, lanOfSession } from "./session-way.ts";
import { changeHeader, crossLinks, type Translator } from "./translate.ts";

/** Takes errors through. */
export class IcmpTransit {
	readonly #c: Context;
	readonly #translator: Translator;

	constructor(c: Context, translator: Translator) {
		this.#c = c;
		this.#translator = translator;
	}

	/** An error from inside about a packet that came in through a session (RFC 5508 REQ-5). */
	outbound(p: PacketDescriptor): void {
		const c = this.#c;
		const { slot: s, port } = p;
		const lan = c.lan[port];
		const { P } = c.views;
		const w = (s >> 2) + IP_WORD;
		const fault = reportFault(c, P[w + IP_SOURCE_W], port);
		if (fault >= 0) return void p.drop(fault);
		const found = translateError(c, p.l4 * 2, p.length - p.header, true, 0, (i) => {
			if (!isAt(c, i, s, port)) return REASON["spoofed-source"];
			return P[w + IP_DESTINATION_W] === c.table.T[(i << RECORD_SHIFT) + R_PEER] ? -1 : REASON["icmp-untied"];
		});
		if (found < 0) {
			const reason = refused(found);
			// An error about the router's own packet, sent under its external address, is the kernel's.
			if (reason === REASON["icmp-no-session"] && P[w + IP_DESTINATION_W] === c.externals.A[0]) c.leftToKernel++;
			else p.drop(reason);
			return;
		}
		const address = c.externals.A[(c.table.T[(found << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff];
		changeHeader(c, s, wordDelta(P[w + IP_SOURCE_W], address), lan.kernelForwards ? 0 : 1);
		P[w + IP_SOURCE_W] = address;
		crossLinks(c, s, lan, c.wan);
		const external = c.externals.find(P[w + IP_DESTINATION_W]);
		if (external >= 0) {
			p.external = external;
			p.hairpin = true;
			this.inbound(p);
			p.hairpin = false;
			return;
		}
		const hop = c.hops.find(P[w + IP_DESTINATION_W]);
		if (hop < 0) return void p.drop(REASON["no-route"]);
		this.#translator.toWan(p, s, p.length, hop);
	}

	/**
	 * An error from outside about a packet that went out through a session (RFC 5508 REQ-4, RFC 4787 REQ-12: it changes
	 * no state), or from inside about a hairpinned packet (RFC 5508 REQ-7). Returns the session, 0 if it was dropped.
	 */
	inbound(p: PacketDescriptor): number {
		const c = this.#c;
		const { slot: s, external, hairpin } = p;
		// What internal hosts send each other over an external address nobody outside has seen.
		const hidden = (i: number) => !hairpin && c.table.T[(i << RECORD_SHIFT) + R_META] >>> HOP_SHIFT === HAIRPIN;
		const found = translateError(c, p.l4 * 2, p.length - p.header, false, external, (i) => (hidden(i) ? REASON["icmp-no-session"] : -1));
		if (found < 0) {
			const reason = refused(found);
			// An error about the router's own packet is the kernel's.
			if (reason === REASON["icmp-no-session"] && external === 0 && !hairpin) c.leftToKernel++;
			else p.drop(reason);
			return 0;
		}
		const { P, B } = c.views;
		const w = (s >> 2) + IP_WORD;
		if (B[s + SLOT_IP + IP_TTL] < 2 && !hairpin) return p.drop(REASON["ttl-expired"]);
		const internal = c.table.T[found << RECORD_SHIFT];
		const lan = lanOfSession(c, found);
		changeHeader(c, s, wordDelta(P[w + IP_DESTINATION_W], internal), hopsIn(lan, hairpin));
		P[w + IP_DESTINATION_W] = internal;
		crossLinks(c, s, c.wan, lan);
		this.#translator.toLan(p, s, p.length, c.table.T16[(found << HALF_SHIFT) + R_HOST], lan);
		return found;
	}
}
