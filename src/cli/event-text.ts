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

const two = (n: number) => String(n).padStart(2, "0");

/**
 * ISO 8601 in UTC, to the second, of milliseconds since 1970 (not before). The engine on routers has no Date, for which
 * this would be the only use: 6 kB of a package.
 */
export function formatTime(milliseconds: number): string {
	const seconds = Math.floor(milliseconds / 1000);
	const days = Math.floor(seconds / 86400);
	const rest = seconds % 86400;
	// Years that begin on the first of March, so that the leap day is the last; 400 of them have 146097 days. Day 0 is
	// in March of the year 0.
	const day = days + 719468;
	const inEra = day % 146097;
	const yearOfEra = Math.floor((inEra - Math.floor(inEra / 1460) + Math.floor(inEra / 36524) - Math.floor(inEra / 146096)) / 365);
	const inYear = inEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
	const month = Math.floor((5 * inYear + 2) / 153);
	const year = Math.floor(day / 146097) * 400 + yearOfEra + (month >= 10 ? 1 : 0);
	const date = `${year}-${two(month < 10 ? month + 3 : month - 9)}-${two(inYear - Math.floor((153 * month + 2) / 5) + 1)}`;
	return `${date}T${two(Math.floor(rest / 3600))}:${two(Math.floor(rest / 60) % 60)}:${two(rest % 60)}Z`;
}

/** One or two lines. */
export function renderEvent(e: WatchEvent): string {
	const time = formatTime(e.observationTimeMilliseconds ?? 0).slice(11, 19);
	const internal = endpoint(e.sourceIPv4Address, e.sourceTransportPort);
	const external = endpoint(e.postNATSourceIPv4Address, e.postNAPTSourceTransportPort);
	const both = () => `${protocolName(e.protocolIdentifier)} ${internal} as ${external}`;
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
	const internal = endpoint(e.sourceIPv4Address, e.sourceTransportPort);
	const external = endpoint(e.postNATSourceIPv4Address, e.postNAPTSourceTransportPort);
	return `${formatTime(e.observationTimeMilliseconds)} ${sign} ${protocolName(e.protocolIdentifier).padEnd(4)} ${internal} ${external}\n`;
}
