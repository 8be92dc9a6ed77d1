/*
 * first-reply: pings every 5 ms until the first reply and prints when it came, in seconds of CLOCK_MONOTONIC.
 * A send that fails (no route yet, no device yet) is simply tried again. Every tenth has another identifier: nftables counts
 * what goes by before its rules are in place as a flow that is not translated, and so for as long as it lasts.
 */
#include "tool.h"
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>

#define INTERVAL_MS 5
#define SAME_ID 10

int main(int argc, char **argv)
{
	usage(argc, 2, "ADDRESS SECONDS");
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = address(argv[1]) };
	double begin = now(), patience = atof(argv[2]);
	struct icmphdr request = { .type = ICMP_ECHO };
	uint16_t first = (uint16_t)getpid();
	uint16_t sequence = 0;
	int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_ICMP);

	if (fd < 0)
		die("socket");
	ready();
	while (now() - begin < patience) {
		struct pollfd wait = { fd, POLLIN, 0 };
		uint8_t packet[1500];
		ssize_t n;

		request.un.echo.id = htons((uint16_t)(first + sequence / SAME_ID));
		request.un.echo.sequence = htons(sequence++);
		request.checksum = 0;
		uint32_t total = request.type + (uint32_t)request.un.echo.id + request.un.echo.sequence;
		total = (total & 0xffff) + (total >> 16);
		request.checksum = (uint16_t) ~((total & 0xffff) + (total >> 16));
		sendto(fd, &request, sizeof(request), 0, (struct sockaddr *)&to, sizeof(to));
		poll(&wait, 1, INTERVAL_MS);
		while ((n = recv(fd, packet, sizeof(packet), 0)) > 0) {
			const struct iphdr *ip = (const struct iphdr *)packet;
			const struct icmphdr *icmp = (const struct icmphdr *)(packet + ip->ihl * 4);

			if (n < ip->ihl * 4 + (ssize_t)sizeof(*icmp) || icmp->type != ICMP_ECHOREPLY ||
			    ip->saddr != to.sin_addr.s_addr ||
			    (uint16_t)(ntohs(icmp->un.echo.id) - first) > sequence / SAME_ID)
				continue;
			printf("{\"at\":%.6f,\"tries\":%u}\n", now(), sequence);
			return 0;
		}
	}
	errno = ETIMEDOUT;
	die("no reply");
}
