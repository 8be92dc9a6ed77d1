/**
 * The daemon's log: one line an event, to stderr or syslog. What repeats is said once and then counted: a minute later
 * one line says how many more there were. Nothing is logged per packet. A line that whoever reads the log does not take
 * at once is lost and counted.
 */

/** Levels with syslog's numbers. */
export const LEVELS = { error: 3, warning: 4, notice: 5, info: 6, debug: 7 } as const;
export type Level = keyof typeof LEVELS;

/** Seconds in which lines of one kind are counted instead of written. */
const QUIET = 60;

interface Repeated {
	level: Level;
	text: string;
	count: number;
	/** Millisecond at which it may be said again. */
	until: number;
}

/** Writes lines of at least one level. */
export class Log {
	/** Lines that were lost, ever. */
	lost = 0;
	/** How many of them nobody has been told of. */
	#untold = 0;
	readonly #write: (priority: number, line: string) => unknown;
	readonly #least: number;
	readonly #repeated = new Map<string, Repeated>();

	/**
	 * `write` gets a syslog priority and a line without end, and returns false if it is lost; lines below `least` are
	 * left out.
	 */
	constructor(write: (priority: number, line: string) => unknown, least: Level = "info") {
		this.#write = write;
		this.#least = LEVELS[least];
	}

	error(text: string): void {
		this.#line("error", text);
	}

	warning(text: string): void {
		this.#line("warning", text);
	}

	notice(text: string): void {
		this.#line("notice", text);
	}

	info(text: string): void {
		this.#line("info", text);
	}

	#line(level: Level, text: string): void {
		if (LEVELS[level] > this.#least) return;
		if (this.#untold > 0 && this.#write(LEVELS.warning, `warning: ${this.#untold} lines of the log were lost: nobody read them`) !== false)
			this.#untold = 0;
		if (this.#write(LEVELS[level], level === "warning" || level === "error" ? `${level}: ${text}` : text) !== false) return;
		this.lost++;
		this.#untold++;
	}

	/**
	 * Writes a line of a `kind` that may come often; `now` in milliseconds, `times` is how many events it stands for.
	 */
	rateLimited(level: Level, kind: string, text: string, now: number, times = 1): void {
		const known = this.#repeated.get(kind);
		if (known === undefined || (now >= known.until && known.count === 0)) {
			this.#line(level, withMore(text, times - 1));
			this.#repeated.set(kind, { level, text, count: 0, until: now + QUIET * 1000 });
		} else {
			known.count += times;
			known.text = text;
		}
	}

	/** Millisecond at which {@link tick} has something to say; Infinity if it has not. */
	get dueAt(): number {
		let due = Number.POSITIVE_INFINITY;
		for (const r of this.#repeated.values()) if (r.count > 0) due = Math.min(due, r.until);
		return due;
	}

	/** Says how often lines repeated whose minute is over. */
	tick(now: number): void {
		for (const [kind, r] of this.#repeated) {
			if (now < r.until) continue;
			this.#repeated.delete(kind);
			if (r.count === 0) continue;
			this.#line(r.level, withMore(r.text, r.count));
			this.#repeated.set(kind, { ...r, count: 0, until: now + QUIET * 1000 });
		}
	}
}

/** A line that stands for itself and `more` like it. */
function withMore(text: string, more: number): string {
	return more === 0 ? text : `${text} (${more} more)`;
}
