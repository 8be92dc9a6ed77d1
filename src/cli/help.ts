/**
 * What `masqd help` says. The command table (commands.ts) takes its usage lines from here.
 */

interface Help {
	/** Arguments, as in a usage line. */
	usage: string;
	/** What it does, in a line. */
	summary: string;
	/** The rest, in lines of at most 76 columns. */
	text?: string;
}

export const HELP: Record<string, Help> = {
	run: {
		usage: "[-c FILE] [--wait] [--syslog] [--log LEVEL]",
		summary: "translate packets until SIGTERM",
		text: `Runs in the foreground. SIGTERM ends it and undoes guard, routes, TUN and
settings. The log goes to stderr, or to syslog; LEVEL is error, warning,
notice, info (default) or debug. Repeated messages are rate-limited to one
a minute.
--wait: start also while there is no WAN device yet.`,
	},
	check: { usage: "[-c FILE] [-j]", summary: "print the effective plan, or every error" },
	status: {
		usage: "[-j]",
		summary: "ports, table, rates, drops with reasons, warnings",
		text: "The warnings say what is amiss around masqd and what to do about it.",
	},
	flows: {
		usage: "[-j] [-n ROWS] [--host A[:P]] [--peer A[:P]] [--proto P]\n         [--state S] [--sort bytes|age]",
		summary: "sessions",
		text: `Two lines per session: internal, external and peer endpoint; state, time
left, packets and bytes of both directions. --sort bytes has the busiest
first, --sort age those that are idle for longest. 50 rows unless -n says
otherwise. States: new open dns-done query syn-sent syn-received opening
established fin-sent fin-received closing reset resting.`,
	},
	mappings: {
		usage: "[-j] [-n ROWS] [--host A[:P]] [--proto P]",
		summary: "internal endpoints and their external ones",
	},
	hosts: {
		usage: "[-j] [-n ROWS] [--by hour|day]",
		summary: "internal hosts: sessions, limits, refusals, bytes",
	},
	drops: {
		usage: "[-j] [-n ROWS]",
		summary: "the last packets that were dropped, with the reason",
	},
	why: {
		usage: "[-j] [HOST | PROTO SRC:PORT DST:PORT [in|out]]",
		summary: "explain drops, or what would happen to a packet",
		text: `Without arguments, or with a host, it explains the last drops (of it)
and how to let such packets pass. With protocol and endpoints it goes
through all decisions about such a packet, in order, without sending it and
without a trace: "why udp 192.168.1.10:5000 203.0.113.9:53". A packet from
outside has the external address as destination. icmp takes the identifier
as port; protocols without ports take addresses.`,
	},
	watch: {
		usage: "[-j] [--log]",
		summary: "sessions, mappings, limits and WAN changes as they happen",
		text: `Ends with Ctrl-C. -j has the names of RFC 8158. --log writes mappings only,
one line each with time, protocol, host and external endpoint, and no
destinations: the log of RFC 6888 REQ-12.`,
	},
	flush: {
		usage: "all | host A | mapping PROTO A:P | wan  [-j]",
		summary: "end sessions",
		text: `host: all sessions of an internal host. mapping: all of one external
endpoint. wan: all that use the WAN's own address (not static NAT or pools).`,
	},
	capture: {
		usage: "[-w FILE] [-n COUNT] [--host A] [--dropped] [-j]\n         | on | off | last [-w FILE] [-n COUNT] ...",
		summary: "packets before and after translation, as pcapng",
		text: `Writes the next COUNT packets (default 100) to FILE or standard output, both
sides of the translation, the verdict as comment: for tshark or Wireshark.
"capture on" keeps the last 512 packets in memory, "capture last" writes
them. The first 192 bytes of each packet are kept. Costs nothing while off.
Packets that are offloaded to the kernel are not seen.`,
	},
	metrics: { usage: "[--collectd]", summary: "values for Prometheus or collectd (luci-app-masqd)" },
	"nat-type": { usage: "[-j] [--stun SERVER[:PORT]]", summary: "what the line is, in words (luci-app-masqd)" },
	selftest: {
		usage: "[-j]",
		summary: "check the decision code against RFC requirements",
		text: "In memory of its own: needs no daemon, sends nothing.",
	},
	offload: { usage: "--dump [-c FILE]", summary: "the BPF programs of the plan, disassembled" },
	reload: {
		usage: "[-j]",
		summary: "read the configuration again",
		text: `Only what the change concerns is touched; a file with an error changes
nothing. As SIGHUP, but it tells what is wrong or waits for a restart.`,
	},
	cleanup: {
		usage: "[--socket PATH] [--state PATH]",
		summary: "remove what a masqd that died has left",
		text: `Guard, policy rules, routes, the kernel's own port range and other settings,
and the control socket. A masqd that crashes leaves them: nothing of the LAN
leaves untranslated then. The sessions stay for the next start. Beside a
masqd that runs it touches nothing.`,
	},
	help: { usage: "[COMMAND | config]", summary: "this text, or more about a command or the configuration" },
};

const OPTIONS = `  -c FILE       configuration, default /etc/config/masqd
  -j            JSON, one object a line
  -n ROWS       at most this many rows
  --socket PATH control socket, default /var/run/masqd.sock
  --state PATH  table file (tmpfs), default /var/run/masqd.state
  --version     version
`;

/** `masqd help`. */
export function helpText(): string {
	const rows = Object.entries(HELP).map(([name, h]) => `  ${name.padEnd(10)}${h.summary}\n`);
	return `usage: masqd COMMAND [OPTIONS]\n\n${rows.join("")}\n${OPTIONS}`;
}

/** `masqd help COMMAND`; null if there is no such command. */
export function helpOn(name: string): string | null {
	const h = Object.hasOwn(HELP, name) ? HELP[name] : undefined;
	if (h === undefined) return null;
	return `usage: masqd ${name} ${h.usage}\n\n${h.summary}\n${h.text === undefined ? "" : `\n${h.text}\n`}`;
}
