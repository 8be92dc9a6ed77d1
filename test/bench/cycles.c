/*
 * cycles: counts CPU cycles and instructions of the whole machine, kernel and user, on every CPU.
 *
 * Every line on stdin is answered by the two sums since the start. Where the machine does not count them (many virtual
 * machines have no counters) the first and only line says so in "error".
 */
#include "tool.h"
#include <linux/perf_event.h>
#include <sys/syscall.h>

#define CPUS 256

/** count() - open the counter of one hardware event on one CPU; -1 with errno if there is none. */
static int count(uint64_t event, int cpu)
{
	struct perf_event_attr attribute = { .type = PERF_TYPE_HARDWARE, .size = sizeof(attribute), .config = event };

	return (int)syscall(SYS_perf_event_open, &attribute, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static unsigned long long total(const int *fds, int n)
{
	unsigned long long all = 0;
	uint64_t one;

	for (int i = 0; i < n; i++) {
		if (read(fds[i], &one, sizeof(one)) != sizeof(one))
			die("read");
		all += one;
	}
	return all;
}

int main(void)
{
	int cycles[CPUS], instructions[CPUS], n = (int)sysconf(_SC_NPROCESSORS_ONLN);
	char line[64];

	if (n > CPUS)
		n = CPUS;
	for (int i = 0; i < n; i++) {
		cycles[i] = count(PERF_COUNT_HW_CPU_CYCLES, i);
		instructions[i] = cycles[i] < 0 ? -1 : count(PERF_COUNT_HW_INSTRUCTIONS, i);
		if (instructions[i] < 0) {
			printf("{\"error\":\"perf_event_open: %s\"}\n", strerror(errno));
			return 0;
		}
	}
	ready();
	while (fgets(line, sizeof(line), stdin)) {
		printf("{\"cycles\":%llu,\"instructions\":%llu}\n", total(cycles, n), total(instructions, n));
		fflush(stdout);
	}
	return 0;
}
