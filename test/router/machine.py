"""The emulated router between two namespaces.

    lan .10 -- tap --[ eth0 = br-lan 192.168.1.1 | router | eth1 = wan 203.0.113.1 ]-- tap -- wan .254

qemu-system emulates the whole machine (TCG, no KVM); its two cards are taps that live in the namespaces, and its serial
line is a pseudo-terminal, on which `Console` types and reads.
"""

import contextlib
import fcntl
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "net"))

from namespace import Namespace, Stuck, remove  # noqa: E402

LAN_HOST, LAN_GATEWAY = "192.168.1.10", "192.168.1.1"
WAN_HOST, GATEWAY = "203.0.113.254", "203.0.113.1"
PROMPT = re.compile(r"root@masqd-router:[^\n]*# $")
# What a terminal would act on, such as the shell's question where the cursor is.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Longest that the emulated machine may take for anything, in seconds: a guard, never a way to wait.
GUARD = float(os.environ.get("MASQD_ROUTER_GUARD", "120"))

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

MACHINES = {
    "x86_64": ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "128"],
    "mipsel": ["qemu-system-mipsel", "-machine", "malta", "-cpu", "24Kf", "-m", "128"],
}
# PCI slots of the LAN's and the WAN's card. A Malta board has interrupts for 18 to 21, two slots a line: the cards must not share one, or the
# machine loses its interrupt under load and both are dead (with masqd and without).
SLOTS = {"x86_64": [16, 17, 18, 19], "mipsel": [18, 20]}

_serial = 0


class Console:
    """What a person at the serial line does: reads what comes, types lines."""

    def __init__(self, master):
        self._master = master
        self._text = ""
        self._from = 0
        self._ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:
                data = b""
            with self._news:
                self._ended = not data
                self._text = ESCAPES.sub("", self._text + data.decode(errors="replace").replace("\r", ""))
                self._news.notify_all()
            if not data:
                return

    @property
    def text(self):
        """Everything that has come since power on."""
        with self._news:
            return self._text

    def expect(self, pattern, guard=None):
        """Waits for a pattern behind what was expected last; the text up to and with it."""
        wanted = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        end = time.monotonic() + (guard or GUARD)
        with self._news:
            while True:
                found = wanted.search(self._text, self._from)
                if found:
                    seen = self._text[self._from : found.end()]
                    self._from = found.end()
                    return seen
                if self._ended or time.monotonic() > end:
                    raise Stuck(f"the console never showed {wanted.pattern!r}; it showed\n{self._text[-4000:]}")
                self._news.wait(0.5)

    def type(self, text):
        os.write(self._master, text.encode())

    def run(self, command, status=0):
        """Types a command at the prompt; what it printed. Its status must be the one given, unless that is None."""
        # The echo of the command has the quotes, what echo prints has not.
        self.type(f"echo 'B'EGIN; {command}; echo 'E'ND $?\n")
        self.expect(r"^BEGIN\n")
        output = self.expect(r"^END \d+\n")
        self.expect(PROMPT)
        printed, ended = output.rsplit("END ", 1)
        if status is not None and int(ended) != status:
            raise AssertionError(f"status {ended.strip()}: {command}\n{printed}")
        return printed

    def log_in(self):
        """Waits for the boot to end and activates the console; the banner."""
        self.expect("Please press Enter to activate this console")
        self.type("\n")
        return self.expect(PROMPT)


def tap(namespace):
    """The descriptor of eth0 in the namespace, on whose other end a machine's card will be."""
    with namespace.inside():
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    return descriptor


def command(arch, taps, *more):
    """The words that switch the machine on, with a card for every tap."""
    firmware = ROOT / "build" / "router" / arch
    argv = [
        *MACHINES[arch],
        *("-kernel", firmware / "kernel", "-initrd", firmware / "initramfs"),
        *("-append", "console=ttyS0,115200n8 panic=3 quiet", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-chardev", "stdio,id=line,signal=off", "-serial", "chardev:line"),
        *(more or ["-no-reboot"]),
    ]
    for number, (slot, descriptor) in enumerate(zip(SLOTS[arch], taps)):
        argv += ["-netdev", f"tap,id=net{number},fd={descriptor}"]
        argv += ["-device", f"virtio-net-pci,romfile=,netdev=net{number},mac=02:00:00:00:0{number}:01,addr={slot:x}"]
    return [str(a) for a in argv]


def power_on(argv, taps):
    """The machine's process, and the end of its serial line that a person has."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[0] = attributes[1] = attributes[3] = 0
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    qemu = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *argv], stdin=slave, stdout=slave, stderr=subprocess.STDOUT, pass_fds=taps)
    os.close(slave)
    return qemu, master


class Router:
    """The emulated machine with its two namespaces; without `console` whoever made it reads `master`."""

    def __init__(self, arch="x86_64", console=True):
        global _serial
        _serial += 1
        self.arch = arch
        self._typed = console
        self.prefix = f"mq{os.getpid()}-r{_serial}"
        self._closing = contextlib.ExitStack()
        self._qemu = None
        try:
            self.lan = self._namespace("lan")
            self.wan = self._namespace("wan")
            taps = [self._tap(self.lan), self._tap(self.wan)]
            self.lan.ip(f"addr add {LAN_HOST}/24 dev eth0", "link set eth0 up", f"route add default via {LAN_GATEWAY}")
            self.wan.ip(f"addr add {WAN_HOST}/24 dev eth0", "link set eth0 up")
            self._power_on(taps)
        except BaseException:
            self.close()
            raise

    def _namespace(self, role):
        name = f"{self.prefix}-{role}"
        self._closing.callback(remove, name)
        return Namespace(name)

    def _tap(self, namespace):
        descriptor = tap(namespace)
        self._closing.callback(os.close, descriptor)
        return descriptor

    def _power_on(self, taps):
        self.began = time.monotonic()
        self._qemu, self.master = power_on(command(self.arch, taps), taps)
        self._closing.callback(os.close, self.master)
        self.console = Console(self.master) if self._typed else None

    def wait(self):
        return self._qemu.wait()

    def close(self):
        """Cuts the power and takes everything away."""
        if self._qemu is not None and self._qemu.poll() is None:
            self._qemu.send_signal(signal.SIGKILL)
            self._qemu.wait()
        self._closing.close()
