/** Reloads that wait for ubus beside the loop. */
import { describe, expect, it } from "vitest";
import { Reloads } from "../../src/daemon/reloads.ts";
import type { ChildIo } from "../../src/kernel/child.ts";
import type { UbusAnswer } from "../../src/kernel/netifd.ts";

/** Reloads that ask for so many interfaces, of a ubus that ends when `ends` is called. */
function reloads(questions: number, broken = false) {
	const world = { now: 1000, started: 0, killed: 0, running: false, heard: [] as UbusAnswer[], told: [] as string[] };
	const io = {
		start: () => {
			if (broken) throw new Error("ENOENT");
			world.started++;
			world.running = true;
			return { pid: 7, output: 50 };
		},
		ended: (_pid: number, kill: boolean) => {
			if (kill) world.killed++;
			return kill ? 137 : world.running ? -1 : 0;
		},
		read: () => (world.running ? -1 : 0),
		close: () => {},
		decode: () => "answer",
	} as unknown as ChildIo;
	function* reload() {
		for (let n = 0; n < questions; n++) world.heard.push(yield ["ubus"]);
		return { errors: [], notes: [`number ${world.started}`] };
	}
	const one = new Reloads(io, reload, () => world.now);
	const ask = () => one.ask(({ errors, notes }) => world.told.push([...errors, ...notes].join()));
	return Object.assign(world, { one, ask });
}

describe("a reload", () => {
	it("is done at once where nobody has to be asked", () => {
		const { ask, told, one } = reloads(0);
		ask();
		expect(told).toEqual(["number 0"]);
		expect([one.fd, one.dueAt]).toEqual([-1, Number.POSITIVE_INFINITY]);
	});

	it("goes on when ubus has answered, one interface after the other", () => {
		const r = reloads(2);
		r.ask();
		expect([r.one.fd, r.told.length]).toEqual([50, 0]);
		r.one.look();
		expect([r.started, r.told.length]).toEqual([1, 0]);
		r.running = false;
		r.one.look();
		expect([r.started, r.told.length]).toEqual([2, 0]);
		r.running = false;
		r.one.look();
		expect(r.heard).toEqual([
			{ status: 0, output: "answer" },
			{ status: 0, output: "answer" },
		]);
		expect([r.told, r.one.fd]).toEqual([["number 2"], -1]);
	});

	it("ends a ubus that hangs, and whoever asks meanwhile has one more for all", () => {
		const r = reloads(1);
		r.ask();
		r.ask();
		r.ask();
		r.now = r.one.dueAt;
		r.one.look();
		expect([r.killed, r.heard, r.told]).toEqual([1, [{ status: 137, output: "answer" }], ["number 1"]]);
		expect(r.started).toBe(2);
		r.running = false;
		r.one.look();
		expect(r.told).toEqual(["number 1", "number 2", "number 2"]);
		expect([r.started, r.one.dueAt]).toEqual([2, Number.POSITIVE_INFINITY]);
	});

	it("hears that there is no ubus", () => {
		const r = reloads(2, true);
		r.ask();
		expect([r.heard, r.told]).toEqual([[null, null], ["number 0"]]);
	});

	it("tells who has asked of a fault of ours too, which the barrier hears", () => {
		const told: string[] = [];
		const one = new Reloads(
			{} as ChildIo,
			// biome-ignore lint/correctness/useYield: it fails before.
			function* () {
				throw new Error("broken");
			},
			() => 0,
		);
		expect(() => one.ask(({ errors }) => told.push(...errors))).toThrow("broken");
		expect(told).toEqual(["masqd: broken"]);
	});

	it("leaves no ubus behind", () => {
		const r = reloads(1);
		r.ask();
		r.one.close();
		expect([r.killed, r.one.fd]).toEqual([1, -1]);
	});
});
