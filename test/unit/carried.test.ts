/**
 * First packets of flows that the kernel carries: what is decided about them is what becomes of any packet, but that
 * nothing of it is rewritten.
 */
import { describe, expect, it } from "vitest";
import { BATCH } from "../../src/nat/context.ts";
import { macOf, Rig, type RigOptions, WAN_MAC } from "./rig.ts";
import { type Frame, tcp, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const H2 = "192.168.1.20";
const X = "203.0.113.1";
const S1 = "203.0.113.10";
const S2 = "203.0.113.20";

/** Has a frame of LAN port 0 decided about; what it may have queued stays there. */
function carried(rig: Rig, frame: Frame): number {
	const from = `${frame.ip[12]}.${frame.ip[13]}.${frame.ip[14]}.${frame.ip[15]}`;
	rig.put(0, frame, rig.context.lan[0], WAN_MAC, macOf(from));
	return rig.slowPath.carried(0, frame.ip.length, 0);
}

/** The same frames in two rigs, carried in one of them. */
function twins(frames: Frame[], options: RigOptions = {}): void {
	const one = new Rig(options);
	const other = new Rig(options);
	for (const frame of frames) {
		const sent = one.out(frame);
		const drops = other.context.drops.slice();
		const before = other.context.wan.queue.count;
		const i = carried(other, frame);
		expect(i > 0, frame.ip.toString()).toBe(sent.wan.length === 1);
		if (i > 0) expect(other.describe(i)).toContain(` ${sent.wan[0].source}:${sent.wan[0].sourcePort} `);
		// Of what leaves itself nothing is queued.
		expect(other.context.wan.queue.count).toBe(before);
		expect(other.flows()).toEqual(one.flows());
		expect(other.context.drops.map((n, k) => n - drops[k]).reduce((sum, n) => sum + n, 0)).toBe(sent.drops.length);
		expect(other.context.drops).toEqual(one.context.drops);
		for (const { queue } of other.context.lan) expect(queue.count).toBeLessThan(BATCH);
	}
	other.verify();
	expect([other.context.forwardedOut, other.context.errorsSent]).toEqual([one.context.forwardedOut, one.context.errorsSent]);
}

describe("a packet that the kernel carries", () => {
	it("gets the mapping that it would have: the port kept, shared by peers, another where two hosts meet", () => {
		twins([
			udp(`${H1}:40000`, `${S1}:3478`),
			udp(`${H1}:40000`, `${S2}:3478`),
			udp(`${H2}:40000`, `${S1}:3478`),
			tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }),
			tcp(`${H1}:50000`, `${S1}:80`, { flags: "S" }),
			tcp(`${H2}:50000`, `${S1}:80`, { flags: "S" }),
			tcp(`${H1}:50001`, `${S1}:80`, { flags: "A" }),
		]);
	});

	it("is refused for the same reasons, and its sender told", () => {
		const refused = [
			udp(`${H1}:40000`, `${S1}:3478`),
			udp(`${H1}:40001`, `${S1}:3478`),
			udp("10.9.9.9:40000", `${S1}:3478`),
			udp(`${H1}:40000`, "255.255.255.255:3478"),
			tcp(`${H1}:50001`, `${S1}:80`, { flags: "SA" }),
			tcp(`${H1}:0`, `${S1}:80`, { flags: "S" }),
		];
		twins(refused, { hosts: [{ address: H1, maxSessions: 1 }] });
	});

	it("goes to an internal host over the external address as ever", () => {
		const rig = new Rig({ filtering: "eif" });
		rig.toWan(udp(`${H1}:40000`, `${S1}:3478`));
		rig.toWan(udp(`${H2}:41000`, `${S1}:3478`));
		expect(carried(rig, udp(`${H2}:41000`, `${X}:40000`))).toBe(0);
		const { queue } = rig.context.lan[0];
		expect(queue.count).toBe(1);
		expect(rig.flows().some((flow) => flow.includes(`${X}:40000`))).toBe(true);
	});
});
