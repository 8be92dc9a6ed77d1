"""What else the owner has on the router and this machine's kernel lacks: shapers, flow tables, LANs of other kinds.

Each with masqd off (nft's masquerade) as the control, and with each driver. A host of the LAN is a source address of `lan`.

    beside.py [CASE...]
"""

import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

from guest import GATEWAY, LAN_GATEWAY, LAN_HOST, MASQD, RUN, WAN_HOST, Results, Site, run, transfer, tunnel, wait_until

RUNS = ("nft", "kernel", "tun", "packet")
# Megabits a second of each shaper, far from what the machine may carry; and how far from the control's rate a driver's may be.
RATE = 8
NEAR = 0.05
SETTLE, SECONDS = 5, 20
# Bytes that show that a connection works.
VOLUME = 200_000
SECOND_HOST = "192.168.1.11"
# Of the line, for a host with one connection beside one with three.
FAIR = 0.4
BLIND = "has 'nat' and knows no host of masqd's"


def ethernet(site):
    site.router.ip("link add eth1 type veth peer name eth0 netns wan", "link set eth1 up", f"addr add {GATEWAY}/24 dev eth1")
    site.wan.ip("link set eth0 up", f"addr add {WAN_HOST}/24 dev eth0")
    site.lan.ip(f"addr add {SECOND_HOST}/24 dev eth0")
    return "eth1"


def warnings(site):
    said = run(MASQD, "status", "--socket", RUN / "masqd.sock").stdout
    return re.sub(r"\s+", " ", said)


class Flows:
    """TCP connections between hosts of the LAN and the WAN, each as fast as it can; counts bytes by host."""

    def __init__(self, site, hosts, down):
        self.got = dict.fromkeys(hosts, 0)
        self.sources = set()
        self._running = True
        self._counting = threading.Lock()
        self._threads = []
        self._sockets = []
        for port, (host, count) in enumerate(hosts.items(), 6000):
            listener = site.wan.listener(WAN_HOST, port)
            self._sockets.append(listener)
            for _ in range(count):
                inner = site.lan.tcp(host)
                inner.connect((WAN_HOST, port))
                outer, (source, _) = listener.accept()
                self.sources.add(source)
                out, into = (outer, inner) if down else (inner, outer)
                for one in (inner, outer):
                    one.settimeout(1)
                    self._sockets.append(one)
                self._threads += [threading.Thread(target=self._send, args=(out,)), threading.Thread(target=self._take, args=(into, host))]
        for thread in self._threads:
            thread.start()

    def _send(self, out):
        block = bytes(16384)
        while self._running:
            try:
                out.send(block)
            except TimeoutError:
                pass

    def _take(self, into, host):
        while self._running:
            try:
                count = len(into.recv(65536))
            except TimeoutError:
                continue
            with self._counting:
                self.got[host] += count

    def rates(self):
        """Megabits a second of each host, once the connections have settled."""
        time.sleep(SETTLE)
        before, began = dict(self.got), time.monotonic()
        time.sleep(SECONDS)
        passed = time.monotonic() - began
        return {host: (count - before[host]) / passed / 125000 for host, count in self.got.items()}

    def close(self):
        self._running = False
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


def rates(site, hosts, down=False):
    flows = Flows(site, hosts, down)
    try:
        found = flows.rates()
        assert flows.sources == {GATEWAY}, f"sources on the WAN: {flows.sources}"
        return found
    finally:
        flows.close()


def tc(site, *words):
    site.router.run("tc", *words)


def cake_out(site, driver, results, control):
    """cake with `nat` and fair hosts on the WAN: the rate holds, hosts are fairly served where the kernel knows them, else it is said."""
    tc(site, "qdisc", "add", "dev", "eth1", "root", "cake", "bandwidth", f"{RATE}mbit", "nat", "dual-srchost")
    found = rates(site, {LAN_HOST: 3, SECOND_HOST: 1})
    total = sum(found.values())
    share = found[SECOND_HOST] / total
    usual = control.setdefault("total", total)
    good = abs(total / usual - 1) <= NEAR
    said = ""
    if driver in ("nft", "kernel"):
        good = good and share >= FAIR
    if driver != "nft":
        wait_until(lambda: (BLIND in warnings(site)) == (driver != "kernel"), "the warning of cake")
        said = "; said so" if driver != "kernel" else ""
        tc(site, "qdisc", "del", "dev", "eth1", "root")
        wait_until(lambda: BLIND not in warnings(site), "the end of the warning")
    results.row(good, f"cake nat, out     {driver:<7} {total:5.2f} Mbit/s, {share:4.2f} of it the host with one connection of four{said}")


def cake_in(site, driver, results, control):
    """The way in is redirected to an IFB and shaped there."""
    site.router.ip("link add ifb4eth1 type ifb", "link set ifb4eth1 up")
    tc(site, "qdisc", "add", "dev", "ifb4eth1", "root", "cake", "bandwidth", f"{RATE}mbit", "ingress")
    tc(site, "qdisc", "add", "dev", "eth1", "handle", "ffff:", "ingress")
    tc(
        site,
        *"filter add dev eth1 parent ffff: protocol all prio 10 u32 match u32 0 0 flowid 1:1".split(),
        *"action mirred egress redirect dev ifb4eth1".split(),
    )
    total = rates(site, {LAN_HOST: 2}, down=True)[LAN_HOST]
    usual = control.setdefault("total", total)
    results.row(abs(total / usual - 1) <= NEAR, f"cake on IFB, in   {driver:<7} {total:5.2f} Mbit/s")


def htb_out(site, driver, results, control):
    """Classes by what the packets say of themselves: a share each."""
    tc(site, *"qdisc add dev eth1 root handle 1: htb default 20".split())
    tc(site, "class", "add", "dev", "eth1", "parent", "1:", "classid", "1:1", "htb", "rate", f"{RATE}mbit")
    tc(site, *f"class add dev eth1 parent 1:1 classid 1:10 htb rate {RATE * 3 // 4}mbit ceil {RATE * 3 // 4}mbit".split())
    tc(site, *f"class add dev eth1 parent 1:1 classid 1:20 htb rate {RATE // 4}mbit ceil {RATE // 4}mbit".split())
    tc(site, *"filter add dev eth1 parent 1: protocol ip prio 1 u32 match ip dport 6000 0xffff flowid 1:10".split())
    found = rates(site, {LAN_HOST: 1, SECOND_HOST: 1})
    usual = control or found
    control.update(usual)
    good = all(abs(found[host] / usual[host] - 1) <= NEAR for host in found)
    results.row(good, f"HTB classes, out  {driver:<7} " + ", ".join(f"{rate:5.2f}" for rate in found.values()) + " Mbit/s")


FLOWTABLE = """
table inet fw4 {
	flowtable ft { hook ingress priority 0; devices = { lan0, eth1 }; }
	chain forward { type filter hook forward priority 0; ct state established flow add @ft; }
}
"""


def flowtable(site, driver, results, _):
    """firewall4's flow offloading: the kernel's own flows are in it; the other drivers' are not, and that is said."""
    site.router.run("nft", "-f", "-", stdin=FLOWTABLE)
    flows = Flows(site, {LAN_HOST: 1}, False)
    try:
        wait_until(lambda: flows.got[LAN_HOST] > VOLUME, "some traffic")
        with site.router.inside():
            tracked = pathlib.Path("/proc/thread-self/net/nf_conntrack").read_text()
        offloaded = "[OFFLOAD]" in tracked
        assert flows.sources == {GATEWAY}, flows.sources
    finally:
        flows.close()
    good = offloaded == (driver in ("nft", "kernel"))
    if driver != "nft":
        warned = "flow offloading is on" in warnings(site)
        good = good and warned == (driver != "kernel")
    results.row(good, f"flowtable         {driver:<7} {'in the flowtable' if offloaded else 'past it, said so'}")


# LANs of other kinds, made in place of lan0; the device's name.


def vlan(site):
    for host, device in ((site.router, "lan0"), (site.lan, "eth0")):
        host.ip(f"addr flush dev {device}", f"link add link {device} name {device}.5 type vlan id 5", f"link set {device}.5 up")
    return "lan0.5", "eth0.5"


def vlan_of_bridge(site):
    site.router.ip("addr flush dev lan0", "link add br-lan type bridge vlan_filtering 1", "link set lan0 master br-lan")
    site.router.ip("link set br-lan up", "link add link br-lan name br-lan.5 type vlan id 5", "link set br-lan.5 up")
    site.router.run("bridge", "vlan", "add", "dev", "lan0", "vid", "5")
    site.router.run("bridge", "vlan", "add", "dev", "br-lan", "vid", "5", "self")
    site.lan.ip("addr flush dev eth0", "link add link eth0 name eth0.5 type vlan id 5", "link set eth0.5 up")
    return "br-lan.5", "eth0.5"


def macvlan(site):
    """As keepalived makes one for a virtual router: what asks for its address is not answered by the device below."""
    site.router.sysctl("net/ipv4/conf/lan0/arp_ignore", 1)
    site.router.ip("addr flush dev lan0", "link add vrrp5 link lan0 addr 00:00:5e:00:01:05 type macvlan mode private", "link set vrrp5 up")
    site.lan.ip("addr flush dev eth0")
    return "vrrp5", "eth0"


def bridge_seen_by_netfilter(site):
    site.router.ip("addr flush dev lan0", "link add br-lan type bridge", "link set lan0 master br-lan", "link set br-lan up")
    site.router.sysctl("net/bridge/bridge-nf-call-iptables", 1)
    site.lan.ip("addr flush dev eth0")
    return "br-lan", "eth0"


def wireguard_lan(site):
    site.router.ip("addr flush dev lan0", "addr add 10.2.0.1/24 dev lan0")
    site.lan.ip("addr flush dev eth0", "addr add 10.2.0.2/24 dev eth0")
    tunnel(((site.router, "10.2.0.1"), (site.lan, "10.2.0.2")))
    return "wg0", "wg0"


LANS = (vlan, vlan_of_bridge, macvlan, bridge_seen_by_netfilter, wireguard_lan)
# What a driver says where it cannot serve: masqd has to refuse it, or warn of it.
REFUSED = {("bridge_seen_by_netfilter", "packet"): "nothing would be forwarded from the bridge br-lan"}


def lans(driver, results):
    for build in LANS:
        site = Site(ethernet)
        try:
            site.lan_device, other = build(site)
            site.router.ip(f"addr add {LAN_GATEWAY}/24 dev {site.lan_device}")
            site.lan.ip(f"addr add {LAN_HOST}/24 dev {other}", f"route replace default via {LAN_GATEWAY} dev {other}")
            site.start(driver)
            refused = REFUSED.get((build.__name__, driver))
            if refused is not None:
                results.row(refused in warnings(site), f"{build.__name__:<24} {driver:<7} warned")
                continue
            wait_until(lambda: site.lan.run("ping", "-c", "1", "-W", "1", WAN_HOST, check=False).returncode == 0, "the first ping")
            transfer(site.lan, site.wan, WAN_HOST, site.wan, False, VOLUME)
            flows = Flows(site, {LAN_HOST: 1}, True)
            wait_until(lambda: flows.got[LAN_HOST] > VOLUME, "some traffic")
            flows.close()
            results.row(flows.sources == {GATEWAY} and site.drops() == "", f"{build.__name__:<24} {driver:<7} {site.drops()}")
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            results.row(False, f"{build.__name__:<24} {driver:<7} {error}")
        finally:
            site.close()


CASES = {case.__name__: case for case in (cake_out, cake_in, htb_out, flowtable)}


def main(names):
    results = Results()
    for name in names:
        if name == "lans":
            for driver in RUNS:
                lans(driver, results)
            continue
        control = {}
        for driver in RUNS:
            site = None
            try:
                site = Site(ethernet)
                site.start(driver)
                site.lan.ping(WAN_HOST)
                CASES[name](site, driver, results, control)
            except (AssertionError, OSError, subprocess.SubprocessError, socket.timeout) as error:
                results.row(False, f"{name:<17} {driver:<7} {error}")
            finally:
                if site is not None:
                    site.close()
    results.end()


if __name__ == "__main__":
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    main(sys.argv[1:] or [*CASES, "lans"])
