/**
 * Sessions out of the kernel's entries: what masqd has decided before it was killed, or before its table was lost, is
 * all there (RFC 7857 section 4 asks that a mapping outlives the daemon). What does not fit the policy in force is not
 * made.
 */
import { FORWARDED, R_META, R_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE, ICMP_QUERY, OTHER, STRANGER, TCP_SYN_IN, TCP_SYN_OUT, UDP_NEW } from "../conntrack/states.ts";
import type { NewSession } from "../conntrack/table.ts";
import type { Admission } from "../nat/admission.ts";
import { type Context, type Forward, lanOf } from "../nat/context.ts";
import { claimPoolAddress } from "../nat/pool.ts";
import type { Revalidator } from "../nat/revalidate.ts";
import { type Entry, IPS, type Tuple } from "../netlink/conntrack.ts";
import { firstOf, hasPorts, ICMP, swap16, swap32, TCP, UDP } from "../packet/layout.ts";

/** Hop number of sessions between two inside hosts. */
const HAIRPIN = 255;
/** Any hop: the kernel routes. */
const ROUTED = 1;

/** What sessions are made with. */
export interface RebuildSurroundings {
	context: Context;
	admission: Admission;
	keeper: Pick<Revalidator, "permits" | "placeHost">;
}

/**
 * Makes the sessions of an entry that are not there: the number of the last, 0 if it is none that masqd can go on with.
 * One that `isNew` has to be admitted, as if masqd had been asked.
 */
export function rebuild(r: RebuildSurroundings, entry: Entry, isNew = false): number {
	const { original, reply, status } = entry;
	const opened = (status & IPS.SRC_NAT) !== 0;
	const entered = (status & IPS.DST_NAT) !== 0;
	const one = opened ? make(r, sideOf(original, reply.destination, reply.destinationPort, reply.sourcePort), true, isNew) : 0;
	if (!entered || (opened && one === 0)) return one;
	return make(r, sideOf(reply, original.destination, original.destinationPort, original.sourcePort), false, isNew);
}

/**
 * A session as its inside host sees it: what it sends is `own`, which leaves by the external endpoint. Of ICMP
 * `identifier` is what it leaves with.
 */
function sideOf(own: Tuple, external: number, externalPort: number, identifier: number): NewSession {
	const query = own.protocol === ICMP;
	const peerPort = query ? 0 : swap16(own.destinationPort);
	return {
		protocol: own.protocol,
		internal: swap32(own.source),
		internalPort: swap16(own.sourcePort),
		address: swap32(external),
		externalPort: swap16(query ? identifier : externalPort),
		peer: swap32(own.destination),
		peerPort,
		peerPortInternal: peerPort,
		external: 0,
		state: 0,
		host: 0,
		hop: ROUTED,
		mapped: 0,
	};
}

function make(r: RebuildSurroundings, s: NewSession, opened: boolean, isNew: boolean): number {
	const { context: c, admission, keeper } = r;
	const { table, externals, hosts, policy } = c;
	const { protocol, internal, internalPort, peer, address, externalPort } = s;
	const external = externals.find(address);
	if (external < 0 || lanOf(c.lan, internal) < 0 || (!isNew && table.count(FREE) === 0)) return 0;
	const x = externals.list[external];
	const bits = protocol === TCP || protocol === UDP || protocol === ICMP;
	const ported = bits || hasPorts(protocol);
	const admitted = isNew ? admission.admit(internal, !opened) : 0;
	if (admitted < 0) return 0;
	const leader = ported ? table.findMapping(protocol, internal, internalPort) : 0;
	const mapped = ported ? table.findExternal(protocol, address, external, externalPort) : 0;
	// One endpoint is another's mapping on neither side.
	if ((leader === 0) !== (mapped === 0) || (mapped === 0 ? isNew : !isOf(c, mapped, s))) {
		if (isNew) hosts.release(admitted);
		return 0;
	}
	const forward = external === 0 && policy.forwards.length > 0 ? forwardOf(policy.forwards, s) : undefined;
	if (leader === 0 && bits && x.shared && forward === undefined) {
		admission.endRest(protocol, internal, internalPort, external);
		if (!externals.reservePort(external, protocol, swap16(externalPort))) return 0;
	}
	const known = admitted || hosts.find(internal);
	const host = known || hosts.obtain(internal, policy.hosts.get(internal)?.flags ?? policy.filtering);
	if (host === 0) return 0;
	if (known === 0) keeper.placeHost(host);
	if (!isNew) hosts.retain(host);
	s.external = external;
	s.state = firstState(protocol, opened);
	s.host = host;
	if (externals.find(peer) >= 0) s.hop = HAIRPIN;
	s.mapped = mapped;
	const i = table.create(s, c.now16);
	if (forward !== undefined) table.T[(i << RECORD_SHIFT) + R_META] |= FORWARDED;
	if (x.pool >= 0) {
		claimPoolAddress(x, internal);
		hosts.pair(host, external);
	}
	if (isNew) {
		c.events?.created(i, false);
		return i;
	}
	if (keeper.permits(i)) return i;
	admission.end(i, "reload");
	return 0;
}

/** What a session is in before its entry says more. */
function firstState(protocol: number, opened: boolean): number {
	if (protocol === TCP) return opened ? TCP_SYN_OUT : TCP_SYN_IN;
	if (!opened) return STRANGER;
	return protocol === UDP ? UDP_NEW : protocol === ICMP ? ICMP_QUERY : OTHER;
}

/** Whether session `i` is of the internal endpoint. */
function isOf({ table: { T } }: Context, i: number, { internal, internalPort }: NewSession): boolean {
	return T[i << RECORD_SHIFT] === internal && firstOf(T[(i << RECORD_SHIFT) + R_OUT]) === internalPort;
}

function forwardOf(forwards: readonly Forward[], { protocol, internal, internalPort, externalPort }: NewSession): Forward | undefined {
	const port = swap16(externalPort);
	return forwards.find(
		(f) =>
			f.protocol === protocol &&
			f.internal === internal &&
			port >= f.first &&
			port <= f.last &&
			f.internalFirst + port - f.first === swap16(internalPort),
	);
}
