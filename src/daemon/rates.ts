/**
 * Packets a second, from the engine's counters.
 */
import type { Context } from "../nat/context.ts";

/** Least milliseconds between two samples. */
const SAMPLE_MS = 1000;

/** Two samples of the counters, a second or more apart. */
export class Rates {
	readonly #c: Context;
	readonly #now: () => number;
	#at: number;
	#before: [number, number, number] = [0, 0, 0];
	#rates = { out: 0, in: 0, dropped: 0 };

	/** `now` gives milliseconds. */
	constructor(c: Context, now: () => number) {
		this.#c = c;
		this.#now = now;
		this.#at = now();
	}

	/** Takes a sample, if the last is old enough. Called about once a second while there is traffic. */
	tick(): void {
		const elapsed = this.#now() - this.#at;
		if (elapsed < SAMPLE_MS) return;
		const c = this.#c;
		const { drops } = c;
		let dropped = 0;
		for (let n = 0; n < drops.length; n++) dropped += drops[n];
		const counts: [number, number, number] = [c.forwardedOut, c.forwardedIn, dropped];
		const rate = (k: number) => Math.round(((counts[k] - this.#before[k]) * 1000) / elapsed);
		this.#rates = { out: rate(0), in: rate(1), dropped: rate(2) };
		this.#before = counts;
		this.#at += elapsed;
	}

	/** The rates over the last interval. */
	now(): { out: number; in: number; dropped: number } {
		this.tick();
		return this.#rates;
	}
}
