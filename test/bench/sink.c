/*
 * sink: counts UDP packets that arrive at one port, at the least cost to the machine that also has to carry the router.
 *
 * The socket has a filter that discards every packet whose source is the expected one. The kernel verifies the UDP
 * checksum before it runs a socket's filter and counts what the filter discards in the socket's drop counter, so that
 * counter is the number of correct packets, with no process woken and nothing copied. A packet from any other source
 * passes the filter, lies in the queue and is counted as wrong: it was not translated, or wrongly.
 *
 * Every line on stdin is answered by the two counts since the start and the time of CLOCK_MONOTONIC.
 */
#include "tool.h"
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

#define IP_SOURCE_OFFSET 12

int main(int argc, char **argv)
{
	usage(argc, 2, "PORT EXPECTED-SOURCE");
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + IP_SOURCE_OFFSET),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(address(argv[2])), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffff),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	unsigned long long wrong = 0;
	char line[64];

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		die("SO_ATTACH_FILTER");
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)))
		die("bind");
	ready();
	while (fgets(line, sizeof(line), stdin)) {
		uint32_t memory[SK_MEMINFO_VARS] = { 0 };
		socklen_t length = sizeof(memory);
		char byte;

		while (recv(fd, &byte, 1, 0) >= 0)
			wrong++;
		if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length))
			die("SO_MEMINFO");
		printf("{\"good\":%u,\"wrong\":%llu,\"at\":%.6f}\n", memory[SK_MEMINFO_DROPS], wrong, now());
		fflush(stdout);
	}
	return 0;
}
