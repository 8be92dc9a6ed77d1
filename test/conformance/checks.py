"""What must be right about every packet that was forwarded, whatever the case is about. All on bytes: scapy would repair what it shows."""

import socket
import struct

ICMP, TCP, UDP, DCCP, SCTP, UDPLITE = 1, 6, 17, 33, 132, 136
# Protocols whose header begins with source and destination port.
PORTED = (TCP, UDP, DCCP, SCTP, UDPLITE)
ICMP_QUERIES = (0, 8, 13, 14)
DF, MF, OFFSET = 0x4000, 0x2000, 0x1FFF


def total(data, start=0):
    """The ones' complement sum of RFC 1071, folded."""
    if len(data) % 2:
        data += b"\0"
    value = start + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def split(packet):
    """(header bytes, payload bytes) of an IPv4 packet without link padding."""
    raw = bytes(packet)
    size = (raw[0] & 15) * 4
    return raw[:size], raw[size : struct.unpack("!H", raw[2:4])[0]]


def checksum_faults(packet):
    """Words about each wrong checksum of a packet seen on a wire."""
    header, payload = split(packet)
    faults = [] if total(header) == 0xFFFF else ["IP header checksum wrong"]
    fragment = struct.unpack("!H", header[6:8])[0] & (MF | OFFSET)
    protocol = header[9]
    if fragment or protocol not in (ICMP, *PORTED) or len(payload) < 8:
        return faults
    if protocol == SCTP and crc32c(payload[:8] + bytes(4) + payload[12:]) != int.from_bytes(payload[8:12], "little"):
        faults.append("SCTP checksum wrong")
    pseudo = total(header[12:20] + struct.pack("!HH", protocol, len(payload)))
    if protocol == ICMP and total(payload) != 0xFFFF:
        faults.append("ICMP checksum wrong")
    if protocol == TCP and total(payload, pseudo) != 0xFFFF:
        faults.append("TCP checksum wrong")
    if protocol == UDP and payload[6:8] != b"\0\0" and total(payload, pseudo) != 0xFFFF:
        faults.append("UDP checksum wrong")
    if protocol in (DCCP, UDPLITE) and total(payload[: coverage(protocol, payload)], pseudo) != 0xFFFF:
        faults.append("DCCP checksum wrong" if protocol == DCCP else "UDP-Lite checksum wrong")
    return faults


def coverage(protocol, payload):
    """How many bytes of a DCCP or UDP-Lite packet its checksum covers (RFC 4340 section 9.2, RFC 3828 section 3.1)."""
    if protocol == UDPLITE:
        return struct.unpack("!H", payload[4:6])[0] or len(payload)
    words = payload[5] & 15
    return len(payload) if words == 0 else min(payload[4] * 4 + (words - 1) * 4, len(payload))


def crc32c(data):
    """RFC 9260 appendix A; on the wire it is little-endian."""
    value = 0xFFFFFFFF
    for byte in data:
        value = CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC32C = _crc32c_table()


def bare(packet, side, ttl):
    """The packet as (name, bytes) fields with everything blanked that NAT changes on this `side` (src, dst or both)."""
    header, payload = bytearray(split(packet)[0]), bytearray(split(packet)[1])
    fragment = struct.unpack("!H", header[6:8])[0]
    udp_zero = b""
    if fragment & (MF | OFFSET) or not fragment & DF:
        header[4:6] = b"\0\0"  # not atomic: RFC 6864 lets NAT choose another
    header[8] = ttl
    header[10:12] = b"\0\0"
    if side in ("src", "both"):
        header[12:16] = bytes(4)
    if side in ("dst", "both"):
        header[16:20] = bytes(4)
    if not fragment & OFFSET:
        protocol = header[9]
        if protocol in PORTED and len(payload) >= 8:
            if side in ("src", "both"):
                payload[0:2] = b"\0\0"
            if side in ("dst", "both"):
                payload[2:4] = b"\0\0"
        if protocol == UDP and len(payload) >= 8:
            udp_zero = bytes([payload[6:8] == b"\0\0"])
            payload[6:8] = b"\0\0"
        elif protocol == TCP and len(payload) >= 20:
            payload[16:18] = b"\0\0"
        elif protocol in (DCCP, UDPLITE) and len(payload) >= 8:
            payload[6:8] = b"\0\0"
        elif protocol == SCTP and len(payload) >= 12:
            payload[8:12] = bytes(4)
        elif protocol == ICMP and len(payload) >= 8:
            payload[2:4] = b"\0\0"
            if payload[0] in ICMP_QUERIES:
                payload[4:6] = b"\0\0"
            else:
                del payload[8:]  # the quote is rewritten: the row looks at it
    return {
        "version and IHL": header[0:1],
        "ToS/ECN": header[1:2],
        "IP-ID": header[4:6],
        "DF and fragment": header[6:8],
        "TTL": header[8:9],
        "protocol": header[9:10],
        "addresses": header[12:20],
        "IP options": header[20:],
        "UDP checksum 0": udp_zero,
        "transport header and payload": payload,
    }


def forward_faults(sent, got, side):
    """Words about each field that forwarding has changed and must not have; `sent` as on the wire, TTL less one."""
    faults = checksum_faults(got)
    before, after = bare(sent, side, 0), bare(got, side, 0)
    faults += [f"{name} changed from {bytes(before[name]).hex()} to {bytes(after[name]).hex()}" for name in before if before[name] != after[name]]
    if got.ttl != sent.ttl - 1:
        faults.append(f"TTL {got.ttl} after {sent.ttl}")
    return faults


def is_private(address):
    """RFC 1918."""
    value = struct.unpack("!I", socket.inet_aton(address))[0]
    return value >> 24 == 10 or value >> 20 == 0xAC1 or value >> 16 == 0xC0A8
