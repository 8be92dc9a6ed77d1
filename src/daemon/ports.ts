/**
 * The LAN and WAN ports: the packet sockets of their devices, and what the translation knows of them. Nobody else
 * opens, closes or replaces a driver.
 *
 * A port that a reload keeps stays the same object, and with it its queue and counters; the list of the LANs' links is
 * spliced in place, because the fast path holds it.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import type { Hosts } from "../conntrack/hosts.ts";
import { HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS } from "../conntrack/record.ts";
import { GRO_LIST, type SavedSysctls } from "../kernel/saved-sysctls.ts";
import type { TunRoutes } from "../kernel/tun-routes.ts";
import { BATCH, findSoleNets, type LanLink, type Link, NO_NET, Queue } from "../nat/context.ts";
import { HOST_HEADERS } from "../packet/header-tag.ts";
import { swap32, type Views } from "../packet/layout.ts";
import type { LinkHeaders } from "../packet/link-header.ts";
import { type Driver, PacketDriver } from "../port/driver.ts";
import { lanFilter, wanFilter } from "../port/filter.ts";
import { takesRaw } from "../port/sending.ts";
import type { Follower } from "./follower.ts";
import { netOf } from "./policy.ts";
import { type Device, lanFilterFacts, type Place, placesOf, type Topology, wanFilterFacts } from "./topology.ts";

/** Blocks of 2 KB for fragments: memory that is touched only when fragments come. */
export const BLOCKS_MIN = 64;
export const BLOCKS_MAX = 256;
/**
 * Frames that a port's queue has room for besides a batch: all fragments there are, and three more batches of errors
 * and of frames that had waited.
 */
const QUEUE_FRAMES = BLOCKS_MAX + BATCH * 3;

/** One network attachment with its driver; `index` is 0 while the device is not there. */
export interface Port {
	name: string;
	index: number;
	driver: Driver | null;
	link: Link;
	sent: number;
	received: number;
	/** The GRO list setting is to be put back. */
	restoreGro: boolean;
	/** What the filter of the driver's socket was made of. */
	filter: string;
}

/** A port of a LAN. */
export interface LanPort extends Port {
	link: LanLink;
	kind: Place["kind"];
	tun: string;
	/** What leads to the TUN device. */
	routes: TunRoutes | null;
}

/** What the ports need of the rest. */
export interface PortSurroundings {
	/** Descriptors of received frames, the frame memory, and where in it segments are cut to. */
	rx: Int32Array;
	views: Views;
	segmentsAt: number;
	/** The kernel carries the packets: ports only send. */
	carried: boolean;
	settings: SavedSysctls;
	headers: LinkHeaders;
	hosts: Hosts;
	/** Hosts that there can be. */
	hostsMost: number;
	/** Whether a device is there. */
	exists(name: string): boolean;
	/** Whether the kernel is kept off a port's packets: not opened before. */
	guarded(p: Port): boolean;
}

/** All ports, and the follower that keeps their packet sockets. */
export class Ports implements Follower {
	readonly name = "ports";
	readonly wan: Port;
	readonly lan: LanPort[];
	/** The links of the LAN ports by number, as the translation has them. */
	readonly links: LanLink[];
	readonly #with: PortSurroundings;

	constructor(plan: Plan, surroundings: PortSurroundings) {
		this.#with = surroundings;
		this.wan = makePort(plan.wan.device, emptyLink());
		this.lan = portsOf(placesOf(plan), []);
		this.links = this.lan.map((p) => p.link);
	}

	/**
	 * Closes the ports that a plan has not, or has otherwise, and makes those that are new. Returns LAN port numbers as
	 * they were, by those that are now.
	 */
	replace(plan: Plan): number[] {
		if (plan.wan.device !== this.wan.name) {
			this.close1(this.wan);
			this.wan.name = plan.wan.device;
			this.wan.index = 0;
		}
		const old = [...this.lan];
		const fresh = portsOf(placesOf(plan), old);
		for (const p of old) if (!fresh.includes(p)) this.close1(p);
		this.lan.splice(0, old.length, ...fresh);
		this.links.splice(0, old.length, ...fresh.map((p) => p.link));
		return fresh.map((p) => old.indexOf(p));
	}

	/**
	 * Takes indexes, MACs, MTUs and networks from the topology; closes the sockets of devices that have gone, or are
	 * others by now.
	 */
	take(t: Topology): void {
		this.#takeDevice(this.wan, t.wan, t.wan.ethernet);
		this.wan.link.address = swap32(t.address);
		this.wan.link.nets = t.wan.nets.map(netOf);
		for (const [n, place] of t.lan.entries()) {
			const p = this.lan[n];
			this.#takeDevice(p, place.device, place.framed);
			p.link.address = swap32(place.device.addresses[0] ?? 0);
			p.link.nets = place.nets.map(netOf);
			p.link.handed = place.kind === "packet" ? t.handed.map(netOf) : [];
		}
		findSoleNets(this.links);
		for (const p of [this.wan, ...this.lan]) this.#renewSource(p);
	}

	#takeDevice(p: Port, device: Device, framed: boolean): void {
		if (device.index !== p.index && p.driver !== null && !isTun(p)) this.close1(p);
		p.index = device.index;
		p.link.mtu = device.mtu;
		p.link.ethernet = framed;
		if (framed && device.mac !== null) p.link.mac = device.mac;
	}

	/** Link headers carry the port's own MAC, which may have changed. */
	#renewSource(p: Port): void {
		const { headers, hosts, hostsMost } = this.#with;
		if (!isLan(p)) headers.setSource(0, HOST_HEADERS - 1, p.link.mac);
		else if (this.lan.length === 1) headers.setSource(HOST_HEADERS, HOST_HEADERS + hostsMost, p.link.mac);
		else {
			const number = this.lan.indexOf(p);
			for (let host = 1; host <= hostsMost; host++) {
				const place = hosts.W[host * HOST_WORDS + HOST_PLACE];
				if (((place >>> HOST_PORT_SHIFT) & 0xff) === number) headers.setSource(HOST_HEADERS + host, HOST_HEADERS + host, p.link.mac);
			}
		}
	}

	/**
	 * Opens the packet sockets of devices that are there, and up, and have none; the others have the filters of now.
	 * Throws the first problem, after trying all.
	 */
	follow(t: Topology): void {
		let problem: unknown = null;
		for (const [n, p] of [this.wan, ...this.lan].entries()) {
			if (p.index === 0 || isTun(p)) continue;
			const lan = n === 0 ? null : lanFilterFacts(t, t.lan[n - 1]);
			const text = JSON.stringify(lan ?? wanFilterFacts(t));
			if (p.driver === null ? !this.#with.guarded(p) : p.filter === text) continue;
			try {
				const filter = lan === null ? wanFilter(wanFilterFacts(t)) : lanFilter(lan);
				if (p.driver !== null) p.driver.filter(filter);
				else p.driver = this.#open(p, (n === 0 ? t.wan : t.lan[n - 1].device).type, filter);
				p.filter = text;
			} catch (error) {
				// Down: the kernel tells when it is up.
				if ((error as native.NativeError).code !== "ENETDOWN") problem ??= error;
			}
		}
		if (problem !== null) throw problem;
	}

	#open(p: Port, type: number, filter: Int32Array): Driver {
		const { settings, rx, views, segmentsAt, carried } = this.#with;
		const setting = `${GRO_LIST} ${p.name}`;
		const silent = carried || (isLan(p) && p.kind === "tap");
		if (!silent && native.getFeature(p.name, GRO_LIST) === true) {
			settings.remember(setting, "on");
			native.setFeature(p.name, GRO_LIST, false);
		}
		p.restoreGro = settings.original(setting) !== undefined;
		const raw = takesRaw(native, type, p.name);
		return new PacketDriver({ ifindex: p.index, ethernet: p.link.ethernet, raw }, carried ? null : filter, rx, views, segmentsAt);
	}

	/** Closes the driver of one port, and the way to its TUN device before that. */
	close1(p: Port): void {
		if (isLan(p)) {
			p.routes?.remove();
			p.routes = null;
		}
		p.driver?.close();
		p.driver = null;
		p.filter = "";
		if (!p.restoreGro) return;
		p.restoreGro = false;
		try {
			if (this.#with.exists(p.name)) native.setFeature(p.name, GRO_LIST, true);
		} catch {
			// The device has just gone, though the kernel has not said so yet.
		}
		this.#with.settings.forget(`${GRO_LIST} ${p.name}`);
	}

	/** Closes all. */
	close(): void {
		for (const p of [this.wan, ...this.lan]) this.close1(p);
	}
}

/** Whether a port is a LAN's. */
export function isLan(p: Port): p is LanPort {
	return "kind" in p;
}

function isTun(p: Port): boolean {
	return isLan(p) && p.kind === "tun";
}

function makePort(name: string, link: Link): Port {
	return { name, index: 0, driver: null, link, sent: 0, received: 0, restoreGro: false, filter: "" };
}

/** The LAN ports at these places; those of `old` that are there too stay the same objects. */
function portsOf(places: readonly Place[], old: readonly LanPort[]): LanPort[] {
	return places.map(({ name, kind, tun, home, pcp }) => {
		const same = old.find((p) => p.name === name && p.kind === kind && p.tun === tun);
		const link = same?.link ?? { ...emptyLink(), kernelForwards: kind === "tun" || kind === "kernel", home, sole: NO_NET, pcp, handed: [] };
		link.home = home;
		link.pcp = pcp;
		return same ?? { ...makePort(name, link), link, kind, tun, routes: null };
	});
}

function emptyLink(): Link {
	return { ethernet: true, mtu: 1500, address: 0, mac: new Uint8Array(6), nets: [], queue: new Queue(QUEUE_FRAMES) };
}
