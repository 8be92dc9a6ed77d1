/**
 * Who may have another session, and who makes room when the table is full (design.md section 3 "When full"; RFC 6888 REQ-4, REQ-5, REQ-11).
 * A live, answered session is never evicted for another.
 */

import { EXTERNAL_SHIFT, HOST_EIF, HOST_PLACE, R_HOST, R_IN, R_META, R_OUT } from "../conntrack/record.ts";
import {
	FREE,
	RESTING,
	STATES,
	TCP_CLOSING,
	TCP_ESTABLISHED,
	TCP_RESET,
	TCP_SYN_IN,
	TCP_SYN_OUT,
	TCP_TENDED,
	UDP_DNS,
	UDP_NEW,
} from "../conntrack/states.ts";
import { firstOf, ICMP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { type Context, type EndCause, type Forward, findForward, hasForwards } from "./context.ts";
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

const FINISHED = [UDP_DNS, TCP_CLOSING, TCP_RESET] as const;
const UNANSWERED = [UDP_NEW, TCP_SYN_OUT, TCP_SYN_IN] as const;

/** Admission, eviction and expiry of sessions. */
export class Admission {
	readonly #c: Context;
	/** Second in which a search for room failed: not repeated before the next, so that a flood is refused cheaply. */
	#fullAt = -1;
	/** The same for hosts with less than their share. */
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
		const { hosts, table } = c;
		const policy = c.policy.hosts.size === 0 ? undefined : c.policy.hosts.get(inside);
		const most = policy?.maxSessions || c.policy.maxSessions;
		const rate = policy?.maxRate || c.policy.maxRate;
		const host = hosts.obtain(inside, policy?.flags ?? c.policy.filtering);
		if (host === 0) return -REASON["table-full"] - 1;
		const has = hosts.sessions(host);
		// Making room may end the host's last other session, and its record would go.
		hosts.hold(host);
		let refused = -1;
		if (most > 0 && has >= most) refused = REASON["host-limit"];
		else if (rate > 0 && !hosts.opens(host, c.now, rate)) refused = REASON["host-rate"];
		else {
			const scarce = table.available < table.layout.sessions * BORROW_FREE;
			if (scarce && has >= hosts.guaranteed && hosts.active > 1) refused = REASON["host-share"];
			else if (table.count(FREE) === 0 && !this.#makeRoom(has < hosts.guaranteed)) refused = REASON["table-full"];
		}
		if (refused < 0) {
			hosts.retain(host);
			hosts.letGo();
			return host;
		}
		hosts.refused[host]++;
		hosts.letGo();
		return -refused - 1;
	}

	/** True while a host can not have a session: known without looking at the packet, so that a flood is refused cheaply. */
	full(inside: number): boolean {
		const c = this.#c;
		if (this.#fullAt !== c.now || c.table.available > 0) return false;
		return this.#newcomersAt === c.now || c.hosts.sessions(c.hosts.find(inside)) >= c.hosts.guaranteed;
	}

	/**
	 * Frees a record: ends a session that may be ended, if no port's rest can. For a host with less than its guaranteed share (`newcomer`) an unanswered one of the host
	 * that holds most goes whatever its age, so that a flood, which refills the table faster than its sessions age, does not keep others out.
	 */
	#makeRoom(newcomer: boolean): boolean {
		const c = this.#c;
		if (this.#reclaim()) return true;
		if ((newcomer ? this.#newcomersAt : this.#fullAt) === c.now) return false;
		this.expire(EXPIRE_BUDGET);
		if (c.table.count(FREE) > 0 || this.#reclaim()) return true;
		if (c.table.bypass !== null && FINISHED.every((state) => c.table.head(state) === 0)) c.table.bypass.syncAll();
		for (const state of FINISHED) {
			const i = c.table.head(state);
			if (i !== 0) return this.#evict(i);
		}
		const largest = c.hosts.largest();
		const age = newcomer ? 0 : EVICT_AGE;
		const most = newcomer ? EVICT_SEARCH_NEWCOMER : EVICT_SEARCH;
		for (const state of UNANSWERED) {
			let i = c.table.head(state);
			for (let n = 0; i !== 0 && n < most && c.table.age(i, c.now16) >= age; n++) {
				if (c.table.T16[(i << 5) + R_HOST] === largest) return this.#evict(i);
				i = c.table.next(i);
			}
		}
		this.#fullAt = c.now;
		if (newcomer) this.#newcomersAt = c.now;
		return false;
	}

	#evict(i: number): true {
		this.end(i, "evicted");
		this.#reclaim();
		return true;
	}

	/** Ends the longest rest of a port, if there is one, so that its record is free: sessions are worth more. */
	#reclaim(): boolean {
		const i = this.#c.table.head(RESTING);
		if (i !== 0) this.end(i, "evicted");
		return i !== 0;
	}

	/** Deals with at most `budget` sessions whose time is up; returns with how many. */
	expire(budget: number): number {
		const c = this.#c;
		c.expectations.expire(c.now);
		let ended = 0;
		for (let state = 1; state < STATES; state++) {
			for (let i = c.table.expired(state, c.now16); i !== 0 && ended < budget; i = c.table.expired(state, c.now16)) {
				// RFC 7857 figure 1: an idle connection goes to TRANS first, where the next segment revives it.
				const open = state === TCP_ESTABLISHED || state === TCP_TENDED;
				if (open && (c.table.T[(i << 4) + R_META] & 0xff) === TCP) c.table.setState(i, TCP_RESET, c.now16);
				else this.end(i, "timeout");
				ended++;
			}
		}
		return ended;
	}

	/**
	 * Ends a session, or the rest of a port. With the last of a mapping its external port is given back, at once or after its rest: strangers may still be sending
	 * to a port that was open to them (RFC 6888 REQ-8; at once where peers are filtered or TCP is tracked). `owned` false: the port is somebody else's by now.
	 */
	end(i: number, cause: EndCause, owned = true): void {
		const c = this.#c;
		const meta = c.table.T[(i << 4) + R_META];
		const n = (meta >> EXTERNAL_SHIFT) & 0xff;
		const protocol = meta & 0xff;
		const external = c.externals.list[n];
		const port = swap16(secondOf(c.table.T[(i << 4) + R_IN]));
		if (c.table.state(i) === RESTING) {
			c.table.removeResting(i);
			if (owned) c.externals.releasePort(n, protocol, port);
			return;
		}
		const host = c.table.T16[(i << 5) + R_HOST];
		const last = c.table.alone(i);
		const own =
			owned &&
			external.shared &&
			(protocol === TCP || protocol === UDP || protocol === ICMP) &&
			!this.#forwarded(n, protocol, port, swap16(firstOf(c.table.T[(i << 4) + R_OUT])));
		if (own && protocol === UDP && (c.hosts.W[host * 4 + HOST_PLACE] & HOST_EIF) !== 0 && last) {
			c.table.rest(i, external.address, c.now16);
		} else if (c.table.remove(i, external.address) && own) c.externals.releasePort(n, protocol, port);
		if (!external.shared && external.pool >= 0 && --external.sessions === 0) external.holder = 0;
		c.hosts.release(host);
		c.events?.ended(i, cause, last);
	}

	/** True for the external port of a forward: it stays reserved while the forward is configured. */
	#forwarded(n: number, protocol: number, port: number, insidePort: number): boolean {
		if (n !== 0 || !hasForwards(this.#c)) return false;
		const fits = (f: Forward) =>
			f.protocol === protocol && port >= f.first && port <= f.last && f.insideFirst + port - f.first === insidePort;
		return findForward(this.#c, fits) !== undefined;
	}
}
