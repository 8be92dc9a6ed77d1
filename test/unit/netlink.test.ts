/**
 * The netlink codecs of src/netlink against bytes that Linux 6.18 on a little-endian machine has sent and taken
 * (test/net/netlink-check.ts shows them).
 */
import { describe, expect, it } from "vitest";
import {
	CT_DELETE,
	CT_GET,
	encodeEntryDump,
	encodeEntryFlush,
	IPS,
	markFilter,
	parseEntry,
	type Tuple,
	writeEntryRequest,
} from "../../src/netlink/conntrack.ts";
import { align, LITTLE_ENDIAN, MessageReader, MessageWriter, NLM_F, NLMSG_DONE, NLMSG_ERROR } from "../../src/netlink/message.ts";
import {
	bitwise,
	CMP,
	CT_KEY,
	compare,
	ct,
	encodeBatch,
	NFPROTO,
	NFT,
	queueTarget,
	writeDeleteTable,
	writeElements,
	writeRule,
} from "../../src/netlink/nftables.ts";
import { encodeBind, HOOK_POSTROUTING, PacketReader, QueuedPacket, Verdicts } from "../../src/netlink/queue.ts";
import { parseAddress } from "../../src/packet/address.ts";
import { swap32 } from "../../src/packet/layout.ts";
import { MARK, OUTBOUND, steer } from "../../src/port/queue-rules.ts";

function bytes(hex: string): ArrayBuffer {
	const out = new Uint8Array(hex.length / 2);
	for (let i = 0; i < out.length; i++) out[i] = Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16);
	return out.buffer;
}

function hex(buffer: ArrayBuffer, length = buffer.byteLength): string {
	return [...new Uint8Array(buffer, 0, length)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const address = (text: string): number => parseAddress(text) as number;

const RULES =
	"14000000100001000a000000000000000000000af0000000060a050c0b00000000000000020000000a0001006d617371640000000800020061736b00c8000480" +
	"2000018007000100637400001400028008000200000000000800010000000008440001800c000100626974776973650034000280080001000000000808000200" +
	"0000000808000300000000040c00048008000100080000000c00058008000100000000002c00018008000100636d700020000280080001000000000808000200" +
	"000000010c0003800800010000000000340001800b0001007461726765740000240002800c0001004e4651554555450008000200000000030c00030005000100" +
	"010000001c020000060a050c0c00000000000000020000000a0001006d61737164000000090002006f75743400000000f001048024000180090001006d657461" +
	"000000001400028008000200000000020800010000000008440001800c0001006269747769736500340002800800010000000008080002000000000908000300" +
	"000000040c00048008000100ffff00000c00058008000100000000002c0001800b0001006c6f6f6b757000001c00028008000100657874000800020000000009" +
	"080003000000000a2c0001800e000100696d6d65646961746500000018000280080001000000000b0c000280080001000000000024000180090001006d657461" +
	"00000000140002800800020000000002080003000000000b200001800700010063740000140002800800020000000003080001000000000b440001800c000100" +
	"626974776973650034000280080001000000000b080002000000000b08000300000000040c00048008000100ffffff0f0c000580080001000000001020000180" +
	"0700010063740000140002800800020000000003080004000000000b400001800e000100627974656f726465720000002c000280080001000000000808000200" +
	"00000008080003000000000108000400000000040800050000000004140001800c000100636f756e746572000400028030000180080001006e61740024000280" +
	"08000100000000000800020000000002080003000000000a080005000000000814000000110001000a000000000000000000000a";
const ACKNOWLEDGEMENTS =
	"24000000020000010b000000164d000000000000f0000000060a050c0b0000000000000024000000020000010c000000164d0000000000001c020000060a050c" +
	"0c00000000000000";
const REFUSAL =
	"440000000200000015000000164d0000feffffff30000000060a050c1500000000000000020000000a0001006d617371640000000c0002006e6f746865726500" +
	"04000480";
const ELEMENT_ADDED =
	"14000000100001001e000000000000000000000a580000000c0a05041f00000000000000020000000a0001006d617371640000000d000200666f727761726473" +
	"000000002800038024000180100001800c000100060000001f900000100002800c000100c0a801020050000014000000110001001e000000000000000000000a";
const BIND = [
	"1c000000020305000100000000000000000000050800010001000002",
	"2000000002030500020000000000000000000005090002000000ffff02000000",
	"1c000000020305000300000000000000000000050800030000001000",
	"240000000203050004000000000000000000000508000500000000040800040000000004",
];
const PACKET =
	"55000000000300000000000000000000020000050b0001000000000108000400080006000000000108000e000000000125000a004500002122d14000401119f9" +
	"7f0000017f000001b95b1b58000dfe2068656c6c6f";
const VERDICT = "28000000010301000000000000000000000000050c00020000000001000000010800150015b34001";
const DUMP = "24000000010101033c0000000000000002000000080008001000000008001500f0000000";
const ENTRY =
	"dc000000000122003c0000006a14aebc020000003400018014000180080001007f000001080002007f0000011c000280050001001100000006000200b95b0000" +
	"060003001b5800003400028014000180080001007f000001080002007f0000091c0002800500010011000000060002001b5800000600030015b3000008000300" +
	"00000198080008001000000008000c00d44dca9e08000b0000000001080007000000001d1c0009800c00010000000000000000010c0002000000000000000021" +
	"1c000a800c00010000000000000000000c000200000000000000000014000000030002003c0000006a14aebc00000000";
const GET_BY_REPLY =
	"48000000010101004600000000000000020000003400028014000180080001007f000001080002007f0000091c0002800500010011000000060002001b580000" +
	"0600030015b30000";
const DELETE =
	"48000000020105004600000000000000020000003400018014000180080001007f000001080002007f0000011c000280050001001100000006000200b95b0000" +
	"060003001b580000";
const DESTROYED =
	"d400000002010000000000006a14aebc020000003400018014000180080001007f000001080002007f0000011c000280050001001100000006000200b95b0000" +
	"060003001b5800003400028014000180080001007f000001080002007f0000091c0002800500010011000000060002001b5800000600030015b3000008000c00" +
	"d44dca9e0800030000000398080007000000001d1c0009800c00010000000000000000010c00020000000000000000211c000a800c0001000000000000000000" +
	"0c00020000000000000000000800080010000000";
const FLUSH = "2400000002010500500000000000000002000000080008001000000008001500f0000000";

const LOCAL = address("127.0.0.1");
const ORIGINAL: Tuple = { protocol: 17, source: LOCAL, destination: LOCAL, sourcePort: 47451, destinationPort: 7000 };
const REPLY: Tuple = { protocol: 17, source: LOCAL, destination: address("127.0.0.9"), sourcePort: 7000, destinationPort: 5555 };

function messages(text: string): MessageReader {
	const buffer = bytes(text);
	return new MessageReader(buffer, buffer.byteLength, true);
}

describe("messages", () => {
	it("are read one after the other, acknowledgements with errno 0", () => {
		const reader = messages(ACKNOWLEDGEMENTS);
		const seen: number[][] = [];
		while (reader.next()) seen.push([reader.type, reader.sequence, reader.errno()]);
		expect(seen).toEqual([
			[NLMSG_ERROR, 11, 0],
			[NLMSG_ERROR, 12, 0],
		]);
		expect(reader.malformed).toBe(false);
	});

	it("tell the errno of a refusal", () => {
		const reader = messages(REFUSAL);
		expect(reader.next()).toBe(true);
		expect([reader.type, reader.sequence, reader.errno()]).toEqual([NLMSG_ERROR, 21, 2]);
		expect(reader.next()).toBe(false);
	});

	it("cut anywhere throw nothing and give nothing beyond the cut", () => {
		for (let length = 0; length < ENTRY.length / 2; length++) {
			const reader = messages(ENTRY.slice(0, length * 2));
			let entries = 0;
			while (reader.next()) if (parseEntry(reader) !== null) entries++;
			expect(entries).toBe(length >= 220 ? 1 : 0);
			expect(reader.malformed).toBe((length >= 16 && length < 220) || (length >= 236 && length < 240));
		}
	});

	it("with any byte changed throw nothing", () => {
		for (const text of [ENTRY, DESTROYED]) {
			const whole = new Uint8Array(bytes(text));
			for (let at = 0; at < whole.length; at++) {
				for (const value of [0, 1, 0xff]) {
					const changed = whole.slice();
					changed[at] = value;
					const reader = new MessageReader(changed.buffer, changed.length, true);
					let count = 0;
					while (reader.next()) {
						parseEntry(reader);
						expect(++count).toBeLessThan(20);
					}
				}
			}
		}
	});

	it("of either byte order differ in the host's numbers alone", () => {
		const of = (little: boolean) =>
			new MessageWriter(little)
				.message({ type: 0x0102, flags: 0x0304, sequence: 0x05060708 })
				.netfilter(2, 0x0910)
				.numberAttribute(1, 0x11121314)
				.networkAttribute(2, 0x15161718)
				.network16Attribute(3, 0x191a)
				.finish();
		expect(hex(of(true))).toBe("2c0000000201040308070605000000000200091008000100141312110800020015161718060003" + "00191a0000");
		expect(hex(of(false))).toBe("0000002c0102030405060708000000000200091000080001111213140008000215161718000600" + "03191a0000");
	});

	it("grow as they are written", () => {
		const out = new MessageWriter(true).message({ type: 1, flags: 1, sequence: 1 }).bytesAttribute(1, new Uint8Array(5000).fill(7));
		const reader = new MessageReader(out.finish(), 5020, true);
		expect(reader.next()).toBe(true);
		const attribute = reader.attributes(0);
		expect(attribute.next()).toBe(true);
		expect([attribute.length, attribute.bytes()?.every((b) => b === 7)]).toEqual([5000, true]);
	});

	it("are aligned to four", () => {
		expect([0, 1, 4, 5].map(align)).toEqual([0, 4, 4, 8]);
	});
});

describe("nftables", () => {
	const header = { type: NFT.NEWSETELEM, flags: NLM_F.REQUEST | NLM_F.ACK | NLM_F.CREATE, sequence: 31 };
	const element = { key: Uint8Array.of(6, 0, 0, 0, 0x1f, 0x90, 0, 0), data: Uint8Array.of(192, 168, 1, 2, 0, 80, 0, 0) };

	it("writes the rules of the kernel driver as the kernel takes them", () => {
		const asked = [ct(CT_KEY.STATE, 8), bitwise(8, 8, 8, 0), compare(8, CMP.NEQ, 0)];
		const text = (little: boolean) => {
			const batch = encodeBatch(
				10,
				(out) => {
					// What the kernel's xtables get is in the order of the machine that asks.
					writeRule(out, NFPROTO.IPV4, "masqd", "ask", little === LITTLE_ENDIAN ? [...asked, queueTarget(5)] : asked, 11);
					writeRule(out, NFPROTO.IPV4, "masqd", "out4", steer("ext", OUTBOUND), 12);
				},
				little,
			);
			return hex(batch);
		};
		if (LITTLE_ENDIAN) expect(text(true)).toBe(RULES);
		// The mask of the mark stands in a register, as the machine loads it.
		expect(text(false)).toContain("0008000100000" + "00b0008000200" + "00000b00080003000000040" + "00c8004000800010fffffff");
	});

	it("writes an element of a map", () => {
		const batch = encodeBatch(30, (out) => writeElements(out, header, NFPROTO.IPV4, "masqd", "forwards", [element]), true);
		expect(hex(batch)).toBe(ELEMENT_ADDED);
	});

	it("writes the deletion of a table, and of all elements of a set", () => {
		const table = hex(encodeBatch(1, (out) => writeDeleteTable(out, NFPROTO.INET, "masqd", 2), true));
		expect(table.slice(40, -40)).toBe("20000000020a05000200000000000000010000000a0001006d61737164000000");
		const set = hex(
			encodeBatch(1, (out) => writeElements(out, { ...header, type: NFT.DELSETELEM }, NFPROTO.INET, "masqd", "own", []), true),
		);
		expect(set.slice(40, -40)).toBe("280000000e0a05041f00000000000000010000000a0001006d6173716400000008000200" + "6f776e00");
	});
});

describe("the queue", () => {
	/** The recorded message in this machine's byte order. */
	function packetHere(): ArrayBuffer {
		const payload = new Uint8Array(bytes(PACKET)).slice(-33);
		const write = (little: boolean) => {
			const out = new MessageWriter(little).message({ type: 0x0300, flags: 0, sequence: 0 }).netfilter(2, 5);
			out
				.bytesAttribute(1, Uint8Array.of(0, 0, 0, 1, 8, 0, 4))
				.networkAttribute(6, 1)
				.networkAttribute(14, 1)
				.bytesAttribute(10, payload);
			return out.finish();
		};
		// The kernel does not pad the last one.
		expect(hex(write(true)).slice(8, PACKET.length)).toBe(PACKET.slice(8));
		return write(LITTLE_ENDIAN);
	}

	it("is set up as the kernel takes it", () => {
		expect(encodeBind(5, { copy: 0xffff, length: 4096 }, 1, true).map((m) => hex(m))).toEqual(BIND);
	});

	it("gives a packet", () => {
		const message = packetHere();
		const at = 8;
		const room = new ArrayBuffer(at + message.byteLength);
		new Uint8Array(room).set(new Uint8Array(message), at);
		const packet = new QueuedPacket();
		expect(new PacketReader(room).read(at, message.byteLength, packet)).toBe(true);
		expect(packet).toMatchObject({ queue: 5, hook: HOOK_POSTROUTING, inDevice: 0, outDevice: swap32(1), length: 33 });
		expect([packet.payload % 4, hex(room.slice(packet.payload, packet.payload + 4))]).toEqual([0, "45000021"]);
	});

	// Seen of a bridge's packets with br_netfilter, whose ports are told too, and of one with a priority of its own.
	it.each([
		["nothing else", []],
		["the bridge's ports", [7, 8]],
		["a mark and a priority", [3, 21]],
		["all of these", [7, 8, 3, 21]],
	])("finds devices and sender beside %s", (_, others) => {
		const out = new MessageWriter().message({ type: 0x300, flags: 0, sequence: 0 }).netfilter(0, 5);
		out.bytesAttribute(1, Uint8Array.of(0, 0, 0, 9, 8, 0, HOOK_POSTROUTING));
		const also = (type: number) => others.includes(type) && out.networkAttribute(type, 77);
		out.networkAttribute(5, 2);
		also(7);
		out.networkAttribute(6, 3);
		also(8);
		also(3);
		also(21);
		out.bytesAttribute(9, Uint8Array.of(0, 6, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0)).bytesAttribute(10, new Uint8Array(20).fill(0x45));
		const message = out.finish();
		const packet = new QueuedPacket();
		expect(new PacketReader(message).read(0, message.byteLength, packet)).toBe(true);
		const network = (value: number) => (LITTLE_ENDIAN ? swap32(value) : value);
		expect(packet).toMatchObject({ queue: 5, inDevice: network(2), outDevice: network(3), length: 20 });
		expect(hex(message.slice(packet.mac, packet.mac + 6))).toBe("020000000001");
	});

	it("gives nothing of a message that is cut short or has a byte changed, and never throws", () => {
		const message = packetHere();
		const packet = new QueuedPacket();
		const reader = new PacketReader(message);
		for (let length = 0; length < message.byteLength; length++) expect(reader.read(0, length, packet)).toBe(false);
		const whole = new Uint8Array(message).slice();
		for (let at = 0; at < whole.length; at++) {
			for (const value of [0, 1, 0xff]) {
				new Uint8Array(message).set(whole);
				new Uint8Array(message)[at] = value;
				if (reader.read(0, whole.length, packet)) expect(packet.payload + packet.length).toBeLessThanOrEqual(whole.length);
			}
		}
	});

	it("takes verdicts, many in a send", () => {
		const id = new Uint32Array(bytes("00000001"))[0];
		const verdicts = new Verdicts(true);
		verdicts.acceptWith(5, id, ((5555 << 16) | 0x4001) >>> 0);
		expect(hex(verdicts.buffer, verdicts.length)).toBe(VERDICT);
		verdicts.accept(6, id);
		verdicts.drop(5, id);
		const plain = (queue: string, verdict: string) => `2000000001030100000000000000000000000${queue}0c0002000000000${verdict}00000001`;
		expect(hex(verdicts.buffer, verdicts.length)).toBe(VERDICT + plain("006", "1") + plain("005", "0"));
		verdicts.length = 0;
		for (let n = 0; n < 64; n++) {
			expect(verdicts.full).toBe(false);
			verdicts.acceptWith(5, id, 1);
		}
		expect(verdicts.full).toBe(true);
	});
});

describe("conntrack", () => {
	it("asks for all of a mark, and deletes them", () => {
		expect(hex(encodeEntryDump(MARK, 60, true))).toBe(DUMP);
		expect(hex(encodeEntryFlush(MARK, 80, true))).toBe(FLUSH);
	});

	it("reads a dump", () => {
		const reader = messages(ENTRY);
		expect(reader.next()).toBe(true);
		expect(parseEntry(reader)).toEqual({
			destroyed: false,
			original: ORIGINAL,
			reply: REPLY,
			status: 0x100 | IPS.CONFIRMED | IPS.SRC_NAT | 0x80,
			timeout: 29,
			mark: MARK.value,
			zone: 0,
			id: 0xd44dca9e,
			tcpState: 0,
			sent: { packets: 1, bytes: 33 },
			received: { packets: 0, bytes: 0 },
		});
		expect(reader.next()).toBe(true);
		expect([reader.type, reader.errno(), parseEntry(reader)]).toEqual([NLMSG_DONE, 0, null]);
	});

	it("reads the end of an entry", () => {
		const reader = messages(DESTROYED);
		reader.next();
		expect(parseEntry(reader)).toMatchObject({ destroyed: true, original: ORIGINAL, reply: REPLY, mark: MARK.value });
	});

	it("asks for one and deletes one by a tuple", () => {
		const request = (type: number, flags: number, tuple: Tuple, reply: boolean) =>
			hex(writeEntryRequest(new MessageWriter(true), { type, flags, sequence: 70 }, tuple, reply).finish());
		expect(request(CT_GET, NLM_F.REQUEST, REPLY, true)).toBe(GET_BY_REPLY);
		expect(request(CT_DELETE, NLM_F.REQUEST | NLM_F.ACK, ORIGINAL, false)).toBe(DELETE);
	});

	it("names an ICMP query by identifier, type and code", () => {
		const query = { protocol: 1, source: LOCAL, destination: LOCAL, sourcePort: 0x1234, destinationPort: 0x0800 };
		const out = writeEntryRequest(new MessageWriter(true), { type: CT_GET, flags: NLM_F.REQUEST, sequence: 1 }, query);
		const text = hex(out.finish());
		expect(text).toContain("0600040012340000" + "0500050008000000" + "0500060000000000");
		// As the kernel would tell it: the same tuple, and one of the reply.
		const tuple = text.slice(40);
		const size = (20 + tuple.length).toString(16);
		const both = messages(`${size}0000000001${text.slice(12, 40)}${tuple}${tuple.replace("0180", "0280")}`);
		expect(both.next()).toBe(true);
		expect(parseEntry(both)?.original).toEqual(query);
	});

	/** Runs the filter as the kernel does. */
	function passes(text: string): boolean {
		const buffer = bytes(text);
		const v = new DataView(buffer);
		const program = markFilter(MARK);
		let a = 0;
		let x = 0;
		for (let pc = 0; ; pc++) {
			const [code, yes, no, k] = program.slice(pc * 4, pc * 4 + 4);
			if (code === 0x00) a = k;
			else if (code === 0x01) x = k;
			else if (code === 0x20) {
				expect(k).toBe(-0x1000 + 12);
				let at = a;
				while (at + 4 <= v.byteLength && (v.getUint16(at + 2, true) & 0x3fff) !== x) at += align(v.getUint16(at, true));
				a = at + 4 <= v.byteLength ? at : 0;
			} else if (code === 0x40) a = v.getUint32(x + k);
			else if (code === 0x54) a &= k;
			else if (code === 0x07) x = a;
			else if (code === 0x15) pc += (a | 0) === k ? yes : no;
			else return k !== 0;
		}
	}

	it("filters events by mark", () => {
		expect(passes(DESTROYED)).toBe(true);
		expect(passes(DESTROYED.replace("0800080010000000", "0800080018000007"))).toBe(true);
		expect(passes(DESTROYED.replace("0800080010000000", "0800080020000000"))).toBe(false);
		expect(passes(DESTROYED.replace("0800080010000000", "0800090010000000"))).toBe(false);
	});
});
