"""Frames of many flows at once, as the rows of one array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retina_otel.testing import packets as build
from retina_otel.testing.lab import Pod


def flow_frames(
    source: Pod, to: Pod, flows: int, payload: int, *, v6: bool = False, port: int = 9
) -> npt.NDArray[np.uint8]:
    """The frames of `many_flows`, one a flow: an array (flows, frame length).

    Flow i comes from port 1024 + i % 60000 of the (i // 60000)th address.
    """
    ends = ("fd00:10:246::", to.ipv6) if v6 else ("10.246.0.0", to.ipv4)
    datagram = build.udp(*ends, 0, port, bytes(payload))
    packet = (build.ipv6 if v6 else build.ipv4)(*ends, build.UDP, datagram)
    frame = np.frombuffer(build.ethernet(to.mac, source.mac, packet), dtype=np.uint8)
    rows = np.repeat(frame[np.newaxis], flows, axis=0)
    number = np.arange(flows)
    header = build.ETHERNET + (40 if v6 else 20)
    changes = (
        # Offset in the frame of a 16-bit word that is 0 in `frame`, and its value in each row.
        (build.ETHERNET + (22 if v6 else 14), number // 60000),
        (header, 1024 + number % 60000),
    )
    for offset, words in changes:
        _set_words(rows, offset, words)
        _add_to_checksum(rows, header + 6, words)
    if not v6:
        _add_to_checksum(rows, build.ETHERNET + 10, changes[0][1])
    return rows


def _set_words(rows: npt.NDArray[np.uint8], offset: int, words: npt.NDArray[np.int64]) -> None:
    rows[:, offset] = words >> 8
    rows[:, offset + 1] = words & 0xFF


def _add_to_checksum(
    rows: npt.NDArray[np.uint8], offset: int, added: npt.NDArray[np.int64]
) -> None:
    """RFC 1624: a word that was 0 becomes `added`."""
    old = rows[:, offset].astype(np.int64) << 8 | rows[:, offset + 1]
    total = (~old & 0xFFFF) + added
    total = (total & 0xFFFF) + (total >> 16)
    new = ~total & 0xFFFF
    _set_words(rows, offset, np.where(new == 0, 0xFFFF, new))
