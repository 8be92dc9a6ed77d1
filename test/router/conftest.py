import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from machine import Router  # noqa: E402
from namespace import remove_leftovers  # noqa: E402

ARCH = os.environ.get("ROUTER_ARCH", "x86_64")


def pytest_sessionstart():
    remove_leftovers()


@pytest.fixture(scope="session")
def arch():
    return ARCH


@pytest.fixture(scope="session")
def router():
    """The machine, switched on once; the tests of the file are one session at its serial line, in order."""
    made = Router(ARCH)
    yield made
    made.close()


def pytest_runtest_makereport(item, call):
    """What the console showed goes into the report of a failed test."""
    if call.when == "call" and call.excinfo is not None and "router" in item.funcargs:
        item.add_report_section("call", "serial console", item.funcargs["router"].console.text[-6000:])
