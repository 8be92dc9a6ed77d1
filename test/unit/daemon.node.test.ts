/**
 * The daemon as a whole over a stand-in of the shim: what comes in which order at a start and a stop, what news and a
 * reload bring about, and what they leave alone.
 */
import { beforeEach, describe, expect, it, vi } from "vitest";
import { makePlan, type Plan } from "../../src/config/plan.ts";
import type { ReloadReply } from "../../src/control/protocol.ts";
import { Daemon } from "../../src/daemon/daemon.ts";
import { InStep } from "../../src/daemon/in-step.ts";
import { Log } from "../../src/daemon/log.ts";
import type { FastPath } from "../../src/nat/fast-path.ts";
import { REASON } from "../../src/nat/reason.ts";
import { RTM } from "../../src/netlink/route.ts";
import { LAN, link, MAC, neighbour, own, WAN } from "./kernel-stand-in.ts";
import { system } from "./native-stand-in.ts";
import { type Frame, tcp, udp } from "./rig-frame.ts";

vi.mock("masq:native", async () => (await import("./native-stand-in.ts")).nativeModule());

const REACHABLE = 2;
const PATHS = { config: "/etc/config/masqd", socket: "/run/masqd.sock", state: "/run/masqd.state" };
const RANGE = "/proc/sys/net/ipv4/ip_local_port_range";
const H1 = "192.168.1.10";
const S1 = "198.51.100.1";
const config = (main = "", more = "") => `config masqd 'main'
	option enabled '1'
	option offload 'off'
	option sessions '256'
	list ports '40000-49999'
${main}
config wan
	option device 'wan0'

config lan
	option device 'lan0'
	option driver '${more.includes("tun") ? "tun" : "packet"}'
${more.replace("tun", "")}`;
const STATIC = "\nconfig static\n	option external '203.0.113.7'\n	option internal '192.168.1.20'\n";

let lines: string[] = [];
let fast: FastPath;

function daemon(text = config()): Daemon {
	const plan = makePlan(text, "masqd", { memTotalKb: 131_072 }).plan as Plan;
	system.files.set(PATHS.config, text);
	const made = new Daemon(plan, PATHS, new Log((_, line) => lines.push(line) > 0, "info"));
	made.interpose((batches) => {
		fast = batches;
		return batches;
	});
	return made;
}

/** A daemon that has started, and its walk; what the start has asked of the system is forgotten. */
function started(text = config()): { d: Daemon; walk: InStep } {
	const start = vi.spyOn(InStep.prototype, "start");
	const { contexts } = start.mock;
	const d = daemon(text);
	try {
		d.start();
	} finally {
		start.mockRestore();
	}
	const walk = contexts.at(-1) as InStep;
	system.calls.length = 0;
	return { d, walk };
}

/** A frame from the LAN's device, or (`inbound`) from the WAN's; what went out for it. */
function pass(d: Daemon, frame: Frame, inbound = false): string[] {
	const before = system.sent.length;
	system.frames.set([...(inbound ? new Uint8Array(6) : MAC), ...MAC, 8, 0], 10);
	system.frames.set(frame.ip, 24);
	system.rx[0] = 0;
	system.rx[1] = frame.ip.length;
	if (inbound) fast.inbound(system.rx, 1);
	else fast.outbound(system.rx, 1, 0);
	d.context.flush();
	return told(before);
}

function told(from = 0): string[] {
	return system.sent.slice(from).map(({ ifindex, packet }) => `${ifindex === WAN ? "wan" : "lan"}: ${packet.line}`);
}

/** The first of each kind of calls, in their order. */
function order(names: string[]): string[] {
	return [...new Set(system.calls.map((call) => names.find((name) => call === name || call.startsWith(`${name} `)) ?? ""))].filter(
		(call) => call !== "",
	);
}

function reload(d: Daemon, text: string): ReloadReply {
	let reply: ReloadReply | null = null;
	system.files.set(PATHS.config, text);
	d.reload((r) => {
		reply = r;
	});
	return reply as unknown as ReloadReply;
}

/** The WAN has another address, by the kernel's news; null: none. */
function renumber(walk: InStep, from: string | null, to: string | null): void {
	const { kernel } = system;
	kernel.addresses = [own(LAN, "192.168.1.1", 24), ...(to === null ? [] : [own(WAN, to, 24)])];
	if (from !== null) kernel.tell(own(WAN, from, 24), RTM.DELADDR);
	if (to !== null) kernel.tell(own(WAN, to, 24), RTM.NEWADDR);
	walk.news();
}

beforeEach(() => {
	system.renew();
	system.kernel.neighbours.push(neighbour(WAN, "203.0.113.254", REACHABLE, MAC));
	lines = [];
});

describe("a start and a stop", () => {
	const STEPS = [
		"lockFile",
		"signalOpen",
		`writeFile ${RANGE}`,
		"run",
		"packetOpen",
		"tunOpen",
		"etherOpen",
		"unixListen",
		"keepCapabilities",
	];

	for (const driver of ["packet", "tun"])
		it(`${driver}: the kernel's ports, the guard, sockets, answers, the console; capabilities are given up last`, () => {
			const d = daemon(config("", `${driver === "tun" ? "tun" : ""}${STATIC}`));
			d.start();
			expect(order(STEPS)).toEqual(STEPS.filter((step) => driver === "tun" || step !== "tunOpen"));
			expect(system.calls.at(-1)).toBe("keepCapabilities");
			d.stop();
		});

	it("goes back in reverse, to the last descriptor: the kernel has the connections before it has their packets, a successor may come last", () => {
		const { d } = started(config("", `tun${STATIC}`));
		pass(d, tcp(`${H1}:41000`, `${S1}:80`, { flags: "S", seq: 99 }));
		pass(d, tcp(`${S1}:80`, "203.0.113.1:41000", { flags: "SA", seq: 499, ack: 100 }), true);
		system.calls.length = 0;
		d.stop();
		const steps = [
			"close unixListen",
			"close etherOpen",
			"netlinkOpen",
			"close tunOpen",
			"close packetOpen",
			"run",
			`writeFile ${RANGE}`,
			"close signalOpen",
			"close lockFile",
		];
		expect(order(steps)).toEqual(steps);
		expect([...system.open.values()]).toEqual([]);
		expect(system.kernel.open).toBe(0);
	});

	it("leaves guard and settings to a successor", () => {
		const { d } = started(config("", "tun"));
		d.abandon();
		expect(order(["run", `writeFile ${RANGE}`])).toEqual([]);
		expect([...system.open.values()]).toEqual([]);
	});

	for (const call of ["signalOpen", "run", "packetOpen", "tunOpen", "etherOpen", "unixListen", "keepCapabilities"])
		it(`fails at ${call} with nothing left`, () => {
			const d = daemon(config("", `tun${STATIC}`));
			system.refuse.set(call, Object.assign(new Error(`${call}: EPERM`), { code: "EPERM", errno: 1 }));
			expect(() => d.start()).toThrow(/EPERM|nft/);
			expect([...system.open.values()]).toEqual([]);
			expect(system.kernel.open).toBe(0);
			const written = system.calls.filter((c) => c === `writeFile ${RANGE}`).length;
			expect(written % 2).toBe(0);
			if (call !== "keepCapabilities") expect(system.calls).not.toContain("keepCapabilities");
		});
});

describe("followers", () => {
	for (const text of [config("", STATIC), config("", "tun")])
		it(`do nothing twice${text.includes("tun") ? ", with a TUN device" : ""}`, () => {
			const { d, walk } = started(text);
			const requested = system.kernel.requested.length;
			for (let n = 0; n < 2; n++) expect(walk.follow()).toBe(null);
			// Nor for news that change nothing.
			system.kernel.tell(link(LAN, "lan0"), RTM.NEWLINK);
			system.kernel.tell(own(WAN, "203.0.113.1", 24), RTM.NEWADDR);
			walk.news();
			expect(system.calls.filter((call) => !call.startsWith("netlink"))).toEqual([]);
			expect(system.kernel.requested.length).toBe(requested);
			d.stop();
		});
});

describe("the WAN's address", () => {
	it("another one: datagrams go on from there, TCP hears a reset inside, everybody is told", () => {
		const { d, walk } = started();
		const listener = vi.spyOn(d.watch, "tell");
		expect(pass(d, udp(`${H1}:40001`, `${S1}:53000`))).toEqual([expect.stringContaining(`wan: udp 203.0.113.1:40001 > ${S1}:53000`)]);
		pass(d, tcp(`${H1}:41000`, `${S1}:80`, { flags: "S", seq: 99 }));
		pass(d, tcp(`${S1}:80`, "203.0.113.1:41000", { flags: "SA", seq: 499, ack: 100 }), true);
		pass(d, tcp(`${H1}:41000`, `${S1}:80`, { flags: "A", seq: 100, ack: 500 }));
		const before = system.sent.length;
		renumber(walk, "203.0.113.1", "203.0.113.9");
		const resets = system.sent.slice(before);
		expect(resets.map(({ ifindex, packet }) => [ifindex, packet.source, packet.destination, packet.flags])).toEqual([
			[LAN, S1, H1, expect.stringContaining("R")],
		]);
		expect(listener.mock.calls).toEqual([[{ event: "wan-address", before: "203.0.113.1", after: "203.0.113.9" }]]);
		expect(lines.at(-1)).toContain("the WAN's address is 203.0.113.9 now, it was 203.0.113.1: 1 sessions moved, 1 ended");
		expect(pass(d, udp(`${H1}:40001`, `${S1}:53000`))).toEqual([expect.stringContaining(`wan: udp 203.0.113.9:40001 > ${S1}:53000`)]);
		d.stop();
	});

	it("lost for a while: sessions wait and go on where they were", () => {
		const { d, walk } = started();
		const listener = vi.spyOn(d.watch, "tell");
		pass(d, udp(`${H1}:40001`, `${S1}:53000`));
		renumber(walk, "203.0.113.1", null);
		expect(d.impaired).toBe(REASON["no-external-address"]);
		renumber(walk, null, "203.0.113.1");
		expect(d.impaired).toBe(null);
		expect(pass(d, udp(`${H1}:40001`, `${S1}:53000`))).toEqual([expect.stringContaining("wan: udp 203.0.113.1:40001")]);
		expect(listener.mock.calls.map(([{ event, ...rest }]) => [event, rest])).toEqual([
			["wan-address", { before: "203.0.113.1", after: "" }],
			["wan-address", { before: "", after: "203.0.113.1" }],
		]);
		expect(lines.join("\n")).toMatch(/has lost its address 203\.0\.113\.1.*\n.*has address 203\.0\.113\.1/);
		d.stop();
	});

	it("gained after a start without one: the first packet goes", () => {
		system.kernel.addresses = [own(LAN, "192.168.1.1", 24)];
		const { d, walk } = started();
		expect(pass(d, udp(`${H1}:40001`, `${S1}:53000`)).filter((line) => line.startsWith("wan"))).toEqual([]);
		renumber(walk, null, "203.0.113.9");
		expect(pass(d, udp(`${H1}:40001`, `${S1}:53000`))).toEqual([expect.stringContaining("wan: udp 203.0.113.9:40001")]);
		d.stop();
	});
});

describe("a reload", () => {
	it("with a mistake is refused whole: nothing is asked of the system, the plan stays", () => {
		const { d } = started();
		const { plan } = d;
		pass(d, udp(`${H1}:40001`, `${S1}:53000`));
		const mistakes: [string, string][] = [
			[config("	option sessions 'lots'\n"), "'lots' is not a whole number"],
			[config().replace("wan0", "wan9"), "wan device 'wan9' does not exist"],
			[config().replace("lan0", "lan9"), "lan device 'lan9' does not exist"],
			[config().replace("option enabled '1'", "option enabled '0'"), "stop masqd for that"],
		];
		system.calls.length = 0;
		for (const [text, why] of mistakes) {
			const { errors } = reload(d, text);
			expect(errors.join("\n")).toContain(why);
			expect(d.plan).toBe(plan);
		}
		expect(system.calls).toEqual([]);
		expect(pass(d, udp(`${S1}:53000`, "203.0.113.1:40001"), true)).toEqual([expect.stringContaining(`lan: udp ${S1}:53000 > ${H1}:40001`)]);
		d.stop();
	});

	it("ends what the new plan has no place for, by the old one's ports, and keeps the rest as it is", () => {
		const { d } = started();
		pass(d, udp(`${H1}:40001`, `${S1}:53000`));
		pass(d, udp(`${H1}:45001`, `${S1}:53000`));
		const reply = reload(d, config().replace("40000-49999", "40000-44999"));
		expect(reply.errors).toEqual([]);
		expect(d.plan.ports).toEqual([{ first: 40000, last: 44999 }]);
		expect(lines.at(-1)).toContain(", 1 sessions ended");
		expect(pass(d, udp(`${S1}:53000`, "203.0.113.1:40001"), true)).toEqual([expect.stringContaining(`lan: udp ${S1}:53000 > ${H1}:40001`)]);
		expect(pass(d, udp(`${S1}:53000`, "203.0.113.1:45001"), true)).toEqual([]);
		// The host goes on from a port of the new range.
		const [line] = pass(d, udp(`${H1}:45001`, `${S1}:53000`));
		expect(Number(/203\.0\.113\.1:(\d+) >/.exec(line)?.[1])).toBeLessThan(45000);
		d.stop();
	});

	it("opens what is new and leaves what stays: sockets of devices that are kept are not touched", () => {
		system.kernel.links.push(link(4, "lan1"));
		system.kernel.addresses.push(own(4, "192.168.2.1", 24));
		const { d } = started();
		const { driver } = d.lan[0];
		expect(reload(d, config("", "\nconfig lan\n	option device 'lan1'\n	option driver 'packet'\n")).errors).toEqual([]);
		expect(d.lan.map((p) => p.name)).toEqual(["lan0", "lan1"]);
		expect(d.lan[0].driver).toBe(driver);
		expect(system.calls).not.toContain("close packetOpen");
		expect(reload(d, config()).errors).toEqual([]);
		expect(d.lan[0].driver).toBe(driver);
		d.stop();
	});

	it("that cannot be followed whole says so, is in force but for that, and is followed when it can", () => {
		const { d, walk } = started();
		system.refuse.set("etherOpen", Object.assign(new Error("bind: ENOMEM"), { code: "ENOMEM", errno: 12 }));
		const { errors } = reload(d, config("", STATIC));
		expect(errors).toEqual(["masqd: the configuration is in force but for this: bind: ENOMEM"]);
		expect(walk.behind).toBe(true);
		system.refuse.clear();
		walk.news();
		expect(walk.behind).toBe(false);
		expect(system.calls.filter((call) => call === "etherOpen").length).toBe(2);
		d.stop();
	});
});
