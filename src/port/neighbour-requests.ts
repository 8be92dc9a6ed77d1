/**
 * What is asked of the kernel about neighbours: to find one, or to confirm one in use, which it does by ARP in its own
 * time. Each at most once in a pause, so that a frame may ask whenever it likes.
 */

import type { KernelMirror } from "../kernel/mirror.ts";

/** Milliseconds between two requests to find one neighbour. */
const FIND_AGAIN = 1000;
/** Milliseconds between two requests to confirm one neighbour in use. */
const CONFIRM_AGAIN = 10_000;
/** Neighbours whose last request is remembered. */
const REMEMBERED = 1024;

/** Requests about neighbours, by device and address (host order). */
export class NeighbourRequests {
	readonly #kernel: Pick<KernelMirror, "resolve">;
	readonly #milliseconds: () => number;
	/** When each was last asked for, in milliseconds. */
	readonly #asked = new Map<number, number>();

	constructor(kernel: Pick<KernelMirror, "resolve">, milliseconds: () => number) {
		this.#kernel = kernel;
		this.#milliseconds = milliseconds;
	}

	/** Asks for a neighbour that frames wait for. */
	find(ifindex: number, address: number): void {
		this.#ask(ifindex, address, FIND_AGAIN);
	}

	/** Has a neighbour in use confirmed, so that one that is dead or has moved is noticed. */
	confirm(ifindex: number, address: number): void {
		this.#ask(ifindex, address, CONFIRM_AGAIN);
	}

	/** The kernel has forgotten a neighbour, and what it was asked about it. */
	forgotten(ifindex: number, address: number): void {
		this.#asked.delete(keyOf(ifindex, address));
	}

	/** Links or addresses changed: the kernel may have lost what it was asked for. */
	forget(): void {
		this.#asked.clear();
	}

	#ask(ifindex: number, address: number, pause: number): void {
		if (ifindex === 0) return;
		const now = this.#milliseconds();
		const key = keyOf(ifindex, address);
		if (now - (this.#asked.get(key) ?? Number.NEGATIVE_INFINITY) < pause) return;
		if (this.#asked.size >= REMEMBERED) this.#asked.clear();
		this.#asked.set(key, now);
		try {
			this.#kernel.resolve(ifindex, address);
		} catch {
			// The device is going away, which its notification will say; or the kernel has no room for another
			// neighbour.
		}
	}
}

function keyOf(ifindex: number, address: number): number {
	return ifindex * 2 ** 32 + address;
}
