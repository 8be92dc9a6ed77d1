/**
 * Who may have another session, and who makes room when the table is full (RFC 6888 REQ-4, REQ-5, REQ-11).
 *
 * Theory of operation. A live, answered session is never evicted for another. Before anybody is refused, what is due is
 * ended; then a host's own session that is GIVEN (states.ts) makes room for it. In a full table room is made in this
 * order: a port's rest; what is due; the host's own GIVEN sessions; anybody's finished ones; what strangers have opened
 * and nobody inside has answered; and for what the inside opens itself, unanswered ones: of the host that holds most,
 * for a host with less than its part (shares.ts) whatever their age, and then of a host that nobody has answered at
 * all, or of one with more sessions. So whoever is below its part is served while anybody has a session that may go.
 * What a stranger opens never displaces what the inside has opened, but for unanswered sessions of a host beyond its
 * part. Every search looks at few records: the lists are by host (table.ts).
 */

import {
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOST_EIF,
	HOST_PLACE,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import {
	FREE,
	GIVEN,
	grainOf,
	QUARANTINED,
	STATES,
	STRANGER,
	TCP_CLOSING,
	TCP_ESTABLISHED,
	TCP_INSPECTED,
	TCP_OPENED_IN,
	TCP_RESET,
	TCP_SYN_IN,
	UDP_DNS,
	UNANSWERED,
} from "../conntrack/states.ts";
import { firstOf, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { type Context, type EndCause, type Forward, findForward, hasForwards } from "./context.ts";
import { portKind } from "./externals.ts";
import { REASON, refusal } from "./reason.ts";
import { BORROW_FREE, guaranteed, guaranteedPorts, STRANGERS_FREE, STRANGERS_SHIFT } from "./shares.ts";

/** Sessions that may end in one turn of the engine's loop. */
export const EXPIRE_BUDGET = 64;
/** Seconds that an unanswered session is safe from eviction: the answer may be on its way. */
const EVICT_AGE = 2;
/** Records of one list that are looked at for one that may go. */
const SEARCH = 64;
/** Most sessions of a host that are ended at once, so that another host has its record. */
const HOST_ENDED = 64;

/** Seconds without need after which it is forgotten what is only kept to make room. */
const RELAX = 30;

const FINISHED = [UDP_DNS, TCP_CLOSING, TCP_RESET] as const;
const STRANGERS = [STRANGER, TCP_SYN_IN, TCP_OPENED_IN] as const;

/** Admission, eviction and expiry of sessions. */
export class Admission {
	readonly #c: Context;
	/** Second in which a search for room failed: not repeated before the next, so that a flood is refused cheaply. */
	#fullAt = -1;
	/** The same for host records, and for ports by their kind. */
	#recordsAt = -1;
	readonly #portsAt = [-1, -1, -1];
	/** Second in which nothing was due any more. */
	#clearAt = -1;
	/** Host record where the search for one that may go begins. */
	#hand = 0;
	/** Second in which room had to be made last. */
	#pressedAt = 0;
	/** True while {@link expire} has left something that is due. */
	overdue = false;

	constructor(c: Context) {
		this.#c = c;
	}

	/**
	 * Finds room for one more session of a host (raw address), which a `stranger` opens or the host itself: returns the
	 * host's number with a record free and the session counted, or a refusal (reason.ts). The caller creates the
	 * session at once or calls `hosts.release`. Sessions may have ended to make room, the host's own too.
	 */
	admit(internal: number, stranger = false): number {
		const c = this.#c;
		const { hosts, table, policy } = c;
		const own = policy.hosts.size === 0 ? undefined : policy.hosts.get(internal);
		const flags = own?.flags ?? policy.filtering;
		const most = own?.maxSessions || policy.maxSessions;
		const rate = own?.maxRate || policy.maxRate;
		let host = hosts.obtain(internal, flags);
		if (!stranger && host !== 0 && most === 0 && rate === 0 && table.count(FREE) > table.layout.sessions >> 2) {
			// Nearly always.
			hosts.retain(host);
			return host;
		}
		if (host === 0 && this.#freeRecord(stranger)) host = hosts.obtain(internal, flags);
		if (host === 0) return refusal(REASON["table-full"]);
		// Making room may end the host's last other session, and its record would go.
		hosts.pin(host);
		let refused = this.#refusal(host, most, stranger);
		for (let left = table.layout.sessions >> 2; refused >= 0 && left > 0 && this.#clearAt !== c.now; left -= EXPIRE_BUDGET) {
			if (this.expire(EXPIRE_BUDGET) > 0) refused = this.#refusal(host, most, stranger);
		}
		// Strangers do not use up what a host may open.
		if (refused < 0 && rate > 0 && !stranger && !hosts.opens(host, c.now, rate)) refused = REASON["host-rate"];
		if (refused < 0) {
			hosts.retain(host);
			hosts.unpin();
			return host;
		}
		hosts.refused[host]++;
		hosts.unpin();
		return refusal(refused);
	}

	/** Makes room for a session of a host; -1 or the reason why there is none. */
	#refusal(host: number, most: number, stranger: boolean): number {
		const c = this.#c;
		const { hosts, table } = c;
		const has = hosts.sessions(host);
		if (most > 0 && has >= most && !this.#give(host)) return REASON["host-limit"];
		const { available } = table;
		const all = table.layout.sessions;
		if (stranger) {
			const pressed = table.spare.given(host) >= all >> STRANGERS_SHIFT;
			const scarce = available < all * STRANGERS_FREE && has >= guaranteed(c, host) >> 1;
			if ((pressed || scarce) && !this.#give(host)) return REASON["host-share"];
		} else if (available < all * BORROW_FREE && hosts.active > 1) {
			if (has - table.spare.given(host) >= guaranteed(c, host) && !this.#give(host)) return REASON["host-share"];
		}
		return table.count(FREE) > 0 || this.#makeRoom(host, stranger) ? -1 : REASON["table-full"];
	}

	/**
	 * True while a host cannot have a session: known without looking at the packet, so that a flood is refused cheaply.
	 */
	full(internal: number): boolean {
		const c = this.#c;
		if (this.#fullAt !== c.now || c.table.available > 0 || this.#clearAt !== c.now || this.#anyGiven()) return false;
		const host = c.hosts.find(internal);
		return host !== 0 && c.hosts.sessions(host) >= guaranteed(c, host);
	}

	#anyGiven(): boolean {
		const { table } = this.#c;
		return FINISHED.some((state) => table.head(state) !== 0) || STRANGERS.some((state) => table.head(state) !== 0);
	}

	/** Frees a record in a full table, as far as that may be done for a host. */
	#makeRoom(host: number, stranger: boolean): boolean {
		const c = this.#c;
		const { table, hosts } = c;
		if (this.#reclaim() || this.#give(host)) return true;
		if (table.hooks !== null && FINISHED.every((state) => table.head(state) === 0)) table.hooks.syncAll();
		for (const state of FINISHED) {
			const i = this.#head(state);
			if (i !== 0) return this.#evict(i);
		}
		const newcomer = hosts.sessions(host) < guaranteed(c, host);
		const age = newcomer && !stranger ? 0 : EVICT_AGE;
		for (const state of STRANGERS) {
			const i = this.#head(state);
			if (i !== 0 && table.age(i, c.now16) >= age) return this.#evict(i);
		}
		// For a stranger only whoever holds more than its part, and only for half of the host's own.
		if (stranger && hosts.sessions(host) >= guaranteed(c, host) >> 1) return false;
		this.#press();
		if (!newcomer && this.#fullAt === c.now) return false;
		const largest = hosts.largest();
		if (stranger) {
			const i = hosts.sessions(largest) > guaranteed(c, largest) ? this.#unanswered(largest, 0) : 0;
			return i !== 0 && this.#evict(i);
		}
		let i = this.#unanswered(largest, age);
		if (i === 0 && newcomer) i = this.#unanswered(this.#spareHost(host), 0) || this.#unanswered(host, EVICT_AGE);
		if (i !== 0) return this.#evict(i);
		if (!newcomer) this.#fullAt = c.now;
		return false;
	}

	/**
	 * The unanswered session of a host that is so longest, if it has not been used for `age` seconds; 0 if there is
	 * none.
	 */
	#unanswered(host: number, age: number): number {
		const { table, now16 } = this.#c;
		let first = table.spare.first(host, UNANSWERED);
		let i = first;
		for (let n = 0; i !== 0 && n < SEARCH; n++) {
			if (table.age(i, now16) >= age) {
				if (this.#moved(i)) {
					first = table.spare.first(host, UNANSWERED);
					i = first;
					continue;
				}
				if (table.age(i, now16) >= age) return i;
			}
			i = table.spare.next(i);
			if (i === first) break;
		}
		return 0;
	}

	/**
	 * Asks whatever carries a session's packets how it is, before the session goes for another: true if it had been in
	 * another state, so that it may be in another list now (answered meanwhile, for one).
	 */
	#moved(i: number): boolean {
		const { hooks } = this.#c.table;
		return hooks?.sync(i) ?? false;
	}

	/** The session that has been in a state longest and is in it, 0 if none is. */
	#head(state: number): number {
		const { table } = this.#c;
		for (let n = 0, i = table.head(state); i !== 0 && n < SEARCH; n++, i = table.head(state)) if (!this.#moved(i)) return i;
		return 0;
	}

	/**
	 * Another host with an unanswered session: the next that nobody has answered at all, else one that has more
	 * sessions than `host`; 0 if there is none.
	 */
	#spareHost(host: number): number {
		const { hosts, table } = this.#c;
		const has = hosts.sessions(host);
		let other = 0;
		for (let n = 0; n < hosts.capacity; n++) {
			this.#hand = (this.#hand % hosts.capacity) + 1;
			if (this.#hand === host || table.spare.first(this.#hand, UNANSWERED) === 0) continue;
			if (table.spare.live(this.#hand) === 0) return this.#hand;
			if (hosts.sessions(this.#hand) > has) other = this.#hand;
		}
		return other;
	}

	/**
	 * Frees a host's record: one of a host that nobody has answered, with what it has, the next that is found going
	 * round. For a `stranger` only that of a host which has opened nothing itself.
	 */
	#freeRecord(stranger: boolean): boolean {
		const c = this.#c;
		const { hosts, table } = c;
		if (this.#recordsAt === c.now && !this.overdue) return false;
		this.#press();
		for (let n = 0; n < hosts.capacity; n++) {
			this.#hand = (this.#hand % hosts.capacity) + 1;
			const host = this.#hand;
			if (table.spare.live(host) > 0 || hosts.sessions(host) > HOST_ENDED) continue;
			if (stranger && table.spare.first(host, UNANSWERED) !== 0) continue;
			if (table.hooks !== null && this.#answered(host)) continue;
			for (const kind of [GIVEN, UNANSWERED]) {
				for (let i = table.spare.first(host, kind); i !== 0; i = table.spare.first(host, kind)) this.end(i, "evicted");
			}
			if (!hosts.full) return true;
		}
		for (let left = EXPIRE_BUDGET; left > 0 && hosts.full && this.expire(EXPIRE_BUDGET) > 0; left--);
		if (!hosts.full) return true;
		if (!stranger) this.#recordsAt = c.now;
		return false;
	}

	/** Whether a host without a live session has one after all, now that it is asked for. */
	#answered(host: number): boolean {
		const { spare } = this.#c.table;
		for (const kind of [GIVEN, UNANSWERED]) {
			let i = spare.first(host, kind);
			for (let n = 0; i !== 0 && n < HOST_ENDED; n++) {
				const next = spare.next(i);
				if (this.#moved(i) && spare.live(host) > 0) return true;
				i = next;
			}
		}
		return false;
	}

	/** Ends the session of a host that has been given longest. */
	#give(host: number): boolean {
		const { spare } = this.#c.table;
		for (let n = 0, i = spare.first(host, GIVEN); i !== 0 && n < SEARCH; n++, i = spare.first(host, GIVEN))
			if (!this.#moved(i)) return this.#evict(i);
		return false;
	}

	#evict(i: number): true {
		this.end(i, "evicted");
		if (this.#c.table.count(FREE) === 0) this.#reclaim();
		return true;
	}

	/** Ends the longest rest of a port, if there is one, so that its record is free: sessions are worth more. */
	#reclaim(): boolean {
		const i = this.#c.table.head(QUARANTINED);
		if (i !== 0) this.end(i, "evicted");
		return i !== 0;
	}

	// ---- ports ------------------------------------------------------------------------------------------------------

	/**
	 * Sees to it that host number `host` finds a port for a new mapping at external address `external` where few are
	 * left, `kind` being that of the protocol's ports; false if it can have none. As with sessions: a host's own GIVEN
	 * ones make room first; below its part it gets the port of an unanswered one, and for that the longest rests end.
	 */
	admitPort(host: number, external: number, kind: number): boolean {
		const c = this.#c;
		const { hosts, table, externals } = c;
		const free = externals.freePorts(external, kind);
		if (free >= externals.ports * BORROW_FREE) return true;
		this.#press();
		const part = guaranteedPorts(c, host);
		const mappings = hosts.mappings(host, kind);
		// Those of its mappings that cannot be taken back.
		const held = Math.min(mappings, table.spare.live(host));
		if ((free > 0 && held < part) || this.#givePort(host, GIVEN, external, kind, 0)) return true;
		if (free > 0 || (this.#portsAt[kind] === c.now && this.#clearAt === c.now)) return false;
		while (this.#clearAt !== c.now && this.expire(EXPIRE_BUDGET) > 0) if (externals.freePorts(external, kind) > 0) return true;
		if (mappings < part) {
			for (let n = 0, i = table.head(QUARANTINED); i !== 0 && n < SEARCH; n++, i = table.head(QUARANTINED)) {
				this.end(i, "evicted");
				if (externals.freePorts(external, kind) > 0) return true;
			}
			if (this.#takeOverPort(host, external, kind) || this.#givePort(host, UNANSWERED, external, kind, EVICT_AGE)) return true;
			this.#portsAt[kind] = c.now;
		}
		return false;
	}

	/** Frees a port of another host: of the one with most mappings, else of others that have more than `host`. */
	#takeOverPort(host: number, external: number, kind: number): boolean {
		const { hosts } = this.#c;
		const most = hosts.mostMappings(kind);
		const has = hosts.mappings(host, kind);
		for (let n = -1, looked = 0; n < hosts.capacity && looked < 8; n++) {
			if (n >= 0) this.#hand = (this.#hand % hosts.capacity) + 1;
			const other = n < 0 ? most : this.#hand;
			if (other === 0 || other === host || hosts.mappings(other, kind) <= has) continue;
			for (const spare of [GIVEN, UNANSWERED]) if (this.#givePort(other, spare, external, kind, 0)) return true;
			looked++;
		}
		return false;
	}

	/**
	 * Ends a session of a host that has a port of the pool for itself, the first among few that is `age` seconds old.
	 */
	#givePort(host: number, spare: number, external: number, kind: number, age: number): boolean {
		const c = this.#c;
		const { table } = c;
		let first = table.spare.first(host, spare);
		let i = first;
		for (let n = 0; i !== 0 && n < SEARCH; n++) {
			const meta = table.T[(i << RECORD_SHIFT) + R_META];
			const fits = portKind(meta & 0xff) === kind && ((meta >> EXTERNAL_SHIFT) & 0xff) === external && table.alone(i);
			if (fits && table.age(i, c.now16) >= age && this.#moved(i)) {
				first = table.spare.first(host, spare);
				i = first;
				continue;
			}
			if (fits && table.age(i, c.now16) >= age) {
				this.end(i, "evicted");
				// Nobody has been told of it, or it is over: who has no port at all needs it more.
				if (table.state(i) === QUARANTINED) this.end(i, "evicted");
				if (c.externals.freePorts(external, kind) > 0) return true;
				return false;
			}
			i = table.spare.next(i);
			if (i === first) break;
		}
		return false;
	}

	// ---- pressure ---------------------------------------------------------------------------------------------------

	/**
	 * Room has to be made: from now on it is known by host which sessions are unanswered and how many mappings there
	 * are.
	 */
	#press(): void {
		const { table, hosts } = this.#c;
		this.#pressedAt = this.#c.now;
		table.press();
		if (hosts.counting) return;
		hosts.counting = true;
		for (let i = 1; i <= table.layout.sessions; i++) {
			const state = table.state(i);
			if (state === FREE || state === QUARANTINED) continue;
			const meta = table.T[(i << RECORD_SHIFT) + R_META];
			const external = (meta >> EXTERNAL_SHIFT) & 0xff;
			const port = secondOf(table.T[(i << RECORD_SHIFT) + R_IN]);
			if (table.findExternal(meta & 0xff, this.#c.externals.A[external], external, port) === i)
				this.begun(table.T16[(i << HALF_SHIFT) + R_HOST], meta & 0xff);
		}
	}

	/** Counts a mapping that has begun, while they are counted. */
	begun(host: number, protocol: number): void {
		const kind = portKind(protocol);
		if (kind >= 0) this.#c.hosts.mapped(host, kind, 1);
	}

	// ---- ends -------------------------------------------------------------------------------------------------------

	/** Deals with at most `budget` sessions whose time is up; returns with how many. */
	expire(budget: number): number {
		const c = this.#c;
		c.expectations.expire(c.now);
		if (c.hosts.counting && c.now - this.#pressedAt > RELAX) {
			c.table.spare.relax();
			c.hosts.stopCounting();
		}
		let ended = 0;
		for (let state = 1; state < STATES; state++) {
			while (ended < budget) {
				const i = c.table.expired(state, c.now16);
				if (i === 0) break;
				// RFC 7857 figure 1: an idle connection goes to TRANS first, where the next segment revives it.
				const open = state === TCP_ESTABLISHED || state === TCP_INSPECTED;
				if (open && (c.table.T[(i << RECORD_SHIFT) + R_META] & 0xff) === TCP) c.table.setState(i, TCP_RESET, c.now16);
				else this.end(i, "timeout");
				ended++;
			}
		}
		this.overdue = ended === budget;
		this.#clearAt = this.overdue ? -1 : c.now;
		return ended;
	}

	/** Second in which {@link expire} is to be called though nothing else happens; Infinity if nothing is to end. */
	get dueAt(): number {
		const { table, now, now16 } = this.#c;
		let due = Number.POSITIVE_INFINITY;
		for (let state = 1; state < STATES; state++) {
			const i = table.head(state);
			if (i === 0) continue;
			const life = table.timeouts[state];
			const grain = grainOf(life);
			due = Math.min(due, Math.ceil((now + Math.max(0, life - table.age(i, now16)) + 1) / grain) * grain);
		}
		return due;
	}

	/**
	 * Ends a session, or the rest of a port. With the last of a mapping its external port is given back, at once or
	 * after its rest: strangers may still be sending to a port that was open to them (RFC 6888 REQ-8; at once where
	 * peers are filtered or TCP is tracked). `owned` false: the port is somebody else's by now.
	 */
	end(i: number, cause: EndCause, owned = true): void {
		const c = this.#c;
		const meta = c.table.T[(i << RECORD_SHIFT) + R_META];
		const n = (meta >> EXTERNAL_SHIFT) & 0xff;
		const protocol = meta & 0xff;
		const external = c.externals.list[n];
		const port = swap16(secondOf(c.table.T[(i << RECORD_SHIFT) + R_IN]));
		const forwarded = this.#forwarded(n, protocol, port, swap16(firstOf(c.table.T[(i << RECORD_SHIFT) + R_OUT])));
		if (c.table.state(i) === QUARANTINED) {
			c.table.removeQuarantined(i);
			if (owned && !forwarded) c.externals.releasePort(n, protocol, port);
			return;
		}
		const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
		const last = c.table.alone(i);
		const own = owned && external.shared && portKind(protocol) >= 0 && !forwarded;
		if (own && protocol === UDP && (c.hosts.W[host * HOST_WORDS + HOST_PLACE] & HOST_EIF) !== 0 && last) {
			c.table.quarantine(i, external.address, c.now16);
		} else if (c.table.remove(i, external.address) && own) c.externals.releasePort(n, protocol, port);
		if (last && c.hosts.counting && portKind(protocol) >= 0) c.hosts.mapped(host, portKind(protocol), -1);
		if (!external.shared && external.pool >= 0 && --external.sessions === 0) external.holder = 0;
		c.hosts.release(host);
		c.events?.ended(i, cause, last);
	}

	/**
	 * The external port (raw) that an internal endpoint's last mapping had and that rests still: the rest is over, the
	 * port free.
	 */
	endRest(protocol: number, internal: number, internalPort: number, external: number): number | undefined {
		const { table } = this.#c;
		const i = table.findQuarantined(protocol, internal, internalPort);
		if (i === 0 || ((table.T[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff) !== external) return undefined;
		this.end(i, "timeout");
		return secondOf(table.T[(i << RECORD_SHIFT) + R_IN]);
	}

	/** True for the external port of a forward: it stays reserved while the forward is configured. */
	#forwarded(n: number, protocol: number, port: number, internalPort: number): boolean {
		if (n !== 0 || !hasForwards(this.#c)) return false;
		const fits = (f: Forward) =>
			f.protocol === protocol && port >= f.first && port <= f.last && f.internalFirst + port - f.first === internalPort;
		return findForward(this.#c, fits) !== undefined;
	}
}
