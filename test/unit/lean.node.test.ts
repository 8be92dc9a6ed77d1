/**
 * native/lean.mjs: what a file exports is the same when its constants stand where they were used and its private names
 * are properties.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { lean, PRIVATE } from "../../native/lean.mjs";

const OTHER = `
	export const SIZE = 4 * 1024, LEAST = -SIZE, NAME = "a \\"name\\"";
	export const FLAG = { ONE: 1 << 0, BOTH: (1 << 0) | 2, NAMED: NAME } as const;
	export let changing = 1;
	export function change() { changing++; }
`;

/** What the export `result` of a program is as it is written, and lean; and its text then. */
async function both(program: string): Promise<{ before: unknown; after: unknown; text: string }> {
	const folder = mkdtempSync(join(tmpdir(), "lean-"));
	try {
		writeFileSync(join(folder, "other.ts"), OTHER);
		const path = join(folder, "main.ts");
		writeFileSync(path, program);
		const run = async (plugins: esbuild.Plugin[]) => {
			const { outputFiles } = await esbuild.build({
				entryPoints: [path],
				bundle: true,
				write: false,
				format: "iife",
				globalName: "out",
				mangleProps: PRIVATE,
				plugins,
			});
			return new Function(`${outputFiles[0]?.text}; return out.result`)();
		};
		const plugin: esbuild.Plugin = {
			name: "lean",
			setup: ({ onLoad }) => onLoad({ filter: /\.ts$/ }, ({ path }) => ({ contents: lean(path), loader: "ts" })),
		};
		return { before: await run([]), after: await run([plugin]), text: lean(path) };
	} finally {
		rmSync(folder, { recursive: true });
	}
}

const IMPORTS = `import { changing, change, FLAG, LEAST, NAME as CALLED, SIZE } from "./other.ts";\n`;

describe("lean", () => {
	it.each([
		["numbers", "[SIZE, 1 -LEAST, LEAST ** 2, -LEAST, SIZE >>> 1, [SIZE][0]]", /SIZE|LEAST/],
		["texts", `\`\${CALLED}: \${SIZE}\` + CALLED`, /CALLED/],
		["members", "[FLAG.ONE | FLAG.BOTH, FLAG.NAMED]", /FLAG/],
		["in arguments and values", "((a = SIZE, { b = SIZE } = {}) => ({ c: SIZE, [CALLED]: a + b }))()", /SIZE|CALLED/],
		["in cases", "(() => { switch (4096) { case SIZE: return 1; default: return 2 } })()", /SIZE/],
		["in loops", "(() => { let n = 0; for (let i = 0; i < SIZE; i++) n += i; while (n > SIZE) n -= SIZE; return n })()", /SIZE/],
	])("puts constants where they are used: %s", async (_, expression, gone) => {
		const { before, after, text } = await both(`${IMPORTS}export const result = ${expression};`);
		expect(after).toEqual(before);
		expect(text.slice(IMPORTS.length)).not.toMatch(gone);
		expect(text.split("\n").length).toBe(3 - 1);
	});

	it.each([
		["what changes", "(change(), changing)"],
		["what is something else further in", "((SIZE) => SIZE)(7)"],
		["names of properties and members", "(() => { const o = { SIZE: 1, LEAST: 2 }; return o.SIZE + o.LEAST })()"],
		["short forms", "({ SIZE, LEAST })"],
		["what has members of its own", "[SIZE.toString(), CALLED.length, FLAG, typeof FLAG.ONE]"],
		["what is looked up", "(() => { const key: keyof typeof FLAG = 'ONE'; return FLAG[key] })()"],
	])("leaves %s", async (_, expression) => {
		const { before, after } = await both(`${IMPORTS}export const result = ${expression};`);
		expect(after).toEqual(before);
	});

	it("makes properties of private names", async () => {
		const { before, after, text } = await both(`
			class A {
				static #made = 0;
				readonly #a = 1;
				#b: number;
				a = 5;
				constructor(b: number) { this.#b = b; A.#made++; }
				get #sum() { return this.#a + this.#b; }
				set #sum(s) { this.#b = s - this.#a; }
				*#each() { yield this.#a; yield this.#b; }
				like(other: A) { other.#b = this.#sum; this.#sum += 3; return [...this.#each(), ...other.#each(), this.a, A.#made]; }
			}
			export const result = new A(2).like(new A(7));`);
		expect(after).toEqual(before);
		expect(text).not.toContain("#");
	});
});

const SRC = fileURLToPath(new URL("../../src/", import.meta.url));
const TELLS = /^(JSON\.stringify|Object\.(keys|values|entries|assign)|structuredClone)$/;

describe("objects with private names, which are properties in the bundles,", () => {
	const { options, fileNames } = ts.getParsedCommandLineOfConfigFile(
		join(SRC, "../tsconfig.json"),
		{},
		{ ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => {} },
	) as ts.ParsedCommandLine;
	const program = ts.createProgram(
		fileNames.filter((name) => name.startsWith(SRC)),
		options,
	);
	const checker = program.getTypeChecker();
	const isOurs = (s: ts.Symbol) => s.declarations?.[0]?.getSourceFile().fileName.startsWith(SRC) === true;
	const hasPrivate = (t: ts.Type): boolean =>
		t.isUnionOrIntersection() ? t.types.some(hasPrivate) : [...(t.symbol?.members?.keys() ?? [])].some((k) => String(k).startsWith("__#"));
	const holdsPrivate = (t: ts.Type, depth = 0): boolean =>
		hasPrivate(t) ||
		(depth < 4 &&
			(checker.getTypeArguments(t as ts.TypeReference).some((of) => holdsPrivate(of, depth + 1)) ||
				checker.getPropertiesOfType(t).some((s) => isOurs(s) && holdsPrivate(checker.getTypeOfSymbol(s), depth + 1))));

	/** What is copied or told by all of its properties. */
	const told: string[] = [];
	/** Private names of a class that one which it extends has too: they would be one property. */
	const shared: string[] = [];
	const baseOf = ({ heritageClauses }: ts.ClassLikeDeclaration) => {
		const base = heritageClauses?.find(({ token }) => token === ts.SyntaxKind.ExtendsKeyword)?.types[0];
		return base && checker.getTypeAtLocation(base.expression).symbol?.valueDeclaration;
	};
	const visit = (node: ts.Node) => {
		let e: ts.Expression | undefined;
		let has = hasPrivate;
		if (ts.isSpreadAssignment(node) || ts.isForInStatement(node)) e = node.expression;
		else if (ts.isCallExpression(node) && TELLS.test(node.expression.getText())) {
			e = node.arguments[0];
			if (node.expression.getText() === "JSON.stringify") has = holdsPrivate;
		}
		if (e && has(checker.getTypeAtLocation(e))) told.push(node.getText());
		if (ts.isHeritageClause(node) && node.token === ts.SyntaxKind.ExtendsKeyword && ts.isClassLike(node.parent)) {
			const own = node.parent.members.flatMap(({ name }) => (name && ts.isPrivateIdentifier(name) ? [name.text] : []));
			for (const { expression } of node.types)
				for (let base = checker.getTypeAtLocation(expression).symbol?.valueDeclaration; base && ts.isClassLike(base); base = baseOf(base))
					for (const { name } of base.members)
						if (name && own.includes(name.getText())) shared.push(`${name.getText()} in ${base.getText()}`);
		}
		ts.forEachChild(node, visit);
	};
	for (const file of program.getSourceFiles()) if (file.fileName.startsWith(SRC)) visit(file);

	it("are nowhere told by all of their properties", () => {
		expect(told).toEqual([]);
	});

	it("have none that a class which they extend has too", () => {
		expect(shared).toEqual([]);
	});
});
