/**
 * Which external endpoint an internal endpoint gets, and who may answer to it: RFC 4787 sections 4 and 5, static NAT,
 * pools, forwards.
 */
import { describe, expect, it } from "vitest";
import { type FilteringName, Rig, type RigOptions } from "./rig.ts";
import { other, query, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const H3 = "192.168.1.30";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";
const S3 = "203.0.113.30";
const ALL = [{ first: 1, last: 65535 }];

const udpPort = (rig: Rig, from: string, to: string) => rig.toWan(udp(from, to)).sourcePort;
const tcpPort = (rig: Rig, from: string, to: string) => rig.toWan(tcp(from, to, { flags: "S" })).sourcePort;
const protocols: [string, (rig: Rig, from: string, to: string) => number][] = [
	["UDP", udpPort],
	["TCP", tcpPort],
];

describe("endpoint-independent mapping", () => {
	for (const [name, port] of protocols) {
		it(`U-1, T-1 (${name}): one external port for all destinations`, () => {
			const rig = new Rig();
			const p = port(rig, `${H1}:40000`, `${S1}:3478`);
			expect(port(rig, `${H1}:40000`, `${S2}:3478`)).toBe(p);
			expect(port(rig, `${H1}:40000`, `${S1}:3479`)).toBe(p);
			rig.verify();
		});

		it(`U-1b, T-7 (${name}): also under contention`, () => {
			const rig = new Rig();
			const p1 = port(rig, `${H1}:40000`, `${S1}:80`);
			const p3 = port(rig, `${H3}:40000`, `${S2}:80`);
			expect(p3).not.toBe(p1);
			expect(port(rig, `${H1}:40000`, `${S2}:80`)).toBe(p1);
			expect(port(rig, `${H3}:40000`, `${S1}:80`)).toBe(p3);
			rig.verify();
		});
	}

	it("U-1c: also when the session that made the mapping has ended", () => {
		const rig = new Rig();
		const p1 = udpPort(rig, `${H1}:40000`, `${S1}:3478`);
		const p3 = udpPort(rig, `${H3}:40000`, `${S1}:3478`);
		for (let second = 0; second < 600; second += 100) {
			rig.pass(100);
			expect(udpPort(rig, `${H3}:40000`, `${S2}:3478`)).toBe(p3);
		}
		expect(rig.flows()).toEqual([`udp ${H3}:40000 ${X}:${p3} ${S2}:3478 new`]);
		expect(udpPort(rig, `${H3}:40000`, `${S1}:3478`)).toBe(p3);
		expect(p1).toBe(40000);
		rig.verify();
	});

	it("U-1c: whichever sessions of a mapping end, in any order", () => {
		const rig = new Rig();
		const p = udpPort(rig, `${H1}:50000`, `${S1}:1`);
		for (let n = 0; n < 300; n++) {
			rig.pass(rig.random() & 63);
			expect(udpPort(rig, `${H1}:50000`, `${S1}:${1 + ((rig.random() >>> 0) % 12)}`)).toBe(p);
			rig.verify();
		}
	});

	it("U-3: 300 hosts with one source port get 300 external ports", () => {
		for (const [, port] of protocols) {
			const rig = new Rig({ sessions: 8192, lan: [{ nets: ["10.0.0.0/8"] }] });
			const given = new Set<number>();
			for (let n = 0; n < 300; n++) given.add(port(rig, `10.0.${n >> 7}.${1 + (n & 127)}:40000`, `${S1}:443`));
			expect(given.size).toBe(300);
			rig.verify();
		}
	});

	it("N-5: TCP, UDP and ICMP have ports of their own", () => {
		const rig = new Rig();
		expect(udpPort(rig, `${H1}:40000`, `${S1}:9`)).toBe(40000);
		expect(tcpPort(rig, `${H2}:40000`, `${S1}:9`)).toBe(40000);
		expect(rig.toWan(query(H3, S1, 40000)).identifier).toBe(40000);
		rig.verify();
	});
});

describe("choice of the port", () => {
	it("keeps the port while it is free, and again when it has become free", () => {
		const rig = new Rig();
		expect(udpPort(rig, `${H1}:40000`, `${S1}:9`)).toBe(40000);
		expect(udpPort(rig, `${H2}:40000`, `${S1}:9`)).not.toBe(40000);
		rig.pass(400);
		expect(rig.flows()).toEqual([]);
		expect(udpPort(rig, `${H3}:40000`, `${S1}:9`)).toBe(40000);
		rig.verify();
	});

	it("U-3a: well-known ports stay below 1024, others stay above", () => {
		const rig = new Rig({ ranges: ALL });
		for (const port of [53, 500, 700, 1023]) {
			expect(udpPort(rig, `${H1}:${port}`, `${S1}:9`)).toBe(port);
			const second = udpPort(rig, `${H2}:${port}`, `${S1}:9`);
			expect(second).not.toBe(port);
			expect(second).toBeLessThan(1024);
		}
		for (const port of [1024, 5060, 65535]) {
			expect(udpPort(rig, `${H1}:${port}`, `${S1}:9`)).toBe(port);
			expect(udpPort(rig, `${H2}:${port}`, `${S1}:9`)).toBeGreaterThanOrEqual(1024);
		}
		rig.verify();
	});

	it("U-4: parity is kept, 40 of 40", () => {
		const rig = new Rig();
		for (let port = 40000; port < 40040; port++) udpPort(rig, `${H1}:${port}`, `${S1}:9`);
		for (let port = 40000; port < 40040; port++) {
			const given = udpPort(rig, `${H2}:${port}`, `${S1}:9`);
			expect(given & 1).toBe(port & 1);
		}
		rig.verify();
	});

	it("N-9: 200 collisions are spread over the range, with no constant step", () => {
		const rig = new Rig();
		const given: number[] = [];
		for (let n = 0; n < 200; n++) {
			udpPort(rig, `${H1}:${40000 + n}`, `${S1}:9`);
			given.push(udpPort(rig, `${H2}:${40000 + n}`, `${S1}:9`));
		}
		expect(new Set(given.map((p) => p >> 12)).size).toBeGreaterThanOrEqual(7);
		expect(new Set(given.slice(1).map((p, n) => p - given[n])).size).toBeGreaterThan(180);
	});

	it("C-13: every port of the range is given before one is refused, then ICMP 3/1", () => {
		const rig = new Rig({ ranges: [{ first: 50000, last: 50299 }] });
		const given = new Set<number>();
		const opens = (host: string, port: number) => {
			const external = udpPort(rig, `${host}:${port}`, `${S1}:9`);
			given.add(external);
			rig.toLan(udp(`${S1}:9`, `${X}:${external}`));
		};
		for (let n = 0; n < 150; n++) opens(H1, 1024 + n);
		for (let n = 0; n < 150; n++) opens(H2, 1024 + n);
		expect(given.size).toBe(300);
		const outcome = rig.out(udp(`${H2}:2000`, `${S1}:9`));
		expect(outcome.drops).toEqual(["ports-exhausted"]);
		expect(outcome.lan[0].map((p) => p.line)).toEqual([`icmp 3/1 192.168.1.1 > ${H2} about udp ${H2}:2000 > ${S1}:9`]);
		expect(rig.flows()).toHaveLength(300);
		expect(tcpPort(rig, `${H2}:2000`, `${S1}:9`)).toBeGreaterThanOrEqual(50000);
		rig.verify();
		rig.pass(400);
		expect(rig.externals.portCount(0, 17)).toEqual([300, 300]);
		rig.verify();
	});

	it("several ranges, with gaps", () => {
		const rig = new Rig({
			ranges: [
				{ first: 40000, last: 40009 },
				{ first: 50001, last: 50005 },
			],
		});
		const given: number[] = [];
		for (let n = 0; n < 15; n++) given.push(udpPort(rig, `${H1}:${1024 + n}`, `${S1}:9`));
		given.sort((a, b) => a - b);
		expect(given).toEqual([40000, 40001, 40002, 40003, 40004, 40005, 40006, 40007, 40008, 40009, 50001, 50002, 50003, 50004, 50005]);
		rig.verify();
	});
});

describe("filtering", () => {
	const rows: [FilteringName, boolean[]][] = [
		["eif", [true, true, true]],
		["adf", [true, true, false]],
		["apdf", [true, false, false]],
	];
	for (const [filtering, expected] of rows) {
		it(`U-8: ${filtering}, for all hosts or for one of them`, () => {
			for (const o of [
				{ filtering },
				{ filtering: filtering === "apdf" ? "eif" : "apdf", hosts: [{ address: H1, filtering }] },
			] as RigOptions[]) {
				const rig = new Rig(o);
				rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
				const got = [`${S1}:3478`, `${S1}:9999`, `${S3}:9999`].map((peer) => {
					const outcome = rig.in(udp(peer, `${X}:40000`));
					if (outcome.lan[0].length === 0) expect(outcome.drops).toEqual(["filtered"]);
					else expect(outcome.lan[0][0].line).toBe(`udp ${peer} > ${H1}:40000`);
					return outcome.lan[0].length === 1;
				});
				expect(got).toEqual(expected);
				rig.verify();
			}
		});
	}

	it("T-3: for TCP only a SYN may use it", () => {
		const rig = new Rig({ filtering: "eif" });
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		expect(rig.in(tcp(`${S3}:9`, `${X}:50000`, { flags: "A" })).drops).toEqual(["tcp-no-session"]);
		expect(rig.toLan(tcp(`${S3}:9`, `${X}:50000`, { flags: "S" })).line).toBe(`tcp ${S3}:9 > ${H1}:50000 S`);
		rig.verify();
	});

	it("N-6: a mapping of TCP lets no UDP in", () => {
		const rig = new Rig({ filtering: "eif" });
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		expect(rig.in(udp(`${S1}:80`, `${X}:50000`)).drops).toEqual(["no-mapping"]);
	});

	it("ends with the mapping", () => {
		const rig = new Rig({ filtering: "eif" });
		rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
		rig.pass(302);
		expect(rig.in(udp(`${S3}:9`, `${X}:40000`)).drops).toEqual(["no-mapping"]);
	});

	it("F-5: what is not wanted makes no state", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
		for (let n = 0; n < 2000; n++) {
			const port = 32768 + ((rig.random() >>> 0) % 32768);
			rig.in(n & 1 ? udp(`${S2}:${1 + n}`, `${X}:${port}`) : tcp(`${S2}:${1 + n}`, `${X}:${port}`, { flags: "S" }));
		}
		expect(rig.flows()).toHaveLength(1);
		rig.verify();
	});

	it("a port outside the range is the router's own", () => {
		const rig = new Rig();
		expect(rig.in(tcp(`${S1}:5000`, `${X}:22`, { flags: "S" })).left).toBe(1);
		expect(rig.in(udp(`${S1}:53`, `${X}:1053`)).left).toBe(1);
		expect(rig.in(udp(`${S1}:53`, `${X}:40000`)).drops).toEqual(["no-mapping"]);
	});
});

describe("port forwards", () => {
	it("one port to another, TCP and not UDP, and the answer leaves from the forwarded port", () => {
		const rig = new Rig({ forwards: [{ protocol: 6, first: 2222, internal: H2, internalFirst: 22 }] });
		rig.hops.answersInternal = true;
		expect(rig.toLan(tcp(`${S1}:5000`, `${X}:2222`, { flags: "S" })).line).toBe(`tcp ${S1}:5000 > ${H2}:22 S`);
		expect(rig.toWan(tcp(`${H2}:22`, `${S1}:5000`, { flags: "SA" })).line).toBe(`tcp ${X}:2222 > ${S1}:5000 SA`);
		expect(rig.in(udp(`${S1}:5000`, `${X}:2222`)).left).toBe(1);
		rig.verify();
	});

	it("ranges, shifted", () => {
		const rig = new Rig({ forwards: [{ protocol: 17, first: 5000, last: 5009, internal: H2, internalFirst: 7000 }] });
		rig.hops.answersInternal = true;
		expect(rig.toLan(udp(`${S1}:1`, `${X}:5000`)).line).toBe(`udp ${S1}:1 > ${H2}:7000`);
		expect(rig.toLan(udp(`${S1}:1`, `${X}:5009`)).line).toBe(`udp ${S1}:1 > ${H2}:7009`);
		expect(rig.in(udp(`${S1}:1`, `${X}:5010`)).left).toBe(1);
		expect(rig.in(udp(`${S1}:1`, `${X}:4999`)).left).toBe(1);
		expect(rig.toWan(udp(`${H2}:7009`, `${S1}:1`)).sourcePort).toBe(5009);
		rig.verify();
	});

	it("only from the given source", () => {
		for (const port of [40000, 2222]) {
			const rig = new Rig({ forwards: [{ protocol: 17, first: port, internal: H2, source: "203.0.113.0/28" }] });
			rig.hops.answersInternal = true;
			expect(rig.in(udp("203.0.113.20:1", `${X}:${port}`)).drops).toEqual(["filtered"]);
			expect(rig.toLan(udp("203.0.113.10:1", `${X}:${port}`)).destination).toBe(H2);
			expect(rig.in(udp("203.0.113.20:1", `${X}:${port}`)).drops).toEqual(["filtered"]);
		}
	});

	it("its port is never given to another host, nor after its sessions ended", () => {
		const rig = new Rig({ forwards: [{ protocol: 17, first: 40000, internal: H2 }] });
		rig.hops.answersInternal = true;
		expect(udpPort(rig, `${H1}:40000`, `${S1}:9`)).not.toBe(40000);
		rig.toLan(udp(`${S1}:1`, `${X}:40000`));
		rig.verify();
		rig.pass(400);
		expect(udpPort(rig, `${H3}:40000`, `${S1}:9`)).not.toBe(40000);
		rig.verify();
	});

	it("a segment that is not a SYN does not open it", () => {
		const rig = new Rig({ forwards: [{ protocol: 6, first: 2222, internal: H2 }] });
		for (const flags of ["A", "SA", "R", "FA"]) expect(rig.in(tcp(`${S1}:5000`, `${X}:2222`, { flags })).drops).toEqual(["tcp-no-session"]);
		expect(rig.flows()).toEqual([]);
		rig.verify();
	});

	it("one hop left: dropped and answered, and no session is left of it", () => {
		const rig = new Rig({ forwards: [{ protocol: 17, first: 5000, internal: H2 }] });
		const outcome = rig.in(udp(`${S1}:1`, `${X}:5000`, { ttl: 1 }));
		expect(outcome.drops).toEqual(["ttl-expired"]);
		expect(outcome.wan.map((p) => p.line)).toEqual([`icmp 11/0 ${X} > ${S1} about udp ${S1}:1 > ${X}:5000`]);
		expect(rig.flows()).toEqual([]);
		rig.verify();
	});
});

describe("static NAT", () => {
	const statics = [{ internal: H1, external: "203.0.113.100" }];

	it("every port and identifier is kept, both ways, opened from either side", () => {
		const rig = new Rig({ statics });
		rig.hops.answersInternal = true;
		expect(rig.toWan(udp(`${H1}:53`, `${S1}:9`)).line).toBe(`udp 203.0.113.100:53 > ${S1}:9`);
		expect(rig.toLan(udp(`${S2}:9`, "203.0.113.100:123")).line).toBe(`udp ${S2}:9 > ${H1}:123`);
		expect(rig.toLan(tcp(`${S2}:9`, "203.0.113.100:22", { flags: "S" })).line).toBe(`tcp ${S2}:9 > ${H1}:22 S`);
		expect(rig.toWan(query(H1, S1, 5)).line).toBe(`icmp 8/0 203.0.113.100 > ${S1} id 5`);
		expect(rig.toLan(query(S1, "203.0.113.100", 6)).line).toBe(`icmp 8/0 ${S1} > ${H1} id 6`);
		expect(rig.toWan(query(H1, S1, 6, { type: 0 })).line).toBe(`icmp 0/0 203.0.113.100 > ${S1} id 6`);
		expect(rig.toLan(other(S1, "203.0.113.100", 47)).line).toBe(`proto 47 ${S1} > ${H1}`);
		rig.verify();
	});

	it("other hosts keep sharing the WAN's address", () => {
		const rig = new Rig({ statics });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		expect(rig.toWan(udp(`${H2}:40000`, `${S1}:9`)).line).toBe(`udp ${X}:40000 > ${S1}:9`);
		expect(rig.in(udp(`${S1}:9`, "203.0.113.101:40000")).drops).toEqual(["not-ours"]);
		rig.verify();
	});
});

describe("dynamic pools", () => {
	const pool = (overload: boolean): RigOptions => ({
		pools: [{ nets: ["192.168.1.0/24"], externals: ["203.0.113.16", "203.0.113.17"], overload }],
	});

	it("U-2: all sessions of a host use one address", () => {
		const rig = new Rig(pool(false));
		for (let n = 0; n < 20; n++) {
			expect(rig.toWan(udp(`${H1}:${1024 + n}`, `${S1}:${1 + n}`)).source).toBe("203.0.113.16");
			expect(rig.toWan(tcp(`${H2}:${1024 + n}`, `${S1}:${1 + n}`, { flags: "S" })).source).toBe("203.0.113.17");
		}
		expect(rig.toWan(query(H1, S1, 1)).source).toBe("203.0.113.16");
		rig.verify();
	});

	it("N-4: without overload the third host is refused with ICMP 3/1 until an address is free", () => {
		const rig = new Rig(pool(false));
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.pass(10);
		rig.toWan(udp(`${H2}:40000`, `${S1}:9`));
		const outcome = rig.out(udp(`${H3}:40000`, `${S1}:9`));
		expect(outcome.drops).toEqual(["pool-exhausted"]);
		expect(outcome.lan[0][0].line).toBe(`icmp 3/1 192.168.1.1 > ${H3} about udp ${H3}:40000 > ${S1}:9`);
		rig.pass(292);
		expect(rig.toWan(udp(`${H3}:40000`, `${S1}:9`)).source).toBe("203.0.113.16");
		rig.verify();
	});

	it("with overload the last address is shared by ports (RFC 3022 5.4)", () => {
		const rig = new Rig(pool(true));
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:9`)).line).toBe(`udp 203.0.113.16:40000 > ${S1}:9`);
		expect(rig.toWan(udp(`${H2}:40000`, `${S1}:9`)).line).toBe(`udp 203.0.113.17:40000 > ${S1}:9`);
		const third = rig.toWan(udp(`${H3}:40000`, `${S1}:9`));
		expect(third.source).toBe("203.0.113.17");
		expect(third.sourcePort).not.toBe(40000);
		expect(rig.toLan(udp(`${S1}:9`, `203.0.113.17:${third.sourcePort}`)).line).toBe(`udp ${S1}:9 > ${H3}:40000`);
		rig.verify();
	});

	it("an address stays its host's while any session of it lives, those that were opened from outside too", () => {
		const rig = new Rig({ ...pool(false), filtering: "eif", timeouts: { udp: 100 } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.toLan(udp(`${S2}:7`, "203.0.113.16:40000"));
		rig.toWan(udp(`${H2}:40000`, `${S1}:9`));
		rig.pass(60);
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.toWan(udp(`${H2}:40000`, `${S1}:9`));
		rig.pass(60);
		expect(rig.flows()).toHaveLength(2);
		expect(rig.out(udp(`${H3}:40000`, `${S1}:8`)).drops).toEqual(["pool-exhausted"]);
		rig.verify();
		rig.pass(200);
		expect(rig.toWan(udp(`${H3}:40000`, `${S1}:8`)).source).toBe("203.0.113.16");
	});
});

describe("protocols without ports", () => {
	it("D-u: one host per peer and protocol, a second is refused with ICMP 3/13", () => {
		const rig = new Rig();
		expect(rig.toWan(other(H1, S1, 47)).line).toBe(`proto 47 ${X} > ${S1}`);
		expect(rig.toWan(other(H1, S1, 50)).line).toBe(`proto 50 ${X} > ${S1}`);
		const outcome = rig.out(other(H2, S1, 47));
		expect(outcome.drops).toEqual(["protocol-busy"]);
		expect(outcome.lan[0][0].line).toBe(`icmp 3/13 192.168.1.1 > ${H2} about proto 47 ${H2} > ${S1}`);
		expect(rig.toWan(other(H2, S2, 47)).line).toBe(`proto 47 ${X} > ${S2}`);
		expect(rig.toLan(other(S1, X, 47)).line).toBe(`proto 47 ${S1} > ${H1}`);
		expect(rig.toLan(other(S2, X, 47)).line).toBe(`proto 47 ${S2} > ${H2}`);
		rig.verify();
	});

	it("unasked they are the router's own", () => {
		const rig = new Rig();
		expect(rig.in(other(S1, X, 41)).left).toBe(1);
	});
});

describe("no address, no route", () => {
	it("W-3: without a WAN address nothing goes out, ICMP 3/0 says so, and no state is made", () => {
		const rig = new Rig({ wan: { address: null } });
		for (const way of ["no-route", "gateway"] as const) {
			rig.hops.default = way;
			const outcome = rig.out(udp(`${H1}:40000`, `${S1}:9`));
			expect(outcome.drops).toEqual(["no-external-address"]);
			expect(outcome.lan[0][0].line).toBe(`icmp 3/0 192.168.1.1 > ${H1} about udp ${H1}:40000 > ${S1}:9`);
		}
		expect(rig.flows()).toEqual([]);
	});

	it("without a WAN address a packet to 0.0.0.0 is nobody's", () => {
		const rig = new Rig({ wan: { address: null } });
		expect(rig.in(udp(`${S1}:9`, "0.0.0.0:40000")).drops).toEqual(["not-ours"]);
		expect(rig.in(tcp(`${S1}:9`, "0.0.0.0:40000", { flags: "S" })).drops).toEqual(["not-ours"]);
		expect(rig.in(query(S1, "0.0.0.0", 1)).drops).toEqual(["not-ours"]);
	});

	it("R-5: no route is 3/0; a destination that is not beyond the WAN is left alone", () => {
		const rig = new Rig();
		rig.hops.ways.set(S1, "no-route");
		rig.hops.ways.set(S2, "elsewhere");
		const outcome = rig.out(udp(`${H1}:40000`, `${S1}:9`));
		expect(outcome.drops).toEqual(["no-route"]);
		expect(outcome.lan[0][0].line).toBe(`icmp 3/0 192.168.1.1 > ${H1} about udp ${H1}:40000 > ${S1}:9`);
		expect(rig.out(udp(`${H1}:40000`, `${S2}:9`)).drops).toEqual(["not-through-wan"]);
		expect(rig.flows()).toEqual([]);
	});
});
