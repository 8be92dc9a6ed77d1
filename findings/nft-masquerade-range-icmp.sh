#!/bin/sh
# The port range of nftables' `masquerade to :A-B` is also the range of ICMP echo identifiers, where the rule lets ICMP in: with a
# range of four, four pings of a LAN to one host are answered, and the fifth is lost for as long as the four are remembered.
#
# Packages: Debian 12's nftables 1.0.6 (libnftables 1.0.6, libnftnl 1.2.4); seen on kernel 6.18.44, which the line names.
# Why it surprises: without a protocol in front nft refuses the range ("transport protocol mapping is only valid after transport
# protocol match"), and takes `ip protocol icmp` as such a match. ICMP has no ports, and a plain `masquerade` keeps identifiers; a
# rule written to bound ports (as providers do that share an address by port ranges) bounds how many can ping, without a word.
set -eu
folder=$(mktemp -d)
lan=seen-l-$$ router=seen-r-$$ wan=seen-w-$$
trap 'rm -rf "$folder"; for n in $lan $router $wan; do ip netns del $n 2>/dev/null || :; done' EXIT
cd "$folder"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libmnl0 libjansson4 libedit2 libxtables12 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH

# Eight pings, each of an identifier of its own, one after the other, through a router whose rule is $1: how many were answered,
# and how many of the identifiers that the pinged host saw are within 40000-40003.
play() {
	for n in $lan $router $wan; do ip netns add "$n"; done
	ip link add l0 netns $lan type veth peer name r0 netns $router
	ip link add w0 netns $wan type veth peer name r1 netns $router
	ip -n $lan addr add 192.0.2.2/25 dev l0
	ip -n $router addr add 192.0.2.1/25 dev r0
	ip -n $router addr add 192.0.2.129/25 dev r1
	ip -n $wan addr add 192.0.2.130/25 dev w0
	for pair in "$lan l0" "$router r0" "$router r1" "$wan w0"; do ip -n "${pair% *}" link set "${pair#* }" up; done
	ip -n $lan route add default via 192.0.2.1
	ip netns exec $router sysctl -qw net.ipv4.ip_forward=1
	ip netns exec $router "$folder/root/usr/sbin/nft" -f - <<RULES
table ip seen {
	chain post { type nat hook postrouting priority 100; oifname "r1" $1
	}
}
RULES
	: >ids
	ip netns exec $wan /usr/bin/python3 -c '
import socket
heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
print("ready", flush=True)
while True:
    packet = heard.recv(2000)
    if packet[20] == 8:
        print(int.from_bytes(packet[24:26], "big"), flush=True)
' >ids &
	listener=$!
	while ! grep -q ready ids; do sleep 0.1; done
	ip netns exec $lan /usr/bin/python3 -c '
import socket, struct
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
one.settimeout(1)
answered = 0
for number in range(5001, 5009):
    head = struct.pack("!BBHHH", 8, 0, 0, number, 1)
    total = sum(struct.unpack("!4H", head))
    total = (total & 0xFFFF) + (total >> 16)
    one.sendto(struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, number, 1), ("192.0.2.130", 0))
    try:
        packet = one.recv(2000)
        answered += packet[20] == 0 and int.from_bytes(packet[24:26], "big") == number
    except socket.timeout:
        pass
print(answered, end=" ")
'
	kill $listener
	wait $listener 2>/dev/null || :
	grep -c '^4000[0-3]$' ids || :
	for n in $lan $router $wan; do ip netns del "$n"; done
}

plain=$(play 'masquerade')
ranged=$(play 'meta l4proto { tcp, udp, icmp } masquerade to :40000-40003')
echo "seen: kernel $(uname -r | cut -d- -f1): of 8 pings to one host (answered, with an identifier of 40000-40003 outside): masquerade $plain; masquerade to :40000-40003 $ranged"
[ "$plain" = "8 0" ] && [ "$ranged" = "4 4" ]
