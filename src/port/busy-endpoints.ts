/**
 * Internal endpoints that speak to many peers at once (DHT, games, WebRTC, servers behind a forward): from the fourth
 * session of a mapping on, the kernel has the answer to what it would ask (elements of the maps `busy` and `reached`,
 * queue-rules.ts), and masqd hears of further sessions by the kernel's events (tracked.ts). Near a quota's end, and
 * where the table has little room, it is asked again: who is refused is to be told, with nothing of it out.
 */
import {
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	HOST_EIF,
	HOST_PLACE,
	HOST_WORDS,
	R_HOST,
	R_IN,
	R_META,
	R_OUT,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { type Context, type Forward, findForward } from "../nat/context.ts";
import { type Entry, IPS } from "../netlink/conntrack.ts";
import { NLM_F } from "../netlink/message.ts";
import { NFT } from "../netlink/nftables.ts";
import { firstOf, pair, secondOf, swap16, swap32, TCP, UDP } from "../packet/layout.ts";
import type { QueueHosts } from "./queue-hosts.ts";
import { BUSY_MOST, IN, OUT } from "./queue-rules.ts";

const INBOUND = 1 << 24;
/** Sessions that a host must be able to open yet for an endpoint of it to be answered for, and to stay so. */
const ROOM = 128;
const ROOM_LEAST = 64;

type Element = [map: string, key: Uint8Array, data: Uint8Array];

export class BusyEndpoints {
	readonly #c: Context;
	readonly #hosts: QueueHosts;
	/** Elements by external endpoint and direction; null: it is to be asked about until its mapping ends. */
	readonly #known = new Map<number, Element | null>();

	constructor(c: Context, hosts: QueueHosts) {
		this.#c = c;
		this.#hosts = hosts;
	}

	/** The table has been made anew. */
	forget(): void {
		this.#known.clear();
	}

	/** The kernel is to ask about everything again. */
	clear(): void {
		for (const element of this.#known.values()) this.#remove(element);
		this.#known.clear();
	}

	/** Session `i` has been opened, from inside by a device (its index, raw), or from outside: 0. */
	opened(i: number, device: number): void {
		const c = this.#c;
		const { table, policy, hosts } = c;
		const second = table.sibling(i);
		const third = table.sibling(second);
		if (second === i || third === i || table.sibling(third) === i) return;
		const { T, T16 } = table;
		const e = i << RECORD_SHIFT;
		const internal = T[e];
		const protocol = T[e + R_META] & 0xff;
		if (protocol !== UDP && protocol !== TCP) return;
		const external = (T[e + R_META] >> EXTERNAL_SHIFT) & 0xff;
		const port = secondOf(T[e + R_IN]);
		const internalPort = firstOf(T[e + R_OUT]);
		const host = T16[(i << HALF_SHIFT) + R_HOST];
		const id = idOf(protocol, external, port);
		if (!this.#hasRoom(host, internal, ROOM)) return;
		// Who may open only so many a second is asked about each.
		if (device !== 0 && protocol === UDP && !(policy.hosts.get(internal)?.maxRate || policy.maxRate))
			this.#add(id, "busy", [swap32(device), internal, pair(internalPort, 0)], (swap16(port) << 16) | OUT | (external + 1));
		const address = table.addresses[external];
		const reached =
			this.#isForwarded(protocol, external, swap16(port), internal) ??
			(protocol === UDP && (hosts.W[host * HOST_WORDS + HOST_PLACE] & HOST_EIF) !== 0 && c.now >= c.strangersFrom);
		const first = new Int32Array(1);
		new Uint8Array(first.buffer)[0] = protocol;
		if (reached && this.#hosts.has(IN | host, internal))
			this.#add(id | INBOUND, "reached", [first[0], address, pair(port, 0)], (swap16(internalPort) << 16) | IN | host);
	}

	/** Session `i` was opened that was not asked about. */
	begun(i: number): void {
		const { T, T16 } = this.#c.table;
		if (!this.#hasRoom(T16[(i << HALF_SHIFT) + R_HOST], T[i << RECORD_SHIFT], ROOM_LEAST)) this.#forgetMapping(i);
	}

	#hasRoom(host: number, internal: number, least: number): boolean {
		const { table, policy, hosts } = this.#c;
		const most = policy.hosts.get(internal)?.maxSessions || policy.maxSessions || Number.POSITIVE_INFINITY;
		return hosts.sessions(host) + least <= most && table.available > (table.layout.sessions * least) >> 9;
	}

	/** Session `i` is about to end. */
	ended(i: number): void {
		if (this.#known.size > 0 && this.#c.table.alone(i)) this.#forgetMapping(i);
	}

	#forgetMapping(i: number): void {
		const { table } = this.#c;
		const meta = table.T[(i << RECORD_SHIFT) + R_META];
		const id = idOf(meta & 0xff, (meta >> EXTERNAL_SHIFT) & 0xff, secondOf(table.T[(i << RECORD_SHIFT) + R_IN]));
		for (const each of [id, id | INBOUND]) {
			this.#remove(this.#known.get(each));
			this.#known.delete(each);
		}
	}

	/** The session of an entry was refused that the kernel had let pass. */
	refused({ original, reply, status }: Entry): void {
		const [address, port] =
			(status & IPS.SRC_NAT) !== 0 ? [reply.destination, reply.destinationPort] : [original.destination, original.destinationPort];
		const id = idOf(original.protocol, this.#c.externals.find(swap32(address)), swap16(port));
		for (const each of [id, id | INBOUND]) {
			this.#remove(this.#known.get(each));
			this.#known.set(each, null);
		}
	}

	/** Whether everybody gets in by a forward; undefined if there is none at that port. */
	#isForwarded(protocol: number, external: number, port: number, internal: number): boolean | undefined {
		if (external !== 0) return undefined;
		const at = (f: Forward) => f.protocol === protocol && port >= f.first && port <= f.last;
		if (findForward(this.#c, at) === undefined) return undefined;
		return findForward(this.#c, (f) => at(f) && (f.source !== null || f.internal !== internal)) === undefined;
	}

	#add(id: number, map: string, key: number[], value: number): void {
		if (this.#known.has(id) || this.#known.size >= BUSY_MOST) return;
		const bytes = (words: number[]) => new Uint8Array(Int32Array.from(words).buffer);
		const element: Element = [map, bytes(key), bytes([value])];
		this.#known.set(id, this.#hosts.change(map, NFT.NEWSETELEM, NLM_F.CREATE, element[1], element[2]) ? element : null);
	}

	#remove(element: Element | null | undefined): void {
		if (element) this.#hosts.change(element[0], NFT.DELSETELEM, 0, element[1], element[2]);
	}
}

function idOf(protocol: number, external: number, port: number): number {
	return (protocol === TCP ? 1 << 25 : 0) | (external << 16) | port;
}
