/**
 * The router's own sockets and masqd's port range on one address: found at start and kept apart.
 */
import type { PortRange } from "../conntrack/ports.ts";

type FileIo = Pick<typeof import("masq:native"), "readFile" | "writeFile">;

const EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range";
const FIRST_EPHEMERAL = 1024;
/** Fewer ports than this for the router's own connections is worth a warning. */
const FEW = 1024;

/** Local ports in the ranges that TCP or UDP sockets of this machine are bound to, ascending. Reads /proc/net. */
export function localPorts(io: FileIo, ranges: PortRange[]): number[] {
	const found = new Set<number>();
	for (const name of ["tcp", "tcp6", "udp", "udp6"]) {
		let text: string;
		try {
			text = io.readFile(`/proc/net/${name}`);
		} catch {
			continue;
		}
		for (const match of text.matchAll(/^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) /gm)) {
			const port = Number.parseInt(match[1], 16);
			if (ranges.some((r) => port >= r.first && port <= r.last)) found.add(port);
		}
	}
	return [...found].sort((a, b) => a - b);
}

/** Who takes a port of the WAN's address from sessions and gives it back; `take` is false if a session has it. */
export interface PortKeeper {
	take(protocol: number, port: number): boolean;
	release(protocol: number, port: number): void;
}

const PROTOCOLS = [6, 17];

/** The ports of the ranges that are the router's own: those of its sockets, WireGuard's among them. */
export class OwnPorts {
	/** What is left of the ranges. */
	ranges: PortRange[] = [];
	readonly #io: FileIo;
	readonly #keeper: PortKeeper;
	#all: PortRange[] = [];
	/** Protocols taken, by port. */
	readonly #own = new Map<number, number[]>();
	/** What was seen at the last look for the first time: it may have been one of dnsmasq's, which come and go. */
	#fresh = new Set<number>();

	constructor(io: FileIo, keeper: PortKeeper) {
		this.#io = io;
		this.#keeper = keeper;
	}

	/** At a start, and when all ports are free again: takes the ports of all sockets there are. */
	begin(ranges: PortRange[]): void {
		this.#all = ranges;
		this.#own.clear();
		for (const port of localPorts(this.#io, ranges)) this.#take(port);
		this.#split();
	}

	/**
	 * Looks again: takes the ports that were seen at the last look too, as soon as no session has them, and gives back those that no socket has any more.
	 * @returns the ports taken and given back
	 */
	look(): { taken: number[]; given: number[] } {
		const seen = new Set(localPorts(this.#io, this.#all));
		const given = [...this.#own.keys()].filter((port) => !seen.has(port));
		for (const port of given) {
			for (const protocol of this.#own.get(port) as number[]) this.#keeper.release(protocol, port);
			this.#own.delete(port);
		}
		const strange = [...seen].filter((port) => !this.#own.has(port));
		const taken = strange.filter((port) => this.#fresh.has(port) && this.#takeWhole(port));
		this.#fresh = new Set(strange);
		if (taken.length + given.length > 0) this.#split();
		return { taken, given };
	}

	#take(port: number): void {
		this.#own.set(
			port,
			PROTOCOLS.filter((protocol) => this.#keeper.take(protocol, port)),
		);
	}

	#takeWhole(port: number): boolean {
		this.#take(port);
		const protocols = this.#own.get(port) as number[];
		if (protocols.length === PROTOCOLS.length) return true;
		for (const protocol of protocols) this.#keeper.release(protocol, port);
		this.#own.delete(port);
		return false;
	}

	#split(): void {
		this.ranges = this.#all;
		for (const port of this.#own.keys()) {
			this.ranges = this.ranges.flatMap((r) =>
				port < r.first || port > r.last
					? [r]
					: [
							{ first: r.first, last: port - 1 },
							{ first: port + 1, last: r.last },
						].filter((part) => part.first <= part.last),
			);
		}
	}
}

/**
 * Moves the kernel's ephemeral port range out of masqd's ranges, into the largest gap from 1024 up, and returns what puts it back; null if it was
 * apart already. Problems become warnings, because forwarding works without.
 */
export function separateEphemeral(io: FileIo, ranges: PortRange[], warnings: string[]): (() => void) | null {
	let before: string;
	try {
		before = io.readFile(EPHEMERAL).trim();
	} catch {
		return null;
	}
	const [first, last] = before.split(/\s+/).map(Number);
	if (!ranges.some((r) => first <= r.last && last >= r.first)) return null;
	const gap = largestGap(ranges);
	if (gap === null || gap.last - gap.first < FEW) {
		warnings.push("the port ranges leave the router itself too few ports; narrow list ports");
		return null;
	}
	try {
		io.writeFile(EPHEMERAL, `${gap.first} ${gap.last}\n`, 0o644);
	} catch (error) {
		warnings.push(`can not keep the router's own ports out of the range: ${(error as Error).message}`);
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
