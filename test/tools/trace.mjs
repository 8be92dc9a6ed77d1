/**
 * Turns a stack trace of the minified bundle into source lines: `masqd ... 2>&1 | make trace`.
 *
 *     node test/tools/trace.mjs build/masqd.js.map < trace
 */
import { readFileSync } from "node:fs";
import { originalPositionFor, TraceMap } from "@jridgewell/trace-mapping";

const map = new TraceMap(readFileSync(process.argv[2], "utf8"));
const text = readFileSync(0, "utf8");

process.stdout.write(
	text.replace(/(\S+) \(([^()\s]*masqd\.js):(\d+):(\d+)\)/g, (whole, name, _file, line, column) => {
		// QuickJS counts columns from 1, source maps from 0.
		const at = originalPositionFor(map, { line: Number(line), column: Number(column) - 1 });
		return at.source === null ? whole : `${name} (${at.source.replace(/^(\.\.\/)+/, "")}:${at.line}:${at.column + 1})`;
	}),
);
