"""The measurements. Each takes a site and returns {metric: value}; METRICS says what the metrics are.

CPU placement on two cores: the packet generator and the clients stay on CPU 0, the server's programs on CPU 1. The router
is not placed: the kernel forwards on the CPU of whoever sends, a router process runs where the scheduler puts it.
"""

import json
import os
import time
from dataclasses import dataclass, replace

from process import Broken, Process, cpu_seconds, run, softirq_threads, status_field
from topology import CLOSING_PORT, CLOSING_PORTS, ECHO_PORT, GENERATOR_CPU, SERVER, SERVER_CPU, SINK_PORT, tool

FLOWS = (1024, 16384)
INJECTED = {1: (1, 1), 1024: (1024, 1), 16384: (16384, 1), 64000: (16000, 4)}
"""Flows of the injected packets: source ports and destination ports."""
FIRST_SPORT = 1024
WARM_RATE = 40_000
"""First packets a second, so that every candidate carries each."""
LOSS_FREE = 0.001
IPERF_PORT = 5201

ROUTER_CPU = "time of generator, router process and ksoftirqd, less that of the same load without a router"


@dataclass(frozen=True)
class Metric:
    key: str
    label: str
    unit: str
    higher: bool = True
    digits: int = 2
    compared: bool = True
    """Whether a ratio to nft masquerade means anything."""


@dataclass(frozen=True)
class Settings:
    """Lengths in seconds."""

    stream: int = 1
    saturation: float = 0.8
    step: float = 0.5
    steps: int = 5
    loss_free_flows: tuple = (1024,)
    latency: float = 0.8
    connections: float = 1.0
    load: float = 1.0
    idle: float = 3.0


QUICK = Settings(saturation=0.4, step=0.3, steps=3, loss_free_flows=(), latency=0.4, connections=0.4, load=0.5)


def _flows(n):
    return {1: "1 flow", 1024: "1k flows", 16384: "16k flows", 64000: "64k flows"}[n]


def _packet_metrics(n):
    of = _flows(n)
    return [
        Metric(f"udp_{n}", f"UDP 64 B, {of}", "kpps", digits=0),
        Metric(f"udp_{n}_loss", "  its loss", "%", higher=False, digits=1, compared=False),
        Metric(f"udp_{n}_lossfree", f"  no loss, {of}", "kpps", digits=0),
    ]


METRICS = [
    Metric("tcp_1", "TCP 1 stream", "Gbit/s", digits=1),
    Metric("tcp_8", "TCP 8 streams", "Gbit/s", digits=1),
    Metric("tcp_1_reverse", "TCP reverse 1", "Gbit/s", digits=1),
    Metric("tcp_8_reverse", "TCP reverse 8", "Gbit/s", digits=1),
    *[metric for n in FLOWS for metric in _packet_metrics(n)],
    Metric("udp_p50", "UDP 1 B RTT p50", "us", higher=False, digits=1),
    Metric("udp_p99", "UDP 1 B RTT p99", "us", higher=False, digits=0),
    Metric("tcp_p50", "TCP 1 B RTT p50", "us", higher=False, digits=1),
    Metric("tcp_p99", "TCP 1 B RTT p99", "us", higher=False, digits=0),
    Metric("connections", "connections", "k/s", digits=1),
    Metric("establishment", "RFC 9693 establishment", "k/s", digits=1),
    Metric("teardown", "  tear-down", "k/s", digits=0),
    Metric("capacity", "  capacity", "", digits=0),
    *[
        metric
        for n in FLOWS
        for metric in (
            Metric(f"cpu_{n}", f"CPU, {_flows(n)}", "us/pkt", higher=False),
            Metric(f"process_{n}", "  its process alone", "us/pkt", higher=False, compared=False),
        )
    ],
    *[Metric(f"cycles_{n}", f"cycles, {_flows(n)}", "/pkt", higher=False, digits=0) for n in FLOWS],
    Metric("offload_install", "offload: install a flow", "us", higher=False, compared=False),
    Metric("offload_load", "  load both programs", "ms", higher=False, digits=1, compared=False),
    Metric("offload_bytes", "  memory a flow", "B", higher=False, digits=1, compared=False),
    Metric("start", "start to 1st packet", "ms", higher=False, digits=1, compared=False),
    Metric("rss", "RSS after this round", "MB", higher=False, compared=False),
    Metric("javascript", "JavaScript", "us/pkt", higher=False, compared=False),
    Metric("io", "  system calls", "us/pkt", higher=False, compared=False),
    Metric("javascript_paced", "  at 100 kpps", "us/pkt", higher=False, compared=False),
    Metric("normal_kpps", "full table: normal", "kpps", digits=0, compared=False),
    Metric("normal_cpu", "  process CPU", "us/pkt", higher=False, compared=False),
    Metric("flood_kpps", "full table: flood", "kpps", digits=0, compared=False),
    Metric("flood_cpu", "  process CPU", "us/pkt", higher=False, compared=False),
    Metric("flood_ratio", "  flood / normal", "x", higher=False, compared=False),
    Metric("flood_kept", "  sessions kept", "%", digits=1, compared=False),
    *[
        metric
        for build in ("glibc", "router")
        for metric in (
            Metric(f"rss_{build}_idle", f"RSS {build}, 4096, idle", "MB", higher=False, compared=False),
            Metric(f"rss_{build}_load", "  after load", "MB", higher=False, compared=False),
            Metric(f"wakeups_{build}", "  wake-ups when idle", "/s", higher=False, compared=False),
        )
    ],
    Metric("table_bytes", "table", "B/sess.", higher=False, digits=1, compared=False),
]


# ---- UDP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """UDP flows from the client: source ports x destination ports, taking turns."""

    sports: int
    sport: int = FIRST_SPORT
    dport: int = SINK_PORT
    dports: int = 1
    payload: str = "x"

    def arguments(self, site, rate, seconds, packets):
        return [
            tool("blast"),
            site.device,
            site.gateway_mac(),
            site.source,
            SERVER,
            str(self.sport),
            str(self.sports),
            str(self.dport),
            str(self.dports),
            str(int(rate)),
            str(seconds),
            str(packets),
            str(GENERATOR_CPU),
            self.payload,
        ]


def send(site, load, rate=0, seconds=0.0, packets=0):
    """Sends for `seconds`, or so many `packets`, and returns {"offered", "refused", "seconds"}."""
    limit = seconds + (packets / rate if rate else 0) + 10
    return json.loads(run(load.arguments(site, rate, seconds, packets), site.client, timeout=limit))


def settled(site, expected=0, patience=2.0):
    """The sink's count once it no longer grows: at once if it is at `expected`, else after some time without a change.

    A router process may not be scheduled for some tens of milliseconds on a machine with more to do.
    """
    until = time.monotonic() + patience
    last, since = site.sink.ask(), time.monotonic()
    while time.monotonic() < until:
        time.sleep(0.03)
        count = site.sink.ask()
        if count["good"] != last["good"]:
            last, since = count, time.monotonic()
        elif last["good"] >= expected or time.monotonic() - since > 0.25:
            break
    return _checked(last)


def _checked(count):
    if count["wrong"]:
        raise Broken(f"{count['wrong']} packets reached the server from a wrong source address")
    return count["good"]


def warm(site, load, rate=0):
    """Opens the load's flows, one packet each that is answered, slowly enough for every candidate; how many were carried.

    The client has no sockets for the answers; its kernel's errors about them are limited to one a second.
    """
    flows = load.sports * load.dports
    before = site.sink.ask()["answered"]
    send(site, replace(load, payload="w"), rate=rate or (10_000 if site.kind == "tap" else WARM_RATE), packets=flows)
    until = time.monotonic() + 2
    opened = last = 0
    while opened < flows and time.monotonic() < until:
        opened = site.sink.ask()["answered"] - before
        if opened > last:
            last, until = opened, time.monotonic() + 0.3
        time.sleep(0.01)
    # The last answers are on their way back.
    time.sleep(0.05)
    return opened


def saturate(site, load, seconds):
    """Sends without a pause: (delivered/s, share lost), both of the steady state after 0.2 s."""
    blast = Process(load.arguments(site, 0, seconds + 0.3, 0), site.client)
    time.sleep(0.2)
    first = site.sink.ask()
    time.sleep(seconds)
    last = site.sink.ask()
    sent = json.loads(blast.finish(10))
    settled(site)
    _checked(last)
    if last["good"] == first["good"]:
        raise Broken(f"no packet arrived in {seconds} s of saturation")
    delivered = (last["good"] - first["good"]) / (last["at"] - first["at"])
    offered = sent["offered"] / sent["seconds"]
    return delivered, max(0.0, 1 - delivered / offered)


def holds(site, load, rate, seconds):
    """Whether a rate is carried with less than 0.1 % lost and no queue growing, and the rate that really was sent."""
    before = settled(site)
    sent = send(site, load, rate=rate, seconds=seconds)
    time.sleep(max(0.0, sent["end"] + 0.025 - time.monotonic()))
    arrived = site.sink.ask()["good"] - before
    settled(site)
    return arrived >= sent["offered"] * (1 - LOSS_FREE), sent["offered"] / sent["seconds"]


def loss_free(site, load, settings, delivered, loss):
    """The highest rate found that `holds`, by bisection below and a little above what saturation delivers; None if none."""
    if loss < LOSS_FREE:
        return delivered
    low, high, rate = None, delivered * 1.2, delivered * 0.95
    for _ in range(settings.steps):
        fits, real = holds(site, load, rate, settings.step)
        if fits:
            low = real
            if real < rate * 0.97:  # the generator itself is at its limit
                break
        else:
            high = rate
        rate = (low + high) / 2 if low else high * 0.6
    return low


def udp(flows):
    def measure(site, candidate, settings, _context):
        if candidate.place:
            os.sched_setaffinity(site.process.pid, {SERVER_CPU})
        load = Load(flows)
        opened = warm(site, load)
        delivered, loss = saturate(site, load, settings.saturation)
        result = {f"udp_{flows}": delivered / 1e3, f"udp_{flows}_loss": loss * 100}
        if opened < flows * 0.99:
            result["note"] = f"UDP, {_flows(flows)}: only {opened} of {flows} flows were carried when opened one by one"
        if flows in settings.loss_free_flows:
            rate = loss_free(site, load, settings, delivered, loss)
            if rate is None:
                result["unmeasured"] = {f"udp_{flows}_lossfree": "lost more than 0.1 % at every rate tried"}
            else:
                result[f"udp_{flows}_lossfree"] = rate / 1e3
        elif loss < LOSS_FREE:
            result[f"udp_{flows}_lossfree"] = delivered / 1e3
        else:
            result["unmeasured"] = {f"udp_{flows}_lossfree": "not searched for"}
        return result

    return measure


# ---- CPU -----------------------------------------------------------------------------------------------------------


def _loaded(site, flows, rate, seconds, context):
    """One paced load and what it cost: CPU s of all that took part, of the router process, cycles, and packets."""
    load = Load(flows)
    router = [site.process.pid] if site.process else []
    if site.kind != "wire":
        warm(site, load)
    before = settled(site)
    cycles = context.counter.ask()["cycles"] if context.counter else 0
    process, softirq = sum(map(cpu_seconds, router)), sum(map(cpu_seconds, context.softirq_threads))
    sent = send(site, load, rate=rate, seconds=seconds)
    good = settled(site, before + sent["offered"])
    process = sum(map(cpu_seconds, router)) - process
    softirq = sum(map(cpu_seconds, context.softirq_threads)) - softirq
    return {
        "cpu": sent["cpu"] + process + softirq,
        "process": process,
        "cycles": context.counter.ask()["cycles"] - cycles if context.counter else 0,
        "offered": sent["offered"],
        "delivered": good - before,
    }


def cpu(flows):
    def measure(site, candidate, settings, context):
        rate = candidate.cpu_rate
        key = (flows, rate)
        if key not in context.wire:
            context.wire[key] = _loaded(context.wire_site, flows, rate, settings.load, context)
        wire = context.wire[key]
        loaded = _loaded(site, flows, rate, settings.load, context)
        if not loaded["delivered"]:
            raise Broken(f"CPU, {_flows(flows)}: nothing arrived")

        def each(name):
            """Cost of the router for each delivered packet."""
            return (loaded[name] - wire[name] / wire["offered"] * loaded["offered"]) / loaded["delivered"]

        result = {f"cpu_{flows}": each("cpu") * 1e6}
        if site.process:
            result[f"process_{flows}"] = loaded["process"] / loaded["delivered"] * 1e6
        if context.counter:
            result[f"cycles_{flows}"] = each("cycles")
        share = loaded["delivered"] / loaded["offered"]
        if share < 0.99:
            result["note"] = f"CPU, {_flows(flows)}: overloaded, {share:.0%} of {rate // 1000} kpps delivered"
        return result

    return measure


# ---- the path through the kernel, for test/guest ------------------------------------------------------------------------


IN_KERNEL = ("nft", "offload", "forward", "flowtable", "fw4", "kernel", "kernel-ft")
"""Candidates whose packets go all their way on the CPU that received them."""


def _injected(site, load, seconds, mode="flood"):
    """Cost of one packet from the LAN device's receive path to the server's drop: ns of CPU, cycles (0: not counted), packets."""
    got = json.loads(
        run(
            [
                tool("inject"),
                mode,
                "lan0",
                site.gateway_mac(),
                site.source,
                SERVER,
                str(load.sport),
                str(load.sports),
                str(load.dport),
                str(load.dports),
                str(seconds),
                str(GENERATOR_CPU),
            ],
            site.router,
            timeout=seconds + 10,
        )
    )
    return got["cpu"] / got["packets"] * 1e9, got["cycles"] / got["packets"], got["packets"]


def _holding(netns, *arguments):
    """A program of `inject` that stays on a device until it is stopped."""
    holder = Process([tool("inject"), *arguments], netns)
    holder.line(5)
    return holder


# ---- TCP and latency -----------------------------------------------------------------------------------------------


# One stream has two speeds here, the slow one about half of the other, for as long as the connection lasts or for some tenths of a
# second. What it is (perf, cpu-clock): in the slow one the sending host, not the router, spends 60 instead of 25 % of its processor on
# copying into fresh pages (_copy_from_iter), 3.7 times as long a byte: pages that are not in its cache. It comes more often when
# masqd has shared the sender's processor in the first tenths of a second, with BBR as with CUBIC, with receive buffers from 0.5 to
# 32 MB, and with /proc/sys/vm/percpu_pagelist_high_fraction set; the sender's buffer has 4 MB in both. With CUBIC nft gets 30 Gbit/s
# instead of 19, which is BBR's pacing.
def tcp(streams, reverse):
    def measure(site, candidate, settings, _context):
        if candidate.place:
            os.sched_setaffinity(site.process.pid, {GENERATOR_CPU if reverse else SERVER_CPU})
        server = Process(["iperf3", "-s", "-1", "--forceflush", "-p", str(IPERF_PORT), "-A", str(SERVER_CPU)], site.server)
        try:
            server.wait_for("Server listening", 5)
            text = run(
                [
                    "iperf3",
                    "-c",
                    SERVER,
                    "-p",
                    str(IPERF_PORT),
                    "-J",
                    "-t",
                    str(settings.stream),
                    "-P",
                    str(streams),
                    "-A",
                    str(GENERATOR_CPU),
                    *(["-R"] if reverse else []),
                ],
                site.client,
                timeout=settings.stream + 15,
            )
        finally:
            server.stop()
        said = json.loads(text)
        if "sum_received" not in said["end"]:
            raise Broken(f"iperf3: {said.get('error', 'no result')}")
        rate = said["end"]["sum_received"]["bits_per_second"]
        return {f"tcp_{streams}{'_reverse' if reverse else ''}": rate / 1e9}

    return measure


def latency(protocol):
    def measure(site, _candidate, settings, _context):
        got = json.loads(
            run([tool("latency"), protocol, SERVER, str(ECHO_PORT), str(settings.latency), str(GENERATOR_CPU)], site.client, timeout=settings.latency + 10)
        )
        result = {f"{protocol}_p50": got["p50"], f"{protocol}_p99": got["p99"]}
        if got["lost"]:
            result["note"] = f"{protocol.upper()} RTT: {got['lost']} of {got['count'] + got['lost']} answers lost"
        return result

    return measure


def connected(site, seconds, first_port, ports, *kind):
    """What `connect` counts in so many seconds: of TCP connections, or what `kind` says (connect.c)."""
    arguments = [SERVER, str(first_port), str(ports), str(seconds), str(GENERATOR_CPU), *kind]
    got = json.loads(run([tool("connect"), *arguments], site.client, timeout=seconds + 10))
    if not got["done"]:
        raise Broken(f"no {' '.join(kind) or 'TCP connection'} done, {got['failed']} failed")
    return got


def connections(site, _candidate, settings, _context):
    got = connected(site, settings.connections, CLOSING_PORT, CLOSING_PORTS)
    result = {"connections": got["rate"] / 1e3}
    if got["failed"]:
        result["note"] = f"connections: {got['failed']} failed, {got['done']} done"
    return result


def memory(site, _candidate, _settings, _context):
    return {"rss": megabytes(site.process.pid)} if site.process else {}


def megabytes(pid):
    return status_field(pid, "VmRSS") * 1024 / 1e6


# name, function(site, candidate, settings, context)
MEASURES = [
    *[(f"tcp{streams}{'r' if reverse else ''}", tcp(streams, reverse)) for reverse in (False, True) for streams in (1, 8)],
    ("udplatency", latency("udp")),
    ("tcplatency", latency("tcp")),
    ("connections", connections),
    # From few flows to many, after all else: slirp4netns and pasta keep a socket for each and are slower from then on.
    *[measurement for n in FLOWS for measurement in ((f"udp{n}", udp(n)), (f"cpu{n}", cpu(n)))],
    ("rss", memory),
]


class Context:
    """What measurements of one round share: the wire site, what was measured on it, and the cycle counter if there is one."""

    def __init__(self, folder, counter):
        self.folder = folder
        self.counter = counter
        self.wire = {}
        self.wire_site = None
        self.capacities = {}
        self.softirq_threads = softirq_threads()


def gives(name):
    """The first metric of a measurement: the one whose cell says that it failed."""
    if name.startswith("tcp") and name != "tcplatency":
        return f"tcp_{name[3]}{'_reverse' if name.endswith('r') else ''}"
    return {
        "udplatency": "udp_p50",
        "tcplatency": "tcp_p50",
        "flood": "flood_ratio",
        "footprint": "rss_glibc_load",
        "table": "table_bytes",
        **{f"udp{n}": f"udp_{n}" for n in FLOWS},
        **{f"cpu{n}": f"cpu_{n}" for n in FLOWS},
        "cost": "offload_install",
        "rfc9693": "establishment",
    }.get(name, name)
