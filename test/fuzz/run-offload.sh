#!/bin/sh
# Holds the offload's programs against the slow path (offload.ts), in a network namespace that ends with it. Needs root.
#
#   test/fuzz/run-offload.sh [FRAMES [SEED [EPISODE]]]      (default: 10000 frames, seed 1)
#
# The same seed gives the same frames. With an EPISODE only that one is run: what a failure prints as "replay". MASQD names another executable. Last line
# `N passed, N failed`; exit status 1 after a failure.
set -eu
cd "$(dirname "$0")/../.."
program=${MASQD:-build/masqd}
[ -x "$program" ] || {
	echo "offload: $program: not built" >&2
	exit 1
}
mkdir -p build/test
bundle=$(mktemp build/test/offload-XXXXXX.js)
trap 'rm -f "$bundle"' EXIT
trap 'exit 1' HUP INT TERM
node_modules/.bin/esbuild test/fuzz/offload.ts --bundle --format=esm --target=es2023 --platform=neutral --external:masq:native \
	--outfile="$bundle" --log-level=warning --allow-overwrite

MASQD_DEBUG=1 MASQD_JS=$bundle unshare -n "$program" "${1:-10000}" "${2:-1}" ${3:+"$3"}
