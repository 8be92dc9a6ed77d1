/**
 * Deleting an nftables table by netlink, for where nft itself is what is missing: one batch of one message.
 */
import type { Fd } from "masq:native";

type NetlinkIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "encode">;

const NETLINK_NETFILTER = 12;
const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;
const NFNL_SUBSYS_NFTABLES = 10;
const NFT_MSG_DELTABLE = 2;
const NFTA_TABLE_NAME = 1;
const NFPROTO_INET = 1;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLMSG_ERROR = 2;
const ENOENT = 2;
/** nlmsghdr and nfgenmsg. */
const HEADER = 20;
const ANSWER_MAX = 4096;

/** Deletes `inet NAME` with all that is in it; false if there is none. Throws with the kernel's errno if it refuses, or the native error of the socket. */
export function deleteInetTable(io: NetlinkIo, name: string): boolean {
	const buffer = new ArrayBuffer(ANSWER_MAX);
	const view = new DataView(buffer);
	const little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
	let end = 0;
	const message = (type: number, flags: number, family: number, resource: number, attribute: number) => {
		view.setUint32(end, HEADER + attribute, little);
		view.setUint16(end + 4, type, little);
		view.setUint16(end + 6, NLM_F_REQUEST | flags, little);
		view.setUint8(end + 16, family);
		view.setUint16(end + 18, resource);
		end += HEADER;
	};
	message(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES, 0);
	const length = 4 + name.length + 1;
	message((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_DELTABLE, NLM_F_ACK, NFPROTO_INET, 0, (length + 3) & ~3);
	view.setUint16(end, length, little);
	view.setUint16(end + 2, NFTA_TABLE_NAME, little);
	io.encode(name, buffer, end + 4);
	end += (length + 3) & ~3;
	message(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES, 0);
	const fd: Fd = io.netlinkOpen(NETLINK_NETFILTER, []);
	try {
		io.netlinkSend(fd, buffer, end);
		// The kernel has answered when the send returns.
		io.netlinkReceive(fd, buffer);
		if (view.getUint16(4, little) !== NLMSG_ERROR) throw new Error("nftables does not answer");
		const errno = -view.getInt32(16, little);
		if (errno !== 0 && errno !== ENOENT) throw new Error(`delete table inet ${name}: errno ${errno}`);
		return errno === 0;
	} finally {
		io.close(fd);
	}
}
