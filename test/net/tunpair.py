"""A link without a link header: two TUN devices in two namespaces, what is sent on one arrives on the other.

    tunpair.py NAMESPACE DEVICE NAMESPACE DEVICE

Prints `ready` when both exist and carries packets until it is killed; the devices go with it.
"""

import fcntl
import os
import select
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000


def open_tun(namespace, device):
    import ctypes

    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL("libc.so.6", use_errno=True).setns(there, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns", namespace)
    os.close(there)
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return made


def carry(source, target):
    for _ in range(64):
        try:
            packet = os.read(source, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO while the device is down
            return
        try:
            os.write(target, packet)
        except OSError:  # the other end is down: lost, as on any link
            pass


def main():
    first, second = open_tun(*sys.argv[1:3]), open_tun(*sys.argv[3:5])
    print("ready", flush=True)
    while True:
        for readable in select.select([first, second], [], [])[0]:
            carry(readable, second if readable == first else first)


main()
