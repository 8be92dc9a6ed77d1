/**
 * The control protocol: one JSON object a line over a unix stream socket. A request has a version and a command. The
 * answer is any number of lines with `rows` (a list) and then one with `data`, or with `error` in words. `watch` and
 * `capture` go on sending rows until either end closes.
 */

/** Changes when a reply can no longer be read by an older client. */
export const PROTOCOL_VERSION = 1;
/** A longer request line is refused and the client cut off. */
export const LINE_MAX = 8192;

/** Which sessions or mappings are wanted; absent members mean any. */
export interface FlowFilter {
	host?: string;
	peer?: string;
	protocol?: string;
	state?: string;
	/** An endpoint on any of the three sides; ":443" is the port whatever the address. */
	any?: string;
}

/** A page of sessions in an order: the client has no memory for all of them, nor time to sort them. */
export interface FlowPage {
	limit?: number;
	/** Most bytes first, or those that have been idle for longest, or for least. Pages are of {@link PAGE_MAX} rows. */
	sort?: "bytes" | "age" | "recent";
	/** `next` of the page before: only what comes after. */
	after?: [number, number];
}

/** Most rows of a sorted answer. */
export const PAGE_MAX = 100;

/** What a client may ask to end. */
export type FlushRequest =
	| { what: "all" }
	| { what: "host"; host: string }
	| { what: "mapping"; protocol: string; external: string }
	| { what: "session"; id: number; protocol: string; internal: string; peer: string }
	| { what: "wan" };

/** Which packets are wanted. */
export interface CaptureRequest {
	/** `next`: packets from now on; `on`, `off`: keep the last ones, or no more; `last`: those kept. */
	what: "next" | "on" | "off" | "last";
	/** Packets wanted; 0 or absent: until the client goes. */
	count?: number;
	/** Only packets from or to this address, on either side. */
	host?: string;
	/** Only packets that were dropped. */
	dropped?: boolean;
}

/** What a client may ask. */
export type Request = { v: number } & (
	| { command: "status" | "drops" | "forwards" | "reload" }
	| { command: "hosts"; limit?: number; by?: string }
	| ({ command: "flows" } & FlowPage & FlowFilter)
	| ({ command: "mappings"; limit?: number } & FlowFilter)
	| ({ command: "flush" } & FlushRequest)
	| { command: "why"; protocol: string; source: string; destination: string; direction?: string }
	| { command: "watch"; mappings?: boolean }
	| ({ command: "capture" } & CaptureRequest)
);

/** A line of the answer. */
export type Reply = { v: number; rows: unknown[] } | { v: number; data: unknown } | { v: number; error: string };

/** One session as `flows` shows it. Endpoints are "address:port" texts. */
export interface Flow {
	id: number;
	protocol: string;
	internal: string;
	external: string;
	peer: string;
	state: string;
	/** Seconds since the last packet that refreshed it. */
	idle: number;
	/** Seconds of idleness until it ends. */
	left: number;
	packetsOut: number;
	packetsIn: number;
	bytesOut: number;
	bytesIn: number;
}

/** One mapping: an internal endpoint, its external endpoint, and how many sessions use it. */
export interface Mapping {
	protocol: string;
	internal: string;
	external: string;
	sessions: number;
	/** Who may answer: the configuration's words. */
	filtering: string;
}

/** One port forward in force. */
export interface ForwardRow {
	/** Configured, taken over from the firewall, or asked for by the host itself (PCP, NAT-PMP). */
	by: "redirect" | "firewall" | "pcp";
	/** Table and chain of one of the firewall's. */
	place?: string;
	protocol: string;
	/** A port or a range "first-last". */
	external: string;
	internal: string;
	/** The only peers that may use it; "" for anyone. */
	peer: string;
}

/** One internal host with sessions. */
export interface HostRow {
	address: string;
	/** LAN device. */
	port: string;
	sessions: number;
	/** Sessions it may have at this moment; the whole table if nothing limits it. */
	limit: number;
	limitedBy: "max_sessions" | "fair share" | "table";
	/** Refusals for its limit or share, or a full table, since it has sessions. */
	refused: number;
	bytesOut: number;
	bytesIn: number;
	filtering: string;
}

/** What one internal host, or all that have no row of their own ("others"), moved by hour or day. */
export interface AccountRow {
	address: string;
	/** Bytes out and in of each, the present one first. */
	bytes: [number, number][];
}

/** When the hours or days of {@link AccountRow}s are. */
export interface AccountsReply {
	/** Number of the present one since 1970, by the router's clock and time zone. */
	present: number;
	hosts: number;
}

/** One remembered drop. */
export interface DropRow {
	reason: string;
	text: string;
	remedy: string;
	/** Seconds ago. */
	ago: number;
	/** Packets like this, one after the other. */
	count: number;
	/** Device it came in by. */
	port: string;
	direction: "in" | "out";
	protocol: string;
	source: string;
	destination: string;
	length: number;
}

/** One packet as a client gets it; the packets are hexadecimal, its first bytes. */
export interface CapturedPacket {
	/** Milliseconds since 1970. */
	time: number;
	/** Device it came in by, and the one it left by ("" if it did not). */
	from: string;
	to: string;
	/** What became of it. */
	verdict: "forwarded" | "dropped" | "answered" | "waits" | "kernel";
	/** Reason and sentence of a drop. */
	reason: string | null;
	text: string | null;
	length: number;
	packet: string;
	/** The packet that left: translated, or the answer; null if none did. */
	sentLength: number;
	sent: string | null;
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

/** The part of established sessions that goes by BPF in the kernel. */
export interface OffloadReply {
	mode: "auto" | "on" | "off";
	active: boolean;
	/** How its programs are attached, or why they are not. */
	detail: string;
	/** Sessions that go by the kernel now, and the most that can. */
	flows: number;
	capacity: number;
	/** Packets that went by the kernel since the start. */
	packetsOut: number;
	packetsIn: number;
	/** Filters of others that these packets go past, in words; "" for none. */
	past: string;
}

export interface StatusReply {
	version: string;
	uptime: number;
	ports: PortStatus[];
	sessions: { used: number; total: number; byState: Record<string, number> };
	tableBytes: number;
	hosts: number;
	/** The hosts with most sessions. */
	topHosts: { address: string; sessions: number; refused: number }[];
	externalPorts: { protocol: string; free: number; total: number }[];
	/** Packets translated, by user space and by the kernel. */
	forwarded: { out: number; in: number };
	/** Packets a second, over the last second or more. */
	rates: { out: number; in: number; dropped: number };
	offload: OffloadReply;
	leftToKernel: number;
	icmpErrorsSent: number;
	drops: { reason: string; count: number; text: string; remedy: string }[];
	/** What the FTP ALG has rewritten, and what it has left as it was. */
	alg: { note: string; count: number; text: string; remedy: string }[];
	/** Packets that the nft guard dropped, by rule; `leak` must be 0. Null if the guard cannot be read. */
	guard: Record<string, number> | null;
	warnings: string[];
	/**
	 * Steps of the daemon's loop that have thrown, how often, and the last message; `internal`: not only for the
	 * system's refusal.
	 */
	internalErrors: { step: string; count: number; last: string; internal: boolean }[];
	/** Lines of the log that were lost because nobody took them. */
	logLost: number;
	/** Resident memory in kB. */
	rssKb: number;
	/** Only with MASQD_METER=1. */
	meter: { packets: number; jsNs: number; ioNs: number; batches: number } | null;
}

/** What came of reading the configuration again. */
export interface ReloadReply {
	/** Why nothing has changed; empty if the configuration is in force. */
	errors: string[];
	/** What is to be known about the configuration reloaded: warnings, and what waits for a restart. */
	notes: string[];
}

/** One decision of a dry run in words. */
export interface Step {
	/** What was looked at. */
	what: "source" | "session" | "route" | "mapping" | "forward" | "admission" | "port" | "external" | "neighbour";
	text: string;
}

/** What a dry run found. */
export interface WhyReply {
	packet: { protocol: string; source: string; destination: string; direction: "in" | "out" };
	steps: Step[];
	/**
	 * What would happen: forwarded as `as`, dropped for `reason`, waiting for a neighbour, or the kernel's business.
	 */
	verdict: "forwarded" | "dropped" | "waits" | "kernel";
	/** Endpoints after translation. */
	as: { source: string; destination: string } | null;
	reason: string | null;
	text: string | null;
	remedy: string | null;
	/** True if the sender would be told by an ICMP error. */
	answered: boolean;
	/** What the remedy in UCI terms needs to know. */
	facts: WhyFacts;
}

/** What of the configuration and the tables a remedy depends on. */
export interface WhyFacts {
	/** Device and subnets of the LAN port concerned. */
	lan: { device: string; subnets: string[] };
	sessions: number;
	/** Port ranges, as `list ports` has them. */
	ports: string[];
	/** The internal host's own limit, 0 if it has none, and its sessions. */
	maxSessions: number;
	/** Sessions a second that the host may open, 0 if there is no limit. */
	maxRate: number;
	hostSessions: number;
	/**
	 * Internal host concerned: source of an outbound packet, holder of the mapping or forward of an inbound one; null
	 * if there is none.
	 */
	inside: string | null;
	/** The redirect that has this port but not for this source: its options. */
	redirect: { proto: string; src_dport: string; dest_ip: string; dest_port: string } | null;
	/** External addresses of the pool that the host is in. */
	pool: string[];
}
