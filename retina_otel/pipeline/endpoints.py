"""EndpointTable: a row for each identity known at a time; batches carry row numbers.

Written by identity extensions (from their own threads) through `update()`, which swaps in a new
immutable index; read by the tick thread through `resolve_*`, which sees one index for a whole call.
Local ends are resolved by interface or network namespace, remote ends by address. Row 0 is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from retina_otel.model.batches import AttributeValue


class EndpointKind(Enum):
    UNKNOWN = 0
    POD = 1
    NODE = 2
    SERVICE = 3
    CIDR = 4
    WORLD = 5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One identity. `key` is what makes it the same one across updates (a pod's uid)."""

    kind: EndpointKind
    key: str
    attributes: Mapping[str, AttributeValue]
    """Unprefixed: `k8s.pod.name`, `k8s.namespace.name`, ... Two rows may have equal attributes."""
    addresses: Sequence[str] = ()
    """Addresses ("10.0.0.1", "fd00::1"), or networks ("10.0.0.0/8") for CIDR."""
    interfaces: Sequence[int] = field(default_factory=tuple)
    """ifindexes on the node behind which it lives."""
    netns: Sequence[int] = field(default_factory=tuple)
    """Inodes of its network namespaces."""


class EndpointTable:
    """See the module's docstring. (Skeleton of the interface; the pipeline work fills it in.)"""
