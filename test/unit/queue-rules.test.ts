import { describe, expect, it } from "vitest";
import { parseAddress } from "../../src/packet/address.ts";
import { installQueueRules, type QueueIo } from "../../src/port/queue-install.ts";
import { type QueueFacts, queueRuleset } from "../../src/port/queue-rules.ts";

const FACTS: QueueFacts = {
	wan: "wan0",
	lans: ["br-lan", "guest"],
	externals: ["203.0.113.1", "203.0.113.5"].map((text) => parseAddress(text) as number),
	own: [parseAddress("203.0.113.1") as number],
	router: [parseAddress("203.0.113.1") as number],
	inside: [],
	pcp: [],
	mss: 1460,
	clamp: false,
	tcp: [
		{ first: 80, last: 80 },
		{ first: 32768, last: 65535 },
	],
	udp: [{ first: 32768, last: 65535 }],
	exempts: [],
	timeouts: { udp: 300, dns: 10, icmp: 60, tcp_opening: 240, tcp_established: 7440, tcp_closing: 241, tcp_reset: 242, other: 300 },
};

describe("the kernel driver's rules", () => {
	const text = queueRuleset(FACTS);

	it("name each external address by its number", () => {
		expect(text).toContain("elements = { 0x4001 : 203.0.113.1, 0x4002 : 203.0.113.5 }");
		expect(text).toContain("set alone {\n\t\ttype ipv4_addr\n\t\telements = { 203.0.113.5 }");
		expect(text).toContain('set lans {\n\t\ttype ifname\n\t\telements = { "br-lan", "guest" }');
	});

	it("ask about the first packet of a connection alone, inbound only at masqd's ports", () => {
		const asking = text.split("\n").filter((line) => /goto (asked|queue)_/.test(line) && line.includes("ct state"));
		expect(asking).toHaveLength(5);
		for (const line of asking) expect(line).toContain("ct state new ct status & confirmed == 0");
		expect(text).toContain("ip daddr 203.0.113.1 tcp dport @claimed_tcp goto asked_in");
		expect(text).toContain("elements = { 80, 32768-65535 }");
	});

	it("answer for busy endpoints before they ask, but not where more is to be known of the peer", () => {
		for (const way of ["in", "out"]) {
			const rules = (text.split(`\tchain asked_${way} {`)[1] ?? "").split("\t}")[0].trim().split("\n");
			const answers = rules.flatMap((rule, n) => (rule.includes("meta priority set") ? [n] : []));
			const timed = rules.findLastIndex((rule) => rule.includes("ct timeout set"));
			expect(answers[0]).toBeGreaterThan(timed);
			expect(answers.at(-1)).toBe(rules.length - 3);
			expect(rules.at(-1)?.trim()).toBe(`goto queue_${way}`);
			for (const n of answers) {
				expect(rules[n]).toContain(way === "in" ? "ip saddr != @unsure" : "ip daddr != @unsure");
				expect(rules[n]).toMatch(/limit rate 500\/second burst 500 packets accept$/);
			}
		}
		expect(text).toContain("udp dport != 53 ip daddr != @unsure meta priority set iif . ip saddr . udp sport map @busy");
		expect(text).toContain("tcp flags & (fin | syn | rst | ack) == syn meta priority set");
	});

	it("give the kernel's timers the configured times", () => {
		expect(text).toContain("policy = { unreplied : 300, replied : 300 }");
		expect(text).toContain("policy = { unreplied : 10, replied : 10 }");
		for (const state of ["syn_sent : 240", "established : 7440", "close_wait : 7440", "last_ack : 241", "close : 242"])
			expect(text).toContain(state);
	});

	it("let nothing out that is not ours", () => {
		expect(text).toContain('oifname "wan0" ip saddr != @own ip daddr != @exempts counter name leak drop');
		expect(text).toContain("set own {\n\t\ttype ipv4_addr\n\t\telements = { 203.0.113.1, 203.0.113.5 }");
	});

	it("are as few a packet of a known connection as can be: one chain of kind filter a hook, which lets it go at once", () => {
		const filters = text.split("\tchain ").filter((chain) => chain.includes("type filter"));
		expect(filters.map((chain) => /hook (\w+)/.exec(chain)?.[1])).toEqual(["prerouting", "postrouting"]);
		for (const [n, chain] of filters.entries())
			expect(chain.split("\n").indexOf("\t\tct state established accept")).toBeLessThanOrEqual(2 + n);
	});

	it("look at segments' sizes only where those of a LAN may not fit the WAN", () => {
		expect(text).not.toContain("maxseg");
		const narrow = queueRuleset({ ...FACTS, mss: 1452, clamp: true });
		expect(narrow).toContain("tcp flags & (syn | rst) == syn jump clamp");
		expect(narrow).toContain('iifname "wan0" tcp option maxseg size set 1452');
	});

	it("ask nothing from outside while the WAN has no address", () => {
		const without = queueRuleset({ ...FACTS, externals: [0], own: [] });
		expect(without).not.toContain("ct status & confirmed == 0 ip daddr");
		expect(without).not.toContain("daddr 0.0.0.0");
	});

	it("refuse a device whose name nft could take for something else", () => {
		for (const wan of ['w"', "w*", "w w", ""]) expect(() => queueRuleset({ ...FACTS, wan })).toThrow("cannot be written");
	});
});

describe("a kernel that cannot do it", () => {
	const io = (status: number, output: string) => {
		const ran: string[] = [];
		const made: QueueIo = {
			run: (argv) => {
				ran.push(argv.slice(0, 3).join(" "));
				return { status, output };
			},
			netlinkOpen: () => 3,
			netlinkSend: () => {},
			netlinkReceive: () => 0,
			close: () => {},
		};
		return { made, ran };
	};

	it("is told by the packages that it lacks, and nothing of the table stays", () => {
		const { made, ran } = io(0, "");
		expect(() => installQueueRules(made, FACTS)).toThrow(
			"the kernel cannot queue packets by nft; install kmod-nft-queue, kmod-nft-nat and kmod-nf-conntrack-netlink",
		);
		expect(ran).toEqual(["nft -f -", "nft delete table"]);
	});

	it("is told how nft ended where that has said nothing: 137 is one that hung", () => {
		expect(() => installQueueRules(io(137, "").made, FACTS)).toThrow("install the table ip masqd: nft: status 137");
	});

	it("is told by nft's own words where those say it", () => {
		expect(() => installQueueRules(io(1, "/dev/stdin:5:1-2: Error: no\nmore").made, FACTS)).toThrow(
			"install the table ip masqd: nft: /dev/stdin:5:1-2: Error: no",
		);
	});
});
