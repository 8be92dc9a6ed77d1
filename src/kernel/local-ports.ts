/**
 * The router's own sockets and masqd's port range on one address: kept apart.
 *
 * A service that the router opens in the range is looked for every second while anything comes, and rarely while
 * nothing does (socket-diag.ts). It has its port at once: no session gets it, and the guard lets in what comes for it.
 * Sockets with a peer need no port of their own: the guard has learned their flow. What has lasted for some looks is
 * logged, and taken out of the socket filters, which costs more.
 */
import type { PortRange } from "../conntrack/ports.ts";
import type { OwnSocket } from "./socket-diag.ts";

type FileIo = Pick<typeof import("masq:native"), "readFile" | "writeFile">;

const EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range";
const FIRST_EPHEMERAL = 1024;
/** Fewer ports than this for the router's own connections is worth a warning. */
const FEW = 1024;

/** Who takes a port of the WAN's address from sessions and gives it back; `take` is false if a session has it. */
export interface PortKeeper {
	take(protocol: number, port: number): boolean;
	release(protocol: number, port: number): void;
}

/**
 * Looks through which a port has been the router's before more than the guard is told: sockets of a resolver come and
 * go.
 */
const SETTLED = 5;
/** Ports of a protocol that are left to the router; what there is more has to share. */
const OWN_MAX = 1024;

interface Own {
	protocol: number;
	port: number;
	/** It was taken of the keeper, and is to be given back. */
	held: boolean;
	/** Looks that it was seen in. */
	looks: number;
}

/** The ports of the ranges that are the router's own: those of its services, WireGuard's among them. */
export class OwnPorts {
	/** Services whose port a session or a forward has: they have to wait. */
	waiting: OwnSocket[] = [];
	/** Services there were no room for at the last look. */
	excess = 0;
	readonly #keeper: PortKeeper;
	/** By `protocol << 16 | port`. */
	readonly #own = new Map<number, Own>();

	constructor(keeper: PortKeeper) {
		this.#keeper = keeper;
	}

	/** At a start, and when all ports are free again: takes the ports of all sockets there are. */
	begin(sockets: readonly OwnSocket[]): void {
		this.#own.clear();
		this.waiting = [];
		this.excess = 0;
		for (const { protocol, port } of sockets) {
			if (!this.#room(protocol)) continue;
			const held = this.#keeper.take(protocol, port);
			this.#own.set((protocol << 16) | port, { protocol, port, held, looks: SETTLED });
		}
	}

	/**
	 * Goes by another look: takes the ports of services that no session has, and gives back those that no socket has
	 * any more.
	 *
	 * @returns whether anything changed, and what of it has lasted: ports that are new since {@link SETTLED} looks, and
	 * whether such a one was given back.
	 */
	look(sockets: readonly OwnSocket[]): { changed: boolean; settled: OwnSocket[]; left: boolean } {
		const seen = new Map(sockets.map((s) => [(s.protocol << 16) | s.port, s]));
		let changed = false;
		let left = false;
		for (const [key, own] of this.#own) {
			if (seen.has(key)) continue;
			if (own.held) this.#keeper.release(own.protocol, own.port);
			this.#own.delete(key);
			changed = true;
			left ||= own.looks >= SETTLED;
		}
		const settled: OwnSocket[] = [];
		this.waiting = [];
		this.excess = 0;
		for (const [key, socket] of seen) {
			const own = this.#own.get(key);
			if (own !== undefined) {
				if (++own.looks === SETTLED) settled.push(socket);
			} else if (socket.service && this.#room(socket.protocol)) {
				const { protocol, port } = socket;
				if (this.#keeper.take(protocol, port)) {
					this.#own.set(key, { protocol, port, held: true, looks: 1 });
					changed = true;
				} else this.waiting.push(socket);
			}
		}
		return { changed, settled, left };
	}

	/** Some have not lasted long enough yet to be told of. */
	get settling(): boolean {
		for (const own of this.#own.values()) if (own.looks < SETTLED) return true;
		return false;
	}

	#room(protocol: number): boolean {
		let count = 0;
		if (this.#own.size >= OWN_MAX) for (const own of this.#own.values()) if (own.protocol === protocol) count++;
		if (count < OWN_MAX) return true;
		this.excess++;
		return false;
	}

	/** True if a port is the router's. */
	has(protocol: number, port: number): boolean {
		return this.#own.has((protocol << 16) | port);
	}

	/**
	 * What is left of the ranges for a protocol; `settled` leaves out only what has been the router's for some time.
	 */
	rangesOf(protocol: number, ranges: readonly PortRange[], settled = false): PortRange[] {
		const ports: number[] = [];
		for (const own of this.#own.values()) if (own.protocol === protocol && (!settled || own.looks >= SETTLED)) ports.push(own.port);
		return without(ranges, ports);
	}
}

/** Ranges (sorted, disjoint) without some ports. */
function without(ranges: readonly PortRange[], ports: number[]): PortRange[] {
	ports.sort((a, b) => b - a);
	const left: PortRange[] = [];
	let port = ports.pop();
	for (const { first, last } of ranges) {
		let from = first;
		for (; port !== undefined && port <= last; port = ports.pop()) {
			if (port < from) continue;
			if (port > from) left.push({ first: from, last: port - 1 });
			from = port + 1;
		}
		if (from <= last) left.push({ first: from, last });
	}
	return left;
}

/**
 * Moves the kernel's ephemeral port range out of masqd's ranges, into the largest gap from 1024 up, and returns what
 * puts it back; null if it was apart already. Problems become warnings, because forwarding works without.
 */
export function separateEphemeral(io: FileIo, ranges: PortRange[], warnings: string[]): (() => void) | null {
	let before: string;
	try {
		before = io.readFile(EPHEMERAL).trim();
	} catch {
		return null;
	}
	const [first = Number.NaN, last = Number.NaN] = (before.match(/\S+/g) ?? []).map(Number);
	if (!ranges.some((r) => first <= r.last && last >= r.first)) return null;
	const gap = largestGap(ranges);
	if (gap === null || gap.last - gap.first < FEW) {
		warnings.push("the port ranges leave the router itself too few ports; narrow list ports");
		return null;
	}
	try {
		io.writeFile(EPHEMERAL, `${gap.first} ${gap.last}\n`, 0o644);
	} catch (error) {
		warnings.push(`cannot keep the router's own ports out of the range: ${(error as Error).message}`);
		return null;
	}
	return () => io.writeFile(EPHEMERAL, `${before}\n`, 0o644);
}

/** Largest range of ports from 1024 up that no range covers; null if there is none. Ranges are sorted and disjoint. */
export function largestGap(ranges: PortRange[]): PortRange | null {
	let best: PortRange | null = null;
	let from = FIRST_EPHEMERAL;
	for (const r of [...ranges, { first: 65536, last: 65536 }]) {
		const gap = { first: from, last: r.first - 1 };
		if (gap.last >= gap.first && (best === null || gap.last - gap.first > best.last - best.first)) best = gap;
		from = Math.max(from, r.last + 1);
	}
	return best;
}
