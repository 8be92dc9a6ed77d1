# The emulated router: qemu's machine, Debian's kernel and busybox, the package.
#
#   make firmware ARCH=x86_64|mipsel    its image
#   make router ARCH=...                its serial console on this terminal
#   make router-test ARCH=...           the session of test/router/test_router.py

ROUTER_PACKAGES := qemu-system-x86 qemu-system-mips cpio kmod
router_arch := $(firstword $(filter x86_64 mipsel,$(ARCH)) x86_64)
ROUTER_OUT := build/router/$(router_arch)

.PHONY: router-deps firmware router router-test
router-deps:
	@missing=$$(for p in $(ROUTER_PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing; \
		else \
			echo "please install: apt-get install $$missing" >&2; exit 1; \
		fi; \
	fi

firmware: router-deps ## the emulated router's image, build/router/ARCH (ARCH=x86_64 or mipsel)
	@$(MAKE) --no-print-directory build LIBC=musl ARCH=
	@test/router/package.sh build/musl/masqd $(ROUTER_OUT)/masqd.ipk
	@test/router/firmware.sh $(router_arch) $(ROUTER_OUT) $(ROUTER_OUT)/masqd.ipk

router: firmware ## switch the emulated router on: its serial console here (ctrl-a x switches it off)
	@/usr/bin/python3 test/router/router.py $(router_arch)

router-test: firmware ## boot the emulated router, log in over serial, send real traffic (ARCH=x86_64 or mipsel)
	@/usr/bin/python3 test/run.py router$(if $(filter mipsel,$(router_arch)),-mipsel)
