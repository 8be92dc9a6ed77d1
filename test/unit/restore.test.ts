/**
 * The table over a restart (src/conntrack/restore.ts, src/nat/revalidate.ts): what goes on, what does not, and what is
 * refused. W-4, W-6, C-8.
 */
import { describe, expect, it } from "vitest";
import { R_DELTA, R_IN, R_META, R_PEER } from "../../src/conntrack/record.ts";
import { readImage } from "../../src/conntrack/restore.ts";
import { EXTERNAL_WORDS, H_CHANGING, H_CLOCK, H_MAGIC, H_SESSIONS, H_VERSION, HEADER_WORDS } from "../../src/conntrack/table-layout.ts";
import { renumber } from "../../src/nat/renumber.ts";
import { unfit } from "../../src/nat/revalidate.ts";
import { sessionReset } from "../../src/nat/tcp-reset.ts";
import { seededRandom } from "./mutation.ts";
import { BOOT, loaded, Rig, type RigOptions } from "./rig.ts";
import { other, query, readPacket, tcp, udp } from "./rig-frame.ts";
import { rounds } from "./rounds.ts";

const X = "203.0.113.1";
const Y = "203.0.113.77";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";

/** A rig over what another one left, found `later` seconds after it was killed. */
function again(rig: Rig, o: RigOptions = {}, later = 1): Rig {
	const next = new Rig({ ...o, from: { image: rig.image(), second: rig.context.now + later } });
	next.hops.answersInternal = true;
	return next;
}

/** Some sessions of every kind. */
function busy(o: RigOptions = {}): Rig {
	const rig = new Rig(o);
	rig.hops.answersInternal = true;
	rig.toWan(udp(`${H1}:40000`, `${S1}:53000`));
	rig.toLan(udp(`${S1}:53000`, `${X}:40000`));
	rig.toWan(udp(`${H1}:40000`, `${S2}:53000`));
	const other40000 = rig.toWan(udp(`${H2}:40000`, `${S1}:53000`)).sourcePort;
	expect(other40000).not.toBe(40000);
	rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", seq: 100 }));
	rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA", seq: 900, ack: 101 }));
	rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", seq: 101, ack: 901 }));
	rig.toWan(tcp(`${H2}:50001`, `${S1}:80`, { flags: "S" }));
	rig.toWan(query(H1, S1, 40077));
	rig.toWan(other(H2, S2, 47));
	return rig;
}

describe("restore", () => {
	it("every session goes on with its mapping, state, counters and time", () => {
		const rig = busy();
		const before = rig.flows();
		rig.pass(30);
		const next = again(rig, {}, 10);
		expect(next.restored).toEqual({ kept: before.length, expired: 0, unfit: 0, broken: 0, excess: 0 });
		expect(next.flows()).toEqual(before);
		next.verify();
		for (const i of next.records()) expect(next.table.age(i, next.context.now16)).toBe(40);
		expect(next.toLan(udp(`${S1}:53000`, `${X}:40000`)).line).toContain(`${H1}:40000`);
		expect(next.toWan(udp(`${H1}:40000`, `${S1}:9`)).sourcePort).toBe(40000);
		next.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "A", seq: 901, ack: 101 }));
		// The order of the lists is that of the last use.
		next.pass(300);
		expect(next.flows().filter((line) => line.startsWith("udp"))).toEqual([`udp ${H1}:40000 ${X}:40000 ${S1}:9 new`]);
		next.verify();
	});

	it("again and again, with churn between", () => {
		let rig = busy({ sessions: 256 });
		for (let round = 0; round < 20; round++) {
			for (let n = 0; n < 40; n++) rig.out(udp(`192.168.1.${10 + n}:${5000 + round}`, `${S1}:${1000 + n}`));
			rig.pass(20);
			const before = rig.flows();
			rig = again(rig, { sessions: 256 });
			expect(rig.flows()).toEqual(before);
			rig.verify();
		}
	});

	it("what expired while nobody was there is gone, and its ports are free", () => {
		const next = again(busy(), {}, 400);
		expect(next.flows()).toEqual([`tcp ${H1}:50000 ${X}:50000 ${S1}:80 established`]);
		next.verify();
		expect(next.toWan(udp(`${H2}:40000`, `${S1}:53000`)).sourcePort).toBe(40000);
	});

	it("used after the clock was last written: not old but young", () => {
		const rig = busy();
		const image = rig.image();
		new Int32Array(image)[H_CLOCK] -= 20;
		const next = new Rig({ from: { image, second: rig.context.now } });
		expect(next.flows()).toEqual(rig.flows());
	});

	for (const [from, to, kept] of [
		[1024, 256, 256],
		[256, 1024, 200],
		[1024, 512, 400],
	]) {
		it(`${kept} of a table of ${from} in one of ${to}`, () => {
			const rig = new Rig({ sessions: from });
			const flows = from === 256 ? 200 : kept === 256 ? 600 : 400;
			for (let n = 0; n < flows; n++) {
				if (n % 16 === 0) rig.pass(1);
				rig.toWan(udp(`192.168.1.${10 + (n % 40)}:${5000 + n}`, `${S1}:53000`));
			}
			const next = again(rig, { sessions: to });
			expect(next.restored).toEqual({ kept, expired: 0, unfit: 0, broken: 0, excess: flows - kept });
			next.verify();
			// The last used stay.
			const all = new Set(rig.flows());
			for (const line of next.flows()) expect(all.has(line)).toBe(true);
			expect(next.flows().some((line) => line.includes(`:${5000 + flows - 1} `))).toBe(true);
			next.toWan(udp(`${H1}:1`, `${S2}:1`));
			next.verify();
		});
	}

	it("hosts have their policy as it is now", () => {
		const rig = busy();
		const next = again(rig, { filtering: "eif" });
		expect(next.toLan(udp(`${S2}:9`, `${X}:40000`)).line).toContain(H1);
		const strict = again(next, { filtering: "apdf" });
		expect(strict.in(udp(`${S1}:77`, `${X}:40000`)).drops).toEqual(["filtered"]);
	});
});

describe("a file that is not to be trusted", () => {
	/** Changes a word. */
	const put = (word: number, value: number) => (words: Int32Array) => {
		words[word] = value;
		return words.buffer as ArrayBuffer;
	};
	const cut = (bytes: number) => (words: Int32Array) => words.buffer.slice(0, bytes) as ArrayBuffer;
	const cases: [string, (words: Int32Array) => ArrayBuffer, string][] = [
		["too short", cut(100), "too short"],
		["not masqd's", put(H_MAGIC, 7), "not masqd's"],
		["of another layout", put(H_VERSION, 9999), "layout"],
		["of another boot", put(8, 99), "before the machine was started"],
		["with an impossible size", put(H_SESSIONS, 7), "damaged"],
		["with a greater size", put(H_SESSIONS, 60000), "end is missing"],
		["cut off", cut(40000), "end is missing"],
		["with a clock ahead", put(H_CLOCK, 200_000), "clock"],
	];
	for (const [what, damage, word] of cases) {
		it(`${what}: refused`, () => {
			const rig = busy();
			const image = damage(new Int32Array(rig.image()));
			expect(readImage(image, BOOT, rig.context.now)).toContain(word);
		});
	}

	it("random bytes in the records: refused, or nothing that was not there before", () => {
		const random = seededRandom(77);
		const rig = busy();
		const known = new Set(rig.flows().map((line) => line.split(" ").slice(0, 4).join(" ")));
		let refused = 0;
		for (let round = 0; round < rounds(300); round++) {
			const image = rig.image();
			const bytes = new Uint8Array(image);
			const from = (HEADER_WORDS + EXTERNAL_WORDS) * 4;
			for (let n = 1 + Math.floor(random() * 400); n > 0; n--) bytes[from + Math.floor(random() * 15 * 64)] = Math.floor(random() * 256);
			const next = new Rig({ from: { image, second: rig.context.now } });
			if (next.restored === null) {
				refused++;
				continue;
			}
			next.verify();
			for (const line of next.flows()) {
				const [name, internal, external, peer] = line.split(" ");
				// A peer's address stands there once; the rest cannot be changed by chance.
				expect([...known].some((k) => k.startsWith(`${name} ${internal} ${external} `) && k.endsWith(peer.slice(peer.indexOf(":"))))).toBe(
					true,
				);
			}
		}
		expect(refused).toBeGreaterThan(rounds(300) / 3);
	});

	it("two sessions of different hosts with one external port: the second is not taken over", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
		rig.toWan(udp(`${H2}:40001`, `${S1}:2`));
		const image = rig.image();
		const words = new Int32Array(image);
		const second = HEADER_WORDS + EXTERNAL_WORDS + 2 * 16;
		// As if H2 had the port 40000, deltas and all.
		const t = rig.table.T;
		const like = new Rig();
		like.toWan(udp(`${H2}:40001`, `${S1}:9`));
		words[second + R_IN] = (t[16 + R_IN] & (0xffff << 16)) | (words[second + R_IN] & 0xffff);
		const fake = new Rig({ ranges: [{ first: 40000, last: 40000 }] });
		fake.toWan(udp(`${H2}:40001`, `${S1}:2`));
		words[second + R_IN] = fake.table.T[16 + R_IN];
		words[second + R_DELTA] = fake.table.T[16 + R_DELTA];
		const next = new Rig({ from: { image, second: rig.context.now } });
		expect(next.restored).toEqual({ kept: 1, expired: 0, unfit: 1, broken: 0, excess: 0 });
		next.verify();
	});
});

describe("a policy that has changed meanwhile", () => {
	const forward = { protocol: 6, first: 2222, internal: H1, internalFirst: 22 };

	it("W-6: sessions of a forward end with it, also in the range; others stay", () => {
		const inRange = { protocol: 6, first: 40022, internal: H2, internalFirst: 22 };
		const rig = new Rig({ forwards: [forward, inRange] });
		rig.hops.answersInternal = true;
		rig.toLan(tcp(`${S1}:1`, `${X}:2222`, { flags: "S" }));
		rig.toLan(tcp(`${S1}:1`, `${X}:40022`, { flags: "S" }));
		rig.toWan(tcp(`${H2}:22`, `${S2}:80`, { flags: "S" }));
		rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
		const all = rig.flows();
		expect(all).toHaveLength(4);
		expect(again(rig, { forwards: [forward, inRange] }).flows()).toEqual(all);
		const next = again(rig, { forwards: [forward] });
		expect(next.flows()).toEqual(all.filter((line) => !line.includes(H2)));
		next.verify();
		const none = again(rig);
		expect(none.flows()).toEqual(all.filter((line) => line.startsWith("udp")));
		none.verify();
		const moved = again(rig, { forwards: [{ ...forward, internal: H2 }, inRange] });
		expect(moved.flows()).toEqual(all.filter((line) => !line.includes(":2222 ")));
	});

	it("W-6: a forward's source is narrowed", () => {
		const rig = new Rig({ forwards: [forward] });
		rig.hops.answersInternal = true;
		rig.toLan(tcp(`${S1}:1`, `${X}:2222`, { flags: "S" }));
		rig.toLan(tcp(`${S2}:1`, `${X}:2222`, { flags: "S" }));
		expect(again(rig, { forwards: [{ ...forward, source: `${S2}/32` }] }).flows()).toEqual([`tcp ${H1}:22 ${X}:2222 ${S2}:1 syn-received`]);
	});

	it("a forward that takes a port in use ends its mapping", () => {
		const rig = new Rig();
		rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
		rig.toWan(tcp(`${H1}:40000`, `${S1}:1`, { flags: "S" }));
		const next = again(rig, { forwards: [{ protocol: 17, first: 40000, internal: H2 }] });
		expect(next.flows()).toEqual([`tcp ${H1}:40000 ${X}:40000 ${S1}:1 syn-sent`]);
		next.verify();
	});

	it("static NAT, pools, port ranges, exemptions, LAN subnets: who is concerned ends, nobody else", () => {
		const rig = busy();
		const all = rig.flows();
		const of = (address: string) => all.filter((line) => line.includes(` ${address}`) && line.split(" ")[1].startsWith(address));
		expect(again(rig, { statics: [{ internal: H1, external: Y }] }).flows()).toEqual(of(H2));
		expect(again(rig, { pools: [{ nets: [`${H2}/32`], externals: [Y] }] }).flows()).toEqual(of(H1));
		const narrow = again(rig, { ranges: [{ first: 39000, last: 40077 }] });
		expect(narrow.flows()).toContain(`udp ${H1}:40000 ${X}:40000 ${S1}:53000 open`);
		expect(narrow.flows().some((line) => line.startsWith("tcp"))).toBe(false);
		narrow.verify();
		expect(again(rig, { exempts: [`${S2}/32`] }).flows()).toEqual(all.filter((line) => !line.includes(` ${S2}:`)));
		expect(again(rig, { lan: [{ nets: [`${H2}/32`] }] }).flows()).toEqual(of(H2));
	});

	it("static NAT and pools that stay keep their sessions; a pool address has one holder", () => {
		const o: RigOptions = { statics: [{ internal: H1, external: Y }], pools: [{ nets: [`${H2}/32`], externals: ["203.0.113.78"] }] };
		const fixed = new Rig(o);
		fixed.toWan(udp(`${H1}:40000`, `${S1}:1`));
		fixed.toWan(udp(`${H2}:40000`, `${S1}:1`));
		const next = again(fixed, o);
		expect(next.flows()).toEqual(fixed.flows());
		expect(next.externals.list.map((x) => x.sessions)).toEqual([0, 0, 1]);
		next.pass(400);
		expect(next.externals.list[2].holder).toBe(0);
	});

	it("a reload judges the same way, in place, and gives the ports back", () => {
		const rig = busy();
		rig.publish();
		const all = rig.flows();
		const forwards = [{ protocol: 6, first: 50000, last: 50000, internal: loaded(H2), internalFirst: 22, source: null }];
		const ending = unfit(rig.context, rig.keeper({ policy: { ...rig.context.policy, forwards } }));
		for (const i of ending) rig.admission.end(i, "reload");
		expect(rig.flows()).toEqual(all.filter((line) => !line.includes(":50000")));
		rig.verify();
		// The maps made anew are as they were.
		rig.externals.renew([{ address: loaded(X), shared: true, internal: 0, pool: -1 }], rig.table.addresses, rig.context.policy.ranges);
		expect(rig.keeper().reclaim()).toEqual([]);
		rig.verify();
	});
});

describe("external numbers", () => {
	const external = (address: number, shared = false) => ({ address, shared, internal: 0, pool: -1 });

	it("stay with their addresses; new ones take free numbers first", () => {
		const { externals } = new Rig();
		const before = new Int32Array(EXTERNAL_WORDS);
		before.set([1, 20, 30, 0, 50]);
		const ranges = [{ first: 32768, last: 65535 }];
		expect(externals.renew([external(1, true), external(50), external(60), external(20), external(70)], before, ranges)).toEqual([
			0, 4, 3, 1, 5,
		]);
		expect(externals.list.map((x) => x.address)).toEqual([1, 20, 0, 60, 50, 70]);
		expect(externals.find(30)).toBe(-1);
		expect(externals.portCount(0, 17)).toEqual([32768, 32768]);
	});

	it("a number that nobody needs any more is taken when there is no other", () => {
		const { externals } = new Rig();
		const before = Int32Array.from({ length: EXTERNAL_WORDS }, (_, n) => n + 1);
		const wanted = [external(1, true), external(999), external(5)];
		const numbers = externals.renew(wanted, before, [{ first: 32768, last: 65535 }]);
		expect(numbers[0]).toBe(0);
		expect(numbers[2]).toBe(4);
		expect(new Set(numbers).size).toBe(3);
	});
});

describe("another WAN address", () => {
	function change(rig: Rig, to: string): { resets: string[]; moved: number; ended: number } {
		const resets: string[] = [];
		const done = renumber(rig.context, rig.admission, loaded(to), (i) => {
			const length = sessionReset(rig.context, i, 0);
			if (length > 0) resets.push(readPacket(rig.context.views.B.slice(24, 24 + length)).line);
		});
		rig.context.wan.address = loaded(to);
		return { resets, ...done };
	}

	it("W-1: mappings move with their ports, TCP is reset where its host expects it", () => {
		const rig = busy();
		const before = rig.flows();
		const done = change(rig, Y);
		expect([done.moved, done.ended]).toEqual([before.length - 2, 2]);
		expect(done.resets).toHaveLength(1);
		expect(done.resets[0]).toContain(`${S1}:80`);
		expect(done.resets[0]).toContain(`${H1}:50000`);
		expect(rig.flows()).toEqual(before.filter((line) => !line.startsWith("tcp")).map((line) => line.replace(`${X}:`, `${Y}:`)));
		rig.verify();
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:53000`)).source).toBe(Y);
		expect(rig.toLan(udp(`${S1}:53000`, `${Y}:40000`)).line).toContain(`${H1}:40000`);
		expect(rig.in(udp(`${S1}:53000`, `${X}:40000`)).drops).toEqual(["not-ours"]);
		// There and back, many times.
		for (let n = 0; n < 10; n++) change(rig, n % 2 === 0 ? X : Y);
		rig.verify();
	});

	it("W-1: a segment in mid-connection is answered with a reset, not adopted", () => {
		const rig = busy();
		expect(rig.toWan(tcp(`${H2}:51000`, `${S1}:80`, { flags: "A", seq: 5, ack: 6 })).source).toBe(X);
		change(rig, Y);
		const outcome = rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", seq: 101, ack: 950 }));
		expect(outcome.drops).toEqual(["tcp-no-session"]);
		const [reset] = outcome.lan[0];
		expect(reset.line).toContain(`${H1}:50000`);
		expect(rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags: "R", seq: 101 })).lan[0]).toEqual([]);
		expect(rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" })).source).toBe(Y);
	});

	it("killed between two stores of the change: UDP goes on at the address that each record is for", () => {
		const rig = busy();
		const before = rig.flows();
		const half = new Int32Array(rig.image());
		change(rig, Y);
		const whole = new Int32Array(rig.image());
		const records = HEADER_WORDS + EXTERNAL_WORDS;
		for (let i = 1; i <= 8; i++) {
			const words = whole.slice();
			words[H_CHANGING] = loaded(X);
			// The deltas from record i on are still the old ones.
			for (let k = i; k <= 8; k++) words[records + k * 16 + R_DELTA] = half[records + k * 16 + R_DELTA];
			const next = new Rig({ from: { image: words.buffer as ArrayBuffer, second: rig.context.now } });
			expect(next.flows()).toEqual(before.filter((line) => !line.startsWith("tcp")).map((line) => line.replace(`${X}:`, `${Y}:`)));
			next.verify();
		}
	});
});

describe("C-8: rest of a port", () => {
	const one: RigOptions = { filtering: "eif", ranges: [{ first: 40000, last: 40003 }], timeouts: { udp: 120 } };

	/** Lets a mapping of H1's end. */
	function ended(o: RigOptions): Rig {
		const rig = new Rig(o);
		rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
		rig.pass(121);
		expect(rig.flows()).toEqual([]);
		return rig;
	}

	it("another host does not get it for 120 s, though nearly all are taken; the own one does", () => {
		const rig = ended(one);
		for (const port of [40001, 40002, 40003]) expect(rig.toWan(udp(`${H2}:${port}`, `${S1}:1`)).sourcePort).toBe(port);
		expect(rig.out(udp(`${H2}:40000`, `${S1}:1`)).drops).toEqual(["ports-exhausted"]);
		rig.verify();
		expect(rig.in(udp(`${S1}:1`, `${X}:40000`)).drops).toEqual(["no-mapping"]);
		expect(rig.toWan(udp(`${H1}:40000`, `${S2}:1`)).sourcePort).toBe(40000);
		rig.verify();
	});

	it("after 120 s it is anybody's", () => {
		const rig = ended(one);
		rig.pass(119);
		expect(rig.toWan(udp(`${H2}:40000`, `${S1}:1`)).sourcePort).not.toBe(40000);
		rig.pass(2);
		expect(rig.resting()).toEqual([]);
		expect(rig.toWan(udp(`192.168.1.30:40000`, `${S1}:1`)).sourcePort).toBe(40000);
		rig.verify();
	});

	it("an endpoint that had to take another port has that one back", () => {
		const rig = new Rig({ ...one, ranges: undefined });
		rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
		const p = rig.toWan(udp(`${H2}:40000`, `${S1}:1`)).sourcePort;
		rig.pass(121);
		expect(rig.toWan(udp(`${H2}:40000`, `${S2}:1`)).sourcePort).toBe(p);
		rig.verify();
	});

	it("at once where peers are filtered, for TCP and for ICMP", () => {
		for (const filtering of ["apdf", "adf"] as const) {
			const rig = ended({ ...one, filtering });
			expect(rig.resting()).toEqual([]);
			expect(rig.toWan(udp(`${H2}:40000`, `${S1}:1`)).sourcePort).toBe(40000);
		}
		const rig = new Rig(one);
		rig.toWan(tcp(`${H1}:40000`, `${S1}:1`, { flags: "S" }));
		rig.toWan(query(H1, S1, 40000));
		rig.pass(300);
		expect(rig.resting()).toEqual([]);
		expect(rig.toWan(tcp(`${H2}:40000`, `${S1}:1`, { flags: "S" })).sourcePort).toBe(40000);
	});

	it("it takes no room from sessions: the longest rest ends when records run out", () => {
		const rig = new Rig({ filtering: "eif", sessions: 256, timeouts: { udp: 120 } });
		for (let n = 0; n < 256; n++) rig.toWan(udp(`192.168.1.${10 + (n % 50)}:${40000 + n}`, `${S1}:1`));
		rig.pass(121);
		expect(rig.resting()).toHaveLength(256);
		expect(rig.table.used).toBe(0);
		expect(rig.hosts.active).toBe(0);
		for (let n = 0; n < 256; n++) rig.toWan(udp(`192.168.1.${10 + (n % 50)}:${50000 + n}`, `${S1}:1`));
		expect(rig.table.used).toBe(256);
		expect(rig.resting()).toEqual([]);
		rig.verify();
	});

	it("goes on over a restart, with the time that it had left", () => {
		const rig = ended(one);
		rig.pass(50);
		const next = again(rig, one, 10);
		expect(next.restored?.kept).toBe(0);
		expect(next.resting()).toHaveLength(1);
		expect(next.toWan(udp(`${H2}:40000`, `${S1}:1`)).sourcePort).not.toBe(40000);
		next.verify();
		next.pass(61);
		expect(next.resting()).toEqual([]);
		next.verify();
		expect(again(rig, one, 71).resting()).toEqual([]);
	});

	it("begins while nobody is there: the time of a mapping is up between a kill and the restart", () => {
		for (const filtering of ["eif", "apdf"] as const) {
			const o: RigOptions = { ...one, filtering };
			const rig = new Rig(o);
			rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
			rig.toWan(udp(`${H1}:40000`, `${S2}:1`));
			const next = again(rig, o, 130);
			expect(next.restored).toEqual({ kept: 0, expired: 2, unfit: 0, broken: 0, excess: 0 });
			expect(next.flows()).toEqual([]);
			expect(next.hosts.active).toBe(0);
			next.verify();
			expect(next.toWan(udp(`${H2}:40000`, `${S1}:1`)).sourcePort === 40000).toBe(filtering === "apdf");
			next.verify();
			// Its rest is over too.
			expect(again(rig, o, 241).resting()).toEqual([]);
		}
	});

	it("that has become a forward's over a reload or a restart is the forward's when the rest is over", () => {
		const forwards = [{ protocol: 17, first: 40000, internal: H1 }];
		const reloaded = ended(one);
		reloaded.reload({ filtering: "eif", forwards });
		for (const rig of [reloaded, again(ended(one), { ...one, forwards })]) {
			rig.hops.answersInternal = true;
			rig.verify();
			rig.pass(121);
			expect(rig.resting()).toEqual([]);
			expect(rig.toWan(udp(`${H2}:40000`, `${S1}:1`)).sourcePort).not.toBe(40000);
			expect(rig.toLan(udp(`${S2}:9`, `${X}:40000`)).destination).toBe(H1);
			rig.verify();
		}
	});

	it("when the state was lost strangers are let in only after 120 s", () => {
		const rig = new Rig({ filtering: "eif" });
		rig.context.strangersFrom = rig.context.now + 120;
		rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
		expect(rig.in(udp(`${S2}:9`, `${X}:40000`)).drops).toEqual(["filtered"]);
		rig.toLan(udp(`${S1}:1`, `${X}:40000`));
		rig.pass(120);
		rig.toLan(udp(`${S2}:9`, `${X}:40000`));
	});

	it("random churn with rests, forwards and restarts", () => {
		const random = seededRandom(8);
		const o: RigOptions = {
			...one,
			sessions: 256,
			ranges: [{ first: 40000, last: 40299 }],
			forwards: [{ protocol: 17, first: 40010, internal: H1 }],
		};
		let rig = new Rig(o);
		for (let n = 0; n < rounds(3000); n++) {
			const host = `192.168.1.${10 + Math.floor(random() * 30)}`;
			const port = 40000 + Math.floor(random() * 60);
			if (random() < 0.6) rig.out(udp(`${host}:${port}`, `${S1}:${1 + Math.floor(random() * 3)}`));
			else rig.in(udp(`${S2}:${Math.floor(random() * 5) + 1}`, `${X}:${port}`));
			if (n % 10 === 0) rig.pass(Math.floor(random() * 20));
			if (n % 100 === 0) {
				rig.verify();
				const before = rig.flows();
				rig = again(rig, o, 0);
				expect(rig.flows()).toEqual(before);
				rig.verify();
			}
		}
	});
});

describe("records", () => {
	it("a peer's port that is not the same in both words, an unknown state, another protocol's state: not whole", () => {
		const records = HEADER_WORDS + EXTERNAL_WORDS;
		for (const [word, value] of [
			[R_IN, 0x12345678],
			[R_DELTA, 1],
			[R_META, 17 | (31 << 16)],
			[R_META, 17 | (8 << 16)],
			[R_META, 17 | (9 << 8) | (2 << 16)],
		]) {
			const rig = new Rig();
			rig.toWan(udp(`${H1}:40000`, `${S1}:1`));
			rig.toWan(udp(`${H2}:40001`, `${S1}:1`));
			const image = rig.image();
			new Int32Array(image)[records + 16 + word] = value;
			const next = new Rig({ from: { image, second: rig.context.now } });
			expect(next.restored).toEqual({ kept: 1, expired: 0, unfit: 0, broken: 1, excess: 0 });
			expect(next.flows()).toEqual([`udp ${H2}:40001 ${X}:40001 ${S1}:1 new`]);
			expect(new Int32Array(image)[records + 16 + R_PEER]).toBe(loaded(S1));
			next.verify();
		}
	});
});
