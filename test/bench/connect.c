/*
 * connect: how many TCP connections a second: connect, one byte there and back, closed by the server, 64 at a time.
 * The server's 16 closing ports take turns. A connection that is not done after 2 s is counted as an error.
 *
 *   connect ... exchange   UDP instead: one byte there and back from a socket of its own
 *   connect ... fan PORT   UDP instead, all from one source port: each of the server's ports is another destination of it, once
 */
#include "tool.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define SLOTS 64
#define MOST 1000000
#define PATIENCE 2.0

enum step { CONNECTING, WAITING, CLOSING };

struct connection {
	int fd;
	enum step step;
	double begin;
};

static int poller;
static struct sockaddr_in server;
static int first_port, ports, next_port;
/* 0: any. */
static int source_port, type = SOCK_STREAM;

static void begin(struct connection *c, uint32_t slot, double time)
{
	struct epoll_event event = { .events = EPOLLOUT, .data.u32 = slot };
	int one = 1;

	c->fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket");
	if (source_port) {
		struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)source_port) };

		setsockopt(c->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(c->fd, (struct sockaddr *)&here, sizeof(here)))
			die("bind");
	}
	c->step = CONNECTING;
	c->begin = time;
	if (type == SOCK_STREAM)
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	server.sin_port = htons((uint16_t)(first_port + next_port));
	next_port = (next_port + 1) % ports;
	if (connect(c->fd, (struct sockaddr *)&server, sizeof(server)) && errno != EINPROGRESS)
		die("connect");
	if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event))
		die("epoll_ctl");
}

/** advance() - 0: still going on, 1: done as it should be, -1: failed. */
static int advance(struct connection *c, uint32_t slot, uint32_t events)
{
	char byte = 'e';

	if (events & EPOLLERR)
		return -1;
	if (c->step == CONNECTING) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = slot };

		if (send(c->fd, &byte, 1, MSG_NOSIGNAL) != 1)
			return -1;
		c->step = WAITING;
		epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
		return 0;
	}
	for (;;) {
		ssize_t n = recv(c->fd, &byte, 1, 0);

		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		if (type == SOCK_DGRAM)
			return 1;
		if (n == 0)
			return c->step == CLOSING ? 1 : -1;
		c->step = CLOSING;
	}
}

int main(int argc, char **argv)
{
	usage(argc, 5, "ADDRESS FIRST-PORT PORTS SECONDS CPU [exchange | fan PORT]");
	double seconds = atof(argv[4]);
	struct connection connections[SLOTS];
	struct epoll_event events[SLOTS];
	float *times = malloc(MOST * sizeof(*times));
	int done = 0, failed = 0;

	server = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = address(argv[1]) };
	first_port = atoi(argv[2]);
	ports = atoi(argv[3]);
	if (argc > 6)
		type = SOCK_DGRAM;
	if (argc > 7)
		source_port = atoi(argv[7]);
	stay_on(atoi(argv[5]));
	poller = epoll_create1(0);
	if (poller < 0 || !times)
		die("epoll_create1");

	double start = now(), time = start;
	for (uint32_t i = 0; i < SLOTS; i++)
		begin(&connections[i], i, time);
	int most = source_port ? ports - SLOTS : MOST;

	while (time - start < seconds && done < most) {
		int n = epoll_wait(poller, events, SLOTS, 50);

		time = now();
		for (int i = 0; i < n; i++) {
			uint32_t slot = events[i].data.u32;
			struct connection *c = &connections[slot];
			int result = advance(c, slot, events[i].events);

			if (!result)
				continue;
			if (result > 0)
				times[done++] = (float)((time - c->begin) * 1e6);
			else
				failed++;
			close(c->fd);
			begin(c, slot, time);
		}
		for (uint32_t i = 0; n == 0 && i < SLOTS; i++) {
			if (time - connections[i].begin < PATIENCE)
				continue;
			failed++;
			close(connections[i].fd);
			begin(&connections[i], i, time);
		}
	}
	qsort(times, (size_t)done, sizeof(*times), ascending);
	printf("{\"rate\":%.1f,\"done\":%d,\"failed\":%d,\"p50\":%.1f,\"p99\":%.1f}\n", done / (time - start), done,
	       failed, done ? times[done / 2] : 0, done ? times[(int)(done * 0.99)] : 0);
	return 0;
}
