/**
 * Writes native/engine-unused.h: the engine's built-in functions that nothing of ours calls.
 *
 *   node native/unused-builtins.mjs > native/engine-unused.h
 *
 * A function is used if one of its names is: read as a property, or written as a string, anywhere in src/ or in the tests
 * that run on a router's engine. Run it again when test/unit/structure.node.test.ts names a function that is missed.
 */
import { readdirSync, readFileSync } from "node:fs";

const engine = readFileSync(readdirSync("build").find((name) => name.startsWith("quickjs-")).replace(/^/, "build/") + "/quickjs.c", "utf8");
const text = ["src", "test/unit", "test/engine", "test/fuzz", "test/net"]
	.flatMap((folder) => readdirSync(folder, { recursive: true }).map((name) => `${folder}/${name}`))
	.filter((path) => path.endsWith(".ts") && !/\.node\.test\.ts$/.test(path))
	.map((path) => readFileSync(path, "utf8"))
	// Those are Node's alone.
	.filter((text) => !/from "node:/.test(text))
	.join("\n");

/** What the engine itself may look up by name. */
const ASKED_BY_ENGINE = new Set([...engine.matchAll(/\bJS_ATOM_(\w+)/g)].map(([, name]) => name));
/** Tables of objects that no context of ours has (main.c), and what is compiled for the engine's own tests only. */
const NOWHERE = /^js_(date|weak|finrec|proxy|string_proto_normalize)/;
/** Objects whose functions are called by the object's name, by their tables'. */
const OBJECTS = {
	array: "Array",
	array_buffer: "ArrayBuffer",
	atomics: "Atomics",
	bigint: "BigInt",
	json: "JSON",
	map: "Map",
	math: "Math",
	number: "Number",
	object: "Object",
	promise: "Promise",
	reflect: "Reflect",
	regexp: "RegExp",
	shared_array_buffer: "SharedArrayBuffer",
	string: "String",
	symbol: "Symbol",
};

/** What is written where a function is called: Object.keys, .map, isNaN. */
function callOf(table, name) {
	const object = OBJECTS[/^js_(\w+)_funcs$/.exec(table)?.[1]];
	const symbol = /^\[Symbol\.(\w+)\]$/.exec(name)?.[1];
	if (symbol !== undefined) return `.${symbol}`;
	return table === "js_global_funcs" ? name : `${object ?? ""}.${name}`;
}

/** Whether text has a call. A method may be named by a string. */
function has(call) {
	const name = call.slice(1);
	return new RegExp(call.startsWith(".") ? String.raw`\.\s*${name}\b|["']${name}["']` : String.raw`\b${call}\b`).test(text);
}

function isUsed(table, name) {
	const call = callOf(table, name);
	// Splitting by an expression asks for its compiler. Promise.all() and its like call what they find there.
	if (name === "[Symbol.split]") return false;
	if (name.startsWith("[")) return ![".match", ".matchAll", ".search"].includes(call) || has(call);
	return name === "resolve" || (call.startsWith(".") && ASKED_BY_ENGINE.has(name)) || has(call);
}

/** Function -> its calls, and whether any is used. */
const functions = new Map();
for (const [, table, body] of engine.matchAll(/JSCFunctionListEntry (\w+)\[\] = \{\n(.*?)\n\};/gs))
	for (const [, kind, name, rest] of body.matchAll(/JS_(\w+)_DEF\("([^"]+)",([^\n]*)\)/g)) {
		if (!["CFUNC", "CFUNC_MAGIC", "CGETSET", "CGETSET_MAGIC"].includes(kind)) continue;
		const words = rest.split(",").map((word) => word.trim());
		for (const name_ of kind.startsWith("CGETSET") ? words.slice(0, 2) : [words[1]]) {
			if (name_ === "NULL" || NOWHERE.test(table) || /^__(?!proto|define|lookup)/.test(name)) continue;
			const known = functions.get(name_) ?? { calls: new Set(), used: false };
			functions.set(name_, known);
			known.calls.add(callOf(table, name));
			known.used ||= isUsed(table, name);
		}
	}
let result = `/*
 * Functions of the engine that nothing of ours calls, made by native/unused-builtins.mjs; beside each how scripts
 * would call it.
 */
/* clang-format off */
`;
for (const [name, { calls, used }] of [...functions].sort(([a], [b]) => (a < b ? -1 : 1)))
	if (!used) result += `#define UNUSED_${name} ~, ~ /* ${[...calls].join(" ")} */\n`;
process.stdout.write(result);
