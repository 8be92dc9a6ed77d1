#!/bin/sh
# A permanent neighbour entry goes with the last IPv4 address of its device, although the link stays up, and does not come back
# with the address. As long as any other address is left, even one of another subnet, it stays.
#
# Packages: Debian 12's iproute2 6.1.0-3; seen on the kernel that the line names.
# Why it surprises: "permanent" is taken for "until I delete it or the link goes down": expiry, failed probes and a flush of
# the neighbour table leave it alone. DHCP clients and scripts that replace an address delete the old one first and add the new
# one within a millisecond, and static ARP entries of that device are gone from then on.
set -eu
folder=$(mktemp -d)
space=seen-$$
trap 'rm -rf "$folder"; ip netns del "$space" 2>/dev/null || :' EXIT
cd "$folder"
apt-get download -qq iproute2=6.1.0-3 >/dev/null 2>&1
dpkg-deb -x iproute2_*.deb root
ip() { "$folder/root/bin/ip" "$@"; }

ip netns add "$space"
ip -n "$space" link add a0 type veth peer name a1
ip -n "$space" link set a0 up
ip -n "$space" link set a1 up
ip -n "$space" addr add 192.0.2.1/24 dev a0
ip -n "$space" addr add 198.51.100.1/24 dev a0
ip -n "$space" neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev a0 nud permanent
count() { ip -n "$space" neigh show nud permanent | grep -c 192.0.2.9 || :; }

ip -n "$space" neigh flush all
flushed=$(count)
ip -n "$space" addr del 192.0.2.1/24 dev a0
one_left=$(count)
ip -n "$space" addr del 198.51.100.1/24 dev a0
ip -n "$space" addr add 192.0.2.1/24 dev a0
none_left=$(count)
up=$(ip -n "$space" -o link show a0 | grep -c 'state UP' || :)
echo "seen: kernel $(uname -r): a permanent neighbour entry is there after a flush of the table: $flushed, after its subnet's address was removed: $one_left, after the device's last address was removed and added again, its link up all the time: $none_left"
[ "$flushed $one_left $none_left $up" = "1 1 0 1" ]
