"""RFC 5508: ICMP."""

from bed import H1, S1, R
from case import X, answer, error, error_faults, is_error, source, target
from packets import echo, udp
from registry import row
from scapy.layers.inet import ICMP, IP


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
