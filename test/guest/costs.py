"""What a packet, a connection and an exchange cost in the kernel and in each router, counted in instructions.

The guest has one processor and its clock counts instructions, one each nanosecond, so what is measured while it is busy is the same at
every run and on every machine. Costs of packets are the router's alone (inject.c); those of connections and exchanges have both hosts in
them, therefore forwarding without translation stands beside them. On a MIPS board (bench-mips) fewer rows are counted, and from them comes
an estimate for a router with an mt7621.

    costs.py [quick] [ROUTER...]

Prints a table. `quick` measures some of it and compares with RECORDED: a figure that has risen by more than RISE fails.
"""

import contextlib
import json
import os
import pathlib
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "test" / "bench"))

import candidates  # noqa: E402
import measure  # noqa: E402
import measure_masqd  # noqa: E402
import process  # noqa: E402
import topology  # noqa: E402
from process import Broken, run  # noqa: E402

# One processor does everything, one thing after another, and slow routers need their time for a first packet.
topology.SERVER_CPU = 0
process.PATIENCE = 1000
measure.WARM_RATE = 1_000
# Destinations that one source port speaks to.
DESTINATIONS = 4000
# Seconds of the guest's clock: as many milliards of instructions.
FLOOD, BUSY, FIRST = 0.02, 0.15, 0.5
FLOODS = ROUNDS = 5
# Of what the table is held to: in one of so many nothing falls that is due once a second, nor a wait for the host's disk.
MANY = 12
LOST_MOST = 4
# Packets are the same at every run within 1 %; what goes by user space depends on who is woken when, and swings by 4 %.
RISE = {"packet_1": 1.03, "connection": 1.06}

MIPS = os.uname().machine == "mips"
# The processor of an mt7621, and its cycles for an instruction: an assumption. Its core begins one each cycle at best and waits for
# memory, and the emulator counts instructions only.
MHZ, CYCLES = 880, 3
MIPS_SHARE, MIPS_RATE = 1.35, 1_000
# Packets a second, one at a time, for what is told from CPU time, and for how long.
PACED, LOAD = 4_000, 0.3
# Longer than any of the routers keeps a silent UDP session.
EXPIRY = 420


ROUTERS = [
    candidates.Forward("forward", "forward"),
    candidates.Nft("nft", "nft"),
    candidates.Firewall4("fw4", "nft + fw4"),
    candidates.Flowtable("flowtable", "nft + flowtable"),
    candidates.Masqd("packet", "packet", driver="packet", offload="off"),
    candidates.Masqd("tun", "tun", driver="tun", offload="off"),
    candidates.Masqd("offload", "offload", driver="packet", offload="on"),
    candidates.Carried("kernel", "kernel"),
    candidates.Carried("kernel-ft", "kernel + flowtable", flowtable=True),
]
MIPS_ROUTERS = [router for router in ROUTERS if router.key in ("forward", "nft", "packet", "tun", "offload", "kernel")]
if MIPS:
    # A connection by user space takes so much that those under way at the end would count.
    BUSY, ROUNDS, MANY = 0.4, 2, 2
# Of nft's masquerade in the same run, as `make bench-guest` last printed it.
RECORDED = pathlib.Path(__file__).with_name("costs.json")


class Filter:
    """A filter of tc's that drops what comes to the server: for kernels before 6.6, which have no tcx for inject's."""

    def __init__(self, netns):
        self._netns = netns
        run(["tc", "qdisc", "add", "dev", "eth0", "clsact"], netns)
        run("tc filter add dev eth0 ingress protocol ip u32 match ip protocol 17 0xff action drop".split(), netns)

    def stop(self):
        run(["tc", "qdisc", "del", "dev", "eth0", "clsact"], self._netns)


def dropping(site):
    return Filter(site.server) if MIPS else measure._holding(site.server, "drop", "eth0")


def packet(flows):
    """The router's instructions for a 64-byte UDP packet of so many known flows."""

    def cost(site, _router):
        sports, dports = measure.INJECTED[flows]
        load = measure.Load(sports, dports=dports)
        opened = measure.warm(site, load)
        if opened < flows:
            raise Broken(f"only {opened} of {flows} flows were opened")
        sink = dropping(site)
        try:
            floods, idles = ([measure._injected(site, load, FLOOD, mode)[0] for _ in range(FLOODS)] for mode in ("flood", "idle"))
        finally:
            sink.stop()
        return min(floods) - min(idles)

    return cost


def each(first_port, ports, *kind, fresh=0, rounds=None):
    """Instructions of everything for one of what `connect` opens, answered and closed; of `ports` a round takes `fresh` that were not used before."""

    def cost(site, _router):
        rates = []
        # The first brings what is needed from the host's disk, for which the clock does not stand still, and waits for what masqd
        # reads and compiles when it is ready; its rate is not counted.
        # In a round over which the clock leaps nothing is done, nor fails: it is made again, a few times at most.
        lost = 0
        while len(rates) <= (rounds or ROUNDS):
            n = len(rates)
            try:
                got = measure.connected(site, BUSY if n else FIRST, first_port + n * fresh, fresh or ports, *kind)
            except Broken as broken:
                lost += 1
                if lost > LOST_MOST or not str(broken).endswith(" done, 0 failed"):
                    raise
                continue
            if got["failed"]:
                raise Broken(f"{got['failed']} of {got['failed'] + got['done']} failed")
            rates.append(got["rate"])
        return 1e9 / max(rates[1:])

    return cost


def worked(site, load):
    """Instructions of generator, router's process and the kernel's threads for a packet, sent one at a time."""
    router = [site.process.pid] if site.process else []
    threads = process.softirq_threads()
    before = sum(map(process.cpu_seconds, router + threads))
    sent = measure.send(site, load, rate=PACED, seconds=LOAD)
    # What is still on its way.
    time.sleep(0.5)
    return (sent["cpu"] + sum(map(process.cpu_seconds, router + threads)) - before) / sent["offered"] * 1e9


def more_than_a_wire(site, load, dropped=False):
    """What is left without the generator's part, and without the server's; `dropped`: the server takes no part in it."""
    wire, _ = candidates.WIRE.open(site.folder)
    sink = None
    try:
        whole = worked(site, load)
        sink = dropping(wire) if dropped else None
        return whole - worked(wire, load)
    finally:
        if sink is not None:
            sink.stop()
        wire.remove()


def paced(site, _router):
    """Instructions of everything but hosts and generator for a packet of a known flow; processes are woken for each."""
    measure.warm(site, measure.Load(1))
    return more_than_a_wire(site, measure.Load(1))


@contextlib.contextmanager
def steady():
    """Something is due every millisecond, so that the clock does not leap by minutes while the host's files are read."""
    over = threading.Event()

    def tick():
        while not over.wait(0.001):
            pass

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def filled(site, router):
    """A table of SMALL sessions that are all answered, and for longer than conntrack has doubts about them."""
    if not isinstance(router, candidates.Masqd):
        run(["sysctl", "-qw", f"net.netfilter.nf_conntrack_max={measure_masqd.SMALL_TABLE}"])
    run(["nft", "-f", "-"], site.client, text=measure_masqd.QUIET_RULES)
    for _ in range(3):
        answered = measure_masqd.answered(site)
        time.sleep(3)
    if answered < measure_masqd.SMALL_TABLE * 0.9:
        raise Broken(f"only {answered} of {measure_masqd.SMALL_TABLE} sessions could be opened")


def refused(site, router):
    """The same for the first packet of a flow that the table has no room for."""
    with steady():
        filled(site, router)
        before = carried(site, "wan0")
        cost = more_than_a_wire(site, measure_masqd.FLOOD, dropped=True)
        passed = carried(site, "wan0") - before
    if passed > PACED * LOAD * 0.1:
        raise Broken(f"{passed} packets of {PACED * LOAD:.0f} were not refused")
    return cost


def expired(site, router):
    """What all processes and kernel threads do while SMALL sessions wait and expire, more than while none is there, for each."""
    with steady():
        filled(site, router)
    return (busy(EXPIRY) - busy(EXPIRY)) / measure_masqd.SMALL_TABLE * 1e9


def busy(seconds):
    """CPU seconds of everything during so many seconds of waiting."""
    before = everything()
    time.sleep(seconds)
    return everything() - before


def everything():
    """CPU seconds of all processes but this one."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                total += process.cpu_seconds(name)
            except OSError:  # it has ended
                pass
    return total


def carried(site, device):
    """Packets that a device of the router's has carried."""
    counted = json.loads(run(["ip", "-n", site.router, "-j", "-s", "link", "show", device]))[0]["stats64"]
    return counted["rx"]["packets"] + counted["tx"]["packets"]


def packets_of_a_connection(site, _router):
    before = carried(site, "lan0")
    got = measure.connected(site, BUSY, topology.CLOSING_PORT, topology.CLOSING_PORTS)
    return (carried(site, "lan0") - before) / got["done"]


ROWS = {
    "packet_1": ("packet, 1 flow", packet(1)),
    "connection": ("TCP connection", each(topology.CLOSING_PORT, topology.CLOSING_PORTS, rounds=MANY)),
    "exchange": ("UDP question and answer", each(topology.ECHO_PORT, 1, "exchange")),
    "destination": (
        "new destination of a mapped port, answered",
        each(topology.DATAGRAM_PORT, DESTINATIONS, "fan", "33333", fresh=DESTINATIONS // (1 + ROUNDS)),
    ),
    "packet_1k": ("packet, 1k flows", packet(1024)),
    "packet_16k": ("packet, 16k flows", packet(16384)),
    "packet_64k": ("packet, 64k flows", packet(64000)),
    "refused": ("refused flow at a full table, by CPU time", refused),
    "expired": (f"an expired session of {measure_masqd.SMALL_TABLE}, waiting included", expired),
    "paced": ("packet, 1 flow, by CPU time, one at a time", paced),
    "packets": ("packets of a TCP connection", packets_of_a_connection),
}
# Of those that have one.
TABLE_ROWS = ("refused", "expired")
FULL = [row for row in ROWS if row not in ("paced", "packets")]
MIPS_ROWS = ("packets", "packet_1", "connection", "paced")
QUICK = (("nft", "offload"), list(RISE))


def measured(routers, rows, folder):
    """{row: {router's key: instructions}}; says what could not be measured."""
    table = {row: {} for row in rows}
    for router in routers:
        for row in rows:
            if not measurable(router, row):
                continue
            # Each on an empty table.
            site = None
            try:
                run(["sysctl", "-qw", "net.netfilter.nf_conntrack_max=131072"])
                small = {"sessions": measure_masqd.SMALL_TABLE} if row in TABLE_ROWS and isinstance(router, candidates.Masqd) else {}
                site, _ = router.open(folder, datagram_ports=DESTINATIONS if row == "destination" else 0, **small)
                table[row][router.key] = ROWS[row][1](site, router)
                print(f"{router.key:<10} {ROWS[row][0]:<44} {table[row][router.key]:>11,.0f}", flush=True)
            except Broken as broken:
                print(f"FAILED {router.key}, {ROWS[row][0]}: {broken}", flush=True)
            finally:
                if site is not None:
                    site.remove()
    return table


def measurable(router, row):
    if row == "packets":
        return router.key == "forward"
    if row in TABLE_ROWS:
        return router.key != "forward"
    if row == "paced":
        return router.key in ("nft", "packet", "tun")
    return not row.startswith("packet_") or router.key in measure.IN_KERNEL


def at_hand():
    """Reads once what is read bit by bit while it is measured, else: for the host's disk the clock leaps, over a whole round too."""
    for path in [*(ROOT / "build").glob("*"), *(ROOT / "build" / "bench").glob("*")]:
        if path.is_file():
            path.read_bytes()


def show(table, routers):
    width = max(len(ROWS[row][0]) for row in table) + 2
    print("instructions, and how many of nft's masquerade")
    print(" " * width + "".join(f"{router.title:>19}" for router in routers))
    for row, values in table.items():
        cells = []
        for router in routers:
            value = values.get(router.key)
            cells.append("-" if value is None else f"{value:,.0f} {value / values['nft']:5.2f}" if "nft" in values else f"{value:,.0f}")
        print(f"{ROWS[row][0]:<{width}}" + "".join(f"{cell:>19}" for cell in cells), flush=True)


def estimate(table, routers):
    """What an mt7621 may do, from what the router alone does for a connection: all less the hosts' part. {router's key: connections/s}"""
    whole, packets, forwarded = (table[row].get("forward") for row in ("connection", "packets", "packet_1"))
    if not (whole and packets and forwarded):
        return {}
    found = {}
    print(f"estimate: one core of an mt7621, {MHZ} MHz, {CYCLES} cycles an instruction; a connection has {packets:.1f} packets")
    for router in routers:
        if router.key in table["connection"]:
            own = table["connection"][router.key] - whole + packets * forwarded
            found[router.key] = MHZ * 1e6 / CYCLES / own
            print(f"  {router.title:<20} {own:>11,.0f} instructions of the router a connection: {found[router.key]:>7,.0f} connections/s", flush=True)
    return found


def goals(table, found):
    """The MIPS goals: (what, value, whether it is reached)."""
    connection = table["connection"]
    share = connection["kernel"] / connection["nft"] if {"kernel", "nft"} <= connection.keys() else float("inf")
    yield f"kernel driver's connection to nft's: {share:.2f} x (at most {MIPS_SHARE})", share <= MIPS_SHARE
    rate = max((found.get(key, 0) for key in ("kernel", "offload", "packet", "tun")), default=0)
    yield f"estimate for mt7621, its best driver: {rate:,.0f} connections/s (at least {MIPS_RATE:,})", rate >= MIPS_RATE


def main(quick, names):
    if MIPS:
        chosen, rows = MIPS_ROUTERS, list(MIPS_ROWS)
        keys = [router.key for router in chosen]
    else:
        chosen = ROUTERS
        keys, rows = QUICK if quick else ([router.key for router in chosen], list(FULL))
    keys = names or keys
    routers = [router for router in chosen if router.key in keys]
    print(f"Linux {os.uname().release}, {os.uname().machine}", flush=True)
    if MIPS:
        # As OpenWrt sets it.
        run(["sysctl", "-qw", "net.core.bpf_jit_enable=1"])
    folder = topology.folder()
    at_hand()
    table = measured(routers, rows, folder)
    topology.remove_all()
    packets = table.pop("packets", {})
    show(table, routers)
    shares = {row: {key: round(value / values["nft"], 3) for key, value in values.items() if key != "nft"} for row, values in table.items() if "nft" in values}
    passed = failed = 0
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() and not MIPS else {}
    for row in table:
        for router in routers:
            if router.key == "nft" or not measurable(router, row):
                continue
            share, before = shares.get(row, {}).get(router.key), recorded.get(row, {}).get(router.key)
            good = share is not None and (not quick or before is None or share <= before * RISE[row])
            passed += good
            failed += not good
            if not good:
                print(f"FAILED {router.key}, {ROWS[row][0]}: {share} of nft's, recorded {before}")
    if MIPS:
        for what, reached in goals(table, estimate({**table, "packets": packets}, routers)):
            print(f"{'reached' if reached else 'MISSED '} {what}", flush=True)
    print("recorded: " + json.dumps(shares))
    print(f"{passed} passed, {failed} failed", flush=True)


if __name__ == "__main__":
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    words = sys.argv[1:]
    main("quick" in words, [word for word in words if word != "quick"])
