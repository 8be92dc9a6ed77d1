"""Opens new TCP flows at a rate until killed: flood.py SOURCE DESTINATION SOURCE_MAC GATEWAY_MAC RATE, on eth0 of the namespace it runs in."""

import socket
import struct
import sys
import time

PORTS = 10000
FIRST_PORT = 65536 - PORTS


def folded(value):
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def frames(source, destination, source_mac, gateway_mac):
    """One SYN after another, no two of one flow."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    link = bytes.fromhex(gateway_mac.replace(":", "") + source_mac.replace(":", "")) + b"\x08\x00"
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + addresses
    header = header[:10] + struct.pack("!H", 0xFFFF ^ folded(sum(struct.unpack("!10H", header)))) + header[12:]
    base = sum(struct.unpack("!4H", addresses)) + 6 + 20 + 0x5002 + 64240
    n = 0
    while True:
        sport, dport = FIRST_PORT + n % PORTS, 1 + n // PORTS % 65535
        yield link + header + struct.pack("!HHIIHHHH", sport, dport, 0, 0, 0x5002, 64240, 0xFFFF ^ folded(base + sport + dport), 0)
        n += 1


def main(source, destination, source_mac, gateway_mac, rate):
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire.bind(("eth0", 0))
    made = frames(source, destination, source_mac, gateway_mac)
    print("flooding", flush=True)
    began, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * int(rate)) - sent
        for _ in range(min(due, 200)):
            wire.send(next(made))
        sent += max(due, 0)
        time.sleep(0.005)


main(*sys.argv[1:])
