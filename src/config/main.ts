/**
 * The bundle that knows the configuration's language: a question comes in and an answer goes out, both as JSON. It runs
 * in an engine of its own (native.ask), which is gone when it has answered: the daemon asks at its start and at a
 * reload, and has none of it in its memory.
 */
import { describePlan } from "./describe.ts";
import { makePlan, type Plan } from "./plan.ts";
import { configHelp } from "./reference.ts";
import { formatErrors } from "./uci.ts";

/** A configuration as read. Errors and warnings are lines as they are shown, without newline. */
export interface Loaded {
	/** Null when there is an error. */
	plan: Plan | null;
	errors: string[];
	warnings: string[];
}

/** What can be asked, each with its answer. */
export interface Questions {
	/** The plan of a file of this name and text, on a machine with so much memory. */
	load(file: string, text: string, memTotalKb: number): Loaded;
	/** A plan in words. */
	describe(plan: Plan, tableBytes: number): string;
	/** Every option in words. */
	help(): string;
}

const QUESTIONS: Questions = {
	load(file, text, memTotalKb) {
		const { plan, errors, warnings } = makePlan(text, file, { memTotalKb });
		const lines = (list: typeof errors) => (list.length === 0 ? [] : formatErrors(list).trimEnd().split("\n"));
		return { plan, errors: lines(errors), warnings: lines(warnings).map((line) => `warning: ${line}`) };
	},
	describe: describePlan,
	help: configHelp,
};

/** Answers `[name, ...arguments]`. */
export function answer(question: string): string {
	const [name, ...args] = JSON.parse(question);
	return JSON.stringify((QUESTIONS[name as keyof Questions] as (...args: unknown[]) => unknown)(...args));
}
