"""The tun driver: the kernel forwards between the LAN and masqd, so whatever of the kernel's holds for forwarded packets holds."""

import re

import pytest

from bed import H1, S1

pytestmark = [pytest.mark.masqd, pytest.mark.drivers("tun")]

STATEFUL = """
table inet filter {
	counter invalid {
	}
	counter inward {
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname masq0 counter name inward
		ct state invalid counter name invalid drop
	}
}
"""


def counted(bed, name):
    """Packets of a counter of the firewall's."""
    return int(re.search(r"packets (\d+)", bed.router.run("nft", "list", "counter", "inet", "filter", name).stdout)[1])


def download(bed, size):
    """H1 asks S1 for `size` bytes over TCP; returns what came."""
    listener = bed.wan.listener(S1, 80)
    client = bed.h1.tcp(H1, 0)
    client.connect((S1, 80))
    server, _ = listener.accept()
    client.sendall(b"please")
    assert server.recv(10) == b"please"
    heard = 0
    server.sendall(b"x" * size)
    while heard < size:
        heard += len(client.recv(65536))
    server.close()
    assert client.recv(10) == b""
    return heard


@pytest.mark.parametrize("lan", ["bridge", "veth"])
def test_the_kernel_sees_both_directions_whatever_its_neighbours_do(make_bed, lan):
    """ARP exchanges, lost and changed neighbours leave a host behind the TUN device: a stateful ruleset holds."""
    bed = make_bed(lan=lan)
    bed.router.run("nft", "-f", "-", stdin=STATEFUL)
    bed.start()
    device = bed.lan_device
    seen = 0
    for happening in (
        lambda: None,
        lambda: bed.router.ip(f"neigh flush dev {device}"),
        lambda: bed.router.ip(f"neigh replace {H1} lladdr 02:00:00:00:02:0a dev {device} nud stale"),
        lambda: bed.h1.run("ping", "-c", "1", "-W", "5", "192.168.1.1"),
    ):
        happening()
        assert download(bed, 100000) == 100000
        now = counted(bed, "inward")
        assert now > seen, "what came in passed the kernel's forwarding by"
        seen = now
    assert counted(bed, "invalid") == 0
