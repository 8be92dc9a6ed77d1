"""What is the router's own stays the router's: its services, its connections, and the networks that the kernel masquerades."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket

import pytest

from bed import GATEWAY, H1, S1, S2
from namespace import wait_until

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


def test_a_stream_of_large_datagrams_for_the_router(bed):
    """A tunnel that ends on the router: thousands of datagrams in two fragments, as fast as they come."""
    service, peer = bed.router.udp("0.0.0.0", 1194), datagrams(bed.wan, S1)
    service.settimeout(2)
    for n in range(3000):
        peer.sendto(n.to_bytes(4, "big") + bytes(1996), (GATEWAY, 1194))
        assert int.from_bytes(service.recv(4096)[:4], "big") == n


def test_large_datagrams_for_a_host_leave_the_router_room(bed):
    """The kernel does not collect the pieces of what is masqd's, whose first piece it does not get."""
    client, server = bed.h1.udp(H1), datagrams(bed.wan, S1)
    client.sendto(b"question", (S1, server.getsockname()[1]))
    mapped = server.recvfrom(100)[1]
    for n in range(3000):
        server.sendto(n.to_bytes(4, "big") + bytes(1996), mapped)
        assert int.from_bytes(client.recv(4096)[:4], "big") == n
    with bed.router.inside():
        held = re.search(r"^FRAG: inuse (\d+)", pathlib.Path("/proc/thread-self/net/sockstat").read_text(), re.MULTILINE)
    assert int(held[1]) < 20
    test_large_answers_to_the_router(bed)


# ---- connections and questions of the router itself -----------------------------------------------------------


def ask(host, server, port=0, address=""):
    """One question from a socket that is closed then; the address that the server saw."""
    client = host.udp(address, port)
    client.settimeout(2)
    client.sendto(b"question", server.getsockname())
    seen = server.recvfrom(100)[1]
    server.sendto(b"answer", seen)
    assert client.recv(100) == b"answer"
    client.close()
    return seen


def test_a_resolver_with_random_ports(bed):
    """Every port of masqd's range may be one of the router's for a moment."""
    server = bed.wan.udp(S1, 53)
    ports = random.Random(1).sample(range(32768, 65536), 200)
    for port in [33000, 65535, 1023, *ports]:
        assert ask(bed.router, server, port) == (GATEWAY, port)


def test_the_router_connects_from_a_port_of_the_range(bed):
    listener = bed.wan.listener(S1, 80)
    for port in (40001, 1023, 65000):
        client = bed.router.tcp("", port)
        client.settimeout(2)
        client.connect((S1, 80))
        server, seen = listener.accept()
        assert seen == (GATEWAY, port)
        server.sendall(b"page")
        assert client.recv(10) == b"page"


def test_answers_of_strangers_stay_out(bed):
    """What the router has sent opens its port to that peer alone."""
    server, stranger = bed.wan.udp(S1, 53), bed.wan.udp(S2, 53)
    client = bed.router.udp("", 44444)
    client.sendto(b"question", (S1, 53))
    server.recvfrom(100)
    stranger.sendto(b"forged", (GATEWAY, 44444))
    other = bed.wan.udp(S1, 54)
    other.sendto(b"forged", (GATEWAY, 44444))
    server.sendto(b"answer", (GATEWAY, 44444))
    assert client.recv(100) == b"answer"


# ---- networks that are not masqd's ----------------------------------------------------------------------------

MASQUERADE = "table ip fw {\n chain post {\n type nat hook postrouting priority srcnat;\n oifname wan0 masquerade\n }\n}\n"
CLIENT = "10.8.0.2"


def other_network(bed):
    """A network in no section of the configuration, which the kernel masquerades: VPN clients, containers."""
    guest = bed.add_namespace("guest")
    bed.router.ip(f"link add vpn0 type veth peer name eth0 netns {guest.name}", "link set vpn0 up", "addr add 10.8.0.1/24 dev vpn0")
    guest.ip("link set eth0 up", f"addr add {CLIENT}/24 dev eth0", "route add default via 10.8.0.1")
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    return guest


def learned(bed):
    """Flows that the guard has learned: peer, protocol, port here, port there, time left."""
    listed = bed.router.run("nft", "list", "set", "inet", "masqd", "own_flows").stdout
    return re.findall(r"(\S+) \. (tcp|udp) \. (\d+) \. (\d+)[^,}]*? expires (\w+)", listed)


def lifetime(bed, port):
    """Seconds for which the guard knows the TCP connection from this port."""
    (left,) = (one[4] for one in learned(bed) if one[1:3] == ("tcp", str(port)))
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)(ms|[hms])", left))


def test_a_network_that_the_kernel_masquerades(make_bed):
    bed = make_bed()
    guest = other_network(bed)
    bed.start()
    server, listener = bed.wan.udp(S1, 53), bed.wan.listener(S1, 80)
    for port in (20000, 40001, 60000, 1000):
        assert ask(guest, server, port, CLIENT) == (GATEWAY, port)
        client = guest.tcp(CLIENT, port)
        client.settimeout(2)
        client.connect((S1, 80))
        far, seen = listener.accept()
        assert seen == (GATEWAY, port)
        # The guard is made anew: what it has learned it keeps, for the server may be the next to speak.
        bed.router.ip("route add 10.99.0.0/24 dev vpn0")
        wait_until(lambda: "10.99.0.0" in bed.router.run("nft", "list", "set", "inet", "masqd", "elsewhere").stdout, "the guard made anew")
        far.sendall(b"news")
        assert client.recv(10) == b"news"
        bed.router.ip("route del 10.99.0.0/24 dev vpn0")
        if port >= 32768:
            assert lifetime(bed, port) > 7000
        client.close()
        assert far.recv(10) == b""
        far.close()
        if port >= 32768:
            wait_until(lambda: lifetime(bed, port) < 300, "the closed connection soon forgotten")
    # A host of the LAN with the same port: both have their own.
    first, second = guest.udp(CLIENT, 45000), bed.h1.udp(H1, 45001)
    for client in (first, second):
        client.sendto(b"question", (S1, 53))
        server.sendto(b"answer", server.recvfrom(100)[1])
        assert client.recv(100) == b"answer"


def test_what_the_kernel_masqueraded_while_masqd_was_dead_is_not_its_own(make_bed):
    """A host's flow that the kernel had in the meantime comes back to masqd, with its port, and nothing is delivered twice."""
    bed = make_bed()
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    bed.start()
    server, client = bed.wan.udp(S1, 53), bed.h1.udp(H1, 45000)
    bed.guard_may_drop = True

    def exchange():
        client.sendto(b"question", (S1, 53))
        try:
            server.settimeout(1)
            seen = server.recvfrom(100)[1]
        except TimeoutError:
            return None
        server.sendto(b"answer", seen)
        return seen

    assert exchange() == (GATEWAY, 45000)
    assert client.recv(100) == b"answer"
    bed.daemon.send_signal(signal.SIGKILL)
    bed.daemon.wait()
    exchange()
    bed.launch().expect("^masqd: ready:")
    client.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        client.recv(100)
    assert learned(bed) == []
    assert exchange() == (GATEWAY, 45000)
    assert client.recv(100) == b"answer"
    with pytest.raises(TimeoutError):
        client.recv(100)
