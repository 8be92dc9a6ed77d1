/**
 * Elements of the guard's sets, by netlink: what nft would take milliseconds for, and a process, this does in
 * microseconds. The kernel answers before the request returns, so nothing is waited for.
 */
import type { Fd } from "masq:native";
import type { GuardSet } from "./guard.ts";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type SetsIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "encode">;

const NETLINK_NETFILTER = 12;
const NFNL_SUBSYS_NFTABLES = 10 << 8;
const NFNL_BATCH_BEGIN = 0x10;
const NFNL_BATCH_END = 0x11;
const NFT_MSG_NEWSETELEM = 12;
const NFT_MSG_GETSETELEM = 13;
const NFT_MSG_DELSETELEM = 14;
const NLMSG_ERROR = 2;
const REQUEST = 1;
const ACK = 4;
const CREATE = 0x400;
const NFPROTO_INET = 1;
const NLA_NESTED = 0x8000;
/** nlmsghdr and nfgenmsg. */
const HEADER = 20;

/** Attribute numbers (linux/netfilter/nf_tables.h). */
const LIST = { TABLE: 1, SET: 2, ELEMENTS: 3 } as const;
const ELEMENT = { KEY: 1, FLAGS: 3 } as const;
const LIST_ELEMENT = 1;
const DATA_VALUE = 1;
const INTERVAL_END = 1;
/** Bytes of an element at most; a message's elements are one attribute, whose length has 16 bits. */
const EDGE_BYTES = 32;
const EDGES_A_MESSAGE = 1024;
const TABLE = "masqd";
/** Sets of flows that are the kernel's own; their names are of one length. */
const FLOWS = ["own_flows", "lan_flows"] as const;

export class GuardSets {
	readonly #io: SetsIo;
	#buffer = new ArrayBuffer(1024);
	#view = new DataView(this.#buffer);
	readonly #little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
	#at = 0;
	#fd: Fd = -1;
	#sequence = 0;
	/** The questions of {@link hasFlow}, and where in them the flow stands. */
	#questions: readonly DataView[] = [];
	#key = 0;
	readonly #answer = new ArrayBuffer(1024);

	constructor(io: SetsIo) {
		this.#io = io;
	}

	close(): void {
		this.#io.close(this.#fd);
		this.#fd = -1;
	}

	/**
	 * Puts other elements into sets, in one transaction.
	 *
	 * @returns false if the kernel does not take it: the guard is not as it was left.
	 */
	replace(sets: readonly GuardSet[]): boolean {
		const parts = sets.flatMap(({ name, type, ranges }) => {
			const bytes = type === "ipv4_addr" ? 4 : 2;
			// A range's first element, and minus the one behind its last.
			const edges = ranges.flatMap(({ first, last }) => (last < 2 ** (bytes * 8) - 1 ? [first, -(last + 1)] : [first]));
			const of: { name: string; bytes: number; edges: number[] | null }[] = [{ name, bytes, edges: null }];
			for (let n = 0; n < edges.length; n += EDGES_A_MESSAGE) of.push({ name, bytes, edges: edges.slice(n, n + EDGES_A_MESSAGE) });
			return of;
		});
		this.#begin(parts.reduce((sum, { edges }) => sum + (edges?.length ?? 0) * EDGE_BYTES, (parts.length + 2) * 64));
		this.#message(NFNL_BATCH_BEGIN, 0, () => {});
		for (const [n, { name, bytes, edges }] of parts.entries()) {
			// The last one's answer is that of all: a refused one takes back what was before it.
			const ack = n === parts.length - 1 ? ACK : 0;
			this.#message(
				NFNL_SUBSYS_NFTABLES | (edges === null ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM),
				edges === null ? ack : CREATE | ack,
				() => {
					this.#names(name);
					if (edges !== null)
						this.#nest(LIST.ELEMENTS, () => {
							for (const edge of edges) this.#edge(bytes, edge);
						});
				},
			);
		}
		this.#message(NFNL_BATCH_END, 0, () => {});
		return this.#exchange(this.#buffer, this.#at) === 0;
	}

	/** Whether the kernel has a flow as its own; addresses are in host order, ports in host order. */
	hasFlow(protocol: number, peer: number, peerPort: number, port: number): boolean {
		// Written once: it is asked for every packet that would open a session from outside.
		if (this.#questions.length === 0) this.#questions = FLOWS.map((set) => this.#writeQuestion(set));
		const key = this.#key;
		for (const v of this.#questions) {
			// Each part in words of its own.
			v.setUint32(key, peer);
			v.setUint8(key + 4, protocol);
			v.setUint16(key + 8, port);
			v.setUint16(key + 12, peerPort);
			if (this.#exchange(v.buffer as ArrayBuffer, v.byteLength) === NFT_MSG_NEWSETELEM) return true;
		}
		return false;
	}

	/**
	 * Whether an address, a host-order address, is in a set of addresses of the guard that there is now, a
	 * predecessor's perhaps.
	 */
	hasAddress(set: string, address: number): boolean {
		this.#writeQuery(set, 4, (at) => this.#view.setUint32(at, address));
		return this.#exchange(this.#buffer, this.#at) === NFT_MSG_NEWSETELEM;
	}

	/** Takes all flows that the kernel has learned as its own out of a set of the guard. */
	forgetFlows(set: (typeof FLOWS)[number]): void {
		this.#begin(256);
		this.#message(NFNL_BATCH_BEGIN, 0, () => {});
		this.#message(NFNL_SUBSYS_NFTABLES | NFT_MSG_DELSETELEM, ACK, () => this.#names(set));
		this.#message(NFNL_BATCH_END, 0, () => {});
		this.#exchange(this.#buffer, this.#at);
	}

	#writeQuestion(set: string): DataView {
		this.#writeQuery(set, 16, (at) => {
			this.#key = at;
		});
		return new DataView(this.#buffer.slice(0, this.#at));
	}

	#writeQuery(set: string, bytes: number, key: (at: number) => void): void {
		this.#begin(128);
		this.#message(NFNL_SUBSYS_NFTABLES | NFT_MSG_GETSETELEM, 0, () => {
			this.#names(set);
			this.#nest(LIST.ELEMENTS, () =>
				this.#nest(LIST_ELEMENT, () => this.#nest(ELEMENT.KEY, () => this.#attribute(DATA_VALUE, bytes, key))),
			);
		});
	}

	/** A range's first element of so many bytes, or minus the one behind its last. */
	#edge(bytes: number, edge: number): void {
		this.#nest(LIST_ELEMENT, () => {
			if (edge < 0) this.#attribute(ELEMENT.FLAGS, 4, (at) => this.#view.setUint32(at, INTERVAL_END));
			this.#nest(ELEMENT.KEY, () =>
				this.#attribute(DATA_VALUE, bytes, (at) => {
					if (bytes === 4) this.#view.setUint32(at, Math.abs(edge));
					else this.#view.setUint16(at, Math.abs(edge));
				}),
			);
		});
	}

	// ---- messages ----------------------------------------------------------------------------------------

	#begin(bytes: number): void {
		if (this.#buffer.byteLength < bytes) {
			this.#buffer = new ArrayBuffer(bytes);
			this.#view = new DataView(this.#buffer);
		}
		this.#at = 0;
	}

	#message(type: number, flags: number, body: () => void): void {
		const v = this.#view;
		const from = this.#at;
		const batch = type === NFNL_BATCH_BEGIN || type === NFNL_BATCH_END;
		v.setUint16(from + 4, type, this.#little);
		v.setUint16(from + 6, REQUEST | flags, this.#little);
		v.setUint32(from + 8, ++this.#sequence, this.#little);
		v.setUint32(from + 12, 0);
		v.setUint32(from + 16, batch ? 10 : NFPROTO_INET << 24);
		this.#at += HEADER;
		body();
		v.setUint32(from, this.#at - from, this.#little);
	}

	#names(set: string): void {
		for (const [type, name] of [
			[LIST.TABLE, TABLE],
			[LIST.SET, set],
		] as const)
			this.#attribute(type, name.length + 1, (at) => void this.#io.encode(name, this.#buffer, at));
	}

	#attribute(type: number, bytes: number, fill: (at: number) => void): void {
		const at = this.#at;
		this.#at += 4 + ((bytes + 3) & ~3);
		new Uint8Array(this.#buffer, at, this.#at - at).fill(0);
		this.#view.setUint16(at, 4 + bytes, this.#little);
		this.#view.setUint16(at + 2, type, this.#little);
		fill(at + 4);
	}

	#nest(type: number, body: () => void): void {
		const at = this.#at;
		this.#at += 4;
		body();
		this.#view.setUint16(at, this.#at - at, this.#little);
		this.#view.setUint16(at + 2, type | NLA_NESTED, this.#little);
	}

	/** Sends messages. The first answer: 0 or minus errno, or a message's number; what cannot be asked is a refusal. */
	#exchange(messages: ArrayBuffer, length: number): number {
		try {
			if (this.#fd < 0) this.#fd = this.#io.netlinkOpen(NETLINK_NETFILTER, []);
			this.#io.netlinkSend(this.#fd, messages, length);
			// A refusal quotes what it refuses.
			const answers = length > this.#answer.byteLength ? new ArrayBuffer(length + 64) : this.#answer;
			const v = new DataView(answers);
			let answer = -1;
			for (let first = true; this.#io.netlinkReceive(this.#fd, answers) > 0; first = false) {
				const type = v.getUint16(4, this.#little);
				// One refusal is that of the whole transaction.
				const told = type === NLMSG_ERROR ? v.getInt32(16, this.#little) : type & 0xff;
				if (first || told < 0) answer = told;
			}
			return answer;
		} catch {
			this.close();
			return -1;
		}
	}
}
