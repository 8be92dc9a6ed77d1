/**
 * Bytes of internal hosts by hour and day, for a week, in fixed memory: a file on tmpfs, so that a restart loses
 * nothing.
 *
 * Theory of operation. No packet is counted here: sessions have counters. What a host has moved since the last look is
 * what its ended sessions have come to, added as each ends, and what its live ones have come to now, less what those
 * had come to at the last look. So a host has one number a direction, *pending*, ended less booked, and a look, a walk
 * over the records in slices, adds the live ones and books the sum. It need only be done when an hour is over, or
 * somebody asks. Sessions that end while a walk is under way are kept apart once it has passed them (`#next`).
 *
 * What is counted are bytes of IPv4 that were forwarded, headers included. Segments that the kernel has merged are
 * counted with one header: those of the others are reckoned from the least number of packets that the bytes make.
 *
 * A row begins with a host's record (hosts.ts), when it has no session: all of its sessions are in one row. With no row
 * left they are in row 0, that of all others.
 */
import { TCP } from "../packet/layout.ts";
import type { AccountHooks } from "./account-hooks.ts";
import { L_BYTES, L_PACKETS } from "./large-counters.ts";
import { BYTES_CARRY, HALF_SHIFT, PACKETS_CARRY, R_BYTES_OUT, R_HIGH_OUT, R_META, R_PACKETS_OUT, RECORD_SHIFT } from "./record.ts";
import type { Image } from "./restore.ts";
import { spareOf } from "./spare-lists.ts";
import { FREE, LIVE, QUARANTINED } from "./states.ts";
import type { Table } from "./table.ts";

/** Hosts that have a row; what is kept of each. */
export const ROWS = 256;
export const HOURS = 24;
export const DAYS = 7;
const WIDTH = (HOURS + DAYS) * 2;
const SUMS = (ROWS + 1) * 2;

const MAGIC = 0x6d716163;
/**
 * Words of the header: magic with the layout's number, boot (four), the table's keys (three); numbers of the hour and
 * day that are open, their places; second of the last look.
 */
const A_BOOT = 1;
const A_KEYS = 5;
const A_HOUR = 8;
const A_DAY = 9;
const A_HOUR_AT = 10;
const A_DAY_AT = 11;
const A_LOOKED = 12;
const A_ADDRESSES = 14;
const PENDING = A_ADDRESSES + ROWS + 2;
const BUCKETS = PENDING + (ROWS + 1) * 4;
export const ACCOUNTS_BYTES = (BUCKETS + (ROWS + 1) * WIDTH) * 4;

/** Rows that are to be free when an hour begins. */
const SPARE_ROWS = 16;
/** Seconds between two looks, which an hour is a multiple of. */
const LOOK_EVERY = 300;
/** Records that one step of a look visits. */
const LOOK = 2048;

/** Bytes of a packet that has not been merged, and of its headers: between those without and with time stamps. */
const PACKET = 1500;
const TCP_HEADERS = 46;
const UDP_HEADERS = 28;
/** From the packets of a record's direction to its bytes. */
const BYTES = R_BYTES_OUT - R_PACKETS_OUT;

/** Where they are kept. */
export interface AccountsOwner {
	/** Seconds since boot; and of the local clock. */
	second(): number;
	local(): number;
	/** Whether a host has sessions. */
	present(address: number): boolean;
	/** Another number than before if anything was carried meanwhile; NaN if that cannot be told. */
	carriedSoFar(): number;
	/** What carries sessions beside the table and has counters that are not in the records, null if nothing does. */
	carried(): { counters(i: number): Counted } | null;
}

/** Packets and bytes, out and in. */
interface Counted {
	packetsOut: number;
	packetsIn: number;
	bytesOut: number;
	bytesIn: number;
}

/** Bytes of so many packets and bytes of a direction if what was merged had come as single packets. */
function apart(meta: number, packets: number, bytes: number): number {
	const headers = (meta & 0xff) === TCP ? TCP_HEADERS : UDP_HEADERS;
	return bytes + Math.max(0, Math.ceil((bytes - packets * headers) / (PACKET - headers)) - packets) * headers;
}

/** Rows of the answer: bytes out and in of each hour or day, the present one first. */
export type Buckets = [number, number][];

/** The accounts of a table. Addresses are raw. */
export class Accounts implements AccountHooks {
	readonly #table: Table;
	readonly #owner: AccountsOwner;
	readonly #header: Int32Array;
	readonly #addresses: Int32Array;
	readonly #pending: Float64Array;
	readonly #buckets: Float32Array;
	/** The kernel is being asked what it has counted. */
	#asking = false;
	/** While a walk is under way: the record it comes to next, what it has found, and what has ended behind it. */
	#at = 0;
	#found = new Float64Array(0);
	#next = new Float64Array(0);
	/** What had been carried when the last walk began. */
	#carried = Number.NaN;
	/** Seconds since boot when a look is due. */
	dueAt = 0;

	/** @param memory ACCOUNTS_BYTES, zeroed or used before. */
	constructor(memory: ArrayBuffer, table: Table, owner: AccountsOwner) {
		this.#table = table;
		this.#owner = owner;
		this.#header = new Int32Array(memory, 0, A_ADDRESSES);
		this.#addresses = new Int32Array(memory, A_ADDRESSES * 4, ROWS + 1);
		this.#pending = new Float64Array(memory, PENDING * 4, SUMS);
		this.#buckets = new Float32Array(memory, BUCKETS * 4, (ROWS + 1) * WIDTH);
	}

	#row(address: number): number {
		return Math.max(0, this.#addresses.indexOf(address, 1));
	}

	/** A host has come that has no sessions yet. */
	open(address: number): void {
		if (this.dueAt === Number.POSITIVE_INFINITY) this.dueAt = 0;
		const rows = this.#addresses;
		if (rows.indexOf(address, 1) > 0) return;
		const free = rows.indexOf(0, 1);
		if (free > 0) rows[free] = address;
	}

	/** Session `i` ends; its counters are all in its record. */
	ended(i: number): void {
		const row = this.#row(this.#table.T[i << RECORD_SHIFT]) * 2;
		this.#add(this.#pending, row, i, null);
		if (i < this.#at) this.#add(this.#next, row, i, null);
	}

	/** Adds the bytes of session `i` to those of its host's row, with what is not in its record. */
	#add(sum: Float64Array, row: number, i: number, more: Counted | null): void {
		const { T, T16, large } = this.#table;
		const at = (i << RECORD_SHIFT) + R_PACKETS_OUT;
		const meta = T[(i << RECORD_SHIFT) + R_META];
		let packetsOut = T[at] >>> 0;
		let packetsIn = T[at + 1] >>> 0;
		let out = T[at + BYTES];
		let back = T[at + BYTES + 1];
		if (more !== null) {
			packetsOut += more.packetsOut;
			packetsIn += more.packetsIn;
			out += more.bytesOut;
			back += more.bytesIn;
		}
		if (spareOf(meta) === LIVE) {
			const high = (i << HALF_SHIFT) + R_HIGH_OUT;
			out += T16[high] * BYTES_CARRY;
			back += T16[high + 1] * BYTES_CARRY;
		}
		if (large.used) {
			packetsOut += large.of(i, L_PACKETS) * PACKETS_CARRY;
			packetsIn += large.of(i, L_PACKETS + 1) * PACKETS_CARRY;
			out += large.of(i, L_BYTES) * BYTES_CARRY;
			back += large.of(i, L_BYTES + 1) * BYTES_CARRY;
		}
		sum[row] += out <= packetsOut * PACKET ? out : apart(meta, packetsOut, out);
		sum[row + 1] += back <= packetsIn * PACKET ? back : apart(meta, packetsIn, back);
	}

	/** Adds what the sessions in some records have come to, by row. */
	#sum(sum: Float64Array, from: number, to: number): Float64Array {
		const table = this.#table;
		const carried = this.#owner.carried();
		let last = 0;
		let row = 0;
		for (let i = from; i < to; i++) {
			const state = table.state(i);
			if (state === FREE || state === QUARANTINED) continue;
			const host = table.T[i << RECORD_SHIFT];
			if (host !== last) row = this.#row(host) * 2;
			last = host;
			this.#add(sum, row, i, carried?.counters(i) ?? null);
		}
		return sum;
	}

	// ---- begin and end of a daemon ----------------------------------------------------------------------------------

	/**
	 * Goes on with what a predecessor left, before its sessions are restored from `image` (null: there are none).
	 * Returns what is to be called with its hosts afterwards.
	 */
	resume(boot: Int32Array, image: Image | null): (hosts: Iterable<number>) => void {
		const h = this.#header;
		const known = h[0] === MAGIC && boot.every((word, n) => h[A_BOOT + n] === word);
		const matches = known && image !== null && image.keys.join() === h.subarray(A_KEYS, A_KEYS + 3).join();
		const { large, T, layout } = this.#table;
		const rest = new Float64Array(SUMS);
		if (!known) new Int32Array(h.buffer).fill(0);
		// To a table of another size nothing is left over: it comes with a stop, which books.
		else if (matches && image.T.buffer === T.buffer) {
			large.used = true;
			this.#sum(rest, 1, layout.sessions + 1);
			// Of what the programs of the offload had counted when masqd was killed nothing is known.
			for (let n = 0; n < SUMS; n++) rest[n] = Math.max(0, rest[n] + this.#pending[n]);
		}
		return (hosts) => {
			if (!matches) for (const address of hosts) this.open(address);
			this.begin(rest);
			const { key0, key1, key2 } = this.#table;
			h.set([...boot, key0, key1, key2], A_BOOT);
			h[0] = MAGIC;
		};
	}

	/** Begins with the table as it is, and `rest` that is not booked yet. */
	begin(rest = new Float64Array(SUMS)): void {
		this.#at = 0;
		this.#carried = Number.NaN;
		const live = this.#sum(new Float64Array(SUMS), 1, this.#table.layout.sessions + 1);
		for (let n = 0; n < SUMS; n++) this.#pending[n] = rest[n] - live[n];
		this.dueAt = 0;
	}

	// ---- looks ------------------------------------------------------------------------------------------------------

	/**
	 * A step of a look: asks for some counters or visits some records, and behind the last of them books. True when it
	 * is done.
	 */
	step(): boolean {
		const { layout, hooks } = this.#table;
		if (this.#at === 0) {
			this.#asking = hooks?.countSome() === false;
			if (this.#asking) return false;
			this.#found = new Float64Array(SUMS);
			this.#next = new Float64Array(SUMS);
			this.#at = 1;
		}
		const from = this.#at;
		const to = Math.min(layout.sessions + 1, from + LOOK);
		this.#at = to;
		this.#sum(this.#found, from, to);
		if (to <= layout.sessions) return false;
		this.#at = 0;
		this.#book();
		this.#looked();
		return true;
	}

	/** A look is over. */
	#looked(): void {
		const now = this.#owner.second();
		const local = this.#owner.local();
		this.#turn(local, now);
		const used = this.#table.used > 0 || this.#pending.some((bytes) => bytes !== 0);
		this.dueAt = used ? now + LOOK_EVERY - (local % LOOK_EVERY) : Number.POSITIVE_INFINITY;
	}

	/** Second since boot of a look that is to be woken for; Infinity while all that is carried wakes anyway. */
	get wakeAt(): number {
		return this.#table.hooks === null ? Number.POSITIVE_INFINITY : this.dueAt;
	}

	/** What is due by time: a look, without a walk if nothing was carried since the last one. */
	tick(): void {
		if (this.#owner.second() < this.dueAt) return;
		if (this.looking) {
			this.step();
			return;
		}
		const carried = this.#owner.carriedSoFar();
		const same = carried === this.#carried;
		this.#carried = carried;
		if (same) this.#looked();
		else this.step();
	}

	/** True while a look is under way. */
	get looking(): boolean {
		return this.#asking || this.#at > 0;
	}

	#book(): void {
		const hour = this.#header[A_HOUR_AT] * 2;
		const day = (HOURS + this.#header[A_DAY_AT]) * 2;
		for (let n = 0; n < SUMS; n++) {
			const left = this.#next[n] - this.#found[n];
			const bytes = this.#pending[n] - left;
			// First this: a kill in between loses rather than doubles.
			this.#pending[n] = left + Math.min(0, bytes);
			if (bytes <= 0) continue;
			const at = (n >> 1) * WIDTH + (n & 1);
			this.#buckets[at + hour] += bytes;
			this.#buckets[at + day] += bytes;
		}
	}

	/** Opens the next hour and day if they have come. A clock that is set makes nothing older than it is. */
	#turn(local: number, now: number): void {
		const h = this.#header;
		const hour = Math.floor(local / 3600);
		const day = Math.floor(local / 86400);
		const elapsed = now - h[A_LOOKED];
		h[A_LOOKED] = now;
		const later = hour > h[A_HOUR];
		this.#open(A_HOUR_AT, 0, HOURS, hour - h[A_HOUR], Math.ceil(elapsed / 3600) || 1);
		this.#open(A_DAY_AT, HOURS, DAYS, day - h[A_DAY], Math.ceil(elapsed / 86400) || 1);
		h[A_HOUR] = hour;
		h[A_DAY] = day;
		if (later) this.#tidy();
	}

	#open(place: number, first: number, count: number, steps: number, most: number): void {
		if (steps > most) return;
		for (let n = Math.min(steps, count); n > 0; n--) {
			const at = (this.#header[place] + 1) % count;
			for (let b = (first + at) * 2; b < this.#buckets.length; b += WIDTH) this.#buckets.fill(0, b, b + 2);
			this.#header[place] = at;
		}
	}

	/** Frees the rows of hosts that have gone: those with nothing in a week, and of the others those with least. */
	#tidy(): void {
		const gone: [number, number][] = [];
		let free = 0;
		for (let row = 1; row <= ROWS; row++) {
			if (this.#addresses[row] === 0) free++;
			else if (this.#pending[row * 2] === 0 && this.#pending[row * 2 + 1] === 0 && !this.#owner.present(this.#addresses[row]))
				gone.push([this.#buckets.subarray(row * WIDTH, (row + 1) * WIDTH).reduce((sum, bytes) => sum + bytes, 0), row]);
		}
		gone.sort((a, b) => a[0] - b[0]);
		for (const [bytes, row] of gone) {
			if (bytes > 0 && free >= SPARE_ROWS) break;
			free++;
			for (let n = 0; n < WIDTH; n++) this.#buckets[n] += this.#buckets[row * WIDTH + n];
			this.#buckets.fill(0, row * WIDTH, (row + 1) * WIDTH);
			this.#addresses[row] = 0;
		}
	}

	// ---- for those who look -----------------------------------------------------------------------------------------

	/** Number of the open hour or day since 1970 by the local clock. */
	present(daily: boolean): number {
		return this.#header[daily ? A_DAY : A_HOUR];
	}

	/** A row: address, 0 for all others; null if there is nothing in it. */
	row(row: number, daily: boolean): { address: number; bytes: Buckets } | null {
		const count = daily ? DAYS : HOURS;
		const open = this.#header[daily ? A_DAY_AT : A_HOUR_AT];
		const bytes: Buckets = [];
		let any = 0;
		for (let n = 0; n < count; n++) {
			const at = row * WIDTH + ((daily ? HOURS : 0) + ((open - n + count) % count)) * 2;
			bytes.push([this.#buckets[at], this.#buckets[at + 1]]);
			any += this.#buckets[at] + this.#buckets[at + 1];
		}
		return any > 0 ? { address: this.#addresses[row], bytes } : null;
	}
}
