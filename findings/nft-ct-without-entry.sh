#!/bin/sh
# Of a packet that conntrack has no entry of, neither `ct status snat` nor its negation holds: a rule that drops "what is not
# translated" by a comparison lets it pass, uncounted, and so do `ct mark !=`, `ct original ip saddr !=` and `ct direction`.
#
# Packages: Debian 12's nftables 1.0.6-2+deb12u2, libnftables1 1.0.6-2+deb12u2 and libnftnl11 1.2.4-2; seen on the kernel that
# the line names.
# Why it surprises: for a set, an address or a mark of the packet a test and its negation are two halves of everything, and `ct
# state` itself knows what has no entry (invalid, untracked). Whatever else begins with `ct` ends the rule there instead. A rule
# that is to catch the rest has to let through what it knows first, and then to catch everything.
set -eu
folder=$(mktemp -d)
name=seen-$$
trap 'rm -rf "$folder"; ip netns del $name 2>/dev/null || :' EXIT
cd "$folder"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libmnl0 libjansson4 libedit2 \
	libxtables12 > /dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH
ip netns add $name
ip -n $name link set lo up
nft() { ip netns exec $name root/usr/sbin/nft "$@"; }
nft -f - << 'END'
table ip seen {
	counter status_is { }
	counter status_is_not { }
	counter mark_is { }
	counter mark_is_not { }
	counter source_is { }
	counter source_is_not { }
	counter every { }
	chain raw {
		type filter hook prerouting priority raw;
		udp dport 9 notrack
	}
	chain out {
		type filter hook output priority raw;
		udp dport 9 notrack
	}
	chain in {
		type filter hook input priority filter;
		udp dport != { 9, 10 } accept
		ct status & snat == snat counter name status_is
		ct status & snat == 0 counter name status_is_not
		ct mark 7 counter name mark_is
		ct mark != 7 counter name mark_is_not
		ct original ip saddr 192.0.2.1 counter name source_is
		ct original ip saddr != 192.0.2.1 counter name source_is_not
		counter name every
	}
}
END
count() {
	for counter in status_is status_is_not mark_is mark_is_not source_is source_is_not every; do
		nft list counter ip seen $counter | sed -n 's/.*packets \([0-9]*\).*/\1/p'
	done | paste -sd ' '
}
send() {
	ip netns exec $name /usr/bin/python3 -c "
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(('127.0.0.1', $1))
one.sendto(b'x', ('127.0.0.1', $1))
one.settimeout(10)
one.recv(1)
"
}
send 10
tracked=$(count)
nft reset counters table ip seen > /dev/null
send 9
untracked=$(count)
echo "seen: kernel $(uname -r), nft 1.0.6: status snat, not snat, mark 7, not 7, original source, another source, every packet: tracked $tracked, without an entry $untracked"
[ "$tracked / $untracked" = "0 1 0 1 0 1 1 / 0 0 0 0 0 0 1" ]
