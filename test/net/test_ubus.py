"""netifd is asked beside the loop: a ubus that hangs holds nothing up, and a reload says what came of it."""

import json
import signal

import pytest

from bed import H1, H2, MASQD
from namespace import wait_until
from test_life import Stream, Talk

pytestmark = pytest.mark.masqd


@pytest.fixture
def slow(make_bed):
    """A bed whose ubus knows wan and lan, waits while the file `hang` is there, and notes each run in `asked`."""
    bed = make_bed()
    folder = bed.folder / "bin"
    folder.mkdir()
    bed.hang, bed.asked = bed.folder / "hang", bed.folder / "asked"
    devices = {"wan": "wan0", "lan": bed.lan_device}
    cases = "\n".join(f"""network.interface.{name}) echo '{json.dumps({"up": True, "l3_device": device})}' ;;""" for name, device in devices.items())
    stand_in = folder / "ubus"
    stand_in.write_text(f"#!/bin/sh\necho $$ >>{bed.asked}\nwhile [ -e {bed.hang} ]; do sleep 0.05; done\ncase $3 in\n{cases}\n*) exit 4 ;;\nesac\n")
    stand_in.chmod(0o755)
    command = bed.command
    bed.command = lambda *extra: ["env", f"PATH={folder}:/usr/sbin:/usr/bin:/sbin:/bin", *command(*extra)]
    return bed


def named(bed, main=None, extra=()):
    """The configuration with netifd's names in place of devices."""
    bed.configure(main, extra)
    text = bed.config_file.read_text()
    for device, name in (("wan0", "wan"), (bed.lan_device, "lan")):
        text = text.replace(f"option device '{device}'", f"option interface '{name}'")
    assert text.count("option interface") == 2, text
    bed.config_file.write_text(text)


def test_hangs(slow):
    """Not a packet is lost, the daemon answers meanwhile, who has asked is told in the end, and the reload is in force with the devices that are known."""
    bed = slow
    named(bed)
    bed.launch().expect("^masqd: ready:")
    talk, stream = Talk(bed, bed.h1, H1, 40001), Stream(bed, bed.h2, H2)
    runs = len(bed.asked.read_text().split())
    bed.hang.touch()
    named(bed, {"icmp_rate": "77"})
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: len(bed.asked.read_text().split()) > runs, "ubus to be asked")
    asker = bed.router.start(MASQD, "reload", "--socket", bed.socket_path)
    while not any("configuration reloaded" in line for line in bed.daemon.lines):
        talk.go_on()
        assert bed.status()["ports"]
    # That of the command comes after it; one run each, because a ubus that is silent is not asked for the other interface.
    bed.hang.unlink()
    assert asker.wait() == 0 and "reloaded" in asker.output, asker.output
    lost = stream.lost()
    assert stream.sent > 300 and lost == [], f"{len(lost)} of {stream.sent} lost: {lost[:20]}"
    said = [line for line in bed.daemon.lines if "ubus did not answer in 5 s; its device stays" in line]
    assert [line.split("'")[1] for line in said[:2]] == ["wan", "lan"], bed.daemon.output
    talk.go_on()


def test_hangs_for_a_newcomer(slow):
    """What cannot be found is said, and everything stays as it was; the end does not wait for ubus either."""
    bed = slow
    named(bed)
    bed.launch().expect("^masqd: ready:")
    talk = Talk(bed, bed.h1, H1, 40001)
    bed.config_file.write_text(bed.config_file.read_text().replace("option interface 'wan'", "option interface 'other'"))
    bed.hang.touch()
    reply = bed.masqd("reload", check=False)
    assert reply.returncode == 1 and "interface 'other': ubus did not answer in 5 s" in reply.stderr, reply
    talk.go_on()
    talk.close()
    runs = len(bed.asked.read_text().split())
    bed.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: len(bed.asked.read_text().split()) > runs, "ubus to be asked")
    pid = bed.asked.read_text().split()[-1]
    bed.stop()
    wait_until(lambda: bed.router.run("kill", "-0", pid, check=False).returncode != 0, "the ubus to be ended")
