"""What ends other daemons: descriptors that run out, more LANs than a poll set was made for, a log that nobody reads, a fault of its own."""

import contextlib
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import termios
import time

import pytest

import bed as beds
from bed import H1, H2, S1
from faults import Faults
from namespace import GUARD, Process, wait_until
from test_errno import FAULTY, Traffic
from test_hardship import pings
from test_life import Talk

pytestmark = pytest.mark.masqd


def connect(bed):
    """A client of the control socket; blocking, so that a full backlog is waited with."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(bed.socket_path))
    client.settimeout(GUARD)
    return client


def tables(bed):
    return bed.router.run("nft", "list", "tables").stdout


# ---- the poll set ------------------------------------------------------------------------------------------


def test_many_lans_addresses_and_clients(make_bed):
    """Twenty-one LANs with PCP, sixty addresses on one, and more control clients than there is room for."""
    bed = make_bed()
    bed.router.ip(*(line for n in range(20) for line in (f"link add d{n} type bridge", f"addr add 10.9.{n}.1/24 dev d{n}", f"link set d{n} up")))
    bed.router.ip(*(f"addr add 192.168.1.{n}/24 dev {bed.lan_device}" for n in range(100, 160)))
    lans = [("lan", None, {"device": f"d{n}", "driver": bed.driver}) for n in range(20)]
    bed.start(main={"pcp": "1"}, extra=lans)
    talk = Talk(bed, bed.h1, H1, 40001)
    clients = [connect(bed) for _ in range(30)]
    for client in clients[-12:]:
        client.sendall(b'{"v":1,"command":"hosts"}\n')
        assert client.recv(4096).startswith(b'{"v":1')
    assert b"more than 12 clients" in clients[0].recv(4096)
    talk.go_on()
    assert len(bed.status()["ports"]) == 22
    for client in clients:
        client.close()
    talk.close()


# ---- descriptors -------------------------------------------------------------------------------------------


def test_no_descriptors_left(make_bed):
    """A connection that cannot be taken is waited with, not spun on; forwarding goes on, and it is taken when there are descriptors again."""
    bed = make_bed().start()
    talk = Talk(bed, bed.h1, H1, 40001)
    used = max(int(name) for name in os.listdir(f"/proc/{bed.daemon.pid}/fd"))
    before = resource.prlimit(bed.daemon.pid, resource.RLIMIT_NOFILE, (used + 1, resource.prlimit(bed.daemon.pid, resource.RLIMIT_NOFILE)[1]))
    waiting = [connect(bed) for _ in range(3)]
    bed.daemon.expect("control: accept4")
    spent = lambda: sum(map(int, open(f"/proc/{bed.daemon.pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
    ticks, began = spent(), time.monotonic()
    while time.monotonic() < began + 1:
        talk.go_on()
        time.sleep(0.05)
    assert (spent() - ticks) / os.sysconf("SC_CLK_TCK") < 0.5 * (time.monotonic() - began), "it spins"
    resource.prlimit(bed.daemon.pid, resource.RLIMIT_NOFILE, before)
    for client in waiting:
        client.sendall(b'{"v":1,"command":"hosts"}\n')
        assert client.recv(4096).startswith(b'{"v":1')
        client.close()
    talk.close()


# ---- the log -----------------------------------------------------------------------------------------------


class Reader:
    """What a daemon writes its log to, and whether anybody reads that."""

    def __init__(self, kind):
        if kind == "terminal":
            self.inner, self.outer = pty.openpty()
            attributes = termios.tcgetattr(self.outer)
            attributes[0] |= termios.IXON
            termios.tcsetattr(self.outer, termios.TCSANOW, attributes)
        elif kind == "socket":
            pair = socket.socketpair()
            self.inner, self.outer = (one.detach() for one in pair)
        else:
            self.inner, self.outer = os.pipe()
        self.text = b""

    def look(self):
        os.set_blocking(self.inner, False)
        with contextlib.suppress(OSError):
            self.text += os.read(self.inner, 1 << 20)
        return self.text

    def until(self, word):
        wait_until(lambda: word in self.look(), f"{word!r}, have {self.text[-500:]!r}")

    def fill(self, fd):
        """As full as it gets, by somebody else who has it open too."""
        other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY) if not self.is_socket() else os.dup(fd)
        with contextlib.suppress(BlockingIOError):
            while True:
                if self.is_socket():
                    socket.socket(fileno=os.dup(other)).send(b"x" * 4096, socket.MSG_DONTWAIT)
                else:
                    os.write(other, b"x" * 4096)
        os.close(other)

    def is_socket(self):
        return os.readlink(f"/proc/self/fd/{self.inner}").startswith("socket:")


def start_with(bed, reader):
    """The daemon with its standard output and error there; whether they block is as a shell has it."""
    if bed.config is None:
        bed.configure()
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *bed.router.command(*bed.command("--log", "debug"))],
        stdin=subprocess.DEVNULL,
        stdout=reader.outer,
        stderr=reader.outer,
    )
    bed._closing.callback(process.wait)
    bed._closing.callback(process.kill)
    reader.until(b"ready:")
    assert os.get_blocking(reader.outer), "the descriptor that is shared was made non-blocking"
    return process


def log_a_lot(process, times=400):
    """Lines of the log."""
    for _ in range(times):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.002)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_log_that_nobody_reads(make_bed, kind):
    """Forwarding does not wait; the lines that are lost are counted, and it says so when somebody reads again."""
    bed = make_bed()
    reader = Reader(kind)
    process = start_with(bed, reader)
    traffic = Traffic(bed)
    traffic.flows("the start")
    if kind == "terminal":
        os.write(reader.inner, b"\x13")
    reader.fill(reader.outer)
    log_a_lot(process, 50)
    wait_until(lambda: bed.status()["logLost"] > 0, "lost lines in status")
    traffic.flows("a full log")
    assert any("lines of the log were lost" in w for w in bed.status()["warnings"])
    if kind == "terminal":
        os.write(reader.inner, b"\x11")

    def told():
        process.send_signal(signal.SIGHUP)
        reader.look()
        return b"lines of the log were lost" in reader.text

    wait_until(told, "word of the lost lines")
    traffic.flows("a log that is read again")
    traffic.stop()
    process.terminate()
    assert process.wait(GUARD) == 0


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_log_whose_reader_has_gone(make_bed, kind):
    """It goes on without, and ends as it should."""
    bed = make_bed()
    reader = Reader(kind)
    process = start_with(bed, reader)
    traffic = Traffic(bed)
    traffic.flows("the start")
    os.close(reader.inner)
    os.close(reader.outer)
    log_a_lot(process, 20)
    wait_until(lambda: bed.status()["logLost"] > 0, "lost lines in status")
    traffic.flows("a closed log")
    traffic.stop()
    process.terminate()
    assert process.wait(GUARD) == 0
    assert "masqd" not in tables(bed)


def with_log_folder(folder, argv):
    """The command that runs `argv` where `folder` is /dev: with a /dev/log of our own."""
    for name in ("null", "urandom", "net/tun"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"/dev/{name}", folder / name], check=True)
    return ["unshare", "-m", "sh", "-c", f'mount --bind {folder} /dev && exec "$@"', "sh", *argv]


def test_a_system_log_that_nobody_reads(make_bed):
    """syslog(3) would wait: lines are lost instead, and it says so when somebody reads again, also a log that was started anew."""
    bed = make_bed()
    bed.configure()
    folder = bed.folder / "dev"
    folder.mkdir()

    def listen():
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        (folder / "log").unlink(missing_ok=True)
        made.bind(str(folder / "log"))
        made.settimeout(GUARD)
        return made

    log = listen()
    bed.daemon = bed.router.start(*with_log_folder(folder, map(str, bed.command("--syslog"))))
    bed._closing.callback(bed.daemon.kill)
    bed.daemon.expect("^masqd: ready:")
    traffic = Traffic(bed)
    traffic.flows("the start")
    reload = lambda: bed.daemon.send_signal(signal.SIGHUP)
    reload()
    line = log.recv(2000)
    assert re.fullmatch(rb"<29>\w{3} [ \d]\d \d\d:\d\d:\d\d masqd\[\d+\]: configuration reloaded", line), line

    def lost():
        reload()
        return bed.status()["logLost"] > 0

    wait_until(lost, "lost lines")
    traffic.flows("a full log")
    log.close()
    log = listen()
    reload()
    assert b"lines of the log were lost" in log.recv(2000)
    traffic.stop()


# ---- the state file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 4096, 100_000])
def test_a_state_file_cut_short(make_bed, left):
    """By `> masqd.state`, say: the sessions are lost, which the log says, and all goes on, from the next restart too."""
    bed = make_bed().start()
    size = bed.state_path.stat().st_size
    traffic = Traffic(bed)
    traffic.flows("the start")
    talk = Talk(bed, bed.h2, H2, 40001)
    for _ in range(3):
        os.truncate(bed.state_path, left)
        # Whatever page is missing is used sooner or later; a new host and its sessions do.
        wait_until(lambda: pings(bed.h2) and bed.state_path.stat().st_size == size, "the file is whole again")
        traffic.flows("a cut")
        # The mapping may be another.
        talk.outside = None
        talk.udp()
    bed.daemon.expect("somebody has cut .* short: its sessions are lost")
    assert bed.status()["internalErrors"] == []
    traffic.stop()
    talk.udp()
    bed.daemon.kill()
    bed.start()
    assert re.search(r"\d+ sessions restored", bed.daemon.output)
    talk.udp()


# ---- faults of its own -------------------------------------------------------------------------------------


def test_the_same_call_fails_for_ever(make_bed, monkeypatch):
    """poll(2) fails always: it forwards nevertheless, and gives up in the end for its supervisor, guard, settings and sessions in place."""
    monkeypatch.setattr(beds, "MASQD", FAULTY)
    bed = make_bed()
    faults = Faults(bed.folder / "faults")
    bed.configure()
    bed.daemon = daemon = bed.router.start(*bed.command(), env=faults.environment)
    bed._closing.callback(daemon.kill)
    daemon.expect("^masqd: ready:")
    talk = Talk(bed, bed.h1, H1, 40001)
    settings = bed.router.run("sysctl", "net.ipv4.ip_local_port_range").stdout
    faults.arm("poll", "poll", "ENOMEM", times=1 << 30)
    talk.go_on()
    assert daemon.wait() == 1
    assert "internal error in poll" in daemon.output
    assert daemon.lines[-1].startswith("masqd: error: masqd ends, guard and settings stay: poll has failed"), daemon.output
    assert "table inet masqd" in tables(bed)
    assert bed.router.run("sysctl", "net.ipv4.ip_local_port_range").stdout == settings
    # Nothing of the LAN leaves meanwhile, and the sessions go on with the next.
    talk.asker.sendto(b"nobody", (S1, 7000))
    bed.launch().expect("^masqd: ready:")
    assert "2 sessions restored" in bed.daemon.output
    talk.inbound()
    talk.go_on()
    talk.close()


def test_a_start_that_fails_after_a_crash(make_bed, monkeypatch):
    """The dead predecessor's guard stays, and the line says how to get rid of it; without a predecessor nothing stays."""
    bed = make_bed().start()
    bed.daemon.kill()
    before = bed.snapshot()
    taken = Process(bed.router.command("sh", "-c", "ip tuntap add masq0 mode tun; echo made; sleep 1000")) if bed.driver == "tun" else None
    if taken is None:
        # A control socket's place that cannot be had fails the packet driver's start at its end.
        bed.socket_path.unlink()
        bed.socket_path.mkdir()
    else:
        taken.expect("made")
    failing = bed.launch()
    assert failing.wait() == 1
    assert len(failing.lines) == 1 and failing.lines[0].endswith("; the guard stays, masqd cleanup removes it"), failing.output
    assert "table inet masqd" in tables(bed)
    bed.daemon = None
    if taken is None:
        bed.socket_path.rmdir()
    else:
        bed.router.ip("link del masq0")
        taken.kill()
    assert "range" in before
    bed.masqd("cleanup", check=False)
    bed.router.run(beds.MASQD, "cleanup", "--socket", bed.socket_path, "--state", bed.state_path)
    assert "masqd" not in tables(bed)
