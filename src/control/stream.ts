/**
 * The shapes that an answer on the control socket can have.
 */

/** Something that sends rows until it ends or its client goes. */
export interface Stream {
	/** There is something to send. */
	readonly pending: boolean;
	/** Nothing will come after what {@link take} returned last. */
	readonly ended: boolean;
	/** The next rows, a slice's worth. */
	take(): unknown[];
	close(): void;
}

/**
 * At once, in slices between which packets are forwarded, or for as long as the client listens. A job with `ready` has
 * nothing to do until that is true.
 */
export type Answer = { data: unknown } | { job: Generator<unknown[] | undefined, unknown>; ready?: () => boolean } | { stream: Stream };
