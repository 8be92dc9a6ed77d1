/**
 * FTP control connections as the rest of the translation sees them: which sessions are such, what was noted of them,
 * and who reads them. The reading itself (alg.ts) is in memory from the first of them on.
 */

import { ALG_INSPECTED, R_IN, R_META, R_OUT, RECORD_SHIFT } from "../conntrack/record.ts";
import { TCP_ESTABLISHED, TCP_INSPECTED } from "../conntrack/states.ts";
import { firstOf, secondOf, swap16 } from "../packet/layout.ts";
import type { Context } from "./context.ts";

/**
 * Bytes by which a segment may grow: held bytes and four lines; an internal host is told to leave that room (mss.ts),
 * so that nothing has to be cut.
 */
export const GROWTH = 192;
/** An ALG opens no port below it. */
export const FIRST_PORT = 1024;
export const FTP_CONTROL = swap16(21);

/** What the ALG has done or refused to do: name, sentence, remedy. No packet is dropped for these. */
export const ALG_NOTES = [
	["ftp-rewritten", "An FTP command or reply was given the external address.", "None needed."],
	[
		"ftp-foreign-address",
		"An FTP command or reply names another host: left as it is.",
		"None needed: an attack, or a host with a wrong address.",
	],
	["ftp-low-port", "An FTP command or reply names a port below 1024: left as it is.", "Let the program use ports from 1024."],
	["ftp-no-room", "Too many FTP connections or announced ports: left as it is.", "Use passive mode, or find the host with most sessions."],
	["ftp-not-read", "What reads FTP could not be loaded: a connection is left as it is.", "See the log; after an upgrade restart masqd."],
] as const;

export type AlgNote = (typeof ALG_NOTES)[number][0];
const NOTE = Object.fromEntries(ALG_NOTES.map((note, n) => [note[0], n])) as Record<AlgNote, number>;

/** Zeroed counters for {@link ALG_NOTES}. */
export function makeAlgCounts(): Float64Array {
	return new Float64Array(ALG_NOTES.length);
}

/** Counts a note. */
export function noteAlg(c: Context, note: AlgNote): void {
	c.algCounts[NOTE[note]]++;
}

/** Whether session `i`, which its SYN opens from this side, is to be read. */
export function isFtpControl({ table: { T }, policy }: Context, i: number, fromInternal: boolean): boolean {
	const e = i << RECORD_SHIFT;
	if (!policy.algFtp) return false;
	return fromInternal
		? secondOf(T[e + R_OUT]) === FTP_CONTROL
		: firstOf(T[e + R_OUT]) === FTP_CONTROL || secondOf(T[e + R_IN]) === FTP_CONTROL;
}

/** Session `i` is an ordinary one from now on. */
export function leaveUnread({ table, now16 }: Context, i: number): void {
	table.T[(i << RECORD_SHIFT) + R_META] &= ~ALG_INSPECTED;
	if (table.state(i) === TCP_INSPECTED) table.setState(i, TCP_ESTABLISHED, now16);
}

/** Who reads: `s` is a slot's byte offset, `header` the bytes of the IP header, `length` those of the packet. */
export interface FtpReader {
	/** Goes on with what the memory holds, or begins anew; `boot` identifies this boot of the machine, four words. */
	takeOver(boot: Int32Array): void;
	/** A SYN that opens (or opens again) session `i`, one of {@link isFtpControl}. */
	opened(i: number): void;
	/**
	 * A segment from inside of a ALG_INSPECTED session, without SYN, not translated yet. Rewrites it in its slot;
	 * returns its length now, 0 if it was dealt with.
	 */
	outbound(i: number, s: number, header: number, length: number): number;
	/**
	 * A segment from the peer of a ALG_INSPECTED session, not translated yet: moves what it acknowledges. False if it
	 * was dropped.
	 */
	inbound(i: number, s: number, header: number, length: number): boolean;
}

/** Makes the reader when the first of its connections is there; null if it cannot be had now. */
export type MakeFtpReader = () => FtpReader | null;

/** Reads nothing, where nobody is misled by that: in a dry run. */
export const UNREAD: FtpReader = {
	takeOver: () => {},
	opened: () => {},
	outbound: (_i, _s, _header, length) => length,
	inbound: () => true,
};
