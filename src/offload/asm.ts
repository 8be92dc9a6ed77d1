/**
 * An eBPF assembler and disassembler: instructions in, the bytes that bpf(2) takes out. Nothing here knows what the
 * program is for.
 *
 * An instruction is eight bytes (RFC 9669 section 3.2): opcode, two register numbers in a byte, a signed 16-bit offset,
 * a signed 32-bit immediate. The byte order of the multi-byte fields, and which nibble is the destination register, are
 * those of the machine that runs it, so an assembler is made for one. What is emitted keeps to what every JIT since
 * Linux 5.15 has: no division, no atomics, no calls between programs.
 *
 * The text of {@link disassemble} is LLVM's, so a second assembler can check both directions.
 */

/** One of the eleven registers. */
export class Register {
	readonly number: number;

	constructor(number: number) {
		this.number = number;
	}
}

/**
 * R0 is the result, R1 to R5 are arguments and lost in a call, R6 to R9 survive it, R10 is the end of the stack (read
 * only).
 */
export const R0 = new Register(0);
export const R1 = new Register(1);
export const R2 = new Register(2);
export const R3 = new Register(3);
export const R4 = new Register(4);
export const R5 = new Register(5);
export const R6 = new Register(6);
export const R7 = new Register(7);
export const R8 = new Register(8);
export const R9 = new Register(9);
export const R10 = new Register(10);

/** Arithmetic operations by name, with LLVM's sign. */
const ALU = {
	add: [0x00, "+="],
	sub: [0x10, "-="],
	mul: [0x20, "*="],
	or: [0x40, "|="],
	and: [0x50, "&="],
	lsh: [0x60, "<<="],
	rsh: [0x70, ">>="],
	xor: [0xa0, "^="],
	mov: [0xb0, "="],
	arsh: [0xc0, "s>>="],
} as const;
export type AluOperation = keyof typeof ALU;

/** Conditions; the plain ones compare without sign. */
const CONDITIONS = {
	eq: [0x10, "=="],
	gt: [0x20, ">"],
	ge: [0x30, ">="],
	set: [0x40, "&"],
	ne: [0x50, "!="],
	sgt: [0x60, "s>"],
	sge: [0x70, "s>="],
	lt: [0xa0, "<"],
	le: [0xb0, "<="],
	slt: [0xc0, "s<"],
	sle: [0xd0, "s<="],
} as const;
export type Condition = keyof typeof CONDITIONS;

/** Bytes that a load or store moves. */
export type Size = 1 | 2 | 4 | 8;
const SIZE_BITS: Record<Size, number> = { 4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18 };
const SIZE_OF = [4, 2, 1, 8];

const CLASS_LD = 0x00;
const CLASS_LDX = 0x01;
const CLASS_STX = 0x03;
const CLASS_ALU = 0x04;
const CLASS_JMP = 0x05;
const CLASS_JMP32 = 0x06;
const CLASS_ALU64 = 0x07;
/** The second operand is a register (BPF_X); in {@link END}, the result is big endian. */
const SOURCE = 0x08;
const MODE_MEM = 0x60;
const DOUBLE_WORD = 0x18;
const JA = 0x00;
const CALL = 0x80;
const EXIT = 0x90;
const END = 0xd0;
/** BPF_PSEUDO_MAP_VALUE: the wide immediate is a map's descriptor and an offset in its first value. */
const PSEUDO_MAP_VALUE = 2;

const INSTRUCTION = 8;

/** True if this machine is little endian. */
export const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

interface Instruction {
	opcode: number;
	destination: number;
	source: number;
	offset: number;
	immediate: number;
	/** Label that a jump goes to. */
	target?: string;
}

/** Builds one program; every method appends one instruction, except {@link label}, which names the next one. */
export class Assembler {
	readonly littleEndian: boolean;
	readonly #instructions: Instruction[] = [];
	readonly #labels = new Map<string, number>();

	/** @param littleEndian byte order of the machine that runs the program */
	constructor(littleEndian: boolean) {
		this.littleEndian = littleEndian;
	}

	/** Instructions so far; a wide one counts twice. */
	get length(): number {
		return this.#instructions.length;
	}

	#emit(opcode: number, destination: number, source: number, offset: number, immediate: number, target?: string): this {
		if (offset < -0x8000 || offset > 0x7fff) throw new RangeError(`offset ${offset} does not fit 16 bits`);
		const instruction: Instruction = { opcode, destination, source, offset, immediate: immediate | 0 };
		if (target !== undefined) instruction.target = target;
		this.#instructions.push(instruction);
		return this;
	}

	#operate(opcode: number, to: Register, by: Register | number): this {
		if (by instanceof Register) return this.#emit(opcode | SOURCE, to.number, by.number, 0, 0);
		return this.#emit(opcode, to.number, 0, 0, by);
	}

	/** 64-bit arithmetic; an immediate is sign-extended. */
	alu64(operation: AluOperation, to: Register, by: Register | number): this {
		return this.#operate(CLASS_ALU64 | ALU[operation][0], to, by);
	}

	/** 32-bit arithmetic; the upper half of the result is zero. */
	alu32(operation: AluOperation, to: Register, by: Register | number): this {
		return this.#operate(CLASS_ALU | ALU[operation][0], to, by);
	}

	/** Turns the low `bits` of a register from big endian to the machine's order, or back, and clears the rest. */
	bigEndian(register: Register, bits: 16 | 32): this {
		return this.#emit(CLASS_ALU | END | SOURCE, register.number, 0, 0, bits);
	}

	/** Loads `size` bytes, zero-extended. */
	load(size: Size, to: Register, base: Register, offset: number): this {
		return this.#emit(CLASS_LDX | MODE_MEM | SIZE_BITS[size], to.number, base.number, offset, 0);
	}

	/** Stores the low `size` bytes of a register. */
	store(size: Size, base: Register, offset: number, from: Register): this {
		return this.#emit(CLASS_STX | MODE_MEM | SIZE_BITS[size], base.number, from.number, offset, 0);
	}

	/** Jumps to a label if the 64-bit comparison holds; an immediate is sign-extended. */
	jump(condition: Condition, left: Register, right: Register | number, target: string): this {
		return this.#jump(CLASS_JMP, condition, left, right, target);
	}

	/** As {@link jump}, comparing the low halves only. */
	jump32(condition: Condition, left: Register, right: Register | number, target: string): this {
		return this.#jump(CLASS_JMP32, condition, left, right, target);
	}

	#jump(kind: number, condition: Condition, left: Register, right: Register | number, target: string): this {
		const opcode = kind | CONDITIONS[condition][0];
		if (right instanceof Register) return this.#emit(opcode | SOURCE, left.number, right.number, 0, 0, target);
		return this.#emit(opcode, left.number, 0, 0, right, target);
	}

	/** Jumps to a label. */
	goto(target: string): this {
		return this.#emit(CLASS_JMP | JA, 0, 0, 0, 0, target);
	}

	/** Calls a kernel function by its number (enum bpf_func_id). */
	call(helper: number): this {
		return this.#emit(CLASS_JMP | CALL, 0, 0, 0, helper);
	}

	/** Ends the program; R0 is its result. */
	exit(): this {
		return this.#emit(CLASS_JMP | EXIT, 0, 0, 0, 0);
	}

	/**
	 * Loads the address of byte `offset` of the first value of the array map with descriptor `map`. Two instructions.
	 */
	mapValue(to: Register, map: number, offset: number): this {
		this.#emit(CLASS_LD | DOUBLE_WORD, to.number, PSEUDO_MAP_VALUE, 0, map);
		return this.#emit(0, 0, 0, 0, offset);
	}

	/** Loads a 64-bit constant given by its halves. Two instructions. */
	constant(to: Register, low: number, high: number): this {
		this.#emit(CLASS_LD | DOUBLE_WORD, to.number, 0, 0, low);
		return this.#emit(0, 0, 0, 0, high);
	}

	/** Names the next instruction. Throws if the name is taken. */
	label(name: string): this {
		if (this.#labels.has(name)) throw new Error(`label ${name} is there twice`);
		this.#labels.set(name, this.#instructions.length);
		return this;
	}

	/** The program. Throws if a jump has no target or one too far away. */
	assemble(): ArrayBuffer {
		const bytes = new ArrayBuffer(this.#instructions.length * INSTRUCTION);
		const view = new DataView(bytes);
		const little = this.littleEndian;
		for (const [n, i] of this.#instructions.entries()) {
			let { offset } = i;
			if (i.target !== undefined) {
				const target = this.#labels.get(i.target);
				if (target === undefined) throw new Error(`no label ${i.target}`);
				offset = target - n - 1;
				if (offset < -0x8000 || offset > 0x7fff) throw new RangeError(`label ${i.target} is too far away`);
			}
			const at = n * INSTRUCTION;
			view.setUint8(at, i.opcode);
			view.setUint8(at + 1, little ? (i.source << 4) | i.destination : (i.destination << 4) | i.source);
			view.setInt16(at + 2, offset, little);
			view.setInt32(at + 4, i.immediate, little);
		}
		return bytes;
	}
}

/** What {@link disassemble} needs to read an instruction. */
interface Decoded {
	opcode: number;
	to: number;
	from: number;
	offset: number;
	immediate: number;
}

function decode(view: DataView, at: number, little: boolean): Decoded {
	const registers = view.getUint8(at + 1);
	const low = registers & 15;
	const high = registers >> 4;
	return {
		opcode: view.getUint8(at),
		to: little ? low : high,
		from: little ? high : low,
		offset: view.getInt16(at + 2, little),
		immediate: view.getInt32(at + 4, little),
	};
}

const ALU_SIGNS: Record<number, string> = Object.fromEntries(Object.values(ALU));
const CONDITION_SIGNS: Record<number, string> = Object.fromEntries(Object.values(CONDITIONS));

function signed(n: number): string {
	return n < 0 ? `- ${-n}` : `+ ${n}`;
}

function distance(n: number): string {
	return n < 0 ? String(n) : `+${n}`;
}

function known(signs: Record<number, string>, operation: number): string {
	const sign = signs[operation];
	if (sign === undefined) throw new Error(`no instruction has operation ${operation}`);
	return sign;
}

function condition(i: Decoded, left: string, right: string): string {
	return `if ${left} ${known(CONDITION_SIGNS, i.opcode & 0xf0)} ${right} goto ${distance(i.offset)}`;
}

/** One instruction as text. */
function text(i: Decoded): string {
	const kind = i.opcode & 7;
	const operation = i.opcode & 0xf0;
	const half = kind === CLASS_ALU || kind === CLASS_JMP32;
	const name = (n: number) => `${half ? "w" : "r"}${n}`;
	const right = i.opcode & SOURCE ? name(i.from) : String(i.immediate);
	switch (kind) {
		case CLASS_ALU:
		case CLASS_ALU64:
			if (operation === END) return `r${i.to} = be${i.immediate} r${i.to}`;
			return `${name(i.to)} ${known(ALU_SIGNS, operation)} ${right}`;
		case CLASS_JMP:
			if (operation === CALL) return `call ${i.immediate}`;
			if (operation === EXIT) return "exit";
			if (operation === JA) return `goto ${distance(i.offset)}`;
			return condition(i, name(i.to), right);
		case CLASS_JMP32:
			return condition(i, name(i.to), right);
		case CLASS_LDX:
			return `r${i.to} = *(u${SIZE_OF[(i.opcode >> 3) & 3] * 8} *)(r${i.from} ${signed(i.offset)})`;
		case CLASS_STX:
			return `*(u${SIZE_OF[(i.opcode >> 3) & 3] * 8} *)(r${i.to} ${signed(i.offset)}) = r${i.from}`;
		default:
			throw new Error(`no instruction has opcode ${i.opcode}`);
	}
}

/**
 * A program as text, one string an instruction (a wide one has two, the second empty), in LLVM's syntax but for the
 * address of a map value.
 */
export function disassemble(program: ArrayBuffer, little: boolean): string[] {
	const view = new DataView(program);
	const lines: string[] = [];
	for (let at = 0; at < program.byteLength; at += INSTRUCTION) {
		const i = decode(view, at, little);
		if (i.opcode !== (CLASS_LD | DOUBLE_WORD)) {
			lines.push(text(i));
			continue;
		}
		at += INSTRUCTION;
		const high = decode(view, at, little).immediate;
		if (i.from === PSEUDO_MAP_VALUE) lines.push(`r${i.to} = map ${i.immediate} value + ${high}`, "");
		else lines.push(`r${i.to} = ${(BigInt(high) << 32n) | BigInt(i.immediate >>> 0)} ll`, "");
	}
	return lines;
}
