#!/bin/sh
# Makes the MIPS guest: Debian's mipsel kernel for the Malta board, and a root file system that the cases of this folder
# run in as they do in the other guest: Python, iproute2, nft and busybox of that architecture. The working copy is
# beside it (/masqd, with build/mipsel_24kc as its build).
#
#   mips.sh OUT      makes OUT/kernel, OUT/initramfs and OUT/debian/root
set -eu

[ $# -eq 1 ] || {
	echo "usage: mips.sh OUT" >&2
	exit 1
}
mkdir -p "$1"
out=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

modules="af_packet veth tun
nf_tables nf_conntrack nf_nat nft_chain_nat nft_masq nft_nat nft_ct nft_limit nft_objref nft_reject_inet nft_fib_inet
nfnetlink_queue nft_queue nfnetlink_cttimeout nf_conntrack_netlink nf_flow_table nft_flow_offload nf_flow_table_inet
sch_ingress cls_bpf cls_u32 act_gact"

"$here/../router/debian.sh" mipsel "$out/debian" python3.11-minimal libpython3.11-minimal libpython3.11-stdlib zlib1g libexpat1 libffi8 \
	iproute2 libbpf1 libelf1 libcap2 libselinux1 libpcre2-8-0 libtirpc3 libgssapi-krb5-2 libgcc-s1
tree=$out/debian/root
release=$(ls "$tree/lib/modules")
[ -e "$tree/lib/modules/$release/modules.dep" ] || depmod -b "$tree" "$release"

root=$out/root
host=$root/host
rm -rf "$root"
for folder in bin dev proc sys modules; do mkdir -p "$root/$folder"; done
for folder in dev proc sys run mnt tmp masqd/build masqd/test; do mkdir -p "$host/$folder"; done
(cd "$tree" && find . -path ./lib/modules -prune -o -path ./boot -prune -o -path ./usr/share -prune -o -print0 | cpio -p -0 -d --quiet "$host")
for name in sh cat env mkdir mount sed sleep sysctl tr true uname; do [ -e "$host/bin/$name" ] || ln -s busybox "$host/bin/$name"; done
ln -sf python3.11 "$host/usr/bin/python3"
cp -R "$here" "$here/../bench" "$host/masqd/test/"
cp -R "$here/../../build/mipsel_24kc/." "$host/masqd/build/"

cp "$tree/bin/busybox" "$root/bin/"
cp "$here/init" "$root/init"
for module in $modules; do
	modprobe -d "$tree" -S "$release" -D "$module" 2> /dev/null || : # built in
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
	name=$(basename "$file")
	case $name in
		*.ko.xz) xz -d -c "$file" > "$root/modules/${name%.xz}" ;;
		*) cp "$file" "$root/modules/" ;;
	esac
	echo "${name%.ko*}.ko" >> "$root/modules/order"
done
cp "$tree/boot/vmlinuz-$release" "$out/kernel"
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) > "$out/initramfs.new"
mv "$out/initramfs.new" "$out/initramfs"
