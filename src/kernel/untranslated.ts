/**
 * The kernel's connection tracking entries of what a tun-driver LAN sends, and the kernel does not translate.
 *
 * Before masqd came it may have forwarded some of it untranslated. It tracks what the LAN sends in a zone of its own
 * from now on (guard.ts), the answers in that of everything else. Of two entries of one flow that expect the same
 * answers the kernel takes the older for right, and drops every packet of the other, until the older one's time is up.
 *
 * What masqd has had, the kernel has an entry of without NAT. When a policy rule or a route leads the flow elsewhere,
 * it would go untranslated by that entry, and nobody could answer.
 */
import { CT_DELETE, type Entry, encodeEntryDump, parseEntry, writeEntryRequest } from "../netlink/conntrack.ts";
import { MessageReader, MessageWriter, NETLINK_NETFILTER, NLM_F, NLMSG_DONE, NLMSG_ERROR } from "../netlink/message.ts";
import type { Subnet } from "../packet/address.ts";

type EntriesIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "poll" | "POLLIN">;

const DATAGRAM_MAX = 32768;
/** Milliseconds that the kernel may take for an answer. */
const PATIENCE = 1000;
const EVERYTHING = { value: 0, mask: 0 };

/**
 * Deletes those of hosts of `nets` to the destinations (host order) that `to` says, or (`before`) of them those in no
 * zone. Never throws: a kernel without conntrack has none.
 */
export function forgetUntranslated(io: EntriesIo, nets: readonly Subnet[], before: boolean, to: (destination: number) => boolean): void {
	const inTheWay = ({ original, reply }: Entry) =>
		!(before && original.zone !== undefined) &&
		nets.some((net) => ((original.source ^ net.address) & net.mask) === 0) &&
		to(original.destination) &&
		reply.source === original.destination &&
		reply.destination === original.source;
	try {
		const fd = io.netlinkOpen(NETLINK_NETFILTER, []);
		try {
			for (const { original } of listed(io, fd, inTheWay)) {
				const request = writeEntryRequest(new MessageWriter(), { type: CT_DELETE, flags: NLM_F.REQUEST, sequence: 2 }, original).finish();
				io.netlinkSend(fd, request, request.byteLength);
			}
		} finally {
			io.close(fd);
		}
	} catch {
		// It tracks nothing, or not for masqd to see.
	}
}

function listed(io: EntriesIo, fd: number, wanted: (entry: Entry) => boolean): Entry[] {
	const entries: Entry[] = [];
	const request = encodeEntryDump(EVERYTHING, 1);
	io.netlinkSend(fd, request, request.byteLength);
	const buffer = new ArrayBuffer(DATAGRAM_MAX);
	for (;;) {
		const length = io.netlinkReceive(fd, buffer);
		if (length === 0 && io.poll(Int32Array.of(fd, io.POLLIN, 0), 1, PATIENCE) === 0) return entries;
		for (const reader = new MessageReader(buffer, length); reader.next(); ) {
			if (reader.type === NLMSG_DONE || reader.type === NLMSG_ERROR) return entries;
			const entry = parseEntry(reader);
			if (entry !== null && wanted(entry)) entries.push(entry);
		}
	}
}
