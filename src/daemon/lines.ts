/**
 * Lines of text to a descriptor that nobody waits for: a terminal that was stopped (Ctrl-S), a full pipe or a reader
 * that has gone costs the line, which is counted, and never the time of whoever writes.
 *
 * A pipe or terminal is opened once more, without blocking: the descriptor that we were started with is shared with
 * others, who may want theirs to block. Where that cannot be done the descriptor is asked whether it takes a line.
 * Files and sockets never block (`masq:native` write).
 */
import * as native from "masq:native";

/**
 * Most characters of a line, so that its UTF-8 and the end of the line fit a page: a pipe takes that whole or not at
 * all.
 */
const LINE_MAX = 1300;
/** What a descriptor is opened anew for, as /proc/self/fd shows it. */
const MAY_BLOCK = /^pipe:|^\/dev\//;

export class Lines {
	/** Lines that were not taken. */
	lost = 0;
	readonly #fd: native.Fd;
	/** Ask before each line. */
	readonly #ask: boolean;
	readonly #buffer = new ArrayBuffer(LINE_MAX * 3 + 1);
	readonly #poll = new Int32Array(3);

	/** `fd` stays the caller's. */
	constructor(fd: native.Fd) {
		let own: native.Fd = -1;
		const path = `/proc/self/fd/${fd}`;
		try {
			if (MAY_BLOCK.test(native.readLink(path))) own = native.openWriter(path);
			this.#ask = false;
		} catch {
			this.#ask = true;
		}
		this.#fd = own < 0 ? fd : own;
	}

	/** Writes a line, whose end is added; false if it is lost. Never throws. */
	write(line: string): boolean {
		try {
			if (this.#ask) {
				this.#poll.set([this.#fd, native.POLLOUT, 0]);
				native.poll(this.#poll, 1, 0);
				if (((this.#poll[2] ?? 0) & native.POLLOUT) === 0) return this.#lose();
			}
			const length = native.encode(`${line.slice(0, LINE_MAX)}\n`, this.#buffer, 0);
			return native.write(this.#fd, this.#buffer, 0, length) === length || this.#lose();
		} catch {
			return this.#lose();
		}
	}

	#lose(): false {
		this.lost++;
		return false;
	}
}
