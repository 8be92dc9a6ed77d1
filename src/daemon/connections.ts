/**
 * The connections that the kernel gets of masqd: all at a stop, when nothing is translated any more and before the
 * kernel gets the first packet; and those of hosts that are the kernel's from now on, because a policy rule has come
 * that may be for them.
 */
import * as native from "masq:native";
import { R_INTERNAL, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE } from "../conntrack/states.ts";
import type { Admission } from "../nat/admission.ts";
import { type Context, inNets } from "../nat/context.ts";
import type { Follower } from "./follower.ts";
import type { Topology } from "./topology.ts";

/** What is read only when it is wanted. */
export function handOverBundle(): typeof import("../kernel/hand-over.ts") {
	return native.importBundle("hand-over") as typeof import("../kernel/hand-over.ts");
}

/** Hands them over. */
export class Connections implements Follower {
	readonly name = "connections";
	readonly #context: Context;
	readonly #admission: Admission;
	/** The kernel carries the packets: its connections are its own. */
	readonly #carried: boolean;
	#handed = "[]";

	constructor(context: Context, admission: Admission, carried: boolean) {
		this.#context = context;
		this.#admission = admission;
		this.#carried = carried;
		// An upgrade stops the daemon when it has replaced the files.
		if (!carried) native.holdBundle("hand-over");
	}

	follow(): void {}

	/** Hands over those of hosts that are the kernel's from now on. */
	leave({ handed }: Topology): void {
		const text = JSON.stringify(handed);
		if (text === this.#handed) return;
		this.#handed = text;
		const { lan, table, externals } = this.#context;
		const goes = (internal: number) => lan.some((l) => l.handed.length > 0 && inNets(l.nets, internal) && inNets(l.handed, internal));
		handOverBundle().handOver(native, table.T, externals.A, table.layout.sessions, goes);
		for (let i = 1; i <= table.layout.sessions; i++)
			if (table.state(i) !== FREE && goes(table.T[(i << RECORD_SHIFT) + R_INTERNAL])) this.#admission.end(i, "policy");
	}

	close(relieved: boolean): void {
		const { table, externals } = this.#context;
		if (!relieved && !this.#carried) handOverBundle().handOver(native, table.T, externals.A, table.layout.sessions);
	}
}
