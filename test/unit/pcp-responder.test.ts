/**
 * The PCP server on its LAN devices (src/port/pcp-responder.ts): whom it answers, whom not, and sockets of devices that
 * come and go. RFC 6887 section 18.
 */
import { describe, expect, it } from "vitest";
import type { PortAnswer, PortRequest } from "../../src/packet/pcp.ts";
import { SUCCESS } from "../../src/packet/pcp-code.ts";
import { type PcpOwner, type PcpPlace, PcpServer } from "../../src/port/pcp-responder.ts";

const ROUTER = 0xc0a80101;
const HOST = 0xc0a8010a;
const ROUTER_MAC = Uint8Array.of(2, 0, 0, 0, 0, 1);
const HOST_MAC = Uint8Array.of(2, 0, 0, 0, 0, 10);
const OTHER_MAC = Uint8Array.of(2, 0, 0, 0, 0, 66);
const LAN: PcpPlace = { port: 0, ifindex: 7, mac: ROUTER_MAC, addresses: [ROUTER] };

/** NAT-PMP: TCP port 3389 of the sender, for an hour. */
const REQUEST = [0, 2, 0, 0, 13, 61, 0xc3, 0x50, 0, 0, 14, 16];

function frame(source = HOST, mac = HOST_MAC, destination = ROUTER, data = REQUEST): Uint8Array {
	const bytes = (a: number) => [a >>> 24, (a >>> 16) & 255, (a >>> 8) & 255, a & 255];
	return Uint8Array.from([
		...ROUTER_MAC,
		...mac,
		...[8, 0, 0x45, 0, 0, 28 + data.length, 0, 0, 0, 0, 64, 17, 0, 0],
		...bytes(source),
		...bytes(destination),
		...[0x14, 0xe6, 0x14, 0xe7, 0, 8 + data.length, 0, 0],
		...data,
	]);
}

let sockets: Map<number, Uint8Array[]>;
let closed: number[];
let down: boolean;
let sent: Uint8Array[];
let asked: number[];
let spoofed: number;
let crowded: number;
let handled: [number, number][];
let neighbours: Map<number, { mac: Uint8Array; sure: boolean }>;
let clock: number;
let server: PcpServer;

const io = {
	etherOpen(): number {
		if (down) throw new Error("bind(7): Network is down");
		const fd = 10 + sockets.size + closed.length;
		sockets.set(fd, []);
		return fd;
	},
	read(fd: number, buffer: ArrayBuffer): number {
		const next = sockets.get(fd)?.shift();
		if (next === undefined) return -1;
		new Uint8Array(buffer).set(next);
		return next.length;
	},
	write(_fd: number, buffer: ArrayBuffer, from: number, length: number): number {
		sent.push(new Uint8Array(buffer.slice(from, from + length)));
		return length;
	},
	close(fd: number): void {
		expect(sockets.delete(fd)).toBe(true);
		closed.push(fd);
	},
};

const owner: PcpOwner = {
	handle(q: PortRequest, source: number, port: number): PortAnswer {
		handled.push([source, port]);
		return { result: SUCCESS, external: 0xcb007101, port: q.suggested, lifetime: q.lifetime };
	},
	epoch: () => 5,
	neighbour: (_ifindex, host) => neighbours.get(host) ?? null,
	ask: (_ifindex, host) => asked.push(host),
	isOwn: (address) => address === ROUTER,
	spoofed: () => spoofed++,
	crowded: () => crowded++,
	milliseconds: () => clock,
};

function receive(...frames: Uint8Array[]): void {
	const [responder] = server.responders;
	sockets.get(responder.fd)?.push(...frames);
	responder.serve();
}

/** A test with a server of its own. */
function play(name: string, body: () => void): void {
	it(name, () => {
		prepare();
		body();
	});
}

function prepare(): void {
	sockets = new Map();
	closed = [];
	down = false;
	sent = [];
	asked = [];
	spoofed = 0;
	crowded = 0;
	handled = [];
	neighbours = new Map([[HOST, { mac: HOST_MAC, sure: true }]]);
	clock = 1000;
	server = new PcpServer(io, owner);
	server.follow([LAN]);
}

describe("a request", () => {
	play("of a host that the kernel knows is answered to its station, from the address that it asked", () => {
		receive(frame());
		expect(handled).toEqual([[HOST, 0]]);
		expect(sent.length).toBe(1);
		expect([...sent[0].subarray(0, 12)]).toEqual([...HOST_MAC, ...ROUTER_MAC]);
		expect([...sent[0].subarray(26, 34)]).toEqual([192, 168, 1, 1, 192, 168, 1, 10]);
	});

	play("under an address that is another station's is dropped and counted", () => {
		receive(frame(HOST, OTHER_MAC));
		expect([handled, sent, spoofed]).toEqual([[], [], 1]);
	});

	play("under the router's own address is dropped", () => {
		neighbours.set(ROUTER, { mac: OTHER_MAC, sure: true });
		receive(frame(ROUTER, OTHER_MAC));
		expect([handled, sent, spoofed]).toEqual([[], [], 1]);
	});

	play("of a host that the kernel does not know waits until it has asked", () => {
		neighbours.clear();
		receive(frame());
		expect([handled, asked, sent]).toEqual([[], [HOST], []]);
		neighbours.set(HOST, { mac: HOST_MAC, sure: true });
		server.neighbourChanged(8);
		expect(sent.length).toBe(0);
		server.neighbourChanged(LAN.ifindex);
		expect(handled).toEqual([[HOST, 0]]);
		expect(sent.length).toBe(1);
		server.neighbourChanged(LAN.ifindex);
		expect(sent.length).toBe(1);
	});

	play("that waits is dropped if another station answers", () => {
		neighbours.clear();
		receive(frame());
		neighbours.set(HOST, { mac: OTHER_MAC, sure: true });
		server.neighbourChanged(LAN.ifindex);
		expect([handled, sent, spoofed]).toEqual([[], [], 1]);
	});

	play("from a new station of an address that the kernel is not sure of waits too", () => {
		neighbours.set(HOST, { mac: OTHER_MAC, sure: false });
		receive(frame());
		expect([handled, asked]).toEqual([[], [HOST]]);
		neighbours.set(HOST, { mac: HOST_MAC, sure: true });
		server.neighbourChanged(LAN.ifindex);
		expect(handled).toEqual([[HOST, 0]]);
	});

	play("waits no longer than its sender does", () => {
		neighbours.clear();
		receive(frame());
		clock += 4000;
		neighbours.set(HOST, { mac: HOST_MAC, sure: true });
		server.neighbourChanged(LAN.ifindex);
		expect(handled).toEqual([]);
	});

	play(
		"of one station under many addresses: few are asked about in a second, the others counted, and an honest one still finds room",
		() => {
			neighbours.clear();
			for (let second = 0; second < 3; second++, clock += 1000) {
				asked = [];
				crowded = 0;
				for (let n = 0; n < 1000; n++) receive(frame(HOST + 100 + n, OTHER_MAC));
				// What the kernel tells of these does not have it asked again.
				for (let n = 0; n < 50; n++) server.neighbourChanged(LAN.ifindex);
				expect(asked.length).toBe(4);
				expect(crowded).toBeGreaterThanOrEqual(996);
			}
			receive(frame());
			neighbours.set(HOST, { mac: HOST_MAC, sure: true });
			server.neighbourChanged(LAN.ifindex);
			expect(handled).toEqual([[HOST, 0]]);
		},
	);

	play("of many stations: no more than sixteen are asked about in a second, and wait", () => {
		neighbours.clear();
		for (let n = 0; n < 100; n++) receive(frame(HOST + n, Uint8Array.of(2, 0, 0, 1, 0, n)));
		expect([asked.length, crowded]).toEqual([16, 84]);
		for (let n = 0; n < 100; n++) neighbours.set(HOST + n, { mac: Uint8Array.of(2, 0, 0, 1, 0, n), sure: true });
		server.neighbourChanged(LAN.ifindex);
		expect(handled.length).toBe(16);
		// Those that the kernel knows are answered in any case.
		receive(frame(HOST + 99, Uint8Array.of(2, 0, 0, 1, 0, 99)));
		expect(handled.length).toBe(17);
	});

	play("of which one station has several, all are kept up to four", () => {
		neighbours.clear();
		receive(frame(), frame(), frame(), frame(), frame());
		expect([asked, crowded]).toEqual([[HOST], 1]);
		neighbours.set(HOST, { mac: HOST_MAC, sure: true });
		server.neighbourChanged(LAN.ifindex);
		expect(handled.length).toBe(4);
	});

	play("to an address that is none of the device's, or cut short, is left", () => {
		receive(frame(HOST, HOST_MAC, ROUTER + 1), frame().subarray(0, 43), frame(HOST, HOST_MAC, ROUTER, [0]));
		expect([handled, sent]).toEqual([[], []]);
	});
});

describe("the sockets", () => {
	play("of a device that is down are opened when it is up, and closed once", () => {
		down = true;
		server = new PcpServer(io, owner);
		sockets.clear();
		expect(server.follow([LAN])).toBe(true);
		expect(server.responders[0].fd).toBe(-1);
		server.responders[0].serve();
		server.announce(0);
		down = false;
		expect(server.follow([LAN])).toBe(false);
		expect(sockets.size).toBe(1);
		down = true;
		server.follow([{ ...LAN, mac: OTHER_MAC }]);
		server.close();
		server.close();
		expect(sockets.size).toBe(0);
		expect(closed.length).toBe(1);
	});

	play("are one a device, however many addresses it has, and stay while nothing changes", () => {
		const many = { ...LAN, addresses: Array.from({ length: 200 }, (_, n) => ROUTER + n) };
		server.follow([many]);
		expect(sockets.size).toBe(1);
		const before = server.responders[0].fd;
		const other = { ...LAN, port: 1, ifindex: 8 };
		server.follow([many, other]);
		server.follow([many, { ...other, mac: OTHER_MAC }]);
		expect(server.responders[0].fd).toBe(before);
		expect(sockets.size).toBe(2);
	});
});
