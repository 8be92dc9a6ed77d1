"""What an owner and a provider do to a running masqd: kill it, restart it, change its configuration, take the WAN's address away. Connections go on."""

import re
import signal
import socket
import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP

from bed import GATEWAY, H1, H2, H3, LAN_GATEWAY, R, S1, S2, S3, iperf_server
from namespace import wait_until
from packets import is_udp, tcp, udp

pytestmark = pytest.mark.masqd

OTHER = "203.0.113.5"


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
    """W-4: a download, an upload, an idle connection, UDP both ways and a ping, none of which notices more than a pause."""
    bed = make_bed()
    before = bed.snapshot()
    bed.start()
    talks = [Talk(bed, bed.h1, H1, 40001), Talk(bed, bed.h2, H2, 40001, 7001)]
    servers = [iperf_server(bed.wan, port) for port in (5201, 5202)]
    transfers = [bed.h1.start("iperf3", "-c", S1, "-p", 5201, "-t", "4"), bed.h2.start("iperf3", "-c", S1, "-p", 5202, "-t", "4", "-R")]
    for one in transfers:
        one.expect("connected to")
    pinging = bed.h1.start("ping", "-n", "-i", "0.02", S1)
    pinging.expect("icmp_seq=3 ")
    for _ in range(3):
        sessions = bed.status()["sessions"]["used"]
        bed.daemon.send_signal(how)
        assert bed.daemon.wait() == (0 if how == signal.SIGUSR1 else -signal.SIGKILL)
        bed.launch().expect(r"^masqd: ready:")
        assert re.search(r"\d+ sessions go on$", bed.daemon.output, re.MULTILINE), bed.daemon.output
        assert bed.status()["sessions"]["used"] >= sessions - 2
        talks[0].inbound()
        talks[1].go_on()
        awaits_reply(pinging)
    for one in transfers:
        assert one.wait() == 0 and re.search(r"[1-9].*sender", one.output), one.output
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
        assert "4 sessions go on" in bed.daemon.output
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
    assert "4 sessions go on" in bed.daemon.output and bed.status()["sessions"] == {
        "used": 4, "total": int(sizes[1]), "byState": bed.status()["sessions"]["byState"],
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
    assert "2 sessions go on" in bed.daemon.output
    assert 7430 <= next(f["left"] for f in bed.flows() if f["protocol"] == "tcp") <= 7438
    talk.inbound()
