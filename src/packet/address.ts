/**
 * IPv4 addresses, subnets and address ranges as text and as numbers.
 *
 * An address is an unsigned 32-bit number in the order it is written: 192.168.1.1 is 0xC0A80101, so ranges
 * compare with `<` and a frame's big-endian `getUint32` gives the same value. Bitwise operators yield signed
 * numbers in ECMAScript; everything exported here is turned back with `>>> 0`.
 */

/** An IPv4 prefix: `address` is the network address, its host bits zero. */
export interface Subnet {
	address: number;
	/** Net mask as an address, 255.255.255.0 = 0xFFFFFF00. */
	mask: number;
	/** Prefix length, 0..32. */
	prefix: number;
}

/** Addresses from `first` to `last`, both included, `first <= last`. */
export interface AddressRange {
	first: number;
	last: number;
}

const ADDRESS = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

/**
 * Reads dotted-quad text (RFC 6943 3.1.1 strict form: four decimal numbers, no leading zeros, nothing around it).
 *
 * @param text - such as "192.168.1.1".
 * @returns the address, unsigned, or null when the text is not one.
 */
export function parseAddress(text: string): number | null {
	const parts = ADDRESS.exec(text);
	if (parts === null) return null;
	let address = 0;
	for (let i = 1; i <= 4; i++) {
		const part = parts[i] as string;
		const octet = Number(part);
		if (octet > 255 || (part.length > 1 && part.startsWith("0"))) return null;
		address = address * 256 + octet;
	}
	return address;
}

/**
 * Writes an address in dotted-quad form. Signed numbers, as bitwise operators give them, are taken as well.
 *
 * @param address - in value order.
 */
export function formatAddress(address: number): string {
	return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

/**
 * The net mask of a prefix length.
 *
 * @param prefix - 0..32.
 * @returns the mask, unsigned; 0 for prefix 0.
 */
export function prefixMask(prefix: number): number {
	return prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
}

/**
 * The prefix length of a net mask.
 *
 * @param mask - such as 0xFFFFFF00.
 * @returns 0..32, or null when the ones of the mask are not contiguous from the left.
 */
export function maskPrefix(mask: number): number | null {
	const prefix = Math.clz32(~mask);
	return prefixMask(prefix) === mask >>> 0 ? prefix : null;
}

/**
 * The subnet of that prefix length which holds an address.
 *
 * @param address - any address within; its host bits are dropped.
 * @param prefix - 0..32.
 */
export function subnetOf(address: number, prefix: number): Subnet {
	const mask = prefixMask(prefix);
	return { address: (address & mask) >>> 0, mask, prefix };
}

/**
 * Reads "192.168.1.0/24", "192.168.1.0/255.255.255.0" or a single address (a /32).
 *
 * Host bits must be zero: "192.168.1.1/24" is a subnet only for those who meant 192.168.1.0/24, so the caller
 * says so (see {@link parseInterfaceAddress}) instead of guessing.
 *
 * @returns the subnet, or null when the text is not one.
 */
export function parseSubnet(text: string): Subnet | null {
	const address = parseInterfaceAddress(text);
	return address !== null && address.address === address.subnet.address ? address.subnet : null;
}

/**
 * Reads an address with its prefix, host bits allowed: "192.168.1.1/24" as an interface carries it.
 *
 * @returns the address and the subnet it lies in, or null when the text is neither.
 */
export function parseInterfaceAddress(text: string): { address: number; subnet: Subnet } | null {
	const slash = text.indexOf("/");
	const address = parseAddress(slash < 0 ? text : text.slice(0, slash));
	if (address === null) return null;
	if (slash < 0) return { address, subnet: subnetOf(address, 32) };
	const suffix = text.slice(slash + 1);
	let prefix: number | null;
	if (/^(?:\d|[12]\d|3[0-2])$/.test(suffix)) {
		prefix = Number(suffix);
	} else {
		const mask = parseAddress(suffix);
		prefix = mask === null ? null : maskPrefix(mask);
	}
	return prefix === null ? null : { address, subnet: subnetOf(address, prefix) };
}

/** Writes "192.168.1.0/24"; a /32 is written as the bare address. */
export function formatSubnet(subnet: Subnet): string {
	const address = formatAddress(subnet.address);
	return subnet.prefix === 32 ? address : `${address}/${subnet.prefix}`;
}

/** Whether an address lies in a subnet. Signed numbers are taken as well. */
export function subnetContains(subnet: Subnet, address: number): boolean {
	return (address & subnet.mask) >>> 0 === subnet.address;
}

/** Whether two subnets have an address in common, which is when one holds the other. */
export function subnetsOverlap(a: Subnet, b: Subnet): boolean {
	return subnetContains(a, b.address) || subnetContains(b, a.address);
}

/** The addresses of a subnet as a range, network and broadcast address included. */
export function subnetRange(subnet: Subnet): AddressRange {
	return { first: subnet.address, last: (subnet.address | ~subnet.mask) >>> 0 };
}

/**
 * Reads "203.0.113.16-203.0.113.31", a subnet or a single address.
 *
 * @returns the range as written (`first` may exceed `last`: the caller reports the order), or null when the text
 * is not one.
 */
export function parseAddressRange(text: string): AddressRange | null {
	const dash = text.indexOf("-");
	if (dash < 0) {
		const subnet = parseSubnet(text);
		return subnet === null ? null : subnetRange(subnet);
	}
	const first = parseAddress(text.slice(0, dash));
	const last = parseAddress(text.slice(dash + 1));
	return first === null || last === null ? null : { first, last };
}

/** Writes "203.0.113.16-203.0.113.31"; a range of one address is written as that address. */
export function formatAddressRange(range: AddressRange): string {
	const first = formatAddress(range.first);
	return range.first === range.last ? first : `${first}-${formatAddress(range.last)}`;
}

/** Whether two ranges have an address in common. */
export function rangesOverlap(a: AddressRange, b: AddressRange): boolean {
	return a.first <= b.last && b.first <= a.last;
}

/** The same numbers (addresses or ports) as sorted ranges that neither overlap nor touch. */
export function mergeRanges(ranges: readonly AddressRange[]): AddressRange[] {
	const merged: AddressRange[] = [];
	for (const { first, last } of [...ranges].sort((a, b) => a.first - b.first)) {
		const previous = merged[merged.length - 1];
		if (previous !== undefined && first <= previous.last + 1) previous.last = Math.max(previous.last, last);
		else merged.push({ first, last });
	}
	return merged;
}
