"""What is known of the node's network namespaces, sockets and translated connections, as protocols.

The kernel layer reads them; components get them through their context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class NetworkNamespace:
    """A network namespace of this node in which some process runs."""

    inode: int
    nsid: int
    """Its number as the node's namespace knows it (Interface.peer_netnsid), -1 if it has none or
    if that can't be told."""
    host: bool
    """It is the node's own."""
    workloads: frozenset[str]
    """Who runs in it: UIDs of pods, and ids of containers (64 hexadecimal digits), as the cgroups
    of its processes tell them. Empty: nothing that a container runtime started."""


class NamespaceRegistry(Protocol):
    """Network namespaces with processes in them. Tick thread."""

    def current(self) -> Mapping[int, NetworkNamespace]:
        """By inode, as the last `refresh()` found them."""

    def refresh(self) -> bool:
        """Reads them again; True if anything has changed."""

    @property
    def unavailable(self) -> str:
        """Why nothing can be said, with the remedy; empty if all is well."""


@dataclass(frozen=True, slots=True)
class Tuples:
    """n directed connections: addresses in halves, as RawEnds has them, ports in host order."""

    protocol: npt.NDArray[np.uint8]
    source_hi: npt.NDArray[np.uint64]
    source_lo: npt.NDArray[np.uint64]
    source_port: npt.NDArray[np.uint16]
    destination_hi: npt.NDArray[np.uint64]
    destination_lo: npt.NDArray[np.uint64]
    destination_port: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.protocol)

    def take(self, rows: npt.NDArray[np.intp]) -> Tuples:
        return Tuples(*(getattr(self, one.name)[rows] for one in fields(self)))


class Translations(Protocol):
    """What the node's NAT makes of connections."""

    def backends(
        self, tuples: Tuples
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint16]]:
        """(hi, lo, port) of what answers in place of each destination; (0, 0, 0) where it is not
        translated or not known. Remembers what it has found: asking again is cheap."""

    @property
    def unavailable(self) -> str: ...


class SocketOwners(Protocol):
    """Which workload owns the sockets of the node's own network namespace."""

    def owners(
        self,
        protocol: npt.NDArray[np.uint8],
        hi: npt.NDArray[np.uint64],
        lo: npt.NDArray[np.uint64],
        port: npt.NDArray[np.uint16],
    ) -> npt.NDArray[np.int32]:
        """For each local end the index of its owner in `workloads`, -1 where none or more than one
        may be meant. Raw sockets and ICMP have no owner."""

    @property
    def workloads(self) -> Sequence[frozenset[str]]:
        """By owner: its names as `NetworkNamespace.workloads` has them, any of which may be the
        one that is known. An index is what it is until `owners()` is called again."""

    @property
    def unavailable(self) -> str: ...
