"""What happens to frames that masqd hands to the kernel: queueing disciplines that are full, priorities, super-packets of tunnels."""

import errno
import re
import signal
import socket
import struct

import pytest
from scapy.layers.inet import UDP

from bed import GATEWAY, H1, H2, LAN_GATEWAY_MAC, S1, S2, lan_mac
from namespace import wait_until
from packets import udp

BULK, URGENT = 5000, 5060
PACKETS = 200


def frame(packet, source_mac, destination_mac):
    """The bytes of an IP packet behind its Ethernet header."""
    from scapy.layers.l2 import Ether

    return bytes(Ether(src=source_mac, dst=destination_mac) / packet)


def from_lan(packet):
    return frame(packet, lan_mac(packet.src), LAN_GATEWAY_MAC)


def shape(bed, bulk_limit, match):
    """HTB on the WAN: a slow class of `bulk_limit` packets for everything, and a fast one for what `match` (u32) finds."""
    know_next_hops(bed)
    for command in (
        "qdisc add dev wan0 root handle 1: htb default 20",
        "class add dev wan0 parent 1: classid 1:10 htb rate 100mbit prio 0",
        "class add dev wan0 parent 1: classid 1:20 htb rate 64kbit prio 1",
        "qdisc add dev wan0 parent 1:10 handle 10: pfifo limit 1000",
        f"qdisc add dev wan0 parent 1:20 handle 20: pfifo limit {bulk_limit}",
        f"filter add dev wan0 parent 1: protocol ip prio 1 u32 match ip {match} flowid 1:10",
    ):
        bed.router.run("tc", *command.split())


def know_next_hops(bed):
    """The next hops are to be known before: address resolution would wait in a slow class, and packets for it."""
    for source, sport, destination, dport in ((H1, 40000, S1, BULK), (H2, 41000, S2, URGENT)):
        bed.lan_wire.send_bytes(from_lan(udp(source, sport, destination, dport, b"first", flags="DF")))
        bed.wan_wire.expect(lambda p, dport=dport: UDP in p and p[UDP].dport == dport)


def backlog(bed):
    """Packets that wait in the bulk class."""
    shown = bed.router.run("tc", "-s", "qdisc", "show", "dev", "wan0").stdout
    return int(re.search(r"qdisc pfifo 20:.*?backlog \S+ (\d+)p", shown, re.DOTALL)[1])


def with_memory(bed, megabytes):
    """Lets the daemon find so much memory in /proc/meminfo."""
    meminfo = bed.folder / "meminfo"
    meminfo.write_text(f"MemTotal: {megabytes * 1024} kB\nMemFree: 20000 kB\n")
    command = bed.command
    bed.command = lambda *extra: ["sh", "-c", f'mount --bind {meminfo} /proc/meminfo && exec "$@"', "sh", *map(str, command(*extra))]


def fill(bed, count):
    """Bulk traffic until so many of its packets wait."""
    bulk = from_lan(udp(H1, 40000, S1, BULK, b"u" * 1200, flags="DF"))

    def filled():
        for _ in range(64):
            bed.lan_wire.send_bytes(bulk)
        return backlog(bed) >= count

    wait_until(filled, f"{count} packets in the bulk class, {backlog(bed)} do")
    return bulk


def urgent(bed, between=(), **fields):
    """Sends urgent packets from another host, with others between them, and waits for every one at the other side."""
    bed.wan_wire.arrived()
    for n in range(PACKETS):
        for other in between:
            bed.lan_wire.send_bytes(other)
        bed.lan_wire.send_bytes(from_lan(udp(H2, 41000, S2, URGENT, b"%05d" % n, flags="DF", **fields)))
    for n in range(PACKETS):
        bed.wan_wire.expect(lambda p, n=n: UDP in p and bytes(p[UDP].payload) == b"%05d" % n, f"urgent packet {n}")


@pytest.mark.parametrize("match,tos", [(f"dport {URGENT} 0xffff", 0), ("tos 0xb8 0xfc", 0xB8)])
def test_a_full_class_costs_its_own_frames(make_bed, match, tos):
    """S3: frames of one class are refused in the middle of a batch; those of the other follow them."""
    bed = make_bed().start()
    shape(bed, 20, match)
    bulk = fill(bed, 20)
    urgent(bed, between=[bulk] * 3, tos=tos)
    if not bed.baseline:
        drops = bed.drops()
        assert drops.keys() <= {"qdisc-full"} and drops["qdisc-full"] > PACKETS, drops


@pytest.mark.parametrize("megabytes", [64, 128])
def test_a_long_backlog_leaves_room(make_bed, megabytes):
    """S4: what waits in one class of the qdisc does not take the send buffer of the others, on a small router too."""
    bed = make_bed()
    with_memory(bed, megabytes)
    bed.start()
    shape(bed, 100_000, f"dport {URGENT} 0xffff")
    fill(bed, 5800)
    urgent(bed)
    if not bed.baseline:
        assert bed.drops() == {}


@pytest.mark.masqd
def test_a_backlog_beyond_the_buffer_leaves_other_classes_room(make_bed):
    """A qdisc that holds more than masqd lets it: the frames beyond are counted, and other types of service have buffers of their own."""
    bed = make_bed()
    with_memory(bed, 32)
    bed.start()
    shape(bed, 100_000, "tos 0x10 0xff")
    bulk = from_lan(udp(H1, 40000, S1, BULK, b"u" * 1200, flags="DF"))

    def full():
        for _ in range(256):
            bed.lan_wire.send_bytes(bulk)
        return bed.drops("queue-full") > 0

    wait_until(full, "a full send buffer")
    urgent(bed, between=[bulk], tos=0x10)


# Types of service by the bands of pfifo_fast that ip_tos2prio (net/ipv4/route.c) leads to.
URGENT_TOS, USUAL_TOS, BULK_TOS = (0x10, 0x50), (0x00, 0x03, 0x18, 0xB8, 0xC0), (0x08, 0x28)
EACH = 10


def test_priority_of_the_type_of_service(make_bed):
    """S40c: pfifo_fast and everything else that goes by skb->priority sees what forwarding by the kernel gives, both ways."""
    bed = make_bed(lan="veth").start()
    for device in ("wan0", "lan0"):
        bed.router.run("tc", *f"qdisc add dev {device} root handle 1: tbf rate 64kbit burst 1600 limit 1000000".split())
        bed.router.run("tc", *f"qdisc add dev {device} parent 1: handle 2: pfifo_fast".split())
    there, back = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 5001)
    there.sendto(b"open", (S1, 5001))
    _, peer = back.recvfrom(10)
    for sender, receiver, address in ((there, back, (S1, 5001)), (back, there, peer)):
        # The first ones take the tokens of the shaper; then all wait together, the least urgent in front.
        order = [USUAL_TOS[0]] * 5 + [tos for tos in (*BULK_TOS, *USUAL_TOS, *URGENT_TOS) for _ in range(EACH)]
        for n, tos in enumerate(order):
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            sender.sendto(struct.pack("!HH", n, tos).ljust(400, b"."), address)
        got = [struct.unpack("!HH", receiver.recv(1000)[:4]) for _ in order]
        places = {tos: [at for at, (_, its) in enumerate(got) if its == tos] for tos in order}
        assert max(max(places[tos]) for tos in URGENT_TOS) < min(places[tos][-EACH] for tos in USUAL_TOS[1:]), got
        assert max(max(places[tos]) for tos in USUAL_TOS) < min(places[tos][1] for tos in BULK_TOS), got
        for tos in places:
            numbers = [n for n, its in got if its == tos]
            assert numbers == sorted(numbers)


@pytest.mark.masqd
def test_without_a_descriptor_for_a_class_its_packets_go_all_the_same(make_bed):
    bed = make_bed().start()
    know_next_hops(bed)
    held = len(bed.router.run("ls", f"/proc/{bed.daemon.pid}/fd").stdout.split())
    bed.router.run("prlimit", "--pid", bed.daemon.pid, f"--nofile={held}:1024")
    urgent(bed, tos=0x10)
    bed.router.run("prlimit", "--pid", bed.daemon.pid, "--nofile=1024:1024")


# ---- super-packets that are not what their outer header says -------------------------------------------------


def tunnel(bed, *options):
    """A VXLAN tunnel between h1 and s1 that the router knows nothing of."""
    for host, local, remote, inner, mac in ((bed.h1, H1, S1, "10.7.0.1", "02:00:00:00:07:01"), (bed.wan, S1, GATEWAY, "10.7.0.2", "02:00:00:00:07:02")):
        other, other_mac = ("10.7.0.2", "02:00:00:00:07:02") if host is bed.h1 else ("10.7.0.1", "02:00:00:00:07:01")
        words = "link add vx type vxlan id 7 dstport 40789 srcport 40789 40790 nolearning local {} remote {}".format(local, remote).split()
        host.run("ip", *words, *options)
        host.ip(f"link set vx address {mac} up mtu 1400", f"addr add {inner}/24 dev vx", f"neigh replace {other} lladdr {other_mac} dev vx nud permanent")
    # The host opens the mapping, whose port is the same: what the server sends to it comes in.
    bed.h1.ping("10.7.0.2")


def transfer(sender, receiver, address, count):
    """Sends `count` bytes over TCP; the receiver reads every one of them."""
    listener = receiver.listener(address, 0)
    with sender.tcp() as out:
        out.connect(listener.getsockname())
        taken, _ = listener.accept()
        block = bytes(range(256)) * 256
        out.setblocking(False)
        taken.setblocking(False)
        sent = got = 0

        def step():
            nonlocal sent, got
            for _ in range(200):
                try:
                    while sent < count:
                        sent += out.send(block[sent % 256 :][: count - sent])
                except BlockingIOError:
                    pass
                try:
                    data = taken.recv(1 << 20)
                    for at in range(0, len(data), 4099):
                        assert data[at] == (got + at) % 256
                    got += len(data)
                except BlockingIOError:
                    break
            return got == count

        wait_until(step, f"{count} bytes")
        info = out.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        taken.close()
    listener.close()
    return struct.unpack_from("I", info, 100)[0]


@pytest.mark.parametrize("options", [("noudpcsum",), ("udpcsum",)])
def test_tcp_in_a_tunnel(make_bed, options):
    """S18: the super-packets of a tunnel cross both ways, whole: with them refused 30 MB would take half an hour."""
    bed = make_bed(lan="veth").start()
    tunnel(bed, *options)
    for sender, receiver, address in ((bed.h1, bed.wan, "10.7.0.2"), (bed.wan, bed.h1, "10.7.0.1")):
        transfer(sender, receiver, address, 30 << 20)
    if not bed.baseline:
        assert bed.drops() == {}


UDP_SEGMENT = 103
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0


@pytest.mark.parametrize("wan", ["veth", "tun"])
def test_datagrams_sent_at_once_without_df_are_fragmented(make_bed, wan):
    """F11: UDP_SEGMENT through a WAN with a smaller MTU."""
    bed = make_bed(lan="veth", wan=wan, wan_mtu=1280).start()
    there, back = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 5001)
    there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    there.setsockopt(socket.SOL_UDP if hasattr(socket, "SOL_UDP") else 17, UDP_SEGMENT, 1400)
    bed.h1.ping(S1)
    for count in (4, 40):
        payload = b"".join(struct.pack("!I", n) * 350 for n in range(count))
        there.sendto(payload, (S1, 5001))
        assert [back.recv(2000) for _ in range(count)] == [struct.pack("!I", n) * 350 for n in range(count)]
    if not bed.baseline:
        assert bed.drops() == {}


# ---- hosts and queues behind masqd ---------------------------------------------------------------------------


@pytest.mark.drivers("packet")
def test_a_forward_to_a_dead_host_is_refused(make_bed):
    """B4: the client outside hears that the host cannot be reached, as from the kernel's own forwarding, of the address that it asked."""
    bed = make_bed()
    bed.start({}, [("redirect", None, {"proto": "tcp", "src_dport": "8080", "dest_ip": "192.168.1.99", "dest_port": "80"})])
    with pytest.raises(OSError) as refused:
        bed.wan.tcp(S1).connect((GATEWAY, 8080))
    assert refused.value.errno == errno.EHOSTUNREACH


@pytest.mark.masqd
@pytest.mark.drivers("tun")
def test_the_tun_queue_that_overflows_is_counted(make_bed):
    """F16: as many packets wait as a burst of new sessions brings, and those beyond are seen in `status`."""
    bed = make_bed().start({"sessions": "4096"})
    sender, receiver = bed.h1.udp(H1, 40001), bed.wan.udp(S1, 5001)
    receiver.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)
    sender.sendto(b"open", (S1, 5001))
    assert receiver.recv(10) == b"open"
    bed.daemon.send_signal(signal.SIGSTOP)
    for n in range(5000):
        sender.sendto(b"%d" % n, (S1, 5001))
    bed.daemon.send_signal(signal.SIGCONT)
    bed.await_drops("tun-queue", 1)
    lost = bed.drops("tun-queue")
    assert lost <= 5000 - 4095
    for n in range(5000 - lost):
        assert receiver.recv(10) == b"%d" % n
    assert bed.drops() == {"tun-queue": lost}
