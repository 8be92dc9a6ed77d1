/**
 * ICMP errors: those in transit with the packet that they quote (RFC 5508), and those that the router sends itself (RFC
 * 1812, RFC 1191).
 */
import { describe, expect, it } from "vitest";
import { macOf, Rig, type RigOptions } from "./rig.ts";
import { bent, icmpError, other, type Packet, query, readPacket, sum, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const S1 = "203.0.113.10";
const R = "203.0.113.254";
const G = "192.168.1.1";

/** Sessions of every kind with what h1 sent as the WAN saw it, and what s1 sent as h1 saw it. */
function exchange(rig: Rig): [string, Packet, Packet][] {
	// h2 has the ports already, so that h1's are other ones outside.
	rig.toWan(udp(`${H2}:42000`, "203.0.113.30:1"));
	rig.toWan(tcp(`${H2}:42000`, "203.0.113.30:1", { flags: "S" }));
	rig.toWan(query(H2, "203.0.113.30", 42000));
	const sent = rig.toWan(udp(`${H1}:42000`, `${S1}:53`, { payload: 60 }));
	const plain = rig.toWan(udp(`${H1}:42001`, `${S1}:5300`, { checksum: "zero" }));
	const segment = rig.toWan(tcp(`${H1}:42000`, `${S1}:80`, { flags: "S", options: [2, 4, 5, 180] }));
	const ping = rig.toWan(query(H1, S1, 42000));
	const gre = rig.toWan(other(H1, S1, 47));
	return [
		["UDP", sent, rig.toLan(udp(`${S1}:53`, `${X}:${sent.sourcePort}`))],
		["UDP without checksum", plain, rig.toLan(udp(`${S1}:5300`, `${X}:${plain.sourcePort}`, { checksum: "zero" }))],
		["TCP", segment, rig.toLan(tcp(`${S1}:80`, `${X}:${segment.sourcePort}`, { flags: "SA", ack: 1001 }))],
		["ICMP echo", ping, rig.toLan(query(S1, X, ping.identifier, { type: 0 }))],
		["GRE", gre, rig.toLan(other(S1, X, 47))],
	];
}

const KINDS: [number, number, number][] = [
	[3, 1, 0],
	[3, 3, 0],
	[3, 4, 1400],
	[11, 0, 0],
	[12, 0, 0],
];

const PLACES: [string, RigOptions][] = [
	["packet driver", {}],
	["tun driver", { lan: [{ tun: true }] }],
	["headerless WAN", { wan: { ethernet: false } }],
];

describe("I-4: errors from outside", () => {
	for (const [place, o] of PLACES) {
		it(`${place}: reach the host with inner and outer addresses restored, type, code and MTU kept`, () => {
			const rig = new Rig(o);
			for (const [, sent] of exchange(rig)) {
				for (const [type, code, mtu] of KINDS) {
					for (const length of [28, 36, sent.bytes.length]) {
						const quote = sent.bytes.slice(0, Math.min(length, sent.bytes.length));
						const p = rig.toLan(icmpError(R, X, type, code, quote, { mtu }));
						expect([p.source, p.destination, p.type, p.code, p.rest]).toEqual([R, H1, type, code, mtu]);
						expect([p.quote?.source, p.quote?.destination]).toEqual([H1, S1]);
						if (sent.protocol === 1) expect(p.quote?.identifier).toBe(42000);
						else if (sent.protocol !== 47) expect([42000, 42001]).toContain(p.quote?.sourcePort);
						expect(p.quote?.destinationPort).toBe(sent.destinationPort);
						expect(p.ttl).toBe(place === "tun driver" ? 64 : 63);
					}
				}
			}
			rig.verify();
		});
	}

	it("R-9, R-11: not from a source that nothing outside has", () => {
		const rig = new Rig();
		const sent = rig.toWan(udp(`${H1}:42000`, `${S1}:53`));
		const martians = [H1, H2, G, X, "127.0.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"];
		for (const source of martians) expect(rig.in(icmpError(source, X, 3, 1, sent.bytes)).drops).toEqual(["martian-source"]);
		expect(rig.toLan(icmpError("10.1.2.3", X, 11, 0, sent.bytes)).source).toBe("10.1.2.3");
	});

	it("U-12a: whoever sent them; U-12: no type ends the session", () => {
		const rig = new Rig();
		const sent = rig.toWan(udp(`${H1}:42000`, `${S1}:53`));
		for (const source of [R, S1, "198.51.100.99"]) {
			for (let code = 0; code <= 15; code++) expect(rig.toLan(icmpError(source, X, 3, code, sent.bytes)).source).toBe(source);
			for (const [type, code] of [
				[11, 0],
				[11, 1],
				[12, 0],
			])
				rig.toLan(icmpError(source, X, type, code, sent.bytes));
		}
		expect(rig.toLan(udp(`${S1}:53`, `${X}:42000`)).destination).toBe(H1);
	});

	it("I-10c: source quench and redirect do not pass, either way", () => {
		const rig = new Rig();
		for (const [, sent, arrived] of exchange(rig)) {
			for (const type of [4, 5]) {
				expect(rig.in(icmpError(R, X, type, 0, sent.bytes)).drops).toEqual(["icmp-unsupported"]);
				expect(rig.out(icmpError(H1, S1, type, 0, arrived.bytes)).drops).toEqual(["icmp-unsupported"]);
			}
		}
	});

	it("about the router's own packets are left to it; about nothing known are dropped at other addresses", () => {
		const rig = new Rig({ statics: [{ internal: H2, external: "203.0.113.100" }] });
		const own = udp(`${X}:33000`, `${S1}:53`).ip;
		expect(rig.in(icmpError(R, X, 3, 3, own)).left).toBe(1);
		const foreign = udp("203.0.113.100:33000", `${S1}:53`).ip;
		expect(rig.in(icmpError(R, "203.0.113.100", 3, 3, foreign)).drops).toEqual(["icmp-no-session"]);
	});

	it("a quote whose source is not the address that the error was sent to fits no session", () => {
		const rig = new Rig({ statics: [{ internal: H2, external: "203.0.113.100" }] });
		const sent = rig.toWan(udp(`${H1}:42000`, `${S1}:53`));
		expect(rig.in(icmpError(R, "203.0.113.100", 3, 3, sent.bytes)).drops).toEqual(["icmp-no-session"]);
		for (let n = 0; n < 2000; n++) {
			const quote = bent({ ...udp(`${X}:42000`, `${S1}:53`) }, (ip) => ip.set([198, 18 + (n & 1), n >> 3, n & 255], 12)).ip;
			expect(rig.in(icmpError(R, X, 3, 3, quote)).left).toBe(1);
		}
	});

	it("static NAT: inner and outer address, ports kept", () => {
		const rig = new Rig({ statics: [{ internal: H1, external: "203.0.113.100" }] });
		const sent = rig.toWan(udp(`${H1}:53`, `${S1}:9`));
		const p = rig.toLan(icmpError(R, "203.0.113.100", 3, 3, sent.bytes));
		expect(p.line).toBe(`icmp 3/3 ${R} > ${H1} about udp ${H1}:53 > ${S1}:9`);
	});
});

describe("I-5: errors from inside", () => {
	for (const [place, o] of PLACES) {
		it(`${place}: leave from our address about what the peer knows`, () => {
			const rig = new Rig(o);
			for (const [, sent, arrived] of exchange(rig)) {
				for (const [type, code, mtu] of KINDS) {
					for (const source of [H1, "192.168.1.77"]) {
						const p = rig.toWan(icmpError(source, S1, type, code, arrived.bytes.slice(0, 36), { mtu }));
						expect([p.source, p.destination, p.type, p.code, p.rest]).toEqual([X, S1, type, code, mtu]);
						expect([p.quote?.source, p.quote?.destination]).toEqual([S1, X]);
						if (sent.protocol === 1) expect(p.quote?.identifier).toBe(sent.identifier);
						else expect(p.quote?.destinationPort).toBe(sent.sourcePort);
					}
				}
			}
			rig.verify();
		});
	}

	it("F-1: about an unknown flow it never leaves", () => {
		const rig = new Rig();
		exchange(rig);
		for (const quote of [udp(`${S1}:53`, `${H1}:49999`).ip, tcp(`${S1}:80`, `${H2}:42000`).ip, query(S1, H1, 4, { type: 0 }).ip]) {
			const outcome = rig.out(icmpError(H1, S1, 3, 3, quote));
			expect([outcome.drops, outcome.wan]).toEqual([["icmp-no-session"], []]);
		}
	});
});

describe("I-3: damaged errors", () => {
	it("a wrong ICMP checksum", () => {
		const rig = new Rig();
		const [, sent, arrived] = exchange(rig)[0];
		expect(rig.in(icmpError(R, X, 3, 3, sent.bytes, { checksum: 0x1234 })).drops).toEqual(["icmp-bad-checksum"]);
		expect(rig.out(icmpError(H1, S1, 3, 3, arrived.bytes, { checksum: 0x1234 })).drops).toEqual(["icmp-bad-checksum"]);
	});

	it("I-3a a wrong checksum of the quoted header", () => {
		const rig = new Rig();
		const [, sent] = exchange(rig)[0];
		const quote = sent.bytes.slice();
		quote[10] ^= 1;
		expect(rig.in(icmpError(R, X, 3, 3, quote)).drops).toEqual(["icmp-bad-quote"]);
	});

	it("a quote too short for a header and eight bytes, of another version, with an impossible header length", () => {
		const rig = new Rig();
		const [, sent] = exchange(rig)[0];
		for (const length of [0, 4, 19, 20, 27]) {
			expect(rig.in(icmpError(R, X, 3, 3, sent.bytes.slice(0, length))).drops).toEqual(["icmp-bad-quote"]);
		}
		for (const first of [0x65, 0x44, 0x4f]) {
			const quote = bent({ ...udp(`${X}:42000`, `${S1}:53`) }, (ip) => {
				ip[0] = first;
			}).ip;
			expect(rig.in(icmpError(R, X, 3, 3, quote)).drops).toEqual(["icmp-bad-quote"]);
		}
	});

	it("I-3b options in the quoted header and in the outer one", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H2}:42000`, "203.0.113.30:1"));
		const sent = rig.toWan(udp(`${H1}:42000`, `${S1}:53`, { ipOptions: [7, 7, 4, 0, 0, 0, 0] }));
		for (const ipOptions of [[], [1, 1, 1, 0]]) {
			const p = rig.toLan(icmpError(R, X, 3, 3, sent.bytes, { ipOptions }));
			expect(p.line).toBe(`icmp 3/3 ${R} > ${H1} about udp ${H1}:42000 > ${S1}:53`);
			expect(p.quote?.ipOptions).toHaveLength(8);
		}
	});

	it("I-3c a wrong quoted transport checksum is delivered as wrong as it was", () => {
		const rig = new Rig();
		const [, sent] = exchange(rig)[0];
		const quote = sent.bytes.slice();
		quote[40] ^= 0x55;
		rig.strict = false;
		const p = rig.toLan(icmpError(R, X, 3, 3, quote));
		expect(p.faults).toEqual(["quoted transport checksum"]);
		const whole = p.payload.slice();
		whole[40] ^= 0x55;
		expect(readPacket(whole).faults).toEqual([]);
	});

	it("I-3d RFC 4884 extensions behind the quote stay as they are", () => {
		const rig = new Rig();
		const [, sent] = exchange(rig)[0];
		const object = [0x20, 0, 0x5c, 0x1f, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
		const quote = new Uint8Array(128 + object.length);
		quote.set(sent.bytes.slice(0, 128));
		quote.set(object, 128);
		const p = rig.toLan(
			bent(icmpError(R, X, 11, 0, quote), (ip) => {
				ip[25] = 32;
				ip.fill(0, 22, 24);
				const value = sum(ip, 20, ip.length) ^ 0xffff;
				ip[22] = value >> 8;
				ip[23] = value & 255;
			}),
		);
		expect([...p.payload.slice(128)]).toEqual(object);
		expect(p.bytes[25]).toBe(32);
		expect(p.quote?.source).toBe(H1);
	});

	it("a quoted fragment that is not the first names no session", () => {
		const rig = new Rig();
		const [, sent] = exchange(rig)[0];
		const quote = bent({ ...udp(`${X}:${sent.sourcePort}`, `${S1}:53`) }, (ip) => {
			ip[7] = 100;
		}).ip;
		expect(rig.in(icmpError(R, X, 11, 1, quote)).left).toBe(1);
	});
});

describe("I-6: errors change no session", () => {
	it("neither its state nor its packets nor its life", () => {
		const rig = new Rig();
		const sent = rig.toWan(query(H1, S1, 40001));
		rig.pass(50);
		rig.toLan(icmpError(R, X, 3, 1, sent.bytes));
		expect(rig.counters.slice(0, 2)).toEqual([1, 0]);
		rig.pass(9);
		rig.toLan(query(S1, X, 40001, { type: 0 }));
		rig.pass(3);
		expect(rig.in(query(S1, X, 40001, { type: 0 })).left).toBe(1);
	});
});

describe("R-1: time to live", () => {
	for (const [name, frame] of [
		["UDP", udp(`${H1}:33434`, `${S1}:33434`, { ttl: 1 })],
		["TCP", tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", ttl: 1 })],
		["ICMP", query(H1, S1, 7, { ttl: 1 })],
		["TTL 0", udp(`${H1}:33434`, `${S1}:33434`, { ttl: 0 })],
		["GRE", other(H1, S1, 47, { ttl: 1 })],
	] as const) {
		it(`from the LAN (${name}): 11/0 from the LAN port's address with the host's own packet, nothing on the WAN, no state`, () => {
			const rig = new Rig();
			const outcome = rig.out(frame);
			expect(outcome.drops).toEqual(["ttl-expired"]);
			expect(outcome.wan).toEqual([]);
			const [p] = outcome.lan[0];
			expect([p.type, p.code, p.source, p.destination, p.ttl]).toEqual([11, 0, G, H1, 64]);
			expect(p.payload).toEqual(frame.ip);
			expect(p.ether).toEqual({ to: macOf(H1), from: "02:00:00:00:10:01", type: 0x800 });
			expect(rig.flows()).toEqual([]);
		});
	}

	it("from the WAN to a session: 11/0 from our address, quoting our address and never the private one", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:42000`, `${S1}:53`));
		for (const ipOptions of [[], [1]]) {
			const outcome = rig.in(udp(`${S1}:53`, `${X}:42000`, { ttl: 1, ipOptions }));
			expect(outcome.drops).toEqual(["ttl-expired"]);
			expect(outcome.lan[0]).toEqual([]);
			expect(outcome.wan.map((p) => p.line)).toEqual([`icmp 11/0 ${X} > ${S1} about udp ${S1}:53 > ${X}:42000`]);
		}
	});

	it("R-2: what is for the router itself may have one hop left", () => {
		const rig = new Rig();
		expect(rig.in(query(S1, X, 7, { ttl: 1 })).left).toBe(1);
		expect(rig.in(tcp(`${S1}:5000`, `${X}:22`, { flags: "S", ttl: 1 })).left).toBe(1);
		expect(rig.in(udp(`${S1}:53`, `${X}:1053`, { ttl: 1 })).left).toBe(1);
	});

	it("an error about an error is not sent", () => {
		const rig = new Rig();
		const [, sent, arrived] = exchange(rig)[0];
		rig.out(icmpError(H1, S1, 3, 3, arrived.bytes, { ttl: 1 }));
		expect(rig.context.errorsSent).toBe(0);
		expect(rig.in(icmpError(R, X, 3, 3, sent.bytes, { ttl: 1 })).drops).toEqual(["ttl-expired"]);
		expect(rig.context.errorsSent).toBe(0);
	});
});

describe("R-3 to R-7: how errors are sent", () => {
	it("R-3: as much of the packet as fits 576 bytes", () => {
		const rig = new Rig();
		for (const [payload, length] of [
			[0, 56],
			[100, 156],
			[519, 575],
			[520, 576],
			[521, 576],
			[1200, 576],
		]) {
			const frame = udp(`${H1}:40000`, `${S1}:9`, { ttl: 1, payload });
			const [p] = rig.out(frame).lan[0];
			expect(p.bytes.length).toBe(length);
			expect(p.payload).toEqual(frame.ip.slice(0, length - 28));
		}
	});

	it("R-4: from the address of the port that they leave by", () => {
		const rig = new Rig({ lan: [{}, { address: "10.9.0.7", nets: ["10.9.0.0/16"] }] });
		expect(rig.out(udp(`${H1}:1`, `${S1}:9`, { ttl: 1 }), 0).lan[0][0].source).toBe(G);
		expect(rig.out(udp("10.9.8.7:1", `${S1}:9`, { ttl: 1 }), 1).lan[1][0].source).toBe("10.9.0.7");
	});

	it("I-10d: with the DS field of the packet", () => {
		const rig = new Rig();
		expect(rig.out(udp(`${H1}:1`, `${S1}:9`, { ttl: 1, tos: 0xb8 })).lan[0][0].tos).toBe(0xb8);
	});

	it("a GSO or partial-checksum packet is answered with a plain frame", () => {
		const rig = new Rig();
		for (const o of [
			{ gso: 1448, payload: 20_000 },
			{ checksum: "partial" as const, payload: 100 },
		]) {
			const outcome = rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", ttl: 1, ...o }));
			rig.strict = false;
			expect([outcome.lan[0][0].partial, outcome.lan[0][0].gsoType, outcome.lan[0][0].gsoSize]).toEqual([null, 0, 0]);
		}
	});

	it("R-6: none about errors, bad headers, broadcast and multicast, invalid sources, later fragments", () => {
		const rig = new Rig();
		const good = { ttl: 1 };
		const frames = [
			icmpError(H1, S1, 3, 3, udp(`${S1}:1`, `${H1}:1`).ip, good),
			bent(
				udp(`${H1}:1`, `${S1}:9`, good),
				(ip) => {
					ip[10] ^= 1;
				},
				false,
			),
			udp(`${H1}:1`, `${S1}:9`, { ...good, group: true }),
			udp(`${H1}:1`, "224.0.0.251:5353", good),
			udp(`${H1}:1`, "239.255.255.250:1900", good),
			udp(`${H1}:1`, "255.255.255.255:67", good),
			udp(`${H1}:1`, "192.168.1.255:137", good),
			udp("0.0.0.0:68", `${S1}:67`, good),
			udp("0.1.2.3:68", `${S1}:67`, good),
			udp("127.0.0.1:1", `${S1}:9`, good),
			udp("192.168.1.255:1", `${S1}:9`, good),
			udp("192.168.1.0:1", `${S1}:9`, good),
			udp("224.0.0.1:1", `${S1}:9`, good),
			udp("8.8.8.8:1", `${S1}:9`, good),
			udp("255.255.255.255:1", `${S1}:9`, good),
			udp(`${H1}:1`, `${S1}:9`, { ...good, fragment: 10, df: false }),
		];
		for (const frame of frames) {
			const outcome = rig.out(frame);
			expect(outcome.drops).toHaveLength(1);
			expect([outcome.errors, outcome.lan[0], outcome.wan]).toEqual([0, [], []]);
		}
	});

	it("R-7: twenty probes in 0.4 s are all answered, a thousand in a second are not, and the next second some are again", () => {
		const rig = new Rig();
		const errors = (host: string, n: number) => {
			let sent = 0;
			for (let k = 0; k < n; k++) sent += rig.out(udp(`${host}:1`, `${S1}:${33434 + k}`, { ttl: 1 })).errors;
			return sent;
		};
		expect(errors(H1, 20)).toBe(20);
		expect(errors(H1, 980)).toBeLessThanOrEqual(40);
		expect(errors(H2, 20)).toBe(20);
		rig.pass(1);
		const next = errors(H1, 1000);
		expect(next).toBeGreaterThan(5);
		expect(next).toBeLessThanOrEqual(60);
	});
});

describe("U-13: too big for the next link", () => {
	it("outbound with DF: 3/4 with the next hop's MTU, quoting the host's own packet", () => {
		const rig = new Rig({ wan: { mtu: 1280 } });
		for (const ipOptions of [[], [1]]) {
			const outcome = rig.out(udp(`${H1}:40000`, `${S1}:9`, { payload: 1400, ipOptions }));
			expect(outcome.drops).toEqual(["too-big"]);
			expect(outcome.wan).toEqual([]);
			const [p] = outcome.lan[0];
			expect(p.line).toBe(`icmp 3/4 ${G} > ${H1} about udp ${H1}:40000 > ${S1}:9`);
			expect([p.source, p.rest]).toEqual([G, 1280]);
		}
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:9`, { payload: 1252 })).bytes).toHaveLength(1280);
	});

	it("inbound with DF: 3/4 from our address with the LAN's MTU, quoting our address", () => {
		const rig = new Rig({ lan: [{ mtu: 1280 }] });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		for (const ipOptions of [[], [1]]) {
			const outcome = rig.in(udp(`${S1}:9`, `${X}:40000`, { payload: 1300, ipOptions }));
			expect(outcome.drops).toEqual(["too-big"]);
			expect(outcome.wan.map((p) => p.line)).toEqual([`icmp 3/4 ${X} > ${S1} about udp ${S1}:9 > ${X}:40000`]);
			expect(outcome.wan[0].rest).toBe(1280);
		}
	});

	it("behind TUN too, so that what the error quotes is translated", () => {
		const rig = new Rig({ lan: [{ tun: true, mtu: 1280 }] });
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		const told = rig.in(udp(`${S1}:9`, `${X}:40000`, { payload: 1300 }));
		expect(told.drops).toEqual(["too-big"]);
		expect(told.wan.map((p) => [p.source, p.destination])).toEqual([[X, S1]]);
		expect(rig.toLan(udp(`${S1}:9`, `${X}:40000`, { payload: 1280 - 28 })).payload).toHaveLength(1252);
		// Of a fragment the transport checksum is not to be seen.
		rig.strict = rig.accounts = false;
		expect(rig.in(udp(`${S1}:9`, `${X}:40000`, { payload: 1300, df: false })).lan[0]).toHaveLength(2);
	});

	it("a super-packet goes if its segments fit, with IP options too", () => {
		const rig = new Rig({ wan: { mtu: 1280 } });
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA" }));
		for (const ipOptions of [[], [1, 1, 1, 1, 1, 1, 1, 1]]) {
			for (const options of [[], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]) {
				const most = 1280 - 40 - ipOptions.length - options.length;
				const big = { payload: 10_000, options, ipOptions };
				expect(rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { gso: most, ...big })).gsoSize).toBe(most);
				const outcome = rig.out(tcp(`${H1}:50000`, `${S1}:80`, { gso: most + 1, ...big }));
				expect(outcome.drops).toEqual(["too-big"]);
				expect([outcome.lan[0][0].code, outcome.lan[0][0].rest]).toEqual([4, 1280]);
			}
		}
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:9`, { gso: 1252, payload: 5000 })).gsoSize).toBe(1252);
		expect(rig.out(udp(`${H1}:40000`, `${S1}:9`, { gso: 1253, payload: 5000 })).drops).toEqual(["too-big"]);
	});
});
