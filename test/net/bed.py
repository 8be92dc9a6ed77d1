"""The test bed: LAN hosts, a router with masqd, a WAN with servers, all in namespaces.

    h1 .10  h2 .20  raw frames            s1 .10  s2 .20  r .254  raw frames
        \\      |      /                        \\      |      /
         br-lan 192.168.1.1 -- router -- wan0 203.0.113.1 ---- wan ---- far 198.51.100.2

h1, h2, s1, s2, r and far are real stacks. Raw frames have any address: .30 to .39 on either side are known
neighbours of the router with the MAC of `lan_mac` or `wan_mac`, so nobody needs to answer ARP for them.

Modes, by the environment:
    ROUTER=nft      the kernel's own masquerade does the work of masqd (what needs masqd itself is skipped)
    MASQD=path      another executable, say the sanitizer build
    MASQD_JS=path   another bundle (masqd itself reads it)
    OFFLOAD=on      option offload of the configuration (off, on, auto)
"""

import contextlib
import json
import os
import pathlib
import re
import shutil

from namespace import Namespace, Process, await_listener, remove, run, sysctl, temporary_folder, wait_until
from wire import LeakSniffer, Wire

ROOT = pathlib.Path(__file__).resolve().parents[2]
MASQD = pathlib.Path(os.environ.get("MASQD", ROOT / "build" / "masqd")).resolve()
BASELINE = os.environ.get("ROUTER") == "nft"
PYTHON = "/usr/bin/python3"
OFFLOAD = os.environ.get("OFFLOAD", "off")

H1, H2, H3 = "192.168.1.10", "192.168.1.20", "192.168.1.30"
S1, S2, S3, R = "203.0.113.10", "203.0.113.20", "203.0.113.30", "203.0.113.254"
LAN_GATEWAY, GATEWAY, FAR = "192.168.1.1", "203.0.113.1", "198.51.100.2"
LAN_GATEWAY_MAC, GATEWAY_MAC = "02:00:00:00:00:01", "02:00:00:00:01:01"
RAW_HOSTS = range(30, 40)

_serial = 0


def lan_mac(address):
    return f"02:00:00:00:02:{int(address.split('.')[3]):02x}"


def wan_mac(address):
    return f"02:00:00:00:03:{int(address.split('.')[3]):02x}"


class Bed:
    """One set of namespaces and the daemon in its router.

    `driver`   packet or tun: the LAN driver of the configuration
    `lan`      bridge: the hosts are ports of br-lan in the router; veth: a plain lan0, the switch is elsewhere
    `wan`      veth, or tun: a WAN device without a link header
    `wan_mtu`  MTU of the router's WAN device and the other end
    `far`      also build the host behind the WAN's router
    `external` all addresses that may be a source on the WAN wire
    `baseline` the kernel's masquerade instead of masqd
    """

    def __init__(self, driver="packet", lan="bridge", wan="veth", wan_mtu=1500, far=False, external=(GATEWAY,), baseline=BASELINE):
        global _serial
        _serial += 1
        self.prefix = f"mq{os.getpid()}-{_serial}"
        self.driver = driver
        self.baseline = baseline
        # As most tests have them: what a host sends from 1024 to 32767 is seen to be moved. None: the default.
        self.ports = ["600-1023", "32768-65535"]
        self.lan_device = "br-lan" if lan == "bridge" else "lan0"
        self.wan_kind = wan
        self.wan_mtu = wan_mtu
        self.external = list(external)
        self.daemon = None
        self.config = None
        self.sniffer = None
        self.state_folder = None
        self.guard_may_drop = False
        self._leaked = []
        self._closing = contextlib.ExitStack()
        try:
            self.folder = temporary_folder(self.prefix)
            self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._build(lan, far)
        except BaseException:
            self.close()
            raise

    # ---- building -------------------------------------------------------------------------------------

    def add_namespace(self, role):
        name = f"{self.prefix}-{role}"
        self._closing.callback(remove, name)
        return Namespace(name)

    def _build(self, lan, far):
        self.router = self.add_namespace("router")
        self.h1 = self.add_namespace("h1")
        self.h2 = self.add_namespace("h2")
        self.wan = self.add_namespace("wan")
        self._raw = self.add_namespace("raw")
        with self.router.inside():
            sysctl("net/ipv4/ip_forward", 1)
            for key in ("all", "default"):
                sysctl(f"net/ipv4/conf/{key}/rp_filter", 0)
                sysctl(f"net/ipv4/conf/{key}/send_redirects", 0)
        self.switch = self.router if lan == "bridge" else self.add_namespace("switch")
        for host in {self.router, self.switch}:
            # As OpenWrt has it; else every bridged frame would pass netfilter before the bridge's own sockets see it.
            with host.inside(), contextlib.suppress(FileNotFoundError):
                sysctl("net/bridge/bridge-nf-call-iptables", 0)
        self.build_lan()
        self.build_wan()
        if far:
            self._build_far()
        for host in {self.router, self.switch}:
            wait_until(lambda: "DOWN" not in run("ip", "-n", host.name, "-br", "link").stdout, "all links up")

    def build_lan(self):
        """Makes the LAN device and its hosts (also again, after it was deleted)."""
        self.switch.ip("link add br-lan type bridge forward_delay 0", "link set br-lan address " + LAN_GATEWAY_MAC + " up")
        for host, address in ((self.h1, H1), (self.h2, H2), (self._raw, None)):
            port = host.name.rsplit("-", 1)[1]
            with contextlib.suppress(AssertionError):
                host.ip("link del eth0")
            mac = lan_mac(address) if address else lan_mac(H3)
            self.switch.ip(
                f"link add {port} type veth peer name eth0 address {mac} netns {host.name}",
                f"link set {port} master br-lan up",
            )
            host.ip("link set eth0 up")
            if address:
                host.ip(f"addr add {address}/24 dev eth0", f"route add default via {LAN_GATEWAY}")
        if self.switch is not self.router:
            self.switch.ip(
                f"link add uplink type veth peer name lan0 address {LAN_GATEWAY_MAC} netns {self.router.name}",
                "link set br-lan address 02:00:00:00:00:fe",
                "link set uplink master br-lan up",
            )
        self.router.ip(
            f"link set {self.lan_device} up",
            f"addr add {LAN_GATEWAY}/24 dev {self.lan_device}",
            *(f"neigh replace 192.168.1.{n} lladdr {lan_mac(f'192.168.1.{n}')} dev {self.lan_device} nud permanent" for n in RAW_HOSTS),
        )
        self.lan_wire = Wire(self._raw, "eth0", LAN_GATEWAY_MAC, lan_mac)
        self._closing.callback(self.lan_wire.close)

    def build_wan(self):
        """Makes the WAN device and the wire behind it (also again, after it was deleted)."""
        if self.wan_kind == "tun":
            pump = Process([PYTHON, pathlib.Path(__file__).with_name("tunpair.py"), self.router.name, "wan0", self.wan.name, "eth0"])
            self._closing.callback(pump.kill)
            pump.expect("^ready")
        else:
            self.router.ip(f"link add wan0 address {GATEWAY_MAC} type veth peer name eth0 address {wan_mac(S1)} netns {self.wan.name}")
        self.wan.ip(
            f"link set eth0 mtu {self.wan_mtu} up",
            *(f"addr add {address}/24 dev eth0" for address in (S1, S2, R)),
        )
        self.router.ip(f"link set wan0 mtu {self.wan_mtu} up", *(f"addr add {a}/24 dev wan0" for a in self.external[:1]))
        if self.wan_kind == "tun":
            self.router.ip("route add default dev wan0")
        else:
            self.router.ip(
                f"route add default via {R}",
                *(f"neigh replace 203.0.113.{n} lladdr {wan_mac(f'203.0.113.{n}')} dev wan0 nud permanent" for n in RAW_HOSTS),
            )
        if self.baseline and len(self.external) > 1:  # the kernel answers no ARP for them; masqd does
            self.wan.ip(*(f"route replace {a}/32 via {GATEWAY} dev eth0" for a in self.external[1:]))
        if self.sniffer is not None:
            self._leaked += self.sniffer.offenders()
        self.sniffer = LeakSniffer(self.wan, "eth0", self.external)
        self._closing.callback(self.sniffer.close)
        self.wan_wire = Wire(self.wan, "eth0", GATEWAY_MAC, wan_mac, headerless=self.wan_kind == "tun")
        self._closing.callback(self.wan_wire.close)

    def _build_far(self):
        self.far = self.add_namespace("far")
        self.wan.sysctl("net/ipv4/ip_forward", 1)
        self.wan.ip(f"link add far type veth peer name eth0 netns {self.far.name}", "link set far up", "addr add 198.51.100.1/24 dev far")
        self.far.ip("link set eth0 up", f"addr add {FAR}/24 dev eth0", "route add default via 198.51.100.1")

    # ---- the daemon -----------------------------------------------------------------------------------

    def sections(self, main=None, extra=()):
        """The usual configuration as (type, name, options) with a list's value as a list."""
        return [
            ("masqd", "main", {"enabled": "1", "sessions": "4096", "offload": OFFLOAD, **({"ports": self.ports} if self.ports else {}), **(main or {})}),
            ("wan", None, {"device": "wan0"}),
            ("lan", None, {"device": self.lan_device, "driver": self.driver}),
            *extra,
        ]

    def configure(self, main=None, extra=()):
        """Writes the UCI file that the next start reads; returns its path."""
        self.config = self.sections(main, extra)
        self.config_file = self.folder / "masqd.uci"
        self.config_file.write_text(uci(self.config))
        return self.config_file

    @property
    def socket_path(self):
        return self.folder / "masqd.sock"

    @property
    def state_path(self):
        return (self.state_folder or self.folder) / "masqd.state"

    def command(self, *extra):
        """The arguments that run the daemon with the written configuration."""
        return [MASQD, "run", "-c", self.config_file, "--socket", self.socket_path, "--state", self.state_path, *extra]

    def launch(self):
        """Starts the daemon without waiting for it."""
        if self.config is None:
            self.configure()
        self.daemon = self.router.start(*self.command())
        self._closing.callback(self.daemon.kill)
        return self.daemon

    def start(self, main=None, extra=()):
        """Configures, starts and waits until packets can flow."""
        if main is not None or extra or self.config is None:
            self.configure(main, extra)
        if self.baseline:
            self.router.run("nft", "-f", "-", stdin=nft(self.config))
            return self
        self.launch().expect(r"^masqd: ready:")
        return self

    def stop(self):
        """Stops the daemon as an operator does and asserts that it ended well."""
        daemon, self.daemon = self.daemon, None
        if daemon is None:
            return
        status = daemon.stop()
        assert status == 0, f"masqd ended with {status}:\n{daemon.output}"
        assert not re.search(r"Sanitizer|runtime error:|^\s+at ", daemon.output, re.MULTILINE), daemon.output

    def masqd(self, *argv, **options):
        """Runs one of the other subcommands against this daemon."""
        return run(MASQD, *argv, "--socket", self.socket_path, **options)

    def status(self):
        """`masqd status -j`."""
        return json.loads(self.masqd("status", "-j").stdout)

    def flows(self):
        """The sessions of `masqd flows -j`, one dict each."""
        return [json.loads(line) for line in self.masqd("flows", "-j").stdout.splitlines()]

    def drops(self, reason=None):
        """Counts by drop reason, or the count of one reason (0 if never seen)."""
        counts = {one["reason"]: one["count"] for one in self.status()["drops"]}
        return counts if reason is None else counts.get(reason, 0)

    def leaks(self):
        """What either leak guard has counted: masqd's own last gate, and the nft table."""
        status = self.status()
        assert status["guard"] is not None, "the nft guard is gone"
        return status["guard"]["leak"] + sum(one["count"] for one in status["drops"] if one["reason"] == "leak")

    def await_drops(self, reason, count):
        """Waits until `reason` has been counted `count` times."""
        return wait_until(lambda: self.drops(reason) >= count, f"{count} drops for {reason}, have {self.drops()}")

    def resident(self):
        """Memory that the daemon holds, in kB."""
        for line in pathlib.Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def snapshot(self):
        """Everything that masqd may change in the router and has to put back."""
        seen = [
            self.router.run(*argv).stdout
            for argv in (
                ("nft", "list", "ruleset"),
                ("ip", "rule"),
                ("ip", "route", "show", "table", "all"),
                ("ip", "-br", "link"),
                ("ethtool", "-k", "wan0"),
                ("ethtool", "-k", self.lan_device),
                ("sysctl", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_forward"),
            )
        ]
        return "\n".join(seen)

    # ---- the end --------------------------------------------------------------------------------------

    def check(self):
        """The invariants that hold at the end of every test."""
        leaked = self._leaked + self.sniffer.offenders()
        if self.baseline:
            return
        assert not leaked, f"foreign sources on the WAN wire: {leaked[:10]}"
        if self.daemon is not None:
            assert self.daemon.running(), f"masqd has died with {self.daemon.wait()}:\n{self.daemon.output}"
            assert self.guard_may_drop or self.leaks() == 0, f"the leak guard has counted: {self.status()}"
            self.stop()

    def close(self):
        self._closing.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def uci(sections):
    """UCI text of (type, name, options)."""
    lines = []
    for kind, name, options in sections:
        lines.append(f"config {kind} '{name}'" if name else f"config {kind}")
        for key, value in options.items():
            if isinstance(value, (list, tuple)):
                lines += [f"\tlist {key} '{one}'" for one in value]
            else:
                lines.append(f"\toption {key} '{value}'")
        lines.append("")
    return "\n".join(lines)


def nft(sections):
    """What the kernel can do of a configuration, as an nft table: the baseline."""
    before, after = [], []
    for kind, _name, options in sections:
        if kind == "redirect":
            port = f":{options['dest_port']}" if "dest_port" in options else ""
            protocols = options["proto"] if isinstance(options["proto"], (list, tuple)) else options["proto"].split()
            for protocol in protocols:
                before.append(f'iifname "wan0" {protocol} dport {options["src_dport"]} dnat to {options["dest_ip"]}{port}')
        elif kind == "static":
            before.append(f'iifname "wan0" ip daddr {options["external"]} dnat to {options["internal"]}')
            after.append(f'oifname "wan0" ip saddr {options["internal"]} snat to {options["external"]}')
        elif kind == "exempt":
            after.append(f'oifname "wan0" ip daddr {options["dest"]} accept')
        elif kind == "pool":
            for internal in options["internal"]:
                after.append(f'oifname "wan0" ip saddr {internal} snat to {options["external"][0]} persistent')
    after.append('oifname "wan0" masquerade')
    return (
        "table ip baseline {\n"
        " chain pre { type nat hook prerouting priority dstnat;\n  " + "\n  ".join(before) + "\n }\n"
        " chain post { type nat hook postrouting priority srcnat;\n  " + "\n  ".join(after) + "\n }\n}\n"
    )


# ---- real servers -------------------------------------------------------------------------------------

NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format short '$remote_addr "$request" $status $body_bytes_sent';
    access_log {folder}/access.log short;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    sendfile on;
    server {{
        listen {port};
        root {folder}/www;
        location /upload/ {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


class WebServer:
    """nginx in a namespace with everything it has in a folder of its own; takes PUT under /upload/."""

    def __init__(self, host, folder, port=80):
        self.folder = folder
        self.www = folder / "www"
        (self.www / "upload").mkdir(parents=True)
        for path in (folder, self.www, self.www / "upload"):
            path.chmod(0o755)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
        self.process = host.start("nginx", "-g", "user root;", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log")
        await_listener(self.process, port)

    def log(self):
        """Lines of the access log."""
        return (self.folder / "access.log").read_text().splitlines()


def dns_server(host, records, port=53):
    """dnsmasq that answers the given {name: address} and nothing else."""
    answers = [f"--host-record={name},{address}" for name, address in records.items()]
    process = host.start(
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--user=root",
        "--log-facility=-",
        "--log-queries",
        f"--port={port}",
        "--bind-interfaces",
        *answers,
    )
    return await_listener(process, port, "udp")


def iperf_server(host, port=5201):
    process = host.start("iperf3", "-s", "-p", port, "--forceflush")
    process.expect("Server listening")
    return process


def payload(path, size):
    """Writes `size` pseudo-random bytes to a file; returns its sha256."""
    import hashlib
    import random

    digest = hashlib.sha256()
    source = random.Random(size)
    with open(path, "wb") as out:
        left = size
        while left > 0:
            chunk = source.randbytes(min(left, 1 << 20))
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()
