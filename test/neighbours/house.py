"""A router with neighbours of masqd: the test bed, a VPN with the same Internet behind it, servers that say whom they see.

    h1 .10, h2 .20 - br-lan - router - wan0 - wan: 203.0.113.10 and others
                                     - vpn0 10.8.0.2 - vpn 10.8.0.1: the same addresses again
                                     - box0 172.17.0.1 - box .2: a network that masqd does not list

The router's firewall masquerades out of wan0 and vpn0, as firewall4 does. `driver` "off" is the router without masqd.
"""

import contextlib
import json
import re
import select
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "net"))

from bed import GATEWAY, H1, H2, LAN_GATEWAY, S1, S2, Bed  # noqa: E402
from namespace import GUARD, wait_until  # noqa: E402

VPN, VPN_GATEWAY, BOX = "10.8.0.2", "10.8.0.1", "172.17.0.2"
PATIENCE = 0.5
SECRET = b"only by the VPN"
FIREWALL = """table inet fw4 {
	chain dstnat_wan {
%(redirects)s
	}
	chain dstnat { type nat hook prerouting priority dstnat; policy accept;
		iifname "wan0" jump dstnat_wan comment "!fw4: Handle wan IPv4/IPv6 dstnat traffic"
%(dstnat)s
	}
	chain mangle { type filter hook prerouting priority mangle; policy accept;
%(mangle)s
	}
	chain forward { type filter hook forward priority filter; policy accept;
		ct state established,related accept
%(forward)s
	}
	chain srcnat { type nat hook postrouting priority srcnat; policy accept;
		oifname { "wan0", "vpn0" } meta nfproto ipv4 masquerade
	}
}
"""


class Servers(threading.Thread):
    """UDP and TCP servers of one host; each tells its client who they are and whom they see."""

    def __init__(self, host, name, places):
        super().__init__(daemon=True)
        self.name_told = name
        self._ended, self._end = socket.socketpair()
        self._udp = [host.udp(address, port) for address, port in places]
        self._tcp = [host.listener(address, port) for address, port in places]
        self.heard = []
        self.start()

    def _words(self, peer):
        return f"{self.name_told} {peer[0]}:{peer[1]}".encode()

    def run(self):
        while True:
            ready, _, _ = select.select([self._ended, *self._udp, *self._tcp], [], [])
            if self._ended in ready:
                return
            for one in ready:
                with contextlib.suppress(OSError):
                    if one in self._udp:
                        data, peer = one.recvfrom(2048)
                        self.heard.append(data)
                        one.sendto(self._words(peer), peer)
                    else:
                        accepted, peer = one.accept()
                        accepted.sendall(self._words(peer))
                        accepted.close()

    def close(self):
        self._end.send(b"x")
        self.join()
        for one in (*self._udp, *self._tcp, self._ended, self._end):
            one.close()


class Tap(threading.Thread):
    """Every IPv4 packet with certain bytes in it that arrives on a device."""

    def __init__(self, host, device, word):
        super().__init__(daemon=True)
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.bind((device, 0x0800))
        self._socket.settimeout(0.1)
        self._word = word
        self._going = True
        self.found = 0
        self.start()

    def run(self):
        while True:
            try:
                if self._word in self._socket.recv(2048):
                    self.found += 1
            except TimeoutError:
                if not self._going:
                    return

    def close(self):
        """Ends when nothing is waiting any more; returns how many there were."""
        self._going = False
        self.join()
        self._socket.close()
        return self.found


class House:
    """The router and its neighbours, with one driver of masqd's or "off"."""

    def __init__(self, driver, dstnat="", redirects="", mangle="", forward="", external=(GATEWAY,), sections=(), main=None, offload="auto"):
        self.driver = driver
        self._closing = contextlib.ExitStack()
        self.bed = Bed("packet" if driver == "off" else driver, external=external)
        self._closing.callback(self.bed.close)
        self.sections, self.main = list(sections), {"offload": offload, **(main or {})}
        self.router, self.h1, self.h2, self.wan = self.bed.router, self.bed.h1, self.bed.h2, self.bed.wan
        self.bed.guard_may_drop = True
        self.bed.ports = None
        self.firewall(dstnat, redirects, mangle, forward)
        self.vpn = self._beside("vpn", "vpn0", VPN, VPN_GATEWAY)
        self.vpn.ip(f"addr add {S1}/32 dev lo", f"addr add {S2}/32 dev lo")
        self._servers = []
        self.serve(self.wan, "wan", [(S1, 7), (S2, 7)])
        self.serve(self.vpn, "vpn", [(S1, 7), (S2, 7)])

    def firewall(self, dstnat="", redirects="", mangle="", forward=""):
        """Makes the router's firewall anew, as a reload does."""
        lines = {"dstnat": dstnat, "redirects": redirects, "mangle": mangle, "forward": forward}
        self.router.run("nft", "-f", "-", stdin="table inet fw4 {\n}\ndelete table inet fw4\n" + FIREWALL % lines)

    def _beside(self, role, device, here, there):
        host = self.bed.add_namespace(role)
        self.router.ip(f"link add {device} type veth peer name eth0 netns {host.name}", f"link set {device} up", f"addr add {here}/24 dev {device}")
        host.ip("link set eth0 up", f"addr add {there}/24 dev eth0", f"route add default via {here}")
        return host

    def box(self, net="172.17.0", device="box0"):
        """A host of a network that masqd does not list."""
        return self._beside(device.rstrip("0"), device, f"{net}.1", f"{net}.2")

    def serve(self, host, name, places):
        servers = Servers(host, name, places)
        self._closing.callback(servers.close)
        self._servers.append(servers)
        return servers

    def start(self):
        if self.driver != "off":
            self.bed.start(main=self.main, extra=self.sections)
        return self

    def up(self, *commands):
        """ip(8) in the router."""
        self.router.ip(*commands)

    def tap(self, word=SECRET):
        tap = Tap(self.wan, "eth0", word)
        return tap

    def status(self):
        return self.bed.status()

    def forwards(self):
        """The port forwards in force, as LuCI's page asks for them."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.bed.socket_path))
            client.settimeout(GUARD)
            client.sendall(b'{"v":1,"command":"forwards"}\n')
            found = []
            for line in client.makefile():
                answer = json.loads(line)
                if "rows" not in answer:
                    break
                found += answer["rows"]
        return found

    def followed(self):
        """masqd has followed the kernel's news until now: it answers after that."""
        if self.driver != "off":
            self.status()

    def warned(self, pattern):
        """Whether there is a warning, now or soon."""
        if self.driver == "off":
            return False
        try:
            wait_until(lambda: any(re.search(pattern, one) for one in self.status()["warnings"]), pattern, guard=3)
        except AssertionError:
            return False
        return True

    def told(self, pattern):
        """Whether the log has a line of it, now or soon."""
        if self.driver == "off":
            return False
        try:
            wait_until(lambda: re.search(pattern, self.bed.daemon.output), pattern, guard=3)
        except AssertionError:
            return False
        return True

    def close(self):
        try:
            if self.driver != "off":
                self.bed.check()
        finally:
            self._closing.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            if self.bed.daemon is not None:
                print(self.bed.daemon.output, file=sys.stderr)
            self._closing.close()
        else:
            self.close()


def ask(host, address=S1, port=7, kind="udp", source="", sport=0, patience=PATIENCE, tries=3):
    """What the server there says: who it is and whom it sees; "nothing" or "refused"."""
    if kind == "tcp":
        client = host.tcp(source, sport)
        client.settimeout(patience * 3)
        try:
            client.connect((address, port))
            return client.recv(100).decode()
        except TimeoutError:
            return "nothing"
        except OSError:
            return "refused"
        finally:
            client.close()
    client = host.udp(source, sport)
    client.settimeout(patience)
    try:
        for _ in range(tries):
            try:
                client.sendto(b"who", (address, port))
                return client.recv(100).decode()
            except TimeoutError:
                continue
            except OSError:
                return "refused"
        return "nothing"
    finally:
        client.close()


def place(told):
    """The same without the port that it saw, which is nobody's promise."""
    return told.rsplit(":", 1)[0]


def stream(host, stop, address=S1, port=7, data=b"bulk", pause=0.002):
    """A thread that sends datagrams until `stop` is set; its list has what came back."""
    back = []
    client = host.udp()
    client.settimeout(0.05)

    def run():
        while not stop.is_set():
            with contextlib.suppress(OSError):
                client.sendto(data, (address, port))
            with contextlib.suppress(OSError):
                back.append(client.recv(100).decode())
            time.sleep(pause)
        client.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, back


__all__ = [
    "BOX",
    "GATEWAY",
    "H1",
    "H2",
    "LAN_GATEWAY",
    "S1",
    "S2",
    "SECRET",
    "VPN",
    "VPN_GATEWAY",
    "House",
    "ask",
    "place",
    "stream",
    "wait_until",
]
