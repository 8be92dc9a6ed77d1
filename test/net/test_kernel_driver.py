"""The kernel driver: the kernel forwards, tracks and translates, and asks masqd about the first packet of each connection."""

import contextlib
import os
import re
import signal
import threading

import pytest

from scapy.layers.inet import IP, TCP

from bed import GATEWAY, H1, H2, H3, LAN_GATEWAY_MAC, PYTHON, ROOT, S1, S2, S3, lan_mac
from namespace import GUARD, wait_until
from test_translation import said

pytestmark = [pytest.mark.masqd, pytest.mark.drivers("kernel")]

# Times that the daemon is killed, and restarted.
LIFE = int(os.environ.get("LIFE", "2"))
FLOOD = ROOT / "test" / "conformance" / "flood.py"
EIF = {"filtering": "endpoint-independent"}
FORWARD = ("redirect", None, {"proto": "tcp", "src_dport": "8080", "dest_ip": H2, "dest_port": "80"})
MASQUERADE = """table ip fallback {
	chain postrouting { type nat hook postrouting priority 100; oifname "wan0" masquerade; }
}"""


def entries(bed):
    """The kernel's entries that are masqd's, a line each."""
    text = bed.router.run("conntrack", "-L", check=False).stdout
    return [line for line in text.splitlines() if re.search(r"mark=268435456\b", line)]


def asked(bed):
    """Packets that came to masqd."""
    return sum(port["received"] for port in bed.status()["ports"])


def exchange(sender, server, address, port=3478, text=b"hello"):
    """One datagram and its answer; returns the port that the server has seen."""
    sender.settimeout(GUARD)
    sender.sendto(text, (address, port))
    heard, source = server.recvfrom(2048)
    assert (heard, source[0]) == (text, GATEWAY)
    server.sendto(b"back", source)
    assert sender.recv(2048) == b"back"
    return source[1]


def test_only_the_first_packet_is_asked_about(bed):
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    port = exchange(client, server, S1)
    assert port == 40000
    before = asked(bed)
    for _ in range(20):
        assert exchange(client, server, S1) == port
    assert asked(bed) == before
    (entry,) = entries(bed)
    assert re.search(rf"src={H1} dst={S1} sport=40000 dport=3478 .*src={S1} dst={GATEWAY} sport=3478 dport={port}\b", entry), entry
    assert [flow["internal"] for flow in bed.flows()] == [f"{H1}:40000"]


def test_a_mapping_is_the_same_whatever_the_peer_and_held_under_contention(bed):
    one, two = bed.h1.udp(H1, 40000), bed.h2.udp(H2, 40000)
    servers = {S1: bed.wan.udp(S1, 3478), S2: bed.wan.udp(S2, 3478)}
    ports = {one: set(), two: set()}
    for sender, address in ((one, S1), (two, S2), (one, S2), (two, S1)):
        ports[sender].add(exchange(sender, servers[address], address))
    assert [len(seen) for seen in ports.values()] == [1, 1] and ports[one] != ports[two], ports


def test_tcp_and_its_end(bed):
    listener = bed.wan.listener(S1, 80)
    client = bed.h1.tcp(H1, 50000)
    client.connect((S1, 80))
    server, peer = listener.accept()
    assert peer == (GATEWAY, 50000)
    client.sendall(b"x" * 300_000)
    heard = 0
    while heard < 300_000:
        heard += len(server.recv(65536))
    assert bed.flows()[0]["state"] == "established"
    client.close()
    server.close()
    wait_until(lambda: bed.flows()[0]["state"] == "closing", "both ends closed")
    # What the kernel forgets is forgotten here.
    bed.router.run("conntrack", "-D", "-p", "tcp", "--orig-port-src", "50000")
    wait_until(lambda: bed.flows() == [], "the session has ended with its entry")


def elements(bed, name):
    """What is in a map of the kernel's: endpoints and what a verdict would say."""
    text = bed.router.run("nft", "-a", "list", "map", "ip", "masqd", name).stdout
    return re.findall(r"[\w.:\"]+ \. [\d.]+ \. [\w-]+ : [\w:]+", text)


def test_further_destinations_of_a_busy_endpoint_do_not_come_to_user_space(make_bed):
    """From the fourth on: they have the endpoint's mapping, and their sessions are known as any."""
    bed = make_bed().start()
    bed.h2.udp(H2, 40000).sendto(b"first", (S1, 3478))
    client = bed.h1.udp(H1, 40000)
    servers = [bed.wan.udp(S1, 5000 + n) for n in range(20)]
    ports = {exchange(client, server, S1, 5000 + n) for n, server in enumerate(servers[:4])}
    assert len(elements(bed, "busy")) == 1
    before = asked(bed)
    ports |= {exchange(client, server, S1, 5000 + n) for n, server in enumerate(servers[4:], 4)}
    assert asked(bed) == before
    assert len(ports) == 1 and ports != {40000}, ports
    mine = [flow for flow in bed.flows() if flow["internal"] == f"{H1}:40000"]
    assert {flow["peer"] for flow in mine} == {f"{S1}:{5000 + n}" for n in range(20)}
    assert {flow["state"] for flow in mine} == {"open"}, mine
    # As many as the others have been exchanged by each.
    assert all(flow["packetsOut"] == 1 and flow["packetsIn"] == 1 for flow in mine), mine
    # Its end is the mapping's.
    bed.masqd("flush", "all")
    wait_until(lambda: elements(bed, "busy") == [], "the kernel asks about it again")
    exchange(client, servers[0], S1, 5000)
    assert asked(bed) == before + 1


def test_a_busy_endpoint_has_its_quota(make_bed):
    """Near its end each is asked about again: the first that is one too many is refused, and told, and what there is goes on."""
    for most in (8, 300):
        bed = make_bed().start(main={"refusal": "prohibited"}, extra=[("host", None, {"ip": H1, "max_sessions": str(most)})])
        client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 5000)
        # Nobody answers the others.
        bed.wan.run("nft", "-f", "-", stdin="table ip deaf { chain c { type filter hook prerouting priority -300; udp dport != 5000 drop; }; }")
        exchange(client, server, S1, 5000)
        for n in range(1, most):
            client.sendto(b"x", (S1, 5000 + n))
            if n % 20 == 0:
                wait_until(lambda: len(bed.flows()) == n + 1, "all are known")
            if n == 100:
                assert len(elements(bed, "busy")) == 1
        wait_until(lambda: len(bed.flows()) == most, "all are known")
        assert elements(bed, "busy") == []
        client.sendto(b"one too many", (S1, 6000))
        bed.await_drops("host-limit", 1)
        with pytest.raises(OSError):
            client.recv(10)
        assert len(entries(bed)) == len(bed.flows()) == most
        exchange(client, server, S1, 5000)
        bed.stop()


def test_strangers_at_a_busy_endpoint_do_not_come_to_user_space(make_bed):
    """Where filtering is endpoint-independent; at a forward, connections are those of one endpoint as well."""
    bed = make_bed().start(main=EIF, extra=[FORWARD])
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    port = exchange(client, server, S1)
    strangers = [bed.wan.udp(S2, 5000 + n) for n in range(10)]

    def knock(stranger):
        stranger.sendto(b"knock", (GATEWAY, port))
        heard, source = client.recvfrom(100)
        client.sendto(b"yes?", source)
        stranger.settimeout(GUARD)
        assert (heard, source[0], stranger.recv(100)) == (b"knock", S2, b"yes?")

    for stranger in strangers[:3]:
        knock(stranger)
    assert len(elements(bed, "reached")) == 1
    before = asked(bed)
    for stranger in strangers[3:]:
        knock(stranger)
    assert asked(bed) == before
    assert len(bed.flows()) == 11
    listener = bed.h2.listener(H2, 80)
    held = []
    for n in range(8):
        if n == 4:
            before = asked(bed)
        caller = bed.wan.tcp(S1, 0)
        caller.settimeout(GUARD)
        caller.connect((GATEWAY, 8080))
        held += [caller, listener.accept()[0]]
    assert asked(bed) == before
    assert len([flow for flow in bed.flows() if flow["internal"] == f"{H2}:80"]) == 8
    # Another policy lets nobody in whom it has not let in.
    bed.configure(extra=[FORWARD])
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: elements(bed, "reached") == [], "the kernel asks about strangers again")
    bed.wan.udp(S2, 6000).sendto(b"knock", (GATEWAY, port))
    bed.await_drops("filtered", 1)


def test_sessions_end_with_their_entries_however_many_and_whatever_was_not_told(make_bed):
    """More ends at once than there is room for to tell of them."""
    bed = make_bed().start(main={"sessions": "8192"})
    # Nobody answers.
    bed.wan.run("nft", "-f", "-", stdin="table ip deaf { chain c { type filter hook prerouting priority -300; udp dport != 3478 drop; }; }")
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    exchange(client, server, S1)
    for n in range(10000, 15000):
        client.sendto(b"x", (S1, n))
        if n % 100 == 0:
            wait_until(lambda: bed.status()["sessions"]["used"] > n - 10000, "the session is known")
    wait_until(lambda: bed.status()["sessions"]["used"] == 5001, "all are known")
    bed.daemon.send_signal(signal.SIGSTOP)
    bed.router.run("conntrack", "-F")
    bed.daemon.send_signal(signal.SIGCONT)
    wait_until(lambda: bed.status()["sessions"]["used"] == 0, "all have ended")


def test_ping(bed):
    assert bed.h1.run("ping", "-c", "3", "-i", "0.2", "-W", "5", S1).stdout.count("bytes from") == 3
    assert asked(bed) == 1


def test_flush_ends_the_kernels_entries(bed):
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    exchange(client, server, S1)
    assert len(entries(bed)) == 1
    bed.masqd("flush", "all")
    wait_until(lambda: entries(bed) == [], "no entry is left")


def test_filtering(make_bed):
    """A stranger at a mapping's port is let in only where filtering is endpoint-independent; the answer comes from that port."""
    for filtering in ("address-and-port-dependent", "endpoint-independent"):
        bed = make_bed().start(main={"filtering": filtering})
        client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
        port = exchange(client, server, S1)
        stranger = bed.wan.udp(S2, 5555)
        stranger.sendto(b"knock", (GATEWAY, port))
        if filtering == "endpoint-independent":
            heard, source = client.recvfrom(2048)
            assert (heard, source) == (b"knock", (S2, 5555))
            client.sendto(b"yes?", source)
            stranger.settimeout(GUARD)
            assert stranger.recvfrom(2048) == (b"yes?", (GATEWAY, port))
        else:
            bed.await_drops("filtered", 1)
        bed.stop()


def test_port_forward(make_bed):
    bed = make_bed().start(extra=[FORWARD])
    listener = bed.h2.listener(H2, 80)
    client = bed.wan.tcp(S1, 0)
    client.connect((GATEWAY, 8080))
    server, peer = listener.accept()
    assert peer[0] == S1
    server.sendall(b"welcome")
    assert client.recv(100) == b"welcome"
    assert len(bed.flows()) == 1


def test_hairpin(make_bed):
    """A host reaches another by the external address, and is seen with its own external endpoint (RFC 4787 REQ-9)."""
    bed = make_bed().start(main=EIF)
    one, two = bed.h1.udp(H1, 40000), bed.h2.udp(H2, 41000)
    servers = bed.wan.udp(S1, 3478)
    port1, port2 = exchange(one, servers, S1), exchange(two, servers, S1)
    one.sendto(b"neighbour", (GATEWAY, port2))
    two.settimeout(GUARD)
    assert two.recvfrom(2048) == (b"neighbour", (GATEWAY, port1))
    two.sendto(b"hi", (GATEWAY, port1))
    assert one.recvfrom(2048) == (b"hi", (GATEWAY, port2))


def test_a_refused_host_is_told(make_bed):
    bed = make_bed().start(main={"refusal": "prohibited"}, extra=[("host", None, {"ip": H1, "max_sessions": "1"})])
    server = bed.wan.udp(S1, 3478)
    exchange(bed.h1.udp(H1, 40000), server, S1)
    other = bed.h1.udp(H1, 40001)
    other.settimeout(GUARD)
    other.connect((S1, 3478))
    other.send(b"one too many")
    with pytest.raises(OSError) as refused:
        other.recv(10)
    assert refused.value.errno == 113, refused.value
    assert bed.drops("host-limit") >= 1
    # Nothing of it is left with the kernel either.
    assert len(entries(bed)) == 1


def test_a_restart_keeps_mappings(make_bed):
    bed = make_bed()
    # Without any chain of kind nat the kernel does not translate what it has translated so far.
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    bed.start()
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    bed.h2.udp(H2, 40000).sendto(b"x", (S1, 3478))
    said(server, b"x")
    port = exchange(client, server, S1)
    ended = bed.h1.udp(H1, 40002)
    exchange(ended, server, S1)
    bed.stop()
    bed.router.run("conntrack", "-D", "-p", "udp", "--orig-port-src", "40002")
    assert exchange(client, server, S1) == port
    bed.launch().expect(r"^masqd: ready:")
    assert {flow["internal"] for flow in bed.flows()} == {f"{H1}:40000", f"{H2}:40000"}
    other = bed.wan.udp(S2, 3478)
    assert exchange(client, other, S2) == port


def test_all_is_rebuilt_from_the_kernel_when_the_table_is_lost(make_bed):
    """Mappings of UDP, TCP, ping, a forward and between two hosts: the same as before, and what the policy has no place for any more has ended."""
    bed = make_bed().start(main=EIF, extra=[FORWARD])
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    bed.h2.udp(H2, 40000).sendto(b"x", (S1, 3478))
    said(server, b"x")
    other = bed.h2.udp(H2, 41000)
    port, there = exchange(client, server, S1), exchange(other, server, S1)
    client.sendto(b"neighbour", (GATEWAY, there))
    assert other.recvfrom(2048) == (b"neighbour", (GATEWAY, port))
    listener = bed.h2.listener(H2, 80)
    inbound = bed.wan.tcp(S1, 0)
    inbound.connect((GATEWAY, 8080))
    accepted, _ = listener.accept()
    web = bed.wan.listener(S2, 80)
    outbound = bed.h1.tcp(H1, 50000)
    outbound.connect((S2, 80))
    bed.h1.run("ping", "-c", "1", "-W", "5", S1)
    # What the kernel has forgotten by itself is no session any more.
    bed.router.run("conntrack", "-D", "-p", "icmp", check=False)

    def sessions():
        return sorted((f["protocol"], f["internal"], f["external"], f["peer"]) for f in bed.flows())

    wait_until(lambda: not any(f["protocol"] == "icmp" for f in bed.flows()), "the ping's session has ended")
    before = sessions()
    assert len(before) == 7, before
    # What it ends in the end goes on for a moment.
    bed.guard_may_drop = True
    for _ in range(3):
        bed.daemon.kill()
        bed.state_path.unlink()
        bed.launch().expect(r"^masqd: ready:")
        assert sessions() == before
    accepted.sendall(b"still here")
    assert inbound.recv(100) == b"still here"
    web.accept()[0].sendall(b"and here")
    assert outbound.recv(100) == b"and here"
    assert exchange(client, bed.wan.udp(S2, 3478), S2) == port
    stranger = bed.wan.udp(S2, 5555)
    stranger.sendto(b"knock", (GATEWAY, there))
    assert other.recvfrom(2048)[0] == b"knock"
    bed.daemon.kill()
    bed.state_path.unlink()
    bed.configure(main=EIF)
    bed.launch().expect(r"^masqd: ready:")
    assert not any(f["internal"] == f"{H2}:80" for f in bed.flows())
    wait_until(lambda: not any("dport=8080" in entry for entry in entries(bed)), "the kernel has ended what came by the forward")


def test_the_kernels_timers_are_set_and_put_back(make_bed):
    names = ("udp_timeout", "udp_timeout_stream", "icmp_timeout", "tcp_timeout_established", "tcp_timeout_time_wait", "tcp_timeout_unacknowledged")
    bed = make_bed()

    def values():
        return [int(bed.router.run("sysctl", "-n", f"net.netfilter.nf_conntrack_{name}").stdout) for name in names]

    before = values()
    bed.start()
    assert values() == [300, 300, 60, 7440, 240, 7440]
    bed.daemon.kill()
    bed.start()
    bed.configure(extra=[("timeouts", None, {"udp": "400"})])
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: values()[:2] == [400, 400], "the timers of the new configuration")
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    exchange(client, server, S1)
    assert 395 <= int(entries(bed)[0].split()[2]) <= 400
    bed.stop()
    assert values() == before


def test_a_flood_of_one_host_keeps_no_other_from_connecting(make_bed):
    """5,000 new connections a second that nobody answers: the flooding host is slowed down in the kernel, all that another opens succeeds at once."""
    bed = make_bed().start(main={"sessions": "1024"})
    listener = bed.wan.listener(S1, 80)
    flood = bed.h1.start(PYTHON, FLOOD, H1, S3, lan_mac(H1), LAN_GATEWAY_MAC, 5000)
    flood.expect("^flooding")
    slowed = ("nft", "list", "set", "ip", "masqd", "flooders")
    wait_until(lambda: H1 in bed.router.run(*slowed).stdout, "the kernel knows the flooding host")
    for _ in range(50):
        client = bed.h2.tcp(H2, 0)
        client.settimeout(GUARD)
        client.connect((S1, 80))
        server, _peer = listener.accept()
        server.sendall(b"ok")
        assert client.recv(10) == b"ok"
    assert flood.running()
    # Nobody had to try again.
    assert "retrans" not in bed.h2.run("ss", "-tni", "dst", S1).stdout
    flood.kill()


def test_a_hung_daemon_ends_and_the_kernel_goes_on(make_bed):
    """A program that the daemon waits for does not come back: within seconds nobody has the queues, and connections go on by the kernel's masquerade."""
    bed = make_bed()
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    (bed.folder / "nft").write_text('#!/bin/sh\n[ -e $0.hangs ] && exec sleep 60\nexec /usr/sbin/nft "$@"\n')
    (bed.folder / "nft").chmod(0o755)
    bed.configure()
    bed.daemon = bed.router.start("env", f"PATH={bed.folder}:{os.environ['PATH']}", *bed.command())
    bed.daemon.expect(r"^masqd: ready:")
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    port = exchange(client, server, S1)
    (bed.folder / "nft.hangs").touch()
    bed.configure(extra=[("timeouts", None, {"udp": "400"})])
    bed.daemon.send_signal(signal.SIGHUP)
    listener = bed.wan.listener(S2, 80)
    web = bed.h2.tcp(H2, 0)
    web.settimeout(GUARD)
    web.connect((S2, 80))
    listener.accept()[0].sendall(b"ok")
    assert web.recv(10) == b"ok"
    assert exchange(client, server, S1) == port
    assert bed.daemon.wait() in (-signal.SIGKILL, 128 + signal.SIGKILL)
    bed.daemon = None


def test_a_stopped_daemon_ends_and_the_kernel_goes_on(make_bed):
    """What a signal has stopped, or a debugger holds, is ended as what hangs: a connection that it is asked about meanwhile only has to try again."""
    bed = make_bed()
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    bed.start()
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    port = exchange(client, server, S1)
    listener = bed.wan.listener(S2, 80)
    bed.daemon.send_signal(signal.SIGSTOP)
    web = bed.h2.tcp(H2, 0)
    web.settimeout(GUARD)
    web.connect((S2, 80))
    listener.accept()[0].sendall(b"ok")
    assert web.recv(10) == b"ok"
    assert exchange(client, server, S1) == port
    assert bed.daemon.wait() == -signal.SIGKILL
    bed.daemon = None


def test_killed_and_restarted_under_load_no_connection_fails(make_bed):
    """While nobody listens the kernel's own masquerade goes on, and nothing leaves untranslated (LIFE=100 in `make soak`)."""
    bed = make_bed()
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    bed.start()
    bed.wan.run("nft", "-f", "-", stdin="table ip seen { chain c { type filter hook prerouting priority -300; ip saddr 192.168.0.0/16 counter; }; }")
    listener = bed.wan.listener(S1, 80)
    listener.settimeout(None)
    listener.listen(128)
    over = threading.Event()
    done, failed = [], []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                accepted.sendall(b"ok")
                accepted.close()

    def connect(host, address):
        while not over.is_set():
            client = host.tcp(address, 0)
            client.settimeout(GUARD)
            try:
                client.connect((S1, 80))
                assert client.recv(10) == b"ok"
                done.append(address)
            except (AssertionError, OSError) as error:
                failed.append(error)
            client.close()

    def more():
        before = len(done)
        wait_until(lambda: len(done) > before + 20 or failed, "connections go on")

    threading.Thread(target=serve, daemon=True).start()
    clients = [threading.Thread(target=connect, args=where, daemon=True) for where in ((bed.h1, H1), (bed.h2, H2)) * 2]
    for client in clients:
        client.start()
    for n in range(2 * LIFE):
        more()
        if n % 2:
            bed.stop()
        else:
            bed.daemon.kill()
        more()
        bed.launch().expect(r"^masqd: ready:")
    over.set()
    for client in clients:
        client.join()
    assert failed == []
    assert "counter packets 0 " in bed.wan.run("nft", "list", "table", "ip", "seen").stdout


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_connection_that_the_kernel_has_is_not_in_the_way_of_another(make_bed, protocol):
    """The kernel's own masquerade has given away the port that masqd gives another host towards the same server: one packet is lost, not all."""
    bed = make_bed()
    bed.router.run("nft", "-f", "-", stdin=MASQUERADE)
    bed.start()
    bed.daemon.kill()
    hosts = ((bed.h1, H1), (bed.h2, H2))
    if protocol == "tcp":
        listener = bed.wan.listener(S1, 80)
    else:
        server = bed.wan.udp(S1, 3478)
    clients = []
    for n, (host, address) in enumerate(hosts):
        client = getattr(host, protocol)(address, 40000)
        clients.append(client)
        if protocol == "tcp":
            client.settimeout(GUARD)
            client.connect((S1, 80))
            accepted, peer = listener.accept()
            clients.append(accepted)
        else:
            client.settimeout(1)
            for _ in range(int(GUARD)):
                client.sendto(b"hello", (S1, 3478))
                try:
                    peer = server.recvfrom(100)[1]
                    break
                except TimeoutError:
                    pass
        assert peer == (GATEWAY, 40000) if n == 0 else peer[1] != 40000, peer
        if n == 0:
            bed.launch().expect(r"^masqd: ready:")


def test_a_deleted_table_is_put_back(bed):
    bed.router.run("nft", "flush", "ruleset")
    rules = ("nft", "list", "chain", "ip", "masqd", "translate_out")
    wait_until(lambda: "snat to" in bed.router.run(*rules, check=False).stdout, "the rules are there again")
    client, server = bed.h1.udp(H1, 40000), bed.wan.udp(S1, 3478)
    assert exchange(client, server, S1) == 40000


def test_what_no_connection_has_does_not_leave(bed):
    """A segment that is of no connection the kernel does not translate: the guard stops it."""
    bed.guard_may_drop = True
    bed.lan_wire.send(IP(src=H3, dst=S1) / TCP(sport=1234, dport=80, flags="R", seq=1))
    wait_until(lambda: bed.status()["guard"]["leak"] > 0, "it is stopped")


def test_what_nobody_translates_does_not_leave(bed):
    """Neither the first packet of a connection while nobody listens, nor a connection that was made towards another device."""
    bed.guard_may_drop = True
    elsewhere = ("link add other0 type veth peer name other1", "link set other0 up", "link set other1 up", f"route add {S3} dev other0")
    client = bed.h1.udp(H1, 40000)

    def leaks():
        counted = bed.router.run("nft", "list", "counter", "ip", "masqd", "leak").stdout
        return int(re.search(r"packets (\d+)", counted)[1])

    bed.router.ip(*elsewhere)
    client.sendto(b"elsewhere", (S3, 3478))
    wait_until(lambda: f"dst={S3}" in bed.router.run("conntrack", "-L", check=False).stdout, "the kernel has an entry of it")
    bed.router.ip("link del other0")
    client.sendto(b"by the WAN", (S3, 3478))
    wait_until(lambda: leaks() == 1, "the connection is stopped")
    bed.daemon.kill()
    client.sendto(b"nobody listens", (S2, 3478))
    wait_until(lambda: leaks() == 2, "the first packet is stopped")
    bed.daemon = None


def test_nothing_is_left_after_the_end(make_bed):
    bed = make_bed()
    before = bed.snapshot()
    bed.start()
    bed.stop()
    assert bed.snapshot() == before
