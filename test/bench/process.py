"""Subprocesses of the benchmark: each has a time limit, is ended by its own id, and dies with the benchmark."""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import time

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _descriptors():
    """The most descriptors that a process may have here."""
    with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
        return min(262144, int(file.read()))


_DESCRIPTORS = _descriptors()

_living = []


PATIENCE = 1
"""What all time limits are multiplied by; more where a clock leaps while files are read (test/guest)."""


class Broken(Exception):
    """A measurement that could not be made as it should have been; the message says why."""


def _in_child():
    """Dies with its parent, and may open a descriptor for each of 16k flows (slirp4netns and pasta do)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))
    except (OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def inside(netns, argv):
    """The command line that runs `argv` in a network namespace; it execs, so the process id is the command's."""
    return ["ip", "netns", "exec", netns, *argv] if netns else list(argv)


def run(argv, netns=None, text=None, timeout=10, env=None):
    """Runs a command to its end and returns its stdout. Raises Broken on a failure or after `timeout` seconds."""
    try:
        done = subprocess.run(
            inside(netns, argv),
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout * PATIENCE,
            env={**os.environ, **(env or {})},
            preexec_fn=_in_child,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise Broken(f"{os.path.basename(argv[0])}: not done after {timeout} s") from None
    except FileNotFoundError as error:
        raise Broken(f"{error.filename}: not found") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Broken(f"{os.path.basename(argv[0])}: status {done.returncode}: {said[-1] if said else 'no message'}")
    return done.stdout


class Process:
    """A process that runs beside the benchmark and speaks in lines."""

    def __init__(self, argv, netns=None, env=None, log=None):
        self.name = os.path.basename(argv[0])
        self.log = log
        with open(log or os.devnull, "ab") as errors:
            self._popen = subprocess.Popen(
                inside(netns, argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(env or {})},
                preexec_fn=_in_child,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self._pending = b""
        _living.append(self)

    def alive(self):
        return self._popen.poll() is None

    def line(self, timeout):
        """The next line of its stdout, without its end. Raises Broken if the process ends or the time is over."""
        until = time.monotonic() + timeout * PATIENCE
        out = self._popen.stdout.fileno()
        while b"\n" not in self._pending:
            left = until - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise Broken(f"{self.name}: nothing more said within {timeout} s{self.last_words()}")
            data = os.read(out, 65536)
            if not data:
                raise Broken(f"{self.name}: ended with status {self._popen.wait(5)}{self.last_words()}")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace")

    def wait_for(self, beginning, timeout):
        """Reads lines until one begins with `beginning`, and returns that one."""
        until = time.monotonic() + timeout * PATIENCE
        while True:
            line = self.line(max(0.01, until - time.monotonic()) / PATIENCE)
            if line.startswith(beginning):
                return line

    def ask(self, timeout=5):
        """Sends an empty line and returns the JSON object that comes back."""
        try:
            os.write(self._popen.stdin.fileno(), b"\n")
        except BrokenPipeError:
            raise Broken(f"{self.name}: ended early{self.last_words()}") from None
        return json.loads(self.line(timeout))

    def finish(self, timeout):
        """Waits for the process to end by itself with status 0 and returns the rest of its stdout."""
        until = time.monotonic() + timeout
        out = self._popen.stdout.fileno()
        while True:
            left = until - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                self.stop()
                raise Broken(f"{self.name}: not done after {timeout} s")
            data = os.read(out, 65536)
            if not data:
                break
            self._pending += data
        status = self._popen.wait(5)
        self._forget()
        if status:
            raise Broken(f"{self.name}: status {status}{self.last_words()}")
        return self._pending.decode(errors="replace")

    def stop(self, timeout=5):
        """Ends the process (SIGTERM, after `timeout` seconds SIGKILL) and returns its exit status."""
        if self.alive():
            self._popen.terminate()
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        self._forget()
        return self._popen.returncode

    def last_words(self):
        """The last line of its stderr, as an addition to a message."""
        if not self.log:
            return ""
        with open(self.log, "rb") as errors:
            lines = errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def _forget(self):
        self._popen.stdin.close()
        self._popen.stdout.close()
        if self in _living:
            _living.remove(self)


def stop_all():
    """Ends every process that still runs."""
    for process in list(_living):
        process.stop(2)


def cpu_seconds(pid):
    """CPU time that a process has had so far, user and kernel, to the nanosecond (its first thread)."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


def status_field(pid, name):
    """A number of /proc/PID/status, such as VmRSS (in kB) or voluntary_ctxt_switches."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    raise Broken(f"/proc/{pid}/status has no {name}")


def softirq_threads():
    """Process ids of the kernel's ksoftirqd threads."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm", encoding="ascii", errors="replace") as file:
                    if file.read().startswith("ksoftirqd/"):
                        found.append(int(name))
            except OSError:
                pass
    return found


def machine_steal_seconds():
    """CPU time that the hypervisor gave to others."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
