/*
 * What each traffic tool of the benchmark needs: the clock, a CPU to stay on, a clear end on an error.
 *
 * A tool takes its arguments by position, prints one JSON object a line, and ends with status 1 and one line on
 * stderr if anything it relies on fails. Tools that serve print {"ready":true} first.
 */
#ifndef MASQD_BENCH_TOOL_H
#define MASQD_BENCH_TOOL_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/** die() - end with status 1, naming the failed call and errno. */
static inline void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	exit(1);
}

/** usage() - end with status 2 if fewer than @need arguments were given. */
static inline void usage(int argc, int need, const char *arguments)
{
	if (argc > need)
		return;
	fprintf(stderr, "usage: %s %s\n", program_invocation_short_name, arguments);
	exit(2);
}

/** now() - seconds of CLOCK_MONOTONIC. */
static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/** stay_on() - run on one CPU only, with exact sleeps; a negative number leaves the choice to the scheduler. */
static inline void stay_on(int cpu)
{
	cpu_set_t set;

	prctl(PR_SET_TIMERSLACK, 1);
	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

/** address() - a dotted IPv4 address in network byte order. */
static inline uint32_t address(const char *text)
{
	struct in_addr in;

	if (inet_pton(AF_INET, text, &in) != 1) {
		errno = EINVAL;
		die(text);
	}
	return in.s_addr;
}

/** ready() - tell the orchestrator that the tool serves now. */
static inline void ready(void)
{
	puts("{\"ready\":true}");
	fflush(stdout);
}

/** ascending() - qsort() order of floats. */
static inline int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

#endif
