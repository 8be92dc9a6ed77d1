/**
 * Unsolicited SYNs (RFC 5382 REQ-4), limits of a host (RFC 6888 REQ-4 and REQ-5), dead next hops (RFC 1812 section
 * 4.3.3.1), pairing.
 */
import { describe, expect, it } from "vitest";
import { sctpSum } from "../../src/packet/crc32c.ts";
import { Rig } from "./rig.ts";
import { icmpError, ipv4, other, plain, readPacket, sum, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const X = "203.0.113.1";
const S1 = "203.0.113.10";

describe("an unsolicited SYN", () => {
	it("T-4 is answered after six seconds and not before", () => {
		const rig = new Rig();
		expect(rig.in(tcp(`${S1}:5000`, `${X}:40000`, { flags: "S" })).drops).toEqual(["no-mapping"]);
		expect(rig.idle(6).wan).toEqual([]);
		rig.in(tcp(`${S1}:5000`, `${X}:40000`, { flags: "S" }));
		const { wan } = rig.idle(1);
		expect(wan.map((p) => p.line)).toEqual([`icmp 3/3 ${X} > ${S1} about tcp ${S1}:5000 > ${X}:40000 S`]);
		expect(wan[0].ether?.to).toBe("02:00:00:00:01:fe");
		expect(rig.idle(60).wan).toEqual([]);
	});

	it("T-4' is forgotten when the inside opens the connection itself", () => {
		const rig = new Rig();
		rig.in(tcp(`${S1}:5000`, `${X}:40000`, { flags: "S" }));
		rig.idle(3);
		rig.toWan(tcp(`${H1}:40000`, `${S1}:5000`, { flags: "S" }));
		expect(rig.toLan(tcp(`${S1}:5000`, `${X}:40000`, { flags: "S" })).line).toBe(`tcp ${S1}:5000 > ${H1}:40000 S`);
		expect(rig.idle(10).wan).toEqual([]);
	});

	it("T-4a is never answered with policy drop, nor are other segments", () => {
		const rig = new Rig({ policy: { rejectSyn: false } });
		rig.in(tcp(`${S1}:5000`, `${X}:40000`, { flags: "S" }));
		expect(rig.idle(60).wan).toEqual([]);
		const other = new Rig();
		for (const flags of ["A", "SA", "R", "FA"]) other.in(tcp(`${S1}:5000`, `${X}:40000`, { flags }));
		expect(other.idle(60).wan).toEqual([]);
	});
});

describe("limits of a host", () => {
	it("C-4 C-5 sessions and sessions a second, the daemon's and the host's own", () => {
		const rig = new Rig({ policy: { maxSessions: 5, maxRate: 3 }, hosts: [{ address: H2, maxSessions: 7, maxRate: 9 }] });
		const open = (h: string, n: number) => rig.out(udp(`${h}:${41000 + n}`, `${S1}:1`)).drops;
		for (let n = 0; n < 3; n++) expect(open(H1, n)).toEqual([]);
		expect(open(H1, 3)).toEqual(["host-rate"]);
		rig.pass(1);
		for (let n = 3; n < 5; n++) expect(open(H1, n)).toEqual([]);
		expect(open(H1, 5)).toEqual(["host-limit"]);
		for (let n = 0; n < 7; n++) expect(open(H2, n)).toEqual([]);
		expect(open(H2, 7)).toEqual(["host-limit"]);
	});

	it("I-8 the refusal is the one that was configured", () => {
		for (const [refusal, line] of [
			[0x301, "icmp 3/1"],
			[0x30d, "icmp 3/13"],
		] as const) {
			const rig = new Rig({ policy: { maxSessions: 1, refusal } });
			rig.out(udp(`${H1}:1025`, `${S1}:1`));
			expect(rig.out(udp(`${H1}:1026`, `${S1}:1`)).lan[0][0].line.startsWith(line)).toBe(true);
		}
	});

	it("a host that floods the table does not keep a newcomer out, however young its sessions are", () => {
		const rig = new Rig({ sessions: 256 });
		for (let n = 0; n < 300; n++) rig.out(udp(`${H1}:${40000 + n}`, `${S1}:1`));
		expect(rig.flows().length).toBe(256);
		for (let n = 0; n < 128; n++) expect(rig.out(udp(`${H2}:${50000 + n}`, `${S1}:1`)).drops).toEqual([]);
		expect(rig.out(udp(`${H2}:60000`, `${S1}:1`)).drops).not.toEqual([]);
		expect(rig.flows().filter((f) => f.includes(H2)).length).toBe(128);
		rig.verify();
	});
});

describe("a next hop that does not answer", () => {
	it("R-5 is told to the sender, with the packet as it sent it", () => {
		const rig = new Rig();
		rig.hops.default = "unknown";
		rig.out(udp(`${H1}:1025`, `${S1}:9`));
		const c = rig.context;
		rig.slowPath.undeliverable(0, 40);
		expect(c.lan[0].queue.count).toBe(1);
		const B = c.views.B;
		expect([...B.subarray(24 + 20, 24 + 22)]).toEqual([3, 1]);
		expect([...B.subarray(24 + 28 + 12, 24 + 28 + 16)].join(".")).toBe(H1);
		expect(sum(B, 24 + 28, 24 + 48)).toBe(0xffff);
		expect([...B.subarray(10, 16)]).toEqual([2, 16, 192, 168, 1, 10]);
	});
});

describe("an inside host that does not answer", () => {
	const forwards = [{ protocol: 17, first: 5000, internal: "192.168.1.99", internalFirst: 6000 }];

	function quoted(queue: { count: number }, B: Uint8Array) {
		expect(queue.count).toBe(1);
		expect([...B.subarray(24 + 20, 24 + 22)]).toEqual([3, 1]);
		expect(sum(B, 24 + 28, 24 + 48)).toBe(0xffff);
		return readPacket(B.slice(24 + 28, 24 + 28 + 40), null, true);
	}

	it("B4 is told to who sent it outside, with the packet as it was sent", () => {
		const rig = new Rig({ forwards });
		const { held } = rig.in(udp(`${S1}:9`, `${X}:5000`));
		expect(held[0].line).toBe(`udp ${S1}:9 > 192.168.1.99:6000`);
		const c = rig.context;
		rig.slowPath.undeliverableInternal(0, 40);
		const packet = quoted(c.wan.queue, c.views.B);
		expect([packet.line, packet.faults]).toEqual([`udp ${S1}:9 > ${X}:5000`, []]);
		expect([...c.views.B.subarray(24 + 12, 24 + 20)].join(".")).toBe(`${X}.${S1}`);
	});

	it("and of a hairpinned one to who sent it inside", () => {
		const rig = new Rig({ forwards });
		rig.out(udp(`${H1}:1025`, `${X}:5000`));
		const c = rig.context;
		rig.slowPath.undeliverableInternal(0, 40);
		const packet = quoted(c.lan[0].queue, c.views.B);
		expect([packet.line, packet.faults]).toEqual([`udp ${H1}:1025 > ${X}:5000`, []]);
	});

	it("nothing is sent about a packet of no session, nor about a later fragment", () => {
		const rig = new Rig({ forwards });
		rig.in(udp(`${S1}:9`, `${X}:5000`));
		rig.context.views.B[24 + 7] = 1;
		rig.slowPath.undeliverableInternal(0, 40);
		rig.context.views.B[24 + 7] = 0;
		rig.context.views.B[24 + 21] = 1;
		rig.slowPath.undeliverableInternal(0, 40);
		expect(rig.context.wan.queue.count).toBe(0);
	});
});

describe("pools and forwards", () => {
	it("U-2 a host on the shared address of a pool stays there", () => {
		const rig = new Rig({ pools: [{ nets: ["192.168.1.0/24"], externals: ["203.0.113.16", "203.0.113.17"], overload: true }] });
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:1`)).source).toBe("203.0.113.16");
		expect(rig.toWan(udp(`${H2}:40000`, `${S1}:1`)).source).toBe("203.0.113.17");
		rig.toWan(udp(`${H2}:40001`, `${S1}:1`));
		rig.pass(200);
		rig.toWan(udp(`${H2}:40001`, `${S1}:1`));
		rig.pass(200);
		expect(rig.flows().some((f) => f.includes(H1))).toBe(false);
		expect(rig.toWan(udp(`${H2}:40002`, `${S1}:1`)).source).toBe("203.0.113.17");
		rig.verify();
	});

	it("a forwarded endpoint sends from the port of its forward", () => {
		const rig = new Rig({ forwards: [{ protocol: 17, first: 5000, last: 5009, internal: H1, internalFirst: 6000 }] });
		expect(rig.toWan(udp(`${H1}:6003`, `${S1}:1`)).line).toBe(`udp ${X}:5003 > ${S1}:1`);
		expect(rig.toLan(udp(`${S1}:1`, `${X}:5003`)).line).toBe(`udp ${S1}:1 > ${H1}:6003`);
		rig.pass(400);
		rig.verify();
	});
});

describe("other protocols with ports", () => {
	function packet(from: string, to: string, protocol: number, sourcePort: number, port: number): ReturnType<typeof udp> {
		const body = new Uint8Array(protocol === 132 ? 40 : 20);
		body.set([sourcePort >> 8, sourcePort & 255, port >> 8, port & 255]);
		if (protocol === 132) {
			body[12] = 1;
			const crc = sctpSum(body, 0, body.length);
			for (let k = 0; k < 4; k++) body[8 + k] = crc >>> (8 * k);
			return plain(ipv4(from, to, protocol, body));
		}
		if (protocol === 33) body[4] = 4;
		else body.set([0, 12], 4);
		const ip = ipv4(from, to, protocol, body);
		const covered = protocol === 136 ? 12 : 20;
		const pseudo = sum(ip, 12, 20, protocol + body.length);
		const value = sum(ip, 20, 20 + covered, pseudo) ^ 0xffff;
		ip.set([value >> 8, value & 255], 26);
		return plain(ip);
	}

	function checks(bytes: Uint8Array): boolean {
		const body = bytes.slice(20);
		if (bytes[9] === 132) {
			const crc = sctpSum(body, 0, body.length);
			return [0, 1, 2, 3].every((k) => body[8 + k] === ((crc >>> (8 * k)) & 255));
		}
		const covered = bytes[9] === 136 ? 12 : 20;
		return sum(bytes, 20, 20 + covered, sum(bytes, 12, 20, bytes[9] + body.length)) === 0xffff;
	}

	it("D-1 D-11 are translated by port, two hosts apart, checksums right", () => {
		for (const protocol of [132, 136, 33]) {
			const rig = new Rig();
			rig.strict = false;
			const ports = [H1, H2].map((h) => {
				const p = rig.toWan(packet(h, S1, protocol, 40000, 5000));
				expect(checks(p.bytes)).toBe(true);
				return p.bytes[20] * 256 + p.bytes[21];
			});
			expect(ports[0]).toBe(40000);
			expect(ports[1]).not.toBe(40000);
			expect(ports[1] & 1).toBe(0);
			const back = rig.toLan(packet(S1, X, protocol, 5000, ports[1]));
			expect([back.destination, back.bytes[22] * 256 + back.bytes[23], checks(back.bytes)]).toEqual([H2, 40000, true]);
			// Another peer: the same external port, and its answer comes in; a stranger's does not.
			expect(rig.toWan(packet(H2, "198.51.100.1", protocol, 40000, 5000)).bytes.subarray(20, 22)).toEqual(
				Uint8Array.from([ports[1] >> 8, ports[1] & 255]),
			);
			expect(rig.in(packet("198.51.100.9", X, protocol, 5000, ports[1])).drops).toEqual(["filtered"]);
			expect(rig.in(packet("198.51.100.9", X, protocol, 5000, 40001)).left).toBe(1);
			rig.verify();
		}
	});

	it("D-9 errors about them are translated, with the quoted checksum", () => {
		for (const protocol of [132, 136, 33]) {
			const rig = new Rig();
			rig.strict = false;
			rig.toWan(packet(H1, S1, protocol, 40000, 5000));
			const sent = rig.toWan(packet(H2, S1, protocol, 40000, 5000)).bytes;
			for (const quoted of [sent, sent.slice(0, 28)]) {
				const got = rig.toLan(icmpError("203.0.113.254", X, 3, 3, quoted)).bytes;
				expect(sum(got, 20, got.length)).toBe(0xffff);
				const inner = got.slice(28);
				expect([[...inner.slice(12, 16)].join("."), inner[20] * 256 + inner[21]]).toEqual([H2, 40000]);
				if (quoted === sent) expect(checks(inner)).toBe(true);
			}
			const arrived = rig.toLan(packet(S1, X, protocol, 5000, sent[20] * 256 + sent[21])).bytes;
			const inner = rig.toWan(icmpError(H2, S1, 3, 3, arrived)).bytes.slice(28);
			expect([[...inner.slice(16, 20)].join("."), inner.slice(22, 24), checks(inner)]).toEqual([X, sent.slice(20, 22), true]);
			rig.verify();
		}
	});

	it("D-u without ports by address, one host for a peer", () => {
		const rig = new Rig();
		expect(rig.toWan(other(H1, S1, 50)).source).toBe(X);
		expect(rig.out(other(H2, S1, 50)).drops).toEqual(["protocol-busy"]);
		expect(rig.toWan(other(H2, "198.51.100.1", 50)).source).toBe(X);
	});
});
