/**
 * The programs of a configuration as text, without a daemon: `masqd offload --dump`.
 */
import { disassemble, LITTLE_ENDIAN } from "./asm.ts";
import { layoutCache } from "./cache.ts";
import { lanProgram, type ProgramFacts, wanProgram } from "./program.ts";
import { WAN_PORT } from "./slot.ts";

/** What of a plan the programs depend on. Addresses are in host order. */
export interface DumpFacts {
	sessions: number;
	/** WAN and LAN devices: name, and whether frames have an Ethernet header. */
	wan: { device: string; ethernet: boolean };
	lan: readonly { device: string; ethernet: boolean }[];
	externals: readonly { first: number; last: number }[];
	nets: readonly { address: number; mask: number }[];
	/** Address of the WAN port is not known: 0.0.0.0 stands in its place. */
	addressless: boolean;
}

/** One program for the WAN device and one for each kind of LAN device, an instruction a line with its number. */
export function dumpPrograms(d: DumpFacts): string {
	const { bits, lastSlot, slots, bytes } = layoutCache(d.sessions);
	const common: ProgramFacts = {
		littleEndian: LITTLE_ENDIAN,
		map: 0,
		port: WAN_PORT,
		bits,
		lastSlot,
		slots,
		keys: [0, 1, 1],
		fromEthernet: true,
		toEthernet: true,
		externals: d.externals,
		nets: d.nets,
		deadman: false,
	};
	const out = [
		`# flow cache: ${d.sessions} sessions, ${2 ** bits} chains, ${bytes} bytes`,
		"# The running programs have other hash keys: they are secret.",
	];
	if (d.addressless) out.push(`# ${d.wan.device} has no address: 0.0.0.0 stands for it.`);
	const show = (title: string, program: ArrayBuffer) => {
		const lines = disassemble(program, LITTLE_ENDIAN);
		out.push("", `# ${title}: ${lines.length} instructions`);
		for (const [n, line] of lines.entries()) if (line !== "") out.push(`${String(n).padStart(4)}: ${line}`);
	};
	for (const [n, lan] of d.lan.entries())
		show(`${lan.device} ingress`, lanProgram({ ...common, port: n + 1, fromEthernet: lan.ethernet, toEthernet: d.wan.ethernet }));
	show(`${d.wan.device} ingress`, wanProgram({ ...common, fromEthernet: d.wan.ethernet, toEthernet: d.lan[0].ethernet }));
	return `${out.join("\n")}\n`;
}
