#!/bin/sh
# Runs the unit tests on the real engine: all of test/unit/*.test.ts but those that need Node (called *.node.test.ts,
# or importing one of its modules), in one bundle, with test/engine/vitest-stand-in.ts in the place of vitest.
#
#   test/engine/run-unit.sh [MASQD-EXECUTABLE [FILE...]]      (default: build/masqd, all files)
#
# An executable for a router (build/ARCH/masqd) runs under qemu-user, and the tests as bytecode.
#
# Prints what fails and last of all `N passed, N failed`; exit status 1 if anything failed.
set -eu
cd "$(dirname "$0")/../.."
program=${1:-build/masqd}
[ -x "$program" ] || {
	echo "run-unit: $program: not built" >&2
	exit 1
}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- test/unit/*.test.ts
# shellcheck source=test/engine/foreign.sh
. test/engine/foreign.sh
mkdir -p build/test
# The list of files is made in the folder from which its imports are found.
entry=$(mktemp build/test/unit-XXXXXX.ts)
bundle=${entry%.ts}.js
trap 'rm -f "$entry" "$bundle" "$bundle.qbc"' EXIT
trap 'exit 1' HUP INT TERM

for file in "$@"; do
	case $file in
	*.node.test.ts) continue ;;
	esac
	grep -q 'from "node:' "$file" && continue
	echo "import \"../../$file\";"
done >"$entry"
cat >>"$entry" <<-'END'
	import * as native from "masq:native";
	import { finish } from "vitest";
	native.exit(finish());
END
node_modules/.bin/esbuild "$entry" --bundle --format=esm --target=es2023 --platform=neutral --external:masq:native \
	--alias:vitest=./test/engine/vitest-stand-in.ts ${emulator:+--define:EMULATED=true} --outfile="$bundle" --log-level=warning

# MASQD_DEBUG: line numbers in the traces of failures.
UBSAN_OPTIONS=print_stacktrace=1 MASQD_DEBUG=1 MASQD_JS=$(for_program "$bundle") $emulator "$program"
