/**
 * The rules of the kernel driver (design.md section 5b): which packets the kernel asks masqd about, and what it does with the answer.
 */
import {
	bitwise,
	CT_KEY,
	counter,
	ct,
	type Expression,
	immediate,
	lookup,
	META_PRIORITY,
	meta,
	NAT,
	nat,
	setCt,
	setMeta,
	toNetwork,
} from "../netlink/nftables.ts";

/** Name of the table, of family ip. */
export const QUEUE_TABLE = "masqd";
/** Bits of the connection mark that are ours, and what is in them: the kernel's entry is of masqd's making. */
export const MARK = { value: 0x10000000, mask: 0xf0000000 } as const;

/** What a verdict's priority says besides the port, which is in its upper half: to leave by this external address, or to come in to this host. */
export const OUT = 0x4000;
export const IN = 0x8000;

const INDEX = 0xffff;
const LOADED = 8;
const KEY = 9;
const ADDRESS = 10;
const SCRATCH = 11;

/**
 * The rule that does what a verdict's priority says: `map` has an address for its lower half (if it has none, the packet is none of masqd's), the port is its
 * upper half. nft has no words for it.
 */
export function steer(map: string, kind: number): Expression[] {
	return [
		meta(META_PRIORITY, LOADED),
		bitwise(LOADED, KEY, INDEX, 0),
		lookup(map, KEY, ADDRESS),
		immediate(SCRATCH, 0),
		setMeta(META_PRIORITY, SCRATCH),
		ct(CT_KEY.MARK, SCRATCH),
		bitwise(SCRATCH, SCRATCH, ~MARK.mask, MARK.value),
		setCt(CT_KEY.MARK, SCRATCH),
		toNetwork(LOADED),
		counter(),
		nat(kind, ADDRESS, LOADED),
	];
}

export const OUTBOUND = NAT.SNAT;
export const INBOUND = NAT.DNAT;
