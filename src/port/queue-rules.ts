/**
 * The rules of the kernel driver: table `ip masqd`, which has the kernel ask about the first packet of a connection and
 * do what the answer says.
 *
 * Theory of operation. A packet that begins a connection (new, and of an entry that is not in the kernel's table yet)
 * is queued: towards the WAN behind routing and forwarding, just before source NAT; from the WAN, or from a LAN to one
 * of our own addresses, before destination NAT. The verdict's priority carries what was decided, and the chain behind
 * the queue translates by it. All else is the kernel's: it makes the entry, and no other packet of the connection comes
 * by here. Where nobody listens, or the answer carries nothing, the packet goes on to firewall4's own rules.
 *
 * Chains stand before firewall4's of the same hook by one, so that what masqd translates is not translated again.
 * Nothing leaves by the WAN with a source that is not ours: `guard`, a NAT chain behind all others, sees the first
 * packets that no listener has translated and no masquerade does; what the kernel would not translate at all (segments
 * that fit no connection) and connections that were made otherwise are stopped in `ask_out`. Each packet of a known
 * connection pays for a chain of kind filter, but not for one of kind nat: there is one a direction and hook, and its
 * first rules let such packets go.
 */
import type { PortRange } from "../conntrack/ports.ts";
import type { Timeouts } from "../conntrack/states.ts";
import { LITTLE_ENDIAN } from "../netlink/message.ts";
import {
	bitwise,
	CT_KEY,
	count,
	counter,
	ct,
	type Expression,
	encodeBatch,
	immediate,
	lookup,
	META_PRIORITY,
	meta,
	NAT,
	NFPROTO,
	nat,
	queue,
	queueTarget,
	setCt,
	setHeader,
	setMeta,
	shiftLeft,
	toNetwork,
	writeRule,
} from "../netlink/nftables.ts";
import { formatAddress, formatSubnet, type Subnet } from "../packet/address.ts";
import { PCP_PORT } from "../packet/pcp-code.ts";

/** Family and name of the table, as nft writes them. */
export const QUEUE_TABLE = "ip masqd";
const NAME = "masqd";
/** Bits of the connection mark that are ours, and what is in them: the kernel's entry is of masqd's making. */
export const MARK = { value: 0x10000000, mask: 0xf0000000 } as const;
/** Queue numbers: towards the WAN, and inbound. */
export const QUEUE_OUT = 0x6d71;
export const QUEUE_IN = 0x6d72;

/**
 * What a verdict's priority says besides the port, which is in its upper half: to leave by this external address, or to
 * come in to this host.
 */
export const OUT = 0x4000;
export const IN = 0x8000;

/** Nobody's addresses: "this" network, loopback, multicast and what is reserved. */
const NEVER = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"];
/**
 * New connections a second that a host may still ask for which has been refused as many in one, and how many such hosts
 * there can be.
 */
export const FLOOD_RATE = 200;
const FLOODERS = 4096;
/** Busy endpoints that the kernel answers for itself, and their new sessions a second; more are asked about. */
export const BUSY_MOST = 1024;
const BUSY_RATE = 500;
/** Peers about which more is to be known than that the endpoint is busy. */
const UNSURE = [...NEVER, "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"];
/** Seconds that a question to a name server waits for its answer at least. */
const DNS_LEAST = 10;
/** Packets a second from the WAN that are asked about; more are left to the kernel. */
const ASKED_RATE = 1000;

const INDEX = 0xffff;
const LOADED = 8;
const KEY = 9;
const ADDRESS = 10;
const SCRATCH = 11;

/**
 * The rule that does what a verdict's priority says: `map` has an address for its lower half (if it has none, the
 * packet is none of masqd's), the port is its upper half. nft has no words for it.
 */
export function steer(map: string, kind: number): Expression[] {
	return [
		meta(META_PRIORITY, LOADED),
		bitwise(LOADED, KEY, INDEX, 0),
		lookup(map, KEY, ADDRESS),
		immediate(SCRATCH, 0),
		setMeta(META_PRIORITY, SCRATCH),
		ct(CT_KEY.MARK, SCRATCH),
		bitwise(SCRATCH, SCRATCH, ~MARK.mask, MARK.value),
		setCt(CT_KEY.MARK, SCRATCH),
		toNetwork(LOADED),
		counter(),
		nat(kind, ADDRESS, LOADED),
	];
}

export const OUTBOUND = NAT.SNAT;
export const INBOUND = NAT.DNAT;

/** What the rules are made of; addresses are in host order. */
export interface QueueFacts {
	wan: string;
	lans: readonly string[];
	/**
	 * External addresses by their number, 0 for one that is not there. Number 0 is the WAN's own, which the router has
	 * too.
	 */
	externals: readonly number[];
	/** Sources that may leave by the WAN besides. */
	own: readonly number[];
	/** LANs whose hosts may ask for port forwards. */
	pcp: readonly string[];
	/** All addresses of the router, and the subnets of its LANs. */
	router: readonly number[];
	inside: readonly Subnet[];
	/** Ports of the WAN's own address that are masqd's, by protocol. */
	tcp: readonly PortRange[];
	udp: readonly PortRange[];
	/** Destinations that are reached untranslated. */
	exempts: readonly Subnet[];
	timeouts: Timeouts;
	/** Largest TCP segment that fits the WAN's link, and whether those of a LAN may be larger. */
	mss: number;
	clamp: boolean;
}

const first = "ct state new ct status & confirmed == 0";

/** The table as nft takes it, in place of one that is there; the rules that nft cannot say are {@link rawRules}. */
export function queueRuleset(f: QueueFacts): string {
	const { timeouts: t, wan } = f;
	const externals = f.externals.flatMap((address, n) => (address === 0 ? [] : [{ address, index: OUT | (n + 1) }]));
	const shared = f.externals[0] ?? 0;
	const alone = externals.filter((e) => e.address !== shared).map((e) => formatAddress(e.address));
	const lines = [`add table ${QUEUE_TABLE}`, `delete table ${QUEUE_TABLE}`, `table ${QUEUE_TABLE} {`, "\tcounter leak {", "\t}"];
	const timeout = (name: string, protocol: string, policy: string) =>
		lines.push(`\tct timeout ${name} {`, `\t\tprotocol ${protocol}`, "\t\tl3proto ip", `\t\tpolicy = { ${policy} }`, "\t}");
	timeout("t_udp", "udp", `unreplied : ${t.udp}, replied : ${t.udp}`);
	// For two seconds from its first packet the kernel takes any exchange for unanswered: a shorter time would be one
	// for the answer to come in.
	const dns = Math.max(DNS_LEAST, t.dns);
	timeout("t_dns", "udp", `unreplied : ${dns}, replied : ${dns}`);
	const live = ["established", "fin_wait", "close_wait", "retrans", "unack"].map((state) => `${state} : ${t.tcp_established}`);
	const closing = ["last_ack", "time_wait"].map((state) => `${state} : ${t.tcp_closing}`);
	timeout(
		"t_tcp",
		"tcp",
		[`syn_sent : ${t.tcp_opening}`, `syn_recv : ${t.tcp_opening}`, ...live, ...closing, `close : ${t.tcp_reset}`].join(", "),
	);
	const set = (kind: string, name: string, type: string, elements: readonly string[], flags = "") => {
		lines.push(`\t${kind} ${name} {`, `\t\ttype ${type}`, ...(flags === "" ? [] : [`\t\tflags ${flags}`]));
		if (elements.length > 0) lines.push(`\t\telements = { ${elements.join(", ")} }`);
		lines.push("\t}");
	};
	set(
		"map",
		"ext",
		"mark : ipv4_addr",
		externals.map((e) => `0x${e.index.toString(16)} : ${formatAddress(e.address)}`),
	);
	set("map", "hosts", "mark : ipv4_addr", []);
	// What a verdict would say, by internal and by external endpoint (busy-endpoints.ts).
	for (const [name, key] of [
		["busy", "iface_index . ipv4_addr"],
		["reached", "inet_proto . ipv4_addr"],
	])
		lines.push(`\tmap ${name} {`, `\t\ttype ${key} . inet_service : classid`, `\t\tsize ${BUSY_MOST}`, "\t}");
	set("set", "lans", "ifname", f.lans.map(quoted));
	set("set", "own", "ipv4_addr", [...new Set([...externals.map((e) => e.address), ...f.own])].map(formatAddress));
	set("set", "router", "ipv4_addr", [...new Set(f.router)].map(formatAddress));
	set("set", "inside", "ipv4_addr", f.inside.map(formatSubnet), "interval");
	set("set", "never", "ipv4_addr", NEVER, "interval");
	set("set", "unsure", "ipv4_addr", UNSURE, "interval");
	set("set", "alone", "ipv4_addr", alone);
	set("set", "exempts", "ipv4_addr", f.exempts.map(formatSubnet), "interval");
	set("set", "claimed_tcp", "inet_service", f.tcp.map(rangeText), "interval");
	set("set", "claimed_udp", "inet_service", f.udp.map(rangeText), "interval");

	// Who has been refused often asks less for a minute.
	for (const [name, flags] of [
		["flooders", "timeout"],
		["asking", "dynamic,timeout"],
	])
		lines.push(`\tset ${name} {`, "\t\ttype ipv4_addr", `\t\tsize ${FLOODERS}`, `\t\tflags ${flags}`, "\t\ttimeout 1m", "\t}");

	const chain = (name: string, ...rules: string[]) => lines.push(`\tchain ${name} {`, ...rules.map((rule) => `\t\t${rule}`), "\t}");
	// Filled by netlink.
	chain("queue_out");
	chain("queue_in");
	chain("identify");
	const times = [
		'udp dport 53 ct timeout set "t_dns"',
		'udp dport != 53 ct timeout set "t_udp"',
		'meta l4proto tcp ct timeout set "t_tcp"',
	];
	const inboundTimes = ['meta l4proto udp ct timeout set "t_udp"', 'meta l4proto tcp ct timeout set "t_tcp"'];
	const seldom = `limit rate ${BUSY_RATE}/second burst ${BUSY_RATE} packets`;
	// masqd knows that it begins.
	const silent = "ct event set destroy";
	chain(
		"asked_in",
		`iifname ${quoted(wan)} limit rate over ${ASKED_RATE}/second burst ${ASKED_RATE} packets return`,
		...inboundTimes,
		...["udp", "tcp"].map(
			(l4) =>
				`iifname ${quoted(wan)} ip saddr != @unsure ${l4 === "tcp" ? "tcp flags & (fin | syn | rst | ack) == syn" : ""} ` +
				`meta priority set meta l4proto . ip daddr . ${l4} dport map @reached ${seldom} accept`,
		),
		silent,
		"goto queue_in",
	);
	// What is of no connection and begins none is nobody's: the router would answer it.
	const ours = [
		...(shared === 0 ? [] : ["tcp", "udp"].map((l4) => `ip daddr ${formatAddress(shared)} ${l4} dport @claimed_${l4}`)),
		...(alone.length === 0 ? [] : ["ip daddr @alone"]),
	];
	chain(
		"ask_in",
		"type filter hook prerouting priority -105; policy accept;",
		"ct state established accept",
		// masqd's own socket hears it; the router would say that nobody does.
		...(f.pcp.length === 0 ? [] : [`udp dport ${PCP_PORT} ip daddr @router iifname { ${f.pcp.map(quoted).join(", ")} } drop`]),
		// What came by a link-layer broadcast the kernel does not forward.
		"meta pkttype != host accept",
		`iifname ${quoted(wan)} ip saddr @inside counter drop`,
		`iifname ${quoted(wan)} ip daddr @inside ip saddr != @exempts counter drop`,
		"ct state related accept",
		// What nobody is to be told about, and where masqd's own rates and errors are to hold.
		`ip saddr @never ip daddr != 255.255.255.255 iifname { ${[wan, ...f.lans].map(quoted).join(", ")} } goto asked_in`,
		"ip ttl < 2 iifname @lans ip daddr != @router ip daddr != @exempts goto asked_in",
		...ours.flatMap((to) => [`${first} ${to} goto asked_in`, `ct state invalid ${to} counter drop`]),
	);
	chain("translate_in", "type nat hook prerouting priority -101; policy accept;");
	const often = `limit rate over ${FLOOD_RATE}/second burst ${FLOOD_RATE * 2} packets`;
	chain(
		"asked_out",
		`ip saddr @flooders update @asking { ip saddr ${often} } counter drop`,
		...times,
		`udp dport != 53 ip daddr != @unsure meta priority set iif . ip saddr . udp sport map @busy ${seldom} accept`,
		silent,
		"goto queue_out",
	);
	// What is to leave with a source that is none of ours: of a known connection that is what it is translated to.
	const stray = (state: string, source: string) =>
		`${state} oifname ${quoted(wan)} ${source} != @own ip daddr != @exempts counter name leak drop`;
	chain(
		"ask_out",
		"type filter hook postrouting priority 95; policy accept;",
		...(f.clamp ? ["tcp flags & (syn | rst) == syn jump clamp"] : []),
		// RFC 6864: identifications of several hosts would meet at one address.
		`ip frag-off & 0x4000 == 0 oifname ${quoted(wan)} jump identify`,
		"ct state established accept",
		// RFC 6633.
		"ct state related icmp type source-quench counter drop",
		"ct state related accept",
		`${first} iifname @lans oifname ${quoted(wan)} ip daddr != @exempts goto asked_out`,
		`${first} iifname @lans oifname @lans ct status & dnat == dnat goto queue_out`,
		stray("ct state invalid,untracked", "ip saddr"),
		stray("ct state new ct status & confirmed == confirmed", "ct reply ip daddr"),
	);
	chain("translate_out", "type nat hook postrouting priority 99; policy accept;");
	if (f.clamp)
		chain(
			"clamp",
			`oifname ${quoted(wan)} tcp option maxseg size set rt mtu`,
			`iifname ${quoted(wan)} tcp option maxseg size set ${f.mss}`,
		);
	chain("guard", "type nat hook postrouting priority 300; policy accept;", stray(first, "ip saddr"));
	lines.push("}", "");
	return lines.join("\n");
}

/**
 * The transaction with the rules that nft cannot say. `native`: the kernel has nft's own queue expression; else
 * xtables' target stands in.
 */
export function rawRules(isNative: boolean, sequence: number): ArrayBuffer {
	const queued = (number: number) => [isNative ? queue(number) : queueTarget(number)];
	return encodeBatch(sequence, (out) => {
		for (const [chain, expressions] of [
			["queue_out", queued(QUEUE_OUT)],
			["queue_in", queued(QUEUE_IN)],
			["translate_out", steer("ext", OUTBOUND)],
			["translate_in", steer("hosts", INBOUND)],
		] as const)
			writeRule(out, NFPROTO.IPV4, NAME, chain, expressions, sequence + 1);
	});
}

/** The transaction with the rule that numbers datagrams which may be fragmented. */
export function numberingRule(sequence: number): ArrayBuffer {
	// The register's first two bytes are written.
	const low = LITTLE_ENDIAN ? [] : [shiftLeft(SCRATCH, SCRATCH, 16)];
	return encodeBatch(sequence, (out) =>
		writeRule(out, NFPROTO.IPV4, NAME, "identify", [count(0xffff, 1, SCRATCH), ...low, setHeader(4, 2, SCRATCH)], sequence + 1),
	);
}

function rangeText({ first, last }: PortRange): string {
	return first === last ? `${first}` : `${first}-${last}`;
}

/** A device name as an nft string; nft has no escapes. */
function quoted(device: string): string {
	if (!/^[^"\\*\s]{1,15}$/.test(device)) throw new Error(`queue: device name ${JSON.stringify(device)} cannot be written in nft`);
	return `"${device}"`;
}
