/*
 * inject: what the router's side of a packet costs, with no sender in it.
 *
 *   inject flood DEVICE DSTMAC SOURCE DESTINATION SPORT SPORTS DPORT DPORTS SECONDS CPU
 *   inject idle ...                 the same, but each packet is only written and dropped: the cost of making it
 *   inject drop DEVICE              drops every IPv4 UDP packet at the device's ingress until stdin ends
 *   inject redirect DEVICE TARGET   sends them all on from another device: the least that a router can do
 *   inject wire DEVICE DEVICE       sends all IPv4 packets of each device on from the other, unchanged, until stdin ends
 *
 * flood hands 64-byte UDP packets to a device's receive path as if they had come from its wire: BPF_PROG_TEST_RUN of an
 * XDP program on live frames. The program writes each packet anew, so the flows take turns as in blast. Everything up to
 * the next queue happens within the call, on this CPU: its CPU time over the packets is the cost of one, with the same
 * small cost of injection in it for every router. Where the counter works, cycles and instructions are told too.
 */
#include "tool.h"
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define PAYLOAD 18
#define FRAME_SIZE (ETH_HLEN + 20 + 8 + PAYLOAD)
#define BATCH 64
/* Packets in one call; a signal could not end it earlier. */
#define REPEAT 16384
#define TCX_INGRESS 46
#define PASS_NEXT -1
#define DROP 2
#define REDIRECT_HELPER 23
#define ADJUST_HEAD_HELPER 44
/* Where loads must be aligned the frame begins two bytes later, as a driver there has it: its IP header then lies on a
 * multiple of four. */
#ifdef __mips__
#define PADDING 2
#else
#define PADDING 0
#endif

/* clang-format off */
#define OP(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (int32_t)(i) }
/* clang-format on */
#define MOV_K(d, i) OP(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOV_R(d, s) OP(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define LOAD(size, d, s, o) OP(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define STORE(size, d, o, s) OP(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define ALU_K(op, d, i) OP(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define ALU_R(op, d, s) OP(BPF_ALU64 | (op) | BPF_X, d, s, 0, 0)
#define JUMP_K(op, d, i, o) OP(BPF_JMP | (op) | BPF_K, d, 0, o, i)
#define JUMP_R(op, d, s, o) OP(BPF_JMP | (op) | BPF_X, d, s, o, 0)
#define EXIT OP(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define BE16(d) OP(BPF_ALU | BPF_END | BPF_TO_BE, d, 0, 0, 16)

/** bpf() - the call, with nothing behind the @size bytes that are meant: a compiler need not clear a union beyond its
 * member. */
static int bpf(int command, const void *meant, size_t size)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	memcpy(&attr, meant, size);
	return (int)syscall(SYS_bpf, command, &attr, sizeof(attr));
}

#define UP_TO(member) (offsetof(union bpf_attr, member) + sizeof(((union bpf_attr *)0)->member))

static int load(enum bpf_prog_type type, const struct bpf_insn *code, size_t count)
{
	static char log[65536];
	union bpf_attr attr = {
		.prog_type = type,
		.insns = (uintptr_t)code,
		.insn_cnt = (uint32_t)count,
		.license = (uintptr_t) "GPL",
		.log_level = 1,
		.log_buf = (uintptr_t)log,
		.log_size = sizeof(log),
	};
	int fd = bpf(BPF_PROG_LOAD, &attr, UP_TO(log_buf));

	if (fd < 0) {
		fputs(log, stderr);
		die("BPF_PROG_LOAD");
	}
	return fd;
}

static int device_index(const char *name)
{
	int index = (int)if_nametoindex(name);

	if (!index)
		die(name);
	return index;
}

static void attach(int program, const char *device)
{
	union bpf_attr attr = { .link_create = { .prog_fd = (uint32_t)program,
						 .target_ifindex = (uint32_t)device_index(device),
						 .attach_type = TCX_INGRESS } };

	if (bpf(BPF_LINK_CREATE, &attr, UP_TO(link_create.flags)) < 0)
		die("BPF_LINK_CREATE");
}

/** serve() - keep the programs attached for as long as stdin is open. */
static int serve(void)
{
	char line[64];

	ready();
	while (fgets(line, sizeof(line), stdin))
		;
	return 0;
}

/* Everything but IPv4 UDP goes its way: ARP has to. */
#define ONLY_UDP(skip)                                                                                                \
	LOAD(BPF_W, 2, 1, offsetof(struct __sk_buff, data)), LOAD(BPF_W, 3, 1, offsetof(struct __sk_buff, data_end)), \
		MOV_R(4, 2), ALU_K(BPF_ADD, 4, 42), JUMP_R(BPF_JGT, 4, 3, (skip) + 4), LOAD(BPF_H, 4, 2, 12),         \
		JUMP_K(BPF_JNE, 4, htons(ETH_P_IP), (skip) + 2), LOAD(BPF_B, 4, 2, 23),                               \
		JUMP_K(BPF_JNE, 4, IPPROTO_UDP, skip)

static int drop(const char *device)
{
	const struct bpf_insn code[] = { ONLY_UDP(2), MOV_K(0, DROP), EXIT, MOV_K(0, PASS_NEXT), EXIT };

	attach(load(BPF_PROG_TYPE_SCHED_CLS, code, sizeof(code) / sizeof(*code)), device);
	return serve();
}

static int redirect(const char *device, const char *target)
{
	const struct bpf_insn code[] = {
		ONLY_UDP(4), MOV_K(1, device_index(target)),
		MOV_K(2, 0), OP(BPF_JMP | BPF_CALL, 0, 0, 0, REDIRECT_HELPER),
		EXIT,	     MOV_K(0, PASS_NEXT),
		EXIT,
	};

	attach(load(BPF_PROG_TYPE_SCHED_CLS, code, sizeof(code) / sizeof(*code)), device);
	return serve();
}

static void forward(const char *device, const char *target)
{
	const struct bpf_insn code[] = {
		LOAD(BPF_W, 4, 1, offsetof(struct __sk_buff, protocol)),
		JUMP_K(BPF_JNE, 4, htons(ETH_P_IP), 4),
		MOV_K(1, device_index(target)),
		MOV_K(2, 0),
		OP(BPF_JMP | BPF_CALL, 0, 0, 0, REDIRECT_HELPER),
		EXIT,
		MOV_K(0, PASS_NEXT),
		EXIT,
	};

	attach(load(BPF_PROG_TYPE_SCHED_CLS, code, sizeof(code) / sizeof(*code)), device);
}

static int wire(const char *one, const char *other)
{
	forward(one, other);
	forward(other, one);
	return serve();
}

static uint32_t sum(const void *data, size_t length, uint32_t total)
{
	for (size_t i = 0; i + 1 < length; i += 2)
		total += *(const uint16_t *)((const uint8_t *)data + i);
	return total;
}

static uint16_t fold(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}

/* Packet number (word 0 of the map's value); its remainder is the flow. */
static int counter_map(void)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1 };
	int fd = bpf(BPF_MAP_CREATE, &attr, UP_TO(max_entries));

	if (fd < 0)
		die("BPF_MAP_CREATE");
	return fd;
}

/**
 * writer() - the XDP program that makes the next packet out of the frame it gets, and passes it
 * @verdict: what becomes of it
 * @model: a packet of the first flow, its UDP checksum the sum of everything but the ports
 */
static int writer(const uint8_t *model, uint32_t sport, uint32_t sports, uint32_t dport, uint32_t dports, int verdict)
{
	struct bpf_insn code[128] = {
#if PADDING
		MOV_R(6, 1),
		MOV_K(2, PADDING),
		OP(BPF_JMP | BPF_CALL, 0, 0, 0, ADJUST_HEAD_HELPER),
		MOV_R(1, 6),
#endif
		LOAD(BPF_W, 7, 1, offsetof(struct xdp_md, data)),
		LOAD(BPF_W, 8, 1, offsetof(struct xdp_md, data_end)),
		MOV_R(2, 7),
		ALU_K(BPF_ADD, 2, FRAME_SIZE),
		JUMP_R(BPF_JGT, 2, 8, 0), /* patched below */
		OP(BPF_LD | BPF_DW | BPF_IMM, 6, BPF_PSEUDO_MAP_VALUE, 0, counter_map()),
		OP(0, 0, 0, 0, 0),
		LOAD(BPF_W, 9, 6, 0),
		MOV_R(1, 9),
		ALU_K(BPF_ADD, 1, 1),
		JUMP_K(BPF_JLT, 1, sports * dports, 1),
		MOV_K(1, 0),
		STORE(BPF_W, 6, 0, 1),
	};
	size_t check = PADDING ? 8 : 4, n = check + 9;

	/* r4, r5: ports in network order. */
	const struct bpf_insn ports[] = {
		MOV_R(4, 9), ALU_K(BPF_MOD, 4, sports), ALU_K(BPF_ADD, 4, sport), BE16(4),
		MOV_R(5, 9), ALU_K(BPF_DIV, 5, sports), ALU_K(BPF_ADD, 5, dport), BE16(5),
	};
	memcpy(code + n, ports, sizeof(ports));
	n += sizeof(ports) / sizeof(*ports);
	for (int at = 0; at < FRAME_SIZE; at += 2) {
		uint16_t half;

		memcpy(&half, model + at, 2);
		if (at == 34)
			code[n++] = (struct bpf_insn)STORE(BPF_H, 7, at, 4);
		else if (at == 36)
			code[n++] = (struct bpf_insn)STORE(BPF_H, 7, at, 5);
		else if (at != 40)
			code[n++] = (struct bpf_insn)OP(BPF_ST | BPF_MEM | BPF_H, 7, 0, at, half);
		else {
			const struct bpf_insn checksum[] = {
				MOV_K(1, half),
				ALU_R(BPF_ADD, 1, 4),
				ALU_R(BPF_ADD, 1, 5),
				MOV_R(2, 1),
				ALU_K(BPF_RSH, 2, 16),
				ALU_K(BPF_AND, 1, 0xffff),
				ALU_R(BPF_ADD, 1, 2),
				MOV_R(2, 1),
				ALU_K(BPF_RSH, 2, 16),
				ALU_R(BPF_ADD, 1, 2),
				ALU_K(BPF_XOR, 1, 0xffff),
				STORE(BPF_H, 7, 40, 1),
			};
			memcpy(code + n, checksum, sizeof(checksum));
			n += sizeof(checksum) / sizeof(*checksum);
		}
	}
	code[check].off = (int16_t)(n - check - 1);
	code[n++] = (struct bpf_insn)MOV_K(0, verdict);
	code[n++] = (struct bpf_insn)EXIT;
	return load(BPF_PROG_TYPE_XDP, code, n);
}

static int counter(uint64_t event)
{
	struct perf_event_attr attribute = { .type = PERF_TYPE_HARDWARE, .size = sizeof(attribute), .config = event };

	return (int)syscall(SYS_perf_event_open, &attribute, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static unsigned long long reading(int fd)
{
	uint64_t value = 0;

	return fd >= 0 && read(fd, &value, sizeof(value)) == sizeof(value) ? value : 0;
}

static double thread_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int flood(char **argv, int verdict)
{
	uint32_t sport = (uint32_t)atoi(argv[4]), sports = (uint32_t)atoi(argv[5]);
	uint32_t dport = (uint32_t)atoi(argv[6]), dports = (uint32_t)atoi(argv[7]);
	int device = device_index(argv[0]);
	struct {
		struct ethhdr eth;
		struct iphdr ip;
		struct udphdr udp;
		uint8_t payload[PAYLOAD];
	} __attribute__((packed)) model = {
		.eth.h_proto = htons(ETH_P_IP),
		.eth.h_source = { 2, 0, 0, 0, 9, 9 },
		.ip = { .version = 4,
			.ihl = 5,
			.tot_len = htons(FRAME_SIZE - ETH_HLEN),
			.frag_off = htons(0x4000),
			.ttl = 64,
			.protocol = IPPROTO_UDP,
			.saddr = address(argv[2]),
			.daddr = address(argv[3]) },
		.udp.len = htons(8 + PAYLOAD),
		.payload = "x",
	};
	uint8_t frame[PADDING + FRAME_SIZE] = { 0 };
	struct xdp_md context = { .data_end = PADDING + FRAME_SIZE, .ingress_ifindex = (uint32_t)device };

	stay_on(atoi(argv[9]));
	if (sscanf(argv[1], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &model.eth.h_dest[0], &model.eth.h_dest[1],
		   &model.eth.h_dest[2], &model.eth.h_dest[3], &model.eth.h_dest[4], &model.eth.h_dest[5]) != 6) {
		errno = EINVAL;
		die(argv[1]);
	}
	model.ip.check = fold(sum((uint8_t *)&model + ETH_HLEN, 20, 0));
	uint32_t constant = sum((uint8_t *)&model + ETH_HLEN + 12, 8, htons(IPPROTO_UDP));
	constant = sum((uint8_t *)&model + ETH_HLEN + 24, 2, constant + model.udp.len);
	model.udp.check = (uint16_t)~fold(sum(model.payload, PAYLOAD, constant));

	int program = writer((const uint8_t *)&model, sport, sports, dport, dports, verdict);
	memcpy(frame + PADDING, &model, FRAME_SIZE);
	int cycles = counter(PERF_COUNT_HW_CPU_CYCLES), instructions = counter(PERF_COUNT_HW_INSTRUCTIONS);
	unsigned long long c = reading(cycles), i = reading(instructions), packets = 0;
	double begin = now(), cpu = thread_seconds(), seconds = atof(argv[8]);

	do {
		union bpf_attr attr = { .test = {
						.prog_fd = (uint32_t)program,
						.data_in = (uintptr_t)frame,
						.data_size_in = sizeof(frame),
						.repeat = REPEAT,
						.ctx_in = (uintptr_t)&context,
						.ctx_size_in = sizeof(context),
						.flags = BPF_F_TEST_XDP_LIVE_FRAMES,
						.batch_size = BATCH,
					} };

		if (bpf(BPF_PROG_TEST_RUN, &attr, sizeof(attr.test)) < 0)
			die("BPF_PROG_TEST_RUN");
		packets += REPEAT;
	} while (now() - begin < seconds);
	printf("{\"packets\":%llu,\"cpu\":%.9f,\"seconds\":%.9f,\"cycles\":%llu,\"instructions\":%llu}\n", packets,
	       thread_seconds() - cpu, now() - begin, reading(cycles) - c, reading(instructions) - i);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 12 && !strcmp(argv[1], "flood"))
		return flood(argv + 2, XDP_PASS);
	if (argc == 12 && !strcmp(argv[1], "idle"))
		return flood(argv + 2, XDP_DROP);
	if (argc == 3 && !strcmp(argv[1], "drop"))
		return drop(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "redirect"))
		return redirect(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "wire"))
		return wire(argv[2], argv[3]);
	usage(0, 1, "flood|drop|redirect|wire DEVICE ...");
	return 2;
}
