# The guest: Debian's 6.12 kernel under qemu on this machine's own file system, for what the machine's kernel lacks.
#
#   make guest          its kernel and first program, build/guest
#   make guest-test     the cases of test/guest in it (ONLY="case...")
#   make bench-guest    what a packet, a connection and an exchange cost, in instructions
#   make bench-mips     the same of a MIPS board (Malta, Debian's kernel 6.1), and what a router with an mt7621 may do

GUEST_PACKAGES := cpio ethtool kmod ppp pppoe qemu-system-x86 wireguard-tools xz-utils

.PHONY: guest-deps guest guest-test bench-guest bench-mips
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

guest-test: build bench-tools guest ## in the guest: WAN devices of all kinds, shapers, real timers, costs (ONLY=case)
	@/usr/bin/python3 test/guest/run.py $(ONLY)

bench-guest: build bench-tools guest ## exact costs, in instructions: masqd beside nft, with and without its flowtable
	@/usr/bin/python3 test/guest/run.py costs

bench-mips: GUEST_PACKAGES := cpio kmod qemu-system-mips xz-utils
bench-mips: guest-deps ## the same of a MIPS board, and an estimate for an mt7621
	@$(MAKE) --no-print-directory build ARCH=mipsel_24kc
	@$(MAKE) --no-print-directory bench-tools ARCH=mipsel_24kc
	@test/guest/mips.sh build/guest-mips
	@/usr/bin/python3 test/guest/run.py --machine mips costs
