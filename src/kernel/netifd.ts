/**
 * netifd's names: which device stands behind `option interface 'wan'`.
 *
 * The name is what an OpenWrt owner knows; the device behind it (`pppoe-wan`, `eth0.2`, `wwan0`) may be another one after a redial or an upgrade.
 * So names are resolved when the daemon starts and again with every reload, by asking ubus, and never written down anywhere. netifd's answer is data:
 * a device name that could not be one is refused.
 */

type NetifdIo = Pick<typeof import("masq:native"), "run">;

const UBUS_TIMEOUT_MS = 5000;
/** What ubus exits with when there is no such object: UBUS_STATUS_NOT_FOUND. */
const NOT_FOUND = 4;
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
}

/**
 * Fills in the devices of ports that are given by netifd's name only. A LAN that has none, because its interface is down or not known, is taken out of the
 * plan: the others are served, and the reload that follows the interface's coming up brings it in.
 *
 * @param known ports whose devices are known already: an interface that is away for a moment keeps its device.
 */
export function resolveDevices(io: NetifdIo, plan: Attachments, known: readonly Attachment[] = []): Resolution {
	const leftOut: string[] = [];
	for (const port of [plan.wan, ...plan.lan]) {
		if (port.device !== "") continue;
		let { device, problem } = deviceOf(io, port.interface);
		if (problem !== null) device = known.find((k) => k.interface === port.interface)?.device ?? "";
		if (device === "" && port === plan.wan) return { problem, leftOut };
		if (device === "") {
			leftOut.push(problem as string);
			plan.lan = plan.lan.filter((p) => p !== port);
			continue;
		}
		const other = [plan.wan, ...plan.lan].find((p) => p !== port && p.device === device);
		if (other !== undefined) {
			const name = other.interface === "" ? `device '${device}'` : `interface '${other.interface}'`;
			problem = `interface '${port.interface}' is the device ${device}, which ${name} of another section is too`;
			return { problem, leftOut };
		}
		port.device = device;
	}
	return { problem: plan.lan.length > 0 ? null : leftOut[0], leftOut };
}

/** The layer 3 device of an interface that is up, or why there is none. */
function deviceOf(io: NetifdIo, name: string): { device: string; problem: string | null } {
	const refuse = (why: string) => ({ device: "", problem: `interface '${name}': ${why}` });
	let answer: { status: number; output: string };
	try {
		answer = io.run(["ubus", "-S", "call", `network.interface.${name}`, "status"], "", UBUS_TIMEOUT_MS);
	} catch {
		return refuse("there is no ubus to ask for its device; use option 'device'");
	}
	if (answer.status === NOT_FOUND) return refuse("netifd knows no such interface; see /etc/config/network");
	if (answer.status !== 0) return refuse(`ubus failed with status ${answer.status}`);
	let status: { up?: unknown; l3_device?: unknown; device?: unknown };
	try {
		status = JSON.parse(answer.output);
	} catch {
		return refuse("ubus answered something that is not JSON");
	}
	const device = status.l3_device ?? status.device;
	if (device === undefined) return refuse("it is not up yet and has no device");
	if (typeof device !== "string" || !DEVICE_NAME.test(device)) return refuse("netifd named a device that can not be one");
	return { device, problem: null };
}
