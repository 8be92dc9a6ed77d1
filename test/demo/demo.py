"""make demo: masqd between a LAN host and a server, each a network namespace, used by real programs.

    demo.py [--shell] [DRIVER]      (packet, tun or kernel; default packet)

Every step is a sentence with what was seen. Exit status 0 if all steps worked. With --shell the hosts stay up for a
shell on the LAN host, until it ends.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "net"))

from bed import FAR, GATEWAY, H1, LAN_GATEWAY, S1, S2, Bed, WebServer, dns_server, iperf_server, payload  # noqa: E402
from namespace import remove_leftovers, run, wait_until  # noqa: E402

COLUMNS = 76
WEB_BYTES = 20 << 20
NAME = "www.example.test"


class Failed(Exception):
    """A step did not show what it should."""


def say(text):
    print(textwrap.fill(text, COLUMNS, break_on_hyphens=False, break_long_words=False), flush=True)


def show(text):
    """Prints what a program said, indented; a line that would not fit a console is cut."""
    for line in text.rstrip("\n").splitlines():
        line = line.expandtabs(4).encode("ascii", "replace").decode()
        print(f"    {line}"[:COLUMNS].rstrip(), flush=True)


def show_exactly(text):
    """Prints what masqd itself said; it promises to fit a console and to be ASCII."""
    for line in text.splitlines():
        if len(line) > COLUMNS or not line.isascii():
            raise Failed(f"masqd wrote a line that does not fit: {line!r}")
    print(text, end="", flush=True)


def need(condition, text):
    if not condition:
        raise Failed(text)


class Demo:
    """The steps, in order: methods called `step_...`; the first line of each docstring is its title."""

    def __init__(self, bed):
        self.bed = bed
        self.web = WebServer(bed.wan, bed.folder / "web")
        self.sum = payload(self.web.www / "film", WEB_BYTES)
        self.dns = dns_server(bed.wan, {NAME: S1})
        iperf_server(bed.wan)

    def step_ping(self):
        """Ping"""
        seen = self.bed.h1.run("ping", "-n", "-c", "3", "-i", "0.2", "-w", "30", S1).stdout
        need("3 received" in seen, seen)
        rtt = re.search(r"= [\d.]+/([\d.]+)/", seen)
        say(f"The LAN host {H1} pinged the server {S1} three times and got three replies, {rtt[1]} ms on average.")

    def step_traceroute(self):
        """Traceroute"""
        seen = self.bed.h1.run("traceroute", "-n", "-q", "1", "-m", "5", FAR).stdout
        hops = re.findall(r"^ *\d+ +(\S+)", seen, re.MULTILINE)
        need(len(hops) == 3 and hops[0] == LAN_GATEWAY and hops[2] == FAR, seen)
        say(f"On the way to {FAR} it saw the router, the provider's router and the server:")
        show("\n".join(seen.splitlines()[1:]))

    def step_dns(self):
        """Name resolution"""
        seen = self.bed.h1.run("dig", "+short", f"@{S2}", NAME).stdout.strip()
        need(seen == S1, f"dig said {seen!r}")
        logged = self.dns.expect(rf"query\[A\] {re.escape(NAME)}")
        need(logged.endswith(GATEWAY), logged)
        say(f"dig asked dnsmasq at {S2} for {NAME} and got {seen}. dnsmasq's log names the gateway as the asker:")
        show(re.sub(r"^.*?query", "query", logged))

    def step_web(self):
        """Web download"""
        got = self.bed.folder / "got"
        form = "%{http_code} %{size_download} %{speed_download}"
        seen = self.bed.h1.run("curl", "-sS", "-f", "-o", got, "-w", form, f"http://{S1}/film").stdout.split()
        summed = self.bed.h1.run("sha256sum", got).stdout.split()[0]
        need(summed == self.sum, "the file that arrived is not the file that was sent")
        logged = wait_until(self.web.log, "a line in the server's log")[-1]
        need(logged.split()[0] == GATEWAY, logged)
        say(
            f"curl loaded {int(seen[1]) / 1e6:.1f} MB from nginx at {float(seen[2]) / 1e6:.0f} MB/s and the checksum is right. "
            f"The server's access log shows the gateway, not {H1}:"
        )
        show(logged)

    def step_stream(self):
        """TCP stream"""
        for way, text in (([], "from the LAN host to the server"), (["-R"], "from the server to the LAN host")):
            seen = json.loads(self.bed.h1.run("iperf3", "-J", "-c", S1, "-t", "2", *way).stdout)
            rate = seen["end"]["sum_received"]["bits_per_second"]
            need(rate > 0, "no bytes arrived")
            say(f"iperf3 carried {rate / 1e9:.2f} Gbit/s {text}.")

    def step_inbound(self):
        """An uninvited connection"""
        before = self._uninvited()
        with self.bed.wan.tcp() as stranger:
            stranger.settimeout(1)
            try:
                stranger.connect((GATEWAY, 40022))
            except TimeoutError:
                result = "heard nothing"
            except OSError as error:
                result = f"got the error {error.strerror}"
            else:
                raise Failed("an uninvited connection was let in")
        after = self._uninvited()
        need(after and after["count"] > (before["count"] if before else 0), "no drop was counted")
        need(result == "heard nothing", result)
        say(f"The server tried to connect to {GATEWAY} port 40022 and {result}. masqd status says why:")
        show(f"dropped {after['count']} {after['reason']}")
        show(textwrap.fill(f"{after['text']} {after['remedy']}", COLUMNS - 4))

    def step_why(self):
        """masqd why"""
        say("What would let it in? Every decision about such a connection, made without sending anything:")
        show_exactly(self.bed.masqd("why", "tcp", f"{S1}:50000", f"{GATEWAY}:40022").stdout)

    def step_capture(self):
        """A capture, read back by tshark"""
        file = self.bed.folder / "demo.pcapng"
        self.bed.masqd("capture", "on")
        self.bed.h1.ping(S1, 1)
        self.bed.masqd("capture", "last", "-w", file, "--host", H1)
        self.bed.masqd("capture", "off")
        columns = ("frame.interface_name", "ip.src", "ip.dst", "icmp.type", "frame.comment")
        read = run("tshark", "-r", file, "-Y", "icmp", "-T", "fields", *(word for name in columns for word in ("-e", name))).stdout
        rows = [row.split("\t") for row in read.splitlines()]
        # The kernel shows masqd no answers.
        seen = 2 if self.bed.driver == "kernel" else 4
        need(len(rows) >= seen and rows[1][1] == GATEWAY and "translated" in rows[0][4], read)
        say("masqd captured a ping on both sides of the translation. tshark reads the file; the comments are masqd's:")
        for device, source, destination, _, comment in rows[:seen]:
            show(f"{device}: {source} > {destination}\n  {comment}")

    def _uninvited(self):
        found = [one for one in self.bed.status()["drops"] if one["reason"] == "no-mapping"]
        return found[0] if found else None

    def step_forward(self):
        """A port forward"""
        with self.bed.h1.listener(H1, 22) as service, self.bed.wan.tcp(S1) as client:
            client.connect((GATEWAY, 2222))
            server, peer = service.accept()
            with server:
                server.sendall(b"hello from the LAN")
                heard = client.recv(100).decode()
            need(heard == "hello from the LAN" and peer[0] == S1, f"{heard!r} {peer}")
        say(f"The server connected to {GATEWAY} port 2222, which is forwarded: {H1} port 22 saw it come from {peer[0]} and answered '{heard}'.")

    def step_kill(self):
        """kill -9 under a download"""
        got = self.bed.folder / "again"
        loading = self.bed.h1.start("curl", "-sS", "-f", "--limit-rate", "8M", "-o", got, f"http://{S1}/film")
        wait_until(lambda: got.exists() and got.stat().st_size > WEB_BYTES // 8, "the beginning of the file")
        self.bed.daemon.kill()
        had = got.stat().st_size
        need(loading.running(), "the download ended before masqd was killed")
        self.bed.launch().expect(r"^masqd: ready:")
        wait_until(lambda: not loading.running(), "the end of the download", guard=120)
        summed = self.bed.h1.run("sha256sum", got).stdout.split()[0]
        need(summed == self.sum, f"the download did not survive: {got.stat().st_size} of {WEB_BYTES} bytes; {loading.output}")
        say(
            f"masqd was killed with {had / 1e6:.1f} of {WEB_BYTES / 1e6:.1f} MB loaded, and started again. The connection went on, "
            "and the checksum of the file is right: its table is a file in memory that the next masqd takes over."
        )

    def step_flows(self):
        """masqd flows"""
        show_exactly(self.bed.masqd("flows", "-n", "12").stdout)

    def step_status(self):
        """masqd status"""
        show_exactly(self.bed.masqd("status").stdout)
        need(self.bed.leaks() == 0, "something leaked")
        need(not self.bed.sniffer.offenders(), "a foreign source was on the WAN wire")
        say(f"Nothing but {GATEWAY} was ever a source on the WAN wire.")

    def run(self):
        """Runs all steps; the number of those that failed."""
        failed = 0
        steps = [step for name, step in vars(type(self)).items() if name.startswith("step_")]
        for number, step in enumerate(steps, 1):
            print(f"\n-- {number}. {step.__doc__}")
            try:
                step(self)
            except (Failed, AssertionError, OSError) as error:
                failed += 1
                say("FAILED:")
                show(str(error))
        return failed


def shell(bed):
    """An interactive shell on the LAN host, with commands for its neighbours on its path."""
    tools = bed.folder / "bin"
    tools.mkdir()
    for name, line in (
        ("masqd", f'exec {bed.command()[0]} "$@" --socket {bed.socket_path}'),
        ("router", f'exec ip netns exec {bed.router.name} "$@"'),
        ("wan", f'exec ip netns exec {bed.wan.name} "$@"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    print()
    say(
        f"This is a shell on the LAN host {H1}; exit ends it and tidies up. The web server and iperf3 are at {S1}, DNS is at {S2}. "
        "Try: masqd flows, masqd status; router COMMAND and wan COMMAND run a command on the other two hosts."
    )
    sys.stdout.flush()
    program = os.environ.get("SHELL", "")
    program = program if program.startswith("/") and os.access(program, os.X_OK) else "/bin/sh"
    there = {**os.environ, "SHELL": program, "PATH": f"{tools}:{os.environ['PATH']}", "PS1": "lan-host# "}
    subprocess.run(bed.h1.command(program), check=False, env=there)


def main(words):
    if os.geteuid() != 0:
        print("make demo needs root: it makes network namespaces")
        return 1
    remove_leftovers()
    say(f"Three hosts in namespaces: a LAN host ({H1}), a router ({LAN_GATEWAY} and {GATEWAY}) and a WAN with a server ({S1}, {S2}).")
    driver = next((word for word in words if not word.startswith("-")), "packet")
    with Bed(driver=driver, far=True) as bed:
        redirect = ("redirect", None, {"name": "ssh", "proto": ["tcp"], "src_dport": "2222", "dest_ip": H1, "dest_port": "22"})
        bed.configure(extra=[redirect])
        print("\nThe router's configuration:")
        show(bed.config_file.read_text())
        bed.start()
        say("masqd runs on the router. It said:")
        show(textwrap.fill(bed.daemon.lines[0], COLUMNS - 4))
        failed = Demo(bed).run()
        if "--shell" in words:
            shell(bed)
        try:
            bed.stop()
        except AssertionError as error:
            failed += 1
            show(str(error))
    print()
    say("All of it is removed again." + (f" {failed} steps FAILED." if failed else ""))
    return 1 if failed else 0


for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda which, _: sys.exit(128 + which))
try:
    sys.exit(main(sys.argv[1:]))
except KeyboardInterrupt:
    sys.exit(130)
