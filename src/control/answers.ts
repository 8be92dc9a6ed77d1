/**
 * What the daemon answers to each command.
 */
import type { Engine } from "../engine.ts";
import { startCapture } from "./capture.ts";
import { why } from "./dry-run.ts";
import { flush } from "./flush.ts";
import type { Request } from "./protocol.ts";
import { drops, flows, hosts, mappings } from "./sessions.ts";
import { status } from "./status.ts";

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

export type Answer = { data: unknown } | { job: Generator<unknown[] | undefined, unknown> } | { stream: Stream };

/** The answer to a request. Throws Error with a sentence for the operator. */
export function answer(engine: Engine, request: Request): Answer {
	switch (request.command) {
		case "status":
			return { job: status(engine) };
		case "flows":
			return { job: flows(engine, request) };
		case "mappings":
			return { job: mappings(engine, request) };
		case "hosts":
			return { job: hosts(engine) };
		case "drops":
			return { job: drops(engine) };
		case "why":
			return { data: why(engine, request) };
		case "flush":
			return { job: flush(engine, request) };
		case "watch":
			return { stream: engine.watch.subscribe(request.mappings === true) };
		case "capture":
			return startCapture(engine, request);
		case "reload":
			return { data: engine.reload() };
		default:
			throw new Error("unknown command");
	}
}
