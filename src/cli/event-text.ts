/**
 * Events of `masqd watch` as text: at most 76 columns.
 */
import { protocolName } from "../packet/endpoint.ts";
import { formatBytes } from "./render.ts";

/** An event as it comes over the socket, in the names of RFC 8158. */
export interface WatchEvent {
	event: string;
	observationTimeMilliseconds: number;
	natEvent?: number;
	protocolIdentifier: number;
	sourceIPv4Address: string;
	sourceTransportPort?: number;
	postNATSourceIPv4Address: string;
	postNAPTSourceTransportPort?: number;
	destinationIPv4Address: string;
	destinationTransportPort?: number;
	cause?: string;
	packetsOut: number;
	packetsIn: number;
	bytesOut: number;
	bytesIn: number;
	reason?: string;
	refused?: number;
	addressPortMappingHighThreshold?: number;
	count?: number;
	before?: string;
	after?: string;
}

function endpoint(address: string, port: number | undefined): string {
	return port === undefined ? address : `${address}:${port}`;
}

/** ISO 8601 in UTC, to the second. */
export function formatTime(milliseconds: number): string {
	return `${new Date(milliseconds).toISOString().slice(0, 19)}Z`;
}

/** One or two lines. */
export function renderEvent(e: WatchEvent): string {
	const time = formatTime(e.observationTimeMilliseconds ?? 0).slice(11, 19);
	const inside = endpoint(e.sourceIPv4Address, e.sourceTransportPort);
	const outside = endpoint(e.postNATSourceIPv4Address, e.postNAPTSourceTransportPort);
	const both = () => `${protocolName(e.protocolIdentifier)} ${inside} as ${outside}`;
	switch (e.event) {
		case "session-new":
			return `${time} session+ ${both()}\n         to ${endpoint(e.destinationIPv4Address, e.destinationTransportPort)}\n`;
		case "session-end": {
			const counts = `out ${e.packetsOut} (${formatBytes(e.bytesOut)}), in ${e.packetsIn} (${formatBytes(e.bytesIn)})`;
			return `${time} session- ${both()}\n         to ${endpoint(e.destinationIPv4Address, e.destinationTransportPort)}: ${e.cause}\n         ${counts}\n`;
		}
		case "mapping-new":
			return `${time} mapping+ ${both()}\n`;
		case "mapping-end":
			return `${time} mapping- ${both()}\n`;
		case "limit":
			return `${time} limit    ${e.reason}: ${e.refused} refused, last of ${e.sourceIPv4Address}\n`;
		case "threshold":
			return `${time} limit    ${e.addressPortMappingHighThreshold} sessions are in use: nearly all\n`;
		case "wan-address":
			return `${time} wan      address ${e.before || "none"} > ${e.after || "none"}\n`;
		case "lost":
			return `         ${e.count} events lost: they came faster than they were read\n`;
		default:
			return `${time} ${e.event}\n`;
	}
}

/** A line of the mapping log (RFC 6888 REQ-12): no destinations. */
export function renderMappingLog(e: WatchEvent): string {
	if (e.event === "lost") return `# ${e.count} events lost\n`;
	const sign = e.event === "mapping-new" ? "+" : "-";
	const inside = endpoint(e.sourceIPv4Address, e.sourceTransportPort);
	const outside = endpoint(e.postNATSourceIPv4Address, e.postNAPTSourceTransportPort);
	return `${formatTime(e.observationTimeMilliseconds)} ${sign} ${protocolName(e.protocolIdentifier).padEnd(4)} ${inside} ${outside}\n`;
}
