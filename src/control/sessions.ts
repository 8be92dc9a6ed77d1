/**
 * What the tables hold, as rows for `flows`, `mappings`, `hosts`, `forwards` and `drops`. All are generators that look
 * at a bounded number of records between two yields.
 */
import {
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOST_ADF,
	HOST_EIF,
	HOST_PLACE,
	HOST_PORT_SHIFT,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	R_PEER,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { FREE, QUARANTINED, STATE_NAMES } from "../conntrack/states.ts";
import type { Context } from "../nat/context.ts";
import { reason } from "../nat/reason.ts";
import { BORROW_FREE, guaranteed } from "../nat/shares.ts";
import { formatAddress, parseAddress } from "../packet/address.ts";
import { formatEndpoint, parseEndpoint, parseProtocol, protocolName } from "../packet/endpoint.ts";
import { addressValue, firstOf, hasPorts, ICMP, secondOf, swap16, swap32 } from "../packet/layout.ts";
import type { CoreView, SessionsView } from "./daemon-view.ts";
import {
	type DropRow,
	type Flow,
	type FlowFilter,
	type FlowPage,
	type ForwardRow,
	type HostRow,
	type Mapping,
	PAGE_MAX,
} from "./protocol.ts";

/** Records looked at, and rows made, in one slice: about 0.2 ms on a desktop machine. */
const LOOK = 512;
const ROWS = 16;

const NOTHING = { packetsOut: 0, packetsIn: 0, bytesOut: 0, bytesIn: 0 };

function flow({ context: c, offload }: SessionsView, i: number): Flow {
	const kernel = offload?.counters(i) ?? NOTHING;
	const offloaded = offload?.age(i) ?? -1;
	const { table } = c;
	const t = table.T;
	const e = i << RECORD_SHIFT;
	const meta = t[e + R_META];
	const state = table.state(i);
	const [packetsOut, packetsIn] = table.packets(i);
	const [bytesOut, bytesIn] = table.bytes(i);
	const idle = offloaded < 0 ? table.age(i, c.now16) : Math.min(offloaded, table.age(i, c.now16));
	return {
		id: i,
		protocol: protocolName(meta & 0xff),
		internal: formatEndpoint(t[e], firstOf(t[e + R_OUT])),
		external: formatEndpoint(c.externals.A[(meta >> EXTERNAL_SHIFT) & 0xff], secondOf(t[e + R_IN])),
		peer: formatEndpoint(t[e + R_PEER], firstOf(t[e + R_IN])),
		state: STATE_NAMES[state],
		idle,
		left: Math.max(0, table.timeouts[state] - idle),
		packetsOut: packetsOut + kernel.packetsOut,
		packetsIn: packetsIn + kernel.packetsIn,
		bytesOut: bytesOut + kernel.bytesOut,
		bytesIn: bytesIn + kernel.bytesIn,
	};
}

/** An endpoint filter as address and port, raw; port 0 means any. Throws Error in words. */
function wantedEndpoint(what: string, text: string): { address: number; port: number } {
	const found = parseEndpoint(text);
	if (found === null) throw new Error(`${what} '${text}' is not an ADDRESS or ADDRESS:PORT`);
	return { address: swap32(found.address), port: swap16(found.port) };
}

/** A test of a record by number. Throws Error with a sentence for the operator. */
export function selector(c: Context, filter: FlowFilter): (i: number) => boolean {
	const t = c.table.T;
	const tests: ((i: number) => boolean)[] = [];
	if (filter.host !== undefined) {
		const { address, port } = wantedEndpoint("host", String(filter.host));
		tests.push((i) => t[i << RECORD_SHIFT] === address && (port === 0 || firstOf(t[(i << RECORD_SHIFT) + R_OUT]) === port));
	}
	if (filter.peer !== undefined) {
		const { address, port } = wantedEndpoint("peer", String(filter.peer));
		tests.push((i) => t[(i << RECORD_SHIFT) + R_PEER] === address && (port === 0 || firstOf(t[(i << RECORD_SHIFT) + R_IN]) === port));
	}
	if (filter.protocol !== undefined) {
		const protocol = parseProtocol(String(filter.protocol));
		if (protocol < 0) throw new Error(`'${filter.protocol}' is not a protocol: tcp, udp, icmp or a number`);
		tests.push((i) => (t[(i << RECORD_SHIFT) + R_META] & 0xff) === protocol);
	}
	if (filter.state !== undefined) {
		const states = STATE_NAMES.map((name) => name === filter.state);
		if (!states.includes(true)) throw new Error(`'${filter.state}' is not a state; masqd help flows names them`);
		tests.push((i) => states[c.table.state(i)]);
	}
	if (filter.any !== undefined) {
		const text = String(filter.any);
		const { address, port } = wantedEndpoint("any", text.startsWith(":") ? `0.0.0.0${text}` : text);
		const is = (a: number, p: number) => (address === 0 || a === address) && (port === 0 || p === port);
		tests.push((i) => {
			const e = i << RECORD_SHIFT;
			return (
				is(t[e], firstOf(t[e + R_OUT])) ||
				is(t[e + R_PEER], firstOf(t[e + R_IN])) ||
				is(c.externals.A[(t[e + R_META] >> EXTERNAL_SHIFT) & 0xff], secondOf(t[e + R_IN]))
			);
		});
	}
	return (i) => {
		c.table.hooks?.sync(i);
		const state = c.table.state(i);
		return state !== FREE && (state !== QUARANTINED || filter.state === STATE_NAMES[QUARANTINED]) && tests.every((test) => test(i));
	};
}

/**
 * Walks the records that `wanted` takes, turns each into a row by `make` and gives the rows in slices, at most `limit`.
 * Returns how many matched.
 */
function* walk<Row>(
	c: Context,
	wanted: (i: number) => boolean,
	make: (i: number) => Row,
	limit: number,
): Generator<Row[] | undefined, number> {
	let rows: Row[] = [];
	let matched = 0;
	for (let i = 1; i <= c.table.layout.sessions; i++) {
		if (wanted(i)) {
			if (++matched <= limit) rows.push(make(i));
			if (rows.length === ROWS) {
				yield rows;
				rows = [];
			}
		}
		if (i % LOOK === 0) yield undefined;
	}
	if (rows.length > 0) yield rows;
	return matched;
}

/** What a list is sorted by: the largest comes first. */
function sortKey({ context: { table, now16 }, offload }: SessionsView, sort: string): (i: number) => number {
	const idle = (i: number) => {
		const kernel = offload?.age(i) ?? -1;
		return kernel < 0 ? table.age(i, now16) : Math.min(kernel, table.age(i, now16));
	};
	switch (sort) {
		case "bytes":
			return (i) => {
				const kernel = offload?.counters(i) ?? NOTHING;
				const [out, back] = table.bytes(i);
				return out + back + kernel.bytesOut + kernel.bytesIn;
			};
		case "age":
			return idle;
		case "recent":
			return (i) => -idle(i);
		default:
			throw new Error("sort by what? bytes, age or recent");
	}
}

/**
 * A page of sorted sessions: one walk that keeps the best so far, whatever the page. What is as good stands in the
 * order of its number, so that pages neither repeat nor leave out what has not changed.
 */
function* page(
	owner: SessionsView,
	request: FlowFilter & FlowPage,
	sort: string,
): Generator<Flow[] | undefined, { matched: number; total: number; next: [number, number] | null }> {
	const { table } = owner.context;
	const wanted = selector(owner.context, request);
	const key = sortKey(owner, sort);
	const limit = Math.max(1, Math.min(PAGE_MAX, Math.floor(Number(request.limit ?? PAGE_MAX)) || PAGE_MAX));
	const [afterKey, afterId] = request.after ?? [Number.POSITIVE_INFINITY, 0];
	const best: [number, number][] = [];
	let matched = 0;
	let behind = 0;
	for (let i = 1; i <= table.layout.sessions; i++) {
		if (i % LOOK === 0) yield undefined;
		if (!wanted(i)) continue;
		matched++;
		const k = key(i);
		if (k > afterKey || (k === afterKey && i <= afterId)) continue;
		behind++;
		if (best.length === limit && k <= best[limit - 1][0]) continue;
		let at = best.length;
		while (at > 0 && best[at - 1][0] < k) at--;
		best.splice(at, 0, [k, i]);
		if (best.length > limit) best.pop();
	}
	for (let from = 0; from < best.length; from += ROWS)
		yield best.slice(from, from + ROWS).flatMap(([, i]) => (table.state(i) === FREE ? [] : flow(owner, i)));
	return { matched, total: table.used, next: behind > best.length ? (best.at(-1) ?? null) : null };
}

/**
 * Sessions in the order of their records, or sorted a page of them; the data are how many match and how many there are,
 * and where the next page begins.
 */
export function* flows(
	owner: SessionsView,
	filter: FlowFilter & FlowPage,
): Generator<Flow[] | undefined, { matched: number; total: number }> {
	const c = owner.context;
	if (filter.sort !== undefined) return yield* page(owner, filter, String(filter.sort));
	const matched = yield* walk(c, selector(c, filter), (i) => flow(owner, i), filter.limit ?? Number.POSITIVE_INFINITY);
	return { matched, total: c.table.used };
}

function filteringName(flags: number): string {
	return flags & HOST_EIF ? "endpoint-independent" : flags & HOST_ADF ? "address-dependent" : "address-and-port-dependent";
}

/** Mappings: each is shown at the record that leads it. */
export function* mappings(
	{ context: c }: CoreView,
	filter: FlowFilter & { limit?: number },
): Generator<Mapping[] | undefined, { matched: number }> {
	const t = c.table.T;
	const selected = selector(c, filter);
	const externalOf = (i: number) => (t[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff;
	const protocolOf = (i: number) => t[(i << RECORD_SHIFT) + R_META] & 0xff;
	const addressOf = (i: number) => c.externals.A[externalOf(i)];
	const leads = (i: number) =>
		c.table.findExternal(protocolOf(i), addressOf(i), externalOf(i), secondOf(t[(i << RECORD_SHIFT) + R_IN])) === i;
	const make = (i: number): Mapping => {
		const e = i << RECORD_SHIFT;
		let sessions = 1;
		for (let j = c.table.sibling(i); j !== i && sessions < c.table.layout.sessions; j = c.table.sibling(j)) sessions++;
		const host = c.table.T16[(i << HALF_SHIFT) + R_HOST];
		return {
			protocol: protocolName(protocolOf(i)),
			internal: formatEndpoint(t[e], firstOf(t[e + R_OUT])),
			external: formatEndpoint(addressOf(i), secondOf(t[e + R_IN])),
			sessions,
			filtering: filteringName(c.hosts.W[host * HOST_WORDS + HOST_PLACE]),
		};
	};
	return { matched: yield* walk(c, (i) => selected(i) && leads(i), make, filter.limit ?? Number.POSITIVE_INFINITY) };
}

/** Port forwards in force: the configuration's, the firewall's, and those that hosts have asked for. */
export function* forwards({ context: c }: CoreView): Generator<ForwardRow[], object> {
	const own = formatAddress(addressValue(c.externals.A[0]));
	const all = [...c.policy.forwards, ...c.requested];
	for (let from = 0; from < all.length; from += ROWS) {
		yield all.slice(from, from + ROWS).map((f, n): ForwardRow => {
			const { source } = f;
			return {
				by: from + n >= c.policy.forwards.length ? "pcp" : f.place === undefined ? "redirect" : "firewall",
				protocol: protocolName(f.protocol),
				external: `${own}:${f.first}${f.last > f.first ? `-${f.last}` : ""}`,
				internal: `${formatAddress(addressValue(f.internal))}:${f.internalFirst}`,
				peer: source === null ? "" : `${formatAddress(addressValue(source.address))}/${Math.clz32(~addressValue(source.mask))}`,
				...(f.place !== undefined && { place: f.place }),
			};
		});
	}
	return {};
}

/** Internal hosts that have sessions, most sessions first, at most `limit`. */
export function* hosts(
	{ context: c, lan, offload }: SessionsView,
	limit: number = Number.POSITIVE_INFINITY,
): Generator<HostRow[] | undefined, { hosts: number }> {
	const { table } = c;
	const capacity = table.layout.hosts;
	const bytes = new Float64Array((capacity + 1) * 2);
	for (let i = 1; i <= table.layout.sessions; i++) {
		if (table.state(i) !== FREE) {
			const [out, back] = table.bytes(i);
			const host = table.T16[(i << HALF_SHIFT) + R_HOST] * 2;
			const kernel = offload?.counters(i) ?? NOTHING;
			bytes[host] += out + kernel.bytesOut;
			bytes[host + 1] += back + kernel.bytesIn;
		}
		if (i % LOOK === 0) yield undefined;
	}
	const numbers: number[] = [];
	for (let host = 1; host <= capacity; host++) if (c.hosts.sessions(host) > 0) numbers.push(host);
	numbers.sort((a, b) => c.hosts.sessions(b) - c.hosts.sessions(a));
	const shown = numbers.slice(0, limit);
	for (let from = 0; from < shown.length; from += ROWS) {
		yield shown.slice(from, from + ROWS).map((host) => hostRow(c, lan, host, bytes[host * 2], bytes[host * 2 + 1]));
	}
	return { hosts: numbers.length };
}

/** What host number `host` may have now, by Admission's rules. */
export function hostLimit(c: Context, host: number): Pick<HostRow, "limit" | "limitedBy"> {
	const own = c.policy.hosts.get(c.hosts.W[host * HOST_WORDS])?.maxSessions || c.policy.maxSessions;
	const total = c.table.layout.sessions;
	const share = c.table.available < total * BORROW_FREE && c.hosts.active > 1 ? guaranteed(c, host) : total;
	if (own > 0 && own <= share) return { limit: own, limitedBy: "max_sessions" };
	return share < total ? { limit: share, limitedBy: "fair share" } : { limit: total, limitedBy: "table" };
}

function hostRow(c: Context, lan: CoreView["lan"], host: number, bytesOut: number, bytesIn: number): HostRow {
	const place = c.hosts.W[host * HOST_WORDS + HOST_PLACE];
	return {
		address: formatAddress(addressValue(c.hosts.W[host * HOST_WORDS])),
		port: lan[(place >>> HOST_PORT_SHIFT) & 0xff]?.name ?? "",
		sessions: c.hosts.sessions(host),
		...hostLimit(c, host),
		refused: c.hosts.refused[host],
		bytesOut,
		bytesIn,
		filtering: filteringName(place),
	};
}

/** The last drops, newest first. */
export function* drops({ context: c, lan, wan }: CoreView): Generator<DropRow[] | undefined, { counts: Record<string, number> }> {
	const list = c.dropLog.list();
	yield undefined;
	for (let from = 0; from < list.length; from += ROWS) {
		yield list.slice(from, from + ROWS).map((d): DropRow => {
			const { name, text, remedy } = reason(d.reason);
			// Of a later fragment, or of a header that is wrong, no ports are known.
			const ported = hasPorts(d.protocol) && (d.first !== 0 || d.other !== 0);
			const show = (address: number, port: number) => (ported ? formatEndpoint(address, port) : formatAddress(addressValue(address)));
			return {
				reason: name,
				text,
				remedy,
				ago: c.now - d.second,
				count: d.count,
				port: d.port < 0 ? wan.name : (lan[d.port]?.name ?? ""),
				direction: d.port < 0 ? "in" : "out",
				protocol: d.protocol === ICMP ? icmpName(d.first) : protocolName(d.protocol),
				source: show(d.source, d.first),
				destination: show(d.destination, d.other),
				length: d.length,
			};
		});
	}
	const counts: Record<string, number> = {};
	for (const [n, count] of c.drops.entries()) if (count > 0) counts[reason(n).name] = count;
	return { counts };
}

/** "icmp-TYPE-CODE" of the first halfword of an ICMP header, raw. */
function icmpName(half: number): string {
	const value = swap16(half);
	return value === 0 ? "icmp" : `icmp-${value >> 8}-${value & 0xff}`;
}

/** Raw address of a host named by a client. Throws Error in words. */
export function hostAddress(text: string): number {
	const address = parseAddress(text);
	if (address === null) throw new Error(`'${text}' is not an IPv4 address`);
	return swap32(address);
}
