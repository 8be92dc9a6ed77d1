/*
 * Netlink sockets: datagrams to and from the kernel. What is in them is TypeScript's concern.
 */
#include "shim.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#define GROUPS_MAX 64
#define RECEIVE_BUFFER (1024 * 1024)

/**
 * native_netlink_open() - a netlink socket with its multicast groups
 */
NATIVE(native_netlink_open)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	int32_t protocol, groups[GROUPS_MAX];
	int size = RECEIVE_BUFFER, count, fd;
	JSValue error;

	if (argument_int(ctx, argv[0], "protocol", 0, 31, &protocol) < 0)
		return JS_EXCEPTION;
	count = argument_numbers(ctx, argv[1], "groups", 1, INT32_MAX, groups, GROUPS_MAX);
	if (count < 0)
		return JS_EXCEPTION;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		return throw_errno(ctx, errno, "socket", "AF_NETLINK, %d", protocol);
	/* Without the privilege for it, the system's own limit is what there is. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		error = throw_errno(ctx, errno, "bind", "AF_NETLINK, %d", protocol);
		close(fd);
		return error;
	}
	for (int i = 0; i < count; i++) {
		if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &groups[i], sizeof groups[i]) < 0) {
			error = throw_errno(ctx, errno, "setsockopt", "NETLINK_ADD_MEMBERSHIP, %d", groups[i]);
			close(fd);
			return error;
		}
	}
	return JS_NewInt32(ctx, fd);
}

/**
 * native_netlink_send() - messages to the kernel
 */
NATIVE(native_netlink_send)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	uint8_t *bytes;
	size_t count;
	ssize_t put;
	int32_t fd;

	if (argument_fd(ctx, argv[0], &fd) < 0 ||
	    argument_bytes(ctx, argv[1], JS_NewInt32(ctx, 0), argv[2], &bytes, &count) < 0)
		return JS_EXCEPTION;
	do
		put = sendto(fd, bytes, count, 0, (struct sockaddr *)&kernel, sizeof kernel);
	while (put < 0 && errno == EINTR);
	if (put < 0)
		return throw_errno(ctx, errno, "sendto", "%d", fd);
	return JS_UNDEFINED;
}

/**
 * native_netlink_receive() - one datagram from the kernel, 0 if there is none
 *
 * A datagram that does not fit the buffer is lost: EMSGSIZE.
 */
NATIVE(native_netlink_receive)
{
	struct sockaddr_nl sender;
	struct iovec vector;
	struct msghdr message = { .msg_name = &sender, .msg_iov = &vector, .msg_iovlen = 1 };
	ssize_t got;
	int32_t fd;

	if (argument_fd(ctx, argv[0], &fd) < 0)
		return JS_EXCEPTION;
	vector.iov_base = JS_GetArrayBuffer(ctx, &vector.iov_len, argv[1]);
	if (!vector.iov_base)
		return JS_EXCEPTION;
	do {
		message.msg_namelen = sizeof sender;
		got = recvmsg(fd, &message, MSG_DONTWAIT);
	} while (got < 0 ? errno == EINTR : message.msg_namelen != sizeof sender || sender.nl_pid != 0);
	if (got < 0 && errno == EAGAIN)
		return JS_NewInt32(ctx, 0);
	if (got < 0 || message.msg_flags & MSG_TRUNC)
		return throw_errno(ctx, got < 0 ? errno : EMSGSIZE, "recvmsg", "%d", fd);
	return JS_NewInt32(ctx, (int32_t)got);
}
