/**
 * FTP's lines that carry an address (RFC 959 section 4.1.2, RFC 2428): PORT and EPRT from a client, replies 227 and 229
 * from a server.
 */

/** Longest line that is looked at, line feed included. */
export const LINE_MAX = 128;

/** An address and port within a line. */
export interface Announcement {
	/** Dotted value, null where the line has only a port and means the sender's own address. */
	address: number | null;
	/** Host order. */
	port: number;
	/** The same line with another address (host order) and port. */
	line(address: number, port: number): string;
}

const PORT = /^(PORT +)(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})( *\r?\n)$/i;
const EPRT = /^(EPRT +([!-/:-~])1\2)(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\2(\d{1,5})(\2 *\r?\n)$/i;
// RFC 1123 section 4.1.2.6: the numbers are to be looked for, the parentheses may be missing.
const PASSIVE = /^(227 (?:[^\r\n]*?[^\d,])?)(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})((?![\d,])[\s\S]*)$/;
const EXTENDED_PASSIVE = /^(229 [^\r\n]*\(([!-/:-~])\2\2)(\d{1,5})(\2\)[\s\S]*)$/;

function bytes(value: number, separator: string): string {
	return [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255].join(separator);
}

function quad(numbers: string[]): number | null {
	const list = numbers.map(Number);
	return list.some((n) => n > 255) ? null : ((list[0] << 24) | (list[1] << 16) | (list[2] << 8) | list[3]) >>> 0;
}

function commas(found: RegExpExecArray): Announcement | null {
	const address = quad(found.slice(2, 6));
	const port = quad(["0", "0", ...found.slice(6, 8)]);
	if (address === null || port === null || port === 0) return null;
	return { address, port, line: (a, p) => `${found[1]}${bytes(a, ",")},${p >> 8},${p & 255}${found[8]}` };
}

/** What a client's line (with its line feed) announces, null if nothing that can be understood. */
export function readCommand(line: string): Announcement | null {
	const found = PORT.exec(line);
	if (found !== null) return commas(found);
	const extended = EPRT.exec(line);
	if (extended === null) return null;
	const address = quad(extended.slice(3, 7));
	const port = Number(extended[7]);
	if (address === null || port < 1 || port > 65535) return null;
	return { address, port, line: (a, p) => `${extended[1]}${bytes(a, ".")}${extended[2]}${p}${extended[8]}` };
}

/** The same of a server's line. */
export function readReply(line: string): Announcement | null {
	const found = PASSIVE.exec(line);
	if (found !== null) return commas(found);
	const extended = EXTENDED_PASSIVE.exec(line);
	if (extended === null) return null;
	const port = Number(extended[3]);
	return port < 1 || port > 65535 ? null : { address: null, port, line: (_, p) => `${extended[1]}${p}${extended[4]}` };
}

const COMMANDS = ["PORT ", "EPRT ", "AUTH "];
const REPLIES = ["227 ", "229 ", "234"];

/** True if a line that begins so may be one of those that matter: the rest of it must be waited for. */
export function mayMatter(begin: string, fromClient: boolean): boolean {
	const head = begin.toUpperCase();
	return (fromClient ? COMMANDS : REPLIES).some((word) => head.startsWith(word) || word.startsWith(head));
}

/** True if a stream that begins so can be FTP's; anything else on its port is not looked at any further. */
export function mayBeFtp(begin: string, fromClient: boolean): boolean {
	return fromClient ? /^[a-z]/i.test(begin) && !/^[^\n]* HTTP\/\d/.test(begin) : /^[1-5]/.test(begin);
}
