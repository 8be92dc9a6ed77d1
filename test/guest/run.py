"""Runs the cases of this folder in the guest (build/guest, made by guest.sh), each in a boot of its own.

    run.py [--quick] [CASE...] [-- WORD...]      words for the case instead of its own

The guest's clock counts instructions, so rates and their ratios do not depend on how busy this machine is. Prints what the cases print
and, last of all, their sum: `N passed, N failed`.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUEST = ROOT / "build" / "guest"
HERE = pathlib.Path(__file__).parent
# Cases with their words: the whole ones, and those that take a minute or two for `make test`.
CASES = {"wans": (["100"], ["2", "pppoe"]), "costs": ([], ["quick"]), "timers": ([], ["tun"]), "sleep": ([], ["tun+offload"])}
# A guest that runs longer, in seconds, hangs.
LIMIT = {False: 7200, True: 900}
# Without the processor's fast string instructions: their copies would count one instruction a byte, eight times what others take.
QEMU = (
    "qemu-system-x86_64 -machine q35,accel=tcg -icount shift=0,sleep=off -cpu max,-cx16,-erms,-fsrm -m 1024 -nodefaults -display none -no-reboot -serial stdio "
    "-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
).split()


def boot(words, limit):
    """Runs a command in the guest; prints and returns what it says."""
    command = ",".join(map(str, words))
    append = f"console=ttyS0 panic=-1 quiet mitigations=off command={command}"
    argv = [*QEMU, "-kernel", GUEST / "kernel", "-initrd", GUEST / "initramfs", "-append", append]
    machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
    signal.signal(signal.SIGALRM, lambda *_: machine.kill())
    signal.alarm(limit)
    said = []
    for line in machine.stdout:
        said.append(line)
        print(line, end="", flush=True)
    signal.alarm(0)
    machine.wait()
    return "".join(said)


def main(words):
    quick = "--quick" in words
    words, own = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, None)
    names = [word for word in words if word != "--quick"] or list(CASES)
    passed = failed = 0
    for name in names:
        print(f"---- {name}", flush=True)
        said = boot(["/usr/bin/python3", HERE / f"{name}.py", *(CASES[name][quick] if own is None else own)], LIMIT[quick])
        found = re.findall(r"^(\d+) passed, (\d+) failed", said, re.MULTILINE)
        passed += int(found[-1][0]) if found else 0
        failed += int(found[-1][1]) if found else 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
