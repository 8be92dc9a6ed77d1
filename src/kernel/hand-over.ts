/**
 * Hands the TCP connections that masqd carries over to the kernel, when the LAN is the kernel's again.
 *
 * To a kernel that knows nothing of a connection, the peer's next segment is one for the router itself: firewall4
 * answers it with a reset, and so does the kernel's own TCP. Only what its host sends makes the kernel take it up in
 * the middle, and a host that downloads sends nothing until it hears something. So the kernel gets an entry of each
 * connection, with masqd's mapping as its source NAT, before it gets the first packet.
 *
 * Entries that the kernel has of earlier are in the way: their windows have stood still since masqd started, every
 * segment is "invalid" to them, and firewall4 drops those. They are deleted first, or, where ctnetlink is not
 * installed, by OpenWrt's /proc/net/nf_conntrack; then the kernel has to take connections up in the middle, with the
 * ports that they have inside.
 *
 * Nothing is made of other protocols: what masquerades forgets its own mappings when the WAN's address changes and
 * would not forget these, which a host that sends every few seconds would keep alive forever. A connection ends with
 * its address anyway.
 */
import type { Fd } from "masq:native";
import {
	EXTERNAL_SHIFT,
	MOVED,
	R_IN,
	R_INTERNAL,
	R_META,
	R_OUT,
	R_PEER,
	RECORD_SHIFT,
	STATE_MASK,
	STATE_SHIFT,
} from "../conntrack/record.ts";
import { FREE, TCP_ESTABLISHED, TCP_FIN_IN, TCP_FIN_OUT, TCP_INSPECTED, TCP_OPENED } from "../conntrack/states.ts";
import { CT_DELETE, writeEntryRequest, writeTakenOver } from "../netlink/conntrack.ts";
import { MessageReader, MessageWriter, NETLINK_NETFILTER, NLM_F, NLMSG_ERROR } from "../netlink/message.ts";
import { firstOf, secondOf, TCP } from "../packet/layout.ts";

export { forgetUntranslated } from "./untranslated.ts";

type FlowsIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "writeFile">;

const ENOENT = 2;
const BATCH = 128;
/**
 * OpenWrt's kernels have this where the netlink part of conntrack is not installed: an address written to it ends the
 * entries of that address.
 */
const FLUSH = "/proc/net/nf_conntrack";
/** States of connections that go on. */
const GOES_ON: readonly number[] = [TCP_OPENED, TCP_ESTABLISHED, TCP_FIN_OUT, TCP_FIN_IN, TCP_INSPECTED];
const NOBODY = { protocol: TCP, source: 0, destination: 0, sourcePort: 0, destinationPort: 0 };

/** Where addresses and ports are in both requests: of the original tuple, then of the answers' and of the NAT. */
const SOURCE = 32;
const DESTINATION = 40;
const SOURCE_PORT = 60;
const DESTINATION_PORT = 68;
const REPLY = 52;
const NAT_ADDRESS = 180;
const NAT_PORT = 192;

/**
 * Hands over what goes on of `sessions`. Never throws: a kernel without conntrack takes nothing.
 *
 * @param T the words of the session table.
 * @param externals the external addresses by number, raw.
 * @param of which hosts' (raw addresses), by default everybody's.
 */
export function handOver(
	io: FlowsIo,
	T: Int32Array,
	externals: Int32Array,
	sessions: number,
	of: (internal: number) => boolean = () => true,
): void {
	const tcp: number[] = [];
	const going: number[] = [];
	for (let i = 1; i <= sessions; i++) {
		const meta = T[(i << RECORD_SHIFT) + R_META];
		const state = (meta >>> STATE_SHIFT) & STATE_MASK;
		if ((meta & 0xff) !== TCP || state === FREE || !of(T[(i << RECORD_SHIFT) + R_INTERNAL])) continue;
		tcp.push(i);
		const ports = (i << RECORD_SHIFT) + R_OUT;
		// What no NAT of the kernel's can go on with: sequence numbers that were moved, a peer under another port.
		if (GOES_ON.includes(state) && (meta & MOVED) === 0 && secondOf(T[ports]) === firstOf(T[ports + R_IN - R_OUT])) going.push(i);
	}
	if (tcp.length === 0) return;
	try {
		const fd = io.netlinkOpen(NETLINK_NETFILTER, []);
		try {
			const deletion = writeEntryRequest(new MessageWriter(), { type: CT_DELETE, flags: NLM_F.REQUEST, sequence: 1 }, NOBODY).finish();
			if (!requestAll(io, fd, deletion, T, externals, tcp)) deleteByAddress(io, T, tcp);
			else requestAll(io, fd, writeTakenOver(new MessageWriter(), NOBODY).finish(), T, externals, going);
		} finally {
			io.close(fd);
		}
	} catch {
		// No conntrack, or none that is to be told.
	}
}

/**
 * Sends a request for each session. False if the kernel does not know such requests; that it does not grant some is no
 * matter.
 */
function requestAll(
	io: FlowsIo,
	fd: Fd,
	template: ArrayBuffer,
	T: Int32Array,
	externals: Int32Array,
	sessions: readonly number[],
): boolean {
	const size = template.byteLength;
	const buffer = new ArrayBuffer(BATCH * size);
	for (let n = 0; n < BATCH; n++) new Uint8Array(buffer).set(new Uint8Array(template), n * size);
	// Addresses and ports are in the table as they are in packets.
	const words = new Int32Array(buffer);
	const halves = new Uint16Array(buffer);
	const answer = new ArrayBuffer(4096);
	let known = true;
	for (let from = 0; from < sessions.length; from += BATCH) {
		const some = sessions.slice(from, from + BATCH);
		for (const [n, i] of some.entries()) {
			const at = n * size;
			const e = i << RECORD_SHIFT;
			words[(at + SOURCE) >> 2] = T[e + R_INTERNAL];
			words[(at + DESTINATION) >> 2] = T[e + R_PEER];
			halves[(at + SOURCE_PORT) >> 1] = firstOf(T[e + R_OUT]);
			halves[(at + DESTINATION_PORT) >> 1] = secondOf(T[e + R_OUT]);
			if (size <= NAT_PORT) continue;
			words[(at + REPLY + SOURCE) >> 2] = T[e + R_PEER];
			words[(at + REPLY + DESTINATION) >> 2] = T[e + R_INTERNAL];
			halves[(at + REPLY + SOURCE_PORT) >> 1] = secondOf(T[e + R_OUT]);
			halves[(at + REPLY + DESTINATION_PORT) >> 1] = firstOf(T[e + R_OUT]);
			words[(at + NAT_ADDRESS) >> 2] = externals[(T[e + R_META] >>> EXTERNAL_SHIFT) & 0xff];
			halves[(at + NAT_PORT) >> 1] = secondOf(T[e + R_IN]);
		}
		io.netlinkSend(fd, buffer, some.length * size);
		// Only failures are answered, most of them for want of an entry.
		for (let length = io.netlinkReceive(fd, answer); length > 0; length = io.netlinkReceive(fd, answer)) {
			const reader = new MessageReader(answer, length);
			if (reader.next() && reader.type === NLMSG_ERROR && reader.errno() !== 0 && reader.errno() !== ENOENT) known = false;
		}
	}
	return known;
}

function deleteByAddress(io: FlowsIo, T: Int32Array, sessions: readonly number[]): void {
	const bytes = new Uint8Array(T.buffer, T.byteOffset);
	const at = (i: number) => ((i << RECORD_SHIFT) + R_INTERNAL) * 4;
	const hosts = new Set(sessions.map((i) => bytes.subarray(at(i), at(i) + 4).join(".")));
	for (const host of hosts) io.writeFile(FLUSH, `${host}\n`, 0o600);
}
