import { describe, expect, it } from "vitest";
import { type Direction, FlowCache, layoutCache, QUARANTINE } from "../../src/offload/cache.ts";
import {
	CACHE_HEADER,
	CHAIN_MAX,
	SEEN_FIN,
	SEEN_RESET,
	SLOT_ACK,
	SLOT_BYTES,
	SLOT_KIND,
	SLOT_LINK,
	SLOT_MARK,
	SLOT_MTU,
	SLOT_NEXT,
	SLOT_PACKETS,
	SLOT_SEEN,
	SLOT_SIZE,
} from "../../src/offload/slot.ts";

const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
const links = new Uint16Array(8 * 300);
for (let n = 0; n < links.length; n++) links[n] = (n * 40503) & 0xffff;

function cacheOf(sessions: number): { cache: FlowCache; memory: ArrayBuffer } {
	const layout = layoutCache(sessions);
	const memory = new ArrayBuffer(layout.bytes);
	return { cache: new FlowCache(memory, layout, Int32Array.from([0x5bd1e995, 0x1b873593, -0x3361d2af])), memory };
}

function pairOf(n: number): [Direction, Direction] {
	const common = { newPort: n & 0xffff, port: 1, device: 3, mtu: 1500, ack: 0, link: n % 300 };
	return [
		{ ...common, source: 0x0a01a8c0, destination: 0x010171cb + n, ports: (n << 16) | 0x1234, newAddress: 0x017171cb },
		{
			...common,
			source: 0x010171cb + n,
			destination: 0x017171cb,
			ports: (0x1234 << 16) | (n & 0xffff),
			newAddress: 0x0a01a8c0,
			port: 0,
			device: 4,
		},
	];
}

/** As the programs find a slot: its number, 0 if none; never more than CHAIN_MAX steps. */
function find(cache: FlowCache, memory: ArrayBuffer, d: Direction, protocol: number): number {
	const w = new Int32Array(memory);
	const [k0, k1, k2] = cache.keys;
	const h = Math.imul(d.ports ^ k0, k1) ^ d.source;
	const chain = Math.imul(h ^ (h >>> 15) ^ d.destination, k2) >>> (32 - cache.layout.bits);
	let slot = w[CACHE_HEADER / 4 + chain];
	for (let n = 0; n < CHAIN_MAX && slot !== 0; n++) {
		const at = (cache.layout.slots + slot * SLOT_SIZE) / 4;
		const has = new Uint16Array(memory)[at * 2 + SLOT_KIND / 2];
		if (w[at] === d.source && w[at + 1] === d.destination && w[at + 2] === d.ports && has === (protocol | (d.port << 8))) return slot;
		slot = w[at + SLOT_NEXT / 4];
	}
	return 0;
}

describe("flow cache", () => {
	it.each([256, 1024, 4096, 16384, 65535])("costs less than 140 bytes a session, for %i of them", (sessions) => {
		const layout = layoutCache(sessions);
		expect((layout.bytes - CACHE_HEADER - 2 * SLOT_SIZE) / sessions).toBeLessThan(140);
		expect(2 ** layout.bits).toBeGreaterThan(sessions * 1.39);
		expect(layout.slots % 64).toBe(0);
	});

	it("shows a session from both sides, with its recipe", () => {
		const { cache, memory } = cacheOf(256);
		const [out, back] = pairOf(7);
		expect(cache.ready(9, 1000)).toBe(true);
		expect(cache.enter(9, 17, out, back, links, 55)).toBe(true);
		expect(cache.has(9)).toBe(true);
		expect(cache.ready(9, 1000)).toBe(false);
		expect(find(cache, memory, out, 17)).toBe(18);
		expect(find(cache, memory, back, 17)).toBe(19);
		expect(find(cache, memory, out, 6)).toBe(0);
		expect(cache.last(9, 0)).toBe(55);
		const half = new Uint16Array(memory, cache.layout.slots + 18 * SLOT_SIZE, SLOT_SIZE / 2);
		expect(half[SLOT_MTU / 2]).toBe(1500);
		expect([...half.subarray(SLOT_LINK / 2, SLOT_LINK / 2 + 6)]).toEqual([...links.subarray(7 * 8, 7 * 8 + 6)]);
		// The same five-tuple by another port, or from the other side.
		expect(find(cache, memory, { ...out, port: 2 }, 17)).toBe(0);
		expect(find(cache, memory, { ...out, port: 0 }, 17)).toBe(0);
		expect(find(cache, memory, { ...back, port: 1 }, 17)).toBe(0);
		expect(cache.port(9)).toBe(1);
		cache.verify();
	});

	it("knows of each direction whether a FIN has passed, and forgets it with the next session", () => {
		const { cache, memory } = cacheOf(256);
		const [out, back] = pairOf(2);
		cache.enter(2, 6, out, back, links, 1);
		expect([cache.finished(2, 0), cache.finished(2, 1)]).toEqual([false, false]);
		new Uint8Array(memory)[cache.layout.slots + 5 * SLOT_SIZE + SLOT_SEEN] = SEEN_FIN;
		expect([cache.finished(2, 0), cache.finished(2, 1)]).toEqual([false, true]);
		expect(find(cache, memory, back, 6)).toBe(5);
		cache.leave(2, 1000);
		expect(cache.finished(2, 1)).toBe(true);
		cache.enter(2, 6, out, back, links, 1);
		expect(cache.finished(2, 1)).toBe(false);
	});

	it("knows a reset, whether anything came after it, and what an off-path one is held against", () => {
		const { cache, memory } = cacheOf(256);
		const [out, back] = pairOf(3);
		cache.enter(3, 6, { ...out, ack: 0x11223344 }, back, links, 1);
		expect([cache.acknowledged(3, 0), cache.acknowledged(3, 1)]).toEqual([0x11223344, 0]);
		expect(cache.reset(3)).toBe("none");
		const bytes = new Uint8Array(memory, cache.layout.slots, 8 * SLOT_SIZE);
		const words = new Uint32Array(memory, cache.layout.slots, 2 * SLOT_SIZE);
		for (const slot of [6, 7]) words[(slot * SLOT_SIZE + SLOT_PACKETS) / 4] = 300 + slot;
		for (const slot of [6, 7]) bytes[slot * SLOT_SIZE + SLOT_MARK] = (300 + slot) & 255;
		expect(cache.reset(3)).toBe("none");
		bytes[7 * SLOT_SIZE + SLOT_SEEN] = SEEN_RESET;
		expect(cache.reset(3)).toBe("last");
		words[(6 * SLOT_SIZE + SLOT_PACKETS) / 4]++;
		expect(cache.reset(3)).toBe("passed");
		bytes[6 * SLOT_SIZE + SLOT_SEEN] = SEEN_FIN;
		cache.forgetReset(3);
		expect(cache.reset(3)).toBe("none");
		expect(cache.finished(3, 0)).toBe(true);
		cache.acknowledge(3, 0, 0x55667788);
		expect(words[(6 * SLOT_SIZE + SLOT_ACK) / 4]).toBe(0x55667788);
		cache.leave(3, 1000);
		cache.enter(3, 6, out, back, links, 1);
		expect([cache.reset(3), cache.finished(3, 0)]).toEqual(["none", false]);
	});

	it("leaves at once, and keeps what a slot has seen and where its chain goes on", () => {
		const { cache, memory } = cacheOf(256);
		const [out, back] = pairOf(1);
		cache.enter(1, 6, out, back, links, 1);
		const w = new Int32Array(memory, cache.layout.slots + 2 * SLOT_SIZE, SLOT_SIZE / 4);
		const before = [...w];
		w[13] = 3;
		w[14 + (LITTLE ? 0 : 1)] = -1;
		w[14 + (LITTLE ? 1 : 0)] = 2;
		w[3] = 0x11223344;
		cache.leave(1, 5000);
		expect(find(cache, memory, out, 6)).toBe(0);
		expect(find(cache, memory, back, 6)).toBe(0);
		expect(cache.packets(1, 0)).toBe(3);
		expect(cache.counters(1)).toEqual({ packetsOut: 3, packetsIn: 0, bytesOut: 2 * 2 ** 32 + 0xffffffff, bytesIn: 0 });
		expect(cache.acknowledged(1, 0)).toBe(0x11223344);
		expect([...w.subarray(0, 3), ...w.subarray(4, 12)]).toEqual([...before.slice(0, 3), ...before.slice(4, 12)]);
	});

	it("does not use a slot again before its quarantine is over", () => {
		const { cache } = cacheOf(256);
		const [out, back] = pairOf(1);
		for (const start of [1000, 2 ** 31 * 32 - 50, 2 ** 40]) {
			cache.enter(1, 6, out, back, links, 1);
			cache.leave(1, start);
			expect(cache.ready(1, start)).toBe(false);
			expect(cache.ready(1, start + 100)).toBe(false);
			expect(cache.ready(1, start + QUARANTINE - 1)).toBe(false);
			expect(cache.ready(1, start + QUARANTINE + 64)).toBe(true);
		}
		expect(cache.ready(257, 0)).toBe(false);
	});

	it("makes no chain longer than the programs follow", () => {
		const { cache, memory } = cacheOf(256);
		const [first, firstBack] = pairOf(1);
		let same = 0;
		let n = 1;
		for (let tried = 0; n < 60 && tried < 100_000; tried++) {
			// Only sessions whose outbound key falls into one chain.
			const [out, back] = pairOf(tried);
			const [k0, k1, k2] = cache.keys;
			const h = Math.imul(out.ports ^ k0, k1) ^ out.source;
			if (Math.imul(h ^ (h >>> 15) ^ out.destination, k2) >>> (32 - cache.layout.bits) !== 3) continue;
			n++;
			if (cache.enter(n, 17, out, back, links, 1)) {
				same++;
				expect(find(cache, memory, out, 17)).toBe(n * 2);
			}
		}
		expect(n).toBe(60);
		expect(same).toBeLessThanOrEqual(CHAIN_MAX);
		expect(same).toBeGreaterThan(CHAIN_MAX - 3);
		expect(cache.refused).toBe(n - 1 - same);
		expect(cache.ready(1, 0) && cache.enter(1, 6, first, firstBack, links, 1)).toBe(true);
		cache.verify();
	});

	it("tells of a session before its counters go round, and counts whole until then", () => {
		const { cache, memory } = cacheOf(256);
		const words = new Uint32Array(memory);
		const bytes = new BigUint64Array(memory);
		for (const inbound of [0, 1] as const) {
			const i = 5 + inbound;
			cache.enter(i, 6, ...pairOf(i), links, 1);
			const slot = cache.layout.slots + (i * 2 + inbound) * SLOT_SIZE;
			for (const [packets, full] of [
				[2 ** 31 - 1, false],
				[2 ** 31, true],
				// What passes until the sweep comes by, at a hundred million packets a second.
				[2 ** 31 + 16e8, true],
			] as const) {
				words[(slot + SLOT_PACKETS) / 4] = packets;
				expect([cache.isFull(i), cache.packets(i, inbound)]).toEqual([full, packets]);
			}
			// A hundred million packets a second for a year have less than 2^62 bytes; what JavaScript counts by ones
			// is 2^53.
			for (const count of [2 ** 32, 2 ** 46 + 1, 2 ** 53 - 1]) {
				bytes[(slot + SLOT_BYTES) / 8] = BigInt(count);
				expect(cache.counters(i)[inbound === 0 ? "bytesOut" : "bytesIn"]).toBe(count);
			}
		}
	});

	it("holds under any order of entering and leaving", () => {
		const { cache, memory } = cacheOf(512);
		const internal = new Map<number, [Direction, Direction]>();
		let seed = 12345;
		const random = (below: number) => {
			seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
			return (seed >>> 8) % below;
		};
		for (let step = 0, ms = 1000; step < 4000; step++, ms += 7) {
			const i = 1 + random(512);
			if (cache.has(i)) {
				cache.leave(i, ms);
				internal.delete(i);
			} else if (cache.ready(i, ms)) {
				const pair = pairOf(step);
				if (cache.enter(i, 17, ...pair, links, 1)) internal.set(i, pair);
			}
			if (step % 500 === 0) cache.verify();
		}
		cache.verify();
		expect(cache.count).toBe(internal.size);
		for (const [i, [out, back]] of internal) {
			expect(find(cache, memory, out, 17)).toBe(i * 2);
			expect(find(cache, memory, back, 17)).toBe(i * 2 + 1);
		}
	});

	it("finds nothing that it was not given", () => {
		const { cache, memory } = cacheOf(256);
		for (let n = 1; n < 200; n++) cache.enter(n, 17, ...pairOf(n), links, 1);
		for (let n = 1000; n < 2000; n++) expect(find(cache, memory, pairOf(n)[0], 17)).toBe(0);
	});
});
