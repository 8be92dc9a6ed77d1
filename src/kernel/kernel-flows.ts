/**
 * What the kernel's conntrack still believes of connections that masqd has carried on: a connection that the kernel translated before masqd started has an
 * entry whose window has stood still since then, so once the kernel has it back every segment is "invalid", and firewall4 drops those. Without the entry the
 * kernel takes the connection up in the middle, with the port that it has.
 */
import type { Fd } from "masq:native";
import { R_INSIDE, R_META, R_OUT, R_PEER, RECORD_SHIFT } from "../conntrack/record.ts";
import { TCP } from "../packet/layout.ts";

type FlowsIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "writeFile">;

const NETLINK_NETFILTER = 12;
/** NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE. */
const CT_DELETE = 0x102;
const NLM_F_REQUEST = 1;
const AF_INET = 2;
const NESTED = 0x8000;
const TUPLE_ORIGINAL = 1;
const TUPLE_IP = 1;
const TUPLE_PROTO = 2;
const IP_SOURCE = 1;
const IP_DESTINATION = 2;
const PROTO_NUMBER = 1;
const PROTO_SOURCE = 2;
const PROTO_DESTINATION = 3;
const NLMSG_ERROR = 2;
const ENOENT = 2;
/** A message: headers, then the tuple of an IPv4 connection. */
const SIZE = 72;
const BATCH = 256;
/** OpenWrt's kernels have this where the netlink part of conntrack is not installed: an address written to it ends the entries of that address. */
const FLUSH = "/proc/net/nf_conntrack";

/**
 * Has the kernel forget its own entries, in its common zone, of the TCP connections among `sessions`. Never throws: a kernel without conntrack has none.
 *
 * @param T the words of the session table.
 */
export function forgetKernelFlows(io: FlowsIo, T: Int32Array, sessions: Iterable<number>): void {
	const tcp = [...sessions].filter((i) => (T[(i << RECORD_SHIFT) + R_META] & 0xff) === TCP);
	if (tcp.length === 0) return;
	try {
		if (!deleteByNetlink(io, T, tcp)) deleteByAddress(io, T, tcp);
	} catch {
		// No conntrack, or none that is to be told.
	}
}

/** False if the kernel does not know the request. */
function deleteByNetlink(io: FlowsIo, T: Int32Array, sessions: readonly number[]): boolean {
	const buffer = new ArrayBuffer(BATCH * SIZE);
	const bytes = new DataView(buffer);
	// Addresses and ports are in the table as they are in packets.
	const words = new Int32Array(buffer);
	const halves = new Uint16Array(buffer);
	const out = new Uint16Array(T.buffer, T.byteOffset);
	const little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
	const attribute = (at: number, length: number, type: number) => {
		bytes.setUint16(at, length, little);
		bytes.setUint16(at + 2, type, little);
	};
	for (let n = 0; n < BATCH; n++) {
		const at = n * SIZE;
		bytes.setUint32(at, SIZE, little);
		bytes.setUint16(at + 4, CT_DELETE, little);
		bytes.setUint16(at + 6, NLM_F_REQUEST, little);
		bytes.setUint8(at + 16, AF_INET);
		attribute(at + 20, 52, NESTED | TUPLE_ORIGINAL);
		attribute(at + 24, 20, NESTED | TUPLE_IP);
		attribute(at + 28, 8, IP_SOURCE);
		attribute(at + 36, 8, IP_DESTINATION);
		attribute(at + 44, 28, NESTED | TUPLE_PROTO);
		attribute(at + 48, 5, PROTO_NUMBER);
		bytes.setUint8(at + 52, TCP);
		attribute(at + 56, 6, PROTO_SOURCE);
		attribute(at + 64, 6, PROTO_DESTINATION);
	}
	const fd: Fd = io.netlinkOpen(NETLINK_NETFILTER, []);
	const answer = new ArrayBuffer(4096);
	try {
		for (let from = 0; from < sessions.length; from += BATCH) {
			const some = sessions.slice(from, from + BATCH);
			for (const [n, i] of some.entries()) {
				const at = n * SIZE;
				const e = i << RECORD_SHIFT;
				words[(at + 32) >> 2] = T[e + R_INSIDE];
				words[(at + 40) >> 2] = T[e + R_PEER];
				halves[(at + 60) >> 1] = out[(e + R_OUT) * 2];
				halves[(at + 68) >> 1] = out[(e + R_OUT) * 2 + 1];
			}
			io.netlinkSend(fd, buffer, some.length * SIZE);
			// Only failures are answered, most of them for want of an entry.
			for (let length = io.netlinkReceive(fd, answer); length > 0; length = io.netlinkReceive(fd, answer)) {
				const v = new DataView(answer);
				if (v.getUint16(4, little) === NLMSG_ERROR && v.getInt32(16, little) !== 0 && v.getInt32(16, little) !== -ENOENT) return false;
			}
		}
	} finally {
		io.close(fd);
	}
	return true;
}

function deleteByAddress(io: FlowsIo, T: Int32Array, sessions: readonly number[]): void {
	const bytes = new Uint8Array(T.buffer, T.byteOffset);
	const hosts = new Set(
		sessions.map((i) => bytes.subarray(((i << RECORD_SHIFT) + R_INSIDE) * 4, ((i << RECORD_SHIFT) + R_INSIDE) * 4 + 4).join(".")),
	);
	for (const host of hosts) io.writeFile(FLUSH, `${host}\n`, 0o600);
}
