#!/bin/sh
# Gets the source of QuickJS 2025-04-26, the engine that masqd embeds unpatched, and unpacks it.
#
#   fetch-quickjs.sh TARGET-DIRECTORY
#
# Three ways to the same tarball, tried in this order:
#   1. QUICKJS_TARBALL=file, if set: a file that is already here (offline builds, a router SDK's dl/ folder);
#   2. Debian's source package, by an apt configuration of its own: lists, cache and sources live in a temporary
#      folder and the machine's apt is only read;
#   3. the project's own release, by curl (QUICKJS_URL overrides the address).
# Whatever the way, the tarball must have one of the two known sums, and the files that are compiled must have the
# one known sum: that proves that both tarballs hold the same engine.
set -eu

release=2025-04-26
debian_version=2025.04.26
debian_suite=trixie
debian_sum=ec81da5b3249ed648dbc7df4a1654988910e66a118d9b71cb63534216efcfbbe
upstream_sum=2f20074c25166ef6f781f381c50d57b502cb85d470d639abccebbef7954c83bf
engine_sum=6fa5f2ae4937034420f7303fc7ca395e128fce22afeab2ccc1e806c59b22a07b
engine_files="quickjs.c libregexp.c libunicode.c cutils.c dtoa.c
	cutils.h dtoa.h libregexp-opcode.h libregexp.h libunicode-table.h libunicode.h list.h quickjs-atom.h
	quickjs-opcode.h quickjs.h"
upstream_url=${QUICKJS_URL:-https://bellard.org/quickjs/quickjs-$release.tar.xz}

fail() {
	echo "fetch-quickjs: $*" >&2
	exit 1
}

[ $# -eq 1 ] || fail "usage: fetch-quickjs.sh TARGET-DIRECTORY"
target=$1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

known_sum() {
	sum=$(sha256sum "$1" | cut -d ' ' -f 1)
	[ "$sum" = "$debian_sum" ] || [ "$sum" = "$upstream_sum" ]
}

# The archive that this machine's own apt takes its packages from.
debian_site() {
	# shellcheck disable=SC2016 # $(SITE) is apt's own placeholder
	apt-get indextargets --format '$(SITE) $(COMPONENT)' 'Identifier: Packages' 2>/dev/null |
		sed -n '/-security/d; s/ main$//p' | head -n 1
}

from_debian() {
	command -v apt-get >/dev/null 2>&1 || return 1
	site=$(debian_site)
	[ -n "$site" ] || return 1
	keys=
	if [ -f /usr/share/keyrings/debian-archive-keyring.gpg ]; then
		keys='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
	fi
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
	echo "deb-src $keys$site $debian_suite main" >"$work/sources.list"
	private_apt() {
		apt-get -q \
			-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
			-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" \
			-o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false -o Acquire::Languages=none "$@"
	}
	(
		private_apt update && cd "$work/source" && private_apt source --download-only quickjs
	) >"$work/apt.log" 2>&1 || return 1
	tarball=$work/source/quickjs_$debian_version.orig.tar.xz
	[ -f "$tarball" ] && known_sum "$tarball"
}

from_upstream() {
	command -v curl >/dev/null 2>&1 || return 1
	tarball=$work/quickjs-$release.tar.xz
	curl --fail --silent --show-error --location --max-time 120 --output "$tarball" "$upstream_url" \
		2>"$work/curl.log" && known_sum "$tarball"
}

if [ -n "${QUICKJS_TARBALL:-}" ]; then
	tarball=$QUICKJS_TARBALL
	[ -f "$tarball" ] || fail "QUICKJS_TARBALL: $tarball: no such file"
	known_sum "$tarball" || fail "QUICKJS_TARBALL: $tarball is not QuickJS $release"
elif ! from_debian && ! from_upstream; then
	cat "$work/apt.log" "$work/curl.log" >&2 2>/dev/null || :
	fail "no source for QuickJS $release: set QUICKJS_TARBALL to its tar.xz"
fi

mkdir "$work/unpacked"
tar -x -J -f "$tarball" -C "$work/unpacked" --strip-components=1

# shellcheck disable=SC2086 # a list of names
found=$(cd "$work/unpacked" && cat $engine_files | sha256sum | cut -d ' ' -f 1)
[ "$found" = "$engine_sum" ] || fail "the unpacked engine has sum $found, expected $engine_sum"

rm -rf "$target"
mkdir -p "$(dirname "$target")"
cp -R "$work/unpacked" "$target"
touch "$target/.verified"
