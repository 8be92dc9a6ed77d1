"""make router: the emulated router's serial console on this terminal, its two namespaces around it."""

import os
import select
import sys
import termios
import tty

from machine import LAN_HOST, WAN_HOST, Router
from namespace import remove_leftovers

ESCAPE, LEAVE = b"\x01", b"x"


def main(arch):
    """Passes keys and text between the terminal and the serial line until ctrl-a x, or until the machine is off."""
    remove_leftovers()
    router = Router(arch, console=False)
    web = router.wan.start("/usr/bin/python3", "-m", "http.server", "--bind", WAN_HOST, "80")
    print(f"LAN host {LAN_HOST}: ip netns exec {router.lan.name} sh, then e.g. curl http://{WAN_HOST}/")
    print(f"WAN host {WAN_HOST}: ip netns exec {router.wan.name} sh; a web server runs there")
    print("ctrl-a x switches the router off\n", flush=True)
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        connect(router)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        web.kill()
        router.close()
        print()


def connect(router):
    """Both directions of the line."""
    escaped = False
    while True:
        ready, _, _ = select.select([0, router.master], [], [])
        if router.master in ready:
            try:
                text = os.read(router.master, 4096)
            except OSError:
                return
            if not text:
                return
            os.write(1, text)
        if 0 in ready:
            keys = os.read(0, 64)
            if not keys:
                return
            for number in keys:
                key = bytes([number])
                if escaped and key == LEAVE:
                    return
                escaped = key == ESCAPE and not escaped
                if not escaped:
                    os.write(router.master, key)


main(sys.argv[1] if len(sys.argv) > 1 else "x86_64")
