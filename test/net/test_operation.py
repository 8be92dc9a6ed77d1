"""masqd as its operator meets it: starting, refusing to start, telling, stopping, being killed."""

import re
import signal
import socket
import subprocess

import pytest

from bed import GATEWAY, H1, H2, LAN_GATEWAY, MASQD, S1, S2, iperf_server
from namespace import run, sysctl, wait_until
from packets import udp
from test_life import Talk

pytestmark = pytest.mark.masqd


def fits_a_console(text):
    too_long = [line for line in text.splitlines() if len(line) > 76]
    assert not too_long, too_long
    assert text.isascii()
    return text


# ---- telling -----------------------------------------------------------------------------------------------


def test_status(bed):
    """Ports, sessions and forwarded packets are those of the traffic that was."""
    client, server = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 7)
    for _ in range(3):
        client.sendto(b"out", (S1, 7))
        _, outside = server.recvfrom(10)
        server.sendto(b"back", outside)
        client.recv(10)
    status = bed.status()
    ports = {port["role"]: port for port in status["ports"]}
    assert ports["wan"]["name"] == "wan0" and ports["wan"]["address"] == GATEWAY and ports["wan"]["up"]
    assert ports["lan"]["name"] == bed.lan_device and ports["lan"]["driver"] == bed.driver and ports["lan"]["up"]
    assert status["sessions"]["used"] == 1 and status["sessions"]["total"] == 4096
    assert status["forwarded"] == {"out": 3, "in": 3}
    assert status["hosts"] == 1 and status["drops"] == [] and status["warnings"] == []
    assert 0 < status["tableBytes"] <= 80 * 4096
    assert abs(status["rssKb"] - bed.resident()) < 512

    flow = bed.flows()[0]
    assert flow["protocol"] == "udp" and flow["internal"] == f"{H1}:40001" and flow["peer"] == f"{S1}:7"
    assert flow["external"] == "{}:{}".format(*outside)
    assert (flow["packetsOut"], flow["packetsIn"]) == (3, 3)
    assert (flow["bytesOut"], flow["bytesIn"]) == (3 * 31, 3 * 32)
    assert 290 <= flow["left"] <= 300


def test_drops_have_words(bed):
    bed.lan_wire.send(udp("8.8.8.8", 1, S1, 7), source_mac="02:00:00:00:02:1e")
    bed.wan_wire.send(udp("203.0.113.30", 1, GATEWAY, 40000))
    bed.await_drops("spoofed-source", 1)
    bed.await_drops("no-mapping", 1)
    for drop in bed.status()["drops"]:
        assert drop["text"].endswith(".") and drop["remedy"].endswith(".")


def test_text_fits_a_console(bed):
    """76 columns and ASCII, also with the longest addresses and many digits."""
    for number in range(200):
        bed.lan_wire.send(udp("192.168.1.130", 60000 + number, "203.0.113.130", 60000, b"x" * 1400), source_mac="02:00:00:00:02:1e")
    wait_until(lambda: bed.status()["forwarded"]["out"] + sum(bed.drops().values()) >= 200, "all packets counted")
    iperf_server(bed.wan)
    bed.h1.run("iperf3", "-c", S1, "-n", "500M")
    for port in range(40000, 40020):
        bed.wan_wire.send(udp("203.0.113.30", 1, GATEWAY, port))
    bed.await_drops("no-mapping", 20)
    fits_a_console(bed.masqd("status").stdout)
    shown = fits_a_console(bed.masqd("flows", "-n", "3").stdout)
    assert "3 of" in shown
    fits_a_console(bed.masqd("flows", "-n", "1000").stdout)
    fits_a_console(run(MASQD, "help").stdout)
    fits_a_console("\n".join(bed.daemon.lines[1:]))


def test_asking_without_a_daemon(make_bed):
    bed = make_bed()
    for command in ("status", "flows"):
        asked = bed.masqd(command, check=False)
        assert asked.returncode == 1 and asked.stdout == ""
        assert len(asked.stderr.splitlines()) == 1 and "not running" in asked.stderr


def test_asking_never_blocks_forwarding(bed):
    """Clients that ask, do not read and do not go: packets are forwarded, and the next client gets its answer."""
    asking = []
    for _ in range(9):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(str(bed.socket_path))
        client.send(b'{"v":1,"command":"flows","limit":100}\n' * 20)
        asking.append(client)
    bed.h1.ping(S1, 3)
    assert bed.status()["forwarded"] == {"out": 3, "in": 3}
    for client in asking:
        client.close()


def test_several_requests_at_once(bed):
    """Two lines in one segment are two requests."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(bed.socket_path))
        client.sendall(b'{"v":1,"command":"status"}\n{"v":1,"command":"flows","limit":1}\n')
        answers = client.makefile()
        assert "version" in answers.readline() and "matched" in answers.readline()


def test_nonsense_on_the_control_socket(bed):
    for nonsense in (
        b"\n",
        b"{}\n",
        b"null\n",
        b'{"v":9}\n',
        b'{"v":1,"command":"flows","host":5,"limit":-1e99}\n',
        b"\xff\xfe\x00\n",
        b"x" * 20000,
        b"[" * 8000 + b"\n",
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(bed.socket_path))
            try:
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert bed.status()["sessions"]["used"] == 0


# ---- the router beside it ----------------------------------------------------------------------------------


def test_the_routers_own_services(bed):
    """Ping, a server and a client of the router itself, from both sides and to both sides."""
    for host, address in ((bed.h1, LAN_GATEWAY), (bed.h1, GATEWAY), (bed.wan, GATEWAY), (bed.router, S1), (bed.router, H1)):
        host.ping(address, 2)
    listener = bed.router.listener("", 8080)
    for host, address, seen in ((bed.h1, LAN_GATEWAY, H1), (bed.h1, GATEWAY, H1), (bed.wan, GATEWAY, S1)):
        client = host.tcp()
        client.connect((address, 8080))
        server, peer = listener.accept()
        assert peer[0] == seen
        server.sendall(b"page")
        assert client.recv(10) == b"page"
    for host, address in ((bed.h1, H1), (bed.wan, S1)):
        service = host.listener(address, 9090)
        client = bed.router.tcp()
        client.connect((address, 9090))
        server, _ = service.accept()
        client.sendall(b"query")
        assert server.recv(10) == b"query"


def test_hosts_of_the_lan_talk_to_each_other(bed):
    bed.h1.ping("192.168.1.20", 2)
    assert bed.status()["forwarded"] == {"out": 0, "in": 0}


def test_bridge_netfilter(make_bed):
    """br_netfilter shows bridged frames to the guard before the bridge's own socket has them: it works, or masqd says why not."""
    bed = make_bed()
    with bed.router.inside():
        try:
            sysctl("net/bridge/bridge-nf-call-iptables", 1)
        except FileNotFoundError:
            pytest.skip("this kernel has no br_netfilter")
    bed.start()
    worked = bed.h1.run("ping", "-n", "-c", "1", "-W", "2", S1, check=False).returncode == 0
    assert worked or "bridge-nf-call-iptables" in bed.daemon.output


# ---- refusing to start -------------------------------------------------------------------------------------


def assert_refused(bed, process, before, *words):
    """One clear line with the words in it, status 1, and the router is as it was."""
    status = process.wait()
    assert status == 1, process.output
    assert len(process.lines) == 1, process.output
    assert process.lines[0].startswith("masqd: ")
    for word in words:
        assert word in process.lines[0], process.lines[0]
    assert bed.snapshot() == before
    assert not bed.socket_path.exists()


@pytest.mark.parametrize("missing", ["wan", "lan"])
def test_missing_device(make_bed, missing):
    bed = make_bed()
    bed.configure()
    device = "wan0" if missing == "wan" else bed.lan_device
    bed.config_file.write_text(bed.config_file.read_text().replace(f"'{device}'", "'nosuch0'"))
    before = bed.snapshot()
    assert_refused(bed, bed.router.start(*bed.command()), before, "nosuch0")


@pytest.mark.parametrize("capability", ["net_admin", "net_raw"])
def test_missing_capability(make_bed, capability):
    bed = make_bed()
    bed.configure()
    before = bed.snapshot()
    process = bed.router.start("setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", *bed.command())
    assert_refused(bed, process, before, "permission")


@pytest.mark.drivers("tun")
def test_missing_tun(make_bed):
    bed = make_bed()
    bed.configure()
    before = bed.snapshot()
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    assert_refused(bed, bed.router.start("unshare", "-m", "sh", "-c", hide, "sh", *bed.command()), before, "TUN")


@pytest.mark.drivers("tun")
def test_tun_name_taken(make_bed):
    bed = make_bed()
    bed.configure()
    bed.router.ip("tuntap add masq0 mode tun")
    before = bed.snapshot()
    assert_refused(bed, bed.router.start(*bed.command()), before, "masq0")


def test_missing_nft(make_bed):
    """No guard, no masqd."""
    bed = make_bed()
    bed.configure()
    before = bed.snapshot()
    assert_refused(bed, bed.router.start("env", "PATH=/nonexistent", *bed.command()), before, "nft")


def test_disabled(make_bed):
    bed = make_bed()
    bed.configure(main={"enabled": "0"})
    before = bed.snapshot()
    assert_refused(bed, bed.router.start(*bed.command()), before, "enabled")


def test_missing_configuration(make_bed):
    bed = make_bed()
    bed.configure()
    bed.config_file.unlink()
    before = bed.snapshot()
    assert_refused(bed, bed.router.start(*bed.command()), before, str(bed.config_file))


def test_second_instance(bed):
    """It is refused, and the first goes on as if nothing had been."""
    before = bed.snapshot()
    second = bed.router.start(*bed.command())
    assert second.wait() == 1
    assert len(second.lines) == 1 and "another masqd" in second.lines[0], second.output
    assert bed.snapshot().split("counter")[0] == before.split("counter")[0]
    bed.h1.ping(S1, 3)
    assert bed.status()["forwarded"] == {"out": 3, "in": 3}


# ---- stopping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_leaves_the_router_as_it_was(make_bed, number):
    bed = make_bed(external=(GATEWAY, "203.0.113.5"))
    before = bed.snapshot()
    bed.start(extra=[("static", None, {"internal": "192.168.1.20", "external": "203.0.113.5"})])
    bed.h1.ping(S1)
    assert bed.snapshot() != before
    bed.daemon.send_signal(number)
    assert bed.daemon.wait() == 0, bed.daemon.output
    bed.daemon = None
    assert bed.snapshot() == before
    assert not bed.socket_path.exists()


def test_start_again(make_bed):
    bed = make_bed()
    for _ in range(3):
        bed.start()
        bed.h1.ping(S1)
        bed.stop()


def test_killed_and_started_again(make_bed):
    """Nothing leaks while it is dead; the next one takes over what was left and cleans up in the end."""
    bed = make_bed()
    before = bed.snapshot()
    bed.start()
    pinging = bed.h1.start("ping", "-n", "-i", "0.02", S1)
    pinging.expect("icmp_seq=3 ")
    bed.daemon.kill()
    dead = bed.h1.run("ping", "-n", "-c", "5", "-i", "0.01", "-W", "0.2", S1, check=False)
    assert "0 received" in dead.stdout
    bed.start()
    sequence = len(pinging.lines)
    wait_until(lambda: len(pinging.lines) > sequence, "replies after the restart")
    bed.h1.ping(S2, 2)
    pinging.stop()
    assert bed.leaks() == 0
    bed.stop()
    assert bed.snapshot() == before


def test_the_kernels_masquerade_takes_over(make_bed):
    """A router whose firewall masquerades too (OpenWrt): masqd does the work, and the kernel after a clean stop."""
    bed = make_bed()
    masquerade = 'table ip fw { chain post { type nat hook postrouting priority srcnat; oifname "wan0" masquerade; }; }'
    bed.router.run("nft", "-f", "-", stdin=masquerade)
    bed.start()
    bed.h1.ping(S1, 2)
    assert bed.status()["forwarded"] == {"out": 2, "in": 2}
    bed.stop()
    bed.h1.ping(S1, 2)


def test_connections_from_the_kernel_to_masqd_and_back(make_bed):
    """A router whose firewall drops what conntrack calls invalid (firewall4): a connection goes on when masqd starts, and when it stops."""
    bed = make_bed()
    firewall = """table inet fw {
        chain forward { type filter hook forward priority filter; oifname "wan0" ct state invalid drop; };
        chain post { type nat hook postrouting priority srcnat; oifname "wan0" masquerade; };
    }"""
    bed.router.sysctl("net/ipv4/ip_forward", "1")
    bed.router.run("nft", "-f", "-", stdin=firewall)
    talk = Talk(bed, bed.h1, H1, 40001)
    another = Talk(bed, bed.h2, H2, 40002, 7001)
    for _ in range(2):
        bed.start()
        # More than the window of which the kernel has seen the beginning.
        for _ in range(3):
            talk.go_on()
            another.go_on()
        bed.stop()
        talk.go_on()
        another.go_on()
    talk.close()
    another.close()


@pytest.mark.parametrize("end", ["stop", "cleanup"])
def test_a_stop_gives_connections_whose_peer_speaks_first(make_bed, end):
    """The kernel has them, with the ports they have outside, before the peer's next segment comes: firewall4 would answer that with a reset."""
    bed = make_bed()
    firewall = """table inet fw {
        chain input { type filter hook input priority filter; ct state established,related accept; iifname "wan0" meta l4proto tcp reject with tcp reset; };
        chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; iifname "br-lan" accept; };
        chain post { type nat hook postrouting priority srcnat; oifname "wan0" ct state invalid drop; oifname "wan0" masquerade; };
    }"""
    bed.router.sysctl("net/ipv4/ip_forward", "1")
    bed.router.run("nft", "-f", "-", stdin=firewall)
    bed.start()
    # The same ports to the same server: one of them has another outside.
    listener = bed.wan.listener(S1, 7000)
    clients = [host.tcp(address, 40001) for host, address in ((bed.h1, H1), (bed.h2, H2))]
    servers = []
    for client in clients:
        client.connect((S1, 7000))
        servers.append(listener.accept()[0])
    ports = [server.getpeername()[1] for server in servers]
    assert len(set(ports)) == 2
    for server, client in zip(servers, clients):
        # More than a window of which the kernel might know.
        server.sendall(bytes(200000))
        received = 0
        while received < 200000:
            received += len(client.recv(200000))
    if end == "stop":
        bed.stop()
    else:
        bed.daemon.kill()
        bed.router.run(MASQD, "cleanup", "--socket", bed.socket_path, "--state", bed.state_path)
        bed.daemon = None
    for server, client in zip(servers, clients):
        server.sendall(b"first")
        assert client.recv(100) == b"first"
        client.sendall(b"second")
        assert server.recv(100) == b"second"
        client.close()
        assert server.recv(100) == b""
        server.close()


def test_flows_that_the_kernel_forwarded_before(make_bed):
    """What the kernel tracks of a flow that it had forwarded untranslated, before masqd came, is not in the flow's way."""
    bed = make_bed()
    bed.router.run("nft", "-f", "-", stdin="table ip fw { chain forward { type filter hook forward priority filter; ct state invalid drop; }; }")
    tuples = ["--src", H1, "--dst", S1, "--sport", "40001", "--dport", "7"]
    bed.router.run("conntrack", "-I", "-p", "udp", *tuples, "--timeout", "300")
    bed.router.run("conntrack", "-I", "-p", "tcp", *tuples, "--timeout", "300", "--state", "ESTABLISHED")
    bed.start()
    client, server = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 7)
    client.sendto(b"out", (S1, 7))
    _, outside = server.recvfrom(10)
    assert outside[0] == GATEWAY
    server.sendto(b"back", outside)
    assert client.recv(10) == b"back"
    listener = bed.wan.tcp(S1, 7)
    listener.listen()
    client = bed.h1.tcp(H1, 40001)
    client.connect((S1, 7))
    connection, outside = listener.accept()
    assert outside[0] == GATEWAY
    connection.sendall(b"back")
    assert client.recv(10) == b"back"


def test_standard_output_may_be_closed(make_bed):
    """Whoever started it has gone: it runs on."""
    bed = make_bed()
    bed.configure()
    process = subprocess.Popen(bed.router.command(*bed.command()), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout.readline().startswith(b"masqd: ready:")
        process.stdout.close()
        bed.h1.ping(S1, 2)
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_router_opens_a_port_of_the_range(bed):
    """WireGuard comes up after masqd: its port is the router's within seconds, and masqd's again when it is gone."""
    service = bed.router.udp("0.0.0.0", 51820)
    service.settimeout(0.2)
    peer = bed.wan.udp(S1, 9000)

    def heard():
        peer.sendto(b"handshake", (GATEWAY, 51820))
        try:
            return service.recv(100) == b"handshake"
        except TimeoutError:
            return False

    def claimed():
        return re.search(r"51[0-9]{3}", bed.router.run("nft", "list", "set", "inet", "masqd", "claimed_udp").stdout)

    wait_until(heard, "the router's service reached")
    assert claimed()
    client = bed.h1.udp(H1, 51820)
    client.sendto(b"question", (S1, 9000))
    assert peer.recvfrom(100)[1][1] != 51820
    service.close()
    wait_until(lambda: not claimed(), "the port back in the range")
    other = bed.h2.udp(H2, 51820)
    other.sendto(b"question", (S1, 9000))
    assert peer.recvfrom(100)[1] == (GATEWAY, 51820)
