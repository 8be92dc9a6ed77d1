"""RFC 4787: UDP."""

from bed import H1, H2, H3, S1, S2, S3
from case import GRACE, X, answer, source, target
from packets import udp
from registry import row

# A UDP timer short enough to be waited for, in seconds.
SHORT = 4


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


@row("U-3", config={"main": {"sessions": "8192"}})
def no_overloading(b):
    """300 hosts with one source port, to one destination and to several: what the kernel may give twice."""
    b.bed.router.ip("addr replace 192.168.2.1/24 dev lan0", "addr replace 192.168.3.1/24 dev lan0")
    hosts = [f"192.168.{net}.{n}" for net in (2, 3) for n in range(10, 160)]
    b.config(main={"sessions": "8192"})
    seen = {source(b.out(udp(host, 40000, (S1, S2, S3)[n % 3], 3478))) for n, host in enumerate(hosts)}
    b.bed.router.ip("addr del 192.168.2.1/24 dev lan0", "addr del 192.168.3.1/24 dev lan0")
    assert len(seen) == len(hosts), f"{len(hosts)} hosts have {len(seen)} external endpoints"


@row("U-5")
def mapping_timer(b):
    """The default from the dump; on the wire with a short timer, a flow of its own for alive and for dead."""
    b.out(udp(H1, 40000, S1, 3478))
    b.lives(120, "udp", f"{H1}:40000")
    b.config(timeouts={"udp": SHORT})
    alive, dead = b.out(udp(H1, 40001, S1, 3478)), b.out(udp(H1, 40002, S1, 3478))
    b.none(SHORT - 1.5)
    b.inn(answer(alive))
    b.none(1.5 + GRACE)
    b.drop_in(answer(dead))


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
