"""What is the router's own though it has no ports."""

import socket

import pytest

from bed import GATEWAY, H1, S1
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


def test_one_peer_endpoint_by_two_forwards(make_bed):
    """Two redirects to one inside endpoint, and a client that has one port for both connections."""
    forwards = [("redirect", f"port{port}", {"proto": "tcp", "src_dport": port, "dest_ip": H1, "dest_port": "5201"}) for port in ("5202", "5203")]
    bed = make_bed().start(extra=forwards)
    listener = bed.h1.listener(H1, 5201)
    connections = []
    for port in (5202, 5203):
        client = bed.wan.tcp(S1, 10000)
        client.connect((GATEWAY, port))
        connections.append((client, listener.accept()[0]))
    data = bytes(range(256)) * 1000
    for client, served in connections:
        for sender, receiver in ((client, served), (served, client)):
            sender.settimeout(10)
            receiver.settimeout(10)
            heard = b""
            sent = 0
            while len(heard) < len(data):
                sent += sender.send(data[sent : sent + 20000])
                heard += receiver.recv(65536)
            assert heard == data
    # Each is named by the endpoint that the peer has.
    assert {flow["peer"] for flow in bed.flows()} == {f"{S1}:10000"}
