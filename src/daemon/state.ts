/**
 * The file that the table lives in: opened, recognised and taken over. It lies on tmpfs, so it outlives the process and
 * not the machine.
 */
import * as native from "masq:native";
import { type Image, NOT_OURS, readImage } from "../conntrack/restore.ts";
import type { TableLayout } from "../conntrack/table-layout.ts";
import { StartError } from "./follower.ts";

/** Milliseconds to wait for a lock in all, and between two attempts. */
const LOCK_PATIENCE = 500;
const LOCK_STEP = 20;
const BOOT_ID = "/proc/sys/kernel/random/boot_id";

/** The memory for a table, and what a predecessor left. */
export interface State {
	memory: ArrayBuffer;
	/** What was found, null if there was nothing or it cannot be used. */
	image: Image | null;
	/** Why a file that was there cannot be used, "" if it can or there was none. */
	refused: string;
	/** Why `memory` is in no file, "" if it is: it ends with the process then. */
	notPersisted: string;
	/**
	 * The file that `memory` is, if it is not yet the state file: a table of another size, to be renamed when it is
	 * complete.
	 */
	pending: string;
}

/** A file's bytes; on a full file system memory that ends with the process, and why. Throws any other native error. */
export function mapOrMemory(path: string, bytes: number): { memory: ArrayBuffer; notPersisted: string } {
	try {
		return { memory: native.mapFile(path, bytes), notPersisted: "" };
	} catch (error) {
		if ((error as native.NativeError).code !== "ENOSPC") throw error;
		return { memory: native.mapFile("", bytes), notPersisted: (error as native.NativeError).message };
	}
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
 * Opens the state file for a table of `layout`, `now` in seconds since boot. Nothing in it is changed but its length;
 * whoever calls holds the lock. On a full file system the table is in memory only. Throws a native error if the file
 * cannot be opened.
 */
export function openState(path: string, layout: TableLayout, boot: Int32Array, now: number): State {
	const state: State = { memory: new ArrayBuffer(0), image: null, refused: "", notPersisted: "", pending: "" };
	const bytes = layout.words * 4;
	const size = native.fileSize(path);
	try {
		if (size > 0) readOld(state, path, size, boot, now);
		if (state.image !== null && state.image.sessions !== layout.sessions) {
			state.pending = `${path}.new`;
			state.memory = native.mapFile(state.pending, bytes);
			new Int32Array(state.memory).fill(0);
			return state;
		}
		// Only what lies behind the records differs in length, if anything.
		state.memory = native.mapFile(path, bytes);
		if (state.image !== null) state.image = readImage(state.memory, boot, now) as Image;
	} catch (error) {
		if ((error as native.NativeError).code !== "ENOSPC") throw error;
		native.unlink(state.pending || path);
		state.notPersisted = (error as native.NativeError).message;
		state.pending = "";
		// Of a table of this size that is in the file itself nothing is left.
		if (state.image?.sessions === layout.sessions) state.image = null;
		state.memory = native.mapFile("", bytes);
	}
	return state;
}

function readOld(state: State, path: string, size: number, boot: Int32Array, now: number): void {
	const old = native.mapFile(path, size);
	const found = readImage(old, boot, now);
	if (typeof found !== "string") {
		state.image = found;
		return;
	}
	// Zeros are the table of a start that did not get so far. What is not ours is not ours to overwrite.
	if (size >= 4 && new Int32Array(old, 0, 1)[0] === 0) return;
	state.refused = found;
	if (found === NOT_OURS) native.rename(path, `${path}.refused`);
}

/**
 * Takes the lock of a state file. A program that a killed predecessor had just started may hold it for a moment longer.
 */
export function lockState(path: string): native.Fd {
	for (let waited = 0; ; waited += LOCK_STEP) {
		try {
			return native.lockFile(`${path}.lock`);
		} catch (error) {
			if ((error as native.NativeError).code !== "EAGAIN") throw error;
			if (waited >= LOCK_PATIENCE) throw new StartError(`another masqd is running (it holds ${path}.lock)`);
		}
		native.poll(new Int32Array(0), 0, LOCK_STEP);
	}
}
