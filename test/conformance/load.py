"""The loads under which a starred row must come out the same (RFC 4787 REQ-11).

All load is between LOAD_HOST and LOAD_PEER, which the taps do not show, so that a row's function runs unchanged.

90     one host holds 90 % of the table with answered UDP sessions.
100    one host holds all of it: three quarters answered sessions, which nothing may end (RFC 6888 REQ-11d), and one quarter SYNs that
       nobody has answered, old enough to be given up. A row that opens flows can only come out the same if there is something to give
       up: with a table full of answered sessions, refusing is the right outcome, and rows C-11 and I-8 ask for that.
flood  5,000 SYN/s to ever new endpoints during the whole case, begun early enough for the table to be full of them.

After a row at 90 and 100 every answered session of the load must still be there.
"""

import pathlib
import socket
import time

from bed import GATEWAY, LAN_GATEWAY_MAC, PYTHON, lan_mac
from namespace import wait_until
from packets import tcp, udp
from rawbed import LOAD_HOST, LOAD_PEER
from wire import ETH_P_IP, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE, SOL_PACKET, attach_filter, word

PORT = 9
# Seconds after which an unanswered session may be given up for another host's (src/nat/admission.ts), and a second for the clock's step.
UNANSWERED_AGE = 3
FLOOD_RATE = 5000
BURST = 64


class Load:
    """One of the loads, started and stopped by the case."""

    def __init__(self, kind, share=1):
        """`share` of the flood's rate: less than all only after masqd could not have a processor for all of it (Case.starved)."""
        self.kind = kind
        self._share = share
        self.notes = []
        self._flood = None
        self._answered = 0
        self._bed = None

    def start(self, bed):
        self._bed = bed
        if self.kind == "flood":
            script = pathlib.Path(__file__).with_name("flood.py")
            self._flood = bed.lan.start(PYTHON, script, LOAD_HOST, LOAD_PEER, lan_mac(LOAD_HOST), LAN_GATEWAY_MAC, int(FLOOD_RATE * self._share))
            self._flood.expect("^flooding")
            time.sleep(UNANSWERED_AGE)
            wait_until(self._full, "that the flood has filled the table")
            return
        total = bed.status()["sessions"]["total"]
        filled = total * int(self.kind) // 100
        self._answered = filled if self.kind == "90" else total * 3 // 4
        fill_answered(bed, self._answered)
        if filled > self._answered:
            fill_unanswered(bed, filled - self._answered)
            time.sleep(UNANSWERED_AGE)
        used = bed.status()["sessions"]["used"]
        assert used == filled, f"the table could not be filled: {used} of {filled} sessions"

    def _full(self):
        sessions = self._bed.status()["sessions"]
        return sessions["used"] >= 0.99 * sessions["total"]

    def stop(self):
        """Ends the flood."""
        if self._flood is not None:
            self._flood.kill()
            self._flood = None

    def end(self):
        """Stops; words about each session that the load has lost and must not have."""
        flooding = self._flood is not None and self._flood.running()
        self.stop()
        if self.kind == "flood":
            return [] if flooding else ["the flood has ended by itself"]
        kept = sum(flow["internal"].startswith(f"{LOAD_HOST}:") and flow["packetsIn"] > 0 for flow in self._bed.flows())
        return [] if kept == self._answered else [f"{self._answered - kept} answered sessions of another host were ended"]


def fill_answered(bed, count):
    """Makes that many UDP sessions, each answered; their ports are the highest, away from those that rows use."""
    with listener(bed.wan, LOAD_PEER) as asked, listener(bed.lan, LOAD_HOST) as answered:
        out, back = udp(LOAD_HOST, 1, LOAD_PEER, PORT), udp(LOAD_PEER, PORT, GATEWAY, 1)
        ask, reply = bytearray(bed.lan_wire.frame(out)), bytearray(bed.wan_wire.frame(back))
        for frame in (ask, reply):
            frame[40:42] = b"\0\0"  # no UDP checksum: only the port changes
        for first in range(0, count, BURST):
            burst = range(first, min(first + BURST, count))
            for n in burst:
                ask[34:36] = (65535 - n).to_bytes(2, "big")
                bed.lan_wire.send_bytes(ask)
            for _ in burst:
                reply[36:38] = asked.recv(128)[34:36]
                bed.wan_wire.send_bytes(reply)
            for _ in burst:
                answered.recv(128)


def listener(host, address):
    """A packet socket that gets what comes for an address on a wire."""
    made = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    attach_filter(made, [(0x20, 0, 0, 30), (0x15, 0, 1, word(address)), (0x06, 0, 0, 128), (0x06, 0, 0, 0)])
    made.bind(("eth0", ETH_P_IP))
    return made


def fill_unanswered(bed, count):
    """Makes that many TCP sessions of a SYN each; there is no answer."""
    before = bed.status()["sessions"]["used"]
    frame = bytearray(bed.lan_wire.frame(tcp(LOAD_HOST, 65535, LOAD_PEER, PORT)))
    both = int.from_bytes(frame[34:36], "big") + int.from_bytes(frame[50:52], "big")
    for n in range(count):
        # One port less in the sum is one more in its complement.
        port, rest = 65535 - n, both - 65535 + n
        rest = (rest & 0xFFFF) + (rest >> 16)
        frame[34:36], frame[50:52] = port.to_bytes(2, "big"), rest.to_bytes(2, "big")
        bed.lan_wire.send_bytes(frame)
    wait_until(lambda: bed.status()["sessions"]["used"] >= before + count, f"{count} more sessions")
