/**
 * What an exception in a step of the loop costs: the step, a line of the log, a count; and when it ends the process.
 */
import { describe, expect, it } from "vitest";
import { Barrier, Unrecoverable } from "../../src/daemon/barrier.ts";
import { Log } from "../../src/daemon/log.ts";

function make() {
	const lines: string[] = [];
	const clock = { now: 1000 };
	const log = new Log((priority, line) => lines.push(`${priority} ${line}`) > 0);
	return { lines, clock, log, barrier: new Barrier(log, () => clock.now) };
}

const boom = (message = "boom") => {
	throw new TypeError(message);
};
const refusal = (code: string, errno: number) => () => {
	throw Object.assign(new Error(`write(7): ${code}`), { code, errno });
};

describe("a step that throws", () => {
	it("is held back, counted by its name and told with its stack", () => {
		const { barrier, lines } = make();
		expect(barrier.attempt("arp", boom)).toBe(false);
		expect(barrier.attempt("arp", () => boom("bang"))).toBe(false);
		expect(barrier.attempt("control", () => {})).toBe(true);
		expect(barrier.failures()).toEqual([{ step: "arp", count: 2, last: "bang", internal: true }]);
		expect(lines.length).toBe(2);
		expect(lines[0]).toMatch(/^3 error: internal error in arp: boom; .*at boom/);
		expect(lines[0]).not.toContain("\n");
	});

	it("is told once of each kind, then counted", () => {
		const { barrier, lines, clock, log } = make();
		for (let n = 0; n < 50; n++) barrier.attempt("arp", boom);
		expect(lines.length).toBe(1);
		clock.now += 61_000;
		log.tick(clock.now);
		expect(lines.length).toBe(2);
		expect(lines[1]).toContain("(49 more)");
	});

	it("fills the log with no more than so many kinds", () => {
		const { barrier, lines } = make();
		for (let n = 0; n < 90; n++) {
			barrier.attempt("arp", () => boom(`number ${n}`));
			barrier.attempt("arp", () => {});
		}
		expect(lines.length).toBe(33);
		expect(barrier.failures()[0].count).toBe(90);
	});

	it("may throw anything", () => {
		const { barrier } = make();
		const nothing = () => {
			throw undefined;
		};
		expect(barrier.attempt("arp", nothing)).toBe(false);
		expect(barrier.failures()[0].last).toBe("undefined");
	});

	it("is a warning without a stack when it is the system that refuses", () => {
		const { barrier, lines } = make();
		barrier.attempt("pcp sockets", refusal("ENETDOWN", 100));
		expect(lines).toEqual(["4 warning: pcp sockets: write(7): ENETDOWN"]);
		expect(barrier.failures()[0].internal).toBe(false);
	});
});

describe("a step that throws again and again", () => {
	it("ends the process after a hundred times in a second", () => {
		const { barrier, clock } = make();
		for (let n = 0; n < 99; n++) {
			barrier.failed("wan0", new Error("x"));
			clock.now += 11;
		}
		expect(() => barrier.failed("wan0", new Error("x"))).toThrow(Unrecoverable);
	});

	it("and after ten in ten seconds, but not sooner", () => {
		const { barrier, clock } = make();
		for (let n = 0; n < 10; n++) {
			expect(barrier.attempt("expiry", boom)).toBe(false);
			clock.now += 1000;
		}
		expect(() => barrier.attempt("expiry", boom)).toThrow("expiry has failed 11 times in a row: boom");
	});

	it("not in a burst, not when it passes in between, whatever others do", () => {
		const { barrier, clock } = make();
		for (let n = 0; n < 5000; n++) barrier.attempt("arp", boom);
		clock.now += 100_000;
		barrier.attempt("arp", () => {});
		expect(barrier.ailing).toBe(false);
		for (let n = 0; n < 300; n++) {
			barrier.attempt("arp", boom);
			barrier.attempt("other", boom);
			barrier.attempt("arp", () => {});
			expect(barrier.ailing).toBe(true);
			barrier.attempt("other", () => {});
			clock.now += 100;
		}
	});

	it("not while it is the system that refuses what forwarding can do without", () => {
		const { barrier, clock } = make();
		for (let n = 0; n < 200; n++) {
			barrier.attempt("pcp sockets", refusal("EMFILE", 24));
			clock.now += 1000;
		}
		const vital = () => barrier.failed("poll", Object.assign(new Error("poll"), { errno: 12 }));
		for (let n = 0; n < 10; n++) {
			vital();
			clock.now += 1000;
		}
		expect(vital).toThrow(Unrecoverable);
	});

	it("and an end is not held back by a step around it", () => {
		const { barrier } = make();
		const end = () => {
			throw new Unrecoverable("over");
		};
		expect(() => barrier.attempt("outer", () => barrier.attempt("inner", end))).toThrow("over");
		expect(barrier.failures()).toEqual([]);
	});
});

describe("the log", () => {
	it("counts lines that are not taken, and says so with the next that is", () => {
		const lines: string[] = [];
		let stuck = true;
		const log = new Log((_, line) => !stuck && lines.push(line) > 0);
		log.notice("one");
		log.notice("two");
		stuck = false;
		log.notice("three");
		log.notice("four");
		expect(log.lost).toBe(2);
		expect(lines).toEqual(["warning: 2 lines of the log were lost: nobody read them", "three", "four"]);
	});
});
