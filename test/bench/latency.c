/*
 * latency: one byte there, one byte back, the next only then; percentiles of the round-trip time in microseconds.
 * An answer that does not come within 200 ms is counted as lost; it fails the measurement only in TCP.
 */
#include "tool.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define MOST 4000000

int main(int argc, char **argv)
{
	usage(argc, 5, "tcp|udp ADDRESS PORT SECONDS CPU");
	int tcp = !strcmp(argv[1], "tcp"), one = 1;
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)atoi(argv[3])),
				  .sin_addr.s_addr = address(argv[2]) };
	struct timeval patience = { .tv_usec = 200000 };
	double seconds = atof(argv[4]);
	float *times = malloc(MOST * sizeof(*times));
	int fd = socket(AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
	int n = 0, lost = 0;
	char byte = 'e';

	stay_on(atoi(argv[5]));
	if (fd < 0 || !times)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (tcp) {
		struct timeval longer = { .tv_sec = 2 };

		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &longer, sizeof(longer));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die("connect");

	double begin = now(), before, after = begin;
	while (after - begin < seconds && n < MOST) {
		before = after;
		if (send(fd, &byte, 1, 0) != 1)
			die("send");
		ssize_t got = recv(fd, &byte, 1, 0);
		after = now();
		if (got == 1) {
			times[n++] = (float)((after - before) * 1e6);
		} else if (got < 0 && (errno == EAGAIN || errno == EINTR) && !tcp) {
			lost++;
		} else {
			if (got == 0)
				errno = ECONNRESET;
			die("recv");
		}
	}
	if (!n) {
		errno = ETIMEDOUT;
		die("no answer");
	}
	qsort(times, (size_t)n, sizeof(*times), ascending);
	printf("{\"p50\":%.1f,\"p99\":%.1f,\"count\":%d,\"lost\":%d}\n", times[n / 2], times[(int)(n * 0.99)], n, lost);
	return 0;
}
