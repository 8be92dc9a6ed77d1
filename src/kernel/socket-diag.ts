/**
 * The router's own TCP and UDP sockets, asked of the kernel by sock_diag(7): a dump for each protocol and family,
 * filtered by port in the kernel and read one datagram at a time, so that ten thousand sockets stop no packets. A
 * kernel without it (no kmod-inet-diag on OpenWrt) has /proc/net/tcp and its like, which come whole: then one file is
 * read a step, and the next look is put off by as much as the last one took ({@link SocketDiag.rest}).
 *
 * A look walks through the kernel's hash tables, however few sockets there are. Whether it is likely to find anything
 * new is told by two short files ({@link SocketDiag.inUse}).
 *
 * Only sockets that packets to the WAN's address can reach are told: bound to no address or to that one, to no device
 * or to the WAN's, and not to IPv6 alone. Connections that have ended (TIME_WAIT) hold no port.
 */

import type { Fd } from "masq:native";
import type { PortRange } from "../conntrack/ports.ts";
import { TCP, UDP } from "../packet/layout.ts";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type SocketIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "readFile" | "now">;

/** A port that a socket of the router has. */
export interface OwnSocket {
	/** IP protocol number: 6 or 17. */
	protocol: number;
	port: number;
	/** It waits for anybody: a listener, or a UDP socket without a peer. Others are one side of a flow. */
	service: boolean;
}

/** Where packets for the router's sockets come in. */
export interface SocketPlace {
	ranges: readonly PortRange[];
	/** The WAN port's own addresses (host order) and its device's index. */
	addresses: readonly number[];
	ifindex: number;
}

const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
/** NLM_F_REQUEST | NLM_F_DUMP. */
const REQUEST_DUMP = 0x301;
const NLMSG_HEADER = 16;
/**
 * struct inet_diag_req_v2 and struct inet_diag_msg (linux/inet_diag.h); the socket's identity is at 4 in the latter.
 */
const REQUEST = 56;
const MESSAGE = 72;
const STATE = 1;
const PORT = 4;
const ADDRESS = 8;
const DEVICE = 40;
const REQ_BYTECODE = 1;
const V6ONLY = 11;
/** Opcodes of the kernel's port filter: go to "no", source port >= and <=. */
const JUMP = 1;
const S_GE = 2;
const S_LE = 3;
const OPERATION = 4;
/** Two comparisons of two words, and a jump that the last range does without. */
const RANGE = 5 * OPERATION;
/** Ranges that one filter holds; of more the kernel gets their hull. */
const RANGES_MAX = 100;
const SLICE = 16384;

const AF_INET = 2;
const AF_INET6 = 10;
const ESTABLISHED = 1;
const TIME_WAIT = 6;
const CLOSE = 7;
const LISTEN = 10;
const V4_MAPPED = 0xffff;
/** Reads that find nothing before a look is given up. */
const SILENT_MAX = 100;
/** A look takes at most this part of the time. */
const SHARE = 50;

/** The dumps of a look, in their order, with the file that stands in. */
const DUMPS = [
	[TCP, AF_INET, "tcp"],
	[TCP, AF_INET6, "tcp6"],
	[UDP, AF_INET, "udp"],
	[UDP, AF_INET6, "udp6"],
] as const;

/** One look at a time: {@link begin}, then {@link step} until it tells what there is. */
export class SocketDiag {
	/** For the poll set while a look is under way: readable when a step can be made. */
	fd: Fd = -1;
	/** Milliseconds to leave between this look and the next. */
	rest = 0;
	readonly #io: SocketIo;
	readonly #buffer = new ArrayBuffer(SLICE);
	readonly #view = new DataView(this.#buffer);
	readonly #little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
	#place: SocketPlace = { ranges: [], addresses: [], ifindex: 0 };
	/** Number of the dump under way, -1 if there is no look. */
	#dump = -1;
	/** By `protocol << 16 | port`: whether it is a service. */
	#found = new Map<number, boolean>();
	/** The kernel has no sock_diag. */
	#files = false;
	#spent = 0;
	/** Reads in a row that found nothing. */
	#silent = 0;

	constructor(io: SocketIo) {
		this.#io = io;
	}

	/** A look is under way. */
	get busy(): boolean {
		return this.#dump >= 0;
	}

	/** Begins a look, in place of one that is under way. */
	begin(place: SocketPlace): void {
		this.close();
		this.#place = place;
		this.#found = new Map();
		this.#spent = 0;
		this.#silent = 0;
		this.#dump = 0;
		if (!this.#files) this.#request();
	}

	/** Reads a slice; the sockets when that was the last one, null before. */
	step(): OwnSocket[] | null {
		if (this.#dump < 0) return null;
		const from = this.#io.now();
		if (this.#files) this.#readFile();
		else this.#readSlice();
		this.#spent += this.#io.now() - from;
		if (this.#dump < DUMPS.length) return null;
		this.close();
		this.rest = this.#spent * SHARE;
		return [...this.#found].map(([key, service]) => ({ protocol: key >> 16, port: key & 0xffff, service }));
	}

	/** How many sockets there are of each protocol and family, as text; empty where the kernel does not tell. */
	inUse(): string {
		try {
			const text = this.#io.readFile("/proc/net/sockstat") + this.#io.readFile("/proc/net/sockstat6");
			return text.match(/^(TCP|UDP)6?: inuse \d+/gm)?.join() ?? "";
		} catch {
			return "";
		}
	}

	/** A whole look at once. */
	all(place: SocketPlace): OwnSocket[] {
		this.begin(place);
		while (this.busy) {
			const sockets = this.step();
			if (sockets !== null) return sockets;
		}
		return [];
	}

	/** Ends a look that is under way. */
	close(): void {
		this.#io.close(this.fd);
		this.fd = -1;
		this.#dump = -1;
	}

	/** From now on by the files, from the first one. */
	#useFiles(): void {
		this.close();
		this.#files = true;
		this.#found = new Map();
		this.#dump = 0;
	}

	// ---- sock_diag ---------------------------------------------------------------------------------------

	/** The dump in hand. */
	get #asked(): (typeof DUMPS)[number] {
		return DUMPS[this.#dump] ?? DUMPS[0];
	}

	/** Asks for the next dump. A socket of its own for each: an answer cannot be that to an earlier question. */
	#request(): void {
		const [protocol, family] = this.#asked;
		const v = this.#view;
		const filter = this.#filter(NLMSG_HEADER + REQUEST + 4);
		const length = NLMSG_HEADER + REQUEST + 4 + filter;
		new Uint8Array(this.#buffer, 0, NLMSG_HEADER + REQUEST).fill(0);
		v.setUint32(0, length, this.#little);
		v.setUint16(4, SOCK_DIAG_BY_FAMILY, this.#little);
		v.setUint16(6, REQUEST_DUMP, this.#little);
		v.setUint8(NLMSG_HEADER, family);
		v.setUint8(NLMSG_HEADER + 1, protocol);
		const states = protocol === TCP ? ~((1 << TIME_WAIT) | (1 << CLOSE)) : (1 << ESTABLISHED) | (1 << CLOSE);
		v.setUint32(NLMSG_HEADER + 4, states >>> 0, this.#little);
		v.setUint16(NLMSG_HEADER + REQUEST, 4 + filter, this.#little);
		v.setUint16(NLMSG_HEADER + REQUEST + 2, REQ_BYTECODE, this.#little);
		try {
			this.#io.close(this.fd);
			this.fd = -1;
			this.fd = this.#io.netlinkOpen(NETLINK_SOCK_DIAG, []);
			this.#io.netlinkSend(this.fd, this.#buffer, length);
		} catch {
			this.#useFiles();
		}
	}

	/**
	 * Writes the filter for the ranges at an offset: one after the other, and "no" behind the last. Returns its length.
	 */
	#filter(at: number): number {
		const v = this.#view;
		const { ranges } = this.#place;
		const hull = [{ first: Math.min(...ranges.map((r) => r.first)), last: Math.max(...ranges.map((r) => r.last)) }];
		const tested = ranges.length > RANGES_MAX ? hull : ranges;
		const total = tested.length * RANGE - OPERATION;
		let left = total;
		// The kernel wants every place that is jumped to on the way of those that say yes.
		const operation = (code: number, yes: number, no: number, port = 0) => {
			const to = at + total - left;
			v.setUint8(to, code);
			v.setUint8(to + 1, yes);
			v.setUint16(to + 2, no, this.#little);
			if (code !== JUMP) {
				v.setUint16(to + OPERATION, 0);
				v.setUint16(to + OPERATION + 2, port, this.#little);
			}
			left -= yes;
		};
		for (const { first, last } of tested) {
			// Behind the last operation is "yes", one beyond that "no".
			const final = left < RANGE;
			operation(S_GE, 2 * OPERATION, final ? left + OPERATION : RANGE, first);
			operation(S_LE, 2 * OPERATION, final ? left + OPERATION : RANGE - 2 * OPERATION, last);
			if (!final) operation(JUMP, OPERATION, left);
		}
		return total;
	}

	#readSlice(): void {
		let length: number;
		try {
			length = this.#io.netlinkReceive(this.fd, this.#buffer);
		} catch {
			// What is known is not all, and a port that is only not seen must not be given away: this look tells
			// nothing.
			return this.close();
		}
		const v = this.#view;
		for (let at = 0; at + NLMSG_HEADER <= length; ) {
			const size = v.getUint32(at, this.#little);
			const type = v.getUint16(at + 4, this.#little);
			if (type === NLMSG_ERROR) return this.#useFiles();
			if (type === NLMSG_DONE || size < NLMSG_HEADER) return this.#next();
			if (type === SOCK_DIAG_BY_FAMILY && size >= NLMSG_HEADER + MESSAGE) this.#socket(at + NLMSG_HEADER, at + size);
			at += (size + 3) & ~3;
		}
		// The kernel has the next part ready when one was read. One that has not any more never will.
		if (length > 0) this.#silent = 0;
		else if (++this.#silent === SILENT_MAX) this.close();
	}

	#next(): void {
		if (++this.#dump < DUMPS.length) this.#request();
	}

	#socket(at: number, end: number): void {
		const v = this.#view;
		const [protocol, family] = this.#asked;
		const state = v.getUint8(at + STATE);
		const device = v.getUint32(at + DEVICE, this.#little);
		let address = v.getUint32(at + ADDRESS);
		if (family === AF_INET6) {
			const mapped = v.getUint32(at + ADDRESS + 8);
			const other = address !== 0 || v.getUint32(at + ADDRESS + 4) !== 0 || (mapped !== 0 && mapped !== V4_MAPPED);
			address = v.getUint32(at + ADDRESS + 12);
			if (other || (mapped === 0 && (address !== 0 || this.#isV6Only(at + MESSAGE, end)))) return;
		}
		this.#add(protocol, v.getUint16(at + PORT), address, device, state);
	}

	#isV6Only(from: number, end: number): boolean {
		const v = this.#view;
		for (let at = from; at + 4 < end; ) {
			const length = v.getUint16(at, this.#little);
			if (length < 4) return false;
			if (v.getUint16(at + 2, this.#little) === V6ONLY) return v.getUint8(at + 4) === 1;
			at += (length + 3) & ~3;
		}
		return false;
	}

	#add(protocol: number, port: number, address: number, device: number, state: number): void {
		const { ranges, addresses, ifindex } = this.#place;
		if (address !== 0 && !addresses.includes(address)) return;
		if (device !== 0 && device !== ifindex) return;
		if (!ranges.some((r) => port >= r.first && port <= r.last)) return;
		const key = (protocol << 16) | port;
		const service = state === (protocol === TCP ? LISTEN : CLOSE);
		this.#found.set(key, service || this.#found.get(key) === true);
	}

	// ---- /proc/net ---------------------------------------------------------------------------------------

	/**
	 * Lines "sl local_address rem_address st ...": the address is the kernel's words in hexadecimal, in the machine's
	 * byte order.
	 */
	#readFile(): void {
		const [protocol, family, name] = this.#asked;
		this.#dump++;
		let text: string;
		try {
			text = this.#io.readFile(`/proc/net/${name}`);
		} catch {
			return;
		}
		for (let line = text.indexOf("\n") + 1; line > 0; line = text.indexOf("\n", line) + 1) {
			const colon = text.indexOf(": ", line);
			if (colon < 0) return;
			const digits = family === AF_INET ? 8 : 32;
			const to = colon + 2 + digits;
			const word = (n: number) => {
				const value = Number.parseInt(text.slice(colon + 2 + n * 8, colon + 10 + n * 8), 16) >>> 0;
				if (!this.#little) return value;
				return (((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0;
			};
			const port = Number.parseInt(text.slice(to + 1, to + 5), 16);
			const state = Number.parseInt(text.slice(to + 5 + 1 + digits + 5 + 1, to + 5 + 1 + digits + 5 + 3), 16);
			if (state === TIME_WAIT || (protocol === TCP && state === CLOSE)) continue;
			if (family === AF_INET) this.#add(protocol, port, word(0), 0, state);
			else if (word(0) === 0 && word(1) === 0 && (word(2) === V4_MAPPED || (word(2) === 0 && word(3) === 0)))
				this.#add(protocol, port, word(3), 0, state);
		}
	}
}
