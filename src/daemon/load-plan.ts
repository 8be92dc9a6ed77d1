/**
 * Reads the configuration file: for the commands that need it and for a reload. What it means is asked of a bundle of
 * its own (config/main.ts).
 */
import * as native from "masq:native";
import type { Loaded, Questions } from "../config/main.ts";
import type { Plan } from "../config/plan.ts";

export type { Loaded };

/** Asks the configuration's bundle. */
export function askConfig<Q extends keyof Questions>(name: Q, ...args: Parameters<Questions[Q]>): ReturnType<Questions[Q]> {
	return JSON.parse(native.ask("config", JSON.stringify([name, ...args])));
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
	try {
		return askConfig("load", path, text, Number(/^MemTotal:\s+(\d+)/m.exec(memory)?.[1] ?? 0));
	} catch (error) {
		return { plan: null, errors: [`masqd: ${(error as Error).message}`], warnings: [] };
	}
}

/** The plan of the file at `path`; null after printing its errors. */
export function readPlan(path: string): Plan | null {
	const { plan, errors, warnings } = loadPlan(path);
	for (const line of [...errors, ...warnings]) native.print(2, `${line}\n`);
	return plan;
}
