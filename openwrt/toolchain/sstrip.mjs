/**
 * Cuts an ELF executable behind what is loaded, as OpenWrt's own `sstrip` does: the section headers and the sections
 * that only tools read go. lld has no way to leave out MIPS's `.pdr`, 60 kB of it.
 *
 *   node sstrip.mjs EXECUTABLE
 */
import { readFileSync, writeFileSync } from "node:fs";

const path = process.argv[2];
const file = readFileSync(path);
const wide = file[4] === 2;
const little = file[5] === 1;
const view = new DataView(file.buffer, file.byteOffset, file.length);
const half = (at) => view.getUint16(at, little);
const word = (at) => (wide ? Number(view.getBigUint64(at, little)) : view.getUint32(at, little));

const headers = word(wide ? 32 : 28);
const size = half(wide ? 54 : 42);
const count = half(wide ? 56 : 44);
let end = headers + size * count;
for (let n = 0; n < count; n++) {
	const header = headers + n * size;
	end = Math.max(end, word(header + (wide ? 8 : 4)) + word(header + (wide ? 32 : 16)));
}
// e_shoff, then e_shnum and e_shstrndx: no section headers.
file.fill(0, wide ? 40 : 32, wide ? 48 : 36);
file.fill(0, wide ? 60 : 48, wide ? 64 : 52);
writeFileSync(path, file.subarray(0, end));
