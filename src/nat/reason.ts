/**
 * Why a packet was dropped: one enumeration, one sentence and one remedy each, and what its sender is told. Counters
 * are kept by the number.
 */
import { FRAGMENTATION_NEEDED, NET_UNREACHABLE, PROHIBITED, TIME_EXCEEDED } from "../packet/icmp.ts";

/**
 * Answers that are not one kind of ICMP error: that which the policy has for want of room; a TCP reset to a segment
 * without session.
 */
export const BUSY = -1;
export const RESET = -2;

interface Reason {
	/** Short name, as counters and JSON show it. */
	name: string;
	/** What happened, as a sentence. */
	text: string;
	/** What the owner can do about it. */
	remedy: string;
}

/**
 * All reasons in the order of their numbers: name, sentence, remedy and, where it helps the sender, what it is told
 * (RFC 6888 REQ-11, RFC 1812 section 4.3.3.1): the kind of an ICMP error, {@link BUSY} or {@link RESET}.
 */
export const REASONS = [
	["short-packet", "The packet is shorter than an IPv4 header.", "Check the device and driver on that port."],
	["bad-version", "The packet does not say that it is IPv4.", "Check the device and driver on that port."],
	["bad-header-length", "The IPv4 header length is impossible.", "Check the device and driver on that port."],
	["bad-total-length", "The IPv4 total length does not fit the packet.", "Check the device and driver on that port."],
	["bad-header-checksum", "The IPv4 header checksum is wrong.", "Check the device, cable and driver on that port."],
	["bad-transport", "The TCP, UDP or ICMP header is impossible.", "Look for a broken or hostile sender."],
	["link-broadcast", "A link-layer broadcast carried a unicast packet.", "None needed: RFC 1812 section 5.3.4 forbids forwarding it."],
	["martian-source", "The source address cannot be that of a host.", "Correct the sender's address."],
	["martian-destination", "The destination address cannot be forwarded to.", "Correct the destination."],
	["private-destination", "The destination is a private address.", "To let it pass: option block_private '0'.", PROHIBITED],
	["spoofed-source", "The source address does not belong to the LAN it came from.", "Add the subnet to that LAN: list subnet 'A.B.C.D/N'."],
	["land", "Source and destination are the same endpoint.", "None needed: it is an attack or a broken sender."],
	["source-route", "The packet carries a source route option.", "None: source routes are not forwarded."],
	["ttl-expired", "The time to live ran out here.", "None needed: this is how traceroute works, or a routing loop.", TIME_EXCEEDED],
	["no-external-address", "The WAN port has no address at the moment.", "Bring the WAN link up.", NET_UNREACHABLE],
	[
		"address-conflict",
		"The WAN's subnet overlaps the LAN's, so packets for the two cannot be distinguished.",
		"Give the LAN another subnet.",
		NET_UNREACHABLE,
	],
	["no-route", "The router has no route to the destination.", "Add a default route on the WAN.", NET_UNREACHABLE],
	["not-through-wan", "The route to the destination does not lead through the WAN port.", "None needed if the kernel forwards it."],
	["no-next-hop", "The next hop does not answer ARP.", "Look at the WAN link and the gateway's address."],
	[
		"waiting-full",
		"Too many frames wait for neighbours that do not answer.",
		"None needed in a scan; else look at the WAN link and for hosts that are off.",
	],
	["host-unreachable", "The internal host does not answer ARP.", "Check that the host is up and dest_ip is right."],
	[
		"too-big",
		"The packet is larger than the MTU and must not be fragmented.",
		"None needed: the sender was told the MTU.",
		FRAGMENTATION_NEEDED,
	],
	["fragment-invalid", "A fragment that no honest sender makes (too small, or beyond the end).", "Look for a broken or hostile sender."],
	["fragment-overlap", "Fragments of one datagram overlap.", "Look for a broken or hostile sender."],
	[
		"fragment-timeout",
		"A datagram whose other fragments did not come in time.",
		"Look for loss on the way; lower the sender's packet size.",
	],
	["fragment-overload", "Too many incomplete datagrams are waiting.", "None needed in a flood; else lower the senders' packet size."],
	["table-full", "All sessions are in use.", "Raise option sessions, or find the host with most sessions.", BUSY],
	["host-limit", "The host has as many sessions as it may have.", "Raise its option max_sessions.", BUSY],
	["host-rate", "The host opens sessions faster than it may.", "Raise its option max_rate.", BUSY],
	["host-share", "The host has its fair share of a nearly full table.", "Raise option sessions.", BUSY],
	["ports-exhausted", "Every external port is in use, or is kept for other hosts.", "Add a range: list ports 'A-B'.", BUSY],
	["pool-exhausted", "Every external address of the pool is in use.", "Add addresses to the pool, or set option overload '1'.", BUSY],
	[
		"protocol-busy",
		"Another host, or the router itself (a tunnel), already uses this protocol with that peer.",
		"Only one of them can, because the protocol has no ports.",
		PROHIBITED,
	],
	["tcp-no-session", "A TCP segment that cannot begin a session belongs to none.", "None needed: the connection had ended.", RESET],
	["tcp-bad-reset", "A TCP reset with a sequence number outside the window.", "None needed: it is a forgery or very old."],
	["tcp-bad-checksum", "The TCP checksum of a segment that an ALG has to read is wrong.", "Check the devices on that side."],
	["alg-gap", "A segment of an FTP connection came before the one it follows.", "None needed: the sender repeats it."],
	["alg-fragment", "A fragmented segment of an FTP connection, which an ALG cannot read.", "Lower the sender's packet size."],
	["icmp-bad-checksum", "The ICMP checksum is wrong.", "Check the devices on that side."],
	["icmp-bad-quote", "The packet quoted by an ICMP error is damaged.", "Check the devices on that side."],
	["icmp-no-session", "An ICMP error about a packet of no known session.", "None needed: the session had ended."],
	[
		"icmp-untied",
		"The addresses of an ICMP error do not go with the packet that it quotes.",
		"None needed: it is a forgery, or its sender is broken.",
	],
	["icmp-unsupported", "An ICMP type that is not translated.", "None: RFC 5508 REQ-11 allows dropping it."],
	["no-mapping", "No internal host has asked for this packet.", "To let it in: config redirect with this src_dport."],
	["filtered", "The mapping exists, but not for this peer.", "To let it in: option filtering 'endpoint-independent' for the host."],
	[
		"hairpin-filtered",
		"An internal host may not reach this external endpoint from its LAN.",
		"To let it pass: option hairpin 'all', or 'same-lan' within one LAN.",
	],
	[
		"endpoint-busy",
		"A peer endpoint has reached the same internal endpoint by another forward already.",
		"Let one of the redirects lead to another dest_port.",
	],
	["not-ours", "The destination is not one of our external addresses.", "None needed."],
	["queue-full", "The send buffer of the port was full.", "None needed: the link is slower than its senders."],
	["qdisc-full", "The queue of the port's device (qdisc) was full.", "None needed: the link is slower than its senders."],
	["tun-queue", "The queue of the TUN device was full before masqd came to it.", "None needed in a burst; else raise option sessions."],
	[
		"pcp-crowded",
		"Too many PCP or NAT-PMP requests came from hosts that the router does not know.",
		"None needed in a flood: an honest host asks again; else look for a host that asks under addresses of others.",
	],
	["send-refused", "The kernel refused to send the frame.", "Look at the port's state in masqd status."],
	[
		"internal-error",
		"An exception inside masqd cost the frame's batch.",
		"Please report this with the lines of the log: it is a bug in masqd.",
	],
	[
		"banned",
		"The firewall drops what comes from this peer or goes to it.",
		"To let it pass: take the peer out of that rule or set (nft list ruleset).",
	],
	[
		"rejected",
		"The firewall rejects what goes to this peer.",
		"To let it pass: take the peer out of that rule or set (nft list ruleset).",
		PROHIBITED,
	],
	["leak", "A frame without one of our addresses reached the WAN port.", "Please report this: it is a bug in masqd."],
] as const satisfies readonly (readonly [string, string, string, number?])[];

export type ReasonName = (typeof REASONS)[number][0];

/** Number of a reason by its name: `REASON["no-mapping"]`. */
export const REASON = Object.fromEntries(REASONS.map((r, i) => [r[0], i])) as Record<ReasonName, number>;

/** What the sender is told, by reason number; 0: nothing. */
export const ANSWERS = Int32Array.from(REASONS, (row: readonly [string, string, string, number?]) => row[3] ?? 0);

/** A decision that the packet is the router's own business: no session, no drop. */
export const LEFT_TO_KERNEL = 0;

/** A decision that nothing is made of a packet: minus (reason number + 1), so that it is no record number. */
export function refusal(n: number): number {
	return -n - 1;
}

/** Reason number of a {@link refusal}. */
export function refused(n: number): number {
	return -n - 1;
}

/** The words for reason number `n`. */
export function reason(n: number): Reason {
	const r = REASONS[n];
	return { name: r[0], text: r[1], remedy: r[2] };
}
