/**
 * The WAN port has another address. Mappings that do not care move to it with their ports, so the next packet leaves
 * from the new address through the same mapping: UDP, ICMP queries, protocols without ports. TCP cannot move: the
 * inside is told by a reset, and what it sends all the same is answered with one. Static NAT and pools have addresses
 * of their own.
 */
import { EXTERNAL_SHIFT, R_IN, R_META, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE, QUARANTINED, TCP_CLOSING, TCP_RESET, TCP_SYN_IN, TCP_SYN_OUT } from "../conntrack/states.ts";
import { H_CHANGING } from "../conntrack/table-layout.ts";
import { secondOf, TCP } from "../packet/layout.ts";
import type { Admission } from "./admission.ts";
import type { Context } from "./context.ts";

/** What became of the sessions. */
export interface Renumbered {
	moved: number;
	ended: number;
}

/**
 * Changes the WAN port's address from the one in the table to `address`, both not 0. `reset` is called for each TCP
 * session that its host takes to be alive, before it ends. The order of the stores is such that a restore understands
 * the table at any moment (table.ts).
 */
export function renumber(c: Context, admission: Admission, address: number, reset: (i: number) => void): Renumbered {
	const { table, externals } = c;
	const { T } = table;
	const before = externals.A[0];
	const result: Renumbered = { moved: 0, ended: 0 };
	for (let i = 1; i <= table.layout.sessions; i++) {
		const e = i << RECORD_SHIFT;
		if (table.hooks !== null) table.hooks.sync(i);
		const meta = T[e + R_META];
		const state = table.state(i);
		if (state === FREE) continue;
		// Two internal hosts that meet at the address meet there no more.
		const hairpin = T[e + R_PEER] === before;
		if (((meta >> EXTERNAL_SHIFT) & 0xff) !== 0 && !hairpin) continue;
		if ((meta & 0xff) !== TCP && state !== QUARANTINED && !hairpin) continue;
		if ((meta & 0xff) === TCP && state !== TCP_SYN_OUT && state !== TCP_SYN_IN && state !== TCP_CLOSING && state !== TCP_RESET) reset(i);
		if (state !== QUARANTINED) result.ended++;
		admission.end(i, "wan-address");
		// A port at the old address needs no rest at the new one.
		if (table.state(i) === QUARANTINED) admission.end(i, "wan-address");
	}
	const each = (f: (i: number) => void) => {
		for (let i = 1; i <= table.layout.sessions; i++) {
			if (table.state(i) !== FREE && ((T[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff) === 0) f(i);
		}
	};
	// Who keeps a log of mappings is told of each that it ends at the old address and begins at the new one.
	const leads = (i: number) => {
		const e = i << RECORD_SHIFT;
		return table.sibling(i) === i || table.findExternal(T[e + R_META] & 0xff, externals.A[0], 0, secondOf(T[e + R_IN])) === i;
	};
	const { events } = c;
	if (events !== null) each((i) => events.ended(i, "wan-address", leads(i)));
	table.header[H_CHANGING] = before;
	table.addresses[0] = address;
	table.renumber(each, before, address);
	each(() => {
		result.moved++;
	});
	externals.setAddress(0, address);
	table.header[H_CHANGING] = 0;
	if (events !== null) each((i) => events.created(i, leads(i)));
	c.adopt = false;
	return result;
}
