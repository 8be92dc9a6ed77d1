/**
 * CRC32c, the checksum of SCTP (RFC 9260 appendix A): over a whole packet, and what changing its ports does to it. The
 * CRC is linear, so the difference of two packets of one length is the CRC of their difference, most of which is zeros;
 * those are skipped in logarithmic time by multiplying with a power of x. A wrong checksum stays wrong.
 */
const POLYNOMIAL = 0x82f63b78 | 0;

/** CRC of each byte. */
const TABLE = Int32Array.from({ length: 256 }, (_, n) => {
	for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ POLYNOMIAL : n >>> 1;
	return n;
});

/** x^(2^k) modulo the polynomial, in the reflected representation (bit 31 is x^0). */
const POWERS = new Int32Array(32);
POWERS[0] = 1 << 30;
for (let k = 1; k < 32; k++) POWERS[k] = multiply(POWERS[k - 1], POWERS[k - 1]);

function multiply(a: number, b: number): number {
	let product = 0;
	for (let bit = 1 << 31; bit !== 0; bit >>>= 1) {
		if (a & bit) product ^= b;
		b = b & 1 ? (b >>> 1) ^ POLYNOMIAL : b >>> 1;
	}
	return product;
}

/** The CRC register after `bytes` more zero bytes. */
function skip(register: number, bytes: number): number {
	for (let k = 3; bytes !== 0; bytes >>>= 1, k++) if (bytes & 1) register = multiply(POWERS[k], register);
	return register;
}

function feed(register: number, byte: number): number {
	return (register >>> 8) ^ TABLE[(register ^ byte) & 0xff];
}

/** CRC32c of `length` bytes of an SCTP packet at `from`, its checksum field (bytes 8-11) taken as zero. */
export function sctpSum(B: Uint8Array, from: number, length: number): number {
	let register = -1;
	for (let i = 0; i < length; i++) register = feed(register, i >= 8 && i < 12 ? 0 : B[from + i]);
	return ~register;
}

/** Writes the checksum into an SCTP header at `from` (least significant byte first). */
export function putSctpSum(B: Uint8Array, from: number, sum: number): void {
	for (let k = 0; k < 4; k++) B[from + 8 + k] = sum >>> (8 * k);
}

/**
 * Changes byte `at` and the next (a port) of the SCTP packet of `length` bytes at `from`, and its checksum with them.
 * `high` and `low` are the new bytes. Only the header needs to be in memory.
 */
export function changeSctpPort(B: Uint8Array, from: number, length: number, at: number, high: number, low: number): void {
	const register = skip(feed(feed(0, B[from + at] ^ high), B[from + at + 1] ^ low), length - at - 2);
	B[from + at] = high;
	B[from + at + 1] = low;
	for (let k = 0; k < 4; k++) B[from + 8 + k] ^= register >>> (8 * k);
}
