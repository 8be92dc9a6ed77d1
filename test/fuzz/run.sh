#!/bin/sh
# Fuzzes the core on the sanitizer build of the real engine.
#
#   test/fuzz/run.sh [FRAMES [SEED [EPISODE]]]      (default: 200000 frames, seed 1)
#
# The same seed gives the same frames and events. With an EPISODE only that one is run, FRAMES of it: what a failure prints
# as "replay". MASQD names another executable; `node` runs the same on Node, many times as fast, but without the real engine
# and its sanitizers. Last line `N passed, N failed`; exit status 1 after a failure.
set -eu
cd "$(dirname "$0")/../.."
program=${MASQD:-build/sanitize/masqd}
if [ "$program" != node ] && [ ! -x "$program" ]; then
	echo "fuzz: $program: not built (make build SANITIZE=1)" >&2
	exit 1
fi
mkdir -p build/test
bundle=$(mktemp build/test/fuzz-XXXXXX.mjs)
trap 'rm -f "$bundle"' EXIT
trap 'exit 1' HUP INT TERM
where=--external:masq:native
platform=neutral
if [ "$program" = node ]; then
	where=--alias:masq:native=./test/fuzz/node.ts
	platform=node
fi
node_modules/.bin/esbuild test/fuzz/fuzz.ts --bundle --format=esm --target=es2023 --platform=$platform "$where" \
	--outfile="$bundle" --log-level=warning

set -- "${1:-200000}" "${2:-1}" ${3:+"$3"}
if [ "$program" = node ]; then
	node --enable-source-maps "$bundle" "$@"
	exit
fi
# MASQD_DEBUG: line numbers in the traces of failures.
UBSAN_OPTIONS=print_stacktrace=1 MASQD_DEBUG=1 MASQD_JS=$bundle "$program" "$@"
