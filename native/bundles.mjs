/**
 * Makes the bundles out of src/.
 *
 *   node native/bundles.mjs VERSION FOLDER
 *
 * The client's and the configuration's stand for themselves: they start with nothing but what they need. Daemon, tools
 * and what the daemon reads when it wants it share one, core: what the daemon and any other of them need is in there
 * once. esbuild would make a bundle for each set of them that shares something, so each is told to begin with all that
 * is shared; what it then does not use is left out as ever. What two have and the daemon has not is in both: the daemon
 * keeps all of core in memory.
 */
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import * as esbuild from "esbuild";
import { hoist } from "./hoist.mjs";
import { lean, PRIVATE } from "./lean.mjs";

const ALONE = { client: "cli/main", config: "config/main" };
const SHARING = {
	masqd: "daemon/main",
	tools: "tools/main",
	ftp: "nat/alg",
	inspect: "control/inspect",
	accounts: "control/accounts",
	offload: "offload/main",
	"kernel-carrier": "daemon/kernel-carrier",
	"hand-over": "kernel/hand-over",
	bans: "daemon/firewall-bans",
};

const [version, folder] = process.argv.slice(2);
const root = process.cwd();

/** Entries that begin with the files `shared`; each has a copy of its own of those that are `copied`. */
function entries(shared, copied) {
	return {
		name: "entries",
		setup({ onResolve, onLoad }) {
			onResolve({ filter: /^entry:/ }, ({ path }) => ({ path: path.slice("entry:".length), namespace: "entry" }));
			onLoad({ filter: /.*/, namespace: "entry" }, ({ path }) => ({
				contents: [...shared.map((file) => `import "./${file}";`), `export * from "./src/${path}.ts";`].join("\n"),
				resolveDir: root,
				pluginData: path,
			}));
			// Each file of src/ knows whose it is, so that an import of a copied one finds the copy of that entry.
			onResolve({ filter: /^\./ }, ({ path, resolveDir, pluginData }) => {
				const file = join(resolveDir, path);
				return { path: file, pluginData, suffix: copied.includes(relative(root, file)) ? `?${pluginData}` : "" };
			});
			onLoad({ filter: /\.ts$/ }, ({ path, pluginData }) => ({
				contents: lean(path),
				loader: "ts",
				resolveDir: dirname(path),
				pluginData,
			}));
		},
	};
}

function bundle(points, { shared = [], copied = [], ...options } = {}) {
	return esbuild.build({
		entryPoints: Object.entries(points).map(([out, path]) => ({ in: `entry:${path}`, out })),
		absWorkingDir: root,
		plugins: [entries(shared, copied)],
		bundle: true,
		minify: true,
		mangleProps: PRIVATE,
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

/** The files of src/ that more than one of the bundles have: those that the daemon has too, and the others. */
async function filesOfMany(points) {
	const users = new Map();
	for (const [out, path] of Object.entries(points)) {
		const { metafile } = await bundle({ [out]: path });
		for (const file of Object.keys(metafile.inputs)) if (file.startsWith("src/")) users.set(file, [...(users.get(file) ?? []), out]);
	}
	const many = [...users].filter(([, { length }]) => length > 1);
	const pick = (ofDaemon) => many.filter(([, names]) => names.includes("masqd") === ofDaemon).map(([file]) => file);
	return { shared: pick(true), copied: pick(false) };
}

const alone = await bundle(ALONE);
const sharing = await bundle(SHARING, { ...(await filesOfMany(SHARING)), splitting: true, chunkNames: "core" });
const files = [...alone.outputFiles, ...sharing.outputFiles].map(({ path, text }) => [path, path.endsWith(".js") ? hoist(text) : text]);
// By which those of one build know each other (bytecode.h).
const digest = createHash("sha256");
for (const [path, text] of files) if (path.endsWith(".js")) digest.update(text);
const build = `//# masqd ${digest.digest("hex").slice(0, 16)}\n`;
for (const [path, text] of files) writeFileSync(path, path.endsWith(".js") ? text + build : text);
