/**
 * A mirror of what the kernel knows of IPv4: links, addresses, routes, policy rules and neighbours, kept by rtnetlink.
 *
 * Theory of operation: two sockets. One is joined to the multicast groups and belongs in the poll set; the other
 * carries requests and dumps, each of which is waited for at most {@link ANSWER_MS}. {@link KernelMirror.open} joins
 * the groups first and dumps afterwards, so what changes in between is only told twice: notifications are in order, the
 * last one is right.
 *
 * Links, addresses and neighbours follow their notifications. Routes and rules are dumped again whenever something
 * about them may have changed, because IPv4 routes vanish without a word when their device goes down or their source
 * address goes. A dump blocks forwarding for its duration, so dumps take a twentieth of the time at most, with some
 * saved up for bursts. One that has to wait for that: {@link KernelMirror.pendingAt} says when
 * {@link KernelMirror.drain} wants to be called. After an overrun (ENOBUFS) everything is dumped again at once; what
 * fails is tried again soon, then less and less often, and the longer it has held up forwarding the later.
 */

import type { Fd, NativeError } from "masq:native";
import { NLM_F } from "../netlink/message.ts";
import {
	type AddressMessage,
	AF_INET,
	AF_UNSPEC,
	encodeDump,
	encodeLink,
	encodeNeighbour,
	encodeRoute,
	encodeRule,
	GROUP,
	IFF,
	type LinkMessage,
	type Message,
	type NeighbourMessage,
	NTF_USE,
	NUD,
	parseMessages,
	type RouteMessage,
	RTM,
	RTM_F_CLONED,
	RTN,
	RTNH_F_DEAD,
	RtnetlinkError,
	type RuleMessage,
	TABLE,
	type Tunnel,
} from "../netlink/route.ts";
import { prefixMask, type Subnet } from "../packet/address.ts";

/** The system calls that a view makes: `masq:native` itself, or a test's stand-in. */
export type KernelIo = Pick<
	typeof import("masq:native"),
	"POLLIN" | "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "poll" | "close" | "now"
>;

/**
 * `rtm_protocol` and FRA_PROTOCOL of everything that masqd makes: 'm'. What carries it and is not ours is a dead
 * predecessor's.
 */
export const MASQD_PROTOCOL = 109;

/** How long a request may go unanswered, in milliseconds. */
const ANSWER_MS = 2000;
/** Milliseconds until what could not be listed is tried again, by how often it has failed in a row. */
const RETRY_MS = [0, 100, 200, 400, 800, 1000];
/** Everything is listed after an overrun, however costly that was the last time, within so many milliseconds. */
const LIST_WAIT = 1000;
/** Attempts at a dump that the kernel marks as interrupted by a change; the last one is taken as it is. */
const DUMP_ATTEMPTS = 4;
/** The kernel fills datagrams of at most 32 KiB, one page less its own header. */
const DATAGRAM_MAX = 32768;
/** Datagrams read in one {@link KernelMirror.drain}, so that a storm of notifications cannot hold up forwarding. */
const DRAIN_MAX = 64;
/** ... and after an overrun, all of which are thrown away: more than the socket can hold. */
const DISCARD_MAX = 4096;
/** A dump may use one part in this many of the time. */
const DUMP_SHARE = 20;
/**
 * ... of which it may save up so many milliseconds: what a redial changes, one thing after another, is seen at once.
 */
const DUMP_CREDIT = 100;
/** But no change of a route waits longer than this, in milliseconds. */
const DUMP_WAIT = 5000;

const NETLINK_ROUTE = 0;

/** A network device. */
export interface Link {
	index: number;
	name: string;
	/** Administratively up (IFF_UP). */
	up: boolean;
	/** Up and with a carrier (IFF_RUNNING). */
	running: boolean;
	mtu: number;
	/** ARPHRD. */
	type: number;
	/** 6 bytes on Ethernet; null or of another length on devices without it. */
	mac: Uint8Array | null;
	/** Index of the bridge (bond, VRF) it is a port of, 0 for none. */
	master: number;
	queueLength: number;
	/** What a tunnel is, null for other devices. */
	tunnel: Tunnel | null;
	/** IFF flags as they are. */
	flags: number;
}

/** An IPv4 address of a device. */
export interface InterfaceAddress {
	ifindex: number;
	/** The device's own (IFA_LOCAL), also on point-to-point links. */
	address: number;
	prefix: number;
	/** Other end of a point-to-point link, else the same as `address`. */
	peer: number;
	/** Broadcast address, 0 if there is none. */
	broadcast: number;
	secondary: boolean;
}

/** A route of the main or the default table. */
export interface Route {
	table: number;
	destination: number;
	prefix: number;
	/** RTN: UNICAST, or UNREACHABLE, PROHIBIT, BLACKHOLE, which have no device. */
	type: number;
	/** 0 if there is no device. */
	ifindex: number;
	/** 0 if the destination is on the link. */
	gateway: number;
	metric: number;
	/** Preferred source address, 0 for none. */
	source: number;
	/** MTU of the route, 0 for the device's. */
	mtu: number;
	/** `rtm_protocol`. */
	protocol: number;
}

/** A neighbour of a device; `state` NUD.NONE means that the kernel has forgotten it. */
export interface Neighbour {
	ifindex: number;
	address: number;
	/** Link-layer address, null while it is not known. */
	mac: Uint8Array | null;
	/** NUD. */
	state: number;
}

/** What one {@link KernelMirror.drain} found changed. */
export interface Changes {
	links: boolean;
	addresses: boolean;
	routes: boolean;
	rules: boolean;
	/**
	 * News was lost: what went and came back meanwhile, and with it what the kernel was asked for, shows no difference.
	 */
	lost: boolean;
	/** Traffic control's filters, of any device. */
	filters: boolean;
	/** Every neighbour told of, as it is now. */
	neighbours: Neighbour[];
}

/** A policy rule to add or delete. */
export interface PolicyRule {
	priority: number;
	/** Name of the device by which the packet comes in. */
	iif: string;
	table: number;
	/** Packet mark that it is for; absent for any. */
	mark?: number;
	/** 0 leaves the default route out; absent for a plain lookup. */
	suppressPrefix?: number;
}

/** A route to add or delete; 0/0 unless said. */
export interface PolicyRoute {
	table: number;
	ifindex?: number;
	destination?: number;
	prefix?: number;
	gateway?: number;
	metric?: number;
	/** RTN.UNICAST unless said. */
	type?: number;
}

/** States in which the link-layer address may be used. */
const USABLE = NUD.REACHABLE | NUD.STALE | NUD.DELAY | NUD.PROBE | NUD.NOARP | NUD.PERMANENT;

/** Whether a frame may be sent to this neighbour now. */
export function isUsable(neighbour: Neighbour): boolean {
	return neighbour.mac !== null && (neighbour.state & USABLE) !== 0;
}

/**
 * Whether a neighbour has answered of late, or is configured: what another station says of its address is not believed
 * then.
 */
export function isConfirmed(neighbour: Neighbour): boolean {
	return isUsable(neighbour) && (neighbour.state & (NUD.REACHABLE | NUD.PERMANENT | NUD.NOARP)) !== 0;
}

/** Longest-prefix match over one table: a map from network to route for each prefix length in use, longest first. */
class RouteTable {
	readonly #byPrefix = new Map<number, Map<number, Route>>();
	#prefixes: number[] = [];

	/** Of two routes to one network the one with the lower metric counts, of equals the first. */
	add(route: Route): void {
		let networks = this.#byPrefix.get(route.prefix);
		if (networks === undefined) {
			networks = new Map();
			this.#byPrefix.set(route.prefix, networks);
			this.#prefixes = [...this.#byPrefix.keys()].sort((a, b) => b - a);
		}
		const present = networks.get(route.destination);
		if (present === undefined || route.metric < present.metric) networks.set(route.destination, route);
	}

	/** The matching route, null for none. */
	lookup(destination: number): Route | null {
		const prefixes = this.#prefixes;
		for (let i = 0; i < prefixes.length; i++) {
			const prefix = prefixes[i] as number;
			const route = this.#byPrefix.get(prefix)?.get((destination & prefixMask(prefix)) >>> 0);
			if (route !== undefined) return route;
		}
		return null;
	}

	/** The routes that count, shortest prefix first. */
	best(): Route[] {
		return [...this.#prefixes].reverse().flatMap((prefix) => [...(this.#byPrefix.get(prefix) as Map<number, Route>).values()]);
	}
}

export class KernelMirror {
	/** Devices by index. */
	links = new Map<number, Link>();
	/** Policy rules in order of priority. */
	rules: RuleMessage[] = [];
	/** Another one when the rules of others have changed, or routes of tables that only they lead to. */
	policyVersion = 0;
	#foreignRules = "";

	readonly #io: KernelIo;
	readonly #buffer = new ArrayBuffer(DATAGRAM_MAX);
	readonly #pollSet = new Int32Array(3);
	#requests: Fd = -1;
	#notifications: Fd = -1;
	#sequence = 0;

	#addresses = new Map<number, InterfaceAddress[]>();
	#neighbours = new Map<number, Map<number, Neighbour>>();
	#main = new RouteTable();
	#default = new RouteTable();
	#local = new RouteTable();
	/** Gateways of the main and the default table by device. */
	#gateways = new Map<number, Set<number>>();
	#routeSignature = "";
	#ruleSignature = "";

	/** What has changed since the last {@link drain} that went well. */
	#changes = noChanges();
	/** Notifications were lost: everything has to be listed again. */
	#allStale = false;
	#routesStale = false;
	#rulesStale = false;
	#dumpNotBefore = 0;
	/** Everything is not to be listed before, and how often that has failed in a row. */
	#listNotBefore = 0;
	#failures = 0;
	/** Milliseconds of dumping that are free, below zero after more, as they were at the end of the last dump. */
	#credit = DUMP_CREDIT;
	#creditAt = 0;

	/** @param io - `masq:native`. */
	constructor(io: KernelIo) {
		this.#io = io;
	}

	/**
	 * The descriptor for the poll set: readable when {@link drain} has something to read. -1 when closed, and while
	 * {@link drain} fails: its time is {@link pendingAt}.
	 */
	get fd(): Fd {
		return this.#failures > 0 ? -1 : this.#notifications;
	}

	/**
	 * Joins the groups and dumps everything. Throws the native error or {@link RtnetlinkError}; nothing is open then.
	 */
	open(): void {
		try {
			this.#notifications = this.#io.netlinkOpen(NETLINK_ROUTE, [
				GROUP.LINK,
				GROUP.NEIGH,
				GROUP.TC,
				GROUP.IPV4_IFADDR,
				GROUP.IPV4_ROUTE,
				GROUP.IPV4_RULE,
			]);
			this.#requests = this.#io.netlinkOpen(NETLINK_ROUTE, []);
			this.#dumpAll(noChanges(), this.#io.now());
		} catch (error) {
			this.close();
			throw error;
		}
	}

	/** Closes both sockets. The mirror stays as it was. */
	close(): void {
		this.#io.close(this.#requests);
		this.#io.close(this.#notifications);
		this.#requests = -1;
		this.#notifications = -1;
	}

	// ---- what is there -----------------------------------------------------------------------------------

	/** The device of that name, undefined if there is none. */
	linkByName(name: string): Link | undefined {
		for (const link of this.links.values()) if (link.name === name) return link;
		return undefined;
	}

	/** IPv4 addresses of a device, primary ones first as the kernel has them. */
	addresses(ifindex: number): readonly InterfaceAddress[] {
		return this.#addresses.get(ifindex) ?? [];
	}

	/** Every IPv4 address of this machine, without repetition. */
	ownAddresses(): number[] {
		const all = new Set<number>();
		for (const list of this.#addresses.values()) for (const entry of list) all.add(entry.address);
		return [...all];
	}

	/** Whether the kernel would take a packet to this address for itself: its own addresses, 127/8, local routes. */
	isLocal(address: number): boolean {
		const route = this.#local.lookup(address);
		return route !== null && route.type === RTN.LOCAL;
	}

	/** Whether this is the broadcast address of a connected subnet, or 255.255.255.255. */
	isBroadcast(address: number): boolean {
		const route = this.#local.lookup(address);
		return address === 0xffffffff || (route !== null && route.type === RTN.BROADCAST);
	}

	/**
	 * The route to a destination by the main table, then the default table; policy rules are not looked at.
	 * Unreachable, prohibit and blackhole routes are returned as such, with `ifindex` 0; a next hop that is not IPv4
	 * counts as unreachable.
	 *
	 * @returns null if no route matches.
	 */
	lookup(destination: number): Route | null {
		const route = this.#main.lookup(destination);
		return route === null || route.type === RTN.THROW ? this.#default.lookup(destination) : route;
	}

	/** The routes of the main table, shortest prefix first; of several to one network the one in force. */
	routes(): Route[] {
		return this.#main.best();
	}

	/**
	 * What the kernel routes elsewhere than by a device: the destinations of all routes, less those of longer prefixes
	 * that lead through that device. Disjoint subnets in order. A default route counts only if it leads through another
	 * device, a VPN's: what has none, or an unreachable one, is masqd's to answer.
	 *
	 * @param ifindex - the WAN device.
	 */
	subnetsNotVia(ifindex: number): Subnet[] {
		return subnetsElsewhere(
			this.#main.best().filter((route) => (route.prefix > 0 || route.ifindex > 0) && route.type !== RTN.THROW),
			ifindex,
		);
	}

	/** Whether a route of the main or the default table leads through this neighbour. */
	isGateway(ifindex: number, address: number): boolean {
		return this.#gateways.get(ifindex)?.has(address) ?? false;
	}

	/** What is known of a neighbour, undefined if nothing is. See {@link isUsable}. */
	neighbour(ifindex: number, address: number): Neighbour | undefined {
		return this.#neighbours.get(ifindex)?.get(address);
	}

	// ---- changes -----------------------------------------------------------------------------------------

	/**
	 * Reads the notifications that have come and brings the mirror up to date. Only what really differs is reported: a
	 * DHCP renewal of the same address is no change. Call it when {@link fd} is readable and at {@link pendingAt}.
	 * Throws the native error or {@link RtnetlinkError}; what has changed is reported by the next call then, which
	 * {@link pendingAt} asks for.
	 */
	drain(): Changes {
		const changes = this.#changes;
		const started = this.#io.now();
		try {
			this.#receive(changes);
			if (!this.#allStale) {
				if ((this.#routesStale || this.#rulesStale) && started >= this.#dumpNotBefore) this.#dumpStale(changes, started);
			} else if (started >= this.#listNotBefore) {
				changes.filters = true;
				changes.lost = true;
				this.#dumpAll(changes, started);
				this.#allStale = false;
			}
		} catch (error) {
			this.#allStale = true;
			const ended = this.#io.now();
			const pause = RETRY_MS[Math.min(this.#failures++, RETRY_MS.length - 1)] ?? 0;
			this.#listNotBefore = ended + Math.max(pause, Math.min(DUMP_WAIT, (ended - started - DUMP_CREDIT) * DUMP_SHARE));
			throw error;
		}
		this.#failures = 0;
		this.#changes = noChanges();
		return changes;
	}

	#receive(changes: Changes): void {
		for (let datagrams = 0; datagrams < (this.#allStale ? DISCARD_MAX : DRAIN_MAX); datagrams++) {
			let length: number;
			try {
				length = this.#io.netlinkReceive(this.#notifications, this.#buffer);
			} catch (error) {
				const { code } = error as NativeError;
				if (code !== "ENOBUFS" && code !== "EMSGSIZE") throw error;
				this.#allStale = true;
				continue;
			}
			if (length === 0) return;
			// What is left in the queue after an overrun is older than the dump to come and must not be applied over
			// it.
			if (this.#allStale) continue;
			for (const message of parseMessages(this.#buffer, length)) {
				if (message.kind === "malformed") this.#allStale = true;
				else this.#apply(message, changes);
			}
		}
		if (this.#allStale) throw new Error("the kernel's news does not end");
	}

	/**
	 * Time of `now()` in milliseconds at which {@link drain} wants to be called though {@link fd} is silent; Infinity
	 * if it does not.
	 */
	pendingAt(): number {
		if (this.#allStale) return this.#listNotBefore;
		return this.#routesStale || this.#rulesStale ? this.#dumpNotBefore : Number.POSITIVE_INFINITY;
	}

	#apply(message: Message, changes: Changes): void {
		switch (message.kind) {
			case "link":
				this.#applyLink(message, changes);
				break;
			case "address":
				this.#applyAddress(message, changes);
				break;
			case "neighbour":
				this.#applyNeighbour(message, changes);
				break;
			case "route":
				if (message.family === AF_INET && (message.routeFlags & RTM_F_CLONED) === 0 && message.table >= TABLE.DEFAULT) {
					if (message.table <= TABLE.LOCAL) this.#routesStale = true;
				}
				if (
					message.family === AF_INET &&
					message.protocol !== MASQD_PROTOCOL &&
					(message.table < TABLE.DEFAULT || message.table > TABLE.LOCAL)
				) {
					this.policyVersion++;
					changes.rules = true;
				}
				break;
			case "rule":
				if (message.family === AF_INET) this.#rulesStale = true;
				break;
			case "traffic":
				changes.filters = true;
				break;
		}
	}

	#applyLink(message: LinkMessage, changes: Changes): void {
		if (message.family !== AF_UNSPEC) return;
		if (message.deleted) {
			if (!this.links.delete(message.index)) return;
			changes.links = true;
			this.#routesStale = true;
			if (this.#addresses.delete(message.index)) changes.addresses = true;
			for (const entry of this.#neighbours.get(message.index)?.values() ?? []) {
				changes.neighbours.push({ ...entry, mac: null, state: NUD.NONE });
			}
			this.#neighbours.delete(message.index);
			return;
		}
		const link = linkOf(message);
		const present = this.links.get(link.index);
		if (present !== undefined && sameLink(present, link)) return;
		this.links.set(link.index, link);
		changes.links = true;
		this.#routesStale = true;
	}

	#applyAddress(message: AddressMessage, changes: Changes): void {
		if (message.family !== AF_INET) return;
		const present = this.#addresses.get(message.ifindex) ?? [];
		const at = present.findIndex(
			(entry) => entry.address === message.address && entry.prefix === message.prefix && entry.peer === message.peer,
		);
		if (message.deleted) {
			if (at < 0) return;
			present.splice(at, 1);
		} else {
			const entry = addressOf(message);
			const same = present[at];
			if (same !== undefined && same.secondary === entry.secondary && same.broadcast === entry.broadcast) return;
			if (at < 0) present.push(entry);
			else present[at] = entry;
		}
		if (present.length === 0) this.#addresses.delete(message.ifindex);
		else this.#addresses.set(message.ifindex, present);
		changes.addresses = true;
		this.#routesStale = true;
	}

	#applyNeighbour(message: NeighbourMessage, changes: Changes): void {
		if (message.family !== AF_INET || message.address === 0) return;
		const { ifindex, address } = message;
		let onLink = this.#neighbours.get(ifindex);
		if (message.deleted) {
			if (onLink?.delete(address)) changes.neighbours.push({ ifindex, address, mac: null, state: NUD.NONE });
			return;
		}
		if (onLink === undefined) {
			onLink = new Map();
			this.#neighbours.set(ifindex, onLink);
		}
		const neighbour = neighbourOf(message);
		onLink.set(address, neighbour);
		changes.neighbours.push(neighbour);
	}

	// ---- dumps -------------------------------------------------------------------------------------------

	#dumpAll(changes: Changes, started: number): void {
		const links = new Map<number, Link>();
		for (const message of this.#dump("list links", RTM.GETLINK, AF_UNSPEC)) {
			if (message.kind === "link" && message.family === AF_UNSPEC) links.set(message.index, linkOf(message));
		}
		if (!sameMap(this.links, links, sameLink)) changes.links = true;
		this.links = links;

		const addresses = new Map<number, InterfaceAddress[]>();
		for (const message of this.#dump("list addresses", RTM.GETADDR, AF_INET)) {
			if (message.kind !== "address" || message.family !== AF_INET) continue;
			const list = addresses.get(message.ifindex);
			if (list === undefined) addresses.set(message.ifindex, [addressOf(message)]);
			else list.push(addressOf(message));
		}
		if (!sameMap(this.#addresses, addresses, (a, b) => JSON.stringify(a) === JSON.stringify(b))) changes.addresses = true;
		this.#addresses = addresses;

		this.#dumpNeighbours(changes);
		this.#routesStale = true;
		this.#rulesStale = true;
		this.#dumpStale(changes, started);
		this.#listNotBefore = Math.min(this.#dumpNotBefore, this.#creditAt + LIST_WAIT);
	}

	#dumpNeighbours(changes: Changes): void {
		const before = this.#neighbours;
		const messages = this.#dump("list neighbours", RTM.GETNEIGH, AF_INET);
		this.#neighbours = new Map();
		for (const message of messages) {
			if (message.kind !== "neighbour") continue;
			const present = before.get(message.ifindex)?.get(message.address);
			const unchanged = present !== undefined && present.state === message.state && sameBytes(present.mac, message.mac);
			this.#applyNeighbour(message, unchanged ? noChanges() : changes);
		}
		for (const onLink of before.values()) {
			for (const { ifindex, address } of onLink.values()) {
				if (this.neighbour(ifindex, address) === undefined) changes.neighbours.push({ ifindex, address, mac: null, state: NUD.NONE });
			}
		}
	}

	/** Lists routes and rules, where stale, and takes the time since `started` off what may be saved up. */
	#dumpStale(changes: Changes, started: number): void {
		if (this.#routesStale) {
			const before = this.#routeSignature;
			this.#takeRoutes(this.listRoutes());
			this.#routesStale = false;
			if (before !== this.#routeSignature) changes.routes = true;
		}
		if (this.#rulesStale) {
			this.rules = this.listRules();
			this.#rulesStale = false;
			const signature = JSON.stringify(this.rules.map((rule) => ({ ...rule, flags: 0, sequence: 0 })));
			if (signature !== this.#ruleSignature) changes.rules = true;
			this.#ruleSignature = signature;
			const foreign = JSON.stringify(
				this.rules.filter((rule) => rule.protocol !== MASQD_PROTOCOL).map(({ sequence, flags, ...rule }) => rule),
			);
			if (foreign !== this.#foreignRules) this.policyVersion++;
			this.#foreignRules = foreign;
		}
		const ended = this.#io.now();
		this.#credit = Math.min(DUMP_CREDIT, this.#credit + (started - this.#creditAt) / DUMP_SHARE) - (ended - started);
		this.#creditAt = ended;
		this.#dumpNotBefore = ended + Math.min(DUMP_WAIT, Math.max(0, -this.#credit) * DUMP_SHARE);
	}

	#takeRoutes(messages: readonly RouteMessage[]): void {
		this.#main = new RouteTable();
		this.#default = new RouteTable();
		this.#local = new RouteTable();
		this.#gateways = new Map();
		const signature: string[] = [];
		for (const message of messages) {
			if (message.tos !== 0 || (message.routeFlags & (RTM_F_CLONED | RTNH_F_DEAD)) !== 0) continue;
			const table = message.table === TABLE.MAIN ? this.#main : message.table === TABLE.DEFAULT ? this.#default : this.#local;
			if (table === this.#local && message.table !== TABLE.LOCAL) continue;
			const route = routeOf(message);
			table.add(route);
			if (route.gateway !== 0) this.#gateways.set(route.ifindex, (this.#gateways.get(route.ifindex) ?? new Set()).add(route.gateway));
			signature.push(Object.values(route).join());
		}
		this.#routeSignature = signature.join("\n");
	}

	/** A fresh dump of the routes of every table. */
	listRoutes(): RouteMessage[] {
		return this.#dump("list routes", RTM.GETROUTE, AF_INET).filter((message) => message.kind === "route");
	}

	/** A fresh dump of the policy rules, in order of priority. */
	listRules(): RuleMessage[] {
		return this.#dump("list rules", RTM.GETRULE, AF_INET).filter((message) => message.kind === "rule");
	}

	// ---- requests ----------------------------------------------------------------------------------------

	/**
	 * Asks the kernel to resolve a neighbour (an ARP request goes out now) or, if the address it has is stale, to
	 * confirm it (a unicast request after 5 s unless it is confirmed otherwise). The answer or the failure (state
	 * FAILED, after 3 s) comes as a notification. Entries that need no resolution are left alone: NTF_USE would take
	 * their permanence away.
	 */
	resolve(ifindex: number, address: number): void {
		const present = this.neighbour(ifindex, address);
		if (present !== undefined && (present.state & (NUD.PERMANENT | NUD.NOARP)) !== 0) return;
		this.request("resolve a neighbour", (sequence) =>
			encodeNeighbour(
				{ type: RTM.NEWNEIGH, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE, sequence },
				{ ifindex, address, state: NUD.NONE, neighbourFlags: NTF_USE },
			),
		);
	}

	/**
	 * Adds a policy rule that carries {@link MASQD_PROTOCOL}. Throws {@link RtnetlinkError} EEXIST if the very same is
	 * there.
	 */
	addRule(rule: PolicyRule): void {
		this.request(`add the rule for ${rule.iif}`, (sequence) =>
			encodeRule(
				{ type: RTM.NEWRULE, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE | NLM_F.EXCL, sequence },
				{ ...rule, protocol: MASQD_PROTOCOL },
			),
		);
	}

	/** Deletes a rule that {@link addRule} made. Throws {@link RtnetlinkError} ENOENT if there is none. */
	delRule(rule: PolicyRule): void {
		this.request(`delete the rule for ${rule.iif}`, (sequence) =>
			encodeRule({ type: RTM.DELRULE, flags: NLM_F.REQUEST | NLM_F.ACK, sequence }, { ...rule, protocol: MASQD_PROTOCOL }),
		);
	}

	/**
	 * Adds a route that carries {@link MASQD_PROTOCOL}, or puts it in the place of one to the same network with the
	 * same metric.
	 */
	addRoute(route: PolicyRoute): void {
		this.request(`add a route to table ${route.table}`, (sequence) =>
			encodeRoute(
				{ type: RTM.NEWROUTE, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE | NLM_F.REPLACE, sequence },
				{ ...route, routeType: route.type ?? RTN.UNICAST, protocol: MASQD_PROTOCOL },
			),
		);
	}

	/** Deletes a route that {@link addRoute} made. Throws {@link RtnetlinkError} ESRCH if there is none. */
	delRoute(route: PolicyRoute): void {
		this.request(`delete a route from table ${route.table}`, (sequence) =>
			encodeRoute(
				{ type: RTM.DELROUTE, flags: NLM_F.REQUEST | NLM_F.ACK, sequence },
				{ ...route, routeType: route.type ?? RTN.UNICAST, protocol: MASQD_PROTOCOL },
			),
		);
	}

	/** Sets a device's MTU and transmit queue length (packets) and sets it up. */
	setLinkUp(ifindex: number, mtu: number, queueLength: number): void {
		this.request("set the device up", (sequence) =>
			encodeLink(
				{ type: RTM.SETLINK, flags: NLM_F.REQUEST | NLM_F.ACK, sequence },
				{ index: ifindex, deviceFlags: IFF.UP, deviceFlagsMask: IFF.UP, mtu, queueLength },
			),
		);
	}

	/**
	 * Sends a request (with NLM_F.ACK) and takes its acknowledgement. Throws {@link RtnetlinkError} if it is refused.
	 */
	request(operation: string, encode: (sequence: number) => ArrayBuffer): void {
		this.#converse(operation, encode, (message) => {
			if (message.kind !== "error") return false;
			if (message.errno !== 0) throw new RtnetlinkError(operation, message.errno);
			return true;
		});
	}

	/** Sends a dump request and counts those messages of the answer that `counts`. */
	count(operation: string, encode: (sequence: number) => ArrayBuffer, counts: (message: Message) => boolean = () => true): number {
		let count = 0;
		this.#converse(operation, encode, (message) => {
			if ((message.kind === "error" || message.kind === "done") && message.errno !== 0) throw new RtnetlinkError(operation, message.errno);
			if (message.kind === "done" || message.kind === "error") return true;
			if (counts(message)) count++;
			return false;
		});
		return count;
	}

	/** All messages of a dump. */
	#dump(operation: string, type: number, family: number): Message[] {
		for (let attempt = 1; ; attempt++) {
			const messages: Message[] = [];
			let interrupted = false;
			try {
				this.#converse(
					operation,
					(sequence) => encodeDump(type, family, sequence),
					(message) => {
						if ((message.flags & NLM_F.DUMP_INTR) !== 0) interrupted = true;
						if ((message.kind === "error" || message.kind === "done") && message.errno !== 0) {
							throw new RtnetlinkError(operation, message.errno);
						}
						messages.push(message);
						return message.kind === "done" || message.kind === "error";
					},
				);
			} catch (error) {
				if ((error as NativeError).code !== "ENOBUFS" || attempt === DUMP_ATTEMPTS) throw error;
				continue;
			}
			if (!interrupted || attempt === DUMP_ATTEMPTS) return messages;
		}
	}

	/**
	 * Sends one request and hands over its answers until `done` returns true. If it ends in any other way the socket is
	 * opened anew, because an answer may still be under way.
	 */
	#converse(operation: string, encode: (sequence: number) => ArrayBuffer, done: (message: Message) => boolean): void {
		this.#sequence = (this.#sequence + 1) >>> 0 || 1;
		const sequence = this.#sequence;
		const request = encode(sequence);
		let complete = false;
		try {
			if (this.#requests < 0) this.#reopenRequests();
			this.#io.netlinkSend(this.#requests, request, request.byteLength);
			const deadline = this.#io.now() + ANSWER_MS;
			while (!complete) {
				const length = this.#io.netlinkReceive(this.#requests, this.#buffer);
				if (length === 0) {
					this.#await(operation, deadline);
					continue;
				}
				for (const message of parseMessages(this.#buffer, length)) {
					if (message.sequence !== sequence || complete) continue;
					if (message.kind === "malformed") throw new Error(`${operation}: the kernel's answer was cut short`);
					complete = done(message);
				}
			}
		} catch (error) {
			if (!(error instanceof RtnetlinkError)) this.#reopenRequests();
			throw error instanceof RtnetlinkError ? error : named(operation, error);
		}
	}

	#await(operation: string, deadline: number): void {
		const remaining = deadline - this.#io.now();
		if (remaining <= 0) throw new Error(`${operation}: no answer from the kernel in ${ANSWER_MS} ms`);
		this.#pollSet[0] = this.#requests;
		this.#pollSet[1] = this.#io.POLLIN;
		this.#pollSet[2] = 0;
		this.#io.poll(this.#pollSet, 1, Math.ceil(remaining));
	}

	#reopenRequests(): void {
		this.#io.close(this.#requests);
		this.#requests = -1;
		this.#requests = this.#io.netlinkOpen(NETLINK_ROUTE, []);
	}
}

function noChanges(): Changes {
	return { links: false, addresses: false, routes: false, rules: false, lost: false, filters: false, neighbours: [] };
}

/** Puts the operation in front of a native error's message and leaves its errno and code on it. */
function named(operation: string, error: unknown): unknown {
	if (error instanceof Error && !error.message.startsWith(operation)) error.message = `${operation}: ${error.message}`;
	return error;
}

function linkOf(message: LinkMessage): Link {
	return {
		index: message.index,
		name: message.name,
		up: (message.deviceFlags & IFF.UP) !== 0,
		running: (message.deviceFlags & IFF.RUNNING) !== 0,
		mtu: message.mtu,
		type: message.deviceType,
		mac: message.mac,
		master: message.master,
		queueLength: message.queueLength,
		tunnel: message.tunnel,
		flags: message.deviceFlags,
	};
}

function addressOf(message: AddressMessage): InterfaceAddress {
	const { ifindex, address, prefix, peer, broadcast, secondary } = message;
	return { ifindex, address, prefix, peer, broadcast, secondary };
}

function neighbourOf(message: NeighbourMessage): Neighbour {
	const { ifindex, address, mac, state } = message;
	return { ifindex, address, mac, state };
}

function routeOf(message: RouteMessage): Route {
	const { table, destination, prefix, ifindex, gateway, metric, source, mtu, protocol } = message;
	if (message.foreign) {
		return { table, destination, prefix, type: RTN.UNREACHABLE, ifindex: 0, gateway: 0, metric, source, mtu, protocol };
	}
	const type = message.routeType;
	const leads = type === RTN.UNICAST || type === RTN.LOCAL || type === RTN.BROADCAST;
	return { table, destination, prefix, type, ifindex: leads ? ifindex : 0, gateway, metric, source, mtu, protocol };
}

function sameBytes(a: Uint8Array | null, b: Uint8Array | null): boolean {
	if (a === null || b === null) return a === b;
	return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function sameLink(a: Link, b: Link): boolean {
	return (
		a.name === b.name &&
		a.flags === b.flags &&
		a.mtu === b.mtu &&
		a.type === b.type &&
		a.master === b.master &&
		a.queueLength === b.queueLength &&
		a.tunnel?.peer === b.tunnel?.peer &&
		sameBytes(a.mac, b.mac)
	);
}

function sameMap<K, V>(a: ReadonlyMap<K, V>, b: ReadonlyMap<K, V>, same: (x: V, y: V) => boolean): boolean {
	if (a.size !== b.size) return false;
	for (const [key, value] of a) {
		const other = b.get(key);
		if (other === undefined || !same(value, other)) return false;
	}
	return true;
}

/**
 * See {@link KernelMirror.subnetsNotVia}. Networks lie in one another or apart, so one walk by address with the
 * enclosing ones on a stack sees each address's longest.
 */
function subnetsElsewhere(routes: readonly Route[], wan: number): Subnet[] {
	const sorted = [...routes].sort((a, b) => a.destination - b.destination || a.prefix - b.prefix);
	const segments: { first: number; last: number }[] = [];
	const around: { route: Route; last: number }[] = [];
	let at = 0;
	const upTo = (last: number, { route }: { route: Route }) => {
		if (route.ifindex !== wan && at <= last) segments.push({ first: at, last });
		at = last + 1;
	};
	for (const route of sorted) {
		let inner = around.at(-1);
		for (; inner !== undefined && inner.last < route.destination; inner = around.at(-1)) {
			upTo(inner.last, inner);
			around.pop();
		}
		if (inner !== undefined) upTo(route.destination - 1, inner);
		at = route.destination;
		around.push({ route, last: (route.destination | ~prefixMask(route.prefix)) >>> 0 });
	}
	for (const inner of around.reverse()) upTo(inner.last, inner);
	return joined(segments).flatMap(subnetsOfRange);
}

function joined(sorted: readonly { first: number; last: number }[]): { first: number; last: number }[] {
	const out: { first: number; last: number }[] = [];
	for (const segment of sorted) {
		const previous = out[out.length - 1];
		if (previous !== undefined && segment.first <= previous.last + 1) previous.last = Math.max(previous.last, segment.last);
		else out.push({ ...segment });
	}
	return out;
}

/** The fewest subnets that make up a range. */
function subnetsOfRange(range: { first: number; last: number }): Subnet[] {
	const subnets: Subnet[] = [];
	for (let first = range.first; first <= range.last; ) {
		let prefix = 32;
		while (prefix > 0) {
			const mask = prefixMask(prefix - 1);
			if ((first & mask) >>> 0 !== first || (first | ~mask) >>> 0 > range.last) break;
			prefix--;
		}
		subnets.push({ address: first, mask: prefixMask(prefix), prefix });
		first += 2 ** (32 - prefix);
	}
	return subnets;
}
