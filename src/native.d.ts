/**
 * The typed FFI to the C shim: every system call that masqd makes, one function each.
 *
 * Conventions, for all functions unless they say otherwise:
 *
 * - A failed system call throws an `Error` with two more properties: `errno` (the number) and
 *   `code` (its name, `"ENODEV"`); the message is `syscall(what): text of strerror`.
 * - "Would block" is never an error: it is the return value 0 or -1 as documented.
 * - Buffers stay the property of the caller; the shim keeps a pointer only where it says "registered".
 * - Numbers are in host byte order. Bytes in buffers are as the wire or the kernel has them.
 * - Arguments out of range (an offset or length outside its buffer, a slot outside the frames) throw `RangeError`
 *   before any system call is made.
 *
 * `test/engine/` holds this file, the export table in `native/` and the running engine against each other.
 */
declare module "masq:native" {
	/** A file descriptor; -1 is "none". Closed only by {@link close}. */
	export type Fd = number & { readonly __fd?: never };

	/** What every failed call throws. */
	export interface NativeError extends Error {
		/** errno of the failed call. */
		errno: number;
		/** Its symbolic name, such as `"EPERM"`. */
		code: string;
	}

	// ---- process (native/process.c) --------------------------------------------------------------------------

	/** The arguments after the program's name. */
	export function args(): string[];
	/** Ends the process at once with `status` (0-255), after flushing nothing: there is nothing buffered. */
	export function exit(status: number): never;
	/** Value of an environment variable, or undefined. */
	export function getenv(name: string): string | undefined;
	/**
	 * What the bundle `name` exports, which lies beside the one that runs. It is read at each call. Throws if it cannot
	 * be read, or throws.
	 */
	export function importBundle(name: string): object;
	/**
	 * Keeps the file of the bundle `name` open, one for all: {@link importBundle} finds it as it is now, whatever an
	 * upgrade puts in its place. Throws a native error.
	 */
	export function holdBundle(name: string): void;
	/**
	 * Ends the process by SIGKILL in so many seconds, even one that is stopped, unless it is called again before, with
	 * 0 for not at all.
	 */
	export function alarm(seconds: number): void;
	/**
	 * What the function `answer` of the bundle `name`, beside the one that runs, returns for `question`. It runs in an
	 * engine of its own, which is gone afterwards. Throws an Error if it throws, is not there, or gives no string.
	 */
	export function ask(name: string, question: string): string;
	/** This process's id. */
	export function getpid(): number;
	/** Effective user id. */
	export function geteuid(): number;
	/** Numbers of the processors that this process may run on (sched_getaffinity(2)), ascending. */
	export function processors(): number[];
	/** Number of the processor that this process is on now. */
	export function processor(): number;
	/**
	 * Keeps this process, and children started from now on, on the given processors (sched_setaffinity(2)). Throws
	 * EINVAL if none of them exists.
	 */
	export function runOn(processors: number[]): void;
	/**
	 * Runs a program found by PATH with `stdin` as its standard input, waits for it and returns its exit status (128 +
	 * signal if it was killed) and the first 64 KiB of its stdout and stderr together. No shell is involved. A program
	 * that runs for more than `timeoutMs` is killed and reported as status 137. Throws ENOENT if there is none, and
	 * what kept its input from it.
	 */
	export function run(argv: string[], stdin: string, timeoutMs: number): { status: number; output: string };
	/**
	 * Starts a program as {@link run} does, and does not wait for it: its process id, and where its stdout and stderr
	 * are to be {@link read}. Throws as `run` does.
	 */
	export function start(argv: string[], stdin: string): { pid: number; output: Fd };
	/**
	 * Exit status of a program of {@link start}, as `run` gives it, -1 while it runs; `kill` ends it and what it has
	 * started before. Throws ECHILD for one whose status has been given already.
	 */
	export function ended(pid: number, kill: boolean): number;
	/**
	 * 10 on most machines, 16 on MIPS, where 10 is SIGBUS; the numbers of SIGHUP, SIGINT and SIGTERM are everywhere the
	 * same.
	 */
	export const SIGUSR1: number;
	/**
	 * Blocks the given signal numbers for normal delivery and returns a non-blocking signalfd for them. SIGPIPE is
	 * ignored.
	 */
	export function signalOpen(signals: number[]): Fd;
	/** Next pending signal number of a {@link signalOpen} descriptor, 0 if there is none. */
	export function signalRead(fd: Fd): number;
	/**
	 * Keeps only the capabilities whose bits are set in `mask` (bit n = capability number n, n < 53; CAP_NET_ADMIN is
	 * 12, CAP_NET_RAW 13) in the effective, permitted, inheritable and bounding sets, and sets PR_SET_NO_NEW_PRIVS.
	 * Capabilities that the process does not have are not gained.
	 */
	export function keepCapabilities(mask: number): void;
	/** True if capability number `n` is in the effective set. */
	export function hasCapability(n: number): boolean;
	/** The name that {@link syslogWrite} logs under. The string is copied. */
	export function syslogOpen(ident: string): void;
	/**
	 * A line to the system's log (/dev/log, RFC 3164), without waiting; false if it does not take it now. `priority` is
	 * 0 (emergency) to 7 (debug).
	 */
	export function syslogWrite(priority: number, text: string): boolean;

	// ---- time and randomness (native/clock.c) ---------------------------------------------------------------

	/** CLOCK_BOOTTIME in milliseconds (a double with a fraction). Never goes back; counts time asleep. */
	export function now(): number;
	/** CLOCK_MONOTONIC in nanoseconds (a double, exact below 104 days), for measuring only. */
	export function nanoseconds(): number;
	/** CLOCK_REALTIME in milliseconds since 1970. */
	export function wallClock(): number;
	/** CPU time used by this process, in nanoseconds. */
	export function cpuNanoseconds(): number;
	/** Fills `buffer[offset, offset + length)` from getrandom(2). */
	export function random(buffer: ArrayBuffer, offset: number, length: number): void;

	// ---- files (native/file.c) --------------------------------------------------------------------------------

	/**
	 * Whole file as text: UTF-8, bytes that are not become U+FFFD. Works on /proc and /sys (size 0). At most 16 MiB
	 * (EFBIG).
	 */
	export function readFile(path: string): string;
	/** Creates or truncates the file with `mode` and writes the text as UTF-8. Throws ELOOP for a symbolic link. */
	export function writeFile(path: string, text: string, mode: number): void;
	/**
	 * An empty file with `mode`, open for writing. One that is there already is emptied if it is a plain file of the
	 * caller's with no other name, else EPERM; a symbolic link is ELOOP.
	 */
	export function createFile(path: string, mode: number): Fd;
	/** rename(2). */
	export function rename(from: string, to: string): void;
	/** unlink(2). */
	export function unlink(path: string): void;
	/** mkdir(2); an existing directory is not an error. */
	export function mkdir(path: string, mode: number): void;
	/** Names in a directory without "." and "..", in no order. */
	export function readDir(path: string): string[];
	/** Target of a symbolic link. */
	export function readLink(path: string): string;
	/** close(2). Closing -1 does nothing. The descriptor is gone in any case; throws EBADF only, if there was none. */
	export function close(fd: Fd): void;
	/**
	 * Opens (creating with mode 0600, O_NOFOLLOW) and takes an exclusive lock (flock LOCK_NB). Throws EWOULDBLOCK (code
	 * "EAGAIN") if another process holds it. The lock goes with the descriptor.
	 */
	export function lockFile(path: string): Fd;
	/**
	 * Maps `size` bytes of a file shared (O_RDWR|O_CREAT|O_NOFOLLOW|O_CLOEXEC, mode 0600, ftruncate to `size` if it is
	 * another size), so that stores are in the file at once and outlive the process, and reserves its room (ENOSPC if
	 * there is none). `path` "" gives private anonymous zeroed pages. The buffer is unmapped when it is collected. Is
	 * the file cut short by somebody meanwhile, all of it reads as zeros from the first use of what has gone on, and is
	 * as long as before again.
	 */
	export function mapFile(path: string, size: number): ArrayBuffer;
	/** Size of a file in bytes, -1 if it does not exist. */
	export function fileSize(path: string): number;
	/**
	 * Gives the pages wholly inside `buffer[offset, offset + length)` back to the kernel (MADV_DONTNEED); anonymous
	 * maps read as zero afterwards.
	 */
	export function releasePages(buffer: ArrayBuffer, offset: number, length: number): void;
	/** Non-blocking read into the buffer. Bytes read, 0 at end of file, -1 if it would block. */
	export function read(fd: Fd, buffer: ArrayBuffer, offset: number, length: number): number;
	/** Opens an existing pipe or terminal for writing, non-blocking (O_NONBLOCK, O_NOCTTY, O_CLOEXEC). */
	export function openWriter(path: string): Fd;
	/**
	 * Non-blocking write from the buffer, to a blocking socket too. Bytes written (may be fewer), -1 if it would block.
	 * Throws EPIPE without a signal.
	 */
	export function write(fd: Fd, buffer: ArrayBuffer, offset: number, length: number): number;
	/** Writes the whole text to a descriptor, blocking; for stdout (1) and stderr (2). */
	export function print(fd: Fd, text: string): void;
	/** Encodes text as UTF-8 into the buffer; the number of bytes written. Throws RangeError if it does not fit. */
	export function encode(text: string, buffer: ArrayBuffer, offset: number): number;
	/** Decodes UTF-8 bytes to text; bytes that are not UTF-8 become U+FFFD. */
	export function decode(buffer: ArrayBuffer, offset: number, length: number): string;

	// ---- poll and unix sockets (native/socket.c) -------------------------------------------------------------

	export const POLLIN: number;
	export const POLLOUT: number;
	export const POLLERR: number;
	export const POLLHUP: number;
	/** Most triples of one {@link poll}. */
	export const POLL_MAX: 256;
	/**
	 * poll(2) on the first `count` triples [fd, events, revents] of `set`; writes revents. `timeoutMs` < 0 waits
	 * forever, at most {@link POLL_MAX} triples. Number of descriptors with revents != 0; 0 also after EINTR.
	 */
	export function poll(set: Int32Array, count: number, timeoutMs: number): number;
	/**
	 * Non-blocking listening unix stream socket at `path` (an existing socket file is unlinked first), chmod to `mode`,
	 * backlog 16.
	 */
	export function unixListen(path: string, mode: number): Fd;
	/** Blocking connect to a unix stream socket; the descriptor is blocking. Throws ENOENT, ECONNREFUSED. */
	export function unixConnect(path: string): Fd;
	/** Next connection, non-blocking and close-on-exec; -1 if there is none. */
	export function accept(fd: Fd): Fd;

	// ---- frames: packet sockets and TUN (native/packet.c, native/tun.c) ----------------------------------------
	//
	// One buffer of slots is shared by all ports. In every slot, whatever the port:
	//
	//   offset  0..9   struct virtio_net_hdr, host byte order (flags, gso_type, hdr_len, gso_size, csum_start,
	//                  csum_offset)
	//          10..23  Ethernet header (ports with one; else unused by the shim)
	//          24..    IPv4 packet, 4-byte aligned
	//
	// `rx` and `tx` are arrays of pairs [byte offset of the slot in the frame buffer, bytes of IPv4 packet]. In `tx`
	// the second word may also carry, above bit 17, one more than the number of a registered link header: 14 bytes that
	// are copied into the slot before it is sent. (Measured: writing the header from TypeScript costs 70 ns a packet,
	// copying it here 3.)

	/** Offset of the virtio header, the Ethernet header and the IP packet in a slot. */
	export const SLOT_VNET: 0;
	export const SLOT_ETHER: 10;
	export const SLOT_IP: 24;
	/** Bytes from one registered link header to the next, of which 14 are used. */
	export const HEADER_SIZE: 16;
	/** Bit above which a `tx` pair's second word names its link header. */
	export const HEADER_SHIFT: 17;
	/** Bits of {@link packetSendTo}'s form. */
	export const SEND_ETHERNET: 1;
	export const SEND_DATAGRAM: 2;
	/** Most frames in one receive or send call. */
	export const BATCH_MAX: 64;

	/**
	 * Registers the frame buffer, the receive descriptor array and link headers for sending (or null); all are kept
	 * alive by the shim until the next call. `slotSize` is a multiple of 4; a frame that does not fit a slot is cut by
	 * the kernel and delivered with its cut length.
	 */
	export function setFrames(buffer: ArrayBuffer, slotSize: number, rx: Int32Array, headers: ArrayBuffer | null): void;
	/**
	 * AF_PACKET socket, bound to ETH_P_IP on the device, with PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING and the buffer
	 * sizes in bytes (SO_RCVBUFFORCE, SO_SNDBUFFORCE). `ethernet` true: the link header is in the slot; false: the
	 * device has no link header (ppp, raw-ip, tun). SOCK_RAW for both: the kernel refuses PACKET_VNET_HDR on
	 * SOCK_DGRAM. `filter` is a classic BPF program as groups of 4 words [code, jt, jf, k], or null; it is attached
	 * before the bind, so nothing unfiltered is ever received. Throws EPERM, ENODEV, ENETDOWN, EPROTOTYPE (`ethernet`
	 * is not what the device is).
	 */
	export function packetOpen(ifindex: number, ethernet: boolean, filter: Int32Array | null, receiveBuffer: number, sendBuffer: number): Fd;
	/** Replaces the classic BPF filter of a packet socket; same form as in {@link packetOpen}. */
	export function packetFilter(fd: Fd, filter: Int32Array): void;
	/**
	 * Receives up to `max` frames into the slots `first`, `first + 1` …; writes `rx` pairs from index 0. Returns the
	 * number of frames, 0 if none is there. Throws ENETDOWN, ENXIO, ENODEV when the device has gone.
	 */
	export function packetReceive(fd: Fd, ethernet: boolean, first: number, max: number): number;
	/**
	 * Sends `count` (<= BATCH_MAX) frames described by pairs of `tx` starting at pair `from`, in order, up to the first
	 * that the kernel refuses. Returns the number sent; if that is not `count`, {@link sendError} says why the next one
	 * was refused.
	 */
	export function packetSend(fd: Fd, ethernet: boolean, tx: Int32Array, from: number, count: number): number;
	/**
	 * A socket for {@link packetSendTo}: receives nothing, belongs to no device, gives its frames the `priority` of a
	 * qdisc (SO_PRIORITY) and has a buffer of its own (bytes, SO_SNDBUFFORCE). `datagram`: SOCK_DGRAM, for devices that
	 * do not take what a raw socket sends; it has no virtio header.
	 */
	export function packetSendOpen(datagram: boolean, priority: number, sendBuffer: number): Fd;
	/**
	 * As {@link packetSend}, by a socket of {@link packetSendOpen} on the device `ifindex`. `form`: SEND_ETHERNET if
	 * the device has an Ethernet header, plus SEND_DATAGRAM if the socket is one: then the IP packet alone is sent,
	 * whole and with complete checksums, and the kernel writes the link header.
	 */
	export function packetSendTo(fd: Fd, ifindex: number, form: number, tx: Int32Array, from: number, count: number): number;
	/**
	 * Name ("ENOBUFS") of the errno that ended the last {@link packetSend}, {@link packetSendTo} or {@link tunSend}
	 * early, "" if none did.
	 */
	export function sendError(): string;
	/**
	 * Ones-complement sum of `length` bytes of the frame buffer from byte `offset` (even), folded to 16 bits, raw; an
	 * odd last byte is padded with zero.
	 */
	export function frameSum(offset: number, length: number): number;
	/** [frames seen, frames dropped for want of buffer] of a packet socket since the last call. */
	export function packetStatistics(fd: Fd): [number, number];
	/**
	 * Creates a non-persistent TUN device (IFF_TUN|IFF_NO_PI|IFF_VNET_HDR) called `name` with TUNSETOFFLOAD for
	 * checksum, TSO and, where the kernel has it, USO. Non-blocking. Throws ENOENT/ENODEV (no TUN driver), EPERM, EBUSY
	 * (name taken).
	 */
	export function tunOpen(name: string): Fd;
	/**
	 * As {@link packetReceive} (no link header): one readv a frame, looped inside. Throws EBADFD, EIO when the device
	 * has gone.
	 */
	export function tunReceive(fd: Fd, first: number, max: number): number;
	/** As {@link packetSend}: one writev a frame, looped inside. */
	export function tunSend(fd: Fd, tx: Int32Array, from: number, count: number): number;
	/**
	 * A socket for one other Ethernet protocol on a device (ARP: `protocol` 0x0806, host byte order), SOCK_RAW,
	 * non-blocking, with a classic BPF filter; use {@link read} and {@link write} on it.
	 */
	export function etherOpen(ifindex: number, protocol: number, filter: Int32Array | null): Fd;

	// ---- devices (native/device.c) -----------------------------------------------------------------------------

	/** State of an ethtool feature by its name ("rx-gro-list"), undefined if the device or kernel does not know it. */
	export function getFeature(device: string, feature: string): boolean | undefined;
	/** Sets an ethtool feature. Throws EOPNOTSUPP, ENODEV. */
	export function setFeature(device: string, feature: string, on: boolean): void;

	// ---- netlink (native/netlink.c) ------------------------------------------------------------------------------

	/**
	 * Non-blocking netlink socket of `protocol` (0 = NETLINK_ROUTE), 1 MiB receive buffer, joined to the multicast
	 * groups numbered in `groups`.
	 */
	export function netlinkOpen(protocol: number, groups: number[]): Fd;
	/** Sends `length` bytes (whole netlink messages) to the kernel. */
	export function netlinkSend(fd: Fd, buffer: ArrayBuffer, length: number): void;
	/**
	 * Receives one datagram into the buffer; its length, 0 if none is there. Datagrams not from the kernel are
	 * discarded. Throws ENOBUFS after an overrun.
	 */
	export function netlinkReceive(fd: Fd, buffer: ArrayBuffer): number;

	// ---- bpf(2) (native/bpf.c) -----------------------------------------------------------------------------------

	/**
	 * BPF_MAP_CREATE: a map of `type` (2: array) with 4-byte keys; `name` is what the kernel lists it as, at most 15
	 * bytes. Throws EPERM, E2BIG (value too large for this kernel), ENOMEM, ENOSYS (a kernel without bpf).
	 */
	export function bpfMapCreate(type: number, valueSize: number, entries: number, flags: number, name: string): Fd;
	/**
	 * Maps the first `size` bytes of the values of a map made with BPF_F_MMAPABLE (0x400), shared with the programs
	 * that use it. Unmapped when the buffer is collected, and the map lives until then, whether its descriptor is
	 * closed or not.
	 */
	export function bpfMapMemory(map: Fd, size: number): ArrayBuffer;
	/**
	 * BPF_PROG_LOAD with the licence "GPL": `code` is whole instructions, `type` 3 a traffic classifier. The verifier's
	 * words go to `log`, if there is one, as text that ends with a zero byte. Throws EPERM, EACCES and EINVAL (refused
	 * by the verifier), ENOSPC (the log is too small).
	 */
	export function bpfProgramLoad(type: number, code: ArrayBuffer, name: string, log: ArrayBuffer | null): Fd;
	/**
	 * BPF_PROG_TEST_RUN: runs a program once on a copy of `frame`, with `context` (struct __sk_buff, or null) as far as
	 * the kernel lets it be set. The frame as it is afterwards goes to `out`. Returns [result of the program, bytes in
	 * `out`]. For tests: nothing is sent.
	 */
	export function bpfProgramRun(program: Fd, frame: ArrayBuffer, out: ArrayBuffer, context: ArrayBuffer | null): [number, number];
	/**
	 * BPF_LINK_CREATE: attaches a program to a device, behind those that are there (attachType 46: tcx ingress). It
	 * stays attached while the descriptor is open. Throws EINVAL on kernels without tcx, EPERM, ENODEV.
	 */
	export function bpfLinkCreate(program: Fd, ifindex: number, attachType: number): Fd;
	/**
	 * BPF_LINK_UPDATE: puts another program in the place of a link's; every packet sees one or the other. Throws
	 * ENOLINK if the device has gone.
	 */
	export function bpfLinkUpdate(link: Fd, program: Fd): void;
}
