"""A second LAN beside the first, as routers have one for guests."""

import pytest

from bed import GATEWAY, H1, LAN_GATEWAY, S1, uci
from namespace import wait_until

pytestmark = pytest.mark.masqd

GUEST, GUEST_GATEWAY = "192.168.7.10", "192.168.7.1"


def guest_network(bed):
    """Makes the device guest0 and a host behind it; returns the host."""
    guest = bed.add_namespace("guest")
    bed.router.ip(f"link add guest0 type veth peer name eth0 netns {guest.name}", "link set guest0 up", f"addr add {GUEST_GATEWAY}/24 dev guest0")
    guest.ip("link set eth0 up", f"addr add {GUEST}/24 dev eth0", f"route add default via {GUEST_GATEWAY}")
    return guest


def lan_section(driver):
    return ("lan", None, {"device": "guest0", "driver": driver})


def exchange(client, server):
    """Asks S1:7 and is answered; the client's outside endpoint."""
    client.sendto(b"question", (S1, 7))
    heard, outside = server.recvfrom(100)
    assert heard == b"question" and outside[0] == GATEWAY
    server.sendto(b"answer", outside)
    assert client.recv(100) == b"answer"
    return outside


@pytest.mark.parametrize("offload", ["off", "on"])
@pytest.mark.parametrize("guest_driver", ["packet", "tun"])
def test_two_lans(make_bed, guest_driver, offload):
    """Hosts of both go out, keep apart where they have the same port, and reach each other as the kernel routes them."""
    bed = make_bed()
    guest = guest_network(bed)
    bed.start(main={"offload": offload}, extra=[lan_section(guest_driver), ("redirect", "game", {"proto": "udp", "src_dport": "5000", "dest_ip": GUEST})])
    server = bed.wan.udp(S1, 7)
    one, other = bed.h1.udp(H1, 40000), guest.udp(GUEST, 40000)
    outsides = [exchange(client, server) for client in (one, other)]
    assert outsides[0][1] != outsides[1][1]
    for _ in range(3):
        assert [exchange(client, server) for client in (one, other)] == outsides

    listener = bed.wan.listener(S1, 80)
    for host, address in ((bed.h1, H1), (guest, GUEST)):
        client = host.tcp(address, 40001)
        client.connect((S1, 80))
        accepted, _ = listener.accept()
        accepted.sendall(b"x" * 100000)
        accepted.close()
        heard = 0
        while part := client.recv(65536):
            heard += len(part)
        assert heard == 100000

    # A redirect to a guest, from outside and, by the outside address, from the other LAN.
    game = guest.udp(GUEST, 5000)
    stranger = bed.wan.udp(S1, 9)
    for caller in (stranger, one):
        caller.sendto(b"play", (GATEWAY, 5000))
        heard, source = game.recvfrom(100)
        assert heard == b"play" and source[0] == (S1 if caller is stranger else GATEWAY)
        game.sendto(b"ok", source)
        assert caller.recvfrom(100) == (b"ok", (GATEWAY, 5000))

    # Between the LANs nothing is translated.
    inner = guest.udp(GUEST, 6000)
    one.sendto(b"inside", (GUEST, 6000))
    assert inner.recvfrom(100) == (b"inside", (H1, 40000))
    assert "1 received" in guest.run("ping", "-n", "-c", "1", LAN_GATEWAY, check=False).stdout
    # A guest with an address of the other LAN is a spoofer.
    guest.ip("addr add 192.168.1.77/32 dev lo")
    guest.udp("192.168.1.77", 1000).sendto(b"spoofed", (S1, 7))
    bed.await_drops("spoofed-source", 1)


def test_guests_come_and_go(make_bed):
    """A LAN that a reload adds works, one that it takes away does not, and the other one's connection lives through both."""
    bed = make_bed().start()
    guest = guest_network(bed)
    server = bed.wan.udp(S1, 7)
    one, other = bed.h1.udp(H1, 40000), guest.udp(GUEST, 40000)
    outside = exchange(one, server)
    sections = [lan_section(bed.driver)]
    for _ in range(2):
        bed.configure(extra=sections)
        bed.masqd("reload")
        exchange(other, server)
        assert exchange(one, server) == outside
        bed.configure()
        bed.masqd("reload")
        assert [port["name"] for port in bed.status()["ports"]] == ["wan0", bed.lan_device]
        assert exchange(one, server) == outside
    # The first LAN goes, and the guests' takes its place.
    bed.config_file.write_text(uci([section for section in bed.sections(extra=sections) if section[2].get("device") != bed.lan_device]))
    bed.masqd("reload")
    assert [port["name"] for port in bed.status()["ports"]] == ["wan0", "guest0"]
    exchange(other, server)


def test_a_reload_while_a_lan_is_made_anew(make_bed):
    """Its device has no address for a moment, the other LAN's has: what its hosts have open goes on."""
    bed = make_bed()
    guest_network(bed)
    bed.start(extra=[lan_section(bed.driver)])
    server = bed.wan.udp(S1, 7)
    client = bed.h1.udp(H1, 40000)
    outside = exchange(client, server)
    listener = bed.wan.listener(S1, 80)
    connection = bed.h1.tcp(H1, 40001)
    connection.connect((S1, 80))
    accepted, _ = listener.accept()
    bed.router.ip(f"addr del {LAN_GATEWAY}/24 dev {bed.lan_device}")
    wait_until(lambda: "has no IPv4 address" in bed.masqd("status").stdout, "masqd's notice of it")
    bed.masqd("reload")
    assert [f["state"] for f in bed.flows() if f["protocol"] == "tcp"] == ["established"]
    bed.router.ip(f"addr add {LAN_GATEWAY}/24 dev {bed.lan_device}")
    connection.sendall(b"question")
    assert accepted.recv(100) == b"question"
    accepted.sendall(b"answer")
    assert connection.recv(100) == b"answer"
    assert exchange(client, server) == outside
