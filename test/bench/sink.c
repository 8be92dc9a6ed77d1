/*
 * sink: a UDP server that counts without reading, on PORTS ports from PORT.
 *
 * Each socket has a filter that discards every packet whose source is the expected one. The kernel verifies the UDP
 * checksum before it runs a socket's filter and counts what the filter discards in the socket's drop counter, so that
 * counter is the number of correct packets, with no process woken and nothing copied. A packet from any other source
 * passes the filter and is counted as wrong: it was not translated, or wrongly. A packet whose first byte is 'w' is sent back: it makes an answered flow of its ports, and
 * is counted apart.
 *
 * Every line on stdin is answered by the three counts since the start and the time of CLOCK_MONOTONIC.
 */
#include "tool.h"
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

#define IP_SOURCE_OFFSET 12
#define PAYLOAD_OFFSET 28
#define PORTS_MAX 16

static int open_port(int port, uint32_t source)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + IP_SOURCE_OFFSET),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(source), 0, 3),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF + PAYLOAD_OFFSET),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'w', 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffff),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), buffer = 1 << 24;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
		die("SO_ATTACH_FILTER");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)))
		die("bind");
	return fd;
}

int main(int argc, char **argv)
{
	usage(argc, 3, "PORT EXPECTED-SOURCE PORTS");
	uint32_t source = address(argv[2]);
	int ports = atoi(argv[3]);
	struct pollfd set[PORTS_MAX + 1] = { { .fd = 0, .events = POLLIN } };
	unsigned long long wrong = 0, answered = 0, good;
	char line[64];

	if (ports < 1 || ports > PORTS_MAX) {
		errno = EINVAL;
		die("PORTS");
	}
	for (int i = 0; i < ports; i++)
		set[i + 1] = (struct pollfd){ .fd = open_port(atoi(argv[1]) + i, source), .events = POLLIN };
	setvbuf(stdin, NULL, _IONBF, 0);
	ready();
	for (;;) {
		if (poll(set, (nfds_t)ports + 1, -1) < 0)
			die("poll");
		for (int i = 1; i <= ports; i++) {
			struct sockaddr_in peer;
			socklen_t length = sizeof(peer);
			char data[64];
			ssize_t got;

			while ((got = recvfrom(set[i].fd, data, sizeof(data), 0, (struct sockaddr *)&peer, &length)) >=
			       0) {
				if (peer.sin_addr.s_addr != source) {
					wrong++;
					continue;
				}
				sendto(set[i].fd, data, (size_t)got, 0, (struct sockaddr *)&peer, length);
				answered++;
			}
		}
		if (!set[0].revents)
			continue;
		if (!fgets(line, sizeof(line), stdin))
			return 0;
		good = 0;
		for (int i = 1; i <= ports; i++) {
			uint32_t memory[SK_MEMINFO_VARS] = { 0 };
			socklen_t length = sizeof(memory);

			if (getsockopt(set[i].fd, SOL_SOCKET, SO_MEMINFO, memory, &length))
				die("SO_MEMINFO");
			good += memory[SK_MEMINFO_DROPS];
		}
		printf("{\"good\":%llu,\"wrong\":%llu,\"answered\":%llu,\"at\":%.6f}\n", good, wrong, answered, now());
		fflush(stdout);
	}
}
