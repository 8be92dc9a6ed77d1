"""Measurements of masqd alone. Each opens sites of its own, with the table or the environment that it needs.

A function(candidate, settings, context) returns {metric: value}, as those of measure.py do; the metrics are listed there.
"""

import json
import os
import re
import time

import candidates
from measure import Load, megabytes, send, settled, tcp, warm
from process import Broken, cpu_seconds, run, status_field
from topology import ECHO_PORT

SMALL_TABLE = 4096


def _meter(candidate, site):
    status = json.loads(run([candidates.MASQD, "status", "-j", "--socket", candidate.socket(site)], env={"MASQD_JS": candidates.MASQD_BUNDLE}))
    if "meter" not in status:
        raise Broken("masqd status -j has no field meter")
    return status["meter"]


def javascript(candidate, settings, context):
    """Time in JavaScript and in system calls for each packet that masqd handled, by its own meter."""
    site, _ = candidate.open(context.folder, env={"MASQD_METER": "1"})
    try:
        load = Load(1024)
        warm(site, load)
        result = {}
        for rate, suffix in ((100_000, "_paced"), (0, "")):
            before = _meter(candidate, site)
            send(site, load, rate=rate, seconds=settings.saturation)
            settled(site)
            after = _meter(candidate, site)
            packets = after["packets"] - before["packets"]
            if packets <= 0:
                raise Broken("the meter of masqd counted no packet")
            result[f"javascript{suffix}"] = (after["jsNs"] - before["jsNs"]) / packets / 1e3
            if not rate:
                result["io"] = (after["ioNs"] - before["ioNs"]) / packets / 1e3
        return result
    finally:
        site.remove()


def _router_drops(site):
    """Packets that never reached masqd: its packet sockets' full buffers and its TUN device's full queue."""
    sockets = run(["ss", "-0", "-n", "-m"], site.router)
    links = json.loads(run(["ip", "-n", site.router, "-j", "-s", "-d", "link", "show"]))
    drops = sum(int(n) for n in re.findall(r"skmem:\([^)]*\bd(\d+)\)", sockets))
    for link in links:
        if link.get("linkinfo", {}).get("info_kind") == "tun":
            drops += link["stats64"]["tx"]["dropped"]
    return drops


def _quiet(pid, patience=3.0):
    """CPU seconds of a process once it has nothing more to do."""
    until = time.monotonic() + patience
    used = cpu_seconds(pid)
    while time.monotonic() < until:
        time.sleep(0.03)
        later = cpu_seconds(pid)
        if later - used < 0.001:
            return later
        used = later
    return used


def _handled(site, load, seconds):
    """Sends without a pause: (packets/s that masqd handled, its CPU seconds for each)."""
    drops, used = _router_drops(site), _quiet(site.process.pid)
    sent = send(site, load, seconds=seconds)
    used = _quiet(site.process.pid) - used
    handled = sent["offered"] - sent["refused"] - (_router_drops(site) - drops)
    if handled <= 0:
        raise Broken("masqd handled no packet")
    # What lies in the socket's buffer when the generator stops is handled later, at the price of CPU time.
    return handled / max(sent["seconds"], used), used / handled


# Two thousand source ports, each to two of the server's ports: 4096 sessions on 2048 mappings.
ESTABLISHED = Load(SMALL_TABLE // 2, dport=ECHO_PORT, dports=2, payload="e")
NORMAL = Load(1, dport=ECHO_PORT)
FLOOD = Load(40_000, sport=20_000, dport=10_000, dports=1_000)

# The client's kernel must not answer the echoes to the raw generator with ICMP errors; the rule counts them as well.
QUIET_RULES = f"""
table ip quiet {{
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        udp sport {{ {ECHO_PORT}, {ECHO_PORT + 1} }} counter drop
    }}
}}
"""


def answered(site):
    """Sends one packet on each of the 4096 sessions and returns how many were answered."""

    def count():
        return int(re.search(r"packets (\d+)", run(["nft", "list", "table", "ip", "quiet"], site.client))[1])

    before = count()
    send(site, ESTABLISHED, rate=20_000, packets=SMALL_TABLE)
    last, after, until = -1, count(), time.monotonic() + 1
    while after != last and time.monotonic() < until:
        time.sleep(0.05)
        last, after = after, count()
    return after - before


def flood(candidate, settings, context):
    """A normal packet against a packet of a new flow, on a table that 4096 answered sessions fill."""
    site, _ = candidate.open(context.folder, sessions=SMALL_TABLE)
    try:
        run(["nft", "-f", "-"], site.client, text=QUIET_RULES)
        answered(site)
        filled = answered(site)
        if filled < SMALL_TABLE * 0.9:
            raise Broken(f"flood: only {filled} of {SMALL_TABLE} sessions could be opened")
        normal_rate, normal_cost = _handled(site, NORMAL, settings.saturation)
        flood_rate, flood_cost = _handled(site, FLOOD, settings.saturation)
        kept = answered(site)
        return {
            "normal_kpps": normal_rate / 1e3,
            "normal_cpu": normal_cost * 1e6,
            "flood_kpps": flood_rate / 1e3,
            "flood_cpu": flood_cost * 1e6,
            "flood_ratio": flood_cost / normal_cost,
            "flood_kept": kept / filled * 100,
        }
    finally:
        site.remove()


def _idle_wakeups(pids, seconds):
    """Wake-ups a second of each process while nothing happens, from the first to the last of them.

    They are looked for every 5 ms over some seconds, so the rate is rounded to a hundredth.
    """
    seen = {pid: [] for pid in pids}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for pid, steps in seen.items():
            count = status_field(pid, "voluntary_ctxt_switches")
            if not steps or count != steps[-1][1]:
                steps.append((time.monotonic(), count))
        time.sleep(0.005)

    def rate(steps):
        # The first entry is the moment of looking, not of a wake-up.
        if len(steps) < 3:
            return (steps[-1][1] - steps[0][1]) / seconds
        return (steps[-1][1] - steps[1][1]) / (steps[-1][0] - steps[1][0])

    return {pid: round(rate(steps), 2) for pid, steps in seen.items()}


def opened(candidate, binary, folder):
    """A site with a build of masqd, its bundles beside it, and a small table."""
    return candidate.open(folder, sessions=SMALL_TABLE, binary=binary, env={"MASQD_JS": os.path.dirname(binary)})[0]


def exercise(site, candidate, settings, context):
    """The load after which memory is looked at: large frames, small ones, and many in one batch."""
    tcp(8, False)(site, candidate, settings, context)
    run(["nft", "-f", "-"], site.client, text=QUIET_RULES)
    answered(site)
    send(site, NORMAL, seconds=0.3)


def footprint(candidate, settings, context):
    """RSS and wake-ups of masqd with a table of 4096 sessions, for each build that exists."""
    result, sites, broken = {"unmeasured": {}}, {}, []
    try:
        for build, binary in (("glibc", candidates.MASQD), ("router", candidates.MASQD_ROUTER)):
            name = os.path.relpath(binary, candidates.ROOT)
            why = f"{name} does not exist"
            if os.access(binary, os.X_OK):
                try:
                    sites[build] = opened(candidate, binary, context.folder)
                    continue
                except Broken as error:
                    why = f"{name}: {error}"
                    broken.append(why)
            for key in (f"rss_{build}_idle", f"rss_{build}_load", f"wakeups_{build}"):
                result["unmeasured"][key] = why
        wakeups = _idle_wakeups([site.process.pid for site in sites.values()], settings.idle)
        for build, site in sites.items():
            pid = site.process.pid
            result[f"wakeups_{build}"] = wakeups[pid]
            result[f"rss_{build}_idle"] = megabytes(pid)
            exercise(site, candidate, settings, context)
            result[f"rss_{build}_load"] = megabytes(pid)
        return {**result, "broken": broken}
    finally:
        for site in sites.values():
            site.remove()


def table(candidate, _settings, context):
    """Bytes of the table for each session, as masqd check prints them."""
    path = candidate.write(context.folder, SMALL_TABLE)
    text = run([candidates.MASQD, "check", "-c", path], env={"MASQD_JS": candidates.MASQD_BUNDLE})
    found = re.search(r"([\d.]+)\s*(?:bytes|B)\s*(?:a|per|/)\s*session", text)
    if not found:
        raise Broken('masqd check does not print "N bytes a session"')
    return {"table_bytes": float(found[1])}


def cost(_candidate, _settings, context):
    """Loading the programs and installing a session, on masqd's engine (offload-cost.ts)."""
    bundle = os.path.join(context.folder, "offload-cost.js")
    run(
        [
            os.path.join(candidates.ROOT, "node_modules", ".bin", "esbuild"),
            os.path.join(candidates.ROOT, "test", "bench", "offload-cost.ts"),
            "--bundle",
            "--minify",
            "--format=esm",
            "--target=es2023",
            "--platform=neutral",
            "--external:masq:native",
            "--define:__VERSION__='bench'",
            "--outfile=" + bundle,
            "--log-level=warning",
        ],
        timeout=30,
    )
    least = {}
    for _ in range(3):
        text = run(
            ["unshare", "-n", "sh", "-c", 'ip link add wan0 index 10 type veth peer name lan0 index 11 && exec "$0" 10 11', candidates.MASQD],
            env={"MASQD_JS": bundle},
            timeout=90,
        )
        for key, value in json.loads(text).items():
            least[key] = min(value, least.get(key, value))
    return {"offload_install": least["install"] / 1e3, "offload_load": least["load"] / 1e6, "offload_bytes": least["bytes"]}


# name, which of masqd's candidates, function
MEASURES = [
    ("javascript", ("packet", "tun"), javascript),
    ("flood", ("packet", "tun"), flood),
    ("footprint", ("packet",), footprint),
    ("table", ("packet",), table),
    ("cost", ("offload",), cost),
]
