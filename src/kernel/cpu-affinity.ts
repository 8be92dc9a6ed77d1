/**
 * Which processor masqd runs on. The kernel wakes a process where its frame arrived, so under load masqd and the
 * interrupts that feed it share one processor, and the scheduler may leave it so while another is idle (measured: TCP
 * at 11 instead of 17 Gbit/s). So: while traffic is carried, look now and then how idle each processor was; on a
 * crowded one with a mostly idle one beside it, move there, and back at once if the one that was left is idler now than
 * the new one was: then masqd sits where the frames come in and is what holds them up (measured: the other processor is
 * idle for 70 to 100 % of the time then, and where masqd sits right for 0 to 50 %). After a while without traffic give
 * the choice back to the scheduler. Whoever starts masqd on chosen processors (taskset) has it stay on those.
 */

type System = Pick<typeof import("masq:native"), "readFile" | "processors" | "processor" | "runOn">;

/** Milliseconds between two looks. /proc/stat counts in 10 ms. */
export const LOOK_MS = 100;
/** Share of idle time below which a processor is crowded, and above which one is worth moving to. */
const CROWDED = 0.1;
const ROOMY = 0.6;
/** By how much more than expected the processor that was left must be idle for the move to be taken back. */
const WORSE = 0.1;
/**
 * Milliseconds in which a move is not undone; doubled up to the second number each time one would have been, until
 * there is a pause.
 */
const STAY_MS = 300;
const STAY_MOST_MS = 10_000;
/** Frames between two looks below which there is nothing to gain. */
const FEW = 200;
/** Milliseconds without more than that after which the scheduler has the choice again. */
export const REST_MS = 30_000;

const STAT_LINE = /^cpu(\d+) \d+ \d+ \d+ (\d+) (\d+)/;

/** Keeps masqd off crowded processors. Times are milliseconds of one clock. */
export class CpuAffinity {
	/** When {@link look} wants to be called next; Infinity with one processor. */
	dueAt: number;
	readonly #system: System;
	readonly #allowed: number[];
	readonly #capacity = new Map<number, number>();
	#idle = new Map<number, number>();
	#lookedAt = 0;
	#frames = 0;
	#moved = false;
	#busyAt = 0;
	#stayUntil = 0;
	#stay = STAY_MS;
	/** The processor that was left at the last look, -1 for none, and how idle the one moved to was then. */
	#left = -1;
	#promised = 0;

	constructor(system: System) {
		this.#system = system;
		this.#allowed = allowed(system);
		this.dueAt = this.#allowed.length > 1 ? 0 : Number.POSITIVE_INFINITY;
		if (this.#allowed.length > 1) for (const cpu of this.#allowed) this.#capacity.set(cpu, this.#capacityOf(cpu));
	}

	/** Relative speed of a processor where they differ (big.LITTLE), else the same for all. */
	#capacityOf(cpu: number): number {
		try {
			return Number.parseInt(this.#system.readFile(`/sys/devices/system/cpu/cpu${cpu}/cpu_capacity`), 10);
		} catch {
			return 0;
		}
	}

	/** Time that each allowed processor has been idle or waiting for a disk, in /proc/stat's ticks of 10 ms. */
	#readIdle(): Map<number, number> {
		const idle = new Map<number, number>();
		for (const line of this.#system.readFile("/proc/stat").split("\n")) {
			const match = STAT_LINE.exec(line);
			if (match !== null) idle.set(Number(match[1]), Number(match[2]) + Number(match[3]));
		}
		return idle;
	}

	/** When {@link rest} has something to do; Infinity if it has not. */
	get restAt(): number {
		return this.#moved ? this.#busyAt + REST_MS : Number.POSITIVE_INFINITY;
	}

	/**
	 * Looks, and moves if that helps. `frames` is how many frames have been received since the start. Where looking or
	 * moving is forbidden, never again.
	 */
	look(milliseconds: number, frames: number): void {
		try {
			this.#look(milliseconds, frames);
		} catch {
			this.dueAt = Number.POSITIVE_INFINITY;
		}
	}

	#look(milliseconds: number, frames: number): void {
		const elapsed = milliseconds - this.#lookedAt;
		const carried = frames - this.#frames;
		const before = this.#idle;
		this.#idle = this.#readIdle();
		this.#lookedAt = milliseconds;
		this.#frames = frames;
		this.dueAt = milliseconds + LOOK_MS;
		if (carried >= FEW) this.#busyAt = milliseconds;
		if (elapsed > 3 * LOOK_MS || carried < FEW) {
			// What comes after a pause is another load.
			this.#left = -1;
			this.#stayUntil = 0;
			this.#stay = STAY_MS;
			return;
		}
		const share = (cpu: number) => (((this.#idle.get(cpu) ?? 0) - (before.get(cpu) ?? 0)) * 10) / elapsed;
		const here = this.#system.processor();
		if (milliseconds < this.#stayUntil) {
			// Only just behind the move: later it may be idle because the load has gone and only what is queued is
			// left.
			const left = this.#left;
			this.#left = -1;
			if (left >= 0 && share(here) < CROWDED && share(left) >= this.#promised + WORSE) this.#move(left, milliseconds);
			return;
		}
		if (share(here) >= CROWDED) {
			this.#stay = STAY_MS;
			return;
		}
		let best = here;
		for (const cpu of this.#allowed) {
			const fast = (this.#capacity.get(cpu) ?? 0) >= (this.#capacity.get(here) ?? 0);
			if (fast && share(cpu) > share(best)) best = cpu;
		}
		if (best === here || share(best) < ROOMY) return;
		this.#left = here;
		this.#promised = share(best);
		this.#move(best, milliseconds);
	}

	#move(cpu: number, milliseconds: number): void {
		this.#system.runOn([cpu]);
		this.#moved = true;
		this.#stayUntil = milliseconds + this.#stay;
		this.#stay = Math.min(this.#stay * 2, STAY_MOST_MS);
	}

	/**
	 * Gives the choice back to the scheduler after {@link REST_MS} with little traffic; does nothing if it has it. For
	 * calling every second or so. Where the processors of the start are no longer allowed it stays where it is, for
	 * good.
	 */
	rest(milliseconds: number): void {
		if (!this.#moved || milliseconds - this.#busyAt < REST_MS) return;
		this.#moved = false;
		this.#stay = STAY_MS;
		try {
			this.#system.runOn(this.#allowed);
		} catch {
			this.dueAt = Number.POSITIVE_INFINITY;
		}
	}
}

/** Processors that masqd may run on; none where a jail forbids asking, and then it stays where it is put. */
function allowed(system: System): number[] {
	try {
		return system.processors();
	} catch {
		return [];
	}
}
