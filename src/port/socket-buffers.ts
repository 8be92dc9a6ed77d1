/**
 * How much the kernel may keep for a packet port while masqd is busy, and while the device is. The kernel charges a 64
 * KB super-packet with 68 KB, one of 1500 bytes with 2.3 and one of 64 bytes with 768, and allows twice what is asked
 * for.
 *
 * Receiving: eight TCP streams in flight want the most given here (measured: 4 MB cost a quarter of their rate); on a
 * router that would be all of its memory, and seconds of queue at the rate of its processor.
 *
 * Sending: what waits in the device's qdisc is charged to the socket until it has left. The limits of the qdisc are
 * what decides who waits and who is dropped there, so the buffer has to hold more than the qdisc does: else whoever
 * fills it takes the room of all others, whom the qdisc would have kept apart from him. The kernel's own forwarding has
 * no such limit at all; a quarter of the memory for ordinary traffic is more than fq_codel, cake or a queue of 1000
 * packets keep, and stops a qdisc without a sensible limit from taking the router down.
 */

const MEGABYTE = 1 << 20;
const RECEIVE_MOST = 32 * MEGABYTE;
const RECEIVE_LEAST = MEGABYTE;
const SEND_MOST = 64 * MEGABYTE;
const SEND_LEAST = 8 * MEGABYTE;
/** One part in so many of the memory is asked for; as the kernel doubles it, half as many can be taken. */
const RECEIVE_PART = 64;
const SEND_PART = 8;
/** The sockets of other than ordinary traffic (sending.ts) get this part of it each. */
const CLASS_PART = 4;

/**
 * Bytes to ask for with SO_RCVBUFFORCE and SO_SNDBUFFORCE on a machine with this /proc/meminfo: for the socket that
 * receives, sends ordinary traffic, and sends that of another class. The least if it does not say.
 */
export function socketBuffers(meminfo: string): { receive: number; send: number; sendClass: number } {
	const bytes = Number(/^MemTotal: +(\d+) kB/m.exec(meminfo)?.[1] ?? 0) * 1024;
	const share = (part: number, least: number, most: number) => Math.min(most, Math.max(least, Math.floor(bytes / part)));
	const send = share(SEND_PART, SEND_LEAST, SEND_MOST);
	return { receive: share(RECEIVE_PART, RECEIVE_LEAST, RECEIVE_MOST), send, sendClass: send / CLASS_PART };
}
