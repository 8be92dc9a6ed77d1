"""What is the router's own stays the router's: its services, its connections, and the networks that the kernel masquerades."""

import contextlib
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct

import pytest

from bed import GATEWAY, H1, LAN_GATEWAY, S1, S2
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
    """Every port of masqd's range may be one of the router's for a moment; nothing is reported or remembered of it."""
    server = bed.wan.udp(S1, 53)
    ports = random.Random(1).sample(range(32768, 65536), 200)
    for port in [33000, 65535, 1023, *ports]:
        assert ask(bed.router, server, port) == (GATEWAY, port)
    assert bed.drops() == {}


def test_the_router_connects_from_a_port_of_the_range(bed):
    """Also from one that a host has a connection to that server from, before and after: each has its own, and nobody's is reset."""
    listener = bed.wan.listener(S1, 80)

    def connect(host, port):
        client = host.tcp("", port)
        client.settimeout(2)
        client.connect((S1, 80))
        server, seen = listener.accept()
        assert seen[0] == GATEWAY
        return client, server

    pairs = [connect(bed.router, port) for port in (1023, 65000, 40000)]
    pairs.append(connect(bed.h1, 40000))
    pairs.append(connect(bed.h1, 40001))
    pairs.append(connect(bed.router, 40001))
    for n, (client, server) in enumerate(pairs * 2):
        server.sendall(b"page %d" % n)
        assert client.recv(10) == b"page %d" % n
        client.sendall(b"more %d" % n)
        assert server.recv(10) == b"more %d" % n


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


# ---- services of the router ------------------------------------------------------------------------------------


def heard(service, peer, port, data=b"handshake"):
    """True if a datagram reaches the service now."""
    service.settimeout(0.2)
    peer.sendto(data, (GATEWAY, port))
    try:
        return service.recv(100) == data
    except TimeoutError:
        return False


def claimed(bed, protocol="udp"):
    """masqd's ports, as the guard has them."""
    listed = bed.router.run("nft", "list", "set", "inet", "masqd", f"claimed_{protocol}").stdout
    return re.findall(r"\d+-\d+|(?<=[ ,])\d+(?=[ ,])", listed[listed.index("elements") :])


@pytest.mark.parametrize("side", ["wan", "lan"])
def test_a_service_at_a_port_of_the_range(bed, side):
    """WireGuard's, a relay's: reached soon after it is opened, and each time that it is opened again."""
    peer = bed.wan.udp(S1, 9000) if side == "wan" else bed.h1.udp(H1, 9000)
    host = bed.wan if side == "wan" else bed.h1
    for _ in range(3):
        service = bed.router.udp("0.0.0.0", 51820)
        wait_until(lambda: heard(service, peer, 51820), "the service reached")
        if side == "wan":
            service.sendto(b"answer", (S1, 9000))
            assert peer.recvfrom(100) == (b"answer", (GATEWAY, 51820))
        service.close()
        listener = bed.router.listener("", 50000)
        wait_until(lambda: "50001-65535" in claimed(bed, "tcp"), "the listener's port")
        client = host.tcp()
        client.settimeout(2)
        client.connect((GATEWAY, 50000))
        client.close()
        listener.accept()[0].close()
        listener.close()
    wait_until(lambda: claimed(bed) == claimed(bed, "tcp") == ["600-1023", "32768-65535"], "the ports masqd's again")


def test_sockets_that_take_no_port(bed):
    """What packets to the WAN's address cannot reach: loopback's, the LAN's, IPv6's."""
    six = bed.router.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", 40003))
    kept = [bed.router.udp("127.0.0.1", 40001), bed.router.udp(LAN_GATEWAY, 40002), six, bed.router.listener("127.0.0.1", 40004)]
    both = bed.router.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    both.bind(("::", 41000))
    wan = bed.router.udp(GATEWAY, 42000)
    wait_until(lambda: claimed(bed)[1:] == ["32768-40999", "41001-41999", "42001-65535"], "the ports of two sockets left out")
    server = bed.wan.udp(S1, 53)
    for port in (40001, 40002, 40003):
        assert ask(bed.h1, server, port, H1) == (GATEWAY, port)
    for port in (41000, 42000):
        assert ask(bed.h1, server, port, H1) != (GATEWAY, port)
    assert len(kept) == 4 and wan is not both


def test_a_service_waits_for_the_session_that_has_its_port(bed):
    server, client = bed.wan.udp(S1, 53), bed.h1.udp(H1, 51820)
    client.sendto(b"question", (S1, 53))
    assert server.recvfrom(100)[1] == (GATEWAY, 51820)
    service = bed.router.udp("0.0.0.0", 51820)
    wait_until(lambda: any("51820" in one for one in bed.status()["warnings"]), "the warning")
    server.sendto(b"answer", (GATEWAY, 51820))
    assert client.recv(100) == b"answer"
    assert not heard(service, server, 51820)
    bed.masqd("flush", "all")
    wait_until(lambda: heard(service, bed.wan.udp(S2, 54), 51820), "the service reached")


@pytest.mark.parametrize("when", ["before the start", "while masqd runs"])
def test_very_many_services(make_bed, when):
    """More than a socket filter has room for, and than are left to the router."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    bed = make_bed()
    ports = range(33000, 35400, 2)
    if when == "before the start":
        services = [bed.router.udp("0.0.0.0", port) for port in ports]
        bed.start()
    else:
        bed.start()
        services = [bed.router.udp("0.0.0.0", port) for port in ports]
    wait_until(lambda: any("more ports" in one for one in bed.status()["warnings"]), "the warning")
    wait_until(lambda: len(claimed(bed)) >= 1024, "1,024 ports left out")
    peer = bed.wan.udp(S1, 9000)
    assert sum(heard(services[n], peer, ports[n]) for n in range(0, 1200, 50)) >= 18
    server = bed.wan.udp(S1, 53)
    assert ask(bed.h1, server, 50000, H1) == (GATEWAY, 50000)
    # Long after they have settled.
    wait_until(lambda: "the router itself uses" in bed.daemon.output or when == "before the start", "settled")
    assert ask(bed.h1, server, 50001, H1) == (GATEWAY, 50001)


def test_a_forward_over_the_routers_own_ports(make_bed):
    """The router's questions keep their answers; what strangers send goes to the forward's host, and nothing else does."""
    bed = make_bed()
    bed.start(extra=[("redirect", None, {"proto": ["udp", "tcp"], "src_dport": "1024-65535", "dest_ip": H1})])
    server, listener = bed.wan.udp(S1, 53), bed.wan.listener(S1, 80)
    host = bed.h1.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
    host.bind(("eth0", 0x0800))
    host.settimeout(0.3)
    for _ in range(40):
        ask(bed.router, server)
        ask(bed.router, server, random.randrange(1024, 65536))
    client = bed.router.tcp("", 12345)
    client.connect((S1, 80))
    far = listener.accept()[0]
    far.sendall(b"page")
    assert client.recv(10) == b"page"
    with pytest.raises(TimeoutError):
        # The bridge's own multicasts apart.
        while (frame := host.recv(2000))[0] & 1:
            pass
        pytest.fail(f"the forward's host got {frame.hex()}")
    assert bed.drops() == {} and bed.flows() == []
    service = bed.h1.udp(H1, 5000)
    bed.wan.udp(S2, 9000).sendto(b"hello", (GATEWAY, 5000))
    assert service.recv(100) == b"hello"


# ---- networks that are not masqd's ----------------------------------------------------------------------------

MASQUERADE = "table ip fw {\n chain post {\n type nat hook postrouting priority srcnat;\n oifname wan0 masquerade\n }\n}\n"
CLIENT = "10.8.0.2"


def other_network(bed, device="vpn0", net="10.8.0", role="guest"):
    """A network in no section of the configuration, which the kernel masquerades: VPN clients, containers."""
    guest = bed.add_namespace(role)
    bed.router.ip(f"link add {device} type veth peer name eth0 netns {guest.name}", f"link set {device} up", f"addr add {net}.1/24 dev {device}")
    guest.ip("link set eth0 up", f"addr add {net}.2/24 dev eth0", f"route add default via {net}.1")
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    return guest


def learned(bed):
    """Flows that the guard has learned: peer, protocol, port here, port there, time left."""
    listed = bed.router.run("nft", "list", "set", "inet", "masqd", "own_flows").stdout
    return re.findall(r"(\S+) \. (tcp|udp) \. (\d+) \. (\d+)[^,}]*? expires (\w+)", listed)


def lifetime(bed, port, protocol="tcp"):
    """Seconds for which the guard knows the one flow from this port."""
    (left,) = (one[4] for one in learned(bed) if one[1:3] == (protocol, str(port)))
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


def test_a_network_that_fills_the_guard(make_bed):
    """It costs that network its new connections at masqd's ports, which is said; what is open goes on, and masqd's hosts never notice."""
    bed = make_bed()
    guest = other_network(bed)
    other = other_network(bed, "vpn1", "10.9.0", "other")
    # As on a router on which the kernel tracks few connections: twice as many are learned.
    few = bed.folder / "conntrack_max"
    few.write_text("4096\n")
    command = bed.command
    seen = "/proc/sys/net/netfilter/nf_conntrack_max"
    bed.command = lambda *extra: ["unshare", "-m", "sh", "-c", f'mount --bind {few} {seen} && exec "$@"', "sh", *command(*extra)]
    bed.start()
    assert "size 16384" in bed.router.run("nft", "list", "set", "inet", "masqd", "own_flows").stdout
    server = bed.wan.udp(S1, 53)
    kept, others = guest.udp(CLIENT, 50001), other.udp("10.9.0.2", 50002)
    hosts = bed.h1.udp(H1, 50003)

    def answered(client):
        client.sendto(b"question", (S1, 53))
        seen = server.recvfrom(100)[1]
        server.sendto(b"answer", seen)
        return client.recv(100) == b"answer" and seen[1]

    assert [answered(kept), answered(others), answered(hosts)] == [50001, 50002, 50003]
    flood = guest.udp(CLIENT, 50000)
    for port in range(1000, 20000):
        flood.sendto(b"scan", (S2, port))
    counted = lambda: int(bed.router.run("nft", "list", "counter", "inet", "masqd", "own_full").stdout.split("packets")[1].split()[0])
    wait_until(lambda: counted() > 1000, "no room in the guard")
    # What is open goes on, whoever speaks first; masqd's hosts open what they like.
    for client, port in ((kept, 50001), (others, 50002), (hosts, 50003)):
        assert answered(client) == port
        server.sendto(b"news", (GATEWAY, port))
        assert client.recv(100) == b"news"
    assert answered(bed.h1.udp(H1, 50004)) == 50004
    # So do the network's at ports that are not masqd's.
    assert answered(guest.udp(CLIENT, 20000)) == 20000
    wait_until(lambda: any("than the guard remembers" in line for line in bed.daemon.lines), "the line in the log")
    assert any("than the guard remembers" in one for one in bed.status()["warnings"])


def test_a_scan_of_a_masqueraded_network_is_soon_forgotten(make_bed):
    """What nobody answers, and what a reset has ended, is remembered for about as long as the kernel tracks it."""
    bed = make_bed()
    guest = other_network(bed)
    bed.start()
    guest.udp(CLIENT, 50000).sendto(b"scan", (S2, 9))
    wait_until(lambda: lifetime(bed, 50000, "udp") <= 60, "the flow learned")
    server, client = bed.wan.udp(S1, 53), guest.udp(CLIENT, 50001)
    client.sendto(b"question", (S1, 53))
    where = server.recvfrom(100)[1]
    server.sendto(b"answer", where)
    assert client.recv(100) == b"answer" and lifetime(bed, 50001, "udp") > 150
    listener, opener = bed.wan.listener(S1, 80), guest.tcp(CLIENT, 50002)
    opener.connect((S1, 80))
    far, _ = listener.accept()
    wait_until(lambda: lifetime(bed, 50002) > 7000, "the connection learned")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    wait_until(lambda: lifetime(bed, 50002) <= 15, "the reset noticed")


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


# ---- routing of others -------------------------------------------------------------------------------------------


@pytest.mark.drivers("packet")
@pytest.mark.parametrize("when", ["before the start", "while masqd runs"])
def test_policy_routing_is_told(make_bed, when):
    """The packet driver leaves the hosts to the kernel: that is in the log and in status, for as long as the rules are there."""
    bed = make_bed()
    other_network(bed)
    rules = [f"rule add from {H1} lookup 200 prio 1000", "rule add fwmark 0x20000/0xff0000 lookup 201 prio 29998"]
    undo = [line.replace("add", "del") for line in rules]
    bed.guard_may_drop = True
    if when == "before the start":
        bed.router.ip(*rules)
    bed.start()
    if when != "before the start":
        assert not any("policy" in one for one in bed.status()["warnings"])
        bed.router.ip(*rules)
    words = r"policy routing \(1000: from 192\.168\.1\.10 lookup 200; 29998: lookup 201\).*option driver 'kernel' or 'tun'"
    wait_until(lambda: any(re.search(words, one) for one in bed.status()["warnings"]), "the warning")
    wait_until(lambda: "policy routing (" in bed.daemon.output, "the line of the log")
    bed.router.ip(*undo)
    wait_until(lambda: not any("policy" in one for one in bed.status()["warnings"]), "all well")


def test_why_knows_policy_rules(make_bed):
    bed = make_bed()
    other_network(bed)
    bed.router.ip(f"route add default via {CLIENT} dev vpn0 table 200", f"rule add from {H1} lookup 200 prio 1000")
    bed.start()
    asked = lambda host: bed.masqd("why", "udp", f"{host}:5000", f"{S1}:53", check=False).stdout
    assert "policy rule 1000: from 192.168.1.10 lookup 200 sends it to vpn0" in re.sub(r"\s+", " ", asked(H1))
    assert "policy" not in asked("192.168.1.20")


def test_another_network_on_the_wans_wire(make_bed):
    """A modem's page, without a way back: the kernel's masquerade gives the address that the modem knows, while the address is there."""
    bed = make_bed(external=(GATEWAY, "192.168.100.2"))
    bed.wan.ip("addr add 192.168.100.1/24 dev eth0")
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    bed.start()
    for _ in range(2):
        bed.router.ip("addr add 192.168.100.2/24 dev wan0")
        modem = bed.wan.udp("192.168.100.1", 80)
        for port in (20000, 40000):
            wait_until(lambda: "192.168.100.0" in bed.router.run("nft", "list", "set", "inet", "masqd", "elsewhere").stdout, "the network left to the kernel")
            assert ask(bed.h1, modem, port, H1) == ("192.168.100.2", port)
        assert not any("192.168.100" in one for one in bed.status()["warnings"])
        modem.close()
        bed.router.ip("addr del 192.168.100.2/24 dev wan0")
        wait_until(lambda: "192.168.100.0" not in bed.router.run("nft", "list", "set", "inet", "masqd", "elsewhere").stdout, "the network forgotten")


def test_another_public_network_on_the_wans_wire_is_told(make_bed):
    bed = make_bed(external=(GATEWAY, "198.51.100.9"))
    bed.router.ip("addr add 198.51.100.9/24 dev wan0")
    bed.start()
    assert any("config exempt with option dest '198.51.100.0/24'" in one for one in bed.status()["warnings"])
    bed.configure(extra=[("exempt", None, {"dest": "198.51.100.0/24"})])
    bed.masqd("reload")
    assert not any("198.51.100" in one for one in bed.status()["warnings"])
