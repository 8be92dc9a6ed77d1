/** How long sessions live: every timeout, what refreshes and what does not, and the clock of 16 bits. */
import { describe, expect, it } from "vitest";
import type { Timeouts } from "../../src/conntrack/states.ts";
import { DEFAULT_TIMEOUTS, Rig } from "./rig.ts";
import { type Frame, icmpError, other, query, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const S1 = "203.0.113.10";

const out = (flags: string) => tcp(`${H1}:50000`, `${S1}:80`, { flags });
const back = (flags: string) => tcp(`${S1}:80`, `${X}:50000`, { flags });

type Step = ["out" | "in", Frame];
const HANDSHAKE: Step[] = [
	["out", out("S")],
	["in", back("SA")],
	["out", out("A")],
];

/** A session brought to a state, the timeout that it should have, and a packet from outside that finds it. */
const CASES: [string, keyof Timeouts, Step[], Frame][] = [
	["U-5 UDP, one packet", "udp", [["out", udp(`${H1}:40000`, `${S1}:9`)]], udp(`${S1}:9`, `${X}:40000`)],
	[
		"U-5' UDP, answered",
		"udp",
		[
			["out", udp(`${H1}:40000`, `${S1}:9`)],
			["in", udp(`${S1}:9`, `${X}:40000`)],
		],
		udp(`${S1}:9`, `${X}:40000`),
	],
	["U-5a a DNS query without reply", "udp", [["out", udp(`${H1}:40000`, `${S1}:53`)]], udp(`${S1}:53`, `${X}:40000`)],
	[
		"U-5a DNS, answered",
		"dns",
		[
			["out", udp(`${H1}:40000`, `${S1}:53`)],
			["in", udp(`${S1}:53`, `${X}:40000`)],
		],
		udp(`${S1}:53`, `${X}:40000`),
	],
	["I-2 ICMP query", "icmp", [["out", query(H1, S1, 40001)]], query(S1, X, 40001, { type: 0 })],
	["T-5t SYN", "tcp_opening", HANDSHAKE.slice(0, 1), back("SA")],
	["T-5t SYN, SYN/ACK", "tcp_opening", HANDSHAKE.slice(0, 2), back("SA")],
	["T-5 established", "tcp_established", HANDSHAKE, back("A")],
	["T-5h FIN from inside", "tcp_established", [...HANDSHAKE, ["out", out("FA")]], back("A")],
	["T-5h FIN from the peer", "tcp_established", [...HANDSHAKE, ["in", back("FA")]], back("A")],
	["T-5t both FINs", "tcp_closing", [...HANDSHAKE, ["out", out("FA")], ["in", back("FA")]], back("A")],
	["N-2.2 reset", "tcp_reset", [...HANDSHAKE, ["out", out("R")]], back("A")],
	["other protocols", "other", [["out", other(H1, S1, 47)]], other(S1, X, 47)],
];

describe("timeouts", () => {
	for (const [name, timeout, steps, probe] of CASES) {
		// An idle connection goes to TRANS first (RFC 7857 figure 1).
		const trans = name === "T-5 established" ? DEFAULT_TIMEOUTS.tcp_reset : 0;
		it(`${name}: alive after T, gone after T + 2`, () => {
			const lengths = timeout === "dns" ? [2, 30] : [DEFAULT_TIMEOUTS[timeout], 150];
			for (const seconds of lengths) {
				for (const alive of [true, false]) {
					const rig = new Rig({ timeouts: { [timeout]: seconds } });
					for (const [way, frame] of steps) expect(rig[way](frame).drops).toEqual([]);
					rig.pass(alive ? seconds : seconds + 2);
					if (!alive && trans > 0) rig.pass(trans + 2);
					const outcome = rig.in(probe);
					expect(outcome.lan[0].length).toBe(alive ? 1 : 0);
					expect(rig.flows().length).toBe(alive ? 1 : 0);
					rig.verify();
				}
			}
		});
	}

	it("the defaults are those of the RFCs", () => {
		expect(DEFAULT_TIMEOUTS.udp).toBeGreaterThanOrEqual(300);
		expect(DEFAULT_TIMEOUTS.icmp).toBeGreaterThanOrEqual(60);
		expect(DEFAULT_TIMEOUTS.tcp_established).toBeGreaterThanOrEqual(7440);
		expect(Math.min(DEFAULT_TIMEOUTS.tcp_opening, DEFAULT_TIMEOUTS.tcp_closing, DEFAULT_TIMEOUTS.tcp_reset)).toBeGreaterThanOrEqual(240);
	});
});

describe("refresh", () => {
	it("U-6: outbound refreshes", () => {
		const rig = new Rig({ timeouts: { udp: 150 } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.pass(100);
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.pass(140);
		rig.toLan(udp(`${S1}:9`, `${X}:40000`));
		rig.pass(12);
		expect(rig.in(udp(`${S1}:9`, `${X}:40000`)).drops).toEqual(["no-mapping"]);
	});

	it("U-6a: inbound does not, neither the first answer nor later ones", () => {
		const rig = new Rig({ timeouts: { udp: 150 } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		for (let n = 0; n < 14; n++) {
			rig.pass(10);
			rig.toLan(udp(`${S1}:9`, `${X}:40000`, n & 1 ? { ipOptions: [1] } : {}));
		}
		rig.pass(12);
		expect(rig.flows()).toEqual([]);
	});

	it("U-5a: another query makes a DNS session live on, as any other: whatever talks on is no question with its answer", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:53`));
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		rig.pass(2);
		rig.toWan(udp(`${H1}:40000`, `${S1}:53`));
		rig.pass(100);
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		rig.pass(100);
		expect(rig.state).toBe("open");
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		rig.pass(102);
		expect(rig.flows()).toEqual([]);
	});

	it("U-5a: as does another reply", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:53`));
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		expect(rig.state).toBe("dns-done");
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		rig.pass(200);
		expect(rig.state).toBe("open");
	});

	it("U-5a: two queries at once (A and AAAA of one socket) are over with their two replies, not with one, and live on with a third", () => {
		const query = udp(`${H1}:40000`, `${S1}:53`);
		const reply = udp(`${S1}:53`, `${X}:40000`);
		const asked = (queries: number, replies: number) => {
			const rig = new Rig();
			for (let n = 0; n < queries; n++) rig.toWan(query);
			for (let n = 0; n < replies; n++) rig.toLan(reply);
			return rig;
		};
		expect([asked(2, 1).state, asked(2, 2).state, asked(2, 3).state]).toEqual(["new", "dns-done", "open"]);
		expect([asked(3, 1).state, asked(3, 3).state, asked(1, 2).state]).toEqual(["open", "open", "open"]);
		const done = asked(2, 2);
		done.pass(12);
		expect(done.flows()).toEqual([]);
		// The second reply may come late, and one that never comes is waited for as any other.
		const late = asked(2, 1);
		late.pass(200);
		late.toLan(reply);
		late.pass(12);
		expect(late.flows()).toEqual([]);
		const more = asked(2, 2);
		more.toWan(query);
		more.toLan(reply);
		more.pass(250);
		expect(more.state).toBe("open");
	});

	it("a tunnel over port 53 is not ended by its silence (S36)", () => {
		const rig = new Rig();
		for (let n = 0; n < 20; n++) {
			rig.toWan(udp(`${H1}:51820`, `${S1}:53`));
			rig.toLan(udp(`${S1}:53`, `${X}:51820`));
		}
		rig.pass(200);
		expect(rig.toLan(udp(`${S1}:53`, `${X}:51820`)).line).toBe(`udp ${S1}:53 > ${H1}:51820`);
	});

	it("U-5a: a query answered ends its session only, not the mapping of the port", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:53`));
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.toLan(udp(`${S1}:53`, `${X}:40000`));
		rig.pass(5);
		expect(rig.flows()).toEqual([`udp ${H1}:40000 ${X}:40000 ${S1}:9 new`]);
		rig.verify();
	});

	it("ICMP: another query refreshes, the reply does not", () => {
		const rig = new Rig();
		rig.toWan(query(H1, S1, 40001));
		rig.pass(50);
		rig.toLan(query(S1, X, 40001, { type: 0 }));
		rig.pass(12);
		expect(rig.flows()).toEqual([]);
		rig.toWan(query(H1, S1, 40001));
		rig.pass(50);
		rig.toWan(query(H1, S1, 40001));
		rig.pass(50);
		expect(rig.flows()).toHaveLength(1);
	});

	it("T-5k: a keepalive from either side refreshes TCP", () => {
		const rig = new Rig({ timeouts: { tcp_established: 60 } });
		for (const [way, frame] of HANDSHAKE) rig[way](frame);
		for (let n = 0; n < 10; n++) {
			rig.pass(58);
			if (n & 1) rig.toWan(out("A"));
			else rig.toLan(back("A"));
		}
		rig.pass(62);
		expect(rig.flows()).toEqual([`tcp ${H1}:50000 ${X}:50000 ${S1}:80 reset`]);
	});

	it("N-2: an idle connection goes to TRANS, where the next segment revives it, and then ends", () => {
		const rig = new Rig({ timeouts: { tcp_established: 60, tcp_reset: 30 } });
		for (const [way, frame] of HANDSHAKE) rig[way](frame);
		for (const [way, frame] of [
			["out", out("A")],
			["in", back("A")],
		] as Step[]) {
			rig.pass(70);
			expect(rig.flows()).toEqual([`tcp ${H1}:50000 ${X}:50000 ${S1}:80 reset`]);
			rig[way](frame);
			expect(rig.flows()).toEqual([`tcp ${H1}:50000 ${X}:50000 ${S1}:80 established`]);
		}
		rig.pass(62);
		rig.pass(32);
		expect(rig.flows()).toEqual([]);
		rig.verify();
	});

	it("N-7.1: a host that answers everything with a reset keeps nothing", () => {
		const rig = new Rig({ timeouts: { tcp_reset: 30 } });
		for (const [way, frame] of HANDSHAKE) rig[way](frame);
		for (let n = 0; n < 3; n++) {
			rig.toWan(out("R"));
			rig.pass(10);
		}
		expect(rig.flows()).toHaveLength(1);
		rig.pass(2);
		expect(rig.flows()).toEqual([]);
	});

	it("N-7, N-7.1, I-6: filtered packets and ICMP errors refresh nothing", () => {
		const rig = new Rig({ timeouts: { udp: 150 }, filtering: "adf" });
		const sent = rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		const arrived = rig.toLan(udp(`${S1}:9`, `${X}:40000`));
		for (let n = 0; n < 14; n++) {
			rig.pass(10);
			expect(rig.in(udp("203.0.113.30:9", `${X}:40000`)).drops).toEqual(["filtered"]);
			rig.toLan(icmpError("203.0.113.254", X, 3, 1, sent.bytes));
			rig.toWan(icmpError(H1, S1, 3, 3, arrived.bytes));
			expect(rig.flows()).toHaveLength(1);
		}
		rig.pass(12);
		expect(rig.flows()).toEqual([]);
	});

	it("a refused reset does not refresh", () => {
		const rig = new Rig({ timeouts: { tcp_established: 100 } });
		for (const [way, frame] of HANDSHAKE) rig[way](frame);
		rig.pass(90);
		expect(rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags: "R", seq: 0x7fffffff })).drops).toEqual(["tcp-bad-reset"]);
		rig.pass(12);
		expect(rig.flows()).toEqual([`tcp ${H1}:50000 ${X}:50000 ${S1}:80 reset`]);
	});
});

describe("lists", () => {
	it("sessions end in the order of their last use, whatever the order of their beginning", () => {
		const rig = new Rig({ timeouts: { udp: 100 } });
		const last = new Map<number, number>();
		for (let n = 0; n < 50; n++) {
			rig.toWan(udp(`${H1}:${40000 + n}`, `${S1}:9`));
			last.set(40000 + n, rig.context.now);
		}
		for (let n = 0; n < 400; n++) {
			rig.at(rig.context.now + (n % 3 === 0 ? 1 : 0));
			const port = 40000 + ((rig.random() >>> 0) % 50);
			// An answer moves a session to another list and keeps its time.
			if (n % 5 === 0) rig.toLan(udp(`${S1}:9`, `${X}:${port}`));
			else {
				rig.toWan(udp(`${H1}:${port}`, `${S1}:9`));
				last.set(port, rig.context.now);
			}
			if (rig.context.now - Math.min(...last.values()) > 100) break;
		}
		for (let n = 0; n < 150; n++) {
			rig.pass(1);
			const alive = [...last.values()].filter((t) => rig.context.now - t <= 100).length;
			expect(rig.flows()).toHaveLength(alive);
		}
		rig.verify();
	});

	it("an answer that comes late finds its place behind more than 32 younger ones: it may gain their age, never lose its own", () => {
		const rig = new Rig({ timeouts: { udp: 100 } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.pass(10);
		for (let n = 1; n <= 60; n++) {
			rig.toWan(udp(`${H1}:${40000 + n}`, `${S1}:9`));
			rig.toLan(udp(`${S1}:9`, `${X}:${40000 + n}`));
		}
		rig.toLan(udp(`${S1}:9`, `${X}:40000`));
		rig.verify();
		rig.pass(90);
		expect(rig.flows()).toHaveLength(61);
		rig.pass(12);
		expect(rig.flows()).toEqual([]);
		rig.verify();
	});

	it("a turn ends at most as many as its budget, the next goes on", () => {
		const rig = new Rig({ timeouts: { udp: 10 } });
		for (let n = 0; n < 600; n++) rig.toWan(udp(`${H1}:${40000 + n}`, `${S1}:9`));
		rig.at(rig.context.now + 12);
		expect([rig.admission.expire(256), rig.admission.expire(256), rig.admission.expire(256), rig.admission.expire(256)]).toEqual([
			256, 256, 88, 0,
		]);
		rig.verify();
	});
});

describe("the clock of 16 bits", () => {
	it("wraps without ending or keeping anything", () => {
		for (const start of [65535 - 100, 65536 * 3 - 1, 2 ** 31 - 50]) {
			const rig = new Rig();
			rig.at(start);
			rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
			for (const [way, frame] of HANDSHAKE) rig[way](frame);
			rig.pass(250);
			expect(rig.flows()).toHaveLength(2);
			rig.toLan(udp(`${S1}:9`, `${X}:40000`));
			rig.pass(52);
			expect(rig.flows()).toEqual([`tcp ${H1}:50000 ${X}:50000 ${S1}:80 established`]);
			rig.pass(7300);
			rig.pass(242);
			expect(rig.flows()).toEqual([]);
			rig.verify();
		}
	});

	it("a timeout as long as the table can hold ends too", () => {
		const rig = new Rig({ timeouts: { udp: 65000 } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		for (let n = 0; n < 65; n++) rig.pass(1000);
		expect(rig.flows()).toHaveLength(1);
		rig.pass(2);
		expect(rig.flows()).toEqual([]);
	});
});
