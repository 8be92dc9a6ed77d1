/** How long tests with random input run. */

/** Defined by test/engine/run-unit.sh when the engine runs under emulation. */
declare const EMULATED: true | undefined;

/**
 * Rounds of a random test: all of them, or one in ten on an emulated processor, which takes eight times as long for
 * each.
 */
export function rounds(all: number): number {
	return typeof EMULATED === "undefined" ? all : all / 10;
}
