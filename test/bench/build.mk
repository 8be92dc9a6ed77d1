# Builds the traffic tools of the benchmark into build/bench/, with ARCH=mipsel_24kc into build/mipsel_24kc/bench/.
# Included by the top Makefile, or by itself: make -f test/bench/build.mk bench-tools

BENCH_OUT := $(or $(NATIVE_OUT),build)/bench
BENCH_TOOLS := blast sink echo latency connect first-reply cycles inject relay
BENCH_BINARIES := $(addprefix $(BENCH_OUT)/,$(BENCH_TOOLS))
BENCH_CFLAGS := -std=gnu17 -O2 -g -Wall -Wextra -Werror $(if $(ARCH),-static -fno-sanitize=undefined)

.PHONY: bench-tools
bench-tools: $(BENCH_BINARIES)

$(BENCH_OUT)/%: test/bench/%.c test/bench/tool.h
	@mkdir -p $(BENCH_OUT)
	$(CC) $(BENCH_CFLAGS) -o $@ $<
