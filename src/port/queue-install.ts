/**
 * Puts the kernel driver's rules into the kernel and takes them away.
 */
import type { Fd } from "masq:native";
import { MessageReader, NETLINK_NETFILTER, NLMSG_ERROR } from "../netlink/message.ts";
import { numberingRule, QUEUE_TABLE, type QueueFacts, queueRuleset, rawRules } from "./queue-rules.ts";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type QueueIo = Pick<typeof import("masq:native"), "run" | "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close">;

const NFT_TIMEOUT_MS = 10_000;
const RULES = 4;

/**
 * Installs the rules, in place of those that are there. For the moment between two transactions the kernel asks nobody.
 *
 * @throws Error with nft's own words or what the kernel lacks, or the native error if there is no nft.
 */
export function installQueueRules(io: QueueIo, facts: QueueFacts): void {
	const { status, output } = io.run(["nft", "-f", "-"], queueRuleset(facts), NFT_TIMEOUT_MS);
	if (status !== 0) throw new Error(`install the table ${QUEUE_TABLE}: nft: ${output.split("\n", 1)[0] || `status ${status}`}`);
	// A refused transaction leaves nothing.
	if (exchange(io, rawRules(true, 1), RULES) === 0 || exchange(io, rawRules(false, 1), RULES) === 0) {
		// A kernel that cannot do this leaves identifications as hosts have made them.
		exchange(io, numberingRule(1), 1);
		return;
	}
	removeQueueRules(io);
	throw new Error("the kernel cannot queue packets by nft; install kmod-nft-queue, kmod-nft-nat and kmod-nf-conntrack-netlink");
}

/** Removes the rules; false if there were none. */
export function removeQueueRules(io: Pick<QueueIo, "run">): boolean {
	return io.run(["nft", "delete", "table", ...QUEUE_TABLE.split(" ")], "", NFT_TIMEOUT_MS).status === 0;
}

/** Sends a transaction; 0 or the first errno. */
function exchange(io: QueueIo, request: ArrayBuffer, rules: number): number {
	const fd: Fd = io.netlinkOpen(NETLINK_NETFILTER, []);
	const answer = new ArrayBuffer(request.byteLength + 4096);
	let errno = 0;
	let answers = 0;
	try {
		io.netlinkSend(fd, request, request.byteLength);
		for (let length = io.netlinkReceive(fd, answer); length > 0; length = io.netlinkReceive(fd, answer))
			for (const reader = new MessageReader(answer, length); reader.next(); ) {
				if (reader.type !== NLMSG_ERROR) continue;
				answers++;
				errno ||= reader.errno();
			}
	} finally {
		io.close(fd);
	}
	return answers < rules ? errno || -1 : errno;
}
