/**
 * The WAN's address: gained, lost or another one. Sessions move to a new address, TCP is reset towards the LAN, and
 * whoever listens is told.
 */
import { HALF_SHIFT, HOST_PLACE, HOST_PORT_SHIFT, HOST_REACHABLE, HOST_WORDS, R_HOST } from "../conntrack/record.ts";
import type { Watch } from "../control/watch.ts";
import type { Admission } from "../nat/admission.ts";
import { BATCH, type Context, type LanLink } from "../nat/context.ts";
import type { PcpMappings } from "../nat/pcp-mappings.ts";
import { REASON } from "../nat/reason.ts";
import { renumber } from "../nat/renumber.ts";
import { sessionReset } from "../nat/tcp-reset.ts";
import { formatAddress } from "../packet/address.ts";
import { HOST_HEADERS, headerTag } from "../packet/header-tag.ts";
import { addressValue, SLOT_SIZE, swap32 } from "../packet/layout.ts";
import type { Announcements } from "../port/pcp-responder.ts";
import type { Clock } from "./clock.ts";
import type { Follower } from "./follower.ts";
import type { Log } from "./log.ts";
import type { Topology } from "./topology.ts";

/** What follows from a new address. */
export interface AddressSurroundings {
	context: Context;
	admission: Admission;
	/** Gives up what waits for a next hop. */
	hops: { giveUp(): void; parkInternal(host: number, slot: number, length: number): void };
	requested: PcpMappings;
	announcements: Announcements;
	watch: Watch;
	log: Log;
	clock: Clock;
	/** Somebody may listen. */
	listened(): boolean;
}

/** The address by which sessions go out. */
export class WanAddress implements Follower {
	readonly name = "wan address";
	/**
	 * The WAN has no address that can be used, or some session no route: packets from inside take the slow way
	 * (SlowPath.outboundImpaired).
	 */
	impaired = true;
	readonly #with: AddressSurroundings;
	/** As loaded: what listeners know, and whether some session has no route. */
	#announced = 0;
	#unroutable = false;
	#address = 0;
	#conflict = "";

	constructor(surroundings: AddressSurroundings) {
		this.#with = surroundings;
	}

	/** Whether some session has no route. */
	routed(unroutable: boolean): void {
		this.#unroutable = unroutable;
		this.#judge();
	}

	#judge(): void {
		this.impaired = this.#address === 0 || this.#unroutable;
	}

	/**
	 * What stands against every outbound packet now: a reason number, -1 for whatever its route says; null if nothing
	 * does.
	 */
	get fault(): number | null {
		if (!this.impaired) return null;
		if (this.#address !== 0) return -1;
		return this.#conflict !== "" ? REASON["address-conflict"] : REASON["no-external-address"];
	}

	follow(t: Topology): void {
		const { context, hops, requested, announcements, clock, log } = this.#with;
		const { externals, table } = context;
		const address = swap32(t.address);
		const before = externals.A[0];
		this.#tellConflict(t);
		this.#tell(t.wan.name, address);
		this.#address = address;
		this.#judge();
		if (address === 0) {
			hops.giveUp();
			return;
		}
		if (t.lan.some((p) => p.pcp) && requested.follow(address)) announcements.begin(clock.milliseconds);
		if (before === address) return;
		if (before === 0) {
			externals.setAddress(0, address);
			table.addresses[0] = address;
			return;
		}
		const { moved, ended } = this.#move(address);
		log.notice(`the WAN's address is ${text(address)} now, it was ${text(before)}: ${moved} sessions moved, ${ended} ended`);
	}

	#move(address: number): { moved: number; ended: number } {
		const { context, admission, hops } = this.#with;
		context.flush();
		hops.giveUp();
		let slot = 0;
		const done = renumber(context, admission, address, (i) => {
			const length = sessionReset(context, i, slot * SLOT_SIZE);
			if (length === 0) return;
			this.#toInternal(i, slot * SLOT_SIZE, length);
			slot = (slot + 1) % BATCH;
			if (slot === 0) context.flush();
		});
		context.flush();
		return done;
	}

	/** Queues a frame that was made for the internal host of a session. */
	#toInternal(i: number, slot: number, length: number): void {
		const { context: c, hops } = this.#with;
		const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
		const place = c.hosts.W[host * HOST_WORDS + HOST_PLACE];
		const lan: LanLink = c.lan[(place >>> HOST_PORT_SHIFT) & 0xff];
		if ((place & HOST_REACHABLE) === 0) hops.parkInternal(host, slot, length);
		else if (!lan.queue.push(slot, length, headerTag(HOST_HEADERS + host))) {
			c.dropLog.add(REASON["queue-full"], slot, -1, c.now);
			return;
		}
		c.resetsSent++;
	}

	#tellConflict({ conflict }: Topology): void {
		if (conflict === this.#conflict) return;
		this.#conflict = conflict;
		const { log } = this.#with;
		if (conflict !== "") log.notice(`${conflict}: nothing is translated until one of them is renumbered`);
		else log.notice("WAN and LAN subnets no longer overlap");
	}

	/** Tells who listens that the address is another one. */
	#tell(wan: string, address: number): void {
		const before = this.#announced;
		if (address === before) return;
		this.#announced = address;
		const { watch, log, listened } = this.#with;
		if (!listened()) return;
		const word = (loaded: number) => (loaded === 0 ? "" : text(loaded));
		watch.tell({ event: "wan-address", before: word(before), after: word(address) } as { event: string });
		if (address === 0) log.warning(`wan ${wan} has lost its address ${text(before)}; sessions wait for it`);
		else if (before === 0) log.notice(`wan ${wan} has address ${text(address)}`);
	}

	close(): void {}
}

function text(loaded: number): string {
	return formatAddress(addressValue(loaded));
}
