/**
 * How much the kernel may keep for a packet port while masqd is busy. The kernel charges a 64 KB super-packet with 68 KB and a packet of 64 bytes with 768, and allows
 * twice what is asked for. Eight TCP streams in flight want the most given here (measured: 4 MB cost a quarter of their rate); on a router that would be
 * all of its memory, and seconds of queue at the rate of its processor.
 */

const MOST = 32 << 20;
const LEAST = 1 << 20;
/** One part in so many of the memory is asked for; as the kernel doubles it, a port can take one in half as many. */
const PART = 64;
/** Received packets wait for masqd, sent ones only for the device. */
const SEND_PART = 4;

/** Bytes to ask for with SO_RCVBUFFORCE and SO_SNDBUFFORCE on a machine with this /proc/meminfo; the least if it does not say. */
export function socketBuffers(meminfo: string): { receive: number; send: number } {
	const kilobytes = Number(/^MemTotal: +(\d+) kB/m.exec(meminfo)?.[1] ?? 0);
	const receive = Math.min(MOST, Math.max(LEAST, Math.floor((kilobytes * 1024) / PART)));
	return { receive, send: Math.floor(receive / SEND_PART) };
}
