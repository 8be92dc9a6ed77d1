"""The conformance suite: every row of the RFCs, black-box, on raw frames from both sides of a real daemon.

    test/conformance/run.py [--only ID,ID...] [--driver packet|tun|kernel] [--offload on|off] [--baseline] [--jobs N]

(`make conformance ONLY= DRIVER= OFFLOAD= BASELINE=1 JOBS=`.) Prints each failure as it comes, the table, what rows have noted, and last
`N passed, N failed`. Status 1 if anything failed; a row without a test has failed (`missing`), unless it is a deviation with a reason.

How it is made
    catalogue.py   all rows: id, level, requirement, star; the deviations; rows that follow from others
    rows_*.py      their tests, one function each; every file of that name is taken
    case.py        `b`, what a function gets: verbs that send, expect and check; helpers for packets
    rawbed.py      the namespaces and the daemon (or the kernel, for the baseline), on test/net's bed
    marks.py       frames that show when masqd has dealt with all that was sent before them: nothing passes or fails by the clock
    checks.py      what every forwarded frame must keep
    load.py        starred rows again: at 90 % and 100 % table fill and under a flood (`U-1@90`, `U-1@100`, `U-1@flood`)

A row is one function:

    @row("U-1")
    def endpoint_independent(b):
        first = b.out(udp(H1, 40000, S1, 3478))
        assert source(b.out(udp(H1, 40000, S2, 3478))) == source(first)

It returns if the row is met and raises AssertionError if not. It may return words, which are shown under the table. The same function is the
Linux column: ask b.baseline only where the two are configured differently, never to expect less.

A case whose own time is short (a timer of some seconds) and for which the machine was too slow is begun anew with longer times, and says so.
Cases run side by side, each worker with a bed and a daemon that it uses again and again; most of a case's time is waiting for silence, so
there are many more workers than cores. ID alone means the row with its loads, ID@0 the row without.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import queue
import signal
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "net"))

import bed as beds  # noqa: E402
import namespace  # noqa: E402
from case import Case, TooSlow  # noqa: E402
from catalogue import CATALOGUE, DERIVED, DEVIATIONS, KERNEL_DEVIATIONS  # noqa: E402
from load import Load  # noqa: E402
from rawbed import RawBed  # noqa: E402
from registry import LOADS, TESTS, load_tests  # noqa: E402

DURATIONS = beds.ROOT / "build" / "test" / "conformance.json"
JOBS = 10
# Floods at one time, when nothing else runs: more would measure the machine, not masqd.
FLOODS = 2
# Seconds by which what must happen in time is begun early, each time that a case is begun because the machine was too slow for it (Case.before).
MARGINS = (0.5, 1, 2, 4, 8)
# Added to a case's own guard: what filling the table may take.
LOAD_GUARD = 180


class Hung(BaseException):
    """A case has run longer than its guard. Not an Exception: no retry loop may swallow it."""


# ---- a worker ----------------------------------------------------------------------------------------------


class Worker:
    """One process, its beds, and the cases it runs one after another."""

    def __init__(self, options):
        self.options = options
        self._beds = {}

    def go(self, tasks, results):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, self._hung)
        try:
            while (task := tasks.get()) is not None:
                results.put((os.getpid(), task, None))
                results.put((os.getpid(), task, self._task(*task)))
        finally:
            for bed in self._beds.values():
                bed.close()

    @staticmethod
    def _hung(*_):
        raise Hung

    def _task(self, name, target):
        """Outcome, words, notes and seconds of one case."""
        row_id, _, kind = name.partition("@")
        test = TESTS[row_id]
        began = time.monotonic()
        late = []
        for margin in MARGINS:
            try:
                words, notes = self._attempt(test, target, kind, margin)
                break
            except TooSlow as error:
                late.append(str(error))
                words, notes = f"the machine was too slow for it {len(late)} times: {'; '.join(late)}", []
        if late:
            notes.append(f"(busy machine: begun {len(late)} more times, because {late[-1]})")
        return "failed" if words else "passed", words, notes, time.monotonic() - began

    def _attempt(self, test, target, kind, margin):
        """Words and notes; raises TooSlow."""
        signal.setitimer(signal.ITIMER_REAL, test.guard * max(1, margin) + (LOAD_GUARD if kind else 0))
        bed = case = None
        load = Load(kind, 1 / max(1, margin)) if kind else None
        words, notes = "", []
        try:
            bed = self._bed(test, target)
            case = Case(bed, self.options.offload, load, margin)
            case.config(**test.config)
            told = test.function(case)
            words = "; ".join(case.finish())
            notes = case.notes + ([told] if isinstance(told, str) else [])
        except TooSlow:
            words = "too slow"
            raise
        except AssertionError as error:
            words = self._words(error, test)
            if case and (kind == "flood" or test.alone) and (starved := case.starved()):
                raise TooSlow(f"{starved}: {words}") from error
            notes = case.notes if case else []
            words += "".join(f"\n    and {fault}" for fault in self._faults(case))
        except (Exception, Hung) as error:
            words = self._words(error, test)
            notes = case.notes if case else []
            words += "".join(f"\n    and {fault}" for fault in self._faults(case))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if load:
                load.stop()
            if bed is not None and (test.fresh or words):
                self._discard(bed, target)
        return words, notes

    def _bed(self, test, target):
        baseline = target == "linux"
        if test.fresh:
            return RawBed(self.options.driver, baseline, **test.bed)
        if target not in self._beds:
            self._beds[target] = RawBed(self.options.driver, baseline)
        return self._beds[target]

    def _discard(self, bed, target):
        """A bed that a case has spoilt, or may have."""
        if self._beds.get(target) is bed:
            del self._beds[target]
        bed.close()

    @staticmethod
    def _faults(case):
        """The invariants that a failed case has broken besides."""
        try:
            return case.finish() if case else []
        except Exception as error:
            return [f"the invariants could not be asked for: {error}"]

    @staticmethod
    def _words(error, test):
        """What went wrong, and at which line of the row's function."""
        if isinstance(error, Hung):
            kind = f"hung, longer than its guard of {test.guard:.0f} s and what its load and a repetition may take"
        elif isinstance(error, AssertionError):
            kind = str(error) or "assertion failed"
        else:
            kind = f"{type(error).__name__}: {error}"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).name.startswith("rows_")]
        where = f"{pathlib.Path(frames[0].filename).name}:{frames[0].lineno}: {frames[0].line}\n    " if frames else ""
        if not frames and not isinstance(error, AssertionError):
            kind += "\n" + "".join(traceback.format_tb(error.__traceback__)[-3:])
        return where + kind


# ---- the run -----------------------------------------------------------------------------------------------


class Run:
    """All cases, handed to workers, and their outcomes."""

    def __init__(self, options):
        self.options = options
        self.outcomes = {}
        self._processes = {}
        self._closing = False

    def names(self):
        """All rows to report on, in the order of the catalogue, loads after their row."""
        names = [n for row in CATALOGUE.values() for n in (row.id, *(f"{row.id}@{load}" for load in LOADS if row.star))]
        if not self.options.only:
            return names
        wanted = self.options.only.split(",")
        known = {*names, *(f"{n}@0" for n in names if "@" not in n)}
        unknown = [one for one in wanted if one not in known]
        if unknown:
            raise SystemExit(f"conformance: no row {', '.join(unknown)}")
        return [n for n in names if n in wanted or n.split("@")[0] in wanted or f"{n}@0" in wanted]

    def go(self):
        names = self.names()
        tasks = []
        for name in names:
            row_id = name.split("@")[0]
            if row_id not in TESTS:
                continue
            tasks.append((name, "masqd"))
            if self.options.baseline:
                if "@" in name:
                    self.outcomes[name, "linux"] = ("-", "", [], 0)
                elif TESTS[row_id].masqd_only:
                    self.outcomes[name, "linux"] = ("n/a", "", [], 0)
                else:
                    tasks.append((name, "linux"))
        alone = [task for task in tasks if task[0].endswith("@flood") or TESTS[task[0].split("@")[0]].alone]
        self._run([task for task in tasks if task not in alone], self.options.jobs)
        self._run(alone, min(self.options.jobs, FLOODS))
        for name in names:
            if (name, "masqd") in self.outcomes:
                continue
            row_id = name.split("@")[0]
            if row_id in DERIVED:
                self.outcomes[name, "masqd"] = self._derive(DERIVED[row_id](names))
            elif row_id in DEVIATIONS:
                self.outcomes[name, "masqd"] = ("deviates", "", [DEVIATIONS[row_id]], 0)
            else:
                self.outcomes[name, "masqd"] = ("missing", "no test", [], 0)
        return names

    def _derive(self, ids):
        if self.options.only:
            return ("-", "", ["follows from other rows: run the whole suite"], 0)
        outcomes = {name: self.outcomes.get((name, "masqd"), ("missing",))[0] for name in ids}
        bad = [name for name, outcome in outcomes.items() if outcome not in ("passed", "deviates")]
        if bad:
            return ("failed", f"not passed: {', '.join(bad)}", [], 0)
        off = [name for name, outcome in outcomes.items() if outcome == "deviates"]
        return ("deviates", "", [f"but for {', '.join(off)}"], 0) if off else ("passed", "", [], 0)

    def _run(self, tasks, jobs):
        seconds = durations()
        tasks.sort(key=lambda task: -seconds.get("/".join(task), 30 if "@" in task[0] else 10))
        context = multiprocessing.get_context("fork")
        todo, results = context.Queue(), context.Queue()
        jobs = min(jobs, len(tasks))
        for task in tasks:
            todo.put(task)
        for _ in range(jobs):
            todo.put(None)
        running, left = {}, set(tasks)

        def launch():
            process = context.Process(target=Worker(self.options).go, args=(todo, results))
            process.start()
            self._processes[process.pid] = process

        for _ in range(jobs):
            launch()
        while left:
            try:
                pid, task, outcome = results.get(timeout=1)
            except queue.Empty:
                for pid, process in list(self._processes.items()):
                    if not process.is_alive() and process.exitcode != 0:
                        del self._processes[pid]
                        if (task := running.pop(pid, None)) is not None:
                            left.discard(task)
                            self._take(task, ("failed", f"the worker has died with {process.exitcode}", [], 0))
                        launch()
                continue
            if outcome is None:
                running[pid] = task
            else:
                running.pop(pid, None)
                left.discard(task)
                seconds["/".join(task)] = outcome[3]
                self._take(task, outcome)
        for process in self._processes.values():
            process.join(20)
        self.stop()
        DURATIONS.parent.mkdir(parents=True, exist_ok=True)
        DURATIONS.write_text(json.dumps(seconds))

    def _take(self, task, outcome):
        reason = KERNEL_DEVIATIONS.get(task[0].split("@")[0]) if self.options.driver == "kernel" and task[1] == "masqd" else None
        if reason and outcome[0] == "failed":
            outcome = ("deviates", "", [reason], outcome[3])
        self.outcomes[task] = outcome
        if outcome[0] == "failed" and (task[1] == "masqd" or self.options.verbose):
            print(f"{task[0]} ({task[1]}): {outcome[1]}", flush=True)
        elif self.options.verbose:
            print(f"{task[0]} ({task[1]}): {outcome[0]} in {outcome[3]:.1f} s", flush=True)

    def stop(self):
        """Ends the workers that still run; each takes its beds down."""
        for process in self._processes.values():
            if process.is_alive():
                process.terminate()
        for process in self._processes.values():
            process.join(20)
            if process.is_alive():
                process.kill()


def durations():
    """Seconds that cases took last time: the longest begin first."""
    try:
        return json.loads(DURATIONS.read_text())
    except (OSError, ValueError):
        return {}


def table(names, outcomes):
    """The rows as text, 76 columns."""
    lines = [f"{'id':<10} {'level':<10} {'requirement':<38} {'masqd':<8} {'Linux'}"]
    for name in names:
        row = CATALOGUE[name.split("@")[0]]
        text = row.requirement if "@" not in name else f"  ...{LOAD_WORDS[name.split('@')[1]]}"
        linux = outcomes.get((name, "linux"), ("-",))[0]
        lines.append(f"{name:<10} {row.level:<10} {text:<38} {outcomes[name, 'masqd'][0]:<8} {linux}")
    return "\n".join(lines)


def notes(names, outcomes):
    """What rows have to say, once each."""
    said = {}
    for name in names:
        for target in ("masqd", "linux"):
            for note in dict.fromkeys(outcomes.get((name, target), ("", "", []))[2]):
                said.setdefault((target, note), []).append(name)
    return [f"{', '.join(rows)} ({target}): {note}" for (target, note), rows in said.items()]


LOAD_WORDS = {"90": "with 90 % of the table in use", "100": "with all of the table in use", "flood": "under 5,000 SYN/s"}


def main():
    parser = argparse.ArgumentParser(prog="conformance")
    parser.add_argument("--only", default="")
    parser.add_argument("--driver", choices=("packet", "tun", "kernel"), default="packet")
    parser.add_argument("--offload", choices=("on", "off", "auto"), default="off")
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("conformance: needs root for network namespaces")
    if not beds.MASQD.exists():
        raise SystemExit(f"conformance: no {beds.MASQD}: run `make build`")
    namespace.remove_leftovers()
    load_tests()
    run = Run(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        names = run.go()
    finally:
        run.stop()
        namespace.remove_leftovers()
    print(table(names, run.outcomes))
    for line in notes(names, run.outcomes):
        print(line)
    # Once more: who reads the end of a log sees the notes above first.
    for (name, target), outcome in run.outcomes.items():
        if outcome[0] in ("failed", "missing") and target == "masqd":
            print(f"FAILED {name}: {outcome[1]}")
    outcomes = [run.outcomes[name, "masqd"][0] for name in names]
    failed = sum(one in ("failed", "missing") for one in outcomes)
    print(f"{outcomes.count('passed')} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
