"""Streams of ten messages a second, TCP and UDP, through a router: which of them end, move or pause while something happens.

Each host has connections of both kinds to a server of the WAN that sends every message back. One thread does all of it.
"""

import contextlib
import dataclasses
import selectors
import socket
import statistics
import threading
import time

from namespace import wait_until

RHYTHM = 0.1
UDP_PORT, TCP_PORT = 7000, 7001


class Stream:
    """A connection, or a socket that sends datagrams: what was sent and what came back."""

    def __init__(self, kind, namespace, address, server):
        self.kind, self.namespace, self.address, self.server = kind, namespace, address, server
        self.sent = 0
        self.outside = None
        self.opened = self.socket = None
        self.text = b""
        self.zero()
        self.open()

    def zero(self):
        """Counts anew from now."""
        self.first = self.sent
        self.answered = set()
        self.resets = self.moves = 0
        self.gap = 0.0
        self.last = time.monotonic()

    def open(self):
        if self.socket is not None:
            self.socket.close()
        self.text = b""
        self.outside = None
        self.socket = self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM if self.kind == "tcp" else socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.opened = time.monotonic()
        with contextlib.suppress(OSError):
            self.socket.bind((self.address, 0))
            self.socket.connect(self.server)

    def send(self):
        self.sent += 1
        with contextlib.suppress(BlockingIOError):
            try:
                self.socket.send(b"%d\n" % self.sent)
            except ConnectionRefusedError:
                # An ICMP error about an earlier datagram.
                if self.kind == "tcp":
                    self.reset()
            except OSError:
                self.reset()

    def reset(self):
        if self.kind == "tcp" and self.outside is not None:
            self.resets += 1
        if self.kind == "tcp" and (self.outside is not None or time.monotonic() - self.opened > 1):
            self.open()

    def receive(self):
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        if not data and self.kind == "tcp":
            self.reset()
            return
        self.text += data
        *lines, self.text = self.text.split(b"\n")
        now = time.monotonic()
        for line in lines:
            number, outside = line.decode().split(" ")
            if self.outside is not None and outside != self.outside:
                self.moves += 1
            self.outside = outside
            self.answered.add(int(number))
            self.gap = max(self.gap, now - self.last - RHYTHM)
            self.last = now

    @property
    def lost(self):
        return sum(1 for n in range(self.first + 1, self.sent - 1) if n not in self.answered)


@dataclasses.dataclass
class Row:
    """What an event did to the streams, in the worst and in the median of its times."""

    event: str
    times: int
    resets: int
    moves: int
    tcp_gaps: list
    udp_gaps: list
    lost: int
    pids: set

    HEAD = f"{'event':<52} {'times':>5} {'TCP reset':>9} {'UDP moved':>9} {'TCP gap s (max)':>15} {'UDP gap s (max)':>15} {'datagrams lost':>14}  masqd's pid"

    def __str__(self):
        def gaps(found):
            return f"{statistics.median(found):.2f} ({max(found):.2f})"

        kept = "" if not self.pids - {""} else "kept" if len(self.pids) == 1 else "another"
        return f"{self.event:<52} {self.times:>5} {self.resets:>9} {self.moves:>9} {gaps(self.tcp_gaps):>15} {gaps(self.udp_gaps):>15} {self.lost:>14}  {kept}"


class Streams:
    """Two of each kind from every host, until closed."""

    def __init__(self, house, hosts, each=2):
        self._house = house
        self._lock = threading.Lock()
        self._stop = False
        self._selector = selectors.DefaultSelector()
        self._texts = {}
        self._server = (house.SERVER, UDP_PORT)
        self._udp = house.wan.udp("", UDP_PORT)
        self._udp.setblocking(False)
        self._listener = house.wan.listener("", TCP_PORT)
        self._listener.setblocking(False)
        self._selector.register(self._udp, selectors.EVENT_READ, self._echo_datagram)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self.streams = []
        for namespace, address in hosts:
            self.add(namespace, address, each)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, namespace, address, each=2):
        """Another host's."""
        with self._lock:
            for _ in range(each):
                self.streams.append(Stream("udp", namespace, address, (self._house.SERVER, UDP_PORT)))
                self.streams.append(Stream("tcp", namespace, address, (self._house.SERVER, TCP_PORT)))

    def _echo_datagram(self, _):
        with contextlib.suppress(OSError):
            data, (address, port) = self._udp.recvfrom(2048)
            self._udp.sendto(data[:-1] + f" {address}:{port}\n".encode(), (address, port))

    def _accept(self, _):
        with contextlib.suppress(OSError):
            connection, peer = self._listener.accept()
            connection.setblocking(False)
            self._texts[connection] = (b"", peer)
            self._selector.register(connection, selectors.EVENT_READ, self._echo_line)

    def _echo_line(self, connection):
        text, (address, port) = self._texts[connection]
        try:
            data = connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            del self._texts[connection]
            connection.close()
            return
        *lines, rest = (text + data).split(b"\n")
        self._texts[connection] = (rest, (address, port))
        with contextlib.suppress(OSError):
            connection.send(b"".join(line + f" {address}:{port}\n".encode() for line in lines))

    def _run(self):
        due = time.monotonic()
        while not self._stop:
            for key, _ in self._selector.select(0.01):
                key.data(key.fileobj)
            with self._lock:
                for stream in self.streams:
                    stream.receive()
                if time.monotonic() >= due:
                    due += RHYTHM
                    for stream in self.streams:
                        stream.send()

    def flowing(self):
        """Waits until every stream has an answer to something that it sends from now on."""
        with self._lock:
            wanted = [(stream, stream.sent + 1) for stream in self.streams]
        wait_until(lambda: all(stream.answered and max(stream.answered) >= number for stream, number in wanted), "answers for every stream")

    def during(self, event, action, times=1, after=lambda: None):
        """Does something once or several times, waits for the router to be quiet, and tells what it did to the streams."""
        row = Row(event, times, 0, 0, [], [], 0, {self._house.pid()})
        for _ in range(times):
            self.flowing()
            with self._lock:
                for stream in self.streams:
                    stream.zero()
            action()
            after()
            self._house.quiet()
            self.flowing()
            with self._lock:
                row.resets += sum(stream.resets for stream in self.streams)
                row.moves += sum(min(1, stream.moves) for stream in self.streams if stream.kind == "udp")
                row.tcp_gaps.append(max(stream.gap for stream in self.streams if stream.kind == "tcp"))
                row.udp_gaps.append(max(stream.gap for stream in self.streams if stream.kind == "udp"))
                row.lost += sum(stream.lost for stream in self.streams if stream.kind == "udp")
            row.pids.add(self._house.pid())
        return row

    def close(self):
        self._stop = True
        self._thread.join()
        for stream in self.streams:
            stream.socket.close()
        for connection in self._texts:
            connection.close()
        self._listener.close()
        self._udp.close()
