/**
 * Whom the router itself speaks protocols without ports with: tunnel devices (GRE, IPIP, 6in4, VTI, L2TPv3), IPsec's
 * security associations, raw sockets. Their packets cannot be told from a LAN host's, so towards such a peer the
 * protocol is the router's.
 *
 * Devices are known from the kernel's news; the rest is read when it is asked for, at most once in {@link FRESH}
 * milliseconds.
 */
import type { Fd } from "masq:native";
import { LITTLE_ENDIAN, NLM_F } from "../netlink/message.ts";
import { IFF, type Tunnel } from "../netlink/route.ts";
import { ICMP, swap32 } from "../packet/layout.ts";

/** The system calls needed: `masq:native`, or a test's stand-in. */
export type RouterProtocolsIo = Pick<
	typeof import("masq:native"),
	"readFile" | "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "now"
>;

const FRESH = 2000;
/** Datagrams of one dump that are read: far more security associations than a router has. */
const DUMP_MAX = 256;
const DATAGRAM_MAX = 32768;

const L2TP = 115;
/** A socket of this protocol sends only. */
const IPPROTO_RAW = 255;

const NETLINK_XFRM = 6;
const XFRM_MSG_NEWSA = 0x10;
const XFRM_MSG_GETSA = 0x12;
const XFRMA_ENCAP = 4;
const NLMSG_HEADER = 16;
/** Offsets in xfrm_usersa_info, and its size. */
const SA_DESTINATION = 56;
const SA_PROTOCOL = 76;
const SA_SOURCE = 80;
const SA_FAMILY = 212;
const SA_SIZE = 224;
const AF_INET = 2;

/** Anybody, as a peer. */
const ANY = 0;

export class RouterProtocols {
	readonly #io: RouterProtocolsIo;
	readonly #links: () => Iterable<{ flags: number; tunnel: Tunnel | null }>;
	/** Peers (raw) by protocol. */
	#peers = new Map<number, Set<number>>();
	#readAt = Number.NEGATIVE_INFINITY;

	/** `links` are the devices there are. */
	constructor(io: RouterProtocolsIo, links: () => Iterable<{ flags: number; tunnel: Tunnel | null }>) {
		this.#io = io;
		this.#links = links;
	}

	/** True if the router speaks a protocol with a peer (raw). */
	speaks(protocol: number, peer: number): boolean {
		if (this.#io.now() - this.#readAt >= FRESH) this.#read();
		const peers = this.#peers.get(protocol);
		return peers !== undefined && (peers.has(ANY) || peers.has(peer));
	}

	/** Something may have changed: the next question is answered anew. */
	changed(): void {
		this.#readAt = Number.NEGATIVE_INFINITY;
	}

	#read(): void {
		this.#readAt = this.#io.now();
		this.#peers = new Map();
		for (const { flags, tunnel } of this.#links()) {
			// One that is down takes nothing; each module has such a device for anybody.
			if (tunnel === null || (flags & IFF.UP) === 0) continue;
			for (const protocol of tunnel.protocols) this.#add(protocol, swap32(tunnel.peer));
		}
		this.#readRawSockets();
		// Those of L2TPv3 over IP are in no list of sockets, but counted.
		if (/^L2TP\/IP +\d+ +[1-9]/m.test(this.#file("protocols"))) this.#add(L2TP, ANY);
		try {
			this.#readAssociations();
		} catch {
			// A kernel without IPsec.
		}
	}

	#add(protocol: number, peer: number): void {
		const peers = this.#peers.get(protocol);
		if (peers === undefined) this.#peers.set(protocol, new Set([peer]));
		else peers.add(peer);
	}

	#file(name: string): string {
		try {
			return this.#io.readFile(`/proc/net/${name}`);
		} catch {
			return "";
		}
	}

	#readRawSockets(): void {
		// Addresses stand there as the machine loads them; the "port" is the protocol.
		for (const line of this.#file("raw").split("\n")) {
			const found = /^ *\d+: [0-9A-F]{8}:([0-9A-F]{4}) ([0-9A-F]{8}):/.exec(line);
			if (found === null) continue;
			const [, kind = "", peer = ""] = found;
			const protocol = Number.parseInt(kind, 16);
			if (protocol !== ICMP && protocol !== IPPROTO_RAW) this.#add(protocol, Number.parseInt(peer, 16) | 0);
		}
	}

	#readAssociations(): void {
		const fd: Fd = this.#io.netlinkOpen(NETLINK_XFRM, []);
		try {
			const request = new ArrayBuffer(NLMSG_HEADER);
			const v = new DataView(request);
			v.setUint32(0, NLMSG_HEADER, LITTLE_ENDIAN);
			v.setUint16(4, XFRM_MSG_GETSA, LITTLE_ENDIAN);
			v.setUint16(6, NLM_F.REQUEST | NLM_F.DUMP, LITTLE_ENDIAN);
			this.#io.netlinkSend(fd, request, NLMSG_HEADER);
			const answer = new ArrayBuffer(DATAGRAM_MAX);
			for (let n = 0; n < DUMP_MAX; n++) {
				const length = this.#io.netlinkReceive(fd, answer);
				if (length === 0 || !this.#readDatagram(new DataView(answer, 0, length))) return;
			}
		} finally {
			this.#io.close(fd);
		}
	}

	/** False if the dump is over. */
	#readDatagram(v: DataView): boolean {
		for (let at = 0; at + NLMSG_HEADER <= v.byteLength; ) {
			const size = v.getUint32(at, LITTLE_ENDIAN);
			if (size < NLMSG_HEADER || at + size > v.byteLength || v.getUint16(at + 4, LITTLE_ENDIAN) !== XFRM_MSG_NEWSA) return false;
			if (size >= NLMSG_HEADER + SA_SIZE) this.#readAssociation(v, at + NLMSG_HEADER, at + size);
			at += (size + 3) & ~3;
		}
		return true;
	}

	#readAssociation(v: DataView, at: number, end: number): void {
		if (v.getUint16(at + SA_FAMILY, LITTLE_ENDIAN) !== AF_INET) return;
		for (let a = at + SA_SIZE; a + 4 <= end; ) {
			const size = v.getUint16(a, LITTLE_ENDIAN);
			// In UDP it has ports.
			if (size < 4 || (v.getUint16(a + 2, LITTLE_ENDIAN) & 0x3fff) === XFRMA_ENCAP) return;
			a += (size + 3) & ~3;
		}
		// One of both is our own.
		for (const offset of [SA_DESTINATION, SA_SOURCE]) this.#add(v.getUint8(at + SA_PROTOCOL), v.getInt32(at + offset, LITTLE_ENDIAN));
	}
}
