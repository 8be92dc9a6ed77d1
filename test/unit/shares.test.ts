/**
 * Fair shares of what hosts and strangers use together: sessions, host records, ports; and what of it never costs more
 * for being much.
 */
import { describe, expect, it } from "vitest";
import {
	FREE,
	ICMP_QUERY,
	STRANGER,
	TCP_ESTABLISHED,
	TCP_OPENED_IN,
	TCP_SYN_IN,
	TCP_SYN_OUT,
	UDP_NEW,
	UDP_OPEN,
} from "../../src/conntrack/states.ts";
import { EXPIRE_BUDGET } from "../../src/nat/admission.ts";
import { swap32 } from "../../src/packet/layout.ts";
import { seededRandom } from "./mutation.ts";
import { Rig, type RigOptions } from "./rig.ts";
import { type Frame, other, query, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const E1 = "203.0.113.50";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const H3 = "192.168.1.30";
const S1 = "203.0.113.10";
const SESSIONS = 1024;

/** Spoofed peers, each another. */
const stranger = (n: number) => `198.${18 + (n >> 14)}.${(n >> 7) & 127}.${1 + (n & 127)}`;
const udpForward: RigOptions = { sessions: SESSIONS, forwards: [{ protocol: 17, first: 5000, internal: H1 }] };
const tcpForward: RigOptions = { sessions: SESSIONS, forwards: [{ protocol: 6, first: 5000, internal: H1 }] };
const isStatic: RigOptions = { sessions: SESSIONS, statics: [{ internal: H1, external: E1 }] };
const console_: RigOptions = { sessions: SESSIONS, filtering: "eif" };

/** How strangers can make sessions of H1: the configuration, what H1 does first, and a stranger's packet. */
const DOORS: [string, RigOptions, Frame[], (n: number) => Frame][] = [
	["UDP to a forward", udpForward, [], (n) => udp(`${stranger(n)}:7`, `${X}:5000`)],
	["a SYN to a forward", tcpForward, [], (n) => tcp(`${stranger(n)}:7`, `${X}:5000`, { flags: "S" })],
	["UDP to a static host", isStatic, [], (n) => udp(`${stranger(n)}:7`, `${E1}:5000`)],
	["TCP to a static host", isStatic, [], (n) => tcp(`${stranger(n)}:7`, `${E1}:80`, { flags: "S" })],
	["pings of a static host", isStatic, [], (n) => query(stranger(n), E1, 7)],
	["GRE to a static host", isStatic, [], (n) => other(stranger(n), E1, 47)],
	[
		"SCTP to a static host",
		isStatic,
		[],
		(n) => other(stranger(n), E1, 132, { payload: Uint8Array.from([0, 7, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4]) }),
	],
	["UDP to an open mapping", console_, [udp(`${H1}:40000`, `${S1}:9`)], (n) => udp(`${stranger(n)}:7`, `${X}:40000`)],
];

/** A bench on which H1 has been heard. */
function rigOf(options: RigOptions): Rig {
	const rig = new Rig(options);
	rig.toWan(udp(`${H1}:1`, `${S1}:53`));
	return rig;
}

/** Answered sessions of a host. */
function answered(rig: Rig, host: string, count: number, first = 1024): void {
	for (let n = first; n < first + count; n++) {
		const p = rig.toWan(udp(`${host}:${n}`, `${S1}:9`));
		rig.toLan(udp(`${S1}:9`, `${p.source}:${p.sourcePort}`));
	}
}

/** A TCP connection that both sides have closed. */
function closed(rig: Rig, host: string, port: number): void {
	const p = rig.toWan(tcp(`${host}:${port}`, `${S1}:80`, { flags: "S" }));
	rig.toLan(tcp(`${S1}:80`, `${X}:${p.sourcePort}`, { flags: "SA" }));
	for (const flags of ["A", "FA"]) rig.toWan(tcp(`${host}:${port}`, `${S1}:80`, { flags }));
	rig.toLan(tcp(`${S1}:80`, `${X}:${p.sourcePort}`, { flags: "FA" }));
}

const count = (rig: Rig, text: string) => rig.flows().filter((line) => line.includes(text)).length;

describe("S13: what strangers open", () => {
	for (const [name, options, before, packet] of DOORS) {
		it(`${name}: a flood takes neither the host's sessions nor anybody else's`, () => {
			const rig = rigOf(options);
			for (const frame of before) rig.toWan(frame);
			for (const host of ["192.168.1.40", "192.168.1.41", "192.168.1.42"]) answered(rig, host, 1);
			for (let n = 0; n < 2000; n++) rig.in(packet(n));
			expect(rig.table.available).toBeGreaterThan(SESSIONS * 0.7);
			rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
			answered(rig, H2, 256);
			answered(rig, H1, 200);
			rig.verify();
		});

		it(`${name}: unanswered it waits for a minute only, answered it is a session as any other`, () => {
			const rig = rigOf(options);
			for (const frame of before) rig.toWan(frame);
			const kept = rig.flows().length;
			rig.toLan(packet(1));
			const tcpLike = name.includes("SYN") || name.includes("TCP") || name.includes("SCTP");
			if (tcpLike) return;
			rig.pass(62);
			expect(rig.flows()).toHaveLength(kept);
			const there = rig.toLan(packet(1));
			if (there.protocol === 17) rig.toWan(udp(`${there.destination}:${there.destinationPort}`, `${there.source}:${there.sourcePort}`));
			else if (there.protocol === 1) rig.toWan(query(H1, there.source, there.identifier, { type: 0 }));
			else rig.toWan(other(H1, there.source, there.protocol));
			rig.pass(59);
			expect(rig.flows()).toHaveLength(kept + 1);
			rig.verify();
		});
	}

	it("a server that is asked while a flood goes on answers as ever", () => {
		const rig = rigOf(udpForward);
		for (let n = 0; n < 3000; n++) {
			rig.in(udp(`${stranger(n)}:7`, `${X}:5000`));
			if (n % 100 !== 0) continue;
			rig.toLan(udp(`203.0.113.77:${1000 + n}`, `${X}:5000`));
			rig.toWan(udp(`${H1}:5000`, `203.0.113.77:${1000 + n}`));
		}
		for (let n = 0; n < 3000; n += 100) rig.toLan(udp(`203.0.113.77:${1000 + n}`, `${X}:5000`));
		rig.verify();
	});

	it("a SYN/ACK to a forged SYN does not make the session live; the acknowledgment from outside does", () => {
		const rig = rigOf(tcpForward);
		for (let n = 0; n < 1500; n++) {
			if (rig.in(tcp(`${stranger(n)}:7`, `${X}:5000`, { flags: "S" })).lan[0].length === 1)
				rig.toWan(tcp(`${H1}:5000`, `${stranger(n)}:7`, { flags: "SA" }));
		}
		expect(rig.table.available).toBeGreaterThan(SESSIONS * 0.7);
		rig.toLan(tcp(`203.0.113.77:9`, `${X}:5000`, { flags: "S" }));
		rig.toWan(tcp(`${H1}:5000`, "203.0.113.77:9", { flags: "SA" }));
		rig.toLan(tcp(`203.0.113.77:9`, `${X}:5000`, { flags: "A" }));
		for (let n = 1500; n < 3000; n++) {
			rig.in(tcp(`${stranger(n)}:7`, `${X}:5000`, { flags: "S" }));
		}
		expect(count(rig, "203.0.113.77:9 established")).toBe(1);
		rig.verify();
	});

	it("they never displace what the inside has opened, and make way for it in a full table", () => {
		const rig = rigOf(udpForward);
		for (let n = 0; n < 100; n++) rig.toLan(udp(`${stranger(n)}:7`, `${X}:5000`));
		for (let n = 0; rig.table.count(FREE) > 0; n++) answered(rig, `192.168.1.${100 + (n >> 4)}`, 1, 1024 + n);
		for (let n = 200; n < 300; n++) rig.in(udp(`${stranger(n)}:7`, `${X}:5000`));
		expect(count(rig, `${H1}:5000 `)).toBe(100);
		for (let n = 0; n < 16; n++) rig.toWan(udp(`${H3}:${1024 + n}`, `${S1}:9`));
		expect(count(rig, `${H1}:5000 `)).toBe(84);
		rig.verify();
	});

	it("make room for themselves where a host floods beyond its part, for a host that has little", () => {
		const rig = rigOf({ sessions: SESSIONS, filtering: "eif" });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		for (let n = 0; n < SESSIONS; n++) rig.out(udp(`${H3}:${1024 + n}`, `${S1}:9`));
		for (let n = 0; n < 256; n++) rig.out(udp(`192.168.1.${100 + (n >> 4)}:${1024 + n}`, `${S1}:9`));
		expect(rig.table.count(FREE)).toBe(0);
		for (let n = 0; n < 50; n++) rig.toLan(udp(`${stranger(n)}:7`, `${X}:40000`));
		rig.verify();
	});

	it("do not use up the rate at which the host may open sessions", () => {
		const rig = rigOf({ ...udpForward, hosts: [{ address: H1, maxRate: 5 }] });
		for (let n = 0; n < 50; n++) rig.toLan(udp(`${stranger(n)}:7`, `${X}:5000`));
		rig.pass(1);
		for (let n = 0; n < 5; n++) rig.toWan(udp(`${H1}:${1024 + n}`, `${S1}:9`));
		expect(rig.out(udp(`${H1}:2000`, `${S1}:9`)).drops).toEqual(["host-rate"]);
	});
});

describe("S24: a host's own finished sessions", () => {
	it("make room for it first, and nobody is refused while he has some", () => {
		const rig = new Rig({ sessions: SESSIONS });
		answered(rig, H2, 1);
		for (let n = 0; n < 2000; n++) closed(rig, H1, 1024 + n);
		expect(count(rig, `udp ${H2}:`)).toBe(1);
		rig.verify();
	});

	it("go before those of others, however old these are", () => {
		const rig = new Rig({ sessions: SESSIONS });
		for (let n = 0; n < 150; n++) closed(rig, H2, 1024 + n);
		for (let n = 0; n < 60; n++) closed(rig, H1, 1024 + n);
		for (let n = 0; rig.table.count(FREE) > 0; n++) answered(rig, `192.168.1.${100 + (n >> 4)}`, 1, 1024 + n);
		for (let n = 0; n < 60; n++) rig.toWan(udp(`${H1}:${5000 + n}`, `${S1}:9`));
		expect([count(rig, `tcp ${H1}:`), count(rig, `tcp ${H2}:`)]).toEqual([0, 150]);
		rig.verify();
	});

	it("make room under its own limit too", () => {
		const rig = new Rig({ sessions: SESSIONS, hosts: [{ address: H1, maxSessions: 20 }] });
		for (let n = 0; n < 100; n++) closed(rig, H1, 1024 + n);
		answered(rig, H1, 20, 5000);
		expect(rig.out(udp(`${H1}:9000`, `${S1}:9`)).drops).toEqual(["host-limit"]);
	});
});

describe("S25: expiry", () => {
	it("600 questions a second of one resolver: none is refused", () => {
		const rig = new Rig({ sessions: 4096 });
		answered(rig, H2, 1);
		for (let k = 0; k < 600 * 12; k++) {
			if (k % 600 === 0) rig.at(rig.context.now + 1);
			const p = rig.toWan(udp(`${H1}:${1024 + (k % 60_000)}`, `${S1}:53`));
			rig.toLan(udp(`${S1}:53`, `${X}:${p.sourcePort}`));
			// One turn of the loop.
			rig.admission.expire(EXPIRE_BUDGET);
		}
		expect(rig.table.used).toBeLessThan(600 * 5);
		rig.verify();
	});

	it("what is due refuses nobody, also before a turn has come to it", () => {
		for (const hosts of [1, 4]) {
			const rig = new Rig({ sessions: 4096 });
			for (let n = 0; rig.table.available > 4096 * 0.19; n++) answered(rig, `192.168.1.${10 + (n % hosts)}`, 1, 1024 + n);
			rig.at(rig.context.now + 400);
			for (let n = 0; n < 50; n++) rig.toWan(udp(`${H1}:${60_000 + n}`, `${S1}:9`));
			rig.verify();
		}
	});

	it("a turn says whether it has left some", () => {
		const rig = new Rig({ sessions: SESSIONS });
		answered(rig, H1, EXPIRE_BUDGET + 1);
		rig.at(rig.context.now + 400);
		expect([rig.admission.expire(EXPIRE_BUDGET), rig.admission.overdue]).toEqual([EXPIRE_BUDGET, true]);
		expect([rig.admission.expire(EXPIRE_BUDGET), rig.admission.overdue]).toEqual([1, false]);
	});
});

describe("S26: filtering by address", () => {
	/** What is asked of the ring of a mapping's sessions. */
	function steps(rig: Rig): () => number {
		let n = 0;
		const { sibling } = rig.table;
		rig.table.sibling = (i) => {
			n++;
			return sibling.call(rig.table, i);
		};
		return () => n;
	}

	for (const [name, options] of [
		["address-dependent", { filtering: "adf" }],
		["TFTP", { policy: { algTftp: true } }],
	] as [string, RigOptions][]) {
		it(`${name}: an unsolicited packet to a mapping of 6,000 peers looks at none of them`, () => {
			const rig = new Rig({ sessions: 8192, ...options });
			for (let n = 0; n < 6000; n++) rig.toWan(udp(`${H1}:40000`, `${stranger(n)}:${n % 3 === 0 ? 69 : 6881}`));
			const walked = steps(rig);
			for (let n = 6000; n < 6500; n++) expect(rig.in(udp(`${stranger(n)}:6881`, `${X}:40000`)).drops).toEqual(["filtered"]);
			for (let n = 0; n < 300; n += 3) rig.toLan(udp(`${stranger(n)}:7000`, `${X}:40000`));
			expect(walked()).toBe(0);
			rig.verify();
		});
	}

	it("accepts who has been sent to and nobody else, whatever sessions come and go", () => {
		const rig = new Rig({ sessions: SESSIONS, filtering: "adf" });
		const random = seededRandom(26);
		const below = (n: number) => Math.floor(random() * n);
		const live = new Set<string>();
		const ports = [40000, 40001];
		for (let n = 0; n < 4000; n++) {
			const port = ports[below(2)];
			const peer = `${stranger(below(40))}:${1 + below(4)}`;
			if (below(3) > 0) {
				rig.toWan(udp(`${H1}:${port}`, peer));
				live.add(`${port} ${peer}`);
			} else if (live.size > 0) {
				const [key] = [...live].slice(below(live.size));
				const [internal, to] = key.split(" ");
				const i = rig.records().find((r) => rig.describe(r).includes(`${H1}:${internal} `) && rig.describe(r).includes(` ${to} `));
				if (i !== undefined) rig.admission.end(i, "flushed");
				live.delete(key);
			}
			if (n % 20 !== 0) continue;
			const address = stranger(below(40));
			const open = [...live].some((key) => key.startsWith(`${port} ${address}:`));
			const outcome = rig.in(udp(`${address}:9`, `${X}:${port}`));
			expect(outcome.lan[0].length).toBe(open ? 1 : 0);
			if (open) rig.admission.end(rig.records().find((r) => rig.describe(r).includes(` ${address}:9 `)) as number, "flushed");
			if (n % 200 === 0) rig.verify();
		}
	});
});

describe("S27: host records", () => {
	const wide: RigOptions = { sessions: SESSIONS, lan: [{ nets: ["192.168.0.0/16"], address: "192.168.1.1" }] };
	const forged = (n: number) => `192.168.${2 + (n >> 7)}.${1 + (n & 127)}`;

	for (const [name, frame] of [
		["UDP", (host: string) => udp(`${host}:5000`, `${S1}:9`)],
		["SYNs", (host: string) => tcp(`${host}:5000`, `${S1}:80`, { flags: "S" })],
		["pings", (host: string) => query(host, S1, 7)],
	] as [string, (host: string) => Frame][]) {
		it(`${name} from 10,000 forged addresses lock nobody out, neither old hosts nor new ones`, () => {
			const rig = new Rig(wide);
			answered(rig, H1, 100);
			for (let n = 0; n < 10_000; n++) {
				rig.out(frame(forged(n)));
				if (n % 500 === 0) answered(rig, H1, 5, 2000 + n);
				if (n % 1000 === 0) answered(rig, `192.168.1.${100 + n / 1000}`, 20, 3000 + n);
			}
			expect(count(rig, `udp ${H1}:`)).toBe(200);
			answered(rig, H2, 20);
			rig.verify();
		});
	}

	it("16 sessions from each of as many addresses as there are records leave a host its part", () => {
		const rig = new Rig(wide);
		answered(rig, H1, 100);
		for (let host = 0; host < 64; host++) for (let n = 0; n < 16; n++) rig.out(udp(`${forged(host)}:${1024 + n}`, `${S1}:9`));
		answered(rig, H1, 200, 2000);
		answered(rig, H2, 200);
		rig.verify();
	});

	it("65 honest hosts with a small table, answered all", () => {
		const rig = new Rig(wide);
		for (let host = 0; host < 65; host++) answered(rig, forged(host), 12);
		rig.verify();
	});

	it("a stranger's packet takes no record of a host that has opened something", () => {
		const rig = new Rig({ ...wide, forwards: [{ protocol: 17, first: 5000, internal: H1 }] });
		for (let n = 0; n < rig.hosts.capacity; n++) rig.toWan(udp(`${forged(n)}:5000`, `${S1}:9`));
		expect(rig.in(udp(`${stranger(1)}:7`, `${X}:5000`)).drops).toEqual(["table-full"]);
		rig.toWan(udp(`${H1}:5001`, `${S1}:9`));
		rig.verify();
	});
});

describe("S28: ports", () => {
	const few: RigOptions = { sessions: 4096, ranges: [{ first: 40_000, last: 40_999 }] };

	for (const [name, open, answer] of [
		["UDP", (h: string, n: number) => udp(`${h}:${n}`, `${S1}:9`), (p: number) => udp(`${S1}:9`, `${X}:${p}`)],
		[
			"TCP",
			(h: string, n: number) => tcp(`${h}:${n}`, `${S1}:9`, { flags: "S" }),
			(p: number) => tcp(`${S1}:9`, `${X}:${p}`, { flags: "SA" }),
		],
		["ICMP", (h: string, n: number) => query(h, S1, n), (p: number) => query(S1, X, p, { type: 0 })],
	] as [string, (h: string, n: number) => Frame, (p: number) => Frame][]) {
		it(`${name}: unanswered sessions give their ports to a host that has none`, () => {
			const rig = new Rig(few);
			for (let n = 0; n < 1200; n++) rig.out(open(H1, 1024 + n));
			for (let n = 0; n < 300; n++) {
				const p = rig.toWan(open(H2, 1024 + n));
				rig.toLan(answer(name === "ICMP" ? p.identifier : p.sourcePort));
			}
			rig.verify();
		});

		it(`${name}: one host's answered sessions leave others their part`, () => {
			const rig = new Rig(few);
			for (let n = 0; n < 1200; n++) {
				const outcome = rig.out(open(H1, 1024 + n));
				const [p] = outcome.wan;
				if (outcome.wan.length > 0) rig.toLan(answer(name === "ICMP" ? p.identifier : p.sourcePort));
				else expect(outcome.drops).toEqual(["ports-exhausted"]);
			}
			for (let n = 0; n < 100; n++) rig.toWan(open(H2, 1024 + n));
			for (let n = 0; n < 50; n++) rig.toWan(open(H3, 1024 + n));
			rig.verify();
		});
	}

	it("finished ones give theirs to the host itself", () => {
		const rig = new Rig({ sessions: 4096, ranges: [{ first: 40_000, last: 40_063 }] });
		for (let n = 0; n < 500; n++) closed(rig, H1, 1024 + n);
		answered(rig, H1, 50);
		rig.verify();
	});

	it("the peers of one mapping, however many have not answered, do not stand before other ports", () => {
		const rig = new Rig(few);
		for (let n = 0; n < 1000; n++) rig.toWan(udp(`${H3}:40000`, `${stranger(n)}:6881`));
		for (let n = 0; n < 1200; n++) rig.out(udp(`${H1}:${1024 + n}`, `${S1}:9`));
		for (let n = 0; n < 200; n++) rig.toWan(udp(`${H2}:${1024 + n}`, `${S1}:9`));
		expect(count(rig, `udp ${H3}:40000 `)).toBe(1000);
		rig.verify();
	});

	it("the longest rests end before a host that has less than its part is refused", () => {
		const rig = new Rig({ sessions: 4096, filtering: "eif", ranges: [{ first: 40_000, last: 40_063 }], timeouts: { udp: 120 } });
		for (let n = 0; n < 64; n++) rig.toWan(udp(`${H1}:${1024 + n}`, `${S1}:9`));
		rig.pass(122);
		expect(rig.resting()).toHaveLength(64);
		const [longest] = rig.resting().map((i) => rig.describe(i));
		for (let n = 0; n < 40; n++) rig.toWan(udp(`${H2}:${1024 + n}`, `${S1}:9`));
		expect(rig.resting()).toHaveLength(24);
		expect(rig.resting().map((i) => rig.describe(i))).not.toContain(longest);
		rig.verify();
	});
});

describe("S40g: counters", () => {
	it("go on beyond 2^32 packets and 2^46 bytes, through every state, a restart and an end", () => {
		let rig = new Rig({ sessions: SESSIONS });
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA" }));
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", ack: 1000 }));
		const [i] = rig.records();
		const [out, back] = rig.table.packets(i);
		const [bytesOut, bytesIn] = rig.table.bytes(i);
		rig.table.add(i, 0, 5 * 2 ** 32 + 3, 9 * 2 ** 46 + 11);
		rig.table.add(i, 1, 2 ** 31, 2 ** 30);
		const packets = [out + 5 * 2 ** 32 + 3, back + 2 ** 31];
		const bytes = [bytesOut + 9 * 2 ** 46 + 11, bytesIn + 2 ** 30];
		const same = (r: Rig, record: number) => {
			expect([r.table.packets(record), r.table.bytes(record)]).toEqual([packets, bytes]);
			r.verify();
		};
		same(rig, i);
		for (let n = 0; n < 3; n++) {
			rig = new Rig({ sessions: SESSIONS, from: { image: rig.image(), second: rig.context.now } });
			same(rig, rig.records()[0]);
			// Finished, and opened again.
			const [record] = rig.records();
			const hears = (flags: string) => {
				// After a restart it waits for the host's address.
				const outcome = rig.in(tcp(`${S1}:80`, `${X}:50000`, { flags, seq: 1000 }));
				packets[1]++;
				bytes[1] += [...outcome.lan[0], ...outcome.held][0].bytes.length;
				same(rig, record);
			};
			hears("R");
			expect(rig.state).toBe("reset");
			hears("A");
			expect(rig.state).toBe("established");
		}
		rig = new Rig({ sessions: 512, from: { image: rig.image(), second: rig.context.now } });
		const [record] = rig.records();
		same(rig, record);
		rig.admission.end(record, "flushed");
		expect([rig.table.packets(record), rig.table.bytes(record)]).toEqual([packets, bytes]);
		for (let n = 0; n < 512; n++) answered(rig, H1, 1, 1024 + n);
		for (const r of rig.records()) expect(rig.table.packets(r)).toEqual([1, 1]);
	});

	it("packet by packet", () => {
		const rig = new Rig({ sessions: SESSIONS });
		rig.toWan(udp(`${H1}:50000`, `${S1}:9`, { payload: 1000 }));
		rig.toLan(udp(`${S1}:9`, `${X}:50000`, { payload: 1000 }));
		const [i] = rig.records();
		for (const [k, value] of [2 ** 31 - 2, 2 ** 31 - 2].entries()) rig.table.T[(i << 4) + 11 + k] = value;
		for (let n = 0; n < 200; n++) {
			for (const k of [13, 14]) rig.table.T[(i << 4) + k] = 2 ** 30 - 500;
			const before = [...rig.table.packets(i), ...rig.table.bytes(i)];
			rig.toWan(udp(`${H1}:50000`, `${S1}:9`, { payload: 1000 }));
			rig.toLan(udp(`${S1}:9`, `${X}:50000`, { payload: 1000 }));
			expect([...rig.table.packets(i), ...rig.table.bytes(i)]).toEqual(before.map((v, k) => v + (k < 2 ? 1 : 1028)));
		}
		expect(rig.table.packets(i)[0]).toBe(2 ** 31 + 198);
	});
});

/** What carries the packets has seen the answers to all sessions, and says so when it is asked for one. */
function answeredElsewhere(rig: Rig): void {
	const states = new Map([
		[UDP_NEW, UDP_OPEN],
		[STRANGER, UDP_OPEN],
		[TCP_SYN_OUT, TCP_ESTABLISHED],
		[TCP_SYN_IN, TCP_ESTABLISHED],
		[TCP_OPENED_IN, TCP_ESTABLISHED],
	]);
	rig.table.hooks = {
		changed: () => {},
		ended: () => {},
		age: () => -1,
		sync: (i) => {
			const state = rig.table.state(i);
			if (state === ICMP_QUERY) return rig.table.answer(i);
			const next = states.get(state);
			if (next !== undefined) rig.table.setState(i, next, rig.context.now & 0xffff);
			return next !== undefined;
		},
		// It had looked a moment ago.
		syncAll: () => {},
		countSome: () => true,
	};
}

describe("a session whose answer only the faster way has seen is answered", () => {
	const OPENED: [string, (n: number) => Frame][] = [
		["UDP", (n) => udp(`${H1}:${1024 + n}`, `${S1}:9`)],
		["TCP", (n) => tcp(`${H1}:${1024 + n}`, `${S1}:80`, { flags: "S" })],
		["ICMP", (n) => query(H1, S1, n + 1)],
	];
	for (const [name, packet] of OPENED) {
		it(`${name}: it makes no room in a full table`, () => {
			const rig = new Rig({ sessions: 512 });
			for (let n = 0; n < 512; n++) rig.toWan(packet(n));
			answeredElsewhere(rig);
			const before = rig.records();
			for (let n = 0; n < 20; n++) {
				expect(rig.out(udp(`${H2}:${2000 + n}`, `${S1}:9`)).drops).toEqual(["table-full"]);
				expect(rig.out(tcp(`${H3}:${2000 + n}`, `${S1}:80`, { flags: "S" })).drops).toEqual(["table-full"]);
			}
			expect(rig.records()).toEqual(before);
			rig.verify();
		});
	}

	for (const [name, packet] of [
		["UDP", (n: number) => udp(`${stranger(n)}:7`, `${X}:5000`)],
		["TCP", (n: number) => tcp(`${stranger(n)}:7`, `${X}:5000`, { flags: "S" })],
	] as const) {
		it(`${name}: nor does one that a stranger opened and its host has answered`, () => {
			const options = name === "UDP" ? udpForward : tcpForward;
			const rig = rigOf({ ...options, sessions: 512 });
			for (let n = 0; n < 64; n++) rig.in(packet(n));
			const strangers = rig.records().length - 1;
			expect(strangers).toBeGreaterThan(10);
			for (let n = 0; rig.table.count(FREE) > 0; n++) answered(rig, `192.168.1.${100 + (n & 63)}`, 1, 1024 + n);
			answeredElsewhere(rig);
			const before = rig.records();
			for (let n = 0; n < 4; n++) expect(rig.out(udp(`${H1}:${2000 + n}`, `${S1}:9`)).wan).toEqual([]);
			expect(rig.records()).toEqual(before);
			rig.verify();
		});
	}

	it("nor does it give its port to another", () => {
		const rig = new Rig({ sessions: 2048, ranges: [{ first: 40000, last: 40063 }] });
		for (let n = 0; n < 64; n++) rig.out(udp(`${H1}:${40000 + n}`, `${S1}:9`));
		const before = rig.records();
		expect(before.length).toBe(64);
		answeredElsewhere(rig);
		rig.pass(3);
		expect(rig.out(udp(`${H2}:1`, `${S1}:9`)).wan).toEqual([]);
		expect(rig.records()).toEqual(before);
		rig.verify();
	});
});

it("an image whose large counters are damaged is read all the same", () => {
	const rig = new Rig({ sessions: SESSIONS });
	answered(rig, H1, 3);
	const image = rig.image();
	const { layout } = rig.table;
	new Int32Array(image, layout.large * 4, 128).forEach((_, n, all) => {
		all[n] = swap32(n * 77);
	});
	const next = new Rig({ sessions: SESSIONS, from: { image, second: rig.context.now } });
	expect(next.flows()).toEqual(rig.flows());
	next.verify();
});
