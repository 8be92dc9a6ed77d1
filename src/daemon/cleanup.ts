/**
 * `masqd cleanup`: removes what a daemon that died has left in the kernel, so that the machine is as if masqd had never
 * run. The sessions stay in the state file: the next start goes on with them.
 *
 * A dead daemon leaves its guard, so that nothing of the LAN leaves untranslated while nobody translates; whoever wants
 * the kernel to forward again says so by this. Beside a living daemon nothing is touched: the lock of the state file is
 * held meanwhile.
 */
import * as native from "masq:native";
import { readImage } from "../conntrack/restore.ts";
import { GUARD_TABLE } from "../kernel/guard.ts";
import { IngressFilters } from "../kernel/ingress-filter.ts";
import { KernelMirror } from "../kernel/mirror.ts";
import { SavedSysctls } from "../kernel/saved-sysctls.ts";
import { removeLeftovers, TUN_NAME } from "../kernel/tun-routes.ts";
import { bootWords } from "./state.ts";

const CAP_NET_ADMIN = 12;

/** Who is told what was done, and what failed, a line each. */
export interface Teller {
	done(line: string): void;
	failed(line: string): void;
}

/** Where the daemon that is to be cleaned up after had its files. */
export interface LeftPaths {
	socket: string;
	state: string;
}

/**
 * Removes the leftovers; one that cannot be removed does not keep the others.
 *
 * @returns whether nothing is left: false beside a living daemon, without the permission, and after a failure.
 */
export function cleanup({ socket, state }: LeftPaths, tell: Teller): boolean {
	let lock: native.Fd;
	try {
		lock = native.lockFile(`${state}.lock`);
	} catch (error) {
		const { code, message } = error as native.NativeError;
		tell.failed(code === "EAGAIN" ? `a masqd is running (it holds ${state}.lock): nothing was touched; stop it instead` : message);
		return false;
	}
	try {
		return cleanUnderLock(socket, state, tell);
	} finally {
		native.close(lock);
	}
}

function cleanUnderLock(socket: string, state: string, tell: Teller): boolean {
	if (answers(socket)) {
		tell.failed(`a masqd is running (it answers at ${socket}): nothing was touched; stop it instead`);
		return false;
	}
	if (!native.hasCapability(CAP_NET_ADMIN)) {
		tell.failed("no permission: cleanup needs CAP_NET_ADMIN; start it as root");
		return false;
	}
	let lines = 0;
	let failures = 0;
	const done = (line: string) => {
		lines++;
		tell.done(line);
	};
	const attempt = (step: () => void) => {
		try {
			step();
		} catch (error) {
			failures++;
			tell.failed((error as Error).message);
		}
	};
	// Before the kernel gets the first packet. One that has stopped in good order has done so itself, and has taken its
	// guard away.
	attempt(() => {
		const { hasTable, NFPROTO } = carrierBundle();
		if (hasTable(native, NFPROTO.INET, nameOf(GUARD_TABLE))) handOverSessions(state);
	});
	const kernel = new KernelMirror(native);
	attempt(() => {
		kernel.open();
		const filters = new IngressFilters(kernel);
		for (const { index, name } of kernel.links.values())
			attempt(() => {
				if (filters.detachLeft(index)) done(`removed the offload's filter on ${name}`);
			});
		const { rules, routes } = removeLeftovers(kernel);
		if (rules > 0) done(`removed ${rules} policy ${rules === 1 ? "rule" : "rules"} of masqd's`);
		if (routes > 0) done(`removed ${routes} ${routes === 1 ? "route" : "routes"} of masqd's`);
	});
	attempt(() => kernel.close());
	attempt(() => {
		const { deleteTable, NFPROTO, QUEUE_TABLE } = carrierBundle();
		// Without nft, whose lack may be what masqd died of.
		for (const [family, table] of [
			[NFPROTO.INET, GUARD_TABLE],
			[NFPROTO.IPV4, QUEUE_TABLE],
		] as const)
			if (deleteTable(native, family, nameOf(table))) done(`removed the nft table ${table}`);
	});
	attempt(() => {
		for (const { name, value, problem } of new SavedSysctls(native, `${state}.settings`, `/${TUN_NAME}`).restore())
			done(problem === "" ? `set ${name} back to ${value.replace(/\s+/g, " ")}` : `left ${name} as it is: ${problem}`);
	});
	for (const path of [socket, `${state}.new`, `${state}.settings.new`])
		attempt(() => {
			if (native.fileSize(path) < 0) return;
			native.unlink(path);
			done(`removed ${path}`);
		});
	if (lines === 0 && failures === 0) tell.done("nothing to do: no masqd has left anything");
	return failures === 0;
}

/** It has the nft tables as netlink says them. */
function carrierBundle(): typeof import("./kernel-carrier.ts") {
	return native.importBundle("kernel-carrier") as typeof import("./kernel-carrier.ts");
}

/** The kernel goes on with what it can of the sessions that are in the file. */
function handOverSessions(state: string): void {
	const size = native.fileSize(state);
	if (size <= 0) return;
	const image = readImage(native.mapFile(state, size), bootWords(), Math.floor(native.now() / 1000));
	if (typeof image === "string") return;
	const { handOver } = native.importBundle("hand-over") as typeof import("../kernel/hand-over.ts");
	handOver(native, image.T, image.addresses, image.sessions);
}

/** A table's name without its family. */
function nameOf(table: string): string {
	return table.replace(/^\w+ /, "");
}

/** Whether a daemon serves a control socket. */
function answers(socket: string): boolean {
	try {
		native.close(native.unixConnect(socket));
		return true;
	} catch {
		return false;
	}
}
