# The guest: Debian's 6.12 kernel under qemu on this machine's own file system, for what the machine's kernel lacks.
#
#   make guest          its kernel and first program, build/guest
#   make guest-test     the cases of test/guest in it (ONLY="case...")
#   make bench-guest    what a packet, a connection and an exchange cost, in instructions

GUEST_PACKAGES := cpio ethtool kmod ppp pppoe qemu-system-x86 wireguard-tools xz-utils

.PHONY: guest-deps guest guest-test bench-guest
guest-deps:
	@missing=$$(for p in $(GUEST_PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing; \
		else \
			echo "please install: apt-get install $$missing" >&2; exit 1; \
		fi; \
	fi

guest: guest-deps ## the kernel that tests run in for what this machine's lacks (PPPoE, VLAN, WireGuard), build/guest
	@test/guest/guest.sh build/guest

guest-test: build bench-tools guest ## in the guest: WAN devices of all kinds, real timers, costs (ONLY=case)
	@/usr/bin/python3 test/guest/run.py $(ONLY)

bench-guest: build bench-tools guest ## exact costs, in instructions: masqd beside nft, with and without its flowtable
	@/usr/bin/python3 test/guest/run.py costs
