/**
 * A program that runs beside the loop (nft), so that forwarding does not wait for it: started, its output watched in
 * the poll set, ended when its time is up. One that cannot be ended, because it waits inside the kernel, is looked at
 * until it is.
 */
import type { Fd } from "masq:native";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type ChildIo = Pick<typeof import("masq:native"), "start" | "ended" | "read" | "close" | "decode">;

const OUTPUT_MAX = 65536;
/** Milliseconds between two looks at one that has closed its output and is about to end. */
const LOOK_AGAIN = 5;
/** What `run` says of one whose time was up. */
const KILLED = 137;

export class Child {
	/** Its output, for the poll set; -1 once it is closed. */
	fd: Fd;
	/** Millisecond of the next look if nothing happens in the poll set. */
	dueAt: number;
	readonly #io: ChildIo;
	readonly #pid: number;
	#endsAt: number;
	readonly #output = new ArrayBuffer(OUTPUT_MAX);
	#length = 0;

	/** Starts it at `now`, to be ended `limit` milliseconds later. Throws a native error if that fails. */
	constructor(io: ChildIo, argv: string[], stdin: string, now: number, limit: number) {
		this.#io = io;
		({ pid: this.#pid, output: this.fd } = io.start(argv, stdin));
		this.#endsAt = now + limit;
		this.dueAt = this.#endsAt;
	}

	/** Looks what has become of it: its exit status and output as `run` gives them, null while it runs. */
	look(now: number): { status: number; output: string } | null {
		const late = now >= this.#endsAt;
		let status = KILLED;
		try {
			status = this.#io.ended(this.#pid, late);
		} catch {
			// Somebody else has its status: it is not running in any case.
		}
		// Looked at before the last read: what it wrote is there by then.
		this.#read();
		if (status < 0) {
			this.dueAt = late ? now + 1000 : this.fd < 0 ? now + LOOK_AGAIN : this.#endsAt;
			return null;
		}
		this.#io.close(this.fd);
		this.fd = -1;
		return { status, output: this.#io.decode(this.#output, 0, this.#length) };
	}

	/** Its time is up: {@link look} ends it. */
	end(now: number): void {
		this.#endsAt = now;
	}

	#read(): void {
		while (this.fd >= 0) {
			// What is beyond is thrown away.
			if (this.#length === OUTPUT_MAX) this.#length--;
			let got = 0;
			try {
				got = this.#io.read(this.fd, this.#output, this.#length, OUTPUT_MAX - this.#length);
			} catch {
				// As at its end.
			}
			if (got < 0) return;
			this.#length += got;
			if (got > 0) continue;
			this.#io.close(this.fd);
			this.fd = -1;
		}
	}
}
