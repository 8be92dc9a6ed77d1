import { describe, expect, it } from "vitest";
import { ARP_FRAME, arpAnnouncement, arpReply } from "../../src/port/arp.ts";

const OURS = new Uint8Array([2, 0, 0, 0, 0, 1]);
const POOL = 0xcb007114;
const owned = (address: number): boolean => address === POOL;

/** A request from 203.0.113.9 (02:..:09) for 203.0.113.20, padded to the least Ethernet frame. */
function request(): Uint8Array {
	const frame = new Uint8Array(60);
	frame.set([255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 203, 0, 113, 9]);
	frame.set([203, 0, 113, 20], 38);
	return frame;
}

function changed(at: number, ...values: number[]): Uint8Array {
	const frame = request();
	frame.set(values, at);
	return frame;
}

describe("arpReply", () => {
	it("answers a request for one of our addresses", () => {
		const frame = request();
		expect(arpReply(frame, 60, owned, OURS)).toBe(true);
		expect([...frame.slice(0, ARP_FRAME)]).toEqual([
			...[2, 0, 0, 0, 0, 9],
			...[2, 0, 0, 0, 0, 1],
			...[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
			...[2, 0, 0, 0, 0, 1],
			...[203, 0, 113, 20],
			...[2, 0, 0, 0, 0, 9],
			...[203, 0, 113, 9],
		]);
	});

	it("defends the address against a probe (RFC 5227)", () => {
		const frame = changed(28, 0, 0, 0, 0);
		expect(arpReply(frame, 42, owned, OURS)).toBe(true);
		expect([...frame.slice(38, 42)]).toEqual([0, 0, 0, 0]);
	});

	it("works on a view into a larger buffer", () => {
		const buffer = new Uint8Array(100);
		const frame = buffer.subarray(7, 67);
		frame.set(request());
		expect(arpReply(frame, 60, owned, OURS)).toBe(true);
		expect([...buffer.slice(0, 7)]).toEqual([0, 0, 0, 0, 0, 0, 0]);
	});

	const refused: [string, Uint8Array, number][] = [
		["an address that is not ours", changed(38, 203, 0, 113, 21), 60],
		["a reply", changed(20, 0, 2), 60],
		["a frame cut short", request(), 41],
		["another EtherType", changed(12, 8, 0), 60],
		["another hardware type", changed(14, 0, 6), 60],
		["another protocol", changed(16, 0x86, 0xdd), 60],
		["wrong address lengths", changed(18, 8, 4), 60],
		["a sender with a group MAC address", changed(22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 60],
		["an announcement of the address by another station", changed(28, 203, 0, 113, 20), 60],
	];
	for (const [what, frame, length] of refused) {
		it(`leaves ${what} alone`, () => {
			const before = [...frame];
			expect(arpReply(frame, length, owned, OURS)).toBe(false);
			expect([...frame]).toEqual(before);
		});
	}
	it("leaves a buffer that is shorter than it says alone", () => {
		expect(arpReply(request().slice(0, 30), 60, owned, OURS)).toBe(false);
	});
});

describe("arpAnnouncement", () => {
	it("is a broadcast request for itself", () => {
		const frame = arpAnnouncement(POOL, OURS);
		expect([...frame]).toEqual([
			...[255, 255, 255, 255, 255, 255],
			...[2, 0, 0, 0, 0, 1],
			...[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
			...[2, 0, 0, 0, 0, 1],
			...[203, 0, 113, 20],
			...[0, 0, 0, 0, 0, 0],
			...[203, 0, 113, 20],
		]);
		expect(arpReply(frame, frame.length, owned, OURS)).toBe(false);
	});
});
