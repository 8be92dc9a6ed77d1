/**
 * What is masqd's and what stays the kernel's: one value, computed from the plan and from what the kernel says. Every
 * follower goes by it, and so does `why`, so none of them can see the router otherwise than the others do.
 *
 * Addresses are host-order values here; a device that does not exist has index 0.
 */
import type { Plan } from "../config/plan.ts";
import type { PortRange } from "../conntrack/ports.ts";
import { type LedLan, ledDestinations, ledHosts } from "../kernel/foreign-routing.ts";
import type { OwnPorts } from "../kernel/local-ports.ts";
import type { KernelMirror } from "../kernel/mirror.ts";
import { TUN_NAME } from "../kernel/tun-routes.ts";
import { type AddressRange, formatSubnet, type Subnet, subnetOf, subnetsOverlap } from "../packet/address.ts";
import { isPrivate } from "../packet/address-class.ts";
import { hasPorts, swap32, TCP, UDP } from "../packet/layout.ts";
import type { ClaimedPorts, LanFilterFacts, WanFilterFacts } from "../port/filter.ts";
import { forwardsOf, wantedExternals } from "./policy.ts";

const ARPHRD_ETHER = 1;
/**
 * More destinations of the kernel's own than a socket filter holds are told apart behind it, and counted as
 * "not-through-wan".
 */
const FILTER_ROUTES = 500;

/** What of the kernel's tables the topology is made of. */
export type KernelFacts = Pick<
	KernelMirror,
	"linkByName" | "addresses" | "ownAddresses" | "subnetsNotVia" | "rules" | "policyVersion" | "routes"
>;

/** A device as it is now; one that does not exist has index 0 and type -1. */
export interface Device {
	name: string;
	index: number;
	/** ARPHRD, and whether that is Ethernet. */
	type: number;
	ethernet: boolean;
	/** Null without Ethernet. */
	mac: Uint8Array | null;
	mtu: number;
	up: boolean;
	addresses: readonly number[];
	/** The subnets on the link: none of an address that has a peer instead. */
	nets: readonly Subnet[];
}

/** A device of a LAN and one way in which packets come from it, as the plan has it. */
export interface Place {
	name: string;
	/** A tap is the packet socket beside a TUN port. */
	kind: "packet" | "tun" | "tap" | "kernel";
	/** Name of the TUN device, "" for other kinds. */
	tun: string;
	/** Number of the place that its hosts are reached by: its own but for a tap. */
	home: number;
	/** Its hosts may ask for forwards themselves. */
	pcp: boolean;
	/** The configuration's own subnets, empty for those of the device's addresses. */
	subnets: readonly Subnet[];
}

/** The same as it is now. */
export interface LanPlace extends Place {
	device: Device;
	/** Frames from it begin with an Ethernet header; packets from a TUN device have none. */
	framed: boolean;
	/** The networks that are translated. */
	nets: readonly Subnet[];
	/**
	 * The same, or those it had last if its device has lost its addresses, as when it is made anew: its hosts are known
	 * by them meanwhile.
	 */
	known: readonly Subnet[];
}

export interface Topology {
	wan: Device;
	/** The WAN's address, 0 while it has none that can be used. */
	address: number;
	/** The WAN's subnet overlaps a LAN's, in words; "" if not. */
	conflict: string;
	lan: readonly LanPlace[];
	/** External addresses that are the WAN device's own, shared with the kernel; and those that are masqd's alone. */
	externals: readonly number[];
	owned: readonly AddressRange[];
	forwards: readonly ClaimedPorts[];
	/**
	 * masqd's port range; what of it is not the router's own, TCP and UDP; and what with the forwards the socket
	 * filters take.
	 */
	ports: PortRange[];
	guarded: { readonly tcp: readonly PortRange[]; readonly udp: readonly PortRange[] };
	claimed: readonly ClaimedPorts[];
	/** Hosts that policy rules of others may lead past masqd; another number when these say another thing. */
	handed: readonly Subnet[];
	policyVersion: number;
	/**
	 * What the kernel routes elsewhere than by the WAN, or by it from another address of the WAN's (`apart`), and
	 * destinations that are the kernel's by configuration.
	 */
	apart: readonly Subnet[];
	routed: readonly Subnet[];
	exempts: readonly Subnet[];
	/** All addresses of the router. */
	own: readonly number[];
}

/** The places of a plan: its LANs, and beside each TUN port a tap. */
export function placesOf(plan: Plan): Place[] {
	let tuns = 0;
	const place = (l: Plan["lan"][number], kind: Place["kind"], home: number): Place => {
		const tun = kind === "tun" ? `${TUN_NAME}${tuns++}` : "";
		return { name: l.device, kind, tun, home, pcp: l.pcp, subnets: l.subnets };
	};
	const places = plan.lan.map((l, home) => place(l, l.driver, home));
	// What hosts send to our own address the kernel would not route to the TUN device (hairpinning), and what has its
	// last hop it would not forward (and answer by its own rates, whoever the source): a packet socket hears both.
	for (const [home, l] of plan.lan.entries()) if (l.driver === "tun") places.push(place(l, "tap", home));
	return places;
}

/**
 * The topology of a plan on the router as the kernel shows it; `own` knows the ports of the router's own services,
 * `before` is the topology until now.
 */
export function topologyOf(plan: Plan, kernel: KernelFacts, own: Pick<OwnPorts, "rangesOf">, before: Topology | null = null): Topology {
	const device = (name: string): Device => {
		const link = kernel.linkByName(name);
		const index = link?.index ?? 0;
		const type = link?.type ?? -1;
		const ethernet = type === ARPHRD_ETHER;
		const held = kernel.addresses(index);
		const addresses = held.map(({ address }) => address);
		const nets = held.filter(({ address, peer }) => address === peer).map(({ address, prefix }) => subnetOf(address, prefix));
		const mac = (ethernet && link?.mac) || null;
		return { name, index, type, ethernet, mac, mtu: link?.mtu ?? 1500, up: link?.up ?? false, addresses, nets };
	};
	const wan = device(plan.wan.device);
	const lan = placesOf(plan).map((place): LanPlace => {
		const at = device(place.name);
		const addressed = kernel.addresses(at.index).map(({ address, prefix }) => subnetOf(address, prefix));
		const nets = place.subnets.length > 0 ? place.subnets : addressed;
		const last = before?.lan.find((p) => p.name === place.name)?.known ?? [];
		return { ...place, device: at, framed: at.ethernet && place.kind !== "tun", nets, known: nets.length > 0 ? nets : last };
	});
	const conflict = conflictOf(kernel, wan, lan);
	const address = conflict === "" ? (wan.addresses[0] ?? 0) : 0;
	const apart = apartOf(kernel, wan.index);
	const forwards = forwardsOf(plan).map(({ protocol, first, last }) => ({ proto: protocol, first, last }));
	return {
		wan,
		address,
		conflict,
		lan,
		externals: address === 0 ? [] : [address],
		owned: wantedExternals(plan, 0)
			.slice(1)
			.map((x) => ({ first: swap32(x.address) >>> 0, last: swap32(x.address) >>> 0 })),
		forwards,
		...claims(plan.ports, forwards, own),
		policyVersion: kernel.policyVersion,
		handed: ledHosts(kernel.rules, ledLans(lan)),
		apart,
		routed: [...kernel.subnetsNotVia(wan.index), ...ledDestinations(kernel.rules), ...apart],
		exempts: plan.exempts.map((e) => e.dest),
		own: kernel.ownAddresses(),
	};
}

/** The same, after the router's own services have taken or given back ports. */
export function withPorts(t: Topology, own: Pick<OwnPorts, "rangesOf">): Topology {
	return { ...t, ...claims(t.ports, t.forwards, own) };
}

function claims(
	ports: PortRange[],
	forwards: readonly ClaimedPorts[],
	own: Pick<OwnPorts, "rangesOf">,
): Pick<Topology, "ports" | "guarded" | "claimed"> {
	const settled = [TCP, UDP].flatMap((proto) => own.rangesOf(proto, ports, true).map((r) => ({ proto, ...r })));
	return {
		ports,
		guarded: { tcp: own.rangesOf(TCP, ports), udp: own.rangesOf(UDP, ports) },
		claimed: [...settled, ...forwards],
	};
}

/**
 * A WAN whose subnet overlaps a LAN's counts as one without address: whom a packet is for could not be told (RFC 4787
 * REQ-7).
 */
function conflictOf(kernel: KernelFacts, wan: Device, lan: readonly LanPlace[]): string {
	let conflict = "";
	for (const { address, prefix } of kernel.addresses(wan.index)) {
		const external = subnetOf(address, prefix);
		for (const { name, nets } of lan) {
			const net = nets.find((n) => subnetsOverlap(external, n));
			if (net !== undefined) conflict = `the WAN's subnet ${formatSubnet(external)} overlaps ${formatSubnet(net)} of ${name}`;
		}
	}
	return conflict;
}

/**
 * The subnets by which hosts are known to be masqd's; none if that cannot be said: at a start (`starting`) with
 * sessions of a predecessor, while a LAN has no addresses yet.
 */
export function knownNets({ lan }: Topology, starting: boolean): Subnet[] {
	return starting && lan.some((place) => place.known.length === 0) ? [] : lan.flatMap((place) => place.known);
}

/**
 * What is reached from another address of the WAN device than its first: private subnets, as a modem's, and what routes
 * lead to by them. Whoever is there does not know the way to the first one; the kernel's masquerade takes the other.
 */
function apartOf(kernel: KernelFacts, wan: number): Subnet[] {
	const [first, ...others] = kernel.addresses(wan).filter(({ address, peer }) => address === peer);
	const own = first === undefined ? null : subnetOf(first.address, first.prefix);
	const nets = others
		.filter(({ address, prefix }) => prefix < 32 && isPrivate(address))
		.map(({ address, prefix }) => subnetOf(address, prefix))
		.filter((net) => own !== null && !subnetsOverlap(net, own));
	if (nets.length === 0) return nets;
	const by = (gateway: number) => gateway !== 0 && nets.some((net) => ((gateway ^ net.address) & net.mask) === 0);
	const routes = kernel.routes().filter((route) => route.ifindex === wan && route.prefix > 0 && by(route.gateway));
	return [...nets, ...routes.map((route) => subnetOf(route.destination, route.prefix))];
}

/** The LANs as the kernel's policy rules meet them. */
export function ledLans(lan: readonly LanPlace[]): LedLan[] {
	return lan.map(({ name, kind, nets }) => ({ name, kind, subnets: nets }));
}

/** Destinations that stay the kernel's. */
export function elsewhere(t: Topology): Subnet[] {
	return [...t.routed, ...t.exempts];
}

/** What the socket filter of a LAN place is made of. */
export function lanFilterFacts(t: Topology, place: LanPlace): LanFilterFacts {
	return {
		ethernet: place.framed,
		ownAddresses: t.own,
		elsewhere: t.routed.length <= FILTER_ROUTES ? elsewhere(t) : t.exempts,
		handed: place.kind === "packet" ? t.handed : [],
		externals: t.externals,
		claimed: t.claimed,
		expiringOnly: place.kind === "tap",
	};
}

/** What the WAN's is made of. */
export function wanFilterFacts(t: Topology): WanFilterFacts {
	return { ethernet: t.wan.ethernet, externals: t.externals, owned: t.owned, claimed: t.claimed };
}

/**
 * Why packets from a LAN to a destination never come to masqd, in words; null if they do: what {@link lanFilterFacts}
 * leaves to the kernel.
 *
 * @param isOwn the port is one of the router's own services
 */
export function passesBy(t: Topology, protocol: number, destination: number, port: number, isOwn: boolean): string | null {
	if (t.externals.includes(destination)) {
		// Hairpinning: what may be for a mapping.
		if (hasPorts(protocol) && protocol !== TCP && protocol !== UDP) return null;
		if (!isOwn && t.claimed.some((c) => c.proto === protocol && port >= c.first && port <= c.last)) return null;
		return "an address of the router itself too, and this is none of masqd's";
	}
	if (t.own.includes(destination)) return "an address of the router itself";
	const within = (s: Subnet) => ((destination ^ s.address) & s.mask) === 0;
	if (t.exempts.some(within)) return "a destination of config exempt";
	if (t.apart.some(within)) return `reached from another address of ${t.wan.name}`;
	return t.routed.some(within) ? `not reached through ${t.wan.name}` : null;
}
