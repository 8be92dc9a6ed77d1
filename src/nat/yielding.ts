/**
 * Protocols without ports are one's at a time towards a peer. The router may be the one: it is asked before a session
 * opens (outbound.ts), and what it begins to speak afterwards is taken back here.
 */
import { EXTERNAL_SHIFT, R_META, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { OTHER } from "../conntrack/states.ts";
import type { Admission } from "./admission.ts";
import type { Context } from "./context.ts";

/**
 * Ends the sessions in a protocol without ports at the WAN's own address whose peer the router itself speaks with by
 * now; returns how many.
 */
export function yieldToRouter(c: Context, admission: Admission): number {
	const { table } = c;
	let ended = 0;
	for (let i = table.head(OTHER); i !== 0; ) {
		const next = table.next(i);
		const meta = table.T[(i << RECORD_SHIFT) + R_META];
		if (((meta >> EXTERNAL_SHIFT) & 0xff) === 0 && c.routerSpeaks(meta & 0xff, table.T[(i << RECORD_SHIFT) + R_PEER])) {
			admission.end(i, "refused");
			ended++;
		}
		i = next;
	}
	return ended;
}
