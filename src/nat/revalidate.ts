/**
 * Which sessions go on when something around them has changed: a restart found them in the table's file, or a reload
 * brought another policy. A session is kept if the policy would still let it be what it is; nothing else is asked of
 * it.
 */
import {
	EXTERNAL_SHIFT,
	FORWARDED,
	HALF_SHIFT,
	HOP_SHIFT,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PEER,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { FREE, QUARANTINED } from "../conntrack/states.ts";
import { HOST_HEADERS } from "../packet/header-tag.ts";
import { firstOf, hasPorts, ICMP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { type Context, HAIRPIN, inNets, lanOf, type Net, type Policy } from "./context.ts";
import type { External } from "./externals.ts";
import { claimPoolAddress, poolOf } from "./pool.ts";

/** What sessions are judged by. */
export interface Terms {
	policy: Policy;
	/** External addresses by number. */
	externals: readonly External[];
	/** Destinations that are not translated. */
	exempts: readonly Net[];
	/** Subnets of all LAN ports; empty while none is known. */
	nets: Net[];
}

/** Judges sessions; numbers are those of records. */
export class Revalidator {
	readonly #c: Context;
	readonly #t: Terms;
	readonly #fixed = new Map<number, number>();
	readonly #own: Set<number>;

	constructor(c: Context, terms: Terms) {
		this.#c = c;
		this.#t = terms;
		this.#own = new Set(terms.externals.map((x) => x?.address ?? 0));
		for (const [n, x] of terms.externals.entries()) if (x.internal !== 0) this.#fixed.set(x.internal, n);
	}

	/** True if the terms allow the session, or the resting port. */
	permits(i: number): boolean {
		const { T } = this.#c.table;
		const { policy, externals, exempts, nets } = this.#t;
		const e = i << RECORD_SHIFT;
		const meta = T[e + R_META];
		const n = (meta >> EXTERNAL_SHIFT) & 0xff;
		const protocol = meta & 0xff;
		const internal = T[e];
		const peer = T[e + R_PEER];
		const x = externals[n];
		// The number is another address's now: the deltas are not for it.
		if (x === undefined || x.address === 0 || x.address !== this.#c.table.addresses[n]) return false;
		if (nets.length > 0 && !inNets(nets, internal)) return false;
		// Only internal hosts meet at our own addresses, and as the policy in force lets them.
		const hairpin = meta >>> HOP_SHIFT === HAIRPIN;
		if (hairpin !== this.#own.has(peer) || (hairpin && policy.hairpin !== this.#c.policy.hairpin)) return false;
		for (let k = 0; k < exempts.length; k++) if (((peer ^ exempts[k].address) & exempts[k].mask) === 0) return false;
		const port = swap16(secondOf(T[e + R_IN]));
		if (meta & FORWARDED || (n === 0 && policy.forwards.length > 0)) {
			const internalPort = swap16(firstOf(T[e + R_OUT]));
			let claimed = false;
			for (const f of policy.forwards) {
				if (n !== 0 || f.protocol !== protocol || port < f.first || port > f.last) continue;
				claimed = true;
				if (f.internal !== internal || f.internalFirst + port - f.first !== internalPort) continue;
				if (f.source === null || ((peer ^ f.source.address) & f.source.mask) === 0) return true;
			}
			if (claimed || meta & FORWARDED) return false;
		}
		if (x.internal !== 0) return x.internal === internal;
		if (this.#fixed.size > 0 && (this.#fixed.get(internal) ?? n) !== n) return false;
		if (policy.pools.length > 0 && poolOf(policy, internal) !== x.pool) return false;
		if (!x.shared || (!hasPorts(protocol) && protocol !== ICMP)) return true;
		const { ranges } = policy;
		for (let k = 0; k < ranges.length; k++) if (port >= ranges[k].first && port <= ranges[k].last) return true;
		return false;
	}

	/**
	 * Takes over a record of a restored table: claims its port and pool address, counts its host and puts it into the
	 * indexes. False, and nothing done, if it does not fit, or something that it needs is not there. Use it with the
	 * policy in force.
	 */
	adopt(i: number): boolean {
		const c = this.#c;
		const { table, hosts } = c;
		const { T, T16 } = table;
		if (!this.permits(i)) return false;
		const e = i << RECORD_SHIFT;
		const meta = T[e + R_META];
		const n = (meta >> EXTERNAL_SHIFT) & 0xff;
		const protocol = meta & 0xff;
		const x = this.#t.externals[n];
		const internal = T[e];
		const mapped = protocol === TCP || protocol === UDP || protocol === ICMP;
		if (table.state(i) === QUARANTINED) {
			if (!this.#claim(i)) return false;
			table.relinkQuarantined(i);
			return true;
		}
		if (!x.shared && x.pool >= 0 && x.holder !== 0 && x.holder !== internal) return false;
		let host = hosts.find(internal);
		if (host === 0) {
			host = hosts.obtain(internal, c.policy.hosts.get(internal)?.flags ?? c.policy.filtering);
			if (host === 0) return false;
			this.placeHost(host);
		}
		// Two internal endpoints with one external endpoint cannot both be right.
		const before = table.relink(i, x.address, mapped || hasPorts(protocol));
		const good = before > 0 || (before === 0 && (!x.shared || !mapped || this.#claim(i)));
		if (!good) {
			if (before === 0) table.unlink(i, x.address);
			if (hosts.sessions(host) === 0) hosts.release(host);
			return false;
		}
		hosts.retain(host);
		T16[(i << HALF_SHIFT) + R_HOST] = host;
		if (x.pool >= 0) {
			claimPoolAddress(x, internal);
			hosts.pair(host, n);
		}
		return true;
	}

	/** Says on which LAN port a host is, by its address; where its frames go is then asked of the kernel. */
	placeHost(host: number): void {
		const { hosts, headers, lan } = this.#c;
		const port = Math.max(0, lanOf(lan, hosts.W[host * HOST_WORDS]));
		hosts.lose(host);
		headers.changed?.(HOST_HEADERS + host);
		if (lan[port].ethernet) hosts.assign(host, port);
		else hosts.place(host, port);
	}

	/**
	 * Takes the external port of a record's mapping: its own forward's is reserved already. False if somebody else has
	 * it.
	 */
	#claim(i: number): boolean {
		const { T } = this.#c.table;
		const e = i << RECORD_SHIFT;
		const meta = T[e + R_META];
		const n = (meta >> EXTERNAL_SHIFT) & 0xff;
		const protocol = meta & 0xff;
		const port = swap16(secondOf(T[e + R_IN]));
		if (n === 0 && this.#t.policy.forwards.length + this.#c.requested.length > 0) {
			for (const f of [...this.#t.policy.forwards, ...this.#c.requested])
				if (f.protocol === protocol && port >= f.first && port <= f.last) return true;
		}
		return this.#c.externals.reservePort(n, protocol, port);
	}

	/**
	 * Claims again what the sessions of the table hold, after the externals were made anew; each of them fits. Returns
	 * the records of those that could not have their port back.
	 */
	reclaim(): number[] {
		const { table } = this.#c;
		const seen = new Uint8Array(table.layout.sessions + 1);
		const lost: number[] = [];
		for (let i = 1; i <= table.layout.sessions; i++) {
			const state = table.state(i);
			if (state === FREE) continue;
			const e = i << RECORD_SHIFT;
			const meta = table.T[e + R_META];
			const x = this.#t.externals[(meta >> EXTERNAL_SHIFT) & 0xff];
			if (state !== QUARANTINED) claimPoolAddress(x, table.T[e]);
			const protocol = meta & 0xff;
			if (seen[i] !== 0 || !x.shared || (protocol !== TCP && protocol !== UDP && protocol !== ICMP)) continue;
			const claimed = this.#claim(i);
			let k = i;
			do {
				seen[k] = 1;
				if (!claimed) lost.push(k);
				k = state === QUARANTINED ? i : table.sibling(k);
			} while (k !== i);
		}
		return lost;
	}
}

/** Sessions that a reload ends, by their records: those of the table that do not fit the new terms. */
export function unfit(c: Context, revalidator: Revalidator): number[] {
	const list: number[] = [];
	for (let i = 1; i <= c.table.layout.sessions; i++) if (c.table.state(i) !== FREE && !revalidator.permits(i)) list.push(i);
	return list;
}
