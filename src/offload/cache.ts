/**
 * The flow cache: what the BPF programs know of established sessions, in memory that they share with the engine
 * (slot.ts).
 *
 * Theory of operation. Session record n has slots 2n (outbound) and 2n + 1 (inbound), so nothing has to be allocated.
 * The engine is the only writer of heads, keys and recipes; the programs, on all CPUs, only write what they have seen.
 * A slot is filled first and then published by one ordered store into its chain's head, so a program finds it whole or
 * not at all. A slot is taken out of its chain by one ordered store into its predecessor; programs that hold it already
 * go on to its end with what it says, so it stays as it is until {@link QUARANTINE} has passed, a thousand times longer
 * than any program runs, and its record's next session is not entered before. Chains longer than the programs follow
 * are never made: such a session stays in user space.
 *
 * Counters are not atomic: two CPUs that carry one session at the same moment may count one packet for two.
 */
import {
	CACHE_HEADER,
	CACHE_IDS,
	CACHE_IDS_BITS,
	CHAIN_MAX,
	SEEN_FIN,
	SEEN_RESET,
	SLOT_ACK,
	SLOT_BYTES,
	SLOT_DESTINATION,
	SLOT_DEVICE,
	SLOT_KIND,
	SLOT_LAST,
	SLOT_LINK,
	SLOT_MARK,
	SLOT_MTU,
	SLOT_NEW_ADDRESS,
	SLOT_NEW_PORT,
	SLOT_NEXT,
	SLOT_PACKETS,
	SLOT_PORTS,
	SLOT_SEEN,
	SLOT_SIZE,
	SLOT_SOURCE,
} from "./slot.ts";

/** Milliseconds for which a slot that was taken out is left alone. */
export const QUARANTINE = 256;
/** Half of what a slot counts: the sweep (offload.ts) comes by every 16 s, in which nothing passes as many packets. */
const PACKETS_MAX = 2 ** 31;
/** Milliseconds in one unit of the clock that quarantine is measured with. */
const TICK = 32;
const TICK_MASK = 0x3fffffff;
/** Values of the table of moments: never used; in the cache. Anything else is the tick of leaving. */
const UNUSED = 0;
const CACHED = -1;

const WORDS = SLOT_SIZE >> 2;
const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
const BYTES_LOW = (SLOT_BYTES >> 2) + (LITTLE ? 0 : 1);
const BYTES_HIGH = (SLOT_BYTES >> 2) + (LITTLE ? 1 : 0);

/** Where things are for so many sessions. */
export interface CacheLayout {
	/** Sessions that have slots: records 1 to this. */
	sessions: number;
	/** log2 of the number of chains. */
	bits: number;
	lastSlot: number;
	/** Offset of slot 0 in bytes. */
	slots: number;
	/** Size of the whole in bytes. */
	bytes: number;
}

/** Lays out a cache: 1.4 to 2.8 chains a session, below 140 bytes a session. */
export function layoutCache(sessions: number): CacheLayout {
	const bits = 31 - Math.clz32(Math.max(64, (sessions * 2.8) | 0));
	const slots = CACHE_HEADER + (4 << bits);
	// One more than there are: the kernel's verifier does not know that the slot beside one is that of the same pair.
	return { sessions, bits, lastSlot: sessions * 2 + 1, slots, bytes: slots + (sessions * 2 + 3) * SLOT_SIZE };
}

/** One direction of a session, as it is put into the cache: addresses and ports raw. */
export interface Direction {
	source: number;
	destination: number;
	/** Both ports as the packet has them, or an ICMP identifier. */
	ports: number;
	newAddress: number;
	newPort: number;
	/** Number of the port that such packets come in by, and the device that they leave by. */
	port: number;
	device: number;
	mtu: number;
	/** TCP: last acknowledgment number of this direction, raw; 0 if none was seen. */
	ack: number;
	/** Number of the link header in `links`, -1 if the device has none. */
	link: number;
}

/** The cache over one buffer. */
export class FlowCache {
	readonly layout: CacheLayout;
	/** Secret keys of the chain hash. */
	readonly keys: readonly [number, number, number];
	readonly #W: Int32Array;
	readonly #H: Uint16Array;
	readonly #B: Uint8Array;
	readonly #shift: number;
	readonly #slots: number;
	/** By session: {@link UNUSED}, {@link CACHED}, or when it left. */
	readonly #moments: Int32Array;
	/** Sessions in the cache. */
	count = 0;
	/** Sessions that found their chain full. */
	refused = 0;

	/**
	 * @param memory zeroed, `layout.bytes` long
	 * @param random three random words
	 */
	constructor(memory: ArrayBuffer, layout: CacheLayout, random: Int32Array) {
		this.layout = layout;
		this.keys = [random[0], random[1] | 1, random[2] | 1];
		this.#W = new Int32Array(memory, 0, layout.bytes >> 2);
		this.#H = new Uint16Array(memory, 0, layout.bytes >> 1);
		this.#B = new Uint8Array(memory, 0, layout.bytes);
		this.#shift = 32 - layout.bits;
		this.#slots = layout.slots >> 2;
		this.#moments = new Int32Array(layout.sessions + 1);
		for (let n = 0; n < 1 << CACHE_IDS_BITS; n++) this.setHeader(CACHE_IDS + n * 4, Math.imul(n + 1, random[2] | 1) >>> 8);
	}

	/** True if the session is in the cache. */
	has(i: number): boolean {
		return this.#moments[i] === CACHED;
	}

	/** The first session from `i` to `end` that is in the cache, 0 if there is none. */
	next(i: number, end: number): number {
		const moments = this.#moments;
		for (let n = i; n <= end; n++) if (moments[n] === CACHED) return n;
		return 0;
	}

	/** True if the session can be entered at `milliseconds`: it has slots and no packet can hold them any more. */
	ready(i: number, milliseconds: number): boolean {
		if (i > this.layout.sessions) return false;
		const moment = this.#moments[i];
		return moment === UNUSED || (moment !== CACHED && ((tick(milliseconds) - moment) & TICK_MASK) > QUARANTINE / TICK);
	}

	/** Word index of the chain head for a key. The programs compute the same. */
	#head(source: number, destination: number, ports: number): number {
		const h = Math.imul(ports ^ this.keys[0], this.keys[1]) ^ source;
		return (CACHE_HEADER >> 2) + (Math.imul(h ^ (h >>> 15) ^ destination, this.keys[2]) >>> this.#shift);
	}

	#length(head: number): number {
		let n = 0;
		for (let slot = this.#W[head]; slot !== 0; slot = this.#W[this.#slots + slot * WORDS + (SLOT_NEXT >> 2)]) n++;
		return n;
	}

	/**
	 * Puts a session into the cache, which must be {@link ready} for it. `links` are link headers of 16 bytes by number
	 * (packet/link-header.ts), as halfwords; `last` is what its last use is said to be. False if there is no room in a
	 * chain.
	 */
	enter(i: number, protocol: number, out: Direction, back: Direction, links: Uint16Array, last: number): boolean {
		const outHead = this.#head(out.source, out.destination, out.ports);
		const backHead = this.#head(back.source, back.destination, back.ports);
		if (this.#length(outHead) >= CHAIN_MAX || this.#length(backHead) >= CHAIN_MAX - 1) {
			this.refused++;
			return false;
		}
		// Replies first: no packet is sent by the cache whose answer would not come back by it.
		this.#publish(i * 2 + 1, protocol, back, links, last, backHead);
		this.#publish(i * 2, protocol, out, links, last, outHead);
		this.#moments[i] = CACHED;
		this.count++;
		return true;
	}

	#publish(slot: number, protocol: number, d: Direction, links: Uint16Array, last: number, head: number): void {
		const w = this.#W;
		const h = this.#H;
		const at = this.#slots + slot * WORDS;
		const half = at << 1;
		w[at] = d.source;
		w[at + (SLOT_DESTINATION >> 2)] = d.destination;
		w[at + (SLOT_PORTS >> 2)] = d.ports;
		w[at + (SLOT_ACK >> 2)] = d.ack;
		w[at + (SLOT_NEXT >> 2)] = w[head];
		w[at + (SLOT_NEW_ADDRESS >> 2)] = d.newAddress;
		h[half + (SLOT_NEW_PORT >> 1)] = d.newPort;
		h[half + (SLOT_KIND >> 1)] = protocol | (d.port << 8);
		w[at + (SLOT_DEVICE >> 2)] = d.device;
		h[half + (SLOT_MTU >> 1)] = Math.min(d.mtu, 0xffff);
		if (d.link >= 0) {
			const from = d.link * 8;
			const to = half + (SLOT_LINK >> 1);
			h[to] = links[from];
			h[to + 1] = links[from + 1];
			h[to + 2] = links[from + 2];
			h[to + 3] = links[from + 3];
			h[to + 4] = links[from + 4];
			h[to + 5] = links[from + 5];
		}
		h[half + (SLOT_SEEN >> 1)] = 0;
		w[at + (SLOT_LAST >> 2)] = last;
		w[at + (SLOT_PACKETS >> 2)] = 0;
		w[at + (SLOT_BYTES >> 2)] = 0;
		w[at + (SLOT_BYTES >> 2) + 1] = 0;
		Atomics.store(w, head, slot);
	}

	/** Takes a session out of the cache. What its slots have seen can be read until it is entered again. */
	leave(i: number, milliseconds: number): void {
		// The other way round: when replies are no longer taken, no packet is sent any more.
		this.#unlink(i * 2);
		this.#unlink(i * 2 + 1);
		this.#moments[i] = tick(milliseconds);
		this.count--;
	}

	#unlink(slot: number): void {
		const w = this.#W;
		const at = this.#slots + slot * WORDS;
		let before = this.#head(w[at + (SLOT_SOURCE >> 2)], w[at + (SLOT_DESTINATION >> 2)], w[at + (SLOT_PORTS >> 2)]);
		while (w[before] !== slot) before = this.#slots + w[before] * WORDS + (SLOT_NEXT >> 2);
		Atomics.store(w, before, w[at + (SLOT_NEXT >> 2)]);
	}

	#word(i: number, inbound: 0 | 1, offset: number): number {
		return this.#W[this.#slots + (i * 2 + inbound) * WORDS + (offset >> 2)];
	}

	/** Last use of one direction, by the header's clock. */
	last(i: number, inbound: 0 | 1): number {
		return this.#word(i, inbound, SLOT_LAST);
	}

	/** Last acknowledgment number of one direction, raw; 0 if none was seen. */
	acknowledged(i: number, inbound: 0 | 1): number {
		return this.#word(i, inbound, SLOT_ACK);
	}

	/** Moves the acknowledgment number of one direction on, raw. */
	acknowledge(i: number, inbound: 0 | 1, ack: number): void {
		this.#W[this.#slots + (i * 2 + inbound) * WORDS + (SLOT_ACK >> 2)] = ack;
	}

	/** Largest packet of one direction, at most 65535. */
	mtu(i: number, inbound: 0 | 1): number {
		return this.#H[((this.#slots + (i * 2 + inbound) * WORDS) << 1) + (SLOT_MTU >> 1)];
	}

	/** Number of the port that outbound packets have to come in by. */
	port(i: number): number {
		return this.#H[((this.#slots + i * 2 * WORDS) << 1) + (SLOT_KIND >> 1)] >> 8;
	}

	#byte(i: number, inbound: 0 | 1, offset: number): number {
		return ((this.#slots + (i * 2 + inbound) * WORDS) << 2) + offset;
	}

	/** True if neither FIN nor reset has passed since it was entered, or since the last reset. */
	plain(i: number): boolean {
		return ((this.#B[this.#byte(i, 0, SLOT_SEEN)] | this.#B[this.#byte(i, 1, SLOT_SEEN)]) & (SEEN_FIN | SEEN_RESET)) === 0;
	}

	/** True if a FIN has passed in one direction since it was entered, or since the last reset. */
	finished(i: number, inbound: 0 | 1): boolean {
		return (this.#B[this.#byte(i, inbound, SLOT_SEEN)] & SEEN_FIN) !== 0;
	}

	/**
	 * Whether a reset of either direction has passed since the session was entered, and if so, whether anything has
	 * come since.
	 */
	reset(i: number): "none" | "last" | "passed" {
		if (((this.#B[this.#byte(i, 0, SLOT_SEEN)] | this.#B[this.#byte(i, 1, SLOT_SEEN)]) & SEEN_RESET) === 0) return "none";
		const still = (inbound: 0 | 1) => (this.packets(i, inbound) & 0xff) === this.#B[this.#byte(i, inbound, SLOT_MARK)];
		return still(0) && still(1) ? "last" : "passed";
	}

	/** The reset does not count any more. */
	forgetReset(i: number): void {
		this.#B[this.#byte(i, 0, SLOT_SEEN)] &= ~SEEN_RESET;
		this.#B[this.#byte(i, 1, SLOT_SEEN)] &= ~SEEN_RESET;
	}

	/** Packets of one direction since it was entered. */
	packets(i: number, inbound: 0 | 1): number {
		return this.#word(i, inbound, SLOT_PACKETS) >>> 0;
	}

	/** Whether a session is to be taken out, so that its counters come home before they go round. */
	isFull(i: number): boolean {
		return this.packets(i, 0) >= PACKETS_MAX || this.packets(i, 1) >= PACKETS_MAX;
	}

	/** Packets and bytes of IPv4 of both directions since it was entered. */
	counters(i: number): { packetsOut: number; packetsIn: number; bytesOut: number; bytesIn: number } {
		const W = this.#W;
		const out = this.#slots + i * 2 * WORDS;
		const back = out + WORDS;
		return {
			packetsOut: W[out + (SLOT_PACKETS >> 2)] >>> 0,
			packetsIn: W[back + (SLOT_PACKETS >> 2)] >>> 0,
			bytesOut: (W[out + BYTES_HIGH] >>> 0) * 2 ** 32 + (W[out + BYTES_LOW] >>> 0),
			bytesIn: (W[back + BYTES_HIGH] >>> 0) * 2 ** 32 + (W[back + BYTES_LOW] >>> 0),
		};
	}

	/** One word of the header. */
	header(offset: number): number {
		return this.#W[offset >> 2];
	}

	/** Writes one word of the header. */
	setHeader(offset: number, value: number): void {
		this.#W[offset >> 2] = value;
	}

	/** Checks every chain; throws an Error that names the first violation. For tests. */
	verify(): void {
		let found = 0;
		for (let chain = 0; chain < 1 << this.layout.bits; chain++) {
			const head = (CACHE_HEADER >> 2) + chain;
			let n = 0;
			for (let slot = this.#W[head]; slot !== 0; slot = this.#W[this.#slots + slot * WORDS + (SLOT_NEXT >> 2)]) {
				const at = this.#slots + slot * WORDS;
				if (++n > CHAIN_MAX) throw new Error(`cache: chain ${chain} is too long`);
				if (!this.has(slot >> 1)) throw new Error(`cache: slot ${slot} is in a chain, its session is not in the cache`);
				if (this.#head(this.#W[at], this.#W[at + (SLOT_DESTINATION >> 2)], this.#W[at + (SLOT_PORTS >> 2)]) !== head)
					throw new Error(`cache: slot ${slot} is in the wrong chain`);
				found++;
			}
		}
		if (found !== this.count * 2) throw new Error(`cache: ${found} slots for ${this.count} sessions`);
	}
}

/** A moment as 1 to 2^30: neither of the marks. It comes round after a year, when nobody holds a slot any more. */
function tick(milliseconds: number): number {
	return ((milliseconds / TICK) & TICK_MASK) + 1;
}
