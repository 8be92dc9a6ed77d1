/**
 * Turns a stack trace of the minified bundle into source lines: `MASQD_DEBUG=1 masqd ... 2>&1 | make trace`. Without that, and on a router, there are no
 * line numbers: then the names of functions are looked up, and each place that defines one is shown.
 *
 *     node test/tools/trace.mjs build/masqd.js.map build/core.js.map ... < trace
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { originalPositionFor, TraceMap } from "@jridgewell/trace-mapping";

/** Map and lines of each bundle, by the name of its file. */
const bundles = new Map(
	process.argv
		.slice(2)
		.map((path) => [
			basename(path, ".map"),
			{ map: new TraceMap(readFileSync(path, "utf8")), lines: readFileSync(path.replace(/\.map$/, ""), "utf8").split("\n") },
		]),
);
const text = readFileSync(0, "utf8");

/** Source position of a place in a bundle, lines from 1 and columns from 0; null for what is not ours. */
function source({ map }, line, column) {
	const at = originalPositionFor(map, { line, column });
	return at.source === null ? null : `${at.source.replace(/^(\.\.\/)+/, "")}:${at.line}:${at.column + 1}`;
}

/** Where the bundles define functions and methods of this name. */
function definitions(name) {
	const escaped = name.replace(/[$#]/g, "\\$&");
	const definition = new RegExp(`function\\*? ${escaped}\\(|(?<=[{};])(?:static |get |set )*${escaped}\\([^()]*\\)\\{`, "g");
	const places = [...bundles.values()].flatMap((bundle) =>
		bundle.lines.flatMap((line, n) => [...line.matchAll(definition)].map((m) => source(bundle, n + 1, m.index))),
	);
	return places.filter((place) => place !== null);
}

process.stdout.write(
	text
		// QuickJS counts columns from 1, source maps from 0.
		.replace(/(\S+) \(([^()\s]*\.js):(\d+):(\d+)\)/g, (whole, name, file, line, column) => {
			const bundle = bundles.get(basename(file));
			const place = bundle === undefined ? null : source(bundle, Number(line), Number(column) - 1);
			return place === null ? whole : `${name} (${place})`;
		})
		.replace(/^( +at )([\w$#]+)$/gm, (whole, at, name) => {
			const places = [...new Set(definitions(name))];
			return places.length === 0 ? whole : `${at}${name} (${places.join(", or ")})`;
		}),
);
