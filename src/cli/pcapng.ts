/**
 * pcapng files (draft-ietf-opsawg-pcapng): a section header, an interface per device, packets with comments. Packets
 * begin with the IP header.
 *
 * libpcap refuses a file without any interface, and one of whose interfaces the link type differs from the first one's;
 * what it compares are its own numbers for them, and for LINKTYPE_RAW those differ even when the file's are the same.
 * Hence LINKTYPE_IPV4, and an interface that stands there before the first packet.
 */

const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE = 1;
const ENHANCED_PACKET = 6;
/** IPv4 without link header. */
const LINKTYPE_IPV4 = 228;
/** Name of the interface that no packet is seen at. */
const NOWHERE = "masqd";
const OPT_COMMENT = 1;
const IF_NAME = 2;

/** Blocks with little-endian numbers. */
export class PcapngWriter {
	readonly #write: (bytes: Uint8Array) => void;
	readonly #snap: number;
	readonly #interfaces = new Map<string, number>();

	/** Begins a file. `write` gets whole blocks; `snap` is the most bytes kept of a packet. */
	constructor(snap: number, write: (bytes: Uint8Array) => void) {
		this.#write = write;
		this.#snap = snap;
		const body = new Uint8Array(16);
		const v = new DataView(body.buffer);
		v.setUint32(0, BYTE_ORDER_MAGIC, true);
		v.setUint16(4, 1, true);
		v.setUint32(8, 0xffffffff, true);
		v.setUint32(12, 0xffffffff, true);
		this.#block(SECTION_HEADER, [body]);
		this.#interface(NOWHERE);
	}

	#block(type: number, parts: Uint8Array[]): void {
		const length = 12 + parts.reduce((sum, p) => sum + ((p.length + 3) & ~3), 0);
		const bytes = new Uint8Array(length);
		const v = new DataView(bytes.buffer);
		v.setUint32(0, type, true);
		v.setUint32(4, length, true);
		let at = 8;
		for (const p of parts) {
			bytes.set(p, at);
			at += (p.length + 3) & ~3;
		}
		v.setUint32(at, length, true);
		this.#write(bytes);
	}

	/** Number of a device's interface, which is described when it is first used. */
	#interface(name: string): number {
		const known = this.#interfaces.get(name);
		if (known !== undefined) return known;
		const body = new Uint8Array(8);
		const v = new DataView(body.buffer);
		v.setUint16(0, LINKTYPE_IPV4, true);
		v.setUint32(4, this.#snap, true);
		this.#block(INTERFACE, [body, ...option(IF_NAME, name)]);
		this.#interfaces.set(name, this.#interfaces.size);
		return this.#interfaces.size - 1;
	}

	/**
	 * Writes a packet: seen at `device` at `time` (milliseconds since 1970), `length` bytes of which `bytes` were kept.
	 */
	packet(device: string, time: number, bytes: Uint8Array, length: number, comment: string): void {
		const number = this.#interface(device);
		const head = new Uint8Array(20);
		const v = new DataView(head.buffer);
		const micros = Math.floor(time * 1000);
		v.setUint32(0, number, true);
		v.setUint32(4, Math.floor(micros / 2 ** 32), true);
		v.setUint32(8, micros % 2 ** 32, true);
		v.setUint32(12, bytes.length, true);
		v.setUint32(16, length, true);
		this.#block(ENHANCED_PACKET, [head, bytes, ...option(OPT_COMMENT, comment)]);
	}
}

/** An ASCII option and the end of options. */
function option(code: number, text: string): Uint8Array[] {
	const bytes = new Uint8Array(4 + text.length);
	const v = new DataView(bytes.buffer);
	v.setUint16(0, code, true);
	v.setUint16(2, text.length, true);
	for (let i = 0; i < text.length; i++) bytes[4 + i] = text.charCodeAt(i);
	return [bytes, new Uint8Array(4)];
}
