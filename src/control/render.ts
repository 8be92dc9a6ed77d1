/**
 * Replies as text for a serial console: at most 76 columns, ASCII, no colour.
 */
import type { Flow, StatusReply } from "./protocol.ts";

/** Width of a serial console that everything fits. */
const COLUMNS = 76;
/** Labels stand to the left of this. */
const INDENT = " ".repeat(14);

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Bytes with a decimal unit, three digits. */
export function formatBytes(bytes: number): string {
	let n = bytes;
	let unit = 0;
	while (n >= 1000 && unit < UNITS.length - 1) {
		n /= 1000;
		unit++;
	}
	return `${unit === 0 ? n : n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : Math.round(n)} ${UNITS[unit]}`;
}

/** Seconds as "2h04m", "4m05s" or "59s". */
export function formatSeconds(seconds: number): string {
	const two = (n: number) => String(n).padStart(2, "0");
	if (seconds >= 86400) return `${Math.floor(seconds / 86400)}d${two(Math.floor((seconds % 86400) / 3600))}h`;
	if (seconds >= 3600) return `${Math.floor(seconds / 3600)}h${two(Math.floor((seconds % 3600) / 60))}m`;
	if (seconds >= 60) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
	return `${seconds}s`;
}

/** Two lines of at most 76 columns: the endpoints, then the state and counters. */
export function renderFlow(f: Flow): string {
	const counts = `out ${f.packetsOut} (${formatBytes(f.bytesOut)})  in ${f.packetsIn} (${formatBytes(f.bytesIn)})`;
	return (
		`${f.protocol.padEnd(4)} ${f.internal.padEnd(21)} ${f.external.padEnd(21)} ${f.peer}\n` +
		`     ${f.state.padEnd(12)} ${formatSeconds(f.left).padStart(6)} left  ${counts}\n`
	);
}

export const FLOW_HEADING = "prot inside                external              peer\n";

/** Breaks a text into lines of `width` columns at most, at spaces, each behind `indent`. */
export function wrap(text: string, width: number, indent: string): string {
	const lines: string[] = [];
	let line = "";
	for (const word of text.split(" ")) {
		if (line !== "" && indent.length + line.length + 1 + word.length > width) {
			lines.push(indent + line);
			line = word;
		} else line = line === "" ? word : `${line} ${word}`;
	}
	lines.push(indent + line);
	return `${lines.join("\n")}\n`;
}

function offloadText({ offload, forwarded }: StatusReply): string {
	if (offload.mode === "off") return "off";
	if (!offload.active) return `none: ${offload.detail}`;
	const packets = forwarded.out + forwarded.in;
	const share = packets === 0 ? 0 : (100 * (offload.packetsOut + offload.packetsIn)) / packets;
	return `${share.toFixed(1)} % of packets by the kernel (${offload.detail}), ${offload.flows} sessions of ${offload.capacity} now`;
}

/** The whole of `masqd status`. */
export function renderStatus(s: StatusReply): string {
	const out: string[] = [];
	const add = (label: string, text: string) => out.push(wrap(text, COLUMNS, INDENT).replace(INDENT, label.padEnd(INDENT.length)));
	add("masqd", `${s.version}, up ${formatSeconds(s.uptime)}, ${s.rssKb} kB resident`);
	for (const p of s.ports) {
		add(`${p.role} ${p.name}`, `${p.driver}, ${p.up ? "up" : "DOWN"}, ${p.address || "no address"}, mtu ${p.mtu}`);
		add("", `${p.received} frames received, ${p.sent} sent`);
	}
	const percent = ((100 * s.sessions.used) / s.sessions.total).toFixed(1);
	add("sessions", `${s.sessions.used} of ${s.sessions.total} (${percent} %), ${s.hosts} hosts, ${s.tableBytes} bytes`);
	for (const [state, n] of Object.entries(s.sessions.byState)) add("", `${state} ${n}`);
	add("ports free", s.externalPorts.map((p) => `${p.protocol} ${p.free} of ${p.total}`).join(", "));
	add("forwarded", `${s.forwarded.out} out, ${s.forwarded.in} in, ${s.leftToKernel} left to the kernel`);
	add("offload", offloadText(s));
	add("icmp errors", `${s.icmpErrorsSent} sent`);
	if (s.guard !== null) {
		add(
			"guard",
			Object.entries(s.guard)
				.map(([name, n]) => `${name} ${n}`)
				.join(", "),
		);
	}
	if (s.drops.length === 0) add("drops", "none");
	for (const d of s.drops) {
		add("dropped", `${d.count} ${d.reason}`);
		out.push(wrap(`${d.text} ${d.remedy}`, COLUMNS, INDENT));
	}
	for (const a of s.alg) {
		add("alg", `${a.count} ${a.note}`);
		out.push(wrap(`${a.text} ${a.remedy}`, COLUMNS, INDENT));
	}
	for (const w of s.warnings) out.push(wrap(`warning: ${w}`, COLUMNS, ""));
	return out.join("");
}
