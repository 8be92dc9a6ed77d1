/**
 * Encoding and disassembly against LLVM's: what we assemble, our disassembler prints and llvm-mc reads must be the same
 * bytes.
 */
import { execFileSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { type AluOperation, Assembler, type Condition, disassemble, R0, R1, R2, R3, R6, R9, R10 } from "../../src/offload/asm.ts";
import { lanProgram, wanProgram } from "../../src/offload/program.ts";
import { someFacts } from "./offload-facts.ts";

/** Bytes that llvm-mc gives for a text. */
function llvm(text: string, little: boolean): number[] {
	const out = execFileSync("llvm-mc", [`-triple=${little ? "bpfel" : "bpfeb"}`, "-show-encoding"], {
		input: `${text}\n`,
		encoding: "utf8",
	});
	return [...out.matchAll(/encoding: \[([^\]]*)\]/g)].flatMap(([, list]) => list.split(",").map(Number));
}

/** LLVM 14 knows neither the address of a map value nor "set": both have a line of their own below. */
function comparable(program: ArrayBuffer, little: boolean): { text: string; bytes: number[] } {
	const lines = disassemble(program, little);
	const bytes = [...new Uint8Array(program)];
	const kept = lines.flatMap((line, n) => (line === "" || / & |map /.test(line) ? [] : [n]));
	return {
		text: kept.map((n) => lines[n]).join("\n"),
		bytes: kept.flatMap((n) => bytes.slice(n * 8, n * 8 + (lines[n + 1] === "" ? 16 : 8))),
	};
}

const ALU: AluOperation[] = ["add", "sub", "mul", "or", "and", "lsh", "rsh", "xor", "mov", "arsh"];
const CONDITIONS: Condition[] = ["eq", "gt", "ge", "ne", "sgt", "sge", "lt", "le", "slt", "sle"];

function everything(little: boolean): ArrayBuffer {
	const a = new Assembler(little);
	a.label("top");
	for (const operation of ALU) {
		for (const by of [R10, R0, -1, 0x7fffffff, -0x80000000, 15]) a.alu64(operation, R3, by).alu32(operation, R9, by);
	}
	for (const condition of CONDITIONS) {
		for (const by of [R2, -7, 0x12345678]) a.jump(condition, R1, by, "top").jump32(condition, R6, by, "bottom");
	}
	for (const size of [1, 2, 4, 8] as const) {
		for (const offset of [0, 1, -8, 32767, -32768]) a.load(size, R1, R10, offset).store(size, R10, offset, R9);
	}
	a.bigEndian(R1, 16)
		.bigEndian(R9, 32)
		.goto("top")
		.goto("bottom")
		.call(11)
		.constant(R1, 0x12345678, -2)
		.constant(R9, -1, -1)
		.constant(R2, 7, 0);
	return a.label("bottom").exit().assemble();
}

describe.each([true, false])("against llvm-mc, little endian: %s", (little) => {
	it("every instruction with every kind of operand", () => {
		const { text, bytes } = comparable(everything(little), little);
		expect(text.split("\n").length).toBeGreaterThan(200);
		expect(llvm(text, little)).toEqual(bytes);
	});

	it("the programs, in all forms", () => {
		for (const fromEthernet of [true, false]) {
			for (const toEthernet of [true, false]) {
				const facts = someFacts({ littleEndian: little, fromEthernet, toEthernet, deadman: fromEthernet });
				for (const program of [lanProgram(facts), wanProgram(facts)]) {
					const { text, bytes } = comparable(program, little);
					expect(llvm(text, little)).toEqual(bytes);
				}
			}
		}
	});
});
