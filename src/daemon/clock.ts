/**
 * The loop's clock: read once a turn, and by whatever has taken time.
 */
import type { Context } from "../nat/context.ts";

/** Time as it was when the clock was last read. */
export class Clock {
	/** Since boot. */
	milliseconds = 0;
	readonly #now: () => number;

	/** `now` gives milliseconds. */
	constructor(now: () => number) {
		this.#now = now;
	}

	/** Reads the time, and tells the translation. */
	read(context: Context): void {
		this.milliseconds = this.#now();
		const now = Math.floor(this.milliseconds / 1000);
		context.now = now;
		context.now16 = now & 0xffff;
	}
}
