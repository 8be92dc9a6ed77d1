/**
 * A port's queue is never written beyond, whatever fills it: fragments, errors, held frames, a batch that nobody has
 * sent.
 */
import { describe, expect, it } from "vitest";
import { BATCH, Queue } from "../../src/nat/context.ts";
import { REASON } from "../../src/nat/reason.ts";
import { SLOT_SIZE } from "../../src/packet/layout.ts";
import { GATEWAY_MAC, Rig, SPARE_BLOCKS, WAN_MAC } from "./rig.ts";
import { type Frame, ipv4, plain, udp } from "./rig-frame.ts";

const H1 = "192.168.1.10";
const S1 = "203.0.113.10";
const X = "203.0.113.1";

/** A datagram in as many fragments of 8 bytes. */
function pieces(from: string, to: string, ports: [number, number], count: number, id: number): Frame[] {
	const body = new Uint8Array(count * 8);
	new DataView(body.buffer).setUint16(0, ports[0]);
	new DataView(body.buffer).setUint16(2, ports[1]);
	new DataView(body.buffer).setUint16(4, body.length);
	return Array.from({ length: count }, (_, n) =>
		plain(ipv4(from, to, 17, body.slice(n * 8, n * 8 + 8), { df: false, id, fragment: n, more: n < count - 1 })),
	);
}

/** A rig with a session, and queues with room for `capacity` frames besides a batch. */
function rigWith(capacity: number): Rig {
	const rig = new Rig();
	rig.accounts = false;
	rig.strict = false;
	const [packet] = rig.out(udp(`${H1}:40000`, `${S1}:5000`)).wan;
	expect([packet.source, packet.sourcePort]).toEqual([X, 40000]);
	rig.in(udp(`${S1}:5000`, `${X}:40000`));
	rig.context.wan.queue = new Queue(capacity);
	rig.context.lan[0].queue = new Queue(capacity);
	return rig;
}

/** Hands over a batch as the daemon does; nothing is sent afterwards. */
function batch(rig: Rig, way: "out" | "in", frames: Frame[]): void {
	const { wan, lan } = rig.context;
	for (const [n, frame] of frames.entries()) {
		if (way === "out") rig.put(n, frame, lan[0], "02:00:00:00:10:01", "02:10:c0:a8:01:0a");
		else rig.put(n, frame, wan, WAN_MAC, GATEWAY_MAC);
	}
	if (way === "out") rig.fast.outbound(rig.rx, frames.length, 0);
	else rig.fast.inbound(rig.rx, frames.length);
}

const within = (queue: Queue) => {
	expect(queue.count).toBeLessThanOrEqual(queue.pairs.length / 2);
	for (let n = 0; n < queue.count; n++) expect(queue.pairs[n * 2 + 1]).toBeGreaterThan(0);
};

for (const way of ["out", "in"] as const)
	describe(`the queue that a batch going ${way} fills`, () => {
		const one = (): Frame => (way === "out" ? udp(`${H1}:40000`, `${S1}:5000`) : udp(`${S1}:5000`, `${X}:40000`));
		const cut = (id: number): Frame[] =>
			way === "out" ? pieces(H1, S1, [40000, 5000], SPARE_BLOCKS, id) : pieces(S1, X, [5000, 40000], SPARE_BLOCKS, id);

		for (const capacity of [1, 8, SPARE_BLOCKS - 1, SPARE_BLOCKS, SPARE_BLOCKS + BATCH])
			it(`takes the whole pool of fragments and a batch behind it, with room for ${capacity}`, () => {
				const rig = rigWith(capacity);
				const { context } = rig;
				const queue = way === "out" ? context.wan.queue : context.lan[0].queue;
				const datagram = cut(7);
				batch(rig, way, datagram.slice(0, -1));
				expect(queue.count).toBe(0);
				batch(rig, way, [datagram.at(-1) as Frame, ...Array.from({ length: BATCH - 1 }, one)]);
				within(queue);
				const lost = context.drops[REASON["queue-full"]];
				expect(lost).toBe(Math.max(0, SPARE_BLOCKS - capacity));
				expect(queue.count).toBe(SPARE_BLOCKS + BATCH - 1 - lost);
			});

		it("takes no more than it has room for when nobody sends, and each frame is counted once", () => {
			const rig = rigWith(100);
			const queue = way === "out" ? rig.context.wan.queue : rig.context.lan[0].queue;
			let given = 0;
			for (const size of [64, 1, 63, 64, 7, 64, 64]) {
				batch(rig, way, Array.from({ length: size }, one));
				given += size;
				within(queue);
				expect(queue.count + rig.context.drops[REASON["queue-full"]]).toBe(given);
			}
			expect(queue.count).toBe(100 + BATCH);
			expect(queue.push(0, 20, 0)).toBe(false);
			expect(queue.pairs[0] % SLOT_SIZE).toBe(0);
		});
	});

it("a batch for two LANs stops where one of them has no room", () => {
	const rig = new Rig({ lan: [{}, {}] });
	rig.accounts = false;
	for (const host of [H1, "192.168.2.10"]) {
		const port = host === H1 ? 0 : 1;
		rig.out(udp(`${host}:4000${port}`, `${S1}:5000`), port);
		rig.in(udp(`${S1}:5000`, `${X}:4000${port}`));
	}
	const { lan, drops } = rig.context;
	lan[1].queue = new Queue(2);
	lan[1].queue.count = lan[1].queue.pairs.length / 2 - 1;
	const to = [0, 0, 1, 0, 1, 1];
	batch(
		rig,
		"in",
		to.map((port) => udp(`${S1}:5000`, `${X}:4000${port}`)),
	);
	expect(lan[1].queue.count).toBeLessThanOrEqual(lan[1].queue.pairs.length / 2);
	expect(lan[0].queue.count + lan[1].queue.count - (lan[1].queue.pairs.length / 2 - 1) + drops[REASON["queue-full"]]).toBe(to.length);
});
