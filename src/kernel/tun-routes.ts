/**
 * Policy routing for the tun driver: what makes the kernel hand LAN packets to the TUN device.
 *
 * One rule a LAN device and one table:
 *
 *     P    iif LAN lookup T        the last before that of the main table: those of others come first
 *     T    default dev TUN
 *     T    throw SUBNET            one for each subnet that does not lead through the WAN: on to the next rule, as ever
 *
 * (`lookup main suppress_prefixlength 0` before T would let packets to hosts of the WAN's own subnet, and to any other
 * network with a route of its own through the WAN, pass by masqd.)
 *
 * The rules are made last and removed first, so the LAN's packets turn to the TUN device only when it can take them.
 * When masqd dies the kernel removes the device and with it the route; the rules then find table T empty and do no
 * harm. What the rules of others lead elsewhere, into a VPN or nowhere, never comes to masqd; a rule that is put behind
 * ours later has ours moved behind it. They are known as ours by their protocol number and the next start removes them
 * ({@link removeLeftovers}).
 *
 * What the kernel itself sends to the Internet about a packet that came out of the TUN device (an ICMP error, a reset)
 * has or quotes an internal address. The guard marks it ({@link tunMark}), and one more rule leads it to masqd, which
 * translates it like what hosts send:
 *
 *     Q    iif lo fwmark M lookup T
 *
 * The TUN device has no address. Packets come out of it with the sources of Internet hosts, and on a hairpin with the
 * router's own external address, so reverse path filtering is turned off on it and its own addresses are accepted.
 */

import { RTN, type RtnetlinkError, type RuleMessage, TABLE } from "../netlink/route.ts";
import type { Subnet } from "../packet/address.ts";
import { type KernelMirror, MASQD_PROTOCOL, type PolicyRoute, type PolicyRule } from "./mirror.ts";

/** The system calls needed besides those of the view: `masq:native`, or a test's stand-in. */
export type SysctlIo = Pick<typeof import("masq:native"), "readFile" | "writeFile">;

/** What {@link TunRoutes.install} sets up. */
export interface TunRoutesFacts {
	/** LAN device names. */
	lans: readonly string[];
	/** Destinations that stay the kernel's. */
	elsewhere: readonly Subnet[];
	/** The TUN device: its name, index, and the MTU (bytes) and transmit queue length (packets) to give it. */
	tun: { name: string; ifindex: number; mtu: number; queueLength: number };
}

/** Names of TUN devices begin with it; the number of the LAN among those with the tun driver follows. */
export const TUN_NAME = "masq";
const FIRST_TABLE = 7777;
const FIRST_PRIORITY = 100;
/** Before the rule of the main table, where the kernel makes it. */
const LAST_PRIORITY = 32765;
const STRICT = "1";

/** Mark of what the router itself sends and a TUN device is to take: "MQ" and the device's number. */
export function tunMark(tun: string): number {
	return 0x4d510000 + Number(tun.match(/\d*$/)?.[0]);
}

export class TunRoutes {
	/** The routing table in use. */
	readonly table: number;
	/** Priority of the LANs' rules at first. */
	readonly priority: number;
	/** What the administrator should know, each a sentence with its remedy. */
	readonly warnings: readonly string[];

	readonly #view: KernelMirror;
	readonly #io: SysctlIo;
	readonly #tun: TunRoutesFacts["tun"];
	readonly #rules: PolicyRule[] = [];
	#thrown = new Map<string, Subnet>();
	readonly #restore: { path: string; value: string }[] = [];

	private constructor(
		view: KernelMirror,
		io: SysctlIo,
		tun: TunRoutesFacts["tun"],
		table: number,
		priority: number,
		warnings: readonly string[],
	) {
		this.#view = view;
		this.#io = io;
		this.#tun = tun;
		this.table = table;
		this.priority = priority;
		this.warnings = warnings;
	}

	/**
	 * Sets the TUN device up and routes the LANs to it. What was done is undone before an
	 * error is passed on.
	 *
	 * @throws RtnetlinkError for a refused request; Error if no table is free; the native error of a sysctl.
	 */
	static install(view: KernelMirror, io: SysctlIo, facts: TunRoutesFacts): TunRoutes {
		const table = freeTable(view);
		const routes = new TunRoutes(view, io, facts.tun, table, lastPriority(view.rules), reversePathWarnings(io));
		try {
			routes.#setUp(facts);
		} catch (error) {
			routes.remove();
			throw error;
		}
		return routes;
	}

	#setUp({ lans, elsewhere, tun }: TunRoutesFacts): void {
		const device = `/proc/sys/net/ipv4/conf/${tun.name}`;
		this.#io.writeFile(`${device}/rp_filter`, "0", 0o644);
		this.#io.writeFile(`${device}/accept_local`, "1", 0o644);
		this.#io.writeFile(`${device}/forwarding`, "1", 0o644);
		try {
			this.#io.writeFile(`/proc/sys/net/ipv6/conf/${tun.name}/disable_ipv6`, "1", 0o644);
		} catch {
			// A kernel without IPv6 sends none into the device.
		}
		for (const lan of lans) this.#forward(lan);
		this.#view.setLinkUp(tun.ifindex, tun.mtu, tun.queueLength);
		this.update(elsewhere);
		this.#view.addRoute({ table: this.table, ifindex: tun.ifindex });
		for (const iif of lans) this.#addRule({ priority: this.priority, iif, table: this.table });
		this.#addRule({ priority: firstPriority(this.#view.rules), iif: "lo", mark: tunMark(tun.name), table: this.table });
	}

	/** Whether the TUN device is still the one that was set up. */
	get alive(): boolean {
		return this.#view.linkByName(this.#tun.name)?.index === this.#tun.ifindex;
	}

	/**
	 * Puts back what others have taken away: the device's being up, the route that went with that, a rule; and moves
	 * the rules behind those of others. Throws RtnetlinkError.
	 */
	renew(): void {
		const link = this.#view.links.get(this.#tun.ifindex);
		if (link !== undefined && !link.up) this.#view.setLinkUp(link.index, link.mtu, link.queueLength);
		this.#view.addRoute({ table: this.table, ifindex: this.#tun.ifindex });
		const { rules } = this.#view;
		for (const rule of this.#rules) {
			const priority = rule.iif === "lo" ? firstPriority(rules) : lastPriority(rules);
			if (!this.#overtaken(rule)) this.#put(rule);
			else {
				// There is a moment without, in which the kernel's own masquerade has the LAN, only behind one of the
				// same priority.
				const before = { ...rule };
				rule.priority = priority;
				if (priority === before.priority) gone(() => this.#view.delRule(before));
				this.#put(rule);
				if (priority !== before.priority) gone(() => this.#view.delRule(before));
			}
		}
	}

	#put(rule: PolicyRule): void {
		try {
			this.#view.addRule(rule);
		} catch (error) {
			if ((error as RtnetlinkError).code !== "EEXIST") throw error;
		}
	}

	/**
	 * Whether a rule of others stands between one of ours and that of the main table, or before that for what the
	 * router sends.
	 */
	#overtaken({ priority, iif }: PolicyRule): boolean {
		const { rules } = this.#view;
		const ours = rules.findIndex((rule) => rule.protocol === MASQD_PROTOCOL && rule.priority === priority && rule.iif === iif);
		const others = (some: readonly RuleMessage[]) => some.some((rule) => rule.protocol !== MASQD_PROTOCOL && rule.table !== TABLE.LOCAL);
		if (iif === "lo") return others(rules.slice(0, Math.max(0, ours)));
		const main = rules.findIndex(isMain);
		return ours >= 0 && (main < ours || others(rules.slice(ours, main)));
	}

	/**
	 * Changes which destinations stay the kernel's; additions come first, so that nothing of them is ever taken.
	 * Returns what has changed.
	 */
	update(elsewhere: readonly Subnet[]): Subnet[] {
		const before = this.#thrown;
		const wanted = new Map(elsewhere.map((subnet) => [`${subnet.address}/${subnet.prefix}`, subnet]));
		const changed: Subnet[] = [];
		for (const [key, subnet] of wanted) {
			if (before.has(key)) continue;
			this.#view.addRoute({ table: this.table, destination: subnet.address, prefix: subnet.prefix, type: RTN.THROW });
			changed.push(subnet);
		}
		for (const [key, subnet] of before) {
			if (wanted.has(key)) continue;
			gone(() => this.#view.delRoute({ table: this.table, destination: subnet.address, prefix: subnet.prefix, type: RTN.THROW }));
			changed.push(subnet);
		}
		this.#thrown = wanted;
		return changed;
	}

	#forward(lan: string): void {
		const path = `/proc/sys/net/ipv4/conf/${lan}/forwarding`;
		const value = this.#io.readFile(path).trim();
		if (value === "1") return;
		this.#io.writeFile(path, "1", 0o644);
		this.#restore.push({ path, value });
	}

	#addRule(rule: PolicyRule): void {
		this.#view.addRule(rule);
		this.#rules.push(rule);
	}

	/**
	 * Removes rules and route and restores the sysctls of the LAN devices; those of the TUN device go with it. Never
	 * throws: what is gone already (a device, a rule) needs no removal.
	 */
	remove(): void {
		for (const rule of this.#rules.splice(0).reverse()) ignoring(() => this.#view.delRule(rule));
		ignoring(() => removeOurs(this.#view, this.table));
		for (const { path, value } of this.#restore.splice(0)) ignoring(() => this.#io.writeFile(path, value, 0o644));
	}
}

/**
 * Removes every policy rule and every route that carries masqd's protocol number: what a predecessor left. Returns how
 * many there were.
 */
export function removeLeftovers(view: KernelMirror): { rules: number; routes: number } {
	return removeOurs(view, 0);
}

/** The same for one table, 0: all. */
function removeOurs(view: KernelMirror, only: number): { rules: number; routes: number } {
	const removed = { rules: 0, routes: 0 };
	for (const { protocol, priority, iif, table, suppressPrefix } of view.listRules()) {
		if (protocol !== MASQD_PROTOCOL || (only !== 0 && table !== only)) continue;
		const rule: PolicyRule = { priority, iif, table };
		if (suppressPrefix >= 0) rule.suppressPrefix = suppressPrefix;
		gone(() => view.delRule(rule));
		removed.rules++;
	}
	for (const { protocol, table, destination, prefix, ifindex, metric, routeType } of view.listRoutes()) {
		if (protocol !== MASQD_PROTOCOL || (only !== 0 && table !== only)) continue;
		const route: PolicyRoute = { table, destination, prefix, metric, type: routeType };
		if (ifindex !== 0 && routeType === RTN.UNICAST) route.ifindex = ifindex;
		gone(() => view.delRoute(route));
		removed.routes++;
	}
	return removed;
}

function freeTable(view: KernelMirror): number {
	const taken = new Set<number>();
	for (const route of view.listRoutes()) taken.add(route.table);
	for (const rule of view.listRules()) taken.add(rule.table);
	for (let table = FIRST_TABLE; table < FIRST_TABLE + 1000; table++) if (!taken.has(table)) return table;
	throw new Error(`tun routes: routing tables ${FIRST_TABLE} and the thousand after it are all in use`);
}

/** A priority before those of others. */
function firstPriority(rules: readonly RuleMessage[]): number {
	const first = rules.find((rule) => rule.protocol !== MASQD_PROTOCOL && rule.table !== TABLE.LOCAL)?.priority ?? LAST_PRIORITY;
	return Math.max(0, Math.min(FIRST_PRIORITY, first - 1));
}

/** The rule by which everything is looked up in the main table. */
function isMain({
	protocol,
	table,
	source,
	sourcePrefix,
	destinationPrefix,
	narrow,
	inverted,
	iif,
	oif,
	users,
	suppressPrefix,
}: RuleMessage): boolean {
	if (protocol === MASQD_PROTOCOL || table !== TABLE.MAIN || suppressPrefix >= 0) return false;
	return source === 0 && sourcePrefix + destinationPrefix === 0 && !narrow && !inverted && iif + oif === "" && !users;
}

/** The last priority before that of the main table. */
function lastPriority(rules: readonly RuleMessage[]): number {
	return (rules.find(isMain)?.priority ?? LAST_PRIORITY + 1) - 1;
}

function reversePathWarnings(io: SysctlIo): string[] {
	if (io.readFile("/proc/sys/net/ipv4/conf/all/rp_filter").trim() !== STRICT) return [];
	return [
		"net.ipv4.conf.all.rp_filter is 1: strict reverse path filtering overrides the setting of the TUN device and drops every " +
			"answer from the Internet. Set net.ipv4.conf.all.rp_filter=0 (or 2) and the value wanted on each other device.",
	];
}

/** Runs a deletion; that there is nothing to delete any more is no error. */
function gone(deletion: () => void): void {
	try {
		deletion();
	} catch (error) {
		const { code } = error as RtnetlinkError;
		if (code !== "ENOENT" && code !== "ESRCH" && code !== "ENODEV") throw error;
	}
}

function ignoring(step: () => void): void {
	try {
		step();
	} catch {
		// The device, and with it the route or the sysctl, is gone.
	}
}
