/**
 * What is amiss with the devices and the routing around masqd: logged when it comes to be so, and told whoever asks for
 * the status.
 */
import { deviceWarnings } from "../kernel/device-warnings.ts";
import { foreignRouting } from "../kernel/foreign-routing.ts";
import type { KernelMirror } from "../kernel/mirror.ts";
import { blindShapers } from "../kernel/shapers.ts";
import type { Follower } from "./follower.ts";
import type { Log } from "./log.ts";
import { ledLans, type Topology } from "./topology.ts";

/** Looks around and tells. */
export class Notices implements Follower {
	readonly name = "device warnings";
	readonly #kernel: KernelMirror;
	readonly #log: Log;
	/** Whether br_netfilter shows bridged frames to the firewall. */
	readonly #filtersBridges: () => boolean;
	#topology: Topology | null = null;
	#devices: string[] = [];
	/** The first words of what was told of the routing: rules may come one by one. */
	#routing: string[] = [];

	constructor(kernel: KernelMirror, log: Log, filtersBridges: () => boolean) {
		this.#kernel = kernel;
		this.#log = log;
		this.#filtersBridges = filtersBridges;
	}

	follow(t: Topology): void {
		this.#topology = t;
		const devices = this.devices();
		for (const text of devices) if (!this.#devices.includes(text)) this.#log.warning(text);
		this.#devices = devices;
		const kind = (text: string) => text.split(" ", 4).join(" ");
		const routing = this.routing();
		for (const text of routing) if (!this.#routing.includes(kind(text))) this.#log.warning(text);
		this.#routing = routing.map(kind);
	}

	/** Traffic control has changed. */
	again(): void {
		if (this.#topology !== null) this.follow(this.#topology);
	}

	/** What is amiss with the devices now, in sentences. */
	devices(): string[] {
		return this.#topology === null ? [] : devicesAmiss(this.#kernel, this.#topology, this.#filtersBridges());
	}

	/** What of the router's routing is not followed, in sentences. */
	routing(): string[] {
		const t = this.#topology;
		if (t === null) return [];
		const kernel = this.#kernel;
		return foreignRouting({
			wan: { name: t.wan.name, addresses: kernel.addresses(t.wan.index) },
			lan: ledLans(t.lan),
			exempts: [...t.exempts, ...t.apart],
			rules: kernel.rules,
		});
	}

	close(): void {}
}

function devicesAmiss(kernel: KernelMirror, t: Topology, filtersBridges: boolean): string[] {
	const lans = t.lan.flatMap(({ kind, name, subnets }) =>
		kind === "tap" ? [] : [{ role: "lan" as const, device: name, subnets, driver: kind }],
	);
	return [
		...deviceWarnings(kernel, [{ role: "wan", device: t.wan.name, subnets: [], driver: "" }, ...lans], filtersBridges),
		...blindShapers(kernel, t.wan, lans),
	];
}
