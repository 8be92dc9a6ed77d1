"""The table (at most 100 columns), the targets of the issue, and build/bench.json."""

import json
import statistics

from candidates import BASELINE
from measure import METRICS, ROUTER_CPU

LABEL = 26
WIDTH = 100


class Results:
    """Values by candidate, metric and round; and why a value is not there."""

    def __init__(self):
        self.values = {}
        self.reasons = {}
        self.notes = {}

    def add(self, candidate, metric, number, value):
        self.values.setdefault(candidate, {}).setdefault(metric, {})[number] = value

    def reason(self, candidate, metric, text):
        self.reasons.setdefault((candidate, metric), text)

    def note(self, candidate, text):
        """Something to say beside a value; of notes that differ only in their numbers the first one is kept."""
        self.notes.setdefault((candidate, text.split(":")[0]), text)

    def rounds(self, candidate, metric):
        return self.values.get(candidate, {}).get(metric, {})

    def median(self, candidate, metric):
        values = self.rounds(candidate, metric).values()
        return statistics.median(values) if values else None

    def ratios(self, candidate, metric, base=BASELINE):
        """The ratio to `base` in each round that has both."""
        mine, theirs = self.rounds(candidate, metric), self.rounds(base, metric)
        return [mine[n] / theirs[n] for n in sorted(mine) if theirs.get(n)]

    def ratio(self, candidate, metric, base=BASELINE):
        ratios = self.ratios(candidate, metric, base)
        return statistics.median(ratios) if ratios else None


# ---- the table -----------------------------------------------------------------------------------------------------


def _number(value, digits):
    """At most `digits` decimals, and fewer for a number of more than one digit before them."""
    return f"{value:.{min(digits, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else digits)}f}"


def _span(values, digits):
    return f"{_number(min(values), digits)}-{_number(max(values), digits)}"


def table(results, shown):
    """The lines of the table: a value, its ratio to nft masquerade and the ratio's range, one column a candidate."""
    cell = min(12, (WIDTH - LABEL) // max(1, len(shown)))
    footnotes = {}

    def row(label, cells):
        return (f"{label[:LABEL]:{LABEL}}" + "".join(f"{text:>{cell}}" for text in cells)).rstrip()

    def footnote(candidate, reason):
        if reason not in footnotes:
            footnotes[reason] = []
        if candidate.key not in footnotes[reason]:
            footnotes[reason].append(candidate.key)
        return f"[{list(footnotes).index(reason) + 1}]"

    words = [candidate.title.split("\n") for candidate in shown]
    lines = [row("", [first for first, _ in words]), row("median of the rounds", [last for _, last in words])]
    lines.append("-" * len(row("", ["x" * cell] * len(shown))))
    for metric in METRICS:
        present = [c for c in shown if results.rounds(c.key, metric.key)]
        absent = [c for c in shown if (c.key, metric.key) in results.reasons]
        if not present and not absent:
            continue
        cells = []
        for candidate in shown:
            if candidate in present:
                cells.append(_number(results.median(candidate.key, metric.key), metric.digits))
            elif candidate in absent:
                cells.append(footnote(candidate, results.reasons[candidate.key, metric.key]))
            else:
                cells.append("-")
        lines.append(row(f"{metric.label} {metric.unit}", cells))
        ratios = {c.key: results.ratios(c.key, metric.key) for c in shown} if metric.compared else {}
        if any(ratios[key] for key in ratios if key != BASELINE):

            def text(candidate, form, others):
                values = ratios[candidate.key]
                if not values:
                    return ""
                return others if candidate.key == BASELINE else form(values)

            lines.append(row("  ratio to nft", [text(c, lambda v: _number(statistics.median(v), 2) + "x", "1") for c in shown]))
            spans = {c.key: results.rounds(c.key, metric.key).values() for c in shown}
            if max(len(values) for values in ratios.values()) > 1:
                lines.append(row("  range", [text(c, lambda v: _span(v, 2), _span(spans[c.key], metric.digits) if spans[c.key] else "") for c in shown]))
        elif len(results.rounds(present[0].key, metric.key)) > 1 if present else False:
            lines.append(row("  range", [_span(results.rounds(c.key, metric.key).values(), metric.digits) if c in present else "" for c in shown]))
    lines += [""] + [f"[{number}] {', '.join(keys)}: {reason}" for number, (reason, keys) in enumerate(footnotes.items(), 1)]
    lines += [f"note: {key}: {text}" for (key, _), text in sorted(results.notes.items())]
    lines.append(f"CPU: {ROUTER_CPU},")
    lines.append("  at 100 kpps, for slirp4netns and pasta at 20 kpps.")
    lines.append("Ranges are of the ratio, of the value where there is none.")
    lines.append(f"TCP: congestion control {_congestion_control()}, which the hosts of a new namespace have.")
    return lines


def _congestion_control():
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as file:
        return file.read().strip()


# ---- targets -------------------------------------------------------------------------------------------------------


def _worst(values, lowest):
    known = [value for value in values if value is not None]
    return (min(known) if lowest else max(known)) if known and len(known) == len(values) else None


TCP = ("tcp_1", "tcp_8", "tcp_1_reverse", "tcp_8_reverse")


def targets(results):
    """The issue's "Must reach": (what, limit, whether a floor, value or None, unit)."""

    def ratio(metric, base=BASELINE, of="packet"):
        return results.ratio(of, metric, base)

    def against(base, metrics, of="packet"):
        return _worst([ratio(metric, base, of) for metric in metrics], True)

    def growth():
        one, many = results.rounds("packet", "cpu_1024"), results.rounds("packet", "cpu_16384")
        values = [many[n] / one[n] for n in one if n in many and one[n] > 0]
        return statistics.median(values) if values else None

    def value(metric):
        return results.median("packet", metric)

    return [
        ("TCP 1 stream to nft", 0.75, True, ratio("tcp_1"), "x"),
        ("TCP 8 streams to nft", 0.65, True, ratio("tcp_8"), "x"),
        ("TCP reverse, 1 stream, to nft", 0.65, True, ratio("tcp_1_reverse"), "x"),
        ("TCP reverse, 8 streams, to nft", 0.65, True, ratio("tcp_8_reverse"), "x"),
        ("UDP 64 B, 1k flows, delivered, to nft", 1.15, True, ratio("udp_1024"), "x"),
        ("TCP 1 stream to slirp4netns", 5, True, ratio("tcp_1", "slirp4netns"), "x"),
        ("TCP 8 streams to slirp4netns", 5, True, ratio("tcp_8", "slirp4netns"), "x"),
        ("TCP reverse, 1 stream, to slirp4netns", 5, True, ratio("tcp_1_reverse", "slirp4netns"), "x"),
        ("TCP reverse, 8 streams, to slirp4netns", 5, True, ratio("tcp_8_reverse", "slirp4netns"), "x"),
        ("UDP 64 B, 1k flows, to slirp4netns", 5, True, ratio("udp_1024", "slirp4netns"), "x"),
        ("latency p50 to nft (worse of UDP, TCP)", 2.5, False, _worst([ratio("udp_p50"), ratio("tcp_p50")], False), "x"),
        ("CPU a packet, 16k flows to 1k flows", 1.2, False, growth(), "x"),
        ("packet of a flood on a full table to a normal one", 1.5, False, value("flood_ratio"), "x"),
        ("JavaScript a packet", 0.9, False, value("javascript"), "us"),
        ("tun to packet driver (worst of TCP and UDP 1k)", 0.8, True, against("packet", (*TCP, "udp_1024"), "tun"), "x"),
        ("RSS, 4096 sessions, router's build, after load", 2.89, False, value("rss_router_load"), "MB"),
        ("RSS, 4096 sessions, glibc, after load", 9, False, value("rss_glibc_load"), "MB"),
        ("wake-ups when idle", 1, False, value("wakeups_glibc"), "/s"),
        ("start to first forwarded packet", 200, False, value("start"), "ms"),
        ("table bytes a session", 80, False, value("table_bytes"), "B"),
    ]


def offload_targets(results):
    """Those of the offload, in the same form. What a packet costs in the kernel is `make bench-guest`'s, which counts it exactly."""

    def ratio(metric):
        return results.ratio("offload", metric)

    return [
        ("TCP 1 stream to nft", 1.15, True, ratio("tcp_1"), "x"),
        ("TCP request/response p50 to nft", 0.85, False, ratio("tcp_p50"), "x"),
        ("connections/s to nft", 1.1, True, ratio("connections"), "x"),
        ("RFC 9693 establishment to nft", 0.95, True, ratio("establishment"), "x"),
        ("RFC 9693 tear-down to nft", 0.95, True, ratio("teardown"), "x"),
        ("kernel memory a flow", 140, False, results.median("offload", "offload_bytes"), "B"),
        ("installing a flow", 5, False, results.median("offload", "offload_install"), "us"),
        ("load of both programs", 30, False, results.median("offload", "offload_load"), "ms"),
    ]


def _verdict(limit, floor, value):
    if value is None:
        return "not measured"
    return "reached" if (value >= limit if floor else value <= limit) else "MISSED"


def target_lines(results):
    return [*_target_lines("masqd packet, no offload", targets(results)), *_target_lines("masqd offload", offload_targets(results))]


def _target_lines(whose, wanted):
    lines = ["", f"Must reach ({whose}; ratios are medians of the rounds' ratios)", "-" * 72]
    for what, limit, floor, value, unit in wanted:
        said = "-" if value is None else f"{value:.2f} {unit}"
        lines.append(f"  {what:50} {'>=' if floor else '<='} {limit:<6g} {said:>11}  {_verdict(limit, floor, value)}")
    return lines


# ---- JSON ----------------------------------------------------------------------------------------------------------


def document(results, shown, about):
    """Everything measured, as one object."""
    return {
        "about": about,
        "metrics": {m.key: {"label": m.label.strip(), "unit": m.unit, "higherIsBetter": m.higher} for m in METRICS},
        "candidates": {
            c.key: {
                metric.key: {
                    "median": results.median(c.key, metric.key),
                    "rounds": results.rounds(c.key, metric.key),
                    **({"ratios": results.ratios(c.key, metric.key)} if metric.compared and c.key != BASELINE else {}),
                }
                for metric in METRICS
                if results.rounds(c.key, metric.key)
            }
            for c in shown
        },
        "unmeasured": [{"candidate": c, "metric": m, "reason": r} for (c, m), r in results.reasons.items()],
        "notes": [{"candidate": c, "note": text} for (c, _), text in results.notes.items()],
        "targets": [
            {"what": what, "limit": limit, "floor": floor, "value": value, "unit": unit, "verdict": _verdict(limit, floor, value)}
            for what, limit, floor, value, unit in [*targets(results), *offload_targets(results)]
        ],
    }


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent="\t")
        file.write("\n")
