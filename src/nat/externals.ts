/**
 * External addresses: the WAN port's own (number 0, masquerading) and those of static NAT and pools, with the free ports of each that shares.
 */
import { PortMap, type PortRange, portMapWords } from "../conntrack/ports.ts";
import { ICMP, TCP, UDP } from "../packet/layout.ts";

/** Most external addresses: their number is a byte of the session record. */
export const EXTERNALS_MAX = 255;

/** The protocols that have ports (or query identifiers) to share, in the order of their bitmaps. */
const SHARED = [TCP, UDP, ICMP] as const;

/** What an external address is for. */
export interface External {
	/** As-loaded address, 0 while there is none. */
	address: number;
	/** True if several hosts share it by port (NAPT), false if it is one host's alone. */
	shared: boolean;
	/** Inside address of static NAT, as loaded, 0 if it is not static. */
	inside: number;
	/** Number of the pool it belongs to, -1 if none. */
	pool: number;
	/** Host that holds a pool address alone now (as-loaded address), 0 if free. */
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

/** The table of external addresses. */
export class Externals {
	/** Address by number, as loaded; the hot files read it. */
	readonly A = new Int32Array(EXTERNALS_MAX + 1);
	readonly list: External[] = [];
	/** Port maps by external number * 3 + protocol, then by class. */
	readonly #maps: PortMap[][] = [];
	readonly #byAddress = new Map<number, number>();
	readonly #words: Int32Array;
	readonly #ranges: PortRange[];
	#at = 0;

	/** `words` is zeroed memory of {@link externalsWords} words. */
	constructor(words: Int32Array, ranges: PortRange[]) {
		this.#words = words;
		this.#ranges = ranges;
	}

	/** Adds an address; returns its number. Throws RangeError if there are too many. */
	add(address: number, shared: boolean, inside: number, pool: number): number {
		const n = this.list.length;
		if (n > EXTERNALS_MAX) throw new RangeError(`more than ${EXTERNALS_MAX} external addresses`);
		this.list.push({ address, shared, inside, pool, holder: 0, sessions: 0 });
		this.A[n] = address;
		if (address !== 0) this.#byAddress.set(address, n);
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

	/** These addresses as they are now, their port maps over `words`, a copy of theirs. */
	copy(words: Int32Array): Externals {
		const other = new Externals(words, this.#ranges);
		this.list.forEach((x, n) => {
			other.list.push({ ...x });
			other.A[n] = this.A[n];
			if (x.address !== 0) other.#byAddress.set(x.address, n);
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

	/** Changes the address of number `n` (the WAN port's). */
	setAddress(n: number, address: number): void {
		this.#byAddress.delete(this.list[n].address);
		this.list[n].address = address;
		this.A[n] = address;
		if (address !== 0) this.#byAddress.set(address, n);
	}

	/** Number of an as-loaded address, -1 if it is not ours. */
	find(address: number): number {
		return this.#byAddress.get(address) ?? -1;
	}

	#map(n: number, protocol: number, port: number): PortMap | undefined {
		const maps = this.#maps[n * 3 + (protocol === TCP ? 0 : protocol === UDP ? 1 : 2)];
		return maps.length === 2 ? maps[port < 1024 ? 0 : 1] : maps[0];
	}

	/**
	 * Takes an external port for an inside port (host order, both): the same if it is free, else one of the same parity and class from a random start.
	 * -1 when all are taken.
	 */
	takePort(n: number, protocol: number, port: number, random: number): number {
		const map = this.#map(n, protocol, port);
		if (map === undefined) return -1;
		return map.take(port) ? port : map.takeAny(port, random);
	}

	/** Takes exactly this port (for a forward); false if it is in use or outside the ranges. */
	reservePort(n: number, protocol: number, port: number): boolean {
		return this.#map(n, protocol, port)?.take(port) ?? false;
	}

	/** Gives a port (host order) back; ports outside the ranges are ignored. */
	releasePort(n: number, protocol: number, port: number): void {
		if (!this.#ranges.some((r) => port >= r.first && port <= r.last)) return;
		this.#map(n, protocol, port)?.release(port);
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
