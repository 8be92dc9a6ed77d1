/** What is too big for its way: the MTU of a route that has its own (RFC 1191). */
import { describe, expect, it } from "vitest";
import { Rig } from "./rig.ts";
import { GSO_TCP4, query, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const X = "203.0.113.1";
const S1 = "198.51.100.10";
const S2 = "192.0.2.20";

/** The route to S1 has an MTU of 1280, all others the link's. */
function rigOf(): Rig {
	const rig = new Rig();
	rig.hops.route(S1, 1280);
	rig.hops.answersInternal = true;
	rig.accounts = false;
	return rig;
}

describe("a route's own MTU", () => {
	it("packets with DF are answered with it, others are cut to it", () => {
		for (const ipOptions of [undefined, [1, 1, 1, 1]]) {
			const rig = rigOf();
			// The checksum of a datagram stands in its first fragment, for all of it.
			rig.strict = false;
			const header = ipOptions === undefined ? 28 : 32;
			const o = rig.out(udp(`${H1}:40000`, `${S1}:5000`, { payload: 1281 - header, ipOptions }));
			expect([o.wan.length, o.drops]).toEqual([0, ["too-big"]]);
			expect(o.lan[0][0].line).toContain(`icmp 3/4 192.168.1.1 > ${H1}`);
			expect((o.lan[0][0].bytes[26] << 8) | o.lan[0][0].bytes[27]).toBe(1280);
			expect(rig.out(udp(`${H1}:40000`, `${S1}:5000`, { payload: 1280 - header, ipOptions })).wan.length).toBe(1);
			const cut = rig.out(udp(`${H1}:40000`, `${S1}:5000`, { payload: 1400, df: false, ipOptions }));
			expect(cut.wan.map((p) => p.bytes.length > 1280)).toEqual([false, false]);
			// The link's own to everybody else.
			expect(rig.out(udp(`${H1}:40000`, `${S2}:5000`, { payload: 1500 - header, ipOptions })).wan.length).toBe(1);
			expect(rig.out(udp(`${H1}:40000`, `${S2}:5000`, { payload: 1501 - header, ipOptions })).drops).toEqual(["too-big"]);
			expect(rig.out(query(H1, S1, 7, { payload: 1300 })).drops).toEqual(["too-big"]);
		}
	});

	it("the segments of a super-packet have to fit it", () => {
		const rig = rigOf();
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		rig.toLan(tcp(`${S1}:80`, `${X}:50000`, { flags: "SA" }));
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "A" }));
		expect(rig.out(tcp(`${H1}:50000`, `${S1}:80`, { gso: 1240, payload: 5000 })).wan[0].gsoType).toBe(GSO_TCP4);
		expect(rig.out(tcp(`${H1}:50000`, `${S1}:80`, { gso: 1241, payload: 5000 })).drops).toEqual(["too-big"]);
	});

	it("MSS is clamped to it in both directions", () => {
		const rig = rigOf();
		const mss = { options: [2, 4, 1460 >> 8, 1460 & 255] };
		const told = (bytes: Uint8Array) => (bytes[42] << 8) | bytes[43];
		for (const [peer, most] of [
			[S1, 1240],
			[S2, 1460],
		] as const) {
			expect(told(rig.toWan(tcp(`${H1}:50000`, `${peer}:80`, { flags: "S", ...mss })).bytes)).toBe(most);
			expect(told(rig.toLan(tcp(`${peer}:80`, `${X}:50000`, { flags: "SA", ...mss })).bytes)).toBe(most);
		}
	});
});
