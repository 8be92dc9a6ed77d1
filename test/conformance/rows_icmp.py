"""RFC 5508: ICMP."""

import select
import struct
import time

from bed import H1, H2, H3, S1, S2, S3, R
from case import GRACE, LOOK, SILENCE, G, X, answer, error, error_faults, is_error, parse, source, summary, target
from checks import split, total
from load import PORT, fill_answered, listener
from packets import echo, udp
from rawbed import LOAD_PEER
from registry import row
from rows_router import no_errors_where_none_are_due, error_rate, time_to_live
from rows_udp import NARROW, too_big
from scapy.layers.inet import ICMP, IP, UDP, IPOption_LSRR, IPOption_RR
from scapy.packet import Raw

# An ICMP timer short enough to be waited for, in seconds.
SHORT = 4
# A router inside the LAN.
INNER_ROUTER = "192.168.1.77"
# Sessions that a host may have, however full the table is (RFC 6888 REQ-4; src/conntrack/hosts.ts).
SHARE = 16


@row("I-1")
def queries(b):
    """Echo; timestamp may be dropped, but not mistranslated."""
    asked = b.out(echo(H1, S1, 77))
    replied = b.inn(answer(asked))
    assert (replied.dst, replied[ICMP].id) == (H1, 77)
    stamp = IP(src=H1, dst=S1) / ICMP(type=13, id=78, seq=1, ts_ori=1, ts_rx=0, ts_tx=0)
    asked = b.out(stamp)
    replied = b.inn(IP(src=S1, dst=asked.src) / ICMP(type=14, id=asked[ICMP].id, seq=1, ts_ori=1, ts_rx=2, ts_tx=3))
    assert (replied.dst, replied[ICMP].id) == (H1, 78)


@row("I-1a")
def query_mapping(b):
    """One external identifier for two destinations; also if another host has asked the second one with the same identifier."""
    first = source(b.out(echo(H1, S1, 77)))
    assert source(b.out(echo(H1, S2, 77))) == first
    other = source(b.out(echo(H2, S2, 78)))
    here = source(b.out(echo(H1, S1, 78)))
    assert here != other
    again = b.out(echo(H1, S2, 78))
    assert source(again) == here, f"{source(again)} after {here}"
    assert target(b.inn(answer(again))) == (H1, 78)
    assert target(b.inn(IP(src=S2, dst=X) / ICMP(type=0, id=other[1], seq=1) / b"ping")) == (H2, 78)


@row("I-2")
def query_timer(b):
    """The default from the dump; on the wire with a short timer, a query of its own for alive and for dead."""
    b.out(echo(H1, S1, 77))
    b.lives(60, "icmp", H1)
    short_query_timer(b, SHORT)


def short_query_timer(b, life):
    """A reply within the configured life is delivered, one after it is not."""
    life = b.short(life)
    b.config(timeouts={"icmp": life})
    began = time.monotonic()
    alive, dead = b.out(echo(H1, S1, 78)), b.out(echo(H1, S1, 79))
    ending = time.monotonic() + life + GRACE
    b.none_until(began + life - 1 - b.margin)
    with b.before(began + life - 1):
        b.inn(answer(alive))
    b.none_until(ending)
    b.drop_in(answer(dead))


@row("I-2a")
def query_timer_configurable(b):
    """Another value than in I-2, from the dump and on the wire."""
    b.config(timeouts={"icmp": 150})
    b.out(echo(H1, S1, 77))
    b.lives(150, "icmp", H1, most=150)
    short_query_timer(b, SHORT + 3)


# ---- errors in transit: what must be right about them -------------------------------------------------------


@row("I-3")
def bad_checksum(b):
    """From either side: nothing goes on, and nobody is told."""
    sent = b.out(udp(H1, 42000, S1, 3478))
    got = b.inn(answer(sent))
    wrong = [error(R, sent, 3, 1), error(H1, got, 3, 3)]
    for one, send in zip(wrong, (b.send_wan, b.send_lan), strict=True):
        one[ICMP].chksum = 0x1234
        send(one)
    b.none()
    if b.driver != "kernel":  # which drops them itself
        b.await_drops("icmp-bad-checksum", 2)
    b.send_wan(error(R, sent, 3, 1))
    b.see_lan(is_error(3, 1), "the same error with a good checksum")


@row("I-3a")
def bad_quoted_checksum(b):
    """The quoted IP header is damaged, the error itself is not. From either side."""
    sent = b.out(udp(H1, 42000, S1, 3478))
    got = b.inn(answer(sent))
    for one, reporter, send in ((sent, R, b.send_wan), (got, H1, b.send_lan)):
        quote = bytearray(bytes(one))
        quote[10] ^= 0x40
        send(IP(src=reporter, dst=one.src) / ICMP(type=3, code=1) / bytes(quote))
    b.none()
    b.send_wan(error(R, sent, 3, 1))
    b.see_lan(is_error(3, 1), "the same error undamaged")


@row("I-3b")
def options_in_the_quote(b):
    """Record route in the quoted header (seven words): ports are found behind it."""
    sent = b.out(udp(H1, 42000, S1, 3478))
    recorded = IPOption_RR(routers=["0.0.0.0"], pointer=4)
    quoted = parse(IP(src=X, dst=S1, options=[recorded, b"\0"]) / UDP(sport=source(sent)[1], dport=3478) / b"x")
    assert quoted.ihl == 7
    for quote in (None, 8):
        b.send_wan(error(R, quoted, 3, 1, quote=quote))
        got = b.see_lan(is_error(3, 1), "error on the LAN")
        faults = error_faults(got, (H1, 42000), (S1, 3478))
        assert not faults, faults
        assert split(IP(split(got)[1][8:]))[0][20:] == split(quoted)[0][20:], "the options have changed"


@row("I-3c")
def quoted_transport_checksum(b):
    """A wrong UDP checksum in the quote: delivered, and as wrong as before in the terms of the inside."""
    sent = b.out(udp(H1, 42000, S1, 3478, b"q" * 20))
    quoted = sent.copy()
    quoted[UDP].chksum = 0x5555
    b.send_wan(error(R, quoted, 3, 1))
    got = b.see_lan(is_error(3, 1), "error on the LAN")
    inner = IP(split(got)[1][8:])
    assert (inner.src, inner[UDP].sport, inner.dst, inner[UDP].dport) == (H1, 42000, S1, 3478)

    def parts(packet):
        header, payload = split(packet)
        return header[12:16] + payload[0:2]

    changed = bytes(0xFF ^ byte for byte in parts(quoted)) + parts(inner)
    expected = 0xFFFF ^ total(changed, 0xFFFF ^ 0x5555)
    assert inner[UDP].chksum == expected, f"quoted checksum {inner[UDP].chksum:#x}, {expected:#x} would be incremental"


@row("I-3d")
def extensions(b):
    """Time exceeded with 128 bytes of quote and an MPLS label stack behind it (RFC 4884, RFC 4950)."""
    sent = b.out(udp(H1, 42000, S1, 3478, b"q" * 200))
    stack = struct.pack("!HBBI", 8, 1, 1, (16001 << 12) | (1 << 8) | 254)
    head = struct.pack("!BBH", 0x20, 0, 0)
    head = head[:2] + struct.pack("!H", 0xFFFF ^ total(head + stack))
    for kind in (11, 3):
        b.send_wan(IP(src=R, dst=X, proto=1) / Raw(extended(kind, bytes(sent)[:128], head + stack)))
        got = b.see_lan(is_error(kind), "error with extensions on the LAN")
        faults = error_faults(got, (H1, 42000), (S1, 3478), kind, 0)
        assert not faults, faults
        payload = split(got)[1]
        assert payload[5] == 32, "the length of the quote is gone"
        assert payload[8 + 128 :] == head + stack, "the extensions have changed"


def extended(kind, quote, extensions):
    """The bytes of an ICMP error of that type with extensions, its checksum right; the quote is a multiple of 4."""
    made = struct.pack("!BBHBBH", kind, 0, 0, 0, len(quote) // 4, 0) + quote + extensions
    return made[:2] + struct.pack("!H", 0xFFFF ^ total(made)) + made[4:]


@row("I-4")
def errors_from_outside(b):
    """By a router on the way: address and port inside the quote restored, type, code and MTU kept; about no mapping: dropped."""
    sent = b.out(udp(H1, 42000, S1, 3478, b"q" * 40))
    for kind, code, mtu in ((3, 1, 0), (3, 3, 0), (3, 4, 1400), (11, 0, 0), (12, 0, 0)):
        for quote in (None, 8):
            b.send_wan(error(R, sent, kind, code, mtu, quote, ttl=60))
            got = b.see_lan(is_error(), f"error {kind}/{code} on the LAN")
            faults = error_faults(got, (H1, 42000), (S1, 3478), kind, code)
            assert not faults, f"{kind}/{code}: {'; '.join(faults)}"
            assert (got.src, got.dst, got.ttl) == (R, H1, 59)
            assert kind != 3 or code != 4 or got[ICMP].nexthopmtu == mtu
    unknown = 45555 if source(sent)[1] != 45555 else 45556
    b.drop_in(error(R, udp(X, unknown, S1, 3478), 3, 3))
    assert target(b.inn(answer(sent))) == (H1, 42000)


@row("I-5")
def errors_from_inside(b):
    """By the host and by a router inside: the WAN sees our address outside, the mapping inside; about no session: dropped."""
    sent = b.out(udp(H1, 42000, S1, 3478))
    got = b.inn(answer(sent, b"q" * 40))
    for reporter, kind, code in ((H1, 3, 3), (INNER_ROUTER, 11, 0), (INNER_ROUTER, 3, 1)):
        for quote in (None, 8):
            b.send_lan(error(reporter, got, kind, code, quote=quote, ttl=60))
            seen = b.see_wan(is_error(), f"error {kind}/{code} on the WAN")
            faults = error_faults(seen, (S1, 3478), source(sent), kind, code)
            assert not faults, f"{kind}/{code}: {'; '.join(faults)}"
            assert (seen.src, seen.dst, seen.ttl) == (X, S1, 59), summary(seen)
    for unknown in (udp(S1, 3479, H1, 42000), udp(S1, 3478, H2, 42000), udp(S2, 3478, H1, 42000)):
        b.send_lan(error(unknown.dst, parse(unknown), 3, 3))
    b.none_wan()


@row("I-6")
def errors_and_query_sessions(b):
    """An error about the query late in its life: the session neither ends with it nor lives longer."""
    life = b.short(6)
    b.config(timeouts={"icmp": life})
    began = time.monotonic()
    alive, dead = b.out(echo(H1, S1, 77)), b.out(echo(H1, S1, 78))
    ending = time.monotonic() + life + GRACE
    b.none_until(began + life - 2.5 - b.margin)
    with b.before(began + life - 1):
        for one, identifier in ((alive, 77), (dead, 78)):
            b.send_wan(error(R, one, 3, 1))
            got = b.see_lan(is_error(3, 1), "error about a query on the LAN")
            faults = error_faults(got, (H1, identifier), (S1, identifier))
            assert not faults, faults
    b.none_until(began + life - 1 - b.margin)
    with b.before(began + life - 1):
        b.inn(answer(alive))
    b.none_until(ending)
    b.drop_in(answer(dead))


@row("I-7")
def hairpinned_errors(b):
    """The one that is reached over its external endpoint answers 3/3: the asker gets that from our address, in its own terms."""
    first, there = hairpinned(b)
    seen = hairpinned_error(b, error(H1, there, 3, 3), first)
    assert seen[ICMP].code == 3
    b.none_wan()


@row("I-7a")
def hairpinned_errors_destination(b):
    """Outer destination is the inner source, whoever inside reports what."""
    first, there = hairpinned(b)
    for reporter, kind, code, mtu in ((H1, 3, 2, 0), (INNER_ROUTER, 3, 1, 0), (INNER_ROUTER, 3, 4, 1280), (INNER_ROUTER, 11, 0, 0)):
        seen = hairpinned_error(b, error(reporter, there, kind, code, mtu), first)
        assert seen.dst == IP(split(seen)[1][8:]).src
        assert (seen[ICMP].type, seen[ICMP].code) == (kind, code)
        assert code != 4 or seen[ICMP].nexthopmtu == mtu
    b.none_wan()


def hairpinned(b):
    """h2 has sent to h1's external endpoint; (that endpoint, the datagram as h1 sees it)."""
    first = source(b.out(udp(H1, 40000, S1, 3478)))
    there = b.hairpin(udp(H2, 41000, *first))
    assert target(there) == (H1, 40000)
    return first, there


def hairpinned_error(b, packet, first):
    """Sends an error about h2's datagram; it as h2 sees it."""
    b.send_lan(packet)
    seen = b.see_lan(is_error(), "hairpinned error on the LAN")
    faults = error_faults(seen, (H2, 41000), first)
    assert not faults, faults
    assert (seen.src, seen.dst) == (X, H2), summary(seen)
    return seen


# ---- errors of our own ----------------------------------------------------------------------------------------


@row("I-8", config={"main": {"sessions": "1024"}, "extra": [("host", None, {"ip": H3, "max_sessions": "2"})]})
def refused(b):
    """A host at its limit, then a table full of answered sessions: the new flow is dropped and its host gets ICMP 3/1 (or 3/13 by
    option) about it; what it has works on. Under the flood there is room for a new host as long as SYNs nobody has answered can be given up."""
    if b.baseline:
        raise AssertionError("the kernel drops silently")

    def is_refused(packet, code):
        b.send_lan(packet)
        got = b.see_lan(lambda p: p.dst == packet.src and is_error()(p), "refusal on the LAN")
        assert (got.src, got.dst) == (G, packet.src), summary(got)
        faults = error_faults(got, (packet.src, packet[UDP].sport), (packet.dst, packet[UDP].dport), 3, code)
        assert not faults, faults
        b.none_wan(0.3)

    if b.load is None:
        fill_answered(b.bed, 1024 - SHARE)
    held = [b.out(udp(H3, 40000 + n, S1, 3478)) for n in range(2)]
    is_refused(udp(H3, 40002, S1, 3478), 1)
    for one in held:
        b.inn(answer(one))
    if b.load is None or b.load.kind != "flood":
        fill(b)
        is_refused(udp(H1, 45000, S1, 3478), 1)
        for one in held:
            b.inn(answer(one))
    b.config(main={"refusal": "prohibited"}, extra=[("host", None, {"ip": H3, "max_sessions": "1"})])
    b.out(udp(H3, 40000, S1, 3478))
    is_refused(udp(H3, 40001, S1, 3478), 13)


@row("I-10a", bed={"wan_mtu": NARROW})
def errors_that_must_be(b):
    """Time exceeded (R-1), destination unreachable (U-13), echo (I-1)."""
    time_to_live(b)
    b.flush()
    too_big(b)
    b.flush()
    queries(b)


@row("I-10b")
def other_types(b):
    """Which other types pass, from inside and from outside: told, not judged; none may leave untranslated."""
    kinds = {
        "redirect": 5, "router advertisement": 9, "router solicitation": 10, "parameter problem": 12, "timestamp": 13, "mask request": 17, "mask reply": 18,
    }  # fmt: skip
    sent = b.out(udp(H1, 42000, S1, 3478))
    got = b.inn(answer(sent))
    passed = []
    for name, kind in kinds.items():
        quotes = kind in (5, 12)
        b.send_lan(error(H1, got, kind, 0) if quotes else IP(src=H1, dst=S1) / ICMP(type=kind, id=9))
        b.send_wan(error(R, sent, kind, 0) if quotes else IP(src=S1, dst=X) / ICMP(type=kind, id=9))
        for side, comes in (("out", b.comes_wan), ("in", b.comes_lan)):
            if comes(lambda p, kind=kind: ICMP in p and p[ICMP].type == kind) is not None:
                passed.append(f"{name} {side}")
        b.forget()
    return f"of other ICMP types pass: {', '.join(passed) or 'none'}"


@row("I-10c")
def obsolete_types(b):
    """Source quench about a live session, information request and reply: none passes, either way."""
    sent = b.out(udp(H1, 42000, S1, 3478))
    got = b.inn(answer(sent))
    b.out(echo(H1, S1, 77))
    b.send_wan(error(R, sent, 4, 0))
    b.send_lan(error(H1, got, 4, 0))
    for kind in (15, 16):
        b.send_lan(IP(src=H1, dst=S1) / ICMP(type=kind, id=77))
        b.send_wan(IP(src=S1, dst=X) / ICMP(type=kind, id=77))
    b.none()


@row("I-10d")
def errors_carry_the_ds_field(b):
    """Time exceeded about a packet of class EF is of class EF, on either side."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.send_lan(udp(H1, 40000, S1, 3478, ttl=1, tos=0xB8))
    b.send_wan(udp(S1, 3478, *mapped, ttl=1, tos=0xB8))
    for see, where in ((b.see_lan, "LAN"), (b.see_wan, "WAN")):
        got = see(is_error(11, 0), f"time exceeded on the {where}")
        assert got.tos & 0xFC == 0xB8, f"{where}: DS field {got.tos:#x}"


@row("I-10e")
def no_errors(b):
    """Row R-6."""
    no_errors_where_none_are_due(b)


@row("I-10f")
def errors_are_limited(b):
    """Row R-7."""
    error_rate(b)


@row("I-11")
def unknown_types(b):
    """Types 40 and 253 from either side, open to everybody: dropped and counted."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    b.out(echo(H1, S1, 77))
    for kind in (40, 253):
        for _ in range(3):
            b.send_lan(IP(src=H1, dst=S1) / ICMP(type=kind) / b"12345678")
            b.send_wan(IP(src=S1, dst=X) / ICMP(type=kind) / b"12345678")
    b.none()
    if b.driver != "kernel":
        b.await_drops("icmp-unsupported", 6)


@row("I-71", bed={"wan_mtu": NARROW})
def too_big_both_ways(b):
    """DF is honoured here (U-13); "too big" of a router further on reaches the host with its MTU."""
    too_big(b)
    b.flush()
    sent = b.out(udp(H1, 42000, S1, 3478, b"d" * 1200, flags="DF"))
    b.send_wan(error(R, sent, 3, 4, 1100))
    got = b.see_lan(is_error(), "error on the LAN")
    faults = error_faults(got, (H1, 42000), (S1, 3478), 3, 4)
    assert not faults, faults
    assert (got.src, got[ICMP].nexthopmtu) == (R, 1100)


@row("I-73")
def source_route(b):
    """Loose source route in an echo and in an error, from either side: none goes on."""
    asked = b.out(echo(H1, S1, 77))
    sent = b.out(udp(H1, 42000, S1, 3478))

    def routed(packet, by):
        packet[IP].options = [IPOption_LSRR(routers=[by], pointer=4), b"\0"]
        del packet[IP].ihl, packet[IP].len, packet[IP].chksum
        return packet

    b.send_lan(routed(echo(H1, S1, 78), S2))
    b.send_lan(routed(echo(H1, S2, 77), S3))
    b.send_wan(routed(answer(asked), R))
    b.send_wan(routed(answer(asked), H2))
    b.send_wan(routed(error(R, sent, 3, 1), H1))
    b.none()


def comes(b, tap):
    """True when something comes to a socket, False if markers sent now come through and it does not."""
    if select.select([tap], [], [], SILENCE)[0]:
        return True
    b.settle()
    return bool(select.select([tap], [], [], LOOK)[0])


def fill(b):
    """Fills the table to the last session with answered ones of many hosts, each within its share; replaces what may be given up."""
    hosts = [f"192.168.1.{n}" for n in range(40, 79)]
    with listener(b.bed.wan, LOAD_PEER) as asked:
        for n in range(SHARE * len(hosts)):
            b.send_lan(udp(hosts[n % len(hosts)], 20000 + n, LOAD_PEER, PORT))
            if not comes(b, asked):
                break
            b.send_wan(udp(LOAD_PEER, PORT, X, int.from_bytes(asked.recv(128)[34:36], "big")))
    assert b.drops("table-full") > 0, f"not full: {b.bed.status()['sessions']}"
