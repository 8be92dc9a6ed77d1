/**
 * What the unit tests use of vitest, for the real engine: describe, it, it.each, expect with its plain matchers. Tests
 * run as they are declared, one after the other, synchronously; {@link finish} prints the sum. esbuild puts this file
 * in the place of "vitest" (run-unit.sh).
 */
import * as native from "masq:native";

let passed = 0;
let failed = 0;
const path: string[] = [];

function print(line: string): void {
	native.print(1, `${line}\n`);
}

/** A value as text for a message, cut to a readable length. */
function show(value: unknown): string {
	let text: string;
	if (typeof value === "string") text = JSON.stringify(value);
	else if (typeof value === "function") text = "function";
	else if (value instanceof Error) text = `${value.name}: ${value.message}`;
	else if (value instanceof Set) text = `Set ${show([...value])}`;
	else if (value instanceof Map) text = `Map ${show([...value])}`;
	else if (ArrayBuffer.isView(value)) text = `${value.constructor.name} ${show(Array.from(value as Uint8Array))}`;
	else if (typeof value === "object" && value !== null) text = JSON.stringify(value) ?? "object";
	else text = String(value);
	return text.length > 600 ? `${text.slice(0, 600)}...` : text;
}

/** Deep equality as of vitest's toEqual: properties that are undefined count as absent. */
function equal(a: unknown, b: unknown): boolean {
	if (Object.is(a, b)) return true;
	if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
	if (Object.prototype.toString.call(a) !== Object.prototype.toString.call(b)) return false;
	if (a instanceof Error && b instanceof Error) return a.name === b.name && a.message === b.message;
	if (a instanceof Set && b instanceof Set) return a.size === b.size && [...a].every((x) => b.has(x) || [...b].some((y) => equal(x, y)));
	if (a instanceof Map && b instanceof Map)
		return a.size === b.size && [...a].every(([key, value]) => b.has(key) && equal(value, b.get(key)));
	if (a instanceof ArrayBuffer && b instanceof ArrayBuffer) return equal(new Uint8Array(a), new Uint8Array(b));
	if (Array.isArray(a) && Array.isArray(b) && a.length !== b.length) return false;
	const left = a as Record<string, unknown>;
	const right = b as Record<string, unknown>;
	const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
	for (const key of keys) if (!equal(left[key], right[key])) return false;
	return true;
}

/** True if every member of `expected` is in `value`, deeply; lists must be as long. */
function matches(value: unknown, expected: unknown): boolean {
	if (typeof expected !== "object" || expected === null || typeof value !== "object" || value === null) return equal(value, expected);
	if (Array.isArray(expected) && (!Array.isArray(value) || value.length !== expected.length)) return false;
	return Object.entries(expected).every(([key, member]) => matches((value as Record<string, unknown>)[key], member));
}

function contains(value: unknown, item: unknown): boolean {
	if (typeof value === "string") return value.includes(item as string);
	return [...(value as Iterable<unknown>)].includes(item);
}

function caught(body: unknown): { error: unknown } | null {
	try {
		(body as () => unknown)();
	} catch (error) {
		return { error };
	}
	return null;
}

function throwsAs(body: unknown, expected: unknown): boolean {
	const thrown = caught(body);
	if (thrown === null) return false;
	if (expected === undefined) return true;
	const message = thrown.error instanceof Error ? thrown.error.message : String(thrown.error);
	if (typeof expected === "string") return message.includes(expected);
	if (expected instanceof RegExp) return expected.test(message);
	if (typeof expected === "function") return thrown.error instanceof (expected as new () => unknown);
	return expected instanceof Error && expected.message === message;
}

const MATCHERS = {
	toBe: (value: unknown, expected: unknown) => Object.is(value, expected),
	toEqual: (value: unknown, expected: unknown) => equal(value, expected),
	toMatchObject: (value: unknown, expected: unknown) => matches(value, expected),
	toThrow: (value: unknown, expected: unknown) => throwsAs(value, expected),
	toContain: (value: unknown, expected: unknown) => contains(value, expected),
	toMatch: (value: unknown, expected: unknown) =>
		expected instanceof RegExp ? expected.test(value as string) : (value as string).includes(expected as string),
	toBeGreaterThan: (value: unknown, expected: unknown) => (value as number) > (expected as number),
	toBeGreaterThanOrEqual: (value: unknown, expected: unknown) => (value as number) >= (expected as number),
	toBeLessThan: (value: unknown, expected: unknown) => (value as number) < (expected as number),
	toBeLessThanOrEqual: (value: unknown, expected: unknown) => (value as number) <= (expected as number),
	toHaveLength: (value: unknown, expected: unknown) => (value as { length: number }).length === expected,
	toBeNull: (value: unknown) => value === null,
	toBeUndefined: (value: unknown) => value === undefined,
};

type Matchers = Record<keyof typeof MATCHERS, (expected?: unknown) => void>;

/** An assertion; `hint` is put before the message of its failure. */
export function expect(value: unknown, hint?: string): Matchers & { not: Matchers } {
	const make = (wanted: boolean): Matchers =>
		Object.fromEntries(
			Object.entries(MATCHERS).map(([name, test]) => [
				name,
				(expected?: unknown) => {
					if (test(value, expected) === wanted) return;
					throw new Error(`${hint === undefined ? "" : `${hint}: `}${show(value)} ${wanted ? "" : "not "}${name} ${show(expected)}`);
				},
			]),
		) as Matchers;
	return { ...make(true), not: make(false) };
}

/** A group of tests. */
export function describe(name: string, body: () => void): void {
	path.push(name);
	try {
		body();
	} catch (error) {
		failed++;
		print(`FAIL ${path.join(" > ")}: ${show(error)}\n${(error as Error).stack ?? ""}`);
	}
	path.pop();
}

/** A test. One that returns a promise fails: nothing here waits. */
export function it(name: string, body: () => unknown): void {
	try {
		if (body() instanceof Promise) throw new Error("asynchronous tests cannot run here");
		passed++;
	} catch (error) {
		failed++;
		print(`FAIL ${[...path, name].join(" > ")}: ${show(error)}\n${(error as Error).stack ?? ""}`);
	}
}

/** A test for each of the values; %s in the name stands for it. */
it.each =
	<T>(values: readonly T[]) =>
	(name: string, body: (...value: T extends readonly unknown[] ? T : [T]) => unknown): void => {
		for (const value of values) {
			const list = (Array.isArray(value) ? value : [value]) as T extends readonly unknown[] ? T : [T];
			let n = 0;
			it(
				name.replace(/%[sdo]/g, () => String(list[n++])),
				() => body(...list),
			);
		}
	};

export const test = it;

/** Prints `N passed, N failed`; 1 if any failed. */
export function finish(): 0 | 1 {
	print(`${passed} passed, ${failed} failed`);
	return failed > 0 ? 1 : 0;
}
