/**
 * The next hops of the sessions: looked up again whenever routes or devices may have changed.
 */
import { HOP_SHIFT, R_META, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import type { Table } from "../conntrack/table.ts";
import { HAIRPIN, NO_ROUTE } from "../nat/context.ts";
import type { Follower } from "./follower.ts";

/** Looks the hops up. */
export class SessionHops implements Follower {
	readonly name = "next hops";
	readonly #table: Table;
	readonly #find: (peer: number) => number;
	readonly #changed: (i: number) => void;
	readonly #judged: (unroutable: boolean) => void;

	/**
	 * @param find the hop number of a peer (raw)
	 * @param changed a session has another hop
	 * @param judged whether some session has no route
	 */
	constructor(table: Table, find: (peer: number) => number, changed: (i: number) => void, judged: (unroutable: boolean) => void) {
		this.#table = table;
		this.#find = find;
		this.#changed = changed;
		this.#judged = judged;
	}

	follow(): void {
		const { T, layout } = this.#table;
		let unroutable = false;
		for (let i = 1; i <= layout.sessions; i++) {
			if (this.#table.state(i) === 0) continue;
			const e = (i << RECORD_SHIFT) + R_META;
			const before = T[e] >>> HOP_SHIFT;
			if (before === HAIRPIN) continue;
			const found = this.#find(T[(i << RECORD_SHIFT) + R_PEER]);
			if (found === NO_ROUTE) unroutable = true;
			const hop = Math.max(0, found);
			if (before !== hop) this.#changed(i);
			T[e] = (T[e] & ~(0xff << HOP_SHIFT)) | (hop << HOP_SHIFT);
		}
		this.#judged(unroutable);
	}

	close(): void {}
}
