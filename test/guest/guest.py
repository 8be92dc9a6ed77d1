"""What the cases of the guest share: hosts in namespaces of the guest, a WAN device of some kind, a router that is masqd or nft.

    lan 192.168.1.10 -- veth -- lan0 192.168.1.1 [router] WAN 203.0.113.1 -- ... -- wan 203.0.113.10

A case prints a table and, last of all, `N passed, N failed`.
"""

import contextlib
import os
import pathlib
import re
import socket
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "net"))

import namespace  # noqa: E402
from namespace import Namespace, Process, run, wait_until  # noqa: E402

MASQD = ROOT / "build" / "masqd"
LAN_HOST, LAN_GATEWAY, GATEWAY, WAN_HOST = "192.168.1.10", "192.168.1.1", "203.0.113.1", "203.0.113.10"
RUN = pathlib.Path("/run")

# Everything takes its time in an emulated machine.
namespace.GUARD = max(namespace.GUARD, 240.0)

NFT = """
table ip nat {
	chain postrouting { type nat hook postrouting priority srcnat; oifname "%s" masquerade; }
}
"""


class Results:
    """Counts, and a line for each."""

    def __init__(self):
        self.passed = self.failed = 0

    def row(self, good, text):
        self.passed += good
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {text}", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)


class Site:
    """The hosts; `build(site)` makes the WAN between `router` and `wan` and returns the name of its device in the router."""

    def __init__(self, build):
        self._closing = contextlib.ExitStack()
        self.router, self.lan, self.wan = Namespace("router"), Namespace("lan"), Namespace("wan")
        for host in (self.router, self.lan, self.wan):
            self._closing.callback(namespace.remove, host.name)
        self.router.sysctl("net/ipv4/ip_forward", 1)
        for key in ("all", "default"):
            self.router.sysctl(f"net/ipv4/conf/{key}/rp_filter", 0)
        self.router.ip("link add lan0 type veth peer name eth0 netns lan", "link set lan0 up", f"addr add {LAN_GATEWAY}/24 dev lan0")
        self.lan.ip("link set eth0 up", f"addr add {LAN_HOST}/24 dev eth0", f"route add default via {LAN_GATEWAY}")
        self.lan_device = "lan0"
        self.device = build(self)
        self.daemon = None

    def background(self, process):
        self._closing.callback(process.kill)
        return process

    def start(self, driver, offload="auto"):
        """Masquerading by nft, or by masqd with this driver, and with the kernel carrying what it can as it does by itself."""
        if driver == "nft":
            self.router.run("nft", "-f", "-", stdin=NFT % self.device)
            return
        config = RUN / "masqd.uci"
        config.write_text(
            f"config masqd 'main'\n\toption enabled '1'\n\toption sessions '4096'\n\toption offload '{offload}'\n"
            f"config wan\n\toption device '{self.device}'\nconfig lan\n\toption device '{self.lan_device}'\n\toption driver '{driver}'\n"
        )
        self.daemon = self.router.start(MASQD, "run", "-c", config, "--socket", RUN / "masqd.sock", "--state", RUN / "masqd.state")
        self.daemon.expect("^masqd: ready:")

    def stop(self):
        if self.daemon is not None:
            assert self.daemon.stop() == 0, self.daemon.output
            self.daemon = None
        self.router.run("nft", "flush", "ruleset")
        for name in ("masqd.state", "masqd.uci"):
            (RUN / name).unlink(missing_ok=True)

    def drops(self):
        """What masqd has dropped, in its own words; "" if nothing."""
        if self.daemon is None:
            return ""
        said = run(MASQD, "status", "-j", "--socket", RUN / "masqd.sock").stdout
        return " ".join(sorted(set(re.findall(r'"reason":"([a-z-]+)"', said))))

    def lost(self):
        """Packets that the WAN device has dropped."""
        with self.router.inside():
            shown = pathlib.Path("/proc/thread-self/net/dev").read_text()
        fields = re.search(rf"^ *{self.device}:(.*)$", shown, re.MULTILINE)[1].split()
        return int(fields[10]) + int(fields[11])

    def close(self):
        with contextlib.suppress(AssertionError):
            self.stop()
        self._closing.close()


def tunnel(ends):
    """Makes wg0, with WireGuard, in two hosts that reach each other at these addresses; it is up and has no addresses."""
    keys = {}
    for host, _ in ends:
        host.ip("link add wg0 type wireguard")
        secret = host.run("wg", "genkey").stdout
        path = RUN / f"{host.name}.key"
        path.write_text(secret)
        keys[host.name] = (path, host.run("wg", "pubkey", stdin=secret).stdout.strip())
    for (host, _), (other, address) in (ends, ends[::-1]):
        own, key = keys[host.name][0], keys[other.name][1]
        host.run("wg", "set", "wg0", "listen-port", 51820, "private-key", own, "peer", key, "allowed-ips", "0.0.0.0/0", "endpoint", f"{address}:51820")
        host.ip("link set wg0 up")


def transfer(sender, receiver, connect_to, listener_host, reverse, count):
    """Moves `count` bytes through one TCP connection from LAN to WAN, or back if `reverse`. Returns seconds of the guest's clock."""
    listener = listener_host.listener(connect_to, 5001)
    client = sender.tcp()
    client.connect((connect_to, 5001))
    served, _ = listener.accept()
    out, into = (served, client) if reverse else (client, served)
    for one in (out, into):
        one.settimeout(namespace.GUARD)
    block = bytes(1 << 16)

    def send():
        left = count
        while left > 0:
            left -= out.send(block[: min(left, len(block))])
        out.shutdown(socket.SHUT_WR)

    begin = time.monotonic()
    thread = threading.Thread(target=send)
    thread.start()
    got = 0
    buffer = bytearray(1 << 20)
    while True:
        n = into.recv_into(buffer)
        if n == 0:
            break
        got += n
    seconds = time.monotonic() - begin
    thread.join()
    for one in (client, served, listener):
        one.close()
    assert got == count, f"{got} of {count} bytes"
    return seconds


__all__ = [
    "GATEWAY",
    "LAN_HOST",
    "MASQD",
    "Namespace",
    "Process",
    "ROOT",
    "RUN",
    "Results",
    "Site",
    "WAN_HOST",
    "os",
    "run",
    "transfer",
    "tunnel",
    "wait_until",
]
