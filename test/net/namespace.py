"""Network namespaces with unique names, what runs in them, and their removal.

A name is `mq<pid>-<n>-<role>`: the pid says who made it, so that whoever comes next can tell
what a killed run has left behind (`remove_leftovers`) and never touches that of a living one.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

# Longest that anything may hang, in seconds: a guard against a stuck test, never a way to wait.
GUARD = float(os.environ.get("MASQD_TEST_GUARD", "40"))

NAME = re.compile(r"^mq(\d+)-")
NETNS = pathlib.Path("/run/netns")
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL("libc.so.6", use_errno=True)


class Stuck(AssertionError):
    """Something that was awaited did not come before the hang guard ran out."""


def wait_until(condition, what, guard=None):
    """Returns the first true value of `condition()`; raises Stuck with `what` after the guard."""
    end = time.monotonic() + (guard or GUARD)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Stuck(f"never came: {what}")
        time.sleep(0.01)


def run(*argv, check=True, stdin=None, guard=None):
    """Runs a program to its end; text in and out, stderr apart. Raises with its output if it fails."""
    try:
        done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, text=True, errors="replace", timeout=guard or GUARD)
    except subprocess.TimeoutExpired as late:
        raise Stuck(f"still running: {' '.join(map(str, argv))}\n{late.stdout}\n{late.stderr}") from None
    if check and done.returncode != 0:
        raise AssertionError(f"status {done.returncode}: {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}")
    return done


class Process:
    """A program running in the background, its output kept line by line; killed when we die."""

    def __init__(self, argv, env=None):
        self.argv = [str(a) for a in argv]
        self.lines = []
        self._news = threading.Condition()
        self._popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._popen.stdout:
            with self._news:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def output(self):
        with self._news:
            return "\n".join(self.lines)

    def running(self):
        return self._popen.poll() is None

    def expect(self, pattern, guard=None):
        """First line of output that matches; raises Stuck when the program ends or hangs without it."""
        wanted = re.compile(pattern)
        seen = 0
        end = time.monotonic() + (guard or GUARD)
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if wanted.search(line):
                        return line
                seen = len(self.lines)
                if not self._reader.is_alive() or time.monotonic() > end:
                    break
                self._news.wait(0.2)
        raise Stuck(f"no line {pattern!r} from {' '.join(self.argv)}\n{self.output}")

    def send_signal(self, number):
        self._popen.send_signal(number)

    def wait(self, guard=None):
        """Exit status (negative: the signal that ended it)."""
        try:
            status = self._popen.wait(guard or GUARD)
        except subprocess.TimeoutExpired:
            raise Stuck(f"does not end: {' '.join(self.argv)}\n{self.output}") from None
        self._reader.join(5)
        return status

    def stop(self, number=signal.SIGTERM):
        """Signals the program if it still runs and returns its exit status."""
        if self.running():
            self.send_signal(number)
        return self.wait()

    def kill(self):
        return self.stop(signal.SIGKILL)


class Namespace:
    """One host's network stack."""

    def __init__(self, name):
        self.name = name
        run("ip", "netns", "add", name)
        with self.inside():
            for key in ("all", "default"):
                sysctl(f"net/ipv6/conf/{key}/disable_ipv6", 1)
        self.ip("link set lo up")

    @contextlib.contextmanager
    def inside(self):
        """What is opened by this thread in the meantime belongs to the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(NETNS / self.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            yield
        finally:
            _setns(home)
            os.close(there)
            os.close(home)

    def command(self, *argv):
        """The argument list that runs `argv` in here."""
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, *argv, **options):
        return run(*self.command(*argv), **options)

    def start(self, *argv, env=None):
        return Process(self.command(*argv), env)

    def ping(self, address, count=1):
        """Pings that many times, one after another; what ping said. Each reply may take as long as it likes."""
        return "".join(self.run("ping", "-n", "-c", "1", "-W", f"{GUARD:.0f}", address).stdout for _ in range(count))

    def ip(self, *commands):
        """Runs iproute2 commands, one a string, in one batch."""
        run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    def sysctl(self, path, value):
        with self.inside():
            sysctl(path, value)

    def socket(self, family, kind, protocol=0):
        with self.inside():
            made = socket.socket(family, kind, protocol)
        made.settimeout(GUARD)
        return made

    def udp(self, address="", port=0):
        """A bound UDP socket of this host."""
        made = self.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        return made

    def tcp(self, address="", port=0):
        """A bound, not yet connected TCP socket of this host."""
        made = self.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        return made

    def listener(self, address="", port=0):
        """A listening TCP socket of this host."""
        made = self.tcp(address, port)
        made.listen(16)
        return made


def remove(name):
    """Ends what still runs in a namespace and removes it; nothing happens if there is none."""
    for pid in run("ip", "netns", "pids", name, check=False).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "del", name, check=False)


def _setns(descriptor):
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def sysctl(path, value):
    """Writes a setting of the namespace that the thread is in."""
    pathlib.Path("/proc/sys", path).write_text(f"{value}\n")


def listens(process, port, protocol="tcp"):
    """True if something listens on the port in the namespace of a running process."""
    table = pathlib.Path(f"/proc/{process.pid}/net/{protocol}").read_text().splitlines()[1:]
    rows = (line.split() for line in table)
    return any(int(row[1].split(":")[1], 16) == port and row[3] in ("0A", "07") for row in rows)


def await_listener(process, port, protocol="tcp"):
    """Waits until the process's namespace has a listener on the port."""

    def ready():
        if not process.running():
            raise AssertionError(f"ended: {' '.join(process.argv)}\n{process.output}")
        return listens(process, port, protocol)

    wait_until(ready, f"listener on {protocol} {port} ({process.argv})")
    return process


def _alive(pid):
    try:
        return b"python" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def temporary_folder(prefix):
    """A new folder that `remove_leftovers` knows as ours."""
    return pathlib.Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=tempfile.gettempdir()))


def remove_leftovers():
    """Removes namespaces, processes and folders of runs that have died."""
    listed = [*(NETNS.iterdir() if NETNS.is_dir() else []), *pathlib.Path(tempfile.gettempdir()).iterdir()]
    for path in listed:
        owner = NAME.match(path.name)
        if not owner or _alive(int(owner[1])):
            continue
        if path.parent != NETNS:
            shutil.rmtree(path, ignore_errors=True)
            continue
        remove(path.name)
