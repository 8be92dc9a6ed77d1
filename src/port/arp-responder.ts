/**
 * Answers ARP on the WAN for external addresses that no interface has (static NAT, pools), so that the upstream router
 * finds them.
 */

import * as native from "masq:native";
import type { AddressRange } from "../packet/address.ts";
import { ETH_P_ARP } from "../packet/ethernet.ts";
import { arpReply } from "./arp.ts";
import { arpFilter } from "./filter.ts";

const FRAME = 128;
/** Requests answered per call, so that a storm cannot hold up forwarding. */
const BUDGET = 16;

/** One socket for ARP requests to the given addresses. */
export class ArpResponder {
	readonly fd: native.Fd;
	readonly #ranges: readonly AddressRange[];
	readonly #mac: Uint8Array;
	readonly #buffer = new ArrayBuffer(FRAME);

	/** Throws a native error when the device has gone. */
	constructor(ifindex: number, ranges: readonly AddressRange[], mac: Uint8Array) {
		this.#ranges = ranges;
		this.#mac = mac;
		this.fd = native.etherOpen(ifindex, ETH_P_ARP, arpFilter(ranges));
	}

	/** Answers what has come. */
	serve(): void {
		const frame = new Uint8Array(this.#buffer);
		const owned = (address: number) => this.#ranges.some((r) => address >= r.first && address <= r.last);
		for (let n = 0; n < BUDGET; n++) {
			let length: number;
			try {
				length = native.read(this.fd, this.#buffer, 0, FRAME);
			} catch {
				return;
			}
			if (length <= 0) return;
			if (!arpReply(frame, length, owned, this.#mac)) continue;
			try {
				native.write(this.fd, this.#buffer, 0, length);
			} catch {
				// The device has just gone down, or takes no more: whoever asks asks again.
			}
		}
	}

	close(): void {
		native.close(this.fd);
	}
}
