#!/usr/bin/python3
"""make bench: masqd against the kernel's masquerade, slirp4netns and pasta, in one run on one topology.

    make bench                  the full run, five rounds, under 10 minutes
    make bench QUICK=1          one shorter round, under 2 minutes: not all candidates, and not all measurements of those
                                that stand in the table for comparison (candidates.py, quick)
    /usr/bin/python3 test/bench/bench.py [--quick] [--rounds N] [--only KEY,...] [--measure NAME,...] [--list]

Needs root, and the tools that test/bench/build.mk builds. Prints one table and the issue's targets, writes
build/bench.json. Status 0: every measurement was made (a missed target is printed, not a failure); 1: one was not;
2: it could not begin.

How it measures
  - A round opens a site (topology.py) for every candidate (candidates.py), all at once, and makes one measurement after
    the other, each for all candidates in turn, so that what is compared lies seconds apart; the order of the candidates
    turns from round to round. Ratios are taken within a round; the table shows medians and the range over the rounds.
  - "UDP 64 B" is the steady rate of correct packets at the server while the generator sends without a pause (blast.c,
    sink.c), its loss is of the same moments; "no loss" is the highest rate found with less than 0.1 % lost and no queue
    left 25 ms after the end.
  - CPU of the router side: CPU time of generator, router process and ksoftirqd under a fixed load, less the same load on
    a plain wire. Without IRQ time accounting the kernel's forwarding is billed to the process in whose context the
    softirq runs, which is the generator: so its own rusage cannot simply be taken off, and everything that matters is in
    these three. (The idle time of /proc/stat would also count whatever else the machine does.) Cycles: the whole
    machine's less the wire's, only where perf_event counts.
  - slirp4netns and pasta: the client has only the tap that they give it, they send from sockets in the router's
    namespace over the same WAN veth pair. MTU 65520 on the tap, descriptors for every flow, no sandbox options.
    They answer TCP themselves, so their TCP figures are of a proxy; they have no need of the first veth pair.
  - masqd runs as `build/masqd run`, with a table of 65,535 sessions for speed, 4,096 for flood and RSS.
  - "JavaScript" is masqd's own meter (MASQD_METER=1) in a process of its own, so the meter slows nothing else.
  - Two cores: the generator and the clients on CPU 0, the server on CPU 1, the router where the scheduler or it itself
    puts it. The kernel forwards on the CPU of the sender.
  - "C relay" hands frames from one port to the other with the packet driver's own system calls, in C, and translates
    nothing: no program that forwards through packet sockets in one thread gets further on the machine of the run.

Everything that was started is ended by its process id and every namespace (mqb<pid>-...) is deleted, also after a
failure, SIGINT or SIGTERM; what a killed run has left is deleted by the next.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import time

import candidates
import measure
import measure_masqd
import process
import report
import rfc9693
import topology
from process import Broken, Process
from topology import tool

BUDGET = 600
"""Seconds after which no further round is begun."""
ROUNDS = 5
# Memory is looked at last.
MEASURES = [*measure.MEASURES[:-1], ("rfc9693", rfc9693.rfc9693), measure.MEASURES[-1]]
MASQD_ROUNDS = 3
"""Rounds in which masqd's own measurements are made; they vary little."""


class Interrupted(Exception):
    """SIGINT or SIGTERM."""


def main():
    arguments = _arguments()
    names = [name for name, _ in MEASURES] + [name for name, *_ in measure_masqd.MEASURES]
    if arguments.list:
        print("candidates:", " ".join(c.key for c in candidates.CANDIDATES))
        print("measures:  ", " ".join(names))
        return 0
    try:
        some = arguments.quick and not arguments.only and not arguments.measure
        shown = _able([c for c in candidates.chosen(arguments.only) if not some or c.quick != ()], arguments.only)
        unknown = [name for name in arguments.measure if name not in names]
        if unknown:
            raise Broken(f"no measure {', '.join(unknown)}; there are {', '.join(names)}")
        if os.geteuid():
            raise Broken("needs root: it makes network namespaces")
    except Broken as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    folder = topology.folder()
    bench = Bench(arguments, shown, folder, some)
    try:
        topology.remove_stale()
        bench.measure()
    except Interrupted as error:
        print(f"\nbench: interrupted by {error}", file=sys.stderr)
        return 130
    except Broken as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        process.stop_all()
        topology.remove_all()
        shutil.rmtree(folder, ignore_errors=True)
    return bench.report()


def _arguments():
    parser = argparse.ArgumentParser(description="masqd's benchmark", epilog="see the head of this file")
    words = {"type": lambda text: [word for word in text.split(",") if word], "default": []}
    parser.add_argument("--quick", action="store_true", help="one shorter round, under 2 minutes")
    parser.add_argument("--rounds", type=int, help=f"rounds at most (default {ROUNDS}; 1 with --quick)")
    parser.add_argument("--only", metavar="KEY,...", help="candidates; nft is the base of all ratios", **words)
    parser.add_argument("--measure", metavar="NAME,...", help="measurements", **words)
    parser.add_argument("--list", action="store_true", help="print the keys and names and end")
    parser.add_argument("--json", metavar="FILE", default=os.path.join(candidates.ROOT, "build", "bench.json"))
    return parser.parse_args()


def _interrupt(number, _frame):
    raise Interrupted(signal.Signals(number).name)


def _able(shown, asked):
    """The candidates that can run here. One that must, or that was asked for by name, and cannot is an error."""
    able = []
    for candidate in shown:
        reason = candidate.missing()
        if not reason:
            able.append(candidate)
        elif candidate.required or candidate.key in asked:
            raise Broken(f"{candidate.key}: {reason} (or leave it out with --only)")
        else:
            print(f"bench: {candidate.key}: {reason}", file=sys.stderr)
    return able


class Bench:
    """One run: the rounds, what they gave and what failed."""

    def __init__(self, arguments, shown, folder, some):
        self.some = some
        """Only the measurements that a quick run has time for."""
        self.quick = arguments.quick
        self.settings = measure.QUICK if arguments.quick else measure.Settings()
        self.most_rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)
        self.asked = arguments.measure
        self.json = arguments.json
        self.shown = shown
        self.folder = folder
        self.results = report.Results()
        self.broken = {}
        self.capacities = {}
        self.rounds = 0
        self.counter = None
        self.no_counter = ""
        self.load_before = os.getloadavg()[0]
        self.seconds = self.steal = 0.0
        self.spent = {}

    def measure(self):
        """All rounds."""
        begin, steal, longest = time.monotonic(), process.machine_steal_seconds(), 0.0
        self._open_counter()
        for number in range(1, self.most_rounds + 1):
            at = time.monotonic()
            if at - begin + longest > BUDGET:
                break
            self._round(number)
            self.rounds = number
            longest = max(longest, time.monotonic() - at)
        self.seconds = time.monotonic() - begin
        self.steal = process.machine_steal_seconds() - steal

    def report(self):
        """Prints the table and writes the JSON file. Returns the exit status."""
        about = self._about()
        of = f" of {self.most_rounds}, as many as the time allows" if self.rounds < self.most_rounds else ""
        lines = [
            f"masqd bench: {self.rounds} round{'s' if self.rounds > 1 else ''}{of}{' (quick)' if self.quick else ''}, "
            f"{self.seconds:.0f} s, Linux {about['kernel']}, {about['cpus']} CPUs ({about['cpu']})"
        ]
        if about["busy"]:
            lines.append(
                f"The machine is not quiet (load {self.load_before:.1f} before the run, " f"{about['stealShare']:.1%} of it stolen by its host): expect noise."
            )
        lines += ["", *report.table(self.results, self.shown)]
        lines.append(f"cycles: {self.no_counter}" if self.no_counter else "cycles: of the router side, at the same load as CPU")
        lines += report.target_lines(self.results)
        if self.broken:
            lines += ["", "BROKEN measurements:", *[f"  {text} (round {', '.join(map(str, rounds))})" for text, rounds in self.broken.items()]]
        report.write(self.json, {**report.document(self.results, self.shown, about), "broken": list(self.broken)})
        print("\n".join(lines))
        return 1 if self.broken else 0

    def _about(self):
        model = ""
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    model = line.split(":", 1)[1].strip()
                    break
        steal_share = self.steal / (self.seconds * os.cpu_count()) if self.seconds else 0
        return {
            "rounds": self.rounds,
            "quick": self.quick,
            "seconds": round(self.seconds, 1),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "cpu": model,
            "loadBefore": self.load_before,
            "stealShare": steal_share,
            "busy": self.load_before > 0.5 or steal_share > 0.02,
            "routerCpu": measure.ROUTER_CPU,
            "cycles": self.no_counter or "counted",
            "settings": self.settings.__dict__,
            "spentSeconds": self.spent,
        }

    def _open_counter(self):
        counter = Process([tool("cycles")], log=os.path.join(self.folder, "cycles.err"))
        first = counter.line(5)
        if "error" in first:
            self.no_counter = f"not counted on this machine ({json.loads(first)['error']})"
            counter.stop()
        else:
            self.counter = counter

    def _makes(self, candidate, name):
        return not self.some or candidate.quick is None or name in candidate.quick

    def _wanted(self, name):
        return not self.asked or name in self.asked

    def _round(self, number):
        context = measure.Context(self.folder, self.counter)
        context.capacities = self.capacities
        sites = {}
        wanted = [(name, function) for name, function in MEASURES if self._wanted(name)]
        some = [c for c in self.shown if c.rounds is None or number <= c.rounds]
        shift = (number - 1) % len(some)
        order = some[shift:] + some[:shift]
        try:
            if any(name.startswith("cpu") for name, _ in wanted):
                context.wire_site, _ = candidates.WIRE.open(self.folder)
            for candidate in order:
                self._open(candidate, number, sites)
            for at, (name, function) in enumerate(wanted):
                self._progress(f"round {number}: {name}")
                for candidate in order:
                    site = sites.get(candidate.key)
                    if site and self._makes(candidate, name):
                        self._try(candidate, number, name, lambda c=candidate, s=site, f=function: f(s, c, self.settings, context))
                        if site.process and not site.process.alive():
                            self._fail(
                                candidate,
                                number,
                                f"{name}: it ended during the measurement{site.process.last_words()}",
                                *[later for later, _ in wanted[at + 1 :]],
                            )
                            sites.pop(candidate.key).remove()
        finally:
            for candidate in order:
                if candidate.key in sites:
                    status = sites.pop(candidate.key).remove()
                    if candidate.required and status:
                        self._fail(candidate, number, f"it ended with status {status} when stopped")
            if context.wire_site:
                context.wire_site.remove()
        if number > MASQD_ROUNDS:
            return
        for name, keys, function in measure_masqd.MEASURES:
            for candidate in order:
                if candidate.key in keys[: 1 if self.some else None] and self._wanted(name):
                    self._progress(f"round {number}: {name}")
                    self._try(candidate, number, name, lambda c=candidate, f=function: f(c, self.settings, context))

    def _open(self, candidate, number, sites):
        self._progress(f"round {number}: starting {candidate.key}")
        try:
            sites[candidate.key], start = candidate.open(self.folder)
            if candidate.has_start:
                self.results.add(candidate.key, "start", number, start * 1e3)
        except Broken as error:
            self._fail(candidate, number, f"start: {error}", *[n for n, _ in MEASURES if self._wanted(n)])

    def _try(self, candidate, number, name, function):
        try:
            values = self._timed(candidate, name, function)
        except Broken as error:
            self._fail(candidate, number, f"{name}: {error}", name)
            return
        except (OSError, LookupError, ValueError) as error:  # a process that is gone, an answer of another form
            self._fail(candidate, number, f"{name}: {type(error).__name__}: {error}", name)
            return
        note = values.pop("note", None)
        if note:
            self.results.note(candidate.key, note)
        for text in values.pop("broken", ()):
            self._fail(candidate, number, f"{name}: {text}")
        for metric, reason in values.pop("unmeasured", {}).items():
            self.results.reason(candidate.key, metric, reason)
        for metric, value in values.items():
            self.results.add(candidate.key, metric, number, value)

    def _timed(self, candidate, name, function):
        begin = time.monotonic()
        try:
            return function()
        finally:
            spent = self.spent.setdefault(name, {})
            spent[candidate.key] = round(spent.get(candidate.key, 0) + time.monotonic() - begin, 2)

    def _fail(self, candidate, number, text, *names):
        """What a candidate could not do: slirp4netns and pasta may (the report says it), of the others it is a broken run."""
        if candidate.required:
            self.broken.setdefault(f"{candidate.key}: {text}", []).append(number)
        else:
            self.results.note(candidate.key, f"{text} (round {number})")
        for name in names:
            self.results.reason(candidate.key, measure.gives(name), text)

    @staticmethod
    def _progress(text):
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
