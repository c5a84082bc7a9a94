#!/usr/bin/env python3
"""An access port of a VLAN switch: frames of TRUNK tagged with VID leave ACCESS untagged, and the other way round.

vlan_port.py TRUNK ACCESS VID: both are TAP devices that exist. Prints READY, runs until it is killed. The kernel of a
test machine may lack the 8021q module; this needs none.
"""
import fcntl
import os
import select
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000


def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


trunk, access = tap(sys.argv[1]), tap(sys.argv[2])
vid = int(sys.argv[3])
print("READY", flush=True)
while True:
    for fd in select.select([trunk, access], [], [])[0]:
        frame = os.read(fd, 65536)
        if fd == access:
            os.write(trunk, frame[:12] + struct.pack("!HH", 0x8100, vid) + frame[12:])
        elif frame[12:14] == b"\x81\x00" and struct.unpack("!H", frame[14:16])[0] & 0xFFF == vid:
            os.write(access, frame[:12] + frame[16:])
