/**
 * Next hops of the WAN, the MACs of internal hosts, and the frames that wait for either: what the kernel knows decides,
 * and nobody takes what others need.
 */
import { describe, expect, it } from "vitest";
import { HOP_SHIFT, R_META } from "../../src/conntrack/record.ts";
import type { KernelMirror, Neighbour, Route } from "../../src/kernel/mirror.ts";
import type { Context, Net } from "../../src/nat/context.ts";
import { NUD } from "../../src/netlink/route.ts";
import { formatAddress, parseAddress, parseSubnet } from "../../src/packet/address.ts";
import { addressValue, SLOT_SIZE } from "../../src/packet/layout.ts";
import { NextHopTable } from "../../src/port/next-hops.ts";
import { WAITING_MAX } from "../../src/port/waiting-frames.ts";
import { type LanOptions, loaded, macOf, type Outcome, Rig } from "./rig.ts";
import { udp } from "./rig-frame.ts";

const WAN = 2;
const LAN = 3;
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const X = "203.0.113.1";
const GATEWAY = "203.0.113.254";

const value = (address: string) => parseAddress(address) as number;
const bytes = (mac: string) => Uint8Array.from(mac.split(":"), (part) => Number.parseInt(part, 16));
const wanMac = macOf;

/** The kernel as far as next hops ask it. */
class FakeKernel {
	readonly table: { net: Net; ifindex: number; gateway: number; mtu: number }[] = [];
	readonly neighbours = new Map<string, Neighbour>();
	/** Addresses that were asked for. */
	asked: string[] = [];

	route(text: string, ifindex: number, gateway = "", mtu = 0): void {
		const subnet = parseSubnet(text);
		if (subnet === null) throw new Error(text);
		this.table.unshift({ net: subnet, ifindex, gateway: gateway === "" ? 0 : value(gateway), mtu });
		this.table.sort((a, b) => (b.net.mask >>> 0) - (a.net.mask >>> 0));
	}

	lookup(address: number): Route | null {
		const found = this.table.find(({ net }) => ((address ^ net.address) & net.mask) === 0);
		return found === undefined ? null : (found as unknown as Route);
	}

	routes(): Route[] {
		return this.table as unknown as Route[];
	}

	isGateway(ifindex: number, address: number): boolean {
		return this.table.some((route) => route.ifindex === ifindex && route.gateway === address);
	}

	isLocal(): boolean {
		return false;
	}

	isBroadcast(): boolean {
		return false;
	}

	neighbour(ifindex: number, address: number): Neighbour | undefined {
		return this.neighbours.get(`${ifindex} ${formatAddress(address)}`);
	}

	resolve(_ifindex: number, address: number): void {
		this.asked.push(formatAddress(address));
	}
}

/** The core with the real table of next hops over a kernel that the test plays. */
class Bench {
	readonly kernel = new FakeKernel();
	readonly rig: Rig;
	readonly hops: NextHopTable;
	readonly undeliverable: string[] = [];
	now = 1_000_000;
	lanIndexes = [LAN];

	constructor(lan?: LanOptions[], sessions = 1024) {
		this.rig = new Rig({ sessions, ...(lan && { lan }) });
		this.rig.accounts = false;
		const { context, slowPath } = this.rig;
		this.kernel.route("0.0.0.0/0", WAN, GATEWAY);
		this.kernel.route("203.0.113.0/24", WAN);
		this.kernel.route("198.18.0.0/15", WAN);
		this.kernel.route("192.168.1.0/24", LAN);
		this.hops = new NextHopTable({
			kernel: this.kernel as unknown as KernelMirror,
			views: context.views,
			table: this.rig.table,
			hosts: this.rig.hosts,
			headers: context.headers,
			wan: context.wan,
			lan: context.lan,
			dropped: (reason, slot, port) => context.dropLog.add(reason, slot, port, context.now),
			forwarded: (out) => {
				if (out) context.forwardedOut++;
				else context.forwardedIn++;
			},
			sessionOf: (slot) => slowPath.sessionOf(slot),
			undeliverableInternal: (slot) => this.undeliverable.push(formatAddress(addressValue(context.views.P[(slot + 24 + 16) >> 2]))),
			undeliverable: (slot) => this.undeliverable.push(formatAddress(addressValue(context.views.P[(slot + 24 + 16) >> 2]))),
			wanIndex: () => WAN,
			lanIndex: (n) => this.lanIndexes[n],
			milliseconds: () => this.now,
			spareSlot: (n) => (63 - n) * SLOT_SIZE,
		});
		(context as { hops: Context["hops"] }).hops = this.hops;
	}

	/** The kernel tells of a neighbour; what that sets free. */
	tell(ifindex: number, address: string, mac: string | null, state: number = NUD.REACHABLE): Outcome {
		const neighbour: Neighbour = { ifindex, address: value(address), mac: mac === null ? null : bytes(mac), state };
		if (state === NUD.NONE) this.kernel.neighbours.delete(`${ifindex} ${address}`);
		else this.kernel.neighbours.set(`${ifindex} ${address}`, neighbour);
		return this.#outcome(() => this.hops.update([neighbour]));
	}

	/** Time goes by, second for second. */
	pass(seconds: number): Outcome {
		return this.#outcome(() => {
			for (let n = 0; n < seconds; n++) {
				this.now += 1000;
				if (this.hops.waiting > 0) this.hops.flush();
				this.hops.everySecond();
			}
		});
	}

	/** The routes are others now, as the engine follows it. */
	routes(): void {
		this.hops.routesChanged();
		const { T } = this.rig.table;
		for (const i of this.rig.records()) {
			const hop = Math.max(0, this.hops.find(T[(i << 4) + 1]));
			T[(i << 4) + R_META] = (T[(i << 4) + R_META] & ~(0xff << HOP_SHIFT)) | (hop << HOP_SHIFT);
		}
	}

	#outcome(act: () => void): Outcome {
		const { rig } = this;
		const out = rig.fast.outbound;
		rig.fast.outbound = () => act();
		try {
			return rig.out([]);
		} finally {
			rig.fast.outbound = out;
		}
	}
}

/** Where the frames that came out on the WAN went. */
const macs = (o: Outcome) => o.wan.map((p) => p.ether?.to);
/** ... and on the LAN. */
const inward = (o: Outcome) => o.lan.flat().map((p) => p.ether?.to);

describe("MTUs", () => {
	it("that of the route counts where it is smaller than the link's", () => {
		const b = new Bench();
		const least = () => b.hops.least;
		const to = (address: string) => b.hops.mtuTo(loaded(address));
		b.routes();
		expect([least(), to("198.18.0.7"), to("8.8.8.8")]).toEqual([1500, 1500, 1500]);
		b.kernel.route("198.18.0.0/16", WAN, GATEWAY, 1280);
		b.kernel.route("198.19.0.0/16", WAN, GATEWAY, 9000);
		// Not by the WAN.
		b.kernel.route("10.0.0.0/8", LAN, "192.168.1.77", 576);
		b.routes();
		expect([least(), to("198.18.0.7"), to("198.19.0.7"), to("8.8.8.8")]).toEqual([1280, 1280, 1500, 1500]);
		b.kernel.table.splice(0);
		b.kernel.route("0.0.0.0/0", WAN, GATEWAY);
		b.routes();
		expect([least(), to("198.18.0.7")]).toEqual([1500, 1500]);
	});
});

/** Port of the last forged frame. */
let forged = 50000;

describe("next hops", () => {
	it("sends to a gateway and to a peer on the link, each by its own MAC", () => {
		const b = new Bench();
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		b.tell(WAN, "203.0.113.10", wanMac("203.0.113.10"));
		expect(macs(b.rig.out(udp(`${H1}:1`, "8.8.8.8:53")))).toEqual([wanMac(GATEWAY)]);
		expect(macs(b.rig.out(udp(`${H1}:1`, "203.0.113.10:53")))).toEqual([wanMac("203.0.113.10")]);
	});

	it("holds the first frame of a session to a peer that has to be found, and none after it has answered", () => {
		const b = new Bench();
		const frame = udp(`${H1}:1`, "203.0.113.10:53");
		expect(b.rig.out(frame).wan).toEqual([]);
		expect(b.kernel.asked).toContain("203.0.113.10");
		expect(macs(b.tell(WAN, "203.0.113.10", wanMac("203.0.113.10")))).toEqual([wanMac("203.0.113.10")]);
		for (let n = 0; n < 3; n++) expect(macs(b.rig.out(frame))).toEqual([wanMac("203.0.113.10")]);
		// By its number now, which the fast loop reads.
		expect(b.rig.table.T[(b.rig.records()[0] << 4) + R_META] >>> HOP_SHIFT).toBeGreaterThan(0);
	});

	it("has no end of peers on the link: also the thousandth is sent to at once, and so is another gateway", () => {
		const b = new Bench(undefined, 4096);
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		const peer = (n: number) => `198.18.${n >> 8}.${n & 255}`;
		for (let n = 1; n <= 1000; n++) {
			b.tell(WAN, peer(n), wanMac(peer(n)));
			for (let k = 0; k < 3; k++) expect(macs(b.rig.out(udp(`${H1}:${n}`, `${peer(n)}:9`)))).toEqual([wanMac(peer(n))]);
		}
		for (let n = 1; n <= 1000; n++) expect(macs(b.rig.out(udp(`${H1}:${n}`, `${peer(n)}:9`)))).toEqual([wanMac(peer(n))]);
		b.kernel.table.splice(
			b.kernel.table.findIndex((r) => r.gateway !== 0),
			1,
		);
		b.kernel.route("0.0.0.0/0", WAN, "203.0.113.253");
		b.routes();
		b.tell(WAN, "203.0.113.253", wanMac("203.0.113.253"));
		for (let k = 0; k < 3; k++) {
			const sent = b.rig.out(Array.from({ length: 40 }, (_, n) => udp(`${H2}:${n + 1}`, "8.8.8.8:53")));
			expect(new Set(macs(sent))).toEqual(new Set([wanMac("203.0.113.253")]));
			expect(sent.wan.length).toBe(40);
		}
	});

	it("follows any number of gateways, one after another", () => {
		const b = new Bench();
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		b.rig.out(udp(`${H1}:1`, "8.8.8.8:53"));
		for (let n = 1; n <= 300; n++) {
			const gateway = `198.18.${n >> 8}.${n & 255}`;
			b.kernel.table.splice(
				b.kernel.table.findIndex((r) => r.gateway !== 0),
				1,
			);
			b.kernel.route("0.0.0.0/0", WAN, gateway);
			b.tell(WAN, gateway, wanMac(gateway));
			b.routes();
			expect(macs(b.rig.out(udp(`${H1}:1`, "8.8.8.8:53")))).toEqual([wanMac(gateway)]);
			b.pass(1);
		}
	});

	it("gives the numbers of peers that no session has to others", () => {
		const b = new Bench();
		const peer = (n: number) => `198.18.${n >> 8}.${n & 255}`;
		const numbers = new Set<number>();
		for (let n = 1; n <= 600; n++) {
			b.tell(WAN, peer(n), wanMac(peer(n)));
			b.rig.out(udp(`${H1}:1`, `${peer(n)}:9`));
			for (const i of b.rig.records()) {
				numbers.add(b.rig.table.T[(i << 4) + R_META] >>> HOP_SHIFT);
				b.rig.admission.end(i, "flushed");
			}
			b.pass(1);
		}
		expect(numbers.has(0)).toBe(false);
	});

	it("never gives a number away that a waiting session is to use, whoever else wants one", () => {
		const b = new Bench(undefined, 4096);
		const peer = (n: number) => `198.18.${n >> 8}.${n & 255}`;
		for (let n = 1; n <= 500; n++) {
			b.tell(WAN, peer(n), wanMac(peer(n)));
			b.rig.out(udp(`${H1}:${n}`, `${peer(n)}:9`));
			if (n % 7 === 0) b.tell(WAN, peer(n - 3), null, NUD.FAILED);
			if (n % 3 === 0) b.pass(1);
		}
		for (let n = 1; n <= 500; n++) {
			const sent = b.rig.out(udp(`${H1}:${n}`, `${peer(n)}:9`));
			for (const mac of macs(sent)) expect(mac).toBe(wanMac(peer(n)));
		}
	});

	it("tells a host of a peer that does not answer", () => {
		const b = new Bench();
		b.rig.out(udp(`${H1}:1`, "203.0.113.10:53"));
		const over = b.pass(4);
		expect(over.drops).toEqual(["no-next-hop"]);
		expect(b.undeliverable).toEqual(["203.0.113.10"]);
	});

	it("asks again for a peer that frames wait for, though none finds a place any more: the kernel may have lost what it was asked for", () => {
		const b = new Bench();
		for (let n = 0; n < 2 * WAITING_MAX; n++) b.rig.out(udp(`${H1}:1`, "203.0.113.10:53"));
		const asked = () => b.kernel.asked.filter((a) => a === "203.0.113.10").length;
		expect(asked()).toBe(1);
		b.now += 1000;
		b.rig.out(udp(`${H1}:1`, "203.0.113.10:53"));
		expect(asked()).toBe(2);
		// And without another frame.
		b.now += 1000;
		b.hops.flush();
		expect(asked()).toBe(3);
		// At once when the kernel says that it has forgotten it.
		b.kernel.neighbours.clear();
		b.hops.update([{ ifindex: WAN, address: value("203.0.113.10"), mac: null, state: NUD.NONE }]);
		expect(asked()).toBe(4);
	});

	it("confirms the hops in use, and those only", () => {
		const b = new Bench();
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		b.rig.out(udp(`${H1}:1`, "8.8.8.8:53"));
		b.pass(40);
		expect(new Set(b.kernel.asked)).toEqual(new Set([GATEWAY, H1]));
		const before = b.kernel.asked.filter((a) => a === GATEWAY).length;
		b.pass(60);
		const more = b.kernel.asked.filter((a) => a === GATEWAY).length - before;
		expect(more).toBeGreaterThanOrEqual(1);
		expect(more).toBeLessThanOrEqual(4);
	});
});

describe("frames that wait", () => {
	/** Host `n` sends to a peer on the link that does not answer. */
	const scan = (b: Bench, host: string, first: number, count: number) => {
		const sent: Outcome[] = [];
		for (let n = first; n < first + count; n++) sent.push(b.rig.out(udp(`${host}:7`, `198.18.${n >> 8}.${n & 255}:9`)));
		return sent.flatMap((o) => o.drops);
	};

	it("of one host are few, and those beyond are counted", () => {
		const b = new Bench();
		expect(scan(b, H1, 1, 100)).toEqual(Array(100 - WAITING_MAX).fill("waiting-full"));
		expect(b.hops.waiting).toBe(WAITING_MAX);
		expect(b.kernel.asked.filter((a) => a.startsWith("198.18.")).length).toBe(WAITING_MAX);
	});

	it("leave every host a place, however many others scan", () => {
		const b = new Bench();
		scan(b, H2, 3000, 300);
		for (let h = 0; h < 20; h++) scan(b, `192.168.1.${100 + h}`, 1 + h * 50, 50);
		expect(b.hops.waiting).toBe(WAITING_MAX);
		expect(scan(b, H1, 2000, 1)).toEqual(["waiting-full"]);
		const wanted = b.tell(WAN, "198.18.7.208", wanMac("198.18.7.208"));
		expect(macs(wanted)).toEqual([wanMac("198.18.7.208")]);
	});

	it("do not hold up those whose neighbours are known", () => {
		const b = new Bench();
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		scan(b, H1, 1, 300);
		for (let n = 0; n < 50; n++) expect(macs(b.rig.out(udp(`${H2}:${1000 + n}`, "8.8.8.8:53")))).toEqual([wanMac(GATEWAY)]);
	});

	it("are given up after a while, and make room", () => {
		const b = new Bench();
		scan(b, H1, 1, 100);
		b.pass(4);
		expect(b.hops.waiting).toBe(0);
		expect(scan(b, H1, 200, 1)).toEqual([]);
		expect(b.hops.waiting).toBe(1);
	});

	it("for inside hosts go to the one that answers", () => {
		const b = new Bench();
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		const hosts = [H1, H2];
		for (const [n, host] of hosts.entries()) {
			b.tell(LAN, host, macOf(host));
			b.rig.out(udp(`${host}:${40000 + n}`, "8.8.8.8:9"));
			b.tell(LAN, host, null, NUD.FAILED);
		}
		for (const n of hosts.keys()) expect(inward(b.rig.in(udp("8.8.8.8:9", `${X}:${40000 + n}`)))).toEqual([]);
		const got = b.tell(LAN, H2, "02:dd:00:00:00:02").lan[0];
		expect(got.map((p) => [p.destination, p.ether?.to])).toEqual([[H2, "02:dd:00:00:00:02"]]);
		expect(b.pass(4).drops).toEqual(["host-unreachable"]);
	});
});

describe("inside hosts", () => {
	/** A bench on which H1 has a session with 8.8.8.8. */
	function withSession(): Bench {
		const b = new Bench();
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		b.rig.out(udp(`${H1}:40000`, "8.8.8.8:53"));
		return b;
	}
	const answer = udp("8.8.8.8:53", `${X}:40000`);

	it("are heard from their own frames until the kernel knows them, and the kernel is asked at once", () => {
		const b = withSession();
		expect(b.kernel.asked).toContain(H1);
		expect(inward(b.rig.in(answer))).toEqual([macOf(H1)]);
		b.tell(LAN, H1, null, NUD.FAILED);
		// It is silent to ARP, and is reached all the same.
		for (let n = 0; n < 3; n++) {
			b.pass(15);
			expect(inward(b.rig.in(answer))).toEqual([macOf(H1)]);
		}
	});

	it("follow the kernel: another MAC, a failure, another answer", () => {
		const b = withSession();
		b.tell(LAN, H1, "02:aa:00:00:00:01");
		expect(inward(b.rig.in(answer))).toEqual(["02:aa:00:00:00:01"]);
		b.tell(LAN, H1, "02:aa:00:00:00:02", NUD.STALE);
		expect(inward(b.rig.in(answer))).toEqual(["02:aa:00:00:00:02"]);
		b.tell(LAN, H1, null, NUD.FAILED);
		expect(inward(b.rig.in(answer))).toEqual([]);
		expect(b.hops.waiting).toBe(1);
		expect(inward(b.tell(LAN, H1, "02:aa:00:00:00:03"))).toEqual(["02:aa:00:00:00:03"]);
	});

	it("are not taken over by a frame that says it is theirs", () => {
		for (const state of [NUD.REACHABLE, NUD.STALE, NUD.PERMANENT, NUD.DELAY]) {
			const b = withSession();
			b.tell(LAN, H1, macOf(H1), state);
			forge(b, H1, "02:bb:00:00:00:99");
			expect(inward(b.rig.in(answer))).toEqual([macOf(H1)]);
		}
	});

	it("are not taken over either before the kernel has answered, but another MAC is believed when it has asked in vain", () => {
		const b = withSession();
		b.kernel.asked = [];
		b.now += 2000;
		forge(b, H1, "02:bb:00:00:00:99");
		expect(b.kernel.asked).toContain(H1);
		expect(inward(b.rig.in(answer))).toEqual([macOf(H1)]);
		b.tell(LAN, H1, null, NUD.FAILED);
		forge(b, H1, "02:bb:00:00:00:98");
		expect(inward(b.rig.in(answer))).toEqual(["02:bb:00:00:00:98"]);
		b.tell(LAN, H1, macOf(H1));
		expect(inward(b.rig.in(answer))).toEqual([macOf(H1)]);
	});

	it("get the answer to what was sent in their name", () => {
		const b = withSession();
		b.tell(LAN, H1, macOf(H1));
		const sent = forge(b, H1, "02:bb:00:00:00:99");
		expect(sent.wan.length).toBe(1);
		expect(inward(b.rig.in(udp("8.8.8.8:9", `${X}:${sent.wan[0].sourcePort}`)))).toEqual([macOf(H1)]);
	});

	it("are confirmed while they get packets, and left alone while they do not", () => {
		const b = withSession();
		b.tell(LAN, H1, macOf(H1));
		b.pass(60);
		b.kernel.asked = [];
		b.pass(60);
		expect(b.kernel.asked).not.toContain(H1);
		for (let n = 0; n < 60; n++) {
			b.rig.in(answer);
			b.pass(1);
		}
		const asked = b.kernel.asked.filter((a) => a === H1).length;
		expect(asked).toBeGreaterThanOrEqual(3);
		expect(asked).toBeLessThanOrEqual(7);
	});

	it("behind a router of the LAN go by its MAC, and follow it", () => {
		const b = new Bench([{ nets: ["192.168.1.0/24", "10.1.0.0/16"] }]);
		b.kernel.route("10.1.0.0/16", LAN, "192.168.1.2");
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		b.tell(LAN, "192.168.1.2", "02:cc:00:00:00:01");
		forge(b, "10.1.0.5", "02:cc:00:00:00:01");
		const { sourcePort } = forge(b, "10.1.0.5", "02:cc:00:00:00:01").wan[0];
		const back = udp("8.8.8.8:9", `${X}:${sourcePort}`);
		expect(inward(b.rig.in(back))).toEqual(["02:cc:00:00:00:01"]);
		b.tell(LAN, "192.168.1.2", "02:cc:00:00:00:02");
		expect(inward(b.rig.in(back))).toEqual(["02:cc:00:00:00:02"]);
		// A host of the same address that is heard of on the link itself is none that the routes lead to.
		b.tell(LAN, "10.1.0.5", "02:cc:00:00:00:99");
		expect(inward(b.rig.in(back))).toEqual(["02:cc:00:00:00:02"]);
	});

	it("are moved neither to another LAN nor to the tap beside a TUN device by news from there", () => {
		const b = new Bench([{ tun: true }, { nets: ["192.168.2.0/24"] }, { nets: ["192.168.1.0/24"] }]);
		b.rig.context.lan[2].home = 0;
		b.lanIndexes = [LAN, 4, LAN];
		b.tell(WAN, GATEWAY, wanMac(GATEWAY));
		b.rig.out(udp(`${H1}:40000`, "8.8.8.8:53"), 0);
		b.tell(LAN, H1, macOf(H1));
		b.tell(4, H1, "02:bb:00:00:00:99");
		const got = b.rig.in(answer);
		expect(got.lan.map((l) => l.length)).toEqual([1, 0, 0]);
	});
});

/** A new session in the name of `address` from a machine with another MAC. */
function forge(b: Bench, address: string, mac: string): Outcome {
	const { rig } = b;
	const put = rig.put.bind(rig);
	rig.put = (n, frame, link, to) => put(n, frame, link, to, mac);
	try {
		forged++;
		return rig.out(udp(`${address}:${forged}`, "8.8.8.8:9"));
	} finally {
		rig.put = put;
	}
}
