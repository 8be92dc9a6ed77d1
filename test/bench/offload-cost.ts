/**
 * What offload costs in the engine: assembling and loading both programs, installing and removing a session. The bench
 * runs it on masqd's own engine, in a network namespace with the devices whose indexes are its arguments: WAN, LAN.
 * Prints one JSON object, in CPU time.
 */
import * as native from "masq:native";
import { Hosts } from "../../src/conntrack/hosts.ts";
import { ICMP_QUERY, stateTimeouts, UDP_NEW, UDP_OPEN } from "../../src/conntrack/states.ts";
import { Table } from "../../src/conntrack/table.ts";
import { layoutTable } from "../../src/conntrack/table-layout.ts";
import { layoutCache } from "../../src/offload/cache.ts";
import { Offload } from "../../src/offload/offload.ts";
import { HOST_HEADERS, headerTag } from "../../src/packet/header-tag.ts";
import { swap16, swap32, UDP } from "../../src/packet/layout.ts";
import { LinkHeaders } from "../../src/packet/link-header.ts";

const SESSIONS = 16384;
const timeouts = stateTimeouts({
	udp: 300,
	dns: 2,
	icmp: 60,
	tcp_opening: 240,
	tcp_established: 7440,
	tcp_closing: 240,
	tcp_reset: 240,
	other: 300,
});
const layout = layoutTable(SESSIONS, 0);
const memory = new ArrayBuffer(layout.words * 4);
// Keys of a table are random; small ones would make long chains.
const table = new Table(memory, layout, Int32Array.of(0x3c6ef372, 0x2545f491, 0x5bd1e995), timeouts);
const hosts = new Hosts(memory, layout, 7);
const headers = new LinkHeaders(layout.hosts);
const tags = new Int32Array(256).fill(headerTag(1));
const addresses = Int32Array.of(swap32(0xcb007101));
const mac = Uint8Array.of(2, 0, 0, 0, 0, 1);
let milliseconds = 1000;

const indexes = native.args().map(Number);
const device = (index: number) => ({ index, ethernet: true, mtu: 1500, mac });
const offload = new Offload(
	{
		table,
		hosts,
		headers,
		tags,
		addresses,
		seconds: () => 1,
		now16: () => 1,
		milliseconds: () => milliseconds,
		neighbour: () => null,
		routeMtu: () => 0,
		attachClassic: () => {},
		detachClassic: () => {},
		inUse: () => {},
		mtuTo: () => 1500,
	},
	null,
);

let from = native.cpuNanoseconds();
offload.renew({
	wan: device(indexes[0]),
	lan: [{ ...device(indexes[1]), kernelForwards: false, nets: [{ address: 0xc0a80100, mask: 0xffffff00 }] }],
	filters: "",
	standsBack: false,
	externals: [{ first: 0xcb007101, last: 0xcb007101 }],
});
const load = native.cpuNanoseconds() - from;

const internal = swap32(0xc0a80102);
const host = hosts.obtain(internal, 0);
headers.set(HOST_HEADERS + host, mac, 0, mac);
hosts.place(host, 0);
for (let n = 0; n < SESSIONS; n++) {
	hosts.retain(host);
	const session = {
		protocol: UDP,
		internal: internal,
		internalPort: swap16(1024 + n),
		address: addresses[0],
		external: 0,
		externalPort: swap16(32768 + n),
		peer: swap32(0xcb007102),
		peerPort: swap16(9000),
		peerPortInternal: swap16(9000),
		state: UDP_NEW,
		host,
		hop: 1,
		mapped: 0,
	};
	table.create(session, 1);
}
// The state changes with and without the hooks: the difference is the installation.
const change = (state: number) => {
	from = native.cpuNanoseconds();
	for (let i = 1; i <= SESSIONS; i++) table.setState(i, state, 1);
	return (native.cpuNanoseconds() - from) / SESSIONS;
};
const plain = Math.min(change(UDP_OPEN), change(UDP_NEW), change(ICMP_QUERY), change(UDP_NEW));
table.hooks = offload;
let install = Number.POSITIVE_INFINITY;
let remove = Number.POSITIVE_INFINITY;
for (let round = 0; round < 5; round++) {
	install = Math.min(install, change(UDP_OPEN) - plain);
	if (offload.status("on").flows < SESSIONS * 0.99) throw new Error(`only ${offload.status("on").flows} sessions were taken`);
	remove = Math.min(remove, change(UDP_NEW) - plain);
	milliseconds += 1000;
}
const bytes = layoutCache(SESSIONS).bytes / SESSIONS;
native.print(1, `${JSON.stringify({ load, install, remove, bytes })}\n`);
offload.close();
native.exit(0);
