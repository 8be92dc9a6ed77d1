#!/bin/sh
# Packs masqd as an .ipk for the emulated router: openwrt/files, an executable and the bundle.
#
#   package.sh EXECUTABLE OUT
set -eu
executable=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/data/usr/sbin" "$work/data/usr/share/masqd" "$work/control" "${out%/*}"
cp -R openwrt/files/. "$work/data/"
cp "$executable" "$work/data/usr/sbin/masqd"
cp build/masqd.js "$work/data/usr/share/masqd/"
printf 'Package: masqd\n' > "$work/control/control"
echo /etc/config/masqd > "$work/control/conffiles"
for script in postinst prerm; do
	# shellcheck disable=SC2016 # expands on the router
	printf '#!/bin/sh\n. ${IPKG_INSTROOT}/lib/functions.sh\ndefault_%s $0 $@\n' $script > "$work/control/$script"
done
for part in data control; do tar -c -z -f "$work/$part.tar.gz" --owner=0 --group=0 --numeric-owner -C "$work/$part" .; done
echo 2.0 > "$work/debian-binary"
tar -c -z -f "$out" -C "$work" ./debian-binary ./data.tar.gz ./control.tar.gz
