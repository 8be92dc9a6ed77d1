"""WAN devices of all kinds: TCP both ways through each, with either driver and with the kernel's masquerade.

Nothing may be lost on the device (a super-packet that it does not take is), and masqd's rate as it runs by default is to be at least 0.7 of the kernel's.

    wans.py [MEGABYTES [KIND...]]
"""

import pathlib
import subprocess
import sys

from guest import GATEWAY, ROOT, WAN_HOST, Process, Results, Site, transfer, tunnel, wait_until

LEAST = 0.7


def veth(site):
    """A pair between router and WAN, for what is built on it."""
    site.router.ip("link add eth1 type veth peer name eth0 netns wan", "link set eth1 up")
    site.wan.ip("link set eth0 up")


def addressed(site, device, other):
    site.router.ip(f"link set {device} up", f"addr add {GATEWAY}/24 dev {device}", f"route add default via {WAN_HOST} dev {device}")
    site.wan.ip(f"link set {other} up", f"addr add {WAN_HOST}/24 dev {other}")
    return device


def ethernet(site):
    veth(site)
    return addressed(site, "eth1", "eth0")


def vlan(site):
    veth(site)
    site.router.ip("link add link eth1 name eth1.7 type vlan id 7")
    site.wan.ip("link add link eth0 name eth0.7 type vlan id 7")
    return addressed(site, "eth1.7", "eth0.7")


def vlan_without_insertion(site):
    """Its tag is put in by the kernel, as on most switches of routers."""
    veth(site)
    site.router.run("ethtool", "-K", "eth1", "txvlan", "off")
    site.router.ip("link add link eth1 name eth1.7 type vlan id 7")
    site.wan.ip("link add link eth0 name eth0.7 type vlan id 7")
    return addressed(site, "eth1.7", "eth0.7")


def macvlan(site):
    veth(site)
    site.router.ip("link add link eth1 name mac1 type macvlan mode private")
    return addressed(site, "mac1", "eth0")


def pppoe(site):
    """Both ends are the kernel's, as on routers, and of one session that is there already: a concentrator in user space costs
    twenty times what is measured here."""
    veth(site)
    macs = [host.run("cat", f"/sys/class/net/{device}/address").stdout.strip() for host, device in ((site.router, "eth1"), (site.wan, "eth0"))]
    common = ["noauth", "noipv6", "nodefaultroute", "nodetach", "noccp", "lcp-echo-interval", "0"]
    site.background(site.wan.start("pppd", "plugin", "pppoe.so", "rp_pppoe_sess", f"1:{macs[0]}", "nic-eth0", *common, f"{WAN_HOST}:{GATEWAY}"))
    site.background(site.router.start("pppd", "plugin", "pppoe.so", "rp_pppoe_sess", f"1:{macs[1]}", "nic-eth1", *common, "ifname", "ppp7"))
    wait_until(lambda: site.router.run("ip", "route", "replace", "default", "dev", "ppp7", check=False).returncode == 0, "the PPPoE link")
    return "ppp7"


def wireguard(site):
    veth(site)
    site.router.ip("addr add 10.1.0.1/24 dev eth1")
    site.wan.ip("addr add 10.1.0.2/24 dev eth0")
    tunnel(((site.router, "10.1.0.1"), (site.wan, "10.1.0.2")))
    addressed(site, "wg0", "wg0")
    return "wg0"


def ipip(site):
    veth(site)
    site.router.ip("addr add 10.1.0.1/24 dev eth1", "link add tun7 type ipip local 10.1.0.1 remote 10.1.0.2")
    site.wan.ip("addr add 10.1.0.2/24 dev eth0", "link add tun7 type ipip local 10.1.0.2 remote 10.1.0.1")
    site.router.ip("link set tun7 up", f"addr add {GATEWAY}/24 dev tun7", "route add default dev tun7")
    site.wan.ip("link set tun7 up", f"addr add {WAN_HOST}/24 dev tun7")
    return "tun7"


def tun(site):
    """Two TUN devices and a program that carries packets between them. It is slower than a kernel, whoever sends: their queues take all
    that a connection has under way, so that only what the router loses is lost."""
    site.background(Process(["/usr/bin/python3", ROOT / "test" / "net" / "tunpair.py", "router", "wan0", "wan", "eth0"])).expect("^ready")
    site.router.ip("link set wan0 txqueuelen 10000 up", f"addr add {GATEWAY}/24 dev wan0", "route add default dev wan0")
    site.wan.ip("link set eth0 txqueuelen 10000 up", f"addr add {WAN_HOST}/24 dev eth0")
    return "wan0"


KINDS = {build.__name__: build for build in (ethernet, pppoe, vlan, vlan_without_insertion, macvlan, wireguard, ipip, tun)}
# How masqd is run: its driver, and option offload. By default what can be offloaded is; without, everything goes by its own sockets.
RUNS = (("nft", ""), ("packet", "off"), ("tun", "off"), ("packet", "auto"), ("tun", "auto"))


def main(volume, names):
    results = Results()
    for name in names:
        usual = {}
        for driver, offload in RUNS:
            site = None
            try:
                site = Site(KINDS[name])
                site.start(driver, offload)
                site.lan.ping(WAN_HOST)
                for way in ("out", "in"):
                    before = site.lost()
                    rate = volume / transfer(site.lan, site.wan, WAN_HOST, site.wan, way == "in", volume) / 125000
                    lost, drops = site.lost() - before, site.drops()
                    usual.setdefault(way, rate)
                    ratio = rate / usual[way]
                    good = lost == 0 and drops == "" and (offload == "off" or ratio >= LEAST)
                    results.row(good, f"{name:<22} {driver:<6} {offload:<4} {way:<3} {rate:7.1f} Mbit/s {ratio:5.2f} of nft, {lost} lost {drops}")
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                results.row(False, f"{name:<22} {driver:<6} {offload:<4} {error}")
            finally:
                if site is not None:
                    site.close()
    results.end()


if __name__ == "__main__":
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    main((int(sys.argv[1]) if len(sys.argv) > 1 else 4) << 20, sys.argv[2:] or list(KINDS))
