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
