/**
 * A kill between any two stores: every store into the records is written down, and from each prefix of them the table
 * is restored. What comes out is what was there before the operation or after it, session by session, with every
 * invariant whole (table.ts "theory of operation").
 */
import { describe, expect, it } from "vitest";
import { Table } from "../../src/conntrack/table.ts";
import { makeFastPath } from "../../src/nat/fast-path.ts";
import { renumber } from "../../src/nat/renumber.ts";
import { seededRandom } from "./mutation.ts";
import { loaded, Rig, type RigOptions } from "./rig.ts";
import { other, query, tcp, udp } from "./rig-frame.ts";

/** Milliseconds after which a test hangs: a guard, not a limit. */
const GUARD = 300_000;

type Words = Int32Array | Uint16Array;

/** A view of the table's memory whose stores are written down, the offset being that of the memory. */
function recording<T extends Words>(view: T, stores: [number, number, number][]): T {
	const store = (index: number, value: number): void => {
		view[index] = value;
		stores.push([view.byteOffset + index * view.BYTES_PER_ELEMENT, view.BYTES_PER_ELEMENT, view[index]]);
	};
	const methods: Record<string, unknown> = {
		fill(value: number, from = 0, to = view.length): void {
			for (let n = from; n < to; n++) store(n, value);
		},
		set(values: ArrayLike<number>, at = 0): void {
			for (let n = 0; n < values.length; n++) store(at + n, values[n]);
		},
	};
	return new Proxy(view, {
		get: (_, name) => (name in methods ? methods[name as string] : Reflect.get(view, name)),
		set: (_, name, value) => {
			store(Number(name), value);
			return true;
		},
	});
}

const OPTIONS: RigOptions = {
	sessions: 256,
	filtering: "eif",
	ranges: [{ first: 40000, last: 40099 }],
	forwards: [{ protocol: 17, first: 40010, internal: "192.168.1.10" }],
	timeouts: { udp: 120 },
};

/** A session without its state and counters. */
const identity = (line: string) => line.split(" ").slice(0, 4).join(" ");

/** A rig whose record stores are written down. */
function recordingRig(): { rig: Rig; stores: [number, number, number][] } {
	const rig = new Rig(OPTIONS);
	rig.hops.answersInternal = true;
	const stores: [number, number, number][] = [];
	const table = rig.table as { T: Int32Array; T16: Uint16Array; header: Int32Array; addresses: Int32Array };
	table.T = recording(table.T, stores);
	table.T16 = recording(table.T16, stores);
	table.header = recording(table.header, stores);
	table.addresses = recording(table.addresses, stores);
	// The fast loops keep the arrays that they find when they are made.
	(rig as { fast: unknown }).fast = makeFastPath(rig.context, rig.slowPath);
	return { rig, stores };
}

/** Restores from every prefix of the stores of `operation`; the number of prefixes. */
function replay(rig: Rig, stores: [number, number, number][], operation: () => void): number {
	const before = rig.flows().map(identity);
	const image = rig.image();
	stores.length = 0;
	operation();
	const list = stores.slice();
	const after = rig.flows().map(identity);
	const allowed = new Set([...before, ...after]);
	const needed = before.filter((line) => after.includes(line));
	const view = new DataView(image);
	let last = "";
	for (let n = 0; n <= list.length; n++) {
		if (n > 0) {
			const [at, size, value] = list[n - 1];
			if (size === 2) view.setUint16(at, value, true);
			else view.setInt32(at, value, true);
		}
		const next = new Rig({ ...OPTIONS, from: { image: image.slice(0), second: rig.context.now } });
		if (next.restored === null) throw new Error(`store ${n} of ${list.length}: refused as damaged`);
		next.verify();
		const found = next.flows().map(identity);
		for (const line of found) if (!allowed.has(line)) throw new Error(`store ${n} of ${list.length}: ${line} came from nowhere`);
		for (const line of needed) if (!found.includes(line)) throw new Error(`store ${n} of ${list.length}: ${line} is lost`);
		last = found.join("\n");
	}
	expect(last).toBe(after.join("\n"));
	return list.length + 1;
}

describe("a kill between two stores", () => {
	it("of packets of every kind, of expiry, of eviction and of rests", { timeout: GUARD }, () => {
		const { rig, stores } = recordingRig();
		const random = seededRandom(1000);
		const below = (n: number) => Math.floor(random() * n);
		let prefixes = 0;
		for (let n = 0; n < 260; n++) {
			const host = `192.168.1.${10 + below(8)}`;
			const port = 40000 + below(14);
			const peer = `203.0.113.${10 + below(3)}`;
			const external = `203.0.113.1:${port}`;
			const flags = ["S", "SA", "A", "FA", "R", "A"][below(6)];
			prefixes += replay(rig, stores, () => {
				switch (below(7)) {
					case 0:
						return void rig.out(udp(`${host}:${port}`, `${peer}:${1 + below(3)}`));
					case 1:
						return void rig.in(udp(`${peer}:${1 + below(3)}`, external));
					case 2:
						return void rig.out(tcp(`${host}:${port}`, `${peer}:80`, { flags, seq: 5, ack: 6 }));
					case 3:
						return void rig.in(tcp(`${peer}:80`, external, { flags, seq: 5, ack: 6 }));
					case 4:
						return void rig.out(query(host, peer, port));
					case 5:
						return void rig.out(other(host, peer, 47));
					default:
						rig.pass(1 + below(90));
						// Errors that were due.
						for (const link of [rig.context.wan, ...rig.context.lan]) link.queue.count = 0;
				}
			});
			rig.verify();
		}
		expect(prefixes).toBeGreaterThan(1000);
	});

	it("of a full table that makes room", { timeout: GUARD }, () => {
		const { rig, stores } = recordingRig();
		for (let n = 0; n < 256; n++) rig.out(tcp(`192.168.1.${10 + (n % 20)}:${41000 + n}`, `203.0.113.${10 + (n % 100)}:80`, { flags: "S" }));
		rig.pass(3);
		for (let n = 0; n < 5; n++) replay(rig, stores, () => void rig.out(udp(`192.168.1.${40 + n}:40000`, "203.0.113.10:9")));
		rig.verify();
	});

	it("of a change of the WAN's address: each session is at one of the two, and none at a wrong one", () => {
		const { rig, stores } = recordingRig();
		for (let n = 0; n < 6; n++) {
			rig.out(udp(`192.168.1.${10 + n}:${40020 + n}`, "203.0.113.10:9"));
			rig.out(tcp(`192.168.1.${10 + n}:${40020 + n}`, "203.0.113.10:80", { flags: "S" }));
		}
		const addresses = ["203.0.113.1", "203.0.113.77"].map(loaded);
		const before = rig.flows();
		const image = rig.image();
		stores.length = 0;
		renumber(rig.context, rig.admission, addresses[1], () => {});
		const view = new DataView(image);
		for (const [at, size, value] of stores) {
			if (size === 2) view.setUint16(at, value, true);
			else view.setInt32(at, value, true);
			const next = new Rig({ ...OPTIONS, from: { image: image.slice(0), second: rig.context.now } });
			next.verify();
			expect(addresses).toContain(next.externals.A[0]);
			expect(next.restored?.broken).toBe(0);
			expect(next.flows().filter((line) => line.startsWith("udp"))).toHaveLength(before.length / 2);
		}
		expect(rig.table).toBeInstanceOf(Table);
	});
});
