/**
 * nfnetlink_queue (linux/netfilter/nfnetlink_queue.h): packets that the kernel asks about, and the verdicts.
 *
 * The two directions that are taken for every connection, {@link readPacket} and {@link Verdicts}, are written for
 * speed: plain offsets over views that are made once, no object a packet.
 */
import { align, LITTLE_ENDIAN, MessageWriter, NLM_F, NLMSG_ERROR, NLMSG_HEADER } from "./message.ts";

const NFQNL_MSG_PACKET = 0x0300;
const NFQNL_MSG_VERDICT = 0x0301;
const NFQNL_MSG_CONFIG = 0x0302;

/** Attributes of a configuration. */
const CONFIG = { COMMAND: 1, PARAMETERS: 2, MAXLEN: 3, MASK: 4, FLAGS: 5 } as const;
const BIND = 1;
const PF_INET = 2;
const COPY_PACKET = 2;
/** Super-packets come as they are, not cut to segments. */
const F_GSO = 4;

/** Attributes of a packet. */
const PACKET = { HEADER: 1, INDEV: 5, OUTDEV: 6, HWADDR: 9, PAYLOAD: 10, SKB_INFO: 14 } as const;
/** nlmsghdr and nfgenmsg, behind which the attributes begin. */
const HEADER = NLMSG_HEADER + 4;

/** Hooks of a packet. */
export const HOOK_PREROUTING = 0;
export const HOOK_POSTROUTING = 4;

/** Of {@link QueuedPacket.info}: the checksum is the device's to complete; a super-packet. */
export const SKB_CHECKSUM_NOT_READY = 1;
export const SKB_GSO = 2;

/** How a queue is to be. */
export interface QueueSettings {
	/** Bytes of each packet that are copied, at most. */
	copy: number;
	/** Packets that wait at most; further ones are dropped. */
	length: number;
}

/**
 * The requests that bind a queue's number to the socket and set it up, each with an acknowledgement to come: EBUSY or
 * EPERM to the first says that somebody else has it. `sequence` is the first's.
 */
export function encodeBind(
	queue: number,
	{ copy, length }: QueueSettings,
	sequence: number,
	little: boolean = LITTLE_ENDIAN,
): ArrayBuffer[] {
	const config = (n: number) =>
		new MessageWriter(little)
			.message({ type: NFQNL_MSG_CONFIG, flags: NLM_F.REQUEST | NLM_F.ACK, sequence: sequence + n })
			.netfilter(0, queue);
	return [
		config(0)
			.bytesAttribute(CONFIG.COMMAND, Uint8Array.of(BIND, 0, 0, PF_INET))
			.finish(),
		config(1)
			.bytesAttribute(CONFIG.PARAMETERS, Uint8Array.of(copy >>> 24, copy >>> 16, copy >>> 8, copy, COPY_PACKET))
			.finish(),
		config(2).networkAttribute(CONFIG.MAXLEN, length).finish(),
		config(3).networkAttribute(CONFIG.FLAGS, F_GSO).networkAttribute(CONFIG.MASK, F_GSO).finish(),
	];
}

/** What a message says of a queued packet; made once and filled anew for each. */
export class QueuedPacket {
	/** The queue's number. */
	queue = 0;
	/** The kernel's number for the packet, raw: only to be given back. */
	id = 0;
	hook = 0;
	/** Devices, 0 if there is none (yet). */
	inDevice = 0;
	outDevice = 0;
	/** SKB_ flags. */
	info = 0;
	/** Byte offset of the sender's hardware address, six bytes; 0 if there is none. */
	mac = 0;
	/** Byte offset of the IP packet in the buffer, a multiple of 4, and its bytes there. */
	payload = 0;
	length = 0;
}

/** Reads messages that lie anywhere, aligned to 4, in one buffer. */
export class PacketReader {
	readonly #words: Uint32Array;
	readonly #halves: Uint16Array;
	readonly #bytes: Uint8Array;
	readonly #view: DataView;

	constructor(buffer: ArrayBuffer) {
		this.#words = new Uint32Array(buffer);
		this.#halves = new Uint16Array(buffer);
		this.#bytes = new Uint8Array(buffer);
		this.#view = new DataView(buffer);
	}

	/**
	 * Fills `packet` from the message of `length` bytes at offset `from`; false if it is none of a packet, or one cut
	 * short.
	 */
	read(from: number, length: number, packet: QueuedPacket): boolean {
		const halves = this.#halves;
		const view = this.#view;
		if (length < HEADER || (from & 3) !== 0 || this.#words[from >> 2] > length || halves[(from >> 1) + 2] !== NFQNL_MSG_PACKET)
			return false;
		packet.queue = view.getUint16(from + 18);
		packet.payload = 0;
		packet.outDevice = 0;
		packet.inDevice = 0;
		packet.info = 0;
		packet.mac = 0;
		let known = false;
		for (let at = from + HEADER, end = from + this.#words[from >> 2]; at + 4 <= end; ) {
			const size = halves[at >> 1];
			if (size < 4 || at + size > end) return false;
			const value = at + 4;
			switch (halves[(at >> 1) + 1] & 0x3fff) {
				case PACKET.HEADER:
					if (size < 11) return false;
					packet.id = this.#words[value >> 2];
					packet.hook = this.#bytes[value + 6];
					known = true;
					break;
				case PACKET.INDEV:
					if (size >= 8) packet.inDevice = view.getUint32(value);
					break;
				case PACKET.OUTDEV:
					if (size >= 8) packet.outDevice = view.getUint32(value);
					break;
				case PACKET.HWADDR:
					// Length, two bytes of nothing, address.
					if (size >= 16 && view.getUint16(value) === 6) packet.mac = value + 4;
					break;
				case PACKET.SKB_INFO:
					if (size >= 8) packet.info = view.getUint32(value);
					break;
				case PACKET.PAYLOAD:
					packet.payload = value;
					packet.length = size - 4;
					break;
			}
			at += align(size);
		}
		return known && packet.payload > 0;
	}

	/** The errno of the message at `from` if it is an error or an acknowledgement, else -1. */
	errno(from: number, length: number): number {
		if (length < HEADER || this.#halves[(from >> 1) + 2] !== NLMSG_ERROR) return -1;
		return -this.#view.getInt32(from + NLMSG_HEADER, LITTLE_ENDIAN) || 0;
	}
}

/** Attributes of a verdict. */
const VERDICT = { HEADER: 2, PRIORITY: 21 } as const;
const DROP = 0;
const ACCEPT = 1;
/** Bytes of a verdict with a priority, the largest there is here. */
const VERDICT_SIZE = 40;
/** Most verdicts of one send. */
export const VERDICTS_MAX = 64;

/** Verdicts, as many as a send takes, in a buffer of their own; each has its queue's number and a packet's, raw. */
export class Verdicts {
	readonly buffer = new ArrayBuffer(VERDICT_SIZE * VERDICTS_MAX);
	/** Bytes of it that are verdicts: what to send. */
	length = 0;
	readonly #view = new DataView(this.buffer);
	readonly #words = new Uint32Array(this.buffer);
	readonly #little: boolean;

	constructor(little: boolean = LITTLE_ENDIAN) {
		this.#little = little;
	}

	get full(): boolean {
		return this.length > this.buffer.byteLength - VERDICT_SIZE;
	}

	/** The packet goes on, as if there were no queue. */
	accept(queue: number, id: number): void {
		this.#put(queue, id, ACCEPT, 32);
	}

	/** It goes on and its `skb->priority` is this number. */
	acceptWith(queue: number, id: number, priority: number): void {
		const at = this.#put(queue, id, ACCEPT, VERDICT_SIZE);
		this.#view.setUint16(at + 32, 8, this.#little);
		this.#view.setUint16(at + 34, VERDICT.PRIORITY, this.#little);
		this.#view.setUint32(at + 36, priority);
	}

	/** It is no more. */
	drop(queue: number, id: number): void {
		this.#put(queue, id, DROP, 32);
	}

	#put(queue: number, id: number, verdict: number, size: number): number {
		const at = this.length;
		const v = this.#view;
		const little = this.#little;
		this.length += size;
		v.setUint32(at, size, little);
		v.setUint16(at + 4, NFQNL_MSG_VERDICT, little);
		v.setUint16(at + 6, NLM_F.REQUEST, little);
		v.setUint32(at + 8, 0);
		v.setUint32(at + 12, 0);
		v.setUint16(at + 16, 0);
		v.setUint16(at + 18, queue);
		v.setUint16(at + 20, 12, little);
		v.setUint16(at + 22, VERDICT.HEADER, little);
		v.setUint32(at + 24, verdict);
		this.#words[(at + 28) >> 2] = id;
		return at;
	}
}
