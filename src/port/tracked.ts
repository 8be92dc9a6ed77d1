/**
 * The sessions of the kernel driver as the kernel's connection tracking has them. It is the kernel that sees their
 * packets: the end of an entry ends its session, and what the table wants to know of one that is due (is it used?
 * answered? closing?) it asks for when it wants to know it.
 *
 * Theory of operation. An event tells of each entry's end, and of the beginning of those that masqd was not asked about
 * (busy-endpoints.ts); of ours alone: a socket filter looks at the mark. Events may
 * be lost, and nothing rests on them: a session whose time is up in the table is looked up before it ends, as one on
 * any {@link OffloadHooks}; and one that ends otherwise (flushed, evicted, by a reload) takes the kernel's entry with
 * it.
 */
import * as native from "masq:native";
import type { OffloadHooks } from "../conntrack/offload-hooks.ts";
import {
	EXTERNAL_SHIFT,
	HALF_SHIFT,
	R_BYTES_OUT,
	R_IN,
	R_LAST,
	R_META,
	R_OUT,
	R_PACKETS_IN,
	R_PACKETS_OUT,
	R_PEER,
	RECORD_SHIFT,
} from "../conntrack/record.ts";
import { FREE, QUARANTINED, TCP_CLOSING, TCP_ESTABLISHED, TCP_OPENED, TCP_RESET, UDP_NEW, UDP_OPEN } from "../conntrack/states.ts";
import type { Table } from "../conntrack/table.ts";
import {
	type Counters,
	CT_DELETE,
	CT_GET,
	CT_GROUP,
	type Entry,
	encodeEntryDump,
	IPS,
	markFilter,
	parseEntry,
	type Tuple,
	writeEntryRequest,
} from "../netlink/conntrack.ts";
import { MessageReader, MessageWriter, NETLINK_NETFILTER, NLM_F, NLMSG_DONE } from "../netlink/message.ts";
import { addressValue, firstOf, hasPorts, ICMP, pair, secondOf, swap16, swap32, TCP, UDP } from "../packet/layout.ts";
import { MARK } from "./queue-rules.ts";

const DATAGRAM_MAX = 32768;
/** Datagrams of a dump in parts that one of them reads: some hundred entries. */
const PART = 8;
/** Milliseconds between two dumps that are only to find what may make room. */
const DUMP_EVERY = 1000;
/** Packets and bytes that a session's record has room for in any state. */
const COUNTED_AT_ONCE = 0x40000000;
/** Deletions of one send. */
const DELETED_AT_ONCE = 64;
/** States of TCP as the kernel numbers them, in ours; the others are what ours is already. */
const TCP_STATES: readonly number[] = [
	0,
	0,
	TCP_OPENED,
	TCP_ESTABLISHED,
	TCP_ESTABLISHED,
	TCP_ESTABLISHED,
	TCP_CLOSING,
	TCP_CLOSING,
	TCP_RESET,
	TCP_OPENED,
];
const ECHO = 0x0800;

/** What the sessions' owner does for the mirror. */
export interface TrackedOwner {
	readonly table: Table;
	/**
	 * Makes the sessions of an entry that are not there: the number of its last one, 0 if it is none to go on with. One
	 * that `isNew` has to be admitted.
	 */
	adopt(entry: Entry, isNew: boolean): number;
	/** So many packets more were forwarded, out (0) or in (1). */
	forwarded(inbound: number, packets: number): void;
	/** A session is about to end, for whatever reason. */
	ends(i: number): void;
	/** Ends a session whose entry has gone. */
	end(i: number): void;
	/** Seconds modulo 2^16, and milliseconds. */
	now16(): number;
	milliseconds(): number;
}

export class Tracked implements OffloadHooks {
	/** For the poll set: readable when entries have ended. */
	readonly fd: native.Fd;
	readonly #ask: native.Fd;
	readonly #o: TrackedOwner;
	readonly #buffer = new ArrayBuffer(DATAGRAM_MAX);
	/** Some beginnings and ends have not been told: {@link reconcile} is to be called. */
	missed = false;
	/** The session that an event ends. */
	#ending = 0;
	#dumpedAt = Number.NEGATIVE_INFINITY;
	#deletions: MessageWriter | null = null;
	#deleted = 0;
	/** Answers to a dump are on their way: nothing else is asked meanwhile. */
	#dumping = false;
	/** The socket of a dump in parts, while there is one. */
	#parts: native.Fd = -1;

	/**
	 * Listens; to be made before the queues are bound, because an entry made before anybody listens never tells of its
	 * end. Throws a native error.
	 */
	constructor(o: TrackedOwner) {
		this.#o = o;
		this.fd = native.netlinkOpen(NETLINK_NETFILTER, [CT_GROUP.NEW, CT_GROUP.DESTROY]);
		native.packetFilter(this.fd, markFilter(MARK));
		this.#ask = native.netlinkOpen(NETLINK_NETFILTER, []);
	}

	close(): void {
		this.#o.table.hooks = null;
		native.close(this.fd);
		native.close(this.#ask);
		native.close(this.#parts);
	}

	/** Takes the kernel's news. */
	drain(): void {
		for (;;) {
			let length: number;
			try {
				length = native.netlinkReceive(this.fd, this.#buffer);
			} catch (error) {
				if ((error as native.NativeError).code !== "ENOBUFS") throw error;
				this.missed = true;
				continue;
			}
			if (length === 0) return;
			for (const reader = new MessageReader(this.#buffer, length); reader.next(); ) {
				const entry = parseEntry(reader);
				if (entry?.destroyed) this.#ended(entry);
				else if (entry !== null) this.#begun(entry);
			}
		}
	}

	/** Ends the kernel's entries of sessions that have been ended here. */
	flush(): void {
		const out = this.#deletions;
		if (out === null) return;
		this.#deletions = null;
		this.#deleted = 0;
		const request = out.finish();
		native.netlinkSend(this.#ask, request, request.byteLength);
		while (native.netlinkReceive(this.#ask, this.#buffer) > 0);
	}

	/**
	 * Reads all of the kernel's entries that are ours: their sessions are made where there are none, or the entries are
	 * deleted where masqd has no place for them. Ends the sessions that have no entry.
	 */
	reconcile(): void {
		this.missed = false;
		const { table } = this.#o;
		const seen = new Uint8Array(table.layout.sessions + 1);
		const told = this.#dump((entry) => {
			const opened = (entry.status & IPS.SRC_NAT) !== 0;
			const entered = (entry.status & IPS.DST_NAT) !== 0;
			let from = opened ? this.#find(entry.original) : 0;
			let to = entered ? this.#find(entry.reply) : 0;
			if ((opened && from === 0) || (entered && to === 0)) {
				const made = this.#o.adopt(entry, false);
				if (made === 0) this.#delete(entry.original);
				if (opened) from = entered ? this.#find(entry.original) : made;
				if (entered) to = opened ? this.#find(entry.reply) : made;
			}
			seen[from] = 1;
			seen[to] = 1;
			if (from !== 0) this.#bring(from, entry);
			if (to !== 0) this.#bring(to, entry);
		});
		this.flush();
		if (!told) return;
		for (let i = 1; i < seen.length; i++) {
			const state = table.state(i);
			// It may have begun behind the dump.
			if (seen[i] === 0 && state !== FREE && state !== QUARANTINED && this.#entry(i) === null) this.#end(i);
		}
	}

	#end(i: number): void {
		this.#ending = i;
		this.#o.end(i);
		this.#ending = 0;
	}

	/** The kernel has let a session pass without asking. */
	#begun(entry: Entry): void {
		if (this.#sessions(entry).length > 0) return;
		if (this.#o.adopt(entry, true) === 0) return this.#delete(entry.original);
		const inbound = translated(entry)[0] ? 0 : 1;
		for (const i of this.#sessions(entry)) this.#countOne(i, inbound, { packets: 1, bytes: 0 });
	}

	#ended(entry: Entry): void {
		const { table } = this.#o;
		for (const i of this.#sessions(entry)) {
			this.#count(i, entry);
			// One that has moved to another address meanwhile is not what the entry was of.
			const external = addressValue(table.addresses[(table.T[(i << RECORD_SHIFT) + R_META] >> EXTERNAL_SHIFT) & 0xff]);
			if (external !== entry.reply.destination && external !== entry.original.destination) continue;
			if (table.state(i) !== FREE) this.#end(i);
		}
	}

	/** Brings a session's state and counters up to those of its entry. True if it was in another state. */
	#bring(i: number, entry: Entry): boolean {
		this.#count(i, entry);
		return this.#follow(i, entry);
	}

	/** Brings a session's counters up to what the kernel has counted. */
	#count(i: number, { status, sent, received }: Entry): void {
		if (sent === null || received === null) return;
		const opened = (status & IPS.SRC_NAT) !== 0;
		this.#countOne(i, 0, opened ? sent : received);
		this.#countOne(i, 1, opened ? received : sent);
	}

	#countOne(i: number, inbound: number, { packets, bytes }: Counters): void {
		const { table } = this.#o;
		const e = (i << RECORD_SHIFT) + inbound;
		if (table.T[e + R_PACKETS_OUT] === packets && table.T[e + R_BYTES_OUT] === bytes) return;
		let more = packets;
		if (table.T[e + R_PACKETS_OUT] === 0 && packets < COUNTED_AT_ONCE && bytes < COUNTED_AT_ONCE) {
			// One that has just been read back: nearly all of what a start does.
			table.T[e + R_PACKETS_OUT] = packets;
			table.T[e + R_BYTES_OUT] = bytes;
		} else {
			more = Math.max(0, packets - table.packets(i)[inbound]);
			table.add(i, inbound, more, Math.max(0, bytes - table.bytes(i)[inbound]));
		}
		this.#o.forwarded(inbound, more);
	}

	/** Sessions of an entry: two if it is between two hosts over an external address. */
	#sessions(entry: Entry): number[] {
		const [opened, entered] = translated(entry);
		return [opened ? this.#find(entry.original) : 0, entered ? this.#find(entry.reply) : 0].filter((i) => i !== 0);
	}

	/** The session whose host sends a tuple, 0 if there is none. */
	#find({ protocol, source, destination, sourcePort, destinationPort }: Tuple): number {
		const ports = pair(swap16(sourcePort), protocol === ICMP ? 0 : swap16(destinationPort));
		return this.#o.table.findOut(protocol, swap32(source), swap32(destination), ports);
	}

	/** Puts a session into the state that its entry says. True if it was in another. */
	#follow(i: number, entry: Entry): boolean {
		const { table } = this.#o;
		const before = table.state(i);
		// The port of one that has ended rests under the same words as its successor.
		if (before === QUARANTINED || before === FREE) return false;
		const protocol = table.T[(i << RECORD_SHIFT) + R_META] & 0xff;
		let state = before;
		if (protocol === TCP) state = TCP_STATES[entry.tcpState] || before;
		else if ((entry.status & IPS.SEEN_REPLY) === 0) return false;
		else if (protocol === UDP) state = before === UDP_NEW ? UDP_OPEN : before;
		else if (!hasPorts(protocol)) return table.answer(i);
		if (state === before) return false;
		table.setState(i, state, this.#o.now16());
		return true;
	}

	/** False if the kernel does not tell, or not all. */
	#dump(each: (entry: Entry) => void): boolean {
		const request = encodeEntryDump(MARK, 1);
		this.#dumping = true;
		try {
			native.netlinkSend(this.#ask, request, request.byteLength);
			for (
				let length = native.netlinkReceive(this.#ask, this.#buffer);
				length > 0;
				length = native.netlinkReceive(this.#ask, this.#buffer)
			) {
				for (const reader = new MessageReader(this.#buffer, length); reader.next(); ) {
					if (reader.type === NLMSG_DONE) return reader.errno() === 0;
					const entry = parseEntry(reader);
					if (entry !== null) each(entry);
				}
			}
		} catch {
			// As if it had told nothing.
		} finally {
			this.#dumping = false;
		}
		return false;
	}

	/** The tuple of a session's entry as its host sees it, which is one direction of it, whoever has begun. */
	#tuple(i: number): Tuple {
		const { T } = this.#o.table;
		const e = i << RECORD_SHIFT;
		const protocol = T[e + R_META] & 0xff;
		const ported = hasPorts(protocol);
		return {
			protocol,
			source: addressValue(T[e]),
			destination: addressValue(T[e + R_PEER]),
			sourcePort: ported || protocol === ICMP ? swap16(firstOf(T[e + R_OUT])) : 0,
			destinationPort: protocol === ICMP ? ECHO : ported ? swap16(secondOf(T[e + R_OUT])) : 0,
		};
	}

	/** True if the kernel has another's connection with what the peer of a session would send. */
	isTaken(i: number): boolean {
		const { T, addresses } = this.#o.table;
		const own = this.#tuple(i);
		const { protocol, destination, destinationPort } = own;
		const meta = T[(i << RECORD_SHIFT) + R_META];
		const answer: Tuple = {
			protocol,
			source: destination,
			destination: addressValue(addresses[(meta >> EXTERNAL_SHIFT) & 0xff]),
			sourcePort: destinationPort,
			destinationPort: swap16(secondOf(T[(i << RECORD_SHIFT) + R_IN])),
		};
		const entry = this.#get(answer, true);
		return entry !== null && (entry.original.source !== own.source || entry.original.sourcePort !== own.sourcePort);
	}

	/** The kernel's entry of a session, null if there is none. */
	#entry(i: number): Entry | null {
		return this.#get(this.#tuple(i), false);
	}

	/** The kernel's entry of a tuple, or of one that answers with it. */
	#get(tuple: Tuple, reply: boolean): Entry | null {
		const header = { type: CT_GET, flags: NLM_F.REQUEST, sequence: 1 };
		const request = writeEntryRequest(new MessageWriter(), header, tuple, reply).finish();
		native.netlinkSend(this.#ask, request, request.byteLength);
		let entry: Entry | null = null;
		for (let length = native.netlinkReceive(this.#ask, this.#buffer); length > 0; length = native.netlinkReceive(this.#ask, this.#buffer)) {
			const reader = new MessageReader(this.#buffer, length);
			if (reader.next()) entry = parseEntry(reader);
		}
		return entry;
	}

	// ---- what the table asks and tells ------------------------------------------------------------------------------

	changed(): void {}

	ended(i: number): void {
		this.#o.ends(i);
		if (i === this.#ending) return;
		this.#countAll();
		this.#delete(this.#tuple(i));
	}

	/** What sessions have moved goes with their entries: the counters come home, unless they have just done so. */
	#countAll(): void {
		const now = this.#o.milliseconds();
		if (this.#dumping || now - this.#dumpedAt < DUMP_EVERY) return;
		this.#dumpedAt = now;
		this.#dump((entry) => {
			for (const i of this.#sessions(entry)) this.#count(i, entry);
		});
	}

	#delete(tuple: Tuple): void {
		const out = this.#deletions ?? new MessageWriter();
		this.#deletions = writeEntryRequest(out, { type: CT_DELETE, flags: NLM_F.REQUEST, sequence: 1 }, tuple);
		if (++this.#deleted >= DELETED_AT_ONCE && !this.#dumping) this.flush();
	}

	age(i: number): number {
		const entry = this.#entry(i);
		return entry === null ? -1 : this.#idle(i, entry);
	}

	/** Seconds since a session was used last, as its entry says. */
	#idle(i: number, { timeout }: Entry): number {
		const { table } = this.#o;
		return timeout < 0 ? 0 : Math.max(0, table.timeouts[table.state(i)] - timeout);
	}

	sync(i: number): boolean {
		const { T, T16 } = this.#o.table;
		const e = i << RECORD_SHIFT;
		const state = this.#o.table.state(i);
		if (this.#dumping) return false;
		// One that is just being made has no entry.
		if (state === QUARANTINED || state === FREE || T[e + R_PACKETS_OUT] + T[e + R_PACKETS_IN] === 0) return false;
		const entry = this.#entry(i);
		if (entry === null) return false;
		const another = this.#bring(i, entry);
		T16[(i << HALF_SHIFT) + R_LAST] = this.#o.now16() - this.#idle(i, entry);
		return another;
	}

	countSome(): boolean {
		try {
			if (this.#parts < 0) {
				this.#parts = native.netlinkOpen(NETLINK_NETFILTER, []);
				const request = encodeEntryDump(MARK, 1);
				native.netlinkSend(this.#parts, request, request.byteLength);
			}
			for (let n = 0; n < PART; n++) {
				const length = native.netlinkReceive(this.#parts, this.#buffer);
				// A dump has its next part ready when one was read.
				if (length === 0) return this.#partsEnd();
				for (const reader = new MessageReader(this.#buffer, length); reader.next(); ) {
					if (reader.type === NLMSG_DONE) return this.#partsEnd();
					const entry = parseEntry(reader);
					if (entry !== null) for (const i of this.#sessions(entry)) this.#count(i, entry);
				}
			}
			return false;
		} catch {
			// What it has not told now is told at the next look, or when the entry ends.
			return this.#partsEnd();
		}
	}

	#partsEnd(): true {
		native.close(this.#parts);
		this.#parts = -1;
		return true;
	}

	syncAll(): void {
		const now = this.#o.milliseconds();
		if (now - this.#dumpedAt < DUMP_EVERY) return;
		this.#dumpedAt = now;
		this.#dump((entry) => {
			for (const i of this.#sessions(entry)) this.#bring(i, entry);
		});
	}
}

/** Whether an entry's beginner, and whether its other side, is a host of ours that is translated. */
function translated({ status }: Entry): [boolean, boolean] {
	return [(status & IPS.SRC_NAT) !== 0, (status & IPS.DST_NAT) !== 0];
}
