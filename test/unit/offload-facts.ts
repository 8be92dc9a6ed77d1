/** Facts for the offload programs, as a household has them. */
import { layoutCache } from "../../src/offload/cache.ts";
import type { ProgramFacts } from "../../src/offload/program.ts";
import { parseAddress } from "../../src/packet/address.ts";

export function address(text: string): number {
	return parseAddress(text) as number;
}

export function someFacts(different: Partial<ProgramFacts> = {}): ProgramFacts {
	const { bits, lastSlot, slots } = layoutCache(4096);
	return {
		littleEndian: true,
		map: 5,
		port: 1,
		bits,
		lastSlot,
		slots,
		keys: [0x12345678, -0x6789abcd, 0x7654321],
		fromEthernet: true,
		toEthernet: true,
		externals: [{ first: address("203.0.113.1"), last: address("203.0.113.1") }],
		nets: [{ address: address("192.168.1.0"), mask: address("255.255.255.0") }],
		deadman: false,
		...different,
	};
}
