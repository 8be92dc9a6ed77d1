/**
 * Messages of the Port Control Protocol (RFC 6887) and of NAT-PMP (RFC 6886), which share UDP port 5351: read and built
 * in one byte array. Addresses are in host order, ports host order, lifetimes and epochs seconds.
 */
import { TCP, UDP } from "./layout.ts";
import {
	ADDRESS_MISMATCH,
	ANNOUNCE,
	MALFORMED_REQUEST,
	MAP,
	NETWORK_FAILURE,
	NO_RESOURCES,
	NOT_AUTHORIZED,
	PCP_MAX,
	PEER,
	SUCCESS,
	UNSUPP_OPCODE,
	UNSUPP_OPTION,
	UNSUPP_PROTOCOL,
	UNSUPP_VERSION,
	USER_EX_QUOTA,
} from "./pcp-code.ts";

const VERSION = 2;
const HEADER = 24;
const MAP_BYTES = 36;
const PEER_BYTES = 56;
const PREFER_FAILURE = 2;
const MANDATORY_BELOW = 128;
/** Seconds for which an error holds: one that may pass soon, and one that will not (RFC 6887 section 7.4). */
const SHORT_ERROR = 30;
const LONG_ERROR = 1800;

/** A wish for an external port. */
export interface PortRequest {
	/** 0: NAT-PMP, else PCP. */
	version: number;
	/** ANNOUNCE (also NAT-PMP's question for the external address), MAP or PEER. */
	opcode: number;
	protocol: number;
	internalPort: number;
	suggested: number;
	lifetime: number;
	/** Twelve bytes as text: who may change the mapping. NAT-PMP has none. */
	nonce: string;
	/** Rather nothing than another port. */
	preferFailure: boolean;
	/** PEER: the only peer; 0 for MAP. */
	peer: number;
	peerPort: number;
}

/** What is answered. */
export interface PortAnswer {
	result: number;
	external: number;
	port: number;
	lifetime: number;
}

const get16 = (B: Uint8Array, at: number) => (B[at] << 8) | B[at + 1];
const get32 = (B: Uint8Array, at: number) => get16(B, at) * 65536 + get16(B, at + 2);

function put16(B: Uint8Array, at: number, value: number): void {
	B[at] = value >> 8;
	B[at + 1] = value;
}

function put32(B: Uint8Array, at: number, value: number): void {
	put16(B, at, Math.floor(value / 65536));
	put16(B, at + 2, value % 65536);
}

/** The IPv4 address in a 16-byte field (::ffff:a.b.c.d), -1 if it is not one. */
function mapped(B: Uint8Array, at: number): number {
	for (let i = 0; i < 12; i++) if (B[at + i] !== (i < 10 ? 0 : 0xff)) return -1;
	return get32(B, at + 12);
}

function putMapped(B: Uint8Array, at: number, address: number): void {
	B.fill(0, at, at + 10);
	B.fill(0xff, at + 10, at + 12);
	put32(B, at + 12, address);
}

/**
 * Reads the message of `length` bytes at `at`, sent by `source`. Returns the request, a result code that is to be
 * answered, or -1 for what is not answered (a response, or too short to be anything).
 */
export function readRequest(B: Uint8Array, at: number, length: number, source: number): PortRequest | number {
	if (length < 2 || B[at + 1] & 0x80) return -1;
	const q: PortRequest = {
		version: B[at],
		opcode: B[at + 1],
		protocol: 0,
		internalPort: 0,
		suggested: 0,
		lifetime: 0,
		nonce: "",
		preferFailure: false,
		peer: 0,
		peerPort: 0,
	};
	if (q.version === 0) {
		if (q.opcode === 0) return q;
		if (q.opcode > 2) return UNSUPP_OPCODE;
		if (length < 12) return -1;
		q.protocol = q.opcode === 1 ? UDP : TCP;
		q.opcode = MAP;
		q.internalPort = get16(B, at + 4);
		q.suggested = get16(B, at + 6);
		q.lifetime = get32(B, at + 8);
		return q;
	}
	if (q.version !== VERSION) return UNSUPP_VERSION;
	if (length < HEADER || length > PCP_MAX || length % 4 !== 0) return MALFORMED_REQUEST;
	if (q.opcode > PEER) return UNSUPP_OPCODE;
	if (mapped(B, at + 8) !== source) return ADDRESS_MISMATCH;
	q.lifetime = get32(B, at + 4);
	if (q.opcode === ANNOUNCE) return q;
	let p = at + HEADER;
	const bytes = q.opcode === MAP ? MAP_BYTES : PEER_BYTES;
	if (length < HEADER + bytes) return MALFORMED_REQUEST;
	for (let i = 0; i < 12; i++) q.nonce += B[p + i].toString(16).padStart(2, "0");
	q.protocol = B[p + 12];
	q.internalPort = get16(B, p + 16);
	q.suggested = get16(B, p + 18);
	if (q.opcode === PEER) {
		q.peerPort = get16(B, p + 36);
		q.peer = mapped(B, p + 40);
		if (q.peer <= 0) return MALFORMED_REQUEST;
	}
	if (q.protocol !== TCP && q.protocol !== UDP) return UNSUPP_PROTOCOL;
	if (q.internalPort === 0) return q.lifetime === 0 ? NOT_AUTHORIZED : UNSUPP_PROTOCOL;
	for (p += bytes; p < at + length; p += 4 + ((get16(B, p + 2) + 3) & ~3)) {
		if (p + 4 + get16(B, p + 2) > at + length) return MALFORMED_REQUEST;
		if (B[p] === PREFER_FAILURE && q.opcode === MAP) q.preferFailure = true;
		else if (B[p] < MANDATORY_BELOW) return UNSUPP_OPTION;
	}
	return q;
}

/**
 * Turns the request of `length` bytes at `at` into its answer, in place; the array must have room for it. `epoch` is
 * the seconds for which the mappings are kept. Returns its bytes.
 */
export function writeAnswer(B: Uint8Array, at: number, length: number, q: PortRequest | number, a: PortAnswer, epoch: number): number {
	const natpmp = B[at] === 0;
	B[at + 1] |= 0x80;
	if (natpmp) {
		const asked = B[at + 1] & 0x7f;
		// Its codes: 1 version, 2 refused, 3 network failure, 4 out of resources, 5 opcode.
		const codes: Record<number, number> = { [SUCCESS]: 0, [NOT_AUTHORIZED]: 2, [NETWORK_FAILURE]: 3, [UNSUPP_OPCODE]: 5 };
		put16(B, at + 2, codes[a.result] ?? 4);
		const internal = get16(B, at + 4);
		put32(B, at + 4, epoch);
		if (asked === 0) {
			put32(B, at + 8, a.external);
			return 12;
		}
		if (asked > 2) return 8;
		put16(B, at + 8, internal);
		put16(B, at + 10, a.port);
		put32(B, at + 12, a.result === SUCCESS ? a.lifetime : 0);
		return 16;
	}
	if (length < HEADER) {
		B.fill(0, at + length, at + HEADER);
		length = HEADER;
	}
	length = Math.min(length, PCP_MAX) & ~3;
	B[at] = VERSION;
	B[at + 2] = 0;
	B[at + 3] = a.result;
	const passing = a.result === NETWORK_FAILURE || a.result === NO_RESOURCES || a.result === USER_EX_QUOTA;
	put32(B, at + 4, a.result === SUCCESS ? a.lifetime : passing ? SHORT_ERROR : LONG_ERROR);
	put32(B, at + 8, epoch);
	B.fill(0, at + 12, at + 24);
	if (typeof q !== "number" && q.opcode !== ANNOUNCE && a.result === SUCCESS) {
		put16(B, at + HEADER + 18, a.port);
		putMapped(B, at + HEADER + 20, a.external);
	}
	return length;
}
