/**
 * Another configuration while running: refused whole where it cannot be used, else sessions are judged while the old
 * policy, whose ports they have, still stands, the new one is put in force, and everything follows. What is not
 * concerned is not touched.
 */
import type { Plan } from "../config/plan.ts";
import { QUARANTINED, stateTimeouts } from "../conntrack/states.ts";
import type { ReloadReply } from "../control/protocol.ts";
import type { Resolution, Resolving } from "../kernel/netifd.ts";
import type { Admission } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import { type External, numberExternals } from "../nat/externals.ts";
import type { PcpMappings } from "../nat/pcp-mappings.ts";
import { unfit } from "../nat/revalidate.ts";
import type { InForce } from "./in-force.ts";
import type { InStep } from "./in-step.ts";
import type { Loaded } from "./load-plan.ts";
import type { Log } from "./log.ts";
import type { OffloadFollower } from "./offload-follower.ts";
import { policyOf, wantedExternals } from "./policy.ts";
import type { Ports } from "./ports.ts";

/** Milliseconds to wait for a guard that knows new devices, which are opened behind it. */
const GUARD_PATIENCE = 250;

/** What a reload works on. */
export interface ReloadSurroundings {
	/** The configuration file, for the operator, and as it is now. */
	path: string;
	load(): Loaded;
	/**
	 * Fills in the devices of networks: what keeps the plan from being used, what is left out of it, and what stays as
	 * it was.
	 */
	resolve(plan: Plan, before: Plan): Resolving<Resolution>;
	/** Why the drivers of a plan cannot be had, "" if they can. */
	problemOf(plan: Plan): string;
	/** Whether a device is there. */
	exists(device: string): boolean;
	context: Context;
	admission: Admission;
	requested: PcpMappings;
	inForce: InForce;
	inStep: InStep;
	ports: Pick<Ports, "replace" | "wan" | "lan">;
	guard: { patience: number };
	offload: Pick<OffloadFollower, "waiting">;
	log: Log;
}

/**
 * Reads the configuration again and goes on by it; netifd is asked by who runs it. Returns why not if it cannot be used
 * (nothing has changed then), else what is to be known about it.
 */
export function* reload(r: ReloadSurroundings): Resolving<ReloadReply> {
	const { plan, errors, warnings } = r.load();
	const refuse = (lines: string[]): ReloadReply => ({ errors: lines, notes: [] });
	if (plan === null) return refuse(errors);
	const { problem, leftOut, kept } = yield* r.resolve(plan, r.inForce.plan);
	if (problem !== null) return refuse([`masqd: ${problem}`]);
	for (const why of [...leftOut, ...kept]) warnings.push(`warning: ${why}`);
	const problems = unusable(r, plan);
	if (problems.length > 0) return refuse(problems);
	for (const warning of warnings) r.log.notice(warning);
	try {
		return { errors: [], notes: [...warnings, ...apply(r, plan)] };
	} catch (error) {
		r.inStep.behind = true;
		return refuse([`masqd: the configuration is in force but for this: ${(error as Error).message}`]);
	}
}

/** What keeps a plan that is right in itself from being used here, in lines. */
function unusable(r: ReloadSurroundings, plan: Plan): string[] {
	const lines: string[] = [];
	if (!plan.enabled) lines.push(`masqd: ${r.path} says option enabled '0': stop masqd for that`);
	const devices: [string, string, string[]][] = [["wan", plan.wan.device, [r.ports.wan.name]]];
	for (const l of plan.lan) devices.push(["lan", l.device, r.ports.lan.map((p) => p.name)]);
	for (const [what, name, known] of devices) {
		// One that is in use may be away for a moment.
		if (!known.includes(name) && !r.exists(name)) lines.push(`masqd: ${what} device '${name}' does not exist`);
	}
	const problem = r.problemOf(plan);
	if (problem !== "") lines.push(`masqd: ${problem}`);
	return lines;
}

/** Goes on by a plan; returns what of it has to wait, in sentences. */
function apply(r: ReloadSurroundings, plan: Plan): string[] {
	const { context, admission, inForce, inStep, log } = r;
	const { table, externals } = context;
	context.flush();
	const places = r.ports.replace(plan);
	inStep.look(plan);

	// Under the old policy, whose ports they have: the sessions that the new one has no place for.
	const wanted = wantedExternals(plan, externals.A[0]);
	const numbers = numberExternals(wanted, table.addresses);
	const list: External[] = [];
	for (const [k, n] of numbers.entries()) list[n] = { ...wanted[k], holder: 0, sessions: 0 };
	const keeper = inForce.keeper(policyOf(plan, numbers), list, plan);
	const ending = unfit(context, keeper);
	for (const i of ending) {
		admission.end(i, "reload");
		if (table.state(i) === QUARANTINED && !keeper.permits(i)) admission.end(i, "reload");
	}

	inForce.plan = plan;
	table.timeouts = stateTimeouts(plan.timeouts);
	inForce.put(plan, externals.A[0], table.addresses);
	const lost = inForce.keeper().reclaim();
	for (const i of lost) admission.end(i, "reload", false);
	table.addresses.set(externals.A);
	inForce.placeHosts(places);

	// The router's own ports were taken anew: what is left of the range may be another.
	inStep.look();
	r.guard.patience = GUARD_PATIENCE;
	const problem = inStep.follow();
	r.requested.withdraw();
	const ended = ending.length + lost.length;
	// What goes on in mid-connection has been ended, and is to hear of it.
	if (ended > 0) context.adopt = false;
	log.notice(`configuration reloaded${ended > 0 ? `, ${ended} sessions ended` : ""}`);
	const waiting: string[] = [];
	if (r.offload.waiting !== "") waiting.push(r.offload.waiting);
	if (plan.sessions !== table.layout.sessions)
		waiting.push(
			`option sessions '${plan.sessions}' needs a restart, which keeps the sessions; until then there is room for ${table.layout.sessions}`,
		);
	for (const text of waiting) log.notice(text);
	if (problem !== null) throw problem;
	return waiting;
}
