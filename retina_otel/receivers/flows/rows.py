"""Flow rows: what the kernel's tables hold, copied out into columns in host byte order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

N_FLAGS = 9
FIN, SYN, SYN_ACK, RST, PSH, URG, ECE, CWR, NO_ACK = range(N_FLAGS)
FLAGS_IN_SLOT = 5

_META_EGRESS = np.uint32(0x100)
_META_LOCAL_SOCKET = np.uint32(0x200)
_META_IFINDEX_SHIFT = np.uint32(10)
_V4_MAPPED = np.uint64(0xFFFF << 32)


@dataclass(frozen=True, slots=True)
class FlowRows:
    """n rows; a flow may have several (one a CPU and table), to be added up. Host byte order."""

    source_hi: npt.NDArray[np.uint64]
    source_lo: npt.NDArray[np.uint64]
    destination_hi: npt.NDArray[np.uint64]
    destination_lo: npt.NDArray[np.uint64]
    source_port: npt.NDArray[np.uint16]
    """For ICMP(v6): type << 8 | code."""
    destination_port: npt.NDArray[np.uint16]
    """For ICMP(v6): the identifier of an echo, else 0."""
    meta: npt.NDArray[np.uint32]
    """RT_META_* of rt_types.h."""
    ipv6: npt.NDArray[np.bool_]
    packets: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    first: npt.NDArray[np.uint32]
    """Low 32 bits of jiffies; 0 for a row that has only flags."""
    last: npt.NDArray[np.uint32]
    flags: npt.NDArray[np.uint32]
    """(n, N_FLAGS)"""

    def __len__(self) -> int:
        return len(self.meta)

    def select(self, chosen: npt.NDArray[Any]) -> FlowRows:
        """The rows of a mask or an index array."""
        return FlowRows(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @staticmethod
    def concatenate(parts: list[FlowRows]) -> FlowRows:
        return FlowRows(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in FlowRows.__dataclass_fields__
            )
        )

    @property
    def protocol(self) -> npt.NDArray[np.uint8]:
        return self.meta.astype(np.uint8)

    @property
    def at_egress_hook(self) -> npt.NDArray[np.bool_]:
        egress: npt.NDArray[np.bool_] = (self.meta & _META_EGRESS) != 0
        return egress

    @property
    def local_socket(self) -> npt.NDArray[np.bool_]:
        local: npt.NDArray[np.bool_] = (self.meta & _META_LOCAL_SOCKET) != 0
        return local

    @property
    def ifindex(self) -> npt.NDArray[np.uint32]:
        return self.meta >> _META_IFINDEX_SHIFT


def slot_rows(family: int, slots: npt.NDArray[Any], details: npt.NDArray[Any]) -> FlowRows:
    flags = np.zeros((len(slots), N_FLAGS), np.uint32)
    flags[:, :FLAGS_IN_SLOT] = details["flags"]
    return table_rows(family, slots["key"], slots, flags, first=details["first"])


def table_rows(
    family: int,
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
    flags: npt.NDArray[np.uint32],
    *,
    first: npt.NDArray[np.uint32],
) -> FlowRows:
    """Copies out of the kernel's layout."""
    if family == 4:
        zeros = np.zeros(len(keys), np.uint64)
        source = zeros, _V4_MAPPED | keys["saddr"].byteswap().astype(np.uint64)
        destination = zeros, _V4_MAPPED | keys["daddr"].byteswap().astype(np.uint64)
    else:
        source, destination = _halves(keys["saddr"]), _halves(keys["daddr"])
    return FlowRows(
        source_hi=source[0],
        source_lo=source[1],
        destination_hi=destination[0],
        destination_lo=destination[1],
        source_port=keys["sport"].byteswap(),
        destination_port=keys["dport"].byteswap(),
        meta=keys["meta"].copy(),
        ipv6=np.full(len(keys), family == 6),
        packets=values["packets"].astype(np.int64),
        bytes=values["bytes"].astype(np.int64),
        first=first.copy(),
        last=values["last"].copy(),
        flags=flags,
    )


def flag_rows(family: int, keys: npt.NDArray[Any], flags: npt.NDArray[np.uint32]) -> FlowRows:
    """Rows without packets: flags of flows whose packets stand in other rows."""
    values = np.zeros(len(keys), [("packets", "u8"), ("bytes", "u8"), ("last", "u4")])
    return table_rows(family, keys, values, flags, first=values["last"])


def _halves(
    words: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The two halves of n addresses of four network-order words each."""
    host = words.byteswap().astype(np.uint64)
    shift = np.uint64(32)
    return host[:, 0] << shift | host[:, 1], host[:, 2] << shift | host[:, 3]
