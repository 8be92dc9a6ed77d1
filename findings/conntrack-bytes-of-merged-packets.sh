#!/bin/sh
# Conntrack counts a packet that the receiving device's GRO has merged of many with the one header that it has then: what it says
# a download had (conntrack -L, and whatever adds these up by host or by day) is less than what came over the line, while the
# device's own counters, read before the merging, have all of it.
#
# Packages: Debian 12's conntrack 1:1.4.7-1+b2, libnetfilter-conntrack3 1.0.9-3, ethtool 1:6.1-1, nftables 1.0.6-2+deb12u2; seen
# on the kernel that the line names.
# Why it surprises: nf_conntrack_acct reads like a count of a flow's packets and bytes. Both are of what passes the stack: the
# packets are several times fewer, and each that was merged into another has lost the 52 bytes of its IP and TCP headers. The
# same transfer with GRO off has the sum that the line had. The error depends on the load, so no factor mends it.
set -eu
folder=$(mktemp -d)
name=seen-$$
trap 'rm -rf "$folder"; for n in a r b; do ip netns del $name$n 2>/dev/null || :; done' EXIT
cd "$folder"
apt-get download -qq conntrack=1:1.4.7-1+b2 libnetfilter-conntrack3=1.0.9-3 ethtool=1:6.1-1 nftables=1.0.6-2+deb12u2 \
	libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libnfnetlink0 libmnl0 libjansson4 libedit2 libxtables12 > /dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH
for n in a r b; do ip netns add $name$n; done
ip -n ${name}a link add eth0 type veth peer name in netns ${name}r
ip -n ${name}b link add eth0 type veth peer name out netns ${name}r
set_up() { ip -n "$name$1" addr add "$3" dev "$2" && ip -n "$name$1" link set "$2" up; }
set_up a eth0 192.0.2.2/24
set_up r in 192.0.2.1/24
set_up r out 198.51.100.1/24
set_up b eth0 198.51.100.2/24
ip -n ${name}a route add default via 192.0.2.1
ip -n ${name}b route add default via 198.51.100.1
router() { ip netns exec ${name}r "$@"; }
router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/netfilter/nf_conntrack_acct'
router root/usr/sbin/nft 'table ip seen { chain forward { type filter hook forward priority 0; ct state new accept; }; }'
# The sender's device sends what a wire would carry.
ip netns exec ${name}a root/sbin/ethtool -K eth0 tso off gso off > /dev/null
received() { router cat /sys/class/net/in/statistics/rx_bytes /sys/class/net/in/statistics/rx_packets | paste -sd ' '; }
transfer() {
	router root/usr/sbin/conntrack -F 2> /dev/null
	before=$(received)
	ip netns exec ${name}b /usr/bin/python3 -c "
import socket
with socket.create_server(('198.51.100.2', 7000)) as server:
    one, _ = server.accept()
    while one.recv(1 << 20):
        pass
" &
	ip netns exec ${name}a /usr/bin/python3 -c "
import socket, time
for _ in range(500):
    try:
        one = socket.create_connection(('198.51.100.2', 7000), 10)
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
one.sendall(bytes(30_000_000))
one.shutdown(socket.SHUT_WR)
one.recv(1)
"
	wait $!
	# IP bytes and packets on the line, and as conntrack has them.
	echo "$before $(received) $(router root/usr/sbin/conntrack -L -p tcp --dport 7000 2> /dev/null |
		sed -n 's/.* dport=7000 packets=\([0-9]*\) bytes=\([0-9]*\) .*/\2 \1/p')" | awk '{ print $3 - $1 - 14 * ($4 - $2), $4 - $2, $5, $6 }'
}
router root/sbin/ethtool -K in gro off > /dev/null
plain=$(transfer)
router root/sbin/ethtool -K in gro on > /dev/null
merged=$(transfer)
told() { echo "$1" | awk '{ printf "%.0f %% of the bytes and %s of the packets", $3 * 100 / $1, ($4 * 2 < $2 ? "less than half" : "all") }'; }
echo "seen: kernel $(uname -r): of a TCP transfer conntrack has $(told "$plain") with GRO off, $(told "$merged") with GRO on"
echo "$plain $merged" | awk '{ exit !($3 / $1 > 0.999 && $3 / $1 < 1.001 && $7 / $5 < 0.99 && $8 * 2 < $6) }'
