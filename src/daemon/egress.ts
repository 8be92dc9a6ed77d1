/**
 * The way out: what is queued goes to the drivers. Towards the WAN this is the last gate: no frame leaves whose source
 * is not one of our addresses, whatever the translation meant to do.
 */

import * as native from "masq:native";
import { BATCH, type Context } from "../nat/context.ts";
import { sourcesAreOurs } from "../nat/fast-path.ts";
import { REASON } from "../nat/reason.ts";
import { IP_SOURCE_W } from "../packet/ipv4.ts";
import { IP_WORD, SLOT_SIZE } from "../packet/layout.ts";
import type { Refused } from "../port/sending.ts";
import type { Barrier } from "./barrier.ts";
import type { LanPort, Port, Ports } from "./ports.ts";

/** Meter of the loop, kept only with MASQD_METER=1: nanoseconds in TypeScript and in the send and receive calls. */
export interface Meter {
	packets: number;
	jsNs: number;
	ioNs: number;
	batches: number;
}

/** Sends what is queued. */
export class Egress {
	readonly #wan: Port;
	readonly #lan: readonly LanPort[];
	readonly #context: Context;
	readonly #barrier: Barrier;
	readonly #meter: Meter | null;
	/** What counts frames that were not sent, to the WAN and to a LAN. */
	readonly #unsentOut: Refused = (reason, slot) => this.#context.dropLog.add(reason, slot, 0, this.#context.now);
	readonly #unsentIn: Refused = (reason, slot) => this.#context.dropLog.add(reason, slot, -1, this.#context.now);

	constructor({ wan, lan }: Ports, context: Context, barrier: Barrier, meter: Meter | null) {
		this.#wan = wan;
		this.#lan = lan;
		this.#context = context;
		this.#barrier = barrier;
		this.#meter = meter;
	}

	/** Sends what is queued anywhere: errors that a batch caused on the other side, frames that had waited. */
	flush(): void {
		if (this.#wan.link.queue.count > 0) this.#sendWan();
		for (let n = 0; n < this.#lan.length; n++) if (this.#lan[n].link.queue.count > 0) this.#send(this.#lan[n], this.#unsentIn);
	}

	/** Sends what is queued besides a batch: what the kernel's news or a second's work has released. */
	flushRest(): void {
		try {
			this.flush();
			if (this.#barrier.ailing) this.#barrier.passed("send");
		} catch (error) {
			this.lose(null, 0, -1);
			this.#barrier.failed("send", error);
		}
	}

	#sendWan(): void {
		if (!sourcesAreOurs(this.#context)) this.#dropLeaks();
		this.#send(this.#wan, this.#unsentOut);
	}

	#dropLeaks(): void {
		const { externals, views, dropLog, now } = this.#context;
		const { queue } = this.#wan.link;
		const X = queue.pairs;
		let kept = 0;
		for (let n = 0; n < queue.count << 1; n += 2) {
			if (externals.find(views.P[(X[n] >> 2) + IP_WORD + IP_SOURCE_W]) < 0) {
				dropLog.add(REASON.leak, X[n], -1, now);
				continue;
			}
			X[kept] = X[n];
			X[kept + 1] = X[n + 1];
			kept += 2;
		}
		queue.count = kept >> 1;
	}

	#send(p: Port, unsent: Refused): void {
		const { queue } = p.link;
		if (p.driver === null) {
			for (let n = 0; n < queue.count; n++) unsent(REASON["send-refused"], queue.pairs[n * 2]);
			queue.count = 0;
			return;
		}
		const meter = this.#meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		p.sent += p.driver.send(queue, unsent);
		if (meter !== null) meter.ioNs += native.nanoseconds() - t0;
	}

	/**
	 * A batch has thrown, which came from LAN port `came` or the WAN (-1): its `count` frames, pairs in `rx`, and what
	 * is queued anywhere, are lost. Null and 0 if it was not a batch.
	 */
	lose(rx: Int32Array | null, count: number, came: number): void {
		const { dropLog, now } = this.#context;
		const reason = REASON["internal-error"];
		if (rx !== null) for (let n = 0; n < count; n++) dropLog.add(reason, rx[n * 2], came, now);
		this.#empty(this.#wan, count > 0, 0);
		for (const p of this.#lan) this.#empty(p, count > 0, -1);
	}

	#empty({ link: { queue } }: Port, ofBatch: boolean, came: number): void {
		const { dropLog, now } = this.#context;
		for (let n = 0; n < queue.count; n++) {
			const slot = queue.pairs[n * 2];
			// Those of the batch have been counted.
			if (!ofBatch || slot >= BATCH * SLOT_SIZE) dropLog.add(REASON["internal-error"], slot, came, now);
		}
		queue.count = 0;
	}
}
