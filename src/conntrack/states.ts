/**
 * States of a session: what may happen in each and how long it lives. One state is one timeout class, one list
 * (table.ts). TCP follows RFC 7857 section 2 with one addition: OPENED (both SYNs seen, no ACK yet) still has the short
 * life of an opening connection.
 */

/** No session: the record is free. */
export const FREE = 0;
/** UDP from the inside, not answered yet: may be evicted when the table is full. */
export const UDP_NEW = 1;
/** UDP, answered. */
export const UDP_OPEN = 2;
/**
 * UDP to port 53 after one query and its one reply, or two at once and theirs (RFC 4787 REQ-5a); a further query or
 * reply makes it UDP_OPEN.
 */
export const UDP_DNS = 3;
/** ICMP query (RFC 5508 REQ-2). */
export const ICMP_QUERY = 4;
/** TCP SYN from the inside (RFC 7857 "INIT"): may be evicted. */
export const TCP_SYN_OUT = 5;
/** TCP SYN from the outside through a forward, static or endpoint-independent mapping: may be evicted. */
export const TCP_SYN_IN = 6;
/** Both SYNs seen, the inside's first: still opening. */
export const TCP_OPENED = 7;
/** Data may flow either way. */
export const TCP_ESTABLISHED = 8;
/** The inside has sent FIN: still "established" for its timer (RFC 5382 section 5). */
export const TCP_FIN_OUT = 9;
/** The outside has sent FIN: likewise. */
export const TCP_FIN_IN = 10;
/** Both FINs seen. */
export const TCP_CLOSING = 11;
/** A valid RST was seen; data revives the session (RFC 7857 section 2.2 "TRANS"). */
export const TCP_RESET = 12;
/** Protocols without ports. */
export const OTHER = 13;
/** The mapping has ended, its external port rests (RFC 6888 REQ-8). Not in any index. */
export const QUARANTINED = 14;
/**
 * As TCP_ESTABLISHED, but an ALG has to see every segment: neither the fast way nor the offload takes it (nat/alg.ts).
 */
export const TCP_INSPECTED = 15;
/**
 * Opened from the outside by a packet of a protocol without connections, which the inside has not answered: may be
 * evicted, before all that the inside has opened.
 */
export const STRANGER = 16;
/**
 * Both SYNs seen, the outside's first, whose sender may be forged until it acknowledges ours: may be evicted likewise.
 */
export const TCP_OPENED_IN = 17;
export const STATES = 18;

/**
 * Sessions that may make room for others, by state: LIVE ones never do. GIVEN are the first to go: those that are
 * finished, and those that strangers have opened and the inside has not answered. UNANSWERED are those that the inside
 * has opened and nobody has answered; ICMP queries and protocols without ports are in one state before and after, and a
 * flag in the record tells (record.ts).
 */
export const LIVE = 0;
export const GIVEN = 1;
export const UNANSWERED = 2;
/** {@link LIVE}, {@link GIVEN} or {@link UNANSWERED} by state. */
export const SPARE = Uint8Array.of(0, 2, 0, 1, 2, 2, 1, 0, 0, 0, 0, 1, 1, 2, 0, 0, 1, 1);

/** Names as the operator sees them. */
export const STATE_NAMES = [
	"free",
	"new",
	"open",
	"dns-done",
	"query",
	"syn-sent",
	"syn-received",
	"opening",
	"established",
	"fin-sent",
	"fin-received",
	"closing",
	"reset",
	"open",
	"resting",
	"established",
	"new",
	"opening",
] as const;

/** Seconds of idleness after which a session ends, by group of states. */
export interface Timeouts {
	udp: number;
	dns: number;
	icmp: number;
	tcp_opening: number;
	tcp_established: number;
	tcp_closing: number;
	tcp_reset: number;
	other: number;
}

/**
 * Seconds, a power of two, by which the ends of sessions with a timeout are put together, so that nobody wakes for each
 * of them: an eighth of it at most. Ends are moved on to the next multiple; no packet finds a session after its time.
 */
export function grainOf(timeout: number): number {
	return 1 << Math.max(0, Math.min(5, 28 - Math.clz32(timeout)));
}

/** Seconds that an external port rests after its last endpoint-independent mapping (RFC 6888 REQ-8). */
export const PORT_QUARANTINE = 120;
/** Longest time in seconds that a session waits which a stranger has opened and the inside has not answered. */
export const STRANGER_WAIT = 60;

/** Timeout of every state, indexed by state; FREE never expires. */
export function stateTimeouts(t: Timeouts): Int32Array {
	return Int32Array.from([
		0,
		t.udp,
		t.udp,
		t.dns,
		t.icmp,
		t.tcp_opening,
		t.tcp_opening,
		t.tcp_opening,
		t.tcp_established,
		t.tcp_established,
		t.tcp_established,
		t.tcp_closing,
		t.tcp_reset,
		t.other,
		PORT_QUARANTINE,
		t.tcp_established,
		Math.min(t.udp, STRANGER_WAIT),
		t.tcp_opening,
	]);
}
