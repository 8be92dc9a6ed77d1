"""Raw frames on a host's device: no stack answers, every byte is the test's own."""

import ctypes
import socket
import struct
import time

from namespace import GUARD, Stuck

SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
ETH_P_IP = 0x0800

SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33


def attach_filter(sock, instructions):
    """Attaches a classic BPF program given as (code, jt, jf, k) tuples."""
    words = b"".join(struct.pack("HBBI", *one) for one in instructions)
    held = ctypes.create_string_buffer(words, len(words))
    program = struct.pack("HL", len(instructions), ctypes.addressof(held))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def word(address):
    """A dotted address as a number."""
    return struct.unpack("!I", socket.inet_aton(address))[0]


class LeakSniffer:
    """Counts IPv4 packets that arrive on a device with any source but the allowed ones.

    The kernel's filter does the comparing, so nothing is missed under load; only offenders are received.
    """

    def __init__(self, host, device, allowed):
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.allow(allowed)
        self._socket.bind((device, ETH_P_IP))

    def allow(self, addresses):
        load, equal, give = 0x20, 0x15, 0x06
        program = [(load, 0, 0, 12)]
        for index, address in enumerate(addresses):
            program.append((equal, len(addresses) - index, 0, word(address)))
        attach_filter(self._socket, [*program, (give, 0, 0, 128), (give, 0, 0, 0)])

    def offenders(self):
        """[source, destination, protocol] of every offending packet so far."""
        found = []
        self._socket.setblocking(False)
        while True:
            try:
                packet = self._socket.recv(128)
            except (BlockingIOError, OSError):
                return found
            found.append((socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), packet[9]))

    def close(self):
        self._socket.close()


class Wire:
    """An AF_PACKET socket on a device: sends scapy packets, receives what comes in from the other end."""

    def __init__(self, host, device, gateway_mac, mac_of, headerless=False):
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._socket.bind((device, ETH_P_ALL))
        self._gateway_mac = gateway_mac
        self._mac_of = mac_of
        self._headerless = headerless

    def frame(self, packet, source_mac=None):
        """The bytes of an IP packet on this wire; the source MAC is the one of its source address."""
        from scapy.layers.l2 import Ether

        if self._headerless or isinstance(packet, Ether):
            return bytes(packet)
        return bytes(Ether(src=source_mac or self._mac_of(packet.src), dst=self._gateway_mac) / packet)

    def send(self, packet, source_mac=None):
        """Sends an IP packet to the gateway, or an Ether frame as it is."""
        self.send_bytes(self.frame(packet, source_mac))

    def send_bytes(self, frame):
        self._socket.settimeout(GUARD)
        self._socket.send(frame)

    def arrived(self):
        """Every IPv4 packet (scapy) that is waiting; never blocks."""
        packets = []
        while True:
            packet = self._receive(0)
            if packet is None:
                return packets
            packets.append(packet)

    def _receive(self, seconds):
        from scapy.layers.inet import IP
        from scapy.layers.l2 import Ether

        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            self._socket.settimeout(max(left, 0))
            try:
                frame = self._socket.recv(65600)
            except (BlockingIOError, TimeoutError):
                return None
            if self._headerless:
                if frame[:1] and frame[0] >> 4 == 4:
                    return IP(frame)
            elif frame[12:14] == b"\x08\x00":
                return Ether(frame)[IP]

    def expect(self, wanted, what="packet", unwanted=None):
        """The next packet for which `wanted(packet)`; fails at once on one for which `unwanted(packet)`."""
        passed = []
        end = time.monotonic() + GUARD
        while True:
            packet = self._receive(max(end - time.monotonic(), 0))
            if packet is None:
                raise Stuck(f"no {what}; passed by: {passed[:20]}")
            if unwanted and unwanted(packet):
                raise AssertionError(f"unwanted packet: {packet.summary()}")
            if wanted(packet):
                return packet
            passed.append(packet.summary())

    def close(self):
        self._socket.close()
