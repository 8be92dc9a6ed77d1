/*
 * Time and randomness.
 */
#include "shim.h"

#include <sys/random.h>
#include <time.h>

/**
 * read_clock() - a clock's time
 * @unit: nanoseconds a unit of the result
 *
 * Return: the time as a number of TypeScript.
 */
static JSValue read_clock(JSContext *ctx, clockid_t clock, double unit)
{
	struct timespec time;

	if (clock_gettime(clock, &time) < 0)
		return throw_errno(ctx, errno, "clock_gettime", "%d", (int)clock);
	return JS_NewFloat64(ctx, (double)time.tv_sec * (1e9 / unit) + (double)time.tv_nsec / unit);
}

/**
 * native_now() - milliseconds since boot, time asleep included
 */
NATIVE(native_now)
{
	return read_clock(ctx, CLOCK_BOOTTIME, 1e6);
}

/**
 * native_nanoseconds() - the monotonic clock
 */
NATIVE(native_nanoseconds)
{
	return read_clock(ctx, CLOCK_MONOTONIC, 1);
}

/**
 * native_wall_clock() - milliseconds since 1970
 */
NATIVE(native_wall_clock)
{
	return read_clock(ctx, CLOCK_REALTIME, 1e6);
}

/**
 * native_cpu_nanoseconds() - processor time of this process
 */
NATIVE(native_cpu_nanoseconds)
{
	return read_clock(ctx, CLOCK_PROCESS_CPUTIME_ID, 1);
}

/**
 * native_random() - fill a range of a buffer with random bytes
 */
NATIVE(native_random)
{
	uint8_t *bytes;
	size_t count;

	if (argument_bytes(ctx, argv[0], argv[1], argv[2], &bytes, &count) < 0)
		return JS_EXCEPTION;
	while (count) {
		ssize_t got = getrandom(bytes, count, 0);

		if (got < 0) {
			if (errno == EINTR)
				continue;
			return throw_errno(ctx, errno, "getrandom", "%zu", count);
		}
		bytes += got;
		count -= (size_t)got;
	}
	return JS_UNDEFINED;
}
