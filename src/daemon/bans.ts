/** Who follows the firewall's bans (firewall-bans.ts): in memory from the first rule on that looks at an address. */
import * as native from "masq:native";
import { NftView } from "../kernel/nft-view.ts";
import type { Admission } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import type { FirewallBans } from "./firewall-bans.ts";
import type { Topology } from "./topology.ts";

type Bundle = typeof import("./firewall-bans.ts");

export class Bans {
	readonly #context: Context;
	readonly #admission: Admission;
	#bundle: Bundle | null = null;
	/** Null before the first. */
	firewall: FirewallBans | null = null;
	/** Why they are not followed; "" if they are. */
	#problem = "";

	constructor(context: Context, admission: Admission) {
		this.#context = context;
		this.#admission = admission;
		// An upgrade replaces the files below a running daemon.
		native.holdBundle("bans");
	}

	/** Rules may be others; `any`: some look at addresses. */
	read(any: boolean, t: Topology): void {
		if (!any && this.firewall === null) return;
		this.#problem = "";
		try {
			this.#bundle ??= native.importBundle("bans") as Bundle;
			this.firewall ??= new this.#bundle.FirewallBans(this.#context, this.#admission);
			const rules = new this.#bundle.ForeignBans(native);
			const view = new NftView(native);
			for (const _ of view.read(rules));
			view.close();
			this.firewall.take(rules, t);
		} catch (error) {
			this.#problem = `the firewall's bans are not followed: ${(error as Error).message}`;
		}
	}

	/** Sessions are still to be looked at. */
	get busy(): boolean {
		return this.firewall?.busy ?? false;
	}

	/** What is not followed, in sentences. */
	warnings(): string[] {
		return this.#problem === "" ? (this.firewall?.warnings() ?? []) : [this.#problem];
	}
}
