#!/bin/sh
# `conntrack -I` takes an entry whose reply goes to another address than its packets come from, and lists it in the very words of
# a translated connection; packets of it pass untranslated. Only --src-nat (--dst-nat) makes one that translates.
#
# Packages: Debian 12's conntrack 1:1.4.7-1+b2, nftables 1.0.6-2+deb12u2 and their libraries; seen on the kernel that the line names.
# Why it surprises: what NAT does to a connection is nothing but the difference of its two tuples, conntrack's listing has no
# other sign of it, and the listing can be typed in again as it is. The kernel hooks the translation in by two bits of the entry's
# status that the tuples do not set: state that is saved as text and put back so is tracked, and leaves with internal sources.
set -eu
folder=$(mktemp -d)
lan=seen-l-$$ router=seen-r-$$ wan=seen-w-$$
trap 'rm -rf "$folder"; for n in $lan $router $wan; do ip netns del "$n" 2>/dev/null || :; done' EXIT
cd "$folder"
apt-get download -qq conntrack=1:1.4.7-1+b2 nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 \
	libnetfilter-conntrack3 libnfnetlink0 libmnl0 libjansson4 libedit2 libxtables12 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH

for n in $lan $router $wan; do ip netns add "$n"; done
ip link add l0 netns "$lan" type veth peer name r0 netns "$router"
ip link add w0 netns "$wan" type veth peer name r1 netns "$router"
ip -n "$lan" addr add 192.0.2.2/25 dev l0
ip -n "$router" addr add 192.0.2.1/25 dev r0
ip -n "$router" addr add 192.0.2.129/25 dev r1
ip -n "$wan" addr add 192.0.2.130/25 dev w0
for pair in "$lan l0" "$router r0" "$router r1" "$wan w0"; do ip -n "${pair% *}" link set "${pair#* }" up; done
ip -n "$lan" route add default via 192.0.2.1
ip -n "$wan" route add 192.0.2.0/25 via 192.0.2.129
ip netns exec "$router" sysctl -qw net.ipv4.ip_forward=1
# What hooks tracking and translation in; it translates nothing itself.
ip netns exec "$router" root/usr/sbin/nft 'table ip seen { chain post { type nat hook postrouting priority 100; }; chain forward { type filter hook forward priority 0; ct state established; }; }'
conntrack() { ip netns exec "$router" "$folder/root/usr/sbin/conntrack" "$@" 2>/dev/null; }
entry() { conntrack -I -p udp -s 192.0.2.2 -d 192.0.2.130 -t 60 --dport 9 --sport "$@"; }
entry 5000 --reply-src 192.0.2.130 --reply-port-src 9 --reply-dst 192.0.2.129 --reply-port-dst 5000
entry 5001 --src-nat 192.0.2.129
listed() { conntrack -L -p udp | sed -n "s/ sport=$1 / /p" | sed "s/dport=$1/dport=P/; s/17 [0-9]*/17 T/" | tr -s ' '; }
typed=$(listed 5000)
translated=$(listed 5001)

ip netns exec "$wan" /usr/bin/python3 -c '
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("192.0.2.130", 9))
one.settimeout(20)
print("ready", flush=True)
seen = {}
for _ in range(2):
    text, peer = one.recvfrom(100)
    seen[text.decode()] = peer[0]
print(seen["5000"], seen["5001"])
' >sources &
server=$!
while ! grep -q ready sources; do sleep 0.1; done
ip netns exec "$lan" /usr/bin/python3 -c '
import socket
for port in (5000, 5001):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("192.0.2.2", port))
    one.sendto(str(port).encode(), ("192.0.2.130", 9))
'
wait "$server"
sources=$(tail -n 1 sources)
alike=differently
[ "$typed" = "$translated" ] && alike=alike
echo "seen: kernel $(uname -r), conntrack 1.4.7: two entries are listed $alike, one made by its reply tuple and one by --src-nat 192.0.2.129; the other side sees their packets come from: $sources"
[ "$alike $sources" = "alike 192.0.2.2 192.0.2.129" ]
