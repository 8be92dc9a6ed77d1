/**
 * The command line: a command, its options, other words. The program is several bundles (native/main.c chooses by the
 * command), and this is in all of them.
 */
import * as native from "masq:native";

/** What went wrong, in words for the operator. */
export class CommandError extends Error {}

/** A command line that cannot be meant so; the message is for the operator. */
export class UsageError extends CommandError {}

/** What stood behind the command. */
export interface Line {
	/** Values by option; "" for an option without one. */
	options: Map<string, string>;
	/** Other words. */
	words: string[];
}

/** A command: its options (true: with a value), most other words, and what it does; the result is the exit status. */
export interface Command {
	options: Record<string, boolean>;
	words?: number;
	run(line: Line): number;
}

export const SOCKET = "/var/run/masqd.sock";
export const CONFIG = "/etc/config/masqd";
export const STATE = "/var/run/masqd.state";

/** Reads options and words; throws {@link UsageError}. */
export function parseLine(words: string[], command: Command): Line {
	const line: Line = { options: new Map(), words: [] };
	const left = words.values();
	for (const word of left) {
		if (Object.hasOwn(command.options, word)) {
			const value = command.options[word] ? left.next().value : "";
			if (value === undefined) throw new UsageError(`${word} needs a value`);
			line.options.set(word, value);
		} else if (!word.startsWith("-") && line.words.length < (command.words ?? 0)) line.words.push(word);
		else throw new UsageError(`unknown argument '${word}'`);
	}
	return line;
}

/**
 * Does what the words of a command line say; the result is the exit status. What is no {@link CommandError} is thrown
 * on.
 */
export function execute(commands: Record<string, Command>, [name, ...rest]: string[]): number {
	const command = name !== undefined && Object.hasOwn(commands, name) ? commands[name] : undefined;
	try {
		if (command === undefined) throw new UsageError(name === undefined ? "a command is needed" : `unknown command '${name}'`);
		return command.run(parseLine(rest, command));
	} catch (error) {
		if (!(error instanceof CommandError)) throw error;
		const usage = error instanceof UsageError ? `; usage: masqd help${command === undefined ? "" : ` ${name}`}` : "";
		native.print(2, `masqd: ${error.message}${usage}\n`);
		return 1;
	}
}

/**
 * As {@link execute}, of a command that ends by itself: what the system refuses it, such as standard output, is an
 * error in a line.
 */
export function executeWhole(commands: Record<string, Command>, words: string[], finish: () => void = () => {}): number {
	try {
		const status = execute(commands, words);
		finish();
		return status;
	} catch (error) {
		const { code, message } = error as native.NativeError;
		if (code === undefined) throw error;
		native.print(2, `masqd: ${message}\n`);
		return 1;
	}
}
