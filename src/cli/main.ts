/**
 * The client's bundle: every command that asks a running daemon, and help. Started for each command anew, so it holds
 * nothing else.
 */
import * as native from "masq:native";
import { VERSION } from "../version.ts";
import { type Command, executeWhole, type Line, UsageError } from "./command-line.ts";
import { COMMANDS, flushOutput } from "./commands.ts";
import { helpOn, helpText } from "./help.ts";

function help({ words }: Line): number {
	const text = words[0] === undefined ? helpText() : helpOn(words[0]);
	if (text === null) throw new UsageError(`no command '${words[0]}'`);
	native.print(1, text);
	return 0;
}

function version(): number {
	native.print(1, `masqd ${VERSION}\n`);
	return 0;
}

/** As after `--version`, whatever else stands there is not looked at. */
function main([first, ...rest]: string[]): number {
	if (first === "--version" || first === "-V") return executeWhole({ [first]: { run: version, options: {} } }, [first]);
	const asked: Record<string, Command> = { ...COMMANDS, help: { run: help, options: {}, words: 1 } };
	const words = first === undefined ? [] : [first === "--help" || first === "-h" ? "help" : first, ...rest];
	return executeWhole(asked, words, flushOutput);
}

native.exit(main(native.args()));
