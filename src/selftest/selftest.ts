/**
 * `masqd selftest`: requirements of the RFCs, played through the live decision code on private memory. Needs no daemon,
 * no privilege and no network.
 */

import { HOST_EIF } from "../conntrack/record.ts";
import { ACK, RST, SYN } from "../packet/tcp.ts";
import { EXTERNAL, Simulator } from "./simulator.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";

/** Source of a packet that left by the WAN, "" if none did. */
function sourceOf(result: string): string {
	return /^wan (\S+) >/.exec(result)?.[1] ?? "";
}

function portOf(result: string): number {
	return Number(sourceOf(result).split(":")[1] ?? 0);
}

function idOf(result: string): number {
	return Number(/ id (\d+)$/.exec(result)?.[1] ?? 0);
}

/** A requirement, what it says, and its play: what was expected and seen, as texts that must be equal. */
type Row = [id: string, text: string, play: () => [expected: unknown, seen: unknown]];

/** TCP: opens a connection from H1:40000 to S1:80. */
function connect(b: Simulator): void {
	b.out("tcp", `${H1}:40000`, `${S1}:80`, SYN);
	b.in("tcp", `${S1}:80`, `${EXTERNAL}:40000`, SYN | ACK);
	b.out("tcp", `${H1}:40000`, `${S1}:80`, ACK);
}

/** UDP from H1:40000 to S1:3478. */
function ask(b: Simulator): string {
	return b.out("udp", `${H1}:40000`, `${S1}:3478`);
}

const ROWS: Row[] = [
	[
		"RFC 4787 REQ-1",
		"one external endpoint whatever the peer",
		() => {
			const b = new Simulator();
			return [sourceOf(ask(b)), sourceOf(b.out("udp", `${H1}:40000`, `${S2}:99`))];
		},
	],
	[
		"RFC 4787 REQ-1",
		"also when two hosts use one source port",
		() => {
			const b = new Simulator();
			ask(b);
			const other = b.out("udp", `${H2}:40000`, `${S1}:3478`);
			return [sourceOf(other), sourceOf(b.out("udp", `${H2}:40000`, `${S2}:99`))];
		},
	],
	[
		"RFC 4787 REQ-3",
		"no external port for two hosts",
		() => {
			const b = new Simulator();
			const ports = new Set<number>();
			for (let n = 2; n < 62; n++) ports.add(portOf(b.out("udp", `192.168.1.${n}:40000`, `${S1}:53`)));
			return [60, ports.size];
		},
	],
	[
		"RFC 4787 REQ-4",
		"port parity is kept",
		() => {
			const b = new Simulator();
			b.out("udp", `${H1}:40001`, `${S1}:53`);
			return [1, portOf(b.out("udp", `${H2}:40001`, `${S1}:53`)) & 1];
		},
	],
	[
		"RFC 4787 REQ-5",
		"a UDP mapping lives more than 2 minutes",
		() => {
			const b = new Simulator();
			ask(b);
			b.pass(299);
			return [`lan ${S1}:3478 > ${H1}:40000`, b.in("udp", `${S1}:3478`, `${EXTERNAL}:40000`)];
		},
	],
	[
		"RFC 4787 REQ-6",
		"outbound packets keep it alive",
		() => {
			const b = new Simulator();
			for (let n = 0; n < 5; n++) {
				ask(b);
				b.pass(290);
			}
			return [1, b.sessions];
		},
	],
	[
		"RFC 4787 REQ-6",
		"inbound packets alone do not",
		() => {
			const b = new Simulator();
			ask(b);
			for (let n = 0; n < 8; n++) {
				b.pass(50);
				b.in("udp", `${S1}:3478`, `${EXTERNAL}:40000`);
			}
			return [0, b.sessions];
		},
	],
	[
		"RFC 4787 REQ-8",
		"only who was asked may answer",
		() => {
			const b = new Simulator();
			ask(b);
			return ["filtered", b.in("udp", `${S1}:9`, `${EXTERNAL}:40000`)];
		},
	],
	[
		"RFC 4787 REQ-8",
		"or anyone, if so configured",
		() => {
			const b = new Simulator({ filtering: HOST_EIF });
			ask(b);
			return [`lan ${S2}:9 > ${H1}:40000`, b.in("udp", `${S2}:9`, `${EXTERNAL}:40000`)];
		},
	],
	[
		"RFC 4787 REQ-9",
		"hairpinning, with the external source",
		() => {
			const b = new Simulator({ filtering: HOST_EIF });
			ask(b);
			return [`lan ${EXTERNAL}:50000 > ${H1}:40000`, b.out("udp", `${H2}:50000`, `${EXTERNAL}:40000`)];
		},
	],
	[
		"RFC 4787 REQ-12",
		"an ICMP error ends no mapping",
		() => {
			const b = new Simulator();
			ask(b);
			b.errorIn(3, 3, "udp", `${EXTERNAL}:40000`, `${S1}:3478`);
			return [1, b.sessions];
		},
	],
	[
		"RFC 5382 REQ-1",
		"TCP: one external endpoint whatever the peer",
		() => {
			const b = new Simulator();
			return [sourceOf(b.out("tcp", `${H1}:40000`, `${S1}:80`, SYN)), sourceOf(b.out("tcp", `${H1}:40000`, `${S2}:80`, SYN))];
		},
	],
	[
		"RFC 5382 REQ-2",
		"simultaneous open",
		() => {
			const b = new Simulator();
			b.out("tcp", `${H1}:40000`, `${S1}:80`, SYN);
			return [`lan ${S1}:80 > ${H1}:40000`, b.in("tcp", `${S1}:80`, `${EXTERNAL}:40000`, SYN)];
		},
	],
	[
		"RFC 5382 REQ-4",
		"an unwanted SYN is not answered at once",
		() => ["no-mapping", new Simulator().in("tcp", `${S1}:80`, `${EXTERNAL}:40000`, SYN)],
	],
	[
		"RFC 5382 REQ-5",
		"an idle connection lives more than 2 h 4 min",
		() => {
			const b = new Simulator();
			connect(b);
			b.pass(7440);
			return [`lan ${S1}:80 > ${H1}:40000`, b.in("tcp", `${S1}:80`, `${EXTERNAL}:40000`, ACK)];
		},
	],
	[
		"RFC 5382 REQ-10",
		"an ICMP error ends no connection",
		() => {
			const b = new Simulator();
			connect(b);
			b.errorIn(3, 1, "tcp", `${EXTERNAL}:40000`, `${S1}:80`);
			return [`wan ${EXTERNAL}:40000 > ${S1}:80`, b.out("tcp", `${H1}:40000`, `${S1}:80`, ACK)];
		},
	],
	[
		"RFC 7857 2.2",
		"a forged reset is dropped",
		() => {
			const b = new Simulator();
			b.out("tcp", `${H1}:40000`, `${S1}:80`, SYN);
			b.in("tcp", `${S1}:80`, `${EXTERNAL}:40000`, SYN | ACK);
			// The inside acknowledges up to 1000, a reset at 10,000,000 is not from the peer.
			b.segmentOut(`${H1}:40000`, `${S1}:80`, ACK, 1000);
			return ["tcp-bad-reset", b.segmentIn(`${S1}:80`, `${EXTERNAL}:40000`, RST, 10_000_000)];
		},
	],
	[
		"RFC 7857 6",
		"what is dropped makes no state",
		() => {
			const b = new Simulator();
			b.in("udp", `${S1}:53`, `${EXTERNAL}:40000`);
			b.out("udp", "10.9.9.9:1", `${S1}:53`);
			return [0, b.sessions];
		},
	],
	[
		"RFC 5508 REQ-1",
		"echo: mapping by identifier, reply gets back",
		() => {
			const b = new Simulator();
			const id = idOf(b.out("icmp", `${H1}:7`, S1));
			return [`lan ${S1} > ${H1} id 7`, b.in("icmp", S1, `${EXTERNAL}:${id}`)];
		},
	],
	[
		"RFC 5508 REQ-2",
		"an echo mapping lives 60 s",
		() => {
			const b = new Simulator();
			b.out("icmp", `${H1}:7`, S1);
			b.pass(60);
			const before = b.sessions;
			b.pass(2);
			return ["1 0", `${before} ${b.sessions}`];
		},
	],
	[
		"RFC 5508 REQ-4",
		"an ICMP error about a mapping gets in",
		() => {
			const b = new Simulator();
			ask(b);
			return [`lan 203.0.113.254 > ${H1} id 0`, b.errorIn(3, 3, "udp", `${EXTERNAL}:40000`, `${S1}:3478`)];
		},
	],
	[
		"RFC 5508 REQ-4",
		"one about nothing known does not",
		() => ["kernel", new Simulator().errorIn(3, 3, "udp", `${EXTERNAL}:40000`, `${S1}:3478`)],
	],
	[
		"RFC 6888 REQ-4",
		"a limit of sessions for each host",
		() => {
			const b = new Simulator({ maxSessions: 2 });
			for (let n = 0; n < 2; n++) b.out("udp", `${H1}:${40000 + n}`, `${S1}:53`);
			return ["host-limit error 3/1", b.out("udp", `${H1}:40009`, `${S1}:53`)];
		},
	],
	[
		"RFC 6888 REQ-5",
		"a limit of new sessions a second",
		() => {
			const b = new Simulator({ maxRate: 2 });
			for (let n = 0; n < 2; n++) b.out("udp", `${H1}:${40000 + n}`, `${S1}:53`);
			return ["host-rate error 3/1", b.out("udp", `${H1}:40009`, `${S1}:53`)];
		},
	],
	[
		"RFC 1812 5.3.1",
		"the last hop ends here and is answered",
		() => ["ttl-expired error 11/0", new Simulator().out("udp", `${H1}:1024`, `${S1}:53`, 0, 1)],
	],
	["RFC 1812 5.3.7", "no source that cannot be a host's", () => ["martian-source", new Simulator().out("udp", "127.0.0.1:1", `${S1}:53`)]],
	[
		"RFC 1122 3.2.1.3",
		"nor a broadcast address of the WAN's",
		() => ["martian-source", new Simulator().in("udp", "203.0.113.255:53", `${EXTERNAL}:40000`)],
	],
	["RFC 2827", "no source that is not of the LAN", () => ["spoofed-source", new Simulator().out("udp", "10.9.9.9:1", `${S1}:53`)]],
	[
		"RFC 2663 4.1",
		"a protocol without ports: one host a peer",
		() => {
			const b = new Simulator();
			b.out("gre", H1, S1);
			return ["protocol-busy error 3/13", b.out("gre", H2, S1)];
		},
	],
];

/** Plays all rows and prints them; exit status 0 if all are as required. */
export function selftest(print: (text: string) => void, json: boolean): number {
	let failed = 0;
	for (const [id, text, play] of ROWS) {
		const [expected, seen] = play();
		const ok = expected === seen && expected !== "";
		if (!ok) failed++;
		if (json) print(`${JSON.stringify({ id, text, ok, expected, seen })}\n`);
		else {
			print(`${ok ? "ok  " : "FAIL"} ${id.padEnd(16)} ${text}\n`);
			if (!ok) print(`     expected ${expected}\n     seen     ${seen}\n`);
		}
	}
	if (!json) print(`${ROWS.length - failed} of ${ROWS.length} as required\n`);
	return failed === 0 ? 0 : 1;
}
