import { describe, expect, it } from "vitest";
import { socketBuffers } from "../../src/port/buffers.ts";

const meminfo = (megabytes: number) => `MemTotal:       ${String(megabytes * 1024).padStart(8)} kB\nMemFree:          10000 kB\n`;

describe("socketBuffers", () => {
	it("asks for a 64th of a router's memory, which the kernel doubles for each of two ports", () => {
		for (const [megabytes, receive] of [
			[128, 2],
			[256, 4],
			[512, 8],
		]) {
			expect(socketBuffers(meminfo(megabytes))).toEqual({ receive: receive << 20, send: (receive << 20) / 4 });
		}
	});

	it("has bounds, and the lower one where the memory is not known", () => {
		expect(socketBuffers(meminfo(32)).receive).toBe(1 << 20);
		expect(socketBuffers("").receive).toBe(1 << 20);
		expect(socketBuffers(meminfo(24_000))).toEqual({ receive: 32 << 20, send: 8 << 20 });
	});
});
