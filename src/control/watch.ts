/**
 * Events as they happen: sessions and mappings created and ended, limits reached, changes of the WAN.
 *
 * Theory of operation. Nothing is done while nobody listens: the context has no listener then. With one, an event of a
 * session is a few stores into a ring shared by all who listen; it becomes text in the time that the control socket has
 * (server.ts). Who falls behind by more than the ring is told how many events he has missed. The names are those of RFC
 * 8158 (IPFIX).
 */
import { EXTERNAL_SHIFT, R_IN, R_META, R_OUT, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import type { Context, EndCause, SessionEvents } from "../nat/context.ts";
import { REASON, type ReasonName } from "../nat/reason.ts";
import { formatAddress } from "../packet/address.ts";
import { addressValue, firstOf, hasPorts, ICMP, secondOf, swap16 } from "../packet/layout.ts";
import type { Stream } from "./stream.ts";

/** Events remembered. */
const RING = 1024;
const WORDS = 12;
/** Rows in one slice. */
const SLICE = 16;

/** Values of natEvent (RFC 8158 table 2). */
export const NAT_EVENT = {
	addressesExhausted: 3,
	sessionCreate: 4,
	sessionDelete: 5,
	mappingCreate: 8,
	mappingDelete: 9,
	portsExhausted: 12,
	quotaExceeded: 13,
	thresholdReached: 18,
} as const;
/** Values of natQuotaExceededEvent (RFC 8158 table 3). */
const QUOTA = { sessions: 1, perUser: 3, fragments: 5 } as const;
/** Address and port mapping high threshold (RFC 8158 table 4). */
const MAPPING_HIGH = 3;
/** Share of the table whose use is told as a threshold, and below which it may be told again. */
const HIGH = 0.9;
const HIGH_NO_MORE = 0.8;

const CAUSES: EndCause[] = ["timeout", "evicted", "flushed", "wan-address", "reload", "refused"];

/** What each limit is in the words of RFC 8158. */
const LIMITS: Partial<Record<ReasonName, { natEvent: number; natQuotaExceededEvent?: number }>> = {
	"table-full": { natEvent: NAT_EVENT.quotaExceeded, natQuotaExceededEvent: QUOTA.sessions },
	"host-limit": { natEvent: NAT_EVENT.quotaExceeded, natQuotaExceededEvent: QUOTA.perUser },
	"host-rate": { natEvent: NAT_EVENT.quotaExceeded, natQuotaExceededEvent: QUOTA.perUser },
	"host-share": { natEvent: NAT_EVENT.quotaExceeded, natQuotaExceededEvent: QUOTA.perUser },
	"ports-exhausted": { natEvent: NAT_EVENT.portsExhausted },
	"pool-exhausted": { natEvent: NAT_EVENT.addressesExhausted },
	"fragment-overload": { natEvent: NAT_EVENT.quotaExceeded, natQuotaExceededEvent: QUOTA.fragments },
};
const LIMIT_NAMES = Object.keys(LIMITS) as ReasonName[];

/** The hub: hears of sessions, keeps the ring, has the listeners. */
export class Watch implements SessionEvents {
	readonly #c: Context;
	readonly #clock: () => number;
	#ring: Float64Array | null = null;
	/** Events that are not of a session, by place in the ring. */
	readonly #others: (object | null)[] = [];
	/** Events ever. */
	#count = 0;
	#listeners = 0;
	/** Counters of the limits when they were last looked at. */
	readonly #seen = new Map<ReasonName, number>();
	/** True while the table's threshold is reached. */
	#high = false;

	/** `clock` gives milliseconds since 1970. */
	constructor(c: Context, clock: () => number) {
		this.#c = c;
		this.#clock = clock;
	}

	created(i: number, first: boolean): void {
		this.#session(i, NAT_EVENT.sessionCreate, first, 0);
	}

	ended(i: number, cause: EndCause, last: boolean): void {
		this.#session(i, NAT_EVENT.sessionDelete, last, CAUSES.indexOf(cause));
	}

	#session(i: number, kind: number, mapping: boolean, cause: number): void {
		const r = this.#ring as Float64Array;
		const { table, externals } = this.#c;
		const t = table.T;
		const e = i << RECORD_SHIFT;
		const at = (this.#count % RING) * WORDS;
		const [packetsOut, packetsIn] = table.packets(i);
		const [out, back] = table.bytes(i);
		this.#others[this.#count++ % RING] = null;
		r[at] = Math.round(this.#clock());
		r[at + 1] = kind | (mapping ? 0x100 : 0) | (cause << 16);
		r[at + 2] = t[e + R_META] & 0xff;
		r[at + 3] = t[e];
		r[at + 4] = t[e + R_OUT];
		r[at + 5] = externals.A[(t[e + R_META] >> EXTERNAL_SHIFT) & 0xff];
		r[at + 6] = t[e + R_IN];
		r[at + 7] = t[e + R_PEER];
		r[at + 8] = packetsOut;
		r[at + 9] = packetsIn;
		r[at + 10] = out;
		r[at + 11] = back;
	}

	/** Tells of anything else. `event` is an object with a member `event`; the time is added. */
	tell(event: { event: string }): void {
		if (this.#ring === null) return;
		this.#others[this.#count++ % RING] = { observationTimeMilliseconds: Math.round(this.#clock()), ...event };
	}

	/**
	 * Looks whether limits have refused anything since the last call (about a second ago) and tells of each. Returns a
	 * sentence for the log for each.
	 */
	limits(): { reason: ReasonName; text: string; count: number }[] {
		const said: { reason: ReasonName; text: string; count: number }[] = [];
		for (const name of LIMIT_NAMES) {
			const count = this.#c.drops[REASON[name]];
			const more = count - (this.#seen.get(name) ?? 0);
			if (more === 0) continue;
			this.#seen.set(name, count);
			const last = this.#c.dropLog.list().find((d) => d.reason === REASON[name]);
			const host = last === undefined ? "" : formatAddress(addressValue(last.source));
			this.tell({ event: "limit", ...LIMITS[name], reason: name, sourceIPv4Address: host, refused: more } as { event: string });
			const what = name === "fragment-overload" ? "fragment dropped" : "new session refused";
			said.push({ reason: name, text: `${name}: ${what}${host === "" ? "" : ` of host ${host}`}`, count: more });
		}
		this.#threshold();
		return said;
	}

	#threshold(): void {
		const { used, layout } = this.#c.table;
		if (used < layout.sessions * HIGH_NO_MORE) this.#high = false;
		if (this.#high || used < layout.sessions * HIGH) return;
		this.#high = true;
		const values = { natEvent: NAT_EVENT.thresholdReached, natThresholdEvent: MAPPING_HIGH };
		this.tell({ event: "threshold", ...values, addressPortMappingHighThreshold: Math.ceil(layout.sessions * HIGH) } as { event: string });
	}

	/** A new listener; `mappings`: only mappings, without destinations (RFC 6888 REQ-12). */
	subscribe(mappings: boolean): Stream {
		if (this.#listeners++ === 0) {
			this.#ring = new Float64Array(RING * WORDS);
			this.#c.events = this;
		}
		const hub = this;
		let at = this.#count;
		return {
			get pending() {
				return at < hub.#count;
			},
			ended: false,
			take() {
				const rows: object[] = [];
				if (hub.#count - at > RING) {
					rows.push({ event: "lost", count: hub.#count - RING - at });
					at = hub.#count - RING;
				}
				for (let n = 0; n < SLICE && at < hub.#count; n++, at++) rows.push(...hub.#rows(at % RING, mappings));
				return rows;
			},
			close() {
				if (--hub.#listeners > 0) return;
				hub.#c.events = null;
				hub.#ring = null;
				hub.#others.length = 0;
				hub.#count = 0;
			},
		};
	}

	/** One place of the ring as rows: a session's end may be a mapping's end too. */
	#rows(place: number, mappingsOnly: boolean): object[] {
		const other = this.#others[place];
		if (other !== null && other !== undefined) return mappingsOnly ? [] : [other];
		const r = this.#ring as Float64Array;
		const at = place * WORDS;
		const protocol = r[at + 2];
		const ported = hasPorts(protocol) || protocol === ICMP;
		const common = {
			observationTimeMilliseconds: r[at],
			protocolIdentifier: protocol,
			sourceIPv4Address: formatAddress(addressValue(r[at + 3])),
			postNATSourceIPv4Address: formatAddress(addressValue(r[at + 5])),
			...(ported && { sourceTransportPort: swap16(firstOf(r[at + 4])), postNAPTSourceTransportPort: swap16(secondOf(r[at + 6])) }),
		};
		const ends = (r[at + 1] & 0xff) === NAT_EVENT.sessionDelete;
		const cause = ends ? { cause: CAUSES[r[at + 1] >> 16] } : {};
		const session = {
			event: ends ? "session-end" : "session-new",
			natEvent: r[at + 1] & 0xff,
			...common,
			destinationIPv4Address: formatAddress(addressValue(r[at + 7])),
			...(ported && protocol !== ICMP && { destinationTransportPort: swap16(secondOf(r[at + 4])) }),
			...cause,
			...(ends && { packetsOut: r[at + 8], packetsIn: r[at + 9], bytesOut: r[at + 10], bytesIn: r[at + 11] }),
		};
		const mapping = {
			event: ends ? "mapping-end" : "mapping-new",
			natEvent: ends ? NAT_EVENT.mappingDelete : NAT_EVENT.mappingCreate,
			...common,
			...cause,
		};
		const hasMapping = (r[at + 1] & 0x100) !== 0;
		if (mappingsOnly) return hasMapping ? [mapping] : [];
		return hasMapping ? (ends ? [session, mapping] : [mapping, session]) : [session];
	}
}
