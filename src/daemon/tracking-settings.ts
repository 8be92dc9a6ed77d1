/**
 * Settings of the kernel's connection tracking that go with the kernel driver; they are put back in the end. Timers
 * stand in `ct timeout` objects already (queue-rules.ts): these are what entries fall back to that have come out of a
 * flowtable, and what objects cannot say (ICMP, protocols without ports).
 */
import type { Timeouts } from "../conntrack/states.ts";
import type { SavedSysctls } from "../kernel/saved-sysctls.ts";

const FOLDER = "/proc/sys/net/netfilter/nf_conntrack_";
const FRAGMENT_TIME = "/proc/sys/net/ipv4/ipfrag_time";
/**
 * Entries of the kernel's for each session of masqd's: those of the router's own, and of networks that are not
 * translated, are in the same table.
 */
const ROOM = 1.25;

const FRAGMENT_SECONDS = 2;

/** Values by the end of their names. */
export function trackingSettings(t: Timeouts): Record<string, number> {
	return {
		udp_timeout: t.udp,
		udp_timeout_stream: t.udp,
		icmp_timeout: t.icmp,
		generic_timeout: t.other,
		gre_timeout: t.other,
		gre_timeout_stream: t.other,
		tcp_timeout_syn_sent: t.tcp_opening,
		tcp_timeout_syn_recv: t.tcp_opening,
		tcp_timeout_established: t.tcp_established,
		tcp_timeout_fin_wait: t.tcp_established,
		tcp_timeout_close_wait: t.tcp_established,
		tcp_timeout_last_ack: t.tcp_closing,
		tcp_timeout_time_wait: t.tcp_closing,
		tcp_timeout_close: t.tcp_reset,
		tcp_timeout_max_retrans: t.tcp_established,
		tcp_timeout_unacknowledged: t.tcp_established,
		// What hosts have sent is told.
		acct: 1,
	};
}

/** Sets what is otherwise. What a kernel has not, or another namespace owns, stays as it is. */
export function setTracking(
	settings: Pick<SavedSysctls, "writeFile">,
	read: (path: string) => string,
	timeouts: Timeouts,
	sessions: number,
): void {
	const set = (name: string, wanted: (now: number) => number) => {
		try {
			const path = name.startsWith("/") ? name : FOLDER + name;
			const now = Number(read(path));
			const value = wanted(now);
			if (now !== value) settings.writeFile(path, `${value}\n`, 0o644);
		} catch {
			// See above.
		}
	};
	for (const [name, value] of Object.entries(trackingSettings(timeouts))) set(name, () => value);
	// Fragments whose others do not come: in 30 s a flood of them fills the kernel's memory for them.
	set(FRAGMENT_TIME, () => FRAGMENT_SECONDS);
	set("max", (now) => Math.max(now, Math.ceil(sessions * ROOM)));
}
