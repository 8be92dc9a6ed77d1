"""The life of a WAN and of a daemon: addresses that go and come, restarts, reloads (no RFC, most complained about)."""

import signal

from bed import H1, H2, S1, S2, S3
from case import X, is_error, source
from namespace import wait_until
from packets import tcp, udp
from registry import row
from scapy.layers.inet import IP, TCP

NEW = "203.0.113.77"


def settled(b, address):
    """Waits until masqd (or the kernel, which needs no waiting) knows the WAN's address."""
    if not b.baseline:
        wait_until(lambda: b.bed.status()["ports"][0]["address"] == address, f"address {address or 'none'} in masqd status")


def handshake(b, inside, peer):
    """A connection; returns the external endpoint."""
    mapped = source(b.out(tcp(*inside, *peer, "S", seq=100)))
    b.inn(tcp(*peer, *mapped, "SA", seq=900, ack=101))
    b.out(tcp(*inside, *peer, "A", seq=101, ack=901))
    return mapped


@row("W-1", fresh=True)
def new_address(b):
    """The next packet leaves from the new address through a mapping that works; nothing leaves from the old one, and nothing comes in by it."""
    old = source(b.out(udp(H1, 40000, S1, 3478)))
    handshake(b, (H1, 50000), (S1, 80))
    b.allow(NEW)
    b.bed.address(77)
    settled(b, NEW)
    b.bed.sniffer.allow([NEW])
    b.bed.guard_may_drop = True
    new = source(b.out(udp(H1, 40000, S1, 3478)))
    assert new[0] == NEW, f"leaves from {new[0]}"
    b.inn(udp(S1, 3478, *new))
    b.bed.lan_wire.discard()
    b.send_wan(udp(S1, 3478, *old))
    b.none_lan()
    b.send_lan(tcp(H1, 50000, S1, 80, "A", seq=101, ack=901))
    b.none_wan(but=lambda p: p.src == NEW)


@row("W-2", fresh=True)
def same_address_again(b):
    """UDP and TCP keep their external ports, and the server can go on with them at once."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    connection = handshake(b, (H1, 50000), (S1, 80))
    for _ in range(2):
        b.bed.address(0)
        settled(b, "")
        b.bed.address(1)
        settled(b, X)
        b.inn(udp(S1, 3478, *mapped))
        assert source(b.out(udp(H1, 40000, S1, 3478))) == mapped
        b.inn(tcp(S1, 80, *connection, "A", seq=901, ack=101))
        assert source(b.out(tcp(H1, 50000, S1, 80, "A", seq=101, ack=901))) == connection


@row("W-3", fresh=True)
def no_address(b):
    """Dropped with ICMP 3/0, also of a session that there was; the first packet after the address is back is translated."""
    b.out(udp(H1, 40000, S1, 3478))
    b.bed.address(0)
    settled(b, "")
    for port in (40000, 40001):
        b.send_lan(udp(H1, port, S1, 3478))
        b.see_lan(is_error(3, 0), "network unreachable")
    b.none_wan()
    b.bed.address(1)
    settled(b, X)
    for port in (40000, 40001):
        mapped = source(b.out(udp(H1, port, S1, 3478)))
        assert mapped[0] == X
        b.inn(udp(S1, 3478, *mapped))


@row("W-4", fresh=True, masqd_only=True)
def restarts(b):
    """kill -9, stop and start, reload: everything goes on, also with what comes from outside first."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    connection = handshake(b, (H1, 50000), (S1, 80))
    other = source(b.out(udp(H2, 40000, S1, 3478)))

    def restart(stop):
        stop()
        b.bed.recover()

    def reload():
        said = len(b.bed.daemon.lines)
        b.bed.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: any("configuration reloaded" in line for line in b.bed.daemon.lines[said:]), "the reload")

    for change in (lambda: restart(b.bed.crash), lambda: restart(b.bed.stop), reload):
        change()
        b.inn(udp(S1, 3478, *mapped))
        assert source(b.out(udp(H1, 40000, S2, 3478))) == mapped
        assert source(b.out(udp(H2, 40000, S1, 3478))) == other
        b.inn(tcp(S1, 80, *connection, "A", seq=901, ack=101))
        assert source(b.out(tcp(H1, 50000, S1, 80, "A", seq=101, ack=901))) == connection


@row("W-5", fresh=True)
def mtu_change(b):
    """1500, 1492, 1500: the MSS of SYN and of SYN with ACK follows."""
    for number, mtu in enumerate((1500, 1492, 1500)):
        b.bed.router.ip(f"link set wan0 mtu {mtu}")
        if not b.baseline:
            wait_until(lambda: b.bed.status()["ports"][0]["mtu"] == mtu, "the MTU in masqd status")
        b.send_lan(IP(src=H1, dst=S1) / TCP(sport=50000 + number, dport=80, flags="S", seq=1, options=[("MSS", 1460)]))
        there = b.see_wan(lambda p: TCP in p, "SYN")
        b.send_wan(IP(src=S1, dst=there.src) / TCP(sport=80, dport=there.sport, flags="SA", seq=1, ack=2, options=[("MSS", 1460)]))
        back = b.see_lan(lambda p: TCP in p, "SYN with ACK")
        for what, packet in (("SYN", there), ("SYN with ACK", back)):
            size = dict(packet[TCP].options)["MSS"]
            assert size == mtu - 40, f"MTU {mtu}: {what} announces {size}"


@row("W-6", fresh=True, masqd_only=True)
def deleted_forward(b):
    """Its sessions end with it, at once; those of another forward and of mappings go on."""
    forwards = [("redirect", None, {"proto": "tcp", "src_dport": str(port), "dest_ip": host, "dest_port": "22"}) for port, host in ((2222, H1), (40022, H2))]
    b.config(extra=forwards)
    for port in (2222, 40022):
        b.send_wan(tcp(S3, 5000, X, port, "S"))
        b.see_lan(lambda p: TCP in p and p.dport == 22, "SYN through the forward")
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    for left in (forwards[:1], []):
        b.bed.configure({"offload": b._offload}, left)
        said = len(b.bed.daemon.lines)
        b.bed.daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: any("configuration reloaded" in line for line in b.bed.daemon.lines[said:]), "the reload")
        assert len(b.flows("tcp")) == len(left), b.flows()
        b.inn(udp(S1, 3478, *mapped))
    b.bed.lan_wire.discard()
    b.send_wan(tcp(S3, 5000, X, 40022, "A"))
    b.none_lan()


@row("U-7", fresh=True, masqd_only=True)
def wan_in_the_lans_subnet(b):
    """The provider gives an address of the LAN's own subnet: nothing goes anywhere wrong, masqd says what is the matter, and is well again afterwards."""
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.allow("192.168.1.77")
    b.bed.wan_address = ""
    b.bed.router.ip("addr flush dev wan0", "addr add 192.168.1.77/24 dev wan0", "route replace default via 192.168.1.254 dev wan0")
    wait_until(lambda: any("overlaps" in warning for warning in b.bed.status()["warnings"]), "a warning in masqd status")
    b.send_lan(udp(H1, 40000, S1, 3478))
    b.send_lan(udp(H1, 40001, S1, 3478))
    b.await_drops("address-conflict", 2)
    b.none_wan()
    b.bed.address(1)
    settled(b, X)
    assert source(b.out(udp(H1, 40000, S1, 3478))) == mapped
    b.inn(udp(S1, 3478, *mapped))
