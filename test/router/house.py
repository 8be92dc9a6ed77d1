"""A router in namespaces, with the emulated router's root file system and this machine's kernel and speed.

    h1 .10 -- lan1 \\                                                    / wan .254, DHCP server, .253
    h2 .20 -- lan2 -- [ br-lan 192.168.1.1  router  br-guest .5.1 | eth1 ] -- wan
    g1 .5.10 ------------------------------------- guest1 /

Two LAN cards in a bridge, a guest network to be switched on, a WAN by DHCP whose server comes when it is told to. The
router has processes, mounts and network of its own; `boot` and `power_off` are what they are for a machine.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

from machine import ROOT
from namespace import Namespace, Stuck, remove, run, temporary_folder, wait_until

H1, H2, G1 = "192.168.1.10", "192.168.1.20", "192.168.5.10"
SERVER = "203.0.113.254"
FIRST_LEASE, SECOND_LEASE = "203.0.113.1", "203.0.113.77"
LAN_MAC = {"lan1": "02:00:00:00:00:01", "lan2": "02:00:00:00:00:02", "guest1": "02:00:00:00:00:05", "eth1": "02:00:00:00:01:01"}
FILES = ROOT / "build" / "router" / "x86_64" / "root"

NETWORK = """
config device
	option name 'br-lan'
	option type 'bridge'
	list ports 'lan1'
	list ports 'lan2'

config interface 'lan'
	option device 'br-lan'
	option proto 'static'
	option ipaddr '192.168.1.1'
	option netmask '255.255.255.0'

config interface 'wan'
	option device 'eth1'
	option proto 'dhcp'
"""

# What a machine's firmware does before its first script.
PLACE = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs dev dev
mkdir dev/net
for device in null zero urandom tty net/tun; do touch dev/$device && mount --bind /dev/$device dev/$device; done
mount -t tmpfs -o size=24m tmpfs tmp
mkdir -p tmp/run/procd tmp/lock tmp/log tmp/.uci
# What procd has in its memory.
mount -t tmpfs procd tmp/run/procd
touch .container
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /bin/sh -c '/etc/init.d/rcS > /tmp/log/boot 2>&1; touch /tmp/booted; while :; do sleep 60 & wait; done'
"""

_serial = 0


class House:
    """The router and its hosts. It is off until `boot`."""

    SERVER = SERVER

    def __init__(self, dhcp=True):
        global _serial
        _serial += 1
        self._closing = contextlib.ExitStack()
        self._machine = None
        self._dhcp = None
        prefix = f"mq{os.getpid()}-h{_serial}"
        try:
            self.folder = temporary_folder(prefix)
            self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.names = [f"{prefix}-{role}" for role in ("h1", "h2", "g1", "wan", "router")]
            for name in self.names:
                self._closing.callback(remove, name)
            self.h1, self.h2, self.g1, self.wan, self.router = map(Namespace, self.names)
            self.root = self.folder / "root"
            run("cp", "-a", FILES, self.root)
            (self.root / "etc/config/network").write_text(NETWORK)
            self.wan.ip("link set lo up", f"link add eth0 type veth peer name eth1 netns {self.router.name}")
            self.wan.ip(f"addr add {SERVER}/24 dev eth0", "link set eth0 up")
            for host, card, address, gateway in (
                (self.h1, "lan1", H1, "192.168.1.1"),
                (self.h2, "lan2", H2, "192.168.1.1"),
                (self.g1, "guest1", G1, "192.168.5.1"),
            ):
                host.ip(f"link add eth0 type veth peer name {card} netns {self.router.name}", f"addr add {address}/24 dev eth0", "link set eth0 up")
                host.ip(f"route add default via {gateway}")
            for card, mac in LAN_MAC.items():
                self.router.ip(f"link set {card} address {mac}")
            if dhcp:
                self.offer(FIRST_LEASE)
        except BaseException:
            self.close()
            raise

    # ---- the provider -------------------------------------------------------------------------------------

    def offer(self, address):
        """The DHCP server gives this address, in leases of two minutes."""
        self.withdraw()
        leases = self.folder / "leases"
        leases.unlink(missing_ok=True)
        words = f"--dhcp-range={address},{address},255.255.255.0,2m --dhcp-option=option:router,{SERVER} --dhcp-authoritative --no-ping"
        self._dhcp = self.wan.start(
            "dnsmasq",
            "-k",
            "--port=0",
            "--conf-file=/dev/null",
            "--interface=eth0",
            "--bind-interfaces",
            f"--dhcp-leasefile={leases}",
            "--user=root",
            *words.split(),
        )

    def withdraw(self):
        if self._dhcp is not None:
            self._dhcp.kill()
        self._dhcp = None

    # ---- the machine --------------------------------------------------------------------------------------

    def boot(self):
        """Switches the router on and waits for its scripts."""
        self._machine = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.router.name]
            + ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", PLACE, "sh", str(self.root)],
            stdin=subprocess.DEVNULL,
        )
        self.first = wait_until(self._first_process, "the router's first process")
        wait_until(lambda: self.run("ls /tmp/booted", status=None).strip() == "/tmp/booted", "the router's boot")
        return self

    def _first_process(self):
        """The pid, out here, of what is 1 in there."""
        with contextlib.suppress(OSError, IndexError):
            return int(pathlib.Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children").read_text().split()[0])
        return None

    def power_off(self):
        """Cuts the power: every process ends, memory is forgotten; flash, addresses of the cards and the wires stay."""
        if self._machine is None:
            return
        # A kernel without power forwards nothing.
        self.wan.ip("link set eth0 down")
        self._machine.kill()
        self._machine.wait()
        self._machine = None
        self.router.sysctl("net/ipv4/ip_forward", "0")
        for device in [line.split(": ")[1].split("@")[0] for line in self.router.run("ip", "-o", "link").stdout.splitlines()]:
            if device.startswith("br-"):
                self.router.ip(f"link del {device}")
        self.router.run("nft", "flush", "ruleset")
        self.router.run(
            "sh",
            "-c",
            "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default; ip route flush table main; ip address flush dev eth1",
        )
        self.router.sysctl("net/ipv4/ip_local_port_range", "32768 60999")
        self.wan.ip("link set eth0 up")

    def run(self, command, status=0):
        """Runs a line in the router's shell; what it printed. Its status must be the one given, unless that is None."""
        words = ["nsenter", "-t", str(self.first), "-m", "-n", "-p", "-i", "-u", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        script = 'service() { "/etc/init.d/$1" "$2"; }\n' + command
        done = subprocess.run(
            [*words, "chroot", str(self.root), "/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        if status is not None and done.returncode != status:
            raise AssertionError(f"status {done.returncode}: {command}\n{done.stdout}")
        return done.stdout

    def until(self, command, text):
        """Waits until a command prints a text."""
        try:
            wait_until(lambda: text in self.run(command, status=None), "")
        except Stuck:
            raise Stuck(f"never came: {text!r} from {command}; it printed {self.run(command, status=None)!r}\n{self.log()}") from None

    def log(self):
        return self.run("logread", status=None)

    def pid(self):
        """masqd's, as the router counts; "" without one."""
        return self.run("cat /var/run/procd/masqd/pid 2> /dev/null", status=None).strip()

    def ready(self):
        self.until("masqd status -j", '"version"')

    def quiet(self):
        """Waits until the router has nothing more to do: no event that a script waits for, no script that runs."""
        # The shell names what there is in one go, a waiting event before one that runs: `ls` would look for it again, and find it moved.
        nothing = "/var/run/procd/queue/* /var/run/procd/running.* /var/run/fw4.loc[k]"
        locks = "for lock in /var/run/procd/lock.*; do [ ! -e $lock ] || flock -n $lock true || echo $lock; done"
        wait_until(lambda: self.run(f"echo {nothing}; {locks}", status=None).strip() == nothing, "a quiet router")

    def place(self, source, target):
        """Copies a file onto the router's flash."""
        shutil.copy(source, self.root / target.lstrip("/"))

    def close(self):
        with contextlib.suppress(Exception):
            self.withdraw()
        if self._machine is not None:
            self._machine.send_signal(signal.SIGKILL)
            self._machine.wait()
        self._closing.close()
