#!/bin/sh
# An nftables rule on a UDP port that stands before defragmentation compares bytes of the payload with the port in every
# later fragment, and matches when they happen to fit.
#
# Packages: Debian 12's nftables 1.0.6 (libnftables 1.0.6, libnftnl 1.2.4); seen on kernel 6.18.44, which the line names.
# Why it surprises: `udp dport` says "the header's destination port", a later fragment has no UDP header, and the kernel
# knows the fragment offset when it evaluates the rule. One would expect no match at all. A set of ports behaves the same. At
# a priority behind defragmentation (-400) the same rule sees the whole datagram once and is right. So a chain that is hooked
# early to spare the kernel work needs `ip frag-off & 0x1fff == 0` beside every port.
set -eu
folder=$(mktemp -d)
a=seen-a-$$ b=seen-b-$$
trap 'rm -rf "$folder"; ip netns del $a 2>/dev/null || :; ip netns del $b 2>/dev/null || :' EXIT
cd "$folder"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libmnl0 libjansson4 libedit2 libxtables12 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH
nft() { ip netns exec $b "$folder/root/usr/sbin/nft" "$@"; }

ip netns add $a
ip netns add $b
ip -n $a link add v0 type veth peer name v1 netns $b
ip -n $a addr add 192.0.2.1/24 dev v0
ip -n $b addr add 192.0.2.2/24 dev v1
ip -n $a link set v0 up
ip -n $b link set v1 up
nft -f - <<'RULES'
table inet seen {
	counter fragments { }
	counter before { }
	counter behind { }
	chain before { type filter hook prerouting priority -450
		ip saddr 192.0.2.1 meta l4proto udp counter name fragments
		udp dport 49152 counter name before
	}
	chain behind { type filter hook prerouting priority -150
		ct state new udp dport 49152 counter name behind
	}
}
RULES

# One datagram to port 1194 in two fragments; the third and fourth byte of the second one are 0xc000, which is 49152.
ip netns exec $a /usr/bin/python3 - <<'SEND'
import socket
import struct

payload = bytes(1472) + b"\0\0\xc0\0" + bytes(60)
datagram = struct.pack("!HHHH", 5000, 1194, 8 + len(payload), 0) + payload
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as wire:
    for offset, more in ((0, 0x2000), (1480, 0)):
        part = datagram[offset : offset + 1480]
        addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
        wire.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), 7, more | offset >> 3, 64, 17, 0) + addresses + part, ("192.0.2.2", 0))
SEND

packets() { nft list counter inet seen "$1" | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
fragments=$(packets fragments) before=$(packets before) behind=$(packets behind)
echo "seen: kernel $(uname -r | cut -d- -f1): of $fragments fragments of a datagram to port 1194, $before match 'udp dport 49152' before defragmentation and $behind behind it"
[ "$fragments" = 2 ] && [ "$before" = 1 ] && [ "$behind" = 0 ]
