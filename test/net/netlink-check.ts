/**
 * The codecs of src/netlink against a real kernel, on the real engine; run by run-netlink-check.sh in a namespace of
 * its own. A packet of the namespace's own is queued, gets a verdict with address and port, and the kernel's entry is
 * read, found, reported and deleted. Prints one line a check (with MASQD_TRACE=1 the bytes that the kernel sent too),
 * ends with status 0 if all hold.
 */
import * as native from "masq:native";
import {
	CT_DELETE,
	CT_GET,
	CT_GROUP,
	type Entry,
	encodeEntryDump,
	encodeEntryFlush,
	IPS,
	markFilter,
	parseEntry,
	type Tuple,
	writeEntryRequest,
} from "../../src/netlink/conntrack.ts";
import { MessageReader, MessageWriter, NETLINK_NETFILTER, NLM_F, NLMSG_ERROR } from "../../src/netlink/message.ts";
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
	writeElements,
	writeRule,
} from "../../src/netlink/nftables.ts";
import { encodeBind, HOOK_POSTROUTING, PacketReader, QueuedPacket, Verdicts } from "../../src/netlink/queue.ts";
import { formatAddress } from "../../src/packet/address.ts";
import { swap32 } from "../../src/packet/layout.ts";
import { MARK, OUT, OUTBOUND, steer } from "../../src/port/queue-rules.ts";

const RULES = `table ip masqd {
 map ext { type mark : ipv4_addr; elements = { 0x4001 : 127.0.0.9 }; }
 map forwards { type inet_proto . inet_service : ipv4_addr . inet_service; }
 chain ask { type filter hook postrouting priority 95; }
 chain out4 { type nat hook postrouting priority 99; }
}`;
const QUEUE = 5;
const PATIENCE = 5000;

let failures = 0;
let passes = 0;
function check(what: string, holds: boolean, seen = ""): void {
	if (holds) passes++;
	else failures++;
	native.print(1, `${holds ? "ok  " : "FAIL"} ${what}${seen === "" ? "" : `: ${seen}`}\n`);
}

const trace = native.getenv("MASQD_TRACE") === "1";
function show(what: string, buffer: ArrayBuffer, length: number): void {
	if (!trace) return;
	const text = [...new Uint8Array(buffer, 0, length)].map((b) => b.toString(16).padStart(2, "0")).join("");
	native.print(1, `     ${what} ${text}\n`);
}

function shell(script: string, input = ""): void {
	const { status, output } = native.run(["sh", "-c", script], input, 10_000);
	if (status !== 0) throw new Error(`${script}: ${output}`);
}

function await_(fd: native.Fd): boolean {
	return native.poll(new Int32Array([fd, native.POLLIN, 0]), 1, PATIENCE) > 0;
}

const rx = new ArrayBuffer(65536);

/** Sends a request and collects the answers that are there: errnos (acknowledgements are 0) and entries. */
function ask(fd: native.Fd, what: string, request: ArrayBuffer): { errnos: number[]; entries: Entry[]; types: number[] } {
	show(`${what} >`, request, request.byteLength);
	native.netlinkSend(fd, request, request.byteLength);
	const answer = { errnos: [] as number[], entries: [] as Entry[], types: [] as number[] };
	for (let length = native.netlinkReceive(fd, rx); length > 0; length = native.netlinkReceive(fd, rx)) {
		show(`${what} <`, rx, length);
		for (const reader = new MessageReader(rx, length); reader.next(); ) {
			answer.types.push(reader.type);
			if (reader.type === NLMSG_ERROR) answer.errnos.push(reader.errno());
			const entry = parseEntry(reader);
			if (entry !== null) answer.entries.push(entry);
		}
	}
	return answer;
}

function text({ protocol, source, sourcePort, destination, destinationPort }: Tuple): string {
	return `${protocol} ${formatAddress(source)}:${sourcePort} > ${formatAddress(destination)}:${destinationPort}`;
}

function main(): void {
	shell("ip link set lo up; sysctl -qw net.netfilter.nf_conntrack_acct=1; nft -f -", RULES);
	const nft = native.netlinkOpen(NETLINK_NETFILTER, []);
	const rules = encodeBatch(10, (out) => {
		const asked = [ct(CT_KEY.STATE, 8), bitwise(8, 8, 8, 0), compare(8, CMP.NEQ, 0), queueTarget(QUEUE)];
		writeRule(out, NFPROTO.IPV4, "masqd", "ask", asked, 11);
		writeRule(out, NFPROTO.IPV4, "masqd", "out4", steer("ext", OUTBOUND), 12);
	});
	const written = ask(nft, "rules", rules);
	check("a batch of two rules is taken and acknowledged", String(written.errnos) === "0,0", String(written.errnos));
	const listed = native.run(["nft", "list", "chain", "ip", "masqd", "out4"], "", 10_000).output;
	check(
		"nft shows the rule that steers",
		/snat to meta priority .*map @ext|snat to .*meta priority/.test(listed.replace(/\s+/g, " ")),
		listed.split("\n")[3]?.trim(),
	);

	const refused = ask(
		nft,
		"refusal",
		encodeBatch(20, (out) => {
			writeRule(out, NFPROTO.IPV4, "masqd", "nothere", [], 21);
		}),
	);
	check("a refused batch says which errno", refused.errnos.includes(2), String(refused.errnos));

	// Elements of a map: protocol . port : address . port, each part in a word of its own.
	const element = { key: Uint8Array.of(6, 0, 0, 0, 0x1f, 0x90, 0, 0), data: Uint8Array.of(192, 168, 1, 2, 0, 80, 0, 0) };
	const one = (type: number, flags: number, sequence: number) =>
		encodeBatch(sequence, (out) =>
			writeElements(out, { type, flags: NLM_F.REQUEST | NLM_F.ACK | flags, sequence: sequence + 1 }, NFPROTO.IPV4, "masqd", "forwards", [
				element,
			]),
		);
	check("an element is added", String(ask(nft, "element", one(NFT.NEWSETELEM, NLM_F.CREATE, 30)).errnos) === "0");
	const map = native.run(["nft", "list", "map", "ip", "masqd", "forwards"], "", 10_000).output;
	check("nft shows it", /tcp \. 8080 : 192\.168\.1\.2 \. 80/.test(map), map.replace(/\s+/g, " "));
	check("it is deleted", String(ask(nft, "element", one(NFT.DELSETELEM, 0, 40)).errnos) === "0");
	check("and is not there any more", ask(nft, "element", one(NFT.DELSETELEM, 0, 50)).errnos.includes(2));

	const events = native.netlinkOpen(NETLINK_NETFILTER, [CT_GROUP.DESTROY]);
	native.packetFilter(events, markFilter(MARK));
	const queue = native.netlinkOpen(NETLINK_NETFILTER, []);
	const bound = encodeBind(QUEUE, { copy: 0xffff, length: 4096 }, 1).flatMap((m) => ask(queue, "bind", m).errnos);
	check("a queue is bound", String(bound) === "0,0,0,0", String(bound));

	shell("printf hello >/dev/udp/127.0.0.1/7000 || bash -c 'printf hello >/dev/udp/127.0.0.1/7000'");
	check("a packet is queued", await_(queue));
	const length = native.netlinkReceive(queue, rx);
	show("packet <", rx, length);
	const packet = new QueuedPacket();
	const isPacket = new PacketReader(rx).read(0, length, packet);
	const ip = new DataView(rx, packet.payload);
	const sourcePort = ip.getUint16(20);
	check(
		"it is read",
		isPacket && packet.queue === QUEUE && packet.hook === HOOK_POSTROUTING && packet.outDevice === swap32(1) && packet.length === 33,
	);
	check("its payload is the IP packet", ip.getUint8(0) === 0x45 && ip.getUint16(22) === 7000);
	const verdicts = new Verdicts();
	verdicts.acceptWith(packet.queue, packet.id, ((5555 << 16) | OUT | 1) >>> 0);
	show("verdict >", verdicts.buffer, verdicts.length);
	native.netlinkSend(queue, verdicts.buffer, verdicts.length);

	const connections = native.netlinkOpen(NETLINK_NETFILTER, []);
	const dump = ask(connections, "dump", encodeEntryDump(MARK, 60));
	const [entry] = dump.entries;
	check("the dump by mark has the entry alone", dump.entries.length === 1, String(dump.entries.length));
	check("its original tuple is the sender's", text(entry.original) === `17 127.0.0.1:${sourcePort} > 127.0.0.1:7000`, text(entry.original));
	check(
		"its reply tuple has address and port of the verdict",
		text(entry.reply) === "17 127.0.0.1:7000 > 127.0.0.9:5555",
		text(entry.reply),
	);
	check("it is translated and marked", (entry.status & IPS.SRC_NAT) !== 0 && (entry.mark & MARK.mask) >>> 0 === MARK.value);
	check("it is counted", entry.sent?.packets === 1 && entry.sent.bytes === 33);
	check(
		"a dump by another mark has none",
		ask(connections, "none", encodeEntryDump({ value: 0x20000000, mask: 0xf0000000 }, 61)).entries.length === 0,
	);

	const single = (type: number, flags: number, tuple: Tuple, reply: boolean) =>
		writeEntryRequest(new MessageWriter(), { type, flags: NLM_F.REQUEST | flags, sequence: 70 }, tuple, reply).finish();
	const found = ask(connections, "get", single(CT_GET, 0, entry.reply, true));
	check("an entry is found by its reply tuple", found.entries.length === 1 && text(found.entries[0].original) === text(entry.original));
	const free = ask(connections, "get", single(CT_GET, 0, { ...entry.reply, destinationPort: 5556 }, true));
	check("a tuple that is free is ENOENT", String(free.errnos) === "2", String(free.errnos));
	check(
		"an entry is deleted by its tuple",
		String(ask(connections, "delete", single(CT_DELETE, NLM_F.ACK, entry.original, false)).errnos) === "0",
	);
	check("its end is told", await_(events));
	const told = native.netlinkReceive(events, rx);
	show("destroy <", rx, told);
	const reader = new MessageReader(rx, told);
	const gone = reader.next() ? parseEntry(reader) : null;
	check("as the entry's", gone?.destroyed === true && text(gone.original) === text(entry.original));

	// Two more: an entry with our mark, one without, of which no end is to be told.
	shell("bash -c 'printf one >/dev/udp/127.0.0.1/7001; printf two >/dev/udp/127.0.0.1/7002'");
	for (let n = 0; n < 2; n++) {
		await_(queue);
		verdicts.length = 0;
		new PacketReader(rx).read(0, native.netlinkReceive(queue, rx), packet);
		if (n === 0) verdicts.accept(packet.queue, packet.id);
		else verdicts.acceptWith(packet.queue, packet.id, ((5557 << 16) | OUT | 1) >>> 0);
		native.netlinkSend(queue, verdicts.buffer, verdicts.length);
	}
	check("all of a mark are deleted", String(ask(connections, "flush", encodeEntryFlush(MARK, 80)).errnos) === "0");
	shell("conntrack -F 2>/dev/null");
	const ends: string[] = [];
	while (await_(events) && ends.length === 0) {
		for (let bytes = native.netlinkReceive(events, rx); bytes > 0; bytes = native.netlinkReceive(events, rx))
			for (const r = new MessageReader(rx, bytes); r.next(); ) {
				const e = parseEntry(r);
				if (e !== null) ends.push(text(e.reply));
			}
		break;
	}
	check("only the end of ours is told", String(ends) === "17 127.0.0.1:7002 > 127.0.0.9:5557", String(ends));

	shell("bash -c 'printf three >/dev/udp/127.0.0.1/7003'");
	await_(queue);
	new PacketReader(rx).read(0, native.netlinkReceive(queue, rx), packet);
	verdicts.length = 0;
	verdicts.drop(packet.queue, packet.id);
	native.netlinkSend(queue, verdicts.buffer, verdicts.length);
	const left = native.run(["sh", "-c", "conntrack -L 2>/dev/null | grep -c 7003"], "", 10_000).output.trim();
	check("a dropped packet leaves no entry", left === "0", left);
}

main();
native.print(1, `${passes} passed, ${failures} failed\n`);
native.exit(failures === 0 ? 0 : 1);
