#!/bin/sh
# busybox's `ip rule list` prints the number of a rule's table, whatever it is, and its `ip rule del` refuses that very number
# from 1024 on: what it prints cannot be given back to it.
#
# Packages: Debian 12's busybox-static 1:1.35.0-4+deb12u1+b1; seen on kernel 6.18.44, which the line names.
# Why it surprises: table numbers have 32 bits since Linux 2.6.19, the listing knows that, and scripts on routers, whose `ip` is
# busybox's, delete rules by the words of the listing. The same line without its table is taken, and deletes the rule that has
# the priority and the device.
set -eu
folder=$(mktemp -d)
router=seen-r-$$
trap 'rm -rf "$folder"; ip netns del $router 2>/dev/null || :' EXIT
cd "$folder"
apt-get download -qq busybox-static=1:1.35.0-4+deb12u1+b1 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
ip netns add $router
busybox() { ip netns exec $router "$folder/root/bin/busybox" "$@" 2>&1; }

ip -n $router rule add priority 100 iif lo lookup 1023
ip -n $router rule add priority 101 iif lo lookup 1024
listed=$(busybox ip rule list | grep -c 'lookup 102[34]')
small=$(busybox ip rule del priority 100 iif lo lookup 1023 && echo deleted) || :
large=$(busybox ip rule del priority 101 iif lo lookup 1024 || :)
without=$(busybox ip rule del priority 101 iif lo && echo deleted) || :
echo "seen: kernel $(uname -r | cut -d- -f1): $listed rules listed; with table 1023: $small; with table 1024: $large; without its table: $without"
[ "$listed" = 2 ] && [ "$small" = deleted ] && [ "$large" = "ip: invalid argument '1024' to 'table ID'" ] && [ "$without" = deleted ]
