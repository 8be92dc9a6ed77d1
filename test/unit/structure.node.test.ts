/**
 * Dependencies between the folders of src/ point one way (design.md section 7) and never in a circle, and the pure ones
 * import nothing of the shim.
 */
import { readdirSync, readFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { Rig } from "./rig.ts";
import { tcp, udp } from "./rig-frame.ts";

const SRC = fileURLToPath(new URL("../../src", import.meta.url));

/**
 * What each folder may import besides itself, and what some files may import at all; files at the top of src/ go by
 * their own name.
 */
const ALLOWED: Record<string, string[]> = {
	packet: [],
	conntrack: ["packet"],
	nat: ["packet", "conntrack"],
	config: ["packet"],
	netlink: [],
	offload: ["packet", "conntrack", "masq:native"],
	kernel: ["packet", "conntrack", "netlink", "masq:native"],
	port: ["packet", "conntrack", "netlink", "kernel", "nat/context.ts", "nat/reason.ts", "masq:native"],
	control: ["packet", "conntrack", "nat", "netlink", "kernel", "port", "version.ts", "masq:native"],
	"control/protocol.ts": [],
	"control/stream.ts": [],
	"control/daemon-view.ts": ["nat", "control/protocol.ts", "control/stream.ts"],
	cli: ["packet", "control/protocol.ts", "version.ts", "masq:native"],
	"cli/command-line.ts": ["masq:native"],
	selftest: ["packet", "conntrack", "nat"],
	tools: ["cli/command-line.ts", "selftest", "daemon", "kernel", "port", "config", "masq:native"],
	daemon: ["packet", "conntrack", "nat", "netlink", "kernel", "port", "offload", "config", "control", "version.ts", "masq:native"],
	"daemon/policy.ts": ["packet", "conntrack", "nat", "config"],
	"daemon/topology.ts": [
		"packet",
		"conntrack",
		"config",
		"port/filter.ts",
		"kernel/mirror.ts",
		"kernel/local-ports.ts",
		"kernel/tun-routes.ts",
		"kernel/foreign-routing.ts",
		"daemon/policy.ts",
	],
	"daemon/main.ts": ["daemon", "config/plan.ts", "kernel/netifd.ts", "cli/command-line.ts", "masq:native"],
	"version.ts": [],
};

const IMPORT = /^\s*(?:import|export)\s[^"';]*?\bfrom\s+"([^"]+)"|^\s*import\s+"([^"]+)"|\bimport\(\s*"([^"]+)"/gms;

/** What a source text imports, types included. */
function imports(text: string): string[] {
	return [...text.matchAll(IMPORT)].map((m) => m[1] ?? m[2] ?? m[3]);
}

/** Path from src/ of a relative import in a file at `path`. */
function resolve(path: string, specifier: string): string {
	return relative(".", join(dirname(path), specifier));
}

/** What is wrong with the imports of a file at `path` (from src/), as sentences. */
function violations(path: string, text: string): string[] {
	const folder = path.split("/")[0];
	const own = Object.hasOwn(ALLOWED, path);
	const allowed = own ? ALLOWED[path] : ALLOWED[folder];
	if (allowed === undefined) return [`${path}: no rule for ${folder}`];
	const wrong: string[] = [];
	for (const specifier of imports(text)) {
		if (!specifier.startsWith(".")) {
			if (!allowed.includes(specifier)) wrong.push(`${path} imports ${specifier}`);
			continue;
		}
		if (!specifier.endsWith(".ts")) wrong.push(`${path} imports ${specifier} without .ts`);
		const target = resolve(path, specifier);
		const to = target.split("/")[0];
		if ((to !== folder || own) && !allowed.includes(to) && !allowed.includes(target)) wrong.push(`${path} imports ${target}`);
	}
	return wrong;
}

/** Circles of files that import each other, as sentences; one for each import that closes one. */
function circles(files: [string, string][]): string[] {
	const graph = new Map(files.map(([path, text]) => [path, imports(text).flatMap((s) => (s.startsWith(".") ? [resolve(path, s)] : []))]));
	const found: string[] = [];
	const done = new Set<string>();
	const walk = (path: string, above: string[]) => {
		if (above.includes(path)) found.push([...above.slice(above.indexOf(path)), path].join(" > "));
		if (done.has(path)) return;
		done.add(path);
		for (const target of graph.get(path) ?? []) walk(target, [...above, path]);
	};
	for (const path of graph.keys()) walk(path, []);
	return found;
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

	it("never goes round", () => {
		expect(circles(sources())).toEqual([]);
		const a: [string, string] = ["nat/a.ts", 'import { b } from "./b.ts";'];
		const b: [string, string] = ["nat/b.ts", 'import { c } from "../packet/c.ts";\nimport "./d.ts";'];
		const d: [string, string] = ["nat/d.ts", 'import type { A } from "./a.ts";'];
		expect(circles([a, b])).toEqual([]);
		expect(circles([a, b, d])).toEqual(["nat/a.ts > nat/b.ts > nat/d.ts > nat/a.ts"]);
	});

	it("sees the imports that there are", () => {
		const seen = new Map(sources().map(([path, text]) => [path, imports(text)]));
		expect(seen.get("nat/fast-path.ts")).toContain("../packet/layout.ts");
		expect(seen.get("nat/fast-path.ts")).toContain("./context.ts");
		expect(seen.get("conntrack/table.ts")).toContain("./states.ts");
		expect(seen.get("daemon/daemon.ts")).toContain("masq:native");
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
			["kernel/x.ts", 'import { arpReply } from "../port/arp.ts";', "kernel/x.ts imports port/arp.ts"],
			["kernel/x.ts", 'import type { Context } from "../nat/context.ts";', "kernel/x.ts imports nat/context.ts"],
			["port/x.ts", 'import { makeFastPath } from "../nat/fast-path.ts";', "port/x.ts imports nat/fast-path.ts"],
			["control/x.ts", 'import { Engine } from "../engine.ts";', "control/x.ts imports engine.ts"],
			["control/x.ts", 'import { plan } from "../config/plan.ts";', "control/x.ts imports config/plan.ts"],
			["control/x.ts", 'import type { Engine } from "../engine.ts";', "control/x.ts imports engine.ts"],
			["control/x.ts", 'import type { Log } from "../daemon/log.ts";', "control/x.ts imports daemon/log.ts"],
			["control/x.ts", 'import { renderDrop } from "../cli/render.ts";', "control/x.ts imports cli/render.ts"],
			["control/protocol.ts", 'import type { Stream } from "./stream.ts";', "control/protocol.ts imports control/stream.ts"],
			["cli/x.ts", 'import type { Context } from "../nat/context.ts";', "cli/x.ts imports nat/context.ts"],
			["cli/x.ts", 'import { ControlServer } from "../control/server.ts";', "cli/x.ts imports control/server.ts"],
			["selftest/x.ts", 'import { Barrier } from "../daemon/barrier.ts";', "selftest/x.ts imports daemon/barrier.ts"],
			["selftest/x.ts", 'import * as native from "masq:native";', "selftest/x.ts imports masq:native"],
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

describe("routers' engine", () => {
	it("has every built-in function that is called", () => {
		const header = readFileSync(join(SRC, "../native/engine-unused.h"), "utf8");
		const absent = [...header.matchAll(/^#define UNUSED_\w+ ~, ~ \/\* (.*) \*\/$/gm)].flatMap(([, calls]) => calls.split(" "));
		expect(absent.length).toBeGreaterThan(50);
		// Splitting is by texts only: what asks for the compiler of expressions has a test of its own.
		const calls = [...new Set(absent)].filter((call) => call !== ".split").sort();
		const missed = (text: string) =>
			calls.filter((call) => {
				const name = call.slice(1);
				return new RegExp(call.startsWith(".") ? `\\.\\s*${name}\\b|["']${name}["']` : `\\b${call}\\b`).test(text);
			});
		expect(sources().flatMap(([path, text]) => missed(text).map((call) => `${path}: ${call}`))).toEqual([]);
		expect(missed("a.toSorted(); Object.groupBy(b, c); b['toReversed'](); isNaN(1)")).toEqual([
			".toReversed",
			".toSorted",
			"Object.groupBy",
			"isNaN",
		]);
		// Nor are they taken off their objects first.
		const taken = /\} = (Object|Array|Math|Number|String|Promise|Atomics|Reflect|Symbol)\b/;
		expect(sources().flatMap(([path, text]) => (taken.test(text) ? [path] : []))).toEqual([]);
	});
});

describe("size", () => {
	it("no file of the daemon has more than 400 lines", () => {
		const long = sources().filter(([path, text]) => path.startsWith("daemon/") && text.split("\n").length > 401);
		expect(long.map(([path]) => path)).toEqual([]);
	});

	it("the first packet of a mapping runs code of so many files, no more", async () => {
		const rig = new Rig();
		rig.toWan(udp("192.168.1.10:40000", "198.51.100.1:53000"));
		const files = await passes(() => rig.toWan(udp("192.168.1.11:40000", "198.51.100.1:53000")));
		expect(files).toContain("nat/outbound.ts");
		expect(files.length, `${files}`).toBeLessThanOrEqual(8);
		const syn = await passes(() => rig.toWan(tcp("192.168.1.12:40000", "198.51.100.1:80", { flags: "S" })));
		expect(syn.length, `${syn}`).toBeLessThanOrEqual(8);
		// Of a session that is known it is the fast path alone, whose way out asks for the external addresses.
		const known = await passes(() => rig.toWan(udp("192.168.1.11:40000", "198.51.100.1:53000")));
		expect(known.filter((file) => file !== "nat/externals.ts")).toEqual(["nat/fast-path.ts"]);
	});
});

/**
 * Files of nat/ and conntrack/ in which a function with a name is called; module variables are getters without one
 * here.
 */
async function passes(packet: () => void): Promise<string[]> {
	const session = new Session();
	session.connect();
	try {
		await session.post("Profiler.enable");
		await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
		packet();
		const { result } = await session.post("Profiler.takePreciseCoverage");
		const called = result.filter(({ functions }) =>
			functions.some(({ functionName, ranges }) => functionName !== "" && ranges[0].count > 0),
		);
		return called.map(({ url }) => url.replace(/^.*\/src\//, "")).filter((file) => /^(nat|conntrack)\//.test(file));
	} finally {
		await session.post("Profiler.stopPreciseCoverage");
		session.disconnect();
	}
}

describe("comments", () => {
	it("are wrapped at 120 columns, a tab being four", () => {
		const wide: string[] = [];
		for (const folder of ["src", "test"]) {
			const root = fileURLToPath(new URL(`../../${folder}`, import.meta.url));
			for (const path of readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))) {
				for (const [n, line] of readFileSync(join(root, path), "utf8").split("\n").entries())
					if (/^\s*(?:\*|\/\/|\/\*)/.test(line) && line.replaceAll("\t", "    ").length > 120) wide.push(`${folder}/${path}:${n + 1}`);
			}
		}
		expect(wide).toEqual([]);
	});
});

describe("what a router's engine leaves out (native/math-small.c, native/unicode-small.c, native/regexp-small.c)", () => {
	const HAS = ["abs", "ceil", "clz32", "floor", "fround", "hypot", "imul", "max", "min", "random", "round", "sign", "sqrt", "trunc"];
	const LEFT_OUT = [
		/\bMath\.(?!(?:X)\b)\w+/g,
		/\\[pP]\{/g,
		/\.normalize\(/g,
		/\bnew Function\b|\beval\(/g,
		/\bRegExp\(/g,
		/\.(?:matchAll|search)\(/g,
		/\.(?:split\(\/|match\(")/g,
		/\bnew (?:Proxy|WeakRef)\b/g,
	];

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
