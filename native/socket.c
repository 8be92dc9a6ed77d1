/*
 * poll and unix stream sockets.
 */
#include "shim.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

/**
 * native_poll() - wait for descriptors
 */
NATIVE(native_poll)
{
	struct pollfd set[POLL_MAX];
	int32_t *triples, count, timeout;
	size_t length;
	int ready;

	if (argument_words(ctx, argv[0], "set", &triples, &length) < 0 ||
	    argument_int(ctx, argv[1], "count", 0, length / 3 < POLL_MAX ? (int32_t)(length / 3) : POLL_MAX, &count) <
		    0 ||
	    argument_int(ctx, argv[2], "timeoutMs", INT32_MIN, INT32_MAX, &timeout) < 0)
		return JS_EXCEPTION;
	for (int32_t i = 0; i < count; i++) {
		set[i].fd = triples[3 * i];
		set[i].events = (short)triples[3 * i + 1];
		set[i].revents = 0;
	}
	ready = poll(set, (nfds_t)count, timeout < 0 ? -1 : timeout);
	if (ready < 0) {
		if (errno != EINTR)
			return throw_errno(ctx, errno, "poll", "%d", count);
		ready = 0;
		for (int32_t i = 0; i < count; i++)
			set[i].revents = 0;
	}
	for (int32_t i = 0; i < count; i++)
		triples[3 * i + 2] = set[i].revents;
	return JS_NewInt32(ctx, ready);
}

/**
 * unix_address() - the address of a path
 *
 * Return: 0, or -1 with errno set. An empty path would be a name that the kernel chooses.
 */
static int unix_address(const char *path, struct sockaddr_un *address)
{
	size_t length = strlen(path);

	if (length == 0 || length >= sizeof address->sun_path) {
		errno = length ? ENAMETOOLONG : ENOENT;
		return -1;
	}
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, length);
	return 0;
}

/**
 * listen_at() - a listening socket
 * @call: name of the call that failed
 *
 * The mode is right from the first moment, by umask; chmod() adds what umask cannot.
 *
 * Return: its descriptor, or -1 with errno set.
 */
static int listen_at(const struct sockaddr_un *address, mode_t mode, const char **call)
{
	const char *path = address->sun_path;
	struct stat status;
	mode_t mask;
	int fd, bound, error;

	*call = "unlink";
	if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) && unlink(path) < 0)
		return -1;
	*call = "socket";
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	mask = umask(~mode & 0777);
	bound = bind(fd, (const struct sockaddr *)address, sizeof *address);
	error = errno;
	umask(mask);
	errno = error;
	*call = "bind";
	if (bound == 0) {
		*call = "chmod";
		if (chmod(path, mode) == 0) {
			*call = "listen";
			if (listen(fd, BACKLOG) == 0)
				return fd;
		}
	}
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/**
 * native_unix_listen() - a listening unix socket
 */
NATIVE(native_unix_listen)
{
	struct sockaddr_un address;
	const char *path, *call = "bind";
	JSValue result;
	int32_t mode;
	int fd;

	if (argument_int(ctx, argv[1], "mode", 0, 07777, &mode) < 0)
		return JS_EXCEPTION;
	path = argument_string(ctx, argv[0], "path");
	if (!path)
		return JS_EXCEPTION;
	fd = unix_address(path, &address) < 0 ? -1 : listen_at(&address, (mode_t)mode, &call);
	result = fd < 0 ? throw_errno(ctx, errno, call, "%s", path) : JS_NewInt32(ctx, fd);
	JS_FreeCString(ctx, path);
	return result;
}

/**
 * native_unix_connect() - a connection to a unix socket
 */
NATIVE(native_unix_connect)
{
	const char *path = argument_string(ctx, argv[0], "path");
	struct sockaddr_un address;
	int fd = -1, connected = -1;
	JSValue result;

	if (!path)
		return JS_EXCEPTION;
	if (unix_address(path, &address) == 0) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0)
			connected = connect(fd, (struct sockaddr *)&address, sizeof address);
	}
	if (connected == 0) {
		result = JS_NewInt32(ctx, fd);
	} else {
		result = throw_errno(ctx, errno, "connect", "%s", path);
		if (fd >= 0)
			close(fd);
	}
	JS_FreeCString(ctx, path);
	return result;
}

/**
 * native_accept() - the next connection, -1 if there is none
 */
NATIVE(native_accept)
{
	int32_t fd;
	int peer;

	if (argument_fd(ctx, argv[0], &fd) < 0)
		return JS_EXCEPTION;
	do
		peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (peer < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (peer < 0 && errno != EAGAIN)
		return throw_errno(ctx, errno, "accept4", "%d", fd);
	return JS_NewInt32(ctx, peer);
}
