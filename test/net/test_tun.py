"""The tun driver: the kernel forwards between the LAN and masqd, so whatever of the kernel's holds for forwarded packets holds."""

import re

import pytest

from bed import GATEWAY, H1, S1
from namespace import GUARD

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
    server.settimeout(GUARD)
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


def path_mtu(bed):
    """What S1 knows of the way to the router's outside address."""
    found = re.search(r"mtu (\d+)", bed.wan.run("ip", "route", "get", GATEWAY).stdout)
    return int(found[1]) if found else None


@pytest.mark.parametrize("where", ["device", "route"])
def test_a_smaller_mtu_inside_is_told_to_the_sender(make_bed, where):
    """On the LAN device, which masqd judges, or further in, which only the kernel knows: the error that leaves is about the outside address."""
    bed = make_bed(lan="veth")
    bed.router.ip("link set lan0 mtu 1400" if where == "device" else f"route add {H1}/32 dev lan0 mtu 1400")
    bed.start(main={"offload": "off"})
    assert download(bed, 300000) == 300000
    assert path_mtu(bed) == 1400


DEAD = "192.168.1.99"
REFUSALS = {
    "nothing": (None, OSError),
    "reset": ("reject with tcp reset", ConnectionRefusedError),
    "port": ("reject with icmp port-unreachable", ConnectionRefusedError),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_the_kernel_answers_about_a_forwarded_packet_leaves_translated(make_bed, refusal):
    """A forward to a host that is off, or that the firewall refuses: the client hears of it, from the address that it knows."""
    bed = make_bed()
    words, error = REFUSALS[refusal]
    if words:
        bed.router.run(
            "nft",
            "-f",
            "-",
            stdin=f"table inet filter {{\n chain forward {{\n type filter hook forward priority 0;\n iifname masq0 ip daddr {DEAD} ip protocol tcp {words}\n }}\n}}\n",
        )
        bed.router.ip(f"neigh replace {DEAD} lladdr 02:00:00:00:02:63 dev {bed.lan_device}")
    bed.start(extra=[("redirect", "dead", {"proto": "tcp", "src_dport": "2222", "dest_ip": DEAD})])
    client = bed.wan.tcp(S1, 0)
    with pytest.raises(error) as caught:
        client.connect((GATEWAY, 2222))
    assert not isinstance(caught.value, TimeoutError)
    assert bed.status()["guard"]["leak"] == 0
    # The router's own business goes on as ever.
    assert "1 received" in bed.router.run("ping", "-c", "1", "-W", "5", S1).stdout
