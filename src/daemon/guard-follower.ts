/**
 * Has the guard as the topology says: there before anything of the LAN is taken, put back when somebody deletes it;
 * ports wait for one that knows their device.
 */

import type { GuardFacts } from "../kernel/guard.ts";
import type { GuardKeeper, GuardOwner } from "../kernel/guard-keeper.ts";
import { TCP } from "../packet/layout.ts";
import type { Clock } from "./clock.ts";
import type { Follower } from "./follower.ts";
import type { Log } from "./log.ts";
import type { LanPort, Port } from "./ports.ts";
import { elsewhere, type Topology } from "./topology.ts";

/** The watch over nftables. */
export interface Watcher {
	readonly fd: number;
	/** Chains may have come or gone. */
	chains: boolean;
	/** Rules have come or gone; elements of others' sets have. */
	rules: boolean;
	elements: boolean;
	/** Reads what has come; true if the table `name` was deleted. */
	drain(name: string): boolean;
	close(): void;
}

/** Who keeps the guard in the kernel. */
export type Keeper = Pick<
	GuardKeeper,
	"fd" | "dueAt" | "wanting" | "covers" | "install" | "keep" | "deleted" | "look" | "settle" | "close" | "remove"
> & {
	/** The router's own flows, by which a port is not taken. */
	readonly sets: Pick<GuardKeeper["sets"], "hasFlow">;
};

/** What the keeper tells, and asks. */
export type KeeperOwner = Omit<GuardOwner, "wanted"> & { wanted(): Topology };

/** What the follower does with the kernel and the rest. */
export interface GuardSurroundings {
	/** Family and name of the table. */
	table: string;
	/** Makes the keeper. */
	keeper(owner: KeeperOwner): Keeper;
	/** Whether there is a guard, a predecessor's. */
	present(): boolean;
	watch(): Watcher;
	/** A guard is in force by now that ports have waited for. */
	opened(): void;
	log: Log;
	clock: Clock;
}

/** The guard. */
export class GuardFollower implements Follower {
	readonly name = "guard";
	readonly keeper: Keeper;
	/** A dead predecessor's guard was there at the start. */
	before = false;
	/** Something has happened to nftables when this can be read; -1 for none. */
	fd = -1;
	/** Rules of others may have changed since somebody has looked. */
	rulesChanged = false;
	/** The same of what is in others' sets. */
	setsChanged = false;
	/** Milliseconds that the next walk waits for a guard which knows new devices. */
	patience = 0;
	readonly #with: GuardSurroundings;
	#watcher: Watcher | null = null;
	#topology: Topology | null = null;
	/** Some port waits for a guard that knows its device. */
	#awaited = false;

	constructor(surroundings: GuardSurroundings) {
		this.#with = surroundings;
		const { log, clock } = surroundings;
		this.keeper = surroundings.keeper({
			wanted: () => this.#topology as Topology,
			inForce: (deleted) => this.#inForce(deleted),
			failed: (error) => log.rateLimited("error", "guard", error.message, clock.milliseconds),
		});
	}

	/**
	 * The first time it is installed or this throws; later what does not succeed at once is tried again every second.
	 */
	follow(t: Topology): void {
		const first = this.#topology === null;
		this.#topology = t;
		const { patience } = this;
		this.patience = 0;
		if (!first) {
			this.keeper.keep();
			if (patience > 0) this.keeper.settle(patience);
			return;
		}
		this.before = this.#with.present();
		this.keeper.install();
		this.#watcher = this.#with.watch();
		this.fd = this.#watcher.fd;
	}

	/** Whether the kernel is kept off a port's packets; one where it is not is opened when it is. */
	covers({ name, ...p }: Pick<Port, "name"> & { kind?: LanPort["kind"] }): boolean {
		const covered = this.keeper.covers(name, p.kind === undefined ? "" : p.kind === "packet" ? "packet" : "tun");
		this.#awaited ||= !covered;
		return covered;
	}

	#inForce(deleted: boolean): void {
		const { log, clock, opened, table } = this.#with;
		if (deleted) log.rateLimited("warning", "guard", `the nft table ${table} was deleted and has been reinstalled`, clock.milliseconds);
		if (!this.#awaited) return;
		this.#awaited = false;
		opened();
	}

	/**
	 * Somebody has changed nftables. A guard that has gone with that is put back. Returns whether chains of others may
	 * have come or gone.
	 */
	news(): boolean {
		const watcher = this.#watcher;
		if (watcher === null) return false;
		let gone = true;
		try {
			gone = watcher.drain("masqd");
		} finally {
			if (gone) this.keeper.deleted();
		}
		const { chains } = watcher;
		watcher.chains = false;
		this.rulesChanged ||= watcher.rules;
		watcher.rules = false;
		this.setsChanged ||= watcher.elements;
		watcher.elements = false;
		return chains;
	}

	/** A successor finds it, and nothing of the LAN leaves meanwhile. */
	close(relieved: boolean): void {
		this.#watcher?.close();
		this.#watcher = null;
		this.fd = -1;
		this.keeper.close();
		if (!relieved) this.keeper.remove();
	}
}

/** What the guard is made of; `flows` is how many of the kernel's own it learns. */
export function guardFactsOf(t: Topology, flows?: number): GuardFacts {
	const ports = t.lan.flatMap(({ kind, ...p }) => (kind === "tap" || kind === "kernel" ? [] : [{ ...p, kind }]));
	return {
		lan: ports.map((p) => ({ device: p.name, driver: p.kind, tun: p.tun, nets: p.nets })),
		wanDevice: t.wan.name,
		externals: t.externals,
		ownedExternals: t.owned,
		portRanges: t.ports,
		rangesOf: (proto) => (proto === TCP ? t.guarded.tcp : t.guarded.udp),
		forwards: t.forwards,
		elsewhere: elsewhere(t),
		handed: t.handed,
		internal: t.lan.flatMap((p) => p.nets),
		ownAddresses: t.own,
		pcp: ports.filter((p) => p.pcp).map((p) => p.name),
		exemptDestinations: t.exempts,
		...(flows === undefined ? {} : { flows }),
	};
}
