/**
 * Where a packet came from is asked of every packet, not only of the first of a session: LAN port, WAN, ICMP errors,
 * hairpinning, forwards with a source.
 */
import { describe, expect, it } from "vitest";
import { HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS, R_ACK_OUT } from "../../src/conntrack/record.ts";
import { findSoleNets } from "../../src/nat/context.ts";
import { REASON } from "../../src/nat/reason.ts";
import { yieldToRouter } from "../../src/nat/yielding.ts";
import { loaded, Rig, type RigOptions, summary } from "./rig.ts";
import { type Frame, icmpError, other, plain, query, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const GUEST = "192.168.2.10";
const X = "203.0.113.1";
const S1 = "198.51.100.10";
const S2 = "192.0.2.20";

/** Two LAN ports, whose hosts answer the router's ARP at once. */
function rigOf(o: RigOptions = {}): Rig {
	const rig = new Rig({ lan: [{}, {}], ...o });
	rig.hops.answersInternal = true;
	return rig;
}

/** Sessions that H1 has with S1, answered: [outbound packet of each, what a later one looks like]. */
const KNOWN: { name: string; open(rig: Rig): void; again: Frame }[] = [
	{
		name: "udp",
		open: (rig) => {
			rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
			rig.toLan(udp(`${S1}:5000`, `${X}:40000`));
			rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		},
		again: udp(`${H1}:40000`, `${S1}:5000`, { payload: 40 }),
	},
	{
		name: "udp, not answered",
		open: (rig) => void rig.toWan(udp(`${H1}:40000`, `${S1}:5000`)),
		again: udp(`${H1}:40000`, `${S1}:5000`, { payload: 40 }),
	},
	{
		name: "udp with options",
		open: (rig) => void rig.toWan(udp(`${H1}:40000`, `${S1}:5000`)),
		again: udp(`${H1}:40000`, `${S1}:5000`, { ipOptions: [1, 1, 1, 1] }),
	},
	...(["A", "RA", "FA", "S"] as const).map((flags) => ({
		name: `tcp ${flags}`,
		open: (rig: Rig) => {
			rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S", seq: 1000 }));
			rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA", seq: 9000, ack: 1001 }));
			rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", seq: 1001, ack: 9001 }));
		},
		again: tcp(`${H1}:50000`, `${S1}:80`, { flags, seq: 1001, ack: 77 }),
	})),
	{ name: "ping", open: (rig) => void rig.toWan(query(H1, S1, 77)), again: query(H1, S1, 77) },
	{ name: "gre", open: (rig) => void rig.toWan(other(H1, S1, 47)), again: other(H1, S1, 47) },
	{ name: "sctp", open: (rig) => void rig.toWan(sctp()), again: sctp() },
];

function sctp(): Frame {
	const frame = other(H1, S1, 132, { payload: 16 });
	frame.ip.set([0x9c, 0x40, 0, 80], 20);
	return frame;
}

describe("the LAN port of a session", () => {
	for (const { name, open, again } of KNOWN) {
		for (const driver of ["packet", "tun"]) {
			it(`${name}: another LAN's host does not send in it (${driver})`, () => {
				const tun = driver === "tun";
				const rig = rigOf({ lan: [{ tun }, { tun }] });
				rig.strict = false;
				open(rig);
				const [i] = rig.records();
				const before = [rig.flows(), rig.counters, rig.table.T[(i << 4) + R_ACK_OUT]];
				rig.at(rig.context.now + 10);
				const o = rig.out(again, 1);
				expect([o.wan, o.lan.flat(), o.drops], summary(o)).toEqual([[], [], ["spoofed-source"]]);
				expect([rig.flows(), rig.counters, rig.table.T[(i << 4) + R_ACK_OUT]]).toEqual(before);
				expect(rig.table.age(i, rig.context.now16)).toBe(10);
				expect(rig.out(again, 0).drops).toEqual([]);
				rig.verify();
			});
		}
	}

	it("is compared for each packet of a batch", () => {
		const rig = rigOf();
		for (const [host, port] of [
			[H1, 0],
			[H2, 0],
			[GUEST, 1],
		] as const)
			rig.toWan(udp(`${host}:40000`, `${S1}:5000`), port);
		const batch = [GUEST, H1, GUEST, H2, H1, GUEST].map((host) => udp(`${host}:40000`, `${S1}:5000`));
		const o = rig.out(batch, 1);
		expect(o.wan.length).toBe(3);
		expect(o.drops).toEqual(["spoofed-source", "spoofed-source", "spoofed-source"]);
		expect(rig.out(batch, 0).wan.length).toBe(3);
	});

	it("refreshes a session that is used in every second though others are in between", () => {
		const rig = rigOf();
		const both = [udp(`${H1}:40000`, `${S1}:5000`), udp(`${H2}:40000`, `${S1}:5000`)];
		rig.out(both);
		for (let second = 0; second < 5; second++) {
			rig.at(rig.context.now + 1);
			rig.out([...both, ...both]);
			for (const i of rig.records()) expect(rig.table.age(i, rig.context.now16)).toBe(0);
		}
		rig.verify();
	});

	it("counts a tun port and the packet socket beside it as one", () => {
		const rig = rigOf({ lan: [{ tun: true }, { address: "192.168.1.1", nets: ["192.168.1.0/24"] }] });
		rig.context.lan[1].home = 0;
		findSoleNets(rig.context.lan);
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`), 1).drops).toEqual([]);
		expect(rig.out(udp(`${H1}:40001`, `${S1}:5000`), 1).drops).toEqual([]);
	});

	it("changes with the subnets", () => {
		const rig = rigOf();
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		const { lan } = rig.context;
		[lan[0].nets, lan[1].nets] = [lan[1].nets, lan[0].nets];
		findSoleNets(lan);
		rig.keeper().placeHost(rig.hosts.find(loaded(H1)));
		expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`), 1).drops).toEqual([]);
		expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`), 0).drops).toEqual(["spoofed-source"]);
		expect(rig.in(udp(`${S1}:5000`, `${X}:40000`)).lan[1].length).toBe(1);
	});

	it("changes with a subnet within another by the first packet from there", () => {
		const rig = rigOf({ lan: [{ nets: ["192.168.0.0/16"] }, { nets: ["192.168.2.0/24"], address: "192.168.2.1" }] });
		const moving = udp("192.168.3.5:40000", `${S1}:5000`);
		expect(rig.out(moving, 0).drops).toEqual([]);
		expect(rig.out(moving, 1).drops).toEqual(["spoofed-source"]);
		rig.context.lan[1].nets = [...rig.context.lan[1].nets, { address: loaded("192.168.3.0"), mask: loaded("255.255.255.0") }];
		findSoleNets(rig.context.lan);
		expect(rig.out(moving, 1).drops).toEqual([]);
		expect(rig.out(moving, 0).drops).toEqual(["spoofed-source"]);
		expect(rig.in(udp(`${S1}:5000`, `${X}:40000`)).lan[1].length).toBe(1);
	});

	it("is that of the closest subnet where one lies in another", () => {
		const nested = [{ nets: ["192.168.0.0/16"] }, { nets: ["192.168.2.0/24"], address: "192.168.2.1" }];
		const rig = rigOf({ lan: nested, forwards: [{ protocol: 17, first: 50000, internal: GUEST, internalFirst: 7 }] });
		expect(rig.out(udp(`${GUEST}:40000`, `${S1}:5000`), 0).drops).toEqual(["spoofed-source"]);
		expect(rig.out(udp(`${GUEST}:40000`, `${S1}:5000`), 1).drops).toEqual([]);
		expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`), 0).drops).toEqual([]);
		expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`), 1).drops).toEqual(["spoofed-source"]);
		expect(rig.in(udp(`${S1}:9`, `${X}:50000`)).lan[1].map((p) => p.destination)).toEqual([GUEST]);
		rig.verify();
		// A restored session's host likewise.
		const again = rigOf({ lan: nested, from: { image: rig.image(), second: rig.context.now } });
		const host = again.hosts.find(loaded(GUEST));
		expect((again.hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff).toBe(1);
	});

	it("keeps the pieces of a datagram apart", () => {
		const rig = rigOf();
		rig.accounts = false;
		rig.strict = false;
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		const whole = udp(`${H1}:40000`, `${S1}:5000`, { payload: 40, df: false });
		const piece = (from: number, to: number, more: boolean) => {
			const ip = new Uint8Array(20 + to - from);
			ip.set(whole.ip.subarray(0, 20));
			ip.set(whole.ip.subarray(20 + from, 20 + to), 20);
			ip[2] = 0;
			ip[3] = ip.length;
			ip[6] = more ? 0x20 : 0;
			ip[7] = from / 8;
			ip.fill(0, 10, 12);
			let sum = 0;
			for (let n = 0; n < 20; n += 2) sum += ip[n] * 256 + ip[n + 1];
			sum = 0xffff - ((sum & 0xffff) + (sum >> 16));
			ip[10] = sum >> 8;
			ip[11] = sum & 0xff;
			return plain(ip);
		};
		expect(rig.out(piece(0, 24, true), 0).wan.length).toBe(0);
		expect(rig.out(piece(24, 48, false), 1).wan.length).toBe(0);
		expect(rig.out(piece(24, 48, false), 0).wan.length).toBe(2);
	});

	it("is asked too while the WAN has no address", () => {
		const rig = rigOf();
		rig.accounts = false;
		KNOWN[3].open(rig);
		const [i] = rig.records();
		const before = rig.table.T[(i << 4) + R_ACK_OUT];
		rig.put(
			0,
			tcp(`${H1}:50000`, `${S1}:80`, { flags: "A", seq: 1001, ack: 77 }),
			rig.context.lan[1],
			"02:00:00:00:10:02",
			"02:00:00:00:00:09",
		);
		rig.slowPath.outboundImpaired(rig.rx[0], rig.rx[1], 1, REASON["no-external-address"]);
		expect(rig.table.T[(i << 4) + R_ACK_OUT]).toBe(before);
	});
});

describe("our own addresses as a source on the WAN", () => {
	const STATIC = "203.0.113.9";

	it("never meet a session between two inside hosts", () => {
		const rig = rigOf({ statics: [{ internal: H2, external: STATIC }] });
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		expect(rig.out(udp(`${H2}:41000`, `${X}:40000`)).lan[0].length).toBe(1);
		expect(rig.out(tcp(`${H1}:42000`, `${STATIC}:445`, { flags: "S" })).lan[0].length).toBe(1);
		const ping = rig.out(query(H1, STATIC, 7)).lan[0][0];
		const before = rig.flows();
		for (const frame of [
			udp(`${STATIC}:41000`, `${X}:40000`),
			udp(`${X}:40000`, `${STATIC}:41000`),
			udp(`${X}:40000`, `${STATIC}:41000`, { ipOptions: [1, 1, 1, 1] }),
			tcp(`${X}:42000`, `${STATIC}:445`, { flags: "A" }),
			tcp(`${X}:42000`, `${STATIC}:445`, { flags: "R" }),
			tcp(`${STATIC}:445`, `${X}:42000`, { flags: "SA" }),
			query(X, STATIC, ping.identifier),
			query(STATIC, X, ping.identifier, { type: 0 }),
		]) {
			const o = rig.in(frame);
			expect([o.lan.flat().length, o.drops], summary(o)).toEqual([0, ["martian-source"]]);
		}
		expect(rig.flows()).toEqual(before);
		// An error from anywhere about what they send each other: nobody outside has seen it.
		const o = rig.in(icmpError(S1, X, 3, 3, udp(`${X}:40000`, `${STATIC}:41000`).ip));
		expect([o.lan.flat().length, o.left]).toEqual([0, 1]);
		expect(rig.out(udp(`${H2}:41000`, `${X}:40000`)).lan[0].length).toBe(1);
	});

	it("nor do the first and the last of the WAN's subnet, in whatever form and to whatever lets everybody in", () => {
		const rig = rigOf({
			filtering: "eif",
			forwards: [6, 17].map((protocol) => ({ protocol, first: 2000, internal: H2 })),
			statics: [{ internal: H2, external: STATIC }],
		});
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		const before = rig.flows();
		for (const source of ["203.0.113.0", "203.0.113.255"]) {
			for (const frame of [
				udp(`${source}:9`, `${X}:40000`),
				udp(`${source}:9`, `${X}:2000`),
				udp(`${source}:9`, `${X}:2000`, { df: false, more: true }),
				udp(`${source}:9`, `${X}:2000`, { ipOptions: [1, 1, 1, 1] }),
				tcp(`${source}:9`, `${X}:2000`, { flags: "S" }),
				query(source, STATIC, 7),
				other(source, STATIC, 47),
			])
				expect(rig.in(frame).drops).toEqual(["martian-source"]);
			// Nor has anybody a session with them by which they would get in.
			expect(rig.out(udp(`${H1}:40000`, `${source}:9`)).drops).toEqual(["martian-destination"]);
		}
		expect(rig.flows()).toEqual(before);
	});

	it.each([
		["of a /31 are hosts (RFC 3021)", ["203.0.113.0/31"], ["203.0.113.0"], []],
		["and so is that of a /32", ["203.0.113.1/32"], ["203.0.113.0", "203.0.113.255"], []],
		["are those of the subnet that there is", ["203.0.113.0/29"], ["203.0.113.255", "203.0.113.8"], ["203.0.113.0", "203.0.113.7"]],
		["of each where there are two", ["203.0.113.0/29", "198.51.100.0/25"], [], ["203.0.113.7", "198.51.100.127"]],
		["and nobody's where there is none", [], ["203.0.113.0", "203.0.113.255"], []],
	])("first and last %s", (_, nets, hosts, martians) => {
		const rig = rigOf({ filtering: "eif", wan: { nets } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		for (const source of hosts) expect(rig.toLan(udp(`${source}:9`, `${X}:40000`)).source).toBe(source);
		for (const source of martians) expect(rig.in(udp(`${source}:9`, `${X}:40000`)).drops).toEqual(["martian-source"]);
	});

	it("nor do those of a LAN get anywhere", () => {
		const rig = rigOf({ filtering: "eif" });
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		for (const source of [H1, H2, GUEST, X]) {
			expect(rig.in(udp(`${source}:9`, `${X}:40000`)).drops).toEqual(["martian-source"]);
			expect(rig.in(udp(`${source}:9`, `${X}:40000`, { df: false, more: true })).drops).toEqual(["martian-source"]);
			expect(rig.in(other(source, X, 47)).drops).toEqual(["martian-source"]);
		}
	});
});

describe("ICMP errors", () => {
	const about = (peer = S1) => udp(`${peer}:5000`, `${H1}:40000`).ip;

	it("from inside go to the peer of the session, and come from its LAN", () => {
		for (const tun of [false, true]) {
			const rig = rigOf({ lan: [{ tun }, { tun }] });
			rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
			expect(rig.out(icmpError(H1, S1, 3, 3, about())).wan.map((p) => p.line)).toEqual([
				`icmp 3/3 ${X} > ${S1} about udp ${S1}:5000 > ${X}:40000`,
			]);
			// A router within the LAN.
			expect(rig.out(icmpError("192.168.1.77", S1, 11, 0, about())).wan.length).toBe(1);
			expect(rig.out(icmpError(H1, S2, 3, 3, about())).drops).toEqual(["icmp-untied"]);
			expect(rig.out(icmpError(GUEST, S1, 3, 3, about()), 1).drops).toEqual(["spoofed-source"]);
			expect(rig.out(icmpError(H1, S1, 3, 3, about()), 1).drops).toEqual(["spoofed-source"]);
			expect(rig.out(icmpError("10.9.9.9", S1, 3, 3, about())).drops).toEqual(["spoofed-source"]);
			expect(rig.out(icmpError(GUEST, S2, 3, 3, about()), 1).drops).toEqual(["spoofed-source"]);
			for (const source of ["192.168.1.0", "192.168.1.255", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
				expect(rig.out(icmpError(source, S1, 3, 3, about())).drops).toEqual(["martian-source"]);
		}
	});

	it("from outside are sent to the address that sent what they quote", () => {
		const rig = rigOf({ statics: [{ internal: H2, external: "203.0.113.9" }] });
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		const quote = udp(`${X}:40000`, `${S1}:5000`).ip;
		expect(rig.in(icmpError(S2, X, 11, 0, quote)).lan[0].length).toBe(1);
		expect(rig.in(icmpError(S2, "203.0.113.9", 11, 0, quote)).drops).toEqual(["icmp-no-session"]);
		expect(rig.in(icmpError(H2, X, 11, 0, quote)).drops).toEqual(["martian-source"]);
	});

	it("the kernel's own, which come out of a tun port, leave translated", () => {
		const rig = rigOf({ lan: [{ tun: true }, {}], forwards: [{ protocol: 6, first: 2222, internal: H1, internalFirst: 22 }] });
		rig.toLan(tcp(`${S1}:999`, `${X}:2222`, { flags: "S" }));
		const quote = tcp(`${S1}:999`, `${H1}:22`, { flags: "S" }).ip;
		for (const source of [X, "192.168.1.1"])
			expect(rig.out(icmpError(source, S1, 3, 1, quote)).wan.map((p) => p.line)).toEqual([
				`icmp 3/1 ${X} > ${S1} about tcp ${S1}:999 > ${X}:2222 S`,
			]);
		expect(rig.out(icmpError(X, S1, 3, 1, quote), 1).drops).toEqual(["spoofed-source"]);
	});
});

describe("hairpinning between two LANs", () => {
	const STATIC = "203.0.113.9";

	it("lets in what would be let in from outside", () => {
		const rig = rigOf({
			statics: [{ internal: H2, external: STATIC }],
			forwards: [{ protocol: 6, first: 2222, internal: H1, internalFirst: 22 }],
		});
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		expect(rig.out(udp(`${GUEST}:1234`, `${X}:40000`), 1).drops).toEqual(["hairpin-filtered"]);
		expect(rig.flows().length).toBe(1);
		expect(rig.out(tcp(`${GUEST}:1234`, `${X}:2222`, { flags: "S" }), 1).lan[0].length).toBe(1);
		expect(rig.out(udp(`${GUEST}:1234`, `${STATIC}:9`), 1).lan[0].length).toBe(1);
		expect(rig.out(udp(`${H2}:41000`, `${X}:40000`)).lan[0].length).toBe(1);
		rig.verify();
	});

	it("answers of a session pass, and endpoint-independent mappings are open", () => {
		const rig = rigOf({ hosts: [{ address: H1, filtering: "eif" }] });
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		expect(rig.out(udp(`${GUEST}:41000`, `${X}:40000`), 1).lan[0].length).toBe(1);
		expect(rig.out(udp(`${H1}:40000`, `${X}:41000`)).lan[1].length).toBe(1);
		expect(rig.out(udp(`${GUEST}:41000`, `${X}:40000`), 1).lan[0].length).toBe(1);
	});

	it("is what the option says", () => {
		for (const [hairpin, near, far] of [
			["same-lan", 1, 0],
			["all", 1, 1],
			["off", 0, 0],
		] as const) {
			const rig = rigOf({ policy: { hairpin } });
			rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
			const frames = [udp(`${H2}:41000`, `${X}:40000`), udp(`${GUEST}:41001`, `${X}:40000`)];
			expect(rig.out(frames[0]).lan[0].length).toBe(near);
			expect(rig.out(frames[1], 1).lan[0].length).toBe(far);
			expect(rig.context.drops[REASON["hairpin-filtered"]]).toBe(2 - near - far);
			rig.verify();
		}
	});

	it("ends with a reload that has the option otherwise", () => {
		const rig = rigOf({ policy: { hairpin: "all" } });
		rig.toWan(udp(`${H1}:40000`, `${S1}:5000`));
		rig.out(udp(`${GUEST}:41001`, `${X}:40000`), 1);
		rig.publish();
		const keeper = rig.keeper({ policy: { ...rig.context.policy, hairpin: "same-lan" } });
		expect(rig.records().filter((i) => !keeper.permits(i)).length).toBe(2);
		expect(rig.records().every((i) => rig.keeper().permits(i))).toBe(true);
	});
});

describe("src_ip of a forward", () => {
	const options = (filtering: "eif" | "adf" | "apdf"): RigOptions => ({
		filtering,
		forwards: [{ protocol: 6, first: 2222, internal: H1, internalFirst: 22, source: `${S1}/32` }],
	});

	for (const filtering of ["eif", "adf", "apdf"] as const) {
		it(`holds when the mapping has sessions (${filtering})`, () => {
			const rig = rigOf(options(filtering));
			const attempt = (frame: Frame, port = -1) => (port < 0 ? rig.in(frame) : rig.out(frame, port));
			expect(rig.in(tcp(`${S2}:1000`, `${X}:2222`, { flags: "S" })).drops).toEqual(["filtered"]);
			rig.toLan(tcp(`${S1}:1001`, `${X}:2222`, { flags: "S" }));
			// What the endpoint itself asks elsewhere opens nothing but for the answer.
			expect(rig.toWan(tcp(`${H1}:22`, `${S2}:7`, { flags: "S" })).line).toBe(`tcp ${X}:2222 > ${S2}:7 S`);
			expect(attempt(tcp(`${S2}:7`, `${X}:2222`, { flags: "SA" })).lan[0].length).toBe(1);
			for (const [frame, port] of [
				[tcp(`${S2}:1002`, `${X}:2222`, { flags: "S" }), -1],
				[tcp(`${H2}:1003`, `${X}:2222`, { flags: "S" }), 0],
				[tcp(`${GUEST}:1004`, `${X}:2222`, { flags: "S" }), 1],
			] as const) {
				const o = attempt(frame, port);
				expect([o.lan.flat().length, o.drops], summary(o)).toEqual([0, ["filtered"]]);
			}
			expect(rig.in(tcp(`${S1}:1005`, `${X}:2222`, { flags: "S" })).lan[0].length).toBe(1);
			rig.verify();
		});
	}

	it("is not widened by what the host asks for itself", () => {
		const rig = rigOf(options("apdf"));
		rig.context.requested.push({ protocol: 6, first: 2222, last: 2222, internal: loaded(H2), internalFirst: 80, source: null });
		expect(rig.in(tcp(`${S2}:1000`, `${X}:2222`, { flags: "S" })).drops).toEqual(["filtered"]);
	});

	it("leads each peer to its own host", () => {
		const rig = rigOf({
			filtering: "eif",
			forwards: [
				{ protocol: 6, first: 2222, internal: H1, internalFirst: 22, source: `${S1}/32` },
				{ protocol: 6, first: 2222, internal: H2, internalFirst: 22, source: `${S2}/32` },
			],
		});
		expect(rig.toLan(tcp(`${S1}:1001`, `${X}:2222`, { flags: "S" })).destination).toBe(H1);
		expect(rig.toLan(tcp(`${S2}:1001`, `${X}:2222`, { flags: "S" })).destination).toBe(H2);
	});
});

describe("a protocol without ports that the router itself speaks", () => {
	const rigWith = (protocol: number, peer: string) => {
		const rig = rigOf();
		rig.context.routerSpeaks = (p, at) => p === protocol && at === loaded(peer);
		return rig;
	};

	for (const protocol of [4, 41, 47, 50, 51, 115, 253]) {
		it(`${protocol}: no host opens it towards that peer, and what comes from there is the kernel's`, () => {
			const rig = rigWith(protocol, S1);
			const o = rig.out(other(H1, S1, protocol));
			expect([o.wan.length, o.drops, o.errors]).toEqual([0, ["protocol-busy"], 1]);
			expect(rig.in(other(S1, X, protocol)).left).toBe(1);
			expect(rig.flows()).toEqual([]);
			// Other peers, and other protocols, are free.
			expect(rig.out(other(H1, S2, protocol)).drops).toEqual([]);
			expect(rig.out(other(H1, S1, protocol + 1)).drops).toEqual([]);
			expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`)).drops).toEqual([]);
		});
	}

	it("takes it back when it begins later", () => {
		const rig = rigOf();
		rig.toWan(other(H1, S1, 47));
		rig.toWan(other(H1, S2, 47));
		expect(rig.in(other(S1, X, 47)).lan[0].length).toBe(1);
		rig.context.routerSpeaks = (p, at) => p === 47 && at === loaded(S1);
		expect(yieldToRouter(rig.context, rig.admission)).toBe(1);
		expect(rig.in(other(S1, X, 47)).left).toBe(1);
		expect(rig.in(other(S2, X, 47)).lan[0].length).toBe(1);
		rig.verify();
	});

	it("does not keep static NAT's host from it, whose address is another", () => {
		const rig = rigOf({ statics: [{ internal: H2, external: "203.0.113.9" }] });
		rig.context.routerSpeaks = () => true;
		expect(rig.out(other(H2, S1, 47)).drops).toEqual([]);
		expect(yieldToRouter(rig.context, rig.admission)).toBe(0);
	});
});
