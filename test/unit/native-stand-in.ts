/**
 * The shim in values, for tests of the daemon as a whole: rtnetlink is the kernel of kernel-stand-in.ts, of everything
 * else a call is written down and succeeds. Takes the place of "masq:native" by `vi.mock`, so for vitest alone.
 */
import { readFileSync } from "node:fs";
import { answer } from "../../src/config/main.ts";
import * as accounts from "../../src/control/accounts.ts";
import * as bans from "../../src/daemon/firewall-bans.ts";
import * as handOver from "../../src/kernel/hand-over.ts";
import { LITTLE_ENDIAN, NLMSG_DONE, NLMSG_ERROR } from "../../src/netlink/message.ts";
import { RTM } from "../../src/netlink/route.ts";
import { LENGTH_MASK } from "../../src/packet/header-tag.ts";
import { link, router, status } from "./kernel-stand-in.ts";
import { type Packet, readPacket } from "./rig-frame.ts";

type Call = (...args: never[]) => unknown;

/** What only looks, or is about memory of the process itself: not written down. */
const QUIET = new Set(
	"args ask decode encode fileSize frameSum getFeature getenv holdBundle importBundle mapFile nanoseconds netlinkReceive now poll processors random readDir readFile wallClock".split(
		" ",
	),
);
const FIRST_FD = 100;
const NETLINK_ROUTE = 0;

/** The system: the kernel that answers, and what it was asked. */
export const system = {
	kernel: router(),
	files: new Map<string, string>(),
	/** Calls in their order: a name, and the texts that it was given; a `close` with what has opened it. */
	calls: [] as string[],
	/** Frames that went out, by device. */
	sent: [] as { ifindex: number; packet: Packet }[],
	/** Names of calls that fail, and with what. */
	refuse: new Map<string, Error>(),
	/** Descriptors that are open, and what has opened them. */
	open: new Map<number, string>(),
	frames: new Uint8Array(0),
	rx: new Int32Array(0) as Int32Array,

	renew(): void {
		this.kernel = router();
		this.calls.length = 0;
		this.sent.length = 0;
		this.refuse.clear();
		this.open.clear();
		this.files = new Map([
			["/proc/meminfo", "MemTotal:         131072 kB\nMemAvailable:     100000 kB\n"],
			["/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"],
		]);
	},
};

let lastFd = FIRST_FD;
/** What sockets of other families have to say. */
const answers = new Map<number, ArrayBuffer[]>();

function opened(name: string): number {
	system.open.set(++lastFd, name);
	return lastFd;
}

function send(ifindex: number, tx: Int32Array, from: number, count: number): number {
	for (let n = from; n < from + count; n++) {
		const at = tx[n * 2] + 24;
		system.sent.push({ ifindex, packet: readPacket(system.frames.slice(at, at + (tx[n * 2 + 1] & LENGTH_MASK))) });
	}
	return count;
}

/** The device of a packet socket, by its descriptor. */
const devices = new Map<number, number>();

/** What the daemon reads besides in these tests. */
const bundles: Record<string, object> = { "hand-over": handOver, bans, accounts };

const ours: Record<string, Call> = {
	importBundle: (name: string) => bundles[name],
	ask: (_: string, question: string) => answer(question),
	getenv: () => undefined,
	hasCapability: () => true,
	now: () => system.kernel.time,
	wallClock: () => 0,
	readFile: (path: string) => {
		const text = system.files.get(path) ?? (path.startsWith("/proc/sys/net/ipv4/") ? "0\n" : undefined);
		if (text !== undefined) return text;
		throw Object.assign(new Error(`open(${path}): ENOENT`), { code: "ENOENT", errno: 2 });
	},
	readDir: () => [],
	fileSize: (path: string) => (path.startsWith("/dev/") ? 0 : -1),
	mapFile: (_: string, size: number) => new ArrayBuffer(size),
	run: () => ({ status: 0, output: "" }),
	processors: () => [0],
	random: (buffer: ArrayBuffer, offset: number, length: number) => {
		new Uint8Array(buffer, offset, length).fill(7);
	},
	encode: (text: string) => text.length,
	poll: () => 0,
	packetReceive: () => 0,
	getFeature: () => false,
	setFrames: (buffer: ArrayBuffer, _: number, rx: Int32Array) => {
		system.frames = new Uint8Array(buffer);
		system.rx = rx;
	},
	packetOpen: (ifindex: number) => {
		const fd = opened("packetOpen");
		devices.set(fd, ifindex);
		return fd;
	},
	tunOpen: (name: string) => {
		const device = link(++lastFd, name);
		system.kernel.links.push(device);
		system.kernel.tell(device, RTM.NEWLINK);
		return opened("tunOpen");
	},
	packetSend: (fd: number, _: boolean, tx: Int32Array, from: number, count: number) => send(devices.get(fd) as number, tx, from, count),
	packetSendTo: (_: number, ifindex: number, __: number, tx: Int32Array, from: number, count: number) => send(ifindex, tx, from, count),
	close: (fd: number) => {
		if (fd >= 0 && fd < FIRST_FD) system.kernel.close(fd);
		system.open.delete(fd);
	},
	netlinkOpen: (protocol: number, groups: number[]) =>
		protocol === NETLINK_ROUTE ? system.kernel.netlinkOpen(protocol, groups) : opened("netlinkOpen"),
	netlinkSend: (fd: number, buffer: ArrayBuffer, length: number) => {
		if (fd < FIRST_FD) return system.kernel.netlinkSend(fd, buffer, length);
		const view = new DataView(buffer);
		const sequence = view.getUint32(8, LITTLE_ENDIAN);
		const dump = (view.getUint16(6, LITTLE_ENDIAN) & 0x300) === 0x300;
		answers.set(fd, [...(answers.get(fd) ?? []), status(dump ? NLMSG_DONE : NLMSG_ERROR, sequence, 0)]);
		return undefined;
	},
	netlinkReceive: (fd: number, buffer: ArrayBuffer) => {
		if (fd < FIRST_FD) return system.kernel.netlinkReceive(fd, buffer);
		const next = answers.get(fd)?.shift();
		if (next === undefined) return 0;
		new Uint8Array(buffer).set(new Uint8Array(next));
		return next.byteLength;
	},
};

/** The module. */
export function nativeModule(): Record<string, unknown> {
	const text = readFileSync(new URL("../../src/native.d.ts", import.meta.url), "utf8");
	const module: Record<string, unknown> = {};
	for (const [, name, value] of text.matchAll(/export const (\w+): (\w+);/g)) module[name] = Number(value) || 1;
	for (const [, name, result] of text.matchAll(/export function (\w+)\(.*\): (.+);$/gm)) {
		module[name] = (...args: never[]) => {
			const refusal = system.refuse.get(name);
			if (!QUIET.has(name)) system.calls.push(words(name, args));
			if (refusal !== undefined) throw refusal;
			return ours[name]?.(...args) ?? (result === "Fd" ? opened(name) : 0);
		};
	}
	return module;
}

function words(name: string, args: unknown[]): string {
	if (name === "close") return `close ${system.open.get(args[0] as number) ?? "netlinkOpen"}`;
	return [name, ...args.filter((arg) => typeof arg === "string" && !arg.includes("\n"))].join(" ");
}
