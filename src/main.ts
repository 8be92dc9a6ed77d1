/**
 * The command line: one program that is the daemon (`run`) and its own client.
 */
import * as native from "masq:native";
import { ControlError } from "./cli/client.ts";
import { COMMANDS, type Command, flushOutput, type Line, parseLine, SOCKET, UsageError } from "./cli/commands.ts";
import { helpOn, helpText } from "./cli/help.ts";
import { describePlan } from "./config/describe.ts";
import type { Plan } from "./config/plan.ts";
import { cleanup } from "./daemon/cleanup.ts";
import { Daemon } from "./daemon/daemon.ts";
import { StartError } from "./daemon/follower.ts";
import { Lines } from "./daemon/lines.ts";
import { loadPlan } from "./daemon/load-plan.ts";
import { LEVELS, type Level, Log } from "./daemon/log.ts";
import { planTable } from "./daemon/policy.ts";
import { dumpOffload, planWarnings } from "./daemon/preview.ts";
import { largestGap } from "./port/local-ports.ts";
import { resolveDevices } from "./port/netifd.ts";
import { selftest } from "./selftest/selftest.ts";
import { VERSION } from "./version.ts";

const CONFIG = "/etc/config/masqd";
const STATE = "/var/run/masqd.state";

const out = (text: string) => native.print(1, text);
const err = (text: string) => native.print(2, text);

/** Reads and checks the configuration; null after printing its errors. */
function readPlan(path: string): Plan | null {
	const { plan, errors, warnings } = loadPlan(path);
	for (const line of [...errors, ...warnings]) err(`${line}\n`);
	return plan;
}

/** The log that the options of `run` ask for. */
function openLog({ options }: Line): Log {
	const level = options.get("--log") ?? "info";
	if (!Object.hasOwn(LEVELS, level)) throw new UsageError(`'${level}' is not a level of the log`);
	if (!options.has("--syslog")) {
		const lines = new Lines(2);
		return new Log((_, text) => lines.write(`masqd: ${text}`), level as Level);
	}
	native.syslogOpen("masqd");
	return new Log(native.syslogWrite, level as Level);
}

function run(line: Line): number {
	const paths = {
		config: line.options.get("-c") ?? CONFIG,
		socket: line.options.get("--socket") ?? SOCKET,
		state: line.options.get("--state") ?? STATE,
	};
	const log = openLog(line);
	const plan = readPlan(paths.config);
	if (plan === null) return 1;
	if (!plan.enabled) {
		log.say("error", `${paths.config} says option enabled '0': nothing to do`);
		return 1;
	}
	const { problem, leftOut } = resolveDevices(native, plan);
	if (problem !== null) {
		err(`masqd: ${problem}\n`);
		return 1;
	}
	for (const why of leftOut) log.say("warning", `${why}; the other networks do not wait for it`);
	let daemon: Daemon;
	try {
		daemon = new Daemon(plan, paths, log, { wait: line.options.has("--wait") });
		daemon.start();
	} catch (error) {
		const e = error as Partial<native.NativeError> & Error;
		if (!(e instanceof StartError) && e.code === undefined && e.name !== "RtnetlinkError" && native.getenv("MASQD_DEBUG")) throw e;
		err(`masqd: ${e.message}\n`);
		return 1;
	}
	for (const w of daemon.warnings) log.say("warning", w);
	new Lines(1).write(`masqd: ready: ${daemon.describe()}`);
	try {
		daemon.run();
	} catch (error) {
		// A fault of ours opens nothing: what keeps the LAN in stays for the successor.
		daemon.abandon();
		log.say("error", `masqd ends, guard and settings stay: ${(error as Error).message}`);
		return 1;
	}
	daemon.stop();
	return 0;
}

function check({ options }: Line): number {
	const { plan, errors, warnings } = loadPlan(options.get("-c") ?? CONFIG);
	let text = "";
	if (plan !== null) {
		// The plan is shown whole.
		const { problem, leftOut } = resolveDevices(native, { wan: plan.wan, lan: plan.lan });
		for (const why of new Set([...leftOut, ...(problem === null ? [] : [problem])])) warnings.push(`warning: ${why}`);
		for (const why of planWarnings(plan)) warnings.push(`warning: ${why}`);
		text = describePlan(plan, planTable(plan).bytes);
		// The service script reads this line to keep dnsmasq's ports out of masqd's.
		const own = largestGap(plan.ports);
		if (own !== null) text += `router's own:     ports ${own.first}-${own.last}, for connections of the router itself\n`;
	}
	if (options.has("-j")) out(`${JSON.stringify({ errors, warnings, plan: text.split("\n").slice(0, -1) })}\n`);
	else {
		for (const line of [...errors, ...warnings]) err(`${line}\n`);
		out(text);
	}
	return plan === null ? 1 : 0;
}

function help({ words }: Line): number {
	const text = words[0] === undefined ? helpText() : helpOn(words[0]);
	if (text === null) throw new UsageError(`no command '${words[0]}'`);
	out(text);
	return 0;
}

function offload({ options }: Line): number {
	if (!options.has("--dump")) throw new UsageError("offload needs --dump");
	const plan = readPlan(options.get("-c") ?? CONFIG);
	if (plan === null) return 1;
	out(dumpOffload(plan));
	return 0;
}

function cleanUp({ options }: Line): number {
	const paths = { socket: options.get("--socket") ?? SOCKET, state: options.get("--state") ?? STATE };
	return cleanup(paths, { done: (line) => out(`${line}\n`), failed: (line) => err(`masqd: ${line}\n`) }) ? 0 : 1;
}

const ALL: Record<string, Command> = {
	...COMMANDS,
	run: { run, options: { "-c": true, "--socket": true, "--state": true, "--syslog": false, "--log": true, "--wait": false } },
	check: { run: check, options: { "-c": true, "-j": false } },
	offload: { run: offload, options: { "--dump": false, "-c": true } },
	selftest: { run: ({ options }) => selftest(out, options.has("-j")), options: { "-j": false } },
	cleanup: { run: cleanUp, options: { "--socket": true, "--state": true } },
	help: { run: help, options: {}, words: 1 },
};

function main(words: string[]): number {
	const [first, ...rest] = words;
	if (first === "--version" || first === "-V") {
		out(`masqd ${VERSION}\n`);
		return 0;
	}
	const name = first === "--help" || first === "-h" ? "help" : first;
	const command = name !== undefined && Object.hasOwn(ALL, name) ? ALL[name] : undefined;
	try {
		if (command === undefined) throw new UsageError(name === undefined ? "a command is needed" : `unknown command '${name}'`);
		return command.run(parseLine(rest, command));
	} catch (error) {
		if (error instanceof UsageError) {
			err(`masqd: ${error.message}; usage: masqd help${command === undefined ? "" : ` ${name}`}\n`);
			return 1;
		}
		if (error instanceof ControlError) {
			err(`masqd: ${error.message}\n`);
			return 1;
		}
		throw error;
	}
}

/** Runs the command line; what standard output does not take is an error in a line. */
function whole(words: string[]): number {
	try {
		const status = main(words);
		flushOutput();
		return status;
	} catch (error) {
		const { code, message } = error as native.NativeError;
		// Of the daemon's own the trace is wanted.
		if (code === undefined || words[0] === "run") throw error;
		err(`masqd: ${message}\n`);
		return 1;
	}
}

native.exit(whole(native.args()));
