/**
 * Port forwards that hosts ask for (src/nat/pcp-mappings.ts) over a restart: the list goes on, a damaged or foreign one
 * is none. C-9, W-4.
 */
import { describe, expect, it } from "vitest";
import { PCP_MAPPINGS_BYTES, PcpMappings } from "../../src/nat/pcp-mappings.ts";
import { TCP, UDP } from "../../src/packet/layout.ts";
import type { PortRequest } from "../../src/packet/pcp.ts";
import { CANNOT_PROVIDE_EXTERNAL, MAP, NO_RESOURCES, NOT_AUTHORIZED, PEER, SUCCESS, USER_EX_QUOTA } from "../../src/packet/pcp-code.ts";
import { loaded, Rig, type RigOptions } from "./rig.ts";
import { udp } from "./rig-frame.ts";

const H1 = loaded("192.168.1.10");
const H2 = loaded("192.168.1.20");
const BOOT = Int32Array.of(1, -2, 3, 4);
const NONCE = "00000000ffffffff12345678";

function request(internalPort: number, other: Partial<PortRequest> = {}): PortRequest {
	const port = { protocol: UDP, internalPort, suggested: 0, lifetime: 600, peer: 0, peerPort: 0, preferFailure: false };
	return { version: 2, opcode: MAP, nonce: NONCE, ...port, ...other };
}

/** A list over `memory` in a fresh rig, at second `now`. */
function listOf(memory: ArrayBuffer, now: number, boot = BOOT): { rig: Rig; list: PcpMappings; found: boolean } {
	const rig = new Rig();
	rig.context.now = now;
	const list = new PcpMappings(rig.context, memory);
	return { rig, list, found: list.takeOver(boot) };
}

describe("S28: requests and few ports", () => {
	it("leave the last fifth to what hosts open", () => {
		const rig = new Rig({ ranges: [{ first: 40000, last: 40039 }] });
		const list = new PcpMappings(rig.context, new ArrayBuffer(PCP_MAPPINGS_BYTES));
		list.takeOver(BOOT);
		const granted = [H1, H2].flatMap((host) => Array.from({ length: 30 }, (_, n) => list.handle(request(2000 + n), host, 0).result));
		expect(granted.filter((result) => result === SUCCESS)).toHaveLength(32);
		for (let n = 0; n < 8; n++) rig.toWan(udp(`192.168.1.30:${3000 + n}`, "203.0.113.10:9"));
		// What a mapping has already can be asked for.
		expect(list.handle(request(3000), loaded("192.168.1.30"), 0).result).toBe(SUCCESS);
	});
});

describe("requested forwards over a restart", () => {
	it("go on: port, owner, time left and epoch", () => {
		const memory = new ArrayBuffer(PCP_MAPPINGS_BYTES);
		const first = listOf(memory, 1000);
		expect(first.found).toBe(false);
		expect(first.list.handle(request(40000, { suggested: 45678 }), H1, 0)).toMatchObject({ result: SUCCESS, port: 45678 });
		expect(first.list.handle(request(8080, { protocol: TCP, nonce: "", version: 0 }), H2, 0)).toMatchObject({ result: SUCCESS });
		expect(first.list.handle(request(40000, { opcode: PEER, peer: 0xcb00710a }), H1, 0)).toMatchObject({ result: SUCCESS, port: 45678 });
		first.list.handle(request(7000), H2, 0);
		expect(first.list.handle(request(7000, { lifetime: 0 }), H2, 0).result).toBe(SUCCESS);

		const next = listOf(memory, 1300);
		expect(next.found).toBe(true);
		expect(next.list.epoch).toBe(300);
		expect(next.rig.context.requested).toEqual(first.rig.context.requested);
		expect(next.rig.context.requested.length).toBe(3);
		// Nobody else gets the port, nor the mapping; its owner still has it.
		expect(next.rig.context.externals.reservePort(0, UDP, 45678)).toBe(false);
		expect(next.list.handle(request(40000, { nonce: "1".repeat(24) }), H1, 0).result).not.toBe(SUCCESS);
		expect(next.list.handle(request(40000), H1, 0)).toMatchObject({ result: SUCCESS, port: 45678, lifetime: 600 });

		// The two that were not renewed have ended by then.
		const last = listOf(memory, 1700);
		expect(last.rig.context.requested.map((f) => [f.internal, f.first])).toEqual([[H1, 45678]]);
		last.rig.context.now = 1900;
		last.list.expire();
		expect(last.rig.context.requested).toEqual([]);
		expect(last.rig.context.externals.reservePort(0, UDP, 45678)).toBe(true);
		expect(listOf(memory, 1901).rig.context.requested).toEqual([]);
	});

	it("are gone where hosts may not ask any more", () => {
		const memory = new ArrayBuffer(PCP_MAPPINGS_BYTES);
		listOf(memory, 1000).list.handle(request(40000, { suggested: 45678 }), H1, 0);
		const rig = new Rig({ lan: [{ pcp: false }] });
		rig.context.now = 1001;
		expect(new PcpMappings(rig.context, memory).takeOver(BOOT)).toBe(false);
		expect(rig.context.requested).toEqual([]);
		expect(rig.context.externals.reservePort(0, UDP, 45678)).toBe(true);
		expect(listOf(memory, 1002).rig.context.requested).toEqual([]);
	});

	it("are none of another boot, of a file that is not ours, or of a host or port that is not there any more", () => {
		const memory = new ArrayBuffer(PCP_MAPPINGS_BYTES);
		listOf(memory, 1000).list.handle(request(40000), H1, 0);
		const words = new Int32Array(memory);
		const damage: ((w: Int32Array) => void)[] = [
			(w) => w.fill(0x20202020),
			(w) => w.set([7], 0),
			(w) => w.set([7], 2),
			// Word by word: what it is, the host, the port, how long.
			(w) => w.set([0], 8),
			(w) => w.set([1], 8),
			(w) => w.set([loaded("10.0.0.1")], 9),
			(w) => w.set([0], 10),
			(w) => w.set([0x7fffffff], 12),
		];
		for (const bend of damage) {
			const bent = words.slice();
			bend(bent);
			expect(listOf(bent.buffer, 1001).rig.context.requested).toEqual([]);
			expect(listOf(bent.buffer, 1002).found).toBe(true);
		}
		expect(listOf(words.slice().buffer, 1001, Int32Array.of(9, 9, 9, 9)).found).toBe(false);
		// The clock of the same boot does not go back.
		expect(listOf(words.slice().buffer, 999).found).toBe(false);
	});
});

describe("who may ask", () => {
	const twoLans = () => {
		const rig = new Rig({ lan: [{ nets: ["192.168.0.0/16"] }, { nets: ["192.168.9.0/24"] }, { nets: ["192.168.7.0/24"], pcp: false }] });
		rig.context.now = 1000;
		const list = new PcpMappings(rig.context, new ArrayBuffer(PCP_MAPPINGS_BYTES));
		list.takeOver(BOOT);
		return { rig, list };
	};
	const GUEST = loaded("192.168.9.10");

	it("is a host of the LAN port that the request came by, and of the closest subnet around it", () => {
		const { rig, list } = twoLans();
		expect(list.handle(request(40000), H1, 1).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(40000), GUEST, 0).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(40000), loaded("192.168.7.5"), 2).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(40000), loaded("192.168.9.255"), 1).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(40000), loaded("192.168.9.0"), 1).result).toBe(NOT_AUTHORIZED);
		expect(rig.context.requested).toEqual([]);
		expect(list.handle(request(40000), GUEST, 1).result).toBe(SUCCESS);
		expect(list.handle(request(40000), H1, 0).result).toBe(SUCCESS);
	});

	it("ends with the permission of its LAN", () => {
		const { rig, list } = twoLans();
		list.handle(request(40000), GUEST, 1);
		list.handle(request(40000), H1, 0);
		rig.context.lan[1].pcp = false;
		list.withdraw();
		expect(rig.context.requested.map((f) => f.internal)).toEqual([H1]);
	});

	it("gets a place in a full list, as long as another host has more", () => {
		const { rig, list } = listOf(new ArrayBuffer(PCP_MAPPINGS_BYTES), 1000);
		const host = (n: number) => loaded(`192.168.1.${n + 1}`);
		for (let n = 1; n <= 8; n++) {
			for (let port = 0; port < 32; port++) expect(list.handle(request(40000 + port), host(n), 0).result).toBe(SUCCESS);
		}
		expect(rig.context.requested.length).toBe(256);
		expect(list.handle(request(50000), host(1), 0).result).toBe(USER_EX_QUOTA);
		for (let port = 0; port < 28; port++) expect(list.handle(request(50000 + port), host(100), 0).result).toBe(SUCCESS);
		expect(list.handle(request(51000), host(100), 0).result).toBe(NO_RESOURCES);
		expect(rig.context.requested.length).toBe(256);
		const counts = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => rig.context.requested.filter((f) => f.internal === host(n)).length);
		expect(Math.min(...counts)).toBeGreaterThanOrEqual(28);
	});
});

describe("requested forwards and the ports of others", () => {
	const fresh = (o: RigOptions) => {
		const rig = new Rig(o);
		const list = new PcpMappings(rig.context, new ArrayBuffer(PCP_MAPPINGS_BYTES));
		list.takeOver(BOOT);
		return { rig, list };
	};
	const end = { lifetime: 0 };

	it("a redirect's port is told, and neither taken nor given back", () => {
		const { rig, list } = fresh({ forwards: [{ protocol: UDP, first: 50000, internal: "192.168.1.10", internalFirst: 7000 }] });
		for (const known of [false, true]) {
			if (known) expect(rig.toWan(udp("192.168.1.10:7000", "198.51.100.10:9")).source).toBe("203.0.113.1");
			expect(list.handle(request(7000), H1, 0)).toMatchObject({ result: SUCCESS, port: 50000, lifetime: 600 });
			expect(list.handle(request(7000, { ...end }), H1, 0).result).toBe(SUCCESS);
			expect(list.handle(request(7000, { suggested: 50001, preferFailure: true }), H1, 0).result).toBe(CANNOT_PROVIDE_EXTERNAL);
		}
		for (const i of rig.records()) rig.admission.end(i, "flushed");
		expect(rig.context.externals.reservePort(0, UDP, 50000)).toBe(false);
		expect(rig.context.requested).toEqual([]);
		rig.verify();
	});

	it("a redirect for some peers is not opened to all", () => {
		const { list } = fresh({
			forwards: [{ protocol: UDP, first: 50000, internal: "192.168.1.10", internalFirst: 7000, source: "198.51.100.0/24" }],
		});
		expect(list.handle(request(7000), H1, 0).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(7001), H1, 0).result).toBe(SUCCESS);
	});

	it("a pool's host gets no port of the WAN's own address", () => {
		const { rig, list } = fresh({ pools: [{ nets: ["192.168.1.10/32"], externals: ["203.0.113.50"] }] });
		rig.toWan(udp("192.168.1.20:40000", "198.51.100.10:9"));
		rig.toWan(udp("192.168.1.10:40000", "198.51.100.10:9"));
		expect(list.handle(request(40000), H1, 0).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(40001), H1, 0).result).toBe(NOT_AUTHORIZED);
		expect(list.handle(request(40000), H2, 0)).toMatchObject({ result: SUCCESS, port: 40000 });
		expect(list.handle(request(40000, { ...end }), H2, 0).result).toBe(SUCCESS);
		// The session has it still.
		expect(rig.context.externals.reservePort(0, UDP, 40000)).toBe(false);
		rig.verify();
	});

	it("another configuration ends what has lost its port or its host, without giving the port of others back", () => {
		const { rig, list } = fresh({});
		for (const [internal, port] of [
			[H1, 40000],
			[H1, 40001],
			[H2, 40002],
			[H2, 40003],
		])
			expect(list.handle(request(port), internal, 0)).toMatchObject({ result: SUCCESS, port });
		const { policy } = rig.context;
		policy.forwards.push({ protocol: UDP, first: 40000, last: 40000, internal: H2, internalFirst: 7, source: null });
		policy.pools.push({ nets: [{ address: H2, mask: -1 }], externals: [0], overload: false });
		list.withdraw();
		expect(rig.context.requested.map((f) => f.first)).toEqual([40001]);
		expect(rig.context.externals.reservePort(0, UDP, 40000)).toBe(false);
		expect(rig.context.externals.reservePort(0, UDP, 40002)).toBe(true);
		policy.ranges = [{ first: 50000, last: 60000 }];
		list.withdraw();
		expect(rig.context.requested).toEqual([]);
	});
});
