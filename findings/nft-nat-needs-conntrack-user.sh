#!/bin/sh
# Translated connections outlive the rule that translated them only while the namespace has both another nat chain and a rule that
# uses conntrack. With one of the two, or neither, their next packets leave with the internal source.
#
# Packages: Debian 12's nftables 1.0.6 (libnftables 1.0.6, libnftnl 1.2.4); seen on kernel 6.18.44, which the line names.
# Why it surprises: nat chains are asked about a connection's first packet only, and the mapping is the connection's own, so that
# deleting rules is known to leave what is open alone. What applies a mapping to later packets is hooked in by the chains, and
# conntrack by the rules that use it, in their namespace. A program that takes its table away at its end therefore leaves its users'
# connections translated on a router with a firewall, and cuts them off (and shows them) on one without.
set -eu
folder=$(mktemp -d)
lan=seen-l-$$ router=seen-r-$$ wan=seen-w-$$
trap 'rm -rf "$folder"; for n in $lan $router $wan; do ip netns del "$n" 2>/dev/null || :; done' EXIT
cd "$folder"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libmnl0 libjansson4 libedit2 libxtables12 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH
nft() { ip netns exec "$router" "$folder/root/usr/sbin/nft" "$@"; }

# The source addresses of three packets of one UDP connection: the first with the rule, the others without its table, while the
# rules $1 are left, if any.
play() {
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
	nft 'table ip seen { chain post { type nat hook postrouting priority 100; masquerade; }; }'
	[ -z "$1" ] || nft "table ip other { $1 }"
	mkfifo go
	: >sources
	ip netns exec "$wan" /usr/bin/python3 -c '
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("192.0.2.130", 9))
print("ready", flush=True)
one.settimeout(20)
for _ in range(3):
    text, peer = one.recvfrom(100)
    print(peer[0], flush=True)
    one.sendto(text, peer)
' >sources &
	server=$!
	while ! grep -q ready sources; do sleep 0.1; done
	ip netns exec "$lan" /usr/bin/python3 -c '
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("192.0.2.2", 5000))
one.settimeout(1)
for number in range(3):
    if number:
        open("go").read()
    one.sendto(b"x", ("192.0.2.130", 9))
    try:
        one.recvfrom(100)
    except OSError:
        pass
    open("turn", "w").write(str(number))
' &
	client=$!
	while [ "$(cat turn 2>/dev/null)" != 0 ]; do sleep 0.1; done
	nft delete table ip seen
	for number in 1 2; do
		: >go
		while [ "$(cat turn)" != "$number" ]; do sleep 0.1; done
	done
	wait $client $server
	grep -v ready sources | tr '\n' ' '
	rm -f go turn
	for n in $lan $router $wan; do ip netns del "$n"; done
}

nat='chain post { type nat hook postrouting priority 110; };'
conntrack='chain forward { type filter hook forward priority 0; ct state new counter; };'
neither=$(play '')
chain=$(play "$nat")
rule=$(play "$conntrack")
both=$(play "$nat $conntrack")
echo "seen: kernel $(uname -r | cut -d- -f1): sources before and twice after the masquerading table was deleted: alone: $neither; beside an empty nat chain: $chain; beside a conntrack rule: $rule; beside both: $both"
shown='192.0.2.129 192.0.2.2 192.0.2.2 '
[ "$neither" = "$shown" ] && [ "$chain" = "$shown" ] && [ "$rule" = "$shown" ] && [ "$both" = '192.0.2.129 192.0.2.129 192.0.2.129 ' ]
