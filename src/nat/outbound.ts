/**
 * Sessions that the inside opens: static NAT, pool or masquerade, the port kept where it can be (RFC 4787 REQ-1 to
 * REQ-3). Everything is checked before state is made (RFC 7857 section 6: a packet that is dropped changes nothing).
 */

import { BARRED_ALOUD, BARRED_OUT } from "../conntrack/barred.ts";
import {
	EXTERNAL_SHIFT,
	FORWARDED,
	HOST_FRESH,
	HOST_HEARD,
	HOST_OPENED,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_REACHABLE,
	HOST_SHIFT,
	R_ACK_IN,
	R_ACK_OUT,
	R_IN,
	R_META,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { QUARANTINED, TCP_SYN_OUT, UDP_NEW } from "../conntrack/states.ts";
import { isBroadcast, isPrivate } from "../packet/address-class.ts";
import { HOST_HEADERS } from "../packet/header-tag.ts";
import { IP_DESTINATION, IP_SOURCE } from "../packet/ipv4.ts";
import { addressValue, hasPorts, ICMP, SLOT_ETHER, SLOT_IP, secondOf, swap16, swap32, TCP, UDP } from "../packet/layout.ts";
import { clampMss, MSS_HEADERS, mayAnnounceMore } from "../packet/mss.ts";
import { ACK, FIN, RST, SYN, TCP_ACK_W, TCP_SEQUENCE_W } from "../packet/tcp.ts";
import { isBadTransport } from "../packet/transport.ts";
import type { Admission } from "./admission.ts";
import { type Context, ELSEWHERE, findForward, HAIRPIN, inNets, isConfigured, lanOf, NO_ROUTE } from "./context.ts";
import { portKind } from "./externals.ts";
import { FTP_CONTROL } from "./ftp-control.ts";
import type { IcmpSender } from "./icmp-error.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { chooseExternal, claimPoolAddress } from "./pool.ts";
import { LEFT_TO_KERNEL, REASON, refusal, refused } from "./reason.ts";
import { refuse } from "./refuse.ts";
import type { RouterFlows } from "./router-flows.ts";
import { firstOutbound, type Track } from "./track.ts";

/**
 * Judges the addresses of an outbound packet that may make state, as RFC 1812 section 5.3.7 has it: -1 or a reason. The
 * first octets tell most, and are the same in any byte order.
 */
function outboundFault(c: Context, p: PacketDescriptor): number {
	const { internal, peer, port } = p;
	const { nets, address, home, sole, handed } = c.lan[port];
	const { B } = c.views;
	const ip = p.slot + SLOT_IP;
	if (internal === peer) return REASON.land;
	let net = B[ip + IP_SOURCE];
	if (net === 0 || net === 127 || net >= 224) return REASON["martian-source"];
	// Nearly always it is where nobody of another LAN port can be.
	if (((internal ^ sole.address) & sole.mask) !== 0 && lanOf(c.lan, internal, home) !== home) return REASON["spoofed-source"];
	if (internal === address || isBroadcast(nets, internal)) return REASON["martian-source"];
	net = B[ip + IP_DESTINATION];
	if (net === 0 || net === 127 || net >= 224 || (net === 169 && B[ip + (IP_DESTINATION + 1)] === 254) || isBroadcast(c.wan.nets, peer))
		return REASON["martian-destination"];
	// Nearly always there is no such host; what its socket still holds of one is not to leave.
	if (handed.length > 0 && inNets(handed, internal) && c.externals.find(peer) < 0) return REASON["not-through-wan"];
	if (c.policy.blockPrivate && isPrivate(addressValue(peer)) && c.externals.find(peer) < 0) return REASON["private-destination"];
	return -1;
}

/**
 * Sees to it that frames for a host can be sent: where it is, its own frame in slot `s` tells until the kernel knows
 * better. Nearly always it is where it was.
 */
export function learn({ hosts, headers, hops, views, lan }: Context, host: number, port: number, s: number): void {
	const { home } = lan[port];
	const known = HOST_REACHABLE | HOST_FRESH | (home << HOST_PORT_SHIFT);
	const place = hosts.W[(host << HOST_SHIFT) + HOST_PLACE] & (HOST_REACHABLE | HOST_FRESH | HOST_HEARD | (0xff << HOST_PORT_SHIFT));
	if (lan[home].ethernet) {
		if ((place & ~HOST_HEARD) !== known || !headers.leadsTo(HOST_HEADERS + host, views.H, (s + SLOT_ETHER + 6) >> 1))
			hops.heard(host, home, s);
	} else if (place !== known) hosts.place(host, home);
}

/** Opens sessions from inside. */
export class Outbound {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #flows: RouterFlows;
	readonly #errors: IcmpSender;
	readonly #track: Track;
	/** The packet in hand, the slow path's own. */
	readonly #packet: PacketDescriptor;

	constructor(c: Context, admission: Admission, flows: RouterFlows, errors: IcmpSender, track: Track, packet: PacketDescriptor) {
		this.#c = c;
		this.#admission = admission;
		this.#flows = flows;
		this.#errors = errors;
		this.#track = track;
		this.#packet = packet;
	}

	/**
	 * First packet of a TCP or UDP session, without IP options: its record, in the state in which the packet leaves it,
	 * or 0 if the packet was dealt with. `s` is a slot's byte offset, `length` bytes of IPv4, `port` a LAN port number.
	 */
	first(s: number, length: number, port: number): number {
		const p = this.#packet.readPlain(s, length, port);
		if (this.#admission.full(p.internal)) return this.refuse(p, REASON["table-full"]);
		if (isBadTransport(this.#c.views.H, p.protocol, p.l4, p.room, p.flags)) return p.drop(REASON["bad-transport"]);
		const i = this.begin(p);
		if (i !== 0 && p.protocol === TCP) this.#firstSegment(p, i);
		return i;
	}

	/** What {@link Track.tcpOutbound} makes of the first segment of a session that has just been made. */
	#firstSegment(p: PacketDescriptor, i: number): void {
		const { views, table, hops } = this.#c;
		const { P, B } = views;
		const w = p.l4 >> 1;
		const e = i << RECORD_SHIFT;
		if (p.flags & SYN) {
			table.T[e + R_ACK_IN] = swap32(swap32(P[w + TCP_SEQUENCE_W]) + 1);
			if (mayAnnounceMore(B, w << 2, hops.least - MSS_HEADERS))
				clampMss(views, p.slot, p.l4, p.room, (p.hop === HAIRPIN ? this.#c.wan.mtu : hops.mtuTo(p.peer)) - MSS_HEADERS);
			if (p.peerPort === FTP_CONTROL) this.#track.openedFtp(i, true);
		} else table.T[e + R_ACK_OUT] = P[w + TCP_ACK_W];
		if (table.hooks !== null) table.hooks.changed(i);
	}

	/** As {@link open}; 0 if the packet was refused, and its sender told, or left to the kernel. */
	begin(p: PacketDescriptor): number {
		const i = this.open(p);
		if (i > 0) return i;
		if (i !== LEFT_TO_KERNEL) return this.refuse(p, refused(i));
		this.#c.leftToKernel += p.frames;
		return 0;
	}

	/** Drops a packet and tells its sender. */
	refuse(p: PacketDescriptor, reason: number): 0 {
		return refuse(this.#c, this.#errors, p, reason, p.frames);
	}

	/**
	 * Makes the session of an outbound packet: its record number, {@link LEFT_TO_KERNEL} or a refusal. The host's MAC
	 * is learned from the frame.
	 */
	open(p: PacketDescriptor): number {
		const c = this.#c;
		const { table, externals, hosts } = c;
		const { T } = table;
		const { protocol, internal, internalPort, peer, flags } = p;
		const bad = outboundFault(c, p);
		if (bad >= 0) return refusal(bad);
		// A pure ACK or data segment is adopted (the table may have been lost); it stays "unanswered" until the peer
		// confirms it.
		if (protocol === TCP && (flags & SYN ? flags & (ACK | FIN | RST) : !c.adopt || (flags & (ACK | FIN | RST)) !== ACK))
			return refusal(REASON["tcp-no-session"]);
		const hop = externals.find(peer) >= 0 ? HAIRPIN : c.hops.find(peer);
		if (hop === HAIRPIN && peer === externals.A[0] && c.kernelShare.hasPort(protocol, swap16(p.peerPort))) return LEFT_TO_KERNEL;
		if (hop === ELSEWHERE) return refusal(REASON["not-through-wan"]);
		if (hop === NO_ROUTE) return refusal(externals.A[0] === 0 ? REASON["no-external-address"] : REASON["no-route"]);

		if (c.barred !== null && hop !== HAIRPIN) {
			const bits = c.barred(peer, protocol);
			if (bits & BARRED_OUT) return refusal(REASON[bits & BARRED_ALOUD ? "rejected" : "banned"]);
		}

		const ported = protocol === UDP || protocol === TCP || protocol === ICMP || hasPorts(protocol);
		const leader = ported ? table.findMapping(protocol, internal, internalPort) : 0;
		let external = 0;
		if (leader !== 0) external = (T[(leader << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff;
		else if (externals.list.length > 1 || c.policy.pools.length > 0) external = chooseExternal(c, internal);
		if (external < 0) return external;
		const address = externals.A[external];
		if (address === 0) return refusal(REASON["no-external-address"]);
		if (!ported && (table.findIn(protocol, peer, address, external, 0) !== 0 || (external === 0 && c.routerSpeaks(protocol, peer))))
			return refusal(REASON["protocol-busy"]);

		const host = this.#admission.admit(internal);
		if (host < 0) return host;
		const x = externals.list[external];
		let externalPort = leader !== 0 ? secondOf(T[(leader << RECORD_SHIFT) + R_IN]) : internalPort;
		// Admission may have ended the mapping itself to make room: its port is taken again then.
		let mapped = leader !== 0 ? table.findExternal(protocol, address, external, externalPort) : 0;
		const forwards = leader === 0 && external === 0 && (c.policy.forwards.length > 0 || c.requested.length > 0);
		const forwarded = forwards ? this.#forwardedPort(p) : -1;
		if (mapped === 0 && forwarded < 0 && x.shared && ported) {
			if (table.count(QUARANTINED) !== 0)
				externalPort = this.#admission.endRest(protocol, internal, internalPort, external) ?? externalPort;
			let taken = this.#takePort(external, protocol, swap16(externalPort));
			if (externals.scarce && portKind(protocol) >= 0) {
				if (taken >= 0) externals.releasePort(external, protocol, taken);
				if (this.#admission.admitPort(host, external, portKind(protocol)))
					taken = this.#takePort(external, protocol, taken < 0 ? swap16(externalPort) : taken);
				else taken = -1;
			}
			if (taken < 0) {
				hosts.release(host);
				return refusal(REASON["ports-exhausted"]);
			}
			externalPort = swap16(taken);
			if (external === 0 && c.now < this.#flows.until && this.#flows.has(p, externalPort))
				externalPort = this.#another(external, protocol, taken);
		} else if (mapped === 0) {
			if (forwarded >= 0) externalPort = forwarded;
			mapped = table.findExternal(protocol, address, external, externalPort);
		}
		if (x.pool >= 0) claimPoolAddress(x, internal);
		const paired = x.pool < 0 ? 0 : external;
		if (hosts.W[(host << HOST_SHIFT) + HOST_OPENED] >>> 24 !== paired) hosts.pair(host, paired);
		if (hosts.counting && mapped === 0) this.#admission.begun(host, protocol);
		p.address = address;
		p.external = external;
		p.externalPort = externalPort;
		p.state = protocol === UDP ? UDP_NEW : protocol === TCP ? TCP_SYN_OUT : firstOutbound(protocol);
		p.host = host;
		p.hop = hop;
		p.mapped = mapped;
		const i = table.create(p, c.now16);
		// What the forward's endpoint sends goes by the forward as well.
		const configured = forwarded >= 0 && isConfigured(c.policy, protocol, swap16(externalPort));
		if (configured || (leader !== 0 && T[(leader << RECORD_SHIFT) + R_META] & FORWARDED)) T[(i << RECORD_SHIFT) + R_META] |= FORWARDED;
		learn(c, host, p.port, p.slot);
		c.events?.created(i, table.sibling(i) === i);
		return i;
	}

	/**
	 * A port (raw) in place of `taken` (host order), with which the router has that very flow; it if there is no
	 * other.
	 */
	#another(external: number, protocol: number, taken: number): number {
		const other = this.#takePort(external, protocol, taken);
		if (other < 0) return swap16(taken);
		this.#c.externals.releasePort(external, protocol, taken);
		return swap16(other);
	}

	/**
	 * An external port (host order) for an internal one; of the protocols that have no bitmap the table itself knows
	 * which are taken. -1 if all are.
	 */
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

	/**
	 * External port of a forward that leads to a packet's internal endpoint, raw: what the endpoint itself sends
	 * comes from there. -1 if there is none.
	 */
	#forwardedPort({ protocol, internal, internalPort }: PacketDescriptor): number {
		const port = swap16(internalPort);
		const f = findForward(
			this.#c,
			(f) => f.protocol === protocol && f.internal === internal && port >= f.internalFirst && port - f.internalFirst <= f.last - f.first,
		);
		return f === undefined ? -1 : swap16(f.first + port - f.internalFirst);
	}
}
