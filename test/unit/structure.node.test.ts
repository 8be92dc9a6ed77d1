/** Dependencies between the folders of src/ point one way (design.md section 7), and the pure ones import nothing of the shim. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const SRC = fileURLToPath(new URL("../../src", import.meta.url));

/** What each folder may import besides itself; files at the top of src/ go by their own name. */
const ALLOWED: Record<string, string[]> = {
	packet: [],
	conntrack: ["packet"],
	nat: ["packet", "conntrack"],
	config: ["packet"],
	netlink: [],
	offload: ["packet", "conntrack", "masq:native"],
	port: ["packet", "conntrack", "netlink", "nat/context.ts", "nat/reason.ts", "masq:native"],
	control: ["packet", "conntrack", "nat", "port", "offload", "version.ts", "engine.ts (type)", "masq:native"],
	cli: ["packet", "control", "masq:native"],
	selftest: ["packet", "conntrack", "nat"],
	daemon: ["packet", "conntrack", "nat", "port", "offload", "config", "control", "version.ts", "masq:native"],
	"engine.ts": ["daemon", "packet", "conntrack", "nat", "port", "offload", "control", "config", "version.ts", "masq:native"],
	"main.ts": [
		"packet",
		"conntrack",
		"config",
		"cli",
		"selftest",
		"daemon",
		"port/local-ports.ts",
		"port/netifd.ts",
		"engine.ts",
		"version.ts",
		"masq:native",
	],
	"version.ts": [],
};

const IMPORT = /^\s*(?:import|export)\s+(type\s)?[^"';]*?\bfrom\s+"([^"]+)"|^\s*import\s+"([^"]+)"|\bimport\(\s*"([^"]+)"/gms;

/** Imports of a source text: specifier, and whether it is of types only. */
function imports(text: string): { specifier: string; typeOnly: boolean }[] {
	return [...text.matchAll(IMPORT)].map((m) => ({ specifier: m[2] ?? m[3] ?? m[4], typeOnly: m[1] !== undefined }));
}

/** What is wrong with the imports of a file at `path` (from src/), as sentences. */
function violations(path: string, text: string): string[] {
	const folder = path.split("/")[0];
	const allowed = ALLOWED[folder];
	if (allowed === undefined) return [`${path}: no rule for ${folder}`];
	const wrong: string[] = [];
	for (const { specifier, typeOnly } of imports(text)) {
		if (!specifier.startsWith(".")) {
			if (specifier !== "masq:native" || (!allowed.includes(specifier) && !typeOnly)) wrong.push(`${path} imports ${specifier}`);
			else if (!allowed.includes(specifier)) wrong.push(`${path} imports ${specifier}`);
			continue;
		}
		if (!specifier.endsWith(".ts")) wrong.push(`${path} imports ${specifier} without .ts`);
		const target = relative(".", join(dirname(path), specifier));
		const to = target.split("/")[0];
		if (to === folder || allowed.includes(to) || allowed.includes(target)) continue;
		if (typeOnly && allowed.includes(`${target} (type)`)) continue;
		wrong.push(`${path} imports ${target}`);
	}
	return wrong;
}

function sources(): [string, string][] {
	return readdirSync(SRC, { recursive: true, encoding: "utf8" })
		.filter((name) => name.endsWith(".ts") && !name.endsWith(".d.ts"))
		.map((name) => [name, readFileSync(join(SRC, name), "utf8")]);
}

describe("dependency direction", () => {
	it("holds for every file of src/", () => {
		const files = sources();
		expect(files.length).toBeGreaterThan(30);
		expect(files.flatMap(([path, text]) => violations(path, text))).toEqual([]);
	});

	it("sees the imports that there are", () => {
		const seen = new Map(sources().map(([path, text]) => [path, imports(text).map((i) => i.specifier)]));
		expect(seen.get("nat/fast-path.ts")).toContain("../packet/layout.ts");
		expect(seen.get("nat/fast-path.ts")).toContain("./context.ts");
		expect(seen.get("conntrack/table.ts")).toContain("./states.ts");
		expect(seen.get("engine.ts")).toContain("masq:native");
	});

	it("would catch a violation", () => {
		const cases: [string, string, string][] = [
			["packet/x.ts", 'import { Table } from "../conntrack/table.ts";', "packet/x.ts imports conntrack/table.ts"],
			["conntrack/x.ts", 'import type { Context } from "../nat/context.ts";', "conntrack/x.ts imports nat/context.ts"],
			["nat/x.ts", 'import * as native from "masq:native";', "nat/x.ts imports masq:native"],
			["nat/x.ts", 'import type { Fd } from "masq:native";', "nat/x.ts imports masq:native"],
			["nat/x.ts", 'import {\n\ta,\n\tb,\n} from "../port/arp.ts";', "nat/x.ts imports port/arp.ts"],
			["nat/x.ts", 'export { a } from "../engine.ts";', "nat/x.ts imports engine.ts"],
			["config/x.ts", 'import { now } from "masq:native";', "config/x.ts imports masq:native"],
			["nat/x.ts", 'import { plan } from "../config/plan.ts";', "nat/x.ts imports config/plan.ts"],
			["port/x.ts", 'import { makeFastPath } from "../nat/fast-path.ts";', "port/x.ts imports nat/fast-path.ts"],
			["control/x.ts", 'import { Engine } from "../engine.ts";', "control/x.ts imports engine.ts"],
			["control/x.ts", 'import { plan } from "../config/plan.ts";', "control/x.ts imports config/plan.ts"],
			["nat/x.ts", 'import fs from "node:fs";', "nat/x.ts imports node:fs"],
			["nat/x.ts", 'const x = await import("../port/arp.ts");', "nat/x.ts imports port/arp.ts"],
			["nat/x.ts", 'import "../control/server.ts";', "nat/x.ts imports control/server.ts"],
			["nat/x.ts", 'import { a } from "./context";', "nat/x.ts imports ./context without .ts"],
			["misc/x.ts", "", "misc/x.ts: no rule for misc"],
		];
		for (const [path, text, expected] of cases) expect(violations(path, text)).toContain(expected);
		expect(violations("port/x.ts", 'import { Queue } from "../nat/context.ts";\nimport * as native from "masq:native";')).toEqual([]);
	});
});

describe("what a router's engine leaves out (native/math-small.c, native/unicode-small.c)", () => {
	const HAS = [
		"abs",
		"ceil",
		"clz32",
		"floor",
		"fround",
		"hypot",
		"imul",
		"log2",
		"max",
		"min",
		"pow",
		"random",
		"round",
		"sign",
		"sqrt",
		"trunc",
	];
	const LEFT_OUT = [/\bMath\.(?!(?:X)\b)\w+/g, /\\[pP]\{/g, /\.normalize\(/g, /\bnew Function\b|\beval\(/g, /\bnew (?:Proxy|WeakRef)\b/g];

	it("is not used in src", () => {
		const used: string[] = [];
		for (const path of readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))) {
			const text = readFileSync(join(SRC, path), "utf8");
			for (const pattern of LEFT_OUT) {
				for (const [found] of text.matchAll(new RegExp(pattern.source.replace("X", HAS.join("|")), "g"))) used.push(`${path}: ${found}`);
			}
		}
		expect(used).toEqual([]);
	});
});
