/**
 * The firewall's bans in force: a session with whom they bar does not begin, and one that there is ends when somebody
 * is barred later.
 */
import { BARRED_OPEN } from "../conntrack/barred.ts";
import { R_META, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE, QUARANTINED } from "../conntrack/states.ts";
import type { ForeignBans } from "../kernel/foreign-bans.ts";
import type { Admission } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import type { Topology } from "./topology.ts";

export { ForeignBans } from "../kernel/foreign-bans.ts";

/** Sessions that are looked at in one turn of the loop. */
const SLICE = 64;

/** Has them followed. */
export class FirewallBans {
	/** Rules that may bar somebody and cannot be followed: table and chain. */
	left: string[] = [];
	readonly #context: Context;
	readonly #admission: Admission;
	#bans: ForeignBans | null = null;
	/** The next session to look at, 0 for none. */
	#next = 0;

	constructor(context: Context, admission: Admission) {
		this.#context = context;
		this.#admission = admission;
	}

	/** Sessions are still to be looked at. */
	get busy(): boolean {
		return this.#next > 0;
	}

	/** The rules, all of them read. */
	take(bans: ForeignBans, { wan, lan }: Topology): void {
		this.close();
		const devices = lan.map(({ device }) => device);
		const any = bans.finish(
			{ names: [wan.name], indexes: [wan.index] },
			{ names: devices.map(({ name }) => name), indexes: devices.map(({ index }) => index) },
		);
		this.left = bans.left;
		if (!any) {
			bans.close();
			return;
		}
		this.#bans = bans;
		this.#context.barred = (peer, protocol) => bans.barred(peer, protocol);
		this.#next = 1;
	}

	/** Sets have other elements. */
	changed(): void {
		if (this.#bans === null) return;
		this.#bans.forget();
		this.#next = 1;
	}

	/** Looks at some sessions more. */
	step(): void {
		const { table } = this.#context;
		const { T, layout } = table;
		const end = Math.min(this.#next + SLICE, layout.sessions + 1);
		for (let i = this.#next; i < end; i++) {
			const state = table.state(i);
			if (state === FREE || state === QUARANTINED) continue;
			const at = i << RECORD_SHIFT;
			const bits = this.#bans?.barred(T[at + R_PEER], T[at + R_META] & 0xff) ?? 0;
			if ((bits & BARRED_OPEN) !== 0) this.#admission.end(i, "policy");
		}
		this.#next = end > layout.sessions ? 0 : end;
	}

	/** What is not followed, in sentences. */
	warnings(): string[] {
		if (this.left.length === 0) return [];
		return [
			`the firewall has rules against hosts of the Internet that masqd cannot follow (nft ${this.left.join(", ")}): they ask for more than device, protocol and address; let them ask for the address alone, or drop at the WAN's ingress (netdev)`,
		];
	}

	close(): void {
		this.#bans?.close();
		this.#bans = null;
		this.#context.barred = null;
		this.#next = 0;
	}
}
