/**
 * Port forwards that internal hosts ask for themselves (RFC 6887, RFC 6886; RFC 6888 REQ-9): kept like configured ones
 * for as long as was asked, in a list of fixed size. The list stands in memory that may be a file's, so that it
 * outlives the process with the sessions that it has let in. A port of the WAN's own address is given, so hosts of
 * pools, which have others, get none. Ports of configured forwards are neither taken nor given back here. A host gets
 * ports for itself only, above 1023, of masqd's own range, and the port that its mapping already has if there is one.
 * When the list is full, who has least takes the place that ends first of who has most, so that nobody keeps the others
 * out.
 */

import { EXTERNAL_SHIFT, R_IN, R_META, RECORD_SHIFT } from "../conntrack/record.ts";
import { isBroadcast } from "../packet/address-class.ts";
import { addressValue, secondOf, swap16, swap32, TCP, UDP } from "../packet/layout.ts";
import type { PortAnswer, PortRequest } from "../packet/pcp.ts";
import {
	ANNOUNCE,
	CANNOT_PROVIDE_EXTERNAL,
	NETWORK_FAILURE,
	NO_RESOURCES,
	NOT_AUTHORIZED,
	PEER,
	SUCCESS,
	USER_EX_QUOTA,
} from "../packet/pcp-code.ts";
import { type Context, type Forward, isConfigured, lanOf } from "./context.ts";
import { portKind } from "./externals.ts";
import { poolOf } from "./pool.ts";
import { BORROW_FREE } from "./shares.ts";

/** Most of all hosts, and of one. */
const MOST = 256;
const MOST_PER_HOST = 32;
const LIFETIME_LEAST = 120;
const LIFETIME_MOST = 86_400;

interface Entry {
	/** Its place in the memory. */
	place: number;
	forward: Forward;
	nonce: string;
	/** Second in which it ends. */
	until: number;
}

/**
 * Words of the memory: header, then an entry each. The word that says what an entry is, is written last and cleared
 * first, so an entry that a kill has cut short is none.
 */
const MAGIC = 0x50435031;
const H_MAGIC = 0;
const H_BOOT = 1;
const H_EPOCH = 5;
/** The external address that hosts have been told, raw. */
const H_ADDRESS = 6;
const HEADER = 8;
/** Protocol | PEER << 8 | nonce there << 9; 0: free. */
const E_KIND = 0;
const E_INTERNAL = 1;
/** External port | internal port << 16. */
const E_PORTS = 2;
const E_SOURCE = 3;
const E_UNTIL = 4;
const E_NONCE = 5;
const ENTRY = 8;
const IS_PEER = 0x100;
const HAS_NONCE = 0x200;

/** Bytes of memory that {@link PcpMappings} needs. */
export const PCP_MAPPINGS_BYTES = (HEADER + MOST * ENTRY) * 4;

/** The list; its forwards stand in the context. */
export class PcpMappings {
	readonly #c: Context;
	readonly #W: Int32Array;
	#entries: Entry[] = [];

	/**
	 * `memory` is a file's if the list is to outlive the process; {@link takeOver} is to be called before anything else
	 * then.
	 */
	constructor(c: Context, memory: ArrayBuffer) {
		this.#c = c;
		this.#W = new Int32Array(memory, 0, HEADER + MOST * ENTRY);
	}

	/**
	 * Goes on with what the memory holds, which reserves the ports, or begins anew; `boot` identifies this boot of the
	 * machine, four words. Where no host may ask any more it begins anew too: what they had opened is closed then.
	 *
	 * @returns true if there was a list: then hosts need not be told that mappings were lost.
	 */
	takeOver(boot: Int32Array): boolean {
		const W = this.#W;
		const c = this.#c;
		const wanted = c.lan.some((lan) => lan.pcp);
		const known = wanted && W[H_MAGIC] === MAGIC && boot.every((word, n) => W[H_BOOT + n] === word) && W[H_EPOCH] <= c.now;
		if (!known) {
			W.fill(0);
			W.set(boot, H_BOOT);
			W[H_EPOCH] = c.now;
			W[H_MAGIC] = MAGIC;
			return false;
		}
		for (let place = 0; place < MOST; place++) {
			const e = HEADER + place * ENTRY;
			const kind = W[e + E_KIND];
			if (kind === 0) continue;
			const first = W[e + E_PORTS] & 0xffff;
			const forward: Forward = {
				protocol: kind & 0xff,
				first,
				last: first,
				internal: W[e + E_INTERNAL],
				internalFirst: W[e + E_PORTS] >>> 16,
				source: kind & IS_PEER ? { address: W[e + E_SOURCE], mask: -1 } : null,
			};
			const until = W[e + E_UNTIL];
			const shared = this.#entries.some((o) => o.forward.first === first && o.forward.protocol === forward.protocol);
			const ported = forward.protocol === TCP || forward.protocol === UDP;
			const fits = this.#mayAsk(forward.internal) && ported && until > c.now && until <= c.now + LIFETIME_MOST;
			if (!fits || !(shared || c.externals.reservePort(0, forward.protocol, first))) {
				W[e + E_KIND] = 0;
				continue;
			}
			const nonce = kind & HAS_NONCE ? [0, 1, 2].map((n) => (W[e + E_NONCE + n] >>> 0).toString(16).padStart(8, "0")).join("") : "";
			this.#entries.push({ place, forward, nonce, until });
			c.requested.push(forward);
		}
		return true;
	}

	/**
	 * The external address is `address` (raw, not 0): true if hosts are to be told, because they were told another or
	 * none. If another, the epoch begins anew (RFC 6887 section 8.5); if none, nobody has relied on one.
	 */
	follow(address: number): boolean {
		if (this.#W[H_ADDRESS] === address) return false;
		if (this.#W[H_ADDRESS] !== 0) this.#W[H_EPOCH] = this.#c.now;
		this.#W[H_ADDRESS] = address;
		return true;
	}

	/** Seconds since the list began, or the external address changed: PCP's epoch. */
	get epoch(): number {
		return this.#c.now - this.#W[H_EPOCH];
	}

	#store(place: number, forward: Forward, nonce: string, until: number): void {
		const W = this.#W;
		const e = HEADER + place * ENTRY;
		W[e + E_INTERNAL] = forward.internal;
		W[e + E_PORTS] = forward.first | (forward.internalFirst << 16);
		W[e + E_SOURCE] = forward.source?.address ?? 0;
		W[e + E_UNTIL] = until;
		for (let n = 0; n < 3; n++) W[e + E_NONCE + n] = Number.parseInt(nonce.slice(n * 8, n * 8 + 8) || "0", 16);
		W[e + E_KIND] = forward.protocol | (forward.source === null ? 0 : IS_PEER) | (nonce === "" ? 0 : HAS_NONCE);
	}

	#freePlace(): number {
		let place = 0;
		while (this.#W[HEADER + place * ENTRY + E_KIND] !== 0) place++;
		return place;
	}

	/**
	 * Whether a host (raw) may have ports of the WAN's own address, and ask for them. That of a device without
	 * addresses may be its host still.
	 */
	#mayAsk(internal: number): boolean {
		const { lan, policy, externals } = this.#c;
		if (externals.ofInternal(internal) >= 0 || poolOf(policy, internal) >= 0) return false;
		const port = lanOf(lan, internal);
		return port >= 0 ? lan[port].pcp : lan.some((l) => l.pcp && l.nets.length === 0);
	}

	/** Grants or ends what host `inside` (raw) asks for, whose request came by LAN port number `port`. */
	handle(q: PortRequest, internal: number, port: number): PortAnswer {
		const c = this.#c;
		const answer: PortAnswer = { result: SUCCESS, external: addressValue(c.externals.A[0]), port: 0, lifetime: 0 };
		const refuse = (result: number) => ({ ...answer, result });
		const lan = c.lan[port];
		if (!lan.pcp || lanOf(c.lan, internal, lan.home) !== lan.home || isBroadcast(lan.nets, internal)) return refuse(NOT_AUTHORIZED);
		const fixed = c.externals.list.find((x) => x.internal === internal);
		if (fixed !== undefined) {
			// Static NAT: every port is its own already.
			return { ...answer, external: addressValue(fixed.address), port: q.internalPort, lifetime: Math.min(q.lifetime, LIFETIME_MOST) };
		}
		if (poolOf(c.policy, internal) >= 0) return refuse(NOT_AUTHORIZED);
		if (c.externals.A[0] === 0) return refuse(NETWORK_FAILURE);
		if (q.opcode === ANNOUNCE) return answer;
		if (q.lifetime === 0) return this.#end(q, internal) ? answer : refuse(NOT_AUTHORIZED);

		const lifetime = Math.min(Math.max(q.lifetime, LIFETIME_LEAST), LIFETIME_MOST);
		const known = this.#entries.find((e) => this.#is(e, q, internal));
		if (known !== undefined) {
			if (known.nonce !== q.nonce) return refuse(NOT_AUTHORIZED);
			known.until = c.now + lifetime;
			this.#W[HEADER + known.place * ENTRY + E_UNTIL] = known.until;
			return { ...answer, port: known.forward.first, lifetime };
		}
		const own = c.policy.forwards.find(
			(f) =>
				f.protocol === q.protocol &&
				f.internal === internal &&
				q.internalPort >= f.internalFirst &&
				q.internalPort - f.internalFirst <= f.last - f.first,
		);
		if (own !== undefined) {
			// It has what it asks for, unless its redirect is for some peers only.
			if (own.source !== null) return refuse(NOT_AUTHORIZED);
			const first = own.first + q.internalPort - own.internalFirst;
			return q.preferFailure && q.suggested !== 0 && first !== q.suggested
				? refuse(CANNOT_PROVIDE_EXTERNAL)
				: { ...answer, port: first, lifetime };
		}
		if (q.internalPort < 1024) return refuse(NOT_AUTHORIZED);
		const has = this.#entries.filter((e) => e.forward.internal === internal).length;
		if (has >= MOST_PER_HOST) return refuse(USER_EX_QUOTA);
		if (this.#entries.length >= MOST && !this.#makeRoom(has)) return refuse(NO_RESOURCES);
		const external = this.#port(q, internal);
		if (external < 0) return refuse(q.preferFailure ? CANNOT_PROVIDE_EXTERNAL : NO_RESOURCES);
		const source = q.opcode === PEER ? { address: swap32(q.peer), mask: -1 } : null;
		const forward = { protocol: q.protocol, first: external, last: external, internal, internalFirst: q.internalPort, source };
		const place = this.#freePlace();
		this.#entries.push({ place, forward, nonce: q.nonce, until: c.now + lifetime });
		this.#store(place, forward, q.nonce, c.now + lifetime);
		c.requested.push(forward);
		return { ...answer, port: external, lifetime };
	}

	/**
	 * Ends the request that ends first of the host that has most, for one that `has` fewer; false if none has more than
	 * that would have.
	 */
	#makeRoom(has: number): boolean {
		const counts = new Map<number, number>();
		for (const { forward } of this.#entries) counts.set(forward.internal, (counts.get(forward.internal) ?? 0) + 1);
		const most = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
		if (most[1] <= has + 1) return false;
		const theirs = this.#entries.filter((e) => e.forward.internal === most[0]);
		this.#remove([theirs.reduce((a, b) => (b.until < a.until ? b : a))]);
		return true;
	}

	#is(e: Entry, q: PortRequest, internal: number): boolean {
		const f = e.forward;
		const sameKind = (f.source === null) === (q.opcode !== PEER) && (f.source === null || f.source.address === swap32(q.peer));
		return f.internal === internal && f.protocol === q.protocol && f.internalFirst === q.internalPort && sameKind;
	}

	/** The external port of the endpoint: its mapping's, or one taken for it; -1 if there is none. */
	#port(q: PortRequest, internal: number): number {
		const c = this.#c;
		const other = this.#entries.find(
			(e) => e.forward.internal === internal && e.forward.protocol === q.protocol && e.forward.internalFirst === q.internalPort,
		);
		const leader = c.table.findMapping(q.protocol, internal, swap16(q.internalPort));
		if (other !== undefined || leader !== 0) {
			if (other === undefined && ((c.table.T[(leader << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff) !== 0) return -1;
			const port = other?.forward.first ?? swap16(secondOf(c.table.T[(leader << RECORD_SHIFT) + R_IN]));
			return q.preferFailure && q.suggested !== 0 && port !== q.suggested ? -1 : port;
		}
		// The last ones are for what hosts open (shares.ts).
		if (c.externals.freePorts(0, portKind(q.protocol)) <= c.externals.ports * BORROW_FREE) return -1;
		if (q.suggested >= 1024 && c.externals.reservePort(0, q.protocol, q.suggested)) return q.suggested;
		if (q.preferFailure && q.suggested !== 0) return -1;
		return c.externals.takePort(0, q.protocol, q.internalPort, c.random());
	}

	#end(q: PortRequest, internal: number): boolean {
		// NAT-PMP: port 0 means all of the host's and protocol (RFC 6886 section 3.4).
		const all = q.version === 0 && q.internalPort === 0;
		const gone = this.#entries.filter((e) =>
			all ? e.forward.internal === internal && e.forward.protocol === q.protocol : this.#is(e, q, internal),
		);
		if (gone.some((e) => e.nonce !== q.nonce)) return false;
		this.#remove(gone);
		return true;
	}

	#remove(gone: Entry[]): void {
		const c = this.#c;
		for (const e of gone) {
			const f = e.forward;
			this.#W[HEADER + e.place * ENTRY + E_KIND] = 0;
			this.#entries.splice(this.#entries.indexOf(e), 1);
			c.requested.splice(c.requested.indexOf(f), 1);
			// While it has sessions, or another peer's wish, the port stays theirs; a redirect's stays its own.
			if (isConfigured(c.policy, f.protocol, f.first)) continue;
			const others = this.#entries.some((o) => o.forward.first === f.first && o.forward.protocol === f.protocol);
			if (!others && c.table.findExternal(f.protocol, c.externals.A[0], 0, swap16(f.first)) === 0)
				c.externals.releasePort(0, f.protocol, f.first);
		}
	}

	/** Ends what has had its time; once a second. */
	expire(): void {
		if (this.#entries.length === 0) return;
		const gone = this.#entries.filter((e) => this.#c.now >= e.until);
		if (gone.length > 0) this.#remove(gone);
	}

	/**
	 * After another configuration: ends what belongs to hosts that may not ask any more, and what has lost its port to
	 * a redirect or other ranges.
	 */
	withdraw(): void {
		const { policy } = this.#c;
		const stands = ({ internal, protocol, first }: Forward) =>
			this.#mayAsk(internal) && !isConfigured(policy, protocol, first) && policy.ranges.some((r) => first >= r.first && first <= r.last);
		this.#remove(this.#entries.filter((e) => !stands(e.forward)));
	}

	/** Second in which {@link expire} has something to end; Infinity if nothing has. */
	get dueAt(): number {
		return this.#entries.reduce((due, e) => Math.min(due, e.until), Number.POSITIVE_INFINITY);
	}
}
