"""RFC 5382: TCP."""

import random
import time

from bed import H1, H2, H3, S1, S2, S3, R
from case import GRACE, LOOK, Connection, X, error, error_faults, is_error, source, target
from packets import tcp
from registry import row
from scapy.layers.inet import TCP

ESTABLISHED, TRANSITORY = 7440, 240
# What fits one segment without options, and how much "1 MB" is in the rows that send so much.
SEGMENT, MEGABYTE = 1448, 1 << 20


def crosswise(b):
    """Two hosts with one source port to two servers, crosswise: each keeps its own external endpoint. Returns them."""
    one, three = source(b.out(tcp(H1, 40000, S1, 80))), source(b.out(tcp(H3, 40000, S2, 80)))
    assert one != three
    assert source(b.out(tcp(H1, 40000, S2, 80))) == one
    assert source(b.out(tcp(H3, 40000, S1, 80))) == three
    return one, three


@row("T-1")
def endpoint_independent(b):
    """Two destinations by one port; then two hosts with one source port, crosswise."""
    first = source(b.out(tcp(H1, 50000, S1, 80)))
    assert source(b.out(tcp(H1, 50000, S2, 80))) == first
    _, three = crosswise(b)
    assert target(b.inn(tcp(S1, 80, *three, flags="SA", seq=5000, ack=1001))) == (H3, 40000)


# ---- sequences of segments ----------------------------------------------------------------------------------


def close(first, second):
    """FINs of both sides, each acknowledged; the arguments are `out` and `inn` of a connection or the reverse."""
    first("FA")
    second("A")
    second("FA")
    first("A")


def simultaneous_close(c):
    """Both FINs cross, then both acknowledgments."""
    c.out("FA")
    crossing = c.segment_in("FA")
    crossing[TCP].ack = c.mine - 1
    c.case.inn(crossing)
    c.theirs += 1
    c.out("A")
    c.inn("A")


def with_options(segment, options):
    segment[TCP].options = options
    return segment


@row("T-2")
def valid_sequences(b):
    """Every way to begin, use and end a connection, each by a connection of its own."""
    ports = iter(range(50000, 51000))

    for end in (
        lambda c: close(c.out, c.inn),
        lambda c: close(c.inn, c.out),
        simultaneous_close,
        lambda c: c.out("RA"),
        lambda c: c.inn("RA"),
        lambda c: c.inn("R"),
    ):
        c = b.connect(H1, next(ports), S1, 80)
        c.data()
        end(c)

    c = b.connect(H1, next(ports), S1, 80)
    c.out("FA")
    c.inn("A")
    download(c.inn, c.out)
    c.inn("FA")
    c.out("A")

    c = Connection(b, H1, next(ports), S1, 80)
    for _ in range(6):
        c.mine = 1000
        c.out("S")
    for _ in range(2):
        c.theirs = 900000
        c.inn("SA")
    c.out("A")
    c.data()

    # Data in the SYN and in its answer (RFC 7413), after the cookie was asked for.
    c = Connection(b, H1, next(ports), S1, 80)
    b.out(with_options(c.segment_out("S", b"GET / HTTP/1.0\r\n\r\n"), [("MSS", 1460), (34, b"12345678")]))
    c.mine += 19
    c.external = source(b.out(with_options(tcp(H1, c.sport, S1, 80, "S"), [("MSS", 1460), (34, b"")])))
    c.inn("SA")
    c.inn("PA", b"HTTP/1.0 204\r\n\r\n")
    c.out("A")
    c.data()

    c = Connection(b, H1, next(ports), S1, 80)
    c.out("SEC")
    c.inn("SAE")
    c.out("A")
    c.out("PA", b"x", tos=2)
    c.inn("AE")
    c.out("AC")

    c = Connection(b, H1, next(ports), S1, 80, seq_in=0xFFFFFF00, seq_out=0xFFFFFE00)
    c.out("S")
    c.inn("SA")
    c.out("A")
    for _ in range(4):
        c.out("PA", b"w" * 300)
        c.inn("PA", b"w" * 500)
    assert c.mine > 1 << 32 and c.theirs > 1 << 32
    close(c.out, c.inn)

    # A window of a gigabyte, and a segment far ahead within it.
    c = Connection(b, H1, next(ports), S1, 80)
    scale = [("MSS", 1460), ("WScale", 14)]
    c.external = source(b.out(with_options(c.segment_out("S"), scale)))
    c.mine += 1
    b.inn(with_options(c.segment_in("SA"), scale))
    c.theirs += 1
    wide = c.segment_out("A")
    wide[TCP].window = 65535
    b.out(wide)
    for ahead in (100_000, 10_000_000, 1_000_000_000):
        segment = c.segment_in("PA", b"far ahead")
        segment[TCP].seq = c.theirs + ahead
        b.inn(segment)
        c.out("A")
    c.data()


def download(send, acknowledge):
    """A megabyte one way by a connection's `send`, acknowledged now and then."""
    data = random.Random(1).randbytes(SEGMENT)
    for n in range(-(-MEGABYTE // SEGMENT)):
        send("A", data)
        if n % 16 == 15:
            acknowledge("A")
    acknowledge("A")


@row("T-2a")
def simultaneous_open(b):
    """Crossing SYNs, each answered; then data both ways."""
    c = Connection(b, H1, 50000, S1, 80)
    c.out("S")
    c.inn("S")
    c.mine -= 1
    c.out("SA")
    c.theirs -= 1
    c.inn("SA")
    c.out("A")
    c.data()
    c.lives(ESTABLISHED)


# ---- filtering ------------------------------------------------------------------------------------------------


@row("T-3a")
def filtering(b):
    """Whose SYN may come in by a live mapping: the peer from another port, a stranger. By the three modes of the daemon."""
    let_in = {"endpoint-independent": (True, True), "address-dependent": (True, False), "address-and-port-dependent": (False, False)}
    for mode, passes in let_in.items():
        if b.baseline and mode != "address-and-port-dependent":
            raise AssertionError("the kernel has no other filtering")
        b.config(main={"filtering": mode})
        mapped = b.connect(H1, 50000, S1, 80).external
        for peer, wanted in ((S1, passes[0]), (S3, passes[1])):
            syn = tcp(peer, 9999, *mapped, seq=77)
            if not wanted:
                b.drop_in(syn)
                continue
            assert target(b.inn(syn)) == (H1, 50000)
            assert source(b.out(tcp(H1, 50000, peer, 9999, "SA", seq=88, ack=78))) == mapped
            b.inn(tcp(peer, 9999, *mapped, "A", seq=78, ack=89))
            b.lives(ESTABLISHED, "tcp", f"{H1}:50000", f"{peer}:9999")


@row("T-4")
def silent_on_unsolicited_syn(b):
    """Nothing for 6 s, then ICMP port unreachable about it, within two more."""
    began = time.monotonic()
    b.send_wan(tcp(S2, 1234, X, 50999))
    tap, heard = b.bed.wan_wire, b.settle()
    got = tap.poll(heard + 8.0 - time.monotonic())
    if got is None:
        # Two seconds more have passed; masqd may only not have had its turn.
        b.settle()
        got = tap.poll(LOOK)
    assert got is not None, "no error in time"
    at, got = got
    assert is_error(3, 3)(got), got.summary()
    assert at >= began + 6.0, f"an error after {at - began:.2f} s"
    b.none_lan(0)
    assert got.dst == S2 and got.src == X
    faults = error_faults(got, (S2, 1234), (X, 50999))
    assert not faults, faults


@row("T-4'")
def own_syn_in_time(b):
    """A SYN of a peer, then within the six seconds the host's own to it: no error ever, and the peer's repeated SYN comes in."""
    c = Connection(b, H1, 50999, S2, 1234)
    # Asked for by another session first: the external port is known then.
    c.external = source(b.out(tcp(H1, 50999, S1, 80)))
    syn = c.segment_in("S")
    began = time.monotonic()
    b.send_wan(syn)
    b.none(3.0)
    with b.before(began + 6, always=True):
        c.out("S")
    b.none(0.5)
    c.inn("S")
    c.mine -= 1
    c.out("SA")
    c.theirs -= 1
    c.inn("SA")
    c.out("A")
    b.none(6.0)
    c.data()


@row("T-4a", config={"main": {"unsolicited_syn": "drop"}})
def silent_for_ever(b):
    """With the policy to drop: nothing in a minute, about SYNs to a free port and to one that is not open to their sender."""
    mapped = source(b.out(tcp(H1, 50000, S1, 80)))
    b.send_wan(tcp(S2, 1234, X, 50999))
    b.send_wan(tcp(S2, 1234, *mapped))
    b.none(60.0)


@row("T-4r")
def open_port_of_the_router(b):
    """A listener of the router, one outside and one inside masqd's range of ports: the SYN is answered at once, as without masqd."""
    services = [b.bed.router.listener("", port) for port in (2222, 40022)]
    try:
        b.config()
        for sport, service in zip((1234, 1235), services, strict=True):
            port = service.getsockname()[1]
            b.send_wan(tcp(S2, sport, X, port))
            got = b.see_wan(lambda p: TCP in p, f"answer of port {port}")
            assert (source(got), target(got), str(got[TCP].flags)) == ((X, port), (S2, sport), "SA"), got.summary()
            b.send_wan(tcp(S2, sport, X, port, "R", seq=1001))
        b.none_lan(0.2)
    finally:
        for service in services:
            service.close()


# ---- timers ---------------------------------------------------------------------------------------------------


@row("T-5")
def established_timer(b):
    """Right after the handshake, and after data."""
    c = b.connect(H1, 50000, S1, 80)
    c.lives(ESTABLISHED)
    c.data()
    c.lives(ESTABLISHED)


@row("T-5u")
def established_and_unacknowledged(b):
    """With a segment that was not acknowledged, after five retransmissions of it, and with a zero window."""
    c = b.connect(H1, 50000, S1, 80)
    for _ in range(6):
        b.out(c.segment_out("PA", b"unheard"))
        c.lives(ESTABLISHED)
    c = b.connect(H1, 50001, S1, 80)
    for _ in range(6):
        b.inn(c.segment_in("PA", b"unheard"))
        c.lives(ESTABLISHED)
    for sport, segment, send in ((50002, Connection.segment_in, b.inn), (50003, Connection.segment_out, b.out)):
        c = b.connect(H1, sport, S1, 80)
        closed = segment(c, "A")
        closed[TCP].window = 0
        send(closed)
        c.lives(ESTABLISHED)


@row("T-5h")
def half_closed(b):
    """One FIN, either side's, acknowledged; the other side sends on."""
    mine = b.connect(H1, 50000, S1, 80)
    mine.out("FA")
    mine.lives(ESTABLISHED)
    mine.inn("A")
    mine.lives(ESTABLISHED)
    mine.inn("PA", b"more")
    mine.out("A")
    mine.lives(ESTABLISHED)
    theirs = b.connect(H1, 50001, S1, 80)
    theirs.inn("FA")
    theirs.out("A")
    theirs.lives(ESTABLISHED)
    theirs.out("PA", b"more")
    theirs.inn("A")
    theirs.lives(ESTABLISHED)


@row("T-5t")
def transitory_timers(b):
    """SYN only; SYN and its answer; both FINs, acknowledged by nobody."""
    c = Connection(b, H1, 50000, S1, 80)
    c.out("S")
    c.lives(TRANSITORY)
    c.inn("SA")
    c.lives(TRANSITORY)
    for sport, first, second in ((50001, Connection.out, Connection.inn), (50002, Connection.inn, Connection.out)):
        c = b.connect(H1, sport, S1, 80)
        first(c, "FA")
        second(c, "FA")
        c.lives(TRANSITORY)


@row("T-5a")
def timers_configurable(b):
    """Each timer by its option: alive before its end, dead after it; the four at once, by two connections each. What is established may go on
    for the time of RFC 7857's state TRANS."""
    life = b.short(6)
    b.config(timeouts={"tcp_opening": life, "tcp_established": life, "tcp_closing": life, "tcp_reset": life})

    def opening(sport):
        c = Connection(b, H1, sport, S1, 80)
        c.out("S")
        return c

    def established(sport):
        return b.connect(H1, sport, S1, 80)

    def closing(sport):
        c = established(sport)
        c.out("FA")
        c.inn("FA")
        return c

    def reset(sport):
        c = established(sport)
        c.out("RA")
        return c

    kinds = (opening, established, closing, reset)
    began = time.monotonic()
    with b.before(began + life - 1):
        alive, dead = ([kind(first + n) for n, kind in enumerate(kinds)] for first in (50000, 50010))
    ending = time.monotonic() + life + GRACE
    b.none_until(began + life - 2.5 - b.margin)
    with b.before(began + life - 1):
        for kind, c in zip(kinds, alive, strict=True):
            c.inn("SA" if kind is opening else "A")
    b.none_until(ending)
    for kind, c in zip(kinds, dead, strict=True):
        if kind is not established:
            b.send_wan(c.segment_in("SA" if kind is opening else "A"))
    b.none_lan()
    b.none(life)
    b.drop_in(dead[kinds.index(established)].segment_in("A"))


@row("T-5k")
def keepalive_at_the_last_moment(b):
    """Two hours of 7,440 s, scaled: 12 s of idleness allowed, a keepalive after every 10, of either side."""
    life = b.short(12)
    b.config(timeouts={"tcp_established": life})
    began = time.monotonic()
    mine, theirs = b.connect(H1, 50000, S1, 80), b.connect(H1, 50001, S1, 80)
    for _ in range(3):
        b.none_until(began + life - 1.5 - b.margin)
        refreshed = time.monotonic()
        with b.before(began + life - 1, always=True):
            probe = mine.segment_out("A")
            probe[TCP].seq -= 1
            b.out(probe)
            mine.inn("A")
            probe = theirs.segment_in("A")
            probe[TCP].seq -= 1
            b.inn(probe)
            theirs.out("A")
        with b.before(refreshed + life - 1):
            for c in (mine, theirs):
                assert c.lives(0)["state"] in ("established", "ESTABLISHED"), "idle for too long"
        began = refreshed
    mine.data()
    theirs.data()


# ---- payload --------------------------------------------------------------------------------------------------


@row("T-6")
def payload_untouched(b):
    """What names private addresses in IRC (DCC), RTSP, H.323, SIP and PPTP, as it was sent (the payload is compared by `out` and `inn`)."""
    said = {
        6667: b"PRIVMSG bob :\x01DCC SEND file 3232235786 50000 4096\x01\r\n",
        554: b"SETUP rtsp://203.0.113.10/a RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP;unicast;destination=192.168.1.10;client_port=8000-8001\r\n\r\n",
        1720: b"\x03\x00\x00\x2a\x08\x02\x10\x05\x05\x04\x03\x88\x93\xa5\x7e\x00\x1a\x05\x20\x80\x06\x00\xc0\xa8\x01\x0a\xc3\x50" + bytes(14),
        5060: b"INVITE sip:bob@203.0.113.10 SIP/2.0\r\nContact: <sip:alice@192.168.1.10:5060;transport=tcp>\r\n\r\n",
        1723: b"\x00\xa8\x00\x01\x1a\x2b\x3c\x4d\x00\x07\x00\x00\x12\x34" + bytes(154),
    }
    for n, (port, text) in enumerate(said.items()):
        c = b.connect(H1, 50000 + n, S1, port)
        c.out("PA", text)
        c.inn("A")
        c.inn("PA", text.replace(b"192.168.1.10", X.encode()))
        c.out("A")


# ---- ports ----------------------------------------------------------------------------------------------------


@row("T-7")
def no_overloading(b):
    """Many hosts with one source port, to one server and to several: as many external ports."""
    crosswise(b)
    hosts = [f"192.168.1.{n}" for n in range(2, 62)]
    seen = {source(b.out(tcp(host, 41000, (S1, S2, S3)[n % 3], 80))) for n, host in enumerate(hosts)}
    assert len(seen) == len(hosts), f"{len(hosts)} hosts have {len(seen)} external endpoints"


def hairpinned(b):
    """h2 has connected to the external endpoint of h1's port 50000. Returns that endpoint, h2's, and functions that send the next segment
    of h2 and of h1 (flags, data) and check that it arrives."""
    first = source(b.out(tcp(H1, 50000, S1, 80)))
    numbers = {H1: 5000, H2: 1000}
    second = None

    def send(host, flags, data=b""):
        nonlocal second
        mine, peer = (H2, H1) if host == H2 else (H1, H2)
        ack = numbers[peer] if "A" in flags else 0
        here, there = ((H2, 51000), first) if host == H2 else ((H1, 50000), second)
        got = b.hairpin(tcp(*here, *there, flags, numbers[mine] & 0xFFFFFFFF, ack & 0xFFFFFFFF, data))
        assert target(got) == ((H1, 50000) if host == H2 else (H2, 51000)), got.summary()
        assert host == H2 or source(got) == first, f"from {source(got)}, not from {first}"
        assert second in (None, source(got)) or host == H1, f"the asker's endpoint has changed from {second} to {source(got)}"
        second = source(got) if host == H2 else second
        numbers[mine] += len(data) + sum(one in flags for one in "SF")
        return got

    def asker(flags, data=b""):
        return send(H2, flags, data)

    def asked(flags, data=b""):
        return send(H1, flags, data)

    asker("S")
    asked("SA")
    asker("A")
    return first, lambda: second, asker, asked


@row("T-8")
def hairpin(b):
    """A connection between two LAN hosts by the external endpoint of one: handshake, a megabyte, both ends closed; nothing of it on the WAN."""
    _, _, asker, asked = hairpinned(b)
    asker("PA", b"GET /\r\n")
    download(asked, asker)
    close(asked, asker)
    b.none_wan()


@row("T-8a")
def hairpin_source_is_external(b):
    """The one that is reached sees the asker's external endpoint, which is its one mapping."""
    _, seen, asker, asked = hairpinned(b)
    assert seen()[0] == X, f"from {seen()}"
    asker("PA", b"there")
    asked("PA", b"back")
    b.none_wan(0.1)
    assert source(b.out(tcp(H2, 51000, S1, 80))) == seen()


# ---- ICMP -----------------------------------------------------------------------------------------------------


@row("T-9")
def errors_are_translated(b):
    """Unreachable of three codes about a SYN and about data, quoting eight bytes of it and all of it."""
    c = Connection(b, H1, 50000, S1, 80)
    sent = [c.out("S")]
    c.inn("SA")
    c.out("A")
    sent.append(c.out("PA", b"q" * 600))
    for about in sent:
        for code, mtu in ((1, 0), (3, 0), (4, 1400)):
            for quote in (8, None):
                b.send_wan(error(R, about, 3, code, mtu, quote))
                got = b.see_lan(is_error(), f"error 3/{code} on the LAN")
                faults = error_faults(got, (H1, 50000), (S1, 80), 3, code)
                assert not faults, f"3/{code} quoting {quote or 'all'}: {faults}"
                assert (got.src, got.dst) == (R, H1)


@row("T-10")
def errors_end_no_connection(b):
    """Every type that may tell of trouble, by a router and by the peer, about a connection that opens and one that is open."""
    kinds = [(3, code) for code in range(16)] + [(4, 0), (5, 0), (5, 1), (11, 0), (11, 1), (12, 0), (12, 1), (12, 2), (13, 0)]
    opening, opened = Connection(b, H1, 50000, S1, 80), b.connect(H1, 50001, S1, 80)
    for sent in (opening.out("S"), opened.out("PA", b"data")):
        for kind, code in kinds:
            for reporter in (R, S1):
                b.send_wan(error(reporter, sent, kind, code))
    b.none_lan(but=is_error())
    assert opening.left() > 0 and opened.left() > 0
    opening.inn("SA")
    opening.out("A")
    for c in (opening, opened):
        c.data()
        c.lives(ESTABLISHED)


# ---- corners --------------------------------------------------------------------------------------------------


@row("T-x1")
def forged_reset(b):
    """Resets whose sequence number is far off, before and behind, and one to a connection that opens: not delivered, nothing changed."""
    c = b.connect(H1, 50000, S1, 80)
    c.data()
    for off in (0x40000000, -0x40000000, 1 << 20, -100000):
        forged = c.segment_in("R")
        forged[TCP].seq = (c.theirs + off) & 0xFFFFFFFF
        b.send_wan(forged)
    opening = Connection(b, H1, 50001, S1, 80)
    opening.out("S")
    forged = opening.segment_in("RA")
    forged[TCP].ack = (opening.mine + 0x40000000) & 0xFFFFFFFF
    b.send_wan(forged)
    b.none_lan()
    c.lives(ESTABLISHED)
    c.data()
    opening.inn("SA")
    opening.out("A")
    opening.data()


@row("T-x2")
def closing_tuple_is_used_again(b):
    """A SYN while both FINs have been seen, acknowledged or not, and after a reset: a new connection by the same external port."""
    for sport, end in (
        (50000, lambda c: close(c.out, c.inn)),
        (50001, simultaneous_close),
        (50002, lambda c: (c.out("FA"), c.inn("FA"))),
        (50003, lambda c: c.inn("RA")),
        (50004, lambda c: c.out("RA")),
    ):
        old = b.connect(H1, sport, S1, 80)
        old.data()
        end(old)
        new = b.connect(H1, sport, S1, 80, seq_in=500_000_000, seq_out=700_000_000)
        assert new.external == old.external
        new.data()
        new.lives(ESTABLISHED)


@row("T-x3")
def picked_up_in_the_middle(b):
    """Data of a connection that nobody knows: adopted, or reset towards its host; SYN+ACK, FIN and RST of unknown ones never leave as they are."""
    b.send_lan(tcp(H1, 50000, S1, 80, "PA", seq=5000, ack=7000, data=b"where were we"))
    got = b.comes_wan(lambda p: TCP in p)
    if got is None:
        got = b.see_lan(lambda p: TCP in p and "R" in str(p[TCP].flags), "neither adopted nor a reset")
        assert (source(got), target(got)) == ((S1, 80), (H1, 50000))
    else:
        assert got.src == X
        assert target(b.inn(tcp(S1, 80, *source(got), "A", seq=7000, ack=5013))) == (H1, 50000)
        b.lives(ESTABLISHED, "tcp", f"{H1}:50000")
    for sport, flags in ((50001, "SA"), (50002, "FA"), (50003, "R"), (50004, "RA"), (50005, "FPA")):
        b.send_lan(tcp(H1, sport, S1, 80, flags, seq=5000, ack=7000))
    b.none_wan(but=lambda p: p.src == X)
