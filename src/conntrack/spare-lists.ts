/**
 * Which sessions may make room for others (states.ts), by host: two lists of each, the longest there first. Unanswered
 * sessions are in theirs only while there is a pressure to make room, so that opening costs nothing for it else.
 *
 * The links stand in the record where a live session has the high parts of its byte counters; those go to the
 * {@link LargeCounters} when it ceases to be live.
 */
import { L_BYTES, type LargeCounters } from "./large-counters.ts";
import {
	ANSWERED,
	HALF_SHIFT,
	R_HIGH_IN,
	R_HIGH_OUT,
	R_HIGHS,
	R_HOST,
	R_META,
	R_SPARE_NEXT,
	R_SPARE_PREVIOUS,
	RECORD_SHIFT,
	STATE_MASK,
	STATE_SHIFT,
} from "./record.ts";
import { GIVEN, ICMP_QUERY, LIVE, OTHER, SPARE, UNANSWERED } from "./states.ts";

/** Halfwords of a host: how many are LIVE, heads of those GIVEN and UNANSWERED by these numbers, how many are GIVEN. */
const S_HOST = 4;
const S_LIVE = 0;
const S_GIVEN = 3;

/** Whether a session with this word R_META is LIVE, GIVEN or UNANSWERED. */
export function spareOf(meta: number): number {
	const state = (meta >> STATE_SHIFT) & STATE_MASK;
	return (state === ICMP_QUERY || state === OTHER) && (meta & ANSWERED) !== 0 ? LIVE : SPARE[state];
}

/** The lists of a table, over its records as words and halfwords. */
export class SpareLists {
	readonly #T: Int32Array;
	readonly #T16: Uint16Array;
	readonly #large: LargeCounters;
	/** By host number * S_HOST. */
	readonly #hosts: Uint16Array;
	/** True while unanswered sessions are in the lists of their hosts. */
	pressed = false;
	/** Hosts that have a live session. */
	answered = 0;

	/** `hosts` is the largest host number; `copied` are the lists that the records are a copy of. */
	constructor(T: Int32Array, T16: Uint16Array, large: LargeCounters, hosts: number, copied: SpareLists | null) {
		this.#T = T;
		this.#T16 = T16;
		this.#large = large;
		this.#hosts = new Uint16Array((hosts + 1) * S_HOST);
		if (copied === null) return;
		this.#hosts.set(copied.#hosts);
		this.answered = copied.answered;
		this.pressed = copied.pressed;
	}

	/** Forgets all. */
	clear(): void {
		this.#hosts.fill(0);
		this.answered = 0;
		this.pressed = false;
	}

	/**
	 * The session of host number `host` that has been GIVEN or UNANSWERED (`kind`) longest, 0 if there is none; none of
	 * the latter unless {@link pressed}.
	 */
	first(host: number, kind: number): number {
		return this.#hosts[host * S_HOST + kind];
	}

	/** The one that has been so for less long than `i`; comes back to the first. */
	next(i: number): number {
		return this.#T16[(i << HALF_SHIFT) + R_SPARE_NEXT];
	}

	/** How many sessions of a host are live. */
	live(host: number): number {
		return this.#hosts[host * S_HOST + S_LIVE];
	}

	/** How many are GIVEN. */
	given(host: number): number {
		return this.#hosts[host * S_HOST + S_GIVEN];
	}

	/** From now on unanswered sessions need not be in the lists of their hosts. */
	relax(): void {
		if (!this.pressed) return;
		this.pressed = false;
		const s = this.#hosts;
		for (let at = UNANSWERED; at < s.length; at += S_HOST) s[at] = 0;
	}

	/** Puts a session of a kind into the list of its host. */
	add(i: number, kind: number): void {
		const s = this.#hosts;
		const t = this.#T16;
		const h = i << HALF_SHIFT;
		const at = t[h + R_HOST] * S_HOST;
		if (kind === LIVE) {
			if (s[at + S_LIVE]++ === 0) this.answered++;
			return;
		}
		if (kind === GIVEN) s[at + S_GIVEN]++;
		else if (!this.pressed) return;
		const head = s[at + kind];
		if (head === 0) {
			s[at + kind] = i;
			t[h + R_SPARE_PREVIOUS] = i;
			t[h + R_SPARE_NEXT] = i;
			return;
		}
		const tail = t[(head << HALF_SHIFT) + R_SPARE_PREVIOUS];
		t[h + R_SPARE_PREVIOUS] = tail;
		t[h + R_SPARE_NEXT] = head;
		t[(tail << HALF_SHIFT) + R_SPARE_NEXT] = i;
		t[(head << HALF_SHIFT) + R_SPARE_PREVIOUS] = i;
	}

	/** Takes a session out of the list of its host. The high parts of its byte counters are 0 then. */
	remove(i: number, kind: number): void {
		const s = this.#hosts;
		const t = this.#T16;
		const h = i << HALF_SHIFT;
		const at = t[h + R_HOST] * S_HOST;
		if (kind === LIVE) {
			if (--s[at + S_LIVE] === 0) this.answered--;
			if (t[h + R_HIGH_OUT] !== 0) this.#large.add(i, L_BYTES, t[h + R_HIGH_OUT]);
			if (t[h + R_HIGH_IN] !== 0) this.#large.add(i, L_BYTES + 1, t[h + R_HIGH_IN]);
		} else if (kind === GIVEN || this.pressed) {
			if (kind === GIVEN) s[at + S_GIVEN]--;
			const after = t[h + R_SPARE_NEXT];
			const before = t[h + R_SPARE_PREVIOUS];
			t[(before << HALF_SHIFT) + R_SPARE_NEXT] = after;
			t[(after << HALF_SHIFT) + R_SPARE_PREVIOUS] = before;
			if (s[at + kind] === i) s[at + kind] = after === i ? 0 : after;
		}
		t[h + R_HIGH_OUT] = 0;
		t[h + R_HIGH_IN] = 0;
	}

	/**
	 * Writes word R_META of a session, which was `meta`, and puts it into the list of its host where it belongs then.
	 */
	move(i: number, meta: number, next: number): void {
		if (
			!this.pressed &&
			(meta & ANSWERED) === 0 &&
			SPARE[(meta >> STATE_SHIFT) & STATE_MASK] === UNANSWERED &&
			SPARE[(next >> STATE_SHIFT) & STATE_MASK] === LIVE
		) {
			// Nearly always: the first answer.
			const s = this.#hosts;
			const at = this.#T16[(i << HALF_SHIFT) + R_HOST] * S_HOST;
			this.#T[(i << RECORD_SHIFT) + R_HIGHS] = 0;
			this.#T[(i << RECORD_SHIFT) + R_META] = next;
			if (s[at]++ === 0) this.answered++;
			return;
		}
		const from = spareOf(meta);
		const to = spareOf(next);
		if (from !== to) this.remove(i, from);
		this.#T[(i << RECORD_SHIFT) + R_META] = next;
		if (from !== to) this.add(i, to);
	}
}
