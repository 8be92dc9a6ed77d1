/**
 * Who answers on masqd's behalf besides the translation: ARP for the external addresses that no interface has, PCP on
 * the LAN devices.
 */
import type { NativeError } from "masq:native";
import { isConfirmed, isUsable, type KernelMirror } from "../kernel/mirror.ts";
import type { PcpMappings } from "../nat/pcp-mappings.ts";
import type { AddressRange } from "../packet/address.ts";
import { swap32 } from "../packet/layout.ts";
import { type Announcements, type PcpIo, type PcpOwner, PcpServer } from "../port/pcp-responder.ts";
import type { Clock } from "./clock.ts";
import type { Follower } from "./follower.ts";
import type { Topology } from "./topology.ts";

/** An open responder. */
export interface Arp {
	readonly fd: number;
	serve(): void;
	close(): void;
}

/** Answers ARP on the WAN; anew when the addresses, the device or its MAC have changed. */
export class ArpFollower implements Follower {
	readonly name = "arp socket";
	/** Requests can be read from it; -1 for none. */
	fd = -1;
	readonly #open: (ifindex: number, ranges: readonly AddressRange[], mac: Uint8Array) => Arp;
	#arp: Arp | null = null;
	#text = "";

	constructor(open: (ifindex: number, ranges: readonly AddressRange[], mac: Uint8Array) => Arp) {
		this.#open = open;
	}

	follow({ wan, owned, own }: Topology): void {
		const ranges = owned.filter((r) => !own.includes(r.first));
		const { mac } = wan;
		const wanted = ranges.length > 0 && wan.index !== 0 && mac !== null;
		const text = wanted ? JSON.stringify([wan.index, [...mac], ranges]) : "";
		if (text === this.#text) return;
		this.close();
		if (!wanted) return;
		try {
			this.#arp = this.#open(wan.index, ranges, mac);
			this.fd = this.#arp.fd;
			this.#text = text;
		} catch (error) {
			// Down: the kernel tells when it is up.
			if ((error as NativeError).code !== "ENETDOWN") throw error;
		}
	}

	/** Answers what has come. */
	serve(): void {
		this.#arp?.serve();
	}

	close(): void {
		this.#arp?.close();
		this.#arp = null;
		this.#text = "";
		this.fd = -1;
	}
}

/** Answers PCP where hosts may ask. */
export class PcpFollower implements Follower {
	readonly name = "pcp sockets";
	/** A predecessor's list of requested forwards was not there: hosts are to be told. */
	anew = true;
	readonly server: PcpServer;
	readonly #announcements: Announcements;
	readonly #clock: Clock;
	readonly #deaf: () => void;

	/** `deaf` is told of a device that is up and whose socket could not be opened: to be tried again. */
	constructor(server: PcpServer, announcements: Announcements, clock: Clock, deaf: () => void) {
		this.server = server;
		this.#announcements = announcements;
		this.#clock = clock;
		this.#deaf = deaf;
	}

	follow(t: Topology): void {
		const up = new Set<number>();
		const places = t.lan.flatMap(({ device, kind, pcp }, port) => {
			const { index: ifindex, mac, addresses } = device;
			if (kind === "tap" || !pcp || mac === null || addresses.length === 0) return [];
			if (device.up) up.add(ifindex);
			return [{ port, ifindex, mac, addresses }];
		});
		const begins = this.server.follow(places);
		if (this.server.responders.some(({ fd, place }) => fd < 0 && up.has(place.ifindex))) this.#deaf();
		if (begins && this.anew) this.#announcements.begin(this.#clock.milliseconds);
	}

	close(): void {
		this.server.close();
	}
}

/** The PCP server of a list of requested forwards; `counts` is told of requests that are dropped. */
export function pcpServer(
	io: PcpIo,
	requested: PcpMappings,
	kernel: KernelMirror,
	clock: Clock,
	counts: Pick<PcpOwner, "spoofed" | "crowded">,
): PcpServer {
	return new PcpServer(io, {
		handle: (q, source, port) => requested.handle(q, swap32(source), port),
		epoch: () => requested.epoch,
		neighbour: (ifindex, host) => {
			const known = kernel.neighbour(ifindex, leaderAddress(kernel, ifindex, host));
			return known !== undefined && isUsable(known) ? { mac: known.mac as Uint8Array, sure: isConfirmed(known) } : null;
		},
		ask: (ifindex, host) => {
			try {
				kernel.resolve(ifindex, leaderAddress(kernel, ifindex, host));
			} catch {
				// The device is going away; the host asks again.
			}
		},
		isOwn: (address) => kernel.ownAddresses().includes(address),
		spoofed: counts.spoofed,
		crowded: counts.crowded,
		milliseconds: () => clock.milliseconds,
	});
}

/** Whom a device's neighbours know as the way to a host: the host itself, or the router that it is behind. */
export function leaderAddress(kernel: KernelMirror, ifindex: number, host: number): number {
	const route = kernel.lookup(host);
	return route !== null && route.ifindex === ifindex && route.gateway !== 0 ? route.gateway : host;
}
