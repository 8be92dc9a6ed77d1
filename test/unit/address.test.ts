import { describe, expect, it } from "vitest";
import {
	formatAddress,
	formatAddressRange,
	formatSubnet,
	maskPrefix,
	mergeRanges,
	parseAddress,
	parseAddressRange,
	parseInterfaceAddress,
	parseSubnet,
	prefixMask,
	rangesOverlap,
	subnetContains,
	subnetOf,
	subnetRange,
	subnetsOverlap,
} from "../../src/packet/address.ts";
import { isUnicast, isUnreachableFromOutside } from "../../src/packet/address-class.ts";

describe("addresses", () => {
	it("are unsigned numbers in written order", () => {
		expect(parseAddress("192.168.1.1")).toBe(0xc0a80101);
		expect(parseAddress("255.255.255.255")).toBe(0xffffffff);
		expect(parseAddress("0.0.0.0")).toBe(0);
	});

	it("are four decimal numbers and nothing else", () => {
		const wrong = [
			"",
			"1",
			"1.2.3",
			"1.2.3.4.5",
			"1.2.3.256",
			"01.2.3.4",
			"1.2.3.4 ",
			" 1.2.3.4",
			"1.2.3.-4",
			"0x1.2.3.4",
			"1..3.4",
			"1.2.3.4\n",
		];
		for (const text of wrong) expect(parseAddress(text)).toBeNull();
	});

	it("are written back, also from signed numbers", () => {
		for (const text of ["0.0.0.0", "10.0.0.1", "128.0.0.1", "255.255.255.255"]) expect(formatAddress(parseAddress(text)!)).toBe(text);
		expect(formatAddress(0xc0a80101 | 0)).toBe("192.168.1.1");
	});

	it("know their kind", () => {
		for (const text of ["10.1.2.3", "172.31.0.1", "192.168.255.1", "100.64.0.1", "127.0.0.1", "169.254.1.1", "0.1.2.3"]) {
			expect(isUnreachableFromOutside(parseAddress(text)!)).toBe(true);
		}
		for (const text of ["9.255.255.255", "172.32.0.1", "203.0.113.1", "100.128.0.1"])
			expect(isUnreachableFromOutside(parseAddress(text)!)).toBe(false);
		for (const text of ["1.0.0.0", "223.255.255.255", "192.168.1.1"]) expect(isUnicast(parseAddress(text)!)).toBe(true);
		for (const text of ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"]) expect(isUnicast(parseAddress(text)!)).toBe(false);
	});
});

describe("masks and subnets", () => {
	it("turn prefixes into masks and back", () => {
		expect(prefixMask(0)).toBe(0);
		expect(prefixMask(1)).toBe(0x80000000);
		expect(prefixMask(24)).toBe(0xffffff00);
		expect(prefixMask(32)).toBe(0xffffffff);
		for (let prefix = 0; prefix <= 32; prefix++) expect(maskPrefix(prefixMask(prefix))).toBe(prefix);
		expect(maskPrefix(0xff00ff00)).toBeNull();
	});

	it("are read with prefix, with mask, and as one address", () => {
		const subnet = { address: 0xc0a80100, mask: 0xffffff00, prefix: 24 };
		expect(parseSubnet("192.168.1.0/24")).toEqual(subnet);
		expect(parseSubnet("192.168.1.0/255.255.255.0")).toEqual(subnet);
		expect(parseSubnet("192.168.1.7")).toEqual({ address: 0xc0a80107, mask: 0xffffffff, prefix: 32 });
		expect(parseSubnet("0.0.0.0/0")).toEqual({ address: 0, mask: 0, prefix: 0 });
		for (const text of ["192.168.1.1/24", "192.168.1.0/33", "192.168.1.0/", "192.168.1.0/024", "/24", "192.168.1.0/255.0.255.0"]) {
			expect(parseSubnet(text)).toBeNull();
		}
	});

	it("are the place of an interface's address", () => {
		expect(parseInterfaceAddress("192.168.1.1/24")).toEqual({ address: 0xc0a80101, subnet: subnetOf(0xc0a80101, 24) });
		expect(subnetOf(0xc0a80101, 24).address).toBe(0xc0a80100);
	});

	it("are written short", () => {
		expect(formatSubnet(parseSubnet("192.168.1.0/24")!)).toBe("192.168.1.0/24");
		expect(formatSubnet(parseSubnet("192.168.1.1/32")!)).toBe("192.168.1.1");
	});

	it("hold and overlap", () => {
		const lan = parseSubnet("192.168.1.0/24")!;
		expect(subnetContains(lan, 0xc0a801ff)).toBe(true);
		expect(subnetContains(lan, 0xc0a801ff | 0)).toBe(true);
		expect(subnetContains(lan, 0xc0a80200)).toBe(false);
		expect(subnetContains(parseSubnet("0.0.0.0/0")!, 0xffffffff)).toBe(true);
		expect(subnetsOverlap(lan, parseSubnet("192.168.0.0/16")!)).toBe(true);
		expect(subnetsOverlap(lan, parseSubnet("192.168.2.0/24")!)).toBe(false);
		expect(subnetRange(parseSubnet("240.0.0.0/4")!)).toEqual({ first: 0xf0000000, last: 0xffffffff });
	});
});

describe("address ranges", () => {
	it("are read in three forms", () => {
		expect(parseAddressRange("203.0.113.16-203.0.113.31")).toEqual({ first: 0xcb007110, last: 0xcb00711f });
		expect(parseAddressRange("203.0.113.16/28")).toEqual({ first: 0xcb007110, last: 0xcb00711f });
		expect(parseAddressRange("203.0.113.16")).toEqual({ first: 0xcb007110, last: 0xcb007110 });
		for (const text of ["", "-", "203.0.113.16-", "203.0.113.16-31", "1.2.3.4-1.2.3.5-1.2.3.6"]) expect(parseAddressRange(text)).toBeNull();
	});

	it("keep the order they are written in", () => {
		expect(parseAddressRange("1.2.3.5-1.2.3.4")).toEqual({ first: 0x01020305, last: 0x01020304 });
	});

	it("are written back", () => {
		for (const text of ["203.0.113.16-203.0.113.31", "203.0.113.16"]) expect(formatAddressRange(parseAddressRange(text)!)).toBe(text);
	});

	it("overlap when they share an address", () => {
		expect(rangesOverlap({ first: 1, last: 5 }, { first: 5, last: 9 })).toBe(true);
		expect(rangesOverlap({ first: 1, last: 4 }, { first: 5, last: 9 })).toBe(false);
	});
});

describe("mergeRanges", () => {
	it("sorts, and joins what overlaps or touches, up to the last number", () => {
		expect(mergeRanges([])).toEqual([]);
		expect(
			mergeRanges([
				{ first: 1, last: 9 },
				{ first: 2, last: 3 },
			]),
		).toEqual([{ first: 1, last: 9 }]);
		const ranges = mergeRanges([
			{ first: 5, last: 5 },
			{ first: 0, last: 1 },
			{ first: 100, last: 200 },
			{ first: 150, last: 210 },
			{ first: 211, last: 220 },
			{ first: 0xfffffff0, last: 0xffffffff },
		]);
		expect(ranges).toEqual([
			{ first: 0, last: 1 },
			{ first: 5, last: 5 },
			{ first: 100, last: 220 },
			{ first: 0xfffffff0, last: 0xffffffff },
		]);
	});
});
