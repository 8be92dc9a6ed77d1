/**
 * Sessions that the inside opens: static NAT, pool or masquerade, the port kept where it can be (RFC 4787 REQ-1 to
 * REQ-3). Everything is checked before state is made (RFC 7857 section 6: a packet that is dropped changes nothing).
 */

import { EXTERNAL_SHIFT, FORWARDED, R_IN, R_META, RECORD_SHIFT } from "../conntrack/record.ts";
import { hasPorts, ICMP, secondOf, swap16, TCP, UDP } from "../packet/layout.ts";
import { ACK, FIN, RST, SYN } from "../packet/tcp.ts";
import type { Admission } from "./admission.ts";
import { type Context, ELSEWHERE, findForward, HAIRPIN, hasForwards, isConfigured, NO_ROUTE } from "./context.ts";
import { portKind } from "./externals.ts";
import { learn, outboundFault } from "./origin.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { chooseExternal, claimPoolAddress } from "./pool.ts";
import { LEFT_TO_KERNEL, REASON, refusal } from "./reason.ts";
import type { RouterFlows } from "./router-flows.ts";
import { firstOutbound } from "./track.ts";

/** Opens sessions from inside. */
export class Outbound {
	readonly #c: Context;
	readonly #admission: Admission;
	readonly #flows: RouterFlows;

	constructor(c: Context, admission: Admission, flows: RouterFlows) {
		this.#c = c;
		this.#admission = admission;
		this.#flows = flows;
	}

	/**
	 * Makes the session of an outbound packet: its record number, {@link LEFT_TO_KERNEL} or a refusal. The host's MAC
	 * is learned from the frame.
	 */
	open(p: PacketDescriptor): number {
		const c = this.#c;
		const { table, externals } = c;
		const { protocol, internal, internalPort, peer, flags } = p;
		const bad = outboundFault(c, internal, peer, p.port);
		if (bad >= 0) return refusal(bad);
		// A pure ACK or data segment is adopted (the table may have been lost); it stays "unanswered" until the peer
		// confirms it.
		if (protocol === TCP && (flags & SYN ? flags & (ACK | FIN | RST) : !c.adopt || (flags & (ACK | FIN | RST)) !== ACK))
			return refusal(REASON["tcp-no-session"]);
		const hop = externals.find(peer) >= 0 ? HAIRPIN : c.hops.find(peer);
		if (hop === HAIRPIN && peer === externals.A[0] && c.kernelShare.hasPort(protocol, swap16(p.peerPort))) return LEFT_TO_KERNEL;
		if (hop === ELSEWHERE) return refusal(REASON["not-through-wan"]);
		if (hop === NO_ROUTE) return refusal(externals.A[0] === 0 ? REASON["no-external-address"] : REASON["no-route"]);

		const ported = protocol === UDP || protocol === TCP || protocol === ICMP || hasPorts(protocol);
		const leader = ported ? table.findMapping(protocol, internal, internalPort) : 0;
		const external = leader !== 0 ? (table.T[(leader << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff : chooseExternal(c, internal);
		if (external < 0) return external;
		const address = externals.A[external];
		if (address === 0) return refusal(REASON["no-external-address"]);
		if (!ported && (table.findIn(protocol, peer, address, external, 0) !== 0 || (external === 0 && c.routerSpeaks(protocol, peer))))
			return refusal(REASON["protocol-busy"]);

		const host = this.#admission.admit(internal);
		if (host < 0) return host;
		const x = externals.list[external];
		let externalPort = leader !== 0 ? secondOf(table.T[(leader << RECORD_SHIFT) + R_IN]) : internalPort;
		// Admission may have ended the mapping itself to make room: its port is taken again then.
		let mapped = leader !== 0 ? table.findExternal(protocol, address, external, externalPort) : 0;
		const forwarded = leader === 0 && external === 0 && hasForwards(c) ? this.#forwardedPort(p) : -1;
		if (mapped === 0 && forwarded < 0 && x.shared && ported) {
			externalPort = this.#admission.endRest(protocol, internal, internalPort, external) ?? externalPort;
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
			externalPort = swap16(taken);
			if (external === 0 && this.#flows.has(p, externalPort)) externalPort = this.#another(external, protocol, taken);
		} else if (mapped === 0) {
			if (forwarded >= 0) externalPort = forwarded;
			mapped = table.findExternal(protocol, address, external, externalPort);
		}
		claimPoolAddress(x, internal);
		c.hosts.pair(host, x.pool < 0 ? 0 : external);
		if (c.hosts.counting && mapped === 0) this.#admission.begun(host, protocol);
		p.address = address;
		p.external = external;
		p.externalPort = externalPort;
		p.state = firstOutbound(protocol);
		p.host = host;
		p.hop = hop;
		p.mapped = mapped;
		const i = table.create(p, c.now16);
		// What the forward's endpoint sends goes by the forward as well.
		const configured = forwarded >= 0 && isConfigured(c.policy, protocol, swap16(externalPort));
		if (configured || (leader !== 0 && table.T[(leader << RECORD_SHIFT) + R_META] & FORWARDED))
			table.T[(i << RECORD_SHIFT) + R_META] |= FORWARDED;
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
