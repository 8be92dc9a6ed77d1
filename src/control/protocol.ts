/**
 * The control protocol: one JSON object a line over a unix stream socket. Requests carry a version and a command; a reply carries the data or an error in words.
 */

import type { FlushRequest } from "./flush.ts";

/** Changes when a reply can no longer be read by an older client. */
export const PROTOCOL_VERSION = 1;
/** A longer request line is refused and the client cut off. */
export const LINE_MAX = 8192;
/** Rows in one reply to `flows`; the client asks on with `after`. */
export const FLOWS_PAGE = 128;

/** What a client may ask. */
export type Request = { v: number } & (
	| { command: "status" }
	| { command: "flows"; after: number; limit: number }
	| ({ command: "flush" } & FlushRequest)
);

/** What it gets. */
export type Reply = { v: number; data: unknown } | { v: number; error: string };

/** One session as `flows` shows it. Endpoints are "address:port" texts. */
export interface Flow {
	id: number;
	protocol: string;
	internal: string;
	external: string;
	peer: string;
	state: string;
	/** Seconds of idleness until it ends. */
	left: number;
	packetsOut: number;
	packetsIn: number;
	bytesOut: number;
	bytesIn: number;
}

export interface FlowsReply {
	flows: Flow[];
	/** Ask again with `after` = this for more; 0 at the end. */
	next: number;
	total: number;
}

export interface PortStatus {
	name: string;
	role: "wan" | "lan";
	driver: string;
	up: boolean;
	address: string;
	mtu: number;
	received: number;
	sent: number;
}

export interface StatusReply {
	version: string;
	uptime: number;
	ports: PortStatus[];
	sessions: { used: number; total: number; byState: Record<string, number> };
	tableBytes: number;
	hosts: number;
	externalPorts: { protocol: string; free: number; total: number }[];
	forwarded: { out: number; in: number };
	leftToKernel: number;
	icmpErrorsSent: number;
	drops: { reason: string; count: number; text: string; remedy: string }[];
	/** Packets that the nft guard dropped, by rule; `leak` must be 0. Null if the guard can not be read. */
	guard: Record<string, number> | null;
	warnings: string[];
	/** Resident memory in kB. */
	rssKb: number;
	/** Only with MASQD_METER=1. */
	meter: { packets: number; jsNs: number; ioNs: number; batches: number } | null;
}
