"""The bed of the conformance suite: lan - G - wan, raw frames on both sides, no stack but G's answers anything."""

import itertools
import pathlib
import re
import time

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from bed import GATEWAY, GATEWAY_MAC, LAN_GATEWAY, LAN_GATEWAY_MAC, Bed, R, lan_mac, wan_mac
from marks import MARK_HOST, MARK_PEER, STRANGERS, Marks, ask
from namespace import sysctl
from wire import LeakSniffer, Wire, attach_filter, word

# Last octets of the hosts that G knows without asking, on both sides.
KNOWN = (*range(2, 81), 254)
# The hosts of fill and flood (load.py): what is for them is none of a case's business.
LOAD_HOST, LOAD_PEER = "192.168.1.79", "203.0.113.79"

# What of a `timeouts` section the kernel has, for the baseline.
KERNEL_TIMEOUTS = {
    "udp": ("udp_timeout", "udp_timeout_stream"),
    "icmp": ("icmp_timeout",),
    "tcp_opening": ("tcp_timeout_syn_sent", "tcp_timeout_syn_recv"),
    "tcp_established": ("tcp_timeout_established",),
    "tcp_closing": ("tcp_timeout_fin_wait", "tcp_timeout_close_wait", "tcp_timeout_last_ack", "tcp_timeout_time_wait"),
    "tcp_reset": ("tcp_timeout_close",),
    "other": ("generic_timeout",),
}


class Tap(Wire):
    """A wire that keeps all it has seen, as (monotonic time, packet); scapy's packet still has its link header in `underlayer`."""

    def __init__(self, host, gateway_mac, mac_of, noise):
        super().__init__(host, "eth0", gateway_mac, mac_of)
        # Everything but IPv4 to the addresses of `noise` and errors about markers.
        load_half, load, equal, mask, give = 0x28, 0x20, 0x15, 0x54, 0x06
        program = [(load_half, 0, 0, 12), (equal, 0, len(noise) + 4, 0x0800), (load, 0, 0, 30)]
        program += [(equal, len(noise) + 1 - n, 0, word(address)) for n, address in enumerate(noise)]
        program += [(mask, 0, 0, int(STRANGERS.netmask)), (equal, 0, 1, int(STRANGERS.network_address)), (give, 0, 0, 0), (give, 0, 0, 65535)]
        attach_filter(self._socket, program)
        self.seen = []
        self._next = 0

    def poll(self, seconds):
        """Waits for at most that long for a frame; (time, packet) of the first not yet handed out, or None."""
        if self._next == len(self.seen):
            packet = self._receive(seconds)
            if packet is None:
                return None
            self.seen.append((time.monotonic(), packet))
        self._next += 1
        return self.seen[self._next - 1]

    def discard(self):
        """Throws away what is waiting without looking at it, which scapy takes long for; returns how many frames."""
        self._socket.setblocking(False)
        for count in itertools.count():
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return count

    def forget(self):
        """Throws away what was seen and what is waiting."""
        self.arrived()
        self.seen.clear()
        self._next = 0


class RawBed(Bed):
    """One LAN wire, G, one WAN wire. Reused for many cases; see Case for what a case does with it."""

    def __init__(self, driver, baseline, wan_mtu=1500, external=(GATEWAY,)):
        self._heard = 0
        # What masqd is asked for and pinged at; "" while the WAN has no address that can be used.
        self.wan_address = GATEWAY
        self.marks = Marks(self)
        super().__init__(driver, lan="veth", wan_mtu=wan_mtu, external=external, baseline=baseline)
        # What the kernel's connection tracking calls invalid it does not translate: stopping that is what the guard of the kernel driver is for.
        self.guard_may_drop = driver == "kernel"

    # ---- building -------------------------------------------------------------------------------------

    def _build(self, lan, far):
        self.router = self.add_namespace("router")
        self.lan = self.add_namespace("lan")
        self.wan = self.add_namespace("wan")
        with self.router.inside():
            sysctl("net/ipv4/ip_forward", 1)
            for key in ("all", "default"):
                sysctl(f"net/ipv4/conf/{key}/rp_filter", 0)
                sysctl(f"net/ipv4/conf/{key}/send_redirects", 0)
        self.build_lan()
        self.build_wan()

    def _link(self, name, mac, host, mtu=1500):
        """A veth from the router to eth0 of a wire's namespace, all offloads off, where no stack answers."""
        self.router.ip(f"link add {name} address {mac} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {host.name}")
        for namespace, device in ((self.router, name), (host, "eth0")):
            namespace.run("ethtool", "-K", device, "rx", "off", "tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off")
        host.ip("link set eth0 arp off up")
        self.router.ip(f"link set {name} up")

    def build_lan(self):
        """Makes the LAN device and its wire (also again, after it was deleted)."""
        self._link("lan0", LAN_GATEWAY_MAC, self.lan)
        known = (f"192.168.1.{n}" for n in KNOWN)
        self.router.ip(f"addr add {LAN_GATEWAY}/24 dev lan0", *(f"neigh replace {a} lladdr {lan_mac(a)} dev lan0 nud permanent" for a in known))
        self.lan_wire = Tap(self.lan, LAN_GATEWAY_MAC, lan_mac, (LOAD_HOST, MARK_HOST))
        self._closing.callback(self.lan_wire.close)

    def build_wan(self):
        """Makes the WAN device and its wire (also again, after it was deleted)."""
        self._link("wan0", GATEWAY_MAC, self.wan, self.wan_mtu)
        self.address(1)
        if self.sniffer is not None:
            self._leaked += self.sniffer.offenders()
        self.sniffer = LeakSniffer(self.wan, "eth0", self.external)
        self._closing.callback(self.sniffer.close)
        self.wan_wire = Tap(self.wan, GATEWAY_MAC, wan_mac, (LOAD_PEER, MARK_PEER))
        self._closing.callback(self.wan_wire.close)

    def address(self, last_octet):
        """Gives the WAN device another address, as a provider does, or none (0)."""
        self.wan_address = f"203.0.113.{last_octet}" if last_octet else ""
        given = [] if last_octet == 0 else [f"addr add 203.0.113.{last_octet}/24 dev wan0", f"route replace default via {R}"]
        known = (f"203.0.113.{n}" for n in KNOWN)
        # With the last address of a device the kernel forgets its neighbours, permanent ones too.
        self.router.ip("addr flush dev wan0", *given, *(f"neigh replace {a} lladdr {wan_mac(a)} dev wan0 nud permanent" for a in known))

    # ---- the daemon or the kernel -----------------------------------------------------------------------

    def run_with(self, main=None, timeouts=None, extra=()):
        """Ends up with an empty table and exactly this configuration; cheap if it is the one that runs."""
        sections = [*([("timeouts", None, {k: str(v) for k, v in timeouts.items()})] if timeouts else []), *extra]
        wanted = self.sections(main, sections)
        if self.baseline:
            self._kernel(wanted, main, sections, timeouts or {})
        elif self.daemon is None or not self.daemon.running() or wanted != self.config:
            self.stop()
            self._forget()
            self._heard = 0
            self.start(main or {}, sections)
        else:
            self.flush()

    def _kernel(self, wanted, main, sections, timeouts):
        if wanted != self.config:
            self.router.run("nft", "flush", "ruleset")
            self.start(main or {}, sections)
            for path, value in self.__dict__.setdefault("_kernel_defaults", {}).items():
                self.router.sysctl(path, value)
        for name, seconds in timeouts.items():
            for key in KERNEL_TIMEOUTS.get(name, ()):
                path = f"net/netfilter/nf_conntrack_{key}"
                with self.router.inside(), open(f"/proc/sys/{path}") as setting:
                    self._kernel_defaults.setdefault(path, int(setting.read()))
                self.router.sysctl(path, seconds)
        self.flush()

    def crash(self):
        """Kills the daemon as a bug would; `recover` starts it again on what it has left behind."""
        self.daemon.kill()
        self.daemon = None

    def recover(self):
        """Starts the daemon with the configuration it had."""
        self._heard = 0
        self.launch().expect(r"^masqd: ready:")

    def flush(self):
        """Forgets all sessions, mappings, port rests and whatever else outlives a packet."""
        if self.baseline:
            self.router.run("conntrack", "-F", check=False)
            return
        # More than `masqd flush` forgets: rates of ICMP errors, SYNs that wait, limits of hosts.
        self.stop()
        self._forget()
        self.recover()

    def _forget(self):
        """Removes what a daemon leaves to the next: sessions, and forwards that hosts have asked for."""
        for path in (self.state_path, self.state_path.with_name(f"{self.state_path.name}.pcp")):
            path.unlink(missing_ok=True)
        if self.driver == "kernel":
            self.router.run("conntrack", "-F", check=False)

    def ask(self, command, **fields):
        """The rows of an answer of the control socket, as they come."""
        return ask(self.socket_path, command, **fields)

    def data(self, command, **fields):
        """What the control socket answers besides rows."""
        rows = self.ask(command, **fields)
        while True:
            try:
                next(rows)
            except StopIteration as end:
                return end.value

    def status(self):
        """What `masqd status -j` shows, without starting a program: this is asked in loops."""
        return self.data("status")

    def flows(self):
        """The sessions: dicts with protocol, internal, external, peer, state and left (seconds); of the kernel's as far as it tells."""
        return self._kernel_flows() if self.baseline else list(self.ask("flows"))

    def _kernel_flows(self):
        with self.router.inside(), open("/proc/thread-self/net/nf_conntrack") as table:
            lines = table.read().splitlines()
        found = []
        for line in lines:
            words = line.split()
            out, back = {}, {}
            for key, value in (w.split("=", 1) for w in words if "=" in w):
                (back if key in out else out)[key] = value
            if out["src"] in (MARK_HOST, MARK_PEER):
                continue
            port = out.get("sport", out.get("id", "0"))
            found.append(
                {
                    "protocol": words[2] if words[2] in ("tcp", "udp", "icmp") else words[3],
                    "internal": f"{out['src']}:{port}",
                    "external": f"{back.get('dst')}:{back.get('dport', back.get('id', '0'))}",
                    "peer": f"{out['dst']}:{out.get('dport', '0')}",
                    "state": words[5] if "=" not in words[5] else "unreplied" if "[UNREPLIED]" in words else "open",
                    "left": int(words[4]),
                }
            )
        return found

    # ---- the processor ----------------------------------------------------------------------------------

    def waited(self):
        """Seconds that masqd has waited for a processor while it had work (schedstat of proc(5)); 0 without one."""
        try:
            return int(pathlib.Path(f"/proc/{self.daemon.pid}/schedstat").read_text().split()[1]) / 1e9
        except (AttributeError, FileNotFoundError):
            return 0

    def queue_drops(self):
        """Packets that the kernel has dropped because masqd did not read its TUN device in time."""
        try:
            with self.router.inside():
                return sum(
                    int(line.split()[12]) for line in pathlib.Path("/proc/thread-self/net/dev").read_text().splitlines() if line.strip().startswith("masq0:")
                )
        except OSError:
            return 0

    def tracking(self):
        """What the kernel's connection tracking has counted of the packets that it drops, for the words about a lost packet."""
        try:
            with self.router.inside(), open("/proc/thread-self/net/stat/nf_conntrack") as stat:
                names, *rows = (line.split() for line in stat)
        except OSError:
            return {}
        sums = {name: sum(int(row[n], 16) for row in rows) for n, name in enumerate(names)}
        return {name: sums[name] for name in ("invalid", "insert_failed", "drop", "early_drop") if sums.get(name)}

    # ---- invariants -------------------------------------------------------------------------------------

    def complaints(self):
        """What must never happen and has since the last call: words, empty if all is well."""
        found = []
        leaked, self._leaked = self._leaked + self.sniffer.offenders(), []
        if leaked:
            found.append(f"foreign sources on the WAN wire: {leaked[:10]}")
        if self.baseline or self.daemon is None:
            return found
        if not self.daemon.running():
            found.append(f"masqd has died with {self.daemon.wait()}")
        elif not self.guard_may_drop:
            try:
                if self.leaks():
                    found.append(f"the leak guard has counted: {self.status()['guard']} {self.drops()}")
            except AssertionError as error:
                found.append(f"no status: {error}")
        said = self.daemon.lines[self._heard :]
        self._heard += len(said)
        found += [f"masqd said: {line}" for line in said if re.search(r"Sanitizer|runtime error:|^\s+at |Error\b|exception", line)]
        return found


def parse(packet):
    """A packet as it will be on the wire, lengths and checksums filled in."""
    return IP(bytes(packet[IP] if isinstance(packet, Ether) else packet))
