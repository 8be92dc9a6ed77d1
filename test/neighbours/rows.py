"""The table of neighbours, as data: what each row sets up, asks, and is to come to with each driver.

A row's function gets what makes a house and returns what the outside sees, a value that is compared with that of the router
without masqd ("as off"), or with True ("works": it says itself what works is). "warned" is as off in nothing, but there
is a warning that names it; "refused" the same, and what policy sends elsewhere does not leave by the WAN.
"""

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable

from house import GATEWAY, H2, S1, S2, SECRET, VPN_GATEWAY, ask, place, stream, wait_until

AS_OFF, WORKS = "as off", "works"


@dataclasses.dataclass
class Row:
    """One line of the table; `quick` ones are among `make test`."""

    neighbour: str
    name: str
    run: Callable
    kernel: str
    tun: str
    packet: str
    quick: bool


ROWS = []


def row(neighbour, kernel=AS_OFF, tun=AS_OFF, packet=AS_OFF, quick=False):
    def take(function):
        ROWS.append(Row(neighbour, function.__name__, function, kernel, tun, packet, quick))
        return function

    return take


def both(host, **options):
    """Where UDP and TCP of a host come out."""
    return [place(ask(host, kind=kind, **options)) for kind in ("udp", "tcp")]


# ---- policy rules ------------------------------------------------------------------------------------------------

TO_VPN = "route add default via 10.8.0.1 dev vpn0 table 200"
PBR = 'iifname "br-lan" ip saddr 192.168.1.20 meta mark set meta mark & 0xff00ffff | 0x00020000'
MWAN3 = 'iifname "br-lan" ip saddr 192.168.1.20 meta mark set meta mark & 0xffffc0ff | 0x00000100'
RULES = {
    "from": ("rule add from 192.168.1.20 lookup 200 prio 1000",),
    "first": ("rule add from 192.168.1.20 lookup 200 prio 50",),
    "last": ("rule add from 192.168.1.20 lookup 200 prio 32765",),
    "pbr": ("rule add fwmark 0x20000/0xff0000 lookup 200 prio 29998",),
    "mwan3": ("rule add fwmark 0x100/0x3f00 lookup 200 prio 2001", "rule add fwmark 0x3e00/0x3f00 unreachable prio 2062"),
    "wg": ("rule add not fwmark 0xca6c lookup 200", "rule add lookup main suppress_prefixlength 0"),
    "prohibit": ("rule add from 192.168.1.20 to 203.0.113.10 prohibit prio 1000",),
    "to": ("rule add to 203.0.113.10 lookup 200 prio 1000",),
    "iif": ("rule add iif br-lan to 203.0.113.10 lookup 200 prio 1000",),
    "ports": ("rule add from 192.168.1.20 ipproto udp dport 7 lookup 200 prio 1000", "rule add from 192.168.1.20 ipproto tcp lookup 200 prio 1001"),
}


def policy(house_of, kind):
    """Both hosts before the rules, with them from a start, and when they have come and gone while masqd runs."""
    mangle = {"pbr": PBR, "mwan3": MWAN3}.get(kind, "")
    seen = []
    with house_of(mangle=mangle) as house:
        house.up(TO_VPN)
        house.up(*RULES[kind])
        house.start()
        seen.append([both(house.h1), both(house.h2), ask(house.h2, sport=40000)])
    with house_of(mangle=mangle) as house:
        house.up(TO_VPN)
        house.start()
        seen.append([both(house.h1), both(house.h2)])
        house.up(*RULES[kind])
        seen.append([both(house.h1), both(house.h2), ask(house.h2, sport=40000)])
        house.up(*(line.replace("rule add", "rule del") for line in RULES[kind]))
        seen.append([both(house.h1), both(house.h2)])
    return seen


def policy_row(kind, quick=False):
    def run(house_of):
        return policy(house_of, kind)

    run.__name__ = f"rule_{kind}"
    row("policy rules", quick=quick)(run)


for each in RULES:
    policy_row(each, quick=each in ("from", "pbr", "wg"))


@row("policy rules", quick=True)
def nothing_of_the_vpns_on_the_wan(house_of):
    """h2 says a word that is for the VPN alone, as long as its rule is there; the other host's stream loses nothing by it."""
    with house_of() as house:
        house.up(TO_VPN)
        house.start()
        tap = house.tap()
        stop = threading.Event()
        thread, back = stream(house.h1, stop)
        client = house.h2.udp(H2, 40000)
        for n in range(20):
            house.up(RULES["from"][0])
            wait_until(lambda: "vpn" in ask(house.h2, patience=0.1), "the VPN")
            house.followed()
            for _ in range(20):
                client.sendto(SECRET, (S1, 7))
            house.up(RULES["from"][0].replace("add", "del"))
        stop.set()
        thread.join()
        return {"on the WAN": tap.close(), "others": {place(one) for one in back}}


@row("policy rules", WORKS, WORKS, WORKS)
def a_rule_comes_into_a_flood(house_of):
    """What is on its way when a rule comes: h2 goes on sending while h1 keeps masqd busy, and less than a second later none of it
    leaves by the WAN."""
    with house_of(offload="off") as house:
        house.up(TO_VPN)
        house.start()
        stop = threading.Event()
        threads = [stream(house.h1, stop, pause=0), stream(house.h2, stop, data=SECRET, pause=0.001)]
        kept = []
        for n in range(3):
            house.up(RULES["from"][0])
            done = time.monotonic()
            wait_until(lambda: time.monotonic() - done > 1, "a second")
            late = house.tap()
            wait_until(lambda: time.monotonic() - done > 1.5, "half a second more")
            kept.append(late.close() == 0)
            house.up(RULES["from"][0].replace("add", "del"))
        stop.set()
        for thread, _ in threads:
            thread.join()
        return all(kept)


@row("policy rules")
def a_rule_that_leads_by_the_wan(house_of):
    """mwan3's: a mark that says which WAN, and it is this one."""
    with house_of(mangle=MWAN3) as house:
        house.up("route add default via 203.0.113.254 dev wan0 table 1", "rule add fwmark 0x100/0x3f00 lookup 1 prio 2001")
        house.start()
        return [both(house.h1), both(house.h2), *(place(ask(house.h2, sport=port, kind=kind)) for port in (1000, 20000, 40000) for kind in ("udp", "tcp"))]


# ---- default routes ------------------------------------------------------------------------------------------------

FIRST = "route replace default via 203.0.113.254 metric 20", "route del default via 203.0.113.254 metric 0"
LOWER = f"route add default via {VPN_GATEWAY} dev vpn0 metric 5"
HALVES = f"route add 0.0.0.0/1 via {VPN_GATEWAY} dev vpn0", f"route add 128.0.0.0/1 via {VPN_GATEWAY} dev vpn0"
# What the WAN's own subnet does not have.
FAR_AWAY = "198.51.100.10"


def default_route(house_of, lines):
    seen = []
    with house_of() as house:
        for host, name in ((house.wan, "wan"), (house.vpn, "vpn")):
            host.ip(f"addr add {FAR_AWAY}/32 dev lo")
            house.serve(host, name, [(FAR_AWAY, 7)])
        house.wan.ip("route add default via 203.0.113.1 dev eth0")
        house.up(*FIRST)
        house.start()
        for _ in range(2):
            seen.append(both(house.h1, address=FAR_AWAY))
            house.up(*lines)
            seen.append([both(house.h1, address=FAR_AWAY), both(house.h1, address=S1)])
            house.up(*(line.replace("route add", "route del") for line in lines))
    return seen


@row("default route", quick=True)
def lower_metric(house_of):
    return default_route(house_of, [LOWER])


@row("default route")
def two_halves(house_of):
    return default_route(house_of, HALVES)


@row("default route")
def up_and_down_under_traffic(house_of):
    """What is sent after the VPN has come up goes by it alone; after it has gone, by the WAN."""
    with house_of() as house:
        for host, name in ((house.wan, "wan"), (house.vpn, "vpn")):
            host.ip(f"addr add {FAR_AWAY}/32 dev lo")
            house.serve(host, name, [(FAR_AWAY, 7)])
        house.wan.ip("route add default via 203.0.113.1 dev eth0")
        house.up(*FIRST)
        house.start()
        tap = house.tap()
        stop = threading.Event()
        thread, back = stream(house.h1, stop)
        client = house.h2.udp(H2, 40000)
        for n in range(10):
            house.up(LOWER)
            wait_until(lambda: "vpn" in ask(house.h2, address=FAR_AWAY, patience=0.1), "the VPN")
            house.followed()
            for _ in range(20):
                client.sendto(SECRET, (FAR_AWAY, 7))
            house.up(LOWER.replace("add", "del"))
            wait_until(lambda: "wan" in ask(house.h2, address=FAR_AWAY, patience=0.1), "the WAN")
        stop.set()
        thread.join()
        return {"on the WAN": tap.close(), "others": {place(one) for one in back}}


# ---- networks that masqd does not list, and such as it does ------------------------------------------------------------


@row("unlisted network", quick=True)
def containers(house_of):
    """docker0, libvirt, a WireGuard server's clients: the kernel's masquerade, from any port, and a published port."""
    publish = 'iifname "wan0" tcp dport 8080 dnat ip to 172.17.0.2:80\niifname "wan0" udp dport 8081 dnat ip to 172.17.0.2:81'
    with house_of(dstnat=publish) as house:
        box = house.box()
        house.serve(box, "box", [("172.17.0.2", 80), ("172.17.0.2", 81)])
        house.start()
        out = [ask(box, kind=kind, sport=port) for port in (1000, 2000, 20000, 40000, 60000) for kind in ("udp", "tcp")]
        lan = [both(house.h1), both(house.h1, address="172.17.0.2", port=80)]
        return out, lan, place(ask(house.wan, GATEWAY, 8080, "tcp", S1)), place(ask(house.wan, GATEWAY, 8081, "udp", S1))


def answered(told, *words):
    """Whether each said one of the words."""
    return all(any(word in one for word in words) for one in told)


@row("listed network", WORKS, WORKS, WORKS, quick=True)
def guests(house_of):
    """A second LAN beside the first: both go out, each gets its own port."""
    with house_of() as house:
        guest = house.box("192.168.7", "guest0")
        house.sections.append(("lan", None, {"device": "guest0", "driver": house.driver}))
        house.start()
        told = [*both(guest, sport=40000), *both(house.h1, sport=40000)]
        return answered(told, f"wan {GATEWAY}") and answered(both(house.h1, address=S2), f"wan {GATEWAY}")


# ---- redirects ---------------------------------------------------------------------------------------------------------

DNS = 'iifname "br-lan" udp dport 7 redirect to :5353\niifname "br-lan" tcp dport 7 redirect to :5353'


@row("redirect to the router", packet="warned", quick=True)
def dns_and_transparent_proxy(house_of):
    """Everybody's port 53, say, is the router's own: it answers from the address that was asked."""
    with house_of(dstnat=DNS) as house:
        house.serve(house.router, "router", [("0.0.0.0", 5353)])
        house.start()
        if house.driver == "packet":
            return house.warned("redirect") and house.told("warning: the firewall redirects")
        return [ask(host, kind=kind, sport=port) for host in (house.h1, house.h2) for kind in ("udp", "tcp") for port in (20000, 40000)]


@row("redirect to the router", packet="warned")
def one_that_comes_while_masqd_runs(house_of):
    with house_of() as house:
        house.serve(house.router, "router", [("0.0.0.0", 5353)])
        house.start()
        both(house.h1)
        house.firewall(dstnat=DNS)
        if house.driver == "packet":
            return house.told("warning: the firewall redirects") and house.warned("redirect")
        return [ask(host, kind=kind, sport=20000) for host in (house.h1, house.h2) for kind in ("udp", "tcp")]


FIREWALL4 = """meta nfproto ipv4 tcp dport 8080 counter dnat ip to 192.168.1.20:80 comment "!fw4: web"
meta nfproto ipv4 udp dport 8080 counter dnat ip to 192.168.1.20:80 comment "!fw4: web"
meta nfproto ipv4 tcp dport 50000-50003 counter dnat ip to 192.168.1.20 comment "!fw4: range"
meta nfproto ipv4 udp dport 12000 counter dnat ip to 192.168.1.10:81 comment "!fw4: low"
"""
LEASE = 'iif "wan0" th dport 6000 meta l4proto udp dnat ip to 192.168.1.20:82'


@row("redirects", quick=True)
def of_firewall4_and_miniupnpd(house_of):
    """They work from a start, and as they come and go while masqd runs; the hosts' own connections do, too."""
    seen = []

    def look(house):
        asked = ((8080, "tcp"), (8080, "udp"), (50002, "tcp"), (12000, "udp"), (6000, "udp"))
        return [place(ask(house.wan, GATEWAY, port, kind, S1, patience=0.3)) for port, kind in asked] + both(house.h2)

    def settled(house, wanted):
        """Following may take a second or two."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: look(house) == wanted, "the redirects", guard=6)
        return look(house)

    with house_of(redirects=FIREWALL4) as house:
        house.serve(house.h2, "h2", [("192.168.1.20", 80), ("192.168.1.20", 50002), ("192.168.1.20", 82)])
        house.serve(house.h1, "h1", [("192.168.1.10", 81)])
        house.start()
        h2, wan = f"h2 {S1}", [f"wan {GATEWAY}"] * 2
        seen.append(look(house))
        house.firewall(redirects=FIREWALL4, dstnat=LEASE)
        seen.append(settled(house, [h2, h2, h2, f"h1 {S1}", h2, *wan]))
        house.firewall()
        # Nobody answers at ports of masqd's, where the router would refuse.
        gone = settled(house, ["nothing"] * 5 + wan)
        seen.append(["nothing" if one == "refused" else one for one in gone])
    return seen


@row("redirects", kernel=WORKS, tun=WORKS, packet=WORKS)
def whose_they_are(house_of):
    """`check` has those that masqd takes over, by their table and chain, and says which it cannot; so does what is asked of the daemon."""
    sourced = 'meta nfproto ipv4 ip saddr 203.0.113.77 tcp dport 8443 counter dnat ip to 192.168.1.20:443 comment "!fw4: one peer"\n'
    with house_of(redirects=FIREWALL4 + sourced) as house:
        house.start()
        if house.driver == "off":
            return True
        done = house.router.run(*house.bed.command()[:1], "check", "-c", house.bed.config_file)
        said = re.sub(r"\s+", " ", done.stdout + done.stderr)
        named = "tcp 8080 -> 192.168.1.20:80 (nft fw4 dstnat_wan)" in said
        left = "cannot take over (nft fw4 dstnat_wan)" in said
        taken = [one for one in house.forwards() if (one["by"], one.get("place")) == ("firewall", "fw4 dstnat_wan")]
        carried = house.driver != "kernel"
        return (named, left, len(taken)) == (carried, carried, 4 if carried else 0) or (said, taken)


# ---- blocklists ----------------------------------------------------------------------------------------------------------

SET = "set bad { type ipv4_addr; flags interval; auto-merge; }"
BLOCKLISTS = {
    # What a hand-written one has, and CrowdSec's.
    "prerouting": "chain in { type filter hook prerouting priority -175; iifname wan0 ip saddr @bad counter drop; }",
    "forward": "chain in { type filter hook forward priority -1; iifname wan0 ip saddr @bad counter drop; }",
    # banIP's: what is established goes on, and what the LAN opens is refused aloud.
    "banip": """chain refuse { reject; }
        chain wan-forward { type filter hook forward priority -100; iifname != { "wan0" } counter accept
            ct state established,related counter accept
            ip saddr @bad counter drop; }
        chain lan-forward { type filter hook forward priority -100; oifname != { "wan0" } counter accept
            ct state established,related counter accept
            ip daddr @bad counter goto refuse; }""",
    # With firewall4's verdict map and its default of TCP and UDP.
    "src_wan": """chain wan { meta l4proto { tcp, udp } ip saddr @bad counter jump drop_wan; }
        chain drop_wan { counter drop; }
        chain forward { type filter hook forward priority 0; ct state vmap { established : accept, related : accept }
            iifname "wan0" jump wan; }""",
}


def settled(look, wanted):
    """What is there when masqd has followed, which may take a second; a slow answer is asked for again."""
    last = []

    def there():
        last[:] = look()
        return last == wanted

    with contextlib.suppress(AssertionError):
        wait_until(there, "the firewall", guard=4)
    return list(last)


def blocklist(house_of, chains, family="inet"):
    """A peer comes into a set and leaves it again: what becomes of sessions, of new ones both ways, and of other peers."""
    seen = []
    with house_of(redirects=FIREWALL4) as house:
        house.serve(house.h2, "h2", [("192.168.1.20", 80)])
        house.router.run("nft", "-f", "-", stdin=f"table {family} ban {{\n{SET}\n{chains}\n}}\n")
        house.start()
        client = house.h1.udp()
        client.settimeout(0.2)

        def again():
            with contextlib.suppress(TimeoutError):
                while client.recv(100):
                    pass
            client.sendto(b"again", (S1, 7))
            try:
                return place(client.recv(100).decode())
            except TimeoutError:
                return "nothing"

        def look():
            told = [again(), again()]
            told += [place(ask(house.h1, address=address, kind=kind, patience=0.15, tries=1)) for address in (S1, S2) for kind in ("udp", "tcp")]
            return told + [place(ask(house.wan, GATEWAY, 8080, kind, S, patience=0.15, tries=1)) for S in (S1, S2) for kind in ("udp", "tcp")]

        free = [f"wan {GATEWAY}"] * 6 + [f"h2 {S1}"] * 2 + [f"h2 {S2}"] * 2
        seen.append(settled(look, free))
        house.router.run("nft", "add", "element", family, "ban", "bad", f"{{ {S1}/32 }}")
        keeps = "established" in chains
        barred = free[:2] if keeps else ["nothing"] * 2
        out = free[2:4] if "vmap" in chains else ["nothing", "refused" if keeps else "nothing"]
        seen.append(settled(look, [*barred, *out, *free[4:6], "nothing", "nothing", *free[8:]]))
        house.router.run("nft", "delete", "element", family, "ban", "bad", f"{{ {S1}/32 }}")
        seen.append(settled(look, free))
        client.close()
    return seen


def blocklist_row(kind, quick=False):
    def run(house_of):
        return blocklist(house_of, BLOCKLISTS[kind])

    run.__name__ = f"bans_in_{kind}"
    row("blocklists", quick=quick)(run)


for each in BLOCKLISTS:
    blocklist_row(each, quick=each in ("prerouting", "banip"))


@row("blocklists", tun="warned", packet="warned")
def bans_that_ask_for_more(house_of):
    """By the port, say: that is the firewall's alone."""
    with house_of(redirects=FIREWALL4) as house:
        chain = "chain in { type filter hook forward priority -1; iifname wan0 ip saddr @bad tcp dport 80 counter drop; }"
        house.router.run("nft", "-f", "-", stdin=f"table inet ban {{\n{SET}\n{chain}\n}}\n")
        house.start()
        if house.driver in ("tun", "packet"):
            return house.warned(r"cannot follow \(nft ban in\)") and house.told("warning: .*cannot follow")
        return both(house.h1)


@row("blocklists")
def bans_at_the_device(house_of):
    """Where the offload would go past them."""
    return blocklist(house_of, "chain in { type filter hook ingress device wan0 priority 0; ip saddr @bad counter drop; }", "netdev")


@row("blocklists")
def bans_that_come_while_masqd_runs(house_of):
    """The table itself, in one transaction, as a reload of banIP's makes it; and it goes."""
    seen = []
    with house_of(redirects=FIREWALL4) as house:
        house.start()
        look = lambda: [
            place(ask(house.h1, address=address, kind=kind, patience=0.15, tries=1)) for address in (S1, S2) for kind in ("udp", "tcp")
        ]  # noqa: E731
        free = [f"wan {GATEWAY}"] * 4
        seen.append(settled(look, free))
        full = SET.replace("; }", f"; elements = {{ {S1} }}; }}")
        house.router.run("nft", "-f", "-", stdin=f"table inet ban {{\n{full}\n{BLOCKLISTS['forward']}\n}}\n")
        seen.append(settled(look, ["nothing", "nothing", *free[2:]]))
        house.router.run("nft", "delete", "table", "inet", "ban")
        seen.append(settled(look, free))
    return seen


# ---- the WAN's other addresses -----------------------------------------------------------------------------------------


@row("second WAN address", quick=True)
def a_modems_page(house_of):
    """A modem behind the WAN port that knows its own subnet only, and a network behind it."""
    with house_of(external=(GATEWAY, "192.168.100.2")) as house:
        house.up("addr add 192.168.100.2/24 dev wan0", "route add 10.5.0.0/16 via 192.168.100.1 dev wan0")
        house.wan.ip("addr add 192.168.100.1/24 dev eth0", "addr add 10.5.0.1/32 dev lo")
        house.serve(house.wan, "modem", [("192.168.100.1", 80), ("10.5.0.1", 80)])
        house.start()
        return [both(house.h1, address=address, port=80) for address in ("192.168.100.1", "10.5.0.1")], both(house.h1)


# ---- ports ----------------------------------------------------------------------------------------------------------------

KEPT = (123, 500, 1024, 3074, 3478, 4500, 5060, 6881, 9308, 27015, 33333, 60000)


@row("source ports", quick=True)
def of_games_and_phones_are_kept(house_of):
    """What a single host sends from."""
    with house_of() as house:
        house.start()
        return [ask(house.h1, sport=port) for port in KEPT] + [ask(house.h1, kind="tcp", sport=port) for port in (1024, 5060, 33333)]


# ---- what passes by -------------------------------------------------------------------------------------------------------


@row("IPv6")
def passes_by(house_of):
    with house_of() as house:
        for host in (house.router, house.h1, house.wan):
            for key in ("all", "default", "lo", "eth0", "br-lan", "wan0"):
                with contextlib.suppress(OSError):
                    host.sysctl(f"net/ipv6/conf/{key}/disable_ipv6", 0)
        house.router.sysctl("net/ipv6/conf/all/forwarding", 1)
        house.up("addr add fd00:1::1/64 dev br-lan nodad", "addr add fd00:2::1/64 dev wan0 nodad")
        house.h1.ip("addr add fd00:1::2/64 dev eth0 nodad", "route add default via fd00:1::1")
        house.wan.ip("addr add fd00:2::2/64 dev eth0 nodad", "route add default via fd00:2::1")
        house.start()
        return "1 received" in house.h1.run("ping", "-c", "1", "-W", "5", "fd00:2::2", check=False).stdout
