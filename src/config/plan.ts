/**
 * The plan: what a configuration means, checked as a whole.
 *
 * `makePlan` reads UCI text (uci.ts) by the option tables (schema.ts, section.ts) and then looks at what the sections
 * say together: names and addresses given twice, ranges that overlap, ports that run out. Everything found is
 * reported at once; a plan exists only when there is no error, so nothing downstream checks any of this again.
 *
 * Where sections may both apply to a packet, the one written first is meant: redirects whose sources differ but
 * overlap, and a pool without `internal` after the others.
 */

import {
	type AddressRange,
	formatAddress,
	formatAddressRange,
	formatSubnet,
	mergeRanges,
	rangesOverlap,
	type Subnet,
	subnetContains,
	subnetRange,
	subnetsOverlap,
} from "../packet/address.ts";
import { MAX_LANS } from "./limits.ts";
import { MAX_POOL_ADDRESSES, type OptionsOf, type PortRange, type Protocol, SECTIONS, type SectionType, type Timeouts } from "./schema.ts";
import {
	type Fields,
	type Findings,
	fieldsOf,
	isSwitchedOff,
	problemAt,
	readSection,
	type Several,
	type Single,
	type Values,
	type Where,
} from "./section.ts";
import { suggestOneOf } from "./suggest.ts";
import { type ConfigError, parseUci, quoteValue, type UciFile, type UciSection } from "./uci.ts";

export type { Filtering, PortRange, Protocol, Timeouts } from "./schema.ts";
export type { Where } from "./section.ts";
export type { ConfigError } from "./uci.ts";

export interface WanPlan {
	/** "" until netifd has been asked, where only `interface` is written (kernel/netifd.ts). */
	device: string;
	/** netifd's name, or "". */
	interface: string;
}

export interface LanPlan extends WanPlan {
	driver: Fields<OptionsOf<"lan">>["driver"];
	/** Empty means the interface's own. */
	subnets: Subnet[];
	/** Its hosts may ask for forwards (RFC 6887, RFC 6886). */
	pcp: boolean;
}

/** What a section says, and where it stands. */
type Placed<S extends SectionType> = Fields<OptionsOf<S>> & { where: Where };

export type StaticPlan = Placed<"static">;

/** `internal` empty means every host behind a LAN port. */
export type PoolPlan = Placed<"pool">;

export interface RedirectPlan {
	/** As written, or "". */
	name: string;
	protocols: Protocol[];
	externalPorts: PortRange;
	internal: number;
	/** The internal port of the first external one; the others follow in step. */
	internalFirst: number;
	/** Null means any peer. */
	source: Subnet | null;
	where: Where;
}

/** Of a host what is null is as the plan has it. */
export type HostPlan = Placed<"host">;

export type ExemptPlan = Placed<"exempt">;

/** Addresses are unsigned 32-bit numbers in written order (192.168.1.1 = 0xC0A80101), timeouts are in seconds. */
export interface Plan extends Omit<Fields<OptionsOf<"masqd">>, "sessions" | "pcp"> {
	/** Size of the session table, 256..65535. */
	sessions: number;
	/** External ports for mappings: sorted, disjoint, not even adjacent. */
	ports: PortRange[];
	wan: WanPlan;
	lan: LanPlan[];
	statics: StaticPlan[];
	pools: PoolPlan[];
	redirects: RedirectPlan[];
	hosts: HostPlan[];
	exempts: ExemptPlan[];
	timeouts: Timeouts;
}

export interface PlanResult {
	/** Null when there is an error. */
	plan: Plan | null;
	/** Both in the order of lines. */
	errors: ConfigError[];
	warnings: ConfigError[];
}

/**
 * Makes the plan of a configuration. Never throws.
 *
 * @param text - the UCI file.
 * @param file - its name, for messages.
 * @param facts.memTotalKb - MemTotal of /proc/meminfo in kB; `sessions auto` is made from it.
 */
export function makePlan(text: string, file: string, facts: { memTotalKb: number }): PlanResult {
	const uci = parseUci(text, file);
	const findings: Findings = { errors: [...uci.errors], warnings: [] };
	const byLine = (a: ConfigError, b: ConfigError) => a.line - b.line;
	const plan = new Planner(uci, findings).make(facts.memTotalKb);
	findings.errors.sort(byLine);
	findings.warnings.sort(byLine);
	return { plan: findings.errors.length === 0 ? plan : null, ...findings };
}

/**
 * Sessions of `sessions auto`: one for 32 kB of memory, 1024 to 16384. MemTotal leaves out what the kernel took for
 * itself, so a little less than 2^n counts as 2^n: 4096 sessions on a router of 128 MB.
 */
export function autoSessions(memTotalKb: number): number {
	const chips = 2 ** (32 - Math.clz32(memTotalKb - 1));
	const memory = memTotalKb >= chips * 0.75 ? chips : memTotalKb;
	return Math.min(Math.max(Math.floor(memory / 32) || 0, 1024), 16384);
}

/** A section of type S with its values. */
interface Read<S extends SectionType> {
	values: Values<OptionsOf<S>>;
	where: Where;
}

/** Addresses and who claims them. */
interface Claim extends AddressRange {
	where: Where;
	option: string;
}

class Planner {
	readonly #uci: UciFile;
	readonly #findings: Findings;

	constructor(uci: UciFile, findings: Findings) {
		this.#uci = uci;
		this.#findings = findings;
	}

	make(memTotalKb: number): Plan | null {
		this.#checkNames();
		const main = this.#read("masqd")[0] ?? this.#absent("masqd");
		const timeouts = this.#read("timeouts")[0] ?? this.#absent("timeouts");
		const wan = this.#read("wan");
		const lans = this.#read("lan");
		const statics = this.#read("static");
		const pools = this.#read("pool");
		const redirects = this.#read("redirect");
		const hosts = this.#read("host");
		const exempts = this.#read("exempt");

		const sessions = main.values.sessions.value === "auto" ? autoSessions(memTotalKb) : (main.values.sessions.value ?? 0);
		this.#checkDevices(wan, lans);
		this.#checkLanSubnets(lans);
		this.#checkStatics(statics);
		this.#checkPools(pools);
		this.#checkExternal(statics, pools, lans);
		const redirectPlans = redirects.map((redirect) => this.#redirect(redirect));
		this.#checkRedirects(
			redirectPlans.filter((redirect) => redirect !== null),
			new Map(redirects.map(({ values, where }) => [where, values.src_dport.where.line])),
		);
		this.#checkHosts(hosts, sessions);
		this.#checkExempts(exempts);
		this.#checkInternal(lans, statics, redirects, hosts);

		if (this.#findings.errors.length > 0) return null;
		const { pcp, ...fields } = fieldsOf(main.values);
		return {
			...fields,
			sessions,
			ports: mergeRanges(fields.ports),
			wan: attachment(fieldsOf(wan[0]!.values)),
			lan: lans.map(({ values }) => {
				const { subnet, ...lan } = fieldsOf(values);
				return { ...attachment(lan), driver: lan.driver, subnets: subnet, pcp: lan.pcp ?? pcp };
			}),
			statics: statics.map(placed),
			pools: pools.map(placed),
			redirects: redirectPlans.filter((redirect) => redirect !== null),
			hosts: hosts.map(placed),
			exempts: exempts.map(placed),
			timeouts: timeoutsOf(timeouts.values),
		};
	}

	#error(where: Where, option: string, message: string): void {
		this.#findings.errors.push(problemAt(where, option, message));
	}

	#warn(where: Where, option: string, message: string): void {
		this.#findings.warnings.push(problemAt(where, option, message));
	}

	/** A place for what concerns the file as a whole. */
	#endOfFile(): Where {
		return { file: this.#uci.file, line: this.#uci.lastLine, section: "" };
	}

	#whereOf(section: UciSection): Where {
		return { file: this.#uci.file, line: section.line, section: section.label };
	}

	#checkNames(): void {
		for (const { name, line } of this.#uci.packages) {
			if (name === "masqd") continue;
			this.#error({ file: this.#uci.file, line, section: "" }, "", `package ${quoteValue(name)} is not ours, expected 'masqd'`);
		}
		const types = Object.keys(SECTIONS);
		for (const section of this.#uci.sections) {
			if (Object.hasOwn(SECTIONS, section.type)) continue;
			const message = `unknown section type ${quoteValue(section.type)}, ${suggestOneOf(section.type, types)}`;
			this.#error(this.#whereOf(section), "", message);
		}
	}

	/** The sections of a type, read, with the check of how many there may be. */
	#read<S extends SectionType>(type: S): Read<S>[] {
		const spec = SECTIONS[type];
		const sections = this.#uci.sections.filter(
			(section) => section.type === type && !isSwitchedOff(section, spec, this.#whereOf(section), this.#findings),
		);
		if (sections.length === 0 && (spec.occurs === "once" || spec.occurs === "at least once")) {
			this.#error(this.#endOfFile(), "", `no section of type '${type}', expected ${EXPECTED_COUNT[spec.occurs]}`);
		}
		if (spec.occurs === "once" || spec.occurs === "at most once") {
			for (const section of sections.slice(1)) {
				const message = `another section of type '${type}', expected only one (it is in line ${sections[0]!.line})`;
				this.#error(this.#whereOf(section), "", message);
			}
		}
		return sections.map((section) => {
			const where = this.#whereOf(section);
			return { values: readSection<OptionsOf<S>>(section, spec, where, this.#findings), where };
		});
	}

	#absent<S extends SectionType>(type: S): Read<S> {
		const where = this.#endOfFile();
		return { values: readSection<OptionsOf<S>>(null, SECTIONS[type], where, this.#findings), where };
	}

	#checkDevices(wans: Read<"wan">[], lans: Read<"lan">[]): void {
		for (const { values, where } of lans.slice(MAX_LANS)) {
			const message = `section number ${MAX_LANS + 1} or more of type 'lan', expected at most ${MAX_LANS}`;
			this.#error(where, values.device.given ? "device" : "interface", message);
		}
		const carried = ({ values }: (typeof lans)[number]) => values.driver.value === "kernel";
		const [first] = lans;
		const odd = first && lans.find((l) => carried(l) !== carried(first));
		if (odd !== undefined) this.#error(odd.where, "driver", "'kernel' is for all LANs or for none");
		const users = new Map<string, Where>();
		for (const { values, where } of [...wans.slice(0, 1), ...lans]) {
			const { device, interface: name } = values;
			if (!device.given && !name.given) {
				this.#error(where, "interface", "missing, expected option 'interface' with netifd's name, or option 'device'");
			}
			// With a device the interface is only what triggers of the service go by.
			const [option, kind] = device.given ? ([device, "device"] as const) : ([name, "interface"] as const);
			if (option.value === null) continue;
			const what = `${kind} '${option.value}'`;
			const user = users.get(what);
			if (user !== undefined) {
				const message = `${what} is used by section '${user.section}' in line ${user.line} too, expected another one`;
				this.#error(option.where, kind, message);
			} else {
				users.set(what, option.where);
			}
		}
	}

	#checkLanSubnets(lans: Read<"lan">[]): void {
		const claims = lans.flatMap(({ values }) =>
			values.subnet.entries.map(({ value, where }) => ({ ...subnetRange(value), where, option: "subnet", subnet: value })),
		);
		for (const [claim, other] of overlapping(claims)) {
			this.#error(
				claim.where,
				claim.option,
				`${formatSubnet(claim.subnet)} overlaps ${formatSubnet(other.subnet)} of ${place(other, claim)}`,
			);
		}
	}

	#checkStatics(statics: Read<"static">[]): void {
		const internals = new Map<number, Where>();
		for (const { values } of statics) {
			const { internal, external } = values;
			if (internal.value === null) continue;
			this.#once(internals, internal, "internal", formatAddress);
			if (internal.value === external.value) {
				this.#error(external.where, "external", "is the same as internal, expected another address");
			}
		}
	}

	/** Reports a value that another section has already. */
	#once<T>(seen: Map<T, Where>, option: Single<T>, name: string, format: (value: T) => string): void {
		if (option.value === null) return;
		const earlier = seen.get(option.value);
		if (earlier === undefined) {
			seen.set(option.value, option.where);
			return;
		}
		const message = `${format(option.value)} is in section '${earlier.section}' in line ${earlier.line} too, expected once`;
		this.#error(option.where, name, message);
	}

	#checkPools(pools: Read<"pool">[]): void {
		let size = 0;
		let everyone: Where | null = null;
		const claims: (Claim & { subnet: Subnet })[] = [];
		for (const { values, where } of pools) {
			const before = size;
			for (const { value } of values.external.entries) size += value.last - value.first + 1;
			if (before <= MAX_POOL_ADDRESSES && size > MAX_POOL_ADDRESSES) {
				const message = `the pools hold more than ${MAX_POOL_ADDRESSES} addresses with this one, expected fewer`;
				this.#error(values.external.where, "external", message);
			}
			if (everyone !== null) {
				const message = `is never used: the pool in line ${everyone.line} takes every host, expected that one last`;
				this.#error(where, "", message);
			}
			if (!values.internal.given) everyone ??= where;
			for (const entry of values.internal.entries) {
				claims.push({ ...subnetRange(entry.value), where: entry.where, option: "internal", subnet: entry.value });
			}
		}
		for (const [claim, other] of overlapping(claims)) {
			this.#error(
				claim.where,
				claim.option,
				`${formatSubnet(claim.subnet)} overlaps ${formatSubnet(other.subnet)} of ${place(other, claim)}`,
			);
		}
	}

	/** External addresses belong to one static section or pool, and not to a LAN. */
	#checkExternal(statics: Read<"static">[], pools: Read<"pool">[], lans: Read<"lan">[]): void {
		const claims: Claim[] = [];
		for (const { external } of statics.map((read) => read.values)) {
			if (external.value === null) continue;
			claims.push({ first: external.value, last: external.value, where: external.where, option: "external" });
		}
		for (const { external } of pools.map((read) => read.values)) {
			for (const { value, where } of external.entries) claims.push({ ...value, where, option: "external" });
		}
		for (const [claim, other] of overlapping(claims)) {
			const message = `${formatAddressRange(claim)} overlaps ${formatAddressRange(other)} of ${place(other, claim)}`;
			this.#error(claim.where, claim.option, message);
		}
		const subnets = lans.flatMap((lan) => lan.values.subnet.entries);
		for (const claim of claims) {
			const subnet = subnets.find((entry) => rangesOverlap(claim, subnetRange(entry.value)));
			if (subnet === undefined) continue;
			const message = `${formatAddressRange(claim)} is in the LAN subnet ${formatSubnet(subnet.value)}, expected addresses outside`;
			this.#error(claim.where, claim.option, message);
		}
	}

	#redirect({ values, where }: Read<"redirect">): RedirectPlan | null {
		const { src_dport: external, dest_port: internal, dest_ip: host } = values;
		if (external.value === null) return null;
		const ports = external.value;
		const internalFirst = internal.value?.first ?? ports.first;
		const extent = ports.last - ports.first;
		if (internal.value !== null && internal.value.last > internal.value.first && internal.value.last - internal.value.first !== extent) {
			const message = `${formatPorts(internal.value)} has another length than src_dport ${formatPorts(ports)}, expected the first port`;
			this.#error(internal.where, "dest_port", message);
			return null;
		}
		if (internalFirst + extent > 65535) {
			const message = `${extent + 1} ports from ${internalFirst} on run beyond 65535, expected ${65535 - extent} or less`;
			this.#error(internal.where, "dest_port", message);
		}
		if (host.value === null) return null;
		const source = values.src_ip.value;
		return {
			name: values.name.value ?? "",
			protocols: [...new Set(values.proto.entries.flatMap((entry) => entry.value))],
			externalPorts: ports,
			internal: host.value,
			internalFirst,
			source: source === null || source.prefix === 0 ? null : source,
			where,
		};
	}

	#checkRedirects(redirects: RedirectPlan[], lineOf: ReadonlyMap<Where, number>): void {
		for (let i = 1; i < redirects.length; i++) {
			const later = redirects[i]!;
			const here = { ...later.where, line: lineOf.get(later.where) ?? later.where.line };
			for (let j = 0; j < i; j++) {
				const earlier = redirects[j]!;
				const { first, last } = earlier.externalPorts;
				if (later.externalPorts.first > last || first > later.externalPorts.last) continue;
				const protocol = later.protocols.find((name) => earlier.protocols.includes(name));
				if (protocol === undefined || !sourcesOverlap(later.source, earlier.source)) continue;
				const other = `${protocol} ${formatPorts(earlier.externalPorts)} of section '${earlier.where.section}' in line ${earlier.where.line}`;
				const what = `${protocol} ${formatPorts(later.externalPorts)} overlaps ${other}`;
				if (sameSource(later.source, earlier.source)) this.#error(here, "src_dport", `${what}, expected other ports or another src_ip`);
				else this.#warn(here, "src_dport", `${what} for some peers; there the earlier one is used`);
				break;
			}
		}
	}

	#checkHosts(hosts: Read<"host">[], sessions: number): void {
		const seen = new Map<number, Where>();
		for (const { values, where } of hosts) {
			this.#once(seen, values.ip, "ip", formatAddress);
			const most = values.max_sessions;
			if (most.value !== null && sessions > 0 && most.value > sessions) {
				this.#warn(most.where, "max_sessions", `${most.value} is more than the ${sessions} sessions of the table`);
			}
			if (!values.filtering.given && !most.given && !values.max_rate.given)
				this.#warn(where, "", "has neither filtering nor max_sessions nor max_rate and so no effect");
		}
	}

	#checkExempts(exempts: Read<"exempt">[]): void {
		const seen = new Map<string, Where>();
		for (const { dest } of exempts.map((read) => read.values)) {
			if (dest.value === null) continue;
			if (dest.value.prefix === 0) {
				this.#error(dest.where, "dest", "everything would leave untranslated, expected a subnet longer than /0");
			}
			this.#once(seen, { ...dest, value: formatSubnet(dest.value) }, "dest", (text) => text);
		}
	}

	/**
	 * Hosts outside every LAN subnet are most often a slip; where a LAN has the interface's own, that cannot be told.
	 */
	#checkInternal(lans: Read<"lan">[], statics: Read<"static">[], redirects: Read<"redirect">[], hosts: Read<"host">[]): void {
		if (this.#findings.errors.length > 0) return;
		const subnets = lans.flatMap((lan) => valuesOf(lan.values.subnet));
		if (lans.length === 0 || lans.some((lan) => !lan.values.subnet.given)) return;
		const check = (option: Single<number>, name: string) => {
			const address = option.value;
			if (address === null || subnets.some((subnet) => subnetContains(subnet, address))) return;
			this.#warn(option.where, name, `${formatAddress(address)} is in no LAN subnet`);
		};
		for (const { values } of statics) check(values.internal, "internal");
		for (const { values } of redirects) check(values.dest_ip, "dest_ip");
		for (const { values } of hosts) check(values.ip, "ip");
	}
}

const EXPECTED_COUNT = { once: "exactly one", "at least once": "at least one" } as const;

function valuesOf<T>(several: Several<T>): T[] {
	return several.entries.map((entry) => entry.value);
}

function placed<S extends SectionType>({ values, where }: Read<S>): Placed<S> {
	return { ...fieldsOf(values), where };
}

function attachment(port: { device: string | null; interface: string | null }): WanPlan {
	return { device: port.device ?? "", interface: port.interface ?? "" };
}

function timeoutsOf(values: Values<OptionsOf<"timeouts">>): Timeouts {
	const timeouts: Partial<Timeouts> = {};
	for (const name of Object.keys(values) as (keyof Timeouts)[]) timeouts[name] = values[name].value!;
	return timeouts as Timeouts;
}

/** "2222" or "5000-5010". */
export function formatPorts(range: PortRange): string {
	return range.first === range.last ? `${range.first}` : `${range.first}-${range.last}`;
}

/** Names another claim from the view of one: by line only when both are in the same section. */
function place(other: Claim, from: Claim): string {
	const line = `line ${other.where.line}`;
	return other.where.section === from.where.section ? line : `section '${other.where.section}' in ${line}`;
}

/**
 * Ranges that have an address in common with an earlier one, in pairs: the one written later, then the other. Of many
 * overlaps each range is named once.
 */
function overlapping<T extends Claim>(claims: readonly T[]): [T, T][] {
	const pairs: [T, T][] = [];
	let widest: T | null = null;
	for (const claim of [...claims].sort((a, b) => a.first - b.first || a.where.line - b.where.line)) {
		if (widest !== null && claim.first <= widest.last) {
			pairs.push(claim.where.line >= widest.where.line ? [claim, widest] : [widest, claim]);
		}
		if (widest === null || claim.last > widest.last) widest = claim;
	}
	return pairs;
}

function sourcesOverlap(a: Subnet | null, b: Subnet | null): boolean {
	return a === null || b === null || subnetsOverlap(a, b);
}

function sameSource(a: Subnet | null, b: Subnet | null): boolean {
	return a === b || (a !== null && b !== null && a.address === b.address && a.prefix === b.prefix);
}
