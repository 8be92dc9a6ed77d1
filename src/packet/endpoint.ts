/**
 * Endpoints and protocols as words on the command line and in replies.
 */
import { formatAddress, parseAddress } from "./address.ts";
import { addressValue, DCCP, ESP, GRE, ICMP, SCTP, swap16, TCP, UDP, UDPLITE } from "./layout.ts";

const NAMES: Record<number, string> = {
	[ICMP]: "icmp",
	[TCP]: "tcp",
	[UDP]: "udp",
	[DCCP]: "dccp",
	[GRE]: "gre",
	[ESP]: "esp",
	[SCTP]: "sctp",
	[UDPLITE]: "udplite",
};

/** Short name of an IP protocol, its number if it has none here. */
export function protocolName(protocol: number): string {
	return NAMES[protocol] ?? String(protocol);
}

/** Number of a protocol by name or number, -1 if it is neither. */
export function parseProtocol(text: string): number {
	const word = text.toLowerCase();
	for (const [number, name] of Object.entries(NAMES)) if (name === word) return Number(number);
	return /^\d{1,3}$/.test(word) && Number(word) > 0 && Number(word) < 256 ? Number(word) : -1;
}

/** An address (host order) and a port in host order, 0 if the text has none. */
export interface Endpoint {
	address: number;
	port: number;
}

/** Reads "ADDRESS" or "ADDRESS:PORT"; null if it is neither. */
export function parseEndpoint(text: string): Endpoint | null {
	const [, host, port] = /^([\d.]+)(?::(\d{1,5}))?$/.exec(text) ?? [];
	const address = host === undefined ? null : parseAddress(host);
	if (address === null || Number(port ?? 0) > 0xffff) return null;
	return { address, port: Number(port ?? 0) };
}

/** "ADDRESS:PORT" of a raw address and port. */
export function formatEndpoint(address: number, port: number): string {
	return `${formatAddress(addressValue(address))}:${swap16(port)}`;
}
