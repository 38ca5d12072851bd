"""RowColumns: what the EndpointTable knows of its rows, as columns.

Written row by row under the table's lock; `index` is a copy that anybody may keep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.columns import grown
from retina_otel.pipeline.identity.claims import Endpoint

_ROOM = 1024


@dataclass(frozen=True, slots=True)
class EndpointIndex:
    """Which rows the table had at one epoch. Never changes."""

    epoch: int
    present: npt.NDArray[np.bool_]
    """By row: its endpoint has not been removed."""
    changed: npt.NDArray[np.int64]
    """By row: the epoch since which its attributes are what they are."""
    local: npt.NDArray[np.int32]
    """The present rows that name an interface or a network namespace of this node, in order: a few
    hundred, however many pods there are."""


class RowColumns:
    """Row 0 is unknown, and always present."""

    def __init__(self) -> None:
        self.present = np.ones(1, np.bool_)
        self.changed = np.zeros(1, np.int64)
        self.kinds = np.zeros(1, np.int8)
        """`EndpointKind.value`."""
        self.since = np.zeros(1, np.int64)
        """When its namespaces were its own: not before it was possibly there."""
        self._local: set[int] = set()

    def add(self, row: int, epoch: int, endpoint: Endpoint, *, gone: bool) -> None:
        """The row is another endpoint's from now on."""
        if row >= len(self.present):
            capacity = row + max(row, _ROOM)
            self.present = grown(self.present, capacity)
            self.changed = grown(self.changed, capacity)
            self.kinds = grown(self.kinds, capacity)
            self.since = grown(self.since, capacity)
        self.change(row, epoch, endpoint)
        self.place(row, endpoint)
        self.present[row] = not gone

    def change(self, row: int, epoch: int, endpoint: Endpoint) -> None:
        """What the endpoint is has changed."""
        self.changed[row] = epoch
        self.kinds[row] = endpoint.kind.value

    def place(self, row: int, endpoint: Endpoint) -> None:
        """Where or since when the endpoint is may have changed."""
        self.since[row] = max(endpoint.valid.possible_from, endpoint.netns_since_ns)
        if endpoint.interfaces or endpoint.netns:
            self._local.add(row)
        else:
            self._local.discard(row)

    def leave(self, row: int) -> None:
        """The endpoint is gone."""
        self.present[row] = False
        self._local.discard(row)

    def index(self, epoch: int, n_rows: int) -> EndpointIndex:
        """The first rows as they are."""
        return EndpointIndex(
            epoch,
            self.present[:n_rows].copy(),
            self.changed[:n_rows].copy(),
            np.array(sorted(self._local), np.int32),
        )
