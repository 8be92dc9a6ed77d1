"""Devices that cannot do what the configuration wants of them: said in words, at once, and only as long as it is so."""

import pytest

from bed import H1, LAN_GATEWAY, S1
from namespace import wait_until

pytestmark = pytest.mark.masqd


def warnings(bed):
    return [text for text in bed.status()["warnings"] if "device" in text]


def checked(bed):
    """What `masqd check` says in the router."""
    done = bed.router.run(*bed.command()[:1], "check", "-c", bed.config_file)
    return done.stdout + done.stderr


def answered(bed, host=H1):
    """Whether a host is answered from outside."""
    return bed.h1.run("ping", "-n", "-I", host, "-c", "1", "-W", "3", S1, check=False).returncode == 0


def test_a_port_of_a_bridge(make_bed):
    """The port as the LAN's device, from the start."""
    bed = make_bed()
    bed.lan_device = "h1"
    bed.configure()
    words = "lan device 'h1' is a port of br-lan, which gets its packets: use option device 'br-lan'"
    assert words in checked(bed)
    bed.start()
    assert words in bed.daemon.output
    assert words in warnings(bed)


def test_a_device_that_becomes_a_port_and_is_none_again(make_bed):
    bed = make_bed(lan="veth")
    bed.start()
    assert warnings(bed) == []
    words = "lan device 'lan0' is a port of br9, which gets its packets: use option device 'br9'"
    bed.router.ip("link add br9 type bridge", "link set br9 up", "link set lan0 master br9")
    bed.daemon.expect("lan device 'lan0' is a port of br9")
    assert warnings(bed) == [words]
    bed.router.ip("link set lan0 nomaster")
    wait_until(lambda: warnings(bed) == [], "the warning is gone")
    assert answered(bed)


def test_a_device_without_an_address(make_bed):
    bed = make_bed(lan="veth")
    bed.router.ip(f"addr del {LAN_GATEWAY}/24 dev lan0")
    bed.configure()
    words = "lan device 'lan0' has no IPv4 address"
    assert words in checked(bed)
    bed.start()
    assert words in bed.daemon.output and any(words in w for w in warnings(bed))
    bed.router.ip(f"addr add {LAN_GATEWAY}/24 dev lan0")
    wait_until(lambda: warnings(bed) == [], "the warning is gone")
    assert answered(bed)


def test_the_gateway_on_a_virtual_device(make_bed):
    """A virtual router (keepalived's use_vmac): its address is on a macvlan of the LAN device. As the LAN's device that works; beside it,
    masqd says what is not its."""
    bed = make_bed(lan="veth")
    # As keepalived sets it: else the device itself answers for the address.
    bed.router.sysctl("net/ipv4/conf/lan0/arp_ignore", 1)
    bed.router.ip(
        f"addr del {LAN_GATEWAY}/24 dev lan0",
        "addr add 192.168.1.3/24 dev lan0",
        "link add vrrp0 link lan0 address 00:00:5e:00:01:33 type macvlan mode private",
        "link set vrrp0 up",
        f"addr add {LAN_GATEWAY}/32 dev vrrp0",
    )
    bed.start()
    words = f"{LAN_GATEWAY}, an address of the subnet of lan device 'lan0', is on vrrp0: what hosts send there passes masqd by; add a lan section with option device 'vrrp0'"
    assert warnings(bed) == [words]
    bed.stop()
    bed.router.ip(f"addr del {LAN_GATEWAY}/32 dev vrrp0", "addr del 192.168.1.3/24 dev lan0", f"addr add {LAN_GATEWAY}/24 dev vrrp0")
    bed.h1.run("ip", "neigh", "flush", "dev", "eth0")
    bed.lan_device = "vrrp0"
    bed.configure()
    bed.start()
    assert warnings(bed) == []
    assert answered(bed)
