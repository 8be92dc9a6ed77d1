/**
 * Inbound sessions that an ALG has announced: a fixed pool of (protocol, peer address, external endpoint) -> internal
 * endpoint, each for one session and for a minute. The external port is taken when it is announced, because the other
 * side is told its number, and goes over to the mapping that the session makes.
 */

import { EXTERNAL_SHIFT, R_IN, R_META, RECORD_SHIFT } from "../conntrack/record.ts";
import type { Table } from "../conntrack/table.ts";
import { secondOf, swap16 } from "../packet/layout.ts";
import type { Externals } from "./externals.ts";

/** Most expectations at a time, of all hosts and of one. */
const CAPACITY = 64;
const PER_HOST = 8;
/** Seconds within which the session must come. */
export const EXPECTED_WITHIN = 60;

/** One expected session. Addresses and ports raw. */
export interface Expectation {
	readonly protocol: number;
	/** Only this address may open it, from any port. */
	readonly peer: number;
	readonly external: number;
	readonly externalPort: number;
	readonly internal: number;
	readonly internalPort: number;
	/** The external port is taken for this expectation, not by a mapping that there was already. */
	readonly owner: boolean;
	until: number;
}

/** The pool. */
export class Expectations {
	readonly #table: Table;
	readonly #externals: Externals;
	/** The oldest first. */
	#list: Expectation[] = [];

	constructor(table: Table, externals: Externals) {
		this.#table = table;
		this.#externals = externals;
	}

	/**
	 * Expects a session from `peer` to an internal endpoint, through external address number `external`. `random` is a
	 * 32-bit integer, `now` in seconds. Returns the external port raw, or -1 if there is no room. What is expected
	 * already keeps its port; a host's ninth replaces its first.
	 */
	expect(protocol: number, peer: number, external: number, internal: number, internalPort: number, now: number, random: number): number {
		const same = this.#list.find(
			(e) =>
				e.protocol === protocol && e.peer === peer && e.external === external && e.internal === internal && e.internalPort === internalPort,
		);
		if (same !== undefined) {
			same.until = now + EXPECTED_WITHIN;
			return same.externalPort;
		}
		const own = this.#list.filter((e) => e.internal === internal);
		if (own.length >= PER_HOST) this.#drop(own[0]);
		if (this.#list.length === CAPACITY) return -1;
		const table = this.#table;
		const leader = table.findMapping(protocol, internal, internalPort);
		const mapped = leader !== 0 && ((table.T[(leader << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff) === external;
		const owner = !mapped && this.#externals.list[external].shared;
		let externalPort = mapped ? secondOf(table.T[(leader << RECORD_SHIFT) + R_IN]) : internalPort;
		if (owner) {
			const taken = this.#externals.takePort(external, protocol, swap16(internalPort), random);
			if (taken < 0) return -1;
			externalPort = swap16(taken);
		}
		this.#list.push({ protocol, peer, external, externalPort, internal, internalPort, owner, until: now + EXPECTED_WITHIN });
		return externalPort;
	}

	/** These expectations as they are now, over copies of table and externals. */
	copy(table: Table, externals: Externals): Expectations {
		const other = new Expectations(table, externals);
		other.#list = this.#list.map((e) => ({ ...e }));
		return other;
	}

	/** All of them, the oldest first. */
	get pending(): readonly Expectation[] {
		return this.#list;
	}

	/** What is expected from a peer at an external endpoint. */
	find(protocol: number, peer: number, external: number, externalPort: number): Expectation | undefined {
		if (this.#list.length === 0) return undefined;
		return this.#list.find((e) => e.externalPort === externalPort && e.peer === peer && e.protocol === protocol && e.external === external);
	}

	/** The session has come: its mapping owns the external port now. */
	met(e: Expectation): void {
		this.#list = this.#list.filter((other) => other !== e);
	}

	/** Forgets what has not come in time. */
	expire(now: number): void {
		while (this.#list.length > 0) {
			const late = this.#list.find((e) => e.until < now);
			if (late === undefined) return;
			this.#drop(late);
		}
	}

	#drop(e: Expectation): void {
		this.met(e);
		if (e.owner) this.#externals.releasePort(e.external, e.protocol, swap16(e.externalPort));
	}
}
