/**
 * Who may have another session, and who makes room when the table is full (design.md section 3 "When full"; RFC 6888 REQ-4, REQ-5, REQ-11).
 * A live, answered session is never evicted for another.
 */

import { HOST_MINIMUM } from "../conntrack/hosts.ts";
import { EXTERNAL_SHIFT, R_HOST, R_IN, R_META, R_OUT } from "../conntrack/record.ts";
import { FREE, RESTING, STATES, TCP_CLOSING, TCP_RESET, TCP_SYN_IN, TCP_SYN_OUT, UDP_DNS, UDP_NEW } from "../conntrack/states.ts";
import { firstOf, ICMP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { type Context, type EndCause, type Forward, findForward } from "./context.ts";
import { REASON } from "./reason.ts";

/** While at least this share of the table is free, a host may have more than its fair share. */
export const BORROW_FREE = 0.2;
/** Sessions that may end per turn of the engine's loop. */
export const EXPIRE_BUDGET = 256;
/** Records looked at to find an unanswered session of the largest host. */
const EVICT_SEARCH = 64;
const EVICT_SEARCH_NEWCOMER = 1024;
/** Seconds that an unanswered session is safe from eviction: the answer may be on its way. */
const EVICT_AGE = 2;

const FINISHED = [UDP_DNS, TCP_CLOSING, TCP_RESET, RESTING] as const;
const UNANSWERED = [UDP_NEW, TCP_SYN_OUT, TCP_SYN_IN] as const;

/** Admission, eviction and expiry of sessions. */
export class Admission {
	readonly #c: Context;
	/** Second in which a search for room failed: not repeated before the next, so that a flood is refused cheaply. */
	#fullAt = -1;
	/** The same for hosts with hardly any sessions. */
	#newcomersAt = -1;

	constructor(c: Context) {
		this.#c = c;
	}

	/**
	 * Finds room for one more session of a host (as-loaded address): returns the host's number with a record free and the session counted, or minus
	 * (reason number + 1). The caller creates the session at once or calls `hosts.release`. Sessions may have ended to make room, the host's own too.
	 */
	admit(inside: number): number {
		const c = this.#c;
		const policy = c.policy.hosts.get(inside);
		const most = policy?.maxSessions || c.policy.maxSessions;
		const rate = policy?.maxRate || c.policy.maxRate;
		const host = c.hosts.obtain(inside, policy?.flags ?? c.policy.filtering);
		if (host === 0) return -REASON["table-full"] - 1;
		const has = c.hosts.sessions(host);
		// Counted before room is made: that may end the host's last other session, and its record would go.
		c.hosts.retain(host);
		let refused = -1;
		if (most > 0 && has >= most) refused = REASON["host-limit"];
		else if (rate > 0 && !c.hosts.opens(host, c.now, rate)) refused = REASON["host-rate"];
		else {
			const free = c.table.count(FREE);
			const scarce = free < c.table.layout.sessions * BORROW_FREE;
			if (scarce && has >= c.hosts.guaranteed && c.hosts.active > 1) refused = REASON["host-share"];
			else if (free === 0 && !this.#makeRoom(has < HOST_MINIMUM)) refused = REASON["table-full"];
		}
		if (refused < 0) return host;
		c.hosts.refused[host]++;
		c.hosts.release(host);
		return -refused - 1;
	}

	/** True while a host can not have a session: known without looking at the packet, so that a flood is refused cheaply. */
	full(inside: number): boolean {
		const c = this.#c;
		if (this.#fullAt !== c.now || c.table.count(FREE) > 0) return false;
		return this.#newcomersAt === c.now || c.hosts.sessions(c.hosts.find(inside)) >= HOST_MINIMUM;
	}

	/**
	 * Ends a session that may be ended. For a host with hardly any (`newcomer`) an unanswered one of the host that holds most goes whatever its age, so that a
	 * flood, which refills the table faster than its sessions age, does not keep others out.
	 */
	#makeRoom(newcomer: boolean): boolean {
		const c = this.#c;
		if ((newcomer ? this.#newcomersAt : this.#fullAt) === c.now) return false;
		if (this.expire(EXPIRE_BUDGET) > 0) return true;
		for (const state of FINISHED) {
			const i = c.table.head(state);
			if (i !== 0) {
				this.end(i, "evicted");
				return true;
			}
		}
		const largest = c.hosts.largest();
		const age = newcomer ? 0 : EVICT_AGE;
		const most = newcomer ? EVICT_SEARCH_NEWCOMER : EVICT_SEARCH;
		for (const state of UNANSWERED) {
			let i = c.table.head(state);
			for (let n = 0; i !== 0 && n < most && c.table.age(i, c.now16) >= age; n++) {
				if (c.table.T16[(i << 5) + R_HOST] === largest) {
					this.end(i, "evicted");
					return true;
				}
				i = c.table.next(i);
			}
		}
		this.#fullAt = c.now;
		if (newcomer) this.#newcomersAt = c.now;
		return false;
	}

	/** Ends at most `budget` sessions whose time is up; returns how many. */
	expire(budget: number): number {
		const c = this.#c;
		c.expectations.expire(c.now);
		let ended = 0;
		for (let state = 1; state < STATES; state++) {
			for (let i = c.table.expired(state, c.now16); i !== 0 && ended < budget; i = c.table.expired(state, c.now16)) {
				this.end(i, "timeout");
				ended++;
			}
		}
		return ended;
	}

	/** Ends a session; with the last of a mapping its external port is given back. */
	end(i: number, cause: EndCause): void {
		const c = this.#c;
		const meta = c.table.T[(i << 4) + R_META];
		const n = (meta >> EXTERNAL_SHIFT) & 0xff;
		const protocol = meta & 0xff;
		const external = c.externals.list[n];
		const last = c.table.remove(i, external.address);
		if (last && external.shared && (protocol === TCP || protocol === UDP || protocol === ICMP)) {
			const port = swap16(secondOf(c.table.T[(i << 4) + R_IN]));
			if (!this.#forwarded(n, protocol, port, swap16(firstOf(c.table.T[(i << 4) + R_OUT])))) c.externals.releasePort(n, protocol, port);
		}
		if (!external.shared && external.pool >= 0 && --external.sessions === 0) external.holder = 0;
		c.hosts.release(c.table.T16[(i << 5) + R_HOST]);
		c.events?.ended(i, cause, last);
	}

	/** True for the external port of a forward: it stays reserved while the forward is configured. */
	#forwarded(n: number, protocol: number, port: number, insidePort: number): boolean {
		if (n !== 0) return false;
		const fits = (f: Forward) =>
			f.protocol === protocol && port >= f.first && port <= f.last && f.insideFirst + port - f.first === insidePort;
		return findForward(this.#c, fits) !== undefined;
	}
}
