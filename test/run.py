"""Runs every test suite, at most two cores' worth at a time, and sums their results.

    test/run.py [--list] [SUITE...]

Prints a line a suite as it ends, all output of one that failed, and last of all `N passed, N failed`. A suite that
crashed, hung or counted nothing has failed. Exit status 0 if nothing failed.
"""

import dataclasses
import glob
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "test"
CORES = 2
# A suite that runs longer, in seconds, hangs.
GUARD = 1200
PYTHON = "/usr/bin/python3"
SUMMARY = re.compile(r"(\d+) passed, (\d+) failed")


@dataclasses.dataclass
class Count:
    """Tests of a suite by how they ended."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


# ---- ways to count -----------------------------------------------------------------------------------------


def one(status, output, report):
    """The command itself is the test."""
    return Count(passed=int(status == 0), failed=int(status != 0))


def summary(status, output, report):
    """The last line of the form `N passed, N failed`."""
    found = SUMMARY.findall(output)
    return Count(*map(int, found[-1])) if found else Count()


def vitest(status, output, report):
    """The JSON reporter's file; a test file that does not even load is a failure."""
    data = json.loads(report.read_text())
    unloaded = sum(1 for file in data["testResults"] if file["status"] == "failed" and not any(t["status"] == "failed" for t in file["assertionResults"]))
    return Count(data["numPassedTests"], data["numFailedTests"] + unloaded, data["numPendingTests"] + data["numTodoTests"])


def junit(status, output, report):
    """JUnit's XML; a test with both a failure and an error in its teardown has failed once."""
    count = Count()
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        name = (case.get("classname"), case.get("name"))
        bad = "failure" in kinds or "error" in kinds
        outcomes[name] = "failed" if bad or outcomes.get(name) == "failed" else "skipped" if "skipped" in kinds else "passed"
    for outcome in outcomes.values():
        setattr(count, outcome, getattr(count, outcome) + 1)
    return count


# ---- the suites --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Suite:
    """`command` may hold {report}: the file that `count` reads."""

    name: str
    command: list[str]
    count: Callable = one
    cores: int = 1
    environment: dict = dataclasses.field(default_factory=dict)
    # Runs only if it is named.
    apart: bool = False


def pytest(folder, *more):
    return [PYTHON, "-m", "pytest", folder, "--junit-xml={report}", "--tb=short", *more]


def conformance(driver, *more):
    return [PYTHON, "test/conformance/run.py", "--driver", driver, *more]


# Rows about established sessions: what the kernel carries then, what it has to leave, and what must end it. `make conformance OFFLOAD=on` plays all.
OFFLOADED = "U-5,U-6,U-6a,U-12,U-13,T-2,T-2a,T-5,T-5h,T-x1,T-x2,T-x3,I-1,I-2,I-4,I-6,I-71,N-2,N-7,ID-1,R-1,R-14,W-1,W-2,W-4,W-5,W-6"

# What the kernel driver has of its own: who is asked, what the rules stop, the kernel's timers and states. `make conformance DRIVER=kernel` plays all.
CARRIED = (
    "U-1@0,U-1b@90,U-3@0,U-5,U-8@flood,U-9,U-9a,U-12,U-13,T-1@100,T-2,T-4,T-5,T-5h,T-8,T-x1,T-x2,T-x3,I-1,I-2,I-4,I-7,I-8@0,N-2.1,N-10,"
    "C-2,C-4,C-6,C-10,C-11a,R-1,R-4,R-5,R-6,R-7,R-8,R-11,F-1@0,F-2,F-3,W-1,W-2,W-3,W-4,W-5,W-6"
)

SHELL_SCRIPTS = sorted(name for name in glob.glob("**/*.sh", root_dir=ROOT, recursive=True) if not name.startswith(("node_modules/", "build/"))) + sorted(
    name for name in glob.glob(".ci/*", root_dir=ROOT) if (ROOT / name).is_file()
)

C_FILES = sorted(name for folder in ("native", "test") for name in glob.glob(f"{folder}/**/*.[ch]", root_dir=ROOT, recursive=True))

# What OpenWrt's own checks would format: all that goes on the router or into its feed.
ROUTER_SCRIPTS = [
    "openwrt/ipk.sh",
    "openwrt/dist.sh",
    "openwrt/size.sh",
    "openwrt/test.sh",
    "openwrt/postinst-pkg",
    "openwrt/postrm",
    "openwrt/files/usr/libexec/masqd",
    *sorted(map(str, (ROOT / "openwrt/files/etc/init.d").glob("*"))),
]

SANITIZE = {"MASQD": str(ROOT / "build/sanitize/masqd"), "MASQD_TEST_GUARD": "90"}

# The longest first, so that what is short fills the gaps.
SUITES = [
    Suite("net", pytest("test/net", "-n", "4"), junit, cores=2),
    Suite("router-x86_64", pytest("test/router/test_router.py", "-p", "no:cacheprovider"), junit, environment={"MASQD_TEST_GUARD": "120"}),
    Suite(
        "router-mipsel", pytest("test/router/test_router.py", "-p", "no:cacheprovider"), junit, environment={"ROUTER_ARCH": "mipsel", "MASQD_TEST_GUARD": "120"}
    ),
    Suite("router-machine", pytest("test/router/test_machine_house.py", "-p", "no:cacheprovider"), junit, environment={"MASQD_TEST_GUARD": "120"}, apart=True),
    Suite("router-house", pytest("test/router/test_house.py", "-p", "no:cacheprovider"), junit, environment={"MASQD_TEST_GUARD": "60"}),
    Suite("conformance", conformance("packet"), summary),
    Suite("conformance-tun", conformance("tun"), summary),
    Suite("conformance-offload", conformance("packet", "--offload", "on", "--only", OFFLOADED), summary, cores=2),
    Suite("conformance-kernel", conformance("kernel", "--only", CARRIED), summary),
    Suite("neighbours", [PYTHON, "test/neighbours/run.py", "--quick"], summary, cores=2),
    Suite("guest", [PYTHON, "test/guest/run.py", "--quick"], summary),
    Suite("fuzz", ["test/fuzz/run.sh", "200000"]),
    Suite("differential", ["test/fuzz/run-offload.sh"], summary),
    Suite("unit", ["node_modules/.bin/vitest", "run", "--testTimeout=600000", "--reporter=default", "--reporter=json", "--outputFile={report}"], vitest),
    Suite("engine-unit", ["test/engine/run-unit.sh"], summary),
    Suite("lint", ["node_modules/.bin/biome", "check", "."]),
    Suite("clang-format", ["clang-format", "--dry-run", "-Werror", *C_FILES]),
    Suite("black", ["black", "-q", "--check", "-l", "160", "test"]),
    Suite("flake8", ["flake8", "test"]),
    Suite("types", ["node_modules/.bin/tsc", "-p", "tsconfig.json"]),
    Suite("indexed-access", ["node", "test/tools/indexed-access.mjs"]),
    Suite("native", ["test/engine/run-native.sh", "build/masqd"], summary),
    Suite("native-musl", ["test/engine/run-native.sh", "build/musl/masqd"], summary),
    Suite("native-sanitize", ["test/engine/run-native.sh", "build/sanitize/masqd"], summary),
    Suite("net-sanitize", pytest("test/net/test_hardship.py", "-n", "2", "-k", "not memory"), junit, cores=2, environment=SANITIZE),
    Suite("kernel-view", ["test/net/run-check.sh", "kernel-view"], summary),
    Suite("netlink", ["test/net/run-check.sh", "netlink"], summary),
    Suite("demo", pytest("test/demo", "-p", "no:cacheprovider"), junit),
    Suite("package", pytest("test/openwrt", "-p", "no:cacheprovider"), junit),
    Suite("luci", ["node", "build/test/luci/pages.mjs"], summary),
    Suite("luci-scripts", ["node", "build/test/luci/scripts.mjs"], summary),
    Suite("size", ["openwrt/size.sh"], summary),
    Suite("shfmt", ["shfmt", "-d", "-sr", "-s", *ROUTER_SCRIPTS]),
    Suite("shellcheck", ["shellcheck", "-x", *SHELL_SCRIPTS]),
    Suite(
        "bench",
        [PYTHON, "test/bench/bench.py", "--quick", "--only", "nft,packet,tun", "--measure", "tcp1,udplatency,tcplatency,rss", "--json", "{report}"],
        cores=2,
    ),
]

# Executables for routers, under qemu-user where this machine is not one of theirs. All of the unit tests run in big-endian
# byte order; those machines that differ from this one only in their C run the part that is quick.
QUICK = "address arp filter fragments guard hairpin kernel-mirror ports netlink-route unsolicited-syn table uci".split()
for arch in "mips_24kc", "mipsel_24kc", "arm_cortex-a7_neon-vfpv4", "aarch64_cortex-a53", "x86_64":
    files = [] if arch in ("mips_24kc", "x86_64") else [f"test/unit/{name}.test.ts" for name in QUICK]
    short = arch.split("_")[0] if arch != "x86_64" else arch
    SUITES[2:2] = [
        Suite(f"unit-{short}", ["test/engine/run-unit.sh", f"build/{arch}/masqd", *files], summary),
        Suite(f"native-{short}", ["test/engine/run-native.sh", f"build/{arch}/masqd"], summary),
    ]


# ---- running -----------------------------------------------------------------------------------------------


class Run:
    """Suites running side by side, and what they gave."""

    def __init__(self, suites):
        self.waiting = list(suites)
        self.free = CORES
        self.total = Count()
        self.changed = threading.Condition()
        self.processes = set()
        self.stopping = False

    def go(self):
        """Runs all suites; the sum of their counts."""
        threads = []
        with self.changed:
            while self.waiting and not self.stopping:
                fitting = next((suite for suite in self.waiting if suite.cores <= self.free), None)
                if fitting is None:
                    self.changed.wait()
                    continue
                self.waiting.remove(fitting)
                self.free -= fitting.cores
                thread = threading.Thread(target=self._suite, args=(fitting,))
                threads.append(thread)
                thread.start()
        for thread in threads:
            thread.join()
        return self.total

    def stop(self):
        """Ends what runs, politely: suites tidy up after themselves."""
        self.stopping = True
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)

    def _suite(self, suite):
        began = time.monotonic()
        try:
            count, output, note = self._execute(suite)
        except Exception as error:  # a suite that cannot even be started or counted
            count, output, note = Count(failed=1), str(error), "did not run"
        seconds = time.monotonic() - began
        with self.changed:
            self._show(suite, count, output, note, seconds)
            self.total.passed += count.passed
            self.total.failed += count.failed
            self.free += suite.cores
            self.changed.notify()

    def _execute(self, suite):
        RESULTS.mkdir(parents=True, exist_ok=True)
        report = RESULTS / f"{suite.name}.report"
        report.unlink(missing_ok=True)
        command = [word.replace("{report}", str(report)) for word in suite.command]
        note = ""
        with tempfile.TemporaryFile(mode="w+", errors="replace") as heard:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "NO_COLOR": "1", **suite.environment},
                stdin=subprocess.DEVNULL,
                stdout=heard,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.processes.add(process)
            try:
                status = process.wait(GUARD)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
                note = f"hung for {GUARD} s"
            self.processes.discard(process)
            heard.seek(0)
            output = heard.read()
        try:
            count = suite.count(status, output, report)
        except (OSError, ValueError, KeyError, xml.etree.ElementTree.ParseError) as error:
            count, note = Count(), f"no report: {error}"
        if status != 0 and count.failed == 0:
            count.failed, note = 1, note or f"ended with status {status}"
        elif count.passed + count.failed == 0:
            count.failed, note = 1, note or "counted nothing"
        return count, output, note

    def _show(self, suite, count, output, note, seconds):
        skipped = f", {count.skipped} skipped" if count.skipped else ""
        note = f"  ({note})" if note else ""
        print(f"{suite.name:<16} {count.passed} ok, {count.failed} failed{skipped}, {seconds:.1f} s{note}", flush=True)
        if count.failed:
            print(f"---- output of {suite.name}\n{output.rstrip()}\n---- end of {suite.name}", flush=True)


def main(words):
    os.chdir(ROOT)
    if "--list" in words:
        for suite in SUITES:
            print(f"{suite.name:<16} {' '.join(suite.command)}")
        return 0
    unknown = [word for word in words if word not in [suite.name for suite in SUITES]]
    if unknown:
        print(f"run.py: no suite {' '.join(unknown)}; see --list", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print("run.py: needs root for network namespaces", file=sys.stderr)
        return 1
    running = Run([suite for suite in SUITES if suite.name in words or not (words or suite.apart)])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: running.stop())
    total = running.go()
    if running.stopping:
        total.failed += 1
        print("interrupted")
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed else 0


sys.exit(main(sys.argv[1:]))
