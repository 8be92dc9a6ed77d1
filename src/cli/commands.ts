/**
 * The commands that ask a running daemon. Everything here is the command line's side: it runs in a process of its own.
 */
import * as native from "masq:native";
import {
	type AccountRow,
	type AccountsReply,
	type CapturedPacket,
	type CaptureRequest,
	type DropRow,
	type Flow,
	type FlowFilter,
	type FlowPage,
	type FlushRequest,
	type HostRow,
	type Mapping,
	PAGE_MAX,
	type ReloadReply,
	type StatusReply,
	type WhyReply,
} from "../control/protocol.ts";
import { parseAddress } from "../packet/address.ts";
import { ControlClient, ControlError } from "./client.ts";
import { type Command, type Line, SOCKET, UsageError } from "./command-line.ts";
import { formatTime, renderEvent, renderMappingLog, type WatchEvent } from "./event-text.ts";
import { PcapngWriter } from "./pcapng.ts";
import { remedySection } from "./remedy.ts";
import {
	COLUMNS,
	FLOW_HEADING,
	HOST_HEADING,
	MAPPING_HEADING,
	renderAccount,
	renderDrop,
	renderFlow,
	renderHost,
	renderMapping,
	renderReason,
	renderRemedy,
	renderStatus,
	renderWhy,
	wrap,
} from "./render.ts";

const DEFAULT_ROWS = 50;
const DEFAULT_PACKETS = 100;

/**
 * What is to be printed: one write for many rows, because the rows' daemon and its traffic may have only this
 * processor.
 */
let printed = "";
const PRINT_AT_ONCE = 16384;

/** Prints what has been gathered. */
export function flushOutput(): void {
	if (printed === "") return;
	const text = printed;
	printed = "";
	native.print(1, text);
}

function out(text: string): void {
	printed += text;
	if (printed.length > PRINT_AT_ONCE) flushOutput();
}

const json = (value: unknown) => out(`${JSON.stringify(value)}\n`);

function connect({ options }: Line): ControlClient {
	return new ControlClient(options.get("--socket") ?? SOCKET, flushOutput);
}

/** Value of -n, or what stands for it. */
function rowsOf({ options }: Line, otherwise: number): number {
	const text = options.get("-n");
	if (text === undefined) return options.has("-j") ? Number.POSITIVE_INFINITY : otherwise;
	const rows = Number(text);
	if (!Number.isInteger(rows) || rows < 1) throw new UsageError("-n needs a number");
	return rows;
}

/** What a flow filter's options say; checked by the daemon. */
function filterOf({ options }: Line): FlowFilter {
	const filter: FlowFilter = {};
	for (const [option, name] of [
		["--host", "host"],
		["--peer", "peer"],
		["--proto", "protocol"],
		["--state", "state"],
	] as const) {
		const value = options.get(option);
		if (value !== undefined) filter[name] = value;
	}
	return filter;
}

function status(line: Line): number {
	const reply = connect(line).request<StatusReply>({ command: "status" });
	if (line.options.has("-j")) json(reply);
	else out(renderStatus(reply));
	return 0;
}

function flows(line: Line): number {
	const most = rowsOf(line, DEFAULT_ROWS);
	const show = rowPrinter(line, FLOW_HEADING, renderFlow);
	const sort = line.options.get("--sort");
	if (sort !== undefined && sort !== "bytes" && sort !== "age") throw new UsageError("--sort needs bytes or age");
	const client = connect(line);
	// Sorted, they come in pages: neither the daemon nor this has memory for the whole table as text.
	let left = most;
	let after = null as [number, number] | null;
	let matched: number;
	let total: number;
	do {
		const page: FlowPage = {
			...(left < Number.POSITIVE_INFINITY && { limit: left }),
			...(sort !== undefined && { sort }),
			...(after !== null && { after }),
		};
		let next: [number, number] | null | undefined;
		({ matched, total, next } = client.request<{ matched: number; total: number; next?: typeof after }, Flow>(
			{ command: "flows", ...filterOf(line), ...page },
			show,
		));
		after = next ?? null;
		left -= PAGE_MAX;
	} while (after !== null && left > 0);
	if (!line.options.has("-j")) {
		const shown = Math.min(most, matched);
		const all = matched < total ? `${matched} of ${total} sessions match` : `${total} sessions`;
		out(shown < matched ? `${shown} of ${all} shown; -n ${matched} shows all\n` : `${all}\n`);
	}
	return 0;
}

/** Prints rows as JSON or, the first below a heading, as text. */
function rowPrinter<Row>(line: Line, heading: string, render: (row: Row) => string): (row: Row) => void {
	if (line.options.has("-j")) return json;
	let above = heading;
	return (row) => {
		out(above + render(row));
		above = "";
	};
}

function mappings(line: Line): number {
	const most = rowsOf(line, DEFAULT_ROWS);
	const limit = most < Number.POSITIVE_INFINITY ? { limit: most } : {};
	const show = rowPrinter(line, MAPPING_HEADING, renderMapping);
	const { matched } = connect(line).request<{ matched: number }, Mapping>({ command: "mappings", ...filterOf(line), ...limit }, show);
	if (!line.options.has("-j"))
		out(matched > most ? `${most} of ${matched} mappings shown; -n ${matched} shows all\n` : `${matched} mappings\n`);
	return 0;
}

function hosts(line: Line): number {
	const most = rowsOf(line, DEFAULT_ROWS);
	const by = line.options.get("--by");
	if (by) {
		// When they are is known behind the last row.
		const rows: AccountRow[] = [];
		const { present } = connect(line).request<AccountsReply, AccountRow>({ command: "hosts", by, limit: most }, (row) => rows.push(row));
		for (const { address, bytes } of rows) {
			// "2026-12-01" or "2026-12-01T17:00", by the router's clock.
			const [step, length] = by === "day" ? [864e5, 10] : [36e5, 16];
			const dated = bytes.map((moved, n) => [formatTime((present - n) * step).slice(0, length), ...moved] as const);
			if (line.options.has("-j")) json({ address, [by]: dated });
			else for (const one of dated) out(renderAccount(address, one));
		}
		return 0;
	}
	const show = rowPrinter(line, HOST_HEADING, renderHost);
	let shown = 0;
	connect(line).request<unknown, HostRow>({ command: "hosts" }, (h) => {
		if (++shown <= most) show(h);
	});
	if (!line.options.has("-j")) out(shown > most ? `${most} of ${shown} hosts shown; -n ${shown} shows all\n` : `${shown} hosts\n`);
	return 0;
}

function drops(line: Line): number {
	const most = rowsOf(line, DEFAULT_ROWS);
	const rows = lastDrops(connect(line));
	for (const d of rows.slice(0, most)) line.options.has("-j") ? json(d) : out(renderDrop(d));
	if (!line.options.has("-j"))
		out(
			rows.length === 0
				? "nothing was dropped\n"
				: rows.length > most
					? `${most} of ${rows.length} shown; -n ${rows.length} shows all\n`
					: "",
		);
	return 0;
}

function lastDrops(client: ControlClient, host?: string): DropRow[] {
	const rows: DropRow[] = [];
	client.request<unknown, DropRow>({ command: "drops" }, (d) => {
		if (host === undefined || d.source.split(":")[0] === host || d.destination.split(":")[0] === host) rows.push(d);
	});
	return rows;
}

function why(line: Line): number {
	const [protocol, source, destination, direction] = line.words;
	// The one word is a host.
	if (source === undefined) {
		if (protocol !== undefined && parseAddress(protocol) === null) throw new UsageError(`'${protocol}' is not the address of a host`);
		return explainDrops(line, connect(line), protocol);
	}
	if (protocol === undefined || destination === undefined) throw new UsageError("why takes a host, or PROTO SRC:PORT DST:PORT");
	const reply = connect(line).request<WhyReply>({
		command: "why",
		protocol,
		source,
		destination,
		...(direction !== undefined && { direction }),
	});
	if (line.options.has("-j")) json({ ...reply, change: remedySection(reply) });
	else out(renderWhy(reply));
	return 0;
}

/** Explains the newest drop of every reason, and whether such a packet would still be dropped. */
function explainDrops(line: Line, client: ControlClient, host: string | undefined): number {
	const seen = new Set<string>();
	const rows = lastDrops(client, host).filter((d) => !seen.has(d.reason) && seen.add(d.reason));
	for (const d of rows) {
		const now = dryRun(client, d);
		const same = now?.reason === d.reason ? now : null;
		if (line.options.has("-j")) json({ ...d, now: now?.verdict ?? null, change: same === null ? null : remedySection(same) });
		else {
			out(`${renderDrop(d)}${renderReason(d.text, d.remedy)}`);
			if (same !== null) out(renderRemedy(same));
			else if (now?.verdict === "forwarded") out("           Such a packet would be forwarded now.\n");
		}
	}
	if (rows.length === 0 && !line.options.has("-j"))
		out(host === undefined ? "nothing was dropped\n" : `nothing of ${host} was dropped lately\n`);
	return 0;
}

/** What would become of a packet like a dropped one now; null if that cannot be asked. */
function dryRun(client: ControlClient, d: DropRow): WhyReply | null {
	if (!d.source.includes(":") && (d.protocol === "tcp" || d.protocol === "udp")) return null;
	const protocol = d.protocol.replace(/^icmp-.*/, "icmp");
	try {
		return client.request<WhyReply>({ command: "why", protocol, source: d.source, destination: d.destination, direction: d.direction });
	} catch {
		return null;
	}
}

function watch(line: Line): number {
	const mappings = line.options.has("--log");
	const show = line.options.has("-j") ? json : (e: WatchEvent) => out(mappings ? renderMappingLog(e) : renderEvent(e));
	connect(line).request<unknown, WatchEvent>({ command: "watch", mappings }, show);
	return 0;
}

/** What can be flushed, and the words that say more. */
const FLUSHED = new Map<string, string[]>([
	["all", []],
	["host", ["ADDRESS"]],
	["mapping", ["PROTO", "ADDRESS:PORT"]],
	["wan", []],
]);

function flush(line: Line): number {
	const [what, ...rest] = line.words;
	if (what === undefined) throw new UsageError("flush what? all, host, mapping or wan");
	const wanted = FLUSHED.get(what);
	if (wanted === undefined) throw new UsageError(`unknown flush target '${what}'`);
	if (rest.length !== wanted.length) throw new UsageError(`it is flush ${[what, ...wanted].join(" ")}`);
	const [first = "", second = ""] = rest;
	const request: FlushRequest =
		what === "host"
			? { what, host: first }
			: what === "mapping"
				? { what, protocol: first, external: second }
				: { what: what === "wan" ? "wan" : "all" };
	const { sessions } = connect(line).request<{ sessions: number }>({ command: "flush", ...request });
	if (line.options.has("-j")) json({ sessions });
	else out(`${sessions} sessions ended\n`);
	return 0;
}

function capture(line: Line): number {
	const { options } = line;
	const what = line.words[0] ?? "next";
	if (what !== "next" && what !== "on" && what !== "off" && what !== "last") throw new UsageError(`cannot capture '${what}'`);
	if (what === "on" || what === "off") {
		const reply = connect(line).request({ command: "capture", what });
		if (options.has("-j")) json(reply);
		return 0;
	}
	const count = options.has("-n") ? rowsOf(line, DEFAULT_PACKETS) : what === "next" ? DEFAULT_PACKETS : 0;
	const host = options.get("--host");
	const request: CaptureRequest = { what, count, dropped: options.has("--dropped"), ...(host !== undefined && { host }) };
	const client = connect(line);
	const show: (p: CapturedPacket) => void = options.has("-j") ? json : pcapngTo(options.get("-w"));
	client.request<unknown, CapturedPacket>({ command: "capture", ...request }, (p) => {
		// A row may also tell of packets that were lost because they came faster than they were read.
		if (options.has("-j") || p.packet !== undefined) show(p);
	});
	return 0;
}

/** Opens a pcapng file, standard output without a path; returns what writes a packet. */
function pcapngTo(path: string | undefined): (p: CapturedPacket) => void {
	let fd: native.Fd = 1;
	if (path !== undefined) {
		try {
			fd = native.createFile(path, 0o600);
		} catch (error) {
			throw new ControlError((error as Error).message);
		}
	} else if (/^\/dev\/(tty|pts|console)/.test(native.readLink("/proc/self/fd/1"))) {
		throw new UsageError("capture writes a pcapng file: -w FILE, or redirect it");
	}
	const poll = new Int32Array(3);
	const writer = new PcapngWriter(256, (bytes) => {
		const buffer = bytes.buffer as ArrayBuffer;
		for (let sent = 0; sent < bytes.length; ) {
			const n = native.write(fd, buffer, sent, bytes.length - sent);
			if (n > 0) sent += n;
			else {
				poll.set([fd, native.POLLOUT, 0]);
				native.poll(poll, 1, -1);
			}
		}
	});
	return (p) => {
		const verdict = p.reason === null ? p.verdict : `${p.verdict}: ${p.reason}: ${p.text}`;
		const other = p.sent === null ? "" : `; ${p.verdict === "answered" ? "the answer" : "translated"}: ${describe(p.sent)}`;
		writer.packet(p.from, p.time, bytesOf(p.packet), p.length, `masqd ${verdict}${other}`);
		if (p.sent === null) return;
		const came = p.verdict === "answered" ? "answers" : "was";
		writer.packet(p.to, p.time, bytesOf(p.sent), p.sentLength, `masqd ${verdict}; ${came}: ${describe(p.packet)}`);
	};
}

function bytesOf(hex: string): Uint8Array {
	const bytes = new Uint8Array(hex.length / 2);
	for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16);
	return bytes;
}

/** "tcp A:P > B:P" of a packet in hexadecimal. */
function describe(hex: string): string {
	const b = bytesOf(hex);
	if (b.length < 20) return "a short packet";
	const view = new DataView(b.buffer);
	const at = (view.getUint8(0) & 15) * 4;
	const protocol = view.getUint8(9);
	const ported = (protocol === 6 || protocol === 17) && b.length >= at + 4;
	const end = (from: number, port: number) => b.slice(from, from + 4).join(".") + (ported ? `:${view.getUint16(port)}` : "");
	const name = { 1: "icmp", 6: "tcp", 17: "udp" }[protocol] ?? `protocol ${protocol}`;
	return `${name} ${end(12, at)} > ${end(16, at + 2)}`;
}

function reload(line: Line): number {
	const reply = connect(line).request<ReloadReply>({ command: "reload" });
	const { errors, notes } = reply;
	if (line.options.has("-j")) json(reply);
	else {
		for (const error of errors) native.print(2, `${error}\n`);
		if (errors.length === 0) out(`reloaded\n${notes.map((note) => wrap(note, COLUMNS, "")).join("")}`);
	}
	return errors.length === 0 ? 0 : 1;
}

const ASK = { "-j": false, "--socket": true };

/** What the package luci-app-masqd has a script for: scripts are small, and small routers need none of it. */
function script(name: string): Command {
	const run = ({ options }: Line) => {
		const path = `${native.getenv("MASQD_SCRIPTS") ?? "/usr/libexec"}/masqd-${name}`;
		let done: { status: number; output: string };
		try {
			done = native.run([path, ...[...options].map(([name, value]) => (value === "" ? name : `${name}=${value}`))], "", 60_000);
		} catch {
			throw new ControlError(`${path} does not run: it is in the package luci-app-masqd`);
		}
		out(done.output);
		return done.status;
	};
	return { run, options: { ...ASK, "--collectd": false, "--stun": true } };
}

const FILTER = { "--host": true, "--proto": true };

/** All commands that ask the daemon. */
export const COMMANDS: Record<string, Command> = {
	status: { run: status, options: ASK },
	flows: { run: flows, options: { ...ASK, ...FILTER, "-n": true, "--peer": true, "--state": true, "--sort": true } },
	mappings: { run: mappings, options: { ...ASK, ...FILTER, "-n": true } },
	hosts: { run: hosts, options: { ...ASK, "-n": true, "--by": true } },
	drops: { run: drops, options: { ...ASK, "-n": true } },
	why: { run: why, options: ASK, words: 4 },
	watch: { run: watch, options: { ...ASK, "--log": false } },
	flush: { run: flush, options: ASK, words: 3 },
	capture: { run: capture, options: { ...ASK, "-w": true, "-n": true, "--host": true, "--dropped": false }, words: 1 },
	metrics: script("metrics"),
	"nat-type": script("nat-type"),
	reload: { run: reload, options: ASK },
};
