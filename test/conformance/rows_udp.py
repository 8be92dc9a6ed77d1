"""RFC 4787: UDP."""

import itertools
import random
import struct
import time

from bed import GATEWAY_MAC, H1, H2, H3, S1, S2, S3, R, wan_mac
from case import GRACE, G, X, answer, error, error_faults, fragments, is_error, parse, source, target
from checks import MF, checksum_faults, split, total
from packets import echo, tcp, udp
from registry import row
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

# A UDP timer short enough to be waited for, in seconds.
SHORT = 4
# MTU of the WAN in the rows about packets that are too big.
NARROW = 1280


@row("U-1")
def endpoint_independent(b):
    """Three destinations: other host, other port."""
    first = b.out(udp(H1, 40000, S1, 3478))
    assert first.src == X
    for peer, port in ((S2, 3478), (S1, 3479)):
        assert source(b.out(udp(H1, 40000, peer, port))) == source(first)


@row("U-1b")
def endpoint_independent_under_contention(b):
    """Two hosts with one source port, crosswise."""
    one = source(b.out(udp(H1, 40000, S1, 3478)))
    three = source(b.out(udp(H3, 40000, S2, 3478)))
    assert one != three
    assert source(b.out(udp(H1, 40000, S2, 3478))) == one
    assert source(b.out(udp(H3, 40000, S1, 3478))) == three
    for inside, outside in ((H1, one), (H3, three)):
        for peer in (S1, S2):
            assert target(b.inn(udp(peer, 3478, *outside))) == (inside, 40000)


@row("U-1c")
def endpoint_independent_after_expiry(b):
    """One of two sessions expires, the other is kept alive; a new one to the first peer comes by the old port."""
    life = b.short(SHORT)
    b.config(timeouts={"udp": life})
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    for _ in range(life + GRACE):
        assert source(b.out(udp(H1, 40000, S2, 3478))) == mapped
        b.none(1.0)
    assert not b.flows("udp", f"{H1}:40000", S1), "the session has not expired"
    assert source(b.out(udp(H1, 40000, S1, 3478))) == mapped
    for peer in (S1, S2):
        assert target(b.inn(udp(peer, 3478, *mapped))) == (H1, 40000)


@row("U-2", bed={"external": (X, "203.0.113.2", "203.0.113.3")})
def paired_pooling(b):
    """A pool of two addresses, 50 flows of three protocols from each of three hosts: each host has one address."""
    pool = ["203.0.113.2", "203.0.113.3"]
    b.config(extra=[("pool", None, {"external": pool, "internal": ["192.168.1.0/24"]})])
    for host in (H1, H2, H3):
        seen = set()
        for n in range(17):
            peer = (S1, S2, S3)[n % 3]
            for packet in (udp(host, 40000 + n, peer, 3478), tcp(host, 50000 + n, peer, 80), echo(host, peer, 77 + n)):
                seen.add(b.out(packet).src)
        assert len(seen) == 1 and seen <= set(pool), f"{host} has {seen}"


@row("U-3")
def no_overloading(b):
    """300 hosts with one source port, to one destination and to several: what the kernel may give twice."""
    b.bed.router.ip("addr replace 192.168.2.1/24 dev lan0", "addr replace 192.168.3.1/24 dev lan0")
    hosts = [f"192.168.{net}.{n}" for net in (2, 3) for n in range(10, 160)]
    b.config(main={"sessions": "8192"})
    seen = {source(b.out(udp(host, 40000, (S1, S2, S3)[n % 3], 3478))) for n, host in enumerate(hosts)}
    b.bed.router.ip("addr del 192.168.2.1/24 dev lan0", "addr del 192.168.3.1/24 dev lan0")
    assert len(seen) == len(hosts), f"{len(hosts)} hosts have {len(seen)} external endpoints"


@row("U-3a")
def port_class(b):
    """Well-known source ports stay below 1024 and others above, also for the host that comes second."""
    wrong = []
    for sport in (53, 500, 700, 1023, 1024, 5060):
        for host in (H1, H2):
            port = source(b.out(udp(host, sport, S1, 3478)))[1]
            if (port < 1024) != (sport < 1024):
                wrong.append(f"{host}:{sport} has {port}")
    assert not wrong, ", ".join(wrong)


@row("U-4")
def port_parity(b):
    """20 even and 20 odd source ports that another host has taken already."""
    ports = range(40000, 40040)
    for port in ports:
        b.out(udp(H2, port, S1, 3478))
    given = {port: source(b.out(udp(H1, port, S1, 3478)))[1] for port in ports}
    kept = sum(port % 2 == got % 2 for port, got in given.items())
    assert kept == len(ports), f"{kept} of {len(ports)} kept their parity"


@row("U-4c")
def port_contiguity(b):
    """What becomes of an RTP/RTCP pair that another host has taken already: told, not judged."""
    for port in (30000, 30001):
        b.out(udp(H1, port, S1, 3478))
    rtp, rtcp = (source(b.out(udp(H2, port, S1, 3478)))[1] for port in (30000, 30001))
    return f"RTP/RTCP pair 30000/30001 came out as {rtp}/{rtcp}: {'contiguous' if rtcp == rtp + 1 else 'not contiguous'}"


@row("U-5")
def mapping_timer(b):
    """The default from the dump; on the wire with a short timer, a flow of its own for alive and for dead."""
    b.out(udp(H1, 40000, S1, 3478))
    b.lives(120, "udp", f"{H1}:40000")
    short_timer(b, SHORT)


def short_timer(b, life, answered=False):
    """A mapping lets its peer in until its configured life is nearly over, another one's peer does not come in when it is."""
    life = b.short(life)
    b.config(timeouts={"udp": life})
    began = time.monotonic()
    alive, dead = b.out(udp(H1, 40001, S1, 3478)), b.out(udp(H1, 40002, S1, 3478))
    if answered:
        with b.before(began + life - 1):
            for one in (alive, dead):
                b.inn(answer(one))
    ending = time.monotonic() + life + GRACE
    b.none_until(began + life - 1 - b.margin)
    with b.before(began + life - 1):
        b.inn(answer(alive))
    b.none_until(ending)
    b.drop_in(answer(dead))


@row("U-5'")
def answered_mapping_timer(b):
    """As U-5 after one request and one reply."""
    b.inn(answer(b.out(udp(H1, 40000, S1, 3478))))
    b.lives(120, "udp", f"{H1}:40000")
    short_timer(b, SHORT, answered=True)


@row("U-5a")
def short_timer_for_known_ports(b):
    """DNS may be short, before and after its reply; mDNS, HTTPS and WireGuard may not."""
    for dport in (53, 5353, 443, 51820):
        sent = b.out(udp(H1, 40000, S1, dport))
        if dport != 53:
            b.lives(120, "udp", f"{H1}:40000", f"{S1}:{dport}")
        b.inn(answer(sent))
        if dport != 53:
            b.lives(120, "udp", f"{H1}:40000", f"{S1}:{dport}")
    found = b.flows("udp", f"{H1}:40000", f"{S1}:53")
    return f"a DNS session has {found[0]['left'] if found else 0} s left after its reply"


@row("U-5b")
def mapping_timer_configurable(b):
    """150 s from the dump; on the wire another value than in U-5."""
    b.config(timeouts={"udp": 150})
    b.out(udp(H1, 40000, S1, 3478))
    b.lives(150, "udp", f"{H1}:40000", most=150)
    short_timer(b, SHORT + 3)


@row("U-5c")
def mapping_timer_default(b):
    """At least five minutes, from the dump, before and after a reply."""
    sent = b.out(udp(H1, 40000, S1, 3478))
    b.lives(300, "udp", f"{H1}:40000")
    b.inn(answer(sent))
    b.lives(300, "udp", f"{H1}:40000")


@row("U-6")
def outbound_refreshes(b):
    """Sent again late in the mapping's life: its end counts from then."""
    life = b.short(6)
    b.config(timeouts={"udp": life})
    flows = [udp(H1, 40000 + n, S1, 3478) for n in range(3)]
    began = time.monotonic()
    alive, dead, once = (b.out(one) for one in flows)
    b.none_until(began + life - 1.5 - b.margin)
    refreshed = time.monotonic()
    with b.before(began + life - 1, always=True):
        for sent, one in zip((alive, dead), flows, strict=False):
            assert source(b.out(one)) == source(sent)
    ending = time.monotonic() + life + GRACE
    b.none_until(refreshed + life - 1 - b.margin)
    b.send_wan(answer(once))
    with b.before(refreshed + life - 1):
        b.inn(answer(alive))
    b.none_until(ending)
    b.drop_in(answer(dead))


@row("U-6a")
def inbound_does_not_refresh(b):
    """A peer that sends every second does not keep the mapping alive (RFC 4787: a stranger could)."""
    life = b.short(SHORT)
    b.config(timeouts={"udp": life})
    began = time.monotonic()
    sent = b.out(udp(H1, 40000, S1, 3478))
    for second in range(life - 1):
        b.none_until(began + second)
        with b.before(began + life - 1):
            b.inn(answer(sent))
    for _ in range(2 + GRACE):
        b.send_wan(answer(sent))
        b.none(1.0, but=lambda p: target(p) == (H1, 40000))
    b.drop_in(answer(sent))


@row("U-8")
def filtering(b):
    """Who may answer: the peer, the peer's other port, a stranger. By the three modes of the daemon."""
    let_in = {"endpoint-independent": (True, True), "address-dependent": (True, False), "address-and-port-dependent": (False, False)}
    for mode, (other_port, stranger) in let_in.items():
        if b.baseline and mode != "address-and-port-dependent":
            raise AssertionError("the kernel has no other filtering")
        b.config(main={"filtering": mode})
        mapped = source(b.out(udp(H1, 40000, S1, 3478)))
        assert target(b.inn(udp(S1, 3478, *mapped))) == (H1, 40000)
        for packet, passes in ((udp(S1, 9999, *mapped), other_port), (udp(S3, 9999, *mapped), stranger)):
            if passes:
                assert target(b.inn(packet)) == (H1, 40000)
            else:
                b.drop_in(packet)


@row("U-8a")
def filtering_configurable(b):
    """One host open to everybody, another not; then the other way round by a reload, with the mappings as they are."""
    if b.baseline:
        raise AssertionError("the kernel has no other filtering")

    def passes(mapped, inside):
        b.send_wan(udp(S3, 9999, *mapped))
        if not inside:
            return b.none_lan()
        return target(b.see_lan(lambda p: p.src == S3, "stranger's datagram")) == (inside, 40000)

    one = ("host", None, {"ip": H1, "filtering": "endpoint-independent"})
    other = ("host", None, {"ip": H2, "filtering": "endpoint-independent"})
    b.config(extra=[one])
    first, second = (source(b.out(udp(host, 40000, S1, 3478))) for host in (H1, H2))
    assert passes(first, H1)
    passes(second, None)
    b.config(extra=[one])
    first, second = (source(b.out(udp(host, 40000, S1, 3478))) for host in (H1, H2))
    b.bed.configure({"offload": b._offload}, [other])
    b.masqd("reload")
    for mapped, inside in ((first, H1), (second, H2)):
        assert target(b.inn(udp(S1, 3478, *mapped))) == (inside, 40000)
    passes(first, None)
    assert passes(second, H2)


@row("U-9")
def hairpin(b):
    """Two LAN hosts by the first one's external endpoint, both ways; the WAN sees nothing of it."""
    first = source(b.out(udp(H1, 40000, S1, 3478)))
    there = b.hairpin(udp(H2, 41000, *first))
    assert target(there) == (H1, 40000)
    back = b.hairpin(answer(there))
    assert target(back) == (H2, 41000)
    assert source(back) == first
    b.none_wan()


@row("U-9a")
def hairpin_source_is_external(b):
    """The one that is reached sees the other's external endpoint, which is the other's one mapping, and answers that."""
    first = source(b.out(udp(H1, 40000, S1, 3478)))
    seen = source(b.hairpin(udp(H2, 41000, *first)))
    assert seen[0] == X, f"from {seen}"
    b.none_wan(0.1)
    assert source(b.out(udp(H2, 41000, S1, 3478))) == seen
    again = source(b.out(udp(H3, 42000, S1, 3478)))
    assert source(b.hairpin(udp(H3, 42000, *first))) == again, "not the mapping that it had"


SIP = """\
{method} sip:bob@203.0.113.10 SIP/2.0\r
Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK776asdhds;rport\r
From: <sip:alice@203.0.113.10>;tag=1928301774\r
To: <sip:bob@203.0.113.10>\r
Call-ID: a84b4c76e66710@192.168.1.10\r
CSeq: 1 {method}\r
Contact: <sip:alice@192.168.1.10:5060>\r
Content-Type: application/sdp\r
Content-Length: {length}\r
\r
{body}"""
SDP = "v=0\r\no=alice 1 1 IN IP4 192.168.1.10\r\ns=-\r\nc=IN IP4 192.168.1.10\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\n"


@row("U-10")
def payload_untouched(b):
    """SIP with private addresses in its Contact and SDP, both ways, and a TFTP read request (the payload is compared by `out` and `inn`)."""
    for method, body in (("REGISTER", ""), ("INVITE", SDP)):
        text = SIP.format(method=method, length=len(body), body=body).encode()
        sent = b.out(udp(H1, 5060, S1, 5060, text))
        public = text.replace(b"192.168.1.10", X.encode()).replace(b":5060", f":{source(sent)[1]}".encode())
        assert target(b.inn(answer(sent, public))) == (H1, 5060)
    b.out(udp(H1, 40000, S1, 69, b"\0\1boot.img\0octet\0"))


@row("U-10a")
def alg_switches(b):
    """Each ALG on and off by itself: TFTP's answer from another port, FTP's PORT command."""

    def tftp():
        mapped = source(b.out(udp(H1, 40000, S1, 69, b"\0\1boot.img\0octet\0")))
        b.send_wan(udp(S1, 50123, *mapped, b"\0\3\0\1data"))
        got = b.comes_lan(lambda p: UDP in p and p[UDP].sport == 50123)
        return got is not None and target(got) == (H1, 40000)

    def ftp():
        c = b.connect(H1, 50000, S1, 21)
        c.inn("PA", b"220 ready\r\n")
        c.out("A")
        b.send_lan(c.segment_out("PA", b"PORT 192,168,1,10,156,64\r\n"))
        seen = b.see_wan(lambda p: b"PORT " in bytes(p), "PORT command")
        return b"PORT 203,0,113,1," in bytes(seen)

    for on in itertools.product((False, True), repeat=2):
        b.config(main={"alg_tftp": str(int(on[0])), "alg_ftp": str(int(on[1]))})
        found = tftp(), ftp()
        assert found == on, f"TFTP and FTP work {found} where they are {on}"


# ---- ICMP errors about mappings ---------------------------------------------------------------------------

UNREACHABLE_CODES = range(16)


@row("U-12")
def icmp_ends_no_mapping(b):
    """Every type that may tell of trouble, by a router and by the peer, each about the live mapping."""
    sent = b.out(udp(H1, 40000, S1, 3478, b"q" * 32))
    kinds = [(3, code) for code in UNREACHABLE_CODES] + [(4, 0), (5, 0), (5, 1), (11, 0), (11, 1), (12, 0), (12, 1), (12, 2), (13, 0)]
    for kind, code in kinds:
        for reporter in (R, S1):
            b.send_wan(error(reporter, sent, kind, code))
    b.none_lan(but=is_error())
    assert target(b.inn(answer(sent))) == (H1, 40000)
    assert source(b.out(udp(H1, 40000, S2, 3478))) == source(sent)
    assert len(b.flows("udp", f"{H1}:40000", S1)) == 1
    b.lives(120, "udp", f"{H1}:40000", S1)


@row("U-12a")
def icmp_whoever_sends_it(b):
    """From a router on the link, from one further away and from the peer: the outer source is kept."""
    sent = b.out(udp(H1, 40000, S1, 3478))
    for reporter in (R, "198.51.100.7", S1):
        b.send_wan(error(reporter, sent, 3, 1), source_mac=wan_mac(R))
        got = b.see_lan(is_error(3, 1), f"error by {reporter} on the LAN")
        assert got.src == reporter
        faults = error_faults(got, (H1, 40000), (S1, 3478), 3, 1)
        assert not faults, faults


@row("U-12b")
def icmp_unreachable(b):
    """Every code of type 3 gets through as it is."""
    sent = b.out(udp(H1, 40000, S1, 3478))
    for code in UNREACHABLE_CODES:
        b.send_wan(error(R, sent, 3, code, 1400 if code == 4 else 0))
        faults = error_faults(b.see_lan(is_error(), f"error 3/{code} on the LAN"), (H1, 40000), (S1, 3478), 3, code)
        assert not faults, f"3/{code}: {faults}"


# ---- size -------------------------------------------------------------------------------------------------


@row("U-13", bed={"wan_mtu": NARROW})
def too_big(b):
    """1428 bytes with DF where 1280 fit: the sender is told, in its own terms; nothing leaves. With the right size it does."""
    for _ in ("first of its session", "of a known session"):
        b.send_lan(udp(H1, 40000, S1, 3478, b"d" * 1400, flags="DF"))
        got = b.see_lan(is_error(), "error on the LAN")
        assert (got.src, got.dst) == (G, H1)
        faults = error_faults(got, (H1, 40000), (S1, 3478), 3, 4)
        assert not faults, faults
        assert got[ICMP].nexthopmtu == NARROW, f"next-hop MTU {got[ICMP].nexthopmtu}"
        b.none_wan(0.5)
        b.out(udp(H1, 40000, S1, 3478, b"d" * (NARROW - 28), flags="DF"))


@row("U-13a", bed={"wan_mtu": NARROW})
def too_big_is_split(b):
    """The same without DF: fragments in order that fit, of one identification, the first with the ports; together the datagram."""
    for n, _ in enumerate(("first of its session", "of a known session")):
        data = bytes([65 + n]) * 1400
        b.send_lan(udp(H1, 40000, S1, 3478, data, id=77))
        parts = [b.see_wan(lambda p: p.dst == S1, "fragment on the WAN") for _ in range(2)]
        b.none_wan(0.3)
        assert max(part.len for part in parts) <= NARROW
        assert [int(part.flags) for part in parts] == [MF >> 13, 0], "MF"
        assert parts[0].frag == 0 and parts[1].frag * 8 == parts[0].len - 20, "not in order, or not contiguous"
        assert len({part.id for part in parts}) == 1 and {part.ttl for part in parts} == {63}
        assert parts[0].src == parts[1].src == X
        reassembled(parts, data, 3478)


def reassembled(parts, data, dport):
    """Asserts that fragments make up one good UDP datagram to that port with that data; returns its source port."""
    faults = [one for part in parts for one in checksum_faults(part)]
    assert not faults, faults
    whole = b"".join(split(part)[1] for part in sorted(parts, key=lambda part: part.frag))
    first = parts[0]
    faults = checksum_faults(parse(IP(src=first.src, dst=first.dst, proto=17) / Raw(whole)))
    assert not faults, faults
    assert whole[8:] == data, f"{len(whole) - 8} bytes reassembled, not as sent"
    assert whole[2:4] == struct.pack("!H", dport)
    return struct.unpack("!H", whole[:2])[0]


@row("U-14")
def fragments_in_any_order(b):
    """3028 bytes in three fragments, in three orders, out and in; also as the first packet of a session."""

    def pass_through(sent, order, send, see, side):
        parts = fragments(sent)
        for n in order:
            send(parts[n])
        got = [see(lambda p: p.proto == 17 and (p.frag or p.flags.MF), f"fragment of order {order}") for _ in parts]
        assert {(one.frag, bool(one.flags.MF)) for one in got} == {(0, True), (175, True), (350, False)}
        assert len({one.id for one in got}) == 1, "several identifications"
        for one in got:
            b.forwarded(next(part for part in parts if part.frag == one.frag), one, side)
        return got

    for n, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 0, 2))):
        data = random.Random(n).randbytes(3000)
        for sport in (40000, 40001 + n):
            sent = udp(H1, sport, S1, 3478, data, id=1000 + n)
            got = pass_through(sent, order, b.send_lan, b.see_wan, "src")
            mapped = X, reassembled(got, data, 3478)
            back = udp(S1, 3478, *mapped, data=data[::-1], id=2000 + n)
            got = pass_through(back, order, b.send_wan, b.see_lan, "dst")
            assert {one.dst for one in got} == {H1}
            assert reassembled(got, data[::-1], sport) == 3478


@row("U-14a", alone=True)
def fragment_flood(b):
    """10,000 stray fragments from the WAN in ten seconds. Fragmented datagrams both ways and a stream lose nothing; the memory stays."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.inn(udp(S1, 3478, *mapped))
    seconds, rate, stream = 10, 1000, 100
    frame = bytearray(bytes(Ether(src=wan_mac(S3), dst=GATEWAY_MAC) / IP(src=S3, dst=X, proto=17, frag=100) / Raw(b"s" * 600)))

    def stray(n):
        # From a thousand sources, each with identifications of its own.
        frame[18:20] = struct.pack("!H", n)
        frame[26:30] = struct.pack("!BBBB", 198, 51, 100 + n % 4, n // 4 % 250 + 1)
        frame[24:26] = b"\0\0"
        frame[24:26] = struct.pack("!H", total(bytes(frame[14:34])) ^ 0xFFFF)
        b.bed.wan_wire.send_bytes(bytes(frame))

    began = time.monotonic()
    strays = sent = 0
    memory = []
    while strays < seconds * rate:
        due = int(min(time.monotonic() - began, seconds) * rate)
        for _ in range(min(due - strays, 50)):
            stray(strays)
            strays += 1
        while sent < strays * stream // rate:
            b.send_lan(udp(H1, 40000, S1, 3478, struct.pack("!I", sent), flags="DF"))
            if sent % 10 == 0:
                for part in fragments(udp(H2, 41000, S2, 3478, b"%04d" % sent + b"f" * 1996, id=sent)):
                    b.send_lan(part)
                for part in fragments(udp(S1, 3478, *mapped, b"%04d" % sent + b"f" * 1996, id=sent)):
                    b.send_wan(part)
            sent += 1
            if not b.baseline and sent in (seconds * stream // 5, seconds * stream - 1):
                memory.append(b.bed.resident())
        b.bed.wan_wire.poll(0)
        b.bed.lan_wire.poll(0)
    b.none(1.0, but=lambda _p: True)
    out = [p for _at, p in b.bed.wan_wire.seen]
    there = sum(p.dst == S1 and p.proto == 17 and p.len == 32 for p in out)
    assert there == sent, f"{there} of {sent} packets of the stream arrived"
    for seen, who in ((out, lambda p: p.dst == S2), ([p for _at, p in b.bed.lan_wire.seen], lambda p: p.src == S1)):
        parts = {}
        for p in filter(who, seen):
            if p.frag or p.flags.MF:
                parts.setdefault(p.id, {})[p.frag] = split(p)[1]
        whole = {got[0][8:12] for got in parts.values() if sorted(got) == [0, 175] and len(got[0] + got[175]) == 2008}
        assert len(whole) == sent // 10, f"{len(whole)} of {sent // 10} fragmented datagrams arrived whole"
    if memory:
        assert memory[1] - memory[0] <= 512, f"memory has grown from {memory[0]} to {memory[1]} kB in the flood"


@row("U-14b")
def overlapping_fragments(b):
    """A second fragment that reaches into the first, both ways: none of the datagram goes on."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.inn(udp(S1, 3478, *mapped))
    for send, packet in ((b.send_lan, udp(H1, 40000, S1, 3478, b"a" * 32, id=9)), (b.send_wan, udp(S1, 3478, *mapped, b"a" * 32, id=9))):
        first, last = fragments(packet, 24)
        last.frag = 1
        last[Raw].load = b"b" * 32
        send(first)
        send(last)
    b.none()
    if b.driver != "kernel":  # which puts datagrams together itself
        b.await_drops("fragment-overlap", 2)
