"""Runs the cases of this folder in the guest (build/guest, made by guest.sh), each in a boot of its own.

    run.py [--quick] [--machine MACHINE] [CASE...] [-- WORD...]      words for the case instead of its own

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
HERE = pathlib.Path(__file__).parent
# Cases with their words: the whole ones, and those that take a minute or two for `make test`.
CASES = {"wans": (["100"], ["2", "pppoe"]), "costs": ([], ["quick"]), "timers": ([], ["tun"]), "sleep": ([], ["tun+offload"]), "beside": ([], ["cake_out"])}
# A guest that runs longer, in seconds, hangs.
LIMIT = {False: 7200, True: 900}
CLOCK = "-icount shift=0,sleep=off -nodefaults -nic none -display none -no-reboot -serial stdio"
# The machine, where its kernel is, where the case lies in it, what its kernel is told, and its qemu.
MACHINES = {
    # Without the processor's fast string instructions: their copies would count one instruction a byte, eight times what others take.
    "x86": (
        ROOT / "build" / "guest",
        HERE,
        "",
        f"qemu-system-x86_64 -machine q35,accel=tcg {CLOCK} -cpu max,-cx16,-erms,-fsrm -m 1024 "
        "-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    ),
    "mips": (
        ROOT / "build" / "guest-mips",
        pathlib.Path("/masqd/test/guest"),
        # Once asleep in the processor's WAIT it does not wake up under a clock that counts instructions, so it spins.
        "nowait",
        # Its kernel learns the clock's rate from the RTC, which has to go by the same clock.
        f"qemu-system-mipsel -machine malta {CLOCK} -rtc clock=vm -cpu 24Kf -m 256",
    ),
}


def boot(machine, case, words, limit):
    """Runs a case in the guest; prints and returns what it says."""
    guest, folder, told, qemu = MACHINES[machine]
    command = ",".join(map(str, ["/usr/bin/python3", folder / f"{case}.py", *words]))
    append = f"console=ttyS0 panic=-1 quiet mitigations=off cryptomgr.notests {told} command={command}"
    argv = [*qemu.split(), "-kernel", guest / "kernel", "-initrd", guest / "initramfs", "-append", append]
    running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
    signal.signal(signal.SIGALRM, lambda *_: running.kill())
    signal.alarm(limit)
    said = []
    for line in running.stdout:
        said.append(line)
        print(line, end="", flush=True)
    signal.alarm(0)
    running.wait()
    return "".join(said)


def main(words):
    quick, machine = "--quick" in words, "x86"
    if "--machine" in words:
        at = words.index("--machine")
        machine, words = words[at + 1], words[:at] + words[at + 2 :]
    words, own = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, None)
    names = [word for word in words if word != "--quick"] or list(CASES)
    passed = failed = 0
    for name in names:
        print(f"---- {name}", flush=True)
        said = boot(machine, name, CASES[name][quick] if own is None else own, LIMIT[quick])
        found = re.findall(r"^(\d+) passed, (\d+) failed", said, re.MULTILINE)
        passed += int(found[-1][0]) if found else 0
        failed += int(found[-1][1]) if found else 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
