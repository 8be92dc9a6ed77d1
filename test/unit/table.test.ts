/**
 * The session table and the table of hosts against plain maps: thousands of random operations, every invariant checked
 * on the way.
 */
import { describe, expect, it } from "vitest";
import { Hosts } from "../../src/conntrack/hosts.ts";
import { HOST_EIF, HOST_PLACE, HOST_WORDS, R_META, R_PACKETS_OUT } from "../../src/conntrack/record.ts";
import { FREE, STATES, stateTimeouts, TCP_ESTABLISHED, UDP_NEW, UDP_OPEN } from "../../src/conntrack/states.ts";
import { type NewSession, Table } from "../../src/conntrack/table.ts";
import { layoutTable } from "../../src/conntrack/table-layout.ts";
import { verifyTable } from "../../src/conntrack/verify.ts";
import { externalsWords } from "../../src/nat/externals.ts";
import { pair } from "../../src/packet/layout.ts";
import { seededRandom } from "./mutation.ts";
import { DEFAULT_TIMEOUTS } from "./rig.ts";
import { rounds } from "./rounds.ts";

const EXTERNALS = [0x01010101, 0x02020202, -0x03030303];
const addressOf = (n: number) => EXTERNALS[n];

/** As expect(...).toBe, for the insides of long loops: cheap. */
function same(found: number | boolean, expected: number | boolean): void {
	if (found !== expected) throw new Error(`${found}, expected ${expected}`);
}

interface Session {
	record: number;
	protocol: number;
	internal: number;
	internalPort: number;
	external: number;
	externalPort: number;
	peer: number;
	peerPort: number;
	state: number;
	last: number;
}

function makeTable(sessions: number): Table {
	const layout = layoutTable(sessions, 0);
	return new Table(
		new ArrayBuffer(layout.words * 4),
		layout,
		Int32Array.from([0x1234567, 0x89abcdef | 0, 0x55aa55aa]),
		stateTimeouts(DEFAULT_TIMEOUTS),
	);
}

/** A session of internal endpoint 1:n. */
const udpSession = (n: number, state: number): NewSession => ({
	protocol: 17,
	internal: 1,
	internalPort: n,
	address: addressOf(0),
	external: 0,
	externalPort: n,
	peer: 2,
	peerPort: 3,
	peerPortInternal: 3,
	state,
	host: 1,
	hop: 5,
	mapped: 0,
});

describe("Table", () => {
	for (const sessions of [256, 1000]) {
		it(`${sessions} records, 8000 random operations against a map`, () => {
			const table = makeTable(sessions);
			const random = seededRandom(sessions);
			const below = (n: number) => Math.floor(random() * n);
			const live = new Map<string, Session>();
			/** External port of every mapping that lives, by "protocol internal port". */
			const mappings = new Map<string, { external: number; port: number; sessions: number }>();
			let now = 65_000;
			const pick = () => [...live.values()][below(live.size)];
			for (let n = 0; n < rounds(8000); n++) {
				if (below(10) === 0) now++;
				const now16 = now & 0xffff;
				const wanted = n % 2000 < 1200 ? 0.6 : 0.2;
				if (random() < wanted && table.count(FREE) > 0) {
					const protocol = [6, 17, 1][below(3)];
					const internal = -1 - below(12);
					const internalPort = below(30);
					const peer = 1000 + below(6);
					const peerPort = below(4);
					const key = `${protocol} ${internal} ${internalPort} ${peer} ${peerPort}`;
					if (live.has(key)) {
						expect(table.findOut(protocol, internal, peer, pair(internalPort, peerPort))).toBe(live.get(key)?.record);
						continue;
					}
					const name = `${protocol} ${internal} ${internalPort}`;
					const mapping = mappings.get(name) ?? { external: below(3), port: n & 0xffff, sessions: 0 };
					const state = 1 + below(12);
					const record = table.create(
						{
							protocol,
							internal: internal,
							internalPort: internalPort,
							address: addressOf(mapping.external),
							external: mapping.external,
							externalPort: mapping.port,
							peer,
							peerPort,
							peerPortInternal: peerPort,
							state,
							host: 1,
							hop: 7,
							mapped: table.findExternal(protocol, addressOf(mapping.external), mapping.external, mapping.port),
						},
						now16,
					);
					mapping.sessions++;
					mappings.set(name, mapping);
					live.set(key, {
						record,
						protocol,
						internal,
						internalPort,
						external: mapping.external,
						externalPort: mapping.port,
						peer,
						peerPort,
						state,
						last: now,
					});
				} else if (live.size > 0) {
					const s = pick();
					const what = below(4);
					if (what === 0) {
						const name = `${s.protocol} ${s.internal} ${s.internalPort}`;
						const mapping = mappings.get(name);
						if (mapping === undefined) throw new Error("model");
						mapping.sessions--;
						same(table.remove(s.record, addressOf(s.external)), mapping.sessions === 0);
						if (mapping.sessions === 0) mappings.delete(name);
						live.delete(`${s.protocol} ${s.internal} ${s.internalPort} ${s.peer} ${s.peerPort}`);
					} else if (what === 1) {
						table.touch(s.record, now16);
						s.last = now;
					} else if (what === 2) {
						s.state = 1 + below(12);
						table.setState(s.record, s.state, now16);
						s.last = now;
					} else {
						s.state = 1 + below(12);
						const before = table.age(s.record, now16);
						table.setStateKeepingTime(s.record, s.state, now16);
						const after = table.age(s.record, now16);
						expect(after).toBeLessThanOrEqual(before);
						s.last = now - after;
					}
				}
				if (n % 100 !== 0) continue;
				verifyTable(table, addressOf);
				same(table.used, live.size);
				for (const s of live.values()) {
					same(table.findOut(s.protocol, s.internal, s.peer, pair(s.internalPort, s.peerPort)), s.record);
					same(table.findIn(s.protocol, s.peer, addressOf(s.external), s.external, pair(s.peerPort, s.externalPort)), s.record);
					same(table.state(s.record), s.state);
					same(table.age(s.record, now16), now - s.last);
				}
				for (const [name, mapping] of mappings) {
					const [protocol, internal, port] = name.split(" ").map(Number);
					const leader = table.findMapping(protocol, internal, port);
					same(leader > 0, true);
					same(table.findExternal(protocol, addressOf(mapping.external), mapping.external, mapping.port) > 0, true);
					let ring = 0;
					let i = leader;
					do {
						ring++;
						i = table.sibling(i);
					} while (i !== leader && ring <= sessions);
					same(ring, mapping.sessions);
				}
				for (let state = 1; state < STATES; state++) {
					let before = Number.POSITIVE_INFINITY;
					for (let i = table.head(state); i !== 0; i = table.next(i)) {
						const age = table.age(i, now16);
						same(age <= before, true);
						before = age;
					}
				}
			}
			table.clear();
			verifyTable(table, addressOf);
			expect([table.used, table.count(FREE)]).toEqual([0, sessions]);
		});
	}

	it("uses every record, hands out the longest free one, clears what it hands out", () => {
		const table = makeTable(256);
		const make = (n: number) => table.create(udpSession(n, UDP_NEW), 0);
		const all = new Set<number>();
		for (let n = 1; n <= 256; n++) all.add(make(n));
		expect(all.size).toBe(256);
		expect(table.count(FREE)).toBe(0);
		table.T[(77 << 4) + R_PACKETS_OUT] = 99;
		table.remove(77, addressOf(0));
		table.remove(3, addressOf(0));
		expect(make(5000)).toBe(77);
		expect(table.T[(77 << 4) + R_PACKETS_OUT]).toBe(0);
		expect(make(5001)).toBe(3);
		expect(table.T[(3 << 4) + R_META] >>> 24).toBe(5);
		verifyTable(table, addressOf);
	});

	it("every size lays out parts that do not overlap", () => {
		for (const sessions of [256, 257, 1024, 4096, 5000, 16384, 65535]) {
			const l = layoutTable(sessions, 1000);
			const starts = [
				l.records,
				l.outHeads,
				l.inHeads,
				l.mapOutHeads,
				l.mapInHeads,
				l.ring,
				l.mapChains,
				l.hostRecords,
				l.hostHeads,
				l.lists,
				l.portMaps,
				l.words,
			];
			for (let n = 1; n < starts.length; n++) expect(starts[n]).toBeGreaterThan(starts[n - 1]);
			expect(l.words - l.portMaps).toBe(1000);
			// All that a session costs, the port bitmaps of one address included.
			if (sessions === 4096) {
				const all = layoutTable(sessions, externalsWords(1, [{ first: 32768, last: 65535 }]));
				expect((all.words * 4) / sessions).toBeLessThanOrEqual(80);
			}
		}
	});

	it("verify notices a damaged table", () => {
		for (const damage of [
			(t: Table) => {
				t.outHeads.fill(0);
			},
			(t: Table) => {
				t.inHeads.fill(0);
			},
			(t: Table) => {
				t.T[(2 << 4) + R_META] ^= TCP_ESTABLISHED << 16;
			},
			(t: Table) => {
				t.T16[(2 << 5) + 15] = 2;
			},
			(t: Table) => {
				t.T[(2 << 4) + 5] ^= 1;
			},
		]) {
			const table = makeTable(256);
			for (let n = 1; n <= 3; n++) table.create(udpSession(n, UDP_OPEN), 0);
			verifyTable(table, addressOf);
			damage(table);
			expect(() => verifyTable(table, addressOf)).toThrow();
		}
	});
});

describe("Hosts", () => {
	it("random operations agree with a map", () => {
		const layout = layoutTable(1024, 0);
		const hosts = new Hosts(new ArrayBuffer(layout.words * 4), layout, 0x1337);
		const random = seededRandom(9);
		const below = (n: number) => Math.floor(random() * n);
		const model = new Map<number, { record: number; sessions: number }>();
		for (let n = 0; n < rounds(8000); n++) {
			const address = (below(120) * 0x01000193) | 0;
			const known = model.get(address);
			same(hosts.find(address), known?.record ?? 0);
			if (random() < (n % 2000 < 1200 ? 0.6 : 0.3)) {
				const record = hosts.obtain(address, HOST_EIF);
				if (known === undefined && model.size === layout.hosts) same(record, 0);
				else {
					same(record > 0, true);
					if (known !== undefined) same(record, known.record);
					else same(hosts.W[record * HOST_WORDS + HOST_PLACE], HOST_EIF);
					hosts.retain(record);
					model.set(address, { record, sessions: (known?.sessions ?? 0) + 1 });
					same(hosts.sessions(record), (known?.sessions ?? 0) + 1);
				}
			} else if (known !== undefined) {
				hosts.place(known.record, below(3));
				hosts.release(known.record);
				known.sessions--;
				if (known.sessions === 0) model.delete(address);
				else same(hosts.sessions(known.record), known.sessions);
			}
			same(hosts.active, model.size);
			if (n % 100 === 0) {
				const most = Math.max(0, ...[...model.values()].map((h) => h.sessions));
				const largest = hosts.largest();
				expect(largest === 0 ? 0 : hosts.sessions(largest)).toBe(most);
				expect(new Set([...model.values()].map((h) => h.record)).size).toBe(model.size);
			}
		}
	});
});
