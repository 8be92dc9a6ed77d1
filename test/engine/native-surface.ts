/**
 * "masq:native" on the real engine: the exports are those of src/native.d.ts, and every function does what is written
 * there, with real files, processes, sockets and devices. test/engine/run-native.sh bundles this and runs it in a
 * network namespace of its own, as root.
 */

import type { NativeError } from "masq:native";
import * as native from "masq:native";

/** What surface-list.mjs prints. */
declare const SURFACE: { functions: Record<string, number>; constants: Record<string, number | null> };
/** An empty directory to work in. */
declare const SCRATCH: string;

/** What a router's executable runs under: qemu-user, or "" if nothing. */
declare const EMULATOR: string;
/** The engine has a parser: a router's has none, and takes bytecode. */
declare const PARSER: boolean;

const NO_PACKET_OPTIONS = "setsockopt SOL_PACKET: ENOPROTOOPT for PACKET_VNET_HDR, so no packet port opens";

/**
 * What is not run under qemu-user, because it does not do this (tried with 7.2): for each test the part that is
 * missing. The same tests run on this machine's processor, and the emulated router (test/router) moves packets on a
 * MIPS kernel.
 */
const NOT_EMULATED: Record<string, string> = {
	"signals by descriptor": "signalfd: the blocked signal ends the process, for qemu-user takes it for itself",
	"mapFile: a file that somebody cuts short reads as zeros and is whole again": "a SIGBUS in the program's own memory ends qemu-user",
	"frames: bounds of every call": NO_PACKET_OPTIONS,
	tunOpen: NO_PACKET_OPTIONS,
	"a batch into the TUN device comes out of a packet socket": NO_PACKET_OPTIONS,
	"a batch sent by a packet socket comes out of the TUN device, and not back in": NO_PACKET_OPTIONS,
	"part of the pairs, part of the slots, no frame at all": NO_PACKET_OPTIONS,
	"a frame that does not fit its slot is cut": NO_PACKET_OPTIONS,
	"filters: in force from the first frame, replaced later": NO_PACKET_OPTIONS,
	"a frame that the kernel refuses ends the batch, and says why": NO_PACKET_OPTIONS,
	"sockets that only send: the same frames, raw and as datagrams": NO_PACKET_OPTIONS,
	"Ethernet: sent by datagrams, the kernel writes the link header": NO_PACKET_OPTIONS,
	"a socket whose buffer overflows counts what it lost": NO_PACKET_OPTIONS,
	"a device that goes down, and one that goes away": NO_PACKET_OPTIONS,
	"a TUN device goes with its descriptor": NO_PACKET_OPTIONS,
	"Ethernet: frames between two devices, link header and all": NO_PACKET_OPTIONS,
	"a full send buffer stops the batch, without an exception": NO_PACKET_OPTIONS,
	"a super-packet with its virtio header crosses as one": NO_PACKET_OPTIONS,
	"bpf: a map's value is shared memory, a program sees it and its link goes with the descriptor": "bpf(2): ENOSYS",
	"device features": "ioctl SIOCETHTOOL: ENOSYS",
};

const TUN = "mqtun0";
const VETH_A = "mqveth0";
const VETH_B = "mqveth1";
const CAP_NET_ADMIN = 12;
const CAP_NET_RAW = 13;
const { SIGUSR1 } = native;
const SIGKILL = 9;
const SIGTERM = 15;

let passed = 0;
let failed = 0;

function print(line: string): void {
	native.print(1, `${line}\n`);
}

function test(name: string, body: () => void): void {
	if (EMULATOR !== "" && name in NOT_EMULATED) {
		print(`not under qemu-user: ${name}: ${NOT_EMULATED[name]}`);
		return;
	}
	try {
		body();
		passed++;
		print(`ok ${name}`);
	} catch (error) {
		failed++;
		const stack = error instanceof Error && error.stack ? `\n${error.stack}` : "";
		print(`FAIL ${name}: ${error}${stack}`);
	}
}

function equal(found: unknown, expected: unknown, what = "value"): void {
	const left = JSON.stringify(found);
	const right = JSON.stringify(expected);
	if (left !== right) throw new Error(`${what}: ${left}, expected ${right}`);
}

function truth(condition: boolean, what: string): void {
	if (!condition) throw new Error(`not so: ${what}`);
}

function caught(body: () => unknown): Error {
	let result: unknown;
	try {
		result = body();
	} catch (error) {
		if (error instanceof Error) return error;
		throw error;
	}
	throw new Error(`nothing thrown, result ${JSON.stringify(result)}`);
}

/** `body` throws a NativeError with this code. */
function refuses(code: string, body: () => unknown): NativeError {
	const error = caught(body) as NativeError;
	equal(error.code, code, `code of "${error.message}"`);
	truth(Number.isInteger(error.errno) && error.errno > 0, `errno of ${error.message}`);
	truth(/^[a-z0-9]+[^(]*\(.*\): \S/.test(error.message), `form of "${error.message}"`);
	return error;
}

/** `body` throws RangeError and has no errno: no system call was made. */
function outOfRange(body: () => unknown): void {
	const error = caught(body);
	truth(error instanceof RangeError && !("errno" in error), `${error} is a RangeError`);
}

function outOfType(body: () => unknown): void {
	const error = caught(body);
	truth(error instanceof TypeError, `${error} is a TypeError`);
}

/** Runs a program that must succeed. */
function sh(...argv: string[]): string {
	const { status, output } = native.run(argv, "", 10000);
	if (status !== 0) throw new Error(`${argv.join(" ")}: status ${status}: ${output}`);
	return output;
}

function bytes(...values: number[]): ArrayBuffer {
	return new Uint8Array(values).buffer as ArrayBuffer;
}

/** Waits until one descriptor is readable. */
function readable(fd: number, timeoutMs = 2000): boolean {
	return native.poll(new Int32Array([fd, native.POLLIN, 0]), 1, timeoutMs) === 1;
}

/** The words that run this program once more. */
const program = [...(EMULATOR === "" ? [] : [EMULATOR]), native.readLink("/proc/self/exe")];

// ---- what `capabilities` as first argument does: in a process of its own, since they never come back ----------------

function status(field: string): string {
	const line = native
		.readFile("/proc/self/status")
		.split("\n")
		.find((one) => one.startsWith(`${field}:`));
	return line?.match(/:\s*(\S+)/)?.[1] ?? "";
}

if (native.args()[0] === "capabilities") {
	const mask = 2 ** CAP_NET_ADMIN + 2 ** CAP_NET_RAW;
	native.keepCapabilities(mask);
	native.keepCapabilities(mask);
	const hex = mask.toString(16).padStart(16, "0");
	for (const field of ["CapInh", "CapPrm", "CapEff", "CapBnd"])
		truth(BigInt(`0x${status(field)}`) === (field === "CapInh" ? BigInt(`0x${status(field)}`) & BigInt(mask) : BigInt(mask)), field);
	equal(status("NoNewPrivs"), "1");
	equal([native.hasCapability(CAP_NET_ADMIN), native.hasCapability(CAP_NET_RAW), native.hasCapability(0)], [true, true, false]);
	refuses("EPERM", () => native.keepCapabilities(2 ** CAP_NET_RAW));
	truth(sh("cat", "/proc/self/status").includes(`CapEff:\t${hex}`), "a child has them and no others");
	print("capabilities kept");
	native.exit(7);
}
if (native.args()[0] === "path") {
	// A program that is in sbin only.
	native.print(1, `${native.getenv("PATH")} ${native.run(["ip", "-V"], "", 10000).status}\n`);
	native.exit(0);
}
if (native.args()[0] === "throw") throw new RangeError("on purpose");
if (native.args()[0] === "hang") {
	native.alarm(1);
	for (;;);
}
if (native.args()[0] === "stop") {
	native.alarm(1);
	native.run(["kill", "-STOP", `${native.getpid()}`], "", 10000);
}
if (native.args()[0] === "import") {
	let missing = "";
	try {
		native.importBundle("nowhere");
	} catch (error) {
		missing = (error as Error).message;
	}
	native.print(1, `${JSON.stringify(native.importBundle("beside"))} ${missing}\n`);
	native.exit(0);
}
if (native.args()[0] === "wait") await new Promise(() => {});

// ---- the surface ----------------------------------------------------------------------------------------------------

test("exports are those of native.d.ts", () => {
	const declared = [...Object.keys(SURFACE.functions), ...Object.keys(SURFACE.constants)].sort();
	equal(Object.keys(native).sort(), declared);
});

test("functions have the declared arity", () => {
	for (const [name, arity] of Object.entries(SURFACE.functions)) {
		const member = (native as unknown as Record<string, unknown>)[name];
		truth(typeof member === "function", `${name} is a function`);
		equal((member as () => void).length, arity, `${name}.length`);
	}
});

test("constants have the declared values", () => {
	for (const [name, value] of Object.entries(SURFACE.constants)) {
		const member = (native as unknown as Record<string, unknown>)[name];
		truth(typeof member === "number", `${name} is a number`);
		if (value !== null) equal(member, value, name);
	}
	equal([native.POLLIN, native.POLLOUT, native.POLLERR, native.POLLHUP], [1, 4, 8, 16]);
});

test("an undefined descriptor is not descriptor 0", () => {
	outOfType(() => native.signalRead(undefined as unknown as number));
	outOfType(() => native.readFile(undefined as unknown as string));
	outOfRange(() => native.close(1.5));
	outOfRange(() => native.close(Number.NaN));
	outOfRange(() => native.close(-2));
	outOfRange(() => native.readFile("/dev/null\0x"));
});

// ---- process --------------------------------------------------------------------------------------------------------

test("processors, processor, runOn", () => {
	const all = native.processors();
	truth(all.length > 0 && all.every((cpu, n) => n === 0 || cpu > all[n - 1]), "ascending numbers");
	truth(all.includes(native.processor()), "runs on one of them");
	for (const cpu of all) {
		native.runOn([cpu]);
		equal(native.processors(), [cpu]);
		equal(native.processor(), cpu);
	}
	native.runOn(all);
	equal(native.processors(), all);
	refuses("EINVAL", () => native.runOn([]));
	refuses("EINVAL", () => native.runOn([127]));
	outOfRange(() => native.runOn([128]));
	outOfRange(() => native.runOn([-1]));
});

test("args, getenv, getpid, geteuid", () => {
	equal(native.args(), []);
	truth(native.getenv("MASQD_JS")?.includes("native-surface.js") === true, "MASQD_JS");
	equal(native.getenv("MASQD_NO_SUCH_VARIABLE"), undefined);
	equal(native.readLink("/proc/self"), String(native.getpid()));
	equal(native.geteuid(), 0);
	const child = native.run(["env", `MASQD_JS=${native.getenv("MASQD_JS")}`, ...program, "throw", "ü"], "", 10000);
	equal(child.status, 1);
});

test("host: a process that hangs ends by its alarm, and one that does not goes on", () => {
	native.alarm(3600);
	native.alarm(0);
	outOfRange(() => native.alarm(-1));
	outOfRange(() => native.alarm(3601));
	const { status } = native.run(["env", `MASQD_JS=${native.getenv("MASQD_JS")}`, ...program, "hang"], "", 10000);
	equal(status, 128 + SIGKILL);
	const stopped = native.run(["env", `MASQD_JS=${native.getenv("MASQD_JS")}`, ...program, "stop"], "", 10000);
	equal(stopped.status, 128 + SIGKILL);
});

test("host: a bundle beside this one, and one that is not there", () => {
	const { output } = native.run(["env", `MASQD_JS=${native.getenv("MASQD_JS")}`, ...program, "import"], "", 10000);
	truth(/^\{"answer":42\} cannot read the program .*\/nowhere\.(js|qbc): No such file or directory\n$/.test(output), output);
});

test("host: a bundle of another build, as an upgrade leaves one below a running daemon, is not read", () => {
	const { output } = native.run(["env", `MASQD_JS=${SCRATCH}/builds.js${PARSER ? "" : ".qbc"}`, ...program], "", 10000);
	const lines = output.replaceAll(/\S*\/(\w+)\.(js|qbc)/g, "$1").split("\n");
	const refused = (name: string) => `${name} is of another build than the masqd that runs: restart it`;
	equal(lines, ['{"build":1}', refused("other"), `other: ${refused("other")}`, refused("beside"), ""]);
});

test("ask: in an engine of its own, with nothing of it left and nothing of ours there", () => {
	equal(native.ask("asked", "a"), "a, 1 times");
	equal(native.ask("asked", "\u20ac\u{1f600}"), "\u20ac\u{1f600}, 1 times");
	const said = (what: () => unknown) => {
		try {
			return what();
		} catch (error) {
			return (error as Error).message;
		}
	};
	equal(
		said(() => native.ask("asked", "throw")),
		"asked: on purpose",
	);
	truth(/^nowhere: cannot read the program .*nowhere\.(js|qbc): /.test(String(said(() => native.ask("nowhere", "")))), "not there");
	for (let n = 0; n < 50; n++) native.ask("asked", "x".repeat(10000));
});

test("host: programs are found without a PATH, as in OpenWrt's jail, and by the one that is given", () => {
	const bundle = `MASQD_JS=${native.getenv("MASQD_JS")}`;
	// The emulator and the program by where they are: env looks for them by the PATH it has just emptied.
	const whole = EMULATOR === "" ? program : [`/usr/bin/${EMULATOR}`, ...program.slice(1)];
	for (const path of [[], ["PATH="]])
		equal(native.run(["env", "-i", ...path, bundle, ...whole, "path"], "", 10000).output, "/usr/sbin:/usr/bin:/sbin:/bin 0\n");
	equal(native.run(["env", "-i", "PATH=/usr/sbin:/sbin", bundle, ...whole, "path"], "", 10000).output, "/usr/sbin:/sbin 0\n");
});

test("host: status and words for an exception, a missing bundle, a promise that never settles", () => {
	const bundle = `MASQD_JS=${native.getenv("MASQD_JS")}`;
	const thrown = native.run(["env", bundle, ...program, "throw"], "", 10000);
	equal(thrown.status, 1);
	truth(/^masqd: uncaught exception: RangeError: on purpose\n {4}at /.test(thrown.output), thrown.output);
	const missing = native.run(["env", "MASQD_JS=/no/such/bundle", ...program], "", 10000);
	equal(missing.status, 1);
	equal(missing.output, "masqd: cannot read the program /no/such/bundle: No such file or directory\n");
	const waiting = native.run(["env", bundle, ...program, "wait"], "", 10000);
	equal(waiting.status, 1);
	truth(/^masqd: .* waits for something that never comes\n$/.test(waiting.output), waiting.output);
	native.writeFile(`${SCRATCH}/syntax.js`, "import x from 'masq:native';\n(", 0o600);
	const syntax = native.run(["env", `MASQD_JS=${SCRATCH}/syntax.js`, ...program], "", 10000);
	equal(syntax.status, 1);
	truth(syntax.output.includes(PARSER ? "SyntaxError" : "syntax.js is not bytecode of this program's engine"), syntax.output);
});

test("host: descriptors 0, 1 and 2 are never a socket", () => {
	const closed = `${SCRATCH}/closed.js${PARSER ? "" : ".qbc"}`;
	const child = native.run(["sh", "-c", `MASQD_JS=${closed} ${program.join(" ")} ${SCRATCH}/closed.lock <&- >&- 2>&-`], "", 10000);
	equal(child.status, 3);
});

test("run: input, output, status", () => {
	equal(native.run(["cat"], "grüße\u{1f600}\n", 5000), { status: 0, output: "grüße\u{1f600}\n" });
	equal(native.run(["sh", "-c", "echo out; echo err >&2; exit 3"], "", 5000), { status: 3, output: "out\nerr\n" });
	equal(native.run(["sh", "-c", "kill -TERM $$"], "", 5000).status, 128 + SIGTERM);
	// By the machine's own number, which is another one on MIPS.
	equal(SIGUSR1, EMULATOR.includes("mips") ? 16 : 10);
	equal(native.run(["wc", "-c"], "x".repeat(1 << 20), 5000).output.trim(), String(1 << 20));
	equal(native.run(["head", "-c", "200000", "/dev/zero"], "", 5000), { status: 0, output: "\0".repeat(65536) });
	equal(native.run(["true"], "x".repeat(1 << 20), 5000).status, 0);
	equal(native.run(["printf", "\\377\\376A"], "", 5000).output, "\ufffd\ufffdA");
});

test("run: refusals", () => {
	truth(refuses("ENOENT", () => native.run(["masqd-no-such-program"], "", 1000)).message.includes("masqd-no-such-program"), "name");
	refuses("EACCES", () => native.run([SCRATCH], "", 1000));
	outOfRange(() => native.run([], "", 1000));
	outOfRange(() => native.run(["true"], "", -1));
	outOfType(() => native.run(["true", 1 as unknown as string], "", 1000));
	outOfType(() => native.run("true" as unknown as string[], "", 1000));
});

test("run: time is up", () => {
	for (const script of ["sleep 30", "exec >&- 2>&-; sleep 30", "sleep 30 & sleep 30", "trap '' TERM INT HUP; while :; do echo x; done"]) {
		const start = native.now();
		equal(native.run(["sh", "-c", script], "", 300).status, 137, script);
		const took = native.now() - start;
		truth(took >= 290 && took < 5000, `${script}: ${took} ms`);
	}
});

test("run: a grandchild that holds the output open does not hold masqd up", () => {
	const start = native.now();
	equal(native.run(["sh", "-c", "sleep 3 & echo started"], "", 10000), { status: 0, output: "started\n" });
	truth(native.now() - start < 2000, "at once");
});

test("start: beside the loop, its output and its end", () => {
	const output = new ArrayBuffer(100);
	const { pid, output: fd } = native.start(["sh", "-c", "cat; cat; echo done >&2; sleep 30 & kill -9 $$"], "grüße\n");
	truth(native.poll(new Int32Array([fd, native.POLLIN, 0]), 1, 5000) === 1, "something to read");
	let status = native.ended(pid, false);
	for (; status < 0; status = native.ended(pid, false)) native.poll(new Int32Array(0), 0, 1);
	equal(status, 128 + 9);
	const length = native.read(fd, output, 0, 100);
	equal(native.decode(output, 0, length), "grüße\ndone\n");
	// What it has started holds its output open.
	equal(native.read(fd, output, 0, 100), -1);
	native.close(fd);
	refuses("ECHILD", () => native.ended(pid, false));
	refuses("ENOENT", () => native.start(["masqd-no-such-program"], ""));
	const hanging = native.start(["sh", "-c", "sleep 30; sleep 30"], "");
	equal(native.ended(hanging.pid, false), -1);
	for (status = native.ended(hanging.pid, true); status < 0; status = native.ended(hanging.pid, false))
		native.poll(new Int32Array(0), 0, 1);
	equal(status, 137);
	// What it has started ends with it, though perhaps a moment later.
	native.poll(new Int32Array([hanging.output, native.POLLIN, 0]), 1, -1);
	equal(native.read(hanging.output, output, 0, 100), 0);
	native.close(hanging.output);
});

test("run: the child has no descriptor, signal mask or ignored signal of ours", () => {
	const fd = native.lockFile(`${SCRATCH}/inherited`);
	const signals = native.signalOpen([SIGUSR1]);
	equal(sh("ls", "/proc/self/fd").trim().split("\n"), ["0", "1", "2", "3"]);
	const child = sh("cat", "/proc/self/status");
	equal(/SigBlk:\s*(\S+)/.exec(child)?.[1], "0".repeat(16));
	truth((BigInt(`0x${/SigIgn:\s*(\S+)/.exec(child)?.[1]}`) & (1n << 12n)) === 0n, "SIGPIPE is not ignored");
	native.close(signals);
	native.close(fd);
});

test("signals by descriptor", () => {
	const fd = native.signalOpen([SIGUSR1, SIGTERM]);
	equal(native.signalRead(fd), 0);
	sh("kill", "-USR1", String(native.getpid()));
	truth(readable(fd), "readable");
	equal(native.signalRead(fd), SIGUSR1);
	sh("kill", "-TERM", String(native.getpid()));
	equal([native.signalRead(fd), native.signalRead(fd)], [SIGTERM, 0]);
	native.close(fd);
	outOfRange(() => native.signalOpen([0]));
	outOfRange(() => native.signalOpen([65]));
	refuses("EBADF", () => native.signalRead(999));
});

test("capabilities", () => {
	truth(native.hasCapability(CAP_NET_ADMIN), "root has CAP_NET_ADMIN");
	outOfRange(() => native.hasCapability(64));
	outOfRange(() => native.keepCapabilities(2 ** 53));
	outOfRange(() => native.keepCapabilities(-1));
	const child = native.run(["env", `MASQD_JS=${native.getenv("MASQD_JS")}`, ...program, "capabilities"], "", 10000);
	equal(child, { status: 7, output: "capabilities kept\n" });
});

test("exit takes 0 to 255", () => {
	outOfRange(() => native.exit(256));
	outOfRange(() => native.exit(-1));
});

test("syslog", () => {
	native.syslogOpen("masqd-test");
	equal(typeof native.syslogWrite(7, "100% sure\n"), "boolean");
	outOfRange(() => native.syslogWrite(8, "x"));
});

// ---- time and randomness --------------------------------------------------------------------------------------------

test("clocks", () => {
	const uptime = Number(native.readFile("/proc/uptime").split(" ")[0]) * 1000;
	truth(Math.abs(native.now() - uptime) < 1000, "now is the time since boot");
	const start = native.nanoseconds();
	const boot = native.now();
	native.poll(new Int32Array(0), 0, 20);
	const took = native.nanoseconds() - start;
	truth(took >= 19e6 && took < 2e9, `20 ms took ${took} ns`);
	truth(native.now() - boot >= 19, "now moves");
	// The kernel's own sum, whose second is a whole one.
	const booted = Number(/^btime (\d+)$/m.exec(native.readFile("/proc/stat"))?.[1]) * 1000;
	truth(Math.abs(native.wallClock() - booted - native.now()) < 2000, "wall clock");
	truth(native.cpuNanoseconds() > 0, "processor time");
});

test("random fills its range and no more", () => {
	const buffer = new ArrayBuffer(64);
	const view = new Uint8Array(buffer);
	native.random(buffer, 8, 48);
	truth(view.subarray(0, 8).every((byte) => byte === 0) && view.subarray(56).every((byte) => byte === 0), "outside untouched");
	truth(
		view.subarray(8, 56).some((byte) => byte !== 0),
		"inside filled",
	);
	native.random(buffer, 64, 0);
	for (const [offset, length] of [
		[0, 65],
		[64, 1],
		[65, 0],
		[-1, 1],
		[0, -1],
		[0, 2 ** 40],
	])
		outOfRange(() => native.random(buffer, offset!, length!));
	outOfType(() => native.random(view as unknown as ArrayBuffer, 0, 1));
});

// ---- files ----------------------------------------------------------------------------------------------------------

test("files: write, read, rename, unlink, size", () => {
	const path = `${SCRATCH}/file`;
	native.writeFile(path, "größe €\u{1f600}", 0o640);
	equal(native.readFile(path), "größe €\u{1f600}");
	equal(native.fileSize(path), 15);
	equal(sh("stat", "-c", "%a", path).trim(), "640");
	native.writeFile(path, "short", 0o600);
	equal(native.readFile(path), "short");
	native.rename(path, `${path}2`);
	equal(native.fileSize(path), -1);
	native.unlink(`${path}2`);
	const missing = refuses("ENOENT", () => native.unlink(`${path}2`));
	equal(missing.errno, 2);
	equal(missing.message, `unlink(${path}2): No such file or directory`);
	refuses("ENOENT", () => native.rename(path, `${path}2`));
	refuses("ENOENT", () => native.writeFile(`${SCRATCH}/none/file`, "", 0o600));
	refuses("EISDIR", () => native.readFile(SCRATCH));
	refuses("EFBIG", () => native.readFile("/dev/zero"));
	refuses("ENOSPC", () => native.writeFile("/dev/full", "x", 0o600));
	truth(native.readFile("/proc/self/status").startsWith("Name:"), "files that say they are empty");
	equal(native.readFile("/dev/null"), "");
});

test("createFile: only what is one's own", () => {
	const path = `${SCRATCH}/created`;
	native.writeFile(path, "old", 0o644);
	const fd = native.createFile(path, 0o600);
	equal(native.fileSize(path), 0);
	equal(sh("stat", "-c", "%a", path).trim(), "600");
	native.print(fd, "new");
	native.close(fd);
	equal(native.readFile(path), "new");
	sh("ln", "-s", path, `${path}-link`);
	sh("ln", path, `${path}-name`);
	sh("mkfifo", `${path}-pipe`);
	refuses("ELOOP", () => native.createFile(`${path}-link`, 0o600));
	refuses("ELOOP", () => native.writeFile(`${path}-link`, "", 0o600));
	refuses("EPERM", () => native.createFile(`${path}-name`, 0o600));
	refuses("EPERM", () => native.createFile(path, 0o600));
	refuses("ENXIO", () => native.createFile(`${path}-pipe`, 0o600));
	refuses("ENOENT", () => native.createFile(`${SCRATCH}/none/file`, 0o600));
	equal(native.readFile(path), "new");
	for (const end of ["", "-link", "-name", "-pipe"]) native.unlink(path + end);
	native.close(native.createFile(path, 0o600));
	native.unlink(path);
});

test("files: a large one", () => {
	const text = "0123456789abcdef".repeat(65536);
	native.writeFile(`${SCRATCH}/large`, text, 0o600);
	truth(native.readFile(`${SCRATCH}/large`) === text, "same text");
	native.unlink(`${SCRATCH}/large`);
});

test("directories and links", () => {
	const path = `${SCRATCH}/directory`;
	native.mkdir(path, 0o700);
	native.mkdir(path, 0o700);
	equal(native.readDir(path), []);
	for (const name of ["a", "b", "ü"]) native.writeFile(`${path}/${name}`, name, 0o600);
	equal(native.readDir(path).sort(), ["a", "b", "ü"]);
	refuses("EEXIST", () => native.mkdir(`${path}/a`, 0o700));
	refuses("ENOENT", () => native.readDir(`${path}/none`));
	refuses("ENOTDIR", () => native.readDir(`${path}/a`));
	refuses("EINVAL", () => native.readLink(`${path}/a`));
	truth(native.readDir("/proc/self").includes("status"), "/proc");
});

test("text: UTF-8 both ways", () => {
	const buffer = new ArrayBuffer(32);
	const view = new Uint8Array(buffer);
	equal(native.encode("aä€\u{1f600}", buffer, 3), 10);
	equal([...view.subarray(3, 13)], [0x61, 0xc3, 0xa4, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80]);
	equal(native.decode(buffer, 3, 10), "aä€\u{1f600}");
	equal(native.encode("\ud800x\udc00", buffer, 0), 7);
	equal(native.decode(buffer, 0, 7), "\ufffdx\ufffd");
	equal(native.encode("", buffer, 32), 0);
	equal(native.encode(`${"é".repeat(3)}${"x".repeat(4)}`.repeat(3), buffer, 2), 30);
	outOfRange(() => native.encode("x".repeat(33), buffer, 0));
	outOfRange(() => native.encode("xx", buffer, 31));
	outOfRange(() => native.encode("", buffer, 33));
	outOfRange(() => native.decode(buffer, 30, 3));
	outOfType(() => native.encode(1 as unknown as string, buffer, 0));
});

test("text: bytes that are not UTF-8 become U+FFFD, and only they do", () => {
	const bad = "\ufffd";
	const cases: [number[], string][] = [
		[[0x80, 0x41], `${bad}A`],
		[[0x41, 0xff, 0x42], `A${bad}B`],
		[[0xc0, 0xaf], bad + bad],
		[[0xc3, 0x28], `${bad}(`],
		[[0xe2, 0x82, 0x41], `${bad}A`],
		[[0xe2, 0x82], bad],
		[[0xed, 0xa0, 0x80], bad + bad + bad],
		[[0xf0, 0x9f, 0x98], bad],
		[[0xf4, 0x90, 0x80, 0x80], bad.repeat(4)],
		[[0xf8, 0x88, 0x80, 0x80, 0x80], bad.repeat(5)],
		[[0xe0, 0x80, 0x80], bad.repeat(3)],
		[[0xf4, 0x8f, 0xbf, 0xbf], "\u{10ffff}"],
		[[0xef, 0xbf, 0xbf], "\uffff"],
		[[0x00, 0x7f], "\0\x7f"],
	];
	for (const [input, text] of cases) equal(native.decode(bytes(...input), 0, input.length), text, input.join(" "));
});

test("mapFile: shared, kept, resized, unmapped", () => {
	const path = `${SCRATCH}/map`;
	let first: ArrayBuffer | null = native.mapFile(path, 10000);
	let second: ArrayBuffer | null = native.mapFile(path, 10000);
	equal([first.byteLength, native.fileSize(path)], [10000, 10000]);
	equal(sh("stat", "-c", "%a", path).trim(), "600");
	new Int32Array(first)[100] = 0x31323334;
	equal(new Int32Array(second)[100], 0x31323334);
	native.releasePages(first, 0, 10000);
	equal(new Int32Array(first)[100], 0x31323334, "in the file after releasePages");
	truth(/34333231|1234|4321/.test(native.readFile(path)), "in the file");
	truth(native.readFile("/proc/self/maps").includes("/map\n"), "mapped");
	first = null;
	second = null;
	truth(!native.readFile("/proc/self/maps").includes("/map\n"), "unmapped when collected");
	equal(new Int32Array(native.mapFile(path, 10000))[100], 0x31323334, "outlives the mapping");
	native.mapFile(path, 4096);
	equal(native.fileSize(path), 4096);
	sh("ln", "-s", "map", `${path}-link`);
	refuses("ELOOP", () => native.mapFile(`${path}-link`, 4096));
	refuses("EISDIR", () => native.mapFile(SCRATCH, 4096));
	for (const size of [0, -1, 2 ** 31, 1.5]) outOfRange(() => native.mapFile("", size));
});

test("mapFile: anonymous pages, releasePages", () => {
	const buffer = native.mapFile("", 16384);
	const view = new Uint8Array(buffer);
	truth(
		view.every((byte) => byte === 0),
		"zeroed",
	);
	view.fill(7);
	native.releasePages(buffer, 100, 8192 + 200);
	equal([view[0], view[4095], view[4096], view[8191], view[8192], view[16383]], [7, 7, 0, 0, 7, 7]);
	native.releasePages(buffer, 1, 100);
	equal(view[1], 7);
	outOfRange(() => native.releasePages(buffer, 0, 16385));
});

test("mapFile: a file that somebody cuts short reads as zeros and is whole again", () => {
	const path = `${SCRATCH}/cut`;
	const words = new Int32Array(native.mapFile(path, 65536));
	words.fill(7);
	sh("truncate", "-s", "8192", path);
	equal([words[0], words[2047]], [7, 7], "nothing is lost yet");
	equal(words[16383], 0);
	equal([words[0], words[2047]], [0, 0]);
	equal(native.fileSize(path), 65536);
	words.fill(5);
	sh("truncate", "-s", "0", path);
	words[100] = 9;
	equal([words[0], words[100]], [0, 9]);
	equal(new Int32Array(native.mapFile(path, 65536))[100], 9);
});

test("lockFile", () => {
	const path = `${SCRATCH}/lock`;
	const fd = native.lockFile(path);
	equal(refuses("EAGAIN", () => native.lockFile(path)).errno, 11);
	native.close(fd);
	native.close(native.lockFile(path));
	sh("ln", "-s", "lock", `${path}-link`);
	refuses("ELOOP", () => native.lockFile(`${path}-link`));
	native.close(-1);
	refuses("EBADF", () => native.close(fd));
});

test("print writes everything, also to a full descriptor", () => {
	refuses("EBADF", () => native.print(999, "x"));
	const listener = native.unixListen(`${SCRATCH}/print`, 0o600);
	const client = native.unixConnect(`${SCRATCH}/print`);
	native.print(client, "hä\n");
	const server = native.accept(listener);
	const buffer = new ArrayBuffer(16);
	equal(native.decode(buffer, 0, native.read(server, buffer, 0, 16)), "hä\n");
	for (const fd of [listener, client, server]) native.close(fd);
});

test("openWriter opens what may block once more, without blocking", () => {
	refuses("ENOENT", () => native.openWriter(`${SCRATCH}/none`));
	const path = `${SCRATCH}/fifo`;
	sh("mkfifo", path);
	refuses("ENXIO", () => native.openWriter(path));
	// Both ends, as Linux has it.
	const both = native.lockFile(path);
	const writer = native.openWriter(path);
	const page = new ArrayBuffer(4096);
	let pages = 0;
	while (native.write(writer, page, 0, 4096) === 4096) pages++;
	truth(pages > 0, "a full pipe is no error and no wait");
	equal(native.write(writer, page, 0, 1), -1);
	native.close(both);
	refuses("EPIPE", () => native.write(writer, page, 0, 1));
	native.close(writer);
});

test("write does not wait on a blocking socket", () => {
	const listener = native.unixListen(`${SCRATCH}/stuck`, 0o600);
	const client = native.unixConnect(`${SCRATCH}/stuck`);
	const server = native.accept(listener);
	const page = new ArrayBuffer(4096);
	while (native.write(client, page, 0, 4096) > 0);
	equal(native.write(client, page, 0, 1), -1);
	native.close(server);
	refuses("EPIPE", () => native.write(client, page, 0, 1));
	for (const fd of [listener, client]) native.close(fd);
});

// ---- poll and unix sockets ------------------------------------------------------------------------------------------

test("unix sockets", () => {
	const path = `${SCRATCH}/socket`;
	refuses("ENOENT", () => native.unixConnect(path));
	const listener = native.unixListen(path, 0o620);
	equal(sh("stat", "-c", "%a %F", path).trim(), "620 socket");
	equal(native.accept(listener), -1);
	const client = native.unixConnect(path);
	truth(readable(listener), "connection announced");
	const server = native.accept(listener);
	truth(server > 2, "descriptor");
	const buffer = new ArrayBuffer(256);
	const view = new Uint8Array(buffer);
	equal(native.read(server, buffer, 0, 16), -1);
	view.set([1, 2, 3, 4, 5]);
	equal(native.write(client, buffer, 1, 3), 3);
	equal(native.read(server, buffer, 100, 16), 3);
	equal([...view.subarray(100, 104)], [2, 3, 4, 0]);
	const big = new ArrayBuffer(1 << 20);
	let written = 0;
	for (let count = native.write(server, big, 0, big.byteLength); count >= 0; count = native.write(server, big, 0, big.byteLength))
		written += count;
	truth(written > 0 && written < 1 << 24, `${written} bytes, then full`);
	for (const [offset, length] of [
		[250, 7],
		[-1, 1],
		[257, 0],
	]) {
		outOfRange(() => native.read(server, buffer, offset!, length!));
		outOfRange(() => native.write(server, buffer, offset!, length!));
	}
	native.close(server);
	for (let got = 1; got > 0; got = native.read(client, big, 0, big.byteLength));
	equal(native.read(client, buffer, 0, 16), 0, "end of file");
	refuses("EPIPE", () => native.write(client, buffer, 0, 16));
	native.close(client);
	native.close(listener);
	refuses("ECONNREFUSED", () => native.unixConnect(path));
	native.close(native.unixListen(path, 0o600));
	native.unlink(path);
	native.writeFile(path, "not a socket", 0o600);
	refuses("EADDRINUSE", () => native.unixListen(path, 0o600));
	equal(native.readFile(path), "not a socket");
	refuses("ENAMETOOLONG", () => native.unixListen("x".repeat(108), 0o600));
	refuses("ENOENT", () => native.unixConnect(""));
	refuses("EBADF", () => native.accept(999));
});

test("poll", () => {
	const listener = native.unixListen(`${SCRATCH}/poll`, 0o600);
	const client = native.unixConnect(`${SCRATCH}/poll`);
	const server = native.accept(listener);
	const set = new Int32Array([server, native.POLLIN, -1, client, native.POLLOUT, -1, 999, native.POLLIN, -1, -1, native.POLLIN, -1]);
	equal(native.poll(set, 2, 0), 1);
	equal([set[2], set[5], set[8]], [0, native.POLLOUT, -1]);
	equal(native.poll(set, 4, 1000), 2, "a closed descriptor is reported, -1 is passed over");
	equal([set[8], set[11]], [0x20, 0]);
	native.close(client);
	equal(native.poll(set, 1, -1), 1);
	equal(set[2], native.POLLIN | native.POLLHUP);
	equal(native.poll(new Int32Array(0), 0, 0), 0);
	equal(native.poll(set.subarray(9, 12), 1, 5), 0);
	outOfRange(() => native.poll(set, 5, 0));
	equal(native.poll(new Int32Array(3 * native.POLL_MAX).fill(-1), native.POLL_MAX, 0), 0);
	outOfRange(() => native.poll(new Int32Array(3 * native.POLL_MAX + 3), native.POLL_MAX + 1, 0));
	outOfRange(() => native.poll(set, -1, 0));
	outOfType(() => native.poll([1, 2, 3] as unknown as Int32Array, 1, 0));
	outOfType(() => native.poll(new Uint8Array(12) as unknown as Int32Array, 1, 0));
	native.close(server);
	native.close(listener);
});

// ---- netlink --------------------------------------------------------------------------------------------------------

interface Message {
	type: number;
	at: number;
	length: number;
}

const NLMSG_DONE = 3;
const RTM_NEWLINK = 16;
const RTM_GETLINK = 18;
const IFLA_IFNAME = 3;
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

function messages(buffer: ArrayBuffer, length: number): Message[] {
	const view = new DataView(buffer);
	const found: Message[] = [];
	for (let at = 0; at + 16 <= length; ) {
		const size = view.getUint32(at, LITTLE_ENDIAN);
		found.push({ type: view.getUint16(at + 4, LITTLE_ENDIAN), at: at + 16, length: size - 16 });
		at += (size + 3) & ~3;
	}
	return found;
}

function linkOf(buffer: ArrayBuffer, message: Message): { name: string; index: number } {
	const view = new DataView(buffer);
	const index = view.getInt32(message.at + 4, LITTLE_ENDIAN);
	for (let at = message.at + 16; at + 4 <= message.at + message.length; ) {
		const size = view.getUint16(at, LITTLE_ENDIAN);
		if (view.getUint16(at + 2, LITTLE_ENDIAN) === IFLA_IFNAME) return { name: native.decode(buffer, at + 4, size - 5), index };
		at += (size + 3) & ~3;
	}
	return { name: "", index };
}

function requestLinks(fd: number): void {
	const request = new ArrayBuffer(40);
	const view = new DataView(request);
	view.setUint32(0, 32, LITTLE_ENDIAN);
	view.setUint16(4, RTM_GETLINK, LITTLE_ENDIAN);
	view.setUint16(6, 0x301, LITTLE_ENDIAN);
	view.setUint32(8, 77, LITTLE_ENDIAN);
	native.netlinkSend(fd, request, 32);
}

/** Interface indexes by name. */
function links(): Map<string, number> {
	const fd = native.netlinkOpen(0, []);
	const buffer = new ArrayBuffer(65536);
	const found = new Map<string, number>();
	requestLinks(fd);
	for (let done = false; !done; ) {
		truth(readable(fd), "answer to the dump");
		for (const message of messages(buffer, native.netlinkReceive(fd, buffer))) {
			if (message.type === NLMSG_DONE) done = true;
			if (message.type === RTM_NEWLINK) {
				const { name, index } = linkOf(buffer, message);
				found.set(name, index);
			}
		}
	}
	equal(native.netlinkReceive(fd, buffer), 0);
	native.close(fd);
	return found;
}

function indexOf(name: string): number {
	const index = links().get(name);
	if (index === undefined) throw new Error(`no device ${name}`);
	return index;
}

test("netlink: dump of links", () => {
	equal(links().get("lo"), 1);
});

test("netlink: notifications, overrun, refusals", () => {
	const fd = native.netlinkOpen(0, [1]);
	const buffer = new ArrayBuffer(65536);
	equal(native.netlinkReceive(fd, buffer), 0);
	sh("ip", "link", "add", "mqdummy0", "type", "veth", "peer", "name", "mqdummy1");
	truth(readable(fd), "notified");
	const names = messages(buffer, native.netlinkReceive(fd, buffer)).map((message) => linkOf(buffer, message).name);
	truth(names[0]?.startsWith("mqdummy") === true, String(names));
	sh("ip", "link", "del", "mqdummy0");
	while (native.netlinkReceive(fd, buffer) > 0);
	requestLinks(fd);
	refuses("EMSGSIZE", () => native.netlinkReceive(fd, new ArrayBuffer(8)));
	while (native.netlinkReceive(fd, buffer) > 0);
	const commands = "link set lo up\nlink set lo down\n".repeat(1500);
	equal(native.run(["ip", "-batch", "-"], commands, 20000).status, 0);
	refuses("ENOBUFS", () => {
		while (native.netlinkReceive(fd, buffer) > 0);
	});
	outOfRange(() => native.netlinkSend(fd, new ArrayBuffer(16), 17));
	outOfRange(() => native.netlinkOpen(0, [0]));
	native.close(fd);
	refuses("EBADF", () => native.netlinkReceive(fd, buffer));
	refuses("EPROTONOSUPPORT", () => native.netlinkOpen(31, []));
});

// ---- frames ---------------------------------------------------------------------------------------------------------

const SLOT_SIZE = 2048;
const SLOTS = 160;
const BATCH = native.BATCH_MAX;
const IP = native.SLOT_IP;
const frameBuffer = native.mapFile("", SLOT_SIZE * SLOTS);
const frame = new Uint8Array(frameBuffer);
const rx = new Int32Array(2 * BATCH);
const tx = new Int32Array(2 * BATCH);

const UDP = 17;
const TCP = 6;

/** Writes an IPv4 packet of `length` bytes with sequence number `n` into a slot and describes it in `tx`. */
function fill(slot: number, pair: number, length: number, n: number, protocol = UDP): void {
	const base = slot * SLOT_SIZE;
	frame.fill(0, base, base + IP + length);
	const view = new DataView(frameBuffer, base + IP);
	view.setUint16(0, 0x4500);
	view.setUint16(2, length);
	view.setUint16(4, n);
	view.setUint8(8, 64);
	view.setUint8(9, protocol);
	view.setUint32(12, 0xc0000201);
	view.setUint32(16, 0xc6336407);
	let sum = 0;
	for (let at = 0; at < 20; at += 2) sum += view.getUint16(at);
	while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
	view.setUint16(10, ~sum & 0xffff);
	for (let at = 20; at < length; at++) view.setUint8(at, (at * 7 + n) & 0xff);
	const ether = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
	frame.set(ether, base + native.SLOT_ETHER);
	tx[2 * pair] = base;
	tx[2 * pair + 1] = length;
}

/** The packet that `rx` describes has the content that fill() gave it. */
function check(pair: number, slot: number, length: number, n: number): void {
	equal([rx[2 * pair], rx[2 * pair + 1]], [slot * SLOT_SIZE, length], `pair ${pair}`);
	const view = new DataView(frameBuffer, slot * SLOT_SIZE + IP);
	equal(view.getUint16(4), n, "sequence number");
	for (let at = 20; at < length; at++) if (view.getUint8(at) !== ((at * 7 + n) & 0xff)) throw new Error(`byte ${at} of packet ${n}`);
}

/** Receives until `count` frames are there, into slots from `first`. */
function receive(call: (first: number, max: number) => number, first: number, count: number): void {
	let got = 0;
	for (let tries = 0; got < count && tries < 200; tries++) {
		const more = call(first + got, BATCH);
		if (got > 0 && more > 0) throw new Error("in more than one batch");
		got += more;
		if (more === 0) native.poll(new Int32Array(0), 0, 5);
	}
	equal(got, count, "frames received");
}

test("frames: nothing before setFrames", () => {
	outOfRange(() => native.packetReceive(0, true, 0, 1));
	outOfRange(() => native.tunReceive(0, 0, 1));
	outOfRange(() => native.packetSend(0, true, tx, 0, 1));
	outOfRange(() => native.tunSend(0, tx, 0, 1));
	outOfRange(() => native.packetSendTo(0, 1, 0, tx, 0, 1));
	outOfRange(() => native.frameSum(0, 0));
});

test("setFrames: bounds, replacement", () => {
	outOfRange(() => native.setFrames(frameBuffer, 2047, rx, null));
	outOfRange(() => native.setFrames(frameBuffer, 24, rx, null));
	outOfRange(() => native.setFrames(new ArrayBuffer(2047), 2048, rx, null));
	outOfRange(() => native.setFrames(frameBuffer, 2048, new Int32Array(1), null));
	outOfType(() => native.setFrames(frame as unknown as ArrayBuffer, 2048, rx, null));
	const path = `${SCRATCH}/frames`;
	native.setFrames(native.mapFile(path, 65536), 2048, new Int32Array(8), null);
	truth(native.readFile("/proc/self/maps").includes("/frames\n"), "kept alive by the registration");
	outOfRange(() => native.packetReceive(0, true, 0, 5));
	native.setFrames(frameBuffer, SLOT_SIZE, rx, null);
	truth(!native.readFile("/proc/self/maps").includes("/frames\n"), "let go of");
});

test("frames: bounds of every call", () => {
	for (const [first, max] of [
		[-1, 1],
		[SLOTS, 1],
		[SLOTS - 1, 2],
		[0, BATCH + 1],
		[SLOTS + 1, 0],
		[0, -1],
	]) {
		outOfRange(() => native.packetReceive(0, true, first!, max!));
		outOfRange(() => native.tunReceive(0, first!, max!));
	}
	for (const [from, count] of [
		[-1, 1],
		[0, BATCH + 1],
		[1, BATCH],
		[BATCH, 1],
		[0, -1],
	]) {
		outOfRange(() => native.packetSend(0, true, tx, from!, count!));
		outOfRange(() => native.tunSend(0, tx, from!, count!));
	}
	for (const [offset, length] of [
		[-4, 20],
		[0, -1],
		[frameBuffer.byteLength, 0],
		[frameBuffer.byteLength - IP, 1],
		[0x7fffffff, 0x7fffffff],
	]) {
		const pairs = new Int32Array([0, 20, offset!, length!]);
		outOfRange(() => native.packetSend(0, true, pairs, 0, 2));
		outOfRange(() => native.packetSend(0, false, pairs, 1, 1));
		outOfRange(() => native.tunSend(0, pairs, 1, 1));
	}
	refuses("ENOTSOCK", () => native.packetReceive(native.lockFile(`${SCRATCH}/lock`), true, 0, 1));
	refuses("EBADF", () => native.tunReceive(999, 0, 1));
	outOfRange(() => native.packetOpen(0, true, null, 1, 1));
	refuses("ENODEV", () => native.packetOpen(99999, true, null, 65536, 65536));
	for (const filter of [[], [6, 0, 0], [0x10000, 0, 0, 0], [6, 256, 0, 0], [6, 0, -1, 0]])
		outOfRange(() => native.packetOpen(1, true, new Int32Array(filter), 65536, 65536));
	refuses("EINVAL", () => native.packetOpen(1, true, new Int32Array([0xff, 0, 0, 0]), 65536, 65536));
});

let tun = -1;
let packet = -1;

test("tunOpen", () => {
	tun = native.tunOpen(TUN);
	equal(native.tunReceive(tun, 0, BATCH), 0);
	refuses("EBUSY", () => native.tunOpen(TUN));
	refuses("EBUSY", () => native.tunOpen("lo"));
	outOfRange(() => native.tunOpen(""));
	outOfRange(() => native.tunOpen("x".repeat(16)));
	truth(links().has(TUN), "the device is there");
	refuses("ENETDOWN", () => native.packetOpen(indexOf(TUN), false, null, 65536, 65536));
	sh("ip", "link", "set", "lo", "up");
	refuses("EPROTOTYPE", () => native.packetOpen(1, false, null, 65536, 65536));
	sh("ip", "link", "set", "lo", "down");
	sh("ip", "link", "set", TUN, "up");
	refuses("EPROTOTYPE", () => native.packetOpen(indexOf(TUN), true, null, 65536, 65536));
	sh("ip", "link", "set", TUN, "txqueuelen", "2000", "mtu", "1500", "up");
	equal(native.getFeature(TUN, "tx-tcp-segmentation"), true, "TSO");
	while (native.tunReceive(tun, 0, BATCH) > 0);
});

/** Accepts whole packets whose protocol byte is `protocol`; offsets are from the IP header. */
function onlyProtocol(protocol: number): Int32Array {
	return new Int32Array([0x30, 0, 0, 9, 0x15, 0, 1, protocol, 0x06, 0, 0, -1, 0x06, 0, 0, 0]);
}

test("a batch into the TUN device comes out of a packet socket", () => {
	packet = native.packetOpen(indexOf(TUN), false, onlyProtocol(UDP), 4 << 20, 4 << 20);
	native.packetStatistics(packet);
	for (let i = 0; i < BATCH; i++) fill(i, i, 60 + i, 1000 + i);
	equal(native.tunSend(tun, tx, 0, BATCH), BATCH);
	equal(native.sendError(), "");
	receive((first, max) => native.packetReceive(packet, false, first, max), 64, BATCH);
	for (let i = 0; i < BATCH; i++) check(i, 64 + i, 60 + i, 1000 + i);
	equal(native.packetReceive(packet, false, 0, BATCH), 0);
	equal(native.packetStatistics(packet), [BATCH, 0]);
	equal(native.packetStatistics(packet), [0, 0]);
});

test("a batch sent by a packet socket comes out of the TUN device, and not back in", () => {
	for (let i = 0; i < BATCH; i++) fill(64 + i, i, 1500 - i, 2000 + i);
	equal(native.packetSend(packet, false, tx, 0, BATCH), BATCH);
	receive((first, max) => native.tunReceive(tun, first, max), 0, BATCH);
	for (let i = 0; i < BATCH; i++) check(i, i, 1500 - i, 2000 + i);
	equal(native.packetReceive(packet, false, 0, BATCH), 0, "own frames");
});

test("part of the pairs, part of the slots, no frame at all", () => {
	for (let i = 0; i < 8; i++) fill(i, i, 100, 3000 + i);
	equal(native.tunSend(tun, tx, 5, 2), 2);
	equal(native.tunSend(tun, tx, 0, 0), 0);
	equal(native.packetSend(packet, false, tx, 0, 0), 0);
	equal(native.packetReceive(packet, false, 0, 0), 0);
	native.poll(new Int32Array([packet, native.POLLIN, 0]), 1, 1000);
	equal(native.packetReceive(packet, false, SLOTS - 1, 1), 1);
	check(0, SLOTS - 1, 100, 3005);
	equal(native.packetReceive(packet, false, 17, 1), 1);
	check(0, 17, 100, 3006);
});

test("a frame that does not fit its slot is cut", () => {
	const small = native.mapFile("", 4096);
	sh("ip", "link", "set", TUN, "mtu", "9000");
	const long = new Int32Array([0, 3000]);
	fill(0, 0, 3000, 1);
	native.tunSend(tun, long, 0, 1);
	truth(readable(packet), "long frame");
	native.setFrames(small, 256, rx, null);
	equal(native.packetReceive(packet, false, 0, 8), 1);
	equal([rx[0], rx[1]], [0, 256 - IP]);
	native.setFrames(frameBuffer, SLOT_SIZE, rx, null);
	fill(0, 0, 3000, 1);
	equal(native.packetSend(packet, false, long, 0, 1), 1);
	truth(readable(tun), "long frame at the other side");
	native.setFrames(small, 256, rx, null);
	equal(native.tunReceive(tun, 1, 8), 1);
	equal([rx[0], rx[1]], [256, 256 - IP]);
	native.setFrames(frameBuffer, SLOT_SIZE, rx, null);
	sh("ip", "link", "set", TUN, "mtu", "1500");
});

test("filters: in force from the first frame, replaced later", () => {
	fill(0, 0, 100, 1, TCP);
	fill(1, 1, 100, 2, UDP);
	equal(native.tunSend(tun, tx, 0, 2), 2);
	receive((first, max) => native.packetReceive(packet, false, first, max), 8, 1);
	check(0, 8, 100, 2);
	native.packetFilter(packet, onlyProtocol(TCP));
	equal(native.tunSend(tun, tx, 0, 2), 2);
	receive((first, max) => native.packetReceive(packet, false, first, max), 8, 1);
	check(0, 8, 100, 1);
	native.packetFilter(packet, onlyProtocol(UDP));
	outOfRange(() => native.packetFilter(packet, new Int32Array(3)));
	outOfType(() => native.packetFilter(packet, null as unknown as Int32Array));
});

test("a frame that the kernel refuses ends the batch, and says why", () => {
	for (let i = 0; i < 6; i++) fill(i, i, 100, 4000 + i);
	for (const slot of [1, 4]) frame[slot * SLOT_SIZE + 1] = 0x7f;
	const sent = (send: (from: number, count: number) => number) => {
		const steps: (number | string)[] = [];
		for (let at = 0; at < 6; at++) {
			const n = send(at, 6 - at);
			steps.push(n, native.sendError());
			at += n;
		}
		equal(steps, [1, "EINVAL", 2, "EINVAL", 1, ""]);
	};
	sent((from, count) => native.packetSend(packet, false, tx, from, count));
	receive((first, max) => native.tunReceive(tun, first, max), 64, 4);
	for (const [pair, n] of [0, 2, 3, 5].entries()) check(pair, 64 + pair, 100, 4000 + n);
	sent((from, count) => native.tunSend(tun, tx, from, count));
	receive((first, max) => native.packetReceive(packet, false, first, max), 64, 4);
	for (const [pair, n] of [0, 2, 3, 5].entries()) check(pair, 64 + pair, 100, 4000 + n);
});

test("sockets that only send: the same frames, raw and as datagrams", () => {
	outOfRange(() => native.packetSendOpen(false, -1, 65536));
	outOfRange(() => native.packetSendOpen(false, 0, 0));
	for (const form of [0, native.SEND_DATAGRAM]) {
		const only = native.packetSendOpen(form !== 0, 6, 65536);
		outOfRange(() => native.packetSendTo(only, 0, form, tx, 0, 1));
		outOfRange(() => native.packetSendTo(only, 1, 4, tx, 0, 1));
		outOfRange(() => native.packetSendTo(only, 1, form, new Int32Array([frameBuffer.byteLength, 20]), 0, 1));
		for (let i = 0; i < 6; i++) fill(i, i, 100, 4100 + i);
		equal(native.packetSendTo(only, indexOf(TUN), form, tx, 1, 4), 4);
		receive((first, max) => native.tunReceive(tun, first, max), 64, 4);
		for (let i = 0; i < 4; i++) check(i, 64 + i, 100, 4101 + i);
		equal(native.packetSendTo(only, 99999, form, tx, 0, 1), 0);
		equal(native.sendError(), "ENXIO");
		native.close(only);
	}
});

test("frameSum", () => {
	frame.set([1, 2, 3, 4, 5, 6, 7], 64);
	const halves = new Uint16Array(frameBuffer, 64, 4);
	const sum = (length: number) => {
		let total = 0;
		for (let i = 0; i < length >> 1; i++) total += halves[i]!;
		if (length & 1) total += LITTLE_ENDIAN ? frame[64 + length - 1]! : frame[64 + length - 1]! << 8;
		return (total & 0xffff) + (total >> 16);
	};
	for (let length = 0; length <= 7; length++) equal(native.frameSum(64, length), sum(length), `${length} bytes`);
	frame.fill(0xff, 64, 64 + 64);
	equal(native.frameSum(64, 64), 0xffff);
	outOfRange(() => native.frameSum(-1, 1));
	outOfRange(() => native.frameSum(frameBuffer.byteLength - 1, 2));
});

test("a socket whose buffer overflows counts what it lost", () => {
	const small = native.packetOpen(indexOf(TUN), false, null, 2048, 65536);
	for (let i = 0; i < BATCH; i++) fill(i, i, 1500, i);
	native.tunSend(tun, tx, 0, BATCH);
	native.poll(new Int32Array(0), 0, 20);
	const [seen, dropped] = native.packetStatistics(small);
	truth(seen === BATCH && dropped > 0 && dropped < BATCH, `${seen} seen, ${dropped} dropped`);
	while (native.packetReceive(packet, false, 0, BATCH) > 0);
	native.close(small);
});

test("a device that goes down, and one that goes away", () => {
	sh("ip", "link", "set", TUN, "down");
	refuses("ENETDOWN", () => native.packetReceive(packet, false, 0, BATCH));
	equal(native.packetReceive(packet, false, 0, BATCH), 0, "reported once");
	fill(0, 0, 100, 1);
	equal(native.packetSend(packet, false, tx, 0, 1), 0);
	equal(native.sendError(), "ENETDOWN");
	equal(native.tunSend(tun, tx, 0, 1), 0);
	equal(native.sendError(), "EIO");
	sh("ip", "link", "set", TUN, "up");
	sh("ip", "link", "del", TUN);
	const gone = caught(() => native.packetReceive(packet, false, 0, BATCH)) as NativeError;
	truth(["ENETDOWN", "ENXIO", "ENODEV"].includes(gone.code), gone.code);
	const tunGone = caught(() => native.tunReceive(tun, 0, BATCH)) as NativeError;
	truth(["EBADFD", "EIO"].includes(tunGone.code), tunGone.code);
	native.close(packet);
	native.close(tun);
});

test("a TUN device goes with its descriptor", () => {
	const fd = native.tunOpen(TUN);
	truth(links().has(TUN), "there");
	native.close(fd);
	truth(!links().has(TUN), "gone");
});

let left = -1;
let right = -1;

sh("ip", "link", "add", VETH_A, "type", "veth", "peer", "name", VETH_B);
sh("ip", "link", "set", VETH_A, "up");
sh("ip", "link", "set", VETH_B, "up");

test("Ethernet: frames between two devices, link header and all", () => {
	left = native.packetOpen(indexOf(VETH_A), true, null, 4 << 20, 4 << 20);
	right = native.packetOpen(indexOf(VETH_B), true, null, 4 << 20, 4 << 20);
	for (let i = 0; i < BATCH; i++) fill(i, i, 60 + i, 5000 + i);
	equal(native.packetSend(left, true, tx, 0, BATCH), BATCH);
	receive((first, max) => native.packetReceive(right, true, first, max), 64, BATCH);
	for (let i = 0; i < BATCH; i++) {
		check(i, 64 + i, 60 + i, 5000 + i);
		const at = (64 + i) * SLOT_SIZE + native.SLOT_ETHER;
		equal([...frame.subarray(at, at + 14)], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
	}
	equal(native.packetReceive(left, true, 0, BATCH), 0, "own frames");
});

test("Ethernet: sent by datagrams, the kernel writes the link header", () => {
	const only = native.packetSendOpen(true, 0, 65536);
	for (let i = 0; i < 4; i++) fill(i, i, 60 + i, 5100 + i);
	equal(native.packetSendTo(only, indexOf(VETH_A), native.SEND_ETHERNET | native.SEND_DATAGRAM, tx, 0, 4), 4);
	receive((first, max) => native.packetReceive(right, true, first, max), 64, 4);
	for (let i = 0; i < 4; i++) {
		check(i, 64 + i, 60 + i, 5100 + i);
		const at = (64 + i) * SLOT_SIZE + native.SLOT_ETHER;
		equal([...frame.subarray(at, at + 6), frame[at + 12], frame[at + 13]], [2, 0, 0, 0, 0, 2, 8, 0]);
	}
	native.close(only);
});

test("Ethernet: a frame of the link header alone has length 0", () => {
	const at = native.SLOT_ETHER;
	fill(0, 0, 0, 0);
	equal(frame[at + 12], 8);
	if (native.packetSend(left, true, tx, 0, 1) === 1) {
		receive((first, max) => native.packetReceive(right, true, first, max), 3, 1);
		equal(rx[1], 0);
	}
});

test("a full send buffer stops the batch, without an exception", () => {
	sh("tc", "qdisc", "add", "dev", VETH_A, "root", "tbf", "rate", "8kbit", "burst", "1600", "limit", "1000000");
	const small = native.packetOpen(indexOf(VETH_A), true, null, 65536, 8192);
	for (let i = 0; i < BATCH; i++) fill(i, i, 1400, i);
	const sent = native.packetSend(small, true, tx, 0, BATCH);
	truth(sent > 0 && sent < BATCH, `${sent} of ${BATCH} sent`);
	equal(native.sendError(), "EAGAIN");
	equal(native.packetSend(small, true, tx, sent, 1), 0);
	native.close(small);
	sh("tc", "qdisc", "del", "dev", VETH_A, "root");
	while (native.packetReceive(right, true, 0, BATCH) > 0);
});

test("a super-packet with its virtio header crosses as one", () => {
	const big = native.mapFile("", 2 * 65600);
	const view = new DataView(big);
	const length = 20 + 20 + 40 * 1400;
	native.setFrames(big, 65600, rx, null);
	view.setUint16(IP, 0x4500);
	view.setUint16(IP + 2, length);
	view.setUint8(IP + 8, 64);
	view.setUint8(IP + 9, TCP);
	view.setUint32(IP + 12, 0xc0000201);
	view.setUint32(IP + 16, 0xc6336407);
	view.setUint16(IP + 20, 4000);
	view.setUint16(IP + 22, 80);
	view.setUint8(IP + 32, 0x50);
	view.setUint8(IP + 33, 0x10);
	new Uint8Array(big).set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0], native.SLOT_ETHER);
	// VIRTIO_NET_HDR_F_NEEDS_CSUM, GSO_TCPV4, hdr_len, gso_size, csum_start, csum_offset
	const header = (field: number) => view.getUint16(65600 + field, LITTLE_ENDIAN);
	view.setUint8(0, 1);
	view.setUint8(1, 1);
	view.setUint16(2, 54, LITTLE_ENDIAN);
	view.setUint16(4, 1400, LITTLE_ENDIAN);
	view.setUint16(6, 34, LITTLE_ENDIAN);
	view.setUint16(8, 16, LITTLE_ENDIAN);
	equal(native.packetSend(left, true, new Int32Array([0, length]), 0, 1), 1);
	receive((first, max) => native.packetReceive(right, true, first, Math.min(max, 1)), 1, 1);
	equal([rx[0], rx[1]], [65600, length]);
	equal([view.getUint8(65600), view.getUint8(65601) & 0x7f, header(4), header(6), header(8)], [1, 1, 1400, 34, 16]);
	native.setFrames(frameBuffer, SLOT_SIZE, rx, null);
});

test("etherOpen: another protocol, by read and write", () => {
	const ARP = 0x0806;
	const a = native.etherOpen(indexOf(VETH_A), ARP, null);
	const accept = native.etherOpen(indexOf(VETH_B), ARP, new Int32Array([0x06, 0, 0, -1]));
	const reject = native.etherOpen(indexOf(VETH_B), ARP, new Int32Array([0x06, 0, 0, 0]));
	const buffer = new ArrayBuffer(128);
	const view = new Uint8Array(buffer);
	view.set([255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
	equal(native.read(accept, buffer, 64, 60), -1);
	equal(native.write(a, buffer, 0, 42), 42);
	truth(readable(accept), "frame at the other side");
	equal(native.read(accept, buffer, 64, 60), 42);
	equal([...view.subarray(64, 64 + 22)], [...view.subarray(0, 22)]);
	equal(native.read(reject, buffer, 64, 60), -1);
	for (const fd of [a, accept, reject]) native.close(fd);
	outOfRange(() => native.etherOpen(1, 0x10000, null));
	outOfRange(() => native.etherOpen(0, ARP, null));
});

test("device features", () => {
	equal(native.getFeature(VETH_A, "no-such-feature"), undefined);
	native.setFeature(VETH_A, "rx-gro-list", true);
	equal(native.getFeature(VETH_A, "rx-gro-list"), true);
	native.setFeature(VETH_A, "rx-gro-list", false);
	equal(native.getFeature(VETH_A, "rx-gro-list"), false);
	refuses("EOPNOTSUPP", () => native.setFeature(VETH_A, "no-such-feature", true));
	refuses("EOPNOTSUPP", () => native.setFeature("lo", "rx-vlan-filter", true));
	refuses("ENODEV", () => native.setFeature("mqnone", "rx-gro-list", true));
	refuses("ENODEV", () => native.getFeature("mqnone", "rx-gro-list"));
	outOfRange(() => native.getFeature("x".repeat(16), "rx-gro-list"));
});

const EXIT = [0x95, 0, 0, 0, 0];

/** BPF instructions from [opcode, destination, source, offset, immediate]. */
function instructions(...list: number[][]): ArrayBuffer {
	const view = new DataView(new ArrayBuffer(list.length * 8));
	for (const [n, [opcode, to, from, offset, immediate]] of list.entries()) {
		view.setUint8(n * 8, opcode);
		view.setUint8(n * 8 + 1, LITTLE_ENDIAN ? (from << 4) | to : (to << 4) | from);
		view.setInt16(n * 8 + 2, offset, LITTLE_ENDIAN);
		view.setInt32(n * 8 + 4, immediate, LITTLE_ENDIAN);
	}
	return view.buffer;
}

test("bpf: a map's value is shared memory, a program sees it and its link goes with the descriptor", () => {
	const map = native.bpfMapCreate(2, 4096, 1, 0x400, "mq_test");
	const words = new Int32Array(native.bpfMapMemory(map, 4096));
	equal(words[0], 0);
	words[3] = 0x01020304;
	refuses("EINVAL", () => native.bpfMapMemory(map, 8192));
	refuses("EINVAL", () => native.bpfMapCreate(2, 64, 1, 0x80000000, "mq_test"));
	outOfRange(() => native.bpfMapCreate(2, 0, 1, 0, "x"));
	outOfRange(() => native.bpfMapCreate(2, 8, 1, 0, "x".repeat(16)));

	// r2 = value of the map; r1 = its word 3; word 4 = r1; the program's result is r1.
	const load = instructions([0x18, 2, 2, 0, map], [0, 0, 0, 0, 0], [0x61, 1, 2, 12, 0], [0x63, 2, 1, 16, 0], [0xbf, 0, 1, 0, 0], EXIT);
	const program = native.bpfProgramLoad(3, load, "mq_test", null);
	const frame = new ArrayBuffer(64);
	new Uint8Array(frame).fill(7);
	const out = new ArrayBuffer(128);
	equal(native.bpfProgramRun(program, frame, out, null), [0x01020304, 64]);
	equal(words[4], 0x01020304);
	equal([new Uint8Array(out)[63], new Uint8Array(out)[64]], [7, 0]);
	refuses("EINVAL", () => native.bpfProgramRun(program, new ArrayBuffer(8), out, null));
	// A mark may be set (word 2 of the context), a packet type (word 1) may not.
	equal(native.bpfProgramRun(program, frame, out, new Int32Array([0, 0, 9]).buffer), [0x01020304, 64]);
	refuses("EINVAL", () => native.bpfProgramRun(program, frame, out, new Int32Array([0, 9, 0]).buffer));

	const log = new ArrayBuffer(4096);
	refuses("EACCES", () => native.bpfProgramLoad(3, instructions(EXIT), "mq_bad", log));
	truth(native.decode(log, 0, 4096).includes("R0"), "the verifier names the register");
	outOfRange(() => native.bpfProgramLoad(3, new ArrayBuffer(12), "mq_bad", null));
	refuses("EBADF", () => native.bpfLinkCreate(-1, 1, 46));

	const pass = native.bpfProgramLoad(3, instructions([0xb7, 0, 0, 0, -1], EXIT), "mq_pass", null);
	refuses("ENODEV", () => native.bpfLinkCreate(pass, 99999, 46));
	const [major, minor] = native.readFile("/proc/sys/kernel/osrelease").split(".").map(Number);
	if (major * 100 + minor >= 606) {
		const link = native.bpfLinkCreate(pass, indexOf(VETH_A), 46);
		native.bpfLinkUpdate(link, program);
		refuses("EINVAL", () => native.bpfLinkUpdate(map, pass));
		native.close(link);
	} else refuses("EINVAL", () => native.bpfLinkCreate(pass, indexOf(VETH_A), 46));
	for (const fd of [pass, program, map]) native.close(fd);
	equal(words[3], 0x01020304);
});

test("no descriptor was left open by a refusal", () => {
	native.close(left);
	native.close(right);
	const before = native.readDir("/proc/self/fd").length;
	for (let i = 0; i < 20; i++) {
		caught(() => native.packetOpen(99999, true, null, 65536, 65536));
		caught(() => native.packetOpen(1, true, new Int32Array(3), 65536, 65536));
		caught(() => native.etherOpen(99999, 0x806, null));
		caught(() => native.tunOpen("lo"));
		caught(() => native.netlinkOpen(0, [99999]));
		caught(() => native.unixListen("/proc/none", 0o600));
		caught(() => native.unixConnect(`${SCRATCH}/none`));
		caught(() => native.mapFile(SCRATCH, 4096));
		caught(() => native.readFile("/dev/zero"));
		caught(() => native.writeFile("/dev/full", "x", 0o600));
		caught(() => native.run(["masqd-no-such-program"], "", 1000));
		caught(() => native.setFeature("mqnone", "x", true));
	}
	equal(native.readDir("/proc/self/fd").length, before);
});

print(`${passed} passed, ${failed} failed`);
if (failed > 0) native.exit(1);
