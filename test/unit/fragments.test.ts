/** Fragments through the router and fragments made by it (RFC 4787 REQ-13 and REQ-14, RFC 6864, RFC 1858). */
import { describe, expect, it } from "vitest";
import { type Outcome, Rig, type RigOptions } from "./rig.ts";
import { type Frame, ipv4, type Packet, plain, query, readPacket, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const X = "203.0.113.1";
const S1 = "203.0.113.10";

function rigOf(o: RigOptions = {}): Rig {
	const rig = new Rig(o);
	rig.accounts = false;
	rig.strict = false;
	return rig;
}

/** Cuts a whole packet into fragments of `size` payload bytes. */
function cut(frame: Frame, size: number, id = 5555): Frame[] {
	const { ip } = frame;
	const text = (at: number) => [...ip.subarray(at, at + 4)].join(".");
	const list: Frame[] = [];
	for (let at = 20; at < ip.length; at += size) {
		const body = ip.slice(at, at + size);
		list.push(
			plain(
				ipv4(text(12), text(16), ip[9], body, {
					df: false,
					id,
					ttl: ip[8],
					tos: ip[1],
					fragment: (at - 20) / 8,
					more: at + size < ip.length,
				}),
			),
		);
	}
	return list;
}

/** Puts fragments together again as their receiver would. */
function join(pieces: Packet[]): Packet {
	expect(new Set(pieces.map((p) => p.id)).size).toBe(1);
	const bytes = new Uint8Array(20 + pieces.reduce((n, p) => n + p.bytes.length - 20, 0));
	for (const p of pieces) {
		const offset = (((p.bytes[6] & 0x1f) << 8) | p.bytes[7]) * 8;
		bytes.set(p.bytes.subarray(20), 20 + offset);
		expect(p.faults.filter((f) => f === "header checksum" || f.startsWith("total"))).toEqual([]);
	}
	const [first] = pieces;
	const text = (at: number) => [...first.bytes.subarray(at, at + 4)].join(".");
	return readPacket(ipv4(text(12), text(16), first.protocol, bytes.slice(20), { df: false, id: first.id, ttl: first.ttl, tos: first.tos }));
}

const ORDERS = [
	[0, 1, 2],
	[2, 1, 0],
	[1, 0, 2],
	[2, 0, 1],
];

describe("fragments through the router", () => {
	it("U-14 go on in any order, both ways, byte for byte", () => {
		for (const order of ORDERS) {
			const rig = rigOf();
			const whole = udp(`${H1}:40000`, `${S1}:3478`, { payload: 3000, df: false, tos: 0xb8 });
			const parts = cut(whole, 1480);
			let out: Outcome | null = null;
			for (const n of order) out = rig.out(parts[n]);
			const there = join(out?.wan ?? []);
			expect([there.line, there.faults, there.ttl, there.tos]).toEqual([`udp ${X}:40000 > ${S1}:3478`, [], 63, 0xb8]);
			expect(there.payload).toEqual(whole.ip.slice(28));
			const reply = udp(`${S1}:3478`, `${X}:40000`, { payload: 2999, df: false });
			let back: Outcome | null = null;
			for (const n of order) back = rig.in(cut(reply, 1480)[n]);
			const here = join(back?.lan[0] ?? []);
			expect([here.line, here.faults, here.id]).toEqual([`udp ${S1}:3478 > ${H1}:40000`, [], 5555]);
			expect(here.payload).toEqual(reply.ip.slice(28));
			rig.verify();
		}
	});

	it("of TCP, ICMP queries, and of protocols without ports", () => {
		const rig = rigOf();
		rig.out(tcp(`${H1}:1025`, `${S1}:80`, { flags: "S" }));
		const [a, b] = cut(tcp(`${H1}:1025`, `${S1}:80`, { payload: 780 }), 400);
		rig.out(b);
		expect(join(rig.out(a).wan).faults).toEqual([]);
		const [c, d] = cut(query(H1, S1, 77, { payload: 2000 }), 1480);
		rig.out(c);
		const echo = join(rig.out(d).wan);
		expect([echo.type, echo.faults]).toEqual([8, []]);
		const [e, f] = cut(plain(ipv4(H1, S1, 47, new Uint8Array(2000))), 1480);
		rig.out(f);
		expect(rig.out(e).wan.length).toBe(2);
	});

	it("through the hairpin", () => {
		const rig = rigOf();
		rig.out(udp(`${H1}:40000`, `${S1}:3478`));
		const parts = cut(udp(`${H2}:41000`, `${X}:40000`, { payload: 3000, df: false }), 1480);
		rig.out(parts[1]);
		rig.out(parts[0]);
		const there = join(rig.out(parts[2]).lan[0]);
		expect([there.line, there.faults, there.ttl]).toEqual([`udp ${X}:41000 > ${H1}:40000`, [], 63]);
	});

	it("ID-1 two hosts with one identification get two", () => {
		const rig = rigOf();
		const a = cut(udp(`${H1}:40000`, `${S1}:3478`, { payload: 2000, df: false }), 1480);
		const b = cut(udp(`${H2}:40000`, `${S1}:3478`, { payload: 2000, df: false }), 1480);
		rig.out(a[0]);
		rig.out(b[0]);
		const first = join(rig.out(a[1]).wan);
		const second = join(rig.out(b[1]).wan);
		expect(first.id).not.toBe(second.id);
	});

	it("S40d: what goes to others does not show in a destination's identifications", () => {
		const rig = rigOf();
		const id = (host: string, to: string) => rig.toWan(udp(`${host}:40000`, `${to}:9`, { df: false })).id;
		const own = [id(H1, S1)];
		for (let n = 1; n < 8; n++) {
			for (let k = 0; k < n * 10; k++) id(H2, `198.51.100.${1 + k}`);
			own.push(id(H1, S1));
		}
		const steps = own.slice(1).map((v, n) => (v - own[n]) & 0xffff);
		// A destination that shares the counter, if there is one, would show as a step; what is sent to 280 others
		// would show in all.
		expect(Math.max(...steps)).toBeLessThan(8);
	});

	it("S40d: they differ for two minutes at 200 a second, of all hosts together", () => {
		for (const mask of [0xffff, 0x7fff]) {
			const rig = rigOf();
			rig.context.ipIds = mask;
			const last = new Map<number, number>();
			for (let second = 0; second < 200; second++) {
				rig.at(rig.context.now + 1);
				for (let n = 0; n < 200; n++) {
					const { id } = rig.toWan(udp(`${n & 1 ? H1 : H2}:40000`, `${S1}:9`, { df: false }));
					expect(id & ~mask).toBe(0);
					const before = last.get(id);
					if (before !== undefined) expect(second - before).toBeGreaterThanOrEqual(120);
					last.set(id, second);
				}
			}
		}
	});

	it("ID-1 a datagram without DF too, whole or not; one with DF keeps its own", () => {
		const rig = rigOf();
		rig.strict = true;
		const ids = [H1, H2].map((h) => rig.toWan(udp(`${h}:40000`, `${S1}:3478`, { df: false, id: 5555 })).id);
		expect(new Set(ids).size).toBe(2);
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3478`, { df: true, id: 5555 })).id).toBe(5555);
	});

	it("U-14b an overlap ends the datagram, a repetition does not", () => {
		const rig = rigOf();
		const whole = udp(`${H1}:40000`, `${S1}:3478`, { payload: 1000, df: false });
		const parts = cut(whole, 480);
		rig.out(parts[0]);
		expect(rig.out(parts[0]).drops).toEqual(["fragment-overlap"]);
		rig.out(parts[2]);
		expect(rig.out(parts[1]).wan.length).toBe(3);
		rig.out(parts[0]);
		const overlap = plain(ipv4(H1, S1, 17, new Uint8Array(480), { df: false, id: 5555, fragment: 59, more: true }));
		expect(rig.out(overlap).drops).toEqual(["fragment-overlap", "fragment-overlap"]);
		expect(rig.out(parts[1]).drops).toEqual(["fragment-overlap"]);
		expect(rig.out(parts[2]).drops).toEqual(["fragment-overlap"]);
	});

	it("one that never becomes whole is given up after 30 s and changes nothing", () => {
		const rig = rigOf();
		rig.out(cut(udp(`${H1}:40000`, `${S1}:3478`, { payload: 1000, df: false }), 480)[0]);
		expect(rig.slowPath.pending).toBe(true);
		expect(rig.idle(31).drops).toEqual(["fragment-timeout"]);
		expect([rig.slowPath.pending, rig.flows()]).toEqual([false, []]);
	});

	it("U-14a a flood of stray pieces does not hurt those that come in order", () => {
		const rig = rigOf();
		rig.out(udp(`${H1}:40000`, `${S1}:3478`));
		for (let n = 0; n < 2000; n++) {
			const source = n & 1 ? S1 : `198.51.100.${n % 250}`;
			rig.in(plain(ipv4(source, X, 17, new Uint8Array(1480), { df: false, id: n, fragment: 185, more: true })));
			if (n % 20 !== 0) continue;
			const parts = cut(udp(`${S1}:3478`, `${X}:40000`, { payload: 3000, df: false }), 1480, 10000 + n);
			rig.in(parts[0]);
			rig.in(parts[1]);
			expect(rig.in(parts[2]).lan[0].length).toBe(3);
		}
	});

	it("a flood from outside takes nothing from the inside, nor one from inside from the outside", () => {
		const rig = rigOf();
		rig.out(udp(`${H1}:40000`, `${S1}:3478`));
		const out = cut(udp(`${H1}:40000`, `${S1}:3478`, { payload: 3000, df: false }), 1480, 77);
		const back = cut(udp(`${S1}:3478`, `${X}:40000`, { payload: 3000, df: false }), 1480, 78);
		rig.out(out.slice(0, 2));
		for (let n = 0; n < 600; n++)
			rig.in(
				plain(ipv4(`198.51.${n >> 7}.${1 + (n & 127)}`, X, 17, new Uint8Array(1480), { df: false, id: n, fragment: 185, more: true })),
			);
		expect(rig.out(out[2]).wan.length).toBe(3);
		rig.pass(31);
		rig.in(back.slice(0, 2));
		for (let n = 0; n < 600; n++)
			rig.out(plain(ipv4(`192.168.1.${20 + (n % 200)}`, S1, 17, new Uint8Array(1480), { df: false, id: n, fragment: 185, more: true })));
		expect(rig.in(back[2]).lan[0].length).toBe(3);
	});

	it("a host that floods takes from itself, with many datagrams or with large ones", () => {
		for (const size of [8, 1480, 30_000]) {
			const rig = rigOf();
			const parts = cut(udp(`${H1}:40000`, `${S1}:3478`, { payload: 3000, df: false }), 1480, 77);
			rig.out(parts.slice(0, 2));
			for (let n = 0; n < 300; n++)
				rig.out(
					plain(
						ipv4(H2, S1, 17, new Uint8Array(size), { df: false, id: 1000 + (n >> 2), fragment: 185 + (n & 3) * (size / 8), more: true }),
					),
				);
			expect(rig.out(parts[2]).wan.length).toBe(3);
		}
	});

	it("one of the largest size passes, also when others wait", () => {
		const rig = rigOf();
		for (let n = 0; n < 40; n++)
			rig.in(plain(ipv4(`198.51.100.${1 + n}`, X, 17, new Uint8Array(1480), { df: false, id: n, fragment: 185, more: true })));
		const parts = cut(udp(`${H1}:40000`, `${S1}:3478`, { payload: 45_000, df: false }), 1480, 77);
		let sent = 0;
		for (const part of parts) sent += rig.out(part).wan.length;
		expect(sent).toBe(parts.length);
	});

	it("what is for the router itself is left to the kernel", () => {
		const rig = rigOf();
		const parts = cut(udp(`${S1}:53`, `${X}:999`, { payload: 2000, df: false }), 1480);
		rig.in(parts[0]);
		expect(rig.in(parts[1]).left).toBe(2);
	});
});

describe("fragments made by the router", () => {
	it("U-13a in order, within the MTU, only the first with ports", () => {
		for (const checksum of ["full", "partial", "zero"] as const) {
			for (const fresh of [true, false]) {
				const rig = rigOf({ wan: { mtu: 1280 } });
				if (!fresh) rig.out(udp(`${H1}:40000`, `${S1}:3478`));
				const frame = udp(`${H1}:40000`, `${S1}:3478`, { payload: 1401, df: false, checksum });
				const { wan } = rig.out(frame);
				expect(wan.map((p) => [p.bytes.length, p.bytes[6] & 0x20, p.partial])).toEqual([
					[1276, 0x20, null],
					[173, 0, null],
				]);
				const whole = join(wan);
				expect([whole.line, whole.faults]).toEqual([`udp ${X}:40000 > ${S1}:3478`, []]);
				expect(whole.payload).toEqual(frame.ip.slice(28));
				expect(wan.every((p) => p.ether?.type === 0x800)).toBe(true);
			}
		}
	});

	it("inward too, and fragments of fragments", () => {
		const rig = rigOf({ lan: [{ mtu: 600 }] });
		rig.out(udp(`${H1}:40000`, `${S1}:3478`));
		const frame = udp(`${S1}:3478`, `${X}:40000`, { payload: 1401, df: false });
		const inward = rig.in(frame).lan[0];
		expect(inward.length).toBe(3);
		expect(join(inward).payload).toEqual(frame.ip.slice(28));
		const big = udp(`${S1}:3478`, `${X}:40000`, { payload: 2900, df: false });
		const [a, b] = cut(big, 1480);
		rig.in(b);
		expect(join(rig.in(a).lan[0]).payload).toEqual(big.ip.slice(28));
	});

	it("repeats only the options that are to be repeated", () => {
		const rig = rigOf({ wan: { mtu: 600 } });
		const { wan } = rig.out(udp(`${H1}:40000`, `${S1}:3478`, { payload: 1000, df: false, ipOptions: [0x94, 4, 0, 0, 68, 4, 5, 0] }));
		expect(wan.map((p) => p.ipOptions)).toEqual([
			[0x94, 4, 0, 0, 68, 4, 5, 0],
			[0x94, 4, 0, 0, 1, 1, 1, 1],
		]);
		expect(
			join(wan.map((p) => ({ ...p, bytes: Uint8Array.from([...p.bytes.slice(0, 20), ...p.bytes.slice(28)]), faults: [] }))).payload.length,
		).toBe(1000);
	});
});
