"""RFC 6888: what a carrier-grade NAT must do, as the quality bar for many hosts."""

import json
import struct
import time

from bed import H1, H2, H3, MASQD, S1, S2, S3, lan_mac
from case import GRACE, G, TooSlow, X, answer, error_faults, is_error, source, target
from load import listener
from namespace import wait_until
from packets import echo, tcp, udp
from rawbed import LOAD_PEER
from registry import row
from rows_icmp import comes
from rows_tcp import filtering as tcp_filtering
from rows_udp import filtering as udp_filtering
from rows_udp import paired_pooling
from rows_updates import POOL, ask_pcp, ask_router, changed_ports_are_obfuscated, is_announcement

# Sessions of the smallest table, which rows fill.
SMALL = 256


def is_refused(b, packet, code=1):
    """Sends a new flow of a LAN host that must be dropped, and its host told so (RFC 6888 REQ-11b)."""
    b.send_lan(packet)
    got = b.see_lan(lambda p: p.dst == packet.src and is_error()(p), "refusal on the LAN")
    assert got.src == G, got.summary()
    faults = error_faults(got, source(packet), target(packet), 3, code)
    assert not faults, faults


# ---- pools --------------------------------------------------------------------------------------------------------


@row("C-2", bed={"external": (X, *POOL)})
def pooling_is_paired(b):
    """Row U-2, without an option that asks for it."""
    paired_pooling(b)


SCATTERED = ("203.0.113.2", "203.0.113.7", "203.0.113.11", "203.0.113.12", "203.0.113.13")


@row("C-3", bed={"external": (X, *SCATTERED)}, masqd_only=True)
def scattered_pool(b):
    """Two single addresses and a range: each is used, answers to each arrive, and the address between them is not touched."""
    listed = ["203.0.113.2", "203.0.113.7", "203.0.113.11-203.0.113.13"]
    b.config(extra=[("pool", None, {"external": listed, "internal": ["192.168.1.0/24"]})])
    hosts = [f"192.168.1.{n}" for n in range(40, 48)]
    seen = {}
    for host in hosts:
        sent = b.out(udp(host, 40000, S1, 3478))
        assert target(b.inn(answer(sent))) == (host, 40000)
        seen[host] = sent.src
    assert set(seen.values()) == set(SCATTERED), f"used are {sorted(set(seen.values()))}"
    for host in hosts:
        assert b.out(tcp(host, 50000, S2, 80)).src == seen[host]


# ---- limits of a host ---------------------------------------------------------------------------------------------


def limited(b, flow, most):
    """A host opens flows `flow(host, n)` up to its limit and one more: refused; what it has works, another host is not concerned."""
    held = [b.out(flow(H1, n)) for n in range(most)]
    is_refused(b, flow(H1, most))
    b.none_wan(0.5)
    for n in (0, most - 1):
        assert source(b.out(flow(H1, n))) == source(held[n])
        b.inn(answer(held[n]))
    for n in range(most + 1):
        b.out(flow(H2, n))


def by_port(host, n):
    """Flows that are a mapping each."""
    return udp(host, 40000 + n, S1, 3478)


def by_peer(host, n):
    """Flows that are sessions of one mapping."""
    return udp(host, 40000, (S1, S2, S3)[n % 3], 3000 + n)


@row("C-4", config={"extra": [("host", None, {"ip": H1, "max_sessions": "50"})]})
def limit_of_mappings(b):
    """A limit of 50: the host's 51st mapping is refused; so are TCP and ICMP ones."""
    limited(b, by_port, 50)
    is_refused(b, tcp(H1, 50000, S1, 80))
    is_refused(b, echo(H1, S1, 77))


@row("C-4a")
def limit_of_mappings_configurable(b):
    """For all hosts, and for one that has its own."""
    b.config(main={"max_sessions": "5"}, extra=[("host", None, {"ip": H3, "max_sessions": "3"}), ("host", None, {"ip": H2, "max_sessions": "20"})])
    limited(b, by_port, 5)
    for n in range(3):
        b.out(by_port(H3, n))
    is_refused(b, by_port(H3, 3))


def rate(b, flow):
    """A host that may open 10 sessions a second tries 100 at once; another tries as many and may."""
    tried, allowed = 100, 10
    began = time.monotonic()
    for n in range(tried):
        b.send_lan(flow(H1, n))
    # Seconds of masqd's clock that it may have had for them.
    seconds = int(b.settle() - began) + 2
    if allowed * seconds >= tried:
        raise TooSlow(f"{tried} packets have taken {seconds} s")
    b.none(1.0, but=lambda p: True)
    got = sum(p.src == X for _at, p in b.bed.wan_wire.seen)
    told = sum(p.dst == H1 and is_error(3, 1)(p) for _at, p in b.bed.lan_wire.seen)
    assert allowed <= got <= allowed * seconds, f"{got} of {tried} sessions in {seconds} s where {allowed} a second are allowed"
    assert told > 0, "the host was not told"
    b.forget()
    for n in range(30):
        b.out(flow(H2, n))
    # In a later second it may have more.
    b.out(flow(H1, tried))


@row("C-4c", config={"extra": [("host", None, {"ip": H1, "max_rate": "10"})]})
def rate_of_mappings(b):
    """Ten new mappings a second for one host."""
    rate(b, by_port)


@row("C-5", config={"extra": [("host", None, {"ip": H1, "max_sessions": "50"})]})
def limit_of_sessions(b):
    """A limit of 50: the 51st session of one mapping is refused."""
    limited(b, by_peer, 50)


@row("C-5a")
def limit_of_sessions_configurable(b):
    """For all hosts, and for one that has its own."""
    b.config(main={"max_sessions": "4"}, extra=[("host", None, {"ip": H2, "max_sessions": "20"})])
    limited(b, by_peer, 4)


@row("C-5b", config={"extra": [("host", None, {"ip": H1, "max_rate": "10"})]})
def rate_of_sessions(b):
    """Ten new sessions of one mapping a second."""
    rate(b, by_peer)


# ---- destinations ---------------------------------------------------------------------------------------------------


@row("C-6")
def exempt_destination(b):
    """One destination is not translated, by UDP, TCP and ICMP, both ways; any other is."""
    b.config(extra=[("exempt", None, {"dest": f"{S3}/32"})])
    b.allow(H1)
    for packet in (udp(H1, 40000, S3, 3478), tcp(H1, 50000, S3, 80), echo(H1, S3, 77)):
        got = b.out(packet)
        assert source(got) == source(packet), f"translated to {source(got)}"
    assert target(b.inn(udp(S3, 3478, H1, 40000))) == (H1, 40000)
    for packet in (udp(H1, 40000, S1, 3478), tcp(H1, 50000, S2, 80), echo(H1, S2, 77)):
        assert b.out(packet).src == X


@row("C-7")
def endpoint_independent_filtering(b):
    """Rows U-8 and T-3a, of which endpoint independence is one mode."""
    udp_filtering(b)
    tcp_filtering(b)


@row("C-8", guard=300.0)
def freed_port_rests(b):
    """The port of a mapping that was open to everybody is not another host's for two minutes, though all others are taken; then it is. After
    the daemon was killed neither."""
    few = 8
    # The host that wants the port has its own free at once: nobody else may have learned it.
    other = ("host", None, {"ip": H2, "filtering": "address-and-port-dependent"})
    settings = dict(main={"filtering": "endpoint-independent", "ports": [f"40000-{40000 + few - 1}"]}, timeouts={"udp": 2}, extra=[other])
    if b.baseline:
        settings = dict(timeouts={"udp": 2})
    b.config(**settings)
    began = time.monotonic()
    sent = b.out(udp(H1, 40000, S1, 3478))
    ended = time.monotonic() + 2 + GRACE
    freed = source(sent)
    b.none_until(ended)
    assert not b.flows("udp", H1), "not expired"

    def taken():
        """External ports that another host gets when it wants all of them."""
        b.forget()
        for n in range(few):
            b.send_lan(udp(H2, 40000 + n, S1, 3478))
        b.none(0.5, but=lambda p: True)
        return {source(p) for _at, p in b.bed.wan_wire.seen}

    assert freed not in taken(), "given to another host at once"
    assert len(taken()) == few - 1, "others are not given either"
    b.none_until(began + 2 + 112, but=lambda p: True)
    with b.before(began + 2 + 120 - 1):
        assert freed not in taken(), "given to another host before two minutes"
    b.none_until(ended + 120 + 2 * GRACE, but=lambda p: True)
    assert freed in taken(), "never given again"
    if b.baseline:
        return
    b.none(2 + GRACE, but=lambda p: True)
    freed = source(b.out(udp(H1, 40000, S1, 3478)))
    b.bed.crash()
    b.bed.recover()
    assert freed not in taken(), "given to another host after a crash"


# ---- mappings on request --------------------------------------------------------------------------------------------


@row("C-9", config={"main": {"pcp": "1"}})
def mappings_on_request(b):
    """PCP MAP is open to everybody for as long as was asked, PEER to the peer alone, NAT-PMP too; and each can be ended."""
    result, life, address, port = ask_pcp(b, H1, 40000, suggested=45678)
    assert (result, life, address, port) == (0, 600, X, 45678)
    for peer in (S1, S3):
        assert target(b.inn(udp(peer, 9999, X, port))) == (H1, 40000)
    assert source(b.out(udp(H1, 40000, S2, 3478))) == (X, port), "sends from another port"
    result, _, _, port = ask_pcp(b, H1, 50000, protocol=6)
    assert result == 0
    assert target(b.inn(tcp(S3, 9999, X, port))) == (H1, 50000)
    assert ask_pcp(b, H1, 50000, protocol=6, lifetime=0)[0] == 0
    b.drop_in(tcp(S2, 9999, X, port), but=is_announcement)
    result, _, _, port = ask_pcp(b, H2, 41000, peer=(S1, 3478))
    assert result == 0
    assert target(b.inn(udp(S1, 3478, X, port))) == (H2, 41000)
    b.drop_in(udp(S3, 3478, X, port), but=is_announcement)
    # NAT-PMP: the external address, then a UDP port (RFC 6886 sections 3.2 and 3.3).
    assert struct.unpack("!BBH4x4s", ask_router(b, H1, b"\0\0"))[2:] == (0, bytes(map(int, X.split("."))))
    told = ask_router(b, H1, struct.pack("!BBHHHI", 0, 1, 0, 42000, 0, 300))
    code, result, inside, port, life = struct.unpack("!xBH4xHHI", told)
    assert (code, result, inside, life) == (129, 0, 42000, 300)
    assert target(b.inn(udp(S3, 9999, X, port))) == (H1, 42000)


@row("C-10", masqd_only=True)
def manageable(b):
    """What RFC 7659 wants to be readable: limits and use of the table, of ports and of hosts, packets by session and direction, drops by reason."""
    sent = b.out(udp(H1, 40000, S1, 3478, b"1234"))
    b.inn(answer(sent, b"12345678"))
    b.out(tcp(H2, 50000, S1, 80))
    b.drop_in(udp(S3, 9999, *source(sent)))
    status = json.loads(b.masqd("status", "-j").stdout)
    assert (status["sessions"]["used"], status["hosts"]) == (2, 2)
    ports = {one["protocol"]: one["total"] - one["free"] for one in status["externalPorts"]}
    assert (ports["udp"], ports["tcp"]) == (1, 1)
    assert status["forwarded"]["out"] >= 2 and status["forwarded"]["in"] >= 1
    (flow,) = b.flows("udp")
    assert (flow["internal"], flow["external"], flow["peer"]) == (f"{H1}:40000", ":".join(map(str, source(sent))), f"{S1}:3478")
    assert (flow["packetsOut"], flow["packetsIn"], flow["bytesOut"], flow["bytesIn"]) == (1, 1, 32, 36)
    assert b.drops("filtered") == 1


# ---- exhaustion -------------------------------------------------------------------------------------------------------


def exhaust(b):
    """Fills the table with answered sessions of one host."""
    held = [b.out(udp(H1, 20000 + n, S1, 3478)) for n in range(SMALL)]
    for sent in held:
        b.inn(answer(sent))
    return held


NEW = (udp(H3, 40000, S2, 3478), tcp(H3, 50000, S2, 80), echo(H3, S2, 77))


@row("C-11a", config={"main": {"sessions": str(SMALL)}}, masqd_only=True)
def exhausted(b):
    """A full table of answered sessions: new flows of any protocol are dropped; with room again they pass."""
    exhaust(b)
    for packet in (*NEW, udp(H1, 45000, S2, 3478)):
        b.send_lan(packet)
    b.none_wan()
    b.await_drops("table-full", 4)
    b.flush()
    for packet in NEW:
        b.out(packet)


@row("C-11b", config={"main": {"sessions": str(SMALL)}}, masqd_only=True)
def exhausted_and_told(b):
    """Each host that was refused gets ICMP 3/1."""
    exhaust(b)
    for packet in (*NEW, udp(H1, 45000, S2, 3478)):
        is_refused(b, packet)


@row("C-11c", config={"main": {"sessions": str(SMALL)}}, masqd_only=True)
def exhausted_and_owner_told(b):
    """The owner reads it: counted with what to do about it, and told without being asked."""
    exhaust(b)
    said = len(b.bed.daemon.lines)
    b.send_lan(NEW[0])
    b.await_drops("table-full", 1)
    (one,) = [one for one in b.bed.status()["drops"] if one["reason"] == "table-full"]
    assert "sessions" in one["remedy"]
    wait_until(lambda: any("table-full" in line for line in b.bed.daemon.lines[said:]), "word of the daemon about it")


@row("C-11d", config={"main": {"sessions": str(SMALL)}}, masqd_only=True)
def live_mappings_stay(b):
    """However many new flows are wanted, every session that was answered goes on, both ways."""
    held = exhaust(b)
    for n in range(3 * SMALL):
        b.send_lan(udp(f"192.168.1.{40 + n % 30}", 30000 + n, S2, 3478))
    b.none_wan()
    assert len(b.flows("udp", H1)) == SMALL, "sessions have been ended"
    for n, sent in enumerate(held):
        assert target(b.inn(answer(sent))) == (H1, 20000 + n)
        assert source(b.out(udp(H1, 20000 + n, S1, 3478))) == source(sent)


# ---- logs -------------------------------------------------------------------------------------------------------------


class Watch:
    """`masqd watch` while it runs."""

    def __init__(self, b, *options):
        self.process = b.bed.router.start(MASQD, "watch", *options, "--socket", b.bed.socket_path)
        b.bed._closing.callback(self.process.kill)
        self._b = b
        self._from = 0
        # It listens when it tells of a session.
        wait_until(self._hears, "that the watch has begun")
        self._from = len(self.process.lines)

    def _hears(self):
        self._b.out(udp(H3, 59999, S3, 9))
        assert self.process.running(), self.process.output
        said = bool(self.process.lines)
        self._b.masqd("flush", "all")
        return said

    @property
    def lines(self):
        """What it has said since."""
        return self.process.lines[self._from :]

    def await_lines(self, wanted, what):
        """Waits until `wanted(lines)`."""
        wait_until(lambda: wanted(self.lines), f"{what}, have {self.lines[:20]}")
        return self.lines

    def close(self):
        self.process.kill()


@row("C-12", masqd_only=True)
def no_destinations_in_logs(b):
    """The mapping log names protocol, host, external endpoint and time of each mapping, its beginning and end, and no destination; nor does what
    the daemon says."""
    log = Watch(b, "--log")
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.out(tcp(H1, 50000, S2, 8080))
    wait_until(lambda: len(b.flows()) == 2, "two sessions")
    b.masqd("flush", "all")
    lines = log.await_lines(lambda lines: sum(f"{H1}:" in line for line in lines) >= 4, "two mappings begun and ended")
    log.close()
    assert any(" + " in line and f"{H1}:40000" in line and f"{mapped[0]}:{mapped[1]}" in line and "udp" in line for line in lines), lines
    assert any(" - " in line and f"{H1}:40000" in line for line in lines), lines
    for line in (*lines, *b.bed.daemon.lines):
        assert not any(word in line for word in (S1, S2, "3478", "8080")), f"a destination in: {line}"


@row("C-13", config={"main": {"sessions": "65535", "ports": ["1024-65535"]}})
def all_ports_are_used(b):
    """64,000 flows of 64 hosts with the same source ports: nearly as many external ports, each once."""
    hosts, each = [f"192.168.1.{n}" for n in range(2, 66)], 1000
    first, last = 1024, 65535
    seen = set()
    with listener(b.bed.wan, LOAD_PEER) as tap:
        for host in hosts:
            frame = bytearray(b.bed.lan_wire.frame(udp(host, 1, LOAD_PEER, 9), lan_mac(host)))
            frame[40:42] = b"\0\0"  # no UDP checksum: only the port changes
            for n in range(0, each, 50):
                for port in range(20000 + n, 20000 + n + 50):
                    frame[34:36] = port.to_bytes(2, "big")
                    b.bed.lan_wire.send_bytes(frame)
                for _ in range(50):
                    if not comes(b, tap):
                        break
                    seen.add(int.from_bytes(tap.recv(128)[34:36], "big"))
        sent = len(hosts) * each
        assert len(seen) >= 0.99 * (last - first + 1), f"{len(seen)} ports for {sent} flows"
    assert min(seen) >= first
    return f"{len(seen)} external ports for {sent} flows of {last - first + 1} ports"


@row("C-14", masqd_only=True)
def little_is_logged(b):
    """Nothing by flow unless asked for; the mapping log has a line for a mapping, not one for a session."""
    said = len(b.bed.daemon.lines)
    for n in range(100):
        b.out(udp(H1, 40000 + n, S1, 3478))
    assert b.bed.daemon.lines[said:] == [], "the daemon talks about flows"
    b.flush()
    log = Watch(b, "--log")
    for n in range(50):
        b.out(udp(H2, 40000, (S1, S2, S3)[n % 3], 3000 + n))
    b.out(udp(H2, 40001, S1, 3478))
    lines = log.await_lines(lambda lines: any(f"{H2}:40001" in line for line in lines), "the second mapping")
    log.close()
    assert len([line for line in lines if H2 in line]) == 2, lines


@row("C-15")
def ports_can_not_be_guessed(b):
    """Row N-9."""
    changed_ports_are_obfuscated(b)


# ---- events (RFC 8158) --------------------------------------------------------------------------------------------------

ADDRESSES_EXHAUSTED, SESSION_CREATE, SESSION_DELETE, BIB_CREATE, BIB_DELETE, PORTS_EXHAUSTED, QUOTA_EXCEEDED, THRESHOLD = 3, 4, 5, 8, 9, 12, 13, 18
QUOTA_SESSIONS, QUOTA_USER, QUOTA_FRAGMENTS = 1, 3, 5
# Address and port mapping high threshold.
MAPPING_THRESHOLD = 3


@row("L-1", masqd_only=True, bed={"external": (X, *POOL)})
def events(b):
    """Sessions and mappings begun and ended, ports and addresses exhausted, quotas exceeded: by user, of the table, of fragments; a
    threshold of the table; with what RFC 8158 says of each."""

    def heard(watch, **wanted):
        def fits(lines):
            return any(all(event.get(key) == value for key, value in wanted.items()) for event in map(json.loads, lines))

        watch.await_lines(fits, f"an event with {wanted}")

    watch = Watch(b, "-j")
    mapped = source(b.out(udp(H1, 40000, S1, 3478)))
    b.out(udp(H1, 40000, S2, 3478))
    wait_until(lambda: len(b.flows()) == 2, "two sessions")
    b.masqd("flush", "all")
    mapping = dict(sourceIPv4Address=H1, sourceTransportPort=40000, postNATSourceIPv4Address=X, postNAPTSourceTransportPort=mapped[1], protocolIdentifier=17)
    for peer in (S1, S2):
        for kind in (SESSION_CREATE, SESSION_DELETE):
            heard(watch, natEvent=kind, **mapping, destinationIPv4Address=peer, destinationTransportPort=3478)
    for kind in (BIB_CREATE, BIB_DELETE):
        heard(watch, natEvent=kind, **mapping)
        assert sum(json.loads(line).get("natEvent") == kind and json.loads(line)["sourceIPv4Address"] == H1 for line in watch.lines) == 1
    assert all(json.loads(line).get("observationTimeMilliseconds", 0) > 0 for line in watch.lines)
    watch.close()

    b.config(main={"ports": ["40000-40003"], "sessions": "256"}, extra=[("host", None, {"ip": H1, "max_sessions": "2"})])
    watch = Watch(b, "-j")
    for n in range(3):
        b.send_lan(udp(H1, 40000 + n, S1, 3478))
    heard(watch, natEvent=QUOTA_EXCEEDED, natQuotaExceededEvent=QUOTA_USER, sourceIPv4Address=H1)
    for n in range(5):
        b.send_lan(udp(H2, 41000 + n, S1, 3478))
    heard(watch, natEvent=PORTS_EXHAUSTED)
    if b.driver != "kernel":  # whose own memory holds fragments
        for n in range(300):
            b.send_wan(udp(f"203.0.113.{40 + n % 39}", 3478, X, 40001, b"first of several", flags="MF", id=n))
        heard(watch, natEvent=QUOTA_EXCEEDED, natQuotaExceededEvent=QUOTA_FRAGMENTS)
    watch.close()

    b.config(extra=[("pool", None, {"external": list(POOL), "internal": ["192.168.1.0/24"], "overload": "0"})], main={"sessions": "256"})
    watch = Watch(b, "-j")
    for n in range(3):
        b.send_lan(udp((H1, H2, H3)[n], 40000, S1, 3478))
    heard(watch, natEvent=ADDRESSES_EXHAUSTED)
    watch.close()

    b.config(main={"sessions": str(SMALL)})
    watch = Watch(b, "-j")
    exhaust(b)
    b.send_lan(NEW[0])
    heard(watch, natEvent=THRESHOLD, natThresholdEvent=MAPPING_THRESHOLD)
    heard(watch, natEvent=QUOTA_EXCEEDED, natQuotaExceededEvent=QUOTA_SESSIONS)
    watch.close()
