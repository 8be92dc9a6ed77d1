/**
 * The plan in force: its policy and external addresses in the translation's terms, and the judge of sessions that were
 * made under another.
 */
import type { Plan } from "../config/plan.ts";
import { HOST_ADF, HOST_EIF, HOST_PLACE, HOST_PORT_SHIFT, HOST_WORDS } from "../conntrack/record.ts";
import { type Context, lanOf, type Policy } from "../nat/context.ts";
import type { External } from "../nat/externals.ts";
import { Revalidator } from "../nat/revalidate.ts";
import type { Subnet } from "../packet/address.ts";
import { swap16 } from "../packet/layout.ts";
import { netOf, policyOf, wantedExternals } from "./policy.ts";

/** What is in force; another plan after a reload. */
export class InForce {
	plan: Plan;
	readonly #context: Context;
	/** The subnets by which hosts are known to be masqd's, none if that cannot be said. */
	readonly #nets: () => Subnet[];
	/** Takes the ports of the router's own sockets out of the ranges again. */
	readonly #keepOwnPorts: (plan: Plan) => void;

	constructor(plan: Plan, context: Context, nets: () => Subnet[], keepOwnPorts: (plan: Plan) => void) {
		this.plan = plan;
		this.#context = context;
		this.#nets = nets;
		this.#keepOwnPorts = keepOwnPorts;
	}

	/**
	 * Makes a plan's external addresses anew, `own` being the WAN port's, with the numbers that they have in `before`,
	 * and puts its policy in force; the ports of forwards, of what is promised to somebody, and of the router itself
	 * are reserved.
	 */
	put(plan: Plan, own: number, before: Int32Array): void {
		this.renew(plan, own, before);
		const c = this.#context;
		for (const f of c.requested) c.externals.reservePort(0, f.protocol, f.first);
		for (const e of c.expectations.pending) {
			if (e.owner && e.external < c.externals.list.length) c.externals.reservePort(e.external, e.protocol, swap16(e.externalPort));
		}
		this.#keepOwnPorts(plan);
	}

	/** The same before anything was promised, and before the kernel has been asked for sockets. */
	renew(plan: Plan, own: number, before: Int32Array): void {
		const { externals } = this.#context;
		const policy = policyOf(plan, externals.renew(wantedExternals(plan, own), before, plan.ports));
		for (const f of policy.forwards) for (let p = f.first; p <= f.last; p++) externals.reservePort(0, f.protocol, p);
		this.#context.policy = policy;
	}

	/** Who judges sessions by a policy, by default by what is in force. */
	keeper(
		policy: Policy = this.#context.policy,
		externals: readonly External[] = this.#context.externals.list,
		plan = this.plan,
	): Revalidator {
		const exempts = plan.exempts.map((e) => netOf(e.dest));
		return new Revalidator(this.#context, { policy, externals, exempts, nets: this.#nets().map(netOf) });
	}

	/**
	 * Gives the hosts their policy and their LAN port's number: `places` are the ports' numbers as they were, by those
	 * that are now.
	 */
	placeHosts(places: readonly number[]): void {
		const { hosts, lan, policy, externals, table } = this.#context;
		const { W } = hosts;
		const keeper = this.keeper();
		for (let host = 1; host <= table.layout.hosts; host++) {
			if (hosts.sessions(host) === 0) continue;
			const w = host * HOST_WORDS + HOST_PLACE;
			const flags = policy.hosts.get(W[host * HOST_WORDS])?.flags ?? policy.filtering;
			W[w] = (W[w] & ~(HOST_EIF | HOST_ADF)) | flags;
			if ((externals.list[hosts.paired(host)]?.pool ?? -1) < 0) hosts.pair(host, 0);
			const port = places.indexOf((W[w] >>> HOST_PORT_SHIFT) & 0xff);
			const now = lanOf(lan, W[host * HOST_WORDS], port);
			// One whose device has lost its addresses is where it was.
			if (port >= 0 && (now < 0 || now === lan[port].home)) hosts.assign(host, lan[port].home);
			else keeper.placeHost(host);
		}
	}
}
