/*
 * bpf(2): maps, programs and their links to devices. What a program does is TypeScript's concern.
 */
#include "shim.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * The commands and the parts of union bpf_attr that are used, because the C library's copy of linux/bpf.h may be older than the kernel that runs.
 */
#define BPF_MAP_CREATE 0
#define BPF_PROG_LOAD 5
#define BPF_PROG_TEST_RUN 10
#define BPF_LINK_CREATE 28
#define BPF_LINK_UPDATE 29

#define NAME_SIZE 16

struct map_create {
	uint32_t type, key_size, value_size, max_entries, flags, inner, numa;
	char name[NAME_SIZE];
};

struct program_load {
	uint32_t type, instructions;
	uint64_t code, licence;
	uint32_t log_level, log_size;
	uint64_t log;
	uint32_t kernel_version, flags;
	char name[NAME_SIZE];
	uint32_t ifindex, attach_type;
};

struct test_run {
	uint32_t program, result, size_in, size_out;
	uint64_t data_in, data_out;
	uint32_t repeat, duration, context_size_in, context_size_out;
	uint64_t context_in, context_out;
};

struct link_create {
	uint32_t program, target, attach_type, flags, relative, unused;
	uint64_t revision;
};

struct link_update {
	uint32_t link, program, flags, old_program;
};

static long bpf(int command, void *attributes, size_t size)
{
	return syscall(SYS_bpf, command, attributes, size);
}

static uint64_t pointer(const void *address)
{
	return (uint64_t)(uintptr_t)address;
}

/**
 * name_argument() - what the kernel shows a map or program as
 *
 * Return: 0, or -1 with an exception pending.
 */
static int name_argument(JSContext *ctx, JSValueConst value, char name[NAME_SIZE])
{
	const char *text = argument_string(ctx, value, "name");
	int result = 0;

	if (!text)
		return -1;
	if (strlen(text) >= NAME_SIZE) {
		JS_ThrowRangeError(ctx, "name: longer than %d bytes", NAME_SIZE - 1);
		result = -1;
	} else {
		memcpy(name, text, strlen(text));
	}
	JS_FreeCString(ctx, text);
	return result;
}

/**
 * native_bpf_map_create() - a map
 */
NATIVE(native_bpf_map_create)
{
	struct map_create attributes = { .key_size = sizeof(uint32_t) };
	int32_t type, size, entries;
	int64_t flags;
	long fd;

	if (argument_int(ctx, argv[0], "type", 0, INT32_MAX, &type) < 0 ||
	    argument_int(ctx, argv[1], "valueSize", 1, INT32_MAX, &size) < 0 ||
	    argument_int(ctx, argv[2], "entries", 1, INT32_MAX, &entries) < 0 ||
	    argument_number(ctx, argv[3], "flags", 0, UINT32_MAX, &flags) < 0 ||
	    name_argument(ctx, argv[4], attributes.name) < 0)
		return JS_EXCEPTION;
	attributes.type = (uint32_t)type;
	attributes.value_size = (uint32_t)size;
	attributes.max_entries = (uint32_t)entries;
	attributes.flags = (uint32_t)flags;
	fd = bpf(BPF_MAP_CREATE, &attributes, sizeof attributes);
	if (fd < 0)
		return throw_errno(ctx, errno, "bpf", "BPF_MAP_CREATE, %s, %d bytes", attributes.name, size);
	return JS_NewInt32(ctx, (int32_t)fd);
}

static void unmap(JSRuntime *runtime __attribute__((unused)), void *size, void *pages)
{
	munmap(pages, (size_t)size);
}

/**
 * native_bpf_map_memory() - the value of a map as an ArrayBuffer
 */
NATIVE(native_bpf_map_memory)
{
	JSValue result;
	int32_t fd, size;
	void *pages;

	if (argument_fd(ctx, argv[0], &fd) < 0 || argument_int(ctx, argv[1], "size", 1, INT32_MAX, &size) < 0)
		return JS_EXCEPTION;
	pages = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (pages == MAP_FAILED)
		return throw_errno(ctx, errno, "mmap", "%d", fd);
	result = JS_NewArrayBuffer(ctx, pages, (size_t)size, unmap, (void *)(size_t)size, false);
	if (JS_IsException(result))
		munmap(pages, (size_t)size);
	return result;
}

/**
 * native_bpf_program_load() - have a program verified and compiled
 */
NATIVE(native_bpf_program_load)
{
	struct program_load attributes = { .licence = pointer("GPL") };
	int32_t type;
	uint8_t *code, *log = NULL;
	size_t size, log_size = 0;
	long fd;

	if (argument_int(ctx, argv[0], "type", 0, INT32_MAX, &type) < 0 ||
	    name_argument(ctx, argv[2], attributes.name) < 0)
		return JS_EXCEPTION;
	code = JS_GetArrayBuffer(ctx, &size, argv[1]);
	if (!code)
		return JS_EXCEPTION;
	if (size % 8 || size / 8 > UINT32_MAX)
		return JS_ThrowRangeError(ctx, "code: not whole instructions");
	if (!JS_IsNull(argv[3])) {
		log = JS_GetArrayBuffer(ctx, &log_size, argv[3]);
		if (!log)
			return JS_EXCEPTION;
		attributes.log_level = 1;
		attributes.log = pointer(log);
		attributes.log_size = log_size > UINT32_MAX >> 8 ? UINT32_MAX >> 8 : (uint32_t)log_size;
	}
	attributes.type = (uint32_t)type;
	attributes.instructions = (uint32_t)(size / 8);
	attributes.code = pointer(code);
	do
		fd = bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
	while (fd < 0 && errno == EAGAIN);
	if (fd < 0)
		return throw_errno(ctx, errno, "bpf", "BPF_PROG_LOAD, %s", attributes.name);
	return JS_NewInt32(ctx, (int32_t)fd);
}

/**
 * native_bpf_program_run() - run a program once on a frame
 */
NATIVE(native_bpf_program_run)
{
	struct test_run attributes = { .repeat = 1 };
	size_t size_in, size_out, context_size = 0;
	uint8_t *in, *out, *context = NULL;
	JSValue result;
	int32_t fd;

	if (argument_fd(ctx, argv[0], &fd) < 0)
		return JS_EXCEPTION;
	in = JS_GetArrayBuffer(ctx, &size_in, argv[1]);
	out = in ? JS_GetArrayBuffer(ctx, &size_out, argv[2]) : NULL;
	if (!out)
		return JS_EXCEPTION;
	if (!JS_IsNull(argv[3])) {
		context = JS_GetArrayBuffer(ctx, &context_size, argv[3]);
		if (!context)
			return JS_EXCEPTION;
	}
	attributes.program = (uint32_t)fd;
	attributes.data_in = pointer(in);
	attributes.size_in = (uint32_t)size_in;
	attributes.data_out = pointer(out);
	attributes.size_out = (uint32_t)size_out;
	attributes.context_in = pointer(context);
	attributes.context_size_in = (uint32_t)context_size;
	if (bpf(BPF_PROG_TEST_RUN, &attributes, sizeof attributes) < 0)
		return throw_errno(ctx, errno, "bpf", "BPF_PROG_TEST_RUN, %d", fd);
	result = JS_NewArray(ctx);
	if (JS_IsException(result))
		return result;
	JS_SetPropertyUint32(ctx, result, 0, JS_NewInt32(ctx, (int32_t)attributes.result));
	JS_SetPropertyUint32(ctx, result, 1, JS_NewUint32(ctx, attributes.size_out));
	return result;
}

/**
 * native_bpf_link_create() - attach a program to a device
 */
NATIVE(native_bpf_link_create)
{
	struct link_create attributes = { 0 };
	int32_t program, ifindex, type;
	long fd;

	if (argument_fd(ctx, argv[0], &program) < 0 ||
	    argument_int(ctx, argv[1], "ifindex", 0, INT32_MAX, &ifindex) < 0 ||
	    argument_int(ctx, argv[2], "attachType", 0, INT32_MAX, &type) < 0)
		return JS_EXCEPTION;
	attributes.program = (uint32_t)program;
	attributes.target = (uint32_t)ifindex;
	attributes.attach_type = (uint32_t)type;
	fd = bpf(BPF_LINK_CREATE, &attributes, sizeof attributes);
	if (fd < 0)
		return throw_errno(ctx, errno, "bpf", "BPF_LINK_CREATE, device %d", ifindex);
	return JS_NewInt32(ctx, (int32_t)fd);
}

/**
 * native_bpf_link_update() - put another program in the place of a link's
 */
NATIVE(native_bpf_link_update)
{
	struct link_update attributes = { 0 };
	int32_t link, program;

	if (argument_fd(ctx, argv[0], &link) < 0 || argument_fd(ctx, argv[1], &program) < 0)
		return JS_EXCEPTION;
	attributes.link = (uint32_t)link;
	attributes.program = (uint32_t)program;
	if (bpf(BPF_LINK_UPDATE, &attributes, sizeof attributes) < 0)
		return throw_errno(ctx, errno, "bpf", "BPF_LINK_UPDATE, %d", link);
	return JS_UNDEFINED;
}
