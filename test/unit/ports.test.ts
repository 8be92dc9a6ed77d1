/** The bitmap of free ports against a plain set. */
import { describe, expect, it } from "vitest";
import { PortMap, type PortRange, portMapWords } from "../../src/conntrack/ports.ts";
import { seededRandom } from "./mutation.ts";

/** As expect(...).toBe, for the insides of long loops: cheap. */
function same(found: number | boolean, expected: number | boolean): void {
	if (found !== expected) throw new Error(`${found}, expected ${expected}`);
}

class Model {
	readonly free = new Set<number>();
	constructor(ranges: PortRange[], first: number, last: number) {
		for (const r of ranges) for (let p = Math.max(r.first, first); p <= Math.min(r.last, last); p++) this.free.add(p);
	}
	/** First free port of the parity at or after `start`, going round once; -1 if none. */
	next(parity: number, start: number, last: number, base: number): number {
		for (let p = start; p <= last; p++) if ((p & 1) === parity && this.free.has(p)) return p;
		for (let p = base; p < start; p++) if ((p & 1) === parity && this.free.has(p)) return p;
		return -1;
	}
}

function make(ranges: PortRange[], first: number, last: number): PortMap {
	return new PortMap(new Int32Array(portMapWords(first, last)), first, last, ranges);
}

const SPANS: [string, number, number, PortRange[]][] = [
	["the default range", 32768, 65535, [{ first: 32768, last: 65535 }]],
	["all ports", 1, 65535, [{ first: 1, last: 65535 }]],
	["below 1024", 600, 1023, [{ first: 600, last: 1023 }]],
	[
		"two ranges with a gap",
		40000,
		50005,
		[
			{ first: 40000, last: 40009 },
			{ first: 50001, last: 50005 },
		],
	],
	["one port", 61, 61, [{ first: 61, last: 61 }]],
	["one even port at a word's edge", 64, 64, [{ first: 64, last: 64 }]],
	["ranges that reach beyond the bounds", 1024, 2000, [{ first: 500, last: 2000 }]],
	["the last ports", 65500, 65535, [{ first: 65500, last: 65535 }]],
];

describe("PortMap", () => {
	for (const [name, first, last, ranges] of SPANS) {
		it(`${name}: random takes and releases agree with a set`, () => {
			const map = make(ranges, first, last);
			const model = new Model(ranges, first, last);
			const random = seededRandom(first + last);
			const below = (n: number) => Math.floor(random() * n);
			const taken: number[] = [];
			expect([map.total, map.free]).toEqual([model.free.size, model.free.size]);
			for (let n = 0; n < 3000; n++) {
				const filling = (n / 700) & 1 ? 0.3 : 0.8;
				if (random() < filling) {
					if (random() < 0.5) {
						const port = first - 5 + below(last - first + 10);
						const could = model.free.delete(port);
						same(map.take(port), could);
						if (could) taken.push(port);
					} else {
						const like = below(65536);
						const port = map.takeAny(like, below(2 ** 32) | 0);
						same(port < 0, model.free.size === 0);
						if (port >= 0) {
							same(model.free.delete(port), true);
							if ((port & 1) !== (like & 1)) same([...model.free].filter((p) => (p & 1) === (like & 1)).length, 0);
							taken.push(port);
						}
					}
				} else if (taken.length > 0) {
					const [port] = taken.splice(below(taken.length), 1);
					map.release(port);
					model.free.add(port);
				}
				same(map.free, model.free.size);
			}
		});

		it(`${name}: gives every port once, then none, and all again after release`, () => {
			const map = make(ranges, first, last);
			const all = new Set<number>();
			for (let round = 0; round < 2; round++) {
				all.clear();
				for (let port = map.takeAny(round, round * 77777); port >= 0; port = map.takeAny(all.size, all.size * 2654435761)) all.add(port);
				expect(all.size).toBe(map.total);
				expect(map.free).toBe(0);
				for (const port of all)
					same(
						ranges.some((r) => port >= r.first && port <= r.last),
						true,
					);
				for (const port of all) map.release(port);
				expect(map.free).toBe(map.total);
			}
		});
	}

	it("the port found is the next one at or after the start, of the same parity, round the end once", () => {
		const [first, last] = [1024, 5000];
		const base = first & ~63;
		const bits = portMapWords(first, last) > 0 ? ((last - base) >> 6) * 32 + 32 : 0;
		const map = make([{ first, last }], first, last);
		const model = new Model([{ first, last }], first, last);
		const random = seededRandom(5);
		for (let n = 0; n < last - first + 1 - 1; n++) {
			const seed = Math.floor(random() * 2 ** 31);
			const like = n & 1;
			const start = base + (seed % bits) * 2 + like;
			const expected = model.next(like, start, last, base);
			const got = map.takeAny(like, seed);
			if (expected >= 0) same(got, expected);
			model.free.delete(got);
		}
	});

	it("releasing twice counts once", () => {
		const map = make([{ first: 100, last: 200 }], 100, 200);
		expect(map.take(150)).toBe(true);
		map.release(150);
		map.release(150);
		expect(map.free).toBe(101);
	});
});
