/**
 * The bundle of the commands that need no running daemon but what the daemon is made of, which is in the bundle that
 * both share.
 */
import * as native from "masq:native";
import { CONFIG, type Command, executeWhole, type Line, SOCKET, STATE, UsageError } from "../cli/command-line.ts";
import { cleanup } from "../daemon/cleanup.ts";
import { askConfig, loadPlan, readPlan } from "../daemon/load-plan.ts";
import { planTable } from "../daemon/policy.ts";
import { dumpOffload, planWarnings, withFirewall } from "../daemon/preview.ts";
import { largestGap } from "../kernel/local-ports.ts";
import { resolveDevices } from "../kernel/netifd.ts";
import { selftest } from "../selftest/selftest.ts";

const out = (text: string) => native.print(1, text);
const err = (text: string) => native.print(2, text);

function check({ options }: Line): number {
	const { plan, errors, warnings } = loadPlan(options.get("-c") ?? CONFIG);
	let text = "";
	if (plan !== null) {
		// The plan is shown whole.
		const { problem, leftOut } = resolveDevices(native, { wan: plan.wan, lan: plan.lan });
		for (const why of new Set([...leftOut, ...(problem === null ? [] : [problem])])) warnings.push(`warning: ${why}`);
		const firewall = withFirewall(plan);
		for (const why of [...planWarnings(plan), ...firewall.warnings]) warnings.push(`warning: ${why}`);
		text = askConfig("describe", firewall.plan, planTable(plan).bytes);
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

/** `help config`; all other help is the client's. */
function help(): number {
	out(askConfig("help"));
	return 0;
}

const COMMANDS: Record<string, Command> = {
	check: { run: check, options: { "-c": true, "-j": false } },
	offload: { run: offload, options: { "--dump": false, "-c": true } },
	selftest: { run: ({ options }) => selftest(out, options.has("-j")), options: { "-j": false } },
	help: { run: help, options: {}, words: 1 },
	cleanup: { run: cleanUp, options: { "--socket": true, "--state": true } },
};

native.exit(executeWhole(COMMANDS, native.args()));
