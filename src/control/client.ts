/**
 * The command line's end of the control socket.
 */
import * as native from "masq:native";
import { FLOWS_PAGE, type Flow, type FlowsReply, PROTOCOL_VERSION, type Reply, type StatusReply } from "./protocol.ts";

/** Something went wrong between client and daemon; the message is for the operator. */
export class ControlError extends Error {}

const CHUNK = 65536;

/** A connection to the daemon. */
export class ControlClient {
	readonly #fd: native.Fd;
	#buffer = new ArrayBuffer(CHUNK);
	#length = 0;

	/** Connects; throws {@link ControlError} if no daemon listens at `path`. */
	constructor(path: string) {
		try {
			this.#fd = native.unixConnect(path);
		} catch (error) {
			const { code } = error as native.NativeError;
			if (code === "ENOENT" || code === "ECONNREFUSED") throw new ControlError(`masqd is not running (no answer at ${path})`);
			throw new ControlError(`can not reach masqd: ${(error as Error).message}`);
		}
	}

	/** Sends one request and returns the reply's data. */
	request(request: Record<string, unknown>): unknown {
		const text = `${JSON.stringify({ v: PROTOCOL_VERSION, ...request })}\n`;
		const bytes = new ArrayBuffer(text.length * 3);
		const length = native.encode(text, bytes, 0);
		for (let sent = 0; sent < length; ) sent += Math.max(0, native.write(this.#fd, bytes, sent, length - sent));
		const reply = JSON.parse(this.#line()) as Reply;
		if ("error" in reply) throw new ControlError(reply.error);
		return reply.data;
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
			const n = native.read(this.#fd, this.#buffer, this.#length, this.#buffer.byteLength - this.#length);
			if (n <= 0) throw new ControlError("masqd closed the connection");
			this.#length += n;
		}
	}

	status(): StatusReply {
		return this.request({ command: "status" }) as StatusReply;
	}

	/** Sessions page by page, at most `most`; calls `row` for each. Returns the number of sessions in the table. */
	flows(most: number, row: (f: Flow) => void): number {
		let left = most;
		let total = 0;
		for (let after = 0; left > 0; ) {
			const page = this.request({ command: "flows", after, limit: Math.min(left, FLOWS_PAGE) }) as FlowsReply;
			total = page.total;
			for (const f of page.flows) row(f);
			left -= page.flows.length;
			after = page.next;
			if (after === 0) break;
		}
		return total;
	}
}
