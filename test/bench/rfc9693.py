"""RFC 9693, what a stateful NAT does a second: connections established, connections torn down, and how many its table holds.

As there, phase 1 sends UDP frames each of which is a new connection and nothing else; the establishment rate is the highest at which all of them
arrive (0.1 % may be missing, and none may still be under way 25 ms after the last). Phase 2 proves that they are connections: every one is used
again and answered, or the rate does not count. Tear-down is the time that the router's own command takes to empty its table. Capacity is how
many of MORE connections, slowly opened and answered, are let through.
"""

import time

from measure import LOSS_FREE, Load, send, settled, warm
from process import Broken

FLOWS = Load(4096, dports=4)
MORE = Load(17_500, dports=4)
SLOWLY = 12_000
STEPS = 4


def _flows(load):
    return load.sports * load.dports


def phase_1(site, candidate, load, rate):
    """Opens all flows on an empty table at a rate, 0 for the highest: whether they arrived in time, and the rate of sending and of arriving."""
    candidate.flush(site)
    before = settled(site)
    sent = send(site, load, rate=rate, packets=_flows(load))
    time.sleep(max(0.0, sent["end"] + 0.025 - time.monotonic()))
    arrived = site.sink.ask()["good"] - before
    settled(site)
    return arrived >= sent["offered"] * (1 - LOSS_FREE), sent["offered"] / sent["seconds"], arrived / (sent["seconds"] + 0.025)


def establishment(site, candidate, load):
    """The highest rate found that every connection is established at; raises Broken if there is none."""
    fits, high, arriving = phase_1(site, candidate, load, 0)
    if fits:
        return high
    low, rate = None, min(arriving, high * 0.95)
    for _ in range(STEPS):
        fits, real, _ = phase_1(site, candidate, load, rate)
        if fits:
            low = real
        else:
            high = rate
        rate = (low + high) / 2 if low else high * 0.6
    if low is None:
        raise Broken(f"connections are lost at {high:.0f} a second")
    return low


def rfc9693(site, candidate, _settings, context):
    if not candidate.tracks:
        return {}
    rate = establishment(site, candidate, FLOWS)
    phase_1(site, candidate, FLOWS, rate * 0.8)
    opened = warm(site, FLOWS)
    if opened < _flows(FLOWS) * (1 - LOSS_FREE):
        raise Broken(f"phase 2: {opened} of {_flows(FLOWS)} connections are there")
    begin = time.monotonic()
    candidate.flush(site)
    result = {"establishment": rate / 1e3, "teardown": _flows(FLOWS) / (time.monotonic() - begin) / 1e3}
    if candidate.key not in context.capacities:
        context.capacities[candidate.key] = warm(site, MORE, SLOWLY)
        candidate.flush(site)
        result["capacity"] = context.capacities[candidate.key]
    return result
