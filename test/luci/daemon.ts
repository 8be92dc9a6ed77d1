/**
 * The daemon's end of the control socket for tests of what the owner sees: the project's own answers over a table that
 * the test rig has filled with real decisions, without a device or a kernel. Where an answer asks the kernel (`status`)
 * it is made up here.
 */
import { createServer, type Server } from "node:net";
import { RECORD_SHIFT } from "../../src/conntrack/record.ts";
import { ACCOUNTS_BYTES, HostAccounts } from "../../src/control/accounts.ts";
import { why } from "../../src/control/dry-run.ts";
import { flush } from "../../src/control/flush.ts";
import { LINE_MAX, PROTOCOL_VERSION, type Request, type StatusReply } from "../../src/control/protocol.ts";
import { drops, flows, forwards, hosts, mappings } from "../../src/control/sessions.ts";
import { reason } from "../../src/nat/reason.ts";
import { Rig } from "../unit/rig.ts";
import { tcp, udp } from "../unit/rig-frame.ts";

const SERVER = "203.0.113.10";
const EXTERNAL = "203.0.113.1";
export const SESSIONS = 16_384;
export const HOSTS = 24;

/** A full house: hosts whose sessions fill the table but for a few, some drops, forwards of both kinds. */
function fill(): Rig {
	const ranges = [{ first: 1024, last: 65535 }];
	const rig = new Rig({ sessions: SESSIONS, ranges });
	const each = Math.floor((SESSIONS * 0.75) / HOSTS);
	for (let k = 0; k < each; k++) {
		for (let host = 0; host < HOSTS; host++) {
			const source = `192.168.1.${10 + host}:${20000 + k}`;
			const external = rig.out(udp(source, `203.0.113.${10 + (k % 40)}:${k % 3 === 0 ? 443 : 53 + (k % 5)}`)).wan[0];
			if (host < 3 && external !== undefined && k < 300)
				rig.out(udp(source, `203.0.113.${10 + (k % 40)}:${k % 3 === 0 ? 443 : 53 + (k % 5)}`));
		}
	}
	for (let n = 0; n < 6; n++) rig.in(udp(`${SERVER}:${5000 + n}`, `${EXTERNAL}:1500`));
	rig.in(tcp(`${SERVER}:4321`, `${EXTERNAL}:8022`, { flags: "S" }));
	rig.out(udp("10.9.9.9:5", `${SERVER}:9`));
	const raw = (...bytes: number[]) => new Int32Array(Uint8Array.from(bytes).buffer)[0];
	rig.context.requested.push({ protocol: 17, first: 4000, last: 4000, internal: raw(192, 168, 1, 20), internalFirst: 4000, source: null });
	return rig;
}

/** The places that are left are taken too. */
export function fillUp(rig: Rig): void {
	for (let n = 0; rig.table.used < SESSIONS; n++) rig.out(udp(`192.168.1.${10 + (n % HOSTS)}:${30000 + n}`, `${SERVER}:443`));
}

/** What `status` says of the rig. */
function status(rig: Rig, started: number): StatusReply {
	const c = rig.context;
	const seconds = (Date.now() - started) / 1000;
	const wave = (base: number) => Math.round(base * (1 + 0.5 * Math.sin(seconds / 7)));
	return {
		version: "0.1.0",
		uptime: Math.floor(seconds) + 93_784,
		ports: [
			{ name: "wan", role: "wan", driver: "packet", up: true, address: EXTERNAL, mtu: 1500, received: 812_345, sent: 401_223 },
			{ name: "br-lan", role: "lan", driver: "tun", up: true, address: "192.168.1.1", mtu: 1500, received: 401_300, sent: 812_001 },
		],
		sessions: { used: c.table.used, total: SESSIONS, byState: { open: c.table.used } },
		tableBytes: 1_400_000,
		hosts: c.hosts.active,
		topHosts: [],
		externalPorts: ["tcp", "udp", "icmp"].map((protocol) => ({ protocol, free: 52_000, total: 64_512 })),
		forwarded: { out: 401_223, in: 812_345 },
		rates: { out: wave(820), in: wave(2100), dropped: 3 },
		offload: { mode: "auto", active: true, detail: "tcx", flows: 211, capacity: 16_384, packetsOut: 350_000, packetsIn: 760_000, past: "" },
		leftToKernel: 17,
		icmpErrorsSent: 4,
		drops: [...c.drops].flatMap((count, n) => {
			const r = reason(n);
			return count === 0 ? [] : [{ reason: r.name, count, text: r.text, remedy: r.remedy }];
		}),
		alg: [],
		guard: { leak: 0 },
		warnings: [
			"double NAT: the WAN's address 192.168.0.2 is private; forward ports on the router in front too, or make it a bridge or this host its DMZ",
		],
		internalErrors: [],
		logLost: 0,
		rssKb: 3012,
		meter: null,
	};
}

type Job = Generator<unknown[] | undefined, unknown>;

/** Listens at `path`. `stats` has the bytes that were answered. */
export function listen(path: string): { server: Server; rig: Rig; stats: { bytes: number; requests: string[] } } {
	const rig = fill();
	const started = Date.now();
	const stats = { bytes: 0, requests: [] as string[] };
	const { table } = rig;
	const accounts = new HostAccounts(new ArrayBuffer(ACCOUNTS_BYTES), table, {
		second: () => rig.context.now,
		local: () => Math.floor(Date.now() / 1000),
		present: () => true,
		carriedSoFar: () => Number.NaN,
		carried: () => null,
	});
	for (const i of rig.records()) accounts.open(table.T[i << RECORD_SHIFT]);
	const view = {
		context: rig.context,
		wan: { name: "wan" },
		lan: [{ name: "br-lan" }],
		admission: rig.admission,
		impaired: null,
		lookup: (destination: number) => rig.hops.find(destination),
		passesBy: () => null,
	};
	const answer = (request: Request): { data: unknown } | { job: Job } => {
		switch (request.command) {
			case "status":
				return { data: status(rig, started) };
			case "flows":
				return { job: flows(view, request) };
			case "mappings":
				return { job: mappings(view, request) };
			case "hosts":
				return request.by === undefined
					? { job: hosts(view, request.limit) }
					: (accounts.answer(request.by, request.limit) as { job: Job });
			case "forwards":
				return { job: forwards(view) };
			case "drops":
				return { job: drops(view) };
			case "why":
				return { data: why(view, request) };
			case "flush":
				return { job: flush(view, request) };
			default:
				throw new Error("unknown command");
		}
	};
	const server = createServer((socket) => {
		let heard = "";
		const say = (reply: object) => {
			const line = `${JSON.stringify({ v: PROTOCOL_VERSION, ...reply })}\n`;
			stats.bytes += line.length;
			socket.write(line);
		};
		socket.on("error", () => {});
		socket.on("data", (part) => {
			heard += part.toString();
			if (heard.length > LINE_MAX) return socket.destroy();
			const end = heard.indexOf("\n");
			if (end < 0) return;
			const line = heard.slice(0, end);
			heard = heard.slice(end + 1);
			stats.requests.push(line);
			try {
				const found = answer(JSON.parse(line) as Request);
				if ("data" in found) return say(found);
				for (;;) {
					const step = found.job.next();
					if (step.done) return say({ data: step.value });
					if (step.value !== undefined) say({ rows: step.value });
				}
			} catch (error) {
				say({ error: (error as Error).message });
			}
		});
	});
	server.listen(path);
	return { server, rig, stats };
}
