/**
 * Turns a stack trace of the minified bundle into source lines: `MASQD_DEBUG=1 masqd ... 2>&1 | make trace`. Without that, and on a router, there are no
 * line numbers: then the names of functions are looked up, and each place that defines one is shown.
 *
 *     node test/tools/trace.mjs build/masqd.js.map < trace
 */
import { readFileSync } from "node:fs";
import { originalPositionFor, TraceMap } from "@jridgewell/trace-mapping";

const path = process.argv[2];
const map = new TraceMap(readFileSync(path, "utf8"));
const bundle = readFileSync(path.replace(/\.map$/, ""), "utf8").split("\n");
const text = readFileSync(0, "utf8");

/** Source position of a place in the bundle, lines from 1 and columns from 0; null for what is not ours. */
function source(line, column) {
	const at = originalPositionFor(map, { line, column });
	return at.source === null ? null : `${at.source.replace(/^(\.\.\/)+/, "")}:${at.line}:${at.column + 1}`;
}

/** Where the bundle defines functions and methods of this name. */
function definitions(name) {
	const escaped = name.replace(/[$#]/g, "\\$&");
	const definition = new RegExp(`function\\*? ${escaped}\\(|(?<=[{};])(?:static |get |set )*${escaped}\\([^()]*\\)\\{`, "g");
	return bundle.flatMap((line, n) => [...line.matchAll(definition)].map((m) => source(n + 1, m.index))).filter((place) => place !== null);
}

process.stdout.write(
	text
		// QuickJS counts columns from 1, source maps from 0.
		.replace(/(\S+) \(([^()\s]*masqd\.js):(\d+):(\d+)\)/g, (whole, name, _file, line, column) => {
			const place = source(Number(line), Number(column) - 1);
			return place === null ? whole : `${name} (${place})`;
		})
		.replace(/^( +at )([\w$#]+)$/gm, (whole, at, name) => {
			const places = [...new Set(definitions(name))];
			return places.length === 0 ? whole : `${at}${name} (${places.join(", or ")})`;
		}),
);
