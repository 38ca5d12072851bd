"""LocalEnds: sockets' local ends as columns, read from the kernel's records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class LocalEnds:
    """n TCP, UDP and SCTP sockets of our own namespace, each with its owner. One that two processes
    hold is there twice."""

    protocol: npt.NDArray[np.uint16]
    """As the kernel has it: MPTCP is 262."""
    hi: npt.NDArray[np.uint64]
    lo: npt.NDArray[np.uint64]
    port: npt.NDArray[np.uint16]
    only_ipv6: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.intp]
    """What it counts is told where it comes from."""

    def __len__(self) -> int:
        return len(self.protocol)


def local_ends(records: npt.NDArray[Any], owner: npt.NDArray[np.intp]) -> LocalEnds:
    """Of `struct rt_end` records; copied."""
    halves = np.ascontiguousarray(records["address"]).view(">u8").astype(np.uint64)
    return LocalEnds(
        protocol=records["protocol"].copy(),
        hi=halves[:, 0],
        lo=halves[:, 1],
        port=records["port"].copy(),
        only_ipv6=records["only_ipv6"] != 0,
        owner=owner,
    )
