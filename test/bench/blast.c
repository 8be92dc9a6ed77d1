/*
 * blast: sends UDP packets of 64 bytes (60 and the frame check sequence) as Ethernet frames through a packet socket.
 *
 * Flow i of sports x dports has source port SPORT + i % sports and destination port DPORT + i / sports; the flows take
 * turns packet by packet. Only the two ports and the checksum of a frame change, so the sender costs the same with one
 * flow and with millions ("new flows" is simply more flows than will ever be sent).
 *
 * RATE 0 sends as fast as the path takes the packets. Else bursts of RATE/4000 packets (1 to 64) start on a fixed
 * schedule and the sender sleeps between them, so its own CPU time is the same whatever the router is.
 */
#include "tool.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define BATCH 64
#define PAYLOAD 18

struct frame {
	struct ether_header eth;
	struct iphdr ip;
	struct udphdr udp;
	uint8_t payload[PAYLOAD];
} __attribute__((packed));

_Static_assert(sizeof(struct frame) == 60, "a 64-byte packet without its frame check sequence");

/** sum() - ones-complement sum of 16-bit words in memory order; @length is even. */
static uint32_t sum(const void *data, size_t length, uint32_t total)
{
	uint16_t word;

	for (size_t i = 0; i < length; i += 2) {
		memcpy(&word, (const uint8_t *)data + i, 2);
		total += word;
	}
	return total;
}

static uint16_t fold(uint32_t total)
{
	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}

/** cpu_time() - CPU seconds that this process has had, user and kernel, with the softirqs that ran in its context. */
static double cpu_time(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	usage(argc, 12,
	      "DEVICE MAC SOURCE DESTINATION SPORT SPORTS DPORT DPORTS RATE SECONDS PACKETS CPU [PAYLOAD]\n"
	      "  PACKETS 0: until SECONDS are over; PAYLOAD: first byte of the data, default x");
	const char *device = argv[1];
	uint32_t sport = (uint32_t)atoi(argv[5]), sports = (uint32_t)atoi(argv[6]);
	uint32_t dport = (uint32_t)atoi(argv[7]), dports = (uint32_t)atoi(argv[8]);
	double rate = atof(argv[9]), seconds = atof(argv[10]);
	uint64_t packets = strtoull(argv[11], NULL, 10);

	stay_on(atoi(argv[12]));

	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0)
		die("socket");
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(device) };
	if (!to.sll_ifindex || bind(fd, (struct sockaddr *)&to, sizeof(to)))
		die(device);
	int buffer = 1 << 22;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));

	struct frame model = {
		.eth.ether_type = htons(ETHERTYPE_IP),
		.ip = { .version = 4,
			.ihl = 5,
			.tot_len = htons(46),
			.frag_off = htons(IP_DF),
			.ttl = 64,
			.protocol = IPPROTO_UDP,
			.saddr = address(argv[3]),
			.daddr = address(argv[4]) },
		.udp.len = htons(8 + PAYLOAD),
		.payload = { argc > 13 ? (uint8_t)argv[13][0] : 'x' },
	};
	if (sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &model.eth.ether_dhost[0], &model.eth.ether_dhost[1],
		   &model.eth.ether_dhost[2], &model.eth.ether_dhost[3], &model.eth.ether_dhost[4],
		   &model.eth.ether_dhost[5]) != 6) {
		errno = EINVAL;
		die(argv[2]);
	}
	struct ifreq hardware = { 0 };
	strncpy(hardware.ifr_name, device, IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFHWADDR, &hardware))
		die(device);
	memcpy(model.eth.ether_shost, hardware.ifr_hwaddr.sa_data, ETHER_ADDR_LEN);
	model.ip.check = fold(sum(&model.ip, sizeof(model.ip), 0));
	uint32_t constant = sum(&model.ip.saddr, 8, htons(IPPROTO_UDP));
	constant = sum(&model.udp.len, 2, constant + model.udp.len);
	constant = sum(model.payload, PAYLOAD, constant);

	static struct frame frames[BATCH];
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec vectors[BATCH];
	for (int i = 0; i < BATCH; i++) {
		frames[i] = model;
		vectors[i] = (struct iovec){ &frames[i], sizeof(frames[i]) };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &vectors[i], .msg_iovlen = 1 };
	}

	uint32_t burst = rate == 0	       ? BATCH
			 : rate / 4000 < 1     ? 1
			 : rate / 4000 > BATCH ? BATCH
					       : (uint32_t)(rate / 4000);
	uint32_t s = 0, d = 0;
	uint64_t offered = 0, refused = 0;
	double cpu = cpu_time(), begin = now(), end = begin;

	while (packets ? offered < packets : end - begin < seconds) {
		uint32_t n = packets && packets - offered < burst ? (uint32_t)(packets - offered) : burst;

		for (uint32_t i = 0; i < n; i++) {
			struct frame *frame = &frames[i];

			frame->udp.source = htons((uint16_t)(sport + s));
			frame->udp.dest = htons((uint16_t)(dport + d));
			frame->udp.check = fold(constant + frame->udp.source + frame->udp.dest);
			if (!frame->udp.check)
				frame->udp.check = 0xffff;
			if (++s == sports) {
				s = 0;
				if (++d == dports)
					d = 0;
			}
		}
		for (uint32_t at = 0; at < n;) {
			int sent = sendmmsg(fd, messages + at, n - at, 0);

			if (sent > 0) {
				at += (uint32_t)sent;
			} else if (errno == ENOBUFS || errno == EAGAIN || errno == EINTR) {
				refused++;
				at++;
			} else {
				die("sendmmsg");
			}
		}
		offered += n;
		end = now();
		if (rate > 0) {
			double due = begin + (double)offered / rate;

			if (due > end) {
				struct timespec t = { (time_t)due, (long)((due - (double)(time_t)due) * 1e9) };

				while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
					;
				end = now();
			}
		}
	}
	printf("{\"offered\":%llu,\"refused\":%llu,\"seconds\":%.6f,\"end\":%.6f,\"cpu\":%.6f}\n",
	       (unsigned long long)offered, (unsigned long long)refused, end - begin, end, cpu_time() - cpu);
	return 0;
}
