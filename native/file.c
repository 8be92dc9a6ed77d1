/*
 * Files, mappings of files, and the bytes and text that go in and out of descriptors.
 */
#include "shim.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (16 * 1024 * 1024)
#define READ_STEP 16384
#define MODE_MAX 07777

/**
 * throw_path() - throw the errno of a call on a path, and let go of the path
 */
static JSValue throw_path(JSContext *ctx, const char *call, const char *path)
{
	JSValue error = throw_errno(ctx, errno, call, "%s", path);

	JS_FreeCString(ctx, path);
	return error;
}

/**
 * write_all() - write every byte, waiting where a non-blocking descriptor is full
 *
 * Return: 0, or -1 with errno set.
 */
static int write_all(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t put = write(fd, bytes, length);

		if (put >= 0) {
			bytes += put;
			length -= (size_t)put;
		} else if (errno == EAGAIN) {
			struct pollfd full = { fd, POLLOUT, 0 };

			poll(&full, 1, -1);
		} else if (errno != EINTR) {
			return -1;
		}
	}
	return 0;
}

/**
 * read_all() - the whole of a file, whatever size it claims to have
 * @length: bytes read
 *
 * Return: the bytes, for js_free(); NULL with errno set.
 */
static uint8_t *read_all(JSContext *ctx, int fd, size_t *length)
{
	JSRuntime *runtime = JS_GetRuntime(ctx);
	uint8_t *bytes = NULL;
	size_t capacity = 0;

	*length = 0;
	for (;;) {
		ssize_t got;

		if (capacity - *length < READ_STEP) {
			uint8_t *more = js_realloc_rt(runtime, bytes, capacity * 2 + READ_STEP);

			if (!more) {
				errno = ENOMEM;
				break;
			}
			bytes = more;
			capacity = capacity * 2 + READ_STEP;
		}
		got = read(fd, bytes + *length, capacity - *length);
		if (got == 0)
			return bytes;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			break;
		*length += (size_t)got;
		if (*length > FILE_MAX) {
			errno = EFBIG;
			break;
		}
	}
	js_free_rt(runtime, bytes);
	return NULL;
}

/**
 * native_read_file() - whole file as text
 */
NATIVE(native_read_file)
{
	const char *path = argument_string(ctx, argv[0], "path");
	uint8_t *bytes;
	JSValue text;
	size_t length;
	int fd;

	if (!path)
		return JS_EXCEPTION;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return throw_path(ctx, "open", path);
	bytes = read_all(ctx, fd, &length);
	if (!bytes) {
		text = throw_path(ctx, "read", path);
		close(fd);
		return text;
	}
	close(fd);
	JS_FreeCString(ctx, path);
	text = text_decode(ctx, bytes, length);
	js_free(ctx, bytes);
	return text;
}

/**
 * native_write_file() - create or replace a file's content
 */
NATIVE(native_write_file)
{
	const char *path;
	char *text;
	size_t length;
	int32_t mode;
	int fd, result;

	if (argument_int(ctx, argv[2], "mode", 0, MODE_MAX, &mode) < 0)
		return JS_EXCEPTION;
	path = argument_string(ctx, argv[0], "path");
	if (!path)
		return JS_EXCEPTION;
	text = text_encode(ctx, argv[1], &length);
	if (!text) {
		JS_FreeCString(ctx, path);
		return JS_EXCEPTION;
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, (mode_t)mode);
	if (fd < 0) {
		js_free(ctx, text);
		return throw_path(ctx, "open", path);
	}
	result = write_all(fd, text, length);
	js_free(ctx, text);
	if (result < 0) {
		JSValue error = throw_path(ctx, "write", path);

		close(fd);
		return error;
	}
	if (close(fd) < 0 && errno != EINTR)
		return throw_path(ctx, "close", path);
	JS_FreeCString(ctx, path);
	return JS_UNDEFINED;
}

/**
 * native_create_file() - an empty file of one's own, open for writing
 *
 * Nothing of another's is emptied or written to: no link is followed, and a file that is there already must be a plain one of the
 * caller's with no other name.
 */
NATIVE(native_create_file)
{
	const char *path;
	struct stat status;
	int32_t mode;
	int fd;

	if (argument_int(ctx, argv[1], "mode", 0, MODE_MAX, &mode) < 0)
		return JS_EXCEPTION;
	path = argument_string(ctx, argv[0], "path");
	if (!path)
		return JS_EXCEPTION;
	fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, (mode_t)mode);
	if (fd < 0)
		return throw_path(ctx, "open", path);
	if (fstat(fd, &status) == 0) {
		errno = EPERM;
		if (S_ISREG(status.st_mode) && status.st_uid == geteuid() && status.st_nlink == 1 &&
		    fchmod(fd, (mode_t)mode) == 0 && ftruncate(fd, 0) == 0) {
			JS_FreeCString(ctx, path);
			return JS_NewInt32(ctx, fd);
		}
	}
	{
		JSValue error = throw_path(ctx, "create", path);

		close(fd);
		return error;
	}
}

/**
 * native_rename() - rename a file
 */
NATIVE(native_rename)
{
	const char *from = argument_string(ctx, argv[0], "from"), *to;
	JSValue result = JS_UNDEFINED;

	if (!from)
		return JS_EXCEPTION;
	to = argument_string(ctx, argv[1], "to");
	if (!to) {
		JS_FreeCString(ctx, from);
		return JS_EXCEPTION;
	}
	if (rename(from, to) < 0)
		result = throw_errno(ctx, errno, "rename", "%s, %s", from, to);
	JS_FreeCString(ctx, from);
	JS_FreeCString(ctx, to);
	return result;
}

/**
 * native_unlink() - remove a file
 */
NATIVE(native_unlink)
{
	const char *path = argument_string(ctx, argv[0], "path");

	if (!path)
		return JS_EXCEPTION;
	if (unlink(path) < 0)
		return throw_path(ctx, "unlink", path);
	JS_FreeCString(ctx, path);
	return JS_UNDEFINED;
}

/**
 * native_mkdir() - have a directory
 */
NATIVE(native_mkdir)
{
	const char *path;
	struct stat status;
	int32_t mode;

	if (argument_int(ctx, argv[1], "mode", 0, MODE_MAX, &mode) < 0)
		return JS_EXCEPTION;
	path = argument_string(ctx, argv[0], "path");
	if (!path)
		return JS_EXCEPTION;
	if (mkdir(path, (mode_t)mode) < 0) {
		int error = errno;

		if (error != EEXIST || stat(path, &status) < 0 || !S_ISDIR(status.st_mode)) {
			errno = error;
			return throw_path(ctx, "mkdir", path);
		}
	}
	JS_FreeCString(ctx, path);
	return JS_UNDEFINED;
}

/**
 * native_read_dir() - names in a directory
 */
NATIVE(native_read_dir)
{
	const char *path = argument_string(ctx, argv[0], "path");
	struct dirent *entry;
	uint32_t count = 0;
	JSValue names;
	DIR *directory;

	if (!path)
		return JS_EXCEPTION;
	directory = opendir(path);
	if (!directory)
		return throw_path(ctx, "opendir", path);
	names = JS_NewArray(ctx);
	while (!JS_IsException(names) && (errno = 0, entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		JS_SetPropertyUint32(ctx, names, count++,
				     text_decode(ctx, (uint8_t *)entry->d_name, strlen(entry->d_name)));
	}
	if (errno && !JS_IsException(names)) {
		JS_FreeValue(ctx, names);
		names = throw_errno(ctx, errno, "readdir", "%s", path);
	}
	closedir(directory);
	JS_FreeCString(ctx, path);
	return names;
}

/**
 * native_read_link() - target of a symbolic link
 */
NATIVE(native_read_link)
{
	const char *path = argument_string(ctx, argv[0], "path");
	uint8_t target[PATH_MAX];
	ssize_t length;

	if (!path)
		return JS_EXCEPTION;
	length = readlink(path, (char *)target, sizeof target);
	if (length < 0)
		return throw_path(ctx, "readlink", path);
	JS_FreeCString(ctx, path);
	return text_decode(ctx, target, (size_t)length);
}

/**
 * native_close() - close a descriptor
 */
NATIVE(native_close)
{
	int32_t fd;

	if (argument_fd(ctx, argv[0], &fd) < 0)
		return JS_EXCEPTION;
	/* Another error is one of what was written before. */
	if (fd >= 0 && close(fd) < 0 && errno == EBADF)
		return throw_errno(ctx, errno, "close", "%d", fd);
	return JS_UNDEFINED;
}

/**
 * native_lock_file() - hold an exclusive lock
 */
NATIVE(native_lock_file)
{
	const char *path = argument_string(ctx, argv[0], "path");
	int fd;

	if (!path)
		return JS_EXCEPTION;
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return throw_path(ctx, "open", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		JSValue error = throw_path(ctx, "flock", path);

		close(fd);
		return error;
	}
	JS_FreeCString(ctx, path);
	return JS_NewInt32(ctx, fd);
}

/* Files that are mapped; one more is not watched over. */
#define MAPPED_MAX 8

static struct mapped {
	uint8_t *pages;
	size_t size;
	int fd;
} mapped[MAPPED_MAX];

/**
 * bus_error() - a page of a mapped file is used that somebody has cut off
 *
 * What is left of the file is not what it was: all of it becomes zeros, in the file or, where that has no room, in memory. The use is tried
 * again then.
 */
static void bus_error(int number, siginfo_t *info, void *context __attribute__((unused)))
{
	uint8_t *used = info->si_addr;
	int error = errno;

	for (struct mapped *m = mapped; m < mapped + MAPPED_MAX; m++) {
		if (!m->pages || used < m->pages || used >= m->pages + m->size)
			continue;
		if ((ftruncate(m->fd, 0) == 0 && ftruncate(m->fd, (off_t)m->size) == 0 &&
		     (fallocate(m->fd, 0, 0, (off_t)m->size) == 0 || errno == EOPNOTSUPP)) ||
		    mmap(m->pages, m->size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
			    MAP_FAILED) {
			errno = error;
			return;
		}
	}
	signal(number, SIG_DFL);
}

/**
 * watch_over() - have a mapped file's loss stood for by zeros; takes the descriptor
 */
static void watch_over(uint8_t *pages, size_t size, int fd)
{
	struct sigaction action = { .sa_sigaction = bus_error, .sa_flags = SA_SIGINFO };

	for (struct mapped *m = mapped; m < mapped + MAPPED_MAX; m++) {
		if (m->pages)
			continue;
		*m = (struct mapped){ pages, size, fd };
		sigaction(SIGBUS, &action, NULL);
		return;
	}
	close(fd);
}

/**
 * unmap() - what becomes of a mapping whose buffer has been collected
 * @size: its bytes, in the place of a pointer
 */
static void unmap(JSRuntime *runtime __attribute__((unused)), void *size, void *pages)
{
	for (struct mapped *m = mapped; m < mapped + MAPPED_MAX; m++) {
		if (m->pages != pages)
			continue;
		m->pages = NULL;
		close(m->fd);
	}
	munmap(pages, (size_t)size);
}

/**
 * open_sized() - a file that is exactly so long, and has its room: a store to a page for which a full file system has none is a SIGBUS
 * @call: name of the call that failed
 *
 * Return: its descriptor, or -1 with errno set.
 */
static int open_sized(const char *path, off_t size, const char **call)
{
	struct stat status;
	int fd, error;

	*call = "open";
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	*call = "ftruncate";
	if (fstat(fd, &status) < 0 || (status.st_size != size && ftruncate(fd, size) < 0)) {
		error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	*call = "fallocate";
	if (fallocate(fd, 0, 0, size) < 0 && errno != EOPNOTSUPP) {
		error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

/**
 * native_map_file() - a file's bytes, or fresh pages, as an ArrayBuffer
 */
NATIVE(native_map_file)
{
	const char *path, *call = "mmap";
	JSValue result;
	int32_t size;
	void *pages;
	int fd = -1;

	if (argument_int(ctx, argv[1], "size", 1, INT32_MAX, &size) < 0)
		return JS_EXCEPTION;
	path = argument_string(ctx, argv[0], "path");
	if (!path)
		return JS_EXCEPTION;
	if (*path) {
		fd = open_sized(path, size, &call);
		if (fd < 0)
			return throw_path(ctx, call, path);
		call = "mmap";
	}
	pages = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd,
		     0);
	if (pages == MAP_FAILED) {
		result = throw_path(ctx, call, path);
		if (fd >= 0)
			close(fd);
		return result;
	}
	if (fd >= 0)
		watch_over(pages, (size_t)size, fd);
	JS_FreeCString(ctx, path);
	result = JS_NewArrayBuffer(ctx, pages, (size_t)size, unmap, (void *)(size_t)size, false);
	if (JS_IsException(result))
		unmap(JS_GetRuntime(ctx), (void *)(size_t)size, pages);
	return result;
}

/**
 * native_file_size() - size of a file, -1 if there is none
 */
NATIVE(native_file_size)
{
	const char *path = argument_string(ctx, argv[0], "path");
	struct stat status;

	if (!path)
		return JS_EXCEPTION;
	if (stat(path, &status) < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			return throw_path(ctx, "stat", path);
		status.st_size = -1;
	}
	JS_FreeCString(ctx, path);
	return JS_NewInt64(ctx, status.st_size);
}

/**
 * native_release_pages() - give whole pages of a buffer back to the kernel
 */
NATIVE(native_release_pages)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from, to;
	uint8_t *bytes;
	size_t count;

	if (argument_bytes(ctx, argv[0], argv[1], argv[2], &bytes, &count) < 0)
		return JS_EXCEPTION;
	from = ((uintptr_t)bytes + page - 1) & ~(page - 1);
	to = ((uintptr_t)bytes + count) & ~(page - 1);
	if (to > from && madvise((void *)from, to - from, MADV_DONTNEED) < 0)
		return throw_errno(ctx, errno, "madvise", "%zu", (size_t)(to - from));
	return JS_UNDEFINED;
}

/**
 * native_read() - read into a buffer
 */
NATIVE(native_read)
{
	uint8_t *bytes;
	size_t count;
	ssize_t got;
	int32_t fd;

	if (argument_fd(ctx, argv[0], &fd) < 0 || argument_bytes(ctx, argv[1], argv[2], argv[3], &bytes, &count) < 0)
		return JS_EXCEPTION;
	do
		got = read(fd, bytes, count);
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno != EAGAIN)
		return throw_errno(ctx, errno, "read", "%d", fd);
	return JS_NewInt32(ctx, (int32_t)got);
}

/**
 * native_open_writer() - a pipe or terminal, once more and non-blocking
 */
NATIVE(native_open_writer)
{
	const char *path = argument_string(ctx, argv[0], "path");
	int fd;

	if (!path)
		return JS_EXCEPTION;
	fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return throw_path(ctx, "open", path);
	JS_FreeCString(ctx, path);
	return JS_NewInt32(ctx, fd);
}

/**
 * native_write() - write from a buffer
 */
NATIVE(native_write)
{
	uint8_t *bytes;
	size_t count;
	ssize_t put;
	int32_t fd;

	if (argument_fd(ctx, argv[0], &fd) < 0 || argument_bytes(ctx, argv[1], argv[2], argv[3], &bytes, &count) < 0)
		return JS_EXCEPTION;
	do {
		put = send(fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (put < 0 && errno == ENOTSOCK)
			put = write(fd, bytes, count);
	} while (put < 0 && errno == EINTR);
	if (put < 0 && errno != EAGAIN)
		return throw_errno(ctx, errno, "write", "%d", fd);
	return JS_NewInt32(ctx, (int32_t)put);
}

/**
 * native_print() - write a whole text, waiting where that is needed
 */
NATIVE(native_print)
{
	size_t length;
	int32_t fd;
	char *text;
	int result;

	if (argument_fd(ctx, argv[0], &fd) < 0)
		return JS_EXCEPTION;
	text = text_encode(ctx, argv[1], &length);
	if (!text)
		return JS_EXCEPTION;
	result = write_all(fd, text, length);
	js_free(ctx, text);
	return result < 0 ? throw_errno(ctx, errno, "write", "%d", fd) : JS_UNDEFINED;
}

/**
 * native_encode() - text into a buffer
 */
NATIVE(native_encode)
{
	size_t size, length;
	uint8_t *base = JS_GetArrayBuffer(ctx, &size, argv[1]);
	int64_t offset;
	char *text;

	if (!base || argument_number(ctx, argv[2], "offset", 0, (int64_t)size, &offset) < 0)
		return JS_EXCEPTION;
	text = text_encode(ctx, argv[0], &length);
	if (!text)
		return JS_EXCEPTION;
	if (length > size - (size_t)offset) {
		js_free(ctx, text);
		return JS_ThrowRangeError(ctx, "text: %zu bytes do not fit in %zu", length, size - (size_t)offset);
	}
	memcpy(base + offset, text, length);
	js_free(ctx, text);
	return JS_NewInt32(ctx, (int32_t)length);
}

/**
 * native_decode() - text from a buffer
 */
NATIVE(native_decode)
{
	uint8_t *bytes;
	size_t count;

	if (argument_bytes(ctx, argv[0], argv[1], argv[2], &bytes, &count) < 0)
		return JS_EXCEPTION;
	return text_decode(ctx, bytes, count);
}
