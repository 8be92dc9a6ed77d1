/** `drops` and `why` name the right reason for every drop there is, and a dry run leaves no trace. */

import { describe, expect, it } from "vitest";
import { remedyLines, remedySection } from "../../src/cli/remedy.ts";
import { renderDrop, renderWhy } from "../../src/cli/render.ts";
import { BARRED_ALOUD, BARRED_OUT } from "../../src/conntrack/barred.ts";
import type { DecisionsView } from "../../src/control/daemon-view.ts";
import { why } from "../../src/control/dry-run.ts";
import type { DropRow, WhyReply } from "../../src/control/protocol.ts";
import { drops } from "../../src/control/sessions.ts";
import { REASON, REASONS, type ReasonName } from "../../src/nat/reason.ts";
import { SLOT_SIZE } from "../../src/packet/layout.ts";
import { Rig, type RigOptions, type Way } from "./rig.ts";
import { bent, type Frame, icmp, icmpError, ipv4, other, plain, query, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";

type Owner = DecisionsView & { wan: { name: string }; lan: { name: string }[] };

function ownerOf(rig: Rig, impaired: number | null = null): Owner {
	return {
		context: rig.context,
		wan: { name: "wan0" },
		lan: [{ name: "br-lan" }],
		lookup: (destination) => rig.hops.find(destination),
		passesBy: () => null,
		impaired,
	};
}

function collect<Row>(rows: Generator<Row[] | undefined, unknown>): Row[] {
	return [...rows].flatMap((slice) => slice ?? []);
}

interface Case {
	options?: RigOptions;
	before?: (rig: Rig) => void;
	/** The frame that is dropped, from the LAN or the WAN; or what else brings the drop about. */
	out?: Frame;
	in?: Frame;
	run?: (rig: Rig) => void;
	/** Endpoints as `drops` must show them. */
	from: string;
	to: string;
	/** The decision depends on endpoints and tables alone: a dry run must come to it too. */
	dry?: boolean;
	/** There is a configuration that lets it pass. */
	remedy?: boolean;
}

const bend = (frame: Frame, at: number, value: number, seal = true) =>
	bent(
		frame,
		(ip) => {
			ip[at] = value;
		},
		seal,
	);
const lead = (rig: Rig, way: Way) => {
	rig.hops.default = way;
};
const open = (rig: Rig) => void rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
const ascii = (text: string) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
/** An FTP control connection from H1:50000 to S1:21, numbers 1001 and 5001 next. */
const control = (rig: Rig) => {
	rig.margin = false;
	rig.out(tcp(`${H1}:50000`, `${S1}:21`, { flags: "S", seq: 1000 }));
	rig.in(tcp(`${S1}:21`, `${X}:50000`, { flags: "SA", seq: 5000, ack: 1001 }));
	rig.out(tcp(`${H1}:50000`, `${S1}:21`, { seq: 1001, ack: 5001, payload: 0 }));
};
const fragment = (offset: number, payload: number, more: boolean, id = 7) =>
	plain(ipv4(H1, S1, 17, new Uint8Array(payload), { df: false, id, fragment: offset / 8, more }));
/**
 * A drop that the engine and not the decision code finds: the log gets it by hand, the way there is tested with the
 * daemon.
 */
const byHand = (reason: ReasonName, frame: Frame, port: number) => (rig: Rig) => {
	rig.put(0, frame, rig.context.lan[0], "02:00:00:00:00:01", "02:00:00:00:00:02");
	rig.context.dropLog.add(REASON[reason], 0 * SLOT_SIZE, port, rig.context.now);
};
const fill = (n: number) => (rig: Rig) => {
	for (let k = 0; k < n; k++) rig.out(udp(`${H1}:${1024 + k}`, `${S1}:9`));
};

const CASES: Record<ReasonName, Case> = {
	"short-packet": { out: plain(ipv4(H1, S1, 17, new Uint8Array(0)).slice(0, 19)), from: "0.0.0.0", to: "0.0.0.0" },
	"bad-version": { out: bend(udp(`${H1}:1`, `${S1}:9`), 0, 0x65), from: H1, to: S1 },
	"bad-header-length": { out: bend(udp(`${H1}:1`, `${S1}:9`), 0, 0x44), from: H1, to: S1 },
	"bad-total-length": { in: bend(udp(`${S1}:9`, `${X}:1`), 3, 19), from: S1, to: X },
	"bad-header-checksum": { out: bend(udp(`${H1}:1`, `${S1}:9`), 10, 1, false), from: H1, to: S1 },
	"bad-transport": { out: tcp(`${H1}:40000`, `${S1}:80`, { flags: "SF" }), from: `${H1}:40000`, to: `${S1}:80` },
	"link-broadcast": { out: udp(`${H1}:1`, `${S1}:9`, { group: true }), from: H1, to: S1 },
	"martian-source": { out: udp("127.0.0.1:5", `${S1}:9`), from: "127.0.0.1:5", to: `${S1}:9`, dry: true },
	"martian-destination": { out: udp(`${H1}:5`, "240.0.0.1:9"), from: `${H1}:5`, to: "240.0.0.1:9", dry: true },
	"private-destination": {
		options: { policy: { blockPrivate: true } },
		out: udp(`${H1}:5`, "10.1.1.1:9"),
		from: `${H1}:5`,
		to: "10.1.1.1:9",
		dry: true,
		remedy: true,
	},
	"spoofed-source": { out: udp("10.9.9.9:5", `${S1}:9`), from: "10.9.9.9:5", to: `${S1}:9`, dry: true, remedy: true },
	land: { out: udp(`${H1}:9`, `${H1}:9`), from: `${H1}:9`, to: `${H1}:9`, dry: true },
	"source-route": { out: udp(`${H1}:1`, `${S1}:9`, { ipOptions: [131, 7, 4, 1, 2, 3, 4] }), from: `${H1}:1`, to: `${S1}:9` },
	"ttl-expired": { out: udp(`${H1}:1`, `${S1}:9`, { ttl: 1 }), from: `${H1}:1`, to: `${S1}:9` },
	"no-external-address": {
		options: { wan: { address: null } },
		out: udp(`${H1}:5`, `${S1}:9`),
		from: `${H1}:5`,
		to: `${S1}:9`,
		dry: true,
	},
	"address-conflict": {
		options: { wan: { address: null } },
		run: (rig) => {
			rig.put(0, udp(`${H1}:5`, `${S1}:9`), rig.context.lan[0], "02:00:00:00:00:01", "02:00:00:00:00:02");
			rig.slowPath.outboundImpaired(rig.rx[0], rig.rx[1], 0, REASON["address-conflict"]);
		},
		from: `${H1}:5`,
		to: `${S1}:9`,
		dry: true,
	},
	"no-route": {
		before: (rig) => lead(rig, "no-route"),
		out: udp(`${H1}:5`, `${S1}:9`),
		from: `${H1}:5`,
		to: `${S1}:9`,
		dry: true,
	},
	"not-through-wan": {
		before: (rig) => lead(rig, "elsewhere"),
		out: udp(`${H1}:5`, `${S1}:9`),
		from: `${H1}:5`,
		to: `${S1}:9`,
		dry: true,
	},
	"no-next-hop": { run: byHand("no-next-hop", udp(`${H1}:5`, `${S1}:9`), 0), from: `${H1}:5`, to: `${S1}:9` },
	"waiting-full": { run: byHand("waiting-full", udp(`${H1}:5`, `${S1}:9`), 0), from: `${H1}:5`, to: `${S1}:9` },
	"host-unreachable": { run: byHand("host-unreachable", udp(`${S1}:9`, `${H1}:5`), -1), from: `${S1}:9`, to: `${H1}:5` },
	"too-big": { before: open, out: udp(`${H1}:40000`, `${S1}:9`, { payload: 1600 }), from: `${H1}:40000`, to: `${S1}:9` },
	"fragment-invalid": { out: fragment(0, 4, true), from: H1, to: S1 },
	"fragment-overlap": {
		run: (rig) => {
			rig.out(fragment(0, 480, true));
			rig.out(fragment(472, 480, true));
		},
		from: H1,
		to: S1,
	},
	"fragment-timeout": {
		run: (rig) => {
			rig.out(fragment(480, 480, true));
			rig.idle(31);
		},
		from: H1,
		to: S1,
	},
	"fragment-overload": {
		run: (rig) => {
			for (let id = 1; id < 400 && rig.context.drops[REASON["fragment-overload"]] === 0; id++) rig.out(fragment(480, 1400, true, id));
		},
		from: H1,
		to: S1,
	},
	"table-full": {
		options: { sessions: 256 },
		before: fill(256),
		out: udp(`${H1}:9999`, `${S1}:9`),
		from: `${H1}:9999`,
		to: `${S1}:9`,
		dry: true,
		remedy: true,
	},
	"host-limit": {
		options: { hosts: [{ address: H1, maxSessions: 2 }] },
		before: fill(2),
		out: udp(`${H1}:9999`, `${S1}:9`),
		from: `${H1}:9999`,
		to: `${S1}:9`,
		dry: true,
		remedy: true,
	},
	"host-rate": {
		options: { hosts: [{ address: H1, maxRate: 2 }] },
		before: fill(2),
		out: udp(`${H1}:9999`, `${S1}:9`),
		from: `${H1}:9999`,
		to: `${S1}:9`,
		dry: true,
		remedy: true,
	},
	"host-share": {
		options: { sessions: 256 },
		before: (rig) => {
			rig.out(udp(`${H2}:1`, `${S1}:9`));
			fill(220)(rig);
		},
		out: udp(`${H1}:9999`, `${S1}:9`),
		from: `${H1}:9999`,
		to: `${S1}:9`,
		dry: true,
		remedy: true,
	},
	"ports-exhausted": {
		options: { ranges: [{ first: 40000, last: 40001 }] },
		before: fill(2),
		out: udp(`${H1}:9999`, `${S1}:9`),
		from: `${H1}:9999`,
		to: `${S1}:9`,
		dry: true,
		remedy: true,
	},
	"pool-exhausted": {
		options: { pools: [{ nets: ["192.168.1.0/24"], externals: ["203.0.113.100"] }] },
		before: (rig) => void rig.toWan(udp(`${H2}:1`, `${S1}:9`)),
		out: udp(`${H1}:9999`, `${S1}:9`),
		from: `${H1}:9999`,
		to: `${S1}:9`,
		dry: true,
		remedy: true,
	},
	"protocol-busy": { before: (rig) => void rig.toWan(other(H2, S1, 47)), out: other(H1, S1, 47), from: H1, to: S1, dry: true },
	"tcp-no-session": { out: tcp(`${H1}:5`, `${S1}:80`, { flags: "FA" }), from: `${H1}:5`, to: `${S1}:80` },
	"tcp-bad-reset": {
		before: (rig) => {
			rig.toWan(tcp(`${H1}:40000`, `${S1}:80`, { flags: "S" }));
			rig.toLan(tcp(`${S1}:80`, `${X}:40000`, { flags: "SA" }));
			rig.toWan(tcp(`${H1}:40000`, `${S1}:80`, { flags: "A", ack: 5000 }));
		},
		in: tcp(`${S1}:80`, `${X}:40000`, { flags: "R", seq: 0x7fffffff }),
		from: `${S1}:80`,
		to: `${X}:40000`,
	},
	"icmp-bad-checksum": {
		in: icmpError(S1, X, 3, 3, udp(`${X}:40000`, `${S1}:9`).ip, { checksum: 0x1234 }),
		from: S1,
		to: X,
	},
	"icmp-bad-quote": {
		in: icmpError(S1, X, 3, 3, bend(udp(`${X}:40000`, `${S1}:9`), 10, 1, false).ip),
		from: S1,
		to: X,
	},
	"icmp-no-session": { out: icmpError(H1, S1, 3, 3, udp(`${S1}:9`, `${H1}:5`).ip), from: H1, to: S1 },
	"icmp-untied": { before: open, out: icmpError(H1, S2, 3, 3, udp(`${S1}:9`, `${H1}:40000`).ip), from: H1, to: S2 },
	"icmp-unsupported": { out: icmp(H1, S1, 17, 0, [0, 0, 0, 0], new Uint8Array(4)), from: H1, to: S1 },
	"tcp-bad-checksum": {
		before: control,
		out: tcp(`${H1}:50000`, `${S1}:21`, { seq: 1001, ack: 5001, payload: 8, checksum: 0x1234 }),
		from: `${H1}:50000`,
		to: `${S1}:21`,
	},
	"alg-gap": {
		before: (rig) => {
			control(rig);
			rig.out(tcp(`${H1}:50000`, `${S1}:21`, { flags: "PA", seq: 1001, ack: 5001, payload: ascii("USER x\r\n") }));
		},
		out: tcp(`${H1}:50000`, `${S1}:21`, { flags: "PA", seq: 2000, ack: 5001, payload: ascii("LIST\r\n") }),
		from: `${H1}:50000`,
		to: `${S1}:21`,
	},
	"alg-fragment": {
		run: (rig) => {
			control(rig);
			const whole = tcp(`${H1}:50000`, `${S1}:21`, { seq: 1001, ack: 5001, df: false, payload: ascii("USER anonymous\r\n") });
			const piece = (from: number, to: number, more: boolean) =>
				plain(ipv4(H1, S1, 6, whole.ip.slice(20 + from, 20 + to), { df: false, more, fragment: from / 8, id: 7 }));
			rig.out([piece(0, 24, true), piece(24, 36, false)]);
		},
		from: `${H1}:50000`,
		to: `${S1}:21`,
	},
	"no-mapping": { in: udp(`${S1}:9`, `${X}:40000`), from: `${S1}:9`, to: `${X}:40000`, dry: true, remedy: true },
	"hairpin-filtered": {
		options: { lan: [{}, {}] },
		before: (rig) => void rig.toWan(udp("192.168.2.10:40000", `${S1}:9`), 1),
		out: udp(`${H1}:40001`, `${X}:40000`),
		from: `${X}:40001`,
		to: `${X}:40000`,
	},
	"endpoint-busy": {
		options: {
			forwards: [
				{ protocol: 17, first: 5202, internal: H1, internalFirst: 5201 },
				{ protocol: 17, first: 5203, internal: H1, internalFirst: 5201 },
			],
		},
		before: (rig) => {
			rig.hops.answersInternal = true;
			rig.toLan(udp(`${S1}:10000`, `${X}:5202`));
		},
		in: udp(`${S1}:10000`, `${X}:5203`),
		from: `${S1}:10000`,
		to: `${X}:5203`,
		dry: true,
	},
	filtered: { before: open, in: udp(`${S2}:9`, `${X}:40000`), from: `${S2}:9`, to: `${X}:40000`, dry: true, remedy: true },
	"not-ours": { in: udp(`${S1}:9`, "203.0.113.99:5"), from: `${S1}:9`, to: "203.0.113.99:5" },
	"queue-full": { run: byHand("queue-full", udp(`${X}:5`, `${S1}:9`), 0), from: `${X}:5`, to: `${S1}:9` },
	"qdisc-full": { run: byHand("qdisc-full", udp(`${X}:5`, `${S1}:9`), 0), from: `${X}:5`, to: `${S1}:9` },
	"tun-queue": { run: byHand("tun-queue", udp(`${X}:5`, `${S1}:9`), 0), from: `${X}:5`, to: `${S1}:9` },
	"pcp-crowded": { run: byHand("pcp-crowded", udp(`${X}:5`, `${S1}:9`), 0), from: `${X}:5`, to: `${S1}:9` },
	"send-refused": { run: byHand("send-refused", udp(`${X}:5`, `${S1}:9`), 0), from: `${X}:5`, to: `${S1}:9` },
	"internal-error": { run: byHand("internal-error", udp(`${H1}:5`, `${S1}:9`), 0), from: `${H1}:5`, to: `${S1}:9` },
	banned: {
		before: (rig) => {
			rig.context.barred = () => BARRED_OUT;
		},
		out: udp(`${H1}:5`, `${S1}:9`),
		from: `${H1}:5`,
		to: `${S1}:9`,
		dry: true,
	},
	rejected: {
		before: (rig) => {
			rig.context.barred = () => BARRED_OUT | BARRED_ALOUD;
		},
		out: udp(`${H1}:5`, `${S1}:9`),
		from: `${H1}:5`,
		to: `${S1}:9`,
		dry: true,
	},
	leak: { run: byHand("leak", udp(`${H1}:5`, `${S1}:9`), 0), from: `${H1}:5`, to: `${S1}:9` },
};

/** Drops the packet of a case; the newest row of `drops`. */
function drop(c: Case): { rig: Rig; row: DropRow } {
	const rig = new Rig(c.options);
	rig.accounts = false;
	rig.strict = false;
	c.before?.(rig);
	if (c.out !== undefined) rig.out(c.out);
	else if (c.in !== undefined) rig.in(c.in);
	else c.run?.(rig);
	return { rig, row: collect(drops(ownerOf(rig)))[0] };
}

function dryRun(rig: Rig, row: DropRow): WhyReply {
	return why(ownerOf(rig, row.reason === "address-conflict" ? REASON["address-conflict"] : null), {
		protocol: row.protocol,
		source: row.source,
		destination: row.destination,
		direction: row.direction,
	});
}

function fits(text: string): void {
	expect(text).toMatch(/^[\x20-\x7e\n]*$/);
	for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(76);
}

describe("every drop", () => {
	for (const [n, [name, text, remedy]] of REASONS.entries()) {
		const c = CASES[name];
		it(name, () => {
			const { rig, row } = drop(c);
			expect(row).toMatchObject({ reason: name, text, remedy, source: c.from, destination: c.to, ago: 0 });
			expect(rig.context.drops[n]).toBeGreaterThan(0);
			expect(text).toMatch(/\.$/);
			expect(remedy).toMatch(/\.$/);
			fits(renderDrop(row));
			if (!c.dry) return;
			const dry = dryRun(rig, row);
			expect(dry).toMatchObject({ verdict: "dropped", reason: name, text, remedy });
			fits(renderWhy(dry));
			const section = remedySection(dry);
			expect(section !== null).toBe(c.remedy ?? false);
			if (section !== null) expect(remedyLines(section).length).toBeGreaterThan(1);
		});
	}
});

describe("a dry run", () => {
	const rig = new Rig();
	open(rig);
	rig.toWan(query(H1, S1, 77));
	const memory = new Uint8Array(rig.table.T.buffer);
	const requests: [string, string, string, string | undefined, WhyReply["verdict"]][] = [
		["udp", `${H1}:40000`, `${S1}:9`, undefined, "forwarded"],
		["udp", `${H1}:40000`, `${S2}:9`, "out", "forwarded"],
		["tcp", `${H2}:5000`, `${S1}:80`, undefined, "forwarded"],
		["icmp", `${H1}:77`, S1, undefined, "forwarded"],
		["icmp", S1, `${X}:77`, undefined, "kernel"],
		["gre", H2, S1, undefined, "forwarded"],
		["udp", `${S1}:9`, `${X}:40000`, undefined, "forwarded"],
		["udp", `${S2}:9`, `${X}:40000`, "in", "dropped"],
		["udp", `${H2}:5000`, `${X}:40000`, undefined, "forwarded"],
		["udp", `${H2}:5000`, `${X}:45678`, undefined, "dropped"],
		["tcp", `${S1}:80`, `${X}:22`, undefined, "kernel"],
		["udp", "10.0.0.1:1", `${S1}:9`, "out", "dropped"],
	];
	for (const [protocol, source, destination, direction, verdict] of requests) {
		it(`${protocol} ${source} > ${destination} leaves no trace`, () => {
			const c = rig.context;
			const counters = () => [
				[...c.drops],
				c.leftToKernel,
				c.forwardedOut,
				c.forwardedIn,
				c.errorsSent,
				c.dropLog.sequence,
				c.ipId,
				c.hosts.active,
				c.table.used,
			];
			const ports = () => [6, 17, 1].map((p) => c.externals.portCount(0, p));
			const before = { memory: memory.slice(), counters: counters(), ports: ports(), headers: new Uint8Array(c.headers.buffer).slice() };
			const reply = why(ownerOf(rig), { protocol, source, destination, ...(direction !== undefined && { direction }) });
			expect(reply.verdict).toBe(verdict);
			if (verdict !== "kernel") expect(reply.steps.length).toBeGreaterThan(0);
			expect(memory).toEqual(before.memory);
			expect(counters()).toEqual(before.counters);
			expect(ports()).toEqual(before.ports);
			expect(new Uint8Array(c.headers.buffer)).toEqual(before.headers);
			expect(rig.hops.held).toEqual([]);
			expect(c.wan.queue.count + c.lan[0].queue.count).toBe(0);
			rig.verify();
		});
	}

	it("tells what the packet would become", () => {
		const reply = why(ownerOf(rig), { protocol: "udp", source: `${H2}:40000`, destination: `${S1}:9` });
		const sent = rig.toWan(udp(`${H2}:40000`, `${S1}:9`));
		// A port that is drawn is drawn anew: only parity is told beforehand.
		expect(reply.as?.destination).toBe(`${S1}:9`);
		expect(Number(reply.as?.source.split(":")[1]) & 1).toBe(sent.sourcePort & 1);
	});

	it("says when a packet would wait for ARP", () => {
		const waiting = new Rig();
		waiting.hops.default = "unknown";
		expect(why(ownerOf(waiting), { protocol: "udp", source: `${H1}:1`, destination: `${S1}:9` }).verdict).toBe("waits");
	});

	it("refuses what makes no sense, in words", () => {
		const ask = (protocol: string, source: string, destination: string, direction?: string) => () =>
			why(ownerOf(rig), { protocol, source, destination, ...(direction !== undefined && { direction }) });
		expect(ask("xyz", H1, S1)).toThrow("is not a protocol");
		expect(ask("udp", "me:1", `${S1}:9`)).toThrow("is not an ADDRESS:PORT");
		expect(ask("udp", H1, `${S1}:9`)).toThrow("needs a port");
		expect(ask("udp", `${H1}:1`, `${S1}:9`, "up")).toThrow("is not a direction");
	});
});

describe("the drop log", () => {
	it("counts what repeats and keeps reasons apart", () => {
		const rig = new Rig();
		rig.out(udp("10.9.9.9:5", `${S1}:9`));
		for (let n = 0; n < 100; n++) rig.in(udp(`${S1}:9`, `${X}:40000`));
		for (let n = 0; n < 40; n++) rig.in(udp(`${S1}:9`, `${X}:${40001 + n}`));
		const rows = collect(drops(ownerOf(rig)));
		expect(rows.filter((r) => r.reason === "spoofed-source").length).toBe(1);
		expect(rows.filter((r) => r.reason === "no-mapping").length).toBe(16);
		expect(rows[0].destination).toBe(`${X}:40040`);
		const flood = new Rig();
		for (let n = 0; n < 100; n++) flood.in(udp(`${S1}:9`, `${X}:40000`));
		expect(collect(drops(ownerOf(flood)))).toMatchObject([{ count: 100, destination: `${X}:40000` }]);
	});
});
