#!/bin/sh
# Runs test/engine/native-surface.ts on the real engine, in a network namespace that ends with it.
#
#   test/engine/run-native.sh [MASQD-EXECUTABLE]      (default: build/masqd)
#
# Needs root for the namespace, TUN and packet sockets. Works on the normal, the sanitizer and the musl build; leak
# detection stays on, because the host frees the whole engine before it ends.
set -eu
cd "$(dirname "$0")/../.."
program=${1:-build/masqd}
[ -x "$program" ] || {
	echo "run-native: $program: not built" >&2
	exit 1
}
# shellcheck source=test/engine/foreign.sh
. test/engine/foreign.sh
mkdir -p build/test
bundle=$(mktemp -d build/test/native-XXXXXX)
trap 'rm -rf "$bundle"' EXIT
trap 'exit 1' HUP INT TERM

node test/engine/surface-list.mjs >"$bundle/surface.json"
node_modules/.bin/esbuild test/engine/native-surface.ts --bundle --format=esm --target=es2023 --external:masq:native \
	"--define:EMULATOR=\"$emulator\"" "--define:PARSER=$parser" "--define:SURFACE=$(cat "$bundle/surface.json")" "--define:SCRATCH=\"$bundle\"" \
	--outfile="$bundle/native-surface.js" --log-level=warning

echo "import * as n from 'masq:native'; n.exit(n.lockFile(n.args()[0]));" >"$bundle/closed.js"
for_program "$bundle/closed.js" >/dev/null
# As the program names it when it imports it.
echo "export const answer = 42;" >"$bundle/beside.js"
cat >"$bundle/asked.js" <<'END'
let times = 0;
export function answer(question) {
	if (question === "throw") throw new RangeError("on purpose");
	return `${question}, ${++times} times`;
}
END
# Two of one build, and one of another.
cat >"$bundle/builds.js" <<'END'
import * as native from "masq:native";
for (const get of [() => native.importBundle("same"), () => native.importBundle("other"), () => native.ask("other", "?"), () => native.importBundle("beside")])
	try {
		native.print(1, `${JSON.stringify(get())}\n`);
	} catch (error) {
		native.print(1, `${error.message}\n`);
	}
//# masqd 0000000000000001
END
for_program "$bundle/builds.js" >/dev/null
printf '%s\n' 'export const build = 1;' '//# masqd 0000000000000001' >"$bundle/same.js"
printf '%s\n' 'export function answer() { return "read"; }' '//# masqd 0000000000000002' >"$bundle/other.js"
for name in beside asked same other; do
	[ -z "$compiler" ] || mv "$(for_program "$bundle/$name.js")" "$bundle/$name.qbc"
done

UBSAN_OPTIONS=print_stacktrace=1 MASQD_JS=$(for_program "$bundle/native-surface.js") unshare -n $emulator "$program"
