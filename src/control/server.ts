/**
 * The daemon's end of the control socket: a few clients, each with bounded memory, served between batches and never waited for.
 */
import * as native from "masq:native";
import type { Engine } from "../engine.ts";
import { flush } from "./flush.ts";
import { LINE_MAX, PROTOCOL_VERSION, type Reply, type Request } from "./protocol.ts";
import { flows, status } from "./report.ts";

/** When one more comes, the one that has been silent for longest is cut off. */
const CLIENTS_MAX = 8;
/** Least bytes a client's reply buffer grows by. */
const CHUNK = 65536;

interface Client {
	fd: native.Fd;
	input: ArrayBuffer;
	received: number;
	/** Reply being sent: bytes from `sent` to `length` of `output`. */
	output: ArrayBuffer;
	length: number;
	sent: number;
	/** Closed as soon as its reply is out. */
	closing: boolean;
	/** Milliseconds of its last request. */
	lastUsed: number;
}

/** Listens and answers. */
export class ControlServer {
	readonly #path: string;
	readonly #engine: Engine;
	readonly #listener: native.Fd;
	#clients: Client[] = [];

	/** Throws a native error if the socket can not be made. */
	constructor(path: string, engine: Engine) {
		this.#path = path;
		this.#engine = engine;
		this.#listener = native.unixListen(path, 0o600);
	}

	/** Adds the listener's and the clients' descriptors to the poll set. */
	pollEntries(add: (fd: native.Fd, events: number) => void): void {
		add(this.#listener, native.POLLIN);
		for (const c of this.#clients) add(c.fd, c.sent < c.length ? native.POLLOUT : native.POLLIN);
	}

	/** Serves what the poll set says, whose entries of this server begin at entry `from`. */
	serve(set: Int32Array, from: number): void {
		const before = this.#clients;
		for (let n = 0; n < before.length; n++) if (set[(from + 1 + n) * 3 + 2] !== 0) this.#serve(before[n]);
		this.#clients = before.filter((c) => c.fd >= 0);
		if (set[from * 3 + 2] === 0) return;
		const fd = native.accept(this.#listener);
		if (fd < 0) return;
		if (this.#clients.length === CLIENTS_MAX) {
			const idle = this.#clients.reduce((a, b) => (b.lastUsed < a.lastUsed ? b : a));
			this.#drop(idle);
			this.#clients = this.#clients.filter((c) => c !== idle);
		}
		const buffer = new ArrayBuffer(0);
		this.#clients.push({
			fd,
			input: new ArrayBuffer(LINE_MAX),
			received: 0,
			output: buffer,
			length: 0,
			sent: 0,
			closing: false,
			lastUsed: native.now(),
		});
	}

	#serve(c: Client): void {
		try {
			if (c.sent === c.length) this.#receive(c);
			else {
				this.#send(c);
				this.#next(c);
			}
		} catch {
			this.#drop(c);
		}
	}

	#receive(c: Client): void {
		const n = native.read(c.fd, c.input, c.received, LINE_MAX - c.received);
		if (n < 0) return;
		if (n === 0) return this.#drop(c);
		c.received += n;
		c.lastUsed = native.now();
		this.#next(c);
	}

	/** Answers the requests that are there, one after the other, until a reply does not go out at once. */
	#next(c: Client): void {
		while (c.fd >= 0 && c.sent === c.length && !c.closing) {
			const bytes = new Uint8Array(c.input, 0, c.received);
			const end = bytes.indexOf(10);
			if (end >= 0) {
				const line = native.decode(c.input, 0, end);
				bytes.copyWithin(0, end + 1);
				c.received -= end + 1;
				this.#reply(c, this.#answer(line));
			} else {
				if (c.received < LINE_MAX) return;
				c.closing = true;
				this.#reply(c, { v: PROTOCOL_VERSION, error: `the request is longer than ${LINE_MAX} bytes` });
			}
		}
	}

	#answer(line: string): Reply {
		let request: Request;
		try {
			request = JSON.parse(line) as Request;
		} catch {
			return { v: PROTOCOL_VERSION, error: "the request is not JSON" };
		}
		if (typeof request !== "object" || request === null || request.v !== PROTOCOL_VERSION) {
			return { v: PROTOCOL_VERSION, error: `this masqd speaks protocol version ${PROTOCOL_VERSION}` };
		}
		switch (request.command) {
			case "status":
				return { v: PROTOCOL_VERSION, data: status(this.#engine) };
			case "flows":
				return { v: PROTOCOL_VERSION, data: flows(this.#engine, Number(request.after) | 0, Number(request.limit) | 0) };
			case "flush":
				try {
					const work = flush(this.#engine, request);
					for (;;) {
						const step = work.next();
						if (step.done) return { v: PROTOCOL_VERSION, data: step.value };
					}
				} catch (error) {
					return { v: PROTOCOL_VERSION, error: (error as Error).message };
				}
			default:
				return { v: PROTOCOL_VERSION, error: "unknown command" };
		}
	}

	#reply(c: Client, reply: Reply): void {
		const text = `${JSON.stringify(reply)}\n`;
		// UTF-8 takes at most three bytes a UTF-16 unit.
		if (c.output.byteLength < text.length * 3) c.output = new ArrayBuffer(text.length * 3 + CHUNK);
		c.length = native.encode(text, c.output, 0);
		c.sent = 0;
		this.#send(c);
	}

	#send(c: Client): void {
		const n = native.write(c.fd, c.output, c.sent, c.length - c.sent);
		if (n < 0) return;
		c.sent += n;
		if (c.sent < c.length) return;
		c.length = 0;
		c.sent = 0;
		c.output = new ArrayBuffer(0);
		if (c.closing) this.#drop(c);
	}

	#drop(c: Client): void {
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
