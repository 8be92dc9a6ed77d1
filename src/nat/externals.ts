/**
 * External addresses: the WAN port's own (number 0, masquerading) and those of static NAT and pools, with the free
 * ports of each that shares.
 */
import { PortMap, type PortRange, portMapWords } from "../conntrack/ports.ts";
import { ICMP, TCP, UDP } from "../packet/layout.ts";

/** Most external addresses: their number is a byte of the session record. */
export const EXTERNALS_MAX = 255;

/** The protocols that have ports (or query identifiers) to share, in the order of their bitmaps. */
const SHARED = [TCP, UDP, ICMP] as const;

/**
 * Number of the kind of ports (or query identifiers) that a protocol has, -1 if the table itself knows which are taken.
 */
export function portKind(protocol: number): number {
	return protocol === TCP ? 0 : protocol === UDP ? 1 : protocol === ICMP ? 2 : -1;
}

/** What an external address is for. */
export interface External {
	/** Raw address, 0 while there is none. */
	address: number;
	/** True if several hosts share it by port (NAPT), false if it is one host's alone. */
	shared: boolean;
	/** Internal address of static NAT, raw, 0 if it is not static. */
	internal: number;
	/** Number of the pool it belongs to, -1 if none. */
	pool: number;
	/** Host that holds a pool address alone now (raw address), 0 if free. */
	holder: number;
	/** Sessions of the holder. */
	sessions: number;
}

/** Words of port bitmap memory for `shared` addresses with these ranges. */
export function externalsWords(shared: number, ranges: PortRange[]): number {
	let words = 0;
	for (const [first, last] of spans(ranges)) words += portMapWords(first, last);
	return words * SHARED.length * shared;
}

/** Bounds of the ranges below and from 1024 (RFC 4787 REQ-3a: the class is kept), each only if it has ports. */
function spans(ranges: PortRange[]): [number, number][] {
	const low = ranges.filter((r) => r.first < 1024);
	const high = ranges.filter((r) => r.last >= 1024);
	const out: [number, number][] = [];
	if (low.length) out.push([Math.min(...low.map((r) => r.first)), Math.min(1023, Math.max(...low.map((r) => r.last)))]);
	if (high.length) out.push([Math.max(1024, Math.min(...high.map((r) => r.first))), Math.max(...high.map((r) => r.last))]);
	return out;
}

function count(ranges: PortRange[]): number {
	return ranges.reduce((n, r) => n + r.last - r.first + 1, 0);
}

/** An external address that a policy wants. The WAN port's own is the first; its address may be 0. */
export type WantedExternal = Pick<External, "address" | "shared" | "internal" | "pool">;

/** Numbers for the wanted addresses: see {@link Externals.renew}. */
export function numberExternals(wanted: readonly WantedExternal[], before: Int32Array): number[] {
	if (wanted.length > EXTERNALS_MAX + 1) throw new RangeError(`more than ${EXTERNALS_MAX} external addresses`);
	const numbers = wanted.map((w, k) => (k === 0 ? 0 : before.indexOf(w.address, 1)));
	const taken = new Set(numbers);
	let next = 1;
	// Numbers that mean nothing come first: there may still be sessions of an address that goes.
	const usable = (n: number, anyway: boolean) => !taken.has(n) && (anyway || n >= before.length || before[n] === 0);
	for (const anyway of [false, true]) {
		for (let k = 1; k < numbers.length; k++) {
			if (numbers[k] >= 0) continue;
			while (next <= EXTERNALS_MAX && !usable(next, anyway)) next++;
			if (next > EXTERNALS_MAX) break;
			numbers[k] = next++;
		}
		for (const n of numbers) taken.add(n);
		next = 1;
	}
	return numbers;
}

/** The table of external addresses. */
export class Externals {
	/** Address by number, raw; the hot files read it. */
	readonly A = new Int32Array(EXTERNALS_MAX + 1);
	readonly list: External[] = [];
	/** Port maps by external number * 3 + protocol, then by class. */
	readonly #maps: PortMap[][] = [];
	readonly #byAddress = new Map<number, number>();
	readonly #byInternal = new Map<number, number>();
	#words: Int32Array;
	#ranges: PortRange[];
	#at = 0;
	#ports = 0;
	/** True if the last port was taken, or not found, where less than a fifth is free. */
	scarce = false;

	/** `words` is zeroed memory of {@link externalsWords} words. */
	constructor(words: Int32Array, ranges: PortRange[]) {
		this.#words = words;
		this.#ranges = ranges;
		this.#ports = count(ranges);
	}

	/** Adds an address; returns its number. Throws RangeError if there are too many. */
	add(address: number, shared: boolean, internal: number, pool: number): number {
		const n = this.list.length;
		if (n > EXTERNALS_MAX) throw new RangeError(`more than ${EXTERNALS_MAX} external addresses`);
		this.list.push({ address, shared, internal, pool, holder: 0, sessions: 0 });
		this.A[n] = address;
		if (address !== 0) this.#byAddress.set(address, n);
		if (internal !== 0) this.#byInternal.set(internal, n);
		for (let p = 0; p < SHARED.length; p++) {
			const maps: PortMap[] = [];
			if (shared) {
				for (const [first, last] of spans(this.#ranges)) {
					const words = portMapWords(first, last);
					maps.push(new PortMap(this.#words.subarray(this.#at, this.#at + words), first, last, this.#ranges));
					this.#at += words;
				}
			}
			this.#maps.push(maps);
		}
		return n;
	}

	/** These addresses as they are now, with port maps of their own. */
	copy(): Externals {
		const words = this.#words.slice();
		const other = new Externals(words, this.#ranges);
		this.list.forEach((x, n) => {
			other.list.push({ ...x });
			other.A[n] = this.A[n];
			if (x.address !== 0) other.#byAddress.set(x.address, n);
			if (x.internal !== 0) other.#byInternal.set(x.internal, n);
		});
		// Maps lie one behind the other, as add() has taken them.
		for (const maps of this.#maps) {
			other.#maps.push(
				maps.map((map) => {
					const mine = words.subarray(other.#at, other.#at + map.words);
					other.#at += map.words;
					return map.copy(mine);
				}),
			);
		}
		return other;
	}

	/**
	 * Makes the list anew for a wanted set of addresses, the WAN port's first, and free port maps over `ranges`. An
	 * address keeps the number that it has in `before` (addresses by number), because the session records have it; what
	 * is new takes the lowest numbers that nobody had, or that nobody needs any more. Returns the numbers of the wanted
	 * ones, in their order. Throws RangeError if there are too many.
	 */
	renew(wanted: readonly WantedExternal[], before: Int32Array, ranges: PortRange[]): number[] {
		const shared = wanted.filter((w) => w.shared).length;
		const words = externalsWords(shared, ranges);
		if (words > this.#words.length) this.#words = new Int32Array(words);
		this.#words.fill(0);
		this.#ranges = ranges;
		this.#ports = count(ranges);
		this.#at = 0;
		this.list.length = 0;
		this.#maps.length = 0;
		this.#byAddress.clear();
		this.#byInternal.clear();
		this.A.fill(0);
		const numbers = numberExternals(wanted, before);
		const last = Math.max(...numbers);
		for (let n = 0; n <= last; n++) {
			const w = wanted[numbers.indexOf(n)];
			if (w === undefined) this.add(0, false, 0, -1);
			else this.add(w.address, w.shared, w.internal, w.pool);
		}
		return numbers;
	}

	/** Number of the address that is an internal host's alone (static NAT; raw address), -1 if there is none. */
	ofInternal(internal: number): number {
		return this.#byInternal.get(internal) ?? -1;
	}

	/** Changes the address of number `n` (the WAN port's). */
	setAddress(n: number, address: number): void {
		this.#byAddress.delete(this.list[n].address);
		this.list[n].address = address;
		this.A[n] = address;
		if (address !== 0) this.#byAddress.set(address, n);
	}

	/** Number of a raw address, -1 if it is not ours. */
	find(address: number): number {
		return this.#byAddress.get(address) ?? -1;
	}

	#map(n: number, protocol: number, port: number): PortMap | undefined {
		const maps = this.#maps[n * 3 + (protocol === TCP ? 0 : protocol === UDP ? 1 : 2)];
		return maps.length === 2 ? maps[port < 1024 ? 0 : 1] : maps[0];
	}

	/**
	 * Takes an external port for an internal port (host order, both): the same if it is free, else one of the same
	 * parity and class from a random start (of the upper class too when the lower one is full). -1 when all are taken.
	 */
	takePort(n: number, protocol: number, port: number, random: number): number {
		const maps = this.#maps[n * 3 + (protocol === TCP ? 0 : protocol === UDP ? 1 : 2)];
		const map = maps[maps.length === 2 && port >= 1024 ? 1 : 0];
		if (map === undefined) {
			this.scarce = false;
			return -1;
		}
		this.scarce = map.free <= map.low;
		if (map.take(port)) return port;
		const taken = map.takeAny(port, random);
		// Ports below 1024 are few: rather one above than none.
		return taken < 0 && port < 1024 ? (this.#map(n, protocol, 1024)?.takeAny(port, random) ?? -1) : taken;
	}

	/** Takes exactly this port (for a forward); false if it is in use or outside the ranges. */
	reservePort(n: number, protocol: number, port: number): boolean {
		return this.#map(n, protocol, port)?.take(port) ?? false;
	}

	/** Gives a port (host order) back; ports outside the ranges are ignored. */
	releasePort(n: number, protocol: number, port: number): void {
		for (const r of this.#ranges) {
			if (port < r.first || port > r.last) continue;
			this.#map(n, protocol, port)?.release(port);
			return;
		}
	}

	/** Free ports of kind `kind` at address `n`. */
	freePorts(n: number, kind: number): number {
		const maps = this.#maps[n * 3 + kind];
		return maps.length === 2 ? maps[0].free + maps[1].free : maps.length === 1 ? maps[0].free : 0;
	}

	/** All ports of the ranges, free or not. */
	get ports(): number {
		return this.#ports;
	}

	/** [free, total] ports of a protocol at address `n`. */
	portCount(n: number, protocol: number): [number, number] {
		let free = 0;
		let total = 0;
		for (const m of this.#maps[n * 3 + (protocol === TCP ? 0 : protocol === UDP ? 1 : 2)]) {
			free += m.free;
			total += m.total;
		}
		return [free, total];
	}
}
