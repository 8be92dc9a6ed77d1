import { describe, expect, it } from "vitest";
import { OwnPorts } from "../../src/port/local-ports.ts";

const TCP = 6;
const UDP = 17;

/** A router with sockets on these ports, and sessions with those ("protocol port"). */
function router(sockets: number[], sessions: string[] = []) {
	const held = new Set(sessions);
	const io = {
		readFile: (path: string) => {
			if (path !== "/proc/net/udp") throw new Error("none");
			const line = (port: number, n: number) => `  ${n}: 00000000:${port.toString(16).toUpperCase().padStart(4, "0")} 00000000:0000 07\n`;
			return `  sl  local_address rem_address\n${sockets.map(line).join("")}`;
		},
		writeFile: () => {},
	};
	const keeper = {
		take: (protocol: number, port: number) => {
			const key = `${protocol} ${port}`;
			if (held.has(key)) return false;
			held.add(key);
			return true;
		},
		release: (protocol: number, port: number) => void held.delete(`${protocol} ${port}`),
	};
	return { held, sockets, ports: new OwnPorts(io, keeper) };
}

const WHOLE = [{ first: 50000, last: 50010 }];

describe("the router's own ports", () => {
	it("are left out from the start, those at the ends of a range too", () => {
		const { ports, held } = router([50000, 50004, 50010, 22]);
		ports.begin(WHOLE);
		expect(ports.ranges).toEqual([
			{ first: 50001, last: 50003 },
			{ first: 50005, last: 50009 },
		]);
		expect(held.has(`${TCP} 50004`) && held.has(`${UDP} 50004`)).toBe(true);
	});

	it("are taken when they are seen a second time, and given back when their socket has gone", () => {
		const { ports, held, sockets } = router([]);
		ports.begin(WHOLE);
		sockets.push(50005);
		expect(ports.look()).toEqual({ taken: [], given: [] });
		expect(ports.look()).toEqual({ taken: [50005], given: [] });
		expect(ports.ranges.length).toBe(2);
		sockets.length = 0;
		expect(ports.look()).toEqual({ taken: [], given: [50005] });
		expect(ports.ranges).toEqual(WHOLE);
		expect(held.size).toBe(0);
	});

	it("of queries that come and go stay masqd's", () => {
		const { ports, sockets } = router([]);
		ports.begin(WHOLE);
		for (const port of [50001, 50002, 50003]) {
			sockets.splice(0, 1, port);
			expect(ports.look()).toEqual({ taken: [], given: [] });
		}
	});

	it("wait for sessions, and take nothing from them", () => {
		const { ports, held, sockets } = router([], [`${UDP} 50005`]);
		ports.begin(WHOLE);
		sockets.push(50005);
		ports.look();
		expect(ports.look().taken).toEqual([]);
		expect([...held]).toEqual([`${UDP} 50005`]);
		held.clear();
		expect(ports.look().taken).toEqual([50005]);
	});

	it("that a session had at the start are left out, and the session's is not given back", () => {
		const { ports, held, sockets } = router([50005], [`${UDP} 50005`]);
		ports.begin(WHOLE);
		expect(ports.ranges.length).toBe(2);
		sockets.length = 0;
		expect(ports.look().given).toEqual([50005]);
		expect([...held]).toEqual([`${UDP} 50005`]);
	});
});
