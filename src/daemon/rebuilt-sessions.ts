/**
 * Sessions out of the kernel's entries: what masqd has decided before it was killed, or before its table was lost, is
 * all there (RFC 7857 section 4 asks that a mapping outlives the daemon). What does not fit the policy in force is not
 * made.
 */
import { FORWARDED, R_META, R_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE, ICMP_QUERY, OTHER, STRANGER, TCP_SYN_IN, TCP_SYN_OUT, UDP_NEW } from "../conntrack/states.ts";
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

/** One session that an entry stands for, as loaded. */
interface Side {
	protocol: number;
	internal: number;
	internalPort: number;
	address: number;
	externalPort: number;
	peer: number;
	peerPort: number;
}

/** What sessions are made with. */
export interface RebuildSurroundings {
	context: Context;
	admission: Admission;
	keeper: Pick<Revalidator, "permits" | "placeHost">;
}

/**
 * Makes the sessions of an entry that are not there; false if it is none that masqd can go on with. One that `isNew`
 * has to be admitted, as if masqd had been asked.
 */
export function rebuild(r: RebuildSurroundings, entry: Entry, isNew = false): boolean {
	const { original, reply, status } = entry;
	const sides: Side[] = [];
	if ((status & IPS.SRC_NAT) !== 0) sides.push(sideOf(original, reply.destination, reply.destinationPort, reply.sourcePort));
	if ((status & IPS.DST_NAT) !== 0) sides.push(sideOf(reply, original.destination, original.destinationPort, original.sourcePort));
	return sides.length > 0 && sides.every((side, n) => make(r, side, n === 0 && (status & IPS.SRC_NAT) !== 0, isNew));
}

/**
 * A session as its inside host sees it: what it sends is `own`, which leaves by the external endpoint. Of ICMP
 * `identifier` is what it leaves with.
 */
function sideOf(own: Tuple, external: number, externalPort: number, identifier: number): Side {
	const query = own.protocol === ICMP;
	return {
		protocol: own.protocol,
		internal: swap32(own.source),
		internalPort: swap16(own.sourcePort),
		address: swap32(external),
		externalPort: swap16(query ? identifier : externalPort),
		peer: swap32(own.destination),
		peerPort: query ? 0 : swap16(own.destinationPort),
	};
}

function make(r: RebuildSurroundings, s: Side, opened: boolean, isNew: boolean): boolean {
	const { context: c, admission, keeper } = r;
	const { table, externals, hosts, policy } = c;
	const { protocol, internal, internalPort, peer, peerPort, address, externalPort } = s;
	const external = externals.find(address);
	if (external < 0 || lanOf(c.lan, internal) < 0 || (!isNew && table.count(FREE) === 0)) return false;
	const x = externals.list[external];
	const bits = protocol === TCP || protocol === UDP || protocol === ICMP;
	const ported = bits || hasPorts(protocol);
	const admitted = isNew ? admission.admit(internal, !opened) : 0;
	if (admitted < 0) return false;
	const leader = ported ? table.findMapping(protocol, internal, internalPort) : 0;
	const mapped = ported ? table.findExternal(protocol, address, external, externalPort) : 0;
	// One endpoint is another's mapping on neither side.
	if ((leader === 0) !== (mapped === 0) || (mapped === 0 ? isNew : !isOf(c, mapped, s))) {
		if (isNew) hosts.release(admitted);
		return false;
	}
	const forward = external === 0 ? forwardOf(policy.forwards, s) : undefined;
	if (leader === 0 && bits && x.shared && forward === undefined) {
		admission.endRest(protocol, internal, internalPort, external);
		if (!externals.reservePort(external, protocol, swap16(externalPort))) return false;
	}
	const known = admitted || hosts.find(internal);
	const host = known || hosts.obtain(internal, policy.hosts.get(internal)?.flags ?? policy.filtering);
	if (host === 0) return false;
	if (known === 0) keeper.placeHost(host);
	if (!isNew) hosts.retain(host);
	const i = table.create(
		{
			...s,
			external,
			peerPortInternal: peerPort,
			state: firstState(protocol, opened),
			host,
			hop: externals.find(peer) >= 0 ? HAIRPIN : ROUTED,
			mapped,
		},
		c.now16,
	);
	if (forward !== undefined) table.T[(i << RECORD_SHIFT) + R_META] |= FORWARDED;
	if (x.pool >= 0) {
		claimPoolAddress(x, internal);
		hosts.pair(host, external);
	}
	if (isNew) {
		c.events?.created(i, false);
		return true;
	}
	if (keeper.permits(i)) return true;
	admission.end(i, "reload");
	return false;
}

/** What a session is in before its entry says more. */
function firstState(protocol: number, opened: boolean): number {
	if (protocol === TCP) return opened ? TCP_SYN_OUT : TCP_SYN_IN;
	if (!opened) return STRANGER;
	return protocol === UDP ? UDP_NEW : protocol === ICMP ? ICMP_QUERY : OTHER;
}

/** Whether session `i` is of the internal endpoint. */
function isOf({ table: { T } }: Context, i: number, { internal, internalPort }: Side): boolean {
	return T[i << RECORD_SHIFT] === internal && firstOf(T[(i << RECORD_SHIFT) + R_OUT]) === internalPort;
}

function forwardOf(forwards: readonly Forward[], { protocol, internal, internalPort, externalPort }: Side): Forward | undefined {
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
