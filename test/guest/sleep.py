"""What hours of idle sessions cost: how often the daemon wakes, and the instructions that it runs for them.

The guest's clock leaps over what nobody does, so two hours with thousands of connections that say nothing take as long as the daemon
makes them. A turn a second would be WAKINGS = 1.

    sleep.py [DRIVER[+offload]...]
"""

import pathlib
import re
import socket
import struct
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "test" / "conformance"), str(ROOT / "test" / "net")]

import namespace  # noqa: E402

# The clock leaps while files are read from the machine around.
namespace.GUARD = 1000.0

from bed import GATEWAY, GATEWAY_MAC, H1, LAN_GATEWAY_MAC, S1, lan_mac, wan_mac  # noqa: E402
from case import Case  # noqa: E402
from guest import Results  # noqa: E402
from namespace import wait_until  # noqa: E402
from rawbed import RawBed  # noqa: E402

SESSIONS = 4096
FIRST_PORT = 40000
SYN, ACK, SYN_ACK = 0x02, 0x10, 0x12
# Of the RFC: established connections live so long without a segment, and then in passing.
ESTABLISHED, TRANSITORY = 7440, 240
# Wakings a second, and those that are nobody's: the kernel's news while the sessions are opened.
WAKINGS, SPARE = 0.05, 10
# Milliards of instructions in all that time, a million a waking.
INSTRUCTIONS = 0.35
# Sessions may go so much later than their time, if no packet asks for them.
LATE = 40
BATCH = 32


def mac(text):
    return bytes(int(part, 16) for part in text.split(":"))


def total(data):
    words = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return words ^ 0xFFFF


def segment(source, sport, target, dport, flags):
    """A TCP segment as a frame's content."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    body = struct.pack("!HHIIBBHHH", sport, dport, 1000 if flags & SYN else 1001, 1001 if flags & ACK else 0, 0x50, flags, 8192, 0, 0)
    body = body[:16] + struct.pack("!H", total(addresses + struct.pack("!HH", 6, len(body)) + body)) + body[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, 6, 0) + addresses
    return header[:10] + struct.pack("!H", total(header)) + header[12:] + body


class Wires:
    """Both sides of the router, as what sends to it."""

    def __init__(self, bed):
        self.bed = bed
        self.sides = []
        for host, router, own in ((bed.lan, LAN_GATEWAY_MAC, lan_mac(H1)), (bed.wan, GATEWAY_MAC, wan_mac(S1))):
            one = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            one.bind(("eth0", 0x0800))
            self.sides.append((one, mac(router) + mac(own) + b"\x08\x00"))

    def send(self, side, segments):
        wire, header = self.sides[side]
        for n, one in enumerate(segments):
            wire.send(header + one)
            if n % BATCH == BATCH - 1:
                time.sleep(0.01)


def states(b):
    """Number of sessions by state."""
    found = {}
    for one in b.bed.flows():
        found[one["state"]] = found.get(one["state"], 0) + 1
    return found


def spent(pid):
    """How often a process has waited, and its milliards of instructions."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    ran = int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)[1]), ran / 1e9


def idle(b, results, name):
    wires = Wires(b.bed)
    ports = range(FIRST_PORT, FIRST_PORT + SESSIONS)
    wires.send(0, [segment(H1, port, S1, 80, SYN) for port in ports])
    wires.send(1, [segment(S1, 80, GATEWAY, port, SYN_ACK) for port in ports])
    wires.send(0, [segment(H1, port, S1, 80, ACK) for port in ports])
    wait_until(lambda: states(b) == {"established": SESSIONS}, "the connections")
    began = time.monotonic()
    time.sleep(5)
    waits, ran = spent(b.bed.daemon.pid)
    time.sleep(ESTABLISHED - 60)
    waits_after, ran_after = spent(b.bed.daemon.pid)
    elapsed = time.monotonic() - began
    woken, instructions = waits_after - waits, ran_after - ran
    results.row(woken <= WAKINGS * elapsed + SPARE, f"{name:<14} {SESSIONS} idle sessions: {woken / elapsed:.4f} wakings a second")
    results.row(instructions <= INSTRUCTIONS, f"{name:<14} {elapsed:.0f} s: {instructions:.3f} milliards of instructions")
    wires.send(0, [segment(H1, FIRST_PORT, S1, 80, ACK)])
    time.sleep(1)
    results.row(states(b) == {"established": SESSIONS}, f"{name:<14} all are there {elapsed:.0f} s later")
    if b.driver == "kernel":
        # Its entries are ended by the kernel, in its own time.
        return
    time.sleep(ESTABLISHED + TRANSITORY + LATE - (time.monotonic() - began))
    left = b.bed.flows()
    results.row(len(left) == 1, f"{name:<14} {len(left)} left when the time of all but one is up")


def main(names):
    results = Results()
    for name in names:
        driver, _, offload = name.partition("+")
        bed = RawBed(driver, False)
        try:
            b = Case(bed, offload="on" if offload else "off")
            b.config({"sessions": "8192"})
            idle(b, results, name)
        finally:
            bed.close()
    results.end()


if __name__ == "__main__":
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    main(sys.argv[1:] or ["packet", "tun", "packet+offload", "tun+offload", "kernel"])
