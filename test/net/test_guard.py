"""The guard is made anew beside the loop: an nft that hangs holds nothing up."""

import re
import shutil
import signal

import pytest

from bed import GATEWAY, H1, H2
from namespace import wait_until
from test_life import Talk, readdress

pytestmark = pytest.mark.masqd


@pytest.fixture
def slow(make_bed):
    """A bed whose masqd finds an nft that waits while the file `hang` is there, and notes its process id before."""
    bed = make_bed()
    folder = bed.folder / "bin"
    folder.mkdir()
    bed.hang, bed.waiting = bed.folder / "hang", bed.folder / "waiting"
    stand_in = folder / "nft"
    stand_in.write_text(
        f'#!/bin/sh\nif [ -e {bed.hang} ]; then echo $$ >>{bed.waiting}; while [ -e {bed.hang} ]; do sleep 0.05; done; fi\nexec {shutil.which("nft")} "$@"\n'
    )
    stand_in.chmod(0o755)
    command = bed.command
    bed.command = lambda *extra: ["env", f"PATH={folder}:/usr/sbin:/usr/bin:/sbin:/bin", *command(*extra)]
    return bed


def listed(bed, *what):
    return bed.router.run("nft", "list", *what).stdout


def hangs(bed):
    """True while masqd's nft waits."""
    pid = bed.waiting.read_text().split()[-1]
    return "nft" in bed.router.run("cat", f"/proc/{pid}/cmdline", check=False).stdout


def test_nft_hangs(slow):
    """A reload brings a device; what is sent meanwhile arrives, another address is in force at once, the device follows when nft is done."""
    bed = slow
    bed.router.ip("link add d0 type bridge", "addr add 10.9.0.1/24 dev d0", "link set d0 up")
    bed.start()
    talk = Talk(bed, bed.h1, H1, 40001)
    bed.hang.touch()
    bed.configure(extra=[("lan", None, {"device": "d0", "driver": bed.driver})])
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(bed.waiting.exists, "masqd's run of nft")
    for _ in range(200):
        talk.go_on()
    assert hangs(bed)
    bed.guard_may_drop = True
    bed.sniffer.allow([GATEWAY, "203.0.113.77"])
    readdress(bed, "203.0.113.77")
    wait_until(lambda: "203.0.113.77" in listed(bed, "set", "inet", "masqd", "externals"), "the new address in the guard")
    other = Talk(bed, bed.h2, H2, 40002, 7001)
    for _ in range(50):
        other.go_on()
    assert hangs(bed) and '"d0"' not in listed(bed, "table", "inet", "masqd")
    bed.hang.unlink()
    wait_until(lambda: '"d0"' in listed(bed, "table", "inet", "masqd"), "the device in the guard")
    # What nft was told before the address changed does not come back.
    wait_until(lambda: re.search(r"elements = \{ 203\.0\.113\.77 \}", listed(bed, "set", "inet", "masqd", "externals")), "the new address in the guard")
    wait_until(lambda: [port for port in bed.status()["ports"] if port["name"] == "d0" and port["up"]], "the device in use")
    other.go_on()


def test_nft_hangs_at_the_end(slow):
    """The end does not wait for it, and it does not make the guard again behind it."""
    bed = slow
    before = bed.snapshot()
    bed.start()
    bed.hang.touch()
    bed.router.run("nft", "delete table inet masqd")
    wait_until(bed.waiting.exists, "masqd's run of nft")
    # The end itself runs nft once more.
    bed.daemon.send_signal(signal.SIGUSR1)
    assert bed.daemon.wait() == 0
    bed.hang.unlink()
    assert not hangs(bed)
    assert "inet masqd" not in listed(bed, "tables")
    bed.start()
    assert "inet masqd" in listed(bed, "tables")
    bed.stop()
    assert bed.snapshot() == before
