/*
 * relay: hands IPv4 frames from one device to the other and back, translating nothing: what the packet driver's way costs without masqd.
 *
 * The same sockets, options, slots and batches as masqd's packet driver (native/packet.c, src/port/driver.ts), one thread, and
 * per frame one compare and a copied link header. No program of this kind can carry more on the machine that runs it.
 */
#include "tool.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BATCH 64
#define BATCH_LARGE 16
#define LARGE (32 * 1024)
#define SLOT_SIZE 65664
#define VNET_SIZE 10

struct port {
	int fd;
	uint32_t own;
	int size;
	uint8_t header[ETH_HLEN];
};

static uint8_t *slots;
static struct iovec vectors[BATCH];
static struct mmsghdr messages[BATCH];

static void set(int fd, int level, int option, int value, const char *name)
{
	if (setsockopt(fd, level, option, &value, sizeof(value)))
		die(name);
}

/** port_open() - a socket on @device; frames sent there go to the Ethernet address @next. @own is the router's address. */
static struct port port_open(const char *device, const char *next, const char *own)
{
	struct port port = { .own = address(own), .size = BATCH_LARGE };
	struct sockaddr_ll here = { .sll_family = AF_PACKET,
				    .sll_protocol = htons(ETH_P_IP),
				    .sll_ifindex = (int)if_nametoindex(device) };
	struct ifreq hardware = { 0 };
	uint8_t *mac = port.header;

	port.fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
	if (port.fd < 0)
		die("socket");
	set(port.fd, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR");
	set(port.fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING");
	set(port.fd, SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20, "SO_RCVBUFFORCE");
	set(port.fd, SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20, "SO_SNDBUFFORCE");
	if (!here.sll_ifindex || bind(port.fd, (struct sockaddr *)&here, sizeof(here)))
		die(device);
	if (sscanf(next, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) != 6) {
		errno = EINVAL;
		die(next);
	}
	strncpy(hardware.ifr_name, device, IFNAMSIZ - 1);
	if (ioctl(port.fd, SIOCGIFHWADDR, &hardware))
		die(device);
	memcpy(mac + ETH_ALEN, hardware.ifr_hwaddr.sa_data, ETH_ALEN);
	mac[12] = ETHERTYPE_IP >> 8;
	mac[13] = ETHERTYPE_IP & 0xff;
	return port;
}

/** carry() - one batch from @from to @to. Returns the number of frames. */
static int carry(struct port *from, struct port *to)
{
	int got, kept = 0, done = 0;
	size_t bytes = 0;

	for (int i = 0; i < from->size; i++)
		vectors[i] = (struct iovec){ slots + (size_t)i * SLOT_SIZE, SLOT_SIZE };
	got = recvmmsg(from->fd, messages, (unsigned int)from->size, MSG_DONTWAIT, NULL);
	if (got <= 0)
		return 0;
	for (int i = 0; i < got; i++) {
		uint8_t *slot = slots + (size_t)i * SLOT_SIZE;
		uint32_t destination;

		if (i < BATCH_LARGE)
			bytes += messages[i].msg_len;
		memcpy(&destination, slot + VNET_SIZE + ETH_HLEN + 16, sizeof(destination));
		if (messages[i].msg_len < VNET_SIZE + ETH_HLEN + 20 || destination == from->own)
			continue;
		memcpy(slot + VNET_SIZE, to->header, ETH_HLEN);
		vectors[kept++] = (struct iovec){ slot, messages[i].msg_len };
	}
	if (got >= BATCH_LARGE)
		from->size = bytes > LARGE ? BATCH_LARGE : BATCH;
	while (done < kept) {
		int put = sendmmsg(to->fd, messages + done, (unsigned int)(kept - done), MSG_DONTWAIT);

		if (put < 0 && (errno == EAGAIN || errno == ENOBUFS))
			break;
		done += put > 0 ? put : 1;
	}
	return got;
}

static void end(int number __attribute__((unused)))
{
	_exit(0);
}

int main(int argc, char **argv)
{
	usage(argc, 6, "LAN CLIENT-MAC LAN-ADDRESS WAN SERVER-MAC WAN-ADDRESS");
	struct port lan = port_open(argv[1], argv[2], argv[3]), wan = port_open(argv[4], argv[5], argv[6]);

	slots = mmap(NULL, (size_t)BATCH * SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED)
		die("mmap");
	for (int i = 0; i < BATCH; i++)
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &vectors[i], .msg_iovlen = 1 };
	signal(SIGTERM, end);
	ready();
	for (int empty = 0;;) {
		int moved = carry(&wan, &lan) + carry(&lan, &wan);

		empty = moved ? 0 : empty + 1;
		if (empty > 1) {
			struct pollfd set[] = { { lan.fd, POLLIN, 0 }, { wan.fd, POLLIN, 0 } };

			poll(set, 2, -1);
		}
	}
}
