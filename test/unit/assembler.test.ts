import { describe, expect, it } from "vitest";
import { Assembler, disassemble, R0, R1, R2, R3, R8 } from "../../src/offload/asm.ts";
import { lanProgram, wanProgram } from "../../src/offload/program.ts";
import { CHAIN_MAX } from "../../src/offload/slot.ts";
import { address, someFacts } from "./offload-facts.ts";

function hex(program: ArrayBuffer): string[] {
	const bytes = [...new Uint8Array(program)].map((b) => b.toString(16).padStart(2, "0"));
	return Array.from({ length: bytes.length / 8 }, (_, n) => bytes.slice(n * 8, n * 8 + 8).join(""));
}

describe("assembler", () => {
	// From the kernel's documentation of the encoding (RFC 9669 section 3.2), where llvm-mc 14 has no words for it.
	it("encodes a map value's address and the test of bits", () => {
		const program = (little: boolean) =>
			new Assembler(little).mapValue(R8, 7, 0x1234).jump("set", R1, 3, "end").jump("set", R1, R2, "end").label("end").exit();
		expect(hex(program(true).assemble())).toEqual([
			"1828000007000000",
			"0000000034120000",
			"4501010003000000",
			"4d21000000000000",
			"9500000000000000",
		]);
		expect(hex(program(false).assemble())).toEqual([
			"1882000000000007",
			"0000000000001234",
			"4510000100000003",
			"4d12000000000000",
			"9500000000000000",
		]);
		expect(disassemble(program(false).assemble(), false)).toEqual([
			"r8 = map 7 value + 4660",
			"",
			"if r1 & 3 goto +1",
			"if r1 & r2 goto +0",
			"exit",
		]);
	});

	it("counts a wide instruction twice in jumps, forth and back", () => {
		const a = new Assembler(true).label("top").goto("end").constant(R3, 1, 0).goto("top").label("end").exit();
		expect(a.length).toBe(5);
		expect(disassemble(a.assemble(), true)).toEqual(["goto +3", "r3 = 1 ll", "", "goto -4", "exit"]);
	});

	it("refuses what cannot be encoded", () => {
		expect(() => new Assembler(true).label("a").label("a")).toThrow("there twice");
		expect(() => new Assembler(true).goto("nowhere").assemble()).toThrow("no label nowhere");
		expect(() => new Assembler(true).load(4, R0, R1, 0x8000)).toThrow(RangeError);
		const far = new Assembler(true).goto("end");
		for (let n = 0; n < 0x8000; n++) far.alu64("mov", R0, 0);
		expect(() => far.label("end").exit().assemble()).toThrow("too far");
		expect(() => disassemble(new Uint8Array(8).fill(0xff).buffer, true)).toThrow("no instruction");
	});
});

describe("programs", () => {
	const forms = [true, false].flatMap((fromEthernet) => [true, false].map((toEthernet) => ({ fromEthernet, toEthernet })));

	it("are small, and as long on both byte orders", () => {
		for (const form of forms) {
			const facts = someFacts(form);
			const lan = lanProgram(facts).byteLength / 8;
			const wan = wanProgram(facts).byteLength / 8;
			expect(Math.max(lan, wan)).toBeLessThan(440);
			expect(lanProgram({ ...facts, littleEndian: false }).byteLength / 8).toBe(lan);
			expect(wanProgram({ ...facts, littleEndian: false }).byteLength / 8).toBe(wan);
		}
	});

	it("call what every kernel since 5.15 has, and leave by redirect or by passing on", () => {
		for (const form of forms) {
			for (const program of [lanProgram(someFacts(form)), wanProgram(someFacts(form))]) {
				const text = disassemble(program, true);
				const calls = new Set(text.flatMap((line) => /^call (\d+)$/.exec(line)?.[1] ?? []));
				expect([...calls].every((n) => ["9", "11", "23", "38", "39", "43"].includes(n))).toBe(true);
				expect(calls.has("43")).toBe(!form.fromEthernet && form.toEthernet);
				expect(text.some((line) => line === "r0 = 0")).toBe(false);
				expect(text.filter((line) => line === "r0 = -1")).toHaveLength(1);
			}
		}
	});

	it("look at no more slots than a chain may have", () => {
		const text = disassemble(lanProgram(someFacts()), true);
		expect(
			text.filter((line) => line.endsWith(`> ${someFacts().lastSlot} goto`) || line.includes(`> ${someFacts().lastSlot} goto`)),
		).toHaveLength(CHAIN_MAX);
	});

	it("let only our addresses out, the first one with one comparison", () => {
		const own = (little: boolean) => (little ? 0x017100cb : 0xcb007101 | 0);
		for (const littleEndian of [true, false]) {
			const one = disassemble(lanProgram(someFacts({ littleEndian })), littleEndian);
			expect(one.filter((line) => line.startsWith(`if w4 == ${own(littleEndian)} goto`))).toHaveLength(1);
			const externals = [...someFacts().externals, { first: address("203.0.113.16"), last: address("203.0.113.31") }];
			const more = disassemble(lanProgram(someFacts({ littleEndian, externals })), littleEndian);
			expect(more).toContain("r1 = be32 r1");
			expect(more.some((line) => line.startsWith(`if w1 < ${address("203.0.113.16") | 0} goto`))).toBe(true);
			expect(more.some((line) => line.startsWith(`if w1 <= ${address("203.0.113.31") | 0} goto`))).toBe(true);
		}
		expect(disassemble(lanProgram(someFacts({ externals: [] })), true).some((line) => line.startsWith("if w4 == 0 goto"))).toBe(true);
	});

	it("look for a sign of life only when told to", () => {
		expect(disassemble(lanProgram(someFacts()), true)).not.toContain("call 5");
		expect(disassemble(lanProgram(someFacts({ deadman: true })), true)).toContain("call 5");
	});
});
