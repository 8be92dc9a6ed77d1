import { describe, expect, it } from "vitest";
import { describePlan } from "../../src/config/describe.ts";
import { MAX_LANS } from "../../src/config/limits.ts";
import { autoSessions, makePlan, type Plan, type PlanResult } from "../../src/config/plan.ts";
import { Refusal, SECTIONS, type SectionSpec } from "../../src/config/schema.ts";
import { formatErrors } from "../../src/config/uci.ts";
import { mutate, seededRandom } from "./mutation.ts";
import { rounds } from "./rounds.ts";

const PORTS = "config wan\noption device wan0\nconfig lan 'home'\noption device lan0\n";
/** Lines that PORTS takes. */
const HEAD = 4;

function make(text: string, memTotalKb = 131072): PlanResult {
	return makePlan(text, "t", { memTotalKb });
}

/** The plan of PORTS and more; there must be neither error nor warning. */
function planOf(more: string): Plan {
	const { plan, errors, warnings } = make(PORTS + more);
	expect([...errors, ...warnings]).toEqual([]);
	expect(plan === null).toBe(false);
	return plan!;
}

/** Errors and warnings of PORTS and more, line 1 being the first of `more`. */
function findingsOf(more: string): string[] {
	const { plan, errors, warnings } = make(PORTS + more);
	expect(plan === null).toBe(errors.length > 0);
	return [
		...errors.map(({ line, section, option, message }) => `${line - HEAD} ${section} ${option}: ${message}`),
		...warnings.map(({ line, section, option, message }) => `${line - HEAD} ${section} ${option}: warning: ${message}`),
	];
}

/** A section of anonymous type with options, as text. */
function section(type: string, options: Record<string, string>): string {
	return `config ${type}\n${Object.entries(options)
		.map(([name, value]) => `option ${name} '${value}'\n`)
		.join("")}`;
}

describe("option tables", () => {
	it("have defaults that their types take, and help in one line", () => {
		for (const spec of Object.values<SectionSpec>(SECTIONS)) {
			for (const [name, option] of Object.entries(spec.options)) {
				expect(name).toMatch(/^[a-z][a-z_]*$/);
				expect(option.help.length).toBeGreaterThan(5);
				expect(option.help.length).toBeLessThanOrEqual(100);
				const defaults = option.kind === "list" ? option.default : option.default === null ? [] : [option.default];
				for (const text of defaults) expect(option.type.parse(text) instanceof Refusal).toBe(false);
			}
		}
	});

	it("have timeouts no lower than the RFCs ask for", () => {
		for (const option of Object.values(SECTIONS.timeouts.options)) {
			expect(Number(option.default)).toBeGreaterThanOrEqual(option.floor?.value ?? 1);
		}
	});
});

describe("the plan", () => {
	it("of two ports has every default", () => {
		expect(planOf("")).toEqual({
			enabled: false,
			sessions: 4096,
			ports: [
				{ first: 123, last: 123 },
				{ first: 500, last: 500 },
				{ first: 512, last: 9999 },
				{ first: 27000, last: 65535 },
			],
			filtering: "address-and-port-dependent",
			maxSessions: 0,
			maxRate: 0,
			refusal: "host-unreachable",
			unsolicitedSyn: "reject",
			hairpin: "same-lan",
			blockPrivate: false,
			icmpRate: 20,
			offload: "auto",
			algFtp: true,
			algTftp: false,
			wan: { device: "wan0", interface: "" },
			lan: [{ device: "lan0", interface: "", driver: "tun", subnets: [], pcp: false }],
			statics: [],
			pools: [],
			redirects: [],
			hosts: [],
			exempts: [],
			timeouts: { udp: 300, dns: 2, icmp: 60, tcp_opening: 240, tcp_established: 7440, tcp_closing: 240, tcp_reset: 240, other: 300 },
		});
	});

	it("has addresses as numbers and remembers where things are", () => {
		const plan = planOf(
			section("static", { internal: "192.168.1.10", external: "203.0.113.10" }) +
				section("redirect", {
					src_dport: "2222",
					dest_ip: "192.168.1.20",
					dest_port: "22",
					src_ip: "198.51.100.7",
					proto: "tcp",
					name: "ssh",
				}),
		);
		expect(plan.statics).toEqual([
			{ internal: 0xc0a8010a, external: 0xcb00710a, where: { file: "t", line: HEAD + 1, section: "@static[0]" } },
		]);
		expect(plan.redirects).toEqual([
			{
				name: "ssh",
				protocols: ["tcp"],
				externalPorts: { first: 2222, last: 2222 },
				internal: 0xc0a80114,
				internalFirst: 22,
				source: { address: 0xc6336407, mask: 0xffffffff, prefix: 32 },
				where: { file: "t", line: HEAD + 4, section: "@redirect[0]" },
			},
		]);
	});

	it("takes an empty value as not given", () => {
		expect(planOf("config masqd\noption sessions ''\noption filtering ''\noption ports ''").sessions).toBe(4096);
	});

	it("takes 'package masqd' and no other", () => {
		expect(planOf("package masqd").enabled).toBe(false);
		expect(findingsOf("package firewall")).toEqual(["1  : package 'firewall' is not ours, expected 'masqd'"]);
	});

	it("takes the truth values of firewall4", () => {
		for (const word of ["1", "on", "true", "yes"]) expect(planOf(section("masqd", { enabled: word })).enabled).toBe(true);
		for (const word of ["0", "off", "false", "no"]) expect(planOf(section("masqd", { enabled: word })).enabled).toBe(false);
		expect(findingsOf(section("masqd", { enabled: "TRUE" }))).toHaveLength(1);
	});
});

describe("sessions", () => {
	it("auto is one for 32 kB, 1024 to 16384", () => {
		expect(autoSessions(0)).toBe(1024);
		expect(autoSessions(Number.NaN)).toBe(1024);
		expect(autoSessions(65536)).toBe(2048);
		expect(autoSessions(65567)).toBe(2048);
		expect(autoSessions(125000)).toBe(4096);
		// Routers of 32, 64, 128, 256 and 512 MB, as their kernels report them.
		expect([27796, 58916, 124108, 249028, 507332].map(autoSessions)).toEqual([1024, 2048, 4096, 8192, 16384]);
		expect(autoSessions(1 << 23)).toBe(16384);
		expect(make(PORTS, 65536).plan!.sessions).toBe(2048);
	});

	it("are 256 to 65535", () => {
		expect(planOf(section("masqd", { sessions: "256" })).sessions).toBe(256);
		expect(planOf(section("masqd", { sessions: "65535" })).sessions).toBe(65535);
		for (const text of ["255", "65536", "99999999999", "-1", "4k", "0x1000", "1e3", "04096", "AUTO"]) {
			const [finding] = findingsOf(section("masqd", { sessions: text }));
			expect(finding).toContain("2 @masqd[0] sessions: ");
			expect(finding).toContain(", expected auto or 256 to 65535");
		}
	});
});

describe("ports of the WAN port", () => {
	it("are merged and sorted", () => {
		expect(planOf("config masqd\nlist ports 500-600\nlist ports '100 601-700'\nlist ports 550-620\nlist ports 65535").ports).toEqual([
			{ first: 100, last: 100 },
			{ first: 500, last: 700 },
			{ first: 65535, last: 65535 },
		]);
	});

	it("are within 1 to 65535 and in order", () => {
		for (const text of ["0-5", "1-65536", "9-8", "1-2-3", "-5", "5-", "a", "1,2", "!5"]) {
			expect(findingsOf(section("masqd", { ports: text }))).toHaveLength(1);
		}
	});
});

describe("LAN and WAN ports", () => {
	it("are one WAN port and at least one LAN port", () => {
		expect(formatErrors(make("# nothing\n\n").errors)).toBe(
			"t:2: no section of type 'wan', expected exactly one\nt:2: no section of type 'lan', expected at least one\n",
		);
		expect(findingsOf("config wan\noption device wan1")).toEqual([
			"1 @wan[1] : another section of type 'wan', expected only one (it is in line 1)",
		]);
		expect(planOf("config lan\noption device lan1").lan).toHaveLength(2);
	});

	it("are no more than the poll set has room for", () => {
		const lans = (count: number) => Array.from({ length: count }, (_, n) => `config lan\noption device eth${n + 1}.7\n`).join("");
		expect(planOf(lans(MAX_LANS - 1)).lan).toHaveLength(MAX_LANS);
		expect(findingsOf(`${lans(MAX_LANS - 1)}config lan\noption interface guest`)).toEqual([
			`${2 * MAX_LANS - 1} @lan[${MAX_LANS}] interface: section number 65 or more of type 'lan', expected at most 64`,
		]);
	});

	it("are named by device, netifd's name being extra then", () => {
		expect(planOf("config lan\noption interface guest\noption device lan1").lan[1]).toEqual({
			device: "lan1",
			interface: "guest",
			driver: "tun",
			subnets: [],
			pcp: false,
		});
	});

	it("may be named by netifd's name alone; the device is found out later", () => {
		expect(planOf("config lan\noption interface guest").lan[1]).toEqual({
			device: "",
			interface: "guest",
			driver: "tun",
			subnets: [],
			pcp: false,
		});
		expect(findingsOf("config lan\noption driver tun")).toEqual([
			"1 @lan[1] interface: missing, expected option 'interface' with netifd's name, or option 'device'",
		]);
		expect(findingsOf("config lan\noption interface guest\nconfig lan\noption interface guest")).toEqual([
			"4 @lan[2] interface: interface 'guest' is used by section '@lan[1]' in line 6 too, expected another one",
		]);
	});

	it("have the daemon's pcp unless they say otherwise", () => {
		const asked = (text: string) => planOf(text).lan.map((l) => l.pcp);
		expect(asked("config masqd\noption pcp 1\nconfig lan\noption device lan1\noption pcp 0")).toEqual([true, false]);
		expect(asked("config lan\noption device lan1\noption pcp 1")).toEqual([false, true]);
	});

	it("have different devices", () => {
		expect(findingsOf("config lan\noption device wan0\nconfig lan\noption device lan0")).toEqual([
			"2 @lan[1] device: device 'wan0' is used by section '@wan[0]' in line 2 too, expected another one",
			"4 @lan[2] device: device 'lan0' is used by section 'home' in line 4 too, expected another one",
		]);
	});

	it("have names that the kernel takes", () => {
		for (const name of ["eth0.2", "pppoe-wan", "br-lan", "phy0-ap0", "a", "123456789012345"]) {
			expect(planOf(section("lan", { device: name })).lan[1]!.device).toBe(name);
		}
		for (const name of [".", "..", "a/b", "a b", "1234567890123456", "a:1", 'a"', "eth*", "a;b"]) {
			expect(findingsOf(section("lan", { device: name }))).toHaveLength(1);
		}
	});

	it("have subnets that do not overlap", () => {
		expect(findingsOf("list subnet 192.168.0.0/16\nconfig lan\noption device lan1\noption subnet '10.0.0.0/8 192.168.3.0/24'")).toEqual([
			"4 @lan[1] subnet: 192.168.3.0/24 overlaps 192.168.0.0/16 of section 'home' in line 5",
		]);
		expect(findingsOf("list subnet 192.168.1.0/24\nlist subnet 192.168.1.0/24")).toHaveLength(1);
		expect(findingsOf("list subnet 192.168.1.1/24")).toEqual([
			"1 home subnet: '192.168.1.1/24' has host bits set (its subnet is 192.168.1.0/24), expected a subnet such as 192.168.1.0/24",
		]);
		for (const text of ["0.0.0.0/0", "224.0.0.0/4", "127.0.0.0/8", "fe80::/10"]) expect(findingsOf(`list subnet ${text}`)).toHaveLength(1);
	});
});

describe("names and forms", () => {
	it("of unknown sections and options are errors with the nearest name", () => {
		expect(findingsOf("config redirct\noption anything 1")).toEqual([
			"1 @redirct[0] : unknown section type 'redirct', did you mean 'redirect'?",
		]);
		expect(findingsOf("config zone")[0]).toContain("unknown section type 'zone', expected one of masqd, wan, lan, static,");
		expect(findingsOf("option drivr packet")).toEqual(["1 home drivr: unknown option, did you mean 'driver'?"]);
		expect(findingsOf("option mtu 1500")).toEqual(["1 home mtu: unknown option, expected one of interface, device, driver, subnet, pcp"]);
		expect(findingsOf("option constructor 1\nconfig toString")).toHaveLength(2);
	});

	it("misspelt are not missing as well", () => {
		expect(findingsOf("config exempt\noption dset 198.51.100.0/24")).toEqual(["2 @exempt[0] dset: unknown option, did you mean 'dest'?"]);
		expect(findingsOf("config exempt\noption dest '198.51.100.0/24")).toHaveLength(1);
	});

	it("of options that firewall4 has and masqd has not say why", () => {
		expect(findingsOf(`${section("redirect", { src_dport: "1", dest_ip: "192.168.1.2" })}option target DNAT`)).toEqual([
			"4 @redirect[0] target: unknown option, a redirect is always DNAT, leave it out",
		]);
	});

	it("may be given twice, as in libuci: the last option counts, and a list goes on after it", () => {
		const twice = planOf("option driver packet\noption driver tun\noption driver packet");
		expect(twice.lan[0]!.driver).toBe("packet");
		// The one that counts is judged.
		expect(findingsOf("option driver bridge\noption driver packet")).toEqual([]);
		expect(findingsOf("option driver tun\noption driver bridge")).toEqual([
			"2 home driver: 'bridge' is not a valid choice, expected tun, packet or kernel",
		]);
		const subnets = (text: string) => planOf(text).lan[0]!.subnets.map((s) => s.address >>> 24);
		expect(subnets("option subnet 10.0.0.0/8\noption subnet 11.0.0.0/8")).toEqual([11]);
		expect(subnets("option subnet 10.0.0.0/8\nlist subnet 11.0.0.0/8")).toEqual([10, 11]);
		expect(subnets("list subnet 10.0.0.0/8\noption subnet 11.0.0.0/8\nlist subnet 12.0.0.0/8")).toEqual([11, 12]);
	});

	it("of sections may be there once", () => {
		expect(findingsOf("config masqd\nconfig masqd 'b'\nconfig timeouts\nconfig timeouts")).toHaveLength(2);
	});

	it("of values may have lines, which mean as little as blanks", () => {
		expect(planOf("list subnet '10.0.0.0/8\n  11.0.0.0/8'\noption driver \"packet\n\"").lan[0]).toMatchObject({
			driver: "packet",
			subnets: [{ prefix: 8 }, { prefix: 8 }],
		});
		expect(planOf(section("redirect", { name: "a\nb", src_dport: "1", dest_ip: "192.168.1.2" })).redirects[0]!.name).toBe("a b");
	});

	it("of truth values are those that OpenWrt's scripts know", () => {
		for (const [text, offload] of [
			["0", "off"],
			["no", "off"],
			["disabled", "off"],
			["1", "on"],
			["on", "on"],
			["true", "on"],
			["auto", "auto"],
		])
			expect(planOf(`config masqd\noption offload '${text}'`).offload).toBe(offload);
		expect(findingsOf("config masqd\noption offload maybe")).toEqual([
			"2 @masqd[0] offload: 'maybe' is not a valid choice, expected auto, on or off",
		]);
		expect(planOf("config masqd\noption enabled 'enabled'").enabled).toBe(true);
	});

	it.each([
		["redirect", { src_dport: "8080", dest_ip: "192.168.1.2" }, "redirects"],
		["static", { internal: "192.168.1.2", external: "203.0.113.2" }, "statics"],
		["pool", { external: "203.0.113.2" }, "pools"],
		["host", { ip: "192.168.1.2", max_rate: "5" }, "hosts"],
		["exempt", { dest: "198.51.100.0/24" }, "exempts"],
	] as const)("option enabled in a %s, as LuCI writes it", (type, options, list) => {
		const written = (enabled: string) => section(type, { ...options, enabled } as unknown as Record<string, string>);
		expect(planOf(written("1"))[list]).toHaveLength(1);
		// One that is switched off may be written again, or be half done.
		expect(planOf(written("0") + written("1") + written("no"))[list]).toHaveLength(1);
		expect(planOf(`config ${type}\noption enabled no`)[list]).toHaveLength(0);
		expect(findingsOf(written("perhaps"))).toHaveLength(1);
	});

	it("option enabled in a lan leaves the others", () => {
		expect(planOf("config lan guest\noption device home0\noption enabled 0").lan).toHaveLength(1);
		expect(findingsOf("option enabled 0")).toEqual(["1  : no section of type 'lan', expected at least one"]);
	});

	it("take a list as an option with spaces, and no option as a list", () => {
		expect(planOf(section("redirect", { proto: "tcp  udp", src_dport: "1", dest_ip: "192.168.1.2" })).redirects[0]!.protocols).toEqual([
			"tcp",
			"udp",
		]);
		expect(findingsOf("list driver tun")).toEqual(["1 home driver: must not be a list, expected: option driver 'tun'"]);
		expect(findingsOf("list subnet ''")).toHaveLength(1);
	});
});

describe("static NAT", () => {
	it("needs both addresses", () => {
		expect(findingsOf("config static")).toEqual([
			"1 @static[0] internal: missing, expected an address such as 192.168.1.10",
			"1 @static[0] external: missing, expected an address such as 192.168.1.10",
		]);
	});

	it("has each address once", () => {
		expect(
			findingsOf(
				section("static", { internal: "192.168.1.10", external: "203.0.113.10" }) +
					section("static", { internal: "192.168.1.10", external: "203.0.113.10" }) +
					section("static", { internal: "192.168.1.12", external: "192.168.1.12" }),
			),
		).toEqual([
			"5 @static[1] internal: 192.168.1.10 is in section '@static[0]' in line 6 too, expected once",
			"6 @static[1] external: 203.0.113.10 overlaps 203.0.113.10 of section '@static[0]' in line 7",
			"9 @static[2] external: is the same as internal, expected another address",
		]);
	});

	it("takes addresses of hosts only", () => {
		for (const address of ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "1.2.3", "host"]) {
			expect(findingsOf(section("static", { internal: address, external: "203.0.113.10" }))).toHaveLength(1);
		}
	});

	it("has no external address in a LAN", () => {
		expect(findingsOf(`list subnet 192.168.1.0/24\n${section("static", { internal: "192.168.1.10", external: "192.168.1.11" })}`)).toEqual([
			"4 @static[0] external: 192.168.1.11 is in the LAN subnet 192.168.1.0/24, expected addresses outside",
		]);
	});
});

describe("pools", () => {
	it("are ranges, subnets and addresses", () => {
		const [pool] = planOf(
			"config pool\nlist external 203.0.113.2\nlist external 203.0.113.8/30\nlist external 203.0.113.16-203.0.113.17",
		).pools;
		expect(pool!.external).toEqual([
			{ first: 0xcb007102, last: 0xcb007102 },
			{ first: 0xcb007108, last: 0xcb00710b },
			{ first: 0xcb007110, last: 0xcb007111 },
		]);
		expect(pool!.internal).toEqual([]);
		expect(pool!.overload).toBe(true);
	});

	it("run forwards and not forever", () => {
		expect(findingsOf("config pool\nlist external 203.0.113.9-203.0.113.8")[0]).toContain("is reversed");
		expect(findingsOf("config pool\nlist external 203.0.0.0/16")[0]).toContain("more than 256 addresses");
		expect(findingsOf("config pool\nlist external 203.0.113.0/24\nlist external 198.51.100.1")[0]).toContain(
			"hold more than 256 addresses",
		);
		expect(findingsOf("config pool")).toHaveLength(1);
	});

	it("do not overlap each other or static NAT", () => {
		const text = `${section("static", { internal: "192.168.1.10", external: "203.0.113.10" })}config pool
list internal 192.168.1.0/24
list external 203.0.113.0/28
list external 203.0.113.16-203.0.113.31
list external 203.0.113.20
config pool
list internal 192.168.1.128/25
list external 203.0.113.31-203.0.113.40
`;
		expect(findingsOf(text)).toEqual([
			"6 @pool[0] external: 203.0.113.0-203.0.113.15 overlaps 203.0.113.10 of section '@static[0]' in line 7",
			"8 @pool[0] external: 203.0.113.20 overlaps 203.0.113.16-203.0.113.31 of line 11",
			"10 @pool[1] internal: 192.168.1.128/25 overlaps 192.168.1.0/24 of section '@pool[0]' in line 9",
			"11 @pool[1] external: 203.0.113.31-203.0.113.40 overlaps 203.0.113.16-203.0.113.31 of section '@pool[0]' in line 11",
		]);
	});

	it("for every host come last", () => {
		const all = section("pool", { external: "203.0.113.1" });
		const some = section("pool", { external: "203.0.113.2", internal: "192.168.1.0/24" });
		expect(planOf(some + all).pools).toHaveLength(2);
		expect(findingsOf(all + some)).toEqual(["3 @pool[1] : is never used: the pool in line 5 takes every host, expected that one last"]);
	});
});

describe("redirects", () => {
	const to = { dest_ip: "192.168.1.20" };

	it("forward both protocols to the same port by default", () => {
		const [redirect] = planOf(section("redirect", { ...to, src_dport: "5000-5010" })).redirects;
		expect(redirect!.protocols).toEqual(["tcp", "udp"]);
		expect(redirect!.externalPorts).toEqual({ first: 5000, last: 5010 });
		expect(redirect!.internalFirst).toBe(5000);
		expect(redirect!.source).toBeNull();
		expect(redirect!.name).toBe("");
	});

	it("take firewall4's forms", () => {
		const [redirect] = planOf(section("redirect", { ...to, src_dport: "5000:5010", proto: "tcpudp tcp", src_ip: "0.0.0.0/0" })).redirects;
		expect(redirect!.protocols).toEqual(["tcp", "udp"]);
		expect(redirect!.externalPorts).toEqual({ first: 5000, last: 5010 });
		expect(redirect!.source).toBeNull();
	});

	it("need src_dport and dest_ip", () => {
		expect(findingsOf("config redirect\noption name x")).toEqual([
			"1 @redirect[0] src_dport: missing, expected a port or a range such as 5000-5010, within 1 to 65535",
			"1 @redirect[0] dest_ip: missing, expected an address such as 192.168.1.10",
		]);
	});

	it("map ranges in step", () => {
		expect(planOf(section("redirect", { ...to, src_dport: "100-109", dest_port: "65526" })).redirects[0]!.internalFirst).toBe(65526);
		expect(planOf(section("redirect", { ...to, src_dport: "100-109", dest_port: "200-209" })).redirects[0]!.internalFirst).toBe(200);
		expect(findingsOf(section("redirect", { ...to, src_dport: "100-109", dest_port: "65527" }))).toEqual([
			"4 @redirect[0] dest_port: 10 ports from 65527 on run beyond 65535, expected 65526 or less",
		]);
		expect(findingsOf(section("redirect", { src_dport: "100-109", dest_port: "200-210", ...to }))).toEqual([
			"3 @redirect[0] dest_port: 200-210 has another length than src_dport 100-109, expected the first port",
		]);
	});

	it("of one protocol and source do not overlap", () => {
		const first = section("redirect", { src_dport: "8000-8010", ...to, proto: "tcp" });
		expect(findingsOf(first + section("redirect", { src_dport: "8010-8020", ...to }))).toEqual([
			"6 @redirect[1] src_dport: tcp 8010-8020 overlaps tcp 8000-8010 of section '@redirect[0]' in line 5, expected other ports or another src_ip",
		]);
		expect(findingsOf(first + section("redirect", { src_dport: "8000-8010", ...to, proto: "udp" }))).toEqual([]);
		expect(findingsOf(first + section("redirect", { src_dport: "8011", ...to }))).toEqual([]);
	});

	it("of sources that differ but overlap are a warning", () => {
		const narrow = section("redirect", { src_dport: "22", ...to, src_ip: "198.51.100.0/24" });
		expect(findingsOf(narrow + section("redirect", { src_dport: "22", ...to }))).toEqual([
			"6 @redirect[1] src_dport: warning: tcp 22 overlaps tcp 22 of section '@redirect[0]' in line 5 for some peers; there the earlier one is used",
		]);
		expect(findingsOf(narrow + section("redirect", { src_dport: "22", ...to, src_ip: "203.0.113.0/24" }))).toEqual([]);
		expect(findingsOf(narrow + narrow)).toHaveLength(1);
	});
});

describe("hosts and exemptions", () => {
	it("are given once", () => {
		const host = section("host", { ip: "192.168.1.50", max_sessions: "512" });
		expect(planOf(host).hosts[0]!.maxSessions).toBe(512);
		expect(planOf(host).hosts[0]!.filtering).toBeNull();
		expect(findingsOf(host + host)).toEqual(["5 @host[1] ip: 192.168.1.50 is in section '@host[0]' in line 6 too, expected once"]);
		const exempt = section("exempt", { dest: "198.51.100.0/24" });
		expect(planOf(exempt).exempts[0]!.dest).toEqual({ address: 0xc6336400, mask: 0xffffff00, prefix: 24 });
		expect(findingsOf(exempt + section("exempt", { dest: "198.51.100.0/255.255.255.0" }))).toHaveLength(1);
	});

	it("are warned of when without effect", () => {
		expect(findingsOf(section("host", { ip: "192.168.1.50" }))).toEqual([
			"1 @host[0] : warning: has neither filtering nor max_sessions nor max_rate and so no effect",
		]);
		expect(findingsOf(section("host", { ip: "192.168.1.50", max_sessions: "5000" }))).toEqual([
			"3 @host[0] max_sessions: warning: 5000 is more than the 4096 sessions of the table",
		]);
	});

	it("do not exempt everything", () => {
		expect(findingsOf(section("exempt", { dest: "0.0.0.0/0" }))).toHaveLength(1);
	});

	it("outside every LAN subnet are warned of", () => {
		expect(findingsOf(`list subnet 192.168.1.0/24\n${section("host", { ip: "192.168.2.50", max_sessions: "64" })}`)).toEqual([
			"3 @host[0] ip: warning: 192.168.2.50 is in no LAN subnet",
		]);
	});
});

describe("timeouts", () => {
	it("are seconds, at least one", () => {
		expect(planOf(section("timeouts", { udp: "600", other: "1", dns: "1" })).timeouts).toEqual({
			udp: 600,
			dns: 1,
			icmp: 60,
			tcp_opening: 240,
			tcp_established: 7440,
			tcp_closing: 240,
			tcp_reset: 240,
			other: 1,
		});
		for (const text of ["0", "-1", "5m", "604801"]) expect(findingsOf(section("timeouts", { udp: text }))).toHaveLength(1);
	});

	it("below an RFC's floor are taken with a warning", () => {
		const low = { udp: "119", icmp: "59", tcp_opening: "239", tcp_established: "7439", tcp_closing: "239", tcp_reset: "239" };
		expect(findingsOf(section("timeouts", low))).toEqual([
			"2 @timeouts[0] udp: warning: 119 s is below the RFC 4787 REQ-5 minimum of 120 s",
			"3 @timeouts[0] icmp: warning: 59 s is below the RFC 5508 REQ-2 minimum of 60 s",
			"4 @timeouts[0] tcp_opening: warning: 239 s is below the RFC 5382 REQ-5 minimum of 240 s",
			"5 @timeouts[0] tcp_established: warning: 7439 s is below the RFC 5382 REQ-5 minimum of 7440 s",
			"6 @timeouts[0] tcp_closing: warning: 239 s is below the RFC 5382 REQ-5 minimum of 240 s",
			"7 @timeouts[0] tcp_reset: warning: 239 s is below the RFC 7857 2.2 minimum of 240 s",
		]);
		expect(make(PORTS + section("timeouts", low)).plan!.timeouts.udp).toBe(119);
	});
});

const LONG = `${PORTS}${Array.from({ length: 20 }, (_, i) => `list subnet 10.${i}.0.0/16\n`).join("")}
config masqd; option ports '${Array.from({ length: 60 }, (_, i) => 1000 + i * 2).join(" ")}'
config redirect; option name '${"n".repeat(64)}'; option src_dport 10000-20000; option dest_ip 10.1.250.250
option dest_port 30000; option src_ip 198.51.100.128/25
config redirect; option name 'caf\u00e9 ${"w ".repeat(25)}'; option src_dport 1; option dest_ip 10.1.0.1
config pool; option external '${Array.from({ length: 30 }, (_, i) => `203.0.113.${i * 2}`).join(" ")}'
config host; option ip 10.1.250.250; option filtering address-and-port-dependent; option max_sessions 4096
`;

describe("the description", () => {
	it("names the table's size and every timeout", () => {
		const text = describePlan(planOf(""), 4096 * 72 + 100);
		expect(text).toContain("conntrack table: 4096 sessions, 295012 bytes (72.0 bytes a session)\n");
		for (const name of Object.keys(SECTIONS.timeouts.options)) {
			expect(text.split("\n").find((line) => line.startsWith(`  ${name} `))).toMatch(/^ {2}\w+ +\d+ s {3}/);
		}
	});

	it("is ASCII in at most 76 columns", () => {
		const { plan, errors } = make(LONG);
		expect(errors).toEqual([]);
		const text = describePlan(plan!, 65535 * 80);
		expect(text).toMatch(/^[\n\x20-\x7e]*\n$/);
		for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(76);
	});

	it("has errors one a line", () => {
		expect(formatErrors([])).toBe("");
		expect(formatErrors(make(`${PORTS}option drivr tun\nconfig zon`).errors)).toBe(
			"t:5: section 'home' option 'drivr': unknown option, did you mean 'driver'?\n" +
				"t:6: section '@zon[0]': unknown section type 'zon', expected one of masqd, wan, lan, static, pool, redirect, host, exempt, timeouts\n",
		);
	});
});

describe("any text", () => {
	it("gives a plan or errors, never both or neither, and does not throw", () => {
		const random = seededRandom(1);
		let plans = 0;
		for (let i = 0; i < rounds(1000); i++) {
			const { plan, errors } = make(mutate(LONG, random));
			expect(plan === null).toBe(errors.length > 0);
			if (plan !== null) plans++;
			const text = plan === null ? formatErrors(errors) : describePlan(plan, plan.sessions * 72);
			expect(text.length).toBeGreaterThan(0);
		}
		expect(plans).toBeGreaterThan(0);
	});
});
