/**
 * Packets of known sessions: addresses, ports, checksums, hop count, link headers, counters, both ways and between
 * ports of every kind.
 */
import { describe, expect, it } from "vitest";
import { R_BYTES_IN, R_BYTES_OUT } from "../../src/conntrack/record.ts";
import { GATEWAY_MAC, type LanOptions, macOf, Rig, type RigOptions, WAN_MAC } from "./rig.ts";
import { bent, type Frame, type FrameOptions, query, sum, tcp, udp } from "./rig-frame.ts";
import { rounds } from "./rounds.ts";

const H1 = "192.168.1.10";
const X = "203.0.113.1";
const S1 = "203.0.113.10";

/** Rig with a UDP session h1:40000 <-> s1:3478 and an established TCP session h1:50000 <-> s1:80. */
function withSessions(o: RigOptions = {}): Rig {
	const rig = new Rig(o);
	rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
	rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
	rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA", ack: 1001 }));
	rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A" }));
	return rig;
}

describe("UDP", () => {
	it("goes out from our address and comes back to the host", () => {
		const rig = new Rig();
		const out = rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
		expect(out.line).toBe(`udp ${X}:40000 > ${S1}:3478`);
		expect(out.ttl).toBe(63);
		const back = rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { ttl: 50 }));
		expect(back.line).toBe(`udp ${S1}:3478 > ${H1}:40000`);
		expect(back.ttl).toBe(49);
		rig.verify();
	});

	it("R-14 leaves DSCP, ECN, identification, DF, payload alone", () => {
		const rig = withSessions();
		for (const df of [true, false]) {
			const frame = udp(`${H1}:40000`, `${S1}:3478`, { tos: 0xb9, id: 0xbeef, df, payload: 333 });
			const p = rig.toWan(frame);
			// Without DF it is not atomic and gets an identification of ours (ID-1).
			expect([p.tos, p.id === 0xbeef, p.df]).toEqual([0xb9, df, df]);
			expect(p.payload).toEqual(frame.ip.slice(28));
		}
	});

	it("R-14 keeps a checksum of 0 both ways", () => {
		const rig = withSessions();
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { checksum: "zero" })).checksum).toBe(0);
		expect(rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { checksum: "zero" })).checksum).toBe(0);
	});

	it("keeps a checksum of 0 with a first packet and with IP options too", () => {
		const rig = new Rig();
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { checksum: "zero", ipOptions: [1, 1, 1, 1] })).checksum).toBe(0);
	});

	it("sends a computed checksum of 0 as all ones", () => {
		const rig = withSessions();
		for (const ipOptions of [[], [1, 1, 1, 0]]) {
			for (const inward of [false, true]) {
				// A payload that makes the sum of the translated packet come out as all ones.
				const make = (fill: number): Frame => {
					const payload = Uint8Array.from([1, 2, fill >> 8, fill & 255]);
					return inward
						? udp(`${S1}:3478`, `${X}:40000`, { payload, ipOptions })
						: udp(`${H1}:40000`, `${S1}:3478`, { payload, ipOptions });
				};
				const go = (f: Frame) => (inward ? rig.toLan(f) : rig.toWan(f));
				const fill = go(make(0)).checksum;
				const p = go(make(fill));
				expect(p.checksum).toBe(0xffff);
			}
		}
	});

	it("takes a checksum field of all ones as one", () => {
		const rig = withSessions();
		const probe = udp(`${H1}:40000`, `${S1}:3478`, { payload: Uint8Array.from([0, 0]) });
		const fill = probe.ip[26] * 256 + probe.ip[27];
		const frame = udp(`${H1}:40000`, `${S1}:3478`, { payload: Uint8Array.from([fill >> 8, fill & 255]) });
		expect(frame.ip[26] * 256 + frame.ip[27]).toBe(0xffff);
		expect(rig.toWan(frame).faults).toEqual([]);
	});
});

describe("TCP", () => {
	it("goes out and comes back", () => {
		const rig = withSessions();
		const out = rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "PA", seq: 0xfffffff0, ack: 7, payload: 100 }));
		expect(out.line).toBe(`tcp ${X}:50000 > ${S1}:80 PA`);
		expect([out.seq, out.ack, out.payload.length, out.ttl]).toEqual([0xfffffff0, 7, 100, 63]);
		expect(rig.toLan(tcp(`${S1}:80`, `${X}:50000`)).line).toBe(`tcp ${S1}:80 > ${H1}:50000 A`);
		rig.verify();
	});

	it("with options, urgent data and every flag combination of a live connection", () => {
		const rig = withSessions();
		for (const flags of ["A", "PA", "UA", "UPA"]) {
			const p = rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags, options: [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8] }));
			expect([...p.flags].sort()).toEqual([...flags].sort());
			expect(p.options).toEqual([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
		}
	});
});

describe("ICMP echo", () => {
	it("I-1 queries go out and replies come back with the identifier restored", () => {
		const rig = new Rig({ ranges: [{ first: 100, last: 65535 }] });
		const out = rig.toWan(query(H1, S1, 77, { seq: 9, payload: 56 }));
		expect(out.line).toMatch(/^icmp 8\/0 203\.0\.113\.1 > 203\.0\.113\.10 id \d+$/);
		expect(out.identifier).toBeGreaterThanOrEqual(100);
		expect([out.rest, out.ttl]).toEqual([9, 63]);
		const back = rig.toLan(query(S1, X, out.identifier, { type: 0, seq: 9, payload: 56 }));
		expect(back.line).toBe(`icmp 0/0 ${S1} > ${H1} id 77`);
		expect(rig.flows()).toHaveLength(1);
		rig.verify();
	});

	it("I-1 timestamp queries too", () => {
		const rig = new Rig();
		const out = rig.toWan(query(H1, S1, 40001, { type: 13 }));
		expect(out.identifier).toBe(40001);
		expect(rig.toLan(query(S1, X, 40001, { type: 14 })).line).toBe(`icmp 14/0 ${S1} > ${H1} id 40001`);
	});

	it("I-1a the external identifier does not depend on the destination, also under contention", () => {
		const rig = new Rig();
		const id = (host: string, peer: string) => rig.toWan(query(host, peer, 40077)).identifier;
		const first = id(H1, S1);
		const second = id("192.168.1.30", "203.0.113.20");
		expect(second).not.toBe(first);
		expect(id(H1, "203.0.113.20")).toBe(first);
		expect(id("192.168.1.30", S1)).toBe(second);
	});

	it("a query from outside to our address is the router's own, also from a peer that is being pinged with the same identifier", () => {
		const rig = new Rig();
		rig.toWan(query(H1, S1, 40001));
		const outcome = rig.in(query(S1, X, 40001));
		expect([outcome.left, outcome.lan[0].length]).toEqual([1, 0]);
	});

	it("I-11 other types with the identifier of a session do not pass", () => {
		const rig = new Rig();
		rig.toWan(query(H1, S1, 40001));
		for (const type of [1, 2, 6, 7, 9, 10, 15, 16, 17, 18, 30, 40, 253, 255]) {
			expect(rig.in(query(S1, X, 40001, { type })).lan[0]).toEqual([]);
			expect(rig.out(query(H1, S1, 40001, { type })).drops).toEqual(["icmp-unsupported"]);
		}
	});
});

describe("checksums", () => {
	const cases: [string, RigOptions][] = [
		["Ethernet to Ethernet", {}],
		["TUN to Ethernet", { lan: [{ tun: true }] }],
		["Ethernet to headerless", { wan: { ethernet: false } }],
		["TUN to headerless", { lan: [{ tun: true }], wan: { ethernet: false } }],
	];
	for (const [name, o] of cases) {
		it(`${name}: a partial checksum stays partial and right, its offsets fit the other port`, () => {
			const rig = withSessions(o);
			for (const extra of [{}, { ipOptions: [1, 1, 1, 0] }] as FrameOptions[]) {
				const start = extra.ipOptions ? 24 : 20;
				for (const frame of [
					udp(`${H1}:40000`, `${S1}:3478`, { checksum: "partial", ...extra }),
					tcp(`${H1}:50000`, `${S1}:80`, { checksum: "partial", ...extra }),
				]) {
					const p = rig.toWan(frame);
					expect(p.partial).toEqual({ start, offset: frame.ip[9] === 6 ? 16 : 6 });
				}
				for (const frame of [
					udp(`${S1}:3478`, `${X}:40000`, { checksum: "partial", ...extra }),
					tcp(`${S1}:80`, `${X}:50000`, { checksum: "partial", ...extra }),
				]) {
					const p = rig.toLan(frame);
					expect(p.partial).toEqual({ start, offset: frame.ip[9] === 6 ? 16 : 6 });
				}
			}
		});

		it(`${name}: GSO super-packets of 60 KB cross as one, header length and segment size kept`, () => {
			const rig = withSessions(o);
			const out = rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { gso: 1448, payload: 60_000, options: [1, 1, 1, 1] }));
			expect([out.gsoType, out.gsoSize, out.headers, out.payload.length]).toEqual([1, 1448, 44, 60_000]);
			const back = rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { gso: 1448, payload: 60_000 }));
			expect([back.gsoType, back.gsoSize, back.headers]).toEqual([1, 1448, 40]);
			const datagrams = rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { gso: 1200, payload: 12_000 }));
			expect([datagrams.gsoType, datagrams.gsoSize, datagrams.headers]).toEqual([5, 1200, 28]);
		});
	}

	it("a partial checksum of ICMP and of other protocols covers nothing that changes: the field stays as it is", () => {
		const rig = new Rig();
		rig.strict = false;
		const ping = query(H1, S1, 40001);
		const p = rig.toWan({ ...bent(ping, (ip) => ip.fill(0, 22, 24)), partial: { start: 20, offset: 2 } });
		expect([p.bytes[22], p.bytes[23]]).toEqual([0, 0]);
		expect(p.bytes.slice(26)).toEqual(ping.ip.slice(26));
	});

	it("a wrong checksum stays wrong by as much: nobody downstream takes damaged data for good", () => {
		const rig = withSessions();
		rig.strict = false;
		const frame = udp(`${H1}:40000`, `${S1}:3478`);
		frame.ip[39] ^= 1;
		expect(rig.out(frame).wan[0].faults).toEqual(["transport checksum"]);
	});

	it("20000 random packets come out with exactly the sums that computing from zero gives", () => {
		const rig = new Rig({ sessions: 4096, lan: [{ nets: ["10.0.0.0/8", "192.168.0.0/16"] }], seed: 77 });
		const below = (n: number) => (rig.random() >>> 0) % n;
		let different = 0;
		let n = 0;
		while (n < rounds(20_000)) {
			const host = below(2) ? `10.${below(256)}.${below(256)}.${1 + below(250)}` : `192.168.${below(256)}.${1 + below(250)}`;
			const peer = `${1 + below(126)}.${below(256)}.${below(256)}.${below(256)}`;
			if (peer.startsWith("10.")) continue;
			const [a, b] = [1 + below(65535), 1 + below(65535)];
			const payload = Uint8Array.from({ length: below(40) }, () => below(256));
			const o = { payload, tos: below(256), id: below(65536), ttl: 2 + below(254), df: below(2) === 1 };
			const isUdp = below(2) === 1;
			const out = rig.toWan(
				isUdp ? udp(`${host}:${a}`, `${peer}:${b}`, o) : tcp(`${host}:${a}`, `${peer}:${b}`, { ...o, flags: "S", seq: rig.random() >>> 0 }),
			);
			const x = `${X}:${out.sourcePort}`;
			const back = rig.toLan(isUdp ? udp(`${peer}:${b}`, x, o) : tcp(`${peer}:${b}`, x, { ...o, flags: "SA", seq: rig.random() >>> 0 }));
			for (const p of [out, back]) {
				// The fields themselves, not only their validity: 0 and all ones are the same sum.
				const bytes = p.bytes.slice();
				bytes.fill(0, 10, 12);
				if ((sum(bytes, 0, 20) ^ 0xffff) !== p.bytes[10] * 256 + p.bytes[11]) different++;
			}
			n += 2;
			if (n % 400 === 0) {
				rig.verify();
				rig.pass(1000);
			}
		}
		expect(different).toBe(0);
	});
});

describe("hop count", () => {
	it("R-1 falls by one on a port of ours, is the kernel's business behind TUN", () => {
		for (const [lan, out, back] of [
			[{}, 63, 63],
			[{ tun: true }, 64, 64],
		] as [LanOptions, number, number][]) {
			const rig = withSessions({ lan: [lan] });
			expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`)).ttl).toBe(out);
			expect(rig.toLan(udp(`${S1}:3478`, `${X}:40000`)).ttl).toBe(back);
			expect(rig.toWan(query(H1, S1, 7)).ttl).toBe(out);
			expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { ipOptions: [1] })).ttl).toBe(out);
		}
	});

	it("a packet from TUN with one hop left goes out: the kernel has counted it", () => {
		const rig = new Rig({ lan: [{ tun: true }] });
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { ttl: 1 })).ttl).toBe(1);
	});
});

describe("IPv4 options", () => {
	it("stay where they are, in both directions and for every protocol", () => {
		const rig = withSessions();
		const ipOptions = [7, 7, 4, 0, 0, 0, 0, 0];
		const out = rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { ipOptions }));
		expect([out.line, out.ipOptions]).toEqual([`udp ${X}:40000 > ${S1}:3478`, ipOptions]);
		const segment = rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { ipOptions }));
		expect([segment.line, segment.ipOptions]).toEqual([`tcp ${X}:50000 > ${S1}:80 A`, ipOptions]);
		const back = rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { ipOptions }));
		expect([back.line, back.ipOptions]).toEqual([`tcp ${S1}:80 > ${H1}:50000 A`, ipOptions]);
		expect(rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { ipOptions })).line).toBe(`udp ${S1}:3478 > ${H1}:40000`);
		expect(rig.toWan(query(H1, S1, 40007, { ipOptions })).line).toBe(`icmp 8/0 ${X} > ${S1} id 40007`);
		expect(rig.toLan(query(S1, X, 40007, { type: 0, ipOptions })).line).toBe(`icmp 0/0 ${S1} > ${H1} id 40007`);
	});
});

describe("link headers", () => {
	it("out: the next hop's and our own MAC; in: the host's, as its frames had it", () => {
		const rig = new Rig();
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`)).ether).toEqual({ to: GATEWAY_MAC, from: WAN_MAC, type: 0x800 });
		expect(rig.toLan(udp(`${S1}:3478`, `${X}:40000`)).ether).toEqual({ to: macOf(H1), from: "02:00:00:00:10:01", type: 0x800 });
		expect(rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { ipOptions: [1] })).ether?.to).toBe(macOf(H1));
	});

	it("two LAN ports: each reply goes to the port and MAC of its host, mixed in one batch", () => {
		const rig = new Rig({ lan: [{}, { tun: true }, {}] });
		const hosts: [string, number][] = [
			["192.168.1.10", 0],
			["192.168.2.10", 1],
			["192.168.3.10", 2],
		];
		for (const [host, port] of hosts)
			expect(rig.toWan(udp(`${host}:4000${port}`, `${S1}:3478`), port).line).toBe(`udp ${X}:4000${port} > ${S1}:3478`);
		const replies = [0, 2, 1, 1, 0, 2, 0, 1].map((port) => udp(`${S1}:3478`, `${X}:4000${port}`));
		const outcome = rig.in(replies);
		expect(outcome.lan.map((l) => l.length)).toEqual([3, 3, 2]);
		for (const [host, port] of hosts) {
			for (const p of outcome.lan[port]) {
				expect(p.line).toBe(`udp ${S1}:3478 > ${host}:4000${port}`);
				expect([p.ttl, p.ether?.to ?? null]).toEqual(port === 1 ? [64, null] : [63, macOf(host)]);
			}
		}
	});

	it("a frame whose next hop is not known waits translated; those around it go", () => {
		const rig = new Rig();
		rig.hops.ways.set("198.51.100.7", "unknown");
		const outcome = rig.out([
			udp(`${H1}:40000`, `${S1}:3478`),
			udp(`${H1}:40000`, "198.51.100.7:9"),
			udp(`${H1}:40000`, "198.51.100.7:9", { ipOptions: [1] }),
			udp(`${H1}:40000`, `${S1}:3479`),
		]);
		expect(outcome.held.map((p) => p.line)).toEqual([`udp ${X}:40000 > 198.51.100.7:9`, `udp ${X}:40000 > 198.51.100.7:9`]);
		expect(outcome.wan.map((p) => p.line)).toEqual([`udp ${X}:40000 > ${S1}:3478`, `udp ${X}:40000 > ${S1}:3479`]);
	});

	it("an inside host that was not heard yet: its frame waits, or goes at once if the kernel knows it, and none around it is lost", () => {
		const forwards = [{ protocol: 17, first: 5000, internal: "192.168.1.20" }];
		const batch = () => [
			udp(`${S1}:3478`, `${X}:40000`),
			udp(`${S1}:1`, `${X}:5000`),
			udp(`${S1}:3478`, `${X}:40000`),
			udp(`${S1}:2`, `${X}:5000`, { ipOptions: [1] }),
			udp(`${S1}:3478`, `${X}:40000`),
		];
		const first = withSessions({ forwards });
		const waited = first.in(batch());
		expect(waited.held.map((p) => p.line)).toEqual([`udp ${S1}:1 > 192.168.1.20:5000`, `udp ${S1}:2 > 192.168.1.20:5000`]);
		expect(waited.lan[0]).toHaveLength(3);
		const second = withSessions({ forwards });
		second.hops.answersInternal = true;
		const outcome = second.in(batch());
		expect(outcome.lan[0].map((p) => p.line)).toEqual([
			`udp ${S1}:3478 > ${H1}:40000`,
			`udp ${S1}:1 > 192.168.1.20:5000`,
			`udp ${S1}:3478 > ${H1}:40000`,
			`udp ${S1}:2 > 192.168.1.20:5000`,
			`udp ${S1}:3478 > ${H1}:40000`,
		]);
		expect(outcome.lan[0].map((p) => p.ether?.to)).toEqual([H1, "192.168.1.20", H1, "192.168.1.20", H1].map(macOf));
	});
});

describe("counters", () => {
	it("count packets and bytes of IPv4 in each direction, on the fast path and the slow one", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { payload: 100 }));
		rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { payload: 100, ipOptions: [1] }));
		rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { payload: 1000 }));
		rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { payload: 1000, ipOptions: [1] }));
		rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { payload: 0 }));
		expect(rig.counters).toEqual([2, 3, 128 + 132, 1028 + 1032 + 28]);
	});

	it("carry beyond 2^30 bytes", () => {
		for (const ipOptions of [[], [1]]) {
			const rig = new Rig();
			rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { payload: 72 }));
			rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { payload: 72 }));
			const [i] = rig.records();
			rig.table.T[(i << 4) + R_BYTES_OUT] = 0x3fffffff;
			rig.table.T[(i << 4) + R_BYTES_IN] = 0x3fffffff;
			rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { payload: 72, ipOptions }));
			rig.toLan(udp(`${S1}:3478`, `${X}:40000`, { payload: 72, ipOptions }));
			const length = 100 + (ipOptions.length > 0 ? 4 : 0);
			expect(rig.counters.slice(2)).toEqual([0x3fffffff + length, 0x3fffffff + length]);
		}
	});
});

describe("padding", () => {
	it("behind the packet (short Ethernet frames) is not sent on", () => {
		const rig = new Rig();
		const frame = udp(`${H1}:40000`, `${S1}:3478`, { payload: 2 });
		const padded = { ...frame, ip: Uint8Array.from([...frame.ip, ...new Array(16).fill(0)]) };
		expect(rig.toWan(padded).bytes).toHaveLength(30);
		expect(rig.toWan(padded).bytes).toHaveLength(30);
	});
});
