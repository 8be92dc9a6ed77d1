"""RFC 1812, RFC 6864 and security."""

import pathlib
import random
import struct
import time

from bed import GATEWAY_MAC, H1, H2, H3, LAN_GATEWAY_MAC, PYTHON, S1, S2, S3, R, lan_mac, wan_mac
from case import G, TooSlow, X, answer, error, error_faults, fragments, is_error, parse, source, target
from checks import checksum_faults, split, total
from namespace import wait_until
from packets import echo, tcp, udp
from rawbed import LOAD_PEER
from registry import row
from rows_udp import NARROW, too_big_is_split
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

BROADCAST_MAC, MULTICAST_MAC = "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:05"
# A peer that is not on the WAN's link.
OFF_LINK = "198.51.100.7"


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


@row("R-2")
def last_hop_is_ours(b):
    """A ping to the router with its last hop, from outside, from inside, and from inside to the outside address."""
    for ask, send, see, what in (
        (echo(S1, X, 5, ttl=1), b.send_wan, b.see_wan, "from outside"),
        (echo(H1, G, 6, ttl=1), b.send_lan, b.see_lan, "from inside"),
        (echo(H1, X, 7, ttl=1), b.send_lan, b.see_lan, "from inside to the outside address"),
    ):
        send(ask)
        got = see(lambda p: ICMP in p, f"answer to a ping {what}")
        assert got[ICMP].type == 0 and (got.src, got.dst, got[ICMP].id) == (ask.dst, ask.src, ask[ICMP].id), f"{what}: {got.summary()}"


@row("R-3")
def errors_quote_enough(b):
    """About 1,200 bytes: an error of 576, on either side; about fewer: all of them."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    for size, wanted in ((1172, 576), (100, 28 + 128)):
        there = parse(udp(H1, 40000, S1, 3478, b"q" * size, ttl=1))
        b.send_lan(there)
        got = b.see_lan(is_error(11, 0), "time exceeded on the LAN")
        assert got.len == wanted, f"{got.len} bytes on the LAN about {there.len}, wanted {wanted}"
        quote = split(got)[1][8:]
        assert quote[12:] == bytes(there)[12 : len(quote)], "the quote is not what was sent"
        b.send_wan(udp(S1, 3478, *mapped, b"q" * size, ttl=1))
        got = b.see_wan(is_error(11, 0), "time exceeded on the WAN")
        assert got.len == wanted, f"{got.len} bytes on the WAN about {there.len}, wanted {wanted}"


@row("R-4")
def errors_come_from_their_interface(b):
    """Source is the address of the interface they leave by, and their own time to live is a fresh one."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.send_lan(udp(H1, 40000, OFF_LINK, 3478, ttl=1))
    b.send_wan(udp(S1, 3478, *mapped, ttl=1))
    for see, address, to in ((b.see_lan, G, H1), (b.see_wan, X, S1)):
        got = see(is_error(11, 0), f"time exceeded from {address}")
        assert (got.src, got.dst, got.ttl) == (address, to, 64), f"{got.summary()} TTL {got.ttl}"


@row("R-5", fresh=True)
def unreachable(b):
    """No route: 3/0. A next hop that does not answer ARP: 3/1. Both to the host, about the packet as it had sent it; then it works again."""

    def told(packet, code):
        b.send_lan(packet)
        # The kernel gives a next hop up after some seconds.
        got = b.see_lan(is_error(), f"error 3/{code} on the LAN", delayed=True)
        assert got.dst == H1, got.summary()
        faults = error_faults(got, (H1, packet[UDP].sport), (packet.dst, 3478), 3, code)
        assert not faults, faults
        b.none_wan(0.2)

    def known(verdict):
        """Waits until masqd has heard the kernel's news, so that it would do that with a packet."""
        if b.baseline:
            return

        def says():
            answer = b.bed.data("why", protocol="udp", source=f"{H1}:40009", destination=f"{OFF_LINK}:3478")
            return verdict in (answer["verdict"], answer["reason"])

        wait_until(says, f"that a packet is {verdict}")

    b.out(udp(H1, 40000, OFF_LINK, 3478))
    b.bed.router.ip("route del default")
    known("no-route")
    told(udp(H1, 40001, OFF_LINK, 3478), 0)
    told(udp(H1, 40000, OFF_LINK, 3478), 0)
    b.bed.router.ip(f"route add default via {R}", f"neigh del {R} dev wan0")
    if b.driver != "kernel":  # which finds the next hop itself
        known("waits")
    told(udp(H1, 40002, OFF_LINK, 3478), 1)
    told(udp(H1, 40000, OFF_LINK, 3478), 1)
    # On the link: the destination itself is the next hop.
    told(udp(H1, 40003, "203.0.113.99", 3478), 1)
    b.bed.router.ip(f"neigh replace {R} lladdr {wan_mac(R)} dev wan0 nud permanent")
    known("forwarded")
    b.out(udp(H1, 40004, OFF_LINK, 3478))


@row("R-6")
def no_errors_where_none_are_due(b):
    """Packets whose time to live ends here, each of a kind that nothing may be said about (RFC 1812 section 4.3.2.7)."""
    first = b.out(udp(H1, 40000, S1, 3478))
    mapped = source(first)
    got = b.inn(answer(first))
    dying = dict(ttl=1)
    damaged = parse(udp(H1, 40000, S1, 3478, **dying))
    damaged.chksum ^= 0x0100
    from_lan = [
        error(H1, got, 3, 3, **dying),
        error(H1, got, 11, 0, **dying),
        damaged,
        udp(H1, 40000, "255.255.255.255", 3478, **dying),
        udp(H1, 40000, "192.168.1.255", 3478, **dying),
        udp(H1, 40000, "224.0.0.5", 3478, **dying),
        udp(H1, 40000, "239.1.2.3", 3478, **dying),
        Ether(src=lan_mac(H1), dst=MULTICAST_MAC) / udp(H1, 40000, "224.0.0.5", 3478, **dying),
        Ether(src=lan_mac(H1), dst=BROADCAST_MAC) / udp(H1, 40000, S1, 3478, **dying),
        Ether(src=lan_mac(H1), dst=MULTICAST_MAC) / udp(H1, 40000, S1, 3478, **dying),
        *(udp(bad, 40000, S1, 3478, **dying) for bad in ("0.0.0.0", "0.0.0.9", "127.0.0.1", "224.0.0.9", "255.255.255.255", "192.168.1.255")),
        fragments(udp(H1, 40000, S1, 3478, b"f" * 2000, id=1, **dying))[1],
    ]
    damaged = parse(udp(S1, 3478, *mapped, **dying))
    damaged.chksum ^= 0x0100
    from_wan = [
        error(R, first, 3, 1, **dying),
        error(R, first, 11, 0, **dying),
        damaged,
        udp(S1, 3478, "255.255.255.255", mapped[1], **dying),
        udp(S1, 3478, "203.0.113.255", mapped[1], **dying),
        udp(S1, 3478, "224.0.0.5", mapped[1], **dying),
        Ether(src=wan_mac(S1), dst=BROADCAST_MAC) / udp(S1, 3478, *mapped, **dying),
        Ether(src=wan_mac(S1), dst=MULTICAST_MAC) / udp(S1, 3478, *mapped, **dying),
        *(udp(bad, 3478, *mapped, **dying) for bad in ("0.0.0.0", "127.0.0.1", "224.0.0.9", "255.255.255.255")),
        fragments(udp(S1, 3478, *mapped, b"f" * 2000, id=2, **dying))[1],
    ]
    for packets, send, mac in ((from_lan, b.send_lan, lan_mac(H1)), (from_wan, b.send_wan, wan_mac(S1))):
        for packet in packets:
            send(packet, source_mac=mac)
    b.none(1.5)
    b.send_lan(udp(H1, 40000, S1, 3478, ttl=1))
    b.see_lan(is_error(11, 0), "the error about a common packet")


def dying_frames(host, count, first=0):
    """Bytes of UDP frames of a LAN host whose time to live ends at the router, each to another port, as traceroute sends them."""
    link = Ether(src=lan_mac(host), dst=LAN_GATEWAY_MAC)
    return [bytes(link / udp(host, 50000, S1, 33434 + first + n, ttl=1)) for n in range(count)]


def answered(b, host, frames, over):
    """Sends frames evenly over some seconds; how many errors their host gets, and seconds in which masqd may have dealt with them."""
    b.forget()
    began = time.monotonic()
    for n, frame in enumerate(frames):
        while time.monotonic() - began < over * n / len(frames):
            b.bed.lan_wire.poll(0.001)
        b.bed.lan_wire.send_bytes(frame)
    took = b.settle() - began
    b.none(1.0, but=is_error(11, 0))
    return sum(p.dst == host and ICMP in p for _at, p in b.bed.lan_wire.seen), took


@row("R-7")
def error_rate(b):
    """1,000 packets with their last hop in a second: few errors. 20 in 0.4 s, as traceroute sends: all 20. And the rate can be set."""
    clean, _ = answered(b, H2, dying_frames(H2, 20), 0.4)
    assert clean == 20, f"{clean} of 20 errors for traceroute"
    usual, took = answered(b, H1, dying_frames(H1, 1000), 1.0)
    if took > 2:
        raise TooSlow(f"1,000 packets have taken {took:.1f} s")
    assert 1 <= usual <= 200, f"{usual} errors about 1,000 packets in a second"
    # The flood of one host is not the other's.
    clean, _ = answered(b, H3, dying_frames(H3, 20), 0.4)
    assert clean == 20, f"{clean} of 20 errors for traceroute after the flood of another host"
    if b.baseline:
        b.bed.router.sysctl("net/ipv4/icmp_ratelimit", 10000)
    b.config(main={"icmp_rate": "2"})
    less, took = answered(b, H1, dying_frames(H1, 1000), 1.0)
    if b.baseline:
        b.bed.router.sysctl("net/ipv4/icmp_ratelimit", 1000)
    if took > 2:
        raise TooSlow(f"1,000 packets have taken {took:.1f} s")
    assert less < usual / 2, f"{less} errors with a tenth of the rate, {usual} before"
    return f"{usual} errors about 1,000 packets in a second"


def malformed(packet):
    """(drop reason, bytes) of an IPv4 packet that has been damaged in each way of RFC 1812 section 5.2.2."""
    good = bytes(parse(packet))

    def changed(at, value, sum_again=True):
        raw = bytearray(good)
        raw[at : at + len(value)] = value
        if sum_again:
            size = max((raw[0] & 15) * 4, 20)
            raw[10:12] = b"\0\0"
            raw[10:12] = struct.pack("!H", 0xFFFF ^ total(bytes(raw[:size])))
        return bytes(raw)

    return [
        ("short-packet", good[:12]),
        ("bad-header-checksum", changed(10, bytes((good[10] ^ 0x40,)), sum_again=False)),
        ("bad-version", changed(0, b"\x55")),
        ("bad-header-length", changed(0, b"\x44")),
        ("bad-total-length", changed(2, struct.pack("!H", 19))),
        ("bad-total-length", changed(2, struct.pack("!H", len(good) + 40))),
    ]


@row("R-8")
def header_checks(b):
    """Six malformed packets from either side, of a live session and of none: nothing goes on, nothing is said, each is counted."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    counted = {}
    for sport in (40000, 40001):
        for reason, raw in malformed(udp(H1, sport, S1, 3478, b"m" * 40, flags="DF")):
            b.bed.lan_wire.send_bytes(bytes.fromhex((LAN_GATEWAY_MAC + lan_mac(H1)).replace(":", "")) + b"\x08\x00" + raw)
            # With the tun driver the kernel has already dropped it.
            counted[reason] = counted.get(reason, 0) + (b.driver == "packet")
    for peer in (S1, S2):
        for reason, raw in malformed(udp(peer, 3478, *mapped, b"m" * 40, flags="DF")):
            b.bed.wan_wire.send_bytes(bytes.fromhex((GATEWAY_MAC + wan_mac(peer)).replace(":", "")) + b"\x08\x00" + raw)
            counted[reason] += 1
    b.none()
    if b.driver != "kernel":  # which drops them itself
        for reason, count in counted.items():
            b.await_drops(reason, count)
    assert len(b.flows("udp", H1)) == 1, "a malformed packet has made state"


@row("R-8b")
def transport_header_checks(b):
    """TCP and UDP headers that can not be right, from either side: dropped, counted, and no state made."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    before = len(b.flows())

    def wrong(src, sport, dst, dport):
        return [
            IP(src=src, dst=dst, proto=6) / Raw(bytes(TCP(sport=sport, dport=dport, flags="S"))[:12]),
            IP(src=src, dst=dst) / TCP(sport=sport, dport=dport, flags="S", dataofs=4),
            IP(src=src, dst=dst) / TCP(sport=sport, dport=dport, flags="S", dataofs=8),
            IP(src=src, dst=dst, proto=17) / Raw(bytes(UDP(sport=sport, dport=dport, len=8))[:6]),
            IP(src=src, dst=dst) / UDP(sport=sport, dport=dport, len=7) / b"x",
            IP(src=src, dst=dst) / UDP(sport=sport, dport=dport, len=200) / b"short",
        ]

    for packet in wrong(H1, 40001, S1, 3478):
        b.send_lan(packet)
    for packet in wrong(S2, 3478, *mapped):
        b.send_wan(packet)
    b.none()
    if b.driver != "kernel":
        b.await_drops("bad-transport", 12)
    assert len(b.flows()) == before, "state was made"


MARTIANS = ("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "255.255.255.255", "224.0.0.1", "239.255.255.250", "240.0.0.1", "254.255.255.255", "169.254.1.1")


@row("R-9")
def martians(b):
    """Sources and destinations that no router may forward, from either side, open to everybody."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    for address in MARTIANS:
        for packet in (udp(address, 40001, S1, 3478), echo(address, S1, 7), tcp(address, 50001, S1, 80)):
            b.send_lan(packet, source_mac=lan_mac(H1))
        for packet in (udp(H1, 40001, address, 3478), tcp(H1, 50001, address, 80)):
            b.send_lan(packet)
        b.send_wan(udp(address, 3478, *mapped), source_mac=wan_mac(R))
    # An error by a host that can not exist, about a live session.
    b.send_wan(error("127.0.0.1", udp(*mapped, S1, 3478), 3, 1), source_mac=wan_mac(R))
    b.none()
    assert len(b.flows()) == 1, f"state was made: {b.flows()}"
    assert target(b.inn(udp(S3, 9999, *mapped))) == (H1, 40000) if not b.baseline else True


@row("R-10")
def spoofed_sources(b):
    """Sources that are not the LAN's, and its broadcast address: none leaves, none makes state, each is counted."""
    spoofed = ("8.8.8.8", S1, "192.168.2.10", "10.0.0.5")
    for address in (*spoofed, X, G, "192.168.1.255", "192.168.1.0"):
        for packet in (udp(address, 40000, S2, 3478), tcp(address, 50000, S2, 80), echo(address, S2, 77)):
            b.send_lan(packet, source_mac=lan_mac(H1))
    b.none()
    assert not b.flows(), f"state was made: {b.flows()}"
    if not b.baseline:
        b.await_drops("spoofed-source", 3 * len(spoofed))


@row("R-11")
def inside_addresses_outside(b):
    """From the WAN with a source of the LAN or our own, to a mapping open to everybody; and to the LAN's addresses directly."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    sent = b.out(udp(H1, 40000, S1, 3478))
    mapped = source(sent)
    asked = b.out(echo(H1, S1, 77))
    for address in (H2, H1, G, X):
        b.send_wan(udp(address, 3478, *mapped), source_mac=wan_mac(R))
        b.send_wan(error(address, sent, 3, 1), source_mac=wan_mac(R))
    b.send_wan(udp(H2, 3478, H1, 40000), source_mac=wan_mac(R))
    for packet in (
        udp(S1, 3478, H1, 40000),
        udp(S1, 9999, H1, 40000),
        tcp(S1, 80, H1, 22),
        echo(S1, H1, 9),
        IP(src=S1, dst=H1) / ICMP(type=0, id=asked[ICMP].id) / b"ping",
        *fragments(udp(S1, 3478, H1, 40000, b"f" * 2000, id=1)),
    ):
        b.send_wan(packet)
    b.none()
    b.inn(answer(sent))


@row("R-12")
def link_broadcasts(b):
    """Unicast packets in link-layer broadcasts and multicasts, from either side, of a live session and of none."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    for mac in (BROADCAST_MAC, MULTICAST_MAC):
        for packet in (udp(H1, 40000, S1, 3478, flags="DF"), udp(H1, 40000, S1, 3478), tcp(H1, 50000, S1, 80), echo(H1, S1, 77)):
            b.send_lan(Ether(src=lan_mac(H1), dst=mac) / packet)
        for peer in (S1, S2):
            b.send_wan(Ether(src=wan_mac(peer), dst=mac) / udp(peer, 3478, *mapped))
    b.none()
    assert len(b.flows()) == 1, f"state was made: {b.flows()}"


@row("R-13", bed={"wan_mtu": NARROW})
def few_fragments(b):
    """As few as can be, in order: row U-13a, and a datagram that needs three."""
    too_big_is_split(b)
    data = bytes(range(250)) * 14
    parts = fragments(udp(H1, 40001, S1, 3478, data, id=78), 1256)
    for part in parts:
        b.send_lan(part)
    got = [b.see_wan(lambda p: p.dst == S1 and p.id != 77, "fragment on the WAN") for _ in parts]
    assert [one.frag for one in got] == [part.frag for part in parts], "not in order"
    b.none_wan(0.3)


@row("R-14")
def fields_kept(b):
    """Type of service with ECN, no UDP checksum, and the identification of a packet with DF: as sent, both ways (compared by `out` and `inn`)."""
    for flags in ("DF", 0):
        for tos in (0xB9, 0x03, 0xFF):
            for chksum in (None, 0):
                fields = dict(tos=tos, flags=flags, id=4711)
                packet = udp(H1, 40000, S1, 3478, b"data", **fields)
                packet[UDP].chksum = chksum
                sent = b.out(packet)
                back = answer(sent, **fields)
                back[UDP].chksum = chksum
                got = b.inn(back)
                assert (sent.tos, got.tos) == (tos, tos)
                assert chksum is None or sent[UDP].chksum == got[UDP].chksum == 0
                assert not flags or sent.id == got.id == 4711
    for send in (tcp(H1, 50000, S1, 80, tos=0xB9, id=4711), tcp(H1, 50001, S1, 80, tos=0x02, id=4711)):
        send[IP].flags = "DF"
        assert b.out(send).id == 4711


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
    # With the kernel driver the kernel goes on with what has been translated.
    b.none_wan(but=lambda p: b.driver == "kernel" and p.src == X)
    b.bed.recover()
    go_on()
    b.bed.address(2)
    for _ in range(20):
        go_on()
        b.none_wan(0.05, but=lambda p: p.src in (X, "203.0.113.2"))
    assert b.out(udp(H1, 40001, S1, 3478)).src == "203.0.113.2"


@row("F-2")
def no_port_shadowed(b):
    """A service of the router on port 7000, another within masqd's own range: a host's flow from the same port gets another one, and
    what the flow's peer sends to the service reaches the service."""
    ports = (7000, 40007)
    services = [b.bed.router.udp("", port) for port in ports]
    try:
        b.config()
        for port, service in zip(ports, services, strict=True):
            mapped = source(b.out(udp(H1, port, S1, 6000)))
            assert mapped[1] != port, f"the flow has the service's port {port}"
            b.send_wan(udp(S1, 6000, X, port, b"for the router"))
            data, peer = service.recvfrom(100)
            assert data == b"for the router" and peer == (S1, 6000)
            assert target(b.inn(udp(S1, 6000, *mapped))) == (H1, port)
        b.none_lan()
    finally:
        for service in services:
            service.close()


@row("F-3")
def early_packet_moves_no_port(b):
    """A peer that sends to a known external endpoint before the host has sent to it: the host's packet to it leaves from that endpoint."""
    mapped = source(b.out(udp(H1, 40000, S2, 3478)))
    b.drop_in(udp(S1, 5000, *mapped))
    assert source(b.out(udp(H1, 40000, S1, 5000))) == mapped
    assert target(b.inn(udp(S1, 5000, *mapped))) == (H1, 40000)


FLOODING = 10000


@row("F-4", alone=True)
def flood_of_a_host(b):
    """One host opens 10,000 connections a second; another opens ten flows a second and pings: it loses nothing, new or old."""
    old = [b.out(udp(H1, 30000 + n, S1, 3478)) for n in range(20)]
    for one in old:
        b.inn(answer(one))
    connection = b.connect(H1, 50000, S1, 80)
    script = pathlib.Path(__file__).with_name("flood.py")
    flood = b.bed.lan.start(PYTHON, script, H3, LOAD_PEER, lan_mac(H3), LAN_GATEWAY_MAC, int(FLOODING / max(1, b.margin)))
    try:
        flood.expect("^flooding")
        wait_until(lambda: any(one["address"] == H3 and one["sessions"] >= 1000 for one in b.bed.status()["topHosts"]), "the flood's sessions")
        began = time.monotonic()
        for n in range(60):
            while (left := began + n / 10 - time.monotonic()) > 0:
                assert b.bed.wan_wire.poll(left) is None, "on the WAN, where nothing was due"
            b.inn(answer(b.out(udp(H1, 40000 + n, S2, 3478))))
            b.inn(answer(b.out(echo(H1, S1, 77, n))))
        b.inn(answer(b.out(echo(H2, S1, 77))))
        for one in old:
            b.inn(answer(one))
        connection.data()
        assert flood.running(), "the flood has ended by itself"
    finally:
        flood.kill()
    new = [f for f in b.flows("udp", H1) if f["peer"].startswith(S2)]
    assert len(new) == 60, f"{len(new)} of 60 new sessions are left"


@row("F-5", alone=True)
def inbound_flood(b):
    """65,000 UDP datagrams and SYNs from everywhere to every port of ours: not one session more, and what there was works."""
    sent = b.out(udp(H1, 40000, S1, 3478))
    b.inn(answer(sent))
    before = len(b.flows())
    rng = random.Random(5)
    link = bytes.fromhex((GATEWAY_MAC + wan_mac(R)).replace(":", "")) + b"\x08\x00"
    here = bytes(map(int, X.split(".")))
    for n in range(65000):
        peer = bytes((198, 18 + rng.randrange(2), rng.randrange(256), rng.randrange(1, 255)))
        ports = struct.pack("!HH", rng.randrange(1024, 65536), (n * 7919) % 64512 + 1024)
        body = ports + struct.pack("!HH", 9, 0) + b"x" if n % 2 else ports + struct.pack("!IIHHHH", n, 0, 0x5002, 1024, 0, 0)
        protocol = 17 if n % 2 else 6
        if protocol == 6:
            pseudo = total(peer + here + struct.pack("!HH", 6, len(body)))
            body = body[:16] + struct.pack("!H", 0xFFFF ^ total(body, pseudo)) + body[18:]
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), n, 0x4000, 64, protocol, 0) + peer + here
        header = header[:10] + struct.pack("!H", 0xFFFF ^ total(header)) + header[12:]
        b.bed.wan_wire.send_bytes(link + header + body)
        if n % 100 == 0:
            # The kernel's resets of SYNs to ports that are not masqd's.
            b.bed.wan_wire.discard()
    b.none_lan()
    b.bed.wan_wire.discard()
    after = len(b.flows())
    assert after == before, f"{after - before} sessions made from outside"
    b.inn(answer(sent))
    assert target(b.inn(answer(b.out(udp(H2, 40001, S2, 3478))))) == (H2, 40001)
