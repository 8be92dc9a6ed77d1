"""Which rows there are and which function tests which: `@row("U-1")` ties a function to a row of catalogue.py."""

import dataclasses
import importlib
import pathlib

from catalogue import CATALOGUE

# How a starred row is run again (load.py).
LOADS = ("90", "100", "flood")


@dataclasses.dataclass(frozen=True)
class Test:
    """A row's function and what it needs. Built by `row`."""

    id: str
    function: object
    config: dict
    bed: dict
    fresh: bool
    masqd_only: bool
    alone: bool
    guard: float


TESTS = {}


def row(row_id, *, config=None, bed=None, fresh=False, masqd_only=False, alone=False, guard=180.0):
    """Makes a function the test of a row of the catalogue.

    `config`      what Case.config takes, for the daemon that the case starts with: dict(main=, timeouts=, extra=)
    `bed`         options of a bed of its own: dict(wan_mtu=, external=)
    `fresh`       the case spoils its bed (deletes devices, changes addresses): it gets one of its own too
    `masqd_only`  asks what only masqd has or can tell; the Linux column shows n/a
    `alone`       keeps a processor busy: runs when the other cases are done, as floods do
    `guard`       seconds after which the case hangs
    """
    if row_id not in CATALOGUE:
        raise ValueError(f"no row {row_id} in catalogue.py")

    def take(function):
        if row_id in TESTS:
            raise ValueError(f"two tests for {row_id}: {TESTS[row_id].function.__module__} and {function.__module__}")
        TESTS[row_id] = Test(row_id, function, config or {}, bed or {}, fresh or bool(bed), masqd_only, alone, guard)
        return function

    return take


def load_tests():
    """Imports every rows_*.py of this folder."""
    for path in sorted(pathlib.Path(__file__).parent.glob("rows_*.py")):
        importlib.import_module(path.stem)
    return TESTS
