"""The pods of this node, as their ends here are looked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalEnd:
    """Where a pod of this node lives."""

    netns: tuple[int, ...] = ()
    """Inodes of its network namespace."""
    interfaces: tuple[int, ...] = ()
    """ifindexes of the node behind which it lives."""
    since_ns: int = 0
    """Before, the numbers of its namespaces may have been another's."""


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod of this node that has not gone."""

    uid: str
    containers: tuple[str, ...] = ()
    """Their ids."""
    addresses: tuple[str, ...] = ()
    """Its own."""
    host_network: bool = False
