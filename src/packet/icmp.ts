/**
 * ICMP (RFC 792): types, and types with their codes. No imports and constants first, so that esbuild inlines them
 * (conntrack/record.ts).
 */

export const ECHO_REPLY = 0;
export const UNREACHABLE = 3;
/** Deprecated (RFC 6633). */
export const SOURCE_QUENCH = 4;
/** Only for hosts on the link of its sender (RFC 1122 section 3.2.2.2). */
export const REDIRECT = 5;
export const ECHO = 8;
export const TIME_EXCEEDED_TYPE = 11;
export const PARAMETER_PROBLEM = 12;
export const TIMESTAMP = 13;
export const TIMESTAMP_REPLY = 14;

/** Type and code as one number, type * 256 + code: what an error says. */
export const NET_UNREACHABLE = 0x300;
export const HOST_UNREACHABLE = 0x301;
export const PORT_UNREACHABLE = 0x303;
export const FRAGMENTATION_NEEDED = 0x304;
export const PROHIBITED = 0x30d;
export const TIME_EXCEEDED = 0xb00;

/** Bytes of the header of a query or an error, in front of its data or quote. */
export const ICMP_HEADER = 8;
/** Offsets as in ipv4.ts: checksum; identifier of a query; next-hop MTU of an error. */
export const ICMP_SUM_H = 1;
export const ICMP_ID = 4;
export const ICMP_ID_H = 2;
export const ICMP_MTU = 6;

/** True for types that are errors (RFC 1122 section 3.2.2). */
export function isError(type: number): boolean {
	return type === UNREACHABLE || type === SOURCE_QUENCH || type === REDIRECT || type === TIME_EXCEEDED_TYPE || type === PARAMETER_PROBLEM;
}

/** True for queries that pass (RFC 5508 section 3). */
export function isQuery(type: number): boolean {
	return type === ECHO || type === TIMESTAMP;
}

/** True for the replies to them. */
export function isReply(type: number): boolean {
	return type === ECHO_REPLY || type === TIMESTAMP_REPLY;
}
