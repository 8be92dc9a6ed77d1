#!/bin/sh
# Runs test/net/NAME-check.ts on the real engine against the real kernel, in a network namespace that ends with it.
#
#   test/net/run-check.sh NAME [MASQD-EXECUTABLE]      (kernel-view, netlink; default: build/masqd)
set -eu
cd "$(dirname "$0")/../.."
name=$1
program=${2:-build/masqd}
mkdir -p build/test
bundle=$(mktemp "build/test/$name-XXXXXX.js")
trap 'rm -f "$bundle"' EXIT
trap 'exit 1' HUP INT TERM
node_modules/.bin/esbuild "test/net/$name-check.ts" --bundle --format=esm --target=es2023 --external:masq:native --outfile="$bundle" \
	--log-level=warning --allow-overwrite
MASQD_JS=$bundle unshare -n "$program"
