/*
 * System calls that fail when a test says so: only in the build with FAULTS=1 (build/faults/masqd), never in another.
 *
 * The linker puts the functions below in the place of those of the C library (--wrap, see build.mk). While a function of
 * "masq:native" runs, each of its calls is noted, and fails with an errno if the test has asked for it: by a file that
 * both have mapped and that MASQD_FAULTS names. So a test arms a running daemon without a word, and reads what it calls.
 *
 * Works where a function's integer arguments and result are passed in registers whatever their types (x86-64, arm64).
 */
#include "shim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define NAME_BYTES 32
#define SEEN_MAX 256

/**
 * struct faults - what the test and the shim share
 * @function: function of "masq:native", as its C name is without "native_"
 * @call: the system call that is to fail in it
 * @error: errno that it fails with
 * @skip: how many of its calls go well before
 * @times: how many fail then; 0: none is to fail
 * @hits: how many have failed
 * @count: entries in @seen
 * @seen: what was called by what, and how often
 */
struct faults {
	char function[NAME_BYTES];
	char call[NAME_BYTES];
	volatile int32_t error, skip, times, hits, count;
	struct seen {
		char function[NAME_BYTES];
		char call[NAME_BYTES];
		uint32_t times;
	} seen[SEEN_MAX];
};

static struct faults *faults;
static const char *current;

/**
 * faults_enter() - a function of "masq:native" begins
 * @name: its C name
 *
 * Return: the one that it was called from, for faults_leave().
 */
const char *faults_enter(const char *name)
{
	const char *before = current;

	current = name + strlen("native_");
	return before;
}

/**
 * faults_leave() - it has ended
 */
void faults_leave(const char *before)
{
	current = before;
}

static void __attribute__((constructor)) map_faults(void)
{
	const char *path = getenv("MASQD_FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *pages;

	if (fd < 0)
		return;
	pages = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (pages != MAP_FAILED)
		faults = pages;
}

static void note(const char *call)
{
	for (int32_t i = 0; i < SEEN_MAX; i++) {
		struct seen *seen = &faults->seen[i];

		if (i == faults->count) {
			strncpy(seen->function, current, NAME_BYTES - 1);
			strncpy(seen->call, call, NAME_BYTES - 1);
			faults->count++;
		}
		if (!strcmp(seen->function, current) && !strcmp(seen->call, call)) {
			seen->times++;
			return;
		}
	}
}

/**
 * fails() - whether a system call is to fail, errno being set then
 */
static bool fails(const char *call)
{
	if (!faults || !current)
		return false;
	note(call);
	if (!faults->times || strcmp(faults->function, current) || strcmp(faults->call, call))
		return false;
	if (faults->skip > 0) {
		faults->skip--;
		return false;
	}
	faults->times--;
	faults->hits++;
	errno = faults->error;
	return true;
}

#define WRAP(name, failure)                                                      \
	long __real_##name(long, long, long, long, long, long);                  \
	long __wrap_##name(long a, long b, long c, long d, long e, long f);      \
	long __wrap_##name(long a, long b, long c, long d, long e, long f)       \
	{                                                                        \
		return fails(#name) ? failure : __real_##name(a, b, c, d, e, f); \
	}

/* build.mk has the same list. */
WRAP(accept4, -1)
WRAP(bind, -1)
WRAP(chmod, -1)
WRAP(clock_gettime, -1)
WRAP(connect, -1)
WRAP(fallocate, -1)
WRAP(flock, -1)
WRAP(fork, -1)
WRAP(fstat, -1)
WRAP(ftruncate, -1)
WRAP(getrandom, -1)
WRAP(getsockname, -1)
WRAP(getsockopt, -1)
WRAP(ioctl, -1)
WRAP(listen, -1)
WRAP(lstat, -1)
WRAP(madvise, -1)
WRAP(memfd_create, -1)
WRAP(mkdir, -1)
WRAP(mmap, -1)
WRAP(open, -1)
WRAP(opendir, 0)
WRAP(pipe2, -1)
WRAP(poll, -1)
WRAP(prctl, -1)
WRAP(read, -1)
WRAP(readlink, -1)
WRAP(readv, -1)
WRAP(recvmmsg, -1)
WRAP(recvmsg, -1)
WRAP(rename, -1)
WRAP(sched_getaffinity, -1)
WRAP(sched_setaffinity, -1)
WRAP(send, -1)
WRAP(sendto, -1)
WRAP(setsockopt, -1)
WRAP(signalfd, -1)
WRAP(socket, -1)
WRAP(stat, -1)
WRAP(syscall, -1)
WRAP(unlink, -1)
WRAP(write, -1)
WRAP(writev, -1)
