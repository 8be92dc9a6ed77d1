/**
 * Makes the bundles out of src/.
 *
 *   node native/bundles.mjs VERSION FOLDER
 *
 * The client's and the configuration's stand for themselves: they start with nothing but what they need. Daemon, tools
 * and what the daemon reads when it wants it share one, core: what two of them need is in there once. esbuild would make
 * a bundle for each set of them that shares something, so each is told to begin with all that is shared; what it then
 * does not use is left out as ever.
 */
import { writeFileSync } from "node:fs";
import { build } from "esbuild";
import { hoist } from "./hoist.mjs";

const ALONE = { client: "cli/main", config: "config/main" };
const SHARING = { masqd: "daemon/main", tools: "tools/main", offload: "offload/main", "kernel-carrier": "daemon/kernel-carrier" };

const [version, folder] = process.argv.slice(2);

/** What the entry of a bundle says: its own file, and before it the files that are shared. */
const entries = {
	name: "entries",
	setup({ onResolve, onLoad, initialOptions }) {
		onResolve({ filter: /^entry:/ }, ({ path }) => ({ path: path.slice("entry:".length), namespace: "entry" }));
		onLoad({ filter: /.*/, namespace: "entry" }, ({ path }) => ({
			contents: [...shared.map((file) => `import "./${file}";`), `export * from "./src/${path}.ts";`].join("\n"),
			resolveDir: initialOptions.absWorkingDir,
		}));
	},
};
let shared = [];

function bundle(points, options) {
	return build({
		entryPoints: Object.entries(points).map(([out, path]) => ({ in: `entry:${path}`, out })),
		absWorkingDir: process.cwd(),
		plugins: [entries],
		bundle: true,
		minify: true,
		format: "esm",
		target: "es2023",
		platform: "neutral",
		external: ["masq:native"],
		define: { __VERSION__: JSON.stringify(version) },
		sourcemap: "external",
		outdir: folder,
		logLevel: "warning",
		metafile: true,
		write: false,
		...options,
	});
}

/** The files of src/ that more than one of the bundles have. */
async function filesOfMany(points) {
	const users = new Map();
	for (const [out, path] of Object.entries(points)) {
		const { metafile } = await bundle({ [out]: path });
		for (const file of Object.keys(metafile.inputs)) if (file.startsWith("src/")) users.set(file, [...(users.get(file) ?? []), out]);
	}
	const many = [...users].filter(([, { length }]) => length > 1);
	// The daemon keeps all of core in memory.
	for (const [file, names] of many) if (!names.includes("masqd")) throw new Error(`${file}: of ${names.join(" and ")}, but not the daemon's`);
	return many.map(([file]) => file);
}

const alone = await bundle(ALONE);
shared = await filesOfMany(SHARING);
const sharing = await bundle(SHARING, { splitting: true, chunkNames: "core" });
for (const { path, text } of [...alone.outputFiles, ...sharing.outputFiles]) writeFileSync(path, path.endsWith(".js") ? hoist(text) : text);
