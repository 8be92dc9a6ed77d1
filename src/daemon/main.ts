/**
 * The daemon's bundle: `masqd run`.
 */
import * as native from "masq:native";
import { CONFIG, type Command, execute, type Line, SOCKET, STATE, UsageError } from "../cli/command-line.ts";
import type { Plan } from "../config/plan.ts";
import { resolveDevices } from "../kernel/netifd.ts";
import { type Carrier, isCarried } from "./carrier.ts";
import { Daemon, type Options } from "./daemon.ts";
import { StartError } from "./follower.ts";
import { Lines } from "./lines.ts";
import { readPlan } from "./load-plan.ts";
import { LEVELS, type Level, Log } from "./log.ts";
import type { Paths } from "./parts.ts";

const err = (text: string) => native.print(2, text);

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

type Bundle = typeof import("./kernel-carrier.ts");

/** The daemon of the command line, when that has been read. */
let daemonOf: ((carrier: Carrier | null) => number) | null = null;
/** Whether the kernel is to carry its packets. */
let carried = false;

function read(line: Line): number {
	const paths = {
		config: line.options.get("-c") ?? CONFIG,
		socket: line.options.get("--socket") ?? SOCKET,
		state: line.options.get("--state") ?? STATE,
	};
	const log = openLog(line);
	const plan = readPlan(paths.config);
	if (plan === null) return 1;
	if (!plan.enabled) {
		log.error(`${paths.config} says option enabled '0': nothing to do`);
		return 1;
	}
	const { problem, leftOut } = resolveDevices(native, plan);
	if (problem !== null) {
		err(`masqd: ${problem}\n`);
		return 1;
	}
	for (const why of leftOut) log.warning(`${why}; the other networks do not wait for it`);
	carried = isCarried(plan);
	daemonOf = (carrier) => run(plan, paths, log, { wait: line.options.has("--wait"), carrier });
	return 0;
}

function run(plan: Plan, paths: Paths, log: Log, options: Options): number {
	let daemon: Daemon;
	try {
		daemon = new Daemon(plan, paths, log, options);
		daemon.start();
	} catch (error) {
		const e = error as Partial<native.NativeError> & Error;
		if (!(e instanceof StartError) && e.code === undefined && e.name !== "RtnetlinkError" && native.getenv("MASQD_DEBUG")) throw e;
		err(`masqd: ${e.message}\n`);
		return 1;
	}
	for (const w of daemon.warnings) log.warning(w);
	new Lines(1).write(`masqd: ready: ${daemon.describe()}`);
	try {
		daemon.run();
	} catch (error) {
		// A fault of ours opens nothing: what keeps the LAN in stays for the successor.
		daemon.abandon();
		log.error(`masqd ends, guard and settings stay: ${(error as Error).message}`);
		return 1;
	}
	daemon.stop();
	return 0;
}

const RUN: Command = {
	run: read,
	options: { "-c": true, "--socket": true, "--state": true, "--syslog": false, "--log": true, "--wait": false },
};

const status = execute({ run: RUN }, native.args());
const start = daemonOf as ((carrier: Carrier | null) => number) | null;
// What only the kernel driver needs is read where it is wanted.
const bundle = carried ? (native.importBundle("kernel-carrier") as Bundle) : null;
native.exit(start === null ? status : start(bundle && new bundle.KernelCarrier()));
