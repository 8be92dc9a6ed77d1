"""FTP through the ALG with real programs; what an attacker would like it to do; payloads that are nobody's business (T-6, U-10, U-10a)."""

import os
import pathlib
import signal
import socket

import pytest

import bed as beds
from bed import GATEWAY, H1, H2, S1, payload
from namespace import await_listener
from packets import tcp

HERE = pathlib.Path(__file__).parent
# One is shorter than the inside addresses in a command, one is longer.
ADDRESSES = [GATEWAY, "203.0.113.201"]
FORWARDS = [("redirect", None, {"proto": ["tcp"], "src_dport": p, "dest_ip": H1, "dest_port": "21"}) for p in ("21", "2121")]

pytestmark = pytest.mark.masqd


def ftp_server(host, folder, *options, address="0.0.0.0", port=21):
    folder.mkdir()
    server = host.start(beds.PYTHON, HERE / "ftp_server.py", address, port, folder, *options)
    server.expect("^ready")
    return server


def transfers(host, server, way, port=21, security="plain", rounds=6):
    """Three transfers a round on one control connection."""
    assert host.run(beds.PYTHON, HERE / "ftp_client.py", server, port, way, security, rounds).stdout == f"done {rounds}\n"


def notes(bed):
    return {one["note"]: one["count"] for one in bed.status()["alg"]}


class Pair:
    """A control connection between plain sockets: `inside` is the host's end, `outside` the peer's."""

    def __init__(self, bed, port=21, host=None, address=H1):
        listener = bed.wan.listener(S1, port)
        self.inside = (host or bed.h1).tcp(address, 0)
        self.inside.connect((S1, port))
        self.outside, _ = listener.accept()
        listener.close()
        self.outside.settimeout(self.inside.gettimeout())

    def says(self, text, expected=None):
        """The inside sends; the outside gets exactly that."""
        self.inside.sendall(text)
        heard = b""
        while len(heard) < len(expected or text):
            heard += self.outside.recv(65536)
        assert heard == (expected or text)

    def replies(self, text):
        self.outside.sendall(text)
        heard = b""
        while len(heard) < len(text):
            heard += self.inside.recv(65536)
        assert heard == text


# ---- real programs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["active", "passive"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_client_inside(make_bed, address, way):
    bed = make_bed(external=(address,)).start()
    ftp_server(bed.wan, bed.folder / "ftp")
    transfers(bed.h1, S1, way)
    assert notes(bed) == ({"ftp-rewritten": 18} if way == "active" else {})


@pytest.mark.parametrize("address", ADDRESSES)
def test_server_inside(make_bed, address):
    """Passive ports and address as the server says them; the peer believes both."""
    bed = make_bed(external=(address,)).start(extra=FORWARDS)
    ftp_server(bed.h1, bed.folder / "ftp")
    for port in (21, 2121):
        transfers(bed.wan, address, "passive", port)
    assert notes(bed) == {"ftp-rewritten": 36}
    transfers(bed.wan, address, "active")
    assert notes(bed) == {"ftp-rewritten": 36}


@pytest.mark.parametrize(
    "options", [["-P", "-"], ["-P", "-", "--disable-eprt"], [], ["--disable-epsv", "--no-ftp-skip-pasv-ip"]], ids=["eprt", "port", "epsv", "pasv"]
)
@pytest.mark.parametrize("side", ["client", "server"])
def test_curl(make_bed, side, options):
    bed = make_bed().start(extra=FORWARDS)
    server, client, address = (bed.wan, bed.h1, S1) if side == "client" else (bed.h1, bed.wan, GATEWAY)
    ftp_server(server, bed.folder / "ftp")
    expected = payload(bed.folder / "sent", 1 << 20)
    client.run("curl", "-sS", "-f", *options, "-u", "u:p", "-T", bed.folder / "sent", f"ftp://{address}/up")
    client.run("curl", "-sS", "-f", *options, "-u", "u:p", "-o", bed.folder / "got", f"ftp://{address}/up")
    assert (bed.folder / "got").read_bytes() == (bed.folder / "sent").read_bytes()
    assert expected
    assert ("ftp-rewritten" in notes(bed)) == (("-P" in options) == (side == "client"))


@pytest.mark.parametrize("way", ["active", "passive"])
def test_client_and_server_inside(make_bed, way):
    """Over the external address: both ends are read."""
    bed = make_bed().start(extra=FORWARDS)
    ftp_server(bed.h1, bed.folder / "ftp")
    transfers(bed.h2, GATEWAY, way)
    assert notes(bed) == {"ftp-rewritten": 18}


def test_two_clients_with_one_data_port(bed):
    """Both announce the same port to the same server: each gets its own."""
    given = set()
    for host, address in ((bed.h1, H1), (bed.h2, H2)):
        listener = host.listener(address, 51221)
        pair = Pair(bed, host=host, address=address)
        pair.says(b"USER x\r\n")
        pair.inside.sendall(f"PORT {address.replace('.', ',')},200,21\r\n".encode())
        high, low = pair.outside.recv(100).decode().strip().split(",")[4:]
        given.add(int(high) * 256 + int(low))
        data = bed.wan.tcp(S1, 0)
        data.connect((GATEWAY, int(high) * 256 + int(low)))
        assert listener.accept()[1] == data.getsockname()
    assert len(given) == 2


@pytest.mark.parametrize("side", ["client", "server"])
def test_tls_is_left_alone(make_bed, side):
    """The control connection is encrypted after AUTH: it works as far as no address has to be changed."""
    bed = make_bed().start(extra=FORWARDS)
    if side == "client":
        ftp_server(bed.wan, bed.folder / "ftp", "tls")
        transfers(bed.h1, S1, "passive", security="tls")
    else:
        ftp_server(bed.h1, bed.folder / "ftp", "tls")
        transfers(bed.wan, GATEWAY, "active", security="tls")
    assert notes(bed) == {}


def test_loss(bed):
    """Every fourth segment of the control connection is lost on either side, so that both repeat what was rewritten."""
    ftp_server(bed.wan, bed.folder / "ftp")
    for host, port in ((bed.wan, "dport"), (bed.h1, "sport")):
        rule = f"tcp {port} 21 tcp flags & (syn|fin) == 0 numgen inc mod 4 == 0 drop"
        host.run("nft", "-f", "-", stdin=f"table ip loss {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}\n")
    transfers(bed.h1, S1, "active", rounds=1)
    assert notes(bed) == {"ftp-rewritten": 3}


@pytest.mark.parametrize("nodelay", [0, 1])
def test_line_in_pieces(bed, nodelay):
    """With Nagle's algorithm the host sends no second piece before the first is acknowledged."""
    pair = Pair(bed)
    pair.inside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
    line = f"PORT {H1.replace('.', ',')},200,21\r\n".encode()
    expected = f"PORT {GATEWAY.replace('.', ',')},200,21\r\n".encode()
    pair.says(b"USER x\r\n")
    for piece in line:
        pair.inside.send(bytes([piece]))
    heard = b""
    while len(heard) < len(expected):
        heard += pair.outside.recv(100)
    assert heard == expected
    pair.replies(b"200 ok\r\n")
    pair.says(b"LIST\r\n")
    if nodelay == 0:
        pair.says(line[:9] + line[9:] + b"QUIT\r\n", expected + b"QUIT\r\n")


# ---- what an attacker would like -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kill", "relieve", "reload"])
def test_restarts(make_bed, way):
    """A control connection with rewritten commands goes on over every kind of restart (W-4), also in the middle of a line."""
    bed = make_bed(external=(ADDRESSES[1],)).start()
    pair = Pair(bed)
    theirs = ADDRESSES[1].replace(".", ",").encode()

    def restart():
        if way == "reload":
            bed.masqd("reload")
            return
        if way == "kill":
            bed.daemon.kill()
        else:
            os.kill(bed.daemon.pid, signal.SIGUSR1)
            assert bed.daemon.wait() == 0
        bed.launch().expect("^masqd: ready:")

    pair.says(b"USER x\r\n")
    for n in range(4):
        pair.says(b"PORT 192,168,1,10,200,%d\r\n" % n, b"PORT " + theirs + b",200,%d\r\n" % n)
        listener = bed.h1.listener(H1, 51200 + n)
        data = bed.wan.tcp(S1, 0)
        data.connect((ADDRESSES[1], 51200 + n))
        inside, _ = listener.accept()
        restart()
        pair.replies(b"200 PORT command successful\r\n")
        pair.says(b"RETR file\r\n")
        data.sendall(b"content")
        assert inside.recv(10) == b"content"
    pair.inside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pair.inside.sendall(b"PORT 192,1")
    restart()
    pair.says(b"68,1,10,200,9\r\n", b"PORT " + theirs + b",200,9\r\n")
    pair.replies(b"200 ok\r\n")


def test_only_itself_and_no_low_port(bed):
    """Commands that name another host or a low port pass as they are, are counted, and open nothing."""
    pair = Pair(bed)
    pair.says(b"USER x\r\n")
    for host, port in ((H2, 51221), (S1, 51221), ("8.8.8.8", 51221), (H1, 22), (H1, 1023)):
        pair.says(f"PORT {host.replace('.', ',')},{port >> 8},{port & 255}\r\n".encode())
        pair.says(f"EPRT |1|{host}|{port}|\r\n".encode())
    assert notes(bed) == {"ftp-foreign-address": 6, "ftp-low-port": 4}
    for port in (22, 1023, 51221):
        bed.wan_wire.send(tcp("203.0.113.30", 20, GATEWAY, port))
    probe = bed.wan.tcp(S1, 0)
    probe.settimeout(1)
    with pytest.raises(OSError):
        probe.connect((GATEWAY, 51221))
    assert bed.drops("no-mapping") >= 2


def test_expected_from_the_server_only(bed):
    """What is announced to one server is open for it alone, once."""
    pair = Pair(bed)
    listener = bed.h1.listener(H1, 51221)
    pair.says(b"USER x\r\n")
    own, external = H1.replace(".", ","), GATEWAY.replace(".", ",")
    pair.says(f"PORT {own},200,21\r\n".encode(), f"PORT {external},200,21\r\n".encode())
    bed.wan_wire.send(tcp("203.0.113.30", 20, GATEWAY, 51221))
    bed.await_drops("no-mapping", 1)
    data = bed.wan.tcp(S1, 20)
    data.connect((GATEWAY, 51221))
    accepted, peer = listener.accept()
    assert peer == (S1, 20)
    again = bed.wan.tcp(S1, 0)
    again.settimeout(1)
    with pytest.raises(OSError):
        again.connect((GATEWAY, 51221))
    assert bed.drops("filtered") >= 1
    for one in (accepted, data):
        one.close()


def test_server_that_names_another(make_bed):
    """A 227 of an inside server with another host's address, or a low port."""
    bed = make_bed().start(extra=FORWARDS)
    listener = bed.h1.listener(H1, 21)
    outside = bed.wan.tcp(S1, 0)
    outside.connect((GATEWAY, 21))
    inside, _ = listener.accept()
    inside.settimeout(outside.gettimeout())
    lines = [b"220 x\r\n", f"227 x ({H2.replace('.', ',')},200,21)\r\n".encode(), b"229 x (|||80|)\r\n", f"227 x ({H1.replace('.', ',')},0,22)\r\n".encode()]
    for line in lines:
        inside.sendall(line)
        assert outside.recv(100) == line
    assert notes(bed) == {"ftp-foreign-address": 1, "ftp-low-port": 2}


# ---- switches, and payloads that are nobody's business ---------------------------------------------------------


def test_ftp_switched_off(make_bed):
    """U-10a."""
    bed = make_bed().start(main={"alg_ftp": "0"})
    pair = Pair(bed)
    pair.says(b"USER x\r\n")
    pair.says(f"PORT {H1.replace('.', ',')},200,21\r\n".encode())
    assert notes(bed) == {}


def test_tftp(make_bed):
    """U-10, U-10a: off unless switched on; the request is the same either way."""
    for on in ("0", "1"):
        bed = make_bed().start(main={"alg_tftp": on})
        folder = bed.folder / "tftp"
        folder.mkdir()
        folder.chmod(0o755)
        bed.folder.chmod(0o755)
        request = b"\0\1file\0octet\0"
        server, client = bed.wan.udp(S1, 69), bed.h1.udp(H1, 40000)
        client.sendto(request, (S1, 69))
        heard, source = server.recvfrom(100)
        assert heard == request
        server.close()
        if on == "0":
            bed.wan.udp(S1, 3000).sendto(b"\0\3\0\1x", source)
            bed.await_drops("filtered", 1)
            continue
        payload(folder / "file", 100_000)
        (folder / "file").chmod(0o644)
        dnsmasq = bed.wan.start(
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--pid-file=",
            "--user=root",
            "--log-facility=-",
            "--enable-tftp",
            f"--tftp-root={folder}",
            "--bind-interfaces",
        )
        await_listener(dnsmasq, 69, "udp")
        bed.h1.run("curl", "-sS", "-f", "-o", bed.folder / "got", f"tftp://{S1}/file")
        assert (bed.folder / "got").read_bytes() == (folder / "file").read_bytes()


OTHERS = {
    "sip-tcp": (5060, f"INVITE sip:x@{S1} SIP/2.0\r\nContact: <sip:u@{H1}:5060>\r\n\r\nc=IN IP4 {H1}\r\nm=audio 40000 RTP/AVP 0\r\n".encode()),
    "irc": (6667, f"PRIVMSG x :\x01DCC SEND f {int.from_bytes(socket.inet_aton(H1), 'big')} 51221 100\x01\r\n".encode()),
    "rtsp": (554, b"SETUP rtsp://x/ RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=51220-51221\r\n\r\n"),
    "h323": (1720, b"\x03\x00\x00\x20\x08\x02\x00\x01\x05" + socket.inet_aton(H1) + b"\x06\xb8" + bytes(17)),
    "pptp": (1723, b"\x00\x9c\x00\x01\x1a\x2b\x3c\x4d\x00\x01\x00\x00\x01\x00\x00\x00" + bytes(140)),
    "ftp-on-another-port": (2121, f"USER x\r\nPORT {H1.replace('.', ',')},200,21\r\n".encode()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_payloads_are_untouched(bed, name):
    """T-6."""
    port, text = OTHERS[name]
    pair = Pair(bed, port)
    pair.says(text)
    pair.replies(text)
    assert notes(bed) == {}


def test_sip_over_udp_is_untouched(bed):
    """U-10."""
    text = f"REGISTER sip:{S1} SIP/2.0\r\nVia: SIP/2.0/UDP {H1}:5060\r\nContact: <sip:u@{H1}:5060>\r\n\r\n".encode()
    server, client = bed.wan.udp(S1, 5060), bed.h1.udp(H1, 5060)
    client.sendto(text, (S1, 5060))
    heard, source = server.recvfrom(2000)
    assert heard == text
    server.sendto(text, source)
    assert client.recv(2000) == text
