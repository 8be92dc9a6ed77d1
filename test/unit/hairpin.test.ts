/** Two internal hosts over an external address (RFC 4787 REQ-9, RFC 5382 REQ-8, RFC 5508 REQ-7). */
import { describe, expect, it } from "vitest";
import { Rig, type RigOptions } from "./rig.ts";
import { icmpError, query, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const X = "203.0.113.1";
const S1 = "203.0.113.10";

/** h1:40000 has a mapping; h2 has been heard, so that frames to both go out at once. */
function rigOf(o: RigOptions = {}): Rig {
	const rig = new Rig(o);
	rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
	return rig;
}

function turned(rig: Rig, frame: ReturnType<typeof udp>, port = 0, to = 0) {
	const o = rig.out(frame, port);
	expect([o.wan.length, o.drops]).toEqual([0, []]);
	expect(o.lan[to].length).toBe(1);
	return o.lan[to][0];
}

describe("hairpin", () => {
	it("U-9 U-9a goes both ways with the external source, one hop less", () => {
		const rig = rigOf();
		const there = turned(rig, udp(`${H2}:41000`, `${X}:40000`));
		expect(there.line).toBe(`udp ${X}:41000 > ${H1}:40000`);
		expect(there.ttl).toBe(63);
		const back = turned(rig, udp(`${H1}:40000`, `${X}:41000`));
		expect(back.line).toBe(`udp ${X}:40000 > ${H2}:41000`);
		expect(back.ttl).toBe(63);
		// The second packets go the common way.
		expect(turned(rig, udp(`${H2}:41000`, `${X}:40000`)).line).toBe(there.line);
		expect(rig.toWan(udp(`${H2}:41000`, `${S1}:1`)).line).toBe(`udp ${X}:41000 > ${S1}:1`);
		rig.verify();
	});

	it("reaches the host itself by its own mapping", () => {
		const rig = rigOf();
		expect(turned(rig, udp(`${H1}:41000`, `${X}:40000`)).line).toBe(`udp ${X}:41000 > ${H1}:40000`);
		expect(turned(rig, udp(`${H1}:40000`, `${X}:40000`)).line).toBe(`udp ${X}:40000 > ${H1}:40000`);
		rig.verify();
	});

	it("T-8 opens and closes a connection", () => {
		const rig = new Rig();
		rig.toWan(tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }));
		expect(turned(rig, tcp(`${H2}:51000`, `${X}:50000`, { flags: "S", seq: 7 })).line).toBe(`tcp ${X}:51000 > ${H1}:50000 S`);
		expect(turned(rig, tcp(`${H1}:50000`, `${X}:51000`, { flags: "SA", ack: 8 })).line).toBe(`tcp ${X}:50000 > ${H2}:51000 SA`);
		expect(turned(rig, tcp(`${H2}:51000`, `${X}:50000`, { flags: "A" })).flags).toBe("A");
		expect(rig.flows().filter((f) => f.endsWith("established")).length).toBe(2);
		for (const gso of [undefined, 1448]) turned(rig, tcp(`${H2}:51000`, `${X}:50000`, gso === undefined ? {} : { gso, payload: 5000 }));
		rig.verify();
	});

	it("leaves nothing behind when nobody has the port", () => {
		const rig = new Rig();
		expect(rig.out(udp(`${H2}:41000`, `${X}:40000`)).drops).toEqual(["no-mapping"]);
		expect(rig.flows()).toEqual([]);
		rig.verify();
	});

	it("I-7 I-7a brings errors back to the sender", () => {
		const rig = rigOf();
		const there = turned(rig, udp(`${H2}:41000`, `${X}:40000`));
		const error = turned(rig, icmpError(H1, X, 3, 3, there.bytes));
		expect(error.line).toBe(`icmp 3/3 ${X} > ${H2} about udp ${H2}:41000 > ${X}:40000`);
		expect(error.ttl).toBe(63);
	});

	it("reaches forwards and static addresses", () => {
		const rig = new Rig({
			forwards: [{ protocol: 6, first: 2222, internal: H1, internalFirst: 22 }],
			statics: [{ internal: H1, external: "203.0.113.9" }],
			lan: [{}, {}],
		});
		rig.hops.answersInternal = true;
		expect(turned(rig, tcp(`${H2}:51000`, `${X}:2222`, { flags: "S" })).line).toBe(`tcp ${X}:51000 > ${H1}:22 S`);
		expect(turned(rig, query(H2, "203.0.113.9", 77)).line).toBe(
			`icmp 8/0 ${X} > ${H1} id ${77}`.replace("id 77", `id ${turned(rig, query(H2, "203.0.113.9", 77)).identifier}`),
		);
		expect(turned(rig, udp("192.168.2.7:9", "203.0.113.9:9"), 1).destination).toBe(H1);
		rig.verify();
	});

	it("counts one hop with the tun driver too", () => {
		const rig = new Rig({ lan: [{ tun: true }] });
		rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
		// The kernel has counted on the way in (64 -> 63 before it came here) and will on the way out.
		expect(turned(rig, udp(`${H2}:41000`, `${X}:40000`, { ttl: 63 })).ttl).toBe(64);
		// A hop for which there is no room is not given back.
		const there = turned(rig, udp(`${H2}:41000`, `${X}:40000`, { ttl: 255 }));
		expect([there.ttl, there.line]).toEqual([255, `udp ${X}:41000 > ${H1}:40000`]);
		const error = turned(rig, icmpError(H1, X, 3, 3, there.bytes, { ttl: 255 }));
		expect([error.ttl, error.line]).toEqual([255, `icmp 3/3 ${X} > ${H2} about udp ${H2}:41000 > ${X}:40000`]);
	});
});
