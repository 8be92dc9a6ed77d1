/**
 * Whatever names an option names one of the tables: the README's reference, which is made of them (`UPDATE=1` writes it
 * anew), `masqd help config`, the examples, what the package installs, and the lines that `why` proposes. Reads files,
 * so it runs on Node only.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { makePlan } from "../../src/config/plan.ts";
import { configHelp, valuesOf } from "../../src/config/reference.ts";
import { SECTIONS, type SectionSpec } from "../../src/config/schema.ts";
import { policyOf } from "../../src/daemon/policy.ts";
import { POLICY_DEFAULTS } from "../../src/nat/context.ts";
import { SIMULATED_TIMEOUTS } from "../../src/selftest/simulator.ts";
import { DEFAULT_TIMEOUTS } from "./rig.ts";

const TYPES = Object.entries<SectionSpec>(SECTIONS);
const FROM = "<!-- options: made of src/config/schema.ts by UPDATE=1 npx vitest run test/unit/reference.node.test.ts -->\n";
const TO = "<!-- end of options -->\n";

const path = (name: string) => new URL(`../../${name}`, import.meta.url);
const read = (name: string) => readFileSync(path(name), "utf8");

/** The README's table. */
function table(): string {
	const rows = ["| option | values | default | meaning |", "|---|---|---|---|"];
	for (const [type, { occurs, help, options }] of TYPES) {
		rows.push(`| **\`config ${type}\`** | | | **${help}** (${occurs}) |`);
		for (const [name, option] of Object.entries(options)) {
			const defaults = typeof option.default === "string" ? [option.default] : (option.default ?? []);
			const absent = option.required ? "(required)" : "";
			const shown = defaults.filter((text) => text !== "").map((text) => `\`${text}\``);
			rows.push(
				`| \`${option.kind === "list" ? "list " : ""}${name}\` | ${valuesOf(option).replaceAll("|", "\\|")} | ${shown.join(" ") || absent} | ${option.help} |`,
			);
		}
	}
	return `${rows.join("\n")}\n`;
}

/** Options in examples of a text: "SECTION.OPTION", of what is indented or commented out as of what is not. */
function named(text: string): string[] {
	const found: string[] = [];
	let section = "";
	for (const line of text.split("\n")) {
		const config = /^[\s#]*config (\w+)(?: '?\w+'?)?$/.exec(line);
		const option = /^[\s#]*(?:option|list) (\w+) '[^']*'$/.exec(line);
		if (config !== null) section = config[1]!;
		else if (option !== null) found.push(`${section}.${option[1]}`);
	}
	return found;
}

/** Those of them that no table has; `enabled` switches any section off. */
function unknown(names: string[]): string[] {
	const known = new Set(TYPES.flatMap(([type, { options }]) => [...Object.keys(options), "enabled"].map((name) => `${type}.${name}`)));
	return names.filter((name) => !known.has(name));
}

describe("the README", () => {
	it("has the options as the tables have them", () => {
		const text = read("README.md");
		const from = text.indexOf(FROM) + FROM.length;
		const to = text.indexOf(TO);
		expect(from).toBeGreaterThan(FROM.length);
		expect(to).toBeGreaterThanOrEqual(from);
		if (process.env.UPDATE === "1") writeFileSync(path("README.md"), text.slice(0, from) + table() + text.slice(to));
		expect(read("README.md").slice(from).split(TO)[0]).toBe(table());
	});

	it("has no other option in its examples, nor has openwrt/README.md", () => {
		const names = named(read("README.md") + read("openwrt/README.md"));
		expect(names.length).toBeGreaterThan(5);
		expect(unknown(names)).toEqual([]);
		expect(unknown(named("config lan\n\toption devise 'eth0'\n"))).toEqual(["lan.devise"]);
	});
});

describe("masqd help config", () => {
	it("tells of every option, for a serial console", () => {
		const text = configHelp();
		for (const [type, { options }] of TYPES) {
			const [, after] = text.split(new RegExp(`^config ${type} `, "m"));
			const section = after!.split("\nconfig ")[0]!;
			for (const [name, option] of Object.entries(options)) {
				expect(section).toMatch(new RegExp(`^ {2}${option.kind} ${name}\\b`, "m"));
				expect(section.replace(/\s+/g, " ")).toContain(option.help);
			}
		}
		for (const line of text.split("\n")) expect(line).toMatch(/^[\x20-\x7e]{0,76}$/);
	});
});

describe("the package", () => {
	it("installs a configuration of which every line, used or not, is right", () => {
		const text = read("openwrt/files/etc/config/masqd");
		const used = text.replace(/^#(?=config|\t)/gm, "");
		expect(used).not.toBe(text);
		expect(makePlan(used, "masqd", { memTotalKb: 131072 })).toMatchObject({ errors: [], warnings: [] });
		expect(unknown(named(text))).toEqual([]);
	});

	it("has scripts that read options which there are", () => {
		const script = read("openwrt/files/etc/init.d/masqd");
		const functions: Record<string, string> = { read_main: "masqd", read_port: "lan", read_wan: "wan", add_interface_trigger: "wan" };
		for (const [name, type] of Object.entries(functions)) {
			const body = new RegExp(`^${name}\\(\\) \\{\n([^}]*(?:\\$\\{[^}]*\\}[^}]*)*)^\\}`, "m").exec(script)?.[1] ?? "";
			const options = [...body.matchAll(/config_get(?:_bool)? \w+ "\$1" (\w+)/g)].map((found) => `${type}.${found[1]}`);
			expect(options.length).toBeGreaterThan(0);
			expect(unknown(options)).toEqual([]);
		}
		const defaults = read("openwrt/image/files/etc/uci-defaults/80-masqd");
		expect(unknown([...defaults.matchAll(/masqd\.main\.(\w+)=/g)].map((found) => `masqd.${found[1]}`))).toEqual([]);
	});
});

describe("what why proposes", () => {
	it("is made of options that there are", () => {
		const sections = [
			...read("src/cli/remedy.ts")
				.replace(/\$\{[^}]*\}/g, "")
				.matchAll(/type: "(\w+)",\s*options: \{([^}]*)/g),
		];
		const names = sections.flatMap(([, type, options]) =>
			[...options!.matchAll(/(?<=^\s*|[,{]\s*)(\w+): /g)].map((found) => `${type}.${found[1]}`),
		);
		expect(names).toContain("redirect.dest_ip");
		expect(unknown(names)).toEqual([]);
	});
});

describe("defaults", () => {
	const { plan } = makePlan("config wan\noption device a\nconfig lan\noption device b\n", "t", { memTotalKb: 131072 });

	it("of the tables are those of the core", () => {
		expect(policyOf(plan!, [0])).toMatchObject(POLICY_DEFAULTS);
	});

	it("of time are those of the self-test and the unit tests", () => {
		expect(SIMULATED_TIMEOUTS).toEqual(plan!.timeouts);
		expect(DEFAULT_TIMEOUTS).toEqual(plan!.timeouts);
	});
});
