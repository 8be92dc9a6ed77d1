import { describe, expect, it } from "vitest";
import { socketBuffers } from "../../src/port/socket-buffers.ts";

const meminfo = (megabytes: number) => `MemTotal:       ${String(megabytes * 1024).padStart(8)} kB\nMemFree:          10000 kB\n`;

describe("socketBuffers", () => {
	it("asks for a 64th of a router's memory to receive into, which the kernel doubles for each of two ports", () => {
		for (const [megabytes, receive] of [
			[128, 2],
			[256, 4],
			[512, 8],
		]) {
			expect(socketBuffers(meminfo(megabytes)).receive).toBe(receive << 20);
		}
	});

	it("asks for an eighth to send from, more than a queue of 1000 or fq_codel's 4 MB on a small router hold", () => {
		for (const [megabytes, send] of [
			[32, 8],
			[64, 8],
			[128, 16],
			[256, 32],
		]) {
			expect(socketBuffers(meminfo(megabytes))).toMatchObject({ send: send << 20, sendClass: (send << 20) / 4 });
		}
	});

	it("has bounds, and the lower one where the memory is not known", () => {
		expect(socketBuffers(meminfo(32)).receive).toBe(1 << 20);
		expect(socketBuffers("")).toEqual({ receive: 1 << 20, send: 8 << 20, sendClass: 2 << 20 });
		expect(socketBuffers(meminfo(24_000))).toEqual({ receive: 32 << 20, send: 64 << 20, sendClass: 16 << 20 });
	});
});
