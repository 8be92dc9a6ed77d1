"""Who frames go to: the kernel's neighbour table says it, on both sides."""

import pathlib
import socket

import pytest
from scapy.layers.l2 import ARP, Ether

from bed import GATEWAY, H1, H2, S1, S2, lan_mac
from namespace import GUARD, wait_until
from packets import udp

pytestmark = pytest.mark.masqd

# An address that one machine of the LAN has and another takes over.
SHARED = "192.168.1.90"
OUTSIDE = 2222


def announce(host, mac):
    """The gratuitous ARP that a machine sends when it takes an address over."""
    raw = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind(("eth0", 0x0806))
    raw.send(bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=mac, psrc=SHARED, hwdst="00:00:00:00:00:00", pdst=SHARED)))
    raw.close()


def knock_until_heard(client, gateway, server):
    """Sends until a datagram has reached `server`."""
    server.settimeout(0.2)
    tries = 0

    def heard():
        nonlocal tries
        tries += 1
        client.sendto(f"{tries}".encode(), (gateway, OUTSIDE))
        try:
            return server.recv(100)
        except TimeoutError:
            return b""

    wait_until(heard, "a datagram at the machine that has the address", GUARD)


@pytest.mark.parametrize("how", ["announced", "silently"])
def test_a_forward_follows_an_address_to_another_machine(make_bed, how):
    """A failover on the LAN: by a gratuitous ARP at once, without one when the old machine is found not to answer."""
    bed = make_bed()
    extra = [("redirect", "service", {"proto": "udp", "src_dport": str(OUTSIDE), "dest_ip": SHARED, "dest_port": "22"})]
    with bed.router.inside():
        # The kernel's own pace, ten times as fast.
        for key, value in (("base_reachable_time_ms", 3000), ("delay_first_probe_time", 1), ("retrans_time_ms", 100), ("locktime", 0)):
            (pathlib.Path("/proc/sys/net/ipv4/neigh") / bed.lan_device / key).write_text(f"{value}\n")
    bed.start(extra=extra)
    bed.h1.ip(f"addr add {SHARED}/24 dev eth0")
    first = bed.h1.udp(SHARED, 22)
    client = bed.wan.udp(S1, 1000)
    # What the machine itself sends tells masqd its MAC before anybody asks for it.
    first.sendto(b"time?", (S2, 123))
    knock_until_heard(client, GATEWAY, first)
    first.close()
    bed.h1.ip(f"addr del {SHARED}/24 dev eth0")
    bed.h2.ip(f"addr add {SHARED}/24 dev eth0")
    second = bed.h2.udp(SHARED, 22)
    if how == "announced":
        announce(bed.h2, lan_mac(H2))
    knock_until_heard(client, GATEWAY, second)


@pytest.mark.parametrize("offload", ["off", "on"])
def test_a_forged_frame_takes_nobodys_traffic(make_bed, offload):
    """A machine that opens a session in another's name gets nothing of what is the other's, nor the answer."""
    bed = make_bed()
    bed.start(main={"offload": offload})
    server = bed.wan.udp(S1, 7)
    victim = bed.h1.udp(H1, 40000)

    def exchange():
        victim.sendto(b"question", (S1, 7))
        heard, outside = server.recvfrom(100)
        assert heard == b"question"
        server.sendto(b"answer", outside)
        assert victim.recv(100) == b"answer"

    for _ in range(3):
        exchange()
    wait_until(lambda: H1 in bed.router.run("ip", "neigh", "show", "dev", bed.lan_device).stdout, "the kernel knows the victim")
    forged = bed.h1.udp(H1, 40001)
    bed.lan_wire.send(udp(H1, 40001, S1, 7, b"forged"), source_mac=lan_mac("192.168.1.39"))
    heard, outside = server.recvfrom(100)
    assert heard == b"forged"
    server.sendto(b"for the victim", outside)
    assert forged.recv(100) == b"for the victim"
    for _ in range(3):
        exchange()


@pytest.mark.drivers("packet")
def test_a_scan_of_the_wans_own_subnet_hurts_nobody_else(make_bed):
    """One host asks for a thousand addresses of the WAN's link that nobody has: others, and another gateway, are served as ever."""
    bed = make_bed()
    bed.router.ip("addr add 198.18.0.1/15 dev wan0")
    bed.start(main={"max_rate": "0"})
    for n in range(1000):
        bed.lan_wire.send(udp("192.168.1.31", 7, f"198.18.{1 + n // 250}.{1 + n % 250}", 9, b"scan"))
    bed.await_drops("waiting-full", 900)
    server, client = bed.wan.udp(S1, 7), bed.h1.udp(H1, 40000)
    bed.wan.ip("addr add 203.0.113.253/24 dev eth0", "addr add 8.8.8.8/32 dev lo")
    for peer, change in ((S1, None), ("8.8.8.8", None), ("8.8.8.8", "route replace default via 203.0.113.253")):
        if change:
            bed.router.ip(change)
        server = bed.wan.udp(peer, 9)
        for n in range(50):
            client.sendto(f"{n}".encode(), (peer, 9))
            assert server.recv(100) == f"{n}".encode()
        server.close()
