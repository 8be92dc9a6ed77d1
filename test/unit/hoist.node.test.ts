/**
 * native/hoist.mjs: a bundle does the same with `var` where it had `let` and `const`, and those stay where it would
 * not.
 */
import { describe, expect, it } from "vitest";
import { hoist } from "../../native/hoist.mjs";

/** What a program's body returns, as it is and hoisted, and its text then. */
function both(body: string): { before: unknown; after: unknown; text: string } {
	const text = hoist(`function f(p) {${body}}`);
	const run = (program: string) => new Function(`${program}; return f(7)`)();
	return { before: run(`function f(p) {${body}}`), after: run(text), text };
}

describe("hoist", () => {
	it.each([
		["of a function", "let a = 1; const b = 2; return a + b + p", 0],
		["of blocks side by side", "let s = 0; if (p) { const a = 1; s += a } { let a = 2; s += a } return s", 0],
		["of loops", "let s = 0; for (let i = 0; i < 3; i++) { const d = i * 2; s += d } for (const x of [1, 2]) s += x; return s", 0],
		["of patterns", "const { a, b: [c] } = { a: 1, b: [2] }; let [d, ...e] = [3, 4, 5]; return [a, c, d, e]", 0],
		["that a function keeps, outside of loops", "let n = 0; const more = () => ++n; more(); return more()", 0],
		["without a value", "let a; if (p) a = 3; return a", 0],
		[
			"of methods and fields",
			"class C { #x = (() => { let a = 2; return a })(); get x() { const a = this.#x; return a } } return new C().x",
			0,
		],
		["of a switch", "switch (p) { case 7: { const a = 5; return a } default: return 0 }", 0],
	])("makes var %s", (_, body, left) => {
		const { before, after, text } = both(body);
		expect(after).toEqual(before);
		expect(text.match(/\b(let|const)\b/g)?.length ?? 0).toBe(left);
		expect(text.length).toBe(`function f(p) {${body}}`.length);
	});

	it.each([
		["a function in a loop keeps it", "const g = []; for (let i = 0; i < 3; i++) g.push(() => i); return g.map((h) => h())"],
		[
			"a function in a loop's body keeps it",
			"const g = []; for (const x of [1, 2, 3]) { const y = x * 2; g.push(() => y) } return g.map((h) => h())",
		],
		["it is empty each time around", "const r = []; for (let i = 0; i < 3; i++) { let a; if (i === 1) a = 5; r.push(a) } return r"],
		["it is empty in the second block", "const r = []; { let a = 1; r.push(a) } { let a; r.push(a) } return r"],
		[
			"functions of two blocks keep it",
			"const g = []; if (p) { const a = 1; g.push(() => a) } if (p) { const a = 2; g.push(() => a) } return g.map((h) => h())",
		],
		["its name is a parameter's", "{ const p = 2; if (p) ; } return p"],
		["its name is an outer block's", "const a = 1; { const a = 2; if (a) ; } return a"],
		["its name is a caught one's", "try { throw 1 } catch (e) { { const e = 2; if (e) ; } return e }"],
		["its name is a function's", "function a() { return 4 } { let a = 1; a++ } return a()"],
		["its name is something else's outside", "return [typeof Map, (() => { { const Map = 1; if (Map) ; } return typeof Map })()]"],
	])("leaves it where %s", (_, body) => {
		const { before, after, text } = both(body);
		expect(after).toEqual(before);
		expect(text).toMatch(/\b(let|const)\b/);
	});

	it("leaves what modules declare, and names of properties", () => {
		const module = "let a = 1; const b = 2; export { a, b as c }; export function f(o) { const { a: x } = o; return x + o.a }";
		expect(hoist(module)).toBe(module.replace("{ const {", "{ var   {"));
	});
});
