# The native half of masqd: the engine, the C shim, and the executable of both. Included by the Makefile at the top;
# usable alone from there as `make -f native/build.mk build/masqd`.
#
#   build/masqd             this machine's C library, dynamic
#   SANITIZE=1              build/sanitize/masqd: AddressSanitizer and UndefinedBehaviorSanitizer
#   FAULTS=1                build/faults/masqd: system calls fail when a test says so (faults.c)
#   LIBC=musl               build/musl/masqd: static, by musl-gcc; bytecode only, as for a router
#   ARCH=mipsel_24kc        build/mipsel_24kc/masqd: static, for a router (openwrt/toolchain/cross.mk lists them)
#   WITHOUT_PARSER=1        an engine for bytecode (native/bytecode.c) only; ARCH=... and LIBC=musl are so by themselves
#   VARIANT=x CC='...'      build/x/masqd: any other compiler, with
#                           OPTIMIZE=-Os, STATIC=1 and NATIVE_CFLAGS=... as it needs them

QUICKJS_DIR := build/quickjs-2025-04-26
ENGINE_VERSION := -DCONFIG_VERSION='"2025-04-26"'
QUICKJS_SOURCES := quickjs.c libregexp.c libunicode.c cutils.c dtoa.c
NATIVE_SOURCES := main.c heap.c module.c argument.c error.c text.c process.c clock.c file.c socket.c packet.c tun.c device.c netlink.c bpf.c

# The feed architectures that we build for; all of them are tested under qemu-user.
ARCHITECTURES := mips_24kc mipsel_24kc arm_cortex-a7_neon-vfpv4 aarch64_cortex-a53 x86_64

OPTIMIZE ?= -O2
NATIVE_CFLAGS ?=
NATIVE_LDFLAGS ?=

ifeq ($(SANITIZE),1)
VARIANT ?= sanitize
OPTIMIZE := -O1 -g -fno-omit-frame-pointer
# Nothing that we run makes the engine fail a check of -fsanitize=undefined, so none is switched off for it; it keeps
# -fwrapv, which defines the signed overflow that it relies on. The shim is checked for overflow too.
QUICKJS_SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all
NATIVE_SANITIZE := $(QUICKJS_SANITIZE) -fno-wrapv -DSANITIZED
NATIVE_LDFLAGS += -fsanitize=address,undefined
else ifeq ($(FAULTS),1)
VARIANT ?= faults
NATIVE_SOURCES += faults.c
NATIVE_CFLAGS += -DFAULTS
# Those of faults.c.
WRAPPED := accept4 bind chmod clock_gettime connect fallocate flock fork fstat ftruncate getrandom getsockname getsockopt ioctl listen lstat madvise memfd_create \
	mkdir mmap open opendir pipe2 poll prctl read readlink readv recvmmsg recvmsg rename sched_getaffinity sched_setaffinity send sendto \
	setsockopt signalfd socket stat syscall unlink write writev
NATIVE_LDFLAGS += $(WRAPPED:%=-Wl,--wrap=%)
else ifeq ($(LIBC),musl)
VARIANT ?= musl
CC := musl-gcc
STATIC := 1
WITHOUT_PARSER := 1
BYTECODE := build/tools/bytecode
# musl-gcc searches musl's own headers only; the kernel's come after them, the machine-dependent ones from the
# folder that the compiler names.
NATIVE_CFLAGS += -idirafter /usr/include -idirafter /usr/include/$(shell gcc -print-multiarch)
# Nothing unwinds the stack of a program in C.
NATIVE_CFLAGS += -fno-unwind-tables -fno-asynchronous-unwind-tables
endif

ifneq ($(filter $(ARCH),$(ARCHITECTURES)),)
include openwrt/toolchain/cross.mk
endif

# For a router: an engine that takes bytecode only, without what nothing of ours uses.
ifeq ($(WITHOUT_PARSER),1)
NATIVE_CFLAGS += -DWITHOUT_PARSER
ENGINE_SOURCES := $(filter-out quickjs.c libunicode.c libregexp.c,$(QUICKJS_SOURCES)) engine-small.c unicode-small.c regexp-small.c math-small.c threads-small.c printf-small.c
else
ENGINE_SOURCES := $(QUICKJS_SOURCES)
endif

NATIVE_OUT := build$(if $(VARIANT),/$(VARIANT))
NATIVE_OBJECTS := build/objects/$(or $(VARIANT),host)

NATIVE_FLAGS = -std=gnu11 -D_GNU_SOURCE $(ENGINE_VERSION) $(OPTIMIZE) -fwrapv -ffunction-sections -fdata-sections -fno-math-errno \
	-ffile-prefix-map=$(CURDIR)=. -MMD -MP $(NATIVE_CFLAGS)
NATIVE_LINK = -Wl,--gc-sections $(if $(STATIC),-static) $(if $(filter 1,$(SANITIZE)),,-s) $(NATIVE_LDFLAGS)

NATIVE_SHIM_OBJECTS := $(NATIVE_SOURCES:%.c=$(NATIVE_OBJECTS)/native/%.o)
NATIVE_ENGINE_OBJECTS := $(ENGINE_SOURCES:%.c=$(NATIVE_OBJECTS)/quickjs/%.o)

# The interpreter is one function: a jump by table at the end of each instruction's code, 250 of them. Compilers join those
# into one unless told not to, and a processor can then not foretell where it leads. What a packet takes with and without:
# clang 19 0.72 and 1.08 us (and by qemu-user 0.75 on MIPS, 0.56 on ARM of what it took), gcc 12 0.77 and 0.81. At -Os, the
# default of many OpenWrt targets, it takes 1.25 us whatever the jumps are.
INTERPRETER_FLAGS ?= -O2 -fno-gcse
ifneq ($(SANITIZE),1)
# heap.c clears for the engine.
CLEARING := -Dmemset=heap_memset
$(NATIVE_OBJECTS)/quickjs/quickjs.o $(NATIVE_OBJECTS)/quickjs/engine-small.o: ENGINE_FLAGS = $(INTERPRETER_FLAGS) $(CLEARING)
endif

# Where nothing is hot.
ifneq ($(CROSS_COMPILER)$(filter musl,$(LIBC)),)
$(NATIVE_SHIM_OBJECTS) $(filter-out %/quickjs.o %/engine-small.o,$(NATIVE_ENGINE_OBJECTS)): OPTIMIZE := -Os
endif

$(NATIVE_OUT)/masqd: $(NATIVE_SHIM_OBJECTS) $(NATIVE_ENGINE_OBJECTS)
	@mkdir -p $(@D)
	$(CC) $(NATIVE_LINK) -o $@ $^ -lm $(if $(NATIVE_FINISH),$(NATIVE_FINISH) $@)

# The compiler of the bundle for routers, of the same engine but run here: in this machine's byte order, and in the other.
HOST_CC ?= cc
BYTECODE_FLAGS := -std=gnu11 -D_GNU_SOURCE -O1 -fwrapv $(ENGINE_VERSION) -isystem $(QUICKJS_DIR)

build/tools/bytecode: native/bytecode.c native/bytecode.h $(QUICKJS_DIR)/.verified
	@mkdir -p $(@D)
	$(HOST_CC) $(BYTECODE_FLAGS) -o $@ $< $(QUICKJS_SOURCES:%=$(QUICKJS_DIR)/%) -lm

build/tools/bytecode-swapped: native/bytecode.c native/bytecode.h native/regexp-swapped.c $(QUICKJS_DIR)/.verified
	@mkdir -p $(@D)
	$(HOST_CC) $(BYTECODE_FLAGS) -DSWAPPED -o $@ $< native/regexp-swapped.c \
		$(patsubst %,$(QUICKJS_DIR)/%,$(filter-out libregexp.c,$(QUICKJS_SOURCES))) -lm

ifneq ($(BYTECODE),)
$(NATIVE_OUT)/%.qbc: build/%.js $(BYTECODE)
	@mkdir -p $(@D)
	$(BYTECODE) $< $@
endif

# A change of compiler or flags rebuilds what they made.
$(NATIVE_OBJECTS)/flags: native-flags $(CROSS_COMPILER)
	@mkdir -p $(@D)
	@printf '%s\n' '$(CC) $(NATIVE_FLAGS) $(INTERPRETER_FLAGS) $(CLEARING) $(NATIVE_SANITIZE) $(QUICKJS_SANITIZE) $(NATIVE_LINK)' >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(NATIVE_OBJECTS)/native/%.o: native/%.c $(QUICKJS_DIR)/.verified $(NATIVE_OBJECTS)/flags
	@mkdir -p $(@D)
	$(CC) $(NATIVE_FLAGS) -Wall -Wextra -Werror $(NATIVE_SANITIZE) -isystem $(QUICKJS_DIR) -c -o $@ $<

$(NATIVE_OBJECTS)/quickjs/%.o: $(QUICKJS_DIR)/.verified $(NATIVE_OBJECTS)/flags
	@mkdir -p $(@D)
	$(CC) $(NATIVE_FLAGS) $(ENGINE_FLAGS) $(QUICKJS_SANITIZE) -c -o $@ $(QUICKJS_DIR)/$*.c

$(NATIVE_OBJECTS)/quickjs/engine-small.o: native/engine-unused.h

$(NATIVE_OBJECTS)/quickjs/%-small.o: native/%-small.c $(QUICKJS_DIR)/.verified $(NATIVE_OBJECTS)/flags
	@mkdir -p $(@D)
	$(CC) $(NATIVE_FLAGS) $(ENGINE_FLAGS) $(if $(filter %/engine-small.o,$@),,-fno-builtin) -isystem $(QUICKJS_DIR) -c -o $@ $<

$(QUICKJS_DIR)/.verified: native/fetch-quickjs.sh
	native/fetch-quickjs.sh $(QUICKJS_DIR)

.PHONY: native-flags
native-flags:

-include $(NATIVE_SHIM_OBJECTS:.o=.d)
