/**
 * The decisions about a packet that belongs to no session yet: outbound (static, pool, masquerade; design.md section 4) and inbound (filtering, forwards, static).
 * Everything is checked before state is made (RFC 7857 section 6: a packet that is dropped changes nothing).
 */
import {
	EXTERNAL_SHIFT,
	FORWARDED,
	HOST_ADF,
	HOST_EIF,
	HOST_FRESH,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	TENDED,
} from "../conntrack/record.ts";
import { ICMP_QUERY, OTHER, STRANGER, TCP_SYN_IN, TCP_SYN_OUT, UDP_NEW } from "../conntrack/states.ts";
import {
	ACK,
	addressValue,
	DCCP,
	FIN,
	firstOf,
	hasPorts,
	ICMP,
	pair,
	RST,
	SCTP,
	SLOT_ETHER,
	SYN,
	secondOf,
	swap16,
	TCP,
	UDP,
	UDPLITE,
} from "../packet/layout.ts";
import { HOST_HEADERS } from "../packet/link-header.ts";
import type { Admission } from "./admission.ts";
import { FIRST_PORT } from "./alg.ts";
import {
	type Context,
	ELSEWHERE,
	type Forward,
	findForward,
	HAIRPIN,
	hasForwards,
	inNets,
	isBroadcast,
	isConfigured,
	lanOf,
	NO_ROUTE,
} from "./context.ts";
import type { Expectation } from "./expectations.ts";
import { type External, portKind } from "./externals.ts";
import { isHostAddress, isLinkLocal, isPrivate } from "./icmp-error.ts";
import { REASON } from "./reason.ts";
import { otherPeerPort } from "./renamed-peer.ts";

const TFTP = swap16(69);

/** A decision that no session is made: minus (reason number + 1). */
export function refusal(n: number): number {
	return -n - 1;
}

/** Reason number of a {@link refusal}. */
export function refused(n: number): number {
	return -n - 1;
}

/** The packet was the router's own business: no session, no drop. */
export const LEFT_TO_KERNEL = 0;
/** Refusals a second of which the kernel is asked whether they were for itself; beyond that they count as nobody's. */
const ASKED_A_SECOND = 256;
/** Seconds after an answer to a flow of the kernel's for which new mappings keep clear of such flows. */
const SHARED_SECONDS = 7440;

/** Makes sessions. Addresses and ports are as loaded; results are record numbers, {@link LEFT_TO_KERNEL} or refusals. */
export class Opening {
	readonly #c: Context;
	readonly #admission: Admission;
	/** Questions asked in second {@link #askedAt}. */
	#asked = 0;
	#askedAt = 0;
	/** Second until which the kernel is known to have flows from ports of ours. */
	#sharedUntil = 0;

	constructor(c: Context, admission: Admission) {
		this.#c = c;
		this.#admission = admission;
	}

	/**
	 * Checks addresses of an outbound packet that may make state: -1 or a reason (RFC 1812 sections 5.3.7 and 5.3.8, BCP 38).
	 */
	#outboundAddresses(inside: number, peer: number, port: number): number {
		const c = this.#c;
		const { nets, address, home } = c.lan[port];
		if (inside === peer) return REASON.land;
		if (!isHostAddress(addressValue(inside))) return REASON["martian-source"];
		if (lanOf(c.lan, inside, home) !== home) return REASON["spoofed-source"];
		if (isBroadcast(nets, inside) || inside === address) return REASON["martian-source"];
		const value = addressValue(peer);
		if (!isHostAddress(value) || isLinkLocal(value)) return REASON["martian-destination"];
		if (c.policy.blockPrivate && isPrivate(value) && c.externals.find(peer) < 0) return REASON["private-destination"];
		return -1;
	}

	/**
	 * Makes the session of an outbound packet. `insidePort` and `peerPort` as loaded (an ICMP query has its identifier and 0, a protocol without ports 0 and 0);
	 * `flags` are TCP's, 0 otherwise. `slot` is where the frame is: the host's MAC is learned from it.
	 */
	outbound(
		protocol: number,
		inside: number,
		insidePort: number,
		peer: number,
		peerPort: number,
		flags: number,
		port: number,
		slot: number,
	): number {
		const c = this.#c;
		const { table, externals } = c;
		const bad = this.#outboundAddresses(inside, peer, port);
		if (bad >= 0) return refusal(bad);
		// A pure ACK or data segment is adopted (the table may have been lost); it stays "unanswered" until the peer confirms it.
		if (protocol === TCP && (flags & SYN ? flags & (ACK | FIN | RST) : !c.adopt || (flags & (ACK | FIN | RST)) !== ACK))
			return refusal(REASON["tcp-no-session"]);
		const hop = externals.find(peer) >= 0 ? HAIRPIN : c.hops.find(peer);
		if (hop === HAIRPIN && peer === externals.A[0] && c.kernelShare.hasPort(protocol, swap16(peerPort))) return LEFT_TO_KERNEL;
		if (hop === ELSEWHERE) return refusal(REASON["not-through-wan"]);
		if (hop === NO_ROUTE) return refusal(externals.A[0] === 0 ? REASON["no-external-address"] : REASON["no-route"]);

		const ported = hasPorts(protocol) || protocol === ICMP;
		const leader = ported ? table.findMapping(protocol, inside, insidePort) : 0;
		const external = leader !== 0 ? (table.T[(leader << 4) + R_META] >> EXTERNAL_SHIFT) & 0xff : this.#choose(inside);
		if (external < 0) return external;
		const address = externals.A[external];
		if (address === 0) return refusal(REASON["no-external-address"]);
		if (!ported && (table.findIn(protocol, peer, address, external, 0) !== 0 || (external === 0 && c.routerSpeaks(protocol, peer))))
			return refusal(REASON["protocol-busy"]);

		const host = this.#admission.admit(inside);
		if (host < 0) return host;
		const x = externals.list[external];
		let externalPort = leader !== 0 ? secondOf(table.T[(leader << 4) + R_IN]) : insidePort;
		// Admission may have ended the mapping itself to make room: its port is taken again then.
		let mapped = leader !== 0 ? table.findExternal(protocol, address, external, externalPort) : 0;
		const forwarded = leader === 0 && external === 0 ? this.#forwardedPort(protocol, inside, insidePort) : -1;
		if (mapped === 0 && forwarded < 0 && x.shared && ported) {
			externalPort = this.#endRest(protocol, inside, insidePort, external) ?? externalPort;
			let taken = this.#takePort(external, protocol, swap16(externalPort));
			if (externals.scarce && portKind(protocol) >= 0) {
				if (taken >= 0) externals.releasePort(external, protocol, taken);
				if (this.#admission.admitPort(host, external, portKind(protocol)))
					taken = this.#takePort(external, protocol, taken < 0 ? swap16(externalPort) : taken);
				else taken = -1;
			}
			if (taken < 0) {
				c.hosts.release(host);
				return refusal(REASON["ports-exhausted"]);
			}
			externalPort = this.#clear(protocol, peer, peerPort, external, taken);
		} else if (mapped === 0) {
			if (forwarded >= 0) externalPort = forwarded;
			mapped = table.findExternal(protocol, address, external, externalPort);
		}
		hold(x, inside);
		c.hosts.pair(host, x.pool < 0 ? 0 : external);
		if (c.hosts.counting && mapped === 0) this.#admission.begun(host, protocol);
		const state = firstState(protocol, TCP_SYN_OUT, UDP_NEW, ICMP_QUERY, OTHER);
		const i = table.create(
			protocol,
			inside,
			insidePort,
			address,
			external,
			externalPort,
			peer,
			peerPort,
			state,
			host,
			hop,
			c.now16,
			mapped,
		);
		// What the forward's endpoint sends goes by the forward as well.
		const configured = forwarded >= 0 && isConfigured(c.policy, protocol, swap16(externalPort));
		if (configured || (leader !== 0 && table.T[(leader << 4) + R_META] & FORWARDED)) table.T[(i << 4) + R_META] |= FORWARDED;
		this.#learn(host, port, slot);
		c.events?.created(i, table.sibling(i) === i);
		return i;
	}

	/** The port (as loaded) for a session with a peer: `taken` (host order), or another if the kernel has that very flow. */
	#clear(protocol: number, peer: number, peerPort: number, external: number, taken: number): number {
		const c = this.#c;
		const port = swap16(taken);
		if (external !== 0 || c.now >= this.#sharedUntil || !c.kernelShare.hasFlow(protocol, peer, peerPort, port)) return port;
		const other = this.#takePort(external, protocol, taken);
		if (other < 0) return port;
		c.externals.releasePort(external, protocol, taken);
		return swap16(other);
	}

	/** True if a packet to our own address is the answer in a flow of the kernel's (ports and peer as loaded). */
	#isKernels(protocol: number, peer: number, peerPort: number, port: number): boolean {
		const c = this.#c;
		if (!c.kernelShare.hasFlow(protocol, peer, peerPort, port)) return false;
		this.#sharedUntil = c.now + SHARED_SECONDS;
		return true;
	}

	/** What becomes of a packet that nothing lets in: it may have been for the kernel. */
	#unwanted(reason: number, protocol: number, peer: number, peerPort: number, external: number, port: number, hairpin: boolean): number {
		const c = this.#c;
		if (external !== 0 || hairpin || (protocol !== TCP && protocol !== UDP)) return refusal(reason);
		if (c.now !== this.#askedAt) {
			this.#askedAt = c.now;
			this.#asked = 0;
		}
		if (this.#asked === ASKED_A_SECOND) return refusal(reason);
		this.#asked++;
		return this.#isKernels(protocol, peer, peerPort, port) ? LEFT_TO_KERNEL : refusal(reason);
	}

	/** The external port (as loaded) that an inside endpoint's last mapping had and that rests still: the rest is over, the port free. */
	#endRest(protocol: number, inside: number, insidePort: number, external: number): number | undefined {
		const { table } = this.#c;
		const i = table.findResting(protocol, inside, insidePort);
		if (i === 0 || ((table.T[(i << 4) + R_META] >> EXTERNAL_SHIFT) & 0xff) !== external) return undefined;
		this.#admission.end(i, "timeout");
		return secondOf(table.T[(i << 4) + R_IN]);
	}

	/**
	 * True if a host has moved from LAN port number `before` to that which the frame in slot `slot` came by: its address has, by a change of the subnets. It is
	 * there from now on.
	 */
	moves(host: number, before: number, port: number, slot: number): boolean {
		const { hosts, headers, lan } = this.#c;
		if (lanOf(lan, hosts.W[host * 4], before) !== lan[port].home) return false;
		this.#learn(host, port, slot);
		headers.changed?.(HOST_HEADERS + host);
		return true;
	}

	/** Sees to it that frames for a host can be sent: where it is, its own frame in `slot` tells until the kernel knows better. */
	#learn(host: number, port: number, slot: number): void {
		const { hosts, headers, hops, views, lan } = this.#c;
		const { home } = lan[port];
		if (!lan[home].ethernet) return hosts.place(host, home);
		// Nearly always it is where it was.
		const known = HOST_FRESH | (home << HOST_PORT_SHIFT);
		const place = hosts.W[host * 4 + HOST_PLACE] & (HOST_FRESH | (0xff << HOST_PORT_SHIFT));
		if (place === known && headers.leadsTo(HOST_HEADERS + host, views.H, (slot + SLOT_ETHER + 6) >> 1)) return;
		hops.heard(host, home, slot);
	}

	/** An external port (host order) for an inside one; of the protocols that have no bitmap the table itself knows which are taken. -1 if all are. */
	#takePort(external: number, protocol: number, port: number): number {
		const c = this.#c;
		if (protocol === TCP || protocol === UDP || protocol === ICMP) return c.externals.takePort(external, protocol, port, c.random());
		const { ranges } = c.policy;
		const address = c.externals.A[external];
		const free = (p: number) => c.table.findExternal(protocol, address, external, swap16(p)) === 0;
		if (ranges.some((r) => port >= r.first && port <= r.last) && free(port)) return port;
		// Of the same class and parity from a random start, then any.
		const start = c.random() & 0xffff;
		for (const step of [2, 1]) {
			for (const r of ranges) {
				if (step === 2 && r.last < 1024 !== port < 1024) continue;
				const size = Math.floor((r.last - r.first) / step) + 1;
				const first = step === 2 && (r.first ^ port) & 1 ? r.first + 1 : r.first;
				for (let n = 0; n < size; n++) {
					const p = first + ((start + n) % size) * step;
					if (p <= r.last && free(p)) return p;
				}
			}
		}
		return -1;
	}

	/** External port of a forward that leads to an inside endpoint, all as loaded: what the endpoint itself sends comes from there. -1 if there is none. */
	#forwardedPort(protocol: number, inside: number, insidePort: number): number {
		if (!hasForwards(this.#c)) return -1;
		const port = swap16(insidePort);
		const f = findForward(
			this.#c,
			(f) => f.protocol === protocol && f.inside === inside && port >= f.insideFirst && port - f.insideFirst <= f.last - f.first,
		);
		return f === undefined ? -1 : swap16(f.first + port - f.insideFirst);
	}

	/** True if a packet of a protocol without bitmap to this port (as loaded) of our own address may be for an inside host. */
	knows(protocol: number, port: number): boolean {
		const c = this.#c;
		return hasPorts(protocol) && c.table.findExternal(protocol, c.externals.A[0], 0, port) !== 0;
	}

	/** True if a host's new mappings have the WAN port's own address. */
	masquerades(inside: number): boolean {
		return this.#choose(inside) === 0;
	}

	/** External number for a host without mapping at that endpoint: static, then pool, then masquerade. A refusal if its pool is exhausted. */
	#choose(inside: number): number {
		const c = this.#c;
		const fixed = c.externals.ofInside(inside);
		if (fixed >= 0) return fixed;
		if (c.policy.pools.length === 0) return 0;
		for (const pool of c.policy.pools) {
			if (!inNets(pool.nets, inside)) continue;
			let free = -1;
			for (const n of pool.externals) {
				const x = c.externals.list[n];
				if (x.holder === inside) return n;
				if (free < 0 && !x.shared && x.holder === 0) free = n;
			}
			// A host keeps to the shared address while it has sessions there (RFC 4787 REQ-2: paired pooling).
			const paired = c.hosts.paired(c.hosts.find(inside));
			if (pool.overload && paired !== 0 && c.externals.list[paired].shared && pool.externals.includes(paired)) return paired;
			if (free >= 0) return free;
			return pool.overload ? pool.externals[pool.externals.length - 1] : refusal(REASON["pool-exhausted"]);
		}
		return 0;
	}

	/** True if nothing from outside can honestly have this source (as loaded): no host's, one of ours, or a LAN's (RFC 1812 section 5.3.7, BCP 38). */
	isMartian(source: number): boolean {
		const { externals, lan } = this.#c;
		const value = addressValue(source);
		return !isHostAddress(value) || isLinkLocal(value) || externals.find(source) >= 0 || lan.some((l) => inNets(l.nets, source));
	}

	/**
	 * Makes the session of an inbound packet to external address number `external`, if a mapping, a forward or static NAT lets it in. `from` is -1 for one from
	 * outside. Else an inside host on that LAN port has sent it, translated already, to one of our addresses: every mapping of the same LAN accepts it (RFC 4787 REQ-9),
	 * those of other LANs as policy has it. A port of a configured forward is the forward's: nobody gets in there whom its source keeps out.
	 */
	inbound(protocol: number, peer: number, peerPort: number, external: number, externalPort: number, flags: number, from = -1): number {
		const c = this.#c;
		const x = c.externals.list[external];
		const hairpin = from >= 0;
		if (hairpin && c.policy.hairpin === "off") return refusal(REASON["hairpin-filtered"]);
		if (!hairpin && this.isMartian(peer)) return refusal(REASON["martian-source"]);
		const opens = protocol !== TCP || (flags & (SYN | ACK | RST | FIN)) === SYN;
		const ported = hasPorts(protocol);

		let inside = x.inside;
		let insidePort = externalPort;
		let forwarded = 0;
		let known = REASON["no-mapping"];
		let stranger = true;
		const leader = ported ? c.table.findExternal(protocol, x.address, external, externalPort) : 0;
		const configured = ported && external === 0 && isConfigured(c.policy, protocol, swap16(externalPort));
		if (inside === 0 && leader !== 0 && !configured && (this.#turns(leader, from) || this.#accepts(leader, peer))) {
			inside = c.table.T[leader << 4];
			insidePort = firstOf(c.table.T[(leader << 4) + R_OUT]);
			forwarded = c.table.T[(leader << 4) + R_META] & FORWARDED;
			stranger = hairpin || (this.#filtering(leader) & HOST_EIF) !== 0;
		} else if (leader !== 0) known = REASON[hairpin && !configured ? "hairpin-filtered" : "filtered"];
		const expected = inside === 0 && ported ? this.#expected(protocol, peer, external, externalPort, leader) : undefined;
		if (expected !== undefined) {
			inside = expected.inside;
			insidePort = expected.insidePort;
			stranger = false;
		}
		if (inside === 0 && external === 0 && ported) {
			const port = swap16(externalPort);
			const forward = this.#forward(protocol, port, peer, configured);
			if (forward !== undefined) {
				inside = forward.inside;
				if (c.policy.forwards.includes(forward)) forwarded = FORWARDED;
				insidePort = swap16(forward.insideFirst + port - forward.first);
			} else if (this.#isForwarded(protocol, port)) known = REASON.filtered;
			else if (leader === 0 && (c.kernelShare.hasPort(protocol, port) || !c.policy.ranges.some((r) => port >= r.first && port <= r.last)))
				return LEFT_TO_KERNEL;
		}
		if (inside === 0 || !opens) {
			const reason = inside === 0 ? known : REASON["tcp-no-session"];
			return this.#unwanted(reason, protocol, peer, peerPort, external, externalPort, hairpin);
		}
		if (protocol === UDP && external === 0 && !hairpin && this.#isKernels(protocol, peer, peerPort, externalPort)) return LEFT_TO_KERNEL;
		let peerPortInside = peerPort;
		if (c.table.findOut(protocol, inside, peer, pair(insidePort, peerPort)) !== 0) {
			peerPortInside = protocol === TCP ? otherPeerPort(c, inside, insidePort, peer) : -1;
			if (peerPortInside < 0) return refusal(REASON["endpoint-busy"]);
			forwarded |= TENDED;
		}
		const port = lanOf(c.lan, inside);
		const hop = hairpin ? HAIRPIN : c.hops.find(peer);
		if (port < 0 || hop < 0) return refusal(REASON["no-route"]);
		const host = this.#admission.admit(inside, stranger);
		if (host < 0) return host;
		if (leader !== 0 && x.shared && c.table.findExternal(protocol, x.address, external, externalPort) === 0) {
			this.#endRest(protocol, inside, insidePort, external);
			c.externals.reservePort(external, protocol, swap16(externalPort));
		}
		if (expected !== undefined) {
			if (leader === 0 && x.shared) c.externals.reservePort(external, protocol, swap16(externalPort));
			c.expectations.met(expected);
		}
		hold(x, inside);
		const state = firstState(protocol, TCP_SYN_IN, STRANGER, STRANGER, STRANGER);
		const mapped = c.table.findExternal(protocol, x.address, external, externalPort);
		if (c.hosts.counting && mapped === 0) this.#admission.begun(host, protocol);
		const i = c.table.create(
			protocol,
			inside,
			insidePort,
			x.address,
			external,
			externalPort,
			peer,
			peerPort,
			state,
			host,
			hop,
			c.now16,
			mapped,
			peerPortInside,
		);
		c.table.T[(i << 4) + R_META] |= forwarded;
		if (!c.lan[port].ethernet) c.hosts.place(host, port);
		else c.hosts.assign(host, port);
		c.events?.created(i, c.table.sibling(i) === i);
		return i;
	}

	/** What an ALG expects here from this peer, unless the endpoint has become another host's. */
	#expected(protocol: number, peer: number, external: number, externalPort: number, leader: number): Expectation | undefined {
		const { expectations, externals, table } = this.#c;
		const e = expectations.find(protocol, peer, external, externalPort);
		if (e === undefined) return undefined;
		const x = externals.list[external];
		if (!x.shared && x.holder !== 0 && x.holder !== e.inside) return undefined;
		if (leader !== 0 && (table.T[leader << 4] !== e.inside || firstOf(table.T[(leader << 4) + R_OUT]) !== e.insidePort)) return undefined;
		return e;
	}

	/** True if the host of a mapping is on LAN port `from`, whose hosts reach each other over an external address, or on any where all do. */
	#turns(leader: number, from: number): boolean {
		const { policy, lan, table } = this.#c;
		return from >= 0 && (policy.hairpin === "all" || lanOf(lan, table.T[leader << 4], from) === from);
	}

	/** How the host of a mapping is filtered: flags of its record. */
	#filtering(leader: number): number {
		const { hosts, table } = this.#c;
		return hosts.W[table.T16[(leader << 5) + R_HOST] * 4 + HOST_PLACE];
	}

	/** Filtering of an existing mapping towards a new peer endpoint (RFC 4787 section 5, REQ-8). */
	#accepts(leader: number, peer: number): boolean {
		const c = this.#c;
		const flags = this.#filtering(leader);
		if (flags & HOST_EIF) return c.now >= c.strangersFrom;
		const { T } = c.table;
		const tftp = c.policy.algTftp && (T[(leader << 4) + R_META] & 0xff) === UDP && swap16(firstOf(T[(leader << 4) + R_OUT])) >= FIRST_PORT;
		const dependent = (flags & HOST_ADF) !== 0;
		if (!dependent && !tftp) return false;
		const meta = T[(leader << 4) + R_META];
		const external = (meta >> EXTERNAL_SHIFT) & 0xff;
		const address = c.externals.A[external];
		if (dependent) return c.table.findPeer(leader, peer, address) !== 0;
		// RFC 1350 section 4: a TFTP server answers from a port that it chooses for the transfer.
		return c.table.findIn(UDP, peer, address, external, pair(TFTP, secondOf(T[(leader << 4) + R_IN]))) !== 0;
	}

	/** True if a forward for some source has this port: the kernel is kept off it then. */
	#isForwarded(protocol: number, port: number): boolean {
		return findForward(this.#c, (f) => f.protocol === protocol && port >= f.first && port <= f.last) !== undefined;
	}

	/** The forward that lets a peer in; at a port that is `configured` no host's request does. */
	#forward(protocol: number, port: number, peer: number, configured: boolean): Forward | undefined {
		const fits = (f: Forward) =>
			f.protocol === protocol &&
			port >= f.first &&
			port <= f.last &&
			(f.source === null || ((peer ^ f.source.address) & f.source.mask) === 0);
		return configured ? this.#c.policy.forwards.find(fits) : findForward(this.#c, fits);
	}
}

/** State of a new session: `opening` of protocols with connections, `datagrams` of those with ports but without, `query` of ICMP, `other` of the rest. */
function firstState(protocol: number, opening: number, datagrams: number, query: number, other: number): number {
	switch (protocol) {
		case TCP:
		case SCTP:
		case DCCP:
			return opening;
		case UDP:
		case UDPLITE:
			return datagrams;
		case ICMP:
			return query;
		default:
			return other;
	}
}

/** Counts one more session of the host that has a pool address alone. */
export function hold(x: External, inside: number): void {
	if (x.shared || x.pool < 0) return;
	x.holder = inside;
	x.sessions++;
}

/** Reason number if the TCP or UDP header of a plain packet in slot `s` can not be right, else -1. `l4` is its first halfword, `room` its bytes. */
export function transportFault(H: Uint16Array, protocol: number, l4: number, room: number): number {
	if (protocol === UDP) {
		const stated = swap16(H[l4 + 2]);
		return room < 8 || stated < 8 || stated > room ? REASON["bad-transport"] : -1;
	}
	if (protocol === UDPLITE || protocol === DCCP || protocol === SCTP)
		return room < (protocol === SCTP ? 12 : 8) || H[l4] === 0 || H[l4 + 1] === 0 ? REASON["bad-transport"] : -1;
	if (protocol !== TCP) return -1;
	const word = swap16(H[l4 + 6]);
	const flags = word & 0x3f;
	const header = (word >> 12) * 4;
	if (room < 20 || header < 20 || header > room || H[l4] === 0 || H[l4 + 1] === 0) return REASON["bad-transport"];
	// No flags, SYN with FIN, or FIN without ACK: no TCP sends these.
	if ((flags & (SYN | RST | ACK | FIN)) === 0 || (flags & (SYN | FIN)) === (SYN | FIN) || (flags & (FIN | ACK | RST)) === FIN)
		return REASON["bad-transport"];
	return -1;
}
