#!/bin/sh
# `test || { work; } 9>&- &` holds a lock on descriptor 9 until the work ends; `{ work; } 9>&- &` does not.
#
# Packages: Debian 12's dash 0.5.12-2, bash 5.2.15-2+b13 and busybox-static 1:1.35.0-4+deb12u1+b1, with util-linux's flock.
# Why it surprises: closing the descriptor of a lock for what goes to the background is the usual way to let the lock go, and
# it looks the same in both lines. But a list that goes to the background has a shell of its own, and that has inherited the
# descriptor; the redirection is one of the group within, for which this shell puts the descriptor aside and keeps it. The same
# holds for `> /dev/null` there: whoever reads the script's output through a pipe waits for the work. Procd's scripts on
# OpenWrt hold descriptor 1000 to their end, so that a service whose script does this cannot be started until the work is done.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq dash=0.5.12-2 bash=5.2.15-2+b13 busybox-static=1:1.35.0-4+deb12u1+b1 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done

cat >script <<'END'
exec 9>lock
flock 9
case $1 in
	list) false || { : >started; read -r _ <go; } 9>&- & ;;
	group) { : >started; read -r _ <go; } 9>&- & ;;
esac
END

# What the lock is once the script has ended and its work has begun.
lock_after() {
	kind=$1
	shift
	rm -f started go
	mkfifo go
	"$@" script "$kind"
	while [ ! -e started ]; do sleep 0.1; done
	flock -n lock true && echo free || echo held
	echo >go
}

seen=
for shell in "root/bin/dash" "root/bin/bash" "root/bin/busybox ash"; do
	# shellcheck disable=SC2086 # words
	seen="$seen${seen:+, }${shell#root/bin/}: list $(lock_after list $shell), group $(lock_after group $shell)"
done
echo "seen: $seen"
[ "$seen" = "dash: list held, group free, bash: list held, group free, busybox ash: list held, group free" ]
