/*
 * The C shim of masqd: what its files share.
 *
 * The shim is a list of system calls for TypeScript, one function each, declared in src/native.d.ts and exported by
 * module.c. It decides nothing: arguments are checked, the call is made, its result or its error is handed back.
 */
#ifndef MASQD_SHIM_H
#define MASQD_SHIM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "quickjs.h"

/* Where the parts of a frame are in its slot (see src/native.d.ts). */
#define SLOT_VNET 0
#define SLOT_ETHER 10
#define SLOT_IP 24

#define VNET_SIZE 10
#define BATCH_MAX 64
/* Most descriptors of one poll. */
#define POLL_MAX 256

/* One exported function. The engine fills missing arguments up to the declared arity with undefined. */
#define NATIVE(function)                                                                                              \
	JSValue function(JSContext *ctx, JSValueConst self __attribute__((unused)), int argc __attribute__((unused)), \
			 JSValueConst *argv __attribute__((unused)))

/* The second word of a frame to send: its length, and above it one more than the number of its link header (0: as in the slot). */
#define HEADER_SHIFT 17
#define LENGTH_MASK ((1 << HEADER_SHIFT) - 1)
/* How a socket of packetSendOpen() wants its frames; 0: a virtio header and the packet. */
#define SEND_ETHERNET 1
#define SEND_DATAGRAM 2
/* Bytes from one registered link header to the next. */
#define HEADER_SIZE 16

/**
 * struct frames - the frame buffer that all ports share, as registered by setFrames()
 * @base: first byte of the buffer, NULL while none is registered
 * @size: its bytes
 * @slots: number of slots in it
 * @slot_size: bytes a slot
 * @rx: pairs [slot offset, bytes of IP packet] that receiving calls write
 * @rx_pairs: number of pairs that fit @rx
 * @headers: link headers for sending, HEADER_SIZE bytes each, NULL if none are registered
 * @header_count: number of them
 * @vectors: two vectors a slot for ports without a link header: the virtio header, then the IP packet
 */
struct frames {
	uint8_t *base;
	size_t size;
	int32_t slots;
	int32_t slot_size;
	int32_t *rx;
	int32_t rx_pairs;
	uint8_t *headers;
	int32_t header_count;
	struct iovec *vectors;
};

extern struct frames frames;
extern int send_errno;

/* main.c <-> process.c, packet.c, module.c */
void process_arguments(int count, char **values);
void frames_forget(JSContext *ctx);
JSModuleDef *native_module(JSContext *ctx);

/* heap.c */
JSRuntime *heap_runtime(void);
void *heap_memset(void *piece, int byte, size_t size);

/* error.c */
const char *error_name(int number);
JSValue throw_errno(JSContext *ctx, int number, const char *call, const char *what_format, ...)
	__attribute__((format(printf, 4, 5)));

/* text.c */
JSValue text_decode(JSContext *ctx, const uint8_t *bytes, size_t length);
char *text_encode(JSContext *ctx, JSValueConst text, size_t *length);

/* packet.c, for tun.c */
int argument_slots(JSContext *ctx, JSValueConst first_value, JSValueConst most_value, int32_t *first, int32_t *most);
int argument_pairs(JSContext *ctx, JSValueConst tx, JSValueConst from_value, JSValueConst count_value, int32_t **pairs,
		   int32_t *count);

/* argument.c */
int argument_number(JSContext *ctx, JSValueConst value, const char *name, int64_t least, int64_t most, int64_t *number);
const char *argument_string(JSContext *ctx, JSValueConst value, const char *name);
int argument_bytes(JSContext *ctx, JSValueConst buffer, JSValueConst offset, JSValueConst length, uint8_t **bytes,
		   size_t *count);
int argument_words(JSContext *ctx, JSValueConst value, const char *name, int32_t **words, size_t *count);
int argument_numbers(JSContext *ctx, JSValueConst array, const char *name, int32_t least, int32_t most,
		     int32_t *numbers, int capacity);

/**
 * argument_int() - an integer argument
 * @name: parameter's name, for the message
 * @least: least value allowed
 * @most: greatest value allowed
 * @number: result
 *
 * Return: 0, or -1 with a TypeError (not a number) or RangeError (not an integer, or outside) pending.
 */
static inline int argument_int(JSContext *ctx, JSValueConst value, const char *name, int32_t least, int32_t most,
			       int32_t *number)
{
	int64_t wide;

	if (JS_VALUE_GET_TAG(value) == JS_TAG_INT) {
		*number = JS_VALUE_GET_INT(value);
		if (*number >= least && *number <= most)
			return 0;
	}
	if (argument_number(ctx, value, name, least, most, &wide) < 0)
		return -1;
	*number = (int32_t)wide;
	return 0;
}

/**
 * argument_fd() - a file descriptor argument; -1 is let through, for the kernel to refuse
 */
static inline int argument_fd(JSContext *ctx, JSValueConst value, int32_t *fd)
{
	return argument_int(ctx, value, "fd", -1, INT32_MAX, fd);
}

/* process.c */
NATIVE(native_args);
NATIVE(native_exit);
NATIVE(native_getenv);
NATIVE(native_import_bundle);
NATIVE(native_hold_bundle);
NATIVE(native_alarm);
NATIVE(native_ask);
NATIVE(native_getpid);
NATIVE(native_geteuid);
NATIVE(native_processors);
NATIVE(native_processor);
NATIVE(native_run_on);
NATIVE(native_run);
NATIVE(native_start);
NATIVE(native_ended);
NATIVE(native_signal_open);
NATIVE(native_signal_read);
NATIVE(native_keep_capabilities);
NATIVE(native_has_capability);
NATIVE(native_syslog_open);
NATIVE(native_syslog_write);

/* clock.c */
NATIVE(native_now);
NATIVE(native_nanoseconds);
NATIVE(native_wall_clock);
NATIVE(native_cpu_nanoseconds);
NATIVE(native_random);

/* file.c */
NATIVE(native_read_file);
NATIVE(native_write_file);
NATIVE(native_create_file);
NATIVE(native_rename);
NATIVE(native_unlink);
NATIVE(native_mkdir);
NATIVE(native_read_dir);
NATIVE(native_read_link);
NATIVE(native_close);
NATIVE(native_lock_file);
NATIVE(native_map_file);
NATIVE(native_file_size);
NATIVE(native_release_pages);
NATIVE(native_read);
NATIVE(native_open_writer);
NATIVE(native_write);
NATIVE(native_print);
NATIVE(native_encode);
NATIVE(native_decode);

/* socket.c */
NATIVE(native_poll);
NATIVE(native_unix_listen);
NATIVE(native_unix_connect);
NATIVE(native_accept);

/* packet.c */
NATIVE(native_set_frames);
NATIVE(native_packet_open);
NATIVE(native_packet_filter);
NATIVE(native_packet_receive);
NATIVE(native_packet_send);
NATIVE(native_packet_send_open);
NATIVE(native_packet_send_to);
NATIVE(native_send_error);
NATIVE(native_frame_sum);
NATIVE(native_packet_statistics);
NATIVE(native_ether_open);

/* tun.c */
NATIVE(native_tun_open);
NATIVE(native_tun_receive);
NATIVE(native_tun_send);

/* device.c */
NATIVE(native_get_feature);
NATIVE(native_set_feature);

/* netlink.c */
NATIVE(native_netlink_open);
NATIVE(native_netlink_send);
NATIVE(native_netlink_receive);

/* bpf.c */
NATIVE(native_bpf_map_create);
NATIVE(native_bpf_map_memory);
NATIVE(native_bpf_program_load);
NATIVE(native_bpf_program_run);
NATIVE(native_bpf_link_create);
NATIVE(native_bpf_link_update);

#ifdef FAULTS
/* faults.c */
const char *faults_enter(const char *name);
void faults_leave(const char *before);

#undef NATIVE
#define NATIVE(function)                                                                                 \
	static JSValue function##_call(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv); \
	JSValue function(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)                \
	{                                                                                                \
		const char *before = faults_enter(#function);                                            \
		JSValue result = function##_call(ctx, self, argc, argv);                                 \
                                                                                                         \
		faults_leave(before);                                                                    \
		return result;                                                                           \
	}                                                                                                \
	static JSValue function##_call(JSContext *ctx, JSValueConst self __attribute__((unused)),        \
				       int argc __attribute__((unused)), JSValueConst *argv __attribute__((unused)))
#endif

#endif
