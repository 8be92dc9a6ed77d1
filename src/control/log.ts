/**
 * The daemon's log: one line an event, to stderr or syslog. What repeats is said once and then counted: a minute later one line says how many more there were.
 * Nothing is logged a packet.
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
	readonly #write: (priority: number, line: string) => void;
	readonly #least: number;
	readonly #repeated = new Map<string, Repeated>();

	/** `write` gets a syslog priority and a line without end; lines below `least` are left out. */
	constructor(write: (priority: number, line: string) => void, least: Level = "info") {
		this.#write = write;
		this.#least = LEVELS[least];
	}

	/** Writes a line. */
	say(level: Level, text: string): void {
		if (LEVELS[level] > this.#least) return;
		this.#write(LEVELS[level], level === "warning" || level === "error" ? `${level}: ${text}` : text);
	}

	/** Writes a line of a `kind` that may come often; `now` in milliseconds, `times` is how many events it stands for. */
	often(level: Level, kind: string, text: string, now: number, times = 1): void {
		const known = this.#repeated.get(kind);
		if (known === undefined || (now >= known.until && known.count === 0)) {
			this.say(level, withMore(text, times - 1));
			this.#repeated.set(kind, { level, text, count: 0, until: now + QUIET * 1000 });
		} else {
			known.count += times;
			known.text = text;
		}
	}

	/** Says how often lines repeated whose minute is over. */
	tick(now: number): void {
		for (const [kind, r] of this.#repeated) {
			if (now < r.until) continue;
			this.#repeated.delete(kind);
			if (r.count === 0) continue;
			this.say(r.level, withMore(r.text, r.count));
			this.#repeated.set(kind, { ...r, count: 0, until: now + QUIET * 1000 });
		}
	}
}

/** A line that stands for itself and `more` like it. */
function withMore(text: string, more: number): string {
	return more === 0 ? text : `${text} (${more} more)`;
}
