"""What an owner and a provider do to a running masqd: kill it, restart it, change its configuration, take the WAN's address away. Connections go on."""

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP

import bed as beds
from bed import GATEWAY, H1, H2, H3, LAN_GATEWAY, R, S1, S2, S3, iperf_server, wan_mac
from namespace import run, wait_until
from packets import is_udp, tcp, udp
from wire import SO_RCVBUFFORCE

pytestmark = pytest.mark.masqd

OTHER = "203.0.113.5"
# Restarts under load; `make soak` makes it a hundred.
RESTARTS = int(os.environ.get("RESTARTS", "3"))


class Talk:
    """A TCP connection and a UDP exchange of one LAN host with a server, to be continued at any time."""

    def __init__(self, bed, host, address, port, service=7000):
        self.listener = bed.wan.listener(S1, service)
        self.client = host.tcp(address, port)
        self.client.connect((S1, service))
        self.server, self.peer = self.listener.accept()
        self.server.settimeout(self.client.gettimeout())
        self.asker, self.answerer = host.udp(address, port), bed.wan.udp(S1, service)
        self.number = 0
        self.outside = None
        self.go_on()

    def tcp(self):
        """Both ways over the connection."""
        self.number += 1
        for one, other in ((self.client, self.server), (self.server, self.client)):
            text = b"tcp %d" % self.number
            one.sendall(text)
            assert other.recv(100) == text

    def udp(self):
        """Question and answer; the question comes from where it came before."""
        self.number += 1
        text = b"udp %d" % self.number
        self.asker.sendto(text, self.answerer.getsockname())
        said, outside = self.answerer.recvfrom(100)
        assert said == text and self.outside in (None, outside), (said, outside, self.outside)
        self.outside = outside
        self.answerer.sendto(text, outside)
        assert self.asker.recv(100) == text

    def go_on(self):
        self.tcp()
        self.udp()

    def close(self):
        """Ends the connection in good order, so that nothing is sent any more."""
        self.client.close()
        assert self.server.recv(100) == b""
        self.server.close()

    def inbound(self):
        """The server speaks first: what it says finds the host through the old mapping."""
        self.number += 1
        text = b"inbound %d" % self.number
        self.server.sendall(text)
        assert self.client.recv(100) == text
        self.answerer.sendto(text, self.outside)
        assert self.asker.recv(100) == text


def replies(pinging):
    """Sequence numbers of the replies so far."""
    return [int(n) for n in re.findall(r"icmp_seq=(\d+) ttl", pinging.output)]


def awaits_reply(pinging):
    before = len(replies(pinging))
    wait_until(lambda: len(replies(pinging)) > before + 2, "further replies to the same ping")


# ---- state survives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "relieved"])
def test_everything_goes_on_after_a_restart(make_bed, how):
    """W-4: a download, an upload, an idle connection, UDP both ways, a stream of datagrams and a ping, none of which notices more than a pause."""
    bed = make_bed()
    before = bed.snapshot()
    bed.start()
    talks = [Talk(bed, bed.h1, H1, 40001), Talk(bed, bed.h2, H2, 40001, 7001)]
    servers = [iperf_server(bed.wan, port) for port in (5201, 5202)]
    transfers = [bed.h1.start("iperf3", "-c", S1, "-p", 5201, "-t", "600"), bed.h2.start("iperf3", "-c", S1, "-p", 5202, "-t", "600", "-R")]

    def moved():
        """Bytes of each transfer's data connection; the control connections move few."""
        flows = {flow["internal"]: flow["bytesOut"] + flow["bytesIn"] for flow in bed.flows() if flow["peer"] in (f"{S1}:5201", f"{S1}:5202")}
        return {inside: size for inside, size in flows.items() if size > 1e6}

    wait_until(lambda: len(moved()) == 2, "both transfers")
    stream = Stream(bed, bed.h1, H1)
    pinging = bed.h1.start("ping", "-n", "-i", "0.02", S1)
    pinging.expect("icmp_seq=3 ")
    for _ in range(RESTARTS):
        sessions = bed.status()["sessions"]["used"]
        bed.daemon.send_signal(how)
        assert bed.daemon.wait() == (0 if how == signal.SIGUSR1 else -signal.SIGKILL)
        bed.launch().expect(r"^masqd: ready:")
        assert re.search(r"\d+ sessions restored$", bed.daemon.output, re.MULTILINE), bed.daemon.output
        assert bed.status()["sessions"]["used"] >= sessions - 2
        talks[0].inbound()
        talks[1].go_on()
        awaits_reply(pinging)
    before_end = moved()
    wait_until(lambda: all(now > before_end[key] + 1e6 for key, now in moved().items()), "both transfers go on")
    for one in transfers:
        assert one.running(), one.output
        one.kill()
    # It says nothing of how many are lost while nobody is there; all go the same way in the end.
    assert stream.outside() == {(GATEWAY, 40100)}
    for talk in talks:
        talk.go_on()
        talk.close()
    pinging.stop()
    for server in servers:
        server.kill()
    assert bed.leaks() == 0
    bed.stop()
    assert bed.snapshot() == before


def test_stop_and_start(make_bed):
    """A clean stop undoes everything in the router but forgets no session."""
    bed = make_bed()
    before = bed.snapshot()
    bed.start()
    talks = [Talk(bed, bed.h1, H1, 40001), Talk(bed, bed.h2, H2, 40001, 7001)]
    for _ in range(2):
        bed.stop()
        assert bed.snapshot() == before
        bed.start()
        assert "4 sessions restored" in bed.daemon.output
        talks[0].inbound()
        talks[1].go_on()
    for talk in talks:
        talk.close()


@pytest.mark.parametrize("sizes", [("4096", "256"), ("256", "8192")], ids=["smaller", "larger"])
def test_another_table_size(make_bed, sizes):
    """The sessions move into the new table."""
    bed = make_bed().start(main={"sessions": sizes[0]})
    talks = [Talk(bed, bed.h1, H1, 40001), Talk(bed, bed.h2, H2, 40001, 7001)]
    bed.stop()
    bed.start(main={"sessions": sizes[1]})
    assert "4 sessions restored" in bed.daemon.output and bed.status()["sessions"] == {
        "used": 4,
        "total": int(sizes[1]),
        "byState": bed.status()["sessions"]["byState"],
    }
    for talk in talks:
        talk.inbound()
        talk.go_on()
    assert not list(bed.folder.glob("*.new"))


DAMAGE = {
    "not ours": lambda data: b"Dear diary, " * 1000,
    "no version that we know": lambda data: data[:4] + struct.pack("=i", 9999) + data[8:],
    "another boot": lambda data: data[:32] + bytes(16) + data[48:],
    "cut off": lambda data: data[: len(data) // 2],
    "header only": lambda data: data[:10],
    "records damaged": lambda data: data[:1280] + bytes((byte * 7 + at) & 0xFF for at, byte in enumerate(data[1280:])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_state(make_bed, damage):
    """It is refused with one line, and masqd starts with no sessions."""
    bed = make_bed().start()
    talk = Talk(bed, bed.h1, H1, 40001)
    bed.stop()
    bed.state_path.write_bytes(DAMAGE[damage](bed.state_path.read_bytes()))
    bed.start()
    lines = [line for line in bed.daemon.output.splitlines() if str(bed.state_path) in line]
    assert len(lines) == 1 and "starting with no sessions" in lines[0], bed.daemon.output
    assert bed.status()["sessions"]["used"] == 0
    talk.udp()
    refused = bed.folder / "masqd.state.refused"
    assert refused.exists() == (damage == "not ours")


def test_time_goes_on_while_it_is_dead(make_bed):
    """What expired in the meantime is not there any more; the rest has the time left that it would have had."""
    bed = make_bed().start(extra=[("timeouts", None, {"dns": "1"})])
    asker, server = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 53)
    asker.sendto(b"query", (S1, 53))
    _, outside = server.recvfrom(10)
    server.sendto(b"reply", outside)
    asker.recv(10)
    talk = Talk(bed, bed.h2, H2, 40002)
    assert bed.status()["sessions"]["used"] == 3
    bed.daemon.kill()
    bed.h1.run("sleep", "2.5")
    bed.start()
    assert "2 sessions restored" in bed.daemon.output
    assert 7430 <= next(f["left"] for f in bed.flows() if f["protocol"] == "tcp") <= 7438
    talk.inbound()


class Churn:
    """Raw hosts of the LAN that open mappings all the time; everything comes back from the server, and to whom it belongs stands in it."""

    HOSTS = range(30, 40)
    PORTS = 250

    def __init__(self, bed):
        self.lan, self.wan = bed.lan_wire._socket, bed.wan_wire._socket
        self.frames = [bed.lan_wire.frame(udp(f"192.168.1.{n}", 40000, S3, 7, bytes(6))) for n in self.HOSTS]
        self.sent = self.returned = 0
        self.wrong = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._open, self._echo, self._check)]
        for thread in self.threads:
            thread.start()

    def _open(self):
        dice = random.Random(1)
        while not self.stopping.wait(0.001):
            for _ in range(10):
                number = dice.randrange(len(self.frames))
                frame = bytearray(self.frames[number])
                port = 40000 + dice.randrange(self.PORTS)
                frame[34:36] = port.to_bytes(2, "big")
                frame[40:42] = bytes(2)
                frame[42:48] = bytes(frame[26:30]) + port.to_bytes(2, "big")
                with contextlib.suppress(OSError):
                    self.lan.send(frame)
                    self.sent += 1

    def _echo(self):
        self.wan.settimeout(0.2)
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                frame = bytearray(self.wan.recv(2048))
                if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[36:38] != b"\x00\x07":
                    continue
                for one, other, size in ((0, 6, 6), (26, 30, 4), (34, 36, 2)):
                    frame[one : one + size], frame[other : other + size] = frame[other : other + size], frame[one : one + size]
                frame[40:42] = bytes(2)
                self.wan.send(frame)

    def _check(self):
        self.lan.settimeout(0.2)
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                frame = self.lan.recv(2048)
                if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:36] != b"\x00\x07":
                    continue
                self.returned += 1
                if frame[30:34] + frame[36:38] != frame[42:48]:
                    self.wrong.append(frame[26:48].hex())

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def test_kills(make_bed):
    """Killed at random instants under churn, the start included: it always starts again, nothing leaks, no packet comes to a wrong host,
    no connection is lost."""
    bed = make_bed().start()
    talks = [Talk(bed, bed.h1, H1, 40001), Talk(bed, bed.h2, H2, 40001, 7001)]
    churn = Churn(bed)
    dice = random.Random(20240229)
    kills = int(os.environ.get("KILLS", "20"))
    for number in range(kills):
        bed.h1.run("sleep", f"{dice.uniform(0, 0.25):.3f}")
        assert bed.daemon.running(), bed.daemon.output
        bed.daemon.kill()
        assert "not used" not in bed.daemon.output, bed.daemon.output
        bed.launch()
        if number % 10 == 9:
            bed.daemon.expect(r"^masqd: ready:")
            talks[number // 10 % 2].inbound()
            talks[number // 10 % 2].go_on()
    bed.daemon.expect(r"^masqd: ready:")
    for talk in talks:
        talk.inbound()
        talk.go_on()
    before = churn.returned
    wait_until(lambda: churn.returned > before, "churn that comes back")
    churn.stop()
    assert churn.wrong == [] and churn.returned > kills, (churn.sent, churn.returned, churn.wrong[:5])
    assert bed.status()["sessions"]["used"] > 100
    assert bed.leaks() == 0


# ---- another configuration -----------------------------------------------------------------------------------


def reload(bed, main=None, extra=(), word="configuration reloaded"):
    """Writes another configuration and has it read; returns what masqd says, to the line with `word`."""
    bed.configure(main, extra)
    said = len(bed.daemon.lines)
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: any(word in line for line in bed.daemon.lines[said:]), f"'{word}' after a reload, have {bed.daemon.lines[said:]}")
    return bed.daemon.lines[said:]


def redirect(port, address, inside, protocol="tcp"):
    return ("redirect", None, {"proto": protocol, "src_dport": str(port), "dest_ip": address, "dest_port": str(inside)})


class Forwarded:
    """A connection that the WAN made through a port forward."""

    def __init__(self, bed, host, port, inside, listener=None):
        self.listener = listener or host.listener("", inside)
        self.client = bed.wan.tcp(S2)
        self.client.connect((GATEWAY, port))
        self.server, _ = self.listener.accept()
        self.say()

    def say(self):
        self.client.sendall(b"in")
        assert self.server.recv(10) == b"in"
        self.server.sendall(b"out")
        assert self.client.recv(10) == b"out"


@pytest.mark.parametrize("port", [2222, 40022], ids=["outside-the-range", "in-the-range"])
def test_forward_deleted(make_bed, port):
    """W-6: its sessions end now, those of others go on; also if masqd was not running when it was deleted."""
    bed = make_bed()
    both = [redirect(port, H1, 22), redirect(port + 1, H2, 22)]
    bed.start(extra=both)
    deleted, kept, talk = Forwarded(bed, bed.h1, port, 22), Forwarded(bed, bed.h2, port + 1, 22), Talk(bed, bed.h1, H1, 40001)
    assert not any("sessions ended" in line for line in reload(bed, extra=both))
    for one in (deleted, kept):
        one.say()
    assert any("1 sessions ended" in line for line in reload(bed, extra=both[1:]))
    ended = [flow for flow in bed.flows() if flow["internal"] == f"{H1}:22"]
    assert ended == []
    kept.say()
    talk.go_on()
    talk.inbound()
    if port > 32768:
        deleted.client.sendall(b"nobody")
        bed.await_drops("no-mapping", 1)
    else:  # the router's own port again, whose kernel resets whatever comes, a late acknowledgment too
        with pytest.raises(ConnectionResetError):
            deleted.client.sendall(b"nobody")
            deleted.client.recv(10)
    # The port is free again, for another host too.
    reload(bed, extra=[redirect(port, H2, 23), both[1]])
    again = Forwarded(bed, bed.h2, port, 23)
    bed.daemon.send_signal(signal.SIGUSR1)
    bed.daemon.wait()
    bed.start(extra=both[1:])
    assert "1 no longer permitted by the configuration" in bed.daemon.output
    assert not [flow for flow in bed.flows() if flow["internal"] == f"{H2}:23"]
    kept.say()
    talk.inbound()
    again.client.close()


def test_bad_configuration_changes_nothing(bed):
    talk = Talk(bed, bed.h1, H1, 40001)
    before = bed.snapshot()
    for text, word in (("config masqd 'main'\n\toption sessons '9'\n", "sessons"), ("", "no section")):
        bed.config_file.write_text(text)
        said = len(bed.daemon.lines)
        bed.daemon.send_signal(signal.SIGHUP)
        bed.daemon.expect("keeping the current configuration")
        wait_until(lambda: any(word in line for line in bed.daemon.lines[said:]), f"'{word}' in what masqd says")
    bed.config_file.unlink()
    said = len(bed.daemon.lines)
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: any("cannot read" in line for line in bed.daemon.lines[said:]), "what masqd says of a file that is not there")
    talk.inbound()
    assert re.sub(r"packets \d+ bytes \d+", "", bed.snapshot()) == re.sub(r"packets \d+ bytes \d+", "", before)


def test_policy_changes_while_it_runs(make_bed):
    """Filtering, timeouts, a host's limit, the port range, static NAT: each takes effect at once and touches nothing else."""
    bed = make_bed(external=(GATEWAY, OTHER)).start()
    talk = Talk(bed, bed.h1, H1, 40001)

    def heard(address):
        stranger = bed.wan.udp(address, 9)
        stranger.sendto(b"stranger", talk.outside)
        talk.answerer.sendto(b"known", talk.outside)
        got = {talk.asker.recv(100)}
        while b"known" not in got:
            got.add(talk.asker.recv(100))
        return b"stranger" in got

    assert not heard(S2)
    reload(bed, main={"filtering": "endpoint-independent"})
    assert heard(S2)
    reload(bed, extra=[("host", None, {"ip": H1, "filtering": "address-dependent"}), ("timeouts", None, {"udp": "7200"})])
    talk.udp()
    assert max(flow["left"] for flow in bed.flows() if flow["protocol"] == "udp") > 7100
    assert not heard(R)
    talk.go_on()

    # A static NAT takes the host's sessions away from the WAN's address; then it is gone again. What still comes for its address then the kernel sends on.
    bed.guard_may_drop = True
    fixed = ("static", None, {"internal": H1, "external": OTHER})
    other = Talk(bed, bed.h2, H2, 40001, 7001)
    assert any("sessions ended" in line for line in reload(bed, extra=[fixed]))
    assert {flow["internal"] for flow in bed.flows()} == {f"{H2}:40001"}
    bed.h1.ping(S1)
    moved = Talk(bed, bed.h1, H1, 40002, 7002)
    assert moved.outside == (OTHER, 40002)
    other.inbound()
    reload(bed, extra=[fixed], main={"ports": ["50000-60000"]})
    moved.go_on()
    assert {f"{H1}:40002"} <= {flow["internal"] for flow in bed.flows()}
    for flow in bed.flows():
        address, port = flow["external"].split(":")
        assert address == OTHER or 50000 <= int(port) <= 60000, flow
    assert bed.status()["externalPorts"][0]["total"] == 10001
    reload(bed)
    Talk(bed, bed.h1, H1, 40003, 7003)
    assert any("needs a restart" in line for line in reload(bed, main={"sessions": "1024"}, word="needs a restart"))


class Stream:
    """
    Numbered datagrams from a LAN host to a server, some thousand a second; slower while half of what a TUN device's queue takes is on the way, so that
    none is lost for want of a processor.
    """

    def __init__(self, bed, host, address):
        self.sender, self.receiver = host.udp(address, 40100), bed.wan.udp(S1, 7100)
        self.receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.receiver.setblocking(False)
        self.sent = 0
        self.seen = set()
        self.sources = set()
        self.last = -1
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()

    def _send(self):
        while not self.stopping.wait(0.002):
            self._receive()
            if self.sent - self.last > 1000 and self.stopping.wait(0.05):
                return
            for _ in range(6):
                self.sender.sendto(struct.pack("!I", self.sent) + bytes(400), (S1, 7100))
                self.sent += 1

    def _receive(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = self.receiver.recvfrom(500)
                self.last = struct.unpack("!I", data[:4])[0]
                self.seen.add(self.last)
                self.sources.add(source)

    def outside(self):
        """Ends it; where the datagrams came from that have arrived."""
        self.stopping.set()
        self.thread.join()
        self._receive()
        return self.sources

    def lost(self):
        """Ends it; the numbers that did not arrive."""
        self.stopping.set()
        self.thread.join()
        # The last one says that all have come that will.
        self.sender.sendto(struct.pack("!I", self.sent), (S1, 7100))
        wait_until(lambda: self._receive() or self.sent in self.seen, "the last datagram")
        return sorted(set(range(self.sent)) - self.seen)


def test_reloads_under_load(make_bed):
    """100 reloads of changing configurations: not one packet of flows that they do not concern is lost, and the connections go on."""
    bed = make_bed().start()
    talk = Talk(bed, bed.h1, H1, 40001)
    stream = Stream(bed, bed.h2, H2)
    for number in range(100):
        said = len(bed.daemon.lines)
        forwards = [redirect(3000 + number, H1, 22), redirect(41000 + number, H2, 22, "udp")]
        bed.configure({"filtering": ("endpoint-independent", "address-dependent")[number % 2]}, [*forwards, ("timeouts", None, {"udp": str(300 + number)})])
        bed.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: any("configuration reloaded" in line for line in bed.daemon.lines[said:]), "the reload")
        if number % 10 == 0:
            talk.go_on()
    talk.inbound()
    lost = stream.lost()
    assert stream.sent > 1000 and lost == [], f"{len(lost)} of {stream.sent} lost: {lost[:20]}"
    assert bed.status()["drops"] == []
    assert bed.leaks() == 0


# ---- the WAN changes -------------------------------------------------------------------------------------------


def readdress(bed, address, down=False):
    """Gives the WAN device another address, as a DHCP client does."""
    bed.router.ip(
        *(["link set wan0 down"] if down else []),
        "addr flush dev wan0",
        f"addr add {address}/24 dev wan0",
        *(["link set wan0 up"] if down else []),
        f"route replace default via {R}",
    )
    # With its last address a device forgets its neighbours.
    bed.router.ip(f"neigh replace {S3} lladdr {wan_mac(S3)} dev wan0 nud permanent")
    wait_until(lambda: bed.status()["ports"][0]["address"] == address, f"{address} in masqd status")


def no_address(bed):
    bed.router.ip("addr flush dev wan0")
    wait_until(lambda: bed.status()["ports"][0]["address"] == "", "no address in masqd status")


@pytest.mark.parametrize("bounce", ["link", "address", "both", "carrier"])
def test_same_address_again(bed, bounce):
    """W-2: every session goes on, also those that the server continues."""
    talk = Talk(bed, bed.h1, H1, 40001)
    pinging = bed.h1.start("ping", "-n", "-i", "0.05", S1)
    pinging.expect("icmp_seq=3 ")
    for _ in range(3):
        sessions = {(flow["internal"], flow["external"]) for flow in bed.flows()}
        if bounce == "carrier":
            bed.wan.ip("link set eth0 down")
            bed.h1.run("sleep", "0.2")
            bed.wan.ip("link set eth0 up")
        elif bounce == "link":
            bed.router.ip("link set wan0 down", "link set wan0 up", f"route replace default via {R}")
        elif bounce == "address":
            no_address(bed)
            readdress(bed, GATEWAY)
        else:
            no_address(bed)
            readdress(bed, GATEWAY, down=True)
        talk.inbound()
        talk.go_on()
        awaits_reply(pinging)
        assert sessions == {(flow["internal"], flow["external"]) for flow in bed.flows()}
    pinging.stop()


def test_another_address(make_bed):
    """W-1: UDP and ping go on from the new address with the next packet, forwards and static NAT follow; TCP hears of it at
    once; nothing leaves from the old one."""
    bed = make_bed(external=(GATEWAY, OTHER))
    new = "203.0.113.77"
    bed.start(extra=[redirect(2222, H1, 22), ("static", None, {"internal": H2, "external": OTHER})])
    talk, fixed, forwarded = Talk(bed, bed.h1, H1, 40001), Talk(bed, bed.h2, H2, 40001, 7001), Forwarded(bed, bed.h1, 2222, 22)
    idle = Talk(bed, bed.h1, H1, 40002, 7002)
    idle.client.setblocking(True)
    assert talk.outside == (GATEWAY, 40001) and fixed.outside == (OTHER, 40001)
    pinging = bed.h1.start("ping", "-n", "-i", "0.02", S1)
    pinging.expect("icmp_seq=3 ")
    # What comes for the old address the kernel would send back to where it came from.
    bed.guard_may_drop = True
    bed.sniffer.allow([GATEWAY, OTHER, new])
    readdress(bed, new)
    bed.sniffer.allow([OTHER, new])
    # Both idle connections are reset without having said a word, the forwarded one at its server.
    for end in (idle.client, talk.client, forwarded.server):
        with pytest.raises(ConnectionResetError):
            end.recv(10)
    talk.outside = (new, 40001)
    talk.udp()
    talk.udp()
    awaits_reply(pinging)
    pinging.stop()
    fixed.inbound()
    fixed.go_on()
    # What comes for the old address is nobody's; what comes through the old mappings at the new address is.
    stranger = udp(S3, 9, GATEWAY, 40001)
    before = bed.status()["forwarded"]["in"]
    bed.wan_wire.send(stranger)
    again = Forwarded.__new__(Forwarded)
    again.listener, again.client = forwarded.listener, bed.wan.tcp(S2)
    again.client.connect((new, 2222))
    again.server, _ = again.listener.accept()
    again.say()
    Talk(bed, bed.h1, H1, 40003, 7003)
    assert bed.status()["forwarded"]["in"] > before
    assert not [flow for flow in bed.flows() if flow["external"].startswith(GATEWAY + ":")]
    # And over a restart, in which it changes once more.
    bed.daemon.send_signal(signal.SIGUSR1)
    bed.daemon.wait()
    bed.router.ip("addr flush dev wan0", f"addr add {GATEWAY}/24 dev wan0", f"route replace default via {R}")
    bed.sniffer.allow([GATEWAY, OTHER])
    bed.start()
    assert re.search(r"sessions moved", bed.daemon.output), bed.daemon.output
    talk.outside = (GATEWAY, 40001)
    talk.udp()
    fixed.inbound()


def test_reset_of_a_connection_that_went_on_talking(bed):
    """W-1: also a host whose reset was lost is told, by an answer to its next segment."""
    syn = tcp(H3, 5000, S3, 80, "S", seq=100)
    bed.lan_wire.send(syn)
    out = bed.wan_wire.expect(lambda p: TCP in p and p.dport == 80)
    bed.wan_wire.send(tcp(S3, 80, GATEWAY, out.sport, "SA", seq=900, ack=101))
    bed.lan_wire.expect(lambda p: TCP in p and p[TCP].flags == "SA")
    bed.lan_wire.send(tcp(H3, 5000, S3, 80, "A", seq=101, ack=901))
    bed.wan_wire.expect(lambda p: TCP in p and p[TCP].flags == "A")
    bed.sniffer.allow([GATEWAY, "203.0.113.77"])
    readdress(bed, "203.0.113.77")
    told = bed.lan_wire.expect(lambda p: TCP in p and p[TCP].flags & 4, "reset")
    assert (told.src, told.sport, told.dst, told.dport, told.seq) == (S3, 80, H3, 5000, 901)
    bed.lan_wire.send(tcp(H3, 5000, S3, 80, "PA", seq=101, ack=950, data=b"hello"))
    told = bed.lan_wire.expect(lambda p: TCP in p and p[TCP].flags & 4, "reset")
    assert (told.src, told.sport, told.dst, told.dport, told.seq) == (S3, 80, H3, 5000, 950)
    assert not [p for p in bed.wan_wire.arrived() if TCP in p and p.dport == 80]


def test_no_address(bed):
    """W-3: refused with the reason and ICMP 3/0, whatever session there was; nothing that was sent blocks what comes after."""
    talk = Talk(bed, bed.h1, H1, 40001)
    bed.lan_wire.send(udp(H3, 5000, S3, 9))
    bed.wan_wire.expect(is_udp(9))
    no_address(bed)
    for sport in (5000, 5001):
        bed.lan_wire.send(udp(H3, sport, S3, 9))
        told = bed.lan_wire.expect(lambda p: ICMP in p and p[ICMP].type == 3, "destination unreachable")
        assert (told.src, told.dst, told[ICMP].code) == (LAN_GATEWAY, H3, 0)
        quoted = told[ICMP].payload
        assert (quoted.src, quoted.sport, quoted.dst, quoted.dport) == (H3, sport, S3, 9)
    assert bed.drops("no-external-address") >= 2
    assert not [p for p in bed.wan_wire.arrived() if UDP in p]
    readdress(bed, GATEWAY)
    for sport in (5000, 5001):
        bed.lan_wire.send(udp(H3, sport, S3, 9))
        out = bed.wan_wire.expect(is_udp(9))
        assert (out.src, out.sport) == (GATEWAY, out.sport)
        bed.wan_wire.send(udp(S3, 9, GATEWAY, out.sport))
        assert bed.lan_wire.expect(is_udp(sport)).dst == H3
    talk.inbound()
    talk.go_on()


def test_no_route(bed):
    """R-5: as without an address, for known sessions too."""
    talk = Talk(bed, bed.h1, H1, 40001)
    far = "198.51.100.9"
    bed.lan_wire.send(udp(H3, 5000, far, 9))
    bed.wan_wire.expect(is_udp(9))
    bed.router.ip("route del default")
    for sport in (5000, 5001):

        def refused():
            bed.lan_wire.send(udp(H3, sport, far, 9))
            return any(ICMP in p and p[ICMP].type == 3 and p[ICMP].code == 0 for p in bed.lan_wire.arrived())

        wait_until(refused, "network unreachable")
    talk.go_on()
    bed.router.ip(f"route add default via {R}")

    def passes():
        bed.lan_wire.send(udp(H3, 5000, far, 9))
        return any(UDP in p and p.dport == 9 for p in bed.wan_wire.arrived())

    wait_until(passes, "a packet after the route is back")
    talk.inbound()


def test_redial(bed):
    """The WAN device goes and comes again under another index (PPPoE): with the same address everything goes on, with another one W-1."""
    talk = Talk(bed, bed.h1, H1, 40001)
    index = bed.router.run("cat", "/sys/class/net/wan0/ifindex").stdout
    for address in (GATEWAY, "203.0.113.77"):
        bed.router.ip("link del wan0")
        wait_until(lambda: not bed.status()["ports"][0]["up"], "the WAN port down in masqd status")
        bed.router.ip("link add spare0 type veth peer name spare1", "link del spare0")
        bed.external = [address]
        bed.build_wan()
        assert bed.router.run("cat", "/sys/class/net/wan0/ifindex").stdout != index
        wait_until(lambda: bed.status()["ports"][0]["up"] and bed.status()["ports"][0]["address"] == address, "the WAN port up")
        if address == GATEWAY:
            talk.inbound()
            talk.go_on()
        else:
            with pytest.raises(ConnectionResetError):
                talk.client.recv(10)
            talk.outside = (address, 40001)
            talk.udp()


@pytest.mark.parametrize("begin", ["no-device", "link-down", "no-address"])
def test_no_wan_at_start(make_bed, begin):
    """It starts and waits: what is sent is refused with a reason until the WAN is there."""
    bed = make_bed()
    if begin == "no-device":
        bed.router.ip("link del wan0")
    elif begin == "link-down":
        bed.router.ip("addr flush dev wan0", "link set wan0 down")
    else:
        bed.router.ip("addr flush dev wan0")
    bed.configure()
    bed.daemon = bed.router.start(*bed.command("--wait"))
    bed._closing.callback(bed.daemon.kill)
    bed.daemon.expect("^masqd: ready:.*no address yet")
    if begin == "no-device":
        assert "waiting for it" in bed.daemon.output
    bed.lan_wire.send(udp(H3, 5000, S3, 9))
    told = bed.lan_wire.expect(lambda p: ICMP in p and p[ICMP].type == 3, "destination unreachable")
    assert told[ICMP].code == 0
    if begin == "no-device":
        bed.build_wan()
    else:
        readdress(bed, GATEWAY, down=begin == "link-down")
    wait_until(lambda: bed.status()["ports"][0]["up"] and bed.status()["ports"][0]["address"] == GATEWAY, "the WAN port up")
    Talk(bed, bed.h1, H1, 40001)


def test_mtu_changes(bed):
    """W-5: 1500 to 1492 and back: the MSS of both SYNs follows, and what does not fit is answered with the new MTU."""

    def segments(expected, sport):
        bed.lan_wire.send(IP(src=H3, dst=S3) / TCP(sport=sport, dport=80, flags="S", seq=1, options=[("MSS", 1460)]))
        out = bed.wan_wire.expect(lambda p: TCP in p and p.dport == 80)
        bed.wan_wire.send(IP(src=S3, dst=GATEWAY) / TCP(sport=80, dport=out.sport, flags="SA", seq=1, ack=2, options=[("MSS", 1460)]))
        back = bed.lan_wire.expect(lambda p: TCP in p and p.dport == sport)
        assert dict(out[TCP].options)["MSS"] == expected and dict(back[TCP].options)["MSS"] == expected

    segments(1460, 5000)
    for number, mtu in enumerate((1492, 1280, 1500)):
        bed.router.ip(f"link set wan0 mtu {mtu}")
        wait_until(lambda: bed.status()["ports"][0]["mtu"] == mtu, "the MTU in masqd status")
        segments(mtu - 40, 5001 + number)
        bed.lan_wire.send(udp(H3, 6000, S3, 9, bytes(1472), flags="DF"))
        if mtu == 1500:
            bed.wan_wire.expect(is_udp(9))
        else:
            told = bed.lan_wire.expect(lambda p: ICMP in p and p[ICMP].type == 3, "fragmentation needed")
            assert (told[ICMP].code, told[ICMP].nexthopmtu) == (4, mtu)


def test_overlap(bed):
    """U-7: the provider gives an address of the LAN's own subnet: nothing is translated, masqd says so, and goes on as before when it is over."""
    talk = Talk(bed, bed.h1, H1, 40001)
    bed.sniffer.allow([GATEWAY, "192.168.1.77"])
    bed.router.ip("addr flush dev wan0", "addr add 192.168.1.77/24 dev wan0", "route replace default via 192.168.1.254 dev wan0")
    bed.daemon.expect("overlaps 192.168.1.0/24")
    bed.lan_wire.send(udp(H3, 5000, S3, 9))
    bed.await_drops("address-conflict", 1)
    assert any("overlaps" in warning for warning in bed.status()["warnings"])
    assert not [p for p in bed.wan_wire.arrived() if UDP in p and p.dport == 9]
    readdress(bed, GATEWAY)
    bed.daemon.expect("no longer overlap")
    bed.h1.ping(S1)
    talk.inbound()
    talk.go_on()
    assert not any("overlaps" in warning for warning in bed.status()["warnings"])


def test_no_room_for_the_state(make_bed):
    """/tmp is full: masqd says so and works from memory; with room again it keeps its sessions as ever."""
    bed = make_bed()
    bed.state_folder = bed.folder / "small"
    bed.state_folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=512k", "none", bed.state_folder)
    try:
        (bed.state_folder / "junk").write_bytes(bytes(300_000))
        bed.start()
        assert any("state file full" in line for line in bed.daemon.lines)
        bed.h1.ping(S1, 3)
        assert "sessions will be lost on restart" in bed.masqd("status").stdout
        bed.stop()
        (bed.state_folder / "more").write_bytes(bytes(os.statvfs(bed.state_folder).f_bfree * os.statvfs(bed.state_folder).f_bsize))
        bed.start()
        bed.h1.ping(S1, 3)
        bed.stop()
        (bed.state_folder / "junk").unlink()
        (bed.state_folder / "more").unlink()
        bed.start()
        assert not any("state file full" in line for line in bed.daemon.lines)
        bed.h1.ping(S1, 3)
        assert bed.state_path.stat().st_blocks * 512 >= bed.state_path.stat().st_size
    finally:
        bed.stop()
        run("umount", bed.state_folder)


def masquerade(bed):
    """The router without masqd: the kernel goes on with what it is given."""
    bed.router.sysctl("net/ipv4/ip_forward", "1")
    firewall = 'table ip fw { chain post { type nat hook postrouting priority srcnat; oifname "wan0" masquerade; }; }'
    bed.router.run("nft", "-f", "-", stdin=firewall)


def test_an_error_after_a_restart_comes_once(make_bed):
    """The kernel has an entry of the connection that it has carried meanwhile, and an error about it is one for masqd alone again."""
    bed = make_bed()
    masquerade(bed)
    bed.start()
    talk = Talk(bed, bed.h1, H1, 4000)
    bed.stop()
    talk.tcp()
    assert "dport=7000" in bed.router.run("conntrack", "-L", "-p", "tcp").stdout
    bed.start()
    talk.tcp()
    errors = bed.h1.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    bed.wan_wire.arrived()
    talk.tcp()
    quoted = bed.wan_wire.expect(lambda p: TCP in p and p.dst == S1 and p[TCP].payload)
    bed.wan_wire.send(IP(src=R, dst=GATEWAY) / ICMP(type=3, code=1) / quoted)
    talk.inbound()
    assert IP(errors.recv(200))[ICMP].code == 1
    errors.setblocking(False)
    with pytest.raises(BlockingIOError):
        errors.recv(200)


def test_an_upgrade_below_a_running_daemon(make_bed, tmp_path, monkeypatch):
    """A daemon reads no bundle of another build: connections go on, what it would have read says so, a restart has all of it again."""
    source = pathlib.Path(os.environ.get("MASQD_JS") or beds.MASQD.parent)
    names = [path.name for path in source.iterdir() if path.suffix in (".js", ".qbc")]
    for name in names:
        shutil.copy(source / name, tmp_path)
    monkeypatch.setenv("MASQD_JS", str(tmp_path))
    bed = make_bed()
    masquerade(bed)
    bed.start()
    talk = Talk(bed, bed.h1, H1, 4000)
    for name in names:
        old = (tmp_path / name).read_bytes()
        build = re.search(rb"\n?//# masqd [0-9a-f]{16}\n$", old)
        new = tmp_path / f"{name}.new"
        new.write_bytes(old[: build.start()] + b"\n//# masqd 0123456789abcdef\n")
        new.rename(tmp_path / name)

    talk.go_on()
    refused = "is of another build than the masqd that runs: restart it"
    for asked in (["why", "tcp", f"{H1}:4000", f"{S1}:80"], ["capture", "on"], ["reload"]):
        answer = bed.masqd(*asked, check=False)
        assert answer.returncode != 0 and refused in answer.stdout + answer.stderr, (asked, answer)
    listener = bed.wan.listener(S1, 21)
    control = bed.h1.tcp(H1, 4001)
    control.connect((S1, 21))
    server, _ = listener.accept()
    server.settimeout(control.gettimeout())
    command = b"PORT 192,168,1,10,200,21\r\n"
    control.sendall(command)
    assert server.recv(100) == command
    bed.daemon.expect(f"FTP is left as it is: .*{refused}")
    assert [(one["note"], one["count"]) for one in bed.status()["alg"]] == [("ftp-not-read", 1)]

    daemon = bed.daemon
    bed.stop()
    # What gives the kernel the connections at the stop is the one of its own build.
    assert "of another build" not in daemon.output.rpartition("FTP is left as it is")[2].partition("\n")[2]
    # UDP goes on from another port there.
    talk.tcp()
    bed.start()
    talk.go_on()
    assert "session" in bed.masqd("why", "tcp", f"{H1}:4000", f"{S1}:7000").stdout
