/**
 * A section's statements read by its option table: from words to typed values, each with its line.
 *
 * Lists follow firewall4: a list may be written as one option with spaces (`option proto 'tcp udp'`), an option may
 * not be written as a list. Of repeated options the last one counts, after which a list goes on, and an empty value
 * unsets an option, all as in libuci.
 */

import type { ListOption, OptionTable, SectionSpec, SingleOption } from "./schema.ts";
import { Refusal, SWITCH } from "./schema.ts";
import { nearestWord, suggestOneOf } from "./suggest.ts";
import { type ConfigError, quoteValue, type UciSection, type UciStatement } from "./uci.ts";

/** A place in the configuration. */
export interface Where {
	file: string;
	line: number;
	section: string;
}

/** Collects what is wrong and what is doubtful. */
export interface Findings {
	errors: ConfigError[];
	warnings: ConfigError[];
}

/** An error at a place. */
export function problemAt(where: Where, option: string, message: string): ConfigError {
	return { file: where.file, line: where.line, section: where.section, option, message };
}

/** A single option's value. */
export interface Single<T> {
	/** The value, else the default, else null. */
	value: T | null;
	/** Whether the file has the option, be its value good or bad or its name misspelt. */
	given: boolean;
	/** Of the option, or of the section when it is not given. */
	where: Where;
}

/** A list's good values; the default when the file does not have the option. */
export interface Several<T> {
	entries: { value: T; where: Where }[];
	given: boolean;
	where: Where;
}

/** The values of one option table. */
export type Values<O extends OptionTable> = {
	[K in keyof O]: O[K] extends SingleOption<infer T> ? Single<T> : O[K] extends ListOption<infer T> ? Several<T> : never;
};

/** "max_sessions" -> "maxSessions" */
type Camel<S extends string> = S extends `${infer A}_${infer B}` ? `${A}${Capitalize<Camel<B>>}` : S;

/**
 * The values of a section without an error, by the names of its options in camel case; null: not given, and there is no
 * default.
 */
export type Fields<O extends OptionTable> = {
	[K in keyof O & string as Camel<K>]: O[K] extends SingleOption<infer T, infer A> ? T | A : O[K] extends ListOption<infer T> ? T[] : never;
};

/** What a section's values come to in a plan. */
export function fieldsOf<O extends OptionTable>(values: Values<O>): Fields<O> {
	const fields: Record<string, unknown> = {};
	for (const [name, v] of Object.entries<Single<unknown> | Several<unknown>>(values)) {
		fields[name.replace(/_(.)/g, (_, first: string) => first.toUpperCase())] = "entries" in v ? v.entries.map((e) => e.value) : v.value;
	}
	return fields as Fields<O>;
}

/** The option that every section may have besides those of its table, as firewall4's do: LuCI writes it. */
const ENABLED = "enabled";

/**
 * Whether a section is switched off by its own `option enabled`. A word that is no truth value is an error, and leaves
 * it on.
 */
export function isSwitchedOff(section: UciSection, spec: SectionSpec, where: Where, findings: Findings): boolean {
	if (Object.hasOwn(spec.options, ENABLED)) return false;
	const written = section.statements.filter((statement) => statement.name === ENABLED);
	return readSingle(ENABLED, SWITCH, written, where, findings).value === false;
}

/**
 * Reads a section.
 *
 * @param section - null reads an absent section: every option has its default.
 * @param where - place for what concerns the section as a whole.
 * @returns a value for every option of the table. Bad ones are reported and stand as not usable: null, or left out.
 */
export function readSection<O extends OptionTable>(
	section: UciSection | null,
	spec: SectionSpec<O>,
	where: Where,
	findings: Findings,
): Values<O> {
	const statements = new Map<string, UciStatement[]>();
	for (const written of section?.statements ?? []) {
		// No value of ours has lines: where one does, they were a matter of the form that it was typed into.
		const statement = written.value.includes("\n") ? { ...written, value: written.value.replace(/\s+/g, " ").trim() } : written;
		const same = statements.get(statement.name);
		if (same === undefined) statements.set(statement.name, [statement]);
		else same.push(statement);
	}
	const known = Object.keys(spec.options);
	const misspelt = new Set<string | null>();
	for (const [name, [first]] of statements) {
		if (Object.hasOwn(spec.options, name) || name === ENABLED) continue;
		misspelt.add(nearestWord(name, known));
		const foreign = spec.foreign;
		const advice = foreign !== undefined && Object.hasOwn(foreign, name) ? foreign[name]! : suggestOneOf(name, known);
		findings.errors.push(problemAt({ ...where, line: first!.line }, name, `unknown option, ${advice}`));
	}
	const values: Record<string, Single<unknown> | Several<unknown>> = {};
	for (const name of known) {
		const option = spec.options[name]!;
		const written = statements.get(name) ?? [];
		values[name] =
			option.kind === "option" ? readSingle(name, option, written, where, findings) : readSeveral(name, option, written, where, findings);
		if (misspelt.has(name) || section?.damaged) values[name] = { ...values[name], given: true };
		if (option.required && section !== null && !values[name].given) {
			findings.errors.push(problemAt(where, name, `missing, expected ${option.type.expected}`));
		}
	}
	return values as Values<O>;
}

function readSingle(
	name: string,
	option: SingleOption<unknown>,
	written: UciStatement[],
	where: Where,
	findings: Findings,
): Single<unknown> {
	const fallback = option.default === null ? null : option.type.parse(option.default);
	let result: Single<unknown> = { value: fallback, given: false, where };
	const last = written.findLast((statement) => statement.kind === "option");
	for (const statement of written) {
		const here = { ...where, line: statement.line };
		if (statement.kind === "list") {
			findings.errors.push(problemAt(here, name, `must not be a list, expected: option ${name} ${quoteValue(statement.value)}`));
			result = { ...result, given: true };
			continue;
		}
		if (statement !== last) continue;
		if (statement.value === "") continue;
		const value = option.type.parse(statement.value);
		if (value instanceof Refusal) {
			findings.errors.push(problemAt(here, name, `${value.message}, expected ${option.type.expected}`));
			result = { value: fallback, given: true, where: here };
			continue;
		}
		result = { value, given: true, where: here };
		const floor = option.floor;
		if (floor !== null && typeof value === "number" && value < floor.value) {
			const unit = option.unit === "" ? "" : ` ${option.unit}`;
			findings.warnings.push(problemAt(here, name, `${value}${unit} is below the ${floor.reference} minimum of ${floor.value}${unit}`));
		}
	}
	return result;
}

function readSeveral(
	name: string,
	option: ListOption<unknown>,
	written: UciStatement[],
	where: Where,
	findings: Findings,
): Several<unknown> {
	const entries: { value: unknown; where: Where }[] = [];
	let given = false;
	const last = written.findLastIndex((statement) => statement.kind === "option");
	for (const [n, statement] of written.entries()) {
		const here = { ...where, line: statement.line };
		if (n < last) continue;
		const words = statement.value.match(/[^ \t]+/g) ?? [];
		if (words.length === 0) {
			if (statement.kind === "list") {
				given = true;
				findings.errors.push(problemAt(here, name, `empty list entry, expected ${option.type.expected}`));
			}
			continue;
		}
		given = true;
		for (const word of words) {
			const value = option.type.parse(word);
			if (value instanceof Refusal) findings.errors.push(problemAt(here, name, `${value.message}, expected ${option.type.expected}`));
			else entries.push({ value, where: here });
		}
	}
	if (given) return { entries, given, where: entries[0]?.where ?? where };
	return { entries: option.default.map((text) => ({ value: option.type.parse(text), where })), given, where };
}
