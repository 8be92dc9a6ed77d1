import { describe, expect, it } from "vitest";
import { KernelMirror, MASQD_PROTOCOL } from "../../src/kernel/mirror.ts";
import { removeLeftovers, type SysctlIo, TunRoutes } from "../../src/kernel/tun-routes.ts";
import { IFF, NUD, RTM, RTN, TABLE } from "../../src/netlink/route.ts";
import { formatAddress } from "../../src/packet/address.ts";
import { address, LAN, link, MAC, NOTIFICATIONS, neighbour, opened, own, route, router, rule, WAN } from "./kernel-stand-in.ts";

function way(view: KernelMirror, text: string): string {
	const found = view.lookup(address(text));
	return found === null ? "none" : `type ${found.type} dev ${found.ifindex} via ${formatAddress(found.gateway)} /${found.prefix}`;
}

describe("KernelMirror mirror", () => {
	it("is filled by dumps", () => {
		const view = opened(router());
		expect(view.fd).toBe(NOTIFICATIONS);
		expect(view.linkByName("wan0")?.index).toBe(WAN);
		expect(view.linkByName("wan0")?.running).toBe(true);
		expect(view.linkByName("none")).toBe(undefined);
		expect(view.addresses(WAN).map((a) => formatAddress(a.address))).toEqual(["203.0.113.1"]);
		expect(view.ownAddresses().map(formatAddress)).toEqual(["192.168.1.1", "203.0.113.1"]);
		expect(view.neighbour(LAN, address("192.168.1.10"))?.state).toBe(NUD.REACHABLE);
		expect(view.rules.map((r) => r.priority)).toEqual([0, 32766]);
		expect(view.isLocal(address("192.168.1.1"))).toBe(true);
		expect(view.isLocal(address("192.168.1.255"))).toBe(false);
		expect(view.isBroadcast(address("192.168.1.255"))).toBe(true);
		expect(view.isBroadcast(0xffffffff)).toBe(true);
	});

	it("looks routes up by longest prefix, then metric, in the main table and then the default one", () => {
		const kernel = router();
		kernel.routes.push(
			route("0.0.0.0", 0, LAN, { gateway: "192.168.1.9", metric: 5 }),
			route("10.0.0.0", 8, LAN, { gateway: "192.168.1.77", metric: 10 }),
			route("10.0.0.0", 8, LAN, { gateway: "192.168.1.78", metric: 9 }),
			route("10.1.0.0", 16, WAN, { gateway: "203.0.113.9" }),
			route("10.1.2.3", 32, undefined, { routeType: RTN.BLACKHOLE }),
			route("198.18.0.0", 15, undefined, { routeType: RTN.UNREACHABLE }),
			route("100.64.0.0", 10, undefined, { routeType: RTN.THROW }),
			route("100.64.0.0", 10, LAN, { table: TABLE.DEFAULT }),
			route("172.16.0.0", 12, LAN, { table: 7777 }),
		);
		const view = opened(kernel);
		expect(way(view, "8.8.8.8")).toBe("type 1 dev 3 via 203.0.113.254 /0");
		expect(way(view, "255.0.0.1")).toBe("type 1 dev 3 via 203.0.113.254 /0");
		expect(way(view, "10.200.0.1")).toBe("type 1 dev 2 via 192.168.1.78 /8");
		expect(way(view, "10.1.2.4")).toBe("type 1 dev 3 via 203.0.113.9 /16");
		expect(way(view, "10.1.2.3")).toBe("type 6 dev 0 via 0.0.0.0 /32");
		expect(way(view, "198.19.255.255")).toBe("type 7 dev 0 via 0.0.0.0 /15");
		expect(way(view, "100.64.0.1")).toBe("type 1 dev 2 via 0.0.0.0 /10");
		expect(way(view, "172.16.0.1")).toBe("type 1 dev 3 via 203.0.113.254 /0");
		expect(way(view, "192.168.1.200")).toBe("type 1 dev 2 via 0.0.0.0 /24");
		kernel.routes = [];
		kernel.tell(route("0.0.0.0", 0, WAN), RTM.DELROUTE);
		expect(view.drain().routes).toBe(true);
		expect(way(view, "8.8.8.8")).toBe("none");
	});

	it("finds what is routed elsewhere than by the WAN", () => {
		const kernel = router();
		kernel.routes.push(
			route("10.0.0.0", 8, LAN),
			route("10.128.0.0", 9, WAN),
			route("10.129.0.0", 16, LAN),
			route("192.168.0.0", 24, LAN),
			route("198.18.0.0", 15, undefined, { routeType: RTN.UNREACHABLE }),
			route("255.0.0.0", 8, LAN),
		);
		const subnets = opened(kernel)
			.subnetsNotVia(WAN)
			.map((s) => `${formatAddress(s.address)}/${s.prefix}`);
		expect(subnets).toEqual(["10.0.0.0/9", "10.129.0.0/16", "192.168.0.0/23", "198.18.0.0/15", "255.0.0.0/8"]);
	});
});

describe("KernelMirror notifications", () => {
	it("reports only what differs", () => {
		const kernel = router();
		const view = opened(kernel);
		const dumps = kernel.dumps.length;
		kernel.tell(link(WAN, "wan0"), RTM.NEWLINK);
		kernel.tell(own(WAN, "203.0.113.1", 24), RTM.NEWADDR);
		expect(view.drain()).toEqual({
			links: false,
			addresses: false,
			routes: false,
			rules: false,
			lost: false,
			filters: false,
			neighbours: [],
		});
		expect(kernel.dumps.length).toBe(dumps);
	});

	it("looks at the routes again when an address or a link changes, for the kernel does not tell", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.tell(link(WAN, "wan0", IFF.UP), RTM.NEWLINK);
		kernel.routes = kernel.routes.filter((_, i) => i !== 2);
		const changes = view.drain();
		expect([changes.links, changes.addresses, changes.routes]).toEqual([true, false, true]);
		expect(view.links.get(WAN)?.running).toBe(false);
		expect(way(view, "8.8.8.8")).toBe("none");
		kernel.tell(own(WAN, "203.0.113.1", 24), RTM.DELADDR);
		expect(view.drain().addresses).toBe(true);
		expect(view.addresses(WAN)).toEqual([]);
	});

	it("forgets addresses and neighbours of a device that is gone", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.tell(link(LAN, "lan0"), RTM.DELLINK);
		const changes = view.drain();
		expect([changes.links, changes.addresses]).toEqual([true, true]);
		expect(changes.neighbours.map((n) => `${formatAddress(n.address)} ${n.state}`)).toEqual(["192.168.1.10 0"]);
		expect(view.links.has(LAN)).toBe(false);
		expect(view.neighbour(LAN, address("192.168.1.10"))).toBe(undefined);
	});

	it("does not take a port leaving its bridge for a deleted device", () => {
		const kernel = router();
		const view = opened(kernel);
		const message = link(LAN, "lan0")({ type: RTM.DELLINK, flags: 0, sequence: 0 });
		new Uint8Array(message)[16] = 7;
		kernel.told.push(message);
		expect(view.drain().links).toBe(false);
		expect(view.links.has(LAN)).toBe(true);
	});

	it("lists the neighbours that changed", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.tell(neighbour(LAN, "192.168.1.11", NUD.STALE, MAC), RTM.NEWNEIGH);
		kernel.tell(neighbour(LAN, "192.168.1.12", NUD.FAILED), RTM.NEWNEIGH);
		kernel.tell(neighbour(LAN, "192.168.1.10", NUD.STALE), RTM.DELNEIGH);
		const { neighbours } = view.drain();
		expect(neighbours.map((n) => `${formatAddress(n.address)} ${n.state}`)).toEqual([
			"192.168.1.11 4",
			"192.168.1.12 32",
			"192.168.1.10 0",
		]);
		expect(view.neighbour(LAN, address("192.168.1.12"))?.mac).toBe(null);
	});

	it("dumps everything after an overrun and applies nothing older over it", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.told.push("ENOBUFS");
		kernel.tell(own(WAN, "203.0.113.66", 24), RTM.NEWADDR);
		kernel.addresses = [own(LAN, "192.168.1.1", 24), own(WAN, "203.0.113.7", 24)];
		kernel.neighbours = [];
		const changes = view.drain();
		expect([changes.links, changes.addresses, changes.routes]).toEqual([false, true, false]);
		expect(changes.neighbours.map((n) => `${formatAddress(n.address)} ${n.state}`)).toEqual(["192.168.1.10 0"]);
		expect(view.addresses(WAN).map((a) => formatAddress(a.address))).toEqual(["203.0.113.7"]);
	});

	it("says that news was lost, and is not woken by a socket that fails", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.told.push("ENOBUFS");
		expect(view.drain().lost).toBe(true);
		expect(view.drain().lost).toBe(false);
		kernel.told.push("ENOBUFS");
		kernel.failures = 1;
		expect(() => view.drain()).toThrow("list links: sendto: EIO");
		expect([view.fd, view.pendingAt()]).toEqual([-1, kernel.time]);
		expect(view.drain().lost).toBe(true);
		expect([view.fd, view.pendingAt()]).toEqual([NOTIFICATIONS, Number.POSITIVE_INFINITY]);
	});

	it("gives up news that does not end", () => {
		const kernel = router();
		const view = opened(kernel);
		for (let n = 0; n < 5000; n++) kernel.told.push("ENOBUFS");
		expect(() => view.drain()).toThrow("does not end");
		expect(view.drain().lost).toBe(true);
	});

	it("puts a costly dump off, and says until when", () => {
		const kernel = router();
		const view = opened(kernel);
		const now = kernel.now;
		kernel.now = () => {
			kernel.time += 100;
			return kernel.time;
		};
		kernel.tell(route("10.0.0.0", 8, LAN), RTM.NEWROUTE);
		view.drain();
		kernel.now = now;
		const dumps = kernel.dumps.length;
		kernel.routes.push(route("10.0.0.0", 8, LAN));
		kernel.tell(route("10.0.0.0", 8, LAN), RTM.NEWROUTE);
		expect(view.drain().routes).toBe(false);
		expect(kernel.dumps.length).toBe(dumps);
		expect(view.pendingAt() > kernel.time).toBe(true);
		kernel.time = view.pendingAt();
		expect(view.drain().routes).toBe(true);
		expect(view.pendingAt()).toBe(Number.POSITIVE_INFINITY);
	});
});

describe("KernelMirror bursts", () => {
	it("are followed at once while they cost little", () => {
		const kernel = router();
		const view = opened(kernel);
		const now = kernel.now;
		kernel.now = () => ++kernel.time;
		for (let n = 0; n < 10; n++) {
			kernel.routes.push(route(`10.${n}.0.0`, 16, LAN));
			kernel.tell(route(`10.${n}.0.0`, 16, LAN), RTM.NEWROUTE);
			expect(view.drain().routes).toBe(true);
		}
		kernel.now = now;
	});
});

describe("KernelMirror requests", () => {
	it("throw the operation and the errno", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.refusals.set(RTM.NEWRULE, 17);
		expect(() => view.addRule({ priority: 100, iif: "lan0", table: 7777 })).toThrow("add the rule for lan0: File exists (EEXIST)");
		kernel.refusals.set(RTM.SETLINK, 1);
		expect(() => view.setLinkUp(4, 1500, 500)).toThrow("set the device up: Operation not permitted (EPERM)");
		expect(kernel.open).toBe(2);
	});

	it("are not waited for without end, and leave a fresh socket", () => {
		const kernel = router();
		const view = opened(kernel);
		kernel.silent = true;
		const sockets = kernel.opened;
		expect(() => view.resolve(LAN, address("192.168.1.99"))).toThrow("resolve a neighbour: no answer from the kernel in 2000 ms");
		expect([kernel.open, kernel.opened]).toEqual([2, sockets + 1]);
		kernel.silent = false;
		view.resolve(LAN, address("192.168.1.99"));
		expect(kernel.requested).toEqual([RTM.NEWNEIGH]);
	});

	it("resolve() leaves permanent neighbours alone", () => {
		const kernel = router();
		kernel.neighbours.push(neighbour(LAN, "192.168.1.50", NUD.PERMANENT, MAC));
		const view = opened(kernel);
		view.resolve(LAN, address("192.168.1.50"));
		expect(kernel.requested).toEqual([]);
		view.resolve(LAN, address("192.168.1.10"));
		expect(kernel.requested).toEqual([RTM.NEWNEIGH]);
	});

	it("repeat a dump that was interrupted by a change", () => {
		const kernel = router();
		kernel.interruptions = 2;
		const view = opened(kernel);
		expect(kernel.dumps.filter((type) => type === RTM.GETLINK).length).toBe(3);
		expect(view.links.size).toBe(3);
	});

	it("close what was opened when opening fails", () => {
		const kernel = router();
		kernel.silent = true;
		expect(() => new KernelMirror(kernel).open()).toThrow("list links");
		expect(kernel.open).toBe(0);
	});
});

describe("TunRoutes", () => {
	function sysctls(values: Record<string, string>) {
		const writes: string[] = [];
		const io: SysctlIo = {
			readFile: (path) => `${values[path] ?? "0"}\n`,
			writeFile: (path, text) => {
				writes.push(`${path.replace("/proc/sys/net/", "")}=${text}`);
			},
		};
		return { io, writes };
	}
	const ELSEWHERE = [{ address: 0xc0a80100, mask: 0xffffff00, prefix: 24 }];
	const FACTS = { lans: ["lan0"], elsewhere: ELSEWHERE, tun: { name: "masq0", ifindex: 9, mtu: 1500, queueLength: 500 } };

	it("removes leftovers, then sets sysctls, link, route and rules in that order", () => {
		const kernel = router();
		kernel.rules.push(rule(100, "lan0", 7777, MASQD_PROTOCOL));
		const { io, writes } = sysctls({});
		const view = opened(kernel);
		removeLeftovers(view);
		const routes = TunRoutes.install(view, io, FACTS);
		expect(kernel.requested).toEqual([RTM.DELRULE, RTM.SETLINK, RTM.NEWROUTE, RTM.NEWROUTE, RTM.NEWRULE, RTM.NEWRULE]);
		expect(writes).toEqual([
			"ipv4/conf/masq0/rp_filter=0",
			"ipv4/conf/masq0/accept_local=1",
			"ipv4/conf/masq0/forwarding=1",
			"ipv6/conf/masq0/disable_ipv6=1",
			"ipv4/conf/lan0/forwarding=1",
		]);
		expect(routes.warnings).toEqual([]);
		writes.length = 0;
		routes.remove();
		expect(writes).toEqual(["ipv4/conf/lan0/forwarding=0"]);
	});

	it("comes after the rules of others, and keeps out of the way of other tables", () => {
		const kernel = router();
		kernel.rules.push(rule(100, "x", 254, 0), rule(101, "x", 7778, 0));
		kernel.routes.push(route("10.0.0.0", 8, LAN, { table: 7777 }));
		const routes = TunRoutes.install(opened(kernel), sysctls({}).io, FACTS);
		expect([routes.priority, routes.table]).toEqual([32765, 7779]);
	});

	it("warns of strict reverse path filtering", () => {
		const { io } = sysctls({ "/proc/sys/net/ipv4/conf/all/rp_filter": "1" });
		const [warning] = TunRoutes.install(opened(router()), io, FACTS).warnings;
		expect(warning.includes("Set net.ipv4.conf.all.rp_filter=0")).toBe(true);
	});

	it("undoes what it did when a request is refused", () => {
		const kernel = router();
		kernel.refusals.set(RTM.NEWROUTE, 100);
		const { io, writes } = sysctls({});
		expect(() => TunRoutes.install(opened(kernel), io, FACTS)).toThrow("add a route to table 7777: Network is down (ENETDOWN)");
		expect(writes[writes.length - 1]).toBe("ipv4/conf/lan0/forwarding=0");
	});
});
