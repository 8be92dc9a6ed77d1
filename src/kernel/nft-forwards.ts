/**
 * Port forwards of the firewall's, read from nftables' rules: firewall4's redirects, miniupnpd's leases, ports that
 * containers publish, what somebody has written by hand.
 */
import { TCP, UDP } from "../packet/layout.ts";

/** Attributes of an expression: offset of a value and its end, by number. */
export type Attributes = ReadonlyMap<number, readonly [number, number]>;

/** A rule with `dnat to`. */
export interface NftForward {
	/** Table and chain. */
	place: string;
	/** IP protocol number, 0 for any. */
	protocol: number;
	first: number;
	last: number;
	/** Where to, in host order; the port of the first one, 0 for the same. */
	address: number;
	port: number;
	/** Nothing else is asked but the device that the packet comes in by. */
	plain: boolean;
	/** That device, its name or its index as text; "" for any. */
	iif: string;
}

const META = { DREG: 1, KEY: 2 } as const;
const META_KEYS: Record<number, string> = { 4: "iif", 6: "iifname", 15: "family", 16: "protocol" };
const PAYLOAD = { BASE: 2, OFFSET: 3, LENGTH: 4 } as const;
const NETWORK = 1;
const TRANSPORT = 2;
const CMP = { OP: 2, DATA: 3 } as const;
const [EQUAL, , LESS, AT_MOST, MORE, AT_LEAST] = [0, 1, 2, 3, 4, 5];
const RANGE = { OP: 2, FROM: 3, TO: 4 } as const;
const IMMEDIATE = { DREG: 1, DATA: 2 } as const;
const DATA = { VALUE: 1, VERDICT: 2 } as const;
const VERDICT_CHAIN = 2;
const NAT = { TYPE: 1, ADDRESS: 3, PORT: 5 } as const;
const DNAT = 1;
const ANY_PORT = { first: 0, last: 65535 };

/** How the bytes of a rule are read. */
export interface RuleReader {
	view: DataView;
	/** The machine's byte order, which device indexes are in. */
	little: boolean;
	attributes(span: readonly [number, number]): Attributes;
	text(span: readonly [number, number] | undefined): string;
}

/** Collects them, a rule at a time. */
export class NftForwards {
	readonly found: NftForward[] = [];
	/** Devices by the chains that only what comes in by them gets to. */
	readonly #ways = new Map<string, string>();

	rule(r: RuleReader, table: string, chain: string, expressions: readonly { name: string; a: Attributes }[]): void {
		const number = (a: Attributes, n: number) => (a.has(n) ? r.view.getUint32(a.get(n)![0]) : -1);
		const place = `${table} ${chain}`;
		const f: NftForward = { place, protocol: 0, ...ANY_PORT, address: 0, port: 0, plain: true, iif: "" };
		const registers = new Map<number, readonly [number, number]>();
		let loaded = "";
		for (const { name, a } of expressions) {
			const span = (n: number) => (a.has(n) ? r.attributes(a.get(n)!).get(DATA.VALUE) : undefined);
			if (name === "meta") loaded = a.has(META.DREG) ? (META_KEYS[number(a, META.KEY)] ?? "") : "";
			else if (name === "payload") loaded = payloadOf(number(a, PAYLOAD.BASE), number(a, PAYLOAD.OFFSET), number(a, PAYLOAD.LENGTH));
			else if (name === "cmp") this.#compare(r, f, loaded, number(a, CMP.OP), span(CMP.DATA));
			else if (name === "range" && loaded === "port" && number(a, RANGE.OP) === EQUAL) {
				f.first = r.view.getUint16(span(RANGE.FROM)![0]);
				f.last = r.view.getUint16(span(RANGE.TO)![0]);
			} else if (name === "immediate") {
				const value = span(IMMEDIATE.DATA);
				if (value !== undefined) registers.set(number(a, IMMEDIATE.DREG), value);
				else if (a.has(IMMEDIATE.DATA)) {
					const verdict = r.attributes(a.get(IMMEDIATE.DATA)!).get(DATA.VERDICT);
					const to = verdict === undefined ? "" : r.text(r.attributes(verdict).get(VERDICT_CHAIN));
					if (to !== "" && f.plain && f.iif !== "") this.#ways.set(`${table} ${to}`, f.iif);
				}
			} else if (name === "nat" && number(a, NAT.TYPE) === DNAT) {
				const address = registers.get(number(a, NAT.ADDRESS));
				const port = registers.get(number(a, NAT.PORT));
				if (address === undefined || address[1] - address[0] !== 4) return;
				f.address = r.view.getUint32(address[0]);
				f.port = port === undefined ? 0 : r.view.getUint16(port[0]);
				f.plain &&= f.port === 0 || f.first === f.last;
				if (f.last - f.first < ANY_PORT.last) this.found.push(f);
				return;
			} else if (name !== "counter") f.plain = false;
			if (name !== "cmp" && name !== "range" && (name === "meta" || name === "payload") && loaded === "") f.plain = false;
		}
	}

	#compare(r: RuleReader, f: NftForward, loaded: string, op: number, value: readonly [number, number] | undefined): void {
		if (value === undefined || loaded === "") f.plain = false;
		else if (loaded === "port") {
			const port = r.view.getUint16(value[0]);
			if (op === EQUAL) f.first = f.last = port;
			else if (op === AT_LEAST || op === MORE) f.first = port + (op === MORE ? 1 : 0);
			else if (op === AT_MOST || op === LESS) f.last = port - (op === LESS ? 1 : 0);
			else f.plain = false;
		} else if (op !== EQUAL) f.plain = false;
		else if (loaded === "protocol") f.protocol = r.view.getUint8(value[0]);
		else if (loaded === "iifname") f.iif = r.text(value);
		else if (loaded === "iif") f.iif = String(r.view.getUint32(value[0], r.little));
	}

	/** Whether masqd can do what a rule does for what comes in by a device: TCP or UDP, and nothing else is asked. */
	canTake({ plain, protocol, iif, place }: NftForward, device: string, index: number): boolean {
		const by = iif || this.#ways.get(place);
		return plain && (protocol === TCP || protocol === UDP) && (by === device || by === String(index));
	}
}

function payloadOf(base: number, offset: number, length: number): string {
	if (base === TRANSPORT && offset === 2 && length === 2) return "port";
	return base === NETWORK && offset === 9 && length === 1 ? "protocol" : "";
}
