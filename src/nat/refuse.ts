/** A packet is dropped and its sender told why, as the row of its reason says (reason.ts). */
import type { Context } from "./context.ts";
import type { IcmpSender } from "./icmp-error.ts";
import type { PacketDescriptor } from "./packet-descriptor.ts";
import { ANSWERS, BUSY, RESET } from "./reason.ts";
import { replyReset } from "./tcp-reset.ts";

/** Drops `frames` of a packet and answers it; `rest` as in {@link IcmpSender.send}. */
export function refuse(c: Context, errors: IcmpSender, p: PacketDescriptor, reason: number, frames = 1, rest = 0): 0 {
	p.drop(reason, frames);
	const answer = ANSWERS[reason];
	if (answer === RESET) {
		if (!c.adopt) replyReset(c, p.slot, p.port, p.l4);
	} else if (answer !== 0) errors.send(p.slot, p.length, p.port, answer === BUSY ? c.policy.refusal : answer, rest);
	return 0;
}
