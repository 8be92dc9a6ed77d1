"""Devices that vanish, floods, garbage: masqd stays, and keeps what it had."""

import random
import re

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw, fuzz

from bed import FAR, GATEWAY, GATEWAY_MAC, H1, H2, H3, LAN_GATEWAY_MAC, S1, S3, lan_mac, wan_mac
from namespace import wait_until
from packets import udp

pytestmark = pytest.mark.masqd


def pings(host, address=S1):
    """True if one ping gets its reply."""
    return "1 received" in host.run("ping", "-n", "-c", "1", "-W", "1", address, check=False).stdout


# ---- devices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["wan", "lan"])
@pytest.mark.parametrize("lan", ["bridge", "veth"])
def test_device_vanishes_and_returns(make_bed, side, lan):
    """Under load, twice."""
    bed = make_bed(lan=lan).start()
    # With the LAN device its policy rule goes, and packets that it had received may find the way to the WAN: to the guard.
    bed.guard_may_drop = side == "lan"
    device = "wan0" if side == "wan" else bed.lan_device
    for _ in range(2):
        pinging = bed.h1.start("ping", "-n", "-i", "0.002", S1)
        pinging.expect("bytes from")
        bed.router.ip(f"link del {device}")
        wait_until(lambda: not next(port for port in bed.status()["ports"] if port["name"] == device)["up"], f"{device} down in masqd status")
        if side == "wan":
            bed.build_wan()
        else:
            if lan == "veth":
                bed.switch.ip("link del br-lan")
            bed.build_lan()
        wait_until(lambda: pings(bed.h1), "a reply after the device is back")
        pinging.kill()
    assert pings(bed.h2)


def test_link_goes_down_and_up(bed):
    assert pings(bed.h1)
    for device in ("wan0", bed.lan_device):
        bed.router.ip(f"link set {device} down")
        bed.h1.run("ping", "-n", "-c", "2", "-i", "0.01", "-W", "0.1", S1, check=False)
        bed.router.ip(f"link set {device} up")
        if device == "wan0":
            bed.router.ip("route replace default via 203.0.113.254 dev wan0")
        wait_until(lambda: pings(bed.h1), f"a reply after {device} is up")


def test_guard_is_put_back(bed):
    """`service firewall restart` flushes every table; other people's transactions leave the guard alone."""
    for meddling in ("flush ruleset", "delete table inet masqd", "flush ruleset; add table inet other"):
        bed.router.run("nft", meddling)
        wait_until(lambda: "chain postrouting" in bed.router.run("nft", "list", "table", "inet", "masqd", check=False).stdout, f"the guard after {meddling}")
        assert pings(bed.h1)
        assert bed.status()["guard"] is not None
    said = len(bed.daemon.lines)
    bed.router.run("nft", "add table inet other; delete table inet other; add table ip masqd; delete table ip masqd")
    assert pings(bed.h1)
    assert bed.daemon.lines[said:] == []


@pytest.mark.drivers("tun")
def test_tun_device_is_meddled_with(bed):
    """Set down, deleted, its rule or its route deleted: masqd puts it back, and the kernel never forwards in its place."""
    bed.guard_may_drop = True
    assert pings(bed.h1)
    table = re.search(r"iif br-lan lookup (\d+)", bed.router.run("ip", "rule").stdout)[1]
    for meddling in (
        "ip link set masq0 down",
        "ip link set masq0 down; ip link set masq0 up",
        "ip link del masq0",
        "ip link del masq0; ip link set wan0 down; ip link set wan0 up; ip route add default via 203.0.113.254",
        f"ip rule del iif br-lan lookup {table}",
    ):
        bed.router.run("sh", "-c", meddling)
        wait_until(lambda: pings(bed.h1), f"a reply after {meddling}")
    bed.stop()
    assert "masq0" not in bed.router.run("sh", "-c", "ip link; ip rule; ip route show table all").stdout


def test_routes_change_again_soon(make_bed):
    """With many routes masqd lists them seldom: a change that comes before it may do so again is not forgotten, though no other news follows it.

    They are more than a socket filter has room for, too."""
    bed = make_bed(far=True).start()
    routes = "".join(f"route add unreachable 10.{n >> 7}.{2 * n & 255}.0/24\n" for n in range(1500))
    bed.router.run("ip", "-batch", "-", stdin=routes)
    wait_until(lambda: pings(bed.h1, FAR), "a reply with many routes")
    gone, back = "route del default\n", "route add default via 203.0.113.254 dev wan0\n"
    for _ in range(3):
        # What it may list in advance is used up first.
        bed.router.run("ip", "-batch", "-", stdin=(gone + back) * 200 + gone)
        wait_until(lambda: not pings(bed.h1, FAR), "no reply without the default route")
        bed.router.run("ip", "-batch", "-", stdin=(back + gone) * 200 + back)
        wait_until(lambda: pings(bed.h1, FAR), "a reply after the default route is back")
    assert "unreachable" in bed.h1.run("ping", "-n", "-c", "1", "-W", "1", "10.0.2.1", check=False).stdout.lower()


# ---- floods ------------------------------------------------------------------------------------------------


def flood(bed, source, flows, first=0):
    """Opens that many UDP flows from one raw host and waits until each was decided on."""
    before = bed.status()
    decided = before["forwarded"]["out"] + sum(drop["count"] for drop in before["drops"])
    template = udp(source, 1, S3, 7)
    for number in range(first, first + flows):
        template[UDP].sport = 1024 + number % 60000
        template[UDP].dport = 7 + number // 60000
        bed.lan_wire.send(template)

    def done():
        now = bed.status()
        return now["forwarded"]["out"] + sum(drop["count"] for drop in now["drops"]) >= decided + flows

    wait_until(done, f"{flows} flows decided on")


def test_flood_of_new_flows(make_bed):
    """A host that fills the table is refused; old flows live, and another host still gets in."""
    bed = make_bed().start(main={"sessions": "256"})
    listener = bed.wan.listener(S1, 80)
    client = bed.h1.tcp(H1, 40001)
    client.connect((S1, 80))
    server, _ = listener.accept()
    question, answer = bed.h1.udp(H1, 40002), bed.wan.udp(S1, 53000)
    question.sendto(b"old", (S1, 53000))
    _, outside = answer.recvfrom(10)
    answer.sendto(b"answered", outside)
    assert question.recv(10) == b"answered"

    flood(bed, H3, 2000)

    refused = {reason: count for reason, count in bed.drops().items() if reason in ("table-full", "host-limit", "host-share")}
    assert sum(refused.values()) >= 2000 - 256, bed.drops()
    assert bed.status()["sessions"]["used"] <= 256
    for one, other in ((client, server), (server, client)):
        one.sendall(b"still here")
        assert other.recv(20) == b"still here"
    question.sendto(b"again", (S1, 53000))
    assert answer.recvfrom(10) == (b"again", outside)
    newcomer = bed.h2.udp(H2, 40003)
    newcomer.sendto(b"new", (S1, 53000))
    assert answer.recvfrom(10)[0] == b"new"


def hostile_flows(bed, flows, at_a_time=2048):
    """Opens that many UDP flows from one raw host, each to another pair of ports, never more under way than masqd's socket holds."""
    frame = bytearray(bed.lan_wire.frame(udp(H3, 1, S3, 7)))
    frame[40:42] = b"\0\0"  # no UDP checksum
    decided = 0

    def count():
        now = bed.status()
        return now["forwarded"]["out"] + sum(drop["count"] for drop in now["drops"])

    for first in range(0, flows, at_a_time):
        decided = count() + at_a_time
        for number in range(first, first + at_a_time):
            frame[34:36] = (1024 + number % 60000).to_bytes(2, "big")
            frame[36:38] = (7 + number // 60000).to_bytes(2, "big")
            bed.lan_wire.send_bytes(frame)
        wait_until(lambda: count() >= decided, f"{first + at_a_time} flows decided on")


def test_hostile_host_with_65536_flows(make_bed):
    """All of another host's new flows succeed, all its old ones live, and ICMP tells the hostile one why."""
    bed = make_bed().start(main={"sessions": "4096"})
    answer = bed.wan.udp(S1, 53000)
    old = [bed.h1.udp(H1, 20000 + n) for n in range(100)]

    def asks(client, n):
        client.sendto(b"%d" % n, (S1, 53000))
        text, outside = answer.recvfrom(10)
        assert text == b"%d" % n
        answer.sendto(text, outside)
        assert client.recv(10) == text
        return outside

    outside = [asks(client, n) for n, client in enumerate(old)]
    hostile_flows(bed, 65536)

    new = [bed.h2.udp(H2, 30000 + n) for n in range(200)]
    for n, client in enumerate(new):
        asks(client, n)
    assert [asks(client, n) for n, client in enumerate(old)] == outside
    told = bed.lan_wire.expect(lambda p: ICMP in p and p[ICMP].type == 3, "destination unreachable")
    assert told.dst == H3 and told[ICMP].code in (1, 13)
    assert bed.status()["sessions"]["used"] <= 4096


def test_refused_flow_is_told(make_bed):
    """I-8: ICMP destination unreachable to the host that is refused, with its own packet quoted."""
    bed = make_bed().start(extra=[("host", None, {"ip": H3, "max_sessions": "5"})])
    flood(bed, H3, 6)
    told = bed.lan_wire.expect(lambda p: ICMP in p and p[ICMP].type == 3, "destination unreachable")
    assert told.dst == H3 and told[ICMP].code in (1, 13)
    quoted = told[ICMP].payload
    assert (quoted.src, quoted.dst, quoted.sport, quoted.dport) == (H3, S3, 1024 + 5, 7)


def test_memory_is_bounded(make_bed):
    """What ten times as many flows as fit cost the first time, they do not cost again."""
    bed = make_bed().start(main={"sessions": "1024"})
    flood(bed, H3, 3000)
    first = bed.resident()
    for turn in range(1, 4):
        flood(bed, H3, 3000, turn * 3000)
    assert bed.resident() - first <= 1024, f"{first} kB, then {bed.resident()} kB"


def test_memory_of_a_hostile_host(make_bed):
    """... and of one that opens 65,536 flows: what they cost the first time, they do not cost again."""
    bed = make_bed().start(main={"sessions": "4096"})
    hostile_flows(bed, 65536)
    resident = bed.resident()
    hostile_flows(bed, 65536)
    assert bed.resident() - resident <= 256


def test_inbound_flood_makes_no_state(bed):
    """F-5."""
    packet = udp(S3, 1000, GATEWAY, 40000)
    for number in range(3000):
        packet[UDP].dport = 32768 + number * 7 % 32768
        bed.wan_wire.send(packet)
    bed.await_drops("no-mapping", 3000)
    status = bed.status()
    assert status["sessions"]["used"] == 0 and status["hosts"] == 0
    assert pings(bed.h1)


# ---- garbage -----------------------------------------------------------------------------------------------


def garbage(count, sources, destinations, ethernet):
    """Frames that are wrong in every way that scapy and a dice know; the same ones every time."""
    random.seed(20240229)
    layers = [TCP, UDP, ICMP]
    for number in range(count):
        addresses = {"src": random.choice(sources), "dst": random.choice(destinations)}
        kind = number % 8
        try:
            if kind < 3:
                packet = bytes(IP(**addresses) / fuzz(layers[kind]()) / Raw(random.randbytes(random.randrange(60))))
            elif kind == 3:
                packet = bytes(fuzz(IP(**addresses)) / fuzz(random.choice(layers)()))
            elif kind == 4:  # an ICMP error that quotes garbage
                quoted = bytes(fuzz(IP(src=addresses["dst"], dst=addresses["src"])) / fuzz(random.choice(layers)()))
                packet = bytes(IP(**addresses) / ICMP(type=random.choice([3, 4, 5, 11, 12]), code=random.randrange(4)) / Raw(quoted))
            else:
                packet = bytes(IP(**addresses) / random.choice(layers)() / Raw(random.randbytes(40)))
        except Exception:  # scapy cannot build all that it dices
            packet = random.randbytes(60)
        if kind == 5:  # cut off anywhere
            packet = packet[: random.randrange(len(packet))]
        elif kind == 6:  # some bytes wrong
            damaged = bytearray(packet)
            for _ in range(random.randrange(1, 6)):
                damaged[random.randrange(len(damaged))] = random.randrange(256)
            packet = bytes(damaged)
        elif kind == 7:
            packet = bytes([random.choice([0x45, 0x4F, 0x40, 0x65])]) + random.randbytes(random.randrange(80))
        yield ethernet + packet[:1500]


def ethernet(destination, source):
    return bytes.fromhex((destination + source).replace(":", "")) + b"\x08\x00"


@pytest.mark.parametrize("filtering", ["address-and-port-dependent", "endpoint-independent"])
def test_garbage_on_both_sides(make_bed, filtering):
    """2,000 frames in each run; a connection goes on beside them."""
    bed = make_bed().start(main={"filtering": filtering})
    listener = bed.wan.listener(S1, 80)
    client = bed.h1.tcp(H1, 40001)
    client.connect((S1, 80))
    server, peer = listener.accept()
    lan = garbage(1000, [H3, "192.168.1.31", "8.8.8.8"], [S1, S3, GATEWAY, "198.51.100.9", "224.0.0.1"], ethernet(LAN_GATEWAY_MAC, lan_mac(H3)))
    wan = garbage(1000, [S1, S3, H1, GATEWAY], [GATEWAY, GATEWAY, H1, "203.0.113.255"], ethernet(GATEWAY_MAC, wan_mac(S3)))
    for number, (one, other) in enumerate(zip(lan, wan)):
        bed.lan_wire.send_bytes(one)
        bed.wan_wire.send_bytes(other)
        if number % 100 == 0:
            client.sendall(b"out")
            assert server.recv(10) == b"out"
    assert bed.daemon.running(), bed.daemon.output
    drops = bed.drops()
    assert len(drops) >= 8 and sum(drops.values()) >= 500, drops
    assert pings(bed.h1) and pings(bed.h2)
    server.sendall(b"in")
    assert client.recv(10) == b"in"
    assert peer[0] == GATEWAY
