/**
 * The command line: one program that is the daemon (`run`) and its own client.
 */
import * as native from "masq:native";
import { describePlan, formatErrors } from "./config/describe.ts";
import { makePlan, type Plan } from "./config/plan.ts";
import { ControlClient, ControlError } from "./control/client.ts";
import { FLOW_HEADING, renderFlow, renderStatus } from "./control/render.ts";
import { Engine, type Paths, planTable, StartError } from "./engine.ts";
import { VERSION } from "./version.ts";

const USAGE = `usage: masqd COMMAND [OPTIONS]

  run     [-c FILE]            translate packets until SIGTERM
  check   [-c FILE]            print the effective plan, or every error
  status  [-j]                 ports, table, counters, drops with reasons
  flows   [-j] [-n ROWS]       sessions
  flush   all | host ADDRESS | mapping PROTOCOL ADDRESS:PORT | wan
                               end sessions
  help                         this text
  --version                    version

  -c FILE       configuration, default /etc/config/masqd
  -j            JSON
  -n ROWS       at most this many rows
  --socket PATH control socket, default /var/run/masqd.sock
  --state PATH  table file (tmpfs), default /var/run/masqd.state
`;

const DEFAULT_ROWS = 50;

interface Options {
	words: string[];
	paths: Paths;
	json: boolean;
	rows: number | null;
}

class UsageError extends Error {}

const out = (text: string) => native.print(1, text);
const err = (text: string) => native.print(2, text);

/** Options and at most `operands` other words after the command; `allowed` are the options that it takes. */
function parseOptions(words: string[], allowed: string[], operands: number): Options {
	const o: Options = {
		paths: { config: "/etc/config/masqd", socket: "/var/run/masqd.sock", state: "/var/run/masqd.state" },
		json: false,
		rows: null,
		words: [],
	};
	for (let n = 0; n < words.length; n++) {
		const word = words[n];
		if (!word.startsWith("-") && o.words.length < operands) {
			o.words.push(word);
			continue;
		}
		if (!allowed.includes(word)) throw new UsageError(`unknown argument '${word}'`);
		const value = () => {
			if (++n === words.length) throw new UsageError(`${word} needs a value`);
			return words[n];
		};
		if (word === "-c") o.paths.config = value();
		else if (word === "--socket") o.paths.socket = value();
		else if (word === "--state") o.paths.state = value();
		else if (word === "-j") o.json = true;
		else {
			o.rows = Number(value());
			if (!Number.isInteger(o.rows) || o.rows < 1) throw new UsageError("-n needs a number of rows");
		}
	}
	return o;
}

/** Reads and checks the configuration; null after printing its errors. */
function readPlan(path: string): Plan | null {
	let text: string;
	try {
		text = native.readFile(path);
	} catch (error) {
		err(`masqd: can not read ${path}: ${(error as Error).message}\n`);
		return null;
	}
	const memTotalKb = Number(/^MemTotal:\s+(\d+)/m.exec(native.readFile("/proc/meminfo"))?.[1] ?? 0);
	const { plan, errors, warnings } = makePlan(text, path, { memTotalKb });
	if (errors.length > 0) err(formatErrors(errors));
	if (warnings.length > 0) err(formatErrors(warnings).replace(/^/gm, (_, at, all) => (at < all.length ? "warning: " : "")));
	return plan;
}

function run(o: Options): number {
	const plan = readPlan(o.paths.config);
	if (plan === null) return 1;
	if (!plan.enabled) {
		err(`masqd: ${o.paths.config} says option enabled '0': nothing to do\n`);
		return 1;
	}
	let engine: Engine;
	try {
		engine = new Engine(plan, o.paths);
		engine.start();
	} catch (error) {
		const e = error as Partial<native.NativeError> & Error;
		if (!(e instanceof StartError) && e.code === undefined && e.name !== "RtnetlinkError" && native.getenv("MASQD_DEBUG")) throw e;
		err(`masqd: ${e.message}\n`);
		return 1;
	}
	for (const w of engine.warnings) err(`masqd: warning: ${w}\n`);
	out(`masqd: ready: ${engine.describe()}\n`);
	try {
		engine.run();
	} finally {
		engine.stop();
	}
	return 0;
}

function check(o: Options): number {
	const plan = readPlan(o.paths.config);
	if (plan === null) return 1;
	out(describePlan(plan, planTable(plan).bytes));
	return 0;
}

function status(o: Options): number {
	const reply = new ControlClient(o.paths.socket).status();
	out(o.json ? `${JSON.stringify(reply)}\n` : renderStatus(reply));
	return 0;
}

function flows(o: Options): number {
	const client = new ControlClient(o.paths.socket);
	const most = o.rows ?? (o.json ? Number.POSITIVE_INFINITY : DEFAULT_ROWS);
	let shown = 0;
	if (!o.json) out(FLOW_HEADING);
	const total = client.flows(most, (f) => {
		shown++;
		out(o.json ? `${JSON.stringify(f)}\n` : renderFlow(f));
	});
	if (!o.json) out(shown < total ? `${shown} of ${total} sessions shown; -n ${total} shows all\n` : `${total} sessions\n`);
	return 0;
}

function flush(o: Options): number {
	const [what, ...rest] = o.words;
	const wanted = { all: 0, host: 1, mapping: 2, wan: 0 }[what ?? ""];
	if (wanted === undefined) throw new UsageError(what === undefined ? "flush what? all, host, mapping or wan" : `can not flush '${what}'`);
	if (rest.length !== wanted) throw new UsageError(`flush ${what} takes ${wanted} arguments`);
	const request = what === "host" ? { host: rest[0] } : what === "mapping" ? { protocol: rest[0], external: rest[1] } : {};
	const { sessions } = new ControlClient(o.paths.socket).request({ command: "flush", what, ...request }) as { sessions: number };
	out(o.json ? `${JSON.stringify({ sessions })}\n` : `${sessions} sessions ended\n`);
	return 0;
}

const COMMANDS: Record<string, { run: (o: Options) => number; options: string[]; operands?: number }> = {
	run: { run, options: ["-c", "--socket", "--state"] },
	check: { run: check, options: ["-c"] },
	status: { run: status, options: ["-j", "--socket"] },
	flows: { run: flows, options: ["-j", "-n", "--socket"] },
	flush: { run: flush, options: ["-j", "--socket"], operands: 3 },
};

function main(words: string[]): number {
	const [name, ...rest] = words;
	if (name === "--version" || name === "-V") {
		out(`masqd ${VERSION}\n`);
		return 0;
	}
	if (name === "help" || name === "--help" || name === "-h") {
		out(USAGE);
		return 0;
	}
	const command = name === undefined ? undefined : COMMANDS[name];
	try {
		if (command === undefined) throw new UsageError(name === undefined ? "a command is needed" : `unknown command '${name}'`);
		return command.run(parseOptions(rest, command.options, command.operands ?? 0));
	} catch (error) {
		if (error instanceof UsageError) {
			err(`masqd: ${error.message}; try: masqd help\n`);
			return 1;
		}
		if (error instanceof ControlError) {
			err(`masqd: ${error.message}\n`);
			return 1;
		}
		throw error;
	}
}

native.exit(main(native.args()));
