"""RFC 1812, RFC 6864 and security."""

import struct

from bed import H1, H2, S1
from case import G, X, answer, error_faults, fragments, is_error, source, target
from checks import checksum_faults, split
from packets import tcp, udp
from registry import row
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw


@row("R-1")
def time_to_live(b):
    """It ends here: told to the sender in the sender's own terms, on either side; 2 goes through as 1."""
    assert b.out(udp(H1, 40000, S1, 3478, ttl=2)).ttl == 1
    b.send_lan(udp(H1, 40000, S1, 3478, ttl=1))
    got = b.see_lan(is_error(11, 0), "time exceeded on the LAN")
    assert got.src == G and got.dst == H1
    faults = error_faults(got, (H1, 40000), (S1, 3478))
    assert not faults, faults
    b.none_wan()
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.send_wan(udp(S1, 3478, *mapped, ttl=1))
    got = b.see_wan(is_error(11, 0), "time exceeded on the WAN")
    assert got.src == X and got.dst == S1
    faults = error_faults(got, (S1, 3478), mapped)
    assert not faults, faults
    b.none_lan()


@row("ID-1")
def unique_identification(b):
    """Two hosts' fragmented datagrams with one ID to one destination, interleaved: they must not be mixed up behind us."""
    data = {H1: b"1" * 2000, H2: b"2" * 2000}
    parts = {host: fragments(udp(host, 40000, S1, 3478, data[host], id=5555)) for host in data}
    for n in (0, 1):
        for host in (H1, H2):
            b.send_lan(parts[host][n])
    seen = {}
    for _ in range(4):
        got = b.see_wan(lambda p: p.dst == S1 and p.proto == 17, "fragment on the WAN")
        seen.setdefault(got.id, {})[got.frag] = got
    assert len(seen) == 2, f"{len(seen)} IP-IDs for two datagrams"
    ports = set()
    for pieces in seen.values():
        assert sorted(pieces) == [0, 175], f"fragments at {sorted(pieces)}"
        whole = split(pieces[0])[1] + split(pieces[175])[1]
        assert whole[8:] in (data[H1], data[H2]), "a datagram does not reassemble"
        again = IP(src=pieces[0].src, dst=S1, proto=17) / Raw(whole)
        assert not checksum_faults(IP(bytes(again))), "the reassembled datagram's checksum is wrong"
        ports.add(struct.unpack("!H", whole[:2])[0])
    assert len(ports) == 2


# Sequence number of the segments whose checksum is wrong before they come to us.
DAMAGED = 0x12345678


def leak_set(b):
    """The packets that plain masquerade lets out with their private source: (name, packet), each with no session, or not fitting its own."""
    c = b.connect(H1, 50000, S1, 80)
    out_of_window = c.segment_out("A")
    out_of_window[TCP].seq = (c.mine + 0x40000000) & 0xFFFFFFFF
    out_of_window[TCP].ack = (c.theirs + 0x40000000) & 0xFFFFFFFF
    reset = c.segment_out("R")
    reset[TCP].seq = (c.mine + 0x40000000) & 0xFFFFFFFF
    bad_sum = IP(src=H1, dst=S1) / TCP(sport=50104, dport=80, flags="S", chksum=0x1234, seq=DAMAGED)
    bad_length = IP(src=H1, dst=S1) / UDP(sport=50107, dport=80, len=200) / b"short"
    short = IP(src=H1, dst=S1, proto=6) / Raw(bytes(TCP(sport=50108, dport=80, flags="S", seq=DAMAGED))[:12])
    return [
        ("out-of-window ACK", out_of_window),
        ("out-of-window RST", reset),
        ("stray RST", tcp(H1, 50101, S1, 80, "R")),
        ("stray FIN+ACK", tcp(H1, 50102, S1, 80, "FA", ack=7)),
        ("stray SYN+ACK", tcp(H1, 50103, S1, 80, "SA", ack=7)),
        ("ICMP error without state", IP(src=H1, dst=S1) / ICMP(type=3, code=3) / bytes(IP(src=S1, dst=H1) / UDP(sport=9, dport=50100) / b"x")),
        ("SYN with a bad checksum", bad_sum),
        ("XMAS flags", tcp(H1, 50105, S1, 80, "FPU")),
        ("no flags", tcp(H1, 50106, S1, 80, "")),
        ("wrong UDP length", bad_length),
        ("TCP shorter than its header", short),
        ("data offset below 5", IP(src=H1, dst=S1) / TCP(sport=50109, dport=80, flags="S", dataofs=4)),
    ]


@row("F-1", bed={"external": (X, "203.0.113.2")})
def fail_closed(b):
    """The leak set: whatever comes of each, none leaves with a private source; what fits a session may leave translated. Then a live
    flow and a stray segment while masqd is dead, starts again, and gets another address. Each frame on the WAN is looked at."""
    b.excuse(lambda p: DAMAGED.to_bytes(4, "big") in bytes(p))
    for _name, packet in leak_set(b):
        b.send_lan(packet)
    b.none_wan(but=lambda p: p.src == X)
    assert target(b.inn(answer(b.out(udp(H1, 40000, S1, 3478))))) == (H1, 40000), "no longer at work"
    if b.load or b.baseline:
        return

    def go_on():
        b.send_lan(udp(H1, 40000, S1, 3478))
        b.send_lan(tcp(H1, 50101, S1, 80, "R"))

    b.bed.crash()
    go_on()
    b.none_wan()
    b.bed.recover()
    go_on()
    b.bed.address(2)
    for _ in range(20):
        go_on()
        b.none_wan(0.05, but=lambda p: p.src in (X, "203.0.113.2"))
    assert b.out(udp(H1, 40001, S1, 3478)).src == "203.0.113.2"
