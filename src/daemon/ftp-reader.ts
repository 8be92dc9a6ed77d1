/**
 * What reads FTP control connections (nat/alg.ts): a bundle of its own, in memory from the first of them on, and a file
 * beside the sessions' with which a successor goes on.
 */
import * as native from "masq:native";
import type { Context } from "../nat/context.ts";
import type { FtpReader } from "../nat/ftp-control.ts";
import type { Clock } from "./clock.ts";
import type { Log } from "./log.ts";
import { mapOrMemory } from "./state.ts";

type Bundle = typeof import("../nat/alg.ts");

/** Makes the reader over the file at `path`; null, and a line in the log, if it cannot be had now. */
export function ftpReaderAt(path: string, log: Log, clock: Clock): (c: Context) => FtpReader | null {
	let bundle: Bundle | null = null;
	return (c) => {
		try {
			bundle ??= native.importBundle("ftp") as Bundle;
			return new bundle.FtpAlg(c, mapOrMemory(path, bundle.ALG_BYTES).memory);
		} catch (error) {
			log.rateLimited("warning", "ftp", `FTP is left as it is: ${(error as Error).message}`, clock.milliseconds);
			return null;
		}
	};
}
