"""Ports that hosts ask for themselves: PCP (RFC 6887) by messages, NAT-PMP (RFC 6886) by natpmpc (C-9)."""

import struct

import pytest

from bed import GATEWAY, H1, H2, LAN_GATEWAY, S1, Bed, lan_mac
from wire import Wire

pytestmark = [pytest.mark.masqd, pytest.mark.drivers("packet", "tun", "kernel")]

SERVER = (LAN_GATEWAY, 5351)
MAP, PEER, ANNOUNCE = 1, 2, 0
TCP, UDP = 6, 17


@pytest.fixture
def bed(make_bed):
    """A router that answers PCP."""
    return make_bed().start(main={"pcp": "1"})


def mapped(address):
    return b"\0" * 10 + b"\xff\xff" + bytes(map(int, address.split(".")))


def ask(client, opcode, address, lifetime=600, protocol=UDP, inside=0, suggested=0, nonce=b"n" * 12, peer=None, options=b""):
    """Sends a request; the answer as (result, lifetime, epoch, external port, external address)."""
    body = b""
    if opcode != ANNOUNCE:
        body = nonce + struct.pack("!B3xHH", protocol, inside, suggested) + mapped("0.0.0.0")
    if opcode == PEER:
        body += struct.pack("!H2x", peer[1]) + mapped(peer[0])
    client.sendto(struct.pack("!BB2xI", 2, opcode, lifetime) + mapped(address) + body + options, SERVER)
    answer = client.recv(1200)
    version, code, result, life, epoch = struct.unpack("!BBxBII", answer[:12])
    assert (version, code) == (2, 0x80 | opcode)
    if len(answer) < 60:
        return result, life, epoch, 0, ""
    return result, life, epoch, struct.unpack("!H", answer[42:44])[0], ".".join(map(str, answer[56:60]))


def test_map(bed):
    """A port is granted, renewed, used from outside by anyone, and ended; then nobody gets in."""
    client = bed.h1.udp(H1, 40000)
    result, life, _, port, address = ask(client, MAP, H1, inside=40000, suggested=45678)
    assert (result, life, port, address) == (0, 600, 45678, GATEWAY)
    assert ask(client, MAP, H1, inside=40000)[3] == 45678
    peer = bed.wan.udp(S1, 9)
    peer.sendto(b"hello", (GATEWAY, 45678))
    assert client.recvfrom(100) == (b"hello", (S1, 9))
    client.sendto(b"back", (S1, 9))
    assert peer.recvfrom(100) == (b"back", (GATEWAY, 45678))
    assert ask(client, MAP, H1, lifetime=0, inside=40000, nonce=b"x" * 12)[0] == 2
    assert ask(client, MAP, H1, lifetime=0, inside=40000)[0] == 0
    stranger = bed.wan.udp("203.0.113.20", 9)
    stranger.sendto(b"late", (GATEWAY, 45678))
    bed.await_drops("filtered", 1)


def test_mapping_first(bed):
    """An endpoint that has a mapping gets its port; another host does not get it, and says so when it would have nothing else."""
    client, other = bed.h1.udp(H1, 40000), bed.h2.udp(H2, 40000)
    peer = bed.wan.udp(S1, 9)
    client.sendto(b"x", (S1, 9))
    _, (_, port) = peer.recvfrom(10)
    assert ask(client, MAP, H1, inside=40000, suggested=50000)[3] == port
    assert ask(other, MAP, H2, inside=40000, suggested=port)[3] != port
    prefer = b"\x02\0\0\0"
    assert ask(other, MAP, H2, inside=40001, suggested=port, options=prefer)[0] == 11


def test_peer(bed):
    """PEER lets the named peer in and nobody else."""
    client = bed.h1.udp(H1, 40000)
    result, _, _, port, _ = ask(client, PEER, H1, inside=40000, peer=(S1, 9))
    assert result == 0
    bed.wan.udp("203.0.113.20", 9).sendto(b"no", (GATEWAY, port))
    bed.await_drops("filtered", 1)
    bed.wan.udp(S1, 9).sendto(b"yes", (GATEWAY, port))
    assert client.recv(10) == b"yes"


def test_refusals(bed):
    """What is not understood or not allowed is refused by its code, and nothing is opened."""
    client = bed.h1.udp(H1, 40000)
    assert ask(client, ANNOUNCE, H1, lifetime=0)[0] == 0
    assert ask(client, MAP, H2, inside=40000)[0] == 12
    assert ask(client, MAP, H1, inside=40000, protocol=132)[0] == 9
    assert ask(client, MAP, H1, inside=80)[0] == 2
    third_party = b"\x01\0\0\x10" + mapped(H2)
    assert ask(client, MAP, H1, inside=40000, options=third_party)[0] == 5
    client.sendto(bytes([9, 1]) + b"\0" * 58, SERVER)
    assert client.recv(1200)[:4] == bytes([2, 0x81, 0, 1])
    for n in range(32):
        assert ask(client, MAP, H1, inside=41000 + n)[0] == 0
    assert ask(client, MAP, H1, inside=42000)[0] == 10


def test_natpmp(bed):
    """natpmpc gets the external address and a TCP port that works."""
    said = bed.h1.run("natpmpc", "-g", LAN_GATEWAY).stdout
    assert f"Public IP address : {GATEWAY}" in said
    said = bed.h1.run("natpmpc", "-g", LAN_GATEWAY, "-a", "44000", "8080", "tcp", "300").stdout
    assert "Mapped public port 44000 protocol TCP to local port 8080" in said
    listener = bed.h1.listener(H1, 8080)
    outside = bed.wan.tcp(S1, 0)
    outside.connect((GATEWAY, 44000))
    inside, who = listener.accept()
    assert who[0] == S1
    inside.close()


def test_restart(bed):
    """W-4: after a kill -9 the port is still its host's, anyone gets in by it, a connection that came by it goes on, and the epoch does too."""
    client = bed.h1.udp(H1, 40000)
    assert ask(client, MAP, H1, inside=40000, suggested=45678)[3] == 45678
    assert ask(client, MAP, H1, protocol=TCP, inside=8080, suggested=48080)[3] == 48080
    listener = bed.h1.listener(H1, 8080)
    caller = bed.wan.tcp(S1)
    caller.connect((GATEWAY, 48080))
    connection, _ = listener.accept()
    epoch = ask(client, ANNOUNCE, H1)[2]
    for _ in range(2):
        bed.daemon.kill()
        bed.launch().expect("^masqd: ready:")
        caller.sendall(b"in")
        assert connection.recv(10) == b"in"
        connection.sendall(b"out")
        assert caller.recv(10) == b"out"
    another = bed.wan.tcp(S1)
    another.connect((GATEWAY, 48080))
    listener.accept()
    bed.wan.udp(S1, 9).sendto(b"hello", (GATEWAY, 45678))
    assert client.recvfrom(100) == (b"hello", (S1, 9))
    assert ask(bed.h2.udp(H2, 40000), MAP, H2, inside=40000, suggested=45678)[3] != 45678
    result, _, now, port, _ = ask(client, MAP, H1, inside=40000)
    assert (result, port) == (0, 45678) and now >= epoch
    # A reload leaves it alone too.
    assert bed.masqd("reload").stdout == "reloaded\n"
    connection.sendall(b"still")
    assert caller.recv(10) == b"still"


def announcements(listener):
    """What the router tells all hosts: epoch and external address of each answer without a request, PCP's without address."""
    while True:
        answer, source = listener.recvfrom(1200)
        assert source == SERVER
        if answer[0] == 2:
            _, code, result, _, epoch = struct.unpack("!BBxBII", answer[:12])
            assert (code, result, len(answer)) == (0x80, 0, 24)
            yield epoch, ""
        else:
            version, code, result, epoch = struct.unpack("!BBHI", answer[:8])
            assert (version, code, result, len(answer)) == (0, 0x80, 0, 12)
            yield epoch, ".".join(map(str, answer[8:]))


def test_announced(bed):
    """
    Start and a new WAN address are told to all hosts, more than once, with an epoch that begins anew: RFC 6886 section 3.2.1, RFC 6887 sections 8.5 and 14.1.3.
    A loss of the address that comes back is no news.
    """
    heard = announcements(bed.h1.udp("", 5350))
    before = next(epoch for epoch, address in heard if address == GATEWAY and epoch >= 2)
    route = "route replace default via 203.0.113.254"
    bed.router.ip("addr del 203.0.113.1/24 dev wan0", "addr add 203.0.113.5/24 dev wan0", route)
    first = next(epoch for epoch, address in heard if address == "203.0.113.5")
    assert first < before
    assert next(epoch for epoch, address in heard if address == "") >= first
    again = next(epoch for epoch, address in heard if address == "203.0.113.5" and epoch >= 2)
    assert ask(bed.h1.udp(H1, 40000), ANNOUNCE, H1)[2] >= again
    bed.router.ip("addr del 203.0.113.5/24 dev wan0")
    bed.daemon.expect("wan wan0 has lost its address 203.0.113.5")
    bed.router.ip("addr add 203.0.113.5/24 dev wan0", route)
    bed.daemon.expect("wan wan0 has address 203.0.113.5")
    assert ask(bed.h1.udp(H1, 40001), ANNOUNCE, H1)[2] >= again


def test_off(make_bed):
    """Without the option the router refuses as ever."""
    bed = make_bed().start()
    client = bed.h1.udp(H1, 40000)
    client.connect(SERVER)
    client.send(b"\0\0")
    with pytest.raises(ConnectionRefusedError):
        client.recv(10)


def test_switched_off_and_on(bed):
    """A reload without the option closes what was opened and refuses from then on; with it again the router answers again."""
    client = bed.h1.udp(H1, 40000)
    assert ask(client, MAP, H1, inside=40000, suggested=45678)[3] == 45678
    bed.configure(main={"pcp": "0"})
    bed.masqd("reload")
    bed.wan.udp(S1, 9).sendto(b"hello", (GATEWAY, 45678))
    bed.await_drops("no-mapping", 1)
    other = bed.h1.udp(H1, 40001)
    other.connect(SERVER)
    other.send(b"\0\0")
    with pytest.raises(ConnectionRefusedError):
        other.recv(10)
    bed.configure(main={"pcp": "1"})
    bed.masqd("reload")
    assert ask(client, MAP, H1, inside=40000, suggested=45678)[3] == 45678


GUEST, GUEST_GATEWAY, GUEST_GATEWAY_MAC = "192.168.2.10", "192.168.2.1", "02:00:00:00:00:02"


class GuestBed(Bed):
    """A router with a second LAN, of guests."""

    def build_lan(self):
        super().build_lan()
        self.guest = self.add_namespace("guest")
        self.router.ip(f"link add lan1 address {GUEST_GATEWAY_MAC} type veth peer name eth0 netns {self.guest.name}")
        self.guest.ip("link set eth0 up", f"addr add {GUEST}/24 dev eth0", f"route add default via {GUEST_GATEWAY}")
        self.router.ip("link set lan1 up", f"addr add {GUEST_GATEWAY}/24 dev lan1")
        self.guest_wire = Wire(self.guest, "eth0", GUEST_GATEWAY_MAC, lan_mac)
        self._closing.callback(self.guest_wire.close)

    def guests(self, **options):
        return ("lan", None, {"device": "lan1", "driver": self.driver, **options})


@pytest.fixture
def guest_bed(driver):
    with GuestBed(driver) as bed:
        yield bed


def natpmp(source, destination, mac, inside, suggested, lifetime=3600):
    """A NAT-PMP request for a TCP port, as a frame."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    data = struct.pack("!BBHHHI", 0, 2, 0, inside, suggested, lifetime)
    router = GUEST_GATEWAY_MAC if destination == GUEST_GATEWAY else "02:00:00:00:00:01"
    return Ether(src=mac, dst=router) / IP(src=source, dst=destination) / UDP(sport=5350, dport=5351) / data


def test_only_for_oneself(guest_bed):
    """A guest cannot open, or end, a port of a host of the main LAN, nor of the router; another station of the LAN cannot either; the host itself can."""
    bed = guest_bed
    bed.start(main={"pcp": "1"}, extra=[bed.guests()])
    client = bed.h1.udp(H1, 40000)
    assert ask(client, MAP, H1, protocol=TCP, inside=8080, suggested=48080)[3] == 48080
    for n, (source, destination, mac, wire) in enumerate(
        (
            (H1, GUEST_GATEWAY, "02:00:00:00:04:0a", bed.guest_wire),
            (H1, LAN_GATEWAY, lan_mac(H2), bed.lan_wire),
            (LAN_GATEWAY, LAN_GATEWAY, lan_mac(H2), bed.lan_wire),
            (GUEST_GATEWAY, GUEST_GATEWAY, "02:00:00:00:04:0a", bed.guest_wire),
            ("192.168.2.255", GUEST_GATEWAY, "02:00:00:00:04:0a", bed.guest_wire),
        )
    ):
        wire.send(natpmp(source, destination, mac, 0, 0, 0))
        wire.send(natpmp(source, destination, mac, 3389, 50000 + n))
    # What was sent before has been judged when this is answered.
    guest = bed.guest.udp(GUEST, 40000)
    guest.sendto(b"\0\0", (GUEST_GATEWAY, 5351))
    assert guest.recv(100)[:2] == b"\0\x80"
    assert ask(client, MAP, H1, protocol=TCP, inside=8080)[3] == 48080
    outside = bed.wan.udp(S1, 9)
    for n in range(5):
        outside.sendto(b"x", (GATEWAY, 50000 + n))
    bed.await_drops("no-mapping", 5)
    assert bed.drops("spoofed-source") >= 2


def test_not_for_guests(guest_bed):
    """`option pcp '0'` of a LAN refuses its hosts; the other LAN is answered."""
    bed = guest_bed
    bed.start(main={"pcp": "1"}, extra=[bed.guests(pcp="0")])
    guest = bed.guest.udp(GUEST, 40000)
    guest.connect((GUEST_GATEWAY, 5351))
    guest.send(b"\0\0")
    with pytest.raises(ConnectionRefusedError):
        guest.recv(10)
    assert ask(bed.h1.udp(H1, 40000), MAP, H1, inside=40000)[0] == 0


def test_device_down(guest_bed):
    """A LAN device that is down, at start or later, takes nothing from the other LAN, and is answered on when it is up again, with another MAC."""
    bed = guest_bed
    bed.router.ip("link set lan1 down")
    bed.start(main={"pcp": "1"}, extra=[bed.guests()])
    client = bed.h1.udp(H1, 40000)
    for n in range(2):
        assert ask(client, MAP, H1, inside=40000 + n)[0] == 0
        bed.router.ip(f"link set lan1 address 02:00:00:00:00:7{n} up")
        bed.guest.ip("neigh flush all")
        natpmp_external(bed.guest.udp(GUEST, 40000 + n))
        bed.router.ip("link set lan1 down", f"link set lan1 address 02:00:00:00:00:8{n}")
    assert ask(client, MAP, H1, inside=40000)[0] == 0


def natpmp_external(client):
    """Asks for the external address until it is told, as RFC 6886 section 3.1 has it."""
    client.settimeout(0.25)
    for _ in range(40):
        client.sendto(b"\0\0", (GUEST_GATEWAY, 5351))
        try:
            assert client.recv(100)[8:12] == bytes(map(int, GATEWAY.split(".")))
            return
        except TimeoutError:
            client.settimeout(min(client.gettimeout() * 2, 4))
    raise AssertionError("no answer")
