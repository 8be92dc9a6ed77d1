/**
 * The TCP side of a session: what a segment with SYN, FIN or RST, or any segment of a session that is not established,
 * does to its state (RFC 7857 section 2, RFC 5382 sections 4 and 5). Ordinary segments of established sessions never
 * come here.
 */

import { swap32 } from "../packet/layout.ts";
import { ACK, FIN, RST, SYN } from "../packet/tcp.ts";
import { ALG_INSPECTED, R_ACK_IN, R_ACK_OUT, R_META, RECORD_SHIFT, RESET_WINDOW, STATE_MASK, STATE_SHIFT } from "./record.ts";
import {
	STATES,
	TCP_CLOSING,
	TCP_ESTABLISHED,
	TCP_FIN_IN,
	TCP_FIN_OUT,
	TCP_INSPECTED,
	TCP_OPENED,
	TCP_OPENED_IN,
	TCP_RESET,
	TCP_SYN_IN,
	TCP_SYN_OUT,
} from "./states.ts";
import type { Table } from "./table.ts";

/**
 * A segment from the inside. `flags` are the header's six bits, `seq` and `ack` its numbers raw.
 * The acknowledgment number is remembered to judge resets from outside.
 */
export function tcpOut(table: Table, i: number, flags: number, seq: number, ack: number, now16: number): void {
	// What was offloaded decides what this means.
	if (table.hooks !== null) table.hooks.sync(i);
	const t = table.T;
	const e = i << RECORD_SHIFT;
	const meta = t[e + R_META];
	const state = (meta >> STATE_SHIFT) & STATE_MASK;
	if ((flags & (RST | SYN)) === 0) {
		if (flags & ACK) t[e + R_ACK_OUT] = ack;
		table.setState(i, AFTER_OUT[(state << 2) | (flags & FIN) | (meta & ALG_INSPECTED ? 2 : 0)], now16);
		return;
	}
	if (flags & RST) {
		// A host that answers every stray segment with a reset does not keep the mapping (RFC 7857 section 7.1).
		if (state !== TCP_RESET) table.setState(i, TCP_RESET, now16);
		return;
	}
	if ((flags & ACK) === 0 && (state === TCP_SYN_OUT || state === TCP_CLOSING || state === TCP_RESET)) {
		t[e + R_ACK_OUT] = 0;
		t[e + R_ACK_IN] = swap32(swap32(seq) + 1);
		table.setState(i, TCP_SYN_OUT, now16);
	} else {
		// A host that begins anew from the port of a connection that it has forgotten: its peer's refusal
		// acknowledges this SYN, not what was (see tcpIn).
		if ((flags & ACK) === 0) {
			if (table.hooks !== null) table.hooks.ended(i);
			t[e + R_ACK_IN] = swap32(swap32(seq) + 1);
		} else t[e + R_ACK_OUT] = ack;
		table.setState(i, state === TCP_SYN_IN ? TCP_OPENED_IN : state, now16);
	}
}

/**
 * A segment from the peer. Returns false if it must be dropped: a RST whose numbers do not fit what the inside expects
 * (an off-path forgery, RFC 5961 section 3.2), which leaves the session as it was.
 */
export function tcpIn(table: Table, i: number, flags: number, seq: number, ack: number, now16: number): boolean {
	if (table.hooks !== null) table.hooks.sync(i);
	const t = table.T;
	const e = i << RECORD_SHIFT;
	const meta = t[e + R_META];
	const state = (meta >> STATE_SHIFT) & STATE_MASK;
	if ((flags & (RST | SYN)) === 0) {
		if (flags & ACK) t[e + R_ACK_IN] = ack;
		table.setState(i, AFTER_IN[(state << 2) | (flags & FIN) | (meta & ALG_INSPECTED ? 2 : 0)], now16);
		return true;
	}
	if (flags & RST) {
		// A SYN is refused by its number, also one for which there still is an older connection.
		const refused = state !== TCP_SYN_OUT && (flags & ACK) !== 0 && ack === t[e + R_ACK_IN];
		const unanswered = state === TCP_SYN_OUT || refused;
		const expected = unanswered ? t[e + R_ACK_IN] : t[e + R_ACK_OUT];
		const ahead = (swap32(unanswered ? ack : seq) - swap32(expected)) | 0;
		if (expected !== 0 && (ahead < 0 || ahead > RESET_WINDOW)) return false;
		table.setState(i, TCP_RESET, now16);
		return true;
	}
	if ((flags & ACK) === 0 && (state === TCP_CLOSING || state === TCP_RESET)) {
		t[e + R_ACK_OUT] = 0;
		t[e + R_ACK_IN] = 0;
		table.setState(i, TCP_SYN_IN, now16);
	} else table.setState(i, state === TCP_SYN_OUT || (state === TCP_OPENED_IN && (flags & ACK) !== 0) ? TCP_OPENED : state, now16);
	return true;
}

/**
 * State of a session in state `before` of which segments were offloaded: whether any (`carried`; none of them had SYN),
 * whether a RST was among them, as the last or not, and whether a FIN of either side was, after that.
 */
export function afterOffload(before: number, carried: boolean, reset: "none" | "last" | "passed", finOut: boolean, finIn: boolean): number {
	if (before === TCP_OPENED && !carried) return before;
	if (before !== TCP_OPENED && before !== TCP_ESTABLISHED && before !== TCP_FIN_OUT && before !== TCP_FIN_IN) return before;
	if (reset === "last") return TCP_RESET;
	const state = reset === "none" ? before : TCP_ESTABLISHED;
	const out = finOut || state === TCP_FIN_OUT;
	if (finIn || state === TCP_FIN_IN) return out ? TCP_CLOSING : TCP_FIN_IN;
	return out ? TCP_FIN_OUT : TCP_ESTABLISHED;
}

/**
 * State after a segment without SYN and RST from the side whose FIN leads to `ownFin`, and which alone cannot complete
 * its own `opening`; `opened` is where data flows.
 */
function afterData(state: number, flags: number, ownFin: number, otherFin: number, opening: number, opened: number): number {
	// The outside has begun it: only what it says itself shows that it has heard our SYN.
	if (state === TCP_OPENED_IN) return opening === TCP_SYN_OUT ? state : flags & FIN ? ownFin : opened;
	if (flags & FIN) {
		if (state === otherFin || state === TCP_CLOSING) return TCP_CLOSING;
		return state === opening ? state : ownFin;
	}
	switch (state) {
		case TCP_OPENED:
		case TCP_RESET:
			return opened;
		case TCP_SYN_OUT:
		case TCP_SYN_IN:
			return state === opening ? state : opened;
		default:
			return state;
	}
}

/**
 * {@link afterData} of the segments from one side: by state << 2, FIN (1), and whether the session is ALG_INSPECTED
 * (2).
 */
function transitions(ownFin: number, otherFin: number, opening: number): Uint8Array {
	return Uint8Array.from({ length: STATES << 2 }, (_, n) =>
		afterData(n >> 2, n & FIN, ownFin, otherFin, opening, n & 2 ? TCP_INSPECTED : TCP_ESTABLISHED),
	);
}
const AFTER_OUT = transitions(TCP_FIN_OUT, TCP_FIN_IN, TCP_SYN_OUT);
const AFTER_IN = transitions(TCP_FIN_IN, TCP_FIN_OUT, TCP_SYN_IN);
