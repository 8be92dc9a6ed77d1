#!/bin/sh
# Makes the emulated router's firmware: OUT/kernel and OUT/initramfs.
#
#   firmware.sh ARCH OUT PACKAGE      ARCH: x86_64 or mipsel; PACKAGE: masqd's .ipk for it
#
# The root file system is test/router/rootfs (stand-ins for what OpenWrt would have), Debian's
# busybox and nft, the kernel modules that a router of this kind has, and the package: its
# files unpacked as opkg does, its postinst left to the first boot.
set -eu

[ $# -eq 3 ] || {
	echo "usage: firmware.sh ARCH OUT PACKAGE" >&2
	exit 1
}
arch=$1 out=$2 package=$3
here=$(dirname "$0")
debian=$out/debian
root=$out/root

"$here/debian.sh" "$arch" "$debian"

case $arch in
	x86_64) libraries=lib/x86_64-linux-gnu loader=lib64/ld-linux-x86-64.so.2 ;;
	mipsel) libraries=lib/mipsel-linux-gnu loader=lib/ld.so.1 ;;
esac
modules="virtio_pci virtio_net virtio_blk overlay af_packet bridge tun nf_tables nf_conntrack nf_nat nft_chain_nat nft_masq nft_ct nft_limit nft_objref nft_reject_inet nft_fib_inet sch_ingress cls_bpf"

rm -rf "$root"
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/root" "$root/usr/sbin" "$root/usr/bin" "$root/$libraries" "$root/lib/modules" "$root/etc/rc.d" \
	"$root/usr/lib/opkg/info"
ln -s tmp "$root/var"
cp -R "$here/rootfs/." "$root/"
# The overlay of openwrt/image, for the test to run its script.
mkdir -p "$root/rom"
cp -R "$here/../../openwrt/image/files" "$root/rom/image"
ln -s ../init.d/firewall "$root/etc/rc.d/S19firewall"
ln -s ../init.d/network "$root/etc/rc.d/S20network"
ln -s ../init.d/dnsmasq "$root/etc/rc.d/S19dnsmasq"

# busybox, nft and the libraries of nft, and the flock that OpenWrt's busybox has.
cp "$debian/root/bin/busybox" "$root/bin/"
while read -r name; do
	case $name in
		ip | ifconfig | init | insmod | reboot | poweroff | syslogd | klogd | sysctl | start-stop-daemon | logread) folder=sbin ;;
		*) folder=bin ;;
	esac
	[ -e "$root/$folder/$name" ] || ln -s /bin/busybox "$root/$folder/$name"
done < "$here/applets"
cp "$debian/root/usr/sbin/nft" "$root/usr/sbin/"
cp "$debian/root/usr/bin/flock" "$root/usr/bin/"
cp -P "$debian/root/$libraries"/*.so* "$debian/root/usr/$libraries"/lib*.so* "$root/$libraries/" 2> /dev/null || :
rm -f "$root/$libraries"/libnss_* "$root/$libraries"/libthread_db* "$root/$libraries"/libc_malloc_debug* "$root/$libraries"/libmemusage* "$root/$libraries"/libpcprofile*
mkdir -p "$root/${loader%/*}"
[ -e "$root/$loader" ] || cp -L "$debian/root/$loader" "$root/$loader"

# Modules in the order in which they load.
tree=$debian/root
release=$(ls "$tree/lib/modules")
[ -e "$tree/lib/modules/$release/modules.dep" ] || depmod -b "$tree" "$release"
: > "$root/etc/modules.order"
for module in $modules; do
	modprobe -d "$tree" -S "$release" -D "$module" 2> /dev/null || : # built in, or of another kernel
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
	name=$(basename "$file")
	case $name in
		*.ko.xz) xz -d -c "$file" > "$root/lib/modules/${name%.xz}" ;;
		*.ko.zst) zstd -d -q -c "$file" > "$root/lib/modules/${name%.zst}" ;;
		*) cp "$file" "$root/lib/modules/" ;;
	esac
	echo "${name%.ko*}.ko" >> "$root/etc/modules.order"
done

# The package, by its own rules.
unpacked=$out/package
rm -rf "$unpacked"
mkdir -p "$unpacked"
tar -x -z -f "$package" -C "$unpacked"
tar -x -z -f "$unpacked/data.tar.gz" -C "$root"
mkdir "$unpacked/control"
tar -x -z -f "$unpacked/control.tar.gz" -C "$unpacked/control"
tar -t -z -f "$unpacked/data.tar.gz" | sed -n 's|^\./\(.*[^/]\)$|/\1|p' > "$root/usr/lib/opkg/info/masqd.list"
for file in "$unpacked"/control/*; do cp "$file" "$root/usr/lib/opkg/info/masqd.${file##*/}"; done

cp "$debian/root/boot/vmlinuz-$release" "$out/kernel"
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) | gzip -1 > "$out/initramfs.new"
mv "$out/initramfs.new" "$out/initramfs"
