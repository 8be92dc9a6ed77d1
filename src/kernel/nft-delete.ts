/**
 * Deleting an nftables table by netlink, for where nft itself is what is missing: one transaction of one message.
 */
import type { Fd } from "masq:native";
import { MessageReader, NETLINK_NETFILTER, NLMSG_ERROR } from "../netlink/message.ts";
import { encodeBatch, writeDeleteTable } from "../netlink/nftables.ts";

type NetlinkIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close">;

const ENOENT = 2;
const ANSWER_MAX = 4096;

/** Deletes a table with all that is in it; false if there is none. Throws with the kernel's errno if it refuses, or the native error of the socket. */
export function deleteTable(io: NetlinkIo, family: number, name: string): boolean {
	const request = encodeBatch(1, (out) => writeDeleteTable(out, family, name, 2));
	const answer = new ArrayBuffer(ANSWER_MAX);
	const fd: Fd = io.netlinkOpen(NETLINK_NETFILTER, []);
	try {
		io.netlinkSend(fd, request, request.byteLength);
		// The kernel has answered when the send returns.
		const reader = new MessageReader(answer, io.netlinkReceive(fd, answer));
		if (!reader.next() || reader.type !== NLMSG_ERROR) throw new Error("nftables does not answer");
		const errno = reader.errno();
		if (errno !== 0 && errno !== ENOENT) throw new Error(`delete table ${name}: errno ${errno}`);
		return errno === 0;
	} finally {
		io.close(fd);
	}
}
