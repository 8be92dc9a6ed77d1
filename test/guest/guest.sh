#!/bin/sh
# Makes the guest that tests run in for what this machine's kernel lacks: Debian's 6.12 kernel with the modules that the cases need, and a first
# program that mounts this machine's own file system (9p, read only) and runs one command in it.
#
#   guest.sh OUT      makes OUT/kernel and OUT/initramfs
set -eu

[ $# -eq 1 ] || {
	echo "usage: guest.sh OUT" >&2
	exit 1
}
out=$1
here=$(cd "$(dirname "$0")" && pwd)
tree=$out/debian

modules="virtio_pci 9p 9pnet_virtio af_packet veth bridge br_netfilter tun dummy 8021q macvlan wireguard
ppp_generic pppox pppoe ppp_async ipip ip_gre sit vxlan
nf_tables nf_conntrack nf_nat nft_chain_nat nft_masq nft_nat nft_ct nft_limit nft_objref nft_redir nft_reject_inet nft_fib_inet
nfnetlink_queue nft_queue nfnetlink_cttimeout nf_conntrack_netlink nf_flow_table nft_flow_offload nf_flow_table_inet
sch_ingress cls_bpf cls_u32 act_gact act_mirred sch_htb sch_prio sch_fq_codel sch_cake sch_netem sch_tbf ifb"

mkdir -p "$out"
if [ ! -e "$tree/.complete" ]; then
	rm -rf "$tree"
	image=$(apt-cache depends linux-image-6.12-amd64 2> /dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
	[ -n "$image" ] || {
		echo "guest.sh: Debian's linux-image-6.12-amd64 is not to be had here" >&2
		exit 1
	}
	mkdir -p "$tree"
	(cd "$tree" && apt-get download -qq -o APT::Sandbox::User=root "$image" busybox-static && for deb in ./*.deb; do dpkg-deb -x "$deb" .; done && rm -f ./*.deb)
	depmod -b "$tree" "$(ls "$tree/lib/modules")"
	touch "$tree/.complete"
fi

root=$out/root
release=$(ls "$tree/lib/modules")
rm -rf "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/host" "$root/modules"
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
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) | gzip -1 > "$out/initramfs.new"
mv "$out/initramfs.new" "$out/initramfs"
