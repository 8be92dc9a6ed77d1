/**
 * When the guard may be installed: it takes time of the processor. What keeps the kernel off masqd's packets is never
 * put off, but a change of nothing but the networks that lead elsewhere (a routing daemon may make many) waits until
 * such changes take a twentieth of the time at most; and an nft that hangs until it is ended is not run again at once.
 */

import type { GuardFacts } from "./guard.ts";

/**
 * A pause is so many times as long as the run before it, but not longer than so many milliseconds: after a run that did
 * its work, and after one that failed.
 */
const TIMES = 20;
const PAUSE_MAX = 5000;
const FAILED_MAX = 30_000;
/** A failure that took less, in milliseconds, is followed by no pause. */
const FAILED_FAST = 1000;

/** The times of one guard. Times are milliseconds. */
export class GuardPace {
	#urgent = "";
	#notBefore = 0;
	#failed = false;

	/** Whether the guard may be installed at `now`; `missing`: there is none, or it is not known what it is. */
	may(facts: GuardFacts, missing: boolean, now: number): boolean {
		return now >= this.#notBefore || (!this.#failed && (missing || urgentOf(facts) !== this.#urgent));
	}

	/** An installation ran from `started` to `ended`. */
	took(facts: GuardFacts, started: number, ended: number, failed: boolean): void {
		this.#failed = failed;
		if (!failed) this.#urgent = urgentOf(facts);
		const duration = ended - started;
		const fast = failed && duration < FAILED_FAST;
		this.#notBefore = ended + (fast ? 0 : Math.min(failed ? FAILED_MAX : PAUSE_MAX, duration * TIMES));
	}
}

/** What of the facts must not wait. */
function urgentOf(facts: GuardFacts): string {
	return JSON.stringify({ ...facts, elsewhere: [] });
}
