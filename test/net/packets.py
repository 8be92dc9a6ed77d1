"""Packets as tests write them, and what must be right about every packet that masqd sends."""

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

conf.verb = 0


def udp(source, sport, destination, dport, data=b"x", **fields):
    """A UDP packet; `fields` go to the IP header."""
    return IP(src=source, dst=destination, **fields) / UDP(sport=sport, dport=dport) / Raw(data)


def tcp(source, sport, destination, dport, flags="S", seq=1000, ack=0, data=b"", **fields):
    """A TCP segment of one who has room for what comes; `fields` go to the IP header."""
    return IP(src=source, dst=destination, **fields) / TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, window=65535) / Raw(data)


def echo(source, destination, identifier=1, sequence=1, data=b"ping", **fields):
    """An ICMP echo request."""
    return IP(src=source, dst=destination, **fields) / ICMP(id=identifier, seq=sequence) / Raw(data)


def is_udp(dport=None, data=None):
    """A predicate for Wire.expect."""
    return lambda p: UDP in p and dport in (None, p[UDP].dport) and data in (None, bytes(p[UDP].payload))


def is_echo_reply(sequence):
    return lambda p: ICMP in p and p[ICMP].type == 0 and p[ICMP].seq == sequence


def assert_checksums(packet):
    """Header and transport checksums are those that a sender would have computed (UDP 0 stays 0)."""
    fresh = packet.copy()
    del fresh[IP].chksum
    for layer in (TCP, UDP, ICMP):
        if layer in fresh and not (layer is UDP and packet[UDP].chksum == 0):
            del fresh[layer].chksum
    assert bytes(fresh) == bytes(packet), f"wrong checksum: {packet.show(dump=True)}"
