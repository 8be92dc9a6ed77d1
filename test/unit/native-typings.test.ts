/**
 * The export table in native/module.c is what src/native.d.ts declares: same functions, same number of parameters,
 * same constants. (That the engine then shows them is the business of test/engine/native-surface.ts.)
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

interface Surface {
	functions: Record<string, number>;
	constants: Record<string, number | null>;
}

const declared: Surface = JSON.parse(execFileSync(process.execPath, ["test/engine/surface-list.mjs"], { cwd: root, encoding: "utf8" }));

const table = readFileSync(`${root}/native/module.c`, "utf8");
const shim = readFileSync(`${root}/native/shim.h`, "utf8");
const sources = readdirSync(`${root}/native`)
	.filter((name) => name.endsWith(".c"))
	.map((name) => readFileSync(`${root}/native/${name}`, "utf8"));

const functionEntries = [...table.matchAll(/JS_CFUNC_DEF\("(\w+)", (\d+), (\w+)\)/g)].map(([, name, arity, symbol]) => ({
	name: name!,
	arity: Number(arity),
	symbol: symbol!,
}));
const constantEntries = [...table.matchAll(/JS_PROP_INT32_DEF\("(\w+)", (\w+), 0\)/g)].map(([, name, symbol]) => ({
	name: name!,
	symbol: symbol!,
}));

describe("native/module.c against src/native.d.ts", () => {
	it("has an entry in a form that this test reads, and only one, for every line of the table", () => {
		const lines = table.match(/^\tJS_\w+_DEF\(/gm) ?? [];
		expect(functionEntries.length + constantEntries.length).toBe(lines.length);
		const names = [...functionEntries, ...constantEntries].map((entry) => entry.name);
		expect(new Set(names).size).toBe(names.length);
	});

	it("exports the declared functions with the declared number of parameters", () => {
		expect(Object.fromEntries(functionEntries.map((entry) => [entry.name, entry.arity]))).toEqual(declared.functions);
	});

	it("exports the declared constants, with their value where the typings state it", () => {
		const values: Record<string, number | null> = {};
		for (const { name, symbol } of constantEntries) {
			const literal = new RegExp(`^#define ${symbol} (\\d+)$`, "m").exec(shim);
			values[name] = literal ? Number(literal[1]) : null;
		}
		expect(values).toEqual(declared.constants);
	});

	it("implements every function once, under the name that its TypeScript name gives", () => {
		for (const { name, symbol } of functionEntries) {
			expect(symbol).toBe(`native_${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`);
			const implementations = sources.filter((source) => source.includes(`\nNATIVE(${symbol})\n`));
			expect(implementations, symbol).toHaveLength(1);
		}
	});
});

describe("native/error.c", () => {
	it("has a name for every error that anything in src/ tells from others", () => {
		const names = [...readFileSync(`${root}/native/error.c`, "utf8").matchAll(/\bNAME\((E\w+)\)/g)].map(([, name]) => name);
		const files = readdirSync(`${root}/src`, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
		const told = files.flatMap((file) =>
			[...readFileSync(`${root}/src/${file}`, "utf8").matchAll(/"(E[A-Z0-9]{3,})"/g)].map(([, name]) => name),
		);
		expect(told.length).toBeGreaterThan(50);
		expect([...new Set(told)].filter((name) => !names.includes(name))).toEqual([]);
	});
});

describe("native/ holds system calls only", () => {
	it.each(["conntrack", "checksum", "RFC", "NAPT", "masquerade"])("never says %s", (word) => {
		for (const source of [...sources, shim]) expect(source).not.toMatch(new RegExp(`\\b${word}`, "i"));
	});
});
