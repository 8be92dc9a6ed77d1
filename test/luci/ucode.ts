/**
 * A stand-in for rpcd with its ucode plugin loader, on Node: runs the plugin's own file, which is written so that the
 * few places where ucode means other than JavaScript can be put into its words. The modules behave as the real ones
 * were seen to: a connect to nobody fails at once, `recv` gives null and error 11 when there is nothing, calls are
 * deferred before they are answered or rpcd throws.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
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
	const builtIns = {
		getenv: (name: string) => environment[name] ?? null,
		json: JSON.parse,
		length: (value: { length: number }) => value.length,
		push: (list: unknown[], ...values: unknown[]) => list.push(...values),
		shift: (list: unknown[]) => list.shift(),
		exists: (value: object, name: string) => Object.hasOwn(value, name),
		index: (text: string, part: string) => text.indexOf(part),
		substr: (text: string, from: number, length?: number) => text.substr(from, length),
		split: (text: string, by: string, most?: number) => {
			const parts = text.split(by);
			return most === undefined || parts.length <= most ? parts : [...parts.slice(0, most - 1), parts.slice(most - 1).join(by)];
		},
		sprintf: (_format: string, value: unknown) => JSON.stringify(value),
		filter: (list: unknown[], test: (value: unknown) => boolean) => list.filter(test),
		join: (by: string, list: unknown[]) => list.join(by),
		type: (value: unknown) => (value === null || value === undefined ? null : Array.isArray(value) ? "array" : typeof value),
		uc: (text: string) => text.toUpperCase(),
		lc: (text: string) => text.toLowerCase(),
		trim: (text: string) => text.trim(),
		/** `for (let x in list)` of ucode goes over a list's values. */
		each: (value: object) => (Array.isArray(value) ? value : Object.keys(value ?? {})),
	};
	const text = readFileSync(file, "utf8")
		.replace(/^#!.*\n/, "")
		.replace(/^import (\{.*\}) from '(\w+)';$/gm, "const $1 = modules.$2;")
		.replace(/^import \* as (\w+) from '(\w+)';$/gm, "const $1 = modules.$2;")
		.replace(/for \(let (\w+) in (.+)\)$/gm, "for (let $1 of each($2))")
		.replace(/for \(let (\w+) in (.+)\) \{$/gm, "for (let $1 of each($2)) {");
	return new Function("modules", ...Object.keys(builtIns), text)(modules, ...Object.values(builtIns));
}

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
				return {};
			},
			reply(data) {
				if (replied) throw new Error("Reply has already been sent");
				replied = true;
				resolve(data);
			},
		});
		if (given === undefined && !replied) resolve(5);
	});
}
