/**
 * Where the parts of the table lie in its memory, which is a file: header, external addresses, records, indexes, hosts,
 * large counters, port bitmaps. record.ts has the layout of a record, restore.ts reads what a predecessor left.
 */
import { RECORD_WORDS } from "./record.ts";
import { STATES } from "./states.ts";

export const MAGIC = 0x6d617371;
/** Changes with every change of the layout: a file with another number is not ours to read. */
export const LAYOUT_VERSION = 4;
export const HEADER_WORDS = 64;
/** External addresses by number, raw: what the numbers in the records mean. */
export const EXTERNAL_WORDS = 256;
/** Words of the header. */
export const H_MAGIC = 0;
export const H_VERSION = 1;
export const H_SESSIONS = 2;
/** Hash keys, three words. */
export const H_KEYS = 3;
/** Boot identifier, four words. */
export const H_BOOT = 8;
/** Seconds since boot of the last sign of life. */
export const H_CLOCK = 12;
/** While the address of external 0 changes: the one before, in whose terms some records may still be; else 0. */
export const H_CHANGING = 13;

/**
 * Counters that may have gone beyond their place in a record at a time, of two words each: L_KEY, L_COUNT. Those of
 * further sessions come round.
 */
export const LARGE = 60;

/** Where each part lies, in words from the start of the buffer. */
export interface TableLayout {
	sessions: number;
	hosts: number;
	/** log2 of the number of chain heads of a session index. */
	bits: number;
	externals: number;
	records: number;
	outHeads: number;
	inHeads: number;
	mapOutHeads: number;
	mapInHeads: number;
	ring: number;
	mapChains: number;
	peerHeads: number;
	hostRecords: number;
	hostHeads: number;
	lists: number;
	large: number;
	portMaps: number;
	words: number;
}

/** Lays out a table for `sessions` (256..65535) and `portMapWords` words of port bitmaps. */
export function layoutTable(sessions: number, portMapWords: number): TableLayout {
	const bits = Math.max(7, 31 - Math.clz32(sessions - 1));
	const hosts = Math.max(Math.min(256, sessions >> 2), sessions >> 4);
	let at = HEADER_WORDS;
	const take = (words: number) => {
		const here = at;
		at += words;
		return here;
	};
	const halves = (n: number) => (n + 1) >> 1;
	const externals = take(EXTERNAL_WORDS);
	const records = take((sessions + 1) * RECORD_WORDS);
	return {
		sessions,
		hosts,
		bits,
		externals,
		records,
		outHeads: take(halves(1 << bits)),
		inHeads: take(halves(1 << bits)),
		mapOutHeads: take(halves(1 << (bits - 1))),
		mapInHeads: take(halves(1 << (bits - 1))),
		ring: take(sessions + 1),
		mapChains: take(sessions + 1),
		peerHeads: take(halves(1 << (bits - 2))),
		hostRecords: take((hosts + 1) * 4),
		hostHeads: take(halves(1 << (31 - Math.clz32(hosts)))),
		lists: take(STATES + 1),
		large: take(LARGE * 2),
		portMaps: take(portMapWords),
		words: at,
	};
}
