/**
 * Reads the configuration file: for the commands that need it and for a reload.
 */
import * as native from "masq:native";
import { makePlan, type Plan } from "../config/plan.ts";
import { formatErrors } from "../config/uci.ts";

/** A configuration as read. Errors and warnings are lines as they are shown, without newline. */
export interface Loaded {
	/** Null when there is an error. */
	plan: Plan | null;
	errors: string[];
	warnings: string[];
}

/** Reads and checks the file. Never throws. */
export function loadPlan(path: string): Loaded {
	let text: string;
	let memory = "";
	try {
		text = native.readFile(path);
	} catch (error) {
		return { plan: null, errors: [`masqd: cannot read ${path}: ${(error as Error).message}`], warnings: [] };
	}
	try {
		memory = native.readFile("/proc/meminfo");
	} catch {
		// In a bare chroot: the least is assumed.
	}
	const memTotalKb = Number(/^MemTotal:\s+(\d+)/m.exec(memory)?.[1] ?? 0);
	const { plan, errors, warnings } = makePlan(text, path, { memTotalKb });
	const lines = (list: typeof errors) => (list.length === 0 ? [] : formatErrors(list).trimEnd().split("\n"));
	return { plan, errors: lines(errors), warnings: lines(warnings).map((line) => `warning: ${line}`) };
}

/** The plan of the file at `path`; null after printing its errors. */
export function readPlan(path: string): Plan | null {
	const { plan, errors, warnings } = loadPlan(path);
	for (const line of [...errors, ...warnings]) native.print(2, `${line}\n`);
	return plan;
}
