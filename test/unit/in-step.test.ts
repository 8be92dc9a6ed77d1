/** The walk over the followers: a start, the kernel's news and a stop, with recording stand-ins. */
import { describe, expect, it } from "vitest";
import { makePlan, type Plan } from "../../src/config/plan.ts";
import { Barrier } from "../../src/daemon/barrier.ts";
import { type Follower, StartError } from "../../src/daemon/follower.ts";
import { GuardFollower, type KeeperOwner } from "../../src/daemon/guard-follower.ts";
import { InStep } from "../../src/daemon/in-step.ts";
import { Log } from "../../src/daemon/log.ts";
import { type Arp, ArpFollower } from "../../src/daemon/responders.ts";
import { topologyOf } from "../../src/daemon/topology.ts";
import { OwnPorts } from "../../src/kernel/local-ports.ts";
import { RTM } from "../../src/netlink/route.ts";
import { opened, own, router, WAN } from "./kernel-stand-in.ts";

const CONFIG = `config masqd 'main'
	option enabled '1'

config wan
	option device 'wan0'

config lan
	option device 'lan0'
	option driver 'packet'

config static
	option external '203.0.113.7'
	option internal '192.168.1.20'
`;
const plan = makePlan(CONFIG, "masqd", { memTotalKb: 131_072 }).plan as Plan;

/** Followers that write down what they are asked; `refuse` says what they throw. */
function walk(names: string[]) {
	const told: string[] = [];
	const refuse = new Map<string, Error>();
	const note = (what: string, name: string) => {
		told.push(`${what} ${name}`);
		const error = refuse.get(`${what} ${name}`);
		if (error !== undefined) throw error;
	};
	const kernel = router();
	const view = opened(kernel);
	const ports = new OwnPorts({ take: () => true, release: () => {} });
	const lines: string[] = [];
	const log = new Log((_, text) => lines.push(text) > 0, "info");
	const followers = names.map((name): Follower => ({ name, follow: () => note("follow", name), close: () => note("close", name) }));
	const inStep = new InStep(followers, {
		kernel: view,
		barrier: new Barrier(log, kernel.now),
		log,
		plan: () => plan,
		topology: (of) => topologyOf(of, view, ports),
		take: () => told.push("take"),
		linksChanged: () => {},
		netsChanged: () => told.push("nets"),
		suspectTuns: () => {},
		filtersChanged: () => {},
		neighboursChanged: () => {},
		milliseconds: kernel.now,
	});
	/** The loop for so long: how often the walk was attempted, and that it slept in between. */
	const run = (milliseconds: number) => {
		const attempts: number[] = [];
		for (const end = kernel.time + milliseconds; ; ) {
			const next = Math.min(view.pendingAt(), inStep.dueAt);
			if (next >= end) break;
			kernel.time = Math.max(kernel.time, next);
			attempts.push(kernel.time);
			try {
				inStep.news();
			} catch {
				// As the barrier does.
			}
		}
		return attempts;
	};
	return { inStep, told, refuse, kernel, lines, view, run };
}

describe("the walk", () => {
	it("tells the ports first, goes in order and comes back in reverse", () => {
		const { inStep, told } = walk(["guard", "ports", "offload"]);
		inStep.look();
		inStep.start();
		inStep.close(false, () => {});
		expect(told).toEqual(["take", "follow guard", "follow ports", "follow offload", "close offload", "close ports", "close guard"]);
	});

	it("ends a start with the first that fails: nothing behind a guard that is not there", () => {
		const { inStep, told, refuse } = walk(["guard", "ports"]);
		refuse.set("follow guard", new StartError("no nft"));
		inStep.look();
		expect(() => inStep.start()).toThrow("no nft");
		expect(told).toEqual(["take", "follow guard"]);
	});

	it("goes the same way for the kernel's news, and past one that fails, which is tried again", () => {
		const { inStep, told, refuse, kernel } = walk(["guard", "ports", "offload"]);
		inStep.look();
		told.length = 0;
		refuse.set("follow ports", Object.assign(new Error("busy"), { errno: 16 }));
		kernel.addresses.push(own(WAN, "203.0.113.9", 24));
		kernel.tell(own(WAN, "203.0.113.9", 24), RTM.NEWADDR);
		inStep.news();
		expect(told).toEqual(["take", "follow guard", "follow ports", "follow offload"]);
		expect(inStep.behind).toBe(true);
		refuse.clear();
		told.length = 0;
		inStep.news();
		expect(told).toEqual(["take", "follow guard", "follow ports", "follow offload"]);
		expect(inStep.behind).toBe(false);
	});

	it("follows lost news though all looks as before: what went and came back took with it what the kernel was asked for", () => {
		const { inStep, told, kernel } = walk(["guard", "ports"]);
		inStep.look();
		told.length = 0;
		kernel.told.push("ENOBUFS");
		inStep.news();
		expect(told).toEqual(["take", "follow guard", "follow ports"]);
		expect(inStep.dueAt).toBe(Number.POSITIVE_INFINITY);
	});

	it("reads lost news again at once when that failed", () => {
		const { inStep, told, kernel, run } = walk(["guard"]);
		inStep.look();
		told.length = 0;
		kernel.told.push("ENOBUFS");
		kernel.failures = 1;
		kernel.addresses.push(own(WAN, "203.0.113.9", 24));
		expect(() => inStep.news()).toThrow("EIO");
		const lostAt = kernel.time;
		expect(run(10_000)).toEqual([lostAt]);
		expect(told).toEqual(["take", "follow guard"]);
	});

	it("attempts what goes on failing less and less often, and once a second in the end", () => {
		const { inStep, kernel, refuse, run, lines } = walk(["guard"]);
		inStep.look();
		kernel.told.push("ENOBUFS");
		kernel.failures = Number.POSITIVE_INFINITY;
		expect(() => inStep.news()).toThrow("EIO");
		expect(run(100).length).toBeLessThanOrEqual(3);
		expect(run(10_000).length).toBeLessThanOrEqual(25);
		kernel.failures = 0;
		expect(run(1001).length).toBeGreaterThan(0);
		expect(run(10_000)).toEqual([]);
		// Likewise a follower, which is told of.
		refuse.set("follow guard", Object.assign(new Error("busy"), { errno: 16 }));
		inStep.behind = true;
		const attempts = run(10_000);
		expect(attempts.length).toBeLessThanOrEqual(15);
		expect(attempts[1] - attempts[0]).toBeLessThanOrEqual(100);
		expect(lines.some((line) => line.includes("busy"))).toBe(true);
		refuse.clear();
		run(1001);
		expect(run(10_000)).toEqual([]);
	});

	it("leaves the time to forwarding where a listing that fails takes long", () => {
		const { inStep, kernel, run } = walk(["guard"]);
		inStep.look();
		kernel.told.push("ENOBUFS");
		kernel.silent = true;
		const before = kernel.time;
		expect(() => inStep.news()).toThrow("no answer");
		const took = kernel.time - before;
		expect(took).toBeGreaterThanOrEqual(2000);
		// Each opens its socket anew.
		const sockets = kernel.opened;
		run(20_000);
		expect(kernel.opened - sockets).toBeLessThanOrEqual(4);
	});

	it("does nothing for news of nothing", () => {
		const { inStep, told } = walk(["guard"]);
		inStep.look();
		told.length = 0;
		inStep.news();
		expect(told).toEqual([]);
	});

	it("attempts every step of a stop", () => {
		const { inStep, told, refuse } = walk(["guard", "ports", "offload"]);
		const failed: string[] = [];
		refuse.set("close offload", new Error("gone"));
		inStep.close(true, (error) => failed.push(error.message));
		expect(told).toEqual(["close offload", "close ports", "close guard"]);
		expect(failed).toEqual(["gone"]);
	});
});

describe("followers compare, then apply", () => {
	const view = opened(router());
	const t = topologyOf(plan, view, new OwnPorts({ take: () => true, release: () => {} }));

	it("ARP: opened once, anew for another device only", () => {
		const told: string[] = [];
		const follower = new ArpFollower((ifindex): Arp => {
			told.push(`open ${ifindex}`);
			return { fd: 9, serve: () => {}, close: () => told.push("close") };
		});
		follower.follow(t);
		follower.follow(t);
		expect(told).toEqual(["open 3"]);
		follower.follow({ ...t, wan: { ...t.wan, index: 7 } });
		expect(told).toEqual(["open 3", "close", "open 7"]);
		follower.follow({ ...t, wan: { ...t.wan, index: 0 } });
		expect([told.length, follower.fd]).toEqual([4, -1]);
	});

	it("the guard: installed before anything, kept later, and left where a successor goes on", () => {
		const told: string[] = [];
		let owner = {} as KeeperOwner;
		let covered = true;
		const log = new Log(() => true, "info");
		const say = (what: string) => () => void told.push(what);
		const keeper = {
			fd: -1,
			dueAt: 0,
			wanting: false,
			sets: {} as never,
			covers: () => covered,
			install: say("install"),
			keep: say("keep"),
			deleted: say("deleted"),
			look: say("look"),
			settle: (ms: number) => void told.push(`settle ${ms}`),
			close: say("close"),
			remove: say("remove"),
		};
		const guard = new GuardFollower({
			table: "inet masqd",
			keeper: (o) => {
				owner = o;
				return keeper;
			},
			present: () => true,
			watch: () => ({ fd: 5, chains: true, rules: false, elements: false, drain: () => true, close: say("unwatch") }),
			opened: say("opened"),
			log,
			clock: { milliseconds: 0 } as never,
		});
		guard.follow(t);
		guard.follow(t);
		guard.patience = 250;
		guard.follow(t);
		expect(told).toEqual(["install", "keep", "keep", "settle 250"]);
		expect([guard.before, guard.fd]).toEqual([true, 5]);
		told.length = 0;
		// Deleted by somebody: put back at once. A port that has waited opens behind the guard that knows it.
		expect(guard.news()).toBe(true);
		owner.inForce(true);
		covered = false;
		expect(guard.covers({ name: "lan9", kind: "packet" })).toBe(false);
		owner.inForce(false);
		owner.inForce(false);
		expect(told).toEqual(["deleted", "opened"]);
		told.length = 0;
		guard.close(true);
		expect(told).toEqual(["unwatch", "close"]);
		guard.close(false);
		expect(told).toEqual(["unwatch", "close", "close", "remove"]);
	});
});
