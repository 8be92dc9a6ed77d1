import { describe, expect, it } from "vitest";
import { NLM_F } from "../../src/netlink/message.ts";
import {
	ARPHRD,
	encodeAddress,
	encodeDump,
	encodeLink,
	encodeNeighbour,
	encodeRoute,
	encodeRule,
	errnoName,
	IFF,
	type Message,
	NTF_USE,
	NUD,
	parseMessages,
	RTM,
	RTN,
	RTNH_F_DEAD,
	RtnetlinkError,
	TABLE,
} from "../../src/netlink/route.ts";
import { formatAddress, parseAddress } from "../../src/packet/address.ts";

/*
 * Dumps of a little-endian Linux 6.18 in a namespace made by:
 *   ip link add v0 type veth peer name v1 (02:00:00:00:00:01 and :02), lo, v0 and v1 up
 *   ip addr add 192.168.1.1/24 dev v0; ip addr add 10.9.0.1 peer 10.9.0.2/32 dev v1
 *   ip route add default via 192.168.1.254 dev v0; ip route add 172.16.0.0/12 via 192.168.1.2 metric 20
 *   ip route add unreachable 198.18.0.0/15
 *   ip route add 203.0.113.0/24 nexthop via 192.168.1.3 dev v0 nexthop dev v1 weight 2
 *   ip neigh add 192.168.1.50 lladdr 02:00:00:00:00:50 dev v0 nud permanent
 *   ip rule add iif v0 lookup main suppress_prefixlength 0 pref 100
 *   ip rule add iif v0 lookup 7777 pref 101 protocol 109
 */
const LINK =
	"6404000010000200070000007721000000000100030000004310010000000000070003007630000008000d00e803000005001000060000000500110000000000" +
	"050043000000000008000400dc050000080032004400000008003300ffff000008001b000000000008001e000000000008003d000000000008001f0002000000" +
	"08002800ffff0000080029000000010008003a000000010008003f0000000100080040000000010008003b00f8ff070008003c00ffff00000800420000000000" +
	"08002000020000000500210001000000080023000200000008002f00010000000800300001000000060044000000000006004500000000000500270000000000" +
	"0a00010002000000000100000a000200ffffffffffff0000cc001700010000000000000001000000000000005a000000000000005a0000000000000000000000" +
	"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000" +
	"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000" +
	"0000000000000000000000000000000000000000000000000000000000000000000000006400070001000000010000005a0000005a0000000000000000000000" +
	"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000" +
	"00000000000000000c002b0005000200000000001000120009000100766574680000000008000500020000000c0006006e6f717565756500c0011a008c000200" +
	"88000100000000000000000000000000010000000100000001000000010000000000000001000000000000000000000000000000000000000000000000000000" +
	"000000000000000000000000000000000000000000000000000000000000000000000000000000000000000010270000e8030000000000000000000000000000" +
	"000000000100000030010a00080001000000008014000500ffff000098f30300a8520000e8030000f40002000000000040000000dc0500000100000001000000" +
	"0100000001000000ffffffffa00f0000e803000000000000803a0900805101000300000058020000100000000000000001000000010000000100000060ea0000" +
	"00000000000000000000000000000000000000000000000001000000000000000000000010270000e80300000100000000000000000000000100000000000000" +
	"00000000010000000000000000000000000000000000000080ee3600000000000000000001000000000000000000000000000000000000000000000000040000" +
	"00000000ffff0000ffffffff010000000000000000000000000000001400070000000000000000000000000000000000050008000000000024000e0000000000" +
	"0000000000000000000000000000000000000000000000000000000004003e80040041801400000003000200070000007721000000000000";
const ADDRESSES =
	"4c00000014000200070000003e170000020880fe01000000080001007f000001080002007f000001070003006c6f0000080008008000000014000600ffffffff" +
	"ffffffff849a0200849a02004c00000014000200070000003e1700000220800002000000080001000a090002080002000a090001070003007631000008000800" +
	"8000000014000600ffffffffffffffff859a0200859a02004c00000014000200070000003e170000021880000300000008000100c0a8010108000200c0a80101" +
	"0700030076300000080008008000000014000600ffffffffffffffff849a0200849a02001400000003000200070000003e17000000000000";
const ROUTES =
	"3400000018000200070000003e17000002000000fe0300010000000008000f00fe00000008000500c0a801fe08000400030000003c0000001800020007000000" +
	"3e17000002200000fe02fd010000000008000f00fe000000080001000a090002080007000a09000108000400020000004400000018000200070000003e170000" +
	"020c0000fe0300010000000008000f00fe00000008000100ac100000080006001400000008000500c0a8010208000400030000003c0000001800020007000000" +
	"3e17000002180000fe02fd010000000008000f00fe00000008000100c0a8010008000700c0a8010108000400030000002c00000018000200070000003e170000" +
	"020f0000fe0300070000000008000f00fe00000008000100c61200004800000018000200070000003e17000002180000fe0300010000000008000f00fe000000" +
	"08000100cb0071001c000900100000000300000008000500c0a8010308000001020000003c00000018000200070000003e17000002200000ff02fe0200000000" +
	"08000f00ff000000080001000a090001080007000a09000108000400020000003c00000018000200070000003e17000002080000ff02fe020000000008000f00" +
	"ff000000080001007f000000080007007f00000108000400010000003c00000018000200070000003e17000002200000ff02fe020000000008000f00ff000000" +
	"080001007f000001080007007f00000108000400010000003c00000018000200070000003e17000002200000ff02fd030000000008000f00ff00000008000100" +
	"7fffffff080007007f00000108000400010000003c00000018000200070000003e17000002200000ff02fe020000000008000f00ff00000008000100c0a80101" +
	"08000700c0a8010108000400030000003c00000018000200070000003e17000002200000ff02fd030000000008000f00ff00000008000100c0a801ff08000700" +
	"c0a8010108000400030000001400000003000200070000003e17000000000000";
const NEIGHBOURS =
	"4c0000001c000200070000003e17000002000000030000008000000108000100c0a801320a00020002000000005000000800040000000000140003000b000000" +
	"0b0000000b000000000000001400000003000200070000003e17000000000000";
const RULES =
	"3400000020000200070000003e17000002000000ff0000010000000008000f00ff00000008000e00ffffffff0500150002000000440000002000020007000000" +
	"3e17000002000000fe0000010000000008000f00fe00000008000e00000000000500150000000000070003007630000008000600640000004400000020000200" +
	"070000003e17000002000000fc0000010000000008000f00611e000008000e00ffffffff050015006d000000070003007630000008000600650000003c000000" +
	"20000200070000003e17000002000000fe0000010000000008000f00fe00000008000e00ffffffff050015000200000008000600fe7f00003c00000020000200" +
	"070000003e17000002000000fd0000010000000008000f00fd00000008000e00ffffffff050015000200000008000600ff7f0000140000000300020007000000" +
	"3e17000000000000";

function bytes(hex: string): ArrayBuffer {
	const out = new Uint8Array(hex.length / 2);
	for (let i = 0; i < out.length; i++) out[i] = Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16);
	return out.buffer;
}

function hex(buffer: ArrayBuffer): string {
	return [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parse(text: string): Message[] {
	const buffer = bytes(text);
	return parseMessages(buffer, buffer.byteLength, true);
}

const address = (text: string): number => parseAddress(text) as number;

/** "unicast 172.16.0.0/12 via 192.168.1.2 dev 3 metric 20 table 254" */
function routeText(message: Message): string {
	if (message.kind !== "route") return message.kind;
	const { routeType, destination, prefix, gateway, ifindex, metric, table } = message;
	return `${routeType} ${formatAddress(destination)}/${prefix} via ${formatAddress(gateway)} dev ${ifindex} metric ${metric} table ${table}`;
}

describe("rtnetlink dumps of a real kernel", () => {
	it("reads a link", () => {
		const [link, done] = parse(LINK);
		expect(done.kind).toBe("done");
		if (link.kind !== "link") throw new Error(link.kind);
		expect(link.name).toBe("v0");
		expect(link.deviceType).toBe(ARPHRD.ETHER);
		expect(link.mtu).toBe(1500);
		expect(link.queueLength).toBe(1000);
		expect(link.master).toBe(0);
		expect(link.deleted).toBe(false);
		expect(link.deviceFlags & (IFF.UP | IFF.RUNNING | IFF.LOOPBACK)).toBe(IFF.UP | IFF.RUNNING);
		expect([...(link.mac as Uint8Array)]).toEqual([2, 0, 0, 0, 0, 1]);
		expect(link.flags & NLM_F.MULTI).toBe(NLM_F.MULTI);
		expect(link.sequence).toBe(7);
	});

	it("reads addresses by IFA_LOCAL", () => {
		const addresses = parse(ADDRESSES).filter((message) => message.kind === "address");
		expect(addresses.map((a) => `${formatAddress(a.address)}/${a.prefix} peer ${formatAddress(a.peer)}`)).toEqual([
			"127.0.0.1/8 peer 127.0.0.1",
			"10.9.0.1/32 peer 10.9.0.2",
			"192.168.1.1/24 peer 192.168.1.1",
		]);
		expect(addresses.map((a) => a.secondary)).toEqual([false, false, false]);
	});

	it("reads routes, multipath and unreachable ones too", () => {
		const routes = parse(ROUTES);
		expect(routes.map(routeText).filter((text) => text.endsWith("table 254"))).toEqual([
			"1 0.0.0.0/0 via 192.168.1.254 dev 3 metric 0 table 254",
			"1 10.9.0.2/32 via 0.0.0.0 dev 2 metric 0 table 254",
			"1 172.16.0.0/12 via 192.168.1.2 dev 3 metric 20 table 254",
			"1 192.168.1.0/24 via 0.0.0.0 dev 3 metric 0 table 254",
			"7 198.18.0.0/15 via 0.0.0.0 dev 0 metric 0 table 254",
			"1 203.0.113.0/24 via 192.168.1.3 dev 3 metric 0 table 254",
		]);
		expect(routes.map(routeText).includes("2 192.168.1.1/32 via 0.0.0.0 dev 3 metric 0 table 255")).toBe(true);
		expect(routes[routes.length - 1].kind).toBe("done");
	});

	it("reads a permanent neighbour", () => {
		const [neighbour] = parse(NEIGHBOURS);
		if (neighbour.kind !== "neighbour") throw new Error(neighbour.kind);
		expect(neighbour.ifindex).toBe(3);
		expect(formatAddress(neighbour.address)).toBe("192.168.1.50");
		expect([...(neighbour.mac as Uint8Array)]).toEqual([2, 0, 0, 0, 0, 0x50]);
		expect(neighbour.state).toBe(NUD.PERMANENT);
	});

	it("reads policy rules", () => {
		const rules = parse(RULES).filter((message) => message.kind === "rule");
		expect(rules.map((r) => `${r.priority} ${r.iif} ${r.table} ${r.suppressPrefix} ${r.protocol}`)).toEqual([
			"0  255 -1 2",
			"100 v0 254 0 0",
			"101 v0 7777 -1 109",
			"32766  254 -1 2",
			"32767  253 -1 2",
		]);
	});
});

describe("rtnetlink against bad input", () => {
	it("never throws nor hangs on a dump cut short anywhere", () => {
		for (const dump of [LINK, ADDRESSES, ROUTES, NEIGHBOURS, RULES]) {
			const buffer = bytes(dump);
			for (let length = 0; length <= buffer.byteLength; length++) {
				const messages = parseMessages(buffer.slice(0, length), length, true);
				const consumed = messages.filter((message) => message.kind !== "malformed").length;
				expect(consumed <= 13).toBe(true);
			}
		}
	});

	it("never throws on any byte changed", () => {
		for (const dump of [ADDRESSES, ROUTES, NEIGHBOURS, RULES]) {
			const original = new Uint8Array(bytes(dump));
			for (let at = 0; at < original.length; at++) {
				for (const value of [0, 1, 0x7f, 0xff]) {
					const changed = original.slice();
					changed[at] = value;
					expect(parseMessages(changed.buffer, changed.length, true).length > 0).toBe(true);
				}
			}
		}
	});

	it("says malformed for a message longer than its datagram", () => {
		const buffer = bytes(NEIGHBOURS);
		expect(parseMessages(buffer, 40, true).map((message) => message.kind)).toEqual(["malformed"]);
	});

	it("passes over attributes that are too short for their type", () => {
		const buffer = encodeNeighbour({ type: RTM.NEWNEIGH, flags: 0, sequence: 1 }, { ifindex: 2, address: 0x01020304, state: 2 }, true);
		const view = new DataView(buffer);
		view.setUint16(28, 6, true);
		const [neighbour] = parseMessages(buffer, buffer.byteLength, true);
		if (neighbour.kind !== "neighbour") throw new Error(neighbour.kind);
		expect(neighbour.address).toBe(0);
	});

	it("takes a multipath route whose next hops are all dead for a dead one", () => {
		const text = ROUTES;
		const buffer = bytes(text);
		const messages = parseMessages(buffer, buffer.byteLength, true);
		expect(messages.filter((m) => m.kind === "route" && (m.routeFlags & RTNH_F_DEAD) !== 0).length).toBe(0);
		const view = new DataView(buffer);
		let changed = 0;
		for (let at = 0; at + 8 < buffer.byteLength; at += 4) {
			if (view.getUint16(at + 2, true) !== 9 || view.getUint16(at, true) < 20) continue;
			view.setUint8(at + 4 + 2, RTNH_F_DEAD);
			const again = parseMessages(buffer, buffer.byteLength, true).find(
				(m) => m.kind === "route" && m.prefix === 24 && m.destination === address("203.0.113.0"),
			);
			if (again?.kind === "route") {
				expect(again.ifindex).toBe(2);
				expect(again.gateway).toBe(0);
				changed++;
			}
			view.setUint8(at + 4 + 16 + 2, RTNH_F_DEAD);
			const dead = parseMessages(buffer, buffer.byteLength, true).find(
				(m) => m.kind === "route" && m.destination === address("203.0.113.0"),
			);
			if (dead?.kind === "route") expect(dead.routeFlags & RTNH_F_DEAD).toBe(RTNH_F_DEAD);
		}
		expect(changed).toBe(1);
	});
});

describe("rtnetlink requests", () => {
	it("writes the dump of links with the mask that leaves statistics out", () => {
		expect(hex(encodeDump(RTM.GETLINK, 0, 5, true))).toBe(
			"28000000120001030500000000000000" + "00000000000000000000000000000000" + "08001d0008000000",
		);
		expect(hex(encodeDump(RTM.GETADDR, 2, 5, true))).toBe("18000000160001030500000000000000" + "0200000000000000");
	});

	it("writes the policy rules", () => {
		const header = { type: RTM.NEWRULE, flags: NLM_F.REQUEST | NLM_F.ACK, sequence: 1 };
		expect(hex(encodeRule(header, { priority: 101, iif: "v0", table: 7777, protocol: 109 }, true))).toBe(
			"3c000000200005000100000000000000" +
				"020000000000000100000000" +
				"0800060065000000" +
				"08000f00611e0000" +
				"0700030076300000" +
				"050015006d000000",
		);
	});

	it("writes a resolve request", () => {
		const header = { type: RTM.NEWNEIGH, flags: NLM_F.REQUEST | NLM_F.CREATE, sequence: 1 };
		const request = { ifindex: 3, address: address("192.168.1.9"), state: NUD.NONE, neighbourFlags: NTF_USE };
		expect(hex(encodeNeighbour(header, request, true))).toBe(
			"240000001c0001040100000000000000" + "020000000300000000000101" + "08000100c0a80109",
		);
	});

	for (const little of [true, false]) {
		const round = (buffer: ArrayBuffer): Message => parseMessages(buffer, buffer.byteLength, little)[0];
		it(`reads back what it writes, ${little ? "little" : "big"}-endian`, () => {
			const link = round(
				encodeLink(
					{ type: RTM.NEWLINK, flags: 0, sequence: 9 },
					{
						index: 4,
						name: "masq0",
						deviceFlags: IFF.UP,
						deviceFlagsMask: IFF.UP,
						mtu: 65535,
						queueLength: 500,
						master: 2,
						mac: new Uint8Array(6),
					},
					little,
				),
			);
			expect(link).toEqual({
				kind: "link",
				deleted: false,
				flags: 0,
				sequence: 9,
				family: 0,
				deviceType: 0,
				index: 4,
				deviceFlags: IFF.UP,
				name: "masq0",
				mtu: 65535,
				queueLength: 500,
				tunnel: null,
				master: 2,
				mac: new Uint8Array(6),
			});
			const own = round(
				encodeAddress(
					{ type: RTM.DELADDR, flags: 0, sequence: 1 },
					{ ifindex: 4, address: 0xc0a80101, prefix: 24, peer: 0xc0a80102 },
					little,
				),
			);
			if (own.kind !== "address") throw new Error(own.kind);
			expect([own.deleted, own.ifindex, own.address, own.prefix, own.peer]).toEqual([true, 4, 0xc0a80101, 24, 0xc0a80102]);
			const route = round(
				encodeRoute(
					{ type: RTM.NEWROUTE, flags: 0, sequence: 1 },
					{ table: 7777, destination: 0xc6336400, prefix: 24, ifindex: 4, gateway: 0xcb007101, metric: 7, protocol: 109 },
					little,
				),
			);
			expect(routeText(route)).toBe("1 198.51.100.0/24 via 203.0.113.1 dev 4 metric 7 table 7777");
			const blackhole = round(
				encodeRoute({ type: RTM.DELROUTE, flags: 0, sequence: 1 }, { table: TABLE.MAIN, routeType: RTN.BLACKHOLE, protocol: 0 }, little),
			);
			expect(routeText(blackhole)).toBe("6 0.0.0.0/0 via 0.0.0.0 dev 0 metric 0 table 254");
			const neighbour = round(
				encodeNeighbour(
					{ type: RTM.DELNEIGH, flags: 0, sequence: 1 },
					{ ifindex: 4, address: 0xc0a80109, state: NUD.STALE, mac: new Uint8Array([2, 0, 0, 0, 0, 9]) },
					little,
				),
			);
			if (neighbour.kind !== "neighbour") throw new Error(neighbour.kind);
			expect([neighbour.deleted, neighbour.address, neighbour.state, [...(neighbour.mac as Uint8Array)]]).toEqual([
				true,
				0xc0a80109,
				NUD.STALE,
				[2, 0, 0, 0, 0, 9],
			]);
			const rule = round(
				encodeRule(
					{ type: RTM.NEWRULE, flags: 0, sequence: 1 },
					{ priority: 100, iif: "br-lan.1234567", table: 254, suppressPrefix: 0, protocol: 109 },
					little,
				),
			);
			if (rule.kind !== "rule") throw new Error(rule.kind);
			expect([rule.priority, rule.iif, rule.table, rule.suppressPrefix, rule.protocol, rule.action]).toEqual([
				100,
				"br-lan.1234567",
				254,
				0,
				109,
				1,
			]);
		});
	}
});

describe("rtnetlink errors", () => {
	it("reads acknowledgements and refusals", () => {
		const text = "24000000020000000700000000000000" + "efffffff" + "14000000180005060700000000000000";
		const [refusal] = parse(text);
		expect(refusal).toEqual({ kind: "error", flags: 0, sequence: 7, errno: 17 });
		const [ack] = parse(text.replace("efffffff", "00000000"));
		expect(ack).toEqual({ kind: "error", flags: 0, sequence: 7, errno: 0 });
	});
	it("names the operation and the errno, also by MIPS's numbers", () => {
		expect(new RtnetlinkError("add the rule for br-lan", 17).message).toBe("add the rule for br-lan: File exists (EEXIST)");
		expect(new RtnetlinkError("x", 4242).message).toBe("x: unknown error (E4242)");
		expect(errnoName(100)).toBe("ENETDOWN");
		expect(errnoName(127)).toBe("ENETDOWN");
	});
});
