#!/bin/sh
# Runs test/net/kernel-view-check.ts on the real engine against the real kernel, in a network namespace that ends with it.
#
#   test/net/run-kernel-view.sh [MASQD-EXECUTABLE]      (default: build/masqd)
set -eu
cd "$(dirname "$0")/../.."
program=${1:-build/masqd}
mkdir -p build/test
bundle=$(mktemp build/test/kernel-view-XXXXXX.js)
trap 'rm -f "$bundle"' EXIT
trap 'exit 1' HUP INT TERM
node_modules/.bin/esbuild test/net/kernel-view-check.ts --bundle --format=esm --target=es2023 --external:masq:native --outfile="$bundle" \
	--log-level=warning --allow-overwrite
MASQD_JS=$bundle unshare -n "$program"
