/**
 * Where packets may come from: what an internal host may send to whom and by which LAN port (RFC 1812 sections 5.3.7
 * and 5.3.8, BCP 38), and what cannot be from outside.
 */
import { HALF_SHIFT, HOST_FRESH, HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS, R_HOST } from "../conntrack/record.ts";
import { isLinkLocal, isPrivate, isUnicast } from "../packet/address-class.ts";
import { HOST_HEADERS } from "../packet/header-tag.ts";
import { addressValue, SLOT_ETHER } from "../packet/layout.ts";
import { type Context, inNets, isBroadcast, lanOf } from "./context.ts";
import { REASON } from "./reason.ts";

/** Judges the addresses of an outbound packet that may make state: -1 or a reason. */
export function outboundFault(c: Context, internal: number, peer: number, port: number): number {
	const { nets, address, home, sole, handed } = c.lan[port];
	if (internal === peer) return REASON.land;
	if (!isUnicast(addressValue(internal))) return REASON["martian-source"];
	// Nearly always it is where nobody of another LAN port can be.
	if (((internal ^ sole.address) & sole.mask) !== 0 && lanOf(c.lan, internal, home) !== home) return REASON["spoofed-source"];
	if (isBroadcast(nets, internal) || internal === address) return REASON["martian-source"];
	const value = addressValue(peer);
	if (!isUnicast(value) || isLinkLocal(value) || isBroadcast(c.wan.nets, peer)) return REASON["martian-destination"];
	// Nearly always there is no such host; what its socket still holds of one is not to leave.
	if (handed.length > 0 && inNets(handed, internal) && c.externals.find(peer) < 0) return REASON["not-through-wan"];
	if (c.policy.blockPrivate && isPrivate(value) && c.externals.find(peer) < 0) return REASON["private-destination"];
	return -1;
}

/**
 * True if nothing from outside can honestly have this source (raw): no host's (special, or the first or last of
 * the WAN's subnet), one of ours, or a LAN's.
 */
export function isMartian({ externals, wan, lan }: Context, source: number): boolean {
	const value = addressValue(source);
	if (!isUnicast(value) || isLinkLocal(value) || isBroadcast(wan.nets, source)) return true;
	return externals.find(source) >= 0 || lan.some((l) => inNets(l.nets, source));
}

/**
 * Judges the source of an error that came by a LAN port: -1 if it is one of its hosts, or, where the kernel forwards,
 * the router itself; else a reason.
 */
export function reportFault(c: Context, source: number, port: number): number {
	const lan = c.lan[port];
	if (!isUnicast(addressValue(source)) || isBroadcast(lan.nets, source)) return REASON["martian-source"];
	if (lanOf(c.lan, source, lan.home) === lan.home) return -1;
	const own = lan.kernelForwards && (c.externals.find(source) >= 0 || c.lan.some((l) => l.address === source));
	return own ? -1 : REASON["spoofed-source"];
}

/** True if the packet in slot `s` from LAN port `port` may be of session `i`: its host is there, or has moved there. */
export function isAt(c: Context, i: number, s: number, port: number): boolean {
	const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
	const place = (c.hosts.W[host * HOST_WORDS + HOST_PLACE] >>> HOST_PORT_SHIFT) & 0xff;
	return place === c.lan[port].home || moves(c, host, place, port, s);
}

/**
 * True if a host has moved from LAN port `before` to that which its frame came by: its address has, by a change of the
 * subnets. It is there from now on.
 */
function moves(c: Context, host: number, before: number, port: number, s: number): boolean {
	const { hosts, headers, lan } = c;
	if (lanOf(lan, hosts.W[host * HOST_WORDS], before) !== lan[port].home) return false;
	learn(c, host, port, s);
	headers.changed?.(HOST_HEADERS + host);
	return true;
}

/**
 * Sees to it that frames for a host can be sent: where it is, its own frame in slot `s` tells until the kernel knows
 * better.
 */
export function learn({ hosts, headers, hops, views, lan }: Context, host: number, port: number, s: number): void {
	const { home } = lan[port];
	if (!lan[home].ethernet) return hosts.place(host, home);
	// Nearly always it is where it was.
	const known = HOST_FRESH | (home << HOST_PORT_SHIFT);
	const place = hosts.W[host * HOST_WORDS + HOST_PLACE] & (HOST_FRESH | (0xff << HOST_PORT_SHIFT));
	if (place === known && headers.leadsTo(HOST_HEADERS + host, views.H, (s + SLOT_ETHER + 6) >> 1)) return;
	hops.heard(host, home, s);
}
