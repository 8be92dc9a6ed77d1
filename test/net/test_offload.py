"""Established sessions in the kernel: that they are there, that nothing is different for them, and that they come out again."""

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from bed import GATEWAY, H1, H3, MASQD, S1, S2, S3, iperf_server, lan_mac, wan_mac
from namespace import GUARD, run, wait_until
from packets import assert_checksums, echo, is_echo_reply, is_udp, tcp, udp

pytestmark = pytest.mark.masqd

# Seconds of the test that switches offload on and off; `make soak` makes it a minute.
SOAK = float(os.environ.get("OFFLOAD_SOAK", "4"))


@pytest.fixture
def bed(make_bed):
    return make_bed().start(main={"offload": "on"})


def offload(bed):
    return bed.status()["offload"]


def seen(bed):
    """Frames that user space has received, by port."""
    return {port["name"]: port["received"] for port in bed.status()["ports"]}


def carried(bed):
    one = offload(bed)
    return one["packetsOut"], one["packetsIn"]


def flow(bed, text):
    """The one session with this text in one of its endpoints."""
    found = [one for one in bed.flows() if text in (one["internal"], one["peer"], one["external"])]
    assert len(found) == 1, bed.flows()
    return found[0]


def answered(bed, client_port=40001, server_port=7, host=None, source=H1, server_address=S1):
    """A UDP session in the cache: client socket, server socket, the client's outside endpoint.

    It is there with the first answer, or a second later, if masqd had not heard of the host's MAC yet.
    """
    flows = offload(bed)["flows"]
    client = (host or bed.h1).udp(source, client_port)
    server = bed.wan.udp(server_address, server_port)

    def cached():
        client.sendto(b"question", (server_address, server_port))
        heard, outside = server.recvfrom(100)
        assert heard == b"question"
        server.sendto(b"answer", outside)
        assert client.recv(100) == b"answer"
        return outside if offload(bed)["flows"] > flows else time.sleep(0.1)

    return client, server, wait_until(cached, "the session in the cache")


def connected(bed, port=80, client_port=40002):
    """A TCP connection in the cache, with an octet sent each way."""
    flows = offload(bed)["flows"]
    listener = bed.wan.listener(S1, port)
    client = bed.h1.tcp(H1, client_port)
    client.connect((S1, port))
    server, peer = listener.accept()

    def cached():
        for one, other in ((client, server), (server, client)):
            one.sendall(b"x")
            assert other.recv(10) == b"x"
        return offload(bed)["flows"] > flows or time.sleep(0.1)

    wait_until(cached, "the connection in the cache")
    return client, server, peer


# ---- in the kernel -----------------------------------------------------------------------------------------


def test_user_space_sees_nothing_of_a_cached_session(bed):
    """Exact counts: every datagram after the answer is the kernel's, in both directions, and payloads are whole."""
    client, server, outside = answered(bed)
    before, kernel, user = seen(bed), carried(bed), flow(bed, f"{H1}:40001")
    noise = random.Random(1)
    for number in range(200):
        data = noise.randbytes(1 + number * 7)
        client.sendto(data, (S1, 7))
        assert server.recvfrom(2000) == (data, outside)
        server.sendto(data[::-1], outside)
        assert client.recv(2000) == data[::-1]
    assert seen(bed) == before
    assert carried(bed) == (kernel[0] + 200, kernel[1] + 200)
    shown = flow(bed, f"{H1}:40001")
    octets = sum(1 + n * 7 for n in range(200)) + 200 * 28
    for key, more in (("packetsOut", 200), ("packetsIn", 200), ("bytesOut", octets), ("bytesIn", octets)):
        assert shown[key] == user[key] + more, key
    assert offload(bed)["flows"] == 1
    assert bed.status()["forwarded"] == {"out": shown["packetsOut"], "in": shown["packetsIn"]}


@pytest.mark.parametrize("way", [[], ["-R"], ["-P", "4"]], ids=["out", "in", "4-streams"])
def test_tcp_goes_by_the_kernel(bed, way):
    """Super-packets with partial checksums, one second of them; user space has the openings and the ends."""
    iperf_server(bed.wan)
    result = json.loads(bed.h1.run("iperf3", "-J", "-c", S1, "-t", "1", *way).stdout)
    assert result["end"]["sum_received"]["bytes"] > 0
    user, kernel = sum(seen(bed).values()), sum(carried(bed))
    assert kernel > 1000 and user < 200, (user, kernel)


def test_ping_goes_by_the_kernel(bed):
    pinging = bed.h1.start("ping", "-n", "-c", "20", "-i", "0.05", S1)
    assert pinging.wait() == 0 and "20 received" in pinging.output
    assert carried(bed) >= (15, 15)
    assert pinging.output.count("ttl=63") == 20


@pytest.mark.parametrize("options", [{"lan": "veth"}, {"wan": "tun"}, {"lan": "veth", "wan": "tun"}], ids=["plain-lan", "headerless-wan", "both"])
def test_other_devices(make_bed, options):
    """A LAN that is no bridge; a WAN without link header, where one is made on the way in."""
    bed = make_bed(**options).start(main={"offload": "on"})
    client, server, outside = answered(bed)
    before = seen(bed)
    for number in range(20):
        data = bytes([number]) * 1000
        client.sendto(data, (S1, 7))
        assert server.recvfrom(2000) == (data, outside)
        server.sendto(data, outside)
        assert client.recv(2000) == data
    assert seen(bed) == before
    client, server, _ = connected(bed)
    blob = random.Random(2).randbytes(3 << 20)
    for one, other in ((client, server), (server, client)):
        sender = threading.Thread(target=one.sendall, args=(blob,))
        sender.start()
        got = b""
        while len(got) < len(blob):
            got += other.recv(1 << 20)
        sender.join()
        assert got == blob


# ---- nothing is different ----------------------------------------------------------------------------------


def raw_session(bed, sport=5000):
    """A cached UDP session of the raw hosts H3 and S3, whose MACs everybody knows; its external port."""
    bed.lan_wire.send(udp(H3, sport, S3, 7, b"open"))
    outside = bed.wan_wire.expect(is_udp(7, b"open"))
    bed.wan_wire.send(udp(S3, 7, GATEWAY, outside[UDP].sport, b"answer"))
    bed.lan_wire.expect(is_udp(sport, b"answer"))
    assert offload(bed)["flows"] == 1
    return outside[UDP].sport


def test_headers_and_checksums(bed):
    """Hop count, both checksums, MACs; a datagram without checksum stays without; TOS and identification are left alone."""
    port = raw_session(bed)
    before = seen(bed)
    given = []
    for data, fields in ((b"a", {}), (b"xy" * 100, {"tos": 0xB8, "id": 77, "flags": "DF"}), (b"odd", {"ttl": 2})):
        for wire, other, packet, source, destination in (
            (bed.lan_wire, bed.wan_wire, udp(H3, 5000, S3, 7, data, **fields), (GATEWAY, port), (S3, 7)),
            (bed.wan_wire, bed.lan_wire, udp(S3, 7, GATEWAY, port, data, **fields), (S3, 7), (H3, 5000)),
        ):
            for checksum in (None, 0):
                packet[UDP].chksum = checksum
                wire.send(packet)
                got = other.expect(lambda p, want=destination: UDP in p and p[UDP].dport == want[1] and p.dst == want[0])
                assert (got.src, got[UDP].sport) == source and bytes(got[UDP].payload) == data
                assert got.ttl == packet.ttl - 1 and got.tos == packet.tos and got.flags == packet.flags
                if wire is bed.lan_wire and not packet.flags.DF:
                    given.append(got.id)
                else:
                    assert got.id == packet.id
                assert (got[UDP].chksum == 0) == (checksum == 0)
                assert_checksums(got)
    # RFC 6864: identifications of datagrams that may be fragmented are unique, and not those that user space gives.
    assert len(set(given)) == len(given) == 4 and min(given) >= 0x8000
    assert seen(bed) == before


def test_echo_through_the_cache(bed):
    for sequence in range(1, 8):
        bed.lan_wire.send(echo(H3, S3, identifier=99, sequence=sequence))
        asked = bed.wan_wire.expect(lambda p, n=sequence: p.proto == 1 and p.payload.seq == n)
        assert_checksums(asked)
        reply = asked.copy()
        reply.src, reply.dst, reply.payload.type = S3, GATEWAY, 0
        del reply.chksum, reply.payload.chksum
        bed.wan_wire.send(IP(bytes(reply)))
        back = bed.lan_wire.expect(is_echo_reply(sequence))
        assert back.payload.id == 99
        assert_checksums(back)
    assert carried(bed)[0] >= 4 and carried(bed)[1] >= 4


def test_what_is_not_plain_goes_up(bed):
    """Options, fragments, a last hop, a wrong header checksum, too big: user space judges them as without offload."""
    raw_session(bed)
    kernel = carried(bed)
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"router alert", options=b"\x94\x04\x00\x00"))
    assert_checksums(bed.wan_wire.expect(is_udp(7, b"router alert")))
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"last hop", ttl=1))
    bed.lan_wire.expect(lambda p: p.proto == 1 and p.payload.type == 11, "time exceeded")
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"damaged", chksum=0x1234))
    # A frame to another host's MAC, one with a VLAN tag: not for us at all.
    frame = Ether(bed.lan_wire.frame(udp(H3, 5000, S3, 7, b"stranger")))
    frame.dst = "02:00:00:00:00:77"
    bed.lan_wire.send_bytes(bytes(frame))
    own = bytearray(bed.lan_wire.frame(udp(H3, 5000, S3, 7, b"tagged")))
    bed.lan_wire.send_bytes(bytes(own[:12] + b"\x81\x00\x00\x05" + own[12:]))
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"good"))
    bed.wan_wire.expect(is_udp(7, b"good"), unwanted=lambda p: UDP in p and bytes(p[UDP].payload) in (b"damaged", b"stranger", b"tagged"))
    assert carried(bed) == (kernel[0] + 1, kernel[1])


def test_too_big_is_answered(make_bed):
    """The WAN's MTU holds for cached sessions too: DF is answered, in super-packets each segment counts."""
    bed = make_bed(wan_mtu=1400).start(main={"offload": "on"})
    raw_session(bed)
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"z" * 1373, flags="DF"))
    told = bed.lan_wire.expect(lambda p: p.proto == 1 and p.payload.type == 3, "fragmentation needed")
    assert told.payload.code == 4 and told.payload.nexthopmtu == 1400
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"z" * 1372, flags="DF"))
    bed.wan_wire.expect(is_udp(7, b"z" * 1372))
    iperf_server(bed.wan)
    result = json.loads(bed.h1.run("iperf3", "-J", "-c", S1, "-t", "1").stdout)
    assert result["end"]["sum_received"]["bytes"] > 1_000_000
    assert sum(carried(bed)) > 100


@pytest.mark.parametrize("way", ["wan", "lan"])
def test_a_route_takes_less(bed, way):
    """`mtu` of a route holds for cached sessions as for the kernel's own forwarding: what is larger is user space's, whenever the route came."""
    port = raw_session(bed)
    route = f"route replace {S3} via 203.0.113.254 dev wan0 mtu 1300" if way == "wan" else f"route replace {H3} dev {bed.lan_device} mtu 1300"
    if way == "wan":
        bed.router.ip(f"neigh replace 203.0.113.254 lladdr {wan_mac(S3)} dev wan0 nud permanent")

    def by_the_kernel(size):
        """Whether a datagram of this size is; a small one behind it always is."""
        before = sum(carried(bed))
        for data in (b"z" * (size - 28), b"small"):
            if way == "wan":
                bed.lan_wire.send(udp(H3, 5000, S3, 7, data))
            else:
                bed.wan_wire.send(udp(S3, 7, GATEWAY, port, data))
        (bed.wan_wire if way == "wan" else bed.lan_wire).expect(lambda p: UDP in p and bytes(p[UDP].payload) == b"small")
        return sum(carried(bed)) - before == 2

    assert by_the_kernel(1400)
    bed.router.ip(route)
    wait_until(lambda: offload(bed)["flows"] == 0 or time.sleep(0.02), "the session out of the cache")
    wait_until(lambda: offload(bed)["flows"] == 1 or time.sleep(0.02), "the session in the cache again")
    assert by_the_kernel(1300) and not by_the_kernel(1301)


# ---- out of the cache --------------------------------------------------------------------------------------


def test_expiry_looks_at_the_kernel(make_bed):
    """A session in use in the kernel alone lives; idle, it ends. Inbound packets do not keep UDP open (RFC 4787 REQ-6)."""
    bed = make_bed().start(main={"offload": "on"}, extra=[("timeouts", None, {"udp": "3"})])
    client, server, outside = answered(bed)
    quiet, quiet_server, quiet_outside = answered(bed, client_port=40009, server_port=9)
    before = seen(bed)
    began = time.monotonic()
    while time.monotonic() < began + 8:
        client.sendto(b"alive", (S1, 7))
        assert server.recvfrom(100) == (b"alive", outside)
        quiet_server.sendto(b"inbound", quiet_outside)
        time.sleep(0.1)
    assert flow(bed, f"{H1}:40001")["left"] >= 2
    assert not [one for one in bed.flows() if one["internal"] == f"{H1}:40009"], bed.flows()
    assert seen(bed)[bed.lan_device] == before[bed.lan_device]
    wait_until(lambda: offload(bed)["flows"] == 0 and bed.status()["sessions"]["used"] == 0, "the idle session to end")
    server.sendto(b"late", outside)
    bed.await_drops("no-mapping", 1)


def test_a_connection_is_in_the_kernel_from_its_answer_to_its_end(bed):
    """User space has the SYN and its answer; the rest, a direction that closes early included, goes by the kernel, and the states are right."""
    client, server, _ = connected(bed)
    before = seen(bed)
    client.shutdown(socket.SHUT_WR)
    assert server.recv(10) == b""
    wait_until(lambda: flow(bed, f"{H1}:40002")["state"] == "fin-sent", "fin-sent")
    blob = random.Random(3).randbytes(100_000)
    server.sendall(blob)
    got = b""
    while len(got) < len(blob):
        got += client.recv(1 << 16)
    assert got == blob
    assert offload(bed)["flows"] == 1 and flow(bed, f"{H1}:40002")["left"] > 240
    server.close()
    assert client.recv(10) == b""
    wait_until(lambda: flow(bed, f"{H1}:40002")["state"] == "closing", "closing")
    assert offload(bed)["flows"] == 0 and flow(bed, f"{H1}:40002")["left"] <= 240
    assert seen(bed) == before


def test_opened_in_the_kernel(bed):
    """The SYN+ACK puts the connection into the kernel: still opening until a segment has passed there, then established, then closed from outside first."""
    lan, wan = bed.lan_wire, bed.wan_wire
    lan.send(tcp(H3, 5001, S3, 80, "S", seq=100))
    port = wan.expect(lambda p: TCP in p)[TCP].sport
    wan.send(tcp(S3, 80, GATEWAY, port, "SA", seq=1_000, ack=101))
    lan.expect(lambda p: TCP in p and p[TCP].flags == "SA")
    before = seen(bed)
    assert offload(bed)["flows"] == 1
    assert flow(bed, f"{H3}:5001")["state"] == "opening"
    lan.send(tcp(H3, 5001, S3, 80, "A", seq=101, ack=1_001))
    assert_checksums(wan.expect(lambda p: TCP in p and p[TCP].flags == "A"))
    assert flow(bed, f"{H3}:5001")["state"] == "established"
    wan.send(tcp(S3, 80, GATEWAY, port, "FA", seq=1_001, ack=101))
    assert_checksums(lan.expect(lambda p: TCP in p and p[TCP].flags == "FA"))
    assert flow(bed, f"{H3}:5001")["state"] == "fin-received"
    lan.send(tcp(H3, 5001, S3, 80, "FA", seq=101, ack=1_002))
    assert_checksums(wan.expect(lambda p: TCP in p and p[TCP].flags == "FA"))
    assert seen(bed) == before
    # A SYN on the same ports finds it closed, whether or not anybody has looked since: a new connection.
    lan.send(tcp(H3, 5001, S3, 80, "S", seq=900))
    assert wan.expect(lambda p: TCP in p and p[TCP].flags == "S")[TCP].sport == port
    assert flow(bed, f"{H3}:5001")["state"] == "syn-sent" and offload(bed)["flows"] == 0


def test_closed_connections_make_room(make_bed):
    """A full table: connections that have closed in the kernel alone, unseen, go for new ones; an open one stays."""
    bed = make_bed().start(main={"offload": "on", "sessions": "256"})
    kept = connected(bed, port=81, client_port=40100)[:2]
    listener = bed.wan.listener(S1, 80)
    for _ in range(600):
        client = bed.h1.tcp()
        client.connect((S1, 80))
        server, _ = listener.accept()
        server.close()
        assert client.recv(10) == b""
        client.close()
    for one, other in (kept, kept[::-1]):
        one.sendall(b"still here")
        assert other.recv(100) == b"still here"


def test_reset_leaves_the_cache(bed):
    client, server, _ = connected(bed)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    assert flow(bed, f"{H1}:40002")["state"] == "reset" and offload(bed)["flows"] == 0


def test_forged_reset_is_refused(bed):
    """Off-path: its numbers are not what the kernel's packets have since acknowledged; the session stays."""
    lan, wan = bed.lan_wire, bed.wan_wire
    lan.send(tcp(H3, 5001, S3, 80, "S", seq=100))
    port = wan.expect(lambda p: TCP in p)[TCP].sport
    wan.send(tcp(S3, 80, GATEWAY, port, "SA", seq=1_000, ack=101))
    lan.expect(lambda p: TCP in p and p[TCP].flags == "SA")
    lan.send(tcp(H3, 5001, S3, 80, "A", seq=101, ack=1_001))
    wan.expect(lambda p: TCP in p and p[TCP].flags == "A")
    wait_until(lambda: offload(bed)["flows"] == 1, "the connection in the cache")
    before = seen(bed)
    # The kernel alone sees the peer's numbers move on by a megabyte.
    lan.send(tcp(H3, 5001, S3, 80, "A", seq=101, ack=1_001_001))
    assert_checksums(wan.expect(lambda p: TCP in p and p[TCP].ack == 1_001_001))
    assert seen(bed) == before
    wan.send(tcp(S3, 80, GATEWAY, port, "R", seq=1_001))
    bed.await_drops("tcp-bad-reset", 1)
    assert flow(bed, f"{H3}:5001")["state"] == "established" and offload(bed)["flows"] == 1
    wan.send(tcp(S3, 80, GATEWAY, port, "R", seq=1_001_001))
    lan.expect(lambda p: TCP in p and p[TCP].flags == "R")
    assert flow(bed, f"{H3}:5001")["state"] == "reset" and offload(bed)["flows"] == 0


@pytest.mark.parametrize("side", ["wan", "lan"])
def test_neighbour_gets_another_mac(bed, side):
    """The very next packet has the new MAC."""
    port = raw_session(bed)
    address, device, wire = (S3, "wan0", bed.wan_wire) if side == "wan" else (H3, bed.lan_device, bed.lan_wire)
    new = "02:00:00:00:09:09"
    bed.router.ip(f"neigh replace {address} lladdr {new} dev {device} nud permanent")
    wait_until(lambda: offload(bed)["flows"] == 0, "the session out of the cache")
    frames = (
        bed.wan.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        if side == "wan"
        else bed._raw.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    )
    frames.bind(("eth0", 0))
    with contextlib.closing(frames):
        for data in (b"once", b"again"):
            if side == "wan":
                bed.lan_wire.send(udp(H3, 5000, S3, 7, data))
            else:
                bed.wan_wire.send(udp(S3, 7, GATEWAY, port, data))
            wire.expect(is_udp(None, data))
            while True:
                frame = frames.recv(2000)
                if frame.endswith(data) and frame[6:12] != bytes.fromhex(lan_mac(H3).replace(":", "")):
                    break
            assert frame[:6] == bytes.fromhex(new.replace(":", ""))


def test_wan_address_changes(make_bed):
    """Nothing leaves under the old address once the change is known, and new sessions are cached under the new one."""
    new = "203.0.113.5"
    bed = make_bed()
    bed.sniffer.allow([GATEWAY, new])
    bed.start(main={"offload": "on"})
    client, server, outside = answered(bed)
    bed.router.ip(f"addr del {GATEWAY}/24 dev wan0", f"addr add {new}/24 dev wan0", "route replace default via 203.0.113.254")
    wait_until(lambda: [p for p in bed.status()["ports"] if p["role"] == "wan"][0]["address"] == new, "the new address")
    bed.sniffer.allow([new])
    bed.external[:] = [new]

    def again():
        client.sendto(b"again", (S1, 7))
        server.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            return server.recvfrom(100)

    data, source = wait_until(again, "a packet by the new address")
    assert data == b"again" and source[0] == new
    client, server, outside = answered(bed, client_port=40003, server_port=8)
    before = seen(bed)
    client.sendto(b"by the kernel", (S1, 8))
    assert server.recvfrom(100) == (b"by the kernel", outside) and outside[0] == new
    assert seen(bed) == before


def test_killed(bed):
    """kill -9: the programs go with it, nothing leaves untranslated, the next one takes up again."""
    # With the tun driver the kernel forwards while there is no masqd, into the guard: the sniffer sees what passes.
    bed.guard_may_drop = True
    answered(bed)
    pinging = bed.h1.start("ping", "-n", "-i", "0.005", S1)
    pinging.expect("icmp_seq=20 ")
    assert run("bash", "-c", f"ls -l /proc/{bed.daemon.pid}/fd | grep -c bpf", check=False).stdout.strip() != "0"
    bed.daemon.kill()
    dead = bed.h1.run("ping", "-n", "-c", "5", "-i", "0.01", "-W", "0.2", S1, check=False)
    assert "0 received" in dead.stdout
    bed.start()
    sequence = len(pinging.lines)
    wait_until(lambda: len(pinging.lines) > sequence + 50, "replies after the restart")
    pinging.stop()
    assert carried(bed)[0] > 0


# ---- ways and modes ----------------------------------------------------------------------------------------


def launch(bed, main, env=None, wrapper=()):
    bed.configure(main=main)
    bed.daemon = bed.router.start(*wrapper, *bed.command(), env=env)
    bed._closing.callback(bed.daemon.kill)
    return bed.daemon


def test_classic_filter(make_bed):
    """What kernels before 6.6 have: the same programs by clsact. A clean stop leaves no trace; killed, the filter stops by itself."""
    bed = make_bed()
    before = bed.router.run("tc", "qdisc", "show").stdout
    launch(bed, {"offload": "on"}, env={"MASQD_OFFLOAD": "clsact"}).expect("^masqd: ready:")
    assert offload(bed)["detail"] == "clsact"
    client, server, outside = answered(bed)
    user = seen(bed)
    for _ in range(10):
        client.sendto(b"by the filter", (S1, 7))
        assert server.recvfrom(100) == (b"by the filter", outside)
        server.sendto(b"and back", outside)
        assert client.recv(100) == b"and back"
    assert seen(bed) == user
    bed.stop()
    assert bed.router.run("tc", "qdisc", "show").stdout == before
    launch(bed, {"offload": "on"}, env={"MASQD_OFFLOAD": "clsact"}).expect("^masqd: ready:")
    client.close()
    server.close()
    client, server, outside = answered(bed)
    bed.daemon.kill()

    def silent():
        client.sendto(b"dead", (S1, 7))
        server.settimeout(0.3)
        try:
            return server.recvfrom(100) and False
        except TimeoutError:
            return True

    wait_until(silent, "the filter to stop by itself")
    launch(bed, {"offload": "on"}, env={"MASQD_OFFLOAD": "clsact"}).expect("^masqd: ready:")
    bed.h1.ping(S1, 2)


NO_BPF = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin")


def test_switched_off_and_on_by_a_reload(bed):
    """What goes by the kernel comes home with its counters, goes on, and goes by the kernel again when it may; started without, it
    says that it needs a restart."""
    client, server, outside = answered(bed)

    def exchange():
        client.sendto(b"question", (S1, 7))
        assert server.recvfrom(100) == (b"question", outside)
        server.sendto(b"answer", outside)
        assert client.recv(100) == b"answer"

    for _ in range(10):
        exchange()
    before = flow(bed, f"{H1}:40001")["packetsOut"]
    bed.configure(main={"offload": "off"})
    assert bed.masqd("reload").stdout == "reloaded\n"
    status = bed.status()
    assert not status["offload"]["active"] and flow(bed, f"{H1}:40001")["packetsOut"] == before
    heard = seen(bed)
    exchange()
    assert seen(bed)["wan0"] > heard["wan0"] and flow(bed, f"{H1}:40001")["packetsOut"] == before + 1
    bed.configure(main={"offload": "on"})
    assert json.loads(bed.masqd("reload", "-j").stdout) == {"errors": [], "notes": []}
    wait_until(lambda: exchange() or offload(bed)["flows"] == 1 or time.sleep(0.1), "the session in the cache")
    exchange()
    bed.stop()

    bed.start(main={"offload": "off"})
    bed.configure(main={"offload": "auto", "filtering": "endpoint-independent"})
    for _ in range(2):
        notes = json.loads(bed.masqd("reload", "-j").stdout)["notes"]
        assert len(notes) == 1 and "option offload 'auto' needs a restart" in notes[0]
    assert "restart" in offload(bed)["detail"]
    stranger = bed.wan.udp(S1, 9)
    stranger.sendto(b"stranger", outside)
    assert client.recv(100) == b"stranger"
    bed.stop()
    bed.start()
    assert offload(bed)["active"]
    exchange()


def test_auto_falls_back(make_bed):
    """One line at the start, the reason in `masqd status`, and everything works."""
    bed = make_bed()
    daemon = launch(bed, {"offload": "auto"}, wrapper=NO_BPF)
    daemon.expect("^masqd: ready:")
    assert len([line for line in daemon.lines if "no offload: no permission" in line]) == 1, daemon.output
    assert not offload(bed)["active"] and "no permission" in offload(bed)["detail"]
    assert "none: no permission" in bed.masqd("status").stdout
    bed.h1.ping(S1, 2)


def test_on_fails_loudly(make_bed):
    bed = make_bed()
    bed.configure(main={"offload": "on"})
    before = bed.snapshot()
    process = bed.router.start(*NO_BPF, *bed.command())
    assert process.wait() == 1 and len(process.lines) == 1, process.output
    assert "offload 'on'" in process.lines[0] and "permission" in process.lines[0]
    assert bed.snapshot() == before


def test_auto_is_on_here(make_bed):
    bed = make_bed().start(main={"offload": "auto"})
    assert offload(bed)["active"] and offload(bed)["detail"] == "tcx"
    answered(bed)[0].sendto(b"x", (S1, 7))
    assert "by the kernel" in bed.masqd("status").stdout


@pytest.mark.drivers("packet")
def test_dump(make_bed):
    """The programs of a configuration, with the addresses that the devices have."""
    bed = make_bed()
    shown = bed.router.run(MASQD, "offload", "--dump", "-c", bed.configure(main={"offload": "on"})).stdout
    assert f"{bed.lan_device} ingress" in shown and "wan0 ingress" in shown and "no address" not in shown
    assert shown.count("call 23") == 2 and max(len(line) for line in shown.splitlines()) <= 76


# ---- on and off under load ---------------------------------------------------------------------------------


class Exchange(threading.Thread):
    """Many UDP flows that ask and check what is answered; a lost datagram is asked again, a wrong one is kept."""

    def __init__(self, bed, flows, ended):
        super().__init__(daemon=True)
        self.clients = [bed.h1.udp(H1, 42000 + n) for n in range(flows)]
        self.server = bed.wan.udp(S2, 7007)
        self.ended = ended
        self.wrong = []
        self.good = 0
        self.lost = 0
        for one in (*self.clients, self.server):
            one.settimeout(0.5)

    def run(self):
        number = 0
        while not self.ended.is_set():
            client = self.clients[number % len(self.clients)]
            port = client.getsockname()[1]
            number += 1
            text = f"{port} {number} ".encode() + random.Random(number).randbytes(number % 1200)
            client.sendto(text, (S2, 7007))
            try:
                while True:
                    heard, outside = self.server.recvfrom(2000)
                    if heard.split(b" ")[1] == str(number).encode():
                        break
                if heard != text:
                    self.wrong.append((text, heard))
                self.server.sendto(heard[::-1], outside)
                while True:
                    back = client.recv(2000)[::-1]
                    if not back.startswith(f"{port} ".encode()):
                        self.wrong.append((port, back))
                    if back == text:
                        break
                self.good += 1
            except TimeoutError:
                self.lost += 1


class Churn(threading.Thread):
    """Connection after connection, each with data both ways and a proper end."""

    def __init__(self, bed, ended):
        super().__init__(daemon=True)
        self.bed = bed
        self.ended = ended
        self.done = 0
        self.failed = []
        self.listener = bed.wan.listener(S1, 9090)

    def run(self):
        while not self.ended.is_set():
            text = os.urandom(2000)
            try:
                client = self.bed.h1.tcp()
                client.connect((S1, 9090))
                server, _ = self.listener.accept()
                server.settimeout(GUARD)
                client.sendall(text)
                got = b""
                while len(got) < len(text):
                    got += server.recv(4000)
                assert got == text
                server.sendall(text)
                got = b""
                while len(got) < len(text):
                    got += client.recv(4000)
                assert got == text
                client.close()
                assert server.recv(1) == b""
                server.close()
                self.done += 1
            except (OSError, AssertionError) as error:
                self.failed.append(repr(error))


def test_switched_under_load(make_bed):
    """Sessions leave the cache all at once, every second, and come back, under a stream, many flows and churn with few records: nothing is lost or mixed up."""
    bed = make_bed().start(main={"offload": "on", "sessions": "512"})
    iperf_server(bed.wan)
    until = time.monotonic() + SOAK
    stream = bed.h1.start("iperf3", "-J", "-c", S1, "-t", str(int(SOAK)))
    ended = threading.Event()
    workers = [Exchange(bed, 60, ended), Churn(bed, ended)]
    for one in workers:
        one.start()
    switches, mtu = 0, 1500
    # Under load however slow the machine: while the workers are at it there are three switches at least.
    while switches < 3 or time.monotonic() < until - 0.5:
        time.sleep(0.5 if SOAK < 10 else 1)
        mtu = 1500 if mtu == 1499 else 1499
        bed.router.ip(f"link set wan0 mtu {mtu}")
        switches += 1
    ended.set()
    for one in workers:
        one.join(GUARD + SOAK)
    assert stream.wait(GUARD + SOAK) == 0, stream.output
    exchange, churn = workers
    assert not exchange.wrong and exchange.lost == 0 and exchange.good > 50, (exchange.wrong[:3], exchange.lost, exchange.good)
    assert not churn.failed and churn.done > 10, (churn.failed[:3], churn.done)
    assert sum(carried(bed)) > 1000


def test_stands_back_from_filters_of_others(make_bed):
    """SQM's ingress shaper and the like see every packet: with `auto` nothing goes past them, before and after they come; with `on` it does."""
    bed = make_bed().start(main={"offload": "auto"})
    client, server, outside = answered(bed)
    bed.router.run("tc", "qdisc", "add", "dev", "wan0", "clsact")
    bed.router.run("tc", "filter", "add", "dev", "wan0", "ingress", "bpf", "bytecode", "1,6 0 0 0")
    wait_until(lambda: not offload(bed)["active"], "offload standing back")
    assert "wan0 has ingress filters of others" in offload(bed)["detail"] and offload(bed)["flows"] == 0
    before = carried(bed)
    for n in range(10):
        client.sendto(b"%d" % n, (S1, 7))
        assert server.recvfrom(100) == (b"%d" % n, outside)
    assert carried(bed) == before
    bed.stop()
    bed.start()
    assert not offload(bed)["active"]
    bed.router.run("tc", "qdisc", "del", "dev", "wan0", "clsact")
    wait_until(lambda: offload(bed)["active"], "offload at work")
    answered(bed, client_port=40009, server_port=8)


CHAINS = {
    "ingress": ("netdev", "wan0", "type filter hook ingress device wan0 priority 0", "wan0 has ingress filters of others (nft chain netdev ban c)"),
    "egress": ("netdev", "wan0", "type filter hook egress device wan0 priority 0", "wan0 has egress filters of others (nft chain netdev ban c)"),
    "inet": ("inet", "wan0", "type filter hook ingress device wan0 priority 0", "wan0 has ingress filters of others (nft chain inet ban c)"),
    "lan": ("netdev", "br-lan", "type filter hook ingress device br-lan priority 0", "br-lan has ingress filters of others (nft chain netdev ban c)"),
    "several": ("netdev", "wan0", "type filter hook ingress devices = { lo, wan0 } priority 0", "wan0 has ingress filters of others (nft chain netdev ban c)"),
}


def banned(bed, chain):
    """Makes a chain of the list in which the peer S1 is banned both ways."""
    family, _, hook, _ = CHAINS[chain]
    rules = f"table {family} ban {{\n chain c {{\n {hook};\n ip saddr {S1} drop\n ip daddr {S1} drop\n }}\n}}\n"
    bed.router.run("nft", "-f", "-", stdin=rules)


@pytest.mark.parametrize("chain", CHAINS)
def test_stands_back_from_chains_of_others(make_bed, chain):
    """A ban in a chain of nftables on a port holds for cached sessions from the moment it is there; `auto` is back at work when it has gone."""
    family, _, _, words = CHAINS[chain]
    bed = make_bed().start(main={"offload": "auto"})
    client, server, outside = answered(bed)
    banned(bed, chain)
    wait_until(lambda: not offload(bed)["active"], "offload standing back")
    assert words in offload(bed)["detail"] and offload(bed)["flows"] == 0
    assert "by the kernel" not in bed.masqd("status").stdout
    # What the rules drop on either way does not come through.
    client.sendto(b"banned", (S1, 7))
    server.sendto(b"banned", outside)
    for one in (client, server):
        one.settimeout(0.3)
    heard = []
    for one in (client, server):
        with contextlib.suppress(TimeoutError):
            heard.append(one.recv(100))
    assert len(heard) < 2, heard
    bed.stop()
    bed.start()
    assert not offload(bed)["active"]
    # Switched off it is nobody's hindrance, on again it is.
    bed.router.run("nft", "add", "table", family, "ban", "{ flags dormant; }")
    wait_until(lambda: offload(bed)["active"], "offload at work")
    bed.router.run("nft", "add", "table", family, "ban")
    wait_until(lambda: not offload(bed)["active"], "offload standing back")
    bed.router.run("nft", "delete", "table", family, "ban")
    wait_until(lambda: offload(bed)["active"], "offload at work")
    answered(bed, client_port=40009, server_port=8)


def test_on_says_whom_it_goes_past(make_bed):
    """With `on` sessions stay in the kernel, past a shaper's redirection and a chain: `status` names both while they are there."""
    bed = make_bed().start(main={"offload": "on"})
    answered(bed)
    assert offload(bed)["past"] == "" and "past" not in bed.masqd("status").stdout
    bed.router.run("ip", "link", "add", "ifb4wan", "type", "ifb")
    bed.router.run("ip", "link", "set", "ifb4wan", "up")
    bed.router.run("tc", "qdisc", "add", "dev", "wan0", "handle", "ffff:", "ingress")
    redirect = "parent ffff: protocol all prio 10 u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev ifb4wan"
    bed.router.run("tc", "filter", "add", "dev", "wan0", *redirect.split())
    banned(bed, "egress")
    words = "wan0 has ingress filters of others (tc redirect to ifb4wan); wan0 has egress filters of others (nft chain netdev ban c)"
    wait_until(lambda: offload(bed)["past"] == words, "their names")
    assert offload(bed)["active"] and offload(bed)["flows"] == 1
    shown = bed.masqd("status").stdout
    assert "(tc redirect to ifb4wan)" in " ".join(shown.split()) and max(len(line) for line in shown.splitlines()) <= 76
    bed.router.run("tc", "qdisc", "del", "dev", "wan0", "ingress")
    bed.router.run("nft", "delete", "table", "netdev", "ban")
    wait_until(lambda: offload(bed)["past"] == "", "nobody left to name")
    assert offload(bed)["active"] and offload(bed)["flows"] == 1


# ---- devices that go and come ------------------------------------------------------------------------------


def test_the_bridge_is_made_anew(make_bed):
    """As `ifup lan` does it: other device number, same name. Sessions go by the kernel again, however often."""
    bed = make_bed().start(main={"offload": "auto"})
    for round in range(3):
        client, server, _ = answered(bed, client_port=41000 + round, server_port=100 + round)
        client.close()
        server.close()
        bed.router.ip("link del br-lan")
        bed.build_lan()
        wait_until(lambda: offload(bed)["active"] or time.sleep(0.05), "offload at work")
    answered(bed, client_port=41010, server_port=110)
    bed.router.ip(f"addr add 192.168.1.77/24 dev {bed.lan_device}", f"addr del 192.168.1.77/24 dev {bed.lan_device}")
    assert bed.masqd("reload").stdout == "reloaded\n"
    answered(bed, client_port=41011, server_port=111)
    assert "offload stopped" not in bed.daemon.output


def test_sessions_go_in_again_by_themselves(bed):
    """All leave when a port changes. Somebody who only sends, and is not heard in user space, would not bring his session back otherwise."""
    client, server, outside = answered(bed)
    bed.router.ip("link set wan0 mtu 1499")
    wait_until(lambda: offload(bed)["flows"] == 0 or time.sleep(0.02), "the session out of the cache")
    wait_until(lambda: offload(bed)["flows"] == 1 or time.sleep(0.05), "the session in the cache again")
    before = carried(bed)
    client.sendto(b"by the kernel", (S1, 7))
    assert server.recvfrom(100) == (b"by the kernel", outside)
    assert carried(bed) == (before[0] + 1, before[1])


# ---- whose packets ----------------------------------------------------------------------------------------


def test_a_packet_of_the_other_side_is_nobodys(make_bed):
    """With several external addresses too: from the WAN, in the words of an inside host, nothing passes and nothing is noted."""
    external = "203.0.113.50"
    bed = make_bed(external=(GATEWAY, external))
    bed.guard_may_drop = True
    bed.start(main={"offload": "on"}, extra=[("static", None, {"internal": H3, "external": external})])

    def cached():
        bed.lan_wire.send(udp(H3, 5000, S3, 7, b"question"))
        asked = bed.wan_wire.expect(is_udp(7, b"question"))
        assert asked.src == external
        bed.wan_wire.send(udp(S3, 7, external, asked[UDP].sport, b"answer"))
        bed.lan_wire.expect(is_udp(5000, b"answer"))
        return asked[UDP].sport if offload(bed)["flows"] else time.sleep(0.1)

    port = wait_until(cached, "the session in the cache")
    state = flow(bed, f"{H3}:5000")
    before = carried(bed)
    bed.wan_wire.send(udp(H3, 5000, S3, 7, b"reflected"))
    bed.lan_wire.send(udp(S3, 7, external, port, b"reflected"))
    bed.lan_wire.send(udp(H3, 5000, S3, 7, b"good"))
    bed.wan_wire.expect(is_udp(7, b"good"), unwanted=lambda p: UDP in p and bytes(p[UDP].payload) == b"reflected")
    assert carried(bed) == (before[0] + 1, before[1])
    assert flow(bed, f"{H3}:5000")["packetsOut"] == state["packetsOut"] + 1


# ---- beside a stateful ruleset -----------------------------------------------------------------------------

STRICT = """table inet strict {
 chain forward {
  type filter hook forward priority 0; policy drop
  ct state invalid counter drop
  ct state established,related accept
  ct state new iifname "LAN" accept
 }
}
"""


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_heard_past_connection_tracking(bed, side):
    """Of a cached connection the kernel's tracking (tun driver) has seen the handshake only: to it a reset is out of window, and such rules drop it."""
    bed.router.run("nft", "-f", "-", stdin=STRICT.replace("LAN", bed.lan_device))
    client, server, _ = connected(bed)
    blob = random.Random(3).randbytes(8 << 20)
    for one, other in ((client, server), (server, client)):
        sender = threading.Thread(target=one.sendall, args=(blob,))
        sender.start()
        got = 0
        while got < len(blob):
            got += len(other.recv(1 << 20))
        sender.join()
    one, other = (client, server) if side == "client" else (server, client)
    before = carried(bed)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(10)
    assert carried(bed) != before
    assert flow(bed, f"{H1}:40002")["state"] == "reset" and offload(bed)["flows"] == 0
