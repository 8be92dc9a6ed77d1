"""Tries masqd beside what owners have on their routers besides, each row with masqd off as the control.

    test/neighbours/run.py [--quick] [--drivers off,kernel,tun,packet] [ROW...]

Prints the table, what differs, and last of all `N passed, N failed`.
"""

import argparse
import concurrent.futures
import os
import sys
import traceback

from house import House
from rows import ROWS

DRIVERS = ("kernel", "tun", "packet")
SIDE_BY_SIDE = 2


def cell(name, driver):
    """What a row comes to with a driver: (whether it came to anything, a value or an error's words)."""
    (one,) = (row for row in ROWS if row.name == name)
    try:
        return True, one.run(lambda **options: House(driver, **options))
    except Exception:
        return False, traceback.format_exc()


def verdict(expected, off, got):
    """Whether a cell is as it is to be."""
    if not got[0] or not off[0]:
        return False
    return got[1] == off[1] if expected == "as off" else got[1] is True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--drivers", default=",".join(DRIVERS))
    parser.add_argument("rows", nargs="*")
    words = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("run.py: needs root for network namespaces")
    rows = [row for row in ROWS if (row.name in words.rows if words.rows else row.quick or not words.quick)]
    drivers = words.drivers.split(",")
    with concurrent.futures.ProcessPoolExecutor(SIDE_BY_SIDE) as pool:
        cells = {(row.name, driver): pool.submit(cell, row.name, driver) for row in rows for driver in ("off", *drivers)}
        passed = failed = 0
        print(f"{'neighbour':<22} {'row':<34} " + " ".join(f"{driver:<9}" for driver in drivers))
        for row in rows:
            off = cells[row.name, "off"].result()
            shown, notes = [], []
            for driver in drivers:
                expected, got = getattr(row, driver), cells[row.name, driver].result()
                good = verdict(expected, off, got)
                passed, failed = passed + good, failed + (not good)
                shown.append(expected if good else "NOT SO")
                if not good:
                    notes += [f"  {driver}, expected {expected}:", f"    off  {off[1]}", f"    {driver}  {got[1]}"]
            print(f"{row.neighbour:<22} {row.name:<34} " + " ".join(f"{text:<9}" for text in shown), *notes, sep="\n", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
