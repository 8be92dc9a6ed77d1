/**
 * Keeps the router's own sockets and masqd's port range apart: the kernel's ephemeral range is moved out of it, and the
 * ports of services are not masqd's while they are there.
 */
import type { Plan } from "../config/plan.ts";
import type { PortRange } from "../conntrack/ports.ts";
import type { OwnPorts } from "../kernel/local-ports.ts";
import { separateEphemeral } from "../kernel/local-ports.ts";
import type { SavedSysctls } from "../kernel/saved-sysctls.ts";
import type { OwnSocket, SocketDiag, SocketPlace } from "../kernel/socket-diag.ts";
import type { Follower } from "./follower.ts";
import type { KernelFacts, Topology } from "./topology.ts";

/** Milliseconds between two looks at the router's own sockets, at least. */
const LOOK_EVERY = 1000;
/** While nothing comes, each pause is so many times as long as it was quiet at its begin. */
const PAUSE = 3;
/** Longest pause in milliseconds, and the part of a pause after which there is a look if masqd is awake anyway. */
const PAUSE_MOST = 30_000;
const AWAKE = 2 / 3;
/** When nothing has come for very long, a pause is that part of it, up to two minutes. */
const LONG_PART = 20;
const LONG_MOST = 120_000;
/** Milliseconds that a look at rest is left out while there are as many sockets as at the last one. */
const SAME_MOST = 1_800_000;

/** What a look has found. */
export interface Look {
	/** Ports are the router's, or are no more. */
	changed: boolean;
	/** Some of it has lasted: the socket filters are to follow. */
	lasting: boolean;
	/** Ports that are the router's for some time now. */
	settled: number[];
}

/** The sockets of the router itself. */
export class RouterPorts implements Follower {
	readonly name = "ephemeral ports";
	/** Milliseconds at which to look for new sockets. */
	lookAt = 0;
	readonly ports: OwnPorts;
	readonly sockets: SocketDiag;
	readonly #settings: SavedSysctls;
	readonly #kernel: KernelFacts;
	readonly #warnings: string[];
	/** Ports that the firewall leads to others. */
	published: readonly OwnSocket[] = [];
	#lookedAt = 0;
	/** The last look that was not left out, and what there was then. */
	#wholeAt = 0;
	#inUse = "";
	#published: readonly OwnSocket[] = [];
	#ranges = "";
	#restore: (() => void) | null = null;

	/** `warnings` are told to the administrator. */
	constructor(ports: OwnPorts, sockets: SocketDiag, settings: SavedSysctls, kernel: KernelFacts, warnings: string[]) {
		this.ports = ports;
		this.sockets = sockets;
		this.#settings = settings;
		this.#kernel = kernel;
		this.#warnings = warnings;
	}

	/** Moves the kernel's ephemeral range out of masqd's. */
	follow(t: Topology): void {
		this.separate(t.ports);
	}

	separate(ranges: PortRange[]): void {
		const text = JSON.stringify(ranges);
		if (text === this.#ranges) return;
		this.#ranges = text;
		const restore = this.#restore;
		this.#restore = null;
		try {
			restore?.();
		} finally {
			this.#restore = separateEphemeral(this.#settings, ranges, this.#warnings);
		}
	}

	/** All ports are free again: takes those of all sockets there are. */
	begin(plan: Plan): void {
		this.ports.begin([...this.sockets.all(this.#place(plan)), ...this.#within(plan)]);
	}

	#place({ ports, wan }: Plan): SocketPlace {
		const ifindex = this.#kernel.linkByName(wan.device)?.index ?? 0;
		return { ranges: ports, ifindex, addresses: this.#kernel.addresses(ifindex).map((a) => a.address) };
	}

	#within({ ports }: Plan): OwnSocket[] {
		return this.published.filter(({ port }) => ports.some(({ first, last }) => port >= first && port <= last));
	}

	/** Begins a look. While masqd `rests` it is left out if there are as many sockets as at the last one. */
	look(plan: Plan, now: number, rests: boolean): void {
		this.#lookedAt = now;
		this.lookAt = now + Math.max(LOOK_EVERY, this.sockets.rest);
		const inUse = rests ? this.sockets.inUse() : "";
		const { settling, waiting } = this.ports;
		const same = inUse !== "" && inUse === this.#inUse && this.#published === this.published && !settling && waiting.length === 0;
		this.#inUse = inUse;
		if (same && now < this.#wholeAt + SAME_MOST) return;
		this.#published = this.published;
		this.#wholeAt = now;
		this.sockets.begin(this.#place(plan));
	}

	/**
	 * There is to be a look now, while masqd is awake; nothing has come since millisecond `stirredAt` if it is not
	 * `busy`.
	 */
	wantsLook(now: number, busy: boolean, stirredAt: number): boolean {
		return now >= this.lookAt && !this.sockets.busy && (busy || now >= this.restUntil(stirredAt, AWAKE));
	}

	/**
	 * Milliseconds at which to look though nothing has come since `stirredAt`: the rarer the longer that is ago, and
	 * after that `part` of the pause. What comes for a new service is something.
	 */
	restUntil(stirredAt: number, part = 1): number {
		const quiet = this.#lookedAt - stirredAt;
		const pause = Math.max(Math.min(PAUSE * quiet, PAUSE_MOST), Math.min(quiet / LONG_PART, LONG_MOST));
		return Math.max(this.lookAt, this.ports.settling ? 0 : this.#lookedAt + pause * part);
	}

	/** One step of a look; what it has found when that was the last one, null before. */
	step(plan: Plan): Look | null {
		const sockets = this.sockets.step();
		if (sockets === null) {
			// One that could not be finished is made again.
			if (!this.sockets.busy) this.#inUse = "";
			return null;
		}
		const { changed, settled, left } = this.ports.look([...sockets, ...this.#within(plan)]);
		return { changed, lasting: settled.length > 0 || left, settled: settled.map((s) => s.port) };
	}

	close(relieved: boolean): void {
		this.sockets.close();
		if (!relieved) this.#restore?.();
	}
}
