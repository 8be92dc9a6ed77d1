/**
 * The ALGs: what of FTP is rewritten, and how the two sides' sequence numbers stay in step (T-6, U-10, U-10a; RFC 959,
 * RFC 2428, RFC 3022 section 4.5).
 */
import { describe, expect, it } from "vitest";
import { ALG_BYTES } from "../../src/nat/alg.ts";
import { mayBeFtp, mayMatter, readCommand, readReply } from "../../src/nat/alg-ftp.ts";
import { EXPECTED_WITHIN } from "../../src/nat/expectations.ts";
import { type Outcome, Rig, type RigOptions, summary } from "./rig.ts";
import { ipv4, type Packet, plain, type TcpOptions, tcp, udp } from "./rig-frame.ts";
import { rounds } from "./rounds.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";
const LONG = "203.200.113.100";

function bytes(text: string): Uint8Array {
	return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

function text(packet: Packet): string {
	return String.fromCharCode(...packet.payload);
}

/** A control connection of H1 (client) to S1, or of S1 to the server H1 behind a forward. */
class Control {
	rig: Rig;
	readonly #options: RigOptions;
	/** The ALG's memory, as a kill leaves it. */
	readonly ftp = new ArrayBuffer(ALG_BYTES);
	seq = 1000;
	ack = 5000;
	readonly #internal: string;
	readonly #outside: string;
	readonly #peer: string;

	constructor(o: RigOptions & { server?: boolean; port?: number; external?: string } = {}) {
		const own = o.external ?? o.wan?.address ?? "203.0.113.1";
		const forwards = o.server ? [{ protocol: 6, first: 2121, internal: H1, internalFirst: 21 }] : [];
		this.#options = { ...o, forwards, ftp: this.ftp };
		this.rig = new Rig(this.#options);
		const port = o.port ?? 21;
		this.#internal = o.server ? `${H1}:21` : `${H1}:50000`;
		this.#outside = o.server ? `${own}:2121` : `${own}:50000`;
		this.#peer = o.server ? `${S1}:40000` : `${S1}:${port}`;
		this.rig.margin = false;
		this.rig.hops.answersInternal = true;
		const open = [() => this.sends("", { flags: "S" }), () => this.peer("", { flags: o.server ? "S" : "SA" })];
		if (o.server) open.reverse()[1] = () => this.sends("", { flags: "SA" });
		for (const step of open) step();
		this.seq++;
		this.ack++;
		if (o.server) this.peer("", {});
		else this.sends("", {});
	}

	/** Another process goes on with what this one has left in memory. */
	restart(): void {
		this.rig = new Rig({ ...this.#options, from: { image: this.rig.image(), second: this.rig.context.now } });
		this.rig.margin = false;
		this.rig.hops.answersInternal = true;
	}

	/** The inside sends; numbers are kept unless given. */
	sends(what: string, o: TcpOptions = {}): Outcome {
		const outcome = this.rig.out(
			tcp(this.#internal, this.#peer, { flags: "PA", seq: this.seq, ack: this.ack, payload: bytes(what), ...o }),
		);
		if (o.seq === undefined) this.seq += what.length;
		return outcome;
	}

	/** What comes out of it on the WAN: one packet. */
	sent(what: string, o: TcpOptions = {}): Packet {
		const outcome = this.sends(what, o);
		if (outcome.wan.length !== 1 || outcome.drops.length > 0) throw new Error(`not one packet: ${summary(outcome)}`);
		return outcome.wan[0];
	}

	/** The peer sends; what comes out on the LAN. */
	peer(what: string, o: TcpOptions = {}): Packet {
		const packet = this.rig.toLan(
			tcp(this.#peer, this.#outside, { flags: "PA", seq: this.ack, ack: this.seq, payload: bytes(what), ...o }),
		);
		if (o.seq === undefined) this.ack += what.length;
		return packet;
	}

	/** The peer sends anything. */
	receives(what: string, o: TcpOptions): Outcome {
		return this.rig.in(tcp(this.#peer, this.#outside, { ...o, payload: bytes(what) }));
	}

	get state(): string {
		return this.rig.flows().join("; ");
	}
}

describe("lines of FTP", () => {
	it("PORT and EPRT", () => {
		const found = readCommand("port  192,168,1,10,200,21\r\n");
		expect([found?.address, found?.port]).toEqual([0xc0a8010a, 200 * 256 + 21]);
		expect(found?.line(0xcb007101, 256)).toBe("port  203,0,113,1,1,0\r\n");
		const extended = readCommand("EPRT |1|192.168.1.10|51221|\n");
		expect([extended?.address, extended?.port]).toEqual([0xc0a8010a, 51221]);
		expect(extended?.line(0xcb007101, 256)).toBe("EPRT |1|203.0.113.1|256|\n");
		for (const bad of [
			"PORT 192,168,1,10,200\r\n",
			"PORT 192,168,1,256,200,21\r\n",
			"PORT 192,168,1,10,0,0\r\n",
			"PORT 192,168,1,10,200,21,7\r\n",
			"PORT 192,168,1,10,200,21 x\r\n",
			"XPORT 192,168,1,10,200,21\r\n",
			"EPRT |2|2001:db8::1|51221|\r\n",
			"EPRT |1|192.168.1.10|65536|\r\n",
			"EPRT |1|192.168.1.10,51221|\r\n",
		])
			expect(readCommand(bad)).toBeNull();
	});

	it("227 and 229", () => {
		for (const [line, changed] of [
			["227 Entering Passive Mode (192,168,1,10,200,21).\r\n", "227 Entering Passive Mode (203,0,113,1,1,0).\r\n"],
			["227 =192,168,1,10,200,21\r\n", "227 =203,0,113,1,1,0\r\n"],
			["227 v1.0, at 192,168,1,10,200,21 now\r\n", "227 v1.0, at 203,0,113,1,1,0 now\r\n"],
			["227 192,168,1,10,200,21\r\n", "227 203,0,113,1,1,0\r\n"],
		]) {
			const found = readReply(line);
			expect([found?.address, found?.port]).toEqual([0xc0a8010a, 51221]);
			expect(found?.line(0xcb007101, 256)).toBe(changed);
		}
		const extended = readReply("229 Entering Extended Passive Mode (|||51221|)\r\n");
		expect([extended?.address, extended?.port]).toEqual([null, 51221]);
		expect(extended?.line(0xcb007101, 256)).toBe("229 Entering Extended Passive Mode (|||256|)\r\n");
		for (const bad of ["227 1,192,168,1,10,200,21\r\n", "227 none\r\n", "228 (192,168,1,10,200,21)\r\n", "229 (||1|51221|)\r\n"])
			expect(readReply(bad)).toBeNull();
	});

	it("what a beginning may become", () => {
		for (const begin of ["P", "pO", "PORT", "PORT 1", "E", "AUT"]) expect(mayMatter(begin, true)).toBe(true);
		for (const begin of ["PA", "EPSV", "227 ", "USER"]) expect(mayMatter(begin, true)).toBe(false);
		for (const begin of ["2", "22", "229", "229 x", "23"]) expect(mayMatter(begin, false)).toBe(true);
		for (const begin of ["220", "227-", "3"]) expect(mayMatter(begin, false)).toBe(false);
		expect(mayBeFtp("USER x\r\n", true)).toBe(true);
		expect(mayBeFtp("220 x", false)).toBe(true);
		expect(mayBeFtp("GET / HTTP/1.1\r\n", true)).toBe(false);
		expect(mayBeFtp("\x16\x03\x01", true)).toBe(false);
		expect(mayBeFtp("SSH-2.0-x", false)).toBe(false);
	});
});

describe("a client inside (active mode)", () => {
	for (const checksum of ["full", "partial"] as const) {
		it(`PORT is rewritten, longer, and the numbers move (${checksum})`, () => {
			const k = new Control({ wan: { address: LONG } });
			expect(text(k.sent("USER x\r\n", { checksum }))).toBe("USER x\r\n");
			expect(k.state).toContain("established");
			const port = k.sent("PORT 192,168,1,10,200,21\r\n", { checksum });
			expect(text(port)).toBe("PORT 203,200,113,100,200,21\r\n");
			expect(port.seq).toBe(1009);
			const next = k.sent("LIST\r\n", { checksum });
			expect([next.seq, text(next)]).toEqual([k.seq - 6 + 3, "LIST\r\n"]);
			// The peer has all; the client hears that of its own numbers.
			expect(k.peer("200 ok\r\n", { ack: k.seq + 3, checksum }).ack).toBe(k.seq);
			expect(k.sent("", { flags: "A", checksum }).seq).toBe(k.seq + 3);
			expect(k.sent("", { flags: "FA", checksum }).seq).toBe(k.seq + 3);
			expect(k.rig.notes).toEqual({ "ftp-rewritten": 1 });
		});
	}

	it("shorter, equal and repeated changes, acknowledged in any part", () => {
		const k = new Control({ wan: { address: "3.0.1.1" } });
		k.sent("USER x\r\n");
		const first = k.seq;
		const line = "PORT 192,168,1,10,200,21\r\n";
		expect(text(k.sent(line))).toBe("PORT 3,0,1,1,200,21\r\n");
		expect(text(k.sent("EPRT |1|192.168.1.10|51222|\r\n"))).toBe("EPRT |1|3.0.1.1|51222|\r\n");
		k.sent("NOOP\r\n");
		// Everything before, within and behind a changed line.
		expect(k.peer("", { flags: "A", ack: first }).ack).toBe(first);
		expect(k.peer("", { flags: "A", ack: first + 4 }).ack).toBe(first);
		expect(k.peer("", { flags: "A", ack: first + 21 }).ack).toBe(first + 26);
		expect(k.peer("", { flags: "A", ack: first + 21 + 1 }).ack).toBe(first + 26);
		expect(k.peer("", { flags: "A", ack: k.seq - 10 }).ack).toBe(k.seq);
		// Whatever part is repeated, the whole line is.
		for (const [from, to] of [
			[0, 26],
			[0, 5],
			[7, 20],
			[25, 26],
		]) {
			const again = k.sent(line.slice(from, to), { seq: first + from });
			expect([again.seq, text(again)]).toEqual([first, "PORT 3,0,1,1,200,21\r\n"]);
		}
		const both = k.sent("\r\nEPRT", { seq: first + 24 });
		expect([both.seq, text(both)]).toEqual([first, "PORT 3,0,1,1,200,21\r\nEPRT |1|3.0.1.1|51222|\r\n"]);
		// A keep-alive probe is one before the next number.
		expect(k.sent("", { flags: "A", seq: k.seq - 1 }).seq).toBe(k.seq - 10 - 1);
		expect(k.rig.notes).toEqual({ "ftp-rewritten": 2 });
	});

	it("SACK blocks of the peer are moved, at any offset of the options", () => {
		for (const pad of [[1, 1], [1], [1, 1, 1]]) {
			for (const checksum of ["full", "partial"] as const) {
				const k = new Control({ wan: { address: LONG } });
				k.sent("USER x\r\n");
				const first = k.seq;
				k.sent("PORT 192,168,1,10,200,21\r\n");
				k.sent("LIST\r\n");
				const edges = [first + 29, first + 35, first + 4, first + 29];
				const options = [...pad, 5, 18, ...edges.flatMap((n) => [n >>> 24, (n >> 16) & 255, (n >> 8) & 255, n & 255])];
				const seen = k.peer("", { flags: "A", ack: first, options, checksum });
				const at = (n: number) => {
					const from = pad.length + 2 + n * 4;
					return seen.options.slice(from, from + 4).reduce((sum, b) => sum * 256 + b, 0);
				};
				expect([at(0), at(1), at(2), at(3)]).toEqual([first + 26, first + 32, first + 26, first + 26]);
			}
		}
	});

	it("several lines in one segment, and a super-packet", () => {
		const k = new Control({ wan: { address: LONG } });
		const lines = "USER x\r\nPORT 192,168,1,10,200,21\r\nLIST\r\nEPRT |1|192.168.1.10|51222|\r\nNLST\r\n";
		const changed = lines.replace("192,168,1,10", "203,200,113,100").replace("192.168.1.10", LONG);
		expect(text(k.sent(lines))).toBe(changed);
		const long = "NOOP\r\n".repeat(300);
		const super1 = k.sent(`${lines}${long}`, { gso: 1000 });
		expect(text(super1)).toBe(changed + long);
		expect([super1.gsoType, super1.gsoSize]).toEqual([1, 1000]);
		expect(k.sent("QUIT\r\n").seq).toBe(k.seq - 6 + 12);
	});

	it("a line in pieces is held, acknowledged by us and sent whole", () => {
		for (const [checksum, options] of [
			["full", [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]],
			["partial", []],
		] as const) {
			const k = new Control({ wan: { address: LONG } });
			k.sent("USER x\r\n");
			k.peer("331 y\r\n", { window: 4321 });
			const first = k.seq;
			for (const piece of ["PO", "RT 192,1", "68,1,10,200,21"]) {
				const outcome = k.sends(piece, { checksum, options: [...options] });
				expect(outcome.wan).toHaveLength(0);
				const [answer] = outcome.lan[0];
				expect(answer.line).toBe(`tcp ${S1}:21 > ${H1}:50000 A`);
				expect([answer.seq, answer.ack, answer.payload.length]).toEqual([k.ack, k.seq, 0]);
				if (options.length > 0) expect(answer.options).toEqual([8, 10, 5, 6, 7, 8, 1, 2, 3, 4, 1, 1]);
			}
			// Held bytes that come again are answered again; a keep-alive names what the peer has.
			expect(k.sends("RT 192,1", { seq: first + 2, checksum }).lan[0][0].ack).toBe(k.seq);
			expect(k.sent("", { flags: "A" }).seq).toBe(first);
			expect(k.peer("", { flags: "A", ack: first }).ack).toBe(k.seq);
			const whole = k.sent("\r\nLIST\r\n", { checksum });
			expect([whole.seq, text(whole)]).toEqual([first, "PORT 203,200,113,100,200,21\r\nLIST\r\n"]);
			// The peer has not got it: the client repeats what is not acknowledged, we the rest.
			expect(k.peer("", { flags: "A", ack: first }).ack).toBe(first + 24);
			const again = k.sent("\r\nLIST\r\n", { seq: first + 24, checksum });
			expect([again.seq, text(again)]).toEqual([first, "PORT 203,200,113,100,200,21\r\nLIST\r\n"]);
			expect(k.peer("", { flags: "A", ack: first + 35 }).ack).toBe(k.seq);
		}
	});

	it("a piece that becomes something else, too long a line, and an end within a line go as they are", () => {
		const k = new Control();
		k.sent("USER x\r\n");
		expect(k.sends("P").wan).toHaveLength(0);
		expect(text(k.sent("ASV\r\n"))).toBe("PASV\r\n");
		expect(k.sends("PORT ").wan).toHaveLength(0);
		const long = `${"1".repeat(150)}\r\n`;
		expect(text(k.sent(long))).toBe(`PORT ${long}`);
		expect(k.sends("PORT 1").wan).toHaveLength(0);
		const end = k.sent("", { flags: "FA" });
		expect([text(end), end.flags]).toEqual(["PORT 1", "FA"]);
		expect(k.rig.notes).toEqual({});
	});

	it("segments before their predecessor wait; a gap that never closes ends the reading", () => {
		const k = new Control();
		k.sent("USER x\r\n");
		const at = k.seq;
		expect(k.sends("LIST\r\n", { seq: at + 26 }).drops).toEqual(["alg-gap"]);
		expect(text(k.sent("PORT 192,168,1,10,200,21\r\n"))).toContain("203,0,113,1");
		expect(text(k.sent("LIST\r\n"))).toBe("LIST\r\n");
		for (let n = 1; n < 10; n++) expect(k.sends("LIST\r\n", { seq: k.seq + 100 + n }).drops).toEqual(["alg-gap"]);
		for (let n = 1; n < 4; n++) expect(k.sends("LIST\r\n", { seq: k.seq + 100 }).drops).toEqual(["alg-gap"]);
		expect(k.sent("LIST\r\n", { seq: k.seq + 100 }).seq).toBe(k.seq + 100 - 1);
		expect(text(k.sent("PORT 192,168,1,10,200,22\r\n", { seq: k.seq + 106 }))).toContain("192,168,1,10");
	});

	it("a segment with a wrong checksum is dropped: it would come out with a right one", () => {
		const k = new Control();
		expect(k.sends("USER x\r\n", { checksum: 0x1234 }).drops).toEqual(["tcp-bad-checksum"]);
	});

	it("a fragmented segment is dropped: it cannot be read", () => {
		const k = new Control();
		k.rig.accounts = false;
		const whole = tcp(`${H1}:50000`, `${S1}:21`, { seq: k.seq, ack: k.ack, df: false, payload: bytes("USER anonymous\r\n") });
		const piece = (from: number, to: number, more: boolean) =>
			plain(ipv4(H1, S1, 6, whole.ip.slice(20 + from, 20 + to), { df: false, more, fragment: from / 8, id: 7 }));
		k.rig.out(piece(0, 24, true));
		expect(k.rig.out(piece(24, 36, false)).drops).toEqual(["alg-fragment", "alg-fragment"]);
	});

	it("the announced session comes in, from the server only, and once", () => {
		const k = new Control({ policy: { rejectSyn: false } });
		k.sent("USER x\r\n");
		k.sent("PORT 192,168,1,10,156,65\r\n");
		const out = k.sent("PORT 192,168,1,10,156,66\r\n");
		expect(text(out)).toBe("PORT 203,0,113,1,156,66\r\n");
		const { rig } = k;
		expect(rig.in(tcp(`${S2}:20`, "203.0.113.1:40001", { flags: "S" })).drops).toEqual(["no-mapping"]);
		expect(rig.toLan(tcp(`${S1}:20`, "203.0.113.1:40001", { flags: "S" })).line).toBe(`tcp ${S1}:20 > ${H1}:40001 S`);
		expect(rig.in(tcp(`${S1}:21`, "203.0.113.1:40001", { flags: "S" })).drops).toEqual(["filtered"]);
		expect(rig.toWan(tcp(`${H1}:40001`, `${S1}:20`, { flags: "SA" })).line).toBe(`tcp 203.0.113.1:40001 > ${S1}:20 SA`);
		// The other never comes: its port is free again.
		const free = rig.externals.portCount(0, 6)[0];
		rig.pass(EXPECTED_WITHIN + 1);
		expect(rig.externals.portCount(0, 6)[0]).toBe(free + 1);
		expect(rig.in(tcp(`${S1}:20`, "203.0.113.1:40002", { flags: "S" })).drops).toEqual(["no-mapping"]);
		rig.verify();
	});

	it("a port outside the range gets one within, kept for a repeated command", () => {
		const k = new Control();
		k.sent("USER x\r\n");
		const line = "PORT 192,168,1,10,4,1\r\n";
		const given = text(k.sent(line));
		const [, high, low] = /^PORT 203,0,113,1,(\d+),(\d+)\r\n$/.exec(given) as RegExpExecArray;
		const port = Number(high) * 256 + Number(low);
		expect(port).toBeGreaterThanOrEqual(32768);
		expect(text(k.sent(line))).toBe(given);
		expect(k.rig.toLan(tcp(`${S1}:20`, `203.0.113.1:${port}`, { flags: "S" })).line).toBe(`tcp ${S1}:20 > ${H1}:1025 S`);
		k.rig.verify();
	});

	it("another host's address or a low port is left alone and counted; nothing is opened", () => {
		const k = new Control();
		k.sent("USER x\r\n");
		for (const line of [
			"PORT 192,168,1,20,200,21\r\n",
			"PORT 203,0,113,10,200,21\r\n",
			"EPRT |1|192.168.1.20|51221|\r\n",
			"PORT 192,168,1,10,3,255\r\n",
			"EPRT |1|192.168.1.10|22|\r\n",
		])
			expect(text(k.sent(line))).toBe(line);
		expect(k.rig.notes).toEqual({ "ftp-foreign-address": 3, "ftp-low-port": 2 });
		expect(k.rig.in(tcp(`${S1}:20`, "203.0.113.1:51221", { flags: "S" })).drops).toEqual(["no-mapping"]);
		// Never moved: numbers are as they were, and a restart could forget it.
		expect(k.sent("", { flags: "A" }).seq).toBe(k.seq);
		k.rig.verify();
	});

	it("TLS, other protocols and other ports are not read", () => {
		const line = "PORT 192,168,1,10,200,21\r\n";
		const tls = new Control();
		tls.sent("AUTH TLS\r\n");
		expect(text(tls.sent(line))).toBe(line);
		tls.peer("234 go\r\n");
		expect(text(tls.sent(line))).toBe(line);
		const refused = new Control();
		refused.sent("AUTH TLS\r\n");
		refused.peer("502 no\r\n");
		expect(text(refused.sent(line))).toContain("203,0,113,1");
		const web = new Control();
		web.sent("POST / HTTP/1.1\r\n");
		expect(text(web.sent(line))).toBe(line);
		for (const port of [80, 2121, 990, 6667, 5060, 1720]) {
			const k = new Control({ port });
			k.sent("USER x\r\n");
			expect(text(k.sent(line))).toBe(line);
		}
		const off = new Control({ policy: { algFtp: false } });
		off.sent("USER x\r\n");
		expect(text(off.sent(line))).toBe(line);
		for (const k of [tls, web, off]) expect(k.rig.notes).toEqual({});
	});

	it("TLS after a change keeps the numbers apart", () => {
		const k = new Control({ wan: { address: LONG } });
		k.sent("USER x\r\n");
		k.sent("PORT 192,168,1,10,200,21\r\n");
		k.sent("AUTH TLS\r\n");
		k.peer("234 go\r\n", { ack: k.seq + 3 });
		const later = k.sent("\x16\x03PORT 192,168,1,10,200,21\r\n");
		expect([later.seq, text(later)]).toEqual([k.seq - 28 + 3, "\x16\x03PORT 192,168,1,10,200,21\r\n"]);
		expect(k.peer("", { flags: "A", ack: k.seq + 3 }).ack).toBe(k.seq);
	});

	it("connections and announcements beyond the pools are left alone", () => {
		const k = new Control();
		const { rig } = k;
		k.sent("USER x\r\n");
		for (let n = 1; n <= 17; n++) {
			rig.toWan(tcp(`${H2}:${40000 + n}`, `${S1}:21`, { flags: "S", seq: 999 }));
			rig.toLan(tcp(`${S1}:21`, `203.0.113.1:${40000 + n}`, { flags: "SA", seq: 4999, ack: 1000 }));
			rig.toWan(tcp(`${H2}:${40000 + n}`, `${S1}:21`, { payload: bytes("USER x\r\n") }));
		}
		expect(rig.notes).toEqual({ "ftp-no-room": 1 });
		const line = "PORT 192,168,1,20,200,21\r\n";
		expect(text(rig.toWan(tcp(`${H2}:40017`, `${S1}:21`, { seq: 1008, payload: bytes(line) })))).toBe(line);
		expect(text(rig.toWan(tcp(`${H2}:40016`, `${S1}:21`, { seq: 1008, payload: bytes(line) })))).toContain("203,0,113,1");
		// One that has ended makes room.
		for (const flags of ["FA", "A"] as const) {
			if (flags === "FA") rig.toWan(tcp(`${H2}:40016`, `${S1}:21`, { seq: 1033, flags }));
			rig.toLan(tcp(`${S1}:21`, "203.0.113.1:40016", { seq: 5000, ack: 1033, flags: "FA" }));
		}
		rig.toWan(tcp(`${H2}:40020`, `${S1}:21`, { flags: "S", seq: 999 }));
		rig.toLan(tcp(`${S1}:21`, "203.0.113.1:40020", { flags: "SA", seq: 4999, ack: 1000 }));
		rig.toWan(tcp(`${H2}:40020`, `${S1}:21`, { payload: bytes("USER x\r\n") }));
		expect(text(rig.toWan(tcp(`${H2}:40020`, `${S1}:21`, { seq: 1008, payload: bytes(line) })))).toContain("203,0,113,1");
		// A host's ninth announcement takes the place of its first.
		const free = rig.externals.portCount(0, 6)[0];
		for (let n = 0; n < 20; n++) {
			k.sent(`PORT 192,168,1,10,200,${30 + n}\r\n`);
			k.peer("200 ok\r\n", { ack: k.seq - n - 1 });
		}
		expect(free - rig.externals.portCount(0, 6)[0]).toBe(8);
		rig.pass(EXPECTED_WITHIN + 1);
		rig.verify();
	});

	it("four changed lines that the peer has not acknowledged are the most", () => {
		const k = new Control();
		k.sent("USER x\r\n");
		const port = (n: number) => `PORT 192,168,1,10,200,${30 + n}\r\n`;
		const five = text(k.sent([1, 2, 3, 4, 5].map(port).join("")));
		expect(five.split("203,0,113,1").length - 1).toBe(4);
		expect(five).toContain("192,168,1,10,200,35");
		expect(k.rig.notes).toEqual({ "ftp-rewritten": 4, "ftp-no-room": 1 });
	});

	it("the inside host leaves room for what a segment may grow", () => {
		const mss = [2, 4, 5, 180];
		const k = new Rig();
		k.toWan(tcp(`${H1}:50000`, `${S1}:21`, { flags: "S", options: mss }));
		expect(k.toLan(tcp(`${S1}:21`, "203.0.113.1:50000", { flags: "SA", options: mss })).mss).toBe(1460 - 192);
		k.toWan(tcp(`${H1}:50001`, `${S1}:22`, { flags: "S", options: mss }));
		expect(k.toLan(tcp(`${S1}:22`, "203.0.113.1:50001", { flags: "SA", options: mss })).mss).toBe(1460);
	});

	it("64 connections of several hosts are the most", () => {
		const rig = new Rig();
		for (let host = 30; host < 35; host++) {
			for (let n = 0; n < 16; n++) {
				const port = 40000 + host * 100 + n;
				const from = `192.168.1.${host}:${port}`;
				rig.toWan(tcp(from, `${S1}:21`, { flags: "S", seq: 999 }));
				rig.toLan(tcp(`${S1}:21`, `203.0.113.1:${port}`, { flags: "SA", seq: 4999, ack: 1000 }));
				rig.toWan(tcp(from, `${S1}:21`, { payload: bytes("USER x\r\n") }));
			}
		}
		expect(rig.notes).toEqual({ "ftp-no-room": 16 });
	});

	it("a connection used again begins anew", () => {
		const k = new Control({ wan: { address: LONG } });
		k.sent("USER x\r\n");
		k.sent("PORT 192,168,1,10,200,21\r\n");
		k.sent("", { flags: "FA" });
		k.peer("", { flags: "FA", ack: k.seq + 4 });
		expect(k.sent("", { flags: "S", seq: 90000 }).seq).toBe(90000);
		k.peer("", { flags: "SA", seq: 7000, ack: 90001 });
		const first = k.sent("USER y\r\n", { seq: 90001, ack: 7001 });
		expect([first.seq, text(first)]).toEqual([90001, "USER y\r\n"]);
	});
});

describe("a server inside (passive mode)", () => {
	it("227 and 229 are rewritten and the client's session comes in", () => {
		const k = new Control({ server: true, wan: { address: LONG } });
		k.sent("220 hello\r\n");
		k.peer("PASV\r\n");
		expect(text(k.sent("227 Entering Passive Mode (192,168,1,10,200,21).\r\n"))).toBe(
			"227 Entering Passive Mode (203,200,113,100,200,21).\r\n",
		);
		expect(k.peer("EPSV\r\n", { ack: k.seq + 3 }).ack).toBe(k.seq);
		const given = text(k.sent("229 Entering Extended Passive Mode (|||2000|)\r\n"));
		const port = Number(/\|\|\|(\d+)\|/.exec(given)?.[1]);
		expect(port).toBeGreaterThanOrEqual(32768);
		expect(k.rig.toLan(tcp(`${S1}:40001`, `${LONG}:51221`, { flags: "S" })).line).toBe(`tcp ${S1}:40001 > ${H1}:51221 S`);
		expect(k.rig.toLan(tcp(`${S1}:40002`, `${LONG}:${port}`, { flags: "S" })).line).toBe(`tcp ${S1}:40002 > ${H1}:2000 S`);
		expect(k.rig.in(tcp(`${S2}:40003`, `${LONG}:51221`, { flags: "S" })).drops).toEqual(["filtered"]);
		// The client's own address means what it says.
		expect(text(k.peer("PORT 203,0,113,20,200,21\r\n", { ack: k.seq }))).toBe("PORT 203,0,113,20,200,21\r\n");
		expect(k.rig.notes).toEqual({ "ftp-rewritten": 2 });
		k.rig.verify();
	});

	it("another's address, a low port and TLS are left alone; its own external address is no matter", () => {
		const k = new Control({ server: true });
		k.sent("220 hello\r\n");
		for (const line of [
			"227 Entering Passive Mode (192,168,1,20,200,21).\r\n",
			"229 Entering Extended Passive Mode (|||22|)\r\n",
			"227 Entering Passive Mode (203,0,113,1,200,21).\r\n",
		])
			expect(text(k.sent(line))).toBe(line);
		expect(k.rig.notes).toEqual({ "ftp-foreign-address": 1, "ftp-low-port": 1 });
		k.sent("234 go\r\n");
		const line = "227 Entering Passive Mode (192,168,1,10,200,21).\r\n";
		expect(text(k.sent(line))).toBe(line);
	});
});

describe("over an external address (hairpin)", () => {
	it("active and passive, both ways", () => {
		const X = "203.0.113.1";
		const rig = new Rig({ forwards: [{ protocol: 6, first: 21, internal: H1 }] });
		rig.margin = false;
		rig.hops.answersInternal = true;
		const turned = (from: string, to: string, o: TcpOptions & { say?: string }) => {
			const outcome = rig.out(tcp(from, to, { ...o, payload: bytes(o.say ?? "") }));
			if (outcome.lan[0].length !== 1) throw new Error(summary(outcome));
			return outcome.lan[0][0];
		};
		rig.toWan(udp(`${H2}:41000`, `${S1}:1`));
		rig.toWan(udp(`${H1}:41000`, `${S1}:1`));
		turned(`${H2}:50000`, `${X}:21`, { flags: "S", seq: 999 });
		turned(`${H1}:21`, `${X}:50000`, { flags: "SA", seq: 4999, ack: 1000 });
		turned(`${H2}:50000`, `${X}:21`, { seq: 1000, ack: 5000 });
		turned(`${H2}:50000`, `${X}:21`, { seq: 1000, ack: 5000, say: "USER x\r\n" });
		turned(`${H1}:21`, `${X}:50000`, { seq: 5000, ack: 1008, say: "331 x\r\n" });
		const port = turned(`${H2}:50000`, `${X}:21`, { seq: 1008, ack: 5007, say: "PORT 192,168,1,20,200,21\r\n" });
		expect([port.seq, text(port)]).toEqual([1008, "PORT 203,0,113,1,200,21\r\n"]);
		const reply = turned(`${H1}:21`, `${X}:50000`, {
			seq: 5007,
			ack: 1033,
			say: "227 Entering Passive Mode (192,168,1,10,200,22).\r\n",
		});
		expect([reply.ack, text(reply)]).toEqual([1034, "227 Entering Passive Mode (203,0,113,1,200,22).\r\n"]);
		const last = turned(`${H2}:50000`, `${X}:21`, { seq: 1034, ack: 5007 + 49, say: "LIST\r\n" });
		expect([last.seq, last.ack]).toEqual([1033, 5007 + 50]);
		expect(turned(`${H1}:20`, `${X}:51221`, { flags: "S" }).line).toMatch(/ > 192\.168\.1\.20:51221 S$/);
		expect(turned(`${H2}:50001`, `${X}:51222`, { flags: "S" }).line).toMatch(/ > 192\.168\.1\.10:51222 S$/);
	});
});

describe("addresses of one host alone", () => {
	it("static NAT: the address changes, the port does not", () => {
		const k = new Control({ statics: [{ internal: H1, external: "203.0.113.77" }], external: "203.0.113.77" });
		k.sent("USER x\r\n");
		expect(text(k.sent("PORT 192,168,1,10,4,1\r\n"))).toBe("PORT 203,0,113,77,4,1\r\n");
		expect(k.rig.toLan(tcp(`${S1}:20`, "203.0.113.77:1025", { flags: "S" })).line).toBe(`tcp ${S1}:20 > ${H1}:1025 S`);
		k.rig.verify();
	});

	it("a pool's address: what is expected comes in, nothing else", () => {
		const k = new Control({ pools: [{ nets: ["192.168.1.0/24"], externals: ["203.0.113.77"] }], external: "203.0.113.77" });
		k.sent("USER x\r\n");
		expect(text(k.sent("PORT 192,168,1,10,4,1\r\n"))).toBe("PORT 203,0,113,77,4,1\r\n");
		expect(k.rig.in(tcp(`${S1}:20`, "203.0.113.77:1026", { flags: "S" })).drops).toEqual(["no-mapping"]);
		expect(k.rig.toLan(tcp(`${S1}:20`, "203.0.113.77:1025", { flags: "S" })).line).toBe(`tcp ${S1}:20 > ${H1}:1025 S`);
		k.rig.verify();
	});
});

describe("TFTP", () => {
	const ask = udp(`${H1}:40000`, `${S1}:69`, { payload: bytes("\0\x01file\0octet\0") });

	it("off by default: the request is untouched, the answer from another port filtered", () => {
		const rig = new Rig();
		expect(text(rig.toWan(ask))).toBe("\0\x01file\0octet\0");
		expect(rig.in(udp(`${S1}:3000`, "203.0.113.1:40000")).drops).toEqual(["filtered"]);
	});

	it("on: the asked server may answer from any port, nobody else", () => {
		const rig = new Rig({ policy: { algTftp: true } });
		expect(text(rig.toWan(ask))).toBe("\0\x01file\0octet\0");
		rig.toWan(udp(`${H1}:40000`, `${S2}:5000`));
		expect(rig.toLan(udp(`${S1}:3000`, "203.0.113.1:40000")).line).toBe(`udp ${S1}:3000 > ${H1}:40000`);
		expect(rig.toWan(udp(`${H1}:40000`, `${S1}:3000`)).line).toBe(`udp 203.0.113.1:40000 > ${S1}:3000`);
		expect(rig.in(udp(`${S2}:3000`, "203.0.113.1:40000")).drops).toEqual(["filtered"]);
		rig.toWan(udp(`${H1}:500`, `${S1}:69`));
		const low = rig
			.flows()
			.find((line) => line.includes(`${H1}:500 `))
			?.split(" ")[2] as string;
		expect(rig.in(udp(`${S1}:3000`, low)).drops).toEqual(["filtered"]);
		rig.verify();
	});
});

/** Random integers below a number (xorshift). */
function generator(seed: number): (below: number) => number {
	let x = Math.imul(seed, 0x9e3779b1) || 1;
	return (below) => {
		x ^= x << 13;
		x ^= x >>> 17;
		x ^= x << 5;
		return (x >>> 0) % below;
	};
}

describe("hostile segments", () => {
	const WORDS = [
		"PORT ",
		"EPRT |1|",
		"192,168,1,10,",
		"192.168.1.10|",
		"200,21",
		"51221|",
		"\r\n",
		"\n",
		"AUTH TLS",
		"227 (",
		"229 (|||",
		")",
		"USER",
		"x".repeat(120),
		"\xff\0",
		"234",
	];

	for (const server of [false, true]) {
		it(`whatever comes, what goes out is right (${server ? "server" : "client"} inside)`, () => {
			for (let seed = 1; seed <= rounds(40); seed++) {
				const random = generator(seed);
				const k = new Control({ server, wan: { address: random(2) ? LONG : "3.0.1.1" }, lan: [{ tun: random(2) === 0 }] });
				k.sends(server ? "220 x\r\n" : "USER x\r\n");
				const near = (n: number) => (n + [0, 0, 0, -1, 1, -30, 40, -0x7fffffff, random(0x7fffffff)][random(9)]) >>> 0;
				const flags = () => ["A", "PA", "PA", "PA", "FA", "RA", "R", "S", "SA", "PAU", ""][random(11)];
				const options = () => Array.from({ length: random(4) * 4 }, () => [1, 5, 8, 10, 18, 2, 0, 255, random(256)][random(9)]);
				for (let n = 0; n < 120; n++) {
					let what = "";
					for (let count = random(6); count > 0; count--) what += WORDS[random(WORDS.length)];
					const o: TcpOptions = { flags: flags(), options: options(), seq: near(k.seq), ack: near(k.ack), window: random(65536) };
					if (random(8) === 0) o.gso = 1 + random(1400);
					else if (random(3) === 0) o.checksum = "partial";
					if (random(10) === 0) o.ipOptions = [7, 4, 4, 0];
					if (random(2)) k.sends(what, o);
					else k.receives(what, { ...o, seq: near(k.ack), ack: near(k.seq) });
					if (random(4) === 0) k.seq += what.length;
				}
				k.rig.verify();
				// Idle out of ESTABLISHED, then out of TRANS (RFC 7857 figure 1).
				k.rig.pass(8000);
				k.rig.pass(300);
				k.rig.verify();
				expect(k.rig.flows()).toEqual([]);
			}
		});
	}
});

describe("any segmentation, loss and order", () => {
	for (const address of ["3.0.1.1", LONG]) {
		it(`every byte arrives as it should (${address})`, () => {
			for (let seed = 1; seed <= rounds(60); seed++) {
				const random = generator(seed);
				const k = new Control({ wan: { address } });
				let script = "USER anonymous\r\n";
				for (let n = 0; n < 12; n++) {
					const port = `${150 + random(100)},${random(256)}`;
					script += [
						"NOOP\r\n",
						`PORT 192,168,1,10,${port}\r\n`,
						"PORT 192,168,1,20,200,1\r\n",
						`EPRT |1|192.168.1.10|${40000 + random(20000)}|\r\n`,
					][random(4)];
				}
				const commas = address.replaceAll(".", ",");
				const wanted = script.replaceAll("192,168,1,10", commas).replaceAll("192.168.1.10", address);
				const start = k.seq;
				let una = 0;
				let top = 0;
				// What the peer has: by sent number from `start`.
				const got: (string | undefined)[] = [];
				let have = 0;
				const hear = (packet: Packet) => {
					const ack = packet.ack - start;
					if (ack < 0 || ack > top) throw new Error(`seed ${seed}: acknowledgment ${ack} beyond ${top}`);
					una = Math.max(una, ack);
				};
				for (let turn = 0; una < script.length && turn < 3000; turn++) {
					// Half of the time what is not acknowledged comes again, from its beginning or from somewhere.
					const again = top > una && random(2) === 0;
					const from = again ? una + (random(3) === 0 ? random(top - una) : 0) : top;
					const to = Math.min(script.length, from + 1 + random(random(3) === 0 ? 90 : 12));
					top = Math.max(top, to);
					if (from === to || random(5) === 0) continue;
					const piece = script.slice(from, to);
					// Room for edits is made by acknowledgments: wait as a client does that expects replies.
					const outcome = k.sends(piece, { seq: start + from, checksum: random(2) ? "full" : "partial" });
					for (const packet of outcome.lan[0]) {
						if (random(4) > 0) hear(packet);
					}
					for (const packet of outcome.wan) {
						if (random(5) === 0) continue;
						[...text(packet)].forEach((letter, n) => {
							const at = packet.seq - start + n;
							// What is acknowledged the peer does not look at again.
							if (at < have) return;
							if (got[at] !== undefined && got[at] !== letter) throw new Error(`seed ${seed}: byte ${at} is ${got[at]} and ${letter}`);
							got[at] = letter;
						});
						while (got[have] !== undefined) have++;
						const sack: number[] = [];
						for (let n = have; n < got.length && sack.length < 2; n++) {
							if (got[n] === undefined) continue;
							let end = n;
							while (got[end] !== undefined) end++;
							sack.push(start + n, start + end);
							n = end;
						}
						const options = sack.length ? [1, 1, 5, 10, ...sack.flatMap((n) => [n >>> 24, (n >> 16) & 255, (n >> 8) & 255, n & 255])] : [];
						const reply = k.peer("", { flags: "A", ack: start + have, options });
						if (random(4) > 0) hear(reply);
					}
				}
				expect([seed, una]).toEqual([seed, script.length]);
				const arrived = got.join("");
				// Lines beyond four unacknowledged ones stay as they are.
				if (k.rig.notes["ftp-no-room"] === undefined) expect(arrived).toBe(wanted);
				k.rig.pass(EXPECTED_WITHIN + 1);
				k.rig.verify();
			}
		});
	}
});

describe("a control connection over a restart", () => {
	const port = (n: number) => `PORT 192,168,1,10,200,${n}\r\n`;
	const rewritten = (line: string) => line.replace("192,168,1,10", LONG.replaceAll(".", ","));
	const GROWN = 3;
	const control = () => {
		const k = new Control({ wan: { address: LONG } });
		k.sent("USER x\r\n");
		expect(text(k.sent(port(21)))).toBe(rewritten(port(21)));
		return k;
	};

	it("keeps the numbers of both sides in step", () => {
		const k = control();
		k.peer("200 ok\r\n", { ack: k.seq + GROWN });
		for (let n = 1; n < 4; n++) {
			k.restart();
			const line = k.sent(port(21 + n));
			expect([line.seq, text(line)]).toEqual([k.seq - port(21).length + n * GROWN, rewritten(port(21 + n))]);
			k.restart();
			expect(k.peer("200 ok\r\n", { ack: k.seq + (n + 1) * GROWN }).ack).toBe(k.seq);
		}
		k.rig.verify();
	});

	it("sends what is repeated as it was sent before", () => {
		const k = control();
		k.restart();
		const again = k.sent(port(21), { seq: k.seq - port(21).length });
		expect([again.seq, text(again)]).toEqual([k.seq - port(21).length, rewritten(port(21))]);
	});

	it("still has the beginning of a line that it holds", () => {
		const k = control();
		expect(k.sends("PORT 192,168").wan).toEqual([]);
		k.restart();
		const rest = k.sent(",1,10,200,30\r\n");
		expect([rest.seq, text(rest)]).toEqual([k.seq - port(30).length + GROWN, rewritten(port(30))]);
	});

	it("is as it was before a segment that a kill has cut short", () => {
		const k = control();
		k.peer("200 ok\r\n", { ack: k.seq + GROWN });
		const memory = new Int32Array(k.ftp);
		const after = k.ftp.slice(0);
		for (const cut of [port(22), "PORT 192,1", "QUIT\r\n"]) {
			const { seq } = k;
			k.sends(cut);
			// Nothing of it was sent; whatever it had changed by then is half done.
			const entry = memory.subarray(8, (ALG_BYTES - 32) / 65 / 4 + 8);
			const before = entry.slice();
			entry.fill(0x7fffffff, 5);
			memory[5] = 1;
			k.restart();
			// Looked at with the first segment.
			k.sends("", {});
			expect(entry.slice(4)).toEqual(new Int32Array(after).subarray(8, 8 + entry.length).slice(4));
			expect(before.length).toBe(entry.length);
			k.seq = seq;
			const line = k.sent(port(23));
			expect([line.seq, text(line)]).toEqual([seq + GROWN, rewritten(port(23))]);
			new Uint8Array(k.ftp).set(new Uint8Array(after));
			k.seq = seq;
		}
	});

	it("whose memory is lost, damaged or of another boot is reset towards the inside, by both sides' next segment", () => {
		const damages: ((memory: Int32Array) => void)[] = [
			(w) => w.fill(0),
			(w) => w.fill(-1),
			(w) => w.set([9], 1),
			// The first connection's: nobody's; an impossible number of edits.
			(w) => w.set([0], 8 + 4),
			(w) => w.set([9], 8 + 12 + 2),
		];
		for (const damage of damages) {
			for (const side of ["inside", "peer"]) {
				const k = control();
				k.peer("200 ok\r\n", { ack: k.seq + GROWN });
				k.sends("", {});
				damage(new Int32Array(k.ftp));
				k.restart();
				const outcome =
					side === "inside" ? k.sends("QUIT\r\n") : k.receives("421 bye\r\n", { seq: k.ack, ack: k.seq + GROWN, flags: "PA" });
				expect(outcome.wan).toEqual([]);
				expect(outcome.lan.flat().map((l) => [l.flags, l.seq])).toEqual([["RA", k.ack]]);
				expect(outcome.drops).toEqual(["tcp-no-session"]);
			}
		}
	});

	it("that needed no change is an ordinary one without the memory", () => {
		const k = new Control();
		k.sent("USER x\r\n");
		k.peer("331 go on\r\n");
		new Int32Array(k.ftp).fill(0);
		k.restart();
		expect(k.sent("PASS y\r\n").seq).toBe(k.seq - 8);
		k.rig.verify();
	});
});

describe("without what reads FTP", () => {
	const LONG = "203.200.113.100";
	const PORT = "PORT 192,168,1,10,200,21\r\n";
	const REWRITTEN = "PORT 203,200,113,100,200,21\r\n";
	const RETRY = 10;

	it("a connection is an ordinary one, and counted; it is tried again with a later one, not with each", () => {
		let asked = 0;
		let missing = true;
		const withoutFtp = () => {
			asked++;
			return missing;
		};
		const k = new Control({ wan: { address: LONG }, withoutFtp });
		expect(text(k.sent(PORT))).toBe(PORT);
		expect(text(k.peer("200 ok\r\n"))).toBe("200 ok\r\n");
		expect(k.state).toContain("established");
		const other = (port: number) => k.rig.out(tcp(`${H1}:${port}`, `${S1}:21`, { flags: "S" }));
		other(50001);
		expect([asked, k.rig.notes]).toEqual([1, { "ftp-not-read": 2 }]);
		missing = false;
		k.rig.at(k.rig.context.now + RETRY);
		other(50002);
		other(50003);
		expect([asked, k.rig.notes]).toEqual([2, { "ftp-not-read": 2 }]);
		k.rig.verify();
	});

	it("nobody loads it for anything else", () => {
		let asked = 0;
		const withoutFtp = () => {
			asked++;
			return false;
		};
		const rig = new Rig({ withoutFtp });
		rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		rig.in(tcp(`${S1}:80`, "203.0.113.1:50000", { flags: "SA" }));
		rig.out(tcp(`${H1}:50000`, `${S1}:80`, { flags: "PA" }));
		rig.out(udp(`${H1}:50000`, `${S1}:69`));
		expect(asked).toBe(0);
		new Control({ policy: { algFtp: false }, withoutFtp });
		expect(asked).toBe(0);
		new Control({ withoutFtp });
		expect(asked).toBe(1);
	});

	for (const side of ["inside", "peer"])
		it(`what a predecessor has rewritten waits for it, what it has only read goes on as it is (${side} first)`, () => {
			let missing = false;
			const withoutFtp = () => missing;
			const segment = (k: Control) =>
				side === "inside" ? k.sends("NOOP\r\n", { seq: k.seq }) : k.receives("200 ok\r\n", { seq: k.ack, ack: k.seq, flags: "PA" });
			const read = new Control({ wan: { address: LONG }, withoutFtp });
			read.sent("USER x\r\n");
			const moved = new Control({ wan: { address: LONG }, withoutFtp });
			expect(text(moved.sent(PORT))).toBe(REWRITTEN);
			moved.peer("200 ok\r\n", { ack: moved.seq + 3 });
			missing = true;
			for (const k of [read, moved]) k.restart();

			const passed = segment(read);
			expect([passed.wan.length + passed.lan.flat().length, passed.drops, read.rig.notes]).toEqual([1, [], { "ftp-not-read": 1 }]);
			expect(segment(read).drops).toEqual([]);
			const held = segment(moved);
			expect([held.wan.length + held.lan.flat().length, held.drops]).toEqual([0, ["alg-gap"]]);
			missing = false;
			moved.rig.at(moved.rig.context.now + RETRY);
			const again = moved.sent(PORT);
			expect([again.seq, text(again)]).toEqual([moved.seq - PORT.length + 3, REWRITTEN]);
			read.rig.verify();
			moved.rig.verify();
		});
});
