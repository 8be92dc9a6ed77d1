/**
 * A stand-in for rpcd with its ucode plugin loader, on Node: runs the plugin's own file, which is written so that the
 * few places where ucode means other than JavaScript can be put into its words. The modules behave as the real ones
 * were seen to: a connect to nobody fails at once, `recv` gives null and error 11 when there is nothing, calls are
 * deferred before they are answered or rpcd throws.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";

/** Sections of a configuration in their order; `.name` and `.type` as libuci has them. */
export type Sections = Record<string, string | string[]>[];

interface Request {
	args: Record<string, unknown>;
	defer(): object;
	reply(data: object): void;
}

export interface Method {
	args?: Record<string, unknown>;
	call(request: Request): unknown;
}

const AGAIN = 11;
let nextFd = 100;
/** Who is told that there is something to read, by descriptor. */
const readers = new Map<number, () => void>();
/** What is readable before anybody listens. */
const ready = new Set<number>();

function readable(fd: number): void {
	const reader = readers.get(fd);
	if (reader === undefined) ready.add(fd);
	else reader();
}

class UnixSocket {
	readonly #fd = nextFd++;
	#socket: Socket | null = null;
	#heard: string[] = [];
	#over = false;
	#error: number | null = null;

	connect({ path }: { path: string }): boolean | null {
		if (!existsSync(path)) return null;
		this.#socket = connect(path);
		this.#socket.setEncoding("utf8");
		this.#socket.on("data", (part) => {
			this.#heard.push(String(part));
			readable(this.#fd);
		});
		const over = () => {
			this.#over = true;
			readable(this.#fd);
		};
		this.#socket.on("end", over);
		this.#socket.on("error", over);
		return true;
	}
	send(text: string): number {
		this.#socket?.write(text);
		return text.length;
	}
	recv(): string | null {
		const part = this.#heard.shift();
		if (part !== undefined) return part;
		if (this.#over) return "";
		this.#error = AGAIN;
		return null;
	}
	error(): number | null {
		return this.#error;
	}
	fileno(): number {
		return this.#fd;
	}
	close(): void {
		this.#socket?.destroy();
	}
}

function popen(command: string): object {
	const fd = nextFd++;
	let text = "";
	const child = spawn("/bin/sh", ["-c", command], { stdio: ["ignore", "pipe", "inherit"] });
	child.stdout.setEncoding("utf8");
	child.stdout.on("data", (part) => {
		text += String(part);
	});
	child.on("close", () => readable(fd));
	return { fileno: () => fd, read: () => text, close: () => 0 };
}

const uloop = {
	ULOOP_READ: 1,
	handle(fd: number, told: () => void) {
		readers.set(fd, told);
		if (ready.delete(fd)) setImmediate(told);
		return { delete: () => readers.delete(fd) };
	},
	timer(milliseconds: number, told: () => void) {
		const timer = setTimeout(told, milliseconds);
		return { cancel: () => clearTimeout(timer) };
	},
};

/** Functions of ucode's own that both plugins and scripts use. */
function commonBuiltIns(environment: Record<string, string>) {
	return {
		getenv: (name: string) => environment[name] ?? null,
		json(text: unknown) {
			if (typeof text !== "string") throw new Error("Passed value is neither a string nor an object");
			return JSON.parse(text);
		},
		length: (value: { length: number }) => value.length,
		push: (list: unknown[], ...values: unknown[]) => list.push(...values),
		shift: (list: unknown[]) => list.shift(),
		exists: (value: object, name: string) => Object.hasOwn(value, name),
		index: (text: string, part: string) => text.indexOf(part),
		substr: (text: string, from: number, length?: number) => text.substr(from, length),
		split: (text: string, by: string | RegExp, most?: number) => {
			const parts = text.split(by);
			return most === undefined || parts.length <= most ? parts : [...parts.slice(0, most - 1), parts.slice(most - 1).join(String(by))];
		},
		sprintf: (_format: string, value: unknown) => JSON.stringify(value),
		filter: (list: unknown[], test: (value: unknown) => boolean) => list.filter(test),
		join: (by: string, list: unknown[]) => list.join(by),
		type: (value: unknown) => (value === null || value === undefined ? null : Array.isArray(value) ? "array" : typeof value),
		match: (text: string, by: RegExp) => by.exec(text),
		uc: (text: string) => text.toUpperCase(),
		lc: (text: string) => text.toLowerCase(),
		trim: (text: string) => text.trim(),
		/** `for (let x in list)` of ucode goes over a list's values. */
		each: (value: object) => (Array.isArray(value) ? value : Object.keys(value ?? {})),
	};
}

/** What a plugin declares: methods by object. `config` is /etc/config. */
export function load(
	file: string,
	environment: Record<string, string>,
	config: Record<string, Sections>,
): Record<string, Record<string, Method>> {
	const modules: Record<string, object> = {
		fs: {
			popen,
			readfile: (path: string) => {
				try {
					return readFileSync(path, "utf8");
				} catch {
					return null;
				}
			},
		},
		socket: { AF_UNIX: 1, SOCK_STREAM: 1, SOCK_NONBLOCK: 2048, create: () => new UnixSocket() },
		uci: {
			cursor: () => ({
				foreach(name: string, type: string, each: (section: object) => void) {
					for (const section of config[name] ?? []) if (section[".type"] === type) each(section);
				},
			}),
		},
		uloop,
	};
	const builtIns = commonBuiltIns(environment);
	return new Function("modules", ...Object.keys(builtIns), translated(file))(modules, ...Object.values(builtIns));
}

/** A script's text in JavaScript's words. */
function translated(file: string): string {
	return readFileSync(file, "utf8")
		.replace(/^#!.*\n/, "")
		.replace(/^import (\{.*\}) from '(\w+)';$/gm, "const $1 = modules.$2;")
		.replace(/^import \* as (\w+) from '(\w+)';$/gm, "const $1 = modules.$2;")
		.replace(/for \(let (\w+) in (.+)\)$/gm, "for (let $1 of each($2))")
		.replace(/for \(let (\w+) in (.+)\) \{$/gm, "for (let $1 of each($2)) {");
}

/** Sends a datagram from a port and waits for one: Node has no such call. Prints it in hexadecimal. */
const EXCHANGE = `
import socket, sys
own, address, port, wait, data = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(own)))
s.settimeout(int(wait) / 1000)
s.sendto(bytes.fromhex(data), (address, int(port)))
try:
    print(s.recv(1500).hex())
except OSError:
    pass
`;

/** A UDP socket, with a port of its own from the first datagram on. */
class Datagrams {
	static #next = 40_000 + (process.pid % 10_000);
	readonly #port = Datagrams.#next++;
	#wanted: { text: string; address: string; port: number } | null = null;
	#heard: string | null = null;

	send(text: string, _flags: number, to: { address: string; port: number }): void {
		this.#wanted = { text, ...to };
	}
	await(milliseconds: number): boolean {
		if (this.#wanted === null) return false;
		const { text, address, port } = this.#wanted;
		this.#wanted = null;
		const words = [String(this.#port), address, String(port), String(milliseconds), Buffer.from(text, "latin1").toString("hex")];
		const heard = execFileSync("/usr/bin/python3", ["-c", EXCHANGE, ...words], { encoding: "utf8" }).trim();
		this.#heard = heard === "" ? null : Buffer.from(heard, "hex").toString("latin1");
		return this.#heard !== null;
	}
	recv(): string | null {
		return this.#heard;
	}
	close(): void {}
}

class Exit extends Error {
	readonly status: number;
	constructor(status: number) {
		super(`exit ${status}`);
		this.status = status;
	}
}

/** Runs a script as `ucode FILE WORD...` does: what it prints, and its status. */
export function execute(
	file: string,
	words: string[],
	environment: Record<string, string>,
): { output: string; errors: string; status: number } {
	let output = "";
	let errors = "";
	const text = (path: string, most?: number) => {
		try {
			// A device has no end.
			if (path === "/dev/urandom") return randomBytes(most ?? 0).toString("latin1");
			return readFileSync(path, "latin1").slice(0, most);
		} catch {
			return null;
		}
	};
	const modules = {
		fs: {
			popen(command: string) {
				const { stdout, status } = spawnSync("/bin/sh", ["-c", command], { encoding: "utf8" });
				return { read: () => stdout, close: () => status };
			},
			readfile: text,
			writefile(path: string, data: string) {
				writeFileSync(path, data);
				return data.length;
			},
			rename: renameSync,
		},
		socket: {
			AF_INET: 2,
			SOCK_DGRAM: 2,
			POLLIN: 1,
			create: () => new Datagrams(),
			poll: (milliseconds: number, [s]: [Datagrams]) => (s.await(milliseconds) ? [[s, 1]] : [[s, 0]]),
			addrinfo: (host: string) => (/^[\d.]+$/.test(host) ? [{ addr: { address: host } }] : []),
		},
	};
	const builtIns = {
		...commonBuiltIns(environment),
		ARGV: words,
		int: (value: string) => Math.trunc(Number.parseInt(String(value), 10)),
		hex: (value: string) => Number.parseInt(value, 16),
		chr: (...codes: number[]) => String.fromCharCode(...codes),
		ord: (value: string, at = 0) => (at < value.length ? value.charCodeAt(at) : null),
		keys: Object.keys,
		sort: (list: unknown[]) => list.sort(),
		reverse: (list: unknown[]) => [...list].reverse(),
		map: (list: unknown[], make: (value: unknown) => unknown) => list.map(make),
		replace: (value: string, by: RegExp, other: string) => String(value ?? "").replace(by, other),
		print: (...values: unknown[]) => {
			output += values.join("");
		},
		warn: (...values: unknown[]) => {
			errors += values.join("");
		},
		exit: (status: number) => {
			throw new Exit(status);
		},
	};
	try {
		new Function("modules", ...Object.keys(builtIns), translated(file))(modules, ...Object.values(builtIns));
		return { output, errors, status: 0 };
	} catch (error) {
		if (error instanceof Exit) return { output, errors, status: error.status };
		throw error;
	}
}

const DEFERRED = {};

/** Calls a method as rpcd does: what is answered, or ubus' number of what is wrong. */
export function call(method: Method, args: Record<string, unknown>): Promise<object | number> {
	for (const [name, value] of Object.entries(args)) {
		if (name === "ubus_rpc_session") continue;
		const example = method.args?.[name];
		// UBUS_STATUS_INVALID_ARGUMENT
		if (example === undefined || typeof example !== typeof value || Array.isArray(example) !== Array.isArray(value))
			return Promise.resolve(2);
	}
	return new Promise((resolve) => {
		let replied = false;
		const given = method.call({
			args,
			defer() {
				if (replied) throw new Error("Reply has already been sent");
				return DEFERRED;
			},
			reply(data) {
				if (replied) throw new Error("Reply has already been sent");
				replied = true;
				resolve(data);
			},
		});
		if (replied || given === DEFERRED) return;
		// A plain object is the answer; UBUS_STATUS_NO_DATA.
		resolve(typeof given === "object" && given !== null ? given : 5);
	});
}
