/**
 * Netlink messages (RFC 3549, linux/netlink.h): values to bytes and bytes to values, whatever the family. No socket is
 * touched here.
 *
 * A datagram holds messages: a 16-byte `nlmsghdr`, a fixed header of the family, then attributes (length, type,
 * payload, padded to 4), which may hold attributes themselves. Headers and attribute headers are in the host's byte
 * order. Numbers inside attributes are too in rtnetlink; in netfilter's families they are in network order, but for
 * what goes into nftables' registers. So each number is written and read by a method that names its order: `number` is
 * the host's, `network` the wire's. The host's order is a parameter for tests alone.
 *
 * Nothing read can make a reader throw or look outside the datagram: an attribute that overruns its message ends the
 * attributes, one too short for what is asked of it gives the caller's default.
 */

/** True on little-endian machines (mipsel, arm, x86), false on big-endian ones (ath79). */
export const LITTLE_ENDIAN: boolean = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

/** Types that every family has. */
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
/** Bytes of `nlmsghdr`. */
export const NLMSG_HEADER = 16;

/** Flags of `nlmsg_flags`. */
export const NLM_F = {
	REQUEST: 0x1,
	MULTI: 0x2,
	ACK: 0x4,
	DUMP_INTR: 0x10,
	DUMP: 0x300,
	REPLACE: 0x100,
	EXCL: 0x200,
	CREATE: 0x400,
	APPEND: 0x800,
} as const;

/** Families of netlink (`netlinkOpen`). */
export const NETLINK_NETFILTER = 12;

const ATTRIBUTE_HEADER = 4;
const ATTRIBUTE_TYPE = 0x3fff;
const NESTED = 0x8000;

/** Type, flags and sequence number of a request. */
export interface RequestHeader {
	type: number;
	flags: number;
	sequence: number;
}

/** A length as it counts for where the next thing begins. */
export const align = (length: number): number => (length + 3) & ~3;

// ---- reading -----------------------------------------------------------------------------------------------

/** Walks the messages of a datagram. */
export class MessageReader {
	/** Of the message that {@link next} came to: its header, and where what follows it lies. */
	type = 0;
	flags = 0;
	sequence = 0;
	at = 0;
	end = 0;
	/** A message overran the datagram: it was the last, and is not to be believed. */
	malformed = false;
	readonly view: DataView;
	readonly little: boolean;
	/** The datagram by whole words, null if it is not in this machine's byte order. */
	readonly words: Uint32Array | null;
	#next = 0;

	/** `length` bytes of the buffer are the datagram; offset 0 is the first header. */
	constructor(buffer: ArrayBuffer, length: number, little: boolean = LITTLE_ENDIAN) {
		this.view = new DataView(buffer, 0, Math.min(length, buffer.byteLength));
		this.little = little;
		this.words = little === LITTLE_ENDIAN ? new Uint32Array(buffer, 0, this.view.byteLength >> 2) : null;
	}

	next(): boolean {
		const { view, little } = this;
		const from = this.#next;
		if (this.malformed || from + NLMSG_HEADER > view.byteLength) return false;
		const size = view.getUint32(from, little);
		this.type = view.getUint16(from + 4, little);
		this.flags = view.getUint16(from + 6, little);
		this.sequence = view.getUint32(from + 8, little);
		this.at = from + NLMSG_HEADER;
		this.end = from + size;
		if (size < NLMSG_HEADER || this.end > view.byteLength) {
			this.malformed = true;
			return false;
		}
		this.#next = from + align(size);
		return true;
	}

	/** Of an NLMSG_ERROR or NLMSG_DONE: the errno, 0 for an acknowledgement; -1 if it is cut short. */
	errno(): number {
		return this.end - this.at >= 4 ? -this.view.getInt32(this.at, this.little) || 0 : -1;
	}

	/** The attributes behind a fixed header of `header` bytes. */
	attributes(header: number): AttributeReader {
		return new AttributeReader(this.view, this.at + header, this.end, this.little);
	}
}

/** First word of an attribute as loaded: its length, this word included, and its type. */
export function attributeHead(length: number, type: number): number {
	return (LITTLE_ENDIAN ? length | (type << 16) : (length << 16) | type) >>> 0;
}

/** Walks attributes. */
export class AttributeReader {
	/** Type of the attribute that {@link next} came to, and where its payload lies. */
	type = 0;
	at = 0;
	length = 0;
	readonly #view: DataView;
	readonly #end: number;
	readonly #little: boolean;
	#next: number;

	constructor(view: DataView, from: number, end: number, little: boolean) {
		this.#view = view;
		this.#next = from;
		this.#end = end;
		this.#little = little;
	}

	next(): boolean {
		const at = this.#next;
		if (at + ATTRIBUTE_HEADER > this.#end) return false;
		const length = this.#view.getUint16(at, this.#little);
		if (length < ATTRIBUTE_HEADER || at + length > this.#end) return false;
		this.type = this.#view.getUint16(at + 2, this.#little) & ATTRIBUTE_TYPE;
		this.at = at + ATTRIBUTE_HEADER;
		this.length = length - ATTRIBUTE_HEADER;
		this.#next = at + align(length);
		return true;
	}

	/** The payload as a number in the host's order, `otherwise` if it is too short. */
	number(otherwise: number): number {
		return this.length >= 4 ? this.#view.getUint32(this.at, this.#little) : otherwise;
	}

	byte(otherwise: number): number {
		return this.length >= 1 ? this.#view.getUint8(this.at) : otherwise;
	}

	/** In network order: 32 bits, */
	network(otherwise: number): number {
		return this.length >= 4 ? this.#view.getUint32(this.at, false) : otherwise;
	}

	/** 16 bits, */
	network16(otherwise: number): number {
		return this.length >= 2 ? this.#view.getUint16(this.at, false) : otherwise;
	}

	/** and 64, exact below 2^53. */
	network64(otherwise: number): number {
		if (this.length < 8) return otherwise;
		return this.#view.getUint32(this.at, false) * 2 ** 32 + this.#view.getUint32(this.at + 4, false);
	}

	/** A copy, null of an empty payload. */
	bytes(): Uint8Array | null {
		return this.length === 0 ? null : new Uint8Array(this.#view.buffer, this.#view.byteOffset + this.at, this.length).slice();
	}

	/** Up to the first zero byte, a character for each byte. */
	text(): string {
		let text = "";
		for (let i = 0; i < this.length; i++) {
			const byte = this.#view.getUint8(this.at + i);
			if (byte === 0) break;
			text += String.fromCharCode(byte);
		}
		return text;
	}

	nested(): AttributeReader {
		return new AttributeReader(this.#view, this.at, this.at + this.length, this.#little);
	}
}

// ---- writing -----------------------------------------------------------------------------------------------

/** Room at first; it grows. */
const ROOM = 256;

/** Builds messages one behind the other: for each its header, the family's fields in their order, then attributes. */
export class MessageWriter {
	#buffer = new ArrayBuffer(ROOM);
	#view = new DataView(this.#buffer);
	readonly #little: boolean;
	/** Where the message in hand begins, -1 before the first, and where the next byte goes. */
	#from = -1;
	#at = 0;

	constructor(little: boolean = LITTLE_ENDIAN) {
		this.#little = little;
	}

	/** Begins a message. */
	message({ type, flags, sequence }: RequestHeader): this {
		this.#end();
		const from = this.#take(NLMSG_HEADER);
		this.#from = from;
		this.#view.setUint16(from + 4, type, this.#little);
		this.#view.setUint16(from + 6, flags, this.#little);
		this.#view.setUint32(from + 8, sequence, this.#little);
		return this;
	}

	byte(value: number): this {
		const at = this.#take(1);
		this.#view.setUint8(at, value);
		return this;
	}

	short(value: number): this {
		const at = this.#take(2);
		this.#view.setUint16(at, value, this.#little);
		return this;
	}

	word(value: number): this {
		const at = this.#take(4);
		this.#view.setUint32(at, value, this.#little);
		return this;
	}

	/** `nfgenmsg`, netfilter's fixed header. */
	netfilter(family: number, resource = 0): this {
		this.byte(family).byte(0);
		const at = this.#take(2);
		this.#view.setUint16(at, resource, false);
		return this;
	}

	/**
	 * Begins an attribute that holds others; returns what {@link closeAttribute} needs. `flag`: it says so itself, as
	 * netfilter wants it.
	 */
	openAttribute(type: number, flag = false): number {
		return this.#attribute(flag ? type | NESTED : type, 0);
	}

	/** Ends it behind the last attribute written. */
	closeAttribute(open: number): this {
		this.#view.setUint16(open - ATTRIBUTE_HEADER, this.#at - open + ATTRIBUTE_HEADER, this.#little);
		return this;
	}

	/** An attribute that holds those which `fill` writes, marked as such. */
	nest(type: number, fill: (writer: this) => void): this {
		const open = this.openAttribute(type, true);
		fill(this);
		return this.closeAttribute(open);
	}

	numberAttribute(type: number, value: number): this {
		const at = this.#attribute(type, 4);
		this.#view.setUint32(at, value, this.#little);
		return this;
	}

	byteAttribute(type: number, value: number): this {
		const at = this.#attribute(type, 1);
		this.#view.setUint8(at, value);
		return this;
	}

	/** In network order: 32 bits, */
	networkAttribute(type: number, value: number): this {
		const at = this.#attribute(type, 4);
		this.#view.setUint32(at, value, false);
		return this;
	}

	/** and 16. */
	network16Attribute(type: number, value: number): this {
		const at = this.#attribute(type, 2);
		this.#view.setUint16(at, value, false);
		return this;
	}

	bytesAttribute(type: number, value: Uint8Array): this {
		const at = this.#attribute(type, value.length);
		new Uint8Array(this.#buffer).set(value, at);
		return this;
	}

	/** Names are bytes to the kernel, with a zero behind them; masqd takes only those of one byte a character. */
	nameAttribute(type: number, value: string): this {
		const at = this.#attribute(type, value.length + 1);
		for (let i = 0; i < value.length; i++) this.#view.setUint8(at + i, value.charCodeAt(i));
		return this;
	}

	/** All messages, as what one send takes. */
	finish(): ArrayBuffer {
		this.#end();
		return this.#buffer.slice(0, this.#at);
	}

	#end(): void {
		if (this.#from >= 0) this.#view.setUint32(this.#from, this.#at - this.#from, this.#little);
	}

	#attribute(type: number, length: number): number {
		const at = this.#take(align(ATTRIBUTE_HEADER + length));
		this.#view.setUint16(at, ATTRIBUTE_HEADER + length, this.#little);
		this.#view.setUint16(at + 2, type, this.#little);
		return at + ATTRIBUTE_HEADER;
	}

	/** Room for `bytes`, zeros. */
	#take(bytes: number): number {
		const at = this.#at;
		this.#at += bytes;
		if (this.#at > this.#buffer.byteLength) {
			const larger = new Uint8Array(Math.max(this.#at, this.#buffer.byteLength * 2));
			larger.set(new Uint8Array(this.#buffer));
			this.#buffer = larger.buffer;
			this.#view = new DataView(this.#buffer);
		}
		return at;
	}
}
