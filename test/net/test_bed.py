"""The bed itself: what it calls an invariant, it would notice."""

import os
import subprocess

import pytest

import bed as beds
import namespace
from bed import H1, S1, Bed
from namespace import wait_until


def test_the_sniffer_sees_a_leak():
    """Without masqd the router forwards the private source as it is."""
    with Bed() as bed:
        bed.h1.udp(H1, 1000).sendto(b"leak", (S1, 7))
        found = wait_until(bed.sniffer.offenders, "the leaked packet")
        assert found == [(H1, S1, 17)]


@pytest.mark.masqd
def test_the_end_of_the_daemon_is_noticed():
    with Bed() as bed:
        bed.start()
        bed.daemon.kill()
        with pytest.raises(AssertionError, match="has died"):
            bed.check()


def test_leftovers_of_a_killed_run_are_removed():
    """Namespaces, processes and folders go; those of a run that lives stay."""
    script = "import sys, bed, time; one = bed.Bed(); one.h1.start('sleep', '1000'); print(one.prefix, flush=True); time.sleep(1000)"
    folder = os.path.dirname(beds.__file__)
    with subprocess.Popen([beds.PYTHON, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True) as victim:
        prefix = victim.stdout.readline().strip()
        made = lambda: [name for name in os.listdir("/run/netns") + os.listdir("/tmp") if name.startswith(prefix + "-")]
        namespace.remove_leftovers()
        assert len(made()) == 6
        victim.kill()
        victim.wait()
    namespace.remove_leftovers()
    assert made() == []
