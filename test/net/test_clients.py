"""Real clients on the LAN, real servers on the WAN: what a household does all day."""

import hashlib
import json
import re

import pytest

import bed as beds
from bed import FAR, GATEWAY, H1, LAN_GATEWAY, R, S1, S2, WebServer, dns_server, iperf_server, payload

SIZE = 50 << 20


def test_ping(bed):
    seen = bed.h1.ping(S1, 3)
    assert seen.count("1 received") == 3 and seen.count("ttl=63") == 3


def test_ping_with_many_identifiers(bed):
    """Two hosts, 40 pings at once each: every reply finds its own asker."""
    asked = [host.start("ping", "-n", "-c", "1", "-W", "30", server) for host in (bed.h1, bed.h2) for server in (S1, S2) for _ in range(20)]
    for ping in asked:
        assert ping.wait() == 0 and "1 received" in ping.output, ping.output


@pytest.mark.parametrize("kind", [["-U", "-p", "33434"], ["-I"], ["-T", "-p", "80"]], ids=["udp", "icmp", "tcp"])
def test_traceroute(make_bed, kind):
    """Router, then the provider's router, then the server: no stars, no strangers."""
    bed = make_bed(far=True).start()
    seen = bed.h1.run("traceroute", "-n", "-q", "1", "-w", "5", "-m", "5", *kind, FAR).stdout
    hops = re.findall(r"^ *\d+ +(\S+)", seen, re.MULTILINE)
    assert hops == [LAN_GATEWAY, S1, FAR] or hops == [LAN_GATEWAY, R, FAR], seen


def test_name_resolution(bed):
    server = dns_server(bed.wan, {"www.example.test": S2})
    assert bed.h1.run("dig", "+short", f"@{S1}", "www.example.test").stdout.strip() == S2
    assert bed.h1.run("dig", "+short", "+tcp", f"@{S1}", "www.example.test").stdout.strip() == S2
    askers = set(re.findall(r"query\[A\] www\.example\.test from (\S+)", server.output))
    assert askers == ({GATEWAY} if askers else set())


def test_download(bed):
    server = WebServer(bed.wan, bed.folder / "web")
    expected = payload(server.www / "big", SIZE)
    bed.h1.run("curl", "-sS", "-f", "-o", bed.folder / "got", f"http://{S1}/big")
    assert hashlib.sha256((bed.folder / "got").read_bytes()).hexdigest() == expected
    assert server.log() == [f'{GATEWAY} "GET /big HTTP/1.1" 200 {SIZE}']


def test_upload(bed):
    server = WebServer(bed.wan, bed.folder / "web")
    expected = payload(bed.folder / "big", SIZE)
    bed.h1.run("curl", "-sS", "-f", "-T", bed.folder / "big", f"http://{S1}/upload/big")
    assert hashlib.sha256((server.www / "upload" / "big").read_bytes()).hexdigest() == expected
    assert [line.split()[0] for line in server.log()] == [GATEWAY]


def test_two_hosts_download_at_once(bed):
    server = WebServer(bed.wan, bed.folder / "web")
    expected = payload(server.www / "big", SIZE // 5)
    curls = [(host.start("curl", "-sS", "-f", "-o", bed.folder / name, f"http://{S1}/big"), name) for host, name in ((bed.h1, "a"), (bed.h2, "b"))]
    for curl, name in curls:
        assert curl.wait() == 0, curl.output
        assert hashlib.sha256((bed.folder / name).read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("way", [[], ["-R"], ["-P", "4"]], ids=["out", "in", "4-streams"])
def test_tcp_stream(bed, way):
    """As much as goes in one second arrives, and the test's own control connection survives it."""
    iperf_server(bed.wan)
    seen = json.loads(bed.h1.run("iperf3", "-J", "-c", S1, "-t", "1", *way).stdout)
    assert seen["end"]["sum_received"]["bytes"] > 0
    assert seen["start"]["connected"][0]["local_host"] == H1


def test_udp_stream(bed):
    iperf_server(bed.wan)
    seen = json.loads(bed.h1.run("iperf3", "-J", "-u", "-b", "5M", "-l", "1200", "-c", S1, "-t", "1").stdout)
    assert seen["end"]["sum"]["packets"] > 0 and seen["end"]["sum"]["lost_packets"] == 0


@pytest.mark.parametrize("options", [{"lan": "veth"}, {"wan": "tun"}, {"lan": "veth", "wan": "tun"}], ids=["plain-lan", "headerless-wan", "both"])
def test_other_devices(make_bed, options):
    """A LAN device that is no bridge; a WAN device without Ethernet header (ppp, wwan, tun)."""
    bed = make_bed(**options).start()
    bed.h1.ping(S1)
    server = WebServer(bed.wan, bed.folder / "web")
    expected = payload(server.www / "big", 1 << 20)
    bed.h1.run("curl", "-sS", "-f", "-o", bed.folder / "got", f"http://{S1}/big")
    assert hashlib.sha256((bed.folder / "got").read_bytes()).hexdigest() == expected
    assert [line.split()[0] for line in server.log()] == [GATEWAY]


def test_flows_shows_a_live_connection(bed):
    listener = bed.wan.listener(S1, 7)
    client = bed.h1.tcp(H1, 40001)
    client.connect((S1, 7))
    server, peer = listener.accept()
    assert peer[0] == GATEWAY
    for one, other, text in ((client, server, b"there"), (server, client, b"and back")):
        one.sendall(text)
        assert other.recv(100) == text
    if beds.BASELINE:
        return
    found = [flow for flow in bed.flows() if flow["internal"] == f"{H1}:40001"]
    assert len(found) == 1, bed.flows()
    assert found[0]["protocol"] == "tcp" and found[0]["state"] == "established"
    assert found[0]["external"] == f"{peer[0]}:{peer[1]}" and found[0]["peer"] == f"{S1}:7"
