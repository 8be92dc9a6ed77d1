"""The timers of the RFCs at their real values: hours, which this guest's clock leaps over when nothing is to be done.

Each timer by two sessions: one hears from outside a second before its end, the other when it must be over. With the kernel's masquerade
beside, which is not judged.

    timers.py [DRIVER[+offload]...]
"""

import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "test" / "conformance"), str(ROOT / "test" / "net")]

import namespace  # noqa: E402

# The clock leaps while files are read from the machine around.
namespace.GUARD = 1000.0

from bed import H1, S1  # noqa: E402
from case import GRACE, Case, Connection, answer  # noqa: E402
from guest import Results  # noqa: E402
from packets import echo, udp  # noqa: E402
from rawbed import RawBed  # noqa: E402

UDP, DNS, QUERY, TRANSITORY, ESTABLISHED = 300, 2, 60, 240, 7440


class Datagrams:
    """UDP or an ICMP query: what came out is answered."""

    def __init__(self, b, packet, replies):
        self.b, self.seen = b, b.out(packet)
        for _ in range(replies):
            self.reply()

    def reply(self):
        self.b.inn(answer(self.seen))

    def strange(self):
        self.b.send_wan(answer(self.seen))


class Segments:
    """A TCP connection after `words`: each a direction and the flags of a segment. `last` is what the peer says at the end."""

    def __init__(self, b, port, last, *words):
        self.last, self.c = last, Connection(b, H1, port, S1, 80)
        for word in words:
            way, flags = word.split(":")
            (self.c.out if way == "out" else self.c.inn)(flags)

    def reply(self):
        self.c.inn(self.last)

    def strange(self):
        self.c.case.send_wan(self.c.segment_in(self.last))


OPEN = ("out:S", "in:SA", "out:A")
# What it is, its seconds by RFC (or README), how long after them it must be over at last, and how it is made from a port of its own.
TIMERS = [
    ("UDP, one datagram", UDP, 0, lambda b, port: Datagrams(b, udp(H1, port, S1, 3478), 0)),
    ("UDP, answered", UDP, 0, lambda b, port: Datagrams(b, udp(H1, port, S1, 3478), 1)),
    ("DNS, one question and answer", DNS, 0, lambda b, port: Datagrams(b, udp(H1, port, S1, 53), 1)),
    ("ICMP query", QUERY, 0, lambda b, port: Datagrams(b, echo(H1, S1, port), 1)),
    ("TCP, SYN", TRANSITORY, 0, lambda b, port: Segments(b, port, "SA", "out:S")),
    ("TCP, SYN answered", TRANSITORY, 0, lambda b, port: Segments(b, port, "SA", "out:S", "in:SA")),
    ("TCP, both FINs", TRANSITORY, 0, lambda b, port: Segments(b, port, "A", *OPEN, "out:FA", "in:FA")),
    # RFC 7857 figure 1: from there an idle connection is transitory before it ends.
    ("TCP established, idle", ESTABLISHED, TRANSITORY, lambda b, port: Segments(b, port, "A", *OPEN)),
    ("TCP, FIN from inside", ESTABLISHED, TRANSITORY, lambda b, port: Segments(b, port, "A", *OPEN, "out:FA", "in:A")),
    ("TCP, FIN from outside", ESTABLISHED, TRANSITORY, lambda b, port: Segments(b, port, "A", *OPEN, "in:FA", "out:A")),
]


# With the kernel driver a question waits for its answer as long as the answered one lives on.
CARRIED_DNS = 10


def timers(b):
    """The table for a driver."""
    return [(name, CARRIED_DNS if seconds == DNS and b.driver == "kernel" and not b.baseline else seconds, *rest) for name, seconds, *rest in TIMERS]


def walk(b):
    """{(timer, "alive" or "over"): None, or words on what was seen instead}."""
    events, found = [], {}
    for n, (name, seconds, more, make) in enumerate(timers(b)):
        for kind, port in (("alive", 40000 + n), ("over", 50000 + n)):
            try:
                session = make(b, port)
            except AssertionError as error:
                found[name, kind] = f"not opened: {str(error).splitlines()[0]}"
                continue
            now = time.monotonic()
            events.append((now + (seconds - 1 if kind == "alive" else seconds + more + 1 + GRACE), name, kind, session))
    for moment, name, kind, session in sorted(events, key=lambda event: event[0]):
        try:
            time.sleep(max(moment - time.monotonic(), 0))
            b.forget()
            if kind == "alive":
                session.reply()
            else:
                session.strange()
                b.none_lan()
            found[name, kind] = None
        except AssertionError as error:
            found[name, kind] = str(error).splitlines()[0]
    return found


def main(drivers):
    results = Results()
    for name in drivers:
        driver, _, offload = name.partition("+")
        baseline = driver == "nft"
        bed = RawBed("packet" if baseline else driver, baseline)
        try:
            b = Case(bed, offload="on" if offload else "off")
            b.config()
            found = walk(b)
            for timer, seconds, more, _ in timers(b):
                for kind, when in (("alive", seconds - 1), ("over", seconds + more + 1 + GRACE)):
                    wrong = found[timer, kind]
                    text = f"{name:<14} {timer:<29} {kind:<5} after {when:>5} s {'' if wrong is None else '- ' + wrong}"
                    if baseline:
                        print(f"{'' if wrong is None else 'not '}as asked: {text}", flush=True)
                    else:
                        results.row(wrong is None, text)
            if not baseline:
                for fault in b.finish():
                    results.row(False, f"{name}: {fault}")
        finally:
            bed.close()
    results.end()


if __name__ == "__main__":
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    main(sys.argv[1:] or ["nft", "packet", "tun", "packet+offload", "tun+offload", "kernel"])
