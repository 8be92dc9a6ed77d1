"""Sleep: the daemon wakes when something comes or is due, and for nothing else. What hours of it cost is counted in guest/sleep.py."""

import re
import time

import pytest

from bed import GATEWAY, H1, S1
from namespace import wait_until

pytestmark = pytest.mark.masqd

SESSIONS = 1000
# Seconds after the last packet until nothing is looked at any more, and seconds that are watched then.
SETTLE, WATCH = 6, 20
# Of the wakings that one a second would be: looks, and what this machine's kernel has to tell of itself.
SHARE = 1 / 4


def waits(bed):
    """How often the daemon has waited until now."""
    with open(f"/proc/{bed.daemon.pid}/status", encoding="ascii") as status:
        return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read(), re.MULTILINE)[1])


def woken(bed):
    """How often it has woken while nothing came, but the kernel told twice of a neighbour's age as it does sooner or later."""
    time.sleep(SETTLE)
    before = waits(bed)
    for age in "reachable", "stale":
        bed.router.run("ip", "neigh", "replace", S1, "dev", "wan0", "lladdr", "02:00:00:00:03:0a", "nud", age)
        time.sleep(WATCH / 2)
    return waits(bed) - before


def fill(bed):
    """Sessions that nobody uses any more, answered ones among them."""
    server = bed.wan.udp(S1, 7)
    for n in range(SESSIONS // 2):
        one = bed.h1.udp(H1, 41000 + n)
        one.sendto(b"?", (S1, 7))
        server.sendto(b"!", server.recvfrom(100)[1])
        one.recv(100)
        one.close()
    client = bed.h1.udp(H1, 40000)
    for n in range(SESSIONS // 2):
        client.sendto(b"?", (S1, 1024 + n))


@pytest.mark.parametrize("offload", ["off", "on"])
def test_idle_sessions(make_bed, offload):
    bed = make_bed().start(main={"offload": offload})
    fill(bed)
    wait_until(lambda: bed.status()["sessions"]["used"] >= SESSIONS, "the sessions")
    assert woken(bed) <= WATCH * SHARE
    # And it is there at once.
    client, server = bed.h1.udp(H1, 50000), bed.wan.udp(S1, 9)
    client.sendto(b"?", (S1, 9))
    assert server.recvfrom(100) == (b"?", (GATEWAY, 50000))


def test_without_sessions(bed):
    assert woken(bed) <= WATCH * SHARE
