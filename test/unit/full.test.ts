/**
 * The table when it is full: who is refused, who makes room, and that nobody who was answered ever does (RFC 6888
 * REQ-4, 5, 11).
 */
import { describe, expect, it } from "vitest";
import { FREE } from "../../src/conntrack/states.ts";
import { Rig } from "./rig.ts";
import { other, query, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const H3 = "192.168.1.30";
const S1 = "203.0.113.10";
const SESSIONS = 256;

/** `count` answered UDP sessions of a host. */
function answered(rig: Rig, host: string, count: number, first = 1024): void {
	for (let n = first; n < first + count; n++) {
		const p = rig.toWan(udp(`${host}:${n}`, `${S1}:9`));
		rig.toLan(udp(`${S1}:9`, `${X}:${p.sourcePort}`));
	}
}

function unanswered(rig: Rig, host: string, count: number, first = 20_000): void {
	for (let n = first; n < first + count; n++) rig.toWan(udp(`${host}:${n}`, `${S1}:9`));
}

/** Fills the table with answered sessions of further hosts, 16 each. */
function fill(rig: Rig): void {
	for (let n = 0; rig.table.count(FREE) > 0; n++) answered(rig, `192.168.1.${100 + (n >> 4)}`, 1, 1024 + n);
}

const count = (rig: Rig, text: string) => rig.flows().filter((line) => line.includes(text)).length;

describe("C-11, I-8: full of answered sessions", () => {
	it("a new flow is refused with ICMP 3/1, quoted rightly, and every old one still works", () => {
		const rig = new Rig({ sessions: SESSIONS });
		answered(rig, H1, SESSIONS);
		rig.pass(10);
		expect(rig.table.count(FREE)).toBe(0);
		const outcome = rig.out(udp(`${H3}:5000`, `${S1}:53`, { tos: 0xb8, payload: 700 }));
		expect(outcome.drops).toEqual(["table-full"]);
		expect(outcome.wan).toEqual([]);
		const [error] = outcome.lan[0];
		expect(error.line).toBe(`icmp 3/1 192.168.1.1 > ${H3} about udp ${H3}:5000 > ${S1}:53`);
		expect([error.bytes.length, error.ttl, error.tos, error.quote?.ttl]).toEqual([576, 64, 0xb8, 64]);
		expect(rig.flows()).toHaveLength(SESSIONS);
		for (let n = 1024; n < 1024 + SESSIONS; n++) rig.toWan(udp(`${H1}:${n}`, `${S1}:9`));
		rig.verify();
	});

	it("one host with as many sessions as can be is refused one more, and all of them can end", () => {
		const most = 65_535;
		const rig = new Rig({ sessions: most });
		for (let n = 0; n < most; n++) {
			const p = rig.toWan(udp(`${H1}:${1024 + (n % 32_768)}`, `${S1}:${9 + (n >> 15)}`));
			rig.toLan(udp(`${S1}:${9 + (n >> 15)}`, `${X}:${p.sourcePort}`));
		}
		expect(rig.table.count(FREE)).toBe(0);
		expect(rig.out(udp(`${H1}:60000`, `${S1}:53`)).drops).toEqual(["table-full"]);
		rig.pass(400);
		expect(rig.table.count(FREE)).toBe(most);
		rig.toWan(udp(`${H1}:60000`, `${S1}:53`));
		rig.verify();
	});

	it("TCP, ICMP queries and protocols without ports are refused alike", () => {
		const rig = new Rig({ sessions: SESSIONS });
		answered(rig, H1, SESSIONS);
		for (const frame of [tcp(`${H3}:5000`, `${S1}:80`, { flags: "S" }), query(H3, S1, 7), other(H3, S1, 47)]) {
			const outcome = rig.out(frame);
			expect(outcome.drops).toEqual(["table-full"]);
			expect([outcome.lan[0][0].type, outcome.lan[0][0].code]).toEqual([3, 1]);
		}
		rig.verify();
	});

	it("as many refusals as a source's rate of errors allows, then silence", () => {
		const rig = new Rig({ sessions: SESSIONS });
		answered(rig, H1, SESSIONS);
		let errors = 0;
		for (let n = 0; n < 500; n++) {
			const outcome = rig.out(udp(`${H3}:${5000 + n}`, `${S1}:53`));
			expect(outcome.drops).toEqual(["table-full"]);
			errors += outcome.errors;
		}
		expect(errors).toBeLessThanOrEqual(60);
		rig.verify();
	});

	it("inbound to a forward: dropped without an answer", () => {
		const rig = new Rig({ sessions: SESSIONS, forwards: [{ protocol: 17, first: 5000, internal: H2 }] });
		answered(rig, H1, SESSIONS);
		const outcome = rig.in(udp(`${S1}:1`, `${X}:5000`));
		expect([outcome.drops, outcome.errors]).toEqual([["table-full"], 0]);
		rig.verify();
	});
});

describe("who makes room", () => {
	it("first what has expired", () => {
		const rig = new Rig({ sessions: SESSIONS, timeouts: { udp: 100 } });
		answered(rig, H1, SESSIONS);
		rig.at(rig.context.now + 102);
		rig.toWan(udp(`${H2}:5000`, `${S1}:9`));
		rig.verify();
	});

	it("then what is closing: DNS done, both FINs, reset", () => {
		const rig = new Rig({ sessions: SESSIONS });
		rig.toWan(udp(`${H1}:1000`, `${S1}:53`));
		rig.toLan(udp(`${S1}:53`, `${X}:${rig.flows()[0].split(" ")[2].split(":")[1]}`));
		for (const [n, last] of [
			[50_000, "FA"],
			[50_001, "R"],
		] as const) {
			rig.toWan(tcp(`${H1}:${n}`, `${S1}:80`, { flags: "S" }));
			rig.toLan(tcp(`${S1}:80`, `${X}:${n}`, { flags: "SA" }));
			rig.toWan(tcp(`${H1}:${n}`, `${S1}:80`, { flags: "A" }));
			rig.toWan(tcp(`${H1}:${n}`, `${S1}:80`, { flags: last }));
			if (last === "FA") rig.toLan(tcp(`${S1}:80`, `${X}:${n}`, { flags: "FA" }));
		}
		answered(rig, H1, SESSIONS - 3);
		expect(rig.table.count(FREE)).toBe(0);
		const gone: string[] = [];
		for (let n = 0; n < 3; n++) {
			const before = rig.flows();
			rig.toWan(udp(`${H2}:${5000 + n}`, `${S1}:9`));
			gone.push(...before.filter((line) => !rig.flows().includes(line)).map((line) => line.split(" ")[4]));
			rig.verify();
		}
		expect(gone).toEqual(["dns-done", "closing", "reset"]);
	});

	it("then, for a host with less than its share, an unanswered session of the host that holds most, the oldest first", () => {
		const rig = new Rig({ sessions: SESSIONS });
		unanswered(rig, H1, 150);
		answered(rig, H2, 56);
		unanswered(rig, H2, 4, 10_000);
		fill(rig);
		expect(rig.out(udp(`${H2}:1`, `${S1}:9`)).drops).toEqual(["host-share"]);
		for (let n = 0; n < 42; n++) {
			rig.toWan(udp(`${H3}:${5000 + n}`, `${S1}:9`));
			expect(count(rig, `${H1}:${20_000 + n} `)).toBe(0);
		}
		expect(rig.out(udp(`${H3}:1`, `${S1}:9`)).drops).toEqual(["host-share"]);
		expect(count(rig, `udp ${H2}:`)).toBe(60);
		expect(count(rig, `udp ${H1}:`)).toBe(108);
		rig.verify();
	});

	it("a host that is alone loses its own oldest unanswered session, not before that is 2 s old", () => {
		const rig = new Rig({ sessions: SESSIONS });
		unanswered(rig, H1, SESSIONS);
		expect(rig.out(udp(`${H1}:1`, `${S1}:9`)).drops).toEqual(["table-full"]);
		rig.pass(2);
		rig.toWan(udp(`${H1}:1`, `${S1}:9`));
		expect(count(rig, `${H1}:20000 `)).toBe(0);
		rig.verify();
	});

	it("a host's only session, done, makes room for its own next one", () => {
		const rig = new Rig({ sessions: SESSIONS });
		rig.toWan(udp(`${H2}:40000`, `${S1}:53`));
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		fill(rig);
		expect(rig.table.count(FREE)).toBe(0);
		rig.toWan(udp(`${H2}:40001`, `${S1}:9`));
		rig.verify();
		rig.toLan(udp(`${S1}:9`, `${X}:40001`));
		rig.pass(400);
		rig.verify();
		expect(rig.hosts.active).toBe(0);
	});

	it("a mapping whose only session makes room keeps its external port for the session that takes its place", () => {
		const rig = new Rig({ sessions: SESSIONS });
		rig.toWan(udp(`${H2}:40000`, `${S1}:53`));
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		fill(rig);
		expect(rig.toWan(udp(`${H2}:40000`, `${S1}:9`)).sourcePort).toBe(40000);
		rig.verify();
	});

	it("likewise for a packet from outside that the mapping lets in", () => {
		const rig = new Rig({ sessions: SESSIONS, filtering: "eif" });
		rig.toWan(udp(`${H2}:40000`, `${S1}:53`));
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		fill(rig);
		expect(rig.toLan(udp("203.0.113.30:9", `${X}:40000`)).line).toBe(`udp 203.0.113.30:9 > ${H2}:40000`);
		rig.verify();
	});
});

describe("C-4, C-5: shares", () => {
	it("a host's own limit refuses its next session and nobody else's", () => {
		const rig = new Rig({ sessions: SESSIONS, hosts: [{ address: H1, maxSessions: 50 }] });
		answered(rig, H1, 50);
		const outcome = rig.out(udp(`${H1}:9000`, `${S1}:9`));
		expect(outcome.drops).toEqual(["host-limit"]);
		expect([outcome.lan[0][0].type, outcome.lan[0][0].code]).toEqual([3, 1]);
		rig.toWan(udp(`${H1}:1024`, `${S1}:9`));
		answered(rig, H2, 60);
		rig.verify();
		rig.pass(400);
		answered(rig, H1, 50);
		rig.verify();
	});

	it("a host may hold more than its share while a fifth of the table is free", () => {
		const rig = new Rig({ sessions: SESSIONS });
		answered(rig, H2, 1);
		let held = 0;
		while (rig.out(udp(`${H1}:${1024 + held}`, `${S1}:9`)).drops.length === 0) held++;
		expect(held + 1).toBeGreaterThanOrEqual(Math.floor(SESSIONS * 0.8));
		expect(held + 1).toBeLessThanOrEqual(Math.ceil(SESSIONS * 0.8) + 1);
		expect(rig.out(udp(`${H1}:9`, `${S1}:9`)).drops).toEqual(["host-share"]);
		answered(rig, H2, 40);
		rig.verify();
	});

	it("every host gets at least 16 however many there are", () => {
		const rig = new Rig({ sessions: SESSIONS, lan: [{ nets: ["10.0.0.0/8"] }] });
		for (let host = 1; host <= 12; host++) {
			for (let n = 0; n < 17; n++) rig.toWan(udp(`10.0.0.${host}:${1024 + n}`, `${S1}:9`));
		}
		// 204 of 256 are in use: scarce now.
		expect(rig.out(udp("10.0.0.1:5000", `${S1}:9`)).drops).toEqual([]);
		for (let n = 0; n < 16; n++) rig.toWan(udp(`10.0.1.1:${1024 + n}`, `${S1}:9`));
		rig.verify();
	});

	it("more hosts than host records, all answered: refused, not confused", () => {
		const rig = new Rig({ sessions: SESSIONS, lan: [{ nets: ["10.0.0.0/8"] }] });
		let refused = 0;
		for (let host = 1; host <= 100; host++) {
			const outcome = rig.out(udp(`10.0.0.${host}:${40_000 + host}`, `${S1}:9`));
			refused += outcome.drops.length;
			if (outcome.drops.length === 0) rig.toLan(udp(`${S1}:9`, `${X}:${40_000 + host}`));
		}
		expect(refused).toBe(100 - rig.table.layout.hosts);
		rig.verify();
		rig.pass(400);
		expect(rig.hosts.active).toBe(0);
		rig.toWan(udp("10.0.0.100:5000", `${S1}:9`));
		rig.verify();
	});
});

describe("F-4: a flood", () => {
	it("of SYNs from one host ends none of another's sessions, and the other still opens new ones", () => {
		const rig = new Rig({ sessions: 1024 });
		answered(rig, H1, 50);
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA" }));
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A" }));
		let opened = 0;
		for (let second = 0; second < 20; second++) {
			rig.pass(1);
			for (let n = 0; n < 500; n++) {
				rig.out(tcp(`${H3}:${1024 + ((second * 500 + n) % 60_000)}`, `198.51.${second}.${n & 255}:80`, { flags: "S" }));
			}
			for (let n = 0; n < 10; n++) {
				rig.toWan(udp(`${H1}:${30_000 + second * 10 + n}`, `${S1}:9`));
				opened++;
			}
			rig.verify();
		}
		expect(opened).toBe(200);
		for (let n = 1024; n < 1074; n++) expect(count(rig, `udp ${H1}:${n} `)).toBe(1);
		expect(count(rig, `tcp ${H1}:50000`)).toBe(1);
		rig.toWan(query(H1, S1, 5));
	});
});
