/** The guard beside the loop: nft is never waited for once packets flow. */
import { describe, expect, it } from "vitest";
import type { GuardFacts } from "../../src/kernel/guard.ts";
import { GuardKeeper, type KeeperIo } from "../../src/kernel/guard-keeper.ts";
import { parseAddress, parseSubnet, type Subnet } from "../../src/packet/address.ts";

const FACTS: GuardFacts = {
	lan: [{ device: "br-lan", driver: "packet", tun: "" }],
	wanDevice: "wan0",
	externals: [parseAddress("203.0.113.1") as number],
	ownedExternals: [],
	portRanges: [{ first: 32768, last: 65535 }],
	forwards: [],
	elsewhere: [parseSubnet("192.168.1.0/24") as Subnet],
	internal: [parseSubnet("192.168.1.0/24") as Subnet],
	ownAddresses: [],
};
const ANOTHER_LAN = { device: "lan1", driver: "packet" as const, tun: "" };

/** A keeper whose nft does what `nft` says of each script: a status, or null while it hangs. */
function keeper(nft: (script: string) => number | null) {
	const told: string[] = [];
	const world = { now: 1000, wanted: FACTS, scripts: [] as string[], killed: 0, sets: 0, refuses: false, told };
	const running = new Map<number, string>();
	const result = (script: string) => {
		world.scripts.push(script);
		return nft(script);
	};
	let pids = 100;
	let answers = 0;
	const stub = {
		POLLIN: 1,
		now: () => world.now,
		poll: (_set: Int32Array, _count: number, timeout: number) => {
			expect(Number.isInteger(timeout)).toBe(true);
			world.now += Math.max(0.7, timeout);
			return 0;
		},
		run: (_argv: string[], script: string) => ({ status: result(script) ?? 137, output: "refused" }),
		start: (_argv: string[], script: string) => {
			world.scripts.push(script);
			running.set(++pids, script);
			return { pid: pids, output: 50 };
		},
		ended: (pid: number, kill: boolean) => {
			if (kill) world.killed++;
			return kill ? 137 : (nft(running.get(pid) as string) ?? -1);
		},
		read: () => 0,
		close: () => {},
		decode: () => "refused",
		encode: (text: string) => text.length,
		netlinkOpen: () => 51,
		netlinkSend: () => {
			world.sets++;
			answers = 1;
		},
		netlinkReceive: (_fd: number, buffer: ArrayBuffer) => {
			const little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
			new DataView(buffer).setUint16(4, 2, little);
			new DataView(buffer).setInt32(16, world.refuses ? -2 : 0, little);
			return answers-- > 0 ? 36 : 0;
		},
	} as unknown as KeeperIo;
	const guard = new GuardKeeper(stub, {
		wanted: () => world.wanted,
		inForce: (deleted) => told.push(deleted ? "back" : "in force"),
		failed: (error) => told.push(error.message),
	});
	return Object.assign(world, { guard });
}

describe("the guard beside the loop", () => {
	it("a change of addresses is in force at once, without nft", () => {
		const one = keeper(() => 0);
		one.guard.install();
		one.sets = 0;
		one.wanted = { ...FACTS, externals: [parseAddress("203.0.113.77") as number], elsewhere: [] };
		one.guard.keep();
		expect([one.sets, one.scripts.length, one.guard.wanting]).toEqual([1, 1, false]);
		one.guard.keep();
		expect(one.sets).toBe(1);
		// Neither is it put off by an nft that hangs.
		one.wanted = { ...one.wanted, lan: [...FACTS.lan, ANOTHER_LAN], externals: FACTS.externals };
		one.guard.keep();
		expect([one.sets, one.scripts.length]).toEqual([2, 2]);
	});

	it("what sets cannot say goes by nft, and a new device waits for it", () => {
		let status: number | null = null;
		const one = keeper((script) => (script.includes("lan1") ? status : 0));
		one.guard.install();
		one.wanted = { ...FACTS, lan: [...FACTS.lan, ANOTHER_LAN] };
		one.guard.keep();
		for (let n = 0; n < 3; n++) {
			one.now += 100;
			one.guard.look();
			one.guard.keep();
		}
		expect([one.guard.covers("br-lan", "packet"), one.guard.covers("wan0", ""), one.guard.covers("lan1", "packet")]).toEqual([
			true,
			true,
			false,
		]);
		expect([one.scripts.length, one.guard.wanting, one.told]).toEqual([2, true, []]);
		status = 0;
		one.guard.look();
		expect([one.guard.covers("lan1", "packet"), one.guard.covers("lan1", "tun"), one.guard.wanting, one.told]).toEqual([
			true,
			false,
			false,
			["in force"],
		]);
		expect(one.guard.dueAt).toBe(Number.POSITIVE_INFINITY);
	});

	it("an nft that hangs is ended after ten seconds and tried again by the pace", () => {
		let hangs = true;
		const one = keeper((script) => (hangs && script.includes("lan1") ? null : 0));
		one.guard.install();
		one.wanted = { ...FACTS, lan: [...FACTS.lan, ANOTHER_LAN] };
		one.guard.keep();
		const started = one.now;
		for (; one.told.length === 0; one.now += 500) one.guard.look();
		expect([one.killed, one.now - started]).toEqual([1, 10_500]);
		expect(one.told).toEqual(["install the guard table: nft was ended (status 137)"]);
		hangs = false;
		for (; one.guard.wanting && one.now < started + 120_000; one.now += 1000) {
			one.guard.keep();
			one.guard.look();
		}
		expect([one.scripts.length, one.guard.wanting]).toEqual([3, false]);
		expect(one.now - started).toBeGreaterThan(35_000);
	});

	it("a guard that was deleted is put back, also if that happens while it is being made", () => {
		const one = keeper(() => 0);
		one.guard.install();
		one.guard.deleted();
		one.guard.deleted();
		one.guard.look();
		// The first may have been there before the second deletion.
		expect([one.scripts.length, one.told, one.guard.wanting]).toEqual([3, [], true]);
		one.guard.look();
		expect([one.told, one.guard.wanting]).toEqual([["back"], false]);
	});

	it("one that cannot be put back is tried again at once, then every second", () => {
		let status = 1;
		const one = keeper(() => status);
		status = 0;
		one.guard.install();
		status = 1;
		one.guard.deleted();
		while (one.told.length < 2) one.guard.look();
		expect(one.guard.fd).toBe(-1);
		status = 0;
		one.now += 1000;
		one.guard.keep();
		one.guard.look();
		expect(one.told.at(-1)).toBe("back");
	});

	it("sets that the kernel does not take are left to nft", () => {
		const one = keeper(() => 0);
		one.guard.install();
		one.refuses = true;
		one.wanted = { ...FACTS, externals: [] };
		one.guard.keep();
		one.guard.look();
		expect([one.scripts.length, one.guard.wanting]).toEqual([2, false]);
	});

	it("a reload waits for it for a quarter of a second, and no longer", () => {
		let status: number | null = null;
		const one = keeper((script) => (script.includes("lan1") ? status : 0));
		one.guard.install();
		one.wanted = { ...FACTS, lan: [...FACTS.lan, ANOTHER_LAN] };
		one.guard.keep();
		const started = one.now;
		one.guard.settle(250);
		expect(one.now - started).toBeLessThan(270);
		expect(one.guard.covers("lan1", "packet")).toBe(false);
		status = 0;
		one.guard.settle(250);
		expect(one.guard.covers("lan1", "packet")).toBe(true);
	});

	it("what the kernel has learned is forgotten only when a network comes to masqd", () => {
		const one = keeper(() => 0);
		one.guard.install();
		one.sets = 0;
		// The kernel is asked whether it knows the network, told of it, and told to forget.
		one.wanted = { ...FACTS, internal: [...FACTS.internal, parseSubnet("192.168.5.0/24") as Subnet] };
		one.guard.keep();
		expect(one.sets).toBe(3);
		one.guard.keep();
		expect(one.sets).toBe(3);
	});

	it("very many routes go by nft, and no more than its pace allows", () => {
		const one = keeper(() => 0);
		one.guard.install();
		one.sets = 0;
		for (let n = 0; n < 100; n++) {
			const elsewhere = Array.from({ length: 600 }, (_, k) => parseSubnet(`10.${(k + n) >> 7}.${((k + n) & 127) * 2}.0/24`) as Subnet);
			one.wanted = { ...FACTS, elsewhere };
			one.guard.keep();
			one.now += 40;
			one.guard.look();
		}
		expect(one.sets).toBe(0);
		expect(one.scripts.length).toBeLessThan(10);
		expect(one.guard.wanting).toBe(true);
	});

	it("the end of masqd ends nft before the guard goes", () => {
		const one = keeper((script) => (script.includes("lan1") ? null : 0));
		one.guard.install();
		one.wanted = { ...FACTS, lan: [...FACTS.lan, ANOTHER_LAN] };
		one.guard.keep();
		one.guard.close();
		expect([one.killed, one.guard.fd]).toEqual([1, -1]);
		one.guard.remove();
		expect(one.scripts.at(-1)).toContain("delete table inet masqd");
	});
});
