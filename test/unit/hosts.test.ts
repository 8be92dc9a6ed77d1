import { describe, expect, test } from "vitest";
import { Hosts } from "../../src/conntrack/hosts.ts";
import { layoutTable } from "../../src/conntrack/table-layout.ts";

const SESSIONS = 1024;

function make(): { hosts: Hosts; capacity: number } {
	const layout = layoutTable(SESSIONS, 0);
	return { hosts: new Hosts(new ArrayBuffer(layout.words * 4), layout, 7), capacity: layout.hosts };
}

/** What `largest` says, by looking at every host. */
function most(hosts: Hosts, capacity: number): number {
	let n = 0;
	for (let i = 1; i <= capacity; i++) n = Math.max(n, hosts.sessions(i));
	return n;
}

describe("the host with most sessions", () => {
	test("is right whatever sessions come and go, also after all were forgotten", () => {
		const { hosts, capacity } = make();
		let seed = 1;
		const below = (n: number): number => {
			seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
			return Math.floor((seed / 0x80000000) * n);
		};
		for (let round = 0; round < 6; round++) {
			const held: number[] = [];
			for (let step = 0; step < 3000; step++) {
				if (held.length > 0 && below(100) < 45 + (step > 2000 ? 10 : 0)) {
					hosts.release(held.splice(below(held.length), 1)[0]);
				} else {
					// Few addresses, so that the lead changes; now and then one of many.
					const host = hosts.obtain(1 + below(below(8) === 0 ? 200 : 3 + round), 0);
					if (host === 0) continue;
					hosts.retain(host);
					held.push(host);
				}
				if (below(3) === 0) {
					const largest = hosts.largest();
					expect(largest === 0 ? 0 : hosts.sessions(largest)).toBe(most(hosts, capacity));
				}
			}
			hosts.clear();
			expect(hosts.largest()).toBe(0);
		}
	});

	test("is right in a copy", () => {
		const layout = layoutTable(SESSIONS, 0);
		const memory = new ArrayBuffer(layout.words * 4);
		const hosts = new Hosts(memory, layout, 7);
		for (const address of [1, 2, 2]) hosts.retain(hosts.obtain(address, 0));
		expect(hosts.largest()).toBe(hosts.find(2));
		const copy = hosts.copy(memory.slice(0));
		expect(copy.largest()).toBe(copy.find(2));
	});
});
