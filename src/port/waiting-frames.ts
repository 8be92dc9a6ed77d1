/**
 * Frames that wait for a neighbour to answer: few, copied out of the frame buffer, and shared fairly. A host alone may
 * have all of the {@link WAITING_MAX} places (it may open many connections at once by a gateway that is just being
 * asked for); when all are taken, the host that has most loses its oldest to one that has less. So a host that scans a
 * subnet loses its own frames only.
 */

/** Frames that may wait, and the longest of them that is kept (with its slot's headers). */
export const WAITING_MAX = 32;
export const WAITING_BYTES = 2048;
/** Milliseconds after which a waiting frame is given up: the kernel's three ARP requests take as long. */
const PATIENCE = 3000;

/** A frame that waits. */
export interface Waiting {
	/** For a next hop of the WAN, else for an internal host. */
	wan: boolean;
	/** The neighbour's address, host-order address. */
	neighbour: number;
	/** Record number of the internal host that it is for; 0 if it is for the WAN. */
	host: number;
	/** Address of the internal host that it is from or for, raw; 0: unknown. */
	internal: number;
	/** Bytes of the IPv4 packet. */
	length: number;
	/** Milliseconds. */
	deadline: number;
}

/** The places. Numbers are those of the moment: they change when a frame leaves. */
export class WaitingFrames {
	readonly #list: Waiting[] = [];
	readonly #store = new Uint8Array(WAITING_MAX * WAITING_BYTES);

	/** Frames waiting now. */
	get count(): number {
		return this.#list.length;
	}

	/** Frame number `n`. */
	at(n: number): Waiting {
		return this.#list[n];
	}

	/** Bytes of frame number `n`, from its slot's first on. */
	bytes(n: number): Uint8Array {
		return this.#store.subarray(n * WAITING_BYTES, (n + 1) * WAITING_BYTES);
	}

	/** Whether a frame waits for this neighbour. */
	awaits(neighbour: number, wan: boolean): boolean {
		return this.#list.some((waiting) => waiting.neighbour === neighbour && waiting.wan === wan);
	}

	/**
	 * Number of the frame that has to go so that one of this internal host can wait; -1: there is a place; -2: it must
	 * not wait, because no host has more.
	 */
	room(internal: number): number {
		if (this.#list.length < WAITING_MAX) return -1;
		let most = this.#countOf(internal) + 1;
		let leaves = -2;
		for (const [n, waiting] of this.#list.entries()) {
			const count = this.#countOf(waiting.internal);
			if (count > most) {
				most = count;
				leaves = n;
			} else if (count === most && leaves >= 0 && waiting.deadline < this.#list[leaves].deadline) leaves = n;
		}
		return leaves;
	}

	#countOf(internal: number): number {
		let count = 0;
		for (const waiting of this.#list) if (waiting.internal === internal) count++;
		return count;
	}

	/** Keeps a copy of a frame: `slot` are its bytes with the slot's headers. There must be room. */
	add(frame: Omit<Waiting, "deadline">, slot: Uint8Array, now: number): void {
		this.#store.set(slot, this.#list.length * WAITING_BYTES);
		this.#list.push({ ...frame, deadline: now + PATIENCE });
	}

	/** Frame number `n` leaves; the last one gets its number. */
	remove(n: number): void {
		const last = this.#list.pop() as Waiting;
		if (n === this.#list.length) return;
		const from = this.#list.length * WAITING_BYTES;
		this.#store.copyWithin(n * WAITING_BYTES, from, from + WAITING_BYTES);
		this.#list[n] = last;
	}
}
