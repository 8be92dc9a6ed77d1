/**
 * Internal hosts that have sessions: how many, where they are on the LAN, what policy they have. Fixed memory beside
 * the session table.
 *
 * A record is four words: address; LAN port number in bits 16-23 and flags above; sessions opened lately and the
 * external address of a pool it keeps to; session count (half) and next in hash chain (half). Record 0 is none. A
 * host's record goes with its last session. Its link header has the same number (packet/link-header.ts).
 */
import type { AccountHooks } from "./account-hooks.ts";
import {
	HOST_FRESH,
	HOST_HALVES,
	HOST_HEARD,
	HOST_NEXT,
	HOST_OPENED,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_REACHABLE,
	HOST_SESSIONS,
	HOST_SHIFT,
	HOST_WORDS,
} from "./record.ts";
import type { TableLayout } from "./table-layout.ts";

/** The table of hosts. Addresses are raw. */
export class Hosts {
	/** Words of all records (index = host * 4 + word). */
	readonly W: Int32Array;
	readonly #halves: Uint16Array;
	readonly #heads: Uint16Array;
	readonly #capacity: number;
	readonly #key: number;
	/** Shift that turns a hash into a chain. */
	readonly #shift: number;
	readonly #layout: TableLayout;
	/** New sessions refused, by host number; for the operator only. */
	readonly refused: Uint32Array;
	/** Mappings by host number * 4 + kind of port (externals.ts); they are counted while {@link counting}. */
	readonly #mappings: Uint16Array;
	counting = false;
	/** Who is told of a host that has come. */
	accounts: AccountHooks | null = null;
	#free = 0;
	/** Hosts that have sessions now. */
	active = 0;
	/** The host whose record stays although it has no session, 0 if none. */
	#pinned = 0;
	/**
	 * The host that had most sessions when {@link largest} last walked all records, and the most that any other may
	 * have by now.
	 */
	#top = 0;
	#others = 0;

	/** `copied` are the hosts that `buffer` is a copy of: nothing is initialised then. */
	constructor(buffer: ArrayBuffer, layout: TableLayout, key: number, copied: Hosts | null = null) {
		this.#layout = layout;
		const n = layout.hosts + 1;
		this.#capacity = layout.hosts;
		this.W = new Int32Array(buffer, layout.hostRecords * 4, n * 4);
		this.#halves = new Uint16Array(buffer, layout.hostRecords * 4, n * 8);
		this.#heads = new Uint16Array(buffer, layout.hostHeads * 4, 1 << (31 - Math.clz32(layout.hosts)));
		this.#key = key | 1;
		this.#shift = Math.clz32(this.#heads.length) + 1;
		this.refused = new Uint32Array(n);
		this.#mappings = new Uint16Array(n * 4);
		if (copied === null) this.clear();
		else {
			this.#mappings.set(copied.#mappings);
			this.counting = copied.counting;
			this.#free = copied.#free;
			this.active = copied.active;
		}
	}

	/** These hosts as they are now over `buffer`, a copy of the whole of the table's memory. */
	copy(buffer: ArrayBuffer): Hosts {
		return new Hosts(buffer, this.#layout, this.#key, this);
	}

	/** Forgets all hosts. */
	clear(): void {
		this.W.fill(0);
		this.#heads.fill(0);
		this.stopCounting();
		for (let i = 1; i <= this.#capacity; i++) this.#halves[i * HOST_HALVES + HOST_NEXT] = i < this.#capacity ? i + 1 : 0;
		this.#free = 1;
		this.active = 0;
		this.#top = 0;
		this.#pinned = 0;
	}

	#chain(address: number): number {
		return Math.imul(address ^ (address >>> 16), this.#key) >>> this.#shift;
	}

	/** Number of the host with this address, 0 if it has no sessions. */
	find(address: number): number {
		const { W } = this;
		let i = this.#heads[Math.imul(address ^ (address >>> 16), this.#key) >>> this.#shift];
		while (i !== 0 && W[i << HOST_SHIFT] !== address) i = this.#halves[i * HOST_HALVES + HOST_NEXT];
		return i;
	}

	/**
	 * Finds or creates the host's record; 0 if there is no room for another host. `flags` is the policy of a new
	 * record.
	 */
	obtain(address: number, flags: number): number {
		const known = this.find(address);
		if (known !== 0 || this.#free === 0) return known;
		const i = this.#free;
		const chain = this.#chain(address);
		this.#free = this.#halves[i * HOST_HALVES + HOST_NEXT];
		this.W[i * HOST_WORDS] = address;
		this.W[i * HOST_WORDS + HOST_PLACE] = flags;
		this.#halves[i * HOST_HALVES + HOST_SESSIONS] = 0;
		this.refused[i] = 0;
		this.#halves[i * HOST_HALVES + HOST_NEXT] = this.#heads[chain];
		this.#heads[chain] = i;
		this.active++;
		if (this.accounts !== null) this.accounts.open(address);
		return i;
	}

	/** Sessions of a host. */
	sessions(i: number): number {
		return this.#halves[i * HOST_HALVES + HOST_SESSIONS];
	}

	/** Counts a session opened in second `now`; false if there were `rate` already. */
	opens(i: number, now: number, rate: number): boolean {
		const w = i * HOST_WORDS + HOST_OPENED;
		const v = this.W[w];
		const opened = ((v >>> 16) & 0xff) === (now & 0xff) ? v & 0xffff : 0;
		if (opened >= rate) return false;
		this.W[w] = (v & -0x1000000) | ((now & 0xff) << 16) | (opened + 1);
		return true;
	}

	/** Remembers which pool address a host's sessions use (external number, 0: none). */
	pair(i: number, external: number): void {
		const w = i * HOST_WORDS + HOST_OPENED;
		this.W[w] = (this.W[w] & 0xffffff) | (external << 24);
	}

	/** The pool address that a host keeps to while it has sessions, 0 if none. */
	paired(i: number): number {
		return this.W[i * HOST_WORDS + HOST_OPENED] >>> 24;
	}

	/** Mappings of a host of one kind of port. */
	mappings(i: number, kind: number): number {
		return this.#mappings[i * 4 + kind];
	}

	/** Mappings are not counted any more. */
	stopCounting(): void {
		this.counting = false;
		this.#mappings.fill(0);
	}

	/** Counts mappings that have begun, or ended with a negative `number`. */
	mapped(i: number, kind: number, number: number): void {
		this.#mappings[i * 4 + kind] += number;
	}

	/** The host with most mappings of a kind of port, 0 if none has one. Walks all records. */
	mostMappings(kind: number): number {
		const m = this.#mappings;
		let best = 0;
		for (let w = 4 + kind; w < m.length; w += 4) if (m[w] > m[best * 4 + kind]) best = w >> 2;
		return best;
	}

	/** Records there can be. */
	get capacity(): number {
		return this.#capacity;
	}

	/** True while no further host can have a record. */
	get full(): boolean {
		return this.#free === 0;
	}

	/** Counts one more session. */
	retain(i: number): void {
		const n = ++this.#halves[i * HOST_HALVES + HOST_SESSIONS];
		if (n > this.#others && i !== this.#top) this.#others = n;
	}

	/**
	 * Keeps a host's record whatever becomes of its sessions, until {@link unpin}. Counting one more instead would not
	 * do: a host may have all that 16 bits can count.
	 */
	pin(i: number): void {
		this.#pinned = i;
	}

	/** Ends {@link pin}: the record goes if it has no session. */
	unpin(): void {
		const i = this.#pinned;
		this.#pinned = 0;
		if (this.#halves[i * HOST_HALVES + HOST_SESSIONS] === 0) this.release(i);
	}

	/** Counts one session less and frees the record with the last; also frees a record that never got one. */
	release(i: number): void {
		const h = this.#halves;
		if (h[i * HOST_HALVES + HOST_SESSIONS] > 0) h[i * HOST_HALVES + HOST_SESSIONS]--;
		if (h[i * HOST_HALVES + HOST_SESSIONS] > 0 || i === this.#pinned) return;
		const chain = this.#chain(this.W[i * HOST_WORDS]);
		let before = 0;
		let j = this.#heads[chain];
		while (j !== i && j !== 0) {
			before = j;
			j = h[j * HOST_HALVES + HOST_NEXT];
		}
		if (before === 0) this.#heads[chain] = h[i * HOST_HALVES + HOST_NEXT];
		else h[before * HOST_HALVES + HOST_NEXT] = h[i * HOST_HALVES + HOST_NEXT];
		this.W.fill(0, i * 4, i * 4 + 4);
		h[i * HOST_HALVES + HOST_NEXT] = this.#free;
		this.#free = i;
		this.active--;
	}

	/** Records that a host can be reached by a LAN port. `heard`: only its own frames say so. */
	place(i: number, port: number, heard = false): void {
		this.assign(i, port);
		const w = i * HOST_WORDS + HOST_PLACE;
		this.W[w] = (this.W[w] & ~HOST_HEARD) | HOST_REACHABLE | HOST_FRESH | (heard ? HOST_HEARD : 0);
	}

	/** Records that it is not known any more how a host is reached. */
	lose(i: number): void {
		this.W[i * HOST_WORDS + HOST_PLACE] &= ~(HOST_REACHABLE | HOST_FRESH | HOST_HEARD);
	}

	/** Says on which LAN port a host is that has not been heard yet. */
	assign(i: number, port: number): void {
		const w = i * HOST_WORDS + HOST_PLACE;
		this.W[w] = (this.W[w] & ~(0xff << HOST_PORT_SHIFT)) | (port << HOST_PORT_SHIFT);
	}

	/**
	 * The host with most sessions, 0 if there is none. Walks all records only when another host may have got ahead:
	 * under the flood of one host, which asks for every packet, it does not.
	 */
	largest(): number {
		const top = this.#top;
		if (top !== 0 && this.sessions(top) > 0 && this.sessions(top) >= this.#others) return top;
		let best = 0;
		let most = 0;
		let second = 0;
		for (let i = 1; i <= this.#capacity; i++) {
			const n = this.#halves[i * HOST_HALVES + HOST_SESSIONS];
			if (n > most) {
				second = most;
				most = n;
				best = i;
			} else if (n > second) second = n;
		}
		this.#top = best;
		this.#others = second;
		return best;
	}
}
