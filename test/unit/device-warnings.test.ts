/** What is said about devices that cannot do what the configuration wants of them. */
import { describe, expect, it } from "vitest";
import { type ConfiguredDevice, deviceWarnings, shaperWarnings } from "../../src/kernel/device-warnings.ts";
import type { KernelMirror, Link } from "../../src/kernel/mirror.ts";
import { blindShapers } from "../../src/kernel/shapers.ts";
import { MessageWriter } from "../../src/netlink/message.ts";
import { type Message, parseMessages, RTM } from "../../src/netlink/route.ts";
import { parseAddress } from "../../src/packet/address.ts";

/** The devices of a router as "name", "name<master" and their addresses. */
function kernel(devices: Record<string, string[]>): KernelMirror {
	const names = Object.keys(devices).map((text) => text.split("<"));
	const index = (name: string | undefined) => 1 + names.findIndex(([n]) => n === name);
	const links = names.map(([name, master]) => ({ name, index: index(name), master: master === undefined ? 0 : index(master) }) as Link);
	const list = (n: number) =>
		(Object.values(devices)[n - 1] ?? []).map((text) => ({
			address: parseAddress(text.split("/")[0]),
			prefix: Number(text.split("/")[1]),
		}));
	return {
		links: new Map(links.map((link) => [link.index, link])),
		linkByName: (name: string) => links.find((link) => link.name === name),
		addresses: list,
		ownAddresses: () => links.flatMap((link) => list(link.index).map((a) => a.address)),
	} as unknown as KernelMirror;
}

const WAN: ConfiguredDevice = { role: "wan", device: "eth1", subnets: [], driver: "" };
const lan = (device: string, driver: "packet" | "tun" = "tun"): ConfiguredDevice => ({ role: "lan", device, subnets: [], driver });
const HOME = { eth1: ["203.0.113.1/24"], "br-lan": ["192.168.1.1/24"], "eth0<br-lan": [] };

describe("devices", () => {
	it("that are as they should be are not talked about", () => {
		expect(deviceWarnings(kernel(HOME), [WAN, lan("br-lan")], false)).toEqual([]);
		expect(deviceWarnings(kernel(HOME), [WAN, lan("missing")], true)).toEqual([]);
	});

	it("that are ports of another are named with it, whatever their role", () => {
		expect(deviceWarnings(kernel(HOME), [WAN, lan("eth0")], false)).toEqual([
			"lan device 'eth0' is a port of br-lan, which gets its packets: use option device 'br-lan'",
		]);
		const bonded = kernel({ "eth1<bond0": [], bond0: ["203.0.113.1/24"], "br-lan": ["192.168.1.1/24"] });
		expect(deviceWarnings(bonded, [WAN, lan("br-lan")], false)).toEqual([
			"wan device 'eth1' is a port of bond0, which gets its packets: use option device 'bond0'",
		]);
	});

	it("without an address need a list subnet", () => {
		const bare = kernel({ ...HOME, lan2: [] });
		expect(deviceWarnings(bare, [WAN, lan("lan2")], false)[0]).toContain("lan device 'lan2' has no IPv4 address");
		const subnet = { address: 0x0a000000, mask: 0xff000000, prefix: 8 };
		expect(deviceWarnings(bare, [WAN, { ...lan("lan2"), subnets: [subnet] }], false)).toEqual([]);
	});

	it("that are bridges are hidden by br_netfilter, with both drivers in their own way; others are not", () => {
		expect(deviceWarnings(kernel(HOME), [WAN, lan("br-lan", "packet")], true)[0]).toMatch(/nothing would be forwarded.*br-lan.*'tun'/);
		expect(deviceWarnings(kernel(HOME), [WAN, lan("br-lan")], true)[0]).toMatch(/br-lan hairpinning and the first hop of traceroute/);
		expect(deviceWarnings(kernel({ eth1: [], eth0: ["192.168.1.1/24"] }), [WAN, lan("eth0")], true)).toEqual([]);
	});

	it("whose subnet another device has a part in are told of it, unless that is configured too", () => {
		const shared = kernel({ ...HOME, vrrp0: ["192.168.1.254/32"], wg0: ["10.9.0.1/24"] });
		expect(deviceWarnings(shared, [WAN, lan("br-lan")], false)[0]).toMatch(/^192\.168\.1\.254, .*'br-lan', is on vrrp0/);
		expect(deviceWarnings(shared, [WAN, lan("br-lan"), lan("vrrp0")], false)).toEqual([]);
	});
});

describe("a shaper of the way in that the offload stands back for", () => {
	const SQM = "pppoe-wan has ingress filters of others (tc redirect to ifb4pppoe-wan)";
	it("is warned of on PPP, with what it costs and what helps", () => {
		const [text, ...more] = shaperWarnings("pppoe-wan", 512, SQM);
		expect(more).toEqual([]);
		expect(text).toMatch(/^pppoe-wan has ingress filters.*ifb4pppoe-wan.*user space.*a quarter of the kernel's rate.*offload 'on'/);
	});
	it("is not talked about elsewhere, or where there is none", () => {
		expect([shaperWarnings("eth1", 1, SQM), shaperWarnings("pppoe-wan", 512, ""), shaperWarnings("pppoe-wan", undefined, SQM)]).toEqual([
			[],
			[],
			[],
		]);
	});
});

describe("cake with nat", () => {
	const CAKE_NAT = 11;
	const qdisc = (ifindex: number, kind: string, nat: number) => {
		const out = new MessageWriter().message({ type: RTM.NEWQDISC, flags: 0, sequence: 1 });
		out.word(0).word(ifindex).word(0x10000).word(0xffffffff).word(0).nameAttribute(1, kind);
		const options = out.openAttribute(2);
		const request = out.numberAttribute(CAKE_NAT, nat).closeAttribute(options).finish();
		return parseMessages(request, request.byteLength)[0] as Message;
	};
	/** A router whose devices have these disciplines, and whose WAN, number 1, redirects to number 3. */
	const router = (...disciplines: Message[]) =>
		({
			links: new Map(["eth1", "br-lan", "ifb4eth1"].map((name, n) => [n + 1, { name, index: n + 1 }])),
			count: (operation: string, _: unknown, counts: (message: Message) => boolean) => {
				const filter = {
					kind: "traffic",
					flags: 0,
					sequence: 1,
					ifindex: 1,
					fairToHosts: false,
					priority: 10,
					filter: "u32",
					redirect: 3,
				} as const;
				for (const message of operation.includes("disciplines") ? disciplines : [filter]) counts(message);
				return 0;
			},
		}) as unknown as KernelMirror;
	const on = (kernel: KernelMirror, ...drivers: string[]) =>
		blindShapers(
			kernel,
			{ index: 1 },
			drivers.map((driver) => ({ driver })),
		).map((text) => text.split(" ").slice(0, 3).join(" "));

	it("is warned of on the WAN and where its ingress is redirected to, unless the kernel translates", () => {
		expect(on(router(qdisc(1, "cake", 1), qdisc(2, "cake", 1), qdisc(3, "cake", 1)), "tun")).toEqual(["cake on eth1", "cake on ifb4eth1"]);
		expect(on(router(qdisc(1, "cake", 1)), "kernel", "packet")).toEqual(["cake on eth1"]);
		expect(on(router(qdisc(1, "cake", 1)), "kernel")).toEqual([]);
	});

	it("is told from cake without it, from others, and from none", () => {
		expect(on(router(qdisc(1, "cake", 0), qdisc(1, "htb", 1)), "tun")).toEqual([]);
		expect(on(router(), "packet")).toEqual([]);
	});
});
