"""The control socket and the commands behind it, under traffic."""

import contextlib
import json
import os
import pathlib
import re
import socket

import pytest

from bed import GATEWAY, H1, H2, LAN_GATEWAY, MASQD, S1, S2, iperf_server, uci
from namespace import Process, run, wait_until
from packets import is_udp, udp

pytestmark = pytest.mark.masqd
only_packet = pytest.mark.drivers("packet")


def background(bed, *words):
    """One of the commands that go on, beside the test."""
    return Process([MASQD, *words, "--socket", bed.socket_path])


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
    for words in (
        (),
        ("some",),
        ("host",),
        ("host", "me"),
        ("mapping", "udp"),
        ("mapping", "x", f"{GATEWAY}:1"),
        ("mapping", "udp", "192.0.2.1:1"),
        ("all", "now"),
    ):
        asked = bed.masqd("flush", *words, check=False)
        assert asked.returncode == 1 and asked.stdout == "" and len(asked.stderr.splitlines()) == 1, words


# ---- hostile clients ---------------------------------------------------------------------------------------


def connect(bed):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(bed.socket_path))
    client.settimeout(20)
    return client


def read_all(client):
    """What the daemon still sends until it closes."""
    heard = b""
    while True:
        try:
            part = client.recv(65536)
        except ConnectionError:
            return heard
        if not part:
            return heard
        heard += part


def test_the_socket_is_roots_alone(bed):
    assert bed.socket_path.stat().st_mode & 0o777 == 0o600


def test_a_line_without_end_is_cut_off(bed):
    """10 MB without a newline: refused after the first 8192 bytes, with the reason."""
    with connect(bed) as client:
        with pytest.raises(ConnectionError):
            client.sendall(b"x" * (10 << 20))
        assert b"cut off: the request is longer than 8192 bytes" in read_all(client)
    bed.daemon.expect("a client was cut off: the request is longer")


def test_output_that_nobody_takes(bed):
    """A full disk behind standard output is an error in one line."""
    for words in (("status",), ("hosts",), ("help",)):
        some = [] if words == ("help",) else ["--socket", bed.socket_path]
        asked = run("sh", "-c", '"$@" > /dev/full', "sh", MASQD, *words, *some, check=False)
        assert (asked.returncode, asked.stderr) == (1, "masqd: write(1): No space left on device\n"), asked


def test_half_a_line_is_cut_off(bed):
    with connect(bed) as client:
        client.sendall(b'{"v":1,"comm')
        assert b"cut off: half a line" in read_all(client)
    bed.daemon.expect("a client was cut off: half a line")


def test_who_never_reads_is_cut_off(bed):
    """Requests whose answers nobody reads: packets pass, others are answered, and in the end the client goes."""
    for number in range(300):
        bed.lan_wire.send(udp("192.168.1.30", 1024 + number, S1, 7))
    wait_until(lambda: bed.status()["sessions"]["used"] >= 300, "300 sessions")
    with connect(bed) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b'{"v":1,"command":"flows"}\n' * 300)
        bed.h1.ping(S1, 3)
        assert bed.status()["hosts"] == 2
        bed.daemon.expect("a client was cut off: does not read for 10 s")
        read_all(client)


def test_a_thousand_clients(bed):
    """Each is let in and an idle one goes for it; packets are forwarded all the while, and the last is answered."""
    clients = []
    ping = bed.h1.start("ping", "-n", "-i", "0.02", "-c", "200", S1)
    for _ in range(1000):
        clients.append(connect(bed))
    clients[-1].sendall(b'{"v":1,"command":"status"}\n')
    assert json.loads(clients[-1].makefile().readline())["data"]["version"]
    assert b"cut off: more than" in read_all(clients[0])
    ping.expect(" 0% packet loss")
    for client in clients:
        client.close()
    assert bed.status()["ports"]


@only_packet
def test_a_page_costs_a_hundredth_of_a_processor(make_bed):
    """What the overview asks for every three seconds of a table without a free place: at most 30 ms of processor time."""
    bed = make_bed().start(main={"sessions": "16384"})
    sessions = lambda: bed.status()["sessions"]["used"]
    for host in range(64, 80):
        for number in range(1024):
            bed.lan_wire.send(udp(f"192.168.1.{host}", 1024 + number, S1, 7))
        wait_until(lambda: sessions() >= (host - 63) * 1024, "1024 sessions more")
    assert sessions() == 16384
    tasks = lambda: pathlib.Path(f"/proc/{bed.daemon.pid}/task").iterdir()
    spent = lambda: sum(int((task / "schedstat").read_text().split()[0]) for task in tasks()) / 1e6
    with connect(bed) as browser:
        lines = browser.makefile()
        before = spent()
        for _ in range(20):
            browser.sendall(b'{"v":1,"command":"status"}\n{"v":1,"command":"hosts","limit":6}\n')
            left = 2
            while left:
                left -= "data" in json.loads(lines.readline())
        each = (spent() - before) / 20
    print(f"{each:.1f} ms of processor time a refresh")
    assert sessions() == 16384
    assert each <= 30


def test_bytes_that_come_one_by_one(bed):
    with connect(bed) as client:
        for byte in b'{"v":1,"command":"hosts"}\n':
            client.send(bytes([byte]))
        assert json.loads(client.makefile().readline())["data"] == {"hosts": 0}


@only_packet
def test_flows_under_full_traffic(make_bed):
    """A full table is listed again and again while iperf3 runs: every row comes, nothing is lost, the stream goes on."""
    bed = make_bed().start(main={"sessions": "16384"})
    for port in range(16000):
        bed.lan_wire.send(udp("192.168.1.30", 1024 + port, S1, 7))
    wait_until(lambda: bed.status()["sessions"]["used"] >= 12000, "a full table")
    iperf_server(bed.wan)
    stream = bed.h1.start("iperf3", "-J", "-c", S1, "-t", "8", "-i", "0.5")
    wait_until(lambda: bed.status()["rates"]["out"] > 1000, "a stream")
    listed = 0
    while stream.running():
        listed += len(bed.masqd("flows", "-j").stdout.splitlines())
    assert stream.wait() == 0
    intervals = [one["sum"]["bits_per_second"] for one in json.loads(stream.output)["intervals"]]
    assert listed > 12000 and min(intervals) > 0, (listed, intervals)


# ---- looking inside ----------------------------------------------------------------------------------------


def test_filters_and_order(bed):
    some_flows(bed)
    big = bed.h2.udp(H2, 40009)
    big.sendto(b"x" * 1000, (S2, 9))
    wait_until(lambda: len(bed.flows()) == 4, "four sessions")

    def inside(*words):
        return [json.loads(line)["internal"] for line in bed.masqd("flows", "-j", *words).stdout.splitlines()]

    assert sorted(inside("--host", H1)) == [f"{H1}:40001", f"{H1}:40002"]
    assert inside("--host", f"{H1}:40002") == [f"{H1}:40002"]
    assert inside("--peer", S2) == [f"{H2}:40009"]
    assert len(inside("--proto", "udp", "--state", "new")) == 4
    assert inside("--proto", "tcp") == []
    assert inside("--sort", "bytes", "-n", "1") == [f"{H2}:40009"]
    assert len(inside("--sort", "age")) == 4
    assert "4 sessions match" not in bed.masqd("flows").stdout
    assert "2 of 4 sessions match" in bed.masqd("flows", "--host", H1).stdout
    for words in (("--host", "x"), ("--state", "x"), ("--proto", "x"), ("--sort", "x"), ("-n", "0"), ("--peer",)):
        asked = bed.masqd("flows", *words, check=False)
        assert asked.returncode == 1 and len(asked.stderr.splitlines()) == 1, words

    hosts = {row["address"]: row for row in map(json.loads, bed.masqd("hosts", "-j").stdout.splitlines())}
    assert hosts[H1]["sessions"] == 2 and hosts[H2]["bytesOut"] == 1028 + 31 and hosts[H1]["port"] == bed.lan_device
    assert hosts[H1]["limit"] == 4096 and hosts[H1]["refused"] == 0
    mappings = [json.loads(line) for line in bed.masqd("mappings", "-j", "--host", H1).stdout.splitlines()]
    assert sorted(one["external"] for one in mappings) == [f"{GATEWAY}:40001", f"{GATEWAY}:40002"]


def test_watch(bed):
    """Every session and mapping as it comes and goes, in the names of RFC 8158; the log has no destinations."""
    watching, logging = background(bed, "watch", "-j"), background(bed, "watch", "--log")
    reading = background(bed, "watch")
    client = bed.h1.udp(H1, 40001)

    def seen():
        client.sendto(b"x", (S1, 7))
        run(MASQD, "flush", "all", "--socket", bed.socket_path)
        return all(process.lines for process in (watching, logging, reading))

    wait_until(seen, "events for all three")
    kinds = {"session-new": 4, "session-end": 5, "mapping-new": 8, "mapping-end": 9}
    wait_until(lambda: seen() and set(kinds) <= {json.loads(line)["event"] for line in watching.lines}, "all kinds of events")
    for line in list(watching.lines):
        event = json.loads(line)
        assert event["natEvent"] == kinds[event["event"]] and event["postNATSourceIPv4Address"] == GATEWAY
        assert ("destinationIPv4Address" in event) == event["event"].startswith("session")
        if event["event"] == "session-end":
            assert event["cause"] == "flushed" and event["destinationIPv4Address"] == S1 and event["packetsOut"] == 1
    logging.expect(rf"^\S+Z \+ udp  {H1}:40001 {GATEWAY}:40001$")
    assert S1 not in logging.output
    for process in (watching, logging, reading):
        assert all(len(line) <= 76 for line in process.lines if not line.startswith("{"))
        process.kill()
    wait_until(lambda: bed.status()["sessions"]["used"] >= 0, "an answer after they have gone")


def test_the_log_follows_the_address(bed):
    """RFC 6888 REQ-12: a mapping that moves to the WAN's new address ends at the old one and begins at the new one, once however many sessions it has."""
    client = bed.h1.udp(H1, 40001)
    servers = [bed.wan.udp(S1, port) for port in (7, 8)]
    for server in servers:
        client.sendto(b"x", server.getsockname())
        server.recv(10)
    logging, watching = background(bed, "watch", "--log"), background(bed, "watch")
    other = bed.h2.udp(H2, 40002)

    def heard():
        other.sendto(b"x", (S1, 7))
        bed.masqd("flush", "host", H2)
        return logging.lines and watching.lines

    wait_until(heard, "both listeners")
    bed.sniffer.allow([GATEWAY, "203.0.113.5"])
    bed.router.ip("addr del 203.0.113.1/24 dev wan0", "addr add 203.0.113.5/24 dev wan0", "route replace default via 203.0.113.254")
    logging.expect(rf" \+ udp  {H1}:40001 203.0.113.5:40001$")
    moved = [line.split(" ", 1)[1] for line in logging.lines if H1 in line]
    assert moved == [f"- udp  {H1}:40001 {GATEWAY}:40001", f"+ udp  {H1}:40001 203.0.113.5:40001"]
    watching.expect("wan      address .*> 203.0.113.5$")
    assert "0.0.0.0" not in watching.output
    for process in (logging, watching):
        process.kill()


@only_packet
def test_limits_are_told_and_logged_once(make_bed):
    bed = make_bed().start(extra=[("host", None, {"ip": "192.168.1.30", "max_sessions": "2"})])
    watching = background(bed, "watch", "-j")

    def told():
        for port in range(50):
            bed.lan_wire.send(udp("192.168.1.30", 1024 + port, S1, 7))
        return any('"limit"' in line for line in watching.lines)

    wait_until(told, "a limit event")
    event = next(json.loads(line) for line in watching.lines if '"limit"' in line)
    assert (event["natEvent"], event["natQuotaExceededEvent"], event["sourceIPv4Address"]) == (13, 3, "192.168.1.30")
    bed.daemon.expect("warning: host-limit: .* of host 192.168.1.30")
    assert sum("host-limit" in line for line in bed.daemon.lines) == 1
    watching.kill()


def test_capture(bed):
    """tshark and tcpdump read it: both sides of the translation, with the verdict; also a capture without a packet."""
    file = bed.folder / "some.pcapng"
    server, client = bed.wan.udp(S1, 7), bed.h1.udp(H1, 40001)
    client.sendto(b"first", (S1, 7))
    _, outside = server.recvfrom(10)
    bed.masqd("capture", "on")
    capture = background(bed, "capture", "-w", file, "-n", "4")

    def exchange():
        client.sendto(b"question", (S1, 7))
        server.recv(10)
        server.sendto(b"answer", outside)
        client.recv(10)
        bed.wan_wire.send(udp("203.0.113.30", 1, GATEWAY, 40000))
        return not capture.running()

    wait_until(exchange, "four packets captured")
    fields = ["-e", "frame.interface_name", "-e", "ip.src", "-e", "ip.dst", "-e", "frame.comment"]
    rows = run("tshark", "-r", file, "-T", "fields", *fields).stdout.splitlines()
    lan = bed.lan_device
    assert f"{lan}\t{H1}\t{S1}\tmasqd forwarded; translated: udp {GATEWAY}:40001 > {S1}:7" in rows
    assert f"wan0\t{GATEWAY}\t{S1}\tmasqd forwarded; was: udp {H1}:40001 > {S1}:7" in rows
    assert packets(file) == len(rows)
    bed.masqd("capture", "last", "-w", file, "--host", "192.0.2.99")
    assert packets(file) == 0
    assert run("tshark", "-r", file).stdout == ""
    bed.masqd("capture", "last", "-w", file, "--dropped", "-n", "1")
    rows = run("tshark", "-r", file, "-T", "fields", *fields).stdout.splitlines()
    assert len(rows) == 1 and rows[0].startswith(f"wan0\t203.0.113.30\t{GATEWAY}\tmasqd dropped: no-mapping: "), rows
    only = [json.loads(line) for line in bed.masqd("capture", "last", "-j", "--host", H1).stdout.splitlines()]
    assert only and all(one["verdict"] == "forwarded" for one in only)
    bed.masqd("capture", "off")
    assert bed.masqd("capture", "last", "-w", file, check=False).returncode == 1
    bed.h1.ping(S1, 1)


def packets(file):
    """How many packets tcpdump reads."""
    return len(run("tcpdump", "-nr", file).stdout.splitlines())


def test_capture_takes_nobodys_file(bed):
    """`capture -w` empties and writes no file through a link, and none of another owner; its own it makes anew, for its owner only."""
    bed.masqd("capture", "on")
    folder = bed.folder / "shared"
    folder.mkdir()
    precious, anothers, own = folder / "precious", folder / "anothers", folder / "own"
    for file in (precious, anothers, own):
        file.write_text("precious data")
        file.chmod(0o666)
    os.chown(anothers, 65534, 65534)
    (folder / "symbolic").symlink_to(precious)
    (folder / "dangling").symlink_to(folder / "new")
    (folder / "hard").hardlink_to(precious)
    os.mkfifo(folder / "pipe")
    for name in ("symbolic", "dangling", "hard", "pipe", "anothers"):
        refused = bed.masqd("capture", "last", "-w", folder / name, check=False)
        assert refused.returncode == 1 and name in refused.stderr, refused
    assert precious.read_text() == anothers.read_text() == "precious data"
    assert not (folder / "new").exists()
    for file in (own, folder / "fresh"):
        bed.masqd("capture", "last", "-w", file)
        assert packets(file) == 0
        assert file.stat().st_mode & 0o777 == 0o600


@only_packet
def test_warnings_in_words(make_bed):
    """Behind a carrier's NAT, beside the kernel's own masquerading and flow offloading."""
    bed = make_bed().start()
    assert bed.status()["warnings"] == []
    bed.router.run("nft", "-f", "-", stdin='table ip fw { chain post { type nat hook postrouting priority srcnat; oifname "wan0" masquerade; }; }')
    flowtable = "table inet ft { flowtable f { hook ingress priority 0; devices = { wan0 }; }; }"
    # Not every kernel has them.
    offloads = bed.router.run("nft", "-f", "-", stdin=flowtable, check=False).returncode == 0
    bed.guard_may_drop = True
    bed.router.ip("addr del 203.0.113.1/24 dev wan0", "addr add 100.64.0.5/24 dev wan0")
    wait_until(lambda: any("carrier" in warning for warning in bed.status()["warnings"]), "the warning of a carrier's NAT")
    words = " ".join(bed.status()["warnings"])
    assert "kernel masquerades too (nft fw post)" in words and ("software flow offloading is on" in words) == offloads
    bed.router.ip("addr del 100.64.0.5/24 dev wan0", "addr add 10.0.0.5/24 dev wan0")
    wait_until(lambda: any("double NAT" in warning for warning in bed.status()["warnings"]), "the warning of a double NAT")
    bed.router.ip("addr del 10.0.0.5/24 dev wan0", "addr add 192.168.1.200/24 dev wan0")
    wait_until(lambda: any("nothing is translated" in warning for warning in bed.status()["warnings"]), "the warning of an overlap")
    for line in bed.masqd("status").stdout.splitlines():
        assert len(line) <= 76


# ---- why ---------------------------------------------------------------------------------------------------

RAW = "192.168.1.30"
STRANGER = "203.0.113.30"
OUT = udp(RAW, 5000, S1, 7)


def fill(count):
    return [udp(RAW, 20000 + number, S1, 9) for number in range(count)]


# Reason: configuration, packets from the LAN before, the packet and the wire it comes by.
REMEDIES = {
    "spoofed-source": ({}, [], [], udp("10.9.9.9", 5000, S1, 7), "lan"),
    "private-destination": ({"block_private": "1"}, [], [], udp(RAW, 5000, "10.200.0.1", 7), "lan"),
    "host-limit": ({}, [("host", None, {"ip": RAW, "max_sessions": "3"})], fill(3), OUT, "lan"),
    "host-rate": ({}, [("host", None, {"ip": RAW, "max_rate": "1"})], fill(1), OUT, "lan"),
    "host-share": ({"sessions": "256"}, [], [udp("192.168.1.31", 1, S1, 9), *fill(240)], OUT, "lan"),
    "table-full": ({"sessions": "256"}, [], fill(256), OUT, "lan"),
    "ports-exhausted": ({"ports": ["40000-40003"]}, [], fill(4), OUT, "lan"),
    "pool-exhausted": (
        {},
        [("pool", None, {"external": ["203.0.113.100"], "internal": ["192.168.1.0/24"], "overload": "0"})],
        [udp("192.168.1.31", 1, S1, 9)],
        OUT,
        "lan",
    ),
    "no-mapping": ({}, [], [], udp(STRANGER, 5000, GATEWAY, 45000), "wan"),
    "filtered": ({}, [], [udp(RAW, 45000, S1, 9)], udp(STRANGER, 5000, GATEWAY, 45000), "wan"),
}


def changed(sections, change):
    """A configuration with the sections that `why` names changed, or added."""
    kind, wanted = change["type"], change["options"]
    same = {"masqd": lambda _: True, "lan": lambda o: True, "pool": lambda o: True, "host": lambda o: o["ip"] == wanted["ip"]}.get(kind, lambda _: False)
    result, found = [], False
    for one, name, options in sections:
        if one == kind and same(options):
            options, found = {**options, **wanted}, True
        result.append((one, name, options))
    return result if found else [*result, (kind, None, wanted)]


@only_packet
@pytest.mark.parametrize("reason", REMEDIES)
def test_a_remedy_followed(make_bed, reason):
    """`why` names the reason; with the configuration that it names, the same packet passes."""
    main, extra, before, packet, side = REMEDIES[reason]
    bed = make_bed(external=(GATEWAY, "203.0.113.100") if reason == "pool-exhausted" else (GATEWAY,))
    bed.router.ip("route add 10.9.9.0/24 dev br-lan", "neigh replace 10.9.9.9 lladdr 02:00:00:00:02:1e dev br-lan nud permanent")

    def play():
        """The packets before, then the packet itself; how often it was dropped for the reason."""
        for one in before:
            bed.lan_wire.send(one)
        wait_until(lambda: bed.status()["ports"][1]["received"] >= len(before), "all packets before it")
        had = bed.drops(reason)
        wire = bed.lan_wire if side == "lan" else bed.wan_wire
        wire.send(packet, source_mac="02:00:00:00:02:1e" if side == "lan" else None)
        # On the WAN also the ICMP errors that closed ports send for the packets before it.
        port = 1 if side == "lan" else 0
        wait_until(lambda: bed.status()["ports"][port]["received"] > len(before), "the packet itself")
        return bed.drops(reason) - had

    bed.start(main=main, extra=extra)
    # Those two pass by themselves with time.
    fleeting = reason in ("host-rate", "table-full")
    if not fleeting:
        assert play() == 1, bed.drops()
    words = ["udp", f"{packet.src}:{packet.sport}", f"{packet.dst}:{packet.dport}", "out" if side == "lan" else "in"]
    if not fleeting:
        told = json.loads(bed.masqd("why", "-j", *words).stdout)
        assert (told["verdict"], told["reason"]) == ("dropped", reason), told
        change = told["change"]
        assert "In /etc/config/masqd:" in bed.masqd("why", *words).stdout
    else:

        def refused():
            bed.masqd("flush", "all")
            for one in [*before, packet]:
                bed.lan_wire.send(one)
            return json.loads(bed.masqd("why", "-j", "udp", f"{RAW}:1", f"{S1}:7").stdout)["change"]

        change = wait_until(refused, "a refusal")
        bed.await_drops(reason, 1)
    explained = [json.loads(line)["reason"] for line in bed.masqd("why", "-j").stdout.splitlines()]
    assert reason in explained
    bed.stop()
    bed.config = changed(bed.config, change)
    if reason == "no-mapping":
        bed.config[-1][2]["dest_ip"] = RAW
    bed.config_file.write_text(uci(bed.config))
    bed.launch().expect(r"^masqd: ready:")
    assert play() == 0, (bed.drops(), bed.config_file.read_text())
    assert sum(bed.status()["forwarded"].values()) > len(before) or reason in ("host-share", "private-destination"), bed.status()


@only_packet
def test_why_of_what_the_engine_drops(make_bed):
    """Neighbours that do not answer, and a link that is down: the last drops say so."""
    bed = make_bed().start()
    bed.lan_wire.send(udp(RAW, 5000, "203.0.113.77", 7))
    bed.await_drops("no-next-hop", 1)
    rows = [json.loads(line) for line in bed.masqd("drops", "-j").stdout.splitlines()]
    assert rows[0]["reason"] == "no-next-hop" and rows[0]["destination"] == "203.0.113.77:7"
    assert "no-next-hop" in bed.masqd("why", "203.0.113.77").stdout


def test_why_of_what_never_comes_to_masqd(make_bed):
    """For the router itself, for another host of the LAN, for an exempt destination: the filters leave those to the kernel, and `why` says so."""
    bed = make_bed().start(extra=[("exempt", None, {"dest": "198.51.100.0/24"})])
    for destination, words in (
        (f"{LAN_GATEWAY}:53", "the router itself"),
        (f"{GATEWAY}:123", "the router itself too"),
        (f"{H2}:22", "not reached through wan0"),
        ("198.51.100.2:7", "config exempt"),
    ):
        told = json.loads(bed.masqd("why", "-j", "udp", f"{H1}:5000", destination).stdout)
        assert told["verdict"] == "kernel" and told["reason"] is None and words in told["steps"][-1]["text"], told
        assert bed.masqd("why", "udp", f"{H1}:5000", destination).stdout.endswith("\nKERNEL     left to the kernel\n")


def test_why_leaves_no_trace(bed):
    """Asked a hundred times about a new session: none is made, nothing is sent, no port is taken."""
    before = bed.status()
    for port in range(100):
        told = bed.masqd("why", "udp", f"{H1}:{5000 + port}", f"{S1}:7").stdout
        assert "FORWARDED" in told or "WAITS" in told
    after = bed.status()
    for key in ("sessions", "hosts", "forwarded", "externalPorts", "drops", "icmpErrorsSent", "leftToKernel"):
        assert before[key] == after[key], key
    assert not [packet for packet in bed.wan_wire.arrived() if is_udp(7)(packet)]


def test_selftest_and_help():
    played = run(MASQD, "selftest")
    assert "FAIL" not in played.stdout and played.stdout.splitlines()[-1].endswith("as required")
    assert all(json.loads(line)["ok"] for line in run(MASQD, "selftest", "-j").stdout.splitlines())
    listed = run(MASQD, "help").stdout
    for line in listed.splitlines():
        assert len(line) <= 76 and line.isascii()
    for command in ("run", "check", "status", "flows", "mappings", "hosts", "drops", "why", "watch", "flush", "capture", "selftest", "reload"):
        text = run(MASQD, "help", command).stdout
        assert f"  {command} " in listed and text.startswith(f"usage: masqd {command} ")
        assert all(len(line) <= 76 and line.isascii() for line in text.splitlines()), text
    assert "  option max_sessions '0'\n" in run(MASQD, "help", "config").stdout
    nonsense = ("nonsense", "", "help nonsense", "help constructor", "status -x", "flows more", "flows toString x", "flows --sort __proto__")
    for words in (*nonsense, "flush constructor", "flush host", "capture some", "why a b", "why nonsense", "run --log valueOf", "reload now"):
        asked = run(MASQD, *words.split(), check=False)
        assert asked.returncode == 1 and asked.stdout == "" and re.fullmatch(r"masqd: .*usage: masqd .*\n", asked.stderr), (words, asked.stderr)
        assert len(asked.stderr) <= 77
    assert run(MASQD, "--version").stdout.startswith("masqd ")


# ---- pages of sessions -----------------------------------------------------------------------------------------------


def ask(bed, **request):
    """The answer to a request: rows, and data."""
    with connect(bed) as client:
        client.sendall((json.dumps({"v": 1, **request}) + "\n").encode())
        rows = []
        for line in client.makefile():
            reply = json.loads(line)
            if "rows" not in reply:
                return rows, reply.get("data", reply.get("error"))
            rows += reply["rows"]


def test_pages_of_sessions_and_the_end_of_one(bed):
    """What a page of the router's asks for: the newest first, a page after another, one ended by its number."""
    server, _ = some_flows(bed)
    rows, data = ask(bed, command="flows", sort="bytes", limit=2)
    assert (len(rows), data["matched"], data["total"]) == (2, 3, 3)
    more, end = ask(bed, command="flows", sort="bytes", limit=2, after=data["next"])
    assert len(more) == 1 and end["next"] is None
    assert sorted(flow["internal"] for flow in rows + more) == [f"{H1}:40001", f"{H1}:40002", f"{H2}:40003"]
    assert [flow["internal"] for flow in ask(bed, command="flows", sort="recent", any=":40002")[0]] == [f"{H1}:40002"]
    assert ask(bed, command="flows", sort="name") == ([], "sort by what? bytes, age or recent")
    gone = more[0]
    one = {key: gone[key] for key in ("id", "protocol", "internal", "peer")}
    assert ask(bed, command="flush", what="session", **{**one, "peer": f"{S1}:8"})[1] == {"sessions": 0}
    assert ask(bed, command="flush", what="session", **one)[1] == {"sessions": 1}
    assert gone["internal"] not in [flow["internal"] for flow in bed.flows()]
    assert ask(bed, command="forwards") == ([], {})
    assert len(ask(bed, command="hosts", limit=1)[0]) == 1


def test_sorted_flows_of_several_pages(bed):
    """The command gathers pages of the daemon's until it has as many rows as are wanted."""
    for number in range(230):
        bed.lan_wire.send(udp("192.168.1.30", 1024 + number, S1, 7, bytes(number)))
    wait_until(lambda: bed.status()["sessions"]["used"] >= 230, "230 sessions")
    for words, expected in (((), 230), (("-n", "150"), 150), (("-n", "3"), 3)):
        rows = [json.loads(line) for line in bed.masqd("flows", "-j", "--sort", "bytes", *words).stdout.splitlines()]
        sizes = [row["bytesOut"] for row in rows]
        assert len(rows) == len({row["id"] for row in rows}) == expected
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert "of 230 sessions shown" in bed.masqd("flows", "--sort", "age", "-n", "120").stdout


def test_scripts_of_another_package(bed, monkeypatch):
    """`metrics` and `nat-type` are scripts: run if they are there, named if they are not."""
    asked = bed.masqd("metrics", check=False)
    assert asked.returncode == 1 and "it is in the package luci-app-masqd" in asked.stderr
    script = bed.folder / "masqd-nat-type"
    script.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    script.chmod(0o755)
    monkeypatch.setenv("MASQD_SCRIPTS", str(bed.folder))
    asked = bed.masqd("nat-type", "-j", "--stun", "stun.example:3478", check=False)
    assert (asked.returncode, asked.stdout) == (3, f"-j --stun=stun.example:3478 --socket={bed.socket_path}\n")


@pytest.mark.drivers("packet")
def test_ten_pages_are_open(bed):
    """What ten browsers ask while a table of thousands of sessions forwards: nothing is lost, and an answer is small."""
    for number in range(3000):
        bed.lan_wire.send(udp("192.168.1.30", 1024 + number, S1, 7))
    wait_until(lambda: bed.status()["sessions"]["used"] >= 3000, "3000 sessions")
    ping = bed.h1.start("ping", "-n", "-i", "0.005", "-c", "800", S1)
    sizes = []
    for _ in range(8):
        with contextlib.ExitStack() as stack:
            # Twelve have a place in the daemon, the eleventh is this test's own.
            browsers = [stack.enter_context(connect(bed)) for _ in range(10)]
            for browser in browsers:
                browser.sendall(b'{"v":1,"command":"status"}\n{"v":1,"command":"hosts","limit":6}\n{"v":1,"command":"flows","sort":"bytes","limit":50}\n')
            for browser in browsers:
                lines = browser.makefile()
                size, data = 0, 0
                while data < 3:
                    line = lines.readline()
                    assert line and "error" not in json.loads(line)
                    if data < 2:
                        size += len(line)
                    data += "data" in json.loads(line)
                sizes.append(size)
    assert max(sizes) <= 30 * 1024
    ping.expect(" 0% packet loss")
