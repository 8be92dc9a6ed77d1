/**
 * rtnetlink (RFC 3549, linux/rtnetlink.h) as values: messages to bytes and bytes to messages. No socket is touched
 * here.
 *
 * A datagram holds messages, each a 16-byte `nlmsghdr`, a fixed header of its family (`ifinfomsg`, `ifaddrmsg`,
 * `rtmsg`, `ndmsg`, `fib_rule_hdr`) and attributes (length, type, payload, padded to 4). Everything is in the host's
 * byte order except IPv4 addresses inside attributes, which are in network order; here they are numbers in host-order
 * address (192.168.1.1 = 0xC0A80101). A dump is many messages with NLM_F_MULTI, over several datagrams, up to
 * NLMSG_DONE.
 *
 * Nothing read can make the parser throw or read outside the datagram: an attribute that overruns its message ends the
 * attributes, one that is too short for its type is passed over, a message that overruns its datagram becomes
 * `malformed`.
 */

import {
	AttributeReader,
	align,
	LITTLE_ENDIAN,
	MessageReader,
	MessageWriter,
	NLM_F,
	NLMSG_DONE,
	NLMSG_ERROR,
	type RequestHeader,
} from "./message.ts";

/** Message types (`nlmsg_type`). */
export const RTM = {
	NEWLINK: 16,
	DELLINK: 17,
	GETLINK: 18,
	SETLINK: 19,
	NEWADDR: 20,
	DELADDR: 21,
	GETADDR: 22,
	NEWROUTE: 24,
	DELROUTE: 25,
	GETROUTE: 26,
	NEWNEIGH: 28,
	DELNEIGH: 29,
	GETNEIGH: 30,
	NEWRULE: 32,
	DELRULE: 33,
	GETRULE: 34,
	NEWQDISC: 36,
	DELQDISC: 37,
	GETQDISC: 38,
	NEWTFILTER: 44,
	DELTFILTER: 45,
	GETTFILTER: 46,
} as const;

/** Multicast groups of NETLINK_ROUTE, as `netlinkOpen` takes them. */
export const GROUP = { LINK: 1, NEIGH: 3, TC: 4, IPV4_IFADDR: 5, IPV4_ROUTE: 7, IPV4_RULE: 8 } as const;

export const AF_UNSPEC = 0;
export const AF_INET = 2;

/** Interface flags (`ifi_flags`). */
export const IFF = { UP: 0x1, BROADCAST: 0x2, LOOPBACK: 0x8, POINTOPOINT: 0x10, RUNNING: 0x40, NOARP: 0x80 } as const;

/** Link types (`ifi_type`, linux/if_arp.h) that masqd tells apart. */
export const ARPHRD = { ETHER: 1, PPP: 512, LOOPBACK: 772, RAWIP: 519, NONE: 0xfffe } as const;

/** Neighbour states (`ndm_state`, RFC 4861 7.3.2 and Linux's own). */
export const NUD = {
	NONE: 0,
	INCOMPLETE: 0x1,
	REACHABLE: 0x2,
	STALE: 0x4,
	DELAY: 0x8,
	PROBE: 0x10,
	FAILED: 0x20,
	NOARP: 0x40,
	PERMANENT: 0x80,
} as const;

/** `ndm_flags`: this entry is about to be used, so resolve or confirm it. */
export const NTF_USE = 0x1;

/** Routing tables with a fixed number. */
export const TABLE = { DEFAULT: 253, MAIN: 254, LOCAL: 255 } as const;

/** Route types (`rtm_type`). */
export const RTN = {
	UNICAST: 1,
	LOCAL: 2,
	BROADCAST: 3,
	ANYCAST: 4,
	MULTICAST: 5,
	BLACKHOLE: 6,
	UNREACHABLE: 7,
	PROHIBIT: 8,
	THROW: 9,
} as const;

/** `fib_rule_hdr.action`: look the destination up in a table. */
export const FR_ACT_TO_TBL = 1;
/** Of `fib_rule_hdr.flags`. */
const FIB_RULE_INVERT = 2;

/** `rtm_flags` of a next hop that cannot be used, and of a route that is a cached result. */
export const RTNH_F_DEAD = 0x1;
export const RTM_F_CLONED = 0x200;

const SCOPE_UNIVERSE = 0;
const SCOPE_LINK = 253;
const IFA_F_SECONDARY = 0x1;

const IFLA = { ADDRESS: 1, IFNAME: 3, MTU: 4, MASTER: 10, TXQLEN: 13, LINKINFO: 18, EXT_MASK: 29 } as const;
const IFLA_INFO = { KIND: 1, DATA: 2 } as const;
const RTEXT_FILTER_SKIP_STATS = 0x8;
const IFA = { ADDRESS: 1, LOCAL: 2, BROADCAST: 4, FLAGS: 8 } as const;
const RTA = { DST: 1, OIF: 4, GATEWAY: 5, PRIORITY: 6, PREFSRC: 7, METRICS: 8, MULTIPATH: 9, TABLE: 15, VIA: 18, ENCAP: 22 } as const;
const RTAX_MTU = 2;
const NDA = { DST: 1, LLADDR: 2 } as const;
const FRA = {
	DST: 1,
	SRC: 2,
	IIFNAME: 3,
	PRIORITY: 6,
	FWMARK: 10,
	TUN_ID: 12,
	SUPPRESS_PREFIXLEN: 14,
	TABLE: 15,
	OIFNAME: 17,
	UID_RANGE: 20,
	PROTOCOL: 21,
	IP_PROTO: 22,
	DPORT_RANGE: 24,
} as const;

/** Size of the fixed header that follows `nlmsghdr`, by the family of messages (`type >> 2`). */
const FAMILY_HEADER = new Map<number, number>([
	[RTM.NEWLINK >> 2, 16],
	[RTM.NEWADDR >> 2, 8],
	[RTM.NEWROUTE >> 2, 12],
	[RTM.NEWNEIGH >> 2, 12],
	[RTM.NEWRULE >> 2, 12],
	[RTM.NEWQDISC >> 2, 20],
	[RTM.NEWTFILTER >> 2, 20],
]);

/** What every message carries. */
export interface Envelope {
	/** NLM_F flags. */
	flags: number;
	/** Sequence number: that of the request it answers, 0 for a notification. */
	sequence: number;
}

/** RTM_NEWLINK, RTM_DELLINK. */
export interface LinkMessage extends Envelope {
	kind: "link";
	deleted: boolean;
	/**
	 * AF_UNSPEC for a device; AF_BRIDGE (7) tells of a bridge's port and does not mean that the device came or went.
	 */
	family: number;
	index: number;
	/** ARPHRD. */
	deviceType: number;
	/** IFF flags. */
	deviceFlags: number;
	name: string;
	mtu: number;
	/** Link-layer address as it is, null for devices that have none. */
	mac: Uint8Array | null;
	/** Index of the bridge, bond or VRF that the device is a port of, 0 for none. */
	master: number;
	queueLength: number;
	/** What a tunnel is, null for other devices. */
	tunnel: Tunnel | null;
}

/** A tunnel device over IPv4 whose packets have no ports. */
export interface Tunnel {
	/** IP protocols in which it speaks. */
	protocols: readonly number[];
	/** Address of the other end, 0: anybody's. */
	peer: number;
}

/** By kind of a device: in what it speaks, and the attribute with the other end's address; -1: anybody's. */
const TUNNELS: Readonly<Record<string, { protocols: readonly number[]; remote: number }>> = {
	ipip: { protocols: [4, 137], remote: 3 },
	sit: { protocols: [41, 4, 137], remote: 3 },
	gre: { protocols: [47], remote: 7 },
	gretap: { protocols: [47], remote: 7 },
	erspan: { protocols: [47], remote: 7 },
	vti: { protocols: [50, 51, 108], remote: 5 },
	l2tpeth: { protocols: [115], remote: -1 },
};

/** RTM_NEWADDR, RTM_DELADDR. */
export interface AddressMessage extends Envelope {
	kind: "address";
	deleted: boolean;
	family: number;
	ifindex: number;
	/** The interface's own address: IFA_LOCAL. */
	address: number;
	prefix: number;
	/** IFA_ADDRESS: the other end of a point-to-point link, else the same as `address`. */
	peer: number;
	broadcast: number;
	secondary: boolean;
}

/** RTM_NEWROUTE, RTM_DELROUTE. Of a multipath route, the first next hop that is not dead. */
export interface RouteMessage extends Envelope {
	kind: "route";
	deleted: boolean;
	family: number;
	destination: number;
	prefix: number;
	tos: number;
	table: number;
	/** Who made it (`rtm_protocol`). */
	protocol: number;
	/** RTN. */
	routeType: number;
	/** RTM_F and RTNH_F flags. */
	routeFlags: number;
	/** 0 if the route has no device (unreachable, blackhole). */
	ifindex: number;
	/** 0 if the destination is on the link. */
	gateway: number;
	metric: number;
	/** Preferred source, 0 if none. */
	source: number;
	/** MTU of the route, 0 if it has none of its own. */
	mtu: number;
	/** The next hop is not IPv4 on a plain link (an IPv6 gateway, MPLS or another encapsulation). */
	foreign: boolean;
}

/** RTM_NEWNEIGH, RTM_DELNEIGH. */
export interface NeighbourMessage extends Envelope {
	kind: "neighbour";
	deleted: boolean;
	family: number;
	ifindex: number;
	/** NUD. */
	state: number;
	neighbourFlags: number;
	address: number;
	mac: Uint8Array | null;
}

/** RTM_NEWRULE, RTM_DELRULE. */
export interface RuleMessage extends Envelope {
	kind: "rule";
	deleted: boolean;
	family: number;
	priority: number;
	table: number;
	action: number;
	/** The packet's source (host order) and how many bits of it count, 0 for any. */
	source: number;
	sourcePrefix: number;
	/** The same of its destination. */
	destination: number;
	destinationPrefix: number;
	/** It looks at the packet's mark, TOS, protocol or ports as well. */
	narrow: boolean;
	/** It is for users, whose sockets are the router's. */
	users: boolean;
	/** It is for what does not match. */
	inverted: boolean;
	/** Name of the device the packet came in by, "" for any. */
	iif: string;
	oif: string;
	/** Routes with a prefix of this length or shorter do not count; -1 for none. */
	suppressPrefix: number;
	/** Who made it, 0 if unknown. */
	protocol: number;
}

/** NLMSG_ERROR. `errno` 0 is an acknowledgement. */
export interface ErrorMessage extends Envelope {
	kind: "error";
	errno: number;
}

/** NLMSG_DONE: the end of a dump; `errno` is not 0 if the kernel gave it up. */
export interface DoneMessage extends Envelope {
	kind: "done";
	errno: number;
}

/** A queueing discipline or a filter of traffic control. */
export interface TrafficMessage extends Envelope {
	kind: "traffic";
	ifindex: number;
	/** A cake that is to be fair to hosts behind a NAT (`nat`). */
	fairToHosts: boolean;
	/** Of a filter: its priority, what kind it is, and the device that it sends to, 0 for none. */
	priority: number;
	filter: string;
	redirect: number;
}

/** A message that is none of ours, or one cut short. */
export interface OtherMessage extends Envelope {
	kind: "other" | "malformed";
}

export type Message =
	| LinkMessage
	| AddressMessage
	| RouteMessage
	| NeighbourMessage
	| RuleMessage
	| TrafficMessage
	| ErrorMessage
	| DoneMessage
	| OtherMessage;

// ---- reading -----------------------------------------------------------------------------------------------

/**
 * Reads all messages of one datagram. The result holds copies: the buffer may be reused.
 *
 * @param buffer - what the socket gave; offset 0 is the first header.
 * @param length - bytes of it that are the datagram.
 * @param little - byte order; the host's unless a test says otherwise.
 */
export function parseMessages(buffer: ArrayBuffer, length: number, little: boolean = LITTLE_ENDIAN): Message[] {
	const reader = new MessageReader(buffer, length, little);
	const messages: Message[] = [];
	while (reader.next()) messages.push(parseMessage(reader));
	if (reader.malformed) messages.push({ kind: "malformed", flags: reader.flags, sequence: reader.sequence });
	return messages;
}

function parseMessage(reader: MessageReader): Message {
	const { view, at, end, type, little } = reader;
	const envelope = { flags: reader.flags, sequence: reader.sequence };
	if (type === NLMSG_DONE) return { kind: "done", ...envelope, errno: Math.max(0, reader.errno()) };
	if (type === NLMSG_ERROR) {
		const errno = reader.errno();
		return errno < 0 ? { kind: "malformed", ...envelope } : { kind: "error", ...envelope, errno };
	}
	const family = type >> 2;
	const header = FAMILY_HEADER.get(family);
	if (header === undefined || (type & 3) > 1) return { kind: "other", ...envelope };
	if (end - at < header) return { kind: "malformed", ...envelope };
	const deleted = (type & 3) === 1;
	const attributes = reader.attributes(header);
	switch (family) {
		case RTM.NEWLINK >> 2:
			return parseLink(view, at, attributes, deleted, envelope, little);
		case RTM.NEWADDR >> 2:
			return parseAddressMessage(view, at, attributes, deleted, envelope, little);
		case RTM.NEWROUTE >> 2:
			return parseRoute(view, at, attributes, deleted, envelope, little);
		case RTM.NEWNEIGH >> 2:
			return parseNeighbour(view, at, attributes, deleted, envelope, little);
		case RTM.NEWRULE >> 2:
			return parseRule(view, at, attributes, deleted, envelope, little);
		default:
			return parseTraffic(view, at, attributes, envelope, little);
	}
}

/** Attribute of the actions in the options of the kinds of filters that have one. */
const ACTIONS: Record<string, number> = { bpf: 1, matchall: 2, basic: 3, flower: 3, fw: 4, u32: 7 };
const TCA_KIND = 1;
const TCA_OPTIONS = 2;
const CAKE_NAT = 11;
const ACTION_OPTIONS = 2;
const MIRRED_PARAMETERS = 2;
/** Where struct tc_mirred has the device, and its size. */
const MIRRED_IFINDEX = 24;
const MIRRED_SIZE = 28;

function parseTraffic(view: DataView, at: number, a: AttributeReader, envelope: Envelope, little: boolean): TrafficMessage {
	const message: TrafficMessage = {
		kind: "traffic",
		...envelope,
		ifindex: view.getInt32(at + 4, little),
		fairToHosts: false,
		priority: view.getUint32(at + 16, little) >>> 16,
		filter: "",
		redirect: 0,
	};
	while (a.next()) {
		if (a.type === TCA_KIND) message.filter = a.text();
		if (a.type !== TCA_OPTIONS) continue;
		for (const options = a.nested(); options.next(); ) {
			if (message.filter === "cake" && options.type === CAKE_NAT && options.length >= 4)
				message.fairToHosts = view.getUint32(options.at, little) !== 0;
			if (options.type !== ACTIONS[message.filter]) continue;
			for (const list = options.nested(); list.next(); ) message.redirect ||= mirredDevice(view, list.nested(), little);
		}
	}
	return message;
}

/** The device that an action sends packets to, 0 if it is not of that kind. */
function mirredDevice(view: DataView, action: AttributeReader, little: boolean): number {
	let device = 0;
	let kind = "";
	while (action.next()) {
		if (action.type === TCA_KIND) kind = action.text();
		if (action.type !== ACTION_OPTIONS) continue;
		for (const options = action.nested(); options.next(); )
			if (options.type === MIRRED_PARAMETERS && options.length >= MIRRED_SIZE) device = view.getUint32(options.at + MIRRED_IFINDEX, little);
	}
	return kind === "mirred" ? device : 0;
}

function parseLink(view: DataView, at: number, a: AttributeReader, deleted: boolean, envelope: Envelope, little: boolean): LinkMessage {
	const link: LinkMessage = {
		kind: "link",
		deleted,
		...envelope,
		family: view.getUint8(at),
		deviceType: view.getUint16(at + 2, little),
		index: view.getInt32(at + 4, little),
		deviceFlags: view.getUint32(at + 8, little),
		name: "",
		mtu: 0,
		mac: null,
		master: 0,
		queueLength: 0,
		tunnel: null,
	};
	while (a.next()) {
		if (a.type === IFLA.IFNAME) link.name = a.text();
		else if (a.type === IFLA.MTU) link.mtu = a.number(0);
		else if (a.type === IFLA.ADDRESS) link.mac = a.bytes();
		else if (a.type === IFLA.MASTER) link.master = a.number(0);
		else if (a.type === IFLA.TXQLEN) link.queueLength = a.number(0);
		else if (a.type === IFLA.LINKINFO) link.tunnel = parseTunnel(a.nested());
	}
	return link;
}

function parseTunnel(info: AttributeReader): Tunnel | null {
	let kind: (typeof TUNNELS)[string] | undefined;
	let peer = 0;
	while (info.next()) {
		// The kind comes first.
		if (info.type === IFLA_INFO.KIND) kind = Object.hasOwn(TUNNELS, info.text()) ? TUNNELS[info.text()] : undefined;
		else if (info.type === IFLA_INFO.DATA && kind !== undefined)
			for (const data = info.nested(); data.next(); ) if (data.type === kind.remote) peer = data.network(0);
	}
	return kind === undefined ? null : { protocols: kind.protocols, peer };
}

function parseAddressMessage(
	view: DataView,
	at: number,
	a: AttributeReader,
	deleted: boolean,
	envelope: Envelope,
	little: boolean,
): AddressMessage {
	const message: AddressMessage = {
		kind: "address",
		deleted,
		...envelope,
		family: view.getUint8(at),
		prefix: view.getUint8(at + 1),
		ifindex: view.getUint32(at + 4, little),
		address: 0,
		peer: 0,
		broadcast: 0,
		secondary: (view.getUint8(at + 2) & IFA_F_SECONDARY) !== 0,
	};
	let local = 0;
	while (a.next()) {
		if (a.type === IFA.LOCAL) local = a.network(0);
		else if (a.type === IFA.ADDRESS) message.peer = a.network(0);
		else if (a.type === IFA.BROADCAST) message.broadcast = a.network(0);
		else if (a.type === IFA.FLAGS) message.secondary = (a.number(0) & IFA_F_SECONDARY) !== 0;
	}
	message.address = local === 0 ? message.peer : local;
	if (message.peer === 0) message.peer = message.address;
	return message;
}

function parseRoute(view: DataView, at: number, a: AttributeReader, deleted: boolean, envelope: Envelope, little: boolean): RouteMessage {
	const route: RouteMessage = {
		kind: "route",
		deleted,
		...envelope,
		family: view.getUint8(at),
		destination: 0,
		prefix: view.getUint8(at + 1),
		tos: view.getUint8(at + 3),
		table: view.getUint8(at + 4),
		protocol: view.getUint8(at + 5),
		routeType: view.getUint8(at + 7),
		routeFlags: view.getUint32(at + 8, little),
		ifindex: 0,
		gateway: 0,
		metric: 0,
		source: 0,
		mtu: 0,
		foreign: false,
	};
	while (a.next()) {
		if (a.type === RTA.DST) route.destination = a.network(0);
		else if (a.type === RTA.OIF) route.ifindex = a.number(0);
		else if (a.type === RTA.GATEWAY) route.gateway = a.network(0);
		else if (a.type === RTA.PRIORITY) route.metric = a.number(0);
		else if (a.type === RTA.PREFSRC) route.source = a.network(0);
		else if (a.type === RTA.TABLE) route.table = a.number(route.table);
		else if (a.type === RTA.VIA || a.type === RTA.ENCAP) route.foreign = true;
		else if (a.type === RTA.METRICS) {
			for (const metrics = a.nested(); metrics.next(); ) if (metrics.type === RTAX_MTU) route.mtu = metrics.number(0);
		} else if (a.type === RTA.MULTIPATH) takeFirstHop(view, a.at, a.at + a.length, route, little);
	}
	return route;
}

/**
 * RTA_MULTIPATH is a list of `rtnexthop` {u16 length, u8 flags, u8 hops, s32 ifindex}, each followed by its own
 * attributes.
 */
function takeFirstHop(view: DataView, from: number, end: number, route: RouteMessage, little: boolean): void {
	route.routeFlags |= RTNH_F_DEAD;
	for (let at = from; at + 8 <= end; ) {
		const length = view.getUint16(at, little);
		if (length < 8 || at + length > end) return;
		if ((view.getUint8(at + 2) & RTNH_F_DEAD) === 0) {
			route.routeFlags &= ~RTNH_F_DEAD;
			route.ifindex = view.getInt32(at + 4, little);
			for (const hop = new AttributeReader(view, at + 8, at + length, little); hop.next(); ) {
				if (hop.type === RTA.GATEWAY) route.gateway = hop.network(0);
				else if (hop.type === RTA.VIA || hop.type === RTA.ENCAP) route.foreign = true;
			}
			return;
		}
		at += align(length);
	}
}

function parseNeighbour(
	view: DataView,
	at: number,
	a: AttributeReader,
	deleted: boolean,
	envelope: Envelope,
	little: boolean,
): NeighbourMessage {
	const neighbour: NeighbourMessage = {
		kind: "neighbour",
		deleted,
		...envelope,
		family: view.getUint8(at),
		ifindex: view.getInt32(at + 4, little),
		state: view.getUint16(at + 8, little),
		neighbourFlags: view.getUint8(at + 10),
		address: 0,
		mac: null,
	};
	while (a.next()) {
		if (a.type === NDA.DST) neighbour.address = a.network(0);
		else if (a.type === NDA.LLADDR) neighbour.mac = a.bytes();
	}
	return neighbour;
}

function parseRule(view: DataView, at: number, a: AttributeReader, deleted: boolean, envelope: Envelope, little: boolean): RuleMessage {
	const rule: RuleMessage = {
		kind: "rule",
		deleted,
		...envelope,
		family: view.getUint8(at),
		priority: 0,
		table: view.getUint8(at + 4),
		action: view.getUint8(at + 7),
		source: 0,
		sourcePrefix: view.getUint8(at + 2),
		destination: 0,
		destinationPrefix: view.getUint8(at + 1),
		narrow: view.getUint8(at + 3) !== 0,
		users: false,
		inverted: (view.getUint32(at + 8, little) & FIB_RULE_INVERT) !== 0,
		iif: "",
		oif: "",
		suppressPrefix: -1,
		protocol: 0,
	};
	while (a.next()) {
		if (a.type === FRA.PRIORITY) rule.priority = a.number(0);
		else if (a.type === FRA.TABLE) rule.table = a.number(rule.table);
		else if (a.type === FRA.SRC) rule.source = a.network(0);
		else if (a.type === FRA.DST) rule.destination = a.network(0);
		else if (a.type === FRA.UID_RANGE) rule.users = true;
		else if (a.type === FRA.IIFNAME) rule.iif = a.text();
		else if (a.type === FRA.OIFNAME) rule.oif = a.text();
		else if (a.type === FRA.SUPPRESS_PREFIXLEN) rule.suppressPrefix = a.number(0xffffffff) | 0;
		else if (a.type === FRA.PROTOCOL) rule.protocol = a.byte(0);
		else if (a.type === FRA.FWMARK || a.type === FRA.TUN_ID || (a.type >= FRA.IP_PROTO && a.type <= FRA.DPORT_RANGE)) rule.narrow = true;
	}
	return rule;
}

// ---- writing -----------------------------------------------------------------------------------------------

/**
 * A dump request: RTM_GETLINK, GETADDR, GETROUTE, GETNEIGH or GETRULE with NLM_F_DUMP.
 *
 * @param family - AF_INET, AF_UNSPEC for links.
 */
export function encodeDump(type: number, family: number, sequence: number, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	const out = new MessageWriter(little).message({ type, flags: NLM_F.REQUEST | NLM_F.DUMP, sequence }).byte(family);
	const header = FAMILY_HEADER.get(type >> 2) ?? 1;
	for (let i = 1; i < header; i++) out.byte(0);
	if (type === RTM.GETLINK) out.numberAttribute(IFLA.EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	return out.finish();
}

/** What a link request may set; `index` or `name` says which link. Absent fields stay as they are. */
export interface LinkRequest {
	index?: number;
	name?: string;
	/** Flags to change and the bits of `deviceFlagsMask` that they are changed in. */
	deviceFlags?: number;
	deviceFlagsMask?: number;
	mtu?: number;
	queueLength?: number;
	master?: number;
	mac?: Uint8Array;
}

/** RTM_NEWLINK, SETLINK, DELLINK or (one link) GETLINK. */
export function encodeLink(header: RequestHeader, link: LinkRequest, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	const out = new MessageWriter(little)
		.message(header)
		.byte(AF_UNSPEC)
		.byte(0)
		.short(0)
		.word(link.index ?? 0)
		.word(link.deviceFlags ?? 0)
		.word(link.deviceFlagsMask ?? 0);
	if (link.name !== undefined) out.nameAttribute(IFLA.IFNAME, link.name);
	if (link.mtu !== undefined) out.numberAttribute(IFLA.MTU, link.mtu);
	if (link.queueLength !== undefined) out.numberAttribute(IFLA.TXQLEN, link.queueLength);
	if (link.master !== undefined) out.numberAttribute(IFLA.MASTER, link.master);
	if (link.mac !== undefined) out.bytesAttribute(IFLA.ADDRESS, link.mac);
	return out.finish();
}

/** One address of an interface. */
export interface AddressRequest {
	ifindex: number;
	address: number;
	prefix: number;
	/** Other end of a point-to-point link; `address` itself unless said. */
	peer?: number;
}

/** RTM_NEWADDR or DELADDR. */
export function encodeAddress(header: RequestHeader, request: AddressRequest, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	return new MessageWriter(little)
		.message(header)
		.byte(AF_INET)
		.byte(request.prefix)
		.byte(0)
		.byte(SCOPE_UNIVERSE)
		.word(request.ifindex)
		.networkAttribute(IFA.LOCAL, request.address)
		.networkAttribute(IFA.ADDRESS, request.peer ?? request.address)
		.finish();
}

/** One route. The destination is 0/0 and the type unicast unless said. */
export interface RouteRequest {
	table: number;
	destination?: number;
	prefix?: number;
	/** Not for unreachable and blackhole routes. */
	ifindex?: number;
	gateway?: number;
	metric?: number;
	/** RTN. */
	routeType?: number;
	/** `rtm_protocol`; 0 in a deletion matches any. */
	protocol: number;
}

/** RTM_NEWROUTE, DELROUTE or (one route) GETROUTE. */
export function encodeRoute(header: RequestHeader, route: RouteRequest, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	const onLink = route.ifindex !== undefined && route.gateway === undefined;
	const out = new MessageWriter(little)
		.message(header)
		.byte(AF_INET)
		.byte(route.prefix ?? 0)
		.byte(0)
		.byte(0)
		.byte(route.table < 256 ? route.table : 0)
		.byte(route.protocol)
		.byte(onLink ? SCOPE_LINK : SCOPE_UNIVERSE)
		.byte(route.routeType ?? RTN.UNICAST)
		.word(0);
	out.numberAttribute(RTA.TABLE, route.table);
	if ((route.prefix ?? 0) > 0) out.networkAttribute(RTA.DST, route.destination ?? 0);
	if (route.ifindex !== undefined) out.numberAttribute(RTA.OIF, route.ifindex);
	if (route.gateway !== undefined) out.networkAttribute(RTA.GATEWAY, route.gateway);
	if (route.metric !== undefined) out.numberAttribute(RTA.PRIORITY, route.metric);
	return out.finish();
}

/** One neighbour. */
export interface NeighbourRequest {
	ifindex: number;
	address: number;
	/** NUD. */
	state: number;
	/** NTF. */
	neighbourFlags?: number;
	mac?: Uint8Array;
}

/** RTM_NEWNEIGH, DELNEIGH or (one neighbour) GETNEIGH. */
export function encodeNeighbour(header: RequestHeader, neighbour: NeighbourRequest, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	const out = new MessageWriter(little)
		.message(header)
		.byte(AF_INET)
		.byte(0)
		.short(0)
		.word(neighbour.ifindex)
		.short(neighbour.state)
		.byte(neighbour.neighbourFlags ?? 0)
		.byte(RTN.UNICAST)
		.networkAttribute(NDA.DST, neighbour.address);
	if (neighbour.mac !== undefined) out.bytesAttribute(NDA.LLADDR, neighbour.mac);
	return out.finish();
}

/** One policy rule: what comes in by `iif` looks its destination up in `table`. */
export interface RuleRequest {
	priority: number;
	iif: string;
	table: number;
	/** Only packets with this mark. */
	mark?: number;
	/** Ignore routes with a prefix of this length or shorter: 0 leaves out the default route. */
	suppressPrefix?: number;
	/** Who makes it; 0 in a deletion matches any. */
	protocol: number;
}

/** RTM_NEWRULE or DELRULE. */
export function encodeRule(header: RequestHeader, rule: RuleRequest, little: boolean = LITTLE_ENDIAN): ArrayBuffer {
	const out = new MessageWriter(little)
		.message(header)
		.byte(AF_INET)
		.byte(0)
		.byte(0)
		.byte(0)
		.byte(rule.table < 256 ? rule.table : 0)
		.byte(0)
		.byte(0)
		.byte(FR_ACT_TO_TBL)
		.word(0)
		.numberAttribute(FRA.PRIORITY, rule.priority)
		.numberAttribute(FRA.TABLE, rule.table)
		.nameAttribute(FRA.IIFNAME, rule.iif);
	if (rule.mark !== undefined) out.numberAttribute(FRA.FWMARK, rule.mark);
	if (rule.suppressPrefix !== undefined) out.numberAttribute(FRA.SUPPRESS_PREFIXLEN, rule.suppressPrefix);
	if (rule.protocol !== 0) out.byteAttribute(FRA.PROTOCOL, rule.protocol);
	return out.finish();
}

// ---- errors ------------------------------------------------------------------------------------------------

/**
 * The errors that rtnetlink answers with. Numbers above 34 differ on MIPS; both are here, which is unambiguous because
 * what the other architectures call 120-148 never comes from rtnetlink.
 */
const ERRORS: ReadonlyMap<number, readonly [code: string, text: string]> = new Map([
	[1, ["EPERM", "Operation not permitted"]],
	[2, ["ENOENT", "No such file or directory"]],
	[3, ["ESRCH", "No such process"]],
	[4, ["EINTR", "Interrupted system call"]],
	[6, ["ENXIO", "No such device or address"]],
	[11, ["EAGAIN", "Resource temporarily unavailable"]],
	[12, ["ENOMEM", "Cannot allocate memory"]],
	[13, ["EACCES", "Permission denied"]],
	[16, ["EBUSY", "Device or resource busy"]],
	[17, ["EEXIST", "File exists"]],
	[19, ["ENODEV", "No such device"]],
	[22, ["EINVAL", "Invalid argument"]],
	[34, ["ERANGE", "Numerical result out of range"]],
	[93, ["EPROTONOSUPPORT", "Protocol not supported"]],
	[95, ["EOPNOTSUPP", "Operation not supported"]],
	[97, ["EAFNOSUPPORT", "Address family not supported by protocol"]],
	[98, ["EADDRINUSE", "Address already in use"]],
	[99, ["EADDRNOTAVAIL", "Cannot assign requested address"]],
	[100, ["ENETDOWN", "Network is down"]],
	[101, ["ENETUNREACH", "Network is unreachable"]],
	[105, ["ENOBUFS", "No buffer space available"]],
	[113, ["EHOSTUNREACH", "No route to host"]],
	[120, ["EPROTONOSUPPORT", "Protocol not supported"]],
	[122, ["EOPNOTSUPP", "Operation not supported"]],
	[124, ["EAFNOSUPPORT", "Address family not supported by protocol"]],
	[125, ["EADDRINUSE", "Address already in use"]],
	[126, ["EADDRNOTAVAIL", "Cannot assign requested address"]],
	[127, ["ENETDOWN", "Network is down"]],
	[128, ["ENETUNREACH", "Network is unreachable"]],
	[132, ["ENOBUFS", "No buffer space available"]],
	[148, ["EHOSTUNREACH", "No route to host"]],
]);

/** Symbolic name of an errno from rtnetlink, such as "EEXIST"; "E" and the number if it is not known. */
export function errnoName(errno: number): string {
	return ERRORS.get(errno)?.[0] ?? `E${errno}`;
}

/** A request that the kernel refused: its message is `operation: text (NAME)`. */
export class RtnetlinkError extends Error {
	readonly operation: string;
	readonly errno: number;
	/** "EEXIST" and so on. */
	readonly code: string;

	constructor(operation: string, errno: number) {
		const code = errnoName(errno);
		super(`${operation}: ${ERRORS.get(errno)?.[1] ?? "unknown error"} (${code})`);
		this.name = "RtnetlinkError";
		this.operation = operation;
		this.errno = errno;
		this.code = code;
	}
}
