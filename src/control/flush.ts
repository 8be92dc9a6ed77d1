/**
 * Ending sessions on request (`masqd flush`): all, those of a host, of a mapping, or of the WAN port's own address; one
 * session for who shows a list of them.
 */
import { EXTERNAL_SHIFT, R_IN, R_META, RECORD_SHIFT } from "../conntrack/record.ts";
import { FREE, QUARANTINED } from "../conntrack/states.ts";
import { parseAddress } from "../packet/address.ts";
import { parseEndpoint, parseProtocol } from "../packet/endpoint.ts";
import { secondOf, swap16, swap32 } from "../packet/layout.ts";
import type { DaemonView } from "./daemon-view.ts";
import type { FlushRequest } from "./protocol.ts";
import { selector as selectSessions } from "./sessions.ts";

type FlushView = Pick<DaemonView, "context" | "admission">;

/** Records looked at in one slice. */
const SLICE = 512;

/**
 * A test of a record by the index of its first word. Throws Error with a sentence for the operator if the request makes
 * no sense.
 */
function selector(daemon: FlushView, request: FlushRequest): (e: number) => boolean {
	const t = daemon.context.table.T;
	switch (request.what) {
		case "all":
			return () => true;
		case "wan":
			return (e) => ((t[e + R_META] >> EXTERNAL_SHIFT) & 0xff) === 0;
		case "host": {
			const address = parseAddress(String(request.host));
			if (address === null) throw new Error(`'${request.host}' is not an IPv4 address`);
			const internal = swap32(address);
			return (e) => t[e] === internal;
		}
		case "mapping": {
			const protocol = parseProtocol(String(request.protocol));
			if (protocol < 0) throw new Error(`'${request.protocol}' is not a protocol: tcp, udp, icmp or a number`);
			const endpoint = parseEndpoint(String(request.external));
			if (endpoint === null) throw new Error(`'${request.external}' is not an ADDRESS:PORT`);
			const external = daemon.context.externals.find(swap32(endpoint.address));
			if (external < 0) throw new Error(`'${request.external}' is not one of masqd's external addresses`);
			const key = protocol | (external << EXTERNAL_SHIFT);
			const port = swap16(endpoint.port);
			return (e) => (t[e + R_META] & 0xffff) === key && secondOf(t[e + R_IN]) === port;
		}
		case "session": {
			// Of that number another may have become meanwhile.
			const same = selectSessions(daemon.context, { host: request.internal, peer: request.peer, protocol: request.protocol });
			return (e) => e === request.id << RECORD_SHIFT && same(request.id);
		}
		default:
			throw new Error("flush what? all, host, mapping, session or wan");
	}
}

/** Ends the sessions asked for, slice by slice; returns how many there were. */
export function* flush(daemon: FlushView, request: FlushRequest): Generator<undefined, { sessions: number }> {
	const { admission } = daemon;
	const { table } = daemon.context;
	const wanted = selector(daemon, request);
	const all = request.what === "all";
	let sessions = 0;
	for (let i = 1; i <= table.layout.sessions; i++) {
		const state = table.state(i);
		// The rest of a port is nobody's session; only "all" ends it too.
		if (state !== FREE && (state !== QUARANTINED || all) && wanted(i << RECORD_SHIFT)) {
			if (state !== QUARANTINED) sessions++;
			admission.end(i, "flushed");
			if (all && table.state(i) === QUARANTINED) admission.end(i, "flushed");
		}
		if (i % SLICE === 0) yield;
	}
	return { sessions };
}
