/**
 * The translating core as the daemon has it: over the state file's memory, the ports' frame memory and the kernel's
 * neighbours.
 */
import * as native from "masq:native";
import type { Plan } from "../config/plan.ts";
import type { TableLayout } from "../conntrack/table-layout.ts";
import type { KernelMirror } from "../kernel/mirror.ts";
import type { SavedSysctls } from "../kernel/saved-sysctls.ts";
import type { Context, KernelShare } from "../nat/context.ts";
import { type Core, makeContext, makeCore, makeTables } from "../nat/core.ts";
import type { FtpReader } from "../nat/ftp-control.ts";
import { HOST_UNREACHABLE, NET_UNREACHABLE } from "../packet/icmp.ts";
import { LinkHeaders } from "../packet/link-header.ts";
import { NextHopTable } from "../port/next-hops.ts";
import type { Carrier } from "./carrier.ts";
import type { Clock } from "./clock.ts";
import { FrameMemory } from "./memory.ts";
import { emptyPolicy } from "./policy.ts";
import { type Port, Ports } from "./ports.ts";
import type { State } from "./state.ts";

/** What the translation is made over. */
export interface TranslationParts {
	plan: Plan;
	state: State;
	layout: TableLayout;
	settings: SavedSysctls;
	kernel: KernelMirror;
	clock: Clock;
	kernelShare: KernelShare;
	routerSpeaks: Context["routerSpeaks"];
	/** Whether the kernel is kept off a port's packets. */
	guarded(p: Port): boolean;
	/** Sends what is queued anywhere. */
	flush(): void;
	/** What carries the packets if not masqd's ports. */
	carrier: Carrier | null;
	/** Makes what reads FTP; null if it cannot be had now. */
	makeFtp(c: Context): FtpReader | null;
}

/** The core and what carries packets to it and from it. */
export interface Translation extends Core {
	readonly ports: Ports;
	readonly hops: NextHopTable;
	readonly memory: FrameMemory;
}

/** Makes it; nothing is opened yet. */
export function makeTranslation(parts: TranslationParts): Translation {
	const { plan, state, layout, settings, kernel, clock } = parts;
	const keys = new Int32Array(5);
	native.random(keys.buffer, 0, keys.byteLength);
	if (state.image !== null) keys.set(state.image.keys);
	const tables = makeTables(state.memory, layout, keys, plan.timeouts, plan.ports, state.image !== null);
	const headers = new LinkHeaders(layout.hosts);
	const memory = new FrameMemory(plan.sessions, headers);
	const { rx, views, segmentsAt } = memory;
	const exists = (name: string) => kernel.linkByName(name) !== undefined;
	const ports = new Ports(plan, {
		rx,
		views,
		segmentsAt,
		carried: parts.carrier !== null,
		settings,
		headers,
		hosts: tables.hosts,
		hostsMost: layout.hosts,
		exists,
		guarded: parts.guarded,
	});
	const hops = new NextHopTable({
		kernel,
		views,
		table: tables.table,
		hosts: tables.hosts,
		headers,
		wan: ports.wan.link,
		lan: ports.links,
		dropped: (reason, slot, port) => context.dropLog.add(reason, slot, port, context.now),
		forwarded: (out) => {
			if (out) context.forwardedOut++;
			else context.forwardedIn++;
		},
		wanIndex: () => ports.wan.index,
		lanIndex: (n) => ports.lan[n].index,
		milliseconds: () => clock.milliseconds,
		sessionOf: (slot) => core.slowPath.sessionOf(slot),
		undeliverable: (slot, length, lost) => core.slowPath.undeliverable(slot, length, lost ? NET_UNREACHABLE : HOST_UNREACHABLE),
		undeliverableInternal: (slot, length) => core.slowPath.undeliverableInternal(slot, length),
		spareSlot: (n) => memory.spareSlot(n),
	});
	const context = makeContext(tables, {
		views,
		hops: parts.carrier?.hops(hops) ?? hops,
		kernelShare: parts.kernelShare,
		headers,
		wan: ports.wan.link,
		lan: ports.links,
		policy: emptyPolicy(),
		spare: memory.spare,
		ipId: keys[4],
		routerSpeaks: parts.routerSpeaks,
		random: randomWords(),
		sum: native.frameSum,
		flush: parts.flush,
	});
	clock.read(context);
	const core = makeCore(context, () => parts.makeFtp(context));
	return { ...core, ports, hops, memory };
}

/** Random words, fetched from the kernel a few at a time. */
function randomWords(): () => number {
	const words = new Int32Array(64);
	let at = words.length;
	return () => {
		if (at === words.length) {
			native.random(words.buffer, 0, words.byteLength);
			at = 0;
		}
		return words[at++];
	};
}
