# The package, the release, and what they may weigh. Included by the Makefile at the top.

# One architecture if ARCH is set, else all of them.
CROSS_ARCHITECTURES := $(if $(ARCH),$(ARCH),$(ARCHITECTURES))

.PHONY: ipk
ipk: ## OpenWrt package build/masqd_*_ARCH.ipk (ARCH=mipsel_24kc ...; without, one for each)
	@for arch in $(CROSS_ARCHITECTURES); do \
		$(MAKE) --no-print-directory build ARCH=$$arch && openwrt/ipk.sh $$arch || exit 1; \
	done

.PHONY: dist
dist: deps ## release build/masqd-*.tar.xz: source and bundle, proved to belong together
	@openwrt/dist.sh

.PHONY: size
size: ipk bench-tools ## check executables and packages against their budgets
	@openwrt/size.sh
