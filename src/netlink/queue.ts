/**
 * nfnetlink_queue (linux/netfilter/nfnetlink_queue.h): packets that the kernel asks about, and the verdicts.
 *
 * The two directions that are taken for every connection, {@link PacketReader} and {@link Verdicts}, are written for
 * speed: plain offsets over views that are made once, no object a packet.
 */
import { attributeHead, LITTLE_ENDIAN, MessageWriter, NLM_F, NLMSG_ERROR, NLMSG_HEADER } from "./message.ts";

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
const PACKET = { HEADER: 1, INDEV: 5, OUTDEV: 6, HWADDR: 9 } as const;
const PAYLOAD = 10;
/** nlmsghdr and nfgenmsg, behind which the attributes begin. */
const HEADER = NLMSG_HEADER + 4;

/** Hooks of a packet. */
export const HOOK_PREROUTING = 0;
export const HOOK_POSTROUTING = 4;

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
	/** Indexes of devices, raw, 0 if there is none (yet). */
	inDevice = 0;
	outDevice = 0;
	/** Byte offset of the sender's hardware address, six bytes, a multiple of 4; 0 if there is none. */
	mac = 0;
	/** Byte offset of the IP packet in the buffer, a multiple of 4, and its bytes there. */
	payload = 0;
	length = 0;
}

const HEAD_HEADER = attributeHead(11, PACKET.HEADER);
const HEAD_INDEV = attributeHead(8, PACKET.INDEV);
const HEAD_OUTDEV = attributeHead(8, PACKET.OUTDEV);
const HEAD_HWADDR = attributeHead(16, PACKET.HWADDR);
/** Length of a hardware address of six bytes, and two bytes of nothing, as loaded. */
const SIX_BYTES = LITTLE_ENDIAN ? 0x600 : 0x60000;

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
		const words = this.#words;
		const halves = this.#halves;
		const end = from + words[from >> 2];
		if (length < HEADER || (from & 3) !== 0 || end > from + length || halves[(from >> 1) + 2] !== NFQNL_MSG_PACKET) return false;
		const number = halves[(from >> 1) + 9];
		packet.queue = LITTLE_ENDIAN ? ((number & 0xff) << 8) | (number >> 8) : number;
		packet.outDevice = 0;
		packet.inDevice = 0;
		packet.mac = 0;
		let w = (from + HEADER) >> 2;
		if (words[w] !== HEAD_HEADER) return false;
		packet.id = words[w + 1];
		packet.hook = this.#bytes[w * 4 + 10];
		// Behind the first each may be missing, and others be between them: ports of a bridge, the packet's priority.
		for (w += 3; w * 4 + 4 <= end; ) {
			const head = words[w];
			if (head === HEAD_INDEV) {
				packet.inDevice = words[w + 1];
				w += 2;
			} else if (head === HEAD_OUTDEV) {
				packet.outDevice = words[w + 1];
				w += 2;
			} else if (head === HEAD_HWADDR) {
				if (words[w + 1] === SIX_BYTES) packet.mac = w * 4 + 8;
				w += 4;
			} else {
				const size = halves[w * 2];
				if (size < 4 || w * 4 + size > end) return false;
				if ((halves[w * 2 + 1] & 0x3fff) === PAYLOAD) {
					packet.payload = w * 4 + 4;
					packet.length = size - 4;
					// The kernel writes nothing behind it.
					return true;
				}
				w += (size + 3) >> 2;
			}
		}
		return false;
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
/** Bytes of a verdict with a priority, the largest there is here, and of one without. */
const VERDICT_SIZE = 40;
const SHORT_SIZE = 32;
/** Most verdicts of one send. */
export const VERDICTS_MAX = 64;

/** Verdicts, as many as a send takes, in a buffer of their own; each has its queue's number and a packet's, raw. */
export class Verdicts {
	readonly buffer = new ArrayBuffer(VERDICT_SIZE * VERDICTS_MAX);
	/** Bytes of it that are verdicts: what to send. */
	length = 0;
	readonly #words = new Uint32Array(this.buffer);
	/** The words of a verdict with a priority, as stored. */
	readonly #form: Uint32Array;
	/** First words of one without. */
	readonly #short: number;
	/** The queue of the last one, and its word. */
	#queue = -1;
	#queueWord = 0;

	constructor(little: boolean = LITTLE_ENDIAN) {
		const form = new DataView(new ArrayBuffer(VERDICT_SIZE));
		form.setUint32(0, SHORT_SIZE, little);
		this.#short = new Uint32Array(form.buffer)[0];
		form.setUint32(0, VERDICT_SIZE, little);
		form.setUint16(4, NFQNL_MSG_VERDICT, little);
		form.setUint16(6, NLM_F.REQUEST, little);
		form.setUint16(20, 12, little);
		form.setUint16(22, VERDICT.HEADER, little);
		form.setUint32(24, ACCEPT);
		form.setUint16(32, 8, little);
		form.setUint16(34, VERDICT.PRIORITY, little);
		this.#form = new Uint32Array(form.buffer);
	}

	get full(): boolean {
		return this.length > this.buffer.byteLength - VERDICT_SIZE;
	}

	/** The packet goes on, as if there were no queue. */
	accept(queue: number, id: number): void {
		this.#words[(this.#put(queue, id, SHORT_SIZE) >> 2) + 6] = this.#form[6];
	}

	/** It goes on and its `skb->priority` is this number. */
	acceptWith(queue: number, id: number, priority: number): void {
		const words = this.#words;
		const form = this.#form;
		const w = this.#put(queue, id, VERDICT_SIZE) >> 2;
		words[w + 6] = form[6];
		words[w + 8] = form[8];
		words[w + 9] = big(priority);
	}

	/** It is no more. */
	drop(queue: number, id: number): void {
		this.#words[(this.#put(queue, id, SHORT_SIZE) >> 2) + 6] = DROP;
	}

	/** All but the verdict itself and its priority; returns its offset. */
	#put(queue: number, id: number, size: number): number {
		const words = this.#words;
		const form = this.#form;
		const at = this.length;
		const w = at >> 2;
		if (queue !== this.#queue) {
			this.#queue = queue;
			this.#queueWord = big(queue);
		}
		this.length = at + size;
		words[w] = size === VERDICT_SIZE ? form[0] : this.#short;
		words[w + 1] = form[1];
		words[w + 2] = 0;
		words[w + 3] = 0;
		words[w + 4] = this.#queueWord;
		words[w + 5] = form[5];
		words[w + 7] = id;
		return at;
	}
}

/** A number in network byte order, as loaded. */
function big(value: number): number {
	return LITTLE_ENDIAN ? (value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24) : value;
}
