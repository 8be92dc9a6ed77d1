"""A household's router over the days: what its owner and its provider do to it, and what that does to connections.

Streams of ten messages a second run through all of it; `make router-test` prints what became of them. Then the ways in which masqd can die, each
followed by `service masqd stop`, after which the kernel has the LAN and everything is as it was before masqd.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import statistics
import threading
import time

import pytest
from house import FIRST_LEASE, G1, H1, H2, SECOND_LEASE, SERVER, House
from machine import ROOT
from namespace import run, wait_until
from streams import RHYTHM, Row, Streams

TABLE = ROOT / "build" / "test" / "streams.txt"
PACKAGE = "/root/masqd.ipk"
# How often the service is restarted, and the daemon killed.
TIMES = int(os.environ.get("MASQD_HOUSE_TIMES", "20"))
GUEST = """
config device
	option name 'br-guest'
	option type 'bridge'
	list ports 'guest1'

config interface 'guest'
	option device 'br-guest'
	option proto 'static'
	option ipaddr '192.168.5.1'
	option netmask '255.255.255.0'
"""
GUEST_ZONE = """
config zone
	option name 'guest'
	list network 'guest'
	option input 'REJECT'
	option output 'ACCEPT'
	option forward 'REJECT'

config forwarding
	option src 'guest'
	option dest 'wan'
"""


def package():
    [found] = pathlib.Path(ROOT / "build").glob("masqd_*_x86_64.ipk")
    return found


def add_text(house, file, text):
    """Appends to a file of the router; in one line without tabs, for a serial console too."""
    for sign, written in ("\n", "\\n"), ("\t", "\\t"), ("'", "\\047"):
        text = text.replace(sign, written)
    house.run(f"printf '{text}' >> {file}")


# ---- streams ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story():
    """The router without the package, with traffic; rows of the table as the tests below add them."""
    house = House()
    house.place(package(), PACKAGE)
    house.boot()
    house.run("opkg remove masqd; fw4 -q reload")
    house.until("cat /var/run/netifd/wan", '"up":true')
    streams = Streams(house, [(house.h1, H1), (house.h2, H2)])
    rows = []

    def tell(event, action, **options):
        row = streams.during(event, action, **options)
        rows.append(row)
        print(row, flush=True)
        return row

    house.streams, house.tell = streams, tell
    yield house
    streams.close()
    house.close()
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text("\n".join([Row.HEAD, *map(str, rows)]) + "\n")


def unharmed(row):
    """No connection was reset, no socket has another port outside."""
    assert (row.resets, row.moves) == (0, 0), f"{Row.HEAD}\n{row}"
    return row


def patience(house):
    """The longest that a restart may keep the LAN waiting, in seconds: 0.3, or on a busy machine twice what the bare program takes to end and to start."""
    times = []
    for _ in range(5):
        begun = time.monotonic()
        house.run("masqd check > /dev/null; masqd check > /dev/null; masqd check > /dev/null; masqd check > /dev/null")
        times.append(time.monotonic() - begun)
    # Reading the program and a configuration takes a tenth of that where nothing else runs.
    return max(0.3, 2 * statistics.median(times) + 2 * RHYTHM)


def same_process(row):
    assert len(row.pids) == 1, f"{Row.HEAD}\n{row}"
    return unharmed(row)


def test_install(story):
    unharmed(story.tell("opkg install", lambda: story.run(f"opkg install {PACKAGE}")))
    assert story.pid() == ""
    assert story.run("ls /etc/rc.d").count("masqd") == 2


def test_enable(story):
    """The first start: firewall4 knows masqd's devices before the LAN's traffic goes to them."""
    unharmed(
        story.tell("uci set enabled, service restart", lambda: story.run("uci set masqd.main.enabled=1; uci commit masqd; service masqd restart; masqd status"))
    )
    assert story.run("nft list tables") == "table inet fw4\ntable inet masqd\n"


def test_restarts(story):
    dns = story.log().count("dnsmasq: started")
    row = unharmed(story.tell("service masqd restart", lambda: story.run("service masqd restart; masqd status"), times=TIMES))
    assert statistics.median(row.udp_gaps) <= patience(story), row
    # Nobody has stopped dnsmasq for it.
    assert story.log().count("dnsmasq: started") == dns


@pytest.mark.parametrize("command", ["opkg install", "apk add"])
def test_upgrade(story, command):
    """The next masqd does not wait for the watch that gives the LAN back should the upgrade fail; nor does whoever reads what the command prints."""
    before, given_back = story.pid(), story.log().count("gave the LAN back")
    row = unharmed(story.tell(f"upgrade: {command}", lambda: story.run(f"{command} {PACKAGE}; ps > /tmp/ps"), after=story.ready))
    assert re.search("init.d/masqd (stop|restart)", story.run("cat /tmp/ps"))
    assert max(row.udp_gaps) < 60 and story.log().count("gave the LAN back") == given_back, row
    assert story.pid() != before
    assert "deleted" not in story.run(f"ls -l /proc/{story.pid()}/exe")
    assert story.run("uci get masqd.main.enabled") == "1\n"


@pytest.mark.parametrize(
    "command",
    [
        "fw4 -q reload",
        "service firewall restart",
        "service firewall stop; service firewall start",
        "uci set masqd.main.icmp_rate=30; uci commit; reload_config",
        "uci set dhcp.@dnsmasq[0].cachesize=200; uci commit; reload_config",
        "/sbin/ifdown wan; /sbin/ifup wan",
        "/sbin/ifup lan",
        "service network restart",
    ],
)
def test_the_process_stays(story, command):
    same_process(story.tell(command.replace("uci set ", "").replace("; uci commit", ""), lambda: story.run(command)))


def test_the_wan_moves_to_another_zone(story):
    """firewall4's and masqd's idea of the zone change together."""
    rename = "uci set firewall.@zone[1].name={0}; uci set firewall.@forwarding[0].dest={0}; uci set firewall.@rule[0].src={0}; uci commit; reload_config"
    same_process(story.tell("zone wan renamed", lambda: story.run(rename.format("internet"))))
    assert "oifname" in story.run("nft list chain inet fw4 accept_to_internet")
    story.run(rename.format("wan"))
    story.quiet()


def test_a_guest_network_is_added(story):
    """And is the kernel's to translate until masqd is told of it: what its hosts have open by then goes on, from the same ports."""

    def network():
        add_text(story, "/etc/config/network", GUEST)
        add_text(story, "/etc/config/firewall", GUEST_ZONE)
        story.run("reload_config")

    same_process(story.tell("guest network and zone", network))
    story.streams.add(story.g1, G1)
    story.streams.flowing()
    assert G1 not in story.run("masqd hosts")

    def guests():
        story.run("uci set masqd.guests=lan; uci set masqd.guests.interface=guest; uci commit; reload_config")
        # Triggers come later, and the reload after them.
        story.until("masqd hosts", G1)

    same_process(story.tell("config lan for the guests", guests))
    assert story.run("masqd hosts").count(G1) == 1


def test_the_lan_has_another_address(story):
    """Its hosts keep theirs, and learn of the new gateway."""

    def move():
        story.run("uci set network.lan.ipaddr=192.168.1.254; uci commit; reload_config")
        for host in story.h1, story.h2:
            host.ip("route replace default via 192.168.1.254")

    same_process(story.tell("LAN address changed", move))


def test_the_wan_has_another_address(story):
    """By DHCP, then by a static one: connections end with the address they had, at once; everything else goes on."""
    assert FIRST_LEASE in story.run("masqd status")

    def lease():
        story.offer(SECOND_LEASE)
        story.run("kill -USR1 $(cat /var/run/netifd/wan.pid)")
        story.until("masqd status", SECOND_LEASE)

    row = story.tell("WAN: another address by DHCP", lease)
    assert len(row.pids) == 1 and row.resets > 0

    def static():
        story.run(
            "uci set network.wan.proto=static; uci set network.wan.ipaddr=203.0.113.88; uci set network.wan.netmask=255.255.255.0;"
            f"uci set network.wan.gateway={SERVER}; uci commit; reload_config"
        )
        story.until("masqd status", "203.0.113.88")

    row = story.tell("WAN: another address, static", static)
    assert len(row.pids) == 1


def test_kills(story):
    """What the streams miss is procd's time until it starts another, and what a restart costs."""
    waits = []

    def kill():
        before = story.pid()
        killed = time.clock_gettime(time.CLOCK_BOOTTIME)
        story.run(f"kill -9 {before}")
        wait_until(lambda: story.pid() not in ("", before), "another process")
        # The 20 fields behind the name end with when it began, in ticks.
        born = int(story.run("cat /proc/$(cat /var/run/procd/masqd/pid)/stat").rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        waits.append(born - killed)
        story.ready()

    row = unharmed(story.tell("kill -9", kill, times=TIMES))
    gaps = [gap - wait for gap, wait in zip(row.udp_gaps, waits, strict=True)]
    assert statistics.median(gaps) <= patience(story), (sorted(gaps), sorted(waits), row)


def test_stop_start_and_removal(story):
    unharmed(story.tell("service masqd stop", lambda: story.run("service masqd stop")))
    unharmed(story.tell("service masqd start", lambda: story.run("service masqd start"), after=story.ready))
    unharmed(story.tell("opkg remove", lambda: story.run("opkg remove masqd")))
    left = story.run("nft list ruleset; ip rule; ip link; ls /var/run /usr/share/nftables.d/*/* /tmp/dnsmasq.d /etc/rc.d", status=None)
    assert "masq" not in re.sub("[Mm]asquerade|dnsmasq", "", left)
    assert "masqd.main.enabled='1'" in story.run("uci show masqd")


# ---- what is written wrong, and what is missing -----------------------------------------------------------


@pytest.fixture(scope="module")
def house():
    made = House()
    (made.root / "etc/config/masqd").write_text((made.root / "etc/config/masqd").read_text().replace("enabled '0'", "enabled '1'"))
    made.boot()
    made.until("masqd status -j", '"version"')
    yield made
    made.close()


@pytest.mark.parametrize("command", ["start", "restart", "reload"])
def test_a_mistake_in_the_file_stops_nothing(house, command):
    before = house.pid()
    house.run("uci set masqd.main.sessions=lots; uci commit")
    try:
        assert "'lots' is not a whole number" in house.run(f"service masqd {command}", status=1)
        house.run("reload_config")
        house.quiet()
        assert house.pid() == before
        house.h1.ping(SERVER)
    finally:
        house.run("uci delete masqd.main.sessions; uci commit; reload_config")
        house.quiet()
    assert house.pid() == before


def test_a_lan_that_is_down_keeps_no_other_off(house):
    """Nor one that netifd does not know; each is told of, and comes when its interface does."""
    add_text(house, "/etc/config/network", GUEST.replace("option proto", "option disabled '1'\n\toption proto"))
    house.run("uci set masqd.guests=lan; uci set masqd.guests.interface=guest; uci set masqd.none=lan; uci set masqd.none.interface=nowhere; uci commit")
    said = house.run("service masqd restart")
    assert "netifd knows no interface 'nowhere'" in said
    house.h1.ping(SERVER)
    assert "interface 'guest': " in house.log()
    before = house.pid()
    house.run("uci delete masqd.none; uci set network.guest.disabled=0; uci commit; reload_config")
    house.until("masqd status", "br-guest")
    assert house.pid() == before
    house.run("uci delete masqd.guests; uci commit; reload_config")
    house.quiet()


def test_levels_of_the_log(house):
    """What is no error is none: standard error is daemon.err."""
    house.run("uci set masqd.main.icmp_rate=25; uci commit; reload_config")
    house.until("logread", "configuration reloaded")
    [line] = [line for line in house.log().splitlines() if "configuration reloaded" in line][-1:]
    assert "daemon.notice" in line or "daemon.info" in line
    assert not [line for line in house.log().splitlines() if "daemon.err masqd" in line and ("ready" in line or "configuration reloaded" in line)]


def test_rules_from_the_wan_hold_for_port_forwards(house):
    """An owner who bans an address by `option src 'wan'` means masqd's port forwards too."""
    house.run("uci set masqd.web=redirect; uci set masqd.web.src_dport=8080; uci set masqd.web.proto=tcp")
    house.run(f"uci set masqd.web.dest_ip={H1}; uci set masqd.web.dest_port=80; uci commit; reload_config")
    house.quiet()
    listener = house.h1.listener(H1, 80)

    def connects():
        client = house.wan.tcp()
        client.settimeout(1)
        try:
            client.connect((FIRST_LEASE, 8080))
        except OSError:
            return False
        finally:
            client.close()
        return True

    wait_until(connects, "a connection by the port forward")
    house.run("uci add firewall rule; uci set firewall.@rule[-1].name=Ban; uci set firewall.@rule[-1].src=wan; uci set firewall.@rule[-1].dest='*'")
    house.run(f"uci set firewall.@rule[-1].src_ip={SERVER}; uci set firewall.@rule[-1].target=DROP; uci commit; reload_config")
    house.quiet()
    assert not connects()
    # Answers to what the LAN asks for come in as ever.
    house.h1.ping(SERVER)
    house.run("uci delete firewall.@rule[-1]; uci commit; reload_config")
    house.quiet()
    wait_until(connects, "a connection after the ban")
    listener.close()


def test_status_says_when_no_zone_knows_masqd(house):
    assert "firewall4 does not know" not in house.run("masqd status")
    house.run("rm /var/run/masqd-fw4.nft /var/run/masqd-forward.nft; fw4 -q reload")
    assert "firewall4 does not know" in " ".join(house.run("masqd status").split())
    house.run("service masqd reload")
    house.quiet()
    assert "firewall4 does not know" not in " ".join(house.run("masqd status").split())
    house.h1.ping(SERVER)


def test_started_while_the_firewall_is_stopped(house):
    house.run("service masqd stop; service firewall stop; service masqd start")
    house.ready()
    house.run("service firewall start")
    wait_until(lambda: house.h1.run("ping", "-c", "1", "-W", "1", SERVER, check=False).returncode == 0, "the LAN's traffic")


@pytest.mark.parametrize("before", ["", "kill -STOP $(cat /var/run/procd/masqd/pid); "])
def test_a_stop_costs_no_connection(house, before):
    """Not even of a masqd that hangs: downloads go on, whose hosts only acknowledge, and nothing new is refused meanwhile."""
    listener, another = house.wan.listener(), house.wan.listener()
    client = house.h1.tcp()
    client.connect((SERVER, listener.getsockname()[1]))
    server, _ = listener.accept()
    stopped = threading.Event()
    problems = []

    def push():
        try:
            while not stopped.wait(0.005):
                server.sendall(bytes(1000))
            server.shutdown(socket.SHUT_WR)
        except OSError as problem:
            problems.append(problem)

    def stop():
        house.run(f"{before}service masqd stop")
        stopped.set()

    threads = [threading.Thread(target=target) for target in (push, stop)]
    # Some of it with masqd.
    threads[0].start()
    while len(client.recv(1 << 20)) < 1000:
        pass
    threads[1].start()
    while not stopped.is_set():
        with contextlib.closing(house.h1.tcp()) as fresh:
            fresh.connect((SERVER, another.getsockname()[1]))
        another.accept()[0].close()
    while client.recv(1 << 20):
        pass
    for thread in threads:
        thread.join()
    assert problems == []
    for each in (client, server, listener, another):
        each.close()
    house.run("service masqd start")
    house.ready()


def ubus(house, *calls):
    """Answers of the ubus object of luci-app-masqd, by a stand-in for rpcd out here (test/luci/ubus.ts) at the router's control socket."""
    socket_path = f"/proc/{house.first}/root/var/run/masqd.sock"
    asked = "".join(f"{json.dumps(one)}\n" for one in calls)
    done = run("node", ROOT / "build/test/luci/ubus.mjs", ROOT / "build/luci", socket_path, stdin=asked)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ubus_says_who_uses_the_line(house):
    """What the pages of LuCI call: of real traffic, page by page, by host, hour and day; the reader changes nothing."""
    house.ready()
    server, client = house.wan.udp(SERVER, 7), house.h1.udp(H1, 40000)

    def exchange():
        client.sendto(b"?" * 972, (SERVER, 7))
        data, peer = server.recvfrom(2000)
        server.sendto(data[:472], peer)
        return client.recv(2000)

    exchange()
    status, flows, hosts, days, mappings, drops, forwards = ubus(
        house,
        ("reader", "status", {}),
        ("reader", "flows", {"host": f"{H1}:40000", "sort": "recent", "limit": 10}),
        ("reader", "hosts", {"limit": 10}),
        ("reader", "hosts", {"by": "day"}),
        ("reader", "mappings", {"host": H1}),
        ("reader", "drops", {}),
        ("reader", "forwards", {}),
    )
    assert status["sessions"]["used"] > 0 and status["version"]
    assert [(flow["bytesOut"], flow["bytesIn"]) for flow in flows["flows"]] == [(1000, 500)]
    assert H1 in [row["address"] for row in hosts["hosts"]]
    [today] = [row["bytes"][0] for row in days["hosts"] if row["address"] == H1]
    assert today[0] >= 1000 and today[1] >= 500 and len(days["hosts"][0]["bytes"]) == 7
    assert mappings["matched"] > 0 and "counts" in drops and "forwards" in forwards
    [why] = ubus(house, ("reader", "why", {"protocol": "udp", "source": f"{H1}:40000", "destination": f"{SERVER}:7"}))
    assert why["verdict"] == "forwarded"
    refused = [("reader", method, {"what": "all"} if method == "flush" else {}) for method in ("flush", "selftest", "nat_type")]
    assert ubus(house, *refused, ("owner", "no_such", {})) == [6, 6, 6, 3]
    exchange()
    assert ubus(house, ("owner", "flush", {"what": "host", "host": H1}))[0]["sessions"] > 0
    assert ubus(house, ("owner", "flows", {"host": f"{H1}:40000"}))[0]["flows"] == []


def test_help_is_aligned(house):
    columns = {line.index(line.split("\t")[1].split(" ", 1)[1].lstrip()) for line in house.run("/etc/init.d/masqd help").splitlines() if line.startswith("\t")}
    assert len(columns) == 1


# ---- ten ways to die --------------------------------------------------------------------------------------

KILL = "kill -9 $(cat /var/run/procd/masqd/pid)"
# What is done, what the log says then ("" to wait for nothing), and what puts the router right again.
DEATHS = {
    "kill -9": (KILL, "", ""),
    "segmentation fault": ("kill -SEGV $(cat /var/run/procd/masqd/pid)", "", ""),
    "broken bundle": (
        f"cp /usr/share/masqd/masqd.qbc /root/; echo rubbish > /usr/share/masqd/masqd.qbc; {KILL}",
        "is not bytecode",
        "cp /root/masqd.qbc /usr/share/masqd/",
    ),
    "broken table": (f"{KILL}; head -c 100000 /dev/urandom > /var/run/masqd.state", "ended with status 137", ""),
    "no nft": (f"mv /usr/sbin/nft /root/; {KILL}", "No such file or directory", "mv /root/nft /usr/sbin/"),
    "no TUN": (f"{KILL}; mount --bind /dev/null /dev/net/tun", "TUN: ", "umount /dev/net/tun"),
    "full /tmp": (f"dd if=/dev/zero of=/tmp/full bs=64k 2> /dev/null; {KILL}", "", "rm -f /tmp/full"),
    "its device is taken": (f"{KILL}; until /bin/busybox brctl addbr masq0 2> /dev/null; do usleep 5000; done", "masq0", "ip link del masq0"),
    "its LAN device is gone": (f"{KILL}; ip link del br-lan", "does not exist", ""),
    "SIGSTOP": ("kill -STOP $(cat /var/run/procd/masqd/pid)", "", ""),
}


@pytest.mark.parametrize("death", DEATHS)
def test_after_a_death_and_a_stop_the_kernel_has_the_lan(house, death):
    kill, said, mend = DEATHS[death]
    house.run("service masqd stop")
    before = house.run("nft list tables; ip rule; sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports")
    assert "masqd" not in before
    house.run("service masqd start")
    house.ready()
    house.h1.ping(SERVER)
    logged = len(house.log())
    house.run(kill, status=None)
    if said:
        wait_until(lambda: said in house.log()[max(0, logged - 2000) :], f"{said!r} in the log")
    if death == "its LAN device is gone":
        house.run("/sbin/ifup lan")
    house.run("service masqd stop")
    try:
        wait_until(lambda: house.h1.run("ping", "-n", "-c", "1", "-W", "0.2", SERVER, check=False).returncode == 0, "the kernel's masquerade", 2)
    finally:
        house.run(mend, status=None)
    assert house.run("nft list tables; ip rule; sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports") == before
    house.run("service masqd start")
    house.ready()
    house.h1.ping(SERVER)


def test_starts_that_come_to_nothing_give_the_lan_back(house):
    """Without anybody's stop; and the log is not flooded."""
    house.run(f"cp /usr/share/masqd/masqd.qbc /root/; echo rubbish > /usr/share/masqd/masqd.qbc; {KILL}")
    house.until("logread", "starts failed")
    wait_until(lambda: house.h1.run("ping", "-n", "-c", "1", "-W", "0.2", SERVER, check=False).returncode == 0, "the kernel's masquerade")
    assert "masqd" not in house.run("nft list tables; ip rule")
    house.run("cp /root/masqd.qbc /usr/share/masqd/; service masqd restart")
    house.h1.ping(SERVER)
    assert "inet masqd" in house.run("nft list tables")


# ---- power ------------------------------------------------------------------------------------------------


class Foreign:
    """Sources other than the router's addresses that arrive at the provider."""

    def __init__(self, namespace):
        with namespace.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
            self._socket.bind(("eth0", 0x0800))
        self._socket.settimeout(0.1)
        self.seen = set()
        # The first of them, for whoever looks into a failure.
        self.packets = []
        self._stop = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        while not self._stop:
            try:
                packet, where = self._socket.recvfrom(2048)
            except OSError:
                # Nothing for a while, or the wire is down.
                continue
            source = socket.inet_ntoa(packet[12:16])
            if where[2] != socket.PACKET_OUTGOING and not source.startswith("203.0.113.") and source != "0.0.0.0":
                self.seen.add(source)
                if len(self.packets) < 20:
                    self.packets.append((time.monotonic(), packet[:40].hex()))

    def close(self):
        self._stop = True
        self._thread.join()
        self._socket.close()


def test_boots_before_its_provider_and_again_in_the_middle_of_traffic():
    """masqd waits for the WAN's address, takes the LAN then, and does so again after the power has failed; nothing leaves untranslated."""
    house = House(dhcp=False)
    foreign = Foreign(house.wan)
    try:
        (house.root / "etc/config/masqd").write_text((house.root / "etc/config/masqd").read_text().replace("enabled '0'", "enabled '1'"))
        house.boot()
        house.until("logread", "waiting for interface wan")
        assert "masqd is not running" in house.run("masqd status", status=1)
        house.offer(FIRST_LEASE)
        house.ready()
        streams = Streams(house, [(house.h1, H1), (house.h2, H2)])
        try:
            streams.flowing()
            for _ in range(2):
                house.power_off()
                house.boot()
                house.ready()
                streams.flowing()
                assert "masqd: ready" in house.log()
        finally:
            streams.close()
        assert foreign.seen == set()
    finally:
        foreign.close()
        house.close()
