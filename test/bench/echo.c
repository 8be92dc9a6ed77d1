/*
 * echo: the server of the latency and connection measurements. One process, epoll, no thread.
 *
 *   TCP and UDP port PORT        sends back what comes, for as long as the client likes
 *   UDP port PORT + 1            the same (a second peer for each source port)
 *   TCP ports PORT + 10 ... + 25 sends back the first byte and closes, so that TIME_WAIT is the server's
 *   UDP ports PORT + 5000 ...     the same, if DATAGRAM-PORTS says how many
 *
 * A UDP packet whose first byte is 'x' is taken and not answered.
 */
#include "tool.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define CLOSING_FIRST 10
#define CLOSING_COUNT 16
#define DATAGRAM_FIRST 5000
#define EVENTS 64

enum kind { LISTENER, LISTENER_CLOSING, DATAGRAM, STREAM, STREAM_CLOSING };

static int poller;

static void watch(int fd, enum kind kind)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | (uint32_t)fd };

	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
}

static void open_port(int port, int type, enum kind kind)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1, buffer = 1 << 24;

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (type == SOCK_DGRAM)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)))
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 4096))
		die("listen");
	watch(fd, kind);
}

static void take_connections(int fd, enum kind kind)
{
	int connection, one = 1;

	while ((connection = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		watch(connection, kind == LISTENER ? STREAM : STREAM_CLOSING);
	}
}

static void answer_datagrams(int fd)
{
	char data[2048];
	struct sockaddr_in from;

	for (int i = 0; i < EVENTS; i++) {
		socklen_t length = sizeof(from);
		ssize_t n = recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&from, &length);

		if (n < 0)
			return;
		if (n > 0 && data[0] == 'x')
			continue;
		sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&from, length);
	}
}

static void answer_stream(int fd, enum kind kind)
{
	char data[2048];
	ssize_t n = recv(fd, data, sizeof(data), 0);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0 && send(fd, data, (size_t)n, MSG_NOSIGNAL) == n && kind == STREAM)
		return;
	close(fd);
}

int main(int argc, char **argv)
{
	usage(argc, 2, "PORT CPU [DATAGRAM-PORTS]");
	int datagram_ports = argc > 3 ? atoi(argv[3]) : 0;
	struct rlimit files = { 8192, 8192 };
	int port = atoi(argv[1]);
	struct epoll_event events[EVENTS];

	stay_on(atoi(argv[2]));
	poller = epoll_create1(0);
	open_port(port, SOCK_STREAM, LISTENER);
	open_port(port, SOCK_DGRAM, DATAGRAM);
	open_port(port + 1, SOCK_DGRAM, DATAGRAM);
	for (int i = 0; i < CLOSING_COUNT; i++)
		open_port(port + CLOSING_FIRST + i, SOCK_STREAM, LISTENER_CLOSING);
	if (datagram_ports && setrlimit(RLIMIT_NOFILE, &files))
		die("setrlimit");
	for (int i = 0; i < datagram_ports; i++)
		open_port(port + DATAGRAM_FIRST + i, SOCK_DGRAM, DATAGRAM);
	ready();
	for (;;) {
		int n = epoll_wait(poller, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int fd = (int)(uint32_t)events[i].data.u64;
			enum kind kind = (enum kind)(events[i].data.u64 >> 32);

			if (kind == LISTENER || kind == LISTENER_CLOSING)
				take_connections(fd, kind);
			else if (kind == DATAGRAM)
				answer_datagrams(fd);
			else
				answer_stream(fd, kind);
		}
	}
}
