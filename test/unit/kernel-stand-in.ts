/**
 * A kernel in values for tests of what reads rtnetlink: what it would dump, what it is asked, what it tells.
 */
import { expect } from "vitest";
import { type KernelIo, KernelMirror } from "../../src/kernel/mirror.ts";
import { LITTLE_ENDIAN, NLM_F, type RequestHeader } from "../../src/netlink/message.ts";
import { encodeAddress, encodeLink, encodeNeighbour, encodeRoute, encodeRule, IFF, NUD, RTM, RTN, TABLE } from "../../src/netlink/route.ts";
import { parseAddress } from "../../src/packet/address.ts";

export const address = (text: string): number => parseAddress(text) as number;

export type Encode = (header: RequestHeader) => ArrayBuffer;

export const REQUESTS = 3;
export const NOTIFICATIONS = 4;

/** A kernel in values: what it would dump, what it is asked, what it tells. */
export class FakeKernel implements KernelIo {
	readonly POLLIN = 1;
	links: Encode[] = [];
	addresses: Encode[] = [];
	routes: Encode[] = [];
	neighbours: Encode[] = [];
	rules: Encode[] = [];
	/** Requests that were no dumps: type and errno to answer with (0 unless said). */
	requested: number[] = [];
	refusals = new Map<number, number>();
	dumps: number[] = [];
	told: (ArrayBuffer | "ENOBUFS")[] = [];
	silent = false;
	/** Requests that the system refuses: EIO. */
	failures = 0;
	interruptions = 0;
	time = 1000;
	open = 0;
	opened = 0;
	#answers: ArrayBuffer[] = [];

	tell(encode: Encode, type: number): void {
		this.told.push(encode({ type, flags: 0, sequence: 0 }));
	}

	netlinkOpen = (_protocol: number, groups: number[]): number => {
		this.open++;
		this.opened++;
		this.#answers = [];
		return groups.length > 0 ? NOTIFICATIONS : REQUESTS;
	};

	close = (fd: number): void => {
		if (fd >= 0) this.open--;
	};

	netlinkSend = (_fd: number, buffer: ArrayBuffer, length: number): void => {
		const view = new DataView(buffer);
		expect(view.getUint32(0, LITTLE_ENDIAN)).toBe(length);
		const type = view.getUint16(4, LITTLE_ENDIAN);
		const flags = view.getUint16(6, LITTLE_ENDIAN);
		const sequence = view.getUint32(8, LITTLE_ENDIAN);
		if (this.failures > 0) {
			this.failures--;
			throw Object.assign(new Error("sendto: EIO"), { code: "EIO", errno: 5 });
		}
		if (this.silent) return;
		// An answer to an earlier request that was given up comes first and must be passed over.
		this.#answers.push(status(2, sequence - 1, -1));
		if ((flags & NLM_F.DUMP) !== NLM_F.DUMP) {
			this.requested.push(type);
			this.#answers.push(status(2, sequence, -(this.refusals.get(type) ?? 0)));
			return;
		}
		this.dumps.push(type);
		const interrupted = this.interruptions > 0 ? NLM_F.DUMP_INTR : 0;
		if (interrupted !== 0) this.interruptions--;
		for (const encode of this.#held(type)) {
			this.#answers.push(encode({ type: type - 2, flags: NLM_F.MULTI | interrupted, sequence }));
		}
		this.#answers.push(status(3, sequence, 0));
	};

	#held(type: number): Encode[] {
		if (type === RTM.GETLINK) return this.links;
		if (type === RTM.GETADDR) return this.addresses;
		if (type === RTM.GETROUTE) return this.routes;
		return type === RTM.GETNEIGH ? this.neighbours : this.rules;
	}

	netlinkReceive = (fd: number, buffer: ArrayBuffer): number => {
		const next = fd === NOTIFICATIONS ? this.told.shift() : this.#answers.shift();
		if (next === undefined) return 0;
		if (next === "ENOBUFS") throw Object.assign(new Error("recvmsg: No buffer space available"), { code: "ENOBUFS", errno: 105 });
		new Uint8Array(buffer).set(new Uint8Array(next));
		return next.byteLength;
	};

	poll = (_set: Int32Array, _count: number, timeoutMs: number): number => {
		this.time += timeoutMs;
		return 0;
	};

	now = (): number => this.time;
}

export function status(type: number, sequence: number, value: number): ArrayBuffer {
	const buffer = new ArrayBuffer(20);
	const view = new DataView(buffer);
	view.setUint32(0, 20, LITTLE_ENDIAN);
	view.setUint16(4, type, LITTLE_ENDIAN);
	view.setUint32(8, sequence, LITTLE_ENDIAN);
	view.setInt32(16, value, LITTLE_ENDIAN);
	return buffer;
}

export const MAC = new Uint8Array([2, 0, 0, 0, 0, 1]);
export const link =
	(index: number, name: string, flags: number = IFF.UP | IFF.RUNNING): Encode =>
	(header) => {
		const message = encodeLink(header, { index, name, deviceFlags: flags, mtu: 1500, queueLength: 1000, mac: MAC });
		// ifi_type, which requests leave out: ARPHRD_ETHER.
		new DataView(message).setUint16(18, 1, LITTLE_ENDIAN);
		return message;
	};
export const own =
	(ifindex: number, text: string, prefix: number): Encode =>
	(header) =>
		encodeAddress(header, { ifindex, address: address(text), prefix });
export const route =
	(
		text: string,
		prefix: number,
		ifindex: number | undefined,
		more: { gateway?: string; metric?: number; table?: number; routeType?: number } = {},
	): Encode =>
	(header) =>
		encodeRoute(header, {
			destination: address(text),
			prefix,
			table: more.table ?? TABLE.MAIN,
			protocol: 3,
			...(ifindex === undefined ? {} : { ifindex }),
			...(more.gateway === undefined ? {} : { gateway: address(more.gateway) }),
			...(more.metric === undefined ? {} : { metric: more.metric }),
			...(more.routeType === undefined ? {} : { routeType: more.routeType }),
		});
export const neighbour =
	(ifindex: number, text: string, state: number, mac?: Uint8Array): Encode =>
	(header) =>
		encodeNeighbour(header, { ifindex, address: address(text), state, ...(mac === undefined ? {} : { mac }) });
export const rule =
	(priority: number, iif: string, table: number, protocol: number): Encode =>
	(header) =>
		encodeRule(header, { priority, iif, table, protocol });

export const LAN = 2;
export const WAN = 3;

export function router(): FakeKernel {
	const kernel = new FakeKernel();
	kernel.links = [link(1, "lo", IFF.UP | IFF.RUNNING | IFF.LOOPBACK), link(LAN, "lan0"), link(WAN, "wan0")];
	kernel.addresses = [own(LAN, "192.168.1.1", 24), own(WAN, "203.0.113.1", 24)];
	kernel.routes = [
		route("192.168.1.1", 32, LAN, { table: TABLE.LOCAL, routeType: RTN.LOCAL }),
		route("192.168.1.255", 32, LAN, { table: TABLE.LOCAL, routeType: RTN.BROADCAST }),
		route("0.0.0.0", 0, WAN, { gateway: "203.0.113.254" }),
		route("192.168.1.0", 24, LAN),
		route("203.0.113.0", 24, WAN),
	];
	kernel.neighbours = [neighbour(LAN, "192.168.1.10", NUD.REACHABLE, MAC)];
	kernel.rules = [rule(0, "", TABLE.LOCAL, 2), rule(32766, "", TABLE.MAIN, 2)];
	return kernel;
}

export function opened(kernel: FakeKernel): KernelMirror {
	const view = new KernelMirror(kernel);
	view.open();
	return view;
}
