/** The loop's steps besides packets, each behind the barrier. */

/** Those of a second, in their order. */
export type Step = readonly [name: string, action: () => void];

/** Those of a turn. */
export type TurnStep =
	| "lost state"
	| "placement"
	| "announcements"
	| "own ports"
	| "own ports step"
	| "signals"
	| "kernel news"
	| "guard watch"
	| "nft"
	| "reload"
	| "bans"
	| "expiry";
