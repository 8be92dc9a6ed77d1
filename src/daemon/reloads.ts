/**
 * Reloads, one after the other: netifd is asked beside the loop, so forwarding goes on however long ubus takes.
 */

import type { ReloadReply } from "../control/protocol.ts";
import { Child, type ChildIo } from "../kernel/child.ts";
import { type Resolving, UBUS_TIMEOUT_MS, type UbusAnswer } from "../kernel/netifd.ts";

/** Is told what came of a reload. */
export type Told = (reply: ReloadReply) => void;

/** A reload that goes on. */
interface Run {
	child: Child;
	steps: Resolving<ReloadReply>;
	told: Told[];
}

/** Runs reloads. */
export class Reloads {
	readonly #io: ChildIo;
	readonly #reload: () => Resolving<ReloadReply>;
	readonly #milliseconds: () => number;
	#run: Run | null = null;
	/** Who has asked since: the file may be another by now, so they get the next, which is one for all. */
	#waiting: Told[] = [];

	/** `milliseconds` is the loop's clock. */
	constructor(io: ChildIo, reload: () => Resolving<ReloadReply>, milliseconds: () => number) {
		this.#io = io;
		this.#reload = reload;
		this.#milliseconds = milliseconds;
	}

	/** Output of ubus for the poll set, -1 if none runs. */
	get fd(): number {
		return this.#run?.child.fd ?? -1;
	}

	/** Millisecond at which {@link look} is to be called if nothing comes by {@link fd}. */
	get dueAt(): number {
		return this.#run?.child.dueAt ?? Number.POSITIVE_INFINITY;
	}

	/** Reads the configuration again and goes on by it: at once if nobody has to be asked. */
	ask(told: Told): void {
		if (this.#run !== null) this.#waiting.push(told);
		else this.#begin([told]);
	}

	/** Looks what has become of ubus. */
	look(): void {
		const run = this.#run;
		const answer = run?.child.look(this.#milliseconds()) ?? null;
		if (run === null || answer === null) return;
		this.#run = null;
		this.#go(run, answer);
		if (this.#run === null && this.#waiting.length > 0) this.#begin(this.#waiting.splice(0));
	}

	#begin(told: Told[]): void {
		this.#go({ steps: this.#reload(), told }, null);
	}

	/** Goes on with a reload to its next run of ubus, or its end. */
	#go({ steps, told }: Omit<Run, "child">, answer: UbusAnswer): void {
		const tell = (reply: ReloadReply) => {
			for (const one of told) one(reply);
		};
		try {
			for (let step = steps.next(answer); ; step = steps.next(null)) {
				if (step.done) return tell(step.value);
				try {
					const child = new Child(this.#io, step.value, "", this.#milliseconds(), UBUS_TIMEOUT_MS);
					this.#run = { child, steps, told };
					return;
				} catch {
					// There is no ubus, which the reload is told.
				}
			}
		} catch (error) {
			tell({ errors: [`masqd: ${(error as Error).message}`], notes: [] });
			throw error;
		}
	}

	/** Ends a ubus that runs. */
	close(): void {
		if (this.#run === null) return;
		const now = this.#milliseconds();
		this.#run.child.end(now);
		this.#run.child.look(now);
		this.#run = null;
	}
}
