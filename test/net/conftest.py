"""Fixtures: every test that takes `bed` or `make_bed` runs once a LAN driver and ends with the invariants."""


import pytest

import bed as beds
import namespace


def pytest_sessionstart():
    namespace.remove_leftovers()
    if not beds.BASELINE and not beds.MASQD.exists():
        pytest.exit(f"no {beds.MASQD}: run `make build`, or set ROUTER=nft to test the bed itself", returncode=2)


def pytest_configure(config):
    config.addinivalue_line("markers", "masqd: asks what only masqd does or can tell; not run with ROUTER=nft")
    config.addinivalue_line("markers", "drivers(names): the LAN drivers that the test is for")


def pytest_generate_tests(metafunc):
    if "driver" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("drivers")
    names = ["kernel"] if beds.BASELINE else list(mark.args) if mark else ["packet", "tun"]
    metafunc.parametrize("driver", names)


def pytest_collection_modifyitems(config, items):
    """Against the kernel's masquerade (ROUTER=nft) the tests of what only masqd has are not among the tests."""
    if not beds.BASELINE:
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("masqd")])
    items[:] = [item for item in items if not item.get_closest_marker("masqd")]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the daemon's own words with every failure."""
    report = (yield).get_result()
    if report.failed:
        for bed in getattr(item, "_beds", []):
            if bed.daemon is not None:
                report.sections.append((f"masqd ({bed.prefix})", bed.daemon.output))


@pytest.fixture
def make_bed(driver, request):
    """Makes beds of the driver under test; checks and removes them in the end."""
    made = request.node._beds = []

    def make(**options):
        one = beds.Bed(driver, **options)
        made.append(one)
        return one

    try:
        yield make
        for one in made:
            one.check()
    finally:
        for one in made:
            one.close()


@pytest.fixture
def bed(make_bed):
    """The usual bed with the daemon running."""
    return make_bed().start()
