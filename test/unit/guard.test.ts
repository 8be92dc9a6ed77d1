import { describe, expect, it } from "vitest";
import { type GuardFacts, guardRuleset, installGuard, learnedFlows, removeGuard } from "../../src/kernel/guard.ts";
import { parseAddress, parseSubnet, type Subnet } from "../../src/packet/address.ts";

const address = (text: string): number => parseAddress(text) as number;
const subnet = (text: string): Subnet => parseSubnet(text) as Subnet;

const FACTS: GuardFacts = {
	lan: [
		{ device: "br-lan", driver: "packet", tun: "" },
		{ device: "br-guest", driver: "tun", tun: "masq0", nets: [subnet("192.168.2.0/24")] },
	],
	wanDevice: "pppoe-wan",
	externals: [address("203.0.113.1")],
	ownedExternals: [
		{ first: address("203.0.113.16"), last: address("203.0.113.31") },
		{ first: address("203.0.113.10"), last: address("203.0.113.10") },
	],
	portRanges: [{ first: 32768, last: 65535 }],
	forwards: [
		{ proto: 6, first: 2222, last: 2222 },
		{ proto: 17, first: 5000, last: 5009 },
		{ proto: 6, first: 40000, last: 40000 },
	],
	elsewhere: [subnet("192.168.1.0/24"), subnet("192.168.2.0/24"), subnet("10.8.0.0/16")],
	internal: [subnet("192.168.1.0/24"), subnet("192.168.2.0/24")],
	exemptSources: [subnet("198.51.100.8/29")],
	exemptDestinations: [subnet("198.51.100.128/25")],
	ownAddresses: [address("192.168.1.1"), address("192.168.2.1"), address("203.0.113.1")],
};

const GOLDEN = `add table inet masqd
delete table inet masqd
table inet masqd {
	counter lan_unicast {
	}
	counter claimed_lan {
	}
	counter claimed_wan {
	}
	counter owned {
	}
	counter inbound {
	}
	counter refused {
	}
	counter leak {
	}
	counter own_full {
	}
	set elsewhere {
		type ipv4_addr
		flags interval
		elements = { 10.8.0.0-10.8.255.255, 192.168.1.0-192.168.2.255 }
	}
	set externals {
		type ipv4_addr
		flags interval
		elements = { 203.0.113.1 }
	}
	set owned_externals {
		type ipv4_addr
		flags interval
		elements = { 203.0.113.10, 203.0.113.16-203.0.113.31 }
	}
	set claimed_tcp {
		type inet_service
		flags interval
		elements = { 2222, 32768-65535 }
	}
	set claimed_udp {
		type inet_service
		flags interval
		elements = { 5000-5009, 32768-65535 }
	}
	set may_leave {
		type ipv4_addr
		flags interval
		elements = { 0.0.0.0, 198.51.100.8-198.51.100.15, 203.0.113.1 }
	}
	set exempt_destinations {
		type ipv4_addr
		flags interval
		elements = { 198.51.100.128-198.51.100.255 }
	}
	set inside {
		type ipv4_addr
		flags interval
		elements = { 192.168.1.0-192.168.2.255 }
	}
	set handed {
		type ipv4_addr
		flags interval
	}
	set undiverted {
		type ipv4_addr
		flags interval
	}
	set own_flows {
		type ipv4_addr . inet_proto . inet_service . inet_service
		size 16384
		flags dynamic,timeout
		timeout 200s
	}
	set lan_flows {
		type ipv4_addr . inet_proto . inet_service . inet_service
		size 16384
		flags dynamic,timeout
		timeout 200s
	}
	set cut {
		typeof ip saddr . ip protocol . ip id
		size 4096
		flags dynamic,timeout
		timeout 2s
		gc-interval 100ms
	}
	set fragment_peers {
		type ipv4_addr
		size 256
		flags dynamic,timeout
		timeout 60s
	}
	set own_pings {
		typeof ip daddr . icmp id
		size 1024
		flags dynamic,timeout
		timeout 60s
	}
	chain first_fragment {
		tcp dport @claimed_tcp ip saddr . meta l4proto . th dport . th sport != @own_flows ip saddr . meta l4proto . th dport . th sport != @lan_flows goto cut_first
		udp dport @claimed_udp ip saddr . meta l4proto . th dport . th sport != @own_flows ip saddr . meta l4proto . th dport . th sport != @lan_flows goto cut_first
		update @fragment_peers { ip saddr }
	}
	chain cut_first {
		update @cut { ip saddr . ip protocol . ip id }
		counter name claimed_wan drop
	}
	chain cut_later {
		ip frag-off & 0x2000 == 0 delete @cut { ip saddr . ip protocol . ip id }
		drop
	}
	chain learn_lan {
		meta l4proto tcp ct expiration > 300s update @lan_flows { ip daddr . meta l4proto . th sport . th dport timeout 7440s } return
		ct state new ct original ip saddr != @externals update @lan_flows { ip daddr . meta l4proto . th sport . th dport timeout 60s } return
		meta l4proto tcp ct expiration < 11s update @lan_flows { ip daddr . meta l4proto . th sport . th dport timeout 15s } return
		update @lan_flows { ip daddr . meta l4proto . th sport . th dport } return
		counter name own_full
	}
	chain learn {
		ct original ip saddr @handed goto learn_lan
		ct original ip saddr @inside return
		meta l4proto tcp ct expiration > 300s update @own_flows { ip daddr . meta l4proto . th sport . th dport timeout 7440s } return
		ct state new ct original ip saddr != @externals update @own_flows { ip daddr . meta l4proto . th sport . th dport timeout 60s } return
		meta l4proto tcp ct expiration < 11s update @own_flows { ip daddr . meta l4proto . th sport . th dport timeout 15s } return
		update @own_flows { ip daddr . meta l4proto . th sport . th dport } return
		counter name own_full
	}
	chain from_wan {
		tcp dport @claimed_tcp ip daddr @externals ip frag-off & 0x3fff == 0 ip saddr . meta l4proto . th dport . th sport != @own_flows ip saddr . meta l4proto . th dport . th sport != @lan_flows counter name claimed_wan drop
		udp dport @claimed_udp ip daddr @externals ip frag-off & 0x3fff == 0 ip saddr . meta l4proto . th dport . th sport != @own_flows ip saddr . meta l4proto . th dport . th sport != @lan_flows counter name claimed_wan drop
		ip frag-off & 0x3fff == 0x2000 ip daddr @externals jump first_fragment
		ip frag-off & 0x1fff != 0 ip daddr @externals ip saddr . ip protocol . ip id @cut goto cut_later
		ip frag-off & 0x1fff != 0 ip daddr @externals ip saddr != @fragment_peers meta l4proto { tcp, udp } limit rate over 64/second burst 256 packets drop
		ip daddr @externals ip frag-off & 0x3fff == 0 icmp type echo-reply icmp id { 32768-65535 } ip saddr . icmp id != @own_pings counter name claimed_wan drop
		ip daddr @owned_externals counter name owned drop
	}
	chain claimed_lan {
		tcp dport @claimed_tcp ip frag-off & 0x1fff == 0 counter name claimed_lan drop
		udp dport @claimed_udp ip frag-off & 0x1fff == 0 counter name claimed_lan drop
	}
	chain from_lan {
		ip saddr != @handed ip daddr != @elsewhere fib daddr type unicast counter name lan_unicast drop
		ip daddr @externals jump claimed_lan
		ip daddr @owned_externals counter name owned drop
	}
	chain from_tun_lan {
		ip ttl < 2 ip daddr != @elsewhere fib daddr type unicast counter name lan_unicast drop
		ip daddr @externals jump claimed_lan
		ip daddr != @elsewhere fib daddr type unicast ct original zone set 19793
	}
	chain from_tun {
		ip daddr @owned_externals counter name owned drop
		ct original zone set 19793
	}
	chain prerouting {
		type filter hook prerouting priority -450; policy accept;
		iifname vmap { "pppoe-wan" : goto from_wan, "br-lan" : goto from_lan, "br-guest" : goto from_tun_lan, "masq0" : goto from_tun }
		ip daddr @owned_externals counter name owned drop
	}
	chain inbound {
		meta l4proto icmp ct reply protocol tcp ct reply proto-dst @claimed_tcp ct reply ip daddr @externals ct reply ip saddr . ct reply protocol . ct reply proto-dst . ct reply proto-src != @own_flows ct reply ip saddr . ct reply protocol . ct reply proto-dst . ct reply proto-src != @lan_flows counter name claimed_wan drop
		meta l4proto icmp ct reply protocol udp ct reply proto-dst @claimed_udp ct reply ip daddr @externals ct reply ip saddr . ct reply protocol . ct reply proto-dst . ct reply proto-src != @own_flows ct reply ip saddr . ct reply protocol . ct reply proto-dst . ct reply proto-src != @lan_flows counter name claimed_wan drop
		ct status & (snat | dnat) != 0 return
		counter name inbound drop
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		oifname "pppoe-wan" ip saddr @undiverted ip saddr != @handed ip daddr != @elsewhere ip daddr != @exempt_destinations counter name lan_unicast drop
		iifname != "pppoe-wan" accept
		ip saddr @inside counter name inbound drop
		ip daddr @inside ip saddr != @exempt_destinations jump inbound
		ct original ip saddr != @inside tcp flags rst ct reply proto-dst @claimed_tcp ct expiration < 11s update @own_flows { ip saddr . meta l4proto . ct reply proto-dst . th sport timeout 15s }
		ct original ip saddr != @inside meta l4proto udp ct reply proto-dst @claimed_udp ct direction reply update @own_flows { ip saddr . meta l4proto . ct reply proto-dst . th sport }
	}
	chain steer {
		type route hook output priority -450; policy accept;
		oifname "pppoe-wan" ip daddr != @exempt_destinations icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,192,32 & 0xffffff00 == 0xc0a80200 ct original zone set 19793 meta mark set 0x4d510000
		oifname "pppoe-wan" ip daddr != @exempt_destinations ip saddr 192.168.2.0/24 fib saddr type != local ct original zone set 19793 meta mark set 0x4d510000
	}
	chain output {
		type filter hook output priority 300; policy accept;
		oifname "pppoe-wan" icmp type destination-unreachable icmp code 2 counter name refused drop
		oifname { "br-lan", "br-guest" } ip saddr @externals icmp type destination-unreachable icmp code 2 counter name refused drop
	}
	chain identifiers {
		type nat hook postrouting priority 95; policy accept;
		oifname != "pppoe-wan" accept
		ip saddr @externals icmp type echo-request icmp id { 32768-65535 } masquerade to :1024-32767
		ip saddr @externals tcp sport @claimed_tcp tcp sport >= 1024 masquerade to :2223-32767
	}
	chain postrouting {
		type filter hook postrouting priority 300; policy accept;
		oifname != "pppoe-wan" accept
		ip saddr != @may_leave ip daddr != @exempt_destinations fib saddr . oif type != local counter name leak drop
		ip saddr @externals tcp sport @claimed_tcp jump learn
		ip saddr @externals udp sport @claimed_udp jump learn
		ip saddr @externals icmp type echo-request icmp id { 32768-65535 } update @own_pings { ip daddr . icmp id }
	}
}
`;

describe("guard ruleset", () => {
	it("is one transaction that replaces the table", () => {
		expect(guardRuleset(FACTS)).toBe(GOLDEN);
	});

	it("tells addresses by sets where the kernel has no fib", () => {
		const script = guardRuleset(FACTS, "sets");
		expect(script.includes("fib")).toBe(false);
		expect(script.includes("elements = { 192.168.1.1, 192.168.2.1, 203.0.113.1 }")).toBe(true);
		expect(
			script.includes("\t\tip saddr != @handed ip daddr != @elsewhere ip daddr != @own ip daddr < 224.0.0.0 counter name lan_unicast drop"),
		).toBe(true);
		expect(script.includes("\t\tip saddr != @may_leave ip daddr != @exempt_destinations counter name leak drop")).toBe(true);
	});

	it("has no elements line for an empty set and no LAN rule without a LAN", () => {
		const script = guardRuleset({
			...FACTS,
			lan: [],
			externals: [],
			ownedExternals: [],
			portRanges: [],
			forwards: [],
			elsewhere: [],
			internal: [],
			exemptDestinations: [],
		});
		expect(script.split("elements").length - 1).toBe(1);
		expect(script.includes("lan_unicast drop")).toBe(false);
		expect(script.includes("claimed_lan drop")).toBe(false);
		expect(script.includes("\t\tip daddr @owned_externals counter name owned drop")).toBe(true);
	});

	it("lets tun-driver LANs through to the TUN device", () => {
		const script = guardRuleset({ ...FACTS, lan: [{ device: "br-lan", driver: "tun", tun: "masq0" }] });
		expect(script.split("\n").filter((line) => line.includes("lan_unicast drop"))).toEqual([
			"\t\tip ttl < 2 ip daddr != @elsewhere fib daddr type unicast counter name lan_unicast drop",
			'\t\toifname "pppoe-wan" ip saddr @undiverted ip saddr != @handed ip daddr != @elsewhere ip daddr != @exempt_destinations counter name lan_unicast drop',
		]);
		expect(script.slice(script.indexOf("chain from_tun_lan {"), script.indexOf("chain from_tun {"))).not.toContain("@owned_externals");
	});

	it("keeps the kernel's tracking of what goes to the TUN device apart", () => {
		const tun: GuardFacts = { ...FACTS, lan: [{ device: "br-lan", driver: "tun", tun: "masq0" }] };
		const match = "\t\tip daddr != @elsewhere fib daddr type unicast ";
		const zoned = guardRuleset(tun);
		expect(zoned).toContain(`${match}ct original zone set 19793\n`);
		expect(zoned).toContain("counter name owned drop\n\t\tct original zone set 19793\n");
		expect(zoned).toContain('iifname vmap { "pppoe-wan" : goto from_wan, "br-lan" : goto from_tun_lan, "masq0" : goto from_tun }');
		expect(guardRuleset(tun, "fib", "notrack")).toContain(`${match}notrack\n`);
		expect(guardRuleset({ ...FACTS, lan: [{ device: "br-lan", driver: "packet", tun: "" }] })).not.toMatch(/zone|notrack/);
	});

	it("refuses a device name that would mean something to nft", () => {
		for (const wanDevice of ['a"; flush ruleset; "', "wan*", "a\nb", "a\\", ""]) {
			expect(() => guardRuleset({ ...FACTS, wanDevice })).toThrow("cannot be written in nft");
		}
	});
});

/** A stand-in of nft that refuses scripts with any of these words. */
function nft(refused: string[], output = "") {
	const calls: { argv: string[]; stdin: string }[] = [];
	const run = (argv: string[], stdin: string) => {
		calls.push({ argv, stdin });
		return refused.some((word) => stdin.includes(word)) ? { status: 1, output: "Error: refused\nmore" } : { status: 0, output };
	};
	return { run, calls };
}

describe("guard installation", () => {
	it("prefers fib", () => {
		const io = nft([]);
		expect(installGuard(io, FACTS)).toEqual({ addressTest: "fib", learning: "keep" });
		expect(io.calls.length).toBe(1);
		expect(io.calls[0].argv).toEqual(["nft", "-f", "-"]);
		// Not deleted: what the kernel has learned stays.
		expect(io.calls[0].stdin).toBe(guardRuleset(FACTS, "fib", "zone", "keep"));
		expect(io.calls[0].stdin).not.toContain("delete table");
	});
	it("falls back to sets", () => {
		const io = nft(["fib"]);
		expect(installGuard(io, FACTS)).toEqual({ addressTest: "sets", learning: "keep" });
		expect(io.calls.at(-1)?.stdin).toBe(guardRuleset(FACTS, "sets", "zone", "keep"));
	});
	it("falls back to no tracking, only where there is a TUN device", () => {
		const io = nft(["zone"]);
		expect(installGuard(io, FACTS)).toEqual({ addressTest: "fib", learning: "keep" });
		expect(io.calls.at(-1)?.stdin).toBe(guardRuleset(FACTS, "fib", "notrack", "keep"));
		const packet: GuardFacts = { ...FACTS, lan: [{ device: "br-lan", driver: "packet", tun: "" }] };
		const none = nft(["fib", "own"]);
		expect(() => installGuard(none, packet)).toThrow("refused");
		expect(none.calls.length).toBe(10);
	});
	it("leaves the kernel's pings as they are where it has no NAT, or no identifiers are left for it", () => {
		const io = nft(["type nat"]);
		expect(installGuard(io, FACTS)).toEqual({ addressTest: "fib", learning: "keep" });
		expect(io.calls.at(-1)?.stdin).toBe(guardRuleset(FACTS, "fib", "zone", "keep", "shared"));
		for (const [portRanges, gap] of [
			[[{ first: 1, last: 65535 }], undefined],
			[[], undefined],
			[[{ first: 1100, last: 65535 }], undefined],
			[[{ first: 600, last: 40000 }], "40001-65535"],
			[
				[
					{ first: 2000, last: 2999 },
					{ first: 50000, last: 65535 },
				],
				"3000-49999",
			],
		] as const)
			expect(guardRuleset({ ...FACTS, portRanges }).match(/icmp .* masquerade to :(\S+)/)?.[1]).toBe(gap);
	});
	it("learns of twice as many flows as the kernel tracks, within bounds", () => {
		expect(["262144\n", "16384\n", "4096\n", "", "nonsense", "99999999\n"].map(learnedFlows)).toEqual([
			524_288, 32_768, 16_384, 16_384, 16_384, 1_048_576,
		]);
		expect(guardRuleset({ ...FACTS, flows: 524_288 })).toContain("size 524288\n");
	});
	it("begins anew beside another version's sets, and learns nothing where the kernel cannot", () => {
		const other = nft(["flush table"]);
		expect(installGuard(other, FACTS).learning).toBe("anew");
		expect(other.calls.at(-1)?.stdin).toBe(GOLDEN);
		const poor = nft(["dynamic"]);
		expect(installGuard(poor, FACTS)).toEqual({ addressTest: "fib", learning: "none" });
		expect(poor.calls.at(-1)?.stdin).not.toMatch(/own_flows|@cut|fragment_peers|ct original ip|_fragment|own_pings|type nat/);
	});
	it("fails with nft's first line", () => {
		expect(() => installGuard(nft(["table"]), FACTS)).toThrow("install the guard table: nft: Error: refused");
		expect(() => removeGuard(nft(["table"]))).toThrow("remove the guard table: nft: Error: refused");
	});
	it("removes what may not be there", () => {
		const io = nft([]);
		expect(removeGuard(io)).toBe(true);
		expect(io.calls[0].stdin).toBe("delete table inet masqd\n");
		const none = { run: () => ({ status: 1, output: "/dev/stdin:1:14-17: Error: Could not process rule: No such file or directory\n" }) };
		expect(removeGuard(none)).toBe(false);
	});
});
