"""Why packets are dropped: this kernel's names of the reasons, and which of them are no drops.

Numbers differ between kernels, so a number means nothing without this kernel's own enum.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

_PREFIXES = ("SKB_DROP_REASON_", "SKB_")
_SUBSYSTEM_SHIFT = 16
_NUMBER = 0xFFFF
_NOT_REASONS = frozenset({"max", "subsys_mask"})

NO_DROPS: Sequence[str] = (
    "not_dropped_yet",
    "consumed",
    "socket_close",
    "unix_disconnect",
    "unix_skip_oob",
    "socket_filter",
    "otherhost",
    "queue_purge",
)
"""Left out unless configured otherwise. The buffer was used up, or thrown away with the socket or
queue it lay in (consumed, socket_close, unix_*, queue_purge); a packet socket's filter did not want
its copy (socket_filter); it was for another host, and the device is promiscuous (otherhost).

Counted, because the kernel says so: `no_socket` of ICMP is also said of each echo reply whose copy
went to a raw socket (ping run by root).
"""


class DropReasons:
    """The reasons of one kernel."""

    def __init__(self, enum: Mapping[int, str]) -> None:
        """`enum` is its `skb_drop_reason`, number to enumerator."""
        names = {number: _plain(name) for number, name in enum.items()}
        self._names = {number: name for number, name in names.items() if name not in _NOT_REASONS}

    def numbers(self, names: Iterable[str]) -> tuple[list[int], list[str]]:
        """The numbers of those names that this kernel knows, and the names that it doesn't."""
        by_name = {name: number for number, name in self._names.items()}
        wanted = [_plain(name) for name in names]
        known = [by_name[name] for name in wanted if name in by_name]
        return known, [name for name in wanted if name not in by_name]

    def nearest(self, name: str) -> str:
        """The name that was probably meant, "" if none is near."""
        close = difflib.get_close_matches(_plain(name), self._names.values(), n=1, cutoff=0.6)
        return close[0] if close else ""

    def name(self, number: int) -> str:
        """In lower_snake. Reasons of a subsystem (mac80211, openvswitch) have only numbers here."""
        if known := self._names.get(number):
            return known
        if subsystem := number >> _SUBSYSTEM_SHIFT:
            return f"subsystem_{subsystem}_reason_{number & _NUMBER}"
        return f"reason_{number}"

    def column(self, reason: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.int32], list[str]]:
        """Codes and the names they stand for."""
        numbers, codes = np.unique(reason, return_inverse=True)
        return codes.astype(np.int32), [self.name(number) for number in numbers.tolist()]


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix).lower()
    return name.lower()
