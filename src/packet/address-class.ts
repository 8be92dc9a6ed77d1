/**
 * Kinds of IPv4 addresses. All take an address in host order, unsigned or signed, but {@link isBroadcast}.
 */
import { addressValue } from "./layout.ts";

/** First address that is no host's: multicast (224/4), reserved (240/4) and broadcast follow. */
export const MULTICAST = 0xe0000000;

/** True if it can belong to one host: not 0/8, 127/8, 224/4 or 240/4 (RFC 1122 section 3.2.1.3). */
export function isUnicast(address: number): boolean {
	const net = address >>> 24;
	return net !== 0 && net !== 127 && net < 224;
}

/** True for 169.254/16 (RFC 3927 section 2.7: never forwarded). */
export function isLinkLocal(address: number): boolean {
	return address >>> 16 === 0xa9fe;
}

/** True for 100.64/10, which carriers give their customers (RFC 6598). */
export function isShared(address: number): boolean {
	return address >>> 22 === 0x191;
}

/** True for addresses that mean nothing on the Internet: private (RFC 1918) and shared ones (RFC 6598). */
export function isPrivate(address: number): boolean {
	return address >>> 24 === 10 || address >>> 20 === 0xac1 || address >>> 16 === 0xc0a8 || isShared(address);
}

/** True for those, loopback, link-local and "this network": nobody outside can reach it. */
export function isUnreachableFromOutside(address: number): boolean {
	return isPrivate(address) || isLinkLocal(address) || address >>> 24 === 127 || address >>> 24 === 0;
}

/**
 * True if a raw address is the first (network) or last (broadcast) of one of the subnets; a /31 and a /32 have neither
 * (RFC 3021).
 */
export function isBroadcast(nets: readonly { address: number; mask: number }[], address: number): boolean {
	for (let n = 0; n < nets.length; n++) {
		const { address: net, mask } = nets[n];
		if (((address ^ net) & mask) !== 0) continue;
		const host = address & ~mask;
		if ((host === 0 || host === ~mask) && addressValue(~mask) > 1) return true;
	}
	return false;
}
