/**
 * The daemon's end of the control socket. Clients are never waited for, have bounded memory, and get a bounded share of
 * the time.
 *
 * Theory of operation. A command is answered by a function, by a generator that gives rows in slices of well under a
 * millisecond, or by a stream that goes on (`watch`). Between slices packets are forwarded. Under full traffic the
 * control socket is not even looked at for {@link PACE} times as long as the last slice took, so that whatever clients
 * do costs forwarding no more than one part in that many. Nothing is computed for a client whose last line has not gone
 * out yet. Who sends a line that is too long, only half a line, or does not read, is cut off, which the log says and,
 * if it still reads, the client is told.
 */
import * as native from "masq:native";
import { Answers } from "./answers.ts";
import type { DaemonView } from "./daemon-view.ts";
import { LINE_MAX, PROTOCOL_VERSION, type Reply, type Request } from "./protocol.ts";
import type { Answer, Stream } from "./stream.ts";

/** When one more comes, the one that has been silent for longest is cut off. */
const CLIENTS_MAX = 12;
/** Entries of the poll set: the listener and the clients. */
export const CONTROL_ENTRIES = 1 + CLIENTS_MAX;
/** Milliseconds without taking connections after one could not be taken: the listener would be ready all the time. */
const DEAF_MS = 1000;
/** Connections taken in one turn. */
const ACCEPTS = 16;
/**
 * Under full traffic, one part in this many of the time is for clients. An answer's own process takes as much again
 * where processors are short.
 */
const PACE = 64;
/** The same while events are told, which are lost if they come faster. */
const PACE_STREAM = 32;
/** Traffic is full from so many frames a second for each part of the pace on; with less, the pace is less. */
const FRAMES_PER_PACE = 100;
/** Milliseconds of work for clients in one turn. */
const TURN_MS = 0.5;
/** Milliseconds that a client may leave a line half sent or a reply unread. */
const PATIENCE = 10_000;
/** Least bytes a client's reply buffer has. */
const CHUNK = 8192;

interface Client {
	fd: native.Fd;
	input: ArrayBuffer;
	received: number;
	/** Lines being sent: bytes from `sent` to `length` of `output`. */
	output: ArrayBuffer;
	length: number;
	sent: number;
	/** The answer in progress. */
	job: Generator<unknown[] | undefined, unknown> | null;
	/** Whether it can go on, null if it always can. */
	ready: (() => boolean) | null;
	stream: Stream | null;
	/** It has closed its end; what it asked before is still answered. */
	eof: boolean;
	/** Another whole request has arrived. */
	more: boolean;
	/**
	 * Millisecond of its last request, of the first byte of an unfinished one, and of the last progress of its reply.
	 */
	lastUsed: number;
	partialSince: number;
	blockedSince: number;
}

/** Listens and answers. */
export class ControlServer {
	readonly #path: string;
	readonly #log: DaemonView["log"];
	readonly #answers: Answers;
	readonly #listener: native.Fd;
	#clients: Client[] = [];
	/** Clients in the poll set, null if nothing of this server is in it. */
	#polled: Client[] | null = null;
	/** Under traffic, nothing before this millisecond. */
	#notBefore = 0;
	/** Frames that the daemon had received when a slice was last done, and the millisecond of that. */
	#frames = 0;
	#framesAt = 0;
	/** No connection is taken before this millisecond. */
	#deafUntil = 0;
	/** Whose turn is first. */
	#turn = 0;

	/** Throws a native error if the socket cannot be made. */
	constructor(path: string, daemon: DaemonView) {
		this.#path = path;
		this.#log = daemon.log;
		this.#answers = new Answers(daemon);
		this.#listener = native.unixListen(path, 0o600);
	}

	/**
	 * Puts the listener's and the clients' descriptors into the poll set from entry `n` on, unless traffic has the
	 * time. The number of the entry behind them.
	 */
	pollEntries(set: Int32Array, n: number, now: number): number {
		this.#polled = now < this.#notBefore ? null : this.#clients;
		if (this.#polled === null) return n;
		set[n * 3] = now < this.#deafUntil ? -1 : this.#listener;
		set[n * 3 + 1] = native.POLLIN;
		let next = n + 1;
		for (const c of this.#polled) {
			set[next * 3] = c.fd;
			set[next * 3 + 1] = c.sent < c.length ? native.POLLOUT : c.eof || c.job !== null ? 0 : native.POLLIN;
			next++;
		}
		return next;
	}

	/**
	 * Milliseconds until this server wants a turn without anything happening on its descriptors; Infinity if it does
	 * not.
	 */
	dueIn(now: number): number {
		// Who connects meanwhile is not heard.
		if (now < this.#notBefore) return this.#notBefore - now;
		let due = now < this.#deafUntil ? this.#deafUntil - now : Number.POSITIVE_INFINITY;
		for (const c of this.#clients) {
			if (c.sent < c.length || c.partialSince > 0) due = Math.min(due, 1000);
			else if (wants(c)) return 0;
		}
		return due;
	}

	/**
	 * Serves what the poll set says, whose entries of this server begin at entry `from`, and goes on with answers.
	 * `frames` is how many the ports have received ever.
	 */
	serve(set: Int32Array, from: number, frames: number): void {
		const polled = this.#polled;
		if (polled === null || (polled.length === 0 && set[from * 3 + 2] === 0)) return;
		const began = native.nanoseconds();
		const now = native.now();
		let worked = false;
		let most = PACE;
		for (let n = 0; n < polled.length; n++) {
			const c = polled[(n + this.#turn) % polled.length];
			const events = set[(from + 1 + ((n + this.#turn) % polled.length)) * 3 + 2];
			if (events === 0 && (c.sent < c.length || !wants(c))) continue;
			worked = true;
			if (c.stream !== null) most = PACE_STREAM;
			this.#service(c, events, now);
			if (native.nanoseconds() - began > TURN_MS * 1e6) {
				this.#turn = (n + this.#turn + 1) % polled.length;
				break;
			}
		}
		if (worked) this.#clients = this.#clients.filter((c) => c.fd >= 0);
		if (set[from * 3 + 2] !== 0) {
			worked = true;
			this.#accept(now);
		}
		if (!worked) return;
		const rate = ((frames - this.#frames) * 1000) / Math.max(1, now - this.#framesAt);
		this.#frames = frames;
		this.#framesAt = now;
		this.#notBefore = now + ((native.nanoseconds() - began) / 1e6) * Math.min(most, rate / FRAMES_PER_PACE);
	}

	#accept(now: number): void {
		for (let n = 0; n < ACCEPTS; n++) {
			let fd: native.Fd;
			try {
				fd = native.accept(this.#listener);
			} catch (error) {
				this.#deafUntil = now + DEAF_MS;
				this.#log.rateLimited("warning", "control accept", `control: ${(error as Error).message}`, now);
				return;
			}
			if (fd < 0) return;
			this.#admit(fd, now);
		}
	}

	#admit(fd: native.Fd, now: number): void {
		if (this.#clients.length === CLIENTS_MAX) {
			// One that watches says nothing by nature: those go last.
			const others = this.#clients.filter((c) => c.stream === null);
			const idle = (others.length > 0 ? others : this.#clients).reduce((a, b) => (b.lastUsed < a.lastUsed ? b : a));
			this.#cutOff(idle, `more than ${CLIENTS_MAX} clients`);
			this.#clients = this.#clients.filter((c) => c !== idle);
		}
		this.#clients.push({
			fd,
			input: new ArrayBuffer(LINE_MAX),
			received: 0,
			output: new ArrayBuffer(0),
			length: 0,
			sent: 0,
			job: null,
			ready: null,
			stream: null,
			eof: false,
			more: false,
			lastUsed: now,
			partialSince: 0,
			blockedSince: 0,
		});
	}

	/** Cuts off who has been waited for too long. Called about once a second. */
	tick(now: number): void {
		if (this.#clients.length === 0) return;
		for (const c of this.#clients) {
			if (c.sent < c.length && now - c.blockedSince > PATIENCE) this.#cutOff(c, `does not read for ${PATIENCE / 1000} s`);
			else if (c.partialSince > 0 && now - c.partialSince > PATIENCE)
				this.#cutOff(c, `half a line and then nothing for ${PATIENCE / 1000} s`);
		}
		this.#clients = this.#clients.filter((c) => c.fd >= 0);
	}

	/** One slice of work for a client. */
	#service(c: Client, events: number, now: number): void {
		try {
			if (c.sent < c.length) {
				this.#send(c, now);
				return;
			}
			if (events !== 0 && !c.eof && c.job === null) this.#receive(c, now);
			else if (events & (native.POLLHUP | native.POLLERR)) return this.#drop(c);
			if (c.fd < 0 || c.sent < c.length) return;
			if (c.job !== null) this.#step(c, c.job, now);
			else if (c.stream !== null) this.#stream(c, c.stream, now);
			if (c.fd >= 0 && c.job === null && c.stream === null && c.sent === c.length) this.#next(c, now);
			if (c.fd >= 0 && c.eof && c.job === null && c.sent === c.length) this.#drop(c);
		} catch (error) {
			// The client has gone (EPIPE, ECONNRESET); anything else is a fault of ours and says so.
			if ((error as Partial<native.NativeError>).code === undefined) this.#log.error(`control: ${(error as Error).message}`);
			this.#drop(c);
		}
	}

	#receive(c: Client, now: number): void {
		const n = native.read(c.fd, c.input, c.received, LINE_MAX - c.received);
		if (n < 0) return;
		if (n === 0) {
			c.eof = true;
			return;
		}
		c.received += n;
		c.lastUsed = now;
	}

	/** Begins the answer to the next request, if a whole one is there. */
	#next(c: Client, now: number): void {
		const bytes = new Uint8Array(c.input, 0, c.received);
		const end = bytes.indexOf(10);
		if (end < 0) {
			if (c.received === 0) c.partialSince = 0;
			else if (c.partialSince === 0) c.partialSince = now;
			if (c.received === LINE_MAX) this.#cutOff(c, `the request is longer than ${LINE_MAX} bytes`);
			return;
		}
		const line = native.decode(c.input, 0, end);
		bytes.copyWithin(0, end + 1);
		c.received -= end + 1;
		c.more = bytes.subarray(0, c.received).includes(10);
		c.partialSince = 0;
		let found: Answer;
		try {
			found = this.#answers.to(parse(line));
		} catch (error) {
			this.#reply(c, { v: PROTOCOL_VERSION, error: (error as Error).message }, now);
			return;
		}
		if ("job" in found) {
			c.job = found.job;
			c.ready = found.ready ?? null;
			this.#step(c, found.job, now);
		} else if ("stream" in found) {
			c.stream = found.stream;
			this.#stream(c, found.stream, now);
		} else this.#reply(c, { v: PROTOCOL_VERSION, data: found.data }, now);
	}

	#step(c: Client, job: NonNullable<Client["job"]>, now: number): void {
		let step: IteratorResult<unknown[] | undefined, unknown>;
		try {
			step = job.next();
		} catch (error) {
			c.job = null;
			this.#reply(c, { v: PROTOCOL_VERSION, error: (error as Error).message }, now);
			return;
		}
		if (step.done) {
			c.job = null;
			this.#reply(c, { v: PROTOCOL_VERSION, data: step.value }, now);
		} else if (step.value !== undefined) this.#reply(c, { v: PROTOCOL_VERSION, rows: step.value }, now);
	}

	#stream(c: Client, stream: Stream, now: number): void {
		const rows = stream.take();
		if (stream.ended) {
			stream.close();
			c.stream = null;
			c.job = rest(rows);
			c.ready = null;
			return this.#step(c, c.job, now);
		}
		if (rows.length > 0) this.#reply(c, { v: PROTOCOL_VERSION, rows }, now);
	}

	#reply(c: Client, reply: Reply, now: number): void {
		const text = `${JSON.stringify(reply)}\n`;
		// UTF-8 takes at most three bytes a UTF-16 unit.
		if (c.output.byteLength < text.length * 3) c.output = new ArrayBuffer(Math.max(CHUNK, text.length * 3));
		c.length = native.encode(text, c.output, 0);
		c.sent = 0;
		c.blockedSince = now;
		this.#send(c, now);
	}

	#send(c: Client, now: number): void {
		const n = native.write(c.fd, c.output, c.sent, c.length - c.sent);
		if (n <= 0) return;
		c.sent += n;
		c.blockedSince = now;
		if (c.sent < c.length) return;
		c.length = 0;
		c.sent = 0;
	}

	/** Ends a client that misbehaves, and says why. */
	#cutOff(c: Client, why: string): void {
		this.#log.rateLimited("notice", `control ${why}`, `control: a client was cut off: ${why}`, native.now());
		try {
			// Only between two lines; and only what fits its socket at once.
			if (c.sent === c.length) this.#reply(c, { v: PROTOCOL_VERSION, error: `cut off: ${why}` }, 0);
		} catch {
			// It has gone by itself.
		}
		this.#drop(c);
	}

	#drop(c: Client): void {
		c.stream?.close();
		c.stream = null;
		c.job = null;
		native.close(c.fd);
		c.fd = -1;
	}

	/** Closes everything and removes the socket. */
	close(): void {
		for (const c of this.#clients) this.#drop(c);
		this.#clients = [];
		native.close(this.#listener);
		native.unlink(this.#path);
	}
}

/** Whether there is something to do for a client that has got all that was written to it. */
function wants(c: Client): boolean {
	if (c.job !== null) return c.ready === null || c.ready();
	return c.more || c.stream?.pending === true;
}

/** The end of a stream: its last rows, and the line that says that it is the end. */
function* rest(rows: unknown[]): Generator<unknown[], object> {
	if (rows.length > 0) yield rows;
	return {};
}

/** A request line as an object. Throws Error in words. */
function parse(line: string): Request {
	let request: Request;
	try {
		request = JSON.parse(line) as Request;
	} catch {
		throw new Error("the request is not JSON");
	}
	if (typeof request !== "object" || request === null || request.v !== PROTOCOL_VERSION) {
		throw new Error(`this masqd speaks protocol version ${PROTOCOL_VERSION}`);
	}
	return request;
}
