"""The control socket and the commands behind it, under traffic."""

import json

import pytest

from bed import GATEWAY, H1, H2, S1

pytestmark = pytest.mark.masqd


# ---- flush -------------------------------------------------------------------------------------------------


def some_flows(bed):
    """Three UDP sessions of two hosts; the server's socket and what it saw of each."""
    server = bed.wan.udp(S1, 7)
    seen = []
    for host, address, port in ((bed.h1, H1, 40001), (bed.h1, H1, 40002), (bed.h2, H2, 40003)):
        client = host.udp(address, port)
        client.sendto(b"out", (S1, 7))
        seen.append(server.recvfrom(10)[1])
    return server, seen


def flush(bed, *words):
    return json.loads(bed.masqd("flush", "-j", *words).stdout)["sessions"]


def test_flush(bed):
    server, seen = some_flows(bed)
    assert flush(bed, "host", "192.168.1.99") == 0
    assert flush(bed, "mapping", "udp", f"{GATEWAY}:40002") == 1
    assert sorted(flow["internal"] for flow in bed.flows()) == [f"{H1}:40001", f"{H2}:40003"]
    assert flush(bed, "host", H2) == 1
    assert [flow["internal"] for flow in bed.flows()] == [f"{H1}:40001"]
    assert flush(bed, "wan") == 1
    some = bed.h1.udp(H1, 40004)
    some.sendto(b"out", (S1, 7))
    server.recvfrom(10)
    assert flush(bed, "all") == 1
    status = bed.status()
    assert status["sessions"]["used"] == 0 and status["hosts"] == 0
    assert all(one["free"] == one["total"] for one in status["externalPorts"])
    server.sendto(b"late", seen[0])
    bed.await_drops("no-mapping", 1)
    assert bed.masqd("flush", "all").stdout == "0 sessions ended\n"


def test_flush_asks_for_sense(bed):
    for words in ((), ("some",), ("host",), ("host", "me"), ("mapping", "udp"), ("mapping", "x", f"{GATEWAY}:1"), ("mapping", "udp", "192.0.2.1:1"), ("all", "now")):
        asked = bed.masqd("flush", *words, check=False)
        assert asked.returncode == 1 and asked.stdout == "" and len(asked.stderr.splitlines()) == 1, words
