/**
 * Hears of changes to nftables, and tells when somebody has deleted the guard's table: `service firewall stop` and
 * `restart` flush every table of every owner, and without the guard the kernel would forward beside masqd.
 *
 * Our own installations, which delete and make the table in one transaction, are heard too: what counts is the last
 * that was said of the table in all that had come. Was it cut in between, the guard is put in place once more, which
 * does no harm.
 */
import type { Fd, NativeError } from "masq:native";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type GuardWatchIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkReceive" | "close" | "decode">;

const NETLINK_NETFILTER = 12;
const NFNLGRP_NFTABLES = 7;
const NFT_MSG_NEWRULE = (10 << 8) | 6;
const NFT_MSG_DELRULE = (10 << 8) | 8;
const NFT_MSG_NEWTABLE = 0x0a00;
const NFT_MSG_DELTABLE = 0x0a02;
const NFT_MSG_NEWCHAIN = 0x0a03;
const NFT_MSG_DELCHAIN = 0x0a05;
const NFT_MSG_NEWFLOWTABLE = 0x0a16;
const NFT_MSG_NEWSETELEM = 0x0a0c;
const NFT_MSG_DELSETELEM = 0x0a0e;
const NFPROTO_INET = 1;
const NFTA_TABLE_NAME = 1;
/** nlmsghdr and nfgenmsg. */
const HEADER = 20;
const DATAGRAM_MAX = 32768;

export class GuardWatch {
	/** For the poll set; -1 when closed. */
	fd: Fd;
	/** Tables or chains have come or gone, whoever's; for the reader to reset. */
	chains = false;
	/** Rules have come or gone. */
	rules = false;
	/** Elements of sets have, of others'. */
	elements = false;
	readonly #io: GuardWatchIo;
	readonly #family: number;
	readonly #buffer = new ArrayBuffer(DATAGRAM_MAX);

	/** `family` is that of the table. Throws a native error. */
	constructor(io: GuardWatchIo, family: number = NFPROTO_INET) {
		this.#io = io;
		this.#family = family;
		this.fd = io.netlinkOpen(NETLINK_NETFILTER, [NFNLGRP_NFTABLES]);
	}

	/** Reads what has come; true if the table `name` has gone, or may have (the kernel's messages were lost). */
	drain(name: string): boolean {
		let gone = false;
		for (;;) {
			let length: number;
			try {
				length = this.#io.netlinkReceive(this.fd, this.#buffer);
			} catch (error) {
				const { code } = error as NativeError;
				if (code !== "ENOBUFS" && code !== "EMSGSIZE") throw error;
				gone = true;
				this.chains = true;
				this.rules = true;
				this.elements = true;
				continue;
			}
			if (length === 0) return gone;
			gone = this.#read(length, name, gone);
		}
	}

	close(): void {
		this.#io.close(this.fd);
		this.fd = -1;
	}

	/** Whether the table is gone after the messages of a datagram, if it was `gone` before. */
	#read(length: number, name: string, gone: boolean): boolean {
		const v = new DataView(this.#buffer, 0, length);
		const little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
		for (let at = 0; at + HEADER <= length; ) {
			const size = v.getUint32(at, little);
			if (size < HEADER || at + size > length) return true;
			const type = v.getUint16(at + 4, little);
			if (type === NFT_MSG_NEWTABLE || type === NFT_MSG_DELTABLE || type === NFT_MSG_NEWCHAIN || type === NFT_MSG_DELCHAIN)
				this.chains = true;
			if (
				type === NFT_MSG_NEWRULE ||
				type === NFT_MSG_DELRULE ||
				type === NFT_MSG_DELTABLE ||
				type === NFT_MSG_DELCHAIN ||
				type === NFT_MSG_NEWFLOWTABLE
			)
				this.rules = true;
			if (!this.elements && (type === NFT_MSG_NEWSETELEM || type === NFT_MSG_DELSETELEM))
				this.elements = this.#name(v, at + HEADER, at + size, little) !== name;
			if ((type === NFT_MSG_NEWTABLE || type === NFT_MSG_DELTABLE) && v.getUint8(at + 16) === this.#family) {
				if (this.#name(v, at + HEADER, at + size, little) === name) gone = type === NFT_MSG_DELTABLE;
			}
			at += (size + 3) & ~3;
		}
		return gone;
	}

	/** The attribute with the table's name, "" if there is none. */
	#name(v: DataView, at: number, end: number, little: boolean): string {
		while (at + 4 <= end) {
			const size = v.getUint16(at, little);
			if (size < 4 || at + size > end) return "";
			if ((v.getUint16(at + 2, little) & 0x3fff) === NFTA_TABLE_NAME) return this.#io.decode(this.#buffer, at + 4, size - 5);
			at += (size + 3) & ~3;
		}
		return "";
	}
}
