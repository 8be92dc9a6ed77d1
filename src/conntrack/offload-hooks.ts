/**
 * A faster way that packets of some sessions take without coming to the table: BPF programs (offload/), or the kernel's
 * own tracking.
 */

/** The table tells it what happens to sessions, and asks about those that it has. */
export interface OffloadHooks {
	/** Session `i` was used, or changed its state: it may be offloaded, or may no longer. */
	changed(i: number): void;
	/** Session `i` is about to end: it must not be offloaded any more. */
	ended(i: number): void;
	/** Seconds since session `i` was last used there, -1 if it is not offloaded. */
	age(i: number): number;
	/**
	 * Brings a TCP session's acknowledgment numbers and state up to date in its record. True if it has another state
	 * now.
	 */
	sync(i: number): boolean;
	/**
	 * Does so with all sessions, so that those that close can make room; or nothing, if that has just been done and had
	 * found few.
	 */
	syncAll(): void;
	/**
	 * Brings the counters of some sessions up to date in their records, if it keeps them elsewhere. True when that of
	 * all has been done, by this call and those since the last one that was true.
	 */
	countSome(): boolean;
}
