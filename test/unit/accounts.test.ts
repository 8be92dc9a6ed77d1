/**
 * Bytes of hosts by hour and day (src/conntrack/accounts.ts): all of them once, whatever ends, restarts or is merged.
 */
import { describe, expect, it } from "vitest";
import { ACCOUNTS_BYTES, Accounts, type AccountsOwner, DAYS, HOURS, ROWS } from "../../src/conntrack/accounts.ts";
import { HOST_WORDS } from "../../src/conntrack/record.ts";
import type { Image } from "../../src/conntrack/restore.ts";
import { accounts } from "../../src/control/accounts.ts";
import type { AccountRow } from "../../src/control/protocol.ts";
import { aheadOfUtc } from "../../src/daemon/time-zone.ts";
import { BOOT, Rig, type RigOptions } from "./rig.ts";
import { tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const [H1, H2] = ["192.168.1.10", "192.168.1.20"];
const S1 = "203.0.113.10";
/** Where the clock of the wall stands in a test: ten to five in the afternoon. */
const DAY = 20_000;
const START = DAY * 86400 + 16 * 3600 + 50 * 60;

interface Kept {
	rig: Rig;
	books: Accounts;
	/** Seconds that the wall's clock is ahead of the machine's. */
	clock: { ahead: number };
	memory: ArrayBuffer;
}

/** A rig whose table has accounts, those of `before` or new ones, which was killed a moment ago. */
function kept(o: RigOptions = {}, before: Kept | null = null, carried: object | null = null): Kept {
	const memory = before?.memory ?? new ArrayBuffer(ACCOUNTS_BYTES);
	const clock = before?.clock ?? { ahead: 0 };
	const found: { books?: Accounts } = {};
	const begin = (rig: Rig, image: Image | null) => {
		const books = new Accounts(memory, rig.table, {
			second: () => rig.context.now,
			local: () => rig.context.now + clock.ahead,
			present: (address) => rig.hosts.find(address) !== 0,
			carriedSoFar: () => rig.context.forwardedOut + rig.context.forwardedIn,
			carried: () => carried as ReturnType<AccountsOwner["carried"]>,
		});
		const resumed = books.resume(BOOT, image);
		return () => {
			resumed(
				[...Array(rig.hosts.capacity).keys()].flatMap((n) => (rig.hosts.sessions(n + 1) > 0 ? rig.hosts.W[(n + 1) * HOST_WORDS] : [])),
			);
			rig.table.accounts = books;
			rig.hosts.accounts = books;
			found.books = books;
		};
	};
	const from = before === null ? undefined : { image: before.rig.image(), second: before.rig.context.now + 1 };
	const rig = new Rig({ ...o, ...(from !== undefined && { from }), resume: begin });
	if (found.books === undefined) begin(rig, null)();
	rig.hops.answersInternal = true;
	if (before === null) clock.ahead = START - rig.context.now;
	return { rig, books: found.books as Accounts, clock, memory };
}

/** What there is by now, host by host. */
function asked({ books }: Kept, by = "hour"): Record<string, [number, number][]> {
	const found: Record<string, [number, number][]> = {};
	for (const job = accounts(books, by); ; ) {
		const step = job.next();
		if (step.done) return found;
		for (const { address, bytes } of (step.value ?? []) as AccountRow[]) found[address] = bytes;
	}
}

/** The totals of the present hour or day. */
const present = (k: Kept, by = "hour") => Object.fromEntries(Object.entries(asked(k, by)).map(([host, [now]]) => [host, now]));

const send = ({ rig }: Kept, host: string, port: number, times = 1) => {
	for (let n = 0; n < times; n++) rig.toWan(udp(`${host}:${port}`, `${S1}:53000`, { payload: 72 }));
};
const receive = ({ rig }: Kept, port: number) => rig.toLan(udp(`${S1}:53000`, `${X}:${port}`, { payload: 472 }));

/** Ends all sessions. */
const end = ({ rig }: Kept, which: (i: number) => boolean = () => true) => {
	for (const i of rig.records()) if (which(i)) rig.admission.end(i, "flushed");
};

describe("accounts", () => {
	it("have a host's bytes while its sessions live, and when they have ended", () => {
		const k = kept();
		send(k, H1, 40000, 3);
		receive(k, 40000);
		send(k, H2, 40001);
		for (const by of ["hour", "day"]) expect(present(k, by)).toEqual({ [H1]: [300, 500], [H2]: [100, 0] });
		end(k);
		expect(k.rig.records()).toEqual([]);
		for (let n = 0; n < 3; n++) expect(present(k)).toEqual({ [H1]: [300, 500], [H2]: [100, 0] });
		send(k, H1, 40002);
		expect(present(k)).toEqual({ [H1]: [400, 500], [H2]: [100, 0] });
		expect(() => asked(k, "week")).toThrow("hour or day");
	});

	it("count what ends while a look is under way once, wherever the look is", () => {
		const k = kept({ sessions: 8192 });
		for (let n = 0; n < 3000; n++) send(k, H1, 20000 + n);
		expect(k.books.step()).toBe(false);
		// Records before and behind the look's place go, and others come.
		end(k, (i) => i % 3 === 0);
		for (let n = 0; n < 500; n++) send(k, H2, 30000 + n);
		expect(present(k)).toEqual({ [H1]: [300_000, 0], [H2]: [50_000, 0] });
		end(k);
		expect(present(k)).toEqual({ [H1]: [300_000, 0], [H2]: [50_000, 0] });
	});

	it("keep the row of a host that comes while a look is under way", () => {
		const k = kept({ sessions: 8192 });
		for (let n = 0; n < 3000; n++) send(k, H1, 20000 + n);
		end(k);
		expect(k.books.step()).toBe(false);
		send(k, H2, 40000);
		expect(present(k)).toEqual({ [H1]: [300_000, 0], [H2]: [100, 0] });
	});

	it("book each hour and day what was moved in it", () => {
		const k = kept({ timeouts: { udp: 20_000 } });
		send(k, H1, 40000);
		asked(k);
		k.rig.pass(660);
		k.books.tick();
		send(k, H1, 40000, 2);
		expect(asked(k)[H1].slice(0, 3)).toEqual([
			[200, 0],
			[100, 0],
			[0, 0],
		]);
		k.rig.pass(7 * 3600);
		k.books.tick();
		send(k, H1, 40000, 4);
		expect(asked(k)[H1].map(([out]) => out)).toEqual([400, 0, 0, 0, 0, 0, 0, 200, 100, ...Array(HOURS - 9).fill(0)]);
		expect(asked(k, "day")[H1].map(([out]) => out)).toEqual([400, 300, ...Array(DAYS - 2).fill(0)]);
		expect(k.books.present(true)).toBe(DAY + 1);
		expect(k.books.present(false)).toBe((DAY + 1) * 24);
		// Nothing is kept for longer than a week.
		for (let n = 0; n < DAYS; n++) {
			k.rig.pass(86400);
			k.books.tick();
			expect(k.books.step()).toBe(true);
		}
		expect(asked(k, "day")).toEqual({});
	});

	it("lose nothing by a clock that is set, and make nothing old", () => {
		const k = kept();
		k.books.tick();
		k.clock.ahead = -k.rig.context.now;
		send(k, H1, 40000);
		asked(k);
		k.clock.ahead = START - k.rig.context.now;
		expect(present(k, "day")).toEqual({ [H1]: [100, 0] });
		expect(present(k)).toEqual({ [H1]: [100, 0] });
		k.clock.ahead -= 7200;
		send(k, H1, 40000);
		expect(present(k)).toEqual({ [H1]: [200, 0] });
	});

	it.each(["before a look", "in a look", "after a look"])("go on over a kill %s, and over a table that is lost", (when) => {
		const k = kept({ sessions: 8192 });
		for (let n = 0; n < 100; n++) send(k, H1, 20000 + n);
		send(k, H2, 40000, 5);
		if (when !== "before a look") k.books.step();
		end(k, (i) => i % 2 === 0);
		if (when === "after a look") asked(k);
		const next = kept({ sessions: 8192 }, k);
		expect(next.rig.records().length).toBeGreaterThan(0);
		expect(present(next)).toEqual({ [H1]: [10_000, 0], [H2]: [500, 0] });
		send(next, H2, 40000);
		// Some sessions are too old for a third one.
		next.rig.pass(400);
		const third = kept({ sessions: 8192 }, next);
		expect(third.rig.records()).toEqual([]);
		expect(present(third)).toEqual({ [H1]: [10_000, 0], [H2]: [600, 0] });
	});

	it("begin anew with what comes where there were none", () => {
		const k = kept();
		send(k, H1, 40000);
		k.memory = new ArrayBuffer(ACCOUNTS_BYTES);
		const next = kept({}, k);
		expect(present(next)).toEqual({});
		send(next, H1, 40000);
		expect(present(next)).toEqual({ [H1]: [100, 0] });
	});

	it("count merged segments with the headers that they had", () => {
		const k = kept({ queue: 64 });
		k.rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		k.rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA", seq: 900, ack: 1 }));
		const stamps = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
		const segment = tcp(`${H1}:50000`, `${S1}:80`, { seq: 1, ack: 901, payload: 1448 * 2, gso: 1448, options: stamps });
		for (let n = 0; n < 100; n++) k.rig.out(segment);
		const wire = 200 * 1500;
		const [out] = present(k)[H1];
		expect(Math.abs(out - wire) / wire).toBeLessThan(0.01);
	});

	it("have a limit of hosts, and the others together", () => {
		const many = kept({ sessions: 16384, lan: [{ nets: ["192.168.0.0/16"] }] });
		for (let n = 0; n < ROWS + 44; n++) send(many, `192.168.${2 + (n >> 7)}.${1 + (n & 127)}`, 40000);
		const found = present(many);
		expect(Object.keys(found).length).toBe(ROWS + 1);
		expect(found.others).toEqual([4400, 0]);
		// A week later those that are silent have made room.
		end(many);
		for (let n = 0; n <= DAYS; n++) {
			many.rig.pass(86400);
			asked(many);
		}
		send(many, "192.168.9.9", 40000);
		expect(present(many)).toEqual({ "192.168.9.9": [100, 0] });
	});

	it("begin days where the router's time zone does", () => {
		for (const [zone, ahead] of [
			["CET-1CEST,M3.5.0,M10.5.0/3", 3600],
			["EST5EDT,M3.2.0,M11.1.0", -18000],
			["<+0530>-5:30", 19800],
			["<-0330>3:30", -12600],
			["UTC0", 0],
			["UTC", 0],
			["", 0],
			["nonsense\n", 0],
		] as const)
			expect(aheadOfUtc(zone) + 0).toBe(ahead);
	});
});
