/**
 * noUncheckedIndexedAccess for every file of src/ but those named here: an element of an array may be undefined, and who
 * takes one says what then. Prints what is wrong and fails, too if a file that is named has nothing wrong any more.
 *
 *     node test/tools/indexed-access.mjs
 */
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Rooms whose files read words of typed arrays for each packet: a test for undefined at each would be paid there. */
const HOT = ["nat", "conntrack", "offload", "packet", "port"];
/** Files of other rooms, by what they read for each packet, session or message. */
const EXCEPT = {
	"netlink/queue.ts": "a packet's message, as words",
	"netlink/conntrack.ts": "a connection's message, as words",
	"kernel/hand-over.ts": "the records of all sessions, at a stop",
	"daemon/egress.ts": "the queue of each batch",
	"daemon/loop.ts": "the ports at each turn, and the batch",
	"daemon/ports.ts": "the ports at each turn; records of hosts",
	"daemon/kernel-carrier.ts": "the port of each packet",
	"daemon/translation.ts": "the port of each new next hop, and random words for each session",
	"daemon/wan-address.ts": "records of hosts for each frame that waits",
	"daemon/session-hops.ts": "the records of all sessions",
	"daemon/connections.ts": "the records of all sessions",
	"daemon/rebuilt-sessions.ts": "the record of each session",
	"daemon/firewall-bans.ts": "the records of all sessions",
	"daemon/in-force.ts": "the records of all hosts",
	"daemon/parts.ts": "addresses and counters out of typed arrays",
	"daemon/rates.ts": "counters out of typed arrays",
	"daemon/reload.ts": "addresses out of a typed array",
	"daemon/take-over.ts": "addresses out of a typed array",
	"daemon/due.ts": "addresses and counters out of typed arrays",
	"control/sessions.ts": "the records of all sessions and hosts",
	"control/flush.ts": "the records of all sessions",
	"control/watch.ts": "the record of each session that begins or ends, the counters of all reasons",
	"control/capture.ts": "each packet, while there is a capture",
	"control/dry-run.ts": "records, by the numbers of the decisions",
	"control/status.ts": "counters out of typed arrays",
	"control/server.ts": "the poll set at each turn",
};

const report = (diagnostic) => {
	throw new Error(ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n"));
};
const { options, fileNames } = ts.getParsedCommandLineOfConfigFile(
	join(ROOT, "tsconfig.json"),
	{ noUncheckedIndexedAccess: true },
	{ ...ts.sys, onUnRecoverableConfigFileDiagnostic: report },
);
const src = join(ROOT, "src");
const program = ts.createProgram(
	fileNames.filter((name) => !relative(src, name).startsWith("..")),
	options,
);
const wrong = [];
let held = 0;
for (const file of program.getSourceFiles()) {
	const path = relative(src, file.fileName);
	if (path.startsWith("..") || HOT.includes(dirname(path))) continue;
	const found = program.getSemanticDiagnostics(file);
	if (Object.hasOwn(EXCEPT, path)) {
		if (found.length === 0) wrong.push(`src/${path}: nothing is wrong with it, so it need not be named in test/tools/indexed-access.mjs`);
		continue;
	}
	held++;
	for (const { start, messageText } of found) {
		const { line } = file.getLineAndCharacterOfPosition(start);
		wrong.push(`src/${path}:${line + 1}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
	}
}
for (const path of Object.keys(EXCEPT))
	if (program.getSourceFile(join(src, path)) === undefined) wrong.push(`src/${path}: there is no such file`);
for (const line of wrong) console.log(line);
console.log(`${held} files of src/ held, ${wrong.length} errors`);
process.exit(wrong.length === 0 ? 0 : 1);
