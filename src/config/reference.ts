/** The option tables as text: what `masqd help config` says, in lines of at most 76 columns. */
import { type ListOption, SECTIONS, type SectionSpec, type SingleOption } from "./schema.ts";

const COLUMNS = 76;

/** What an option takes, and what an RFC says of it: "1..65000 s; RFC 4787 REQ-5: at least 120 s". */
export function valuesOf({ type, unit, floor }: SingleOption<unknown> | ListOption<unknown>): string {
	const space = unit === "" ? "" : ` ${unit}`;
	return type.name + space + (floor === null ? "" : `; ${floor.reference}: at least ${floor.value}${space}`);
}

/** `masqd help config`. */
export function configHelp(): string {
	let text = "/etc/config/masqd: every section and option, with its default.\n";
	for (const [type, { occurs, help, options }] of Object.entries<SectionSpec>(SECTIONS)) {
		text += `\nconfig ${type}${`(${occurs})`.padStart(COLUMNS - 7 - type.length)}\n${wrap(help, "  ")}`;
		for (const [name, o] of Object.entries(options)) {
			const defaults = typeof o.default === "string" ? [o.default] : (o.default ?? []);
			const first = [o.kind, name, ...defaults.map((value) => `'${value}'`), ...(o.required ? ["(required)"] : [])];
			text += `  ${first.join(" ")}\n${wrap(`${valuesOf(o)}: ${o.help}`, "      ")}`;
		}
	}
	return text;
}

function wrap(text: string, indent: string): string {
	let lines = "";
	let line = indent;
	for (const word of text.split(" ")) {
		if (line.length + word.length > COLUMNS) {
			lines += `${line.trimEnd()}\n`;
			line = indent;
		}
		line += `${word} `;
	}
	return `${lines}${line.trimEnd()}\n`;
}
