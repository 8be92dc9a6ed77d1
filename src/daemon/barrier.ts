/**
 * What an exception may cost: the batch or the event that it came from, and never the daemon.
 *
 * Every step of the loop runs behind a barrier: the batch of a port, each service of a descriptor, each timer. A step
 * that throws is counted under its name, its first failure of a kind is logged with the stack, and the loop goes on
 * with the next step. A step that fails again and again without ever passing cannot be helped from inside:
 * {@link Unrecoverable} ends the process for its supervisor, which starts another with the same state, and the guard
 * stands meanwhile. Not so while it is the system that refuses a step that forwarding can do without: another process
 * would be refused as well.
 */
import type { Log } from "./log.ts";

/**
 * Failures of one step in a row, and the milliseconds over which they are spread at least, that end the process: a fast
 * step, and one that runs once a second.
 */
const TOO_MANY = 100;
const TOO_MANY_MS = 1000;
const TOO_LONG = 10;
const TOO_LONG_MS = 10_000;
/** Kinds of errors (step and message) that have a line in the log each; more share one a step. */
const KINDS = 32;
/** Most characters of a stack in a line. */
const STACK_MAX = 1000;

/** Ends the loop: a step fails again and again. */
export class Unrecoverable extends Error {}

/** What a step's failures came to. */
export interface Failures {
	step: string;
	count: number;
	/** Message of the last. */
	last: string;
	/** Whether some were not just the system's refusals. */
	internal: boolean;
}

interface Failing extends Failures {
	/** Failures since the step last passed, and the millisecond of the first of them. */
	inARow: number;
	since: number;
}

/** Holds the exceptions of steps back. */
export class Barrier {
	/** Whether some step has failed and not passed since: only then {@link passed} has to be called. */
	ailing = false;
	readonly #log: Log;
	readonly #milliseconds: () => number;
	readonly #steps = new Map<string, Failing>();
	readonly #kinds = new Set<string>();

	/** `milliseconds` is the loop's clock. */
	constructor(log: Log, milliseconds: () => number) {
		this.#log = log;
		this.#milliseconds = milliseconds;
	}

	/**
	 * Runs a step that forwarding can do without for a while; false if it has thrown. Throws {@link Unrecoverable} if
	 * that is a fault of ours, and once too often.
	 */
	attempt(step: string, action: () => void): boolean {
		try {
			action();
		} catch (error) {
			this.failed(step, error, (error as { errno?: number } | undefined)?.errno === undefined);
			return false;
		}
		if (this.ailing) this.passed(step);
		return true;
	}

	/**
	 * Takes note of what a step has thrown. Throws {@link Unrecoverable} if that is once too often, and what is one
	 * already.
	 *
	 * @param fatal whether there can be a once too often
	 */
	failed(step: string, error: unknown, fatal = true): void {
		if (error instanceof Unrecoverable) throw error;
		const now = this.#milliseconds();
		const { message, stack } = error instanceof Error ? error : new Error(String(error));
		let f = this.#steps.get(step);
		if (f === undefined) {
			f = { step, count: 0, last: "", internal: false, inARow: 0, since: now };
			this.#steps.set(step, f);
		}
		if (f.inARow === 0) f.since = now;
		f.count++;
		f.inARow++;
		f.last = message;
		this.ailing = true;
		const kind = `internal error ${step} ${message}`;
		const known = this.#kinds.has(kind) || this.#kinds.size < KINDS;
		if (known) this.#kinds.add(kind);
		const text = fatal ? `internal error in ${step}: ${message}; ${stackLine(stack ?? "")}` : `${step}: ${message}`;
		this.#log.rateLimited(fatal ? "error" : "warning", known ? kind : `internal error ${step}`, text, now);
		f.internal ||= fatal;
		const lasted = now - f.since;
		if (fatal && ((f.inARow >= TOO_MANY && lasted >= TOO_MANY_MS) || (f.inARow >= TOO_LONG && lasted >= TOO_LONG_MS)))
			throw new Unrecoverable(`${step} has failed ${f.inARow} times in a row: ${message}`);
	}

	/** A step has gone well. */
	passed(step: string): void {
		const f = this.#steps.get(step);
		if (f === undefined || f.inARow === 0) return;
		f.inARow = 0;
		this.ailing = false;
		for (const other of this.#steps.values()) if (other.inARow > 0) this.ailing = true;
	}

	/** All steps that have failed ever. */
	failures(): Failures[] {
		return [...this.#steps.values()].map(({ step, count, last, internal }) => ({ step, count, last, internal }));
	}
}

/** A stack in one line; `make trace` knows it by " at ". */
function stackLine(stack: string): string {
	return stack
		.trim()
		.replace(/\s*\n\s*/g, " ")
		.slice(0, STACK_MAX);
}
