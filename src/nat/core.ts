/**
 * The translating core, put together once: tables over a memory, the context that the parts share, and the parts. The
 * daemon, the self-test's simulator, the dry run, the unit tests and the fuzzer all have theirs from here and differ in
 * what they hand in only.
 */
import { Hosts } from "../conntrack/hosts.ts";
import type { PortRange } from "../conntrack/ports.ts";
import type { Timeouts } from "../conntrack/states.ts";
import { stateTimeouts } from "../conntrack/states.ts";
import { Table } from "../conntrack/table.ts";
import type { TableLayout } from "../conntrack/table-layout.ts";
import { Admission } from "./admission.ts";
import { CONTEXT_START, type Context, makeDrops } from "./context.ts";
import { DropLog } from "./drop-log.ts";
import { Expectations } from "./expectations.ts";
import { Externals } from "./externals.ts";
import { type FastPath, makeFastPath } from "./fast-path.ts";
import { type MakeFtpReader, makeAlgCounts } from "./ftp-control.ts";
import { IcmpSender } from "./icmp-error.ts";
import { SlowPath } from "./slow-path.ts";

/** What the memory of a core holds. */
export interface Tables {
	readonly table: Table;
	readonly hosts: Hosts;
	readonly externals: Externals;
}

/**
 * The tables over a memory of `layout.words * 4` bytes.
 *
 * @param keys four secret random words: three of the table's, one of the hosts'
 * @param ranges port ranges of the external addresses
 * @param kept the memory holds the records of a predecessor, which stay
 */
export function makeTables(
	memory: ArrayBuffer,
	layout: TableLayout,
	keys: Int32Array,
	timeouts: Timeouts,
	ranges: PortRange[],
	kept = false,
): Tables {
	return {
		table: new Table(memory, layout, keys, stateTimeouts(timeouts), kept),
		hosts: new Hosts(memory, layout, keys[3]),
		externals: new Externals(new Int32Array(memory, layout.portMaps * 4, layout.words - layout.portMaps), ranges),
	};
}

type Start = keyof typeof CONTEXT_START;
type Made = keyof Tables | "expectations" | "requested" | "drops" | "dropLog" | "algCounts";

/** What a context does not make itself. */
export type Surroundings = Omit<Context, Start | Made> & Partial<Pick<Context, Start>>;

/** A context over tables: nothing counted, no packet seen. */
export function makeContext(tables: Tables, given: Surroundings): Context {
	const drops = makeDrops();
	return {
		...CONTEXT_START,
		...tables,
		expectations: new Expectations(tables.table, tables.externals),
		requested: [],
		drops,
		dropLog: new DropLog(drops, given.views),
		algCounts: makeAlgCounts(),
		...given,
	};
}

/** The parts that decide. */
export interface Core {
	readonly context: Context;
	readonly admission: Admission;
	readonly slowPath: SlowPath;
	readonly fast: FastPath;
}

/** The parts over a context. */
export function makeCore(context: Context, makeFtp: MakeFtpReader): Core {
	const admission = new Admission(context);
	const slowPath = new SlowPath(context, admission, new IcmpSender(context), makeFtp);
	return { context, admission, slowPath, fast: makeFastPath(context, slowPath) };
}
