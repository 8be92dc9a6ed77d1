/**
 * The command line's end of the control socket.
 */
import * as native from "masq:native";
import { PROTOCOL_VERSION, type Reply, type Request } from "../control/protocol.ts";
import { CommandError } from "./command-line.ts";

/** Something went wrong between client and daemon; the message is for the operator. */
export class ControlError extends CommandError {}

const CHUNK = 65536;

/** A request without its version. */
export type Asked = Request extends infer R ? (R extends unknown ? Omit<R, "v"> : never) : never;

/** A connection to the daemon. */
export class ControlClient {
	readonly #fd: native.Fd;
	readonly #waiting: () => void;
	#buffer = new ArrayBuffer(CHUNK);
	#length = 0;

	/**
	 * Connects; throws {@link ControlError} if no daemon listens at `path`. `waiting` is called before every wait for
	 * the daemon.
	 */
	constructor(path: string, waiting: () => void) {
		this.#waiting = waiting;
		try {
			this.#fd = native.unixConnect(path);
		} catch (error) {
			const { code } = error as native.NativeError;
			if (code === "ENOENT" || code === "ECONNREFUSED") throw new ControlError(`masqd is not running (no answer at ${path})`);
			throw new ControlError(`cannot reach masqd: ${(error as Error).message}`);
		}
	}

	/**
	 * Sends a request, calls `row` for each row of the answer and returns its data. An answer without end ends when
	 * masqd does.
	 */
	request<Data = unknown, Row = unknown>(request: Asked, row: (row: Row) => void = () => {}): Data {
		const text = `${JSON.stringify({ v: PROTOCOL_VERSION, ...request })}\n`;
		const bytes = new ArrayBuffer(text.length * 3);
		const length = native.encode(text, bytes, 0);
		for (let sent = 0; sent < length; ) sent += Math.max(0, native.write(this.#fd, bytes, sent, length - sent));
		for (;;) {
			const reply = JSON.parse(this.#line()) as Reply;
			if ("error" in reply) throw new ControlError(reply.error);
			if ("data" in reply) return reply.data as Data;
			for (const one of reply.rows) row(one as Row);
		}
	}

	#line(): string {
		for (;;) {
			const end = new Uint8Array(this.#buffer, 0, this.#length).indexOf(10);
			if (end >= 0) {
				const line = native.decode(this.#buffer, 0, end);
				new Uint8Array(this.#buffer).copyWithin(0, end + 1, this.#length);
				this.#length -= end + 1;
				return line;
			}
			if (this.#length === this.#buffer.byteLength) {
				const larger = new ArrayBuffer(this.#length * 2);
				new Uint8Array(larger).set(new Uint8Array(this.#buffer));
				this.#buffer = larger;
			}
			this.#waiting();
			const n = native.read(this.#fd, this.#buffer, this.#length, this.#buffer.byteLength - this.#length);
			if (n <= 0) throw new ControlError("masqd closed the connection");
			this.#length += n;
		}
	}
}
