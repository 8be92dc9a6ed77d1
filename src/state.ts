/**
 * The file that the table lives in: opened, recognised and taken over. It lies on tmpfs, so it outlives the process and not the machine.
 */
import * as native from "masq:native";
import { type Image, NOT_OURS, readImage } from "./conntrack/restore.ts";
import type { TableLayout } from "./conntrack/table.ts";

const BOOT_ID = "/proc/sys/kernel/random/boot_id";

/** The memory for a table, and what a predecessor left. */
export interface State {
	memory: ArrayBuffer;
	/** What was found, null if there was nothing or it can not be used. */
	image: Image | null;
	/** Why a file that was there can not be used, "" if it can or there was none. */
	refused: string;
	/** The file that `memory` is, if it is not yet the state file: a table of another size, to be renamed when it is complete. */
	pending: string;
}

/** This boot of the machine as four words; of a kernel that does not tell, zeros. */
export function bootWords(): Int32Array {
	const words = new Int32Array(4);
	let text: string;
	try {
		text = native.readFile(BOOT_ID);
	} catch {
		return words;
	}
	const digits = text.replace(/[^0-9a-f]/g, "");
	for (let n = 0; n < 4; n++) words[n] = Number.parseInt(digits.slice(n * 8, n * 8 + 8), 16) | 0;
	return words;
}

/**
 * Opens the state file for a table of `layout`, `now` in seconds since boot. Nothing in it is changed but its length; whoever calls holds the lock.
 * Throws a native error if the file can not be opened.
 */
export function openState(path: string, layout: TableLayout, boot: Int32Array, now: number): State {
	const bytes = layout.words * 4;
	const size = native.fileSize(path);
	if (size <= 0) return { memory: native.mapFile(path, bytes), image: null, refused: "", pending: "" };
	const old = native.mapFile(path, size);
	const found = readImage(old, boot, now);
	if (typeof found === "string") {
		// Zeros are the table of a start that did not get so far. What is not ours is not ours to overwrite.
		const begun = size >= 4 && new Int32Array(old, 0, 1)[0] === 0;
		if (found === NOT_OURS && !begun) native.rename(path, `${path}.refused`);
		return { memory: native.mapFile(path, bytes), image: null, refused: begun ? "" : found, pending: "" };
	}
	if (found.sessions !== layout.sessions) {
		const memory = native.mapFile(`${path}.new`, bytes);
		new Int32Array(memory).fill(0);
		return { memory, image: found, refused: "", pending: `${path}.new` };
	}
	// Only what lies behind the records differs in length, if anything.
	const memory = native.mapFile(path, bytes);
	return { memory, image: readImage(memory, boot, now) as Image, refused: "", pending: "" };
}
