import { describe, expect, test } from "vitest";
import { CpuAffinity, LOOK_MS, REST_MS } from "../../src/kernel/cpu-affinity.ts";

/** A machine whose processors are idle by the given shares between two looks. */
class Machine {
	on = 0;
	forbidden = false;
	allowed: number[];
	calls: number[][] = [];
	capacity: number[] | null = null;
	ticks: number[];
	at = 1000;
	frames = 0;
	placement: CpuAffinity;

	constructor(allowed: number[], capacity: number[] | null = null) {
		this.allowed = allowed;
		this.capacity = capacity;
		this.on = allowed[0];
		this.ticks = new Array(8).fill(0);
		this.placement = new CpuAffinity({
			processors: () => this.allowed,
			processor: () => this.on,
			runOn: (cpus: number[]) => {
				if (this.forbidden) throw new Error("EINVAL");
				this.calls.push(cpus);
				if (!cpus.includes(this.on)) this.on = cpus[0];
			},
			readFile: (path: string) => this.file(path),
		});
	}

	file(path: string): string {
		const match = /cpu(\d+)\/cpu_capacity$/.exec(path);
		if (match !== null) {
			if (this.capacity === null) throw new Error("ENOENT");
			return `${this.capacity[Number(match[1])]}\n`;
		}
		const lines = this.ticks.map((idle, cpu) => `cpu${cpu} 5 0 7 ${Math.round(idle)} 0 1 2 0 0 0`);
		return `cpu  10 0 20 30 40 0 0 0 0 0\n${lines.join("\n")}\nintr 1 2 3\nctxt 4\n`;
	}

	/** One look, after `ms` in which each processor was idle for its share and `frames` were carried. */
	look(idle: number[], frames = 1000, ms = LOOK_MS): void {
		idle.forEach((share, cpu) => {
			this.ticks[cpu] += (share * ms) / 10;
		});
		this.at += ms;
		this.frames += frames;
		this.placement.look(this.at, this.frames);
	}

	/** The first look has nothing to compare with. */
	begin(): this {
		this.look([], 0);
		return this;
	}
}

describe("placement", () => {
	test("moves from a crowded processor to an idle one, once", () => {
		const m = new Machine([0, 1]).begin();
		m.look([0, 0.7]);
		expect(m.calls).toEqual([[1]]);
		expect(m.placement.dueAt).toBe(m.at + LOOK_MS);
		for (let n = 0; n < 10; n++) m.look([0.1, 0]);
		expect(m.calls).toEqual([[1]]);
	});

	test("the first look only looks", () => {
		const m = new Machine([0, 1]);
		m.look([0, 1]);
		expect(m.calls).toEqual([]);
	});

	test("a look after a pause only looks: what was idle then says nothing of now", () => {
		const m = new Machine([0, 1]).begin();
		m.look([0, 0.9], 1000, LOOK_MS * 10);
		expect(m.calls).toEqual([]);
	});

	test("stays where there is room, where the others are no better, and where there is little traffic", () => {
		const m = new Machine([0, 1]).begin();
		m.look([0.2, 0.9]);
		m.look([0, 0.3]);
		m.look([0, 0.9], 10);
		expect(m.calls).toEqual([]);
	});

	test("takes the idlest of those that it may run on", () => {
		const m = new Machine([0, 2, 3]).begin();
		m.look([0, 1, 0.6, 0.7]);
		expect(m.calls).toEqual([[3]]);
	});

	test("does not move to a slower processor", () => {
		const m = new Machine([0, 1, 2], [1024, 446, 1024]).begin();
		m.look([0, 0.9, 0.1]);
		expect(m.calls).toEqual([]);
		m.look([0, 0.9, 0.7]);
		expect(m.calls).toEqual([[2]]);
	});

	test("takes a move back after which the processor that was left is idler than the new one had been, and tries it less and less often", () => {
		const m = new Machine([0, 1]).begin();
		const moves: number[] = [];
		for (let looks = 0; looks < 200; looks++) {
			const before = m.calls.length;
			m.look(m.on === 0 ? [0, 0.65] : [0.85, 0]);
			if (m.calls.length > before) moves.push(looks);
		}
		expect(m.on).toBe(0);
		for (let n = 1; n < moves.length; n += 2) expect(moves[n] - moves[n - 1]).toBe(1);
		const gaps = moves.filter((_, n) => n % 2 === 0).map((at, n, all) => at - (all[n - 1] ?? 0));
		expect(gaps.slice(1).every((gap, n) => gap >= gaps[n])).toBe(true);
		expect(moves.length).toBeLessThan(16);
	});

	test("after a pause it moves again at once", () => {
		const m = new Machine([0, 1]).begin();
		for (let n = 0; n < 20; n++) m.look(m.on === 0 ? [0, 0.9] : [0.9, 0]);
		m.look([1, 1], 10);
		const here = m.on;
		m.look(here === 0 ? [0, 0.9] : [0.9, 0]);
		expect(m.on).toBe(1 - here);
	});

	test("load that follows it about makes it move less and less often", () => {
		const m = new Machine([0, 1]).begin();
		let looks = 0;
		const moves: number[] = [];
		for (; looks < 200; looks++) {
			const before = m.calls.length;
			m.look(m.on === 0 ? [0, 0.9] : [0.9, 0]);
			if (m.calls.length > before) moves.push(looks);
		}
		const gaps = moves.slice(1).map((at, n) => at - moves[n]);
		expect(gaps.every((gap, n) => n === 0 || gap >= gaps[n - 1])).toBe(true);
		expect(moves.length).toBeLessThan(10);
	});

	test("gives the choice back after a while with little traffic, once", () => {
		const m = new Machine([0, 1, 2]).begin();
		m.placement.rest(m.at + REST_MS);
		expect(m.calls).toEqual([]);
		m.look([0, 0.7, 0]);
		const busy = m.at;
		m.look([0.9, 0.9, 0.9], 10);
		m.placement.rest(busy + REST_MS - 1);
		expect(m.calls).toEqual([[1]]);
		m.placement.rest(busy + REST_MS);
		m.placement.rest(busy + REST_MS + 1000);
		expect(m.calls).toEqual([[1], [0, 1, 2]]);
	});

	test("never looks again where it is forbidden", () => {
		const m = new Machine([0, 1]).begin();
		m.file = () => {
			throw new Error("EACCES");
		};
		m.look([0, 0.7]);
		expect(m.calls).toEqual([]);
		expect(m.placement.dueAt).toBe(Number.POSITIVE_INFINITY);
	});

	test("survives that it may no longer run where it did at the start", () => {
		const m = new Machine([0, 1]).begin();
		m.look([0, 0.7]);
		m.forbidden = true;
		m.placement.rest(m.at + REST_MS);
		expect(m.calls).toEqual([[1]]);
		expect(m.placement.dueAt).toBe(Number.POSITIVE_INFINITY);
	});

	test("never looks on one processor", () => {
		expect(new Machine([1]).placement.dueAt).toBe(Number.POSITIVE_INFINITY);
	});
});
