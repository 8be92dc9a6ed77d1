#!/bin/sh
# Packs build/ARCH, or the pages in build/luci, as OpenWrt's opkg takes it: a gzipped tar of debian-binary, data.tar.gz
# and control.tar.gz. The same input gives the same bytes, whoever packs it and when.
#
#   openwrt/ipk.sh ARCH        prints the name of the package: build/masqd_VERSION_ARCH.ipk
#   openwrt/ipk.sh luci        likewise: build/luci-app-masqd_VERSION_all.ipk
#
# SOURCE_DATE_EPOCH is the time of all files in it (default: of the last commit).
set -eu
cd "$(dirname "$0")/.."
[ $# -eq 1 ] || {
	echo "usage: openwrt/ipk.sh ARCH | luci" >&2
	exit 1
}
arch=$1
version=$(sed -n 's/.*"version": "\(.*\)",/\1/p' package.json)-r1
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date -r package.json +%s)}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# zopfli makes gzip files that are 4.6 % smaller than gzip -9's.
pack() {
	tar -c --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -C "$1" . > "$work/tar"
	zopfli -c "$work/tar" > "$2"
}

mkdir -p "$work/data" "$work/control"
if [ "$arch" = luci ]; then
	name=luci-app-masqd section=luci arch=all
	depends='masqd, luci-base, rpcd-mod-luci, rpcd-mod-ucode, ucode-mod-fs, ucode-mod-socket, ucode-mod-uci, ucode-mod-uloop'
	description=' Pages for LuCI: who uses the line, why a packet was dropped and what would
 let it pass, forwards, settings; and the ubus object masqd behind them.'
	cp -R build/luci/. "$work/data/"
	rm -f "$work/data/.made"
	cp openwrt/luci/postinst-pkg "$work/control/"
else
	name=masqd section=net
	depends='kmod-tun, kmod-nft-nat, kmod-nft-queue, kmod-nf-conntrack-netlink, nftables'
	description=' IPv4 masquerader that keeps to RFC 4787, 5382 and 5508, remembers
 quiet connections, shares its table fairly between hosts, and says
 in words why it dropped a packet.'
	# openwrt/files mirrors the router's file system, the rest is built.
	mkdir -p "$work/data/usr/sbin" "$work/data/usr/share/masqd"
	cp -R openwrt/files/. "$work/data/"
	cp "build/$arch/masqd" "$work/data/usr/sbin/"
	cp "build/$arch"/*.qbc "$work/data/usr/share/masqd/"
	cp openwrt/postinst-pkg openwrt/postrm "$work/control/"
	echo /etc/config/masqd > "$work/control/conffiles"
fi
package=build/${name}_${version}_$arch.ipk
find "$work/data" \( -type d -o -type f -perm -u=x \) -exec chmod 755 {} +
find "$work/data" -type f ! -perm -u=x -exec chmod 644 {} +
# As OpenWrt installs configurations.
[ "$name" = luci-app-masqd ] || chmod 600 "$work/data/etc/config/masqd"

cat > "$work/control/postinst" << 'END'
#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_postinst $0 $@
END
cat > "$work/control/prerm" << 'END'
#!/bin/sh
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_prerm $0 $@
END
size=$(find "$work/data" -type f -exec cat {} + | wc -c)
cat > "$work/control/control" << END
Package: $name
Version: $version
Depends: $depends
Source: package/network/masqd
SourceName: masqd
License: MIT
LicenseFiles: LICENSE
Section: $section
SourceDateEpoch: $epoch
Architecture: $arch
Installed-Size: $size
Description: $description
END
chmod 755 "$work/control/"*
chmod 644 "$work/control/control"
[ "$name" = luci-app-masqd ] || chmod 644 "$work/control/conffiles"

mkdir "$work/package"
pack "$work/data" "$work/package/data.tar.gz"
pack "$work/control" "$work/package/control.tar.gz"
echo 2.0 > "$work/package/debian-binary"
# opkg reads the parts in this order.
(cd "$work/package" && tar -c --format=gnu --owner=0 --group=0 --mode=644 --numeric-owner --mtime="@$epoch" \
	./debian-binary ./data.tar.gz ./control.tar.gz) | gzip -9n > "$package"
echo "$package"
