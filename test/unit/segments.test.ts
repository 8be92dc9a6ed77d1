import { describe, expect, it } from "vitest";
import { sumOf } from "../../src/packet/checksum.ts";
import { viewsOf } from "../../src/packet/layout.ts";
import { completeSum, isTunnelled, Segments } from "../../src/packet/segments.ts";
import { Rig } from "./rig.ts";
import {
	completed,
	type Frame,
	pseudoSum,
	pseudoSum6,
	readPacket,
	sum,
	TUNNEL_NAMES,
	type TunnelName,
	tcp,
	tcp6,
	tunnel,
	udp,
} from "./rig-frame.ts";

const H1 = "192.168.1.10";
const S1 = "203.0.113.10";
const X = "203.0.113.1";
const ASIDE = 70_000;

/** Puts a frame into slot 0 of a new memory, behind a link header of so many bytes. */
function placed(frame: Frame, link: number) {
	const v = viewsOf(new ArrayBuffer(200_000));
	v.B[0] = frame.partial === null ? 0 : 1;
	v.B[1] = frame.gsoType;
	v.H.set([frame.headers + link, frame.gsoSize, (frame.partial?.start ?? 0) + link, frame.partial?.offset ?? 0], 1);
	v.B.set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0], 10);
	v.B.set(frame.ip, 24);
	return v;
}

/** The same, by runs of segments that are alike, of at most `most`. */
function cutByRuns(frame: Frame, link: number, most: number): Uint8Array[] {
	const v = placed(frame, link);
	const add = (from: number, bytes: number) => sumOf(v.H, v.B, from, bytes);
	const segments = new Segments(v);
	const count = segments.begin(0, frame.ip.length, link);
	const stride = (24 + segments.largest + 3) & ~3;
	const packets: Uint8Array[] = [];
	let before = 0;
	for (let k = 0; k < count; ) {
		// As after a drain: the one before lies where the next ones go.
		const n = Math.min(segments.alike(k), most);
		let length = 0;
		if (n > 0) {
			length = segments.repeat(k, n, before, ASIDE, stride, add);
		} else {
			length = segments.write(k, ASIDE);
			completeSum(v, ASIDE, length, link, add);
		}
		for (let i = 0; i < Math.max(n, 1); i++) {
			before = ASIDE + i * stride;
			expect([...v.B.subarray(before, before + 24)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0]);
			packets.push(v.B.slice(before + 24, before + 24 + length));
		}
		k += Math.max(n, 1);
	}
	return packets;
}

/** The packets that a super-packet is cut into, their checksums complete; every one has the link header. */
function cut(frame: Frame, link = 14): Uint8Array[] {
	const packets = cutOneByOne(frame, link);
	for (const most of [1, 3, 64]) {
		const runs = cutByRuns(frame, link, most);
		expect(runs).toHaveLength(packets.length);
		expect(runs.every((run, n) => run.length === packets[n].length && run.every((byte, i) => byte === packets[n][i]))).toBe(true);
	}
	return packets;
}

function cutOneByOne(frame: Frame, link: number): Uint8Array[] {
	const v = placed(frame, link);
	const segments = new Segments(v);
	const count = segments.begin(0, frame.ip.length, link);
	return Array.from({ length: count }, (_, k) => {
		const length = segments.write(k, ASIDE);
		expect(length).toBeLessThanOrEqual(segments.largest);
		expect([...v.B.subarray(ASIDE + 10, ASIDE + 24)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0]);
		expect([v.B[ASIDE], v.B[ASIDE + 1], v.H[(ASIDE >> 1) + 2]]).toEqual([1, 0, 0]);
		completeSum(v, ASIDE, length, link, (from, bytes) => sumOf(v.H, v.B, from, bytes));
		expect([...v.B.subarray(ASIDE, ASIDE + 10)]).toEqual(new Array(10).fill(0));
		return v.B.slice(ASIDE + 24, ASIDE + 24 + length);
	});
}

function joined(parts: Uint8Array[]): number[] {
	return parts.flatMap((p) => [...p]);
}

describe("a super-packet cut into segments", () => {
	it.each([0, 14])("TCP: sequence numbers, flags, identifications, checksums (link header of %i bytes)", (link) => {
		const frame = tcp(`${H1}:1`, `${S1}:2`, {
			gso: 1000,
			payload: 4500,
			flags: "FPA",
			seq: 0xfffff800,
			id: 0xfffe,
			options: [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
			tos: 0x10,
		});
		frame.ip[20 + 13] |= 0x80;
		const packets = cut(frame, link).map((ip) => readPacket(ip));
		expect(packets.flatMap((p) => p.faults)).toEqual([]);
		expect(packets.map((p) => p.seq)).toEqual([0, 1000, 2000, 3000, 4000].map((n) => (0xfffff800 + n) % 2 ** 32));
		expect(packets.map((p) => p.flags)).toEqual(["A", "A", "A", "A", "FPA"]);
		expect(packets.map((p) => p.bytes[33] & 0x80)).toEqual([0x80, 0, 0, 0, 0]);
		expect(packets.map((p) => p.id)).toEqual([0xfffe, 0xffff, 0, 1, 2]);
		expect(packets.every((p) => p.tos === 0x10 && p.options.length === 12)).toBe(true);
		expect(joined(packets.map((p) => p.payload))).toEqual([...frame.ip.subarray(52)]);
	});

	it("UDP: one datagram each", () => {
		const frame = udp(`${H1}:1`, `${S1}:2`, { gso: 1400, payload: 4201, ipOptions: [7, 4, 5, 0] });
		const packets = cut(frame).map((ip) => readPacket(ip));
		expect(packets.flatMap((p) => p.faults)).toEqual([]);
		expect(packets.map((p) => [p.payload.length, p.bytes[28] * 256 + p.bytes[29]])).toEqual([
			[1400, 1408],
			[1400, 1408],
			[1400, 1408],
			[1, 9],
		]);
		expect(joined(packets.map((p) => p.payload))).toEqual([...frame.ip.subarray(32)]);
	});

	it("a random one: as long as it was, no checksum wrong", () => {
		const rig = new Rig();
		for (let round = 0; round < 200; round++) {
			const payload = 1 + (rig.random() >>> 16);
			const size = 1 + (rig.random() >>> 20);
			const make = round % 2 === 0 ? tcp : udp;
			const frame = make(`${H1}:1`, `${S1}:2`, { gso: size, payload: Math.min(payload, 60_000, size * 40) });
			const packets = cut(frame).map((ip) => readPacket(ip));
			expect(packets.flatMap((p) => p.faults)).toEqual([]);
			expect(joined(packets.map((p) => p.payload))).toEqual([...frame.ip.subarray(frame.headers)]);
		}
	});

	it.each(TUNNEL_NAMES)("in a tunnel: %s", (name) => {
		const v6 = name === "6in4";
		const inner = v6 ? tcp6(5000, 1200) : tcp("10.7.0.1:1000", "10.7.0.2:80", { gso: 1200, payload: 5000, flags: "PA", id: 77 });
		const frame = tunnel(name, H1, S1, inner, { id: 0x100 });
		expect(isTunnelled(placed(frame, 14), 0, 14)).toBe(true);
		const at = frame.ip.length - inner.ip.length;
		const packets = cut(frame);
		expect(packets).toHaveLength(5);
		for (const [k, ip] of packets.entries()) {
			expect(sum(ip, 0, 20)).toBe(0xffff);
			expect([ip[2] * 256 + ip[3], ip[4] * 256 + ip[5]]).toEqual([ip.length, 0x100 + k]);
			expect([...ip.subarray(28, at)]).toEqual([...frame.ip.subarray(28, at)]);
			const own = ip.slice(at);
			if (v6) {
				expect(own[4] * 256 + own[5]).toBe(own.length - 40);
				expect(sum(own, 40, own.length, pseudoSum6(own))).toBe(0xffff);
			} else {
				const packet = readPacket(own);
				expect([packet.faults, packet.id, packet.seq, packet.flags]).toEqual([[], 77 + k, 1000 + 1200 * k, k === 4 ? "PA" : "A"]);
			}
			if (ip[9] === 17) {
				expect(ip[24] * 256 + ip[25]).toBe(ip.length - 20);
				if (name === "vxlan with checksum") expect(sum(ip, 20, ip.length, pseudoSum(ip))).toBe(0xffff);
				else expect([ip[26], ip[27]]).toEqual([0, 0]);
			}
			if (name === "gre with checksum") expect(sum(ip, 20, ip.length)).toBe(0xffff);
		}
		const bytes = v6 ? 60 : 40;
		expect(joined(packets.map((ip) => ip.slice(at + bytes)))).toEqual([...inner.ip.subarray(bytes)]);
	});

	it("what is none, or not to be understood, is left whole", () => {
		const plain = tcp(`${H1}:1`, `${S1}:2`, { payload: 3000 });
		const inner = tcp("10.7.0.1:1000", "10.7.0.2:80", { gso: 1200, payload: 5000 });
		const odd = tunnel("vxlan", H1, S1, inner);
		odd.ip[52]++;
		const nested = tunnel("ipip", H1, S1, tunnel("ipip", "10.1.0.1", "10.1.0.2", inner));
		const size0 = { ...inner, gsoSize: 0 };
		const beyond = { ...inner, partial: { start: inner.ip.length - 10, offset: 16 } };
		const internal = { ...inner, partial: { start: 10, offset: 16 } };
		const ufo = { ...inner, gsoType: 3 };
		for (const frame of [plain, odd, nested, size0, beyond, internal, ufo]) expect(cut(frame)).toEqual([]);
	});
});

describe("tunnels of LAN hosts", () => {
	const names = TUNNEL_NAMES.filter((name) => name !== "6in4");

	function same(got: Uint8Array, sent: Frame, from: number) {
		expect(sum(got, 0, (got[0] & 15) * 4)).toBe(0xffff);
		expect([...got.subarray(from)]).toEqual([...sent.ip.subarray(from)]);
	}

	for (const name of names) {
		for (const ipOptions of [undefined, [1, 1, 1, 1]]) {
			it(`${name}: a partial checksum inside is not the outer one's${ipOptions === undefined ? "" : " (with IP options)"}`, () => {
				const rig = new Rig({ lan: [{}, { tun: true }] });
				rig.strict = false;
				const inner = tcp("10.7.0.1:1000", "10.7.0.2:80", { checksum: "partial", payload: 100 });
				const sent = tunnel(name, H1, S1, inner, ipOptions === undefined ? {} : { ipOptions });
				const header = ipOptions === undefined ? 20 : 24;
				const out = rig.toWan(sent);
				expect(out.partial).toEqual(sent.partial);
				same(out.bytes, sent, header + 8);
				const sums = (ip: Uint8Array) => {
					if (ip[9] !== 17) return;
					if (name !== "vxlan with checksum") return expect([ip[header + 6], ip[header + 7]]).toEqual([0, 0]);
					const whole = completed(ip, sent.partial as { start: number; offset: number });
					expect(sum(whole, header, whole.length, pseudoSum(whole))).toBe(0xffff);
				};
				sums(out.bytes);
				const answer = tunnel(name, S1, X, inner, ipOptions === undefined ? {} : { ipOptions });
				if (answer.ip[9] === 17) {
					// From the port that was asked to the one that asked.
					answer.ip.set([answer.ip[header + 2], answer.ip[header + 3], out.bytes[header], out.bytes[header + 1]], header);
					if (name === "vxlan with checksum") {
						answer.ip.fill(0, header + 6, header + 8);
						const whole = completed(answer.ip, answer.partial as { start: number; offset: number });
						const value = sum(whole, header, whole.length, pseudoSum(whole)) ^ 0xffff;
						answer.ip.set([value >> 8, value & 255], header + 6);
					}
				}
				const back = rig.toLan(answer);
				same(back.bytes, answer, header + 8);
				sums(back.bytes);
			});
		}
	}

	it("a super-packet is marked for the port to look at, and its MTU judged by all of its headers", () => {
		const rig = new Rig();
		rig.strict = false;
		const big = (gso: number) => tunnel("vxlan", H1, S1, tcp("10.7.0.1:1000", "10.7.0.2:80", { gso, payload: 20_000 }));
		rig.toWan(udp(`${H1}:50000`, `${S1}:4789`));
		for (const name of ["vxlan", "vxlan with checksum", "gre"] as TunnelName[]) {
			rig.context.wan.queue.mixed = false;
			rig.toWan(tunnel(name, H1, S1, tcp("10.7.0.1:1000", "10.7.0.2:80", { gso: 1200, payload: 20_000 })));
			expect(rig.context.wan.queue.mixed).toBe(true);
		}
		expect(rig.toWan(big(1500 - 90)).gsoSize).toBe(1410);
		expect(rig.out(big(1500 - 89)).drops).toEqual(["too-big"]);
	});
});

describe("F11: super-packets without DF whose segments do not fit are cut and fragmented", () => {
	for (const make of [udp, tcp]) {
		for (const wan of [{ mtu: 1280 }, { mtu: 1280, ethernet: false }]) {
			it(`${make === udp ? "UDP" : "TCP"}, ${wan.ethernet === false ? "without" : "with"} a link header`, () => {
				const rig = new Rig({ wan });
				rig.accounts = false;
				rig.strict = false;
				for (const [payload, pieces] of [
					[5600, 8],
					[56_000, 80],
				]) {
					const sent = make(`${H1}:40000`, `${S1}:9`, { gso: 1400, payload, df: false, flags: "PA" });
					const { wan: got, drops, errors } = rig.out(sent);
					expect([drops, errors]).toEqual([[], 0]);
					expect(got).toHaveLength(pieces);
					const whole = new Map<number, Uint8Array[]>();
					for (const p of got) {
						expect(p.bytes.length).toBeLessThanOrEqual(1280);
						expect(p.partial).toBeNull();
						whole.set(p.id, [...(whole.get(p.id) ?? []), p.bytes.subarray(20)]);
					}
					expect(whole.size).toBe(pieces / 2);
					const header = make === udp ? 8 : 20;
					expect(joined([...whole.values()].map((parts) => Uint8Array.from(joined(parts)).subarray(header)))).toEqual([
						...sent.ip.subarray(20 + header),
					]);
				}
			});
		}
	}

	it("with DF their sender is told", () => {
		const rig = new Rig({ wan: { mtu: 1280 } });
		const { drops, lan } = rig.out(udp(`${H1}:40000`, `${S1}:9`, { gso: 1400, payload: 5600 }));
		expect(drops).toEqual(["too-big"]);
		expect([lan[0][0].type, lan[0][0].code, lan[0][0].rest]).toEqual([3, 4, 1280]);
	});

	it("towards a LAN likewise", () => {
		const rig = new Rig({ lan: [{ mtu: 1280 }] });
		rig.accounts = false;
		rig.strict = false;
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		const { lan, drops } = rig.in(udp(`${S1}:9`, `${X}:40000`, { gso: 1400, payload: 5600, df: false }));
		expect([lan[0].length, drops]).toEqual([8, []]);
	});
});

describe("type of service", () => {
	it.each([
		["a fast packet", tcp(`${H1}:50000`, `${S1}:2`, { flags: "S", tos: 0 }), false],
		["one with a class", tcp(`${H1}:50000`, `${S1}:2`, { tos: 0x10 }), true],
		["one with EF", tcp(`${H1}:50000`, `${S1}:2`, { tos: 0xb8 }), true],
		["one with ECN alone", tcp(`${H1}:50000`, `${S1}:2`, { tos: 0x03 }), false],
	])("%s", (_what, frame, mixed) => {
		const rig = new Rig();
		rig.toWan(tcp(`${H1}:50000`, `${S1}:2`, { flags: "S" }));
		rig.toLan(tcp(`${S1}:2`, `${X}:50000`, { flags: "SA" }));
		rig.toWan(tcp(`${H1}:50000`, `${S1}:2`));
		for (const link of [rig.context.wan, ...rig.context.lan]) link.queue.mixed = false;
		rig.toWan(frame.ip[33] === 2 ? tcp(`${H1}:50000`, `${S1}:2`) : frame);
		expect(rig.context.wan.queue.mixed).toBe(mixed);
		const back = tcp(`${S1}:2`, `${X}:50000`, { tos: frame.ip[1] });
		rig.toLan(back);
		expect(rig.context.lan[0].queue.mixed).toBe(mixed);
	});
});
