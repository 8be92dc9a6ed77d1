"""The test's end of native/faults.c: which system call of a running masqd (build/faults/masqd) fails next, and what it has called so far."""

import contextlib
import ctypes
import errno
import mmap

NAME = 32
SEEN = 256

# What a system call of masqd's can come back with that is not success.
ERRNOS = "ENOBUFS EAGAIN ENETDOWN ENETUNREACH ENODEV ENXIO ENOMEM EMFILE EPERM EINTR EIO ENOSPC EPIPE ENOENT".split()


class Seen(ctypes.Structure):
    _fields_ = [("function", ctypes.c_char * NAME), ("call", ctypes.c_char * NAME), ("times", ctypes.c_uint32)]


class Shared(ctypes.Structure):
    _fields_ = [
        ("function", ctypes.c_char * NAME),
        ("call", ctypes.c_char * NAME),
        *((name, ctypes.c_int32) for name in ("error", "skip", "times", "hits", "count")),
        ("seen", Seen * SEEN),
    ]


class Faults:
    """Maps the file at `path`, which is made."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(ctypes.sizeof(Shared)))
        with path.open("r+b") as file:
            self._shared = Shared.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Shared)))

    @property
    def environment(self):
        return {"MASQD_FAULTS": str(self.path)}

    def forget(self):
        """What has been called so far."""
        for one in self._shared.seen[: self._shared.count]:
            one.times = 0

    def seen(self):
        """{(function, call): times} since the last forget()."""
        return {(one.function.decode(), one.call.decode()): one.times for one in self._shared.seen[: self._shared.count] if one.times}

    def arm(self, function, call, name, skip=0, times=1):
        """The next `call` in `function`, after `skip` of them, fails with the errno of that name, so many times."""
        s = self._shared
        s.times = 0
        s.function, s.call, s.error, s.skip, s.hits = function.encode(), call.encode(), getattr(errno, name), skip, 0
        s.times = times

    def disarm(self):
        """True if what was armed has failed."""
        self._shared.times = 0
        return self._shared.hits > 0

    @contextlib.contextmanager
    def armed(self, *what):
        self.arm(*what)
        try:
            yield self
        finally:
            self.disarm()

    @property
    def hit(self):
        return self._shared.hits > 0
