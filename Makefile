# masqd. `make` lists the targets.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# First, because it gives back the shell that `make demo SHELL=1` takes away.
include test/demo/demo.mk
include test/router/router.mk
include native/build.mk
include test/bench/build.mk
include openwrt/package.mk
include test/conformance/conformance.mk
include test/guest/guest.mk
include test/luci/luci.mk
include test/neighbours/neighbours.mk

VERSION := $(shell sed -n 's/.*"version": "\(.*\)",/\1/p' package.json)
SOURCES := $(shell find src -name '*.ts')
# As native/bundles.mjs makes them.
BUNDLES := $(patsubst %,build/%.js,masqd tools core ftp inspect accounts offload kernel-carrier hand-over bans client config)

# Everything that building, tests, demo and benchmark need from Debian.
DEBIAN_PACKAGES := \
	bind9-dnsutils \
	black \
	ca-certificates \
	clang-format \
	conntrack \
	curl \
	dnsmasq-base \
	ethtool \
	flake8 \
	gcc \
	iperf3 \
	iproute2 \
	iputils-ping \
	libc6-dev \
	libcap2-bin \
	linux-libc-dev \
	llvm \
	make \
	musl-tools \
	natpmpc \
	nftables \
	nginx-light \
	passt \
	procps \
	python3 \
	python3-openssl \
	python3-pyftpdlib \
	python3-pytest \
	python3-pytest-xdist \
	python3-scapy \
	qemu-user-static \
	shellcheck \
	tshark \
	shfmt \
	slirp4netns \
	socat \
	tcpdump \
	traceroute \
	util-linux \
	xz-utils \
	zopfli

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | sort -u | \
		while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

.PHONY: deps
deps: ## install what building and testing need (Debian packages, npm ci)
	@missing=$$(for p in $(DEBIAN_PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing; \
		else \
			echo "please install: apt-get install $$missing" >&2; exit 1; \
		fi; \
	fi
	@$(MAKE) --no-print-directory node_modules/.ready

node_modules/.ready: package.json package-lock.json
	npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: known-arch
known-arch:
	@[ -z "$(ARCH)" ] || [ -n "$(ZIG_TARGET)" ] || { echo "no such ARCH: $(ARCH); there are $(ARCHITECTURES)" >&2; exit 1; }

.PHONY: build
build: known-arch deps ## build/masqd and its bundles (SANITIZE=1, FAULTS=1, LIBC=musl, ARCH=mipsel_24kc for other builds)
	@$(MAKE) --no-print-directory $(NATIVE_OUT)/masqd $(BUNDLES) $(if $(BYTECODE),-j2 $(BUNDLES:build/%.js=$(NATIVE_OUT)/%.qbc))
	@[ "$(NATIVE_OUT)" = build ] || [ -n "$(BYTECODE)" ] || ln -sf $(BUNDLES:build/%=../%) $(NATIVE_OUT)/

.PHONY: bundle
bundle: $(BUNDLES)

$(BUNDLES) &: $(SOURCES) native/bundles.mjs native/hoist.mjs native/lean.mjs package.json node_modules/.ready
	@mkdir -p build
	node native/bundles.mjs $(VERSION) build
	@touch $(BUNDLES)

.PHONY: trace
trace: $(BUNDLES) ## turn a stack trace on stdin into source lines
	@node test/tools/trace.mjs $(BUNDLES:=.map)

.PHONY: demo
demo: build ## show masqd at work on real traffic (SHELL=1: keep the hosts and open a shell; DRIVER=packet|tun|kernel)
	@$(DEMO)

.PHONY: test
test: build ## run all tests
	@$(MAKE) --no-print-directory guest
	@$(MAKE) --no-print-directory build SANITIZE=1
	@$(MAKE) --no-print-directory build FAULTS=1
	@$(MAKE) --no-print-directory build LIBC=musl
	@$(MAKE) --no-print-directory bench-tools
	@$(MAKE) --no-print-directory luci-deps luci-tests
	@$(MAKE) --no-print-directory ipk ARCH=
	@for arch in x86_64 mipsel; do $(MAKE) --no-print-directory firmware ARCH=$$arch || exit 1; done
	/usr/bin/python3 test/run.py

.PHONY: unit
unit: node_modules/.ready ## unit tests, on Node
	node_modules/.bin/vitest run --testTimeout=600000

.PHONY: types
types: node_modules/.ready ## check the types
	node_modules/.bin/tsc -p tsconfig.json
	node test/tools/indexed-access.mjs

.PHONY: lint
lint: deps ## check format and style of TypeScript, C, Python and shell scripts
	node_modules/.bin/biome check .
	git ls-files '*.[ch]' | xargs clang-format --dry-run -Werror
	black -q --check -l 160 test
	flake8 test
	git ls-files '*.sh' '.ci/*' | xargs shellcheck -x
	shfmt -d -sr -s openwrt/*.sh openwrt/files/etc/init.d/*

.PHONY: check
check: lint types unit ## all of the three

.PHONY: fuzz
fuzz: ## mutate frames, between random events: the first 400,000 on the sanitizer build, the others on Node (FRAMES=n, SEED=n; ON=node: all)
	@$(MAKE) --no-print-directory $(if $(filter node,$(ON)),node_modules/.ready,build SANITIZE=1)
	$(if $(filter node,$(ON)),MASQD=node) test/fuzz/run.sh $(or $(FRAMES),5000000) $(or $(SEED),$$(date +%s))

.PHONY: errno
errno: build ## every system call of the daemon fails once with every errno, at start, under traffic and during events
	@$(MAKE) --no-print-directory build FAULTS=1
	ERRNO_WALK=1 /usr/bin/python3 -m pytest -q test/net/test_errno.py -n 2 -rP

.PHONY: differential
differential: build ## hold the offload's programs against the slow path, frame by frame (FRAMES=n, SEED=n; needs root)
	test/fuzz/run-offload.sh $(or $(FRAMES),100000) $(or $(SEED),$$(date +%s))

.PHONY: soak
soak: build ## kill the daemon a thousand times, restart it under load, and move sessions in and out of the kernel for a minute (KILLS=n RESTARTS=n SECONDS=n)
	KILLS=$(or $(KILLS),1000) /usr/bin/python3 -m pytest test/net/test_life.py -k test_kills -q
	RESTARTS=$(or $(RESTARTS),100) /usr/bin/python3 -m pytest test/net/test_life.py -k after_a_restart -q
	LIFE=$(or $(RESTARTS),100) /usr/bin/python3 -m pytest test/net/test_kernel_driver.py -k killed_and_restarted -q
	OFFLOAD_SOAK=$(or $(SECONDS),60) /usr/bin/python3 -m pytest -q test/net/test_offload.py -k switched

.PHONY: bench
bench: build ## measure against nft masquerade and others (QUICK=1: under 2 minutes)
	@$(MAKE) --no-print-directory build ARCH=x86_64
	@$(MAKE) --no-print-directory bench-tools
	/usr/bin/python3 test/bench/bench.py $(if $(QUICK),--quick)

.PHONY: format
format: deps ## format everything, and sort imports
	node_modules/.bin/biome check --write .
	git ls-files '*.[ch]' | xargs clang-format -i
	black -q -l 160 test

.PHONY: clean
clean: ## remove everything built
	rm -rf build
