import { describe, expect, it } from "vitest";
import { editDistance, nearestWord } from "../../src/config/suggest.ts";
import { parseUci, quoteValue, UCI_LIMITS, type UciFile } from "../../src/config/uci.ts";

function parse(text: string): UciFile {
	return parseUci(text, "t");
}

/** The values of `option x` lines in one section, which must hold no mistake. */
function valuesOf(...lines: string[]): string[] {
	const file = parse(["config s", ...lines].join("\n"));
	expect(file.errors).toEqual([]);
	return file.sections[0]!.statements.map((statement) => statement.value);
}

function messages(text: string): string[] {
	return parse(text).errors.map((error) => `${error.line} [${error.section}] [${error.option}] ${error.message}`);
}

describe("UCI words", () => {
	it("are bare, in single or in double quotes", () => {
		expect(valuesOf("option x bare", "option x 'two words'", 'option x "two words"', "\toption\tx\t'tab\tin'")).toEqual([
			"bare",
			"two words",
			"two words",
			"tab\tin",
		]);
	});

	it("join parts that touch", () => {
		expect(valuesOf("option x a'b c'\"d e\"f", "option x 'Bob'\\''s'")).toEqual(["ab cd ef", "Bob's"]);
	});

	it("take the character after a backslash, except in single quotes", () => {
		expect(valuesOf("option x a\\ b", 'option x "a\\"b\\\\"', "option x 'a\\b'", "option x \\n")).toEqual(["a b", 'a"b\\', "a\\b", "n"]);
	});

	it("go on with the next line after a backslash", () => {
		expect(valuesOf('option x "a\\', 'b"', "option x c\\", "d", "option \\", "x e")).toEqual(["ab", "cd", "e"]);
	});

	it("end at a comment, even inside a bare word", () => {
		expect(valuesOf("option x a # b", "option x a#b", "option x 'a#b'", "# option x c", "   # c")).toEqual(["a", "a", "a#b"]);
	});

	it("may be empty", () => {
		expect(valuesOf("option x ''", 'option x ""')).toEqual(["", ""]);
	});

	it("name option and value in quotes as well", () => {
		const file = parse("config 'lan' 'home'\noption 'device' 'br-lan'");
		expect(file.sections[0]!.type).toBe("lan");
		expect(file.sections[0]!.name).toBe("home");
		expect(file.sections[0]!.statements).toEqual([{ kind: "option", name: "device", value: "br-lan", line: 2 }]);
	});
});

describe("UCI lines", () => {
	it("carry numbers for sections and options", () => {
		const file = parse("\n# c\nconfig lan\n\n\toption device a\n\tlist subnet b\n");
		expect(file.sections[0]!.line).toBe(3);
		expect(file.sections[0]!.statements).toEqual([
			{ kind: "option", name: "device", value: "a", line: 5 },
			{ kind: "list", name: "subnet", value: "b", line: 6 },
		]);
		expect(file.lastLine).toBe(6);
	});

	it("count the lines that were joined", () => {
		expect(parse("config s\noption x a\\\nb\noption y c").sections[0]!.statements.map((s) => s.line)).toEqual([2, 4]);
	});

	it("may end in CR LF", () => {
		const file = parse("config lan 'a'\r\n\toption device 'b'\r\n\r\n# c\r\n\toption x c\r\n");
		expect(file.errors).toEqual([]);
		expect(file.sections[0]!.statements.map((s) => s.value)).toEqual(["b", "c"]);
	});

	it("hold several commands apart by semicolons", () => {
		const file = parse("config a; option x 1;option y '2;3' ; config b;");
		expect(file.errors).toEqual([]);
		expect(file.sections.map((s) => s.type)).toEqual(["a", "b"]);
		expect(file.sections[0]!.statements.map((s) => s.value)).toEqual(["1", "2;3"]);
	});

	it("may use the short commands", () => {
		const file = parse("p masqd\nc a n\no x 1\nl y 2");
		expect(file.errors).toEqual([]);
		expect(file.packages).toEqual([{ name: "masqd", line: 1 }]);
		expect(file.sections[0]!.statements.map((s) => `${s.kind} ${s.name} ${s.value}`)).toEqual(["option x 1", "list y 2"]);
	});

	it("may be none at all", () => {
		for (const text of ["", "\n", "\n\n", "# c", "  \t "]) {
			const file = parse(text);
			expect(file.errors).toEqual([]);
			expect(file.sections).toEqual([]);
			expect(file.lastLine).toBeGreaterThanOrEqual(1);
		}
	});
});

describe("UCI values over lines", () => {
	const values = (text: string) => parse(text).sections[0]!.statements.map((s) => [s.name, s.value, s.line]);

	it("go on to the quote's end, as in libuci", () => {
		expect(values("config a\noption x 'one\ntwo  # three'\noption y \"four\n\n'five\"'\n'\nlist z 'a'\\\n'b'")).toEqual([
			["x", "one\ntwo  # three", 2],
			["y", "four\n\n'five\n", 4],
			["z", "ab", 8],
		]);
		expect(parse("config a 'n'\noption x 'one\r\ntwo'").sections[0]!.statements[0]!.value).toBe("one\ntwo");
	});

	it("do not swallow the next command", () => {
		for (const quote of ["'", '"'])
			for (const next of ["option y 1", "\tlist y 1", "config b", "option", "package p"])
				expect(messages(`config a\noption x ${quote}open\nmore\n${next}`)[0]).toContain("a quote is not closed");
		const file = parse("config a\noption x 'open\n\toption y 1");
		expect(file.errors).toHaveLength(1);
		expect(file.sections[0]!.statements.map((s) => s.name)).toEqual(["y"]);
		expect(messages("config a\noption x 'open\nmore")[0]).toContain("a quote is not closed");
	});

	it("are as bounded as lines", () => {
		expect(messages(`config a\noption x 'one\n${"x".repeat(UCI_LIMITS.line + 1)}'`)[0]).toContain("too long");
		expect(messages("config a\noption x 'one\n\u0001'")[0]).toContain("3 [@a[0]]");
	});
});

describe("UCI sections", () => {
	it("are numbered by type when anonymous, named ones counted", () => {
		const file = parse("config a\nconfig b\nconfig a 'n'\nconfig a\nconfig b ''\n");
		expect(file.errors).toEqual([]);
		expect(file.sections.map((s) => s.label)).toEqual(["@a[0]", "@b[0]", "n", "@a[2]", "@b[1]"]);
		expect(file.sections.map((s) => s.name)).toEqual([null, null, "n", null, null]);
	});

	it("of one name and type are one section", () => {
		const file = parse("config a n\noption x 1\nconfig b\nconfig a n\noption y 2");
		expect(file.errors).toEqual([]);
		expect(file.sections.map((s) => s.label)).toEqual(["n", "@b[0]"]);
		expect(file.sections[0]!.statements.map((s) => s.name)).toEqual(["x", "y"]);
	});

	it("of one name must be of one type", () => {
		expect(messages("config a n\nconfig b n\noption x 1")).toEqual([
			"2 [n] [] the name is taken by the section of type 'a' in line 1, expected another name",
		]);
	});
});

describe("UCI mistakes", () => {
	it("are found with line, section and option, and reading goes on", () => {
		const text = [
			"option x 1",
			"config lan 'home'",
			"option x",
			"option",
			"option a-b 1",
			"option x 1 2",
			"option x 'open",
			'option x "open',
			"optoin x 1",
			"option y ok",
			"config",
			"option lost 1",
			"config lan a-b",
			"config lan a b",
			"package",
			"package a b",
			"option x end\\",
		].join("\n");
		expect(messages(text)).toEqual([
			"1 [] [x] option before the first section, expected: config TYPE [NAME]",
			"3 [home] [x] no value, expected: option NAME VALUE",
			"4 [home] [] option without a name, expected: option NAME VALUE",
			"5 [home] [] 'a-b' is not an option name, expected letters, digits and _",
			"6 [home] [x] too many words, expected: option NAME VALUE (quote a value with spaces)",
			"7 [home] [] a quote is not closed, expected ' before the end of the line",
			'8 [home] [] a quote is not closed, expected " before the end of the line',
			"9 [home] [] unknown command 'optoin', expected config, option or list",
			"11 [] [] a section without a type, expected: config TYPE [NAME]",
			"13 [@lan[1]] [] 'a-b' is not a section name, expected letters, digits and _",
			"14 [a] [] too many words, expected: config TYPE [NAME]",
			"15 [a] [] '' is not a package name, expected letters, digits, _ and -",
			"16 [a] [] too many words, expected: package NAME",
			"17 [a] [] a backslash ends the file, expected another line",
		]);
		const home = parse(text).sections[0]!;
		expect(home.statements.map((s) => s.name)).toEqual(["y"]);
		expect(home.damaged).toBe(true);
	});

	it("do not give the options of a misspelt section to the one before", () => {
		const file = parse("config a\nconfg b\noption x 1");
		expect(file.errors).toHaveLength(1);
		expect(file.sections[0]!.statements).toEqual([]);
		expect(parse("config a\nconfig 'b\noption x 1").sections[0]!.statements).toEqual([]);
	});

	it("include NUL and other control characters", () => {
		expect(messages("config a\noption x '\0'\noption y \u0007\noption z \u007f\noption w a\rb\n# \u001b[1m\noption v 1")).toEqual([
			"2 [@a[0]] [] control character 0x00 in column 11, expected text",
			"3 [@a[0]] [] control character 0x07 in column 10, expected text",
			"4 [@a[0]] [] control character 0x7f in column 10, expected text",
			"5 [@a[0]] [] control character 0x0d in column 11, expected text",
			"6 [@a[0]] [] control character 0x1b in column 3, expected text",
		]);
	});

	it("in a joined line are reported where they are", () => {
		expect(messages("config a\noption x b\\\n\u0001\noption y c")).toEqual([
			"3 [@a[0]] [] control character 0x01 in column 1, expected text",
		]);
	});

	it("include a byte order mark, and the first line is still read", () => {
		const file = parse("\ufeffconfig a");
		expect(file.errors).toHaveLength(1);
		expect(file.errors[0]!.message).toContain("byte order mark");
		expect(file.sections.map((s) => s.type)).toEqual(["a"]);
	});

	it("include what is too much", () => {
		expect(parse("#".repeat(UCI_LIMITS.text + 1)).errors[0]!.message).toContain("too large");
		expect(parse(`# ${"x".repeat(UCI_LIMITS.line)}`).errors[0]!.message).toContain("too long");
		const sections = parse("config a\n".repeat(UCI_LIMITS.sections + 5));
		expect(sections.sections).toHaveLength(UCI_LIMITS.sections);
		expect(sections.errors).toHaveLength(1);
		const statements = parse(`config a\n${"option x 1\n".repeat(UCI_LIMITS.statements + 5)}`);
		expect(statements.sections[0]!.statements).toHaveLength(UCI_LIMITS.statements);
		expect(statements.errors).toHaveLength(1);
		expect(parse("x\n".repeat(1000)).errors).toHaveLength(UCI_LIMITS.errors);
	});

	it("show values in printable ASCII", () => {
		expect(quoteValue("a\u0001\u00e9b")).toBe("'a??b'");
		expect(quoteValue("x".repeat(41))).toBe(`'${"x".repeat(37)}...'`);
	});
});

describe("suggestions", () => {
	it("count edits, exchanged neighbours as one", () => {
		expect(editDistance("device", "device")).toBe(0);
		expect(editDistance("devcie", "device")).toBe(1);
		expect(editDistance("", "abc")).toBe(3);
		expect(editDistance("kitten", "sitting")).toBe(3);
		expect(editDistance("x".repeat(1000), "device")).toBe(1000);
	});

	it("offer only what is near", () => {
		const known = ["device", "interface", "driver", "wan", "lan"];
		expect(nearestWord("devices", known)).toBe("device");
		expect(nearestWord("DRIVER", known)).toBe("driver");
		expect(nearestWord("drivr", known)).toBe("driver");
		expect(nearestWord("wann", known)).toBe("wan");
		expect(nearestWord("colour", known)).toBeNull();
		expect(nearestWord("", known)).toBeNull();
	});
});
