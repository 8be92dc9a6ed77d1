import { describe, expect, it } from "vitest";
import { OwnPorts } from "../../src/kernel/local-ports.ts";

const TCP = 6;
const UDP = 17;

/** The keeper of a router with sessions at these ports ("protocol port"). */
function router(sessions: string[] = []) {
	const held = new Set(sessions);
	const ports = new OwnPorts({
		take: (protocol: number, port: number) => {
			const key = `${protocol} ${port}`;
			if (held.has(key)) return false;
			held.add(key);
			return true;
		},
		release: (protocol: number, port: number) => void held.delete(`${protocol} ${port}`),
	});
	return { held, ports };
}

const udp = (...ports: number[]) => ports.map((port) => ({ protocol: UDP, port, service: true }));
const client = (port: number) => ({ protocol: UDP, port, service: false });
const WHOLE = [{ first: 50000, last: 50010 }];

describe("the router's own ports", () => {
	it("are left out from the start, those at the ends of a range too, each for its protocol", () => {
		const { ports, held } = router();
		ports.begin([...udp(50000, 50004, 50010), client(50002)]);
		expect(ports.rangesOf(UDP, WHOLE)).toEqual([
			{ first: 50001, last: 50001 },
			{ first: 50003, last: 50003 },
			{ first: 50005, last: 50009 },
		]);
		expect(ports.rangesOf(TCP, WHOLE)).toEqual(WHOLE);
		expect(ports.rangesOf(UDP, WHOLE, true)).toEqual(ports.rangesOf(UDP, WHOLE));
		expect(held.has(`${UDP} 50004`) && !held.has(`${TCP} 50004`)).toBe(true);
	});

	it("are taken when they are seen, and given back when their socket has gone", () => {
		const { ports, held } = router();
		ports.begin([]);
		expect(ports.look(udp(50005)).changed).toBe(true);
		expect(ports.has(UDP, 50005) && !ports.has(TCP, 50005)).toBe(true);
		expect(ports.rangesOf(UDP, WHOLE).length).toBe(2);
		expect(ports.look(udp(50005)).changed).toBe(false);
		expect(ports.look([])).toEqual({ changed: true, settled: [], left: false });
		expect(ports.rangesOf(UDP, WHOLE)).toEqual(WHOLE);
		expect(held.size).toBe(0);
	});

	it("stay while any socket has them, a connection of a service that has ended, say", () => {
		const { ports } = router();
		ports.begin([]);
		ports.look(udp(50005));
		expect(ports.look([client(50005)]).changed).toBe(false);
		expect(ports.look([]).changed).toBe(true);
	});

	it("count as settled after some looks, once", () => {
		const { ports } = router();
		ports.begin([]);
		const settled = Array.from({ length: 8 }, () => ports.look(udp(50005)).settled.length);
		expect(settled).toEqual([0, 0, 0, 0, 1, 0, 0, 0]);
		expect(ports.rangesOf(UDP, WHOLE, true).length).toBe(2);
		expect(ports.look([]).left).toBe(true);
	});

	it("are not those of sockets with a peer, which come and go", () => {
		const { ports } = router();
		ports.begin([]);
		expect(ports.look([client(50001), client(50002)]).changed).toBe(false);
	});

	it("wait for sessions, and take nothing from them", () => {
		const { ports, held } = router([`${UDP} 50005`]);
		ports.begin([]);
		ports.look(udp(50005));
		expect(ports.waiting).toEqual(udp(50005));
		expect(ports.has(UDP, 50005)).toBe(false);
		expect([...held]).toEqual([`${UDP} 50005`]);
		held.clear();
		expect(ports.look(udp(50005)).changed).toBe(true);
		expect(ports.waiting).toEqual([]);
	});

	it("that a session had at the start are left out, and the session's is not given back", () => {
		const { ports, held } = router([`${UDP} 50005`]);
		ports.begin(udp(50005));
		expect(ports.rangesOf(UDP, WHOLE).length).toBe(2);
		expect(ports.look([]).changed).toBe(true);
		expect([...held]).toEqual([`${UDP} 50005`]);
	});

	it("are at most 1,024 a protocol, and those beyond are counted", () => {
		const { ports, held } = router();
		ports.begin(udp(...Array.from({ length: 1000 }, (_, n) => 33000 + n)));
		ports.look([...udp(...Array.from({ length: 1100 }, (_, n) => 33000 + n)), { protocol: TCP, port: 33000, service: true }]);
		expect(held.size).toBe(1025);
		expect(ports.excess).toBe(76);
		ports.look(udp(33000));
		expect([held.size, ports.excess]).toEqual([1, 0]);
	});
});
