/**
 * What stands in the place of sockets, guard and next hops where the kernel carries the packets (option driver
 * 'kernel'): the daemon's side of it. What does it, daemon/kernel-carrier.ts, is a bundle of its own, which is read
 * where it is wanted.
 */
import type { Plan } from "../config/plan.ts";
import type { SavedSysctls } from "../kernel/saved-sysctls.ts";
import type { Admission } from "../nat/admission.ts";
import type { Context, NextHops } from "../nat/context.ts";
import type { FastPath } from "../nat/fast-path.ts";
import type { SlowPath } from "../nat/slow-path.ts";
import type { Barrier } from "./barrier.ts";
import type { Clock } from "./clock.ts";
import type { Follower } from "./follower.ts";
import type { Keeper, KeeperOwner } from "./guard-follower.ts";
import type { InForce } from "./in-force.ts";
import type { Log } from "./log.ts";
import type { Ports } from "./ports.ts";
import type { WanAddress } from "./wan-address.ts";

/** What the carrier needs of the rest. */
export interface CarrierSurroundings {
	translation: {
		readonly memory: { readonly rx: Int32Array };
		readonly slowPath: SlowPath;
		readonly fast: FastPath;
		readonly hops: { readonly least: number };
	};
	context: Context;
	admission: Admission;
	clock: Clock;
	log: Log;
	inForce: InForce;
	settings: SavedSysctls;
	ports: Ports;
	wanAddress: WanAddress;
	barrier: Barrier;
}

/** The kernel's queues and its connections. */
export interface Carrier extends Follower {
	/** Readable when packets wait for a decision, and when connections have ended; -1 while they are closed. */
	readonly queueFd: number;
	readonly endsFd: number;
	/** Family and name of the nft table, and the number of the family. */
	readonly table: string;
	readonly family: number;
	/** What the translation takes for its next hops: `own` are those by which masqd sends what it says itself. */
	hops(own: NextHops): NextHops;
	/** Who keeps its rules, where the other drivers have their guard. */
	keeper(owner: KeeperOwner): Keeper;
	/** Before anything else: what the carrier works on. */
	begin(surroundings: CarrierSurroundings): void;
	/** Has packets that wait decided about, at most a batch; returns their number. Never throws. */
	breathe(decisions: FastPath): number;
	/** Brings the counters up to what the kernel has counted. */
	refresh(): void;
	/** The loop is about to sleep for so many milliseconds, {@link SLEEP} at most, or has woken (0). */
	sleeps(milliseconds: number): void;
	/** Ends the kernel's entries of sessions that have been ended. */
	flush(): void;
}

/** Longest sleep in milliseconds: the kernel waits for a daemon that is stopped meanwhile. */
export const SLEEP = 30_000;

/** Whether the kernel carries the packets of a plan. */
export function isCarried(plan: Plan): boolean {
	return plan.lan[0]?.driver === "kernel";
}
