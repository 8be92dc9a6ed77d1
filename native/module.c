/*
 * The export table of "masq:native": everything that TypeScript can ask of the system.
 *
 * One line an export, with the number of parameters that src/native.d.ts declares; test/unit/native-typings.test.ts
 * compares the two.
 */
#include "shim.h"

#include <poll.h>
#include <signal.h>

static const JSCFunctionListEntry exports[] = {
	JS_CFUNC_DEF("args", 0, native_args),
	JS_CFUNC_DEF("exit", 1, native_exit),
	JS_CFUNC_DEF("getenv", 1, native_getenv),
	JS_CFUNC_DEF("importBundle", 1, native_import_bundle),
	JS_CFUNC_DEF("holdBundle", 1, native_hold_bundle),
	JS_CFUNC_DEF("alarm", 1, native_alarm),
	JS_CFUNC_DEF("ask", 2, native_ask),
	JS_CFUNC_DEF("getpid", 0, native_getpid),
	JS_CFUNC_DEF("geteuid", 0, native_geteuid),
	JS_CFUNC_DEF("processors", 0, native_processors),
	JS_CFUNC_DEF("processor", 0, native_processor),
	JS_CFUNC_DEF("runOn", 1, native_run_on),
	JS_CFUNC_DEF("run", 3, native_run),
	JS_CFUNC_DEF("start", 2, native_start),
	JS_CFUNC_DEF("ended", 2, native_ended),
	JS_PROP_INT32_DEF("SIGUSR1", SIGUSR1, 0),
	JS_CFUNC_DEF("signalOpen", 1, native_signal_open),
	JS_CFUNC_DEF("signalRead", 1, native_signal_read),
	JS_CFUNC_DEF("keepCapabilities", 1, native_keep_capabilities),
	JS_CFUNC_DEF("hasCapability", 1, native_has_capability),
	JS_CFUNC_DEF("syslogOpen", 1, native_syslog_open),
	JS_CFUNC_DEF("syslogWrite", 2, native_syslog_write),

	JS_CFUNC_DEF("now", 0, native_now),
	JS_CFUNC_DEF("nanoseconds", 0, native_nanoseconds),
	JS_CFUNC_DEF("wallClock", 0, native_wall_clock),
	JS_CFUNC_DEF("cpuNanoseconds", 0, native_cpu_nanoseconds),
	JS_CFUNC_DEF("random", 3, native_random),

	JS_CFUNC_DEF("readFile", 1, native_read_file),
	JS_CFUNC_DEF("writeFile", 3, native_write_file),
	JS_CFUNC_DEF("createFile", 2, native_create_file),
	JS_CFUNC_DEF("rename", 2, native_rename),
	JS_CFUNC_DEF("unlink", 1, native_unlink),
	JS_CFUNC_DEF("mkdir", 2, native_mkdir),
	JS_CFUNC_DEF("readDir", 1, native_read_dir),
	JS_CFUNC_DEF("readLink", 1, native_read_link),
	JS_CFUNC_DEF("close", 1, native_close),
	JS_CFUNC_DEF("lockFile", 1, native_lock_file),
	JS_CFUNC_DEF("mapFile", 2, native_map_file),
	JS_CFUNC_DEF("fileSize", 1, native_file_size),
	JS_CFUNC_DEF("releasePages", 3, native_release_pages),
	JS_CFUNC_DEF("read", 4, native_read),
	JS_CFUNC_DEF("openWriter", 1, native_open_writer),
	JS_CFUNC_DEF("write", 4, native_write),
	JS_CFUNC_DEF("print", 2, native_print),
	JS_CFUNC_DEF("encode", 3, native_encode),
	JS_CFUNC_DEF("decode", 3, native_decode),

	JS_PROP_INT32_DEF("POLLIN", POLLIN, 0),
	JS_PROP_INT32_DEF("POLLOUT", POLLOUT, 0),
	JS_PROP_INT32_DEF("POLLERR", POLLERR, 0),
	JS_PROP_INT32_DEF("POLLHUP", POLLHUP, 0),
	JS_PROP_INT32_DEF("POLL_MAX", POLL_MAX, 0),
	JS_CFUNC_DEF("poll", 3, native_poll),
	JS_CFUNC_DEF("unixListen", 2, native_unix_listen),
	JS_CFUNC_DEF("unixConnect", 1, native_unix_connect),
	JS_CFUNC_DEF("accept", 1, native_accept),

	JS_PROP_INT32_DEF("SLOT_VNET", SLOT_VNET, 0),
	JS_PROP_INT32_DEF("SLOT_ETHER", SLOT_ETHER, 0),
	JS_PROP_INT32_DEF("SLOT_IP", SLOT_IP, 0),
	JS_PROP_INT32_DEF("BATCH_MAX", BATCH_MAX, 0),
	JS_PROP_INT32_DEF("SEND_ETHERNET", SEND_ETHERNET, 0),
	JS_PROP_INT32_DEF("SEND_DATAGRAM", SEND_DATAGRAM, 0),
	JS_PROP_INT32_DEF("HEADER_SIZE", HEADER_SIZE, 0),
	JS_PROP_INT32_DEF("HEADER_SHIFT", HEADER_SHIFT, 0),
	JS_CFUNC_DEF("setFrames", 4, native_set_frames),
	JS_CFUNC_DEF("packetOpen", 5, native_packet_open),
	JS_CFUNC_DEF("packetFilter", 2, native_packet_filter),
	JS_CFUNC_DEF("packetReceive", 4, native_packet_receive),
	JS_CFUNC_DEF("packetSend", 5, native_packet_send),
	JS_CFUNC_DEF("packetSendOpen", 3, native_packet_send_open),
	JS_CFUNC_DEF("packetSendTo", 6, native_packet_send_to),
	JS_CFUNC_DEF("sendError", 0, native_send_error),
	JS_CFUNC_DEF("frameSum", 2, native_frame_sum),
	JS_CFUNC_DEF("packetStatistics", 1, native_packet_statistics),
	JS_CFUNC_DEF("tunOpen", 1, native_tun_open),
	JS_CFUNC_DEF("tunReceive", 3, native_tun_receive),
	JS_CFUNC_DEF("tunSend", 4, native_tun_send),
	JS_CFUNC_DEF("etherOpen", 3, native_ether_open),

	JS_CFUNC_DEF("getFeature", 2, native_get_feature),
	JS_CFUNC_DEF("setFeature", 3, native_set_feature),

	JS_CFUNC_DEF("netlinkOpen", 2, native_netlink_open),
	JS_CFUNC_DEF("netlinkSend", 3, native_netlink_send),
	JS_CFUNC_DEF("netlinkReceive", 2, native_netlink_receive),

	JS_CFUNC_DEF("bpfMapCreate", 5, native_bpf_map_create),
	JS_CFUNC_DEF("bpfMapMemory", 2, native_bpf_map_memory),
	JS_CFUNC_DEF("bpfProgramLoad", 4, native_bpf_program_load),
	JS_CFUNC_DEF("bpfProgramRun", 4, native_bpf_program_run),
	JS_CFUNC_DEF("bpfLinkCreate", 3, native_bpf_link_create),
	JS_CFUNC_DEF("bpfLinkUpdate", 2, native_bpf_link_update),
};

#define EXPORT_COUNT ((int)(sizeof exports / sizeof *exports))

static int initialize(JSContext *ctx, JSModuleDef *module)
{
	return JS_SetModuleExportList(ctx, module, exports, EXPORT_COUNT);
}

/**
 * native_module() - register "masq:native" with a context
 *
 * Return: the module, NULL if there is no memory for it.
 */
JSModuleDef *native_module(JSContext *ctx)
{
	JSModuleDef *module = JS_NewCModule(ctx, "masq:native", initialize);

	if (module)
		JS_AddModuleExportList(ctx, module, exports, EXPORT_COUNT);
	return module;
}
