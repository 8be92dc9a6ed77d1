/** netifd's names become devices: answers as `ubus -S call network.interface.X status` gives them. */
import { describe, expect, it } from "vitest";
import { type Attachment, resolveDevices } from "../../src/kernel/netifd.ts";

const UP = '{"up":true,"pending":false,"available":true,"proto":"pppoe","device":"eth0.2","l3_device":"pppoe-wan","ipv4-address":[]}\n';
const STATIC = '{"up":true,"proto":"static","l3_device":"br-lan","device":"br-lan"}\n';
const DOWN = '{"up":false,"pending":false,"available":false,"autostart":true,"proto":"dhcp"}\n';

/** A ubus that knows these interfaces; records what it was asked. */
function ubus(known: Record<string, string>) {
	const asked: string[] = [];
	const run = (argv: string[]) => {
		asked.push(argv.join(" "));
		const answer = known[argv[3].replace("network.interface.", "")];
		return answer === undefined ? { status: 4, output: "" } : { status: 0, output: answer };
	};
	return { run, asked };
}

/** The WAN first, then the LANs; what is in the way. */
function resolve(io: Parameters<typeof resolveDevices>[0], [wan, ...lan]: Attachment[]): string | null {
	return resolveDevices(io, { wan, lan: lan.length > 0 ? lan : [port("", "eth9")] }).problem;
}

const port = (name: string, device = ""): Attachment => ({ interface: name, device });

describe("netifd's names", () => {
	it("become the layer 3 device", () => {
		const ports = [port("wan"), port("lan")];
		const io = ubus({ wan: UP, lan: STATIC });
		expect(resolve(io, ports)).toBeNull();
		expect(ports.map((p) => p.device)).toEqual(["pppoe-wan", "br-lan"]);
		expect(io.asked).toEqual(["ubus -S call network.interface.wan status", "ubus -S call network.interface.lan status"]);
	});

	it("are not asked for where a device is written", () => {
		const io = ubus({});
		const ports = [port("wan", "eth1"), port("", "br-lan")];
		expect(resolve(io, ports)).toBeNull();
		expect(io.asked).toEqual([]);
	});

	it.each([
		["down", { wan: DOWN }, "interface 'wan': it is not up yet and has no device"],
		["unknown", {}, "interface 'wan': netifd knows no such interface; see /etc/config/network"],
		["not JSON", { wan: "Command failed" }, "interface 'wan': ubus answered something that is not JSON"],
		["no device name", { wan: '{"l3_device":"a b"}' }, "interface 'wan': netifd named a device that cannot be one"],
		["no string", { wan: '{"l3_device":7}' }, "interface 'wan': netifd named a device that cannot be one"],
	])("%s: says so", (_, known, problem) => {
		const ports = [port("wan")];
		expect(resolve(ubus(known as Record<string, string>), ports)).toBe(problem);
		expect(ports[0].device).toBe("");
	});

	it("say so where there is no ubus, or it fails", () => {
		const none = {
			run: () => {
				throw new Error("ENOENT");
			},
		};
		expect(resolve(none, [port("wan")])).toBe("interface 'wan': there is no ubus to ask for its device; use option 'device'");
		expect(resolve({ run: () => ({ status: 7, output: "" }) }, [port("wan")])).toBe("interface 'wan': ubus failed with status 7");
	});

	it("must not be one device twice", () => {
		expect(resolve(ubus({ wan: STATIC, lan: STATIC }), [port("wan"), port("lan")])).toBe(
			"interface 'lan' is the device br-lan, which interface 'wan' of another section is too",
		);
		expect(resolve(ubus({ lan: STATIC }), [port("", "br-lan"), port("lan")])).toBe(
			"interface 'lan' is the device br-lan, which device 'br-lan' of another section is too",
		);
	});

	it("leave out a LAN that is down or that nobody knows, and say why; the others stay", () => {
		const plan = { wan: port("wan"), lan: [port("guest"), port("lan"), port("misspelt")] };
		expect(resolveDevices(ubus({ wan: UP, lan: STATIC, guest: DOWN }), plan)).toEqual({
			problem: null,
			leftOut: [
				"interface 'guest': it is not up yet and has no device",
				"interface 'misspelt': netifd knows no such interface; see /etc/config/network",
			],
			kept: [],
		});
		expect(plan.lan).toEqual([port("lan", "br-lan")]);
	});

	it("are in the way when no LAN is left", () => {
		const plan = { wan: port("wan"), lan: [port("guest"), port("misspelt")] };
		expect(resolveDevices(ubus({ wan: UP, guest: DOWN }), plan).problem).toBe("interface 'guest': it is not up yet and has no device");
	});

	it("keep the device they have while it is away: a reload in between ends nothing", () => {
		const known = [port("wan", "pppoe-wan"), port("lan", "br-lan")];
		const plan = { wan: port("wan"), lan: [port("lan"), port("guest")] };
		expect(resolveDevices(ubus({ wan: DOWN, lan: DOWN, guest: DOWN }), plan, known)).toEqual({
			problem: null,
			leftOut: ["interface 'guest': it is not up yet and has no device"],
			kept: [],
		});
		expect([plan.wan, ...plan.lan]).toEqual(known);
		// What netifd says goes first.
		const moved = { wan: port("wan"), lan: [port("lan")] };
		expect(resolveDevices(ubus({ wan: UP, lan: STATIC }), moved, [port("wan", "eth1")]).problem).toBeNull();
		expect(moved.wan.device).toBe("pppoe-wan");
	});

	it("keep the device that they have where ubus is silent, which is said, and it is asked once only", () => {
		const asked: string[][] = [];
		const silent = {
			run: (argv: string[]) => {
				asked.push(argv);
				return { status: 137, output: "" };
			},
		};
		const plan = { wan: port("wan"), lan: [port("lan"), port("guest")] };
		expect(resolveDevices(silent, plan, [port("wan", "pppoe-wan"), port("lan", "br-lan")])).toEqual({
			problem: null,
			leftOut: ["interface 'guest': ubus did not answer in 5 s"],
			kept: [
				"interface 'wan': ubus did not answer in 5 s; its device stays pppoe-wan",
				"interface 'lan': ubus did not answer in 5 s; its device stays br-lan",
			],
		});
		expect(asked.length).toBe(1);
	});
});
