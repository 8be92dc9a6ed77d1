/**
 * Keeps the kernel driver's rules as the daemon wants them: what GuardKeeper does for the other drivers, with the same
 * names. nft is waited for, a few milliseconds at a change of addresses, devices or ports; connections that are there
 * do not notice.
 */
import { installQueueRules, type QueueIo, removeQueueRules } from "./queue-install.ts";
import type { QueueFacts } from "./queue-rules.ts";

/** What the keeper tells, and asks. */
export interface QueueOwner {
	/** What the rules are to be made of. */
	wanted(): QueueFacts;
	/** The rules are in force that were wanted; `deleted`: somebody had deleted them. */
	inForce(deleted: boolean): void;
	/** An installation failed, in words. */
	failed(error: Error): void;
}

/** What is put into the rules' sets besides: forgotten when they are made anew. */
export interface Elements {
	forget(): void;
	close(): void;
}

export class QueueKeeper {
	/** Nothing goes on beside the loop. */
	readonly fd = -1;
	/** What is the router's own the kernel does not ask about. */
	readonly sets = { hasFlow: (): boolean => false };
	readonly dueAt = Number.POSITIVE_INFINITY;
	readonly #io: QueueIo;
	readonly #owner: QueueOwner;
	readonly #elements: Elements;
	/** Facts of the rules in force, as text; "" if they are not there. */
	#text = "";
	#ours = false;

	constructor(io: QueueIo, owner: QueueOwner, elements: Elements) {
		this.#io = io;
		this.#owner = owner;
		this.#elements = elements;
	}

	/** Whether the rules are not there: {@link keep} is to be called every second. */
	get wanting(): boolean {
		return this.#text === "";
	}

	/** Whether a port may be opened: nothing is received by it. */
	covers(): boolean {
		return this.#text !== "";
	}

	/** Installs the rules. Throws as {@link installQueueRules}. */
	install(): void {
		this.#make(this.#owner.wanted());
	}

	/** Makes the rules what they are to be. */
	keep(): void {
		this.#keep(false);
	}

	/** Somebody has deleted them. */
	deleted(): void {
		this.#text = "";
		this.#keep(true);
	}

	look(): void {}

	settle(_patience: number): void {}

	/** The rules stay. */
	close(): void {
		this.#elements.close();
	}

	/** Removes the rules if there are any of ours. */
	remove(): void {
		if (this.#ours) removeQueueRules(this.#io);
	}

	#keep(deleted: boolean): void {
		const facts = this.#owner.wanted();
		if (JSON.stringify(facts) === this.#text) return;
		try {
			this.#make(facts);
			this.#owner.inForce(deleted);
		} catch (error) {
			this.#owner.failed(error as Error);
		}
	}

	#make(facts: QueueFacts): void {
		this.#text = "";
		this.#ours = true;
		installQueueRules(this.#io, facts);
		this.#elements.forget();
		this.#text = JSON.stringify(facts);
	}
}
