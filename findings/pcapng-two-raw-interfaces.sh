#!/bin/sh
# A pcapng file whose two interfaces both say LINKTYPE_RAW (101) cannot be read by tcpdump; one whose interfaces both say
# LINKTYPE_IPV4 (228) can.
#
# Packages: Debian 12's tcpdump 4.99.3 and libpcap 1.10.3.
# Why it surprises: the format lets a file have any number of interfaces, and tools that read one link type only ask that all
# be the same. These are the same: the two interface blocks are byte for byte equal. Yet the second one is refused ("has a type
# 101 different from the type of the first interface"). LINKTYPE_RAW is the one common value whose number in files differs from
# libpcap's number in memory (DLT_RAW, 12 on Linux); the first interface is compared after that translation, the second
# before it. tshark reads the same file. Whoever captures on several devices without link headers (TUN, PPP, WireGuard) into
# one file should write LINKTYPE_IPV4 or LINKTYPE_IPV6.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq tcpdump=4.99.3-1 libpcap0.8=1.10.3-1 >/dev/null
for package in *.deb; do dpkg-deb -x "$package" root; done
library=$(dirname "$(find "$folder/root" -name 'libpcap.so.0.8' | head -n 1)")

# shellcheck disable=SC2059 # octal escapes are what it prints
le16() { printf "\\$(printf %03o $(($1 & 255)))\\$(printf %03o $(($1 >> 8 & 255)))"; }
le32() { le16 $(($1 & 65535)); le16 $(($1 >> 16)); }
zeros() { head -c "$1" /dev/zero; }
# A 20-byte IPv4 header, protocol 59 (no next header), from 192.0.2.1 to 192.0.2.2.
packet() { printf '\105\000\000\024\000\001\000\000\100\073\366\253\300\000\002\001\300\000\002\002'; }

# A section, two interfaces of link type $1, and a packet on each.
file() {
	le32 $((0x0a0d0d0a)); le32 28; le32 $((0x1a2b3c4d)); le16 1; le16 0; le32 -1; le32 -1; le32 28
	for interface in 0 1; do le32 1; le32 20; le16 "$1"; le16 0; le32 262144; le32 20; done
	for interface in 0 1; do
		le32 6; le32 52; le32 $interface; zeros 8; le32 20; le32 20; packet; le32 52
	done
}

# How many packets tcpdump reads of a file.
read_by_tcpdump() { LD_LIBRARY_PATH=$library root/usr/bin/tcpdump -nr "$1" 2>"$1.errors" | grep -c '192.0.2.1 > 192.0.2.2' || :; }

file 101 >raw.pcapng
file 228 >ipv4.pcapng
raw=$(read_by_tcpdump raw.pcapng)
ipv4=$(read_by_tcpdump ipv4.pcapng)
grep -q 'type 101 different from the type of the first interface' raw.pcapng.errors || { cat raw.pcapng.errors; exit 1; }
echo "seen: of two packets on two LINKTYPE_RAW interfaces tcpdump reads $raw and refuses the file; on two LINKTYPE_IPV4 interfaces $ipv4"
[ "$raw" -lt 2 ] && [ "$ipv4" -eq 2 ]
