# The emulated router: qemu's machine, Debian's kernel and busybox, the package for its architecture.
#
#   make firmware ARCH=x86_64|mipsel    its image
#   make router ARCH=...                its serial console on this terminal
#   make router-test                    the session of test/router/test_router.py, on both or the one of ARCH; test_house.py: the x86_64
#                                       files as a household's router in namespaces; its table of streams; test_machine_house.py: the
#                                       same household with an x86_64 machine of four cards and a disk
#
# Included before native/build.mk, which knows the feeds' names of architectures only.

ifeq ($(ARCH),mipsel)
override ARCH := mipsel_24kc
endif
router_feed := $(if $(filter mipsel_24kc,$(ARCH)),mipsel_24kc,x86_64)
router_arch := $(router_feed:_24kc=)

ROUTER_PACKAGES := qemu-system-x86 qemu-system-mips cpio kmod e2fsprogs
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
	@$(MAKE) --no-print-directory ipk ARCH=$(router_feed)
	@test/router/firmware.sh $(router_arch) $(ROUTER_OUT) build/masqd_*_$(router_feed).ipk

router: firmware ## switch the emulated router on: its serial console here (ctrl-a x switches it off)
	@/usr/bin/python3 test/router/router.py $(router_arch)

router-test: luci-tests ## boot the emulated router, log in over serial, send real traffic (ARCH=x86_64 or mipsel; else both); what streams went through
	@for arch in $(if $(ARCH),$(router_arch),x86_64 mipsel); do $(MAKE) --no-print-directory firmware ARCH=$$arch || exit 1; done
	@/usr/bin/python3 test/run.py $(if $(ARCH),router-$(router_arch),router-x86_64 router-mipsel router-machine router-house); status=$$?; \
		$(if $(ARCH),,cat build/test/streams.txt;) exit $$status
