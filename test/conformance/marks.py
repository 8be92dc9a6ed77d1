"""Markers: frames that go the way of a case's own frames, after them, and whose end can be seen. When a marker has come through, whatever was sent
before it has been dealt with; so nothing needs to be waited for by the clock.

masqd drops its markers, which make no state: they come from an address that is not the LAN's, and on the WAN from one that can not be a host's.
`drops` of the control socket lists them. Where the kernel alone is at work (the baseline, or masqd is dead) they are pings to the router.
The taps show none of it (rawbed.py).
"""

import ipaddress
import json
import select
import socket
import time

import namespace
from bed import LAN_GATEWAY, lan_mac, wan_mac
from packets import echo, udp
from wire import ETH_P_IP, PACKET_IGNORE_OUTGOING, SOL_PACKET, attach_filter, word

# Hosts that the router knows and that no row uses: they ping.
MARK_HOST, MARK_PEER = "192.168.1.80", "203.0.113.80"
# Sources of what masqd drops: nobody's on the LAN, nobody's anywhere.
STRANGERS, MARTIANS = ipaddress.ip_network("198.18.0.0/16"), ipaddress.ip_network("127.9.0.0/16")
# A port of every range that rows configure.
PORT = 40000
# Seconds after which markers are sent once more: a full queue may have lost them, and while an address changes nobody takes them.
AGAIN = 0.5


class Marks:
    """The markers of one bed."""

    def __init__(self, bed):
        self._bed = bed
        self._serial = 0

    def settle(self, guard=None):
        """Waits until what was sent so far, from either side, has been dealt with; the monotonic time at which it is known to have been."""
        end = time.monotonic() + (guard or namespace.GUARD)
        bed = self._bed
        # Without an address of the WAN's there is no way out, and the kernel asks nothing.
        asks = bed.driver != "kernel" or bed.wan_address
        if bed.baseline or bed.daemon is None or not bed.daemon.running() or not asks:
            self._pings(end)
        else:
            self._drops(end)
        return time.monotonic()

    def _drops(self, end):
        bed = self._bed
        self._serial = (self._serial + 4) % 0xFFF0
        marks = {}
        for n, ttl in enumerate((64, 1) if bed.driver == "tun" else (64,)):
            # With the tun driver what has its last hop goes another way than the rest.
            source = str(STRANGERS[self._serial + n])
            marks[source] = bed.lan_wire, bed.lan_wire.frame(udp(source, PORT, MARK_PEER, 9, ttl=ttl), lan_mac(MARK_HOST))
        if bed.wan_address:
            source = str(MARTIANS[self._serial])
            marks[source] = bed.wan_wire, bed.wan_wire.frame(udp(source, 9, bed.wan_address, PORT), wan_mac(MARK_PEER))
        sent = 0
        while marks:
            now = time.monotonic()
            if now > end:
                raise namespace.Stuck(f"masqd has not dealt with markers from {', '.join(marks)}")
            if now - sent > AGAIN:
                sent = now
                for wire, frame in marks.values():
                    wire.send_bytes(frame)
            else:
                time.sleep(0.005)
            for row in bed.ask("drops"):
                marks.pop(row["source"].split(":")[0], None)
                if not marks:
                    break

    def _pings(self, end):
        bed = self._bed
        self._serial = (self._serial + 1) % 0xFFF0
        sides = [(bed.lan, bed.lan_wire, MARK_HOST, LAN_GATEWAY)]
        if bed.wan_address:
            sides.append((bed.wan, bed.wan_wire, MARK_PEER, bed.wan_address))
        for host, wire, source, target in sides:
            frame = wire.frame(echo(source, target, 9, self._serial))
            with listener(host, source) as answers:
                while True:
                    wire.send_bytes(frame)
                    if self._answered(answers):
                        break
                    if time.monotonic() > end:
                        raise namespace.Stuck(f"the router does not answer pings of {source}")

    def _answered(self, answers):
        end = time.monotonic() + AGAIN
        while select.select([answers], [], [], max(end - time.monotonic(), 0))[0]:
            if answers.recv(128)[40:42] == self._serial.to_bytes(2, "big"):
                return True
        return False


def listener(host, address):
    """A packet socket that gets what comes for an address on a wire."""
    made = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    attach_filter(made, [(0x20, 0, 0, 30), (0x15, 0, 1, word(address)), (0x06, 0, 0, 128), (0x06, 0, 0, 0)])
    made.bind(("eth0", ETH_P_IP))
    return made


def ask(path, command, **fields):
    """Asks the control socket; a generator of the rows of the answer, whose value is its data."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(namespace.GUARD)
        control.connect(str(path))
        control.sendall(json.dumps({"v": 1, "command": command, **fields}).encode() + b"\n")
        with control.makefile("rb") as lines:
            for line in lines:
                reply = json.loads(line)
                if "error" in reply:
                    raise AssertionError(f"masqd answers to {command}: {reply['error']}")
                if "data" in reply:
                    return reply["data"]
                yield from reply["rows"]
    raise AssertionError(f"masqd has not answered to {command}")
