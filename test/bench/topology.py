"""The network: client, router and server, each a network namespace, joined by two veth pairs.

    client eth0 192.168.1.2/24 --- lan0 192.168.1.1/24 router wan0 203.0.113.1/24 --- eth0 203.0.113.2/24 server

The veth devices keep the kernel's defaults (checksum, TSO and GSO offload on, GRO off, no queueing discipline). The server
has no route to 192.168.1.0/24, so what is not translated gets no answer. IPv6 is off: no packets but the measured ones.

"tap": the client has no veth; the candidate (slirp4netns, pasta) makes a tap device in the client's namespace itself and
sends from sockets in the router's namespace, as these programs do by their nature. "wire": client and server on one veth
pair with nothing between, the client at 203.0.113.1: what generator, sink and the two hosts' own stacks cost.
"""

import json
import os
import re
import shutil
import tempfile

from process import Broken, Process, run

SERVER = "203.0.113.2"
WAN = "203.0.113.1"
CLIENT = "192.168.1.2"
GATEWAY = "192.168.1.1"

SINK_PORT = 9000
SINK_PORTS = 4
ECHO_PORT = 7000
CLOSING_PORT = ECHO_PORT + 10
CLOSING_PORTS = 16
DATAGRAM_PORT = ECHO_PORT + 5000

GENERATOR_CPU = 0
SERVER_CPU = 1

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "bench")

_PREFIX = "mqb"
_TMPFS = "/dev/shm"
_made = []


def tool(name):
    return os.path.normpath(os.path.join(TOOLS, name))


class Site:
    """One candidate's network. `router`, `client` and `server` are names of namespaces."""

    _count = 0

    def __init__(self, key, kind, folder):
        Site._count += 1
        base = f"{_PREFIX}{os.getpid()}-{Site._count}-{key}"
        self.kind = kind
        self.folder = os.path.join(folder, f"{Site._count}-{key}")
        os.makedirs(self.folder)
        self.client, self.router, self.server = f"{base}-client", f"{base}-router", f"{base}-server"
        self.names = [self.client, self.server] if kind == "wire" else [self.client, self.router, self.server]
        self.device = "tap0" if kind == "tap" else "eth0"
        self.source = WAN if kind == "wire" else CLIENT
        self.gateway = SERVER if kind == "wire" else GATEWAY
        self.process = None
        self.sink = self.echo = None
        self._gateway_mac = None

    def create(self):
        for name in self.names:
            _made.append(name)
            run(["ip", "netns", "add", name])
            run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"], name)
        ports = ["net.ipv4.ip_local_port_range=20000 28191"]
        if self.kind == "wire":
            run(["ip", "link", "add", "eth0", "netns", self.client, "type", "veth", "peer", "eth0", "netns", self.server])
            self._links(self.client, ("eth0", WAN))
        else:
            run(["ip", "link", "add", "wan0", "netns", self.router, "type", "veth", "peer", "eth0", "netns", self.server])
            self._links(self.router, ("wan0", WAN))
            # ping_group_range: pasta translates pings through unprivileged ping sockets.
            run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.ping_group_range=0 2147483647"], self.router)
        if self.kind == "router":
            run(["ip", "link", "add", "lan0", "netns", self.router, "type", "veth", "peer", "eth0", "netns", self.client])
            self._links(self.router, ("lan0", GATEWAY))
            self._links(self.client, ("eth0", CLIENT), f"route add default via {GATEWAY}")
        self._links(self.server, ("eth0", SERVER))
        run(["sysctl", "-qw", *ports], self.client)

    def serve(self, source, datagram_ports=0):
        """Starts the server's programs; `source` is where the server should see the client's packets come from."""
        self.sink = Process([tool("sink"), str(SINK_PORT), source, str(SINK_PORTS)], self.server, log=self.log("sink"))
        self.echo = Process([tool("echo"), str(ECHO_PORT), str(SERVER_CPU), str(datagram_ports)], self.server, log=self.log("echo"))
        self.sink.line(5)
        self.echo.line(5)

    def gateway_mac(self):
        """Ethernet address that the client sends to. The client must have spoken to its gateway before."""
        if not self._gateway_mac:
            found = json.loads(run(["ip", "-n", self.client, "-j", "neigh", "show", "to", self.gateway]))
            known = [entry["lladdr"] for entry in found if "lladdr" in entry]
            if not known:
                raise Broken(f"the client knows no Ethernet address of {self.gateway}")
            self._gateway_mac = known[0]
        return self._gateway_mac

    def log(self, name):
        return os.path.join(self.folder, name + ".err")

    def remove(self):
        """Ends the site's processes and deletes its namespaces. Returns the router process's exit status, or None."""
        status = None
        for process in (self.process, self.echo, self.sink):
            if process:
                ended = process.stop()
                status = ended if process is self.process else status
        self.process = self.echo = self.sink = None
        for name in self.names:
            _delete(name)
        return status

    @staticmethod
    def _links(netns, link, *more):
        device, address = link
        lines = ["link set lo up", f"address add {address}/24 dev {device}", f"link set {device} up", *more]
        run(["ip", "-n", netns, "-batch", "-"], text="\n".join(lines) + "\n")


def _delete(name):
    if name in _made:
        run(["ip", "netns", "delete", name])
        _made.remove(name)


def remove_all():
    """Deletes every namespace that this run has made and not deleted yet."""
    for name in list(_made):
        try:
            _delete(name)
        except Broken:
            _made.remove(name)


def folder():
    """A new folder for the run's files, on tmpfs (where a router keeps masqd's state file) if there is one."""
    path = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_TMPFS if os.path.isdir(_TMPFS) else None)
    os.chmod(path, 0o755)  # slirp4netns and pasta may give up root
    return path


def remove_stale():
    """Deletes what a run that was killed has left: namespaces and folders of a benchmark process that no longer exists."""
    for line in run(["ip", "netns", "list"]).splitlines():
        if _is_stale(line):
            run(["ip", "netns", "delete", line.split()[0]])
    for place in (_TMPFS, tempfile.gettempdir()):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if _is_stale(name):
                shutil.rmtree(os.path.join(place, name), ignore_errors=True)


def _is_stale(name):
    match = re.match(rf"{_PREFIX}(\d+)-", name)
    return bool(match) and not os.path.exists(f"/proc/{match[1]}")
