"""The same household with a whole machine as its router.

    h1 .10 -- eth0 \\                                                    / wan .254, DHCP server
    h2 .20 -- eth1 -- [ br-lan 192.168.1.1  router  br-guest .5.1 | eth3 ] -- wan
    g1 .5.10 -- eth2 ------------------------------------------- /

qemu's x86_64, Debian's kernel, four virtio cards, and a disk in place of flash: what is written there outlives a reboot, which is the kernel's own,
and what a power cut leaves of it is the file system's to mend.
"""

import contextlib
import os
import shutil

from house import FIRST_LEASE, G1, H1, H2, NETWORK, SERVER, House
from machine import Console, command, power_on, tap
from namespace import Namespace, remove, run, temporary_folder

CARDS = {"lan1": "eth0", "lan2": "eth1", "guest1": "eth2", "eth1": "eth3"}


def renamed(text):
    """A configuration of the house with the machine's names of its cards."""
    return "".join(f"'{CARDS[word]}'" if at % 2 and word in CARDS else f"'{word}'" if at % 2 else word for at, word in enumerate(text.split("'")))


class MachineHouse(House):
    """The router and its hosts. It is off until `boot`; `files` are on its flash then, by path."""

    def __init__(self, files, offer=True):
        self._closing = contextlib.ExitStack()
        self._machine = self._dhcp = self.console = None
        prefix = f"mq{os.getpid()}-m"
        try:
            self.folder = temporary_folder(prefix)
            self._closing.callback(shutil.rmtree, self.folder, ignore_errors=True)
            names = [f"{prefix}-{role}" for role in ("h1", "h2", "g1", "wan")]
            for name in names:
                self._closing.callback(remove, name)
            self.h1, self.h2, self.g1, self.wan = map(Namespace, names)
            self._taps = [tap(namespace) for namespace in (self.h1, self.h2, self.g1, self.wan)]
            for descriptor in self._taps:
                self._closing.callback(os.close, descriptor)
            for namespace, address, gateway in (self.h1, H1, "192.168.1.1"), (self.h2, H2, "192.168.1.1"), (self.g1, G1, "192.168.5.1"):
                namespace.ip(f"addr add {address}/24 dev eth0", "link set eth0 up", f"route add default via {gateway}")
            self.wan.ip("link set lo up", f"addr add {SERVER}/24 dev eth0", "link set eth0 up")
            self._flash = self._format({"/etc/config/network": renamed(NETWORK), **files})
            if offer:
                self.offer(FIRST_LEASE)
        except BaseException:
            self.close()
            raise

    def _format(self, files):
        """A flash with these files over the firmware's: text, or the path of a file out here."""
        (self.folder / "work").mkdir()
        for path, content in files.items():
            target = self.folder / "flash.d/upper" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                target.write_text(content)
            else:
                shutil.copy(content, target)
        (self.folder / "flash.d/work").mkdir()
        run("mke2fs", "-q", "-t", "ext4", "-d", self.folder / "flash.d", self.folder / "flash", "32M")
        return self.folder / "flash"

    def boot(self):
        disk = ["-drive", f"file={self._flash},format=raw,if=none,id=flash", "-device", "virtio-blk-pci,drive=flash,addr=14"]
        self._machine, master = power_on(command("x86_64", self._taps, *disk), self._taps)
        self._closing.callback(os.close, master)
        self.console = Console(master)
        self.console.log_in()
        return self

    def reboot(self):
        """As its owner does it, from the command to the next prompt."""
        self.console.type("reboot\n")
        self.console.log_in()

    def power_off(self):
        """Cuts the power."""
        if self._machine is not None:
            self._machine.kill()
            self._machine.wait()
        self._machine = None

    def run(self, command, status=0):
        return self.console.run(command, status)

    def close(self):
        with contextlib.suppress(Exception):
            self.withdraw()
        self.power_off()
        self._closing.close()
