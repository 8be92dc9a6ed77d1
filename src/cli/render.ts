/**
 * Replies as text for a serial console: at most 76 columns, ASCII, no colour.
 */
import type { DropRow, Flow, HostRow, Mapping, StatusReply, WhyReply } from "../control/protocol.ts";
import { remedyLines, remedySection } from "./remedy.ts";

/** Width of a serial console that everything fits. */
export const COLUMNS = 76;
/** Labels stand to the left of this. */
const INDENT = " ".repeat(14);

const STEP_INDENT = " ".repeat(13);
const DROP_INDENT = " ".repeat(12);

const UNITS = ["", "k", "M", "G", "T", "P", "E"];
/** Counts of more digits than this get a unit. */
const COUNT_MAX = 99_999_999;

/** Three digits and a decimal unit. */
function threeDigits(value: number): string {
	let n = value;
	let unit = 0;
	while (n >= 999.5 && unit < UNITS.length - 1) {
		n /= 1000;
		unit++;
	}
	return `${unit === 0 ? n : n < 9.995 ? n.toFixed(2) : n < 99.95 ? n.toFixed(1) : Math.round(n)} ${UNITS[unit]}`;
}

/** Bytes with a decimal unit, at most 7 characters. */
export function formatBytes(bytes: number): string {
	return `${threeDigits(bytes)}B`;
}

/** A count in at most 8 characters: the digits, or three of them and a decimal unit. */
export function formatCount(count: number): string {
	return count <= COUNT_MAX ? String(count) : threeDigits(count);
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
	const counts = `out ${formatCount(f.packetsOut)} (${formatBytes(f.bytesOut)})  in ${formatCount(f.packetsIn)} (${formatBytes(f.bytesIn)})`;
	return (
		`${f.protocol.padEnd(4)} ${f.internal.padEnd(21)} ${f.external.padEnd(21)} ${f.peer}\n` +
		`     ${f.state.padEnd(12)} ${formatSeconds(f.left).padStart(6)} left  ${counts}\n`
	);
}

export const FLOW_HEADING = "prot internal              external              peer\n";

export const MAPPING_HEADING = "prot internal              external              sessions filtering\n";

const WHO: Record<string, string> = {
	"endpoint-independent": "anyone",
	"address-dependent": "asked hosts",
	"address-and-port-dependent": "asked ports",
};

/** A mapping in a line. */
export function renderMapping(m: Mapping): string {
	return `${m.protocol.padEnd(4)} ${m.internal.padEnd(21)} ${m.external.padEnd(21)} ${String(m.sessions).padStart(8)} ${WHO[m.filtering] ?? m.filtering}\n`;
}

export const HOST_HEADING = "host            port            sessions  limit refused      out       in\n";

/** A host in a line. */
export function renderHost(h: HostRow): string {
	return (
		`${h.address.padEnd(15)} ${h.port.padEnd(15)} ${String(h.sessions).padStart(8)} ${String(h.limit).padStart(6)} ` +
		`${String(h.refused).padStart(7)} ${formatBytes(h.bytesOut).padStart(8)} ${formatBytes(h.bytesIn).padStart(8)}\n`
	);
}

/** What a host has moved in an hour or a day, nothing if it is nothing. */
export function renderAccount(address: string, [time, sent, received]: readonly [string, number, number]): string {
	if (sent + received < 1) return "";
	return `${address.padEnd(15)} ${time} out ${formatBytes(sent).padStart(8)} in ${formatBytes(received).padStart(8)}\n`;
}

/** What and when, then the endpoints: two lines, three if the names are long. */
export function renderDrop(d: DropRow): string {
	const times = d.count > 1 ? `, ${d.count} times` : "";
	const packet = `${d.direction} by ${d.port}: ${d.protocol} ${d.source} > ${d.destination}`;
	return `${formatSeconds(d.ago).padStart(6)} ago  ${d.reason}${times}\n${wrap(packet, COLUMNS, DROP_INDENT)}`;
}

/** What became or would become of a packet, with the steps and what could be changed. */
export function renderWhy(w: WhyReply): string {
	const out: string[] = [];
	out.push(`${w.packet.protocol} ${w.packet.source} > ${w.packet.destination}, ${w.packet.direction}\n`);
	for (const s of w.steps) out.push(wrap(s.text, COLUMNS, STEP_INDENT).replace(STEP_INDENT, `  ${s.what.padEnd(11)}`));
	out.push(renderVerdict(w));
	return out.join("");
}

/** The verdict of a dry run, with reason and remedy. */
export function renderVerdict(w: WhyReply): string {
	switch (w.verdict) {
		case "dropped": {
			const told = w.answered ? ", and the sender is told by an ICMP error" : "";
			return `DROPPED    ${w.reason}${told}\n${renderReason(w.text ?? "", w.remedy ?? "")}${renderRemedy(w)}`;
		}
		case "waits":
			return "WAITS      for the neighbour's answer, and is forwarded with it\n";
		case "forwarded":
			return `FORWARDED  as ${w.as?.source} > ${w.as?.destination}\n`;
		default:
			return "KERNEL     left to the kernel\n";
	}
}

/** A sentence and its remedy. */
export function renderReason(text: string, remedy: string): string {
	return wrap(`${text} ${remedy}`, COLUMNS, "           ");
}

/** UCI lines that would let the packet pass; nothing if there are none. */
export function renderRemedy(w: WhyReply): string {
	const section = remedySection(w);
	if (section === null) return "";
	const lines = remedyLines(section).map((line) => `    ${line.replace("\t", "    ")}\n`);
	return `In /etc/config/masqd:\n${lines.join("")}`;
}

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
	const past = offload.past ? `; they go past others: ${offload.past}` : "";
	return `${share.toFixed(1)} % of packets by the kernel (${offload.detail}), ${offload.flows} sessions of ${offload.capacity} now${past}`;
}

/** The whole of `masqd status`. */
export function renderStatus(s: StatusReply): string {
	const out: string[] = [];
	const add = (label: string, text: string) => {
		const lines = wrap(text, COLUMNS, INDENT);
		// A label that is too long, of a device with a long name, has a line of its own.
		out.push(label.length < INDENT.length ? lines.replace(INDENT, label.padEnd(INDENT.length)) : `${label}\n${lines}`);
	};
	add("masqd", `${s.version}, up ${formatSeconds(s.uptime)}, ${s.rssKb} kB resident`);
	for (const p of s.ports) {
		add(`${p.role} ${p.name}`, `${p.driver}, ${p.up ? "up" : "DOWN"}, ${p.address || "no address"}, mtu ${p.mtu}`);
		add("", `${p.received} frames received, ${p.sent} sent`);
	}
	const percent = ((100 * s.sessions.used) / s.sessions.total).toFixed(1);
	add("sessions", `${s.sessions.used} of ${s.sessions.total} (${percent} %), ${s.hosts} hosts, ${s.tableBytes} bytes`);
	for (const [state, n] of Object.entries(s.sessions.byState)) add("", `${state} ${n}`);
	const top = s.topHosts.map((h) => `${h.address} ${h.sessions}${h.refused > 0 ? ` (${h.refused} refused)` : ""}`);
	if (top.length > 0) add("top hosts", top.join(", "));
	add("ports free", s.externalPorts.map((p) => `${p.protocol} ${p.free} of ${p.total}`).join(", "));
	add("packets/s", `${s.rates.out} out, ${s.rates.in} in, ${s.rates.dropped} dropped`);
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
