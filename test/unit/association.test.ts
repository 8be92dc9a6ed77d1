/**
 * SCTP and DCCP from outside: what a stranger has opened can make room until he has answered the inside's answer (RFC
 * 9260 section 5.1).
 */
import { describe, expect, it } from "vitest";
import { Rig } from "./rig.ts";
import { type Frame, other } from "./rig-frame.ts";

const SERVER = "192.168.1.30";
const EXTERNAL = "203.0.113.50";
const S1 = "203.0.113.10";
const INIT = 1;
const INIT_ACK = 2;
const SACK = 3;
const COOKIE_ECHO = 10;
const TAG = [0x12, 0x34, 0x56, 0x78];

/** A packet between port 80 of the server and port 5000 of the peer, with a verification tag and a first chunk. */
function sctp(out: boolean, tag: number[], chunk: number, body: number[] = []): Frame {
	const frame = out ? other(SERVER, S1, 132, { payload: 32 }) : other(S1, EXTERNAL, 132, { payload: 32 });
	frame.ip.set([...(out ? [0, 80, 0x13, 0x88] : [0x13, 0x88, 0, 80]), ...tag, 0, 0, 0, 0, chunk, 0, 0, 20, ...body], 20);
	return frame;
}

function dccp(out: boolean, type: number): Frame {
	const frame = out ? other(SERVER, S1, 33, { payload: 24 }) : other(S1, EXTERNAL, 33, { payload: 24 });
	frame.ip.set([...(out ? [0, 80, 0x13, 0x88] : [0x13, 0x88, 0, 80]), 6, 0, 0, 0, type << 1], 20);
	return frame;
}

function rigOf(): Rig {
	const rig = new Rig({ statics: [{ internal: SERVER, external: EXTERNAL }] });
	rig.strict = false;
	return rig;
}

const opened = () => {
	const rig = rigOf();
	rig.in(sctp(false, [0, 0, 0, 0], INIT));
	rig.out(sctp(true, [9, 9, 9, 9], INIT_ACK, TAG));
	return rig;
};

describe("an association that the outside opens", () => {
	it("is not established by the inside's answer, nor by who does not know its tag", () => {
		const rig = opened();
		expect(rig.state).toBe("opening");
		rig.in(sctp(false, [0, 0, 0, 0], INIT));
		rig.in(sctp(false, [1, 2, 3, 4], COOKIE_ECHO));
		rig.out(sctp(true, [9, 9, 9, 9], INIT_ACK, TAG));
		expect(rig.state).toBe("opening");
		rig.pass(300);
		expect(rig.flows()).toEqual([]);
	});

	it("is established by the answer to the answer", () => {
		const rig = opened();
		rig.in(sctp(false, TAG, COOKIE_ECHO));
		expect(rig.state).toBe("established");
	});

	it("is established by any other word of the inside: it goes on with one that was there", () => {
		const rig = rigOf();
		rig.in(sctp(false, TAG, SACK));
		rig.out(sctp(true, [9, 9, 9, 9], SACK));
		expect(rig.state).toBe("established");
	});

	it("does not fill the table: answered INITs of a thousand strangers leave the server its own", () => {
		const rig = new Rig({ statics: [{ internal: SERVER, external: EXTERNAL }], sessions: 256 });
		rig.strict = false;
		for (let n = 0; n < 1000; n++) {
			const frames = [sctp(false, [0, 0, 0, 0], INIT), sctp(true, [9, 9, 9, 9], INIT_ACK, TAG)];
			frames[0].ip.set([0x20 + (n >> 8), n & 255], 20);
			frames[1].ip.set([0x20 + (n >> 8), n & 255], 22);
			rig.in(frames[0]);
			rig.out(frames[1]);
		}
		expect(rig.out(sctp(true, [0, 0, 0, 0], INIT)).drops).toEqual([]);
		rig.verify();
	});

	it("of the inside's own is established by its answer", () => {
		const rig = rigOf();
		rig.out(sctp(true, [0, 0, 0, 0], INIT));
		rig.in(sctp(false, [9, 9, 9, 9], INIT_ACK, TAG));
		expect(rig.state).toBe("established");
	});

	it("DCCP likewise", () => {
		const rig = rigOf();
		rig.in(dccp(false, 0));
		rig.out(dccp(true, 1));
		expect(rig.state).toBe("opening");
		rig.in(dccp(false, 3));
		expect(rig.state).toBe("established");
	});
});
