/**
 * Asking for and deleting an nftables table by netlink, for where nft itself is what is missing.
 */
import type { Fd } from "masq:native";
import { MessageReader, NETLINK_NETFILTER, NLMSG_ERROR } from "../netlink/message.ts";
import { encodeBatch, encodeTableRequest, writeDeleteTable } from "../netlink/nftables.ts";

type NetlinkIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close">;

const ENOENT = 2;
const ANSWER_MAX = 4096;

/** Whether there is a table. Throws with the kernel's errno if it refuses, or the native error of the socket. */
export function hasTable(io: NetlinkIo, family: number, name: string): boolean {
	return ask(io, encodeTableRequest(family, name, 1), `look for table ${name}`);
}

/** Deletes a table with all that is in it; false if there is none. Throws as {@link hasTable}. */
export function deleteTable(io: NetlinkIo, family: number, name: string): boolean {
	return ask(
		io,
		encodeBatch(1, (out) => writeDeleteTable(out, family, name, 2)),
		`delete table ${name}`,
	);
}

/** Whether the kernel has granted a request; false if there is no such table. */
function ask(io: NetlinkIo, request: ArrayBuffer, what: string): boolean {
	const answer = new ArrayBuffer(ANSWER_MAX);
	const fd: Fd = io.netlinkOpen(NETLINK_NETFILTER, []);
	try {
		io.netlinkSend(fd, request, request.byteLength);
		// The kernel has answered when the send returns.
		const reader = new MessageReader(answer, io.netlinkReceive(fd, answer));
		if (!reader.next()) throw new Error("nftables does not answer");
		const errno = reader.type === NLMSG_ERROR ? reader.errno() : 0;
		if (errno !== 0 && errno !== ENOENT) throw new Error(`${what}: errno ${errno}`);
		return errno === 0;
	} finally {
		io.close(fd);
	}
}
