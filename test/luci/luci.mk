# The pages of LuCI in a real browser.
#
#   make luci-test     Debian's Chromium over the package's own files: what the pages show and do; screenshots in build/luci-shots

LUCI_PACKAGES := chromium coturn fonts-dejavu-core

.PHONY: luci-deps luci-tests luci-pictures luci-test
luci-deps:
	@missing=$$(for p in $(LUCI_PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
		else \
			echo "please install: apt-get install $$missing" >&2; exit 1; \
		fi; \
	fi

luci-tests: build/luci/.made
	@node_modules/.bin/esbuild test/luci/pages.ts test/luci/scripts.ts test/luci/ubus.ts --bundle --platform=node --format=esm --outdir=build/test/luci --out-extension:.js=.mjs \
		--external:playwright-core --external:masq:native --log-level=warning

luci-pictures: build luci-deps luci-tests
	@node build/test/luci/pages.mjs --pictures

luci-test: build luci-deps luci-tests ## the pages of LuCI in Chromium, over a full table; screenshots in build/luci-shots
	@node build/test/luci/pages.mjs $(ONLY)
	@node build/test/luci/scripts.mjs
