/**
 * Packet capture with both sides of the translation: what came in, what became of it, and why.
 *
 * Theory of operation. Capturing replaces the engine's two batch functions by ones that hand over one frame after the
 * other and look what has changed in the queues and counters; nothing of it is on the packet path while it is off.
 * Heads of packets go into a ring of fixed size, and from there to the client in the time that the control socket has.
 * The ring also serves `capture on`, which keeps the last packets until somebody asks for them.
 */

import type { Queue } from "../nat/context.ts";
import type { FastPath } from "../nat/fast-path.ts";
import { reason } from "../nat/reason.ts";
import { LENGTH_MASK } from "../packet/header-tag.ts";
import { IP_DESTINATION_W, IP_SOURCE_W } from "../packet/ipv4.ts";
import { SLOT_IP } from "../packet/layout.ts";
import type { FramesView } from "./daemon-view.ts";
import type { CapturedPacket, CaptureRequest } from "./protocol.ts";
import { hostAddress } from "./sessions.ts";
import type { Answer, Stream } from "./stream.ts";

/** Packets in the ring, and bytes kept of each. */
const RING = 512;
const SNAP = 192;
const WORDS = 8;
/** Rows in one slice. */
const SLICE = 8;

const VERDICTS: CapturedPacket["verdict"][] = ["forwarded", "dropped", "answered", "waits", "kernel"];

/** A test of a packet by its place `w` in the ring's words. */
type Wanted = (W: Int32Array, w: number) => boolean;

/** A capture that runs; one for all who listen. */
export class Capture {
	readonly #owner: FramesView;
	readonly #bytes = new Uint8Array(RING * SNAP * 2);
	/**
	 * Word 0: from port + 1 | to port + 2 << 8 | verdict << 16, 1: reason, 2: length, 3: sent length, 4: source, 5:
	 * destination, 6 and 7: the same of what was sent.
	 */
	readonly #W = new Int32Array(RING * WORDS);
	readonly #times = new Float64Array(RING);
	readonly #one = new Int32Array(2);
	/** Packets ever. */
	count = 0;
	/** Clients, and one more for `capture on`. */
	users = 0;
	kept = false;

	constructor(owner: FramesView) {
		this.#owner = owner;
	}

	/** The engine's batch functions with a look at every frame. */
	wrap(own: FastPath): FastPath {
		return {
			outbound: (rx, count, port) => {
				for (let n = 0; n < count; n++) this.#look(rx, n, port, () => own.outbound(this.#one, 1, port));
			},
			inbound: (rx, count) => {
				for (let n = 0; n < count; n++) this.#look(rx, n, -1, () => own.inbound(this.#one, 1));
			},
		};
	}

	#look(rx: Int32Array, n: number, port: number, run: () => void): void {
		const c = this.#owner.context;
		const { B, P } = c.views;
		const slot = rx[n * 2];
		const k = this.count % RING;
		const W = this.#W;
		const w = k * WORDS;
		const word = (slot + SLOT_IP) >> 2;
		const length = rx[n * 2 + 1];
		this.#bytes.set(B.subarray(slot + SLOT_IP, slot + SLOT_IP + Math.min(SNAP, length)), k * SNAP * 2);
		this.#one[0] = slot;
		this.#one[1] = length;
		W[w + 4] = P[word + IP_SOURCE_W];
		W[w + 5] = P[word + IP_DESTINATION_W];
		const drops = c.dropLog.sequence;
		const { leftToKernel: left } = c;
		const marks = [c.wan.queue.count, ...c.lan.map((l) => l.queue.count)];
		run();
		const dropped = c.dropLog.sequence !== drops;
		let sent = -1;
		let sentLength = 0;
		const queued = (queue: Queue, number: number, mark: number) => {
			for (let q = mark; q < queue.count; q++) {
				if (queue.pairs[q * 2] !== slot) continue;
				sent = number;
				sentLength = queue.pairs[q * 2 + 1] & LENGTH_MASK;
			}
		};
		queued(c.wan.queue, 0, marks[0]);
		c.lan.forEach((l, number) => {
			queued(l.queue, number + 1, marks[number + 1]);
		});
		const verdict = sent >= 0 ? (dropped ? "answered" : "forwarded") : dropped ? "dropped" : c.leftToKernel !== left ? "kernel" : "waits";
		if (sent >= 0) this.#bytes.set(B.subarray(slot + SLOT_IP, slot + SLOT_IP + Math.min(SNAP, sentLength)), k * SNAP * 2 + SNAP);
		W[w] = (port + 1) | ((sent + 1) << 8) | (VERDICTS.indexOf(verdict) << 16);
		W[w + 1] = dropped ? c.dropLog.last : -1;
		W[w + 2] = length;
		W[w + 3] = sentLength;
		W[w + 6] = sent >= 0 ? P[word + IP_SOURCE_W] : 0;
		W[w + 7] = sent >= 0 ? P[word + IP_DESTINATION_W] : 0;
		this.#times[k] = this.#owner.wallClock();
		this.count++;
	}

	/** Whether packet number `n` is wanted. */
	matches(n: number, wanted: Wanted): boolean {
		return wanted(this.#W, (n % RING) * WORDS);
	}

	/** Packet number `n` (of those still in the ring) as a client gets it. */
	row(n: number): CapturedPacket {
		const k = n % RING;
		const W = this.#W;
		const w = k * WORDS;
		const { wan, lan } = this.#owner;
		const name = (number: number) => (number === 0 ? wan.name : (lan[number - 1]?.name ?? ""));
		const why = W[w + 1] < 0 ? null : reason(W[w + 1]);
		const sent = (W[w] >> 8) & 0xff;
		return {
			time: this.#times[k],
			from: name(W[w] & 0xff),
			to: sent === 0 ? "" : name(sent - 1),
			verdict: VERDICTS[W[w] >> 16],
			reason: why?.name ?? null,
			text: why?.text ?? null,
			length: W[w + 2],
			packet: hex(this.#bytes, k * SNAP * 2, Math.min(SNAP, W[w + 2])),
			sentLength: W[w + 3],
			sent: sent === 0 ? null : hex(this.#bytes, k * SNAP * 2 + SNAP, Math.min(SNAP, W[w + 3])),
		};
	}

	/** Number of the oldest packet in the ring. */
	get oldest(): number {
		return Math.max(0, this.count - RING);
	}
}

function hex(bytes: Uint8Array, from: number, length: number): string {
	let text = "";
	for (let i = from; i < from + length; i++) text += (bytes[i] < 16 ? "0" : "") + bytes[i].toString(16);
	return text;
}

/** The capture that runs, if any. */
export class Captures {
	readonly #view: FramesView;
	#running: Capture | null = null;

	constructor(view: FramesView) {
		this.#view = view;
	}

	/** Begins, ends or reads a capture. Throws Error in words. */
	answer(request: CaptureRequest): Answer {
		const address = request.host === undefined ? 0 : hostAddress(String(request.host));
		const wanted = (W: Int32Array, w: number) =>
			(address === 0 || W.subarray(w + 4, w + 8).includes(address)) && (request.dropped !== true || W[w + 1] >= 0);
		const most = Math.max(0, Math.floor(Number(request.count ?? 0)));
		const running = this.#running;
		switch (request.what) {
			case "on":
				if (!running?.kept) this.#obtain().kept = true;
				return { data: { on: true } };
			case "off":
				if (running?.kept) {
					running.kept = false;
					this.#release();
				}
				return { data: { on: false } };
			case "last":
				if (!running?.kept) throw new Error("nothing is kept: say 'masqd capture on' first");
				return { job: last(running, wanted, most) };
			case "next":
				return { stream: next(this.#obtain(), wanted, most, () => this.#release()) };
			default:
				throw new Error("capture what? next, on, off or last");
		}
	}

	#obtain(): Capture {
		let running = this.#running;
		if (running === null) {
			const fresh = new Capture(this.#view);
			this.#view.interpose((own) => fresh.wrap(own));
			running = fresh;
			this.#running = fresh;
		}
		running.users++;
		return running;
	}

	#release(): void {
		const running = this.#running;
		if (running === null || --running.users > 0) return;
		this.#view.interpose(null);
		this.#running = null;
	}
}

/** The newest `most` (0: all) packets kept, oldest first. */
function* last(capture: Capture, wanted: Wanted, most: number): Generator<CapturedPacket[] | undefined, object> {
	const matching: number[] = [];
	const end = capture.count;
	for (let n = end - 1; n >= capture.oldest && (most === 0 || matching.length < most); n--)
		if (capture.matches(n, wanted)) matching.unshift(n);
	for (let from = 0; from < matching.length; from += SLICE) {
		yield matching.slice(from, from + SLICE).flatMap((n) => (n < capture.oldest ? [] : capture.row(n)));
	}
	return {};
}

/** The next `most` (0: without end) packets. */
function next(capture: Capture, wanted: Wanted, most: number, release: () => void): Stream {
	let at = capture.count;
	let given = 0;
	return {
		get pending() {
			return at < capture.count;
		},
		get ended() {
			return most > 0 && given === most;
		},
		take() {
			const rows: object[] = [];
			if (at < capture.oldest) {
				rows.push({ lost: capture.oldest - at });
				at = capture.oldest;
			}
			for (let looked = 0; looked < SLICE * 4 && rows.length < SLICE && at < capture.count && (most === 0 || given < most); looked++) {
				if (capture.matches(at, wanted)) {
					rows.push(capture.row(at));
					given++;
				}
				at++;
			}
			return rows;
		},
		close: release,
	};
}
