/**
 * The guard: the one nft table, `inet masqd`, that keeps the kernel off the packets that are masqd's.
 *
 * Packet sockets receive before netfilter, so what is dropped here has been seen by masqd already; it is dropped for
 * the kernel only, which would answer it (RST, ICMP), forward it untranslated or translate it a second time.
 *
 * Before conntrack and before defragmentation, at prerouting:
 *  - `lan_unicast`: from a LAN of the packet driver, unicast that is neither for the router nor for a network that the
 *    kernel routes elsewhere than by the WAN, but of hosts that the kernel has (`handed`). With the tun driver the
 *    kernel forwards these packets to masqd and must not lose them, but for those with their last hop: masqd answers
 *    them.
 *  - `claimed`: TCP and UDP from the WAN or a LAN to an external address at a port of masqd's range or of a port
 *    forward, unless it is the answer in a flow of the router's own or of a network that the kernel masquerades
 *    (`own_flows`, which the kernel learns at postrouting from what it sends). Of a datagram whose first fragment was
 *    dropped the later ones are too (`cut`); other later fragments pass.
 *  - `owned`: everything to external addresses that are masqd's alone, unless a tun-driver LAN is about to deliver it
 *    to masqd.
 *  - what a tun-driver LAN sends, and what comes out of the TUN device, is tracked by the kernel in a conntrack zone of
 *    its own, in that direction only. The kernel's entries of what went to masqd carry no NAT binding; after masqd's
 *    end they must not be found again, or the flow would leave untranslated instead of being masqueraded anew. Where a
 *    packet goes is not known yet: policy rules may lead it into a VPN, a redirect to the router itself, and what is
 *    answered there comes in the zone of everything else. An entry that the kernel has of the same flow untranslated,
 *    from before masqd's start, would be in its way (untranslated.ts). Where the kernel has no zones, what goes to
 *    masqd is not tracked at all.
 * Where the kernel forwards:
 *  - `inbound`: from the WAN with a source of a translated LAN or straight to one, exempt peers apart: nothing outside
 *    knows these addresses.
 *  - what a tun-driver LAN sends to the Internet before its way to masqd stands (`undiverted`): in the zone it would be
 *    a new flow, to which the kernel gives another port than the one that its peer knows.
 * At output, before conntrack:
 *  - `steer`: what the kernel sends to the Internet about a packet that came out of a TUN device. An ICMP error quotes
 *    the internal address, a reset has it as its source. It is marked, and a policy rule leads it to masqd
 *    (tun-routes.ts), which translates it.
 * At output, where errors that come out of the TUN device do not pass:
 *  - `refused`: the kernel's "protocol unreachable" to the WAN, and to a LAN from the WAN's address. It gets a copy of
 *    every SCTP, GRE or ESP packet for an internal host (one cannot tell those from the router's own by a port) and
 *    would refuse it for want of a socket.
 * Before and after source NAT:
 *  - Pings have identifiers where others have ports. What the kernel sends by the WAN under one of masqd's range gets
 *    another; replies under one of masqd's range pass to the kernel only where it has asked so all the same. Its raw
 *    sockets would take those of internal hosts for their own.
 * After source NAT, at postrouting:
 *  - `leak`: what would leave by the WAN with a source that is not the WAN device's. It must stay 0: masqd's own
 *    packets do not pass here, and the kernel has nothing to send under another address.
 *  - what leaves from a port that masqd claims is a flow of the kernel's: its answers are let in. Not one of a
 *    translated LAN, which the kernel has masqueraded while masqd was away, unless policy rules may lead it by the WAN
 *    past masqd: those (`lan_flows`) are forgotten at each start. `own_full` counts packets of flows that
 *    found no room: there is more of it than the kernel tracks connections.
 *  - before the firewall's source NAT, the router's own new TCP connections from such a port get another, as the
 *    kernel's NAT would do when a host of the LAN has that port to that server already: the kernel cannot know masqd's
 *    sessions. Not UDP: a tunnel's peers would learn a wrong port.
 *
 * The script makes the table anew in one transaction, so there is never a moment without a guard and what a killed
 * predecessor left is replaced; but for the flows that were learned, which are kept where the kernel allows it.
 * Addresses are told apart by `fib` expressions, which follow the kernel's addresses by themselves; where the kernel
 * has none (no kmod-nft-fib) sets of addresses stand in, and the guard has to be installed again when an address
 * changes.
 */

import type { PortRange } from "../conntrack/ports.ts";
import { type AddressRange, formatAddress, formatSubnet, mergeRanges, type Subnet, subnetRange } from "../packet/address.ts";
import { MULTICAST } from "../packet/address-class.ts";
import { TCP, UDP } from "../packet/layout.ts";
import { PCP_PORT } from "../packet/pcp-code.ts";
import { tunMark } from "./tun-routes.ts";

/** A LAN port as the guard sees it. */
export interface GuardLan {
	device: string;
	driver: "packet" | "tun";
	/** Its TUN device and its networks; unused with the packet driver. */
	tun: string;
	nets?: readonly Subnet[];
}

/** Destination ports of one protocol. */
export interface GuardForward {
	/** IP protocol number: 6 or 17. */
	proto: number;
	first: number;
	last: number;
}

/** What the ruleset is made of. */
export interface GuardFacts {
	lan: readonly GuardLan[];
	wanDevice: string;
	/** External addresses that are the WAN device's own. Empty while it has none. */
	externals: readonly number[];
	/** External addresses that are masqd's alone: static NAT and pools. */
	ownedExternals: readonly AddressRange[];
	/** masqd's port range, of TCP and of UDP. */
	portRanges: readonly PortRange[];
	/** What of it is not the router's own, by protocol; all if it is left out. */
	rangesOf?: (proto: number) => readonly PortRange[];
	forwards: readonly GuardForward[];
	/** Destinations that the kernel routes elsewhere than by the WAN: the LANs, other connected networks, VPNs. */
	elsewhere: readonly Subnet[];
	/** The LANs that are translated. */
	internal: readonly Subnet[];
	/** Sources that may leave by the WAN untranslated (a public subnet behind the router). */
	exemptSources?: readonly Subnet[];
	/** Destinations that are not translated: packets to them may leave with any source. */
	exemptDestinations?: readonly Subnet[];
	/**
	 * Hosts that policy rules may lead elsewhere. Of packet-driver LANs they are the kernel's; of the others they may
	 * leave by the WAN past masqd.
	 */
	handed?: readonly Subnet[];
	/** Networks of tun-driver LANs whose packets do not get to masqd yet. */
	undiverted?: readonly Subnet[];
	/** LAN devices on which PCP requests are answered. */
	pcp?: readonly string[];
	/** Every address of the router; used only where the kernel has no `fib` expressions. */
	ownAddresses: readonly number[];
	/** Flows of the kernel's own that are learned at most, see {@link learnedFlows}. */
	flows?: number;
}

const FLOWS_LEAST = 16_384;
const FLOWS_MOST = 1_048_576;

/**
 * How many flows are learned at most: twice as many as the kernel tracks (`max` is nf_conntrack_max as text, "" if
 * unknown), because some are remembered for longer. So the kernel refuses new connections of a network that opens too
 * many before masqd's guard has no room.
 */
export function learnedFlows(max: string): number {
	return Math.min(FLOWS_MOST, Math.max(FLOWS_LEAST, 2 * (Number.parseInt(max, 10) || 0)));
}

/** How the ruleset tells the router's own addresses: by `fib` expressions or by sets. */
export type AddressTest = "fib" | "sets";

/** How the kernel's tracking of what goes to the TUN device is kept apart from that of what it forwards itself. */
export type Separation = "zone" | "notrack";

/**
 * What is done with the flows that an earlier guard has learned: they are kept, or begun anew, or (a kernel without
 * what that needs) nothing is learned.
 */
export type Learning = "keep" | "anew" | "none";

/**
 * Whether the kernel can give its pings identifiers, and the router's TCP connections ports, that are not masqd's: it
 * has NAT.
 */
export type Identifiers = "apart" | "shared";

/** Names of the guard's counters. */
export const GUARD_COUNTERS = ["lan_unicast", "claimed_lan", "claimed_wan", "owned", "inbound", "refused", "leak", "own_full"] as const;
/** What `own_full` means, in a sentence. */
export const OWN_FULL =
	"more connections of networks that the kernel masquerades (VPN, containers) leave at masqd's ports than the guard remembers: what is new of them gets no answers; raise net.netfilter.nf_conntrack_max and restart masqd";
export type GuardCounter = (typeof GUARD_COUNTERS)[number];

/** The one system call that the guard needs: `masq:native`, or a test's stand-in. */
export type GuardIo = Pick<typeof import("masq:native"), "run">;

/** Family and name of the guard, as nft writes them. */
export const GUARD_TABLE = "inet masqd";
/** Before defragmentation (-400), so that nothing is collected that will be dropped. */
const PREROUTING_PRIORITY = -450;
/** Before the firewall's rules (0). */
const FORWARD_PRIORITY = -10;
/** Before others' source NAT (100). */
const IDENTIFIERS_PRIORITY = 95;
/** Fewer identifiers than these are not worth being kept for the kernel. */
const FEW_IDENTIFIERS = 256;
/** After source NAT (100). */
const POSTROUTING_PRIORITY = 300;
/** Ports that a connection is not moved from: a server may want to see such a one. */
const UNPRIVILEGED = 1024;
/** "MQ". */
const TUN_ZONE = 0x4d51;
const ZONED = `ct original zone set ${TUN_ZONE}`;
/**
 * Later fragments to our own address that the kernel may have of senders whose datagrams it has not been getting: its
 * reassembly memory (4 MB for 30 s) is needed for the datagrams of tun-driver LANs, which pass its defragmentation, and
 * a flood of stray fragments would fill it.
 */
const STRAYS = "64/second burst 256 packets";
/** How long a flow of the kernel's own is remembered. */
const UDP_FLOW = "200s";
/**
 * The same of a network's flow that nobody has answered, which the kernel tracks for 30 s, and for as long again; and
 * of a connection that a reset has ended.
 */
const UNANSWERED = "60s";
const RESET = "15s";
/**
 * Sets that the kernel fills from packets: name, type, elements at most, how long one lives, and how often the dead are
 * collected. A flow is peer, protocol, port here and port there; it lives somewhat longer than the kernel's conntrack
 * has UDP (180 s), and how many there are is said by the facts.
 */
const LEARNED = [
	["own_flows", "type ipv4_addr . inet_proto . inet_service . inet_service", 0, UDP_FLOW, ""],
	["lan_flows", "type ipv4_addr . inet_proto . inet_service . inet_service", 0, UDP_FLOW, ""],
	// What the last fragment has deleted makes room at the next collection only.
	["cut", "typeof ip saddr . ip protocol . ip id", 4096, "2s", "100ms"],
	["fragment_peers", "type ipv4_addr", 256, "60s", ""],
	["own_pings", "typeof ip daddr . icmp id", 1024, "60s", ""],
] as const;
/** The kernel's clock of an established connection is above this, of one that opens or closes below. */
const ESTABLISHED = "300s";
/** An established connection may be silent for as long as masqd's own (RFC 5382 REQ-5). */
const CONNECTION = "7440s";
/**
 * ICMP errors, and where in one the destination of the packet stands that it is about (bits from the ICMP header's
 * first; RFC 792).
 */
const ERRORS = "destination-unreachable, time-exceeded, parameter-problem";
const QUOTED_DESTINATION = "@th,192,32";
/** A run of nft that takes longer is ended. */
export const NFT_TIMEOUT_MS = 10_000;
/** Takes an {@link installation}'s scripts. */
export const INSTALL = ["nft", "-f", "-"];
const MULTICAST_TEXT = formatAddress(MULTICAST);

/** A set of the guard whose elements masqd names; the ranges are in order and apart. */
export interface GuardSet {
	name: string;
	type: "ipv4_addr" | "inet_service";
	ranges: readonly AddressRange[];
}

/** The sets and what is in them. */
export function guardSets(g: GuardFacts, addressTest: AddressTest): GuardSet[] {
	const mayLeave = [single(0), ...g.externals.map(single), ...(g.exemptSources ?? []).map(subnetRange)];
	const addresses = (name: string, ranges: readonly AddressRange[]) => ({ name, type: "ipv4_addr" as const, ranges: mergeRanges(ranges) });
	const ports = (name: string, proto: number) => ({ name, type: "inet_service" as const, ranges: guardedPorts(g, proto) });
	return [
		addresses("elsewhere", g.elsewhere.map(subnetRange)),
		addresses("externals", g.externals.map(single)),
		addresses("owned_externals", g.ownedExternals),
		ports("claimed_tcp", TCP),
		ports("claimed_udp", UDP),
		addresses("may_leave", mayLeave),
		addresses("exempt_destinations", (g.exemptDestinations ?? []).map(subnetRange)),
		addresses("inside", g.internal.map(subnetRange)),
		addresses("handed", (g.handed ?? []).map(subnetRange)),
		addresses("undiverted", (g.undiverted ?? []).map(subnetRange)),
		...(addressTest === "sets" ? [addresses("own", g.ownAddresses.map(single))] : []),
	];
}

/** What of the guard is not in sets, as a text that is another one when it is to be another. */
export function guardStructure(g: GuardFacts): string {
	return guardRuleset({ ...g, elsewhere: [] }).replace(/^\t\telements = .*\n/gm, "");
}

/**
 * The whole ruleset as an nft script: delete and recreate in one transaction.
 *
 * @param addressTest - "sets" for kernels without `fib` expressions.
 * @param separation - "notrack" for kernels without conntrack zones.
 * @param identifiers - "shared" for kernels without NAT.
 * @param learning - "keep" to leave the flows that were learned in place; refused if another version's sets are there.
 */
export function guardRuleset(
	g: GuardFacts,
	addressTest: AddressTest = "fib",
	separation: Separation = "zone",
	learning: Learning = "anew",
	identifiers: Identifiers = "apart",
): string {
	const packetLans = g.lan.filter((lan) => lan.driver === "packet").map((lan) => lan.device);
	const tunPorts = g.lan.filter((lan) => lan.driver === "tun");
	const tunLans = tunPorts.map((lan) => lan.device);
	const lans = [...packetLans, ...tunLans];
	const fib = addressTest === "fib";

	const lines: string[] = [];
	for (const name of GUARD_COUNTERS) lines.push(`\tcounter ${name} {`, "\t}");
	for (const { name, type, ranges } of guardSets(g, addressTest)) set(lines, name, type, ranges);
	const learns = learning !== "none";
	if (learns) {
		for (const [name, type, size, timeout, collection] of LEARNED) {
			lines.push(
				`\tset ${name} {`,
				`\t\t${type}`,
				`\t\tsize ${size || (g.flows ?? FLOWS_LEAST)}`,
				"\t\tflags dynamic,timeout",
				`\t\ttimeout ${timeout}`,
			);
			lines.push(...(collection === "" ? [] : [`\t\tgc-interval ${collection}`]), "\t}");
		}
	}
	const masqds = mergeRanges([...g.portRanges]);
	const theirs = learns && identifiers === "apart" ? widestGap(masqds) : null;
	const pinged = `icmp id { ${elementsOf(masqds).join(", ")} }`;
	const cut = "ip saddr . ip protocol . ip id";
	const answer = "ip saddr . meta l4proto . th dport . th sport";
	const unlearned = learns ? ` ${answer} != @own_flows ${answer} != @lan_flows` : "";
	if (learns) {
		lines.push("\tchain first_fragment {");
		for (const proto of ["tcp", "udp"]) lines.push(`\t\t${proto} dport @claimed_${proto}${unlearned} goto cut_first`);
		if (tunLans.length > 0) lines.push("\t\tupdate @fragment_peers { ip saddr }");
		lines.push("\t}", "\tchain cut_first {", `\t\tupdate @cut { ${cut} }`, "\t\tcounter name claimed_wan drop", "\t}");
		lines.push("\tchain cut_later {", `\t\tip frag-off & 0x2000 == 0 delete @cut { ${cut} }`, "\t\tdrop", "\t}");
		const flow = "ip daddr . meta l4proto . th sport . th dport";
		for (const [chain, into, first] of [
			["learn_lan", "lan_flows", []],
			["learn", "own_flows", ["\t\tct original ip saddr @handed goto learn_lan", "\t\tct original ip saddr @inside return"]],
		] as const) {
			lines.push(`\tchain ${chain} {`, ...first);
			lines.push(`\t\tmeta l4proto tcp ct expiration > ${ESTABLISHED} update @${into} { ${flow} timeout ${CONNECTION} } return`);
			lines.push(`\t\tct state new ct original ip saddr != @externals update @${into} { ${flow} timeout ${UNANSWERED} } return`);
			lines.push(`\t\tmeta l4proto tcp ct expiration < 11s update @${into} { ${flow} timeout ${RESET} } return`);
			lines.push(`\t\tupdate @${into} { ${flow} } return`, "\t\tcounter name own_full", "\t}");
		}
	}

	// A packet is compared with the rules of the device that it came by, and the device once.
	const chain = (name: string, ...rules: readonly string[]) =>
		lines.push(`\tchain ${name} {`, ...rules.map((rule) => `\t\t${rule}`), "\t}");
	const notForRouter = fib ? "fib daddr type unicast" : `ip daddr != @own ip daddr < ${MULTICAST_TEXT}`;
	const foreign = `ip daddr != @elsewhere ${notForRouter}`;
	// Before defragmentation: what stands where a port would is data in a later fragment, and the kernel compares it
	// all the same.
	const claimed = (counter: string, condition: string) =>
		["tcp", "udp"].map((proto) => `${proto} dport @claimed_${proto} ${condition} counter name ${counter} drop`);
	const owned = "ip daddr @owned_externals counter name owned drop";
	const fromLan = ["ip daddr @externals jump claimed_lan"];
	if (g.pcp !== undefined && g.pcp.length > 0)
		fromLan.push(`udp dport ${PCP_PORT} iifname ${names(g.pcp)} ${fib ? "fib daddr type local" : "ip daddr @own"} drop`);
	const later = "ip frag-off & 0x1fff != 0 ip daddr @externals";
	const fromWan = claimed("claimed_wan", `ip daddr @externals ip frag-off & ${learns ? "0x3fff" : "0x1fff"} == 0${unlearned}`);
	if (learns) fromWan.push("ip frag-off & 0x3fff == 0x2000 ip daddr @externals jump first_fragment", `${later} ${cut} @cut goto cut_later`);
	if (tunLans.length > 0) {
		const unknown = learns ? " ip saddr != @fragment_peers" : "";
		fromWan.push(`${later}${unknown} meta l4proto { tcp, udp } limit rate over ${STRAYS} drop`);
	}
	if (theirs !== null) {
		const reply = `ip frag-off & 0x3fff == 0 icmp type echo-reply ${pinged}`;
		fromWan.push(`ip daddr @externals ${reply} ip saddr . icmp id != @own_pings counter name claimed_wan drop`);
	}
	chain("from_wan", ...fromWan, owned);
	const ways = [`${quoted(g.wanDevice)} : goto from_wan`];
	const way = (devices: readonly string[], name: string, ...rules: readonly string[]) => {
		if (devices.length === 0) return;
		chain(name, ...rules);
		ways.push(...[...new Set(devices)].map((device) => `${quoted(device)} : goto ${name}`));
	};
	if (lans.length > 0) chain("claimed_lan", ...claimed("claimed_lan", "ip frag-off & 0x1fff == 0"));
	way(packetLans, "from_lan", `ip saddr != @handed ${foreign} counter name lan_unicast drop`, ...fromLan, owned);
	const apart = separation === "zone" ? ZONED : "notrack";
	way(tunLans, "from_tun_lan", `ip ttl < 2 ${foreign} counter name lan_unicast drop`, ...fromLan, `${foreign} ${apart}`);
	if (separation === "zone")
		way(
			tunPorts.map((lan) => lan.tun),
			"from_tun",
			owned,
			apart,
		);
	chain(
		"prerouting",
		`type filter hook prerouting priority ${PREROUTING_PRIORITY}; policy accept;`,
		`iifname vmap { ${ways.join(", ")} }`,
		owned,
	);

	// What has no entry at all is INVALID, and no comparison with its entry holds: it must not be what lets through.
	if (learns) {
		lines.push("\tchain inbound {");
		// An error has the entry of the flow that it tells of: the kernel may still have one of masqd's, which it
		// carried while masqd was away, and the host would get the error twice.
		const told = "ct reply ip saddr . ct reply protocol . ct reply proto-dst . ct reply proto-src";
		const unlearned = `${told} != @own_flows ${told} != @lan_flows`;
		for (const proto of ["tcp", "udp"])
			lines.push(
				`\t\tmeta l4proto icmp ct reply protocol ${proto} ct reply proto-dst @claimed_${proto} ct reply ip daddr @externals ${unlearned} counter name claimed_wan drop`,
			);
		lines.push("\t\tct status & (snat | dnat) != 0 return", "\t\tcounter name inbound drop", "\t}");
	}
	const forward = [];
	if (tunLans.length > 0)
		forward.push(
			`oifname ${quoted(g.wanDevice)} ip saddr @undiverted ip saddr != @handed ip daddr != @elsewhere ip daddr != @exempt_destinations counter name lan_unicast drop`,
		);
	forward.push(`iifname != ${quoted(g.wanDevice)} accept`, "ip saddr @inside counter name inbound drop");
	forward.push(`ip daddr @inside ip saddr != @exempt_destinations ${learns ? "jump inbound" : "counter name inbound drop"}`);
	if (learns) {
		// What the other end says last, or says alone.
		const answered = "ip saddr . meta l4proto . ct reply proto-dst . th sport";
		forward.push(
			`ct original ip saddr != @inside tcp flags rst ct reply proto-dst @claimed_tcp ct expiration < 11s update @own_flows { ${answered} timeout ${RESET} }`,
			`ct original ip saddr != @inside meta l4proto udp ct reply proto-dst @claimed_udp ct direction reply update @own_flows { ${answered} }`,
		);
	}
	chain("forward", `type filter hook forward priority ${FORWARD_PRIORITY}; policy accept;`, ...forward);

	const steered = tunPorts.flatMap(({ tun, nets = [] }) => nets.map((net) => ({ tun, net })));
	if (steered.length > 0) {
		lines.push("\tchain steer {", `\t\ttype route hook output priority ${PREROUTING_PRIORITY}; policy accept;`);
		const toWan = `\t\toifname ${quoted(g.wanDevice)} ip daddr != @exempt_destinations`;
		const notOwn = fib ? "fib saddr type != local" : "ip saddr != @own";
		for (const { tun, net } of steered) {
			const into = `${separation === "zone" ? ZONED : "notrack"} meta mark set ${hex(tunMark(tun))}`;
			lines.push(`${toWan} icmp type { ${ERRORS} } ${QUOTED_DESTINATION} & ${hex(net.mask)} == ${hex(net.address)} ${into}`);
			lines.push(`${toWan} ip saddr ${formatSubnet(net)} ${notOwn} ${into}`);
		}
		lines.push("\t}");
	}

	lines.push("\tchain output {", `\t\ttype filter hook output priority ${POSTROUTING_PRIORITY}; policy accept;`);
	lines.push(`\t\toifname ${quoted(g.wanDevice)} icmp type destination-unreachable icmp code 2 counter name refused drop`);
	if (lans.length > 0)
		lines.push(`\t\toifname ${names(lans)} ip saddr @externals icmp type destination-unreachable icmp code 2 counter name refused drop`);
	lines.push("\t}");
	const otherwise = `oifname != ${quoted(g.wanDevice)} accept`;
	const asks = `ip saddr @externals icmp type echo-request ${pinged}`;
	const moved = learns && identifiers === "apart" ? widestGap(guardedPorts(g, TCP)) : null;
	const others = [];
	if (theirs !== null) others.push(`${asks} masquerade to :${theirs.first}-${theirs.last}`);
	if (moved !== null)
		others.push(`ip saddr @externals tcp sport @claimed_tcp tcp sport >= ${UNPRIVILEGED} masquerade to :${moved.first}-${moved.last}`);
	if (others.length > 0)
		chain("identifiers", `type nat hook postrouting priority ${IDENTIFIERS_PRIORITY}; policy accept;`, otherwise, ...others);
	const strange = fib ? " fib saddr . oif type != local" : "";
	const leaves = [`ip saddr != @may_leave ip daddr != @exempt_destinations${strange} counter name leak drop`];
	if (learns) leaves.push(...["tcp", "udp"].map((proto) => `ip saddr @externals ${proto} sport @claimed_${proto} jump learn`));
	if (theirs !== null) leaves.push(`${asks} update @own_pings { ip daddr . icmp id }`);
	chain("postrouting", `type filter hook postrouting priority ${POSTROUTING_PRIORITY}; policy accept;`, otherwise, ...leaves);
	lines.push("}", "");
	const before = learning === "keep" ? emptied(lines) : [`delete table ${GUARD_TABLE}`];
	return [`add table ${GUARD_TABLE}`, ...before, `table ${GUARD_TABLE} {`, ...lines].join("\n");
}

/**
 * What takes everything out of a table that may be there but the flows it has learned, so that `lines` can be added to
 * it.
 */
function emptied(lines: readonly string[]): string[] {
	const before = [`flush table ${GUARD_TABLE}`];
	for (const [n, line] of lines.entries()) {
		const [, kind, name] = line.match(/^\t(set|counter) (\S+) \{$/) ?? [];
		if (name === undefined || LEARNED.some(([learned]) => learned === name)) continue;
		const of = lines.slice(n + 1, lines.indexOf("\t}", n)).filter((part) => /^\t\t(type|flags)/.test(part));
		const definition = kind === "set" ? ` { ${of.map((part) => part.trim()).join("; ")}; }` : "";
		// One that is not there cannot be deleted.
		before.push(`add ${kind} ${GUARD_TABLE} ${name}${definition}`, `delete ${kind} ${GUARD_TABLE} ${name}`);
	}
	return before;
}

/** What an installation came to. */
export interface Installed {
	/** Which address test the kernel took; after "sets" the guard follows when an address changes. */
	addressTest: AddressTest;
	/** Whether it learns. */
	learning: Learning;
}

/** What a run of nft came to: as `run` of `masq:native`. */
export interface NftResult {
	status: number;
	output: string;
}

/**
 * Installs the guard, in place of one that is there: yields scripts for nft, and wants to know of each what came of it.
 * Tries to keep what that has learned, and `fib` expressions and conntrack zones, first.
 *
 * @throws Error with nft's own words if the kernel takes none, or if nft was ended.
 */
export function* installation(g: GuardFacts): Generator<string, Installed, NftResult> {
	const separations: Separation[] = g.lan.some((lan) => lan.driver === "tun") ? ["zone", "notrack"] : ["zone"];
	let refusal = "";
	for (const learning of ["keep", "anew", "none"] as const) {
		for (const identifiers of learning === "none" ? (["shared"] as const) : (["apart", "shared"] as const)) {
			for (const addressTest of ["fib", "sets"] as const) {
				for (const separation of separations) {
					const { status, output } = yield guardRuleset(g, addressTest, separation, learning, identifiers);
					if (status === 0) return { addressTest, learning };
					// Another script would fare no better.
					if (status > 128) throw new Error(`install the guard table: nft was ended (status ${status})`);
					refusal ||= firstLine(output);
				}
			}
		}
	}
	throw new Error(`install the guard table: nft: ${refusal}`);
}

/** Does an {@link installation}, and waits for it. Throws as it does, or the native error if there is no nft. */
export function installGuard(io: GuardIo, g: GuardFacts): Installed {
	const steps = installation(g);
	let step = steps.next();
	while (!step.done) step = steps.next(nft(io, INSTALL, step.value));
	return step.value;
}

/** Whether there is a guard, a dead predecessor's. Throws the native error if there is no nft. */
export function guardPresent(io: GuardIo): boolean {
	return `\n${nft(io, ["nft", "list", "tables", "inet"], "").output}\n`.includes(`\ntable ${GUARD_TABLE}\n`);
}

/** Removes the guard; false if there was none. Throws Error with nft's own words if it refuses. */
export function removeGuard(io: GuardIo): boolean {
	const { status, output } = nft(io, INSTALL, `delete table ${GUARD_TABLE}\n`);
	if (status !== 0 && !output.includes("No such file or directory")) throw new Error(`remove the guard table: nft: ${firstLine(output)}`);
	return status === 0;
}

function nft(io: GuardIo, argv: string[], script: string): { status: number; output: string } {
	return io.run(argv, script, NFT_TIMEOUT_MS);
}

function firstLine(output: string): string {
	return output.split("\n", 1)[0] as string;
}

function hex(word: number): string {
	return `0x${(word >>> 0).toString(16)}`;
}

function single(address: number): AddressRange {
	return { first: address, last: address };
}

function set(lines: string[], name: string, type: string, ranges: readonly AddressRange[]): void {
	lines.push(`\tset ${name} {`, `\t\ttype ${type}`, "\t\tflags interval");
	const text = type === "ipv4_addr" ? formatAddress : String;
	const elements = ranges.map(({ first, last }) => (first === last ? text(first) : `${text(first)}-${text(last)}`));
	if (elements.length > 0) lines.push(`\t\telements = { ${elements.join(", ")} }`);
	lines.push("\t}");
}

/** The ports of a protocol that the guard keeps from the kernel: masqd's and those of forwards. */
export function guardedPorts(g: GuardFacts, proto: number): PortRange[] {
	return mergeRanges([...(g.rangesOf?.(proto) ?? g.portRanges), ...g.forwards.filter((forward) => forward.proto === proto)]);
}

/**
 * The widest range of numbers from 1024 on that `ranges`, in order and apart, leave free; null if there are none, or
 * none that is of use.
 */
function widestGap(ranges: readonly PortRange[]): PortRange | null {
	let gap = { first: 0, last: -1 };
	let first = 1024;
	for (const range of [...ranges, { first: 65536, last: 65536 }]) {
		if (range.first - first > gap.last - gap.first + 1) gap = { first, last: range.first - 1 };
		first = Math.max(first, range.last + 1);
	}
	return ranges.length === 0 || gap.last - gap.first < FEW_IDENTIFIERS ? null : gap;
}

function elementsOf(ranges: readonly PortRange[]): string[] {
	return ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`));
}

function names(devices: readonly string[]): string {
	return devices.length === 1 ? quoted(devices[0] as string) : `{ ${devices.map(quoted).join(", ")} }`;
}

/**
 * A device name as an nft string. The kernel allows almost any byte in one, nft no escapes in its strings: a name that
 * would end the string, or mean a pattern, is refused.
 */
function quoted(device: string): string {
	if (!/^[^"\\*\s]{1,15}$/.test(device)) throw new Error(`guard: device name ${JSON.stringify(device)} cannot be written in nft`);
	return `"${device}"`;
}
