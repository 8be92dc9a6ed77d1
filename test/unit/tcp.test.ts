/** TCP sessions: the states of RFC 7857 section 2, resets, SYN reuse, mid-stream pick-up, and the MSS clamp. */
import { describe, expect, it } from "vitest";
import { stateTimeouts } from "../../src/conntrack/states.ts";
import { DEFAULT_TIMEOUTS, Rig, type RigOptions } from "./rig.ts";
import { tcp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const S1 = "203.0.113.10";

/** A connection h1:50000 <-> s1:80; `out` and `in` send a segment and give the state afterwards. */
class Connection {
	readonly rig: Rig;
	constructor(o: RigOptions = {}) {
		this.rig = new Rig(o);
	}
	out(flags: string, o: { seq?: number; ack?: number } = {}): string {
		this.rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags, ...o }));
		return this.rig.state;
	}
	in(flags: string, o: { seq?: number; ack?: number } = {}): string {
		this.rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags, ...o }));
		return this.rig.state;
	}
	/** Three-way handshake: inside has 1001 next, the peer 5001. */
	open(): Connection {
		this.out("S", { seq: 1000 });
		this.in("SA", { seq: 5000, ack: 1001 });
		this.out("A", { seq: 1001, ack: 5001 });
		return this;
	}
	/** Seconds to live from now. */
	get life(): number {
		const { table, context } = this.rig;
		const [i] = this.rig.records();
		return stateTimeouts(DEFAULT_TIMEOUTS)[table.state(i)] - table.age(i, context.now16);
	}
}

describe("S30: a SYN from the port of a connection that only masqd still remembers", () => {
	const REFUSED = (n: number) => ({ seq: 0, ack: n });

	for (const [name, inside, outside] of [
		["established", false, false],
		["half closed from inside", true, false],
		["half closed from outside", false, true],
		["closing", true, true],
	] as const) {
		const close = (c: Connection) => {
			if (inside) c.out("FA", { seq: 1001, ack: 5001 });
			if (outside) c.in("FA", { seq: 5001, ack: inside ? 1002 : 1001 });
		};

		it(`${name}: the refusal is heard, each time`, () => {
			const c = new Connection().open();
			close(c);
			for (let n = 0; n < 3; n++) {
				c.out("S", { seq: 500_000 + n });
				expect(c.in("RA", REFUSED(500_001 + n))).toBe("reset");
			}
		});

		it(`${name}: a forged refusal is not`, () => {
			const c = new Connection().open();
			close(c);
			c.out("S", { seq: 500_000 });
			for (const ack of [0, 1001, 499_000, 500_000, 700_000]) {
				const { drops } = c.rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags: "RA", seq: 0, ack }));
				if (name !== "closing" || ack < 500_001) expect(drops).toEqual(["tcp-bad-reset"]);
			}
		});
	}

	it("accepted anew it is a connection again, and its old peer's challenge changes nothing", () => {
		const c = new Connection().open();
		c.out("S", { seq: 500_000 });
		expect(c.in("A", { seq: 5001, ack: 1001 })).toBe("established");
		expect(c.out("R", { seq: 1001 })).toBe("reset");
		expect(c.out("S", { seq: 500_000 })).toBe("syn-sent");
		expect(c.in("SA", { seq: 9000, ack: 500_001 })).toBe("opening");
		expect(c.out("A", { seq: 500_001, ack: 9001 })).toBe("established");
	});
});

describe("T-2, N-2: the way of a connection", () => {
	it("handshake", () => {
		const c = new Connection();
		expect(c.out("S")).toBe("syn-sent");
		expect(c.out("S")).toBe("syn-sent");
		expect(c.in("SA", { ack: 1001 })).toBe("opening");
		expect(c.in("SA", { ack: 1001 })).toBe("opening");
		expect(c.out("A")).toBe("established");
		expect(c.out("PA")).toBe("established");
		expect(c.in("A")).toBe("established");
	});

	it("SYN with data, and ECN flags", () => {
		const rig = new Rig();
		const p = rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", payload: 100, options: [34, 6, 1, 2, 3, 4, 1, 1] }));
		expect(p.payload).toHaveLength(100);
		expect(rig.state).toBe("syn-sent");
	});

	it("T-2a simultaneous open", () => {
		const c = new Connection();
		expect(c.out("S")).toBe("syn-sent");
		expect(c.in("S")).toBe("opening");
		expect(c.out("SA")).toBe("opening");
		expect(c.in("SA")).toBe("opening");
		expect(c.out("A")).toBe("established");
	});

	it("opened from outside through a forward", () => {
		const rig = new Rig({ forwards: [{ protocol: 6, first: 50000, internal: H1 }] });
		rig.hops.answersInternal = true;
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "S" }));
		expect(rig.state).toBe("syn-received");
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "S" }));
		expect(rig.state).toBe("syn-received");
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "SA" }));
		expect(rig.state).toBe("opening");
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "A" }));
		expect(rig.state).toBe("established");
	});

	it("FIN from inside first, then data the other way, then the other FIN", () => {
		const c = new Connection().open();
		expect(c.out("FA")).toBe("fin-sent");
		expect(c.life).toBe(7440);
		for (let n = 0; n < 5; n++) expect(c.in("PA")).toBe("fin-sent");
		expect(c.out("A")).toBe("fin-sent");
		expect(c.in("FA")).toBe("closing");
		expect(c.out("A")).toBe("closing");
		expect(c.in("A")).toBe("closing");
		expect(c.life).toBe(240);
	});

	it("T-5h FIN from the peer first: half-closed lives as long as established", () => {
		const c = new Connection().open();
		expect(c.in("FA")).toBe("fin-received");
		expect(c.life).toBe(7440);
		for (let n = 0; n < 5; n++) expect(c.out("PA")).toBe("fin-received");
		expect(c.in("FA")).toBe("fin-received");
		expect(c.out("FA")).toBe("closing");
	});

	it("simultaneous close", () => {
		const c = new Connection().open();
		c.out("FA");
		expect(c.in("FA")).toBe("closing");
		expect(c.out("A")).toBe("closing");
	});

	it("FIN instead of the last ACK of the handshake", () => {
		const c = new Connection();
		c.out("S");
		c.in("SA");
		expect(c.out("FA")).toBe("fin-sent");
	});

	it("T-5t the states that are short live at least 240 s, the others 7440 s", () => {
		const c = new Connection();
		c.out("S");
		expect(c.life).toBe(240);
		c.in("SA");
		expect(c.life).toBe(240);
		c.out("A");
		expect(c.life).toBe(7440);
		c.in("FA");
		c.out("FA");
		expect(c.life).toBe(240);
	});

	it("a SYN within a live connection changes nothing", () => {
		const c = new Connection().open();
		expect(c.out("S")).toBe("established");
		expect(c.in("S")).toBe("established");
		expect(c.in("SA")).toBe("established");
		c.out("FA");
		expect(c.out("S")).toBe("fin-sent");
		expect(c.in("S")).toBe("fin-sent");
	});
});

describe("resets", () => {
	it("N-2.2 a valid reset is translated, the session lives 240 s more, data revives it", () => {
		const c = new Connection().open();
		expect(c.in("R", { seq: 5001 })).toBe("reset");
		expect(c.life).toBe(240);
		c.rig.pass(200);
		expect(c.out("A")).toBe("established");
		expect(c.life).toBe(7440);
		expect(c.out("R", { seq: 1001 })).toBe("reset");
		expect(c.in("PA")).toBe("established");
	});

	it("T-x1 an off-path reset is dropped and the session stays as it was", () => {
		const c = new Connection().open();
		c.out("A", { ack: 0xfffffff0 });
		// One before the expected number, far before, half the space away, one beyond the window (65536 ahead), twice
		// as far.
		for (const seq of [0xffffffef, 0xfffe0000, 0x70000000, 0xfff0, 0x1fff0]) {
			const outcome = c.rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags: "R", seq }));
			expect(outcome.drops).toEqual(["tcp-bad-reset"]);
			expect(outcome.lan[0]).toEqual([]);
			expect(c.rig.state).toBe("established");
		}
		expect(c.in("R", { seq: 0xfffffff0 })).toBe("reset");
	});

	it("within the window, across the wrap of sequence numbers", () => {
		for (const ahead of [0, 1, 1460, 65535]) {
			const c = new Connection().open();
			c.out("A", { ack: 0xffffff00 });
			expect(c.in("R", { seq: (0xffffff00 + ahead) >>> 0 })).toBe("reset");
		}
	});

	it("the peer's refusal of a SYN must acknowledge it", () => {
		const c = new Connection();
		c.out("S", { seq: 0xffffffff });
		expect(c.rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags: "RA", seq: 0, ack: 1000 })).drops).toEqual([]);
		const d = new Connection();
		d.out("S", { seq: 1000 });
		expect(d.rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags: "RA", seq: 0, ack: 99 })).drops).toEqual(["tcp-bad-reset"]);
		expect(d.rig.state).toBe("syn-sent");
		expect(d.in("RA", { seq: 0, ack: 1001 })).toBe("reset");
	});

	it("with IP options it is judged alike", () => {
		const c = new Connection().open();
		const outcome = c.rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags: "R", seq: 77_000_000, ipOptions: [1] }));
		expect(outcome.drops).toEqual(["tcp-bad-reset"]);
		expect(c.rig.state).toBe("established");
	});
});

describe("T-x2: a new SYN on an old connection", () => {
	it("after both FINs, from inside", () => {
		const c = new Connection().open();
		c.out("FA");
		c.in("FA");
		expect(c.out("S", { seq: 900_000 })).toBe("syn-sent");
		expect(c.in("SA", { ack: 900_001 })).toBe("opening");
		expect(c.out("A")).toBe("established");
	});

	it("after a reset, from inside: the old acknowledgment does not judge the new connection's resets", () => {
		const c = new Connection().open();
		c.in("R", { seq: 5001 });
		c.out("S", { seq: 900_000 });
		expect(c.in("RA", { seq: 0, ack: 900_001 })).toBe("reset");
	});

	it("from outside, through a forward: likewise", () => {
		const rig = new Rig({ forwards: [{ protocol: 6, first: 50000, internal: H1 }] });
		rig.hops.answersInternal = true;
		const inward = (flags: string, seq: number) => rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags, seq }));
		inward("S", 5000);
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "SA", ack: 5001 }));
		inward("A", 5001);
		inward("FA", 5001);
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "FA", ack: 5002 }));
		expect(rig.state).toBe("closing");
		inward("S", 3_000_000_000);
		expect(rig.state).toBe("syn-received");
		expect(inward("R", 3_000_000_001).drops).toEqual([]);
		expect(rig.state).toBe("reset");
	});
});

describe("T-x3: mid-stream", () => {
	it("a data segment or pure ACK from inside is adopted, and counts as unanswered until the peer confirms it", () => {
		const c = new Connection();
		expect(c.out("PA")).toBe("syn-sent");
		expect(c.out("A")).toBe("syn-sent");
		expect(c.in("A")).toBe("established");
	});

	it("F-1 nothing else from inside opens a session, nor leaks", () => {
		const rig = new Rig();
		for (const flags of ["R", "RA", "FA", "SA", "SR", "SPR"]) {
			const outcome = rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags }));
			expect(outcome.drops).toEqual(["tcp-no-session"]);
			expect(outcome.wan).toEqual([]);
		}
		for (const flags of ["", "F", "FPU", "SF", "SFA", "U", "P"]) {
			expect(rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags })).drops).toEqual(["bad-transport"]);
		}
		expect(rig.flows()).toEqual([]);
	});
});

describe("W-5: MSS clamp", () => {
	const MSS = (mss: number) => [2, 4, mss >> 8, mss & 255];
	const lists: [string, number[]][] = [
		["first", MSS(1460)],
		["at an even offset", [4, 2, ...MSS(1460), 1, 3, 3, 7]],
		["at an odd offset", [1, ...MSS(1460), 3, 3, 7]],
		["at another odd offset", [1, 4, 2, ...MSS(1460), 0, 0, 0, 0, 0]],
		["last", [1, 3, 3, 7, 1, 1, 1, 1, ...MSS(1460)]],
	];
	for (const [where, options] of lists) {
		it(`${where}: lowered to the WAN's MTU less 40 in SYN and SYN/ACK, full and partial checksums right`, () => {
			for (const checksum of ["full", "partial"] as const) {
				for (const ipOptions of [[], [1]]) {
					const rig = new Rig({ wan: { mtu: 1492 } });
					const out = rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", options, checksum, ipOptions }));
					expect(out.mss).toBe(1452);
					expect(out.options.filter((b) => b === 3)).toEqual(options.filter((b) => b === 3));
					const back = rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA", options, checksum, ipOptions }));
					expect(back.mss).toBe(1452);
				}
			}
		});
	}

	it("never raised, and only in SYN segments", () => {
		const rig = new Rig({ wan: { mtu: 1492 } });
		for (const mss of [1452, 1451, 536, 1])
			expect(rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", options: MSS(mss) })).mss).toBe(mss);
		expect(rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", options: MSS(1460) })).mss).toBe(1460);
	});

	it("broken options are left alone", () => {
		const rig = new Rig({ wan: { mtu: 1492 } });
		for (const options of [
			[2, 3, 5, 180],
			[2, 0, 5, 180],
			[2, 5, 5, 180],
			[5, 200, 2, 4],
			[3, 1, 2, 4, 5, 180, 0, 0],
			[1, 1, 1, 2],
			[0, 2, 4, 5, 180, 0, 0, 0],
		]) {
			const frame = tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", options });
			expect(rig.toWan(frame).bytes.slice(40)).toEqual(frame.ip.slice(40));
		}
	});

	it("an option that ends behind the packet is left alone", () => {
		const rig = new Rig({ wan: { mtu: 1492 } });
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		const frame = tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", payload: Uint8Array.from([2, 4, 5]) });
		frame.ip[32] = 0xf0;
		rig.strict = false;
		expect(rig.toWan(frame).bytes.slice(40)).toEqual(Uint8Array.from([2, 4, 5]));
	});
});
