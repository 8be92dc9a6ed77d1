/** With whom the router itself speaks protocols without ports: tunnel devices, raw sockets, IPsec. */
import { describe, expect, it } from "vitest";
import { RouterProtocols, type RouterProtocolsIo } from "../../src/kernel/router-protocols.ts";
import { LITTLE_ENDIAN } from "../../src/netlink/message.ts";
import { IFF, parseMessages, RTM, type Tunnel } from "../../src/netlink/route.ts";
import { loaded } from "./rig.ts";

const P = "198.51.100.10";
const Q = "192.0.2.20";
const X = "203.0.113.1";

/** As /proc/net/raw shows a raw address. */
const hex = (address: string) => (loaded(address) >>> 0).toString(16).toUpperCase().padStart(8, "0");

/** One xfrm_usersa_info in its message; `encapsulated` in UDP. */
function association(from: string, to: string, protocol: number, encapsulated = false): Uint8Array {
	const bytes = new Uint8Array(16 + 224 + (encapsulated ? 28 : 0));
	const v = new DataView(bytes.buffer);
	v.setUint32(0, bytes.length, LITTLE_ENDIAN);
	v.setUint16(4, 0x10, LITTLE_ENDIAN);
	v.setInt32(16 + 56, loaded(to), LITTLE_ENDIAN);
	v.setUint8(16 + 76, protocol);
	v.setInt32(16 + 80, loaded(from), LITTLE_ENDIAN);
	v.setUint16(16 + 212, 2, LITTLE_ENDIAN);
	if (encapsulated) {
		v.setUint16(16 + 224, 28, LITTLE_ENDIAN);
		v.setUint16(16 + 226, 4, LITTLE_ENDIAN);
	}
	return bytes;
}

const DONE = (() => {
	const bytes = new Uint8Array(20);
	new DataView(bytes.buffer).setUint32(0, 20, LITTLE_ENDIAN);
	new DataView(bytes.buffer).setUint16(4, 3, LITTLE_ENDIAN);
	return bytes;
})();

class Fake implements RouterProtocolsIo {
	files: Record<string, string> = {};
	/** What NETLINK_XFRM answers, a datagram each; null: there is no IPsec. */
	answers: Uint8Array[] | null = null;
	#left: Uint8Array[] = [];
	reads = 0;
	time = 0;
	open = 0;
	links: { flags: number; tunnel: Tunnel | null }[] = [];

	readFile = (path: string): string => {
		const name = path.replace("/proc/net/", "");
		if (name === "raw") this.reads++;
		if (!(name in this.files)) throw new Error("ENOENT");
		return this.files[name];
	};
	netlinkOpen = (protocol: number): number => {
		expect(protocol).toBe(6);
		if (this.answers === null) throw new Error("EPROTONOSUPPORT");
		this.#left = [...this.answers, DONE];
		this.open++;
		return 7;
	};
	netlinkSend = (_fd: number, buffer: ArrayBuffer): void => {
		expect(new DataView(buffer).getUint16(4, LITTLE_ENDIAN)).toBe(0x12);
	};
	netlinkReceive = (_fd: number, buffer: ArrayBuffer): number => {
		const next = this.#left.shift();
		if (next === undefined) return 0;
		new Uint8Array(buffer).set(next);
		return next.length;
	};
	close = (): void => {
		this.open--;
	};
	now = (): number => this.time;
}

function speaking(fake: Fake): (protocol: number, peer: string) => boolean {
	const protocols = new RouterProtocols(fake, () => fake.links);
	return (protocol, peer) => protocols.speaks(protocol, loaded(peer));
}

describe("the router's own protocols", () => {
	it("are nobody's where there is nothing", () => {
		const fake = new Fake();
		expect(speaking(fake)(47, P)).toBe(false);
	});

	it("a tunnel's with its other end, or with anybody", () => {
		const fake = new Fake();
		const value = (address: string) => address.split(".").reduce((n, byte) => n * 256 + Number(byte), 0);
		fake.links = [
			{ flags: IFF.UP, tunnel: { protocols: [47], peer: value(P) } },
			{ flags: IFF.UP, tunnel: { protocols: [115], peer: 0 } },
			// Each module's own device, which is down.
			{ flags: 0, tunnel: { protocols: [41], peer: 0 } },
			{ flags: IFF.UP, tunnel: null },
		];
		const speaks = speaking(fake);
		expect([speaks(47, P), speaks(47, Q), speaks(115, Q), speaks(41, P)]).toEqual([true, false, true, false]);
	});

	it("those of raw sockets, but ping's and those that only send", () => {
		const fake = new Fake();
		const row = (n: number, protocol: number, peer = "0.0.0.0") =>
			`  ${n}: 00000000:${protocol.toString(16).toUpperCase().padStart(4, "0")} ${hex(peer)}:0000 07 00000000:00000000 00:00000000 00000000     0\n`;
		fake.files.raw = `  sl  local_address rem_address   st\n${row(1, 1)}${row(41, 41)}${row(47, 47, P)}${row(255, 255)}`;
		const speaks = speaking(fake);
		expect([speaks(1, P), speaks(255, P), speaks(41, Q), speaks(47, P), speaks(47, Q)]).toEqual([false, false, true, true, false]);
	});

	it("L2TPv3 over IP", () => {
		const fake = new Fake();
		fake.files.protocols = "protocol  size sockets  memory\nL2TP/IP   1080      1      -1\nPING       900      1      -1\n";
		expect(speaking(fake)(115, P)).toBe(true);
		fake.files.protocols = fake.files.protocols.replace("1080      1", "1080      0");
		expect(speaking(fake)(115, P)).toBe(false);
	});

	it("IPsec's, in both directions, but not in UDP", () => {
		const fake = new Fake();
		const both = new Uint8Array(240 * 2);
		both.set(association(X, P, 50));
		both.set(association(Q, X, 51), 240);
		fake.answers = [both, association(X, "192.0.2.77", 50, true)];
		const speaks = speaking(fake);
		expect([speaks(50, P), speaks(51, P), speaks(51, Q), speaks(50, Q), speaks(50, "192.0.2.77")]).toEqual([
			true,
			false,
			true,
			false,
			false,
		]);
		expect(fake.open).toBe(0);
	});

	it("are read once in two seconds", () => {
		const fake = new Fake();
		const speaks = speaking(fake);
		for (fake.time = 0; fake.time < 4000; fake.time += 100) speaks(47, P);
		expect(fake.reads).toBe(2);
	});

	it("a device says what it is", () => {
		const attribute = (type: number, body: number[]) => {
			const bytes = [(body.length + 4) & 255, 0, type, 0, ...body];
			while (bytes.length % 4 !== 0) bytes.push(0);
			return bytes;
		};
		const text = (s: string) => [...s].map((c) => c.charCodeAt(0));
		const link = (kind: string, data: number[]) => {
			const info = attribute(18, [...attribute(1, [...text(kind), 0]), ...attribute(2, data)]);
			const body = [0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, ...info];
			const bytes = Uint8Array.from([16 + body.length, 0, 0, 0, RTM.NEWLINK, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...body]);
			const [message] = parseMessages(bytes.buffer, bytes.length, true);
			return message.kind === "link" ? message.tunnel : undefined;
		};
		const end = [198, 51, 100, 10];
		expect(link("gre", [...attribute(6, [203, 0, 113, 1]), ...attribute(7, end)])).toEqual({ protocols: [47], peer: 0xc633640a });
		expect(link("sit", attribute(3, end))).toEqual({ protocols: [41, 4, 137], peer: 0xc633640a });
		expect(link("ipip", [])).toEqual({ protocols: [4, 137], peer: 0 });
		expect(link("veth", attribute(7, end))).toBeNull();
		expect(link("toString", attribute(7, end))).toBeNull();
	});
});
