"""The routers that are compared. A new one is one more line in CANDIDATES."""

import json
import os
import time

import topology
from process import Broken, Process, run
from topology import GATEWAY, SERVER, WAN, tool

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
MASQD = os.path.join(ROOT, "build", "masqd")
# As routers have it: musl, bytecode, no parser.
MASQD_ROUTER = os.path.join(ROOT, "build", "x86_64", "masqd")
MASQD_BUNDLE = os.path.join(ROOT, "build")

# Sessions of masqd's table in the speed measurements: the most it allows, so that 16,384 UDP mappings and every
# connection of a round have room.
SESSIONS = 65535

COMPARED_ROUNDS = 2

READY_SECONDS = 10
PING_SECONDS = 5


class Candidate:
    """A router: how it is started in a site, and what the server sees of it."""

    kind = "router"
    """Kind of topology.Site that it needs."""
    seen_source = WAN
    """Address that the server sees."""
    required = True
    """False: a measurement that it cannot do is a line in the report, not a broken run."""
    has_start = True
    """False: nothing is started, so there is no start time."""
    cpu_rate = 100_000
    """Packets/s of the load under which CPU time is measured."""
    planned = ""
    """Why it cannot be run yet."""
    quick = None
    """Measurements that the quick run makes of it, () to leave it out; None: all."""
    rounds = None
    """Rounds in which it is measured: fewer for what stands there for comparison only; None: all."""
    tracks = False
    """Whether it has a table of sessions and can empty it (flush)."""
    place = False
    """Whether its process is put on the CPU that is not the sender's."""

    def __init__(self, key, title):
        self.key = key
        self.title = title
        """Two lines over its column."""

    def missing(self):
        """Why it cannot run on this machine, or an empty string."""
        return self.planned

    def start(self, site):
        """Starts it and returns when it says that it serves; its process, if it is one, becomes site.process."""
        raise NotImplementedError

    def open(self, folder, datagram_ports=0, **options):
        """A site with this candidate forwarding in it, and the seconds from its start to the client's first ping reply."""
        site = topology.Site(self.key, self.kind, folder)
        try:
            site.create()
            site.serve(self.seen_source, datagram_ports)
            ping = Process([tool("first-reply"), SERVER, str(PING_SECONDS + READY_SECONDS)], site.client, log=site.log("first-reply"))
            ping.line(5)
            begin = time.monotonic()
            self.start(site, **options)
            try:
                reply = json.loads(ping.line(PING_SECONDS))
            except Broken:
                words = site.process.last_words() if site.process else ""
                raise Broken(f"no ping reply within {PING_SECONDS} s of its start{words}") from None
            ping.stop()
            site.gateway_mac()
        except BaseException:
            site.remove()
            raise
        return site, reply["at"] - begin


class Nft(Candidate):
    """The kernel's masquerade by nftables, conntrack set as OpenWrt sets it where that makes it faster (no checksum test)."""

    RULES = """
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "wan0" masquerade
    }
}
"""

    tracks = True

    def start(self, site):
        run(["nft", "-f", "-"], site.router, text=self.RULES)
        run(["sysctl", "-qw", "net.netfilter.nf_conntrack_checksum=0"], site.router)

    def flush(self, site):
        run(["conntrack", "-F"], site.router)


class Flowtable(Nft):
    """The same with what owners switch on to save the processor: established connections by a software flowtable. Not every kernel has one."""

    required = False

    RULES = (
        Nft.RULES
        + """
table inet ft {
    flowtable fast {
        hook ingress priority filter
        devices = { lan0, wan0 }
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        meta l4proto { tcp, udp } flow add @fast
    }
}
"""
    )

    def missing(self):
        try:
            run(["unshare", "-n", "nft", "-f", "-"], text="table inet ft { flowtable fast { hook ingress priority filter; devices = { lo }; }; }")
        except Broken:
            return "this kernel has no flowtable"
        return ""


class Firewall4(Nft):
    """The same under what a default OpenWrt's firewall has beside it."""

    RULES = (
        Nft.RULES
        + """
table inet fw4 {
    chain raw_prerouting {
        type filter hook prerouting priority raw; policy accept;
    }
    chain mangle_forward {
        type filter hook forward priority mangle; policy accept;
        iifname "wan0" tcp flags & (fin | syn | rst) == syn tcp option maxseg size set rt mtu
        oifname "wan0" tcp flags & (fin | syn | rst) == syn tcp option maxseg size set rt mtu
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state vmap { established : accept, related : accept }
        iifname "lan0" oifname "wan0" accept
    }
}
"""
    )


class Forward(Candidate):
    """The kernel forwards and translates nothing; the server has a route back. The limit for everything on this topology."""

    seen_source = topology.CLIENT
    has_start = False
    quick = ("tcp1", "udplatency", "tcplatency", "connections")

    def start(self, site):
        run(["ip", "-n", site.server, "route", "add", "192.168.1.0/24", "via", WAN])


class Redirect(Candidate):
    """Two BPF programs of eight instructions that send what comes in on one port out of the other, unread and unchanged; the hosts know each
    other's Ethernet addresses: what is left of masqd's offload without reading, translating and counting. (bpf_redirect_peer skips one queue more, but
    only between veth devices, which no router has as its ports.)"""

    seen_source = topology.CLIENT
    rounds = COMPARED_ROUNDS
    required = False
    has_start = False
    quick = ()

    def start(self, site):
        server, client = _mac(site.server), _mac(site.client)
        run(["ip", "-n", site.client, "neighbour", "replace", GATEWAY, "lladdr", server, "dev", "eth0", "nud", "permanent"])
        run(["ip", "-n", site.server, "neighbour", "replace", WAN, "lladdr", client, "dev", "eth0", "nud", "permanent"])
        run(["ip", "-n", site.server, "route", "add", "192.168.1.0/24", "via", WAN])
        site.process = Process([tool("inject"), "wire", "lan0", "wan0"], site.router, log=site.log("redirect"))
        site.process.line(5)


class Relay(Candidate):
    """A C program that hands frames on as masqd's packet driver does and translates nothing (relay.c): the limit of that way. It
    does not choose its CPU as masqd does, so it is put on the one that is not the sender's."""

    seen_source = topology.CLIENT
    rounds = COMPARED_ROUNDS
    required = False
    has_start = False
    quick = ("tcp1", "tcp8", "tcp1r", "tcp8r", "udplatency", "tcplatency", "connections", "udp1024")
    place = True

    def start(self, site):
        run(["sysctl", "-qw", "net.ipv4.ip_forward=0"], site.router)
        run(["ip", "-n", site.server, "route", "add", "192.168.1.0/24", "via", WAN])
        site.process = Process([tool("relay"), "lan0", _mac(site.client), GATEWAY, "wan0", _mac(site.server), WAN], site.router, log=site.log("relay"))
        site.process.line(5)
        os.sched_setaffinity(site.process.pid, {topology.SERVER_CPU})


def _mac(netns):
    return json.loads(run(["ip", "-n", netns, "-j", "link", "show", "eth0"]))[0]["address"]


class Wire(Candidate):
    """No router at all: the cost of generator, sink and hosts that is taken off the CPU figures. Not a column."""

    kind = "wire"
    has_start = False

    def start(self, site):
        pass


class Masqd(Candidate):
    """masqd, started as a user starts it. `driver` and `offload` are its options of these names."""

    tracks = True

    def __init__(self, key, title, driver, offload, planned=""):
        super().__init__(key, title)
        self.driver = driver
        self.offload = offload
        self.planned = planned

    def missing(self):
        if self.planned:
            return self.planned
        return "" if os.access(MASQD, os.X_OK) else "build/masqd does not exist: run make build"

    def configuration(self, sessions):
        return "\n".join(
            [
                "config masqd 'main'",
                "\toption enabled '1'",
                f"\toption sessions '{sessions}'",
                f"\toption offload '{self.offload}'",
                "config wan",
                "\toption device 'wan0'",
                "config lan",
                "\toption device 'lan0'",
                f"\toption driver '{self.driver}'",
                "",
            ]
        )

    def write(self, folder, sessions):
        path = os.path.join(folder, "masqd.uci")
        with open(path, "w", encoding="ascii") as file:
            file.write(self.configuration(sessions))
        return path

    def start(self, site, sessions=SESSIONS, binary=MASQD, env=None):
        path = self.write(site.folder, sessions)
        arguments = ["run", "-c", path, "--socket", self.socket(site), "--state", os.path.join(site.folder, "state")]
        site.process = Process([binary, *arguments], site.router, env={"MASQD_JS": MASQD_BUNDLE, **(env or {})}, log=site.log("masqd"))
        site.process.wait_for("masqd: ready:", READY_SECONDS)

    def flush(self, site):
        run([MASQD, "flush", "all", "--socket", self.socket(site)], env={"MASQD_JS": MASQD_BUNDLE})

    @staticmethod
    def socket(site):
        return os.path.join(site.folder, "masqd.sock")


class Carried(Masqd):
    """masqd with the kernel driver, conntrack set as for nft; `flowtable`: beside one of the firewall's."""

    def __init__(self, key, title, flowtable=False):
        super().__init__(key, title, driver="kernel", offload="off")
        self.flowtable = flowtable

    def start(self, site, **options):
        super().start(site, **options)
        run(["sysctl", "-qw", "net.netfilter.nf_conntrack_checksum=0"], site.router)
        if self.flowtable:
            run(["nft", "-f", "-"], site.router, text=Flowtable.RULES.removeprefix(Nft.RULES))


class Slirp(Candidate):
    """slirp4netns with its largest MTU (65520). It gives the client 10.0.2.100/24, its gateway is 10.0.2.2."""

    kind = "tap"
    rounds = COMPARED_ROUNDS
    required = False
    cpu_rate = 20_000
    quick = ("tcp1", "tcp8", "tcp1r", "tcp8r", "udplatency", "tcplatency", "connections", "udp1024", "cpu1024")

    def missing(self):
        return _program("slirp4netns")

    def start(self, site):
        site.source, site.gateway = "10.0.2.100", "10.0.2.2"
        site.process = Process(
            ["slirp4netns", "--configure", "--mtu=65520", "--disable-dns", "--netns-type=path", f"/run/netns/{site.client}", site.device],
            site.router,
            log=site.log("slirp4netns"),
        )


class Pasta(Candidate):
    """pasta with its default MTU (65520) and no port forwarding. Root, as without it this version cannot join the namespace."""

    kind = "tap"
    rounds = COMPARED_ROUNDS
    required = False
    cpu_rate = 20_000
    quick = ()

    def missing(self):
        return _program("pasta")

    def start(self, site):
        site.process = Process(
            [
                "pasta",
                "--foreground",
                "--quiet",
                "--runas",
                "0",
                "--ipv4-only",
                "--netns",
                f"/run/netns/{site.client}",
                "--config-net",
                "--ns-ifname",
                site.device,
                "--interface",
                "wan0",
                "--address",
                topology.CLIENT,
                "--netmask",
                "255.255.255.0",
                "--gateway",
                GATEWAY,
                "--mtu",
                "65520",
                "--dns",
                "none",
                "--tcp-ports",
                "none",
                "--udp-ports",
                "none",
                "--tcp-ns",
                "none",
                "--udp-ns",
                "none",
            ],
            site.router,
            log=site.log("pasta"),
        )


def _program(name):
    for folder in os.environ.get("PATH", "").split(":"):
        if os.access(os.path.join(folder, name), os.X_OK):
            return ""
    return f"{name} is not installed"


BASELINE = "nft"
WIRE = Wire("wire", "\nwire")

CANDIDATES = [
    Nft("nft", "nft\nmasquerade"),
    Flowtable("flowtable", "nft +\nflowtable"),
    Masqd("packet", "masqd\npacket", driver="packet", offload="off"),
    Masqd("tun", "masqd\ntun", driver="tun", offload="off"),
    Masqd("offload", "masqd\noffload", driver="packet", offload="on"),
    Carried("kernel", "masqd\nkernel"),
    Forward("forward", "forward\nno NAT"),
    Redirect("redirect", "bare\nBPF"),
    Relay("relay", "C relay\nno NAT"),
    Slirp("slirp4netns", "slirp4\nnetns"),
    Pasta("pasta", "\npasta"),
]


def chosen(keys):
    """The candidates with these keys, in the table's order; all that are not just planned if `keys` is empty."""
    known = {candidate.key for candidate in CANDIDATES}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise Broken(f"no candidate {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [c for c in CANDIDATES if (c.key in keys if keys else not c.planned)]
