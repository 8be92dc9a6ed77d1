/**
 * Where packets may come from: by which LAN port a host's (RFC 1812 section 5.3.8, BCP 38), and what cannot be from
 * outside. What an internal host may send to whom is judged where its sessions begin (outbound.ts).
 */
import { HALF_SHIFT, HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS, R_HOST } from "../conntrack/record.ts";
import { isBroadcast, isLinkLocal, isUnicast } from "../packet/address-class.ts";
import { HOST_HEADERS } from "../packet/header-tag.ts";
import { addressValue } from "../packet/layout.ts";
import { type Context, inNets, lanOf } from "./context.ts";
import { learn } from "./outbound.ts";
import { REASON } from "./reason.ts";

/**
 * True if nothing from outside can honestly have this source (raw): no host's (special, or the first or last of
 * the WAN's subnet), one of ours, or a LAN's.
 */
export function isMartian({ externals, wan, lan }: Context, source: number): boolean {
	const value = addressValue(source);
	if (!isUnicast(value) || isLinkLocal(value) || isBroadcast(wan.nets, source) || externals.find(source) >= 0) return true;
	for (let n = 0; n < lan.length; n++) if (inNets(lan[n].nets, source)) return true;
	return false;
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
