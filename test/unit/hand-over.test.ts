/** What the kernel is told of the connections that it is to go on with: the requests, as it would read them. */
import { describe, expect, it } from "vitest";
import {
	EXTERNAL_SHIFT,
	MOVED,
	R_IN,
	R_INTERNAL,
	R_META,
	R_OUT,
	R_PEER,
	RECORD_SHIFT,
	RECORD_WORDS,
	STATE_SHIFT,
} from "../../src/conntrack/record.ts";
import { FREE, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_IN, TCP_RESET, TCP_SYN_OUT, UDP_OPEN } from "../../src/conntrack/states.ts";
import { handOver } from "../../src/kernel/hand-over.ts";
import { CT_DELETE, CT_NEW, parseEntry } from "../../src/netlink/conntrack.ts";
import { LITTLE_ENDIAN, MessageReader } from "../../src/netlink/message.ts";
import { formatAddress, parseAddress } from "../../src/packet/address.ts";
import { pair, swap16, swap32, TCP, UDP } from "../../src/packet/layout.ts";

const loaded = (address: string) => swap32(parseAddress(address) as number);
const EXTERNALS = Int32Array.of(loaded("203.0.113.1"), loaded("203.0.113.2"));

interface Record {
	protocol?: number;
	state?: number;
	flags?: number;
	external?: number;
	externalPort?: number;
	/** The peer's port, if it is another one inside. */
	renamed?: number;
}

/** A table of sessions from 192.168.1.10:40001 on to 198.51.100.1:80. */
function table(records: Record[]): Int32Array {
	const T = new Int32Array((records.length + 1) * RECORD_WORDS);
	for (const [
		n,
		{ protocol = TCP, state = TCP_ESTABLISHED, flags = 0, external = 0, externalPort = 50001 + n, renamed = 80 },
	] of records.entries()) {
		const e = (n + 1) << RECORD_SHIFT;
		T[e + R_INTERNAL] = loaded("192.168.1.10");
		T[e + R_PEER] = loaded("198.51.100.1");
		T[e + R_OUT] = pair(swap16(40001 + n), swap16(renamed));
		T[e + R_IN] = pair(swap16(80), swap16(externalPort));
		T[e + R_META] = protocol | (external << EXTERNAL_SHIFT) | (state << STATE_SHIFT) | flags;
	}
	return T;
}

/** A kernel that answers every request of a type with an errno, 0 for none; and what it was asked, in words. */
function kernel(errno: (type: number) => number) {
	const asked: string[] = [];
	const written: string[] = [];
	let answers: number[] = [];
	const io = {
		netlinkOpen: () => 7,
		netlinkSend: (_: number, buffer: ArrayBuffer, length: number) => {
			for (const reader = new MessageReader(buffer, length); reader.next(); ) {
				asked.push(words(reader));
				if (errno(reader.type) !== 0) answers.push(errno(reader.type));
			}
		},
		netlinkReceive: (_: number, buffer: ArrayBuffer) => {
			const [first, ...rest] = answers;
			if (first === undefined) return 0;
			answers = rest;
			const view = new DataView(buffer);
			view.setUint32(0, 20, LITTLE_ENDIAN);
			view.setUint16(4, 2, LITTLE_ENDIAN);
			view.setInt32(16, -first, LITTLE_ENDIAN);
			return 20;
		},
		close: () => {
			asked.push("close");
		},
		writeFile: (path: string, text: string) => {
			written.push(`${path} ${text.trim()}`);
		},
	};
	return { io: io as unknown as Parameters<typeof handOver>[0], asked, written };
}

function words(reader: MessageReader): string {
	const text: string[] = [];
	for (const a = reader.attributes(4); a.next(); ) {
		if (a.type === 1 || a.type === 2) {
			const ends: string[] = ["", "", "", ""];
			for (const part = a.nested(); part.next(); )
				for (const b = part.nested(); b.next(); ) {
					if (part.type === 1) ends[b.type - 1] = formatAddress(b.network(0));
					else if (b.type > 1) ends[b.type] = `${b.network16(0)}`;
				}
			text.push(`${ends[0]}:${ends[2]}>${ends[1]}:${ends[3]}`);
		} else if (a.type === 6) {
			let nat = "";
			for (const b = a.nested(); b.next(); ) {
				if (b.type === 1) nat += formatAddress(b.network(0));
				else for (const c = b.nested(); c.next(); ) nat += `:${c.network16(0)}`;
			}
			text.push(`as ${nat}`);
		}
	}
	const entry = parseEntry(reader);
	if (reader.type === CT_NEW) text.push(`state ${entry?.tcpState} status ${entry?.status} for ${entry?.timeout}`);
	return `${reader.type === CT_DELETE ? "delete" : "make"} ${text.join(" ")}`;
}

describe("the kernel takes over", () => {
	it("established connections, with the address and port that they have outside, in place of what it knew", () => {
		const { io, asked, written } = kernel((type) => (type === CT_DELETE ? 2 : 0));
		handOver(io, table([{}, { external: 1, externalPort: 443, state: TCP_FIN_IN }]), EXTERNALS, 2);
		expect(asked).toEqual([
			"delete 192.168.1.10:40001>198.51.100.1:80",
			"delete 192.168.1.10:40002>198.51.100.1:80",
			"make 192.168.1.10:40001>198.51.100.1:80 198.51.100.1:80>192.168.1.10:40001 as 203.0.113.1:50001 state 3 status 14 for 7440",
			"make 192.168.1.10:40002>198.51.100.1:80 198.51.100.1:80>192.168.1.10:40002 as 203.0.113.2:443 state 3 status 14 for 7440",
			"close",
		]);
		expect(written).toEqual([]);
	});

	it("nothing else: what has ended, what its NAT cannot go on with, what is no connection", () => {
		const { io, asked } = kernel(() => 0);
		const records = [
			{ state: TCP_SYN_OUT },
			{ state: TCP_CLOSING },
			{ state: TCP_RESET },
			{ flags: MOVED },
			{ renamed: 81 },
			{ protocol: UDP, state: UDP_OPEN },
			{ state: FREE },
		];
		handOver(io, table(records), EXTERNALS, records.length);
		expect(asked.filter((line) => line.startsWith("make"))).toEqual([]);
		expect(asked.filter((line) => line.startsWith("delete")).length).toBe(5);
	});

	it("all of many, though it has one of them already", () => {
		const { io, asked } = kernel((type) => (type === CT_NEW ? 17 : 0));
		handOver(io, table(Array.from({ length: 300 }, () => ({}))), EXTERNALS, 300);
		expect(new Set(asked).size).toBe(601);
		expect(asked.at(-2)).toContain("192.168.1.10:40300>198.51.100.1:80 198.51.100.1:80>192.168.1.10:40300 as 203.0.113.1:50300");
	});

	it("by address where ctnetlink is not installed: then it knows nothing of them", () => {
		const { io, asked, written } = kernel(() => 22);
		handOver(io, table([{}, {}]), EXTERNALS, 2);
		expect(asked.filter((line) => line.startsWith("make"))).toEqual([]);
		expect(written).toEqual(["/proc/net/nf_conntrack 192.168.1.10"]);
	});

	it("nothing, without a word, where it has no conntrack", () => {
		const { io, asked } = kernel(() => 0);
		handOver(io, table([{ protocol: UDP, state: UDP_OPEN }]), EXTERNALS, 1);
		expect(asked).toEqual([]);
		const none = () => {
			throw new Error("EPROTONOSUPPORT");
		};
		expect(() => handOver({ ...io, netlinkOpen: none } as never, table([{}]), EXTERNALS, 1)).not.toThrow();
	});
});
