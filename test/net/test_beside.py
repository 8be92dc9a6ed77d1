"""What is the router's own stays the router's: its services, its connections, and the networks that the kernel masquerades."""

import os
import socket

import pytest

from bed import GATEWAY, S1

pytestmark = pytest.mark.masqd

IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0


def datagrams(host, address=""):
    """A UDP socket whose large datagrams are fragmented."""
    s = host.udp(address)
    s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    return s


# ---- fragments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["wan", "lan"])
def test_large_datagrams_for_the_router(bed, side):
    """Whatever stands in a later fragment where a header has its ports: 49152 is one of masqd's range."""
    service = bed.router.udp("0.0.0.0", 1194)
    service.settimeout(2)
    peer = datagrams(bed.wan, S1) if side == "wan" else datagrams(bed.h1)
    for later in (b"\0\0\xc0\0", b"\0\0\0\5", b"\xff\xff\xff\xff"):
        for n in range(10):
            data = bytes([n]) + bytes(1471) + later + bytes(60)
            peer.sendto(data, (GATEWAY, 1194))
            assert service.recv(4096) == data
    for _ in range(20):
        data = os.urandom(3000)
        peer.sendto(data, (GATEWAY, 1194))
        assert service.recv(4096) == data
    assert bed.status()["guard"]["claimed_wan"] == bed.status()["guard"]["claimed_lan"] == 0


def test_large_answers_to_the_router(bed):
    """DNSSEC's, say."""
    server, client = datagrams(bed.wan, S1), bed.router.udp()
    client.settimeout(2)
    for _ in range(20):
        client.sendto(b"question", (S1, server.getsockname()[1]))
        answer = os.urandom(2900)
        server.sendto(answer, server.recvfrom(100)[1])
        assert client.recv(4096) == answer
