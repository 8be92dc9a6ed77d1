#!/bin/sh
# Fuzzes the core on the sanitizer build of the real engine.
#
#   test/fuzz/run.sh [FRAMES [SEED [EPISODE]]]      (default: 200000 frames, seed 1)
#
# The same seed gives the same frames. With an EPISODE only that one is run, FRAMES of it: what a failure prints as
# "replay". MASQD names another executable. Last line `N passed, N failed`; exit status 1 after a failure.
set -eu
cd "$(dirname "$0")/../.."
program=${MASQD:-build/sanitize/masqd}
[ -x "$program" ] || {
	echo "fuzz: $program: not built (make build SANITIZE=1)" >&2
	exit 1
}
mkdir -p build/test
bundle=$(mktemp build/test/fuzz-XXXXXX.js)
trap 'rm -f "$bundle"' EXIT
trap 'exit 1' HUP INT TERM
node_modules/.bin/esbuild test/fuzz/fuzz.ts --bundle --format=esm --target=es2023 --platform=neutral --external:masq:native \
	--outfile="$bundle" --log-level=warning

# MASQD_DEBUG: line numbers in the traces of failures.
UBSAN_OPTIONS=print_stacktrace=1 MASQD_DEBUG=1 MASQD_JS=$bundle "$program" "${1:-200000}" "${2:-1}" ${3:+"$3"}
