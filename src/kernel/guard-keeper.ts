/**
 * Keeps the guard (guard.ts) as the daemon wants it, while forwarding goes on.
 *
 * Theory of operation. At the start nft is waited for: there is no packet before there is a guard. Later most changes
 * are of addresses and ports, which are elements of sets: netlink puts them in at once, before the turn goes on, so
 * that no packet is translated to an address or a port that the kernel does not leave to masqd. For what is not in sets
 * (another device, another driver), for very many routes, and when somebody has deleted the table, nft makes the guard
 * anew, beside the loop. A port whose device is new is opened when the guard that names it is there
 * ({@link GuardKeeper.covers}), as at the start. An nft that hangs is ended after {@link NFT_TIMEOUT_MS}, and another
 * is tried by the pace (guard-pace.ts).
 */
import { Child, type ChildIo } from "./child.ts";
import {
	type AddressTest,
	type GuardFacts,
	type GuardIo,
	type GuardSet,
	guardSets,
	guardStructure,
	INSTALL,
	type Installed,
	installation,
	installGuard,
	NFT_TIMEOUT_MS,
	type NftResult,
	removeGuard,
} from "./guard.ts";
import { GuardPace } from "./guard-pace.ts";
import { GuardSets, type SetsIo } from "./guard-sets.ts";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type KeeperIo = ChildIo & GuardIo & SetsIo & Pick<typeof import("masq:native"), "now" | "poll" | "POLLIN">;

/** A set with more ranges is left to nft, beside the loop: a millisecond is enough for so many. */
const RANGES_AT_ONCE = 512;
/**
 * Milliseconds that the end of masqd waits for a run of nft to be ended: one that goes on in the kernel would make the
 * guard again behind it.
 */
const END_PATIENCE = 1000;

/** What the keeper tells, and asks. */
export interface GuardOwner {
	/** What the guard is to be. */
	wanted(): GuardFacts;
	/** The guard is in force that was wanted; `deleted`: somebody had deleted it. */
	inForce(deleted: boolean): void;
	/** An installation failed, in words. */
	failed(error: Error): void;
}

/** An installation that goes on. */
interface Run {
	child: Child;
	steps: Generator<string, Installed, NftResult>;
	facts: GuardFacts;
	started: number;
	/** The guard was deleted meanwhile. */
	overtaken: boolean;
}

export class GuardKeeper {
	readonly sets: GuardSets;
	readonly #io: KeeperIo;
	readonly #owner: GuardOwner;
	readonly #pace = new GuardPace();
	#run: Run | null = null;
	/** Facts of the guard that was last in force, and whether it is known to be there. */
	#facts: GuardFacts | null = null;
	#known = false;
	#structure = "";
	/** What its sets hold, by name, as text. */
	readonly #held = new Map<string, string>();
	#addressTest: AddressTest = "fib";
	/** There is one of ours. */
	#ours = false;
	/** Something is to be changed as soon as that may be. */
	#late = false;
	/** Somebody has deleted the guard; and an installation has failed since. */
	#deleted = false;
	#failedSince = false;

	constructor(io: KeeperIo, owner: GuardOwner) {
		this.#io = io;
		this.#owner = owner;
		this.sets = new GuardSets(io);
	}

	/** Output of nft for the poll set, -1 if none runs. */
	get fd(): number {
		return this.#run?.child.fd ?? -1;
	}

	/** Millisecond at which {@link look} is to be called if nothing comes by {@link fd}. */
	get dueAt(): number {
		return this.#run?.child.dueAt ?? Number.POSITIVE_INFINITY;
	}

	/** Whether the guard is not as it is to be: {@link keep} is to be called every second. */
	get wanting(): boolean {
		return !this.#known || this.#late;
	}

	/** Whether a port may be opened: the guard knows its device, and its driver if it is a LAN's. */
	covers(device: string, driver: "packet" | "tun" | ""): boolean {
		const facts = this.#facts;
		if (facts === null || driver === "") return facts !== null && facts.wanDevice === device;
		return facts.lan.some((lan) => lan.device === device && lan.driver === driver);
	}

	/** Installs the guard, and waits for it. Throws as {@link installGuard}. */
	install(): void {
		const facts = this.#owner.wanted();
		const newcomers = this.#newcomers(facts);
		this.#ours = true;
		this.#took(facts, installGuard(this.#io, facts));
		if (newcomers) this.sets.forgetFlows("own_flows");
		this.sets.forgetFlows("lan_flows");
	}

	/** Makes the guard what it is to be, or begins to. */
	keep(): void {
		const facts = this.#owner.wanted();
		const now = this.#io.now();
		const may = this.#pace.may(facts, !this.#known, now);
		let nft = !this.#known || guardStructure(facts) !== this.#structure;
		this.#late = false;
		if (this.#known) {
			const other = guardSets(facts, this.#addressTest).filter((set) => this.#held.get(set.name) !== textOf(set));
			const many = other.some(({ ranges }) => ranges.length > RANGES_AT_ONCE);
			// Routes may change all the time.
			const quick = other.filter(({ name, ranges }) => ranges.length <= RANGES_AT_ONCE && (may || name !== "elsewhere"));
			const newcomers = quick.some(({ name }) => name === "inside") && this.#newcomers(facts);
			if (quick.length > 0 && !this.sets.replace(quick)) nft = true;
			else {
				for (const set of quick) this.#held.set(set.name, textOf(set));
				if (newcomers) this.sets.forgetFlows("own_flows");
			}
			if (many) nft = true;
			else if (!nft && quick.length > 0) this.#pace.took(facts, now, this.#io.now(), false);
			this.#late = quick.length < other.length;
		}
		if (!nft) return;
		this.#late = true;
		if (this.#run === null && may) this.#begin(facts, now);
	}

	/** Somebody has deleted the guard: every moment without it counts. */
	deleted(): void {
		this.#known = false;
		this.#deleted = true;
		this.#failedSince = false;
		// What that installs may have been there already.
		if (this.#run !== null) this.#run.overtaken = true;
		this.keep();
	}

	/** Looks what has become of nft. */
	look(): void {
		const run = this.#run;
		const result = run?.child.look(this.#io.now()) ?? null;
		if (run !== null && result !== null) this.#step(run, () => run.steps.next(result));
	}

	/** Waits for an nft that runs, for at most `patience` milliseconds. */
	settle(patience: number): void {
		const until = this.#io.now() + patience;
		for (let left = patience; this.#run !== null && left > 0; left = until - this.#io.now()) {
			const timeout = Math.ceil(Math.max(1, Math.min(left, this.dueAt - this.#io.now())));
			this.#io.poll(new Int32Array([this.fd, this.#io.POLLIN, 0]), 1, timeout);
			this.look();
		}
	}

	/** Ends an nft that runs, and closes; the guard stays. */
	close(): void {
		this.sets.close();
		const { child } = this.#run ?? {};
		if (child === undefined) return;
		child.end(this.#io.now());
		const until = this.#io.now() + END_PATIENCE;
		while (child.look(this.#io.now()) === null && this.#io.now() < until) this.#io.poll(new Int32Array(0), 0, 1);
		this.#run = null;
	}

	/** Removes the guard if there is one of ours. Throws as {@link removeGuard}. */
	remove(): void {
		if (this.#ours) removeGuard(this.#io);
	}

	/**
	 * Whether the guard that there is does not know all networks that are masqd's. What the hosts of a newcomer have
	 * open the kernel has masqueraded, from ports that it has learned as its own: they are to be masqd's. All is
	 * forgotten then, and the rest learned again from its next packet.
	 */
	#newcomers(facts: GuardFacts): boolean {
		return facts.internal.some((net) => !this.sets.hasAddress("inside", net.address));
	}

	#begin(facts: GuardFacts, started: number): void {
		const steps = installation(facts);
		this.#step({ steps, facts, started, overtaken: false }, () => steps.next());
	}

	/** Goes on with an installation: another run of nft, or its end. */
	#step(run: Omit<Run, "child">, next: () => IteratorResult<string, Installed>): void {
		this.#run = null;
		let step: IteratorResult<string, Installed>;
		try {
			step = next();
			if (!step.done) {
				this.#run = { ...run, child: new Child(this.#io, INSTALL, step.value, this.#io.now(), NFT_TIMEOUT_MS) };
				return;
			}
		} catch (error) {
			this.#pace.took(run.facts, run.started, this.#io.now(), true);
			// It may have been ended behind its work: what is there is not known.
			this.#structure = "";
			this.#late = true;
			this.#owner.failed(error as Error);
			const again = this.#deleted && !this.#failedSince;
			this.#failedSince = true;
			if (again) this.keep();
			return;
		}
		this.#pace.took(run.facts, run.started, this.#io.now(), false);
		if (!run.overtaken) {
			const deleted = this.#deleted;
			this.#took(run.facts, step.value);
			this.#owner.inForce(deleted);
		}
		// What has changed meanwhile.
		this.keep();
	}

	#took(facts: GuardFacts, { addressTest }: Installed): void {
		this.#facts = facts;
		this.#known = true;
		this.#structure = guardStructure(facts);
		this.#addressTest = addressTest;
		this.#deleted = false;
		this.#held.clear();
		for (const set of guardSets(facts, addressTest)) this.#held.set(set.name, textOf(set));
	}
}

function textOf({ ranges }: GuardSet): string {
	return JSON.stringify(ranges);
}
