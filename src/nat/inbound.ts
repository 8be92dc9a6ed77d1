/**
 * Sessions that are opened from outside, or by an internal host over one of our addresses: filtering (RFC 4787 section
 * 5), port forwards, static NAT, and what an ALG expects. Everything is checked before state is made.
 */

import { BARRED_IN } from "../conntrack/barred.ts";
import {
	ALG_INSPECTED,
	EXTERNAL_SHIFT,
	FORWARDED,
	HALF_SHIFT,
	HOST_ADF,
	HOST_EIF,
	HOST_PLACE,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { firstOf, hasPorts, pair, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { ACK, FIN, RST, SYN } from "../packet/tcp.ts";
import type { Admission } from "./admission.ts";
import { type Context, type Forward, findForward, HAIRPIN, isConfigured, lanOf } from "./context.ts";
import type { Expectation } from "./expectations.ts";
import { FIRST_PORT } from "./ftp-control.ts";
import { isMartian } from "./origin.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { claimPoolAddress } from "./pool.ts";
import { LEFT_TO_KERNEL, REASON, refusal } from "./reason.ts";
import { otherPeerPort } from "./renamed-peer.ts";
import type { RouterFlows } from "./router-flows.ts";
import { firstInbound } from "./track.ts";

const TFTP = swap16(69);

/** Opens sessions towards the inside. */
export class Inbound {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #flows: RouterFlows;

	constructor(c: Context, admission: Admission, flows: RouterFlows) {
		this.#c = c;
		this.#admission = admission;
		this.#flows = flows;
	}

	/**
	 * Makes the session of an inbound packet, if a mapping, a forward or static NAT lets it in: its record number,
	 * {@link LEFT_TO_KERNEL} or a refusal. A hairpinned one has come from a host on LAN port `from`: every mapping of
	 * the same LAN accepts it (RFC 4787 REQ-9), those of other LANs as policy has it. A port of a configured forward is
	 * the forward's: nobody gets in there whom its source keeps out.
	 */
	open(p: PacketDescriptor, from: number): number {
		const c = this.#c;
		const { protocol, peer, peerPort, external, externalPort, hairpin, flags } = p;
		const x = c.externals.list[external];
		if (hairpin && c.policy.hairpin === "off") return refusal(REASON["hairpin-filtered"]);
		if (!hairpin && isMartian(c, peer)) return refusal(REASON["martian-source"]);
		const opens = protocol !== TCP || (flags & (SYN | ACK | RST | FIN)) === SYN;
		const ported = hasPorts(protocol);

		let internal = x.internal;
		let internalPort = externalPort;
		let forwarded = 0;
		let known = REASON["no-mapping"];
		let stranger = true;
		const leader = ported ? c.table.findExternal(protocol, x.address, external, externalPort) : 0;
		const configured = ported && external === 0 && isConfigured(c.policy, protocol, swap16(externalPort));
		if (internal === 0 && leader !== 0 && !configured && (this.#turns(leader, from) || this.#accepts(leader, peer))) {
			internal = c.table.T[leader << RECORD_SHIFT];
			internalPort = firstOf(c.table.T[(leader << RECORD_SHIFT) + R_OUT]);
			forwarded = c.table.T[(leader << RECORD_SHIFT) + R_META] & FORWARDED;
			stranger = hairpin || (this.#filtering(leader) & HOST_EIF) !== 0;
		} else if (leader !== 0) known = REASON[hairpin && !configured ? "hairpin-filtered" : "filtered"];
		const expected = internal === 0 && ported ? this.#expected(p, leader) : undefined;
		if (expected !== undefined) {
			internal = expected.internal;
			internalPort = expected.internalPort;
			stranger = false;
		}
		if (internal === 0 && external === 0 && ported) {
			const port = swap16(externalPort);
			const forward = this.#forward(protocol, port, peer, configured);
			if (forward !== undefined) {
				internal = forward.internal;
				if (c.policy.forwards.includes(forward)) forwarded = FORWARDED;
				internalPort = swap16(forward.internalFirst + port - forward.first);
			} else if (this.#isForwarded(protocol, port)) known = REASON.filtered;
			else if (leader === 0 && (c.kernelShare.hasPort(protocol, port) || !c.policy.ranges.some((r) => port >= r.first && port <= r.last)))
				return LEFT_TO_KERNEL;
		}
		if (internal === 0 || !opens) {
			if (this.#flows.claims(p)) return LEFT_TO_KERNEL;
			return refusal(internal === 0 ? known : REASON["tcp-no-session"]);
		}
		if (protocol === UDP && external === 0 && !hairpin && this.#flows.isAnswer(p)) return LEFT_TO_KERNEL;
		if (c.barred !== null && !hairpin && c.barred(peer, protocol) & BARRED_IN) return refusal(REASON.banned);
		p.peerPortInternal = peerPort;
		if (c.table.findOut(protocol, internal, peer, pair(internalPort, peerPort)) !== 0) {
			p.peerPortInternal = protocol === TCP ? otherPeerPort(c, internal, internalPort, peer) : -1;
			if (p.peerPortInternal < 0) return refusal(REASON["endpoint-busy"]);
			forwarded |= ALG_INSPECTED;
		}
		const port = lanOf(c.lan, internal);
		const hop = hairpin ? HAIRPIN : c.hops.find(peer);
		if (port < 0 || hop < 0) return refusal(REASON["no-route"]);
		const host = this.#admission.admit(internal, stranger);
		if (host < 0) return host;
		if (leader !== 0 && x.shared && c.table.findExternal(protocol, x.address, external, externalPort) === 0) {
			this.#admission.endRest(protocol, internal, internalPort, external);
			c.externals.reservePort(external, protocol, swap16(externalPort));
		}
		if (expected !== undefined) {
			if (leader === 0 && x.shared) c.externals.reservePort(external, protocol, swap16(externalPort));
			c.expectations.met(expected);
		}
		claimPoolAddress(x, internal);
		const mapped = c.table.findExternal(protocol, x.address, external, externalPort);
		if (c.hosts.counting && mapped === 0) this.#admission.begun(host, protocol);
		p.internal = internal;
		p.internalPort = internalPort;
		p.state = firstInbound(protocol);
		p.host = host;
		p.hop = hop;
		p.mapped = mapped;
		const i = c.table.create(p, c.now16);
		c.table.T[(i << RECORD_SHIFT) + R_META] |= forwarded;
		if (!c.lan[port].ethernet) c.hosts.place(host, port);
		else c.hosts.assign(host, port);
		c.events?.created(i, c.table.sibling(i) === i);
		return i;
	}

	/**
	 * True if a packet of a protocol without bitmap to this port (raw) of our own address may be for an internal
	 * host.
	 */
	knows(protocol: number, port: number): boolean {
		const c = this.#c;
		return hasPorts(protocol) && c.table.findExternal(protocol, c.externals.A[0], 0, port) !== 0;
	}

	/** What an ALG expects here from this peer, unless the endpoint has become another host's. */
	#expected({ protocol, peer, external, externalPort }: PacketDescriptor, leader: number): Expectation | undefined {
		const { expectations, externals, table } = this.#c;
		const e = expectations.find(protocol, peer, external, externalPort);
		if (e === undefined) return undefined;
		const x = externals.list[external];
		if (!x.shared && x.holder !== 0 && x.holder !== e.internal) return undefined;
		if (
			leader !== 0 &&
			(table.T[leader << RECORD_SHIFT] !== e.internal || firstOf(table.T[(leader << RECORD_SHIFT) + R_OUT]) !== e.internalPort)
		)
			return undefined;
		return e;
	}

	/**
	 * True if the host of a mapping is on LAN port `from`, whose hosts reach each other over an external address, or on
	 * any where all do.
	 */
	#turns(leader: number, from: number): boolean {
		const { policy, lan, table } = this.#c;
		return from >= 0 && (policy.hairpin === "all" || lanOf(lan, table.T[leader << RECORD_SHIFT], from) === from);
	}

	/** How the host of a mapping is filtered: flags of its record. */
	#filtering(leader: number): number {
		const { hosts, table } = this.#c;
		return hosts.W[table.T16[(leader << HALF_SHIFT) + R_HOST] * HOST_WORDS + HOST_PLACE];
	}

	/** Filtering of an existing mapping towards a new peer endpoint (RFC 4787 section 5, REQ-8). */
	#accepts(leader: number, peer: number): boolean {
		const c = this.#c;
		const flags = this.#filtering(leader);
		if (flags & HOST_EIF) return c.now >= c.strangersFrom;
		const { T } = c.table;
		const tftp =
			c.policy.algTftp &&
			(T[(leader << RECORD_SHIFT) + R_META] & 0xff) === UDP &&
			swap16(firstOf(T[(leader << RECORD_SHIFT) + R_OUT])) >= FIRST_PORT;
		const dependent = (flags & HOST_ADF) !== 0;
		if (!dependent && !tftp) return false;
		const meta = T[(leader << RECORD_SHIFT) + R_META];
		const external = (meta >> EXTERNAL_SHIFT) & 0xff;
		const address = c.externals.A[external];
		if (dependent) return c.table.findPeer(leader, peer, address) !== 0;
		// RFC 1350 section 4: a TFTP server answers from a port that it chooses for the transfer.
		return c.table.findIn(UDP, peer, address, external, pair(TFTP, secondOf(T[(leader << RECORD_SHIFT) + R_IN]))) !== 0;
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
