"""What a row's function gets: `b`, one case on a bed. The verbs send frames, await frames, and check what every forwarded frame must keep."""

import contextlib
import math
import struct
import time

from scapy.layers.inet import ICMP as IcmpLayer
from scapy.layers.inet import IP
from scapy.layers.inet import TCP as TcpLayer
from scapy.layers.inet import UDP as UdpLayer
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import checks
from bed import GATEWAY, LAN_GATEWAY, R, lan_mac, wan_mac
from namespace import GUARD, wait_until
from packets import tcp
from rawbed import parse

# An expected packet comes within this on a quiet machine. One that is later is taken and noted: what has been lost is told by markers
# (marks.py), not by the clock.
SOON = 0.4
# Seconds to look for a packet before the markers are asked, and once more when they have come through: the kernel may still hold what masqd has sent.
LOOK = 3.0
# "none": nothing for at least this long, and until markers have come through.
SILENCE = 1.0
# Seconds for the kernel to hand over what masqd has sent, in proof of absence.
LAST_LOOK = 0.1
# Seconds by which a timer of whole seconds may be off.
GRACE = 2
# Seconds by which what must happen before a timer ends is begun before that, if the machine is not too slow for it.
MARGIN = 0.5

# Share of the time for which masqd may wait for a processor in a flood; half of it or less on a quiet machine of two.
STARVED = 0.1


class TooSlow(Exception):
    """The test machine was too slow for a case whose own time is short: it says nothing about masqd, and the case is begun anew with longer times."""


class Case:
    """One row on one bed.

    `load` is None, or the load of load.py under which the row runs this time.
    `margin` seconds by which what must happen in time is begun early; longer each time that the case was too slow.
    `bed` the namespaces and the daemon (rawbed.py), `driver` packet, tun or kernel, `baseline` True with the kernel's masquerade.
    Ports and addresses: H1 H2 H3 S1 S2 S3 R, X (the external address), G (the gateway's LAN address) of `bed` and this file.
    """

    def __init__(self, bed, offload="off", load=None, margin=MARGIN):
        self.bed = bed
        self.driver = "kernel" if bed.baseline else bed.driver
        self.baseline = bed.baseline
        self.notes = []
        self._offload = offload
        self.load = load
        self.margin = margin
        # Monotonic time at which masqd is known to have dealt with the last frame, inside `before`; None elsewhere.
        self._dealt = None
        # Monotonic time just before the last packet of a session was sent, by its inside endpoint and peer as texts.
        self._touched = {}
        self._allowed = list(bed.external)
        self._excuses = []
        self._drops = {}
        self._begun = False

    # ---- the daemon -----------------------------------------------------------------------------------

    def config(self, main=None, timeouts=None, extra=()):
        """Goes on with an empty table and this configuration: options of section masqd, of section timeouts, and further
        sections as (type, name, options). With a load, the table is filled again."""
        if self.load:
            self.load.stop()
            main = {"sessions": "1024", **(main or {})}
        if self._begun:
            self.check_capture()
        self.bed.run_with({"offload": self._offload, **(main or {})}, timeouts, extra)
        self.bed.sniffer.allow(self._allowed)
        self.bed.lan_wire.forget()
        self.bed.wan_wire.forget()
        self._begun = True
        self._began, self._waited, self._lost = time.monotonic(), self.bed.waited(), self.bed.queue_drops()
        self._touched.clear()
        self._drops = {} if self.baseline else self.bed.drops()
        if self.load:
            self.load.start(self.bed)

    def masqd(self, *argv, **options):
        """Runs another subcommand of masqd against the daemon; its result with stdout."""
        return self.bed.masqd(*argv, **options)

    def flush(self):
        """Empties the table."""
        self.bed.flush()
        self._drops = {} if self.baseline else self.bed.drops()

    def drops(self, reason):
        """Packets dropped for a reason since the case (or the last config or flush) began; masqd only."""
        return self.bed.drops(reason) - self._drops.get(reason, 0)

    def await_drops(self, reason, count=1):
        """Waits until that many packets have been dropped for the reason."""
        return wait_until(lambda: self.drops(reason) >= count, f"{count} drops for {reason}, have {self.bed.drops()}")

    def flows(self, protocol=None, inside=None, peer=None):
        """The sessions (dicts: protocol, internal, external, peer, state, left) that fit; endpoints as "address:port" or an address."""

        def fits(text, wanted):
            return wanted is None or text == wanted or text.rsplit(":", 1)[0] == wanted

        found = [f for f in self.bed.flows() if protocol in (None, f["protocol"]) and fits(f["internal"], inside) and fits(f["peer"], peer)]
        if self._dealt is not None:
            self._dealt = time.monotonic()
        return found

    def flow(self, protocol, inside, peer=None):
        """The one session that fits."""
        found = self.flows(protocol, inside, peer)
        assert len(found) == 1, f"{len(found)} sessions {protocol} {inside} {peer or ''}: {found or self.bed.flows()[:20]}"
        return found[0]

    def left(self, protocol, inside, peer=None):
        """Seconds that the one session that fits has left."""
        return self.flow(protocol, inside, peer)["left"]

    def lives(self, seconds, protocol, inside, peer=None, most=math.inf):
        """Asserts that the session has so much left, less what has passed since its last packet; and no more than `most`. Returns it."""
        flow = self.flow(protocol, inside, peer)
        # Its last packet as sent by `out` and `inn`; asking takes time too. Whole seconds: one may have begun anew.
        passed = int(time.monotonic() - self._touched.get((flow["internal"], flow["peer"]), self._began)) + 1
        assert seconds - passed <= flow["left"] <= most, f"{protocol} {inside}: {flow['left']} s left of {seconds}, used at most {passed} s ago"
        return flow

    def settle(self):
        """Waits until all that was sent so far has been dealt with (marks.py)."""
        return self.bed.marks.settle()

    @contextlib.contextmanager
    def before(self, deadline, always=False):
        """For what has to reach masqd before a monotonic time, because a timer of its own ends then. If it fails and masqd had not dealt with all of it by
        then, the machine was too slow; with `always` also if it does not fail: what follows would be worth nothing."""
        self._dealt = time.monotonic()
        try:
            yield
        except AssertionError as error:
            if self._dealt > deadline:
                raise TooSlow(f"{self._dealt - deadline:.1f} s too late: {error}") from error
            raise
        else:
            if always and self._dealt > deadline:
                raise TooSlow(f"{self._dealt - deadline:.1f} s too late")
        finally:
            self._dealt = None

    def starved(self):
        """Words if packets were lost while others had the processor that masqd needed, which says nothing about masqd; "" if not."""
        seconds, waited, lost = time.monotonic() - self._began, self.bed.waited() - self._waited, self.bed.queue_drops() - self._lost
        return f"{lost} packets lost while masqd waited {waited:.1f} of {seconds:.1f} s for a processor" if lost > 0 and waited > STARVED * seconds else ""

    def note(self, text):
        """Words that are shown with the row, whatever its outcome."""
        self.notes.append(text)

    def allow(self, *addresses):
        """Further sources that may be seen on the WAN (exempt destinations only)."""
        self._allowed += addresses
        self.bed.sniffer.allow(self._allowed)

    def excuse(self, wanted):
        """Packets with a wrong checksum for which `wanted(packet)` are not masqd's fault: the case has sent them so."""
        self._excuses.append(wanted)

    # ---- frames ---------------------------------------------------------------------------------------

    def send_lan(self, packet, source_mac=None):
        """Sends a packet (or an Ether frame as it is) from the LAN; the MAC is that of its source address."""
        self.bed.lan_wire.send(packet, source_mac)
        if self._dealt is not None:
            self._dealt = self.settle()

    def send_wan(self, packet, source_mac=None):
        """Likewise from the WAN."""
        self.bed.wan_wire.send(packet, source_mac)
        if self._dealt is not None:
            self._dealt = self.settle()

    def see_wan(self, wanted=None, what="packet on the WAN", delayed=False):
        """The next packet on the WAN for which `wanted(packet)`; others are passed over. Fails when markers sent now come through and it does not; a `delayed`
        one is waited for until the hang guard ends."""
        return self._see(self.bed.wan_wire, wanted, what, delayed)

    def see_lan(self, wanted=None, what="packet on the LAN", delayed=False):
        """Likewise on the LAN."""
        return self._see(self.bed.lan_wire, wanted, what, delayed)

    def _see(self, tap, wanted, what, delayed):
        began = time.monotonic()
        passed = []
        packet = self._next(tap, wanted, began + (GUARD if delayed else LOOK), passed)
        if packet is None and not delayed:
            self.settle()
            packet = self._next(tap, wanted, time.monotonic() + LOOK, passed)
        assert packet is not None, f"no {what} in {time.monotonic() - began:.1f} s; passed by: {[p.summary() for p in passed[:10]]}{self._why()}"
        took = time.monotonic() - began
        if took > SOON and not delayed:
            self.note(f"(busy machine: {took:.1f} s until {what})")
        return packet

    def comes_wan(self, wanted):
        """The packet on the WAN for which `wanted(packet)`, None if markers sent now come through and it does not."""
        return self._comes(self.bed.wan_wire, wanted)

    def comes_lan(self, wanted):
        """Likewise on the LAN."""
        return self._comes(self.bed.lan_wire, wanted)

    def _comes(self, tap, wanted):
        end = time.monotonic() + SILENCE
        self.settle()
        return self._next(tap, wanted, max(end, time.monotonic() + LAST_LOOK), [])

    @staticmethod
    def _next(tap, wanted, end, passed):
        while (got := tap.poll(max(end - time.monotonic(), 0))) is not None:
            if wanted is None or wanted(got[1]):
                return got[1]
            passed.append(got[1])
        return None

    def _why(self):
        if self.baseline:
            return ""
        new = {name: count - self._drops.get(name, 0) for name, count in self.bed.drops().items()}
        told = f"; dropped: { {name: count for name, count in new.items() if count} }"
        return (
            f"{told}; lost before masqd: {self.bed.queue_drops() - self._lost} in the TUN queue; tracked by the kernel: {self.bed.tracking()}"
            if self.driver == "tun"
            else told
        )

    def out(self, packet, **options):
        """Sends from the LAN, expects it on the WAN with an external source and all else as sent (TTL less one); returns it as seen."""
        sent = parse(packet)
        now = time.monotonic()
        self.send_lan(packet, options.pop("source_mac", None))
        got = self.forwarded(sent, self.see_wan(like(sent), f"{summary(sent)} on the WAN", **options), "src")
        if has_ports(sent):
            self._touched[endpoint(source(sent)), endpoint(target(sent))] = now
        return got

    def inn(self, packet, **options):
        """Sends from the WAN, expects it on the LAN with all but destination address and port as sent; returns it as seen."""
        sent = parse(packet)
        now = time.monotonic()
        self.send_wan(packet, options.pop("source_mac", None))
        got = self.forwarded(sent, self.see_lan(like(sent, "dst"), f"{summary(sent)} on the LAN", **options), "dst")
        if has_ports(sent) and sent.proto not in (checks.UDP, checks.ICMP):  # those are not refreshed from outside
            self._touched[endpoint(target(got)), endpoint(source(got))] = now
        return got

    def hairpin(self, packet, **options):
        """Sends from the LAN to an external endpoint, expects it back on the LAN with both ends translated."""
        sent = parse(packet)
        self.send_lan(packet)
        return self.forwarded(sent, self.see_lan(like(sent, "both"), f"{summary(sent)} back on the LAN", **options), "both")

    def forwarded(self, sent, got, side):
        """Asserts the invariants of a packet that was forwarded: what NAT does not change on this side (src, dst, both) is as sent."""
        faults = checks.forward_faults(parse(sent), got, side)
        assert not faults, f"{summary(got)}: {'; '.join(faults)}"
        return got

    # ---- silence --------------------------------------------------------------------------------------

    def none_wan(self, seconds=SILENCE, but=None):
        """Asserts that nothing comes on the WAN for at least that long and until all that was sent has been dealt with (nor is waiting); `but(packet)` says
        what may."""
        self._none(seconds, but, wan=self.bed.wan_wire)

    def none_lan(self, seconds=SILENCE, but=None):
        """Likewise on the LAN."""
        self._none(seconds, but, lan=self.bed.lan_wire)

    def none(self, seconds=SILENCE, but=None):
        """On both at once. Send all that must vanish first, then wait once."""
        self._none(seconds, but, wan=self.bed.wan_wire, lan=self.bed.lan_wire)

    def _none(self, seconds, but, **taps):
        end = time.monotonic() + seconds
        for last in (False, True):
            for side, tap in taps.items():
                while (got := tap.poll(max(end - time.monotonic(), 0))) is not None:
                    assert but is not None and but(got[1]), f"on the {side.upper()}, where nothing was due: {got[1].summary()}"
            if not last:
                end = self.settle() + LAST_LOOK

    def none_until(self, moment, but=None):
        """As `none`, until a monotonic time."""
        self.none(max(moment - time.monotonic(), 0), but)

    def drop_out(self, packet, seconds=SILENCE):
        """Sends from the LAN; nothing may come on the WAN."""
        self.send_lan(packet)
        self.none_wan(seconds)

    def drop_in(self, packet, seconds=SILENCE, but=None):
        """Sends from the WAN; nothing may come on the LAN, or only what `but(packet)` says."""
        self.send_wan(packet)
        self.none_lan(seconds, but)

    def forget(self):
        """Throws away what has arrived so far and was not looked at (after checking it)."""
        self.check_capture()
        self.bed.lan_wire.forget()
        self.bed.wan_wire.forget()

    def short(self, life):
        """Seconds for a timer that a case waits for: so many, or more if the case was too slow for that."""
        return life + math.ceil(3 * (self.margin - MARGIN))

    def check_capture(self):
        """Asserts the invariants of every frame seen so far; done in the end of each case anyway."""
        faults = self._capture_faults()
        assert not faults, "; ".join(faults)

    # ---- TCP ------------------------------------------------------------------------------------------

    def connect(self, inside, sport, peer, dport, **options):
        """A handshake begun by the LAN host; the connection to go on with."""
        c = Connection(self, inside, sport, peer, dport, **options)
        c.out("S")
        c.inn("SA")
        c.out("A")
        return c

    # ---- the end --------------------------------------------------------------------------------------

    def _capture_faults(self):
        """What is wrong with any packet seen on either side since `forget`."""
        faults = []
        for side, tap, mac_of, net in (
            ("WAN", self.bed.wan_wire, wan_mac, "203.0.113."),
            ("LAN", self.bed.lan_wire, lan_mac, "192.168.1."),
        ):
            while tap.poll(0) is not None:
                pass
            for _at, packet in tap.seen:
                wrong = [] if any(excused(packet) for excused in self._excuses) else checks.checksum_faults(packet)
                if side == "WAN" and packet.src not in self._allowed:
                    wrong.append("foreign source")
                if side == "WAN" and checks.is_private(packet.dst):
                    wrong.append("private destination")
                if isinstance(packet.underlayer, Ether) and packet.dst.startswith(net) and packet.underlayer.dst != mac_of(packet.dst):
                    wrong.append(f"sent to MAC {packet.underlayer.dst}")
                faults += [f"{side} {packet.summary()}: {one}" for one in wrong]
        return faults

    def finish(self):
        """The invariants over the whole case; words about each that was broken."""
        faults = self._capture_faults()
        if self.load:
            faults += self.load.end()
            self.notes += self.load.notes
        return faults + self.bed.complaints()


class Connection:
    """A TCP connection between two raw ends: knows the sequence numbers, translates nothing."""

    def __init__(self, case, inside, sport, peer, dport, seq_in=1000, seq_out=900000):
        self.case = case
        self.inside, self.sport, self.peer, self.dport = inside, sport, peer, dport
        # Next sequence number of the LAN host and of the peer.
        self.mine, self.theirs = seq_in, seq_out
        self.external = None

    def segment_out(self, flags, data=b"", **fields):
        """The LAN host's next segment, not sent and not counted."""
        ack = self.theirs if "A" in flags else 0
        return tcp(self.inside, self.sport, self.peer, self.dport, flags, self.mine & 0xFFFFFFFF, ack & 0xFFFFFFFF, data, **fields)

    def segment_in(self, flags, data=b"", **fields):
        """The peer's next segment to the external endpoint, likewise."""
        ack = self.mine if "A" in flags else 0
        address, port = self.external
        return tcp(self.peer, self.dport, address, port, flags, self.theirs & 0xFFFFFFFF, ack & 0xFFFFFFFF, data, **fields)

    def out(self, flags, data=b"", **fields):
        """Sends the LAN host's next segment and asserts that it comes through; always by the same external endpoint."""
        got = self.case.out(self.segment_out(flags, data, **fields))
        self.mine += len(data) + sum(one in flags for one in "SF")
        here = (got.src, got[TcpLayer].sport)
        assert self.external in (None, here), f"the external endpoint has changed from {self.external} to {here}"
        self.external = here
        return got

    def inn(self, flags, data=b"", **fields):
        """Sends the peer's next segment and asserts that it reaches the LAN host's endpoint."""
        got = self.case.inn(self.segment_in(flags, data, **fields))
        self.theirs += len(data) + sum(one in flags for one in "SF")
        assert (got.dst, got[TcpLayer].dport) == (self.inside, self.sport), summary(got)
        return got

    def data(self):
        """A few bytes both ways, acknowledged."""
        self.out("PA", b"there")
        self.inn("A")
        self.inn("PA", b"back")
        self.out("A")

    def left(self):
        """Seconds that the session has left."""
        return self.case.left("tcp", f"{self.inside}:{self.sport}", f"{self.peer}:{self.dport}")

    def lives(self, seconds, most=math.inf):
        """Asserts that it has so much left, as Case.lives does; returns the session."""
        return self.case.lives(seconds, "tcp", f"{self.inside}:{self.sport}", f"{self.peer}:{self.dport}", most)


# ---- packets --------------------------------------------------------------------------------------------


def ports(packet):
    """(source, destination) port of a packet of a protocol with ports, of an ICMP query (id, id)."""
    for layer in (UdpLayer, TcpLayer):
        if layer in packet:
            return packet[layer].sport, packet[layer].dport
    if packet.proto in checks.PORTED:
        return struct.unpack("!HH", checks.split(parse(packet))[1][:4])
    return packet[IcmpLayer].id, packet[IcmpLayer].id


def has_ports(packet):
    """True if source and target can be told."""
    return packet.frag == 0 and (UdpLayer in packet or TcpLayer in packet or packet.proto in checks.PORTED or IcmpLayer in packet)


def endpoint(pair):
    """An (address, port) as masqd writes it."""
    return f"{pair[0]}:{pair[1]}"


def source(packet):
    """(address, port) it comes from: on the WAN, the external endpoint."""
    return packet.src, ports(packet)[0]


def target(packet):
    """(address, port) it goes to: on the LAN, the inside endpoint."""
    return packet.dst, ports(packet)[1]


def answer(packet, data=b"answer", **fields):
    """The UDP datagram or echo reply with which its receiver answers a packet; `fields` go to the IP header."""
    ip = IP(src=packet.dst, dst=packet.src, **fields)
    if UdpLayer in packet:
        return ip / UdpLayer(sport=packet[UdpLayer].dport, dport=packet[UdpLayer].sport) / data
    return ip / IcmpLayer(type=0, id=packet[IcmpLayer].id, seq=packet[IcmpLayer].seq) / bytes(packet[IcmpLayer].payload)


def error(reporter, about, kind, code, mtu=0, quote=None, **fields):
    """The ICMP error of `reporter` to the source of a packet as it saw it; quotes all of it, or its first `quote` bytes after the IP header."""
    quoted = bytes(about)
    if quote is not None:
        quoted = quoted[: (quoted[0] & 15) * 4 + quote]
    return IP(src=reporter, dst=about.src, **fields) / IcmpLayer(type=kind, code=code, nexthopmtu=mtu) / quoted


def error_faults(got, inner_source, inner_target, kind=None, code=None):
    """Words about an ICMP error whose quote is not of a packet from `inner_source` to `inner_target` ((address, port)), or damaged."""
    if IcmpLayer not in got or got[IcmpLayer].type in checks.ICMP_QUERIES:
        return [f"not an ICMP error: {got.summary()}"]
    faults = checks.checksum_faults(got)
    if (kind if kind is not None else got[IcmpLayer].type, code if code is not None else got[IcmpLayer].code) != (got[IcmpLayer].type, got[IcmpLayer].code):
        faults.append(f"type {got[IcmpLayer].type} code {got[IcmpLayer].code}")
    inner = IP(checks.split(got)[1][8:])
    if checks.total(checks.split(inner)[0]) != 0xFFFF:
        faults.append("checksum of the quoted IP header wrong")
    complete = inner.len <= len(checks.split(got)[1]) - 8
    if complete:
        faults += [f"quoted {one}" for one in checks.checksum_faults(inner)]
    raw = checks.split(got)[1][8 + inner.ihl * 4 :]
    if inner.proto in checks.PORTED:
        seen = int.from_bytes(raw[0:2], "big"), int.from_bytes(raw[2:4], "big")
    else:
        seen = (int.from_bytes(raw[4:6], "big"),) * 2
    here = ((inner.src, seen[0]), (inner.dst, seen[1]))
    if here != (inner_source, inner_target):
        faults.append(f"quotes {here[0]} -> {here[1]}, wanted {inner_source} -> {inner_target}")
    return faults


def fragments(packet, size=1400):
    """A packet in fragments of `size` (a multiple of 8) payload bytes each; their IP-ID is the packet's."""
    header, payload = checks.split(parse(packet))
    parts = []
    for offset in range(0, len(payload), size):
        part = IP(header)
        part.flags = "MF" if offset + size < len(payload) else 0
        part.frag = offset // 8
        del part.len, part.chksum
        parts.append(part / Raw(payload[offset : offset + size]))
    return parts


def is_error(kind=None, code=None):
    """A predicate for ICMP errors."""
    return lambda p: IcmpLayer in p and p[IcmpLayer].type not in checks.ICMP_QUERIES and kind in (None, p[IcmpLayer].type) and code in (None, p[IcmpLayer].code)


def summary(packet):
    """A packet in a few words."""
    return packet.summary().replace("Ether / ", "").replace("IP / ", "")


def like(sent, side="src"):
    """A predicate: may be `sent` after its `side` (src, dst, both) was translated. The rest is compared by Case.forwarded."""
    first = not sent.frag

    def check(got):
        if got.proto != sent.proto or got.frag != sent.frag:
            return False
        if (side == "src" and got.dst != sent.dst) or (side == "dst" and got.src != sent.src):
            return False
        for layer in (UdpLayer, TcpLayer):
            if first and layer in sent:
                if layer not in got:
                    return False
                return (side != "src" or got[layer].dport == sent[layer].dport) and (side != "dst" or got[layer].sport == sent[layer].sport)
        if first and sent.proto in checks.PORTED:
            (sport, dport), (was, to) = ports(got), ports(sent)
            return (side != "src" or dport == to) and (side != "dst" or sport == was)
        if first and IcmpLayer in sent:
            return IcmpLayer in got and got[IcmpLayer].type == sent[IcmpLayer].type
        return True

    return check


X, G = GATEWAY, LAN_GATEWAY
__all__ = [
    "GRACE", "LOOK", "MARGIN", "R", "SILENCE", "SOON", "Case", "TooSlow", "Connection", "G", "X", "answer", "error", "error_faults", "fragments", "is_error", "like", "parse", "ports",
    "source", "summary", "target",
]  # fmt: skip
