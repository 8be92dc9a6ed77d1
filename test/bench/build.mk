# Builds the traffic tools of the benchmark into build/bench/. Included by the top Makefile, or by itself:
# make -f test/bench/build.mk bench-tools

BENCH_TOOLS := blast sink echo latency connect first-reply cycles inject relay
BENCH_BINARIES := $(addprefix build/bench/,$(BENCH_TOOLS))
BENCH_CFLAGS := -std=gnu17 -O2 -g -Wall -Wextra -Werror

.PHONY: bench-tools
bench-tools: $(BENCH_BINARIES)

build/bench/%: test/bench/%.c test/bench/tool.h
	@mkdir -p build/bench
	$(CC) $(BENCH_CFLAGS) -o $@ $<
