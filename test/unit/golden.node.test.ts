/**
 * Whole configurations in, whole output out: each `test/fixtures/NAME.uci` with what `masqd check` says of it in
 * `NAME.expected`. Reads files, so it runs on Node only. `UPDATE=1` writes the expected files anew.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { describePlan } from "../../src/config/describe.ts";
import { makePlan } from "../../src/config/plan.ts";
import { SECTIONS, type SectionSpec } from "../../src/config/schema.ts";
import { formatErrors, parseUci } from "../../src/config/uci.ts";
import { mutate, seededRandom } from "./mutation.ts";

const FIXTURES = new URL("../fixtures/", import.meta.url);
const FACTS = { memTotalKb: 131072 };

function read(name: string): string {
	return readFileSync(new URL(name, FIXTURES), "utf8");
}

/** The plan if there is one, then errors and warnings. The table takes 72 bytes a session here. */
function outputOf(name: string): string {
	const { plan, errors, warnings } = makePlan(read(name), name, FACTS);
	const plans = plan === null ? "" : describePlan(plan, plan.sessions * 72);
	return (
		plans +
		formatErrors(errors) +
		formatErrors(warnings)
			.replace(/^/gm, "warning: ")
			.replace(/warning: $/, "")
	);
}

describe("fixtures", () => {
	for (const name of ["home", "full", "bad"]) {
		it(`${name}.uci gives ${name}.expected`, () => {
			const output = outputOf(`${name}.uci`);
			if (process.env.UPDATE === "1") writeFileSync(new URL(`${name}.expected`, FIXTURES), output);
			expect(output).toBe(read(`${name}.expected`));
		});
	}

	it("full.uci has every option, without a finding", () => {
		const { errors, warnings } = makePlan(read("full.uci"), "full.uci", FACTS);
		expect([...errors, ...warnings]).toEqual([]);
		const sections = parseUci(read("full.uci"), "full.uci").sections;
		for (const [type, spec] of Object.entries<SectionSpec>(SECTIONS)) {
			const used = sections.filter((section) => section.type === type).flatMap((section) => section.statements.map((s) => s.name));
			for (const option of Object.keys(spec.options)) expect(used).toContain(option);
		}
	});

	it("bad.uci has at least 25 different mistakes", () => {
		const { plan, errors } = makePlan(read("bad.uci"), "bad.uci", FACTS);
		expect(plan).toBeNull();
		const kinds = new Set(errors.map((error) => error.message.replace(/'[^']*'|\d+/g, "")));
		expect(kinds.size).toBeGreaterThanOrEqual(25);
	});
});

describe("mutations of full.uci", () => {
	it("give a plan or errors, 5000 times, without a throw", () => {
		const text = read("full.uci");
		const random = seededRandom(2);
		let plans = 0;
		for (let i = 0; i < 5000; i++) {
			const { plan, errors, warnings } = makePlan(mutate(text, random), "full.uci", FACTS);
			if ((plan === null) !== errors.length > 0) throw new Error(`mutation ${i}: plan and errors disagree`);
			formatErrors(errors);
			formatErrors(warnings);
			if (plan === null) continue;
			plans++;
			const long = describePlan(plan, plan.sessions * 72)
				.split("\n")
				.filter((line) => line.length > 76);
			expect(long).toEqual([]);
		}
		expect(plans).toBeGreaterThan(100);
		expect(plans).toBeLessThanOrEqual(4500);
	});
});

describe("the packaged configuration", () => {
	it("is disabled and has neither errors nor warnings", () => {
		const text = readFileSync(new URL("../../openwrt/files/etc/config/masqd", import.meta.url), "utf8");
		const { plan, errors, warnings } = makePlan(text, "masqd", FACTS);
		expect([errors, warnings]).toEqual([[], []]);
		expect(plan?.enabled).toBe(false);
	});
});
