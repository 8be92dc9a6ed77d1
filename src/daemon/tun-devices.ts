/**
 * The TUN devices of LANs with the tun driver, and the rules and routes that lead the kernel's packets to them.
 */
import type * as native from "masq:native";
import type { Changes, KernelMirror } from "../kernel/mirror.ts";
import type { SavedSysctls } from "../kernel/saved-sysctls.ts";
import { removeLeftovers, TunRoutes } from "../kernel/tun-routes.ts";
import type { Subnet } from "../packet/address.ts";
import { TunDriver } from "../port/driver.ts";
import { type Follower, StartError } from "./follower.ts";
import type { LanPort, Ports } from "./ports.ts";
import { elsewhere, type Topology } from "./topology.ts";

/** What the devices need of the rest. */
export interface TunSurroundings {
	kernel: KernelMirror;
	ports: Ports;
	settings: SavedSysctls;
	/** Makes a device of this name. */
	open(name: string): TunDriver;
	/** Packets that may wait in one. */
	queue(): number;
	/** Whether the kernel is kept off a port's packets: not opened before. */
	guarded(p: LanPort): boolean;
	/** What a LAN sends gets to masqd from now on. */
	diverted(): void;
	/** What of the kernel's news was read while a device was made. */
	noticed(changes: Changes): void;
	/** Has the kernel forget what it tracks of hosts of these networks untranslated, as {@link forgetUntranslated}. */
	forget(nets: readonly Subnet[], before: boolean, to: (destination: number) => boolean): void;
	/** Told to the administrator. */
	warnings: string[];
}

/** Makes them, and makes anew what others take away. */
export class TunDevices implements Follower {
	readonly name = "tun devices";
	readonly #with: TunSurroundings;
	#leftovers = true;
	#suspect = false;
	#policyVersion = 0;
	/** The MTU that they were given last. */
	#mtu = 0;

	constructor(surroundings: TunSurroundings) {
		this.#with = surroundings;
	}

	/** The kernel's links or rules have changed: ours may be among them. */
	suspect(): void {
		this.#suspect = true;
	}

	/** Networks whose packets do not get to masqd yet. */
	undiverted(t: Topology): Subnet[] {
		return this.#with.ports.lan.flatMap((p) => (p.kind === "tun" && p.routes === null ? netsOf(t, p) : []));
	}

	follow(t: Topology): void {
		const { kernel, ports } = this.#with;
		if (this.#leftovers) removeLeftovers(kernel);
		this.#leftovers = false;
		const suspect = this.#suspect;
		const resize = t.wan.index !== 0 && t.wan.mtu !== this.#mtu;
		const led = t.policyVersion !== this.#policyVersion;
		this.#policyVersion = t.policyVersion;
		let problem: unknown = null;
		for (const p of ports.lan) {
			if (p.kind !== "tun") continue;
			try {
				if (suspect && p.routes !== null) {
					if (p.routes.alive) p.routes.renew();
					else ports.close1(p);
				}
				if (p.driver === null) {
					if (this.#with.guarded(p)) this.#open(p, t);
				} else {
					const changed = p.routes?.update(elsewhere(t)) ?? [];
					// What went the other way until now, and in between.
					if (led || changed.length > 0) this.#with.forget(netsOf(t, p), false, (destination) => led || within(changed, destination));
					if (resize) this.#resize(p, t.wan.mtu);
				}
			} catch (error) {
				problem ??= error;
			}
		}
		if (problem !== null) throw problem;
		this.#suspect = false;
		if (t.wan.index !== 0) this.#mtu = t.wan.mtu;
	}

	#open(p: LanPort, t: Topology): void {
		try {
			p.driver = this.#with.open(p.tun);
		} catch (error) {
			const e = error as native.NativeError;
			if (e.code === "ENOENT" || e.code === "ENODEV")
				throw new StartError("no TUN: the kernel has no tun driver; install kmod-tun or use option driver 'packet'");
			if (e.code === "EBUSY") throw new StartError(`the device name ${p.tun} is taken: is another masqd running?`);
			throw new StartError(`cannot open TUN: ${e.message}`);
		}
		try {
			p.routes = this.#routeTo(p, t);
		} catch (error) {
			// Without routes the device is nobody's way, and it is to be made anew.
			this.#with.ports.close1(p);
			throw error;
		}
		this.#with.diverted();
		for (const warning of p.routes.warnings) if (!this.#with.warnings.includes(warning)) this.#with.warnings.push(warning);
	}

	#routeTo(p: LanPort, t: Topology): TunRoutes {
		const { kernel, settings, queue, noticed, forget } = this.#with;
		forget(netsOf(t, p), true, (destination) => !within(elsewhere(t), destination));
		// The device is in it, and whatever else has come meanwhile.
		noticed(kernel.drain());
		const tun = kernel.linkByName(p.tun);
		if (tun === undefined) throw new StartError(`the kernel does not show the device ${p.tun}`);
		return TunRoutes.install(kernel, settings, {
			lans: [p.name],
			elsewhere: elsewhere(t),
			tun: { name: p.tun, ifindex: tun.index, mtu: t.wan.mtu || 1500, queueLength: queue() },
		});
	}

	/** A device takes what fits the WAN. */
	#resize({ tun, routes }: LanPort, mtu: number): void {
		const { kernel, queue } = this.#with;
		const link = routes === null ? undefined : kernel.linkByName(tun);
		if (link !== undefined && link.mtu !== mtu) kernel.setLinkUp(link.index, mtu, queue());
	}

	/** Packets that the devices' queues have dropped since the last call. */
	overruns(): number {
		let dropped = 0;
		for (const { driver } of this.#with.ports.lan) if (driver instanceof TunDriver) dropped += driver.overruns();
		return dropped;
	}

	close(): void {
		for (const p of this.#with.ports.lan) if (p.kind === "tun") this.#with.ports.close1(p);
	}
}

function netsOf({ lan }: Topology, { tun }: LanPort): readonly Subnet[] {
	return lan.find((place) => place.tun === tun)?.nets ?? [];
}

function within(subnets: readonly Subnet[], address: number): boolean {
	return subnets.some((subnet) => ((address ^ subnet.address) & subnet.mask) === 0);
}
