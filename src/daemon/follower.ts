/**
 * Whoever goes by the topology. A start, the kernel's news and a reload are the same walk: each in their order compares
 * what there is with what is to be, and applies the difference. A stop closes them in reverse.
 */
import type { Topology } from "./topology.ts";

/** A part of the daemon that keeps something of the system in step. */
export interface Follower {
	/** In the log, when it could not. */
	readonly name: string;
	/**
	 * Makes things as the topology says; does nothing where they are. Throws what the system refuses: it is called
	 * again.
	 */
	follow(t: Topology): void;
	/** Undoes it. `relieved`: a successor goes on at once, so what keeps the kernel off its packets stays. */
	close(relieved: boolean): void;
}

/** What keeps the daemon from starting, as one sentence; while it runs, what has to wait. */
export class StartError extends Error {}
