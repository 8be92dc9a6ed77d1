/**
 * The hosts that the kernel has been told of (queue-rules.ts): elements of the map `hosts`, by which a verdict names
 * where an inbound packet goes, and of the set `flooders`, who may ask only so often.
 */
import * as native from "masq:native";
import { MessageReader, NETLINK_NETFILTER, NLM_F, NLMSG_ERROR } from "../netlink/message.ts";
import { encodeBatch, NFPROTO, NFT, writeElements } from "../netlink/nftables.ts";

export class QueueHosts {
	/** Addresses (raw) by their index. */
	readonly #known = new Map<number, number>();
	readonly #buffer = new ArrayBuffer(4096);
	#fd: native.Fd = -1;

	/** The table has been made anew. */
	forget(): void {
		this.#known.clear();
	}

	close(): void {
		native.close(this.#fd);
		this.#fd = -1;
	}

	/** True if, from now on if not before, the kernel has an address (raw) for an index. */
	has(index: number, address: number): boolean {
		const known = this.#known.get(index);
		if (known === address) return true;
		const key = new Uint8Array(Uint32Array.of(index).buffer);
		const data = new Uint8Array(Int32Array.of(address).buffer);
		if (known !== undefined) this.change("hosts", NFT.DELSETELEM, 0, key, new Uint8Array(Int32Array.of(known).buffer));
		if (!this.change("hosts", NFT.NEWSETELEM, NLM_F.CREATE, key, data)) return false;
		this.#known.set(index, address);
		return true;
	}

	/** The host of an address (as loaded) asks for more than it can have. */
	floods(address: number): void {
		this.change("flooders", NFT.NEWSETELEM, NLM_F.CREATE, new Uint8Array(Int32Array.of(address).buffer));
	}

	/** Adds or deletes an element, with `data` one of a map; false if the kernel refuses. */
	change(set: string, type: number, flags: number, key: Uint8Array, data?: Uint8Array): boolean {
		if (this.#fd < 0) this.#fd = native.netlinkOpen(NETLINK_NETFILTER, []);
		const header = { type, flags: NLM_F.REQUEST | NLM_F.ACK | flags, sequence: 2 };
		const request = encodeBatch(1, (out) =>
			writeElements(out, header, NFPROTO.IPV4, "masqd", set, [data === undefined ? { key } : { key, data }]),
		);
		native.netlinkSend(this.#fd, request, request.byteLength);
		let taken = false;
		for (let length = native.netlinkReceive(this.#fd, this.#buffer); length > 0; length = native.netlinkReceive(this.#fd, this.#buffer))
			for (const reader = new MessageReader(this.#buffer, length); reader.next(); )
				if (reader.type === NLMSG_ERROR) taken = reader.errno() === 0;
		return taken;
	}
}
