#!/bin/sh
# Fuzzes the core: the first 400,000 frames on the sanitizer build of the real engine, all others on Node.
#
#   test/fuzz/run.sh [FRAMES [SEED [EPISODE]]]      (default: 400000 frames, seed 1)
#
# The same seed gives the same frames and events. With an EPISODE only that one is run, FRAMES of it: what a failure prints
# as "replay". MASQD names the executable for all frames; `node` runs the same on Node, about eight times as fast, but
# without the real engine and its sanitizers. Last line `N passed, N failed`; exit status 1 after a failure.
set -eu
cd "$(dirname "$0")/../.."
frames=${1:-400000}
seed=${2:-1}
episode=${3:-}
# A whole number of episodes.
sanitized=400000
mkdir -p build/test
bundle=$(mktemp build/test/fuzz-XXXXXX.mjs)
trap 'rm -f "$bundle"' EXIT
trap 'exit 1' HUP INT TERM

bundle() {
	node_modules/.bin/esbuild test/fuzz/fuzz.ts --bundle --format=esm --target=es2023 "$@" --outfile="$bundle" --log-level=warning --allow-overwrite
}

on_node() {
	bundle --platform=node --alias:masq:native=./test/fuzz/node.ts
	node --enable-source-maps "$bundle" "$@"
}

on_engine() {
	if [ ! -x "$program" ]; then
		echo "fuzz: $program: not built (make build SANITIZE=1)" >&2
		exit 1
	fi
	bundle --platform=neutral --external:masq:native
	# MASQD_DEBUG: line numbers in the traces of failures.
	UBSAN_OPTIONS=print_stacktrace=1 MASQD_DEBUG=1 MASQD_JS=$bundle "$program" "$@"
}

program=${MASQD:-build/sanitize/masqd}
if [ "$program" = node ]; then
	on_node "$frames" "$seed" ${episode:+"$episode"}
elif [ -n "$episode" ] || [ -n "${MASQD:-}" ] || [ "$frames" -le "$sanitized" ]; then
	on_engine "$frames" "$seed" ${episode:+"$episode"}
else
	on_engine "$sanitized" "$seed"
	on_node "$frames" "$seed" "$((sanitized / 4000)).."
fi
