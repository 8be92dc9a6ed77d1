/**
 * The offload as the configuration has it: on, off, or wherever nothing of others filters what comes in or goes out.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import { shaperWarnings } from "../kernel/device-warnings.ts";
import { foreignFilters, foreignWords } from "../kernel/foreign-filters.ts";
import { IngressFilters } from "../kernel/ingress-filter.ts";
import { isUsable, type KernelMirror, type Neighbour } from "../kernel/mirror.ts";
import type { Context } from "../nat/context.ts";
import { CAP_BPF, CAP_PERFMON } from "../offload/capabilities.ts";
import type { Offload, OffloadDevice, OffloadStatus } from "../offload/offload.ts";
import type { NextHopTable } from "../port/next-hops.ts";
import type { Clock } from "./clock.ts";
import { type Follower, StartError } from "./follower.ts";
import type { Log } from "./log.ts";
import { leaderAddress } from "./responders.ts";
import type { Device, Topology } from "./topology.ts";

/**
 * Why there is no offload although the configuration has it by now: without it the daemon gave up what bpf(2) asks for.
 */
const WAITS = "it was switched on while masqd ran; restart it";

/** The offload itself is in memory only where there is to be one. */
type Bundle = typeof import("../offload/main.ts");

/** What it needs of the rest. */
export interface OffloadSurroundings {
	context: Context;
	kernel: KernelMirror;
	hops: NextHopTable;
	log: Log;
	clock: Clock;
	/** Option offload as it is in force. */
	mode(): Plan["offload"];
}

/** Switches it on and off, and tells it about the ports. */
export class OffloadFollower implements Follower {
	readonly name = "offload";
	/** Sessions that go by the kernel, null without. */
	offload: Offload | null = null;
	/** Why the option that came with the last walk has to wait, in a sentence; "" if it does not. */
	waiting = "";
	#bundle: Bundle | null = null;
	readonly #with: OffloadSurroundings;
	readonly #ingress: IngressFilters;
	/** The mode that was followed last, null before the first. */
	#mode: Plan["offload"] | null = null;
	/** Why there is none. */
	#none = "";
	/** Filters of others on the ports, in words. */
	#filtered = "";
	#topology: Topology | null = null;

	constructor(surroundings: OffloadSurroundings) {
		this.#with = surroundings;
		this.#ingress = new IngressFilters(surroundings.kernel);
	}

	/** The first time, `option offload 'on'` that cannot be had is a {@link StartError}. */
	follow(t: Topology): void {
		this.#topology = t;
		const mode = this.#with.mode();
		const before = this.#mode;
		this.#mode = mode;
		this.waiting = "";
		if (mode === "off") {
			this.#switchOff();
			return;
		}
		if (this.offload !== null) {
			this.renew();
			this.offload.routesChanged();
		} else if (before === null) this.#switchOn(t, mode, true);
		else if (before !== mode || this.#none === WAITS) {
			if (native.hasCapability(CAP_BPF)) this.#switchOn(t, mode, false);
			else {
				this.#none = WAITS;
				this.waiting = `option offload '${mode}' needs a restart, which keeps the sessions`;
			}
		}
	}

	#switchOff(): void {
		const { context } = this.#with;
		this.#none = "";
		if (this.offload === null) return;
		// What went by the kernel comes home.
		this.offload.close();
		this.offload = null;
		context.table.hooks = null;
		context.ipIds = 0xffff;
	}

	/** The bundle; throws Error if it cannot be had, as after an upgrade below a running daemon. */
	#read(): Bundle {
		this.#bundle ??= native.importBundle("offload") as Bundle;
		return this.#bundle;
	}

	#switchOn(t: Topology, mode: "auto" | "on", first: boolean): void {
		const { context, kernel, hops, log, clock } = this.#with;
		try {
			this.offload = new (this.#read().Offload)(
				{
					table: context.table,
					hosts: context.hosts,
					headers: context.headers,
					tags: hops.tags,
					addresses: context.externals.A,
					seconds: () => context.now | 0,
					now16: () => context.now16,
					milliseconds: () => clock.milliseconds,
					neighbour: (ifindex, host) => this.#neighbourOf(ifindex, host),
					inUse: (host) => hops.inUse(host),
					mtuTo: (peer) => hops.mtuTo(peer),
					routeMtu: (destination) => kernel.lookup(destination)?.mtu ?? 0,
					attachClassic: (ifindex, program) => this.#ingress.attach(ifindex, program),
					detachClassic: (ifindex) => this.#ingress.detach(ifindex),
				},
				native.getenv("MASQD_OFFLOAD") === "clsact" ? "clsact" : null,
			);
			this.#renew(t);
		} catch (error) {
			this.offload?.close();
			this.offload = null;
			if (this.#bundle !== null && !(error instanceof this.#bundle.OffloadError)) throw error;
			this.#none = (error as Error).message;
			if (mode === "on") {
				this.waiting = `option offload 'on': ${this.#none}`;
				if (first) throw new StartError(this.waiting);
				return;
			}
			log.info(`no offload: ${this.#none}`);
			return;
		}
		this.#none = "";
		context.table.hooks = this.offload;
		context.ipIds = 0x7fff;
		context.headers.changed = (n) => this.offload?.linkChanged(n);
	}

	/** Who on device `ifindex` leads to a host of the LAN, as the kernel knows it. */
	#neighbourOf(ifindex: number, host: number): { address: number; mac: Uint8Array } | null {
		const { kernel } = this.#with;
		const address = leaderAddress(kernel, ifindex, host);
		const known = kernel.neighbour(ifindex, address);
		return known !== undefined && isUsable(known) ? { address, mac: known.mac as Uint8Array } : null;
	}

	/** The kernel has learned something of neighbours. */
	neighboursChanged(neighbours: readonly Neighbour[]): void {
		if (this.offload === null) return;
		for (const n of neighbours) this.offload.neighbourChanged(n.ifindex, n.address, isUsable(n) ? n.mac : null);
	}

	/** Ports or filters of others changed while running: an offload that cannot follow is given up. */
	renew(): void {
		if (this.#topology === null || this.offload === null) return;
		try {
			this.#renew(this.#topology);
		} catch (error) {
			const { log, clock } = this.#with;
			log.rateLimited("warning", "offload", `offload stopped: ${(error as Error).message}`, clock.milliseconds);
		}
	}

	/**
	 * Tells the offload about the ports as they are. With `auto` it stands back while others filter what comes in (SQM)
	 * or goes out.
	 */
	#renew(t: Topology): void {
		const { kernel, log } = this.#with;
		const device = ({ index, ethernet, mtu, mac }: Device): OffloadDevice => ({ index, ethernet, mtu, mac: mac ?? new Uint8Array(6) });
		const ports = [t.wan, ...t.lan.filter((p) => p.kind !== "tap").map((p) => p.device)];
		const led = t.lan.some((p) => p.kind === "tun") && t.handed.length > 0;
		const others = foreignWords(foreignFilters(ports, this.#ingress, native, (index) => kernel.links.get(index)?.name));
		// The programs ask no rule.
		const filters = led ? ["policy rules of others", others].filter((text) => text !== "").join("; ") : others;
		const standsBack = led || (this.#mode === "auto" && filters !== "");
		if (filters !== this.#filtered) {
			if (filters === "") log.info("offload: there are no more filters of others");
			else log.info(standsBack ? `no offload: ${(this.#bundle as Bundle).obstacleOf(filters)}` : `offload goes past others: ${filters}`);
			this.#filtered = filters;
		}
		this.offload?.renew({
			filters,
			standsBack,
			wan: device(t.wan),
			lan: t.lan.map((p) => ({
				...device(p.device),
				kernelForwards: p.kind === "tun",
				nets: p.nets.map(({ address, mask }) => ({ address: address >>> 0, mask: mask >>> 0 })),
			})),
			externals: [...t.externals.map((first) => ({ first, last: first })), ...t.owned],
		});
	}

	/** What it costs that it stands back for others on the WAN, in sentences. */
	get warnings(): string[] {
		const { wan } = this.#topology ?? {};
		if (wan === undefined || this.offload === null || this.#mode !== "auto") return [];
		const ofWan = this.#filtered.split("; ").filter((text) => text.startsWith(`${wan.name} `));
		return shaperWarnings(wan.name, wan.type, ofWan.join("; "));
	}

	/** What `status` shows. */
	get status(): OffloadStatus {
		const mode = this.#with.mode();
		if (this.offload !== null) return this.offload.status(mode);
		return { mode, active: false, detail: this.#none, flows: 0, capacity: 0, packetsOut: 0, packetsIn: 0, past: "" };
	}

	/** What bpf(2) asks for, while there is an offload, as a set of capabilities. */
	get capabilities(): number {
		return this.offload === null ? 0 : 2 ** CAP_BPF + 2 ** CAP_PERFMON;
	}

	close(): void {
		this.offload?.close();
		this.offload = null;
	}
}
