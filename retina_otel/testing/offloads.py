"""Segmentation and receive offloads of an interface, switched by the ethtool ioctl.

With all of them off an interface sees the packets that the wire would; with TSO on a veth carries
buffers of up to 64 KiB which stand for many packets, and its counters count buffers.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

from retina_otel.testing.namespaces import Namespace

_SIOCETHTOOL = 0x8946
_SET_COMMANDS = {"tso": 0x1F, "gso": 0x24, "gro": 0x2C, "checksum": 0x17}


def set_offloads(
    namespace: Namespace,
    interface: str,
    *,
    tso: bool | None = None,
    gso: bool | None = None,
    gro: bool | None = None,
    checksum: bool | None = None,
) -> None:
    """Switches what is not None. Raises OSError if the driver refuses.

    `tso` is segmentation by the device, `gso` in software just above it, `gro` joining on receipt
    (on a veth it also switches NAPI on), `checksum` the filling in of checksums on sending.
    """
    wanted = {"tso": tso, "gso": gso, "gro": gro, "checksum": checksum}
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for name, value in wanted.items():
            if value is None:
                continue
            command = array.array("B", struct.pack("=II", _SET_COMMANDS[name], int(value)))
            address, _ = command.buffer_info()
            request = struct.pack("16sP16x", interface.encode(), address)
            fcntl.ioctl(control, _SIOCETHTOOL, request)
