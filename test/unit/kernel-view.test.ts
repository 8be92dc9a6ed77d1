import { describe, expect, it } from "vitest";
import { LITTLE_ENDIAN, NLM_F, type RequestHeader } from "../../src/netlink/message.ts";
import { formatAddress, parseAddress } from "../../src/packet/address.ts";
import { type KernelIo, KernelView, MASQD_PROTOCOL } from "../../src/port/kernel-view.ts";
import {
	encodeAddress,
	encodeLink,
	encodeNeighbour,
	encodeRoute,
	encodeRule,
	IFF,
	NUD,
	RTM,
	RTN,
	TABLE,
} from "../../src/port/rtnetlink.ts";
import { removeLeftovers, type SysctlIo, TunRoutes } from "../../src/port/tun-routes.ts";

const address = (text: string): number => parseAddress(text) as number;

type Encode = (header: RequestHeader) => ArrayBuffer;

const REQUESTS = 3;
const NOTIFICATIONS = 4;

/** A kernel in values: what it would dump, what it is asked, what it tells. */
class FakeKernel implements KernelIo {
	readonly POLLIN = 1;
	links: Encode[] = [];
	addresses: Encode[] = [];
	routes: Encode[] = [];
	neighbours: Encode[] = [];
	rules: Encode[] = [];
	/** Requests that were no dumps: type and errno to answer with (0 unless said). */
	requested: number[] = [];
	refusals = new Map<number, number>();
	dumps: number[] = [];
	told: (ArrayBuffer | "ENOBUFS")[] = [];
	silent = false;
	interruptions = 0;
	time = 1000;
	open = 0;
	opened = 0;
	#answers: ArrayBuffer[] = [];

	tell(encode: Encode, type: number): void {
		this.told.push(encode({ type, flags: 0, sequence: 0 }));
	}

	netlinkOpen = (_protocol: number, groups: number[]): number => {
		this.open++;
		this.opened++;
		this.#answers = [];
		return groups.length > 0 ? NOTIFICATIONS : REQUESTS;
	};

	close = (fd: number): void => {
		if (fd >= 0) this.open--;
	};

	netlinkSend = (_fd: number, buffer: ArrayBuffer, length: number): void => {
		const view = new DataView(buffer);
		expect(view.getUint32(0, LITTLE_ENDIAN)).toBe(length);
		const type = view.getUint16(4, LITTLE_ENDIAN);
		const flags = view.getUint16(6, LITTLE_ENDIAN);
		const sequence = view.getUint32(8, LITTLE_ENDIAN);
		if (this.silent) return;
		// An answer to an earlier request that was given up comes first and must be passed over.
		this.#answers.push(status(2, sequence - 1, -1));
		if ((flags & NLM_F.DUMP) !== NLM_F.DUMP) {
			this.requested.push(type);
			this.#answers.push(status(2, sequence, -(this.refusals.get(type) ?? 0)));
			return;
		}
		this.dumps.push(type);
		const interrupted = this.interruptions > 0 ? NLM_F.DUMP_INTR : 0;
		if (interrupted !== 0) this.interruptions--;
		for (const encode of this.#held(type)) {
			this.#answers.push(encode({ type: type - 2, flags: NLM_F.MULTI | interrupted, sequence }));
		}
		this.#answers.push(status(3, sequence, 0));
	};

	#held(type: number): Encode[] {
		if (type === RTM.GETLINK) return this.links;
		if (type === RTM.GETADDR) return this.addresses;
		if (type === RTM.GETROUTE) return this.routes;
		return type === RTM.GETNEIGH ? this.neighbours : this.rules;
	}

	netlinkReceive = (fd: number, buffer: ArrayBuffer): number => {
		const next = fd === NOTIFICATIONS ? this.told.shift() : this.#answers.shift();
		if (next === undefined) return 0;
		if (next === "ENOBUFS") throw Object.assign(new Error("recvmsg: No buffer space available"), { code: "ENOBUFS", errno: 105 });
		new Uint8Array(buffer).set(new Uint8Array(next));
		return next.byteLength;
	};

	poll = (_set: Int32Array, _count: number, timeoutMs: number): number => {
		this.time += timeoutMs;
		return 0;
	};

	now = (): number => this.time;
}

function status(type: number, sequence: number, value: number): ArrayBuffer {
	const buffer = new ArrayBuffer(20);
	const view = new DataView(buffer);
	view.setUint32(0, 20, LITTLE_ENDIAN);
	view.setUint16(4, type, LITTLE_ENDIAN);
	view.setUint32(8, sequence, LITTLE_ENDIAN);
	view.setInt32(16, value, LITTLE_ENDIAN);
	return buffer;
}

const MAC = new Uint8Array([2, 0, 0, 0, 0, 1]);
const link =
	(index: number, name: string, flags: number = IFF.UP | IFF.RUNNING): Encode =>
	(header) =>
		encodeLink(header, { index, name, deviceFlags: flags, mtu: 1500, queueLength: 1000, mac: MAC });
const own =
	(ifindex: number, text: string, prefix: number): Encode =>
	(header) =>
		encodeAddress(header, { ifindex, address: address(text), prefix });
const route =
	(
		text: string,
		prefix: number,
		ifindex: number | undefined,
		more: { gateway?: string; metric?: number; table?: number; routeType?: number } = {},
	): Encode =>
	(header) =>
		encodeRoute(header, {
			destination: address(text),
			prefix,
			table: more.table ?? TABLE.MAIN,
			protocol: 3,
			...(ifindex === undefined ? {} : { ifindex }),
			...(more.gateway === undefined ? {} : { gateway: address(more.gateway) }),
			...(more.metric === undefined ? {} : { metric: more.metric }),
			...(more.routeType === undefined ? {} : { routeType: more.routeType }),
		});
const neighbour =
	(ifindex: number, text: string, state: number, mac?: Uint8Array): Encode =>
	(header) =>
		encodeNeighbour(header, { ifindex, address: address(text), state, ...(mac === undefined ? {} : { mac }) });
const rule =
	(priority: number, iif: string, table: number, protocol: number): Encode =>
	(header) =>
		encodeRule(header, { priority, iif, table, protocol });

const LAN = 2;
const WAN = 3;

function router(): FakeKernel {
	const kernel = new FakeKernel();
	kernel.links = [link(1, "lo", IFF.UP | IFF.RUNNING | IFF.LOOPBACK), link(LAN, "lan0"), link(WAN, "wan0")];
	kernel.addresses = [own(LAN, "192.168.1.1", 24), own(WAN, "203.0.113.1", 24)];
	kernel.routes = [
		route("192.168.1.1", 32, LAN, { table: TABLE.LOCAL, routeType: RTN.LOCAL }),
		route("192.168.1.255", 32, LAN, { table: TABLE.LOCAL, routeType: RTN.BROADCAST }),
		route("0.0.0.0", 0, WAN, { gateway: "203.0.113.254" }),
		route("192.168.1.0", 24, LAN),
		route("203.0.113.0", 24, WAN),
	];
	kernel.neighbours = [neighbour(LAN, "192.168.1.10", NUD.REACHABLE, MAC)];
	kernel.rules = [rule(0, "", TABLE.LOCAL, 2), rule(32766, "", TABLE.MAIN, 2)];
	return kernel;
}

function opened(kernel: FakeKernel): KernelView {
	const view = new KernelView(kernel);
	view.open();
	return view;
}

function way(view: KernelView, text: string): string {
	const found = view.lookup(address(text));
	return found === null ? "none" : `type ${found.type} dev ${found.ifindex} via ${formatAddress(found.gateway)} /${found.prefix}`;
}

describe("KernelView mirror", () => {
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

describe("KernelView notifications", () => {
	it("reports only what differs", () => {
		const kernel = router();
		const view = opened(kernel);
		const dumps = kernel.dumps.length;
		kernel.tell(link(WAN, "wan0"), RTM.NEWLINK);
		kernel.tell(own(WAN, "203.0.113.1", 24), RTM.NEWADDR);
		expect(view.drain()).toEqual({ links: false, addresses: false, routes: false, rules: false, filters: false, neighbours: [] });
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

describe("KernelView bursts", () => {
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

describe("KernelView requests", () => {
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
		expect(() => new KernelView(kernel).open()).toThrow("list links");
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

	it("keeps out of the way of other rules and tables", () => {
		const kernel = router();
		kernel.rules.push(rule(100, "x", 254, 0), rule(101, "x", 7778, 0));
		kernel.routes.push(route("10.0.0.0", 8, LAN, { table: 7777 }));
		const routes = TunRoutes.install(opened(kernel), sysctls({}).io, FACTS);
		expect([routes.priority, routes.table]).toEqual([102, 7779]);
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
