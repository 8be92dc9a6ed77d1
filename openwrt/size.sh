#!/bin/sh
# Checks what is built against the budgets for routers; prints a line a budget and last of all `N passed, N failed`.
#
#   openwrt/size.sh
set -eu
cd "$(dirname "$0")/.."
kilobyte=1024
passed=0
failed=0

# What $1 is, its bytes $2, the most it may have $3.
budget() {
	if [ "$2" -le "$3" ]; then
		passed=$((passed + 1)) verdict=ok
	else
		failed=$((failed + 1)) verdict='TOO BIG'
	fi
	printf '%-68s %7d of %7d bytes  %s\n' "$1" "$2" "$3" "$verdict"
}

size() {
	wc -c < "$1"
}

# A goal that is missed, and said so, beside what it may not grow beyond.
goal() {
	verdict=reached
	[ "$2" -le "$3" ] || verdict='MISSED, known'
	printf '%-68s %7d of %7d bytes  %s\n' "$1" "$2" "$3" "$verdict"
}

# With all that the bundle holds now, that small is not to be had by minifying. On routers it is bytecode, which the packages
# count; theirs is missed since every packet is asked where it came from and nothing ends the daemon.
daemon=$(($(size build/masqd.js) + $(size build/core.js)))
goal "the daemon's bundles, goal" "$daemon" $((96 * kilobyte))
budget "the daemon's bundles, may not grow beyond" "$daemon" $((276 * kilobyte))
# Read by the daemon besides: with the first control connection of FTP, for `why` and `capture`, at a stop,
budget "the bundle that reads FTP" "$(size build/ftp.js)" $((14 * kilobyte))
budget "the bundle of why and capture" "$(size build/inspect.js)" $((14 * kilobyte))
budget "the bundle of the hosts' bytes by hour and day" "$(size build/accounts.js)" $((8 * kilobyte))
budget "the bundle of the hand-over" "$(size build/hand-over.js)" $((8 * kilobyte))
# with the first rule of the firewall's that looks at an address,
budget "the bundle of the firewall's bans" "$(size build/bans.js)" $((8 * kilobyte))
# where the kernel carries the packets,
budget "the kernel driver's bundle" "$(size build/kernel-carrier.js)" $((40 * kilobyte))
# and where there is to be an offload.
budget "the offload's bundle" "$(size build/offload.js)" $((32 * kilobyte))
# In an engine of its own, for a moment.
budget "the configuration's bundle" "$(size build/config.js)" $((36 * kilobyte))
budget "the client's bundle" "$(size build/client.js)" $((24 * kilobyte))
for arch in mips_24kc mipsel_24kc arm_cortex-a7_neon-vfpv4 aarch64_cortex-a53 x86_64; do
	budget "masqd, $arch" "$(size build/$arch/masqd)" $((900 * kilobyte))
	for package in build/masqd_*_"$arch".ipk; do
		goal "${package##*/}, goal" "$(size "$package")" $((420 * kilobyte))
		budget "${package##*/}, may not grow beyond" "$(size "$package")" $((440 * kilobyte))
	done
done
budget 'luci-app-masqd' "$(size build/luci-app-masqd_*_all.ipk)" $((40 * kilobyte))
# Resident, measured: of what routers run, here.
if [ "$(id -u)" = 0 ]; then
	memory=$(/usr/bin/python3 test/bench/memory.py)
	daemon=$(echo "$memory" | sed -n 's/ memory of the daemon.*//p')
	budget 'memory of the daemon, 4096 sessions, after load' "$daemon" 2888000
	budget 'memory of masqd status' "$(echo "$memory" | sed -n 's/ memory of masqd status//p')" 900000
else
	echo 'memory of daemon and client: not measured, that needs root'
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
