/** Times in the log of mappings against a Date, which the engine on routers does not have. */
import { expect, it } from "vitest";
import { formatTime } from "../../src/cli/event-text.ts";

it("writes each day of 1970 to 2400 as a Date does", () => {
	const DAY = 86_400_000;
	const wrong: string[] = [];
	for (let day = 0; day < 430 * 366; day++) {
		// Another second of each day, and its first and last.
		for (const within of [0, (day * 7_919_000) % DAY, DAY - 1]) {
			const at = day * DAY + within;
			const expected = `${new Date(at).toISOString().slice(0, 19)}Z`;
			if (formatTime(at) !== expected) wrong.push(`${formatTime(at)} for ${expected}`);
		}
	}
	expect(wrong).toEqual([]);
});
