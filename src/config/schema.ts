/**
 * The option tables of /etc/config/masqd: for every section type its options, and for every option its type, default,
 * unit and a sentence of help.
 *
 * Everything else is made of these tables: section.ts reads and validates by them and gives plan.ts its fields,
 * describe.ts prints by them, reference.ts and the README's table of options are generated from them, and a test holds
 * the package's files against them. Names of `redirect` are firewall4's.
 */

import {
	type AddressRange,
	formatAddressRange,
	formatSubnet,
	parseAddress,
	parseAddressRange,
	parseInterfaceAddress,
	type Subnet,
} from "../packet/address.ts";
import { isUnicast } from "../packet/address-class.ts";
import { quoteValue } from "./uci.ts";

/** TU ports from `first` to `last`, both included. */
export interface PortRange {
	first: number;
	last: number;
}

/** Filtering behaviour, RFC 4787 section 5. */
export type Filtering = "endpoint-independent" | "address-dependent" | "address-and-port-dependent";

export type Protocol = "tcp" | "udp";

/** Why a text is not a value of the type, as the first half of an error message. */
export class Refusal {
	readonly message: string;
	constructor(message: string) {
		this.message = message;
	}
}

export interface ValueType<T> {
	/** What documentation calls it. */
	readonly name: string;
	/** Continues "expected ...". */
	readonly expected: string;
	readonly parse: (text: string) => T | Refusal;
}

/** A limit from an RFC below which a value is taken, with a warning. */
export interface Floor {
	readonly value: number;
	readonly reference: string;
}

interface OptionCommon<T> {
	readonly type: ValueType<T>;
	/** Whether the section means nothing without it. */
	readonly required: boolean;
	/** Such as "s"; "" for values without one. */
	readonly unit: string;
	readonly help: string;
	readonly floor: Floor | null;
}

/** `A` is null if the option may be without a value, never if it has a default or is required. */
export interface SingleOption<T, A extends null = null> extends OptionCommon<T> {
	readonly kind: "option";
	/** For the type only. */
	readonly absent?: () => A;
	/** As it would be written in the file; null when absence means something of its own, which `help` says. */
	readonly default: string | null;
}

export interface ListOption<T> extends OptionCommon<T> {
	readonly kind: "list";
	readonly default: readonly string[];
}

export type OptionTable = Readonly<Record<string, SingleOption<unknown> | ListOption<unknown>>>;

export interface SectionSpec<O extends OptionTable = OptionTable> {
	/** How often the type may occur in a file. */
	readonly occurs: "once" | "at most once" | "at least once" | "any number of times";
	readonly help: string;
	readonly options: O;
	/** Options that users know from elsewhere: why each is not here, as the second half of an error message. */
	readonly foreign?: Readonly<Record<string, string>>;
}

interface OptionDetail {
	help: string;
	required?: boolean;
	unit?: string;
	floor?: Floor;
}

function option<T>(type: ValueType<T>, fallback: string, detail: OptionDetail): SingleOption<T, never>;
function option<T>(type: ValueType<T>, fallback: null, detail: OptionDetail & { required: true }): SingleOption<T, never>;
function option<T>(type: ValueType<T>, fallback: null, detail: OptionDetail): SingleOption<T>;
function option<T>(type: ValueType<T>, fallback: string | null, detail: OptionDetail): SingleOption<T> {
	const { help, required = false, unit = "", floor = null } = detail;
	return { kind: "option", type, default: fallback, required, unit, help, floor };
}

function list<T>(type: ValueType<T>, fallback: readonly string[], detail: OptionDetail): ListOption<T> {
	const { help, required = false, unit = "", floor = null } = detail;
	return { kind: "list", type, default: fallback, required, unit, help, floor };
}

const DECIMAL = /^(?:0|[1-9]\d{0,9})$/;

function refuse(text: string, what: string): Refusal {
	return new Refusal(`${quoteValue(text)} is not ${what}`);
}

/** The words firewall4 takes for a truth value. */
export const BOOL: ValueType<boolean> = {
	name: "bool",
	expected: "1, on, true, yes or 0, off, false, no",
	parse(text) {
		if (/^(?:1|on|true|yes|enabled)$/.test(text)) return true;
		if (/^(?:0|off|false|no|disabled)$/.test(text)) return false;
		return refuse(text, "a boolean");
	},
};

/** Whole numbers from `min` to `max`, decimal. */
export function integer(min: number, max: number): ValueType<number> {
	return {
		name: `${min}..${max}`,
		expected: `${min} to ${max}`,
		parse(text) {
			if (!DECIMAL.test(text)) return refuse(text, "a whole number");
			const value = Number(text);
			return value >= min && value <= max ? value : new Refusal(`${text} is out of range`);
		},
	};
}

/** "auto", or what `type` takes. */
export function autoOr<T>(type: ValueType<T>): ValueType<T | "auto"> {
	return {
		name: `auto or ${type.name}`,
		expected: `auto or ${type.expected}`,
		parse: (text) => (text === "auto" ? "auto" : type.parse(text)),
	};
}

/** One of a few words. */
export function oneOf<const T extends string>(values: readonly T[]): ValueType<T> {
	const expected = values.length > 1 ? `${values.slice(0, -1).join(", ")} or ${values.at(-1)}` : `${values[0]}`;
	return {
		name: values.join("|"),
		expected,
		parse: (text) => values.find((value) => value === text) ?? refuse(text, "a valid choice"),
	};
}

/** An address one host can have. */
export const ADDRESS: ValueType<number> = {
	name: "ipv4",
	expected: "an address such as 192.168.1.10",
	parse(text) {
		const address = parseAddress(text);
		if (address === null) return refuse(text, "an IPv4 address");
		return isUnicast(address) ? address : refuse(text, "the address of a host");
	},
};

function readSubnet(text: string): Subnet | Refusal {
	const given = parseInterfaceAddress(text);
	if (given === null) return refuse(text, "an IPv4 subnet");
	if (given.address === given.subnet.address) return given.subnet;
	return new Refusal(`${quoteValue(text)} has host bits set (its subnet is ${formatSubnet(given.subnet)})`);
}

/** Any prefix, 0.0.0.0/0 included. */
export const SUBNET: ValueType<Subnet> = {
	name: "subnet",
	expected: "a subnet such as 198.51.100.0/24",
	parse: readSubnet,
};

/** A prefix whose addresses hosts can have. */
export const HOST_SUBNET: ValueType<Subnet> = {
	name: "subnet",
	expected: "a subnet such as 192.168.1.0/24",
	parse(text) {
		const subnet = readSubnet(text);
		if (subnet instanceof Refusal) return subnet;
		return subnet.prefix > 0 && isUnicast(subnet.address) ? subnet : refuse(text, "a subnet of hosts");
	},
};

/** What a pool may hold in all: each external address has port bitmaps of its own in the fixed memory. */
export const MAX_POOL_ADDRESSES = 256;

export const ADDRESS_RANGE: ValueType<AddressRange> = {
	name: "address range",
	expected: "an address, a range such as 203.0.113.16-203.0.113.31 or a subnet",
	parse(text) {
		const range = parseAddressRange(text);
		if (range === null) return refuse(text, "an address range");
		if (range.first > range.last) return new Refusal(`${quoteValue(text)} is reversed`);
		if (!isUnicast(range.first) || !isUnicast(range.last)) return refuse(text, "a range of host addresses");
		if (range.last - range.first >= MAX_POOL_ADDRESSES) {
			return new Refusal(`${formatAddressRange(range)} has more than ${MAX_POOL_ADDRESSES} addresses`);
		}
		return range;
	},
};

/** A port, or two with `-` (or firewall4's other form, `:`) between them. */
export const PORT_RANGE: ValueType<PortRange> = {
	name: "port or port range",
	expected: "a port or a range such as 5000-5010, within 1 to 65535",
	parse(text) {
		const parts = /^(\d{1,5})(?:[-:](\d{1,5}))?$/.exec(text);
		if (parts === null) return refuse(text, "a port or port range");
		const first = Number(parts[1]);
		const last = parts[2] === undefined ? first : Number(parts[2]);
		if (first < 1 || first > 65535 || last < 1 || last > 65535) return new Refusal(`${quoteValue(text)} is out of range`);
		return first <= last ? { first, last } : new Refusal(`${quoteValue(text)} is reversed`);
	},
};

/**
 * A network device's name: 1 to 15 characters and neither "." nor "..", as the kernel's dev_valid_name() has it. Of the
 * characters only those real devices carry: the name also goes into nft rules, where `*` and `"` mean something.
 */
export const DEVICE: ValueType<string> = {
	name: "device",
	expected: "a device name: 1 to 15 letters, digits or . _ - + @",
	parse(text) {
		return /^[A-Za-z0-9._@+-]{1,15}$/.test(text) && text !== "." && text !== ".." ? text : refuse(text, "a device name");
	},
};

/** A section name elsewhere in UCI, such as netifd's name of an interface. */
export const IDENTIFIER: ValueType<string> = {
	name: "UCI identifier",
	expected: "letters, digits and _",
	parse: (text) => (/^[A-Za-z0-9_]{1,64}$/.test(text) ? text : refuse(text, "an interface name")),
};

export const TEXT: ValueType<string> = {
	name: "text",
	expected: "at most 64 characters",
	parse: (text) => (text.length <= 64 ? text : new Refusal(`${quoteValue(text)} is too long`)),
};

/** tcp, udp, or firewall4's tcpudp for both. */
export const PROTOCOL: ValueType<readonly Protocol[]> = {
	name: "tcp|udp|tcpudp",
	expected: "tcp, udp or tcpudp",
	parse(text) {
		if (text === "tcpudp") return ["tcp", "udp"];
		return text === "tcp" || text === "udp" ? [text] : refuse(text, "a protocol with ports");
	},
};

const FILTERING = oneOf(["endpoint-independent", "address-dependent", "address-and-port-dependent"]);

// The session table keeps the last use in seconds modulo 2^16 (conntrack/table.ts).
const SECONDS = integer(1, 65000);

function timeout(seconds: number, help: string, floor?: Floor): SingleOption<number, never> {
	return option(SECONDS, String(seconds), floor === undefined ? { help, unit: "s" } : { help, unit: "s", floor });
}

const TRANSITORY: Floor = { value: 240, reference: "RFC 5382 REQ-5" };

const INTERFACE_HELP = "netifd's name of the interface; ubus is asked for its device";
const DEVICE_HELP = "name of the network device; needed where there is no netifd, and used instead of interface";

/** `auto`, or what firewall4 takes for a truth value. */
const AUTO_ON_OFF: ValueType<"auto" | "on" | "off"> = {
	name: "auto|on|off",
	expected: "auto, on or off",
	parse(text) {
		const value = BOOL.parse(text);
		return typeof value === "boolean" ? (value ? "on" : "off") : text === "auto" ? text : refuse(text, "a valid choice");
	},
};

/** What switches a section off. */
export const SWITCH: SingleOption<boolean> = option(BOOL, "1", { help: "whether the section counts" });

/** Every section type of the file. */
export const SECTIONS = {
	masqd: {
		occurs: "at most once",
		help: "The daemon as a whole.",
		options: {
			enabled: option(BOOL, "0", { help: "whether masqd translates at all" }),
			sessions: option(autoOr(integer(256, 65535)), "auto", {
				help: "size of the session table; auto takes one session for 32 kB of memory, 1024 to 16384",
			}),
			ports: list(PORT_RANGE, ["123", "500", "512-9999", "27000-65535"], { help: "external ports that mappings may use" }),
			filtering: option(FILTERING, "address-and-port-dependent", { help: "which peers may answer through a mapping" }),
			max_sessions: option(integer(0, 65535), "0", { help: "sessions that a host may hold at most; 0 is its fair share of the table" }),
			max_rate: option(integer(0, 65535), "0", { unit: "/s", help: "sessions that a host may open per second; 0 is any number" }),
			refusal: option(oneOf(["host-unreachable", "prohibited"]), "host-unreachable", {
				help: "the ICMP error for a session that cannot be had (RFC 6888 REQ-11, RFC 5508 REQ-8)",
			}),
			unsolicited_syn: option(oneOf(["reject", "drop"]), "reject", {
				help: "an unwanted TCP SYN from outside: an ICMP error after six seconds, or nothing (RFC 5382 REQ-4)",
			}),
			hairpin: option(oneOf(["same-lan", "all", "off"]), "same-lan", {
				help: "which internal hosts reach each other over an external address (RFC 4787 REQ-9)",
			}),
			block_private: option(BOOL, "0", { help: "whether packets to private addresses are blocked (RFC 1918, RFC 6598)" }),
			pcp: option(BOOL, "0", { help: "whether hosts may ask for port forwards themselves, by PCP or NAT-PMP" }),
			icmp_rate: option(integer(0, 1000), "20", { unit: "/s", help: "ICMP errors that one source may cause per second" }),
			offload: option(AUTO_ON_OFF, "auto", { help: "whether established sessions are offloaded to BPF programs in the kernel" }),
			alg_ftp: option(BOOL, "1", { help: "whether FTP control connections (port 21) are read and their addresses rewritten" }),
			alg_tftp: option(BOOL, "0", { help: "whether a TFTP server (port 69) may answer from a port of its choice" }),
		},
	},
	wan: {
		occurs: "once",
		help: "The port towards the provider.",
		options: {
			interface: option(IDENTIFIER, null, { help: INTERFACE_HELP }),
			device: option(DEVICE, null, { help: DEVICE_HELP }),
		},
	},
	lan: {
		occurs: "at least once",
		help: "A port towards the hosts that are translated.",
		options: {
			interface: option(IDENTIFIER, null, { help: INTERFACE_HELP }),
			device: option(DEVICE, null, { help: DEVICE_HELP }),
			driver: option(oneOf(["tun", "packet", "kernel"]), "tun", {
				help: "how packets reach masqd: by a TUN device, packet sockets, or (kernel, experimental) queues",
			}),
			subnet: list(HOST_SUBNET, [], { help: "subnets of the hosts behind it; default are the interface's own" }),
			pcp: option(BOOL, null, { help: "whether its hosts may ask for port forwards; default is the daemon's" }),
		},
	},
	static: {
		occurs: "any number of times",
		help: "Static NAT: one internal address is one external address, for which masqd answers ARP.",
		options: {
			internal: option(ADDRESS, null, { help: "the host's own address", required: true }),
			external: option(ADDRESS, null, { help: "the external address that is its own", required: true }),
		},
	},
	pool: {
		occurs: "any number of times",
		help: "Dynamic NAT: internal hosts share a pool of external addresses, paired (RFC 4787 REQ-2).",
		options: {
			external: list(ADDRESS_RANGE, [], { help: "the addresses of the pool", required: true }),
			internal: list(HOST_SUBNET, [], { help: "the hosts that use it; default is every host behind a LAN port" }),
			overload: option(BOOL, "1", { help: "whether the last address is shared by NAPT when the others are taken (RFC 3022 5.4)" }),
		},
	},
	redirect: {
		occurs: "any number of times",
		help: "Port forward from the WAN port's address to an internal host.",
		options: {
			name: option(TEXT, "", { help: "a name for lists and messages" }),
			proto: list(PROTOCOL, ["tcp", "udp"], { help: "the protocols forwarded" }),
			src_dport: option(PORT_RANGE, null, { help: "external port or ports", required: true }),
			dest_ip: option(ADDRESS, null, { help: "the internal host", required: true }),
			dest_port: option(PORT_RANGE, null, { help: "the host's port, of a range the first one; default is src_dport" }),
			src_ip: option(SUBNET, null, { help: "the only peers that may use it, whatever filtering says; default is anyone" }),
		},
		foreign: {
			src: "a redirect is always from the WAN port, leave it out",
			dest: "the host is found by dest_ip, leave it out",
			target: "a redirect is always DNAT, leave it out",
			family: "masqd translates IPv4 only, leave it out",
			reflection: "hairpinning is always on, leave it out",
			src_dip: "use a static section for other external addresses",
			src_port: "only the peer's address can be matched, with src_ip",
		},
	},
	host: {
		occurs: "any number of times",
		help: "Policy for one internal host.",
		options: {
			ip: option(ADDRESS, null, { help: "the host's address", required: true }),
			filtering: option(FILTERING, null, { help: "its filtering; default is the daemon's" }),
			max_sessions: option(integer(1, 65535), null, { help: "sessions it may hold at most; default is the daemon's" }),
			max_rate: option(integer(1, 65535), null, { unit: "/s", help: "sessions it may open per second; default is the daemon's" }),
		},
	},
	exempt: {
		occurs: "any number of times",
		help: "Destinations that are reached without translation: the kernel forwards packets to them as they are.",
		options: {
			dest: option(SUBNET, null, { help: "the destination subnet", required: true }),
		},
	},
	timeouts: {
		occurs: "at most once",
		help: "How long an idle session lives.",
		options: {
			udp: timeout(300, "UDP sessions", { value: 120, reference: "RFC 4787 REQ-5" }),
			dns: timeout(2, "DNS sessions, after the reply"),
			icmp: timeout(60, "ICMP queries", { value: 60, reference: "RFC 5508 REQ-2" }),
			tcp_opening: timeout(240, "TCP before the handshake is complete", TRANSITORY),
			tcp_established: timeout(7440, "TCP connections, half-closed ones too", { value: 7440, reference: "RFC 5382 REQ-5" }),
			tcp_closing: timeout(240, "TCP after both sides have sent FIN", TRANSITORY),
			tcp_reset: timeout(240, "TCP after a reset", { value: 240, reference: "RFC 7857 2.2" }),
			other: timeout(300, "all other protocols"),
		},
	},
} as const satisfies Readonly<Record<string, SectionSpec>>;

export type SectionType = keyof typeof SECTIONS;

/** The options of a section type. */
export type OptionsOf<S extends SectionType> = (typeof SECTIONS)[S]["options"];

/** Seconds a session may be idle, by timeout class. */
export type Timeouts = Record<keyof OptionsOf<"timeouts">, number>;
