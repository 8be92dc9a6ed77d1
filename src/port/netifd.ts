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

/**
 * Fills in the devices of ports that are given by netifd's name only.
 *
 * @returns what is in the way, in one sentence; null when every port has a device.
 */
export function resolveDevices(io: NetifdIo, ports: readonly Attachment[]): string | null {
	for (const port of ports) {
		if (port.device !== "") continue;
		const { device, problem } = deviceOf(io, port.interface);
		if (problem !== null) return problem;
		const other = ports.find((p) => p !== port && p.device === device);
		if (other !== undefined) {
			const name = other.interface === "" ? `device '${device}'` : `interface '${other.interface}'`;
			return `interface '${port.interface}' is the device ${device}, which ${name} of another section is too`;
		}
		port.device = device;
	}
	return null;
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
