/**
 * What nftables holds that concerns masqd, read by netlink: the guard's counters, rules that masquerade, flow tables,
 * chains on devices. Reading never waits: the kernel has each part of a dump ready when the one before it was read, and
 * between two parts packets can be forwarded.
 */
import type { Fd } from "masq:native";
import type { ForeignBans } from "./foreign-bans.ts";
import { GUARD_COUNTERS, type GuardCounter } from "./guard.ts";
import { NftForwards } from "./nft-forwards.ts";

/** The system calls that are made: `masq:native` itself, or a test's stand-in. */
export type NftIo = Pick<typeof import("masq:native"), "netlinkOpen" | "netlinkSend" | "netlinkReceive" | "close" | "decode">;

const NETLINK_NETFILTER = 12;
const NFNL_SUBSYS_NFTABLES = 10 << 8;
const NFT_MSG_NEWTABLE = 0;
const NFT_MSG_GETTABLE = 1;
const NFT_MSG_NEWCHAIN = 3;
const NFT_MSG_GETCHAIN = 4;
const NFT_MSG_NEWRULE = 6;
const NFT_MSG_GETRULE = 7;
const NFT_MSG_NEWOBJ = 18;
const NFT_MSG_GETOBJ = 19;
const NFT_MSG_NEWFLOWTABLE = 22;
const NFT_MSG_GETFLOWTABLE = 23;
const NFT_OBJECT_COUNTER = 1;
const NFPROTO_INET = 1;
const NFPROTO_IPV4 = 2;
const NFPROTO_NETDEV = 5;
/** Hooks of devices, by family. */
const DEVICE_HOOKS: Record<number, Record<number, "ingress" | "egress">> = {
	[NFPROTO_INET]: { 5: "ingress" },
	[NFPROTO_NETDEV]: { 0: "ingress", 1: "egress" },
};
const PREROUTING = 0;
const FORWARD = 2;
const FAMILY_NAMES: Record<number, string> = { [NFPROTO_INET]: "inet", [NFPROTO_NETDEV]: "netdev" };
/** NLM_F_REQUEST | NLM_F_DUMP. */
const REQUEST_DUMP = 0x301;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const DATAGRAM_MAX = 32768;
/** nlmsghdr and nfgenmsg. */
const HEADER = 20;

/** Attribute numbers (linux/netfilter/nf_tables.h). */
const OBJ = { TABLE: 1, NAME: 2, TYPE: 3, DATA: 4 } as const;
const COUNTER_PACKETS = 2;
const TABLE = { NAME: 1, FLAGS: 2 } as const;
const TABLE_DORMANT = 1;
const CHAIN = { TABLE: 1, NAME: 3, HOOK: 4 } as const;
const HOOK = { NUMBER: 1, DEVICE: 3, DEVICES: 4 } as const;
const DEVICE_NAME = 1;
const DEVICE_PREFIX = 2;
const RULE = { TABLE: 1, CHAIN: 2, EXPRESSIONS: 4, USERDATA: 7 } as const;
/** How the comment of a rule begins that sends what the LAN sends on to masqd. */
const TO_TUN = "masqd: to ";
const EXPR_NAME = 1;
const EXPR_DATA = 2;
const TARGET_NAME = 1;
const PAYLOAD = { BASE: 2, OFFSET: 3 } as const;
const NETWORK_HEADER = 1;
const FLOWTABLE_FLAGS = 7;
const FLOWTABLE_HW = 1;
const NLA_TYPE = 0x3fff;

/** A base chain on devices. */
export interface DeviceChain {
	hook: "ingress" | "egress";
	/** Family, table and chain. */
	name: string;
	/** Whether a device's packets come by it. */
	covers(device: string): boolean;
}

/** One reading. */
export class NftView {
	/** Packets counted by the guard; null if its table is not there. */
	guard: Record<GuardCounter, number> | null = null;
	/** "table chain" of the kernel's own masquerading rules. */
	readonly masquerades: string[] = [];
	/** The firewall's port forwards. */
	readonly forwards = new NftForwards();
	/** The same of rules that redirect to the router itself. */
	readonly redirects: string[] = [];
	/** Whether firewall4's table is there, with any rule. */
	firewall4 = false;
	/**
	 * Whether a rule of it is about what goes to masqd's TUN devices: /etc/init.d/masqd writes those, with a comment.
	 */
	firewallKnowsUs = false;
	/** Whether a rule of others asks for an IPv4 address. */
	addressed = false;
	/** Flow offload of the kernel's own forwarding. */
	flowOffload: "none" | "software" | "hardware" = "none";

	readonly #io: NftIo;
	readonly #guardFamily: number;
	readonly #buffer = new ArrayBuffer(DATAGRAM_MAX);
	readonly #view = new DataView(this.#buffer);
	/** Netlink headers are in the machine's byte order, nftables' numbers in the network's. */
	readonly #little = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
	#fd: Fd = -1;
	#bans: ForeignBans | null = null;
	readonly #reader = {
		view: this.#view,
		little: this.#little,
		attributes: ([at, end]: readonly [number, number]) => this.#attributes(at, end),
		text: (span: readonly [number, number] | undefined) => this.#text(span),
	};

	/** `family` is that of the guard's table. */
	constructor(io: NftIo, family = NFPROTO_INET) {
		this.#io = io;
		this.#guardFamily = family;
	}

	/**
	 * Reads everything; what the kernel does not tell stays as it was. Yields between parts. `bans` collects the rules
	 * that may bar somebody.
	 */
	*read(bans: ForeignBans | null = null): Generator<undefined, void> {
		try {
			this.#fd = this.#io.netlinkOpen(NETLINK_NETFILTER, []);
		} catch {
			return;
		}
		this.#bans = bans;
		if (bans !== null) {
			const off = new Set<string>();
			yield* this.#dump(NFT_MSG_GETTABLE, 0, (at, end) => this.#dormant(at, end, off));
			yield* this.#dump(NFT_MSG_GETCHAIN, 0, (at, end) => this.#chain(at, end, off, []));
		}
		yield* this.#dump(NFT_MSG_GETOBJ, this.#guardFamily, (at, end) => this.#object(at, end));
		yield* this.#dump(NFT_MSG_GETRULE, 0, (at, end) => this.#rule(at, end));
		yield* this.#dump(NFT_MSG_GETFLOWTABLE, 0, (at, end) => this.#flowTable(at, end));
	}

	/** The guard's counters alone, null if its table is not there. Does not yield: it is one answer of the kernel's. */
	guardCounters(): NftView["guard"] {
		this.guard = null;
		try {
			this.#fd = this.#io.netlinkOpen(NETLINK_NETFILTER, []);
		} catch {
			return null;
		}
		for (const _ of this.#dump(NFT_MSG_GETOBJ, this.#guardFamily, (at, end) => this.#object(at, end)));
		this.close();
		return this.guard;
	}

	/**
	 * Chains that are bound to devices, whoever's, but for those of tables that are switched off; none without
	 * nftables.
	 */
	deviceChains(): DeviceChain[] {
		const chains: DeviceChain[] = [];
		const off = new Set<string>();
		try {
			this.#fd = this.#io.netlinkOpen(NETLINK_NETFILTER, []);
		} catch {
			return chains;
		}
		for (const family of [NFPROTO_NETDEV, NFPROTO_INET]) {
			const parts = [
				this.#dump(NFT_MSG_GETTABLE, family, (at, end) => this.#dormant(at, end, off)),
				this.#dump(NFT_MSG_GETCHAIN, family, (at, end) => this.#chain(at, end, off, chains)),
			];
			for (const part of parts) for (const _ of part);
		}
		this.close();
		return chains;
	}

	close(): void {
		this.#io.close(this.#fd);
		this.#fd = -1;
	}

	*#dump(command: number, family: number, take: (at: number, end: number) => void): Generator<undefined, void> {
		const v = this.#view;
		const little = this.#little;
		v.setUint32(0, HEADER, little);
		v.setUint16(4, NFNL_SUBSYS_NFTABLES | command, little);
		v.setUint16(6, REQUEST_DUMP, little);
		v.setUint32(8, command, little);
		v.setUint32(12, 0, little);
		v.setUint32(16, 0);
		v.setUint8(16, family);
		try {
			this.#io.netlinkSend(this.#fd, this.#buffer, HEADER);
			for (;;) {
				const length = this.#io.netlinkReceive(this.#fd, this.#buffer);
				if (length === 0) return;
				for (let at = 0; at + 16 <= length; at += (v.getUint32(at, little) + 3) & ~3) {
					const type = v.getUint16(at + 4, little);
					if (type === NLMSG_DONE || type === NLMSG_ERROR || v.getUint32(at, little) < 16) return;
					if (v.getUint32(at + 8, little) === command) take(at, at + v.getUint32(at, little));
				}
				yield;
			}
		} catch {
			// No nftables, or no permission: nothing is known then.
		}
	}

	/** Attributes between two offsets as [offset of the value, its end] by number; of repeated ones the last. */
	#attributes(from: number, end: number): Map<number, [number, number]> {
		const found = new Map<number, [number, number]>();
		this.#each(from, end, (type, at, to) => found.set(type, [at, to]));
		return found;
	}

	#each(from: number, end: number, take: (type: number, at: number, to: number) => void): void {
		const v = this.#view;
		for (let at = from; at + 4 <= end; ) {
			const length = v.getUint16(at, this.#little);
			if (length < 4 || at + length > end) return;
			take(v.getUint16(at + 2, this.#little) & NLA_TYPE, at + 4, at + length);
			at += (length + 3) & ~3;
		}
	}

	#text(span: readonly [number, number] | undefined): string {
		if (span === undefined) return "";
		return this.#io.decode(this.#buffer, span[0], span[1] - span[0]).replace(/\0.*$/s, "");
	}

	#object(at: number, end: number): void {
		const v = this.#view;
		if ((v.getUint16(at + 4, this.#little) & 0xff) !== NFT_MSG_NEWOBJ || v.getUint8(at + 16) !== this.#guardFamily) return;
		const a = this.#attributes(at + HEADER, end);
		const type = a.get(OBJ.TYPE);
		const data = a.get(OBJ.DATA);
		if (type === undefined || data === undefined || v.getUint32(type[0]) !== NFT_OBJECT_COUNTER) return;
		if (this.#text(a.get(OBJ.TABLE)) !== "masqd") return;
		this.guard ??= Object.fromEntries(GUARD_COUNTERS.map((name) => [name, 0])) as Record<GuardCounter, number>;
		const name = this.#text(a.get(OBJ.NAME));
		const packets = this.#attributes(data[0], data[1]).get(COUNTER_PACKETS);
		if (packets !== undefined && name in this.guard) this.guard[name as GuardCounter] = Number(v.getBigUint64(packets[0]));
	}

	#dormant(at: number, end: number, off: Set<string>): void {
		const v = this.#view;
		if ((v.getUint16(at + 4, this.#little) & 0xff) !== NFT_MSG_NEWTABLE) return;
		const a = this.#attributes(at + HEADER, end);
		const flags = a.get(TABLE.FLAGS);
		if (flags !== undefined && v.getUint32(flags[0]) & TABLE_DORMANT) off.add(`${v.getUint8(at + 16)} ${this.#text(a.get(TABLE.NAME))}`);
	}

	#chain(at: number, end: number, off: ReadonlySet<string>, chains: DeviceChain[]): void {
		const v = this.#view;
		if ((v.getUint16(at + 4, this.#little) & 0xff) !== NFT_MSG_NEWCHAIN) return;
		const family = v.getUint8(at + 16);
		const a = this.#attributes(at + HEADER, end);
		const table = this.#text(a.get(CHAIN.TABLE));
		const span = a.get(CHAIN.HOOK);
		if (span === undefined || off.has(`${family} ${table}`)) return;
		const h = this.#attributes(span[0], span[1]);
		const number = h.get(HOOK.NUMBER);
		const where = number === undefined ? -1 : v.getUint32(number[0]);
		if ((family === NFPROTO_INET || family === NFPROTO_IPV4) && (where === PREROUTING || where === FORWARD))
			this.#bans?.base(family, table, this.#text(a.get(CHAIN.NAME)), where === PREROUTING);
		const hook = DEVICE_HOOKS[family]?.[where];
		if (!hook) return;
		const names = h.has(HOOK.DEVICE) ? [this.#text(h.get(HOOK.DEVICE))] : [];
		const prefixes: string[] = [];
		const list = h.get(HOOK.DEVICES);
		if (list !== undefined) {
			this.#each(list[0], list[1], (type, from, to) => {
				if (type === DEVICE_NAME) names.push(this.#text([from, to]));
				else if (type === DEVICE_PREFIX) prefixes.push(this.#text([from, to]));
			});
		}
		const covers = (device: string) => names.includes(device) || prefixes.some((p) => device.startsWith(p));
		chains.push({ hook, name: `${FAMILY_NAMES[family]} ${table} ${this.#text(a.get(CHAIN.NAME))}`, covers });
	}

	#rule(at: number, end: number): void {
		if ((this.#view.getUint16(at + 4, this.#little) & 0xff) !== NFT_MSG_NEWRULE) return;
		const a = this.#attributes(at + HEADER, end);
		const table = this.#text(a.get(RULE.TABLE));
		const comment = a.get(RULE.USERDATA);
		if (table === "fw4") {
			this.firewall4 = true;
			if (comment !== undefined && this.#io.decode(this.#buffer, comment[0], comment[1] - comment[0]).includes(TO_TUN))
				this.firewallKnowsUs = true;
		}
		const expressions = a.get(RULE.EXPRESSIONS);
		// The guard's own keeps the router's ping identifiers apart.
		if (expressions === undefined || table === "masqd") return;
		const list: { name: string; a: Map<number, [number, number]> }[] = [];
		let masquerades = false;
		let redirects = false;
		this.#each(expressions[0], expressions[1], (_, from, to) => {
			const e = this.#attributes(from, to);
			const name = this.#text(e.get(EXPR_NAME));
			const data = e.get(EXPR_DATA);
			const of = data === undefined ? new Map() : this.#attributes(data[0], data[1]);
			list.push({ name, a: of });
			if (name === "payload") this.addressed ||= this.#loadsAddress(of);
			// As iptables-nft writes it.
			const target = name === "target" && data !== undefined ? this.#text(this.#attributes(data[0], data[1]).get(TARGET_NAME)) : "";
			masquerades ||= name === "masq" || target === "MASQUERADE";
			redirects ||= name === "redir" || name === "tproxy" || target === "REDIRECT" || target === "TPROXY";
		});
		const family = this.#view.getUint8(at + 16);
		if (family === NFPROTO_INET || family === NFPROTO_IPV4)
			this.#bans?.rule(this.#reader, family, table, this.#text(a.get(RULE.CHAIN)), list);
		this.forwards.rule(this.#reader, table, this.#text(a.get(RULE.CHAIN)), list);
		if (redirects) this.redirects.push(`${table} ${this.#text(a.get(RULE.CHAIN))}`);
		if (masquerades) this.masquerades.push(`${table} ${this.#text(a.get(RULE.CHAIN))}`);
	}

	/** Whether an expression loads the source or the destination of an IPv4 packet, or their beginning. */
	#loadsAddress(a: ReadonlyMap<number, readonly [number, number]>): boolean {
		const at = (n: number) => this.#view.getUint32(a.get(n)?.[0] ?? 0);
		return at(PAYLOAD.BASE) === NETWORK_HEADER && [12, 16].includes(at(PAYLOAD.OFFSET));
	}

	#flowTable(at: number, end: number): void {
		const v = this.#view;
		if ((v.getUint16(at + 4, this.#little) & 0xff) !== NFT_MSG_NEWFLOWTABLE) return;
		const flags = this.#attributes(at + HEADER, end).get(FLOWTABLE_FLAGS);
		if (flags !== undefined && v.getUint32(flags[0]) & FLOWTABLE_HW) this.flowOffload = "hardware";
		else if (this.flowOffload === "none") this.flowOffload = "software";
	}
}

/** What of the firewall is not for what masqd carries by these ports, in sentences. */
export function firewallWarnings({ redirects, flowOffload }: NftView, lan: readonly { readonly kind: string }[]): string[] {
	const found: string[] = [];
	if (redirects.length > 0 && lan.some((p) => p.kind === "packet"))
		found.push(
			`the firewall redirects connections to the router (nft ${[...new Set(redirects)].join(", ")}), as for DNS: packets of the packet driver do not pass it; option driver 'kernel' or 'tun'`,
		);
	if (flowOffload !== "none" && lan.some((p) => p.kind !== "kernel"))
		found.push(
			`${flowOffload} flow offloading is on: the kernel forwards such flows past masqd; set option flow_offloading${flowOffload === "hardware" ? "_hw" : ""} '0' in the firewall`,
		);
	return found;
}
