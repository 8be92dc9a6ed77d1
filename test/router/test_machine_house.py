"""The household's router as a whole machine, from its first boot, which is before its provider's, over a reboot to a power cut.

Streams of ten messages a second run all the time. The tests are one story, in order.
"""

import re

import pytest
from house import FIRST_LEASE, G1, H1, H2, SECOND_LEASE
from machine_house import MachineHouse, renamed
from streams import Row, Streams
from test_house import GUEST, GUEST_ZONE, PACKAGE, Foreign, add_text, package

CONFIG = """
config masqd 'main'
	option enabled '1'

config wan
	option interface 'wan'

config lan
	option interface 'lan'
"""


@pytest.fixture(scope="module")
def house():
    made = MachineHouse({"/etc/config/masqd": CONFIG, PACKAGE: package()}, offer=False)
    made.foreign = Foreign(made.wan)
    made.streams = None
    yield made
    if made.streams is not None:
        made.streams.close()
    made.foreign.close()
    made.close()


def tell(house, event, action, **options):
    row = house.streams.during(event, action, **options)
    print(Row.HEAD, row, house.foreign.seen, house.foreign.packets, sep="\n", flush=True)
    return row


def test_it_waits_for_its_provider(house):
    house.boot()
    house.until("logread", "waiting for interface wan")
    assert "masqd is not running" in house.run("masqd status", status=1)
    house.offer(FIRST_LEASE)
    house.ready()
    house.streams = Streams(house, [(house.h1, H1), (house.h2, H2)])
    house.streams.flowing()
    assert house.run("masqd hosts").count("192.168.1.") == 2


def test_a_guest_network_is_added(house):
    def guests():
        add_text(house, "/etc/config/network", renamed(GUEST))
        add_text(house, "/etc/config/firewall", GUEST_ZONE)
        house.run("uci set masqd.guests=lan; uci set masqd.guests.interface=guest; uci commit; reload_config")

    row = tell(house, "guest network, zone and config lan", guests)
    assert (row.resets, row.moves, len(row.pids)) == (0, 0, 1), row
    house.streams.add(house.g1, G1)
    house.streams.flowing()


def test_the_provider_gives_another_address(house):
    def lease():
        house.offer(SECOND_LEASE)
        house.run("kill -USR1 $(cat /var/run/netifd/wan.pid)")
        house.until("masqd status", SECOND_LEASE)

    row = tell(house, "WAN: another address by DHCP", lease)
    assert len(row.pids) == 1 and row.resets > 0, row


def test_an_upgrade_by_apk(house):
    before = house.pid()
    row = tell(house, "upgrade: apk add", lambda: house.run(f"apk add {PACKAGE}"), after=house.ready)
    assert (row.resets, row.moves) == (0, 0), row
    assert house.pid() != before


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_it_comes_back_in_the_middle_of_traffic(house, how):
    """By itself, with all that its owner has set; nothing leaves it untranslated in between."""
    # As a shutdown does; a file that was never written out is gone after a power cut.
    house.run("sync")
    if how == "reboot":
        house.reboot()
    else:
        house.power_off()
        house.boot()
    house.ready()
    house.streams.flowing()
    assert re.search(f"wan eth3 .*{SECOND_LEASE}", house.run("masqd status"))
    assert G1 in house.run("masqd hosts")
    assert house.foreign.seen == set(), house.foreign.packets
