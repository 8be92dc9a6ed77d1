/** Seeded random numbers and text mutations, the same on every engine. */

/** Numbers in 0..1 by mulberry32. */
export function seededRandom(seed: number): () => number {
	let state = seed >>> 0;
	return () => {
		state = (state + 0x6d2b79f5) >>> 0;
		let t = Math.imul(state ^ (state >>> 15), state | 1);
		t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
		return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
	};
}

const PIECES = [
	"'",
	'"',
	"\\",
	"#",
	";",
	"\n",
	"\r",
	"\0",
	"\t",
	" ",
	"-",
	"/",
	"0",
	"65536",
	"4294967296",
	"config",
	"list",
	"''",
	"é",
	"\u{1f600}",
];

/** A text with one to four random changes: characters lost, doubled, replaced, put in; lines lost, doubled, moved. */
export function mutate(text: string, random: () => number): string {
	const below = (n: number) => Math.floor(random() * n);
	let result = text;
	for (let changes = 1 + below(4); changes > 0; changes--) {
		const at = below(result.length + 1);
		const lines = result.split("\n");
		const line = below(lines.length);
		switch (below(7)) {
			case 0:
				result = result.slice(0, at) + result.slice(at + 1 + below(8));
				break;
			case 1:
				result = result.slice(0, at) + PIECES[below(PIECES.length)] + result.slice(at);
				break;
			case 2:
				result = result.slice(0, at) + String.fromCharCode(below(256)) + result.slice(at + 1);
				break;
			case 3:
				lines.splice(line, 1);
				result = lines.join("\n");
				break;
			case 4:
				lines.splice(below(lines.length), 0, lines[line]!);
				result = lines.join("\n");
				break;
			case 5:
				result = result.slice(0, at);
				break;
			default:
				result = result.slice(0, at) + result.slice(below(result.length + 1), below(result.length + 1)) + result.slice(at);
		}
	}
	return result;
}
