"""RFC 5382: TCP."""

import time

from bed import H1, H3, S1, S2
from case import X, error_faults, is_error, source, target
from packets import tcp
from registry import row

ESTABLISHED = 7440


@row("T-1")
def endpoint_independent(b):
    """Two destinations by one port; then two hosts with one source port, crosswise."""
    first = source(b.out(tcp(H1, 50000, S1, 80)))
    assert source(b.out(tcp(H1, 50000, S2, 80))) == first
    one, three = source(b.out(tcp(H1, 40000, S1, 80))), source(b.out(tcp(H3, 40000, S2, 80)))
    assert one != three
    assert source(b.out(tcp(H1, 40000, S2, 80))) == one
    assert source(b.out(tcp(H3, 40000, S1, 80))) == three
    assert target(b.inn(tcp(S1, 80, *three, flags="SA", seq=5000, ack=1001))) == (H3, 40000)


@row("T-4")
def silent_on_unsolicited_syn(b):
    """Nothing for 6 s, then ICMP port unreachable about it."""
    began = time.monotonic()
    b.send_wan(tcp(S2, 1234, X, 50999))
    b.none(6.0)
    got = b.see_wan(is_error(3, 3), "port unreachable", seconds=4.0)
    assert time.monotonic() - began < 8.0, "the error is late"
    assert got.dst == S2 and got.src == X
    faults = error_faults(got, (S2, 1234), (X, 50999))
    assert not faults, faults


@row("T-5h")
def half_closed(b):
    """One FIN, either side's, acknowledged; the other side sends on."""
    mine = b.connect(H1, 50000, S1, 80)
    mine.out("FA")
    mine.inn("A")
    mine.lives(ESTABLISHED)
    theirs = b.connect(H1, 50001, S1, 80)
    theirs.inn("FA")
    theirs.out("A")
    theirs.lives(ESTABLISHED)
    theirs.out("PA", b"more")
    theirs.inn("A")
    theirs.lives(ESTABLISHED)
