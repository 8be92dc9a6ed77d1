import { describe, expect, it } from "vitest";
import { SocketDiag, type SocketIo } from "../../src/kernel/socket-diag.ts";
import { parseAddress } from "../../src/packet/address.ts";

const X = parseAddress("203.0.113.1") as number;
const PLACE = { ranges: [{ first: 32768, last: 65535 }], addresses: [X], ifindex: 3 };
const TCP = 6;
const UDP = 17;
const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
/** Bytes of a number in the machine's order. */
const word = (n: number) => [...new Uint8Array(new Int32Array([n]).buffer)];
const half = (n: number) => [...new Uint8Array(new Uint16Array([n]).buffer)];
/** An address as /proc/net has it: each of its words as the machine reads it. */
const hex = (little: string) => (LITTLE ? little : little.replace(/.{8}/g, (text) => (text.match(/../g) as string[]).reverse().join("")));

interface Socket {
	address?: string;
	port: number;
	state: number;
	device?: number;
	v6only?: boolean;
}

/** An address in 16 bytes, as inet_diag has it. */
function bytesOf(address: string): number[] {
	if (address === "::") return new Array(16).fill(0);
	const mapped = address.startsWith("::ffff:");
	const four = address
		.slice(mapped ? 7 : 0)
		.split(".")
		.map(Number);
	return mapped ? [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...four] : [...four, ...new Array(12).fill(0)];
}

/** A kernel with these sockets, by "protocol family"; `slices` to a datagram. Without `diag` only files. */
function kernel(sockets: Record<string, Socket[]>, { diag = true, slice = 2, files = {} as Record<string, string>, refuse = "" } = {}) {
	const calls = { opened: 0, closed: 0, received: 0, read: [] as string[] };
	let answers: Uint8Array[] = [];
	const message = (type: number, body: number[]) => {
		const m = new Uint8Array((16 + body.length + 3) & ~3);
		const v = new DataView(m.buffer);
		v.setUint32(0, 16 + body.length, LITTLE);
		v.setUint16(4, type, LITTLE);
		m.set(body, 16);
		return m;
	};
	const told = (s: Socket, family: number) => {
		const id = [s.port >> 8, s.port & 255, 0, 0, ...bytesOf(s.address ?? "0.0.0.0"), ...new Array(16).fill(0), ...word(s.device ?? 0)];
		const attributes = family === 10 ? [...half(5), ...half(8), 0, 0, 0, 0, ...half(5), ...half(11), s.v6only ? 1 : 0, 0, 0, 0] : [];
		return [family, s.state, 0, 0, ...id, ...new Array(8 + 20).fill(0), ...attributes];
	};
	const io: SocketIo = {
		now: () => 0,
		netlinkOpen: () => {
			if (!diag) throw new Error("EPROTONOSUPPORT");
			return 100 + calls.opened++;
		},
		close: (fd) => {
			if (fd >= 0) calls.closed++;
		},
		netlinkSend: (_, buffer) => {
			const v = new DataView(buffer);
			const family = v.getUint8(16);
			const protocol = v.getUint8(17);
			if (refuse === `${protocol} ${family}`) {
				answers = [message(2, word(-2))];
				return;
			}
			const list = (sockets[`${protocol} ${family}`] ?? []).filter((s) => (v.getUint32(20, LITTLE) >>> s.state) & 1);
			answers = [];
			for (let n = 0; n < list.length; n += slice) {
				const parts = list.slice(n, n + slice).map((s) => message(20, told(s, family)));
				answers.push(new Uint8Array(parts.flatMap((p) => [...p])));
			}
			answers.push(message(3, [0, 0, 0, 0]));
		},
		netlinkReceive: (_, buffer) => {
			calls.received++;
			const next = answers.shift();
			if (next === undefined) return 0;
			new Uint8Array(buffer).set(next);
			return next.length;
		},
		readFile: (path) => {
			calls.read.push(path);
			const text = files[path.slice("/proc/net/".length)];
			if (text === undefined) throw new Error("ENOENT");
			return text;
		},
	};
	return { io, calls };
}

const keys = (list: { protocol: number; port: number; service: boolean }[]) =>
	list.map((s) => `${s.protocol} ${s.port}${s.service ? "" : " flow"}`).sort();

const SOCKETS: Record<string, Socket[]> = {
	[`${TCP} 2`]: [
		{ port: 50000, state: 10 },
		{ port: 50001, state: 1, address: "203.0.113.1" },
		{ port: 50002, state: 6, address: "203.0.113.1" },
		{ port: 50003, state: 10, address: "127.0.0.1" },
		{ port: 80, state: 10 },
	],
	[`${TCP} 10`]: [
		{ port: 51000, state: 10, address: "::" },
		{ port: 51001, state: 10, address: "::", v6only: true },
		{ port: 51002, state: 1, address: "::ffff:203.0.113.1" },
		{ port: 51003, state: 1, address: "::ffff:192.168.1.1" },
	],
	[`${UDP} 2`]: [
		{ port: 52000, state: 7 },
		{ port: 52001, state: 1, address: "203.0.113.1" },
		{ port: 52002, state: 7, address: "192.168.1.1" },
		{ port: 52003, state: 7, device: 9 },
		{ port: 52004, state: 7, device: 3 },
	],
	[`${UDP} 10`]: [{ port: 53000, state: 7, address: "::" }],
};
const FOUND = ["17 52000", "17 52001 flow", "17 52004", "17 53000", "6 50000", "6 50001 flow", "6 51000", "6 51002 flow"];

describe("the router's own sockets", () => {
	it("are those that packets to the WAN's address can reach", () => {
		const { io, calls } = kernel(SOCKETS);
		expect(keys(new SocketDiag(io).all(PLACE))).toEqual(FOUND);
		expect(calls.closed).toBe(calls.opened);
	});

	it("are read a datagram at a time", () => {
		const many = Array.from({ length: 1000 }, (_, n) => ({ port: 33000 + n, state: 7 }));
		const { io, calls } = kernel({ [`${UDP} 2`]: many }, { slice: 100 });
		const diag = new SocketDiag(io);
		diag.begin(PLACE);
		let steps = 0;
		let found = null;
		while (found === null) {
			const before = calls.received;
			found = diag.step();
			expect(calls.received - before).toBe(1);
			steps++;
		}
		expect(found.length).toBe(1000);
		expect(steps).toBe(14);
		expect(diag.busy).toBe(false);
	});

	it("are found in files where the kernel has no sock_diag, or not all of it", () => {
		const line = (n: number, address: string, port: number, state: string, peer: string) =>
			`${String(n).padStart(4)}: ${hex(address)}:${port.toString(16).toUpperCase().padStart(4, "0")} ${peer} ${state} 00000000:00000000 00:00000000\n`;
		const none = "00000000:0000";
		const none6 = `${"0".repeat(32)}:0000`;
		const files = {
			tcp: `  sl  local_address rem_address   st\n${line(0, "00000000", 50000, "0A", none)}${line(1, "017100CB", 50001, "01", "0A7100CB:0050")}${line(2, "017100CB", 50002, "06", none)}${line(3, "0100007F", 50003, "0A", none)}`,
			tcp6: `  sl  local_address\n${line(0, "0".repeat(32), 51000, "0A", none6)}${line(1, "0000000000000000FFFF0000017100CB", 51002, "01", none6)}${line(2, "0000000000000000FFFF00000101A8C0", 51003, "01", none6)}`,
			udp: `   sl  local_address\n${line(7, "00000000", 52000, "07", none)}`,
		};
		for (const options of [{ diag: false }, { refuse: `${UDP} 10` }]) {
			const { io, calls } = kernel(SOCKETS, { files, ...options });
			const diag = new SocketDiag(io);
			expect(keys(diag.all(PLACE))).toEqual(["17 52000", "6 50000", "6 50001 flow", "6 51000", "6 51002 flow"]);
			expect(calls.closed).toBe(calls.opened);
			calls.read = [];
			diag.begin(PLACE);
			expect(diag.step()).toBe(null);
			// Of each step one file.
			expect(calls.read).toEqual(["/proc/net/tcp"]);
		}
	});

	it("tell nothing if something was lost: no port is given away that was only not seen", () => {
		const { io } = kernel(SOCKETS);
		const diag = new SocketDiag({
			...io,
			netlinkReceive: () => {
				throw Object.assign(new Error("ENOBUFS"), { code: "ENOBUFS" });
			},
		});
		diag.begin(PLACE);
		expect(diag.step()).toBe(null);
		expect(diag.busy).toBe(false);
	});
});
