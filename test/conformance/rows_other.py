"""RFC 5597 (DCCP), and the other protocols that are not TCP, UDP or ICMP."""

import struct

from bed import H1, H2, H3, S1, S2, S3, R
from case import G, X, error, error_faults, is_error, parse, source, target
from checks import DCCP, SCTP, UDPLITE, coverage, crc32c, split, total
from registry import row
from scapy.layers.inet import IP
from scapy.packet import Raw

# Packet types of DCCP (RFC 4340 section 5.1, RFC 5596).
REQUEST, RESPONSE, DATA, ACK, DATAACK, CLOSEREQ, CLOSE, RESET, SYNC, SYNCACK, LISTEN = range(11)
ESTABLISHED, TRANSITORY = 124 * 60, 240


def summed(packet, protocol, body):
    """A packet of DCCP or UDP-Lite with its checksum filled in, over what it covers."""
    packet = parse(packet / Raw(body))
    pseudo = total(bytes(packet)[12:20] + struct.pack("!HH", protocol, len(body)))
    checksum = total(body[: coverage(protocol, body)], pseudo) ^ 0xFFFF
    packet[Raw].load = body[:6] + struct.pack("!H", checksum or 0xFFFF) + body[8:]
    return packet


def dccp(src, sport, dst, dport, kind=REQUEST, data=b"", cscov=0, **ip):
    """A DCCP packet with the subheader of its type; `cscov` is the checksum coverage of RFC 4340 section 9.2."""
    acknowledgment = struct.pack("!HHI", 0, 0, 900)
    more = {REQUEST: b"GAME", LISTEN: b"GAME", RESPONSE: acknowledgment + b"GAME", DATA: b"", RESET: acknowledgment + b"\x01\0\0\0"}.get(kind, acknowledgment)
    words = (16 + len(more)) // 4
    body = struct.pack("!HHBBHBBHI", sport, dport, words, cscov, 0, kind << 1 | 1, 0, 0, 1000) + more + data
    return summed(IP(src=src, dst=dst, proto=DCCP, **ip), DCCP, body)


def udplite(src, sport, dst, dport, data=b"x" * 40, covered=0, **ip):
    """A UDP-Lite packet of which the checksum covers so many bytes (0: all)."""
    return summed(IP(src=src, dst=dst, proto=UDPLITE, **ip), UDPLITE, struct.pack("!HHHH", sport, dport, covered, 0) + data)


def sctp(src, sport, dst, dport, chunk=1, tag=0x12345678, **ip):
    """An SCTP packet with one chunk of that type (1 INIT, 2 INIT ACK, 0 DATA, 6 ABORT)."""
    header = struct.pack("!HHI", sport, dport, tag)
    chunks = struct.pack("!BBH", chunk, 0, 20) + bytes(range(16))
    body = header + struct.pack("<I", crc32c(header + bytes(4) + chunks)) + chunks
    return parse(IP(src=src, dst=dst, proto=SCTP, **ip) / Raw(body))


def handshake(b, host, sport, peer, dport):
    """Request, Response, Ack; the external endpoint."""
    mapped = source(b.out(dccp(host, sport, peer, dport)))
    assert target(b.inn(dccp(peer, dport, *mapped, RESPONSE))) == (host, sport)
    assert source(b.out(dccp(host, sport, peer, dport, ACK))) == mapped
    return mapped


def lives(b, seconds, sport):
    """Asserts what the one session of h1's port has left."""
    b.lives(seconds, "dccp", f"{H1}:{sport}")


# ---- DCCP -----------------------------------------------------------------------------------------------------------


@row("D-1")
def endpoint_independent(b):
    """Several destinations by one external endpoint; then two hosts with one source port, crosswise."""
    first = source(b.out(dccp(H1, 50000, S1, 5001)))
    assert first[0] == X
    for peer, port in ((S2, 5001), (S1, 5002)):
        assert source(b.out(dccp(H1, 50000, peer, port))) == first
    one, three = source(b.out(dccp(H1, 40000, S1, 5001))), source(b.out(dccp(H3, 40000, S2, 5001)))
    assert one != three
    assert source(b.out(dccp(H1, 40000, S2, 5001))) == one
    assert source(b.out(dccp(H3, 40000, S1, 5001))) == three
    for peer in (S1, S2):
        assert target(b.inn(dccp(peer, 5001, *one, RESPONSE))) == (H1, 40000)
        assert target(b.inn(dccp(peer, 5001, *three, RESPONSE))) == (H3, 40000)


@row("D-2")
def valid_sequences(b):
    """Begun by the host, and by its peer after the host's Listen (RFC 5596); data, resynchronization and every way to end it."""

    def both_ways(mapped, sport, *kinds):
        for kind in kinds:
            assert source(b.out(dccp(H1, sport, S1, 5001, kind, b"data"))) == mapped
            assert target(b.inn(dccp(S1, 5001, *mapped, kind, b"data"))) == (H1, sport)

    for sport, ends in ((50000, (CLOSE, RESET)), (50001, (CLOSEREQ, CLOSE, RESET)), (50002, (RESET,))):
        mapped = handshake(b, H1, sport, S1, 5001)
        both_ways(mapped, sport, DATA, ACK, DATAACK, SYNC, SYNCACK, *ends)
    mapped = source(b.out(dccp(H1, 50003, S1, 5001, LISTEN)))
    b.out(dccp(H1, 50003, S1, 5001, LISTEN))
    assert target(b.inn(dccp(S1, 5001, *mapped, REQUEST))) == (H1, 50003)
    b.out(dccp(H1, 50003, S1, 5001, RESPONSE))
    b.inn(dccp(S1, 5001, *mapped, ACK))
    both_ways(mapped, 50003, DATA, DATAACK, CLOSE)
    # Nobody answers for a while, then somebody does.
    for _ in range(4):
        mapped = source(b.out(dccp(H1, 50004, S1, 5001)))
    b.inn(dccp(S1, 5001, *mapped, RESPONSE))


@row("D-3")
def filtering(b):
    """Whose Request may come in by a live mapping, by the three modes of the daemon."""
    let_in = {"endpoint-independent": (True, True), "address-dependent": (True, False), "address-and-port-dependent": (False, False)}
    for mode, passes in let_in.items():
        if b.baseline and mode != "address-and-port-dependent":
            raise AssertionError("the kernel has no other filtering")
        b.config(main={"filtering": mode})
        mapped = handshake(b, H1, 50000, S1, 5001)
        for peer, wanted in ((S1, passes[0]), (S3, passes[1])):
            request = dccp(peer, 9999, *mapped)
            if wanted:
                assert target(b.inn(request)) == (H1, 50000)
            else:
                b.drop_in(request)


@row("D-5")
def timers(b):
    """124 minutes for what is established; four minutes for what opens or has been reset, and at least that for what closes."""
    b.out(dccp(H1, 50000, S1, 5001))
    lives(b, TRANSITORY, 50000)
    mapped = handshake(b, H1, 50001, S1, 5001)
    lives(b, ESTABLISHED, 50001)
    b.out(dccp(H1, 50001, S1, 5001, DATA, b"data"))
    lives(b, ESTABLISHED, 50001)
    b.inn(dccp(S1, 5001, *mapped, CLOSEREQ))
    lives(b, TRANSITORY, 50001)
    b.out(dccp(H1, 50001, S1, 5001, CLOSE))
    lives(b, TRANSITORY, 50001)
    b.inn(dccp(S1, 5001, *mapped, RESET))
    lives(b, TRANSITORY, 50001)


@row("D-6")
def payload_untouched(b):
    """What looks like the commands that ALGs of other protocols rewrite, on their ports (the payload is compared by `out` and `inn`)."""
    for n, (port, said) in enumerate(
        ((21, b"PORT 192,168,1,10,156,64\r\n"), (69, b"\0\1boot.img\0octet\0"), (5060, b"Contact: <sip:a@192.168.1.10:5060>\r\n"))
    ):
        mapped = handshake(b, H1, 50000 + n, S1, port)
        b.out(dccp(H1, 50000 + n, S1, port, DATA, said))
        b.inn(dccp(S1, port, *mapped, DATA, said.replace(b"192.168.1.10", X.encode())))


@row("D-7")
def no_overloading(b):
    """Many hosts with one source port, to one peer and to several: as many external ports."""
    hosts = [f"192.168.1.{n}" for n in range(2, 62)]
    seen = {source(b.out(dccp(host, 41000, (S1, S2, S3)[n % 3], 5001))) for n, host in enumerate(hosts)}
    assert len(seen) == len(hosts), f"{len(hosts)} hosts have {len(seen)} external endpoints"


def hairpinned(b):
    """h2 has asked for a connection at h1's external endpoint; (that endpoint, the Request as h1 sees it)."""
    first = source(b.out(dccp(H1, 50000, S1, 5001, LISTEN)))
    there = b.hairpin(dccp(H2, 51000, *first))
    assert target(there) == (H1, 50000)
    return first, there


@row("D-8")
def hairpin(b):
    """Between two LAN hosts by the external endpoint of one, who sees the other's external endpoint; nothing of it on the WAN."""
    first, there = hairpinned(b)
    second = source(there)
    assert second[0] == X, f"from {second}"
    for kind in (RESPONSE, DATAACK, CLOSEREQ, RESET):
        back = b.hairpin(dccp(H1, 50000, *second, kind, b"back"))
        assert (source(back), target(back)) == (first, (H2, 51000))
        again = b.hairpin(dccp(H2, 51000, *first, DATAACK, b"there"))
        assert (source(again), target(again)) == (second, (H1, 50000))
    b.none_wan(0.5)
    assert source(b.out(dccp(H2, 51000, S1, 5001))) == second, "not its one mapping"


@row("D-9")
def errors_are_translated(b):
    """Unreachable of three codes about a Request and about data, quoting eight bytes and all; from inside, and hairpinned."""
    sent = b.out(dccp(H1, 50000, S1, 5001))
    got = b.inn(dccp(S1, 5001, *source(sent), RESPONSE))
    data = b.out(dccp(H1, 50000, S1, 5001, DATA, b"q" * 200))
    for about in (sent, data):
        for code, mtu in ((1, 0), (3, 0), (4, 1400)):
            for quote in (8, None):
                b.send_wan(error(R, about, 3, code, mtu, quote))
                seen = b.see_lan(is_error(), f"error 3/{code} on the LAN")
                faults = error_faults(seen, (H1, 50000), (S1, 5001), 3, code)
                assert not faults, f"3/{code} quoting {quote or 'all'}: {faults}"
    b.send_lan(error(H1, got, 3, 3))
    seen = b.see_wan(is_error(), "error on the WAN")
    faults = error_faults(seen, (S1, 5001), source(sent), 3, 3)
    assert not faults, faults
    assert (seen.src, seen.dst) == (X, S1)
    b.flush()
    first, there = hairpinned(b)
    b.send_lan(error(H1, there, 3, 3))
    seen = b.see_lan(is_error(), "hairpinned error on the LAN")
    faults = error_faults(seen, (H2, 51000), first, 3, 3)
    assert not faults, faults
    assert (seen.src, seen.dst) == (X, H2)


@row("D-10")
def errors_end_nothing(b):
    """Every type that may tell of trouble, by a router and by the peer; then data both ways."""
    mapped = handshake(b, H1, 50000, S1, 5001)
    sent = b.out(dccp(H1, 50000, S1, 5001, DATA, b"data"))
    for kind, code in [(3, code) for code in range(16)] + [(4, 0), (5, 0), (11, 0), (11, 1), (12, 0), (13, 0)]:
        for reporter in (R, S1):
            b.send_wan(error(reporter, sent, kind, code))
    b.none_lan(but=is_error())
    assert source(b.out(dccp(H1, 50000, S1, 5001, DATA, b"data"))) == mapped
    assert target(b.inn(dccp(S1, 5001, *mapped, DATA, b"data"))) == (H1, 50000)
    lives(b, ESTABLISHED, 50000)


@row("D-11")
def checksum(b):
    """Valid on either side after translation, whatever the address and port sum up to (checked by `out` and `inn`); one that was wrong stays wrong."""
    for n in range(40):
        data = struct.pack("!H", n * 1637 & 0xFFFF) * (n % 5)
        mapped = source(b.out(dccp(H1, 50000 + n, S1, 5001 + n, DATAACK if n % 2 else REQUEST, data)))
        b.inn(dccp(S1, 5001 + n, *mapped, DATAACK, data + b"odd"))
    wrong = dccp(H1, 50000, S1, 5001, DATA, b"wrong")
    wrong[Raw].load = wrong[Raw].load[:6] + bytes((wrong[Raw].load[6] ^ 0x55,)) + wrong[Raw].load[7:]
    b.excuse(lambda p: p.proto == DCCP and b"wrong" in bytes(p))
    b.send_lan(wrong)
    got = b.comes_wan(lambda p: b"wrong" in bytes(p))
    if got is None:
        return
    body = split(got)[1]
    sum_now = total(body, total(bytes(got)[12:20] + struct.pack("!HH", DCCP, len(body))))
    assert sum_now != 0xFFFF, "a damaged packet has been made good"


@row("D-12")
def coverage_untouched(b):
    """Checksums that cover the header and none or some of the data: the field stays, the sum is right over what it covers, damage elsewhere passes."""
    for cscov in (0, 1, 2, 5, 15):
        mapped = source(b.out(dccp(H1, 50000, S1, 5001, DATAACK, b"d" * 64, cscov)))
        b.inn(dccp(S1, 5001, *mapped, DATAACK, b"d" * 64, cscov))
        if cscov in (1, 2):
            damaged = dccp(H1, 50000, S1, 5001, DATAACK, b"d" * 64, cscov)
            damaged[Raw].load = damaged[Raw].load[:-1] + b"?"
            b.out(damaged)


# ---- others -----------------------------------------------------------------------------------------------------------

# IPsec ESP and a protocol for experiments.
WITHOUT_PORTS = (50, 253)


@row("D-u")
def other_protocols(b):
    """SCTP by port with its CRC32c, UDP-Lite by port with any coverage; protocols without ports by address, one host a peer, the second
    one told so. Whatever passes is translated."""
    for make, options in ((sctp, {}), (udplite, {"covered": 0}), (udplite, {"covered": 8}), (udplite, {"covered": 20})):
        first, second = source(b.out(make(H1, 50000, S1, 5001, **options))), source(b.out(make(H2, 50000, S1, 5001, **options)))
        assert first != second, "two hosts have one external endpoint"
        assert source(b.out(make(H1, 50000, S2, 5001, **options))) == first
        for host, mapped in ((H1, first), (H2, second)):
            assert target(b.inn(make(S1, 5001, *mapped, **options))) == (host, 50000)
        b.drop_in(make(S3, 5001, *first, **options))
    first = source(b.out(sctp(H1, 50001, S1, 5001)))
    there = b.hairpin(sctp(H2, 51000, *first))
    assert target(there) == (H1, 50001) and source(there)[0] == X
    for about in (b.out(sctp(H1, 50000, S1, 5001)), b.out(udplite(H1, 50000, S1, 5001, covered=8))):
        for quote in (8, None):
            b.send_wan(error(R, about, 3, 3, quote=quote))
            got = b.see_lan(is_error(), f"error about protocol {about.proto}")
            faults = error_faults(got, (H1, 50000), (S1, 5001), 3, 3)
            assert not faults, f"protocol {about.proto} quoting {quote or 'all'}: {faults}"
    for protocol in WITHOUT_PORTS:

        def packet(src, dst, protocol=protocol):
            return IP(src=src, dst=dst, proto=protocol) / Raw(bytes(range(32)))

        assert b.out(packet(H1, S1)).src == X
        assert b.inn(packet(S1, X)).dst == H1
        b.send_lan(packet(H2, S1))
        got = b.see_lan(is_error(3, 13), f"refusal of the second host with protocol {protocol}")
        assert (got.src, got.dst) == (G, H2)
        b.none_wan(0.3)
        assert b.out(packet(H2, S2)).src == X
        assert b.inn(packet(S2, X)).dst == H2
        b.drop_in(packet(S3, X))
