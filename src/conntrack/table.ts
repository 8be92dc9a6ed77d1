/**
 * The connection tracking table: sessions and mappings in fixed memory. Hot file: plain locals and typed arrays.
 *
 * Theory of operation. A *session* is one 64-byte record: the internal endpoint, its external port, the peer, state,
 * counters. A *mapping* (RFC 4787 section 4.1: one internal endpoint <-> one external endpoint, whatever the peer) has
 * no record of its own, because most mappings have exactly one session: it is the ring of the sessions that share its
 * external endpoint. The ring's *leader*, any one member, stands in the two mapping indexes; when it goes, the next
 * member takes its place, and with the last member the mapping ends and its port is given back. So there are two
 * levels, only sessions expire, and a state file needs to keep nothing but records. Where the port must rest (RFC 6888
 * REQ-8) the last record stays as state QUARANTINED: in no index but that of internal endpoints, so that its host finds
 * the port again and nobody else does; the first to go when records run out.
 *
 * Indexes are hash chains over 16-bit record numbers: sessions by outbound key (internal, peer) and by inbound key
 * (peer, external), mappings by internal and by external endpoint. An insert never fails and never rehashes. The hash
 * is multiplicative with keys drawn at start, so neither side can aim at a chain.
 *
 * The sessions of a mapping with one peer address stand together in its ring, and the first of them in an index by
 * (external endpoint, peer address): so that filtering by address (RFC 4787 REQ-8) is one look-up, however many peers a
 * mapping has. The leader, who stands for its own peer, is not in it.
 *
 * Sessions that may make room for others are in lists of their host's (spare-lists.ts). What a counter has beyond its
 * place in the record is in large-counters.ts, where everything lies in table-layout.ts, and verify.ts checks all of
 * it.
 *
 * Every state has one timeout and one doubly linked list ordered by last use: a refresh moves a record to the tail,
 * expiry looks at heads only. Free records form the list of state FREE (first in, first out). Last use is kept in
 * seconds modulo 2^16; timeouts are therefore below 2^16 s.
 *
 * The buffer is a file (restore.ts reads what a predecessor left in it), so a process that is killed leaves it as it is
 * between two stores. A record counts only while its state is not FREE. That one store is the last of a creation and
 * the first of an end, and every other change of a record is one store, or several that may be told apart from a whole
 * record. Indexes, lists and port bitmaps are never read again.
 *
 * The record's layout is in record.ts. Addresses, ports and acknowledgment numbers are raw (packet/layout.ts).
 */
import { fold, halfDelta, wordDelta } from "../packet/checksum.ts";
import { firstOf, LITTLE, secondOf } from "../packet/layout.ts";
import type { AccountHooks } from "./account-hooks.ts";
import { L_BYTES, L_PACKETS, LargeCounters } from "./large-counters.ts";
import type { OffloadHooks } from "./offload-hooks.ts";
import {
	ANSWERED,
	BYTES_CARRY,
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOP_SHIFT,
	PACKETS_CARRY,
	R_ACK_OUT,
	R_BYTES_IN,
	R_BYTES_OUT,
	R_CHAIN_IN,
	R_CHAIN_OUT,
	R_DELTA,
	R_HIGH_OUT,
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
	RECORD_SHIFT,
	RECORD_WORDS,
	STATE_MASK,
	STATE_SHIFT,
} from "./record.ts";
import { SpareLists, spareOf } from "./spare-lists.ts";
import { FREE, LIVE, QUARANTINED, SPARE, STATES, UNANSWERED } from "./states.ts";
import {
	EXTERNAL_WORDS,
	H_BOOT,
	H_CHANGING,
	H_CLOCK,
	H_MAGIC,
	H_VERSION,
	HEADER_WORDS,
	LAYOUT_VERSION,
	MAGIC,
	type TableLayout,
} from "./table-layout.ts";

/** What a session is made of. Addresses and ports raw. */
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
	/** Mapping chains: next by internal endpoint, next by external endpoint, by record number * 2. */
	readonly #chains: Uint16Array;
	/**
	 * Chains of the first session of each mapping and peer address; the links are those of {@link #chains} by external
	 * endpoint, which only leaders need else.
	 */
	readonly #peerHeads: Uint16Array;
	/** Lists: head, tail, by state * 2. */
	readonly #lists: Uint16Array;
	readonly #counts = new Int32Array(STATES);
	readonly spare: SpareLists;
	readonly large: LargeCounters;
	/** Shift that turns a hash into a session chain head; mapping chains use one bit less. */
	readonly shift: number;
	readonly key0: number;
	readonly key1: number;
	readonly key2: number;
	/** Timeout of every state in seconds; replaced when the configuration changes. */
	timeouts: Int32Array;
	/** What carries packets beside the table, null if nothing does. */
	hooks: OffloadHooks | null = null;
	/** Who books what sessions have come to when they end. */
	accounts: AccountHooks | null = null;

	/**
	 * @param buffer zeroed or used before; it is initialised as empty
	 * @param keys three random words
	 * @param timeouts seconds by state
	 * @param keep leave the records as they are, for restore.ts: until it is done the table cannot be used
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
		this.large = new LargeCounters(buffer, layout.large * 4);
		this.spare = new SpareLists(this.T, this.T16, this.large, layout.hosts, copied === null ? null : copied.spare);
		this.shift = 32 - layout.bits;
		this.key0 = keys[0] | 0;
		this.key1 = keys[1] | 1;
		this.key2 = keys[2] | 1;
		if (copied !== null) {
			this.#counts.set(copied.#counts);
			this.large.used = copied.large.used;
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
		this.large.clear();
		this.#clearIndexes();
		for (let i = 1; i <= this.layout.sessions; i++) this.#append(FREE, i);
	}

	/**
	 * Writes the header, by which restore.ts knows the file: `boot` identifies this boot of the machine, `addresses`
	 * are the external ones by number.
	 */
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
		this.spare.clear();
	}

	/**
	 * Puts a record that is in no list at the end of its state's and into those of its host: for a restore, in the
	 * order of last use.
	 */
	relist(i: number): void {
		const state = this.state(i);
		this.#append(state, i);
		if (state !== FREE && state !== QUARANTINED) this.spare.add(i, this.spareOf(i));
	}

	/**
	 * Puts the session in record `i`, which is in no index, into all of them, for a restore: as fast as one by one can
	 * be. `address` is its external address as loaded; `ported`: an external endpoint is one internal endpoint's.
	 * Returns a session of the mapping that was there before, 0 if it is the first; -1, and nothing is done, if another
	 * session has one of its keys.
	 */
	relink(i: number, address: number, ported: boolean): number {
		const t = this.T;
		const t16 = this.T16;
		const { key0, key1, key2, shift, outHeads, inHeads } = this;
		const e = i << RECORD_SHIFT;
		const internal = t[e];
		const peer = t[e + R_PEER];
		const out = t[e + R_OUT];
		const inn = t[e + R_IN];
		const key = t[e + R_META] & 0xffff;
		let h = Math.imul(out ^ key0, key1) ^ internal;
		const outChain = Math.imul(h ^ (h >>> 15) ^ peer, key2) >>> shift;
		for (let k = outHeads[outChain]; k !== 0; k = t16[(k << HALF_SHIFT) + R_CHAIN_OUT]) {
			const f = k << RECORD_SHIFT;
			if (t[f] === internal && t[f + R_OUT] === out && t[f + R_PEER] === peer && ((t[f + R_META] ^ key) & 0xff) === 0) return -1;
		}
		h = Math.imul(inn ^ key0, key1) ^ peer;
		const inChain = Math.imul(h ^ (h >>> 15) ^ address, key2) >>> shift;
		for (let k = inHeads[inChain]; k !== 0; k = t16[(k << HALF_SHIFT) + R_CHAIN_IN]) {
			const f = k << RECORD_SHIFT;
			if (t[f + R_PEER] === peer && t[f + R_IN] === inn && (t[f + R_META] & 0xffff) === key) return -1;
		}
		const chains = this.#chains;
		const externalPort = secondOf(inn);
		h = Math.imul(externalPort ^ key0, key1) ^ address;
		const mapInChain = Math.imul(h ^ (h >>> 15) ^ externalPort, key2) >>> (shift + 1);
		let leader = this.#mapInHeads[mapInChain];
		for (; leader !== 0; leader = chains[(leader << 1) + 1]) {
			const f = leader << RECORD_SHIFT;
			if (secondOf(t[f + R_IN]) !== externalPort || (t[f + R_META] & 0xffff) !== key) continue;
			if (ported && (t[f] !== internal || firstOf(t[f + R_OUT]) !== firstOf(out))) return -1;
			break;
		}
		t16[(i << HALF_SHIFT) + R_CHAIN_OUT] = outHeads[outChain];
		outHeads[outChain] = i;
		t16[(i << HALF_SHIFT) + R_CHAIN_IN] = inHeads[inChain];
		inHeads[inChain] = i;
		if (leader !== 0) this.#join(i, leader, address);
		else {
			const r = this.#ring;
			r[i << 1] = i;
			r[(i << 1) + 1] = i;
			const port = firstOf(out);
			h = Math.imul(port ^ key0, key1) ^ internal;
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

	/** Puts a resting record, which is in no index, where {@link findQuarantined} finds it. */
	relinkQuarantined(i: number): void {
		const t = this.T;
		const h = this.#hashEndpoint(t[i << RECORD_SHIFT], firstOf(t[(i << RECORD_SHIFT) + R_OUT]));
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
		return this.#counts[FREE] + this.#counts[QUARANTINED];
	}

	/** First (least recently used) record of a state's list, 0 if it is empty. */
	head(state: number): number {
		return this.#lists[state << 1];
	}

	/** The record after `i` in its state's list, 0 at the end. */
	next(i: number): number {
		return this.T16[(i << HALF_SHIFT) + R_NEXT];
	}

	state(i: number): number {
		return (this.T[(i << RECORD_SHIFT) + R_META] >> STATE_SHIFT) & STATE_MASK;
	}

	// ---- lists ---------------------------------------------------------------------------------------------------

	#append(state: number, i: number): void {
		const l = this.#lists;
		const tail = l[(state << 1) + 1];
		this.T16[(i << HALF_SHIFT) + R_PREVIOUS] = tail;
		this.T16[(i << HALF_SHIFT) + R_NEXT] = 0;
		if (tail === 0) l[state << 1] = i;
		else this.T16[(tail << HALF_SHIFT) + R_NEXT] = i;
		l[(state << 1) + 1] = i;
		this.#counts[state]++;
	}

	#detach(state: number, i: number): void {
		const l = this.#lists;
		const t = this.T16;
		const before = t[(i << HALF_SHIFT) + R_PREVIOUS];
		const after = t[(i << HALF_SHIFT) + R_NEXT];
		if (before === 0) l[state << 1] = after;
		else t[(before << HALF_SHIFT) + R_NEXT] = after;
		if (after === 0) l[(state << 1) + 1] = before;
		else t[(after << HALF_SHIFT) + R_PREVIOUS] = before;
		this.#counts[state]--;
	}

	/** Refreshes a session: last use is `now16` (seconds & 0xffff). */
	touch(i: number, now16: number): void {
		this.setState(i, (this.T[(i << RECORD_SHIFT) + R_META] >> STATE_SHIFT) & STATE_MASK, now16);
	}

	/** Moves a session to another state and refreshes it. Spelt out: it is done for most packets of the slow path. */
	setState(i: number, state: number, now16: number): void {
		const t = this.T16;
		const l = this.#lists;
		const h = i << HALF_SHIFT;
		const to = state << 1;
		const meta = this.T[(i << RECORD_SHIFT) + R_META];
		const before = (meta >> STATE_SHIFT) & STATE_MASK;
		// First the time: the new state's may be shorter than the session has been idle.
		t[h + R_LAST] = now16;
		const tail = l[to + 1];
		if (tail !== i) {
			const previous = t[h + R_PREVIOUS];
			const next = t[h + R_NEXT];
			if (previous === 0) l[before << 1] = next;
			else t[(previous << HALF_SHIFT) + R_NEXT] = next;
			if (next === 0) l[(before << 1) + 1] = previous;
			else t[(next << HALF_SHIFT) + R_PREVIOUS] = previous;
			t[h + R_PREVIOUS] = tail;
			t[h + R_NEXT] = 0;
			if (tail === 0) l[to] = i;
			else t[(tail << HALF_SHIFT) + R_NEXT] = i;
			l[to + 1] = i;
			if (before !== state) {
				this.#counts[before]--;
				this.#counts[state]++;
				const changed = meta ^ ((before ^ state) << STATE_SHIFT);
				if (SPARE[before] === SPARE[state]) this.T[(i << RECORD_SHIFT) + R_META] = changed;
				else this.spare.move(i, meta, changed);
			}
		}
		if (this.hooks !== null) this.hooks.changed(i);
	}

	/**
	 * Moves a session to another state but keeps its last use (RFC 4787 REQ-6: inbound packets do not refresh). The
	 * place in the ordered list is looked for from the tail; a reply comes within the round-trip time, so this is a
	 * step or two. After 32 steps the session takes the last use it met there.
	 */
	setStateKeepingTime(i: number, state: number, now16: number): void {
		const t = this.T16;
		const l = this.#lists;
		const meta = this.T[(i << RECORD_SHIFT) + R_META];
		const from = (meta >> STATE_SHIFT) & STATE_MASK;
		this.#detach(from, i);
		const changed = meta ^ ((from ^ state) << STATE_SHIFT);
		if (SPARE[from] === SPARE[state]) this.T[(i << RECORD_SHIFT) + R_META] = changed;
		else this.spare.move(i, meta, changed);
		const age = (now16 - t[(i << HALF_SHIFT) + R_LAST]) & 0xffff;
		let before = l[(state << 1) + 1];
		for (let steps = 0; before !== 0 && ((now16 - t[(before << HALF_SHIFT) + R_LAST]) & 0xffff) < age; steps++) {
			if (steps === 32) {
				t[(i << HALF_SHIFT) + R_LAST] = t[(before << HALF_SHIFT) + R_LAST];
				break;
			}
			before = t[(before << HALF_SHIFT) + R_PREVIOUS];
		}
		const after = before === 0 ? l[state << 1] : t[(before << HALF_SHIFT) + R_NEXT];
		t[(i << HALF_SHIFT) + R_PREVIOUS] = before;
		t[(i << HALF_SHIFT) + R_NEXT] = after;
		if (before === 0) l[state << 1] = i;
		else t[(before << HALF_SHIFT) + R_NEXT] = i;
		if (after === 0) l[(state << 1) + 1] = i;
		else t[(after << HALF_SHIFT) + R_PREVIOUS] = i;
		this.#counts[state]++;
		if (this.hooks !== null) this.hooks.changed(i);
	}

	/** The peer of an ICMP query, or of a session without ports, has answered. False if it had done so before. */
	answer(i: number): boolean {
		const m = (i << RECORD_SHIFT) + R_META;
		const from = spareOf(this.T[m]);
		if (from === LIVE) return false;
		this.spare.remove(i, from);
		this.T[m] |= ANSWERED;
		this.spare.add(i, spareOf(this.T[m]));
		return true;
	}

	/** Whether a session is LIVE, GIVEN or UNANSWERED. */
	spareOf(i: number): number {
		return spareOf(this.T[(i << RECORD_SHIFT) + R_META]);
	}

	/**
	 * From now on unanswered sessions are in the lists of their hosts, until {@link SpareLists.relax}. Walks them all.
	 */
	press(): void {
		const { spare } = this;
		if (spare.pressed) return;
		spare.pressed = true;
		for (let state = 1; state < STATES; state++) {
			if (SPARE[state] !== UNANSWERED) continue;
			for (let i = this.head(state); i !== 0; i = this.next(i)) if (this.spareOf(i) === UNANSWERED) spare.add(i, UNANSWERED);
		}
	}

	/** Seconds since the last use. */
	age(i: number, now16: number): number {
		return (now16 - this.T16[(i << HALF_SHIFT) + R_LAST]) & 0xffff;
	}

	/**
	 * First expired session of a state at `now16`, 0 if there is none. One that was used offloaded since is moved on.
	 */
	expired(state: number, now16: number): number {
		for (;;) {
			const i = this.#lists[state << 1];
			if (i === 0 || this.age(i, now16) <= this.timeouts[state]) return 0;
			// It is in another list then.
			if (this.hooks?.sync(i)) continue;
			const age = this.hooks === null ? -1 : this.hooks.age(i);
			if (age < 0 || age > this.timeouts[state]) return i;
			this.touch(i, now16 - age);
		}
	}

	// ---- counters ---------------------------------------------------------------------------------------------------

	/**
	 * The low part of a byte counter has come round, outbound (0) or inbound (1). No more packets than PACKETS_CARRY
	 * have passed since it last did.
	 */
	carried(i: number, inbound: number): void {
		const t = this.T16;
		const h = (i << HALF_SHIFT) + R_HIGH_OUT + inbound;
		if (this.spareOf(i) !== LIVE) this.large.add(i, L_BYTES + inbound, 1);
		else if (t[h] < 0xffff) t[h]++;
		else {
			t[h] = 0;
			this.large.add(i, L_BYTES + inbound, 0x10000);
		}
		const p = (i << RECORD_SHIFT) + R_PACKETS_OUT + inbound;
		if (this.T[p] < 0) {
			this.T[p] &= 0x7fffffff;
			this.large.add(i, L_PACKETS + inbound, 1);
		}
	}

	/** Adds packets and bytes that were counted elsewhere. */
	add(i: number, inbound: number, packets: number, bytes: number): void {
		const t = this.T;
		const p = (i << RECORD_SHIFT) + R_PACKETS_OUT + inbound;
		const b = (i << RECORD_SHIFT) + R_BYTES_OUT + inbound;
		const all = (t[p] >>> 0) + packets;
		t[p] = all % PACKETS_CARRY;
		if (all >= PACKETS_CARRY) this.large.add(i, L_PACKETS + inbound, Math.floor(all / PACKETS_CARRY));
		const total = t[b] + bytes;
		t[b] = total % BYTES_CARRY;
		if (total < BYTES_CARRY) return;
		const h = (i << HALF_SHIFT) + R_HIGH_OUT + inbound;
		const carries = Math.floor(total / BYTES_CARRY);
		if (this.spareOf(i) === LIVE && this.T16[h] + carries <= 0xffff) this.T16[h] += carries;
		else this.large.add(i, L_BYTES + inbound, carries);
	}

	/** Packets of both directions as exact numbers: [out, in]. */
	packets(i: number): [number, number] {
		const p = (i << RECORD_SHIFT) + R_PACKETS_OUT;
		return [
			this.large.of(i, L_PACKETS) * PACKETS_CARRY + (this.T[p] >>> 0),
			this.large.of(i, L_PACKETS + 1) * PACKETS_CARRY + (this.T[p + R_PACKETS_IN - R_PACKETS_OUT] >>> 0),
		];
	}

	/** Bytes of both directions as exact numbers: [out, in]. */
	bytes(i: number): [number, number] {
		const e = i << RECORD_SHIFT;
		const live = this.spareOf(i) === LIVE;
		const high = (which: number) => this.large.of(i, L_BYTES + which) + (live ? this.T16[(i << HALF_SHIFT) + R_HIGH_OUT + which] : 0);
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
	findOut(protocol: number, internal: number, peer: number, ports: number): number {
		const t = this.T;
		const h = Math.imul(ports ^ this.key0, this.key1) ^ internal;
		let i = this.outHeads[Math.imul(h ^ (h >>> 15) ^ peer, this.key2) >>> this.shift];
		while (i !== 0) {
			const e = i << RECORD_SHIFT;
			if (t[e] === internal && t[e + R_OUT] === ports && t[e + R_PEER] === peer && (t[e + R_META] & 0xff) === protocol) break;
			i = this.T16[(i << HALF_SHIFT) + R_CHAIN_OUT];
		}
		return i;
	}

	/** Session of an inbound packet to external address number `external` (raw `address`), 0 if there is none. */
	findIn(protocol: number, peer: number, address: number, external: number, ports: number): number {
		const t = this.T;
		const key = protocol | (external << EXTERNAL_SHIFT);
		const h = Math.imul(ports ^ this.key0, this.key1) ^ peer;
		let i = this.inHeads[Math.imul(h ^ (h >>> 15) ^ address, this.key2) >>> this.shift];
		while (i !== 0) {
			const e = i << RECORD_SHIFT;
			if (t[e + R_PEER] === peer && t[e + R_IN] === ports && (t[e + R_META] & 0xffff) === key) break;
			i = this.T16[(i << HALF_SHIFT) + R_CHAIN_IN];
		}
		return i;
	}

	/** A session of the mapping of an internal endpoint, 0 if there is no such mapping. `port` raw. */
	findMapping(protocol: number, internal: number, port: number): number {
		const t = this.T;
		const h = Math.imul(port ^ this.key0, this.key1) ^ internal;
		let i = this.#mapOutHeads[Math.imul(h ^ (h >>> 15) ^ port, this.key2) >>> (this.shift + 1)];
		while (i !== 0) {
			const e = i << RECORD_SHIFT;
			const meta = t[e + R_META];
			if (
				t[e] === internal &&
				(meta & 0xff) === protocol &&
				firstOf(t[e + R_OUT]) === port &&
				((meta >> STATE_SHIFT) & STATE_MASK) !== QUARANTINED
			)
				break;
			i = this.#chains[i << 1];
		}
		return i;
	}

	/**
	 * The record that keeps the port at rest which an internal endpoint's mapping had, 0 if there is none. `port` raw.
	 */
	findQuarantined(protocol: number, internal: number, port: number): number {
		if (this.#counts[QUARANTINED] === 0) return 0;
		const t = this.T;
		let i = this.#mapOutHeads[this.#hashEndpoint(internal, port)];
		while (i !== 0) {
			const e = i << RECORD_SHIFT;
			if (t[e] === internal && firstOf(t[e + R_OUT]) === port && (t[e + R_META] & 0xff) === protocol && this.state(i) === QUARANTINED)
				break;
			i = this.#chains[i << 1];
		}
		return i;
	}

	/** A session of the mapping that owns an external endpoint, 0 if there is none. `port` raw. */
	findExternal(protocol: number, address: number, external: number, port: number): number {
		const t = this.T;
		const key = protocol | (external << EXTERNAL_SHIFT);
		let i = this.#mapInHeads[this.#hashEndpoint(address, port)];
		while (i !== 0) {
			const e = i << RECORD_SHIFT;
			if (secondOf(t[e + R_IN]) === port && (t[e + R_META] & 0xffff) === key) break;
			i = this.#chains[(i << 1) + 1];
		}
		return i;
	}

	/**
	 * The session of a mapping that `leader` leads, with a peer address: the first there is, 0 if there is none.
	 * `address` is the external one raw.
	 */
	findPeer(leader: number, peer: number, address: number): number {
		const t = this.T;
		const e = leader << RECORD_SHIFT;
		return t[e + R_PEER] === peer ? leader : this.#findFirst(peer, address, secondOf(t[e + R_IN]), t[e + R_META] & 0xffff);
	}

	#findFirst(peer: number, address: number, port: number, key: number): number {
		const t = this.T;
		let i = this.#peerHeads[this.#hashPeer(peer, address, port)];
		while (i !== 0) {
			const e = i << RECORD_SHIFT;
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
	 * Creates a session from a free record; the caller has made sure that there is one ({@link count} of FREE > 0) and
	 * that neither key exists. Returns the record's number. Spelt out like {@link relink}: 1.8 instead of 2.7 us in
	 * QuickJS.
	 */
	create(n: NewSession, now16: number): number {
		const { internal, peer, address, externalPort, state } = n;
		const l = this.#lists;
		const i = l[FREE << 1];
		const t = this.T;
		const t16 = this.T16;
		const { key0, key1, key2, shift, outHeads, inHeads } = this;
		const e = i << RECORD_SHIFT;
		const h16 = i << HALF_SHIFT;
		const { internalPort, mapped } = n;
		const out = LITTLE ? internalPort | (n.peerPortInternal << 16) : (internalPort << 16) | n.peerPortInternal;
		const inn = LITTLE ? n.peerPort | (externalPort << 16) : (n.peerPort << 16) | externalPort;
		// Off the head of the list of the free.
		const free = t16[h16 + R_NEXT];
		l[FREE << 1] = free;
		if (free === 0) l[(FREE << 1) + 1] = 0;
		else t16[(free << HALF_SHIFT) + R_PREVIOUS] = 0;
		t[e] = internal;
		t[e + R_PEER] = peer;
		t[e + R_OUT] = out;
		t[e + R_IN] = inn;
		// As deltaOf() has it.
		let delta = (~internal & 0xffff) + (~internal >>> 16) + (address & 0xffff) + (address >>> 16);
		delta = (delta & 0xffff) + (delta >>> 16);
		delta = (delta & 0xffff) + (delta >>> 16);
		let both = delta + (internalPort ^ 0xffff) + externalPort;
		both = (both & 0xffff) + (both >>> 16);
		t[e + R_DELTA] = delta | (((both & 0xffff) + (both >>> 16)) << 16);
		t.fill(0, e + R_ACK_OUT, e + RECORD_WORDS);
		if (this.large.used) this.large.forget((k) => k === i || this.state(k) === FREE);
		t16[h16 + R_LAST] = now16;
		t16[h16 + R_HOST] = n.host;
		// To the tail of its state's.
		const tail = l[(state << 1) + 1];
		t16[h16 + R_PREVIOUS] = tail;
		t16[h16 + R_NEXT] = 0;
		if (tail === 0) l[state << 1] = i;
		else t16[(tail << HALF_SHIFT) + R_NEXT] = i;
		l[(state << 1) + 1] = i;
		const counts = this.#counts;
		counts[FREE]--;
		counts[state]++;
		let h = Math.imul(out ^ key0, key1) ^ internal;
		h = Math.imul(h ^ (h >>> 15) ^ peer, key2) >>> shift;
		t16[h16 + R_CHAIN_OUT] = outHeads[h];
		outHeads[h] = i;
		h = Math.imul(inn ^ key0, key1) ^ peer;
		h = Math.imul(h ^ (h >>> 15) ^ address, key2) >>> shift;
		t16[h16 + R_CHAIN_IN] = inHeads[h];
		inHeads[h] = i;
		if (mapped !== 0) this.#join(i, mapped, address);
		else {
			const r = this.#ring;
			const chains = this.#chains;
			const w = i << 1;
			r[w] = i;
			r[w + 1] = i;
			// As #lead() has it.
			let heads = this.#mapOutHeads;
			h = Math.imul(internalPort ^ key0, key1) ^ internal;
			h = Math.imul(h ^ (h >>> 15) ^ internalPort, key2) >>> (shift + 1);
			chains[w] = heads[h];
			heads[h] = i;
			heads = this.#mapInHeads;
			h = Math.imul(externalPort ^ key0, key1) ^ address;
			h = Math.imul(h ^ (h >>> 15) ^ externalPort, key2) >>> (shift + 1);
			chains[w + 1] = heads[h];
			heads[h] = i;
		}
		const kind = SPARE[state];
		if (kind !== UNANSWERED || this.spare.pressed) this.spare.add(i, kind);
		// The last store: before it the record is a free one, whatever becomes of the process.
		t[e + R_META] = n.protocol | (n.external << EXTERNAL_SHIFT) | (state << STATE_SHIFT) | (n.hop << HOP_SHIFT);
		return i;
	}

	/** Puts a session into the indexes and the ring of its mapping, of which `leader` is one, 0: it is the first. */
	#link(i: number, address: number, leader: number): void {
		const t = this.T;
		const t16 = this.T16;
		const e = i << RECORD_SHIFT;
		let h = this.hash(t[e], t[e + R_PEER], t[e + R_OUT]);
		t16[(i << HALF_SHIFT) + R_CHAIN_OUT] = this.outHeads[h];
		this.outHeads[h] = i;
		h = this.hash(t[e + R_PEER], address, t[e + R_IN]);
		t16[(i << HALF_SHIFT) + R_CHAIN_IN] = this.inHeads[h];
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
		const e = i << RECORD_SHIFT;
		const peer = t[e + R_PEER];
		let before = leader;
		if (t[(leader << RECORD_SHIFT) + R_PEER] !== peer) {
			const port = secondOf(t[e + R_IN]);
			before = this.#findFirst(peer, address, port, t[(leader << RECORD_SHIFT) + R_META] & 0xffff);
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
		const e = i << RECORD_SHIFT;
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
	 * Ends a session; `address` is its external address raw (it went into the inbound hash). Returns true if it was the
	 * last of its mapping, whose port is then the caller's to give back. The record is free afterwards, its words are
	 * still readable until it is used again.
	 */
	remove(i: number, address: number): boolean {
		if (this.hooks !== null) this.hooks.ended(i);
		if (this.accounts !== null) this.accounts.ended(i);
		const state = this.state(i);
		this.spare.remove(i, this.spareOf(i));
		this.T[(i << RECORD_SHIFT) + R_META] &= 0xffff;
		const last = this.#unlink(i, address);
		this.#detach(state, i);
		this.#append(FREE, i);
		return last;
	}

	/**
	 * Ends the only session of a mapping but keeps its record, so that the port rests. `address` as in {@link remove}.
	 */
	quarantine(i: number, address: number, now16: number): void {
		if (this.hooks !== null) this.hooks.ended(i);
		if (this.accounts !== null) this.accounts.ended(i);
		this.#unlink(i, address);
		const m = (i << RECORD_SHIFT) + R_META;
		this.spare.remove(i, this.spareOf(i));
		this.#detach(this.state(i), i);
		this.T16[(i << HALF_SHIFT) + R_LAST] = now16;
		this.T[m] = (this.T[m] & ~(STATE_MASK << STATE_SHIFT)) | (QUARANTINED << STATE_SHIFT);
		this.#append(QUARANTINED, i);
		this.relinkQuarantined(i);
	}

	/** Ends the rest of a record's port, which is then the caller's to give back. */
	removeQuarantined(i: number): void {
		const t = this.T;
		t[(i << RECORD_SHIFT) + R_META] &= 0xffff;
		unchain(this.#mapOutHeads, this.#hashEndpoint(t[i << RECORD_SHIFT], firstOf(t[(i << RECORD_SHIFT) + R_OUT])), this.#chains, 1, 0, i);
		this.#detach(QUARANTINED, i);
		this.#append(FREE, i);
	}

	/** True if record `i` is the only session of its mapping. */
	alone(i: number): boolean {
		return this.#ring[(i << 1) + 1] === i;
	}

	/**
	 * Gives sessions, named in order by `each`, another external address: `from` and `to` raw. All sessions of a
	 * mapping must be among them. The records keep number, state and time; the caller changes what their external
	 * number means.
	 */
	renumber(each: (f: (i: number) => void) => void, from: number, to: number): void {
		const t = this.T;
		each((i) => {
			if (this.hooks !== null) this.hooks.ended(i);
			this.#unlink(i, from);
		});
		each((i) => {
			const e = i << RECORD_SHIFT;
			const m = t[e + R_META];
			t[e + R_DELTA] = deltaOf(t[e], to, t[e + R_OUT], t[e + R_IN]);
			this.#link(i, to, this.findExternal(m & 0xff, to, (m >> EXTERNAL_SHIFT) & 0xff, secondOf(t[e + R_IN])));
		});
	}

	#unlink(i: number, address: number): boolean {
		const t = this.T;
		const e = i << RECORD_SHIFT;
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
		const same = t[(after << RECORD_SHIFT) + R_PEER] === peer;
		if (led) {
			// The next stands for its peer by leading.
			const next = t[(after << RECORD_SHIFT) + R_PEER];
			if (!same) unchain(this.#peerHeads, this.#hashPeer(next, address, port), this.#chains, 1, 1, after);
			this.#lead(after, address);
		} else if (t[(before << RECORD_SHIFT) + R_PEER] !== peer) {
			const chain = this.#hashPeer(peer, address, port);
			unchain(this.#peerHeads, chain, this.#chains, 1, 1, i);
			if (same) this.#index(after, chain);
		}
		return false;
	}
}

/** What word R_DELTA holds of a session with these addresses and ports words (R_OUT, R_IN). */
export function deltaOf(internal: number, address: number, out: number, inn: number): number {
	const delta = wordDelta(internal, address);
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
