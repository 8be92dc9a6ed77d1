/** What of the control commands needs no daemon: the log, the text forms, pcapng, the event stream. */
import { describe, expect, it } from "vitest";
import { renderEvent, renderMappingLog, type WatchEvent } from "../../src/cli/event-text.ts";
import { PcapngWriter } from "../../src/cli/pcapng.ts";
import { remedyLines, remedySection } from "../../src/cli/remedy.ts";
import { formatBytes, formatCount, renderDrop, renderFlow, renderHost, renderMapping, renderStatus } from "../../src/cli/render.ts";
import type { WhyReply } from "../../src/control/protocol.ts";
import { Watch } from "../../src/control/watch.ts";
import { Log } from "../../src/daemon/log.ts";
import { Rig } from "./rig.ts";
import { udp } from "./rig-frame.ts";

describe("the log", () => {
	function logOf(least?: "error" | "warning" | "info"): { log: Log; lines: [number, string][] } {
		const lines: [number, string][] = [];
		return { log: new Log((priority, line) => lines.push([priority, line]), least), lines };
	}

	it("says what repeats once, and then how often", () => {
		const { log, lines } = logOf();
		for (let n = 0; n < 413; n++) log.rateLimited("warning", "full", `table full ${n}`, n);
		log.tick(1000);
		expect(lines).toEqual([[4, "warning: table full 0"]]);
		log.tick(61_000);
		expect(lines[1]).toEqual([4, "warning: table full 412 (412 more)"]);
		log.tick(200_000);
		expect(lines.length).toBe(2);
		log.rateLimited("warning", "full", "again", 300_000);
		expect(lines[2]).toEqual([4, "warning: again"]);
	});

	it("counts events, not lines, when one line stands for many", () => {
		const { log, lines } = logOf();
		log.rateLimited("warning", "full", "refused of host A", 0, 27);
		log.rateLimited("warning", "full", "refused of host B", 1000, 400);
		log.rateLimited("warning", "full", "refused of host C", 2000, 12);
		log.tick(61_000);
		expect(lines.map(([, line]) => line)).toEqual(["warning: refused of host A (26 more)", "warning: refused of host C (412 more)"]);
	});

	it("keeps kinds apart and leaves levels out", () => {
		const { log, lines } = logOf("warning");
		log.rateLimited("warning", "a", "first", 0);
		log.rateLimited("warning", "b", "second", 0);
		log.info("third");
		log.error("fourth");
		expect(lines.map(([, line]) => line)).toEqual(["warning: first", "warning: second", "error: fourth"]);
	});
});

describe("pcapng", () => {
	it("has a section header, an interface each, and packets with comments, all padded to words", () => {
		const blocks: Uint8Array[] = [];
		const writer = new PcapngWriter(256, (bytes) => blocks.push(bytes));
		writer.packet("br-lan", 1_000_000.5, Uint8Array.of(0x45, 1, 2), 99, "five!");
		writer.packet("wan0", 1, Uint8Array.of(1), 1, "x");
		writer.packet("br-lan", 2, Uint8Array.of(1), 1, "y");
		const v = blocks.map((b) => new DataView(b.buffer));
		expect(v.map((view) => view.getUint32(0, true))).toEqual([0x0a0d0d0a, 1, 1, 6, 1, 6, 6]);
		// libpcap reads no file whose interfaces differ in link type, or that has none.
		expect([v[1], v[2], v[4]].map((view) => view.getUint16(8, true))).toEqual([228, 228, 228]);
		for (const view of v) {
			expect(view.getUint32(4, true)).toBe(view.byteLength);
			expect(view.getUint32(view.byteLength - 4, true)).toBe(view.byteLength);
			expect(view.byteLength % 4).toBe(0);
		}
		expect(v[3].getUint32(8, true)).toBe(1);
		expect(v[3].getUint32(16, true)).toBe(1_000_000_500);
		expect([v[3].getUint32(20, true), v[3].getUint32(24, true)]).toEqual([3, 99]);
		expect(v[6].getUint32(8, true)).toBe(1);
	});
});

describe("events", () => {
	it("cost nothing without a listener, and are told to each who falls behind how many he has missed", () => {
		const rig = new Rig({ sessions: 4096 });
		const watch = new Watch(rig.context, () => 1000);
		expect(rig.context.events).toBe(null);
		const one = watch.subscribe(false);
		const log = watch.subscribe(true);
		expect(rig.context.events).toBe(watch);
		for (let n = 0; n < 1500; n++) rig.out(udp(`192.168.1.10:${1024 + n}`, "203.0.113.10:9"));
		expect(one.take()[0]).toEqual({ event: "lost", count: 476 });
		let rows = 0;
		while (one.pending) rows += one.take().length;
		expect(rows).toBeGreaterThan(1500);
		while (log.pending)
			for (const row of log.take() as WatchEvent[]) expect(row.event === "mapping-new" || row.event === "lost").toBe(true);
		one.close();
		expect(rig.context.events).toBe(watch);
		log.close();
		expect(rig.context.events).toBe(null);
	});

	it("fit a console with the longest addresses", () => {
		const event: WatchEvent = {
			event: "session-end",
			observationTimeMilliseconds: 1_700_000_000_000,
			natEvent: 5,
			protocolIdentifier: 136,
			sourceIPv4Address: "192.168.255.254",
			sourceTransportPort: 65535,
			postNATSourceIPv4Address: "203.255.113.254",
			postNAPTSourceTransportPort: 65535,
			destinationIPv4Address: "198.251.100.254",
			destinationTransportPort: 65535,
			cause: "wan-address",
			packetsOut: 4294967295,
			packetsIn: 4294967295,
			bytesOut: 1e15,
			bytesIn: 1e15,
		};
		for (const name of ["session-new", "session-end", "mapping-new", "mapping-end"]) {
			const text = renderEvent({ ...event, event: name });
			for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(76);
			expect(text).toContain("192.168.255.254:65535");
		}
		const logged = renderMappingLog({ ...event, event: "mapping-end" });
		expect(logged).toBe("2023-11-14T22:13:20Z - udplite 192.168.255.254:65535 203.255.113.254:65535\n");
		expect(logged.length).toBeLessThanOrEqual(77);
	});
});

describe("rows", () => {
	const far = "255.255.255.255:65535";
	const much = { packetsOut: 2 ** 40, packetsIn: 2 ** 53, bytesOut: 2 ** 53, bytesIn: 999_999 };
	const device = "a-long-named-if";
	const fits = (text: string) => {
		for (const line of text.split("\n")) expect(line.length, line).toBeLessThanOrEqual(76);
		expect(/^[\n -~]*$/.test(text)).toBe(true);
		return text;
	};

	it("fit a console with the longest names, addresses and numbers", () => {
		const state = "syn-received";
		const flow = { id: 65535, protocol: "udplite", internal: far, external: far, peer: far, state, idle: 0, left: 8_640_000, ...much };
		expect(fits(renderFlow(flow))).toContain("out 1.10 T (9.01 PB)  in 9.01 P (1.00 MB)");
		fits(renderMapping({ protocol: "udplite", internal: far, external: far, sessions: 65535, filtering: "address-and-port-dependent" }));
		const limits = { limit: 65535, limitedBy: "table" as const, refused: 2 ** 32 - 1, filtering: "" };
		fits(renderHost({ address: "255.255.255.255", port: device, sessions: 65535, ...limits, bytesOut: 2 ** 53, bytesIn: 2 ** 53 }));
		const words = { reason: "protocol-busy", text: "", remedy: "", ago: 8_640_000, count: 2 ** 31 - 1, length: 65535 };
		const drop = fits(renderDrop({ ...words, port: device, direction: "out", protocol: "icmp-255-255", source: far, destination: far }));
		expect(drop).toContain(`out by ${device}: icmp-255-255 ${far}`);
	});

	it("of the status too", () => {
		const port = { name: device, driver: "packet", up: true, address: "255.255.255.255", mtu: 65535, received: 2 ** 53, sent: 2 ** 53 };
		const text = fits(
			renderStatus({
				version: "0.1.0",
				uptime: 86_400_000,
				ports: [
					{ ...port, role: "wan" },
					{ ...port, name: "br-lan", role: "lan", up: false, address: "" },
				],
				sessions: { used: 65535, total: 65535, byState: { "syn-received": 65535 } },
				tableBytes: 5_242_800,
				hosts: 65535,
				topHosts: [1, 2, 3].map(() => ({ address: "255.255.255.255", sessions: 65535, refused: 2 ** 32 - 1 })),
				externalPorts: ["tcp", "udp", "icmp"].map((protocol) => ({ protocol, free: 64511, total: 64511 })),
				forwarded: { out: 2 ** 53, in: 2 ** 53 },
				rates: { out: 1e7, in: 1e7, dropped: 1e7 },
				offload: {
					mode: "on",
					active: true,
					detail: "tcx",
					flows: 65535,
					capacity: 65535,
					packetsOut: 2 ** 53,
					packetsIn: 2 ** 53,
					past: `${device} has ingress filters of others (tc redirect to ${device}, nft chain netdev banned-addresses ingress_chain)`,
				},
				leftToKernel: 2 ** 53,
				icmpErrorsSent: 2 ** 53,
				drops: [{ reason: "fragment-overload", count: 2 ** 53, text: "Too many.", remedy: "None." }],
				alg: [],
				guard: { lan_unicast: 2 ** 53, claimed_lan: 2 ** 53, claimed_wan: 2 ** 53, leak: 0 },
				warnings: [`the wan device ${device} does not exist: waiting for it`],
				internalErrors: [],
				logLost: 0,
				rssKb: 2 ** 32,
				meter: null,
			}),
		);
		expect(text).toContain(`\nwan ${device}\n              packet, up, 255.255.255.255, mtu 65535\n`);
		expect(text).toContain("\nlan br-lan    packet, DOWN, no address, mtu 65535\n");
	});

	it("round to three digits", () => {
		expect([0, 999, 999.6, 1000, 9994, 9996, 99_960, 999_400, 999_600, 1e18].map(formatBytes)).toEqual(
			"0 B,999 B,1.00 kB,1.00 kB,9.99 kB,10.0 kB,100 kB,999 kB,1.00 MB,1.00 EB".split(","),
		);
		expect([0, 99_999_999, 100_000_000].map(formatCount)).toEqual(["0", "99999999", "100 M"]);
	});
});

describe("remedies", () => {
	const reply = (reason: string, facts: Partial<WhyReply["facts"]>): WhyReply => ({
		packet: { protocol: "udp", source: "203.0.113.30:5000", destination: "203.0.113.1:45000", direction: "in" },
		steps: [],
		verdict: "dropped",
		as: null,
		reason,
		text: "",
		remedy: "",
		answered: false,
		facts: {
			lan: { device: "br-lan", subnets: ["192.168.1.0/24"] },
			sessions: 4096,
			ports: ["32768-65535"],
			maxSessions: 0,
			maxRate: 0,
			hostSessions: 0,
			inside: null,
			redirect: null,
			pool: [],
			...facts,
		},
	});
	const lines = (w: WhyReply) => {
		const section = remedySection(w);
		return section === null ? [] : remedyLines(section);
	};

	it("a redirect for a port that nobody has asked for", () => {
		expect(lines(reply("no-mapping", {}))).toEqual([
			"config redirect",
			"	option name 'udp-45000'",
			"	option proto 'udp'",
			"	option src_dport '45000'",
			"	option dest_ip '192.168.1.10'",
			"	option dest_port '45000'",
		]);
	});
	it("a redirect that is there, for one more source", () => {
		const redirect = { proto: "udp", src_dport: "45000", dest_ip: "192.168.1.20", dest_port: "22" };
		expect(lines(reply("filtered", { redirect }))).toContain("	option src_ip '203.0.113.30'");
	});
	it("more ports from the largest gap, the lower half of which stays the router's", () => {
		expect(lines(reply("ports-exhausted", {}))).toEqual([
			"config masqd 'main'",
			"	list ports '32768-65535'",
			"	list ports '16896-32767'",
		]);
		expect(lines(reply("ports-exhausted", { ports: ["1024-65535"] }))).toEqual([]);
	});
	it("no table beyond the largest", () => {
		expect(lines(reply("table-full", { sessions: 65535 }))).toEqual([]);
		expect(lines(reply("host-share", {}))).toEqual(["config masqd 'main'", "	option sessions '8192'"]);
	});
});
