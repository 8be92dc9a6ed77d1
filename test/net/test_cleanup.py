"""`masqd cleanup` after a masqd that died, beside one that lives, and where there was none."""

import re

import pytest

from bed import H1, MASQD
from namespace import run
from test_life import Talk

pytestmark = pytest.mark.masqd


def cleanup(bed):
    return bed.router.run(MASQD, "cleanup", "--socket", bed.socket_path, "--state", bed.state_path, check=False)


def still(bed):
    """The router but for what counts."""
    return re.sub(r"packets \d+ bytes \d+", "", bed.snapshot())


@pytest.mark.parametrize("offload", ["off", "clsact"])
def test_after_a_crash(make_bed, offload, monkeypatch):
    """Everything is as before the start, each step is a line, the sessions stay; a second time there is nothing to do."""
    bed = make_bed()
    # A setting that masqd changes, and whose value has to come back.
    bed.router.sysctl("net/ipv4/ip_local_port_range", "20000 50000")
    bed.router.run("ethtool", "-K", bed.lan_device, "rx-gro-list", "on", check=False)
    before = bed.snapshot()
    if offload == "clsact":
        monkeypatch.setenv("MASQD_OFFLOAD", "clsact")
    bed.start(main={"offload": "on" if offload == "clsact" else "off"})
    talk = Talk(bed, bed.h1, H1, 40001)
    bed.daemon.kill()
    assert "table inet masqd" in bed.router.run("nft", "list", "tables").stdout
    assert bed.snapshot() != before
    done = cleanup(bed)
    assert done.returncode == 0 and done.stderr == "", done
    lines = done.stdout.splitlines()
    assert "removed the nft table inet masqd" in lines
    assert "set /proc/sys/net/ipv4/ip_local_port_range back to 20000 50000" in lines
    assert f"removed {bed.socket_path}" in lines and not bed.socket_path.exists()
    assert ("removed 2 policy rules of masqd's" in lines) == (bed.driver == "tun")
    if offload == "clsact":
        assert "removed the offload's filter on wan0" in lines
        assert run("ip", "netns", "exec", bed.router.name, "tc", "filter", "show", "dev", "wan0", "ingress").stdout == ""
    assert bed.snapshot() == before
    again = cleanup(bed)
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing to do: no masqd has left anything\n", "")
    bed.start()
    assert "2 sessions restored" in bed.daemon.output
    talk.inbound()
    talk.close()


def test_where_nft_is_missing(make_bed):
    """The guard goes without it: its lack may be what masqd died of, and would keep the next one from starting too."""
    bed = make_bed()
    before = bed.snapshot()
    bed.start()
    bed.daemon.kill()
    done = bed.router.run("env", "PATH=/nowhere", MASQD, "cleanup", "--socket", bed.socket_path, "--state", bed.state_path, check=False)
    assert done.returncode == 0 and done.stderr == "", done
    assert "removed the nft table inet masqd" in done.stdout.splitlines()
    assert bed.snapshot() == before
    bed.daemon = None


def test_beside_a_living_one(bed):
    """It touches nothing and says so: by the lock, and by the socket of one whose state is elsewhere."""
    before = still(bed)
    talk = Talk(bed, bed.h1, H1, 40001)
    for state in (bed.state_path, bed.folder / "another.state"):
        said = bed.router.run(MASQD, "cleanup", "--socket", bed.socket_path, "--state", state, check=False)
        assert said.returncode == 1 and said.stdout == "", said
        assert "a masqd is running" in said.stderr and "nothing was touched" in said.stderr
    assert still(bed) == before and bed.socket_path.exists()
    talk.go_on()
    talk.close()


def test_without_permission(make_bed):
    bed = make_bed().start()
    bed.daemon.kill()
    said = bed.router.run(
        "setpriv",
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
        MASQD,
        "cleanup",
        "--socket",
        bed.socket_path,
        "--state",
        bed.state_path,
        check=False,
    )
    assert said.returncode == 1 and said.stderr == "masqd: no permission: cleanup needs CAP_NET_ADMIN; start it as root\n"
    assert "table inet masqd" in bed.router.run("nft", "list", "tables").stdout
    bed.daemon = None
