/**
 * What is amiss around masqd, in words: looked for when somebody asks for the status.
 */

import { OWN_FULL } from "../kernel/guard.ts";
import { firewallWarnings, type NftView } from "../kernel/nft-view.ts";
import { formatAddress } from "../packet/address.ts";
import { isShared, isUnreachableFromOutside } from "../packet/address-class.ts";
import { addressValue } from "../packet/layout.ts";
import type { DaemonView } from "./daemon-view.ts";

/** Sentences about the WAN's address: another NAT is in front of this one. `address` is in host order. */
export function addressWarnings(address: number): string[] {
	if (address === 0) return [];
	const text = formatAddress(address);
	if (isShared(address))
		return [
			`behind a carrier's NAT: the WAN's address ${text} is in 100.64.0.0/10; nothing outside can reach port forwards, ask the provider for a public address`,
		];
	if (isUnreachableFromOutside(address))
		return [
			`double NAT: the WAN's address ${text} is private; forward ports on the router in front too, or make it a bridge or this host its DMZ`,
		];
	return [];
}

/** Sentences about a WAN port that nothing can leave by. */
function wanWarnings({ wan, kernel, conflict }: DaemonView): string[] {
	const link = kernel.linkByName(wan.name);
	if (link === undefined) return [`the wan device ${wan.name} does not exist: waiting for it`];
	if (!link.up) return [`the wan device ${wan.name} is down: waiting for it to come up`];
	return wan.link.address === 0 && conflict === "" ? [`the wan device ${wan.name} has no address: waiting for one`] : [];
}

/** All warnings that hold now. */
export function* warnings(daemon: DaemonView, nft: NftView): Generator<undefined, string[]> {
	const found = [...wanWarnings(daemon), ...daemon.deviceWarnings(), ...addressWarnings(addressValue(daemon.wan.link.address))];
	if (daemon.conflict !== "") found.push(`${daemon.conflict}: nothing is translated`);
	found.push(...daemon.foreignRouting());
	for (const { step, count, last, internal } of daemon.barrier.failures())
		if (internal) found.push(`internal error in ${step}, ${count} in all, the last: ${last}; please report this with the lines of the log`);
	if (daemon.log.lost > 0) found.push(`${daemon.log.lost} lines of the log were lost: whoever should read them does not`);
	const taken = [...new Set(daemon.ownPorts.waiting.map((s) => s.port))];
	if (taken.length > 0)
		found.push(
			`the router itself listens on port ${taken.slice(0, 5).join(", ")}${taken.length > 5 ? " ..." : ""} in masqd's range: masqd yields it when the sessions and forwards that have it end; list ports can leave it out`,
		);
	if (daemon.ownPorts.excess > 0)
		found.push(
			`the router itself has sockets at more ports of masqd's range than can be left to it: ${daemon.ownPorts.excess} get nothing from outside; narrow list ports`,
		);
	yield;
	if (nft.guard === null)
		found.push(
			`the nft table ${daemon.carrier?.table ?? "inet masqd"} is missing: nothing keeps the kernel from forwarding untranslated packets; restart masqd`,
		);
	if (nft.guard !== null && nft.guard.own_full > 0) found.push(`${OWN_FULL} (${nft.guard.own_full} packets so far)`);
	// firewall4's is as it should be.
	const masquerades = nft.masquerades.find((place) => !place.startsWith("fw4 "));
	if (masquerades !== undefined && daemon.carrier === null)
		found.push(
			`the kernel masquerades too (nft ${masquerades}): it takes over when masqd ends, and translates what passes by masqd until then`,
		);
	if (nft.firewall4 && !nft.firewallKnowsUs && daemon.lan.some((p) => p.kind === "tun"))
		found.push(
			"firewall4 does not know masqd's TUN devices and refuses what the LAN sends: service masqd reload tells it; the WAN must be in a zone of /etc/config/firewall",
		);
	return found.concat(firewallWarnings(nft, daemon.lan));
}
