/**
 * What the translation code works on: frame memory, table, ports, policy. The engine makes one and the parts of `nat`
 * share it.
 */

import type { Hosts } from "../conntrack/hosts.ts";
import type { PortRange } from "../conntrack/ports.ts";
import type { Table } from "../conntrack/table.ts";
import { HOST_UNREACHABLE } from "../packet/icmp.ts";
import { addressValue, type Views } from "../packet/layout.ts";
import type { LinkHeaders } from "../packet/link-header.ts";
import type { DropLog } from "./drop-log.ts";
import type { Expectations } from "./expectations.ts";
import type { Externals } from "./externals.ts";
import { REASONS } from "./reason.ts";

/** Most frames in one turn of a port: best measured (16: -8 %, 256: worse). */
export const BATCH = 64;

/** Frames on their way out of one port: pairs [slot byte offset, bytes of IPv4 packet | link header tag]. */
export class Queue {
	readonly pairs: Int32Array;
	count = 0;
	/** Words of `pairs`. */
	readonly size: number;
	/** Words of them that {@link push} fills. */
	readonly #full: number;
	/** Some frame is not ordinary traffic (port/sending.ts): each has to be looked at before it is sent. */
	mixed = false;

	/**
	 * Room for `capacity` frames, and for those of a whole batch besides, which the fast loops append themselves: they
	 * ask for room once a batch.
	 */
	constructor(capacity: number) {
		this.size = (capacity + BATCH) * 2;
		this.pairs = new Int32Array(this.size);
		this.#full = capacity * 2;
	}

	/** Appends a frame; `tag` names its link header, 0: the slot has it already. False (and nothing done) when full. */
	push(slot: number, length: number, tag: number): boolean {
		const m = this.count << 1;
		if (m >= this.#full) return false;
		this.pairs[m] = slot;
		this.pairs[m + 1] = length | tag;
		this.count++;
		this.mixed = true;
		return true;
	}
}

/** A subnet by raw address and mask. */
export interface Net {
	address: number;
	mask: number;
}

/** What the translation knows of a LAN or WAN port. */
export interface Link {
	/** The device has an Ethernet header. */
	ethernet: boolean;
	/** Largest IPv4 packet. */
	mtu: number;
	/** Own address, raw; source of ICMP errors that leave here. */
	address: number;
	/** Own MAC, six bytes. */
	mac: Uint8Array;
	/** The subnets on the link; a LAN's with what is behind its routers. */
	nets: Net[];
	/** Frames to send. */
	queue: Queue;
}

/** A LAN port. */
export interface LanLink extends Link {
	/** One of them in which nobody of another LAN port is, or {@link NO_NET}: {@link findSoleNets} finds it. */
	sole: Net;
	/** The kernel forwards between this port and the hosts (tun driver) and has counted, or will count, the hop. */
	kernelForwards: boolean;
	/**
	 * Number of the port that its hosts are reached by: its own, but for the tap beside a tun port, which only hears
	 * what hosts send to our own address.
	 */
	home: number;
	/** Its hosts may ask for forwards themselves (RFC 6887, RFC 6886). */
	pcp: boolean;
	/** Hosts that are the kernel's, because policy rules may lead them elsewhere than by the WAN. */
	handed: Net[];
}

/** A subnet without hosts. */
export const NO_NET: Net = { address: 0, mask: -1 };

/** The WAN's next hops (implemented by the port layer). Hop 0 is "ask again". */
export interface NextHops {
	/**
	 * By hop number: what the descriptor of a frame to it adds for its link header (packet/link-header.ts), 0 while the
	 * neighbour is not known.
	 */
	readonly tags: Int32Array;
	/**
	 * Largest IPv4 packet that fits every route through the WAN: the smallest MTU of the link and of routes that have
	 * their own.
	 */
	readonly least: number;
	/** Largest one on the way to a destination (raw). */
	mtuTo(destination: number): number;
	/**
	 * Hop number for a destination (raw); {@link NO_ROUTE}, or {@link ELSEWHERE} if the route does not lead through the
	 * WAN.
	 */
	find(destination: number): number;
	/** Holds a copy of a frame until the neighbour answers, and asks the kernel to find it. */
	park(hop: number, slot: number, length: number): void;
	/** As hold, for an internal host whose neighbour is not known, or was not looked at lately. */
	parkInternal(host: number, slot: number, length: number): void;
	/**
	 * An internal host's own frame came by LAN port `port`, from a MAC that is not the one known to lead to it, or that
	 * was not looked at lately.
	 */
	heard(host: number, port: number, slot: number): void;
}
export const NO_ROUTE = -1;
export const ELSEWHERE = -2;
/** Hop number of sessions between two internal hosts over an external address (RFC 4787 REQ-9). Its tag is always 0. */
export const HAIRPIN = 255;

/** Who reaches whom over an external address: hosts of one LAN port each other, those of all, or nobody. */
export type HairpinMode = "same-lan" | "all" | "off";

/** A port forward: external ports to an internal host. Addresses raw, ports host order. */
export interface Forward {
	protocol: number;
	first: number;
	last: number;
	internal: number;
	internalFirst: number;
	source: Net | null;
	/** Table and chain of nftables that it was taken over from, if it was. */
	place?: string;
}

/** A dynamic pool (RFC 2663 section 4.1.1). */
export interface Pool {
	nets: Net[];
	/** External numbers of its addresses. */
	externals: number[];
	/** The last address is shared by ports when the others are taken (RFC 3022 section 5.4). */
	overload: boolean;
}

/** Policy from the configuration, in raw terms. */
export interface Policy {
	/** Host flags for hosts without an entry of their own (HOST_EIF, HOST_ADF or 0). */
	filtering: number;
	/** Own entries by raw address. */
	hosts: Map<number, { flags: number; maxSessions: number; maxRate: number }>;
	forwards: Forward[];
	pools: Pool[];
	/** Port ranges of the external addresses. */
	ranges: PortRange[];
	/** Sessions that a host without an entry of its own may have, 0: as many as its fair share (RFC 6888 REQ-4). */
	maxSessions: number;
	/** New sessions a second that a host may open, 0: any number (RFC 6888 REQ-5 B). */
	maxRate: number;
	/** ICMP kind (type * 256 + code) that refuses a new session for want of room (RFC 5508 REQ-8, RFC 6888 REQ-11). */
	refusal: number;
	/** Packets to private and shared addresses (RFC 1918, RFC 6598) do not leave by the WAN. */
	blockPrivate: boolean;
	/**
	 * A SYN that nothing inside wanted is answered with an ICMP error after six seconds (RFC 5382 REQ-4); false: never.
	 */
	rejectSyn: boolean;
	/** ICMP errors that one source may cause a second (RFC 1812 section 4.3.2.8). */
	icmpRate: number;
	/** Between hosts of two LAN ports `same-lan` lets in only what would be let in from outside. */
	hairpin: HairpinMode;
	/** FTP control connections are read (alg.ts). */
	algFtp: boolean;
	/** A TFTP server may answer from another port than it was asked at (outbound.ts). */
	algTftp: boolean;
}

/** What a policy holds if nothing is configured. */
export const POLICY_DEFAULTS = {
	filtering: 0,
	maxSessions: 0,
	maxRate: 0,
	refusal: HOST_UNREACHABLE,
	blockPrivate: false,
	rejectSyn: true,
	icmpRate: 20,
	hairpin: "same-lan",
	algFtp: true,
	algTftp: false,
} as const;

/**
 * Frame memory beside the receive slots, for frames that are made or kept here: `count` blocks of {@link BLOCK} bytes
 * from byte `at`.
 */
export interface SpareBlocks {
	at: number;
	count: number;
}
/** Bytes of a block: a slot for a packet of up to 2024 bytes; larger ones take several in a row. */
export const BLOCK = 2048;

/** Why a session ended. */
export type EndCause = "timeout" | "evicted" | "flushed" | "wan-address" | "reload" | "refused" | "policy";

/**
 * Who wants to know of sessions as they come and go. Called in the middle of a batch: must be quick and change nothing.
 */
export interface SessionEvents {
	/** Session `i` was made, and its mapping with it if `first`. */
	created(i: number, first: boolean): void;
	/** Session `i` has ended, and its mapping with it if `last`; the words of its record are still there. */
	ended(i: number, cause: EndCause, last: boolean): void;
}

/** What of the address that is shared with the kernel is the kernel's. */
export interface KernelShare {
	/** True if a service of the router has this port (host order). */
	hasPort(protocol: number, port: number): boolean;
	/**
	 * True if the kernel has sent from this port (raw, all) to this peer lately: it asks the kernel, which takes some
	 * microseconds.
	 */
	hasFlow(protocol: number, peer: number, peerPort: number, port: number): boolean;
}

/** Everything shared by the translation code. */
export interface Context {
	readonly views: Views;
	readonly table: Table;
	readonly hosts: Hosts;
	readonly externals: Externals;
	readonly expectations: Expectations;
	readonly hops: NextHops;
	readonly kernelShare: KernelShare;
	readonly headers: LinkHeaders;
	readonly wan: Link;
	readonly lan: LanLink[];
	readonly spare: SpareBlocks;
	policy: Policy;
	/** Forwards that internal hosts have asked for (pcp-mappings.ts). */
	readonly requested: Forward[];
	/** Packets dropped, by reason number. */
	readonly drops: Float64Array;
	/** Counts drops there and remembers the last ones. */
	readonly dropLog: DropLog;
	/**
	 * What the firewall's rules bar a peer (raw) from, as bits (conntrack/barred.ts); null while they bar nobody. It
	 * may ask the kernel.
	 */
	barred: ((peer: number, protocol: number) => number) | null;
	/** Listener to sessions, null while nobody listens. */
	events: SessionEvents | null;
	/** What the ALG has done, by the number of its notes. */
	readonly algCounts: Float64Array;
	/** Packets left to the kernel: for the router itself. */
	leftToKernel: number;
	/** Packets translated and handed to a port. */
	forwardedOut: number;
	forwardedIn: number;
	/** ICMP errors sent. */
	errorsSent: number;
	/** TCP resets sent. */
	resetsSent: number;
	/**
	 * Second from which endpoint-independent filtering lets strangers in: for the time of a port's rest after a state
	 * was lost it does not, because they may mean another host that had the port (RFC 6888 REQ-8).
	 */
	strangersFrom: number;
	/**
	 * A TCP segment in mid-connection without a session makes one (its table may be lost); false: it is answered with a
	 * reset.
	 */
	adopt: boolean;
	/**
	 * Random integer, secret, that identifications of datagrams which may be fragmented begin with (identification.ts).
	 */
	readonly ipId: number;
	/** Mask of the identifications that are user space's to give: all, or the lower half beside offload. */
	ipIds: number;
	/** Seconds now, and the same modulo 2^16. */
	now: number;
	now16: number;
	/** True if the router itself speaks a protocol without ports with a peer (raw): a tunnel of its own. */
	routerSpeaks(protocol: number, peer: number): boolean;
	/** A fresh random 32-bit integer. */
	random(): number;
	/** As sumOf (packet/checksum.ts) on the frame memory, for whole packets. */
	sum(from: number, length: number): number;
	/** Sends what is queued anywhere: the blocks of what is made here are free then. */
	flush(): void;
}

/** What of a context is the same at every start. */
export const CONTEXT_START = {
	kernelShare: { hasPort: () => false, hasFlow: () => false },
	barred: null,
	events: null,
	leftToKernel: 0,
	forwardedOut: 0,
	forwardedIn: 0,
	errorsSent: 0,
	resetsSent: 0,
	strangersFrom: 0,
	adopt: true,
	routerSpeaks: (): boolean => false,
	ipIds: 0xffff,
	now: 0,
	now16: 0,
} as const;

/** False if there is no forward at all. */
export function hasForwards(c: Context): boolean {
	return c.policy.forwards.length > 0 || c.requested.length > 0;
}

/** The first forward, configured or requested, to which `fits` applies. */
export function findForward(c: Context, fits: (f: Forward) => boolean): Forward | undefined {
	return c.policy.forwards.find(fits) ?? c.requested.find(fits);
}

/** Zeroed counters for all reasons. */
export function makeDrops(): Float64Array {
	return new Float64Array(REASONS.length);
}

/**
 * Number of the LAN port that a raw address belongs to, -1 if to none: that with the closest subnet around it, as the
 * kernel's routes have it. Of ports with the same subnet it is `known` where that is one of them, else the first.
 */
export function lanOf(lan: readonly LanLink[], address: number, known = -1): number {
	let found = -1;
	let closest = -1;
	for (let port = 0; port < lan.length; port++) {
		if (lan[port].home !== port) continue;
		const { nets } = lan[port];
		for (let n = 0; n < nets.length; n++) {
			if (((address ^ nets[n].address) & nets[n].mask) !== 0) continue;
			const size = addressValue(nets[n].mask);
			if (size < closest || (size === closest && port !== known)) continue;
			found = port;
			closest = size;
		}
	}
	return found;
}

/**
 * Finds the subnet of each LAN port that tells its hosts from those of the others: to be called when subnets have
 * changed.
 */
export function findSoleNets(lan: readonly LanLink[]): void {
	for (const { home, nets } of lan) {
		const others = lan.filter((l) => l.home !== home).flatMap((l) => l.nets);
		const disjoint = (a: Net, b: Net) => ((a.address ^ b.address) & a.mask & b.mask) !== 0;
		const sole = nets.find((net) => others.every((other) => disjoint(net, other))) ?? NO_NET;
		for (const l of lan) if (l.home === home) l.sole = sole;
	}
}

/**
 * True if a forward of the configuration has an external port (host order): the port is not anybody else's to take or
 * to give back.
 */
export function isConfigured({ forwards }: Policy, protocol: number, port: number): boolean {
	return forwards.some((f) => f.protocol === protocol && port >= f.first && port <= f.last);
}

/** True if a raw address is in one of the subnets. */
export function inNets(nets: Net[], address: number): boolean {
	for (let i = 0; i < nets.length; i++) if (((address ^ nets[i].address) & nets[i].mask) === 0) return true;
	return false;
}
