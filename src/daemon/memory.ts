/**
 * The frame memory: slots to receive into, slots for frames that waited, blocks for fragments and what is made, and
 * room where segments are cut.
 */
import * as native from "masq:native";
import { BATCH, BLOCK } from "../nat/context.ts";
import { SLOT_SIZE, type Views, viewsOf } from "../packet/layout.ts";
import type { LinkHeaders } from "../packet/link-header.ts";
import { BATCH_LARGE } from "../port/driver.ts";
import { SPARE_SLOT_SIZE, SPARE_SLOTS } from "../port/next-hops.ts";
import { SEGMENT_BYTES } from "../port/sending.ts";
import { BLOCKS_MAX } from "./ports.ts";

/** Frame memory before the spare blocks. */
const RECEIVE_BYTES = BATCH * SLOT_SIZE + SPARE_SLOTS * SPARE_SLOT_SIZE;
/** Blocks of 2 KB for fragments: memory that is touched only when fragments come. */
const BLOCKS_MIN = 64;
/** Quiet milliseconds after which the pages go back to the kernel. */
const IDLE_RELEASE = 2000;

/** Memory that the shim receives into and sends from. */
export class FrameMemory {
	/** Descriptors of received frames. */
	readonly rx = new Int32Array(BATCH * 2);
	readonly views: Views;
	readonly spare: { at: number; count: number };
	/** Where segments are cut to. */
	readonly segmentsAt: number;
	readonly #frames: ArrayBuffer;

	/** For a table of so many sessions. */
	constructor(sessions: number, headers: LinkHeaders) {
		const count = Math.min(BLOCKS_MAX, Math.max(BLOCKS_MIN, sessions >> 4));
		this.spare = { at: RECEIVE_BYTES, count };
		this.segmentsAt = RECEIVE_BYTES + count * BLOCK;
		this.#frames = native.mapFile("", this.segmentsAt + SEGMENT_BYTES);
		native.setFrames(this.#frames, SLOT_SIZE, this.rx, headers.buffer);
		this.views = viewsOf(this.#frames);
	}

	/** Byte offset of a slot that no batch uses, by number below {@link SPARE_SLOTS}. */
	spareSlot(n: number): number {
		return BATCH * SLOT_SIZE + n * SPARE_SLOT_SIZE;
	}

	/**
	 * Large frames have come in a batch meant for small ones: one batch of 64 super-packets would else keep 4 MB for as
	 * long as there is traffic.
	 */
	releaseStretched(): void {
		native.releasePages(this.#frames, BATCH_LARGE * SLOT_SIZE, (BATCH - BATCH_LARGE) * SLOT_SIZE);
	}

	/**
	 * Gives the pages back after a quiet time since millisecond `busyAt`; fragments that wait stay (`keep`). False if
	 * it is not yet time.
	 */
	releaseIdle(busyAt: number, now: number, keep: boolean): boolean {
		if (busyAt === 0 || now - busyAt <= IDLE_RELEASE) return false;
		native.releasePages(this.#frames, 0, keep ? RECEIVE_BYTES : this.#frames.byteLength);
		return true;
	}
}
