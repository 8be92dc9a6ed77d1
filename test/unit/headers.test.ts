/** Frames that are not right: each is dropped for its own reason, counted, and makes no state. */
import { describe, expect, it } from "vitest";
import { REASONS, type ReasonName } from "../../src/nat/reason.ts";
import { type Outcome, Rig, type RigOptions } from "./rig.ts";
import { bent, type Frame, icmp, icmpError, other, plain, query, tcp, udp } from "./rig-frame.ts";

const X = "203.0.113.1";
const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const S1 = "203.0.113.10";

const good = () => udp(`${H1}:40000`, `${S1}:9`);
const bend = (at: number, value: number, seal = true) =>
	bent(
		good(),
		(ip) => {
			ip[at] = value;
		},
		seal,
	);
const cut = (frame: Frame, length: number) => plain(frame.ip.slice(0, length));
const reasonOf = (outcome: Outcome) => outcome.drops;

interface Row {
	reason: ReasonName;
	what: string;
	out?: Frame;
	in?: Frame;
	options?: RigOptions;
	/** State that the case needs. */
	before?: (rig: Rig) => void;
}

const session = (rig: Rig) => void rig.toWan(udp(`${H1}:40000`, `${S1}:9`));

const ROWS: Row[] = [
	{ reason: "short-packet", what: "nothing", out: plain(new Uint8Array(0)), in: plain(new Uint8Array(0)) },
	{ reason: "short-packet", what: "19 bytes", out: cut(good(), 19), in: cut(good(), 19) },
	{ reason: "bad-version", what: "version 6", out: bend(0, 0x65), in: bend(0, 0x65) },
	{ reason: "bad-version", what: "version 0", out: bend(0, 0x05), in: bend(0, 0x05) },
	{ reason: "bad-header-length", what: "header of 16 bytes", out: bend(0, 0x44), in: bend(0, 0x44) },
	{ reason: "bad-header-length", what: "header longer than the frame", out: bend(0, 0x4f), in: bend(0, 0x4f) },
	{
		reason: "bad-header-length",
		what: "option without length",
		out: udp(`${H1}:1`, `${S1}:9`, { ipOptions: [1, 1, 1, 7] }),
		in: udp(`${S1}:9`, `${X}:40000`, { ipOptions: [1, 1, 1, 7] }),
	},
	{ reason: "bad-header-length", what: "option of length 1", out: udp(`${H1}:1`, `${S1}:9`, { ipOptions: [7, 1] }) },
	{ reason: "bad-total-length", what: "total length below the header", out: bend(3, 19), in: bend(3, 19) },
	{ reason: "bad-total-length", what: "total length beyond the frame", out: bend(2, 1), in: bend(2, 1) },
	{ reason: "bad-total-length", what: "frame cut short", out: cut(good(), 30), in: cut(good(), 30) },
	{ reason: "bad-header-checksum", what: "of a plain header", out: bend(10, 1, false), in: bend(10, 1, false) },
	{ reason: "bad-header-checksum", what: "hop count bent", out: bend(8, 65, false), in: bend(8, 65, false) },
	{
		reason: "bad-header-checksum",
		what: "of a header with options",
		out: bent(
			udp(`${H1}:1`, `${S1}:9`, { ipOptions: [1] }),
			(ip) => {
				ip[21] = 1;
			},
			false,
		),
	},
	{ reason: "bad-transport", what: "UDP of 7 bytes", out: other(H1, S1, 17, { payload: 7 }), in: other(S1, X, 17, { payload: 7 }) },
	{ reason: "bad-transport", what: "UDP length below 8", out: bend(25, 7, false) },
	{
		reason: "bad-transport",
		what: "UDP length beyond the packet",
		out: bend(24, 1, false),
		in: bent(
			udp(`${S1}:9`, `${X}:40000`),
			(ip) => {
				ip[24] = 1;
			},
			false,
		),
	},
	{ reason: "bad-transport", what: "TCP of 19 bytes", out: other(H1, S1, 6, { payload: 19 }), in: other(S1, X, 6, { payload: 19 }) },
	{
		reason: "bad-transport",
		what: "TCP data offset 4",
		out: bent(tcp(`${H1}:1`, `${S1}:9`, { flags: "S" }), (ip) => {
			ip[32] = 0x40;
		}),
	},
	{
		reason: "bad-transport",
		what: "TCP data offset beyond the segment",
		out: bent(tcp(`${H1}:1`, `${S1}:9`, { flags: "S" }), (ip) => {
			ip[32] = 0xf0;
		}),
	},
	{ reason: "bad-transport", what: "TCP source port 0", out: tcp(`${H1}:0`, `${S1}:9`, { flags: "S" }) },
	{ reason: "bad-transport", what: "TCP destination port 0", out: tcp(`${H1}:1`, `${S1}:0`, { flags: "S" }) },
	{ reason: "bad-transport", what: "no TCP flags", out: tcp(`${H1}:1`, `${S1}:9`, { flags: "" }) },
	{
		reason: "bad-transport",
		what: "SYN and FIN",
		out: tcp(`${H1}:1`, `${S1}:9`, { flags: "SF" }),
		in: tcp(`${S1}:9`, `${X}:40000`, { flags: "SF" }),
	},
	{ reason: "bad-transport", what: "FIN without ACK", out: tcp(`${H1}:1`, `${S1}:9`, { flags: "FPU" }) },
	{ reason: "bad-transport", what: "ICMP of 7 bytes", out: other(H1, S1, 1, { payload: 7 }), in: other(S1, X, 1, { payload: 7 }) },
	{
		reason: "link-broadcast",
		what: "R-12",
		out: udp(`${H1}:1`, `${S1}:9`, { group: true }),
		in: udp(`${S1}:9`, `${X}:40000`, { group: true }),
	},
	...[
		"0.0.0.0",
		"0.1.2.3",
		"127.0.0.1",
		"127.9.9.9",
		"224.0.0.1",
		"239.1.1.1",
		"240.0.0.1",
		"255.255.255.255",
		"192.168.1.0",
		"192.168.1.255",
		"192.168.1.1",
	].map((source): Row => ({ reason: "martian-source", what: `R-9 from ${source}`, out: udp(`${source}:1`, `${S1}:9`) })),
	...[
		"0.0.0.0",
		"0.1.2.3",
		"127.0.0.1",
		"127.255.255.255",
		"224.0.0.1",
		"239.255.255.250",
		"240.0.0.1",
		"255.255.255.255",
		"192.168.1.0",
		"192.168.1.77",
		"192.168.1.255",
		"203.0.113.0",
		"203.0.113.255",
		X,
	].map((source): Row => ({ reason: "martian-source", what: `R-11 from ${source} on the WAN`, in: udp(`${source}:9`, `${X}:40000`) })),
	...["0.0.0.0", "0.9.9.9", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255", "203.0.113.0", "203.0.113.255"].map(
		(to): Row => ({ reason: "martian-destination", what: `R-9 to ${to}`, out: udp(`${H1}:1`, `${to}:9`) }),
	),
	...["8.8.8.8", "203.0.113.10", "192.168.2.10", "169.254.1.1"].map(
		(source): Row => ({ reason: "spoofed-source", what: `R-10 from ${source}`, out: udp(`${source}:1`, "198.51.100.1:9") }),
	),
	{ reason: "land", what: "source and destination the same", out: udp(`${H1}:9`, `${H1}:9`) },
	{
		reason: "source-route",
		what: "loose",
		out: udp(`${H1}:1`, `${S1}:9`, { ipOptions: [131, 7, 4, 1, 2, 3, 4] }),
		in: udp(`${S1}:9`, `${X}:40000`, { ipOptions: [131, 7, 4, 1, 2, 3, 4] }),
	},
	{
		reason: "source-route",
		what: "I-73 strict, in an echo, behind another option",
		out: query(H1, S1, 7, { ipOptions: [1, 137, 7, 4, 1, 2, 3, 4] }),
	},
	{ reason: "ttl-expired", what: "one hop left", out: udp(`${H1}:1`, `${S1}:9`, { ttl: 1 }) },
	{ reason: "no-external-address", what: "W-3", out: good(), options: { wan: { address: null } } },
	{
		reason: "no-route",
		what: "R-5",
		out: good(),
		before: (rig) => {
			rig.hops.default = "no-route";
		},
	},
	{
		reason: "not-through-wan",
		what: "another way",
		out: good(),
		before: (rig) => {
			rig.hops.default = "elsewhere";
		},
	},
	{ reason: "too-big", what: "U-13", out: udp(`${H1}:1`, `${S1}:9`, { payload: 1500 }) },
	{
		reason: "fragment-invalid",
		what: "one whose length is no multiple of eight",
		out: udp(`${H1}:1`, `${S1}:9`, { df: false, more: true, payload: 12 }),
		in: udp(`${S1}:9`, `${X}:40000`, { df: false, more: true, payload: 12 }),
	},
	{ reason: "fragment-invalid", what: "beyond the end", out: udp(`${H1}:1`, `${S1}:9`, { df: false, fragment: 8189 }) },
	{
		reason: "private-destination",
		what: "on request",
		out: udp(`${H1}:1`, "10.1.2.3:9"),
		options: { policy: { blockPrivate: true } },
	},
	{ reason: "martian-destination", what: "R-9 link-local", out: udp(`${H1}:1`, "169.254.1.1:9") },
	{ reason: "martian-source", what: "R-9 link-local", in: udp("169.254.1.1:9", `${X}:40000`) },
	{ reason: "protocol-busy", what: "second host", out: other(H2, S1, 47), before: (rig) => void rig.toWan(other(H1, S1, 47)) },
	{ reason: "tcp-no-session", what: "stray SYN/ACK", out: tcp(`${H1}:1`, `${S1}:9`, { flags: "SA" }) },
	{ reason: "tcp-no-session", what: "stray RST", out: tcp(`${H1}:1`, `${S1}:9`, { flags: "R" }) },
	{ reason: "icmp-bad-checksum", what: "I-3", out: icmpError(H1, S1, 3, 3, good().ip, { checksum: 0x1234 }) },
	{ reason: "icmp-bad-quote", what: "short quote", out: icmpError(H1, S1, 3, 3, good().ip.slice(0, 24)) },
	{ reason: "icmp-no-session", what: "I-5", out: icmpError(H1, S1, 3, 3, udp(`${S1}:9`, `${H1}:1`).ip) },
	...[1, 2, 6, 7, 9, 10, 15, 16, 17, 18, 30, 40, 253].map(
		(type): Row => ({ reason: "icmp-unsupported", what: `I-11 type ${type}`, out: icmp(H1, S1, type, 0, [0, 1, 0, 1], new Uint8Array(8)) }),
	),
	{ reason: "no-mapping", what: "an unasked packet", in: udp(`${S1}:9`, `${X}:40000`) },
	{ reason: "no-mapping", what: "an echo reply that nobody asked for", out: query(H1, S1, 7, { type: 0 }) },
	{ reason: "filtered", what: "another peer", in: udp(`${S1}:10`, `${X}:40000`), before: session },
	{ reason: "not-ours", what: "another address", in: udp(`${S1}:9`, "203.0.113.99:40000") },
	{ reason: "not-ours", what: "R-11 the private address itself", in: udp(`${S1}:9`, `${H1}:40000`), before: session },
];

/**
 * Reasons that frames reach only with a full table or a failing port: full.test.ts, mapping.test.ts, tcp.test.ts,
 * fragments.test.ts, unsolicited-syn.test.ts, alg.test.ts; the last four are the ports'.
 */
const ELSEWHERE = [
	"fragment-overlap",
	"fragment-timeout",
	"fragment-overload",
	"table-full",
	"host-limit",
	"host-share",
	"host-rate",
	"ports-exhausted",
	"pool-exhausted",
	"tcp-bad-reset",
	"tcp-bad-checksum",
	"alg-gap",
	"alg-fragment",
	"queue-full",
	"icmp-untied",
	"hairpin-filtered",
	"endpoint-busy",
];
const OF_THE_PORTS = [
	"internal-error",
	"address-conflict",
	"no-next-hop",
	"host-unreachable",
	"waiting-full",
	"qdisc-full",
	"tun-queue",
	"pcp-crowded",
	"send-refused",
	"banned",
	"rejected",
	"leak",
];

describe("drop reasons", () => {
	for (const row of ROWS) {
		it(`${row.reason}: ${row.what}`, () => {
			for (const way of ["out", "in"] as const) {
				const frame = row[way];
				if (frame === undefined) continue;
				const rig = new Rig(row.options);
				row.before?.(rig);
				const sessions = rig.flows().length;
				const before = rig.context.errorsSent;
				const outcome = rig[way](frame);
				expect(reasonOf(outcome)).toEqual([row.reason]);
				expect(outcome.left).toBe(0);
				const passed = outcome.wan.length + outcome.lan[0].length - (rig.context.errorsSent - before);
				expect(passed).toBe(0);
				// A packet that is too big opens its session first: the sender will come again with less.
				if (row.reason !== "too-big") expect(rig.flows()).toHaveLength(sessions);
				rig.verify();
			}
		});
	}

	it("queue-full: the slow path says so when a port's queue has no room", () => {
		const rig = new Rig();
		rig.toWan(query(H1, S1, 40001));
		const { queue } = rig.context.wan;
		queue.count = queue.pairs.length / 2;
		rig.put(0, query(H1, S1, 40001), rig.context.lan[0], "02:00:00:00:10:01", "02:10:c0:a8:01:0a");
		rig.fast.outbound(rig.rx, 1, 0);
		expect(rig.context.drops[REASONS.findIndex((r) => r[0] === "queue-full")]).toBe(1);
		expect(queue.count).toBe(queue.pairs.length / 2);
		queue.count = 0;
	});

	it("every reason has a case here or where it belongs", () => {
		const covered = new Set<string>([...ROWS.map((row) => row.reason), ...ELSEWHERE, ...OF_THE_PORTS]);
		expect(REASONS.map((r) => r[0]).filter((name) => !covered.has(name))).toEqual([]);
		expect(REASONS).toHaveLength(covered.size);
	});

	it("every reason has a sentence and a remedy", () => {
		for (const [name, text, remedy] of REASONS) {
			expect(name).toMatch(/^[a-z-]+$/);
			expect(text).toMatch(/^[A-Z].*\.$/);
			expect(remedy).toMatch(/^[A-Z]/);
		}
	});
});

describe("R-8b: packets of a known session", () => {
	const short: [string, Frame][] = [
		["UDP of 4 bytes", other(S1, X, 17, { payload: Uint8Array.from([0, 9, 0x9c, 0x40]) })],
		["UDP of 4 bytes behind options", other(S1, X, 17, { payload: Uint8Array.from([0, 9, 0x9c, 0x40]), ipOptions: [1] })],
		["UDP of 7 bytes", other(S1, X, 17, { payload: Uint8Array.from([0, 9, 0x9c, 0x40, 0, 7, 0]) })],
		["TCP of 19 bytes", other(S1, X, 6, { payload: Uint8Array.from([0, 80, 0xc3, 0x50, ...new Array(15).fill(0)]) })],
		["TCP of 4 bytes behind options", other(S1, X, 6, { payload: Uint8Array.from([0, 80, 0xc3, 0x50]), ipOptions: [1] })],
	];
	for (const [what, frame] of short) {
		it(`${what} from outside does not reach the host`, () => {
			const rig = new Rig();
			rig.toWan(udp(`${H1}:40000`, `${S1}:9`));
			rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
			rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA" }));
			const flows = rig.flows();
			const outcome = rig.in(frame);
			expect(outcome.lan[0]).toEqual([]);
			expect(outcome.drops).toEqual(["bad-transport"]);
			expect(rig.flows()).toEqual(flows);
		});
	}
});

describe("batches", () => {
	it("bad frames between good ones take none of them with them", () => {
		const rig = new Rig();
		const bad = ROWS.filter(
			(row) =>
				row.out !== undefined &&
				row.options === undefined &&
				row.before === undefined &&
				row.reason !== "ttl-expired" &&
				row.reason !== "too-big",
		);
		for (let from = 0; from < bad.length; from += 30) {
			const frames = bad.slice(from, from + 30).flatMap((row) => [row.out as Frame, udp(`${H1}:45000`, `${S1}:9`)]);
			const outcome = rig.out(frames);
			const sent = outcome.wan.filter((p) => p.line === `udp ${X}:45000 > ${S1}:9`);
			expect(sent).toHaveLength(frames.length / 2);
			expect([...outcome.drops].sort()).toEqual(
				bad
					.slice(from, from + 30)
					.map((row) => row.reason as string)
					.sort(),
			);
		}
	});
});
