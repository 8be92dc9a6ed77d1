/**
 * `ubus call masqd METHOD ARGUMENTS` of the emulated router's tests: a stand-in for ubus and rpcd (ucode.ts) with the
 * package's own plugin and access list. Asks a line of standard input each, [user, method, arguments] in JSON, and
 * prints the answer, or the number of ubus' that says why there is none.
 *
 *   node build/test/luci/ubus.mjs FOLDER OF THE PACKAGE'S FILES  CONTROL SOCKET
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { call, load } from "./ucode.ts";

const [files, socket] = process.argv.slice(2);
const METHOD_NOT_FOUND = 3;
const PERMISSION_DENIED = 6;

const { masqd } = load(join(files, "usr/share/rpcd/ucode/masqd"), { MASQD_SOCKET: socket }, { masqd: [], firewall: [] });
const acl = JSON.parse(readFileSync(join(files, "usr/share/rpcd/acl.d/luci-app-masqd.json"), "utf8"))["luci-app-masqd"];

for (const line of readFileSync(0, "utf8").trim().split("\n")) {
	const [user, method, given] = JSON.parse(line);
	const permitted: string[] = [...acl.read.ubus.masqd, ...(user === "owner" ? acl.write.ubus.masqd : [])];
	const found = masqd[method];
	const answer = found === undefined ? METHOD_NOT_FOUND : permitted.includes(method) ? await call(found, given) : PERMISSION_DENIED;
	process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
