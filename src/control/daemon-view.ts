/**
 * All that the control socket may see and ask of the daemon. Whatever the daemon is made of implements
 * {@link DaemonView}; the interfaces that it extends are what the single commands need, so that tests can ask them
 * about a core that nobody drives.
 */
import type { Admission } from "../nat/admission.ts";
import type { Context } from "../nat/context.ts";
import type { FastPath } from "../nat/fast-path.ts";
import type { OffloadReply, ReloadReply, StatusReply } from "./protocol.ts";
import type { Answer, Stream } from "./stream.ts";

/** The tables of the decisions, and what the ports are called. LAN ports stand by their numbers. */
export interface CoreView {
	readonly context: Context;
	readonly wan: { readonly name: string };
	readonly lan: readonly { readonly name: string }[];
}

/** What the offload knows of a session. */
export interface OffloadedView {
	counters(i: number): { packetsOut: number; packetsIn: number; bytesOut: number; bytesIn: number } | null;
	/** Seconds since the last packet that the kernel forwarded, -1 if there was none. */
	age(i: number): number;
}

/** Sessions and hosts with what the kernel has forwarded of them. */
export interface SessionsView extends CoreView {
	/** Absent or null without offload. */
	readonly offload?: OffloadedView | null;
}

/** What a dry run asks besides the tables. */
export interface DecisionsView extends CoreView {
	/**
	 * What stands against every outbound packet now: a reason number, -1 for whatever its route says; null if nothing
	 * does.
	 */
	readonly impaired: number | null;
	/** Next hop number of a destination, found without asking anybody. */
	lookup(destination: number): number;
	/**
	 * Why packets from a LAN to a destination (host order, port in host order) never come to masqd, in words; null if
	 * they do.
	 */
	passesBy(protocol: number, destination: number, port: number, host: number): string | null;
}

/** What a capture needs of the loop. */
export interface FramesView extends CoreView {
	/** Puts other batch functions in place of the loop's own, between two batches; null puts those back. */
	interpose(fast: ((own: FastPath) => FastPath) | null): void;
	/** Milliseconds since 1970. */
	wallClock(): number;
}

/** A LAN or WAN port. */
export interface PortView {
	readonly name: string;
	/** The device's, 0 while it is not there. */
	readonly index: number;
	/** Null while it is closed. */
	readonly driver: object | null;
	/** Address raw, 0 for none. */
	readonly link: { readonly address: number; readonly mtu: number };
	readonly received: number;
	readonly sent: number;
}

export interface LanPortView extends PortView {
	/** A tap is the packet socket beside a TUN port. */
	readonly kind: "packet" | "tun" | "tap" | "kernel";
}

/** The whole daemon. */
export interface DaemonView extends SessionsView, DecisionsView, FramesView {
	readonly wan: PortView;
	readonly lan: readonly LanPortView[];
	readonly admission: Pick<Admission, "end">;
	/** Bytes of hosts by hour and day. */
	readonly accounts: { answer(by: string, limit?: number | null): Answer };
	/** The hub of events. */
	readonly watch: { subscribe(mappings: boolean): Stream };
	readonly log: {
		/** Lines that nobody took, ever. */
		readonly lost: number;
		error(text: string): void;
		rateLimited(level: "warning" | "notice", kind: string, text: string, now: number): void;
	};
	/** Reads the configuration again and goes on by it. */
	reload(told: (reply: ReloadReply) => void): void;

	/** Milliseconds at start. */
	readonly startedAt: number;
	/**
	 * What carries the packets and asks about the first of each connection, and its nft table; null if masqd's ports
	 * do.
	 */
	readonly carrier: { readonly table: string; readonly family: number; refresh(): void } | null;
	/** Bytes of the table. */
	readonly tableBytes: number;
	readonly rates: { now(): StatusReply["rates"] };
	readonly meter: StatusReply["meter"];
	readonly offloadStatus: OffloadReply;
	/** Steps of the loop that have thrown. */
	readonly barrier: { failures(): StatusReply["internalErrors"] };

	/** What was amiss at the start, in sentences. */
	readonly warnings: readonly string[];
	/** The WAN's subnet overlaps a LAN's, in words; "" if not. */
	readonly conflict: string;
	readonly kernel: { linkByName(name: string): { readonly up: boolean } | undefined };
	/**
	 * Sockets of the router's own in masqd's port range: whose ports are still in use here, and how many are beyond
	 * count.
	 */
	readonly ownPorts: { readonly waiting: readonly { readonly port: number }[]; readonly excess: number };
	/** What is amiss with the devices now, in sentences. */
	deviceWarnings(): string[];
	/** What of the router's routing is not followed, in sentences. */
	foreignRouting(): string[];
}
