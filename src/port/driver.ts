/**
 * A network attachment: the packet driver (AF_PACKET with virtio headers) and the TUN driver behind one interface. Both
 * receive into, and send from, the shared frame buffer (native.d.ts); `ethernet` tells whether slots carry a link
 * header.
 */
import * as native from "masq:native";
import { BATCH, type Queue } from "../nat/context.ts";
import type { Views } from "../packet/layout.ts";
import { type Outlet, PacketOutlet, type Refused, Sending } from "./sending.ts";
import { socketBuffers } from "./socket-buffers.ts";

/** Frames in one turn while they are large, so that one batch stays in the cache and RSS stays small. */
export const BATCH_LARGE = 4;
/**
 * Bytes in the first frames of a batch beyond which the next one is short: more than two full frames of 1500 bytes each
 * on average.
 */
const LARGE = BATCH_LARGE * 3072;
/** Receives and sends batches of frames. */
export interface Driver {
	readonly fd: native.Fd;
	readonly ethernet: boolean;
	/**
	 * Receives up to a batch into the slots from 0; pairs go to the registered array. 0 if nothing is there. Throws
	 * when the device has gone.
	 */
	receive(): number;
	/**
	 * Sends what is in a queue, which is empty then; returns the number sent, and tells `refused` of each of the
	 * others.
	 */
	send(queue: Queue, refused: Refused): number;
	/** Replaces the socket filter; without one (TUN) does nothing. */
	filter(program: Int32Array): void;
	/**
	 * Whether, since the last call, large frames came in a batch meant for small ones: then slots from
	 * {@link BATCH_LARGE} on hold memory that they hardly need.
	 */
	stretched(): boolean;
	close(): void;
}

/**
 * Large batches only of small frames: begins small, grows when two batches in a row were
 * full of small frames. `rx` is the registered descriptor array.
 */
class BatchSize {
	size = BATCH_LARGE;
	#stretched = false;
	/** The last full batch was of small frames. */
	#small = false;
	readonly #rx: Int32Array;

	constructor(rx: Int32Array) {
		this.#rx = rx;
	}

	after(count: number): number {
		if (count < BATCH_LARGE) return count;
		let bytes = 0;
		for (let i = 1; i < BATCH_LARGE * 2; i += 2) bytes += this.#rx[i];
		if (bytes > LARGE) {
			if (this.size === BATCH) this.#stretched = true;
			this.size = BATCH_LARGE;
			this.#small = false;
		} else {
			if (this.#small) this.size = BATCH;
			this.#small = true;
		}
		return count;
	}

	/** Whether it was so since the last call ({@link Driver.stretched}). */
	stretched(): boolean {
		const was = this.#stretched;
		this.#stretched = false;
		return was;
	}
}

/** The packet driver. */
export class PacketDriver implements Driver {
	readonly fd: native.Fd;
	readonly ethernet: boolean;
	readonly #batch: BatchSize;
	readonly #outlet: PacketOutlet;
	readonly #sending: Sending;

	/**
	 * Throws a native error (ENODEV, EPERM, ENETDOWN). `raw` as {@link takesRaw} says, `scratch` as {@link Sending}
	 * wants it. With null for a filter nothing is received.
	 */
	constructor(
		device: { ifindex: number; ethernet: boolean; raw: boolean },
		filter: Int32Array | null,
		rx: Int32Array,
		views: Views,
		scratch: number,
	) {
		const { ifindex, ethernet } = device;
		this.ethernet = ethernet;
		const { receive, send, sendClass } = socketBuffers(native.readFile("/proc/meminfo"));
		this.fd = filter === null ? -1 : native.packetOpen(ifindex, ethernet, filter, receive, send);
		this.#batch = new BatchSize(rx);
		this.#outlet = new PacketOutlet(this.fd, ifindex, ethernet, device.raw, [send, sendClass]);
		this.#sending = new Sending(this.#outlet, views, scratch);
	}

	receive(): number {
		return this.fd < 0 ? 0 : this.#batch.after(native.packetReceive(this.fd, this.ethernet, 0, this.#batch.size));
	}

	send(queue: Queue, refused: Refused): number {
		return this.#sending.send(queue, refused);
	}

	filter(program: Int32Array): void {
		if (this.fd >= 0) native.packetFilter(this.fd, program);
	}

	stretched(): boolean {
		return this.#batch.stretched();
	}

	close(): void {
		this.#outlet.close();
		native.close(this.fd);
	}
}

/** The TUN driver: the kernel keeps the LAN, masqd is its default route. */
export class TunDriver implements Driver {
	readonly fd: native.Fd;
	readonly #counter: string;
	#overrun = 0;
	readonly ethernet = false;
	readonly #batch: BatchSize;
	readonly #sending: Sending;

	/**
	 * Creates the device; throws a native error (EPERM, ENOENT or ENODEV without TUN, EBUSY). `scratch` as
	 * {@link Sending} wants it.
	 */
	constructor(name: string, rx: Int32Array, views: Views, scratch: number) {
		this.fd = native.tunOpen(name);
		this.#counter = `/sys/class/net/${name}/statistics/tx_dropped`;
		this.#batch = new BatchSize(rx);
		// The kernel forwards what goes there, so it is the kernel that gives it a priority.
		const outlet: Outlet = { link: 0, whole: false, put: (_kind, pairs, from, count) => native.tunSend(this.fd, pairs, from, count) };
		this.#sending = new Sending(outlet, views, scratch);
	}

	receive(): number {
		return this.#batch.after(native.tunReceive(this.fd, 0, this.#batch.size));
	}

	send(queue: Queue, refused: Refused): number {
		return this.#sending.send(queue, refused);
	}

	/**
	 * Packets that the kernel has dropped since the last call because the device's queue was full; 0 where it does not
	 * tell.
	 */
	overruns(): number {
		let dropped = 0;
		try {
			dropped = Number(native.readFile(this.#counter));
		} catch {
			// No sysfs here, or no such device any more.
		}
		const more = Math.max(0, dropped - this.#overrun);
		this.#overrun = Math.max(dropped, this.#overrun);
		return more;
	}

	filter(_program: Int32Array): void {}

	stretched(): boolean {
		return this.#batch.stretched();
	}

	close(): void {
		native.close(this.fd);
	}
}
