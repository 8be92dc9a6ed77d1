/**
 * UCI text, read the way OpenWrt's libuci reads /etc/config files.
 *
 *     config redirect 'ssh'
 *             option src_dport '2222'
 *             list proto 'tcp'        # a comment
 *
 * A line holds commands apart by `;`: `package NAME`, `config TYPE [NAME]`, `option NAME VALUE`, `list NAME VALUE`,
 * or the first letter of each. A word ends at white space; its parts may be bare, in single quotes (everything
 * literal) or in double quotes (backslash takes the next character as it is), and parts without white space between
 * them are one word. `#` outside quotes starts a comment even inside a word. A backslash at the end of a line, bare
 * or in double quotes, goes on with the next one. Naming a section again adds to the section of that name.
 *
 * A quoted part may go on over lines, as LuCI writes what was typed into a field of several.
 *
 * Stricter than libuci in three things that no value of ours needs: a quote must close before a line that begins like
 * a command, so that one forgotten quote is one error and not the whole file; control characters are refused; and an
 * option must have a value (an empty one, `''`, unsets the option as in libuci).
 *
 * Nothing here throws on bad input: each mistake becomes a {@link ConfigError} and reading goes on with the next line.
 * What the options mean is plan.ts.
 */

/** One mistake, or one warning, and the place it is at. */
export interface ConfigError {
	file: string;
	/** Counted from 1. A mistake of the whole file, such as a missing section, has the file's last line. */
	line: number;
	/** The section's name, `@type[n]` for an anonymous one, "" outside sections. */
	section: string;
	/** "" when the mistake is not about one option. */
	option: string;
	message: string;
}

/**
 * Errors or warnings, one a line: `FILE:LINE: section 'x' option 'y': message`.
 *
 * @returns each line ended by a line feed; "" for none.
 */
export function formatErrors(list: readonly ConfigError[]): string {
	let text = "";
	for (const { file, line, section, option, message } of list) {
		const names = [section === "" ? "" : `section '${section}'`, option === "" ? "" : `option '${option}'`].filter((name) => name !== "");
		text += `${file}:${line}: ${names.length === 0 ? "" : `${names.join(" ")}: `}${message}\n`;
	}
	return text;
}

/** One `option` or `list` command, as written: repetitions are for the reader of the section to judge. */
export interface UciStatement {
	kind: "option" | "list";
	name: string;
	value: string;
	line: number;
}

export interface UciSection {
	type: string;
	/** Null for an anonymous section. */
	name: string | null;
	/** The name, or `@type[n]` with n counted among all sections of the type, as `uci show` prints it. */
	label: string;
	line: number;
	statements: UciStatement[];
	/** Whether a line of it could not be read, so that what seems missing may only be misspelt. */
	damaged: boolean;
}

export interface UciFile {
	file: string;
	/** `package` commands; libuci ignores them when it loads a single file. */
	packages: { name: string; line: number }[];
	sections: UciSection[];
	/** Number of the last line, at least 1. */
	lastLine: number;
	errors: ConfigError[];
}

/** What a file may hold at most; beyond that it is not a configuration of ours. */
export const UCI_LIMITS = {
	/** UTF-16 units. */
	text: 1 << 20,
	line: 1024,
	sections: 1024,
	/** `option` and `list` commands in the file. */
	statements: 16384,
	/** After so many errors reading stops. */
	errors: 200,
} as const;

const COMMANDS: Readonly<Record<string, "package" | "config" | "option" | "list">> = {
	package: "package",
	p: "package",
	config: "config",
	c: "config",
	option: "option",
	o: "option",
	list: "list",
	l: "list",
};

const NAME = /^[A-Za-z0-9_]+$/;
const PACKAGE_NAME = /^[A-Za-z0-9_-]+$/;
const SECTION_TYPE = /^[\x21-\x7e]+$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: finding them is the purpose
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f]/;
/** How a line begins that is no more of a quoted value. */
const NEXT_COMMAND = /^[ \t]*(?:package|config|option|list)(?:[ \t]|$)/;
const BYTE_ORDER_MARK = /^(?:\ufeff|\u00ef\u00bb\u00bf)/;

/** A value as error messages show it: quoted, printable ASCII, cut at 40 characters. */
export function quoteValue(text: string): string {
	const cut = text.length > 40 ? `${text.slice(0, 37)}...` : text;
	return `'${cut.replace(/[^\x20-\x7e]/g, "?")}'`;
}

/**
 * Reads a UCI file.
 *
 * @param text - the file's whole text.
 * @param file - its name, for the errors.
 * @returns every section that could be read, and every error in the order of lines. Never throws.
 */
export function parseUci(text: string, file: string): UciFile {
	if (text.length > UCI_LIMITS.text) {
		const message = `the file is too large, expected at most ${UCI_LIMITS.text} characters`;
		return { file, packages: [], sections: [], lastLine: 1, errors: [{ file, line: 1, section: "", option: "", message }] };
	}
	return new Parser(text, file).parse();
}

/** Thrown inside this file only, to leave the rest of a line. */
class Syntax {
	readonly message: string;
	/** Index of the line, when it is not the one the command starts in. */
	readonly row: number | null;
	constructor(message: string, row: number | null = null) {
		this.message = message;
		this.row = row;
	}
}

class Parser {
	readonly #lines: string[];
	readonly #result: UciFile;
	/** Index of the current line and the position in it. */
	#row = 0;
	#column = 0;
	/** Index of the line in which the current command starts. */
	#start = 0;
	#section: UciSection | null = null;
	/** After a `config` that could not be read: its options belong to no section. */
	#discarding = false;
	#option = "";
	#statements = 0;
	readonly #sectionsOfType = new Map<string, number>();
	readonly #named = new Map<string, UciSection>();

	constructor(text: string, file: string) {
		this.#lines = text.split("\n").map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
		if (this.#lines.length > 1 && this.#lines.at(-1) === "") this.#lines.pop();
		this.#result = { file, packages: [], sections: [], lastLine: this.#lines.length, errors: [] };
	}

	parse(): UciFile {
		const lines = this.#lines;
		const mark = BYTE_ORDER_MARK.exec(lines[0]!);
		if (mark !== null) {
			this.#fail(0, "the file starts with a byte order mark, expected plain text");
			lines[0] = lines[0]!.slice(mark[0].length);
		}
		while (this.#row < lines.length && this.#result.errors.length < UCI_LIMITS.errors) {
			const start = this.#row;
			this.#start = start;
			this.#column = 0;
			this.#option = "";
			try {
				this.#checkLine();
				this.#readLine();
			} catch (problem) {
				if (!(problem instanceof Syntax)) throw problem;
				this.#fail(problem.row ?? start, problem.message);
				if (problem.message === TOO_MUCH) break;
			}
			this.#row++;
		}
		return this.#result;
	}

	#fail(row: number, message: string): void {
		const { file, errors } = this.#result;
		if (this.#section !== null) this.#section.damaged = true;
		errors.push({ file, line: row + 1, section: this.#section?.label ?? "", option: this.#option, message });
	}

	#checkLine(): void {
		const line = this.#lines[this.#row]!;
		if (line.length > UCI_LIMITS.line) {
			throw new Syntax(`the line is too long, expected at most ${UCI_LIMITS.line} characters`, this.#row);
		}
		const control = CONTROL.exec(line);
		if (control !== null) {
			const code = control[0].charCodeAt(0).toString(16).padStart(2, "0");
			throw new Syntax(`control character 0x${code} in column ${control.index + 1}, expected text`, this.#row);
		}
	}

	#readLine(): void {
		for (;;) {
			this.#skipSpace();
			const line = this.#lines[this.#row]!;
			if (this.#column >= line.length || line[this.#column] === "#") return;
			const row = this.#row;
			const word = /^[^ \t]*/.exec(line.slice(this.#column))![0];
			this.#column += word.length;
			const command = Object.hasOwn(COMMANDS, word) ? COMMANDS[word] : undefined;
			if (command === undefined) {
				// What follows an unreadable section header is not the section before it.
				if (/^con/i.test(word)) this.#leaveSection();
				throw new Syntax(`unknown command ${quoteValue(word)}, expected config, option or list`);
			}
			if (command === "config") this.#leaveSection();
			const words = this.#readWords();
			this.#run(command, words, row);
			if (this.#lines[this.#row]![this.#column] !== ";") return;
			this.#column++;
			this.#option = "";
		}
	}

	#leaveSection(): void {
		this.#section = null;
		this.#discarding = true;
	}

	#skipSpace(): void {
		const line = this.#lines[this.#row]!;
		while (line[this.#column] === " " || line[this.#column] === "\t") this.#column++;
	}

	/** The words up to the end of the line or the next `;`. */
	#readWords(): string[] {
		const words: string[] = [];
		for (;;) {
			this.#skipSpace();
			const word = this.#readWord();
			if (word === null) return words;
			words.push(word);
		}
	}

	/** One word, its quotes and escapes resolved; null when the command ends here. */
	#readWord(): string | null {
		let word: string | null = null;
		for (;;) {
			const line = this.#lines[this.#row]!;
			const character = line[this.#column];
			switch (character) {
				case undefined:
				case " ":
				case "\t":
				case ";":
					return word;
				case "#":
					this.#column = line.length;
					return word;
				case "'":
					this.#column++;
					word = (word ?? "") + this.#readSingleQuoted();
					break;
				case '"':
					this.#column++;
					word = (word ?? "") + this.#readDoubleQuoted();
					break;
				case "\\":
					word = (word ?? "") + this.#readEscape();
					break;
				default:
					word = (word ?? "") + character;
					this.#column++;
			}
		}
	}

	#readSingleQuoted(): string {
		let part = "";
		for (;;) {
			const line = this.#lines[this.#row]!;
			const end = line.indexOf("'", this.#column);
			if (end >= 0) {
				part += line.slice(this.#column, end);
				this.#column = end + 1;
				return part;
			}
			part += `${line.slice(this.#column)}\n`;
			this.#nextQuotedLine("'");
		}
	}

	/** Goes on with a quoted value in the next line. */
	#nextQuotedLine(quote: string): void {
		const next = this.#lines[this.#row + 1];
		if (next === undefined || NEXT_COMMAND.test(next)) {
			// What follows is read as if the quote had not been.
			this.#row = this.#start;
			throw new Syntax(`a quote is not closed, expected ${quote} before the end of the line`);
		}
		this.#row++;
		this.#column = 0;
		this.#checkLine();
	}

	#readDoubleQuoted(): string {
		let part = "";
		for (;;) {
			const character = this.#lines[this.#row]![this.#column];
			switch (character) {
				case undefined:
					part += "\n";
					this.#nextQuotedLine('"');
					break;
				case '"':
					this.#column++;
					return part;
				case "\\":
					part += this.#readEscape();
					break;
				default:
					part += character;
					this.#column++;
			}
		}
	}

	/** The character after a backslash, or nothing and the next line when the line ends there. */
	#readEscape(): string {
		const character = this.#lines[this.#row]![this.#column + 1];
		if (character !== undefined) {
			this.#column += 2;
			return character;
		}
		if (this.#row + 1 >= this.#lines.length) throw new Syntax("a backslash ends the file, expected another line");
		this.#row++;
		this.#column = 0;
		this.#checkLine();
		return "";
	}

	#run(command: "package" | "config" | "option" | "list", words: string[], row: number): void {
		switch (command) {
			case "package":
				this.#package(words, row);
				break;
			case "config":
				this.#config(words, row);
				break;
			default:
				this.#statement(command, words, row);
		}
	}

	#package(words: string[], row: number): void {
		const name = words[0] ?? "";
		if (words.length > 1) throw new Syntax("too many words, expected: package NAME");
		if (!PACKAGE_NAME.test(name)) throw new Syntax(`${quoteValue(name)} is not a package name, expected letters, digits, _ and -`);
		this.#result.packages.push({ name, line: row + 1 });
	}

	#config(words: string[], row: number): void {
		const type = words[0] ?? "";
		const name = words[1] ?? "";
		if (type === "") throw new Syntax("a section without a type, expected: config TYPE [NAME]");
		if (!SECTION_TYPE.test(type)) throw new Syntax(`${quoteValue(type)} is not a section type, expected printable characters`);
		if (this.#result.sections.length >= UCI_LIMITS.sections) throw new Syntax(TOO_MUCH);
		this.#discarding = false;
		const validName = name !== "" && NAME.test(name);
		const same = validName ? this.#named.get(name) : undefined;
		if (same !== undefined && same.type === type) {
			this.#section = same;
		} else {
			const index = this.#sectionsOfType.get(type) ?? 0;
			this.#sectionsOfType.set(type, index + 1);
			const label = validName ? name : `@${type}[${index}]`;
			this.#section = { type, name: validName ? name : null, label, line: row + 1, statements: [], damaged: false };
			this.#result.sections.push(this.#section);
			if (same !== undefined) {
				throw new Syntax(`the name is taken by the section of type '${same.type}' in line ${same.line}, expected another name`);
			}
			if (validName) this.#named.set(name, this.#section);
		}
		if (name !== "" && !validName) {
			throw new Syntax(`${quoteValue(name)} is not a section name, expected letters, digits and _`);
		}
		if (words.length > 2) throw new Syntax("too many words, expected: config TYPE [NAME]");
	}

	#statement(kind: "option" | "list", words: string[], row: number): void {
		const form = `expected: ${kind} NAME VALUE`;
		const name = words[0] ?? "";
		if (name === "") throw new Syntax(`${kind} without a name, ${form}`);
		if (!NAME.test(name)) throw new Syntax(`${quoteValue(name)} is not an option name, expected letters, digits and _`);
		this.#option = name;
		if (words.length < 2) throw new Syntax(`no value, ${form}`);
		if (words.length > 2) throw new Syntax(`too many words, ${form} (quote a value with spaces)`);
		if (this.#discarding) return;
		if (this.#section === null) throw new Syntax(`${kind} before the first section, expected: config TYPE [NAME]`);
		if (++this.#statements > UCI_LIMITS.statements) throw new Syntax(TOO_MUCH);
		this.#section.statements.push({ kind, name, value: words[1]!, line: row + 1 });
	}
}

const TOO_MUCH = `the file holds too much, expected at most ${UCI_LIMITS.sections} sections and ${UCI_LIMITS.statements} options`;
