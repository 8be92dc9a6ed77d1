/**
 * What a predecessor left in the table's file, and how a new process goes on with it (theory of operation in table.ts).
 *
 * Nothing but the header, the external addresses and the records are read. A record says twice what matters: its deltas
 * are those of its addresses and ports, and both ports words hold the peer's port. So a record that is not whole is
 * seen, whatever the two stores are between which its process was killed; one or two such are normal then, and more
 * mean that the file is damaged and not to be trusted at all.
 */
import { DCCP, firstOf, ICMP, SCTP, secondOf, TCP, UDP, UDPLITE } from "../packet/layout.ts";
import {
	ALG_INSPECTED,
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	R_DELTA,
	R_HOST,
	R_IN,
	R_LAST,
	R_META,
	R_OUT,
	R_PEER,
	RECORD_SHIFT,
	RECORD_WORDS,
	STATE_MASK,
	STATE_SHIFT,
} from "./record.ts";
import { FREE, ICMP_QUERY, OTHER, QUARANTINED, STATES, STRANGER, UDP_DNS, UDP_NEW, UDP_OPEN } from "./states.ts";
import { deltaOf, type Table } from "./table.ts";
import {
	EXTERNAL_WORDS,
	H_BOOT,
	H_CHANGING,
	H_CLOCK,
	H_KEYS,
	H_MAGIC,
	H_SESSIONS,
	H_VERSION,
	HEADER_WORDS,
	LARGE,
	LAYOUT_VERSION,
	layoutTable,
	MAGIC,
} from "./table-layout.ts";

/**
 * Records that may be broken in a file that is not damaged: one that was being made, one that made room for it, one in
 * reserve.
 */
const BROKEN_MAX = 3;
/**
 * A record may have been used this many seconds after the header's clock was last set: the daemon sleeps that long when
 * idle, and more.
 */
const CLOCK_LAG = 120;
/** Least and most sessions of a table. */
const SESSIONS_LEAST = 256;
const SESSIONS_MOST = 65535;

/** What {@link readImage} says of a file that masqd has not written, or not to the end. */
export const NOT_OURS = "it is not masqd's";

/** What a file holds. Arrays are views of it, not copies. */
export interface Image {
	sessions: number;
	keys: Int32Array;
	/** External addresses by number, raw. */
	addresses: Int32Array;
	/** Address of external 0 before the change that was going on, 0 if there was none. */
	changing: number;
	/** Seconds since boot when its owner was last known to live. */
	clock: number;
	T: Int32Array;
	T16: Uint16Array;
	/** The large counters. */
	large: Int32Array;
}

/** How many sessions a restore kept, and why it did not keep the others. */
export interface Restored {
	kept: number;
	/** Their time was up. */
	expired: number;
	/** The configuration or the router's own ports leave no place for them. */
	unfit: number;
	/** A kill fell between two stores. */
	broken: number;
	/** The table is smaller than it was; the least recently used went. */
	excess: number;
}

/**
 * Looks at a file's contents. `boot` identifies this boot of the machine, four words; `now` is in seconds since then.
 *
 * @returns the image, or why the file cannot be used: the rest of a sentence.
 */
export function readImage(buffer: ArrayBuffer, boot: Int32Array, now: number): Image | string {
	if (buffer.byteLength < HEADER_WORDS * 4) return "it is too short";
	const header = new Int32Array(buffer, 0, HEADER_WORDS);
	if (header[H_MAGIC] !== MAGIC) return NOT_OURS;
	if (header[H_VERSION] !== LAYOUT_VERSION) return `its layout is number ${header[H_VERSION]}, this masqd's is ${LAYOUT_VERSION}`;
	for (let n = 0; n < 4; n++) if (header[H_BOOT + n] !== boot[n]) return "it is from before the machine was started";
	const sessions = header[H_SESSIONS];
	if (sessions < SESSIONS_LEAST || sessions > SESSIONS_MOST) return "its header is damaged";
	const layout = layoutTable(sessions, 0);
	if (buffer.byteLength < layout.words * 4) return "its end is missing";
	const clock = header[H_CLOCK];
	if (clock < 0 || clock > now + 1) return "its clock is ahead";
	const words = (sessions + 1) * RECORD_WORDS;
	return {
		sessions,
		keys: header.slice(H_KEYS, H_KEYS + 3),
		addresses: new Int32Array(buffer, layout.externals * 4, EXTERNAL_WORDS),
		changing: header[H_CHANGING],
		clock,
		T: new Int32Array(buffer, layout.records * 4, words),
		T16: new Uint16Array(buffer, layout.records * 4, words * 2),
		large: new Int32Array(buffer, layout.large * 4, LARGE * 2),
	};
}

/** By protocol * STATES + state: 1 if there can be such a session. */
const POSSIBLE = new Uint8Array(256 * STATES);
for (let protocol = 0; protocol < 256; protocol++) {
	for (let state = 1; state < STATES; state++) POSSIBLE[protocol * STATES + state] = possible(protocol, state) ? 1 : 0;
}

/** True if sessions of a protocol can be in a state. */
function possible(protocol: number, state: number): boolean {
	const datagrams = state === UDP_NEW || state === UDP_OPEN || state === UDP_DNS || state === STRANGER;
	switch (protocol) {
		case UDP:
			return datagrams || state === QUARANTINED;
		case UDPLITE:
			return datagrams;
		case ICMP:
			return state === ICMP_QUERY || state === STRANGER;
		case TCP:
		case SCTP:
		case DCCP:
			return !datagrams && state !== ICMP_QUERY && state !== OTHER && state !== QUARANTINED;
		default:
			return state === OTHER || state === STRANGER;
	}
}

/**
 * Fills a table that was built with `keep` from the records of `image`, which are its own or those of another file.
 * `now` is in seconds since boot. `keep` judges a record that is whole and whose time is not up, and puts it into the
 * indexes; false refuses it. `late` then ends those that would have ended while nobody was there, as long ago as a port
 * rests at most: what they leave behind is as if somebody had been.
 *
 * @returns null if the records are damaged: the table is then to be cleared.
 */
export function restore(table: Table, image: Image, now: number, keep: (i: number) => boolean, late: (i: number) => void): Restored | null {
	const own = image.T.buffer === table.T.buffer;
	const { T: t, T16: t16, addresses, changing } = image;
	const { timeouts } = table;
	const result: Restored = { kept: 0, expired: 0, unfit: 0, broken: 0, excess: 0 };
	const clock16 = image.clock & 0xffff;
	const elapsed = now - image.clock;
	/** Time since the last use, counted down, above the record's number: sorted, it is the order of last use. */
	const order = new Uint32Array(image.sessions);
	let count = 0;
	/** By record of the image: 1 if its time was up. */
	const over = new Uint8Array(image.sessions + 1);
	const sessions = image.sessions;
	const fixedRoom = 0xffff - CLOCK_LAG;
	for (let i = 1; i <= sessions; i++) {
		const e = i << RECORD_SHIFT;
		const meta = t[e + R_META];
		const state = (meta >> STATE_SHIFT) & STATE_MASK;
		if (state === FREE) continue;
		const out = t[e + R_OUT];
		const inn = t[e + R_IN];
		const internal = t[e];
		const address = addresses[(meta >> EXTERNAL_SHIFT) & 0xff];
		let whole =
			state < STATES &&
			address !== 0 &&
			(secondOf(out) === firstOf(inn) || ((meta & 0xff) === TCP && (meta & ALG_INSPECTED) !== 0)) &&
			POSSIBLE[(meta & 0xff) * STATES + state] !== 0;
		let due = false;
		// As deltaOf, spelled out: this is the restore's time.
		let delta = ((internal & 0xffff) ^ 0xffff) + ((internal >>> 16) ^ 0xffff) + (address & 0xffff) + (address >>> 16);
		delta = (delta & 0xffff) + (delta >>> 16);
		delta = (delta & 0xffff) + (delta >>> 16);
		let both = delta + (firstOf(out) ^ 0xffff) + secondOf(inn);
		both = (both & 0xffff) + (both >>> 16);
		both = (both & 0xffff) + (both >>> 16);
		if (t[e + R_DELTA] !== (delta | (both << 16)) && whole) {
			// While external 0 changes its address some records are still in terms of the one before.
			whole = address === addresses[0] && changing !== 0 && t[e + R_DELTA] === deltaOf(internal, changing, out, inn);
			if ((meta & 0xff) === TCP || t[e + R_PEER] === changing) due = true;
			else if (whole && own) t[e + R_DELTA] = deltaOf(internal, address, out, inn);
		}
		if (!whole) {
			if (++result.broken > BROKEN_MAX) return null;
		} else {
			const idle = (clock16 - t16[(i << HALF_SHIFT) + R_LAST]) & 0xffff;
			const age = Math.max(0, (idle > fixedRoom ? idle - 0x10000 : idle) + elapsed);
			const overdue = age - timeouts[state];
			if (!due && overdue > 0 && state !== QUARANTINED && (meta & 0xff) === UDP && overdue <= timeouts[QUARANTINED]) over[i] = 1;
			if (!due && (overdue <= 0 || over[i] !== 0)) {
				order[count++] = ((0xffff - age) << 16) | i;
				continue;
			}
			result.expired++;
		}
		if (own) t[e + R_META] = 0;
	}
	const sorted = order.subarray(0, count).sort();
	let first = 0;
	if (!own) {
		first = Math.max(0, count - table.layout.sessions);
		result.excess = first;
		for (let k = first; k < count; k++) {
			const from = (sorted[k] & 0xffff) << RECORD_SHIFT;
			const e = (k - first + 1) << RECORD_SHIFT;
			table.T.set(t.subarray(from, from + RECORD_WORDS), e);
			const n = (t[from + R_META] >> EXTERNAL_SHIFT) & 0xff;
			table.T[e + R_DELTA] = deltaOf(t[from], addresses[n], t[from + R_OUT], t[from + R_IN]);
		}
	}
	const places = new Uint16Array(sessions + 1);
	const ended: number[] = [];
	for (let k = first; k < count; k++) {
		const i = own ? sorted[k] & 0xffff : k - first + 1;
		// Whoever keeps it says whose it is now.
		table.T16[(i << HALF_SHIFT) + R_HOST] = 0;
		if (keep(i)) {
			places[sorted[k] & 0xffff] = i;
			table.relist(i);
			if (over[sorted[k] & 0xffff] !== 0) ended.push(i);
			else if (table.state(i) !== QUARANTINED) result.kept++;
		} else {
			result.unfit++;
			table.T[(i << RECORD_SHIFT) + R_META] = 0;
		}
	}
	for (let i = 1; i <= table.layout.sessions; i++) if (table.state(i) === FREE) table.relist(i);
	table.large.restore(image.large, (i) => places[i] ?? 0);
	result.expired += ended.length;
	for (const i of ended) late(i);
	return result;
}
