/**
 * The kernel-facing modules of src/kernel and src/port against a real kernel, on the real engine. Run as root by
 * `test/net/run-check.sh kernel-view`, in a namespace of its own.
 *
 * The namespace is the router. `lan0` and `wan0` are its devices; the other ends of these veth pairs, `lan1` and
 * `wan1`, have no addresses and are what the check sends raw frames into and reads from, as the hosts and the provider
 * would. Prints one line a check, ends with status 0 if all hold.
 */

import * as native from "masq:native";
import { type GuardCounter, type GuardFacts, guardRuleset, installGuard, removeGuard } from "../../src/kernel/guard.ts";
import { type Changes, isUsable, KernelMirror } from "../../src/kernel/mirror.ts";
import { deleteTable } from "../../src/kernel/nft-delete.ts";
import { NftView } from "../../src/kernel/nft-view.ts";
import { removeLeftovers, TunRoutes } from "../../src/kernel/tun-routes.ts";
import { NFPROTO } from "../../src/netlink/nftables.ts";
import { NUD, RTN } from "../../src/netlink/route.ts";
import { formatAddress, parseAddress, parseSubnet, type Subnet } from "../../src/packet/address.ts";
import { ARP_FRAME, arpAnnouncement, arpReply } from "../../src/port/arp.ts";
import { arpFilter, lanFilter, wanFilter } from "../../src/port/filter.ts";

const address = (text: string): number => parseAddress(text) as number;
const subnet = (text: string): Subnet => parseSubnet(text) as Subnet;

let failures = 0;
let passes = 0;
function check(what: string, holds: boolean, seen = ""): void {
	if (holds) passes++;
	else failures++;
	native.print(1, `${holds ? "ok  " : "FAIL"} ${what}${seen === "" ? "" : `: ${seen}`}\n`);
}

/** What nftables holds now. */
function readNft(): NftView {
	const view = new NftView(native);
	for (const _ of view.read());
	view.close();
	return view;
}

function shell(command: string): string {
	const { status, output } = native.run(command.split(" "), "", 10_000);
	if (status !== 0) throw new Error(`${command}: ${output}`);
	return output;
}

function batch(lines: string[]): void {
	const { status, output } = native.run(["ip", "-batch", "-"], `${lines.join("\n")}\n`, 30_000);
	if (status !== 0) throw new Error(`ip -batch: ${output}`);
}

/** Drains until `done` or the time is over; everything that changed meanwhile. */
function drainUntil(view: KernelMirror, timeoutMs: number, done: (changes: Changes) => boolean): Changes {
	const all: Changes = { links: false, addresses: false, routes: false, rules: false, lost: false, filters: false, neighbours: [] };
	const set = new Int32Array(3);
	for (const end = native.now() + timeoutMs; ; ) {
		const changes = view.drain();
		all.links ||= changes.links;
		all.addresses ||= changes.addresses;
		all.routes ||= changes.routes;
		all.rules ||= changes.rules;
		all.filters ||= changes.filters;
		all.neighbours.push(...changes.neighbours);
		const now = native.now();
		if (done(all) || now >= end) return all;
		set.set([view.fd, native.POLLIN, 0]);
		native.poll(set, 1, Math.max(1, Math.ceil(Math.min(end, view.pendingAt()) - now)));
	}
}

const frame = new Uint8Array(2048);

/** The next frame that comes to a socket, its length; 0 after the time. */
function frameWithin(fd: native.Fd, timeoutMs: number): number {
	const set = new Int32Array([fd, native.POLLIN, 0]);
	if (native.poll(set, 1, timeoutMs) === 0) return 0;
	return Math.max(0, native.read(fd, frame.buffer, 0, frame.length));
}

function send(fd: native.Fd, bytes: Uint8Array): void {
	native.write(fd, bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.length);
}

/** An Ethernet frame with an IPv4 packet; its header checksum is right, the rest's is left 0 (none, for UDP). */
function ipFrame(to: Uint8Array, source: string, destination: string, proto: number, payload: number[]): Uint8Array {
	const bytes = new Uint8Array(34 + payload.length);
	bytes.set(to, 0);
	bytes.set([2, 0, 0, 0, 9, 9, 8, 0], 6);
	const view = new DataView(bytes.buffer);
	view.setUint16(14, 0x4500);
	view.setUint16(16, bytes.length - 14);
	view.setUint8(22, 64);
	view.setUint8(23, proto);
	view.setUint32(26, address(source));
	view.setUint32(30, address(destination));
	let sum = 0;
	for (let i = 14; i < 34; i += 2) sum += view.getUint16(i);
	sum = (sum & 0xffff) + (sum >>> 16);
	view.setUint16(24, ~(sum + (sum >>> 16)) & 0xffff);
	bytes.set(payload, 34);
	return bytes;
}

const ports = (source: number, destination: number): number[] => [
	source >> 8,
	source & 255,
	destination >> 8,
	destination & 255,
	0,
	8,
	0,
	0,
];

function devices(): void {
	batch([
		"link set lo up",
		"link add lan0 type veth peer name lan1",
		"link add wan0 type veth peer name wan1",
		"link set lan0 address 02:00:00:00:01:01",
		"link set wan0 address 02:00:00:00:02:01",
	]);
	for (const name of ["lan0", "lan1", "wan0", "wan1"]) {
		native.writeFile(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, "1", 0o644);
		shell(`ip link set ${name} up`);
	}
	batch([
		"addr add 192.168.1.1/24 dev lan0",
		"addr add 203.0.113.1/24 dev wan0",
		"route add default via 203.0.113.254 dev wan0",
		"route add 10.0.0.0/8 via 192.168.1.77 dev lan0",
		"route add 10.1.0.0/16 via 203.0.113.9 dev wan0",
		"route add unreachable 198.18.0.0/15",
		"neigh add 203.0.113.254 lladdr 02:00:00:00:fe:fe dev wan0 nud permanent",
	]);
}

function checkDumps(view: KernelMirror): void {
	const lan = view.linkByName("lan0");
	const wan = view.linkByName("wan0");
	if (lan === undefined || wan === undefined) throw new Error("no lan0 or wan0");
	check("links", lan.up && lan.running && lan.mtu === 1500 && lan.type === 1 && lan.mac?.[5] === 1, JSON.stringify(lan));
	check("addresses", view.addresses(lan.index)[0]?.address === address("192.168.1.1") && view.addresses(lan.index)[0]?.prefix === 24);
	check("own addresses", view.ownAddresses().map(formatAddress).sort().join(" ") === "127.0.0.1 192.168.1.1 203.0.113.1");
	check(
		"local and broadcast",
		view.isLocal(address("203.0.113.1")) && view.isLocal(address("127.9.9.9")) && !view.isLocal(address("203.0.113.2")),
	);
	check("broadcast", view.isBroadcast(address("192.168.1.255")) && !view.isBroadcast(address("192.168.1.254")));
	const way = (to: string): string => {
		const route = view.lookup(address(to));
		return route === null ? "none" : `${route.type} ${route.ifindex} ${formatAddress(route.gateway)} /${route.prefix}`;
	};
	check("default route", way("8.8.8.8") === `1 ${wan.index} 203.0.113.254 /0`, way("8.8.8.8"));
	check("connected route", way("192.168.1.50") === `1 ${lan.index} 0.0.0.0 /24`, way("192.168.1.50"));
	check("longest prefix", way("10.1.2.3") === `1 ${wan.index} 203.0.113.9 /16` && way("10.2.2.3") === `1 ${lan.index} 192.168.1.77 /8`);
	check("unreachable route", way("198.19.0.1") === "7 0 0.0.0.0 /15", way("198.19.0.1"));
	const elsewhere = view.subnetsNotVia(wan.index).map((s) => `${formatAddress(s.address)}/${s.prefix}`);
	check(
		"subnets not by the WAN",
		elsewhere.join(" ") ===
			"10.0.0.0/16 10.2.0.0/15 10.4.0.0/14 10.8.0.0/13 10.16.0.0/12 10.32.0.0/11 10.64.0.0/10 10.128.0.0/9 192.168.1.0/24 198.18.0.0/15",
		elsewhere.join(" "),
	);
	const static_ = view.neighbour(wan.index, address("203.0.113.254"));
	check("static neighbour", static_ !== undefined && static_.state === NUD.PERMANENT && isUsable(static_));
	check("rules", view.rules.map((rule) => rule.priority).join(" ") === "0 32766 32767");
}

function checkNotifications(view: KernelMirror): void {
	const lan = view.linkByName("lan0")?.index as number;
	const wan = view.linkByName("wan0")?.index as number;
	drainUntil(view, 300, () => false);
	const idle = view.drain();
	check("no change, no report", !idle.links && !idle.addresses && !idle.routes && !idle.rules && idle.neighbours.length === 0);

	shell("ip addr add 203.0.113.5/24 dev wan0");
	let changes = drainUntil(view, 1000, (c) => c.addresses && c.routes);
	check(
		"address added",
		changes.addresses && changes.routes && view.addresses(wan).some((a) => a.address === address("203.0.113.5") && a.secondary),
	);
	shell("ip addr change 203.0.113.5/24 dev wan0 valid_lft 600 preferred_lft 600");
	changes = drainUntil(view, 200, () => false);
	check("renewal of the same address is no change", !changes.addresses && !changes.routes);
	shell("ip addr del 203.0.113.5/24 dev wan0");
	changes = drainUntil(view, 1000, (c) => c.addresses);
	check("address removed", changes.addresses && view.addresses(wan).length === 1);

	shell("ip link set wan0 mtu 1400");
	changes = drainUntil(view, 1000, (c) => c.links);
	check("MTU changed", changes.links && view.links.get(wan)?.mtu === 1400);
	shell("ip link set wan0 mtu 1500");
	shell("ip link set wan1 down");
	drainUntil(view, 1500, () => view.links.get(wan)?.running === false);
	check("carrier lost", view.links.get(wan)?.running === false && view.links.get(wan)?.up === true);
	shell("ip link set wan1 up");
	drainUntil(view, 1500, () => view.links.get(wan)?.running === true);

	shell("ip link set wan0 down");
	changes = drainUntil(view, 1000, () => view.lookup(address("8.8.8.8")) === null);
	check("device down: its routes are gone, though the kernel does not say so", changes.routes && view.lookup(address("8.8.8.8")) === null);
	check(
		"device down: its neighbours are told of",
		changes.neighbours.some((n) => n.ifindex === wan && n.state === NUD.NONE),
	);
	batch([
		"link set wan0 up",
		"route add default via 203.0.113.254 dev wan0",
		"neigh replace 203.0.113.254 lladdr 02:00:00:00:fe:fe dev wan0 nud permanent",
	]);
	drainUntil(view, 1000, () => view.lookup(address("8.8.8.8"))?.ifindex === wan);
	check("device up again", view.lookup(address("8.8.8.8"))?.gateway === address("203.0.113.254"));

	shell("ip route add default via 192.168.1.9 dev lan0 metric 50");
	drainUntil(view, 500, (c) => c.routes);
	check("metric respected", view.lookup(address("8.8.8.8"))?.ifindex === wan);
	shell("ip route del default via 203.0.113.254 dev wan0");
	drainUntil(view, 500, () => view.lookup(address("8.8.8.8"))?.ifindex === lan);
	check("next best route", view.lookup(address("8.8.8.8"))?.gateway === address("192.168.1.9"));
	batch(["route del default via 192.168.1.9 dev lan0 metric 50", "route add default via 203.0.113.254 dev wan0"]);
	drainUntil(view, 500, () => view.lookup(address("8.8.8.8"))?.ifindex === wan);

	shell("ip link add port9 type veth peer name port8");
	drainUntil(view, 500, (c) => c.links);
	check("device appears", view.linkByName("port9") !== undefined);
	shell("ip link add br9 type bridge");
	shell("ip link set port9 master br9");
	drainUntil(view, 500, () => view.linkByName("port9")?.master === view.linkByName("br9")?.index);
	check("bridge port", view.linkByName("port9")?.master === view.linkByName("br9")?.index);
	shell("ip link set port9 nomaster");
	drainUntil(view, 500, () => view.linkByName("port9")?.master === 0);
	check("leaving a bridge is no deletion", view.linkByName("port9")?.master === 0);
	shell("ip link del port9");
	shell("ip link del br9");
	drainUntil(view, 500, () => view.linkByName("br9") === undefined);
	check("device gone", view.linkByName("port9") === undefined && view.linkByName("br9") === undefined);
}

function checkOverrun(): void {
	let overruns = 0;
	const view = new KernelMirror({
		...native,
		netlinkReceive(fd, buffer) {
			try {
				return native.netlinkReceive(fd, buffer);
			} catch (error) {
				overruns++;
				throw error;
			}
		},
	});
	view.open();
	const lan = view.linkByName("lan0")?.index as number;
	const lines: string[] = [];
	for (let i = 0; i < 6000; i++) {
		const mac = `02:00:00:00:${(i >> 8).toString(16)}:${(i & 255).toString(16)}`;
		lines.push(`neigh replace 192.168.1.${200 + (i % 49)} lladdr ${mac} dev lan0 nud permanent`);
	}
	lines.push("neigh replace 192.168.1.249 lladdr 02:00:00:00:ab:cd dev lan0 nud permanent", "addr add 192.168.99.1/24 dev lan0");
	batch(lines);
	const changes = view.drain();
	const last = view.neighbour(lan, address("192.168.1.249"));
	check(
		"after an overrun one drain() makes the mirror right",
		overruns > 0 &&
			changes.addresses &&
			view.addresses(lan).length === 2 &&
			last?.mac?.[5] === 0xcd &&
			view.neighbour(lan, address("192.168.1.248"))?.mac?.[4] === 0x17,
		`${overruns} overruns, ${changes.neighbours.length} neighbour notices`,
	);
	view.close();
	batch(["addr del 192.168.99.1/24 dev lan0", "neigh flush dev lan0 nud all"]);
}

function checkResolve(view: KernelMirror): void {
	const lan = view.linkByName("lan0")?.index as number;
	const lan1 = view.linkByName("lan1")?.index as number;
	const hosts = { first: address("192.168.1.10"), last: address("192.168.1.20") };
	const arp = native.etherOpen(lan1, 0x0806, arpFilter([hosts]));
	const mac = new Uint8Array([2, 0, 0, 0, 0, 0x10]);
	const owned = (a: number): boolean => a >= hosts.first && a <= hosts.last;
	const host = address("192.168.1.10");

	const before = native.now();
	view.resolve(lan, host);
	const cost = native.now() - before;
	let length = frameWithin(arp, 1000);
	check(
		"resolve() sends an ARP request at once",
		length >= ARP_FRAME && frame[41] === 10 && frame[0] === 0xff,
		`request took ${cost.toFixed(3)} ms`,
	);
	check("arpReply() answers it", arpReply(frame, length, owned, mac));
	send(arp, frame.slice(0, ARP_FRAME));
	const changes = drainUntil(view, 1000, (c) => c.neighbours.some((n) => n.address === host && isUsable(n)));
	const entry = view.neighbour(lan, host);
	check(
		"a notification with the MAC follows",
		changes.neighbours.some((n) => n.address === host) && entry?.mac?.[5] === 0x10 && entry.state === NUD.REACHABLE,
		changes.neighbours.map((n) => `${formatAddress(n.address)} ${n.state}`).join(", "),
	);

	view.resolve(lan, host);
	check("a reachable neighbour is not asked", frameWithin(arp, 200) === 0);

	shell("ip neigh change 192.168.1.10 lladdr 02:00:00:00:00:10 dev lan0 nud stale");
	drainUntil(view, 500, () => view.neighbour(lan, host)?.state === NUD.STALE);
	native.writeFile("/proc/sys/net/ipv4/neigh/lan0/delay_first_probe_time", "1", 0o644);
	view.resolve(lan, host);
	length = frameWithin(arp, 3000);
	check(
		"a stale neighbour is confirmed by a unicast request",
		length >= ARP_FRAME && frame[0] === 2,
		`state ${view.neighbour(lan, host)?.state}`,
	);
	arpReply(frame, length, owned, mac);
	send(arp, frame.slice(0, ARP_FRAME));
	drainUntil(view, 1000, () => view.neighbour(lan, host)?.state === NUD.REACHABLE);
	check("... and is reachable again", view.neighbour(lan, host)?.state === NUD.REACHABLE);

	const moved = new Uint8Array([2, 0, 0, 0, 0, 0x11]);
	native.writeFile("/proc/sys/net/ipv4/neigh/lan0/locktime", "0", 0o644);
	native.writeFile("/proc/sys/net/ipv4/conf/lan0/arp_accept", "1", 0o644);
	send(arp, arpAnnouncement(host, moved));
	drainUntil(view, 1000, () => view.neighbour(lan, host)?.mac?.[5] === 0x11);
	check("arpAnnouncement() moves a neighbour's entry", view.neighbour(lan, host)?.mac?.[5] === 0x11);

	const started = native.now();
	view.resolve(lan, address("192.168.1.99"));
	drainUntil(view, 6000, () => view.neighbour(lan, address("192.168.1.99"))?.state === NUD.FAILED);
	const failed = view.neighbour(lan, address("192.168.1.99"));
	check("no answer: FAILED is told", failed?.state === NUD.FAILED && !isUsable(failed), `after ${(native.now() - started).toFixed(0)} ms`);

	shell("ip neigh replace 192.168.1.50 lladdr 02:00:00:00:00:50 dev lan0 nud permanent");
	drainUntil(view, 500, () => view.neighbour(lan, address("192.168.1.50")) !== undefined);
	view.resolve(lan, address("192.168.1.50"));
	check("resolve() leaves a permanent neighbour permanent", shell("ip neigh show 192.168.1.50 dev lan0").includes("PERMANENT"));

	let refusal = "";
	try {
		view.resolve(4242, host);
	} catch (error) {
		refusal = (error as Error).message;
	}
	check("a refused request says what and why", refusal === "resolve a neighbour: No such device (ENODEV)", refusal);
	native.close(arp);
}

function checkTunRoutes(view: KernelMirror): void {
	native.writeFile("/proc/sys/net/ipv4/conf/lan0/forwarding", "0", 0o644);
	native.writeFile("/proc/sys/net/ipv4/conf/all/rp_filter", "1", 0o644);
	shell("ip rule add pref 100 from 10.99.0.0/16 lookup main");
	shell("ip route add 10.98.0.0/16 dev lan0 table 7777");
	shell("ip rule add pref 500 iif lan0 lookup 7788 protocol 109");
	const tun = native.tunOpen("masq0");
	drainUntil(view, 500, () => view.linkByName("masq0") !== undefined);
	const ifindex = view.linkByName("masq0")?.index as number;
	const lan = parseSubnet("192.168.1.0/24") as Subnet;
	const facts = { lans: ["lan0"], elsewhere: [lan], tun: { name: "masq0", ifindex, mtu: 1500, queueLength: 1000 } };
	removeLeftovers(view);
	let routes = TunRoutes.install(view, native, facts);
	const first = shell("ip rule show");
	check(
		"the LAN's rule after all but main's, leftovers gone",
		routes.priority === 32765 && !first.includes("7788"),
		first.replaceAll("\n", " | "),
	);
	check("a free table", routes.table === 7778 && shell("ip route show table 7778").includes("default dev masq0"), `${routes.table}`);
	check("the LAN stays with the kernel", shell("ip route show table 7778").includes("throw 192.168.1.0/24"));
	check("strict reverse path filtering is warned of", routes.warnings.length === 1, routes.warnings.join());
	native.writeFile("/proc/sys/net/ipv4/conf/all/rp_filter", "0", 0o644);
	removeLeftovers(view);
	routes = TunRoutes.install(view, native, facts);
	check(
		"installing over a killed predecessor",
		shell("ip rule show").split("iif lan0").length === 2,
		shell("ip rule show").replaceAll("\n", " | "),
	);
	check("the kernel asks the TUN device", shell("ip route get 8.8.8.8 from 192.168.1.10 iif lan0").includes("dev masq0"));
	check("hosts of the WAN's own subnet too", shell("ip route get 203.0.113.9 from 192.168.1.10 iif lan0").includes("dev masq0"));
	check("connected networks as ever", shell("ip route get 192.168.1.77 from 192.168.1.10 iif lan0").includes("dev lan0"));
	routes.update([lan, parseSubnet("203.0.113.0/24") as Subnet]);
	check("a subnet given back to the kernel", shell("ip route get 203.0.113.9 from 192.168.1.10 iif lan0").includes("dev wan0"));
	routes.update([lan]);
	check("and taken again", shell("ip route get 203.0.113.9 from 192.168.1.10 iif lan0").includes("dev masq0"));
	check("the router's own way as ever", shell("ip route get 8.8.8.8").includes("dev wan0"));
	const changes = drainUntil(view, 500, (c) => c.rules && c.links);
	check("the view sees its own rules and the device up", changes.rules && view.rules.length === 6 && view.linkByName("masq0")?.up === true);
	const conf = (path: string): string => native.readFile(`/proc/sys/net/ipv4/conf/${path}`).trim();
	check("sysctls", conf("masq0/rp_filter") + conf("masq0/accept_local") + conf("masq0/forwarding") + conf("lan0/forwarding") === "0111");
	check("queue length and MTU", view.linkByName("masq0")?.queueLength === 1000 && view.linkByName("masq0")?.mtu === 1500);
	native.close(tun);
	routes.remove();
	check("removed", !shell("ip rule show").includes("iif lan0"));
	native.writeFile("/proc/sys/net/ipv4/conf/lan0/forwarding", "0", 0o644);
	const again = native.tunOpen("masq0");
	drainUntil(view, 500, () => view.linkByName("masq0")?.up === false);
	const facts2 = { ...facts, tun: { ...facts.tun, ifindex: view.linkByName("masq0")?.index as number } };
	routes = TunRoutes.install(view, native, facts2);
	routes.remove();
	check("sysctl of the LAN device restored", conf("lan0/forwarding") === "0");
	let refusal = "";
	try {
		TunRoutes.install(view, native, { ...facts2, lans: ["lan0", "nonexistent"] });
	} catch (error) {
		refusal = (error as Error).message;
	}
	check(
		"a missing LAN device is named and nothing is left",
		refusal.includes("nonexistent") && !shell("ip rule show").includes("iif lan0"),
		refusal,
	);
	view.addRoute({ table: 4000000, type: RTN.UNREACHABLE, metric: 4096 });
	check("large table numbers", shell("ip route show table 4000000").includes("unreachable default"));
	view.delRoute({ table: 4000000, type: RTN.UNREACHABLE, metric: 4096 });
	check("... and gone", shell("ip route show table all").includes("4000000") === false);
	native.close(again);
	shell("ip rule del pref 100 from 10.99.0.0/16 lookup main");
	drainUntil(view, 500, () => view.linkByName("masq0") === undefined);
}

const CLAIMED = [
	{ proto: 6, first: 32768, last: 65535 },
	{ proto: 17, first: 32768, last: 65535 },
	{ proto: 6, first: 2222, last: 2222 },
];

function checkFilters(view: KernelMirror): void {
	const lan = view.linkByName("lan0");
	const lan1 = view.linkByName("lan1");
	if (lan === undefined || lan1 === undefined) throw new Error("no lan0");
	const slots = new ArrayBuffer(64 * 2048);
	native.setFrames(slots, 2048, new Int32Array(128), null);
	const ether = native.etherOpen(lan1.index, 0x88b5, null);
	const tun = native.tunOpen("ppp9");
	batch(["link set ppp9 up"]);
	drainUntil(view, 500, () => view.linkByName("ppp9")?.up === true);
	const ppp = view.linkByName("ppp9")?.index as number;
	const slotBytes = new Uint8Array(slots);
	/** Makes the frame arrive at lan0, or its packet at ppp9, which has no link header. */
	const inject = (bytes: Uint8Array, ethernet: boolean): void => {
		if (ethernet) return send(ether, bytes);
		const at = 63 * 2048;
		slotBytes.fill(0, at, at + 24);
		slotBytes.set(bytes.subarray(14), at + native.SLOT_IP);
		native.tunSend(tun, new Int32Array([at, bytes.length - 14]), 0, 1);
	};
	const to = lan.mac as Uint8Array;
	const other = new Uint8Array([2, 0, 0, 0, 7, 7]);
	const broadcast = new Uint8Array(6).fill(255);
	for (const ethernet of [true, false]) {
		const many: Subnet[] = [subnet("192.168.1.0/24")];
		for (let i = 0; i < 200; i++) many.push(subnet(`10.${i}.1.0/24`));
		const filters: [string, Int32Array, [string, Uint8Array, boolean][]][] = [
			[
				"LAN",
				lanFilter({
					ethernet,
					ownAddresses: [address("192.168.1.1"), address("203.0.113.1")],
					elsewhere: many,
					externals: [address("203.0.113.1")],
					claimed: CLAIMED,
				}),
				[
					["to the Internet", ipFrame(to, "192.168.1.10", "8.8.8.8", 17, ports(1000, 53)), true],
					["in a broadcast frame", ipFrame(broadcast, "192.168.1.10", "8.8.8.8", 17, ports(1000, 53)), true],
					["for another station", ipFrame(other, "192.168.1.10", "8.8.8.8", 17, ports(1000, 53)), false],
					["to the router", ipFrame(to, "192.168.1.10", "192.168.1.1", 17, ports(1000, 53)), false],
					["to a VPN", ipFrame(to, "192.168.1.10", "10.150.1.9", 17, ports(1000, 53)), false],
					["beside that VPN", ipFrame(to, "192.168.1.10", "10.150.2.9", 17, ports(1000, 53)), true],
					["hairpin to a claimed port", ipFrame(to, "192.168.1.10", "203.0.113.1", 17, ports(1000, 40000)), true],
					["to the router's external port", ipFrame(to, "192.168.1.10", "203.0.113.1", 6, ports(1000, 80)), false],
					["hairpin ICMP error", ipFrame(to, "192.168.1.10", "203.0.113.1", 1, [3, 3, 0, 0]), true],
					["ping of the router", ipFrame(to, "192.168.1.10", "203.0.113.1", 1, [8, 0, 0, 0]), false],
				],
			],
			[
				"WAN",
				wanFilter({
					ethernet,
					externals: [address("203.0.113.1")],
					owned: [{ first: address("203.0.113.16"), last: address("203.0.113.31") }],
					claimed: CLAIMED,
				}),
				[
					["to a claimed port", ipFrame(to, "8.8.8.8", "203.0.113.1", 17, ports(53, 40000)), true],
					["to a router's port", ipFrame(to, "8.8.8.8", "203.0.113.1", 17, ports(53, 1000)), false],
					["to a forward", ipFrame(to, "8.8.8.8", "203.0.113.1", 6, ports(53, 2222)), true],
					["ICMP", ipFrame(to, "8.8.8.8", "203.0.113.1", 1, [0, 0, 0, 0]), true],
					["to a pool address", ipFrame(to, "8.8.8.8", "203.0.113.20", 6, ports(53, 22)), true],
					["to anyone else", ipFrame(to, "8.8.8.8", "203.0.113.99", 6, ports(53, 40000)), false],
				],
			],
		];
		for (const [name, filter, frames] of filters) {
			const title = `${name} filter in the kernel, ${ethernet ? "Ethernet" : "no link header"} (${filter.length / 4} instructions)`;
			let fd: native.Fd;
			try {
				fd = native.packetOpen(ethernet ? lan.index : ppp, ethernet, filter, 1 << 18, 1 << 18);
			} catch (error) {
				check(title, false, `${error}`);
				continue;
			}
			const wrong: string[] = [];
			for (const [what, bytes, expected] of frames) {
				if (!ethernet && /station|broadcast/.test(what)) continue;
				inject(bytes, ethernet);
				native.poll(new Int32Array([fd, native.POLLIN, 0]), 1, expected ? 500 : 30);
				if (native.packetReceive(fd, ethernet, 0, 8) > 0 !== expected) wrong.push(what);
			}
			check(title, wrong.length === 0, wrong.join());
			native.close(fd);
		}
	}
	native.close(ether);
	native.close(tun);
	drainUntil(view, 500, () => view.linkByName("ppp9") === undefined);
}

function checkGuard(view: KernelMirror): void {
	const lan = view.linkByName("lan0");
	const wan = view.linkByName("wan0");
	if (lan === undefined || wan === undefined) throw new Error("no lan0 or wan0");
	for (const name of ["lan0", "wan0"]) {
		native.writeFile(`/proc/sys/net/ipv4/conf/${name}/forwarding`, "1", 0o644);
		native.writeFile(`/proc/sys/net/ipv4/conf/${name}/rp_filter`, "0", 0o644);
	}
	shell("ip neigh replace 192.168.1.10 lladdr 02:00:00:00:00:10 dev lan0 nud permanent");
	shell("ip addr add 198.51.100.1/32 dev lo");
	const fromLan = native.etherOpen(view.linkByName("lan1")?.index as number, 0x0800, null);
	const fromWan = native.etherOpen(view.linkByName("wan1")?.index as number, 0x0800, null);
	const facts: GuardFacts = {
		lan: [{ device: "lan0", driver: "packet", tun: "" }],
		wanDevice: "wan0",
		externals: [address("203.0.113.1")],
		ownedExternals: [{ first: address("203.0.113.16"), last: address("203.0.113.31") }],
		portRanges: [{ first: 32768, last: 65535 }],
		forwards: [{ proto: 6, first: 2222, last: 2222 }],
		elsewhere: view.subnetsNotVia(wan.index),
		internal: [],
		ownAddresses: view.ownAddresses(),
	};
	/** What comes out at the other end for a frame sent in: "source > destination" or "". */
	const outcome = (into: native.Fd, bytes: Uint8Array, out: native.Fd, timeoutMs: number): string => {
		while (frameWithin(out, 0) > 0);
		send(into, bytes);
		const length = frameWithin(out, timeoutMs);
		if (length === 0) return "";
		const v = new DataView(frame.buffer);
		return `${formatAddress(v.getUint32(26))} > ${formatAddress(v.getUint32(30))} ${frame[23]}`;
	};
	const lanUdp = (to: string, port: number): Uint8Array => ipFrame(lan.mac as Uint8Array, "192.168.1.10", to, 17, ports(5000, port));
	const wanUdp = (to: string, port: number): Uint8Array => ipFrame(wan.mac as Uint8Array, "8.8.8.8", to, 17, ports(53, port));
	const counted = (what: string, name: GuardCounter, step: () => string, expected: string): void => {
		const before = readNft().guard?.[name] ?? Number.NaN;
		const seen = step();
		const after = readNft().guard?.[name] ?? Number.NaN;
		check(`${what} (${name} ${before} -> ${after})`, seen === expected && after === before + (expected === "" ? 1 : 0), seen);
	};

	check(
		"without the guard the kernel forwards untranslated",
		outcome(fromLan, lanUdp("8.8.8.8", 53), fromWan, 500) === "192.168.1.10 > 8.8.8.8 17",
	);
	check(
		"without the guard the kernel answers for us",
		outcome(fromWan, wanUdp("203.0.113.1", 40000), fromWan, 500) === "203.0.113.1 > 8.8.8.8 1",
	);

	for (const mode of ["fib", "sets"] as const) {
		const refusing = {
			run: (argv: string[], stdin: string, ms: number) =>
				stdin.includes("fib") ? { status: 1, output: "no fib" } : native.run(argv, stdin, ms),
		};
		const started = native.now();
		const took = installGuard(mode === "fib" ? native : refusing, facts);
		check(`guard installed by ${mode}`, took.addressTest === mode, `${(native.now() - started).toFixed(0)} ms`);
		counted("LAN to the Internet", "lan_unicast", () => outcome(fromLan, lanUdp("8.8.8.8", 53), fromWan, 50), "");
		counted("LAN to a claimed port", "claimed_lan", () => outcome(fromLan, lanUdp("203.0.113.1", 40000), fromLan, 50), "");
		counted(
			"LAN to the router is answered",
			"lan_unicast",
			() => outcome(fromLan, lanUdp("192.168.1.1", 9), fromLan, 500),
			"192.168.1.1 > 192.168.1.10 1",
		);
		counted("WAN to a claimed port", "claimed_wan", () => outcome(fromWan, wanUdp("203.0.113.1", 40000), fromWan, 50), "");
		counted(
			"WAN to a router's port is answered",
			"claimed_wan",
			() => outcome(fromWan, wanUdp("203.0.113.1", 1000), fromWan, 500),
			"203.0.113.1 > 8.8.8.8 1",
		);
		counted("WAN to a pool address", "owned", () => outcome(fromWan, wanUdp("203.0.113.20", 1000), fromWan, 50), "");
		const tcp = ipFrame(
			wan.mac as Uint8Array,
			"8.8.8.8",
			"203.0.113.1",
			6,
			[1, 0, 8, 0xae, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0],
		);
		counted("WAN TCP to a forward gets no RST", "claimed_wan", () => outcome(fromWan, tcp, fromWan, 50), "");
		counted(
			"WAN to a LAN host is the kernel's",
			"owned",
			() => outcome(fromWan, wanUdp("192.168.1.10", 1000), fromLan, 500),
			"8.8.8.8 > 192.168.1.10 17",
		);

		installGuard(mode === "fib" ? native : refusing, { ...facts, lan: [{ device: "lan0", driver: "tun", tun: "masq0" }] });
		counted(
			"leak: the kernel forwards a private source to the WAN",
			"leak",
			() => outcome(fromLan, lanUdp("8.8.8.8", 53), fromWan, 50),
			"",
		);
		counted(
			"leak: the router's own traffic passes",
			"leak",
			() => {
				while (frameWithin(fromWan, 0) > 0);
				native.run(["ping", "-c1", "-W1", "-I", "203.0.113.1", "8.8.8.8"], "", 3000);
				const length = frameWithin(fromWan, 500);
				return length > 0 ? formatAddress(new DataView(frame.buffer).getUint32(26)) : "";
			},
			"203.0.113.1",
		);
		if (mode === "fib") {
			counted(
				"leak: another device's address as source does not pass",
				"leak",
				() => {
					while (frameWithin(fromWan, 0) > 0);
					native.run(["ping", "-c1", "-W1", "-I", "192.168.1.1", "8.8.8.8"], "", 3000);
					return frameWithin(fromWan, 50) > 0 ? "sent" : "";
				},
				"",
			);
		}
		installGuard(mode === "fib" ? native : refusing, {
			...facts,
			lan: [{ device: "lan0", driver: "tun", tun: "masq0" }],
			exemptSources: [subnet("192.168.1.8/29")],
		});
		counted(
			"leak: an exempt source passes",
			"leak",
			() => outcome(fromLan, lanUdp("8.8.8.8", 53), fromWan, 500),
			"192.168.1.10 > 8.8.8.8 17",
		);
		outcome(fromLan, lanUdp("203.0.113.20", 53), fromWan, 20);
		check("a tun LAN to a pool address goes on", readNft().guard?.owned === 0);
	}
	shell("nft flush ruleset");
	check("a vanished guard is noticed", readNft().guard === null);
	native.run(
		["nft", "-f", "-"],
		'table ip fw { chain post { type nat hook postrouting priority srcnat; oifname "mqw" masquerade; }; }',
		10_000,
	);
	const beside = readNft();
	check("a masquerading rule is seen", beside.masquerades.join() === "fw post" && beside.flowOffload === "none", beside.masquerades.join());
	shell("nft flush ruleset");
	const firewall4 = (rule: string) =>
		native.run(["nft", "-f", "-"], `table inet fw4 { chain accept_to_wan { oifname "masq*" counter accept${rule}; }; }`, 10_000);
	firewall4("");
	const strange = readNft();
	check("firewall4 without a rule for masqd's devices is seen", strange.firewall4 && !strange.firewallKnowsUs);
	firewall4(' comment "masqd: to wan"');
	check("and with one", readNft().firewallKnowsUs);
	check("a table that is not there is not deleted", !deleteTable(native, NFPROTO.INET, "masqd"));
	check(
		"a table is deleted by netlink, with all that is in it",
		deleteTable(native, NFPROTO.INET, "fw4") && shell("nft list tables") === "",
	);
	installGuard(native, facts);
	removeGuard(native);
	removeGuard(native);
	check("guard removed", shell("nft list tables") === "");
	check(
		"nft takes the empty ruleset too",
		native.run(
			["nft", "-c", "-f", "-"],
			guardRuleset({ ...facts, lan: [], externals: [], ownedExternals: [], portRanges: [], forwards: [], elsewhere: [], ownAddresses: [] }),
			5000,
		).status === 0,
	);
	native.close(fromLan);
	native.close(fromWan);
}

try {
	devices();
	const view = new KernelMirror(native);
	const started = native.now();
	view.open();
	native.print(1, `opened and dumped in ${(native.now() - started).toFixed(1)} ms\n`);
	checkDumps(view);
	checkNotifications(view);
	checkOverrun();
	drainUntil(view, 300, () => false);
	checkResolve(view);
	checkTunRoutes(view);
	checkFilters(view);
	checkGuard(view);
	view.close();
} catch (error) {
	failures++;
	native.print(2, `${error}\n${(error as Error).stack ?? ""}\n`);
}
native.print(1, `${passes} passed, ${failures} failed\n`);
native.exit(failures === 0 ? 0 : 1);
