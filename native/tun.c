/*
 * TUN devices, with the same slots as packet sockets. The driver takes one packet a call, so the batch is a loop here.
 */
#include "shim.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Newer than the kernel headers of the older toolchains. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define OFFLOAD (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
#define OFFLOAD_UDP (TUN_F_USO4 | TUN_F_USO6)

/**
 * native_tun_open() - create a TUN device
 */
NATIVE(native_tun_open)
{
	const char *name = argument_string(ctx, argv[0], "name");
	struct ifreq request = { 0 };
	const char *call = NULL;
	JSValue result;
	int fd;

	if (!name)
		return JS_EXCEPTION;
	if (!*name || strlen(name) >= sizeof request.ifr_name) {
		JS_FreeCString(ctx, name);
		return JS_ThrowRangeError(ctx, "name: not 1 to %d bytes", (int)sizeof request.ifr_name - 1);
	}
	memcpy(request.ifr_name, name, strlen(name));
	request.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		call = "open /dev/net/tun";
	else if (ioctl(fd, TUNSETIFF, &request) < 0)
		call = "ioctl TUNSETIFF";
	else if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)(OFFLOAD | OFFLOAD_UDP)) < 0 &&
		 ioctl(fd, TUNSETOFFLOAD, (unsigned long)OFFLOAD) < 0)
		call = "ioctl TUNSETOFFLOAD";
	if (call) {
		result = throw_errno(ctx, errno, call, "%s", name);
		if (fd >= 0)
			close(fd);
	} else {
		result = JS_NewInt32(ctx, fd);
	}
	JS_FreeCString(ctx, name);
	return result;
}

/**
 * native_tun_receive() - receive a batch of packets
 */
NATIVE(native_tun_receive)
{
	int32_t fd, first, most, count = 0, *rx = frames.rx;

	if (argument_fd(ctx, argv[0], &fd) < 0 || argument_slots(ctx, argv[1], argv[2], &first, &most) < 0)
		return JS_EXCEPTION;
	while (count < most) {
		ssize_t got = readv(fd, &frames.vectors[2 * (first + count)], 2);

		if (got < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || count)
				break;
			return throw_errno(ctx, errno, "readv", "%d", fd);
		}
		rx[2 * count] = (first + count) * frames.slot_size;
		rx[2 * count + 1] = got > VNET_SIZE ? (int32_t)got - VNET_SIZE : 0;
		count++;
	}
	return JS_NewInt32(ctx, count);
}

/**
 * native_tun_send() - send a batch of packets
 */
NATIVE(native_tun_send)
{
	int32_t fd, count, *pairs, sent = 0;

	if (argument_fd(ctx, argv[0], &fd) < 0 || argument_pairs(ctx, argv[1], argv[2], argv[3], &pairs, &count) < 0)
		return JS_EXCEPTION;
	send_errno = 0;
	while (sent < count && !send_errno) {
		const int32_t *pair = pairs + 2 * sent;
		uint8_t *slot = frames.base + pair[0];
		struct iovec vectors[2] = { { slot + SLOT_VNET, VNET_SIZE },
					    { slot + SLOT_IP, (size_t)pair[1] & LENGTH_MASK } };

		if (writev(fd, vectors, 2) >= 0)
			sent++;
		else if (errno != EINTR)
			send_errno = errno;
	}
	return JS_NewInt32(ctx, sent);
}
