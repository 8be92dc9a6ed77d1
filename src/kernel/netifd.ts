/**
 * netifd's names: which device stands behind `option interface 'wan'`.
 *
 * The name is what an OpenWrt owner knows; the device behind it (`pppoe-wan`, `eth0.2`, `wwan0`) may be another one
 * after a redial or an upgrade. So names are resolved when the daemon starts and again with every reload, by asking
 * ubus, and never written down anywhere. netifd's answer is data: a device name that could not be one is refused.
 */

type NetifdIo = Pick<typeof import("masq:native"), "run">;

/** Milliseconds that a run of ubus may take. */
export const UBUS_TIMEOUT_MS = 5000;
/** What ubus exits with when there is no such object: UBUS_STATUS_NOT_FOUND. */
const NOT_FOUND = 4;
/** Exit status of one whose time was up. */
const KILLED = 137;
const SILENT = `ubus did not answer in ${UBUS_TIMEOUT_MS / 1000} s`;
const DEVICE_NAME = /^[A-Za-z0-9._@+-]{1,15}$/;

/** A port of the plan: `device` is "" where only netifd's name is written. */
export interface Attachment {
	device: string;
	readonly interface: string;
}

/** The ports of a plan. */
export interface Attachments {
	wan: Attachment;
	lan: Attachment[];
}

/** What came of looking for the devices. */
export interface Resolution {
	/** What is in the way of all, in one sentence; null when the plan can be used. */
	problem: string | null;
	/** For each LAN that was left out of the plan, why. */
	leftOut: string[];
	/** For each port that keeps its device because ubus could not say which it is, why. */
	kept: string[];
}

/** What a run of ubus came to, as `run` of masq:native gives it; null: it could not be started. */
export type UbusAnswer = { status: number; output: string } | null;

/** The looking: gives the command line of each run of ubus, and is to be told what it came to. */
export type Resolving<T> = Generator<string[], T, UbusAnswer>;

/**
 * Fills in the devices of ports that are given by netifd's name only. A LAN that has none, because its interface is
 * down or not known, is taken out of the plan: the others are served, and the reload that follows the interface's
 * coming up brings it in. A ubus that does not answer is not asked again.
 *
 * @param known ports whose devices are known already: an interface that is away for a moment keeps its device.
 */
export function* resolution(plan: Attachments, known: readonly Attachment[] = []): Resolving<Resolution> {
	const leftOut: string[] = [];
	const kept: string[] = [];
	const end = (problem: string | null): Resolution => ({ problem, leftOut, kept });
	let silent = false;
	for (const port of [plan.wan, ...plan.lan]) {
		if (port.device !== "") continue;
		const found: Found = silent ? refusal(port.interface, SILENT) : yield* deviceOf(port.interface);
		silent ||= found.silent;
		let { device, problem } = found;
		if (problem !== null) device = known.find((k) => k.interface === port.interface)?.device ?? "";
		if (device === "" && port === plan.wan) return end(problem);
		if (device === "") {
			leftOut.push(problem as string);
			plan.lan = plan.lan.filter((p) => p !== port);
			continue;
		}
		const other = [plan.wan, ...plan.lan].find((p) => p !== port && p.device === device);
		if (other !== undefined) {
			const name = other.interface === "" ? `device '${device}'` : `interface '${other.interface}'`;
			problem = `interface '${port.interface}' is the device ${device}, which ${name} of another section is too`;
			return end(problem);
		}
		if (silent && problem !== null) kept.push(`${problem}; its device stays ${device}`);
		port.device = device;
	}
	return end(plan.lan.length > 0 ? null : (leftOut[0] ?? null));
}

/** As {@link resolution}, waiting for ubus. */
export function resolveDevices(io: NetifdIo, plan: Attachments, known: readonly Attachment[] = []): Resolution {
	const steps = resolution(plan, known);
	let step = steps.next();
	while (!step.done) {
		let answer: UbusAnswer = null;
		try {
			answer = io.run(step.value, "", UBUS_TIMEOUT_MS);
		} catch {
			// There is no ubus.
		}
		step = steps.next(answer);
	}
	return step.value;
}

interface Found {
	device: string;
	problem: string | null;
	/** ubus does not answer at all. */
	silent: boolean;
}

function refusal(name: string, why: string): Found {
	return { device: "", problem: `interface '${name}': ${why}`, silent: why === SILENT };
}

/** The layer 3 device of an interface that is up, or why there is none. */
function* deviceOf(name: string): Resolving<Found> {
	const answer = yield ["ubus", "-S", "call", `network.interface.${name}`, "status"];
	if (answer === null) return refusal(name, "there is no ubus to ask for its device; use option 'device'");
	if (answer.status === NOT_FOUND) return refusal(name, "netifd knows no such interface; see /etc/config/network");
	if (answer.status === KILLED) return refusal(name, SILENT);
	if (answer.status !== 0) return refusal(name, `ubus failed with status ${answer.status}`);
	let status: { up?: unknown; l3_device?: unknown; device?: unknown };
	try {
		status = JSON.parse(answer.output);
	} catch {
		return refusal(name, "ubus answered something that is not JSON");
	}
	const device = status.l3_device ?? status.device;
	if (device === undefined) return refusal(name, "it is not up yet and has no device");
	if (typeof device !== "string" || !DEVICE_NAME.test(device)) return refusal(name, "netifd named a device that cannot be one");
	return { device, problem: null, silent: false };
}
