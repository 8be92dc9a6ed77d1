/**
 * Keeps everything in step: the kernel's news make a new topology, and every follower goes by it.
 *
 * A start, news and a reload are the same walk over the followers in their order; a step that fails does not keep the
 * others, and is tried again at once, then less and less often. A stop closes them in reverse.
 */
import type { Plan } from "../config/plan.ts";
import type { Changes, KernelMirror, Neighbour } from "../kernel/mirror.ts";
import type { Barrier } from "./barrier.ts";
import { type Follower, StartError } from "./follower.ts";
import type { Log } from "./log.ts";
import type { Topology } from "./topology.ts";

/** What the walk needs of the rest. */
export interface StepSurroundings {
	kernel: Pick<KernelMirror, "drain">;
	barrier: Barrier;
	log: Log;
	/** The topology as plan and kernel have it now; `before` is the one until now. */
	topology(plan: Plan, before: Topology | null): Topology;
	plan(): Plan;
	/** The ports are to be what the topology says: before any follower. */
	take(t: Topology, before: Topology | null): void;
	/** The kernel's links have changed; the LANs' networks; the kernel's links or rules. */
	linksChanged(): void;
	netsChanged(): void;
	suspectTuns(): void;
	/** Traffic control's filters of others have changed. */
	filtersChanged(): void;
	/** The kernel has learned something of neighbours. */
	neighboursChanged(neighbours: Neighbour[]): void;
	/** Milliseconds, the loop's clock. */
	milliseconds(): number;
}

/** Milliseconds until what could not be followed is tried again, by how often it has failed in a row. */
const PAUSES = [0, 100, 200, 400, 800, 1000];

/** The walk over the followers. */
export class InStep {
	/** Some of the kernel's news could not be followed: it is tried again at {@link dueAt}. */
	behind = false;
	#failures = 0;
	#notBefore = 0;
	readonly #followers: readonly Follower[];
	readonly #with: StepSurroundings;
	#topology: Topology | null = null;
	/** News of neighbours that has not been taken. */
	#neighbours: Neighbour[] = [];

	/** `followers` in the order of a start. */
	constructor(followers: readonly Follower[], surroundings: StepSurroundings) {
		this.#followers = followers;
		this.#with = surroundings;
	}

	/** As it was followed last. */
	get topology(): Topology {
		if (this.#topology === null) throw new Error("there is no topology before the start");
		return this.#topology;
	}

	/** Takes a look, and tells the ports: before sessions are judged. Nobody follows yet. */
	look(plan = this.#with.plan()): void {
		const t = this.#with.topology(plan, this.#topology);
		this.#with.take(t, this.#topology);
		this.#topology = t;
	}

	/** The first walk: the first follower that fails ends it. */
	start(): void {
		for (const follower of this.#followers) follower.follow(this.topology);
	}

	/** The walk: returns what first kept a follower, null if nothing did. */
	follow(): unknown {
		let problem: unknown = null;
		for (const follower of this.#followers) {
			const kept = this.#attempt(follower);
			problem ??= kept;
		}
		return problem;
	}

	#attempt(follower: Follower): unknown {
		let problem: unknown = null;
		const { barrier, log, milliseconds } = this.#with;
		barrier.attempt(follower.name, () => {
			try {
				follower.follow(this.topology);
			} catch (error) {
				problem = error;
				this.behind = true;
				if (!(error instanceof StartError)) throw error;
				log.rateLimited("warning", follower.name, error.message, milliseconds());
			}
		});
		return problem;
	}

	/** A change of nothing but the router's own ports: who goes by them follows. */
	followPorts(change: (t: Topology) => Topology, followers: readonly Follower[]): void {
		this.#topology = change(this.topology);
		for (const follower of followers) this.#attempt(follower);
	}

	/** Something was read of the kernel's news by the way: it is followed next. */
	noticed(changes: Changes): void {
		this.#neighbours.push(...changes.neighbours);
		if (changes.addresses || changes.routes || changes.rules || changes.lost) this.behind = true;
	}

	/** Millisecond of the next attempt at what could not be followed, Infinity if nothing is behind. */
	get dueAt(): number {
		return this.behind ? this.#notBefore : Number.POSITIVE_INFINITY;
	}

	/** Takes the kernel's news. */
	news(): void {
		try {
			this.#followNews();
		} finally {
			if (!this.behind) this.#failures = 0;
			const pause = this.behind ? (PAUSES[Math.min(this.#failures++, PAUSES.length - 1)] ?? 0) : 0;
			this.#notBefore = this.#with.milliseconds() + pause;
		}
	}

	#followNews(): void {
		const again = this.behind;
		this.behind = true;
		const changes = this.#with.kernel.drain();
		this.#neighbours.push(...changes.neighbours);
		this.behind = false;
		try {
			this.#take(again || changes.lost ? { ...changes, links: true, addresses: true, routes: true, rules: true } : changes);
		} catch (error) {
			this.behind = true;
			throw error;
		}
	}

	#take({ links, addresses, routes, rules, filters }: Changes): void {
		const { suspectTuns, linksChanged, netsChanged, filtersChanged, neighboursChanged } = this.#with;
		if (links || rules) suspectTuns();
		if (links) linksChanged();
		if (links || addresses || routes || rules) {
			const nets = netsOf(this.topology);
			this.look();
			if (netsOf(this.topology) !== nets) netsChanged();
			this.follow();
		} else if (filters) filtersChanged();
		neighboursChanged(this.#neighbours);
		this.#neighbours = [];
	}

	/** Closes the followers in reverse, each whatever became of the others. */
	close(relieved: boolean, failed: (error: Error) => void): void {
		for (const follower of [...this.#followers].reverse()) {
			try {
				follower.close(relieved);
			} catch (error) {
				failed(error as Error);
			}
		}
	}
}

function netsOf({ lan }: Topology): string {
	return JSON.stringify(lan.map((place) => place.nets));
}
