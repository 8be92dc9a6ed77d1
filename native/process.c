/*
 * The process: its arguments, its children, its signals, its privileges, its log.
 */
#include "shim.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MAX 65536
#define LOG_LINE_MAX 1024
#define SIGNAL_MAX 64
#define CAPABILITY_BITS 64
/* While a child runs, how often to ask whether it has ended although something else holds its output open. */
#define CHILD_LOOK_MS 20

static int argument_count;
static char **argument_values;
static char log_ident[64];

/**
 * process_arguments() - remember what main() was given
 */
void process_arguments(int count, char **values)
{
	argument_count = count;
	argument_values = values;
}

/**
 * native_args() - arguments after the program's name
 */
NATIVE(native_args)
{
	JSValue array = JS_NewArray(ctx);

	for (int i = 1; i < argument_count && !JS_IsException(array); i++) {
		JSValue text = text_decode(ctx, (uint8_t *)argument_values[i], strlen(argument_values[i]));

		if (JS_IsException(text) || JS_SetPropertyUint32(ctx, array, (uint32_t)i - 1, text) < 0) {
			JS_FreeValue(ctx, array);
			return JS_EXCEPTION;
		}
	}
	return array;
}

/**
 * native_exit() - end the process at once
 */
NATIVE(native_exit)
{
	int32_t status;

	if (argument_int(ctx, argv[0], "status", 0, 255, &status) < 0)
		return JS_EXCEPTION;
	_exit(status);
}

/**
 * native_getenv() - an environment variable, or undefined
 */
NATIVE(native_getenv)
{
	const char *name = argument_string(ctx, argv[0], "name");
	const char *value;

	if (!name)
		return JS_EXCEPTION;
	value = getenv(name);
	JS_FreeCString(ctx, name);
	return value ? text_decode(ctx, (const uint8_t *)value, strlen(value)) : JS_UNDEFINED;
}

/**
 * native_alarm() - the process ends by SIGKILL in so many seconds, unless told otherwise before; 0: it does not
 *
 * A timer's signal and not SIGALRM's, because a process that is stopped takes no other. Where the kernel has no timers (CONFIG_POSIX_TIMERS)
 * it is SIGALRM.
 */
NATIVE(native_alarm)
{
	static enum { UNKNOWN, THERE, MISSING } timers;
	static timer_t timer;
	struct itimerspec when = { 0 };
	int32_t seconds;

	if (argument_int(ctx, argv[0], "seconds", 0, 3600, &seconds) < 0)
		return JS_EXCEPTION;
	if (timers == UNKNOWN) {
		struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };

		timers = timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 ? THERE : MISSING;
	}
	when.it_value.tv_sec = seconds;
	if (timers == MISSING || timer_settime(timer, 0, &when, NULL) < 0)
		alarm((unsigned int)seconds);
	return JS_UNDEFINED;
}

/**
 * native_getpid() - this process's id
 */
NATIVE(native_getpid)
{
	return JS_NewInt32(ctx, getpid());
}

/**
 * native_geteuid() - effective user id
 */
NATIVE(native_geteuid)
{
	return JS_NewInt64(ctx, geteuid());
}

/* As many as musl's CPU_SETSIZE; glibc's is 1024. */
#define PROCESSORS_MAX 128

/**
 * native_processors() - the processors that this process may run on
 */
NATIVE(native_processors)
{
	cpu_set_t set;
	JSValue array;
	uint32_t count = 0;

	if (sched_getaffinity(0, sizeof set, &set) < 0)
		return throw_errno(ctx, errno, "sched_getaffinity", "%zu bytes", sizeof set);
	array = JS_NewArray(ctx);
	for (int32_t cpu = 0; cpu < PROCESSORS_MAX && !JS_IsException(array); cpu++) {
		if (CPU_ISSET((size_t)cpu, &set) &&
		    JS_SetPropertyUint32(ctx, array, count++, JS_NewInt32(ctx, cpu)) < 0) {
			JS_FreeValue(ctx, array);
			return JS_EXCEPTION;
		}
	}
	return array;
}

/**
 * native_processor() - the processor that this process is on
 */
NATIVE(native_processor)
{
	return JS_NewInt32(ctx, sched_getcpu());
}

/**
 * native_run_on() - the processors that this process may run on from now on
 */
NATIVE(native_run_on)
{
	int32_t numbers[PROCESSORS_MAX];
	int count = argument_numbers(ctx, argv[0], "processors", 0, PROCESSORS_MAX - 1, numbers, PROCESSORS_MAX);
	cpu_set_t set;

	if (count < 0)
		return JS_EXCEPTION;
	CPU_ZERO(&set);
	for (int i = 0; i < count; i++)
		CPU_SET((size_t)numbers[i], &set);
	if (sched_setaffinity(0, sizeof set, &set) < 0)
		return throw_errno(ctx, errno, "sched_setaffinity", "%d processors", count);
	return JS_UNDEFINED;
}

static int64_t milliseconds(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/**
 * struct child - a program that was started
 * @pid: its process id, and the id of its process group
 * @output: its standard output and error, -1 once closed
 * @text: what it has written, the first OUTPUT_MAX bytes
 * @length: bytes in @text
 * @status: what waitpid() told
 * @ended: whether it did
 */
struct child {
	pid_t pid;
	int output;
	uint8_t *text;
	size_t length;
	int status;
	bool ended;
};

static void close_pipe(int *end)
{
	if (*end >= 0)
		close(*end);
	*end = -1;
}

/**
 * child_exec() - become the program; in the child, where only async-signal-safe calls are allowed
 * @input: reading end for standard input
 * @output: writing end for standard output and error
 * @failure: where to write errno if there is no such program
 */
static void __attribute__((noreturn)) child_exec(char **words, int input, int output, int failure)
{
	sigset_t none;
	int error;

	setpgid(0, 0);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Ours are all close-on-exec; this is for those that we were started with. */
	syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
	if (dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0)
		execvp(words[0], words);
	error = errno;
	while (write(failure, &error, sizeof error) < 0 && errno == EINTR)
		;
	_exit(127);
}

/**
 * child_input() - a file in memory with the child's standard input, so that nobody has to feed it
 *
 * Return: a descriptor at the file's beginning, or -1 with errno set.
 */
static int child_input(const char *text, size_t length)
{
	int fd = memfd_create("input", MFD_CLOEXEC), error;
	ssize_t put;

	while (fd >= 0 && length) {
		put = write(fd, text, length);
		if (put > 0) {
			text += put;
			length -= (size_t)put;
		} else if (errno != EINTR) {
			error = errno;
			close_pipe(&fd);
			errno = error;
		}
	}
	if (fd >= 0)
		lseek(fd, 0, SEEK_SET);
	return fd;
}

/**
 * child_start() - fork and exec
 * @text: its standard input
 *
 * Return: NULL once the program runs, else the name of what failed, with errno set.
 */
static const char *child_start(struct child *child, char **words, const char *text, size_t length)
{
	int in = child_input(text, length), out[2] = { -1, -1 }, failure[2] = { -1, -1 }, error = 0;
	const char *failed = NULL;
	ssize_t got;

	if (in < 0) {
		failed = "write";
	} else if (pipe2(out, O_CLOEXEC) < 0 || pipe2(failure, O_CLOEXEC) < 0 ||
		   fcntl(out[0], F_SETFL, O_NONBLOCK) < 0) {
		failed = "pipe2";
	} else {
		child->pid = fork();
		if (child->pid < 0)
			failed = "fork";
		else if (child->pid == 0)
			child_exec(words, in, out[1], failure[1]);
	}
	if (failed)
		error = errno;
	close_pipe(&in);
	close_pipe(&out[1]);
	close_pipe(&failure[1]);
	if (!failed) {
		do
			got = read(failure[0], &error, sizeof error);
		while (got < 0 && errno == EINTR);
		if (got == sizeof error) {
			failed = "execvp";
			while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
				;
		}
	}
	close_pipe(&failure[0]);
	if (failed)
		close_pipe(&out[0]);
	child->output = out[0];
	errno = error;
	return failed;
}

/**
 * child_drain() - read what the child has written; more than OUTPUT_MAX is thrown away
 *
 * Return: whether there was something, or the end of it.
 */
static bool child_drain(struct child *child)
{
	uint8_t rest[4096];
	bool full = child->length == OUTPUT_MAX;
	ssize_t got = full ? read(child->output, rest, sizeof rest)
			   : read(child->output, child->text + child->length, OUTPUT_MAX - child->length);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0)
		close_pipe(&child->output);
	else if (!full)
		child->length += (size_t)got;
	return true;
}

static void child_look(struct child *child)
{
	if (!child->ended && waitpid(child->pid, &child->status, WNOHANG) != 0)
		child->ended = true;
}

/**
 * exit_status() - what waitpid() told, as a shell reports it
 */
static int exit_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/**
 * child_finish() - read the child's output until it ends, or until its time is up
 * @timeout: milliseconds that it has
 *
 * Return: exit status as a shell reports it.
 */
static int child_finish(struct child *child, int32_t timeout)
{
	int64_t deadline = milliseconds() + timeout, left;
	bool heard = true;

	while (!child->ended || (child->output >= 0 && heard)) {
		struct pollfd end = { child->output, POLLIN, 0 };

		left = deadline - milliseconds();
		if (left <= 0)
			break;
		if (child->output < 0)
			poll(NULL, 0, 1);
		else if (!child->ended)
			poll(&end, 1, left < CHILD_LOOK_MS ? (int)left : CHILD_LOOK_MS);
		/* Looked at before the last read: what an ended child wrote is there by then. */
		child_look(child);
		heard = child->output >= 0 && child_drain(child);
	}
	close_pipe(&child->output);
	if (!child->ended) {
		kill(-child->pid, SIGKILL);
		while (waitpid(child->pid, &child->status, 0) < 0 && errno == EINTR)
			;
		return 128 + SIGKILL;
	}
	return exit_status(child->status);
}

static void free_words(JSContext *ctx, char **words)
{
	for (char **word = words; word && *word; word++)
		JS_FreeCString(ctx, *word);
	js_free(ctx, words);
}

/**
 * get_words() - an array of strings as execvp() takes it
 *
 * Return: the array, for free_words(); NULL with an exception pending.
 */
static char **get_words(JSContext *ctx, JSValueConst array)
{
	int32_t count = 0;
	JSValue value;
	char **words;

	if (JS_IsArray(ctx, array) != 1) {
		JS_ThrowTypeError(ctx, "argv: not an array");
		return NULL;
	}
	value = JS_GetPropertyStr(ctx, array, "length");
	if (argument_int(ctx, value, "length of argv", 1, 1024, &count) < 0)
		count = 0;
	JS_FreeValue(ctx, value);
	if (!count)
		return NULL;
	words = js_mallocz(ctx, sizeof *words * ((size_t)count + 1));
	for (int32_t i = 0; words && i < count; i++) {
		value = JS_GetPropertyUint32(ctx, array, (uint32_t)i);
		words[i] = (char *)argument_string(ctx, value, "argv");
		JS_FreeValue(ctx, value);
		if (!words[i]) {
			free_words(ctx, words);
			return NULL;
		}
	}
	return words;
}

/**
 * child_begin() - start a program by the arguments of run() and start()
 *
 * Return: 0, or -1 with an exception pending.
 */
static int child_begin(JSContext *ctx, struct child *child, JSValueConst program, JSValueConst input)
{
	char **words = get_words(ctx, program), *text = NULL;
	const char *failed;
	int result = -1;
	size_t length;

	text = words ? text_encode(ctx, input, &length) : NULL;
	if (text) {
		failed = child_start(child, words, text, length);
		if (failed)
			throw_errno(ctx, errno, failed, "%s", words[0]);
		else
			result = 0;
	}
	js_free(ctx, text);
	free_words(ctx, words);
	return result;
}

/**
 * native_run() - run a program and wait for it
 */
NATIVE(native_run)
{
	struct child child = { .output = -1 };
	JSValue result = JS_EXCEPTION;
	int32_t timeout;
	int status;

	if (argument_int(ctx, argv[2], "timeoutMs", 0, INT32_MAX, &timeout) < 0)
		return JS_EXCEPTION;
	child.text = js_malloc(ctx, OUTPUT_MAX);
	if (child.text && child_begin(ctx, &child, argv[0], argv[1]) == 0) {
		status = child_finish(&child, timeout);
		result = JS_NewObject(ctx);
		JS_SetPropertyStr(ctx, result, "status", JS_NewInt32(ctx, status));
		JS_SetPropertyStr(ctx, result, "output", text_decode(ctx, child.text, child.length));
	}
	js_free(ctx, child.text);
	return result;
}

/**
 * native_start() - start a program and do not wait for it
 */
NATIVE(native_start)
{
	struct child child = { .output = -1 };
	JSValue result;

	if (child_begin(ctx, &child, argv[0], argv[1]) < 0)
		return JS_EXCEPTION;
	result = JS_NewObject(ctx);
	JS_SetPropertyStr(ctx, result, "pid", JS_NewInt32(ctx, child.pid));
	JS_SetPropertyStr(ctx, result, "output", JS_NewInt32(ctx, child.output));
	return result;
}

/**
 * native_ended() - the exit status of a program that was started, -1 while it runs
 */
NATIVE(native_ended)
{
	int32_t pid;
	int status;
	pid_t got;

	if (argument_int(ctx, argv[0], "pid", 1, INT32_MAX, &pid) < 0)
		return JS_EXCEPTION;
	if (JS_ToBool(ctx, argv[1]))
		kill(-pid, SIGKILL);
	got = waitpid(pid, &status, WNOHANG);
	if (got < 0)
		return throw_errno(ctx, errno, "waitpid", "%d", pid);
	return JS_NewInt32(ctx, got == 0 ? -1 : exit_status(status));
}

/**
 * native_signal_open() - have signals delivered through a descriptor
 */
NATIVE(native_signal_open)
{
	int32_t numbers[SIGNAL_MAX];
	int count = argument_numbers(ctx, argv[0], "signals", 1, SIGNAL_MAX, numbers, SIGNAL_MAX), fd;
	sigset_t set;

	if (count < 0)
		return JS_EXCEPTION;
	sigemptyset(&set);
	for (int i = 0; i < count; i++)
		if (sigaddset(&set, numbers[i]) < 0)
			return throw_errno(ctx, errno, "sigaddset", "%d", numbers[i]);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return throw_errno(ctx, errno, "sigprocmask", "SIG_BLOCK");
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		return throw_errno(ctx, errno, "signalfd", "%d signals", count);
	return JS_NewInt32(ctx, fd);
}

/**
 * native_signal_read() - the next signal, 0 if there is none
 */
NATIVE(native_signal_read)
{
	struct signalfd_siginfo info;
	int32_t fd;
	ssize_t got;

	if (argument_fd(ctx, argv[0], &fd) < 0)
		return JS_EXCEPTION;
	do
		got = read(fd, &info, sizeof info);
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno != EAGAIN)
		return throw_errno(ctx, errno, "read", "%d", fd);
	return JS_NewInt32(ctx, got == sizeof info ? (int32_t)info.ssi_signo : 0);
}

/**
 * capabilities() - capget(2) or capset(2), which the C library does not declare
 * @call: SYS_capget or SYS_capset
 */
static int capabilities(long call, struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return (int)syscall(call, &header, data);
}

/**
 * native_keep_capabilities() - give up every capability but some, for good
 *
 * The bounding set goes first, because that needs a capability which may then be given up.
 */
NATIVE(native_keep_capabilities)
{
	struct __user_cap_data_struct data[2];
	int64_t mask;

	if (argument_number(ctx, argv[0], "mask", 0, (INT64_C(1) << 53) - 1, &mask) < 0)
		return JS_EXCEPTION;
	for (int n = 0; n < CAPABILITY_BITS; n++) {
		int bounded = prctl(PR_CAPBSET_READ, n, 0, 0, 0);

		if (bounded < 0)
			break;
		if (bounded && !(mask >> n & 1) && prctl(PR_CAPBSET_DROP, n, 0, 0, 0) < 0)
			return throw_errno(ctx, errno, "prctl", "PR_CAPBSET_DROP, %d", n);
	}
	if (capabilities(SYS_capget, data) < 0)
		return throw_errno(ctx, errno, "capget", "0");
	for (int i = 0; i < 2; i++) {
		uint32_t kept = (uint32_t)(mask >> 32 * i);

		data[i].effective &= kept;
		data[i].permitted &= kept;
		data[i].inheritable &= kept;
	}
	if (capabilities(SYS_capset, data) < 0)
		return throw_errno(ctx, errno, "capset", "0");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return throw_errno(ctx, errno, "prctl", "PR_SET_NO_NEW_PRIVS");
	return JS_UNDEFINED;
}

/**
 * native_has_capability() - whether a capability is effective
 */
NATIVE(native_has_capability)
{
	struct __user_cap_data_struct data[2];
	int32_t n;

	if (argument_int(ctx, argv[0], "n", 0, CAPABILITY_BITS - 1, &n) < 0)
		return JS_EXCEPTION;
	if (capabilities(SYS_capget, data) < 0)
		return throw_errno(ctx, errno, "capget", "0");
	return JS_NewBool(ctx, data[n / 32].effective >> n % 32 & 1);
}

/**
 * native_syslog_open() - name this process in the system's log
 */
NATIVE(native_syslog_open)
{
	const char *ident = argument_string(ctx, argv[0], "ident");

	if (!ident)
		return JS_EXCEPTION;
	strncpy(log_ident, ident, sizeof log_ident - 1);
	JS_FreeCString(ctx, ident);
	return JS_UNDEFINED;
}

/**
 * log_send() - hand a datagram to the system's log, whose socket is opened when there is none
 *
 * Return: 0, or -1 with errno set.
 */
static int log_send(const char *line, size_t length)
{
	static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	static int fd = -1;

	/* Once more on a fresh socket, because the one that read may have been replaced. */
	for (int tries = 0; tries < 2; tries++) {
		if (fd < 0) {
			fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
			if (fd < 0)
				return -1;
			if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
				close_pipe(&fd);
				return -1;
			}
		}
		if (send(fd, line, length, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno == EAGAIN || errno == ENOBUFS)
			return -1;
		close_pipe(&fd);
	}
	return -1;
}

/**
 * native_syslog_write() - one line to the system's log
 *
 * As syslog(3) does, which waits while whoever reads the log does not.
 */
NATIVE(native_syslog_write)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	char line[LOG_LINE_MAX];
	const char *text;
	int32_t priority;
	struct tm parts;
	time_t now;
	int length;

	if (argument_int(ctx, argv[0], "priority", LOG_EMERG, LOG_DEBUG, &priority) < 0)
		return JS_EXCEPTION;
	text = argument_string(ctx, argv[1], "text");
	if (!text)
		return JS_EXCEPTION;
	now = time(NULL);
	localtime_r(&now, &parts);
	/* strftime() is 4 kB of a router's flash. */
	length = snprintf(line, sizeof line, "<%d>%.3s %2d %02d:%02d:%02d %s[%d]: %s", LOG_DAEMON | priority,
			  months + 3 * parts.tm_mon, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
			  log_ident, getpid(), text);
	JS_FreeCString(ctx, text);
	if (length >= (int)sizeof line)
		length = sizeof line - 1;
	return JS_NewBool(ctx, log_send(line, (size_t)length) == 0);
}
