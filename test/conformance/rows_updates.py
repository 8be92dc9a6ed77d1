"""RFC 7857: updates to the behavioral requirements."""

import struct
import time

from bed import H1, H2, H3, S1, S2, S3
from case import GRACE, Connection, G, X, answer, error, source, target
from namespace import wait_until
from packets import echo, tcp, udp
from registry import row
from rows_icmp import hairpinned_errors
from rows_router import unique_identification
from rows_tcp import ESTABLISHED, TRANSITORY
from scapy.layers.inet import ICMP, UDP
from scapy.packet import Raw

# A timer short enough to be waited for, in seconds.
SHORT = 5
POOL = ("203.0.113.2", "203.0.113.3")


# ---- TCP state machine ------------------------------------------------------------------------------------------

# The states of figure 1 in the words of the dumps: masqd's, and the kernel's where it has the like.
INIT = {"syn-sent", "SYN_SENT"}
OPEN = {"established", "ESTABLISHED"}
CLIENT_FIN = {"fin-sent", "FIN_WAIT"}
SERVER_FIN = {"fin-received", "CLOSE_WAIT"}
BOTH_FINS = {"closing", "LAST_ACK", "TIME_WAIT", "CLOSING"}
TRANS = {"reset", "CLOSE"}


def is_in(c, states, life):
    """Asserts a connection's state, and that it has `life` left since its last packet."""
    flow = c.lives(life, most=life)
    assert flow["state"] in states, f"state {flow['state']}, wanted {'/'.join(states)}"


@row("N-2")
def state_machine(b):
    """Every arc of figure 1, with the default timers; those that are ends of timers with short ones."""
    for sport, first, second, middle in (
        (50000, Connection.out, Connection.inn, CLIENT_FIN),
        (50001, Connection.inn, Connection.out, SERVER_FIN),
    ):
        c = Connection(b, H1, sport, S1, 80)
        c.out("S")
        is_in(c, INIT, TRANSITORY)
        c.inn("SA")
        c.out("A")
        is_in(c, OPEN, ESTABLISHED)
        for reset in (c.out, c.inn):
            reset("R")
            is_in(c, TRANS, TRANSITORY)
            first(c, "PA", b"data")
            is_in(c, OPEN, ESTABLISHED)
        first(c, "FA")
        is_in(c, middle, ESTABLISHED)
        second(c, "A")
        second(c, "PA", b"more")
        is_in(c, middle, ESTABLISHED)
        second(c, "FA")
        is_in(c, BOTH_FINS, TRANSITORY)
        first(c, "A")
        is_in(c, BOTH_FINS, TRANSITORY)
    short, reset = b.short(3), b.short(20)
    b.config(timeouts={"tcp_opening": short, "tcp_established": short, "tcp_closing": short, "tcp_reset": reset})
    began = time.monotonic()
    with b.before(began + short - 1, always=True):
        idle, closing = b.connect(H1, 50002, S1, 80), b.connect(H1, 50003, S1, 80)
        closing.out("FA")
        closing.inn("FA")
        opening = Connection(b, H1, 50004, S1, 80)
        opening.out("S")
    b.none(short + 2 * GRACE)
    for c in (closing, opening):
        assert not b.flows("tcp", f"{H1}:{c.sport}"), "has not gone to CLOSED"
    with b.before(began + short + reset - 1):
        (flow,) = b.flows("tcp", f"{H1}:50002")
        assert flow["state"] in TRANS, f"idle for its time: {flow['state']}, wanted TRANS"
        revived = time.monotonic()
        idle.inn("PA", b"data")
    with b.before(revived + short - 1):
        is_in(idle, OPEN, short)


@row("N-2.1")
def transitory_timers(b):
    """Opening and closing have defaults of four minutes, and each its own option."""
    for opening, closing in ((TRANSITORY, TRANSITORY), (20, 40), (40, 20)):
        if (opening, closing) != (TRANSITORY, TRANSITORY):
            b.config(timeouts={"tcp_opening": opening, "tcp_closing": closing})
        syn = Connection(b, H1, 50000, S1, 80)
        syn.out("S")
        is_in(syn, INIT, opening)
        both = b.connect(H1, 50001, S1, 80)
        both.out("FA")
        both.inn("FA")
        is_in(both, BOTH_FINS, closing)


@row("N-2.2")
def resets(b):
    """A reset of either side is translated and keeps the state four minutes; data within them revives the connection, later it does not."""
    for sport, reset in ((50000, Connection.inn), (50001, Connection.out)):
        c = b.connect(H1, sport, S1, 80)
        reset(c, "R")
        c.lives(TRANSITORY)
        c.data()
        c.lives(ESTABLISHED)
    life = b.short(SHORT)
    b.config(timeouts={"tcp_reset": life})
    connections = [(b.connect(H1, 50002 + n, S1, 80), (Connection.inn, Connection.out)[n % 2]) for n in range(4)]
    began = time.monotonic()
    with b.before(began + life - 1):
        for c, reset in connections:
            reset(c, "R")
    ending = time.monotonic() + life + GRACE
    b.none_until(began + life - 2.5 - b.margin)
    with b.before(began + life - 1):
        for c, _ in connections[:2]:
            c.inn("PA", b"data")
    for c, _ in connections[:2]:
        c.out("A")
        c.lives(ESTABLISHED)
    b.none_until(ending)
    for c, _ in connections[2:]:
        b.send_wan(c.segment_in("PA", b"late"))
    b.none_lan()


# ---- mappings ---------------------------------------------------------------------------------------------------


@row("N-3")
def no_port_overlapping(b):
    """Without having been asked for, several hosts with one source port and different destinations do not share an external port."""
    for make, dport in ((udp, 3478), (tcp, 80)):
        seen = {source(b.out(make(host, 40000, peer, dport))) for host, peer in ((H1, S1), (H2, S2), (H3, S3))}
        assert len(seen) == 3, f"three hosts have {seen}"


@row("N-4", bed={"external": (X, *POOL)})
def full_address_is_not_left(b):
    """Of a pool of two addresses one is full, the other free again: hosts of the full one get no session by the other; UDP and TCP."""
    ports = 16
    b.config(
        main={"ports": ["40000-40015"]},
        extra=[("pool", None, {"external": list(POOL), "internal": ["192.168.1.0/24"]})],
    )
    b.inn(answer(b.out(udp(H1, 40000, S1, 53))))
    for make, dport in ((udp, 3478), (tcp, 80)):
        used = {source(b.out(make(H2, 40000 + n, S1, dport))) for n in range(ports)}
        assert len(used) == ports and len({address for address, _ in used}) == 1, f"{used}"
    (full,) = {address for address, _ in used}
    # The first host's only session, a question of the DNS that was answered, goes; with it its hold on the other address.
    wait_until(lambda: not b.flows("udp", H1), "the other address is free")
    for packet in (udp(H2, 41000, S1, 3478), tcp(H2, 41000, S1, 80)):
        b.drop_out(packet)
    assert b.out(udp(H2, 40000, S2, 3478)).src == full, "a known endpoint has left its address"
    assert b.out(udp(H1, 40000, S1, 3478)).src in set(POOL) - {full}, "another host does not get the free address"


@row("N-5")
def mappings_of_a_protocol(b):
    """One endpoint's TCP mapping says nothing about its UDP mapping: the latter's port is taken by another host, the former's is not."""
    other = source(b.out(udp(H2, 40000, S1, 3478)))
    by_tcp = source(b.out(tcp(H1, 40000, S1, 80)))
    by_udp = source(b.out(udp(H1, 40000, S1, 3478)))
    by_icmp = source(b.out(echo(H1, S1, 40000)))
    assert by_tcp == other, f"TCP port {by_tcp} where UDP has {other}: not by protocol"
    assert by_udp not in (by_tcp, other), "UDP has followed TCP"
    assert by_icmp == other, f"identifier {by_icmp}, not by protocol"
    for peer in (S2, S3):
        assert source(b.out(tcp(H1, 40000, peer, 80))) == by_tcp
        assert source(b.out(udp(H1, 40000, peer, 3478))) == by_udp


@row("N-6")
def filters_of_a_protocol(b):
    """Open to everybody by UDP is not open by TCP, and the reverse."""
    if not b.baseline:
        b.config(main={"filtering": "endpoint-independent"})
    by_tcp = b.connect(H1, 50000, S1, 80).external
    by_udp = source(b.out(udp(H1, 40000, S1, 3478)))
    for peer in (S1, S3):
        for port in (80, 3478, 9999):
            b.send_wan(udp(peer, port, *by_tcp))
            b.send_wan(tcp(peer, port, *by_udp))
    b.none_lan()
    assert len(b.flows()) == 2, f"state was made: {b.flows()}"


@row("N-7")
def filtered_packets_do_not_refresh(b):
    """A stranger who sends every second to mappings that are open to their peers' addresses only: they end in their time."""
    if not b.baseline:
        b.config(main={"filtering": "address-dependent"}, timeouts={"udp": SHORT, "tcp_established": SHORT, "tcp_reset": 1})
    else:
        b.config(timeouts={"udp": SHORT, "tcp_established": SHORT})
    by_udp = source(b.out(udp(H1, 40000, S1, 3478)))
    c = b.connect(H1, 50000, S1, 80)
    for _ in range(SHORT + 1 + 2 * GRACE):
        b.send_wan(udp(S3, 3478, *by_udp))
        b.send_wan(tcp(S3, 80, *c.external, "A", seq=1, ack=1))
        b.send_wan(tcp(S3, 81, *c.external))
        b.none_lan(1.0)
    assert not b.flows(), f"still there: {b.flows()}"
    b.send_wan(udp(S1, 3478, *by_udp))
    b.send_wan(c.segment_in("A"))
    b.none_lan()


@row("N-7.1")
def answers_of_refusal_do_not_refresh(b):
    """A peer that sends every second, a host that answers each with port unreachable or with a reset: the mappings end in their time."""
    b.config(timeouts={"udp": SHORT, "tcp_reset": SHORT})
    sent = b.out(udp(H1, 40000, S1, 3478))
    c = b.connect(H1, 50000, S1, 80)
    c.out("R")
    for _ in range(SHORT + 2 * GRACE):
        b.send_wan(answer(sent))
        b.send_lan(error(H1, udp(S1, 3478, H1, 40000), 3, 3))
        b.send_lan(c.segment_out("R"))
        b.none(1.0, but=lambda p: True)
    assert not b.flows("udp"), f"errors have refreshed: {b.flows('udp')}"
    assert not b.flows("tcp"), f"resets have refreshed: {b.flows('tcp')}"
    b.drop_in(answer(sent))


# ---- ports on request -------------------------------------------------------------------------------------------

PCP_PORT, MAP, PEER = 5351, 1, 2


def mapped(address):
    """An IPv4 address as PCP has it."""
    return bytes(10) + b"\xff\xff" + bytes(map(int, address.split(".")))


def ask_pcp(b, host, inside, protocol=17, lifetime=600, suggested=0, peer=None, nonce=b"conformance!"):
    """Asks for a port by PCP; (result code, lifetime, external address, external port)."""
    body = nonce + struct.pack("!B3xHH", protocol, inside, suggested) + mapped("0.0.0.0")
    if peer:
        body += struct.pack("!H2x", peer[1]) + mapped(peer[0])
    opcode = PEER if peer else MAP
    data = ask_router(b, host, struct.pack("!BB2xI", 2, opcode, lifetime) + mapped(host) + body)
    version, code, result, life = struct.unpack("!BBxBI", data[:8])
    assert (version, code) == (2, 0x80 | opcode)
    return result, life, ".".join(map(str, data[56:60])), struct.unpack("!H", data[42:44])[0]


def is_announcement(packet):
    """True for what a router that begins tells all hosts, up to ten times in some minutes (RFC 6886 section 3.2.1, RFC 6887 section 14.1.3)."""
    return UDP in packet and (source(packet), target(packet)) == ((G, PCP_PORT), ("224.0.0.1", 5350))


def ask_router(b, host, message, sport=5350):
    """Sends a message to the router's PCP port; the answer's data."""
    b.send_lan(udp(host, sport, G, PCP_PORT, message))
    got = b.see_lan(lambda p: UDP in p and p[UDP].sport == PCP_PORT and not is_announcement(p), "PCP answer")
    assert (source(got), target(got)) == ((G, PCP_PORT), (host, sport))
    return bytes(got[Raw].load)


@row("N-8", config={"main": {"pcp": "1"}})
def parity_on_request(b):
    """Ports asked for by PCP have the parity of the inside port, where they can not have its number, and a suggested one is given if it is free."""
    wrong = []
    for inside in range(40000, 40010):
        b.out(udp(H2, inside, S1, 3478))
        result, _, _, port = ask_pcp(b, H1, inside)
        assert result == 0 and port != inside
        if port % 2 != inside % 2:
            wrong.append(f"{inside} has {port}")
    assert not wrong, ", ".join(wrong)
    assert ask_pcp(b, H1, 45000, suggested=45678)[3] == 45678


# ---- what can not be guessed --------------------------------------------------------------------------------------


@row("N-9")
def changed_ports_are_obfuscated(b):
    """200 source ports that another host has: spread over seven eighths of the range at least, in no order, no difference that repeats."""
    first, last = (1024, 65535) if b.baseline else (32768, 65535)
    count = 200
    for n in range(count):
        b.out(udp(H2, 40000 + n, S1, 3478))
    given = [source(b.out(udp(H1, 40000 + n, S1, 3478)))[1] for n in range(count)]
    assert all(port != 40000 + n for n, port in enumerate(given)), "not changed"
    assert len(set(given)) == count, f"{len(set(given))} different ports of {count}"
    eighths = {(port - first) * 8 // (last - first + 1) for port in given}
    assert len(eighths) >= 7, f"only {len(eighths)} eighths of the range are used"
    steps = [b - a for a, b in zip(given, given[1:], strict=False)]
    assert len(set(steps)) > 0.9 * len(steps), f"{len(set(steps))} different steps of {len(steps)}"
    rising = sum(step > 0 for step in steps)
    assert 0.3 < rising / len(steps) < 0.7, f"{rising} of {len(steps)} steps rise"
    # A port that need not be changed is not: one that is not among those given by chance.
    free = next(port for port in range(41000, 42000) if port not in given)
    kept = source(b.out(udp(H1, free, S1, 3478)))[1]
    assert kept == free, f"{free} came out as {kept}"


@row("N-10")
def identification(b):
    """Row ID-1."""
    unique_identification(b)


@row("N-11")
def query_mapping_ends(b):
    """An identifier is free for another host when its last session has ended, and no earlier."""
    life = b.short(SHORT) + GRACE
    b.config(timeouts={"icmp": life})
    began = time.monotonic()
    asked = b.out(echo(H1, S1, 40077))
    b.out(echo(H1, S2, 40077))
    taken = source(asked)
    with b.before(began + life - 1):
        assert source(b.out(echo(H2, S3, 40077))) != taken
    ended = time.monotonic() + life + GRACE
    b.none_until(began + life - 1 - b.margin)
    refreshed = time.monotonic()
    with b.before(began + life - 1):
        assert source(b.out(echo(H1, S2, 40077))) == taken
    b.none_until(ended)
    with b.before(refreshed + life - 1):
        assert not b.flows("icmp", H1, S1), "the first session has not ended"
        assert source(b.out(echo(H3, S3, 40077))) != taken, "the mapping still has a session"
    b.none(life + GRACE)
    assert not b.flows("icmp"), f"not ended: {b.flows('icmp')}"
    got = b.out(echo(H2, S1, 40077))
    assert source(got) == taken, "not free again"
    assert b.inn(answer(asked)).dst == H2 and got[ICMP].id == asked[ICMP].id


@row("N-12")
def hairpinned_error(b):
    """Row I-7."""
    hairpinned_errors(b)
