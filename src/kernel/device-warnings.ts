/**
 * What is amiss with the devices that the configuration names, in sentences: nothing of this is an error, because it
 * may be put right while masqd runs, but as long as it holds masqd translates nothing there, or not all that the owner
 * expects.
 */

import { ARPHRD } from "../netlink/route.ts";
import { formatAddress, type Subnet } from "../packet/address.ts";
import type { KernelMirror } from "./mirror.ts";

/** A device of the configuration. */
export interface ConfiguredDevice {
	role: "wan" | "lan";
	device: string;
	/** LAN: its own `list subnet`, empty if it takes those of the device's addresses. */
	subnets: readonly Subnet[];
	/** LAN: the driver in force. */
	driver: "packet" | "tun" | "kernel" | "";
}

/** The sentences that hold now; `filtersBridges`: br_netfilter shows bridged frames to the firewall's hooks. */
export function deviceWarnings(kernel: KernelMirror, devices: readonly ConfiguredDevice[], filtersBridges: boolean): string[] {
	const found: string[] = [];
	for (const { role, device, subnets, driver } of devices) {
		const link = kernel.linkByName(device);
		if (link === undefined) continue;
		const master = kernel.links.get(link.master);
		const own = kernel.addresses(link.index);
		if (master !== undefined) {
			found.push(`${role} device '${device}' is a port of ${master.name}, which gets its packets: use option device '${master.name}'`);
			continue;
		}
		if (role === "wan") continue;
		if (own.length === 0 && subnets.length === 0)
			found.push(`lan device '${device}' has no IPv4 address, so nothing of it is translated: give it one, or the section a list subnet`);
		if (filtersBridges && [...kernel.links.values()].some((port) => port.master === link.index))
			found.push(
				driver === "packet"
					? `net.bridge.bridge-nf-call-iptables is 1: nothing would be forwarded from the bridge ${device}; set it to 0, or use option driver 'tun'`
					: `net.bridge.bridge-nf-call-iptables is 1: on the bridge ${device} hairpinning and the first hop of traceroute do not work; set it to 0`,
			);
		const other = kernel.ownAddresses().find((address) => {
			if (own.some((a) => a.address === address) || !own.some((a) => within(address, a.address, a.prefix))) return false;
			return !devices.some((d) => has(kernel, d.device, address));
		});
		const holder = other === undefined ? undefined : [...kernel.links.values()].find((l) => has(kernel, l.name, other));
		if (other !== undefined && holder !== undefined)
			found.push(
				`${formatAddress(other)}, an address of the subnet of lan device '${device}', is on ${holder.name}: what hosts send there passes masqd by; add a lan section with option device '${holder.name}'`,
			);
	}
	return found;
}

/**
 * What it costs that `auto` stands back for others' filters (`filters`, in words) on the WAN: by PPP a router's
 * processor is the limit then. None where there are none, or by another kind of device.
 *
 * @param type ARPHRD of the WAN device.
 */
export function shaperWarnings(wan: string, type: number | undefined, filters: string): string[] {
	if (type !== ARPHRD.PPP || filters === "") return [];
	return [
		`${filters}: option offload 'auto' stands back for that, so every packet of ${wan} passes user space, where PPPoE has a quarter of the kernel's rate; shape the way out only, or set option offload 'on', which goes past it`,
	];
}

/**
 * Whether br_netfilter shows bridged IPv4 frames to the hooks of inet and ip tables, before the bridge's own sockets
 * have them.
 */
export function filtersBridges(io: Pick<typeof import("masq:native"), "readFile">): boolean {
	try {
		return io.readFile("/proc/sys/net/bridge/bridge-nf-call-iptables").trim() !== "0";
	} catch {
		return false;
	}
}

function within(address: number, net: number, prefix: number): boolean {
	return prefix > 0 && (address ^ net) >>> (32 - prefix) === 0;
}

function has(kernel: KernelMirror, device: string, address: number): boolean {
	const link = kernel.linkByName(device);
	return link !== undefined && kernel.addresses(link.index).some((a) => a.address === address);
}
