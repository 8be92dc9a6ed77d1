/**
 * Whom the firewall bars: rules of others that drop what comes from the WAN, or goes there, by the other end's address
 * (banIP, fail2ban, CrowdSec, firewall4's rules). In prerouting and forward the kernel does not see masqd's packets, or
 * not with the WAN as their device, so masqd asks those rules itself when a session begins: a rule's tests are kept,
 * and what is in a set the kernel is asked, which takes some microseconds.
 *
 * What a rule asks that is the same for all packets (devices, family, whether the connection is established) is judged
 * once. Rules that ask for anything else (ports, limits, marks) are not followed; `left` names them.
 */
import type { Fd } from "masq:native";
import { BARRED_ALOUD, BARRED_IN, BARRED_OPEN, BARRED_OUT } from "../conntrack/barred.ts";
import { type AttributeReader, LITTLE_ENDIAN, MessageReader, MessageWriter, NETLINK_NETFILTER, NLM_F } from "../netlink/message.ts";
import { NFT, writeElements } from "../netlink/nftables.ts";
import { addressValue } from "../packet/layout.ts";
import type { Attributes, RuleReader } from "./nft-forwards.ts";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type BansIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close">;

/** Devices as rules may name them. */
export interface Place {
	names: readonly string[];
	indexes: readonly number[];
}

const DROP = 0;
const ACCEPT = 1;
const JUMP = -3;
const GOTO = -4;
const RETURN = -5;
/** Verdicts of masqd's own: drop and tell the sender; none. */
const REJECT = 2;
const NONE = 3;
const VERDICT = { CODE: 1, CHAIN: 2 } as const;
const DATA = { VALUE: 1, VERDICT: 2 } as const;
const META: Record<number, string> = { 1: "protocol", 4: "iif", 5: "oif", 6: "iifname", 7: "oifname", 15: "family", 16: "l4proto" };
const [EQUAL, UNEQUAL, LESS, AT_MOST, MORE] = [0, 1, 2, 3, 4];
/** What is no test. */
const NEUTRAL = ["counter", "log", "objref", "notrack", "last"];
const NAME_MAX = 16;
const DEPTH_MAX = 8;
const CT_ESTABLISHED = 2;
const CT_NEW = 8;
/** Peers whose answer is remembered. */
const REMEMBERED = 2048;

/** A test of a value: `what` it is of, of its bytes those of the mask. */
interface Test {
	what: string;
	mask: Uint8Array | null;
	/** A comparison's or a range's number, or -1 for a set. */
	op: number;
	from: Uint8Array;
	/** The end of a range. */
	to: Uint8Array | null;
	set: string;
	invert: boolean;
	/** The set's elements are verdicts. */
	map: boolean;
}

interface Rule {
	place: string;
	/** Null: something else is asked, too. */
	tests: (Test | null)[];
	verdict: number;
	to: string;
}

/** A rule whose constant tests hold. */
interface Step {
	tests: Test[];
	verdict: number;
	chain: Step[];
}

/** Collects the rules, then answers by them. */
export class ForeignBans {
	/** Rules that may bar somebody and ask for more: table and chain. */
	left: string[] = [];
	readonly #io: BansIo;
	/** By family, table and chain, with a space between. */
	readonly #chains = new Map<string, Rule[]>();
	readonly #bases: { chain: string; prerouting: boolean }[] = [];
	#programs: Step[][][] = [];
	readonly #known = new Map<number, number>();
	readonly #answer = new ArrayBuffer(1024);
	#fd: Fd = -1;

	constructor(io: BansIo) {
		this.#io = io;
	}

	/** A chain at a hook. */
	base(family: number, table: string, chain: string, prerouting: boolean): void {
		this.#bases.push({ chain: `${family} ${table} ${chain}`, prerouting });
	}

	rule(r: RuleReader, family: number, table: string, chain: string, expressions: readonly { name: string; a: Attributes }[]): void {
		const rule: Rule = { place: `${table} ${chain}`, tests: [], verdict: NONE, to: "" };
		const number = (a: Attributes, n: number) => (a.has(n) ? r.view.getUint32(a.get(n)![0]) : 0);
		const bytes = (span: readonly [number, number] | undefined) =>
			span === undefined ? new Uint8Array(0) : new Uint8Array(r.view.buffer.slice(span[0], span[1]));
		const value = (a: Attributes, n: number) => bytes(a.has(n) ? r.attributes(a.get(n)!).get(DATA.VALUE) : undefined);
		const registers = new Map<number, { what: string; mask: Uint8Array | null }>();
		/** Loaded since the last test: a key of several parts is not followed. */
		let loads = 0;
		const test = (register: number, op: number, from: Uint8Array, to: Uint8Array | null, set = "", invert = false, map = false) => {
			const { what = "", mask = null } = registers.get(register) ?? {};
			rule.tests.push(what === "" || loads > 1 ? null : { what, mask, op, from, to, set, invert, map });
			loads = 0;
		};
		for (const { name, a } of expressions) {
			if (name === "meta" || name === "ct" || name === "payload") {
				loads++;
				const what = name === "meta" ? META[number(a, 2)] : name === "ct" ? (number(a, 2) === 0 ? "state" : "") : addressOf(number, a);
				registers.set(number(a, 1), { what: what ?? "", mask: null });
			} else if (name === "bitwise") {
				const mask = value(a, 4);
				const { what = "" } = registers.get(number(a, 1)) ?? {};
				registers.set(number(a, 2), { what: mask.length > 0 ? what : "", mask });
			} else if (name === "cmp") test(number(a, 1), number(a, 2), value(a, 3), null);
			else if (name === "range") test(number(a, 1), number(a, 2), value(a, 3), value(a, 4));
			else if (name === "lookup") {
				const map = a.has(3);
				const set = `${family} ${table} ${r.text(a.get(1))}`;
				test(map && number(a, 3) !== 0 ? 0 : number(a, 2), -1, new Uint8Array(0), null, set, (number(a, 5) & 1) !== 0, map);
			} else if (name === "immediate") {
				const verdict = a.has(2) ? r.attributes(a.get(2)!).get(DATA.VERDICT) : undefined;
				if (verdict === undefined) continue;
				const v = r.attributes(verdict);
				rule.verdict = number(v, VERDICT.CODE) | 0;
				rule.to = `${family} ${table} ${r.text(v.get(VERDICT.CHAIN))}`;
			} else if (name === "reject") rule.verdict = REJECT;
			else if (!NEUTRAL.includes(name)) rule.tests.push(null);
		}
		const key = `${family} ${table} ${chain}`;
		const rules = this.#chains.get(key);
		if (rules === undefined) this.#chains.set(key, [rule]);
		else rules.push(rule);
	}

	/** All rules are there: what of them is for the WAN and the LANs. Returns whether anybody may be barred. */
	finish(wan: Place, lans: Place): boolean {
		const program = (inbound: boolean, state: number) => {
			const [iif, oif] = inbound ? [wan, lans] : [lans, wan];
			return this.#bases
				.map(({ chain, prerouting }) => this.#compile(chain, { inbound, state, iif, oif: prerouting ? null : oif }, 0))
				.filter((steps) => bites(steps, false));
		};
		// What the inside opens goes out as a new connection, and its answers come in by one that is established.
		this.#programs = [program(false, CT_NEW), program(true, CT_NEW), program(false, CT_ESTABLISHED), program(true, CT_ESTABLISHED)];
		this.left = [...new Set(this.left)];
		this.#chains.clear();
		return this.#programs.some((p) => p.length > 0);
	}

	#compile(name: string, facts: Facts, depth: number): Step[] {
		const steps: Step[] = [];
		for (const rule of this.#chains.get(name) ?? []) {
			const constant = this.#constant(rule, facts);
			if (constant === null) continue;
			const { tests, verdict, to, unknown } = constant;
			const chain = (verdict === JUMP || verdict === GOTO) && depth < DEPTH_MAX ? this.#compile(to, facts, depth + 1) : [];
			const step = { tests, verdict, chain };
			if (!unknown) steps.push(step);
			else if (bites([step], false)) this.left.push(rule.place);
		}
		return steps;
	}

	/** What is left of a rule where devices and state are known; null if it is for other packets. */
	#constant({ tests, verdict, to }: Rule, facts: Facts): { tests: Test[]; verdict: number; to: string; unknown: boolean } | null {
		const rest: Test[] = [];
		let unknown = false;
		for (const test of tests) {
			if (test === null) unknown = true;
			else if (test.what === "l4proto" || test.what === (facts.inbound ? "source" : "destination")) rest.push(test);
			else {
				const values = constantsOf(test.what, facts);
				if (values === null) unknown = true;
				else if (test.map) {
					const found = values.map((v) => this.#ask(test.set, v)).find((f) => f !== null);
					if (found === undefined) return null;
					verdict = found.verdict;
					to = `${test.set.slice(0, test.set.lastIndexOf(" "))} ${found.chain}`;
				} else if (!values.some((v) => this.#holds(test, v))) return null;
			}
		}
		if (rest.some((t) => t.map)) unknown = true;
		return verdict === NONE ? null : { tests: rest, verdict, to, unknown };
	}

	/** What a peer, raw, is barred from, as bits; what the kernel was asked is remembered until {@link forget}. */
	barred(peer: number, protocol: number): number {
		const key = peer * 256 + protocol;
		const known = this.#known.get(key);
		if (known !== undefined) return known;
		const address = new Uint8Array(4);
		new DataView(address.buffer).setUint32(0, addressValue(peer));
		const values: Record<string, Uint8Array> = { source: address, destination: address, l4proto: new Uint8Array([protocol]) };
		const told = this.#programs.map((chains) => chains.map((steps) => this.#run(steps, values, false)).find(bars));
		const [out, into, openOut, openIn] = told.map((verdict) => verdict !== undefined);
		const open = openOut || openIn ? BARRED_OPEN : 0;
		const aloud = told[0] === REJECT ? BARRED_ALOUD : 0;
		const bits = (out || openIn ? BARRED_OUT : 0) | (into || openOut ? BARRED_IN : 0) | open | aloud;
		if (this.#known.size >= REMEMBERED) this.#known.clear();
		this.#known.set(key, bits);
		return bits;
	}

	/** Sets may have other elements. */
	forget(): void {
		this.#known.clear();
	}

	close(): void {
		this.#io.close(this.#fd);
		this.#fd = -1;
	}

	/** The verdict. Without any test of the peer a drop is a policy, which masqd's own filtering stands for. */
	#run(steps: readonly Step[], values: Record<string, Uint8Array>, judged: boolean): number {
		for (const { tests, verdict, chain } of steps) {
			if (!tests.every((test) => this.#holds(test, values[test.what] as Uint8Array))) continue;
			const judging = judged || isJudged(tests);
			if (bars(verdict)) return judging ? verdict : ACCEPT;
			if (verdict === ACCEPT || verdict === RETURN) return verdict;
			if (verdict !== JUMP && verdict !== GOTO) continue;
			const told = this.#run(chain, values, judging);
			if (bars(told) || told === ACCEPT) return told;
			if (verdict === GOTO) return RETURN;
		}
		return NONE;
	}

	#holds({ op, mask, from, to, set, invert }: Test, value: Uint8Array): boolean {
		const masked = mask === null ? value : value.map((byte, n) => byte & (mask[n] ?? 0));
		if (op < 0) return (this.#ask(set, masked) !== null) !== invert;
		const order = compare(masked, from);
		if (to !== null) return (order >= 0 && compare(masked, to) <= 0) === (op === EQUAL);
		if (op === EQUAL || op === UNEQUAL) return (order === 0) === (op === EQUAL);
		return op === LESS ? order < 0 : op === AT_MOST ? order <= 0 : op === MORE ? order > 0 : order >= 0;
	}

	/** What the kernel has of a key in a set: a verdict if that is a map; null if it is not in it. */
	#ask(place: string, key: Uint8Array): { verdict: number; chain: string } | null {
		const [family, table, set] = place.split(" ") as [string, string, string];
		const out = new MessageWriter();
		writeElements(out, { type: NFT.GETSETELEM, flags: NLM_F.REQUEST, sequence: 1 }, Number(family), table, set, [{ key }]);
		const question = out.finish();
		let found: { verdict: number; chain: string } | null = null;
		try {
			if (this.#fd < 0) this.#fd = this.#io.netlinkOpen(NETLINK_NETFILTER, []);
			this.#io.netlinkSend(this.#fd, question, question.byteLength);
			for (;;) {
				const n = this.#io.netlinkReceive(this.#fd, this.#answer);
				if (n === 0) break;
				const reader = new MessageReader(this.#answer, n);
				while (reader.next()) if (reader.type === NFT.NEWSETELEM) found = verdictOf(reader.attributes(4));
			}
		} catch {
			this.close();
		}
		return found;
	}
}

/** The verdict in the only element of an answer. */
function verdictOf(list: AttributeReader): { verdict: number; chain: string } {
	const found = { verdict: ACCEPT, chain: "" };
	const walk = (reader: AttributeReader, path: readonly number[]) => {
		while (reader.next()) {
			if (path.length === 0) {
				if (reader.type === VERDICT.CODE) found.verdict = reader.network(0) | 0;
				else if (reader.type === VERDICT.CHAIN) found.chain = reader.text();
			} else if (reader.type === path[0]) walk(reader.nested(), path.slice(1));
		}
	};
	// List, element, its data, the verdict in it.
	walk(list, [3, 1, 2, DATA.VERDICT]);
	return found;
}

/** What a program is for. */
interface Facts {
	inbound: boolean;
	state: number;
	iif: Place;
	/** Null where it is not known yet. */
	oif: Place | null;
}

function addressOf(number: (a: Attributes, n: number) => number, a: Attributes): string {
	if (number(a, 2) !== 1 || number(a, 4) > 4) return "";
	const offset = number(a, 3);
	return offset === 12 ? "source" : offset === 16 ? "destination" : "";
}

/** The values that something may have, null if that is not known. */
function constantsOf(what: string, { state, iif, oif }: Facts): Uint8Array[] | null {
	const word = (n: number) => {
		const bytes = new Uint8Array(4);
		new DataView(bytes.buffer).setUint32(0, n, LITTLE_ENDIAN);
		return bytes;
	};
	const name = (text: string) => Uint8Array.from({ length: NAME_MAX }, (_, n) => text.charCodeAt(n) || 0);
	switch (what) {
		case "state":
			return [word(state)];
		case "family":
			return [new Uint8Array([2])];
		case "protocol":
			return [new Uint8Array([8, 0])];
		case "iifname":
			return iif.names.map(name);
		case "oifname":
			return oif?.names.map(name) ?? [];
		case "iif":
			return iif.indexes.map(word);
		case "oif":
			return oif?.indexes.map(word) ?? [];
		default:
			return null;
	}
}

function bars(verdict: number): boolean {
	return verdict === DROP || verdict === REJECT;
}

function isJudged(tests: readonly Test[]): boolean {
	return tests.some(({ what }) => what !== "l4proto");
}

/** Whether a chain may drop somebody for his address. */
function bites(steps: readonly Step[], judged: boolean): boolean {
	return steps.some(({ tests, verdict, chain }) => {
		const judging = judged || isJudged(tests);
		return bars(verdict) ? judging : bites(chain, judging);
	});
}

/** As memcmp of what both have. */
function compare(a: Uint8Array, b: Uint8Array): number {
	for (let n = 0; n < Math.min(a.length, b.length); n++) if (a[n] !== b[n]) return (a[n] as number) - (b[n] as number);
	return 0;
}
