/**
 * The scripts of luci-app-masqd behind `masqd metrics` and `masqd nat-type`, on the stand-in for ucode: the format of
 * metrics by its grammar, counters over a restart, the verdicts on a line, and STUN with coturn. In a network namespace
 * of its own.
 *
 *   node build/test/luci/scripts.mjs
 */
import { strict as assert } from "node:assert";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HOSTS, listen } from "./daemon.ts";
import { execute } from "./ucode.ts";

const SCRIPTS = join(process.cwd(), "openwrt/luci/root/usr/libexec");
const folder = mkdtempSync(join(tmpdir(), "masqd-scripts-"));
const program = join(folder, "masqd");
const kept = join(folder, "kept");

/** A masqd that prints these lines for its commands. */
function says(answers: Record<string, object[]>): void {
	const cases = Object.entries(answers).map(([name, rows], n) => {
		writeFileSync(join(folder, `answer${n}`), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
		return `"${name}"*) cat ${folder}/answer${n} ;;`;
	});
	const rows = "all=$*; n=99; while [ $# -gt 0 ]; do [ $1 = -n ] && n=$2; shift; done";
	writeFileSync(program, `#!/bin/sh\n${rows}\ncase "$all" in\n${cases.join("\n")}\nesac | head -n $n\n`);
	chmodSync(program, 0o755);
}

const metrics = (...words: string[]) =>
	execute(join(SCRIPTS, "masqd-metrics"), words, { MASQD_PROGRAM: program, MASQD_METRICS: kept, COLLECTD_INTERVAL: "30" });

/** The state of a daemon that was started `uptime` seconds ago. */
async function state(uptime: number, more: object = {}): Promise<Record<string, object[]>> {
	const ask = (request: object) =>
		new Promise<{ rows: object[]; data: object }>((resolve) => {
			const client = connect(socket);
			let text = "";
			client.setEncoding("utf8");
			client.on("data", (part) => {
				text += String(part);
				const lines = text.split("\n").filter((line) => line.endsWith("}"));
				const replies = lines.map((line) => JSON.parse(line));
				const last = replies.at(-1);
				if (last?.data === undefined) return;
				client.destroy();
				resolve({ rows: replies.flatMap((reply) => reply.rows ?? []), data: last.data });
			});
			client.write(`${JSON.stringify({ v: 1, ...request })}\n`);
		});
	const status = await ask({ command: "status" });
	const hosts = await ask({ command: "hosts", limit: 32 });
	const days = await ask({ command: "hosts", by: "day", limit: 32 });
	const day = (n: number) => new Date((Math.floor(Date.now() / 864e5) - n) * 864e5).toISOString().slice(0, 10);
	const dated = (days.rows as { address: string; bytes: number[][] }[]).map((row) => ({
		address: row.address,
		day: row.bytes.map((moved, n) => [day(n), ...moved]),
	}));
	return { status: [{ ...status.data, uptime, ...more }], "hosts --by day": dated, hosts: hosts.rows };
}

const socket = join(folder, "sock");
const daemon = listen(socket);

/** The series of Prometheus' text format (its grammar, version 0.0.4); throws where it is none. */
function parsed(text: string): Map<string, number> {
	const found = new Map<string, number>();
	const types = new Map<string, string>();
	let current = "";
	assert.ok(text.endsWith("\n"));
	for (const line of text.split("\n").slice(0, -1)) {
		const type = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)$/.exec(line);
		if (type !== null) {
			assert.ok(!types.has(type[1]), `${type[1]} has one type, and its lines stand together`);
			types.set(type[1], type[2]);
			current = type[1];
			continue;
		}
		const sample =
			/^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*")*\})? (\d+(?:\.\d+)?)$/.exec(
				line,
			);
		assert.ok(sample !== null, line);
		assert.equal(sample[1], current);
		assert.equal(types.get(current), current.endsWith("_total") ? "counter" : "gauge");
		assert.ok(!found.has(sample[1] + (sample[2] ?? "")), line);
		found.set(sample[1] + (sample[2] ?? ""), Number(sample[3]));
	}
	return found;
}

/** A line's verdict. */
function natType(address: string, o: { filtering?: string; routes?: string; words?: string[] } = {}) {
	const filtering = o.filtering ?? "address-and-port-dependent";
	says({ status: [{ ports: [{ name: "wan0", role: "wan", address }] }], hosts: [{ filtering }] });
	const routes = join(folder, "routes");
	writeFileSync(routes, o.routes ?? "");
	const { output, status } = execute(join(SCRIPTS, "masqd-nat-type"), ["-j", ...(o.words ?? [])], {
		MASQD_PROGRAM: program,
		MASQD_ROUTES: routes,
	});
	assert.equal(status, 0);
	return JSON.parse(output) as { type: string; line: string[]; change: string[]; outside?: string; stun?: Record<string, unknown> };
}

const TESTS: [string, () => Promise<void> | void][] = [
	[
		"metrics are Prometheus' text format, and as many series as hosts have a place",
		async () => {
			const now = await state(100);
			says(now);
			const found = parsed(metrics().output);
			assert.equal(found.get("masqd_sessions"), 12288);
			assert.equal(found.get('masqd_dropped_total{reason="filtered"}'), 6);
			assert.equal([...found.keys()].filter((key) => key.startsWith("masqd_host_sessions")).length, HOSTS);
			assert.equal([...found.keys()].filter((key) => key.startsWith("masqd_host_sent_bytes_total")).length, HOSTS);
			const many = (row: object) => Array.from({ length: 60 }, (_, n) => ({ ...row, address: `192.168.1.${n + 1}` }));
			says({ ...now, "hosts --by day": many(now["hosts --by day"][0]), hosts: many(now.hosts[0]) });
			const bounded = [...parsed(metrics().output).keys()];
			for (const name of ["sessions", "refused", "sent_bytes_total", "received_bytes_total"])
				assert.equal(bounded.filter((key) => key.startsWith(`masqd_host_${name}{`)).length, 32, name);
		},
	],
	[
		"counters go on over a restart, gauges do not",
		async () => {
			rmSync(kept, { force: true });
			says(await state(100));
			const before = parsed(metrics().output);
			says(await state(7, { drops: [{ reason: "no-mapping", count: 2 }], forwarded: { out: 10, in: 20 } }));
			for (let n = 0; n < 2; n++) {
				const after = parsed(metrics().output);
				for (const [key, more] of [
					['masqd_packets_total{direction="out"}', 10],
					['masqd_packets_total{direction="in"}', 20],
					['masqd_dropped_total{reason="no-mapping"}', 2],
					['masqd_dropped_total{reason="filtered"}', 0],
				] as const)
					assert.equal(after.get(key), (before.get(key) ?? 0) + more, key);
				assert.equal(after.get("masqd_uptime_seconds"), 7);
			}
			writeFileSync(kept, "nonsense");
			assert.equal(parsed(metrics().output).get('masqd_packets_total{direction="out"}'), 10);
		},
	],
	[
		"a host's bytes go on over midnight, a restart and a week's end",
		async () => {
			rmSync(kept, { force: true });
			const now = await state(100);
			const moved = (...day: [string, number, number][]) => {
				says({ ...now, "hosts --by day": [{ address: "192.168.1.10", day }] });
				const found = parsed(metrics().output);
				return ["sent", "received"].map((way) => found.get(`masqd_host_${way}_bytes_total{host="192.168.1.10"}`));
			};
			assert.deepEqual(moved(["2026-12-01", 5, 50], ["2026-11-30", 1, 10]), [6, 60]);
			assert.deepEqual(moved(["2026-12-01", 7, 50], ["2026-11-30", 1, 10]), [8, 60]);
			// Midnight: what was moved before it since the last look, and what since.
			assert.deepEqual(moved(["2026-12-02", 3, 20], ["2026-12-01", 9, 55], ["2026-11-30", 1, 10]), [13, 85]);
			// The first day is not known any more.
			assert.deepEqual(moved(["2026-12-02", 3, 20], ["2026-12-01", 9, 55]), [13, 85]);
			// The daemon has begun anew.
			assert.deepEqual(moved(["2026-12-02", 2, 4]), [15, 89]);
			// Nobody looked for more than a week.
			assert.deepEqual(moved(["2026-12-20", 1, 1], ["2026-12-19", 1, 2]), [17, 92]);
			says({ ...now, "hosts --by day": [] });
			assert.equal([...parsed(metrics().output).keys()].filter((key) => key.includes("bytes_total")).length, 0);
			assert.deepEqual(JSON.parse(readFileSync(kept, "utf8")).bytes, {});
		},
	],
	[
		"README's line of cron writes a textfile whole or not at all",
		async () => {
			const line = /`(masqd metrics > [^`]*)`/.exec(readFileSync("openwrt/README.md", "utf8"))?.[1].replace(/\s+/g, " ");
			assert.ok(line !== undefined);
			const file = join(folder, "masqd.prom");
			const run = () =>
				spawnSync("sh", ["-c", line.replaceAll("/var/prometheus", folder)], {
					env: { ...process.env, PATH: `${folder}/bin:${process.env.PATH}` },
				});
			const daemon = (script: string) => {
				mkdirSync(join(folder, "bin"), { recursive: true });
				writeFileSync(join(folder, "bin/masqd"), `#!/bin/sh\n${script}\n`);
				chmodSync(join(folder, "bin/masqd"), 0o755);
			};
			says(await state(100));
			writeFileSync(join(folder, "answer"), metrics().output);
			daemon(`[ "$*" = metrics ] && cat ${folder}/answer`);
			assert.equal(run().status, 0);
			const first = readFileSync(file, "utf8");
			assert.equal(parsed(first).get("masqd_sessions"), 12288);
			// It goes in the middle: what a scraper finds is what was whole.
			daemon(`head -c 100 ${folder}/answer; [ "$(cat ${file} | wc -c)" = ${first.length} ] || touch ${folder}/torn; exit 1`);
			assert.notEqual(run().status, 0);
			assert.equal(readFileSync(file, "utf8"), first);
			assert.ok(!existsSync(join(folder, "torn")));
		},
	],
	[
		"collectd reads a line a value",
		async () => {
			says(await state(100));
			const lines = metrics("--collectd").output.trim().split("\n");
			for (const line of lines) assert.match(line, /^PUTVAL "router\/masqd\/(gauge|derive)-[\w.-]+" interval=30 N:\d+$/);
			assert.ok(lines.includes('PUTVAL "router/masqd/gauge-sessions" interval=30 N:12288'));
		},
	],
	[
		"the range of an address says what is in front",
		() => {
			assert.equal(natType("198.51.100.7").type, "moderate");
			assert.equal(natType("198.51.100.7", { filtering: "endpoint-independent" }).type, "open");
			for (const address of ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.2"]) {
				const said = natType(address, { filtering: "endpoint-independent" });
				assert.equal(said.type, "moderate", address);
				assert.match(said.line[0], /another router in front/);
				assert.match(said.change[0], /bridge/);
			}
			assert.equal(natType("172.32.0.1", { filtering: "endpoint-independent" }).type, "open");
			for (const address of ["100.64.0.1", "100.127.255.254"]) {
				const said = natType(address);
				assert.equal(said.type, "strict", address);
				assert.match(said.line[0], /provider translates/);
			}
			assert.equal(natType("100.128.0.1").type, "moderate");
		},
	],
	[
		"a gateway that speaks NAT-PMP says what is outside of it",
		() => {
			const gateway = spawn("/usr/bin/python3", [
				"-c",
				`import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.9", 5351))
print("ready", flush=True)
while True:
    asked, who = s.recvfrom(64)
    if asked == b"\\0\\0":
        s.sendto(bytes([0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100, 1]), who)`,
			]);
			return new Promise<void>((resolve, reject) => {
				gateway.stdout.once("data", () => {
					try {
						const said = natType("198.51.100.7", { routes: "Iface\tDestination\tGateway\nwan0\t00000000\t0900007F\t0003\n" });
						assert.equal(said.outside, "198.51.100.1");
						assert.ok(said.line.some((text) => text.includes("The gateway 127.0.0.9 translates: outside it is 198.51.100.1")));
						resolve();
					} catch (error) {
						reject(error);
					} finally {
						gateway.kill();
					}
				});
			});
		},
	],
	[
		"a STUN server that is named (coturn) sees what there is, and no other is asked",
		async () => {
			const words = ["-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "-L", "127.0.0.2", "-L", "127.0.0.3", "--log-file", "stdout"];
			const server = spawn("turnserver", [...words, "--pidfile", join(folder, "turn.pid")], { stdio: "ignore" });
			try {
				let said = natType("127.0.0.1", { words: ["--stun=127.0.0.2"] });
				for (let n = 0; n < 20 && said.stun?.error !== undefined; n++) said = natType("127.0.0.1", { words: ["--stun=127.0.0.2"] });
				assert.equal((said.stun?.mapped as { address: string }).address, "127.0.0.1");
				assert.deepEqual([said.stun?.mapping, said.stun?.filtering], ["endpoint-independent", "endpoint-independent"]);
			} finally {
				server.kill();
			}
			const silent = natType("198.51.100.7", { words: ["--stun=127.0.0.99"] });
			assert.ok(silent.line.includes("STUN: 127.0.0.99 does not answer."));
			assert.equal(natType("198.51.100.7").stun, undefined);
			for (const word of ["--stun=a;b", "--stun=$(x)", "--stun", "x"])
				assert.equal(execute(join(SCRIPTS, "masqd-nat-type"), [word], { MASQD_PROGRAM: program }).status, 1);
		},
	],
];

async function main(): Promise<number> {
	let passed = 0;
	let failed = 0;
	for (const [name, run] of TESTS) {
		try {
			await run();
			passed++;
			console.log(`ok   ${name}`);
		} catch (error) {
			failed++;
			console.log(`FAIL ${name}\n${(error as Error).stack}`);
		}
	}
	console.log(`${passed} passed, ${failed} failed`);
	return failed;
}

if (process.argv[2] === "inside") {
	spawnSync("ip", ["link", "set", "dev", "lo", "up"]);
	const failed = await main();
	daemon.server.close();
	rmSync(folder, { recursive: true, force: true });
	process.exit(failed === 0 ? 0 : 1);
}
daemon.server.close();
rmSync(folder, { recursive: true, force: true });
process.exit(spawnSync("unshare", ["-n", process.execPath, process.argv[1], "inside"], { stdio: "inherit" }).status ?? 1);
