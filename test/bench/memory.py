"""Memory of masqd as routers have it (build/x86_64), for `make size`: a line "BYTES WHAT" each. Needs root and `make bench-tools`.

The daemon has a table of 4,096 sessions and is looked at after the load of the benchmark's footprint; the client is `masqd status`.
"""

import os
import shutil
import subprocess
import time
from types import SimpleNamespace

import candidates
import topology
from measure import megabytes
from measure_masqd import exercise, opened
from process import status_field

# What /proc/PID/syscall begins with in write(2) and writev(2) to stdout, on x86-64.
WRITES = ("1 0x1 ", "20 0x1 ")


def client(socket):
    """The most that `masqd status` has had resident when it has all to say: nobody takes it from the pipe, which is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    with subprocess.Popen([candidates.MASQD_ROUTER, "status", "--socket", socket], stdout=writing, stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        with open(f"/proc/{process.pid}/syscall", encoding="ascii") as file:
            until = time.monotonic() + 10
            while not file.read().startswith(WRITES):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("masqd status says nothing")
                time.sleep(0.01)
                file.seek(0)
        result = status_field(process.pid, "VmHWM") * 1024
        os.close(reading)
    return result


def main():
    candidate = next(c for c in candidates.CANDIDATES if c.key == "packet")
    folder = topology.folder()
    site = opened(candidate, candidates.MASQD_ROUTER, folder)
    try:
        exercise(site, candidate, SimpleNamespace(stream=1), None)
        print(round(megabytes(site.process.pid) * 1e6), "memory of the daemon, 4096 sessions, after load")
        print(client(candidate.socket(site)), "memory of masqd status")
    finally:
        site.remove()
        shutil.rmtree(folder)


main()
