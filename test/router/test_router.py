"""A session at the serial line of the emulated router, from the first boot with the package to its removal.

The tests run in the order of the file and build upon each other, as an owner's evening with the router would. Traffic is real: ping,
curl, nginx's place is taken by Python's HTTP server, iperf3; it goes from the LAN namespace through the emulated machine to the WAN namespace.
"""

import contextlib
import json
import pathlib
import re
import socket
import struct
import threading
import time

import pytest
from machine import GATEWAY, LAN_HOST, PROMPT, WAN_HOST
from namespace import await_listener, run, wait_until

COLUMNS = 76
RESULTS = pathlib.Path(__file__).resolve().parents[2] / "build" / "test"
measured = {}


@pytest.fixture(scope="module", autouse=True)
def keep_figures(arch):
    yield
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"router-{arch}.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(f"\nmeasured on {arch}: {measured}")


class Chatter:
    """Hosts of the LAN that go on sending from fixed ports while something happens: what was answered, and the longest silence."""

    # Not of masqd's range, so that who translates is seen by the port.
    PORTS = range(10100, 10108)

    def __init__(self, router):
        self._clients = [router.lan.udp(LAN_HOST, port) for port in self.PORTS]
        for client in self._clients:
            client.setblocking(False)
        self.answers = []
        self.silence = 0.0
        self._stop = False
        self._thread = threading.Thread(target=self._chat, daemon=True)
        self._thread.start()

    def _chat(self):
        last = time.monotonic()
        while not self._stop:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.sendto(b"?", (WAN_HOST, 7))
                with contextlib.suppress(OSError):
                    self.answers.append(client.recv(64).decode())
                    self.silence = max(self.silence, time.monotonic() - last)
                    last = time.monotonic()
            time.sleep(0.01)

    def until(self, wanted, what):
        """Waits until every port has an answer of which `wanted(port outside)` is true."""
        begin = len(self.answers)

        def heard():
            ports = [int(answer.split(":")[1]) for answer in self.answers[begin:]]
            return sum(map(wanted, ports)) >= 4 * len(self.PORTS)

        wait_until(heard, what)

    def close(self):
        self._stop = True
        self._thread.join()
        for client in self._clients:
            client.close()


class Sources:
    """Sources of the IPv4 packets that arrive at the WAN host, as (address, protocol, source port), looked at on the wire."""

    def __init__(self, namespace):
        with namespace.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
            self._socket.bind(("eth0", 0x0800))
        self.seen = []
        self._stop = False
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        while not self._stop:
            try:
                packet, where = self._socket.recvfrom(2048)
            except TimeoutError:
                continue
            if where[2] == socket.PACKET_OUTGOING:
                continue
            port = struct.unpack_from("!H", packet, 20)[0] if packet[9] in (6, 17) and len(packet) >= 22 else 0
            self.seen.append((socket.inet_ntoa(packet[12:16]), packet[9], port))

    def close(self):
        self._stop = True
        self._thread.join()
        self._socket.close()

    def ports(self, protocol):
        return {port for address, number, port in self.seen if number == protocol and address == GATEWAY}

    @property
    def untranslated(self):
        return [seen for seen in self.seen if seen[0] != GATEWAY]


@pytest.fixture
def sources(router):
    made = Sources(router.wan)
    yield made
    made.close()


def status(router):
    return json.loads(router.console.run("masqd status -j"))


def ready(router):
    """Waits until masqd answers at its control socket."""
    wait_until(lambda: router.console.run("masqd status -j", status=None).startswith("{"), "masqd ready")


def until_printed(router, command, text):
    wait_until(lambda: text in router.console.run(command, status=None), f"{text!r} from {command}")


def ask(router, port, size=64):
    """One UDP question from the LAN host's port to the WAN host, which answers with where it came from."""
    with router.lan.udp(LAN_HOST, port) as client:
        client.settimeout(2)
        for _ in range(10):
            client.sendto(b"?" * size, (WAN_HOST, 7))
            with contextlib.suppress(TimeoutError):
                return client.recv(2048).decode()
    return None


@pytest.fixture(scope="module")
def echo(router):
    """A UDP server on the WAN host that tells everyone the address and port it sees."""
    server = router.wan.udp(WAN_HOST, 7)
    server.settimeout(0.2)
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                _, (address, port) = server.recvfrom(2048)
                server.sendto(f"{address}:{port}".encode(), (address, port))

    thread = threading.Thread(target=serve)
    thread.start()
    yield server
    stop.set()
    thread.join()
    server.close()


# ---- first boot -------------------------------------------------------------------------------------------


def test_boots_and_shows_the_banner(router):
    banner = router.console.log_in()
    measured["seconds to the prompt"] = round(time.monotonic() - router.began, 1)
    assert "masqd's emulated router" in banner
    assert router.console.run("masqd --version").startswith("masqd 0.")


def test_the_package_is_installed_and_does_nothing_yet(router):
    console = router.console
    console.type("ls /etc/rc.d\n")
    assert "S60masqd" in console.expect(PROMPT)
    assert "nothing is translated" in console.run("masqd check")
    assert "masqd is not running" in console.run("masqd status", status=1)
    assert "masq0" not in console.run("ip link; nft list ruleset")


def test_the_kernel_masquerades_while_masqd_is_off(router, echo, sources):
    assert ask(router, 5000) == f"{GATEWAY}:5000"
    assert not sources.untranslated


# ---- switched on ------------------------------------------------------------------------------------------


def test_an_error_in_the_configuration_is_told_and_starts_nothing(router):
    console = router.console
    console.run("/rom/image/etc/uci-defaults/80-masqd; uci set masqd.main.sessions=lots; uci commit")
    assert console.run("uci get masqd.main.enabled").strip() == "1"
    heard = console.run("/etc/init.d/masqd start", status=1)
    assert "section 'main' option 'sessions': 'lots' is not a whole number" in heard
    assert "masqd is not running" in console.run("masqd status", status=1)
    console.run("uci set masqd.main.sessions=4096; uci commit")
    assert "4096 sessions" in console.run("/etc/init.d/masqd check")


def test_starts(router, arch):
    console = router.console
    console.run("service masqd start")
    ready(router)
    state = status(router)
    log = console.run("logread | grep masqd")
    assert "masqd: ready: wan eth1 203.0.113.1, lan br-lan (tun, 192.168.1.0/24)" in log
    measured["seconds from start to ready"] = start_seconds(console)
    assert state["sessions"]["total"] == 4096


def start_seconds(console):
    """How long a new masqd takes from exec to its ready line, by the router's own clock."""
    console.run("service masqd stop")
    script = (
        "a=$(cut -d' ' -f1 /proc/uptime); masqd run > /tmp/r & "
        "until grep -q ready: /tmp/r; do usleep 10000; done; "
        "b=$(cut -d' ' -f1 /proc/uptime); kill $!; wait $!; echo $a $b"
    )
    began, ended = map(float, console.run(script).split()[-2:])
    console.run("service masqd start")
    deadline = time.monotonic() + 60
    while not console.run("masqd status -j", status=None).startswith("{"):
        assert time.monotonic() < deadline
    return round(ended - began, 2)


def test_ping_goes_through(router, sources):
    router.lan.ping(WAN_HOST, 3)
    assert [seen[0] for seen in sources.seen if seen[1] == 1]
    assert not sources.untranslated
    flows = router.console.run("masqd flows")
    assert "icmp" in flows and LAN_HOST in flows and WAN_HOST in flows


def test_a_web_server_sees_the_gateways_address(router):
    server = router.wan.start("/usr/bin/python3", "-u", "-m", "http.server", "--bind", WAN_HOST, "80")
    await_listener(server, 80)
    page = router.lan.run("curl", "-s", f"http://{WAN_HOST}/proc/version").stdout
    assert server.expect(r"GET /proc/version").startswith(f"{GATEWAY} - - ")
    server.kill()
    assert page is not None


def test_masqd_translates_not_the_kernel(router, echo, sources):
    # One that is not of masqd's range.
    address, port = ask(router, 10001).split(":")
    assert address == GATEWAY and int(port) >= 1024 and not 10000 <= int(port) <= 26999
    # The same endpoint again, towards anything: the same external port.
    assert ask(router, 10001) == f"{address}:{port}"
    assert not sources.untranslated
    masqueraded = router.console.run("nft list chain inet fw4 srcnat_wan")
    before = re.search(r"packets (\d+)", masqueraded)[1]
    ask(router, 5002)
    assert re.search(r"packets (\d+)", router.console.run("nft list chain inet fw4 srcnat_wan"))[1] == before


def test_bulk_traffic(router, arch):
    server = router.wan.start("iperf3", "-s", "-1", "-4", "-B", WAN_HOST)
    await_listener(server, 5201)
    report = json.loads(router.lan.run("iperf3", "-J", "-c", WAN_HOST, "-t", "4", guard=120).stdout)
    server.wait()
    rate = report["end"]["sum_received"]["bits_per_second"]
    measured["iperf3 TCP Mbit/s (emulated)"] = round(rate / 1e6, 1)
    assert report["end"]["sum_received"]["bytes"] > 0
    server = router.wan.start("iperf3", "-s", "-1", "-4", "-B", WAN_HOST)
    await_listener(server, 5201)
    back = json.loads(router.lan.run("iperf3", "-J", "-R", "-c", WAN_HOST, "-t", "2", guard=120).stdout)
    server.wait()
    measured["iperf3 TCP reverse Mbit/s (emulated)"] = round(back["end"]["sum_received"]["bits_per_second"] / 1e6, 1)
    assert back["end"]["sum_received"]["bytes"] > 0


# ---- looking at it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["masqd check", "masqd status", "masqd flows", "masqd help"])
def test_output_fits_the_serial_line(router, command):
    text = router.console.run(command)
    assert text.isascii()
    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []


def test_why_explains(router):
    said = router.console.run(f"masqd why udp {LAN_HOST}:5001 {WAN_HOST}:7")
    assert said.isascii() and max(map(len, said.splitlines())) <= COLUMNS
    assert GATEWAY in said


def test_memory_with_4096_sessions(router, arch):
    """RSS as the router's kernel reports it, the table full of live sessions."""
    count = 0
    with router.lan.udp(LAN_HOST, 6000) as client:
        for _ in range(20):
            before = count
            for number in range(4200):
                client.sendto(b"x", (WAN_HOST, 10000 + number))
                if number % 32 == 0:
                    time.sleep(0.01)
            count = status(router)["sessions"]["used"]
            if count >= 4096 or count == before:
                break
    pid = router.console.run("cat /var/run/procd/masqd/pid").strip()

    def kilobytes(name):
        return int(re.search(rf"{name}:\s+(\d+)", router.console.run(f"cat /proc/{pid}/status"))[1])

    # A host alone may have all but the room that is kept for newcomers.
    assert count > 3200
    measured.update({"sessions": count, "RSS kB under load": kilobytes("VmRSS"), "peak RSS kB": kilobytes("VmHWM")})
    # Two quiet seconds after the load the pages of the frame buffer go back: what stays is what the sessions cost.
    if arch == "mipsel":
        wait_until(lambda: kilobytes("VmRSS") <= 4096, "RSS within 4 MB")
    wait_until(lambda: kilobytes("VmRSS") < kilobytes("VmHWM"), "the frame buffer's pages given back")
    measured["RSS kB at rest"] = kilobytes("VmRSS")
    # What strangers open does not displace what a host has opened itself: port forwards need room.
    router.console.run(f"masqd flush host {LAN_HOST}")


# ---- firewall4 --------------------------------------------------------------------------------------------


def test_rules_of_the_wan_zone_hold_for_masqds_traffic(router, echo):
    """What an owner forbids with `option dest 'wan'` stays forbidden when the packets go to the TUN device."""
    console = router.console
    console.run("uci add firewall rule; uci set firewall.@rule[-1].src=lan; uci set firewall.@rule[-1].dest=wan")
    console.run(f"uci set firewall.@rule[-1].dest_ip={WAN_HOST}; uci set firewall.@rule[-1].proto=icmp")
    console.run("uci set firewall.@rule[-1].name=NoPing; uci set firewall.@rule[-1].target=REJECT; uci commit; reload_config")

    def ping():
        return router.lan.run("ping", "-n", "-c", "1", "-W", "5", WAN_HOST, check=False)

    wait_until(lambda: "Port Unreachable" in ping().stdout, "the ping that is refused")
    assert ask(router, 5003).startswith(f"{GATEWAY}:")
    console.run("uci delete firewall.@rule[-1]; uci commit; reload_config")
    wait_until(lambda: ping().returncode == 0, "the ping that is answered")


@pytest.mark.parametrize("commands", ["service firewall restart", "service firewall stop; service firewall start"])
def test_the_firewall_restarts(router, echo, commands):
    """A stop flushes every nft table; masqd puts its own back, and the LAN goes out as before."""
    router.console.run(commands)
    until_printed(router, "nft list tables", "inet masqd")
    router.lan.ping(WAN_HOST)
    assert ask(router, 5003).startswith(f"{GATEWAY}:")


def test_a_reload_applies_the_configuration_or_leaves_masqd_alone(router):
    """procd's signal makes masqd read its file again; with an error in the file it is not even sent."""
    console = router.console
    pid = console.run("cat /var/run/procd/masqd/pid")
    console.run("uci set masqd.main.filtering=none; uci commit")
    assert "'none' is not a valid choice" in console.run("service masqd reload", status=1)
    console.run("uci set masqd.main.filtering=endpoint-independent; uci set masqd.web=redirect; uci set masqd.web.src_dport=8080; uci commit")
    console.run(f"uci set masqd.web.proto=tcp; uci set masqd.web.dest_ip={LAN_HOST}; uci set masqd.web.dest_port=80; uci commit")
    count = "logread | grep -c 'configuration reloaded'"
    before = int(console.run(count, status=None))
    console.run("reload_config")
    wait_until(lambda: int(console.run(count, status=None)) > before, "the new configuration")
    assert console.run("cat /var/run/procd/masqd/pid") == pid
    ready(router)


def test_a_port_forward_passes_the_firewall(router):
    server = router.lan.start("/usr/bin/python3", "-u", "-m", "http.server", "--bind", LAN_HOST, "80")
    await_listener(server, 80)
    router.wan.run("curl", "-s", "-m", "20", "-o", "/dev/null", f"http://{GATEWAY}:8080/")
    assert server.expect("GET /").startswith(f"{WAN_HOST} - - ")
    server.kill()


# ---- the kernel and masqd side by side --------------------------------------------------------------------


def test_the_routers_own_ports_are_kept_apart(router, tmp_path):
    """The kernel's and dnsmasq's; dnsmasq itself, which the image has not, judges its file here."""
    console = router.console
    assert console.run("cat /proc/sys/net/ipv4/ip_local_port_range").split() == ["10000", "26999"]
    (tmp_path / "masqd.conf").write_text(console.run("cat /tmp/dnsmasq.d/masqd.conf"))
    assert (tmp_path / "masqd.conf").read_text() == "min-port=10000\nmax-port=26999\n"
    run("dnsmasq", "--test", f"--conf-file={tmp_path / 'masqd.conf'}")
    assert "started with: min-port=10000 max-port=26999" in console.run("logread | grep dnsmasq | tail -n 1")
    console.run("service masqd stop")
    console.run("ls /tmp/dnsmasq.d/masqd.conf", status=1)
    # dnsmasq answers throughout: its ports are as good without masqd.
    assert "started with: min-port=10000 max-port=26999" in console.run("logread | grep dnsmasq | tail -n 1")
    console.run("uci set dhcp.@dnsmasq[0].maxport=40000; uci commit; service masqd start")
    ready(router)
    console.run("ls /tmp/dnsmasq.d/masqd.conf", status=1)
    assert "dnsmasq's minport and maxport overlap masqd's ports" in console.run("logread | grep masqd | tail -n 8")
    console.run("uci delete dhcp.@dnsmasq[0].maxport; uci commit; service masqd reload")
    assert "max-port=26999" in console.run("cat /tmp/dnsmasq.d/masqd.conf")


def test_one_of_both_translates_at_any_time(router, echo, sources):
    """Flows go on over a stop and a start: never untranslated, and it is the kernel that translates in between."""
    console = router.console

    def ours(port):
        return port not in Chatter.PORTS

    chatter = Chatter(router)
    try:
        chatter.until(ours, "masqd's ports")
        chatter.silence = 0.0
        console.run("service masqd stop")
        chatter.until(lambda port: port in chatter.PORTS, "the kernel's ports")
        measured["longest silence over a stop, s"] = round(chatter.silence, 2)
        assert "masq0" not in console.run("nft list ruleset; ip rule; ip link")
        assert console.run("cat /proc/sys/net/ipv4/ip_local_port_range").split() == ["32768", "60999"]
        chatter.silence = 0.0
        console.run("service masqd start")
        chatter.until(ours, "masqd's ports again")
        measured["longest silence over a start, s"] = round(chatter.silence, 2)
    finally:
        chatter.close()
    assert sources.untranslated == []


def test_a_killed_masqd_is_back_and_nothing_leaked(router, echo, sources):
    console = router.console
    before = ask(router, 5011)
    old = console.run("cat /var/run/procd/masqd/pid").strip()
    console.run(f"kill -9 {old}")
    ask(router, 5011)
    wait_until(lambda: console.run("cat /var/run/procd/masqd/pid 2> /dev/null", status=None).strip() not in ("", old), "another process")
    ready(router)
    assert ask(router, 5011).startswith(f"{GATEWAY}:")
    assert before.startswith(f"{GATEWAY}:")
    assert sources.untranslated == []


# ---- netifd -----------------------------------------------------------------------------------------------


def test_the_wan_goes_and_comes_back(router, echo):
    console = router.console
    console.run("/sbin/ifdown wan")
    console.run("/sbin/ifup wan")
    ready(router)
    wait_until(lambda: ask(router, 10012) is not None, "traffic after ifup")
    assert int(ask(router, 10012).split(":")[1]) != 10012


# ---- and off again ----------------------------------------------------------------------------------------


def test_is_removed_without_a_trace(router, echo):
    console = router.console
    console.run("opkg remove masqd")
    left = console.run("nft list ruleset; ip rule; ip link; ls /var/run /usr/share/nftables.d/*/* /tmp/dnsmasq.d /etc/rc.d", status=None)
    assert "masq" not in re.sub("[Mm]asquerade|dnsmasq|root@masqd-router", "", left)
    assert console.run("ls /etc/config/masqd")
    assert ask(router, 5013) == f"{GATEWAY}:5013"
