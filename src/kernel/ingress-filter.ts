/**
 * A BPF program as a classic filter on a device's ingress (clsact queueing discipline and cls_bpf), for kernels before
 * 6.6, which have no tcx.
 *
 * The filter is known by its priority and handle, so that a program takes the place of the one that is there in one
 * step, also of one that a killed predecessor left. The queueing discipline is removed only if it was made here and
 * nobody else has put a filter on it since.
 */

import type { Fd } from "masq:native";
import { MessageWriter, NLM_F, type RequestHeader } from "../netlink/message.ts";
import { AF_UNSPEC, type Message, RTM, type RtnetlinkError, type TrafficMessage } from "../netlink/route.ts";
import type { KernelMirror } from "./mirror.ts";

/** Priority of the filter, behind those of SQM and the like, and its handle. */
const PRIORITY = 0x6d71;
const HANDLE = 1;
const PROTOCOL_ALL = 0x0003;

const CLSACT_HANDLE = 0xffff0000;
const CLSACT_PARENT = 0xfffffff1;
const INGRESS = 0xfffffff2;
const EGRESS = 0xfffffff3;

const TCA = { KIND: 1, OPTIONS: 2 } as const;
const TCA_BPF = { FD: 6, NAME: 7, FLAGS: 8 } as const;
const DIRECT_ACTION = 1;

/** The filters of one daemon. */
export class IngressFilters {
	readonly #view: KernelMirror;
	/** Devices whose queueing discipline was made here. */
	readonly #made = new Set<number>();

	constructor(view: KernelMirror) {
		this.#view = view;
	}

	/**
	 * Puts a program on a device, or in the place of the one that is there. Throws RtnetlinkError: ENOENT or EOPNOTSUPP
	 * on kernels without it.
	 */
	attach(ifindex: number, program: Fd): void {
		try {
			this.#view.request("make the clsact queueing discipline", (sequence) =>
				header(
					{ type: RTM.NEWQDISC, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE | NLM_F.EXCL, sequence },
					ifindex,
					CLSACT_HANDLE,
					CLSACT_PARENT,
					0,
				)
					.nameAttribute(TCA.KIND, "clsact")
					.finish(),
			);
			this.#made.add(ifindex);
		} catch (error) {
			if ((error as RtnetlinkError).code !== "EEXIST") throw error;
		}
		this.#view.request("attach a filter", (sequence) => {
			const out = header(
				{ type: RTM.NEWTFILTER, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE, sequence },
				ifindex,
				HANDLE,
				INGRESS,
				info(),
			);
			out.nameAttribute(TCA.KIND, "bpf");
			const options = out.openAttribute(TCA.OPTIONS);
			out.numberAttribute(TCA_BPF.FD, program).nameAttribute(TCA_BPF.NAME, "masqd").numberAttribute(TCA_BPF.FLAGS, DIRECT_ACTION);
			return out.closeAttribute(options).finish();
		});
	}

	/** Removes the filter, and the queueing discipline if it is ours and empty. Throws RtnetlinkError. */
	detach(ifindex: number): void {
		this.#view.request("remove a filter", (sequence) =>
			header({ type: RTM.DELTFILTER, flags: NLM_F.REQUEST | NLM_F.ACK, sequence }, ifindex, HANDLE, INGRESS, info())
				.nameAttribute(TCA.KIND, "bpf")
				.finish(),
		);
		if (!this.#made.delete(ifindex) || this.#filters(ifindex, INGRESS) + this.#filters(ifindex, EGRESS) > 0) return;
		this.#view.request("remove the clsact queueing discipline", (sequence) =>
			header({ type: RTM.DELQDISC, flags: NLM_F.REQUEST | NLM_F.ACK, sequence }, ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0).finish(),
		);
	}

	/**
	 * Removes the filter that a daemon which died has left on a device; false if there is none. Throws RtnetlinkError.
	 */
	detachLeft(ifindex: number): boolean {
		try {
			if (this.#filters(ifindex, INGRESS, (message) => message.kind === "traffic" && message.priority === PRIORITY) === 0) return false;
		} catch {
			// A kernel without filters.
			return false;
		}
		this.detach(ifindex);
		return true;
	}

	/**
	 * Filters that packets that come in by a device have to pass and that others have put there, such as the ingress
	 * shaper of SQM: a tcx program that sends packets on takes them past those. None on kernels without filters.
	 */
	othersOn(ifindex: number): Pick<TrafficMessage, "filter" | "redirect">[] {
		const found: TrafficMessage[] = [];
		try {
			this.#filters(ifindex, INGRESS, (message) => {
				if (message.kind === "traffic" && message.priority !== PRIORITY) found.push(message);
				return false;
			});
		} catch {
			return [];
		}
		// A filter is several messages; those of one that redirects say it once.
		return found.some((m) => m.redirect !== 0) ? found.filter((m) => m.redirect !== 0) : found;
	}

	/** Filters on one hook of a device. */
	#filters(ifindex: number, parent: number, counts?: (message: Message) => boolean): number {
		return this.#view.count(
			"list the filters",
			(sequence) => header({ type: RTM.GETTFILTER, flags: NLM_F.REQUEST | NLM_F.DUMP, sequence }, ifindex, 0, parent, 0).finish(),
			counts,
		);
	}
}

/** struct tcmsg. */
function header(request: RequestHeader, ifindex: number, handle: number, parent: number, information: number): MessageWriter {
	return new MessageWriter().message(request).byte(AF_UNSPEC).byte(0).short(0).word(ifindex).word(handle).word(parent).word(information);
}

/** tcm_info: priority and protocol, the latter in network order. */
function info(): number {
	const protocol = new DataView(new Uint16Array([PROTOCOL_ALL]).buffer).getUint16(0);
	return (PRIORITY * 0x10000 + protocol) >>> 0;
}
