/**
 * Kernel settings that masqd changes while it runs. Their original values stand in a file beside the state, so that a
 * process that was killed takes none of them with it: its successor knows what was there before and puts that back in
 * the end.
 */

type FileIo = Pick<typeof import("masq:native"), "readFile" | "writeFile" | "rename" | "unlink">;
type SettingsIo = FileIo & Pick<typeof import("masq:native"), "setFeature">;

const SYSCTL = "/proc/sys/";
/** A device's feature that masqd switches off; it is remembered as this, a space and the device. */
export const GRO_LIST = "rx-gro-list";

/** Reads and writes files as `masq:native` does, with a memory for settings under /proc/sys. */
export class SavedSysctls {
	readonly #io: SettingsIo;
	readonly #path: string;
	readonly #passing: string;
	readonly #originals: Map<string, string>;

	/**
	 * @param path the file that remembers
	 * @param passing settings with this in their path go with their device and are not remembered
	 */
	constructor(io: SettingsIo, path: string, passing: string) {
		this.#io = io;
		this.#path = path;
		this.#passing = passing;
		this.#originals = readOriginals(io, path);
	}

	/** As `readFile`; of a setting that was changed, the original value. */
	readFile = (path: string): string => this.#originals.get(path) ?? this.#io.readFile(path);

	/** As `writeFile`; a setting's value is remembered before its first change, and forgotten when it is back. */
	writeFile = (path: string, text: string, mode: number): void => {
		if (path.startsWith(SYSCTL) && !path.includes(this.#passing)) {
			const original = this.#originals.get(path);
			if (original === undefined) this.remember(path, this.#io.readFile(path).trim());
			this.#io.writeFile(path, text, mode);
			if (original === text.trim()) this.forget(path);
		} else this.#io.writeFile(path, text, mode);
	};

	/** Remembers the original value of a setting of any kind by its name. */
	remember(name: string, value: string): void {
		if (this.#originals.has(name)) return;
		this.#originals.set(name, value);
		this.#save();
	}

	/** The original value of a setting that was changed and is not back, by a predecessor too. */
	original(name: string): string | undefined {
		return this.#originals.get(name);
	}

	/** The setting has its original value again. */
	forget(name: string): void {
		if (this.#originals.delete(name)) this.#save();
	}

	/**
	 * Puts everything back that nobody has put back yet: what only a predecessor had changed. Values that cannot be
	 * written are dropped: the device has gone. Returns what was put back, or why not (`problem`, else "").
	 */
	restore(): { name: string; value: string; problem: string }[] {
		const restored: { name: string; value: string; problem: string }[] = [];
		for (const [name, value] of [...this.#originals]) {
			let problem = "";
			try {
				if (name.startsWith(SYSCTL)) this.#io.writeFile(name, `${value}\n`, 0o644);
				else if (name.startsWith(`${GRO_LIST} `)) this.#io.setFeature(name.slice(GRO_LIST.length + 1), GRO_LIST, true);
			} catch (error) {
				problem = (error as Error).message;
			}
			this.forget(name);
			restored.push({ name, value, problem });
		}
		return restored;
	}

	#save(): void {
		if (this.#originals.size === 0) this.#io.unlink(this.#path);
		else {
			this.#io.writeFile(`${this.#path}.new`, `${JSON.stringify(Object.fromEntries(this.#originals))}\n`, 0o600);
			this.#io.rename(`${this.#path}.new`, this.#path);
		}
	}
}

function readOriginals(io: FileIo, path: string): Map<string, string> {
	const map = new Map<string, string>();
	try {
		const read = JSON.parse(io.readFile(path)) as Record<string, unknown>;
		for (const [name, value] of Object.entries(read)) if (typeof value === "string") map.set(name, value);
	} catch {
		// None there, or not whole.
	}
	return map;
}
