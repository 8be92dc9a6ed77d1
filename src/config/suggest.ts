/** "Did you mean": the known word nearest to a mistyped one. */

/**
 * Edit distance with insertion, deletion, replacement and exchange of neighbours (optimal string alignment).
 *
 * @returns number of edits; words over 32 characters are as far apart as they are long.
 */
export function editDistance(a: string, b: string): number {
	if (a.length > 32 || b.length > 32) return Math.max(a.length, b.length);
	let beforeLast: number[] = [];
	let last = Array.from({ length: b.length + 1 }, (_, j) => j);
	for (let i = 1; i <= a.length; i++) {
		const row = [i];
		for (let j = 1; j <= b.length; j++) {
			const replaced = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
			let least = Math.min(replaced, last[j]! + 1, row[j - 1]! + 1);
			if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) least = Math.min(least, beforeLast[j - 2]! + 1);
			row.push(least);
		}
		beforeLast = last;
		last = row;
	}
	return last[b.length]!;
}

/**
 * The nearest known word, if it is near enough to be meant: one edit for up to four characters, else two, or case only.
 *
 * @returns null when none is near.
 */
export function nearestWord(word: string, known: readonly string[]): string | null {
	let nearest: string | null = null;
	let least = word.length <= 4 ? 1 : 2;
	for (const candidate of known) {
		const distance = candidate === word.toLowerCase() ? 0 : editDistance(word, candidate);
		if (distance < least || (distance === least && nearest === null)) {
			nearest = candidate;
			least = distance;
		}
	}
	return nearest;
}

/** "did you mean 'device'?" or, when nothing is near, "expected one of device, interface". */
export function suggestOneOf(word: string, known: readonly string[]): string {
	const nearest = nearestWord(word, known);
	return nearest === null ? `expected one of ${known.join(", ")}` : `did you mean '${nearest}'?`;
}
