/**
 * The firewall's own port forwards beside masqd: those to hosts of masqd's LANs are taken over where masqd carries
 * their packets, because what such a host answers comes to masqd; the ports of all others are the router's, as those of
 * its services are.
 */
import * as native from "masq:native";
import type { Plan, RedirectPlan } from "../config/plan.ts";
import type { NftForward } from "../kernel/nft-forwards.ts";
import { firewallWarnings, NftView } from "../kernel/nft-view.ts";
import type { OwnSocket } from "../kernel/socket-diag.ts";
import { TCP, UDP } from "../packet/layout.ts";
import type { Log } from "./log.ts";
import { NFT } from "./policy.ts";
import type { Topology } from "./topology.ts";

/** Ports of one forward, and forwards that are taken over, at most. */
const PORTS_MOST = 256;
const TAKEN_MOST = 128;

/** Of the topology, what it is read against. */
export interface Surroundings extends Pick<Topology, "own"> {
	wan: { readonly name: string; readonly index: number };
	lan: readonly Pick<Topology["lan"][number], "kind" | "nets">[];
}

/** Who follows the rules against peers. */
interface Follows<T> {
	read(any: boolean, t: T): void;
	warnings(): string[];
}

/** Reads them. */
export class FirewallForwards {
	/** Rules may have changed. */
	dirty = true;
	/** What is taken over. */
	taken: RedirectPlan[] = [];
	/** Ports that others have. */
	published: OwnSocket[] = [];
	/** Of firewall forwards to hosts of masqd's, those that cannot be taken over: table and chain. */
	left: string[] = [];
	/** What was told last. */
	#told: string[] = [];
	readonly #log: Pick<Log, "warning">;

	constructor(log: Pick<Log, "warning">) {
		this.#log = log;
	}

	/**
	 * Looks if there may be others; returns whether others are to be taken over. `bans` follows the rules against
	 * peers.
	 */
	look<T extends Surroundings>(t: T, bans: Follows<T> | null): boolean {
		if (!this.dirty) return false;
		this.dirty = false;
		const view = new NftView(native);
		for (const _ of view.read());
		view.close();
		bans?.read(view.addressed, t);
		const before = JSON.stringify(this.taken);
		this.taken = [];
		this.left = [];
		this.published = [];
		for (const forward of view.forwards.found) {
			const ours = t.lan.some((p) => p.kind !== "kernel" && p.nets.some((net) => ((forward.address ^ net.address) & net.mask) === 0));
			if (!ours || t.own.includes(forward.address)) this.#publish(forward);
			else if (view.forwards.canTake(forward, t.wan.name, t.wan.index) && this.taken.length < TAKEN_MOST) this.#take(forward);
			else this.left.push(forward.place);
		}
		// What is amiss by now and was not before.
		const amiss = [...firewallWarnings(view, t.lan), ...this.warnings(), ...(bans?.warnings() ?? [])];
		for (const text of amiss) if (!this.#told.includes(text)) this.#log.warning(text);
		this.#told = amiss;
		return JSON.stringify(this.taken) !== before;
	}

	/** What is not taken over, in sentences. */
	warnings(): string[] {
		if (this.left.length === 0) return [];
		return [
			`the firewall has port forwards to hosts of masqd's that it cannot take over (nft ${[...new Set(this.left)].join(", ")}): they ask for more than device, protocol and port; write config redirect in /etc/config/masqd`,
		];
	}

	#publish({ protocol, first, last }: NftForward): void {
		for (const one of protocol === 0 ? [TCP, UDP] : [protocol])
			for (let port = first; port <= Math.min(last, first + PORTS_MOST); port++)
				this.published.push({ protocol: one, port, service: true });
	}

	#take({ place, protocol, first, last, address, port }: NftForward): void {
		this.taken.push({
			name: `${NFT} ${place}`,
			protocols: [protocol === TCP ? "tcp" : "udp"],
			externalPorts: { first, last },
			internal: address,
			internalFirst: port || first,
			source: null,
			where: { file: NFT, line: 0, section: place },
		});
	}

	/** A plan with them, but for those whose ports it has otherwise. */
	into(plan: Plan): Plan {
		const free = ({ protocols, externalPorts: e }: RedirectPlan) =>
			!plan.redirects.some(
				(r) => r.protocols.some((p) => protocols.includes(p)) && r.externalPorts.first <= e.last && r.externalPorts.last >= e.first,
			);
		return { ...plan, redirects: [...plan.redirects, ...this.taken.filter(free)] };
	}
}
