/** Whom the firewall's rules bar: what of a ruleset is followed, and what becomes of sessions. */
import { describe, expect, it } from "vitest";
import { BARRED_ALOUD, BARRED_IN, BARRED_OPEN, BARRED_OUT } from "../../src/conntrack/barred.ts";
import { FirewallBans } from "../../src/daemon/firewall-bans.ts";
import type { Topology } from "../../src/daemon/topology.ts";
import { type BansIo, ForeignBans } from "../../src/kernel/foreign-bans.ts";
import type { RuleReader } from "../../src/kernel/nft-forwards.ts";
import { REASON } from "../../src/nat/reason.ts";
import { LITTLE_ENDIAN, MessageReader, MessageWriter } from "../../src/netlink/message.ts";
import { NFT } from "../../src/netlink/nftables.ts";
import { parseAddress } from "../../src/packet/address.ts";
import { loaded, Rig } from "./rig.ts";
import { udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const X = "203.0.113.1";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";

const TCP = 6;
const UDP = 17;
const INET = 1;
const DROP = 0;
const ACCEPT = 1;
const JUMP = 0xfffffffd;

type Value = number | string | Uint8Array | { verdict: number; chain?: string };
type Expression = readonly [name: string, attributes: Record<number, Value>];

/** Rules as their reader finds them: numbers in network order, values as bytes. */
class Ruleset implements RuleReader {
	readonly view = new DataView(new ArrayBuffer(65536));
	readonly little = LITTLE_ENDIAN;
	readonly #nested = new Map<number, Map<number, readonly [number, number]>>();
	readonly #texts = new Map<number, string>();
	#at = 8;

	attributes = (span: readonly [number, number]) => this.#nested.get(span[0]) ?? new Map();
	text = (span: readonly [number, number] | undefined) => (span === undefined ? "" : (this.#texts.get(span[0]) ?? ""));

	#put(value: Value): readonly [number, number] {
		const at = this.#at;
		this.#at += 64;
		if (typeof value === "number") this.view.setUint32(at, value);
		else if (typeof value === "string") this.#texts.set(at, value);
		else if (value instanceof Uint8Array) {
			new Uint8Array(this.view.buffer).set(value, at + 32);
			this.#nested.set(at, new Map([[1, [at + 32, at + 32 + value.length]]]));
		} else {
			const verdict = new Map([[1, this.#put(value.verdict)]]);
			if (value.chain !== undefined) verdict.set(2, this.#put(value.chain));
			const to = this.#put(0);
			this.#nested.set(to[0], verdict);
			this.#nested.set(at, new Map([[2, to]]));
		}
		return [at, at + 4];
	}

	list(expressions: readonly Expression[]) {
		return expressions.map(([name, attributes]) => ({
			name,
			a: new Map(Object.entries(attributes).map(([n, value]) => [Number(n), this.#put(value)] as const)),
		}));
	}
}

const name = (text: string) => Uint8Array.from({ length: 16 }, (_, n) => text.charCodeAt(n) || 0);
const bytes = (address: string) => {
	const four = new Uint8Array(4);
	new DataView(four.buffer).setUint32(0, parseAddress(address) as number);
	return four;
};
const state = (bits: number) => {
	const four = new Uint8Array(4);
	new DataView(four.buffer).setUint32(0, bits, LITTLE_ENDIAN);
	return four;
};

// What nft makes of these words.
const iifname = (device: string, op = 0): Expression[] => [
	["meta", { 1: 1, 2: 6 }],
	["cmp", { 1: 1, 2: op, 3: name(device) }],
];
const oifname = (device: string, op = 0): Expression[] => [
	["meta", { 1: 1, 2: 7 }],
	["cmp", { 1: 1, 2: op, 3: name(device) }],
];
const load = (offset: number, length = 4): Expression => ["payload", { 1: 1, 2: 1, 3: offset, 4: length }];
const inSet = (set: string, offset = 12, invert = 0): Expression[] => [load(offset), ["lookup", { 1: set, 2: 1, 5: invert }]];
const established: Expression[] = [
	["ct", { 1: 1, 2: 0 }],
	["bitwise", { 1: 1, 2: 1, 3: 4, 4: state(6), 5: state(0) }],
	["cmp", { 1: 1, 2: 1, 3: state(0) }],
];
const verdict = (code: number, chain?: string): Expression => [
	"immediate",
	{ 1: 0, 2: chain === undefined ? { verdict: code } : { verdict: code, chain } },
];
const counter: Expression = ["counter", {}];

/** A kernel with these sets; a key that is in one, or the verdict that a map has for it. */
class Kernel implements BansIo {
	sets: Record<string, (key: Uint8Array) => boolean | { verdict: number }> = {};
	asked = 0;
	#answers: ArrayBuffer[] = [];
	netlinkOpen = () => 7;
	close = () => {};
	netlinkSend = (_: number, buffer: ArrayBuffer, length: number) => {
		this.asked++;
		const reader = new MessageReader(buffer, length);
		reader.next();
		let set = "";
		let key = new Uint8Array(0);
		for (const a = reader.attributes(4); a.next(); ) {
			if (a.type === 2) set = a.text();
			if (a.type !== 3) continue;
			let inner = a.nested();
			for (let n = 0; n < 3; n++) {
				inner.next();
				if (n < 2) inner = inner.nested();
			}
			key = inner.bytes() as Uint8Array<ArrayBuffer>;
		}
		const found = this.sets[set]?.(key) ?? false;
		if (found === false) return;
		const out = new MessageWriter();
		out.message({ type: NFT.NEWSETELEM, flags: 0, sequence: 1 }).netfilter(INET);
		out.nest(3, () => {
			out.nest(1, () => {
				out.nest(1, () => out.bytesAttribute(1, key));
				if (typeof found === "object") out.nest(2, () => out.nest(2, () => out.networkAttribute(1, found.verdict)));
			});
		});
		this.#answers.push(out.finish());
	};
	netlinkReceive = (_: number, buffer: ArrayBuffer) => {
		const answer = this.#answers.shift();
		if (answer === undefined) return 0;
		new Uint8Array(buffer).set(new Uint8Array(answer));
		return answer.byteLength;
	};
}

const WAN = { names: ["wan0"], indexes: [2] };
const LAN = { names: ["br-lan"], indexes: [3] };
const IN_SET = (address: string) => (key: Uint8Array) => key.join() === bytes(address).join();

/** Chains by name, those at hooks with it; whom they bar. */
function follow(chains: Record<string, readonly (readonly Expression[])[]>, hooks: Record<string, "prerouting" | "forward">) {
	const kernel = new Kernel();
	kernel.sets = { bad: IN_SET(S1) };
	const bans = new ForeignBans(kernel);
	const ruleset = new Ruleset();
	for (const [chain, hook] of Object.entries(hooks)) bans.base(INET, "ban", chain, hook === "prerouting");
	for (const [chain, rules] of Object.entries(chains)) for (const rule of rules) bans.rule(ruleset, INET, "ban", chain, ruleset.list(rule));
	const any = bans.finish(WAN, LAN);
	return { any, bans, kernel, bits: (address = S1, protocol = UDP) => bans.barred(loaded(address), protocol) };
}

const EVERYTHING = BARRED_IN | BARRED_OUT | BARRED_OPEN;

describe("rules against peers", () => {
	it("a set of sources bars the new and the established", () => {
		const { any, bits, kernel } = follow({ in: [[...iifname("wan0"), ...inSet("bad"), counter, verdict(DROP)]] }, { in: "prerouting" });
		expect(any).toBe(true);
		expect([bits(S1), bits(S2)]).toEqual([EVERYTHING, 0]);
		const { asked } = kernel;
		bits(S1);
		expect(kernel.asked).toBe(asked);
	});

	it("what is in a set is asked anew when it may be another", () => {
		const { bans, bits, kernel } = follow({ in: [[...iifname("wan0"), ...inSet("bad"), verdict(DROP)]] }, { in: "prerouting" });
		expect(bits(S2)).toBe(0);
		kernel.sets.bad = IN_SET(S2);
		expect(bits(S2)).toBe(0);
		bans.forget();
		expect([bits(S1), bits(S2)]).toEqual([0, EVERYTHING]);
	});

	it("banIP's: established ones go on, the LAN is told", () => {
		const { bits } = follow(
			{
				refuse: [[["reject", {}]]],
				"wan-forward": [
					[...iifname("wan0", 1), verdict(ACCEPT)],
					[...established, verdict(ACCEPT)],
					[...inSet("bad"), verdict(DROP)],
				],
				"lan-forward": [
					[...oifname("wan0", 1), verdict(ACCEPT)],
					[...established, verdict(ACCEPT)],
					[...inSet("bad", 16), verdict(0xfffffffc, "refuse")],
				],
			},
			{ "wan-forward": "forward", "lan-forward": "forward" },
		);
		expect([bits(S1), bits(S2)]).toEqual([BARRED_IN | BARRED_OUT | BARRED_ALOUD, 0]);
	});

	it("an allowlist before it lets pass; a single address, a subnet and a negation count as well", () => {
		const wan = iifname("wan0");
		const allowed = {
			in: [
				[...wan, ...inSet("bad"), verdict(ACCEPT)],
				[...wan, load(12), ["cmp", { 1: 1, 2: 0, 3: bytes(S1) }], verdict(DROP)],
			],
		} as const;
		expect(follow(allowed, { in: "prerouting" }).bits(S1)).toBe(0);
		const one = { in: [[...wan, load(12), ["cmp", { 1: 1, 2: 0, 3: bytes(S1) }], verdict(DROP)]] } as const;
		expect([follow(one, { in: "prerouting" }).bits(S1), follow(one, { in: "prerouting" }).bits(S2)]).toEqual([EVERYTHING, 0]);
		const subnet = { in: [[...wan, load(12, 3), ["cmp", { 1: 1, 2: 0, 3: bytes(S1).slice(0, 3) }], verdict(DROP)]] } as const;
		expect(follow(subnet, { in: "prerouting" }).bits(S1)).toBe(EVERYTHING);
		const others = { in: [[...wan, ...inSet("bad", 12, 1), verdict(DROP)]] };
		expect([follow(others, { in: "prerouting" }).bits(S1), follow(others, { in: "prerouting" }).bits(S2)]).toEqual([0, EVERYTHING]);
	});

	it("a jump that only the WAN's packets take, and a protocol", () => {
		const { bits } = follow(
			{
				forward: [[...iifname("wan0"), verdict(JUMP, "wan")]],
				wan: [[["meta", { 1: 1, 2: 16 }], ["cmp", { 1: 1, 2: 0, 3: Uint8Array.of(TCP) }], ...inSet("bad"), verdict(JUMP, "drops")]],
				drops: [[verdict(DROP)]],
			},
			{ forward: "forward" },
		);
		expect([bits(S1, TCP), bits(S1, UDP), bits(S2, TCP)]).toEqual([EVERYTHING, 0, 0]);
	});

	it("the state by a verdict map", () => {
		const chain = [
			[
				["ct", { 1: 1, 2: 0 }],
				["lookup", { 1: "__map0", 2: 1, 3: 0 }],
			],
			[...iifname("wan0"), ...inSet("bad"), verdict(DROP)],
		] as const;
		const kernel = new Kernel();
		kernel.sets = { bad: IN_SET(S1), __map0: (key) => key.join() === state(2).join() && { verdict: ACCEPT } };
		const bans = new ForeignBans(kernel);
		const ruleset = new Ruleset();
		bans.base(INET, "ban", "forward", false);
		for (const rule of chain) bans.rule(ruleset, INET, "ban", "forward", ruleset.list(rule));
		expect(bans.finish(WAN, LAN)).toBe(true);
		expect(bans.barred(loaded(S1), UDP)).toBe(BARRED_IN);
	});

	it("nobody is barred by other devices, by a policy, or where nothing hangs on a hook", () => {
		const drop = (...rule: Expression[]) => follow({ in: [[...rule, verdict(DROP)]] }, { in: "forward" });
		expect(drop(...iifname("vpn0"), ...inSet("bad")).any).toBe(false);
		expect(drop(...iifname("wan0")).any).toBe(false);
		expect(follow({ in: [[...inSet("bad"), verdict(DROP)]] }, {}).any).toBe(false);
	});

	it("names what asks for more, where it may bar somebody", () => {
		const port: Expression[] = [
			["payload", { 1: 1, 2: 2, 3: 2, 4: 2 }],
			["cmp", { 1: 1, 2: 0, 3: Uint8Array.of(0, 80) }],
		];
		const one = follow({ in: [[...iifname("wan0"), ...inSet("bad"), ...port, verdict(DROP)]] }, { in: "forward" });
		expect([one.any, one.bans.left]).toEqual([false, ["ban in"]]);
		const limit = follow({ in: [[...iifname("wan0"), ...inSet("bad"), ["limit", {}], verdict(DROP)]] }, { in: "forward" });
		expect(limit.bans.left).toEqual(["ban in"]);
		// Whoever it is: that is not about a peer.
		expect(follow({ in: [[...iifname("wan0"), ...port, verdict(DROP)]] }, { in: "forward" }).bans.left).toEqual([]);
		expect(follow({ in: [[...iifname("vpn0"), ...inSet("bad"), ...port, verdict(DROP)]] }, { in: "forward" }).bans.left).toEqual([]);
	});
});

describe("sessions with whom is barred", () => {
	const topology = { wan: { name: "wan0", index: 2 }, lan: [{ device: { name: "br-lan", index: 3 } }] } as unknown as Topology;
	const take = (rig: Rig) => {
		const kernel = new Kernel();
		const bans = new ForeignBans(kernel);
		const ruleset = new Ruleset();
		bans.base(INET, "ban", "in", true);
		bans.rule(ruleset, INET, "ban", "in", ruleset.list([...iifname("wan0"), ...inSet("bad"), verdict(DROP)]));
		const firewall = new FirewallBans(rig.context, rig.admission);
		firewall.take(bans, topology);
		const look = () => {
			while (firewall.busy) firewall.step();
		};
		look();
		return { kernel, firewall, look };
	};

	it("do not begin, from inside or by a forward; those of others do", () => {
		const rig = new Rig({ forwards: [{ protocol: UDP, first: 5201, internal: H1, internalFirst: 5201 }] });
		rig.hops.answersInternal = true;
		const { kernel } = take(rig);
		kernel.sets.bad = IN_SET(S1);
		expect(rig.out(udp(`${H1}:40000`, `${S1}:9`)).wan).toEqual([]);
		expect(rig.context.drops[REASON.banned]).toBe(1);
		rig.in(udp(`${S1}:9`, `${X}:5201`));
		expect(rig.context.drops[REASON.banned]).toBe(2);
		rig.toWan(udp(`${H1}:40000`, `${S2}:9`));
		rig.toLan(udp(`${S2}:10`, `${X}:5201`));
	});

	it("end when they come to be barred, and no others", () => {
		const rig = new Rig();
		const { kernel, firewall, look } = take(rig);
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
		rig.toWan(udp(`${H1}:40000`, `${S2}:9`));
		expect(rig.context.table.used).toBe(2);
		kernel.sets.bad = IN_SET(S1);
		look();
		expect(rig.context.table.used).toBe(2);
		firewall.changed();
		look();
		expect(rig.context.table.used).toBe(1);
		rig.toLan(udp(`${S2}:9`, `${X}:40000`));
		firewall.close();
		rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
	});
});
