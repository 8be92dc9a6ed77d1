"""Every system call of the daemon fails once, with every errno: while it starts, under traffic, and in the middle of what happens to a router.

`make test` takes one errno for each call, in turn; `make errno` (ERRNO_WALK=1) takes all. What is called is seen in a run without
faults, so nothing can be left out of a list: test_covers finds each function of native.d.ts called in some moment, or named in UNWALKED.
"""

import contextlib
import itertools
import os
import re
import signal
import socket
import threading

import pytest
from scapy.layers.l2 import ARP, Ether

import bed as beds
from bed import GATEWAY, H1, LAN_GATEWAY, R, ROOT, S1, wan_mac
from faults import ERRNOS, Faults
from namespace import wait_until

pytestmark = pytest.mark.masqd

WALK = os.environ.get("ERRNO_WALK") == "1"
FAULTY = ROOT / "build" / "faults" / "masqd"
STATIC = "203.0.113.50"
# Clocks that tell no time, and memory that cannot be given back: nothing of that kind happens, and nothing could be done.
LEFT_OUT = {"clock_gettime"}
# What carries the line that says "ready", which may be lost.
OF_LINES = {"write", "open_writer"}


@pytest.fixture(autouse=True)
def faulty(monkeypatch):
    assert FAULTY.exists(), "make build FAULTS=1"
    monkeypatch.setattr(beds, "MASQD", FAULTY)


def errnos(turn=itertools.count()):
    """All errnos in the walk, else the next one in turn."""
    return ERRNOS if WALK else [ERRNOS[next(turn) % len(ERRNOS)]]


def says(bed):
    return "masqd: ready:" in bed.daemon.output


def answers(bed):
    return bed.masqd("status", check=False).returncode == 0


class FaultyBed:
    """A bed whose daemon's system calls fail on demand, with all that opens sockets: static NAT (ARP), PCP, a forward."""

    EXTRA = [
        ("static", None, {"internal": "192.168.1.40", "external": STATIC}),
        ("redirect", None, {"proto": "udp", "src_dport": "2000", "dest_ip": H1, "dest_port": "2000"}),
    ]

    def __init__(self, bed, offload="off"):
        self.bed = bed
        self.faults = Faults(bed.folder / "faults")
        self.main = {"offload": offload, "pcp": "1"}
        # What the daemon switches off while it runs.
        bed.router.run("ethtool", "-K", "wan0", "rx-gro-list", "on")
        bed.configure(self.main, self.EXTRA)

    def launch(self):
        self.bed.daemon = self.bed.router.start(*self.bed.command(), env=self.faults.environment)
        self.bed._closing.callback(self.bed.daemon.kill)
        return self.bed.daemon

    def pairs(self):
        return {pair: times for pair, times in self.faults.seen().items() if pair[1] not in LEFT_OUT}


# ---- start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", ["off", "on"])
def test_start(make_bed, offload):
    """It starts nevertheless, or says why in one line, ends with 1 and leaves nothing behind."""
    bed = make_bed(external=(GATEWAY, STATIC))
    one = FaultyBed(bed, "auto" if offload == "on" else "off")
    before = bed.snapshot()
    one.launch().expect("^masqd: ready:")
    calls = one.pairs()
    bed.stop()
    assert bed.snapshot() == before
    assert len(calls) > 30, calls
    started = refused = 0
    for (function, call), times in calls.items():
        for name in errnos():
            for skip in sorted({0, times - 1}) if WALK else [0]:
                what = f"{function}: {call} {name} after {skip}"
                ready = answers if function in OF_LINES else says
                bed.state_path.unlink(missing_ok=True)
                with one.faults.armed(function, call, name, skip):
                    daemon = one.launch()
                    wait_until(lambda d=daemon, r=ready: not d.running() or r(bed), what)
                    if daemon.running():
                        started += 1
                        assert daemon.stop() == 0, (what, daemon.output)
                    else:
                        refused += 1
                        assert daemon.wait() == 1, (what, daemon.output)
                        assert len(daemon.lines) == 1 and daemon.lines[0].startswith("masqd: "), (what, daemon.output)
                bed.daemon = None
                assert bed.snapshot() == before, what
    print(f"{len(calls)} calls: {started} starts went well, {refused} were refused")
    assert refused > 0


# ---- while it runs -----------------------------------------------------------------------------------------


# What is called when nothing else is.
IDLE = ("release_pages", "madvise")
# What every packet needs.
TRAFFIC = {"packet_receive", "packet_send", "tun_receive", "tun_send", "poll"}


# Packets that the asker sends in two seconds: one every 2 ms.
WITHIN = 1000


class Traffic:
    """A LAN host that asks a server all the time; `replies` counts what came back."""

    def __init__(self, bed):
        # What it takes without a fault, the kernel's own work on neighbours and addresses, comes on top of the two seconds.
        self.asked = self.replies = self.usual = 0
        self.stopping, self.resting = threading.Event(), threading.Event()
        self._bed = bed
        self.asker, self.server = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 7)
        for one in (self.asker, self.server):
            one.settimeout(0.1)
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._ask, self._answer, self._count)]
        for thread in self.threads:
            thread.start()

    def _ask(self):
        while not self.stopping.wait(0.002):
            with contextlib.suppress(OSError):
                if not self.resting.is_set():
                    self.asker.sendto(b"hello", (S1, 7))
                    self.asked += 1

    def _answer(self):
        while not self.stopping.is_set():
            with contextlib.suppress(OSError):
                self.server.sendto(*self.server.recvfrom(100))

    def _count(self):
        while not self.stopping.is_set():
            with contextlib.suppress(OSError):
                self.asker.recv(100)
                self.replies += 1

    def flows(self, what):
        """Replies come again within two seconds by the asker's own clock, which a busy machine slows as it slows the daemon."""
        began, replies = self.asked, self.replies + 2
        asked = began + WITHIN + self.usual
        wait_until(lambda: self.replies > replies or self.asked > asked, f"replies after {what}")
        assert self.replies > replies, f"no replies to {asked - began} packets after {what}: {self._bed.daemon.output}"
        return self.asked - began

    @contextlib.contextmanager
    def rest(self):
        """Nothing is asked meanwhile."""
        self.resting.set()
        threading.Event().wait(0.01)
        yield
        self.resting.clear()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        self.asker.close()
        self.server.close()


class Events:
    """What happens to a router, each of it once and back again."""

    def __init__(self, one, traffic):
        self._one, self._bed, self._traffic, self._turn = one, one.bed, traffic, 0

    def traffic(self):
        """Nothing but what is under way, and what is done every second."""
        before = self._bed.daemon
        assert before.running()
        threading.Event().wait(0.05)

    def link(self):
        self._bed.router.ip("link set wan0 down", "link set wan0 up", f"route replace default via {R}")

    def lan_link(self):
        self._bed.router.ip("link set br-lan down", "link set br-lan up")

    def address(self):
        self._bed.router.ip("addr add 203.0.113.77/24 dev wan0", "addr del 203.0.113.77/24 dev wan0")

    def new_address(self):
        self._bed.router.ip(f"addr del {GATEWAY}/24 dev wan0", f"addr add {GATEWAY}/24 dev wan0", f"route replace default via {R}")

    def lan_address(self):
        self._turn += 1
        self._bed.router.ip(f"addr {'replace' if self._turn % 2 else 'del'} 192.168.7.1/24 dev br-lan")

    def mtu(self):
        self._turn += 1
        self._bed.router.ip(f"link set wan0 mtu {1400 + self._turn % 2 * 100}")

    def route(self):
        self._bed.router.ip("route add unreachable 198.18.0.0/15", "route del unreachable 198.18.0.0/15")

    def reload(self):
        self._turn += 1
        redirect = ("redirect", None, {"proto": "udp", "src_dport": "2001", "dest_ip": H1, "dest_port": "2001"})
        self._bed.configure(self._one.main, [*self._one.EXTRA, *([redirect] if self._turn % 2 else [])])
        self._bed.daemon.send_signal(signal.SIGHUP)

    def reload_ports(self):
        self._turn += 1
        self._bed.configure({**self._one.main, "ports": ["40000-50000"] if self._turn % 2 else ["32768-65535"]}, self._one.EXTRA)
        self._bed.daemon.send_signal(signal.SIGHUP)

    def control(self):
        for words in (["status"], ["flows"], ["why", "udp", f"{H1}:5000", f"{S1}:53"]):
            self._bed.masqd(*words, check=False)

    def guard(self):
        # Until it is there again the kernel forwards: that somebody has taken it away is not masqd's fault.
        with self._traffic.rest():
            self._bed.router.run("nft", "delete table inet masqd", check=False)
            wait_until(lambda: guarded(self._bed), "the guard after its deletion")

    def arp(self):
        request = Ether(dst="ff:ff:ff:ff:ff:ff", src=wan_mac(R)) / ARP(op=1, hwsrc=wan_mac(R), psrc=R, pdst=STATIC)
        self._bed.wan_wire.send_bytes(bytes(request))

    def pcp(self):
        asker = self._bed.h1.udp(H1)
        asker.sendto(bytes(2), (LAN_GATEWAY, 5351))
        asker.close()

    def classes(self):
        """Traffic of another type of service, which has a socket of its own from its first packet on."""
        for tos in (0x10, 0):
            self._traffic.asker.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            self._traffic.flows(f"type of service {tos}")

    def tun(self):
        self._bed.router.run("ip", "link", "del", "masq0", check=False)


MOMENTS = [name for name in vars(Events) if not name.startswith("_")]
# Those in which the daemon has to do with what it has put into the kernel.
OFFLOAD_MOMENTS = ["link", "new_address", "lan_address", "mtu", "reload"]
# What the guard drops then is what it is for: the kernel forwards for a moment.
GUARD_DROPS = {"tun", "lan_link"}


def guarded(bed):
    return "table inet masqd" in bed.router.run("nft", "list", "tables").stdout


# Functions of native.d.ts in which no call fails here, and why.
NO_CALL = "no system call, or one that cannot fail"
OTHERS = "the command line's, not the daemon's"
UNWALKED = {
    **dict.fromkeys(
        "alarm args cpu_nanoseconds decode encode exit frame_sum getenv geteuid getpid nanoseconds now processor set_frames send_error syslog_open wall_clock".split(),
        NO_CALL,
    ),
    **dict.fromkeys("create_file print unix_connect".split(), OTHERS),
    "bpf_program_run": "the tests' own",
    "close": "whatever it returns, the descriptor is gone",
    "ended": "to wait for a child of one's own does not fail",
    "mkdir": "the tests' own",
    "packet_statistics": "the tests' own",
    "read_dir": "the tests' own",
    "run_on": "called when a processor is crowded and another one idle: test/unit/cpu-affinity.test.ts",
    "syslog_write": "the daemon logs to stderr here; it never waits, and what fails costs the line: test_operation.py",
}


def declared():
    """The functions of native.d.ts, by the names that the shim gives them."""
    names = re.findall(r"export function (\w+)\(", (ROOT / "src" / "native.d.ts").read_text())
    return {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name) for name in names}


# The driver that calls all that the other one calls.
@pytest.mark.drivers("tun")
def test_covers(make_bed):
    """Every function of native.d.ts is called at start or in some moment of the walk, or is named here with a reason: none is forgotten."""
    bed = make_bed(external=(GATEWAY, STATIC))
    bed.guard_may_drop = True
    walked = set()
    for offload, moments in (("auto", OFFLOAD_MOMENTS), ("off", MOMENTS)):
        one = FaultyBed(bed, offload)
        one.launch().expect("^masqd: ready:")
        traffic = Traffic(bed)
        events = Events(one, traffic)
        for moment in moments:
            getattr(events, moment)()
            traffic.flows(moment)
        traffic.stop()
        bed.stop()
        walked |= {function for function, _call in one.pairs()}
    unwalked = declared() - walked - {IDLE[0]}
    assert not unwalked - UNWALKED.keys(), sorted(unwalked - UNWALKED.keys())
    assert not UNWALKED.keys() - unwalked, sorted(UNWALKED.keys() - unwalked)


def test_idle(make_bed, driver):
    """What is done when there was no traffic for a while fails, and the next packet is carried."""
    bed = make_bed()
    one = FaultyBed(bed)
    one.launch().expect("^masqd: ready:")
    traffic = Traffic(bed)
    for name in errnos():
        traffic.flows(name)
        with one.faults.armed(*IDLE, name), traffic.rest():
            wait_until(lambda: one.faults.hit, f"memory to be released, {name}")
        traffic.flows(name)
        assert bed.daemon.running() and guarded(bed)
    traffic.stop()


@pytest.mark.parametrize("moment, offload", [*((moment, "off") for moment in MOMENTS), *((moment, "auto") for moment in OFFLOAD_MOMENTS)])
def test_running(make_bed, driver, moment, offload):
    """It lives, forwards again, and the guard stands."""
    if moment == "tun" and driver == "packet":
        return
    bed = make_bed(external=(GATEWAY, STATIC))
    bed.guard_may_drop = moment in GUARD_DROPS
    one = FaultyBed(bed, offload)
    one.launch().expect("^masqd: ready:")
    traffic = Traffic(bed)
    event = getattr(Events(one, traffic), moment)
    traffic.flows("the start")
    one.faults.forget()
    for _ in range(3):
        event()
        traffic.usual = max(traffic.usual, traffic.flows(moment))
        wait_until(lambda: guarded(bed), f"the guard after {moment}")
    # A second's work belongs to each, and what is done every ten to the walk.
    threading.Event().wait(11 if WALK and moment == "traffic" else 1.1)
    calls = one.pairs()
    hits = 0
    for (function, call), _ in sorted(calls.items()):
        for name in errnos():
            what = f"{function}: {call} {name} with {moment}"
            with one.faults.armed(function, call, name):
                event()
                if function in TRAFFIC and offload == "off":
                    wait_until(lambda: one.faults.hit, f"{what} to fail")
                traffic.flows(what)
                hits += one.faults.hit
            assert bed.daemon.running(), (what, bed.daemon.output)
            traffic.flows(what)
            wait_until(lambda w=what: guarded(bed), f"the guard after {what}")
    print(f"{moment}: {len(calls)} calls, {hits} failed")
    traffic.stop()
    assert hits > 0
    status = bed.status()
    strange = [f for f in status["internalErrors"] if not re.search(r"\(.*\): |: .*[a-z] \(?E?[A-Z]*", f["last"])]
    assert not strange, strange
    assert not re.search(r"(Type|Reference|Range)Error", bed.daemon.output), bed.daemon.output
