#!/bin/sh
# /proc/net/sockstat counts sockets by their own family, not by that of what they carry: a service that takes an IPv4 port by a
# socket of both families (the usual one of web servers and resolvers) is in sockstat6 alone, and of an IPv4 connection to it one
# end is in sockstat and the other in sockstat6, though both ends have IPv4 addresses in `ss` and on the wire.
#
# Packages: Debian 12's socat 1.7.4.4-2 with libwrap0 7.6.q-32; seen on the kernel that the line names.
# Why it surprises: the two files look like "of IPv4" and "of IPv6", so who wants to know whether an IPv4 port may have been taken
# since the last look, or counts IPv4 connections for a graph, reads the first one. It does not change when such a service begins.
set -eu
folder=$(mktemp -d)
name=seen-$$
server=
client=
trap 'kill $server $client 2>/dev/null || :; rm -rf "$folder"; ip netns del $name 2>/dev/null || :' EXIT
cd "$folder"
apt-get download -qq socat=1.7.4.4-2 libwrap0=7.6.q-32 > /dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libwrap.so.0' | head -n 1)")
export LD_LIBRARY_PATH
ip netns add $name
ip -n $name link set lo up
inside() { ip netns exec $name "$@"; }
# TCP sockets in use, of the first file and of the second.
counts() {
	inside sed -n 's/^TCP6\{0,1\}: inuse \([0-9]*\).*/\1/p' /proc/net/sockstat /proc/net/sockstat6 | paste -sd ' '
}
# Waits until the counts are others than $1, five seconds at most; prints them.
changed() {
	n=0
	while [ "$(counts)" = "$1" ] && [ $n -lt 100 ]; do
		n=$((n + 1))
		sleep 0.05
	done
	counts
}
none=$(counts)
ip netns exec $name root/usr/bin/socat -u TCP6-LISTEN:7000,ipv6only=0 OPEN:/dev/null &
server=$!
listening=$(changed "$none")
# Neither end says anything. The listener of socat makes way for the one connection that it takes.
ip netns exec $name root/usr/bin/socat -u TCP4:127.0.0.1:7000 OPEN:/dev/null &
client=$!
connected=$(changed "$listening")
[ "$connected" = '1 1' ] || connected=$(changed "$connected")
echo "sockets of TCP in sockstat and sockstat6: none $none, a listener at an IPv4 port $listening, an IPv4 connection to it $connected"
[ "$none" = '0 0' ] && [ "$listening" = '0 1' ] && [ "$connected" = '1 1' ]
echo "seen: on Linux $(uname -r | cut -d. -f1,2) a listener that takes an IPv4 port by a socket of both families is counted in sockstat6 alone, and an IPv4 connection to it once in each file"
