/**
 * Whether a table is whole: every invariant of its lists, chains and rings. Tests and the fuzzer ask; the daemon never
 * does.
 */
import { adjust, wordDelta } from "../packet/checksum.ts";
import { firstOf, secondOf } from "../packet/layout.ts";
import {
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	R_DELTA,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PEER,
	R_PREVIOUS,
	R_SPARE_PREVIOUS,
	RECORD_SHIFT,
} from "./record.ts";
import { FREE, GIVEN, LIVE, OTHER, QUARANTINED, STATES, UNANSWERED } from "./states.ts";
import type { Table } from "./table.ts";

/**
 * Checks every invariant of lists, chains and rings; throws an Error that names the first violation. `addressOf` gives
 * an external address, raw, by its number.
 */
export function verifyTable(table: Table, addressOf: (external: number) => number): void {
	const { T: t, T16: t16, layout } = table;
	const lists = new Uint16Array(t.buffer, layout.lists * 4, STATES * 2);
	const n = layout.sessions;
	const fail = (what: string, i: number) => {
		throw new Error(`table: ${what} (record ${i})`);
	};
	let listed = 0;
	for (let s = 0; s < STATES; s++) {
		let before = 0;
		let count = 0;
		for (let i = lists[s << 1]; i !== 0; i = table.next(i)) {
			if (t16[(i << HALF_SHIFT) + R_PREVIOUS] !== before) fail("list is not doubly linked", i);
			if (table.state(i) !== s) fail("record is in a list of another state", i);
			if (++count > n) fail("list is a loop", i);
			before = i;
		}
		if (lists[(s << 1) + 1] !== before) fail("list has a wrong tail", before);
		if (count !== table.count(s)) fail("list has a wrong count", s);
		listed += count;
	}
	if (listed !== n) fail("records are missing from the lists", listed);
	verifySpare(table, fail);
	const rings = new Uint16Array(n + 1);
	for (let i = 1; i <= n; i++) {
		if (table.state(i) === FREE) continue;
		const e = i << RECORD_SHIFT;
		const m = t[e + R_META];
		if (table.state(i) === QUARANTINED) {
			if (table.findQuarantined(m & 0xff, t[e], firstOf(t[e + R_OUT])) === 0) fail("resting port is not found", i);
			continue;
		}
		const x = (m >> EXTERNAL_SHIFT) & 0xff;
		if (table.findOut(m & 0xff, t[e], t[e + R_PEER], t[e + R_OUT]) !== i) fail("not found by its outbound key", i);
		if (table.findIn(m & 0xff, t[e + R_PEER], addressOf(x), x, t[e + R_IN]) !== i) fail("not found by its inbound key", i);
		const leader = table.findExternal(m & 0xff, addressOf(x), x, secondOf(t[e + R_IN]));
		if (leader === 0) fail("its mapping is not found by the external endpoint", i);
		const sameInternal = t[leader << RECORD_SHIFT] === t[e];
		if (table.findPeer(leader, t[e + R_PEER], addressOf(x)) === 0) fail("not found by its peer's address", i);
		if (table.state(i) === OTHER) continue;
		if (!sameInternal || table.findMapping(m & 0xff, t[e], firstOf(t[e + R_OUT])) === 0) fail("mapping indexes disagree", i);
		// Once around each ring: in the end each of its members has been met.
		for (let j = leader; j !== 0 && rings[j] === 0; j = table.sibling(j)) rings[j] = leader;
		if (rings[i] !== leader) fail("not in the ring of its mapping", i);
		if (adjust(0, t[e + R_DELTA] & 0xffff) !== adjust(0, wordDelta(t[e], addressOf(x)))) fail("wrong delta", i);
	}
}

function verifySpare(table: Table, fail: (what: string, i: number) => void): void {
	const n = table.layout.sessions;
	const counts = new Uint32Array((table.layout.hosts + 1) * 3);
	for (let i = 1; i <= n; i++) {
		if (table.state(i) === FREE || table.state(i) === QUARANTINED) continue;
		counts[table.T16[(i << HALF_SHIFT) + R_HOST] * 3 + table.spareOf(i)]++;
	}
	let answered = 0;
	for (let host = 0; host <= table.layout.hosts; host++) {
		const [live, given] = [counts[host * 3 + LIVE], counts[host * 3 + GIVEN]];
		if (live > 0) answered++;
		if (table.spare.live(host) !== live || table.spare.given(host) !== given)
			fail(`${live} live, ${given} given sessions of host ${host} counted wrongly`, 0);
		for (const kind of [GIVEN, UNANSWERED]) {
			const wanted = kind === GIVEN || table.spare.pressed ? counts[host * 3 + kind] : 0;
			let before = table.spare.first(host, kind);
			if ((before === 0) !== (wanted === 0)) fail(`list of kind ${kind} of host ${host} is empty, or is not`, before);
			for (let k = 0; k < wanted; k++) {
				const i = table.spare.next(before);
				if (table.T16[(i << HALF_SHIFT) + R_SPARE_PREVIOUS] !== before) fail("list of what may go is not doubly linked", i);
				if (table.T16[(i << HALF_SHIFT) + R_HOST] !== host || table.spareOf(i) !== kind) fail("in the wrong list of what may go", i);
				before = i;
			}
			if (before !== table.spare.first(host, kind)) fail(`list of what may go of host ${host} has a wrong length`, before);
		}
	}
	if (answered !== table.spare.answered) fail(`${table.spare.answered} of ${answered} hosts counted that were answered`, 0);
}
