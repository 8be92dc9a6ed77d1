/** How often nft may hold up forwarding. */
import { describe, expect, it } from "vitest";
import type { GuardFacts } from "../../src/kernel/guard.ts";
import { GuardPace } from "../../src/kernel/guard-pace.ts";
import { parseSubnet, type Subnet } from "../../src/packet/address.ts";

const facts = (elsewhere: string[], externals = [1]): GuardFacts => ({
	lan: [],
	wanDevice: "wan0",
	externals,
	ownedExternals: [],
	portRanges: [],
	forwards: [],
	elsewhere: elsewhere.map((text) => parseSubnet(text) as Subnet),
	internal: [],
	ownAddresses: [],
});

describe("the guard's pace", () => {
	it("a thousand changes of routes in ten seconds cost a twentieth of them", () => {
		const pace = new GuardPace();
		let spent = 0;
		let now = 0;
		for (let n = 0; n < 1000; n++) {
			now = Math.max(now, n * 10);
			const wanted = facts([`10.${n & 255}.0.0/16`]);
			if (!pace.may(wanted, false, now)) continue;
			pace.took(wanted, now, now + 40, false);
			now += 40;
			spent += 40;
		}
		expect(spent).toBeLessThanOrEqual(10_000 / 20 + 40);
		expect(pace.may(facts(["10.1.0.0/16"]), false, now + 5000)).toBe(true);
	});

	it("another address, and a guard that is gone, do not wait", () => {
		const pace = new GuardPace();
		pace.took(facts(["10.0.0.0/8"]), 0, 300, false);
		expect(pace.may(facts(["10.0.0.0/9"]), false, 301)).toBe(false);
		expect(pace.may(facts(["10.0.0.0/8"], [2]), false, 301)).toBe(true);
		expect(pace.may(facts(["10.0.0.0/8"]), true, 301)).toBe(true);
	});

	it("an nft that hangs is tried again, but holds up a small part of the time only", () => {
		const pace = new GuardPace();
		pace.took(facts([]), 0, 10_000, true);
		expect(pace.may(facts([], [2]), true, 15_000)).toBe(false);
		expect(pace.may(facts([]), true, 40_000)).toBe(true);
		// One that is refused at once may be tried again at once.
		pace.took(facts([]), 40_000, 40_005, true);
		expect(pace.may(facts([]), true, 40_005)).toBe(true);
	});
});
