/** What is masqd's and what stays the kernel's: plan and netlink in, topology out. */
import { describe, expect, it } from "vitest";
import { makePlan, type Plan } from "../../src/config/plan.ts";
import {
	elsewhere,
	knownNets,
	lanFilterFacts,
	passesBy,
	type Topology,
	topologyOf,
	wanFilterFacts,
	withPorts,
} from "../../src/daemon/topology.ts";
import { OwnPorts } from "../../src/kernel/local-ports.ts";
import { RTM } from "../../src/netlink/route.ts";
import { type AddressRange, formatAddress, formatSubnet } from "../../src/packet/address.ts";
import { TCP, UDP } from "../../src/packet/layout.ts";
import { address, type FakeKernel, LAN, link, MAC, opened, own, route, router, WAN } from "./kernel-stand-in.ts";

const SCTP = 132;
const MAIN = `config masqd 'main'
	option enabled '1'
	list ports '40000-49999'

config wan
	option device 'wan0'
`;
const HOME = `${MAIN}
config lan
	option device 'lan0'
	option driver 'packet'
`;

function planOf(text: string): Plan {
	const { plan, errors } = makePlan(text, "masqd", { memTotalKb: 131_072 });
	expect(errors).toEqual([]);
	return plan as Plan;
}

function noPorts(): OwnPorts {
	return new OwnPorts({ take: () => true, release: () => {} });
}

/** The topology of a configuration, in words. */
function told(text: string, kernel: FakeKernel, ports = noPorts()) {
	const t = topologyOf(planOf(text), opened(kernel), ports);
	const range = ({ first, last }: AddressRange) =>
		first === last ? formatAddress(first) : `${formatAddress(first)}-${formatAddress(last)}`;
	return {
		wan: `${t.wan.name} ${t.wan.index} ${t.address === 0 ? "none" : formatAddress(t.address)}`,
		lan: t.lan.map(
			(p) => `${p.name} ${p.kind}${p.tun} of ${p.home}${p.framed ? " framed" : ""} ${p.nets.map((n) => formatSubnet(n)).join(" ")}`,
		),
		conflict: t.conflict,
		externals: t.externals.map(formatAddress),
		owned: t.owned.map(range),
		claimed: t.claimed.map((c) => `${c.proto} ${c.first}-${c.last}`),
		elsewhere: elsewhere(t).map((s) => formatSubnet(s)),
		own: t.own.map(formatAddress),
	};
}

describe("topology", () => {
	it("is what the plan names and the kernel shows", () => {
		const kernel = router();
		kernel.routes.push(route("10.8.0.0", 16, LAN));
		const text = `${HOME}	option subnet ''
config redirect
	option proto 'tcp'
	option src_dport '443'
	option dest_ip '192.168.1.10'

config static
	option external '203.0.113.7'
	option internal '192.168.1.20'

config exempt
	option dest '198.51.100.0/24'
`.replace("	option subnet ''\n", "\n");
		expect(told(text, kernel)).toEqual({
			wan: "wan0 3 203.0.113.1",
			lan: ["lan0 packet of 0 framed 192.168.1.0/24"],
			conflict: "",
			externals: ["203.0.113.1"],
			owned: ["203.0.113.7"],
			claimed: ["6 40000-49999", "17 40000-49999", "6 443-443"],
			elsewhere: ["10.8.0.0/16", "192.168.1.0/24", "198.51.100.0/24"],
			own: ["192.168.1.1", "203.0.113.1"],
		});
	});

	it("has a tap beside each TUN port, behind all LANs, and no link header on the TUN", () => {
		const kernel = router();
		kernel.links.push(link(4, "lan1"));
		kernel.addresses.push(own(4, "192.168.2.1", 24));
		const text = `${MAIN}
config lan
	option device 'lan0'
	option driver 'tun'

config lan
	option device 'lan1'
	option driver 'tun'
	list subnet '172.16.0.0/16'
`;
		expect(told(text, kernel).lan).toEqual([
			"lan0 tunmasq0 of 0 192.168.1.0/24",
			"lan1 tunmasq1 of 1 172.16.0.0/16",
			"lan0 tap of 0 framed 192.168.1.0/24",
			"lan1 tap of 1 framed 172.16.0.0/16",
		]);
	});

	it("knows devices that are not there by name only", () => {
		const kernel = router();
		kernel.links = [link(LAN, "lan0")];
		kernel.addresses = [own(LAN, "192.168.1.1", 24)];
		kernel.routes = [];
		const t = topologyOf(planOf(HOME), opened(kernel), noPorts());
		expect(t.wan).toEqual({ name: "wan0", index: 0, type: -1, ethernet: false, mac: null, mtu: 1500, up: false, addresses: [], nets: [] });
		expect([t.address, t.externals]).toEqual([0, []]);
		expect(t.lan[0].device.mac).toEqual(MAC);
	});

	it("RFC 4787 REQ-7: a WAN whose subnet overlaps a LAN's has no address", () => {
		const kernel = router();
		kernel.addresses = [own(LAN, "192.168.1.1", 24), own(WAN, "192.168.1.77", 16)];
		const { conflict, externals, wan } = told(HOME, kernel);
		expect(conflict).toBe("the WAN's subnet 192.168.0.0/16 overlaps 192.168.1.0/24 of lan0");
		expect([externals, wan]).toEqual([[], "wan0 3 none"]);
	});

	it("knows the hosts of a LAN that has lost its addresses for a moment", () => {
		const kernel = router();
		const view = opened(kernel);
		const known = (t: Topology, starting: boolean) => knownNets(t, starting).map((net) => formatSubnet(net));
		const guests = planOf(`${HOME}\nconfig lan\n	option device 'guest0'\n	option driver 'packet'\n`);
		const first = topologyOf(planOf(HOME), view, noPorts());
		kernel.tell(own(LAN, "192.168.1.1", 24), RTM.DELADDR);
		view.drain();
		const without = topologyOf(planOf(HOME), view, noPorts(), first);
		expect([without.lan[0].nets, known(without, false)]).toEqual([[], ["192.168.1.0/24"]]);
		// One that never had any keeps nobody else's hosts from being told, but at a start.
		const both = topologyOf(guests, view, noPorts(), without);
		expect([known(both, false), known(both, true)]).toEqual([["192.168.1.0/24"], []]);
	});

	it("follows the kernel's news", () => {
		const kernel = router();
		const view = opened(kernel);
		const plan = planOf(HOME);
		const before = topologyOf(plan, view, noPorts());
		kernel.addresses = [own(LAN, "192.168.1.1", 24), own(WAN, "203.0.113.9", 24)];
		kernel.tell(own(WAN, "203.0.113.1", 24), RTM.DELADDR);
		kernel.tell(own(WAN, "203.0.113.9", 24), RTM.NEWADDR);
		view.drain();
		const after = topologyOf(plan, view, noPorts());
		expect([before.address, after.address].map(formatAddress)).toEqual(["203.0.113.1", "203.0.113.9"]);
		expect({ ...after, wan: before.wan, address: before.address, externals: before.externals, own: before.own }).toEqual(before);
	});

	it("leaves the router's own services their ports: the guard at once, the filters when they have lasted", () => {
		const ports = noPorts();
		const t = topologyOf(planOf(HOME), opened(router()), ports);
		ports.look([{ protocol: TCP, port: 45000, service: true }]);
		const fresh = withPorts(t, ports);
		expect(fresh.guarded.tcp.map((r) => [r.first, r.last])).toEqual([
			[40000, 44999],
			[45001, 49999],
		]);
		expect(fresh.guarded.udp).toEqual(t.guarded.udp);
		expect(fresh.claimed).toEqual(t.claimed);
		for (let n = 0; n < 100; n++) ports.look([{ protocol: TCP, port: 45000, service: true }]);
		const settled = withPorts(t, ports);
		expect(settled.claimed.filter((c) => c.proto === TCP).map((r) => [r.first, r.last])).toEqual(
			fresh.guarded.tcp.map((r) => [r.first, r.last]),
		);
		expect({ ...settled, guarded: t.guarded, claimed: t.claimed }).toEqual(t);
	});
});

describe("what passes masqd by", () => {
	const kernel = router();
	kernel.routes.push(route("10.8.0.0", 16, LAN));
	const t = topologyOf(planOf(`${HOME}\nconfig exempt\n	option dest '198.51.100.0/24'\n`), opened(kernel), noPorts());
	const cases: [string, number, string, number, boolean, string | null][] = [
		["the Internet does not", UDP, "192.0.2.1", 53, false, null],
		["an address of the router", UDP, "192.168.1.1", 53, false, "an address of the router itself"],
		["a network behind a LAN", UDP, "10.8.1.1", 53, false, "not reached through wan0"],
		["an exempt destination", TCP, "198.51.100.7", 80, false, "a destination of config exempt"],
		["a port of masqd's does not", TCP, "203.0.113.1", 40000, false, null],
		["a port that is the router's", TCP, "203.0.113.1", 40000, true, "an address of the router itself too, and this is none of masqd's"],
		["a port out of the range", TCP, "203.0.113.1", 22, false, "an address of the router itself too, and this is none of masqd's"],
		["another protocol with ports does not", SCTP, "203.0.113.1", 22, false, null],
	];
	for (const [name, protocol, destination, port, isOwn, expected] of cases)
		it(`${name}: ${destination}`, () => expect(passesBy(t, protocol, address(destination), port, isOwn)).toBe(expected));

	it("is told of the same lists as the socket filters have", () => {
		const facts = lanFilterFacts(t, t.lan[0]);
		expect(facts).toEqual({
			ethernet: true,
			ownAddresses: t.own,
			handed: [],
			elsewhere: elsewhere(t),
			externals: t.externals,
			claimed: t.claimed,
			expiringOnly: false,
		});
		expect(wanFilterFacts(t)).toEqual({ ethernet: true, externals: t.externals, owned: t.owned, claimed: t.claimed });
	});

	it("is told apart behind the filter where the kernel has too many networks of its own", () => {
		const many = router();
		for (let n = 0; n < 501; n++) many.routes.push(route(`10.${n >> 7}.${(n & 127) * 2}.0`, 24, LAN));
		const full = topologyOf(planOf(HOME), opened(many), noPorts());
		expect(full.routed.length).toBeGreaterThan(500);
		expect(lanFilterFacts(full, full.lan[0]).elsewhere).toEqual([]);
		expect(passesBy(full, UDP, address("10.0.2.1"), 53, false)).toBe("not reached through wan0");
	});
});
