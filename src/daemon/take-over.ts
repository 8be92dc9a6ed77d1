/**
 * What a predecessor left: its sessions go on under the plan in force, or there are none.
 */
import type { Accounts } from "../conntrack/accounts.ts";
import { HOST_WORDS } from "../conntrack/record.ts";
import { type Restored, restore } from "../conntrack/restore.ts";
import { PORT_QUARANTINE } from "../conntrack/states.ts";
import type { Admission } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import type { InForce } from "./in-force.ts";
import type { Log } from "./log.ts";
import type { State } from "./state.ts";

/** Goes on with the sessions of a state file, or begins with none. Returns whether there was a predecessor's. */
export function takeOver(
	state: State,
	path: string,
	boot: Int32Array,
	context: Context,
	admission: Admission,
	accounts: Accounts,
	inForce: InForce,
	log: Log,
): boolean {
	const { table, externals, hosts } = context;
	let { refused } = state;
	const resumed = accounts.resume(boot, state.image);
	if (state.image !== null) {
		table.addresses.set(state.image.addresses);
		const keeper = inForce.keeper();
		const done = restore(
			table,
			state.image,
			context.now,
			(i) => keeper.adopt(i),
			(i) => admission.end(i, "timeout"),
		);
		if (done === null) {
			refused = "its records are damaged";
			table.clear();
			hosts.clear();
			inForce.put(inForce.plan, 0, new Int32Array(0));
		} else if (done.kept + done.unfit + done.broken + done.excess > 0) log.notice(restoredWords(done));
	}
	if (refused !== "") {
		log.notice(`${path} is not used, ${refused}: starting with no sessions`);
		context.strangersFrom = context.now + PORT_QUARANTINE;
	}
	table.publish(boot, externals.A, context.now);
	const known: number[] = [];
	for (let host = 1; host <= hosts.capacity; host++) if (hosts.sessions(host) > 0) known.push(hosts.W[host * HOST_WORDS]);
	resumed(known);
	table.accounts = accounts;
	hosts.accounts = accounts;
	return state.image !== null;
}

/**
 * Somebody has cut the state file: its records are gone, and zeros stand for them (`mapFile`). Goes on with no
 * sessions.
 */
export function startAnew(path: string, boot: Int32Array, context: Context, inForce: InForce, ended: (i: number) => void, log: Log): void {
	const { table, externals, hosts } = context;
	for (let i = 1; i <= table.layout.sessions; i++) ended(i);
	table.clear();
	hosts.clear();
	inForce.put(inForce.plan, externals.A[0], externals.A.slice());
	context.strangersFrom = context.now + PORT_QUARANTINE;
	context.adopt = true;
	table.accounts?.begin();
	table.publish(boot, externals.A, context.now);
	log.error(`somebody has cut ${path} short: its sessions are lost, new ones go on`);
}

/** What became of a predecessor's sessions, in a line. */
function restoredWords(r: Restored): string {
	const parts = [`${r.kept} sessions restored`];
	if (r.unfit > 0) parts.push(`${r.unfit} no longer permitted by the configuration`);
	if (r.excess > 0) parts.push(`${r.excess} discarded (table smaller)`);
	if (r.broken > 0) parts.push(`${r.broken} were being written when masqd died`);
	return parts.join(", ");
}
