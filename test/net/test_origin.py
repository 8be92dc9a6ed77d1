"""What is the router's own though it has no ports."""

import socket

import pytest

from bed import GATEWAY, S1
from namespace import wait_until

pytestmark = pytest.mark.masqd

SIX_IN_FOUR = 41


def raw(host, protocol):
    s = host.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    s.settimeout(0.3)
    return s


def payloads(s):
    """What has come to a raw socket, without the IP headers."""
    heard = []
    with pytest.raises(TimeoutError):
        while True:
            heard.append(s.recv(2000)[20:])
    return heard


@pytest.mark.parametrize("protocol", [SIX_IN_FOUR, 253])
def test_the_routers_own_tunnel(bed, protocol):
    """Whoever speaks a protocol without ports on the router has it to itself, from before or from now on."""
    peer, host = raw(bed.wan, protocol), raw(bed.h1, protocol)
    router = raw(bed.router, protocol)
    host.sendto(b"injected", (S1, 0))
    bed.await_drops("protocol-busy", 1)
    peer.sendto(b"secret 1", (GATEWAY, 0))
    assert payloads(router) == [b"secret 1"]
    assert payloads(host) == payloads(peer) == []

    router.close()
    # The next look is due.
    wait_until(lambda: host.sendto(b"mine", (S1, 0)) and bed.flows(), "the host's own session")
    payloads(peer)
    peer.sendto(b"for the host", (GATEWAY, 0))
    assert payloads(host) == [b"for the host"]

    router = raw(bed.router, protocol)
    wait_until(lambda: not bed.flows(), "the session's end")
    peer.sendto(b"secret 2", (GATEWAY, 0))
    assert payloads(router) == [b"secret 2"]
    assert payloads(host) == []


def test_pings_with_one_identifier(bed):
    """The router and two hosts, 20 each: all have their own replies, and nobody's else."""
    pings = [host.start("ping", "-n", "-e", "777", "-c", "20", "-i", "0.2", S1) for host in (bed.router, bed.h1, bed.h2)]
    for ping in pings:
        ping.expect("20 packets transmitted, 20 received, 0% packet loss")
        assert "DUP" not in ping.output
    assert bed.drops() == {}


def test_large_pings_of_the_router(bed):
    """Later fragments are no replies, whatever stands in them."""
    for pattern in ("00", "ff", "0000ffff"):
        done = bed.router.run("ping", "-n", "-c", "3", "-i", "0.2", "-s", "4000", "-p", pattern, S1)
        assert "3 received" in done.stdout
