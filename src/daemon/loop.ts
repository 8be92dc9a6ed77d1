/**
 * The loop breathes: read the clock, poll, receive a batch of each port, one call into the batch function, send, do
 * what is due. It moves packets and knows when others are to be called; what they do is theirs.
 *
 * While packets come, and for two seconds after, it turns at least once a second. Then it sleeps until the first thing
 * that is due by time alone ({@link LoopParts.dueAt}), however far away that is. What needs no more than to be right
 * when somebody looks has no time of its own: it is done at the next waking, before anything else if packets or answers
 * depend on it.
 */
import * as native from "masq:native";
import { MAX_LANS } from "../config/limits.ts";
import { H_CLOCK, H_MAGIC } from "../conntrack/table-layout.ts";
import { CONTROL_ENTRIES, type ControlServer } from "../control/server.ts";
import type { KernelMirror } from "../kernel/mirror.ts";
import { type Admission, EXPIRE_BUDGET } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import type { FastPath } from "../nat/fast-path.ts";
import type { SlowPath } from "../nat/slow-path.ts";
import type { NextHopTable } from "../port/next-hops.ts";
import type { Announcements } from "../port/pcp-responder.ts";
import type { Barrier } from "./barrier.ts";
import { type Carrier, SLEEP } from "./carrier.ts";
import type { Clock } from "./clock.ts";
import type { Egress, Meter } from "./egress.ts";
import type { GuardFollower } from "./guard-follower.ts";
import type { InStep } from "./in-step.ts";
import type { Port, Ports } from "./ports.ts";
import { isReadable } from "./readable.ts";
import type { Reloads } from "./reloads.ts";
import type { ArpFollower, PcpFollower } from "./responders.ts";
import type { RouterPorts } from "./router-ports.ts";
import type { Step, TurnStep } from "./steps.ts";
import type { WanAddress } from "./wan-address.ts";

/** Turns without a frame after which the loop sleeps: a wake-up costs more than one more look, but not than two. */
const SPIN = 1;
/** Turns with frames after which signals, kernel news and the control socket are looked at. */
const POLL_TURNS = 32;
/** The same for news of routes and rules: until then packets go where they no longer should. A power of two. */
const NEWS_TURNS = 2;
/**
 * The WAN; of each LAN a TUN device, a packet socket and one for PCP; signals, kernel news, ARP, guard watch, own
 * sockets, nft, the carrier's two and ubus; the control server's.
 */
const FIXED = 9;
const POLL_ENTRIES = 1 + 3 * MAX_LANS + FIXED + CONTROL_ENTRIES;
/** Sessions that end at once, at most, before what has come is looked at. */
const CATCH_UP = 16 * EXPIRE_BUDGET;
/** Longest sleep that poll(2) is asked for at once, in milliseconds. */
const SLEEP_MAX = 0x7fffffff;

/** What is called from the loop. */
export interface LoopParts {
	context: Context;
	ports: Ports;
	egress: Egress;
	slowPath: SlowPath;
	fast: FastPath;
	/** Descriptors of received frames. */
	rx: Int32Array;
	clock: Clock;
	barrier: Barrier;
	meter: Meter | null;
	wanAddress: WanAddress;
	kernel: KernelMirror;
	arp: ArpFollower;
	guard: GuardFollower;
	/** What carries the packets if not the ports. */
	carrier: Carrier | null;
	routerPorts: RouterPorts;
	pcp: PcpFollower;
	inStep: InStep;
	admission: Admission;
	hops: NextHopTable;
	announcements: Announcements;
	/** The placement on processors wants a look at this millisecond. */
	placement: { dueAt: number };
	/** Sessions are to be looked at, whether the firewall has barred their peers. */
	bans: { readonly busy: boolean } | null;
	/** A reload that waits for ubus. */
	reloads: Pick<Reloads, "fd" | "dueAt">;
	/** Something of the slow kind waits for its second. */
	pending(): boolean;
	/** Second in which something is due though nothing comes; Infinity if nothing is. */
	dueAt(): number;
	/** A port's device reported an error. */
	portFailed(p: Port, error: native.NativeError): void;
	/** Steps of a turn by name, and those of a second in their order. */
	steps: Record<TurnStep, () => void>;
	everySecond: readonly Step[];
}

/** The loop of the daemon. */
export class Loop {
	/** Ends the loop after this turn. */
	stopping = false;
	/** Readable when a signal has come. */
	signals: native.Fd = -1;
	control: ControlServer | null = null;
	/** Milliseconds of the last frame, 0 once the frame memory has been given back. */
	busyAt = 0;
	/** Milliseconds when something last came: a packet, news, a client; or of the begin. */
	stirredAt = 0;
	readonly #with: LoopParts;
	readonly #context: Context;
	readonly #wan: Port;
	readonly #lan: Ports["lan"];
	readonly #egress: Egress;
	readonly #rx: Int32Array;
	readonly #clock: Clock;
	readonly #barrier: Barrier;
	readonly #meter: Meter | null;
	readonly #wanAddress: WanAddress;
	/** The batch functions in use: the core's own, or a capture's around them. */
	#fast: FastPath;
	/** Frames of the batch in hand that have not been translated: what an exception costs besides what is queued. */
	#untranslated = 0;
	readonly #pollSet = new Int32Array(POLL_ENTRIES * 3);
	/** Number of the entry of the poll set after the ports', and of the control server's first. */
	#fixed = 0;
	#controlAt = 1;
	#secondAt = 0;
	readonly #serveArp = () => this.#with.arp.serve();
	readonly #servePcp = () => this.#answerPcp();
	readonly #serveControl = () => this.control?.serve(this.#pollSet, this.#controlAt, this.framesReceived());

	constructor(parts: LoopParts) {
		this.#with = parts;
		this.#context = parts.context;
		this.#wan = parts.ports.wan;
		this.#lan = parts.ports.lan;
		this.#egress = parts.egress;
		this.#rx = parts.rx;
		this.#clock = parts.clock;
		this.#barrier = parts.barrier;
		this.#meter = parts.meter;
		this.#wanAddress = parts.wanAddress;
		this.#fast = parts.fast;
	}

	/** Puts other batch functions in place of the core's own, between two batches; null puts those back. */
	interpose(wrap: ((own: FastPath) => FastPath) | null): void {
		const { fast } = this.#with;
		this.#fast = wrap === null ? fast : wrap(fast);
	}

	/** Runs until it is told to stop. */
	run(): void {
		const set = this.#pollSet;
		const { steps, placement, announcements, routerPorts, admission, carrier, bans, kernel } = this.#with;
		const { header } = this.#context.table;
		const clock = this.#clock;
		this.stirredAt = clock.milliseconds;
		let empty = 0;
		let turns = 0;
		while (!this.stopping) {
			if (header[H_MAGIC] === 0) this.#barrier.attempt("lost state", steps["lost state"]);
			// Under one stream of super-packets masqd wakes for every few of them, so that what a wake-up costs counts
			// like what a packet does.
			const polled = empty >= SPIN || ++turns === POLL_TURNS || ((turns & (NEWS_TURNS - 1)) === 0 && isReadable(kernel.fd));
			if (polled) {
				this.#poll(empty >= SPIN ? this.#timeout() : 0);
				turns = 0;
			} else {
				clock.read(this.#context);
				if (clock.milliseconds >= this.#secondAt) this.#catchUp();
			}
			let moved = polled && set[2] === 0 ? 0 : this.#breatheWan();
			if (carrier !== null && (!polled || set[this.#fixed * 3 + 20] !== 0 || set[this.#fixed * 3 + 23] !== 0)) {
				const asked = carrier.breathe(this.#fast);
				if (asked > 0) this.busyAt = this.#clock.milliseconds;
				moved += asked;
			}
			for (let n = 0; n < this.#lan.length; n++) if (!polled || set[n * 3 + 5] !== 0) moved += this.#breatheLan(n);
			empty = moved === 0 ? empty + 1 : 0;
			this.#egress.flushRest();
			const now = clock.milliseconds;
			if (this.busyAt !== 0 && now >= placement.dueAt) this.#barrier.attempt("placement", steps.placement);
			if (now >= announcements.dueAt) this.#barrier.attempt("announcements", steps.announcements);
			if (routerPorts.wantsLook(now, this.busyAt !== 0, this.stirredAt)) this.#barrier.attempt("own ports", steps["own ports"]);
			if (bans?.busy) this.#barrier.attempt("bans", steps.bans);
			if (now >= this.#secondAt) this.#everySecond();
			else if (admission.overdue) admission.expire(EXPIRE_BUDGET);
			carrier?.flush();
		}
	}

	/** Frames of all ports. */
	framesReceived(): number {
		let frames = this.#wan.received;
		for (const p of this.#lan) frames += p.received;
		return frames;
	}

	/** Another second has begun, or many: what has ended meanwhile is no longer there for what has come. */
	#catchUp(): void {
		const { admission, context, steps } = this.#with;
		// A record must not be newer than this by more than restore.ts expects.
		context.table.header[H_CLOCK] = context.now;
		let left = CATCH_UP;
		do {
			this.#barrier.attempt("expiry", steps.expiry);
			left -= EXPIRE_BUDGET;
		} while (admission.overdue && left > 0);
	}

	#everySecond(): void {
		const { context } = this.#with;
		this.#secondAt = (context.now + 1) * 1000;
		for (const [step, action] of this.#with.everySecond) this.#barrier.attempt(step, action);
		this.#egress.flushRest();
	}

	/**
	 * Waits for something to do for at most `timeout` ms; serves everything but the ports, which are the first entries
	 * of the poll set: the WAN's, then those of the LANs.
	 */
	#poll(timeout: number): void {
		const set = this.#pollSet;
		const { kernel, inStep, arp, guard, routerPorts, reloads, pcp, steps, carrier } = this.#with;
		const { sockets } = routerPorts;
		const fixed = 1 + this.#lan.length;
		// What each is watched for is written once: this is done at every wake-up.
		if (fixed !== this.#fixed) for (let k = 0; k < fixed + FIXED; k++) set[k * 3 + 1] = native.POLLIN;
		set[0] = this.#wan.driver === null ? -1 : this.#wan.driver.fd;
		for (let k = 1; k < fixed; k++) {
			const { driver } = this.#lan[k - 1];
			set[k * 3] = driver === null ? -1 : driver.fd;
		}
		const at = fixed * 3;
		set[at] = this.signals;
		set[at + 3] = kernel.fd;
		set[at + 6] = arp.fd;
		set[at + 9] = guard.fd;
		set[at + 12] = sockets.fd;
		set[at + 15] = guard.keeper.fd;
		set[at + 18] = carrier?.queueFd ?? -1;
		set[at + 21] = carrier?.endsFd ?? -1;
		set[at + 24] = reloads.fd;
		let n = fixed + FIXED;
		const { responders } = pcp.server;
		for (let k = 0; k < responders.length; k++) watch(set, n++, responders[k].fd);
		this.#fixed = fixed;
		this.#controlAt = n;
		if (this.control !== null) n = this.control.pollEntries(set, n, this.#clock.milliseconds);
		const barrier = this.#barrier;
		const looking = sockets.busy;
		const asleep = carrier !== null && timeout > 1000;
		let came = 0;
		try {
			if (asleep) carrier.sleeps(timeout);
			came = native.poll(set, n, timeout);
			if (asleep) carrier.sleeps(0);
			if (barrier.ailing) barrier.passed("poll");
		} catch (error) {
			// Whatever is there is found by looking.
			for (let k = 0; k < n; k++) set[k * 3 + 2] = native.POLLIN;
			this.#clock.read(this.#context);
			barrier.failed("poll", error);
		}
		this.#clock.read(this.#context);
		const told = set[fixed * 3 + 5] !== 0;
		// The answers to a look at the router's own sockets are nothing new, nor is the age of a neighbour.
		if (came > (told ? 1 : 0) && !looking) this.stirredAt = this.#clock.milliseconds;
		if (this.#clock.milliseconds >= this.#secondAt) this.#catchUp();
		if (set[fixed * 3 + 2] !== 0) barrier.attempt("signals", steps.signals);
		const news = Math.min(kernel.pendingAt(), inStep.dueAt);
		if (told || this.#clock.milliseconds >= news) {
			const { topology } = inStep;
			barrier.attempt("kernel news", steps["kernel news"]);
			if (inStep.topology !== topology) this.stirredAt = this.#clock.milliseconds;
		}
		if (set[fixed * 3 + 8] !== 0) barrier.attempt("arp", this.#serveArp);
		if (set[fixed * 3 + 11] !== 0) barrier.attempt("guard watch", steps["guard watch"]);
		if (set[fixed * 3 + 17] !== 0 || this.#clock.milliseconds >= guard.keeper.dueAt) barrier.attempt("guard", steps.nft);
		if (set[fixed * 3 + 26] !== 0 || this.#clock.milliseconds >= reloads.dueAt) barrier.attempt("reload", steps.reload);
		// Files have no descriptor to wait for.
		if (sockets.busy && (sockets.fd < 0 || set[fixed * 3 + 14] !== 0)) barrier.attempt("own ports", steps["own ports step"]);
		if (responders.length > 0) barrier.attempt("pcp", this.#servePcp);
		if (this.control !== null) barrier.attempt("control", this.#serveControl);
	}

	#answerPcp(): void {
		const { responders } = this.#with.pcp.server;
		for (let k = 0; k < responders.length; k++) if (this.#pollSet[(this.#fixed + FIXED + k) * 3 + 2] !== 0) responders[k].serve();
	}

	/** Milliseconds that the loop may sleep, -1: until something comes. */
	#timeout(): number {
		const { admission, hops, guard, inStep, kernel, announcements, routerPorts, reloads, carrier, pending, dueAt, bans } = this.#with;
		if (admission.overdue || bans?.busy) return 0;
		// Serving the control socket takes time.
		this.#clock.read(this.#context);
		const now = this.#clock.milliseconds;
		const { sockets } = routerPorts;
		if (sockets.busy && sockets.fd < 0) return 0;
		const waits = this.busyAt !== 0 || hops.waiting > 0 || guard.keeper.wanting || pending();
		// What is due by time is done once a second: what needs several goes is not waited for without a pause.
		const idle = waits
			? this.#secondAt
			: Math.max(this.#secondAt, Math.min(dueAt() * 1000, carrier === null ? Number.POSITIVE_INFINITY : now + SLEEP));
		const control = this.control === null ? Number.POSITIVE_INFINITY : this.control.dueIn(now);
		const looks = sockets.busy ? Number.POSITIVE_INFINITY : waits ? routerPorts.lookAt : routerPorts.restUntil(this.stirredAt);
		const due = Math.min(idle, looks, kernel.pendingAt(), inStep.dueAt, announcements.dueAt, guard.keeper.dueAt, reloads.dueAt);
		const sleep = Math.ceil(Math.max(0, Math.min(due - now, control)));
		return sleep > SLEEP_MAX ? -1 : sleep;
	}

	#breatheLan(n: number): number {
		const p = this.#lan[n];
		const meter = this.#meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		let count = 0;
		try {
			count = this.#receive(p);
			if (count === 0) return 0;
			this.#untranslated = count;
			const t1 = meter === null ? 0 : native.nanoseconds();
			if (this.#wanAddress.impaired) this.#outboundImpaired(count, n);
			else this.#fast.outbound(this.#rx, count, n);
			this.#untranslated = 0;
			if (meter !== null) measure(meter, count, t0, t1);
			// Everything, before the slots are received into again: errors and hairpinned packets go back to a LAN.
			this.#egress.flush();
			if (this.#barrier.ailing) this.#barrier.passed(p.name);
		} catch (error) {
			this.#lose(n);
			this.#barrier.failed(p.name, error);
		}
		return count;
	}

	#outboundImpaired(count: number, port: number): void {
		const rx = this.#rx;
		const { slowPath, wanAddress } = this.#with;
		const fault = wanAddress.fault ?? -1;
		for (let n = 0; n < count; n++) slowPath.outboundImpaired(rx[n * 2], rx[n * 2 + 1], port, fault);
	}

	#breatheWan(): number {
		const meter = this.#meter;
		const t0 = meter === null ? 0 : native.nanoseconds();
		let count = 0;
		try {
			count = this.#receive(this.#wan);
			if (count === 0) return 0;
			this.#untranslated = count;
			const t1 = meter === null ? 0 : native.nanoseconds();
			this.#fast.inbound(this.#rx, count);
			this.#untranslated = 0;
			if (meter !== null) measure(meter, count, t0, t1);
			this.#egress.flush();
			if (this.#barrier.ailing) this.#barrier.passed(this.#wan.name);
		} catch (error) {
			this.#lose(-1);
			this.#barrier.failed(this.#wan.name, error);
		}
		return count;
	}

	#lose(came: number): void {
		const count = this.#untranslated;
		this.#untranslated = 0;
		this.#egress.lose(this.#rx, count, came);
	}

	#receive(p: Port): number {
		if (p.driver === null) return 0;
		let count = 0;
		try {
			count = p.driver.receive();
		} catch (error) {
			this.#with.portFailed(p, error as native.NativeError);
			return 0;
		}
		if (count > 0) {
			p.received += count;
			this.busyAt = this.#clock.milliseconds;
		}
		return count;
	}
}

function measure(meter: Meter, count: number, t0: number, t1: number): void {
	meter.jsNs += native.nanoseconds() - t1;
	meter.ioNs += t1 - t0;
	meter.packets += count;
	meter.batches++;
}

/** Entry `n` of a poll set: a descriptor that something may be read from, -1 for none. */
function watch(set: Int32Array, n: number, fd: native.Fd): void {
	set[n * 3] = fd;
	set[n * 3 + 1] = native.POLLIN;
}
