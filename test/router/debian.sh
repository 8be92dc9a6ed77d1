#!/bin/sh
# Gets what the emulated router is made of besides masqd: a kernel, busybox, flock and nft from
# Debian's packages for its architecture, by an apt configuration of its own. The machine's
# apt and dpkg are only read.
#
#   debian.sh ARCH FOLDER [PACKAGE...]      ARCH: x86_64 or mipsel; unpacks these and what it always takes into FOLDER/root
set -eu

fail() {
	echo "debian.sh: $*" >&2
	exit 1
}

[ $# -ge 2 ] || fail "usage: debian.sh ARCH FOLDER [PACKAGE...]"
mkdir -p "$2"
folder=$(cd "$2" && pwd)
architecture=$1
# The last release with MIPS.
suite=bookworm
case $architecture in
	x86_64) arch=amd64 kernels='linux-image-6.12-cloud-amd64 linux-image-cloud-amd64' ;;
	mipsel) arch=mipsel kernels=linux-image-4kc-malta ;;
	*) fail "no architecture $architecture" ;;
esac
packages='busybox-static util-linux nftables libnftables1 libnftnl11 libmnl0 libjansson4 libgmp10 libxtables12 libedit2 libbsd0 libmd0 libtinfo6 libc6'
shift 2
packages="$packages${1:+ $*}"

[ "$packages" = "$(cat "$folder/.ready" 2> /dev/null)" ] && exit 0
rm -rf "${folder:?}"/*
mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/packages"
: > "$folder/status"

# shellcheck disable=SC2016 # apt's own placeholder
sites=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' 2> /dev/null | sort -u)
main=$(echo "$sites" | grep -v -e security -e nodesource -e google | grep -m 1 debian || echo http://deb.debian.org/debian)
security=$(echo "$sites" | grep -m 1 security || echo http://deb.debian.org/debian-security)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e $keys ] && keys="[signed-by=$keys] " || keys=
{
	echo "deb $keys$main $suite main"
	echo "deb $keys$security $suite-security main"
} > "$folder/sources.list"

foreign() {
	command=$1
	shift
	"$command" -q -o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" -o "Dir::Etc::SourceList=$folder/sources.list" \
		-o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$folder/lists" -o "Dir::State::status=$folder/status" \
		-o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}

foreign apt-get update > "$folder/log" 2>&1 || fail "$(cat "$folder/log")"
image=
for kernel in $kernels; do
	image=$(foreign apt-cache depends --no-recommends --no-suggests "$kernel" 2> /dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
	[ -z "$image" ] || break
done
[ -n "$image" ] || fail "Debian $suite has none of: $kernels"
# shellcheck disable=SC2086 # lists
(cd "$folder/packages" && foreign apt-get download $packages "$image") >> "$folder/log" 2>&1 || fail "$(cat "$folder/log")"
for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
rm -rf "$folder/packages" "$folder/lists" "$folder/cache"
echo "$packages" > "$folder/.ready"
