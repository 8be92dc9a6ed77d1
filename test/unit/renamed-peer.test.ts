/** Two forwards to one internal endpoint, which one peer endpoint uses at the same time (src/nat/renamed-peer.ts). */
import { describe, expect, it } from "vitest";
import { Rig } from "./rig.ts";
import { icmpError, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const X = "203.0.113.1";
const S1 = "198.51.100.10";

const FORWARDS = [5202, 5203].flatMap((first) => [6, 17].map((protocol) => ({ protocol, first, internal: H1, internalFirst: 5201 })));

/** Both connections, up to the handshake; the peer's port inside of each. */
function open(tun = false): { rig: Rig; internal: number[] } {
	const rig = new Rig({ forwards: FORWARDS, lan: [{ tun }] });
	rig.hops.answersInternal = true;
	const internal = [5202, 5203].map((port) => {
		const syn = rig.toLan(tcp(`${S1}:10000`, `${X}:${port}`, { flags: "S", seq: 7 }));
		expect(syn.line.replace(/:\d+ >/, ":N >")).toBe(`tcp ${S1}:N > ${H1}:5201 S`);
		const peer = Number(syn.line.match(/:(\d+) >/)?.[1]);
		expect(rig.toWan(tcp(`${H1}:5201`, `${S1}:${peer}`, { flags: "SA", ack: 8 })).line).toBe(`tcp ${X}:${port} > ${S1}:10000 SA`);
		expect(rig.toLan(tcp(`${S1}:10000`, `${X}:${port}`, { flags: "A", seq: 8 })).line).toBe(`tcp ${S1}:${peer} > ${H1}:5201 A`);
		return peer;
	});
	return { rig, internal };
}

describe("two forwards to one endpoint", () => {
	it("one peer endpoint has a connection by each", () => {
		for (const tun of [false, true]) {
			const { rig, internal } = open(tun);
			expect(internal[0]).toBe(10000);
			expect(internal[1]).not.toBe(10000);
			// Data, super-packets, partial checksums, options: the rig looks at every checksum.
			for (const more of [
				{ payload: 100 },
				{ payload: 5000, gso: 1448 },
				{ payload: 9, checksum: "partial" as const },
				{ payload: 9, ipOptions: [1, 1, 1, 1] },
			]) {
				for (const [n, port] of [5202, 5203].entries()) {
					const there = rig.toLan(tcp(`${S1}:10000`, `${X}:${port}`, { flags: "PA", seq: 8, ...more }));
					expect(there.line).toBe(`tcp ${S1}:${internal[n]} > ${H1}:5201 PA`);
					const back = rig.toWan(tcp(`${H1}:5201`, `${S1}:${internal[n]}`, { flags: "PA", ack: 8, ...more }));
					expect(back.line).toBe(`tcp ${X}:${port} > ${S1}:10000 PA`);
				}
			}
			rig.verify();
			for (const [n, port] of [5202, 5203].entries()) {
				rig.toWan(tcp(`${H1}:5201`, `${S1}:${internal[n]}`, { flags: "FA", ack: 8 }));
				rig.toLan(tcp(`${S1}:10000`, `${X}:${port}`, { flags: "FA", seq: 8 }));
			}
			expect(rig.flows().every((flow) => flow.endsWith("closing"))).toBe(true);
		}
	});

	it("errors about either are about what their receiver knows", () => {
		const { rig, internal } = open();
		for (const [n, port] of [5202, 5203].entries()) {
			const within = tcp(`${S1}:${internal[n]}`, `${H1}:5201`, { flags: "A" }).ip;
			expect(rig.toWan(icmpError(H1, S1, 3, 3, within)).line).toBe(`icmp 3/3 ${X} > ${S1} about tcp ${S1}:10000 > ${X}:${port} A`);
			const without = tcp(`${X}:${port}`, `${S1}:10000`, { flags: "A" }).ip;
			expect(rig.toLan(icmpError("192.0.2.1", X, 11, 0, without)).line).toBe(
				`icmp 11/0 192.0.2.1 > ${H1} about tcp ${H1}:5201 > ${S1}:${internal[n]} A`,
			);
		}
	});

	it("both outlive a restart", () => {
		const { rig, internal } = open();
		const next = new Rig({ forwards: FORWARDS, from: { image: rig.image(), second: rig.context.now } });
		next.hops.answersInternal = true;
		expect(next.flows().length).toBe(2);
		for (const [n, port] of [5202, 5203].entries()) {
			expect(next.toWan(tcp(`${H1}:5201`, `${S1}:${internal[n]}`, { payload: 10 })).line).toBe(`tcp ${X}:${port} > ${S1}:10000 A`);
			expect(next.toLan(tcp(`${S1}:10000`, `${X}:${port}`, { payload: 10 })).line).toBe(`tcp ${S1}:${internal[n]} > ${H1}:5201 A`);
		}
		next.verify();
	});

	it("datagrams of the second are refused, with a reason", () => {
		const { rig } = open();
		rig.toLan(udp(`${S1}:10000`, `${X}:5202`));
		expect(rig.in(udp(`${S1}:10000`, `${X}:5203`)).drops).toEqual(["endpoint-busy"]);
		rig.verify();
	});
});
