#!/bin/sh
# A set of limited size that a rule both adds to and deletes from becomes full while it is empty: what a packet has deleted
# goes on counting against `size` until the next garbage collection.
#
# Packages: Debian 12's nftables 1.0.6 (libnftables 1.0.6, libnftnl 1.2.4); seen on kernel 6.18.44, which the line names.
# Why it surprises: `delete` in a rule succeeds (the statement behind it runs), and `nft list set` shows the set without the
# element at once. Here one element at most is in the set at any moment, its size is 8, and after eight packets nothing can be
# added any more. So a set for short-lived things needs a short gc-interval, or a size for all that comes within one.
set -eu
folder=$(mktemp -d)
host=seen-$$
trap 'rm -rf "$folder"; ip netns del $host 2>/dev/null || :' EXIT
cd "$folder"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libmnl0 libjansson4 libedit2 libxtables12 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libnftables.so.1' | head -n 1)")
export LD_LIBRARY_PATH
nft() { ip netns exec $host "$folder/root/usr/sbin/nft" "$@"; }

# How many of 50 packets were added, and deleted, with a set whose further options are $1; then how many are listed.
play() {
	ip netns add $host
	ip -n $host link set lo up
	nft -f - <<RULES
table ip seen {
	set ports { type inet_service; size 8; flags dynamic,timeout; timeout 1h; $1 }
	counter added { }
	counter deleted { }
	chain out { type filter hook output priority 0
		udp dport 9 add @ports { udp sport } counter name added
		udp dport 9 delete @ports { udp sport } counter name deleted
	}
}
RULES
	ip netns exec $host /usr/bin/python3 -c '
import socket, time
for port in range(2000, 2050):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", port))
        one.sendto(b"x", ("127.0.0.1", 9))
    time.sleep(0.02)
'
	for counter in added deleted; do nft list counter ip seen $counter | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; done
	nft list set ip seen ports | grep -c elements || :
	ip netns del $host
}

slow=$(play '' | tr '\n' ' ')
fast=$(play 'gc-interval 50ms;' | tr '\n' ' ')
echo "seen: kernel $(uname -r | cut -d- -f1): of 50 elements added and deleted one after the other a set of size 8 took (added, deleted, left): $slow; with gc-interval 50ms: $fast"
[ "$slow" = "8 50 0 " ] && [ "${fast%% *}" -gt 20 ]
