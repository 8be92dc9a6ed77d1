/**
 * What the next hops, of the WAN port and inside, need of the rest of the daemon.
 */
import type { Hosts } from "../conntrack/hosts.ts";
import type { Table } from "../conntrack/table.ts";
import type { KernelMirror } from "../kernel/mirror.ts";
import type { LanLink, Link } from "../nat/context.ts";
import type { Views } from "../packet/layout.ts";
import type { LinkHeaders } from "../packet/link-header.ts";

export interface NextHopOwner {
	readonly kernel: KernelMirror;
	readonly views: Views;
	readonly table: Table;
	readonly hosts: Hosts;
	readonly headers: LinkHeaders;
	readonly wan: Link;
	readonly lan: LanLink[];
	/** Counts and remembers a frame in a slot that is dropped; `port` is the LAN port it came from, -1 for the WAN. */
	dropped(reason: number, slot: number, port: number): void;
	/** Counts a frame that was held and is now handed to the WAN (true) or a LAN port. */
	forwarded(out: boolean): void;
	/** Session of a translated packet in a slot on its way out, 0 if there is none. */
	sessionOf(slot: number): number;
	/**
	 * A translated packet in a slot was given up: there is no route any more (`lost`), or the next hop did not answer.
	 */
	undeliverable(slot: number, length: number, lost: boolean): void;
	/** The same of a frame for an internal host that does not answer. */
	undeliverableInternal(slot: number, length: number): void;
	/** Device of the WAN port and of a LAN port; 0 while it is not there. */
	wanIndex(): number;
	lanIndex(port: number): number;
	/** Milliseconds now. */
	milliseconds(): number;
	/**
	 * A slot of the frame buffer that no batch uses, by number below SPARE_SLOTS: a waiting frame is put there to be
	 * sent.
	 */
	spareSlot(n: number): number;
}
