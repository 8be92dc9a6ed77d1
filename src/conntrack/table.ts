/**
 * The connection tracking table: sessions and mappings in fixed memory. Hot file: plain locals and typed arrays (performance.md).
 *
 * Theory of operation. A *session* is one 64-byte record: the inside endpoint, its external port, the peer, state, counters. A *mapping* (RFC 4787 section 4.1:
 * one inside endpoint <-> one external endpoint, whatever the peer) has no record of its own, because most mappings have exactly one session: it
 * is the ring of the sessions that share its external endpoint. The ring's *leader*, any one member, stands in the two mapping indexes; when it goes, the next
 * member takes its place, and with the last member the mapping ends and its port is given back. So the two levels of design.md section 3 hold,
 * only sessions expire, and a state file needs to keep nothing but records. Where the port must rest (RFC 6888 REQ-8) the last record stays as state
 * RESTING: in no index but that of inside endpoints, so that its host finds the port again and nobody else does; the first to go when records run out.
 *
 * Indexes are hash chains over 16-bit record numbers: sessions by outbound key (inside, peer) and by inbound key (peer, external), mappings by inside and by
 * external endpoint. An insert never fails and never rehashes. The hash is multiplicative with keys drawn at start, so neither side can aim at a chain.
 *
 * The sessions of a mapping with one peer address stand together in its ring, and the first of them in an index by (external endpoint, peer address): so that
 * filtering by address (RFC 4787 REQ-8) is one look-up, however many peers a mapping has. The leader, who stands for its own peer, is not in it.
 *
 * Sessions that may make room for others (states.ts) are in two lists of their host's, the longest there first: {@link spare}; unanswered ones only while there is a pressure to make room
 * ({@link press}), so that opening costs nothing for it else. The links stand in the record where a live session has the high parts of its byte counters; what a counter has
 * beyond its place in the record is kept in the few {@link LARGE large counters}.
 *
 * Every state has one timeout and one doubly linked list ordered by last use: a refresh moves a record to the tail, expiry looks at heads only. Free
 * records form the list of state FREE (first in, first out). Last use is kept in seconds modulo 2^16; timeouts are therefore below 2^16 s.
 *
 * The buffer is a file (restore.ts reads what a predecessor left in it), so a process that is killed leaves it as it is between two stores. A record counts
 * only while its state is not FREE. That one store is the last of a creation and the first of an end, and every other change of a record is one store, or several
 * that may be told apart from a whole record. Indexes, lists and port bitmaps are never read again.
 *
 * The record's layout is in record.ts. Addresses, ports and acknowledgment numbers are as loaded (packet/layout.ts).
 */
import { adjust, fold, halfDelta, wordDelta } from "../packet/checksum.ts";
import { firstOf, pair, secondOf } from "../packet/layout.ts";
import {
	ANSWERED,
	BYTES_CARRY,
	EXTERNAL_SHIFT,
	HOP_SHIFT,
	PACKETS_CARRY,
	R_ACK_OUT,
	R_BYTES_IN,
	R_BYTES_OUT,
	R_CHAIN_IN,
	R_CHAIN_OUT,
	R_DELTA,
	R_HIGH_IN,
	R_HIGH_OUT,
	R_HIGHS,
	R_HOST,
	R_IN,
	R_LAST,
	R_META,
	R_NEXT,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
	R_PEER,
	R_PREVIOUS,
	R_SPARE_NEXT,
	R_SPARE_PREVIOUS,
	RECORD_WORDS,
	STATE_MASK,
	STATE_SHIFT,
} from "./record.ts";
import { FREE, GIVEN, ICMP_QUERY, LIVE, OTHER, RESTING, SPARE, STATES, UNANSWERED } from "./states.ts";

export const MAGIC = 0x6d617371;
/** Changes with every change of the layout: a file with another number is not ours to read. */
export const LAYOUT_VERSION = 4;
export const HEADER_WORDS = 64;
/** External addresses by number, as loaded: what the numbers in the records mean. */
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

/** Counters that may have gone beyond their place in a record at a time, of two words each: L_KEY, L_COUNT. Those of further sessions come round. */
export const LARGE = 60;
/** Record number | which << 16 (packets or bytes, 2 for bytes; inbound, 1) | 1 << 18; 0: free. Written last, cleared first. */
const L_KEY = 0;
/** Carries that the record does not hold, of PACKETS_CARRY packets or BYTES_CARRY bytes. */
const L_COUNT = 1;
const L_USED = 1 << 18;
const L_BYTES = 2;
/** Halfwords of a host in the lists of what may make room: how many are LIVE, heads of those GIVEN and UNANSWERED by these numbers, how many are GIVEN. */
const S_HOST = 4;
const S_LIVE = 0;
const S_GIVEN = 3;

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

/** A faster way that packets of some sessions take without coming to the table (offload). The table tells it what happens to sessions and asks about those it has. */
export interface Bypass {
	/** Session `i` was used, or changed its state: it may take this way, or may no longer. */
	changed(i: number): void;
	/** Session `i` is about to end: it must not take this way any more. */
	ended(i: number): void;
	/** Seconds since session `i` was last used on this way, -1 if it does not take it. */
	age(i: number): number;
	/** Brings a TCP session's acknowledgment numbers and state up to date in its record. True if it has another state now. */
	sync(i: number): boolean;
	/** Does so with all sessions, so that those that close can make room; or nothing, if that has just been done and had found few. */
	syncAll(): void;
}

/** What a session is made of. Addresses and ports as loaded. */
export interface NewSession {
	protocol: number;
	internal: number;
	internalPort: number;
	/** External address, its number, and the port. */
	address: number;
	external: number;
	externalPort: number;
	peer: number;
	peerPort: number;
	/** The peer's port as the internal host knows it: another one only with nat/renamed-peer.ts. */
	peerPortInternal: number;
	state: number;
	host: number;
	hop: number;
	/** A session of the same mapping, 0 if there is none. */
	mapped: number;
}

/** The table over one buffer of `layout.words * 4` bytes. */
export class Table {
	readonly layout: TableLayout;
	readonly header: Int32Array;
	/** External addresses by number, as the records mean them. */
	readonly addresses: Int32Array;
	/** Records as words (index = number * 16 + word) and as halfwords. */
	readonly T: Int32Array;
	readonly T16: Uint16Array;
	readonly outHeads: Uint16Array;
	readonly inHeads: Uint16Array;
	readonly #mapOutHeads: Uint16Array;
	readonly #mapInHeads: Uint16Array;
	/** Ring: previous, next, by record number * 2. */
	readonly #ring: Uint16Array;
	/** Mapping chains: next by inside endpoint, next by external endpoint, by record number * 2. */
	readonly #chains: Uint16Array;
	/** Chains of the first session of each mapping and peer address; the links are those of {@link #chains} by external endpoint, which only leaders need else. */
	readonly #peerHeads: Uint16Array;
	/** Lists: head, tail, by state * 2. */
	readonly #lists: Uint16Array;
	readonly #counts = new Int32Array(STATES);
	/** By host number * S_HOST. */
	readonly #spare: Uint16Array;
	/** True while unanswered sessions are in the lists of their hosts. */
	pressed = false;
	/** Hosts that have a live session. */
	answered = 0;
	readonly #large: Int32Array;
	/** False while no large counter is in use. */
	#isLarge = false;
	/** Shift that turns a hash into a session chain head; mapping chains use one bit less. */
	readonly shift: number;
	readonly key0: number;
	readonly key1: number;
	readonly key2: number;
	/** Timeout of every state in seconds; replaced when the configuration changes. */
	timeouts: Int32Array;
	bypass: Bypass | null = null;

	/**
	 * @param buffer zeroed or used before; it is initialised as empty
	 * @param keys three random words
	 * @param timeouts seconds by state
	 * @param keep leave the records as they are, for restore.ts: until it is done the table can not be used
	 * @param copied the table that `buffer` is a copy of: nothing is initialised then
	 */
	constructor(buffer: ArrayBuffer, layout: TableLayout, keys: Int32Array, timeouts: Int32Array, keep = false, copied: Table | null = null) {
		this.layout = layout;
		this.timeouts = timeouts;
		const n = layout.sessions + 1;
		this.header = new Int32Array(buffer, 0, HEADER_WORDS);
		this.addresses = new Int32Array(buffer, layout.externals * 4, EXTERNAL_WORDS);
		this.T = new Int32Array(buffer, layout.records * 4, n * RECORD_WORDS);
		this.T16 = new Uint16Array(buffer, layout.records * 4, n * RECORD_WORDS * 2);
		this.outHeads = new Uint16Array(buffer, layout.outHeads * 4, 1 << layout.bits);
		this.inHeads = new Uint16Array(buffer, layout.inHeads * 4, 1 << layout.bits);
		this.#mapOutHeads = new Uint16Array(buffer, layout.mapOutHeads * 4, 1 << (layout.bits - 1));
		this.#mapInHeads = new Uint16Array(buffer, layout.mapInHeads * 4, 1 << (layout.bits - 1));
		this.#ring = new Uint16Array(buffer, layout.ring * 4, n * 2);
		this.#chains = new Uint16Array(buffer, layout.mapChains * 4, n * 2);
		this.#peerHeads = new Uint16Array(buffer, layout.peerHeads * 4, 1 << (layout.bits - 2));
		this.#lists = new Uint16Array(buffer, layout.lists * 4, STATES * 2);
		this.#large = new Int32Array(buffer, layout.large * 4, LARGE * 2);
		this.#spare = new Uint16Array((layout.hosts + 1) * S_HOST);
		this.shift = 32 - layout.bits;
		this.key0 = keys[0] | 0;
		this.key1 = keys[1] | 1;
		this.key2 = keys[2] | 1;
		if (copied !== null) {
			this.#counts.set(copied.#counts);
			this.#spare.set(copied.#spare);
			this.answered = copied.answered;
			this.pressed = copied.pressed;
			this.#isLarge = copied.#isLarge;
		} else if (keep) this.#clearIndexes();
		else this.clear();
	}

	/** This table as it is now over `buffer`, a copy of the whole of its memory. */
	copy(buffer: ArrayBuffer): Table {
		return new Table(buffer, this.layout, Int32Array.of(this.key0, this.key1, this.key2), this.timeouts, true, this);
	}

	/** Forgets everything; the file is none that could be restored then. */
	clear(): void {
		this.header.fill(0);
		this.addresses.fill(0);
		this.T.fill(0);
		this.#large.fill(0);
		this.#isLarge = false;
		this.#clearIndexes();
		for (let i = 1; i <= this.layout.sessions; i++) this.#append(FREE, i);
	}

	/** Writes the header, by which restore.ts knows the file: `boot` identifies this boot of the machine, `addresses` are the external ones by number. */
	publish(boot: Int32Array, addresses: Int32Array, now: number): void {
		this.addresses.set(addresses);
		this.header.set([LAYOUT_VERSION, this.layout.sessions, this.key0, this.key1, this.key2], H_VERSION);
		this.header.set(boot, H_BOOT);
		this.header[H_CLOCK] = now;
		this.header[H_CHANGING] = 0;
		this.header[H_MAGIC] = MAGIC;
	}

	#clearIndexes(): void {
		this.outHeads.fill(0);
		this.inHeads.fill(0);
		this.#mapOutHeads.fill(0);
		this.#mapInHeads.fill(0);
		this.#ring.fill(0);
		this.#chains.fill(0);
		this.#peerHeads.fill(0);
		this.#lists.fill(0);
		this.#counts.fill(0);
		this.#spare.fill(0);
		this.answered = 0;
		this.pressed = false;
	}

	/** Puts a record that is in no list at the end of its state's and into those of its host: for a restore, in the order of last use. */
	relist(i: number): void {
		const state = this.state(i);
		this.#append(state, i);
		if (state !== FREE && state !== RESTING) this.#spareIn(i, this.spareOf(i));
	}

	/**
	 * Puts the session in record `i`, which is in no index, into all of them, for a restore: as fast as one by one can be. `address` is its external address as
	 * loaded; `ported`: an external endpoint is one inside endpoint's. Returns a session of the mapping that was there before, 0 if it is the first;
	 * -1, and nothing is done, if another session has one of its keys.
	 */
	relink(i: number, address: number, ported: boolean): number {
		const t = this.T;
		const t16 = this.T16;
		const { key0, key1, key2, shift, outHeads, inHeads } = this;
		const e = i << 4;
		const inside = t[e];
		const peer = t[e + R_PEER];
		const out = t[e + R_OUT];
		const inn = t[e + R_IN];
		const key = t[e + R_META] & 0xffff;
		let h = Math.imul(out ^ key0, key1) ^ inside;
		const outChain = Math.imul(h ^ (h >>> 15) ^ peer, key2) >>> shift;
		for (let k = outHeads[outChain]; k !== 0; k = t16[(k << 5) + R_CHAIN_OUT]) {
			const f = k << 4;
			if (t[f] === inside && t[f + R_OUT] === out && t[f + R_PEER] === peer && ((t[f + R_META] ^ key) & 0xff) === 0) return -1;
		}
		h = Math.imul(inn ^ key0, key1) ^ peer;
		const inChain = Math.imul(h ^ (h >>> 15) ^ address, key2) >>> shift;
		for (let k = inHeads[inChain]; k !== 0; k = t16[(k << 5) + R_CHAIN_IN]) {
			const f = k << 4;
			if (t[f + R_PEER] === peer && t[f + R_IN] === inn && (t[f + R_META] & 0xffff) === key) return -1;
		}
		const chains = this.#chains;
		const externalPort = secondOf(inn);
		h = Math.imul(externalPort ^ key0, key1) ^ address;
		const mapInChain = Math.imul(h ^ (h >>> 15) ^ externalPort, key2) >>> (shift + 1);
		let leader = this.#mapInHeads[mapInChain];
		for (; leader !== 0; leader = chains[(leader << 1) + 1]) {
			const f = leader << 4;
			if (secondOf(t[f + R_IN]) !== externalPort || (t[f + R_META] & 0xffff) !== key) continue;
			if (ported && (t[f] !== inside || firstOf(t[f + R_OUT]) !== firstOf(out))) return -1;
			break;
		}
		t16[(i << 5) + R_CHAIN_OUT] = outHeads[outChain];
		outHeads[outChain] = i;
		t16[(i << 5) + R_CHAIN_IN] = inHeads[inChain];
		inHeads[inChain] = i;
		if (leader !== 0) this.#join(i, leader, address);
		else {
			const r = this.#ring;
			r[i << 1] = i;
			r[(i << 1) + 1] = i;
			const port = firstOf(out);
			h = Math.imul(port ^ key0, key1) ^ inside;
			const mapOutChain = Math.imul(h ^ (h >>> 15) ^ port, key2) >>> (shift + 1);
			chains[i << 1] = this.#mapOutHeads[mapOutChain];
			this.#mapOutHeads[mapOutChain] = i;
			chains[(i << 1) + 1] = this.#mapInHeads[mapInChain];
			this.#mapInHeads[mapInChain] = i;
		}
		return leader;
	}

	/** Takes a session that is in no list out of the indexes again. */
	unlink(i: number, address: number): void {
		this.#unlink(i, address);
	}

	/** Puts a resting record, which is in no index, where {@link findResting} finds it. */
	relinkResting(i: number): void {
		const t = this.T;
		const h = this.#hashEndpoint(t[i << 4], firstOf(t[(i << 4) + R_OUT]));
		this.#chains[i << 1] = this.#mapOutHeads[h];
		this.#mapOutHeads[h] = i;
	}

	/** Number of sessions in a state. */
	count(state: number): number {
		return this.#counts[state];
	}

	/** Sessions there are. */
	get used(): number {
		return this.layout.sessions - this.available;
	}

	/** Records that a new session can have: free ones and those that only keep a port at rest. */
	get available(): number {
		return this.#counts[FREE] + this.#counts[RESTING];
	}

	/** First (least recently used) record of a state's list, 0 if it is empty. */
	head(state: number): number {
		return this.#lists[state << 1];
	}

	/** The record after `i` in its state's list, 0 at the end. */
	next(i: number): number {
		return this.T16[(i << 5) + R_NEXT];
	}

	state(i: number): number {
		return (this.T[(i << 4) + R_META] >> STATE_SHIFT) & STATE_MASK;
	}

	// ---- lists ---------------------------------------------------------------------------------------------------

	#append(state: number, i: number): void {
		const l = this.#lists;
		const tail = l[(state << 1) + 1];
		this.T16[(i << 5) + R_PREVIOUS] = tail;
		this.T16[(i << 5) + R_NEXT] = 0;
		if (tail === 0) l[state << 1] = i;
		else this.T16[(tail << 5) + R_NEXT] = i;
		l[(state << 1) + 1] = i;
		this.#counts[state]++;
	}

	#detach(state: number, i: number): void {
		const l = this.#lists;
		const t = this.T16;
		const before = t[(i << 5) + R_PREVIOUS];
		const after = t[(i << 5) + R_NEXT];
		if (before === 0) l[state << 1] = after;
		else t[(before << 5) + R_NEXT] = after;
		if (after === 0) l[(state << 1) + 1] = before;
		else t[(after << 5) + R_PREVIOUS] = before;
		this.#counts[state]--;
	}

	/** Refreshes a session: last use is `now16` (seconds & 0xffff). */
	touch(i: number, now16: number): void {
		const state = this.state(i);
		this.#detach(state, i);
		this.T16[(i << 5) + R_LAST] = now16;
		this.#append(state, i);
		if (this.bypass !== null) this.bypass.changed(i);
	}

	/** Moves a session to another state and refreshes it. */
	setState(i: number, state: number, now16: number): void {
		const m = (i << 4) + R_META;
		const meta = this.T[m];
		const before = (meta >> STATE_SHIFT) & STATE_MASK;
		this.#detach(before, i);
		// First the time: the new state's may be shorter than the session has been idle.
		this.T16[(i << 5) + R_LAST] = now16;
		if (before !== state) {
			const next = meta ^ ((before ^ state) << STATE_SHIFT);
			if (SPARE[before] === SPARE[state]) this.T[m] = next;
			else this.#move(i, meta, next);
		}
		this.#append(state, i);
		if (this.bypass !== null) this.bypass.changed(i);
	}

	/**
	 * Moves a session to another state but keeps its last use (RFC 4787 REQ-6: inbound packets do not refresh). The place in the ordered list is looked for
	 * from the tail; a reply comes within the round-trip time, so this is a step or two. After 32 steps the session takes the last use it met there.
	 */
	setStateKeepingTime(i: number, state: number, now16: number): void {
		const t = this.T16;
		const m = (i << 4) + R_META;
		const meta = this.T[m];
		const from = (meta >> STATE_SHIFT) & STATE_MASK;
		this.#detach(from, i);
		const changed = meta ^ ((from ^ state) << STATE_SHIFT);
		if (SPARE[from] === SPARE[state]) this.T[m] = changed;
		else this.#move(i, meta, changed);
		const age = (now16 - t[(i << 5) + R_LAST]) & 0xffff;
		const l = this.#lists;
		let before = l[(state << 1) + 1];
		for (let steps = 0; before !== 0 && ((now16 - t[(before << 5) + R_LAST]) & 0xffff) < age; steps++) {
			if (steps === 32) {
				t[(i << 5) + R_LAST] = t[(before << 5) + R_LAST];
				break;
			}
			before = t[(before << 5) + R_PREVIOUS];
		}
		const after = before === 0 ? l[state << 1] : t[(before << 5) + R_NEXT];
		t[(i << 5) + R_PREVIOUS] = before;
		t[(i << 5) + R_NEXT] = after;
		if (before === 0) l[state << 1] = i;
		else t[(before << 5) + R_NEXT] = i;
		if (after === 0) l[(state << 1) + 1] = i;
		else t[(after << 5) + R_PREVIOUS] = i;
		this.#counts[state]++;
		if (this.bypass !== null) this.bypass.changed(i);
	}

	/** Writes word R_META of a session, which was `meta`, and puts it into the list of its host where it belongs then. */
	#move(i: number, meta: number, next: number): void {
		const from = spareOf(meta);
		const to = spareOf(next);
		if (from === UNANSWERED && to === LIVE && !this.pressed) {
			// Nearly always: the first answer.
			const s = this.#spare;
			const at = this.T16[(i << 5) + R_HOST] * S_HOST;
			this.T[(i << 4) + R_HIGHS] = 0;
			this.T[(i << 4) + R_META] = next;
			if (s[at]++ === 0) this.answered++;
			return;
		}
		if (from !== to) this.#spareOut(i, from);
		this.T[(i << 4) + R_META] = next;
		if (from !== to) this.#spareIn(i, to);
	}

	/** The peer of an ICMP query, or of a session without ports, has answered. */
	answer(i: number): void {
		const m = (i << 4) + R_META;
		const from = spareOf(this.T[m]);
		if (from === LIVE) return;
		this.#spareOut(i, from);
		this.T[m] |= ANSWERED;
		this.#spareIn(i, spareOf(this.T[m]));
	}

	/** Seconds since the last use. */
	age(i: number, now16: number): number {
		return (now16 - this.T16[(i << 5) + R_LAST]) & 0xffff;
	}

	/** First expired session of a state at `now16`, 0 if there is none. One that was used on the bypass since is moved on. */
	expired(state: number, now16: number): number {
		for (;;) {
			const i = this.#lists[state << 1];
			if (i === 0 || this.age(i, now16) <= this.timeouts[state]) return 0;
			// It is in another list then.
			if (this.bypass?.sync(i)) continue;
			const age = this.bypass === null ? -1 : this.bypass.age(i);
			if (age < 0 || age > this.timeouts[state]) return i;
			this.touch(i, now16);
		}
	}

	// ---- what may make room, by host ----------------------------------------------------------------------------------

	/** Whether a session is LIVE, GIVEN or UNANSWERED. */
	spareOf(i: number): number {
		return spareOf(this.T[(i << 4) + R_META]);
	}

	/** The session of host number `host` that has been GIVEN or UNANSWERED (`kind`) longest, 0 if there is none; none of the latter unless {@link pressed}. */
	spare(host: number, kind: number): number {
		return this.#spare[host * S_HOST + kind];
	}

	/** The one that has been so for less long than `i`; comes back to the first. */
	nextSpare(i: number): number {
		return this.T16[(i << 5) + R_SPARE_NEXT];
	}

	/** How many sessions of a host are live. */
	live(host: number): number {
		return this.#spare[host * S_HOST + S_LIVE];
	}

	/** How many are GIVEN. */
	given(host: number): number {
		return this.#spare[host * S_HOST + S_GIVEN];
	}

	/** From now on unanswered sessions are in the lists of their hosts, until {@link relax}. Walks them all. */
	press(): void {
		if (this.pressed) return;
		this.pressed = true;
		for (let state = 1; state < STATES; state++) {
			if (SPARE[state] !== UNANSWERED) continue;
			for (let i = this.head(state); i !== 0; i = this.next(i)) if (this.spareOf(i) === UNANSWERED) this.#spareIn(i, UNANSWERED);
		}
	}

	/** They need not be there any more. */
	relax(): void {
		if (!this.pressed) return;
		this.pressed = false;
		const s = this.#spare;
		for (let at = UNANSWERED; at < s.length; at += S_HOST) s[at] = 0;
	}

	#spareIn(i: number, kind: number): void {
		const s = this.#spare;
		const t = this.T16;
		const h = i << 5;
		const at = t[h + R_HOST] * S_HOST;
		if (kind === LIVE) {
			if (s[at + S_LIVE]++ === 0) this.answered++;
			return;
		}
		if (kind === GIVEN) s[at + S_GIVEN]++;
		else if (!this.pressed) return;
		const head = s[at + kind];
		if (head === 0) {
			s[at + kind] = i;
			t[h + R_SPARE_PREVIOUS] = i;
			t[h + R_SPARE_NEXT] = i;
			return;
		}
		const tail = t[(head << 5) + R_SPARE_PREVIOUS];
		t[h + R_SPARE_PREVIOUS] = tail;
		t[h + R_SPARE_NEXT] = head;
		t[(tail << 5) + R_SPARE_NEXT] = i;
		t[(head << 5) + R_SPARE_PREVIOUS] = i;
	}

	/** Takes a session out of the list of its host. The high parts of its byte counters are 0 then. */
	#spareOut(i: number, kind: number): void {
		const s = this.#spare;
		const t = this.T16;
		const h = i << 5;
		const at = t[h + R_HOST] * S_HOST;
		if (kind === LIVE) {
			if (--s[at + S_LIVE] === 0) this.answered--;
			if (t[h + R_HIGH_OUT] !== 0) this.#enlarge(i, L_BYTES, t[h + R_HIGH_OUT]);
			if (t[h + R_HIGH_IN] !== 0) this.#enlarge(i, L_BYTES + 1, t[h + R_HIGH_IN]);
		} else if (kind === GIVEN || this.pressed) {
			if (kind === GIVEN) s[at + S_GIVEN]--;
			const after = t[h + R_SPARE_NEXT];
			const before = t[h + R_SPARE_PREVIOUS];
			t[(before << 5) + R_SPARE_NEXT] = after;
			t[(after << 5) + R_SPARE_PREVIOUS] = before;
			if (s[at + kind] === i) s[at + kind] = after === i ? 0 : after;
		}
		t[h + R_HIGH_OUT] = 0;
		t[h + R_HIGH_IN] = 0;
	}

	// ---- counters ------------------------------------------------------------------------------------------------------

	/** The low part of a byte counter has come round, outbound (0) or inbound (1). No more packets than PACKETS_CARRY have passed since it last did. */
	carried(i: number, inbound: number): void {
		const t = this.T16;
		const h = (i << 5) + R_HIGH_OUT + inbound;
		if (this.spareOf(i) !== LIVE) this.#enlarge(i, L_BYTES + inbound, 1);
		else if (t[h] < 0xffff) t[h]++;
		else {
			t[h] = 0;
			this.#enlarge(i, L_BYTES + inbound, 0x10000);
		}
		const p = (i << 4) + R_PACKETS_OUT + inbound;
		if (this.T[p] < 0) {
			this.T[p] &= 0x7fffffff;
			this.#enlarge(i, inbound, 1);
		}
	}

	/** Adds packets and bytes that were counted elsewhere. */
	add(i: number, inbound: number, packets: number, bytes: number): void {
		const t = this.T;
		const p = (i << 4) + R_PACKETS_OUT + inbound;
		const b = (i << 4) + R_BYTES_OUT + inbound;
		const all = (t[p] >>> 0) + packets;
		t[p] = all % PACKETS_CARRY;
		if (all >= PACKETS_CARRY) this.#enlarge(i, inbound, Math.floor(all / PACKETS_CARRY));
		const total = t[b] + bytes;
		t[b] = total % BYTES_CARRY;
		if (total < BYTES_CARRY) return;
		const h = (i << 5) + R_HIGH_OUT + inbound;
		const carries = Math.floor(total / BYTES_CARRY);
		if (this.spareOf(i) === LIVE && this.T16[h] + carries <= 0xffff) this.T16[h] += carries;
		else this.#enlarge(i, L_BYTES + inbound, carries);
	}

	/** Adds carries to a large counter; they are lost if all are taken. */
	#enlarge(i: number, which: number, carries: number): void {
		const l = this.#large;
		const key = i | (which << 16) | L_USED;
		let free = -1;
		for (let n = 0; n < l.length; n += 2) {
			if (l[n + L_KEY] === key) {
				l[n + L_COUNT] += carries;
				return;
			}
			if (free < 0 && l[n + L_KEY] === 0) free = n;
		}
		if (free < 0) return;
		l[free + L_COUNT] = carries;
		l[free + L_KEY] = key;
		this.#isLarge = true;
	}

	#largeOf(i: number, which: number): number {
		if (!this.#isLarge) return 0;
		const l = this.#large;
		const key = i | (which << 16) | L_USED;
		for (let n = 0; n < l.length; n += 2) if (l[n + L_KEY] === key) return l[n + L_COUNT];
		return 0;
	}

	/** Ends the large counters for which `gone` holds. */
	#forgetLarge(gone: (i: number) => boolean): void {
		const l = this.#large;
		this.#isLarge = false;
		for (let n = 0; n < l.length; n += 2) {
			if (l[n + L_KEY] === 0) continue;
			if (gone(l[n + L_KEY] & 0xffff)) l[n + L_KEY] = 0;
			else this.#isLarge = true;
		}
	}

	/** Goes on with the large counters of an image, its own or another's; `place` says which record has the session of one there, 0 if none has. */
	restoreLarge(image: Int32Array, place: (i: number) => number): void {
		const found: number[] = [];
		for (let n = 0; n < image.length; n += 2) {
			const key = image[n + L_KEY];
			const i = key & L_USED && key >>> 19 === 0 && image[n + L_COUNT] > 0 ? place(key & 0xffff) : 0;
			if (i !== 0) found.push((key & ~0xffff) | i, image[n + L_COUNT]);
		}
		this.#large.fill(0);
		this.#large.set(found);
		this.#isLarge = found.length > 0;
	}

	/** Packets of both directions as exact numbers: [out, in]. */
	packets(i: number): [number, number] {
		const p = (i << 4) + R_PACKETS_OUT;
		return [
			this.#largeOf(i, 0) * PACKETS_CARRY + (this.T[p] >>> 0),
			this.#largeOf(i, 1) * PACKETS_CARRY + (this.T[p + R_PACKETS_IN - R_PACKETS_OUT] >>> 0),
		];
	}

	/** Bytes of both directions as exact numbers: [out, in]. */
	bytes(i: number): [number, number] {
		const e = i << 4;
		const live = this.spareOf(i) === LIVE;
		const high = (which: number) => this.#largeOf(i, L_BYTES + which) + (live ? this.T16[(i << 5) + R_HIGH_OUT + which] : 0);
		return [high(0) * BYTES_CARRY + this.T[e + R_BYTES_OUT], high(1) * BYTES_CARRY + this.T[e + R_BYTES_IN]];
	}

	// ---- indexes ---------------------------------------------------------------------------------------------------

	/** Chain number of a session key: two addresses and a ports word. The hot files spell this out. */
	hash(a: number, b: number, ports: number): number {
		const h = Math.imul(ports ^ this.key0, this.key1) ^ a;
		return Math.imul(h ^ (h >>> 15) ^ b, this.key2) >>> this.shift;
	}

	#hashEndpoint(a: number, port: number): number {
		const h = Math.imul(port ^ this.key0, this.key1) ^ a;
		return Math.imul(h ^ (h >>> 15) ^ port, this.key2) >>> (this.shift + 1);
	}

	/** Session of an outbound packet, 0 if there is none. `ports` as an outbound packet has them. */
	findOut(protocol: number, inside: number, peer: number, ports: number): number {
		const t = this.T;
		const h = Math.imul(ports ^ this.key0, this.key1) ^ inside;
		let i = this.outHeads[Math.imul(h ^ (h >>> 15) ^ peer, this.key2) >>> this.shift];
		while (i !== 0) {
			const e = i << 4;
			if (t[e] === inside && t[e + R_OUT] === ports && t[e + R_PEER] === peer && (t[e + R_META] & 0xff) === protocol) break;
			i = this.T16[(i << 5) + R_CHAIN_OUT];
		}
		return i;
	}

	/** Session of an inbound packet to external address number `external` (as-loaded `address`), 0 if there is none. */
	findIn(protocol: number, peer: number, address: number, external: number, ports: number): number {
		const t = this.T;
		const key = protocol | (external << EXTERNAL_SHIFT);
		const h = Math.imul(ports ^ this.key0, this.key1) ^ peer;
		let i = this.inHeads[Math.imul(h ^ (h >>> 15) ^ address, this.key2) >>> this.shift];
		while (i !== 0) {
			const e = i << 4;
			if (t[e + R_PEER] === peer && t[e + R_IN] === ports && (t[e + R_META] & 0xffff) === key) break;
			i = this.T16[(i << 5) + R_CHAIN_IN];
		}
		return i;
	}

	/** A session of the mapping of an inside endpoint, 0 if there is no such mapping. `port` as loaded. */
	findMapping(protocol: number, inside: number, port: number): number {
		return this.#findInside(protocol, inside, port, false);
	}

	/** The record that keeps the port at rest which an inside endpoint's mapping had, 0 if there is none. `port` as loaded. */
	findResting(protocol: number, inside: number, port: number): number {
		return this.#counts[RESTING] === 0 ? 0 : this.#findInside(protocol, inside, port, true);
	}

	#findInside(protocol: number, inside: number, port: number, resting: boolean): number {
		const t = this.T;
		let i = this.#mapOutHeads[this.#hashEndpoint(inside, port)];
		while (i !== 0) {
			const e = i << 4;
			if (
				t[e] === inside &&
				firstOf(t[e + R_OUT]) === port &&
				(t[e + R_META] & 0xff) === protocol &&
				(this.state(i) === RESTING) === resting
			)
				break;
			i = this.#chains[i << 1];
		}
		return i;
	}

	/** A session of the mapping that owns an external endpoint, 0 if there is none. `port` as loaded. */
	findExternal(protocol: number, address: number, external: number, port: number): number {
		const t = this.T;
		const key = protocol | (external << EXTERNAL_SHIFT);
		let i = this.#mapInHeads[this.#hashEndpoint(address, port)];
		while (i !== 0) {
			const e = i << 4;
			if (secondOf(t[e + R_IN]) === port && (t[e + R_META] & 0xffff) === key) break;
			i = this.#chains[(i << 1) + 1];
		}
		return i;
	}

	/** The session of a mapping that `leader` leads, with a peer address: the first there is, 0 if there is none. `address` is the external one as loaded. */
	findPeer(leader: number, peer: number, address: number): number {
		const t = this.T;
		const e = leader << 4;
		return t[e + R_PEER] === peer ? leader : this.#findFirst(peer, address, secondOf(t[e + R_IN]), t[e + R_META] & 0xffff);
	}

	#findFirst(peer: number, address: number, port: number, key: number): number {
		const t = this.T;
		let i = this.#peerHeads[this.#hashPeer(peer, address, port)];
		while (i !== 0) {
			const e = i << 4;
			if (t[e + R_PEER] === peer && secondOf(t[e + R_IN]) === port && (t[e + R_META] & 0xffff) === key) break;
			i = this.#chains[(i << 1) + 1];
		}
		return i;
	}

	#hashPeer(peer: number, address: number, port: number): number {
		return this.hash(peer, address, port) >>> 2;
	}

	/** The next session of the same mapping (a ring: comes back to `i`). */
	sibling(i: number): number {
		return this.#ring[(i << 1) + 1];
	}

	/**
	 * Creates a session from a free record; the caller has made sure that there is one ({@link count} of FREE > 0) and that neither key exists. Returns the record's
	 * number. Spelt out like {@link relink}: 1.8 instead of 2.7 us in QuickJS.
	 */
	create(n: NewSession, now16: number): number {
		const { internal, peer, address, externalPort, state } = n;
		const l = this.#lists;
		const i = l[FREE << 1];
		const t = this.T;
		const t16 = this.T16;
		const { key0, key1, key2, shift, outHeads, inHeads } = this;
		const e = i << 4;
		const h16 = i << 5;
		const out = pair(n.internalPort, n.peerPortInternal);
		const inn = pair(n.peerPort, externalPort);
		// Off the head of the list of the free.
		const free = t16[h16 + R_NEXT];
		l[FREE << 1] = free;
		if (free === 0) l[(FREE << 1) + 1] = 0;
		else t16[(free << 5) + R_PREVIOUS] = 0;
		t[e] = internal;
		t[e + R_PEER] = peer;
		t[e + R_OUT] = out;
		t[e + R_IN] = inn;
		t[e + R_DELTA] = deltaOf(internal, address, out, inn);
		t.fill(0, e + R_ACK_OUT, e + RECORD_WORDS);
		if (this.#isLarge) this.#forgetLarge((k) => k === i || this.state(k) === FREE);
		t16[h16 + R_LAST] = now16;
		t16[h16 + R_HOST] = n.host;
		// To the tail of its state's.
		const tail = l[(state << 1) + 1];
		t16[h16 + R_PREVIOUS] = tail;
		t16[h16 + R_NEXT] = 0;
		if (tail === 0) l[state << 1] = i;
		else t16[(tail << 5) + R_NEXT] = i;
		l[(state << 1) + 1] = i;
		this.#counts[FREE]--;
		this.#counts[state]++;
		let h = Math.imul(out ^ key0, key1) ^ internal;
		h = Math.imul(h ^ (h >>> 15) ^ peer, key2) >>> shift;
		t16[h16 + R_CHAIN_OUT] = outHeads[h];
		outHeads[h] = i;
		h = Math.imul(inn ^ key0, key1) ^ peer;
		h = Math.imul(h ^ (h >>> 15) ^ address, key2) >>> shift;
		t16[h16 + R_CHAIN_IN] = inHeads[h];
		inHeads[h] = i;
		if (n.mapped !== 0) this.#join(i, n.mapped, address);
		else {
			this.#ring[i << 1] = i;
			this.#ring[(i << 1) + 1] = i;
			this.#lead(i, address);
		}
		const kind = SPARE[state];
		if (kind !== UNANSWERED || this.pressed) this.#spareIn(i, kind);
		// The last store: before it the record is a free one, whatever becomes of the process.
		t[e + R_META] = n.protocol | (n.external << EXTERNAL_SHIFT) | (state << STATE_SHIFT) | (n.hop << HOP_SHIFT);
		return i;
	}

	/** Puts a session into the indexes and the ring of its mapping, of which `leader` is one, 0: it is the first. */
	#link(i: number, address: number, leader: number): void {
		const t = this.T;
		const t16 = this.T16;
		const e = i << 4;
		let h = this.hash(t[e], t[e + R_PEER], t[e + R_OUT]);
		t16[(i << 5) + R_CHAIN_OUT] = this.outHeads[h];
		this.outHeads[h] = i;
		h = this.hash(t[e + R_PEER], address, t[e + R_IN]);
		t16[(i << 5) + R_CHAIN_IN] = this.inHeads[h];
		this.inHeads[h] = i;
		if (leader === 0) {
			this.#ring[i << 1] = i;
			this.#ring[(i << 1) + 1] = i;
			this.#lead(i, address);
		} else this.#join(i, leader, address);
	}

	/** Puts a session into the ring of `leader`, beside those with its peer's address. */
	#join(i: number, leader: number, address: number): void {
		const t = this.T;
		const r = this.#ring;
		const e = i << 4;
		const peer = t[e + R_PEER];
		let before = leader;
		if (t[(leader << 4) + R_PEER] !== peer) {
			const port = secondOf(t[e + R_IN]);
			before = this.#findFirst(peer, address, port, t[(leader << 4) + R_META] & 0xffff);
			if (before === 0) {
				before = r[leader << 1];
				this.#index(i, this.#hashPeer(peer, address, port));
			}
		}
		const after = r[(before << 1) + 1];
		r[i << 1] = before;
		r[(i << 1) + 1] = after;
		r[(before << 1) + 1] = i;
		r[after << 1] = i;
	}

	/** Makes a session the one that is found by its peer's address. */
	#index(i: number, chain: number): void {
		this.#chains[(i << 1) + 1] = this.#peerHeads[chain];
		this.#peerHeads[chain] = i;
	}

	#lead(i: number, address: number): void {
		const t = this.T;
		const e = i << 4;
		const { key0, key1, key2 } = this;
		const shift = this.shift + 1;
		const chains = this.#chains;
		const outHeads = this.#mapOutHeads;
		const inHeads = this.#mapInHeads;
		let port = firstOf(t[e + R_OUT]);
		let h = Math.imul(port ^ key0, key1) ^ t[e];
		h = Math.imul(h ^ (h >>> 15) ^ port, key2) >>> shift;
		chains[i << 1] = outHeads[h];
		outHeads[h] = i;
		port = secondOf(t[e + R_IN]);
		h = Math.imul(port ^ key0, key1) ^ address;
		h = Math.imul(h ^ (h >>> 15) ^ port, key2) >>> shift;
		chains[(i << 1) + 1] = inHeads[h];
		inHeads[h] = i;
	}

	/**
	 * Ends a session; `address` is its external address as loaded (it went into the inbound hash). Returns true if it was the last of
	 * its mapping, whose port is then the caller's to give back. The record is free afterwards, its words are still readable until it is used again.
	 */
	remove(i: number, address: number): boolean {
		if (this.bypass !== null) this.bypass.ended(i);
		const state = this.state(i);
		this.#spareOut(i, this.spareOf(i));
		this.T[(i << 4) + R_META] &= 0xffff;
		const last = this.#unlink(i, address);
		this.#detach(state, i);
		this.#append(FREE, i);
		return last;
	}

	/** Ends the only session of a mapping but keeps its record, so that the port rests. `address` as in {@link remove}. */
	rest(i: number, address: number, now16: number): void {
		if (this.bypass !== null) this.bypass.ended(i);
		this.#unlink(i, address);
		const m = (i << 4) + R_META;
		this.#spareOut(i, this.spareOf(i));
		this.#detach(this.state(i), i);
		this.T16[(i << 5) + R_LAST] = now16;
		this.T[m] = (this.T[m] & ~(STATE_MASK << STATE_SHIFT)) | (RESTING << STATE_SHIFT);
		this.#append(RESTING, i);
		this.relinkResting(i);
	}

	/** Ends the rest of a record's port, which is then the caller's to give back. */
	removeResting(i: number): void {
		const t = this.T;
		t[(i << 4) + R_META] &= 0xffff;
		unchain(this.#mapOutHeads, this.#hashEndpoint(t[i << 4], firstOf(t[(i << 4) + R_OUT])), this.#chains, 1, 0, i);
		this.#detach(RESTING, i);
		this.#append(FREE, i);
	}

	/** True if record `i` is the only session of its mapping. */
	alone(i: number): boolean {
		return this.#ring[(i << 1) + 1] === i;
	}

	/**
	 * Gives sessions, named in order by `each`, another external address: `from` and `to` as loaded. All sessions of a mapping must be among them. The records keep
	 * number, state and time; the caller changes what their external number means.
	 */
	readdress(each: (f: (i: number) => void) => void, from: number, to: number): void {
		const t = this.T;
		each((i) => {
			if (this.bypass !== null) this.bypass.ended(i);
			this.#unlink(i, from);
		});
		each((i) => {
			const e = i << 4;
			const m = t[e + R_META];
			t[e + R_DELTA] = deltaOf(t[e], to, t[e + R_OUT], t[e + R_IN]);
			this.#link(i, to, this.findExternal(m & 0xff, to, (m >> EXTERNAL_SHIFT) & 0xff, secondOf(t[e + R_IN])));
		});
	}

	#unlink(i: number, address: number): boolean {
		const t = this.T;
		const e = i << 4;
		unchain(this.outHeads, this.hash(t[e], t[e + R_PEER], t[e + R_OUT]), this.T16, 5, R_CHAIN_OUT, i);
		unchain(this.inHeads, this.hash(t[e + R_PEER], address, t[e + R_IN]), this.T16, 5, R_CHAIN_IN, i);
		const r = this.#ring;
		const before = r[i << 1];
		const after = r[(i << 1) + 1];
		r[(before << 1) + 1] = after;
		r[after << 1] = before;
		const led =
			unchain(this.#mapOutHeads, this.#hashEndpoint(t[e], firstOf(t[e + R_OUT])), this.#chains, 1, 0, i) &&
			unchain(this.#mapInHeads, this.#hashEndpoint(address, secondOf(t[e + R_IN])), this.#chains, 1, 1, i);
		if (after === i) return true;
		const peer = t[e + R_PEER];
		const port = secondOf(t[e + R_IN]);
		const same = t[(after << 4) + R_PEER] === peer;
		if (led) {
			// The next stands for its peer by leading.
			const next = t[(after << 4) + R_PEER];
			if (!same) unchain(this.#peerHeads, this.#hashPeer(next, address, port), this.#chains, 1, 1, after);
			this.#lead(after, address);
		} else if (t[(before << 4) + R_PEER] !== peer) {
			const chain = this.#hashPeer(peer, address, port);
			unchain(this.#peerHeads, chain, this.#chains, 1, 1, i);
			if (same) this.#index(after, chain);
		}
		return false;
	}

	#verifySpare(fail: (what: string, i: number) => void): void {
		const n = this.layout.sessions;
		const counts = new Uint32Array((this.layout.hosts + 1) * 3);
		for (let i = 1; i <= n; i++) {
			if (this.state(i) === FREE || this.state(i) === RESTING) continue;
			counts[this.T16[(i << 5) + R_HOST] * 3 + this.spareOf(i)]++;
		}
		let answered = 0;
		for (let host = 0; host <= this.layout.hosts; host++) {
			const [live, given] = [counts[host * 3 + LIVE], counts[host * 3 + GIVEN]];
			if (live > 0) answered++;
			if (this.live(host) !== live || this.given(host) !== given)
				fail(`${live} live, ${given} given sessions of host ${host} counted wrongly`, 0);
			for (const kind of [GIVEN, UNANSWERED]) {
				const wanted = kind === GIVEN || this.pressed ? counts[host * 3 + kind] : 0;
				let before = this.spare(host, kind);
				if ((before === 0) !== (wanted === 0)) fail(`list of kind ${kind} of host ${host} is empty, or is not`, before);
				for (let k = 0; k < wanted; k++) {
					const i = this.nextSpare(before);
					if (this.T16[(i << 5) + R_SPARE_PREVIOUS] !== before) fail("list of what may go is not doubly linked", i);
					if (this.T16[(i << 5) + R_HOST] !== host || this.spareOf(i) !== kind) fail("in the wrong list of what may go", i);
					before = i;
				}
				if (before !== this.spare(host, kind)) fail(`list of what may go of host ${host} has a wrong length`, before);
			}
		}
		if (answered !== this.answered) fail(`${this.answered} of ${answered} hosts counted that were answered`, 0);
	}

	/**
	 * Checks every invariant of lists, chains and rings; throws an Error that names the first violation. For tests and after a restore.
	 */
	verify(addressOf: (external: number) => number): void {
		const n = this.layout.sessions;
		const fail = (what: string, i: number) => {
			throw new Error(`table: ${what} (record ${i})`);
		};
		let listed = 0;
		for (let s = 0; s < STATES; s++) {
			let before = 0;
			let count = 0;
			for (let i = this.#lists[s << 1]; i !== 0; i = this.next(i)) {
				if (this.T16[(i << 5) + R_PREVIOUS] !== before) fail("list is not doubly linked", i);
				if (this.state(i) !== s) fail("record is in a list of another state", i);
				if (++count > n) fail("list is a loop", i);
				before = i;
			}
			if (this.#lists[(s << 1) + 1] !== before) fail("list has a wrong tail", before);
			if (count !== this.#counts[s]) fail("list has a wrong count", s);
			listed += count;
		}
		if (listed !== n) fail("records are missing from the lists", listed);
		this.#verifySpare(fail);
		const rings = new Uint16Array(n + 1);
		for (let i = 1; i <= n; i++) {
			if (this.state(i) === FREE) continue;
			const e = i << 4;
			const t = this.T;
			const m = t[e + R_META];
			if (this.state(i) === RESTING) {
				if (this.findResting(m & 0xff, t[e], firstOf(t[e + R_OUT])) === 0) fail("resting port is not found", i);
				continue;
			}
			const x = (m >> EXTERNAL_SHIFT) & 0xff;
			if (this.findOut(m & 0xff, t[e], t[e + R_PEER], t[e + R_OUT]) !== i) fail("not found by its outbound key", i);
			if (this.findIn(m & 0xff, t[e + R_PEER], addressOf(x), x, t[e + R_IN]) !== i) fail("not found by its inbound key", i);
			const leader = this.findExternal(m & 0xff, addressOf(x), x, secondOf(t[e + R_IN]));
			if (leader === 0) fail("its mapping is not found by the external endpoint", i);
			const sameInside = t[leader << 4] === t[e];
			if (this.findPeer(leader, t[e + R_PEER], addressOf(x)) === 0) fail("not found by its peer's address", i);
			if (this.state(i) === OTHER) continue;
			if (!sameInside || this.findMapping(m & 0xff, t[e], firstOf(t[e + R_OUT])) === 0) fail("mapping indexes disagree", i);
			// Once around each ring: in the end each of its members has been met.
			for (let j = leader; j !== 0 && rings[j] === 0; j = this.sibling(j)) rings[j] = leader;
			if (rings[i] !== leader) fail("not in the ring of its mapping", i);
			if (adjust(0, t[e + R_DELTA] & 0xffff) !== adjust(0, wordDelta(t[e], addressOf(x)))) fail("wrong delta", i);
		}
	}
}

/** Whether a session with this word R_META is LIVE, GIVEN or UNANSWERED. */
function spareOf(meta: number): number {
	const state = (meta >> STATE_SHIFT) & STATE_MASK;
	return (state === ICMP_QUERY || state === OTHER) && (meta & ANSWERED) !== 0 ? LIVE : SPARE[state];
}

/** What word R_DELTA holds of a session with these addresses and ports words (R_OUT, R_IN). */
export function deltaOf(inside: number, address: number, out: number, inn: number): number {
	const delta = wordDelta(inside, address);
	return delta | (fold(delta + halfDelta(firstOf(out), secondOf(inn))) << 16);
}

/** Takes record `i` out of a chain; false if it was not in it. `links[(record << width) + at]` is the next record. */
function unchain(heads: Uint16Array, chain: number, links: Uint16Array, width: number, at: number, i: number): boolean {
	let before = 0;
	let j = heads[chain];
	while (j !== i) {
		if (j === 0) return false;
		before = j;
		j = links[(j << width) + at];
	}
	const after = links[(i << width) + at];
	if (before === 0) heads[chain] = after;
	else links[(before << width) + at] = after;
	return true;
}
