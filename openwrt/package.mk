# The package, the release, and what they may weigh. Included by the Makefile at the top.

# One architecture if ARCH is set, else all of them.
CROSS_ARCHITECTURES := $(if $(ARCH),$(ARCH),$(ARCHITECTURES))

.PHONY: ipk
ipk: ## OpenWrt package build/masqd_*_ARCH.ipk (ARCH=mipsel_24kc ...; without, one for each)
	@for arch in $(CROSS_ARCHITECTURES); do \
		$(MAKE) --no-print-directory build ARCH=$$arch && openwrt/ipk.sh $$arch || exit 1; \
	done
	@$(MAKE) --no-print-directory luci-ipk ARCH=

.PHONY: dist
dist: deps ## release build/masqd-*.tar.xz: source and bundle, proved to belong together
	@openwrt/dist.sh

.PHONY: size
size: ipk bench-tools ## check executables and packages against their budgets
	@openwrt/size.sh

LUCI_SOURCES := $(shell find openwrt/luci -type f) src/config/schema.ts src/cli/remedy.ts

build/luci/.made: $(LUCI_SOURCES) node_modules/.ready
	@node openwrt/luci/generate.mjs build/luci
	@touch $@

.PHONY: luci-ipk
luci-ipk: build/luci/.made ## OpenWrt package build/luci-app-masqd_*_all.ipk: the pages and the ubus object
	@openwrt/ipk.sh luci

.PHONY: po
po: node_modules/.ready ## write the template of the pages' translations anew
	node openwrt/luci/generate.mjs --pot > openwrt/luci/po/templates/masqd.pot
