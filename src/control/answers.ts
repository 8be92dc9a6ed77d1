/**
 * What the daemon answers to each command.
 */
import * as native from "masq:native";
import type { Captures } from "./capture.ts";
import type { DaemonView } from "./daemon-view.ts";
import { flush } from "./flush.ts";
import type { ReloadReply, Request } from "./protocol.ts";
import { drops, flows, forwards, hosts, mappings } from "./sessions.ts";
import { status } from "./status.ts";
import type { Answer } from "./stream.ts";

type Bundle = typeof import("./inspect.ts");

/** Answers requests about a daemon. */
export class Answers {
	readonly #daemon: DaemonView;
	#bundle: Bundle | null = null;
	#captures: Captures | null = null;

	constructor(daemon: DaemonView) {
		this.#daemon = daemon;
	}

	/** What is in memory from the first question for it on. Throws Error if it cannot be read. */
	get #inspect(): Bundle {
		this.#bundle ??= native.importBundle("inspect") as Bundle;
		return this.#bundle;
	}

	/** The answer to a request. Throws Error with a sentence for the operator. */
	to(request: Request): Answer {
		const daemon = this.#daemon;
		switch (request.command) {
			case "status":
				return { job: status(daemon) };
			case "flows":
				return { job: flows(daemon, request) };
			case "mappings":
				return { job: mappings(daemon, request) };
			case "hosts":
				return request.by === undefined ? { job: hosts(daemon, request.limit) } : daemon.accounts.answer(request.by, request.limit);
			case "forwards":
				return { job: forwards(daemon) };
			case "drops":
				return { job: drops(daemon) };
			case "why":
				return { data: this.#inspect.why(daemon, request) };
			case "flush":
				return { job: flush(daemon, request) };
			case "watch":
				return { stream: daemon.watch.subscribe(request.mappings === true) };
			case "capture":
				this.#captures ??= new this.#inspect.Captures(daemon);
				return this.#captures.answer(request);
			case "reload":
				return reload(daemon);
			default:
				throw new Error("unknown command");
		}
	}
}

/** What came of it, once that is known. */
function reload(daemon: DaemonView): Answer {
	let reply: ReloadReply | null = null;
	daemon.reload((told) => {
		reply = told;
	});
	function* job() {
		while (reply === null) yield undefined;
		return reply;
	}
	return { job: job(), ready: () => reply !== null };
}
