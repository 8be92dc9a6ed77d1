"""Bytes of hosts by hour and day: what masqd says is what went over the wire, whoever carried it, and nothing that has ended is forgotten."""

import json

import pytest

from bed import H1, H2, S1, iperf_server

pytestmark = [pytest.mark.masqd, pytest.mark.drivers("packet", "tun", "kernel")]

# Of a full segment with time stamps: bytes of IP, and of what it carries.
PACKET, SEGMENT = 1500, 1448
# Segments of one super-packet.
MERGED = 40


def accounts(bed, by="hour"):
    """Bytes that each host has sent and received, in all hours or days."""
    rows = [json.loads(line) for line in bed.masqd("hosts", "--by", by, "-j").stdout.splitlines()]
    return {row["address"]: tuple(sum(one[way] for one in row[by]) for way in (1, 2)) for row in rows}


def counted(host):
    """Bytes of IP that a host's device has sent and received: of frames, less their Ethernet headers."""
    (device,) = json.loads(host.run("ip", "-j", "-s", "link", "show", "eth0").stdout)
    return [device["stats64"][way]["bytes"] - 14 * device["stats64"][way]["packets"] for way in ("tx", "rx")]


def near(found, wire):
    """Within one in a hundred, both directions."""
    assert all(abs(one - other) <= other / 100 for one, other in zip(found, wire)), (found, wire)


def single(bed):
    """No device merges segments, and none is given merged ones."""
    for host in bed.h1, bed.wan:
        host.run("ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off")
    bed.router.run("ethtool", "-K", "wan0", "gro", "off")


@pytest.mark.parametrize("offload", ["off", "on"])
def test_wire(make_bed, driver, offload):
    """Downloads, uploads, datagrams and short connections: as many bytes as the device of the host has counted."""
    bed = make_bed().start(main={"offload": offload})
    single(bed)
    iperf_server(bed.wan)
    before = counted(bed.h1)
    for way in ((), ("-R",), ("-u", "-b", "100M"), ("-u", "-b", "100M", "-R")):
        bed.h1.run("iperf3", "-c", S1, "-n", "8M", *way)
    server = bed.wan.listener(S1, 7000)
    for n in range(200):
        client = bed.h1.tcp(H1, 2000 + n)
        client.connect((S1, 7000))
        other = server.accept()[0]
        client.sendall(b"?" * 2000)
        other.sendall(b"!" * 500)
        client.close()
        other.close()
    found = accounts(bed)[H1]
    wire = [after - earlier for after, earlier in zip(counted(bed.h1), before)]
    near(found, wire)
    assert accounts(bed, "day")[H1] == pytest.approx(found, rel=1e-3)
    # Whatever ends them, when nobody has looked.
    bed.h1.run("iperf3", "-c", S1, "-n", "8M")
    bed.masqd("flush", "all")
    near(accounts(bed)[H1], [after - earlier for after, earlier in zip(counted(bed.h1), before)])


@pytest.mark.parametrize("offload", ["off", "on"])
def test_merged(make_bed, driver, offload):
    """Segments that cross the router merged are counted as the wire has them."""
    bed = make_bed().start(main={"offload": offload})
    client, server = bed.h1.tcp(H1, 41000), bed.wan.listener(S1, 7000)
    client.connect((S1, 7000))
    other = server.accept()[0]
    for sender, receiver in ((client, other), (other, client)):
        for _ in range(400):
            left = MERGED * SEGMENT
            sender.sendall(b"?" * left)
            while left:
                left -= len(receiver.recv(1 << 20))
    near(accounts(bed)[H1], [400 * MERGED * PACKET] * 2)
    (flow,) = bed.flows()
    assert flow["packetsIn"] < 400 * MERGED, "merged they are"


@pytest.mark.parametrize("offload", ["off", "on"])
def test_restart(make_bed, driver, offload):
    """A session's bytes are booked once over a restart and, but for what the offload's programs alone had seen, over a kill."""
    bed = make_bed().start(main={"offload": offload})
    single(bed)
    iperf_server(bed.wan)
    before = counted(bed.h1)
    client, server = bed.h1.tcp(H1, 41000), bed.wan.listener(S1, 7000)
    client.connect((S1, 7000))
    other = server.accept()[0]

    def go_on():
        left = 400_000
        client.sendall(b"?" * left)
        while left:
            left -= len(other.recv(65536))

    def right():
        near(accounts(bed)[H1], [after - earlier for after, earlier in zip(counted(bed.h1), before)])

    go_on()
    bed.h1.run("iperf3", "-c", S1, "-n", "4M", "-R")
    right()
    bed.stop()
    bed.start()
    go_on()
    right()
    go_on()
    if offload == "off":
        bed.daemon.kill()
        bed.start()
        go_on()
        right()


def test_text(make_bed, driver):
    """A line an hour or day, and whoever moved most first."""
    bed = make_bed().start()
    server = bed.wan.udp(S1, 53)
    for host, address, times in ((bed.h1, H1, 1), (bed.h2, H2, 3)):
        one = host.udp(address, 40000)
        for _ in range(times):
            one.sendto(b"?" * 972, (S1, 53))
            server.recvfrom(2000)
    lines = bed.masqd("hosts", "--by", "day").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [H2, H1]
    assert "out  3.00 kB in" in lines[0] and "out  1.00 kB in" in lines[1], lines
    assert len(bed.masqd("hosts", "--by", "hour", "-n", "1").stdout.splitlines()) == 1
    assert bed.masqd("hosts", "--by", "week", check=False).returncode != 0
