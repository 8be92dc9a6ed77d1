import { describe, expect, it } from "vitest";
import { parseAddress, parseSubnet, type Subnet } from "../../src/packet/address.ts";
import { arpFilter, FilterAssembler, lanFilter, wanFilter } from "../../src/port/filter.ts";

/** What the kernel's classic BPF machine does with the instructions that the filters use. Number of bytes accepted. */
function runFilter(words: Int32Array, data: Uint8Array, pkttype = 0): number {
	const view = new DataView(data.buffer, data.byteOffset, data.length);
	let a = 0;
	let x = 0;
	const memory: number[] = [];
	for (let at = 0; ; at++) {
		if (at * 4 >= words.length) throw new Error("ran off the end");
		const [code, jt, jf] = [words[at * 4], words[at * 4 + 1], words[at * 4 + 2]];
		const k = words[at * 4 + 3] >>> 0;
		const load = (offset: number, size: number): boolean => {
			if (offset + size > data.length) return false;
			a = size === 1 ? view.getUint8(offset) : size === 2 ? view.getUint16(offset) : view.getUint32(offset);
			return true;
		};
		const test = (holds: boolean): void => {
			at += holds ? jt : jf;
		};
		if (code === 0x20 && k === 0xfffff004) a = pkttype;
		else if (code === 0x20 || code === 0x28 || code === 0x30) {
			if (!load(k, { 32: 4, 40: 2, 48: 1 }[code] as number)) return 0;
		} else if (code === 0x48 || code === 0x50) {
			if (!load(x + k, code === 0x48 ? 2 : 1)) return 0;
		} else if (code === 0x80) a = data.length;
		else if (code === 0xb1) {
			if (k >= data.length) return 0;
			x = (view.getUint8(k) & 0xf) * 4;
		} else if (code === 0x87) a = x;
		else if (code === 0x07) x = a;
		else if (code === 0x0c) a = (a + x) >>> 0;
		else if (code === 0x54) a = (a & k) >>> 0;
		else if (code === 0x74) a >>>= k;
		else if (code === 0x02) memory[k] = a;
		else if (code === 0x60) a = memory[k] as number;
		else if (code === 0x14) a = (a - k) >>> 0;
		else if (code === 0x05) at += k;
		else if (code === 0x15) test(a === k);
		else if (code === 0x25) test(a > k);
		else if (code === 0x35) test(a >= k);
		else if (code === 0x3d) test(a >= x);
		else if (code === 0x45) test((a & k) !== 0);
		else if (code === 0x06) return k;
		else throw new Error(`code ${code} at ${at}`);
	}
}

interface Frame {
	to: string;
	proto?: number;
	/** First bytes after the IP header. */
	payload?: number[];
	offset?: number;
	options?: number;
	ethernet?: boolean;
	length?: number;
}

function frame({ to, proto = 17, payload, offset = 0, options = 0, ethernet = true, length }: Frame): Uint8Array {
	const header = 20 + options;
	const rest = payload ?? [0x9c, 0x40, 0, 53, 0, 8, 0, 0];
	const start = ethernet ? 14 : 0;
	const bytes = new Uint8Array(start + header + rest.length);
	if (ethernet) bytes.set([0x08, 0x00], 12);
	const view = new DataView(bytes.buffer, start);
	view.setUint8(0, 0x40 | (header / 4));
	view.setUint16(6, offset);
	view.setUint8(9, proto);
	view.setUint32(12, 0xc0a8010a);
	view.setUint32(16, address(to));
	let sum = 0;
	for (let at = 0; at < header; at += 2) sum += view.getUint16(at);
	while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
	view.setUint16(10, sum ^ 0xffff);
	bytes.set(rest, start + header);
	return length === undefined ? bytes : bytes.slice(0, length);
}

const address = (text: string): number => parseAddress(text) as number;
const subnet = (text: string): Subnet => parseSubnet(text) as Subnet;
const ports = (source: number, destination: number): number[] => [
	source >> 8,
	source & 255,
	destination >> 8,
	destination & 255,
	0,
	0,
	0,
	0,
];
const icmp = (type: number): number[] => [type, 0, 0, 0, 0, 0, 0, 0];

const CLAIMED = [
	{ proto: 6, first: 32768, last: 65535 },
	{ proto: 17, first: 32768, last: 65535 },
	{ proto: 6, first: 2222, last: 2222 },
];
const EXTERNAL = "203.0.113.1";
const OTHERHOST = 3;

for (const ethernet of [true, false]) {
	describe(`LAN filter, ${ethernet ? "Ethernet" : "no link header"}`, () => {
		const program = lanFilter({
			ethernet,
			ownAddresses: [address("192.168.1.1"), address("10.8.0.1"), address(EXTERNAL)],
			elsewhere: [subnet("192.168.1.0/24"), subnet("10.8.0.0/16"), subnet("192.168.2.0/24")],
			externals: [address(EXTERNAL)],
			claimed: CLAIMED,
		});
		const accepts = (f: Frame, pkttype = 0): boolean => runFilter(program, frame({ ...f, ethernet }), pkttype) !== 0;

		it("takes what goes to the Internet, of any protocol, whole", () => {
			expect(accepts({ to: "198.51.100.9" })).toBe(true);
			expect(accepts({ to: "1.1.1.1", proto: 47 })).toBe(true);
			expect(accepts({ to: "223.255.255.255", proto: 1 })).toBe(true);
			expect(runFilter(program, frame({ to: "1.1.1.1", ethernet }))).toBe(0xffffffff);
		});
		it("leaves frames for other stations", () => {
			expect(accepts({ to: "198.51.100.9" }, OTHERHOST)).toBe(false);
		});
		it("takes unicast packets in broadcast and multicast frames, so that they are counted", () => {
			expect(accepts({ to: "198.51.100.9" }, 1)).toBe(true);
			expect(accepts({ to: "198.51.100.9" }, 2)).toBe(true);
		});
		it("leaves multicast, broadcast, the router's own addresses and connected networks", () => {
			for (const to of [
				"224.0.0.1",
				"239.255.255.250",
				"255.255.255.255",
				"192.168.1.1",
				"192.168.1.255",
				"10.8.0.1",
				"10.8.200.9",
				"192.168.2.0",
			]) {
				expect(accepts({ to })).toBe(false);
			}
			expect(accepts({ to: "10.9.0.0" })).toBe(true);
			expect(accepts({ to: "192.168.3.0" })).toBe(true);
			expect(accepts({ to: "192.168.0.255" })).toBe(true);
		});
		it("hairpin: takes TCP and UDP to claimed ports of an external address only", () => {
			expect(accepts({ to: EXTERNAL, proto: 17, payload: ports(5000, 40000) })).toBe(true);
			expect(accepts({ to: EXTERNAL, proto: 17, payload: ports(5000, 32767) })).toBe(false);
			expect(accepts({ to: EXTERNAL, proto: 17, payload: ports(5000, 2222) })).toBe(false);
			expect(accepts({ to: EXTERNAL, proto: 6, payload: ports(5000, 2222) })).toBe(true);
			expect(accepts({ to: EXTERNAL, proto: 6, payload: ports(5000, 80) })).toBe(false);
			expect(accepts({ to: EXTERNAL, proto: 6, payload: ports(40000, 65535) })).toBe(true);
			expect(accepts({ to: EXTERNAL, proto: 47 })).toBe(false);
		});
		it("hairpin: finds the port behind IP options", () => {
			expect(accepts({ to: EXTERNAL, options: 8, payload: ports(5000, 40000) })).toBe(true);
			expect(accepts({ to: EXTERNAL, options: 40, payload: ports(40000, 80) })).toBe(false);
		});
		it("hairpin: takes non-first fragments of TCP and UDP", () => {
			expect(accepts({ to: EXTERNAL, offset: 185, payload: ports(1, 1) })).toBe(true);
			expect(accepts({ to: EXTERNAL, offset: 0x2000, payload: ports(1, 1) })).toBe(false);
		});
		it("hairpin: takes ICMP errors and leaves echo to the kernel", () => {
			for (const type of [3, 4, 5, 11, 12]) expect(accepts({ to: EXTERNAL, proto: 1, payload: icmp(type) })).toBe(true);
			for (const type of [0, 8, 13]) expect(accepts({ to: EXTERNAL, proto: 1, payload: icmp(type) })).toBe(false);
		});
		it("takes what is too short to tell, so that it is counted", () => {
			const start = ethernet ? 14 : 0;
			expect(accepts({ to: "192.168.1.1", length: start + 19 })).toBe(true);
			expect(accepts({ to: EXTERNAL, length: start + 20 })).toBe(true);
			expect(accepts({ to: EXTERNAL, length: start + 23 })).toBe(true);
			expect(accepts({ to: EXTERNAL, options: 40, length: start + 22 })).toBe(true);
			const bad = frame({ to: EXTERNAL, ethernet });
			bad[start] = 0x43;
			expect(runFilter(program, bad)).toBe(0xffffffff);
		});

		it("cuts a frame with a wrong header checksum off behind the header", () => {
			const start = ethernet ? 14 : 0;
			for (const at of [1, 5, 8, 10, 11, 15]) {
				const bad = frame({ to: "198.51.100.9", ethernet });
				bad[start + at] ^= 0x40;
				expect(runFilter(program, bad)).toBe(start + 20);
			}
			expect(runFilter(program, frame({ to: "198.51.100.9", ethernet }), 1)).toBe(start + 20);
			const optioned = frame({ to: "198.51.100.9", options: 4, ethernet });
			optioned[start + 10] ^= 1;
			expect(runFilter(program, optioned)).toBe(0xffffffff);
		});
	});

	describe(`WAN filter, ${ethernet ? "Ethernet" : "no link header"}`, () => {
		const program = wanFilter({
			ethernet,
			externals: [address(EXTERNAL)],
			owned: [{ first: address("203.0.113.16"), last: address("203.0.113.31") }],
			claimed: CLAIMED,
		});
		const accepts = (f: Frame, pkttype = 0): boolean => runFilter(program, frame({ ...f, ethernet }), pkttype) !== 0;

		it("takes TCP and UDP to the external address by claimed port", () => {
			expect(accepts({ to: EXTERNAL, payload: ports(53, 32768) })).toBe(true);
			expect(accepts({ to: EXTERNAL, payload: ports(53, 32767) })).toBe(false);
			expect(accepts({ to: EXTERNAL, proto: 6, payload: ports(53, 2222) })).toBe(true);
			expect(accepts({ to: EXTERNAL, proto: 6, payload: ports(53, 22) })).toBe(false);
		});
		it("takes non-first fragments, ICMP and other protocols", () => {
			expect(accepts({ to: EXTERNAL, offset: 1, payload: ports(0, 22) })).toBe(true);
			expect(accepts({ to: EXTERNAL, proto: 1, payload: icmp(0) })).toBe(true);
			expect(accepts({ to: EXTERNAL, proto: 50 })).toBe(true);
		});
		it("takes everything to addresses that are only masqd's", () => {
			expect(accepts({ to: "203.0.113.16", proto: 6, payload: ports(1, 22) })).toBe(true);
			expect(accepts({ to: "203.0.113.31", proto: 41 })).toBe(true);
			expect(accepts({ to: "203.0.113.15", payload: ports(1, 40000) })).toBe(false);
			expect(accepts({ to: "203.0.113.32", payload: ports(1, 40000) })).toBe(false);
		});
		it("leaves frames for other stations and all other destinations", () => {
			expect(accepts({ to: EXTERNAL, payload: ports(53, 40000) }, OTHERHOST)).toBe(false);
			expect(accepts({ to: "224.0.0.1" })).toBe(false);
			expect(accepts({ to: "192.168.1.10", payload: ports(53, 40000) })).toBe(false);
		});
	});
}

describe("WAN filter without facts", () => {
	it("takes nothing while the WAN has no address", () => {
		const program = wanFilter({ ethernet: true, externals: [], owned: [], claimed: [] });
		expect(runFilter(program, frame({ to: EXTERNAL, payload: ports(1, 40000) }))).toBe(0);
	});
});

describe("ARP filter", () => {
	const program = arpFilter([{ first: address("203.0.113.16"), last: address("203.0.113.31") }]);
	const arp = (operation: number, target: string): Uint8Array => {
		const bytes = new Uint8Array(42);
		const view = new DataView(bytes.buffer);
		view.setUint16(20, operation);
		view.setUint32(38, address(target));
		return bytes;
	};
	it("takes requests for our addresses only", () => {
		expect(runFilter(program, arp(1, "203.0.113.20"))).toBe(0xffffffff);
		expect(runFilter(program, arp(2, "203.0.113.20"))).toBe(0);
		expect(runFilter(program, arp(1, "203.0.113.32"))).toBe(0);
		expect(runFilter(program, arp(1, "203.0.113.20").slice(0, 40))).toBe(0);
	});
});

describe("filter assembler", () => {
	it("lengthens jumps over more than 255 instructions", () => {
		const elsewhere: Subnet[] = [];
		for (let i = 0; i < 400; i++) elsewhere.push(subnet(`10.${i >> 1}.${(i & 1) * 128}.0/24`));
		const program = lanFilter({ ethernet: true, ownAddresses: [], elsewhere, externals: [address(EXTERNAL)], claimed: CLAIMED });
		expect(program.length / 4).toBeGreaterThan(800);
		for (let i = 0; i < program.length; i += 4) {
			expect(program[i + 1]).toBeLessThan(256);
			expect(program[i + 2]).toBeLessThan(256);
		}
		for (let i = 0; i < 400; i++) {
			expect(runFilter(program, frame({ to: `10.${i >> 1}.${(i & 1) * 128}.7` }))).toBe(0);
			expect(runFilter(program, frame({ to: `10.${i >> 1}.${(i & 1) * 128 + 1}.7` }))).toBe(0xffffffff);
		}
		expect(runFilter(program, frame({ to: EXTERNAL, payload: ports(1, 40000) }))).toBe(0xffffffff);
		expect(runFilter(program, frame({ to: EXTERNAL, payload: ports(1, 80) }))).toBe(0);
	});
	it("refuses a program that the kernel would refuse", () => {
		const f = new FilterAssembler();
		for (let i = 0; i < 5000; i++) f.op(0x20, 0);
		expect(() => f.assemble()).toThrow("4096");
	});
	it("finds numbers in ranges at their edges", () => {
		const ranges = [
			{ first: 0, last: 1 },
			{ first: 5, last: 5 },
			{ first: 100, last: 220 },
			{ first: 0xfffffff0, last: 0xffffffff },
		];
		const program = new FilterAssembler().op(0x20, 0).inRanges(ranges, "yes", "no").at("yes").op(0x06, 1).at("no").op(0x06, 0).assemble();
		const within = (value: number): number => {
			const bytes = new Uint8Array(4);
			new DataView(bytes.buffer).setUint32(0, value);
			return runFilter(program, bytes);
		};
		for (const value of [0, 1, 5, 100, 220, 0xfffffff0, 0xffffffff]) expect(within(value)).toBe(1);
		for (const value of [2, 4, 6, 99, 221, 0x80000000, 0xffffffef]) expect(within(value)).toBe(0);
	});
});
