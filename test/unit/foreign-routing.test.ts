import { describe, expect, it } from "vitest";
import { foreignRouting, ledDestinations, ledHosts, type RoutingFacts, ruleFor } from "../../src/kernel/foreign-routing.ts";
import type { InterfaceAddress } from "../../src/kernel/mirror.ts";
import type { RuleMessage } from "../../src/netlink/route.ts";
import { formatSubnet, parseAddress, parseSubnet, type Subnet } from "../../src/packet/address.ts";

const subnet = (text: string): Subnet => parseSubnet(text) as Subnet;

function rule(priority: number, table: number, o: Partial<RuleMessage> & { from?: string } = {}): RuleMessage {
	const { from, ...rest } = o;
	const source = from === undefined ? { address: 0, prefix: 0 } : subnet(from);
	const plain = {
		kind: "rule" as const,
		flags: 0,
		sequence: 0,
		deleted: false,
		family: 2,
		action: 1,
		destination: 0,
		destinationPrefix: 0,
		narrow: false,
		users: false,
		iif: "",
		oif: "",
		suppressPrefix: -1,
	};
	return { ...plain, protocol: 0, inverted: false, priority, table, source: source.address, sourcePrefix: source.prefix, ...rest };
}

const own = (text: string, prefix: number): InterfaceAddress =>
	({ address: parseAddress(text), prefix, peer: 0, broadcast: 0, secondary: false }) as unknown as InterfaceAddress;
const USUAL = [rule(0, 255), rule(32766, 254), rule(32767, 253)];
const FACTS: RoutingFacts = {
	wan: { name: "wan0", addresses: [own("203.0.113.1", 24)] },
	lan: [{ name: "br-lan", kind: "packet", subnets: [subnet("192.168.1.0/24")] }],
	exempts: [],
	rules: USUAL,
};

const told = (o: Partial<RoutingFacts>) => foreignRouting({ ...FACTS, ...o });

describe("policy rules of others", () => {
	for (const [what, one] of [
		["of a LAN's subnet", rule(1000, 100, { from: "192.168.1.0/24" })],
		["of a host", rule(1000, 200, { from: "192.168.1.20/32" })],
		["of a supernet", rule(1000, 200, { from: "192.168.0.0/16" })],
		["for everybody (a mark, a destination)", rule(29998, 201)],
		["that do not match a mark, as wg-quick's", rule(32765, 51820, { inverted: true })],
		["that prohibit", rule(1000, 0, { from: "192.168.1.20/32", action: 8 })],
		["that go elsewhere in the list", rule(1000, 0, { action: 2 })],
		["of a LAN's device", rule(10, 100, { iif: "br-lan" })],
		["of every device but one", rule(10, 100, { iif: "br-guest", inverted: true })],
	] as const) {
		it(`${what} are told`, () => {
			const lines = told({ rules: [...USUAL, one] });
			expect(lines.length).toBe(1);
			expect(lines[0]).toContain("policy routing (");
			expect(lines[0]).toContain(`${one.priority}:`);
		});
	}

	for (const [what, one] of [
		["masqd's own", rule(100, 7777, { iif: "br-lan", protocol: 109 })],
		["the main table's without its default route", rule(32764, 254, { suppressPrefix: 0 })],
		["a VRF's", rule(1000, 0)],
		["the WAN address's", rule(1000, 1, { from: "203.0.113.1/32" })],
		["another network's", rule(1000, 100, { from: "10.8.0.0/24" })],
		["another device's", rule(1000, 100, { iif: "lo" })],
		["of sockets bound to a device", rule(1000, 100, { oif: "wan0" })],
		["without effect", rule(1000, 0, { action: 3 })],
	] as const) {
		it(`${what} are not`, () => expect(told({ rules: [...USUAL, one] })).toEqual([]));
	}

	it("are the kernel's to follow with the other drivers", () => {
		for (const kind of ["tun", "kernel"])
			expect(told({ lan: [{ ...FACTS.lan[0], kind } as RoutingFacts["lan"][number]], rules: [...USUAL, rule(29998, 201)] })).toEqual([]);
	});

	it("are named, the first three", () => {
		const many = [1, 2, 3, 4, 5].map((n) => rule(n, 100 + n, { from: "192.168.1.0/24" }));
		expect(told({ rules: many })[0]).toContain("(1: from 192.168.1.0/24 lookup 101; 2: from 192.168.1.0/24 lookup 102; 3:");
		expect(told({ rules: many })[0]).toContain("and 2 more");
	});
});

describe("hosts that are led past masqd", () => {
	const text = (nets: readonly Subnet[]) => nets.map(formatSubnet);
	const hosts = (kind: string, ...rules: RuleMessage[]) =>
		text(ledHosts([...USUAL, ...rules], [{ name: "br-lan", kind, subnets: [subnet("192.168.1.0/24")] }]));

	it("are those that a rule names, or everybody", () => {
		expect(hosts("packet")).toEqual([]);
		expect(hosts("packet", rule(1000, 200, { from: "192.168.1.20/32" }), rule(1001, 200, { from: "10.0.0.0/8" }))).toEqual([
			"192.168.1.20",
		]);
		expect(hosts("packet", rule(1000, 200, { from: "192.168.0.0/16" }))).toEqual(["192.168.1.0/24"]);
		expect(hosts("packet", rule(29998, 201, { narrow: true }))).toEqual(["192.168.1.0/24"]);
		expect(hosts("packet", rule(1, 51820, { inverted: true }))).toEqual(["192.168.1.0/24"]);
		expect(hosts("packet", rule(1, 0, { from: "192.168.1.20/32", action: 8 }))).toEqual(["192.168.1.20"]);
		expect(hosts("kernel", rule(29998, 201))).toEqual([]);
	});

	it("may be led by the WAN with the tun driver", () => {
		expect(hosts("tun")).toEqual([]);
		expect(hosts("tun", rule(500, 254, { from: "192.168.1.20/32" }))).toEqual(["192.168.1.0/24"]);
		expect(hosts("packet", rule(500, 254, { from: "192.168.1.20/32" }))).toEqual([]);
		expect(hosts("tun", rule(500, 254, { suppressPrefix: 0 }))).toEqual([]);
	});

	it("are no users of the router, and nobody for what goes to some destinations", () => {
		const to = rule(100, 7, { destination: subnet("10.0.0.0/8").address, destinationPrefix: 8 });
		expect(hosts("packet", rule(1000, 200, { users: true }), to)).toEqual([]);
		expect(text(ledDestinations([...USUAL, to]))).toEqual(["10.0.0.0/8"]);
		expect(
			text(
				ledDestinations([
					{ ...to, narrow: true },
					{ ...to, sourcePrefix: 32 },
					{ ...to, iif: "br-lan" },
				]),
			),
		).toEqual([]);
		expect(hosts("packet", { ...to, narrow: true })).toEqual(["192.168.1.0/24"]);
	});

	it("hear by which rule", () => {
		const [one, other] = ["192.168.1.20", "192.168.1.21"].map((text) => parseAddress(text) as number) as [number, number];
		const server = parseAddress("198.51.100.10") as number;
		const rules = [
			...USUAL,
			rule(1000, 200, { from: "192.168.1.20/32" }),
			rule(2000, 201, { destination: server, destinationPrefix: 32 }),
			rule(29998, 202, { narrow: true }),
		];
		const by = (host: number, to: number, each: boolean) => ruleFor(rules, FACTS.lan, host, to, each)?.priority;
		expect([by(one, 1, true), by(other, 1, true), by(other, 1, false), by(other, server, true)]).toEqual([1000, undefined, 29998, 2000]);
	});
});

describe("another address of the WAN's", () => {
	const wan = { ...FACTS.wan, addresses: [own("203.0.113.1", 24), own("192.168.100.2", 24)] };
	it("is told unless its network is exempt", () => {
		expect(told({ wan })[0]).toContain("192.168.100.2: the LAN reaches 192.168.100.0/24 as 203.0.113.1");
		expect(told({ wan, exempts: [subnet("192.168.100.0/24")] })).toEqual([]);
		expect(told({ wan, exempts: [subnet("192.168.100.128/25")] }).length).toBe(1);
	});
	it("in the same network is not", () => {
		expect(told({ wan: { ...wan, addresses: [own("203.0.113.1", 24), own("203.0.113.2", 24), own("203.0.113.9", 32)] } })).toEqual([]);
	});
});
