// Makes the files of the package luci-app-masqd: what stands beside this script, and what is made of the project's own
// source, so that a page never says other than the daemon: the table of options, and the remedies of `why`.
//
//   node openwrt/luci/generate.mjs FOLDER        the router's file system, as the package has it
//   node openwrt/luci/generate.mjs --pot         the template of translations, on standard output

import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const SOURCE = join(HERE, "../../src");

/** The table of options in values. */
async function optionTable() {
	const { outputFiles } = buildSync({ entryPoints: [join(SOURCE, "config/schema.ts")], bundle: true, format: "esm", write: false });
	const { SECTIONS } = await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
	const sections = {};
	for (const [type, { occurs, help, options }] of Object.entries(SECTIONS)) {
		const table = {};
		for (const [name, o] of Object.entries(options)) {
			const { kind, type, unit, help, required } = o;
			table[name] = { type: type.name, default: o.default, help };
			if (kind === "list") table[name].list = true;
			if (unit !== "") table[name].unit = unit;
			if (required) table[name].required = true;
		}
		sections[type] = { occurs, help, options: table };
	}
	return sections;
}

/** A class of LuCI's with these members. */
function luciClass(what, before, members) {
	return `'use strict';\n'require baseclass';\n\n// Generated: ${what}\n\n${before}return baseclass.extend({ ${members} });\n`;
}

/** The exported functions of a source file that imports types only. */
function remedies() {
	const { outputFiles } = buildSync({ entryPoints: [join(SOURCE, "cli/remedy.ts")], bundle: true, format: "esm", write: false, target: "es2020" });
	const text = outputFiles[0].text.replace(/^\/\/.*\n/gm, "").replace(/export \{[^}]*\};\s*/, "");
	return luciClass("src/cli/remedy.ts", `${text}\n`, "remedySection: (w) => remedySection(w), remedyLines: (section) => remedyLines(section)");
}

/** All files of a folder, by their path below it. */
function files(folder) {
	return readdirSync(folder, { recursive: true, withFileTypes: true })
		.filter((entry) => entry.isFile())
		.map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)))
		.sort();
}

/** Every text that the pages show, with the places where it stands. */
function texts(sections) {
	const found = new Map();
	const add = (text, place) => found.set(text, [...(found.get(text) ?? []), place]);
	const pages = join(HERE, "htdocs");
	for (const name of files(pages)) {
		const source = readFileSync(join(pages, name), "utf8");
		for (const [, text] of source.matchAll(/\b_\('((?:[^'\\]|\\.)*)'\)/g)) add(text.replace(/\\(.)/g, "$1"), `htdocs/${name}`);
	}
	const menu = JSON.parse(readFileSync(join(HERE, "root/usr/share/luci/menu.d/luci-app-masqd.json"), "utf8"));
	for (const { title } of Object.values(menu)) add(title, "root/usr/share/luci/menu.d/luci-app-masqd.json");
	const acl = JSON.parse(readFileSync(join(HERE, "root/usr/share/rpcd/acl.d/luci-app-masqd.json"), "utf8"));
	for (const { description } of Object.values(acl)) add(description, "root/usr/share/rpcd/acl.d/luci-app-masqd.json");
	for (const { help, options } of Object.values(sections))
		for (const one of [help, ...Object.values(options).map((o) => o.help)]) add(one, "src/config/schema.ts");
	return found;
}

function template(sections) {
	const entries = [...texts(sections)].map(
		([text, places]) => `${[...new Set(places)].map((place) => `#: ${place}\n`).join("")}msgid ${JSON.stringify(text)}\nmsgstr ""\n`,
	);
	return ['msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n', ...entries].join("\n");
}

const sections = await optionTable();
const [what] = process.argv.slice(2);
if (what === "--pot") process.stdout.write(template(sections));
else {
	rmSync(what, { recursive: true, force: true });
	cpSync(join(HERE, "root"), what, { recursive: true });
	cpSync(join(HERE, "htdocs"), join(what, "www"), { recursive: true });
	const resources = join(what, "www/luci-static/resources/masqd");
	mkdirSync(resources, { recursive: true });
	writeFileSync(join(resources, "options.js"), luciClass("src/config/schema.ts", "", `sections: ${JSON.stringify(sections)}`));
	writeFileSync(join(resources, "remedy.js"), remedies());
}
