/** What a page of the router asks for: sessions by pages in an order, a search, the end of one, forwards. */
import { describe, expect, it } from "vitest";
import { flush } from "../../src/control/flush.ts";
import type { Flow, FlowFilter, FlowPage } from "../../src/control/protocol.ts";
import { flows, forwards, hosts } from "../../src/control/sessions.ts";
import { Rig } from "./rig.ts";
import { udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const [H1, H2] = ["192.168.1.10", "192.168.1.20"];
const [S1, S2] = ["203.0.113.10", "203.0.113.20"];

/** All rows of an answer, and its data. */
function answer<Row, Data>(job: Generator<Row[] | undefined, Data>): { rows: Row[]; data: Data } {
	const rows: Row[] = [];
	for (;;) {
		const step = job.next();
		if (step.done) return { rows, data: step.value };
		rows.push(...(step.value ?? []));
	}
}

const view = (rig: Rig) => ({ context: rig.context, wan: { name: "wan0" }, lan: [{ name: "br-lan" }], admission: rig.admission });
const ask = (rig: Rig, request: FlowFilter & FlowPage) =>
	answer(flows(view(rig), request)) as { rows: Flow[]; data: { matched: number; total: number; next?: [number, number] | null } };
const ports = (rows: Flow[]) => rows.map((f) => Number(f.internal.split(":")[1]));

/** Sessions whose port is 40000 + n and that have sent n % 7 + 1 packets. */
function filled(count: number): Rig {
	const rig = new Rig({ sessions: 1024 });
	for (let n = 0; n < count; n++) for (let k = 0; k <= n % 7; k++) rig.out(udp(`${H1}:${40000 + n}`, `${S1}:9`));
	return rig;
}

describe("pages", () => {
	it("hold every session once, the largest first", () => {
		const rig = filled(60);
		const all: Flow[] = [];
		let after: [number, number] | undefined;
		let pages = 0;
		for (;;) {
			const { rows, data } = ask(rig, { sort: "bytes", limit: 17, ...(after !== undefined && { after }) });
			expect([data.matched, data.total]).toEqual([60, 60]);
			all.push(...rows);
			pages++;
			if (data.next === null || data.next === undefined) break;
			after = data.next;
		}
		expect(pages).toBe(4);
		expect(ports(all).sort()).toEqual(Array.from({ length: 60 }, (_, n) => 40000 + n));
		const bytes = all.map((f) => f.bytesOut);
		expect(bytes).toEqual([...bytes].sort((a, b) => b - a));
		expect(bytes[0]).toBeGreaterThan(bytes[59]);
	});

	it("are of a hundred rows at most, whatever is asked", () => {
		const rig = filled(120);
		for (const limit of [100_000, 0, -3, Number.NaN, undefined])
			expect(ask(rig, { sort: "bytes", ...(limit !== undefined && { limit }) }).rows).toHaveLength(limit === -3 ? 1 : 100);
	});

	it("go by age both ways", () => {
		const rig = new Rig();
		for (let n = 0; n < 5; n++) {
			rig.out(udp(`${H1}:${40000 + n}`, `${S1}:9`));
			rig.pass(3);
		}
		expect(ports(ask(rig, { sort: "age" }).rows)).toEqual([40000, 40001, 40002, 40003, 40004]);
		expect(ports(ask(rig, { sort: "recent", limit: 2 }).rows)).toEqual([40004, 40003]);
	});

	it("survive sessions that end between two of them", () => {
		const rig = filled(40);
		const first = ask(rig, { sort: "bytes", limit: 10 });
		answer(flush(view(rig), { what: "host", host: H1 }));
		const after = first.data.next as [number, number];
		expect(ask(rig, { sort: "bytes", limit: 10, after })).toEqual({ rows: [], data: { matched: 0, total: 0, next: null } });
	});

	it("refuse another order", () => {
		expect(() => ask(filled(1), { sort: "constructor" as "bytes" })).toThrow("sort by what?");
	});
});

describe("a search", () => {
	it("finds an endpoint on any side", () => {
		const rig = new Rig();
		rig.out(udp(`${H1}:40000`, `${S1}:53`));
		rig.out(udp(`${H2}:40001`, `${S2}:443`));
		for (const [any, found] of [
			[H1, [40000]],
			[S2, [40001]],
			[X, [40000, 40001]],
			[":443", [40001]],
			[":40000", [40000]],
			[`${S1}:53`, [40000]],
			[`${S1}:54`, []],
		] as const) {
			expect(ports(ask(rig, { any }).rows), any).toEqual(found);
			expect(ports(ask(rig, { any, sort: "recent" }).rows), any).toEqual(found);
		}
		expect(() => ask(rig, { any: "<img>" })).toThrow("any '<img>' is not an ADDRESS or ADDRESS:PORT");
	});
});

describe("ending one session", () => {
	it("ends it, and not the one that has its number by now", () => {
		const rig = new Rig();
		rig.out(udp(`${H1}:40000`, `${S1}:53`));
		rig.out(udp(`${H1}:40001`, `${S1}:53`));
		const [first] = ask(rig, {}).rows;
		const end = (peer: string) =>
			answer(flush(view(rig), { what: "session", id: first.id, protocol: first.protocol, internal: first.internal, peer })).data;
		expect(end(`${S2}:53`)).toEqual({ sessions: 0 });
		expect(end(first.peer)).toEqual({ sessions: 1 });
		expect(ports(ask(rig, {}).rows)).toEqual([40001]);
		expect(end(first.peer)).toEqual({ sessions: 0 });
	});
});

describe("forwards", () => {
	it("say whose they are and who may use them", () => {
		const net = { address: rawOf(198, 51, 100, 0), mask: rawOf(255, 255, 255, 0) };
		const rig = new Rig();
		rig.context.policy.forwards.push({
			protocol: 6,
			first: 80,
			last: 82,
			internal: rawOf(192, 168, 1, 10),
			internalFirst: 8080,
			source: net,
		});
		const web = { protocol: 6, first: 443, last: 443, internal: rawOf(192, 168, 1, 10), internalFirst: 443, source: null };
		rig.context.policy.forwards.push({ ...web, place: "fw4 dstnat_wan" });
		rig.context.requested.push({
			protocol: 17,
			first: 4000,
			last: 4000,
			internal: rawOf(192, 168, 1, 20),
			internalFirst: 4000,
			source: null,
		});
		expect(answer(forwards(view(rig))).rows).toEqual([
			{ by: "redirect", protocol: "tcp", external: `${X}:80-82`, internal: "192.168.1.10:8080", peer: "198.51.100.0/24" },
			{ by: "firewall", protocol: "tcp", external: `${X}:443`, internal: "192.168.1.10:443", peer: "", place: "fw4 dstnat_wan" },
			{ by: "pcp", protocol: "udp", external: `${X}:4000`, internal: "192.168.1.20:4000", peer: "" },
		]);
	});
});

describe("hosts", () => {
	it("are as many as are asked for, those with most sessions", () => {
		const rig = new Rig();
		rig.out([udp(`${H1}:1`, `${S1}:9`), udp(`${H2}:1`, `${S1}:9`), udp(`${H2}:2`, `${S1}:9`)]);
		const { rows, data } = answer(hosts(view(rig), 1));
		expect([rows.map((h) => h.address), data]).toEqual([[H2], { hosts: 2 }]);
	});
});

/** An address as this machine loads it from a frame. */
function rawOf(...bytes: number[]): number {
	return new Int32Array(Uint8Array.from(bytes).buffer)[0];
}
